//! What the agent's reader makes of bytes, in a form that can be compared, and what must hold of it in any case.

use std::net::IpAddr;

use shield_engine::request::{Line, Rejected, RejectedCounts};
use shield_logline::{Output, Parser, Settings};

/// The most statuses can be.
const MAX_STATUS: u16 = 999;

/// Bytes behind a block that the reader may use as it likes.
const PADDING_BYTES: usize = 64;

/// One line, its texts taken out of the block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// The line with its offsets struck out.
    pub line: Line,
    /// The method.
    pub method: Vec<u8>,
    /// The path.
    pub path: Vec<u8>,
}

/// All that came out of some bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reading {
    /// The requests.
    pub seen: Vec<Seen>,
    /// The lines that were none.
    pub rejected: RejectedCounts,
}

impl Reading {
    /// Takes up what a parser put into `out` from `block`.
    pub fn take(&mut self, block: &[u8], out: &Output) {
        self.seen.extend(out.lines.iter().map(|line| seen(line, block)));
        for (total, refused) in self.rejected.iter_mut().zip(out.rejected) {
            *total += refused;
        }
    }

    /// Lines of either kind.
    pub fn count(&self) -> usize {
        self.seen.len() + self.rejected.iter().sum::<u64>() as usize
    }

    /// The reason why the only line was refused.
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

/// All complete lines of `text` as one block.
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

/// One line by a parser that has seen nothing before: the slow and strict readers alone.
pub fn alone(settings: &Settings, line: &[u8]) -> Reading {
    let (mut block, mut out) = (line.to_vec(), Output::default());
    Parser::new(settings).parse_single(&mut block, 0, line.len(), &mut out);
    let mut reading = Reading::default();
    reading.take(&block, &out);
    assert_eq!(reading.count(), 1, "one line");
    reading
}

/// Each complete line of `text` read by itself.
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
