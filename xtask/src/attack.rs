//! `cargo xtask attack`: builds the agent as it is shipped, then makes every attack on it that was ever tried. They are in
//! `tests/src/attack`; the table that it prints is that of docs/attacks.md.

use anyhow::Result;
use clap::Args;

use crate::build::{self, Profile};
use crate::requirements::Purpose;
use crate::{setup, sh};

#[derive(Args)]
pub(crate) struct Arguments {
    /// Names of attacks, or --list, or --json; without a name all are made
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    rest: Vec<String>,
    /// Attack a build without optimisations
    #[arg(long)]
    debug: bool,
}

/// Makes the attacks; fails when Shield does not hold against one.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    setup::ensure(Purpose::All)?;
    let profile = if arguments.debug { Profile::Dev } else { Profile::Release };
    // By itself, so that nothing of the tests' own build gets into it.
    build::everything(profile)?;
    build::sandbox(profile)?;
    let cargo = ["run", "--quiet", "--package", "shield-tests", "--bin", "attack"];
    let mut attack = sh::cargo_as_root(&[&cargo, profile.flags(), &["--"]].concat())?;
    sh::run_for_output(attack.args(&arguments.rest))
}
