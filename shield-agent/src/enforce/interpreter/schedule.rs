//! When a worker does what, and how much at a time. Arithmetic on times and sizes only.

use std::time::{Duration, Instant};

/// Bans in one call of an enforcer: enough to make one process or one batch worthwhile, few enough to take some ten
/// milliseconds.
pub(super) const BANS_AT_ONCE: usize = 4096;
/// How soon a check or reconcile that met orders in flight is due again.
pub(super) const IN_FLIGHT_RETRY_MS: u64 = 20;

/// Pieces of lifts are sized to take this long, because a new ban waits for the piece in hand.
const LIFT_PIECE_MS: u64 = 10;
const LIFT_PIECE: std::ops::RangeInclusive<usize> = 256..=8192;

/// A query of the kernel rests this many times as long as it took: reading the counters of 10,000 single rules takes
/// 80 ms, for which a new ban may have to wait.
const REST: u64 = 20;
/// The factor while nothing is dropped, so that the agent of an idle server costs next to nothing.
const IDLE_REST: u64 = 100;
const MAX_IDLE_REST_MS: u64 = 15_000;
/// Bounds the rest of checks, so that what they find is repaired within 5 s.
const MAX_CHECK_REST_MS: u64 = 4_000;
/// Checks are so much rarer while nobody is to be dropped, and bounded by the same.
const IDLE_CHECKS: u64 = 2;
/// False alarms after which the interval does not double any more.
const MAX_FALSE_ALARMS: u32 = 4;

/// The next times of the periodic work, on the boot clock in milliseconds.
#[derive(Default)]
pub(super) struct Schedule {
    pub(super) check_ms: u64,
    pub(super) reconcile_ms: u64,
    pub(super) totals_ms: u64,
    /// Alarms of the check before this moment are ignored, after false ones.
    ignore_alarms_until_ms: u64,
    false_alarms: u32,
    /// Nobody was to be dropped at the last check.
    is_idle: bool,
}

impl Schedule {
    pub(super) fn new(check_ms: u64, reconcile_ms: u64) -> Schedule {
        Schedule { check_ms, reconcile_ms, ..Schedule::default() }
    }

    /// The time of the next periodic work.
    pub(super) fn next_ms(&self) -> u64 {
        self.check_ms.min(self.reconcile_ms).min(self.totals_ms)
    }

    /// Plans the check after one that began then and is over now, with so many bans.
    pub(super) fn checked(&mut self, now_ms: u64, every_ms: u64, began: Instant, bans: usize) {
        self.is_idle = bans == 0;
        let idle_ms = every_ms.saturating_mul(IDLE_CHECKS).min(MAX_CHECK_REST_MS);
        let every_ms = if self.is_idle { every_ms.max(idle_ms) } else { every_ms };
        let rested_ms = now_ms + rest_ms(began).min(MAX_CHECK_REST_MS);
        self.check_ms = next_beat(now_ms, every_ms).max(rested_ms);
    }

    /// The first ban after a time without any: nobody may have looked for a while whether anything would drop it.
    pub(super) fn banned(&mut self, now_ms: u64) {
        if std::mem::take(&mut self.is_idle) {
            self.check_ms = self.check_ms.min(now_ms);
        }
    }

    /// Plans the next reading of the counters.
    pub(super) fn counted(&mut self, now_ms: u64, every_ms: u64, began: Instant, is_idle: bool) {
        let busy_ms = rest_ms(began);
        self.totals_ms = now_ms + every_ms.max(busy_ms);
        if is_idle {
            let idle_ms = busy_ms.saturating_mul(IDLE_REST).min(MAX_IDLE_REST_MS);
            // Together with the next check, so that an idle machine wakes once for both.
            self.totals_ms = self.totals_ms.max(now_ms + idle_ms).max(self.check_ms);
        }
    }

    /// The check found something wrong: reconciles at once, unless alarms are ignored.
    pub(super) fn alarm(&mut self, now_ms: u64) {
        if now_ms >= self.ignore_alarms_until_ms {
            self.reconcile_ms = now_ms;
        }
    }

    /// A reconcile found nothing wrong. If alarms caused it, the next one has to wait longer each time: listing a million
    /// bans every two seconds would be worse than what the check looks for.
    pub(super) fn found_nothing(&mut self, now_ms: u64, check_every_ms: u64) {
        self.false_alarms = (self.false_alarms + 1).min(MAX_FALSE_ALARMS);
        let wait_ms = check_every_ms << self.false_alarms;
        self.ignore_alarms_until_ms = now_ms + wait_ms.saturating_sub(check_every_ms);
    }

    /// A check found nothing, or a reconcile something: the alarms can be trusted again.
    pub(super) fn end_false_alarms(&mut self) {
        self.false_alarms = 0;
    }
}

/// The number of lifts in one call of an enforcer.
pub(super) struct LiftPiece(usize);

impl LiftPiece {
    pub(super) fn smallest() -> LiftPiece {
        LiftPiece(*LIFT_PIECE.start())
    }

    pub(super) fn size(&self) -> usize {
        self.0
    }

    /// Adapts the size to the time that `lifts` took. A smaller batch says nothing about a whole piece.
    pub(super) fn measured(&mut self, lifts: usize, took: Duration) {
        if lifts != self.0 {
            return;
        }
        let took_ms = took.as_millis() as u64;
        let next = if took_ms > LIFT_PIECE_MS {
            self.0 / 2
        } else if took_ms < LIFT_PIECE_MS / 2 {
            self.0 * 2
        } else {
            self.0
        };
        self.0 = next.clamp(*LIFT_PIECE.start(), *LIFT_PIECE.end());
    }
}

/// The rest after work that began then and is over now.
fn rest_ms(began: Instant) -> u64 {
    REST.saturating_mul(u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX))
}

/// The next multiple of `every_ms`, so that several enforcers' checks wake an idle machine once.
fn next_beat(now_ms: u64, every_ms: u64) -> u64 {
    let every_ms = every_ms.max(1);
    (now_ms / every_ms + 1) * every_ms
}
