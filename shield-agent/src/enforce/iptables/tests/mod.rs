//! The whole enforcer on the simulated host: skipped reconciles, counters, refused bans.

mod model;

use super::intact::MAX_SKIPPED;
use super::{IptablesEnforcer, Settings};
use crate::enforce::ban::Ban;
use crate::enforce::desired::Desired;
use crate::enforce::enforcer::Enforcer as _;
use crate::enforce::simulator::SimulatedHost;
use shield_engine::allowlist::Allowlist;
use shield_engine::event::PartState;
use shield_engine::time::{Ends, Now};

const NOW: Now = Now { wall_ms: 1_800_000_000_000, boot_ms: 5_000 };

fn bans(clients: &[&str]) -> Vec<Ban> {
    let client = |text: &&str| Allowlist::default().admit(text.parse().unwrap(), 64).unwrap();
    clients.iter().map(|text| Ban { client: client(text), ends: Ends::Never }).collect()
}

fn table(bans: &[Ban]) -> Desired {
    let mut desired = Desired::default();
    bans.iter().zip(1..).for_each(|(ban, serial)| desired.insert(*ban, serial));
    desired
}

fn banned(clients: &[&str]) -> (Vec<Ban>, Desired) {
    let bans = bans(clients);
    let desired = table(&bans);
    (bans, desired)
}

fn started(host: &SimulatedHost, settings: Settings) -> IptablesEnforcer {
    let mut enforcer = host.enforcer(settings);
    enforcer.start(&[], NOW).unwrap();
    enforcer
}

/// The number of programs that one reconcile runs.
fn runs(host: &SimulatedHost, enforcer: &mut IptablesEnforcer, desired: &Desired) -> usize {
    let before = host.runs();
    let _ = enforcer.reconcile(desired, &[], NOW).unwrap();
    host.runs() - before
}

#[test]
fn a_full_reconcile_is_skipped_only_while_no_rule_changes_and_nothing_else_is_wanted() {
    let host = SimulatedHost::with_nftables();
    let mut enforcer = started(&host, Settings::default());
    let (bans, desired) = banned(&["192.0.2.1", "2001:db8::/64"]);
    enforcer.ensure_banned(&bans, NOW);
    assert!(runs(&host, &mut enforcer, &desired) > 0);
    for _ in 0..MAX_SKIPPED {
        assert_eq!(runs(&host, &mut enforcer, &desired), 0);
    }
    assert!(runs(&host, &mut enforcer, &desired) > 0, "now and then it lists all the same");
    assert_eq!(runs(&host, &mut enforcer, &desired), 0);
    let (_, other) = banned(&["192.0.2.1", "2001:db8:1::/64"]);
    assert!(runs(&host, &mut enforcer, &other) > 0, "another one is wanted");
    enforcer.reconcile(&other, &[], NOW).unwrap();
    host.flush_rules();
    assert!(runs(&host, &mut enforcer, &other) > 0);
    assert!(host.send_from("192.0.2.1".parse().unwrap()), "what was flushed is back");
    enforcer.reconcile(&other, &[], NOW).unwrap();
    let exempt = ["192.0.2.0/24".parse().unwrap()];
    let before = host.runs();
    enforcer.reconcile(&other, &exempt, NOW).unwrap();
    assert!(host.runs() > before, "other networks are exempt");
}

#[test]
fn without_a_generation_every_full_reconcile_lists() {
    let host = SimulatedHost::new();
    let mut enforcer = started(&host, Settings::default());
    let (_, desired) = banned(&[]);
    assert!((0..3).all(|_| runs(&host, &mut enforcer, &desired) > 0));
}

#[test]
fn counters_are_not_read_where_nothing_is_dropped() {
    let host = SimulatedHost::new();
    let mut enforcer = started(&host, Settings::default());
    let before = host.runs();
    enforcer.total_drops().unwrap();
    assert_eq!(host.runs(), before);
    let (bans, _) = banned(&["192.0.2.1"]);
    enforcer.ensure_banned(&bans, NOW);
    host.send_from("192.0.2.1".parse().unwrap());
    assert_eq!(enforcer.total_drops().unwrap().packets, 1);
    enforcer.ensure_lifted(&[bans[0].client.client()]);
    assert_eq!(enforcer.total_drops().unwrap().packets, 1, "what was dropped stays counted");
}

/// The number of bans that the state reports as refused.
fn refused(enforcer: &IptablesEnforcer) -> usize {
    let PartState::Degraded { reason } = enforcer.state() else { return 0 };
    let before = reason.split_once(" refused").map_or("0", |(before, _)| before);
    before.rsplit(' ').next().unwrap().parse().unwrap()
}

/// A client that came twice in one batch took two places, and the last one was refused.
#[test]
fn a_client_twice_in_a_batch_takes_one_place() {
    let host = SimulatedHost::new();
    host.remove_program("ipset");
    let settings = Settings { max_rules: 1, max_rules_without_sets: 2, ..Settings::default() };
    let mut enforcer = started(&host, settings);
    let (all, _) = banned(&["192.0.2.1", "192.0.2.2"]);
    assert!(enforcer.ensure_banned(&[all[0], all[0], all[1]], NOW).is_empty());
    assert_eq!(refused(&enforcer), 0);
}

/// The number was that of the last order alone: banning a known client again made it 0, though others stayed without a
/// rule.
#[test]
fn a_ban_made_again_leaves_the_number_of_refused_ones() {
    let host = SimulatedHost::new();
    host.remove_program("ipset");
    let settings = Settings { max_rules: 1, max_rules_without_sets: 2, ..Settings::default() };
    let mut enforcer = started(&host, settings);
    let (all, desired) = banned(&["192.0.2.1", "192.0.2.2", "192.0.2.3", "2001:db8::/64"]);
    assert_eq!(enforcer.ensure_banned(&all, NOW).len(), 2);
    assert_eq!(refused(&enforcer), 2);
    assert!(enforcer.ensure_banned(&all[..1], NOW).is_empty());
    assert_eq!(refused(&enforcer), 2, "a known client was banned again");
    assert_eq!(enforcer.ensure_banned(&all[2..], NOW).len(), 2);
    assert_eq!(refused(&enforcer), 2, "the same two were refused again");

    enforcer.reconcile(&desired, &[], NOW).unwrap_err();
    assert_eq!(refused(&enforcer), 2, "a reconcile finds no room either");
    assert!(enforcer.ensure_lifted(&[all[0].client.client(), all[2].client.client()]).is_empty());
    assert_eq!(refused(&enforcer), 1, "one of the two need not be banned any more");
    assert!(enforcer.ensure_banned(&all[3..], NOW).is_empty(), "the lift made room");
    assert_eq!(refused(&enforcer), 0);
}
