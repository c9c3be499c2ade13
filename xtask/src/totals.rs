//! The counts of libtest's `test result:` lines, and a line like them for all.

use std::iter::Sum;
use std::ops::AddAssign;

/// Counts of tests.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) ignored: u64,
    pub(crate) filtered_out: u64,
}

impl Totals {
    /// The counts of this line, if it is such a line.
    pub(crate) fn parse(line: &str) -> Option<Self> {
        let counts = line.strip_prefix("test result: ")?;
        let count = |label: &str| {
            counts
                .split([';', '.'])
                .find_map(|part| part.trim().strip_suffix(label)?.trim().parse::<u64>().ok())
        };
        Some(Self {
            passed: count("passed")?,
            failed: count("failed")?,
            ignored: count("ignored")?,
            filtered_out: count("filtered out")?,
        })
    }

    pub(crate) fn line(self, is_good: bool, secs: f64) -> String {
        let Self { passed, failed, ignored, filtered_out } = self;
        let word = if is_good { "ok" } else { "FAILED" };
        format!(
            "test result: {word}. {passed} passed; {failed} failed; {ignored} ignored; 0 measured; \
             {filtered_out} filtered out; finished in {secs:.2}s"
        )
    }
}

impl AddAssign for Totals {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.ignored += other.ignored;
        self.filtered_out += other.filtered_out;
    }
}

impl Sum for Totals {
    fn sum<I: Iterator<Item = Self>>(counts: I) -> Self {
        counts.fold(Self::default(), |mut sum, counts| {
            sum += counts;
            sum
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_closing_line_reads_like_libtests_and_is_read_back() {
        let totals = Totals { passed: 12, failed: 1, ignored: 2, filtered_out: 3 };
        let line = totals.line(false, 61.5);
        assert_eq!(
            line,
            "test result: FAILED. 12 passed; 1 failed; 2 ignored; 0 measured; 3 filtered out; finished in 61.50s"
        );
        assert_eq!(Totals::parse(&line), Some(totals));
    }

    #[test]
    fn coloured_and_plain_results_count_and_other_lines_do_not() {
        let coloured = "test result: \u{1b}[32mok\u{1b}(B\u{1b}[m. 4 passed; 0 failed; 0 ignored; 0 measured; 0 filtered \
                        out; finished in 0.21s";
        assert_eq!(Totals::parse(coloured).map(|totals| totals.passed), Some(4));
        assert_eq!(Totals::parse("test engine::ok ... ok"), None);
    }
}
