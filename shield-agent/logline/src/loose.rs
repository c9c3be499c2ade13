//! The tolerant reader of JSON lines that are not valid JSON.
//!
//! Without `escape=json` nginx writes a quote in a path or agent as `\x22`, or (`escape=none`) as it came. Either way the
//! client has broken its own line, and must become neither invisible by it nor able to choose the line's content:
//!
//! - The line is read from the left as far as it is well formed, with `\xHH`, control bytes and invalid UTF-8 taken as data. When that
//!   reaches the end, no field occurs twice and no other place has an address, this *is* what nginx wrote.
//! - Otherwise text broke out of its string, and the line is salvaged: it counts for an address that is certain or for none. Fields left of the first text that a client controls are still
//!   certain. The rest is looked for behind it: time, status and size at their last occurrence, which nginx wrote unless
//!   an agent follows that repeats them; an address only when every occurrence agrees, so that nobody can frame
//!   another. A wrong status is the most that a client can gain here, and it is counted as salvaged all the same.

use std::borrow::Cow;

use memchr::memmem;

use super::fields::{Field, RawFields, Reader, Value, decimal, status, time};
use super::names::{Gather, Names, leaf};
use super::text::{closing_quote, unescape};
use super::walk::{Found, Step, Walker};

/// Reads the fields that can be trusted.
pub(crate) fn read<'a>(line: &'a [u8], reader: &Reader) -> RawFields<'a> {
    let left = read_from_left(line, &reader.names);
    if left.is_whole {
        return left.fields;
    }
    let mut raw = left.certain;
    for field in [Field::Time, Field::Status, Field::Size] {
        let last = || occurrences(line, reader, field).filter(|value| is_plausible(field, value)).last();
        let slot = raw.slot(field);
        *slot = slot.take().or_else(last);
    }
    let addr = raw.slot(Field::Addr);
    *addr = addr.take().or_else(|| agreed_address(line, reader));
    for field in [Field::Method, Field::Path, Field::Request] {
        let slot = raw.slot(field);
        *slot = slot.take().or_else(|| occurrences(line, reader, field).next());
    }
    raw
}

/// The result of reading a line from the left.
struct Left<'a> {
    /// All fields read.
    fields: RawFields<'a>,
    /// The line is one complete object whose fields can be trusted.
    is_whole: bool,
    /// The fields before the first text that a client controls.
    certain: RawFields<'a>,
}

fn read_from_left<'a>(line: &'a [u8], names: &Names) -> Left<'a> {
    let mut gather = Gather::new(names);
    let mut certain = RawFields::default();
    let mut is_certain = true;
    let mut walker = Walker::new(line);
    loop {
        match walker.next() {
            Step::Value(found) => {
                let value = value_of(line, found);
                let field = names.field(walker.path());
                is_certain &= matches!(field, Some(Field::Addr | Field::Time | Field::Status | Field::Size));
                if let Some(field) = field.filter(|_| is_certain) {
                    certain.slot(field).get_or_insert_with(|| value.clone());
                }
                gather.take(walker.path(), value);
            }
            end => {
                let is_whole = end == Step::End && gather.is_trusted();
                return Left { fields: gather.into_fields(), is_whole, certain };
            }
        }
    }
}

fn value_of(line: &[u8], found: Found) -> Value<'_> {
    let text = line.get(found.start..found.end).unwrap_or_default();
    if found.is_quoted { Value::Text(unescape(text)) } else { bare_value(text) }
}

/// Keeps a bare word as text, so that a number of any kind is read as if it were quoted.
fn bare_value(word: &[u8]) -> Value<'_> {
    decimal(word).map_or(Value::Text(Cow::Borrowed(word)), Value::Number)
}

/// Yields every `"name": value` in the line, inside texts too.
fn occurrences<'a>(line: &'a [u8], reader: &Reader, field: Field) -> impl Iterator<Item = Value<'a>> {
    let name = reader.names.path(field).map(|path| [leaf(path), b"\""].concat());
    let starts: Vec<usize> = name.iter().flat_map(|name| memmem::find_iter(line, name)).collect();
    starts.into_iter().filter_map(move |at| {
        // A dot before it: a name with dots of its own.
        let before = line.get(at.checked_sub(1)?)?;
        let quote = closing_quote(line, at)?;
        let colon = skip_blanks(line, quote + 1);
        (matches!(before, b'"' | b'.') && line.get(colon) == Some(&b':')).then_some(())?;
        read_value(line, skip_blanks(line, colon + 1))
    })
}

fn skip_blanks(line: &[u8], at: usize) -> usize {
    let rest = line.get(at..).unwrap_or_default();
    at + rest.iter().position(|byte| !byte.is_ascii_whitespace()).unwrap_or(rest.len())
}

/// Reads a string or a bare word.
fn read_value(line: &[u8], at: usize) -> Option<Value<'_>> {
    if line.get(at) == Some(&b'"') {
        let end = closing_quote(line, at + 1)?;
        return Some(Value::Text(unescape(line.get(at + 1..end)?)));
    }
    let rest = line.get(at..)?;
    let len = rest.iter().position(|byte| matches!(byte, b',' | b'}' | b' ' | b'"')).unwrap_or(rest.len());
    Some(bare_value(rest.get(..len)?))
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
