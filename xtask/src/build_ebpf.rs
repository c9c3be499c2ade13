//! `cargo xtask build-ebpf`: compiles `shield-ebpf` for the kernel's BPF target.
//!
//! That target has no prebuilt `core`, so the compiler must come with the standard library's source. Two routes, the
//! first that is there is taken: a rustup nightly with rust-src, or the distribution's own rustc with its source.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::needs::{self, Purpose};
use crate::prebuilt::OBJECT;
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
    build()
}

/// Builds the object into `shield-ebpf/prebuilt`, where the agent's build script takes it from. A file that did not
/// change is not touched, so that the agent is not compiled again for nothing.
///
/// # Errors
/// When no compiler can do it (the message says how to get one), and when it does not compile.
pub(crate) fn build() -> Result<()> {
    let object = compile(PROGRAM)?;
    write(&OBJECT.path().join(PROGRAM), &object)?;
    OBJECT.record(&tools()?)
}

/// Builds the object unless the committed one was built from the sources as they are.
///
/// # Errors
/// As for [`build`].
pub(crate) fn build_if_changed() -> Result<()> {
    if OBJECT.is_current()? { Ok(()) } else { build() }
}

/// Builds the object and compares it with the committed one. With other tools than it was built with nothing can be
/// compared, which is said; it is compiled all the same.
///
/// # Errors
/// As for [`build`], and when the two differ.
pub(crate) fn verify() -> Result<()> {
    let committed = OBJECT.read()?;
    setup::ensure(Purpose::Object)?;
    let (here, there) = (tools()?, OBJECT.tools().unwrap_or_default());
    if here != there {
        compile(PROGRAM)?;
        eprintln!("NOT compared: {} was built by {there}; here is {here}", OBJECT.name);
        return Ok(());
    }
    build()?;
    OBJECT.compare(&committed)
}

/// Builds the empty program that benchmarks compare ours with.
///
/// # Errors
/// As for [`build`].
pub(crate) fn build_empty() -> Result<()> {
    let object = compile(EMPTY)?;
    write(&sh::root_folder().join(EMPTY_FOLDER).join(EMPTY), &object)
}

/// Compiles one program and takes out its debug information, which is most of it and which no kernel reads. BTF stays.
fn compile(program: &str) -> Result<Vec<u8>> {
    setup::ensure(Purpose::Object)?;
    sh::run(cargo("build")?.args(["--release", "--bin", program]).args(TARGET))?;
    let built = sh::root_folder().join(BUILD_FOLDER).join("bpfel-unknown-none/release").join(program);
    let stripped = built.with_extension("stripped");
    let mut objcopy = Command::new(llvm("llvm-objcopy")?);
    objcopy.arg("--strip-debug");
    // The mangled names of local functions hold a hash of the path that shield-common lies at.
    for (number, name) in mangled_names(&built)?.iter().enumerate() {
        objcopy.arg(format!("--redefine-sym={name}=function_{number}"));
    }
    sh::run(objcopy.arg(&built).arg(&stripped))?;
    fs::read(&stripped).with_context(|| format!("could not read {}", stripped.display()))
}

/// The names of the object's functions that Rust mangled, in the order of the symbol table.
fn mangled_names(object: &Path) -> Result<Vec<String>> {
    let object = object.to_str().context("the target folder's path is not UTF-8")?;
    let nm = llvm("llvm-nm")?;
    let arguments = ["--no-sort", "--defined-only", "--format=just-symbols", object];
    let listed = sh::ask(&nm.to_string_lossy(), &arguments).context("could not list the object's symbols")?;
    Ok(listed.lines().filter(|name| name.starts_with("_R")).map(str::to_owned).collect())
}

fn llvm(program: &str) -> Result<PathBuf> {
    needs::llvm(program)
        .with_context(|| format!("could not find {program}: `cargo xtask setup` installs LLVM's tools"))
}

/// Writes a file unless it has this content.
fn write(file: &Path, content: &[u8]) -> Result<()> {
    if fs::read(file).is_ok_and(|old| old == content) {
        return Ok(());
    }
    let folder = file.parent().expect("a program has a folder");
    fs::create_dir_all(folder).with_context(|| format!("could not create {}", folder.display()))?;
    fs::write(file, content).with_context(|| format!("could not write {}", file.display()))
}

/// The versions that decide which bytes come out.
fn tools() -> Result<String> {
    let rustc = match route()? {
        Route::Nightly => sh::ask("rustc", &["+nightly", "--version"]),
        Route::Distribution(rustc) => sh::ask(&rustc.to_string_lossy(), &["--version"]),
    };
    let linker = sh::find("bpf-linker").and_then(|it| sh::ask(&it.to_string_lossy(), &["--version"]));
    let llvm = needs::llvm("llvm-objcopy").and_then(|it| sh::ask(&it.to_string_lossy(), &["--version"]));
    let llvm = llvm.as_deref().and_then(|text| text.lines().find(|line| line.contains("LLVM version")));
    let known = |version: Option<&str>| version.unwrap_or("unknown").trim().to_owned();
    Ok(format!("{}, {}, {}", known(rustc.as_deref()), known(linker.as_deref()), known(llvm)))
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

/// The program.
const PROGRAM: &str = "shield-ebpf";
/// The one that does nothing, for benchmarks.
const EMPTY: &str = "empty";
/// Where the benchmarks look for it.
const EMPTY_FOLDER: &str = "target/bpf";
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
    let remapped: Vec<String> =
        names_of_folders().into_iter().map(|(from, to)| format!("--remap-path-prefix={from}={to}")).collect();
    flags.extend(remapped.iter().map(String::as_str));
    // Encoded, so that the developer's own RUSTFLAGS, meant for the host, stay out.
    cargo.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}")).env_remove("RUSTUP_TOOLCHAIN");
    cargo.current_dir(sh::root_folder().join("shield-ebpf"));
    cargo.arg(verb).arg("--target-dir").arg(sh::root_folder().join(BUILD_FOLDER));
    Ok(cargo)
}

/// Folders of this machine, and what stands for them in the object's BTF: the same bytes come out everywhere.
fn names_of_folders() -> Vec<(String, &'static str)> {
    let mut names = vec![(sh::root_folder().display().to_string(), "shield")];
    let registry = sh::cargo_home().map(|home| home.join("registry/src"));
    let sources = registry.and_then(|folder| fs::read_dir(folder).ok()).into_iter().flatten().flatten();
    names.extend(sources.map(|entry| (entry.path().display().to_string(), "crates")));
    names
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
