//! The generated description of the API: `docs/openapi.json` and the page's `types.ts`.
//!
//! A test of the agent compares both with its Rust types or, with `SHIELD_RENEW_API_TYPES` set, rewrites them.

use std::process::Command;

use anyhow::{Context as _, Result};

use crate::sh;

/// Regenerates both files.
pub(crate) fn renew() -> Result<()> {
    sh::run(generator().env("SHIELD_RENEW_API_TYPES", "1"))
}

/// Fails if one of the files no longer matches the types.
pub(crate) fn check() -> Result<()> {
    sh::run(&mut generator())
        .context("could not match the API's description with its types: run `cargo xtask api-types` and commit the result")
}

fn generator() -> Command {
    let mut cargo = sh::cargo();
    cargo.args(["test", "--quiet", "--package", "shield-agent", "--test", "api_document"]);
    cargo
}
