//! The bitmap that the program looks up first: a clear bit means that nothing is banned near the source.
//!
//! A bit is set before its ban is added, and stays when the ban is removed: other bans may need it, and one bit too many
//! only costs packets a hash lookup. A reconcile computes the bitmap anew.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

use anyhow::{Context as _, Result};
use shield_common::FilterBit;

use super::kernel::{self, Update};

/// Words in one system call.
const CHUNK: usize = 8192;

/// One filter map, with a copy of its words.
#[derive(Debug)]
pub(super) struct Filter {
    map: OwnedFd,
    name: &'static str,
    words: Vec<u64>,
    /// The map was made or read at this start, so that the copy is what it holds: reading it takes some 30 ms, and a start would do so
    /// twice.
    is_copy_new: bool,
}

/// What a map may hold when it is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// It was made a moment ago: nothing.
    Made,
    /// It was pinned by an earlier agent.
    Found,
}

/// Bits to be set in a filter, or to replace it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Bitmap(Vec<u64>);

impl Bitmap {
    pub(super) fn empty(words: u32) -> Bitmap {
        Bitmap(vec![0; words as usize])
    }

    pub(super) fn set(&mut self, bit: FilterBit) {
        self.0[bit.word as usize] |= bit.mask;
    }

    /// Sets all bits from `first` to `last`, in the order of words and then of bits.
    pub(super) fn set_range(&mut self, first: FilterBit, last: FilterBit) {
        let (from, to) = (first.word as usize, last.word as usize);
        let low = !(first.mask - 1);
        let high = last.mask | (last.mask - 1);
        if from == to {
            self.0[from] |= low & high;
            return;
        }
        self.0[from] |= low;
        self.0[from + 1..to].fill(u64::MAX);
        self.0[to] |= high;
    }

    pub(super) fn fill(&mut self) {
        self.0.fill(u64::MAX);
    }
}

impl Filter {
    /// Opens the filter `name` pinned in `maps` and, if an earlier agent may have written it, reads it.
    pub(super) fn open(maps: &Path, name: &'static str, words: u32, origin: Origin) -> Result<Filter> {
        let path = maps.join(name);
        let map = kernel::open_pinned(&path)
            .with_context(|| format!("could not open the map {}", path.display()))?;
        let mut filter = Filter { map, name, words: vec![0; words as usize], is_copy_new: true };
        if origin == Origin::Found {
            filter.read()?;
        }
        Ok(filter)
    }

    /// The map's name and descriptor, for pinning.
    pub(super) fn pinnable(&self) -> (&'static str, BorrowedFd<'_>) {
        (self.name, self.map.as_fd())
    }

    fn read(&mut self) -> Result<()> {
        let words = &mut self.words;
        kernel::lookup_all(self.map.as_fd(), CHUNK, |at: u32, word: u64| {
            // Pages that stay zero are not written, so that they take no memory.
            if let Some(slot) = words.get_mut(at as usize)
                && *slot != word
            {
                *slot = word;
            }
        })
        .with_context(|| format!("could not read {}", self.name))
    }

    /// Reads the map again, except the first time after it was opened.
    pub(super) fn read_again(&mut self) -> Result<()> {
        if std::mem::take(&mut self.is_copy_new) { Ok(()) } else { self.read() }
    }

    /// Reads one bit from the map, not from the copy.
    pub(super) fn holds(&self, bit: FilterBit) -> Result<bool> {
        let word = kernel::lookup::<u32, u64>(self.map.as_fd(), &bit.word);
        let word = word.with_context(|| format!("could not read {}", self.name))?;
        Ok(word.is_some_and(|word| word & bit.mask != 0))
    }

    /// Sets the bits that are set in `more`.
    pub(super) fn add(&mut self, more: &Bitmap) -> Result<()> {
        let changed =
            self.words.iter().zip(&more.0).enumerate().filter(|(_, (old, more))| **more & !**old != 0);
        let changed: Vec<(u32, u64)> = changed.map(|(at, (old, more))| (at as u32, old | more)).collect();
        self.write(&changed)
    }

    /// Sets a few bits.
    pub(super) fn add_bits(&mut self, bits: impl IntoIterator<Item = FilterBit>) -> Result<()> {
        let mut changed: Vec<(u32, u64)> = Vec::new();
        for bit in bits {
            let word = &mut self.words[bit.word as usize];
            if *word & bit.mask == 0 {
                *word |= bit.mask;
                changed.push((bit.word, *word));
            }
        }
        self.write(&changed)
    }

    /// Makes the map equal to `wanted`.
    pub(super) fn replace(&mut self, wanted: &Bitmap) -> Result<()> {
        let changed = self.words.iter().zip(&wanted.0).enumerate().filter(|(_, (old, new))| old != new);
        let changed: Vec<(u32, u64)> = changed.map(|(at, (_, new))| (at as u32, *new)).collect();
        self.write(&changed)
    }

    fn write(&mut self, changed: &[(u32, u64)]) -> Result<()> {
        for chunk in changed.chunks(CHUNK) {
            let keys: Vec<u32> = chunk.iter().map(|(at, _)| *at).collect();
            let values: Vec<u64> = chunk.iter().map(|(_, word)| *word).collect();
            self.write_chunk(&keys, &values).with_context(|| format!("could not write {}", self.name))?;
            for (at, word) in chunk {
                self.words[*at as usize] = *word;
            }
        }
        Ok(())
    }

    fn write_chunk(&self, keys: &[u32], values: &[u64]) -> std::io::Result<()> {
        let done = kernel::update_batch(self.map.as_fd(), keys, values);
        // The rest word by word: for kernels without batches (before 5.6), and because a batch returns no error.
        for (key, value) in keys.iter().zip(values).skip(done) {
            kernel::update(self.map.as_fd(), key, value, Update::Any)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shield_common::filter_v4;

    #[test]
    fn a_range_sets_every_bit_from_first_to_last() {
        let check = |first: u32, last: u32| {
            let mut ranged = Bitmap::empty(shield_common::FILTER_V4_WORDS);
            ranged.set_range(filter_v4(first), filter_v4(last));
            let mut single = Bitmap::empty(shield_common::FILTER_V4_WORDS);
            (first >> 8..=last >> 8).for_each(|net| single.set(filter_v4(net << 8)));
            assert!(ranged == single, "{first:#x} to {last:#x}");
        };
        check(0xc000_0200, 0xc000_02ff);
        check(0xc000_0000, 0xc000_ffff);
        check(0xc000_0500, 0xc001_07ff);
        check(0xc000_3f00, 0xc000_40ff);
        check(0, 0x00ff_ffff);
        check(0xffff_ff00, u32::MAX);
    }
}
