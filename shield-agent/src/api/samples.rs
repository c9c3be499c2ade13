//! What the history keeps of each moment, put aside by the engine's own thread at its ticks and taken from there every few
//! seconds: to ask the engine for it would wake three threads of an idle agent each time.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use super::history::STEP_SECS;
use crate::enforce::Drops;
use shield_engine::Engine;
use shield_engine::event::EnforcerName;
use shield_engine::report::ServerRates;
use shield_engine::time::Now;

/// Moments kept at most, the newest: two minutes.
const KEPT: usize = 64;

/// What is kept of a moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampled {
    pub now: Now,
    pub rates: ServerRates,
    /// Bans in force.
    pub bans: u64,
    /// Drops since the start, of each enforcer that counts.
    pub drops: Vec<(EnforcerName, Drops)>,
}

/// The moments that the history has not taken yet. A clone is the same.
#[derive(Debug, Clone, Default)]
pub(crate) struct Samples(Arc<Mutex<VecDeque<Sampled>>>);

impl Samples {
    /// Looks at the engine once in each step of the history.
    pub(crate) fn sampler<F>(&self, drops: F) -> impl FnMut(&Engine, Now) + use<F>
    where
        F: Fn() -> Vec<(EnforcerName, Drops)>,
    {
        let (samples, mut last) = (self.clone(), None);
        move |engine: &Engine, now: Now| {
            let step = now.wall_secs().div_euclid(i64::from(STEP_SECS));
            if last.replace(step) == Some(step) {
                return;
            }
            let (rates, bans) = (engine.detector().rates(), engine.ledger().len() as u64);
            samples.put(Sampled { now, rates, bans, drops: drops() });
        }
    }

    /// Takes all there are, the oldest first.
    pub(crate) fn take(&self) -> Vec<Sampled> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).drain(..).collect()
    }

    fn put(&self, sampled: Sampled) {
        let mut samples = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if samples.len() >= KEPT {
            samples.pop_front();
        }
        samples.push_back(sampled);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shield_engine::allowlist::Allowlist;
    use shield_engine::policy::Policy;
    use shield_engine::settings::Settings;

    #[test]
    fn each_step_has_one_sample_and_nobody_who_takes_them_costs_memory() {
        let engine = Engine::new(Settings::default(), Policy::default(), Allowlist::default(), 1, 7);
        let samples = Samples::default();
        let mut sampler = samples.sampler(Vec::new);
        let start = Now { wall_ms: 1_800_000_000_999, boot_ms: 5_000 };
        for tick in 0..10 {
            sampler(&engine, start.plus_ms(tick * 1_000));
            sampler(&engine, start.plus_ms(tick * 1_000 + 1));
        }
        let steps: Vec<i64> = samples.take().iter().map(|sampled| sampled.now.wall_ms / 2_000).collect();
        assert_eq!(steps, (900_000_000..900_000_006).collect::<Vec<_>>());
        assert!(samples.take().is_empty());
        for tick in 0..200 {
            sampler(&engine, start.plus_ms(60_000 + tick * 2_000));
        }
        let newest = start.plus_ms(60_000 + 199 * 2_000);
        assert_eq!(samples.take().last().map(|sampled| sampled.now), Some(newest));
        assert!(samples.0.lock().unwrap().capacity() <= 2 * KEPT);
    }
}
