//! `cargo xtask dist`: builds the Debian package, the list of the crates in it ([`sbom`]), and their checksums.
//!
//! The package contains the files of `packaging/` at the paths of the table below. `packaging/install.sh` installs the same
//! files to the same paths on machines without dpkg.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::build::{self, Profile};
use crate::requirements::Purpose;
use crate::{sbom, setup, sh};

#[derive(Args)]
pub(crate) struct Arguments {
    /// Package this agent instead of building one
    #[arg(long)]
    agent: Option<PathBuf>,
    /// Hardly compress the package, to try it: a debug build of the agent takes minutes otherwise
    #[arg(long)]
    quick: bool,
}

/// dpkg-deb's arguments for a package that is only tried here.
pub(crate) const QUICK: [&str; 2] = ["-Zgzip", "-z1"];

/// Source file, installed path, mode.
const FILES: &[(&str, &str, &str)] = &[
    ("packaging/shield.service", "usr/lib/systemd/system/shield.service", "0644"),
    ("packaging/sysusers.conf", "usr/lib/sysusers.d/shield.conf", "0644"),
    ("packaging/tmpfiles.conf", "usr/lib/tmpfiles.d/shield.conf", "0644"),
    ("packaging/logrotate", "etc/logrotate.d/shield", "0644"),
    ("packaging/shield.toml", "etc/shield/shield.toml", "0640"),
    ("packaging/policy/ban.rego", "etc/shield/policy/ban.rego", "0640"),
    ("packaging/policy/ban_test.rego", "etc/shield/policy/ban_test.rego", "0640"),
    ("packaging/policy/promote.rego", "etc/shield/policy/promote.rego", "0640"),
    ("packaging/policy/promote_test.rego", "etc/shield/policy/promote_test.rego", "0640"),
    ("packaging/policy/start.rego", "etc/shield/policy/start.rego", "0640"),
    ("packaging/policy/start_test.rego", "etc/shield/policy/start_test.rego", "0640"),
    ("packaging/debian/copyright", "usr/share/doc/shield/copyright", "0644"),
    ("packaging/debian/lintian-overrides", "usr/share/lintian/overrides/shield", "0644"),
    ("README.md", "usr/share/doc/shield/README.md", "0644"),
    ("CHANGELOG.md", "usr/share/doc/shield/CHANGELOG.md", "0644"),
    ("packaging/fail2ban/action.d/shield.conf", "usr/share/doc/shield/examples/fail2ban/shield.conf", "0644"),
    ("packaging/sshguard/sshg-fw-shield", "usr/share/doc/shield/examples/sshguard/sshg-fw-shield", "0755"),
    ("packaging/debian/postinst", "DEBIAN/postinst", "0755"),
    ("packaging/debian/prerm", "DEBIAN/prerm", "0755"),
    ("packaging/debian/postrm", "DEBIAN/postrm", "0755"),
    ("packaging/debian/conffiles", "DEBIAN/conffiles", "0644"),
];

/// Builds the package and prints its path.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    if sh::find("dpkg-deb").is_none() {
        bail!(
            "dpkg-deb not found: build with `cargo xtask build` and install with packaging/install.sh instead"
        );
    }
    let agent = match &arguments.agent {
        Some(agent) => agent.clone(),
        None => {
            setup::ensure(Purpose::Build)?;
            build::everything(Profile::Release)?
        }
    };
    let package = package(&agent, if arguments.quick { &QUICK } else { &[] })?;
    println!("{}", package.display());
    Ok(())
}

/// Packages this agent, compressed as these arguments of dpkg-deb say; returns the package's path.
pub(crate) fn package(agent: &Path, compression: &[&str]) -> Result<PathBuf> {
    let architecture =
        sh::capture("dpkg", &["--print-architecture"]).context("could not get the architecture from dpkg")?;
    let name = format!("shield_{}_{architecture}", env!("CARGO_PKG_VERSION"));
    let dist = build::target_folder().join("dist");
    let tree = dist.join(&name);
    if tree.exists() {
        std::fs::remove_dir_all(&tree)
            .with_context(|| format!("could not remove the previous {}", tree.display()))?;
    }
    let agent = agent.to_str().context("could not install the agent: its path is not UTF-8")?;
    sh::run(&mut install(&["--strip"], "0755", agent, &tree.join("usr/bin/shield-agent")))?;
    for (source, place, mode) in FILES {
        sh::run(&mut install(&[], mode, source, &tree.join(place)))?;
    }
    describe(agent, &tree)?;
    let installed = tree.join("usr/bin/shield-agent");
    let program =
        std::fs::read(&installed).with_context(|| format!("could not read {}", installed.display()))?;
    let control = control(&architecture, &dependencies(&program)?);
    std::fs::write(tree.join("DEBIAN/control"), control)
        .context("could not write the package's control file")?;
    let made_at = made_at();
    write_changelog(&tree, &made_at)?;
    let package = dist.join(format!("{name}.deb"));
    let mut build = Command::new("dpkg-deb");
    build.args(compression).args(["--root-owner-group", "--build"]).arg(&tree).arg(&package);
    // The same sources make the same package: dpkg-deb takes its times from here.
    sh::run(build.env("SOURCE_DATE_EPOCH", &made_at))?;
    let crates = dist.join(format!("{name}.cdx.json"));
    std::fs::write(&crates, sbom::document()?)
        .with_context(|| format!("could not write {}", crates.display()))?;
    write_checksums(&dist, &[format!("{name}.deb"), format!("{name}.cdx.json")])?;
    Ok(package)
}

/// Writes the file that `sha256sum --check` reads.
fn write_checksums(folder: &Path, files: &[String]) -> Result<()> {
    let mut sha256sum = Command::new("sha256sum");
    let output = sha256sum.args(files).current_dir(folder).output().context("could not start sha256sum")?;
    if !output.status.success() {
        bail!("could not make the checksums: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    let sums = folder.join("SHA256SUMS");
    std::fs::write(&sums, output.stdout).with_context(|| format!("could not write {}", sums.display()))
}

/// Writes what the agent makes of its own command line: manual pages, and completions where each shell looks for them.
fn describe(agent: &str, tree: &Path) -> Result<()> {
    let manual = tree.join("usr/share/man/man1");
    std::fs::create_dir_all(&manual).with_context(|| format!("could not create {}", manual.display()))?;
    sh::run(Command::new(agent).arg("manual").arg(&manual))?;
    let pages = std::fs::read_dir(&manual).with_context(|| format!("could not list {}", manual.display()))?;
    let mut pages: Vec<PathBuf> = pages.flatten().map(|page| page.path()).collect();
    pages.sort();
    // Debian's policy wants them packed; without the time, two builds are the same.
    sh::run(Command::new("gzip").arg("-9n").args(&pages))?;
    for (shell, place) in COMPLETIONS {
        let path = tree.join(place);
        let script = sh::capture(agent, &["completions", shell])
            .with_context(|| format!("could not make the completions of {shell}"))?;
        let folder = path.parent().context("could not find the folder of a completion")?;
        std::fs::create_dir_all(folder).with_context(|| format!("could not create {}", folder.display()))?;
        std::fs::write(&path, script + "\n")
            .with_context(|| format!("could not write {}", path.display()))?;
    }
    Ok(())
}

/// Shell, installed path.
const COMPLETIONS: [(&str, &str); 3] = [
    ("bash", "usr/share/bash-completion/completions/shield-agent"),
    ("zsh", "usr/share/zsh/vendor-completions/_shield-agent"),
    ("fish", "usr/share/fish/vendor_completions.d/shield-agent.fish"),
];

fn install(flags: &[&str], mode: &str, source: &str, place: &Path) -> Command {
    let mut command = Command::new("install");
    command.args(["-D", "-m", mode]).args(flags).arg(source).arg(place);
    command
}

/// The time of the last commit, in seconds since 1970; `SOURCE_DATE_EPOCH` where that is set.
fn made_at() -> String {
    std::env::var("SOURCE_DATE_EPOCH")
        .ok()
        .or_else(|| sh::capture("git", &["log", "-1", "--format=%ct"]))
        .unwrap_or_else(|| "0".to_owned())
}

/// The changelog that Debian's tools read. What has changed is in CHANGELOG.md beside it.
fn write_changelog(tree: &Path, made_at: &str) -> Result<()> {
    let date = sh::capture("date", &["--utc", "--rfc-email", "--date", &format!("@{made_at}")])
        .context("could not write the time of the last commit as a date")?;
    let text = format!(
        "shield ({VERSION}) stable; urgency=medium\n\n  * What has changed is in CHANGELOG.md in this folder.\n\n \
         -- {MAINTAINER}  {date}\n"
    );
    let path = tree.join("usr/share/doc/shield/changelog");
    std::fs::write(&path, text).with_context(|| format!("could not write {}", path.display()))?;
    sh::run(Command::new("gzip").args(["-9", "--no-name", "--force"]).arg(&path))
}

const VERSION: &str = env!("CARGO_PKG_VERSION");
const MAINTAINER: &str = "The Shield maintainers <maintainers@shield.example>";

/// The libraries that this program was linked with, in the versions that it needs: an older system refuses the package instead
/// of installing what cannot run there.
fn dependencies(program: &[u8]) -> Result<String> {
    let glibc =
        newest(program, b"GLIBC_").context("could not find which glibc the agent needs: it names none")?;
    let mut dependencies = format!("libc6 (>= {glibc})");
    if let Some(gcc) = newest(program, b"GCC_") {
        dependencies.push_str(&format!(", libgcc-s1 (>= {gcc})"));
    }
    Ok(dependencies)
}

/// The highest version among the names of symbol versions with this beginning, such as `GLIBC_2.34`.
fn newest(program: &[u8], prefix: &[u8]) -> Option<String> {
    let mut versions: Vec<Vec<u32>> = Vec::new();
    for name in program.split(|byte| *byte == 0) {
        let Some(version) = name.strip_prefix(prefix).and_then(|version| std::str::from_utf8(version).ok())
        else {
            continue;
        };
        let numbers: Result<Vec<u32>, _> = version.split('.').map(str::parse).collect();
        versions.extend(numbers);
    }
    let newest = versions.into_iter().max()?;
    Some(newest.iter().map(ToString::to_string).collect::<Vec<_>>().join("."))
}

fn control(architecture: &str, dependencies: &str) -> String {
    format!(
        "Package: shield\n\
         Version: {VERSION}\n\
         Architecture: {architecture}\n\
         Maintainer: {MAINTAINER}\n\
         Section: admin\n\
         Priority: optional\n\
         Depends: {dependencies}\n\
         Recommends: iptables, ipset\n\
         Description: drops the packets of clients that attack a web server\n \
         Reads nginx's access log as it is written, learns what this server's\n \
         traffic looks like, and drops attackers in iptables and in XDP, with bans\n \
         that end by themselves.\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_symbol_version_is_what_the_package_depends_on() {
        let program =
            b"\x7fELF\0GLIBC_2.2.5\0GLIBC_2.34\0GLIBC_2.9\0GLIBC_PRIVATE\0GCC_3.0\0GCC_4.2.0\0a GLIBC_2.99\0";
        assert_eq!(dependencies(program).unwrap(), "libc6 (>= 2.34), libgcc-s1 (>= 4.2.0)");
        assert!(dependencies(b"\x7fELF\0static\0").is_err());
    }
}
