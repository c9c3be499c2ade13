//! The addresses from which somebody was logged in, kept for days in a file beside the database: an operator's connection
//! drops, and what he did on his site must not keep him from coming back. Bounded; the longest unseen goes first.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use shield_engine::time::Now;

/// Addresses that are kept at most.
const MAX_KEPT: usize = 256;

/// How far the file may be behind for a session that goes on.
const SAVE_EVERY_SECS: i64 = 600;

#[derive(Debug, Serialize, Deserialize)]
struct Content {
    /// Each address with the time at which it was last seen, in Unix seconds.
    last_seen: BTreeMap<IpAddr, i64>,
}

#[derive(Debug)]
pub(super) struct Kept {
    path: PathBuf,
    keep_secs: u64,
    last_seen: BTreeMap<IpAddr, i64>,
    saved_at: i64,
    unsaved: bool,
    /// The damage of the file that was found; it stays known until the agent starts again.
    damage: Option<String>,
}

impl Kept {
    pub(super) fn open(folder: &Path, keep_secs: u64) -> Kept {
        let path = folder.join("ssh-addresses.json");
        let (last_seen, damage) = match read(&path) {
            Ok(last_seen) => (last_seen, None),
            Err(error) => (BTreeMap::new(), Some(format!("{error:#}"))),
        };
        Kept { path, keep_secs, last_seen, saved_at: 0, unsaved: false, damage }
    }

    /// Notes these addresses as seen now, and forgets those whose time is over. Returns what went wrong with the file.
    ///
    /// An address that was seen later than now stays: the clock was set back, or is not set yet.
    pub(super) fn seen(&mut self, live: &BTreeSet<IpAddr>, now: Now) -> Option<String> {
        let now = now.wall_secs();
        let before: BTreeSet<IpAddr> = self.addresses().collect();
        let keep = i64::try_from(self.keep_secs).unwrap_or(i64::MAX);
        self.last_seen.retain(|_, at| now.saturating_sub(*at) < keep);
        for addr in live {
            let at = self.last_seen.entry(*addr).or_insert(now);
            *at = now.max(*at);
        }
        while self.last_seen.len() > MAX_KEPT {
            let oldest = self.last_seen.iter().min_by_key(|(addr, at)| (live.contains(addr), **at));
            let Some(addr) = oldest.map(|(addr, _)| *addr) else { break };
            self.last_seen.remove(&addr);
        }
        let changed = !before.iter().eq(self.last_seen.keys());
        let is_behind = !live.is_empty() && now.saturating_sub(self.saved_at).abs() >= SAVE_EVERY_SECS;
        self.unsaved |= changed || is_behind;
        if self.unsaved {
            match self.save() {
                Ok(()) => (self.unsaved, self.saved_at) = (false, now),
                Err(error) => return Some(format!("{error:#}")),
            }
        }
        self.damage.clone()
    }

    pub(super) fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.last_seen.keys().copied()
    }

    /// The number of kept addresses that are not live.
    pub(super) fn past(&self, live: &BTreeSet<IpAddr>) -> u64 {
        self.addresses().filter(|addr| !live.contains(addr)).count() as u64
    }

    /// Writes another file and renames it, so that a crash or a full disk leaves the old one.
    fn save(&self) -> Result<()> {
        let new = self.path.with_extension("json.new");
        let write = || -> Result<()> {
            let content = serde_json::to_vec_pretty(&Content { last_seen: self.last_seen.clone() })?;
            let options = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).to_owned();
            let mut file: File = options.open(&new)?;
            file.write_all(&content)?;
            file.sync_all()?;
            Ok(std::fs::rename(&new, &self.path)?)
        };
        write().with_context(|| {
            format!(
                "could not save the addresses of SSH sessions in {}; they are allowed until the next start",
                self.path.display()
            )
        })
    }
}

fn read(path: &Path) -> Result<BTreeMap<IpAddr, i64>> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(error) => return Err(error).with_context(|| format!("could not read {}", path.display())),
    };
    let content: Content = serde_json::from_slice(&bytes).with_context(|| {
        format!(
            "could not use {}: addresses of earlier SSH sessions are forgotten, log in again from yours",
            path.display()
        )
    })?;
    let mut newest: Vec<_> = content.last_seen.into_iter().collect();
    newest.sort_by_key(|(_, at)| std::cmp::Reverse(*at));
    newest.truncate(MAX_KEPT);
    Ok(newest.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    const KEEP: u64 = 7 * 86_400;

    fn at(secs: i64) -> Now {
        Now { wall_ms: secs * 1_000, boot_ms: 0 }
    }

    fn set(addrs: &[u32]) -> BTreeSet<IpAddr> {
        addrs.iter().map(|bits| IpAddr::V4(Ipv4Addr::from_bits(0xcb00_7100 + bits))).collect()
    }

    fn found(kept: &Kept) -> BTreeSet<IpAddr> {
        kept.addresses().collect()
    }

    #[test]
    fn the_list_is_bounded_and_who_is_logged_in_stays() {
        let folder = tempfile::tempdir().unwrap();
        let mut kept = Kept::open(folder.path(), KEEP);
        let admin = set(&[0]);
        for n in 1..2_000 {
            let live = &set(&[n]) | &admin;
            assert_eq!(kept.seen(&live, at(i64::from(n))), None);
            assert!(kept.addresses().count() <= MAX_KEPT);
        }
        assert!(found(&kept).is_superset(&(&admin | &set(&[1_999]))));
        assert_eq!(found(&Kept::open(folder.path(), KEEP)), found(&kept), "after a restart");
    }

    #[test]
    fn a_clock_that_is_not_set_forgets_nobody() {
        let folder = tempfile::tempdir().unwrap();
        let mut kept = Kept::open(folder.path(), KEEP);
        kept.seen(&set(&[1]), at(1_800_000_000));
        let mut kept = Kept::open(folder.path(), KEEP);
        kept.seen(&set(&[]), at(10));
        kept.seen(&set(&[1]), at(20));
        kept.seen(&set(&[]), at(1_800_000_100));
        assert_eq!(found(&kept), set(&[1]));
        kept.seen(&set(&[]), at(1_800_000_100 + KEEP as i64));
        assert_eq!(found(&kept), set(&[]));
    }

    #[test]
    fn a_damaged_file_is_a_problem_with_a_reason_and_replaced_at_the_next_login() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("ssh-addresses.json"), "{\"last_seen\": {\"1").unwrap();
        let mut kept = Kept::open(folder.path(), KEEP);
        let problem = kept.seen(&set(&[1]), at(10)).unwrap();
        assert!(problem.contains("ssh-addresses.json") && problem.contains("log in again"), "{problem}");
        assert_eq!(Kept::open(folder.path(), KEEP).seen(&set(&[]), at(11)), None);
    }
}
