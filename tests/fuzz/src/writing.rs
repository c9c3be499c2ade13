//! Writes log lines as web servers do. The readers must give back their entries exactly.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::cursor::Cursor;
use crate::reading::Seen;
use shield_logline::Format;

/// 24 November 2026, 14:00:00 UTC.
const HOUR: i64 = 1_795_528_800;

/// The escaping of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Escape {
    /// nginx, `escape=json`.
    Json,
    /// nginx without it, and Apache: `\xHH`.
    Hex,
}

/// A logged request before it is written.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The client.
    pub addr: IpAddr,
    /// Seconds since [`HOUR`], below 3600.
    pub second: u16,
    /// Any bytes without a space.
    pub method: Vec<u8>,
    /// Any bytes.
    pub path: Vec<u8>,
    /// 100..=999.
    pub status: u16,
    /// Bytes sent.
    pub size: u32,
    /// Any bytes, in a field that is not read.
    pub agent: Vec<u8>,
}

impl Entry {
    /// Makes an entry of the fuzzer's bytes.
    pub fn of(cursor: &mut Cursor<'_>) -> Entry {
        let addr = match cursor.byte() % 4 {
            0 => IpAddr::V6(Ipv6Addr::new(
                0x2001,
                0xdb8,
                cursor.short(),
                0,
                0,
                0,
                cursor.short(),
                cursor.short(),
            )),
            1 => IpAddr::V4(Ipv4Addr::from_bits(cursor.word())),
            n => IpAddr::V4(Ipv4Addr::new(192, 0, n, cursor.byte())),
        };
        let mut method = match cursor.byte() % 4 {
            0 => cursor.text().to_vec(),
            n => [&b"GET"[..], b"POST", b"PROPFIND"][usize::from(n) - 1].to_vec(),
        };
        method.retain(|byte| *byte != b' ');
        Entry {
            addr,
            second: cursor.short() % 3600,
            method,
            path: cursor.text().to_vec(),
            status: 100 + cursor.short() % 900,
            size: cursor.word(),
            agent: cursor.text().to_vec(),
        }
    }

    /// Returns whether a line read from the log equals this entry.
    pub fn is_read_as(&self, seen: &Seen) -> bool {
        let line = &seen.line;
        line.addr == self.addr
            && line.time == HOUR + i64::from(self.second)
            && line.status == self.status
            && line.size == u64::from(self.size)
            && (self.is_request_line() || is_text(&self.method, &seen.method))
            && (self.is_request_line() || is_text(&self.path, &seen.path))
            && !line.behind_proxy
    }

    /// The path could be a whole request line, which a JSON field named so may hold.
    fn is_request_line(&self) -> bool {
        self.path.first().is_some_and(u8::is_ascii_alphabetic)
            && (self.path.windows(6).any(|text| text == b" HTTP/")
                || self.path.windows(2).any(|text| text == b" /"))
    }

    /// Writes the line without its newline.
    pub fn write(&self, format: &Format, escape: Escape, cursor: &mut Cursor<'_>) -> Vec<u8> {
        match format {
            Format::Auto | Format::Json => self.json(escape, cursor),
            Format::Combined => [&self.common()[..], b" \"-\" \"", &hex(&self.agent), b"\""].concat(),
            Format::Common | Format::Template(_) => self.common(),
        }
    }

    fn common(&self) -> Vec<u8> {
        let (minute, second) = (self.second / 60, self.second % 60);
        let head = format!("{} - - [24/Nov/2026:15:{minute:02}:{second:02} +0100] \"", self.addr);
        let tail = format!(" HTTP/1.1\" {} {}", self.status, self.size);
        [head.as_bytes(), &hex(&self.method), b" ", &hex(&self.path), tail.as_bytes()].concat()
    }

    /// Writes the fields in an order that the cursor chooses, quoted or bare where real logs have both.
    fn json(&self, escape: Escape, cursor: &mut Cursor<'_>) -> Vec<u8> {
        let text = |text: &[u8]| [b"\"", &escaped(text, escape)[..], b"\""].concat();
        let (minute, second) = (self.second / 60, self.second % 60);
        let bare = |number: String, is_quoted: bool| if is_quoted { format!("\"{number}\"") } else { number };
        let odd = |byte: u8| byte % 2 == 1;
        let time = match cursor.byte() % 3 {
            0 => format!("\"2026-11-24T14:{minute:02}:{second:02}+00:00\""),
            1 => format!("\"24/Nov/2026:14:{minute:02}:{second:02} +0000\""),
            _ => format!("{}.{:03}", HOUR + i64::from(self.second), self.size % 1000),
        };
        let mut fields = vec![
            ("source_ip", text(self.addr.to_string().as_bytes())),
            ("timestamp", time.into_bytes()),
            ("method", text(&self.method)),
            ("path", text(&self.path)),
            ("status", bare(self.status.to_string(), odd(cursor.byte())).into_bytes()),
            ("response_size", bare(self.size.to_string(), odd(cursor.byte())).into_bytes()),
            ("agent", text(&self.agent)),
        ];
        let mut line = Vec::new();
        while !fields.is_empty() {
            let (name, value) = fields.remove(usize::from(cursor.byte()) % fields.len());
            let before = if line.is_empty() { "{" } else { "," };
            line.extend_from_slice(format!("{before}\"{name}\":").as_bytes());
            line.extend_from_slice(&value);
        }
        line.push(b'}');
        line
    }
}

/// A single dash is nginx's sign for an empty text where it is a field of its own.
fn is_text(written: &[u8], read: &[u8]) -> bool {
    read == written || (written == b"-" && read.is_empty())
}

pub fn escaped(text: &[u8], escape: Escape) -> Vec<u8> {
    match escape {
        Escape::Json => text.iter().flat_map(|byte| json_escape(*byte)).collect(),
        Escape::Hex => hex(text),
    }
}

/// `ngx_escape_json`.
fn json_escape(byte: u8) -> Vec<u8> {
    match byte {
        b'"' | b'\\' => vec![b'\\', byte],
        b'\n' => b"\\n".to_vec(),
        b'\r' => b"\\r".to_vec(),
        b'\t' => b"\\t".to_vec(),
        0x08 => b"\\b".to_vec(),
        0x0c => b"\\f".to_vec(),
        0..0x20 => format!("\\u{byte:04X}").into_bytes(),
        _ => vec![byte],
    }
}

/// `ngx_http_log_escape`.
pub fn hex(text: &[u8]) -> Vec<u8> {
    let escape = |byte: &u8| match byte {
        b'"' | b'\\' | 0..0x20 | 0x7f.. => format!("\\x{byte:02X}").into_bytes(),
        _ => vec![*byte],
    };
    text.iter().flat_map(escape).collect()
}
