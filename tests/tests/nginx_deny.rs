//! nginx refuses the clients whose files the agent makes: a real nginx with Shield's included lines, behind a "proxy" that
//! claims any client's address.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails there")]

use std::fs::Permissions;
use std::net::Ipv6Addr;
use std::os::unix::fs::PermissionsExt as _;

use shield_agent::test_support::clock;
use shield_agent::test_support::enforce::nginx::{NginxEnforcer, Settings};
use shield_agent::test_support::enforce::{Ban, Enforcer};
use shield_engine::allowlist::Allowlist;
use shield_engine::client::Client;
use shield_engine::time::Ends;
use shield_tests::proxied::{Connection, OPEN, ProxiedNginx};

/// A refusal with an answer, so that the connection lives on.
const STATUS: u16 = 403;

/// nginx with the agent's folder of denied clients.
struct Site {
    nginx: ProxiedNginx,
    enforcer: NginxEnforcer,
    _folder: tempfile::TempDir,
}

impl Site {
    fn open() -> Site {
        let folder = tempfile::tempdir_in("/dev/shm").unwrap();
        // nginx's workers are another user.
        std::fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
        let settings = Settings { folder: folder.path().join("deny"), ..Settings::default() };
        let mut enforcer = NginxEnforcer::new(settings.clone());
        enforcer.start(&[], clock::now()).unwrap();
        let nginx = ProxiedNginx::start(folder.path(), &settings.folder, STATUS).unwrap();
        Site { nginx, enforcer, _folder: folder }
    }

    fn ban(&mut self, text: &str) {
        let client: Client = text.parse().unwrap();
        let client = Allowlist::default().admit(client, 64).unwrap();
        let failures = self.enforcer.ensure_banned(&[Ban { client, ends: Ends::Never }], clock::now());
        assert!(failures.is_empty(), "{failures:?}");
    }

    fn lift(&mut self, text: &str) {
        let failures = self.enforcer.ensure_lifted(&[text.parse().unwrap()]);
        assert!(failures.is_empty(), "{failures:?}");
    }
}

fn status(connection: &mut Connection, client: &str) -> u16 {
    connection.get(client, "/").unwrap().0
}

#[test]
fn a_client_is_refused_from_its_ban_to_its_lift_on_connections_opened_before() {
    let mut site = Site::open();
    let mut connection = site.nginx.connect().unwrap();
    let mut check = |site: &mut Site, refused: &[&str], served: &[&str]| {
        for client in refused {
            assert_eq!(status(&mut connection, client), STATUS, "{client}");
            assert_eq!(status(&mut site.nginx.connect().unwrap(), client), STATUS, "{client}");
        }
        for client in served {
            assert_eq!(status(&mut connection, client), 200, "{client}");
        }
    };
    check(&mut site, &[], &["192.0.2.1", "2001:db8::1"]);
    site.ban("192.0.2.1");
    site.ban("2001:db8::/64");
    let outside = ["192.0.2.2", "192.0.2.10", "2001:db8:0:1::1", "2001:db8:1::"];
    check(&mut site, &["192.0.2.1", "::ffff:192.0.2.1", "2001:db8::1", "2001:db8:0:0:ffff::"], &outside);
    site.lift("192.0.2.1");
    site.lift("2001:db8::/64");
    check(&mut site, &[], &["192.0.2.1", "2001:db8::1"]);
    for network in
        ["198.51.100.0/24", "203.0.113.64/27", "10.8.0.0/20", "2001:db8:5::/48", "2001:db8:6::9/128"]
    {
        site.ban(network);
    }
    let inside = ["198.51.100.255", "203.0.113.95", "10.8.15.1", "2001:db8:5:ffff::1", "2001:db8:6::9"];
    check(
        &mut site,
        &inside,
        &["198.51.101.0", "203.0.113.96", "10.8.16.1", "2001:db8:6::1", "2001:db8:6::8"],
    );
    // A client inside a banned network has a ban of its own: the longer one of the two holds.
    site.ban("203.0.113.70");
    site.lift("203.0.113.64/27");
    check(&mut site, &["203.0.113.70"], &["203.0.113.71"]);
    site.enforcer
        .ensure_exempt(&["198.51.100.7/32".parse().unwrap(), "2001:db8:5:1::/64".parse().unwrap()])
        .unwrap();
    check(&mut site, &["198.51.100.8", "2001:db8:5:2::1"], &["198.51.100.7", "2001:db8:5:1::1"]);
    site.enforcer.ensure_exempt(&[]).unwrap();
    check(&mut site, &["198.51.100.7", "2001:db8:5:1::1"], &[]);
    site.enforcer.cleanup().unwrap();
    check(&mut site, &[], &["198.51.100.8", "203.0.113.70", "2001:db8:5::1"]);
}

/// Browsers and CDNs keep one HTTP/2 connection open for hours; a ban is for the next request on it.
#[test]
fn a_client_is_refused_on_an_http2_connection_opened_before_its_ban() {
    let mut site = Site::open();
    let mut connection = site.nginx.connect_http2().unwrap();
    let mut check =
        |client: &str, expected: u16| assert_eq!(connection.get(client).unwrap(), expected, "{client}");
    check("192.0.2.1", 200);
    check("2001:db8::1", 200);
    site.ban("192.0.2.1");
    site.ban("2001:db8::/64");
    for _ in 0..3 {
        check("192.0.2.1", STATUS);
        check("2001:db8::1", STATUS);
        check("192.0.2.2", 200);
        check("2001:db8:0:1::1", 200);
    }
    site.lift("192.0.2.1");
    check("192.0.2.1", 200);
    check("2001:db8::1", STATUS);
}

#[test]
fn a_header_reaches_no_file_outside_the_folder() {
    let mut site = Site::open();
    site.ban("192.0.2.1");
    let mut connection = site.nginx.connect().unwrap();
    for header in
        ["../deny/192.0.2.1", "/etc/passwd", "192.0.2.1/../192.0.2.1", "$remote_addr", ".denied", "exempt"]
    {
        assert_eq!(status(&mut connection, header), 200, "{header}");
    }
}

/// The renewal of certificates is open to everybody, and nothing that only looks as if it were below it.
#[test]
fn an_open_path_is_open_to_the_banned_and_nothing_else() {
    let mut site = Site::open();
    site.ban("192.0.2.1");
    let mut connection = site.nginx.connect().unwrap();
    // There is no such file: nginx itself says so.
    for path in [
        OPEN,
        &format!("{OPEN}token"),
        "/x/../.well-known/acme-challenge/a",
        "/%2ewell-known/acme-challenge/a",
    ] {
        assert_eq!(connection.get("192.0.2.1", path).unwrap().0, 404, "{path}");
    }
    for path in [
        "/",
        "/x",
        "/.well-known/",
        "/xwell-known/acme-challenge/a",
        "/.well-known/acme-challenge/../../x",
        "/.well-known/acme-challenge/%2e%2e/x",
        "/.well-known/acme-challenge/..%2fx",
        "/x?/.well-known/acme-challenge/",
        "/x#/.well-known/acme-challenge/",
    ] {
        assert_eq!(connection.get("192.0.2.1", path).unwrap().0, STATUS, "{path}");
    }
}

/// nginx's names of every way to compress an address are those that the obvious code makes.
#[test]
fn nginx_makes_the_same_names_of_every_compressed_address() {
    let site = Site::open();
    let mut connection = site.nginx.connect().unwrap();
    for pattern in 0..256u16 {
        for (one, another) in [(1, 0xfff), (0xa0, 0xffff)] {
            let group = |at: u16| match pattern >> at & 1 {
                0 => 0,
                _ if at.is_multiple_of(2) => one,
                _ => another,
            };
            let segments: [u16; 8] = std::array::from_fn(|at| group(u16::try_from(at).unwrap()));
            let address = Ipv6Addr::from(segments);
            let (status, names) = connection.get(&address.to_string(), "/names").unwrap();
            let [is, shown, client, network] = names.split('|').collect::<Vec<_>>()[..] else {
                panic!("{names}")
            };
            if let Some(v4) = address.to_ipv4_mapped() {
                let [a, b, c, _] = v4.octets();
                assert_eq!(
                    [shown, client, network],
                    [&v4.to_string(), &v4.to_string(), &format!("{a}.{b}.{c}.0-24")],
                    "{is}"
                );
                continue;
            }
            assert_eq!((status, is), (200, shown));
            // As nginx writes them, with an IPv4 address at the end, such clients have only the name of the network.
            assert!(is == address.to_string() || is.contains('.'), "{is} is not {address}");
            let hex = segments.map(|group| format!("{group:x}"));
            assert_eq!(client, format!("{}-64", hex[..4].join(":")), "{address}");
            assert_eq!(network, format!("{}-48", hex[..3].join(":")), "{address}");
        }
    }
}
