//! The policy and the baseline, with everything that is derived from the two.
//!
//! The levels in force and the prefilter are caches derived from the policy and what was learned. Both are private here, and [`Thresholds::update`] is the only way to change the baseline: so no change can leave a cache behind.

use crate::detect::baseline::Baseline;
use crate::detect::policy::Policy;
use crate::detect::prefilter::Prefilter;
use crate::detect::rules::{Judge, Warmth};
use crate::detect::score::SavedSite;

pub(crate) struct Thresholds {
    policy: Policy,
    baseline: Baseline,
    prefilter: Prefilter,
    /// The warmth that the prefilter was built for.
    warmth: Warmth,
}

impl Thresholds {
    pub(crate) fn new(policy: Policy) -> Thresholds {
        let baseline = Baseline::new(policy.baseline_min_samples);
        let warmth = warmth(&policy, &baseline, 0);
        let prefilter = Prefilter::new(&policy, &baseline, warmth, 0);
        Thresholds { policy, baseline, prefilter, warmth }
    }

    pub(crate) fn policy(&self) -> &Policy {
        &self.policy
    }

    pub(crate) fn baseline(&self) -> &Baseline {
        &self.baseline
    }

    #[inline]
    pub(crate) fn prefilter(&self) -> &Prefilter {
        &self.prefilter
    }

    pub(crate) fn warmth(&self, second: u32) -> Warmth {
        warmth(&self.policy, &self.baseline, second)
    }

    /// Returns what the rules need to judge the client with this precedent id at `second`.
    pub(crate) fn judge(&self, client: u64, second: u32) -> Judge<'_> {
        let warmth = self.warmth(second);
        Judge { policy: &self.policy, baseline: &self.baseline, warmth, client, second }
    }

    /// Changes the baseline without rebuilding what is derived from it: an [`Thresholds::update`] must follow before the next
    /// client is judged.
    pub(crate) fn learn(&mut self, change: impl FnOnce(&mut Baseline)) {
        change(&mut self.baseline);
    }

    /// Changes the baseline, and rebuilds for `second` what is derived from it.
    pub(crate) fn update<R>(&mut self, second: u32, change: impl FnOnce(&mut Baseline) -> R) -> R {
        let result = change(&mut self.baseline);
        self.baseline.recompute(second);
        self.rebuild_prefilter(second);
        result
    }

    /// Moves on to `second`: the end of the warm-up changes the prefilter without a change of the baseline.
    pub(crate) fn advance(&mut self, second: u32) {
        if self.warmth != self.warmth(second) {
            self.rebuild_prefilter(second);
        }
    }

    /// Forgets the precedents set by a client that turned out to be an attacker.
    pub(crate) fn forget_precedents(&mut self, client: u64, second: u32) {
        // Nearly no attacker has set one, and the check is far cheaper than a rebuild.
        if self.baseline.has_precedents_of(client) {
            self.update(second, |baseline| baseline.forget_precedents(client));
        }
    }

    /// Takes over a saved baseline. `latest` is the newest second seen, 0 before the first request.
    /// Returns what the site taught besides.
    pub(crate) fn restore(&mut self, saved: &[u8], latest: u32) -> Result<SavedSite, String> {
        let (baseline, site) = Baseline::restored(saved, self.policy.baseline_min_samples)?;
        // Before the first request the present hour is unknown; the levels of the last one learned are the best guess.
        let second = latest.max(baseline.next_minute());
        self.update(second, |current| *current = baseline);
        Ok(site)
    }

    /// Takes over another policy. What was learned stays.
    pub(crate) fn set_policy(&mut self, policy: Policy, second: u32) {
        let min_samples = policy.baseline_min_samples;
        self.policy = policy;
        // Before the first request the present hour is unknown, as in `restore`.
        let second = if second == 0 { self.baseline.next_minute() } else { second };
        self.update(second, |baseline| baseline.set_min_samples(min_samples));
    }

    fn rebuild_prefilter(&mut self, second: u32) {
        self.warmth = self.warmth(second);
        let prefilter = Prefilter::new(&self.policy, &self.baseline, self.warmth, second);
        self.prefilter.replace(prefilter);
    }
}

fn warmth(policy: &Policy, baseline: &Baseline, second: u32) -> Warmth {
    if baseline.age_secs(second) >= policy.warm_up_secs { Warmth::Warm } else { Warmth::WarmingUp }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::detect::baseline::{ClientMinute, Feature};

    const START: u32 = 1_767_600_000;

    #[test]
    fn an_update_rebuilds_the_levels_and_the_prefilter() {
        let mut thresholds = Thresholds::new(Policy { warm_up_secs: 0, ..Policy::default() });
        let before = *thresholds.prefilter();
        let busy = ClientMinute { load: 6000.0, ..ClientMinute::default() };
        let minutes = (0..40).map(|client| (client, busy));
        thresholds.update(START, |baseline| baseline.learn_clients(START - 60, minutes));
        assert!((thresholds.baseline().clients().mean - 100.0).abs() < 1e-9);
        assert_ne!(*thresholds.prefilter(), before);
    }

    #[test]
    fn the_end_of_the_warm_up_rebuilds_the_prefilter() {
        let mut thresholds = Thresholds::new(Policy { warm_up_secs: 600, ..Policy::default() });
        thresholds.update(START, |baseline| baseline.begin(START));
        let before = *thresholds.prefilter();
        thresholds.advance(START + 599);
        assert_eq!(*thresholds.prefilter(), before);
        thresholds.advance(START + 600);
        assert_ne!(*thresholds.prefilter(), before);
    }

    #[test]
    fn only_a_client_that_set_precedents_costs_a_rebuild() {
        let mut thresholds = Thresholds::new(Policy { warm_up_secs: 0, ..Policy::default() });
        let wide = ClientMinute { features: [500.0, 0.0, 0.0, 0.0], ..ClientMinute::default() };
        let minutes = (1..=4).map(|client| (client, wide));
        thresholds.update(START, |baseline| baseline.learn_clients(START - 60, minutes));
        thresholds.forget_precedents(9, START);
        assert_eq!(thresholds.baseline().precedent(Feature::Paths, 9, START), 500.0);
        thresholds.forget_precedents(1, START);
        thresholds.forget_precedents(2, START);
        assert_eq!(thresholds.baseline().precedent(Feature::Paths, 9, START), 0.0);
    }
}
