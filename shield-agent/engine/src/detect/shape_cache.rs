//! A cache of the shapes of recent paths: looking one up costs far less than classifying the path again (`shape.rs`), or
//! finding out that it is not served as it is written (`served_path.rs`).

use crate::detect::hashed_path::HashedPath;
use crate::detect::prefetch;
use crate::detect::served_path;
use crate::detect::shape::{self, Kind, Shape};

/// Entries of the cache, as a power of two; 8 bytes each.
const CACHE_BITS: u32 = 15;

/// A path's hash and its shape in one word: 47 bits of the hash (none of those that choose the slot), 12 of
/// `told_by`, 3 of the kind, a bit each for login and remote call. 0 is an empty slot, and the kind [`CachedShape::RESPELLED`] a
/// path that has no shape as it is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct CachedShape(u64);

impl CachedShape {
    const SHAPE_BITS: u32 = 17;

    /// The kind of a path that is not served as it is written.
    const RESPELLED: u64 = 7;

    fn respelled(hash: u64) -> CachedShape {
        CachedShape(hash >> Self::SHAPE_BITS << Self::SHAPE_BITS | Self::RESPELLED << 2)
    }

    fn of(hash: u64, shape: Shape) -> Option<CachedShape> {
        if shape.told_by >= 1 << 12 {
            return None;
        }
        let kind = KINDS.iter().position(|kind| *kind == shape.kind)? as u64 + 1;
        let (login, remote_call) = (u64::from(shape.login), u64::from(shape.remote_call));
        let packed = (shape.told_by as u64) << 5 | kind << 2 | login << 1 | remote_call;
        Some(CachedShape(hash >> Self::SHAPE_BITS << Self::SHAPE_BITS | packed))
    }

    /// What it says of the path with this hash.
    #[inline]
    pub(super) fn shape(self, hash: u64) -> Option<Cached> {
        if self.0 >> Self::SHAPE_BITS != hash >> Self::SHAPE_BITS {
            return None;
        }
        let Some(kind) = KINDS.get((self.0 >> 2 & 7).checked_sub(1)? as usize) else {
            return Some(Cached::Respelled);
        };
        let told_by = (self.0 >> 5) as usize & ((1 << 12) - 1);
        Some(Cached::Shape(Shape {
            kind: *kind,
            told_by,
            login: self.0 & 2 != 0,
            remote_call: self.0 & 1 != 0,
        }))
    }

    /// The first of the two slots of a hash; the other is the next one.
    fn slot(hash: u64) -> usize {
        hash as usize & ((1 << CACHE_BITS) - 2)
    }
}

/// What is known of a path as it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cached {
    /// It is served as it is written.
    Shape(Shape),
    /// It is not: what is served has to be worked out first.
    Respelled,
}

/// Keeps paths as they are served apart from those as they are written: `/100%25` is served as `/100%`, which is no
/// path when it is written so.
const SERVED: u64 = 0x9e37_79b9_7f4a_7c15;

const KINDS: [Kind; 6] = [Kind::Asset, Kind::Page, Kind::Script, Kind::Dubious, Kind::Probe, Kind::Foreign];

/// Shapes by the hash of their path, two to a set; the older one of a set is evicted.
#[derive(Clone)]
pub(super) struct ShapeCache(Box<[CachedShape]>);

impl Default for ShapeCache {
    fn default() -> ShapeCache {
        ShapeCache(vec![CachedShape::default(); 1 << CACHE_BITS].into_boxed_slice())
    }
}

impl ShapeCache {
    /// Returns what is known of `path`, a target's path as written, whose hash is `hash`.
    #[inline]
    pub(super) fn of(&mut self, path: &[u8], hash: u64) -> Cached {
        match self.get(hash) {
            Some(cached) => cached,
            None => self.classify(path, hash),
        }
    }

    /// As [`ShapeCache::of`], packed; empty for a path whose shape does not fit in.
    #[inline]
    pub(super) fn packed(&mut self, path: &[u8], hashed: HashedPath) -> CachedShape {
        match self.of(path, hashed.hash) {
            Cached::Shape(shape) => CachedShape::of(hashed.hash, shape).unwrap_or_default(),
            Cached::Respelled => CachedShape::respelled(hashed.hash),
        }
    }

    /// Returns the shape of `path`, as it is served, whose hash is `hash`.
    pub(super) fn of_served(&mut self, path: &[u8], hash: u64) -> Shape {
        let hash = hash ^ SERVED;
        if let Some(Cached::Shape(shape)) = self.get(hash) {
            return shape;
        }
        let shape = shape::of_path(path);
        self.put(hash, CachedShape::of(hash, shape));
        shape
    }

    /// What is known of a path with this hash; `None` if it was not seen lately.
    #[inline]
    pub(super) fn get(&self, hash: u64) -> Option<Cached> {
        let slot = CachedShape::slot(hash);
        self.0[slot].shape(hash).or_else(|| self.0[slot + 1].shape(hash))
    }

    #[cold]
    fn classify(&mut self, path: &[u8], hash: u64) -> Cached {
        if !served_path::is_as_written(path) {
            self.put(hash, Some(CachedShape::respelled(hash)));
            return Cached::Respelled;
        }
        let shape = shape::of_path(path);
        self.put(hash, CachedShape::of(hash, shape));
        Cached::Shape(shape)
    }

    fn put(&mut self, hash: u64, cached: Option<CachedShape>) {
        if let Some(cached) = cached {
            let slot = CachedShape::slot(hash);
            self.0[slot + 1] = self.0[slot];
            self.0[slot] = cached;
        }
    }

    /// Prefetches what [`ShapeCache::of`] reads for this hash.
    pub(super) fn prefetch(&self, hash: u64) {
        prefetch::fetch(&self.0[CachedShape::slot(hash)]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cached_shape_is_the_shape() {
        for path in ["/", "/a.css", "/wp-login.php", "/xmlrpc.php", "/phpmyadmin/x", "/dump.sql", "\u{1}"] {
            for hash in [0, 1, 0x1_ffff, u64::MAX, 0x0123_4567_89ab_cdef] {
                let shape = shape::of_path(path.as_bytes());
                let cached = CachedShape::of(hash, shape).unwrap();
                assert_eq!(cached.shape(hash), Some(Cached::Shape(shape)), "{path}");
                assert_eq!(cached.shape(hash ^ 1 << 17), None, "{path}");
            }
        }
        assert_eq!(CachedShape::default().shape(0), None, "an empty slot");
        let long = format!("/{}", "x".repeat(5000));
        assert!(CachedShape::of(1, shape::of_path(long.as_bytes())).is_none(), "too long for an entry");
    }

    #[test]
    fn a_path_as_served_is_not_mistaken_for_one_as_written() {
        let mut shapes = ShapeCache::default();
        let hash = 0x1234_5678_9abc_def0;
        for _ in 0..2 {
            assert_eq!(shapes.of(b"/a%b.css", hash), Cached::Respelled);
            assert_eq!(shapes.of_served(b"/a%b.css", hash), shape::of_path(b"/a%b.css"));
        }
    }

    #[test]
    fn an_evicted_path_is_classified_again() {
        let mut shapes = ShapeCache::default();
        // Four paths to a set of two.
        for round in 0..3 {
            for n in 0..4_u64 {
                let path = format!("/{n}.{}", ["css", "php", "html", "zip"][n as usize]);
                let hash = 0x40 | (n + 1) << 40;
                let shape = Cached::Shape(shape::of_path(path.as_bytes()));
                assert_eq!(shapes.of(path.as_bytes(), hash), shape, "{round}");
            }
        }
    }
}
