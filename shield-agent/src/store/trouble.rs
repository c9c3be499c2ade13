//! What a start found wrong with the database, kept for a day: a message in the middle of the night must still be a state in the
//! morning, and a restart in between is no reason to call it well. An operator who has seen to it ends it before: by taking the
//! damaged file away that was kept for them.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use shield_engine::time::Now;

/// How long it stays a state.
const SHOWN_MS: i64 = 24 * 3_600_000;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trouble {
    /// On the wall clock.
    pub until_ms: i64,
    pub reason: String,
    /// The damaged file, as long as nobody has seen to it.
    #[serde(default)]
    pub kept: Option<PathBuf>,
}

impl Trouble {
    /// What was found now, after what an earlier start may have found.
    pub(crate) fn found(
        reason: Vec<String>,
        kept: Option<PathBuf>,
        earlier: Option<Trouble>,
        now: Now,
    ) -> Option<Trouble> {
        if reason.is_empty() {
            return earlier.filter(|trouble| trouble.left_ms(now) > 0);
        }
        let until_ms = now.wall_ms.saturating_add(SHOWN_MS);
        Some(Trouble { until_ms, reason: reason.join("; "), kept })
    }

    /// How long it is still shown: a day at most, whatever the clock was set to, and not once the kept file is gone.
    pub(crate) fn left_ms(&self, now: Now) -> u64 {
        // A file that cannot be looked for may be there.
        let is_seen_to = self.kept.as_ref().is_some_and(|file| matches!(file.try_exists(), Ok(false)));
        if is_seen_to {
            return 0;
        }
        let left = self.until_ms.saturating_sub(now.wall_ms);
        u64::try_from(left).unwrap_or(0).min(SHOWN_MS as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(wall_ms: i64) -> Now {
        Now { wall_ms, boot_ms: 0 }
    }

    #[test]
    fn it_is_shown_for_a_day_over_restarts() {
        let found = Trouble::found(vec!["a".into(), "b".into()], None, None, at(1_000)).unwrap();
        assert_eq!((found.reason.as_str(), found.left_ms(at(1_000))), ("a; b", 86_400_000));
        assert_eq!(Trouble::found(vec![], None, Some(found.clone()), at(86_400_999)), Some(found.clone()));
        assert_eq!(Trouble::found(vec![], None, Some(found.clone()), at(86_401_000)), None);
        assert_eq!(found.left_ms(at(-9_000_000_000_000)), 86_400_000, "the clock was set back");
    }

    #[test]
    fn it_ends_when_the_damaged_file_is_taken_away() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("shield.db.damaged-2026-11-29");
        std::fs::write(&file, "").unwrap();
        let found = Trouble::found(vec!["a".into()], Some(file.clone()), None, at(0)).unwrap();
        assert_eq!(found.left_ms(at(0)), 86_400_000);
        std::fs::remove_file(&file).unwrap();
        assert_eq!((found.left_ms(at(0)), Trouble::found(vec![], None, Some(found), at(0))), (0, None));
    }

    #[test]
    fn what_an_older_version_wrote_is_read() {
        let found: Trouble = serde_json::from_str(r#"{"until_ms":5,"reason":"a"}"#).unwrap();
        assert_eq!((found.left_ms(at(3)), found.kept), (2, None));
    }
}
