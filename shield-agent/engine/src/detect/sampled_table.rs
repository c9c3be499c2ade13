//! A bounded table of clients. At the bound the least of a few entries makes room, so that a flood of throw-away addresses
//! pushes out its own, and an insertion costs the same however large the table is.

use std::cmp::Ordering;

use hashbrown::HashTable;

use crate::detect::hash::Seeded;

/// Entries compared at an eviction.
const SAMPLE: usize = 16;

/// An entry that knows its client's key.
pub(crate) trait Keyed {
    fn key(&self) -> u128;
}

/// Entries by key, at most `max` of them.
pub(crate) struct SampledTable<T> {
    hash: Seeded,
    index: HashTable<u32>,
    all: Vec<T>,
    max: usize,
    hand: usize,
    evicted: u64,
}

impl<T: Keyed> SampledTable<T> {
    pub(crate) fn new(max: usize, hash: Seeded) -> SampledTable<T> {
        SampledTable { hash, index: HashTable::new(), all: Vec::new(), max: max.max(1), hand: 0, evicted: 0 }
    }

    fn position(&self, key: u128) -> Option<usize> {
        let found = self.index.find(self.hash.key(key), |at| self.all[*at as usize].key() == key);
        found.map(|at| *at as usize)
    }

    pub(crate) fn get(&self, key: u128) -> Option<&T> {
        self.all.get(self.position(key)?)
    }

    pub(crate) fn get_mut(&mut self, key: u128) -> Option<&mut T> {
        let at = self.position(key)?;
        self.all.get_mut(at)
    }

    /// Returns the client's entry, made by `new` if there is none. `order` ranks entries for an eviction, the least first.
    pub(crate) fn get_or_insert(
        &mut self,
        key: u128,
        new: impl FnOnce() -> T,
        order: impl Fn(&T, &T) -> Ordering,
    ) -> &mut T {
        let at = match self.position(key) {
            Some(at) => at,
            None => self.insert(new(), order),
        };
        &mut self.all[at]
    }

    fn insert(&mut self, entry: T, order: impl Fn(&T, &T) -> Ordering) -> usize {
        if self.all.len() >= self.max {
            self.evict(order);
        }
        let at = self.all.len();
        let key = entry.key();
        self.all.push(entry);
        let SampledTable { index, all, hash, .. } = self;
        index.insert_unique(hash.key(key), at as u32, |at| hash.key(all[*at as usize].key()));
        at
    }

    fn evict(&mut self, order: impl Fn(&T, &T) -> Ordering) {
        let len = self.all.len();
        // The newest stands for whatever floods the table: neighbours that all are worth more than it stay.
        let sample = (0..SAMPLE.min(len)).map(|i| (self.hand + i) % len).chain([len - 1]);
        let least = sample.min_by(|a, b| order(&self.all[*a], &self.all[*b])).unwrap_or(0);
        self.hand = (self.hand + SAMPLE) % len;
        self.evicted += 1;
        self.remove_at(least);
    }

    fn remove_at(&mut self, at: usize) {
        let hash = self.hash.key(self.all[at].key());
        if let Ok(entry) = self.index.find_entry(hash, |entry| *entry as usize == at) {
            entry.remove();
        }
        self.all.swap_remove(at);
        let Some(moved) = self.all.get(at) else { return };
        let last = self.all.len() as u32;
        if let Some(entry) = self.index.find_mut(self.hash.key(moved.key()), |entry| *entry == last) {
            *entry = at as u32;
        }
    }

    pub(crate) fn remove(&mut self, key: u128) {
        if let Some(at) = self.position(key) {
            self.remove_at(at);
        }
    }

    /// Keeps the entries for which `keep` holds.
    pub(crate) fn retain(&mut self, keep: impl Fn(&T) -> bool) {
        let mut at = 0;
        while at < self.all.len() {
            if keep(&self.all[at]) {
                at += 1;
            } else {
                self.remove_at(at);
            }
        }
    }

    pub(crate) fn entries(&self) -> &[T] {
        &self.all
    }

    pub(crate) fn max(&self) -> usize {
        self.max
    }

    /// Entries that made room for others.
    pub(crate) fn evicted(&self) -> u64 {
        self.evicted
    }

    /// Memory in bytes, without what the entries hold on the heap.
    pub(crate) fn bytes(&self) -> usize {
        self.all.capacity() * size_of::<T>() + self.index.allocation_size()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[derive(Debug, Clone, Copy, PartialEq)]
    struct Counted(u128, u32);

    impl Keyed for Counted {
        fn key(&self) -> u128 {
            self.0
        }
    }

    fn by_count(a: &Counted, b: &Counted) -> Ordering {
        a.1.cmp(&b.1)
    }

    #[test]
    fn it_is_a_map_until_it_is_full() {
        let mut table = SampledTable::new(1000, Seeded::new(1));
        let mut model: BTreeMap<u128, u32> = BTreeMap::new();
        for step in 0..20_000_u32 {
            let key = u128::from(step.wrapping_mul(2_654_435_761) >> 23);
            match step % 5 {
                0 => {
                    table.remove(key);
                    model.remove(&key);
                }
                1 if step % 1000 == 1 => {
                    table.retain(|entry: &Counted| !entry.1.is_multiple_of(3));
                    model.retain(|_, count| !count.is_multiple_of(3));
                }
                _ => {
                    table.get_or_insert(key, || Counted(key, 0), by_count).1 += 1;
                    *model.entry(key).or_insert(0) += 1;
                }
            }
            assert_eq!(table.get(key).map(|entry| entry.1), model.get(&key).copied(), "step {step}");
        }
        let mut entries: Vec<(u128, u32)> = table.entries().iter().map(|entry| (entry.0, entry.1)).collect();
        entries.sort_unstable();
        assert_eq!(entries, model.into_iter().collect::<Vec<_>>());
        assert_eq!(table.evicted(), 0);
    }

    #[test]
    fn throw_away_entries_push_out_their_own() {
        let mut table = SampledTable::new(100, Seeded::new(1));
        for key in 0..50 {
            table.get_or_insert(key, || Counted(key, 9), by_count);
        }
        for key in 1000..11_000 {
            table.get_or_insert(key, || Counted(key, 1), by_count);
        }
        assert!((0..50).all(|key| table.get(key) == Some(&Counted(key, 9))));
        assert_eq!((table.entries().len(), table.evicted()), (100, 9950));
    }
}
