//! `shield-agent audit` as an operator runs it: the real binary on real files.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::path::Path;
use std::process::{Command, Output};

use shield_agent::test_support::clock;
use shield_agent::test_support::notify::audit::AuditLog;
use shield_engine::action::Notice;

fn shield(args: &[&str], log: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_shield-agent")).args(args).arg(log).output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A log of three events of this moment.
fn log_in(dir: &Path) -> std::path::PathBuf {
    let path = dir.join("audit.jsonl");
    let mut log = AuditLog::new(&path);
    for part in ["store", "slack", "audit"] {
        let notice = Notice::Degraded { part: part.into(), reason: "a test".into() };
        log.append(&notice, clock::now()).unwrap();
    }
    path
}

#[test]
fn an_intact_log_is_verified_and_a_changed_one_fails() {
    let dir = tempfile::tempdir().unwrap();
    let path = log_in(dir.path());
    let whole = shield(&["audit", "verify"], &path);
    assert_eq!(whole.status.code(), Some(0), "{whole:?}");
    assert!(stdout(&whole).contains("3 lines in 1 file"), "{whole:?}");
    let changed = std::fs::read_to_string(&path).unwrap().replace("slack", "stack");
    std::fs::write(&path, changed).unwrap();
    let broken = shield(&["audit", "verify"], &path);
    assert_eq!(broken.status.code(), Some(1), "{broken:?}");
    assert!(stdout(&broken).contains("audit.jsonl:2: the line was changed"), "{broken:?}");
}

#[test]
fn a_report_of_the_last_hour() {
    let dir = tempfile::tempdir().unwrap();
    let path = log_in(dir.path());
    let report = shield(&["audit", "report", "--since", "1h"], &path);
    assert_eq!(report.status.code(), Some(0), "{report:?}");
    assert!(stdout(&report).contains("slack degraded: a test"), "{report:?}");
}

#[test]
fn a_log_that_is_not_there_is_an_error_that_names_it() {
    let dir = tempfile::tempdir().unwrap();
    let missing = shield(&["audit", "verify"], &dir.path().join("none.jsonl"));
    assert_eq!(missing.status.code(), Some(1), "{missing:?}");
    assert!(String::from_utf8_lossy(&missing.stderr).contains("none.jsonl"), "{missing:?}");
}
