//! A hosting server's two thousand logs under one pattern, with fewer descriptors than logs.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails there")]

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, setrlimit};
use shield_agent::test_support::source::{self, FirstStart, Pool};

const LOGS: u64 = 2_000;

/// Few of a process's usual 1,024, so that nothing else needs to be taken away to get there.
const MAX_FILES: u64 = 256;

/// Each round takes seconds in unoptimised code; the rest is a margin for a busy machine.
const TIMEOUT: Duration = Duration::from_secs(120);

const LINE: &str = r#"{"source_ip":"192.0.2.7","timestamp":1795530901,"path":"/","status":200}"#;

#[test]
fn two_thousand_logs_are_read_through_a_rotation_with_few_descriptors() {
    let folder = tempfile::tempdir().unwrap();
    let logs: Vec<PathBuf> =
        (0..LOGS).map(|at| folder.path().join(format!("site-{at}/logs/access_ssl_log"))).collect();
    for log in &logs {
        fs::create_dir_all(log.parent().unwrap()).unwrap();
        append(log);
    }
    setrlimit(Resource::RLIMIT_NOFILE, MAX_FILES, MAX_FILES).unwrap();
    let before_kib = resident_kib();
    let pool = Pool::default();
    let back = pool.clone();
    let deliver = move |batch| {
        back.give(batch);
        ControlFlow::Continue(())
    };
    let pattern = folder.path().join("site-*/logs/access_ssl_log");
    let settings = source::Settings {
        first_start: FirstStart::Beginning,
        ..source::Settings::of_files(pattern.to_str().unwrap())
    };
    let prepared = source::Prepared::new(vec![settings]);
    let stats: Arc<_> = prepared.stats().remove(0);
    let sources = prepared.start(&[], &pool, &deliver, &|_| {}).unwrap();
    let wait_for = |lines: u64| {
        let deadline = Instant::now() + TIMEOUT;
        while stats.snapshot().lines < lines {
            assert!(Instant::now() < deadline, "{} of {lines} lines", stats.snapshot().lines);
            std::thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(stats.snapshot().lines, lines);
        let open = fs::read_dir("/proc/self/fd").unwrap().count() as u64;
        assert!(open <= MAX_FILES * 3 / 4, "{open} open files");
    };
    wait_for(LOGS);
    println!("{} bytes of memory for each log", (resident_kib() - before_kib) * 1024 / LOGS);
    logs.iter().for_each(|log| append(log));
    wait_for(2 * LOGS);
    // Rotated with lines that were not read yet.
    for log in &logs {
        append(log);
        fs::rename(log, log.with_extension("1")).unwrap();
        append(log);
    }
    wait_for(4 * LOGS);
    logs.iter().for_each(|log| append(log));
    wait_for(5 * LOGS);
    sources.stop();
}

fn append(log: &Path) {
    let mut file = OpenOptions::new().create(true).append(true).open(log).unwrap();
    writeln!(file, "{LINE}").unwrap();
}

/// The memory that this process holds, in KiB.
fn resident_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
