//! The raw fields of a line, and their conversion to a [`Line`]: the one place that decides which addresses, times, statuses
//! and sizes are valid, so that no two readers of JSON differ in it.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use super::address::TrustedProxies;
use super::names::Names;
use super::target;
use super::time::{self, TimeCache};
use shield_engine::request::{Line, Rejected};
use shield_engine::time::EventSecs;

/// The highest valid status.
pub(crate) const MAX_STATUS: u16 = 999;

/// The configured names of the JSON fields that are read. A field inside an object has both names, joined by a dot
/// (`request.remote_ip`).
///
/// A field without a configured name is looked for under the names in `known.rs`, of which the log's first whole line decides.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FieldNames {
    /// The client's address (`$remote_addr`).
    pub source_ip: Option<String>,
    /// The time (`$time_iso8601`, `$time_local` or `$msec`).
    pub timestamp: Option<String>,
    /// The method (`$request_method`).
    pub method: Option<String>,
    /// The path (`$request_uri`), or the whole request line (`$request`).
    pub path: Option<String>,
    /// The status (`$status`).
    pub status: Option<String>,
    /// Bytes sent (`$body_bytes_sent` or `$bytes_sent`).
    pub response_size: Option<String>,
    /// The proxies' chain (`$http_x_forwarded_for`), read where `trusted_proxies` are configured.
    pub forwarded_for: Option<String>,
    /// The name of the server section that answered (`$server_name`).
    pub server_name: Option<String>,
    /// The address that the connection came from, before nginx's realip module replaced it (`$realip_remote_addr`).
    pub peer: Option<String>,
}

/// One of the fields that are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Field {
    /// [`FieldNames::source_ip`].
    Addr,
    /// The connection's address, where [`FieldNames::source_ip`] is configured to be a header.
    Peer,
    /// [`FieldNames::timestamp`].
    Time,
    /// [`FieldNames::method`].
    Method,
    /// [`FieldNames::path`].
    Path,
    /// The whole request line (`$request`).
    Request,
    /// [`FieldNames::status`].
    Status,
    /// [`FieldNames::response_size`].
    Size,
    /// [`FieldNames::forwarded_for`].
    Forwarded,
    /// [`FieldNames::server_name`].
    Server,
    /// [`FieldNames::peer`].
    Realip,
}

impl Field {
    /// In the order of their discriminants, which index arrays.
    pub(crate) const ALL: [Field; 11] = [
        Field::Addr,
        Field::Peer,
        Field::Time,
        Field::Method,
        Field::Path,
        Field::Request,
        Field::Status,
        Field::Size,
        Field::Forwarded,
        Field::Server,
        Field::Realip,
    ];
}

impl FieldNames {
    /// Returns the configured name of this field.
    pub(crate) fn name(&self, field: Field) -> Option<&str> {
        match field {
            Field::Addr => self.source_ip.as_deref(),
            Field::Time => self.timestamp.as_deref(),
            Field::Method => self.method.as_deref(),
            Field::Path => self.path.as_deref(),
            Field::Status => self.status.as_deref(),
            Field::Size => self.response_size.as_deref(),
            Field::Forwarded => self.forwarded_for.as_deref(),
            Field::Server => self.server_name.as_deref(),
            Field::Realip => self.peer.as_deref(),
            Field::Peer | Field::Request => None,
        }
    }
}

/// The value of a field, as written.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value<'a> {
    /// A string, unescaped.
    Text(Cow<'a, [u8]>),
    /// A non-negative whole number.
    Number(u64),
    /// Any other number.
    Decimal(f64),
    /// `null`, a truth value, an object, an array.
    Other,
}

impl Value<'_> {
    pub(crate) fn text(&self) -> Option<&[u8]> {
        match self {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// Returns a whole number, quoted or not.
    pub(crate) fn number(&self) -> Option<u64> {
        match self {
            Value::Number(number) => Some(*number),
            Value::Text(text) => decimal(text),
            Value::Decimal(_) | Value::Other => None,
        }
    }

    /// Returns a size in bytes; of a fraction its whole part.
    fn size(&self) -> u64 {
        match self {
            // A cast of a float saturates, and a negative one becomes 0.
            Value::Decimal(number) => *number as u64,
            value => value.number().unwrap_or(0),
        }
    }
}

/// Parses a whole number: decimal digits and nothing else.
pub(crate) fn decimal(text: &[u8]) -> Option<u64> {
    let digit = |value: u64, byte: &u8| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        value.checked_mul(10)?.checked_add(digit)
    };
    if text.is_empty() { None } else { text.iter().try_fold(0, digit) }
}

/// The fields found in one line.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct RawFields<'a>([Option<Value<'a>>; Field::ALL.len()]);

impl<'a> RawFields<'a> {
    pub(crate) fn slot(&mut self, field: Field) -> &mut Option<Value<'a>> {
        &mut self.0[field as usize]
    }

    pub(crate) fn get(&self, field: Field) -> Option<&Value<'a>> {
        self.0[field as usize].as_ref()
    }

    fn text(&self, field: Field) -> &[u8] {
        self.get(field).and_then(Value::text).unwrap_or_default()
    }
}

/// Places the texts of a line: pieces of the block keep their offset, other texts are collected to be appended to it.
#[derive(Debug)]
pub(crate) struct Texts<'a> {
    block_at: usize,
    block_len: usize,
    side: &'a mut Vec<u8>,
}

impl<'a> Texts<'a> {
    /// Places texts in `block`; the caller appends `side` to it afterwards.
    pub(crate) fn new(block: &[u8], side: &'a mut Vec<u8>) -> Texts<'a> {
        Texts { block_at: block.as_ptr().addr(), block_len: block.len(), side }
    }

    /// Returns the offset of `text` in the block with `side` appended; 0 for an empty text.
    pub(crate) fn place(&mut self, text: &[u8]) -> u32 {
        if text.is_empty() {
            return 0;
        }
        let at = text.as_ptr().addr().wrapping_sub(self.block_at);
        let inside = at.checked_add(text.len()).is_some_and(|end| end <= self.block_len);
        let at = if inside { at } else { self.append(text) };
        u32::try_from(at).unwrap_or(u32::MAX)
    }

    /// Returns the offset of these texts joined.
    pub(crate) fn place_joined(&mut self, texts: &[&[u8]]) -> u32 {
        let at = self.block_len + self.side.len();
        for text in texts {
            self.append(text);
        }
        u32::try_from(at).unwrap_or(u32::MAX)
    }

    /// Bytes collected so far.
    pub(crate) fn side_bytes(&self) -> usize {
        self.side.len()
    }

    /// Drops what was collected behind the first `len` bytes.
    pub(crate) fn truncate_side(&mut self, len: usize) {
        self.side.truncate(len);
    }

    fn append(&mut self, text: &[u8]) -> usize {
        let at = self.block_len + self.side.len();
        self.side.extend_from_slice(text);
        at
    }
}

/// Converts raw fields to lines.
#[derive(Debug)]
pub(crate) struct Reader {
    pub names: Names,
    pub proxies: TrustedProxies,
    pub times: TimeCache,
}

impl Reader {
    pub(crate) fn finish(&mut self, raw: &RawFields<'_>, texts: &mut Texts<'_>) -> Result<Line, Rejected> {
        let (addr, peer) = (raw.text(Field::Addr), raw.text(Field::Peer));
        let client = self.proxies.attribute_behind(addr, peer, raw.text(Field::Forwarded));
        let client = client.ok_or(Rejected::NoAddress)?;
        let time = raw.get(Field::Time).and_then(|value| self.time(value)).ok_or(Rejected::NoTime)?;
        let status = raw.get(Field::Status).and_then(status).ok_or(Rejected::NoStatus)?;
        let (method, path) =
            target::of_fields(raw.text(Field::Method), raw.text(Field::Path), raw.text(Field::Request));
        let (server, peer) = (raw.text(Field::Server), raw.text(Field::Realip));
        Ok(Line {
            addr: client.addr,
            time,
            method_at: texts.place(method),
            method_len: u16::try_from(method.len()).unwrap_or(u16::MAX),
            path_at: texts.place(path),
            path_len: u32::try_from(path.len()).unwrap_or(u32::MAX),
            server_at: texts.place(server),
            server_len: u8::try_from(server.len()).unwrap_or(0),
            peer_at: texts.place(peer),
            peer_len: u8::try_from(peer.len()).unwrap_or(0),
            status,
            size: raw.get(Field::Size).map_or(0, Value::size),
            behind_proxy: client.behind_proxy,
            salvaged: false,
        })
    }

    fn time(&mut self, value: &Value<'_>) -> Option<EventSecs> {
        match value {
            Value::Text(text) => self.times.parse(text),
            other => time(other),
        }
    }
}

/// Converts a time in any of its forms.
pub(crate) fn time(value: &Value<'_>) -> Option<EventSecs> {
    match value {
        Value::Text(text) => time::parse(text),
        Value::Number(number) => time::from_unix(*number),
        Value::Decimal(number) if *number >= 0.0 => time::from_unix(*number as u64),
        Value::Decimal(_) | Value::Other => None,
    }
}

/// Converts a status: a number of 0..=999, bare or quoted. Of a list, as nginx's `$upstream_status` is where several servers
/// were tried (`"502, 200"`, `"502 : 200"`), the last one counts.
pub(crate) fn status(value: &Value<'_>) -> Option<u16> {
    let number = match value {
        Value::Text(text) => decimal(text).or_else(|| last_of_list(text))?,
        Value::Decimal(number) if number.fract() == 0.0 && *number >= 0.0 => *number as u64,
        value => value.number()?,
    };
    u16::try_from(number).ok().filter(|status| *status <= MAX_STATUS)
}

fn last_of_list(text: &[u8]) -> Option<u64> {
    let items = text.rsplit(|byte| matches!(byte, b',' | b':')).map(<[u8]>::trim_ascii);
    let mut answered = items.filter(|item| !matches!(*item, b"" | b"-"));
    decimal(answered.next()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_list_of_statuses_the_last_one_counts() {
        let check = |text: &str, expected| {
            assert_eq!(status(&Value::Text(Cow::Borrowed(text.as_bytes()))), expected, "{text}");
        };
        check("200", Some(200));
        check("502, 200", Some(200));
        check("502 : 200", Some(200));
        check("502, 504 : 404", Some(404));
        check("502, -", Some(502));
        check("-", None);
        check("", None);
        check("200 OK", None);
        check("502, 1000", None);
    }
}
