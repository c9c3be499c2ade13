//! `shield-agent replay FILE…`: the command line of `crate::replay`, which runs past logs through the engine and lists
//! the bans that it would have made. Needs no privileges.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result, bail};
use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use jiff::tz::TimeZone;

use super::reply::{Format, JsonArg};
use super::{BadConfig, Exit, args, print};
use crate::config::Config;
use crate::policy::asking::{Asking, Unanswered};
use crate::policy::bundle::Bundle;
use crate::policy::{self, Point};
use crate::replay::input::{self, Arranged, Input};
use crate::replay::labels::Labels;
use crate::replay::{AskRules, Outcome, Replay, Watch, html, render};
use shield_engine::allowlist::Allowlist;
use shield_engine::client::Client;
use shield_engine::operator_rules::PolicyQuestion;
use shield_engine::report::Explanation;
use shield_engine::request::Batch;
use shield_logline::Settings as FormatSettings;

/// How often the rules are asked one question before the replay gives up.
const ATTEMPTS: u32 = 5;

#[derive(Debug, Clone, Args)]
pub(crate) struct ReplayArgs {
    /// Access logs, in any order: JSON or nginx's combined format, plain, .gz, .bz2, .xz or .zst; - for standard input
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// The configuration (default: the built-in one)
    #[arg(long, value_name = "PATH")]
    config: Option<PathBuf>,
    /// Compare --config with this configuration: the bans that only one of them makes
    #[arg(long, value_name = "PATH", conflicts_with_all = ["labels", "explain"])]
    against: Option<PathBuf>,
    /// Score against labels: a CSV file with the columns ip and decision (ban, no_ban)
    #[arg(long, value_name = "PATH")]
    labels: Option<PathBuf>,
    /// Write a self-contained page to be mailed around: what it would have spared, by rule, path, hour and network
    #[arg(long, value_name = "PATH")]
    html: Option<PathBuf>,
    /// Explain why this client was banned, or why not
    #[arg(long, value_name = "CLIENT", conflicts_with = "html")]
    explain: Option<Client>,
    /// The time that --explain refers to (default: its ban, or else its last request)
    #[arg(long, value_name = "TIME", requires = "explain", value_parser = args::moment, allow_hyphen_values = true)]
    at: Option<i64>,
    #[command(flatten)]
    json: JsonArg,
}

/// Replays, then scores, compares or explains.
///
/// # Errors
/// When the configuration is wrong, or a file cannot be read or is not an access log.
pub(crate) fn run(args: &ReplayArgs) -> Result<Exit> {
    let config = load(args.config.as_deref())?;
    let inputs: Vec<Input> = args.files.iter().map(|file| Input::of(file)).collect();
    let Arranged { inputs, notes } = input::arrange(inputs, &format_of(&config))?;
    notes.iter().for_each(|note| say(note));
    let labels =
        args.labels.as_ref().map(|path| Labels::read(path, config.engine.ipv6_prefix)).transpose()?;
    if let Some(against) = &args.against {
        return compare(&inputs, &config, &load(Some(against))?, args);
    }
    let watch = args.explain.map(|client| Watch::new(client, config.engine.ipv6_prefix, args.at));
    let replayed = replay(&inputs, &config, watch)?;
    if args.explain.is_some() {
        return explain(&replayed, args.json.format());
    }
    let score = labels.as_ref().map(|labels| labels.score(&replayed.outcome));
    if let Some(path) = &args.html {
        write_page(path, &html::render(&replayed.outcome, score.as_ref(), &names(args)))?;
    }
    match args.json.format() {
        Format::Json => print_lines(&render::json_lines(&replayed.outcome, score.as_ref()))?,
        Format::Text => print::text(&render::render(&replayed.outcome, labels.as_ref().zip(score.as_ref())))?,
    }
    Ok(Exit::Done)
}

fn write_page(path: &Path, page: &str) -> Result<()> {
    std::fs::write(path, page).with_context(|| format!("could not write {}", path.display()))
}

fn names(args: &ReplayArgs) -> String {
    let names: Vec<String> = args.files.iter().map(|file| file.display().to_string()).collect();
    names.join(", ")
}

/// Loads the named configuration, or else the built-in one and not the installed one: a replay must not depend on the
/// host it runs on.
pub(super) fn load(named: Option<&Path>) -> Result<Config> {
    let config = match named {
        Some(path) => Config::load(Some(path)),
        None => Config::parse(""),
    };
    config.map_err(|error| BadConfig::of(error).into())
}

fn compare(inputs: &[Input], before: &Config, after: &Config, args: &ReplayArgs) -> Result<Exit> {
    if inputs.contains(&Input::Stdin) {
        bail!("standard input can be read only once: name files to compare two configurations");
    }
    let (before, after) = (replay(inputs, before, None)?.outcome, replay(inputs, after, None)?.outcome);
    if let Some(path) = &args.html {
        write_page(path, &html::render_difference(&before, &after, &names(args)))?;
    }
    match args.json.format() {
        Format::Json => print_lines(&render::difference_json(&before, &after))?,
        Format::Text => print::text(&render::render_difference(&before, &after))?,
    }
    Ok(Exit::Done)
}

/// A finished replay.
struct Replayed {
    outcome: Outcome,
    explanation: Option<Explanation>,
}

fn explain(replayed: &Replayed, format: Format) -> Result<Exit> {
    let Some(explanation) = &replayed.explanation else {
        bail!("could not explain this client: the log has no request of it (before the time of --at)");
    };
    let ban = replayed
        .outcome
        .bans
        .iter()
        .find(|ban| ban.client == explanation.client && ban.at_secs >= explanation.at_secs);
    match format {
        Format::Json => print::json(&serde_json::json!({ "explanation": explanation, "ban": ban }))?,
        Format::Text => print::text(&render::render_explanation(explanation, ban))?,
    }
    Ok(Exit::Done)
}

/// What the engine makes of the logs.
pub(super) fn judge(inputs: &[Input], config: &Config) -> Result<Outcome> {
    Ok(replay(inputs, config, None)?.outcome)
}

fn replay(inputs: &[Input], config: &Config, watch: Option<Watch>) -> Result<Replayed> {
    let allowlist = Allowlist::new(config.allow.iter().chain(&config.infrastructure).copied());
    let mut replay = match rules(config)? {
        Some(ask) => Replay::asking(config.engine.clone(), config.policy.clone(), allowlist, ask),
        None => Replay::new(config.engine.clone(), config.policy.clone(), allowlist),
    };
    if let Some(watch) = watch {
        replay.watch(watch);
    }
    let paths = replay.path_reader();
    let progress = Progress::of(inputs);
    let format = format_of(config);
    let inputs = inputs.iter().map(|input| (input.clone(), format.clone())).collect();
    let each = |batch: &mut Batch| {
        replay.feed(batch);
        progress.show();
        match replay.broken() {
            None => Ok(()),
            Some(why) => {
                bail!("could not ask the policy, and without its answers this would be no replay: {why}")
            }
        }
    };
    input::read_beside(inputs, &progress.read_bytes, paths, each, |damage| {
        say(&format!("{damage}; the rest of it is not part of the result"));
    })?;
    progress.end();
    Ok(Replayed { explanation: replay.explanation(), outcome: replay.finish() })
}

/// Who asks the rules of `[policy] dir` about bans, where there are any.
fn rules(config: &Config) -> Result<Option<AskRules>> {
    let Some(dir) = &config.rules.dir else { return Ok(None) };
    let bundle = Bundle::read(dir)?;
    if !bundle.has_package(Point::Ban.package()) {
        return Ok(None);
    }
    let start = move || Asking::start(&bundle, Point::Ban).map_err(|why| why.to_string());
    let mut asking = start().map_err(anyhow::Error::msg).context("could not load the policy")?;
    let (host, zone) = (policy::host_name(), TimeZone::system());
    let mut ask = move |question: &PolicyQuestion| {
        let input = policy::ban::document(question, &host, &zone);
        match asking.ask(Point::Ban.rule(), input) {
            Ok(value) => Ok(policy::ban::answer(value)),
            Err(Unanswered::Failed(why)) => Ok(Err(why)),
            Err(broken @ Unanswered::Broken(_)) => {
                asking = start()?;
                Err(broken.to_string())
            }
            Err(late @ Unanswered::TimedOut(_)) => Err(late.to_string()),
        }
    };
    // A machine that is busy must not change what a replay says.
    let patient = move |question: &PolicyQuestion| {
        let again = (1..ATTEMPTS).find_map(|_| ask(question).ok());
        again.map_or_else(|| ask(question), Ok)
    };
    Ok(Some(Box::new(patient)))
}

pub(super) fn format_of(config: &Config) -> FormatSettings {
    config.sources.first().map_or_else(FormatSettings::default, |source| source.format.clone())
}

/// Says something about the input beside the result, which may be read by a program.
pub(super) fn say(note: &str) {
    // Without anybody to read it there is nothing to say.
    let _ = writeln!(std::io::stderr(), "note: {note}");
}

/// A progress bar on standard error, when that is a terminal.
pub(super) struct Progress {
    bar: ProgressBar,
    pub(super) read_bytes: Arc<AtomicU64>,
}

impl Progress {
    pub(super) fn of(inputs: &[Input]) -> Progress {
        let sizes: Option<Vec<u64>> = inputs.iter().map(Input::len_bytes).collect();
        let bar = match sizes {
            Some(sizes) => {
                ProgressBar::with_draw_target(Some(sizes.iter().sum()), ProgressDrawTarget::stderr())
            }
            None => ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr()),
        };
        let style =
            ProgressStyle::with_template("{bar:40} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        Progress { bar, read_bytes: Arc::new(AtomicU64::new(0)) }
    }

    pub(super) fn end(&self) {
        self.bar.finish_and_clear();
    }

    pub(super) fn show(&self) {
        self.bar.set_position(self.read_bytes.load(Ordering::Relaxed));
    }
}

fn print_lines(lines: &[serde_json::Value]) -> Result<()> {
    let mut all = String::new();
    for line in lines {
        all.push_str(&serde_json::to_string(line).context("could not encode a result as JSON")?);
        all.push('\n');
    }
    print::text(&all)
}
