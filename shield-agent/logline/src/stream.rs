//! Reads lines from a stream of bytes, such as standard input, that comes in pieces of any size.

use std::io::{self, ErrorKind, Read};

use shield_engine::request::Rejected;

use crate::{Output, Parser, Settings};

/// Bytes read at once.
const READ_BYTES: usize = 256 * 1024;

/// A stream of lines.
#[derive(Debug)]
pub struct Input<R> {
    reader: R,
    parser: Parser,
    max_line_bytes: usize,
    /// The beginning of a line whose end is not read yet.
    partial: Vec<u8>,
    /// The stream is inside a line that is too long and already counted as refused.
    skipping: bool,
}

impl<R: Read> Input<R> {
    /// Reads lines from `reader`.
    pub fn new(reader: R, format: &Settings) -> Input<R> {
        let max_line_bytes = format.max_line_bytes;
        Input { reader, parser: Parser::new(format), max_line_bytes, partial: Vec::new(), skipping: false }
    }

    /// Waits for bytes and parses the lines among them. Returns false at the end of the stream, whose last line may lack its
    /// newline.
    ///
    /// # Errors
    /// When the stream cannot be read.
    pub fn step(&mut self, block: &mut Vec<u8>, out: &mut Output) -> io::Result<bool> {
        block.clear();
        block.append(&mut self.partial);
        let from = block.len();
        block.resize(from + READ_BYTES, 0);
        let read = loop {
            match self.reader.read(block.get_mut(from..).unwrap_or_default()) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                read => break read?,
            }
        };
        let end = from + read;
        if read == 0 {
            if end > 0 && !self.skipping {
                self.parser.parse_single(block, 0, end, out);
            }
            return Ok(false);
        }
        self.take(block, end, out);
        Ok(true)
    }

    fn take(&mut self, block: &mut Vec<u8>, end: usize, out: &mut Output) {
        let mut start = 0;
        if self.skipping {
            let Some(newline) = memchr::memchr(b'\n', block.get(..end).unwrap_or_default()) else { return };
            self.skipping = false;
            start = newline + 1;
        }
        let upto = self.parser.parse_block(block, start, end, out);
        let rest = block.get(upto..end).unwrap_or_default();
        if rest.len() > self.max_line_bytes {
            self.skipping = true;
            self.parser.skipped();
            out.reject(Rejected::TooLong);
        } else {
            self.partial.extend_from_slice(rest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = r#"{"source_ip":"192.0.2.7","timestamp":1795530901,"status":200}"#;

    #[test]
    fn input_is_read_to_its_last_line_in_pieces_of_any_size() {
        struct Pieces<'a>(&'a [u8], usize);
        impl Read for Pieces<'_> {
            fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
                let len = self.1.min(room.len()).min(self.0.len());
                let (piece, rest) = self.0.split_at(len);
                room[..len].copy_from_slice(piece);
                self.0 = rest;
                Ok(len)
            }
        }
        let settings = Settings { max_line_bytes: 100, ..Settings::default() };
        let text = format!("{LINE}\n{}\n{LINE}\nrubbish\n{LINE}", "x".repeat(1000));
        for size in [1, 7, 64, 101, 5000] {
            let mut input = Input::new(Pieces(text.as_bytes(), size), &settings);
            let (mut block, mut out) = (Vec::new(), Output::default());
            while input.step(&mut block, &mut out).unwrap() {}
            assert_eq!(out.lines.len(), 3, "{size}");
            assert_eq!(out.rejected[Rejected::TooLong.index()], 1, "{size}");
            assert_eq!(out.rejected[Rejected::Malformed.index()], 1, "{size}");
        }
    }
}
