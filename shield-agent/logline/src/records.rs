//! Reads the records of a log: lines as they stand, and lines in a wrapper, whose parts are joined.
//!
//! Parts are not kept over blocks. As long as the end of a line is missing, the block counts as read up to the first part only, so
//! that a checkpoint never falls between two parts, and the parts are read again with what follows.

use memchr::memchr;

use super::fields::Texts;
use super::wrapper::Record;
use super::{Output, PADDING_BYTES, Parser};
use shield_engine::request::{Line, Rejected, RejectedCounts};

/// The place of the first part of an incomplete line, and the output before it.
struct Held {
    at: usize,
    lines: usize,
    rejected: RejectedCounts,
    side_bytes: usize,
}

impl Parser {
    /// Parses the complete lines of `block[from..end]`, which is followed by zeros; returns where the first incomplete one starts.
    pub(super) fn parse_records(
        &mut self,
        block: &[u8],
        from: usize,
        end: usize,
        side: &mut Vec<u8>,
        out: &mut Output,
    ) -> usize {
        self.check_awaited(block.get(from..end).unwrap_or_default());
        let mut texts = Texts::new(block, side);
        let mut held: Option<Held> = None;
        let mut at = from;
        while at < end {
            if self.wrapper.is_settled_bare() {
                at = self.parse_fast(block, at, out);
                at = self.parse_text(block, at, end, &mut texts, out);
            }
            let rest = block.get(at..end).unwrap_or_default();
            let Some(len) = memchr(b'\n', rest) else { break };
            if held.as_ref().is_some_and(|held| at + len + 1 - held.at > self.max_line_bytes) {
                self.give_up(&mut held, out);
            }
            let before =
                Held { at, lines: out.lines.len(), rejected: out.rejected, side_bytes: texts.side_bytes() };
            self.parse_record(rest.get(..len).unwrap_or_default(), Some(block), &mut texts, out);
            at += len + 1;
            if self.wrapper.has_parts() {
                held.get_or_insert(before);
            } else {
                held = None;
            }
        }
        if held.as_ref().is_some_and(|held| end - held.at > self.max_line_bytes) {
            self.give_up(&mut held, out);
        }
        let Some(held) = held else { return at };
        self.wrapper.reread();
        let first = block.get(held.at..at).unwrap_or_default();
        let len = memchr(b'\n', first).unwrap_or(first.len());
        self.awaited = first.get(..len).map(<[u8]>::to_vec);
        out.lines.truncate(held.lines);
        out.rejected = held.rejected;
        texts.truncate_side(held.side_bytes);
        held.at
    }

    /// Parses the lines from `at` on as long as they are as most are; returns the start of the first other one.
    #[inline]
    fn parse_fast(&mut self, block: &[u8], mut at: usize, out: &mut Output) -> usize {
        let mut requests = 0_u32;
        while let Some((line, next)) = self.read_fast(block, at) {
            out.lines.push(line);
            at = next;
            requests = requests.saturating_add(1);
        }
        self.wrapper.note_bare(requests);
        at
    }

    /// Does the same for lines of text.
    #[inline]
    fn parse_text(
        &mut self,
        block: &[u8],
        mut at: usize,
        end: usize,
        texts: &mut Texts<'_>,
        out: &mut Output,
    ) -> usize {
        let mut requests = 0_u32;
        while self.uses_shapes
            && self.text.is_settled()
            && let Some(rest) = block.get(at..end)
            && let Some(len) = memchr(b'\n', rest)
            && let Some(line) = rest.get(..len)
            && len <= self.max_line_bytes
            && let Some(found) = self.text.read_settled(line, &mut self.reader, texts)
        {
            out.lines.push(found);
            at += len + 1;
            requests = requests.saturating_add(1);
        }
        self.wrapper.note_bare(requests);
        at
    }

    /// Parses the last record of a file that is not written to any more, or a record by itself. Before it may stand the parts whose
    /// end the block before lacked; they are refused when it is still missing.
    pub(super) fn parse_last_records(&mut self, text: &[u8], texts: &mut Texts<'_>, out: &mut Output) {
        let has_parts = self.awaited.is_some();
        self.check_awaited(text);
        let is_one = !has_parts || self.wrapper.is_torn();
        for line in text.split(|byte| *byte == b'\n' && !is_one).filter(|line| is_one || !line.is_empty()) {
            self.parse_record(line, None, texts, out);
        }
        if self.wrapper.has_parts() {
            self.give_up(&mut None, out);
        }
    }

    /// Notes that bytes of the log were not parsed, so that what follows may be the end of a line.
    pub fn skipped(&mut self) {
        if !self.wrapper.is_bare() {
            self.wrapper.tear();
        }
    }

    /// When parts are awaited again and other bytes come, they are of another file, which may begin with the line's end.
    fn check_awaited(&mut self, text: &[u8]) {
        if self.awaited.take().is_some_and(|part| !text.starts_with(&part)) {
            self.wrapper.tear();
        }
    }

    fn give_up(&mut self, held: &mut Option<Held>, out: &mut Output) {
        *held = None;
        self.wrapper.tear();
        // Its first part was counted before.
        out.rejected[Rejected::Empty.index()] -= 1;
        out.reject(Rejected::TooLong);
    }

    /// Parses a line. Where it stands in a padded block, the fast reader may read it there.
    fn parse_record(&mut self, line: &[u8], block: Option<&[u8]>, texts: &mut Texts<'_>, out: &mut Output) {
        match self.read_record(line, block, texts) {
            Ok(line) => out.lines.push(line),
            Err(reason) => out.refuse(reason, line),
        }
    }

    fn read_record(
        &mut self,
        line: &[u8],
        block: Option<&[u8]>,
        texts: &mut Texts<'_>,
    ) -> Result<Line, Rejected> {
        if line.len() > self.max_line_bytes {
            self.skipped();
            return Err(Rejected::TooLong);
        }
        let record = self.wrapper.open(line);
        let found = self.read_opened(record, line, block, texts);
        match found {
            Ok(_) => {
                let is_fitting = self.wrapper.is_fitting();
                self.wrapper.note();
                found.and_then(|line| if is_fitting { Ok(line) } else { Err(Rejected::Malformed) })
            }
            // It may be that the log has a wrapper by now.
            Err(_) if self.wrapper.is_bare() && record == Record::Bare => {
                if let Some(record) = self.wrapper.open_refused(line)
                    && self.read_opened(record, line, block, texts).is_ok()
                {
                    self.wrapper.note();
                }
                found
            }
            Err(_) if self.wrapper.is_guess() => Err(Rejected::Empty),
            Err(_) => found,
        }
    }

    fn read_opened(
        &mut self,
        record: Record<'_>,
        line: &[u8],
        block: Option<&[u8]>,
        texts: &mut Texts<'_>,
    ) -> Result<Line, Rejected> {
        match record {
            Record::Bare => self.read_line(line, texts),
            Record::Inside(line) => {
                let fast = block.and_then(|block| {
                    let at = line.as_ptr().addr().checked_sub(block.as_ptr().addr())?;
                    self.read_fast(block, at)
                });
                match fast {
                    Some((line, _)) => Ok(line),
                    None => self.read_inside(line, texts),
                }
            }
            Record::Unwrapped => self.read_unwrapped(texts),
            Record::Part | Record::Aside => Err(Rejected::Empty),
            Record::Torn => Err(Rejected::Malformed),
            Record::TooLong => Err(Rejected::TooLong),
        }
    }

    /// Reads a line that stood in a wrapper.
    fn read_inside(&mut self, line: &[u8], texts: &mut Texts<'_>) -> Result<Line, Rejected> {
        if self.uses_shapes
            && self.text.is_settled()
            && line.len() <= self.max_line_bytes
            && let Some(found) = self.text.read_settled(line, &mut self.reader, texts)
        {
            return Ok(found);
        }
        self.read_line(line, texts)
    }

    fn read_unwrapped(&mut self, texts: &mut Texts<'_>) -> Result<Line, Rejected> {
        let mut text = self.wrapper.take_text();
        let len = text.trim_ascii_end().len();
        text.truncate(len);
        text.push(b'\n');
        text.resize(len + 1 + PADDING_BYTES, 0);
        let found = match self.read_fast(&text, 0) {
            Some((line, _)) => Ok(moved(line, &text, texts)),
            None => self.read_inside(text.get(..len).unwrap_or_default(), texts),
        };
        self.wrapper.restore(text);
        found
    }
}

/// Places the texts of a line that was read from `text` instead of the block.
fn moved(line: Line, text: &[u8], texts: &mut Texts<'_>) -> Line {
    let piece = |at: u32, len: usize| text.get(at as usize..at as usize + len).unwrap_or_default();
    let method = piece(line.method_at, usize::from(line.method_len));
    let path = piece(line.path_at, line.path_len as usize);
    let server = piece(line.server_at, usize::from(line.server_len));
    let peer = piece(line.peer_at, usize::from(line.peer_len));
    Line {
        method_at: texts.place(method),
        path_at: texts.place(path),
        server_at: texts.place(server),
        peer_at: texts.place(peer),
        ..line
    }
}
