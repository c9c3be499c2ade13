//! The position in a file, in a form that survives renames, copies and restarts.
//!
//! Device and inode do not suffice: an inode is reused soon after its file is gone, and `copytruncate` moves the bytes to
//! another inode. A mark therefore also holds fingerprints of the file's first bytes and of those just before the offset.
//! Both cover only bytes that were read, so that they stay true while the file grows.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};

use serde::{Deserialize, Serialize};

/// The number of first bytes that distinguish a file from others.
pub(super) const HEAD_BYTES: usize = 256;

/// The number of bytes before the offset that show whether the file is still the one that was read.
pub(super) const TAIL_BYTES: usize = 64;

/// The identity of a file while it exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct FileId {
    pub dev: u64,
    pub ino: u64,
}

impl FileId {
    pub(crate) fn of(meta: &Metadata) -> FileId {
        FileId { dev: meta.dev(), ino: meta.ino() }
    }
}

/// A hash of a known number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Fingerprint {
    /// The number of bytes.
    pub len: u32,
    /// Their FNV-1a hash (64 bits).
    pub hash: u64,
}

impl Fingerprint {
    pub(super) fn of(bytes: &[u8]) -> Fingerprint {
        const OFFSET_BASIS: u64 = 0xcbf2_9ce4_8422_2325;
        const PRIME: u64 = 0x0000_0100_0000_01b3;
        let hash =
            bytes.iter().fold(OFFSET_BASIS, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(PRIME));
        Fingerprint { len: bytes.len() as u32, hash }
    }

    pub(super) fn matches(self, bytes: &[u8]) -> bool {
        bytes.len() == self.len as usize && Fingerprint::of(bytes) == self
    }
}

/// A position in a file. The offset is the start of a line, unless `skipping`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Mark {
    /// Bytes read since the file's start; of the unpacked text, for a packed file.
    pub offset: u64,
    /// The file's first bytes, as far as they were read.
    pub head: Vec<u8>,
    /// The bytes before the offset.
    pub tail: Vec<u8>,
    /// The offset is inside a line that is too long and already counted as refused.
    pub skipping: bool,
}

impl Mark {
    /// Moves over the bytes read from the offset on.
    pub(super) fn advance(&mut self, read: &[u8]) {
        self.offset += read.len() as u64;
        let room = HEAD_BYTES - self.head.len();
        self.head.extend(read.iter().take(room));
        let keep = TAIL_BYTES.saturating_sub(read.len()).min(self.tail.len());
        self.tail.drain(..self.tail.len() - keep);
        self.tail.extend_from_slice(read.get(read.len().saturating_sub(TAIL_BYTES)..).unwrap_or_default());
    }

    /// Reads the mark at `offset` from the file itself.
    pub(super) fn at(file: &File, offset: u64) -> io::Result<Mark> {
        let head = read_range(file, 0, offset.min(HEAD_BYTES as u64) as usize)?;
        let tail_len = offset.min(TAIL_BYTES as u64);
        let tail = read_range(file, offset - tail_len, tail_len as usize)?;
        Ok(Mark { offset, head, tail, skipping: false })
    }
}

fn read_range(file: &File, at: u64, len: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; len];
    file.read_exact_at(&mut bytes, at)?;
    Ok(bytes)
}

/// A mark as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SavedMark {
    #[serde(flatten)]
    pub id: FileId,
    pub offset: u64,
    /// Of [`Mark::head`].
    pub head: Fingerprint,
    /// Of [`Mark::tail`].
    pub tail: Fingerprint,
    /// See [`Mark::skipping`].
    #[serde(default, skip_serializing_if = "is_false")]
    pub skipping: bool,
    /// The last write to the file, as far as it was read: nanoseconds since the Unix epoch. `i64::MIN` when nothing was
    /// read of any file of its path yet.
    pub modified_ns: i64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's skip_serializing_if passes a reference")]
fn is_false(value: &bool) -> bool {
    !*value
}

/// Returns the last write to the file: nanoseconds since the Unix epoch.
pub(super) fn modified_ns(meta: &Metadata) -> i64 {
    meta.mtime().saturating_mul(1_000_000_000).saturating_add(meta.mtime_nsec())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// In whatever pieces the bytes come, the mark is the one read from the file itself.
        #[test]
        fn advancing_equals_reading_the_mark(pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 0..5)) {
            let file = tempfile::tempfile().unwrap();
            let bytes = pieces.concat();
            file.write_all_at(&bytes, 0).unwrap();
            let mut mark = Mark::default();
            for piece in &pieces {
                mark.advance(piece);
            }
            prop_assert_eq!(mark, Mark::at(&file, bytes.len() as u64).unwrap());
        }
    }
}
