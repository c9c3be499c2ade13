//! The fast reader of JSON lines. The lines of an access log have one fixed shape; it is learned once and then scanned for.
//!
//! A shape is the text of a line with slots in place of the values. It is learned from a line that the strict reader
//! accepted. A line that differs in anything (another order, an escape, a byte that is not printable ASCII, a number that is
//! not plain digits) is left to the strict reader; a line read here gives the same result as there. `tests.rs` compares
//! the two.

use std::net::IpAddr;

use super::address;
use super::fields::{Field, MAX_STATUS, Reader};
use super::names::Names;
use super::target;
use super::time;
use super::walk::{Step, Walker};
use shield_engine::request::Line;
use shield_engine::time::EventSecs;

/// Lines of another shape in a row before it replaces the learned one. More than one, because a single odd line must not
/// evict the shape of all others.
const MISSES_TO_RELEARN: u32 = 4;

/// Values of a shape at most. Longer lines, beyond any real log format, are left to the strict reader.
const MAX_SLOTS: usize = 1024;

/// Learns the shape of a log's lines, and reads those that have it.
#[derive(Debug)]
pub(crate) struct Learner {
    reads_chains: bool,
    shape: Option<Shape>,
    misses: u32,
}

impl Learner {
    /// Makes a learner that has not seen a line. Chains are read only where a proxy is trusted.
    pub(crate) fn new(reads_chains: bool) -> Learner {
        Learner { reads_chains, shape: None, misses: 0 }
    }

    /// Forgets the shape: its fields have other names now.
    pub(crate) fn forget(&mut self) {
        self.shape = None;
    }

    /// Reads the line at `at` if it has the learned shape; returns it with the start of the next one.
    #[inline]
    pub(crate) fn read(
        &mut self,
        block: &[u8],
        at: usize,
        max_bytes: usize,
        reader: &mut Reader,
    ) -> Option<(Line, usize)> {
        let (line, next) = self.shape.as_ref()?.read(block, at, reader)?;
        self.misses = 0;
        (next - at <= max_bytes).then_some((line, next))
    }

    /// Learns from a line that only the strict reader could read.
    pub(crate) fn learn(&mut self, line: &[u8], names: &Names) {
        self.misses += 1;
        if self.shape.is_none() || self.misses >= MISSES_TO_RELEARN {
            self.misses = 0;
            self.shape = Shape::of(line, names, self.reads_chains).or(self.shape.take());
        }
    }
}

/// The fixed text before the first value, then a slot for each value with the fixed text after it.
#[derive(Debug, PartialEq)]
struct Shape {
    lead: Literal,
    slots: Vec<Slot>,
}

#[derive(Debug, PartialEq)]
struct Slot {
    kind: Kind,
    /// The fixed text up to the next value or through the newline, the value's closing quote included.
    then: Literal,
}

/// The field of a slot, and whether the value is quoted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Addr,
    QuotedTime,
    BareTime,
    Method,
    Path,
    Request,
    Peer,
    QuotedStatus,
    BareStatus,
    QuotedSize,
    BareSize,
    Forwarded,
    Server,
    Realip,
    QuotedOther,
    BareOther,
}

impl Kind {
    fn of(field: Option<Field>, is_quoted: bool) -> Option<Kind> {
        Some(match (field, is_quoted) {
            (Some(Field::Addr), true) => Kind::Addr,
            (Some(Field::Time), true) => Kind::QuotedTime,
            (Some(Field::Time), false) => Kind::BareTime,
            (Some(Field::Method), true) => Kind::Method,
            (Some(Field::Path), true) => Kind::Path,
            (Some(Field::Request), true) => Kind::Request,
            (Some(Field::Peer), true) => Kind::Peer,
            (Some(Field::Status), true) => Kind::QuotedStatus,
            (Some(Field::Status), false) => Kind::BareStatus,
            (Some(Field::Size), true) => Kind::QuotedSize,
            (Some(Field::Size), false) => Kind::BareSize,
            (Some(Field::Forwarded), true) => Kind::Forwarded,
            (Some(Field::Server), true) => Kind::Server,
            (Some(Field::Realip), true) => Kind::Realip,
            (None, true) => Kind::QuotedOther,
            (None, false) => Kind::BareOther,
            (Some(_), false) => return None,
        })
    }
}

impl Shape {
    /// Derives the shape of a line that the strict reader accepted; `None` when a value is not plain.
    fn of(line: &[u8], names: &Names, reads_chains: bool) -> Option<Shape> {
        let mut slots: Vec<Slot> = Vec::new();
        let mut lead = None;
        let mut literal_at = 0;
        let mut walker = Walker::new(line);
        loop {
            let value = match walker.next() {
                Step::Value(value) => value,
                Step::End if walker.has_escaped_name() => return None,
                Step::End => break,
                Step::Broken => return None,
            };
            let text = line.get(value.start..value.end)?;
            // Where the strict reader would have to compare addresses.
            if names.is_watched(walker.path()) {
                return None;
            }
            let field = names.field(walker.path()).filter(|field| *field != Field::Forwarded || reads_chains);
            if !value.is_quoted && matches!(text, b"true" | b"false" | b"null") {
                // It belongs to the fixed text: a line with another word has another shape.
                if field.is_some() {
                    return None;
                }
                continue;
            }
            let is_number =
                !text.is_empty() && text.iter().all(|byte| byte.is_ascii_digit() || *byte == b'.');
            if !value.is_quoted && !is_number {
                return None;
            }
            let literal = Literal::new(line.get(literal_at..value.start)?);
            match slots.last_mut() {
                Some(slot) => slot.then = literal,
                None => lead = Some(literal),
            }
            slots.push(Slot { kind: Kind::of(field, value.is_quoted)?, then: Literal::default() });
            literal_at = value.end;
        }
        let mut last = line.get(literal_at..)?.to_vec();
        last.push(b'\n');
        slots.last_mut()?.then = Literal::new(&last);
        let has = |kinds: [Kind; 2]| slots.iter().any(|slot| kinds.contains(&slot.kind));
        let is_complete = has([Kind::Addr, Kind::Addr])
            && has([Kind::QuotedTime, Kind::BareTime])
            && has([Kind::QuotedStatus, Kind::BareStatus]);
        (is_complete && slots.len() <= MAX_SLOTS).then_some(Shape { lead: lead?, slots })
    }

    #[inline]
    fn read(&self, block: &[u8], start: usize, reader: &mut Reader) -> Option<(Line, usize)> {
        let mut at = self.lead.skip(block, start)?;
        let mut line = EMPTY_LINE;
        let mut chain = Chain::default();
        let mut request = (0, 0);
        // Method and path are not simply the values of the fields named so.
        let mut is_odd = false;
        for slot in &self.slots {
            let end = match slot.kind {
                Kind::Addr => {
                    let (addr, end) = read_addr(block, at, &mut chain)?;
                    line.addr = addr;
                    end
                }
                Kind::QuotedTime => {
                    let (time, end) = read_quoted_time(block, at, reader)?;
                    line.time = time;
                    end
                }
                Kind::BareTime => {
                    let (time, end) = read_bare_time(block, at)?;
                    line.time = time;
                    end
                }
                Kind::Method => {
                    let end = plain_end(block, at)?;
                    line.method_len = u16::try_from(end - at).ok()?;
                    line.method_at = if end == at { 0 } else { u32::try_from(at).ok()? };
                    // Nearly every method is longer than nginx's sign for an empty one.
                    is_odd |= end - at == 1;
                    end
                }
                Kind::Path => {
                    let end = plain_end(block, at)?;
                    line.path_len = u32::try_from(end - at).ok()?;
                    line.path_at = if end == at { 0 } else { u32::try_from(at).ok()? };
                    is_odd |= block.get(at) != Some(&b'/');
                    end
                }
                Kind::Request => {
                    let end = plain_end(block, at)?;
                    request = (at, end);
                    is_odd = true;
                    end
                }
                Kind::Peer => {
                    let end = plain_end(block, at)?;
                    chain.peer = (at, end);
                    chain.is_needed = true;
                    end
                }
                Kind::QuotedStatus | Kind::BareStatus => {
                    line.status = read_status(block, at)?;
                    at + 3
                }
                Kind::QuotedSize | Kind::BareSize => {
                    let (size, end) = read_whole(block, at)?;
                    line.size = size;
                    end
                }
                Kind::Forwarded => {
                    let end = plain_end(block, at)?;
                    chain.forwarded = (at, end);
                    end
                }
                Kind::Server => {
                    let end = plain_end(block, at)?;
                    line.server_len = u8::try_from(end - at).unwrap_or(0);
                    line.server_at = if end == at { 0 } else { u32::try_from(at).ok()? };
                    end
                }
                Kind::Realip => {
                    let end = plain_end(block, at)?;
                    line.peer_len = u8::try_from(end - at).unwrap_or(0);
                    line.peer_at = if end == at { 0 } else { u32::try_from(at).ok()? };
                    end
                }
                Kind::QuotedOther => plain_end(block, at)?,
                Kind::BareOther => number_end(block, at)?,
            };
            at = slot.then.skip(block, end)?;
        }
        if chain.is_needed || !reader.proxies.is_empty() {
            chain.attribute(block, reader, &mut line)?;
        }
        if is_odd {
            place_target(block, request, &mut line)?;
        }
        Some((line, at))
    }
}

const EMPTY_LINE: Line = Line {
    addr: IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED),
    time: 0,
    method_at: 0,
    method_len: 0,
    path_at: 0,
    path_len: 0,
    server_at: 0,
    server_len: 0,
    peer_at: 0,
    peer_len: 0,
    status: 0,
    size: 0,
    behind_proxy: false,
    salvaged: false,
};

/// Puts together method and path by the very code of the strict reader.
fn place_target(block: &[u8], request: (usize, usize), line: &mut Line) -> Option<()> {
    let text = |at: u32, len: usize| block.get(at as usize..at as usize + len);
    let method = text(line.method_at, usize::from(line.method_len))?;
    let path = text(line.path_at, line.path_len as usize)?;
    let (method, path) = target::of_fields(method, path, block.get(request.0..request.1)?);
    let offset = |text: &[u8]| match text {
        [] => Some(0),
        text => u32::try_from(text.as_ptr().addr() - block.as_ptr().addr()).ok(),
    };
    line.method_at = offset(method)?;
    line.method_len = u16::try_from(method.len()).ok()?;
    line.path_at = offset(path)?;
    line.path_len = u32::try_from(path.len()).ok()?;
    Some(())
}

/// The texts that the client's address is derived from where it is not plain.
#[derive(Default)]
struct Chain {
    addr: (usize, usize),
    peer: (usize, usize),
    forwarded: (usize, usize),
    is_needed: bool,
}

impl Chain {
    fn attribute(&self, block: &[u8], reader: &Reader, line: &mut Line) -> Option<()> {
        let text = |(from, to)| block.get(from..to);
        let (addr, peer, forwarded) = (text(self.addr)?, text(self.peer)?, text(self.forwarded)?);
        let client = reader.proxies.attribute_behind(addr, peer, forwarded)?;
        line.addr = client.addr;
        line.behind_proxy = client.behind_proxy;
        Some(())
    }
}

#[inline]
fn read_addr(block: &[u8], at: usize, chain: &mut Chain) -> Option<(IpAddr, usize)> {
    if let Some((addr, len)) = address::leading_ipv4(block.get(at..)?)
        && block.get(at + len) == Some(&b'"')
    {
        chain.addr = (at, at + len);
        return Some((IpAddr::V4(addr), at + len));
    }
    if let Some((addr, len)) = address::leading_ipv6(block.get(at..)?)
        && block.get(at + len) == Some(&b'"')
    {
        chain.addr = (at, at + len);
        return Some((IpAddr::V6(addr).to_canonical(), at + len));
    }
    // A port, a zone, a list: rare, and read by the very code of the strict reader. To read it as one address first would
    // take `fe80::1%et,0` for an address with the zone `et,0`, where the strict reader sees a list that ends in `0`.
    let end = plain_end(block, at)?;
    chain.addr = (at, end);
    chain.is_needed = true;
    Some((EMPTY_LINE.addr, end))
}

#[inline]
fn read_quoted_time(block: &[u8], at: usize, reader: &mut Reader) -> Option<(EventSecs, usize)> {
    if let Some((secs, len)) = reader.times.match_start(block.get(at..)?)
        && block.get(at + len) == Some(&b'"')
    {
        return Some((secs, at + len));
    }
    let end = plain_end(block, at)?;
    Some((reader.times.parse(block.get(at..end)?)?, end))
}

/// Reads a Unix time that is a bare number.
///
/// The strict reader sees decimals as a float, which rounds: only numbers are accepted here that it cannot round up to the next
/// second. Below ten digits a float is exact to a millionth, so none of the first six decimals may be missing from a row of
/// nines.
#[inline]
fn read_bare_time(block: &[u8], at: usize) -> Option<(EventSecs, usize)> {
    let (whole, end) = read_whole(block, at)?;
    let secs = time::from_unix(whole)?;
    if block.get(end) != Some(&b'.') {
        return Some((secs, end));
    }
    let decimals_end = number_end(block, at)?;
    let decimals = block.get(end + 1..decimals_end)?;
    let is_exact = end - at <= 10 && decimals.iter().take(6).any(|digit| *digit != b'9');
    is_exact.then_some((secs, decimals_end))
}

/// Reads three digits, the first not 0.
#[inline]
pub(crate) fn read_status(block: &[u8], at: usize) -> Option<u16> {
    let [a, b, c] = *block.get(at..)?.first_chunk::<3>()?;
    let digit = |byte: u8| u16::from(byte.wrapping_sub(b'0'));
    let (a, b, c) = (digit(a), digit(b), digit(c));
    let is_status = (1..=9).contains(&a) && b <= 9 && c <= 9;
    const { assert!(MAX_STATUS == 999) };
    is_status.then_some(a * 100 + b * 10 + c)
}

/// Reads a whole number as JSON writes it, without a leading zero. At most 19 digits, so that it cannot overflow.
#[inline]
pub(crate) fn read_whole(block: &[u8], at: usize) -> Option<(u64, usize)> {
    let digits = block.get(at..at + 20)?;
    let mut value = 0_u64;
    for (len, byte) in digits.iter().enumerate() {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            let is_plain = len == 1 || (len > 1 && digits.first() != Some(&b'0'));
            return is_plain.then_some((value, at + len));
        }
        if len == 19 {
            break;
        }
        value = value * 10 + u64::from(digit);
    }
    None
}

/// Returns the end of a number with or without decimals.
#[inline]
fn number_end(block: &[u8], at: usize) -> Option<usize> {
    let (_, end) = read_whole(block, at)?;
    if block.get(end) != Some(&b'.') {
        return Some(end);
    }
    let decimals = block.get(end + 1..)?.iter().position(|byte| !byte.is_ascii_digit())?;
    (1..=18).contains(&decimals).then_some(end + 1 + decimals)
}

/// Returns the first byte from `at` on that is not printable ASCII, or is a quote or a backslash.
#[inline]
fn plain_end(block: &[u8], at: usize) -> Option<usize> {
    let short_end = at + SHORT_TEXT;
    let mut at = at;
    while at < short_end {
        let special = special_bytes(word_at(block, at)?);
        if special != 0 {
            return Some(at + special.trailing_zeros() as usize / 8);
        }
        at += 8;
    }
    long_plain_end(block, at)
}

/// Texts longer than this are scanned by more bytes at once.
const SHORT_TEXT: usize = 40;

/// Continues [`plain_end`] in a long text, whose end is at most [`WIDE`] bytes behind the place where this loop stops.
fn long_plain_end(block: &[u8], mut at: usize) -> Option<usize> {
    while block.get(at..)?.first_chunk().is_some_and(is_plain) {
        at += WIDE;
    }
    plain_end(block, at)
}

const WIDE: usize = 32;

/// Returns whether none of these bytes ends a plain text. Without branches, so that it compiles to wide instructions.
#[inline]
fn is_plain(bytes: &[u8; WIDE]) -> bool {
    let is_special = |byte: u8| !(0x20..0x80).contains(&byte) || byte == b'"' || byte == b'\\';
    bytes.iter().fold(0, |found, byte| found | u8::from(is_special(*byte))) == 0
}

/// Sets the high bit of each byte that ends a plain text. Exact up to the lowest one, which is all that is used: above it a
/// borrow can set more (Mycroft's `haszero`, and a subtraction that borrows from every byte below 0x20).
#[inline]
fn special_bytes(word: u64) -> u64 {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGHS: u64 = 0x8080_8080_8080_8080;
    let quote = word ^ (ONES * b'"' as u64);
    let backslash = word ^ (ONES * b'\\' as u64);
    let quote = quote.wrapping_sub(ONES) & !quote;
    let backslash = backslash.wrapping_sub(ONES) & !backslash;
    let control = word.wrapping_sub(ONES * 0x20);
    (quote | backslash | control | word) & HIGHS
}

/// A fixed text that is compared eight bytes at a time.
#[derive(Debug, Default, PartialEq)]
struct Literal {
    text: Box<[u8]>,
    /// The first eight bytes, and a mask of those that belong to the text.
    head: u64,
    head_mask: u64,
}

impl Literal {
    fn new(text: &[u8]) -> Literal {
        let mut head = [0_u8; 8];
        let mut mask = [0_u8; 8];
        for ((to, mask), byte) in head.iter_mut().zip(&mut mask).zip(text) {
            *to = *byte;
            *mask = 0xff;
        }
        Literal { text: text.into(), head: u64::from_le_bytes(head), head_mask: u64::from_le_bytes(mask) }
    }

    /// Returns the end of this text in the block if it is at `at`.
    #[inline]
    fn skip(&self, block: &[u8], at: usize) -> Option<usize> {
        let rest = block.get(at..)?;
        if (word_at(rest, 0)? ^ self.head) & self.head_mask != 0 {
            return None;
        }
        let len = self.text.len();
        let mut compared = 8;
        while compared < len {
            // The last word overlaps the one before it, so that it ends where the text does.
            let from = compared.min(len - 8);
            if word_at(rest, from)? != word_at(&self.text, from)? {
                return None;
            }
            compared += 8;
        }
        Some(at + len)
    }
}

#[inline]
fn word_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk::<8>()?))
}
