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
    copy: Copied,
}

/// How well the copy is known to be what the map holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Copied {
    /// The map is an earlier agent's and was not read: it may hold bits that the copy lacks.
    Unread,
    /// The map was made or read a moment ago.
    New,
    /// The copy has every bit that is needed. The map may hold more, and others may have changed it.
    Old,
}

/// So many words of a map that was not read are looked up one by one; for more it is read.
const MAX_LOOKUPS: usize = 4096;

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
    /// Opens the filter `name` pinned in `maps`. One that an earlier agent may have written is not read yet: that takes 0.1 s, and
    /// a start waits for nothing that the bans can do without.
    pub(super) fn open(maps: &Path, name: &'static str, words: u32, origin: Origin) -> Result<Filter> {
        let path = maps.join(name);
        let map = kernel::open_pinned(&path)
            .with_context(|| format!("could not open the map {}", path.display()))?;
        let copy = match origin {
            Origin::Made => Copied::New,
            Origin::Found => Copied::Unread,
        };
        Ok(Filter { map, name, words: vec![0; words as usize], copy })
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
        .with_context(|| format!("could not read {}", self.name))?;
        self.copy = Copied::New;
        Ok(())
    }

    /// Reads one bit from the map, not from the copy.
    pub(super) fn holds(&self, bit: FilterBit) -> Result<bool> {
        Ok(self.word(bit.word)? & bit.mask != 0)
    }

    fn word(&self, at: u32) -> Result<u64> {
        let word = kernel::lookup(self.map.as_fd(), &at);
        Ok(word.with_context(|| format!("could not read {}", self.name))?.unwrap_or_default())
    }

    /// Sets the bits that are set in `more`.
    pub(super) fn add(&mut self, more: &Bitmap) -> Result<()> {
        if self.copy == Copied::Unread {
            self.read()?;
        }
        let changed =
            self.words.iter().zip(&more.0).enumerate().filter(|(_, (old, more))| **more & !**old != 0);
        let changed: Vec<(u32, u64)> = changed.map(|(at, (old, more))| (at as u32, old | more)).collect();
        self.write(&changed)
    }

    /// Sets a few bits.
    pub(super) fn add_bits(&mut self, bits: impl ExactSizeIterator<Item = FilterBit>) -> Result<()> {
        if self.copy == Copied::Unread && bits.len() > MAX_LOOKUPS {
            self.read()?;
        }
        let mut changed: Vec<(u32, u64)> = Vec::new();
        for bit in bits {
            // The word is written as a whole, with the bits of bans that are in force already.
            if self.copy == Copied::Unread {
                self.words[bit.word as usize] |= self.word(bit.word)?;
            }
            let word = &mut self.words[bit.word as usize];
            if *word & bit.mask == 0 {
                *word |= bit.mask;
                changed.push((bit.word, *word));
            }
        }
        self.write(&changed)
    }

    /// Makes the map equal to `wanted`, but for bits in other words of a map that was not read yet: the next time clears them.
    pub(super) fn replace(&mut self, wanted: &Bitmap) -> Result<()> {
        let is_unread = self.copy == Copied::Unread;
        if self.copy == Copied::Old {
            self.read()?;
        }
        let words = self.words.iter().zip(&wanted.0).enumerate();
        let changed: Vec<(u32, u64)> = words
            .filter(|(_, (old, new))| if is_unread { **new != 0 } else { old != new })
            .map(|(at, (_, new))| (at as u32, *new))
            .collect();
        self.write(&changed)?;
        self.copy = Copied::Old;
        Ok(())
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
