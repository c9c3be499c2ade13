//! Other settings for a source that runs: handed to its thread, which takes them over between two lines.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::oneshot;

use super::Settings;

/// A source that does not come to the end of its logs takes the change over after this long.
const OVERDUE_MS: u64 = 2_000;

/// The hand-over to one source. A clone shares it.
#[derive(Debug, Clone, Default)]
pub(super) struct Changes(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// When the change is overdue, on the boot clock; 0 without one. Spares the reader a lock for every batch.
    overdue_at_ms: AtomicU64,
    next: Mutex<Option<Change>>,
}

/// Settings to take over.
#[derive(Debug)]
pub(super) struct Change {
    settings: Settings,
    taken: Option<oneshot::Sender<()>>,
}

impl Change {
    pub(super) fn settings(&self) -> &Settings {
        &self.settings
    }
}

/// Answers whoever waits: only now nothing is read by the settings of before any more.
impl Drop for Change {
    fn drop(&mut self) {
        // Fails when nobody waits any longer.
        let _ = self.taken.take().map(|taken| taken.send(()));
    }
}

impl Changes {
    /// Hands over settings, in place of those not taken yet.
    pub(super) fn put(&self, settings: Settings, now_ms: u64) -> oneshot::Receiver<()> {
        let (taken, answer) = oneshot::channel();
        let mut next = self.0.next.lock().unwrap_or_else(PoisonError::into_inner);
        *next = Some(Change { settings, taken: Some(taken) });
        self.0.overdue_at_ms.store(now_ms + OVERDUE_MS, Ordering::Release);
        answer
    }

    pub(super) fn is_overdue(&self, now_ms: u64) -> bool {
        let at_ms = self.0.overdue_at_ms.load(Ordering::Acquire);
        at_ms != 0 && now_ms >= at_ms
    }

    pub(super) fn is_pending(&self) -> bool {
        self.0.overdue_at_ms.load(Ordering::Acquire) != 0
    }

    pub(super) fn take(&self) -> Option<Change> {
        if !self.is_pending() {
            return None;
        }
        let mut next = self.0.next.lock().unwrap_or_else(PoisonError::into_inner);
        self.0.overdue_at_ms.store(0, Ordering::Release);
        next.take()
    }
}
