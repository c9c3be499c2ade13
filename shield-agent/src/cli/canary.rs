//! `shield-agent canary`: another configuration on the live lines, beside the one in force; and `rollback`.
//!
//! The agent may not write its own configuration, so that this command does: the file before is kept beside it, the new one takes
//! its place by a rename, and the usual reload puts it in force. What the reload refuses is taken back.

use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, fchown};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::client::AgentClient;
use super::print::{self, Colour, Style};
use super::reply::{Format, JsonArg};
use super::{BadConfig, Exit, args, reload};
use crate::api::operation::Operation;
use crate::api::types::{
    CanaryDifference, CanaryHit, CanaryReport, CanaryRequest, CanaryState, ChangeRecord, ConfigView,
    Promotion, PromotionRequest, ReloadOutcome, ReloadReport,
};
use crate::canary::figures::Site;
use crate::config::Config;
use crate::text::{self, counted};
use shield_engine::action::Step;

/// The longest file that the agent reads.
const MOST_BYTES: u64 = 4 << 20;

#[derive(Debug, Clone, Args)]
pub struct CanaryArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Clone, Subcommand)]
enum What {
    /// Run a second engine with another configuration on the lines that the agent judges
    Start(StartArgs),
    /// Show whom it would ban and spare beside the live engine, what it costs, and whether it may be promoted
    Status(JsonArg),
    /// End it; nothing else changes
    Abort(JsonArg),
    /// Put its configuration in force if its figures allow that
    Promote(PromoteArgs),
}

#[derive(Debug, Clone, Args)]
struct StartArgs {
    /// The configuration to try
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    #[command(flatten)]
    json: JsonArg,
}

#[derive(Debug, Clone, Args)]
struct PromoteArgs {
    /// The least time that it must have observed, in place of an hour: 30m, 1d
    #[arg(long, value_name = "TIME", value_parser = args::seconds)]
    after: Option<u64>,
    #[command(flatten)]
    json: JsonArg,
}

#[derive(Debug, Clone, Args)]
pub struct RollbackArgs {
    #[command(flatten)]
    json: JsonArg,
}

pub(crate) async fn run(args: &CanaryArgs, client: &AgentClient) -> Result<Exit> {
    match &args.what {
        What::Start(args) => start(args, client).await,
        What::Status(json) => {
            let report: CanaryReport = client.get(Operation::Canary, &[]).await?;
            show(&report, *json)?;
            Ok(Exit::Done)
        }
        What::Abort(json) => {
            let report: CanaryReport = client.post(Operation::CanaryAbort, &json!({})).await?;
            show(&report, *json)?;
            Ok(Exit::Done)
        }
        What::Promote(args) => promote(args, client).await,
    }
}

async fn start(args: &StartArgs, client: &AgentClient) -> Result<Exit> {
    let text = read(&args.config)?;
    // Here the mistakes have their lines; the agent reads it again.
    Config::parse(&text)
        .with_context(|| format!("could not use {}", args.config.display()))
        .map_err(BadConfig::of)?;
    let base = match in_force(client).await? {
        Some(file) => hash(&read(&file)?),
        None => hash(""),
    };
    let request = CanaryRequest { name: args.config.display().to_string(), text, base };
    let report: CanaryReport = client.post(Operation::CanaryStart, &request).await?;
    show(&report, args.json)?;
    Ok(Exit::Done)
}

async fn promote(args: &PromoteArgs, client: &AgentClient) -> Result<Exit> {
    let request = PromotionRequest { min_observed_secs: args.after };
    let promotion: Promotion = client.post(Operation::CanaryPromote, &request).await?;
    let Some(text) = promotion.text else {
        show(&promotion.report, args.json)?;
        return Ok(Exit::Failed);
    };
    let Some(file) = in_force(client).await? else {
        bail!(
            "the agent runs without a configuration file: write the canary's to /etc/shield/shield.toml and restart it"
        )
    };
    let before = read(&file)?;
    if hash(&before) != promotion.base {
        bail!(
            "{} was changed since the canary was started: nothing was promoted. Start a canary with these changes in it",
            file.display()
        );
    }
    let report = replace(&file, &before, &text, client).await?;
    if report.outcome != ReloadOutcome::Refused {
        let text = promotion.report.name.unwrap_or_default();
        record(client, Step::CanaryPromoted, text).await;
        let _: CanaryReport = client.post(Operation::CanaryAbort, &json!({})).await?;
    }
    reload::show(&report, args.json.format())
}

pub(crate) async fn rollback(args: &RollbackArgs, client: &AgentClient) -> Result<Exit> {
    let Some(file) = in_force(client).await? else {
        bail!("the agent runs without a configuration file: there is nothing to go back to")
    };
    let kept = kept(&file);
    let text = read(&kept).with_context(|| "could not go back: no canary was promoted".to_owned())?;
    let before = read(&file)?;
    let report = replace(&file, &before, &text, client).await?;
    if report.outcome != ReloadOutcome::Refused {
        record(client, Step::ConfigRolledBack, file.display().to_string()).await;
    }
    reload::show(&report, args.json.format())
}

/// Has the agent put a change on record. That it cannot is no reason to undo it: a warning.
pub(super) async fn record(client: &AgentClient, step: Step, text: String) {
    let text = text.chars().take(RECORD_CHARS).collect();
    let recorded: Result<ChangeRecord, _> =
        client.post(Operation::Record, &ChangeRecord { step, text }).await;
    if let Err(error) = recorded {
        print::warning(&format!("could not have the agent record this in the audit log: {error}"));
    }
}

/// Of the words about a change: less than the agent takes.
const RECORD_CHARS: usize = 1_500;

/// The configuration file of the running agent.
async fn in_force(client: &AgentClient) -> Result<Option<PathBuf>> {
    let config: ConfigView = client.get(Operation::Config, &[]).await?;
    Ok(config.path.map(PathBuf::from))
}

/// Puts another text in the file's place, keeps the one before, and has the agent load it. A refusal changes nothing.
async fn replace(file: &Path, before: &str, text: &str, client: &AgentClient) -> Result<ReloadReport> {
    write(&kept(file), before, file)?;
    write(file, text, file)?;
    let loaded: Result<ReloadReport, _> = client.post(Operation::Reload, &json!({})).await;
    match loaded {
        Ok(report) if report.outcome != ReloadOutcome::Refused => Ok(report),
        Ok(report) => {
            write(file, before, file)?;
            let _: ReloadReport = client.post(Operation::Reload, &json!({})).await?;
            Ok(report)
        }
        Err(error) => {
            write(file, before, file)?;
            Err(anyhow::Error::new(error).context(format!(
                "could not ask the agent to load it, so that {} is as it was",
                file.display()
            )))
        }
    }
}

fn kept(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".before-canary");
    name.into()
}

fn read(file: &Path) -> Result<String> {
    let could_not = || format!("could not read {}", file.display());
    let meta = file.metadata().with_context(could_not)?;
    if !meta.is_file() || meta.len() > MOST_BYTES {
        bail!("{}: it is no file of at most {}", could_not(), text::bytes(MOST_BYTES));
    }
    fs::read_to_string(file).with_context(could_not)
}

/// Writes a file by a rename, with the owner and mode of `like`. A link stays one: what it leads to is replaced.
fn write(file: &Path, text: &str, like: &Path) -> Result<()> {
    let could_not = || format!("could not write {}", file.display());
    let file = &file.canonicalize().unwrap_or_else(|_| file.to_owned());
    let like = like.metadata().with_context(could_not)?;
    // Of a name alone it is empty, which is no folder.
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = file.file_name().with_context(could_not)?.to_string_lossy();
    let temporary = folder.join(format!(".{name}.{}", std::process::id()));
    let _ = fs::remove_file(&temporary);
    let written = || -> std::io::Result<()> {
        let mut new = OpenOptions::new().write(true).create_new(true).open(&temporary)?;
        new.set_permissions(fs::Permissions::from_mode(like.mode() & 0o7777))?;
        fchown(&new, Some(like.uid()), Some(like.gid()))?;
        new.write_all(text.as_bytes())?;
        new.sync_all()?;
        fs::rename(&temporary, file)?;
        File::open(folder)?.sync_all()
    };
    let written = written();
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written.with_context(could_not)
}

fn hash(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn show(report: &CanaryReport, json: JsonArg) -> Result<()> {
    match json.format() {
        Format::Json => print::json(report),
        Format::Text => print::text(&render(report, Colour::of_stdout())),
    }
}

fn render(report: &CanaryReport, colour: Colour) -> String {
    let mut out = String::new();
    let figures = &report.figures;
    let name = report.name.as_deref().unwrap_or("-");
    let state = match report.state {
        CanaryState::None => {
            return "No canary: `shield-agent canary start --config FILE` starts one.\n".to_owned();
        }
        CanaryState::Running => colour.paint(Style::Good, "runs"),
        CanaryState::Ended => "has ended".to_owned(),
        CanaryState::Failed => colour.paint(Style::Bad, "broke down"),
    };
    let mut line = |name: &str, value: String| {
        let _ = writeln!(out, "{name:<12}{value}");
    };
    line("canary", format!("{}: {state}", text::printable(name)));
    line(
        "observed",
        format!("{}, {} judged", text::duration(figures.observed_secs), counted(figures.lines, "line")),
    );
    if figures.lost_lines > 0 || !figures.is_whole {
        let lost = counted(figures.lost_lines, "line");
        line("INCOMPLETE", format!("{lost} left out: it could not keep up, so what follows is not all"));
    }
    line(
        "cost",
        format!("{} ns a line, {} for clients", report.ns_per_line, text::bytes(report.client_bytes)),
    );
    line("site", site(&figures.site));
    line("live", side(figures.live_bans, figures.clients, figures.live_verdict_p99_us));
    line("canary", side(figures.canary_bans, figures.clients, figures.verdict_p99_us));
    line(
        "differ",
        format!(
            "{} more, {} fewer; of the more {} served well within a day, {}, {} new and mostly answered well",
            figures.only_canary,
            figures.only_live,
            figures.known_good,
            counted(figures.search_engines, "search engine"),
            figures.served_strangers
        ),
    );
    for difference in &report.differing {
        line("", differing(difference));
    }
    let total = figures.only_canary + figures.only_live;
    let shown = report.differing.len() as u64;
    if total > shown {
        line("", format!("and {} more", total - shown));
    }
    match report.refusals.as_slice() {
        [] => line("promote", "allowed".to_owned()),
        reasons => reasons.iter().for_each(|reason| line("not yet", reason.clone())),
    }
    out
}

/// The bans of one of the two, and how fast it is.
fn side(bans: u64, clients: u64, p99_us: Option<u64>) -> String {
    let banned = format!(
        "{} banned, {} of {}",
        counted(bans, "client"),
        text::percent(bans, clients),
        counted(clients, "client")
    );
    match p99_us {
        Some(us) => format!("{banned}; 99 of 100 lines judged within {} ms", us as f64 / 1000.0),
        None => banned,
    }
}

fn site(site: &Site) -> String {
    let errors = format!(
        "{}, {} server errors",
        counted(site.answers, "answer"),
        text::percent(site.errors, site.answers)
    );
    match site.p99_ms {
        Some(ms) => format!("{errors}; 99 of 100 took at most {ms} ms"),
        None => format!("{errors}; no times, which need request_time in a JSON log"),
    }
}

/// The canary in one line, for `status`; none without one.
pub(super) fn summary(report: &CanaryReport) -> Option<String> {
    let state = match report.state {
        CanaryState::None => return None,
        CanaryState::Running => "runs",
        CanaryState::Ended => "has ended",
        CanaryState::Failed => "broke down",
    };
    let figures = &report.figures;
    let promotion = match report.refusals.as_slice() {
        [] => "may be promoted".to_owned(),
        [reason] => format!("not to be promoted yet: {reason}"),
        [reason, more @ ..] => {
            format!("not to be promoted yet: {reason}, and {} more", counted(more.len() as u64, "reason"))
        }
    };
    let lost = if figures.is_whole { "" } else { " and not all" };
    Some(format!(
        "{} {state}: {}{lost} in {}, would ban {} more and {} fewer than live; {promotion}",
        text::printable(report.name.as_deref().unwrap_or("-")),
        counted(figures.lines, "line"),
        text::duration(figures.observed_secs),
        counted(figures.only_canary, "client"),
        figures.only_live,
    ))
}

fn differing(difference: &CanaryDifference) -> String {
    let said = |who: &str, hit: &CanaryHit| {
        let condition = hit.condition.as_deref().unwrap_or("no evidence");
        format!("{who} {}: {}", hit.rule.name(), text::printable(condition))
    };
    let mut shown = match (&difference.live, &difference.canary) {
        (Some(live), _) => said("only live:", live),
        (None, Some(canary)) => said("only the canary:", canary),
        (None, None) => String::new(),
    };
    for (is, note) in [
        (difference.is_known_good, "served well within a day"),
        (difference.is_search_engine, "a search engine"),
        (difference.is_served_stranger, "new and mostly answered well"),
    ] {
        if is {
            let _ = write!(shown, " ({note})");
        }
    }
    if let Some(why) = &difference.why_not {
        let _ = write!(shown, "; {}", text::printable(why));
    }
    format!("{}  {shown}", difference.client)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::canary::figures::Figures;

    #[test]
    fn the_status_has_it_in_one_line() {
        assert_eq!(summary(&CanaryReport::default()), None);
        let figures =
            Figures { lines: 12, observed_secs: 60, is_whole: true, only_canary: 1, ..Figures::default() };
        let (state, name) = (CanaryState::Running, Some("new.toml".to_owned()));
        let mut report = CanaryReport { state, name, figures, ..CanaryReport::default() };
        let said = |report: &CanaryReport| summary(report).unwrap();
        let begin = "new.toml runs: 12 lines in 1 min, would ban 1 client more and 0 fewer than live; ";
        assert_eq!(said(&report), format!("{begin}may be promoted"));
        report.refusals = vec!["too early".to_owned(), "b".to_owned(), "c".to_owned()];
        assert_eq!(said(&report), format!("{begin}not to be promoted yet: too early, and 2 reasons more"));
    }

    #[test]
    fn both_sides_stand_beside_each_other() {
        let site = Site { answers: 200, errors: 3, p99_ms: Some(50) };
        let figures = Figures {
            clients: 200,
            live_bans: 2,
            canary_bans: 4,
            verdict_p99_us: Some(500),
            site,
            ..Figures::default()
        };
        let report = CanaryReport { state: CanaryState::Running, figures, ..CanaryReport::default() };
        let shown = render(&report, Colour::Off);
        assert!(shown.contains("live        2 clients banned, 1.0 % of 200 clients\n"), "{shown}");
        assert!(
            shown.contains("4 clients banned, 2.0 % of 200 clients; 99 of 100 lines judged within 0.5 ms\n"),
            "{shown}"
        );
        assert!(
            shown.contains("site        200 answers, 1.5 % server errors; 99 of 100 took at most 50 ms\n"),
            "{shown}"
        );
    }
}
