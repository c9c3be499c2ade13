//! `cargo xtask bench idle`: what an agent costs that has next to nothing to do. A real one in a namespace with all its
//! parts on, and a line in the log every few seconds, is let alone for a while; then the kernel's own account is read.

#![expect(clippy::print_stdout, reason = "the figures are this program's result")]

use std::fs::File;
use std::io::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use serde::Serialize;
use shield_agent::test_support::clock;
use shield_tests::site::Site;

/// From one visitor to the next.
const VISIT_EVERY: Duration = Duration::from_secs(5);

/// How long it is let alone before it is measured: its start is not idleness.
const SETTLE: Duration = Duration::from_secs(5);

#[derive(Parser)]
#[command(about = "Processor time and memory of an idle agent")]
struct Arguments {
    /// One JSON object instead of a table
    #[arg(long)]
    json: bool,
    /// How long to look
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
}

#[derive(Debug, Serialize)]
struct Row {
    seconds: u64,
    /// Of one core.
    core_percent: f64,
    /// Resident memory, files mapped included.
    resident_mib: f64,
    /// Of that, what is its own.
    own_mib: f64,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let site = Site::create("")?;
    let agent = site.start_agent(&[])?;
    let mut log = File::options().append(true).open(site.nginx.access_log()).context("opened the log")?;
    let row = watch(agent.pid(), &mut log, arguments.seconds)?;
    let stopped = agent.stop()?;
    ensure!(stopped.success(), "the agent ended badly:\n{}", site.home.log());
    site.home.command(&site.server, &["cleanup"])?;
    if arguments.json {
        println!("{}", serde_json::to_string(&row)?);
    } else {
        println!("watched {} s: {:.3} % of a core", row.seconds, row.core_percent);
        println!("resident {:.1} MiB, of that its own {:.1} MiB", row.resident_mib, row.own_mib);
    }
    Ok(())
}

fn watch(pid: u32, log: &mut File, seconds: u64) -> Result<Row> {
    visit(log)?;
    std::thread::sleep(SETTLE);
    let (before, began) = (cpu_secs(pid)?, Instant::now());
    while began.elapsed() < Duration::from_secs(seconds) {
        visit(log)?;
        std::thread::sleep(VISIT_EVERY.min(Duration::from_secs(seconds).saturating_sub(began.elapsed())));
    }
    let used = cpu_secs(pid)? - before;
    let core_percent = 100.0 * used / began.elapsed().as_secs_f64();
    Ok(Row {
        seconds,
        core_percent: (core_percent * 1000.0).round() / 1000.0,
        resident_mib: memory_mib(pid, "VmRSS")?,
        own_mib: memory_mib(pid, "RssAnon")?,
    })
}

fn visit(log: &mut File) -> Result<()> {
    let time = jiff::Timestamp::from_second(clock::now().wall_secs()).context("now is a time")?;
    let time = time.strftime("%Y-%m-%dT%H:%M:%S+00:00");
    writeln!(
        log,
        r#"{{"source_ip":"198.51.100.7","timestamp":"{time}","method":"GET","path":"/","status":200,"response_size":512}}"#
    )
    .context("wrote the log")
}

/// User and system time of all threads, from the scheduler's account in nanoseconds: the classic one in ticks is too coarse.
fn cpu_secs(pid: u32) -> Result<f64> {
    let mut nanos = 0;
    for thread in std::fs::read_dir(format!("/proc/{pid}/task")).context("listed the agent's threads")? {
        let path = thread.context("listed the agent's threads")?.path().join("schedstat");
        // A thread may end meanwhile.
        let Ok(text) = std::fs::read_to_string(&path) else { continue };
        let first = text.split_whitespace().next().unwrap_or_default();
        nanos += first.parse::<u64>().with_context(|| format!("read {}", path.display()))?;
    }
    Ok(nanos as f64 / 1e9 + children_secs(pid)?)
}

/// User and system time of the programs that it ran and waited for (iptables, ipset), in whole ticks.
fn children_secs(pid: u32) -> Result<f64> {
    let path = format!("/proc/{pid}/stat");
    let text = std::fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    // The name, in parentheses, may hold spaces; `cutime` and `cstime` are the 14th and 15th fields behind it.
    let fields = text.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace();
    let ticks: f64 = fields.skip(13).take(2).filter_map(|field| field.parse::<f64>().ok()).sum();
    let per_sec =
        nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).context("asked for a tick's length")?;
    Ok(ticks / per_sec.context("ticks have a length")? as f64)
}

fn memory_mib(pid: u32, name: &str) -> Result<f64> {
    let path = format!("/proc/{pid}/status");
    let text = std::fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let kib =
        line.and_then(|line| line.split_whitespace().next()).with_context(|| format!("{name} in {path}"))?;
    Ok((kib.parse::<f64>().with_context(|| format!("{name} in {path}"))? / 102.4).round() / 10.0)
}
