//! A cache of the shapes of recent paths: looking one up costs far less than classifying the path again (`shape.rs`).

use crate::detect::prefetch;
use crate::detect::shape::{self, Kind, Shape};

/// Entries of the cache, as a power of two; 8 bytes each.
const CACHE_BITS: u32 = 15;

/// A path's hash and its shape in one word: 47 bits of the hash (none of those that choose the slot), 12 of
/// `told_by`, 3 of the kind, a bit each for login and remote call. 0 is an empty slot.
#[derive(Debug, Clone, Copy, Default)]
struct CachedShape(u64);

impl CachedShape {
    const SHAPE_BITS: u32 = 17;

    fn of(hash: u64, shape: Shape) -> Option<CachedShape> {
        if shape.told_by >= 1 << 12 {
            return None;
        }
        let kind = KINDS.iter().position(|kind| *kind == shape.kind)? as u64 + 1;
        let (login, remote_call) = (u64::from(shape.login), u64::from(shape.remote_call));
        let packed = (shape.told_by as u64) << 5 | kind << 2 | login << 1 | remote_call;
        Some(CachedShape(hash >> Self::SHAPE_BITS << Self::SHAPE_BITS | packed))
    }

    #[inline]
    fn shape(self, hash: u64) -> Option<Shape> {
        if self.0 >> Self::SHAPE_BITS != hash >> Self::SHAPE_BITS {
            return None;
        }
        let kind = *KINDS.get((self.0 >> 2 & 7).checked_sub(1)? as usize)?;
        let told_by = (self.0 >> 5) as usize & ((1 << 12) - 1);
        Some(Shape { kind, told_by, login: self.0 & 2 != 0, remote_call: self.0 & 1 != 0 })
    }

    /// The first of the two slots of a hash; the other is the next one.
    fn slot(hash: u64) -> usize {
        hash as usize & ((1 << CACHE_BITS) - 2)
    }
}

const KINDS: [Kind; 6] = [Kind::Asset, Kind::Page, Kind::Script, Kind::Dubious, Kind::Probe, Kind::Foreign];

/// Shapes by the hash of their path, two to a set; the older one of a set is evicted.
pub(super) struct ShapeCache(Box<[CachedShape]>);

impl Default for ShapeCache {
    fn default() -> ShapeCache {
        ShapeCache(vec![CachedShape::default(); 1 << CACHE_BITS].into_boxed_slice())
    }
}

impl ShapeCache {
    /// Returns the shape of `path`, whose hash is `hash`.
    #[inline]
    pub(super) fn of(&mut self, path: &[u8], hash: u64) -> Shape {
        let slot = CachedShape::slot(hash);
        match self.0[slot].shape(hash).or_else(|| self.0[slot + 1].shape(hash)) {
            Some(shape) => shape,
            None => self.classify(path, hash),
        }
    }

    #[cold]
    fn classify(&mut self, path: &[u8], hash: u64) -> Shape {
        let shape = shape::of_path(path);
        if let Some(cached) = CachedShape::of(hash, shape) {
            let slot = CachedShape::slot(hash);
            self.0[slot + 1] = self.0[slot];
            self.0[slot] = cached;
        }
        shape
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
        for path in
            ["/", "/a.css", "/wp-login.php", "/xmlrpc.php", "/phpmyadmin/x", "/dump.sql", "example.org:443"]
        {
            for hash in [0, 1, 0x1_ffff, u64::MAX, 0x0123_4567_89ab_cdef] {
                let shape = shape::of_path(path.as_bytes());
                let cached = CachedShape::of(hash, shape).unwrap();
                assert_eq!(cached.shape(hash), Some(shape), "{path}");
                assert_eq!(cached.shape(hash ^ 1 << 17), None, "{path}");
            }
        }
        assert_eq!(CachedShape::default().shape(0), None, "an empty slot");
        let long = format!("/{}", "x".repeat(5000));
        assert!(CachedShape::of(1, shape::of_path(long.as_bytes())).is_none(), "too long for an entry");
    }

    #[test]
    fn an_evicted_path_is_classified_again() {
        let mut shapes = ShapeCache::default();
        // Four paths to a set of two.
        for round in 0..3 {
            for n in 0..4_u64 {
                let path = format!("/{n}.{}", ["css", "php", "html", "zip"][n as usize]);
                let hash = 0x40 | (n + 1) << 40;
                assert_eq!(shapes.of(path.as_bytes(), hash), shape::of_path(path.as_bytes()), "{round}");
            }
        }
    }
}
