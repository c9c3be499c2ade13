//! Parses bytes as the agent does, into results that can be compared, and checks what must hold for every input.

use std::net::IpAddr;

use shield_engine::request::{Line, Rejected, RejectedCounts};
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

    /// Returns the reason why the only line was refused.
    pub fn reason(&self) -> Option<Rejected> {
        Rejected::ALL.into_iter().find(|reason| self.rejected[reason.index()] > 0)
    }
}

fn seen(line: &Line, block: &[u8]) -> Seen {
    let text = |at: u32, len: usize| block[at as usize..at as usize + len].to_vec();
    assert!(line.status <= MAX_STATUS, "status {}", line.status);
    assert_eq!(line.addr, IpAddr::to_canonical(&line.addr), "an address that is not canonical");
    Seen {
        method: text(line.method_at, usize::from(line.method_len)),
        path: text(line.path_at, line.path_len as usize),
        line: Line { method_at: 0, path_at: 0, ..*line },
    }
}

/// Reads all complete lines of `text` as one block.
pub fn whole(settings: &Settings, text: &[u8]) -> Reading {
    let (mut block, mut out) = (text.to_vec(), Output::default());
    let upto = Parser::new(settings).parse_block(&mut block, 0, text.len(), &mut out);
    let complete = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    assert_eq!(upto, complete, "where the first incomplete line starts");
    assert!(block.len() <= 2 * text.len() + PADDING_BYTES, "{} bytes became {}", text.len(), block.len());
    let mut reading = Reading::default();
    reading.take(&block, &out);
    assert_eq!(reading.count(), text.iter().filter(|byte| **byte == b'\n').count(), "lines");
    reading
}

/// Reads one line with a new parser, which has no shape learned, so that only the slow readers take part.
pub fn alone(settings: &Settings, line: &[u8]) -> Reading {
    let (mut block, mut out) = (line.to_vec(), Output::default());
    Parser::new(settings).parse_single(&mut block, 0, line.len(), &mut out);
    let mut reading = Reading::default();
    reading.take(&block, &out);
    assert_eq!(reading.count(), 1, "one line");
    reading
}

/// Reads each complete line of `text` by itself.
pub fn line_by_line(settings: &Settings, text: &[u8]) -> Reading {
    let mut all = Reading::default();
    let mut lines: Vec<&[u8]> = text.split(|byte| *byte == b'\n').collect();
    lines.pop();
    for line in lines {
        let Reading { seen, rejected } = alone(settings, line);
        all.seen.extend(seen);
        for (total, refused) in all.rejected.iter_mut().zip(rejected) {
            *total += refused;
        }
    }
    all
}
