//! The generated description of the API: `docs/openapi.json` and the page's `types.ts`, both made from the agent's Rust
//! types by a test of the agent, which compares them or writes them anew.

use std::process::Command;

use anyhow::{Context as _, Result};

use crate::sh;

/// Writes both files anew.
///
/// # Errors
/// When the agent does not compile.
pub(crate) fn renew() -> Result<()> {
    sh::run(generator().env("SHIELD_RENEW_API_TYPES", "1"))
}

/// Compares both files with the types.
///
/// # Errors
/// When one is stale.
pub(crate) fn check() -> Result<()> {
    sh::run(&mut generator())
        .context("the API's types have changed: run `cargo xtask api-types` and commit the result")
}

fn generator() -> Command {
    let mut cargo = sh::cargo();
    cargo.args(["test", "--quiet", "--package", "shield-agent", "--test", "api_document"]);
    cargo
}
