//! The locked npm packages of the page and of its browser tests.
//!
//! The browser tests (`tests/browser`) have npm packages of their own, so that a test dependency cannot end up in the
//! page.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};

use crate::sh;

/// The page's sources.
pub(crate) const PAGE: &str = "dashboard/web";
const BROWSER_TESTS: &str = "tests/browser";

/// Returns whether all packages of the lock files are installed.
pub(crate) fn are_installed() -> bool {
    [PAGE, BROWSER_TESTS].iter().all(|folder| is_installed(&sh::root_folder().join(folder)))
}

/// npm writes `node_modules/.package-lock.json` after an installation. If it is older than the lock file, the lock file has
/// changed since.
fn is_installed(folder: &Path) -> bool {
    let written = |file: &str| folder.join(file).metadata().and_then(|it| it.modified()).ok();
    match (written("package-lock.json"), written("node_modules/.package-lock.json")) {
        (Some(locked), Some(installed)) => installed >= locked,
        (locked, _) => locked.is_none(),
    }
}

/// Installs the locked versions, with the packages' installation scripts disabled: they would run foreign code.
pub(crate) fn install() -> Result<()> {
    for folder in [PAGE, BROWSER_TESTS] {
        sh::run(npm(folder)?.args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"]))?;
    }
    Ok(())
}

/// Returns `npm`, to be run in this folder.
pub(crate) fn npm(folder: &str) -> Result<Command> {
    let Some(npm) = sh::find("npm") else { bail!("npm not found; `cargo xtask setup` installs it") };
    let mut command = Command::new(npm);
    command.current_dir(sh::root_folder().join(folder));
    Ok(command)
}
