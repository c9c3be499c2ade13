//! The body of `cargo xtask lab`: the command line, signals, and the exit code. The story is `shield_tests::lab`.

#![expect(clippy::print_stdout, reason = "the measured times are this program's result")]

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Parser;
use nix::sys::signal::{SigSet, Signal};
use shield_tests::lab::narrator::Narrator;
use shield_tests::lab::story::{Ending, tell};
use shield_tests::wait;

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

/// Ctrl-C and SIGTERM end the story early, and everything is taken down. Must be called before any thread is started:
/// all inherit the blocked signals. (Children do not: std gives them an empty mask.)
fn interrupt_on_signals() -> Result<()> {
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        signals.add(signal);
    }
    signals.thread_block().context("blocked the signals that interrupt")?;
    std::thread::spawn(move || {
        while signals.wait().is_ok() {
            wait::interrupt();
        }
    });
    Ok(())
}
