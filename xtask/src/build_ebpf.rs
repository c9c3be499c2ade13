//! `cargo xtask build-ebpf`: compiles `shield-ebpf` for the kernel's BPF target.
//!
//! That target has no prebuilt `core`, so the compiler must come with the standard library's source. Two routes, the
//! first that is there is taken: a rustup nightly with rust-src, or the distribution's own rustc with its source.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::needs::Purpose;
use crate::{setup, sh};

/// What `build-ebpf` can be told.
#[derive(Args)]
pub(crate) struct Arguments {
    /// Optimise (always done: the kernel's verifier refuses much unoptimised code)
    #[arg(long)]
    release: bool,
}

/// A compiler that can build `core` for the BPF target.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Route {
    /// `cargo +nightly`.
    Nightly,
    /// Our cargo with this compiler, which is told to allow unstable features.
    Distribution(PathBuf),
}

/// Installs what it needs, then builds.
///
/// # Errors
/// As for [`build`].
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let Arguments { release: _ } = arguments;
    setup::ensure(Purpose::Build)?;
    build()
}

/// Builds the XDP program into `target/bpf`, where the agent's build script looks for it. Cargo decides what is to be
/// compiled; an object that did not change is not touched, so that the agent is not built anew for nothing.
///
/// # Errors
/// When no compiler can do it (the message says how to get one), and when it does not compile.
pub(crate) fn build() -> Result<()> {
    sh::run(cargo("build")?.args(["--release"]).args(TARGET))?;
    for object in OBJECTS {
        publish(object)?;
    }
    Ok(())
}

/// Copies an object to its stable place.
fn publish(object: &str) -> Result<()> {
    let root = sh::root_folder();
    let built = root.join(BUILD_FOLDER).join("bpfel-unknown-none/release").join(object);
    let stable = root.join(OBJECT_FOLDER).join(object);
    let new = fs::read(&built).with_context(|| format!("read {}", built.display()))?;
    if fs::read(&stable).is_ok_and(|old| old == new) {
        return Ok(());
    }
    fs::create_dir_all(root.join(OBJECT_FOLDER)).with_context(|| format!("made {OBJECT_FOLDER}"))?;
    fs::write(&stable, new).with_context(|| format!("wrote {}", stable.display()))
}

/// Format and lints of the XDP program.
///
/// # Errors
/// As for [`build`], and when a lint fires.
pub(crate) fn check() -> Result<()> {
    sh::run(sh::cargo().args(["fmt", "--check", "--manifest-path", "shield-ebpf/Cargo.toml"]))?;
    sh::run(clippy().args(["--", "-D", "warnings"]))
}

/// The lints run on the host's own target with the stable compiler: the crate needs one unstable feature, but neither
/// `core` built anew nor a BPF linker to be looked at.
fn clippy() -> Command {
    let mut cargo = sh::cargo();
    cargo.args(["clippy", "--manifest-path", "shield-ebpf/Cargo.toml", "--release"]);
    cargo.args(["--target-dir", LINT_FOLDER]).env("RUSTC_BOOTSTRAP", "1");
    cargo
}

/// What is built: the program, and the empty one that benchmarks compare it with.
const OBJECTS: &[&str] = &["shield-ebpf", "empty"];
/// Where the agent's build script and the benchmarks look for them.
const OBJECT_FOLDER: &str = "target/bpf";
/// Cargo's own folders for them: apart, because compiler and flags differ from the workspace's.
const BUILD_FOLDER: &str = "target/bpf-build";
const LINT_FOLDER: &str = "target/bpf-lint";
const TARGET: &[&str] = &["-Z", "build-std=core", "--target", "bpfel-unknown-none"];

fn cargo(verb: &str) -> Result<Command> {
    let mut cargo = match route()? {
        Route::Nightly => {
            let mut cargo = Command::new("cargo");
            cargo.arg("+nightly").env_remove("RUSTC");
            cargo
        }
        Route::Distribution(rustc) => {
            let mut cargo = sh::cargo();
            cargo.env("RUSTC", rustc).env("RUSTC_BOOTSTRAP", "1");
            cargo
        }
    };
    let arch = format!("--cfg=bpf_target_arch=\"{}\"", std::env::consts::ARCH);
    // v3: 32-bit instructions, in every kernel since 5.1; the enforcer needs 5.9.
    let mut flags = vec![arch.as_str(), "-Cdebuginfo=2", "-Ctarget-cpu=v3", "-Clink-arg=--btf"];
    if knows_misaligned_access() {
        flags.push("-Clink-arg=--cpu-features=+alu32,+allows-misaligned-mem-access");
    }
    // Encoded, so that the developer's own RUSTFLAGS, meant for the host, stay out.
    cargo.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}")).env_remove("RUSTUP_TOOLCHAIN");
    cargo.current_dir(sh::root_folder().join("shield-ebpf"));
    cargo.arg(verb).arg("--target-dir").arg(sh::root_folder().join(BUILD_FOLDER));
    Ok(cargo)
}

/// Whether the linker can make one load of what it must otherwise put together from single bytes (LLVM 22): the headers
/// of a packet are not aligned. The machines that servers are made of all allow such loads.
fn knows_misaligned_access() -> bool {
    sh::ask("bpf-linker", &["--help"]).is_some_and(|help| help.contains("allows-misaligned-mem-access"))
}

fn route() -> Result<Route> {
    if has_source(sh::ask("rustc", &["+nightly", "--print", "sysroot"])) {
        return Ok(Route::Nightly);
    }
    let distribution = Path::new("/usr/bin/rustc");
    if has_source(sh::ask("/usr/bin/rustc", &["--print", "sysroot"])) {
        return Ok(Route::Distribution(distribution.to_owned()));
    }
    bail!(
        "no compiler here can build for BPF. Either\n  rustup toolchain install nightly --component rust-src\nor, on \
         Debian,\n  cargo xtask setup"
    )
}

fn has_source(sysroot: Option<String>) -> bool {
    sysroot.is_some_and(|folder| {
        Path::new(&folder).join("lib/rustlib/src/rust/library/core/src/lib.rs").is_file()
    })
}
