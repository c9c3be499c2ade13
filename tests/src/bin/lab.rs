//! The body of `cargo xtask lab`: the command line, signals, and the exit code. The story is `shield_tests::lab`.

#![expect(clippy::print_stdout, reason = "the measured times are this program's result")]

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Parser;
use shield_tests::lab::narrator::Narrator;
use shield_tests::lab::story::{Ending, tell};
use shield_tests::wait;
use tokio::signal::unix::{SignalKind, signal};

#[derive(Parser)]
#[command(about = "Shield's whole story between disposable machines")]
struct Arguments {
    /// Leave everything running at the end, and say the page's address, until Ctrl-C
    #[arg(long)]
    keep: bool,
    /// Print the measured times as one JSON object; the story goes to standard error
    #[arg(long)]
    json: bool,
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    interrupt_on_signals()?;
    let mut narrator = if arguments.json { Narrator::to_stderr() } else { Narrator::to_stdout() };
    let report = tell(&mut narrator, if arguments.keep { Ending::Keep } else { Ending::CleanUp });
    if arguments.json {
        println!("{}", serde_json::to_string(&report).context("wrote the report as JSON")?);
    }
    Ok(if report.ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Ctrl-C, SIGTERM and a closed terminal end the story early, and everything is taken down.
///
/// Handlers, not a blocked mask: the agent and nginx would inherit the mask and never hear of their own end.
fn interrupt_on_signals() -> Result<()> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("made a runtime")?;
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
