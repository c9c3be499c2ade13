//! A million numbered lines through four rotations and two kills: every number once.
//!
//! The reader is another process (this test binary once more), so that `kill -9` is `kill -9`. What it "decides" is which
//! numbers it saw, committed together with the checkpoint as one line of a file, as the agent commits both in one
//! transaction.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails there")]

use std::fs::{self, File, OpenOptions};
use std::io::{BufWriter, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

use flate2::Compression;
use flate2::write::GzEncoder;
use serde::{Deserialize, Serialize};
use shield_agent::test_support::source::{self, FirstStart, Pool};
use shield_engine::request::{Batch, Checkpoint};

const LINES: u32 = 1_000_000;

/// Reading a million lines takes seconds; the rest is a margin for a busy machine and unoptimised code.
const TIMEOUT: Duration = Duration::from_secs(300);

/// The environment variable with the working folder of the process that the test starts.
const FOLDER: &str = "SHIELD_TEST_KILLED_READER";

/// The content of one transaction.
#[derive(Serialize, Deserialize)]
struct Commit {
    /// The numbers seen, as ranges `[first, last]` in the order of the lines.
    seen: Vec<(u32, u32)>,
    checkpoint: Checkpoint,
}

#[test]
fn a_million_lines_through_four_rotations_and_two_kills_come_once_each() {
    let folder = tempfile::tempdir().unwrap();
    let mut site = Site::new(folder.path());
    let mut reader = site.start_reader();
    site.write(0..200_000);
    site.rename();
    site.write(200_000..250_000);
    site.reopen();
    site.write(250_000..400_000);
    site.wait_for_some(100_000);
    kill(&mut reader);
    site.write(400_000..450_000);
    site.copy_and_truncate();
    site.write(450_000..600_000);
    let mut reader = site.start_reader();
    site.wait_for_some(500_000);
    kill(&mut reader);
    site.rename();
    site.reopen();
    site.write(600_000..750_000);
    site.rename();
    site.reopen();
    site.pack("access.log.2");
    site.write(750_000..900_000);
    let mut reader = site.start_reader();
    site.write(900_000..LINES);
    site.wait_for_some(LINES);
    kill(&mut reader);
    let mut expected = 0;
    for (first, last) in site.seen() {
        assert_eq!(first, expected, "lines were lost or came twice here");
        expected = last + 1;
    }
    assert_eq!(expected, LINES);
}

/// The killed reader's own process.
#[test]
#[ignore = "run by the other test, in a process of its own that is killed"]
fn reader() {
    let folder = PathBuf::from(std::env::var_os(FOLDER).expect("only the other test runs this"));
    let commits = folder.join("commits");
    let checkpoint = read_commits(&commits).into_iter().last().map(|commit| commit.checkpoint);
    let (sender, batches) = sync_channel::<Batch>(4);
    let deliver = move |batch| {
        if sender.send(batch).is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    };
    let settings = source::Settings {
        first_start: FirstStart::Beginning,
        ..source::Settings::of_files(folder.join("access.log").to_str().unwrap())
    };
    let pool = Pool::default();
    let checkpoints: Vec<Checkpoint> = checkpoint.into_iter().collect();
    let sources =
        source::Prepared::new(vec![settings]).start(&checkpoints, &pool, &deliver, &|_| {}).unwrap();
    let mut log = OpenOptions::new().create(true).append(true).open(commits).unwrap();
    for batch in batches {
        assert_eq!(batch.rejected.iter().sum::<u64>(), 0);
        let commit = Commit { seen: ranges(&batch), checkpoint: batch.checkpoint.clone().unwrap() };
        log.write_all((serde_json::to_string(&commit).unwrap() + "\n").as_bytes()).unwrap();
        pool.give(batch);
    }
    sources.stop();
}

fn ranges(batch: &Batch) -> Vec<(u32, u32)> {
    let mut ranges: Vec<(u32, u32)> = Vec::new();
    for request in batch.requests() {
        let number = std::str::from_utf8(&request.path[1..]).unwrap().parse().unwrap();
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == number => *last = number,
            _ => ranges.push((number, number)),
        }
    }
    ranges
}

/// All complete commits. An incomplete last line, cut short by the kill, was not committed and is removed.
fn read_commits(path: &Path) -> Vec<Commit> {
    let Ok(text) = fs::read_to_string(path) else { return Vec::new() };
    let whole = text.rfind('\n').map_or(0, |newline| newline + 1);
    text[..whole].lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn kill(reader: &mut Child) {
    reader.kill().unwrap();
    reader.wait().unwrap();
}

/// Stands for nginx and logrotate.
struct Site {
    folder: PathBuf,
    nginx: File,
}

impl Site {
    fn new(folder: &Path) -> Site {
        Site { folder: folder.to_owned(), nginx: open(&folder.join("access.log")) }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn start_reader(&self) -> Child {
        let commits = self.path("commits");
        if let Ok(file) = File::options().write(true).open(&commits) {
            let text = fs::read(&commits).unwrap();
            file.set_len(text.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at as u64 + 1)).unwrap();
        }
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "reader", "--ignored", "--nocapture"])
            .env(FOLDER, &self.folder)
            .stdout(Stdio::null())
            .spawn()
            .unwrap()
    }

    fn write(&mut self, numbers: std::ops::Range<u32>) {
        let mut log = BufWriter::new(&self.nginx);
        for number in numbers {
            writeln!(
                log,
                r#"{{"source_ip":"192.0.2.7","timestamp":1795530901,"path":"/{number}","status":200}}"#
            )
            .unwrap();
        }
        log.flush().unwrap();
    }

    fn shift(&self) {
        for age in [3, 2, 1] {
            for end in ["", ".gz"] {
                let from = self.path(&format!("access.log.{age}{end}"));
                if from.exists() {
                    fs::rename(from, self.path(&format!("access.log.{}{end}", age + 1))).unwrap();
                }
            }
        }
    }

    fn rename(&self) {
        self.shift();
        fs::rename(self.path("access.log"), self.path("access.log.1")).unwrap();
    }

    fn reopen(&mut self) {
        self.nginx = open(&self.path("access.log"));
    }

    fn copy_and_truncate(&self) {
        self.shift();
        fs::copy(self.path("access.log"), self.path("access.log.1")).unwrap();
        self.nginx.set_len(0).unwrap();
    }

    fn pack(&self, name: &str) {
        let text = fs::read(self.path(name)).unwrap();
        let packed = File::create(self.path(&format!("{name}.gz"))).unwrap();
        let mut encoder = GzEncoder::new(packed, Compression::fast());
        encoder.write_all(&text).unwrap();
        encoder.finish().unwrap();
        fs::remove_file(self.path(name)).unwrap();
    }

    fn seen(&self) -> Vec<(u32, u32)> {
        read_commits(&self.path("commits")).into_iter().flat_map(|commit| commit.seen).collect()
    }

    /// Waits until this many lines are committed.
    fn wait_for_some(&self, lines: u32) {
        let deadline = Instant::now() + TIMEOUT;
        loop {
            let count: u32 = self.seen().iter().map(|(first, last)| last - first + 1).sum();
            if count >= lines {
                return;
            }
            assert!(Instant::now() < deadline, "only {count} of {lines} lines came");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn open(path: &Path) -> File {
    OpenOptions::new().create(true).append(true).open(path).unwrap()
}
