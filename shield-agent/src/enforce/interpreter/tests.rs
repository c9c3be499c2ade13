//! The interpreter step by step, without threads and with a clock of its own, over the simulated host.

use std::sync::{Arc, Mutex};

use anyhow::{Result, bail};
use ipnet::IpNet;

use super::lane::lock;
use super::shared::Shared;
use super::worker::{Next, Worker};
use super::{Interpreter, Report, Settings, Start};
use crate::enforce::ahead::{Ahead, Begun};
use crate::enforce::ban::{Ban, Drops, Failure};
use crate::enforce::desired::Desired;
use crate::enforce::enforcer::Enforcer;
use crate::enforce::iptables;
use crate::enforce::iptables::Version;
use crate::enforce::simulator::SimulatedHost;
use shield_engine::action::Order;
use shield_engine::allowlist::Allowlist;
use shield_engine::ban::Place;
use shield_engine::client::Client;
use shield_engine::event::{EnforcerName, Outcome, PartState, Repair};
use shield_engine::time::{Ends, Now};

const NOW: Now = Now { wall_ms: 1_700_000_000_000, boot_ms: 100_000 };

fn no_clock() -> Now {
    NOW
}

fn bannable(text: &str) -> Ban {
    let client: Client = text.parse().unwrap();
    Ban { client: Allowlist::default().admit(client, 64).unwrap(), ends: Ends::after(NOW, 3_600_000) }
}

fn ban(text: &str, serial: u64) -> Order {
    let Ban { client, ends } = bannable(text);
    Order::Ban { client, ends, place: Place::Everywhere, serial }
}

fn lift(text: &str, serial: u64) -> Order {
    Order::Lift { client: text.parse().unwrap(), serial }
}

/// One enforcer under an interpreter whose thread is the test itself.
struct Bench {
    shared: Arc<Shared>,
    worker: Worker,
    reports: Arc<Mutex<Vec<Report>>>,
    now: Now,
}

impl Bench {
    fn new(enforcer: Box<dyn Enforcer>, desired: Desired) -> Bench {
        Bench::beside(enforcer, desired, &[])
    }

    /// With the lanes of others, which nobody works on.
    fn beside(enforcer: Box<dyn Enforcer>, desired: Desired, others: &[EnforcerName]) -> Bench {
        Bench::of(Begun { enforcer, start: None }, desired, others)
    }

    fn of(begun: Begun, desired: Desired, others: &[EnforcerName]) -> Bench {
        let reports = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&reports);
        let report = move |report| lock(&sink).push(report);
        let start = Start {
            desired: desired.into(),
            exempt: Vec::new(),
            slowed: Vec::new(),
            clock: no_clock,
            settings: Settings::default(),
        };
        let names = std::iter::once(begun.enforcer.name()).chain(others.iter().copied());
        let shared = Arc::new(Shared::new(names, start, Arc::new(report)));
        let worker = Worker::new(begun, Arc::clone(&shared), 0);
        Bench { shared, worker, reports, now: NOW }
    }

    fn on(host: &SimulatedHost) -> Bench {
        Bench::new(Box::new(host.enforcer(iptables::Settings::default())), Desired::default())
    }

    /// With an nginx beside it.
    fn on_both(host: &SimulatedHost) -> Bench {
        let enforcer = Box::new(host.enforcer(iptables::Settings::default()));
        Bench::beside(enforcer, Desired::default(), &[EnforcerName::Nginx])
    }

    /// Steps until there is nothing to do before the clock goes on.
    fn settle(&mut self) {
        for _ in 0..10_000 {
            if matches!(self.worker.step(self.now), Next::At(_)) {
                return;
            }
        }
        panic!("the worker never comes to rest");
    }

    /// Lets the clock go on in steps of a tenth of a second.
    fn pass(&mut self, ms: u64) {
        for _ in 0..ms / 100 {
            self.now = self.now.plus_ms(100);
            self.settle();
        }
    }

    fn desired(&self) -> std::sync::RwLockReadGuard<'_, Desired> {
        self.shared.read_desired(&self.shared.lanes[0])
    }

    fn outcomes(&self) -> Vec<Outcome> {
        let reports = lock(&self.reports);
        reports
            .iter()
            .filter_map(|r| {
                if let Report::Outcome(o) | Report::Restored(o, _) = r { Some(o.clone()) } else { None }
            })
            .collect()
    }

    fn banned(&self) -> Vec<(String, u64)> {
        self.outcomes().iter().flat_map(|o| &o.banned).map(|(client, n)| (client.to_string(), *n)).collect()
    }

    fn repairs(&self) -> Vec<Repair> {
        let reports = lock(&self.reports);
        reports
            .iter()
            .filter_map(|report| match report {
                Report::Part(part) => part.repaired.clone(),
                _ => None,
            })
            .collect()
    }

    fn state(&self) -> PartState {
        lock(&self.shared.lanes[0].view).state.clone()
    }
}

fn drops(host: &SimulatedHost, source: &str) -> bool {
    host.send_from(source.parse().unwrap())
}

#[test]
fn orders_are_carried_out_and_reported() {
    let host = SimulatedHost::new();
    let mut bench = Bench::on(&host);
    bench.settle();
    bench.shared.submit(vec![ban("192.0.2.1", 1), ban("2001:db8::/64", 2), lift("192.0.2.9", 3)]);
    bench.settle();
    assert!(drops(&host, "192.0.2.1") && drops(&host, "2001:db8::77"));
    assert_eq!(bench.banned(), [("192.0.2.1".to_owned(), 1), ("2001:db8::/64".to_owned(), 2)]);
    bench.shared.submit(vec![lift("192.0.2.1", 1)]);
    bench.settle();
    assert!(!drops(&host, "192.0.2.1"));
    let lifted: Vec<u64> = bench.outcomes().iter().flat_map(|o| &o.lifted).map(|(_, n)| *n).collect();
    assert_eq!(lifted, [3, 1]);
    assert_eq!(bench.desired().len(), 1);
    bench.pass(35_000);
    assert_eq!(bench.repairs(), [], "nothing was wrong");
}

#[test]
fn new_bans_go_before_lifts_and_lifts_go_in_pieces() {
    let host = SimulatedHost::new();
    let sets = iptables::Settings { backend: iptables::Backend::Ipset, ..iptables::Settings::default() };
    let mut bench = Bench::new(Box::new(host.enforcer(sets)), Desired::default());
    bench.settle();
    let lifts = (0..20_000_u32)
        .map(|n| Order::Lift { client: std::net::Ipv4Addr::from_bits(n + 1).into(), serial: 1 });
    bench.shared.submit(lifts.collect());
    assert_eq!(bench.worker.step(bench.now), Next::Again);
    bench.shared.submit(vec![ban("192.0.2.1", 7)]);
    bench.worker.step(bench.now);
    assert!(drops(&host, "192.0.2.1"), "the very next step bans");
    let lifted: usize = bench.outcomes().iter().map(|outcome| outcome.lifted.len()).sum();
    assert!((1..10_000).contains(&lifted), "{lifted} lifted in one piece");
    bench.settle();
    assert_eq!(bench.outcomes().iter().map(|outcome| outcome.lifted.len()).sum::<usize>(), 20_000);
}

#[test]
fn a_flush_is_found_by_the_cheap_check_and_healed() {
    let host = SimulatedHost::new();
    let mut bench = Bench::on(&host);
    bench.settle();
    bench.shared.submit(vec![ban("192.0.2.1", 1)]);
    bench.settle();
    host.flush_rules();
    bench.pass(2_000);
    assert!(drops(&host, "192.0.2.1"), "healed within one check");
    let [repair] = &bench.repairs()[..] else { panic!("{:?}", bench.repairs()) };
    let found = "IPv4: the jump from INPUT was gone; IPv4: chain SHIELD had been flushed; \
                 IPv6: the jump from INPUT was gone; 1 ban was missing";
    assert_eq!((repair.found.as_str(), repair.restored, repair.removed), (found, 1, 0));
}

/// While nobody is to be dropped, checks are rarer.
#[test]
fn a_flush_before_the_first_ban_is_healed_by_that_ban_or_within_five_seconds() {
    let host = SimulatedHost::new();
    let mut bench = Bench::on(&host);
    bench.settle();
    bench.pass(8_000);
    host.flush_rules();
    bench.pass(4_000);
    assert_eq!(bench.repairs().len(), 1);
    host.flush_rules();
    bench.shared.submit(vec![ban("192.0.2.1", 1)]);
    bench.settle();
    bench.pass(100);
    assert!(drops(&host, "192.0.2.1"), "the ban brought a check");
}

#[test]
fn an_enforcer_that_cannot_start_is_degraded_and_retried() {
    let host = SimulatedHost::new();
    host.remove_program("iptables");
    host.remove_program("ip6tables");
    let mut bench = Bench::on(&host);
    bench.settle();
    bench.shared.submit(vec![ban("192.0.2.1", 1), lift("192.0.2.2", 2)]);
    bench.settle();
    let PartState::Degraded { reason } = bench.state() else { panic!("{:?}", bench.state()) };
    assert!(reason.contains("iptables-save is not installed (package iptables)"), "{reason}");
    assert!(reason.starts_with("inactive, retrying: "), "{reason}");
    let outcomes = bench.outcomes();
    let failed: Vec<_> = outcomes.iter().flat_map(|o| &o.failed).collect();
    assert_eq!((failed.len(), failed[0].serial), (1, 1));
    assert_eq!(outcomes.iter().flat_map(|o| &o.lifted).count(), 1, "what was never in force is lifted");
    host.install_program("iptables");
    host.install_program("ip6tables");
    bench.pass(5_000);
    assert!(matches!(bench.state(), PartState::Active { .. }), "{:?}", bench.state());
    assert!(drops(&host, "192.0.2.1"), "what was ordered meanwhile is in force");
    assert_eq!(bench.banned(), [("192.0.2.1".to_owned(), 1)]);
}

/// Its bans are not known yet while it is set up: what an earlier run left must stay.
#[test]
fn an_enforcer_set_up_ahead_of_its_bans_is_not_set_up_again() {
    let host = SimulatedHost::new();
    let mut earlier = host.enforcer(iptables::Settings::default());
    earlier.start(&[], NOW).unwrap();
    assert!(earlier.ensure_banned(&[bannable("192.0.2.1"), bannable("192.0.2.9")], NOW).is_empty());
    let enforcer = Box::new(host.enforcer(iptables::Settings::default()));
    let begun = Ahead::begin(enforcer, Vec::new(), NOW).unwrap().finish();
    assert!(matches!(begun.start, Some(Ok(Ok(())))));
    assert!(
        drops(&host, "192.0.2.1") && drops(&host, "192.0.2.9"),
        "nothing is lifted before the bans are known"
    );
    let mut desired = Desired::default();
    desired.insert(bannable("192.0.2.1"), 1);
    desired.insert(bannable("192.0.2.2"), 2);
    let mut bench = Bench::of(begun, desired, &[]);
    // Fewer programs than a worker runs that has the set-up still before it.
    let before = host.runs();
    assert_eq!(bench.worker.step(bench.now), Next::Again);
    let fresh = {
        let other = SimulatedHost::new();
        let mut bench = Bench::on(&other);
        bench.worker.step(bench.now);
        other.runs()
    };
    assert!(host.runs() - before < fresh, "{} of {fresh} programs were run", host.runs() - before);
    bench.settle();
    assert!(matches!(bench.state(), PartState::Active { .. }), "{:?}", bench.state());
    assert!(drops(&host, "192.0.2.1") && drops(&host, "192.0.2.2") && !drops(&host, "192.0.2.9"));
    let mut banned = bench.banned();
    banned.sort();
    assert_eq!(banned, [("192.0.2.1".to_owned(), 1), ("192.0.2.2".to_owned(), 2)]);
}

#[test]
fn an_enforcer_that_could_not_be_set_up_ahead_is_retried() {
    let host = SimulatedHost::new();
    host.fail("tables", usize::MAX, "Permission denied (you must be root)");
    let begun = Ahead::begin(Box::new(host.enforcer(iptables::Settings::default())), Vec::new(), NOW);
    let mut bench = Bench::of(begun.unwrap().finish(), Desired::default(), &[]);
    bench.settle();
    let PartState::Degraded { reason } = bench.state() else { panic!("{:?}", bench.state()) };
    assert!(reason.starts_with("inactive, retrying: ") && reason.contains("must be root"), "{reason}");
    host.end_failures();
    bench.pass(5_000);
    assert!(matches!(bench.state(), PartState::Active { .. }), "{:?}", bench.state());
}

#[test]
fn a_panic_in_the_set_up_ahead_is_a_state_and_retried() {
    let host = SimulatedHost::new();
    let enforcer: Box<dyn Enforcer> = Box::new(host.enforcer(iptables::Settings::default()));
    let begun = Begun { enforcer, start: Some(Err(Box::new("a bug"))) };
    let mut bench = Bench::of(begun, Desired::default(), &[]);
    assert_eq!(bench.worker.step(bench.now), Next::Again);
    let PartState::Degraded { reason } = bench.state() else { panic!("{:?}", bench.state()) };
    assert!(reason.contains("starting panicked: a bug"), "{reason}");
    bench.pass(5_000);
    assert!(matches!(bench.state(), PartState::Active { .. }), "{:?}", bench.state());
}

#[test]
fn a_start_without_root_does_not_spin() {
    let host = SimulatedHost::new();
    host.fail("tables", usize::MAX, "Permission denied (you must be root)");
    let mut bench = Bench::on(&host);
    bench.pass(300_000);
    let starts = host.runs() / 2;
    assert!((5..20).contains(&starts), "{starts} attempts in five minutes");
}

#[test]
fn failed_bans_are_reported_and_retried_at_the_reconcile() {
    let host = SimulatedHost::new();
    let mut bench = Bench::on(&host);
    bench.settle();
    host.fail("iptables-restore", 2, "Resource temporarily unavailable");
    bench.shared.submit(vec![ban("192.0.2.1", 1)]);
    bench.settle();
    let failed = bench.outcomes().into_iter().flat_map(|o| o.failed).next().unwrap();
    assert!(failed.error.contains("temporarily unavailable") && !failed.was_lift, "{failed:?}");
    assert!(!drops(&host, "192.0.2.1"));
    bench.pass(30_000);
    assert!(drops(&host, "192.0.2.1"));
    assert_eq!(bench.banned(), [("192.0.2.1".to_owned(), 1)]);
    assert_eq!(bench.repairs(), [], "a ban that was not there yet is no repair");
}

/// History: such a ban waited for the next full reconcile, up to 30 s.
#[test]
fn a_ban_that_waited_for_iptables_lock_is_made_by_the_next_check() {
    let host = SimulatedHost::new();
    let mut bench = Bench::on(&host);
    bench.settle();
    host.fail("iptables-restore", 1, "Another app is currently holding the xtables lock");
    bench.shared.submit(vec![ban("192.0.2.1", 1)]);
    bench.settle();
    let PartState::Degraded { reason } = bench.state() else { panic!("{:?}", bench.state()) };
    assert!(reason.contains("iptables is locked by another program"), "{reason}");
    bench.pass(2_000);
    assert!(drops(&host, "192.0.2.1"));
    assert_eq!(bench.repairs(), [], "a ban that was not there yet is no repair");
    assert!(matches!(bench.state(), PartState::Active { .. }), "{:?}", bench.state());
}

#[test]
fn a_failed_query_is_an_error_and_a_state() {
    let host = SimulatedHost::new();
    let mut bench = Bench::on(&host);
    bench.settle();
    bench.shared.submit(vec![ban("192.0.2.1", 1)]);
    bench.settle();
    host.fail("iptables-save", 4, "Resource temporarily unavailable");
    bench.pass(2_000);
    assert!(matches!(bench.state(), PartState::Degraded { .. }), "{:?}", bench.state());
    bench.pass(40_000);
    assert!(matches!(bench.state(), PartState::Active { .. }), "{:?}", bench.state());
    assert!(drops(&host, "192.0.2.1"));
}

/// Invariant 9: bans that cannot be listed are not taken for absent, and not repaired.
#[test]
fn a_failed_listing_changes_nothing() {
    // Each with the program that lists its bans: a set is kept up to date even while the chains cannot be listed.
    let listings = [(iptables::Backend::Rules, "iptables-save"), (iptables::Backend::Ipset, "ipset save")];
    for (backend, listing) in listings {
        let host = SimulatedHost::new();
        let mut enforcer = host.enforcer(iptables::Settings { backend, ..iptables::Settings::default() });
        enforcer.start(&[], NOW).unwrap();
        let mut desired = Desired::default();
        for (text, serial) in [("192.0.2.1", 1), ("2001:db8::/64", 2)] {
            desired.insert(bannable(text), serial);
        }
        enforcer.reconcile(&desired, &[], NOW).unwrap();
        let held = enforcer.observe(NOW).unwrap();
        assert_eq!(held.len(), 2, "{held:?}");
        // One ban too many and one too few: a reconcile that went on would change something.
        desired.remove(&"192.0.2.1".parse().unwrap());
        desired.insert(bannable("192.0.2.2"), 3);
        host.fail(listing, usize::MAX, "Resource temporarily unavailable");
        let error = enforcer.reconcile(&desired, &[], NOW).unwrap_err();
        assert!(format!("{error:#}").contains("temporarily unavailable"), "{error:#}");
        assert!(enforcer.observe(NOW).is_err(), "not even an empty list");
        host.end_failures();
        assert_eq!(enforcer.observe(NOW).unwrap(), held, "after a failed {listing}");
    }
}

#[test]
fn one_family_missing_is_degraded_and_the_other_goes_on() {
    let host = SimulatedHost::new();
    host.remove_program("ip6tables");
    let mut bench = Bench::on(&host);
    bench.settle();
    bench.shared.submit(vec![ban("192.0.2.1", 1), ban("2001:db8::/64", 2)]);
    bench.settle();
    assert!(drops(&host, "192.0.2.1"));
    assert_eq!(bench.banned(), [("192.0.2.1".to_owned(), 1)]);
    let PartState::Degraded { reason } = bench.state() else { panic!("{:?}", bench.state()) };
    assert!(reason.contains("no IPv6: ip6tables-save is not installed"), "{reason}");
    host.flush_rules();
    bench.pass(2_000);
    assert!(drops(&host, "192.0.2.1"), "the other family still heals");
    host.install_program("ip6tables");
    bench.pass(30_000);
    assert!(drops(&host, "2001:db8::77"), "it comes back when it can");
}

/// A host that was booted with `ipv6.disable=1` was degraded for ever, with a critical alert.
#[test]
fn a_host_without_ipv6_is_not_degraded_by_that() {
    for has_program in [true, false] {
        let host = SimulatedHost::new();
        host.set_ipv6(false);
        if !has_program {
            host.remove_program("ip6tables");
        }
        let mut bench = Bench::on(&host);
        bench.settle();
        bench.shared.submit(vec![ban("192.0.2.1", 1), ban("2001:db8::/64", 2)]);
        bench.pass(60_000);
        assert!(drops(&host, "192.0.2.1"));
        assert_eq!(bench.banned(), [("192.0.2.1".to_owned(), 1)]);
        let PartState::Active { detail } = bench.state() else { panic!("{:?}", bench.state()) };
        assert_eq!(detail, "1 single rule, first in INPUT; no IPv6: this host has no IPv6");
        // Its module is loaded: from then on it is needed.
        host.set_ipv6(true);
        bench.pass(60_000);
        assert!(matches!(bench.state(), PartState::Active { .. }) == has_program, "{:?}", bench.state());
        assert_eq!(drops(&host, "2001:db8::77"), has_program);
    }
}

/// They used to be reported as banned, and shown as in force, though nothing dropped them.
#[test]
fn restored_bans_of_a_missing_family_fail_until_it_is_ready() {
    let host = SimulatedHost::new();
    host.remove_program("ip6tables");
    let mut desired = Desired::default();
    desired.insert(bannable("192.0.2.1"), 1);
    desired.insert(bannable("2001:db8::/64"), 2);
    let mut bench = Bench::new(Box::new(host.enforcer(iptables::Settings::default())), desired);
    bench.settle();
    assert_eq!(bench.banned(), [("192.0.2.1".to_owned(), 1)]);
    let failed: Vec<_> = bench.outcomes().into_iter().flat_map(|o| o.failed).collect();
    let [order] = &failed[..] else { panic!("{failed:?}") };
    assert_eq!((order.serial, order.was_lift), (2, false));
    let reason = "IPv6 cannot be filtered here: ip6tables-save is not installed";
    assert!(order.error.starts_with(reason), "{order:?}");
    bench.pass(60_000);
    assert_eq!(bench.banned(), [("192.0.2.1".to_owned(), 1)], "not even after a reconcile");
    host.install_program("ip6tables");
    bench.pass(30_000);
    assert!(drops(&host, "2001:db8::77"));
    assert_eq!(
        bench.banned()[1..],
        [("2001:db8::/64".to_owned(), 2)],
        "by the reconcile that finds it ready"
    );
}

#[test]
fn restored_bans_are_put_in_force_and_reported_once() {
    let host = SimulatedHost::new();
    let mut desired = Desired::default();
    for n in 0..10_000_u32 {
        let text = std::net::Ipv4Addr::from_bits(0x0a00_0000 + n).to_string();
        desired.insert(bannable(&text), u64::from(n));
    }
    let enforcer = Box::new(host.enforcer(iptables::Settings::default()));
    let mut bench = Bench::new(enforcer, desired);
    bench.settle();
    let mut serials: Vec<u64> = bench.banned().into_iter().map(|(_, serial)| serial).collect();
    serials.sort_unstable();
    assert_eq!(serials, (0..10_000).collect::<Vec<u64>>());
    assert!(drops(&host, "10.0.39.15") && !drops(&host, "10.0.39.16"));
    assert_eq!(host.rules(Version::V4, "SHIELD"), ["-m set --match-set shield4 src -j DROP"]);
    bench.pass(35_000);
    assert_eq!(bench.repairs(), []);
}

/// Five million bans, 32 bytes each, stood in the queue of an engine that works them in more slowly than they are reported.
#[test]
fn an_engine_that_is_behind_gets_no_more_of_the_restored_bans() {
    let host = SimulatedHost::new();
    let mut desired = Desired::default();
    const BANS: u32 = 40_000;
    for n in 0..BANS {
        let text = std::net::Ipv4Addr::from_bits(0x0a00_0000 + n).to_string();
        desired.insert(bannable(&text), u64::from(n));
    }
    let enforcer = Box::new(host.enforcer(iptables::Settings::default()));
    let mut bench = Bench::new(enforcer, desired);
    bench.settle();
    assert_eq!(bench.outcomes().len(), 8, "the others come when these were worked in");
    let mut serials = Vec::new();
    while !bench.banned().is_empty() {
        serials.extend(bench.banned().into_iter().map(|(_, serial)| serial));
        lock(&bench.reports).clear();
        bench.settle();
    }
    serials.sort_unstable();
    assert_eq!(serials, (0..u64::from(BANS)).collect::<Vec<u64>>(), "each is reported once");
}

#[test]
fn samples_are_answered_even_when_nobody_knows() {
    let host = SimulatedHost::new();
    let mut bench = Bench::on(&host);
    bench.settle();
    bench.shared.submit(vec![ban("192.0.2.1", 1)]);
    bench.settle();
    drops(&host, "192.0.2.1");
    drops(&host, "192.0.2.1");
    let sample = |text: &str, serial| Order::SampleActivity { client: text.parse().unwrap(), serial };
    bench.shared.submit(vec![sample("192.0.2.1", 1), sample("192.0.2.9", 5)]);
    bench.settle();
    let reports = lock(&bench.reports);
    let activity: Vec<_> = reports
        .iter()
        .filter_map(|r| {
            if let Report::Activity { serial, packets, .. } = r { Some((*serial, *packets)) } else { None }
        })
        .collect();
    assert_eq!(activity, [(1, 2), (5, 0)]);
}

#[test]
fn totals_and_drops_are_there_for_the_page() {
    let host = SimulatedHost::new();
    let mut bench = Bench::on(&host);
    bench.settle();
    bench.shared.submit(vec![ban("192.0.2.1", 1)]);
    bench.settle();
    (0..5).for_each(|_| assert!(drops(&host, "192.0.2.1")));
    // Nothing was dropped before: the counters are read along with the next check.
    bench.pass(2_000);
    assert_eq!(lock(&bench.shared.lanes[0].view).total, Drops { packets: 5, bytes: 300 });
    bench.shared.submit(vec![lift("192.0.2.1", 1)]);
    bench.settle();
    bench.pass(1_000);
    assert_eq!(
        lock(&bench.shared.lanes[0].view).total,
        Drops { packets: 5, bytes: 300 },
        "a lift forgets nothing"
    );
}

/// Bans that come in while a start or a reconcile puts thousands back are in force before that is over.
#[test]
fn new_bans_get_in_between_a_long_reconcile() {
    let host = SimulatedHost::new();
    let mut desired = Desired::default();
    for n in 0..20_000_u32 {
        desired.insert(bannable(&std::net::Ipv4Addr::from_bits(0x0a00_0000 + n).to_string()), u64::from(n));
    }
    let mut bench = Bench::new(Box::new(host.enforcer(iptables::Settings::default())), desired);
    bench.shared.submit(vec![ban("192.0.2.1", 77_777)]);
    bench.worker.step(bench.now);
    assert_eq!(
        bench.banned(),
        [("192.0.2.1".to_owned(), 77_777)],
        "reported by the very step that fills the set"
    );
    assert!(drops(&host, "192.0.2.1") && drops(&host, "10.0.0.1"));
    bench.settle();
    host.flush_sets();
    bench.shared.submit(vec![ban("192.0.2.2", 77_778), lift("192.0.2.1", 77_777)]);
    bench.pass(35_000);
    assert!(drops(&host, "192.0.2.2") && !drops(&host, "192.0.2.1") && drops(&host, "10.0.0.1"));
    assert_eq!(bench.desired().len(), 20_001);
    assert!(matches!(bench.state(), PartState::Active { .. }), "{:?}", bench.state());
}

/// A thousand rules that ended together used to be deleted one by one, for each of which iptables walks the chain: 25 s
/// with 10,000 of them, in which a new ban waited for up to 1.4 s.
#[test]
fn many_rules_that_end_together_leave_in_one_transaction() {
    let host = SimulatedHost::new();
    let rules = iptables::Settings { backend: iptables::Backend::Rules, ..iptables::Settings::default() };
    let mut bench = Bench::new(Box::new(host.enforcer(rules)), Desired::default());
    bench.settle();
    let address = |n: u32| std::net::Ipv4Addr::from_bits(0x0a00_0000 + n).to_string();
    bench.shared.submit((0..2_000).map(|n| ban(&address(n), u64::from(n))).collect());
    bench.settle();
    assert!(drops(&host, "10.0.0.7"));
    bench.shared.submit((0..1_900).map(|n| lift(&address(n), u64::from(n))).collect());
    let before = host.runs();
    bench.worker.step(bench.now);
    assert_eq!(host.runs() - before, 2, "the counters are read and the chain is written, once");
    assert_eq!(host.rules(Version::V4, "SHIELD").len(), 100);
    assert!(!drops(&host, "10.0.0.8") && drops(&host, "10.0.7.200"));
    bench.pass(2_000);
    assert_eq!(
        lock(&bench.shared.lanes[0].view).total,
        Drops { packets: 2, bytes: 120 },
        "a lift forgets nothing"
    );
}

/// An enforcer with a bug.
struct Panics {
    armed: bool,
}

impl Enforcer for Panics {
    fn name(&self) -> EnforcerName {
        EnforcerName::Xdp
    }
    fn start(&mut self, _: &[IpNet], _: Now) -> Result<()> {
        Ok(())
    }
    fn state(&self) -> PartState {
        PartState::Active { detail: String::new() }
    }
    fn ensure_banned(&mut self, _: &[Ban], _: Now) -> Vec<Failure> {
        assert!(!std::mem::take(&mut self.armed), "a bug");
        Vec::new()
    }
    fn ensure_lifted(&mut self, _: &[Client]) -> Vec<Failure> {
        Vec::new()
    }
    fn ensure_exempt(&mut self, _: &[IpNet]) -> Result<()> {
        Ok(())
    }
    fn observe(&mut self, _: Now) -> Result<Vec<(Client, Option<Ends>)>> {
        bail!("not asked")
    }
    fn is_intact(&mut self, _: usize) -> Result<bool> {
        Ok(true)
    }
    fn reconcile(&mut self, _: &Desired, _: &[IpNet], _: Now) -> Result<Option<Repair>> {
        Ok(None)
    }
    fn drops(&mut self, clients: &[Client]) -> Result<Vec<Option<Drops>>> {
        Ok(vec![None; clients.len()])
    }
    fn total_drops(&mut self) -> Result<Drops> {
        Ok(Drops::default())
    }
    fn cleanup(&mut self) -> Result<Vec<String>> {
        Ok(Vec::new())
    }
}

#[test]
fn an_enforcer_that_panics_is_started_again() {
    let mut bench = Bench::new(Box::new(Panics { armed: true }), Desired::default());
    bench.settle();
    bench.shared.submit(vec![ban("192.0.2.1", 1)]);
    bench.worker.step(bench.now);
    let PartState::Degraded { reason } = bench.state() else { panic!("{:?}", bench.state()) };
    assert!(reason.contains("banning panicked: a bug"), "{reason}");
    let failed: Vec<_> = bench.outcomes().into_iter().flat_map(|o| o.failed).collect();
    assert_eq!((failed.len(), failed[0].serial), (1, 1));
    bench.settle();
    assert!(matches!(bench.state(), PartState::Active { .. }), "{:?}", bench.state());
    assert_eq!(bench.banned(), [("192.0.2.1".to_owned(), 1)], "put in force by the new start");
}

/// Waits for something that a thread will do; the deadline only bounds a failing test.
fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while !done() {
        assert!(std::time::Instant::now() < deadline, "{what} did not happen");
        std::thread::yield_now();
    }
}

#[test]
fn threads_carry_orders_out_and_answer_questions() {
    let host = SimulatedHost::new();
    let reports = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&reports);
    let start = Start {
        desired: Desired::default().into(),
        exempt: vec!["192.0.2.9/32".parse().unwrap()],
        slowed: Vec::new(),
        clock: crate::clock::now,
        settings: Settings::default(),
    };
    let enforcers: Vec<Box<dyn Enforcer>> =
        vec![Box::new(host.enforcer(iptables::Settings::default())), Box::new(Panics { armed: false })];
    let interpreter = Interpreter::start(enforcers, start, move |report| lock(&sink).push(report)).unwrap();
    // Without an end: the threads read the real clocks.
    let client = bannable("192.0.2.0/24").client;
    interpreter.submit(vec![Order::Ban { client, ends: Ends::Never, place: Place::Everywhere, serial: 1 }]);
    let banned_by = |name| {
        let reports = lock(&reports);
        reports.iter().any(|r| matches!(r, Report::Outcome(o) | Report::Restored(o, _) if o.enforcer == name && !o.banned.is_empty()))
    };
    eventually("both enforcers ban", || {
        [EnforcerName::Iptables, EnforcerName::Xdp].into_iter().all(banned_by)
    });
    assert!(drops(&host, "192.0.2.1") && !drops(&host, "192.0.2.9"));
    interpreter.set_exempt(Vec::new());
    eventually("the exemption ends", || drops(&host, "192.0.2.9"));
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let asked = runtime.block_on(interpreter.drops(vec!["192.0.2.0/24".parse().unwrap()]));
    assert!(
        matches!(&asked[0], (EnforcerName::Iptables, Ok(drops)) if drops[0].is_some_and(|d| d.packets >= 2))
    );
    host.flush_ruleset();
    let repaired = runtime.block_on(interpreter.reconcile_now());
    assert!(repaired.iter().all(|(_, result)| result.is_ok()), "{repaired:?}");
    assert!(drops(&host, "192.0.2.1"));
    drop(interpreter);
    assert!(drops(&host, "192.0.2.1"), "bans outlive the agent");
}

/// Once such a panic ended the thread, and nothing was put in force any more.
#[test]
fn a_panic_around_the_enforcer_is_a_state_and_the_thread_goes_on() {
    let host = SimulatedHost::new();
    let reports = Arc::new(Mutex::new(Vec::new()));
    let (sink, armed) = (Arc::clone(&reports), std::sync::atomic::AtomicBool::new(true));
    let start = Start {
        desired: Desired::default().into(),
        exempt: Vec::new(),
        slowed: Vec::new(),
        clock: crate::clock::now,
        settings: Settings { retry_first_ms: 50, ..Settings::default() },
    };
    let report = move |report| {
        let is_outcome = matches!(report, Report::Outcome(_) | Report::Restored(..));
        assert!(
            !(is_outcome && armed.swap(false, std::sync::atomic::Ordering::Relaxed)),
            "this panic belongs to the test"
        );
        lock(&sink).push(report);
    };
    let enforcers: Vec<Box<dyn Enforcer>> = vec![Box::new(host.enforcer(iptables::Settings::default()))];
    let interpreter = Interpreter::start(enforcers, start, report).unwrap();
    let (first, second) = (bannable("192.0.2.1").client, bannable("192.0.2.2").client);
    interpreter.submit(vec![Order::Ban {
        client: first,
        ends: Ends::Never,
        place: Place::Everywhere,
        serial: 1,
    }]);
    let is_state = |wanted: &dyn Fn(&PartState) -> bool| {
        lock(&reports).iter().any(|report| matches!(report, Report::Part(part) if wanted(&part.state)))
    };
    eventually("it is degraded", || {
        is_state(
            &|state| matches!(state, PartState::Degraded { reason } if reason.contains("belongs to the test")),
        )
    });
    interpreter.submit(vec![Order::Ban {
        client: second,
        ends: Ends::Never,
        place: Place::Everywhere,
        serial: 2,
    }]);
    eventually("both are dropped", || drops(&host, "192.0.2.1") && drops(&host, "192.0.2.2"));
    eventually("it is active", || matches!(&interpreter.states()[..], [(_, PartState::Active { .. })]));
}

/// A ban for nginx alone is none of this enforcer's, and one that was everywhere before is taken out.
#[test]
fn an_enforcer_holds_the_bans_of_its_place() {
    let host = SimulatedHost::new();
    let mut bench = Bench::on_both(&host);
    bench.settle();
    let placed = |text: &str, place: Place, serial: u64| {
        let Ban { client, ends } = bannable(text);
        Order::Ban { client, ends, place, serial }
    };
    bench.shared.submit(vec![
        placed("192.0.2.1", Place::Nginx, 1),
        placed("192.0.2.2", Place::Kernel, 2),
        placed("192.0.2.3", Place::Everywhere, 3),
    ]);
    bench.settle();
    assert_eq!(bench.banned(), [("192.0.2.2".to_owned(), 2), ("192.0.2.3".to_owned(), 3)]);
    assert!(!drops(&host, "192.0.2.1"));
    // Intact, however many bans are elsewhere.
    bench.pass(35_000);
    assert_eq!((bench.repairs(), bench.desired().len()), (vec![], 2));
    bench
        .shared
        .submit(vec![placed("192.0.2.1", Place::Everywhere, 1), placed("192.0.2.3", Place::Nginx, 4)]);
    bench.settle();
    assert!(drops(&host, "192.0.2.1") && drops(&host, "192.0.2.2") && !drops(&host, "192.0.2.3"));
    bench.pass(35_000);
    assert_eq!(bench.repairs(), []);
    assert_eq!(bench.shared.copy().desired.len(), 3, "whoever is handed the list gets all");
    // What was flushed comes back, and nothing else.
    host.flush_ruleset();
    bench.pass(35_000);
    assert!(drops(&host, "192.0.2.1") && drops(&host, "192.0.2.2") && !drops(&host, "192.0.2.3"));
}
