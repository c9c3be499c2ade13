//! Sets in nftables tables of our own (`ip shield`, `ip6 shield`), where ipset is absent.
//!
//! iptables cannot match an nftables set, so these tables have chains of their own, hooked before iptables' filter
//! chains. One plain hash set for each prefix length in use, looked up by the masked source address: unlike interval
//! sets they take overlapping networks and stay fast to fill.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use anyhow::{Context as _, Result};
use ipnet::IpNet;
use serde_json::Value;

use super::chain::Rule;
use super::programs::{Programs, act};
use super::sets::{Element, SetStore, Version, all_failed};
use crate::enforce::ban::{Drops, Failure};
use shield_engine::client::Client;
use shield_engine::client::prefix_mask;

/// Elements given to one `nft -f`: more would exceed its netlink socket buffer.
const MAX_ELEMENTS_PER_SCRIPT: usize = 4_000;
/// Just before iptables' filter chains (priority 0).
const PRIORITY: i32 = -1;
const TABLE: &str = "shield";

/// The store of sets in nftables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Nft {
    /// The most elements of each IPv4 and of each IPv6 set.
    pub(super) max_entries: [usize; 2],
}

fn family(version: Version) -> &'static str {
    match version {
        Version::V4 => "ip",
        Version::V6 => "ip6",
    }
}

fn prefix(client: &Client) -> u8 {
    client.network().prefix_len()
}

impl Nft {
    /// Creates the sets of these prefix lengths and the rules that drop by them, where they are missing.
    fn ensure_lengths(
        &self,
        programs: &mut dyn Programs,
        version: Version,
        lengths: impl Iterator<Item = u8>,
    ) -> Result<()> {
        let wanted: BTreeSet<u8> = lengths.collect();
        let there = self.lengths(programs, version)?;
        let mut script = String::new();
        for length in wanted.difference(&there) {
            self.write_length(&mut script, version, *length);
        }
        if script.is_empty() {
            return Ok(());
        }
        run_script(programs, &script)
    }

    fn write_length(&self, script: &mut String, version: Version, length: u8) {
        let family = family(version);
        let (kind, mask) = match version {
            Version::V4 => {
                let bits = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
                ("ipv4_addr", std::net::Ipv4Addr::from_bits(bits).to_string())
            }
            Version::V6 => ("ipv6_addr", std::net::Ipv6Addr::from_bits(prefix_mask(length)).to_string()),
        };
        let size = self.max_entries[version as usize];
        let _ = writeln!(
            script,
            "add set {family} {TABLE} len{length} {{ type {kind}; flags timeout; size {size}; counter; }}"
        );
        for chain in CHAINS {
            let _ = writeln!(
                script,
                "add rule {family} {TABLE} {chain} {family} saddr & {mask} @len{length} counter drop"
            );
        }
    }

    fn lengths(&self, programs: &mut dyn Programs, version: Version) -> Result<BTreeSet<u8>> {
        let mut lengths = BTreeSet::new();
        for_each_object(programs, &["nft", "-j", "list", "sets", family(version)], |kind, object| {
            if kind == "set" && object["table"] == TABLE {
                lengths.extend(set_length(object));
            }
        })?;
        Ok(lengths)
    }

    /// Returns `true` if every set has its rule in every chain: another program may have flushed a chain and left the sets.
    fn has_all_rules(&self, programs: &mut dyn Programs, version: Version) -> Result<bool> {
        let wanted = self.lengths(programs, version)?.len() * CHAINS.len();
        let mut rules = 0;
        let argv = ["nft", "-t", "list", "table", family(version), TABLE];
        programs.run(&argv, b"", &mut |line| rules += usize::from(line.contains(" @len")))?;
        Ok(rules == wanted)
    }

    fn exists(&self, programs: &mut dyn Programs, version: Version) -> Result<bool> {
        let mut exists = false;
        for_each_object(programs, &["nft", "-j", "list", "tables", family(version)], |kind, object| {
            exists |= kind == "table" && object["name"] == TABLE;
        })?;
        Ok(exists)
    }
}

/// The base chains of each table, hooked like the chains of iptables that have the same names.
const CHAINS: [&str; 2] = ["input", "forward"];

fn set_length(set: &Value) -> Option<u8> {
    set["name"].as_str()?.strip_prefix("len")?.parse().ok()
}

impl SetStore for Nft {
    fn name(&self) -> &'static str {
        "nftables sets"
    }

    fn probe(&self, programs: &mut dyn Programs) -> Result<()> {
        self.exists(programs, Version::V4).map(drop)
    }

    fn ensure(&self, programs: &mut dyn Programs, version: Version, _room: usize) -> Result<()> {
        let family = family(version);
        let mut script = format!("add table {family} {TABLE}\n");
        for chain in CHAINS {
            let _ = writeln!(
                script,
                "add chain {family} {TABLE} {chain} {{ type filter hook {chain} priority {PRIORITY}; policy accept; }}"
            );
        }
        if !self.exists(programs, version)? {
            run_script(programs, &script)?;
        }
        let usual = match version {
            Version::V4 => 32,
            Version::V6 => 64,
        };
        self.ensure_lengths(programs, version, std::iter::once(usual))
    }

    fn counts(&self, programs: &mut dyn Programs) -> Result<[Option<usize>; 2]> {
        let mut counts = [None, None];
        for version in Version::ALL {
            if self.exists(programs, version)? && self.has_all_rules(programs, version)? {
                let mut count = 0;
                self.list(programs, version, &mut |_| count += 1)?;
                counts[version as usize] = Some(count);
            }
        }
        Ok(counts)
    }

    fn list(
        &self,
        programs: &mut dyn Programs,
        version: Version,
        each: &mut dyn FnMut(Element),
    ) -> Result<()> {
        if !self.exists(programs, version)? {
            return Ok(());
        }
        for length in self.lengths(programs, version)? {
            let name = format!("len{length}");
            let argv = ["nft", "-j", "list", "set", family(version), TABLE, &name];
            for_each_object(programs, &argv, |kind, object| {
                if kind == "set" {
                    let elements = object["elem"].as_array().into_iter().flatten();
                    elements.filter_map(|element| parse_element(element, length)).for_each(&mut *each);
                }
            })?;
        }
        Ok(())
    }

    fn add(&self, programs: &mut dyn Programs, version: Version, elements: &[Element]) -> Vec<Failure> {
        let lengths = elements.iter().map(|element| prefix(&element.client));
        if let Err(error) = self.ensure_lengths(programs, version, lengths) {
            return all_failed(elements.iter().map(|e| e.client), &error);
        }
        let mut failures = Vec::new();
        for piece in elements.chunks(MAX_ELEMENTS_PER_SCRIPT) {
            if let Err(error) = run_script(programs, &add_script(version, piece)) {
                failures.extend(all_failed(piece.iter().map(|e| e.client), &error));
            }
        }
        failures
    }

    fn remove(&self, programs: &mut dyn Programs, version: Version, clients: &[Client]) -> Vec<Failure> {
        let lengths = match self.lengths(programs, version) {
            Ok(lengths) => lengths,
            Err(error) => return all_failed(clients.iter().copied(), &error),
        };
        let present: Vec<Client> =
            clients.iter().copied().filter(|client| lengths.contains(&prefix(client))).collect();
        let mut failures = Vec::new();
        for piece in present.chunks(MAX_ELEMENTS_PER_SCRIPT) {
            if let Err(error) = run_script(programs, &remove_script(version, piece)) {
                failures.extend(all_failed(piece.iter().copied(), &error));
            }
        }
        failures
    }

    fn exempt(&self, programs: &mut dyn Programs, version: Version, networks: &[IpNet]) -> Result<()> {
        let mut script = String::new();
        let family = family(version);
        for chain in CHAINS {
            let _ = writeln!(script, "flush chain {family} {TABLE} {chain}");
            for net in networks {
                let _ = writeln!(script, "add rule {family} {TABLE} {chain} {family} saddr {net} accept");
            }
        }
        let lengths = self.lengths(programs, version)?;
        for length in lengths {
            self.write_length(&mut script, version, length);
        }
        run_script(programs, &script)
    }

    fn rule(&self, _: Version) -> Option<Rule> {
        None
    }

    fn own_drops(&self, programs: &mut dyn Programs) -> Result<Drops> {
        let mut total = Drops::default();
        for version in Version::ALL {
            if !self.exists(programs, version)? {
                continue;
            }
            let argv = ["nft", "-j", "-t", "list", "table", family(version), TABLE];
            for_each_object(programs, &argv, |kind, object| {
                if kind == "rule" {
                    for statement in object["expr"].as_array().into_iter().flatten() {
                        let drops = parse_counter(&statement["counter"]);
                        total.packets += drops.packets;
                        total.bytes += drops.bytes;
                    }
                }
            })?;
        }
        Ok(total)
    }

    fn destroy(&self, programs: &mut dyn Programs, version: Version) -> Result<bool> {
        let exists = self.exists(programs, version)?;
        if exists {
            act(programs, &["nft", "delete", "table", family(version), TABLE], "")?;
        }
        Ok(exists)
    }
}

fn run_script(programs: &mut dyn Programs, script: &str) -> Result<()> {
    act(programs, &["nft", "-f", "-"], script)
}

/// The items by prefix length, one for each client, the last one given: nft refuses to delete the same element twice.
fn by_length<T>(items: &[T], client: impl Fn(&T) -> Client) -> BTreeMap<u8, Vec<&T>> {
    let newest: BTreeMap<Client, &T> = items.iter().map(|item| (client(item), item)).collect();
    let mut groups: BTreeMap<u8, Vec<&T>> = BTreeMap::new();
    for (client, item) in newest {
        groups.entry(prefix(&client)).or_default().push(item);
    }
    groups
}

/// Adds elements. Adding one that is present does not move its end, so each is added, deleted and added again, in one
/// transaction.
fn add_script(version: Version, elements: &[Element]) -> String {
    let mut script = String::new();
    for (length, group) in by_length(elements, |e| e.client) {
        let addresses: Vec<String> = group.iter().map(|e| e.client.network().addr().to_string()).collect();
        write_elements(&mut script, "add", version, length, addresses.iter().map(String::as_str));
        write_elements(&mut script, "delete", version, length, addresses.iter().map(String::as_str));
        let timed: Vec<String> = group.iter().map(|e| timed(e)).collect();
        write_elements(&mut script, "add", version, length, timed.iter().map(String::as_str));
    }
    script
}

fn timed(element: &Element) -> String {
    let Drops { packets, bytes } = element.drops;
    let mut text = element.client.network().addr().to_string();
    if element.drops != Drops::default() {
        let _ = write!(text, " counter packets {packets} bytes {bytes}");
    }
    if element.timeout_secs != 0 {
        let _ = write!(text, " timeout {}s", element.timeout_secs);
    }
    text
}

/// Removes elements. Deleting an absent one fails, so each is added first, in the same transaction.
fn remove_script(version: Version, clients: &[Client]) -> String {
    let mut script = String::new();
    for (length, group) in by_length(clients, |c| *c) {
        let addresses: Vec<String> = group.iter().map(|c| c.network().addr().to_string()).collect();
        write_elements(&mut script, "add", version, length, addresses.iter().map(String::as_str));
        write_elements(&mut script, "delete", version, length, addresses.iter().map(String::as_str));
    }
    script
}

fn write_elements<'a>(
    script: &mut String,
    verb: &str,
    version: Version,
    length: u8,
    elements: impl Iterator<Item = &'a str>,
) {
    let _ = write!(script, "{verb} element {} {TABLE} len{length} {{ ", family(version));
    for (at, element) in elements.enumerate() {
        if at > 0 {
            script.push_str(", ");
        }
        script.push_str(element);
    }
    script.push_str(" }\n");
}

/// Calls `each` with the kind and content of every object of nft's JSON output.
fn for_each_object(
    programs: &mut dyn Programs,
    argv: &[&str],
    mut each: impl FnMut(&str, &Value),
) -> Result<()> {
    let mut text = String::new();
    programs.run(argv, b"", &mut |line| text.push_str(line))?;
    let answer: Value = serde_json::from_str(&text)
        .with_context(|| format!("could not parse the output of `{}`", argv.join(" ")))?;
    for object in answer["nftables"].as_array().into_iter().flatten() {
        if let Some((kind, content)) = object.as_object().and_then(|object| object.iter().next()) {
            each(kind, content);
        }
    }
    Ok(())
}

/// Parses an element: its bare address, or an object with address, timeout and counter.
fn parse_element(element: &Value, length: u8) -> Option<Element> {
    let detail = &element["elem"];
    let address = element.as_str().or_else(|| detail["val"].as_str())?;
    let network = IpNet::new(address.parse().ok()?, length).ok()?;
    // `expires` is rounded down: an element in its last second has 0, which would mean that it has no end.
    let timeout_secs = match (detail["timeout"].as_u64(), detail["expires"].as_u64()) {
        (Some(_), left) => u32::try_from(left.unwrap_or(0)).ok()?.max(1),
        (None, _) => 0,
    };
    Some(Element {
        client: Client::of_network(network),
        timeout_secs,
        drops: parse_counter(&detail["counter"]),
    })
}

fn parse_counter(counter: &Value) -> Drops {
    Drops { packets: counter["packets"].as_u64().unwrap_or(0), bytes: counter["bytes"].as_u64().unwrap_or(0) }
}
