//! Parses bytes as the agent does, into results that can be compared, and checks what must hold for every input.

use std::net::IpAddr;

use shield_engine::request::{Line, RejectedCounts};
use shield_logline::{Output, Parser, Settings};

/// The highest valid status.
const MAX_STATUS: u16 = 999;

/// Bytes behind a block that the parser may overwrite.
const PADDING_BYTES: usize = 64;

/// One line with copies of its texts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// The line, its offsets set to 0.
    pub line: Line,
    /// The method.
    pub method: Vec<u8>,
    /// The path.
    pub path: Vec<u8>,
}

/// The results of parsing some bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reading {
    /// The requests.
    pub seen: Vec<Seen>,
    /// Refused lines, by reason.
    pub rejected: RejectedCounts,
}

impl Reading {
    /// Adds a parser's results from `block`.
    pub fn take(&mut self, block: &[u8], out: &Output) {
        self.seen.extend(out.lines.iter().map(|line| seen(line, block)));
        for (total, refused) in self.rejected.iter_mut().zip(out.rejected) {
            *total += refused;
        }
    }

    /// Returns the number of all lines, refused ones included.
    pub fn count(&self) -> usize {
        self.seen.len() + self.rejected.iter().sum::<u64>() as usize
    }
}

fn seen(line: &Line, block: &[u8]) -> Seen {
    let text = |at: u32, len: usize| block[at as usize..at as usize + len].to_vec();
    assert!(line.status <= MAX_STATUS, "status {}", line.status);
    assert_eq!(line.addr, IpAddr::to_canonical(&line.addr), "an address that is not canonical");
    Seen {
        method: text(line.method_at, usize::from(line.method_len)),
        path: text(line.path_at, line.path_len as usize),
        line: Line { method_at: 0, path_at: 0, server_at: 0, peer_at: 0, ..*line },
    }
}

/// Reads all complete lines of `text` as one block.
pub fn whole(settings: &Settings, text: &[u8]) -> Reading {
    let (mut block, mut out) = (text.to_vec(), Output::default());
    let upto = Parser::new(settings).parse_block(&mut block, 0, text.len(), &mut out);
    let complete = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    assert!(
        upto <= complete && (upto == 0 || text[upto - 1] == b'\n'),
        "where the first incomplete line starts"
    );
    assert!(block.len() <= 2 * text.len() + PADDING_BYTES, "{} bytes became {}", text.len(), block.len());
    let mut reading = Reading::default();
    reading.take(&block, &out);
    assert_eq!(reading.count(), text[..upto].iter().filter(|byte| **byte == b'\n').count(), "lines");
    reading
}

/// Reads the complete lines of `text` in blocks of one line each, by the slow readers only. Parts of a line whose end is
/// missing are read again with the next one, and at the end not at all.
pub fn line_by_line(settings: &Settings, text: &[u8]) -> Reading {
    one_by_one(&mut Parser::without_shapes(settings), text).0
}

/// Reads as [`line_by_line`], then what is left as the end of a file that is not written to any more.
pub fn to_the_end(settings: &Settings, text: &[u8]) -> Reading {
    let mut parser = Parser::without_shapes(settings);
    let (mut reading, from) = one_by_one(&mut parser, text);
    if from < text.len() {
        let (mut block, mut out) = (text[from..].to_vec(), Output::default());
        let end = block.len();
        parser.parse_single(&mut block, 0, end, &mut out);
        reading.take(&block, &out);
    }
    reading
}

fn one_by_one(parser: &mut Parser, text: &[u8]) -> (Reading, usize) {
    let mut reading = Reading::default();
    let mut from = 0;
    let ends = text.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at + 1);
    for end in ends {
        let (mut block, mut out) = (text[from..end].to_vec(), Output::default());
        from += parser.parse_block(&mut block, 0, end - from, &mut out);
        reading.take(&block, &out);
    }
    (reading, from)
}
