//! Which file was read how far, in a form that survives renames, copies and restarts.
//!
//! Device and inode alone are not enough: an inode is used again soon after its file is gone, and `copytruncate` moves
//! the bytes to another inode. So a mark also holds fingerprints of the file's first bytes and of those just before the
//! offset. Both cover only bytes that were read, so that they stay true while the file grows.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};

use serde::{Deserialize, Serialize};

/// So many of a file's first bytes tell it from others.
pub(super) const HEAD_BYTES: usize = 256;

/// So many bytes before the offset tell whether they are still those that were read.
pub(super) const TAIL_BYTES: usize = 64;

/// A file's identity while it exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct FileId {
    /// The device's number.
    pub dev: u64,
    /// The inode's number.
    pub ino: u64,
}

impl FileId {
    /// The identity of the file that `meta` describes.
    pub(super) fn of(meta: &Metadata) -> FileId {
        FileId { dev: meta.dev(), ino: meta.ino() }
    }
}

/// A hash of a known number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Fingerprint {
    /// How many bytes.
    pub len: u32,
    /// Their FNV-1a hash (64 bits).
    pub hash: u64,
}

impl Fingerprint {
    /// The fingerprint of `bytes`.
    pub(super) fn of(bytes: &[u8]) -> Fingerprint {
        const OFFSET_BASIS: u64 = 0xcbf2_9ce4_8422_2325;
        const PRIME: u64 = 0x0000_0100_0000_01b3;
        let hash =
            bytes.iter().fold(OFFSET_BASIS, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(PRIME));
        Fingerprint { len: bytes.len() as u32, hash }
    }

    /// Whether `bytes` are the ones it was made of.
    pub(super) fn is_of(self, bytes: &[u8]) -> bool {
        bytes.len() == self.len as usize && Fingerprint::of(bytes) == self
    }
}

/// How far a file was read. The offset is always the start of a line, unless `skipping`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Mark {
    /// Bytes read, from the file's start (of the unpacked text, for a packed file).
    pub offset: u64,
    /// The file's first bytes, as far as they were read.
    pub head: Vec<u8>,
    /// The bytes before the offset.
    pub tail: Vec<u8>,
    /// The offset is inside a line that is too long and already counted.
    pub skipping: bool,
}

impl Mark {
    /// Takes up the bytes read from the offset on.
    pub(super) fn advance(&mut self, read: &[u8]) {
        self.offset += read.len() as u64;
        let room = HEAD_BYTES - self.head.len();
        self.head.extend(read.iter().take(room));
        let keep = TAIL_BYTES.saturating_sub(read.len()).min(self.tail.len());
        self.tail.drain(..self.tail.len() - keep);
        self.tail.extend_from_slice(read.get(read.len().saturating_sub(TAIL_BYTES)..).unwrap_or_default());
    }

    /// The mark at `offset` of a file that nobody has read up to there.
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
    /// The file's identity.
    #[serde(flatten)]
    pub id: FileId,
    /// See [`Mark::offset`].
    pub offset: u64,
    /// Of [`Mark::head`].
    pub head: Fingerprint,
    /// Of [`Mark::tail`].
    pub tail: Fingerprint,
    /// See [`Mark::skipping`].
    #[serde(default, skip_serializing_if = "is_false")]
    pub skipping: bool,
    /// When the file was last written to, as far as it was read: nanoseconds since the Unix epoch. The least there is when
    /// nothing was read of any file of its path yet.
    pub modified_ns: i64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's skip_serializing_if passes a reference")]
fn is_false(value: &bool) -> bool {
    !*value
}

/// When the file was last written to: nanoseconds since the Unix epoch.
pub(super) fn modified_ns(meta: &Metadata) -> i64 {
    meta.mtime().saturating_mul(1_000_000_000).saturating_add(meta.mtime_nsec())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// However the bytes come, the mark is the one that a fresh look at the file makes.
        #[test]
        fn advancing_equals_looking(pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 0..5)) {
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
