//! Sets kept by ipset: `hash:net` with timeouts and counters, dropped by one rule of our iptables chain.
//!
//! `hash:net` holds single addresses, IPv6 prefixes and networks alike; a look-up costs one hash probe for each prefix
//! length in use. Changes go in through `ipset restore`, one process a batch.

use std::fmt::Write as _;

use anyhow::{Context as _, Result, anyhow};

use super::chain::Rule;
use super::programs::{Programs, act};
use super::sets::{Element, SetStore, Version, all_failed};
use crate::enforce::{Drops, Failure};
use crate::engine::client::Client;

/// Lines given to one `ipset restore`: about 2 MB of text.
const LINES_AT_ONCE: usize = 50_000;
/// From so many lines on, the set is named once more at the head (`create`, which `-exist` makes nothing of): a set that
/// it has not met by name in the same text, ipset asks the kernel about once more for every line, and sends the lines one
/// by one. With it a million elements go in three times as fast. For a few lines the plain form is better, because it
/// fails when somebody destroyed the set.
const HEADED_FROM: usize = 512;
/// A batch in which so many single lines failed is given up: what is wrong is not one line.
const MAX_BAD_LINES: usize = 8;
/// ipset's smallest useful hash; it grows by doubling.
const MIN_HASH: usize = 1024;

/// The store. Set names are this version's.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ipset {
    /// The most elements of the IPv4 and of the IPv6 set.
    pub(super) max_entries: [usize; 2],
}

const SETS: [&str; 2] = ["shield4", "shield6"];
/// The name a set has while its replacement is filled.
const SPARE: [&str; 2] = ["shield4-new", "shield6-new"];

/// What `ipset list -t` says of a set.
#[derive(Debug, Default, PartialEq, Eq)]
struct Header {
    is_ours: bool,
    max_entries: usize,
    entries: usize,
}

impl Ipset {
    fn headers(&self, programs: &mut dyn Programs) -> Result<[Option<Header>; 2]> {
        let mut parser = HeaderParser::default();
        programs.run(&["ipset", "list", "-t"], b"", &mut |line| parser.take(line))?;
        Ok(parser.found)
    }

    fn create_line(&self, name: &str, version: Version, room: usize) -> String {
        let family = match version {
            Version::V4 => "inet",
            Version::V6 => "inet6",
        };
        let max = self.max_entries[version as usize];
        // Buckets hold up to 12 elements and fill evenly at a few.
        let hash = (room.min(max) / 4).next_power_of_two().max(MIN_HASH);
        format!("create {name} hash:net family {family} hashsize {hash} maxelem {max} timeout 0 counters\n")
    }

    /// A set of our name with other parameters: its elements go into a new one that takes its place at once.
    fn replace(&self, programs: &mut dyn Programs, version: Version, room: usize) -> Result<()> {
        let (name, spare) = (SETS[version as usize], SPARE[version as usize]);
        let mut elements = Vec::new();
        list_set(programs, name, &mut |element| elements.push(element))?;
        let create = self.create_line(spare, version, room);
        act(programs, &["ipset", "restore"], &create)?;
        let failures = add_to(programs, spare, &create, &elements);
        if let Some(failure) = failures.first() {
            let error = anyhow!("{:#}", failure.error).context(format!("copied {name} into a larger set"));
            act(programs, &["ipset", "destroy", spare], "")?;
            return Err(error);
        }
        act(programs, &["ipset", "restore"], &format!("swap {name} {spare}\ndestroy {spare}\n"))
    }
}

impl SetStore for Ipset {
    fn name(&self) -> &'static str {
        "ipset"
    }

    fn probe(&self, programs: &mut dyn Programs) -> Result<()> {
        programs.run(&["ipset", "list", "-n"], b"", &mut |_| {})
    }

    fn ensure(&self, programs: &mut dyn Programs, version: Version, room: usize) -> Result<()> {
        let name = SETS[version as usize];
        let [v4, v6] = self.headers(programs)?;
        match if version == Version::V4 { v4 } else { v6 } {
            None => act(programs, &["ipset", "restore"], &self.create_line(name, version, room))
                .with_context(|| format!("made the set {name}")),
            Some(header) if header.is_ours && header.max_entries == self.max_entries[version as usize] => {
                Ok(())
            }
            Some(_) => self.replace(programs, version, room),
        }
    }

    fn counts(&self, programs: &mut dyn Programs) -> Result<[Option<usize>; 2]> {
        Ok(self.headers(programs)?.map(|header| header.map(|header| header.entries)))
    }

    fn list(
        &self,
        programs: &mut dyn Programs,
        version: Version,
        each: &mut dyn FnMut(Element),
    ) -> Result<()> {
        list_set(programs, SETS[version as usize], each)
    }

    fn add(&self, programs: &mut dyn Programs, version: Version, elements: &[Element]) -> Vec<Failure> {
        let name = SETS[version as usize];
        add_to(programs, name, &self.create_line(name, version, elements.len()), elements)
    }

    fn remove(&self, programs: &mut dyn Programs, version: Version, clients: &[Client]) -> Vec<Failure> {
        let name = SETS[version as usize];
        restore(
            programs,
            &self.create_line(name, version, clients.len()),
            clients,
            |client| *client,
            |client, out| {
                let _ = writeln!(out, "del {name} {client}");
            },
        )
    }

    fn exempt(&self, _: &mut dyn Programs, _: Version, _: &[ipnet::IpNet]) -> Result<()> {
        Ok(())
    }

    fn rule(&self, version: Version) -> Option<Rule> {
        Some(Rule::DropSet(SETS[version as usize].to_owned()))
    }

    fn own_drops(&self, _: &mut dyn Programs) -> Result<Drops> {
        Ok(Drops::default())
    }

    fn destroy(&self, programs: &mut dyn Programs, version: Version) -> Result<bool> {
        let mut names = Vec::new();
        programs.run(&["ipset", "list", "-n"], b"", &mut |line| names.push(line.to_owned()))?;
        let at = version as usize;
        let ours: Vec<&str> =
            [SETS[at], SPARE[at]].into_iter().filter(|name| names.iter().any(|n| n == name)).collect();
        for name in &ours {
            act(programs, &["ipset", "destroy", name], "")?;
        }
        Ok(!ours.is_empty())
    }
}

fn add_to(programs: &mut dyn Programs, name: &str, create: &str, elements: &[Element]) -> Vec<Failure> {
    restore(
        programs,
        create,
        elements,
        |element| element.client,
        |element, out| {
            let _ = write!(out, "add {name} {} timeout {}", element.client, element.timeout_secs);
            if element.drops != Drops::default() {
                let _ = write!(out, " packets {} bytes {}", element.drops.packets, element.drops.bytes);
            }
            out.push('\n');
        },
    )
}

/// Feeds lines to `ipset -exist restore`. It stops at the first line that fails: that one is noted and the rest goes on,
/// until it is plain that the trouble is not one line's. `create` heads a long text.
fn restore<T>(
    programs: &mut dyn Programs,
    create: &str,
    items: &[T],
    client: impl Fn(&T) -> Client,
    write_line: impl Fn(&T, &mut String),
) -> Vec<Failure> {
    let mut failures = Vec::new();
    for piece in items.chunks(LINES_AT_ONCE) {
        let mut rest = piece;
        while !rest.is_empty() {
            let mut text = String::with_capacity(rest.len() * 48);
            let head = if rest.len() >= HEADED_FROM { create } else { "" };
            text.push_str(head);
            rest.iter().for_each(|item| write_line(item, &mut text));
            let Err(error) = act(programs, &["ipset", "-exist", "restore"], &text) else { break };
            let bad = failed_line(&format!("{error:#}"))
                .and_then(|line| line.checked_sub(head.lines().count()))
                .filter(|line| (1..=rest.len()).contains(line));
            match bad {
                Some(line) if failures.len() < MAX_BAD_LINES => {
                    failures.extend(all_failed([client(&rest[line - 1])], &error));
                    rest = &rest[line..];
                }
                _ => {
                    let from = bad.map_or(0, |line| line - 1);
                    failures.extend(all_failed(rest[from..].iter().map(&client), &error));
                    break;
                }
            }
        }
    }
    failures
}

/// The number in `ipset v7.17: Error in line 3: …`.
fn failed_line(said: &str) -> Option<usize> {
    let rest = said.split_once("Error in line ")?.1;
    rest.split_once(':')?.0.parse().ok()
}

fn list_set(programs: &mut dyn Programs, name: &str, each: &mut dyn FnMut(Element)) -> Result<()> {
    programs.run(&["ipset", "save", name], b"", &mut |line| {
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

/// Reads `ipset list -t`: a block of `Key: value` lines a set.
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
                let mut words = value.split(' ');
                header.is_ours &= ["timeout", "counters"].iter().all(|w| value.split(' ').any(|v| v == *w));
                header.max_entries = words
                    .find(|word| *word == "maxelem")
                    .and_then(|_| words.next()?.parse().ok())
                    .unwrap_or(0);
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
        let ours = Header { is_ours: true, max_entries: 1_000_000, entries: 12 };
        assert_eq!(parser.found, [Some(ours), None]);
    }

    #[test]
    fn the_line_that_failed() {
        let said =
            "`ipset -exist restore` ended with exit status: 1: ipset v7.17: Error in line 3: Hash is full";
        assert_eq!(failed_line(said), Some(3));
        assert_eq!(failed_line("ipset v7.17: Kernel error received: Operation not permitted"), None);
    }
}
