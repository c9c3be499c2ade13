//! The page's build: checks the types, bundles into `dashboard/web/dist`.

use anyhow::Result;

use crate::packages::{PAGE as SOURCES, npm};
use crate::prebuilt::PAGE;
use crate::requirements::Purpose;
use crate::{setup, sh};

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
