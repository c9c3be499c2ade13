//! Readers of access-log lines: the bytes of a log become [`Line`]s, or counts of refused lines by reason.
//!
//! Each log has one [`Parser`]. It owns everything about the text of a line and nothing about where lines come from. Three
//! readers try a JSON line in this order: `shape` (the fixed shape learned from earlier lines, without allocating), `json`
//! (serde_json, strict), `loose` (tolerant: a client can break a line that nginx wrote without `escape=json`, and must not
//! become invisible by it). The first two give identical results wherever both read a line, which the tests and the fuzz
//! target `differential` check. `template` reads lines of text.
//!
//! Texts are returned unescaped. Nearly always such a text is a piece of the block itself; where a backslash makes the two
//! differ, the unescaped text is appended to the block, so that a [`Line`] needs offsets only.

mod address;
mod fields;
mod json;
mod loose;
mod shape;
pub mod stream;
pub mod syslog;
mod template;
#[cfg(test)]
mod tests;
mod text;
mod time;

use std::borrow::Cow;
use std::sync::Arc;

use ipnet::IpNet;
use memchr::memchr;
use serde::{Serialize, Serializer};

pub use address::TrustedProxies;
pub use fields::FieldNames;
pub use template::{Escape, Missing, Recipe, Template, Unusable};

use fields::{Reader, Texts};
use shape::Learner;
use shield_engine::request::{Line, Rejected, RejectedCounts};
use template::TextReader;
use time::TimeCache;

/// Zero bytes that follow a block while it is parsed, so that a scan by words stays inside it without checking each byte.
const PADDING_BYTES: usize = 64;

/// The format of a source's lines.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Format {
    /// JSON when a line starts with `{`, otherwise one of the known text formats; decided for each line.
    #[default]
    Auto,
    /// One JSON object a line.
    Json,
    /// nginx's and Apache's `combined`.
    Combined,
    /// The common log format (`combined` without referer and agent).
    Common,
    /// A `log_format` of nginx's.
    Template(Arc<Template>),
}

impl Serialize for Format {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Format::Auto => serializer.serialize_str("auto"),
            Format::Json => serializer.serialize_str("json"),
            Format::Combined => serializer.serialize_str("combined"),
            Format::Common => serializer.serialize_str("common"),
            Format::Template(template) => template.serialize(serializer),
        }
    }
}

/// The settings of a parser.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The format of the lines.
    pub format: Format,
    /// The names of the JSON fields.
    pub fields: FieldNames,
    /// Proxies whose `X-Forwarded-For` is trusted.
    pub trusted_proxies: Vec<IpNet>,
    /// Longer lines, in bytes without their newline, are refused.
    pub max_line_bytes: usize,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            format: Format::Auto,
            fields: FieldNames::default(),
            trusted_proxies: Vec::new(),
            max_line_bytes: 64 * 1024,
        }
    }
}

/// The result of parsing a block.
#[derive(Debug, Clone, Default)]
pub struct Output {
    /// The requests, in order.
    pub lines: Vec<Line>,
    /// Refused lines, by reason.
    pub rejected: RejectedCounts,
    /// Bytes of all these lines, newlines included.
    pub bytes: u64,
}

impl Output {
    /// Counts a refused line.
    pub fn reject(&mut self, reason: Rejected) {
        self.rejected[reason.index()] += 1;
    }
}

/// The parser of one log, which learns the shape of its lines.
#[derive(Debug)]
pub struct Parser {
    format: Format,
    text: TextReader,
    max_line_bytes: usize,
    reader: Reader,
    learner: Learner,
}

impl Parser {
    /// Makes a parser that has not seen a line yet.
    pub fn new(settings: &Settings) -> Parser {
        let proxies = TrustedProxies::new(settings.trusted_proxies.clone());
        Parser {
            format: settings.format.clone(),
            text: TextReader::new(&settings.format),
            max_line_bytes: settings.max_line_bytes,
            learner: Learner::new(&settings.fields, !proxies.is_empty()),
            reader: Reader { names: settings.fields.clone(), proxies, times: TimeCache::default() },
        }
    }

    /// Returns the name of the text format that the lines have; `None` for JSON, and before it is known.
    pub fn recognised(&self) -> Option<&'static str> {
        self.text.recognised()
    }

    /// Parses every complete line of `block[from..end]` and returns where the first incomplete one starts.
    ///
    /// The offsets of the lines found are those of `block`, to which unescaped text is appended. The bytes behind `end` are
    /// overwritten.
    pub fn parse_block(&mut self, block: &mut Vec<u8>, from: usize, end: usize, out: &mut Output) -> usize {
        let padded = end + PADDING_BYTES;
        if block.len() < padded {
            block.resize(padded, 0);
        }
        block.get_mut(end..padded).expect("the block was just made long enough").fill(0);
        let mut side = Vec::new();
        let upto = self.parse_padded(block, from, end, &mut side, out);
        out.bytes += upto.saturating_sub(from) as u64;
        block.extend_from_slice(&side);
        upto
    }

    /// Parses `block[from..end]` as one line: a datagram, or the last line of a file that is not written to any more.
    pub fn parse_single(&mut self, block: &mut Vec<u8>, from: usize, end: usize, out: &mut Output) {
        let mut side = Vec::new();
        let mut texts = Texts::new(block, &mut side);
        let line = block.get(from..end).unwrap_or_default();
        out.bytes += line.len() as u64;
        self.parse_line(line, &mut texts, out);
        block.extend_from_slice(&side);
    }

    fn parse_padded(
        &mut self,
        block: &[u8],
        from: usize,
        end: usize,
        side: &mut Vec<u8>,
        out: &mut Output,
    ) -> usize {
        let mut texts = Texts::new(block, side);
        let mut at = from;
        while at < end {
            if let Some((line, next)) = self.learner.read(block, at, self.max_line_bytes, &mut self.reader) {
                out.lines.push(line);
                at = next;
                continue;
            }
            let rest = block.get(at..end).unwrap_or_default();
            let Some(len) = memchr(b'\n', rest) else { break };
            self.parse_line(rest.get(..len).unwrap_or_default(), &mut texts, out);
            at += len + 1;
        }
        at
    }

    fn parse_line(&mut self, line: &[u8], texts: &mut Texts<'_>, out: &mut Output) {
        match self.read_line(line, texts) {
            Ok(line) => out.lines.push(line),
            Err(reason) => out.reject(reason),
        }
    }

    fn read_line(&mut self, line: &[u8], texts: &mut Texts<'_>) -> Result<Line, Rejected> {
        if line.len() > self.max_line_bytes {
            return Err(Rejected::TooLong);
        }
        let text = line.trim_ascii();
        // A configured format may begin like such a header itself.
        let bare = match self.format {
            Format::Template(_) => None,
            _ => syslog::without_header(text),
        };
        let (line, text) = bare.map_or((line, text), |bare| (bare, bare));
        let is_json = match self.format {
            Format::Auto => text.first() == Some(&b'{'),
            Format::Json => true,
            Format::Combined | Format::Common | Format::Template(_) => false,
        };
        match (text.is_empty(), is_json) {
            (true, _) => Err(Rejected::Empty),
            (false, true) => self.read_json(line, texts),
            (false, false) => self.text.read(text, &mut self.reader, texts),
        }
    }

    fn read_json(&mut self, line: &[u8], texts: &mut Texts<'_>) -> Result<Line, Rejected> {
        let Some(raw) = json::read(line, &self.reader.names) else {
            let raw = loose::read(line, &self.reader);
            let any = raw.addr.is_some() || raw.time.is_some() || raw.status.is_some();
            let found =
                self.reader.finish(&raw, texts).map_err(|why| if any { why } else { Rejected::Malformed })?;
            return Ok(Line { salvaged: !self.is_valid_but_for_utf8(line), ..found });
        };
        let found = self.reader.finish(&raw, texts)?;
        self.learner.learn(line);
        Ok(found)
    }

    /// Returns whether only bytes that are not UTF-8 make the line invalid. nginx writes them as they came, even with
    /// `escape=json`, so they are data and no attempt to hide.
    fn is_valid_but_for_utf8(&self, line: &[u8]) -> bool {
        match String::from_utf8_lossy(line) {
            Cow::Owned(repaired) => json::read(repaired.as_bytes(), &self.reader.names).is_some(),
            Cow::Borrowed(_) => false,
        }
    }
}
