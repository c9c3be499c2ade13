//! Every processor is busy with something else: processes that only count, at the usual priority, for a limited time.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;

use crate::environment::{Environment, Part, Process, started};
use crate::guard;
use crate::launch::{self, Start};

/// They end by themselves after this, also if nobody recovers the environment.
const AT_MOST: Duration = Duration::from_secs(120);
/// More of them would show no more.
const MOST_THREADS: usize = 64;
/// SIGKILL takes effect when the kernel next runs the process.
const END_WITHIN_MS: u16 = 10_000;

/// Starts one process that keeps all processors busy.
pub(super) fn start(environment: &mut Environment, server: &str) -> Result<String> {
    if let Some(running) = running(environment, server).first() {
        return Ok(format!("the processors are busy already (process {})", running.pid));
    }
    let secs = AT_MOST.as_secs().to_string();
    let arguments = ["lab", "load", "--seconds", &secs].iter().map(ToString::to_string).collect();
    // The program of the environment's agent, which need not be this one.
    let program = launch::start_of(environment, Part::Agent, server)?.program;
    let start = Start { program, arguments, variables: vec![] };
    let process = launch::part(environment, Part::Outage, server, start)?;
    Ok(format!("every processor is busy for {secs} s (process {})", process.pid))
}

/// Ends it.
pub(super) fn end(environment: &mut Environment, server: &str) -> Result<Vec<String>> {
    let mut said = Vec::new();
    for process in running(environment, server) {
        let load = guard::process(environment, &process)?;
        load.signal(Signal::KILL)?;
        ensure!(load.wait_for_end(END_WITHIN_MS)?, "could not see the end of process {}", process.pid);
        said.push(format!("the processors were busy with process {}, which was ended", process.pid));
    }
    Ok(said)
}

/// The loads that run on the machine now, also those that are not in the environment's file.
fn running(environment: &Environment, server: &str) -> Vec<Process> {
    let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let of_pid = |pid| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
        let is_load = words.get(1..3)? == [&b"lab"[..], b"load"];
        let started = started(pid).filter(|_| is_load)?;
        Some(Process { part: Part::Outage, machine: server.to_owned(), pid, started })
    };
    // Those of other environments are refused by the guard.
    pids.filter_map(of_pid).filter(|process| guard::process(environment, process).is_ok()).collect()
}

/// Keeps as many threads busy as there are processors, for so long at the most. The program of the outage `stress`.
///
/// # Errors
/// Fails if no thread can be started.
pub fn run(seconds: u64) -> Result<()> {
    let end = Instant::now() + Duration::from_secs(seconds).min(AT_MOST);
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(MOST_THREADS);
    let start = |_| std::thread::Builder::new().name("load".to_owned()).spawn(move || count_until(end));
    let threads: Vec<_> =
        (0..threads).map(start).collect::<std::io::Result<_>>().context("could not start a thread")?;
    for thread in threads {
        let _ = thread.join();
    }
    Ok(())
}

fn count_until(end: Instant) {
    let mut number = 0_u64;
    while Instant::now() < end {
        for _ in 0..100_000 {
            number = std::hint::black_box(number.wrapping_add(1));
        }
    }
}
