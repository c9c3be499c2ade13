//! What the fuzz targets read with: parts that have no other door to the outside, as functions of bytes.

use std::path::Path;
use std::sync::Arc;

use axum::{Extension, Router};
use shield_engine::client::Client;

use crate::api::backend::Backend;
use crate::api::feed::Feed;
use crate::api::live::Live;
use crate::api::types::{Transport, Whoami};
use crate::api::{Settings, routes};
use crate::cli::lists::{self, ListFormat, Reading};
use crate::notify::audit::chain::{self, Head, Verifier};

/// The bans of [`database`].
pub const BANS: usize = 20;

const NOW: shield_engine::time::Now =
    shield_engine::time::Now { wall_ms: 1_800_000_000_000, boot_ms: 5_000_000 };

/// The API's routes for a caller who may change everything, without a socket.
pub fn router(backend: Arc<dyn Backend>) -> Router {
    let settings = Settings { history_path: None, ..Settings::default() };
    let live = Arc::new(Live::new(backend, Arc::new(Feed::new(NOW)), None));
    let whoami = Whoami { transport: Transport::Unix, may_change: true, token_for_reads: false };
    routes::router(&Arc::new(routes::Api::new(live, settings))).layer(Extension(whoami))
}

/// What `import` makes of a list.
pub struct List {
    pub clients: Vec<Client>,
    /// Entries that are refused, each with its place and why.
    pub wrong: Vec<(String, String)>,
    pub passed_over: usize,
}

/// Reads a list; `format` is one that `--format` takes.
///
/// # Errors
/// Why the list as a whole cannot be read.
pub fn list(text: &str, format: &str) -> Result<List, String> {
    let format = <ListFormat as clap::ValueEnum>::from_str(format, false)?;
    let parsed = lists::parse(text, format, &Reading { now_ms: NOW.wall_ms, zone: jiff::tz::TimeZone::UTC })?;
    Ok(List {
        clients: parsed.entries.iter().map(|entry| entry.client).collect(),
        wrong: parsed.wrong.into_iter().map(|wrong| (wrong.place, wrong.why)).collect(),
        passed_over: parsed.passed_over,
    })
}

/// An audit log of `lines` lines.
pub fn audit_log(lines: u64) -> Vec<u8> {
    let (mut text, mut head) = (Vec::new(), Head::default());
    for n in 0..lines {
        let event = serde_json::json!({"event": "banned", "client": format!("192.0.2.{n}"), "reason": "a \"quoted\" one"});
        head = chain::append(&mut text, &head, "2027-01-15T08:00:00Z", &event).expect("the event is JSON");
    }
    text
}

/// The problems that `audit verify` finds in a log of which the database remembers the last line of `written`; and the lines that
/// a crash tore, by the log's own record.
pub fn audit_problems(text: &[u8], written: &[u8]) -> (u64, u64) {
    let (last, _) = chain::end_of(written);
    let mut verifier = last.map_or_else(Verifier::default, Verifier::expect);
    let lines = text.strip_suffix(b"\n").unwrap_or(text).split(|byte| *byte == b'\n');
    lines.zip(1..).for_each(|(line, number)| verifier.line("audit.jsonl", number, line));
    verifier.finish();
    (verifier.problem_count, verifier.torn)
}

/// Reads `text` as the report does. Returns the report.
pub fn audit_report(text: &[u8]) -> String {
    let mut report = crate::notify::audit::report::Report::new(0, NOW.wall_ms);
    text.split(|byte| *byte == b'\n').for_each(|line| report.line(line));
    report.markdown()
}

/// A database with some bans and offences, as its file.
pub fn database(folder: &Path) -> Vec<u8> {
    use crate::store::boots::BootId;
    use crate::store::{Settings, Store};
    use shield_engine::action::{BanRecord, Record};
    use shield_engine::ban::{Ban, Place};
    use shield_engine::time::Ends;
    use shield_engine::verdict::Rule;

    let settings = Settings { dir: folder.to_owned(), ..Settings::default() };
    let (mut store, _) = Store::open(&settings, &BootId::from_text("a"), NOW).expect("an empty folder");
    let banned = |n: u32| {
        let client = Client::from(std::net::Ipv4Addr::from_bits(0xcb00_7100 + n));
        let ban = Ban {
            client,
            serial: u64::from(n) + 1,
            since_ms: NOW.wall_ms,
            ends: Ends::Never,
            offence: std::num::NonZeroU32::new(1 + n % 4),
            rule: Rule::ALL[n as usize % Rule::ALL.len()],
            place: Place::Everywhere,
        };
        Record::Banned(Box::new(BanRecord { ban, reason: Some(format!("reason {n}")), evidence: None }))
    };
    store.commit(&(0..BANS as u32).map(banned).collect::<Vec<_>>(), NOW).expect("the bans are stored");
    store.checkpoint().expect("the journal is emptied");
    drop(store);
    std::fs::read(settings.file()).expect("the database is there")
}

/// What a start reads of a database, or why it does not start.
#[derive(Debug, PartialEq, Eq)]
pub enum Started {
    /// The bans that were read.
    Bans(Vec<Client>),
    /// The file was moved aside, to here.
    MovedAside(std::path::PathBuf),
    Refused(String),
}

/// Starts on a file of these bytes in an empty folder, and reads all that a start reads.
pub fn start_on_database(folder: &Path, bytes: &[u8]) -> Started {
    use crate::store::boots::BootId;
    use crate::store::{Found, Settings, Store};

    let settings = Settings { dir: folder.to_owned(), ..Settings::default() };
    std::fs::write(settings.file(), bytes).expect("the folder takes a file");
    let (mut store, found) = match Store::open(&settings, &BootId::from_text("a"), NOW) {
        Ok(opened) => opened,
        Err(error) => return Started::Refused(format!("{error:#}")),
    };
    if let Found::Damaged { moved_to, .. } = found {
        return Started::MovedAside(moved_to);
    }
    let mut bans = Vec::new();
    let read = store
        .load()
        .map(drop)
        .and_then(|()| store.for_each_record(NOW, |record| bans.push(record.ban.client)))
        .and_then(|()| store.for_each_offence(|_, _, _| ()))
        .and_then(|()| store.for_each_remote(|_, _, _| ()));
    // Whoever starts the agent is told of rows that were left out.
    let _ = store.keep_unreadable_aside(NOW);
    match read {
        Ok(()) => Started::Bans(bans),
        Err(error) => Started::Refused(format!("{error:#}")),
    }
}
