//! `cargo xtask dist`: builds the Debian package and its checksum.
//!
//! The package contains the files of `packaging/` at the paths of the table below. `packaging/install.sh` installs the same
//! files to the same paths on machines without dpkg.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::build::{self, Profile};
use crate::requirements::Purpose;
use crate::{setup, sh};

/// Source file, installed path, mode.
const FILES: &[(&str, &str, &str)] = &[
    ("packaging/shield.service", "usr/lib/systemd/system/shield.service", "0644"),
    ("packaging/sysusers.conf", "usr/lib/sysusers.d/shield.conf", "0644"),
    ("packaging/tmpfiles.conf", "usr/lib/tmpfiles.d/shield.conf", "0644"),
    ("packaging/logrotate", "etc/logrotate.d/shield", "0644"),
    ("packaging/shield.toml", "etc/shield/shield.toml", "0640"),
    ("README.md", "usr/share/doc/shield/README.md", "0644"),
    ("CHANGELOG.md", "usr/share/doc/shield/CHANGELOG.md", "0644"),
    ("LICENSE-MIT", "usr/share/doc/shield/LICENSE-MIT", "0644"),
    ("LICENSE-APACHE", "usr/share/doc/shield/LICENSE-APACHE", "0644"),
    ("packaging/fail2ban/action.d/shield.conf", "usr/share/doc/shield/examples/fail2ban/shield.conf", "0644"),
    ("packaging/sshguard/sshg-fw-shield", "usr/share/doc/shield/examples/sshguard/sshg-fw-shield", "0755"),
    ("packaging/debian/postinst", "DEBIAN/postinst", "0755"),
    ("packaging/debian/prerm", "DEBIAN/prerm", "0755"),
    ("packaging/debian/postrm", "DEBIAN/postrm", "0755"),
    ("packaging/debian/conffiles", "DEBIAN/conffiles", "0644"),
];

/// Builds the package and prints its path.
pub(crate) fn run() -> Result<()> {
    if sh::find("dpkg-deb").is_none() {
        bail!(
            "dpkg-deb not found: build with `cargo xtask build` and install with packaging/install.sh instead"
        );
    }
    setup::ensure(Purpose::Build)?;
    let agent = build::everything(Profile::Release)?;
    let package = package(&agent)?;
    println!("{}", package.display());
    Ok(())
}

fn package(agent: &Path) -> Result<PathBuf> {
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
    let control = control(&architecture);
    std::fs::write(tree.join("DEBIAN/control"), control)
        .context("could not write the package's control file")?;
    let package = dist.join(format!("{name}.deb"));
    sh::run(Command::new("dpkg-deb").args(["--root-owner-group", "--build"]).arg(&tree).arg(&package))?;
    let checksum =
        sh::capture("sha256sum", &[&package.to_string_lossy()]).context("could not run sha256sum")?;
    let sum = checksum
        .split_whitespace()
        .next()
        .context("could not read the checksum: sha256sum printed nothing")?;
    let sums = dist.join("SHA256SUMS");
    std::fs::write(&sums, format!("{sum}  {name}.deb\n"))
        .with_context(|| format!("could not write {}", sums.display()))?;
    Ok(package)
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

fn control(architecture: &str) -> String {
    format!(
        "Package: shield\n\
         Version: {}\n\
         Architecture: {architecture}\n\
         Maintainer: The Shield maintainers <shield@example.invalid>\n\
         Section: admin\n\
         Priority: optional\n\
         Depends: libc6, libgcc-s1\n\
         Recommends: iptables, ipset\n\
         Description: drops the packets of clients that attack a web server\n \
         Reads nginx's access log as it is written, learns what this server's traffic looks like, and drops\n \
         attackers in iptables and in XDP, with bans that end by themselves.\n",
        env!("CARGO_PKG_VERSION")
    )
}
