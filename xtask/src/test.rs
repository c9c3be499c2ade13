//! `cargo xtask test`: installs missing tools, builds everything, runs every test, and ends with what was slow and one line that
//! sums up the results in libtest's format.

use std::io::{BufRead as _, BufReader, IsTerminal as _};
use std::ops::AddAssign;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::build::{self, Profile};
use crate::requirements::Purpose;
use crate::slow::{self, Slow, Starts};
use crate::{build_ebpf, build_page, fuzz, setup, sh, vm};

#[derive(Args)]
pub(crate) struct Arguments {
    /// Run only the tests whose name contains this
    filter: Option<String>,
    /// Instead of the tests: try the Debian package in a virtual machine with this kernel of Debian's, or with systemd `here`
    #[arg(long, value_name = "KERNEL", value_parser = crate::vm::KERNELS, conflicts_with = "filter")]
    vm: Option<String>,
}

/// Runs all tests, even after a failure.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    if let Some(kernel) = &arguments.vm {
        return vm::run(kernel);
    }
    let started = Instant::now();
    let mut slow = Slow::default();
    slow.time("install what is missing", || setup::ensure(Purpose::Test))?;
    slow.time("verify the XDP object", build_ebpf::verify)?;
    slow.time("verify the page's bundle", build_page::verify)?;
    slow.time("build the agent and the page", || build::everything(Profile::Dev))?;
    let mut results = Results { totals: Totals::default(), slow };
    let plain = cargo_test(sh::cargo(), &[], "build the tests", arguments, &mut results)?;
    let gate = fuzz::start_building(arguments.filter.as_deref());
    let privileged = sh::cargo_as_root(&[])?;
    let which = ["--package", "shield-tests"];
    let privileged = cargo_test(privileged, &which, "build the privileged tests", arguments, &mut results)?;
    let Results { mut totals, mut slow } = results;
    let (passed, failed) = slow.time("await and run the fuzz targets", || fuzz::run_all(gate));
    totals += Totals { passed, failed, ..Totals::default() };
    let is_good = plain && privileged && totals.failed == 0;
    println!("\n{}", slow.report());
    println!("\n{}", totals.line(is_good, started.elapsed().as_secs_f64()));
    if !is_good {
        bail!("tests failed");
    }
    Ok(())
}

/// What the runs of cargo had as results, and how long they took.
struct Results {
    totals: Totals,
    slow: Slow,
}

/// Runs `cargo test` with these arguments, passes its output on, and adds its results to `results`; `building` is the name of what
/// comes before the first test. Returns whether it succeeded.
fn cargo_test(
    mut cargo: Command,
    which: &[&str],
    building: &str,
    arguments: &Arguments,
    results: &mut Results,
) -> Result<bool> {
    cargo.args(["test", "--no-fail-fast", slow::colour()]).args(which).args(&arguments.filter);
    if std::io::stdout().is_terminal() {
        cargo.args(["--", "--color", "always"]);
    }
    cargo.stdout(Stdio::piped()).stderr(Stdio::piped());
    let began = Instant::now();
    let mut child = cargo.spawn().context("could not start cargo test")?;
    let output = child.stdout.take().expect("standard output is piped above");
    let errors = child.stderr.take().expect("standard error is piped above");
    let starts = Starts::watch(errors);
    for line in BufReader::new(output).split(b'\n') {
        let line = line.context("could not read the output of cargo test")?;
        let line = String::from_utf8_lossy(&line);
        println!("{line}");
        if let Some(result) = Totals::parse(&line) {
            results.totals += result;
        }
    }
    let status = child.wait().context("could not wait for cargo test")?;
    results.slow.append(starts.until_now(building, began));
    Ok(status.success())
}

/// The counts of libtest's `test result:` lines.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Totals {
    passed: u64,
    failed: u64,
    ignored: u64,
    filtered_out: u64,
}

impl Totals {
    fn parse(line: &str) -> Option<Self> {
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

    fn line(self, is_good: bool, secs: f64) -> String {
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
