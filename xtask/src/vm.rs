//! `cargo xtask test --vm KERNEL`: the Debian package in a virtual machine with one of Debian's kernels and systemd, or `here`: under
//! the same systemd in namespaces on this machine's kernel, which takes minutes where an emulated machine takes half an hour.
//!
//! Owns the order of the steps. `tests/vm/make.sh` makes the machine, `tests/vm/run.sh` boots it and has the assertions.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::build::{self, Profile};
use crate::requirements::Purpose;
use crate::{dist, fresh, setup, sh};

/// Debian's kernels that are tried, and this machine's own.
pub(crate) const KERNELS: [&str; 4] = ["5.10", "6.1", "6.12", "here"];

/// Builds the package and tries it with this kernel.
pub(crate) fn run(kernel: &str) -> Result<()> {
    setup::ensure(Purpose::Vm)?;
    // Without optimisations: it is built already where the tests were run, and an emulated processor is slow anyway.
    let package = dist::package(&build::everything(Profile::Dev)?, &dist::QUICK)?;
    let package = sh::root_folder().join(package);
    let folder = build::target_folder().join("vm");
    let (_, mirror) = fresh::release_and_mirror()?;
    let mut make = script("make.sh")?;
    sh::run(make.arg(&folder).arg(kernel).arg(mirror)).context("could not make a virtual machine")?;
    sh::run_for_output(script("run.sh")?.arg(&folder).arg(kernel).arg(package))
        .with_context(|| format!("could not hold what was promised on Linux {kernel}"))
}

fn script(name: &str) -> Result<Command> {
    let mut command = sh::as_root("bash")?;
    command.arg(Path::new("tests/vm").join(name));
    Ok(command)
}
