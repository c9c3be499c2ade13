//! Mean and standard deviation of a stream of samples, with exponential forgetting.

use serde::{Deserialize, Serialize};

/// Count, sum and sum of squares: enough for the mean and the population standard deviation, and mergeable.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Moments {
    n: f64,
    sum: f64,
    sum_squares: f64,
}

impl Moments {
    pub(crate) fn add(&mut self, value: f64) {
        self.add_many(value, 1.0);
    }

    /// Adds the same sample `times` times: silences are thousands of seconds long.
    pub(crate) fn add_many(&mut self, value: f64, times: f64) {
        self.n += times;
        self.sum += value * times;
        self.sum_squares += value * value * times;
    }

    pub(crate) fn merge(&mut self, other: &Moments) {
        self.n += other.n;
        self.sum += other.sum;
        self.sum_squares += other.sum_squares;
    }

    /// Scales the weight of all samples so far by `keep` (0..=1).
    pub(crate) fn forget(&mut self, keep: f64) {
        self.n *= keep;
        self.sum *= keep;
        self.sum_squares *= keep;
    }

    /// The weight of all samples: their number, less what was forgotten.
    pub(crate) fn count(&self) -> f64 {
        self.n
    }

    /// The mean; 0 without samples.
    pub(crate) fn mean(&self) -> f64 {
        if self.n > 0.0 { self.sum / self.n } else { 0.0 }
    }

    /// The population standard deviation, `sqrt(E[x²] - E[x]²)`; 0 without samples.
    pub(crate) fn stddev(&self) -> f64 {
        if self.n <= 0.0 {
            return 0.0;
        }
        let mean = self.mean();
        // Rounding can push the difference slightly below zero.
        (self.sum_squares / self.n - mean * mean).max(0.0).sqrt()
    }

    /// Returns whether every number is finite and not negative: a saved file may hold anything.
    pub(crate) fn is_sane(&self) -> bool {
        [self.n, self.sum, self.sum_squares].iter().all(|v| v.is_finite() && *v >= 0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn silence_counts_as_zeros() {
        let mut moments = Moments::default();
        moments.add(6.0);
        moments.add_many(0.0, 59.0);
        assert!((moments.mean() - 0.1).abs() < 1e-12);
        assert!((moments.stddev() - (0.6f64 - 0.01).sqrt()).abs() < 1e-12);
    }

    proptest! {
        #[test]
        fn merging_is_adding(a in prop::collection::vec(0.0f64..1e4, 0..50), b in prop::collection::vec(0.0f64..1e4, 1..50)) {
            let of = |values: &[f64]| {
                let mut moments = Moments::default();
                values.iter().for_each(|v| moments.add(*v));
                moments
            };
            let mut merged = of(&a);
            merged.merge(&of(&b));
            let all = of(&[a, b].concat());
            prop_assert!((merged.mean() - all.mean()).abs() <= 1e-6 * (1.0 + all.mean()));
            prop_assert!((merged.stddev() - all.stddev()).abs() <= 1e-3 * (1.0 + all.stddev()));
        }
    }
}
