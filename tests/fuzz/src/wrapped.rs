//! The target `wrapped`: lines in a container's or the journal's records are the same requests as without, wherever long ones
//! are split and whatever the other stream writes in between; and no bytes of a client's make a line about somebody else.

use crate::cursor::Cursor;
use crate::reading::{line_by_line, whole};
use crate::writing::{Entry, Escape};
use shield_logline::{Format, Settings};

/// The first byte of an input that is lines as they are.
pub const RAW: u8 = 0;

/// Entries of an input at most.
const MAX_ENTRIES: usize = 6;

#[derive(Clone, Copy)]
enum Wrap {
    Docker,
    Cri,
    Journal,
}

/// `wrapped`.
pub fn check(data: &[u8]) {
    let mut cursor = Cursor::new(data);
    let settings = Settings::default();
    if cursor.byte() % 4 == RAW {
        let text = cursor.rest();
        assert_eq!(
            whole(&settings, text),
            line_by_line(&settings, text),
            "{}",
            String::from_utf8_lossy(text)
        );
        return;
    }
    let wrap = cursor.pick(&[Wrap::Docker, Wrap::Cri, Wrap::Journal]);
    let is_json = cursor.byte().is_multiple_of(2);
    let (mut entries, mut text) = (Vec::new(), Vec::new());
    while !cursor.is_empty() && entries.len() < MAX_ENTRIES {
        let entry = Entry::of(&mut cursor);
        let format = if is_json { Format::Json } else { Format::Combined };
        // A runtime replaces what is no UTF-8, so that only text comes back as it was.
        let line = entry.write(&format, Escape::Json, &mut cursor);
        let Ok(line) = String::from_utf8(line) else { continue };
        write(&mut text, wrap, &line, entries.is_empty(), &mut cursor);
        entries.push(entry);
    }
    let shown = String::from_utf8_lossy(&text);
    let reading = whole(&settings, &text);
    assert_eq!(reading, line_by_line(&settings, &text), "{shown}");
    assert_eq!(reading.seen.len(), entries.len(), "{shown}");
    for (entry, seen) in entries.iter().zip(&reading.seen) {
        assert!(entry.is_read_as(seen), "{entry:?} was read as {seen:?} in {shown}");
    }
}

/// Writes one line, split or not, with another stream in between.
fn write(text: &mut Vec<u8>, wrap: Wrap, line: &str, is_first: bool, cursor: &mut Cursor<'_>) {
    let mut rest = line;
    // The first line tells which stream is read.
    let parts = if is_first { 0 } else { cursor.byte() % 4 };
    for _ in 0..parts {
        let at = usize::from(cursor.byte()).min(rest.len());
        let Some((part, after)) = rest.split_at_checked(at) else { continue };
        // An empty record of Docker's would be the end of nothing.
        if part.is_empty() || after.is_empty() {
            continue;
        }
        record(text, wrap, part, "stdout", true);
        rest = after;
        if cursor.byte().is_multiple_of(2) && !matches!(wrap, Wrap::Journal) {
            record(
                text,
                wrap,
                "2026/11/24 14:35:01 [error] 7#7: x",
                "stderr",
                cursor.byte().is_multiple_of(3),
            );
        }
    }
    record(text, wrap, rest, "stdout", false);
}

fn record(text: &mut Vec<u8>, wrap: Wrap, line: &str, stream: &str, is_part: bool) {
    let quoted = |line: &str| {
        let escape = |char: char| match char {
            '"' | '\\' => format!("\\{char}"),
            '\u{0}'..'\u{20}' => format!("\\u{:04x}", u32::from(char)),
            char => char.to_string(),
        };
        line.chars().map(escape).collect::<String>()
    };
    let written = match wrap {
        Wrap::Docker => {
            let end = if is_part { "" } else { "\\n" };
            format!("{{\"log\":\"{}{end}\",\"stream\":\"{stream}\",\"time\":\"x\"}}", quoted(line))
        }
        Wrap::Cri => {
            let tag = if is_part { "P" } else { "F" };
            format!("2026-11-24T14:35:01.5Z {stream} {tag} {line}")
        }
        Wrap::Journal => {
            let more = if is_part { ",\"_LINE_BREAK\":\"line-max\"" } else { "" };
            format!("{{\"__CURSOR\":\"s\"{more},\"MESSAGE\":\"{}\"}}", quoted(line))
        }
    };
    text.extend_from_slice(written.as_bytes());
    text.push(b'\n');
}
