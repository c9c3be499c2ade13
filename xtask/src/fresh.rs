//! `cargo xtask fresh`: runs README's first command on a freshly installed system.
//!
//! That system is a minimal root file system of a distribution (debootstrap), entered in mount and process namespaces of
//! its own. It has README's prerequisites: Rust, and a C compiler from its own packages. The checkout is mounted at its
//! usual path, so that Cargo reuses its build output; everything else comes from the root's packages. A package that
//! `setup` forgets to install is therefore missing there, and the lab fails. The packages of the tests' tools are not installed,
//! but must be known there.
//!
//! Two things that can fail are told apart: the distribution's mirror, which is nobody's fault here ([`Unavailable`]), and what
//! is run in the root, for which all packages have been fetched before.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::requirements::{Purpose, all_packages, packages_of};
use crate::{build, setup, sh};

#[derive(Args)]
pub(crate) struct Arguments {
    /// Code name of the distribution
    #[arg(long, default_value = "bookworm")]
    suite: String,
    /// Compile everything from scratch, as after a fresh clone
    #[arg(long)]
    cold: bool,
}

/// README's prerequisites, as packages.
const PREREQUISITES: &str = "gcc libc6-dev ca-certificates";

/// The mirror gave no root to try anything in. The program then ends with [`UNAVAILABLE`], so that CI can tell it from a failure.
#[derive(Debug)]
pub(crate) struct Unavailable;

impl std::fmt::Display for Unavailable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("could not get a bare system from the distribution's mirror, so nothing was tried")
    }
}

/// `EX_TEMPFAIL` of sysexits.h.
pub(crate) const UNAVAILABLE: u8 = 75;

/// What is tried of the mirror, and how long one try may take: a mirror can stall for ever.
const TRIES: u32 = 3;
const TRY_SECS: &str = "600";

/// Runs inside the base: the prerequisites are installed, the lab's packages only fetched. That one of those is not known there
/// is not the mirror's fault, and fails in the root.
const PREPARE: &str = "set -eu
dpkg --configure -a
apt-get -qq update
DEBIAN_FRONTEND=noninteractive apt-get -qq install --yes --no-install-recommends $PREREQUISITES >/dev/null
apt-get -qq install --yes --download-only --no-install-recommends $FETCHED >/dev/null ||
    echo 'fresh: could not fetch the packages of the lab beforehand' >&2";

/// Runs inside the root. A package's name that the distribution does not know is in apt's error.
const INSIDE: &str = "set -eu
apt-get -qq install --simulate --no-install-recommends $PACKAGES >/dev/null
cd \"$WORKSPACE\"
cargo xtask lab --json";

/// Mounts the host's file systems that the root needs, then enters it. The mounts end with the script's mount namespace. What
/// packages write to when they are installed is a copy: with the host's own /etc/ssl/certs there, `ca-certificates` would replace
/// the host's certificates by the root's.
const ENTER: &str = "set -eu
root=$1
mount -t proc proc \"$root/proc\"
mount --rbind /sys \"$root/sys\"
mount --rbind /dev \"$root/dev\"
mount -t tmpfs shield-fresh \"$root/run\"
mount -t tmpfs shield-fresh \"$root/tmp\"
mkdir -p \"$root$WORKSPACE\" \"$root/opt/rust\" \"$root$CARGO_HOME/registry\"
mount --bind \"$WORKSPACE\" \"$root$WORKSPACE\"
if [ -n \"$TARGET\" ]; then mkdir -p \"$TARGET\"; mount --bind \"$TARGET\" \"$root$WORKSPACE/target\"; fi
mount --bind -o ro \"$RUST\" \"$root/opt/rust\"
if [ -d \"$REGISTRY\" ]; then mount --bind \"$REGISTRY\" \"$root$CARGO_HOME/registry\"; fi
for folder in /etc/ssl/certs /usr/local/share/ca-certificates; do
    [ -d \"$folder\" ] || continue
    mkdir -p \"$root$folder\"
    mount -t tmpfs shield-fresh \"$root$folder\"
    cp -a \"$folder/.\" \"$root$folder\"
done
exec chroot \"$root\" /bin/sh -c \"$INSIDE\"";

/// Creates the root and runs the lab in it.
///
/// # Errors
/// [`Unavailable`] is the context of what the mirror is to blame for.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    setup::ensure(Purpose::Fresh)?;
    let folder = build::target_folder().join("fresh").join(&arguments.suite);
    let base = folder.join("base");
    retried(|| {
        if !base.join("etc/debian_version").is_file() {
            make_base(&arguments.suite, &base)?;
        }
        sh::run(&mut enter(&base, Path::new(""), PREPARE, Some(TRY_SECS))?)
    })
    .context(Unavailable)?;
    let root = folder.join("root");
    remove(&root)?;
    sh::run(sh::as_root("cp")?.args(["-a", "--reflink=auto"]).arg(&base).arg(&root))?;
    let target = if arguments.cold { folder.join("target") } else { PathBuf::new() };
    if arguments.cold {
        remove(&target)?;
    }
    let entered = sh::run_for_output(&mut enter(&root, &target, INSIDE, None)?);
    remove(&root)?;
    entered.with_context(|| format!("could not run the lab on a bare {}", arguments.suite))
}

/// Does it again where it fails, after a pause.
fn retried(mut attempt: impl FnMut() -> Result<()>) -> Result<()> {
    for left in (1..TRIES).rev() {
        match attempt() {
            Ok(()) => return Ok(()),
            Err(error) => eprintln!("fresh: {error:#}; is tried again in 20 s, {left} times at most"),
        }
        std::thread::sleep(Duration::from_secs(20));
    }
    attempt()
}

fn remove(folder: &Path) -> Result<()> {
    sh::run(sh::as_root("rm")?.args(["-rf", "--one-file-system"]).arg(folder))
}

/// Creates a minimal root from this machine's own package mirror, with the same package sources.
fn make_base(suite: &str, base: &Path) -> Result<()> {
    let (own, mirror) = release_and_mirror()?;
    // Under another name until it is whole: the next run would take what an interrupted one left for a root.
    let begun = base.with_extension("begun");
    remove(&begun)?;
    remove(base)?;
    fs::create_dir_all(&begun).with_context(|| format!("could not create {}", begun.display()))?;
    let mut debootstrap = sh::as_root("timeout")?;
    debootstrap.args([TRY_SECS, "debootstrap", "--variant=minbase", suite]).arg(&begun).arg(&mirror);
    sh::run(&mut debootstrap)
        .with_context(|| format!("could not make a root of {suite} from the mirror {mirror}"))?;
    // debootstrap configures no security updates, which an installed system has.
    let copy = "set -eu; rm -f \"$BASE/etc/apt/sources.list\"; for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.sources /etc/apt/sources.list.d/*.list \
                /etc/apt/apt.conf.d/99*; do [ -f \"$file\" ] || continue; sed \"s/$OWN/$SUITE/g\" \"$file\" >\"$BASE$file\"; \
                done; cat /etc/resolv.conf >\"$BASE/etc/resolv.conf\"";
    let mut copied = sh::as_root("env")?;
    copied.arg(format!("OWN={own}")).arg(format!("SUITE={suite}")).arg(format!("BASE={}", begun.display()));
    sh::run(copied.args(["sh", "-c", copy]))?;
    sh::run(sh::as_root("mv")?.arg(&begun).arg(base))
}

/// The code name of this machine's distribution, and the mirror that its packages come from.
pub(crate) fn release_and_mirror() -> Result<(String, String)> {
    let own = sh::capture("sh", &["-c", ". /etc/os-release; echo $VERSION_CODENAME"])
        .context("could not read this machine's code name from /etc/os-release")?;
    let format = ["indextargets", "--format", "$(SITE) $(RELEASE)", "Created-By: Packages"];
    let targets = sh::capture("apt-get", &format).context("could not list the mirrors of apt-get")?;
    let mirror = targets.lines().find_map(|line| line.strip_suffix(&format!(" {own}"))).map(str::to_owned);
    let Some(mirror) = mirror else { bail!("apt-get lists no mirror of {own}: run `apt-get update`") };
    Ok((own, mirror))
}

/// A shell script that is run in this root, for no longer than so many seconds.
fn enter(root: &Path, target: &Path, inside: &str, limit: Option<&str>) -> Result<Command> {
    let rust = sh::capture("rustc", &["--print", "sysroot"]).context("could not get the sysroot of rustc")?;
    // At the same path as here: it is part of what Cargo knows its build output by.
    let cargo_home = sh::cargo_home().unwrap_or_else(|| PathBuf::from("/root/.cargo"));
    let registry = cargo_home.join("registry");
    let mut command = sh::as_root("env")?;
    // A clean environment, so that nothing of this machine helps. Proxies and certificates are passed on, without which the root may
    // not reach its mirror, and what makes Cargo take its build output for another one.
    command.arg("-i");
    for (name, value) in std::env::vars_os() {
        let upper = name.to_string_lossy().to_uppercase();
        if upper.ends_with("_PROXY") || upper.contains("CERT") || upper == "CARGO_INCREMENTAL" {
            let mut pair = name;
            pair.push("=");
            pair.push(value);
            command.arg(pair);
        }
    }
    command.arg("PATH=/opt/rust/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    command.args(["HOME=/root", "LC_ALL=C.UTF-8"]);
    let folders = [
        ("WORKSPACE", sh::root_folder()),
        ("TARGET", target),
        ("RUST", Path::new(&rust)),
        ("REGISTRY", &registry),
        ("CARGO_HOME", &cargo_home),
    ];
    for (name, folder) in folders {
        command.arg(format!("{name}={}", folder.display()));
    }
    command.arg(format!("INSIDE={inside}")).arg(format!("PREREQUISITES={PREREQUISITES}"));
    command.arg(format!("PACKAGES={}", all_packages().collect::<Vec<_>>().join(" ")));
    command.arg(format!("FETCHED={}", packages_of(Purpose::Lab).collect::<Vec<_>>().join(" ")));
    command.args(limit.into_iter().flat_map(|limit| ["timeout", limit]));
    command.args(["unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child"]);
    command.args(["sh", "-c", ENTER, "fresh"]).arg(root);
    Ok(command)
}
