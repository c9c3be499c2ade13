//! A hash index over a dense table: it holds numbers of slots, four bytes each, and the caller has the keys.
//!
//! Made for millions of bans. A general table of `u32` takes 5 bytes a place and has a power of two of places, 8.4 bytes a ban at
//! 5,000,000; this one takes 4 bytes and any number of places, 4.6 bytes a ban after [`SlotIndex::reserve`]. What is left of the 32
//! bits beside a slot's number is a piece of the key's hash, so that hardly any other key is ever looked at.

use crate::detect::prefetch;

/// Places in a bucket: as many as a cache line has.
const LANES: usize = 16;

/// A place without a slot. No slot has this number: see [`SlotIndex::with_buckets`].
const EMPTY: u32 = u32::MAX;

/// Slots for each bucket of an index that made room for what it was told: it is 7/8 full then.
const RESERVED: usize = 14;
/// The fullest that a table gets, in 1/32: beyond it, it grows by half.
const FULLEST_32NDS: usize = 29;

#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
struct Bucket([u32; LANES]);

impl Bucket {
    const EMPTY: Bucket = Bucket([EMPTY; LANES]);

    fn is_full(&self) -> bool {
        self.0.iter().all(|cell| *cell != EMPTY)
    }
}

/// See the module. Slots are the numbers `0..len`, each in the index once.
///
/// A key is in the first bucket that had room, from its own one on; so every bucket between the two is full, and a search ends at
/// the first that is not.
#[derive(Debug, Clone, Default)]
pub struct SlotIndex {
    buckets: Vec<Bucket>,
    len: usize,
    /// The bits of a cell that are the slot's number; the others are the hash's.
    slot_mask: u32,
}

impl SlotIndex {
    /// Makes an empty index with room for so many slots.
    pub fn with_capacity(slots: usize) -> SlotIndex {
        if slots == 0 { SlotIndex::default() } else { SlotIndex::with_buckets(buckets_for(slots)) }
    }

    fn with_buckets(buckets: usize) -> SlotIndex {
        // More places than slots, so that no slot has all its bits set.
        let bits = usize::BITS - (buckets * LANES).leading_zeros();
        let slot_mask = if bits < u32::BITS { (1 << bits) - 1 } else { u32::MAX };
        SlotIndex { buckets: vec![Bucket::EMPTY; buckets], len: 0, slot_mask }
    }

    /// Makes room for so many more slots. `hash_of` returns the hash of a slot's key.
    pub fn reserve(&mut self, more: usize, hash_of: impl Fn(u32) -> u64) {
        let needed = self.len + more;
        if needed > most_in(self.buckets.len()) {
            self.rebuild(buckets_for(needed), hash_of);
        }
    }

    /// Asks the processor for the place of a key with this hash, which will be looked for soon: in a table of millions a search waits for
    /// the memory above all.
    #[inline]
    pub fn prefetch(&self, hash: u64) {
        if let Some(bucket) = self.buckets.get(self.home(hash)) {
            prefetch::fetch(bucket);
        }
    }

    /// Finds the slot of a key with this hash.
    #[inline]
    pub fn find(&self, hash: u64, is_it: impl Fn(u32) -> bool) -> Option<u32> {
        self.place_of(hash, is_it).map(|(bucket, lane)| self.buckets[bucket].0[lane] & self.slot_mask)
    }

    /// Adds a slot, whose key must not be in the index.
    pub fn insert(&mut self, hash: u64, slot: u32, hash_of: impl Fn(u32) -> u64) {
        if self.len >= most_in(self.buckets.len()) {
            self.rebuild(self.buckets.len() + self.buckets.len() / 2 + 1, hash_of);
        }
        self.put(hash, slot);
    }

    /// Removes a slot.
    pub fn remove(&mut self, hash: u64, slot: u32, hash_of: impl Fn(u32) -> u64) {
        let Some((bucket, lane)) = self.place_of(hash, |at| at == slot) else { return };
        let was_full = self.buckets[bucket].is_full();
        self.buckets[bucket].0[lane] = EMPTY;
        self.len -= 1;
        if was_full {
            self.fill_hole(bucket, lane, hash_of);
        }
    }

    /// Gives a slot another number.
    pub fn renumber(&mut self, hash: u64, from: u32, to: u32) {
        if let Some((bucket, lane)) = self.place_of(hash, |at| at == from) {
            let cell = &mut self.buckets[bucket].0[lane];
            *cell = *cell & !self.slot_mask | to;
        }
    }

    #[inline]
    fn place_of(&self, hash: u64, is_it: impl Fn(u32) -> bool) -> Option<(usize, usize)> {
        if self.buckets.is_empty() {
            return None;
        }
        let tag = hash as u32 & !self.slot_mask;
        let mut at = self.home(hash);
        loop {
            let cells = &self.buckets[at].0;
            // Without a branch in it, so that it is some instructions for all.
            let (mut alike, mut empty) = (0_u32, 0_u32);
            for (lane, cell) in cells.iter().enumerate() {
                alike |= u32::from(cell & !self.slot_mask == tag) << lane;
                empty |= u32::from(*cell == EMPTY) << lane;
            }
            alike &= !empty;
            while alike != 0 {
                let lane = alike.trailing_zeros() as usize;
                if is_it(cells[lane] & self.slot_mask) {
                    return Some((at, lane));
                }
                alike &= alike - 1;
            }
            if empty != 0 {
                return None;
            }
            at = self.after(at);
        }
    }

    /// Closes the gap in a bucket that was full, which others may have gone past.
    fn fill_hole(&mut self, mut hole: usize, mut lane: usize, hash_of: impl Fn(u32) -> u64) {
        let mut at = self.after(hole);
        loop {
            let was_full = self.buckets[at].is_full();
            let went_past = |cell: &u32| {
                *cell != EMPTY && {
                    let home = self.home(hash_of(cell & self.slot_mask));
                    self.distance(home, at) >= self.distance(hole, at)
                }
            };
            if let Some(found) = self.buckets[at].0.iter().position(went_past) {
                self.buckets[hole].0[lane] = std::mem::replace(&mut self.buckets[at].0[found], EMPTY);
                (hole, lane) = (at, found);
            }
            if !was_full {
                return;
            }
            at = self.after(at);
        }
    }

    fn put(&mut self, hash: u64, slot: u32) {
        assert!(slot < self.slot_mask, "slots are numbered without gaps");
        let mut at = self.home(hash);
        loop {
            if let Some(cell) = self.buckets[at].0.iter_mut().find(|cell| **cell == EMPTY) {
                *cell = hash as u32 & !self.slot_mask | slot;
                self.len += 1;
                return;
            }
            at = self.after(at);
        }
    }

    fn rebuild(&mut self, buckets: usize, hash_of: impl Fn(u32) -> u64) {
        let mut grown = SlotIndex::with_buckets(buckets);
        let cells = self.buckets.iter().flat_map(|bucket| bucket.0).filter(|cell| *cell != EMPTY);
        for slot in cells.map(|cell| cell & self.slot_mask) {
            grown.put(hash_of(slot), slot);
        }
        *self = grown;
    }

    /// The bucket of a hash, by its upper half; the tag is of its lower one.
    fn home(&self, hash: u64) -> usize {
        (((hash >> 32) * self.buckets.len() as u64) >> 32) as usize
    }

    fn after(&self, bucket: usize) -> usize {
        if bucket + 1 == self.buckets.len() { 0 } else { bucket + 1 }
    }

    fn distance(&self, from: usize, to: usize) -> usize {
        if to >= from { to - from } else { to + self.buckets.len() - from }
    }
}

fn buckets_for(slots: usize) -> usize {
    (slots + 1).div_ceil(RESERVED) + 1
}

fn most_in(buckets: usize) -> usize {
    buckets * LANES * FULLEST_32NDS / 32
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Keys in slots, as the ledger keeps them, with a hash of the test's choice.
    struct Table {
        keys: Vec<u32>,
        index: SlotIndex,
        hash: fn(u32) -> u64,
    }

    impl Table {
        fn new(hash: fn(u32) -> u64) -> Table {
            Table { keys: Vec::new(), index: SlotIndex::default(), hash }
        }

        fn slot(&self, key: u32) -> Option<u32> {
            self.index.find((self.hash)(key), |slot| self.keys[slot as usize] == key)
        }

        fn add(&mut self, key: u32) {
            let (keys, hash) = (&self.keys, self.hash);
            self.index.insert(hash(key), keys.len() as u32, |slot| hash(keys[slot as usize]));
            self.keys.push(key);
        }

        fn remove(&mut self, key: u32) {
            let Some(slot) = self.slot(key) else { return };
            let (keys, hash) = (&self.keys, self.hash);
            self.index.remove(hash(key), slot, |slot| hash(keys[slot as usize]));
            let last = keys.len() as u32 - 1;
            if slot != last {
                self.index.renumber(hash(keys[last as usize]), last, slot);
            }
            self.keys.swap_remove(slot as usize);
        }

        fn reserve(&mut self, more: usize) {
            let (keys, hash) = (&self.keys, self.hash);
            self.index.reserve(more, |slot| hash(keys[slot as usize]));
        }
    }

    fn spread(key: u32) -> u64 {
        u64::from(key).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ u64::from(key) << 17
    }

    /// All near the end of the table, so that they go round it, and alike in the bits of the tag.
    fn crowded(key: u32) -> u64 {
        u64::MAX - (u64::from(key % 3) << 60)
    }

    fn a_walk_equals_a_model(hash: fn(u32) -> u64, steps: &[(u8, u32)]) -> Result<(), TestCaseError> {
        let (mut table, mut model) = (Table::new(hash), std::collections::BTreeSet::new());
        for (step, key) in steps {
            match step {
                0 => table.reserve(*key as usize),
                1..=2 => {
                    table.remove(*key);
                    model.remove(key);
                }
                _ if table.slot(*key).is_none() => {
                    table.add(*key);
                    model.insert(*key);
                }
                _ => {}
            }
            prop_assert_eq!(table.index.len, model.len());
        }
        for key in 0..400 {
            prop_assert_eq!(table.slot(key).is_some(), model.contains(&key), "{}", key);
        }
        Ok(())
    }

    proptest! {
        #[test]
        fn a_random_walk_equals_a_set(steps in prop::collection::vec((0u8..7, 0u32..400), 0..900)) {
            a_walk_equals_a_model(spread, &steps)?;
            a_walk_equals_a_model(crowded, &steps)?;
        }
    }

    #[test]
    fn a_reserved_index_takes_what_it_was_made_for_without_growing() {
        for slots in [1, 13, 14, 15, 100, 10_000, 300_000] {
            let mut table = Table::new(spread);
            table.reserve(slots);
            let buckets = table.index.buckets.len();
            (0..slots as u32).for_each(|key| table.add(key));
            assert_eq!(table.index.buckets.len(), buckets, "{slots}");
            assert!((0..slots as u32).all(|key| table.slot(key) == Some(key)), "{slots}");
            assert_eq!(table.slot(slots as u32), None);
        }
        assert!(buckets_for(5_000_000) * 64 < 24_000_000, "less than 4.8 bytes a ban");
    }
}
