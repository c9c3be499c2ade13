//! `cargo xtask bench policy`: what is asked beside the live engine, and what that costs.
//!
//! - `policy`: the time from a question about a ban until its answer is back in the owner's queue, through the policy's process, with
//!   the rules that are shipped. Other clients are judged meanwhile, so that it delays this ban and nothing else.
//! - `canary`: processor time of the live engine's thread a line, without and with a canary on the same lines, in turns in one run.
//!   The ratio may be 1.03 at most. A canary that cannot keep up with a log read at full speed leaves batches out, which is told.

#![expect(clippy::print_stdout, reason = "a benchmark prints its results")]

use std::fmt::Write as _;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use clap::Parser as _;
use nix::time::{ClockId, clock_gettime};
use serde::Serialize;
use shield_agent::test_support::beside::{self, Canary};
use shield_agent::test_support::owner::Owner;
use shield_agent::test_support::pipeline::{Handle, Message};
use shield_agent::test_support::source::{self, FirstStart, Pool};
use shield_engine::Engine;
use shield_engine::allowlist::Allowlist;
use shield_engine::policy::Policy;
use shield_engine::settings::Settings as EngineSettings;

/// The live path must not be slowed by more than this.
const MAX_RATIO: f64 = 1.03;

/// 2026-01-01T00:00:00Z.
const FIRST_SECOND: i64 = 1_767_225_600;
const LINES_PER_SEC: u64 = 5_000;

#[derive(clap::Parser)]
#[command(about = "The policy's time a ban, and what a canary costs the live engine")]
struct Arguments {
    /// Print one JSON object per line instead of a table
    #[arg(long)]
    json: bool,
    /// Bans that the policy is asked about
    #[arg(long, default_value_t = 10_000)]
    bans: u32,
    /// Lines of the generated log
    #[arg(long, default_value_t = 500_000)]
    lines: u64,
    /// Clients in it
    #[arg(long, default_value_t = 10_000)]
    clients: u64,
    /// Rounds without and with a canary; the best of each counts
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// Fail when the live path is slowed by more than 3 %
    #[arg(long)]
    strict: bool,
    /// The rules; default: those that are shipped
    #[arg(long)]
    rules: Option<PathBuf>,
}

#[derive(Serialize)]
#[serde(tag = "what", rename_all = "snake_case")]
enum Row {
    Policy {
        bans: u32,
        p50_us: f64,
        p99_us: f64,
        max_us: f64,
    },
    Canary {
        lines: u64,
        clients: u64,
        off_ns_per_line: f64,
        on_ns_per_line: f64,
        ratio: f64,
        judged_share: f64,
    },
}

fn main() -> Result<()> {
    // The policy's process is this program again.
    if std::env::args().nth(1).is_some_and(|word| word == beside::POLICY_WORKER) {
        return beside::policy_worker();
    }
    let arguments = Arguments::parse();
    let canary = canary(&arguments)?;
    for row in [policy(&arguments)?, canary] {
        match (&row, arguments.json) {
            (row, true) => println!("{}", serde_json::to_string(row)?),
            (Row::Policy { bans, p50_us, p99_us, max_us }, false) => {
                println!(
                    "policy: {bans} bans, p50 {p50_us:.0} us, p99 {p99_us:.0} us, longest {max_us:.0} us a ban"
                );
            }
            (Row::Canary { lines, clients, off_ns_per_line, on_ns_per_line, ratio, judged_share }, false) => {
                println!(
                    "canary: {lines} lines of {clients} clients, live engine {off_ns_per_line:.0} ns a line without and \
                 {on_ns_per_line:.0} ns with one: {ratio:.3} (at most {MAX_RATIO}); it judged {:.1} %",
                    judged_share * 100.0
                );
            }
        }
        if let Row::Canary { ratio, .. } = row {
            ensure!(
                !arguments.strict || ratio <= MAX_RATIO,
                "the live path is slowed by the factor {ratio:.3}"
            );
        }
    }
    Ok(())
}

fn policy(arguments: &Arguments) -> Result<Row> {
    let shipped = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/policy");
    let rules = arguments.rules.clone().unwrap_or_else(shipped);
    let mut took = beside::ask_about_bans(&rules, arguments.bans)?;
    took.sort_unstable();
    let micros = |share: f64| {
        let at = ((took.len() as f64 * share) as usize).min(took.len().saturating_sub(1));
        took.get(at).map_or(0.0, |took| took.as_secs_f64() * 1e6)
    };
    Ok(Row::Policy { bans: arguments.bans, p50_us: micros(0.5), p99_us: micros(0.99), max_us: micros(1.0) })
}

fn canary(arguments: &Arguments) -> Result<Row> {
    let folder = tempfile::tempdir().context("could not create a folder for the log")?;
    let log = folder.path().join("access.log");
    std::fs::write(&log, generate(arguments.clients, arguments.lines)).context("could not write the log")?;
    let (mut off, mut on, mut judged_share) = (f64::INFINITY, f64::INFINITY, 1.0_f64);
    for _ in 0..arguments.rounds.max(1) {
        off = off.min(live_ns_per_line(&log, arguments.lines, With::Nothing)?.0);
        let (ns, share) = live_ns_per_line(&log, arguments.lines, With::Canary)?;
        on = on.min(ns);
        judged_share = judged_share.min(share);
    }
    Ok(Row::Canary {
        lines: arguments.lines,
        clients: arguments.clients,
        off_ns_per_line: off,
        on_ns_per_line: on,
        ratio: on / off,
        judged_share,
    })
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum With {
    Nothing,
    Canary,
}

/// Runs the agent's threads from the file to the engine. Returns the processor time of the engine's thread a line, and the share of the
/// lines that the canary judged.
fn live_ns_per_line(log: &Path, lines: u64, with: With) -> Result<(f64, f64)> {
    let engine = Engine::new(EngineSettings::default(), Policy::default(), Allowlist::new([]), 1, 7);
    let (handle, inbox) = Handle::new();
    let (perform, jobs) = std::sync::mpsc::channel();
    let pool = Pool::default();
    let owner = Owner::new(engine, inbox, perform, Box::new(|_, _| {}), pool.clone());
    let performer = std::thread::spawn(move || jobs.iter().for_each(drop));
    let owner = std::thread::spawn(move || -> Result<Duration> {
        drop(owner.run());
        Ok(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?.into())
    });
    let canary = match with {
        With::Nothing => None,
        With::Canary => Some(Canary::start(&handle, &pool)?),
    };
    let settings = source::Settings {
        first_start: FirstStart::Beginning,
        ..source::Settings::of_files(log.to_str().context("could not use the log's path: it is not UTF-8")?)
    };
    let to_owner = handle.clone();
    let deliver = move |batch| {
        if to_owner.send_lines(batch) { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    };
    let sources = source::Prepared::new(vec![settings]).start(&[], &pool, &deliver, &|_| {})?;
    wait_for(&handle, lines)?;
    let judged_share = canary.as_ref().map_or(1.0, |canary| {
        let (_, lost) = canary.lines();
        1.0 - lost as f64 / lines as f64
    });
    sources.stop();
    canary.iter().for_each(|canary| canary.end(&handle));
    handle.send(Message::Stop);
    let took = owner.join().map_err(|_| anyhow!("the engine's thread panicked"))??;
    performer.join().map_err(|_| anyhow!("the performer's thread panicked"))?;
    Ok((took.as_nanos() as f64 / lines as f64, judged_share))
}

/// Waits until the engine has counted all lines, for at most two minutes.
fn wait_for(handle: &Handle, lines: u64) -> Result<()> {
    const TIMEOUT: Duration = Duration::from_secs(120);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    let deadline = Instant::now() + TIMEOUT;
    runtime.block_on(async {
        loop {
            let counted = handle.query(|engine, _| engine.totals().requests).await?;
            if counted >= lines {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "the engine counted {counted} of {lines} lines");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
}

/// Equally busy clients that ask for pages which exist.
fn generate(clients: u64, lines: u64) -> String {
    let mut text = String::with_capacity(lines as usize * 150);
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for number in 0..lines {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let (client, page) = (state % clients.max(1), state >> 32 & 0x3fff);
        let time = jiff::Timestamp::from_second(FIRST_SECOND + (number / LINES_PER_SEC) as i64)
            .expect("a second of this year");
        let written = writeln!(
            text,
            r#"{{"source_ip":"10.{}.{}.{}","timestamp":"{time}","method":"GET","path":"/articles/{page}.html","status":200,"response_size":5120}}"#,
            client >> 16 & 0xff,
            client >> 8 & 0xff,
            client & 0xff
        );
        written.expect("writing to a String cannot fail");
    }
    text
}
