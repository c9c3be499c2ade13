//! A test double: a small host in memory whose `iptables-restore`, `iptables-save` and `ipset` fail as the real
//! ones do, with failures to inject and packets to send.
//!
//! The netfilter enforcer runs on it unchanged (`IptablesEnforcer::with_programs`), so that tests
//! exercise the real logic. Compiled for tests only. Not simulated: nftables (it is "not installed"), and matches other than
//! source networks and sets (such rules match nothing).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Result;
use ipnet::IpNet;

use super::ban::Drops;
use super::iptables::programs::{Failed, NotInstalled, Programs};
use super::iptables::{IptablesEnforcer, Settings, Version};
use shield_engine::client::Client;

/// The size of every simulated packet in bytes.
pub(crate) const PACKET_BYTES: u64 = 60;

/// A handle to the simulated host; clones share it.
#[derive(Debug, Clone, Default)]
pub struct SimulatedHost(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    filters: [Filter; 2],
    sets: BTreeMap<String, Set>,
    now_ms: u64,
    missing_programs: BTreeSet<String>,
    /// The kernel runs with `ipv6.disable=1`.
    lacks_ipv6: bool,
    failures: Vec<Injected>,
    runs: usize,
    /// The ruleset generation, which nftables increments with every change; `None` on a host with the legacy iptables.
    generation: Option<u32>,
}

/// A failure of the next matching commands.
#[derive(Debug)]
struct Injected {
    command: String,
    times: usize,
    said: String,
}

/// One IP version's filter table.
#[derive(Debug, Clone)]
struct Filter {
    chains: BTreeMap<String, Vec<(String, Drops)>>,
}

impl Default for Filter {
    fn default() -> Filter {
        Filter { chains: BUILT_IN.iter().map(|name| ((*name).to_owned(), Vec::new())).collect() }
    }
}

const BUILT_IN: [&str; 3] = ["FORWARD", "INPUT", "OUTPUT"];

#[derive(Debug, Clone)]
struct Set {
    header: String,
    max_entries: usize,
    elements: BTreeMap<Client, Element>,
}

#[derive(Debug, Clone, Copy)]
struct Element {
    /// On the simulated clock; `None` for a permanent element.
    ends_ms: Option<u64>,
    drops: Drops,
}

impl SimulatedHost {
    /// Makes a host with empty filter tables, whose clock is at 0.
    pub fn new() -> SimulatedHost {
        SimulatedHost::default()
    }

    /// Makes a host with the iptables that writes nftables rules.
    pub fn with_nftables() -> SimulatedHost {
        let host = SimulatedHost::default();
        host.state().generation = Some(1);
        host
    }

    /// Makes an enforcer that runs on this host.
    pub fn enforcer(&self, settings: Settings) -> IptablesEnforcer {
        IptablesEnforcer::with_programs(settings, Box::new(self.clone()))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets the clock to `now_ms` since boot: sets lose the elements whose timeouts have passed.
    pub fn set_time(&self, now_ms: u64) {
        let mut state = self.state();
        state.now_ms = now_ms;
        for set in state.sets.values_mut() {
            set.elements.retain(|_, element| element.ends_ms.is_none_or(|ends| ends > now_ms));
        }
    }

    /// Makes the next `times` commands whose command line contains `command` fail with this message.
    pub fn fail(&self, command: &str, times: usize, said: &str) {
        self.state().failures.push(Injected { command: command.to_owned(), times, said: said.to_owned() });
    }

    /// Forgets injected failures that did not happen yet.
    pub fn end_failures(&self) {
        self.state().failures.clear();
    }

    /// Uninstalls a program: `iptables`, `ip6tables`, `ipset`.
    pub fn remove_program(&self, name: &str) {
        self.state().missing_programs.insert(name.to_owned());
    }

    /// Installs a program again.
    pub fn install_program(&self, name: &str) {
        self.state().missing_programs.remove(name);
    }

    /// Boots the kernel with `ipv6.disable=1`, or without it.
    pub fn set_ipv6(&self, is_there: bool) {
        self.state().lacks_ipv6 = !is_there;
    }

    /// `iptables -F`: deletes every rule and keeps the chains.
    pub fn flush_rules(&self) {
        let mut state = self.state();
        state.changed();
        state.filters.iter_mut().flat_map(|f| f.chains.values_mut()).for_each(Vec::clear);
    }

    /// `nft flush ruleset`: leaves nothing but empty built-in chains.
    pub fn flush_ruleset(&self) {
        let mut state = self.state();
        state.changed();
        state.filters = Default::default();
    }

    /// `ipset flush`: empties every set.
    pub fn flush_sets(&self) {
        self.state().sets.values_mut().for_each(|set| set.elements.clear());
    }

    /// `iptables -N CHAIN`.
    pub fn add_chain(&self, version: Version, chain: &str) {
        let mut state = self.state();
        state.changed();
        state.filters[version as usize].chains.entry(chain.to_owned()).or_default();
    }

    /// `iptables -I CHAIN 1 RULE`.
    ///
    /// # Panics
    /// If there is no such chain.
    pub fn insert_rule(&self, version: Version, chain: &str, rule: &str) {
        let mut state = self.state();
        state.changed();
        let rules = state.filters[version as usize].chains.get_mut(chain).expect("the chain exists");
        rules.insert(0, (rule.to_owned(), Drops::default()));
    }

    /// Returns the rules of a chain, as `iptables -S` prints them after its name; empty if there is no such chain.
    pub fn rules(&self, version: Version, chain: &str) -> Vec<String> {
        let state = self.state();
        let rules = state.filters[version as usize].chains.get(chain);
        rules.into_iter().flatten().map(|(rule, _)| rule.clone()).collect()
    }

    /// Returns whether a chain of this name exists.
    pub fn has_chain(&self, version: Version, chain: &str) -> bool {
        self.state().filters[version as usize].chains.contains_key(chain)
    }

    /// Returns the names of the sets.
    pub fn sets(&self) -> Vec<String> {
        self.state().sets.keys().cloned().collect()
    }

    /// Returns the number of programs run so far.
    pub fn runs(&self) -> usize {
        self.state().runs
    }

    /// Sends one packet from this address to this host, counts it in the rules, and returns whether it was dropped.
    pub fn send_from(&self, source: IpAddr) -> bool {
        let mut state = self.state();
        let State { filters, sets, .. } = &mut *state;
        let filter = &mut filters[usize::from(source.is_ipv6())];
        filter.walk("INPUT", source, sets) == Verdict::Drop
    }
}

/// The decision of a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Accept,
    Drop,
    /// The packet reached the end of the chain or a RETURN.
    Return,
}

impl Filter {
    fn walk(&mut self, chain: &str, source: IpAddr, sets: &mut BTreeMap<String, Set>) -> Verdict {
        let length = self.chains.get(chain).map_or(0, Vec::len);
        for at in 0..length {
            let (rule, drops) = &mut self.chains.get_mut(chain).expect("the chain was counted")[at];
            if !matches(rule, source, sets) {
                continue;
            }
            drops.packets += 1;
            drops.bytes += PACKET_BYTES;
            let target = rule.rsplit(' ').next().unwrap_or_default().to_owned();
            let verdict = match target.as_str() {
                "DROP" => Verdict::Drop,
                "ACCEPT" => Verdict::Accept,
                "RETURN" => return Verdict::Return,
                other => self.walk(other, source, sets),
            };
            if verdict != Verdict::Return {
                return verdict;
            }
        }
        Verdict::Return
    }

    fn rules_mut(&mut self, chain: &str) -> Result<&mut Vec<(String, Drops)>, &'static str> {
        self.chains.get_mut(chain).ok_or("No chain/target/match by that name.")
    }

    fn is_referenced(&self, chain: &str) -> bool {
        let suffix = format!("-j {chain}");
        self.chains.values().flatten().any(|(rule, _)| rule.ends_with(&suffix))
    }
}

fn matches(rule: &str, source: IpAddr, sets: &mut BTreeMap<String, Set>) -> bool {
    let words: Vec<&str> = rule.split(' ').collect();
    match words.as_slice() {
        ["-j", _] => true,
        ["-s", net, "-j", _] => net.parse::<IpNet>().is_ok_and(|net| net.contains(&source)),
        ["-m", "set", "--match-set", name, "src", "-j", _] => {
            sets.get_mut(*name).is_some_and(|set| set.matches(source))
        }
        _ => false,
    }
}

impl Set {
    fn matches(&mut self, source: IpAddr) -> bool {
        // The longest prefix counts, as in hash:net.
        let hit = self
            .elements
            .iter_mut()
            .filter(|(client, _)| client.contains(source))
            .max_by_key(|(client, _)| client.network().prefix_len());
        if let Some((_, element)) = hit {
            element.drops.packets += 1;
            element.drops.bytes += PACKET_BYTES;
            return true;
        }
        false
    }
}

impl Programs for SimulatedHost {
    fn run(&mut self, argv: &[&str], stdin: &[u8], line: &mut dyn FnMut(&str)) -> Result<()> {
        let stdin = std::str::from_utf8(stdin)?;
        let output = self.state().run(argv, stdin)?;
        output.lines().for_each(line);
        Ok(())
    }

    fn another(&self) -> Box<dyn Programs> {
        Box::new(self.clone())
    }

    fn read_proc(&mut self, path: &str) -> Option<String> {
        let is_there = match path.strip_prefix("/proc/thread-self/net/")? {
            "dev" => true,
            "if_inet6" => !self.state().lacks_ipv6,
            _ => false,
        };
        is_there.then(String::new)
    }

    fn generation(&mut self) -> Option<u32> {
        self.state().generation
    }
}

impl State {
    fn changed(&mut self) {
        self.generation = self.generation.map(|generation| generation.wrapping_add(1));
    }

    fn run(&mut self, argv: &[&str], stdin: &str) -> Result<String> {
        self.runs += 1;
        let fail = |stderr: &str| {
            let (command, status) = (argv.join(" "), "exit status: 1".to_owned());
            anyhow::Error::new(Failed { command, status, stderr: stderr.to_owned() })
        };
        if self.missing_programs.iter().any(|missing| argv[0].split('-').next() == Some(missing)) {
            return Err(NotInstalled(argv[0].to_owned()).into());
        }
        if let Some(said) = self.injected(&argv.join(" ")) {
            return Err(fail(&said));
        }
        let version = if argv[0].starts_with("ip6") { Version::V6 } else { Version::V4 };
        if version == Version::V6 && self.lacks_ipv6 {
            return Err(fail("Address family not supported by protocol"));
        }
        match argv {
            ["iptables-save" | "ip6tables-save", rest @ ..] if rest.contains(&"nat") => Ok(String::new()),
            ["iptables-save" | "ip6tables-save", ..] => Ok(self.save(version)),
            ["iptables-restore" | "ip6tables-restore", ..] => {
                self.restore(version, stdin).map_err(|said| fail(&said)).map(|()| String::new())
            }
            ["ipset", arguments @ ..] => self.ipset(arguments, stdin).map_err(|said| fail(&said)),
            _ => Err(NotInstalled(argv[0].to_owned()).into()),
        }
    }

    fn injected(&mut self, command: &str) -> Option<String> {
        let injected = self.failures.iter_mut().find(|f| f.times > 0 && command.contains(&f.command))?;
        injected.times -= 1;
        Some(injected.said.clone())
    }

    fn save(&self, version: Version) -> String {
        let filter = &self.filters[version as usize];
        let mut text = match self.generation {
            Some(_) => "# Generated by iptables-save v1.8.9 (nf_tables)\n*filter\n".to_owned(),
            None => "*filter\n".to_owned(),
        };
        for chain in filter.chains.keys() {
            let policy = if BUILT_IN.contains(&chain.as_str()) { "ACCEPT" } else { "-" };
            text += &format!(":{chain} {policy} [0:0]\n");
        }
        for (chain, rules) in &filter.chains {
            for (rule, drops) in rules {
                text += &format!("[{}:{}] -A {chain} {rule}\n", drops.packets, drops.bytes);
            }
        }
        text + "COMMIT\n"
    }

    /// All or nothing, like the real one.
    fn restore(&mut self, version: Version, text: &str) -> Result<(), String> {
        let mut filter = self.filters[version as usize].clone();
        let mut committed = false;
        for (at, line) in text.lines().enumerate() {
            committed = line == "COMMIT";
            self.restore_line(&mut filter, line)
                .map_err(|said| format!("iptables-restore: line {} failed: {said}", at + 1))?;
        }
        if !committed {
            return Err("iptables-restore: COMMIT expected".to_owned());
        }
        self.filters[version as usize] = filter;
        self.changed();
        Ok(())
    }

    fn restore_line(&self, filter: &mut Filter, line: &str) -> Result<(), String> {
        if let Some(declared) = line.strip_prefix(':') {
            let chain = declared.split(' ').next().unwrap_or_default();
            filter.chains.insert(chain.to_owned(), Vec::new());
            return Ok(());
        }
        let (drops, line) = match line.strip_prefix('[').and_then(|rest| rest.split_once("] ")) {
            Some((counters, rest)) => (parse_counters(counters), rest),
            None => (Drops::default(), line),
        };
        let mut words = line.splitn(3, ' ');
        let (verb, chain, rest) =
            (words.next().unwrap_or_default(), words.next().unwrap_or_default(), words.next());
        match (verb, rest) {
            ("*filter" | "COMMIT", _) => Ok(()),
            ("-A", Some(rule)) => {
                self.check_rule(filter, rule)?;
                filter.rules_mut(chain)?.push((rule.to_owned(), drops));
                Ok(())
            }
            ("-I", Some(rule)) => {
                let rule = rule.strip_prefix("1 ").unwrap_or(rule);
                self.check_rule(filter, rule)?;
                filter.rules_mut(chain)?.insert(0, (rule.to_owned(), drops));
                Ok(())
            }
            ("-D", Some(rule)) => {
                let rules = filter.rules_mut(chain)?;
                let at = rules.iter().position(|(there, _)| there == rule);
                rules.remove(at.ok_or("Bad rule (does a matching rule exist in that chain?).")?);
                Ok(())
            }
            ("-F", None) => {
                filter.rules_mut(chain)?.clear();
                Ok(())
            }
            ("-X", None) => delete_chain(filter, chain),
            _ => Err(format!("unknown: {line}")),
        }
    }

    fn check_rule(&self, filter: &Filter, rule: &str) -> Result<(), String> {
        if let Some(rest) = rule.strip_prefix("-m set --match-set ") {
            let name = rest.split(' ').next().unwrap_or_default();
            if !self.sets.contains_key(name) {
                return Err(format!("Set {name} doesn't exist."));
            }
        }
        let target = rule.rsplit(' ').next().unwrap_or_default();
        if !["DROP", "ACCEPT", "RETURN"].contains(&target) && !filter.chains.contains_key(target) {
            return Err("No chain/target/match by that name.".to_owned());
        }
        Ok(())
    }

    fn ipset(&mut self, arguments: &[&str], stdin: &str) -> Result<String, String> {
        match arguments {
            ["list", "-n"] => Ok(self.sets.keys().map(|name| format!("{name}\n")).collect()),
            ["list", "-t"] => Ok(self.sets.iter().map(|(name, set)| set.describe(name)).collect()),
            ["save", name] => self.set(name).map(|set| set.save(name, self.now_ms)),
            ["destroy", name] => self.destroy(name).map(|()| String::new()),
            ["restore"] => self.ipset_restore(stdin, Exists::Fails).map(|()| String::new()),
            ["-exist", "restore"] => self.ipset_restore(stdin, Exists::IsFine).map(|()| String::new()),
            _ => Err(format!("ipset: unknown arguments {arguments:?}")),
        }
    }

    fn set(&self, name: &str) -> Result<&Set, String> {
        self.sets.get(name).ok_or_else(|| "The set with the given name does not exist".to_owned())
    }

    fn destroy(&mut self, name: &str) -> Result<(), String> {
        self.set(name)?;
        let used = format!("--match-set {name} ");
        let filters = self.filters.iter().flat_map(|filter| filter.chains.values().flatten());
        if filters.into_iter().any(|(rule, _)| rule.contains(&used)) {
            return Err("Set cannot be destroyed: it is in use by a kernel component".to_owned());
        }
        self.sets.remove(name);
        Ok(())
    }

    /// Lines before a bad one stay in force, like with the real one.
    fn ipset_restore(&mut self, text: &str, exists: Exists) -> Result<(), String> {
        for (at, line) in text.lines().enumerate() {
            let words: Vec<&str> = line.split(' ').collect();
            self.ipset_line(&words, exists)
                .map_err(|said| format!("ipset v7.17: Error in line {}: {said}", at + 1))?;
        }
        Ok(())
    }

    fn ipset_line(&mut self, words: &[&str], exists: Exists) -> Result<(), String> {
        let now_ms = self.now_ms;
        match words {
            ["create", name, kind @ ..] => self.create(name, kind, exists),
            ["destroy", name] => self.destroy(name),
            ["swap", a, b] => {
                let (first, second) = (self.set(a)?.clone(), self.set(b)?.clone());
                self.sets.insert((*a).to_owned(), second);
                self.sets.insert((*b).to_owned(), first);
                Ok(())
            }
            ["add", name, client, options @ ..] => {
                self.set(name)?;
                let set = self.sets.get_mut(*name).ok_or("gone")?;
                set.add(client, options, exists, now_ms)
            }
            ["del", name, client] => {
                self.set(name)?;
                let client = client.parse::<Client>().map_err(|error| error.to_string())?;
                let removed = self.sets.get_mut(*name).and_then(|set| set.elements.remove(&client));
                match (removed, exists) {
                    (None, Exists::Fails) => {
                        Err("Element cannot be deleted from the set: it's not added".to_owned())
                    }
                    _ => Ok(()),
                }
            }
            _ => Err(format!("Unknown command {words:?}")),
        }
    }

    /// A set that is there already may be "created" once more with `-exist`, if it is of the same size.
    fn create(&mut self, name: &str, kind: &[&str], exists: Exists) -> Result<(), String> {
        let max = kind.iter().skip_while(|word| **word != "maxelem").nth(1);
        let max_entries = max.and_then(|max| max.parse().ok()).ok_or("maxelem expected")?;
        if let Some(set) = self.sets.get(name) {
            return match exists {
                Exists::IsFine if set.max_entries == max_entries => Ok(()),
                _ => Err("Set cannot be created: set with the same name already exists".to_owned()),
            };
        }
        let set = Set { header: kind[1..].join(" "), max_entries, elements: BTreeMap::new() };
        self.sets.insert(name.to_owned(), set);
        Ok(())
    }
}

/// The treatment of an element that exists when it is added, or is absent when it is deleted: the flag `-exist`.
#[derive(Debug, Clone, Copy)]
enum Exists {
    Fails,
    IsFine,
}

fn delete_chain(filter: &mut Filter, chain: &str) -> Result<(), String> {
    if !filter.rules_mut(chain)?.is_empty() {
        return Err("Directory not empty".to_owned());
    }
    if filter.is_referenced(chain) {
        return Err("Device or resource busy".to_owned());
    }
    filter.chains.remove(chain);
    Ok(())
}

fn parse_counters(text: &str) -> Drops {
    let (packets, bytes) = text.split_once(':').unwrap_or_default();
    Drops { packets: packets.parse().unwrap_or(0), bytes: bytes.parse().unwrap_or(0) }
}

impl Set {
    fn describe(&self, name: &str) -> String {
        format!(
            "Name: {name}\nType: hash:net\nHeader: {} bucketsize 12\nNumber of entries: {}\n\n",
            self.header,
            self.elements.len()
        )
    }

    fn save(&self, name: &str, now_ms: u64) -> String {
        let mut text = format!("create {name} hash:net {}\n", self.header);
        for (client, element) in &self.elements {
            let timeout = element.ends_ms.map_or(0, |ends| ends.saturating_sub(now_ms) / 1000);
            let Drops { packets, bytes } = element.drops;
            text += &format!("add {name} {client} timeout {timeout} packets {packets} bytes {bytes}\n");
        }
        text
    }

    fn add(&mut self, client: &str, options: &[&str], exists: Exists, now_ms: u64) -> Result<(), String> {
        let client: Client = client.parse().map_err(|_| format!("Syntax error: cannot parse {client}"))?;
        let before = self.elements.get(&client).copied();
        if before.is_some() && matches!(exists, Exists::Fails) {
            return Err("Element cannot be added to the set: it's already added".to_owned());
        }
        if before.is_none() && self.elements.len() >= self.max_entries {
            return Err("Hash is full, cannot add more elements".to_owned());
        }
        let mut element =
            Element { ends_ms: None, drops: before.map_or(Drops::default(), |before| before.drops) };
        for pair in options.chunks_exact(2) {
            let value: u64 = pair[1].parse().map_err(|_| "Syntax error: number expected".to_owned())?;
            match pair[0] {
                "timeout" => element.ends_ms = (value > 0).then(|| now_ms + value * 1000),
                "packets" => element.drops.packets = value,
                "bytes" => element.drops.bytes = value,
                _ => return Err(format!("Unknown argument: {}", pair[0])),
            }
        }
        self.elements.insert(client, element);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn act(host: &SimulatedHost, argv: &[&str], stdin: &str) -> Result<String> {
        let mut lines = String::new();
        host.clone().run(argv, stdin.as_bytes(), &mut |line| lines += &format!("{line}\n"))?;
        Ok(lines)
    }

    fn restore(host: &SimulatedHost, body: &str) -> Result<String> {
        act(host, &["iptables-restore", "--noflush"], &format!("*filter\n{body}COMMIT\n"))
    }

    #[test]
    fn the_error_rules_of_iptables() {
        let host = SimulatedHost::new();
        let check = |body: &str, expected: &str| {
            let error = restore(&host, body).map(drop).unwrap_err().to_string();
            assert!(error.ends_with(expected), "{body}: {error}");
        };
        check("-A SHIELD -j DROP\n", "line 2 failed: No chain/target/match by that name.");
        check("-D INPUT -j DROP\n", "line 2 failed: Bad rule (does a matching rule exist in that chain?).");
        check("-A INPUT -j SHIELD\n", "line 2 failed: No chain/target/match by that name.");
        check("-A INPUT -m set --match-set x src -j DROP\n", "line 2 failed: Set x doesn't exist.");
        restore(&host, ":SHIELD - [0:0]\n-I INPUT 1 -j SHIELD\n-A SHIELD -s 192.0.2.0/24 -j DROP\n").unwrap();
        check("-X SHIELD\n", "line 2 failed: Directory not empty");
        check("-F SHIELD\n-X SHIELD\n", "line 3 failed: Device or resource busy");
        assert_eq!(
            host.rules(Version::V4, "SHIELD"),
            ["-s 192.0.2.0/24 -j DROP"],
            "a failed batch does nothing"
        );
    }

    #[test]
    fn packets_walk_the_chains() {
        let host = SimulatedHost::new();
        restore(
            &host,
            ":SHIELD - [0:0]\n-A INPUT -j SHIELD\n-A SHIELD -s 192.0.2.9/32 -j RETURN\n\
             -A SHIELD -s 192.0.2.0/24 -j DROP\n",
        )
        .unwrap();
        assert!(host.send_from("192.0.2.1".parse().unwrap()));
        assert!(!host.send_from("192.0.2.9".parse().unwrap()));
        assert!(!host.send_from("198.51.100.1".parse().unwrap()));
        let saved = act(&host, &["iptables-save", "-c", "-t", "filter"], "").unwrap();
        assert!(saved.contains("[1:60] -A SHIELD -s 192.0.2.0/24 -j DROP\n"), "{saved}");
    }

    #[test]
    fn sets_time_out_and_are_guarded() {
        let host = SimulatedHost::new();
        let create = "create s hash:net family inet hashsize 1024 maxelem 2 timeout 0 counters\n";
        act(&host, &["ipset", "restore"], create).unwrap();
        act(&host, &["ipset", "-exist", "restore"], "add s 192.0.2.1 timeout 5\nadd s 192.0.2.2 timeout 0\n")
            .unwrap();
        let full = act(&host, &["ipset", "-exist", "restore"], "add s 192.0.2.3 timeout 5\n").unwrap_err();
        assert!(full.to_string().ends_with("Error in line 1: Hash is full, cannot add more elements"));
        restore(&host, "-A INPUT -m set --match-set s src -j DROP\n").unwrap();
        assert!(act(&host, &["ipset", "destroy", "s"], "").is_err());
        assert!(host.send_from("192.0.2.1".parse().unwrap()));
        host.set_time(5_000);
        assert!(!host.send_from("192.0.2.1".parse().unwrap()));
        assert!(host.send_from("192.0.2.2".parse().unwrap()));
    }
}
