//! The last lines of the logs, read and judged as the running agent would.
//!
//! Bounded, and without waiting: at most [`TAIL_BYTES`] of each of [`MAX_LOGS`] logs are read, and of regular files alone. A named
//! pipe would block until somebody writes to it, and what is read of it is lost to the agent.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::net::IpAddr;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::Serialize;

use crate::config::Config;
use crate::source::file::access;
use crate::source::sight::surroundings;
use crate::source::{FileId, Input, Place, Settings};
use crate::text;
use shield_engine::request::{Batch, Rejected};
use shield_logline::sight::{self, Finding, Surroundings};
use shield_logline::{Output, Parser};

/// Bytes and lines read at the end of a log.
const TAIL_BYTES: u64 = 1 << 20;
const TAIL_LINES: usize = 1_000;

/// Logs that are read; a pattern can match thousands.
const MAX_LOGS: usize = 200;

/// Names of fields that are shown.
const MAX_FIELDS: usize = 40;

/// Whether rules do not ban an address.
type Spares<'a> = &'a dyn Fn(&std::net::IpAddr) -> bool;

/// What was found out about one log.
#[derive(Debug, Serialize)]
pub(in crate::cli) struct CheckedLog {
    pub source: String,
    pub path: String,
    /// Why nothing was read; null when it was.
    pub unread: Option<String>,
    /// The format that the lines were read by; null when none was.
    pub format: Option<&'static str>,
    /// Lines looked at, rejected ones included.
    pub lines: u64,
    pub rejected: u64,
    /// By reason, for those that occurred.
    pub rejected_by: BTreeMap<&'static str, u64>,
    /// The beginning of the first rejected line, and why it was.
    pub first_rejected: Option<FirstRejected>,
    /// The names of a JSON line's fields, those of nested objects joined by dots.
    pub fields: Vec<String>,
    /// Different clients.
    pub clients: u64,
    #[serde(skip)]
    pub addrs: BTreeSet<IpAddr>,
    /// Those of them that rules do not ban: on the allowlist, or in a network of a CDN.
    pub clients_spared: u64,
    /// The first and the last time, in milliseconds.
    pub times_ms: Option<(i64, i64)>,
    /// What of the configuration holds for none of these lines.
    pub idle: Option<&'static str>,
    /// The kind of what is wrong.
    pub state: Option<&'static str>,
    /// What is wrong, and what to do.
    pub problem: Option<String>,
}

#[derive(Debug, Serialize)]
pub(in crate::cli) struct FirstRejected {
    pub begins: String,
    pub reason: &'static str,
    pub because: &'static str,
}

/// The logs looked at, and how many were left out.
#[derive(Debug, Serialize)]
pub(in crate::cli) struct CheckedLogs {
    pub logs: Vec<CheckedLog>,
    pub left_out: u64,
}

impl CheckedLogs {
    /// The addresses of all clients.
    pub(super) fn addrs(&self) -> BTreeSet<IpAddr> {
        self.logs.iter().flat_map(|log| &log.addrs).copied().collect()
    }

    /// Returns whether something is wrong with any of them.
    pub(in crate::cli) fn has_problem(&self) -> bool {
        self.logs.iter().any(|log| log.problem.is_some())
    }
}

/// Looks at every configured log.
pub(in crate::cli) fn look(config: &Config) -> CheckedLogs {
    let mut checked = CheckedLogs { logs: Vec::new(), left_out: 0 };
    let mut names: BTreeMap<FileId, PathBuf> = BTreeMap::new();
    for settings in &config.sources {
        let Input::Files(text) = &settings.input else { continue };
        let around = surroundings(&settings.format.trusted_proxies, &settings.known);
        for path in Place::of(text).paths() {
            if checked.logs.len() >= MAX_LOGS {
                checked.left_out += 1;
                continue;
            }
            // As the agent: of several names of one file the first reads it.
            let id = path.metadata().ok().map(|meta| FileId::of(&meta));
            let twin = id.and_then(|id| names.get(&id)).map(|of| text::access::is_twin(&path, of));
            checked.logs.push(match twin {
                Some(twin) => CheckedLog { unread: Some(twin), ..unread(settings, &path) },
                None => {
                    let spares = |addr: &std::net::IpAddr| {
                        config.allow.iter().chain(&config.infrastructure).any(|it| it.network.contains(addr))
                    };
                    let log = look_at(settings, &path, &around, &spares);
                    let has_sites = !config.policy.sites.is_empty();
                    CheckedLog { idle: log.idle.filter(|_| has_sites), ..log }
                }
            });
            if let Some(id) = id {
                names.entry(id).or_insert(path);
            }
        }
    }
    checked
}

fn look_at(settings: &Settings, path: &Path, around: &Surroundings, spares: Spares<'_>) -> CheckedLog {
    if let Some(why) = access::unreadable(path) {
        return CheckedLog { unread: Some(why), ..unread(settings, path) };
    }
    match tail(path) {
        Ok(Tail::Lines(block)) => judge(settings, path, block, around, spares),
        Ok(Tail::Not(what)) => CheckedLog { unread: Some(what.to_owned()), ..unread(settings, path) },
        Err(error) => CheckedLog { unread: Some(why_unread(&error)), ..unread(settings, path) },
    }
}

fn why_unread(error: &anyhow::Error) -> String {
    let kind = error.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
    match kind {
        Some(ErrorKind::NotFound) => "does not exist yet: the agent waits for it".to_owned(),
        Some(ErrorKind::PermissionDenied) => {
            "not readable by this user: run `check` as the agent's user; the agent waits until it can read it"
                .to_owned()
        }
        _ => format!("{error:#}"),
    }
}

fn unread(settings: &Settings, path: &Path) -> CheckedLog {
    CheckedLog {
        source: settings.name.clone(),
        path: path.display().to_string(),
        unread: None,
        format: None,
        lines: 0,
        rejected: 0,
        rejected_by: BTreeMap::new(),
        first_rejected: None,
        fields: Vec::new(),
        clients: 0,
        addrs: BTreeSet::new(),
        clients_spared: 0,
        times_ms: None,
        idle: None,
        state: None,
        problem: None,
    }
}

/// The end of a log.
enum Tail {
    /// Its last complete lines.
    Lines(Vec<u8>),
    /// Not a regular file.
    Not(&'static str),
}

fn tail(path: &Path) -> anyhow::Result<Tail> {
    // Without O_NONBLOCK, opening a named pipe waits for its writer.
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    let mut file = File::options().read(true).custom_flags(flags).open(path)?;
    let meta = file.metadata()?;
    let kind = meta.file_type();
    if !kind.is_file() {
        return Ok(Tail::Not(match () {
            () if kind.is_fifo() => "a named pipe, whose lines only the agent can read",
            () if kind.is_dir() => "a folder",
            () => "not a file",
        }));
    }
    let from = meta.len().saturating_sub(TAIL_BYTES);
    file.seek(SeekFrom::Start(from)).context("could not go to the end of the log")?;
    let mut block = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut block).context("could not read the end of the log")?;
    Ok(Tail::Lines(last_lines(&block, from > 0).to_vec()))
}

/// The last complete lines of the block, whose first is none when it `is_cut`.
fn last_lines(block: &[u8], is_cut: bool) -> &[u8] {
    let start = if is_cut { memchr::memchr(b'\n', block).map_or(block.len(), |at| at + 1) } else { 0 };
    let end = memchr::memrchr(b'\n', block).map_or(start, |at| at + 1);
    let lines = block.get(start..end).unwrap_or_default();
    let mut ends = memchr::memrchr_iter(b'\n', lines);
    let cut = ends.nth(TAIL_LINES).map_or(0, |at| at + 1);
    lines.get(cut..).unwrap_or_default()
}

fn judge(
    settings: &Settings,
    path: &Path,
    mut block: Vec<u8>,
    around: &Surroundings,
    spares: Spares<'_>,
) -> CheckedLog {
    let fields = block.split(|byte| *byte == b'\n').rev().find_map(field_names).unwrap_or_default();
    let mut parser = Parser::new(&settings.format);
    let mut out = Output::default();
    let end = block.len();
    parser.parse_block(&mut block, 0, end, &mut out);
    let batch = Batch {
        bytes: block,
        lines: out.lines,
        rejected: out.rejected,
        first_refused: out.first_refused,
        format: out.format,
        ..Batch::default()
    };
    let finding = sight::at_a_glance(&batch, around);
    let rejected: u64 = batch.rejected.iter().sum();
    let times = || batch.lines.iter().map(|line| line.time.saturating_mul(1_000));
    let addrs: BTreeSet<IpAddr> = batch.lines.iter().map(|line| line.addr).collect();
    CheckedLog {
        format: batch.format,
        lines: batch.lines.len() as u64 + rejected,
        rejected,
        rejected_by: Rejected::ALL
            .iter()
            .map(|why| (why.name(), batch.rejected[why.index()]))
            .filter(|(_, count)| *count > 0)
            .collect(),
        first_rejected: batch.first_refused.as_ref().map(|first| FirstRejected {
            begins: text::beginning(&first.text),
            reason: first.reason.name(),
            because: text::rejected(first.reason),
        }),
        clients: addrs.len() as u64,
        clients_spared: addrs.iter().filter(|addr| spares(addr)).count() as u64,
        addrs,
        times_ms: times().min().zip(times().max()),
        idle: (batch.lines.iter().all(|line| batch.server_of(line).is_empty()) && !batch.lines.is_empty())
            .then_some(text::NO_SERVER_NAME),
        state: finding.as_ref().map(|finding| finding.kind().name()),
        problem: finding.as_ref().map(|finding| problem(finding, &fields)),
        fields,
        ..unread(settings, path)
    }
}

/// The finding with what can be said only here.
fn problem(finding: &Finding, fields: &[String]) -> String {
    let is_refused = matches!(finding, Finding::Refused(_) | Finding::SomeRefused(_));
    let said = text::finding(finding).replace("; see `shield-agent check`", "");
    let remedy = match (is_refused, fields.is_empty()) {
        (false, _) => "",
        (true, false) => {
            "; name the fields with the client's address, the time and the status: fields = { source_ip = \"…\", \
             timestamp = \"…\", status = \"…\" } in [[source]]"
        }
        (true, true) => {
            "; `shield-agent init nginx` prints what to write in nginx's configuration or in [[source]]"
        }
    };
    format!("{said}{remedy}")
}

/// The names of the fields of a line, if it is a JSON object.
fn field_names(line: &[u8]) -> Option<Vec<String>> {
    let names = shield_logline::names_in(line);
    let shown = names.iter().take(MAX_FIELDS).map(|name| text::printable(name)).collect();
    (!names.is_empty()).then_some(shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(log: &Path, more: &str) -> Config {
        Config::parse(&format!("[[source]]\npath = {log:?}\n{more}")).unwrap()
    }

    fn check(text: &str, more: &str) -> CheckedLog {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("access.log");
        std::fs::write(&log, text).unwrap();
        look(&config(&log, more)).logs.remove(0)
    }

    const LINE: &str = "192.0.2.7 - - [24/Nov/2026:14:35:01 +0000] \"GET / HTTP/1.1\" 200 5 \"-\" \"-\"\n";

    #[test]
    fn the_last_lines_of_a_log_are_counted_and_described() {
        let log = check(&format!("{}{LINE}half a line", "rubbish\n".repeat(2)), "");
        assert_eq!((log.lines, log.rejected, log.clients, log.format), (3, 2, 1, Some("combined")));
        assert_eq!(log.times_ms, Some((1_795_530_901_000, 1_795_530_901_000)));
        assert_eq!(log.first_rejected.unwrap().begins, "rubbish");
        assert_eq!(log.state, Some("refused"));
        let good = check(&LINE.repeat(3_000), "");
        assert_eq!((good.lines, good.rejected, good.problem), (1_000, 0, None));
        let empty = check("", "");
        assert_eq!((empty.lines, empty.problem), (0, None));
    }

    /// History: four sources that matched one log were told its last lines four times.
    #[test]
    fn a_log_of_several_names_is_looked_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let (log, link) = (folder.path().join("b.log"), folder.path().join("a.log"));
        std::fs::write(&log, LINE).unwrap();
        std::os::unix::fs::symlink(&log, &link).unwrap();
        let more = format!("[[source]]\npath = {:?}\n", folder.path().join("*.log"));
        let logs = look(&config(&log, &more)).logs;
        let said: Vec<_> = logs.iter().map(|log| (log.lines, log.unread.clone())).collect();
        let log = log.display();
        let again = "an earlier [[source]] names it too; read once, there".to_owned();
        let linked = format!("the same file as {log}; read once, as that");
        assert_eq!(said, [(1, None), (0, Some(again)), (0, Some(linked))]);
    }

    #[test]
    fn a_long_log_is_read_from_its_end_and_never_more_than_a_megabyte() {
        let long = format!("{}\n{LINE}", "x".repeat(3 << 20));
        let log = check(&long, "");
        assert_eq!((log.lines, log.rejected), (1, 0), "the cut line is none");
        assert_eq!(last_lines(b"a\nb\nc", true), b"b\n");
        assert_eq!(last_lines(b"abc", false), b"");
    }

    #[test]
    fn the_fields_of_json_that_does_not_fit_are_named() {
        let line = r#"{"who":{"is":"192.0.2.7"},"what":"/","moment":1795530901,"answer":200}"#;
        let log = check(&format!("{line}\n").repeat(5), "");
        assert_eq!(log.fields, ["who.is", "what", "moment", "answer"]);
        assert!(log.problem.as_ref().unwrap().contains("source_ip = "), "{log:?}");
    }

    /// `check` is the unit's ExecStartPre: it must not wait for somebody to write to a pipe.
    #[test]
    fn a_named_pipe_does_not_block() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("access.log");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let checked = look(&config(&pipe, ""));
        assert!(checked.logs[0].unread.as_ref().unwrap().contains("named pipe"));
        assert!(!checked.has_problem());
    }

    #[test]
    fn one_gateway_for_all_clients_is_a_problem() {
        let line = |n: u64| {
            let at = format!("24/Nov/2026:14:{:02}:01 +0000", n / 20);
            format!("172.18.0.1 - - [{at}] \"GET /page/{n} HTTP/1.1\" 200 5 \"-\" \"-\"\n")
        };
        let log = check(&(0..600).map(line).collect::<String>(), "");
        assert_eq!(log.state, Some("one_client"));
        assert!(log.problem.unwrap().contains("set_real_ip_from 172.18.0.1;"));
    }
}
