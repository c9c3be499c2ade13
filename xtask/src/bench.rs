//! `cargo xtask bench NAME`: makes an optimised build, then runs the benchmark, a binary of the tests' crate
//! (`tests/src/bin/bench-NAME`). It prints a table, or one JSON object per line with `--json`.

use anyhow::Result;
use clap::{Args, ValueEnum};

use crate::build::{self, Profile};
use crate::requirements::Purpose;
use crate::{build_ebpf, setup, sh};

#[derive(Args)]
pub(crate) struct Arguments {
    /// The benchmark to run
    name: Name,
    /// Arguments for the benchmark itself, for instance --json
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    rest: Vec<String>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Name {
    /// Nanoseconds per packet in the XDP program, compared with an empty program and xdp-filter
    Xdp,
    /// A million bans: restore, expiry, the cost of long chains and of sets
    Enforce,
    /// The detection rules on labelled logs: attackers caught, clients wrongly banned
    Detect,
    /// Log lines per second, compared with memchr and serde_json
    Ingest,
    /// Time from a written line to the client's drop in XDP and in iptables, idle and under load
    Latency,
    /// CPU time and memory of an agent with almost nothing to do
    Idle,
    /// From the start of the agent until all bans are in force, after a boot and after a restart
    Start,
    /// The cost of refusing inside nginx: worker time a request, restore and memory of the files
    Nginx,
    /// The policy's time a ban, and what a canary costs the live engine
    Policy,
    /// The API under load, and its effect on detection latency
    Api,
    /// When Chromium first paints the page, beside an empty page
    Page,
    /// Shield beside fail2ban, CrowdSec, GoAccess and xdp-filter, which are got for this alone
    Peers,
    /// A fleet of 100 agents: from a line on one to the drop on the last, joining with 100,000 bans, idle cost
    Fleet,
}

impl Name {
    fn binary(self) -> String {
        let value = self.to_possible_value().expect("no benchmark is hidden");
        format!("bench-{}", value.get_name())
    }

    /// Everything but the replays of logs creates network namespaces or loads BPF programs.
    fn needs_root(self) -> bool {
        !matches!(self, Self::Detect | Self::Ingest | Self::Policy)
    }
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let purpose = if matches!(arguments.name, Name::Peers) { Purpose::Peers } else { Purpose::All };
    setup::ensure(purpose)?;
    build::everything(Profile::Release)?;
    if matches!(arguments.name, Name::Xdp) {
        build_ebpf::build_empty()?;
    }
    if arguments.name.needs_root() {
        build::sandbox(Profile::Release)?;
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
