//! The text of recent paths by the key of their target: windows keep only hashes, and evidence names paths. Bounded: a
//! newer path overwrites an older one, and evidence leaves out what was overwritten.

use crate::detect::prefetch;

/// Longer paths are cut off in evidence. A length must fit into one byte of the arena.
const MAX_PATH_BYTES: usize = 120;

/// A power of two.
const SLOTS: usize = 1 << 12;

/// Slots that a key can be in. One for each key would lose texts long before the table is full, and the rules count kinds of
/// paths by their texts.
const WAYS: usize = 4;

/// Size of the ring that texts are written to, one after the other, so that a write touches memory that is in the cache
/// already. A power of two.
const ARENA_BYTES: usize = 1 << 18;

/// The position of one path's text.
#[derive(Debug, Clone, Copy, Default)]
struct Slot {
    key: u32,
    /// The value of [`PathInterner::written`] when it was stored; 0 marks a free slot.
    at: u64,
}

/// The slots of some keys, in one cache line.
#[derive(Debug, Clone, Copy, Default)]
#[repr(align(64))]
struct Set([Slot; WAYS]);

/// A table of positions, and a ring of texts.
pub(crate) struct PathInterner {
    sets: Box<[Set]>,
    /// Each text follows its length, which takes one byte.
    text: Box<[u8]>,
    /// Bytes written since the start, plus one.
    written: u64,
}

impl Set {
    #[inline]
    fn position(&self, key: u32) -> Option<usize> {
        self.0.iter().position(|slot| slot.key == key && slot.at > 0)
    }

    /// A free slot, or the one whose text was stored first.
    fn oldest(&self) -> usize {
        (0..WAYS).min_by_key(|at| self.0[*at].at).unwrap_or(0)
    }
}

impl Default for PathInterner {
    fn default() -> PathInterner {
        PathInterner {
            sets: vec![Set::default(); SLOTS / WAYS].into_boxed_slice(),
            text: vec![0; ARENA_BYTES].into_boxed_slice(),
            written: 1,
        }
    }
}

impl PathInterner {
    /// Stores the path of a target, cut to [`MAX_PATH_BYTES`].
    #[inline]
    pub(crate) fn put(&mut self, key: u32, text: &[u8]) {
        // What lies in the older half of the ring is stored again before it is overwritten.
        let since = self.written.saturating_sub((ARENA_BYTES / 2) as u64);
        let is_fresh = |slot: &Slot| slot.key == key && slot.at > since;
        // Without branches, as each of its few slots is as likely.
        if !self.sets[place(key)].0.iter().fold(false, |found, slot| found | is_fresh(slot)) {
            self.store(key, text);
        }
    }

    fn store(&mut self, key: u32, text: &[u8]) {
        let set = &mut self.sets[place(key)];
        let at = set.position(key).unwrap_or_else(|| set.oldest());
        let slot = &mut set.0[at];
        let text = &text[..text.len().min(MAX_PATH_BYTES)];
        let mut at = self.written as usize % ARENA_BYTES;
        if at + 1 + text.len() > ARENA_BYTES {
            self.written += (ARENA_BYTES - at) as u64;
            at = 0;
        }
        *slot = Slot { key, at: self.written };
        self.text[at] = text.len() as u8;
        self.text[at + 1..=at + text.len()].copy_from_slice(text);
        self.written += 1 + text.len() as u64;
    }

    /// Prefetches what [`PathInterner::put`] reads first.
    pub(crate) fn prefetch(&self, key: u32) {
        self.sets.get(place(key)).into_iter().for_each(prefetch::fetch);
    }

    /// Shows the path of a target to `read` unless it was overwritten.
    pub(crate) fn with(&self, key: u32, read: impl FnMut(&[u8])) {
        let set = &self.sets[place(key)];
        let Some(slot) = set.position(key).map(|at| set.0[at]) else { return };
        let is_there = self.written - slot.at <= ARENA_BYTES as u64;
        let at = slot.at as usize % ARENA_BYTES;
        let text = self.text.get(at + 1..=at + usize::from(self.text[at]));
        text.filter(|text| is_there && !text.is_empty()).into_iter().for_each(read);
    }

    /// Returns the path of a target unless it was overwritten. Bytes that are not UTF-8 are replaced.
    pub(crate) fn get(&self, key: u32) -> Option<String> {
        let mut found = None;
        self.with(key, |text| found = Some(String::from_utf8_lossy(text).into_owned()));
        found
    }
}

fn place(key: u32) -> usize {
    key as usize & (SLOTS / WAYS - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_kept_until_others_take_its_slot() {
        let mut interner = PathInterner::default();
        interner.put(5, b"/a");
        assert_eq!(interner.get(5).as_deref(), Some("/a"));
        assert_eq!(interner.get(6), None);
        for n in 1..=WAYS as u32 {
            assert_eq!(interner.get(5).as_deref(), Some("/a"), "{n}");
            interner.put(5 + n * SLOTS as u32, &[b'x'; 300]);
        }
        assert_eq!(interner.get(5), None);
        assert_eq!(interner.get(5 + SLOTS as u32).map(|text| text.len()), Some(MAX_PATH_BYTES));
        assert_eq!(interner.get(0), None, "never stored");
    }

    #[test]
    fn no_target_gets_the_text_of_another() {
        let mut interner = PathInterner::default();
        let text_of = |key: u32| format!("/{key}/{}", "x".repeat(key as usize % 130));
        for key in 1..20_000_u32 {
            interner.put(key, text_of(key).as_bytes());
            for known in [key, key.saturating_sub(700).max(1), key.saturating_sub(1500).max(1)] {
                let whole = text_of(known);
                let cut = &whole[..whole.len().min(MAX_PATH_BYTES)];
                assert_eq!(interner.get(known).as_deref(), Some(cut), "{known} after {key}");
            }
        }
        let named: Vec<_> = (1..20_000).filter_map(|key| Some((key, interner.get(key)?))).collect();
        assert!(named.len() > 2000, "{}", named.len());
        assert!(named.iter().all(|(key, text)| text_of(*key).starts_with(text)));
    }
}
