//! Readers of access-log lines: the bytes of a log become [`Line`]s, or counts of refused lines by reason.
//!
//! Each log has one [`Parser`]. It owns everything about the text of a line and nothing about where lines come from. Three
//! readers try a JSON line in this order: `shape` (the fixed shape learned from earlier lines, without allocating), `json`
//! (serde_json, strict), `loose` (tolerant: a client can break a line that nginx wrote without `escape=json`, and must not
//! become invisible by it). The first two give identical results wherever both read a line, which the tests and the fuzz
//! target `differential` check. `names` knows which field is which. `template` reads lines of text. `wrapper` knows what
//! containers put around a line, and `records` reads line after line. `sight` judges by what
//! was read whether the log can be used at all.
//!
//! Texts are returned unescaped. Nearly always such a text is a piece of the block itself; where a backslash makes the two
//! differ, the unescaped text is appended to the block, so that a [`Line`] needs offsets only.

mod address;
mod fields;
mod json;
mod known;
mod loose;
mod names;
mod records;
mod shape;
pub mod sight;
pub mod stream;
pub mod syslog;
mod target;
mod template;
#[cfg(test)]
mod tests;
mod text;
mod time;
mod walk;
mod wrapper;

use std::borrow::Cow;
use std::sync::Arc;

use ipnet::IpNet;
use serde::{Serialize, Serializer};

pub use address::TrustedProxies;
pub use fields::FieldNames;
pub use template::{Advice, Escape, Missing, Recipe, Template, Unusable, advise};

use fields::{Field, Reader, Texts};
use names::Names;
use shape::Learner;
use shield_engine::request::{Line, RefusedLine, Rejected, RejectedCounts};
use template::TextReader;
use time::TimeCache;
use walk::{Step, Walker};
use wrapper::{Record, Wrapper};

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
#[derive(Debug, Clone, PartialEq)]
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
    /// The first of the refused lines that are not empty.
    pub first_refused: Option<RefusedLine>,
    /// The name of the format that the requests were read by.
    pub format: Option<&'static str>,
    /// Bytes of all these lines, newlines included.
    pub bytes: u64,
}

impl Output {
    /// Counts a refused line.
    pub fn reject(&mut self, reason: Rejected) {
        self.rejected[reason.index()] += 1;
    }

    /// Counts a refused line and keeps the first.
    fn refuse(&mut self, reason: Rejected, line: &[u8]) {
        self.reject(reason);
        if self.first_refused.is_none() && reason != Rejected::Empty {
            self.first_refused = Some(RefusedLine::new(reason, line));
        }
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
    given: FieldNames,
    /// The names in `reader` are those of a line of this log.
    has_names: bool,
    wrapper: Wrapper,
    /// The first part of a line whose end was missing in the block before.
    awaited: Option<Vec<u8>>,
    uses_shapes: bool,
}

impl Parser {
    /// Makes a parser that has not seen a line yet.
    pub fn new(settings: &Settings) -> Parser {
        let proxies = TrustedProxies::new(settings.trusted_proxies.clone());
        Parser {
            format: settings.format.clone(),
            text: TextReader::new(&settings.format),
            max_line_bytes: settings.max_line_bytes,
            learner: Learner::new(!proxies.is_empty()),
            reader: Reader { names: Names::unknown(&settings.fields), proxies, times: TimeCache::default() },
            given: settings.fields.clone(),
            has_names: false,
            wrapper: Wrapper::new(settings.max_line_bytes),
            awaited: None,
            uses_shapes: true,
        }
    }

    /// Returns the name of the text format that the lines have; `None` for JSON, and before it is known.
    pub fn recognised(&self) -> Option<&'static str> {
        self.text.recognised()
    }

    /// Makes a parser that reads every line by the slow readers, to compare the fast one with.
    pub fn without_shapes(settings: &Settings) -> Parser {
        Parser { uses_shapes: false, ..Parser::new(settings) }
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
        let upto = self.parse_records(block, from, end, &mut side, out);
        out.bytes += upto.saturating_sub(from) as u64;
        self.name_format(out);
        block.extend_from_slice(&side);
        upto
    }

    /// Parses `block[from..end]` as one line: a datagram, or the last line of a file that is not written to any more. In a
    /// container's log it may be several parts of a line, behind which the last one is missing.
    pub fn parse_single(&mut self, block: &mut Vec<u8>, from: usize, end: usize, out: &mut Output) {
        let mut side = Vec::new();
        let mut texts = Texts::new(block, &mut side);
        let line = block.get(from..end).unwrap_or_default();
        out.bytes += line.len() as u64;
        self.parse_last_records(line, &mut texts, out);
        self.name_format(out);
        block.extend_from_slice(&side);
    }

    fn name_format(&self, out: &mut Output) {
        if !out.lines.is_empty() {
            out.format = self.recognised().or_else(|| self.has_names.then_some("JSON"));
        }
    }

    /// Reads the line at `at` if it is one as most of this log's lines are; returns it with the start of the next one.
    #[inline]
    fn read_fast(&mut self, block: &[u8], at: usize) -> Option<(Line, usize)> {
        if !self.uses_shapes {
            return None;
        }
        self.learner.read(block, at, self.max_line_bytes, &mut self.reader)
    }

    fn read_line(&mut self, line: &[u8], texts: &mut Texts<'_>) -> Result<Line, Rejected> {
        if line.len() > self.max_line_bytes {
            return Err(Rejected::TooLong);
        }
        let text = line.trim_ascii();
        if let Format::Template(_) = self.format
            && !text.is_empty()
        {
            // Its first or last field may be empty, and it may itself begin like a header of syslog.
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            return self.text.read(line, &mut self.reader, texts);
        }
        let bare = syslog::without_header(text);
        let (line, text) = bare.map_or((line, text), |bare| (bare, bare));
        let is_json = match self.format {
            Format::Auto => text.first() == Some(&b'{'),
            Format::Json => true,
            Format::Combined | Format::Common | Format::Template(_) => false,
        };
        match (text.is_empty(), is_json) {
            (true, _) => Err(Rejected::Empty),
            (false, true) => self.read_json(line, texts),
            // A blank at its start may stand behind an empty first field.
            (false, false) => self.text.read(line.trim_ascii_end(), &mut self.reader, texts),
        }
    }

    fn read_json(&mut self, line: &[u8], texts: &mut Texts<'_>) -> Result<Line, Rejected> {
        if !self.has_names {
            self.find_names(line);
        }
        let mut trusted = json::read(line, &self.reader.names);
        if trusted.is_none() && self.has_names && self.find_names(line) {
            trusted = json::read(line, &self.reader.names);
        }
        let Some(raw) = trusted else {
            let raw = loose::read(line, &self.reader);
            let any = [Field::Addr, Field::Time, Field::Status].iter().any(|field| raw.get(*field).is_some());
            let found =
                self.reader.finish(&raw, texts).map_err(|why| if any { why } else { Rejected::Malformed })?;
            return Ok(Line { salvaged: !self.is_valid_but_for_utf8(line), ..found });
        };
        let found = self.reader.finish(&raw, texts);
        let found = match found {
            // The log may have lines of another format too, or from now on.
            Err(_) if self.has_names && self.find_names(line) => {
                let raw = json::read(line, &self.reader.names);
                self.reader.finish(&raw.unwrap_or_default(), texts)?
            }
            found => found?,
        };
        // A shape known before the names would keep them from being found.
        if self.has_names {
            self.learner.learn(line, &self.reader.names);
        }
        Ok(found)
    }

    /// Takes the names of the fields from a line; returns false when it does not have them all.
    fn find_names(&mut self, line: &[u8]) -> bool {
        let Some(values) = json::values(line) else { return false };
        let before = Some(&self.reader.names).filter(|_| self.has_names);
        let Some(names) = Names::of_line(&self.given, &values, before) else { return false };
        if names != self.reader.names {
            self.learner.forget();
            self.reader.names = names;
        }
        self.has_names = true;
        true
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

/// Returns the names of everything in a JSON line, inside a wrapper too, for a message about a line without a client's address.
/// Of a line that is cut off those before the cut; empty for a line that is no JSON object.
pub fn names_in(line: &[u8]) -> Vec<String> {
    let mut wrapper = Wrapper::new(line.len());
    let record = wrapper.open(line);
    let text = wrapper.take_text();
    let inside = match record {
        Record::Inside(inside) => inside,
        Record::Unwrapped => &text,
        _ => line,
    };
    let mut names: Vec<String> = Vec::new();
    let mut walker = Walker::new(inside);
    while let Step::Value(_) = walker.next() {
        let name = String::from_utf8_lossy(walker.path()).into_owned();
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}
