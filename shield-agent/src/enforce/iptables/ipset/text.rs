//! The `ipset` program: its input and output. Used where netlink does not reach the kernel's ipset, and by tests on a
//! simulated host.

use std::fmt::Write as _;

use anyhow::Result;

use super::super::programs::{Failed, Programs, act};
use super::super::sets::{Element, all_failed};
use super::set::{Header, MAX_BAD_ELEMENTS, SETS, Verb};
use crate::enforce::ban::{Drops, Failure};

/// The most lines given to one `ipset restore`: about 2 MB of text.
const LINES_AT_ONCE: usize = 50_000;
/// From so many lines on, the text begins with the set's `create` line, which `-exist` ignores. ipset queries the kernel
/// again for every line that names a set not created in the same text, and sends such lines one by one; with the `create`
/// line a million elements go in three times as fast. A few lines go without it, because they then fail when somebody
/// destroyed the set, instead of creating one that nothing drops by.
const CREATE_FROM: usize = 512;

pub(super) fn headers(programs: &mut dyn Programs) -> Result<[Option<Header>; 2]> {
    let mut parser = HeaderParser::default();
    programs.run(&["ipset", "list", "-t"], b"", &mut |line| parser.take(line))?;
    Ok(parser.found)
}

/// Adds or removes elements by `ipset -exist restore`, which stops at the first line that fails. Goes on behind that line,
/// until so many have failed that the cause cannot be a single element.
pub(super) fn change<T>(
    programs: &mut dyn Programs,
    (set, create): (&str, &str),
    verb: Verb,
    items: &[T],
    element: impl Fn(&T) -> Element,
) -> Vec<Failure> {
    let mut failures = Vec::new();
    for piece in items.chunks(LINES_AT_ONCE) {
        let mut rest = piece;
        while !rest.is_empty() {
            let mut text = String::with_capacity(rest.len() * 48);
            let head = if rest.len() >= CREATE_FROM { create } else { "" };
            text.push_str(head);
            rest.iter().for_each(|item| write_line(&mut text, verb, set, &element(item)));
            let Err(error) = act(programs, &["ipset", "-exist", "restore"], &text) else { break };
            let bad = failed_line(&error)
                .and_then(|line| line.checked_sub(head.lines().count()))
                .filter(|line| (1..=rest.len()).contains(line));
            match bad {
                Some(line) if failures.len() < MAX_BAD_ELEMENTS => {
                    failures.extend(all_failed([element(&rest[line - 1]).client], &error));
                    rest = &rest[line..];
                }
                _ => {
                    let from = bad.map_or(0, |line| line - 1);
                    failures.extend(all_failed(rest[from..].iter().map(|item| element(item).client), &error));
                    break;
                }
            }
        }
    }
    failures
}

fn write_line(out: &mut String, verb: Verb, set: &str, element: &Element) {
    let client = element.client;
    let _ = match verb {
        Verb::Add => write!(out, "add {set} {client} timeout {}", element.timeout_secs),
        Verb::Remove => write!(out, "del {set} {client}"),
    };
    if verb == Verb::Add && element.drops != Drops::default() {
        let _ = write!(out, " packets {} bytes {}", element.drops.packets, element.drops.bytes);
    }
    out.push('\n');
}

/// The number in `ipset v7.17: Error in line 3: …`.
fn failed_line(error: &anyhow::Error) -> Option<usize> {
    let rest = error.downcast_ref::<Failed>()?.stderr.split_once("Error in line ")?.1;
    rest.split_once(':')?.0.parse().ok()
}

pub(super) fn list(programs: &mut dyn Programs, set: &str, each: &mut dyn FnMut(Element)) -> Result<()> {
    programs.run(&["ipset", "save", set], b"", &mut |line| {
        if let Some(element) = parse_element(line) {
            each(element);
        }
    })
}

/// `add NAME CLIENT timeout SECS packets N bytes N`.
fn parse_element(line: &str) -> Option<Element> {
    let mut words = line.strip_prefix("add ")?.split(' ').skip(1);
    let client = words.next()?.parse().ok()?;
    let mut element = Element { client, timeout_secs: 0, drops: Drops::default() };
    while let (Some(key), Some(value)) = (words.next(), words.next()) {
        match key {
            "timeout" => element.timeout_secs = value.parse().ok()?,
            "packets" => element.drops.packets = value.parse().ok()?,
            "bytes" => element.drops.bytes = value.parse().ok()?,
            _ => {}
        }
    }
    Some(element)
}

/// Parses `ipset list -t`: a block of `Key: value` lines for each set.
#[derive(Default)]
struct HeaderParser {
    found: [Option<Header>; 2],
    current: Option<usize>,
}

impl HeaderParser {
    fn take(&mut self, line: &str) {
        let Some((key, value)) = line.split_once(": ") else { return };
        if key == "Name" {
            self.current = SETS.iter().position(|name| *name == value);
            if let Some(at) = self.current {
                self.found[at] = Some(Header::default());
            }
            return;
        }
        let Some(header) = self.current.and_then(|at| self.found[at].as_mut()) else { return };
        match key {
            "Type" => header.is_ours = value == "hash:net",
            "Header" => {
                header.is_ours &= ["timeout", "counters"].iter().all(|w| value.split(' ').any(|v| v == *w));
                let number = |word: &str| {
                    let mut words = value.split(' ').skip_while(|there| *there != word);
                    words.nth(1).and_then(|number| number.parse().ok()).unwrap_or(0)
                };
                header.max_entries = number("maxelem");
                header.buckets = number("hashsize");
            }
            "Number of entries" => header.entries = value.parse().unwrap_or(0),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_as_ipset_saves_them() {
        let check = |line: &str, client: &str, timeout_secs, packets| {
            let element = parse_element(line).unwrap();
            let drops = Drops { packets, bytes: packets * 60 };
            assert_eq!(element, Element { client: client.parse().unwrap(), timeout_secs, drops }, "{line}");
        };
        check("add shield4 192.0.2.1 timeout 9 packets 2 bytes 120", "192.0.2.1", 9, 2);
        check("add shield4 192.0.2.0/24 timeout 0 packets 0 bytes 0", "192.0.2.0/24", 0, 0);
        check("add shield6 2001:db8:1::/64 timeout 5 packets 1 bytes 60", "2001:db8:1::/64", 5, 1);
        assert_eq!(parse_element("create shield4 hash:net family inet"), None);
    }

    #[test]
    fn headers_as_ipset_lists_them() {
        let text = "\
Name: other
Type: hash:ip
Header: family inet hashsize 1024 maxelem 65536
Number of entries: 7

Name: shield4
Type: hash:net
Revision: 7
Header: family inet hashsize 1024 maxelem 1000000 timeout 0 counters bucketsize 12 initval 0x7e418f85
Size in memory: 456
References: 1
Number of entries: 12
";
        let mut parser = HeaderParser::default();
        text.lines().for_each(|line| parser.take(line));
        let ours = Header { is_ours: true, max_entries: 1_000_000, buckets: 1024, entries: 12 };
        assert_eq!(parser.found, [Some(ours), None]);
    }

    #[test]
    fn the_line_that_failed() {
        let failed = |stderr: &str| {
            let (command, status) = ("ipset -exist restore".to_owned(), "exit status: 1".to_owned());
            failed_line(&Failed { command, status, stderr: stderr.to_owned() }.into())
        };
        assert_eq!(failed("ipset v7.17: Error in line 3: Hash is full"), Some(3));
        assert_eq!(failed("ipset v7.17: Kernel error received: Operation not permitted"), None);
    }
}
