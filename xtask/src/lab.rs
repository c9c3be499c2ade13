//! `cargo xtask lab`: builds, then runs the lab. The lab is a binary of the tests' crate (`tests/src/bin/lab.rs`), because
//! it is built on the tests' harness.

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
    /// with nginx in a container
    #[arg(long, conflicts_with = "keep")]
    profile: Option<String>,
    /// Hosts of a fleet with nats-servers between them, at least three
    #[arg(long, value_name = "HOSTS", conflicts_with_all = ["keep", "profile"])]
    fleet: Option<usize>,
}

/// Runs the lab; fails if one of its steps does not succeed.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    setup::ensure(if arguments.fleet.is_some() { Purpose::Fleet } else { Purpose::Lab })?;
    build::everything(Profile::Dev)?;
    let mut lab = sh::cargo_as_root(&["run", "--quiet", "--package", "shield-tests", "--bin", "lab", "--"])?;
    lab.args(arguments.keep.then_some("--keep")).args(arguments.json.then_some("--json"));
    lab.args(arguments.profile.iter().flat_map(|profile| ["--profile", profile]));
    lab.args(arguments.fleet.iter().flat_map(|hosts| ["--fleet".to_owned(), hosts.to_string()]));
    sh::run_for_output(&mut lab)
}
