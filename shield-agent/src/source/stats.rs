//! What a source counts, for the status page and the metrics: written by its thread, read by anybody.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use serde::Serialize;

use super::Input;
use shield_engine::event::PartState;
use shield_engine::request::{Batch, Rejected, RejectedCounts};

/// Counters of one source since the agent started.
#[derive(Debug)]
pub struct Stats {
    name: String,
    is_stdin: bool,
    lines: AtomicU64,
    bytes: AtomicU64,
    salvaged: AtomicU64,
    rejected: [AtomicU64; Rejected::ALL.len()],
    lag_bytes: AtomicU64,
    logs: AtomicU64,
    last_line_secs: AtomicI64,
    state: Mutex<PartState>,
}

/// The counters at one moment.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Snapshot {
    /// The source's name.
    pub source: String,
    /// Lines that were requests.
    pub lines: u64,
    /// Bytes of all lines read.
    pub bytes: u64,
    /// Requests taken from broken lines.
    pub salvaged: u64,
    /// Lines refused, in the order of [`Rejected::ALL`].
    pub rejected: RejectedCounts,
    /// Bytes in the logs that are not read yet.
    pub lag_bytes: u64,
    /// Logs followed.
    pub logs: u64,
    /// The time of the last request, by the log's clock; `None` before the first.
    pub last_line_secs: Option<i64>,
    /// Whether it works.
    #[serde(flatten)]
    pub state: PartState,
}

/// No line was read yet.
const NEVER: i64 = i64::MIN;

impl Stats {
    /// All zero.
    pub fn new(name: &str, input: &Input) -> Stats {
        Stats {
            name: name.to_owned(),
            is_stdin: *input == Input::Stdin,
            lines: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            salvaged: AtomicU64::new(0),
            rejected: Default::default(),
            lag_bytes: AtomicU64::new(0),
            logs: AtomicU64::new(0),
            last_line_secs: AtomicI64::new(NEVER),
            state: Mutex::new(PartState::Waiting { reason: "starting".to_owned() }),
        }
    }

    /// The source's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it reads standard input.
    pub(super) fn is_stdin(&self) -> bool {
        self.is_stdin
    }

    /// Counts a batch of `bytes` bytes of lines.
    pub fn count(&self, batch: &Batch, bytes: u64) {
        let add = |counter: &AtomicU64, count: u64| counter.fetch_add(count, Ordering::Relaxed);
        add(&self.lines, batch.lines.len() as u64);
        add(&self.bytes, bytes);
        add(&self.salvaged, batch.lines.iter().filter(|line| line.salvaged).count() as u64);
        for (counter, count) in self.rejected.iter().zip(batch.rejected) {
            add(counter, count);
        }
        if let Some(last) = batch.lines.last() {
            self.last_line_secs.store(last.time, Ordering::Relaxed);
        }
    }

    /// Notes how much there is to read, in how many logs.
    pub fn set_lag(&self, lag_bytes: u64, logs: usize) {
        self.lag_bytes.store(lag_bytes, Ordering::Relaxed);
        self.logs.store(logs as u64, Ordering::Relaxed);
    }

    /// Notes the state; returns whether it is another than before.
    pub fn set_state(&self, state: &PartState) -> bool {
        let mut known = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let is_new = *known != *state;
        if is_new {
            known.clone_from(state);
        }
        is_new
    }

    /// The counters now.
    pub fn snapshot(&self) -> Snapshot {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let last = self.last_line_secs.load(Ordering::Relaxed);
        Snapshot {
            source: self.name.clone(),
            lines: load(&self.lines),
            bytes: load(&self.bytes),
            salvaged: load(&self.salvaged),
            rejected: self.rejected.each_ref().map(load),
            lag_bytes: load(&self.lag_bytes),
            logs: load(&self.logs),
            last_line_secs: (last != NEVER).then_some(last),
            state: self.state.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }
}
