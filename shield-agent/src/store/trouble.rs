//! What a start found wrong with the database, kept for a day: a message in the middle of the night must still be a state in the
//! morning, and a restart in between is no reason to call it well.

use serde::{Deserialize, Serialize};

use shield_engine::time::Now;

/// How long it stays a state.
const SHOWN_MS: i64 = 24 * 3_600_000;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trouble {
    /// On the wall clock.
    pub until_ms: i64,
    pub reason: String,
}

impl Trouble {
    /// What was found now, after what an earlier start may have found.
    pub(crate) fn found(reason: Vec<String>, earlier: Option<Trouble>, now: Now) -> Option<Trouble> {
        if reason.is_empty() {
            return earlier.filter(|trouble| trouble.left_ms(now) > 0);
        }
        Some(Trouble { until_ms: now.wall_ms.saturating_add(SHOWN_MS), reason: reason.join("; ") })
    }

    /// How long it is still shown: a day at most, whatever the clock was set to.
    pub(crate) fn left_ms(&self, now: Now) -> u64 {
        let left = self.until_ms.saturating_sub(now.wall_ms);
        u64::try_from(left).unwrap_or(0).min(SHOWN_MS as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_shown_for_a_day_over_restarts() {
        let at = |wall_ms| Now { wall_ms, boot_ms: 0 };
        let found = Trouble::found(vec!["a".into(), "b".into()], None, at(1_000)).unwrap();
        assert_eq!((found.reason.as_str(), found.left_ms(at(1_000))), ("a; b", 86_400_000));
        assert_eq!(Trouble::found(vec![], Some(found.clone()), at(86_400_999)), Some(found.clone()));
        assert_eq!(Trouble::found(vec![], Some(found.clone()), at(86_401_000)), None);
        assert_eq!(found.left_ms(at(-9_000_000_000_000)), 86_400_000, "the clock was set back");
    }
}
