//! The path of a request's target and its hash. Computed for every request, so the search for the end of the path goes
//! by 16 bytes at a time.

use crate::detect::hash::Seeded;

/// The length and the hash of a target's path.
#[derive(Debug, Clone, Copy, Default)]
pub struct HashedPath {
    /// Of the path without the query.
    pub(crate) hash: u64,
    /// In bytes.
    len: usize,
}

/// Longer targets are searched with SIMD instructions (memchr); below this their set-up costs more than they save.
const SHORT_TARGET: usize = 64;

/// The length of a target's path: up to its first question mark.
#[inline]
fn path_len(target: &[u8]) -> usize {
    if target.len() > SHORT_TARGET {
        return memchr::memchr(b'?', target).unwrap_or(target.len());
    }
    if target.len() < 16 {
        return short_path_len(target);
    }
    let (chunks, _) = target.as_chunks::<16>();
    if let Some(at) = chunks.iter().position(has_question_mark) {
        return 16 * at + chunks.get(at).map_or(0, |chunk| short_path_len(chunk));
    }
    match target.last_chunk::<16>() {
        // Overlaps bytes that were searched already, which is cheaper than searching the rest byte by byte.
        Some(last) if has_question_mark(last) => target.len() - 16 + short_path_len(last),
        _ => target.len(),
    }
}

/// Without branches, so that it compiles to one comparison of 16 bytes.
#[inline]
fn has_question_mark(chunk: &[u8; 16]) -> bool {
    chunk.iter().fold(0, |found, byte| found | u8::from(*byte == b'?')) != 0
}

fn short_path_len(target: &[u8]) -> usize {
    let mut at = 0;
    while let Some(word) = target.get(at..).and_then(|rest| rest.first_chunk::<8>()) {
        let marks = question_marks(u64::from_le_bytes(*word));
        if marks != 0 {
            return at + marks.trailing_zeros() as usize / 8;
        }
        at += 8;
    }
    let rest = target.get(at..).unwrap_or_default();
    rest.iter().position(|byte| *byte == b'?').map_or(target.len(), |found| at + found)
}

/// A mark in the high bit of each byte that is a question mark; exact up to the lowest mark (Mycroft's `haszero`).
#[inline]
fn question_marks(word: u64) -> u64 {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGHS: u64 = 0x8080_8080_8080_8080;
    let zeros = word ^ (ONES * b'?' as u64);
    zeros.wrapping_sub(ONES) & !zeros & HIGHS
}

impl HashedPath {
    #[inline]
    pub(crate) fn of(target: &[u8], hash: Seeded) -> HashedPath {
        let path_len = path_len(target);
        HashedPath { hash: hash.bytes(&target[..path_len]), len: path_len }
    }

    /// The key of a page that was served under this path without a query.
    pub(crate) fn key(self) -> u32 {
        self.hash as u32
    }

    /// The path's length in bytes.
    pub(crate) fn len(self) -> usize {
        self.len
    }

    /// Splits the target it was computed from into the path and the query, the latter with its question mark.
    pub(crate) fn split(self, target: &[u8]) -> (&[u8], &[u8]) {
        target.split_at(self.len.min(target.len()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_path_ends_at_the_first_question_mark(target in prop::collection::vec(prop::sample::select(b"/a?@>\x80\xbf\xff".to_vec()), 0..90)) {
            let len = target.iter().position(|byte| *byte == b'?').unwrap_or(target.len());
            prop_assert_eq!(path_len(&target), len);
        }

        #[test]
        fn long_paths_end_there_too(before in 0usize..90, behind in 0usize..90) {
            let target = ["/".repeat(before), "?".repeat(behind.min(1)), "b".repeat(behind)].concat();
            prop_assert_eq!(path_len(target.as_bytes()), before);
        }
    }
}
