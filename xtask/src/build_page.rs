//! The page's own build: packages as locked, types checked, bundled into `dashboard/web/dist`. Its browser tests
//! (`tests/browser`) have packages of their own, so that what they need can never get into the page.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};

use crate::needs::Purpose;
use crate::prebuilt::PAGE;
use crate::{setup, sh};

/// The page's sources.
const SOURCES: &str = "dashboard/web";
/// Its tests in a real browser.
const BROWSER_TESTS: &str = "tests/browser";

/// Whether the packages that the lock files name are installed.
pub(crate) fn packages_are_installed() -> bool {
    [SOURCES, BROWSER_TESTS].iter().all(|folder| is_installed(&sh::root_folder().join(folder)))
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
    for folder in [SOURCES, BROWSER_TESTS] {
        sh::run(npm(folder)?.args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"]))?;
    }
    Ok(())
}

/// Installs what bundling needs, then bundles the page.
///
/// # Errors
/// When something cannot be installed, and when npm or the bundler fails.
pub(crate) fn run() -> Result<()> {
    setup::ensure(Purpose::Page)?;
    sh::run(npm(SOURCES)?.args(["run", "build"]))?;
    PAGE.record(&format!("esbuild as locked in {SOURCES}/package-lock.json"))
}

/// Bundles the page unless the committed one was built from the sources as they are.
///
/// # Errors
/// As for [`run`].
pub(crate) fn build_if_changed() -> Result<()> {
    if PAGE.is_current()? { Ok(()) } else { run() }
}

/// Bundles the page and compares it with the committed one.
///
/// # Errors
/// As for [`run`], and when the two differ.
pub(crate) fn verify() -> Result<()> {
    let committed = PAGE.read()?;
    run()?;
    PAGE.compare(&committed)
}

/// Checks its types.
///
/// # Errors
/// When a type is wrong.
pub(crate) fn check() -> Result<()> {
    setup::ensure(Purpose::Page)?;
    sh::run(npm(SOURCES)?.args(["run", "check"]))
}

fn npm(folder: &str) -> Result<Command> {
    let Some(npm) = sh::find("npm") else { bail!("npm is missing: `cargo xtask setup`") };
    let mut command = Command::new(npm);
    command.current_dir(sh::root_folder().join(folder));
    Ok(command)
}
