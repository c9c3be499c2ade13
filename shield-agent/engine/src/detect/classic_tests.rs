//! Compares `profile = "classic"` with a naive model of the rule as Shield was first described. The model keeps the whole
//! history and recounts it for every request, without the engine's windows or baseline.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use proptest::prelude::*;

use crate::detect::detector::{Detector, Standing};
use crate::detect::policy::Policy;
use crate::vocab::request::Request;
use crate::vocab::verdict::{Rule, Verdict};

/// A Monday's 08:00 UTC.
const START: u32 = 1_767_600_000;

const WINDOW: u32 = 60;
const BASELINE: u32 = 1800;
const RECOMPUTED_EVERY: u32 = 60;
const FLOOR: f64 = 0.1;
const Z_SCORE: f64 = 2.0;
const MULTIPLIER: f64 = 2.0;
const ERROR_MULTIPLIER: f64 = 3.0;
const TIGHTENED_BY: f64 = 0.6;
/// Seconds that an hour's slot must hold before it is preferred.
const SLOT_SAMPLES: f64 = 600.0;
/// Seconds after a verdict in which a client is not learned from (`SUSPECT`) and not judged (`QUIET`).
const SUSPECT: u32 = 60;
const QUIET: u32 = 10;

struct Past {
    second: u32,
    client: u32,
    error: bool,
    teaches: bool,
}

#[derive(Clone, Copy)]
struct Level {
    mean: f64,
    stddev: f64,
    error_mean: f64,
}

#[derive(Default)]
struct Model {
    past: Vec<Past>,
    found: BTreeMap<u32, u32>,
    /// The level in force, and the end of the history that it was computed from.
    level: Option<(u32, Level)>,
}

impl Model {
    /// Returns the rules that fire because of this request.
    fn observe(&mut self, second: u32, client: u32, error: bool) -> Vec<Rule> {
        let found = self.found.get(&client).copied();
        let teaches = found.is_none_or(|at| at + SUSPECT <= second);
        self.past.push(Past { second, client, error, teaches });
        if found.is_some_and(|at| second <= at + QUIET) {
            return Vec::new();
        }
        let level = match self.level {
            Some((until, level)) if until == learned_before(second) => level,
            _ => self.level_at(second),
        };
        self.level = Some((learned_before(second), level));
        let window: Vec<&Past> =
            self.past.iter().filter(|p| p.client == client && second - p.second < WINDOW).collect();
        let per_second = |count: usize| count as f64 / f64::from(WINDOW);
        let rate = per_second(window.len());
        let error_rate = per_second(window.iter().filter(|p| p.error).count());
        let tightened = if error_rate > ERROR_MULTIPLIER * level.error_mean { TIGHTENED_BY } else { 1.0 };
        let mut broken = Vec::new();
        if (rate - level.mean) / level.stddev > Z_SCORE * tightened {
            broken.push(Rule::ZScore);
        }
        if rate > MULTIPLIER * tightened * level.mean {
            broken.push(Rule::RateMultiplier);
        }
        if !broken.is_empty() {
            self.found.insert(client, second);
            // The part of its window that was not learned yet never is.
            let learned = learned_before(second);
            let of_window =
                |p: &&mut Past| p.client == client && second - p.second < WINDOW && p.second >= learned;
            self.past.iter_mut().filter(of_window).for_each(|p| p.teaches = false);
        }
        broken
    }

    fn level_at(&self, second: u32) -> Level {
        let until = learned_before(second);
        let began = self.past.first().map_or(second, |p| p.second);
        let hour = |second: u32| second / 3600 % 24;
        let day = |second: u32| second / 86_400;
        // Requests and errors by second; of an hour, the days before count half, a quarter, and so on.
        let mut counts: BTreeMap<u32, (f64, f64)> = (began..until)
            .filter(|at| hour(*at) == hour(until) || until - at <= BASELINE)
            .map(|at| (at, (0.0, 0.0)))
            .collect();
        for p in self.past.iter().filter(|p| p.teaches && p.second < until) {
            if let Some((requests, errors)) = counts.get_mut(&p.second) {
                *requests += 1.0;
                *errors += f64::from(u8::from(p.error));
            }
        }
        let of_hour: Vec<_> = counts.iter().filter(|(at, _)| hour(**at) == hour(until)).collect();
        let mut days: Vec<u32> = of_hour.iter().map(|(at, _)| day(**at)).collect();
        days.dedup();
        let weight = |at: u32| 0.5_f64.powi(days.iter().filter(|later| **later > day(at)).count() as i32);
        let slot: Vec<_> = of_hour.iter().map(|(at, counts)| (weight(**at), **counts)).collect();
        if slot.iter().map(|(weight, _)| weight).sum::<f64>() >= SLOT_SAMPLES {
            return level_of(&slot);
        }
        let rolling = counts.iter().filter(|(at, _)| until - **at <= BASELINE);
        level_of(&rolling.map(|(_, counts)| (1.0, *counts)).collect::<Vec<_>>())
    }
}

fn learned_before(second: u32) -> u32 {
    second - second % RECOMPUTED_EVERY
}

fn level_of(seconds: &[(f64, (f64, f64))]) -> Level {
    let sum = |value: &dyn Fn((f64, f64)) -> f64| {
        seconds.iter().map(|(weight, counts)| weight * value(*counts)).sum::<f64>()
    };
    let n = sum(&|_| 1.0);
    if n == 0.0 {
        return Level { mean: FLOOR, stddev: FLOOR, error_mean: FLOOR };
    }
    let mean = sum(&|(requests, _)| requests) / n;
    let variance = sum(&|(requests, _)| requests * requests) / n - mean * mean;
    let error_mean = sum(&|(_, errors)| errors) / n;
    Level {
        mean: mean.max(FLOOR),
        stddev: variance.max(0.0).sqrt().max(FLOOR),
        error_mean: error_mean.max(FLOOR),
    }
}

fn ask(detector: &mut Detector, second: u32, client: u32, error: bool) -> Option<Rule> {
    let request = Request {
        addr: IpAddr::V4(Ipv4Addr::from_bits(0xc612_0000 + client)),
        time: i64::from(second),
        method: b"GET",
        path: b"/",
        status: if error { 404 } else { 200 },
        size: 9,
        behind_proxy: false,
    };
    let prepared = detector.prepare(&request);
    match detector.observe(&request, i64::from(second), &prepared, Standing::Normal) {
        Verdict::Anomalous(evidence) => Some(evidence.rule),
        Verdict::Normal => None,
    }
}

/// A stretch of traffic.
#[derive(Debug, Clone)]
struct Phase {
    /// Silence before it, in seconds.
    gap: u32,
    secs: u32,
    /// Requests in each second by 40 ordinary clients.
    ordinary: u32,
    /// A client's requests in a second, and the interval of such seconds.
    loud: (u32, u32),
    /// One request in this many fails.
    fails_every: u32,
}

fn phase() -> impl Strategy<Value = Phase> {
    let gap = prop_oneof![3 => Just(0u32), 1 => 1u32..200, 1 => Just(7300), 1 => 82_000u32..88_000];
    (gap, 30u32..700, 0u32..4, (0u32..5, 1u32..9), 2u32..40)
        .prop_map(|(gap, secs, ordinary, loud, fails_every)| Phase { gap, secs, ordinary, loud, fails_every })
}

fn log(phases: &[Phase]) -> Vec<(u32, u32, bool)> {
    let (mut log, mut second) = (Vec::new(), START + 17);
    for (n, phase) in phases.iter().enumerate() {
        second += phase.gap;
        for at in second..second + phase.secs {
            let ordinary = (0..phase.ordinary).map(|i| (at % 1000 * 7 + i * 3 + at / 11) % 40);
            let is_loud = at.is_multiple_of(phase.loud.1);
            let loud = (0..if is_loud { phase.loud.0 } else { 0 }).map(|_| 100 + n as u32 % 2);
            for client in ordinary.chain(loud) {
                log.push((at, client, (log.len() as u32).is_multiple_of(phase.fails_every)));
            }
        }
        second += phase.secs;
    }
    log
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn classic_is_exactly_the_rule_as_first_described(phases in prop::collection::vec(phase(), 1..6)) {
        let (mut model, mut detector) = (Model::default(), Detector::new(Policy::classic(), 64, 1));
        for (second, client, error) in log(&phases) {
            let broken = model.observe(second, client, error);
            let found = ask(&mut detector, second, client, error);
            prop_assert_eq!(found, broken.first().copied(), "client {} at {}", client, second - START);
        }
    }
}

/// Without a baseline the floors decide: more than 2 x 0.1 requests a second are more than 12 in a minute.
#[test]
fn the_thirteenth_request_of_a_silent_sites_first_minute_is_too_many() {
    let mut detector = Detector::new(Policy::classic(), 64, 1);
    let found: Vec<_> =
        (0..13).filter_map(|n| ask(&mut detector, START + 30 + n, 1, false).map(|rule| (n, rule))).collect();
    assert_eq!(found, [(12, Rule::RateMultiplier)]);
}
