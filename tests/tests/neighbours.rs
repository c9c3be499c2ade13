//! Hosters put many customers' servers into one IPv6 /64. A neighbour in the server's own /64 that attacks is dropped by its
//! address alone, in XDP and in ip6tables; its other neighbours and the router stay.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails there")]

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::Result;
use shield_engine::event::EnforcerName;
use shield_tests::http::{Get, is_timeout};
use shield_tests::site::Site;
use shield_tests::wait;

const SERVER: &str = "2001:db8:80::80";
const ROUTER: &str = "2001:db8:80::1";
const ATTACKER: &str = "2001:db8:80::66";
const NEIGHBOUR: &str = "2001:db8:80::67";

fn request(site: &Site, from: &str, path: &str) -> Result<Option<u16>> {
    let server = SocketAddr::new(SERVER.parse()?, 80);
    let from: IpAddr = from.parse()?;
    let get = Get { server, from: Some(from), path, timeout: Duration::from_millis(400) };
    match site.street.enter(|| get.send()) {
        Ok(response) => Ok(Some(response.status)),
        Err(error) if is_timeout(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The site, whose server and whose street share a /64.
fn site_with_neighbours(more: &str) -> Site {
    let site = Site::create(more).unwrap();
    site.server.add_address("eth0", &format!("{SERVER}/64")).unwrap();
    for resident in [ROUTER, ATTACKER, NEIGHBOUR] {
        site.street.add_address("eth0", &format!("{resident}/64")).unwrap();
    }
    site.server.set_default_route(ROUTER.parse().unwrap()).unwrap();
    // They are one machine, which asks for the server's hardware address once: from the attacker it would get no answer later.
    for resident in [ROUTER, ATTACKER, NEIGHBOUR] {
        assert_eq!(request(&site, resident, "/").unwrap(), Some(200), "{resident}");
    }
    site
}

#[test]
fn an_attacking_neighbour_is_dropped_and_the_others_stay() {
    let site = site_with_neighbours("");
    let _agent = site.start_agent(&[]).unwrap();
    let probes = ["/.env", "/.git/config", "/.aws/credentials", "/phpinfo.php", "/wp-config.php.bak"];
    for probe in probes.iter().cycle().take(15) {
        if request(&site, ATTACKER, probe).unwrap().is_none() {
            break;
        }
        wait::sleep(Duration::from_millis(300)).unwrap();
    }
    let ban = wait::until("the ban in both places", Duration::from_secs(5), || {
        let is_held = |by: &[EnforcerName]| EnforcerName::KERNEL.iter().all(|name| by.contains(name));
        Ok(site.bans()?.into_iter().find(|ban| ban.enforced_by.as_deref().is_some_and(is_held)))
    })
    .unwrap();
    assert_eq!(ban.client.to_string(), format!("{ATTACKER}/128"), "the address, not the network");
    assert_eq!(site.bans().unwrap().len(), 1);
    let rules = site.server.run(&["ip6tables", "-S", "SHIELD"]).unwrap();
    assert!(rules.contains(&format!("-s {ATTACKER}/128 -j DROP")), "{rules}");
    assert_eq!(request(&site, ATTACKER, "/").unwrap(), None);
    for resident in [ROUTER, NEIGHBOUR] {
        assert_eq!(request(&site, resident, "/").unwrap(), Some(200), "{resident}");
    }
}

#[test]
fn an_operator_bans_a_neighbour_and_never_the_router_or_the_whole_network() {
    let site = site_with_neighbours("");
    let _agent = site.start_agent(&[]).unwrap();
    site.home.command(&site.server, &["ban", ATTACKER, "--for", "1h"]).unwrap();
    wait::until("the ban", Duration::from_secs(5), || {
        Ok(request(&site, ATTACKER, "/")?.is_none().then_some(()))
    })
    .unwrap();
    let bans: Vec<String> = site.bans().unwrap().iter().map(|ban| ban.client.to_string()).collect();
    assert_eq!(bans, [format!("{ATTACKER}/128")]);
    assert_eq!(request(&site, NEIGHBOUR, "/").unwrap(), Some(200));
    for refused in [ROUTER, SERVER, "2001:db8:80::/64"] {
        site.home.command(&site.server, &["ban", refused, "--for", "1h"]).unwrap_err();
    }
    assert_eq!(site.bans().unwrap().len(), 1);
}
