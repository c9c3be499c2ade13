//! The kernel's hints that a log changed (inotify, by `notify`). Only hints: the files themselves are the truth, and
//! are looked at every [`SAFETY_POLL`] anyway, every [`TRUSTED_POLL`] as long as hints come before what they hint at is
//! found, or every [`BLIND_POLL`] where there are none.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use notify::event::{AccessKind, AccessMode};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};

use super::wake::Wake;

/// How often to look when hints arrive: they do not from network file systems, nor for a link pointed elsewhere.
pub(super) const SAFETY_POLL: Duration = Duration::from_secs(1);

/// How often to look while the lines found last were hinted at: every look wakes an idle machine.
pub(super) const TRUSTED_POLL: Duration = Duration::from_secs(3);

/// How often to look without hints.
pub(super) const BLIND_POLL: Duration = Duration::from_millis(250);

/// Watches folders and rings when something in them changes.
#[derive(Debug)]
pub(super) struct Watch {
    watcher: Option<RecommendedWatcher>,
    watched: BTreeSet<PathBuf>,
    is_blind: bool,
    is_trusted: bool,
}

impl Watch {
    /// A watch on nothing yet.
    pub(super) fn new(wake: &Wake) -> Watch {
        let wake = wake.clone();
        let watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            if event.map_or(true, |event| is_change(&event.kind)) {
                wake.ring();
            }
        });
        let watcher = watcher
            .inspect_err(|error| tracing::warn!(%error, "could not watch files; looking every 250 ms"))
            .ok();
        Watch { is_blind: watcher.is_none(), watcher, watched: BTreeSet::new(), is_trusted: false }
    }

    /// Watches exactly these folders from now on; those that cannot be watched are tried again next time.
    pub(super) fn set(&mut self, folders: Vec<PathBuf>) {
        let wanted: BTreeSet<PathBuf> = folders.into_iter().collect();
        let Some(watcher) = &mut self.watcher else { return };
        for gone in self.watched.difference(&wanted) {
            // It fails when the folder is gone, and so is the watch.
            let _ = watcher.unwatch(gone);
        }
        self.watched.retain(|folder| wanted.contains(folder));
        let mut failed = false;
        for new in &wanted {
            if !self.watched.contains(new) {
                match watcher.watch(new, RecursiveMode::NonRecursive) {
                    Ok(()) => drop(self.watched.insert(new.clone())),
                    Err(_) => failed = true,
                }
            }
        }
        self.is_blind = failed;
    }

    /// How long to sleep without a hint.
    pub(super) fn poll(&self) -> Duration {
        match (self.is_blind, self.is_trusted) {
            (true, _) => BLIND_POLL,
            (false, true) => TRUSTED_POLL,
            (false, false) => SAFETY_POLL,
        }
    }

    /// New lines were found, hinted at or not.
    pub(super) fn found(&mut self, was_hinted_at: bool) {
        self.is_trusted = was_hinted_at;
    }
}

/// Opening and reading a log (we do it ourselves) is no change.
fn is_change(kind: &EventKind) -> bool {
    match kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => true,
        EventKind::Access(_) => false,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hints_are_trusted_as_long_as_they_come_first() {
        let mut watch = Watch::new(&Wake::default());
        assert_eq!(watch.poll(), SAFETY_POLL, "nothing was found yet");
        watch.found(true);
        assert_eq!(watch.poll(), TRUSTED_POLL);
        watch.found(false);
        assert_eq!(watch.poll(), SAFETY_POLL, "lines that nobody hinted at");
        watch.found(true);
        watch.set(vec![PathBuf::from("/there/is/no/such/folder")]);
        assert_eq!(watch.poll(), BLIND_POLL, "a folder that cannot be watched");
    }
}
