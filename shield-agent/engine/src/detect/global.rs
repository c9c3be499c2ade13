//! The global anomaly: the whole server's rate compared with its learned level, with hysteresis. Only announced; it bans
//! nobody.

use crate::detect::baseline::Level;
use crate::detect::policy::Policy;
use crate::vocab::report::GlobalChange;

/// An anomaly goes on until the rate is below this share of the thresholds that started it: a rate that wavers around
/// one threshold is one anomaly, not a notice every few seconds.
const END_SHARE: f64 = 0.8;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// No anomaly; `above_since` is set while the rate is above a threshold, but not long enough to announce it.
    Calm { above_since: Option<u32> },
    /// Announced; `below_since` is set while the rate is below all thresholds, but not long enough to end it.
    Anomalous { since: u32, below_since: Option<u32> },
}

#[derive(Debug, Clone)]
pub(crate) struct Global {
    state: State,
    accepted: bool,
}

impl Default for Global {
    fn default() -> Global {
        Global { state: State::Calm { above_since: None }, accepted: false }
    }
}

impl Global {
    pub(crate) fn is_anomalous(&self) -> bool {
        matches!(self.state, State::Anomalous { .. })
    }

    /// Returns whether the last [`Global::watch`] ended an anomaly because it lasted `max_freeze_secs`: then the level is
    /// the new normal.
    pub(crate) fn took_too_long(&self) -> bool {
        self.accepted
    }

    /// Compares the rate (requests per second over the window) at `second`, which must not go back, with `level`.
    pub(crate) fn watch(
        &mut self,
        rate: f64,
        level: &Level,
        policy: &Policy,
        second: u32,
    ) -> Option<GlobalChange> {
        let rule = &policy.global;
        self.accepted = false;
        match self.state {
            State::Calm { above_since } => {
                let Some(condition) = exceeded(rate, level, policy, 1.0).filter(|_| rule.switch.is_on())
                else {
                    self.state = State::Calm { above_since: None };
                    return None;
                };
                let since = above_since.unwrap_or(second);
                if second.saturating_sub(since) < rule.start_secs {
                    self.state = State::Calm { above_since: Some(since) };
                    return None;
                }
                self.state = State::Anomalous { since, below_since: None };
                let (mean, stddev) = (level.mean, level.stddev);
                Some(GlobalChange::Started { condition, rate, mean, stddev, at_secs: i64::from(second) })
            }
            State::Anomalous { since, below_since } => {
                let is_above = exceeded(rate, level, policy, END_SHARE).is_some();
                let below_since = (!is_above).then(|| below_since.unwrap_or(second));
                let is_over = below_since.is_some_and(|at| second.saturating_sub(at) >= rule.end_secs);
                let is_frozen = policy.max_freeze_secs > 0;
                self.accepted =
                    is_frozen && !is_over && second.saturating_sub(since) >= policy.max_freeze_secs;
                if !is_over && !self.accepted {
                    self.state = State::Anomalous { since, below_since };
                    return None;
                }
                self.state = State::Calm { above_since: None };
                let lasted_secs = u64::from(second.saturating_sub(since));
                Some(GlobalChange::Ended { rate, mean: level.mean, lasted_secs, at_secs: i64::from(second) })
            }
        }
    }
}

/// Returns the first condition that the rate meets, as text, with all thresholds scaled by `share`.
fn exceeded(rate: f64, level: &Level, policy: &Policy, share: f64) -> Option<String> {
    let rule = &policy.global;
    if rate < rule.min_rate * share {
        return None;
    }
    let (z_score, limit) = (level.z_score(rate), rule.multiplier * share * level.mean);
    if z_score > rule.z_threshold * share {
        return Some(format!("z-score={z_score:.2} > threshold={:.2}", rule.z_threshold * share));
    }
    (rate > limit).then(|| format!("rate={rate:.2} > threshold={limit:.2}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::detect::baseline::Source;

    const LEVEL: Level =
        Level { mean: 20.0, stddev: 10.0, error_mean: 0.1, samples: 1800.0, source: Source::Rolling };

    /// Feeds one rate a second; returns the seconds of announcements, `true` for a start.
    fn run(rates: impl IntoIterator<Item = f64>) -> Vec<(u32, bool)> {
        let (mut global, policy) = (Global::default(), Policy::default());
        let mut announced = Vec::new();
        for (second, rate) in rates.into_iter().enumerate() {
            match global.watch(rate, &LEVEL, &policy, second as u32) {
                Some(GlobalChange::Started { .. }) => announced.push((second as u32, true)),
                Some(GlobalChange::Ended { .. }) => announced.push((second as u32, false)),
                None => {}
            }
        }
        announced
    }

    #[test]
    fn it_starts_once_and_ends_once() {
        let rates = [vec![20.0; 10], vec![90.0; 100], vec![20.0; 100]].concat();
        assert_eq!(run(rates), [(15, true), (170, false)]);
    }

    #[test]
    fn a_rate_that_wavers_at_the_threshold_is_one_anomaly() {
        // 50 is the z-threshold (3 x 10 above 20); 46 is below it, but not below the end's.
        let rates = (0..600).map(|second| if second % 20 < 10 { 55.0 } else { 46.0 });
        assert_eq!(run(rates), [(5, true)]);
    }

    #[test]
    fn a_short_peak_is_not_announced() {
        let rates = (0..600).map(|second| if second % 10 < 4 { 500.0 } else { 20.0 });
        assert_eq!(run(rates), []);
    }

    #[test]
    fn a_lasting_level_is_accepted() {
        let announced = run(vec![90.0; 1900]);
        assert_eq!(announced[..2], [(5, true), (1800, false)]);
    }

    #[test]
    fn only_an_end_by_acceptance_is_marked_as_such() {
        let accepted = |rates: &[f64], policy: &Policy| {
            let mut global = Global::default();
            let watched = rates.iter().zip(0..).filter_map(|(rate, second)| {
                global.watch(*rate, &LEVEL, policy, second).map(|_| global.took_too_long())
            });
            watched.collect::<Vec<_>>()
        };
        let policy = Policy { max_freeze_secs: 100, ..Policy::default() };
        assert_eq!(accepted(&[90.0; 103], &policy), [false, true], "the start, and an end by acceptance");
        let over = [vec![90.0; 10], vec![20.0; 80]].concat();
        assert_eq!(accepted(&over, &policy), [false, false], "an end as the rate fell");
        let never = Policy { max_freeze_secs: 0, ..Policy::default() };
        assert_eq!(accepted(&[90.0; 3000], &never), [false], "0 accepts nothing");
    }

    /// The start's thresholds are 50 (z-score) and 60 (multiplier); the end's are 44 and 48.
    #[test]
    fn an_anomaly_goes_on_until_the_rate_is_below_the_end_thresholds() {
        let then = |rate| run([vec![20.0; 10], vec![90.0; 100], vec![rate; 300]].concat());
        assert_eq!(then(49.0), [(15, true)]);
        assert_eq!(then(44.1), [(15, true)], "z-score 2.41 is above 2.4");
        assert_eq!(then(43.9), [(15, true), (170, false)]);
    }

    /// A spread so wide that only the multiplier is exceeded: 60 at the start, 48 at the end.
    #[test]
    fn the_multiplier_and_the_minimum_have_hysteresis_too() {
        let starts_and_ends = |level: Level, rates: &[f64]| {
            let (mut global, policy) = (Global::default(), Policy::default());
            let changes = rates
                .iter()
                .zip(0..)
                .filter_map(|(rate, second)| global.watch(*rate, &level, &policy, second));
            changes.map(|change| matches!(change, GlobalChange::Started { .. })).collect::<Vec<_>>()
        };
        let wide = Level { stddev: 1000.0, ..LEVEL };
        let then = |rate| [vec![61.0; 10], vec![rate; 100]].concat();
        assert_eq!(starts_and_ends(wide, &[60.0; 100]), [false; 0], "not above three times the mean");
        assert_eq!(starts_and_ends(wide, &then(48.1)), [true]);
        assert_eq!(starts_and_ends(wide, &then(47.9)), [true, false]);
        // A site with next to no traffic: the minimum of 5 requests a second decides, 4 at the end.
        let quiet = Level { mean: 0.1, stddev: 0.1, ..LEVEL };
        let then = |rate| [vec![5.0; 10], vec![rate; 100]].concat();
        assert_eq!(starts_and_ends(quiet, &[4.9; 100]), [false; 0]);
        assert_eq!(starts_and_ends(quiet, &then(4.0)), [true]);
        assert_eq!(starts_and_ends(quiet, &then(3.9)), [true, false]);
    }

    #[test]
    fn a_start_names_the_condition() {
        let condition = |rate| exceeded(rate, &LEVEL, &Policy::default(), 1.0);
        assert_eq!(condition(50.0), None, "a z-score of exactly 3");
        assert_eq!(condition(51.0).as_deref(), Some("z-score=3.10 > threshold=3.00"));
        let wide = Level { stddev: 1000.0, ..LEVEL };
        let condition = exceeded(61.0, &wide, &Policy::default(), 1.0);
        assert_eq!(condition.as_deref(), Some("rate=61.00 > threshold=60.00"));
    }
}
