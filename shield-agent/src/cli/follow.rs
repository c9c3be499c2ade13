//! `shield-agent status --follow`: a sample of the agent's state each ten seconds, as a line of JSON in a file that stays bounded.
//!
//! What is written when: a sample is appended whole, with its newline. A file that would grow beyond its bound is renamed to
//! `FILE.1` first, `FILE.1` to `FILE.2` and so on; the oldest goes. An agent that does not answer is a sample too, with `error`:
//! a gap in the file means that nobody watched.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::MissedTickBehavior;

use super::Exit;
use super::client::AgentClient;
use super::print;
use crate::api::operation::Operation;
use crate::api::types::{Health, PartStateName, PostureState, Status};
use crate::clock;
use crate::notify::audit::stamp;
use crate::text;

/// The size of one file, and how many that were rotated are kept: 32 MiB at most in all, about a week.
const MAX_FILE_BYTES: u64 = 8 << 20;
const KEPT: u32 = 3;

/// Grows when a field changes its meaning or goes; new ones come without that.
const VERSION: u32 = 1;

/// One line of the file.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Sample<'s> {
    Answered(Box<Answered<'s>>),
    Silent { at: String, v: u32, error: String },
}

#[derive(Debug, Serialize)]
struct Answered<'s> {
    /// When it was asked: RFC 3339, UTC.
    at: String,
    v: u32,
    version: &'s str,
    uptime_secs: u64,
    dry_run: bool,
    /// One of the seven states, as `status` shows.
    posture: PostureState,
    health: Health,
    /// Names of the parts that are degraded.
    degraded: Vec<&'s str>,
    /// Requests, errors and requests of banned clients per second in the window.
    rate: f64,
    error_rate: f64,
    banned_rate: f64,
    /// What the rate is compared with, requests per second.
    mean: f64,
    stddev: f64,
    anomaly: bool,
    /// Totals since the first start.
    requests: u64,
    errors: u64,
    rejected: u64,
    bans_made: u64,
    bans_ended: u64,
    /// In force now.
    bans: u64,
    slowed: u64,
    withheld: u64,
    /// Dropped since the start.
    dropped_packets: u64,
    dropped_bytes: u64,
    dropped_packets_per_sec: f64,
    /// Clients that the detector knows.
    clients: u64,
    cpu_percent: f64,
    memory_bytes: u64,
}

fn sample<'s>(status: &'s Status, at_ms: i64) -> Sample<'s> {
    let degraded = status.parts.iter().filter(|part| part.state == PartStateName::Degraded);
    Sample::Answered(Box::new(Answered {
        at: stamp(at_ms),
        v: VERSION,
        version: &status.version,
        uptime_secs: status.agent.uptime_secs,
        dry_run: status.dry_run,
        posture: status.posture.state,
        health: status.health,
        degraded: degraded.map(|part| part.part.as_str()).collect(),
        rate: status.global.rate,
        error_rate: status.global.error_rate,
        banned_rate: status.global.banned_rate,
        mean: status.baseline.mean,
        stddev: status.baseline.stddev,
        anomaly: status.global.anomaly.is_some(),
        requests: status.totals.requests,
        errors: status.totals.errors,
        rejected: status.totals.rejected,
        bans_made: status.totals.bans,
        bans_ended: status.totals.lifts,
        bans: status.bans.active,
        slowed: status.slowed.active,
        withheld: status.withheld.clients,
        dropped_packets: status.dropped.packets,
        dropped_bytes: status.dropped.bytes,
        dropped_packets_per_sec: status.dropped.packets_per_sec,
        clients: status.detector.clients,
        cpu_percent: status.agent.cpu_percent,
        memory_bytes: status.agent.memory_bytes,
    }))
}

/// Samples until a signal ends it, or until there are `count`.
pub(super) async fn follow(
    out: &Path,
    every: Duration,
    count: Option<u64>,
    client: &AgentClient,
) -> Result<Exit> {
    let mut samples = Samples::open(out)?;
    print::text(&format!("a sample each {} into {}\n", text::duration(every.as_secs()), out.display()))?;
    let (mut interrupts, mut ends) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut trouble = String::new();
    let mut written = 0;
    while count.is_none_or(|count| written < count) {
        tokio::select! {
            _ = ticks.tick() => {}
            _ = interrupts.recv() => break,
            _ = ends.recv() => break,
        }
        let at_ms = clock::now().wall_ms;
        let appended = match client.get::<Status>(Operation::Status, &[]).await {
            Ok(status) => samples.append(&sample(&status, at_ms)),
            Err(error) => {
                samples.append(&Sample::Silent { at: stamp(at_ms), v: VERSION, error: error.to_string() })
            }
        };
        written += 1;
        // A disk that is full for an hour is said once, and the file goes on afterwards.
        let said = appended.err().map(|error| format!("{error:#}")).unwrap_or_default();
        if !said.is_empty() && said != trouble {
            print::warning(&said);
        }
        trouble = said;
    }
    Ok(if trouble.is_empty() { Exit::Done } else { Exit::Failed })
}

/// The file, open for appending.
struct Samples {
    path: PathBuf,
    file: File,
    max_bytes: u64,
}

impl Samples {
    fn open(path: &Path) -> Result<Samples> {
        let file = open(path).with_context(|| format!("could not open {}", path.display()))?;
        Ok(Samples { path: path.to_owned(), file, max_bytes: MAX_FILE_BYTES })
    }

    fn append(&mut self, sample: &impl Serialize) -> Result<()> {
        let mut line = serde_json::to_vec(sample).context("could not encode a sample")?;
        line.push(b'\n');
        let could_not = || format!("could not write a sample to {}", self.path.display());
        let len = self.file.metadata().with_context(could_not)?.len();
        if len > 0 && len + line.len() as u64 > self.max_bytes {
            self.file = rotate(&self.path).with_context(could_not)?;
        }
        let len = self.file.metadata().with_context(could_not)?.len();
        let written = self.file.write_all(&line);
        if written.is_err() {
            // Half a line is worse than none.
            let _ = self.file.set_len(len);
        }
        written.with_context(could_not)
    }
}

/// Opens a regular file for appending; one that ends within a line gets its newline.
fn open(path: &Path) -> Result<File> {
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_NOFOLLOW;
    let mut options = OpenOptions::new();
    options.read(true).append(true).create(true).mode(0o640).custom_flags(flags);
    let mut file = options.open(path)?;
    let meta = file.metadata()?;
    if !meta.is_file() {
        bail!("it is no regular file: name another with --out");
    }
    if meta.len() > 0 {
        file.seek(SeekFrom::End(-1))?;
        let mut last = [0];
        file.read_exact(&mut last)?;
        if last != *b"\n" {
            file.write_all(b"\n")?;
        }
    }
    Ok(file)
}

fn rotate(path: &Path) -> Result<File> {
    let numbered = |n: u32| {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".{n}"));
        PathBuf::from(name)
    };
    for n in (1..KEPT).rev() {
        rename_if_there(&numbered(n), &numbered(n + 1))?;
    }
    rename_if_there(path, &numbered(1))?;
    open(path)
}

fn rename_if_there(from: &Path, to: &Path) -> std::io::Result<()> {
    match fs::rename(from, to) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn a_sample_has_the_documented_fields() {
        let status = crate::cli::doctor::tests::status();
        let written = serde_json::to_value(sample(&status, 1_778_537_253_000)).unwrap();
        let fields: Vec<&str> = written.as_object().unwrap().keys().map(String::as_str).collect();
        let docs = include_str!("../../../docs/operating.md");
        for field in &fields {
            assert!(docs.contains(&format!("`{field}`")), "docs/operating.md does not name {field}");
        }
        assert_eq!(written["at"], "2026-05-11T22:07:33.000Z");
        assert_eq!(written["v"], 1);
        assert!(written.to_string().len() < 1_000, "a week fits: {written}");
    }

    #[test]
    fn the_files_stay_bounded_and_no_line_is_cut() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("history.jsonl");
        fs::write(&path, "{\"torn").unwrap();
        let mut samples = Samples { max_bytes: 1_000, ..Samples::open(&path).unwrap() };
        (0..200).for_each(|n| samples.append(&json!({ "n": n, "pad": "x".repeat(60) })).unwrap());
        let mut names: Vec<String> = fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, ["history.jsonl", "history.jsonl.1", "history.jsonl.2", "history.jsonl.3"]);
        let mut numbers = Vec::new();
        for name in names.iter().rev() {
            let text = fs::read_to_string(dir.path().join(name)).unwrap();
            assert!(text.len() <= 1_000 && text.ends_with('\n'), "{name}");
            let number = |line: &str| serde_json::from_str::<Value>(line).unwrap()["n"].as_u64().unwrap();
            numbers.extend(text.lines().map(number));
        }
        assert_eq!(numbers.last(), Some(&199));
        assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1), "{numbers:?}");
    }

    #[test]
    fn a_link_and_a_folder_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Samples::open(dir.path()).is_err());
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(dir.path().join("target"), &link).unwrap();
        assert!(Samples::open(&link).is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn an_agent_that_does_not_answer_is_a_sample() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("history.jsonl");
        let endpoint = super::super::client::Endpoint::Unix(dir.path().join("no.sock"));
        let client = AgentClient::new(endpoint);
        follow(&path, Duration::from_secs(10), Some(2), &client).await.unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().count(), 2, "{text}");
        let last: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
        assert!(last["error"].as_str().unwrap().contains("could not connect"), "{last}");
    }
}
