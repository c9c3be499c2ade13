//! The decision that a source has been behind its logs for too long.
//!
//! Every source is behind for a moment after a start, a rotation or a burst, and that is no fault. Behind for a minute means
//! that bans come a minute late, which nothing else would show: the reader works, only on old lines.

use shield_engine::event::PartState;

/// From this many unread bytes on a source counts as behind.
///
/// The reader's own bound between live traffic and a backlog, so that both change together.
const BEHIND_BYTES: u64 = super::file::BACKLOG_BYTES;

/// Below this many it has caught up. Less than [`BEHIND_BYTES`], so that a lag about either bound does not flap.
const CAUGHT_UP_BYTES: u64 = 1 << 20;

/// Behind for longer is degraded. The backlog of a restart is read sooner: at over a million lines per second
/// (`docs/benchmarks.md`) a minute is some ten gigabytes.
const LATE_AFTER_MS: u64 = 60_000;

/// The reason of a source that is behind for too long. Without figures, because every new reason is announced; the API adds
/// those of the moment.
const LATE: &str = "reading, but behind its log for over a minute, so bans come late; check whether the machine is overloaded";

/// Tracks since when a source is behind.
#[derive(Debug, Default)]
pub(super) struct Lag {
    behind_since_ms: Option<u64>,
}

impl Lag {
    /// Returns `state`, or degraded instead of active when the source is behind for too long.
    ///
    /// A file that cannot be read is the graver news, so any other state stays as it is.
    pub(super) fn state(&mut self, state: PartState, unread_bytes: u64, now_ms: u64) -> PartState {
        let is_late = self.is_late(unread_bytes, now_ms);
        match state {
            PartState::Active { .. } if is_late => PartState::Degraded { reason: LATE.to_owned() },
            state => state,
        }
    }

    /// Takes the unread bytes at `now_ms` (boot clock); returns whether the source is behind for too long.
    fn is_late(&mut self, unread_bytes: u64, now_ms: u64) -> bool {
        if unread_bytes < CAUGHT_UP_BYTES {
            self.behind_since_ms = None;
        } else if unread_bytes >= BEHIND_BYTES {
            self.behind_since_ms.get_or_insert(now_ms);
        }
        self.behind_since_ms.is_some_and(|since_ms| now_ms.saturating_sub(since_ms) >= LATE_AFTER_MS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_late_source_is_degraded_and_not_active() {
        let reading = || PartState::Active { detail: "reading".to_owned() };
        let missing = || PartState::Waiting { reason: "/a.log does not exist (yet)".to_owned() };
        let mut lag = Lag::default();
        assert_eq!(lag.state(reading(), BEHIND_BYTES, 0), reading());
        let late = PartState::Degraded { reason: LATE.to_owned() };
        assert_eq!(lag.state(reading(), BEHIND_BYTES, LATE_AFTER_MS), late);
        assert_eq!(lag.state(missing(), BEHIND_BYTES, LATE_AFTER_MS), missing());
        assert_eq!(lag.state(reading(), 0, LATE_AFTER_MS), reading());
    }

    #[test]
    fn a_source_is_late_when_it_stays_behind_and_not_after_it_caught_up() {
        let mut lag = Lag::default();
        assert!(!lag.is_late(BEHIND_BYTES, 1_000), "just now behind");
        assert!(!lag.is_late(BEHIND_BYTES, 1_000 + LATE_AFTER_MS - 1));
        assert!(lag.is_late(BEHIND_BYTES, 1_000 + LATE_AFTER_MS));
        assert!(lag.is_late(CAUGHT_UP_BYTES, 100_000), "less, but not caught up");
        assert!(!lag.is_late(CAUGHT_UP_BYTES - 1, 100_001));
        assert!(!lag.is_late(BEHIND_BYTES - 1, 1_000_000), "an ordinary lag");
        assert!(!lag.is_late(BEHIND_BYTES - 1, 2_000_000));
        assert!(!lag.is_late(BEHIND_BYTES, 2_000_001), "behind anew");
    }
}
