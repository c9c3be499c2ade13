//! The sleep of a source's thread: until a hint at new lines, a deadline, or the stop of the source.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

/// A notification that any thread can send. It is kept until it is taken, so one sent before the wait is not lost.
#[derive(Debug, Clone, Default)]
pub(super) struct Wake(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    notified: AtomicBool,
    stopped: AtomicBool,
    sleeping: Mutex<()>,
    condvar: Condvar,
}

impl Wake {
    /// Wakes the sleeper. Costs one atomic operation while the last notification is not taken: inotify reports every write.
    pub(super) fn notify(&self) {
        if !self.0.notified.swap(true, Ordering::AcqRel) {
            let _sleeping = self.0.sleeping.lock().unwrap_or_else(PoisonError::into_inner);
            self.0.condvar.notify_all();
        }
    }

    /// Wakes the sleeper for the last time.
    pub(super) fn stop(&self) {
        self.0.stopped.store(true, Ordering::Release);
        self.notify();
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.0.stopped.load(Ordering::Acquire)
    }

    /// Takes the notification; returns whether there was one.
    pub(super) fn take(&self) -> bool {
        self.0.notified.swap(false, Ordering::AcqRel)
    }

    /// Sleeps until there is a notification, or for `timeout`. Does not take it.
    pub(super) fn wait(&self, timeout: Duration) {
        let guard = self.0.sleeping.lock().unwrap_or_else(PoisonError::into_inner);
        let is_idle = |(): &mut ()| !self.0.notified.load(Ordering::Acquire);
        // The lock guards no data, so poison means nothing; and a timeout needs no other handling than a notification.
        drop(self.0.condvar.wait_timeout_while(guard, timeout, is_idle));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_notification_before_the_wait_is_not_lost() {
        let wake = Wake::default();
        wake.notify();
        wake.wait(Duration::from_secs(3600));
        assert!(wake.take());
        assert!(!wake.take());
    }

    #[test]
    fn stopping_wakes() {
        let wake = Wake::default();
        let sleeper = wake.clone();
        let thread = std::thread::spawn(move || {
            while !sleeper.is_stopped() {
                sleeper.wait(Duration::from_secs(3600));
                sleeper.take();
            }
        });
        wake.stop();
        thread.join().unwrap();
    }
}
