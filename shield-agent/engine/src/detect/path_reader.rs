//! Reads the paths of a batch before the engine does, on the thread that parsed it: hashes them, and finds out what they are by
//! their texts. That takes a fifth of what the engine does with a line and depends on nothing else, so that of a backlog it is
//! done beside the judging of the batch before.

use crate::detect::hash::Seeded;
use crate::detect::hashed_path::HashedPath;
use crate::detect::shape_cache::{CachedShape, ShapeCache};
use crate::vocab::request::Batch;

/// Lines of a batch that is worth reading ahead. A smaller one comes live, and its engine has known its paths for long.
const MIN_LINES: usize = 64;

/// What was read of the paths of a batch's lines.
#[derive(Debug, Clone, Default)]
pub struct ReadPaths {
    /// The hash function. An engine with another one reads the paths itself.
    hash: Option<Seeded>,
    /// One a line.
    paths: Vec<ReadPath>,
    /// The position in `paths` of the batch's first line.
    from: usize,
}

/// What was read of one path.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ReadPath {
    pub(crate) path: HashedPath,
    /// Of the path as it is written.
    pub(crate) shape: CachedShape,
}

impl ReadPaths {
    /// Of a batch with as many lines, for this hash function; empty where they were not read.
    pub(crate) fn of(&self, lines: usize, hash: Seeded) -> &[ReadPath] {
        let read = self.paths.get(self.from..self.from + lines).unwrap_or_default();
        if self.hash == Some(hash) { read } else { &[] }
    }

    /// Whether they are of so many lines.
    pub fn are_of(&self, lines: usize) -> bool {
        self.paths.len() == lines
    }

    /// Lets the batch begin at this one of the lines that were read: it is handed over in pieces.
    pub fn begin_at(&mut self, line: usize) {
        self.from = line;
    }

    /// Forgets what was read, and keeps the memory.
    pub fn clear(&mut self) {
        self.hash = None;
        self.paths.clear();
        self.from = 0;
    }
}

/// Reads paths for one engine. Each thread has its own.
#[derive(Clone)]
pub struct PathReader {
    hash: Seeded,
    /// Made for the first batch: most sources have no backlog.
    shapes: Option<ShapeCache>,
}

impl PathReader {
    pub(crate) fn new(hash: Seeded) -> PathReader {
        PathReader { hash, shapes: None }
    }

    /// Reads the paths of a batch whose lines are all there.
    pub fn read(&mut self, batch: &mut Batch) {
        let mut read = std::mem::take(&mut batch.read_paths);
        read.clear();
        if batch.lines.len() >= MIN_LINES {
            let (hash, shapes) = (self.hash, self.shapes.get_or_insert_default());
            read.hash = Some(hash);
            read.paths.extend(batch.lines.iter().map(|line| {
                let target = batch.path_of(line);
                let path = HashedPath::of(target, hash);
                ReadPath { path, shape: shapes.packed(path.split(target).0, path) }
            }));
        }
        batch.read_paths = read;
    }
}
