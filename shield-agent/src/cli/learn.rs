//! `shield-agent learn FILE…`: a warm start. Past logs go through the engine as in a replay; what they teach about the site is
//! stored where the agent's next start finds it. Bans, offences and positions stay as they are.
//!
//! The store's lock keeps a running agent out, which would write over it within a minute.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Args;

use super::replay::{Progress, say};
use super::reply::{Format, JsonArg};
use super::run::ConfigArg;
use super::{Exit, print};
use crate::clock;
use crate::config::Config;
use crate::replay::Replay;
use crate::replay::input::{self, Arranged, Input};
use crate::store::{self, BootId, Store};
use crate::text::learned::{Learned, render};
use shield_engine::allowlist::{Allowed, Allowlist};
use shield_engine::backoff::{Backoff, Term};
use shield_engine::request::{Batch, Rejected};
use shield_engine::settings::Settings;
use shield_engine::time::EventSecs;
use shield_logline::Settings as FormatSettings;

/// Lines dated further ahead of the clock than this were not written yet.
const AHEAD_SECS: EventSecs = 300;

#[derive(Debug, Clone, Args)]
pub(crate) struct LearnArgs {
    /// Access logs, in any order: JSON or nginx's combined format, plain, .gz, .bz2, .xz or .zst; - for standard input
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    #[command(flatten)]
    config: ConfigArg,
    /// Take the place of what the agent has learned so far
    #[arg(long)]
    replace: bool,
    #[command(flatten)]
    json: JsonArg,
}

/// Learns and stores. Nothing is stored unless every file could be read.
///
/// # Errors
/// When an agent runs on the state directory, when it has learned before and `--replace` is missing, when a file cannot be read or
/// is no access log, or when nothing can be stored.
pub(crate) fn run(args: &LearnArgs) -> Result<Exit> {
    let config = args.config.load()?;
    let settings = store::Settings { dir: config.state_dir.clone(), ..store::Settings::default() };
    let boot_id = BootId::current().context("could not tell this boot from others")?;
    let mut store = Store::open_sound(&settings, &boot_id, clock::now())?;
    let known = store.load().context("could not read what the agent knows")?;
    if known.baseline.is_some() && !args.replace {
        bail!(
            "could not learn: the agent has learned from live lines already, in {}; name enough past logs and say --replace to put \
             what they teach in its place",
            settings.file().display()
        );
    }
    let inputs: Vec<Input> = args.files.iter().map(|file| Input::of(file)).collect();
    let (mut learned, record) = learn(inputs, &config, known.allowed)?;
    if learned.requests == 0 {
        bail!("could not learn: the logs hold no request; nothing was changed");
    }
    let record = record.context("could not learn: the engine saved nothing")?;
    store.commit([&record], clock::now()).context("could not store what was learned; nothing was changed")?;
    store.checkpoint().context("could not finish storing what was learned")?;
    learned.stored_in = settings.file().display().to_string();
    match args.json.format() {
        Format::Json => print::json(&learned)?,
        Format::Text => print::text(&render(&learned))?,
    }
    Ok(Exit::Done)
}

fn learn(
    inputs: Vec<Input>,
    config: &Config,
    allowed: Vec<Allowed>,
) -> Result<(Learned, Option<shield_engine::action::Record>)> {
    let first_format = config.sources.first().map_or_else(FormatSettings::default, |s| s.format.clone());
    let Arranged { inputs, notes } = input::arrange(inputs, &first_format)?;
    notes.iter().for_each(|note| say(note));
    let allowlist = Allowlist::new(config.allow.iter().chain(&config.infrastructure).copied().chain(allowed));
    let mut replay = Replay::new(settings(config), config.policy.clone(), allowlist);
    let paths = replay.path_reader();
    let progress = Progress::of(&inputs);
    let newest = clock::now().wall_secs().saturating_add(AHEAD_SECS);
    let (mut ahead, mut damaged) = (0, 0);
    let with_format = |input: Input| {
        let format = format_of(&input, config).unwrap_or(&first_format).clone();
        (input, format)
    };
    let inputs = inputs.into_iter().map(with_format).collect();
    let each = |batch: &mut Batch| {
        let read = batch.lines.len();
        batch.lines.retain(|line| line.time <= newest);
        ahead += (read - batch.lines.len()) as u64;
        replay.feed(batch);
        progress.show();
        Ok(())
    };
    input::read_beside(inputs, &progress.read_bytes, paths, each, |damage| {
        damaged += 1;
        say(&format!("{damage}; nothing was learned from the rest of it"));
    })?;
    progress.end();
    let (outcome, status, lessons, record) = replay.learned();
    let rejected = Rejected::ALL.iter().zip(outcome.rejected).filter(|(why, _)| **why != Rejected::Empty);
    let learned = Learned {
        requests: outcome.requests,
        clients: outcome.clients,
        span: outcome.span,
        hours_of_day: status.hour_slots,
        warm_up_left_secs: status.warm_up_left_secs,
        lessons,
        attackers: outcome.clients_banned,
        not_requests: rejected.map(|(_, count)| count).sum(),
        dated_ahead: ahead,
        damaged_files: damaged,
        stored_in: String::new(),
    };
    Ok((learned, record))
}

/// Whoever the rules find is out for the rest of the logs: live, its packets would be dropped, and its next attack too.
fn settings(config: &Config) -> Settings {
    let forever = Backoff::new(vec![Term::Permanent], config.engine.backoff.forget_after_secs());
    Settings { backoff: forever.expect("one term is a ladder"), ..config.engine.clone() }
}

/// The format of the source that the file is, or was, a log of: `access.log.2.gz` of `access.log`.
fn format_of<'a>(input: &Input, config: &'a Config) -> Option<&'a FormatSettings> {
    let Input::File(path) = input else { return None };
    let path = path.to_str()?;
    let stem = |name: &str| name.split('*').next().unwrap_or_default().len();
    let own = config.sources.iter().filter(|source| {
        let beginning = &source.name[..stem(&source.name)];
        !beginning.is_empty() && path.starts_with(beginning)
    });
    own.max_by_key(|source| stem(&source.name)).map(|source| &source.format)
}
