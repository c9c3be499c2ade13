//! `cargo xtask fuzz TARGET`: builds the fuzz targets of `tests/fuzz` with coverage instrumentation and runs one under
//! libFuzzer. The LLVM of stable Rust can instrument, so no nightly compiler is needed.
//!
//! By hand a target runs for a time, with another random seed in each run, and goes on from the corpus that earlier runs left in
//! `target/fuzz/corpus`. That is how something new is found.
//!
//! `cargo xtask test` is a gate, and its answer must depend on the code alone. It runs every target, two in parallel, with one
//! seed and a fixed number of inputs, from the seeds of `tests/fuzz/src/seeds.rs` and nothing else. What is found by hand goes
//! to `tests/fuzz/corpus` and is one of them.
//!
//! Failing inputs are written to `target/fuzz/findings`; the error includes the command that reproduces the failure.

use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use anyhow::{Context as _, Result, bail};
use clap::{Args, ValueEnum};

use crate::background::Background;
use crate::build::{self, Profile};
use crate::requirements::Purpose;
use crate::{instrument, setup, sh};

#[derive(Args)]
pub(crate) struct Arguments {
    /// The target to fuzz
    target: Target,
    /// Duration in seconds; 0 runs until a failure or Ctrl-C
    #[arg(long, default_value_t = DEFAULT_SECONDS, conflicts_with = "input")]
    seconds: u32,
    /// Run as `cargo xtask test` does: from the committed seeds, with a fixed number of inputs
    #[arg(long, conflicts_with_all = ["seconds", "input"])]
    gate: bool,
    /// Run this input once instead of fuzzing, for instance to reproduce a failure
    #[arg(long)]
    input: Option<PathBuf>,
}

/// The binaries of `tests/fuzz/src/bin` and `tests/fuzz/agent/src/bin`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Target {
    /// JSON lines: arbitrary bytes, and lines as servers write them
    Json,
    /// Lines in the combined format
    Combined,
    /// Lines in the common format
    Common,
    /// The engine's parsing of request lines, and the detector on sequences of them
    Requests,
    /// The fixed-shape reader compared with serde_json on the same lines
    Differential,
    /// The same bytes split into blocks at any position
    Blocks,
    /// Lines in the records of containers and the journal
    Wrapped,
    /// Lines of any second
    Times,
    /// Request targets, normalised as nginx does and by a slow reader.
    Paths,
    /// Lines of any `log_format`, and of the text formats that are recognised by themselves
    Formats,
    /// Files of settings
    Config,
    /// Lists for `import`, in every format
    Lists,
    /// Requests to the API: bodies and queries of every operation
    Bodies,
    /// Audit logs that somebody changed
    Audit,
    /// Databases that were damaged
    Database,
}

impl Target {
    /// Inputs that the gate runs: 10 to 30 seconds of one core.
    fn gate_inputs(self) -> u64 {
        match self {
            Target::Json => 80_000,
            Target::Combined | Target::Common => 200_000,
            Target::Requests => 20_000,
            Target::Differential => 80_000,
            Target::Blocks => 8_000,
            Target::Wrapped => 80_000,
            Target::Times => 20_000,
            Target::Paths => 600_000,
            Target::Formats => 200_000,
            Target::Config => 4_000,
            Target::Lists => 100_000,
            Target::Bodies => 60_000,
            Target::Audit => 40_000,
            Target::Database => 1_500,
        }
    }
}

/// How long and from where a target runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// The same inputs in every run.
    Gate,
    /// A random search; 0 seconds are without end.
    Search { seconds: u32 },
}

impl Mode {
    fn of(arguments: &Arguments) -> Mode {
        if arguments.gate { Mode::Gate } else { Mode::Search { seconds: arguments.seconds } }
    }

    fn shown(self, target: Target) -> String {
        match self {
            Mode::Gate => format!("with {} inputs", target.gate_inputs()),
            Mode::Search { seconds: 0 } => "until stopped".to_owned(),
            Mode::Search { seconds } => format!("for {seconds} s"),
        }
    }

    /// The arguments that choose the inputs.
    fn arguments(self, target: Target, folders: &Folders) -> Vec<OsString> {
        match self {
            // Given as a list, because the order of a folder's files is the file system's. Without a corpus folder nothing
            // is written that a later run would begin with, and nothing is read again by the clock.
            Mode::Gate => vec![
                format!("-seed_inputs=@{}", folders.seeds.with_extension("list").display()).into(),
                "-seed=1".into(),
                // Some comparisons are of addresses, which differ from process to process.
                "-use_cmp=0".into(),
                format!("-runs={}", target.gate_inputs()).into(),
            ],
            Mode::Search { seconds } => vec![
                folders.corpus.clone().into(),
                folders.seeds.clone().into(),
                format!("-max_total_time={seconds}").into(),
            ],
        }
    }
}

/// Duration of a search by hand.
const DEFAULT_SECONDS: u32 = 60;

/// Targets that run in parallel, each on a core of its own.
const PARALLEL: usize = 2;

/// Longer inputs find nothing more and slow the fuzzer down.
const MAX_INPUT_BYTES: u32 = 4096;

/// An input that takes more memory is a failure.
const MAX_MEMORY_MIB: u32 = 512;

/// An input that takes longer is a failure. No input takes a hundredth of it, so that a busy machine fails none.
const MAX_INPUT_SECS: u32 = 60;

/// Stops the allocator from returning each input's large tables to the kernel, which doubles the inputs per second.
const KEEP_MEMORY: [&str; 2] = ["MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"];
const KEPT_BYTES: u32 = 1 << 30;

/// Fuzzes one target.
///
/// # Errors
/// Also fails if the target ran no input at all, because such a run would look like a success.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    setup::ensure(Purpose::Test)?;
    let programs = build()?;
    let folders = Folders::of(arguments.target)?;
    let program = programs.join(name(arguments.target));
    if let Some(input) = &arguments.input {
        return sh::run(Command::new(program).arg(input).args(limits(&folders)));
    }
    let report = fuzz(arguments.target, &program, &folders, Mode::of(arguments))?;
    eprintln!("fuzz: {report}");
    Ok(())
}

type Outcome = (Target, Result<Report>);

/// The targets of the gate while they run.
pub(crate) struct Gate {
    targets: Vec<Target>,
    outcomes: Option<Background<Vec<Outcome>>>,
}

/// Builds every target whose test name contains `filter`, and begins to run them.
pub(crate) fn start(filter: Option<&str>) -> Gate {
    let wanted = |target: &Target| filter.is_none_or(|filter| test_name(*target).contains(filter));
    let targets: Vec<Target> = Target::value_variants().iter().copied().filter(wanted).collect();
    let outcomes = (!targets.is_empty()).then(|| {
        let programs = build();
        let targets = targets.clone();
        Background::start(move || Ok(fuzz_all(&targets, &programs?)))
    });
    Gate { targets, outcomes }
}

fn fuzz_all(targets: &[Target], programs: &Path) -> Vec<Outcome> {
    let waiting = Mutex::new(targets.iter());
    let outcomes = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..PARALLEL.min(targets.len()) {
            scope.spawn(|| {
                while let Some(target) = next(&waiting) {
                    let outcome = fuzz_as_test(target, programs);
                    outcomes
                        .lock()
                        .expect("no thread panics while it holds the lock")
                        .push((target, outcome));
                }
            });
        }
    });
    outcomes.into_inner().expect("no thread panics while it holds the lock")
}

/// Waits for them and prints a line for each. Returns the numbers of passed and failed ones.
pub(crate) fn finish(gate: Gate) -> (u64, u64) {
    let Gate { targets, outcomes: Some(outcomes) } = gate else { return (0, 0) };
    let outcomes = outcomes.wait();
    println!("\nfuzzed {} targets with a fixed seed, {PARALLEL} in parallel", targets.len());
    match outcomes {
        Ok(outcomes) => {
            outcomes.iter().for_each(|(target, outcome)| print_result(*target, outcome));
            let failed = outcomes.iter().filter(|(_, outcome)| outcome.is_err()).count() as u64;
            (outcomes.len() as u64 - failed, failed)
        }
        Err(error) => {
            // Each of them is a test that did not run.
            for target in &targets {
                println!(
                    "test {} ... FAILED\ncould not build the fuzz targets: {error:#}",
                    test_name(*target)
                );
            }
            (0, targets.len() as u64)
        }
    }
}

fn next(waiting: &Mutex<std::slice::Iter<'_, Target>>) -> Option<Target> {
    waiting.lock().expect("no thread panics while it holds the lock").next().copied()
}

fn fuzz_as_test(target: Target, programs: &Path) -> Result<Report> {
    fuzz(target, &programs.join(name(target)), &Folders::of(target)?, Mode::Gate)
}

fn print_result(target: Target, outcome: &Result<Report>) {
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

/// Builds all targets and returns the folder with the programs.
fn build() -> Result<PathBuf> {
    let mut cargo = sh::cargo();
    cargo.args(["build", "--package", "shield-fuzz", "--package", "shield-agent-fuzz"]);
    instrument::instrument(&mut cargo, &folder())?;
    sh::run(&mut cargo)?;
    Ok(sh::root_folder().join(Profile::Dev.folder()))
}

/// The files and folders of one target's run.
struct Folders {
    seeds: PathBuf,
    corpus: PathBuf,
    findings: PathBuf,
    log: PathBuf,
}

impl Folders {
    fn of(target: Target) -> Result<Self> {
        let folder = sh::root_folder().join(folder());
        let of = |kind: &str| folder.join(kind).join(name(target));
        let folders = Self {
            seeds: of("seeds"),
            corpus: of("corpus"),
            findings: of("findings"),
            log: folder.join(format!("{}.log", name(target))),
        };
        // Those of another version would remain.
        if folders.seeds.exists() {
            fs::remove_dir_all(&folders.seeds)
                .with_context(|| format!("could not remove {}", folders.seeds.display()))?;
        }
        for path in [&folders.seeds, &folders.corpus, &folders.findings] {
            fs::create_dir_all(path).with_context(|| format!("could not create {}", path.display()))?;
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

/// The result of a run without a failure.
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

fn fuzz(target: Target, program: &Path, folders: &Folders, mode: Mode) -> Result<Report> {
    let log =
        File::create(&folders.log).with_context(|| format!("could not create {}", folders.log.display()))?;
    eprintln!("fuzz: running {} {}, log in {}", name(target), mode.shown(target), folders.log.display());
    let mut command = Command::new(program);
    command.args(mode.arguments(target, folders)).args(limits(folders));
    command.env("SHIELD_FUZZ_SEEDS", &folders.seeds).stderr(log);
    command.envs(KEEP_MEMORY.map(|name| (name, KEPT_BYTES.to_string())));
    let status = sh::status(&mut command)?;
    let output =
        fs::read(&folders.log).with_context(|| format!("could not read {}", folders.log.display()))?;
    let output = String::from_utf8_lossy(&output);
    if !status.success() {
        bail!("{}", describe_failure(target, &output, folders));
    }
    let report = Report::parse(&output)
        .with_context(|| format!("could not find the result in {}", folders.log.display()))?;
    if report.inputs == 0 || report.edges == 0 {
        bail!("{} ran without effect: {report}; see {}", name(target), folders.log.display());
    }
    if mode == Mode::Gate && report.inputs < target.gate_inputs() {
        bail!("{} ended early: {report}; see {}", name(target), folders.log.display());
    }
    Ok(report)
}

impl Report {
    /// Parses libFuzzer's output: `stat::number_of_executed_units: N` and the last `cov: N`.
    fn parse(output: &str) -> Option<Self> {
        let number = |text: &str| text.split_whitespace().next()?.parse().ok();
        let (_, inputs) = output.rsplit_once("stat::number_of_executed_units:")?;
        let edges = output.rsplit_once(" cov: ").map_or(Some(0), |(_, edges)| number(edges));
        Some(Self { inputs: number(inputs)?, edges: edges? })
    }
}

/// Describes a failure: the panic, the path of the input, and the command that reproduces it.
fn describe_failure(target: Target, output: &str, folders: &Folders) -> String {
    let panic = output.find("panicked at").map_or("", |at| &output[at..]);
    let message: Vec<&str> = panic
        .lines()
        .take_while(|line| !line.contains("== ERROR") && *line != "stack backtrace:")
        .take(8)
        .collect();
    let input = output.rsplit_once("Test unit written to ").and_then(|(_, path)| path.lines().next());
    let rerun = input.map_or_else(String::new, |path| {
        format!("\ninput: {path}\nrun it again: cargo xtask fuzz {} --input {path}", name(target))
    });
    let findings = folders.findings.display();
    format!("{} failed: {}{rerun}\nfailing inputs are kept in {findings}", name(target), message.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_runs_result_is_read_and_a_run_without_one_is_none() {
        let output = "#12 NEW cov: 3 ft: 4\n#99\tDONE   cov: 606 ft: 20 corp: 4/3b\nstat::number_of_executed_units: 126212\n";
        assert_eq!(Report::parse(output), Some(Report { inputs: 126_212, edges: 606 }));
        assert_eq!(Report::parse("stat::number_of_executed_units: 0"), Some(Report { inputs: 0, edges: 0 }));
        assert_eq!(Report::parse("INFO: Seed: 1"), None);
    }

    #[test]
    fn every_target_has_a_program() {
        let named: Vec<String> = Target::value_variants().iter().map(|target| name(*target)).collect();
        let folders = ["tests/fuzz/src/bin", "tests/fuzz/agent/src/bin"];
        let programs =
            folders.iter().flat_map(|folder| fs::read_dir(sh::root_folder().join(folder)).unwrap());
        let mut there: Vec<String> = programs
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
        let output = "thread 'x' panicked at src/a.rs:1:2:\nwrong\n== ERROR: libFuzzer\nTest unit written to target/f/crash-1\n";
        let text = describe_failure(Target::Json, output, &folders);
        assert!(text.contains("panicked at src/a.rs:1:2:\nwrong\n"), "{text}");
        assert!(text.contains("again: cargo xtask fuzz json --input target/f/crash-1"), "{text}");
        assert!(text.contains("kept in target/fuzz/findings/json"), "{text}");
    }
}
