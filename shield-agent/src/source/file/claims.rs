//! Who reads which file, over all sources: one log is one log, by however many names it is reached (links, patterns that
//! overlap, two sources). Counted twice, four mistyped passwords are eight.
//!
//! A file is known by device and inode, and read by whoever claims it first; a source that stands earlier in the
//! configuration takes it over from a later one. Whoever gives a file up leaves its mark, so that the next one continues there.
//! [`Claims`] only keeps the books: the holder looks for itself whether somebody waits ([`Claims::waiting`]) and hands over
//! between two reads.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::mark::{FileId, SavedMark};

/// A file that was handed over is free again when its new owner has not come for it after this long.
const RESERVED_MS: u64 = 15_000;

/// Marks kept of files that nobody reads.
const MAX_MARKS: usize = 8192;

/// One name of one source.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Owner {
    /// The source's place in the configuration.
    pub source: u16,
    pub path: PathBuf,
}

/// The answer to a claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Claim {
    /// The file is the claimant's. It was read before up to one of these marks, if it is still the same file.
    Mine(Vec<SavedMark>),
    /// Another one reads it.
    Of(Owner),
}

#[derive(Debug)]
struct Holder {
    owner: Owner,
    /// It was handed over, and is kept for the owner until then (boot clock, ms).
    reserved_until_ms: Option<u64>,
    waiting: Option<Owner>,
    /// How far it is read.
    mark: Option<SavedMark>,
}

#[derive(Debug, Default)]
struct Books {
    held: BTreeMap<FileId, Holder>,
    marks: BTreeMap<FileId, Vec<SavedMark>>,
    /// Files with a mark, the oldest mark first.
    marked: VecDeque<FileId>,
}

/// The books. A clone shares them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Claims(Arc<Mutex<Books>>);

impl Claims {
    fn books(&self) -> MutexGuard<'_, Books> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes how far a file was read in an earlier run, by whatever source.
    pub(super) fn note(&self, mark: &SavedMark) {
        self.books().note(mark.clone());
    }

    /// Claims a file.
    pub(super) fn claim(&self, id: FileId, claimant: &Owner, now_ms: u64) -> Claim {
        let mut books = self.books();
        match books.held.get_mut(&id) {
            Some(holder) if holder.owner == *claimant => holder.reserved_until_ms = None,
            Some(holder) if holder.reserved_until_ms.is_none_or(|until_ms| now_ms < until_ms) => {
                // The first of the configuration is served first.
                if holder.waiting.as_ref().is_none_or(|waiting| claimant < waiting) {
                    holder.waiting = Some(claimant.clone());
                }
                return Claim::Of(holder.owner.clone());
            }
            _ => {
                let holder =
                    Holder { owner: claimant.clone(), reserved_until_ms: None, waiting: None, mark: None };
                books.held.insert(id, holder);
            }
        }
        Claim::Mine(books.marks.get(&id).cloned().unwrap_or_default())
    }

    /// Notes how far the holder has read a file.
    pub(super) fn progress(&self, id: FileId, owner: &Owner, mark: SavedMark) {
        if let Some(holder) = self.books().held.get_mut(&id)
            && holder.owner == *owner
        {
            holder.mark = Some(mark);
        }
    }

    /// Returns the marks of all files that begin like this one, the furthest first: it may be a copy of one of them.
    pub(super) fn marks_like(&self, head: &[u8]) -> Vec<SavedMark> {
        let books = self.books();
        let held = books.held.values().filter_map(|holder| holder.mark.as_ref());
        let is_like = |mark: &&SavedMark| {
            let begin = head.get(..mark.head.len as usize).filter(|begin| !begin.is_empty());
            begin.is_some_and(|begin| mark.head.matches(begin))
        };
        let mut marks: Vec<SavedMark> =
            books.marks.values().flatten().chain(held).filter(is_like).cloned().collect();
        marks.sort_by_key(|mark| std::cmp::Reverse(mark.offset));
        marks
    }

    /// Returns who reads the file, if another one does.
    pub(super) fn holder(&self, id: FileId, but: &Owner) -> Option<Owner> {
        self.books().held.get(&id).map(|holder| holder.owner.clone()).filter(|owner| owner != but)
    }

    /// Returns the owner that waits for a file of this holder.
    pub(super) fn waiting(&self, id: FileId, holder: &Owner) -> Option<Owner> {
        let books = self.books();
        books.held.get(&id).filter(|held| held.owner == *holder)?.waiting.clone()
    }

    /// Waits for the file no more.
    pub(super) fn leave(&self, id: FileId, owner: &Owner) {
        if let Some(holder) = self.books().held.get_mut(&id)
            && holder.waiting.as_ref() == Some(owner)
        {
            holder.waiting = None;
        }
    }

    /// Gives a file up, read up to `mark`, for whoever comes next.
    pub(super) fn release(&self, id: FileId, owner: &Owner, mark: Option<SavedMark>) {
        let mut books = self.books();
        if books.held.get(&id).is_some_and(|holder| holder.owner == *owner) {
            books.held.remove(&id);
            books.replace(id, mark);
        }
    }

    /// Hands a file over to `next`, read up to `mark`.
    pub(super) fn hand_over(&self, id: FileId, next: Owner, mark: SavedMark, now_ms: u64) {
        let mut books = self.books();
        let reserved_until_ms = Some(now_ms + RESERVED_MS);
        books.held.insert(id, Holder { owner: next, reserved_until_ms, waiting: None, mark: None });
        books.replace(id, Some(mark));
    }
}

impl Books {
    fn note(&mut self, mark: SavedMark) {
        let id = mark.id;
        let marks = self.marks.entry(id).or_default();
        if !marks.contains(&mark) {
            marks.push(mark);
        }
        self.forget_oldest(id);
    }

    fn replace(&mut self, id: FileId, mark: Option<SavedMark>) {
        if let Some(mark) = mark {
            self.marks.insert(id, vec![mark]);
            self.forget_oldest(id);
        }
    }

    fn forget_oldest(&mut self, newest: FileId) {
        self.marked.retain(|id| *id != newest);
        self.marked.push_back(newest);
        while self.marked.len() > MAX_MARKS
            && let Some(oldest) = self.marked.pop_front()
        {
            self.marks.remove(&oldest);
        }
    }
}

/// Returns whether `path` names the file.
pub(super) fn names(path: &Path, id: FileId) -> bool {
    path.metadata().is_ok_and(|meta| FileId::of(&meta) == id)
}

#[cfg(test)]
mod tests {
    use super::super::mark::Fingerprint;
    use super::*;

    const FILE: FileId = FileId { dev: 1, ino: 2 };

    fn owner(source: u16) -> Owner {
        Owner { source, path: PathBuf::from(format!("/{source}.log")) }
    }

    fn mark(offset: u64) -> SavedMark {
        let empty = Fingerprint::of(b"");
        SavedMark { id: FILE, offset, head: empty, tail: empty, skipping: false, modified_ns: 0 }
    }

    #[test]
    fn one_reads_and_the_next_continues_where_it_stopped() {
        let claims = Claims::default();
        assert_eq!(claims.claim(FILE, &owner(1), 0), Claim::Mine(vec![]));
        assert_eq!(claims.claim(FILE, &owner(2), 0), Claim::Of(owner(1)));
        assert_eq!(claims.claim(FILE, &owner(0), 0), Claim::Of(owner(1)));
        assert_eq!(claims.waiting(FILE, &owner(1)), Some(owner(0)), "the first of the configuration");
        claims.hand_over(FILE, owner(0), mark(7), 0);
        assert_eq!(claims.claim(FILE, &owner(1), 1), Claim::Of(owner(0)), "kept for whom it was handed to");
        assert_eq!(claims.claim(FILE, &owner(0), 1), Claim::Mine(vec![mark(7)]));
        claims.release(FILE, &owner(1), Some(mark(3)));
        assert_eq!(claims.holder(FILE, &owner(1)), Some(owner(0)), "only its holder gives a file up");
        claims.release(FILE, &owner(0), Some(mark(9)));
        assert_eq!(claims.claim(FILE, &owner(2), 1), Claim::Mine(vec![mark(9)]));
    }

    #[test]
    fn a_file_that_nobody_came_for_is_free_again() {
        let claims = Claims::default();
        claims.claim(FILE, &owner(1), 0);
        claims.hand_over(FILE, owner(0), mark(7), 0);
        assert_eq!(claims.claim(FILE, &owner(1), RESERVED_MS - 1), Claim::Of(owner(0)));
        assert_eq!(claims.claim(FILE, &owner(1), RESERVED_MS), Claim::Mine(vec![mark(7)]));
    }

    #[test]
    fn whoever_waits_no_more_is_not_handed_anything() {
        let claims = Claims::default();
        claims.claim(FILE, &owner(1), 0);
        claims.claim(FILE, &owner(2), 0);
        claims.leave(FILE, &owner(2));
        assert_eq!(claims.waiting(FILE, &owner(1)), None);
    }
}
