//! What took long in a run of the tests: its steps, and the test binaries, of which several run at a time.

use std::time::{Duration, Instant};

/// So many are named.
const NAMED: usize = 10;

/// Names with the time that each of them took.
#[derive(Debug, Default)]
pub(crate) struct Slow(Vec<(String, Duration)>);

impl Slow {
    /// Runs a step and notes its time.
    pub(crate) fn time<T>(&mut self, name: &str, step: impl FnOnce() -> T) -> T {
        let began = Instant::now();
        let result = step();
        self.note(name, began.elapsed());
        result
    }

    /// Notes what something took.
    pub(crate) fn note(&mut self, name: &str, took: Duration) {
        self.0.push((name.to_owned(), took));
    }

    /// The slowest, longest first, a line each.
    pub(crate) fn report(&self) -> String {
        let mut all: Vec<&(String, Duration)> = self.0.iter().collect();
        all.sort_by(|(a_name, a), (b_name, b)| b.cmp(a).then_with(|| a_name.cmp(b_name)));
        let mut report = String::from("slowest, in seconds:");
        for (name, took) in all.into_iter().take(NAMED) {
            report.push_str(&format!("\n{:>8.1}  {name}", took.as_secs_f64()));
        }
        report
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ten_slowest_are_named() {
        let slow = Slow((1..=12).map(|secs| (format!("step {secs}"), Duration::from_secs(secs))).collect());
        let report = slow.report();
        assert!(
            report.starts_with("slowest, in seconds:\n    12.0  step 12\n    11.0  step 11\n"),
            "{report}"
        );
        assert!(report.ends_with("     3.0  step 3"), "{report}");
    }
}
