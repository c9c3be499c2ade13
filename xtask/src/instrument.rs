//! The compiler of the fuzz targets: rustc with coverage instrumentation, for the workspace's own crates.
//!
//! xtask makes itself cargo's `RUSTC_WORKSPACE_WRAPPER`. Cargo does not call that for dependencies, which are not what is fuzzed, so
//! that those of the tests are used; and it keeps what a wrapper has compiled apart from what was compiled without.

use std::ffi::{OsStr, OsString};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result};

/// Tells a wrapper from `cargo xtask`.
const VARIABLE: &str = "SHIELD_XTASK_INSTRUMENTS";

/// Edge counters and the operands of comparisons, as `cargo fuzz` sets them, but without a sanitizer: those need a nightly
/// compiler.
const INSTRUMENTATION: [&str; 8] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Ccodegen-units=16",
    "--cfg",
    "fuzzing",
];

/// Packages that are optimised, because their speed is that of most targets. The agent takes longer to optimise than its targets run.
const FAST: [&str; 3] = ["shield-engine", "shield-logline", "shield-fuzz"];

/// Sets `cargo` up to compile with instrumentation; `folder` is for the wrapper's name.
pub(crate) fn instrument(cargo: &mut Command, folder: &Path) -> Result<()> {
    cargo.env("RUSTC_WORKSPACE_WRAPPER", wrapper(folder)?).env(VARIABLE, "1");
    // Compiled once and rarely changed: what it takes to compile parts of it again costs more than it saves.
    cargo.env("CARGO_INCREMENTAL", "0");
    Ok(())
}

/// A name for this program that changes with the flags: cargo knows a wrapper by its name alone.
fn wrapper(folder: &Path) -> Result<PathBuf> {
    let mut hasher = DefaultHasher::new();
    (INSTRUMENTATION, FAST).hash(&mut hasher);
    let wrapper = folder.join(format!("rustc-{:016x}", hasher.finish()));
    std::fs::create_dir_all(folder).with_context(|| format!("could not create {}", folder.display()))?;
    let this = std::env::current_exe().context("could not tell where this program is")?;
    if std::fs::read_link(&wrapper).is_ok_and(|target| target == this) {
        return Ok(wrapper);
    }
    let _ = std::fs::remove_file(&wrapper);
    std::os::unix::fs::symlink(&this, &wrapper)
        .with_context(|| format!("could not create {}", wrapper.display()))?;
    Ok(wrapper)
}

/// If this process is the wrapper: becomes the compiler, and returns only where that fails.
pub(crate) fn become_compiler() -> Option<ExitCode> {
    std::env::var_os(VARIABLE)?;
    let mut words = std::env::args_os().skip(1);
    let rustc = words.next()?;
    let words: Vec<OsString> = words.collect();
    let package = std::env::var("CARGO_PKG_NAME").unwrap_or_default();
    let error = Command::new(&rustc).args(&words).args(flags(&words, &package)).exec();
    eprintln!("error: could not start {}: {error}", rustc.display());
    Some(ExitCode::FAILURE)
}

/// What is added to the compiler's arguments; of two values that contradict each other it takes the last one.
fn flags(words: &[OsString], package: &str) -> Vec<&'static str> {
    let name = words.iter().skip_while(|word| *word != "--crate-name").nth(1);
    // Cargo's questions about the compiler, and programs that run while others are compiled: without libFuzzer they cannot be linked.
    let is_instrumented = name.is_some_and(|name| name != OsStr::new("___") && !is_build_script(name));
    if !is_instrumented {
        return Vec::new();
    }
    INSTRUMENTATION.into_iter().chain(FAST.contains(&package).then_some("-Copt-level=3")).collect()
}

fn is_build_script(name: &OsStr) -> bool {
    name.to_string_lossy().starts_with("build_script_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crates_are_instrumented_and_questions_and_build_scripts_are_not() {
        let flags_of = |text: &str, package: &str| {
            let words: Vec<OsString> = text.split(' ').map(OsString::from).collect();
            flags(&words, package)
        };
        let fast = flags_of("--crate-name shield_engine --edition=2024 lib.rs", "shield-engine");
        assert!(fast.contains(&"-Cpasses=sancov-module") && fast.ends_with(&["-Copt-level=3"]), "{fast:?}");
        let slow = flags_of("--crate-name shield_agent lib.rs", "shield-agent");
        assert_eq!(slow, INSTRUMENTATION);
        for none in
            ["-vV", "- --crate-name ___ --print=file-names", "--crate-name build_script_build build.rs"]
        {
            assert!(flags_of(none, "shield-agent").is_empty(), "{none}");
        }
    }
}
