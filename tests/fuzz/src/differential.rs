//! The target `differential`: the fixed-shape reader and the strict one (serde_json) give the same result for every line.
//!
//! The fixed shape is learned from the lines themselves, so an input is several lines: valid ones of one shape, and the
//! same damaged. Read as one block, the fast reader reads those that have the shape; a parser without shapes reads all by the
//! strict reader.

use crate::cursor::Cursor;
use crate::reading::{line_by_line, whole};
use shield_logline::{FieldNames, Format, Settings};

/// The first byte of an input that is lines as they are.
pub const RAW: u8 = 0;
/// The first byte of an input that damages valid lines.
pub const DAMAGED: u8 = 1;

/// Lines of one shape; a shape is a whole line, in every style that a log can have.
pub const SHAPES: [&str; 12] = [
    r#"{"source_ip":"192.0.2.1","timestamp":"2026-11-24T14:35:01+00:00","method":"GET","path":"/","status":200,"response_size":5}"#,
    r#"{"timestamp":"2026-11-24T14:35:01+00:00","source_ip":"192.0.2.1","method":"GET","path":"/index.html?a=b","status":"200","response_size":"512","request_time":"0.001","user_agent":"a b"}"#,
    r#"{ "time": 1, "source_ip": "2001:db8::7", "timestamp": 1795530901.123, "status": 404, "response_size": 0, "path": "/a", "method": "POST" }"#,
    r#"{"source_ip":"192.0.2.1","xff":"203.0.113.5, 192.0.2.9","timestamp":"24/Nov/2026:14:35:01 +0000","path":"/","status":301}"#,
    r#"{"status":200,"source_ip":"::ffff:192.0.2.1","timestamp":"1795530901","extra":0.25,"path":""}"#,
    r#"{"source_ip":"203.0.113.5, 192.0.2.9","timestamp":1795530901,"method":"","path":"/a/b/c/d/e/f/g/h/i/j/k/l/m/n/o/p/q/r/s/t","status":"499","response_size":0}"#,
    r#"{"host":"example.org","source_ip":"198.51.100.255","timestamp":"2026-11-24T15:35:01.5+01:00","path":"/\u00e9","status":500}"#,
    r#"{"source_ip":"192.0.2.1","timestamp":"2026-11-24T14:35:01Z","status":200,"ok":true,"list":[1,"x"],"path":"/"}"#,
    r#"{"ts":1795530901.5241024,"request":{"remote_ip":"192.0.2.1","client_ip":"192.0.2.1","method":"GET","uri":"/a","headers":{"A":["x"]},"tls":{"resumed":false}},"size":7,"status":404}"#,
    r#"{"@timestamp":"2026-11-24T14:35:01+00:00","remote_addr":"192.0.2.1","xff":"-","request":"GET /a HTTP/1.1","status":"502, 200","size":"7"}"#,
    r#"{"ClientAddr":"192.0.2.1:5","ClientHost":"192.0.2.1","DownstreamStatus":404,"RequestMethod":"GET","RequestPath":"/a","StartUTC":"2026-11-24T14:35:01.123456789Z","ServiceURL":{"User":null}}"#,
    r#"{"source_ip":"192.0.2.1","timestamp":1795530901123456789,"method":"-","path":"GET /a HTTP/1.1","status":200}"#,
];

/// Pieces to insert that the readers could interpret differently.
const PIECES: [&[u8]; 24] = [
    b"\"",
    b"\\",
    b"\\\"",
    b"\\u0041",
    b"\\ud83d",
    b"\\x22",
    b"\xc3\xa9",
    b"\xff",
    b"\x00",
    b"\x7f",
    b" ",
    b"00",
    b".5",
    b"1e2",
    b"-",
    b",\"status\":1",
    b"%",
    b",0",
    b":80",
    b"[",
    b"{\"a\":",
    b"\"remote_addr\":\"192.0.2.7\",",
    b"\"source_ip\":\"192.0.2.7\",",
    b"}",
];

/// Numbers at the limits of what a reader accepts.
const NUMBERS: [&[u8]; 8] = [
    b"0",
    b"007",
    b"1000",
    b"18446744073709551616",
    b"999999999999999999",
    b"1.",
    b"99999999999.1234",
    b"1795530901123",
];

/// Lines of an input that damages valid ones.
const COPIES: usize = 6;

/// `differential`.
pub fn check(data: &[u8]) {
    let mut cursor = Cursor::new(data);
    let mode = cursor.byte();
    let settings = settings(cursor.byte());
    if mode % 2 == RAW {
        return compare(&settings, cursor.rest());
    }
    let shape = cursor.pick(&SHAPES).as_bytes();
    let mut lines = vec![shape.to_vec(); COPIES];
    while !cursor.is_empty() {
        damage(&mut lines, &mut cursor);
    }
    let mut text = lines.join(&b'\n');
    text.push(b'\n');
    compare(&settings, &text);
}

fn settings(byte: u8) -> Settings {
    let fields = FieldNames { forwarded_for: Some("xff".to_owned()), ..FieldNames::default() };
    let trusted_proxies = match byte % 2 {
        0 => Vec::new(),
        _ => vec!["192.0.2.0/24".parse().expect("a network")],
    };
    let max_line_bytes = if byte / 2 % 4 == 3 { 120 } else { 64 * 1024 };
    Settings { format: Format::Json, fields, trusted_proxies, max_line_bytes }
}

/// Changes one line: overwrites a byte, inserts a piece, removes a piece, or replaces a number.
fn damage(lines: &mut [Vec<u8>], cursor: &mut Cursor<'_>) {
    let line = &mut lines[usize::from(cursor.byte()) % COPIES];
    let at = usize::from(cursor.byte()) % (line.len() + 1);
    match cursor.byte() % 5 {
        0 => {
            let byte = cursor.byte();
            line.get_mut(at).into_iter().for_each(|old| *old = byte);
        }
        1 => drop(line.splice(at..at, cursor.pick(&PIECES).iter().copied())),
        2 => {
            let end = (at + usize::from(cursor.byte() % 8)).min(line.len());
            line.drain(at..end);
        }
        3 => drop(line.splice(at..at, cursor.text().iter().copied())),
        _ => replace_number(line, at, cursor.pick(&NUMBERS)),
    }
    line.retain(|byte| *byte != b'\n');
}

fn replace_number(line: &mut Vec<u8>, from: usize, number: &[u8]) {
    let Some(start) = (from..line.len()).find(|at| line[*at].is_ascii_digit()) else { return };
    let len = line[start..].iter().take_while(|byte| byte.is_ascii_digit() || **byte == b'.').count();
    line.splice(start..start + len, number.iter().copied());
}

/// Compares `text` read as one block with its lines read by the strict reader.
fn compare(settings: &Settings, text: &[u8]) {
    let (fast, strict) = (whole(settings, text), line_by_line(settings, text));
    assert_eq!(fast, strict, "{}", String::from_utf8_lossy(text));
}
