//! `cargo xtask bench detect`: our rules over labelled logs, each log cold from its first line, one configuration for
//! all. Prints the table of `docs/detection.md`; `--json` one object a line instead.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use anyhow::{Context, Result};
use clap::Parser;
use shield_agent::engine::allowlist::Allowlist;
use shield_agent::engine::policy::Policy;
use shield_agent::engine::settings::Settings;
use shield_agent::replay::input::Input;
use shield_agent::replay::labels::{Labels, Score};
use shield_agent::replay::{Outcome, Replay};
use shield_agent::source::format;

/// The labelled logs of real sites.
const LOGS: [&str; 9] = [
    "meatlabel_2025",
    "farmfresh_2024",
    "talemul_2025",
    "ddoser_2023",
    "honeypot_tanner_2020",
    "podcast_2013",
    "nasa_aug95_10k",
    "nasa_jul95_10k",
    "nasa_jul95_clf",
];

/// Our rules over labelled logs.
#[derive(Parser)]
struct Arguments {
    /// One JSON object a line
    #[arg(long)]
    json: bool,
    /// The folder with logs/, labels/ and cases/
    #[arg(long, default_value = "../shared/data")]
    data: PathBuf,
    /// Names each missed and each wrongly banned client (real addresses: for your eyes only)
    #[arg(long)]
    each: bool,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let mut total = Score::default();
    for log in LOGS {
        let labels = Labels::read(&arguments.data.join(format!("labels/{log}.csv")), 64)?;
        let outcome = replay(&arguments.data.join(format!("logs/{log}.jsonl.gz")), Policy::default())?;
        let score = labels.score(&outcome);
        print_row(log, &score, arguments.json)?;
        if arguments.each {
            print_each(&labels, &score, &outcome);
        }
        total = total.plus(score);
    }
    print_row("total", &total, arguments.json)
}

fn replay(path: &Path, policy: Policy) -> Result<Outcome> {
    let mut replay = Replay::new(Settings::default(), policy, Allowlist::default());
    let read = Arc::new(AtomicU64::new(0));
    Input::of(path).batches(&format::Settings::default(), &read, &mut |batch| {
        replay.feed(batch);
        Ok(())
    })?;
    Ok(replay.finish())
}

#[expect(clippy::print_stdout, reason = "a benchmark's table is its output")]
fn print_row(log: &str, score: &Score, json: bool) -> Result<()> {
    if json {
        let mut row = serde_json::to_value(score).context("cannot write a score as JSON")?;
        row["log"] = log.into();
        println!("{row}");
        return Ok(());
    }
    println!(
        "{log:<22} caught {:>3}/{:<3} {:.3}   wrong {:>2}/{:<5} {:.3} %   median {:>6} s",
        score.caught,
        score.to_ban,
        score.recall,
        score.wrong,
        score.must_stay,
        100.0 * score.wrong_bans_share,
        score.median_secs_to_ban.map_or("-".to_owned(), |secs| format!("{secs:.0}")),
    );
    Ok(())
}

#[expect(clippy::print_stdout, reason = "a benchmark's table is its output")]
fn print_each(labels: &Labels, score: &Score, outcome: &Outcome) {
    for client in &score.missed {
        let label = labels.get(*client).map_or("", |label| &label.what);
        let held = outcome.bans.iter().find(|ban| ban.client == *client).and_then(|ban| ban.not_made.clone());
        println!("    missed {client}: {label} {}", held.unwrap_or_default());
    }
    for client in &score.wrongly_banned {
        let label = labels.get(*client).map_or("", |label| &label.what);
        let ban = outcome.bans.iter().find(|ban| ban.client == *client);
        let evidence = ban.and_then(|ban| ban.evidence.as_ref());
        println!("    wrong {client}: {label} {:?}", evidence.map(|e| (e.rule, &e.condition, &e.measures)));
    }
}
