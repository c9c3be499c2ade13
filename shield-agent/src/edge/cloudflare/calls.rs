//! How much of what Cloudflare allows an account is ours: all tools of the account share its limits. Pure.

use std::collections::VecDeque;

/// What may be spent within a span of time.
#[derive(Debug)]
pub(super) struct Budget {
    limit: u64,
    span_ms: u64,
    spent: VecDeque<(u64, u64)>,
    sum: u64,
}

impl Budget {
    /// `share` of `limit` in each `span_ms`, but one at least.
    pub(super) fn new(limit: u64, share: f64, span_ms: u64) -> Budget {
        let limit = ((limit as f64 * share) as u64).max(1);
        Budget { limit, span_ms, spent: VecDeque::new(), sum: 0 }
    }

    /// How much may be spent now.
    pub(super) fn left(&mut self, now_ms: u64) -> u64 {
        while let Some((at_ms, amount)) = self.spent.front().copied() {
            if at_ms + self.span_ms > now_ms {
                break;
            }
            self.spent.pop_front();
            self.sum -= amount;
        }
        self.limit.saturating_sub(self.sum)
    }

    /// When there is something to spend again.
    pub(super) fn next_ms(&self, now_ms: u64) -> u64 {
        self.spent.front().map_or(now_ms, |(at_ms, _)| at_ms + self.span_ms)
    }

    pub(super) fn spend(&mut self, amount: u64, now_ms: u64) {
        self.spent.push_back((now_ms, amount));
        self.sum += amount;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_span_has_more_than_the_share(pauses in prop::collection::vec(0u64..2_000, 1..400)) {
            let (limit, span) = (30, 10_000);
            let mut budget = Budget::new(120, 0.25, span);
            let (mut now, mut spent) = (0, Vec::new());
            for pause in pauses {
                now += pause;
                if budget.left(now) > 0 {
                    budget.spend(1, now);
                    spent.push(now);
                } else {
                    prop_assert!(budget.next_ms(now) > now);
                    now = budget.next_ms(now);
                    prop_assert!(budget.left(now) > 0);
                }
            }
            for from in &spent {
                let within = spent.iter().filter(|at| (*from..from + span).contains(at)).count();
                prop_assert!(within <= limit);
            }
        }
    }
}
