//! The kernel's hints that a log changed (inotify, by the crate `notify`).
//!
//! They are only hints: events can be missing (network file systems, links) and say nothing of the content. The files are
//! checked every [`SAFETY_POLL`] anyway, every [`TRUSTED_POLL`] as long as hints precede what is found, or every
//! [`BLIND_POLL`] where there are none.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use notify::event::{AccessKind, AccessMode};
use notify::{ErrorKind, Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};

use super::wake::Wake;
use crate::text::access as text;

/// The interval where hints can arrive. They do not from network file systems, nor for a link that is changed.
pub(super) const SAFETY_POLL: Duration = Duration::from_secs(1);

/// The interval while the last lines found had been hinted at. Longer, because every check wakes an idle machine.
pub(super) const TRUSTED_POLL: Duration = Duration::from_secs(3);

/// The interval without hints.
pub(super) const BLIND_POLL: Duration = Duration::from_millis(250);

/// Watches folders and wakes the source when something in them changes.
#[derive(Debug)]
pub(super) struct Watch {
    watcher: Option<RecommendedWatcher>,
    wanted: BTreeSet<PathBuf>,
    watched: BTreeSet<PathBuf>,
    is_blind: bool,
    /// The system has no watches left, and it was said.
    is_full: bool,
    is_trusted: bool,
}

impl Watch {
    /// Makes a watch on nothing yet.
    pub(super) fn new(wake: &Wake) -> Watch {
        let wake = wake.clone();
        let watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            if event.map_or(true, |event| is_change(&event.kind)) {
                wake.notify();
            }
        });
        let watcher = watcher
            .inspect_err(
                |error| tracing::warn!(%error, "could not watch files; checking them every 250 ms instead"),
            )
            .ok();
        Watch {
            is_blind: watcher.is_none(),
            is_full: false,
            watcher,
            wanted: BTreeSet::new(),
            watched: BTreeSet::new(),
            is_trusted: false,
        }
    }

    /// Watches exactly these folders from now on; those of the last call with `None`. One that cannot be watched is retried at
    /// the next call.
    pub(super) fn set(&mut self, folders: Option<Vec<PathBuf>>) {
        let is_same = folders.is_none();
        if is_same && !self.is_blind {
            return;
        }
        if let Some(folders) = folders {
            self.wanted = folders.into_iter().collect();
        }
        let Some(watcher) = &mut self.watcher else { return };
        for gone in self.watched.difference(&self.wanted) {
            // It fails when the folder is gone, and then the kernel has removed the watch already.
            let _ = watcher.unwatch(gone);
        }
        self.watched.retain(|folder| self.wanted.contains(folder));
        self.is_blind = false;
        for (done, new) in self.wanted.iter().enumerate() {
            if self.watched.contains(new) {
                continue;
            }
            match watcher.watch(new, RecursiveMode::NonRecursive) {
                Ok(()) => drop(self.watched.insert(new.clone())),
                Err(error) => {
                    self.is_blind = true;
                    if matches!(error.kind, ErrorKind::MaxFilesWatch) {
                        // None of the rest would be let in either.
                        if !std::mem::replace(&mut self.is_full, true) {
                            tracing::warn!("{}", text::unwatched(self.wanted.len() - done));
                        }
                        return;
                    }
                }
            }
        }
        self.is_full = false;
    }

    /// Returns how long to sleep without a hint.
    pub(super) fn interval(&self) -> Duration {
        match (self.is_blind, self.is_trusted) {
            (true, _) => BLIND_POLL,
            (false, true) => TRUSTED_POLL,
            (false, false) => SAFETY_POLL,
        }
    }

    /// Notes that new lines were found, with or without a hint before.
    pub(super) fn note_lines(&mut self, was_hinted_at: bool) {
        self.is_trusted = was_hinted_at;
    }
}

/// Returns whether this can mean new lines. Opening and reading cannot: the agent's own reads would wake it for ever.
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
        assert_eq!(watch.interval(), SAFETY_POLL, "nothing was found yet");
        watch.note_lines(true);
        assert_eq!(watch.interval(), TRUSTED_POLL);
        watch.note_lines(false);
        assert_eq!(watch.interval(), SAFETY_POLL, "lines without a hint");
        watch.note_lines(true);
        watch.set(Some(vec![PathBuf::from("/there/is/no/such/folder")]));
        assert_eq!(watch.interval(), BLIND_POLL, "a folder that cannot be watched");
    }
}
