//! Finds the rotated predecessors of a log among the files beside it, and the order in which they were written.
//!
//! Recognised are `access.log.1`, `access.log-20261124`, `access-20261124.log` and the like, plain or packed, beside the log, in
//! the folder that logrotate's configuration names (`olddir`), and in folders beside the log. A file with another name is found
//! only by identity: renamed to anything, it is still the file that was being read.

use std::collections::BTreeMap;
use std::fs::Metadata;
use std::path::{Path, PathBuf};

use super::log::OpenLog;
use super::logrotate;
use super::mark::{FileId, SavedMark, modified_ns};
use crate::source::unpack::Packing;

/// Longer numbers in a name are dates.
const MAX_NUMBER_DIGITS: usize = 5;

/// Folders beside a log that are searched for its predecessors.
const MAX_FOLDERS: usize = 256;

/// A file beside the log.
#[derive(Debug, Clone)]
pub(super) struct Sibling {
    pub path: PathBuf,
    pub id: FileId,
    modified_ns: i64,
    age: Age,
    is_packed: bool,
    /// The ending of a packing that cannot be read.
    pub foreign: Option<&'static str>,
    pub len_bytes: u64,
    /// Plain and empty: nothing of it can have been read.
    is_empty: bool,
}

/// The age of a rotated file, by its name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Age {
    /// Counts rotations: `.1` is younger than `.2`.
    Number(u32),
    /// Dates sort as text: the digits alone first, so that 2026-11-24 and 20261125 sort.
    Date(String, String),
    /// Not a name of a rotated file.
    Unknown,
}

/// The predecessors that hold lines not read yet, oldest first.
#[derive(Debug, Default)]
pub(super) struct Unread {
    /// The file that was being read, opened at its mark.
    pub ours: Option<OpenLog>,
    /// Files rotated after it, to be read whole.
    pub newer: Vec<Sibling>,
}

/// Finds the bytes behind `saved` when the log at `path` no longer is the file that was read, and the files written after
/// them but before `until`, the file at which reading continues (whatever its name is by now).
///
/// The file that was read is recognised by its identity and fingerprints, a copy or packed copy of it by the fingerprints
/// alone. When it is gone altogether, the newer files are those last written to after it was read, and those that are
/// empty: a writer may have one of them open, whenever it was last written to.
pub(super) fn unread(path: &Path, saved: &SavedMark, until: Option<FileId>) -> Unread {
    let found = unread_among(all(path, Vec::new()), saved, until);
    if found.ours.is_some() {
        return found;
    }
    // logrotate may have put it elsewhere; its configuration is read only then.
    let real = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    match logrotate::old_folders(&real) {
        folders if folders.is_empty() => found,
        folders => unread_among(all(path, folders), saved, until),
    }
}

fn unread_among(siblings: Vec<Sibling>, saved: &SavedMark, until: Option<FileId>) -> Unread {
    let end = siblings.iter().position(|sibling| Some(sibling.id) == until);
    let before_end = siblings.get(..end.unwrap_or(siblings.len())).unwrap_or_default();
    match find(&siblings, saved, until) {
        Some((at, ours)) => Unread { ours: Some(ours), newer: after(before_end, at) },
        None => Unread { ours: None, newer: modified_after(before_end, saved.modified_ns) },
    }
}

/// Returns the sibling that holds `saved`'s bytes, opened at its mark.
fn find(siblings: &[Sibling], saved: &SavedMark, until: Option<FileId>) -> Option<(usize, OpenLog)> {
    let is_known = |sibling: &Sibling| {
        let may_be_copy = saved.head.len > 0 && sibling.age != Age::Unknown && sibling.foreign.is_none();
        Some(sibling.id) != until && (sibling.id == saved.id || may_be_copy)
    };
    let mut candidates: Vec<(usize, &Sibling)> =
        siblings.iter().enumerate().filter(|(_, s)| is_known(s)).collect();
    candidates.sort_by_key(|(_, sibling)| (sibling.id != saved.id, sibling.is_packed));
    candidates.into_iter().find_map(|(at, sibling)| Some((at, OpenLog::resume(&sibling.path, saved).ok()??)))
}

fn after(siblings: &[Sibling], at: usize) -> Vec<Sibling> {
    let Some(ours) = siblings.get(at) else { return Vec::new() };
    if ours.age == Age::Unknown {
        return modified_after(siblings, ours.modified_ns);
    }
    without_duplicates(siblings.iter().skip(at + 1).filter(|sibling| sibling.age != ours.age))
}

fn modified_after(siblings: &[Sibling], modified_ns: i64) -> Vec<Sibling> {
    without_duplicates(
        siblings.iter().filter(|sibling| sibling.is_empty || sibling.modified_ns > modified_ns),
    )
}

/// Returns the recognised files; of a plain and a packed one of the same age only the plain one.
fn without_duplicates<'s>(siblings: impl Iterator<Item = &'s Sibling>) -> Vec<Sibling> {
    let mut recognised: Vec<Sibling> =
        siblings.filter(|sibling| sibling.age != Age::Unknown).cloned().collect();
    recognised
        .dedup_by(|packed, plain| packed.age == plain.age && packed.path.parent() == plain.path.parent());
    recognised
}

/// Returns every file beside `path`, beside what it links to, in folders beside it and in `others`, the recognised ones in the order they
/// were rotated.
fn all(path: &Path, others: Vec<PathBuf>) -> Vec<Sibling> {
    let real = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let mut found = BTreeMap::new();
    for log in [real.as_path(), path] {
        for folder in old_folders(log).into_iter().chain(others.clone()) {
            // Of a folder that is not the log's own only what bears the log's name.
            let ours = beside(log, &folder).filter(|sibling| sibling.age != Age::Unknown);
            found.extend(ours.map(|sibling| (sibling.id, sibling)));
        }
        for sibling in beside(log, folder_of(log)) {
            // What the log's own name tells is not undone by that of a link beside it.
            let is_known = found.get(&sibling.id).is_some_and(|known: &Sibling| known.age != Age::Unknown);
            if !is_known {
                found.insert(sibling.id, sibling);
            }
        }
    }
    let mut siblings: Vec<Sibling> = found.into_values().collect();
    sort(&mut siblings);
    siblings
}

fn folder_of(log: &Path) -> &Path {
    log.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Returns the folders that may hold predecessors of a log besides its own.
///
/// A folder beside the log that holds a log of the same name is another site's.
fn old_folders(log: &Path) -> Vec<PathBuf> {
    let Some(name) = log.file_name() else { return Vec::new() };
    let entries = folder_of(log).read_dir().into_iter().flatten().flatten();
    let beside =
        entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path());
    beside.filter(|folder| !folder.join(name).exists()).take(MAX_FOLDERS).collect()
}

fn beside(log: &Path, folder: &Path) -> impl Iterator<Item = Sibling> {
    let entries = folder.read_dir().into_iter().flatten();
    entries.filter_map(move |entry| {
        let path = entry.ok()?.path();
        let meta = path.metadata().ok().filter(Metadata::is_file)?;
        let Named { age, is_packed, foreign } = age_of(log, &path);
        let is_empty = meta.len() == 0 && !is_packed;
        Some(Sibling {
            id: FileId::of(&meta),
            modified_ns: modified_ns(&meta),
            path,
            age,
            is_packed,
            foreign,
            len_bytes: meta.len(),
            is_empty,
        })
    })
}

/// Sorts oldest first: numbers count down, dates count up, and where both kinds occur the last write decides.
fn sort(siblings: &mut [Sibling]) {
    let has = |wanted: fn(&Age) -> bool| siblings.iter().any(|sibling| wanted(&sibling.age));
    let is_mixed = has(|age| matches!(age, Age::Number(_))) && has(|age| matches!(age, Age::Date(..)));
    siblings.sort_by(|a, b| {
        let by_name = match (&a.age, &b.age) {
            (Age::Number(a), Age::Number(b)) => b.cmp(a),
            (a, b) => a.cmp(b),
        };
        let by_time = a.modified_ns.cmp(&b.modified_ns);
        let by_kind = (a.age == Age::Unknown).cmp(&(b.age == Age::Unknown));
        let by_packing = a.is_packed.cmp(&b.is_packed);
        let order = if is_mixed { by_time.then(by_name) } else { by_name };
        by_kind.then(order).then(by_packing).then(by_time)
    });
}

/// Returns the logs that `path` can be a rotated predecessor of, by its name.
pub(super) fn rotated_from(path: &Path) -> Vec<PathBuf> {
    let Some(name) = name_of(path) else { return Vec::new() };
    let stem = Packing::of_name(&name).map(|(stem, _)| stem);
    let stem = stem.or_else(|| Packing::foreign(&name).map(|(stem, _)| stem)).unwrap_or(&name);
    let is_age = |text: &str| read_age(text).is_some();
    let cuts = |text: &str| -> Vec<usize> { text.match_indices(['.', '-', '_']).map(|(at, _)| at).collect() };
    let mut logs = Vec::new();
    for at in cuts(stem) {
        let (log, age) = stem.split_at(at);
        logs.extend(is_age(age).then(|| path.with_file_name(log)));
    }
    if let Some((before, extension)) = stem.rsplit_once('.') {
        for at in cuts(before) {
            let (log, age) = before.split_at(at);
            logs.extend(is_age(age).then(|| path.with_file_name(format!("{log}.{extension}"))));
        }
    }
    logs
}

/// What a file's name tells.
struct Named {
    age: Age,
    is_packed: bool,
    foreign: Option<&'static str>,
}

fn age_of(log: &Path, path: &Path) -> Named {
    let unknown = Named { age: Age::Unknown, is_packed: false, foreign: None };
    let (Some(base), Some(name)) = (name_of(log), name_of(path)) else { return unknown };
    let unpacked = Packing::of_name(&name).map(|(stem, _)| stem);
    let foreign = Packing::foreign(&name).filter(|_| unpacked.is_none());
    let plain = unpacked.or(foreign.map(|(stem, _)| stem)).unwrap_or(&name);
    let after_name = plain.strip_prefix(base.as_str());
    let between = || {
        let (stem, extension) = base.rsplit_once('.')?;
        plain.strip_prefix(stem)?.strip_suffix(extension)?.strip_suffix('.')
    };
    let age = after_name.and_then(read_age).or_else(|| between().and_then(read_age));
    Named {
        age: age.unwrap_or(Age::Unknown),
        is_packed: plain != name,
        foreign: foreign.map(|(_, ending)| ending),
    }
}

fn name_of(path: &Path) -> Option<String> {
    Some(path.file_name()?.to_str()?.to_owned())
}

/// `.1`, `-20261124`, `-2026-11-24T14`, `_20261124-1732459000`.
fn read_age(suffix: &str) -> Option<Age> {
    let text = suffix.strip_prefix(['.', '-', '_'])?;
    let is_date = |char: char| char.is_ascii_digit() || "-_.:T".contains(char);
    if !text.starts_with(|first: char| first.is_ascii_digit()) || !text.chars().all(is_date) {
        return None;
    }
    match text.parse() {
        Ok(number) if text.len() <= MAX_NUMBER_DIGITS => Some(Age::Number(number)),
        _ => Some(Age::Date(text.chars().filter(char::is_ascii_digit).collect(), text.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn sorted(log: &str, names: &[&str]) -> Vec<String> {
        let folder = tempfile::tempdir().unwrap();
        for name in names {
            fs::write(folder.path().join(name), name).unwrap();
        }
        let recognised = without_duplicates(all(&folder.path().join(log), Vec::new()).iter());
        recognised.iter().map(|sibling| name_of(&sibling.path).unwrap()).collect()
    }

    #[test]
    fn predecessors_come_oldest_first() {
        let check = |log: &str, names: &[&str], expected: &[&str]| assert_eq!(sorted(log, names), expected);
        check(
            "access.log",
            &[
                "access.log",
                "access.log.1",
                "access.log.10.gz",
                "access.log.2.gz",
                "error.log.1",
                "access.log.bak",
            ],
            &["access.log.10.gz", "access.log.2.gz", "access.log.1"],
        );
        check(
            "access.log",
            &["access.log-20261124", "access.log-20261123.gz", "access.log-20261123"],
            &["access.log-20261123", "access.log-20261124"],
        );
        check(
            "access.log",
            &["access-20261124.log", "access-20261123.log.gz"],
            &["access-20261123.log.gz", "access-20261124.log"],
        );
        check(
            "access.log",
            &[
                "access.log.2026-11-25.xz",
                "access.log-20261124.bz2",
                "access.log.20261123.zst",
                "access.log.20261122.lz4",
            ],
            &[
                "access.log.20261122.lz4",
                "access.log.20261123.zst",
                "access.log-20261124.bz2",
                "access.log.2026-11-25.xz",
            ],
        );
        check(
            "a.log",
            &["a.log-2026-11-24T14", "a.log-2026-11-24T15", "a.log.swp"],
            &["a.log-2026-11-24T14", "a.log-2026-11-24T15"],
        );
    }

    #[test]
    fn rotated_names_differ_from_logs_of_their_own() {
        let check = |path: &str, expected| {
            let log = Path::new("/l/a.log");
            assert_eq!(rotated_from(Path::new(path)).iter().any(|from| from == log), expected, "{path}");
            assert_eq!(age_of(log, Path::new(path)).age != Age::Unknown, expected, "{path}");
        };
        check("/l/a-20261124.log.xz", true);
        check("/l/a.1.log", true);
        check("/l/a.log.2026-11-24_13:00.zst", true);
        check("/l/b-20261124.log", false);
        check("/l/a.log.1", true);
        check("/l/a.log-20261124.gz", true);
        check("/l/a.log", false);
        check("/l/ab.log", false);
        check("/l/a.log.old", false);
    }
}
