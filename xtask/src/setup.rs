//! `cargo xtask setup`: installs the tools of [`crate::requirements`] that this machine lacks. Prints the whole list before
//! the first step and uses root only for apt.
//!
//! `build`, `lab`, `test` and `bench` call [`ensure`] for their own purpose, so that one command is enough on a bare
//! machine.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::requirements::{Purpose, Requirement, Source, missing};
use crate::{packages, sh};

/// Debian's hook: package installations run it before they start a daemon.
const START_POLICY: &str = "/usr/sbin/policy-rc.d";
/// Exit code 101 forbids the action (Debian's policy-rc.d interface).
const START_POLICY_REFUSES: &str = "#!/bin/sh\nexit 101\n";

/// Installs everything that is missing, for all commands.
///
/// # Errors
/// On a distribution without apt the error lists the missing tools.
pub(crate) fn run() -> Result<()> {
    if !ensure(Purpose::All)? {
        eprintln!("setup: everything is installed already; nothing changed");
    }
    Ok(())
}

/// Installs the tools that are missing for this purpose. Returns whether anything was installed.
pub(crate) fn ensure(purpose: Purpose) -> Result<bool> {
    let missing = missing(purpose);
    let page = purpose.needs_packages() && !packages::are_installed();
    if missing.is_empty() && !page {
        return Ok(false);
    }
    if !missing.is_empty() && sh::find("apt-get").is_none() {
        bail!("{}", without_apt(&missing));
    }
    announce(&missing, page);
    install_packages(&missing)?;
    for requirement in &missing {
        if let Source::Cargo { arguments, environment } = requirement.source {
            let environment = environment.iter().copied();
            sh::run(sh::cargo().arg("install").args(arguments).envs(environment))
                .with_context(|| format!("could not install {}", requirement.name))?;
        }
    }
    if page {
        packages::install()?;
    }
    let unmet: Vec<_> = missing
        .iter()
        .filter(|requirement| !(requirement.is_met)())
        .map(|requirement| requirement.name)
        .collect();
    if !unmet.is_empty() {
        bail!("still missing after the installation: {}", unmet.join(", "));
    }
    Ok(true)
}

fn announce(missing: &[&Requirement], page: bool) {
    eprintln!("setup: installing what this machine lacks:");
    for requirement in missing {
        let from = match requirement.source {
            Source::Apt(packages) => format!("apt: {}", packages.join(" ")),
            Source::Cargo { arguments, .. } => format!("cargo install {}", arguments.join(" ")),
        };
        eprintln!("  - {} ({}) [{from}]", requirement.name, requirement.reason);
    }
    if page {
        eprintln!("  - the locked npm packages of the page and its tests [npm ci]");
    }
}

fn without_apt(missing: &[&Requirement]) -> String {
    let mut text = String::from("apt-get not found; install the following, then run this command again:");
    for requirement in missing {
        text.push_str(&format!("\n  - {}: {}", requirement.name, requirement.reason));
        if let Source::Cargo { arguments, environment } = requirement.source {
            let environment: String =
                environment.iter().map(|(name, value)| format!("{name}={value} ")).collect();
            text.push_str(&format!("\n      {environment}cargo install {}", arguments.join(" ")));
        }
    }
    text
}

fn install_packages(missing: &[&Requirement]) -> Result<()> {
    let mut packages: Vec<&str> = Vec::new();
    for requirement in missing {
        if let Source::Apt(of_need) = requirement.source {
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
    // Old lists can name versions that the mirror has already removed, so a failure is retried once with new lists.
    apt_install(&packages).or_else(|_| update_package_lists().and_then(|()| apt_install(&packages)))
}

fn apt_install(packages: &[&str]) -> Result<()> {
    let mut command = apt_get()?;
    sh::run(command.args(["install", "--yes", "--no-install-recommends"]).args(packages))
}

fn update_package_lists() -> Result<()> {
    sh::run(apt_get()?.arg("update"))
}

/// `apt-get` without questions. `env` sets the variable, because sudo clears the environment.
fn apt_get() -> Result<Command> {
    let mut command = sh::as_root("env")?;
    command.args(["DEBIAN_FRONTEND=noninteractive", "apt-get"]);
    Ok(command)
}

/// Container images come without package lists, and installing without them fails.
fn package_lists_are_there() -> bool {
    let Ok(entries) = std::fs::read_dir("/var/lib/apt/lists") else { return false };
    entries.flatten().any(|entry| entry.file_name().to_string_lossy().contains("_Packages"))
}

/// A guard: while it exists, newly installed packages do not start their daemons (nginx, prometheus). Only the programs are
/// needed, and a web server that opens port 80 would surprise the developer. An existing policy is left unchanged.
struct NoDaemons {
    /// Set if the policy must be removed again.
    is_ours: bool,
}

impl NoDaemons {
    fn enforce() -> Result<Self> {
        if Path::new(START_POLICY).exists() {
            return Ok(Self { is_ours: false });
        }
        eprintln!(
            "setup: {START_POLICY} stops the new packages from starting daemons; removed after the installation"
        );
        let draft = std::env::temp_dir().join(format!("shield-policy-rc.d-{}", std::process::id()));
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o755)
            .open(&draft)
            .with_context(|| format!("could not create {}", draft.display()))?;
        file.write_all(START_POLICY_REFUSES.as_bytes()).context("could not write the policy for daemons")?;
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
                "setup: could not remove {START_POLICY}, which stops every package from starting its daemon; remove it \
                 by hand: {error:#}"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::requirements::REQUIREMENTS;

    #[test]
    fn without_apt_everything_missing_is_listed_by_what_it_is_for() {
        let all: Vec<&Requirement> = REQUIREMENTS.iter().collect();
        let text = without_apt(&all);
        for requirement in REQUIREMENTS {
            assert!(text.contains(&format!("- {}: {}", requirement.name, requirement.reason)), "{text}");
        }
        assert!(
            text.contains("LLVM_PREFIX=/usr/lib/llvm-22 cargo install bpf-linker --version 0.13.0"),
            "{text}"
        );
    }
}
