//! `cargo xtask bench idle`: the CPU time and memory of an almost idle agent. A real agent in a namespace and in the shipped unit's
//! sandbox runs with all its parts on and one log line every few seconds; the figures come from the kernel's accounting.

#![expect(clippy::print_stdout, reason = "the figures are this program's result")]

use std::fs::File;
use std::io::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use serde::Serialize;
use shield_agent::test_support::clock;
use shield_tests::agent::Agent;
use shield_tests::process::{cpu_secs, memory_mib};
use shield_tests::site::Site;

/// Time between two log lines.
const VISIT_INTERVAL: Duration = Duration::from_secs(5);

/// Pause before the measurement, because the agent's start is not idle: ten seconds after it the agent gives its memory back.
const SETTLE: Duration = Duration::from_secs(15);

#[derive(Parser)]
#[command(about = "CPU time and memory of an idle agent")]
struct Arguments {
    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,
    /// Duration of the measurement, in seconds
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
}

#[derive(Debug, Serialize)]
struct Row {
    seconds: u64,
    /// CPU time as a percentage of one core.
    core_percent: f64,
    /// Resident memory, mapped files included.
    resident_mib: f64,
    /// Resident anonymous memory.
    own_mib: f64,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let site = Site::create("")?;
    let agent = Agent::start_in_unit(&site.server, &site.home, &[])?;
    site.wait_until_protected()?;
    let mut log =
        File::options().append(true).open(site.nginx.access_log()).context("could not open the log")?;
    let row = watch(agent.pid(), &mut log, arguments.seconds)?;
    let stopped = agent.stop()?;
    ensure!(stopped.success(), "the agent ended with an error:\n{}", site.home.log());
    site.home.command(&site.server, &["cleanup"])?;
    if arguments.json {
        println!("{}", serde_json::to_string(&row)?);
    } else {
        println!("over {} s: {:.3} % of a core", row.seconds, row.core_percent);
        println!("resident {:.1} MiB, of which anonymous {:.1} MiB", row.resident_mib, row.own_mib);
    }
    Ok(())
}

fn watch(pid: u32, log: &mut File, seconds: u64) -> Result<Row> {
    visit(log)?;
    std::thread::sleep(SETTLE);
    let (before, began) = (cpu_secs(pid)?, Instant::now());
    while began.elapsed() < Duration::from_secs(seconds) {
        visit(log)?;
        std::thread::sleep(VISIT_INTERVAL.min(Duration::from_secs(seconds).saturating_sub(began.elapsed())));
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
    let time = jiff::Timestamp::from_second(clock::now().wall_secs())
        .context("could not format the present time")?;
    let time = time.strftime("%Y-%m-%dT%H:%M:%S+00:00");
    writeln!(
        log,
        r#"{{"source_ip":"198.51.100.7","timestamp":"{time}","method":"GET","path":"/","status":200,"response_size":512}}"#
    )
    .context("could not write to the log")
}
