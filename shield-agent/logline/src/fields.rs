//! The raw fields of a line, and their conversion to a [`Line`]: the one place that decides which addresses, times, statuses
//! and sizes are valid, so that no two readers of JSON differ in it.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use super::address::TrustedProxies;
use super::time::{self, TimeCache};
use shield_engine::request::{Line, Rejected};
use shield_engine::time::EventSecs;

/// The highest valid status.
pub(crate) const MAX_STATUS: u16 = 999;

/// The names of the JSON fields that are read; every other field is ignored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FieldNames {
    /// The client's address (`$remote_addr`).
    pub source_ip: String,
    /// The time (`$time_iso8601`, `$time_local` or `$msec`).
    pub timestamp: String,
    /// The method (`$request_method`).
    pub method: String,
    /// The path (`$request_uri`).
    pub path: String,
    /// The status (`$status`).
    pub status: String,
    /// Bytes sent (`$body_bytes_sent` or `$bytes_sent`).
    pub response_size: String,
    /// The proxies' chain (`$http_x_forwarded_for`); `None` when no chain is read.
    pub forwarded_for: Option<String>,
}

impl Default for FieldNames {
    fn default() -> FieldNames {
        FieldNames {
            source_ip: "source_ip".to_owned(),
            timestamp: "timestamp".to_owned(),
            method: "method".to_owned(),
            path: "path".to_owned(),
            status: "status".to_owned(),
            response_size: "response_size".to_owned(),
            forwarded_for: None,
        }
    }
}

/// One of the fields that are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
    /// [`FieldNames::source_ip`].
    Addr,
    /// [`FieldNames::timestamp`].
    Time,
    /// [`FieldNames::method`].
    Method,
    /// [`FieldNames::path`].
    Path,
    /// [`FieldNames::status`].
    Status,
    /// [`FieldNames::response_size`].
    Size,
    /// [`FieldNames::forwarded_for`].
    Forwarded,
}

impl FieldNames {
    /// Returns the field of this name.
    pub fn field(&self, name: &[u8]) -> Option<Field> {
        let named = [
            (&self.source_ip, Field::Addr),
            (&self.timestamp, Field::Time),
            (&self.method, Field::Method),
            (&self.path, Field::Path),
            (&self.status, Field::Status),
            (&self.response_size, Field::Size),
        ];
        let known = named.iter().find(|(own, _)| own.as_bytes() == name).map(|(_, field)| *field);
        known.or_else(|| (self.forwarded_for.as_deref()?.as_bytes() == name).then_some(Field::Forwarded))
    }

    /// Returns the name of this field; `None` for a chain that is not read.
    pub fn name(&self, field: Field) -> Option<&str> {
        match field {
            Field::Addr => Some(&self.source_ip),
            Field::Time => Some(&self.timestamp),
            Field::Method => Some(&self.method),
            Field::Path => Some(&self.path),
            Field::Status => Some(&self.status),
            Field::Size => Some(&self.response_size),
            Field::Forwarded => self.forwarded_for.as_deref(),
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
    fn text(&self) -> Option<&[u8]> {
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
pub(crate) struct RawFields<'a> {
    pub addr: Option<Value<'a>>,
    pub time: Option<Value<'a>>,
    pub method: Option<Value<'a>>,
    pub path: Option<Value<'a>>,
    pub status: Option<Value<'a>>,
    pub size: Option<Value<'a>>,
    pub forwarded: Option<Value<'a>>,
}

impl<'a> RawFields<'a> {
    pub(crate) fn slot(&mut self, field: Field) -> &mut Option<Value<'a>> {
        match field {
            Field::Addr => &mut self.addr,
            Field::Time => &mut self.time,
            Field::Method => &mut self.method,
            Field::Path => &mut self.path,
            Field::Status => &mut self.status,
            Field::Size => &mut self.size,
            Field::Forwarded => &mut self.forwarded,
        }
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

    fn append(&mut self, text: &[u8]) -> usize {
        let at = self.block_len + self.side.len();
        self.side.extend_from_slice(text);
        at
    }
}

/// Converts raw fields to lines.
#[derive(Debug)]
pub(crate) struct Reader {
    pub names: FieldNames,
    pub proxies: TrustedProxies,
    pub times: TimeCache,
}

impl Reader {
    pub(crate) fn finish(&mut self, raw: &RawFields<'_>, texts: &mut Texts<'_>) -> Result<Line, Rejected> {
        let forwarded = raw.forwarded.as_ref().and_then(Value::text).unwrap_or_default();
        let addr = raw.addr.as_ref().and_then(Value::text).ok_or(Rejected::NoAddress)?;
        let client = self.proxies.attribute(addr, forwarded).ok_or(Rejected::NoAddress)?;
        let time = raw.time.as_ref().and_then(|value| self.time(value)).ok_or(Rejected::NoTime)?;
        let status = raw.status.as_ref().and_then(status).ok_or(Rejected::NoStatus)?;
        let method = raw.method.as_ref().and_then(Value::text).unwrap_or_default();
        let path = raw.path.as_ref().and_then(Value::text).unwrap_or_default();
        Ok(Line {
            addr: client.addr,
            time,
            method_at: texts.place(method),
            method_len: u16::try_from(method.len()).unwrap_or(u16::MAX),
            path_at: texts.place(path),
            path_len: u32::try_from(path.len()).unwrap_or(u32::MAX),
            status,
            size: raw.size.as_ref().and_then(Value::number).unwrap_or(0),
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

/// Converts a status: a number of 0..=999, bare or quoted.
pub(crate) fn status(value: &Value<'_>) -> Option<u16> {
    let number = u16::try_from(value.number()?).ok()?;
    (number <= MAX_STATUS).then_some(number)
}
