//! The target `formats`: lines of a `log_format` are read back exactly whatever a client writes into its texts, and in a log whose
//! format is recognised no client can choose the address that its line is charged to.

use crate::cursor::Cursor;
use crate::reading::{Reading, whole};
use crate::writing::{Escape, escaped, hex};
use shield_logline::{Format, Recipe, Settings};

/// The first byte of an input that is lines as they are.
pub const RAW: u8 = 0;
/// The first byte of an input that lines of a configured format are written from.
pub const CONFIGURED: u8 = 1;
/// The first byte of an input that lines of a recognised format are written from.
pub const RECOGNISED: u8 = 2;

/// The first byte of an input that lines of a configured format are written from in which a client can imitate the status.
pub const GUESSED: u8 = 3;

/// The client of every written line. The fuzzer's texts are full of other addresses.
const ADDR: &str = "198.51.100.7";

/// 2026-11-24T14:35:01Z.
const SECOND: i64 = 1_795_530_901;

/// Formats with a client's texts in every place in which one is accepted.
pub const CONFIGURABLE: [&str; 14] = [
    "$remote_addr - $remote_user [$time_local] \"$request\" $status $body_bytes_sent \"$http_referer\" \"$http_user_agent\"",
    "$host $remote_addr - $remote_user [$time_iso8601] \"$request\" $status $body_bytes_sent",
    "\"$http_host\" $remote_addr [$time_local] \"$request\" $status $body_bytes_sent",
    "[$time_local] $status - $request_method $scheme $host \"$request_uri\" [Client $remote_addr] [Length $body_bytes_sent]",
    "$http_user_agent $status $body_bytes_sent $remote_addr $msec \"$request\"",
    "$remote_addr\t$http_user_agent\t$time_iso8601\t$request_method\t$request_uri\t$status\t$body_bytes_sent",
    "$remote_addr $request_method $request_uri $status $body_bytes_sent $time_local",
    "\"$http_user_agent\" \"$http_referer\" \"$request\" \"$remote_addr\" \"$status\" \"$body_bytes_sent\" \"$time_local\"",
    "$time_local | $remote_user | $remote_addr \"$request_method $request_uri\" $status $body_bytes_sent",
    "$remote_user \"$remote_addr\" $msec $status $body_bytes_sent \"$request\" $http_user_agent",
    "escape=json '$remote_addr - $remote_user [$time_iso8601] \"$request\" $status $body_bytes_sent \"$http_user_agent\"'",
    "escape=json '$http_user_agent $status $body_bytes_sent $remote_addr $msec \"$request\"'",
    "escape=none '$remote_addr $msec $status $body_bytes_sent $request'",
    "escape=none '$http_user_agent $status $body_bytes_sent $remote_addr $time_iso8601 GET $request_method'",
];

/// Formats with a client's texts around the status, where nothing marks their ends.
pub const GUESSABLE: [&str; 4] = [
    "$remote_addr|$time_iso8601|$request_method|$request_uri|$status|$body_bytes_sent|$http_user_agent",
    "$time_local | $remote_addr | $request | $host | $status | $body_bytes_sent | $remote_user",
    "escape=json '$remote_addr|$msec|$status|$request|$http_user_agent'",
    "escape=none '$remote_addr\t$msec\t$request\t$http_user_agent\t$status\t$body_bytes_sent\t$http_referer'",
];

/// Formats that are recognised by themselves, with a client's texts in them.
pub const KNOWN: [&str; 9] = [
    "$remote_addr - $remote_user [$time_local] \"$request\" $status $body_bytes_sent \"$http_referer\" \"$http_user_agent\"",
    "$remote_addr - $remote_user [$time_iso8601] \"$request\" $status $body_bytes_sent",
    "$host $remote_addr - $remote_user [$time_local] \"$request\" $status $body_bytes_sent \"$http_user_agent\"",
    "[$time_local] - - $status - $request_method $scheme $host \"$request_uri\" [Client $remote_addr] [Length $body_bytes_sent] \"$http_user_agent\"",
    "$time_iso8601 $host $remote_addr \"$request\" $status $body_bytes_sent \"$http_user_agent\"",
    "$time_iso8601 $remote_addr $host \"$request\" $status $body_bytes_sent",
    "[$time_local] $remote_addr - $remote_user \"$request\" $status $body_bytes_sent",
    "Nov 24 14:35:01 web nginx: $host $remote_addr - $remote_user [$time_local] \"$request\" $status $body_bytes_sent",
    "\u{1b}[36mnginx.1    | \u{1b}[0m$host $remote_addr - $remote_user [$time_local] \"$request\" $status $body_bytes_sent",
];

/// Lines of an input at most.
const MAX_LINES: usize = 8;

/// `formats`.
pub fn check(data: &[u8]) {
    let mut cursor = Cursor::new(data);
    match cursor.byte() % 4 {
        RAW => drop(whole(&Settings::default(), cursor.rest())),
        CONFIGURED => configured(cursor),
        GUESSED => guessed(cursor),
        _ => recognised(cursor),
    }
}

/// What a line has.
#[derive(Debug)]
struct Entry {
    status: u16,
    size: u32,
    path: Vec<u8>,
    user: Vec<u8>,
    host: Vec<u8>,
    agent: Vec<u8>,
}

impl Entry {
    fn of(cursor: &mut Cursor<'_>) -> Entry {
        let (status, size) = (100 + cursor.short() % 900, cursor.word());
        let [path, user, mut host, agent] = std::array::from_fn(|_| cursor.text().to_vec());
        // nginx refuses the others.
        host.retain(|byte| *byte > b' ' && !matches!(byte, b'/' | 0x7f));
        Entry { status, size, path, user, host, agent }
    }

    fn usual() -> Entry {
        let text = |text: &str| text.as_bytes().to_vec();
        Entry {
            status: 200,
            size: 1,
            path: text("/"),
            user: text("-"),
            host: text("www.example.org"),
            agent: text("agent"),
        }
    }

    fn value(&self, name: &str) -> Vec<u8> {
        match name {
            "remote_addr" => ADDR.into(),
            "time_local" => "24/Nov/2026:15:35:01 +0100".into(),
            "time_iso8601" => "2026-11-24T14:35:01+00:00".into(),
            "msec" => "1795530901.123".into(),
            "status" => self.status.to_string().into(),
            "body_bytes_sent" => self.size.to_string().into(),
            "request_method" => "GET".into(),
            "scheme" => "https".into(),
            "request" => [b"GET ", &self.path[..], b" HTTP/1.1"].concat(),
            "request_uri" => self.path.clone(),
            "remote_user" => self.user.clone(),
            "host" | "http_host" => self.host.clone(),
            _ => self.agent.clone(),
        }
    }

    /// Writes the line as nginx does.
    fn write(&self, format: &str) -> Vec<u8> {
        let (word, text) = match format.strip_prefix("escape=") {
            Some(rest) => rest.split_once(' ').expect("a text behind"),
            None => ("default", format),
        };
        let escape = |value: &[u8]| match word {
            "default" if value.is_empty() => b"-".to_vec(),
            "default" => hex(value),
            "json" => escaped(value, Escape::Json),
            _ => value.to_vec(),
        };
        let mut line = Vec::new();
        let mut pieces = text.trim_matches('\'').split('$');
        line.extend_from_slice(pieces.next().unwrap_or_default().as_bytes());
        for piece in pieces {
            let len = piece.bytes().take_while(|byte| byte.is_ascii_alphanumeric() || *byte == b'_').count();
            line.extend(escape(&self.value(&piece[..len])));
            line.extend_from_slice(&piece.as_bytes()[len..]);
        }
        line
    }
}

fn entries(cursor: &mut Cursor<'_>) -> Vec<Entry> {
    let mut entries = Vec::new();
    while !cursor.is_empty() && entries.len() < MAX_LINES {
        entries.push(Entry::of(cursor));
    }
    entries
}

fn configured(mut cursor: Cursor<'_>) {
    let pasted = cursor.pick(&CONFIGURABLE);
    let Ok(Recipe::Text(template)) = Recipe::of(pasted) else { panic!("{pasted} is refused") };
    let settings = Settings { format: Format::Template(template), ..Settings::default() };
    for mut entry in entries(&mut cursor) {
        if pasted.starts_with("escape=none") {
            for text in [&mut entry.path, &mut entry.agent] {
                text.retain(|byte| !matches!(byte, b'\r' | b'\n'));
            }
        }
        let line = [entry.write(pasted), b"\n".to_vec()].concat();
        let shown = String::from_utf8_lossy(&line);
        let Reading { seen, rejected } = whole(&settings, &line);
        assert_eq!(seen.len(), 1, "{pasted}: refused {rejected:?}: {shown}");
        let line = seen[0].line;
        assert_eq!(line.addr.to_string(), ADDR, "{pasted}: {shown}");
        let found = (line.status, line.time, line.size, line.salvaged);
        assert_eq!(found, (entry.status, SECOND, u64::from(entry.size), false), "{pasted}: {shown}");
        let has_path =
            pasted.contains("$request ") || pasted.contains("$request\"") || pasted.contains("$request_uri");
        if has_path && !entry.path.is_empty() && entry.path != b"-" {
            assert_eq!(seen[0].path, entry.path, "{pasted}: {shown}");
        }
    }
}

/// Whatever the client writes, its line is read, its own, and never better than it was.
fn guessed(mut cursor: Cursor<'_>) {
    let pasted = cursor.pick(&GUESSABLE);
    let Ok(Recipe::Text(template)) = Recipe::of(pasted) else { panic!("{pasted} is refused") };
    let settings = Settings { format: Format::Template(template), ..Settings::default() };
    for mut entry in entries(&mut cursor) {
        if pasted.starts_with("escape=none") {
            for text in [&mut entry.path, &mut entry.agent] {
                text.retain(|byte| !matches!(byte, b'\r' | b'\n'));
            }
        }
        let line = [entry.write(pasted), b"\n".to_vec()].concat();
        let shown = String::from_utf8_lossy(&line);
        let Reading { seen, rejected } = whole(&settings, &line);
        assert_eq!(seen.len(), 1, "{pasted}: refused {rejected:?}: {shown}");
        let line = seen[0].line;
        assert_eq!((line.addr.to_string().as_str(), line.time), (ADDR, SECOND), "{pasted}: {shown}");
        assert!(
            line.status == entry.status || (line.salvaged && entry.status != 404),
            "{pasted}: {} for {}: {shown}",
            line.status,
            entry.status
        );
    }
}

fn recognised(mut cursor: Cursor<'_>) {
    let format = cursor.pick(&KNOWN);
    let usual = if cursor.byte().is_multiple_of(2) { vec![Entry::usual()] } else { Vec::new() };
    let lines: Vec<Vec<u8>> = usual
        .into_iter()
        .chain(entries(&mut cursor))
        .map(|entry| [entry.write(format), b"\n".to_vec()].concat())
        .collect();
    let text = lines.concat();
    for seen in whole(&Settings::default(), &text).seen {
        assert_eq!(seen.line.addr.to_string(), ADDR, "{format}: {}", String::from_utf8_lossy(&text));
    }
}
