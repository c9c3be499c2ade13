//! `cargo xtask build`: the agent, with the XDP program and the page embedded.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use crate::requirements::Purpose;
use crate::{build_ebpf, build_page, setup, sh};

#[derive(Args)]
pub(crate) struct Arguments {
    /// Build the agent without optimisations (the XDP program is always optimised)
    #[arg(long)]
    debug: bool,
}

/// The Cargo profile that the agent is built with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Profile {
    /// Used by the tests and the lab: it builds faster, and assertions stay on.
    Dev,
    /// Used for everything that is installed or measured.
    Release,
}

impl Profile {
    /// The Cargo flags that select it.
    pub(crate) fn flags(self) -> &'static [&'static str] {
        match self {
            Self::Dev => &[],
            Self::Release => &["--release"],
        }
    }

    /// The folder with its build output.
    pub(crate) fn folder(self) -> PathBuf {
        let name = match self {
            Self::Dev => "debug",
            Self::Release => "release",
        };
        target_folder().join(name)
    }
}

/// Installs the build tools that are missing, then builds everything.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    setup::ensure(Purpose::Build)?;
    let agent = everything(if arguments.debug { Profile::Dev } else { Profile::Release })?;
    eprintln!("built {}", agent.display());
    Ok(())
}

/// Builds the agent and returns its path. Committed products whose sources changed are built first, because the agent's
/// build scripts embed them.
pub(crate) fn everything(profile: Profile) -> Result<PathBuf> {
    build_ebpf::build_if_changed()?;
    build_page::build_if_changed()?;
    sh::run(sh::cargo().args(["build", "--package", "shield-agent"]).args(profile.flags()))?;
    Ok(profile.folder().join("shield-agent"))
}

pub(crate) fn target_folder() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(folder) => PathBuf::from(folder),
        None => sh::root_folder().join("target"),
    }
}

/// Builds the launcher of agents that run as in the shipped unit, which `cargo run` of another program does not.
pub(crate) fn sandbox(profile: Profile) -> Result<()> {
    let build = ["build", "--quiet", "--package", "shield-tests", "--bin", "unit-sandbox"];
    sh::run(sh::cargo().args(build).args(profile.flags()))
}
