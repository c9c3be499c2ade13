//! How long it takes from a line to a verdict, from a verdict to the kernel, and how far sources are behind: histograms for `/metrics`.
//!
//! The engine's thread writes them, each a few additions; whoever scrapes reads them without asking it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use shield_engine::action::{Action, Order};
use shield_engine::event::Outcome;
use shield_engine::request::Batch;
use shield_engine::time::Now;

/// Upper bounds of the buckets, in seconds.
pub(crate) const FAST: [f64; 12] =
    [0.0001, 0.0005, 0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0];
/// The log's times are whole seconds.
pub(crate) const SLOW: [f64; 12] =
    [1.0, 2.0, 3.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 900.0, 3_600.0, 86_400.0];
const BUCKETS: usize = 12;

/// Bans whose orders are under way, at most: beyond it some are not measured.
const MAX_UNDER_WAY: usize = 10_000;

#[derive(Debug)]
pub struct Histogram {
    bounds: &'static [f64; BUCKETS],
    /// One more for what is above the last bound.
    counts: [AtomicU64; BUCKETS + 1],
    sum_micros: AtomicU64,
}

impl Histogram {
    pub(crate) const fn new(bounds: &'static [f64; BUCKETS]) -> Histogram {
        Histogram {
            bounds,
            counts: [const { AtomicU64::new(0) }; BUCKETS + 1],
            sum_micros: AtomicU64::new(0),
        }
    }

    pub(crate) fn note(&self, took: Duration, times: u64) {
        let secs = took.as_secs_f64();
        let at = self.bounds.iter().position(|bound| secs <= *bound).unwrap_or(BUCKETS);
        self.counts[at].fetch_add(times, Ordering::Relaxed);
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX).saturating_mul(times);
        self.sum_micros.fetch_add(micros, Ordering::Relaxed);
    }

    /// The least bound that this share of all does not exceed; the last bound stands for what is above it. `None` before the first.
    pub(crate) fn at_most(&self, share: f64) -> Option<Duration> {
        let counts: Vec<u64> = self.counts.iter().map(|count| count.load(Ordering::Relaxed)).collect();
        let total: u64 = counts.iter().sum();
        let wanted = (total as f64 * share).ceil() as u64;
        let reached = counts.iter().scan(0, |sum, count| {
            *sum += count;
            Some(*sum)
        });
        let at = reached.take_while(|sum| *sum < wanted).count().min(BUCKETS - 1);
        (total > 0).then(|| Duration::from_secs_f64(self.bounds[at]))
    }

    /// Each bound with the count of what is not above it, and the sum in seconds. The last bound is infinite.
    pub(crate) fn read(&self) -> (Vec<(f64, u64)>, f64) {
        let mut total = 0;
        let bounds = self.bounds.iter().copied().chain([f64::INFINITY]);
        let cumulated = bounds.zip(&self.counts).map(|(bound, count)| {
            total += count.load(Ordering::Relaxed);
            (bound, total)
        });
        (cumulated.collect(), self.sum_micros.load(Ordering::Relaxed) as f64 / 1e6)
    }
}

/// All of them.
#[derive(Debug)]
pub struct Latencies {
    /// From the delivery of a line by its source to its verdict.
    pub line_to_verdict: Histogram,
    /// From a verdict to the first enforcer that drops the client.
    pub verdict_to_kernel: Histogram,
    /// From a live line's own time to its verdict.
    pub source_lag: Histogram,
}

impl Default for Latencies {
    fn default() -> Latencies {
        Latencies {
            line_to_verdict: Histogram::new(&FAST),
            verdict_to_kernel: Histogram::new(&FAST),
            source_lag: Histogram::new(&SLOW),
        }
    }
}

/// The engine's thread's end.
#[derive(Debug, Default)]
pub(crate) struct Stopwatch {
    latencies: Arc<Latencies>,
    /// When the orders for bans were given, by serial number.
    under_way: HashMap<u64, Instant>,
}

impl Stopwatch {
    pub(crate) fn of(latencies: Arc<Latencies>) -> Stopwatch {
        Stopwatch { latencies, under_way: HashMap::new() }
    }

    /// A batch has been judged.
    pub(crate) fn judged(&self, batch: &Batch, delivered: Instant, now: Now) {
        let lines = batch.lines.len() as u64;
        let Some(last) = batch.lines.last() else { return };
        self.latencies.line_to_verdict.note(delivered.elapsed(), lines);
        if batch.live {
            let lag = u64::try_from(now.wall_secs().saturating_sub(last.time)).unwrap_or(0);
            self.latencies.source_lag.note(Duration::from_secs(lag), lines);
        }
    }

    /// Orders are given.
    pub(crate) fn ordered(&mut self, actions: &[Action]) {
        for action in actions {
            if let Action::Enforce(Order::Ban { serial, .. }) = action
                && self.under_way.len() < MAX_UNDER_WAY
            {
                self.under_way.insert(*serial, Instant::now());
            }
        }
    }

    /// An enforcer has carried out, or could not.
    pub(crate) fn carried_out(&mut self, outcome: &Outcome) {
        if self.under_way.is_empty() {
            return;
        }
        for (_, serial) in &outcome.banned {
            if let Some(ordered) = self.under_way.remove(serial) {
                self.latencies.verdict_to_kernel.note(ordered.elapsed(), 1);
            }
        }
    }

    /// Forgets orders that nobody carried out: enforcers may all be off, or have failed.
    pub(crate) fn tidy(&mut self) {
        const LONGEST: Duration = Duration::from_secs(60);
        if !self.under_way.is_empty() {
            self.under_way.retain(|_, ordered| ordered.elapsed() < LONGEST);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shield_engine::event::EnforcerName;

    #[test]
    fn buckets_add_up() {
        let histogram = Histogram::new(&FAST);
        histogram.note(Duration::from_micros(100), 2);
        histogram.note(Duration::from_millis(3), 1);
        histogram.note(Duration::from_secs(100), 1);
        let at_most = |share| histogram.at_most(share).map(|took| took.as_micros());
        assert_eq!((at_most(0.5), at_most(0.75), at_most(1.0)), (Some(100), Some(5_000), Some(30_000_000)));
        assert_eq!(Histogram::new(&FAST).at_most(0.99), None);
        let (buckets, sum) = histogram.read();
        let at = |bound: f64| buckets.iter().find(|(other, _)| *other == bound).unwrap().1;
        assert_eq!((at(0.0001), at(0.001), at(0.005), at(30.0), at(f64::INFINITY)), (2, 2, 3, 3, 4));
        assert!((sum - 100.0032).abs() < 1e-9, "{sum}");
    }

    #[test]
    fn a_ban_is_measured_once_whoever_drops_it_first() {
        let mut watch = Stopwatch::default();
        watch.under_way.insert(7, Instant::now());
        let client = "192.0.2.7".parse().unwrap();
        for enforcer in [EnforcerName::Xdp, EnforcerName::Iptables] {
            let outcome = Outcome { enforcer, banned: vec![(client, 7)], lifted: vec![], failed: vec![] };
            watch.carried_out(&outcome);
        }
        let (buckets, _) = watch.latencies.verdict_to_kernel.read();
        assert_eq!(buckets.last().unwrap().1, 1);
    }
}
