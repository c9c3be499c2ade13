//! The whole server's rate against its level: starts and ends of a global anomaly, with hysteresis. Bans nobody.

use crate::detect::baseline::Level;
use crate::detect::policy::Policy;
use crate::vocab::report::GlobalChange;

/// The end's thresholds are so much of the start's.
const END_SHARE: f64 = 0.8;

/// The state of the whole server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// As usual; since when it is not, if it just began.
    Calm { above_since: Option<u32> },
    /// Not as usual since a second; since when it is below again, if it is.
    Anomalous { since: u32, below_since: Option<u32> },
}

/// Watches the whole server's rate.
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
    /// Whether an anomaly is on.
    pub(crate) fn is_anomalous(&self) -> bool {
        matches!(self.state, State::Anomalous { .. })
    }

    /// Whether the anomaly that ended last ended because it lasted too long to be one.
    pub(crate) fn took_too_long(&self) -> bool {
        self.accepted
    }

    /// Looks at the rate (requests per second over the window) at `second`; seconds never go back.
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
                let Some(condition) = anomaly(rate, level, policy, 1.0).filter(|_| rule.switch.is_on())
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
                let is_above = anomaly(rate, level, policy, END_SHARE).is_some();
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

/// Which test the rate fails, in words, with the thresholds taken `share`-fold.
fn anomaly(rate: f64, level: &Level, policy: &Policy, share: f64) -> Option<String> {
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

    /// Feeds one rate a second and returns the seconds at which something was announced.
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
    fn a_peak_of_a_moment_is_none() {
        let rates = (0..600).map(|second| if second % 10 < 4 { 500.0 } else { 20.0 });
        assert_eq!(run(rates), []);
    }

    #[test]
    fn what_lasts_is_accepted() {
        let announced = run(vec![90.0; 1900]);
        assert_eq!(announced[..2], [(5, true), (1800, false)]);
    }
}
