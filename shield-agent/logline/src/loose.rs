//! The tolerant reader of JSON lines that are not valid JSON.
//!
//! Without `escape=json` nginx writes a quote in a path or agent as `\x22`, or (`escape=none`) as it came. Either way the
//! client has broken its own line, and must become neither invisible by it nor able to choose the line's content:
//!
//! - The line is read from the left as far as it is well formed, with `\xHH`, control bytes and invalid UTF-8 taken as data. When that
//!   reaches the end and no field occurs twice, this *is* what nginx wrote.
//! - Otherwise text broke out of its string. Fields left of the first text that a client controls are still
//!   certain. The rest is looked for behind it: time, status and size at their last occurrence, which nginx wrote unless
//!   an agent follows that repeats them; an address only when every occurrence agrees, so that nobody can frame
//!   another. A wrong status is the most that a client can gain here, and it is counted as salvaged all the same.

use std::borrow::Cow;

use memchr::memmem;

use super::fields::{Field, RawFields, Reader, Value, decimal, status, time};
use super::text::{closing_quote, unescape};

/// Reads the fields that can be trusted.
pub(crate) fn read<'a>(line: &'a [u8], reader: &Reader) -> RawFields<'a> {
    let left = read_from_left(line, reader);
    if left.is_whole {
        return left.fields;
    }
    let mut raw = left.certain;
    for field in [Field::Time, Field::Status, Field::Size] {
        let last = || occurrences(line, reader, field).filter(|value| is_plausible(field, value)).last();
        let slot = raw.slot(field);
        *slot = slot.take().or_else(last);
    }
    raw.addr = raw.addr.or_else(|| agreed_address(line, reader));
    for field in [Field::Method, Field::Path] {
        let slot = raw.slot(field);
        *slot = slot.take().or_else(|| occurrences(line, reader, field).next());
    }
    raw
}

/// The result of reading a line from the left.
struct Left<'a> {
    /// All fields read.
    fields: RawFields<'a>,
    /// The line is one complete object without a field that occurs twice.
    is_whole: bool,
    /// The fields before the first text that a client controls.
    certain: RawFields<'a>,
}

fn read_from_left<'a>(line: &'a [u8], reader: &Reader) -> Left<'a> {
    let mut left = Left { fields: RawFields::default(), is_whole: false, certain: RawFields::default() };
    let mut is_certain = true;
    let mut twice = false;
    let mut at = skip_blanks(line, 0);
    let mut opening = b'{';
    while line.get(at) == Some(&opening) {
        opening = b',';
        let Some((name, value_at)) = read_name(line, skip_blanks(line, at + 1)) else { return left };
        let Some((value, after)) = read_value(line, value_at) else { return left };
        at = skip_blanks(line, after);
        if !matches!(line.get(at), Some(b',' | b'}')) {
            return left;
        }
        let field = reader.names.field(name);
        is_certain &= matches!(field, Some(Field::Addr | Field::Time | Field::Status | Field::Size));
        if let Some(field) = field {
            if is_certain {
                left.certain.slot(field).get_or_insert_with(|| value.clone());
            }
            twice |= left.fields.slot(field).replace(value).is_some();
        }
    }
    left.is_whole = !twice && line.get(at) == Some(&b'}') && skip_blanks(line, at + 1) == line.len();
    left
}

fn skip_blanks(line: &[u8], at: usize) -> usize {
    let rest = line.get(at..).unwrap_or_default();
    at + rest.iter().position(|byte| !byte.is_ascii_whitespace()).unwrap_or(rest.len())
}

/// Reads a name and its colon; returns the name and where the value starts.
fn read_name(line: &[u8], at: usize) -> Option<(&[u8], usize)> {
    if line.get(at) != Some(&b'"') {
        return None;
    }
    let end = closing_quote(line, at + 1)?;
    let colon = skip_blanks(line, end + 1);
    (line.get(colon) == Some(&b':')).then_some((line.get(at + 1..end)?, skip_blanks(line, colon + 1)))
}

/// Reads a string or a bare word (which may be missing: nginx writes `"status":,` for an empty variable).
fn read_value(line: &[u8], at: usize) -> Option<(Value<'_>, usize)> {
    if line.get(at) == Some(&b'"') {
        let end = closing_quote(line, at + 1)?;
        return Some((Value::Text(unescape(line.get(at + 1..end)?)), end + 1));
    }
    let rest = line.get(at..)?;
    let len = rest.iter().position(|byte| matches!(byte, b',' | b'}' | b' ' | b'"')).unwrap_or(rest.len());
    let word = rest.get(..len)?;
    Some((bare_value(word), at + len))
}

/// Keeps a bare word as text, so that a number of any kind is read as if it were quoted.
fn bare_value(word: &[u8]) -> Value<'_> {
    decimal(word).map_or(Value::Text(Cow::Borrowed(word)), Value::Number)
}

/// Yields every `"name": value` in the line, inside texts too.
fn occurrences<'a>(line: &'a [u8], reader: &Reader, field: Field) -> impl Iterator<Item = Value<'a>> {
    let quoted = reader.names.name(field).map(|name| format!("\"{name}\""));
    let starts: Vec<usize> =
        quoted.iter().flat_map(|name| memmem::find_iter(line, name.as_bytes())).collect();
    starts.into_iter().filter_map(move |at| {
        let (_, value_at) = read_name(line, at)?;
        Some(read_value(line, value_at)?.0)
    })
}

fn is_plausible(field: Field, value: &Value<'_>) -> bool {
    match field {
        Field::Status => status(value).is_some(),
        Field::Time => time(value).is_some(),
        _ => value.number().is_some(),
    }
}

fn agreed_address<'a>(line: &'a [u8], reader: &Reader) -> Option<Value<'a>> {
    let mut found = occurrences(line, reader, Field::Addr);
    let first = found.next()?;
    found.all(|other| other == first).then_some(first)
}
