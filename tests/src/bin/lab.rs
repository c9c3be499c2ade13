//! `cargo xtask lab`: the command line, signals and the exit code. The steps are in `shield_tests::lab`.

#![expect(clippy::print_stdout, reason = "the measured times are this program's result")]

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::{Parser, ValueEnum};
use shield_tests::lab::cdn::{self, Front};
use shield_tests::lab::chaos::{self, Walk};
use shield_tests::lab::narrator::Narrator;
use shield_tests::lab::story::{Ending, record, run};
use shield_tests::lab::{canary, fleet};
use shield_tests::wait;
use tokio::signal::unix::{SignalKind, signal};

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Profile {
    /// The clients talk to the server itself
    Direct,
    /// A proxy stands in front, and nginx itself refuses the banned
    Cdn,
    /// The same, and nginx is in a container behind its host's gateway
    Container,
    /// Two configurations are tried under load: one would ban the visitors
    Canary,
}

#[derive(Parser)]
#[command(about = "A demonstration of Shield on disposable machines")]
struct Arguments {
    /// Keep everything running at the end until Ctrl-C, and print the live page's address
    #[arg(long)]
    keep: bool,
    /// Print the measured times as one JSON object on standard output, and the steps on standard error
    #[arg(long)]
    json: bool,
    /// The story: what stands between the server and its clients, or configurations that are tried
    #[arg(long, value_enum, default_value_t = Profile::Direct, conflicts_with = "keep")]
    profile: Profile,
    /// Hosts of a fleet with nats-servers between them, at least three
    #[arg(long, value_name = "HOSTS", conflicts_with_all = ["keep", "profile"])]
    fleet: Option<usize>,
    /// Instead of the whole story: write what a terminal shows during the attack, as an animated picture
    #[arg(long, value_name = "SVG", conflicts_with_all = ["keep", "profile", "fleet"])]
    record: Option<PathBuf>,
    /// Instead of the whole story: break everything in turn, again and again, under traffic and attacks, and check what must hold
    #[arg(long, conflicts_with_all = ["keep", "profile", "fleet", "record"])]
    chaos: bool,
    /// Of which all choices of the chaos follow
    #[arg(long, requires = "chaos", default_value_t = 1)]
    seed: u64,
    /// For how long the chaos goes on
    #[arg(long, requires = "chaos", default_value_t = 15)]
    minutes: u64,
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    interrupt_on_signals()?;
    let mut narrator = if arguments.json { Narrator::to_stderr() } else { Narrator::to_stdout() };
    if let Some(hosts) = arguments.fleet {
        let report = fleet::run(&mut narrator, hosts);
        if arguments.json {
            println!("{}", serde_json::to_string(&report).context("could not write the report as JSON")?);
        }
        return Ok(if report.ok { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    if arguments.chaos {
        return chaos(&mut narrator, &arguments);
    }
    if let Some(path) = &arguments.record {
        let report = record(&mut narrator, path);
        return Ok(if report.ok { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    let (json, ok) = match arguments.profile {
        Profile::Direct => {
            let report = run(&mut narrator, if arguments.keep { Ending::Keep } else { Ending::CleanUp });
            (serde_json::to_string(&report), report.ok)
        }
        Profile::Cdn | Profile::Container => {
            let front = if arguments.profile == Profile::Cdn { Front::Cdn } else { Front::Container };
            let report = cdn::run(&mut narrator, front);
            (serde_json::to_string(&report), report.ok)
        }
        Profile::Canary => {
            let report = canary::run(&mut narrator);
            (serde_json::to_string(&report), report.ok)
        }
    };
    if arguments.json {
        println!("{}", json.context("could not write the report as JSON")?);
    }
    Ok(if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Walks, and fails if anything did not hold.
fn chaos(narrator: &mut Narrator, arguments: &Arguments) -> Result<ExitCode> {
    let length = Duration::from_secs(arguments.minutes * 60);
    let report = chaos::run(narrator, Walk { seed: arguments.seed, length, soon: Walk::SOON })?;
    if arguments.json {
        println!("{}", serde_json::to_string(&report).context("could not write the report as JSON")?);
    }
    Ok(if report.violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Ends the story early on Ctrl-C, SIGTERM and a closed terminal; destructors then clean up.
///
/// Uses handlers instead of a blocked signal mask: the agent and nginx would inherit the mask and ignore SIGTERM.
fn interrupt_on_signals() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("could not create a runtime")?;
    std::thread::spawn(move || runtime.block_on(watch_signals()));
    Ok(())
}

async fn watch_signals() -> Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    loop {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
        wait::interrupt();
    }
}
