//! Reports about clients that a rule would ban and does not: one for each client now and then, while it goes on being judged
//! by all other rules.

use std::collections::BTreeMap;

/// A client is reported again after this long.
const REPEAT_SECS: u32 = 600;

/// Clients remembered; of more, the one reported longest ago is forgotten.
const MAX_CLIENTS: usize = 4096;

/// The clients reported lately, each with the second of its report.
#[derive(Debug, Default)]
pub(crate) struct Observed(BTreeMap<u128, u32>);

impl Observed {
    /// Whether a client is to be reported now. It counts as reported then.
    pub(crate) fn is_due(&mut self, key: u128, second: u32) -> bool {
        let is_recent = |at: u32| second.saturating_sub(at) < REPEAT_SECS && at <= second + REPEAT_SECS;
        if self.0.get(&key).is_some_and(|at| is_recent(*at)) {
            return false;
        }
        if self.0.len() >= MAX_CLIENTS && !self.0.contains_key(&key) {
            let oldest = self.0.iter().min_by_key(|(_, at)| **at).map(|(key, _)| *key);
            oldest.and_then(|oldest| self.0.remove(&oldest));
        }
        self.0.insert(key, second);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_client_is_reported_now_and_then_in_bounded_memory() {
        let mut observed = Observed::default();
        let due = |observed: &mut Observed, key, second| observed.is_due(key, second);
        assert!(due(&mut observed, 7, 1000) && !due(&mut observed, 7, 1599) && due(&mut observed, 8, 1001));
        assert!(due(&mut observed, 7, 1600), "ten minutes later");
        assert!(due(&mut observed, 7, 200), "the clock was set back");
        for key in 100..100 + 2 * MAX_CLIENTS as u128 {
            assert!(due(&mut observed, key, 2000));
        }
        assert_eq!(observed.0.len(), MAX_CLIENTS);
    }
}
