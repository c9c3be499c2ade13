//! How a source's thread sleeps: until something hints at new lines, a deadline passes, or it is told to stop.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

/// A bell that any thread can ring; a ring is not lost when nobody is waiting.
#[derive(Debug, Clone, Default)]
pub(super) struct Wake(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    rung: AtomicBool,
    stopped: AtomicBool,
    sleeping: Mutex<()>,
    bell: Condvar,
}

impl Wake {
    /// Wakes the sleeper. Costs next to nothing while the last ring was not answered.
    pub(super) fn ring(&self) {
        if !self.0.rung.swap(true, Ordering::AcqRel) {
            let _sleeping = self.0.sleeping.lock().unwrap_or_else(PoisonError::into_inner);
            self.0.bell.notify_all();
        }
    }

    /// Tells the sleeper to come to its end.
    pub(super) fn stop(&self) {
        self.0.stopped.store(true, Ordering::Release);
        self.ring();
    }

    /// Whether it is to stop.
    pub(super) fn is_stopped(&self) -> bool {
        self.0.stopped.load(Ordering::Acquire)
    }

    /// Whether somebody rang since the last answer; answers.
    pub(super) fn answer(&self) -> bool {
        self.0.rung.swap(false, Ordering::AcqRel)
    }

    /// Sleeps until somebody rings, or for `timeout`; leaves the ring to be answered.
    pub(super) fn wait(&self, timeout: Duration) {
        let guard = self.0.sleeping.lock().unwrap_or_else(PoisonError::into_inner);
        let is_quiet = |(): &mut ()| !self.0.rung.load(Ordering::Acquire);
        // A poisoned lock guards nothing, and a timeout is an answer like any other.
        drop(self.0.bell.wait_timeout_while(guard, timeout, is_quiet));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_before_the_wait_is_heard() {
        let wake = Wake::default();
        wake.ring();
        wake.wait(Duration::from_secs(3600));
        assert!(wake.answer());
        assert!(!wake.answer());
    }

    #[test]
    fn stopping_wakes() {
        let wake = Wake::default();
        let sleeper = wake.clone();
        let thread = std::thread::spawn(move || {
            while !sleeper.is_stopped() {
                sleeper.wait(Duration::from_secs(3600));
                sleeper.answer();
            }
        });
        wake.stop();
        thread.join().unwrap();
    }
}
