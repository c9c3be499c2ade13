//! `cargo xtask run`: builds, then runs the agent on this machine as root.

use anyhow::Result;
use clap::Args;

use crate::build::{self, Profile};
use crate::requirements::Purpose;
use crate::{setup, sh};

#[derive(Args)]
pub(crate) struct Arguments {
    /// Arguments for `shield-agent run`, for instance --log /var/log/nginx/access.log --dry-run
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    agent: Vec<String>,
}

/// Builds the agent and runs it until it ends.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    setup::ensure(Purpose::Build)?;
    let agent = build::everything(Profile::Release)?;
    sh::run_for_output(sh::as_root(agent)?.arg("run").args(&arguments.agent))
}
