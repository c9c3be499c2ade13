//! `shield-agent import FILE`: bans the clients of a list, in batches.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;
use serde::Serialize;

use super::client::AgentClient;
use super::lists::bounds::{Wide, width_to_confirm};
use super::lists::{self, Entry, ListFormat, Parsed, Reading, Wrong};
use super::print;
use super::reply::{Format, JsonArg};
use super::{Exit, args};
use crate::api::operation::Operation;
use crate::api::types::{ImportEntry, ImportRequest, MAX_CLIENTS_PER_REQUEST, Term};
use crate::clock;
use crate::text::{count, plural};
use shield_engine::action::{CommandResult, Reply};

/// Entries sent in one request: each is one transaction of the agent.
const BATCH: usize = 2_000;

/// Maximum number of refused and of invalid entries that are listed.
const SHOWN: usize = 20;

#[derive(Debug, Clone, Args)]
pub struct ImportArgs {
    /// The list; `-` for standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The list's format
    #[arg(long, value_enum, default_value_t = ListFormat::Auto)]
    format: ListFormat,
    /// The term of entries that have none
    #[arg(long = "for", value_name = "TIME", value_parser = args::term, default_value = "24h")]
    term: Term,
    /// The reason of entries that have none
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Skip invalid entries instead of importing nothing
    #[arg(long)]
    skip_wrong: bool,
    /// Import every entry or, when the agent refuses one (it is on the allowlist), none: at most 10,000 entries
    #[arg(long, conflicts_with = "skip_wrong")]
    all_or_nothing: bool,
    /// Import networks wider than /8 (IPv4) or /19 (IPv6), which are invalid entries otherwise
    #[arg(long)]
    force: bool,
    /// Read and check the list without banning
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    json: JsonArg,
}

/// The result of an import; its field names are part of `--json`.
#[derive(Debug, Default, Serialize)]
struct Summary {
    /// Entries banned, or to be banned with `--dry-run`.
    banned: u64,
    /// Entries that have ended, or that are not bans.
    passed_over: u64,
    refused: Vec<CommandResult>,
    /// Invalid entries.
    wrong: Vec<Wrong>,
    /// What to know of entries that were sent: the width of a forced network, a reason that was cut.
    remarks: Vec<Wrong>,
    /// Nothing was sent because of `wrong`.
    stopped: bool,
    /// Nothing was banned because of `refused`.
    none_for_one: bool,
}

pub(crate) async fn run(args: &ImportArgs, client: &AgentClient) -> Result<Exit> {
    let text = read(&args.file)?;
    let reading = Reading { now_ms: clock::now().wall_ms, zone: jiff::tz::TimeZone::system() };
    let parsed = lists::parse(&text, args.format, &reading)
        .map_err(anyhow::Error::msg)
        .with_context(|| format!("could not read {}", args.file.display()))?
        .bounded(if args.force { Wide::Accepted } else { Wide::Refused });
    announce(&parsed, args.json.format());
    let summary = send(args, client, parsed).await?;
    match args.json.format() {
        Format::Json => print::json(&summary)?,
        Format::Text => {
            print::text(&summary.render(args.verb()))?;
        }
    }
    Ok(if summary.is_whole(args.skip_wrong) { Exit::Done } else { Exit::Failed })
}

fn read(file: &Path) -> Result<String> {
    let bytes = if file == Path::new("-") {
        let mut bytes = Vec::new();
        std::io::stdin().read_to_end(&mut bytes).context("could not read standard input")?;
        bytes
    } else {
        std::fs::read(file).with_context(|| format!("could not read {}", file.display()))?
    };
    // Comments may be in any encoding; addresses are ASCII.
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Says how many addresses a wide network covers before it is banned: afterwards it is too late to stop it.
fn announce(parsed: &Parsed, format: Format) {
    let wide =
        parsed.entries.iter().filter_map(|entry| Some((entry.client, width_to_confirm(entry.client)?)));
    for (client, width) in wide.filter(|_| format == Format::Text) {
        print::warning(&format!("{client} covers {width}"));
    }
}

async fn send(args: &ImportArgs, client: &AgentClient, parsed: Parsed) -> Result<Summary> {
    let mut summary = Summary {
        passed_over: parsed.passed_over as u64,
        wrong: parsed.wrong,
        remarks: parsed.remarks,
        ..Summary::default()
    };
    if !summary.wrong.is_empty() && !args.skip_wrong {
        summary.stopped = true;
        return Ok(summary);
    }
    let entries: Vec<ImportEntry> = parsed.entries.into_iter().map(|entry| args.complete(entry)).collect();
    if args.dry_run {
        summary.banned = entries.len() as u64;
        return Ok(summary);
    }
    if args.all_or_nothing && entries.len() > MAX_CLIENTS_PER_REQUEST {
        bail!(
            "the list has {}, and at most {} can be imported with --all-or-nothing: split it, or leave that out; nothing was \
             imported",
            plural(entries.len() as u64, "entry", "entries"),
            count(MAX_CLIENTS_PER_REQUEST as u64)
        );
    }
    let batch = if args.all_or_nothing { MAX_CLIENTS_PER_REQUEST } else { BATCH };
    for batch in entries.chunks(batch) {
        let request = ImportRequest { bans: batch.to_vec(), all_or_nothing: args.all_or_nothing };
        let done = summary.banned;
        let reply: Reply = client.post(Operation::Import, &request).await.with_context(|| {
            format!(
                "could not import the whole list ({} banned); import it again, entries that are banned stay as they are",
                plural(done, "entry was", "entries were")
            )
        })?;
        summary.add(reply);
    }
    summary.none_for_one = args.all_or_nothing && !summary.refused.is_empty();
    Ok(summary)
}

impl ImportArgs {
    fn verb(&self) -> &'static str {
        if self.dry_run { "would be banned" } else { "banned" }
    }

    fn complete(&self, entry: Entry) -> ImportEntry {
        ImportEntry {
            client: entry.client,
            term: entry.term.unwrap_or(self.term),
            reason: entry.reason.or_else(|| self.reason.clone()),
        }
    }
}

impl Summary {
    fn add(&mut self, reply: Reply) {
        let all = reply.results.len();
        let refused = self.refused.len();
        self.refused.extend(reply.results.into_iter().filter(|result| !result.ok));
        self.banned += (all - (self.refused.len() - refused)) as u64;
    }

    /// Every entry was banned. Entries refused because of the allowlist were not, so the command fails with them.
    fn is_whole(&self, skip_wrong: bool) -> bool {
        self.refused.is_empty() && (skip_wrong || self.wrong.is_empty())
    }

    fn render(&self, verb: &str) -> String {
        let mut text = String::new();
        let refused = self.refused.iter().map(|result| format!("{}: {}\n", result.client, result.message));
        text.extend(refused.take(SHOWN));
        for list in [&self.wrong, &self.remarks] {
            let lines = list.iter().map(|entry| format!("{}: {}\n", entry.place, entry.why));
            text.extend(lines.take(SHOWN));
        }
        text.push_str(&format!(
            "{} {verb}, {} refused, {} skipped (ended, or not a ban), {} invalid\n",
            count(self.banned),
            count(self.refused.len() as u64),
            count(self.passed_over),
            count(self.wrong.len() as u64)
        ));
        if self.stopped {
            text.push_str(
                "Nothing was imported: correct the list, or skip its invalid entries with --skip-wrong.\n",
            );
        }
        if self.none_for_one {
            text.push_str(
                "Nothing was imported: take the refused entries out of the list, or import without --all-or-nothing.\n",
            );
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refused_and_invalid_entries_are_listed_before_the_sum() {
        let result = |client: &str, ok| CommandResult {
            client: client.parse().unwrap(),
            ok,
            message: if ok { "banned" } else { "not banned: a gateway of this host" }.into(),
        };
        let mut summary = Summary { passed_over: 3, ..Summary::default() };
        summary.add(Reply { results: vec![result("192.0.2.7", true), result("192.0.2.1", false)] });
        assert_eq!(
            summary.render("banned"),
            "192.0.2.1: not banned: a gateway of this host\n\
             1 banned, 1 refused, 3 skipped (ended, or not a ban), 0 invalid\n"
        );
        assert!(!summary.is_whole(true));
    }

    #[test]
    fn a_list_of_which_one_entry_was_refused_as_a_whole_says_so() {
        let refused = CommandResult {
            client: "192.0.2.1".parse().unwrap(),
            ok: false,
            message: "not banned: a gateway of this host".into(),
        };
        let mut summary = Summary { none_for_one: true, ..Summary::default() };
        summary.add(Reply { results: vec![refused] });
        let text = summary.render("banned");
        assert!(
            text.contains("0 banned, 1 refused") && text.contains("Nothing was imported: take the refused"),
            "{text}"
        );
        assert!(!summary.is_whole(false));
    }

    #[test]
    fn a_wrong_list_imports_nothing_and_says_so() {
        let wrong = vec![Wrong { place: "line 7".into(), why: "nonsense".into() }];
        let summary = Summary { wrong, stopped: true, ..Summary::default() };
        let text = summary.render("banned");
        assert!(text.starts_with("line 7: nonsense\n") && text.contains("--skip-wrong"), "{text}");
        assert!(!summary.is_whole(false) && summary.is_whole(true));
    }
}
