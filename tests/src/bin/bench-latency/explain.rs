//! Why a ban was late (`--explain-slow`): which stage took the time, and what each thread of the agent did meanwhile: ran, or
//! waited for a processor. The machine's own stalls show as pauses of the watcher, which sleeps a tenth of a millisecond at a time
//! at the highest priority.
//!
//! The stages are trace events of the agent, in its log; the rest is the kernel's accounting.

use std::collections::BTreeMap;
use std::fs;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use nix::time::{ClockId, clock_gettime};
use shield_tests::agent::Home;

/// A thread that ran or waited for less is left out.
const WORTH_SAYING_MS: f64 = 0.2;

/// What the kernel has accounted for until a moment.
pub(crate) struct Accounts {
    threads: BTreeMap<u32, Thread>,
    /// Microseconds in which something waited for a processor, and for the disk.
    pressure: [Option<u64>; 2],
    /// Ticks that the hypervisor gave to others, and processes that were started.
    stolen: u64,
    processes: u64,
    at: Instant,
}

#[derive(Clone)]
struct Thread {
    name: String,
    ran_ns: u64,
    waited_ns: u64,
}

impl Accounts {
    /// Reads them for a process and for the machine.
    pub(crate) fn read(pid: u32) -> Result<Accounts> {
        let mut threads = BTreeMap::new();
        for task in fs::read_dir(format!("/proc/{pid}/task")).context("could not list the agent's threads")? {
            let path = task.context("could not list the agent's threads")?.path();
            let id = path.file_name().and_then(|name| name.to_str()?.parse().ok());
            // A thread may have ended since it was listed.
            let (Some(id), Ok(name), Ok(account)) =
                (id, fs::read_to_string(path.join("comm")), fs::read_to_string(path.join("schedstat")))
            else {
                continue;
            };
            let mut fields = account.split_whitespace().map_while(|field| field.parse().ok());
            let (ran_ns, waited_ns) = (fields.next().unwrap_or(0), fields.next().unwrap_or(0));
            threads.insert(id, Thread { name: name.trim().to_owned(), ran_ns, waited_ns });
        }
        let stat = fs::read_to_string("/proc/stat").context("could not read /proc/stat")?;
        let figure = |line: &str, at: usize| {
            let line = stat.lines().find(|found| found.split_whitespace().next() == Some(line));
            line.and_then(|line| line.split_whitespace().nth(at)?.parse().ok()).unwrap_or(0)
        };
        Ok(Accounts {
            threads,
            pressure: ["cpu", "io"].map(pressure),
            stolen: figure("cpu", 8),
            processes: figure("processes", 1),
            at: Instant::now(),
        })
    }

    /// What happened between `self` and `after`, in words, a line each.
    pub(crate) fn until(&self, after: &Accounts) -> Vec<String> {
        let mut lines = Vec::new();
        for (id, thread) in &after.threads {
            let before = self.threads.get(id);
            let ran = ms(thread.ran_ns - before.map_or(0, |before| before.ran_ns));
            let waited = ms(thread.waited_ns - before.map_or(0, |before| before.waited_ns));
            if ran >= WORTH_SAYING_MS || waited >= WORTH_SAYING_MS {
                lines.push(format!(
                    "thread {}: ran {ran:.2} ms, waited {waited:.2} ms for a processor",
                    thread.name
                ));
            }
        }
        let waited = |at: usize| Some(after.pressure[at]? - self.pressure[at]?);
        let words =
            |at| waited(at).map_or("unknown".to_owned(), |us: u64| format!("{:.2} ms", us as f64 / 1e3));
        lines.push(format!(
            "machine, in {:.1} ms: something waited for a processor {}, for the disk {}; {} ticks stolen, {} processes started",
            (after.at - self.at).as_secs_f64() * 1e3,
            words(0),
            words(1),
            after.stolen - self.stolen,
            after.processes - self.processes,
        ));
        lines
    }
}

fn ms(ns: u64) -> f64 {
    ns as f64 / 1e6
}

/// The kernel's total of stalls; `None` where it does not keep it.
fn pressure(of: &str) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/pressure/{of}")).ok()?;
    text.lines().find_map(|line| line.strip_prefix("some ")?.split("total=").nth(1)?.trim().parse().ok())
}

/// A ban that was late.
pub(crate) struct Slow {
    pub client: Ipv4Addr,
    /// When its lines were written, on the monotonic clock.
    pub written_us: i64,
    pub took_ms: f64,
    /// The longest time between two looks of the watcher.
    pub longest_pause: Duration,
    pub meanwhile: Vec<String>,
}

/// The monotonic clock, on which the agent's stages are.
pub(crate) fn now_us() -> Result<i64> {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC).context("could not read the monotonic clock")?;
    Ok(time.tv_sec() * 1_000_000 + time.tv_nsec() / 1_000)
}

/// Makes the agent log the stages of each ban.
pub(crate) fn ask_for_stages(home: &Home) -> Result<()> {
    let path = home.config();
    let text = fs::read_to_string(&path).context("could not read the agent's configuration")?;
    let text = text.replacen("log = \"info\"", "log = \"info,stages=trace\"", 1);
    fs::write(&path, text).context("could not write the agent's configuration")
}

/// Prints what is known of each ban that was late.
pub(crate) fn print(home: &Home, slow: &[Slow]) {
    let log = home.log();
    for ban in slow {
        println!("{} took {:.2} ms:", ban.client, ban.took_ms);
        let mut before_us = ban.written_us;
        for (stage, at_us) in stages(&log, ban.client) {
            println!("  +{:>7.2} ms  {stage}", (at_us - before_us) as f64 / 1e3);
            before_us = at_us;
        }
        let end_us = ban.written_us + (ban.took_ms * 1e3) as i64;
        println!("  {:>8.2} ms  from there until it was seen", (end_us - before_us) as f64 / 1e3);
        println!("  the watcher's longest pause: {:.2} ms", ban.longest_pause.as_secs_f64() * 1e3);
        ban.meanwhile.iter().for_each(|line| println!("  {line}"));
    }
}

/// The stages of a client's ban until XDP held it, with their times.
fn stages(log: &str, client: Ipv4Addr) -> Vec<(String, i64)> {
    let field = |line: &str, name: &str| {
        let (_, rest) = line.split_once(&format!("{name}="))?;
        Some(rest.split_whitespace().next().unwrap_or_default().to_owned())
    };
    let of = client.to_string();
    let mut stages = Vec::new();
    for line in log.lines().filter(|line| line.contains("TRACE")) {
        let Some((_, said)) = line.split_once("TRACE ") else { continue };
        if field(line, "client").as_deref() != Some(&of) {
            continue;
        }
        let stage = said.split(" client=").next().unwrap_or_default().trim();
        let delivered = field(line, "delivered_us").and_then(|at| at.parse().ok());
        stages.extend(delivered.map(|at| ("read and parsed".to_owned(), at)));
        if !stage.ends_with("iptables") {
            stages
                .extend(field(line, "at_us").and_then(|at| at.parse().ok()).map(|at| (stage.to_owned(), at)));
        }
    }
    stages
}
