//! A silence far longer than any that is usual: nginx does not run, or writes elsewhere since a rotation.
//!
//! What is usual is learned: the longest time without a line on each of the last days, and in each hour of the last week. A
//! silence is compared with all of the last days, which shows on a site that is never quiet after one of them, and from the second
//! week on also with the same hours of yesterday and of a week ago, so that a site that sleeps at night or at weekends is
//! watched while it is awake. Before a day is over nothing is usual.

use super::Finding;
use shield_engine::time::Now;

const HOUR_MS: u64 = 3_600_000;
const DAY_MS: u64 = 24 * HOUR_MS;

const HOURS: usize = 7 * 24;
const DAYS: usize = 7;

/// Far longer than usual is so many times as long, and never less than this.
const TIMES: u64 = 20;
const LEAST_SECS: u64 = 900;

/// A site is never quiet when it has lines in so many of 24 hours.
const ACTIVE_HOURS: u32 = 23;

/// Unwatched for longer (the machine was suspended, the reader held), a silence was not observed.
const UNWATCHED_MS: u64 = 60_000;

#[derive(Debug)]
pub(super) struct Silence {
    /// Since when lines are read.
    since_ms: Option<u64>,
    last_line_ms: u64,
    passed_ms: u64,
    /// The longest silence of each hour of the week, in seconds: of the last week and of the one before.
    hours: [u32; HOURS],
    before: [u32; HOURS],
    /// The hour since the epoch that is learned now.
    hour: i64,
    /// A bit for each of the last hours with lines, as of the last line.
    active: u32,
    active_hour: i64,
    /// The longest silence of each of the last days.
    days: [u32; DAYS],
    day: u64,
    found: Option<(u64, u64)>,
    /// When a silence was found last. The first in a week is not learned as usual, or an outage would blunt this for a week.
    found_at_ms: Option<u64>,
}

impl Default for Silence {
    fn default() -> Silence {
        Silence {
            since_ms: None,
            last_line_ms: 0,
            passed_ms: 0,
            hours: [0; HOURS],
            before: [0; HOURS],
            hour: i64::MIN,
            active: 0,
            active_hour: i64::MIN,
            days: [0; DAYS],
            day: 0,
            found: None,
            found_at_ms: None,
        }
    }
}

fn slot(hour: i64) -> usize {
    usize::try_from(hour.rem_euclid(HOURS as i64)).unwrap_or(0)
}

fn hour_of(now: Now) -> i64 {
    now.wall_secs().div_euclid(3_600)
}

impl Silence {
    /// Notes that a line was read.
    pub(super) fn read(&mut self, now: Now) {
        self.skip_unwatched(now);
        self.turn(now);
        if self.since_ms.is_none() {
            self.since_ms = Some(now.boot_ms);
        } else {
            self.learn(now);
        }
        let hours = self.hour.saturating_sub(self.active_hour).clamp(0, 32);
        self.active = self.active.checked_shl(u32::try_from(hours).unwrap_or(32)).unwrap_or(0) | 1;
        self.active_hour = self.hour;
        self.last_line_ms = now.boot_ms;
        self.found = None;
    }

    /// Judges the silence so far.
    pub(super) fn pass(&mut self, now: Now) {
        self.skip_unwatched(now);
        self.turn(now);
        let silent_secs = self.silent_secs(now);
        let usual = self.usual_secs(now);
        let bar = usual.map(|usual| (usual * TIMES).max(LEAST_SECS));
        if self.found.is_some() || bar.is_some_and(|bar| silent_secs >= bar) {
            let usual = self.found.map(|(_, usual)| usual).or(usual).unwrap_or_default();
            self.found = Some((silent_secs, usual));
        }
    }

    pub(super) fn finding(&self) -> Option<Finding> {
        self.found.map(|(for_secs, usual_secs)| Finding::Silent { for_secs, usual_secs })
    }

    fn silent_secs(&self, now: Now) -> u64 {
        now.boot_ms.saturating_sub(self.last_line_ms) / 1_000
    }

    /// The time in which nobody looked counts neither as silence nor as watched.
    fn skip_unwatched(&mut self, now: Now) {
        let since_ms = now.boot_ms.saturating_sub(self.passed_ms);
        if self.passed_ms > 0 && since_ms > UNWATCHED_MS {
            self.last_line_ms += since_ms;
            self.since_ms = self.since_ms.map(|since| since + since_ms);
        }
        self.passed_ms = now.boot_ms;
    }

    /// Begins the hours and days that have come.
    fn turn(&mut self, now: Now) {
        let hour = hour_of(now);
        if self.hour == i64::MIN {
            self.hour = hour;
        }
        let passed = hour.saturating_sub(self.hour).clamp(0, HOURS as i64);
        for hour in (hour - passed + 1)..=hour {
            let at = slot(hour);
            self.before[at] = std::mem::take(&mut self.hours[at]);
        }
        self.hour = hour;
        let day = now.boot_ms / DAY_MS;
        for day in (self.day + 1..=day).rev().take(DAYS) {
            self.days[usize::try_from(day).unwrap_or(0) % DAYS] = 0;
        }
        self.day = day;
    }

    /// Learns the silence that ends now.
    fn learn(&mut self, now: Now) {
        let secs = u32::try_from(self.silent_secs(now)).unwrap_or(u32::MAX);
        let hour = hour_of(now);
        let covered = i64::from(secs / 3_600).min(HOURS as i64 - 1);
        for hour in (hour - covered)..=hour {
            let at = slot(hour);
            self.hours[at] = self.hours[at].max(secs);
        }
        let is_outage = self.found.is_some()
            && self.found_at_ms.is_none_or(|at| now.boot_ms.saturating_sub(at) > DAYS as u64 * DAY_MS);
        if self.found.is_some() {
            self.found_at_ms = Some(now.boot_ms);
        }
        if !is_outage {
            let today = &mut self.days[usize::try_from(now.boot_ms / DAY_MS).unwrap_or(0) % DAYS];
            *today = secs.max(*today);
        }
    }

    /// The longest silence that is usual now; `None` as long as that is not known.
    fn usual_secs(&self, now: Now) -> Option<u64> {
        let watched_ms = now.boot_ms.saturating_sub(self.since_ms?);
        let is_never_quiet = (self.active & 0xff_ffff).count_ones() >= ACTIVE_HOURS;
        let of_days =
            (watched_ms >= DAY_MS && is_never_quiet).then(|| self.days.iter().copied().max().unwrap_or(0));
        let is_new = self.silent_secs(now) * 1_000 < DAY_MS;
        let of_hours = (watched_ms >= 8 * DAY_MS && is_new).then(|| self.usual_in_these_hours(now));
        of_days.into_iter().chain(of_hours).min().map(u64::from)
    }

    /// The longest silence of the hours since the last line, and one on either side, yesterday and a week ago.
    fn usual_in_these_hours(&self, now: Now) -> u32 {
        let hour = hour_of(now);
        let since = hour - i64::try_from(self.silent_secs(now) / 3_600).unwrap_or(0).min(22);
        let of = |hour: i64| {
            let at = slot(hour);
            // The coming hour's slot still holds the last week's; of those that have begun it was put aside.
            let last_week = if hour > self.hour { self.hours[at] } else { self.before[at] };
            last_week.max(self.hours[slot(hour - 24)])
        };
        (since - 1..=hour + 1).map(of).max().unwrap_or(0)
    }
}
