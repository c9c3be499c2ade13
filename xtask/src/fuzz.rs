//! `cargo xtask fuzz TARGET`: builds the fuzz targets of `tests/fuzz` with coverage instrumentation, which stable Rust's
//! own LLVM does, and runs one under libFuzzer. `cargo xtask test` runs them all for a minute each, two at a time.
//!
//! What a target learned stays in `target/fuzz/corpus`, so that the next run goes on there; an input that made it fail
//! goes to `target/fuzz/findings`, and the error says how to run it again.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use anyhow::{Context as _, Result, bail};
use clap::{Args, ValueEnum};

use crate::needs::Purpose;
use crate::{build, setup, sh};

/// What `fuzz` can be told.
#[derive(Args)]
pub(crate) struct Arguments {
    /// What to fuzz
    target: Target,
    /// How long, in seconds; 0 is until stopped or until something is found
    #[arg(long, default_value_t = SECONDS, conflicts_with = "input")]
    seconds: u32,
    /// Only run this input once: a finding, say
    #[arg(long)]
    input: Option<PathBuf>,
}

/// The targets: `tests/fuzz/src/bin`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Target {
    /// Lines in JSON: any bytes, and what servers write
    Json,
    /// Lines in the combined format
    Combined,
    /// Lines in the common format
    Common,
    /// The engine's reading of request lines, and the detector over a run of them
    Requests,
    /// The fixed-shape reader against serde_json on the same lines
    Differential,
    /// The same bytes cut into blocks anywhere
    Blocks,
}

/// How long each target runs as a test.
const SECONDS: u32 = 60;

/// Targets that run at a time, each on a core.
const AT_A_TIME: usize = 2;

/// Longer inputs find no more, and slow the fuzzer down.
const MAX_INPUT_BYTES: u32 = 4096;

/// More memory than this is a finding.
const MAX_MEMORY_MIB: u32 = 512;

/// One input that takes longer is a finding.
const MAX_INPUT_SECS: u32 = 10;

/// Coverage of every edge, counted, and every comparison's operands: what `cargo fuzz` asks for, without a sanitizer,
/// which only nightly has.
const INSTRUMENTATION: [&str; 7] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "--cfg",
    "fuzzing",
];

/// Keeps the C library from handing each input's large tables back to the kernel: twice as many inputs a second.
const KEEP_MEMORY: [&str; 2] = ["MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"];
const KEPT_BYTES: u32 = 1 << 30;

const MANIFEST: &str = "tests/fuzz/Cargo.toml";

/// Fuzzes one target.
///
/// # Errors
/// When it cannot be built, when it finds something, and when it ran no input at all.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    setup::ensure(Purpose::Test)?;
    let programs = build()?;
    let folders = Folders::of(arguments.target)?;
    let program = programs.join(name(arguments.target));
    if let Some(input) = &arguments.input {
        return sh::run(Command::new(program).arg(input).args(limits(&folders)));
    }
    let report = fuzz(arguments.target, &program, &folders, arguments.seconds)?;
    eprintln!("fuzz: {report}");
    Ok(())
}

/// Fuzzes every target whose test name contains `filter` for a minute each, and prints a line for each. Returns how many
/// passed and failed.
///
/// # Errors
/// When the targets cannot be built.
pub(crate) fn run_all(filter: Option<&str>) -> Result<(u64, u64)> {
    let wanted = |target: &Target| filter.is_none_or(|filter| test_name(*target).contains(filter));
    let targets: Vec<Target> = Target::value_variants().iter().copied().filter(wanted).collect();
    if targets.is_empty() {
        return Ok((0, 0));
    }
    let programs = build()?;
    println!("\nfuzzing {} targets for {SECONDS} s each, {AT_A_TIME} at a time", targets.len());
    let waiting = Mutex::new(targets.iter());
    let failed = Mutex::new(0);
    std::thread::scope(|scope| {
        for _ in 0..AT_A_TIME.min(targets.len()) {
            scope.spawn(|| {
                while let Some(target) = next(&waiting) {
                    let outcome = fuzz_as_test(target, &programs);
                    say(target, &outcome);
                    *failed.lock().expect("nobody panics with it") += u64::from(outcome.is_err());
                }
            });
        }
    });
    let failed = failed.into_inner().expect("nobody panicked with it");
    Ok((targets.len() as u64 - failed, failed))
}

/// The lints, on the instrumented code's own workspace.
///
/// # Errors
/// When something is found.
pub(crate) fn check() -> Result<()> {
    sh::run(sh::cargo().args(["fmt", "--check", "--manifest-path", MANIFEST]))?;
    let mut clippy = sh::cargo();
    clippy.args(["clippy", "--manifest-path", MANIFEST, "--target-dir"]).arg(folder().join("lint"));
    sh::run(clippy.args(["--", "--deny", "warnings"]))
}

fn next(waiting: &Mutex<std::slice::Iter<'_, Target>>) -> Option<Target> {
    waiting.lock().expect("nobody panics with it").next().copied()
}

fn fuzz_as_test(target: Target, programs: &Path) -> Result<Report> {
    fuzz(target, &programs.join(name(target)), &Folders::of(target)?, SECONDS)
}

fn say(target: Target, outcome: &Result<Report>) {
    match outcome {
        Ok(report) => println!("test {} ... ok ({report})", test_name(target)),
        Err(error) => println!("test {} ... FAILED\n{error:#}", test_name(target)),
    }
}

fn name(target: Target) -> String {
    target.to_possible_value().expect("no target is hidden").get_name().to_owned()
}

fn test_name(target: Target) -> String {
    format!("fuzz::{}", name(target))
}

fn folder() -> PathBuf {
    build::target_folder().join("fuzz")
}

/// Builds all targets; returns where the programs are.
fn build() -> Result<PathBuf> {
    let triple = sh::ask("rustc", &["--print", "host-tuple"]).context("asked rustc which machine this is")?;
    let mut cargo = sh::cargo();
    // With a target named, build scripts and macros are not instrumented.
    cargo.args(["build", "--release", "--locked", "--manifest-path", MANIFEST, "--target", &triple]);
    cargo.arg("--target-dir").arg(folder());
    cargo.env("CARGO_ENCODED_RUSTFLAGS", INSTRUMENTATION.join("\u{1f}"));
    sh::run(&mut cargo)?;
    let folder = sh::root_folder().join(folder()).join(triple).join("release");
    Ok(folder)
}

/// Where a target's inputs lie.
struct Folders {
    seeds: PathBuf,
    corpus: PathBuf,
    findings: PathBuf,
    log: PathBuf,
}

impl Folders {
    fn of(target: Target) -> Result<Self> {
        let folder = sh::root_folder().join(folder());
        let of = |what: &str| folder.join(what).join(name(target));
        let folders = Self {
            seeds: of("seeds"),
            corpus: of("corpus"),
            findings: of("findings"),
            log: folder.join(format!("{}.log", name(target))),
        };
        for path in [&folders.seeds, &folders.corpus, &folders.findings] {
            fs::create_dir_all(path).with_context(|| format!("made {}", path.display()))?;
        }
        Ok(folders)
    }
}

fn limits(folders: &Folders) -> Vec<String> {
    vec![
        format!("-rss_limit_mb={MAX_MEMORY_MIB}"),
        format!("-timeout={MAX_INPUT_SECS}"),
        format!("-max_len={MAX_INPUT_BYTES}"),
        format!("-artifact_prefix={}/", folders.findings.display()),
        "-print_final_stats=1".to_owned(),
    ]
}

/// What a run did.
#[derive(Debug, PartialEq, Eq)]
struct Report {
    inputs: u64,
    edges: u64,
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} inputs, {} edges covered", self.inputs, self.edges)
    }
}

fn fuzz(target: Target, program: &Path, folders: &Folders, seconds: u32) -> Result<Report> {
    let log = File::create(&folders.log).with_context(|| format!("created {}", folders.log.display()))?;
    let how_long = if seconds == 0 { "until stopped".to_owned() } else { format!("for {seconds} s") };
    eprintln!("fuzz: {} {how_long}, its log is {}", name(target), folders.log.display());
    let mut command = Command::new(program);
    command.arg(&folders.corpus).arg(&folders.seeds).args(limits(folders));
    command.arg(format!("-max_total_time={seconds}")).env("SHIELD_FUZZ_SEEDS", &folders.seeds).stderr(log);
    command.envs(KEEP_MEMORY.map(|name| (name, KEPT_BYTES.to_string())));
    let status = sh::status(&mut command)?;
    let said = fs::read(&folders.log).with_context(|| format!("read {}", folders.log.display()))?;
    let said = String::from_utf8_lossy(&said);
    if !status.success() {
        bail!("{}", finding(target, &said, folders));
    }
    let report = Report::parse(&said).with_context(|| format!("no result in {}", folders.log.display()))?;
    if report.inputs == 0 || report.edges == 0 {
        bail!("{} ran nothing: {report}; see {}", name(target), folders.log.display());
    }
    Ok(report)
}

impl Report {
    /// Out of what libFuzzer prints: `stat::number_of_executed_units: N` and the last `cov: N`.
    fn parse(said: &str) -> Option<Self> {
        let number = |text: &str| text.split_whitespace().next()?.parse().ok();
        let (_, inputs) = said.rsplit_once("stat::number_of_executed_units:")?;
        let edges = said.rsplit_once(" cov: ").map_or(Some(0), |(_, edges)| number(edges));
        Some(Self { inputs: number(inputs)?, edges: edges? })
    }
}

/// What went wrong, where the input is, and how to run it again.
fn finding(target: Target, said: &str, folders: &Folders) -> String {
    let panic = said.find("panicked at").map_or("", |at| &said[at..]);
    let why: Vec<&str> = panic
        .lines()
        .take_while(|line| !line.contains("== ERROR") && *line != "stack backtrace:")
        .take(8)
        .collect();
    let written = said.rsplit_once("Test unit written to ").and_then(|(_, path)| path.lines().next());
    let again = written.map_or_else(String::new, |path| {
        format!("\nthe input is {path}\nagain: cargo xtask fuzz {} --input {path}", name(target))
    });
    let findings = folders.findings.display();
    format!("{} found something: {}{again}\nfindings are kept in {findings}", name(target), why.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_runs_result_is_read_and_a_run_without_one_is_none() {
        let said = "#12 NEW cov: 3 ft: 4\n#99\tDONE   cov: 606 ft: 20 corp: 4/3b\nstat::number_of_executed_units: 126212\n";
        assert_eq!(Report::parse(said), Some(Report { inputs: 126_212, edges: 606 }));
        assert_eq!(Report::parse("stat::number_of_executed_units: 0"), Some(Report { inputs: 0, edges: 0 }));
        assert_eq!(Report::parse("INFO: Seed: 1"), None);
    }

    #[test]
    fn every_target_has_a_program() {
        let named: Vec<String> = Target::value_variants().iter().map(|target| name(*target)).collect();
        let folder = sh::root_folder().join("tests/fuzz/src/bin");
        let mut there: Vec<String> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned())
            .collect();
        there.sort();
        let mut sorted = named.clone();
        sorted.sort();
        assert_eq!(there, sorted);
    }

    #[test]
    fn a_finding_says_how_to_run_it_again() {
        let folder = |name: &str| PathBuf::from(name);
        let folders = Folders {
            seeds: folder("s"),
            corpus: folder("c"),
            findings: folder("target/fuzz/findings/json"),
            log: folder("l"),
        };
        let said = "thread 'x' panicked at src/a.rs:1:2:\nwrong\n== ERROR: libFuzzer\nTest unit written to target/f/crash-1\n";
        let text = finding(Target::Json, said, &folders);
        assert!(text.contains("panicked at src/a.rs:1:2:\nwrong\n"), "{text}");
        assert!(text.contains("again: cargo xtask fuzz json --input target/f/crash-1"), "{text}");
        assert!(text.contains("kept in target/fuzz/findings/json"), "{text}");
    }
}
