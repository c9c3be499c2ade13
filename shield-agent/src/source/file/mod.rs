//! Logs in files: one path, a glob pattern, or a folder of logs. Finds the paths, reads them in turn, and keeps the
//! position of all of them together.
//!
//! Nothing here waits or reads a clock: [`Files::step`] takes the time, and [`Files::deadline_ms`] returns when it must be
//! called again.

mod catch_up;
mod follow;
mod log;
mod mark;
#[cfg(test)]
mod model;
mod siblings;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub(crate) use follow::{BACKLOG_BYTES, BLOCK_BYTES, Start};
use follow::{Follow, SavedLog, Trouble};
use mark::FileId;

use shield_engine::event::PartState;
use shield_engine::request::{Batch, Checkpoint, SourceId};

/// The logs of a folder that is a source.
const FOLDER_PATTERN: &str = "*.log";

/// Files of a folder with this in their names are no access logs.
const NOT_ACCESS: &str = "error";

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

    /// Returns the paths that exist now.
    pub(crate) fn paths(&self) -> Vec<PathBuf> {
        match self {
            Place::Path(path) => vec![path.clone()],
            Place::Pattern(pattern) => {
                let found: Vec<PathBuf> = glob::glob(pattern).into_iter().flatten().flatten().collect();
                let is_rotated =
                    |path: &Path| found.iter().any(|log| log != path && siblings::is_rotated(log, path));
                let mut logs = found.clone();
                logs.retain(|path| !is_rotated(path) && is_log(path, Place::is_folder_pattern(pattern)));
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
    let is_packed = [".gz", ".bz2", ".xz", ".zst"].iter().any(|end| name.ends_with(end));
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
}

impl Files {
    /// Makes a source that continues at `checkpoint`, or starts as the settings say.
    pub(crate) fn new(settings: Settings, checkpoint: Option<&Checkpoint>) -> Files {
        let position = checkpoint.and_then(|checkpoint| read_position(&settings.name, &checkpoint.position));
        Files {
            settings,
            follows: Vec::new(),
            has_started: position.is_some(),
            must_store_position: position.is_none(),
            saved: position.map(|position| position.logs).unwrap_or_default(),
            turn: 0,
            needs_scan: true,
        }
    }

    /// Notes that something may have happened to any log, or that there may be new ones.
    pub(crate) fn hint_all(&mut self) {
        self.needs_scan = true;
        self.follows.iter_mut().for_each(Follow::hint);
    }

    /// Returns the folders in which a change may concern these logs.
    pub(crate) fn folders(&self) -> Vec<PathBuf> {
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
        self.follows.iter().filter_map(Follow::deadline_ms).min()
    }

    /// Reads at most one block of lines into `batch` and returns their length in bytes. `None` when there is nothing to read
    /// now.
    pub(crate) fn step(&mut self, now_ms: u64, batch: &mut Batch) -> Option<u64> {
        if self.needs_scan {
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
        batch.live = found.is_some_and(|at| self.follows.get(at).is_some_and(Follow::is_live));
        let must_store = std::mem::take(&mut self.must_store_position);
        if found.is_none() && !must_store {
            return None;
        }
        batch.checkpoint = Some(Checkpoint { source: self.settings.name.clone(), position: self.position() });
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
        for _ in 0..count {
            let at = self.turn % count;
            self.turn = at + 1;
            if self.follows.get_mut(at)?.step(now_ms, bytes, out) {
                return Some(at);
            }
        }
        None
    }

    fn scan(&mut self, now_ms: u64) {
        if matches!(self.settings.place, Place::Pattern(_)) {
            self.follows.retain(|follow| !follow.is_finished(now_ms));
        }
        for path in self.settings.place.paths() {
            if self.follows.iter().all(|follow| follow.path() != path) && !self.is_held(&path) {
                let follow = self.follow(path);
                self.follows.push(follow);
            }
        }
        self.has_started = true;
    }

    /// Returns whether the file of that path is already read under the name it had before a rotation.
    fn is_held(&self, path: &Path) -> bool {
        let id = path.metadata().ok().map(|meta| FileId::of(&meta));
        id.is_some_and(|id| self.follows.iter().any(|follow| follow.holds(id)))
    }

    fn follow(&mut self, path: PathBuf) -> Follow {
        let format = &self.settings.format;
        match self.saved.remove(path.to_string_lossy().as_ref()) {
            Some(saved) => Follow::resume(path, format, saved),
            None if self.has_started => Follow::resume(path, format, Vec::new()),
            None => Follow::new(path, format, self.settings.start),
        }
    }

    fn position(&self) -> String {
        let mut logs = self.saved.clone();
        for follow in &self.follows {
            let saved = follow.saved();
            if !saved.is_empty() {
                logs.insert(follow.path().to_string_lossy().into_owned(), saved);
            }
        }
        serde_json::to_string(&Position { v: POSITION_VERSION, logs }).expect("numbers and strings are JSON")
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

    /// Returns the number of logs followed.
    pub(crate) fn count(&self) -> usize {
        self.follows.len()
    }

    /// Returns the state of the source, with its reason.
    pub(crate) fn state(&self) -> PartState {
        let total = self.follows.len();
        let troubled: Vec<&Follow> =
            self.follows.iter().filter(|follow| follow.trouble().is_some()).collect();
        match (total, troubled.as_slice()) {
            (0, _) => PartState::Waiting { reason: format!("no log matches {}", self.settings.name) },
            (1, []) => PartState::Active { detail: "reading".to_owned() },
            (_, []) => PartState::Active { detail: format!("reading {total} logs") },
            (_, [first, ..]) if troubled.len() == total => PartState::Waiting { reason: describe(first) },
            (_, [first, ..]) => {
                let reason =
                    format!("could not read {} of {total} logs; {}", troubled.len(), describe(first));
                PartState::Degraded { reason }
            }
        }
    }
}

fn describe(follow: &Follow) -> String {
    let path = follow.path().display();
    match follow.trouble() {
        Some(Trouble::Missing) => format!("{path} does not exist (yet)"),
        Some(Trouble::Unreadable(why)) => format!("could not read {path}: {why}; retrying"),
        None => format!("{path} is read"),
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
