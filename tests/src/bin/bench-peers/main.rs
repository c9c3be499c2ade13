//! `cargo xtask bench peers`: fail2ban, CrowdSec, GoAccess, xdp-filter and Shield, one after the other on the same machine, with the
//! same log and the same attack. Each is set up as its own documentation and Debian's package say, in namespaces made for it.
//!
//! `town` is where they are measured, from outside; `peers` is how each is started and asked. Whatever cannot be measured is named in
//! the table with the reason.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "the table is this program's result")]

mod peers;
mod town;

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Parser;
use nix::sys::resource::{UsageWho, getrusage};
use serde::Serialize;

use peers::{CrowdSec, Fail2ban, GoAccess, Peer, Shield, XdpFilter};
use town::{Town, attacker, banned};

/// For one reading, for one ban, and for putting many bans in force.
const READING: Duration = Duration::from_secs(60);
const LATENCY: Duration = Duration::from_secs(30);
const BANNING: Duration = Duration::from_secs(40);

/// Attackers begin so far apart.
const APART: Duration = Duration::from_millis(400);

/// Round trips in a slice, and slices with and without the program by turns.
const TRIPS: usize = 2_000;
const SLICES: usize = 5;

#[derive(Parser)]
#[command(about = "Shield beside fail2ban, CrowdSec, GoAccess and xdp-filter")]
struct Arguments {
    /// Print one JSON object per line instead of a table
    #[arg(long)]
    json: bool,
    /// Only these, by name
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Lines of the log that is read
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1_000..=2_000_000))]
    lines: u32,
    /// Attackers in each of the two cases
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u8).range(1..=100))]
    attackers: u8,
    /// Lines a second of others in the loaded case
    #[arg(long, default_value_t = 5_000, value_parser = clap::value_parser!(u32).range(50..=200_000))]
    load: u32,
    /// Run this as a child and print its peak memory: for this program's own use
    #[arg(long, hide = true, num_args = 1.., allow_hyphen_values = true)]
    measure: Vec<String>,
}

/// What was measured of one program, each as it stands in the table.
#[derive(Debug, Serialize)]
struct Row {
    name: &'static str,
    version: String,
    reading: String,
    at_rest: String,
    under_load: String,
    bans_10k: String,
    bans_100k: String,
    restart: String,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    if !arguments.measure.is_empty() {
        return measure_child(&arguments.measure);
    }
    let folder = tempfile::tempdir().context("could not create a folder for the log")?;
    let log = folder.path().join("read.log");
    town::write_log(&log, arguments.lines)?;
    let all: [Box<dyn Peer>; 5] = [
        Box::new(Shield::default()),
        Box::new(Fail2ban::default()),
        Box::new(CrowdSec::default()),
        Box::new(GoAccess),
        Box::new(XdpFilter),
    ];
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let mut rows = Vec::new();
    for mut peer in all {
        let is_wanted = |name: &String| name.eq_ignore_ascii_case(peer.name());
        if arguments.only.is_empty() || arguments.only.iter().any(is_wanted) {
            eprintln!("measuring {}", peer.name());
            rows.push(measure(&mut *peer, &log, &arguments)?);
        }
    }
    print(&rows, arguments.json, load.trim())
}

/// What a row says in one column.
type Cell = fn(&Row) -> &str;

fn print(rows: &[Row], as_json: bool, load: &str) -> Result<()> {
    if as_json {
        for row in rows {
            println!("{}", serde_json::to_string(row)?);
        }
        return Ok(());
    }
    let columns: [(&str, Cell); 6] = [
        ("reads, lines/s (peak MB)", |row| &row.reading),
        ("ban at rest, ms: p50 / p99 / max", |row| &row.at_rest),
        ("ban under load", |row| &row.under_load),
        ("10,000 bans: a visitor's round trip", |row| &row.bans_10k),
        ("100,000 bans", |row| &row.bans_100k),
        ("100,000 bans in force after a restart", |row| &row.restart),
    ];
    println!("load average before: {load}\n");
    let heads: Vec<String> = rows.iter().map(|row| format!("{} {}", row.name, row.version)).collect();
    println!("| | {} |", heads.join(" | "));
    println!("| --- |{}", " --- |".repeat(rows.len()));
    for (title, cell) in columns {
        let cells: Vec<&str> = rows.iter().map(cell).collect();
        println!("| {title} | {} |", cells.join(" | "));
    }
    Ok(())
}

/// What was measured, or why it was not.
fn cell(what: &str, measured: Result<String>) -> String {
    measured.unwrap_or_else(|error| {
        eprintln!("  {what}: {error:#}");
        let text = format!("{error:#}").replace(['\n', '|'], " ");
        let short: String = text.chars().take(120).collect();
        format!("- ({short})")
    })
}

fn measure(peer: &mut dyn Peer, log: &Path, arguments: &Arguments) -> Result<Row> {
    let version = cell("version", peer.version());
    let reading = cell("reading", read(peer, log, arguments.lines));
    let [at_rest, under_load] = match latencies(peer, arguments) {
        Ok(cells) => cells,
        Err(error) => [cell("latency", Err(error)), "-".to_owned()],
    };
    let some = cost(peer, 10_000, false);
    // Whoever does not hold these in time does not hold more.
    let is_worth_it = some.as_ref().is_ok_and(|cost| cost.is_whole);
    let many = is_worth_it.then(|| cost(peer, 100_000, true));
    let bans_10k = cell("10,000 bans", some.map(|cost| cost.text));
    let (bans_100k, restart) = match many {
        Some(Ok(cost)) => (cost.text, cost.restart),
        Some(Err(error)) => (cell("100,000 bans", Err(error)), "-".to_owned()),
        None => ("-".to_owned(), "-".to_owned()),
    };
    Ok(Row { name: peer.name(), version, reading, at_rest, under_load, bans_10k, bans_100k, restart })
}

/// Reads the log as a child of a child, whose peak memory is then that of no other.
fn read(peer: &dyn Peer, log: &Path, lines: u32) -> Result<String> {
    let town = Town::create()?;
    let reader = peer.reader(&town, log)?;
    let own = std::env::current_exe().context("could not find this program")?;
    let mut command = std::process::Command::new(own);
    command.arg("--measure").arg(reader.get_program()).args(reader.get_args());
    command.envs(reader.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.current_dir(log.parent().context("could not find the log's folder")?);
    command.env("RUST_BACKTRACE", "0").stdin(Stdio::null());
    let done = town.server.enter(|| command.output()).context("could not start this program")?;
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    let last = said.lines().last().unwrap_or_default();
    let why = String::from_utf8_lossy(&done.stderr);
    ensure!(done.status.success(), "{}", why.trim().trim_start_matches("Error: "));
    let (secs, kib) = last.split_once(' ').context("could not understand the measurement")?;
    let (secs, kib): (f64, f64) = (secs.parse()?, kib.parse()?);
    Ok(format!("{:.0} ({:.0})", f64::from(lines) / secs, kib / 1024.0))
}

/// Prints the seconds that a command takes and the most memory that it had, in KiB.
fn measure_child(words: &[String]) -> Result<()> {
    let (program, arguments) = words.split_first().context("could not run an empty command line")?;
    let mut command = std::process::Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let began = Instant::now();
    let mut child =
        command.spawn().with_context(|| format!("could not start {program}: is it installed?"))?;
    let mut errors = child.stderr.take().context("could not read what it says")?;
    let said = std::thread::spawn(move || {
        let mut said = Vec::new();
        let _ = std::io::Read::read_to_end(&mut errors, &mut said);
        String::from_utf8_lossy(&said).into_owned()
    });
    loop {
        if let Some(status) = child.try_wait().context("could not wait for it")? {
            let took = began.elapsed().as_secs_f64();
            let said = said.join().unwrap_or_default();
            ensure!(
                status.success(),
                "{program} failed ({status}): {}",
                said.lines().last().unwrap_or_default()
            );
            let peak = getrusage(UsageWho::RUSAGE_CHILDREN).context("could not get its memory")?.max_rss();
            println!("{took} {peak}");
            return Ok(());
        }
        if began.elapsed() > READING {
            child.kill().context("could not end it")?;
            bail!("not done after {} s", READING.as_secs());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Latencies of bans at rest and under load, with the program freshly started for both.
fn latencies(peer: &mut dyn Peer, arguments: &Arguments) -> Result<[String; 2]> {
    let town = Town::create()?;
    // Without a log there is nothing to be late with.
    let _ = peer.reader(&town, &town.log)?;
    peer.start(&town)?;
    // The first ban of all makes chains, sets and caches.
    town.attack(attacker(9), LATENCY)?;
    let at_rest = cell("at rest", attacks(&town, 10, arguments.attackers));
    let load = town.load(arguments.load)?;
    std::thread::sleep(Duration::from_secs(3));
    let under_load = cell("under load", attacks(&town, 10 + arguments.attackers, arguments.attackers));
    drop(load);
    let stopped = peer.stop(&town);
    stopped.map(|()| [at_rest, under_load])
}

/// Attackers who begin one after another, whether those before them are banned or not.
fn attacks(town: &Town, first: u8, count: u8) -> Result<String> {
    let taken: Result<Vec<Option<f64>>> = std::thread::scope(|scope| {
        let attacks: Vec<_> = (first..first + count)
            .map(|number| {
                let attack = scope.spawn(move || town.attack(attacker(number), LATENCY));
                std::thread::sleep(APART);
                attack
            })
            .collect();
        attacks
            .into_iter()
            .map(|attack| attack.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    });
    let taken = taken?;
    let mut ms: Vec<f64> = taken.iter().flatten().copied().collect();
    let missed = taken.len() - ms.len();
    ensure!(!ms.is_empty(), "nobody was banned within {} s", LATENCY.as_secs());
    ms.sort_by(f64::total_cmp);
    let quantile = |share: f64| ms[((ms.len() as f64 * share).ceil() as usize).clamp(1, ms.len()) - 1];
    let late = if missed > 0 {
        format!(", {missed} of {count} not within {} s", LATENCY.as_secs())
    } else {
        String::new()
    };
    Ok(format!("{:.0} / {:.0} / {:.0}{late}", quantile(0.5), quantile(0.99), quantile(1.0)))
}

/// What so many bans cost.
struct Cost {
    text: String,
    /// Whether all were in force in time.
    is_whole: bool,
    restart: String,
}

/// What so many bans cost a visitor, beside the same two machines without the program; and how long a restart takes until a sample of
/// them is in force again.
fn cost(peer: &mut dyn Peer, count: u32, with_restart: bool) -> Result<Cost> {
    let (town, empty) = (Town::create()?, Town::create()?);
    peer.start(&town)?;
    let began = Instant::now();
    let held = peer.ban(&town, count, BANNING)?;
    let took = began.elapsed().as_secs_f64();
    let (mut with, mut without) = (Vec::new(), Vec::new());
    for _ in 0..SLICES {
        with.push(town.round_trip_us(TRIPS)?);
        without.push(empty.round_trip_us(TRIPS)?);
    }
    let (with, without) = (median(&mut with), median(&mut without));
    let is_whole = held >= count;
    let held = if is_whole { String::new() } else { format!("{held} ") };
    let text = format!("{with:.1} us, {:.2}x ({held}in {took:.1} s)", with / without);
    let restart = match is_whole && with_restart {
        true => cell("restart", restarted(peer, &town, count)),
        false => "-".to_owned(),
    };
    peer.stop(&town)?;
    Ok(Cost { text, is_whole, restart })
}

/// Seconds from the start of the program, after everything in the kernel is gone, until a sample of the bans is in force.
fn restarted(peer: &mut dyn Peer, town: &Town, count: u32) -> Result<String> {
    peer.stop(town)?;
    let sample: Vec<_> = banned(count).skip(count as usize / 20 - 1).step_by(count as usize / 20).collect();
    ensure!(sample.iter().all(|address| town.is_served(*address)), "a ban was left in the kernel");
    let began = Instant::now();
    peer.start(town)?;
    while sample.iter().any(|address| town.is_served(*address)) {
        ensure!(began.elapsed() < BANNING, "not after {} s", BANNING.as_secs());
    }
    Ok(format!("{:.1} s", began.elapsed().as_secs_f64()))
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
