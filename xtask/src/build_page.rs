//! The page's own build: packages as locked, types checked, bundled into `dashboard/web/dist`. Its browser tests
//! (`tests/browser`) have packages of their own, so that what they need can never get into the page.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};

use crate::sh;

/// The page.
const PAGE: &str = "dashboard/web";
/// Its tests in a real browser.
const BROWSER_TESTS: &str = "tests/browser";

/// Whether the packages that the lock files name are installed.
pub(crate) fn packages_are_installed() -> bool {
    [PAGE, BROWSER_TESTS].iter().all(|folder| is_installed(&sh::root_folder().join(folder)))
}

/// npm writes its own record when it has installed: one older than the lock file is of another lock file.
fn is_installed(folder: &Path) -> bool {
    let written = |file: &str| folder.join(file).metadata().and_then(|it| it.modified()).ok();
    match (written("package-lock.json"), written("node_modules/.package-lock.json")) {
        (Some(locked), Some(installed)) => installed >= locked,
        (locked, _) => locked.is_none(),
    }
}

/// Installs them, exactly as locked. No package runs a script of its own while it is installed.
///
/// # Errors
/// When npm fails.
pub(crate) fn install_packages() -> Result<()> {
    for folder in [PAGE, BROWSER_TESTS] {
        sh::run(npm(folder)?.args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"]))?;
    }
    Ok(())
}

/// Bundles the page.
///
/// # Errors
/// When npm or the bundler fails.
pub(crate) fn build() -> Result<()> {
    sh::run(npm(PAGE)?.args(["run", "build"]))
}

/// Checks its types.
///
/// # Errors
/// When a type is wrong.
pub(crate) fn check() -> Result<()> {
    sh::run(npm(PAGE)?.args(["run", "check"]))
}

fn npm(folder: &str) -> Result<Command> {
    let Some(npm) = sh::find("npm") else { bail!("npm is missing: `cargo xtask setup`") };
    let mut command = Command::new(npm);
    command.current_dir(sh::root_folder().join(folder));
    Ok(command)
}
