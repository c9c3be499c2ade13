//! The health of every part: its state, the reason, and since when.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::vocab::action::Notice;
use crate::vocab::event::PartState;
use crate::vocab::time::Now;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Part {
    pub state: PartState,
    /// Wall clock, in milliseconds.
    pub since_ms: i64,
}

/// Every part that has reported.
#[derive(Debug, Default)]
pub struct Parts {
    parts: BTreeMap<String, Part>,
    degraded_at: BTreeMap<String, u64>,
}

impl Parts {
    /// Records a report. Returns a notice when the part became degraded, is degraded for another reason, or recovered.
    pub fn report(&mut self, part: &str, state: PartState, now: Now) -> Option<Notice> {
        let old = self.parts.get(part).map(|p| &p.state);
        if old == Some(&state) {
            return None;
        }
        let was_degraded = self.degraded_at.get(part).copied();
        let notice = match (&state, was_degraded) {
            (PartState::Degraded { reason }, _) => {
                self.degraded_at.entry(part.to_owned()).or_insert(now.boot_ms);
                Some(Notice::Degraded { part: part.to_owned(), reason: reason.clone() })
            }
            (PartState::Active { .. } | PartState::Off { .. }, Some(since)) => {
                self.degraded_at.remove(part);
                let after_secs = now.boot_ms.saturating_sub(since) / 1000;
                Some(Notice::Recovered { part: part.to_owned(), after_secs })
            }
            _ => None,
        };
        self.parts.insert(part.to_owned(), Part { state, since_ms: now.wall_ms });
        notice
    }

    /// Forgets a part that is no longer configured.
    pub(crate) fn remove(&mut self, part: &str) {
        self.parts.remove(part);
        self.degraded_at.remove(part);
    }

    pub fn all(&self) -> &BTreeMap<String, Part> {
        &self.parts
    }

    pub fn is_active(&self, part: &str) -> bool {
        matches!(self.parts.get(part), Some(Part { state: PartState::Active { .. }, .. }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T0: Now = Now { wall_ms: 0, boot_ms: 0 };

    fn degraded(reason: &str) -> PartState {
        PartState::Degraded { reason: reason.to_owned() }
    }

    fn active() -> PartState {
        PartState::Active { detail: String::new() }
    }

    #[test]
    fn only_changes_are_news() {
        let mut parts = Parts::default();
        assert_eq!(parts.report("xdp", active(), T0), None, "starting well is no news");
        assert!(matches!(parts.report("xdp", degraded("a"), T0), Some(Notice::Degraded { .. })));
        assert_eq!(parts.report("xdp", degraded("a"), T0.plus_ms(1)), None);
        let recovered = parts.report("xdp", active(), T0.plus_ms(5_000));
        assert_eq!(recovered, Some(Notice::Recovered { part: "xdp".to_owned(), after_secs: 5 }));
        assert_eq!(parts.report("xdp", active(), T0.plus_ms(6_000)), None);
        assert!(parts.is_active("xdp"));
    }
}
