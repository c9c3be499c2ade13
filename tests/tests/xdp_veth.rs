//! The XDP enforcer on a veth pair between two namespaces: real packets, dropped and passing again; restarts, programs of
//! others, and recovery after another program has removed ours.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails there")]

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Result, ensure};
use aya::maps::{Array, Map, MapData};
use shield_agent::test_support::clock;
use shield_agent::test_support::enforce::xdp::{Mode, Selection, Settings, XdpEnforcer};
use shield_agent::test_support::enforce::{Ban, Desired, Enforcer as _};
use shield_common::{ABI_VERSION, Control, map_name};
use shield_engine::allowlist::Allowlist;
use shield_engine::client::Client;
use shield_engine::event::PartState;
use shield_engine::time::Ends;
use shield_tests::bpffs::Bpffs;
use shield_tests::netns::{End, Namespace, connect};
use shield_tests::{command, wait};

/// The client's addresses; the server has .1 and ::1.
const CLIENT_V4: &str = "192.0.2.2";
const CLIENT_V6: &str = "2001:db8:1:2::/64";

/// Nothing listens here.
const CLOSED_PORT: u16 = 9;
/// On a veth pair an answer takes less than a millisecond; a busy machine gets this long.
const ANSWER: Duration = Duration::from_millis(700);

/// A client and a server, and an enforcer's settings for the server's interface.
struct World {
    server: Namespace,
    client: Namespace,
    settings: Settings,
    bpffs: Bpffs,
}

impl World {
    fn new(mode: Mode) -> World {
        let (server, client) = (Namespace::create("xdpsrv").unwrap(), Namespace::create("xdpcli").unwrap());
        connect(
            End { namespace: &server, interface: "eth0", addresses: &["192.0.2.1/24", "2001:db8:1:2::1/64"] },
            End { namespace: &client, interface: "eth0", addresses: &["192.0.2.2/24", "2001:db8:1:2::2/64"] },
        )
        .unwrap();
        let bpffs = Bpffs::mount().unwrap();
        let settings = Settings {
            interfaces: Selection::Named(vec!["eth0".to_owned()]),
            mode,
            pin_folder: bpffs.path().join("shield"),
            ..Settings::default()
        };
        World { server, client, settings, bpffs }
    }

    /// A new agent.
    fn start(&self) -> XdpEnforcer {
        self.try_start(self.settings.clone()).unwrap()
    }

    fn try_start(&self, settings: Settings) -> Result<XdpEnforcer> {
        let mut enforcer = XdpEnforcer::new(settings);
        self.server.enter(|| enforcer.start(&[], clock::now()))?;
        Ok(enforcer)
    }

    fn reconcile(&self, enforcer: &mut XdpEnforcer, bans: &[Ban]) -> Option<String> {
        let mut desired = Desired::default();
        bans.iter().zip(1..).for_each(|(ban, serial)| desired.insert(*ban, serial));
        let repair = self.server.enter(|| enforcer.reconcile(&desired, &[], clock::now())).unwrap();
        repair.map(|repair| repair.found)
    }

    fn cleanup(&self, mut enforcer: XdpEnforcer) {
        self.server.enter(|| enforcer.cleanup()).unwrap();
        assert!(!self.settings.pin_folder.exists(), "cleanup left {}", self.settings.pin_folder.display());
        self.assert_reaches("192.0.2.1");
        let links = self.server.run(&["ip", "-d", "link", "show", "dev", "eth0"]).unwrap();
        assert!(!links.contains("prog/xdp"), "{links}");
    }

    /// Returns whether the server answers a TCP handshake. The answer is a refusal, because nothing listens there.
    fn reaches(&self, address: &str) -> bool {
        let server = SocketAddr::new(address.parse().unwrap(), CLOSED_PORT);
        let answer = self.client.enter(|| TcpStream::connect_timeout(&server, ANSWER));
        answer.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
    }

    fn assert_reaches(&self, address: &str) {
        assert!(self.reaches(address), "{address} should answer");
    }

    fn assert_blocked(&self, address: &str) {
        assert!(!self.reaches(address), "{address} should not answer");
    }
}

fn ban(text: &str, ends: Ends) -> Ban {
    let client: Client = text.parse().unwrap();
    Ban { client: Allowlist::default().admit(client, 64).unwrap(), ends }
}

fn ban_now(enforcer: &mut XdpEnforcer, bans: &[Ban]) {
    let failures = enforcer.ensure_banned(bans, clock::now());
    assert!(failures.is_empty(), "{failures:?}");
}

fn detail(enforcer: &XdpEnforcer) -> String {
    match enforcer.state() {
        PartState::Active { detail } => detail,
        other => panic!("{other:?}"),
    }
}

fn drops_and_lifts(mode: Mode, expected_state: &str) {
    let world = World::new(mode);
    let mut enforcer = world.start();
    assert!(detail(&enforcer).starts_with(expected_state), "{}", detail(&enforcer));
    world.assert_reaches("192.0.2.1");
    world.assert_reaches("2001:db8:1:2::1");

    ban_now(&mut enforcer, &[ban(CLIENT_V4, Ends::Never)]);
    world.assert_blocked("192.0.2.1");
    world.assert_reaches("2001:db8:1:2::1");
    ban_now(&mut enforcer, &[ban(CLIENT_V6, Ends::after(clock::now(), 600_000))]);
    world.assert_blocked("2001:db8:1:2::1");

    let clients: Vec<Client> = [CLIENT_V4, CLIENT_V6].map(|text| text.parse().unwrap()).into();
    let drops = enforcer.drops(&clients).unwrap();
    assert!(drops.iter().all(|drops| drops.is_some_and(|d| d.packets > 0 && d.bytes >= 64)), "{drops:?}");
    let totals = enforcer.totals().unwrap();
    assert_eq!(totals[0].interface, "eth0");
    assert!(totals[0].totals.dropped_v4 > 0 && totals[0].totals.dropped_v6 > 0, "{totals:?}");

    assert!(enforcer.ensure_lifted(&clients).is_empty());
    world.assert_reaches("192.0.2.1");
    world.assert_reaches("2001:db8:1:2::1");
    world.cleanup(enforcer);
}

#[test]
fn real_packets_are_dropped_and_pass_again_in_native_mode() {
    drops_and_lifts(Mode::Native, "native on eth0");
}

#[test]
fn real_packets_are_dropped_and_pass_again_in_generic_mode() {
    drops_and_lifts(Mode::Generic, "generic (as configured) on eth0");
}

#[test]
fn with_the_agent_gone_the_ban_holds_until_its_own_end() {
    let world = World::new(Mode::Auto);
    let mut enforcer = world.start();
    let end = Ends::after(clock::now(), 4_000);
    ban_now(&mut enforcer, &[ban(CLIENT_V4, end)]);
    // A killed agent leaves its pins: dropping the enforcer detaches and lifts nothing.
    drop(enforcer);
    world.assert_blocked("192.0.2.1");
    // The wait is the ban's own term.
    wait::until("the ban's end in the kernel", Duration::from_secs(20), || {
        Ok(world.reaches("192.0.2.1").then_some(()))
    })
    .unwrap();
    assert!(end.is_past(clock::now()), "the ban ended early");
    world.cleanup(world.start());
}

#[test]
fn a_restart_takes_over_without_a_gap() {
    let world = World::new(Mode::Auto);
    let mut first = world.start();
    let bans = [ban(CLIENT_V4, Ends::after(clock::now(), 600_000)), ban("198.51.100.0/24", Ends::Never)];
    ban_now(&mut first, &bans);
    world.assert_blocked("192.0.2.1");
    let before = first.drops(&[bans[0].client.client()]).unwrap()[0].unwrap();
    let program = attached_program(&world.server);
    drop(first);

    // A stream of datagrams: any gap would let one of them through.
    let received = world.server.enter(|| UdpSocket::bind("192.0.2.1:9")).unwrap();
    received.set_nonblocking(true).unwrap();
    let sending = world.client.enter(|| UdpSocket::bind("192.0.2.2:0")).unwrap();
    let is_over = AtomicBool::new(false);
    let (sent, mut second, third) = std::thread::scope(|scope| {
        let sender = scope.spawn(|| send_until(&sending, &is_over));
        let (second, third) = (world.start(), world.start());
        is_over.store(true, Ordering::Relaxed);
        (sender.join().unwrap(), second, third)
    });
    assert!(sent > 50, "only {sent} datagrams were sent during two restarts");
    assert!(received.recv(&mut [0; 8]).is_err(), "a datagram got through a restart");
    drop(third);

    assert_ne!(attached_program(&world.server), program, "the program was not replaced");
    let mut held: Vec<String> =
        second.observe(clock::now()).unwrap().iter().map(|(client, _)| client.to_string()).collect();
    held.sort_unstable();
    assert_eq!(held, [CLIENT_V4, "198.51.100.0/24"]);
    let after = second.drops(&[bans[0].client.client()]).unwrap()[0].unwrap();
    assert!(after.packets > before.packets, "counters were lost: {before:?} to {after:?}");
    world.cleanup(second);
}

#[test]
fn maps_of_another_size_or_prefix_are_replaced_and_their_bans_carried_over() {
    let world = World::new(Mode::Auto);
    let mut first = world.start();
    let bans =
        [ban(CLIENT_V4, Ends::Never), ban(CLIENT_V6, Ends::Never), ban("198.51.100.0/24", Ends::Never)];
    ban_now(&mut first, &bans);
    drop(first);
    let smaller = Settings { max_bans_v4: 1_000, ..world.settings.clone() };
    let second = world.try_start(smaller.clone()).unwrap();
    world.assert_blocked("192.0.2.1");
    world.assert_blocked("2001:db8:1:2::1");
    drop(second);
    // A client's prefix becomes shorter: the old /64 stays banned, as a network.
    let mut third = world.try_start(Settings { ipv6_prefix: 56, ..smaller }).unwrap();
    world.assert_blocked("192.0.2.1");
    world.assert_blocked("2001:db8:1:2::1");
    assert_eq!(third.observe(clock::now()).unwrap().len(), 3);
    assert!(!world.settings.pin_folder.join("maps_new").exists());
    world.cleanup(third);
}

/// Version 2 had no maps of slowed clients, and its bans the same layout. An upgrade lifts none and moves no end.
#[test]
fn bans_of_the_version_before_the_slow_lane_are_carried_over_with_their_ends() {
    let world = World::new(Mode::Auto);
    let mut first = world.start();
    let hour = Ends::after(clock::now(), 3_600_000);
    let bans = [
        ban(CLIENT_V4, Ends::Never),
        ban(CLIENT_V6, hour),
        ban("198.51.100.0/24", hour),
        ban("2001:db8:9::/48", Ends::Never),
    ];
    ban_now(&mut first, &bans);
    drop(first);
    let maps = world.settings.pin_folder.join("maps");
    set_version(&maps, 2);
    for name in [map_name::SLOW_V4, map_name::SLOW_V6, map_name::SLOW_NETWORKS_V6] {
        std::fs::remove_file(maps.join(name)).unwrap();
    }
    world.assert_blocked("192.0.2.1");

    let mut second = world.start();
    world.assert_blocked("192.0.2.1");
    world.assert_blocked("2001:db8:1:2::1");
    let now = clock::now();
    let held = second.observe(now).unwrap();
    assert_eq!(held.len(), bans.len(), "{held:?}");
    for Ban { client, ends } in bans {
        let (_, found) = held.iter().find(|(held, _)| *held == client.client()).unwrap();
        match (ends.remaining_ms(now), found.unwrap().remaining_ms(now)) {
            (None, None) => {}
            (Some(left), Some(found)) => {
                assert!(left.abs_diff(found) < 2_000, "{client:?}: {found} of {left}");
            }
            (left, found) => panic!("{client:?}: {found:?} and not {left:?}"),
        }
    }
    let version = control(&maps).get(&0, 0).unwrap().abi_version;
    assert_eq!(version, ABI_VERSION);
    assert!(maps.join(map_name::SLOW_V4).exists() && maps.join(map_name::SLOW_V6).exists());
    assert!(!world.settings.pin_folder.join("maps_new").exists());
    world.cleanup(second);
}

/// The map of slowed networks came without a new version. An upgrade makes it, and goes on with the bans of the others.
#[test]
fn a_map_that_an_earlier_agent_had_not_is_made() {
    let world = World::new(Mode::Auto);
    let mut first = world.start();
    ban_now(&mut first, &[ban(CLIENT_V4, Ends::Never)]);
    drop(first);
    let map = world.settings.pin_folder.join("maps").join(map_name::SLOW_NETWORKS_V6);
    std::fs::remove_file(&map).unwrap();
    let mut second = world.start();
    world.assert_blocked("192.0.2.1");
    assert_eq!(second.observe(clock::now()).unwrap().len(), 1);
    assert!(map.exists());
    world.cleanup(second);
}

fn control(maps: &Path) -> Array<MapData, Control> {
    let map = MapData::from_pin(maps.join(map_name::CONTROL)).unwrap();
    Map::Array(map).try_into().unwrap()
}

fn set_version(maps: &Path, version: u32) {
    let mut control = control(maps);
    let before = control.get(&0, 0).unwrap();
    control.set(0, Control { abi_version: version, ..before }, 0).unwrap();
}

#[test]
fn a_full_map_is_an_error_for_the_ban_and_a_state() {
    let world = World::new(Mode::Auto);
    let small = Settings { max_bans_v4: 2, max_networks: 1, ..world.settings.clone() };
    let mut enforcer = world.try_start(small).unwrap();
    let bans = ["192.0.2.10", "192.0.2.11", "192.0.2.12", "198.51.100.0/25", "198.51.100.128/25"]
        .map(|text| ban(text, Ends::Never));
    let failures = enforcer.ensure_banned(&bans, clock::now());
    let failed: Vec<String> = failures.iter().map(|failure| failure.client.to_string()).collect();
    assert_eq!(failed, ["192.0.2.12", "198.51.100.128/25"]);
    assert!(failures.iter().all(|f| f.error.to_string().contains("is full")), "{failures:?}");
    let PartState::Degraded { reason } = enforcer.state() else { panic!("{:?}", enforcer.state()) };
    assert!(reason.contains("BANS_V4 is full (2 entries)"), "{reason}");
    assert_eq!(enforcer.observe(clock::now()).unwrap().len(), 3);
    world.cleanup(enforcer);
}

#[test]
fn another_program_is_never_replaced_and_traffic_control_takes_over() {
    let world = World::new(Mode::Auto);
    let foreign = foreign_xdp(&world);
    let theirs = attached_program(&world.server);

    let required = Settings { mode: Mode::Native, ..world.settings.clone() };
    let error = format!("{:#}", world.try_start(required).err().unwrap());
    assert!(error.contains("another XDP program (id ") && error.contains("holds eth0"), "{error}");
    assert!(!world.settings.pin_folder.exists(), "the refused start left pins");

    let mut enforcer = world.start();
    let detail = detail(&enforcer);
    assert!(detail.starts_with("TC ingress (another XDP program"), "{detail}");
    assert_eq!(attached_program(&world.server), theirs, "the other program was replaced");
    ban_now(&mut enforcer, &[ban(CLIENT_V4, Ends::Never), ban(CLIENT_V6, Ends::Never)]);
    world.assert_blocked("192.0.2.1");
    world.assert_blocked("2001:db8:1:2::1");
    drop(enforcer);
    // The restart finds its link again; meanwhile it went on dropping.
    world.assert_blocked("192.0.2.1");
    let mut enforcer = world.start();
    world.assert_blocked("192.0.2.1");
    world.server.enter(|| enforcer.cleanup()).unwrap();
    world.assert_reaches("192.0.2.1");
    assert_eq!(attached_program(&world.server), theirs, "cleaning up touched the other program");
    drop(foreign);
}

#[test]
fn what_somebody_takes_away_comes_back() {
    let world = World::new(Mode::Auto);
    let mut enforcer = world.start();
    let bans = [ban(CLIENT_V4, Ends::Never), ban("198.51.100.0/24", Ends::Never)];
    ban_now(&mut enforcer, &bans);
    assert_eq!(world.reconcile(&mut enforcer, &bans), None);
    let heals = |enforcer: &mut XdpEnforcer, what: &str, found: &str| {
        let intact = world.server.enter(|| enforcer.is_intact(bans.len())).unwrap();
        assert!(!intact, "{what} went unnoticed");
        let repair = world.reconcile(enforcer, &bans).unwrap_or_default();
        assert!(repair.contains(found), "{what}: {repair:?}");
        assert!(world.server.enter(|| enforcer.is_intact(bans.len())).unwrap(), "{what} did not heal");
        assert_eq!(world.reconcile(enforcer, &bans), None, "{what}: a second repair");
        world.assert_blocked("192.0.2.1");
    };

    // The kernel itself refuses `xdp off` for a link; taking the interface away ends the link all the same.
    let off = world.server.output(&["ip", "link", "set", "dev", "eth0", "xdp", "off"]).unwrap();
    assert!(!off.status.success(), "`ip link set xdp off` detached a link");
    std::fs::remove_dir_all(&world.settings.pin_folder).unwrap();
    heals(&mut enforcer, "removing the pins", "not pinned any more");
    // Long unchanged, so that a look at the folder is enough while nothing changes.
    let maps = world.settings.pin_folder.join("maps");
    let long_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(3600);
    std::fs::File::open(&maps).unwrap().set_modified(long_ago).unwrap();
    assert!(world.server.enter(|| enforcer.is_intact(bans.len())).unwrap());
    std::fs::remove_file(maps.join("BANS_V6")).unwrap();
    heals(&mut enforcer, "removing one pin", "not pinned any more");
    enforcer_of_somebody_else(&world).ensure_lifted(&[bans[0].client.client()]);
    heals(&mut enforcer, "taking a ban out", "differed from the ledger's");
    detach_by_force(&world);
    heals(&mut enforcer, "the link was detached", "not attached to eth0 any more");
    recreate_link(&world);
    heals(&mut enforcer, "a new interface of the same name", "not attached to eth0 any more");
    world.cleanup(enforcer);
}

#[test]
fn an_interface_that_is_not_there_yet_is_waited_for() {
    let world = World::new(Mode::Auto);
    let later = Settings {
        interfaces: Selection::Named(vec!["eth0".to_owned(), "late0".to_owned()]),
        ..world.settings.clone()
    };
    let mut enforcer = world.try_start(later).unwrap();
    let PartState::Degraded { reason } = enforcer.state() else { panic!("{:?}", enforcer.state()) };
    assert!(reason.contains("late0: there is no interface of this name"), "{reason}");
    assert!(world.server.enter(|| enforcer.is_intact(0)).unwrap());
    let end = |namespace, interface| End { namespace, interface, addresses: &[] };
    connect(end(&world.server, "late0"), end(&world.client, "late1")).unwrap();
    assert!(!world.server.enter(|| enforcer.is_intact(0)).unwrap(), "the new interface went unnoticed");
    world.reconcile(&mut enforcer, &[]);
    assert_eq!(detail(&enforcer), "native on eth0; native on late0");
    world.cleanup(enforcer);
}

#[test]
fn the_default_routes_interface_is_found() {
    let world = World::new(Mode::Auto);
    world.server.set_default_route("192.0.2.2".parse().unwrap()).unwrap();
    let settings = Settings { interfaces: Selection::DefaultRoute, ..world.settings.clone() };
    let enforcer = world.try_start(settings).unwrap();
    assert_eq!(detail(&enforcer), "native on eth0");
    world.cleanup(enforcer);
}

#[test]
fn a_jumbo_mtu_is_no_obstacle() {
    let world = World::new(Mode::Auto);
    for namespace in [&world.server, &world.client] {
        namespace.run(&["ip", "link", "set", "dev", "eth0", "mtu", "9000"]).unwrap();
    }
    let mut enforcer = world.start();
    world.assert_reaches("192.0.2.1");
    ban_now(&mut enforcer, &[ban(CLIENT_V4, Ends::Never)]);
    world.assert_blocked("192.0.2.1");
    world.cleanup(enforcer);
}

/// Sends datagrams until `is_over` is set, and returns their number.
fn send_until(socket: &UdpSocket, is_over: &AtomicBool) -> u32 {
    let mut sent = 0;
    while !is_over.load(Ordering::Relaxed) {
        sent += u32::from(socket.send_to(b"gap?", "192.0.2.1:9").is_ok());
        // A thousand a second are dense enough for any gap that a restart could make.
        std::thread::sleep(Duration::from_millis(1));
    }
    sent
}

/// Another enforcer with the same pins, which stands for an administrator with bpftool.
fn enforcer_of_somebody_else(world: &World) -> XdpEnforcer {
    world.start()
}

/// Detaches the link, as `bpftool link detach` does, by an enforcer that is configured for another mode.
fn detach_by_force(world: &World) {
    let generic = Settings { mode: Mode::Generic, ..world.settings.clone() };
    let mut other = world.try_start(generic).unwrap();
    world.server.enter(|| other.cleanup()).unwrap();
    world.assert_reaches("192.0.2.1");
}

/// Deletes the veth pair and creates it again: same names, new interfaces.
fn recreate_link(world: &World) {
    world.server.run(&["ip", "link", "del", "eth0"]).unwrap();
    connect(
        End { namespace: &world.server, interface: "eth0", addresses: &["192.0.2.1/24"] },
        End { namespace: &world.client, interface: "eth0", addresses: &["192.0.2.2/24"] },
    )
    .unwrap();
}

/// The id of the XDP program on the server's interface.
fn attached_program(server: &Namespace) -> u32 {
    let text = server.run(&["ip", "-d", "link", "show", "dev", "eth0"]).unwrap();
    let (_, after) = text.split_once("prog/xdp id ").unwrap_or_else(|| panic!("no XDP program: {text}"));
    after.split_whitespace().next().unwrap().parse().unwrap()
}

/// Attaches another program's XDP program, one that passes everything, to the server's interface.
fn foreign_xdp(world: &World) -> XdpEnforcer {
    let settings = Settings { pin_folder: world.bpffs.path().join("foreign"), ..world.settings.clone() };
    let mut foreign = XdpEnforcer::new(settings);
    world.server.enter(|| foreign.start(&[], clock::now())).unwrap();
    foreign
}

/// A path that does not exist must not count as a bpffs.
#[test]
fn a_pin_folder_outside_bpffs_gets_a_bpffs_of_its_own_and_loses_it_again() -> Result<()> {
    let world = World::new(Mode::Auto);
    let folder = tempfile::tempdir()?;
    let settings = Settings { pin_folder: folder.path().join("pins"), ..world.settings.clone() };
    let mut enforcer = world.try_start(settings.clone())?;
    ensure!(is_mounted(&settings.pin_folder)?, "no bpffs was mounted");
    world.server.enter(|| enforcer.cleanup())?;
    ensure!(!is_mounted(&settings.pin_folder)?, "the bpffs stayed mounted");
    Ok(())
}

fn is_mounted(path: &Path) -> Result<bool> {
    Ok(command::run(&["cat", "/proc/mounts"])?.contains(&format!(" {} bpf ", path.display())))
}

/// Makes two uplinks on the server and a default route over both, as on a server with two providers.
fn two_uplinks(world: &World) {
    let peer = &world.client;
    connect(
        End {
            namespace: &world.server,
            interface: "eth1",
            addresses: &["198.51.100.1/24", "2001:db8:2::1/64"],
        },
        End { namespace: peer, interface: "eth1", addresses: &["198.51.100.2/24", "2001:db8:2::2/64"] },
    )
    .unwrap();
    let over_both = |v6: &str, first: &str, second: &str| {
        let family = if v6.is_empty() { "-4" } else { "-6" };
        let hops =
            [["nexthop", "via", first, "dev", "eth0"], ["nexthop", "via", second, "dev", "eth1"]].concat();
        world.server.run(&[&["ip", family, "route", "add", "default"], &hops[..]].concat()).unwrap();
    };
    over_both("", "192.0.2.2", "198.51.100.2");
    over_both("6", "2001:db8:1:2::2", "2001:db8:2::2");
}

/// History: of a default route with two next hops, only the first one's interface was guarded. What came in by the second passed.
#[test]
fn every_next_hop_of_a_default_route_is_guarded() {
    let mut world = World::new(Mode::Auto);
    two_uplinks(&world);
    world.settings.interfaces = Selection::DefaultRoute;
    let mut enforcer = world.start();
    let PartState::Active { detail } = enforcer.state() else { panic!("{:?}", enforcer.state()) };
    assert_eq!(detail, "native on eth0; native on eth1");

    // A third way that comes later is guarded by the next repair.
    connect(
        End { namespace: &world.server, interface: "eth2", addresses: &["203.0.113.1/24"] },
        End { namespace: &world.client, interface: "eth2", addresses: &["203.0.113.2/24"] },
    )
    .unwrap();
    let replace =
        "ip route replace default nexthop via 192.0.2.2 nexthop via 203.0.113.2 nexthop via 198.51.100.2";
    world.server.run(&replace.split(' ').collect::<Vec<_>>()).unwrap();
    assert!(!world.server.enter(|| enforcer.is_intact(0)).unwrap(), "a new way went unnoticed");
    world.reconcile(&mut enforcer, &[]);
    let PartState::Active { detail } = enforcer.state() else { panic!("{:?}", enforcer.state()) };
    assert!(detail.contains("native on eth2"), "{detail}");
    world.cleanup(enforcer);
}

/// A tunnel carries bare IP packets, which the program does not parse: the state says so, and the interface beside it is guarded.
#[test]
fn an_interface_without_ethernet_is_refused_in_words() {
    let mut world = World::new(Mode::Auto);
    for argv in
        ["ip tuntap add dev tun0 mode tun", "ip addr add 198.51.100.1/24 dev tun0", "ip link set tun0 up"]
    {
        world.server.run(&argv.split(' ').collect::<Vec<_>>()).unwrap();
    }
    let routes = "ip route add default nexthop dev tun0 nexthop via 192.0.2.2 dev eth0";
    world.server.run(&routes.split(' ').collect::<Vec<_>>()).unwrap();
    world.settings.interfaces = Selection::DefaultRoute;
    let enforcer = world.start();
    let PartState::Degraded { reason } = enforcer.state() else { panic!("{:?}", enforcer.state()) };
    assert!(reason.starts_with("tun0: it carries no Ethernet frames"), "{reason}");
    assert!(reason.ends_with("(in force: native on eth0)"), "{reason}");
    world.cleanup(enforcer);
}
