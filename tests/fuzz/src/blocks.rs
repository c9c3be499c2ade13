//! The target `blocks`: the same bytes give the same lines wherever they are cut, into blocks or into pieces of a stream.

use std::io::{self, Read};

use crate::cursor::Cursor;
use crate::reading::{Reading, line_by_line, to_the_end};
use shield_logline::stream::Input;
use shield_logline::{Format, Output, Parser, Settings};

/// Cuts of an input at most.
const MAX_CUTS: u8 = 12;

/// The longest line: short, so that the fuzzer exceeds it.
const MAX_LINE_BYTES: usize = 200;

/// `blocks`.
pub fn check(data: &[u8]) {
    let mut cursor = Cursor::new(data);
    let format = cursor.pick(&[Format::Auto, Format::Json, Format::Combined, Format::Common]);
    let settings = Settings { format, max_line_bytes: MAX_LINE_BYTES, ..Settings::default() };
    let cuts = cursor.byte() % MAX_CUTS;
    let sizes: Vec<usize> = (0..cuts).map(|_| 1 + usize::from(cursor.byte())).collect();
    let text = cursor.rest();
    assert_eq!(by_stream(&settings, text, &sizes), to_the_end(&settings, text), "in pieces of {sizes:?}");
    let complete = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let lines = line_by_line(&settings, text);
    assert_eq!(by_blocks(&settings, &text[..complete], &sizes), lines, "in blocks cut after {sizes:?}");
}

fn by_stream(settings: &Settings, text: &[u8], sizes: &[usize]) -> Reading {
    let mut input = Input::new(Pieces { text, sizes: sizes.iter() }, settings);
    let (mut block, mut reading) = (Vec::new(), Reading::default());
    loop {
        let mut out = Output::default();
        let goes_on = input.step(&mut block, &mut out).expect("bytes can be read");
        reading.take(&block, &out);
        if !goes_on {
            return reading;
        }
    }
}

/// Reads as a file is followed: each block begins with bytes that were read before, and an incomplete line comes again.
fn by_blocks(settings: &Settings, text: &[u8], sizes: &[usize]) -> Reading {
    let mut parser = Parser::new(settings);
    let mut reading = Reading::default();
    let mut block = Vec::new();
    let (mut from, mut end) = (0, 0);
    let mut sizes = sizes.iter();
    while from < text.len() {
        end = sizes.next().map_or(text.len(), |size| (end + size).min(text.len()));
        let overlap = from.min(16);
        // The rest of an earlier, longer block behind the end of this one must not matter.
        block.resize(block.len().max(end - from + overlap), b'x');
        block[..end - from + overlap].copy_from_slice(&text[from - overlap..end]);
        let mut out = Output::default();
        let upto = parser.parse_block(&mut block, overlap, end - from + overlap, &mut out);
        reading.take(&block, &out);
        from += upto - overlap;
        if end == text.len() && upto == overlap {
            // Parts of a line whose end is missing.
            break;
        }
    }
    reading
}

/// A stream that returns its bytes in pieces of these sizes, then the rest at once.
struct Pieces<'a> {
    text: &'a [u8],
    sizes: std::slice::Iter<'a, usize>,
}

impl Read for Pieces<'_> {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        let size = self.sizes.next().copied().unwrap_or(self.text.len());
        let len = size.min(room.len()).min(self.text.len());
        let (piece, rest) = self.text.split_at(len);
        room[..len].copy_from_slice(piece);
        self.text = rest;
        Ok(len)
    }
}
