//! The targets `json`, `combined` and `common`: arbitrary bytes, and lines as servers write them.

use crate::cursor::Cursor;
use crate::reading::{Reading, line_by_line, whole};
use crate::writing::{Entry, Escape};
use shield_logline::{Format, Settings};

/// The first byte of an input that is lines as they are.
pub const RAW: u8 = 0;
/// The first byte of an input that entries are generated from.
pub const ENTRIES: u8 = 1;

/// Entries of an input at most.
const MAX_ENTRIES: usize = 8;

/// `json`.
pub fn json(data: &[u8]) {
    check(Format::Json, data);
}

/// `combined`.
pub fn combined(data: &[u8]) {
    check(Format::Combined, data);
}

/// `common`.
pub fn common(data: &[u8]) {
    check(Format::Common, data);
}

fn check(format: Format, data: &[u8]) {
    let mut cursor = Cursor::new(data);
    match cursor.byte() % 2 {
        RAW => any_bytes(format, cursor.rest()),
        _ => written_lines(format, cursor),
    }
}

/// Checks that nothing panics, no line is lost, and a line has the same result whatever precedes it.
fn any_bytes(format: Format, text: &[u8]) {
    let settings = Settings { format, ..Settings::default() };
    let all = whole(&settings, text);
    assert_eq!(all, line_by_line(&settings, text), "{}", String::from_utf8_lossy(text));
}

/// Checks that the entries written by a server are read back exactly, whatever bytes the client chose.
fn written_lines(format: Format, mut cursor: Cursor<'_>) {
    let settings = Settings { format: format.clone(), ..Settings::default() };
    let mut entries = Vec::new();
    let mut text = Vec::new();
    while !cursor.is_empty() && entries.len() < MAX_ENTRIES {
        let escape = cursor.pick(&[Escape::Json, Escape::Json, Escape::Json, Escape::Hex]);
        let entry = Entry::of(&mut cursor);
        text.extend_from_slice(&entry.write(&format, escape, &mut cursor));
        text.push(b'\n');
        entries.push((entry, escape));
    }
    let Reading { seen, rejected } = whole(&settings, &text);
    let shown = String::from_utf8_lossy(&text);
    assert_eq!(rejected.iter().sum::<u64>(), 0, "refused: {rejected:?} of {shown}");
    for ((entry, escape), seen) in entries.iter().zip(&seen) {
        assert!(entry.is_read_as(seen), "{entry:?} was read as {seen:?} in {shown}");
        let is_json = matches!(format, Format::Json | Format::Auto);
        let may_be_salvaged = is_json && *escape == Escape::Hex;
        assert!(!seen.line.salvaged || may_be_salvaged, "{entry:?} counts as an evasion in {shown}");
    }
}
