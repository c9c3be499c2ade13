//! Starts the processes of an environment: in a machine's namespace, with the marker, in a session of their own, so that they
//! outlive whoever started them.

use std::ffi::OsString;
use std::fs::File;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use crate::environment::{self, Environment, MARKER, Part, Process};
use crate::guard;

/// Where the app listens.
pub const APP: &str = "127.0.0.1:8081";
/// Where what stands for Slack listens.
pub const SLACK: &str = "127.0.0.1:8082";
/// Names the program of which an environment's agent and app are started, in place of this one.
const BINARY: &str = "SHIELD_LAB_BINARY";
/// How the agent is told of its environment's clock.
pub const CLOCK: &str = "SHIELD_LAB_CLOCK";

/// A command line with what is added to its surroundings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Start {
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// Added to its surroundings.
    pub variables: Vec<(String, String)>,
}

/// The program of which the agent and the app of an environment are started: this one, unless a test names another.
///
/// # Errors
/// Fails if this program's own path cannot be read.
pub fn binary() -> Result<PathBuf> {
    match std::env::var_os(BINARY).map(OsString::into) {
        Some(path) => Ok(path),
        None => std::env::current_exe().context("could not get this program's own path"),
    }
}

/// Starts the agent on a machine.
///
/// # Errors
/// As for [`part`].
pub fn agent(environment: &mut Environment, machine: &str) -> Result<Process> {
    let text = |path: PathBuf| path.to_string_lossy().into_owned();
    let variables = vec![
        ("SHIELD_CONFIG".to_owned(), text(environment.config(machine))),
        ("SHIELD_SOCKET".to_owned(), text(environment.socket(machine))),
        (CLOCK.to_owned(), text(environment.clock(machine))),
    ];
    part(
        environment,
        Part::Agent,
        machine,
        Start { program: binary()?, arguments: vec!["run".to_owned()], variables },
    )
}

/// Starts the app behind nginx, and what stands for Slack, on a machine.
///
/// # Errors
/// As for [`part`].
pub fn app(environment: &mut Environment, machine: &str) -> Result<Process> {
    let arguments =
        ["lab", "app", "--listen", APP, "--slack", SLACK].iter().map(ToString::to_string).collect();
    part(environment, Part::App, machine, Start { program: binary()?, arguments, variables: vec![] })
}

/// Starts a process on a machine and adds it to the environment's file, in place of an ended one that did the same there. Its
/// output goes to the machine's folder, and how it was started as well.
///
/// # Errors
/// Fails if the machine or its folder is none of the environment's, or if the program cannot be started.
pub fn part(environment: &mut Environment, part: Part, machine: &str, start: Start) -> Result<Process> {
    let namespace = guard::namespace(environment, machine)?;
    let text = serde_json::to_string(&start).context("could not write down how a process is started")?;
    let written = guard::folder(environment)?.create(&environment.start_of(machine, part))?;
    written.truncate()?;
    written.overwrite(&text)?;
    let mut command = command(environment, machine, part, &start)?;
    let child = namespace.enter(|| command.spawn())?.with_context(|| {
        format!("could not start `{} {}`", start.program.display(), start.arguments.join(" "))
    })?;
    let pid = child.id();
    let started = environment::started(pid).with_context(|| {
        let output = environment.output(machine, part);
        format!("could not start {}: it ended at once, see {}", part.name(), output.display())
    })?;
    reap(child);
    let process = Process { part, machine: machine.to_owned(), pid, started };
    let id = environment.id.clone();
    environment.processes.retain(|old| old.part != part || old.machine != machine || old.is_alive(&id));
    environment.processes.push(process.clone());
    environment.write()?;
    Ok(process)
}

/// Starts a process again as it was started before.
///
/// # Errors
/// Fails if it never was, and as for [`part`].
pub fn again(environment: &mut Environment, what: Part, machine: &str) -> Result<Process> {
    let start = start_of(environment, what, machine)?;
    part(environment, what, machine, start)
}

/// How a process was started last.
pub(crate) fn start_of(environment: &Environment, what: Part, machine: &str) -> Result<Start> {
    let path = environment.start_of(machine, what);
    // What it names is run: through the guard, so that nobody else has written it.
    let text = guard::folder(environment)?.read(&path)?;
    serde_json::from_slice(&text).with_context(|| format!("could not read {}", path.display()))
}

fn command(environment: &Environment, machine: &str, part: Part, start: &Start) -> Result<Command> {
    let path = environment.output(machine, part);
    let output = File::options()
        .create(true)
        .append(true)
        .open(&path)
        .with_context(|| format!("could not open {}", path.display()))?;
    let both = output.try_clone().context("could not duplicate a log's descriptor")?;
    let mut command = Command::new(&start.program);
    command.args(&start.arguments).env(MARKER, &environment.id).envs(start.variables.iter().cloned());
    // A signal to whoever starts it, as Ctrl-C in a terminal, is none for it.
    command.process_group(0);
    command.stdin(Stdio::null()).stdout(output).stderr(both);
    Ok(command)
}

/// Waits for the end of a child, so that no zombie is left while this process goes on.
pub(crate) fn reap(mut child: std::process::Child) {
    // Without a thread it stays a zombie until this process ends, which is no harm.
    let _ = std::thread::Builder::new().name("reap".to_owned()).spawn(move || child.wait());
}
