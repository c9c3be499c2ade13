//! `cargo xtask check`: all static checks of the sources.

use std::process::Command;

use anyhow::{Context as _, Result};

use crate::requirements::Purpose;
use crate::{api_types, build_ebpf, build_page, dependencies, setup, sh};

type Check = fn() -> Result<()>;

/// Runs every check even after one has failed, so that one run shows all problems.
///
/// # Errors
/// Names the failed checks; their findings have been printed before.
pub(crate) fn run() -> Result<()> {
    setup::ensure(Purpose::All)?;
    let checks: [(&str, Check); 10] = [
        ("format", format),
        ("lints", lints),
        ("dead code", dead_code),
        ("documentation", documentation),
        ("lints of the XDP program", build_ebpf::check),
        ("dependency rules", dependency_rules),
        ("unused dependencies", unused_dependencies),
        ("dependency reasons", || dependencies::check(sh::root_folder())),
        ("description of the API", api_types::check),
        ("page types", build_page::check),
    ];
    let failed: Vec<&str> =
        checks.iter().filter(|(name, check)| !passes(name, check())).map(|(name, _)| *name).collect();
    if failed.is_empty() { Ok(()) } else { anyhow::bail!("checks failed: {}", failed.join(", ")) }
}

fn passes(name: &str, outcome: Result<()>) -> bool {
    match outcome {
        Ok(()) => eprintln!("check: {name}: ok"),
        Err(ref error) => eprintln!("check: {name}: {error:#}"),
    }
    outcome.is_ok()
}

fn format() -> Result<()> {
    sh::run(sh::cargo().args(["fmt", "--all", "--check"]))
}

fn lints() -> Result<()> {
    sh::run(sh::cargo().args(["clippy", "--workspace", "--all-targets", "--", "--deny", "warnings"]))
}

/// Linting the whole workspace enables the feature `test-support`, which keeps code alive that the agent itself never
/// calls. Only a build without the feature reports that code as dead.
fn dead_code() -> Result<()> {
    sh::run(sh::cargo().args(["clippy", "--", "--deny", "warnings"]))
}

/// Rejects broken links and malformed markup in doc comments. Private items are included, because nearly all items of the
/// agent are private.
fn documentation() -> Result<()> {
    let mut doc = sh::cargo();
    doc.args(["doc", "--workspace", "--no-deps", "--document-private-items"]);
    sh::run(doc.env("RUSTDOCFLAGS", "--deny warnings --allow rustdoc::private_intra_doc_links"))
}

fn unused_dependencies() -> Result<()> {
    // Run through cargo it takes its own name for a folder, because the environment says that cargo runs xtask.
    let machete =
        sh::find("cargo-machete").context("could not find cargo-machete: `cargo xtask setup` installs it")?;
    sh::run(Command::new(machete).arg("--with-metadata"))
}

/// Checks licences, sources and duplicates, and known vulnerabilities if their database can be fetched: the rest must
/// work without a network.
fn dependency_rules() -> Result<()> {
    sh::run(sh::cargo().args(["deny", "check", "bans", "licenses", "sources"]))?;
    if sh::status(sh::cargo().args(["deny", "fetch", "db"]))?.success() {
        return sh::run(sh::cargo().args(["deny", "--offline", "check", "advisories"]));
    }
    eprintln!("check: could not fetch the advisory database; known vulnerabilities were NOT checked");
    Ok(())
}
