//! Lines that come into the log long after their own time, as with nginx's `buffer=` without `flush=`.
//!
//! A line is late by the time between its own time and the last look at the log that found nothing: then it was not
//! there yet. So a reader that is behind, or was stopped, finds nothing here, however old the lines are that it reads. A wrong clock
//! or time zone moves all lines alike; a buffer holds some for long and others for a moment.

use super::Finding;
use shield_engine::time::{EventSecs, Now};

/// A line this late is late.
const LATE_SECS: i64 = 60;

/// What comes at once is late when its oldest line is at least this late, and half of its lines are late.
const BUFFERED_SECS: i64 = 120;

/// So many late arrivals in a row, with so many lines, are a finding.
const ARRIVALS: u32 = 3;
const LINES: u64 = 20;

/// Without a late arrival for so long all is well: a buffer that fills in seconds by day takes minutes by night.
const WELL_MS: u64 = 3_600_000;

#[derive(Debug, Default, Clone, Copy)]
struct Arrival {
    lines: u64,
    late: u64,
    oldest_secs: i64,
    /// The age of the newest line when it was read.
    newest_age_secs: Option<i64>,
}

impl Arrival {
    fn is_buffered(&self) -> bool {
        let is_moved = self.newest_age_secs.is_some_and(|age| age * 2 > self.oldest_secs);
        self.oldest_secs >= BUFFERED_SECS && self.late * 2 >= self.lines && !is_moved
    }
}

#[derive(Debug, Default)]
pub(super) struct Late {
    /// The last look that found nothing (wall clock, s).
    looked_at: Option<i64>,
    arrival: Arrival,
    run: u32,
    run_lines: u64,
    run_secs: i64,
    late_at_ms: u64,
    by_secs: Option<u64>,
}

impl Late {
    pub(super) fn look_at(&mut self, time: EventSecs, now_secs: i64) {
        let Some(looked_at) = self.looked_at else { return };
        let late_secs = looked_at.saturating_sub(time);
        let arrival = &mut self.arrival;
        arrival.lines += 1;
        arrival.late += u64::from(late_secs >= LATE_SECS);
        arrival.oldest_secs = arrival.oldest_secs.max(late_secs);
        let age_secs = now_secs.saturating_sub(time);
        arrival.newest_age_secs =
            Some(arrival.newest_age_secs.map_or(age_secs, |newest| newest.min(age_secs)));
    }

    pub(super) fn idle(&mut self, now: Now) {
        self.looked_at = Some(now.wall_secs());
        let arrival = std::mem::take(&mut self.arrival);
        if arrival.is_buffered() {
            self.run += 1;
            self.run_lines += arrival.lines;
            self.run_secs = self.run_secs.max(arrival.oldest_secs);
            self.late_at_ms = now.boot_ms;
            if self.run >= ARRIVALS && self.run_lines >= LINES {
                self.by_secs = u64::try_from(self.run_secs).ok();
            }
        } else if arrival.lines > 0 {
            (self.run, self.run_lines, self.run_secs) = (0, 0, 0);
            if now.boot_ms.saturating_sub(self.late_at_ms) >= WELL_MS {
                self.by_secs = None;
            }
        }
    }

    pub(super) fn finding(&self) -> Option<Finding> {
        self.by_secs.map(|by_secs| Finding::Late { by_secs })
    }
}
