//! A state that is entered at once and left only after a calm, which grows with every change.
//!
//! Without it, whoever can bring the cause about could make the state flap: notices by the hundred, in which the one that matters
//! drowns.

/// The calm after which the state is left: the first time, the second, and so on.
const CALM_MS: [u64; 4] = [10_000, 60_000, 600_000, 3_600_000];

/// After this long outside the state its earlier changes are forgotten.
const FORGET_MS: u64 = 24 * 3_600_000;

#[derive(Debug, Default)]
pub(super) struct Hold {
    is_on: bool,
    calm_since_ms: Option<u64>,
    /// Times that the state was left lately.
    left: usize,
    left_at_ms: u64,
}

impl Hold {
    /// Takes whether the cause is there now (`is_bad`), and whether all is well; between the two nothing changes.
    pub(super) fn update(&mut self, is_bad: bool, is_well: bool, now_ms: u64) {
        if !self.is_on {
            if is_bad {
                if now_ms.saturating_sub(self.left_at_ms) >= FORGET_MS {
                    self.left = 0;
                }
                *self = Hold { is_on: true, calm_since_ms: None, ..*self };
            }
            return;
        }
        if !is_well {
            self.calm_since_ms = None;
            return;
        }
        let since_ms = *self.calm_since_ms.get_or_insert(now_ms);
        let calm_ms = CALM_MS.get(self.left).or(CALM_MS.last()).copied().unwrap_or_default();
        if now_ms.saturating_sub(since_ms) >= calm_ms {
            *self = Hold { is_on: false, calm_since_ms: None, left: self.left + 1, left_at_ms: now_ms };
        }
    }

    pub(super) fn is_on(&self) -> bool {
        self.is_on
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Changes of the state in a day in which the cause comes and goes every `every_ms`.
    fn changes_in_a_day(every_ms: u64) -> usize {
        let (mut hold, mut changes, mut was_on) = (Hold::default(), 0, false);
        for now_ms in (0..24 * 3_600_000).step_by(1_000) {
            let is_bad = (now_ms / every_ms).is_multiple_of(2);
            hold.update(is_bad, !is_bad, now_ms);
            changes += usize::from(hold.is_on() != was_on);
            was_on = hold.is_on();
        }
        changes
    }

    #[test]
    fn the_state_cannot_be_made_to_flap() {
        for every_ms in [1_000, 5_000, 11_000, 60_000, 61_000, 601_000, 3_601_000] {
            let changes = changes_in_a_day(every_ms);
            assert!(
                changes <= 30,
                "{changes} changes in a day, with a cause that comes and goes every {every_ms} ms"
            );
        }
    }

    #[test]
    fn a_single_fault_is_over_soon_and_an_unclear_view_changes_nothing() {
        let mut hold = Hold::default();
        hold.update(false, false, 0);
        assert!(!hold.is_on());
        hold.update(true, false, 1_000);
        assert!(hold.is_on());
        hold.update(false, false, 100_000);
        hold.update(false, true, 200_000);
        assert!(hold.is_on());
        hold.update(false, true, 210_000);
        assert!(!hold.is_on());
    }
}
