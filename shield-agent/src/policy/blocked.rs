//! Starts that the policy blocked, kept for the audit log: no agent runs then that could write it.
//!
//! One file in the state directory, written by `check --gate` and taken in by the next start of the agent. Equal reasons are one
//! entry, since systemd asks again each second.

use std::fs;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::text::{counted, utc};
use shield_engine::action::{Change, Step};
use shield_engine::time::Now;

/// Entries that are kept; of more the first ones and the last.
const MAX_ENTRIES: usize = 20;
/// A file that is longer was not written here.
const MAX_BYTES: u64 = 1 << 20;
/// Of the words about one.
const MAX_CHARS: usize = 1_000;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Blocked {
    first_ms: i64,
    last_ms: i64,
    times: u64,
    reasons: Vec<String>,
}

fn file(state_dir: &Path) -> PathBuf {
    state_dir.join("starts-blocked.json")
}

/// Notes that a start was blocked. Where that cannot be written (no folder yet, no permission), the journal alone has it.
pub(crate) fn note(state_dir: &Path, reasons: &[String], now: Now) -> std::io::Result<()> {
    let mut entries = read(state_dir);
    match entries.last_mut().filter(|last| last.reasons == reasons) {
        Some(last) => {
            last.last_ms = now.wall_ms;
            last.times += 1;
        }
        None => {
            entries.truncate(MAX_ENTRIES - 1);
            let (first_ms, last_ms) = (now.wall_ms, now.wall_ms);
            entries.push(Blocked { first_ms, last_ms, times: 1, reasons: reasons.to_vec() });
        }
    }
    let new = state_dir.join("starts-blocked.new");
    let _ = fs::remove_file(&new);
    let written = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    serde_json::to_writer(written, &entries)?;
    fs::rename(&new, file(state_dir))
}

fn read(state_dir: &Path) -> Vec<Blocked> {
    let file = file(state_dir);
    let is_ours = fs::symlink_metadata(&file).is_ok_and(|meta| meta.is_file() && meta.len() <= MAX_BYTES);
    let text = if is_ours { fs::read(&file).unwrap_or_default() } else { Vec::new() };
    serde_json::from_slice(&text).unwrap_or_default()
}

/// Takes what was noted, as changes for the audit log.
pub(crate) fn take(state_dir: &Path) -> Vec<Change> {
    let entries = read(state_dir);
    let _ = fs::remove_file(file(state_dir));
    entries.iter().map(change).collect()
}

fn change(blocked: &Blocked) -> Change {
    let when = match blocked.times {
        0 | 1 => format!("at {}", utc(blocked.first_ms)),
        times => {
            format!("{} from {} to {}", counted(times, "time"), utc(blocked.first_ms), utc(blocked.last_ms))
        }
    };
    let text = format!("{when}: {}", blocked.reasons.join("; "));
    Change { step: Step::GateBlocked, text: text.chars().take(MAX_CHARS).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_reasons_are_one_entry_and_are_taken_once() {
        let dir = tempfile::tempdir().unwrap();
        let at = |secs: i64| Now { wall_ms: 1_778_537_253_000 + secs * 1_000, boot_ms: 0 };
        let disk = ["disk below 1 GB".to_owned()];
        (0..3).for_each(|secs| note(dir.path(), &disk, at(secs)).unwrap());
        note(dir.path(), &["no clock".to_owned()], at(9)).unwrap();
        let texts: Vec<String> = take(dir.path()).into_iter().map(|change| change.text).collect();
        assert_eq!(
            texts,
            [
                "3 times from 2026-05-11T22:07:33Z to 2026-05-11T22:07:35Z: disk below 1 GB",
                "at 2026-05-11T22:07:42Z: no clock",
            ]
        );
        assert!(take(dir.path()).is_empty());
    }

    #[test]
    fn many_reasons_and_a_damaged_file_stay_bounded() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(file(dir.path()), "rubbish").unwrap();
        let now = Now { wall_ms: 0, boot_ms: 0 };
        (0..100).for_each(|n| note(dir.path(), &[format!("reason {n}")], now).unwrap());
        let changes = take(dir.path());
        assert_eq!(changes.len(), MAX_ENTRIES);
        assert!(changes.last().unwrap().text.contains("reason 99"));
        assert!(note(&dir.path().join("missing"), &["a".to_owned()], now).is_err());
    }
}
