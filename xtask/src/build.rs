//! `cargo xtask build`: the agent, with the XDP program and the page embedded.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use crate::needs::Purpose;
use crate::{build_ebpf, build_page, setup, sh};

/// What `build` can be told.
#[derive(Args)]
pub(crate) struct Arguments {
    /// Build the agent without optimisation (the XDP program is always optimised)
    #[arg(long)]
    debug: bool,
}

/// How the agent is compiled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Profile {
    /// For tests: quick to build.
    Dev,
    /// For machines.
    Release,
}

impl Profile {
    /// What cargo must be told for it.
    pub(crate) fn flags(self) -> &'static [&'static str] {
        match self {
            Self::Dev => &[],
            Self::Release => &["--release"],
        }
    }

    /// Where cargo puts what it builds with it.
    pub(crate) fn folder(self) -> PathBuf {
        let name = match self {
            Self::Dev => "debug",
            Self::Release => "release",
        };
        target_folder().join(name)
    }
}

/// Builds everything, after installing what that needs.
///
/// # Errors
/// Where something cannot be installed or does not compile.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    setup::ensure(Purpose::Build)?;
    let agent = everything(if arguments.debug { Profile::Dev } else { Profile::Release })?;
    eprintln!("built {}", agent.display());
    Ok(())
}

/// Builds the agent, and before it the committed products whose sources changed. Returns where the agent is.
///
/// # Errors
/// Where something does not compile.
pub(crate) fn everything(profile: Profile) -> Result<PathBuf> {
    build_ebpf::build_if_changed()?;
    build_page::build_if_changed()?;
    sh::run(sh::cargo().args(["build", "--package", "shield-agent"]).args(profile.flags()))?;
    Ok(profile.folder().join("shield-agent"))
}

/// Cargo's target folder.
pub(crate) fn target_folder() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(folder) => PathBuf::from(folder),
        None => sh::root_folder().join("target"),
    }
}
