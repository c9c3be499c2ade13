//! `cargo xtask lab`: builds, then runs the lab. The lab is a binary of the tests' crate (`tests/src/bin/lab.rs`), because
//! it is built on the tests' harness.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use crate::build::{self, Profile};
use crate::requirements::Purpose;
use crate::{setup, sh};

#[derive(Args)]
pub(crate) struct Arguments {
    /// Keep everything running at the end until Ctrl-C, and print the live page's address
    #[arg(long)]
    keep: bool,
    /// Print the measured times as one JSON object on standard output, and the steps on standard error
    #[arg(long)]
    json: bool,
    /// What stands between the server and its clients: `direct` (default), `cdn`, a proxy, or `container`, the same
    /// with nginx in a container; or `canary`: two configurations are tried under load
    #[arg(long, conflicts_with = "keep")]
    profile: Option<String>,
    /// Hosts of a fleet with nats-servers between them, at least three
    #[arg(long, value_name = "HOSTS", conflicts_with_all = ["keep", "profile"])]
    fleet: Option<usize>,
    /// Instead of the whole story: write what a terminal shows during the attack, as an animated picture (docs/lab.svg)
    #[arg(long, value_name = "SVG", conflicts_with_all = ["keep", "profile", "fleet"])]
    record: Option<PathBuf>,
    /// Instead of the whole story: break everything in turn, again and again, under traffic and attacks, and check what must hold
    #[arg(long, conflicts_with_all = ["keep", "profile", "fleet", "record"])]
    chaos: bool,
    /// Of which all choices of the chaos follow
    #[arg(long, requires = "chaos", default_value_t = 1)]
    seed: u64,
    /// For how long the chaos goes on
    #[arg(long, requires = "chaos", default_value_t = 15)]
    minutes: u64,
}

/// Runs the lab; fails if one of its steps does not succeed.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    setup::ensure(if arguments.fleet.is_some() { Purpose::Fleet } else { Purpose::Lab })?;
    build::everything(Profile::Dev)?;
    let mut lab = sh::cargo_as_root(&["run", "--quiet", "--package", "shield-tests", "--bin", "lab", "--"])?;
    lab.args(arguments.keep.then_some("--keep")).args(arguments.json.then_some("--json"));
    lab.args(arguments.profile.iter().flat_map(|profile| ["--profile", profile]));
    lab.args(arguments.fleet.iter().flat_map(|hosts| ["--fleet".to_owned(), hosts.to_string()]));
    if let Some(path) = &arguments.record {
        lab.arg("--record").arg(path);
    }
    if arguments.chaos {
        let (seed, minutes) = (arguments.seed.to_string(), arguments.minutes.to_string());
        lab.args(["--chaos", "--seed", &seed, "--minutes", &minutes]);
    }
    sh::run_for_output(&mut lab)
}
