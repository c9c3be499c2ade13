//! `cargo xtask bench NAME`: builds optimised, then runs the benchmark, which is a binary of the tests' crate
//! (`tests/src/bin/bench-NAME.rs`). It prints a table, or with `--json` one object a line.

use anyhow::Result;
use clap::{Args, ValueEnum};

use crate::build::{self, Profile};
use crate::needs::Purpose;
use crate::{build_ebpf, setup, sh};

/// What `bench` can be told.
#[derive(Args)]
pub(crate) struct Arguments {
    /// What to measure
    name: Name,
    /// For the benchmark itself, for instance --json
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    rest: Vec<String>,
}

/// The benchmarks.
#[derive(Clone, Copy, ValueEnum)]
enum Name {
    /// Nanoseconds a packet in the XDP program, beside an empty one and xdp-filter
    Xdp,
    /// A million bans: restoring, expiring, the cost of long chains and of sets
    Enforce,
    /// The detector's rules over labelled logs: caught, wrongly banned
    Detect,
    /// Log lines a second, beside memchr and serde_json
    Ingest,
    /// From a written line to its drop in XDP and in iptables, idle and under load
    Latency,
    /// Processor time and memory of an agent with next to nothing to do
    Idle,
    /// The API under load, and what that does to detection
    Api,
}

impl Name {
    fn binary(self) -> String {
        let value = self.to_possible_value().expect("no benchmark is hidden");
        format!("bench-{}", value.get_name())
    }

    fn needs_root(self) -> bool {
        !matches!(self, Self::Detect | Self::Ingest)
    }
}

/// Builds and measures.
///
/// # Errors
/// When something cannot be installed or built, and when the benchmark fails.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    setup::ensure(Purpose::All)?;
    build::everything(Profile::Release)?;
    if matches!(arguments.name, Name::Xdp) {
        build_ebpf::build_empty()?;
    }
    let binary = arguments.name.binary();
    let cargo = ["run", "--quiet", "--release", "--package", "shield-tests", "--bin", &binary, "--"];
    let mut bench = if arguments.name.needs_root() {
        sh::cargo_as_root(&cargo)?
    } else {
        let mut plain = sh::cargo();
        plain.args(cargo);
        plain
    };
    sh::run_for_output(bench.args(&arguments.rest))
}
