//! A short walk of chaos: every outage in turn, several at once, under traffic and attacks. `cargo xtask lab --chaos` walks longer;
//! a seed that fails there is walked here from then on.

use std::time::Duration;

use shield_tests::lab::chaos::{self, Walk};
use shield_tests::lab::narrator::Narrator;

#[test]
fn nothing_that_must_hold_is_violated_in_two_minutes_of_chaos() {
    // Others run beside it.
    let walk = Walk { seed: 22, length: Duration::from_secs(120), soon: 2 * Walk::SOON };
    let report = chaos::run(&mut Narrator::to_stderr(), walk).unwrap();
    assert_eq!(report.violations, Vec::<String>::new(), "seed {}", report.seed);
    assert!(report.faults > 3 && report.bans > 0 && report.visits > 0, "{report:?}");
}
