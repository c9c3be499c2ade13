//! Real packets against the netfilter enforcer: open connections die, published container ports are covered, allowed
//! addresses get through, and moving between rules and sets lets nothing slip.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails there")]

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use shield_agent::test_support::clock;
use shield_agent::test_support::enforce::iptables::{Backend, IptablesEnforcer, Settings};
use shield_agent::test_support::enforce::{Ban, Desired, Drops, Enforcer};
use shield_engine::allowlist::Allowlist;
use shield_engine::client::Client;
use shield_engine::event::PartState;
use shield_engine::time::Ends;
use shield_tests::netns::{End, Namespace, connect};
use shield_tests::wait;

const SERVER: &[&str] = &["192.0.2.1/24", "2001:db8:1::1/64"];
const CLIENT: &[&str] = &["192.0.2.50/24", "192.0.2.51/24", "2001:db8:1::50/64"];
/// Long enough that an answer over a veth pair (well under a millisecond) would have come.
const SILENCE: Duration = Duration::from_millis(700);
/// Bounds a failing test.
const AT_MOST: Duration = Duration::from_secs(10);

fn ban(text: &str) -> Ban {
    let client: Client = text.parse().unwrap();
    Ban { client: Allowlist::default().admit(client, 64).unwrap(), ends: Ends::after(clock::now(), 600_000) }
}

fn table(bans: &[Ban]) -> Desired {
    let mut desired = Desired::default();
    bans.iter().zip(1..).for_each(|(ban, serial)| desired.insert(*ban, serial));
    desired
}

fn pair(label: &str) -> (Namespace, Namespace) {
    let server = Namespace::create(&format!("{label}s")).unwrap();
    let client = Namespace::create(&format!("{label}c")).unwrap();
    connect(
        End { namespace: &server, interface: "eth0", addresses: SERVER },
        End { namespace: &client, interface: "eth0", addresses: CLIENT },
    )
    .unwrap();
    (server, client)
}

/// An enforcer whose programs run in this namespace.
struct Inside<'a> {
    namespace: &'a Namespace,
    enforcer: IptablesEnforcer,
}

impl<'a> Inside<'a> {
    fn start(namespace: &'a Namespace, settings: Settings, exempt: &[&str]) -> Inside<'a> {
        let exempt: Vec<_> = exempt.iter().map(|net| net.parse().unwrap()).collect();
        let mut inside = Inside { namespace, enforcer: IptablesEnforcer::new(settings) };
        inside.act(|enforcer| enforcer.start(&exempt, clock::now())).unwrap();
        inside
    }

    fn act<T: Send>(&mut self, act: impl FnOnce(&mut IptablesEnforcer) -> T + Send) -> T {
        let enforcer = &mut self.enforcer;
        self.namespace.enter(move || act(enforcer))
    }

    fn ban(&mut self, clients: &[&str]) {
        let bans: Vec<Ban> = clients.iter().map(|text| ban(text)).collect();
        let failures = self.act(|enforcer| enforcer.ensure_banned(&bans, clock::now()));
        assert!(failures.is_empty(), "{failures:?}");
    }

    fn drops(&mut self, client: &str) -> Drops {
        let client: Client = client.parse().unwrap();
        self.act(|enforcer| enforcer.drops(&[client])).unwrap()[0].expect("few enough to be counted")
    }

    fn cleanup(mut self) {
        self.act(|enforcer| enforcer.cleanup()).unwrap();
        let left = self.namespace.enter(shield_tests::residue::network_state).unwrap();
        assert!(!left.iter().any(|line| line.to_lowercase().contains("shield")), "{left:?}");
    }
}

/// Answers every byte on every connection with the same byte, in a thread of its own.
fn echo(namespace: &Namespace, at: &str) -> SocketAddr {
    let listener = namespace.enter(|| TcpListener::bind(at)).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            std::thread::spawn(move || {
                let mut byte = [0];
                while stream.read_exact(&mut byte).is_ok() && stream.write_all(&byte).is_ok() {}
            });
        }
    });
    address
}

fn dial(namespace: &Namespace, to: SocketAddr, at_most: Duration) -> std::io::Result<TcpStream> {
    namespace.enter(|| TcpStream::connect_timeout(&to, at_most))
}

/// Opens a connection, on however busy a machine and over however fresh a link.
fn reach(namespace: &Namespace, to: SocketAddr) -> TcpStream {
    dial(namespace, to, AT_MOST).expect("connected")
}

fn ask(stream: &mut TcpStream, at_most: Duration) -> std::io::Result<()> {
    stream.set_read_timeout(Some(at_most))?;
    stream.write_all(b"?")?;
    let mut byte = [0];
    stream.read_exact(&mut byte)
}

fn assert_answered(stream: &mut TcpStream) {
    ask(stream, AT_MOST).expect("answered");
}

fn assert_unreachable(namespace: &Namespace, to: SocketAddr, what: &str) {
    assert_silent(dial(namespace, to, SILENCE).map(drop), what);
}

fn assert_silent(result: std::io::Result<()>, what: &str) {
    let error = result.expect_err(what);
    assert!(matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{what}: {error}");
}

fn open_connections_die(label: &str, backend: Backend, flavour: &str) {
    let (server, client) = pair(label);
    // Most hosts have this rule; a chain behind it never sees packets of an open connection.
    let accept = ["-A", "INPUT", "-m", "conntrack", "--ctstate", "RELATED,ESTABLISHED", "-j", "ACCEPT"];
    for program in [format!("iptables{flavour}"), format!("ip6tables{flavour}")] {
        server.run(&[&[program.as_str()], &accept[..]].concat()).unwrap();
    }
    let settings = Settings {
        backend,
        program_v4: format!("iptables{flavour}"),
        program_v6: format!("ip6tables{flavour}"),
        ..Settings::default()
    };
    let mut inside = Inside::start(&server, settings, &[]);
    let v4 = echo(&server, "192.0.2.1:0");
    let v6 = echo(&server, "[2001:db8:1::1]:0");
    let mut streams = [reach(&client, v4), reach(&client, v6)];
    streams.iter_mut().for_each(assert_answered);
    // The link's own addresses are in the banned IPv6 prefix too, so neighbour discovery must have finished before.
    inside.ban(&["192.0.2.50", "2001:db8:1::50/128"]);
    for stream in &mut streams {
        assert_silent(ask(stream, SILENCE), "a connection opened before the ban");
    }
    assert_unreachable(&client, v4, "a new connection");
    assert!(inside.drops("192.0.2.50").packets > 0);
    assert!(inside.drops("2001:db8:1::50/128").packets > 0);
    let clients: Vec<Client> = ["192.0.2.50", "2001:db8:1::50/128"].map(|c| c.parse().unwrap()).to_vec();
    inside.act(|enforcer| enforcer.ensure_lifted(&clients));
    assert_answered(&mut reach(&client, v4));
    inside.cleanup();
}

#[test]
fn open_connections_die_by_single_rules() {
    open_connections_die("karul", Backend::Rules, "-nft");
}

#[test]
fn open_connections_die_by_legacy_rules() {
    open_connections_die("kaleg", Backend::Rules, "-legacy");
}

#[test]
fn open_connections_die_by_ipset() {
    open_connections_die("kaset", Backend::Ipset, "-nft");
}

#[test]
fn an_allowed_address_inside_a_banned_network_gets_through() {
    for (label, backend) in [("alrul", Backend::Rules), ("alset", Backend::Ipset)] {
        let (server, client) = pair(label);
        let mut inside =
            Inside::start(&server, Settings { backend, ..Settings::default() }, &["192.0.2.50/32"]);
        inside.ban(&["192.0.2.0/24"]);
        let v4 = echo(&server, "192.0.2.1:0");
        assert_answered(&mut reach(&client, v4));
        inside.act(|enforcer| enforcer.ensure_exempt(&[])).unwrap();
        assert_unreachable(&client, v4, "no longer allowed");
        inside.cleanup();
    }
}

/// A ban of a network that ends inside a wider one in force must not open the wider one.
#[test]
fn an_ended_network_does_not_open_a_wider_one() {
    for (label, backend) in [("nerul", Backend::Rules), ("neset", Backend::Ipset)] {
        let (server, client) = pair(label);
        let mut inside = Inside::start(&server, Settings { backend, ..Settings::default() }, &[]);
        inside.ban(&["192.0.2.0/24"]);
        let narrow = ban("192.0.2.48/28").client;
        let ends = Ends::after(clock::now(), 500);
        let failures = inside.act(|e| e.ensure_banned(&[Ban { client: narrow, ends }], clock::now()));
        assert!(failures.is_empty(), "{failures:?}");
        let v4 = echo(&server, "192.0.2.1:0");
        wait::until("the end of the narrow ban", AT_MOST, || Ok(ends.is_past(clock::now()).then_some(())))
            .unwrap();
        // A set's element stays a second longer than its ban; a rule until it is lifted. Both ways the wider one holds.
        assert_unreachable(&client, v4, "the narrow ban ended");
        assert!(inside.act(|e| e.ensure_lifted(&[narrow.client()])).is_empty());
        assert_unreachable(&client, v4, "the narrow ban was lifted");
        inside.cleanup();
    }
}

/// A client, a host that publishes a container's port, and the container.
struct Published {
    client: Namespace,
    host: Namespace,
    _container: Namespace,
    port: SocketAddr,
}

impl Published {
    fn new(label: &str, publish: impl FnOnce(&Namespace)) -> Published {
        let (host, client) = pair(label);
        let container = Namespace::create(&format!("{label}k")).unwrap();
        connect(
            End { namespace: &host, interface: "docker0", addresses: &["198.51.100.1/24"] },
            End { namespace: &container, interface: "eth0", addresses: &["198.51.100.2/24"] },
        )
        .unwrap();
        host.enable_forwarding().unwrap();
        container.set_default_route("198.51.100.1".parse().unwrap()).unwrap();
        echo(&container, "198.51.100.2:80");
        publish(&host);
        Published { client, host, _container: container, port: "192.0.2.1:8080".parse().unwrap() }
    }

    fn is_covered(&self, flavour: &str, hook: &str) {
        let settings = Settings {
            program_v4: format!("iptables{flavour}"),
            program_v6: format!("ip6tables{flavour}"),
            ..Settings::default()
        };
        let mut inside = Inside::start(&self.host, settings, &[]);
        let mut before = reach(&self.client, self.port);
        assert_answered(&mut before);
        inside.ban(&["192.0.2.50"]);
        assert_silent(ask(&mut before, SILENCE), "an open connection to a published port");
        assert_unreachable(&self.client, self.port, "a new connection to a published port");
        let PartState::Active { detail } = inside.enforcer.state() else {
            panic!("{:?}", inside.enforcer.state())
        };
        assert!(detail.contains(hook), "{detail}");
        inside.cleanup();
        assert_answered(&mut reach(&self.client, self.port));
    }
}

/// Publishes the port as Docker and Podman do with iptables.
fn by_iptables(flavour: &str) -> impl FnOnce(&Namespace) {
    let rule = format!(
        "iptables{flavour} --wait -t nat -A PREROUTING -p tcp --dport 8080 -j DNAT --to-destination 198.51.100.2:80"
    );
    move |host| drop(host.run(&rule.split(' ').collect::<Vec<_>>()).unwrap())
}

/// Publishes it as they do with nftables, in a table of their own.
fn by_nftables(family: &'static str) -> impl FnOnce(&Namespace) {
    let to = if family == "inet" { "dnat ip to" } else { "dnat to" };
    let rules = format!(
        "add table {family} engine; add chain {family} engine nat {{ type nat hook prerouting priority dstnat; }}; \
         add rule {family} engine nat tcp dport 8080 {to} 198.51.100.2:80"
    );
    move |host| drop(host.run(&["nft", &rules]).unwrap())
}

#[test]
fn published_container_ports_are_covered_in_forward() {
    for flavour in ["-nft", "-legacy"] {
        Published::new(&format!("pub{}", flavour.len()), by_iptables(flavour)).is_covered(flavour, FORWARD);
    }
}

/// History: only the nat table of the host's own iptables was looked at. A banned client reached the container, and the state was
/// active.
#[test]
fn ports_that_another_firewall_publishes_are_covered_too() {
    Published::new("pubol", by_iptables("-legacy")).is_covered("-nft", FORWARD);
    Published::new("pubon", by_iptables("-nft")).is_covered("-legacy", FORWARD);
    Published::new("pubni", by_nftables("inet")).is_covered("-nft", FORWARD);
    Published::new("pubnl", by_nftables("ip")).is_covered("-legacy", FORWARD);
}

const FORWARD: &str = "first in INPUT and FORWARD";

#[test]
fn published_container_ports_are_covered_in_docker_user() {
    let published = Published::new("pubdu", by_iptables("-nft"));
    published.host.run(&["iptables-nft", "-N", "DOCKER-USER"]).unwrap();
    published.host.run(&["iptables-nft", "-I", "FORWARD", "-j", "DOCKER-USER"]).unwrap();
    published.is_covered("-nft", "first in INPUT and DOCKER-USER");
}

/// Docker starts while the agent runs: the next reconcile covers its ports, and reports it.
#[test]
fn containers_that_come_later_are_covered_by_the_next_reconcile() {
    let published = Published::new("publa", by_iptables("-nft"));
    let bans = [ban("192.0.2.50")];
    published.host.run(&["iptables-nft", "-t", "nat", "-F"]).unwrap();
    let mut inside = Inside::start(&published.host, Settings::default(), &[]);
    inside.ban(&["192.0.2.50"]);
    published.host.run(&["iptables-nft", "-N", "DOCKER-USER"]).unwrap();
    published.host.run(&["iptables-nft", "-I", "FORWARD", "-j", "DOCKER-USER"]).unwrap();
    let repair = inside.act(|e| e.reconcile(&table(&bans), &[], clock::now())).unwrap().unwrap();
    assert!(repair.found.contains("IPv4: traffic to containers now passes DOCKER-USER"), "{}", repair.found);
    inside.cleanup();
}

/// Enough for every datagram that arrives while a busy machine does not run the reader: some 80,000 small ones.
const RECEIVE_BUFFER_BYTES: usize = 64 << 20;

fn receiver(namespace: &Namespace, at: &str) -> UdpSocket {
    let socket = namespace.enter(|| UdpSocket::bind(at)).unwrap();
    setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER_BYTES).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    socket
}

struct SetWhenDropped<'a>(&'a AtomicBool);

impl Drop for SetWhenDropped<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Sends datagrams until one arrives. A fresh link may lose the first ARP request, and the kernel repeats it only a second
/// later: until then nothing arrives.
fn warm_up(sender: &UdpSocket, receiver: &UdpSocket) {
    let to = receiver.local_addr().unwrap();
    wait::until("the first datagram over a fresh link", AT_MOST, || {
        sender.send_to(b"first", to)?;
        Ok(receiver.recv_from(&mut [0; 16]).ok())
    })
    .unwrap();
}

/// Datagrams from the banned and from another address of the same client, as fast as one thread sends both.
///
/// On a busy machine no innocent datagram arrived in it: the first ARP request was lost, and the moves were over before the
/// second one. So the link is warmed up first.
#[test]
fn moving_between_rules_and_sets_lets_nothing_slip() {
    let (server, client) = pair("gap");
    let settings = Settings { max_rules: 10, ..Settings::default() };
    let mut inside = Inside::start(&server, settings, &[]);
    let few = [ban("192.0.2.50")];
    let many: Vec<Ban> = few.into_iter().chain((0..50).map(|n| ban(&format!("10.0.0.{n}")))).collect();
    inside.ban(&["192.0.2.50"]);
    let target = receiver(&server, "192.0.2.1:0");
    let address = target.local_addr().unwrap();
    let [bad, good] = ["192.0.2.50:0", "192.0.2.51:0"].map(|a| client.enter(|| UdpSocket::bind(a)).unwrap());
    warm_up(&good, &target);
    let (is_over, all_sent) = (AtomicBool::new(false), AtomicBool::new(false));
    let (sent, arrived) = std::thread::scope(|scope| {
        // Ends both threads when an assertion below fails, too: the scope waits for them.
        let sending = SetWhenDropped(&is_over);
        let receiving = SetWhenDropped(&all_sent);
        let sender = scope.spawn(|| {
            let mut sent = 0;
            while !is_over.load(Ordering::Relaxed) {
                bad.send_to(b"bad", address).unwrap();
                good.send_to(b"good", address).unwrap();
                sent += 1;
                std::thread::sleep(Duration::from_micros(200));
            }
            sent
        });
        let receiver = scope.spawn(|| {
            let (mut arrived, mut bytes) = (0, [0; 16]);
            loop {
                let is_last = all_sent.load(Ordering::Relaxed);
                match target.recv_from(&mut bytes) {
                    Ok((length, from)) => {
                        let is_innocent = from.ip().to_string() == "192.0.2.51";
                        assert!(is_innocent, "a banned client's packet got through");
                        arrived += usize::from(&bytes[..length] == b"good");
                    }
                    Err(_) if is_last => return arrived,
                    Err(_) => {}
                }
            }
        });
        let mut details = Vec::new();
        for bans in [&many[..], &few[..]].repeat(10) {
            inside.act(|e| e.reconcile(&table(bans), &[], clock::now())).unwrap();
            assert!(inside.act(|e| e.is_intact(bans.len())).unwrap());
            details.push(inside.enforcer.state());
        }
        drop(sending);
        let sent = sender.join().unwrap();
        drop(receiving);
        assert!(format!("{:?}", details[0]).contains("51 clients in ipset"), "{:?}", details[0]);
        assert!(format!("{:?}", details[1]).contains("1 single rule, "), "{:?}", details[1]);
        (sent, receiver.join().unwrap())
    });
    assert!(sent > 500, "only {sent} datagrams were sent");
    assert!(arrived * 10 > sent * 9, "{arrived} of {sent} innocent datagrams arrived");
    let dropped = inside.act(|enforcer| enforcer.total_drops()).unwrap();
    // A packet between reading a counter and replacing its rule is dropped but not counted, and here all is replaced all
    // the time.
    assert!(dropped.packets as usize * 2 > sent, "{dropped:?} of {sent} counted");
    inside.cleanup();
}
