//! The wrappers that container runtimes and journald put around the lines of a program:
//!
//! - Docker's `json-file`: `{"log":"LINE\n","stream":"stdout","time":"…"}`. A part of a line has no `\n` at its end.
//! - CRI (Kubernetes, Podman): `TIME stdout F LINE`, with `P` instead of `F` for a part.
//! - journald's JSON (`journalctl -o json`): the line is the field `MESSAGE`, a text or an array of bytes.
//!
//! A log has one wrapper, or none, for good: its first request decides. Some formats begin with a header, so that a client could
//! write a wrapper of its own, and behind it a whole line about somebody else.
//!
//! The first request also decides which of a container's two streams is read. The other one is no access log: nginx writes its
//! error log there.
//!
//! For the same reason the end of a line whose beginning is missing is never read as a line: a client chooses where a long
//! line of its own is cut.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::text::unescape_until_quote;

/// Requests of another kind in a row, at least, before a log is taken to be of that kind. A log that was read for long takes
/// as many of them as were read, up to [`MAX_MISSES`].
const MIN_MISSES: u32 = 32;
const MAX_MISSES: u32 = 10_000;

/// Around the lines of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Bare,
    Docker(Stream),
    Cri(Stream),
    Journal,
}

/// A stream of a container's main program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stream {
    Out,
    Err,
}

impl Kind {
    /// Returns the stream that the requests come from.
    fn stream(self) -> Option<Stream> {
        match self {
            Kind::Docker(stream) | Kind::Cri(stream) => Some(stream),
            Kind::Bare | Kind::Journal => None,
        }
    }
}

/// What a line of the log is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Record<'a> {
    /// No wrapper: the line is the server's own.
    Bare,
    /// The server's line, as it stands in the log's.
    Inside(&'a [u8]),
    /// The server's line, see [`Wrapper::take_text`].
    Unwrapped,
    /// The part of a line that goes on in the next record.
    Part,
    /// Of the stream that is no access log.
    Aside,
    /// The end of a line whose beginning is missing.
    Torn,
    /// A line whose parts together are too long.
    TooLong,
}

/// Unwraps the lines of one log.
#[derive(Debug)]
pub(crate) struct Wrapper {
    kind: Option<Kind>,
    /// Requests read of this kind.
    confirmed: u32,
    /// Requests of another kind since.
    misses: u32,
    /// The kind of the present line.
    present: Kind,
    max_line_bytes: usize,
    /// The unwrapped line, or its parts so far.
    text: Vec<u8>,
    has_parts: bool,
    /// The beginning of the present line is missing.
    is_torn: bool,
    /// The error stream is inside a line.
    is_aside_open: bool,
    /// The present line is of the error stream of a log whose stream is not known yet.
    is_guess: bool,
}

impl Wrapper {
    /// Makes one that has not seen a line.
    pub(crate) fn new(max_line_bytes: usize) -> Wrapper {
        Wrapper {
            kind: None,
            confirmed: 0,
            misses: 0,
            present: Kind::Bare,
            max_line_bytes,
            text: Vec::new(),
            has_parts: false,
            is_torn: false,
            is_aside_open: false,
            is_guess: false,
        }
    }

    /// Returns whether the log's lines may be read without a look at their wrapper.
    #[inline]
    pub(crate) fn is_bare(&self) -> bool {
        self.kind.is_none_or(|kind| kind == Kind::Bare)
    }

    /// Returns whether the log is known to have no wrapper.
    #[inline]
    pub(crate) fn is_settled_bare(&self) -> bool {
        self.kind == Some(Kind::Bare)
    }

    /// Returns whether the next record may be the end of a line whose beginning is missing.
    pub(crate) fn is_torn(&self) -> bool {
        self.is_torn
    }

    /// Returns whether the line opened last may be something else than a request without a loss.
    pub(crate) fn is_guess(&self) -> bool {
        self.is_guess
    }

    /// Takes out the line of a [`Record::Unwrapped`], whose room is given back with [`Wrapper::restore`].
    pub(crate) fn take_text(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.text)
    }

    /// Gives back the room of [`Wrapper::take_text`].
    pub(crate) fn restore(&mut self, text: Vec<u8>) {
        self.text = text;
    }

    /// Parts of a line were read whose end was not.
    pub(crate) fn has_parts(&self) -> bool {
        self.has_parts
    }

    /// Forgets the parts read so far: they are read again with the rest.
    pub(crate) fn reread(&mut self) {
        self.has_parts = false;
    }

    /// Gives up the parts read so far: the rest of their line is no line of its own.
    pub(crate) fn tear(&mut self) {
        self.has_parts = false;
        self.is_torn = true;
    }

    /// Notes requests that were read without a look at their wrapper, because the log has none.
    pub(crate) fn note_bare(&mut self, requests: u32) {
        if requests > 0 {
            self.misses = 0;
            self.confirmed = self.confirmed.saturating_add(requests);
        }
    }

    /// Notes that the line opened last was a request.
    pub(crate) fn note(&mut self) {
        match self.kind {
            Some(kind) if kind == self.present => {
                self.misses = 0;
                self.confirmed = self.confirmed.saturating_add(1);
            }
            Some(_) => {
                self.misses += 1;
                if self.misses >= self.confirmed.clamp(MIN_MISSES, MAX_MISSES) {
                    self.settle();
                }
            }
            None => self.settle(),
        }
    }

    fn settle(&mut self) {
        self.kind = Some(self.present);
        self.confirmed = 1;
        self.misses = 0;
    }

    /// Returns whether the line opened last is of the log's kind, so that it counts when it is a request.
    pub(crate) fn is_fitting(&self) -> bool {
        self.kind.is_none_or(|kind| kind == self.present)
    }

    /// Opens a line of the log, without its newline.
    pub(crate) fn open<'a>(&mut self, line: &'a [u8]) -> Record<'a> {
        self.is_guess = false;
        let record = match self.kind {
            Some(Kind::Bare) => None,
            Some(Kind::Docker(_)) => self.open_docker(line),
            Some(Kind::Cri(_)) => self.open_cri(line),
            Some(Kind::Journal) => self.open_journal(line),
            None => self.open_any(line),
        };
        if record.is_none() {
            self.present = Kind::Bare;
        }
        record.unwrap_or(Record::Bare)
    }

    /// Opens a line that is no request as it stands, in a log without a wrapper so far.
    pub(crate) fn open_refused<'a>(&mut self, line: &'a [u8]) -> Option<Record<'a>> {
        let record = self.open_any(line);
        self.has_parts = false;
        self.is_guess = false;
        record
    }

    fn open_any<'a>(&mut self, line: &'a [u8]) -> Option<Record<'a>> {
        self.open_docker(line).or_else(|| self.open_cri(line)).or_else(|| self.open_journal(line))
    }

    fn open_docker<'a>(&mut self, line: &'a [u8]) -> Option<Record<'a>> {
        let Some(text) = line.strip_prefix(b"{\"log\":\"") else { return self.open_docker_like(line) };
        let from = self.begin();
        let rest = unescape_until_quote(text, &mut self.text);
        let stream = rest.and_then(|rest| match rest.strip_prefix(b",\"stream\":\"std")? {
            [b'o', b'u', b't', b'"', ..] => Some(Stream::Out),
            [b'e', b'r', b'r', b'"', ..] => Some(Stream::Err),
            _ => None,
        });
        let Some(stream) = stream else {
            self.text.truncate(from);
            return self.open_docker_like(line);
        };
        self.present = Kind::Docker(stream);
        let is_part = self.text.last() != Some(&b'\n');
        Some(self.of_stream(stream, from, is_part))
    }

    /// Reads Docker's record as log shippers write it again: with blanks, or its fields in another order.
    fn open_docker_like<'a>(&mut self, line: &'a [u8]) -> Option<Record<'a>> {
        #[derive(Deserialize)]
        struct Shipped<'a> {
            #[serde(borrow)]
            log: std::borrow::Cow<'a, str>,
            stream: &'a str,
        }
        let is_candidate = line.starts_with(b"{")
            && memchr::memmem::find(line, b"\"log\"").is_some()
            && memchr::memmem::find(line, b"\"stream\"").is_some();
        let shipped: Shipped<'_> = serde_json::from_slice(is_candidate.then_some(line)?).ok()?;
        let stream = match shipped.stream {
            "stdout" => Stream::Out,
            "stderr" => Stream::Err,
            _ => return None,
        };
        let from = self.begin();
        self.text.extend_from_slice(shipped.log.as_bytes());
        self.present = Kind::Docker(stream);
        let is_part = self.text.last() != Some(&b'\n');
        Some(self.of_stream(stream, from, is_part))
    }

    fn open_cri<'a>(&mut self, line: &'a [u8]) -> Option<Record<'a>> {
        let (stream, is_part, text) = cri_header(line)?;
        self.present = Kind::Cri(stream);
        let from = self.begin();
        if from == 0 && !is_part && !self.is_torn && self.is_read(stream) && !self.is_aside_open {
            self.is_guess = stream == Stream::Err && self.kind.is_none();
            return Some(Record::Inside(text));
        }
        self.text.extend_from_slice(text);
        Some(self.of_stream(stream, from, is_part))
    }

    /// Makes room for a text behind the parts read so far; returns where it begins.
    fn begin(&mut self) -> usize {
        if !self.has_parts {
            self.text.clear();
        }
        self.text.len()
    }

    /// Returns whether requests may come from this stream.
    fn is_read(&self, stream: Stream) -> bool {
        self.kind.and_then(Kind::stream).is_none_or(|ours| ours == stream)
    }

    /// Takes the record whose text was appended at `from`.
    fn of_stream(&mut self, stream: Stream, from: usize, is_part: bool) -> Record<'static> {
        let is_certain = self.kind.is_some() || stream == Stream::Out;
        if self.is_read(stream) && is_certain {
            return self.joined(is_part);
        }
        // Not joined while it is not known whether it matters.
        let is_rest = std::mem::replace(&mut self.is_aside_open, is_part);
        if !self.is_read(stream) || is_part || is_rest || self.has_parts {
            self.text.truncate(from);
            return Record::Aside;
        }
        self.is_guess = true;
        Record::Unwrapped
    }

    fn open_journal<'a>(&mut self, line: &'a [u8]) -> Option<Record<'a>> {
        let is_candidate = line.starts_with(b"{") && memchr::memmem::find(line, b"\"MESSAGE\"").is_some();
        let entry: Entry<'_> = serde_json::from_slice(is_candidate.then_some(line)?).ok()?;
        // Every entry of a journal has at least one of these, and hardly another log.
        entry.realtime.or(entry.cursor)?;
        self.present = Kind::Journal;
        self.begin();
        let message = entry.message.get();
        match message.as_bytes().first() {
            Some(b'"') => {
                let text: String = serde_json::from_str(message).ok()?;
                self.text.extend_from_slice(text.as_bytes());
            }
            Some(b'[') => {
                let bytes: Vec<u8> = serde_json::from_str(message).ok()?;
                self.text.extend_from_slice(&bytes);
            }
            // Left out by journald, because it is too long.
            _ => return Some(Record::TooLong),
        }
        Some(self.joined(entry.line_break == Some("line-max")))
    }

    fn joined(&mut self, is_part: bool) -> Record<'static> {
        if self.is_torn {
            self.text.clear();
            self.has_parts = false;
            self.is_torn = is_part;
            return if is_part { Record::Aside } else { Record::Torn };
        }
        if self.text.len() > self.max_line_bytes {
            self.text.clear();
            self.has_parts = false;
            self.is_torn = is_part;
            return Record::TooLong;
        }
        self.has_parts = is_part;
        if is_part { Record::Part } else { Record::Unwrapped }
    }
}

/// An entry of the journal. Everything else in it is ignored.
#[derive(Deserialize)]
struct Entry<'a> {
    #[serde(rename = "MESSAGE", borrow)]
    message: &'a RawValue,
    #[serde(rename = "__REALTIME_TIMESTAMP", borrow)]
    realtime: Option<&'a RawValue>,
    #[serde(rename = "__CURSOR", borrow)]
    cursor: Option<&'a RawValue>,
    #[serde(rename = "_LINE_BREAK")]
    line_break: Option<&'a str>,
}

/// Splits `TIME STREAM TAG TEXT` into the stream, whether it is a part, and the text.
fn cri_header(line: &[u8]) -> Option<(Stream, bool, &[u8])> {
    let [_, _, _, _, b'-', _, _, b'-', _, _, b'T', ..] = line else { return None };
    let head = line.get(..line.len().min(48))?;
    let time_end = head.iter().position(|byte| *byte == b' ')?;
    let (stream, rest) = match line.get(time_end..)? {
        [b' ', b's', b't', b'd', b'o', b'u', b't', b' ', rest @ ..] => (Stream::Out, rest),
        [b' ', b's', b't', b'd', b'e', b'r', b'r', b' ', rest @ ..] => (Stream::Err, rest),
        _ => return None,
    };
    let is_part = *rest.first()? == b'P';
    match rest {
        [b'F' | b'P'] => Some((stream, is_part, b"")),
        [b'F' | b'P', b' ', text @ ..] => Some((stream, is_part, text)),
        [b'F' | b'P', b':', more @ ..] => {
            let tags = more.iter().position(|byte| *byte == b' ').unwrap_or(more.len());
            Some((stream, is_part, more.get(tags + 1..).unwrap_or_default()))
        }
        _ => None,
    }
}
