//! `cargo xtask setup`: installs what [`crate::needs`] lists and this machine lacks. Says every step before doing the
//! first, asks for root only where it is needed, and does nothing when nothing is missing.
//!
//! `build`, `lab`, `test` and `bench` call [`ensure`] for their own purpose, so that one command is enough on a bare
//! machine.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::needs::{Need, Purpose, Source, missing};
use crate::{build_page, sh};

/// Debian's hook that a package's installation asks before it starts a daemon.
const START_POLICY: &str = "/usr/sbin/policy-rc.d";
/// "Not allowed", in that hook's words.
const START_POLICY_REFUSES: &str = "#!/bin/sh\nexit 101\n";

/// Installs everything.
///
/// # Errors
/// Where a step fails, and on a distribution without apt: then with the list of what is missing.
pub(crate) fn run() -> Result<()> {
    if !ensure(Purpose::All)? {
        eprintln!("setup: everything is here, nothing was changed");
    }
    Ok(())
}

/// Installs what is missing for this purpose. Returns whether anything was done.
///
/// # Errors
/// As for [`run`].
pub(crate) fn ensure(purpose: Purpose) -> Result<bool> {
    let missing = missing(purpose);
    let page = purpose.needs_packages() && !build_page::packages_are_installed();
    if missing.is_empty() && !page {
        return Ok(false);
    }
    if !missing.is_empty() && sh::find("apt-get").is_none() {
        bail!("{}", without_apt(&missing));
    }
    announce(&missing, page);
    install_packages(&missing)?;
    for need in &missing {
        if let Source::Cargo { arguments, environment } = need.source {
            let environment = environment.iter().copied();
            sh::run(sh::cargo().arg("install").args(arguments).envs(environment)).context(need.what)?;
        }
    }
    if page {
        build_page::install_packages()?;
    }
    let still: Vec<_> = missing.iter().filter(|need| !(need.is_met)()).map(|need| need.what).collect();
    if !still.is_empty() {
        bail!("installed everything and still miss: {}", still.join(", "));
    }
    Ok(true)
}

fn announce(missing: &[&Need], page: bool) {
    eprintln!("setup: this machine lacks, and now gets:");
    for need in missing {
        let from = match need.source {
            Source::Apt(packages) => format!("apt: {}", packages.join(" ")),
            Source::Cargo { arguments, .. } => format!("cargo install {}", arguments.join(" ")),
        };
        eprintln!("  - {} ({}) [{from}]", need.what, need.why);
    }
    if page {
        eprintln!("  - the page's packages, as locked [npm ci in dashboard/web]");
    }
}

fn without_apt(missing: &[&Need]) -> String {
    let mut text = String::from("there is no apt-get here; please install, and run this again:");
    for need in missing {
        text.push_str(&format!("\n  - {}: {}", need.what, need.why));
        if let Source::Cargo { arguments, environment } = need.source {
            let environment: String =
                environment.iter().map(|(name, value)| format!("{name}={value} ")).collect();
            text.push_str(&format!("\n      {environment}cargo install {}", arguments.join(" ")));
        }
    }
    text
}

fn install_packages(missing: &[&Need]) -> Result<()> {
    let mut packages: Vec<&str> = Vec::new();
    for need in missing {
        if let Source::Apt(of_need) = need.source {
            packages.extend(of_need);
        }
    }
    if packages.is_empty() {
        return Ok(());
    }
    let _quiet = NoDaemons::enforce()?;
    if !package_lists_are_there() {
        update_package_lists()?;
        return apt_install(&packages);
    }
    // Lists can be too old to name a version that still exists; new ones are the one remedy.
    apt_install(&packages).or_else(|_| update_package_lists().and_then(|()| apt_install(&packages)))
}

fn apt_install(packages: &[&str]) -> Result<()> {
    let mut command = apt_get()?;
    sh::run(command.args(["install", "--yes", "--no-install-recommends"]).args(packages))
}

fn update_package_lists() -> Result<()> {
    sh::run(apt_get()?.arg("update"))
}

/// `apt-get`, not asking questions. The variable is set by `env`, because sudo keeps ours out.
fn apt_get() -> Result<Command> {
    let mut command = sh::as_root("env")?;
    command.args(["DEBIAN_FRONTEND=noninteractive", "apt-get"]);
    Ok(command)
}

/// Bare machines come with no package lists at all.
fn package_lists_are_there() -> bool {
    let Ok(entries) = std::fs::read_dir("/var/lib/apt/lists") else { return false };
    entries.flatten().any(|entry| entry.file_name().to_string_lossy().contains("_Packages"))
}

/// While it lives, the packages that bring a daemon (nginx, prometheus) do not start it: we need the programs, and a web
/// server that comes up on port 80 by itself would be a surprise. A policy that is there already is left as it is.
struct NoDaemons {
    is_ours: bool,
}

impl NoDaemons {
    fn enforce() -> Result<Self> {
        if Path::new(START_POLICY).exists() {
            return Ok(Self { is_ours: false });
        }
        eprintln!(
            "setup: {START_POLICY} keeps new daemons from being started meanwhile, and is removed again"
        );
        let draft = std::env::temp_dir().join(format!("shield-policy-rc.d-{}", std::process::id()));
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o755)
            .open(&draft)
            .with_context(|| format!("created {}", draft.display()))?;
        file.write_all(START_POLICY_REFUSES.as_bytes()).context("wrote the policy")?;
        drop(file);
        let installed = sh::run(sh::as_root("install")?.args(["-m", "0755"]).arg(&draft).arg(START_POLICY));
        let _ = std::fs::remove_file(&draft);
        installed.map(|()| Self { is_ours: true })
    }
}

impl Drop for NoDaemons {
    fn drop(&mut self) {
        if !self.is_ours {
            return;
        }
        let removed = sh::as_root("rm").and_then(|mut rm| sh::run(rm.args(["-f", START_POLICY])));
        if let Err(error) = removed {
            eprintln!(
                "setup: remove {START_POLICY} by hand, or no daemon starts when it is installed: {error:#}"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::needs::NEEDS;

    #[test]
    fn without_apt_everything_missing_is_listed_by_what_it_is_for() {
        let all: Vec<&Need> = NEEDS.iter().collect();
        let text = without_apt(&all);
        for need in NEEDS {
            assert!(text.contains(&format!("- {}: {}", need.what, need.why)), "{text}");
        }
        assert!(
            text.contains("LLVM_PREFIX=/usr/lib/llvm-22 cargo install bpf-linker --version 0.13.0"),
            "{text}"
        );
    }
}
