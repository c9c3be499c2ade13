//! How a thread says that it goes round. Whoever watches (`agent/watch.rs`) sees a thread that works without an end, or sleeps
//! longer than it said.
//!
//! A beat costs one store into a word that nobody else writes, wakes nobody and reads no clock: a number that counts up, and
//! the sleep that begins, in milliseconds.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use shield_engine::event::PartState;

/// The sleep of a thread that waits for something from outside, for as long as it takes.
const UNBOUNDED: u32 = u32::MAX;

/// What a stall of a part means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    /// The time without a beat after which the part counts as stalled.
    pub stalled_ms: u64,
    /// The time after which the process ends, because nothing works without this part and a thread cannot be restarted while
    /// it hangs.
    pub ends_ms: Option<u64>,
    /// Without this part nobody is banned: it is told of without the engine, and `/healthz` fails.
    pub is_vital: bool,
}

impl Limits {
    /// A part that is degraded while it hangs, and goes on by itself or not at all.
    pub(crate) const fn of_part(stalled_ms: u64) -> Limits {
        Limits { stalled_ms, ends_ms: None, is_vital: false }
    }

    /// A part whose long stall ends the process.
    pub(crate) const fn ends(self, ends_ms: u64) -> Limits {
        Limits { ends_ms: Some(ends_ms), ..self }
    }

    pub(crate) const fn vital(self) -> Limits {
        Limits { is_vital: true, ..self }
    }
}

/// A part of the agent with a thread or a task of its own.
pub(crate) struct Part {
    pub name: String,
    pub limits: Limits,
    word: AtomicU64,
    /// Its own state, which replaces the one of its stall once it goes on.
    state: Box<dyn Fn() -> PartState + Send + Sync>,
}

impl fmt::Debug for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Part").field("name", &self.name).field("limits", &self.limits).finish_non_exhaustive()
    }
}

/// What a part said last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Word(u64);

impl Word {
    /// The length of the sleep that was announced; `None` without a bound.
    pub(crate) fn sleep_ms(self) -> Option<u64> {
        let sleep = self.0 as u32;
        (sleep != UNBOUNDED).then_some(u64::from(sleep))
    }
}

impl Part {
    pub(crate) fn word(&self) -> Word {
        Word(self.word.load(Ordering::Relaxed))
    }

    pub(crate) fn own_state(&self) -> PartState {
        (self.state)()
    }
}

/// The thread's side. The part is watched until the last clone is dropped.
#[derive(Debug, Clone)]
pub(crate) struct Beat(Arc<Part>);

impl Beat {
    /// Says that the next piece of work begins.
    pub(crate) fn working(&self) {
        self.say(0);
        #[cfg(feature = "test-support")]
        fault::strike(&self.0.name);
    }

    /// Says that the thread sleeps now, for so long at most.
    pub(crate) fn resting(&self, at_most: Duration) {
        self.say(u32::try_from(at_most.as_millis()).unwrap_or(UNBOUNDED));
    }

    /// Says that the thread waits now for somebody who is watched himself, or who may take as long as he likes.
    pub(crate) fn waiting(&self) {
        self.say(UNBOUNDED);
    }

    fn say(&self, sleep_ms: u32) {
        let count = (self.0.word.load(Ordering::Relaxed) >> 32).wrapping_add(1);
        self.0.word.store(count << 32 | u64::from(sleep_ms), Ordering::Relaxed);
    }
}

/// All parts that are watched. A clone is the same list.
#[derive(Debug, Clone, Default)]
pub(crate) struct Beats(Arc<Mutex<Vec<Weak<Part>>>>);

impl Beats {
    /// Watches one more part; `state` is what it reports of itself.
    pub(crate) fn part(
        &self,
        name: impl Into<String>,
        limits: Limits,
        state: impl Fn() -> PartState + Send + Sync + 'static,
    ) -> Beat {
        #[cfg(feature = "test-support")]
        let limits = fault::limits(limits);
        let part = Part { name: name.into(), limits, word: AtomicU64::new(0), state: Box::new(state) };
        let part = Arc::new(part);
        let mut parts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        parts.retain(|part| part.strong_count() > 0);
        parts.push(Arc::downgrade(&part));
        Beat(part)
    }

    /// The parts that are watched now.
    pub(crate) fn all(&self) -> Vec<Arc<Part>> {
        let parts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        parts.iter().filter_map(Weak::upgrade).collect()
    }
}

/// The text of a panic that was caught.
pub(crate) fn panic_text(payload: &(dyn std::any::Any + Send)) -> &str {
    let text = payload.downcast_ref::<&str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("without a message")
}

/// Faults that tests ask for by files in the folder `SHIELD_TEST_FAULTS`: `PART.panic` makes the part panic once, and
/// `PART.stall` holds it up for as long as the file is there. Not in a build without `test-support`.
#[cfg(feature = "test-support")]
pub(crate) mod fault {
    use std::path::PathBuf;
    use std::sync::OnceLock;
    use std::time::Duration;

    use super::Limits;

    fn folder() -> Option<&'static PathBuf> {
        static FOLDER: OnceLock<Option<PathBuf>> = OnceLock::new();
        FOLDER.get_or_init(|| std::env::var_os("SHIELD_TEST_FAULTS").map(PathBuf::from)).as_ref()
    }

    /// Commits the fault that is asked for, if there is one.
    pub(crate) fn strike(part: &str) {
        let Some(folder) = folder() else { return };
        let name = part.replace('/', "_");
        if std::fs::remove_file(folder.join(format!("{name}.panic"))).is_ok() {
            panic!("a fault that a test asked for");
        }
        let stall = folder.join(format!("{name}.stall"));
        while stall.exists() {
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// `SHIELD_TEST_STALL_MS` in place of the time that a stall takes, and five times as much in place of that until the end.
    pub(super) fn limits(limits: Limits) -> Limits {
        let Some(ms) = std::env::var("SHIELD_TEST_STALL_MS").ok().and_then(|ms| ms.parse::<u64>().ok())
        else {
            return limits;
        };
        Limits { stalled_ms: ms, ends_ms: limits.ends_ms.map(|_| 5 * ms), ..limits }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_word_differs_from_the_one_before() {
        let beats = Beats::default();
        let beat = beats.part("x", Limits::of_part(1), || PartState::Off { reason: String::new() });
        let mut last = beat.0.word();
        let mut check = |say: &dyn Fn(), sleep_ms| {
            say();
            let word = beat.0.word();
            assert_ne!(word, last);
            assert_eq!(word.sleep_ms(), sleep_ms);
            last = word;
        };
        check(&|| beat.working(), Some(0));
        check(&|| beat.working(), Some(0));
        check(&|| beat.resting(Duration::from_secs(5)), Some(5_000));
        check(&|| beat.resting(Duration::MAX), None);
        check(&|| beat.waiting(), None);
        assert_eq!(beats.all().len(), 1);
        drop(beat);
        assert!(beats.all().is_empty(), "a part that ended is watched no more");
    }
}
