//! Counters of one source, for the status page and the metrics. Its thread writes them and any thread reads them.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use super::Input;
use super::sight::Trouble;
use crate::sites::{SiteCounts, Sites};
use shield_engine::event::PartState;
use shield_engine::request::{Batch, Rejected, RejectedCounts};

/// Counters of one source since the agent started.
#[derive(Debug)]
pub struct Stats {
    name: String,
    reads_files: bool,
    lines: AtomicU64,
    bytes: AtomicU64,
    salvaged: AtomicU64,
    rejected: [AtomicU64; Rejected::ALL.len()],
    lag_bytes: AtomicU64,
    logs: AtomicU64,
    last_line_secs: AtomicI64,
    state: Mutex<PartState>,
    recent: Mutex<Recent>,
    trouble: Mutex<Option<Trouble>>,
    format: Mutex<Option<&'static str>>,
    sites: Sites,
}

/// The counters at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot {
    /// The source's name.
    pub source: String,
    /// Lines that were requests.
    pub lines: u64,
    /// Bytes of all lines read.
    pub bytes: u64,
    /// Requests recovered from broken lines.
    pub salvaged: u64,
    /// Lines refused, in the order of [`Rejected::ALL`].
    pub rejected: RejectedCounts,
    /// The unread part of its logs; `None` for a socket and for standard input, whose queues belong to the kernel.
    pub backlog: Option<Backlog>,
    /// The time of the last request, by the log's clock; `None` before the first.
    pub last_line_secs: Option<i64>,
    /// Lines of the last minute or two.
    pub recent: Rate,
    /// What is wrong with it.
    pub trouble: Option<Trouble>,
    /// The name of the format of the last lines.
    pub format: Option<&'static str>,
}

/// Lines of the last minute or two.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Rate {
    /// All lines.
    pub lines: u64,
    /// Refused ones.
    pub refused: u64,
    /// Lines per second.
    pub lines_per_sec: f64,
}

/// The time that a rate covers, and as much again at most.
const RATE_MS: u64 = 60_000;

/// The counters at the beginning of the last two minutes, and the rate since.
#[derive(Debug, Default)]
struct Recent {
    before: (u64, u64, u64),
    since: (u64, u64, u64),
    rate: Rate,
}

impl Recent {
    /// Takes the counters, all lines and refused ones, at `now_ms`.
    fn note(&mut self, lines: u64, refused: u64, now_ms: u64) {
        if self.before.0 == 0 {
            self.before = (now_ms, 0, 0);
            self.since = self.before;
        }
        if now_ms.saturating_sub(self.since.0) >= RATE_MS {
            self.before = std::mem::replace(&mut self.since, (now_ms, lines, refused));
        }
        let (from_ms, lines_before, refused_before) = self.before;
        let lines = lines.saturating_sub(lines_before);
        let secs = now_ms.saturating_sub(from_ms).max(1_000) as f64 / 1_000.0;
        self.rate = Rate {
            lines,
            refused: refused.saturating_sub(refused_before),
            lines_per_sec: lines as f64 / secs,
        };
    }
}

/// The unread part of a source's logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backlog {
    /// Bytes in the logs that are not read yet. Packed logs count with their packed size.
    pub bytes: u64,
    /// Logs followed.
    pub logs: u64,
}

/// No line was read yet.
const NEVER: i64 = i64::MIN;

impl Stats {
    pub(crate) fn new(name: &str, input: &Input) -> Stats {
        Stats {
            name: name.to_owned(),
            reads_files: matches!(input, Input::Files(_)),
            lines: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            salvaged: AtomicU64::new(0),
            rejected: Default::default(),
            lag_bytes: AtomicU64::new(0),
            logs: AtomicU64::new(0),
            last_line_secs: AtomicI64::new(NEVER),
            state: Mutex::new(PartState::Waiting { reason: "starting".to_owned() }),
            recent: Mutex::default(),
            trouble: Mutex::default(),
            format: Mutex::default(),
            sites: Sites::default(),
        }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Counts a batch of `bytes` bytes of lines, read at `now_ms` (boot clock).
    pub(super) fn count(&self, batch: &Batch, bytes: u64, now_ms: u64) {
        self.sites.count(batch, now_ms);
        let add = |counter: &AtomicU64, count: u64| counter.fetch_add(count, Ordering::Relaxed);
        add(&self.lines, batch.lines.len() as u64);
        add(&self.bytes, bytes);
        add(&self.salvaged, batch.lines.iter().filter(|line| line.salvaged).count() as u64);
        for (counter, count) in self.rejected.iter().zip(batch.rejected) {
            add(counter, count);
        }
        if batch.format.is_some() {
            *self.format.lock().unwrap_or_else(PoisonError::into_inner) = batch.format;
        }
        if let Some(last) = batch.lines.last() {
            self.last_line_secs.store(last.time, Ordering::Relaxed);
        }
    }

    pub(super) fn set_backlog(&self, backlog: Backlog) {
        self.lag_bytes.store(backlog.bytes, Ordering::Relaxed);
        self.logs.store(backlog.logs, Ordering::Relaxed);
    }

    /// Notes what is wrong at `now_ms` (boot clock), and renews the rate. To be called every few seconds.
    pub(super) fn note(&self, trouble: Option<Trouble>, now_ms: u64) {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let refused: u64 = self.rejected.iter().map(load).sum();
        let lines = load(&self.lines) + refused;
        self.recent.lock().unwrap_or_else(PoisonError::into_inner).note(lines, refused, now_ms);
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
    }

    /// Stores the state; returns whether it differs from the one before.
    pub(super) fn set_state(&self, state: &PartState) -> bool {
        let mut known = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let is_new = *known != *state;
        if is_new {
            known.clone_from(state);
        }
        is_new
    }

    /// The state as last set.
    pub(super) fn state(&self) -> PartState {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The requests by site at `now_ms` (boot clock).
    pub(crate) fn sites(&self, now_ms: u64) -> SiteCounts {
        self.sites.snapshot(now_ms)
    }

    /// Reads the counters. Each is right by itself; a batch counted meanwhile may show in some of them only.
    pub fn snapshot(&self) -> Snapshot {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let last = self.last_line_secs.load(Ordering::Relaxed);
        let backlog = Backlog { bytes: load(&self.lag_bytes), logs: load(&self.logs) };
        Snapshot {
            source: self.name.clone(),
            lines: load(&self.lines),
            bytes: load(&self.bytes),
            salvaged: load(&self.salvaged),
            rejected: self.rejected.each_ref().map(load),
            backlog: self.reads_files.then_some(backlog),
            last_line_secs: (last != NEVER).then_some(last),
            recent: self.recent.lock().unwrap_or_else(PoisonError::into_inner).rate,
            trouble: self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            format: *self.format.lock().unwrap_or_else(PoisonError::into_inner),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_covers_the_last_minute_or_two() {
        let mut recent = Recent::default();
        let mut at = |secs: u64, lines, refused| {
            recent.note(lines, refused, 1_000_000 + secs * 1_000);
            recent.rate
        };
        assert_eq!(at(0, 0, 0), Rate::default());
        assert_eq!(at(10, 100, 50), Rate { lines: 100, refused: 50, lines_per_sec: 10.0 });
        assert_eq!(at(60, 120, 50), Rate { lines: 120, refused: 50, lines_per_sec: 2.0 });
        assert_eq!(at(120, 120, 50), Rate { lines: 0, refused: 0, lines_per_sec: 0.0 });
    }
}
