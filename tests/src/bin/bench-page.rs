//! `cargo xtask bench page`: when Chromium first paints the page of a real agent, with an empty cache and with one that asks whether
//! its files are still the same, beside an empty page in the same Chromium by turns. Over loopback in the server's namespace.

#![expect(clippy::print_stdout, reason = "the measured figures are this program's result")]

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use serde_json::Value;
use shield_tests::site::Site;

/// The address of the page inside the server's namespace.
const PAGE: &str = "127.0.0.1:8080";

#[derive(Parser)]
#[command(about = "The first paint of the page")]
struct Arguments {
    /// Print one JSON object per line instead of the table
    #[arg(long)]
    json: bool,
    /// Loads of each kind
    #[arg(long, default_value_t = 100)]
    loads: u32,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    ensure!(dashboard::was_built(), "the agent has no page embedded: run `cargo xtask build-page` first");
    let site = Site::create(&format!("[page]\nlisten = \"{PAGE}\"\n"))?;
    let agent = site.start_agent(&[])?;
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut node = Command::new("node");
    node.args(["first-paint.mjs", &arguments.loads.to_string()])
        .current_dir(tests.join("browser"))
        .env("SHIELD_PAGE", format!("http://{PAGE}/"))
        .stderr(Stdio::inherit());
    let output = site.server.enter(|| node.output()).context("could not start node")?;
    ensure!(output.status.success(), "could not measure the page: node ended with {}", output.status);
    agent.stop()?;
    let printed = String::from_utf8(output.stdout).context("could not read what node printed")?;
    if arguments.json {
        print!("{printed}");
        return Ok(());
    }
    println!("ms to the first paint      page p50   p99   empty p50   p99   ratio of the p50");
    for line in printed.lines() {
        let row: Value = serde_json::from_str(line).with_context(|| format!("could not read {line:?}"))?;
        let figure = |name: &str| row[name].as_f64().unwrap_or(f64::NAN);
        let what = if row["load"] == "cold" { "empty cache" } else { "files in the cache" };
        println!(
            "{what:<26} {:>8.1} {:>5.1} {:>11.1} {:>5.1} {:>8.2}",
            figure("page_p50_ms"),
            figure("page_p99_ms"),
            figure("empty_p50_ms"),
            figure("empty_p99_ms"),
            figure("ratio_p50")
        );
    }
    Ok(())
}
