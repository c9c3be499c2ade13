//! The fast reader of text lines: one pass, in which each value is read where its field begins instead of being found first.
//!
//! It reads a line as the plan does, or not at all: a value in another form than nearly all have (IPv6, another second's time, a
//! backslash, a user's name) is left to the plan. What ends a field is the same: the values read here have none of the bytes that
//! the plan looks for. The differential tests compare the two.

use std::net::IpAddr;

use super::compile::{End, Piece, Plan};
use super::read::{Spans, Values, is_time_of};
use super::variable::Take;
use crate::address::{self, Attributed};
use crate::fields::Reader;
use crate::shape::{read_status, read_whole};
use crate::text::plain_find;
use shield_engine::time::EventSecs;

/// The values found so far.
#[derive(Default)]
struct Found {
    addr: Option<IpAddr>,
    time: Option<EventSecs>,
    status: Option<u16>,
    size: u64,
}

impl Plan {
    /// Reads the fields of a line that has this format and only usual values.
    #[inline]
    pub(super) fn read_quickly(&self, line: &[u8], spans: &mut Spans, reader: &Reader) -> Option<Values> {
        if self.has_guess || !reader.proxies.is_empty() || !self.lead.is_at(line, 0) {
            return None;
        }
        let mut at = self.lead.text.len();
        let mut found = Found::default();
        for piece in &self.pieces {
            let end = match &*piece.back {
                [] => self.value(piece, line, at, spans, reader, &mut found)?,
                // A name that is missing, and the time behind it.
                [time]
                    if time.take == Take::Time
                        && line.get(at) == Some(&b'-')
                        && time.before.is_at(line, at + 1) =>
                {
                    spans.set(piece.first, at, at + 1);
                    self.time(piece, line, at + 1 + time.before.text.len(), spans, reader, &mut found)?
                }
                _ => return None,
            };
            if !piece.then.is_at(line, end) || piece.has_backslash {
                return None;
            }
            at = end + piece.then.text.len();
        }
        let client = Attributed { addr: found.addr?, behind_proxy: false };
        Some(Values { client, time: found.time?, status: found.status?, size: found.size })
    }

    /// Reads the field at `at`; returns its end.
    #[inline]
    fn value(
        &self,
        piece: &Piece,
        line: &[u8],
        at: usize,
        spans: &mut Spans,
        reader: &Reader,
        found: &mut Found,
    ) -> Option<usize> {
        let end = match piece.first {
            Take::Addr => {
                let (addr, len) = address::leading_ipv4(line.get(at..)?)?;
                found.addr = Some(IpAddr::V4(addr));
                at + len
            }
            Take::Time => self.time(piece, line, at, spans, reader, found)?,
            Take::Status => {
                found.status = Some(read_status(line, at)?);
                at + 3
            }
            Take::Size => {
                let (size, end) = read_whole(line, at)?;
                found.size = size;
                end
            }
            _ => text_end(piece, line, at)?,
        };
        // Its bytes are none that end the field, so the plan finds the same end; at an open end it looks for a blank.
        if matches!(piece.end, End::Open) && line.get(end).is_some_and(|byte| *byte != b' ') {
            return None;
        }
        if matches!(piece.end, End::Line) && end + piece.then.text.len() != line.len() {
            return None;
        }
        spans.set(piece.first, at, end);
        Some(end)
    }

    #[inline]
    fn time(
        &self,
        piece: &Piece,
        line: &[u8],
        at: usize,
        spans: &mut Spans,
        reader: &Reader,
        found: &mut Found,
    ) -> Option<usize> {
        let (secs, len) = reader.times.match_start(line.get(at..)?)?;
        let text = line.get(at..at + len)?;
        // The cache may have it from a line of another format, with brackets or a blank inside.
        let is_usual = is_time_of(self.time, text)
            && text.first().is_some_and(u8::is_ascii_digit)
            && !matches!(piece.end, End::Byte { byte, .. } if text.contains(&byte));
        is_usual.then_some(())?;
        found.time = Some(secs);
        spans.set(Take::Time, at, at + len);
        Some(at + len)
    }
}

/// Returns the end of a text without a backslash.
#[inline]
fn text_end(piece: &Piece, line: &[u8], at: usize) -> Option<usize> {
    let (byte, back) = match piece.end {
        End::Byte { byte, back } => (byte, back),
        End::Quote { back } => (b'"', back),
        End::Fixed(_) | End::Line | End::Open => return None,
    };
    plain_find(line, at, byte)?.checked_sub(back).filter(|end| *end >= at)
}
