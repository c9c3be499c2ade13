//! Real logs through a running source: every line counted, none refused.
//!
//! The logs are in `../shared/data` next to the checkout and are never copied into the repository. Without that folder the
//! test prints a notice and passes; with `SHIELD_REQUIRE_DATA=1` it fails.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails there")]

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use flate2::read::MultiGzDecoder;
use shield_agent::test_support::source::{self, Pool, Snapshot};

/// Some ten thousand lines take a fraction of a second; the rest is a margin for a busy machine.
const TIMEOUT: Duration = Duration::from_secs(60);

#[test]
fn every_line_of_every_real_log_is_counted_and_none_refused() {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data");
    let logs: Vec<PathBuf> =
        ["logs", "cases"].iter().flat_map(|folder| logs_in(&data.join(folder))).collect();
    if logs.is_empty() {
        assert!(std::env::var_os("SHIELD_REQUIRE_DATA").is_none(), "no logs in {}", data.display());
        println!("not run: there are no logs in ../shared/data beside the checkout");
        return;
    }
    let wrong: Vec<String> = logs.iter().filter_map(|log| wrong_with(log)).collect();
    assert!(wrong.is_empty(), "of {} logs: {wrong:#?}", logs.len());
}

fn logs_in(folder: &Path) -> Vec<PathBuf> {
    let entries = folder.read_dir().into_iter().flatten().flatten().map(|entry| entry.path());
    let is_log = |path: &PathBuf| path.to_string_lossy().contains(".jsonl");
    let mut logs: Vec<PathBuf> = entries.filter(is_log).collect();
    logs.sort();
    logs
}

fn text_of(log: &Path) -> Vec<u8> {
    if log.extension().is_none_or(|extension| extension != "gz") {
        return fs::read(log).unwrap();
    }
    let mut text = Vec::new();
    MultiGzDecoder::new(File::open(log).unwrap()).read_to_end(&mut text).unwrap();
    text
}

/// Appends the log to a file that is followed, as fast as the disk takes it.
fn wrong_with(log: &Path) -> Option<String> {
    let mut text = text_of(log);
    if text.last().is_some_and(|last| *last != b'\n') {
        text.push(b'\n');
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access.log");
    File::create(&path).unwrap();
    let pool = Pool::default();
    let back = pool.clone();
    let deliver = move |batch| {
        back.give(batch);
        ControlFlow::Continue(())
    };
    let settings = source::Settings::of_files(path.to_str().unwrap());
    let prepared = source::Prepared::new(vec![settings]);
    let stats = prepared.stats().remove(0);
    let sources = prepared.start(&[], &pool, &deliver, &|_| {}).unwrap();
    // Lines written before the source has seen the empty file would be older than its first start, and skipped.
    wait_until(|| stats.snapshot().backlog.is_some_and(|backlog| backlog.logs == 1));
    OpenOptions::new().append(true).open(&path).unwrap().write_all(&text).unwrap();
    wait_until(|| stats.snapshot().bytes >= text.len() as u64);
    let snapshot = stats.snapshot();
    sources.stop();
    let expected = text.iter().filter(|byte| **byte == b'\n').count() as u64;
    complaint(log, &snapshot, expected)
}

fn complaint(log: &Path, snapshot: &Snapshot, expected: u64) -> Option<String> {
    let is_good = snapshot.lines == expected && snapshot.salvaged == 0;
    let (lines, salvaged, rejected) = (snapshot.lines, snapshot.salvaged, snapshot.rejected);
    let name = log.file_name()?.to_string_lossy();
    (!is_good)
        .then(|| format!("{name}: {lines} of {expected} lines, {salvaged} salvaged, rejected {rejected:?}"))
}

/// Waits for the source's thread. A timeout is not an error here: the counts show what is missing.
fn wait_until(is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + TIMEOUT;
    while !is_so() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
    }
}
