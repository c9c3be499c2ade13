//! Runs the story of `cargo xtask lab` as a test.
//!
//! Alone: bans within a second, and this machine's own network compared before and after.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use shield_tests::lab::cdn::{self, Front};
use shield_tests::lab::narrator::Narrator;
use shield_tests::lab::story::{Ending, run};
use shield_tests::lab::{canary, fleet};

/// The bound; in practice it is milliseconds.
const LONGEST_BAN_SECS: f64 = 1.0;
/// Time limit for the whole story.
const LONGEST_STORY: Duration = Duration::from_secs(90);

/// A story's last step looks for what it left on this machine, and would find the namespaces of another that still runs.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

#[test]
fn attack_ban_expiry_and_a_longer_second_ban_with_everybody_else_undisturbed() {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let report = run(&mut Narrator::to_stderr(), Ending::CleanUp);
    assert_eq!(report.failed, None);
    let (first, second) = (report.first_ban.unwrap(), report.second_ban.unwrap());
    for ban in [&first, &second] {
        assert!(ban.ban_secs <= LONGEST_BAN_SECS, "{ban:?}");
    }
    assert!(second.offence == 2 && second.term_secs > first.term_secs, "{first:?} {second:?}");
    let during = report.attacker_during_ban.unwrap();
    assert!(during.answered == 0 && during.requests > 0, "{during:?}");
    assert_eq!(report.bystanders_during.unwrap().lost, 0);
    assert!(report.residue.is_empty(), "{:?}", report.residue);
    assert!(report.took_secs < LONGEST_STORY.as_secs_f64(), "{} s", report.took_secs);
}

fn refuses_the_banned_and_serves_everybody_else(front: Front) {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let report = cdn::run(&mut Narrator::to_stderr(), front);
    assert_eq!(report.failed, None);
    assert!(report.bans >= 20 && report.checks.len() == 5, "{report:?}");
    assert!(report.ok && report.checks.iter().all(|check| check.ok), "{:?}", report.checks);
    let asked = report.visitors_without_agent.map_or(0, |visits| visits.requests);
    assert!(asked >= 50, "{report:?}");
    assert!(report.took_secs < 40.0, "{} s", report.took_secs);
}

#[test]
fn behind_a_proxy_nginx_refuses_the_banned_and_serves_everybody_else() {
    refuses_the_banned_and_serves_everybody_else(Front::Cdn);
}

#[test]
fn in_a_container_nginx_refuses_the_banned_and_serves_everybody_else() {
    refuses_the_banned_and_serves_everybody_else(Front::Container);
}

#[test]
fn a_configuration_that_would_ban_the_visitors_is_refused_and_a_good_one_goes_live_under_load() {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let report = canary::run(&mut Narrator::to_stderr());
    assert_eq!(report.failed, None);
    assert!(report.ok && report.checks.len() == 6, "{report:?}");
    assert!(report.named.len() == 5 && !report.refusals.is_empty(), "{report:?}");
    assert!(report.visitors.is_some_and(|visits| visits.requests >= 100 && visits.lost == 0));
}

/// From the offending line on one host to the entry in the XDP map of the last; in practice it is tens of milliseconds.
const LONGEST_SPREAD_MS: u64 = 1_000;

#[test]
fn banned_on_one_host_of_a_fleet_and_dropped_on_all() {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let report = fleet::run(&mut Narrator::to_stderr(), 4);
    assert_eq!(report.failed, None);
    assert!(report.spread_ms.iter().all(|ms| *ms <= LONGEST_SPREAD_MS), "{report:?}");
    assert!(report.spread_without_a_server_ms.is_some() && report.caught_up_ms.is_some(), "{report:?}");
}
