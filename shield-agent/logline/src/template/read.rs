//! Reads a line by a compiled format.

use memchr::{memchr, memrchr};

use super::Escape;
use super::compile::{End, PathKind, Piece, Plan, Start};
use super::request;
use super::variable::{Class, TIME_LOCAL_BYTES, Take};
use crate::address::{self, Attributed};
use crate::fields::{MAX_STATUS, Reader, Texts, decimal};
use crate::text::{closing_quote, find, unescape};
use shield_engine::request::{Line, Rejected};
use shield_engine::time::EventSecs;
use std::borrow::Cow;
use std::net::IpAddr;

/// Places at which a text is looked for again when a line does not fit.
const MAX_TRIES: usize = 64;

/// Where the fields of a line are.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spans([(u32, u32); Take::COUNT]);

impl Spans {
    pub(crate) fn none() -> Spans {
        Spans([(0, 0); Take::COUNT])
    }

    #[inline]
    pub(super) fn set(&mut self, take: Take, start: usize, end: usize) {
        // No line is longer: the configuration allows 16 MiB.
        let short = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
        self.0[take as usize] = (short(start), short(end));
    }

    pub(crate) fn of<'l>(&self, take: Take, line: &'l [u8]) -> &'l [u8] {
        let (start, end) = self.bounds(take);
        line.get(start..end).unwrap_or_default()
    }

    #[inline]
    pub(super) fn bounds(&self, take: Take) -> (usize, usize) {
        let (start, end) = self.0[take as usize];
        (start as usize, end as usize)
    }

    /// Moves the start or the end of a field.
    pub(crate) fn change(&mut self, take: Take, text: &[u8], line: &[u8]) {
        let start = text.as_ptr().addr().wrapping_sub(line.as_ptr().addr());
        self.set(take, start, start + text.len());
    }
}

/// The values of a line's fields.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Values {
    pub client: Attributed,
    pub time: EventSecs,
    pub status: u16,
    pub size: u64,
}

impl Plan {
    /// Finds the fields of a line that has this format exactly.
    #[inline]
    pub(crate) fn fit(&self, line: &[u8], spans: &mut Spans) -> Option<()> {
        self.fit_by(line, false, spans)
    }

    /// The same for a line whose status can be one of several: the worst is taken.
    pub(crate) fn fit_worst(&self, line: &[u8], spans: &mut Spans) -> Option<()> {
        self.fit_by(line, true, spans)
    }

    #[inline]
    fn fit_by(&self, line: &[u8], is_worst: bool, spans: &mut Spans) -> Option<()> {
        let at = if self.lead.is_at(line, 0) { self.lead.text.len() } else { return None };
        self.fit_from(0, line, at, is_worst, spans)?;
        is_time_of(self.time, spans.of(Take::Time, line)).then_some(())
    }

    #[inline]
    fn fit_from(
        &self,
        number: usize,
        line: &[u8],
        mut at: usize,
        is_worst: bool,
        spans: &mut Spans,
    ) -> Option<usize> {
        for piece in self.pieces.get(number..)? {
            let then_at = piece.end(line, at)?;
            piece.take(line, at, then_at, is_worst, spans)?;
            at = then_at + piece.then.text.len();
        }
        Some(at)
    }

    /// Finds the fields of a line in which a text of the client's is not escaped as it should be: the first end of that text
    /// with which the rest has the format. `None` also when that would leave two addresses to choose from.
    pub(crate) fn salvage(&self, line: &[u8], is_whole: &dyn Fn(&Spans) -> Option<IpAddr>) -> Option<Spans> {
        let mut at = if self.lead.is_at(line, 0) { self.lead.text.len() } else { return None };
        let mut before = Spans::none();
        for (number, piece) in self.pieces.iter().enumerate() {
            // Before the address only a quote can be out of place: everything else would let a client choose the address.
            let may_move = number > self.addr_piece || matches!(piece.end, End::Quote { .. });
            if may_move && piece.is_clients && !piece.then.text.is_empty() {
                let starts = piece.then.finder.find_iter(line.get(at..)?).take(MAX_TRIES);
                let mut found = starts.filter_map(|start| {
                    let mut spans = before;
                    piece.take(line, at, at + start, false, &mut spans)?;
                    self.fit_from(number + 1, line, at + start + piece.then.text.len(), false, &mut spans)?;
                    is_whole(&spans).map(|addr| (spans, addr))
                });
                if let Some((spans, addr)) = found.next() {
                    let is_certain = number > self.addr_piece || found.all(|(_, other)| other == addr);
                    return is_certain.then_some(spans);
                }
            }
            let then_at = piece.end(line, at)?;
            piece.take(line, at, then_at, false, &mut before)?;
            at = then_at + piece.then.text.len();
        }
        None
    }

    /// Checks the fields.
    pub(crate) fn values(line: &[u8], spans: &Spans, reader: &mut Reader) -> Result<Values, Rejected> {
        let client = attribute(line, spans, reader).ok_or(Rejected::NoAddress)?;
        let time = time(line, spans, reader).ok_or(Rejected::NoTime)?;
        let status = status(spans.of(Take::Status, line)).ok_or(Rejected::NoStatus)?;
        let size = size(spans.of(Take::Size, line)).ok_or(Rejected::Malformed)?;
        Ok(Values { client, time, status, size })
    }

    /// Makes the request of the fields. Only now their texts are placed, so that a line that is refused leaves nothing.
    pub(crate) fn finish(&self, line: &[u8], spans: &Spans, values: &Values, texts: &mut Texts<'_>) -> Line {
        let (method, path) = self.target(line, spans);
        let args = request::without_dash(spans.of(Take::Args, line));
        let (server, peer) = (spans.of(Take::Server, line), spans.of(Take::Realip, line));
        let (method, path, args) = (self.unescaped(method), self.unescaped(path), self.unescaped(args));
        let (path_at, path_len) = if args.is_empty() {
            (texts.place(&path), path.len())
        } else {
            (texts.place_joined(&[&path, b"?", &args]), path.len() + 1 + args.len())
        };
        Line {
            addr: values.client.addr,
            time: values.time,
            method_at: texts.place(&method),
            method_len: u16::try_from(method.len()).unwrap_or(u16::MAX),
            path_at,
            path_len: u32::try_from(path_len).unwrap_or(u32::MAX),
            server_at: texts.place(server),
            server_len: u8::try_from(server.len()).unwrap_or(0),
            peer_at: texts.place(peer),
            peer_len: u8::try_from(peer.len()).unwrap_or(0),
            status: values.status,
            size: values.size,
            behind_proxy: values.client.behind_proxy,
            salvaged: false,
        }
    }

    /// Does the same for fields that have no escapes.
    #[inline]
    pub(super) fn finish_plain(
        &self,
        line: &[u8],
        spans: &Spans,
        values: &Values,
        texts: &mut Texts<'_>,
    ) -> Line {
        let (_, args_end) = spans.bounds(Take::Args);
        if args_end > 0 {
            return self.finish(line, spans, values, texts);
        }
        let (method, path) = self.target(line, spans);
        let (server, peer) = (spans.of(Take::Server, line), spans.of(Take::Realip, line));
        Line {
            addr: values.client.addr,
            time: values.time,
            method_at: texts.place(method),
            method_len: u16::try_from(method.len()).unwrap_or(u16::MAX),
            path_at: texts.place(path),
            path_len: u32::try_from(path.len()).unwrap_or(u32::MAX),
            server_at: texts.place(server),
            server_len: u8::try_from(server.len()).unwrap_or(0),
            peer_at: texts.place(peer),
            peer_len: u8::try_from(peer.len()).unwrap_or(0),
            status: values.status,
            size: values.size,
            behind_proxy: values.client.behind_proxy,
            salvaged: false,
        }
    }

    fn unescaped<'t>(&self, text: &'t [u8]) -> Cow<'t, [u8]> {
        let is_plain = self.escape == Escape::None || find(text, 0, b'\\').is_none();
        if is_plain { Cow::Borrowed(text) } else { unescape(text) }
    }

    fn target<'l>(&self, line: &'l [u8], spans: &Spans) -> (&'l [u8], &'l [u8]) {
        let (method, path) = request::split(spans.of(Take::Request, line));
        let own = |text: &'l [u8], other| if text.is_empty() { other } else { request::without_dash(text) };
        let method = own(spans.of(Take::Method, line), method);
        let path = own(spans.of(Take::Path, line), path);
        (method, self.path.of(path))
    }
}

impl PathKind {
    fn of(self, path: &[u8]) -> &[u8] {
        match self {
            PathKind::Whole => path,
            PathKind::WithArgs => {
                let bare = path.strip_suffix(b"?-").or_else(|| path.strip_suffix(b"?"));
                let no_args = || path.strip_suffix(b"-").filter(|path| !path.contains(&b'?'));
                bare.or_else(no_args).unwrap_or(path)
            }
            PathKind::BehindHost => {
                memchr(b'/', path).and_then(|start| path.get(start..)).unwrap_or_default()
            }
        }
    }
}

impl Piece {
    /// Returns where the text behind the piece begins.
    #[inline]
    fn end(&self, line: &[u8], at: usize) -> Option<usize> {
        let then_at = match self.end {
            End::Byte { byte, back } => find(line, at, byte)?.checked_sub(back)?,
            End::Quote { back } => closing_quote(line, at)?.checked_sub(back)?,
            End::Fixed(len) => at + len,
            End::Line => line.len().checked_sub(self.then.text.len())?,
            End::Open => find(line, at, b' ').unwrap_or(line.len()),
        };
        let is_there = then_at >= at && self.then.is_at(line, then_at);
        is_there.then_some(then_at)
    }

    /// Takes the fields of the piece, which end at `end`.
    #[inline]
    fn take(&self, line: &[u8], at: usize, mut end: usize, is_worst: bool, spans: &mut Spans) -> Option<()> {
        if let Some(guess) = &self.guess {
            return guess.take(line, at, end, is_worst, spans);
        }
        for field in &self.back {
            let start = match field.start {
                Start::Behind { byte, distance } => at + memrchr(byte, line.get(at..end)?)? + distance,
                Start::Fixed(len) => end.checked_sub(len)?,
            };
            let before = start.checked_sub(field.before.text.len()).filter(|before| *before >= at)?;
            if start > end || !field.before.is_at(line, before) {
                return None;
            }
            spans.set(field.take, start, end);
            end = before;
        }
        spans.set(self.first, at, end);
        Some(())
    }
}

/// Tells the forms of a time apart by what they cannot share, so that one is not recognised as another.
#[inline]
pub(super) fn is_time_of(class: Class, text: &[u8]) -> bool {
    match class {
        Class::TimeLocal => text.len() == TIME_LOCAL_BYTES,
        Class::TimeIso => text.get(4) == Some(&b'-'),
        _ => text.get(4).is_some_and(u8::is_ascii_digit),
    }
}

/// Attributes the line to its client.
#[inline]
pub(crate) fn attribute(line: &[u8], spans: &Spans, reader: &Reader) -> Option<Attributed> {
    let (start, end) = spans.bounds(Take::Addr);
    if reader.proxies.is_empty()
        && let Some((addr, len)) = address::leading_ipv4(line.get(start..)?)
        && start + len == end
    {
        return Some(Attributed { addr: IpAddr::V4(addr), behind_proxy: false });
    }
    reader.proxies.attribute(line.get(start..end)?, spans.of(Take::Forwarded, line))
}

#[inline]
fn time(line: &[u8], spans: &Spans, reader: &mut Reader) -> Option<EventSecs> {
    let (start, end) = spans.bounds(Take::Time);
    match reader.times.match_start(line.get(start..)?) {
        Some((secs, len)) if start + len == end => Some(secs),
        _ => reader.times.parse(line.get(start..end)?),
    }
}

#[inline]
pub(crate) fn status(text: &[u8]) -> Option<u16> {
    u16::try_from(decimal(text)?).ok().filter(|status| *status <= MAX_STATUS)
}

/// Reads a size; a missing one and `-` are 0.
#[inline]
pub(crate) fn size(text: &[u8]) -> Option<u64> {
    if matches!(text, b"" | b"-") { Some(0) } else { decimal(text) }
}
