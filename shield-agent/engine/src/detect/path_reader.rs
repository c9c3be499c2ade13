//! Reads the paths of a batch before the engine does, on the thread that parsed it: hashes them, and finds out what they are by
//! their texts. That takes a fifth of what the engine does with a line and depends on nothing else, so that of a backlog it is
//! done beside the judging of the batch before.

use crate::detect::hash::Seeded;
use crate::detect::hashed_path::HashedPath;
use crate::detect::shape_cache::{CachedShape, ShapeCache};
use crate::vocab::request::{Batch, Line};

/// Lines of a batch that is worth reading ahead. A smaller one comes live, and its engine has known its paths for long.
const MIN_LINES: usize = 64;

/// What was read of the paths of a batch's lines; nothing of nearly every live one.
#[derive(Debug, Clone, Default)]
pub struct ReadPaths(Option<Box<Read>>);

#[derive(Debug, Clone)]
struct Read {
    /// The hash function. An engine with another one reads the paths itself.
    hash: Seeded,
    /// One a line.
    paths: Vec<ReadPath>,
    /// The position in `paths` of the batch's first line, where the batch is only a piece of what was read.
    piece_from: Option<usize>,
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
        let Some(read) = self.0.as_ref().filter(|read| read.hash == hash) else { return &[] };
        let known = match read.piece_from {
            // Lines that were taken out of the batch since would have those of others.
            None => Some(read.paths.as_slice()).filter(|paths| paths.len() == lines),
            Some(from) => read.paths.get(from..from + lines),
        };
        known.unwrap_or_default()
    }

    /// Whether they are of so many lines.
    pub fn are_of(&self, lines: usize) -> bool {
        self.0.as_ref().is_some_and(|read| read.paths.len() == lines)
    }

    /// Lets the batch begin at this one of the lines that were read: it is handed over in pieces.
    pub fn begin_at(&mut self, line: usize) {
        self.0.iter_mut().for_each(|read| read.piece_from = Some(line));
    }

    /// Forgets what was read, and keeps the memory.
    pub fn clear(&mut self) {
        if let Some(read) = &mut self.0 {
            read.paths.clear();
            read.piece_from = None;
        }
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
            let one = |line: &Line| {
                let target = batch.path_of(line);
                let path = HashedPath::of(target, hash);
                ReadPath { path, shape: shapes.packed(path.split(target).0, path) }
            };
            let of =
                read.0.get_or_insert_with(|| Box::new(Read { hash, paths: Vec::new(), piece_from: None }));
            of.hash = hash;
            of.paths.extend(batch.lines.iter().map(one));
        }
        batch.read_paths = read;
    }
}
