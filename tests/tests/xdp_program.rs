//! The XDP program on crafted packets, run by `BPF_PROG_TEST_RUN`: its verdicts and its counters.
//!
//! The real enforcer bans in the maps that the program shares with it; no packet is sent.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails there")]

use std::collections::HashSet;
use std::net::{Ipv4Addr, Ipv6Addr};

use anyhow::{Context as _, Result};
use aya::Ebpf;
use aya::maps::{MapData, PerCpuArray};
use aya::programs::{SchedClassifier, TestRun as _, TestRunOptions, Xdp};
use shield_agent::test_support::clock;
use shield_agent::test_support::enforce::xdp::{Mode, Selection, Settings, XdpEnforcer, object};
use shield_agent::test_support::enforce::{Ban, Desired, Enforcer as _, Failure, Slow, Urgent};
use shield_common::{Totals, filter_v6, map_name};
use shield_engine::allowlist::Allowlist;
use shield_engine::client::Client;
use shield_engine::slowed::{SlowLimits, SlowRate};
use shield_engine::time::Ends;
use shield_tests::bpffs::Bpffs;
use shield_tests::netns::{End, Namespace, connect};

const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const ARP: u16 = 0x0806;
const VLAN: u16 = 0x8100;
const SERVICE_VLAN: u16 = 0x88a8;

/// The slot of the copy under test, so that the attached one counts elsewhere.
const SLOT: u32 = 7;
const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;
const TC_ACT_SHOT: u32 = 2;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Drop,
    Pass,
}
use Verdict::{Drop, Pass};

/// An enforcer on a veth pair, and a copy of its programs over the same maps.
struct Harness {
    enforcer: XdpEnforcer,
    xdp: Ebpf,
    tc: Ebpf,
    settings: Settings,
    namespace: Namespace,
    _bpffs: Bpffs,
}

impl Harness {
    fn start(adjust: impl FnOnce(&mut Settings)) -> Harness {
        let (namespace, bpffs) = (Namespace::create("xdpprog").unwrap(), Bpffs::mount().unwrap());
        let end = |interface| End { namespace: &namespace, interface, addresses: &[] };
        connect(end("eth0"), end("peer0")).unwrap();
        let mut settings = Settings {
            interfaces: Selection::Named(vec!["eth0".to_owned()]),
            mode: Mode::Generic,
            pin_folder: bpffs.path().join("shield"),
            count_passed: true,
            ..Settings::default()
        };
        adjust(&mut settings);
        let mut enforcer = XdpEnforcer::new(settings.clone());
        namespace.enter(|| enforcer.start(&[], clock::now())).unwrap();
        let maps = settings.pin_folder.join("maps");
        let globals = object::Globals::of(&settings);
        let mut loader = object::Loader::new(&globals);
        let mut xdp = loader.load(&maps, SLOT).unwrap();
        object::xdp(&mut xdp).unwrap();
        let mut tc = loader.load(&maps, SLOT).unwrap();
        object::classifier(&mut tc).unwrap();
        Harness { enforcer, xdp, tc, settings, namespace, _bpffs: bpffs }
    }

    fn ban(&mut self, text: &str, ends: Ends) {
        let client: Client = text.parse().unwrap();
        let ban =
            Ban { client: Allowlist::default().admit(client, self.settings.ipv6_prefix).unwrap(), ends };
        let failures = self.enforcer.ensure_banned(&[ban], clock::now());
        assert!(failures.is_empty(), "{failures:?}");
    }

    /// Slows exactly these clients.
    fn slow(&mut self, clients: &[(&str, SlowLimits)], ends: Ends) {
        let slow = |(text, limits): &(&str, SlowLimits)| {
            let client: Client = text.parse().unwrap();
            let client = Allowlist::default().admit(client, self.settings.ipv6_prefix).unwrap();
            Slow { client, ends, limits: *limits }
        };
        let slowed: Vec<Slow> = clients.iter().map(slow).collect();
        self.enforcer.ensure_slowed(&slowed, clock::now()).unwrap();
    }

    fn totals(&self) -> Totals {
        let map = MapData::from_pin(self.settings.pin_folder.join("maps").join(map_name::TOTALS)).unwrap();
        let totals: PerCpuArray<_, Totals> = aya::maps::Map::PerCpuArray(map).try_into().unwrap();
        let values = totals.get(&SLOT, 0).unwrap();
        values.iter().fold(Totals::default(), |a, b| Totals {
            passed: a.passed + b.passed,
            dropped_v4: a.dropped_v4 + b.dropped_v4,
            dropped_v6: a.dropped_v6 + b.dropped_v6,
            dropped_bytes: a.dropped_bytes + b.dropped_bytes,
            expired: a.expired + b.expired,
            exempt: a.exempt + b.exempt,
            malformed: a.malformed + b.malformed,
            not_ip: a.not_ip + b.not_ip,
            slowed: a.slowed + b.slowed,
        })
    }

    fn run_xdp(&self, packet: &[u8]) -> Result<Verdict> {
        let program: &Xdp =
            self.xdp.program("shield_frags").context("the object has the program")?.try_into()?;
        let result = program.test_run(options(packet))?;
        Ok(match result.return_value {
            XDP_DROP => Drop,
            XDP_PASS => Pass,
            other => panic!("XDP action {other}"),
        })
    }

    fn run_tc(&self, packet: &[u8]) -> Result<Verdict> {
        let program: &SchedClassifier =
            self.tc.program("shield_tc").context("the object has the program")?.try_into()?;
        let result = program.test_run(options(packet))?;
        Ok(if result.return_value == TC_ACT_SHOT { Drop } else { Pass })
    }

    /// Both programs give this verdict, and count what they did in exactly one place.
    fn check(&self, name: &str, packet: &[u8], expected: Verdict, counted: fn(&Totals) -> u64) {
        for (hook, run) in [("xdp", Harness::run_xdp as fn(&_, &_) -> _), ("tc", Harness::run_tc)] {
            let before = self.totals();
            let verdict = run(self, packet).unwrap_or_else(|error| panic!("{name} by {hook}: {error:#}"));
            assert_eq!(verdict, expected, "{name} by {hook}");
            let after = self.totals();
            assert_eq!(counted(&after) - counted(&before), 1, "{name} by {hook}: {before:?} to {after:?}");
            assert_eq!(outcomes(&after) - outcomes(&before), 1, "{name} by {hook}: {before:?} to {after:?}");
        }
    }
}

impl std::ops::Drop for Harness {
    fn drop(&mut self) {
        let enforcer = &mut self.enforcer;
        self.namespace.enter(|| enforcer.cleanup()).unwrap();
    }
}

/// Every packet ends in exactly one of these.
fn outcomes(totals: &Totals) -> u64 {
    totals.passed + totals.dropped_v4 + totals.dropped_v6 + totals.malformed + totals.not_ip + totals.slowed
}

fn options(packet: &[u8]) -> TestRunOptions<'_> {
    TestRunOptions { data_in: Some(packet), repeat: 1, ..TestRunOptions::default() }
}

/// An Ethernet frame: tags as (EtherType, VLAN id), outermost first.
fn frame(tags: &[(u16, u16)], ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x02; 12];
    for (tag, id) in tags {
        frame.extend(tag.to_be_bytes());
        frame.extend(id.to_be_bytes());
    }
    frame.extend(ethertype.to_be_bytes());
    frame.extend(payload);
    frame
}

fn ipv4(source: &str) -> Vec<u8> {
    let mut header = vec![0; 40];
    header[0] = 0x45;
    header[2..4].copy_from_slice(&40u16.to_be_bytes());
    header[8] = 64;
    header[9] = 6;
    header[12..16].copy_from_slice(&source.parse::<Ipv4Addr>().unwrap().octets());
    header[16..20].copy_from_slice(&[198, 51, 100, 1]);
    header
}

fn ipv6(source: &str) -> Vec<u8> {
    let mut header = vec![0; 60];
    header[0] = 0x60;
    header[4..6].copy_from_slice(&20u16.to_be_bytes());
    header[6] = 6;
    header[7] = 64;
    header[8..24].copy_from_slice(&source.parse::<Ipv6Addr>().unwrap().octets());
    header
}

fn changed(mut packet: Vec<u8>, at: usize, to: u8) -> Vec<u8> {
    packet[at] = to;
    packet
}

#[test]
fn what_is_banned_is_dropped_and_counted_whatever_it_is_wrapped_in() {
    let mut harness = Harness::start(|_| {});
    harness.ban("192.0.2.7", Ends::Never);
    harness.ban("2001:db8:1:2::/64", Ends::after(clock::now(), 600_000));
    let wrappings: [&[(u16, u16)]; 4] =
        [&[], &[(VLAN, 7)], &[(SERVICE_VLAN, 5), (VLAN, 7)], &[(VLAN, 5), (VLAN, 7)]];
    for tags in wrappings {
        let name = |what: &str| format!("{what} behind {tags:?}");
        let v4 = |packet: &[u8]| frame(tags, IPV4, packet);
        let v6 = |packet: &[u8]| frame(tags, IPV6, packet);
        harness.check(&name("IPv4"), &v4(&ipv4("192.0.2.7")), Drop, |t| t.dropped_v4);
        harness.check(&name("a neighbour"), &v4(&ipv4("192.0.2.8")), Pass, |t| t.passed);
        harness.check(&name("elsewhere"), &v4(&ipv4("203.0.113.7")), Pass, |t| t.passed);
        harness.check(&name("IPv6"), &v6(&ipv6("2001:db8:1:2::9")), Drop, |t| t.dropped_v6);
        harness.check(&name("all of the prefix"), &v6(&ipv6("2001:db8:1:2:ffff::1")), Drop, |t| t.dropped_v6);
        harness.check(&name("the next prefix"), &v6(&ipv6("2001:db8:1:3::9")), Pass, |t| t.passed);
        // An IPv4-mapped IPv6 address on the wire is not the IPv4 client: it is another address.
        harness.check(&name("mapped"), &v6(&ipv6("::ffff:192.0.2.7")), Pass, |t| t.passed);
    }
}

#[test]
fn options_fragments_and_extension_headers_do_not_hide_the_source() {
    let mut harness = Harness::start(|_| {});
    harness.ban("192.0.2.7", Ends::Never);
    harness.ban("2001:db8:1:2::/64", Ends::Never);
    let v4 = || ipv4("192.0.2.7");
    let v6 = || ipv6("2001:db8:1:2::1");
    let check_v4 = |name: &str, packet: Vec<u8>| {
        harness.check(name, &frame(&[], IPV4, &packet), Drop, |t| t.dropped_v4);
    };
    check_v4("IPv4 with options", changed(v4(), 0, 0x4a));
    check_v4("the longest header", changed([v4(), vec![0; 60]].concat(), 0, 0x4f));
    check_v4("the first fragment", changed(v4(), 6, 0x20));
    check_v4("a later fragment", changed(changed(v4(), 6, 0x20), 7, 0xb9));
    check_v4("another protocol", changed(v4(), 9, 47));
    check_v4("another type of service", changed(v4(), 1, 0xff));
    for next_header in [0, 43, 44, 51, 59, 60, 255] {
        let packet = frame(&[], IPV6, &changed(v6(), 6, next_header));
        harness.check(&format!("IPv6 next header {next_header}"), &packet, Drop, |t| t.dropped_v6);
    }
    let packet = frame(&[], IPV6, &changed(v6(), 0, 0x6f));
    harness.check("another traffic class", &packet, Drop, |t| t.dropped_v6);
}

/// Two clients that share a bit of the filter are told apart by their keys, whether networks are banned or not.
#[test]
fn who_shares_a_bit_of_the_filter_with_a_banned_client_passes() {
    let mut harness = Harness::start(|_| {});
    harness.ban("2001:db8:1:2::/64", Ends::Never);
    let bit = |address: &Ipv6Addr| {
        let octets = address.octets();
        let half = |at: usize| u64::from_ne_bytes(octets[at..at + 8].try_into().unwrap());
        filter_v6([half(0), half(8)])
    };
    let wanted = bit(&"2001:db8:1:2::".parse().unwrap());
    let mut clients = (0..u32::MAX).map(|n| {
        let [a, b, c, d] = n.to_be_bytes().map(u16::from);
        Ipv6Addr::new(0x2a00, 0, a << 8 | b, c << 8 | d, 0, 0, 0, 0)
    });
    let other = clients.find(|client| bit(client) == wanted).unwrap();
    let packet = |source: &Ipv6Addr| frame(&[(VLAN, 7)], IPV6, &ipv6(&source.to_string()));
    let banned = packet(&"2001:db8:1:2::9".parse().unwrap());
    harness.check("the same bit", &packet(&other), Pass, |t| t.passed);
    harness.check("banned", &banned, Drop, |t| t.dropped_v6);
    harness.ban("2001:db8:ab00::/40", Ends::Never);
    harness.check("the same bit, beside a banned network", &packet(&other), Pass, |t| t.passed);
    harness.slow(&[(&format!("{other}/64"), FEW)], Ends::Never);
    harness.check("the same bit, slowed", &packet(&other), Pass, |t| t.passed);
    harness.check("banned, and the other slowed", &banned, Drop, |t| t.dropped_v6);
}

/// What passes is counted only when asked for; what is dropped, or not understood, always.
#[test]
fn packets_that_pass_are_counted_only_when_asked_for() {
    let mut harness = Harness::start(|settings| settings.count_passed = false);
    harness.ban("192.0.2.7", Ends::Never);
    let v4 = |source: &str| frame(&[], IPV4, &ipv4(source));
    for source in ["203.0.113.7", "192.0.2.8"] {
        assert_eq!(harness.run_xdp(&v4(source)).unwrap(), Pass, "{source}");
        assert_eq!(harness.run_tc(&v4(source)).unwrap(), Pass, "{source} by tc");
    }
    assert_eq!(harness.totals(), Totals::default());
    harness.check("banned", &v4("192.0.2.7"), Drop, |t| t.dropped_v4);
    harness.check("ARP", &frame(&[], ARP, &[0; 46]), Pass, |t| t.not_ip);
}

/// Headers with options take the path without the filter.
#[test]
fn options_do_not_change_whose_packet_it_is() {
    let mut harness = Harness::start(|_| {});
    harness.ban("192.0.2.7", Ends::Never);
    harness.ban("198.51.0.0/16", Ends::Never);
    for tags in [&[][..], &[(VLAN, 7)], &[(SERVICE_VLAN, 5), (VLAN, 7)]] {
        let packet = |source: &str| frame(tags, IPV4, &changed(ipv4(source), 0, 0x4a));
        let name = |what: &str| format!("{what} behind {tags:?}");
        harness.check(&name("banned"), &packet("192.0.2.7"), Drop, |t| t.dropped_v4);
        harness.check(&name("in a banned network"), &packet("198.51.100.9"), Drop, |t| t.dropped_v4);
        harness.check(&name("a neighbour"), &packet("192.0.2.8"), Pass, |t| t.passed);
        harness.check(&name("elsewhere"), &packet("203.0.113.7"), Pass, |t| t.passed);
    }
}

#[test]
fn what_is_not_understood_passes_and_is_counted() {
    let mut harness = Harness::start(|_| {});
    harness.ban("192.0.2.7", Ends::Never);
    harness.ban("2001:db8:1:2::/64", Ends::Never);
    let v4 = || ipv4("192.0.2.7");
    let malformed = |name: &str, ethertype, packet: Vec<u8>| {
        harness.check(name, &frame(&[], ethertype, &packet), Pass, |t| t.malformed);
    };
    malformed("IPv4 that says it is IPv6", IPV4, changed(v4(), 0, 0x65));
    malformed("IPv4 with a header of 16 bytes", IPV4, changed(v4(), 0, 0x44));
    malformed("IPv6 that says it is IPv4", IPV6, changed(ipv6("2001:db8:1:2::1"), 0, 0x45));
    let not_ip = |name: &str, packet: &[u8]| harness.check(name, packet, Pass, |t| t.not_ip);
    not_ip("ARP", &frame(&[], ARP, &[0; 28]));
    not_ip("ARP behind a tag", &frame(&[(VLAN, 7)], ARP, &[0; 28]));
    not_ip("an 802.3 length", &frame(&[], 0x0026, &[0; 46]));
    not_ip("three tags", &frame(&[(VLAN, 1), (VLAN, 2), (VLAN, 3)], IPV4, &v4()));
}

#[test]
fn a_packet_cut_at_any_length_is_dropped_or_passes_but_never_misread() {
    let mut harness = Harness::start(|_| {});
    harness.ban("192.0.2.7", Ends::Never);
    harness.ban("2001:db8:1:2::/64", Ends::Never);
    // The kernel's test run takes no less than an Ethernet header.
    const SHORTEST: usize = 14;
    let cases = [
        ("IPv4", frame(&[], IPV4, &ipv4("192.0.2.7")), 14 + 20),
        ("IPv4 behind two tags", frame(&[(SERVICE_VLAN, 1), (VLAN, 2)], IPV4, &ipv4("192.0.2.7")), 22 + 20),
        ("IPv6", frame(&[], IPV6, &ipv6("2001:db8:1:2::1")), 14 + 40),
        ("IPv6 behind a tag", frame(&[(VLAN, 2)], IPV6, &ipv6("2001:db8:1:2::1")), 18 + 40),
    ];
    for (name, packet, needed) in cases {
        for length in SHORTEST..packet.len() {
            let before = harness.totals();
            let verdict = harness.run_xdp(&packet[..length]).unwrap();
            let expected = if length < needed { Pass } else { Drop };
            assert_eq!(verdict, expected, "{name} cut to {length}");
            let malformed = harness.totals().malformed - before.malformed;
            assert_eq!(malformed, u64::from(length < needed), "{name} cut to {length}");
        }
    }
}

#[test]
fn a_ban_ends_in_the_kernel() {
    let mut harness = Harness::start(|_| {});
    let past = Ends::At { boot_ms: 1, wall_ms: 1 };
    harness.ban("192.0.2.7", past);
    harness.ban("2001:db8:1:2::/64", past);
    harness.ban("198.51.100.0/24", past);
    harness.ban("192.0.2.8", Ends::Never);
    let passes = |name: &str, packet: Vec<u8>| {
        let before = harness.totals();
        harness.check(name, &packet, Pass, |t| t.passed);
        assert_eq!(harness.totals().expired - before.expired, 2, "{name}, once by each program");
    };
    passes("an ended IPv4 ban", frame(&[], IPV4, &ipv4("192.0.2.7")));
    passes("an ended IPv6 ban", frame(&[], IPV6, &ipv6("2001:db8:1:2::1")));
    passes("an ended network ban", frame(&[], IPV4, &ipv4("198.51.100.9")));
    harness.check("a permanent ban", &frame(&[], IPV4, &ipv4("192.0.2.8")), Drop, |t| t.dropped_v4);
    // Extending is the same order with a later end.
    harness.ban("192.0.2.7", Ends::after(clock::now(), 60_000));
    harness.check("an extended ban", &frame(&[], IPV4, &ipv4("192.0.2.7")), Drop, |t| t.dropped_v4);
}

#[test]
fn networks_of_any_length_and_what_is_exempt_in_them() {
    let mut harness = Harness::start(|_| {});
    for network in ["198.51.0.0/16", "203.0.113.128/25", "2001:db8:aa00::/40", "2001:db8:bb:cc:dd::/80"] {
        harness.ban(network, Ends::Never);
    }
    let v4 = |source: &str| frame(&[], IPV4, &ipv4(source));
    let v6 = |source: &str| frame(&[], IPV6, &ipv6(source));
    harness.check("first of a /16", &v4("198.51.0.0"), Drop, |t| t.dropped_v4);
    harness.check("last of a /16", &v4("198.51.255.255"), Drop, |t| t.dropped_v4);
    harness.check("before a /16", &v4("198.50.255.255"), Pass, |t| t.passed);
    harness.check("after a /16", &v4("198.52.0.0"), Pass, |t| t.passed);
    harness.check("inside a /25", &v4("203.0.113.128"), Drop, |t| t.dropped_v4);
    harness.check("the other half of the /24", &v4("203.0.113.127"), Pass, |t| t.passed);
    harness.check("inside a /40", &v6("2001:db8:aaff::1"), Drop, |t| t.dropped_v6);
    harness.check("beside a /40", &v6("2001:db8:ab00::1"), Pass, |t| t.passed);
    harness.check("inside a /80", &v6("2001:db8:bb:cc:dd::1"), Drop, |t| t.dropped_v6);
    harness.check("beside a /80", &v6("2001:db8:bb:cc:de::1"), Pass, |t| t.passed);

    let exempt = ["198.51.100.7/32", "2001:db8:aa11::/48"].map(|net| net.parse().unwrap());
    harness.enforcer.ensure_exempt(&exempt).unwrap();
    let before = harness.totals();
    harness.check("exempt in a /16", &v4("198.51.100.7"), Pass, |t| t.passed);
    harness.check("exempt in a /40", &v6("2001:db8:aa11::1"), Pass, |t| t.passed);
    assert_eq!(harness.totals().exempt - before.exempt, 4);
    harness.check("beside the exempt one", &v4("198.51.100.8"), Drop, |t| t.dropped_v4);

    harness.enforcer.ensure_exempt(&[]).unwrap();
    harness.check("exempt no more", &v4("198.51.100.7"), Drop, |t| t.dropped_v4);
    let networks: Vec<Client> =
        ["198.51.0.0/16", "2001:db8:aa00::/40"].map(|net| net.parse().unwrap()).into();
    assert!(harness.enforcer.ensure_lifted(&networks).is_empty());
    harness.check("lifted /16", &v4("198.51.100.8"), Pass, |t| t.passed);
    harness.check("lifted /40", &v6("2001:db8:aa00::1"), Pass, |t| t.passed);
    harness.check("not lifted /25", &v4("203.0.113.129"), Drop, |t| t.dropped_v4);
}

/// The trie returns only the longest matching prefix, so an expired narrow ban that was not lifted yet let its packets
/// through a wider ban in force.
#[test]
fn an_ended_network_does_not_open_a_wider_one() {
    let mut harness = Harness::start(|_| {});
    let past = Ends::At { boot_ms: 1, wall_ms: 1 };
    for ended in ["198.51.100.128/25", "198.51.100.0/24", "2001:db8:aa11:2200::/56", "2001:db8:aa11::/48"] {
        harness.ban(ended, past);
    }
    let v4 = frame(&[], IPV4, &ipv4("198.51.100.200"));
    let v6 = frame(&[], IPV6, &ipv6("2001:db8:aa11:22ff::1"));
    harness.check("all IPv4 bans ended", &v4, Pass, |t| t.passed);
    harness.check("all IPv6 bans ended", &v6, Pass, |t| t.passed);
    for wider in ["198.51.0.0/16", "2001:db8:aa00::/40"] {
        harness.ban(wider, Ends::Never);
    }
    harness.check("a /16 around an ended /24 and /25", &v4, Drop, |t| t.dropped_v4);
    harness.check("a /40 around an ended /48 and /56", &v6, Drop, |t| t.dropped_v6);
    let exempt = ["198.51.100.200/32"].map(|net| net.parse().unwrap());
    harness.enforcer.ensure_exempt(&exempt).unwrap();
    harness.check("exempt in the wider one", &v4, Pass, |t| t.passed);
    harness.enforcer.ensure_exempt(&[]).unwrap();
    let ended = ["198.51.100.128/25", "198.51.100.0/24"].map(|net| net.parse().unwrap());
    assert!(harness.enforcer.ensure_lifted(&ended).is_empty());
    harness.check("the ended ones lifted", &v4, Drop, |t| t.dropped_v4);
}

/// Hands out new bans at the first pause of a reconcile.
struct AtFirstPause {
    waiting: Vec<Ban>,
    in_force: usize,
}

impl Urgent for AtFirstPause {
    fn take(&mut self) -> Vec<Ban> {
        std::mem::take(&mut self.waiting)
    }

    fn done(&mut self, bans: &[Ban], failures: Vec<Failure>) {
        assert!(failures.is_empty(), "{failures:?}");
        self.in_force += bans.len();
    }
}

/// A reconcile of a million bans takes more than a second, for which new bans used to wait.
#[test]
fn new_bans_get_in_between_a_long_reconcile_and_stay() {
    let mut harness = Harness::start(|_| {});
    let now = clock::now();
    let ban = |text: &str, ends| {
        let client: Client = text.parse().unwrap();
        Ban { client: Allowlist::default().admit(client, 64).unwrap(), ends }
    };
    let mut desired = Desired::default();
    for n in 0..40_000_u32 {
        let client = Ipv4Addr::from_bits(0x0a00_0000 + n).to_string();
        desired.insert(ban(&client, Ends::after(now, 60_000)), u64::from(n));
    }
    for round in ["filling", "comparing"] {
        let new = [("192.0.2.1", 600_000), ("198.51.100.0/24", 600_000), ("10.0.0.1", 600_000)];
        let waiting = new.map(|(client, for_ms)| ban(client, Ends::after(now, for_ms))).into();
        let mut urgent = AtFirstPause { waiting, in_force: 0 };
        let enforcer = &mut harness.enforcer;
        harness
            .namespace
            .enter(|| enforcer.reconcile_yielding(&desired, &[], now, &mut urgent).map(drop))
            .unwrap();
        assert_eq!(urgent.in_force, 3, "{round}");
        for source in ["192.0.2.1", "198.51.100.9", "10.0.0.1", "10.0.156.63"] {
            let name = format!("{source} after {round}");
            harness.check(&name, &frame(&[], IPV4, &ipv4(source)), Drop, |t| t.dropped_v4);
        }
        let held = harness.enforcer.observe(now).unwrap();
        assert_eq!(held.len(), 40_002, "{round}");
        let moved = held.iter().find(|(client, _)| client.to_string() == "10.0.0.1").unwrap().1.unwrap();
        assert!(moved.remaining_ms(now).unwrap() > 500_000, "{round}: the later end was put back: {moved:?}");
    }
}

/// A batch does not say which of its bans the kernel refused, nor why.
#[test]
fn each_of_very_many_bans_is_in_force_or_told_of() {
    const ROOM: u32 = 25_000;
    let mut harness = Harness::start(|settings| settings.max_bans_v4 = ROOM);
    let now = clock::now();
    let mut desired = Desired::default();
    let mut want = |harness: &mut Harness, from: u32, to: u32| {
        for n in from..to {
            let client = Client::from(Ipv4Addr::from_bits(0x0a00_0000 + n));
            let client = Allowlist::default().admit(client, 64).unwrap();
            desired.insert(Ban { client, ends: Ends::Never }, u64::from(n) + 1);
        }
        harness.namespace.enter(|| harness.enforcer.reconcile(&desired, &[], now).map(drop))
    };
    want(&mut harness, 0, 20_000).unwrap();
    let held = harness.enforcer.observe(now).unwrap();
    let clients: HashSet<String> = held.iter().map(|(client, _)| client.to_string()).collect();
    assert_eq!(clients.len(), 20_000);
    for n in [0, 1_023, 1_024, 8_191, 8_192, 16_383, 16_384, 19_999_u32] {
        let client = Ipv4Addr::from_bits(0x0a00_0000 + n).to_string();
        assert!(clients.contains(&client), "{client}");
        assert_eq!(harness.run_xdp(&frame(&[], IPV4, &ipv4(&client))).unwrap(), Drop, "{client}");
    }

    let error = format!("{:#}", want(&mut harness, 20_000, 40_000).unwrap_err());
    let held = harness.enforcer.observe(now).unwrap().len();
    // Near its limit the kernel counts each processor's insertions roughly.
    assert!(held.abs_diff(ROOM as usize) < 100, "{held}");
    let others = 40_000 - held - 1;
    assert!(error.contains(&format!(" and {others} more: ")), "{held} of 40,000 are in force: {error}");
}

/// With very many bans the cheap check does not list them, and used to find out only at the next full reconcile.
#[test]
fn one_ban_taken_out_of_very_many_is_noticed_by_the_cheap_check() {
    let mut harness = Harness::start(|_| {});
    let now = clock::now();
    let mut desired = Desired::default();
    let clients: Vec<Client> =
        (0..30_000_u32).map(|n| Client::from(Ipv4Addr::from_bits(0x0a00_0000 + n))).collect();
    for (client, serial) in clients.iter().zip(1..) {
        let client = Allowlist::default().admit(*client, 64).unwrap();
        desired.insert(Ban { client, ends: Ends::Never }, serial);
    }
    let mut other = XdpEnforcer::new(harness.settings.clone());
    let enforcer = &mut harness.enforcer;
    harness.namespace.enter(|| {
        enforcer.reconcile(&desired, &[], now).unwrap();
        assert!(enforcer.is_intact(clients.len()).unwrap());
        other.start(&[], now).unwrap();
        enforcer.reconcile(&desired, &[], now).unwrap();
        assert!(enforcer.is_intact(clients.len()).unwrap(), "another look at the same maps changes nothing");
        assert!(other.ensure_lifted(&clients[..1]).is_empty());
        assert!(!enforcer.is_intact(clients.len()).unwrap(), "a ban was taken out");
        assert!(enforcer.reconcile(&desired, &[], now).unwrap().is_some());
        assert!(enforcer.is_intact(clients.len()).unwrap());
    });
}

#[test]
fn the_length_that_makes_an_ipv6_client_is_the_configured_one() {
    for (prefix, ban, inside, outside) in [
        (56, "2001:db8:1:200::/56", "2001:db8:1:2ff::1", "2001:db8:1:300::1"),
        (48, "2001:db8:1::/48", "2001:db8:1:ffff::1", "2001:db8:2::1"),
        (128, "2001:db8::7/128", "2001:db8::7", "2001:db8::8"),
        (96, "2001:db8::/96", "2001:db8::ffff:1", "2001:db8::1:0:1"),
    ] {
        let mut harness = Harness::start(|settings| settings.ipv6_prefix = prefix);
        harness.ban(ban, Ends::Never);
        harness.check(ban, &frame(&[], IPV6, &ipv6(inside)), Drop, |t| t.dropped_v6);
        harness.check(ban, &frame(&[], IPV6, &ipv6(outside)), Pass, |t| t.passed);
    }
}

#[test]
fn packets_and_bytes_are_counted_for_each_ban_and_survive_an_extension() {
    let mut harness = Harness::start(|_| {});
    harness.ban("192.0.2.7", Ends::after(clock::now(), 60_000));
    let packet = frame(&[], IPV4, &ipv4("192.0.2.7"));
    for _ in 0..5 {
        harness.run_xdp(&packet).unwrap();
    }
    harness.ban("192.0.2.7", Ends::after(clock::now(), 120_000));
    harness.run_xdp(&packet).unwrap();
    let clients: Vec<Client> = ["192.0.2.7", "192.0.2.8"].map(|text| text.parse().unwrap()).into();
    let drops = harness.enforcer.drops(&clients).unwrap();
    let counted = drops[0].map(|drops| (drops.packets, drops.bytes));
    assert_eq!(counted, Some((6, 6 * packet.len() as u64)));
    assert_eq!(drops[1], None);
    let total = harness.enforcer.total_drops().unwrap();
    assert_eq!((total.packets, total.bytes), (6, 6 * packet.len() as u64));
}

#[test]
fn sampled_drops_are_logged_only_when_asked_for() {
    // The same object loads with the log on: the verifier accepts the logging code as well.
    let mut harness = Harness::start(|settings| settings.log_every = std::num::NonZeroU32::new(1));
    harness.ban("192.0.2.7", Ends::Never);
    harness.ban("2001:db8:1:2::/64", Ends::Never);
    harness.check("IPv4", &frame(&[], IPV4, &ipv4("192.0.2.7")), Drop, |t| t.dropped_v4);
    harness.check("IPv6", &frame(&[], IPV6, &ipv6("2001:db8:1:2::1")), Drop, |t| t.dropped_v6);
}

const SYN: u8 = 0x02;
const ACK: u8 = 0x10;

/// A TCP header with these flags and `data` bytes behind it.
fn tcp(flags: u8, data: usize) -> Vec<u8> {
    let mut header = vec![0; 20 + data];
    header[12] = 0x50;
    header[13] = flags;
    header
}

fn tcp_v4(source: &str, flags: u8, data: usize) -> Vec<u8> {
    let mut packet = ipv4(source);
    packet.truncate(20);
    packet[2..4].copy_from_slice(&(40 + data as u16).to_be_bytes());
    frame(&[], IPV4, &[packet, tcp(flags, data)].concat())
}

fn tcp_v6(source: &str, flags: u8, data: usize) -> Vec<u8> {
    let mut packet = ipv6(source);
    packet.truncate(40);
    packet[4..6].copy_from_slice(&(20 + data as u16).to_be_bytes());
    frame(&[], IPV6, &[packet, tcp(flags, data)].concat())
}

/// So slow that nothing is refilled while the test runs.
const FEW: SlowLimits =
    SlowLimits { connections: SlowRate { per_sec: 0, burst: 3 }, packets: SlowRate { per_sec: 0, burst: 5 } };

fn passing(harness: &Harness, packet: &[u8], of: usize) -> usize {
    (0..of).filter(|_| harness.run_xdp(packet).unwrap() == Pass).count()
}

#[test]
fn a_slowed_client_has_so_many_connections_and_packets_and_others_have_all() {
    let mut harness = Harness::start(|_| {});
    harness.slow(&[("192.0.2.7", FEW), ("2001:db8:1:2::/64", FEW)], Ends::after(clock::now(), 600_000));
    for (name, make) in [("192.0.2.7", tcp_v4 as fn(&str, u8, usize) -> Vec<u8>), ("2001:db8:1:2::9", tcp_v6)]
    {
        let packet = |flags, data| make(name, flags, data);
        assert_eq!(passing(&harness, &packet(ACK, 0), 50), 50, "{name}: acknowledgements are free");
        assert_eq!(passing(&harness, &packet(SYN, 0), 50), 3, "{name}: new connections");
        assert_eq!(passing(&harness, &packet(ACK, 100), 50), 5, "{name}: data");
        assert_eq!(passing(&harness, &packet(SYN | ACK, 0), 9), 9, "{name}: an answer opens nothing");
        harness.check(name, &packet(SYN, 0), Drop, |t| t.slowed);
        harness.check(name, &packet(ACK, 0), Pass, |t| t.passed);
    }
    assert_eq!(passing(&harness, &tcp_v4("192.0.2.8", SYN, 0), 50), 50, "a neighbour");
    assert_eq!(passing(&harness, &tcp_v6("2001:db8:1:3::9", SYN, 0), 50), 50, "the next prefix");
}

/// What is not plain TCP without data is never free, whatever form it takes.
#[test]
fn no_form_of_packet_walks_past_the_limits() {
    let mut harness = Harness::start(|_| {});
    let from = "192.0.2.7";
    let bare = tcp_v4(from, ACK, 0);
    let ethernet = 14;
    let forms: [(&str, Vec<u8>); 7] = [
        ("UDP", changed(bare.clone(), ethernet + 9, 17)),
        ("options", changed(bare.clone(), ethernet, 0x46)),
        ("a first fragment", changed(bare.clone(), ethernet + 6, 0x20)),
        ("a later fragment", changed(bare.clone(), ethernet + 7, 0x09)),
        ("a length of less than its headers", changed(bare.clone(), ethernet + 3, 10)),
        ("data behind a shorter header", changed(tcp_v4(from, ACK, 4), ethernet + 32, 0x50)),
        ("cut in its TCP header", bare[..ethernet + 25].to_vec()),
    ];
    for (name, packet) in forms {
        harness.slow(&[], Ends::Never);
        harness.slow(&[(from, FEW)], Ends::after(clock::now(), 600_000));
        assert_eq!(passing(&harness, &packet, 30), 5, "{name}");
    }
}

#[test]
fn the_slow_lane_ends_in_the_kernel_and_a_ban_goes_before_it() {
    let mut harness = Harness::start(|_| {});
    let none = SlowLimits {
        connections: SlowRate { per_sec: 0, burst: 0 },
        packets: SlowRate { per_sec: 0, burst: 0 },
    };
    harness.slow(&[("192.0.2.7", none)], Ends::after(clock::now(), 300));
    let syn = tcp_v4("192.0.2.7", SYN, 0);
    harness.check("slowed", &syn, Drop, |t| t.slowed);
    harness.ban("192.0.2.7", Ends::after(clock::now(), 200));
    harness.check("banned", &syn, Drop, |t| t.dropped_v4);
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while harness.run_xdp(&syn).unwrap() == Drop {
        assert!(std::time::Instant::now() < deadline, "it ends without anybody's doing");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

#[test]
fn the_rate_is_what_passes_in_a_second() {
    let mut harness = Harness::start(|_| {});
    let limits = SlowLimits {
        connections: SlowRate { per_sec: 20, burst: 4 },
        packets: SlowRate { per_sec: 100, burst: 10 },
    };
    harness.slow(&[("192.0.2.7", limits)], Ends::after(clock::now(), 600_000));
    let packet = tcp_v4("192.0.2.7", SYN, 0);
    let (begin, mut passed) = (std::time::Instant::now(), 0);
    while begin.elapsed() < std::time::Duration::from_secs(2) {
        passed += passing(&harness, &packet, 1);
    }
    let most = 4.0 + 20.0 * begin.elapsed().as_secs_f64() + 1.0;
    assert!(f64::from(passed as u32) <= most, "{passed} of {most}");
    assert!(passed >= 40, "{passed} passed in two seconds of 20/s");
}

/// A list that is put in again, as after each change, gives nobody a new allowance.
#[test]
fn a_client_that_stays_keeps_what_is_left_of_its_allowance() {
    let mut harness = Harness::start(|_| {});
    let ends = Ends::after(clock::now(), 600_000);
    harness.slow(&[("192.0.2.7", FEW)], ends);
    let syn = tcp_v4("192.0.2.7", SYN, 0);
    assert_eq!(passing(&harness, &syn, 9), 3);
    harness.slow(&[("192.0.2.7", FEW), ("198.51.100.3", FEW)], ends);
    assert_eq!(passing(&harness, &syn, 9), 0);
    harness.slow(&[("192.0.2.7", FEW), ("198.51.100.3", FEW)], Ends::after(clock::now(), 900_000));
    assert_eq!(passing(&harness, &syn, 9), 0, "nor does a moved end");
    harness.slow(&[("198.51.100.3", FEW)], ends);
    assert_eq!(passing(&harness, &syn, 9), 9, "let go");
}

/// A reconcile rebuilds the filters, without whose bits nobody is policed.
#[test]
fn a_reconcile_and_a_restart_keep_the_slow_lane() {
    let mut harness = Harness::start(|_| {});
    harness.slow(&[("192.0.2.7", FEW), ("2001:db8:1:2::/64", FEW)], Ends::after(clock::now(), 600_000));
    let syn = tcp_v4("192.0.2.7", SYN, 0);
    assert_eq!(passing(&harness, &syn, 9), 3);
    harness.namespace.enter(|| harness.enforcer.reconcile(&Desired::default(), &[], clock::now())).unwrap();
    assert_eq!(passing(&harness, &syn, 9), 0);
    let settings = harness.settings.clone();
    let mut next = XdpEnforcer::new(settings);
    harness.namespace.enter(|| next.start(&[], clock::now())).unwrap();
    harness.enforcer = next;
    assert_eq!(passing(&harness, &syn, 9), 0, "the next agent begins without giving a new allowance");
    harness.namespace.enter(|| harness.enforcer.reconcile(&Desired::default(), &[], clock::now())).unwrap();
    assert_eq!(passing(&harness, &syn, 9), 0);
    let held = harness.enforcer.observe_slowed().unwrap();
    assert_eq!(held.len(), 2, "{held:?}");
}

impl Harness {
    /// Lets another agent take over.
    fn restart(&mut self) {
        let mut next = XdpEnforcer::new(self.settings.clone());
        self.namespace.enter(|| next.start(&[], clock::now())).unwrap();
        self.enforcer = next;
    }

    fn reconcile(&mut self, wanted: &[&str], ends: Ends) {
        let mut desired = Desired::default();
        for text in wanted {
            let client: Client = text.parse().unwrap();
            let client = Allowlist::default().admit(client, self.settings.ipv6_prefix).unwrap();
            desired.insert(Ban { client, ends }, 1);
        }
        self.namespace.enter(|| self.enforcer.reconcile(&desired, &[], clock::now())).unwrap();
    }

    /// The bits of the IPv4 filter.
    fn bits(&self) -> u32 {
        let map = MapData::from_pin(self.settings.pin_folder.join("maps").join(map_name::FILTER_V4)).unwrap();
        let words: aya::maps::Array<_, u64> = aya::maps::Map::Array(map).try_into().unwrap();
        words.iter().map(|word| word.unwrap().count_ones()).sum()
    }
}

/// A word of the filter has the bits of 64 networks, and is written whole.
#[test]
fn a_ban_right_after_a_restart_lets_nobody_else_go() {
    let mut harness = Harness::start(|_| {});
    let ends = Ends::after(clock::now(), 600_000);
    harness.ban("192.0.2.7", ends);
    harness.restart();
    harness.ban("192.0.3.9", ends);
    for client in ["192.0.2.7", "192.0.3.9"] {
        assert_eq!(harness.run_xdp(&frame(&[], IPV4, &ipv4(client))).unwrap(), Drop, "{client}");
    }
    harness.reconcile(&["192.0.2.7", "192.0.3.9"], ends);
    for client in ["192.0.2.7", "192.0.3.9"] {
        assert_eq!(
            harness.run_xdp(&frame(&[], IPV4, &ipv4(client))).unwrap(),
            Drop,
            "{client} after a reconcile"
        );
    }
}

/// A restart does not read the filters, so that it keeps bits that nobody needs any more; a later reconcile does.
#[test]
fn bits_of_an_earlier_agent_are_cleared_in_the_end() {
    let mut harness = Harness::start(|_| {});
    let ends = Ends::after(clock::now(), 600_000);
    let lifted: Vec<String> = (0..100).map(|n| format!("198.51.{n}.1")).collect();
    harness.ban("192.0.2.7", ends);
    lifted.iter().for_each(|client| harness.ban(client, ends));
    harness.restart();
    harness.reconcile(&["192.0.2.7"], ends);
    assert_eq!(harness.bits(), 101, "which cost packets a lookup");
    assert_eq!(harness.run_xdp(&frame(&[], IPV4, &ipv4(&lifted[0]))).unwrap(), Pass);
    (0..20).for_each(|_| harness.reconcile(&["192.0.2.7"], ends));
    assert_eq!(harness.bits(), 1);
    assert_eq!(harness.run_xdp(&frame(&[], IPV4, &ipv4("192.0.2.7"))).unwrap(), Drop);
}
