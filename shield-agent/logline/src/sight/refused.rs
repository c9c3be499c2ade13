//! Refused lines: nearly all of the last ones, or some of them for a while.
//!
//! In a log that is read at all no line is refused, whatever clients send: in the real logs that this was measured with there is not
//! one. So a small share is a fault too, as soon as it lasts: a second format in the same file, or a client that has found a
//! way to break its lines.

use std::collections::VecDeque;

use super::hold::Hold;
use super::{Finding, RefusedLines};
use shield_engine::request::{Batch, RefusedLine, Rejected, RejectedCounts};

/// The lines that are judged: when a format changes, half of them are refused after a hundred.
const WINDOW: u64 = 200;

/// Fewer lines than these show a fault only when time confirms it.
const ENOUGH: u64 = 20;

/// Lines, with no readable one in the window, that are a fault after [`CONFIRMED_MS`], on a site with few lines.
const FEW: u64 = 3;

/// The time within which few lines must not become readable. A fault is to be known within a minute.
const CONFIRMED_MS: u64 = 45_000;

/// All is well again when fewer than one in so many is refused, or when so many in a row were read.
const WELL_SHARE: u64 = 10;
const WELL_RUN: u64 = 20;

/// The share that is a fault when it lasts over two buckets is one line in so many. One that is well below is none any more.
const SOME_SHARE: u64 = 50;
const SOME_WELL_SHARE: u64 = 100;

/// A bucket has so many lines, and lasts so long.
const BUCKET_LINES: u64 = 100;
const BUCKET_MS: u64 = 300_000;

/// Refused lines without which a bucket is no fault.
const SOME_REFUSED: u64 = 4;

#[derive(Debug, Clone, Copy, Default)]
struct Count {
    read: u64,
    refused: u64,
}

impl Count {
    fn of(rejected: &RejectedCounts, lines: usize) -> Count {
        let empty = rejected[Rejected::Empty.index()];
        let refused = rejected.iter().sum::<u64>() - empty;
        Count { read: refused + lines as u64, refused }
    }

    fn add(&mut self, other: Count) {
        self.read += other.read;
        self.refused += other.refused;
    }

    /// At least one in `share` is refused.
    fn is_one_in(self, share: u64) -> bool {
        self.refused > 0 && self.refused * share >= self.read
    }
}

#[derive(Debug, Default)]
pub(super) struct Refusals {
    /// What the last reads brought, together the last [`WINDOW`] lines.
    window: VecDeque<Count>,
    total: Count,
    /// The first refused line in the window.
    first: Option<RefusedLine>,
    /// Lines read since one was refused.
    good_run: u64,
    /// Lines refused since one was read, and since when.
    bad_run: u64,
    bad_since_ms: u64,
    blind: Hold,
    bucket: Count,
    bucket_since_ms: Option<u64>,
    was_some: bool,
    /// The last bucket in which some were refused, while that lasts.
    some: Option<RefusedLines>,
}

impl Refusals {
    pub(super) fn read(&mut self, batch: &Batch, now_ms: u64) {
        let count = Count::of(&batch.rejected, batch.lines.len());
        if count.read == 0 {
            return;
        }
        if self.total.refused == 0 && self.bucket.refused == 0 {
            self.first = None;
        }
        if self.first.is_none() {
            self.first.clone_from(&batch.first_refused);
        }
        self.slide(count);
        if count.refused == 0 {
            self.good_run += count.read;
        } else {
            self.good_run = 0;
        }
        if count.refused < count.read {
            self.bad_run = 0;
        } else {
            if self.bad_run == 0 {
                self.bad_since_ms = now_ms;
            }
            self.bad_run += count.refused;
        }
        self.bucket.add(count);
        self.pass(now_ms);
    }

    fn slide(&mut self, count: Count) {
        self.total.add(count);
        self.window.push_back(count);
        while let Some(oldest) = self.window.front().copied()
            && self.total.read - oldest.read >= WINDOW
        {
            self.window.pop_front();
            self.total.read -= oldest.read;
            self.total.refused -= oldest.refused;
        }
    }

    /// Judges again at `now_ms`.
    pub(super) fn pass(&mut self, now_ms: u64) {
        let total = self.total;
        let is_confirmed = now_ms.saturating_sub(self.bad_since_ms) >= CONFIRMED_MS;
        let enough = if total.refused == total.read { FEW } else { ENOUGH };
        let is_bad = (total.read >= ENOUGH && total.is_one_in(2)) || (self.bad_run >= enough && is_confirmed);
        let is_well = self.good_run >= WELL_RUN || (total.read >= WINDOW && !total.is_one_in(WELL_SHARE));
        self.blind.update(is_bad && !is_well, is_well, now_ms);
        self.turn_bucket(now_ms);
    }

    fn turn_bucket(&mut self, now_ms: u64) {
        let since_ms = *self.bucket_since_ms.get_or_insert(now_ms);
        if self.bucket.read < BUCKET_LINES || now_ms.saturating_sub(since_ms) < BUCKET_MS {
            return;
        }
        let bucket = std::mem::take(&mut self.bucket);
        self.bucket_since_ms = Some(now_ms);
        let is_some = bucket.refused >= SOME_REFUSED && bucket.is_one_in(SOME_SHARE);
        if is_some && (self.was_some || self.some.is_some()) {
            let first = self.first.clone();
            self.some = Some(RefusedLines { refused: bucket.refused, of: bucket.read, first });
        } else if !bucket.is_one_in(SOME_WELL_SHARE) {
            self.some = None;
        }
        self.was_some = is_some;
    }

    pub(super) fn finding(&self) -> Option<Finding> {
        if !self.blind.is_on() {
            return self.some.clone().map(Finding::SomeRefused);
        }
        let last = Count { read: self.bad_run, refused: self.bad_run };
        let count = if self.bad_run >= FEW && !self.total.is_one_in(2) { last } else { self.total };
        let first = self.first.clone();
        Some(Finding::Refused(RefusedLines { refused: count.refused, of: count.read, first }))
    }
}

/// Judges lines without waiting for more.
pub(super) fn at_a_glance(batch: &Batch) -> Option<Finding> {
    let count = Count::of(&batch.rejected, batch.lines.len());
    let first = batch.first_refused.clone();
    let lines = RefusedLines { refused: count.refused, of: count.read, first };
    if count.refused == 0 {
        None
    } else if count.is_one_in(2) {
        Some(Finding::Refused(lines))
    } else {
        (count.refused >= SOME_REFUSED && count.is_one_in(SOME_SHARE)).then_some(Finding::SomeRefused(lines))
    }
}
