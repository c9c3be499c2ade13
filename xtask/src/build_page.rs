//! The page's own build: packages as locked, types checked, bundled into `dashboard/web/dist`.

use std::process::Command;

use anyhow::{Result, bail};

use crate::sh;

const FOLDER: &str = "dashboard/web";

/// Whether the packages that `package-lock.json` names are installed.
pub fn packages_are_installed() -> bool {
    let folder = sh::root_folder().join(FOLDER);
    !folder.join("package-lock.json").exists() || folder.join("node_modules/.package-lock.json").exists()
}

/// Installs them, exactly as locked.
///
/// # Errors
/// When npm fails.
pub fn install_packages() -> Result<()> {
    sh::run(npm()?.args(["ci", "--no-audit", "--no-fund"]))
}

/// Bundles the page.
///
/// # Errors
/// When npm or the bundler fails.
pub fn build() -> Result<()> {
    sh::run(npm()?.args(["run", "build"]))
}

/// Checks its types.
///
/// # Errors
/// When a type is wrong.
pub fn check() -> Result<()> {
    sh::run(npm()?.args(["run", "check"]))
}

fn npm() -> Result<Command> {
    let Some(npm) = sh::find("npm") else { bail!("npm is missing: `cargo xtask setup`") };
    let mut command = Command::new(npm);
    command.current_dir(sh::root_folder().join(FOLDER));
    Ok(command)
}
