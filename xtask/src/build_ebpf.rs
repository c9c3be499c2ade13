//! `cargo xtask build-ebpf`: compiles `shield-ebpf` for the kernel's BPF target.
//!
//! That target has no prebuilt `core`, so the compiler must come with the standard library's source. The first available
//! toolchain is used: a rustup nightly with rust-src, or the distribution's own rustc with its source package.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::prebuilt::OBJECT;
use crate::requirements::{self, Purpose};
use crate::{setup, sh};

#[derive(Args)]
pub(crate) struct Arguments {
    /// Optimise (always on: the kernel's verifier rejects most unoptimised code)
    #[arg(long)]
    release: bool,
}

/// A compiler that can build `core` for the BPF target.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Route {
    /// `cargo +nightly`.
    Nightly,
    /// The running cargo with this stable compiler, which accepts unstable features through `RUSTC_BOOTSTRAP`.
    Distribution(PathBuf),
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let Arguments { release: _ } = arguments;
    build()
}

/// Builds the object into `shield-ebpf/prebuilt`, where the agent's build script reads it. An unchanged file keeps its
/// modification time, so that Cargo does not rebuild the agent.
///
/// # Errors
/// Fails if there is no suitable compiler (the message explains how to install one), or if the program does not compile.
pub(crate) fn build() -> Result<()> {
    let object = compile(PROGRAM)?;
    write(&OBJECT.path().join(PROGRAM), &object)?;
    OBJECT.record(&tools()?)
}

/// Builds the object unless the committed one was built from the present sources.
pub(crate) fn build_if_changed() -> Result<()> {
    if OBJECT.is_current()? { Ok(()) } else { build() }
}

/// Builds the object and compares it with the committed one.
///
/// Other tool versions give other bytes, so with those the object is only compiled, and a warning is printed.
pub(crate) fn verify() -> Result<()> {
    let committed = OBJECT.read()?;
    setup::ensure(Purpose::Object)?;
    let (here, there) = (tools()?, OBJECT.tools().unwrap_or_default());
    if here != there {
        compile(PROGRAM)?;
        eprintln!("xtask: NOT compared: {} was built with {there}, but this machine has {here}", OBJECT.name);
        return Ok(());
    }
    build()?;
    OBJECT.compare(&committed)
}

/// Builds the empty program, the baseline of `bench xdp`.
pub(crate) fn build_empty() -> Result<()> {
    let object = compile(EMPTY)?;
    write(&sh::root_folder().join(EMPTY_FOLDER).join(EMPTY), &object)
}

/// Compiles one program and strips its debug information, which is most of the object and which the kernel does not read.
/// BTF stays, because the loader needs it.
fn compile(program: &str) -> Result<Vec<u8>> {
    setup::ensure(Purpose::Object)?;
    sh::run(cargo("build")?.args(["--release", "--bin", program]).args(TARGET))?;
    let built = sh::root_folder().join(BUILD_FOLDER).join("bpfel-unknown-none/release").join(program);
    let stripped = built.with_extension("stripped");
    let mut objcopy = Command::new(llvm("llvm-objcopy")?);
    objcopy.arg("--strip-debug");
    // Mangled names of local functions contain a hash of the path of shield-common: they would differ between checkouts.
    for (number, name) in mangled_names(&built)?.iter().enumerate() {
        objcopy.arg(format!("--redefine-sym={name}=function_{number}"));
    }
    sh::run(objcopy.arg(&built).arg(&stripped))?;
    fs::read(&stripped).with_context(|| format!("could not read {}", stripped.display()))
}

/// The mangled function names of the object, in the order of the symbol table.
fn mangled_names(object: &Path) -> Result<Vec<String>> {
    let object = object.to_str().context("could not pass the target folder's path to nm: it is not UTF-8")?;
    let nm = llvm("llvm-nm")?;
    let arguments = ["--no-sort", "--defined-only", "--format=just-symbols", object];
    let listed =
        sh::capture(&nm.to_string_lossy(), &arguments).context("could not list the object's symbols")?;
    Ok(listed.lines().filter(|name| name.starts_with("_R")).map(str::to_owned).collect())
}

fn llvm(program: &str) -> Result<PathBuf> {
    requirements::llvm(program)
        .with_context(|| format!("could not find {program}; `cargo xtask setup` installs LLVM's tools"))
}

/// Writes a file unless it already has this content, so that its modification time stays.
fn write(file: &Path, content: &[u8]) -> Result<()> {
    if fs::read(file).is_ok_and(|old| old == content) {
        return Ok(());
    }
    let folder = file.parent().expect("a program has a folder");
    fs::create_dir_all(folder).with_context(|| format!("could not create {}", folder.display()))?;
    fs::write(file, content).with_context(|| format!("could not write {}", file.display()))
}

/// The versions of the tools that determine the object's bytes.
fn tools() -> Result<String> {
    let rustc = match route()? {
        Route::Nightly => sh::capture("rustc", &["+nightly", "--version"]),
        Route::Distribution(rustc) => sh::capture(&rustc.to_string_lossy(), &["--version"]),
    };
    let linker = sh::find("bpf-linker").and_then(|it| sh::capture(&it.to_string_lossy(), &["--version"]));
    let llvm =
        requirements::llvm("llvm-objcopy").and_then(|it| sh::capture(&it.to_string_lossy(), &["--version"]));
    let llvm = llvm.as_deref().and_then(|text| text.lines().find(|line| line.contains("LLVM version")));
    let known = |version: Option<&str>| version.unwrap_or("unknown").trim().to_owned();
    Ok(format!("{}, {}, {}", known(rustc.as_deref()), known(linker.as_deref()), known(llvm)))
}

/// Checks the format and the lints of the XDP program.
pub(crate) fn check() -> Result<()> {
    sh::run(sh::cargo().args(["fmt", "--check", "--manifest-path", "shield-ebpf/Cargo.toml"]))?;
    sh::run(clippy().args(["--", "-D", "warnings"]))
}

/// Clippy for the host's target with the stable compiler. The crate uses one unstable feature, hence `RUSTC_BOOTSTRAP`;
/// linting needs neither a rebuilt `core` nor a BPF linker, so `check` works without the BPF toolchain.
fn clippy() -> Command {
    let mut cargo = sh::cargo();
    cargo.args(["clippy", "--manifest-path", "shield-ebpf/Cargo.toml", "--release"]);
    cargo.args(["--target-dir", LINT_FOLDER]).env("RUSTC_BOOTSTRAP", "1");
    cargo
}

const PROGRAM: &str = "shield-ebpf";
/// The program that only passes packets.
const EMPTY: &str = "empty";
/// `bench xdp` loads the empty program from here.
const EMPTY_FOLDER: &str = "target/bpf";
/// Separate target folders, because compiler and flags differ from the workspace's and each would rebuild the other's
/// output.
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
    // v3 has 32-bit instructions, which every kernel since 5.1 runs; the enforcer requires 5.9 anyway.
    let mut flags = vec![arch.as_str(), "-Cdebuginfo=2", "-Ctarget-cpu=v3", "-Clink-arg=--btf"];
    if supports_misaligned_access() {
        flags.push("-Clink-arg=--cpu-features=+alu32,+allows-misaligned-mem-access");
    }
    let remapped: Vec<String> =
        names_of_folders().into_iter().map(|(from, to)| format!("--remap-path-prefix={from}={to}")).collect();
    flags.extend(remapped.iter().map(String::as_str));
    // CARGO_ENCODED_RUSTFLAGS takes precedence over the developer's own RUSTFLAGS, which are meant for the host.
    cargo.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}")).env_remove("RUSTUP_TOOLCHAIN");
    // `cargo install` puts bpf-linker where many a PATH does not look.
    cargo.env("PATH", sh::path_with_cargo_bin()?);
    cargo.current_dir(sh::root_folder().join("shield-ebpf"));
    cargo.arg(verb).arg("--target-dir").arg(sh::root_folder().join(BUILD_FOLDER));
    Ok(cargo)
}

/// Folders of this machine with their replacements in the object's BTF. Without them the object would depend on the path
/// of the checkout.
fn names_of_folders() -> Vec<(String, &'static str)> {
    let mut names = vec![(sh::root_folder().display().to_string(), "shield")];
    let registry = sh::cargo_home().map(|home| home.join("registry/src"));
    let sources = registry.and_then(|folder| fs::read_dir(folder).ok()).into_iter().flatten().flatten();
    names.extend(sources.map(|entry| (entry.path().display().to_string(), "crates")));
    names
}

/// Returns whether the linker can emit misaligned loads (since LLVM 22). Packet headers are not aligned, so without such
/// loads each field is assembled from single bytes. The architectures of servers all allow them.
fn supports_misaligned_access() -> bool {
    let linker =
        sh::find("bpf-linker").and_then(|linker| sh::capture(&linker.to_string_lossy(), &["--help"]));
    linker.is_some_and(|help| help.contains("allows-misaligned-mem-access"))
}

fn route() -> Result<Route> {
    if has_source(sh::capture("rustc", &["+nightly", "--print", "sysroot"])) {
        return Ok(Route::Nightly);
    }
    let distribution = Path::new("/usr/bin/rustc");
    if has_source(sh::capture("/usr/bin/rustc", &["--print", "sysroot"])) {
        return Ok(Route::Distribution(distribution.to_owned()));
    }
    bail!(
        "found no Rust compiler with the standard library's source, which BPF needs. Install one with\n  \
         rustup toolchain install nightly --component rust-src\nor, on Debian, with\n  cargo xtask setup"
    )
}

fn has_source(sysroot: Option<String>) -> bool {
    sysroot.is_some_and(|folder| {
        Path::new(&folder).join("lib/rustlib/src/rust/library/core/src/lib.rs").is_file()
    })
}
