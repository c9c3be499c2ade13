//! `cargo xtask lab`: builds, then runs the lab, which lives in the tests' crate (`tests/src/bin/lab.rs`) because it is
//! made of the tests' own harness.

use anyhow::Result;
use clap::Args;

use crate::build::{self, Profile};
use crate::needs::Purpose;
use crate::{setup, sh};

/// What `lab` can be told.
#[derive(Args)]
pub(crate) struct Arguments {
    /// Leave everything running at the end, and say the page's address, until Ctrl-C
    #[arg(long)]
    keep: bool,
    /// Print the measured times as one JSON object on standard output; the story goes to standard error
    #[arg(long)]
    json: bool,
}

/// Runs the story; it fails when a step of it does not happen.
///
/// # Errors
/// When something cannot be installed or built, and when a step of the story does not happen.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    setup::ensure(Purpose::Lab)?;
    build::everything(Profile::Dev)?;
    let mut lab = sh::cargo_as_root(&["run", "--quiet", "--package", "shield-tests", "--bin", "lab", "--"])?;
    lab.args(arguments.keep.then_some("--keep")).args(arguments.json.then_some("--json"));
    sh::run_for_output(&mut lab)
}
