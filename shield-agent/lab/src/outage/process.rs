//! The server's processes end or stand still.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;

use crate::environment::{Environment, Part, Process, Stat, started};
use crate::{guard, launch};

use super::{log, slack};

/// SIGKILL takes effect when the kernel next runs the process, on a busy machine a while later.
const END_WITHIN_MS: u16 = 10_000;
/// Those of a server, in the order in which they are started again.
const PARTS: [Part; 3] = [Part::App, Part::Nginx, Part::Agent];

/// Kills the agent, as a fault of its own or the kernel's lack of memory would.
pub(super) fn crash(environment: &Environment, server: &str) -> Result<String> {
    let agent = guard::process(environment, of(environment, Part::Agent, server)?)?;
    agent.signal(Signal::KILL)?;
    ensure!(agent.wait_for_end(END_WITHIN_MS)?, "could not see the end of process {}", agent.pid());
    Ok(format!("the agent on {server} was killed (process {})", agent.pid()))
}

/// Stops the agent, as a debugger or a machine without a processor for it would.
pub(super) fn pause(environment: &Environment, server: &str) -> Result<String> {
    let process = of(environment, Part::Agent, server)?;
    let agent = guard::process(environment, process)?;
    agent.signal(Signal::STOP)?;
    // Whoever recovers at once must find it stopped.
    let deadline = Instant::now() + Duration::from_millis(END_WITHIN_MS.into());
    while !is_stopped(process) {
        ensure!(Instant::now() < deadline, "could not see process {} stand still", agent.pid());
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(format!("the agent on {server} stands still (process {})", agent.pid()))
}

/// Lets every stopped process go on.
pub(super) fn go_on(environment: &Environment, server: &str) -> Result<Vec<String>> {
    let mut said = Vec::new();
    for process in environment.processes.iter().filter(|process| process.machine == server) {
        if is_stopped(process) {
            guard::process(environment, process)?.signal(Signal::CONT)?;
            said.push(format!("{} on {server} stood still and goes on", process.part.name()));
        }
    }
    Ok(said)
}

/// Starts those again that have ended.
pub(super) fn start_again(environment: &mut Environment, server: &str) -> Result<Vec<String>> {
    let mut said = Vec::new();
    for part in PARTS {
        let was_started = environment.start_of(server, part).exists();
        let runs = environment
            .processes
            .iter()
            .any(|process| is(process, part, server) && process.is_alive(&environment.id));
        if was_started && !runs {
            end_orphans(environment, part, server)?;
            launch::again(environment, part, server)?;
            await_work(environment, part, server)?;
            said.push(format!("{} on {server} had ended and was started again", part.name()));
        }
    }
    Ok(said)
}

/// Waits until a process that was started does what the next steps ask of it: the app answers, nginx has opened its log. What the
/// agent lacks, its health says.
fn await_work(environment: &Environment, part: Part, server: &str) -> Result<()> {
    let deadline = Instant::now() + Duration::from_millis(END_WITHIN_MS.into());
    loop {
        let works = match part {
            Part::App => slack::answers(environment, server),
            Part::Nginx => log::is_written(environment, server)?,
            _ => true,
        };
        if works {
            return Ok(());
        }
        let is_late = Instant::now() >= deadline;
        ensure!(!is_late, "could not see {} on {server} work after it was started again", part.name());
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Ends what a process left behind: without their master, nginx' workers go on and hold its ports.
fn end_orphans(environment: &Environment, part: Part, server: &str) -> Result<()> {
    let gone = of(environment, part, server)?;
    for pid in members_of_group(gone.pid)? {
        let Some(started) = started(pid) else { continue };
        let orphan = guard::process(environment, &Process { pid, started, ..gone.clone() })?;
        orphan.signal(Signal::KILL)?;
        ensure!(orphan.wait_for_end(END_WITHIN_MS)?, "could not see the end of process {pid}");
    }
    Ok(())
}

/// The processes that run in this group. Each part is started in a group of its own.
fn members_of_group(group: u32) -> Result<Vec<u32>> {
    let entries = fs::read_dir("/proc").context("could not list /proc")?;
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    Ok(pids.filter(|pid| group_of(*pid) == Some(group)).collect())
}

fn group_of(pid: u32) -> Option<u32> {
    // A process that has ended and is not waited for holds nothing.
    Stat::of(pid).filter(|stat| !stat.is_over()).map(|stat| stat.group)
}

/// The latest process that does this on the machine.
pub(super) fn of<'a>(environment: &'a Environment, part: Part, machine: &str) -> Result<&'a Process> {
    let found = environment.processes.iter().rev().find(|process| is(process, part, machine));
    found.with_context(|| format!("could not find {} on {machine}: it was never started", part.name()))
}

fn is(process: &Process, part: Part, machine: &str) -> bool {
    process.part == part && process.machine == machine
}

fn is_stopped(process: &Process) -> bool {
    Stat::of(process.pid).is_some_and(|stat| stat.is_stopped())
}
