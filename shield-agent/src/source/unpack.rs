//! Reads packed files: gzip, bzip2, xz and zstd, as a stream and with bounded memory.
//!
//! A file may hold several streams one after another (`cat a.gz b.gz`, `pigz`, `pbzip2`), which count as one text.

use std::io::{self, BufRead, Read};

use bzip2::bufread::MultiBzDecoder;
use flate2::bufread::MultiGzDecoder;
use lzma_rust2::XzReader;

/// The memory that one xz file may ask for (KiB): what `xz -9` needs (65 MiB), and some more. zstd has a limit of its own, a
/// window of 128 MiB; the other two need less than 4 MiB.
const XZ_MEMORY_KIB: u32 = 96 * 1024;

/// How a file is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Packing {
    Gzip,
    Bzip2,
    Xz,
    Zstd,
}

/// The endings of names, and the first bytes.
const KNOWN: [(&str, Packing, &[u8]); 6] = [
    (".gz", Packing::Gzip, &[0x1f, 0x8b]),
    (".bz2", Packing::Bzip2, b"BZh"),
    (".xz", Packing::Xz, &[0xfd, b'7', b'z', b'X', b'Z', 0]),
    (".zst", Packing::Zstd, &[0x28, 0xb5, 0x2f, 0xfd]),
    (".gzip", Packing::Gzip, &[0x1f, 0x8b]),
    (".zstd", Packing::Zstd, &[0x28, 0xb5, 0x2f, 0xfd]),
];

/// Endings of files that are packed in a way that is not read here.
const FOREIGN: [&str; 11] =
    [".Z", ".lz4", ".lzma", ".lz", ".lzo", ".lrz", ".7z", ".zip", ".rar", ".br", ".age"];

impl Packing {
    /// Reads the packing off a name's ending; returns the name without it too.
    pub(crate) fn of_name(name: &str) -> Option<(&str, Packing)> {
        KNOWN.iter().find_map(|(ending, packing, _)| Some((name.strip_suffix(ending)?, *packing)))
    }

    /// Reads the packing off a file's first bytes.
    pub(crate) fn of_start(start: &[u8]) -> Option<Packing> {
        // "BZh" alone can begin a line of text: a digit and the number pi follow it.
        let is_bzip2 = |start: &[u8]| start.get(4..10) == Some(&[0x31, 0x41, 0x59, 0x26, 0x53, 0x59]);
        KNOWN.iter().find_map(|(_, packing, magic)| {
            let is_this = start.starts_with(magic) && (*packing != Packing::Bzip2 || is_bzip2(start));
            is_this.then_some(*packing)
        })
    }

    /// Strips the ending of a packing that cannot be read; returns the rest of the name and the ending.
    pub(crate) fn foreign(name: &str) -> Option<(&str, &'static str)> {
        FOREIGN.iter().find_map(|ending| Some((name.strip_suffix(ending)?, *ending)))
    }

    /// Unpacks `packed`.
    pub(crate) fn unpack(self, packed: impl BufRead + Send + 'static) -> io::Result<Box<dyn Read + Send>> {
        Ok(match self {
            Packing::Gzip => Box::new(MultiGzDecoder::new(packed)),
            Packing::Bzip2 => Box::new(MultiBzDecoder::new(packed)),
            Packing::Xz => Box::new(XzReader::new_mem_limit(packed, true, XZ_MEMORY_KIB)),
            Packing::Zstd => Box::new(zstd::Decoder::with_buffer(packed)?),
        })
    }
}

/// Packs `text`, for tests.
#[cfg(test)]
pub(crate) fn pack(packing: Packing, text: &[u8]) -> Vec<u8> {
    use std::io::Write;
    match packing {
        Packing::Gzip => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(text).unwrap();
            encoder.finish().unwrap()
        }
        Packing::Bzip2 => {
            let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
            encoder.write_all(text).unwrap();
            encoder.finish().unwrap()
        }
        Packing::Xz => {
            let options = lzma_rust2::XzOptions::with_preset(0);
            let mut encoder = lzma_rust2::XzWriter::new(Vec::new(), options).unwrap();
            encoder.write_all(text).unwrap();
            encoder.finish().unwrap()
        }
        Packing::Zstd => zstd::encode_all(text, 1).unwrap(),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    const ALL: [(Packing, &str); 4] =
        [(Packing::Gzip, "gz"), (Packing::Bzip2, "bz2"), (Packing::Xz, "xz"), (Packing::Zstd, "zst")];

    fn unpacked(packing: Packing, bytes: Vec<u8>) -> (Vec<u8>, io::Result<usize>) {
        let mut text = Vec::new();
        let result = packing.unpack(Cursor::new(bytes)).unwrap().read_to_end(&mut text);
        (text, result)
    }

    #[test]
    fn streams_one_after_another_are_one_text() {
        for (packing, ending) in ALL {
            let both = [pack(packing, b"first\n"), pack(packing, b"second\n")].concat();
            assert_eq!(Packing::of_start(&both), Some(packing));
            assert_eq!(Packing::of_name(&format!("a.log.1.{ending}")), Some(("a.log.1", packing)));
            let (text, result) = unpacked(packing, both);
            assert_eq!((text.as_slice(), result.unwrap()), (&b"first\nsecond\n"[..], 13), "{packing:?}");
        }
        assert_eq!(Packing::of_start(b"BZh.example.org - - "), None, "a host's name");
        assert_eq!(Packing::foreign("a.log.1.lz4"), Some(("a.log.1", ".lz4")));
    }

    #[test]
    fn a_damaged_file_gives_what_is_whole_and_an_error() {
        // Noise, so that no packing gets it into one block.
        let mut seed = 1_u64;
        let mut noise = || {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            b'a' + (seed >> 33) as u8 % 26
        };
        let text: Vec<u8> = (0..600_000).map(|_| noise()).collect();
        for (packing, _) in ALL {
            let mut bytes = pack(packing, &text);
            bytes.truncate(bytes.len() / 2);
            let (read, result) = unpacked(packing, bytes);
            assert!(result.is_err(), "{packing:?}");
            assert!(read.len() > 100_000 && text.starts_with(&read), "{packing:?}: {}", read.len());
        }
    }
}
