//! The page's build: installs the locked npm packages, checks the types, bundles into `dashboard/web/dist`.
//!
//! The browser tests (`tests/browser`) have npm packages of their own, so that a test dependency cannot end up in the
//! page.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};

use crate::prebuilt::PAGE;
use crate::requirements::Purpose;
use crate::{setup, sh};

const SOURCES: &str = "dashboard/web";
const BROWSER_TESTS: &str = "tests/browser";

/// Returns whether all packages of the lock files are installed.
pub(crate) fn packages_are_installed() -> bool {
    [SOURCES, BROWSER_TESTS].iter().all(|folder| is_installed(&sh::root_folder().join(folder)))
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
pub(crate) fn install_packages() -> Result<()> {
    for folder in [SOURCES, BROWSER_TESTS] {
        sh::run(npm(folder)?.args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"]))?;
    }
    Ok(())
}

/// Installs the tools for bundling if they are missing, then bundles the page.
pub(crate) fn run() -> Result<()> {
    setup::ensure(Purpose::Page)?;
    sh::run(npm(SOURCES)?.args(["run", "build"]))?;
    PAGE.record(&format!("esbuild as locked in {SOURCES}/package-lock.json"))
}

/// Bundles the page unless the committed one was built from the present sources.
pub(crate) fn build_if_changed() -> Result<()> {
    if PAGE.is_current()? { Ok(()) } else { run() }
}

/// Bundles the page and compares it with the committed one.
pub(crate) fn verify() -> Result<()> {
    let committed = PAGE.read()?;
    run()?;
    PAGE.compare(&committed)
}

/// Checks the TypeScript types.
pub(crate) fn check() -> Result<()> {
    setup::ensure(Purpose::Page)?;
    sh::run(npm(SOURCES)?.args(["run", "check"]))
}

fn npm(folder: &str) -> Result<Command> {
    let Some(npm) = sh::find("npm") else { bail!("npm not found; `cargo xtask setup` installs it") };
    let mut command = Command::new(npm);
    command.current_dir(sh::root_folder().join(folder));
    Ok(command)
}
