//! Logs in files: one path, a glob pattern, or a folder of logs. Finds the paths, reads them in turn, and keeps the
//! position of all of them together.
//!
//! Nothing here waits or reads a clock: [`Files::step`] takes the time, and [`Files::deadline_ms`] returns when it must be
//! called again.

pub(crate) mod access;
mod catch_up;
pub(crate) mod claims;
mod follow;
mod log;
mod logrotate;
mod mark;
#[cfg(test)]
mod model;
mod siblings;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use claims::{Claims, Owner};
pub(crate) use follow::{BACKLOG_BYTES, BLOCK_BYTES, Start};
use follow::{Follow, SavedLog, Trouble};
pub(crate) use mark::FileId;

use crate::source::unpack::Packing;
use crate::text::access as text;
use shield_engine::event::PartState;
use shield_engine::request::{Batch, Checkpoint, SourceId};

/// The logs of a folder that is a source.
const FOLDER_PATTERN: &str = "*.log";

/// Files of a folder with this in their names are no access logs.
const NOT_ACCESS: &str = "error";

/// From this many logs on new ones are searched for at intervals, and not at every hint.
const MANY_LOGS: usize = 64;
const SCAN_EVERY_MS: u64 = 1_000;

/// The version of the position's encoding.
const POSITION_VERSION: u32 = 1;

/// The place of a source's logs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// This one log.
    Path(PathBuf),
    /// Every log that the pattern matches, new ones included.
    Pattern(String),
}

impl Place {
    /// Reads the configuration's text: a pattern when it has `*`, `?` or `[`, otherwise a path. A folder stands for all its
    /// logs, `*.log` without error logs.
    pub(crate) fn of(text: &str) -> Place {
        if text.contains(['*', '?', '[']) {
            return Place::Pattern(text.to_owned());
        }
        let path = Path::new(text);
        if text.ends_with('/') || path.is_dir() {
            let folder = glob::Pattern::escape(text.trim_end_matches('/'));
            return Place::Pattern(format!("{folder}/{FOLDER_PATTERN}"));
        }
        Place::Path(path.to_owned())
    }

    fn is_folder_pattern(pattern: &str) -> bool {
        pattern.ends_with(&format!("/{FOLDER_PATTERN}"))
    }

    /// Returns the paths that exist now, those that are no links first: of two names of one file the first reads it.
    pub(crate) fn paths(&self) -> Vec<PathBuf> {
        match self {
            Place::Path(path) => vec![path.clone()],
            Place::Pattern(pattern) => {
                let found: BTreeSet<PathBuf> = glob::glob(pattern).into_iter().flatten().flatten().collect();
                let is_rotated =
                    |path: &Path| siblings::rotated_from(path).iter().any(|log| found.contains(log));
                let is_ours =
                    |path: &PathBuf| !is_rotated(path) && is_log(path, Place::is_folder_pattern(pattern));
                let mut logs: Vec<PathBuf> = found.iter().filter(|path| is_ours(path)).cloned().collect();
                logs.sort_by_cached_key(|path| path.is_symlink());
                logs
            }
        }
    }

    /// Returns the folder in which new logs appear.
    fn folder(&self) -> PathBuf {
        let (text, is_pattern) = match self {
            Place::Path(path) => (path.as_path(), false),
            Place::Pattern(pattern) => (Path::new(pattern), true),
        };
        let has_wildcard = |path: &Path| is_pattern && path.to_string_lossy().contains(['*', '?', '[']);
        let mut folders = text.ancestors().skip(1).filter(|folder| !has_wildcard(folder));
        folders.next().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_owned()
    }
}

fn is_log(path: &Path, skip_error_logs: bool) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let is_packed = Packing::of_name(&name).is_some() || Packing::foreign(&name).is_some();
    !is_packed && path.is_file() && !(skip_error_logs && name.contains(NOT_ACCESS))
}

/// The settings of a source of files.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub id: SourceId,
    /// The configuration's text, under which the position is stored.
    pub name: String,
    pub place: Place,
    pub format: shield_logline::Settings,
    pub start: Start,
    /// While more than this many logs are open, each is closed after it was read.
    pub max_open: usize,
}

#[derive(Serialize, Deserialize)]
struct Position {
    v: u32,
    logs: BTreeMap<String, Vec<SavedLog>>,
}

/// All logs of one source.
#[derive(Debug)]
pub(crate) struct Files {
    settings: Settings,
    claims: Claims,
    follows: Vec<Follow>,
    /// Marks of logs read before the restart whose path was not seen again yet.
    saved: BTreeMap<String, Vec<SavedLog>>,
    /// The index of the next log to read.
    turn: usize,
    /// The first scan is over: a log found from now on is new, and read from its beginning.
    has_started: bool,
    /// A position must be stored although nothing was read, or the next start would be a first one again.
    must_store_position: bool,
    needs_scan: bool,
    scanned_ms: u64,
    /// The number of logs, and the sum of their generations, when their folders were last listed.
    folders_of: Option<(usize, u64)>,
}

impl Files {
    /// Makes a source that continues at `checkpoint`, or starts as the settings say.
    ///
    /// `claims` are shared with the sources that run at the same time.
    pub(crate) fn new(settings: Settings, checkpoint: Option<&Checkpoint>, claims: Claims) -> Files {
        let position = checkpoint.and_then(|checkpoint| read_position(&settings.name, &checkpoint.position));
        Files {
            settings,
            claims,
            follows: Vec::new(),
            has_started: position.is_some(),
            must_store_position: position.is_none(),
            saved: position.map(|position| position.logs).unwrap_or_default(),
            turn: 0,
            needs_scan: true,
            scanned_ms: 0,
            folders_of: None,
        }
    }

    /// Takes over where other sources stopped, for the logs that are now read here.
    pub(crate) fn inherit(&mut self, stopped: &[Checkpoint]) {
        for checkpoint in stopped {
            let position = read_position(&checkpoint.source, &checkpoint.position);
            for (path, saved) in position.into_iter().flat_map(|position| position.logs) {
                self.saved.entry(path).or_insert(saved);
            }
        }
    }

    /// Reads lines by other settings from the next one on.
    pub(crate) fn set_format(&mut self, format: &shield_logline::Settings) {
        self.settings.format = format.clone();
        self.follows.iter_mut().for_each(|follow| follow.set_format(format));
    }

    /// The position after all that was read.
    pub(crate) fn checkpoint(&mut self) -> Checkpoint {
        Checkpoint { source: self.settings.name.clone(), position: self.position() }
    }

    /// Notes that something may have happened to any log, or that there may be new ones.
    pub(crate) fn hint_all(&mut self) {
        self.needs_scan = true;
        self.follows.iter_mut().for_each(Follow::hint);
    }

    /// Returns the folders in which a change may concern these logs, if they are others than at the last call.
    pub(crate) fn changed_folders(&mut self) -> Option<Vec<PathBuf>> {
        // Links are followed for that, so it is not done for every line.
        let generation = (self.follows.len(), self.follows.iter().map(Follow::generation).sum());
        let is_new = self.folders_of != Some(generation);
        self.folders_of = Some(generation);
        is_new.then(|| self.folders())
    }

    fn folders(&self) -> Vec<PathBuf> {
        let mut folders = vec![self.settings.place.folder()];
        for follow in &self.follows {
            let path = follow.path();
            let real = path.canonicalize().ok();
            folders.extend(
                [Some(path), real.as_deref()]
                    .into_iter()
                    .flatten()
                    .filter_map(Path::parent)
                    .map(Path::to_owned),
            );
        }
        folders.retain(|folder| !folder.as_os_str().is_empty());
        folders.sort();
        folders.dedup();
        folders
    }

    /// Returns when to step again without a hint (boot clock, ms).
    pub(crate) fn deadline_ms(&self) -> Option<u64> {
        let scan = self.needs_scan.then(|| self.scan_due_ms());
        self.follows.iter().filter_map(Follow::deadline_ms).chain(scan).min()
    }

    /// Returns when the next search for logs may begin. With many logs it is a matter of milliseconds, and a hint of any line
    /// asks for one.
    fn scan_due_ms(&self) -> u64 {
        if self.follows.len() < MANY_LOGS { 0 } else { self.scanned_ms + SCAN_EVERY_MS }
    }

    /// Reads at most one block of lines into `batch` and returns their length in bytes. `None` when there is nothing to read
    /// now.
    pub(crate) fn step(&mut self, now_ms: u64, batch: &mut Batch) -> Option<u64> {
        if self.needs_scan && self.scan_due_ms() <= now_ms {
            self.needs_scan = false;
            self.scan(now_ms);
        }
        let mut out = shield_logline::Output {
            lines: std::mem::take(&mut batch.lines),
            ..shield_logline::Output::default()
        };
        let found = self.next_block(now_ms, &mut batch.bytes, &mut out);
        batch.lines = out.lines;
        batch.rejected = out.rejected;
        batch.first_refused = out.first_refused;
        batch.format = out.format;
        batch.source = Some(self.settings.id);
        batch.log = found.unwrap_or_default() as u32;
        batch.live = found.is_some_and(|at| self.follows.get(at).is_some_and(Follow::is_live));
        let mut must_store = std::mem::take(&mut self.must_store_position);
        batch.lost.clear();
        for follow in &mut self.follows {
            must_store |= follow.take_must_store();
            batch.lost.append(&mut follow.take_losses());
        }
        must_store |= !batch.lost.is_empty();
        if found.is_none() && !must_store {
            return None;
        }
        batch.checkpoint = Some(self.checkpoint());
        Some(out.bytes)
    }

    /// Reads one block of the next log that has one. In turn, so that a log with a backlog does not hold up the others.
    fn next_block(
        &mut self,
        now_ms: u64,
        bytes: &mut Vec<u8>,
        out: &mut shield_logline::Output,
    ) -> Option<usize> {
        let count = self.follows.len();
        let mut open: usize = self.follows.iter().map(Follow::open_count).sum();
        for _ in 0..count {
            let at = self.turn % count;
            self.turn = at + 1;
            let follow = self.follows.get_mut(at)?;
            let others = open - follow.open_count();
            let has_found = follow.step(now_ms, bytes, out);
            if others + follow.open_count() > self.settings.max_open {
                follow.park();
            }
            if has_found {
                return Some(at);
            }
            open = others + follow.open_count();
        }
        None
    }

    fn scan(&mut self, now_ms: u64) {
        if matches!(self.settings.place, Place::Pattern(_)) {
            self.follows.retain(|follow| !follow.is_finished(now_ms));
        }
        let followed: BTreeSet<PathBuf> =
            self.follows.iter().map(|follow| follow.path().to_owned()).collect();
        for path in self.settings.place.paths() {
            if !followed.contains(&path) && !self.is_held(&path) {
                let follow = self.follow(path);
                self.follows.push(follow);
            }
        }
        self.has_started = true;
        self.scanned_ms = now_ms;
    }

    /// Returns whether the file of that path is still read under the name it had before a rotation.
    fn is_held(&self, path: &Path) -> bool {
        let id = path.metadata().ok().map(|meta| FileId::of(&meta));
        id.is_some_and(|id| self.follows.iter().any(|follow| follow.holds_replaced(id)))
    }

    fn follow(&mut self, path: PathBuf) -> Follow {
        let format = &self.settings.format;
        let saved = self.saved.remove(path.to_string_lossy().as_ref());
        let (owner, claims) = (Owner { source: self.settings.id.0, path }, self.claims.clone());
        match saved {
            Some(saved) => Follow::resume(owner, claims, format, saved),
            None if self.has_started => Follow::resume(owner, claims, format, Vec::new()),
            None => Follow::new(owner, claims, format, self.settings.start),
        }
    }

    fn position(&mut self) -> String {
        let mut text = format!("{{\"v\":{POSITION_VERSION},\"logs\":{{");
        let empty = text.len();
        let unseen = self.saved.iter().map(|(path, saved)| fragment(path, saved));
        let followed = self.follows.iter_mut().map(Follow::fragment);
        // Every batch has the position of every log, so the parts that did not change are kept as text.
        for part in unseen.map(Cow::Owned).chain(followed.map(Cow::Borrowed)).filter(|part| !part.is_empty())
        {
            if text.len() > empty {
                text.push(',');
            }
            text.push_str(&part);
        }
        text.push_str("}}");
        text
    }

    /// Returns the bytes known to be unread.
    pub(crate) fn lag_bytes(&self) -> u64 {
        self.follows.iter().map(Follow::lag_bytes).sum()
    }

    /// Returns the path of the log that the last step read.
    pub(crate) fn log_just_read(&self) -> Option<&Path> {
        self.follows.get(self.turn.checked_sub(1)?).map(Follow::path)
    }

    /// Returns the paths of the logs followed.
    pub(crate) fn logs(&self) -> impl Iterator<Item = &Path> {
        self.follows.iter().map(Follow::path)
    }

    /// Returns the number of logs followed, each once.
    pub(crate) fn count(&self) -> usize {
        self.follows.iter().filter(|follow| follow.twin().is_none()).count()
    }

    /// Returns the state of the source, with its reason.
    pub(crate) fn state(&self) -> PartState {
        let total = self.count();
        let mut troubled = self.follows.iter().filter(|follow| follow.trouble().is_some());
        let Some(first) = troubled.next() else {
            return match (total, self.twins()) {
                (0, None) => PartState::Waiting { reason: self.describe_nothing() },
                (0, Some(twins)) => PartState::Active { detail: twins },
                (1, None) => PartState::Active { detail: "reading".to_owned() },
                (1, Some(twins)) => PartState::Active { detail: format!("reading; {twins}") },
                (_, None) => PartState::Active { detail: format!("reading {total} logs") },
                (_, Some(twins)) => PartState::Active { detail: format!("reading {total} logs; {twins}") },
            };
        };
        match 1 + troubled.count() {
            all if all == total => PartState::Waiting { reason: describe(first) },
            some => {
                let reason = format!("could not read {some} of {total} logs; {}", describe(first));
                PartState::Degraded { reason }
            }
        }
    }

    /// Describes the names of files that are read under other names.
    fn twins(&self) -> Option<String> {
        let mut twins = self.follows.iter().filter_map(|follow| Some((follow.path(), &follow.twin()?.path)));
        let (path, of) = twins.next()?;
        let first = text::twin(path, of);
        Some(match twins.count() {
            0 => first,
            more => format!("{first}, and {} likewise", crate::text::counted(more as u64, "more name")),
        })
    }

    fn describe_nothing(&self) -> String {
        let folder = self.settings.place.folder();
        match access::hidden(&folder) {
            Some(_) => access::missing(&folder),
            None => format!("no log matches {}", self.settings.name),
        }
    }
}

/// Returns a log's part of the position.
fn fragment(path: &str, saved: &[SavedLog]) -> String {
    let json = |value: serde_json::Result<String>| value.expect("numbers and strings are JSON");
    format!("{}:{}", json(serde_json::to_string(path)), json(serde_json::to_string(saved)))
}

fn describe(follow: &Follow) -> String {
    let path = follow.path().display();
    match follow.trouble() {
        Some(Trouble::Missing(why)) if !why.is_empty() => why.clone(),
        Some(Trouble::Missing(_)) => format!("{path} does not exist (yet)"),
        Some(Trouble::Unreadable(why)) => format!("could not read {path}: {why}; retrying"),
        None => format!("{path} is read"),
    }
}

/// Notes how far an earlier run read its files, whatever source it read them for.
pub(crate) fn note_marks(checkpoint: &Checkpoint, claims: &Claims) {
    // One that cannot be used is reported by the source that it belongs to.
    if let Ok(position) = serde_json::from_str::<Position>(&checkpoint.position)
        && position.v == POSITION_VERSION
    {
        position.logs.values().flatten().for_each(|saved| claims.note(&saved.mark));
    }
}

fn read_position(source: &str, text: &str) -> Option<Position> {
    match serde_json::from_str::<Position>(text) {
        Ok(position) if position.v == POSITION_VERSION => Some(position),
        Ok(position) => {
            tracing::warn!(
                source,
                version = position.v,
                "could not use the stored position: it is of another version; starting as if for the first time"
            );
            None
        }
        Err(error) => {
            tracing::warn!(source, %error, "could not read the stored position; starting as if for the first time");
            None
        }
    }
}
