//! Follows the path of one log through rotation (by rename, copy or recreation), truncation, deletion and changes of its
//! permissions.
//!
//! The path is only a name; files are read: the one that the path named last, and before it those that it named earlier
//! and that are not read to their end yet. A replaced file stays open until nothing was written to it for [`DRAIN_MS`],
//! because nginx writes to it until its workers have reopened the log, each in its own time.
//!
//! A file that another name leads to as well is read under one of them (`claims`): this one is then the other's [`Twin`], and
//! waits until the other gives the file up.
//!
//! Lost are bytes that were overwritten or deleted before they could be read, and what `copytruncate` itself loses between
//! its copy and its truncation. Not recognised are a file truncated and written anew past the mark with the very same 64
//! bytes before it; a copy of a file of which nothing was read yet; and, when the file that was read is gone altogether, a
//! file whose last line is older than one that was read of another.

use std::collections::VecDeque;
use std::fs::Metadata;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::access;
use super::catch_up;
use super::claims::{self, Claim, Claims, Owner};
use super::log::{Found, OpenLog};
use super::mark::{FileId, Mark, SavedMark};
use super::siblings;
use crate::text::access as text;
use shield_engine::request::Loss;
use shield_engine::time::EventSecs;
use shield_logline::{Output, Parser, Settings};

/// A replaced file is closed when nothing was written to it for this long.
pub(crate) const DRAIN_MS: u64 = 60_000;

/// A deleted file without a successor is given up when nothing was written to it for this long.
const ORPHAN_MS: u64 = 3_600_000;

/// From this many unread bytes on, what is read is a backlog and not live traffic.
pub(crate) const BACKLOG_BYTES: u64 = 8 << 20;

/// The pauses between attempts to open a file that cannot be opened: doubled from the first to the last.
const FIRST_RETRY_MS: u64 = 250;
const LAST_RETRY_MS: u64 = 30_000;

/// The place to start in a file that existed before the agent first ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Start {
    /// At its end: only what is written from now on.
    End,
    /// At its beginning.
    Beginning,
    /// At the first line of this time or later (log time, Unix seconds).
    Since(EventSecs),
}

/// A twin waits this long before it takes a file that its name leads to newly: the other name is about to find the same one.
const POLITE_MS: u64 = 4_000;

/// The mark of a file that was handed over is stored here too for this long, until the new owner surely has stored its own.
const HANDED_MS: u64 = 30_000;

/// The path names a file that is read under another name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Twin {
    id: FileId,
    pub of: Owner,
}

/// A file's saved mark and role.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SavedLog {
    #[serde(flatten)]
    pub mark: SavedMark,
    pub role: Role,
    /// What was written after it is read under another name.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_last: bool,
}

/// The relation of a file to the path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Role {
    /// The path names it, or named it last: it is written to.
    Current,
    /// The path names another one now; it may still be written to.
    Replaced,
    /// Complete: a copy, a packed file.
    Closed,
}

#[derive(Debug)]
struct Entry {
    log: OpenLog,
    role: Role,
    /// Since when nothing was written to it (boot clock, ms).
    idle_since_ms: u64,
}

/// The reason why the path itself cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Trouble {
    /// It names no file, for this reason.
    Missing(String),
    /// It names one that cannot be read, for this reason.
    Unreadable(String),
}

/// The state of following one path.
#[derive(Debug)]
pub(super) struct Follow {
    owner: Owner,
    claims: Claims,
    twin: Option<Twin>,
    /// Another name reads what came after the files read here.
    is_behind: bool,
    /// The next file that the path names is left to the other name for [`POLITE_MS`].
    is_polite: bool,
    polite_since_ms: Option<u64>,
    losses: Vec<Loss>,
    /// Files handed over, and when (boot clock, ms).
    handed: Vec<(SavedLog, u64)>,
    /// The position changed without a line being read.
    must_store: bool,
    /// Counts the files that the path came to name.
    generation: u64,
    /// The part of the position, as it was last asked for; `None` once something changed.
    fragment: Option<String>,
    max_line_bytes: usize,
    block_bytes: usize,
    parser: Parser,
    /// Oldest first; the last may be the current one.
    entries: VecDeque<Entry>,
    /// The place to start in the first file that the path names; `None` once one was opened.
    start: Option<Start>,
    /// The length of an unreadable file when it was first seen: with `Start::End` reading starts there, not at the end it
    /// has when it becomes readable.
    first_seen: Option<(FileId, u64)>,
    /// Files read before the restart that are not found again yet.
    saved: Vec<SavedLog>,
    trouble: Option<Trouble>,
    retry_at_ms: u64,
    retry_wait_ms: u64,
    needs_check: bool,
    is_live: bool,
    /// The end of the newest file, which is closed, until a newer one is open: its successor is still to be found. Older
    /// files may still be open.
    last_closed: Option<SavedLog>,
    /// The latest write seen to any file of this path (ns since the Unix epoch). A file last written to no later than that
    /// was read already.
    newest_ns: i64,
}

/// Bytes read at once: enough that system calls and handing over do not matter, few enough to stay in the processor's
/// cache.
pub(crate) const BLOCK_BYTES: usize = 256 * 1024;

impl Follow {
    /// Starts with a path of which nothing was read yet.
    pub(super) fn new(owner: Owner, claims: Claims, format: &Settings, start: Start) -> Follow {
        Follow {
            trouble: Some(Trouble::Missing(String::new())),
            owner,
            claims,
            twin: None,
            is_behind: false,
            is_polite: false,
            polite_since_ms: None,
            losses: Vec::new(),
            handed: Vec::new(),
            must_store: false,
            generation: 0,
            fragment: None,
            max_line_bytes: format.max_line_bytes,
            block_bytes: BLOCK_BYTES.max(format.max_line_bytes + 1),
            parser: Parser::new(format),
            entries: VecDeque::new(),
            start: Some(start),
            first_seen: None,
            saved: Vec::new(),
            retry_at_ms: 0,
            retry_wait_ms: FIRST_RETRY_MS,
            needs_check: true,
            is_live: false,
            last_closed: None,
            newest_ns: i64::MIN,
        }
    }

    /// Continues where an earlier run of the agent stopped. Without marks everything is new, and read from its beginning.
    pub(super) fn resume(owner: Owner, claims: Claims, format: &Settings, saved: Vec<SavedLog>) -> Follow {
        let newest_ns = saved.iter().map(|saved| saved.mark.modified_ns).max().unwrap_or(i64::MIN);
        let mut follow = Follow::new(owner, claims, format, Start::Beginning);
        (follow.saved, follow.newest_ns) = (saved, newest_ns);
        follow
    }

    /// Reads lines by other settings from the next one on.
    pub(super) fn set_format(&mut self, format: &Settings) {
        self.max_line_bytes = format.max_line_bytes;
        self.block_bytes = BLOCK_BYTES.max(format.max_line_bytes + 1);
        self.parser = Parser::new(format);
    }

    pub(super) fn path(&self) -> &Path {
        &self.owner.path
    }

    /// Returns the name under which the path's file is read, if it is read under another one.
    pub(super) fn twin(&self) -> Option<&Owner> {
        self.twin.as_ref().map(|twin| &twin.of)
    }

    /// Returns what was lost since the last call.
    pub(super) fn take_losses(&mut self) -> Vec<Loss> {
        std::mem::take(&mut self.losses)
    }

    /// Returns whether the position must be stored although no line was read.
    pub(super) fn take_must_store(&mut self) -> bool {
        std::mem::take(&mut self.must_store)
    }

    /// Returns a number that is another one whenever the path came to name another file.
    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    /// Returns the number of open files.
    pub(super) fn open_count(&self) -> usize {
        self.entries.iter().filter(|entry| !entry.log.is_parked()).count()
    }

    /// Closes the files, as far as they can be opened again, without losing the place in them.
    pub(super) fn park(&mut self) {
        for entry in &mut self.entries {
            entry.log.park();
        }
    }

    pub(super) fn trouble(&self) -> Option<&Trouble> {
        self.trouble.as_ref()
    }

    /// Returns whether the lines read now were written just now, and are no backlog.
    pub(super) fn is_live(&self) -> bool {
        self.is_live
    }

    /// Notes that something may have happened to the path.
    pub(super) fn hint(&mut self) {
        self.needs_check = true;
    }

    /// Returns whether this file is read here.
    pub(super) fn holds(&self, id: FileId) -> bool {
        self.entries.iter().any(|entry| entry.log.id == id)
    }

    /// Returns whether this file is read here under a name that is not its own any more.
    pub(super) fn holds_replaced(&self, id: FileId) -> bool {
        self.entries.iter().any(|entry| entry.log.id == id && entry.role != Role::Current)
    }

    /// Returns whether the path and every file it named are deleted, and for so long that no writer has them open any more.
    pub(super) fn is_finished(&self, now_ms: u64) -> bool {
        let is_orphan =
            |entry: &Entry| entry.log.is_deleted() && now_ms.saturating_sub(entry.idle_since_ms) >= ORPHAN_MS;
        matches!(self.trouble, Some(Trouble::Missing(_)))
            && !self.needs_check
            && self.entries.iter().all(is_orphan)
    }

    /// Returns every file's mark, to continue from after a restart.
    pub(super) fn saved(&self) -> Vec<SavedLog> {
        let is_last = self.is_behind;
        let open = self.entries.iter();
        let open = open.map(|entry| SavedLog { mark: self.mark_of(entry), role: entry.role, is_last });
        let handed = self.handed.iter().map(|(saved, _)| saved);
        handed.chain(&self.saved).cloned().chain(open).chain(self.last_closed.clone()).collect()
    }

    /// Returns the part of the position about this path, as JSON; empty when there is none.
    pub(super) fn fragment(&mut self) -> &str {
        if self.fragment.is_none() {
            let saved = self.saved();
            let text = if saved.is_empty() {
                String::new()
            } else {
                super::fragment(&self.path().to_string_lossy(), &saved)
            };
            self.fragment = Some(text);
        }
        self.fragment.as_deref().unwrap_or_default()
    }

    fn mark_of(&self, entry: &Entry) -> SavedMark {
        let mark = entry.log.saved();
        SavedMark { modified_ns: mark.modified_ns.max(self.newest_ns), ..mark }
    }

    /// Returns the bytes known to be unread.
    pub(super) fn lag_bytes(&self) -> u64 {
        self.entries.iter().map(|entry| entry.log.unread_bytes()).sum()
    }

    /// Returns when to step again without a hint (boot clock, ms).
    pub(super) fn deadline_ms(&self) -> Option<u64> {
        let retry = matches!(self.trouble, Some(Trouble::Unreadable(_))).then_some(self.retry_at_ms);
        let drained = self.entries.iter().filter(|entry| entry.role == Role::Replaced);
        let polite = self.polite_since_ms.map(|since_ms| since_ms + POLITE_MS);
        let handed = self.handed.iter().map(|(_, since_ms)| since_ms + HANDED_MS);
        retry
            .into_iter()
            .chain(polite)
            .chain(handed)
            .chain(drained.map(|entry| entry.idle_since_ms + DRAIN_MS))
            .min()
    }

    /// Reads at most one block of lines into `block` and `out`. Returns false when there is nothing to read now.
    pub(super) fn step(&mut self, now_ms: u64, block: &mut Vec<u8>, out: &mut Output) -> bool {
        loop {
            // Read before checking the path: a replaced file is found elsewhere by the bytes that were read of it.
            if self.read_open(now_ms, block, out) {
                return true;
            }
            if !self.needs_check && self.deadline_ms().is_none_or(|deadline| deadline > now_ms) {
                return false;
            }
            self.needs_check = false;
            self.check_path(now_ms);
            let handed = self.handed.len();
            self.handed.retain(|(_, since_ms)| now_ms < since_ms + HANDED_MS);
            if self.handed.len() < handed {
                (self.must_store, self.fragment) = (true, None);
            }
        }
    }

    /// Reads one block of the oldest file that has one, so that lines keep their order across a rotation.
    fn read_open(&mut self, now_ms: u64, block: &mut Vec<u8>, out: &mut Output) -> bool {
        let mut at = 0;
        while at < self.entries.len() {
            match self.read_entry(at, now_ms, block, out) {
                Progress::Read => return true,
                Progress::Idle => at += 1,
                Progress::Finished => {
                    self.close(at);
                    if has_content(out) {
                        return true;
                    }
                }
                Progress::Again => {}
            }
        }
        self.is_live |= !self.entries.is_empty();
        false
    }

    fn close(&mut self, at: usize) {
        self.fragment = None;
        let Some(entry) = self.entries.get(at) else { return };
        let closed = SavedLog { mark: self.mark_of(entry), role: Role::Closed, is_last: false };
        if let Some(damage) = entry.log.damage() {
            let bytes = entry.log.unread_bytes();
            self.losses.push(Loss {
                bytes: Some(bytes),
                reason: text::damaged(&entry.log.path, damage, entry.log.mark.offset),
            });
        }
        self.claims.release(closed.mark.id, &self.owner, Some(closed.mark.clone()));
        self.entries.remove(at);
        if at == self.entries.len() && !self.is_behind {
            // A newer one that was closed before stays the newest.
            self.last_closed.get_or_insert(closed);
        }
    }

    /// Compares the file that the path names now with the one that is read.
    fn check_path(&mut self, now_ms: u64) {
        let meta = self.path().metadata();
        self.hand_over(meta.as_ref().ok().map(FileId::of), now_ms);
        match meta {
            Ok(meta) if meta.is_file() && self.current_id() == Some(FileId::of(&meta)) => {
                self.trouble = None;
                self.note_backlog();
            }
            _ => self.look_again(meta, now_ms),
        }
    }

    /// Looks at a path that names another file than before, or none.
    fn look_again(&mut self, meta: io::Result<Metadata>, now_ms: u64) {
        self.fragment = None;
        match meta {
            Ok(meta) => self.open_new_file(&meta, now_ms),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.leave_twin();
                self.polite_since_ms = None;
                self.trouble = Some(Trouble::Missing(access::missing(self.path())));
                self.first_seen = None;
                self.start = self.start.map(|_| Start::Beginning);
                self.find_saved_elsewhere(now_ms);
            }
            Err(error) => self.note_failure(&error, now_ms),
        }
    }

    /// Hands files over to those who wait for them: to an earlier source in any case, to others once the path is another
    /// file's name.
    fn hand_over(&mut self, named: Option<FileId>, now_ms: u64) {
        let mut at = 0;
        while let Some(entry) = self.entries.get(at) {
            let id = entry.log.id;
            let waiting = self.claims.waiting(id, &self.owner);
            let is_due = |next: &Owner| next.source < self.owner.source || named != Some(id);
            match waiting.filter(is_due).filter(|next| claims::names(&next.path, id)) {
                Some(next) => {
                    let mark = self.mark_of(entry);
                    self.newest_ns = self.newest_ns.max(mark.modified_ns);
                    self.handed
                        .push((SavedLog { mark: mark.clone(), role: entry.role, is_last: false }, now_ms));
                    (self.must_store, self.fragment) = (true, None);
                    self.claims.hand_over(id, next, mark, now_ms);
                    self.entries.remove(at);
                }
                None => at += 1,
            }
        }
    }

    fn leave_twin(&mut self) {
        if let Some(twin) = self.twin.take() {
            self.claims.leave(twin.id, &self.owner);
        }
    }

    /// Returns whether another name reads the file that the path names now, or is about to.
    fn is_twin(&mut self, id: FileId, now_ms: u64) -> bool {
        let Some(holder) = self.claims.holder(id, &self.owner) else {
            // The other name finds a new file itself; it is asked first.
            let is_new = self.twin.as_ref().is_none_or(|twin| twin.id != id);
            let waits = self.is_polite
                && is_new
                && now_ms.saturating_sub(*self.polite_since_ms.get_or_insert(now_ms)) < POLITE_MS;
            if !waits {
                (self.is_polite, self.polite_since_ms) = (false, None);
            }
            return waits;
        };
        self.polite_since_ms = None;
        if self.twin.as_ref().is_some_and(|twin| twin.id == id && twin.of == holder) {
            return true;
        }
        match self.claims.claim(id, &self.owner, now_ms) {
            Claim::Of(of) => {
                self.become_twin(id, of);
                true
            }
            Claim::Mine(_) => false,
        }
    }

    fn become_twin(&mut self, id: FileId, of: Owner) {
        if self.twin.as_ref().is_some_and(|twin| twin.id != id) {
            self.leave_twin();
        }
        self.twin = Some(Twin { id, of });
        (self.is_behind, self.is_polite, self.polite_since_ms) = (true, true, None);
        self.last_closed = None;
        self.must_store = true;
        self.trouble = None;
        // Whatever is left to this one later was there before, and others read it up to a mark.
        self.start = None;
    }

    fn current_id(&self) -> Option<FileId> {
        self.entries.back().filter(|entry| entry.role == Role::Current).map(|entry| entry.log.id)
    }

    fn open_new_file(&mut self, meta: &Metadata, now_ms: u64) {
        if matches!(self.trouble, Some(Trouble::Unreadable(_))) && now_ms < self.retry_at_ms {
            return;
        }
        let (id, len) = (FileId::of(meta), meta.len());
        if self.saved.is_empty() && self.entries.is_empty() && self.is_twin(id, now_ms) {
            return;
        }
        let seen_len = self
            .first_seen
            .filter(|(seen, seen_len)| *seen == id && *seen_len <= len)
            .map_or(len, |seen| seen.1);
        self.first_seen = meta.is_file().then_some((id, seen_len));
        if !meta.is_file() {
            // A file that takes the place of something else is new.
            self.start = self.start.map(|_| Start::Beginning);
        }
        match OpenLog::open(self.path()) {
            Ok(log) => self.adopt(log, seen_len, now_ms),
            Err(error) => self.note_failure(&error, now_ms),
        }
    }

    fn note_failure(&mut self, error: &io::Error, now_ms: u64) {
        let waited = matches!(self.trouble, Some(Trouble::Unreadable(_)));
        self.retry_wait_ms =
            if waited { (self.retry_wait_ms * 2).min(LAST_RETRY_MS) } else { FIRST_RETRY_MS };
        self.retry_at_ms = now_ms + self.retry_wait_ms;
        self.leave_twin();
        self.trouble = Some(Trouble::Unreadable(access::reason(self.path(), error)));
    }

    /// Takes the file that the path names now.
    fn adopt(&mut self, log: OpenLog, seen_len: u64, now_ms: u64) {
        self.trouble = None;
        self.first_seen = None;
        if !self.saved.is_empty() {
            return self.adopt_after_restart(log, now_ms);
        }
        if let Some(mark) = self.newest_mark() {
            self.retire_current(now_ms);
            let newer = siblings::unread(self.path(), &mark, Some(log.id)).newer;
            self.push_newer(&newer, now_ms);
            self.start = None;
        }
        let log = match self.claims.claim(log.id, &self.owner, now_ms) {
            Claim::Of(of) => return self.become_twin(log.id, of),
            // `push` puts it where it was read to.
            Claim::Mine(marks) if !marks.is_empty() => {
                self.start = None;
                log
            }
            Claim::Mine(_) => self.at_start(log, seen_len),
        };
        self.push(log, Role::Current, now_ms);
    }

    /// Returns the mark of the newest file that was read.
    fn newest_mark(&self) -> Option<SavedMark> {
        if self.is_behind {
            return None;
        }
        let closed = self.last_closed.as_ref().map(|last| {
            let modified_ns = last.mark.modified_ns.max(self.newest_ns);
            SavedMark { modified_ns, ..last.mark.clone() }
        });
        closed.or_else(|| self.entries.back().map(|entry| self.mark_of(entry)))
    }

    fn retire_current(&mut self, now_ms: u64) {
        if let Some(entry) = self.entries.back_mut().filter(|entry| entry.role == Role::Current) {
            entry.role = Role::Replaced;
            entry.idle_since_ms = now_ms;
        }
    }

    /// Puts the mark of the path's first file where the settings say.
    fn at_start(&mut self, mut log: OpenLog, seen_len: u64) -> OpenLog {
        if self.start.is_some() {
            self.newest_ns = self.newest_ns.max(log.opened_ns());
        }
        let result = match self.start.take() {
            None | Some(Start::Beginning) => Ok(()),
            Some(Start::End) => {
                self.is_live = true;
                log.start_at(seen_len, self.max_line_bytes)
            }
            Some(Start::Since(time)) => {
                catch_up::start_since(&mut log, time, self.max_line_bytes, &mut self.parser)
            }
        };
        if let Err(error) = result {
            tracing::warn!(path = %self.path().display(), %error, "could not find where to start in the log; reading it from the beginning");
        }
        log
    }

    /// Finds every file read before the restart, and those that came between them and the path's file.
    fn adopt_after_restart(&mut self, current: OpenLog, now_ms: u64) {
        self.start = None;
        let saved = std::mem::take(&mut self.saved);
        let resumed = saved.last().and_then(|last| self.resumed_current(&last.mark));
        let is_same = resumed.is_some();
        let older = saved.get(..saved.len() - usize::from(is_same)).unwrap_or_default();
        self.push_saved(older, current.id, now_ms);
        if let Some(last) = older.last().filter(|last| !is_same && !last.is_last) {
            let unread = siblings::unread(self.path(), &last.mark, Some(current.id));
            self.push_newer(&unread.newer, now_ms);
            self.note_gone(last, &unread);
        }
        self.push(resumed.unwrap_or(current), Role::Current, now_ms);
    }

    /// Notes that the rest of the file that was read last is nowhere to be found.
    fn note_gone(&mut self, last: &SavedLog, unread: &siblings::Unread) {
        let was_read = last.role == Role::Current && last.mark.head.len > 0;
        // One that is packed in a way that cannot be read is reported as such.
        let is_reported = unread.newer.iter().any(|sibling| sibling.foreign.is_some());
        if was_read && unread.ours.is_none() && !is_reported {
            let reason =
                text::gone(self.path(), last.mark.offset, last.mark.modified_ns.div_euclid(1_000_000));
            self.losses.push(Loss { bytes: None, reason });
        }
    }

    /// Opens the files read before the restart, all of them older than `end`.
    ///
    /// A file of which nothing was read yet has no fingerprint, so it is not recognised once it is packed. In its place the
    /// files written to since are read, up to the next one that is recognised.
    fn push_saved(&mut self, saved: &[SavedLog], end: FileId, now_ms: u64) {
        let mut until = end;
        let mut found = Vec::new();
        for saved in saved.iter().rev() {
            let ours = siblings::unread(self.path(), &saved.mark, Some(end)).ours;
            let was_read = saved.mark.head.len > 0 || saved.is_last;
            let newer = match &ours {
                None if !was_read => siblings::unread(self.path(), &saved.mark, Some(until)).newer,
                _ => Vec::new(),
            };
            until = ours.as_ref().map_or(until, |ours| ours.id);
            found.push((ours, newer, replaced_or_closed(saved.role)));
        }
        for (ours, newer, role) in found.into_iter().rev() {
            if let Some(ours) = ours {
                self.push_if_new(ours, role, now_ms);
            }
            self.push_newer(&newer, now_ms);
        }
    }

    /// Looks for the path's file under another name: the path is gone since the restart, but the file may be written to.
    fn find_saved_elsewhere(&mut self, now_ms: u64) {
        let Some(last) = self.saved.last() else { return };
        let unread = siblings::unread(self.path(), &last.mark, None);
        let Some(ours) = unread.ours else { return };
        let mut saved = std::mem::take(&mut self.saved);
        let is_last = saved.pop().is_some_and(|last| last.is_last);
        self.start = None;
        self.push_saved(&saved, ours.id, now_ms);
        self.push_if_new(ours, Role::Replaced, now_ms);
        if !is_last {
            self.push_newer(&unread.newer, now_ms);
        }
        if let Some(newest) = self.entries.back_mut().filter(|entry| !entry.log.is_packed()) {
            newest.role = Role::Current;
        }
    }

    /// Opens the path's file at its mark, if it is the one that was read.
    fn resumed_current(&self, saved: &SavedMark) -> Option<OpenLog> {
        OpenLog::resume(self.path(), saved).ok()?.filter(|log| log.id == saved.id)
    }

    fn push_newer(&mut self, newer: &[siblings::Sibling], now_ms: u64) {
        for sibling in newer {
            let lost = |why: String| Loss {
                bytes: Some(sibling.len_bytes),
                reason: text::unread(&sibling.path, &why),
            };
            if let Some(ending) = sibling.foreign {
                self.losses.push(lost(text::foreign(ending)));
                continue;
            }
            match OpenLog::open(&sibling.path) {
                Ok(log) => {
                    let log = self.at_mark_of_original(log);
                    let role = if log.is_packed() { Role::Closed } else { Role::Replaced };
                    self.push_if_new(log, role, now_ms);
                }
                Err(error) => self.losses.push(lost(access::reason(&sibling.path, &error))),
            }
        }
    }

    /// A copy (`copytruncate`) of a file that was read under another name goes on where that one was read to.
    fn at_mark_of_original(&self, mut log: OpenLog) -> OpenLog {
        let Ok(head) = log.head() else { return log };
        let resume =
            |mark: &SavedMark| OpenLog::resume(&log.path, mark).ok()?.filter(|found| found.id == log.id);
        self.claims.marks_like(&head).iter().find_map(resume).unwrap_or(log)
    }

    fn push_if_new(&mut self, log: OpenLog, role: Role, now_ms: u64) {
        if !self.holds(log.id) {
            self.is_live = false;
            self.push(log, role, now_ms);
        }
    }

    /// Takes a file, from where it was read to under any name; leaves it to whoever else reads it.
    fn push(&mut self, log: OpenLog, role: Role, now_ms: u64) {
        match self.claims.claim(log.id, &self.owner, now_ms) {
            Claim::Of(of) if role == Role::Current => self.become_twin(log.id, of),
            Claim::Of(_) => {}
            Claim::Mine(marks) => {
                if role == Role::Current {
                    self.leave_twin();
                    (self.is_behind, self.is_polite, self.polite_since_ms) = (false, false, None);
                    self.generation += 1;
                }
                self.must_store |= !marks.is_empty();
                let log = further(&log, &marks).unwrap_or(log);
                self.last_closed = None;
                self.entries.push_back(Entry { log, role, idle_since_ms: now_ms });
            }
        }
    }

    fn note_backlog(&mut self) {
        if self.lag_bytes() > BACKLOG_BYTES {
            self.is_live = false;
        }
    }

    fn read_entry(&mut self, at: usize, now_ms: u64, block: &mut Vec<u8>, out: &mut Output) -> Progress {
        let Some(entry) = self.entries.get_mut(at) else { return Progress::Idle };
        match entry.log.unpark_if_changed() {
            Ok(true) => {}
            Ok(false) => return self.find_parked(at, now_ms),
            Err(error) => return self.handle_read_error(at, &error, now_ms),
        }
        if entry.log.is_unchanged() && !entry.is_complete(now_ms) {
            return Progress::Idle;
        }
        self.fragment = None;
        let found = entry.log.read(block, self.block_bytes, &mut self.parser, out);
        self.newest_ns = self.newest_ns.max(entry.log.modified_ns());
        match found {
            Ok(Found::Lines) => {
                entry.idle_since_ms = now_ms;
                let (id, mark) = (entry.log.id, entry.log.saved());
                self.claims.progress(id, &self.owner, mark);
                if has_content(out) { Progress::Read } else { Progress::Again }
            }
            Ok(Found::End) if entry.is_complete(now_ms) => {
                if let Err(error) = entry.log.read_rest(block, self.block_bytes, &mut self.parser, out) {
                    tracing::warn!(path = %entry.log.path.display(), %error, "could not read the end of a rotated log");
                }
                Progress::Finished
            }
            Ok(Found::End) => Progress::Idle,
            Ok(Found::Rewritten) => self.handle_rewrite(at, now_ms),
            Err(error) => self.handle_read_error(at, &error, now_ms),
        }
    }

    /// Finds a file that was closed because nothing was written to it, and has another name by now.
    fn find_parked(&mut self, at: usize, now_ms: u64) -> Progress {
        self.fragment = None;
        let Some(entry) = self.entries.get(at) else { return Progress::Idle };
        let (mark, role) = (self.mark_of(entry), entry.role);
        self.newest_ns = self.newest_ns.max(mark.modified_ns);
        self.entries.remove(at);
        if role == Role::Current {
            // As after a restart: it, and all that came since.
            self.claims.release(mark.id, &self.owner, Some(mark.clone()));
            self.saved.push(SavedLog { mark, role, is_last: false });
            self.needs_check = true;
            return Progress::Again;
        }
        match siblings::unread(self.path(), &mark, self.current_id()).ours {
            Some(log) => self.entries.insert(at, Entry { log, role, idle_since_ms: now_ms }),
            None => self.claims.release(mark.id, &self.owner, Some(mark)),
        }
        Progress::Again
    }

    /// Handles a file whose bytes before the mark are gone: what was not read of them may have been copied elsewhere first.
    fn handle_rewrite(&mut self, at: usize, now_ms: u64) -> Progress {
        let Some(mark) = self.entries.get(at).map(|entry| self.mark_of(entry)) else { return Progress::Idle };
        let unread = siblings::unread(self.path(), &mark, Some(mark.id));
        let mut behind = self.entries.split_off(at);
        let last_closed = self.last_closed.take();
        if let Some(rewritten) = behind.front_mut() {
            rewritten.log.mark = Mark::default();
        }
        if let Some(ours) = unread.ours.filter(|copy| behind.iter().all(|entry| entry.log.id != copy.id)) {
            self.push_if_new(ours, Role::Closed, now_ms);
        }
        // Of a deleted file it cannot be known which of the old logs were written before it.
        if behind.front().is_some_and(|entry| entry.role == Role::Current && !entry.log.is_deleted()) {
            self.push_newer(&unread.newer, now_ms);
        }
        self.entries.extend(behind);
        self.last_closed = last_closed;
        Progress::Again
    }

    /// Closes a file that cannot be read any more (a network file system, a failing disk); its path is retried.
    fn handle_read_error(&mut self, at: usize, error: &io::Error, now_ms: u64) -> Progress {
        self.fragment = None;
        if let Some(entry) = self.entries.remove(at) {
            tracing::warn!(path = %entry.log.path.display(), %error, "could not read a log");
            self.claims.release(entry.log.id, &self.owner, Some(entry.log.saved()));
            if entry.role == Role::Current {
                self.saved.push(SavedLog { mark: entry.log.saved(), role: Role::Current, is_last: false });
            }
        }
        self.note_failure(error, now_ms);
        Progress::Again
    }
}

impl Drop for Follow {
    /// Whoever else has a name for its files reads on.
    fn drop(&mut self) {
        self.leave_twin();
        for entry in &self.entries {
            self.claims.release(entry.log.id, &self.owner, Some(self.mark_of(entry)));
        }
    }
}

/// Opens a file where it was read to under another name, if that is further than here.
fn further(log: &OpenLog, marks: &[SavedMark]) -> Option<OpenLog> {
    let mut marks: Vec<&SavedMark> = marks.iter().filter(|mark| mark.offset > log.mark.offset).collect();
    marks.sort_by_key(|mark| std::cmp::Reverse(mark.offset));
    let resume = |mark: &SavedMark| OpenLog::resume(&log.path, mark).ok()?.filter(|found| found.id == log.id);
    marks.into_iter().find_map(resume)
}

impl Entry {
    /// Returns whether nothing more will be written to it.
    fn is_complete(&self, now_ms: u64) -> bool {
        match self.role {
            Role::Current => false,
            Role::Replaced => now_ms.saturating_sub(self.idle_since_ms) >= DRAIN_MS,
            Role::Closed => true,
        }
    }
}

enum Progress {
    /// Lines are in the output.
    Read,
    /// No complete line now.
    Idle,
    /// Read to its end for good.
    Finished,
    /// Try the same index again: the entry there changed or is another one.
    Again,
}

fn replaced_or_closed(role: Role) -> Role {
    if role == Role::Closed { Role::Closed } else { Role::Replaced }
}

fn has_content(out: &Output) -> bool {
    !out.lines.is_empty() || out.rejected.iter().any(|count| *count != 0)
}
