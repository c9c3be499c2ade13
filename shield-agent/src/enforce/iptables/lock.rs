//! The lock that iptables-legacy's programs take before they change a table: how long we wait for it, and who holds it.
//!
//! iptables-nft needs no lock. Whoever holds this one may hold it for long (a firewall's script, a stopped process), and every
//! command of ours would wait in turn. So the first waits, those after it hardly do until one got through, and the state says
//! meanwhile who is in the way.

use std::fmt;
use std::os::linux::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::programs::{Failed, Programs};
use crate::text::duration;

/// What the programs lock, unless the environment names another file.
const DEFAULT_FILE: &str = "/run/xtables.lock";
/// The variable by which iptables, and so Shield, finds another file.
const VARIABLE: &str = "XTABLES_LOCKFILE";
/// Seconds to wait for the lock when it was free the last time.
const FIRST_WAIT_SECS: u32 = 3;
/// Seconds to wait while somebody is known to hold it.
const NEXT_WAIT_SECS: u32 = 1;
/// The durations that the state tells apart, in seconds: one that changed all the time would be news all the time.
const STEPS_SECS: [u64; 7] = [1, 5, 10, 30, 60, 300, 3600];

/// The lock of both IP versions' tables, which is one.
#[derive(Debug, Clone, Default)]
pub(super) struct Lock(Arc<Mutex<Option<Held>>>);

/// Somebody holds it.
#[derive(Debug, Clone)]
struct Held {
    since: Instant,
    by: Option<String>,
}

impl Lock {
    /// The argument by which a program waits for the lock.
    pub(super) fn wait_argument(&self) -> String {
        let secs = if self.held().is_some() { NEXT_WAIT_SECS } else { FIRST_WAIT_SECS };
        format!("--wait={secs}")
    }

    /// Takes note of the end of a program that began then, and returns a failure for want of the lock as [`Locked`].
    pub(super) fn note(
        &self,
        began: Instant,
        result: anyhow::Result<()>,
        programs: &mut dyn Programs,
    ) -> anyhow::Result<()> {
        match result {
            Err(error) if error.downcast_ref::<Failed>().is_some_and(Failed::is_locked) => {
                let by = holder(programs);
                let since = self.held().map_or(began, |held| held.since);
                self.set(Some(Held { since, by }));
                Err(Locked(self.describe().unwrap_or_default()).into())
            }
            result => {
                self.free();
                result
            }
        }
    }

    /// Forgets who held it: nothing of ours is waiting.
    pub(super) fn free(&self) {
        self.set(None);
    }

    /// Who is in the way and for how long, while the last program of ours could not get the lock.
    pub(super) fn describe(&self) -> Option<String> {
        let Held { since, by } = self.held()?;
        Some(described(by.as_deref(), since.elapsed()))
    }

    fn held(&self) -> Option<Held> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, held: Option<Held>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = held;
    }
}

fn described(by: Option<&str>, time: Duration) -> String {
    let by = by.unwrap_or("another program");
    let passed = STEPS_SECS.iter().rev().find(|secs| time.as_secs() >= **secs);
    let passed = passed.map(|secs| format!(" for over {}", duration(*secs)));
    format!("iptables is locked by {by}{}", passed.unwrap_or_default())
}

/// The error of a program that did not get the lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Locked(String);

impl fmt::Display for Locked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Locked {}

/// `PID 4711 (iptables-save)`, if `/proc` shows it.
fn holder(programs: &mut dyn Programs) -> Option<String> {
    let path = std::env::var_os(VARIABLE).map_or_else(|| PathBuf::from(DEFAULT_FILE), PathBuf::from);
    let file = file_id(&path)?;
    let locks = programs.read_proc("/proc/locks")?;
    let pid = locks.lines().find_map(|line| holder_of(line, &file))?;
    let name = programs.read_proc(&format!("/proc/{pid}/comm"));
    Some(match name.as_deref().map(str::trim) {
        Some(name) if !name.is_empty() => format!("PID {pid} ({name})"),
        _ => format!("PID {pid}"),
    })
}

/// A file as `/proc/locks` names it: device and inode.
fn file_id(path: &Path) -> Option<String> {
    let file = std::fs::metadata(path).ok()?;
    let device = file.st_dev();
    Some(format!(
        "{:02x}:{:02x}:{}",
        nix::sys::stat::major(device),
        nix::sys::stat::minor(device),
        file.st_ino()
    ))
}

/// The process of a line of `/proc/locks` that holds `file`. One that waits for it has an arrow.
fn holder_of<'a>(line: &'a str, file: &str) -> Option<&'a str> {
    let words: Vec<&str> = line.split_whitespace().collect();
    match words[..] {
        [_, "FLOCK", _, _, pid, id, ..] if id == file && pid != "0" => Some(pid),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_holder_is_found_among_those_who_wait() {
        let file = "00:1a:4021";
        let cases = [
            ("12: FLOCK  ADVISORY  WRITE 4711 00:1a:4021 0 EOF", Some("4711")),
            ("12: -> FLOCK  ADVISORY  WRITE 4712 00:1a:4021 0 EOF", None),
            ("13: POSIX  ADVISORY  WRITE 4713 00:1a:4021 0 EOF", None),
            ("14: FLOCK  ADVISORY  WRITE 4714 00:1a:40210 0 EOF", None),
            ("15: FLOCK  ADVISORY  WRITE 0 00:1a:4021 0 EOF", None),
            ("", None),
        ];
        for (line, expected) in cases {
            assert_eq!(holder_of(line, file), expected, "{line}");
        }
    }

    #[test]
    fn the_words_stay_the_same_between_two_steps() {
        let cases = [
            (Some("PID 7 (sh)"), 0, "iptables is locked by PID 7 (sh)"),
            (Some("PID 7 (sh)"), 11, "iptables is locked by PID 7 (sh) for over 10 s"),
            (Some("PID 7 (sh)"), 29, "iptables is locked by PID 7 (sh) for over 10 s"),
            (None, 400, "iptables is locked by another program for over 5 min"),
        ];
        for (by, secs, expected) in cases {
            assert_eq!(described(by, Duration::from_secs(secs)), expected);
        }
    }
}
