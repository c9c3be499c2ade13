//! `cargo xtask check`: everything that can be said about the sources without running them.

use anyhow::Result;

use crate::needs::Purpose;
use crate::{build_ebpf, build_page, dependencies, fuzz, setup, sh};

/// One check: it succeeds silently, or says what is wrong.
type Check = fn() -> Result<()>;

/// Runs every check and fails after the last when any failed, so that one run shows all there is to mend.
///
/// # Errors
/// Names the checks that failed; what they found is printed above.
pub(crate) fn run() -> Result<()> {
    setup::ensure(Purpose::All)?;
    let checks: [(&str, Check); 7] = [
        ("format", format),
        ("lints", lints),
        ("lints of the XDP program", build_ebpf::check),
        ("lints of the fuzz targets", fuzz::check),
        ("dependency rules", dependency_rules),
        ("dependency reasons", || dependencies::check(sh::root_folder())),
        ("page types", build_page::check),
    ];
    let failed: Vec<&str> =
        checks.iter().filter(|(name, check)| !passes(name, check())).map(|(name, _)| *name).collect();
    if failed.is_empty() { Ok(()) } else { anyhow::bail!("failed: {}", failed.join(", ")) }
}

fn passes(name: &str, outcome: Result<()>) -> bool {
    match outcome {
        Ok(()) => eprintln!("check: {name}: good"),
        Err(ref error) => eprintln!("check: {name}: {error:#}"),
    }
    outcome.is_ok()
}

fn format() -> Result<()> {
    sh::run(sh::cargo().args(["fmt", "--all", "--check"]))
}

fn lints() -> Result<()> {
    // The agent embeds the XDP program and the page: without them it does not compile.
    build_ebpf::build()?;
    build_page::build()?;
    sh::run(sh::cargo().args(["clippy", "--workspace", "--all-targets", "--", "--deny", "warnings"]))
}

/// Licences, sources, duplicates always; known vulnerabilities where their database can be fetched.
fn dependency_rules() -> Result<()> {
    sh::run(sh::cargo().args(["deny", "check", "bans", "licenses", "sources"]))?;
    if sh::status(sh::cargo().args(["deny", "fetch", "db"]))?.success() {
        return sh::run(sh::cargo().args(["deny", "--offline", "check", "advisories"]));
    }
    eprintln!(
        "check: the advisory database cannot be fetched from here: known vulnerabilities were NOT checked"
    );
    Ok(())
}
