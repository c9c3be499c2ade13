//! A list's text. Pure. Refused whole at the first line that is wrong: half a list, or a page of HTML in its place, is no list.

use std::collections::BTreeMap;

use ipnet::{IpNet, Ipv4Net};

use crate::text::{self, printable};
use shield_engine::client::Client;
use shield_engine::remotes::MAX_LISTED;
use shield_engine::settings::is_too_wide_for_a_list;

/// Characters of a note that are kept, and of a wrong line that are repeated.
const NOTE: usize = 80;

/// How a list is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// An address or a network a line; `#` and `;` begin a comment.
    Plain,
    /// The same, with further columns after a blank, a tab or a comma.
    Columns,
    /// A JSON object a line, with `cidr` or `ip`.
    JsonLines,
}

impl Format {
    pub(crate) const ALL: [(&'static str, Format); 3] =
        [("plain", Format::Plain), ("columns", Format::Columns), ("json_lines", Format::JsonLines)];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Format::Plain => "plain",
            Format::Columns => "columns",
            Format::JsonLines => "json_lines",
        }
    }
}

/// The clients of a list, each with what the list says of it.
pub(super) type Listed = BTreeMap<Client, String>;

/// Reads a list. A single IPv6 address is widened to `ipv6_prefix`, as everywhere.
pub(super) fn parse(body: &[u8], format: Format, ipv6_prefix: u8) -> Result<Listed, String> {
    let text = std::str::from_utf8(body)
        .map_err(|error| text::blocklist::no_text(line_of(body, error.valid_up_to())))?;
    let mut listed = Listed::new();
    for (at, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
        let wrong = |why: &str| text::blocklist::wrong_line(at + 1, why);
        let Some((client, note)) = entry(line, format).map_err(|why| wrong(&why))? else { continue };
        if is_nobody(client) {
            continue;
        }
        if is_too_wide_for_a_list(client) {
            return Err(wrong(&text::blocklist::too_wide(client)));
        }
        listed.entry(client.widened(ipv6_prefix)).or_insert_with(|| cut(note));
        if listed.len() > MAX_LISTED {
            return Err(text::blocklist::too_many(MAX_LISTED));
        }
    }
    if listed.is_empty() { Err(text::blocklist::EMPTY.to_owned()) } else { Ok(listed) }
}

fn entry(line: &str, format: Format) -> Result<Option<(Client, &str)>, String> {
    if format == Format::JsonLines {
        return json_entry(line).map(|found| found.map(|client| (client, "")));
    }
    let (content, note) = match line.split_once(['#', ';']) {
        Some((content, note)) => (content.trim(), note.trim()),
        None => (line.trim(), ""),
    };
    let content = match format {
        Format::Columns => content.split([' ', '\t', ',']).next().unwrap_or_default(),
        Format::Plain | Format::JsonLines => content,
    };
    if content.is_empty() {
        return Ok(None);
    }
    let client = content.parse::<Client>().map_err(|_| no_client(content))?;
    Ok(Some((client, note)))
}

fn json_entry(line: &str) -> Result<Option<Client>, String> {
    if line.trim().is_empty() {
        return Ok(None);
    }
    let object: serde_json::Value = serde_json::from_str(line).map_err(|_| no_client(line.trim()))?;
    if object["type"] == "metadata" {
        return Ok(None);
    }
    let network = object["cidr"].as_str().or_else(|| object["ip"].as_str()).unwrap_or_default();
    network.parse().map(Some).map_err(|_| no_client(line.trim()))
}

fn no_client(found: &str) -> String {
    text::blocklist::no_client(&cut(found))
}

/// Whether no packet from there can arrive: lists of unused networks name them too, and the widest are of this kind.
fn is_nobody(client: Client) -> bool {
    const NOBODY: [Ipv4Net; 3] = [
        Ipv4Net::new_assert(std::net::Ipv4Addr::new(0, 0, 0, 0), 8),
        Ipv4Net::new_assert(std::net::Ipv4Addr::new(127, 0, 0, 0), 8),
        Ipv4Net::new_assert(std::net::Ipv4Addr::new(224, 0, 0, 0), 3),
    ];
    matches!(client.network(), IpNet::V4(net) if NOBODY.iter().any(|nobody| nobody.contains(&net)))
}

fn cut(note: &str) -> String {
    printable(note).chars().take(NOTE).collect()
}

fn line_of(body: &[u8], at: usize) -> usize {
    body[..at].iter().filter(|byte| **byte == b'\n').count() + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, format: Format) -> Result<Vec<String>, String> {
        let listed = parse(text.as_bytes(), format, 64)?;
        Ok(listed.into_iter().map(|(client, note)| format!("{client} {note}").trim().to_owned()).collect())
    }

    #[test]
    fn lists_as_they_are_published() {
        let check = |text: &str, format, expected: &[&str]| {
            assert_eq!(read(text, format).unwrap(), expected, "{text}");
        };
        // Spamhaus, then the same as JSON.
        let drop =
            "; Spamhaus DROP List 2026/11/29\r\n; Expires: Sun, 29 Nov 2026\r\n192.0.2.0/24 ; SBL256894\r\n";
        check(drop, Format::Plain, &["192.0.2.0/24 SBL256894"]);
        let json = "{\"cidr\":\"192.0.2.0/24\",\"sblid\":\"SBL1\",\"rir\":\"apnic\"}\n{\"cidr\":\"2001:db8::/32\"}\n\
                    {\"type\":\"metadata\",\"records\":2}\n";
        check(json, Format::JsonLines, &["192.0.2.0/24", "2001:db8::/32"]);
        // CrowdSec and blocklist.de; unsorted, twice, with and without a prefix.
        check("203.0.113.9\n192.0.2.1/32\n203.0.113.9\n", Format::Plain, &["192.0.2.1", "203.0.113.9"]);
        // FireHOL, whose widest networks are nobody's.
        check("# set\n0.0.0.0/8\n224.0.0.0/3\n192.0.2.7", Format::Plain, &["192.0.2.7"]);
        // IPsum, and CSV.
        check("192.0.2.7\t9\n192.0.2.8,scan,3\n", Format::Columns, &["192.0.2.7", "192.0.2.8"]);
        check("\u{feff}2001:db8::1\n2001:db8::2\n", Format::Plain, &["2001:db8::/64"]);
    }

    #[test]
    fn one_wrong_line_refuses_it_whole_and_is_named() {
        let check = |text: &str, format, expected: &[&str]| {
            let why = read(text, format).unwrap_err();
            assert!(expected.iter().all(|part| why.contains(part)), "{why}");
        };
        check("<!DOCTYPE html>\n<p>192.0.2.1</p>", Format::Plain, &["line 1", "<!DOCTYPE html>"]);
        check("192.0.2.1\n192.0.2.300\n", Format::Plain, &["line 2", "192.0.2.300"]);
        check("192.0.2.1\n203.0.113", Format::Plain, &["line 2"]);
        check("192.0.2.1 - 192.0.2.9\n", Format::Plain, &["line 1", "columns"]);
        check("192.0.2.1\n0.0.0.0/0\n", Format::Plain, &["line 2", "0.0.0.0/0", "4,294,967,296"]);
        check("32.0.0.0/3\n", Format::Plain, &["line 1", "536,870,912"]);
        check("2000::/3\n", Format::Plain, &["line 1"]);
        check("{\"error\":\"limit\"}\n", Format::JsonLines, &["line 1"]);
        check("{\"cidr\":\"192.0.2.0/24\"}\n{\"cidr\":\"192.0", Format::JsonLines, &["line 2"]);
        check("\u{1b}[31mred\n", Format::Plain, &["line 1"]);
        for empty in ["", "# nothing today\n", "0.0.0.0/8\n"] {
            check(empty, Format::Plain, &["no address"]);
        }
        let why = parse(b"192.0.2.1\n\x1f\x8b\xff\n", Format::Plain, 64).unwrap_err();
        assert!(why.contains("line 2"), "{why}");
        assert!(!read("\u{1b}[31mred\n", Format::Plain).unwrap_err().contains('\u{1b}'));
    }

    #[test]
    fn a_list_has_a_longest_length() {
        let text: String = (0..=MAX_LISTED as u32)
            .map(|n| format!("{}\n", std::net::Ipv4Addr::from(0x0100_0000 + n)))
            .collect();
        let why = read(&text, Format::Plain).unwrap_err();
        assert!(why.contains("500,000"), "{why}");
    }
}
