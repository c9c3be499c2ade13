//! `cargo xtask bench detect`: the detection rules on labelled logs. Each log is replayed from its first line without
//! earlier state, and all logs with one configuration. Prints the table of `docs/detection.md`, or one JSON object per line
//! with `--json`.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use anyhow::{Context, Result};
use clap::Parser;
use shield_agent::test_support::replay::input::Input;
use shield_agent::test_support::replay::labels::{Decision, Labels, Score};
use shield_agent::test_support::replay::{Outcome, Replay};
use shield_engine::allowlist::Allowlist;
use shield_engine::client::Client;
use shield_engine::policy::Policy;
use shield_engine::settings::Settings;
use shield_engine::test_support::detector::{Detector, Standing};
use shield_engine::test_support::rules::Near;
use shield_engine::verdict::{Rule, Verdict};
use shield_tests::variants::Variant;

const IPV6_PREFIX: u8 = 64;

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

/// The detection rules on labelled logs
#[derive(Parser)]
struct Arguments {
    /// Print one JSON object per line
    #[arg(long)]
    json: bool,
    /// Folder with logs/, labels/ and cases/
    #[arg(long, default_value = "../shared/data")]
    data: PathBuf,
    /// List each missed and each wrongly banned client (real addresses: do not publish)
    #[arg(long)]
    each: bool,
    /// Cross-validate the score's threshold, leaving out one log at a time
    #[arg(long)]
    sweep: bool,
    /// For each clause of each rule, show its margin to clients that must stay, and the number of attackers it catches
    #[arg(long)]
    margins: bool,
    /// Replay the logs changed: halves, other hours, numbers, letters or answers, nothing learned before
    #[arg(long)]
    variants: bool,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    if arguments.sweep {
        return sweep(&arguments);
    }
    if arguments.margins {
        margins(&arguments)?;
        return variant(&arguments, Variant::Whole);
    }
    if arguments.variants {
        let all = Variant::ALL.into_iter().chain(Variant::ANSWERS);
        return all.into_iter().try_for_each(|each| variant(&arguments, each));
    }
    let (mut total, mut slowed) = (Score::default(), (0, 0));
    for log in LOGS {
        let (labels, outcome) = run(log, &arguments, Policy::default())?;
        let score = labels.score(&outcome);
        print_row(log, &score, arguments.json)?;
        if arguments.each {
            print_each(&labels, &score, &outcome);
        }
        let (stay, ban) = slowed_by_label(&labels, &outcome);
        if arguments.each {
            print_slowed(&labels, &outcome);
        }
        slowed = (slowed.0 + stay, slowed.1 + ban);
        total = total.plus(score);
    }
    print_row("total", &total, arguments.json)?;
    print_slowed_total(slowed, &total, arguments.json);
    if !arguments.json {
        further(&arguments)?;
    }
    Ok(())
}

/// Slowed clients that must stay, and slowed clients to ban.
fn slowed_by_label(labels: &Labels, outcome: &Outcome) -> (usize, usize) {
    let of = |decision| {
        let is = |client: &&Client| labels.get(**client).is_some_and(|label| label.decision == decision);
        outcome.slowed.iter().filter(is).count()
    };
    (of(Decision::Stay), of(Decision::Ban))
}

/// Lists the clients that must stay and were slowed.
#[expect(clippy::print_stdout, reason = "a benchmark's table is its output")]
fn print_slowed(labels: &Labels, outcome: &Outcome) {
    for client in &outcome.slowed {
        if let Some(label) = labels.get(*client).filter(|label| label.decision == Decision::Stay) {
            println!("    slowed {client}: {}", label.what);
        }
    }
}

/// Slowed clients are a figure of their own: to be slowed is no ban.
#[expect(clippy::print_stdout, reason = "a benchmark's table is its output")]
fn print_slowed_total((stay, ban): (usize, usize), total: &Score, json: bool) {
    let share = 100.0 * stay as f64 / total.must_stay.max(1) as f64;
    if json {
        println!(
            "{}",
            serde_json::json!({ "log": "slowed", "must_stay": stay, "to_ban": ban, "share": share })
        );
    } else {
        println!(
            "slowed: {stay} of {} that must stay ({share:.3} %), {ban} of {} to ban",
            total.must_stay, total.to_ban
        );
    }
}

fn run(log: &str, arguments: &Arguments, policy: Policy) -> Result<(Labels, Outcome)> {
    let labels = Labels::read(&arguments.data.join(format!("labels/{log}.csv")), IPV6_PREFIX)?;
    Ok((labels, replay(&log_path(arguments, log), policy)?))
}

fn log_path(arguments: &Arguments, log: &str) -> PathBuf {
    arguments.data.join(format!("logs/{log}.jsonl.gz"))
}

/// Prints what became of the logs with one change, and after how many requests.
#[expect(clippy::print_stdout, reason = "a benchmark's table is its output")]
fn variant(arguments: &Arguments, variant: Variant) -> Result<()> {
    let (mut caught, mut to_ban, mut wrong, mut requests) = (0, 0, 0, Vec::new());
    for log in LOGS {
        let labels = arguments.data.join(format!("labels/{log}.csv"));
        let answer = shield_tests::variants::replay(&log_path(arguments, log), &labels, variant)?;
        caught += answer.caught;
        to_ban += answer.to_ban;
        wrong += answer.wrong.len();
        requests.extend(answer.requests_to_ban);
        if arguments.each {
            answer.wrong.iter().for_each(|client| println!("    wrong {log} {client}"));
        }
    }
    requests.sort_unstable();
    let share = |tenths: usize| requests.get(requests.len() * tenths / 10).copied().unwrap_or_default();
    println!(
        "{:<14} caught {caught}/{to_ban}, wrong {wrong}; requests from the first evidence to the ban: median {}, nine tenths {}",
        format!("{variant:?}"),
        share(5),
        share(9)
    );
    Ok(())
}

/// Prints the other measurements of `docs/detection.md`.
#[expect(clippy::print_stdout, reason = "a benchmark's table is its output")]
fn further(arguments: &Arguments) -> Result<()> {
    let classic = LOGS.iter().try_fold(Score::default(), |sum, log| -> Result<Score> {
        let (labels, outcome) = run(log, arguments, Policy::classic())?;
        Ok(sum.plus(labels.score(&outcome)))
    })?;
    print_row("total, profile classic", &classic, false)?;
    let flood = replay(&log_path(arguments, "ddoser_2023"), Policy::default())?;
    let start = flood.span.map_or(0, |(first, _)| first);
    let secs: Vec<i64> = flood.bans.iter().map(|ban| ban.at_secs - start).collect();
    println!("ddoser_2023: banned {secs:?} s of log time after its first line");
    rotating(arguments)?;
    cases(arguments)
}

/// Replays meatlabel_2025.v6rot, in which each attacker uses a new address of its /64 for every request.
#[expect(clippy::print_stdout, reason = "a benchmark's table is its output")]
fn rotating(arguments: &Arguments) -> Result<()> {
    let labels = std::fs::read_to_string(arguments.data.join("labels/meatlabel_2025.csv"))?;
    let map = std::fs::read_to_string(arguments.data.join("labels/meatlabel_2025.v6map.csv"))?;
    let prefixes: HashMap<&str, &str> = map.lines().filter_map(|line| line.split_once(',')).collect();
    let renamed: Vec<String> = labels
        .lines()
        .map(|line| {
            let (ip, rest) = line.split_once(',').unwrap_or((line, ""));
            format!("{},{rest}", prefixes.get(ip).copied().unwrap_or(ip))
        })
        .collect();
    let labels = Labels::parse(&renamed.join("\n"), IPV6_PREFIX)?;
    let outcome = replay(&log_path(arguments, "meatlabel_2025.v6rot"), Policy::default())?;
    let score = labels.score(&outcome);
    println!("meatlabel_2025.v6rot: {} of {} attackers banned by their /64", score.caught, score.to_ban);
    Ok(())
}

/// Runs another tool's behaviour tests, as far as they concern rates, errors and probing.
#[expect(clippy::print_stdout, reason = "a benchmark's table is its output")]
fn cases(arguments: &Arguments) -> Result<()> {
    let folder = arguments.data.join("cases");
    let expected = std::fs::read_to_string(folder.join("expected.csv"))?;
    let (mut agree, mut all) = (0, 0);
    for line in expected.lines().skip(1) {
        let fields: Vec<&str> = line.split(',').collect();
        let [test, _, "1", .., expect_ban, expect_not] = fields[..] else { continue };
        let banned = banned_by_detector(&folder.join(format!("{test}.jsonl")))?;
        let must: BTreeSet<&str> = expect_ban.split_whitespace().collect();
        let must_not: Vec<&str> = expect_not.split_whitespace().collect();
        let is_missing = must.iter().any(|ip| !banned.contains(*ip));
        let is_wrong = must_not.iter().any(|ip| banned.contains(*ip));
        all += 1;
        agree += u32::from(!is_missing && !is_wrong);
        if is_missing || is_wrong {
            println!("case {test}: expected {must:?}, banned {banned:?}");
        }
    }
    println!("cases in scope: {agree} of {all} agree");
    Ok(())
}

/// Uses the detector alone: the cases have loopback addresses, which the engine's allowlist would protect.
fn banned_by_detector(path: &Path) -> Result<BTreeSet<String>> {
    let mut detector = Detector::new(Policy::default(), IPV6_PREFIX, 1);
    let mut banned = BTreeSet::new();
    let read = Arc::new(AtomicU64::new(0));
    Input::of(path).batches(&shield_logline::Settings::default(), &read, &mut |batch| {
        for request in batch.requests() {
            let prepared = detector.prepare(&request);
            let verdict = detector.observe(&request, request.time, &prepared, Standing::Normal);
            if verdict != Verdict::Normal {
                banned.insert(request.addr.to_string());
            }
        }
        Ok(())
    })?;
    Ok(banned)
}

/// The results of one clause.
#[derive(Default)]
struct Margin {
    /// For each client that must stay and its log, the highest share of the threshold that it reached.
    stay: HashMap<(Client, &'static str), f64>,
    /// The clients to ban for which the clause fired, by log.
    caught: HashMap<&'static str, BTreeSet<Client>>,
    /// The number of clients for which only this clause fired.
    alone: usize,
}

/// A clause of a rule, with the name of its first check.
type Clause = (Rule, u32, &'static str);

/// Prints the margins of every clause over all logs. Clients are observed after their verdict too, so that every clause
/// that fires is counted.
#[expect(clippy::print_stdout, reason = "a benchmark's table is its output")]
fn margins(arguments: &Arguments) -> Result<()> {
    let mut all: BTreeMap<Clause, Margin> = BTreeMap::new();
    let mut by_client: HashMap<(Client, &'static str), BTreeSet<Clause>> = HashMap::new();
    for log in LOGS {
        let labels = Labels::read(&arguments.data.join(format!("labels/{log}.csv")), IPV6_PREFIX)?;
        each_nearness(&log_path(arguments, log), &labels, &mut |client, decision, near| {
            let clause = (near.rule, near.clause, near.name);
            let margin = all.entry(clause).or_default();
            if decision == Decision::Stay {
                let nearest = margin.stay.entry((client, log)).or_default();
                *nearest = nearest.max(near.share);
            } else if near.share >= 1.0 {
                margin.caught.entry(log).or_default().insert(client);
                by_client.entry((client, log)).or_default().insert(clause);
            }
        })?;
    }
    for clauses in by_client.values() {
        if let (1, Some(margin)) = (clauses.len(), clauses.first().and_then(|clause| all.get_mut(clause))) {
            margin.alone += 1;
        }
    }
    for ((rule, clause, name), margin) in &all {
        let mut stay: Vec<_> =
            margin.stay.iter().map(|((client, log), share)| (*share, *log, *client)).collect();
        stay.sort_by(|a, b| b.0.total_cmp(&a.0));
        let over = |least: f64| stay.iter().filter(|(share, ..)| *share >= least).count();
        let caught: BTreeMap<_, _> =
            margin.caught.iter().map(|(log, clients)| (*log, clients.len())).collect();
        println!("{rule}/{clause} {name}: caught {caught:?}, alone {}", margin.alone);
        let nearest: Vec<String> =
            stay.iter().take(4).map(|(share, log, _)| format!("{share:.2} {log}")).collect();
        println!(
            "    must stay from 0.5 on: {}, from 0.7 on: {}; nearest {}",
            over(0.5),
            over(0.7),
            nearest.join(", ")
        );
        if arguments.each {
            for (share, log, client) in stay.iter().take(6).filter(|(share, ..)| *share >= 0.5) {
                println!("        {share:.2} {log} {client}");
            }
        }
    }
    Ok(())
}

fn each_nearness(path: &Path, labels: &Labels, visit: &mut dyn FnMut(Client, Decision, Near)) -> Result<()> {
    let mut detector = Detector::new(Policy::default(), IPV6_PREFIX, 1);
    let read = Arc::new(AtomicU64::new(0));
    Input::of(path).batches(&shield_logline::Settings::default(), &read, &mut |batch| {
        for request in batch.requests() {
            let client = detector.client_of(&request);
            let prepared = detector.prepare(&request);
            detector.observe(&request, request.time, &prepared, Standing::Normal);
            let decision = labels.get(client).map(|label| label.decision);
            if let Some(decision @ (Decision::Ban | Decision::Stay)) = decision {
                detector
                    .nearness(client, request.time)
                    .into_iter()
                    .for_each(|near| visit(client, decision, near));
            }
        }
        Ok(())
    })?;
    Ok(())
}

/// Leave-one-out cross-validation of the score's threshold, from sensitive to insensitive.
#[expect(clippy::print_stdout, reason = "a benchmark's table is its output")]
fn sweep(arguments: &Arguments) -> Result<()> {
    const THRESHOLDS: [f64; 9] = [6.0, 8.0, 10.0, 12.0, 14.0, 16.0, 20.0, 26.0, 40.0];
    let mut table: Vec<Vec<Score>> = Vec::new();
    for threshold in THRESHOLDS {
        let mut policy = Policy::default();
        policy.evidence.threshold = threshold;
        let scores = LOGS.iter().map(|log| {
            let (labels, outcome) = run(log, arguments, policy.clone())?;
            Ok(labels.score(&outcome))
        });
        table.push(scores.collect::<Result<_>>()?);
        let total = sum(table.last().into_iter().flatten());
        print_row(&format!("evidence.threshold = {threshold}"), &total, arguments.json)?;
    }
    let mut held_out = Score::default();
    for (left_out, log) in LOGS.iter().enumerate() {
        let others =
            |scores: &[Score]| sum(scores.iter().enumerate().filter(|(n, _)| *n != left_out).map(|(_, s)| s));
        // The best threshold on the other eight logs: fewest wrong bans, then most attackers caught, then least sensitive.
        let worth = |at: &usize| {
            let score = others(&table[*at]);
            (std::cmp::Reverse(score.wrong), score.caught, *at)
        };
        let chosen = (0..THRESHOLDS.len()).max_by_key(worth).expect("there are thresholds");
        println!("without {log}: {} is chosen", THRESHOLDS[chosen]);
        held_out = held_out.plus(table[chosen][left_out].clone());
    }
    print_row("left-out logs together", &held_out, arguments.json)
}

fn sum<'a>(scores: impl Iterator<Item = &'a Score>) -> Score {
    scores.cloned().fold(Score::default(), Score::plus)
}

fn replay(path: &Path, policy: Policy) -> Result<Outcome> {
    let mut replay = Replay::new(Settings::default(), policy, Allowlist::default());
    let read = Arc::new(AtomicU64::new(0));
    Input::of(path).batches(&shield_logline::Settings::default(), &read, &mut |batch| {
        replay.feed(batch);
        Ok(())
    })?;
    Ok(replay.finish())
}

#[expect(clippy::print_stdout, reason = "a benchmark's table is its output")]
fn print_row(log: &str, score: &Score, json: bool) -> Result<()> {
    if json {
        let mut row = serde_json::to_value(score).context("could not write a score as JSON")?;
        row["log"] = log.into();
        println!("{row}");
        return Ok(());
    }
    println!(
        "{log:<30} caught {:>3}/{:<3} {:.3}   wrong {:>2}/{:<5} {:.3} %   median {:>6} s",
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
