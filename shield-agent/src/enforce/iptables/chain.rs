//! The text of our chain: what `iptables-save` says of it, and what `iptables-restore` is told. Pure.
//!
//! Owns the two formats. Which rules should be there is `family`'s business.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use ipnet::IpNet;

use crate::enforce::Drops;
use crate::engine::client::Client;

/// The name of our chain in each family's filter table.
pub const CHAIN: &str = "SHIELD";
/// The chain of packets for this host.
pub const INPUT: &str = "INPUT";
/// The chain of packets that are passed on, to containers among others.
pub const FORWARD: &str = "FORWARD";
/// The chain that Docker leaves to the operator, asked before its own rules in FORWARD.
pub const DOCKER_USER: &str = "DOCKER-USER";

/// One rule of our chain.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rule {
    /// `-s NET -j RETURN`: an allowed network goes on to the other rules of this host.
    Exempt(IpNet),
    /// `-m set --match-set NAME src -j DROP`.
    DropSet(String),
    /// `-s NET -j DROP`: one banned client.
    Drop(Client),
    /// Not one of ours, as `iptables-save` prints it after the chain's name.
    Foreign(String),
}

/// A rule with what it has matched so far.
pub type Counted = (Rule, Drops);

impl Rule {
    fn parse(text: &str) -> Rule {
        Self::parse_ours(text).unwrap_or_else(|| Rule::Foreign(text.to_owned()))
    }

    fn parse_ours(text: &str) -> Option<Rule> {
        if let Some(set) = text.strip_prefix("-m set --match-set ") {
            return set.strip_suffix(" src -j DROP").map(|name| Rule::DropSet(name.to_owned()));
        }
        let (net, verdict) = text.strip_prefix("-s ")?.split_once(' ')?;
        let client: Client = net.parse().ok()?;
        match verdict {
            "-j DROP" => Some(Rule::Drop(client)),
            "-j RETURN" => Some(Rule::Exempt(client.network())),
            _ => None,
        }
    }

    fn write(&self, out: &mut String) {
        // Writing to a String cannot fail.
        let _ = match self {
            Rule::Exempt(net) => write!(out, "-s {net} -j RETURN"),
            Rule::DropSet(name) => write!(out, "-m set --match-set {name} src -j DROP"),
            Rule::Drop(client) => write!(out, "-s {} -j DROP", client.network()),
            Rule::Foreign(text) => write!(out, "{text}"),
        };
    }
}

/// What one family's filter table says about us.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// The rules of our chain in order; `None` when there is no such chain.
    pub chain: Option<Vec<Counted>>,
    /// Every chain of the table.
    pub chains: BTreeSet<String>,
    /// The rules of each chain that jump to ours.
    pub jumps: BTreeMap<String, Jumps>,
}

/// The jumps to our chain in another chain.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Jumps {
    /// The rules' texts after the chain's name, in order.
    pub rules: Vec<String>,
    /// The chain's first rule, when that is not a plain jump to ours.
    pub before: Option<String>,
}

impl Snapshot {
    /// Takes one line of `iptables-save -c -t filter`.
    ///
    /// `Err` is the line by which a mix of nftables' and iptables' rules announces that it cannot be listed.
    pub fn take(&mut self, line: &str) -> Result<(), String> {
        if line.starts_with('#') && line.contains("incompatible") {
            return Err(line.trim_start_matches(['#', ' ']).to_owned());
        }
        if let Some(declared) = line.strip_prefix(':') {
            let name = declared.split(' ').next().unwrap_or_default();
            self.chains.insert(name.to_owned());
            if name == CHAIN {
                self.chain = Some(Vec::new());
            }
        } else if let Some((counters, rule)) =
            line.strip_prefix('[').and_then(|rest| rest.split_once("] -A "))
        {
            self.take_rule(counters, rule);
        }
        Ok(())
    }

    fn take_rule(&mut self, counters: &str, rule: &str) {
        let (chain, rule) = rule.split_once(' ').unwrap_or((rule, ""));
        if chain == CHAIN {
            let counted = (Rule::parse(rule), parse_counters(counters));
            self.chain.get_or_insert_default().push(counted);
            return;
        }
        let first = !self.jumps.contains_key(chain);
        let jumps = self.jumps.entry(chain.to_owned()).or_default();
        let (plain, ours) = (rule == JUMP, rule == JUMP || rule.ends_with(JUMP_SUFFIX));
        if first && !plain {
            jumps.before = Some(rule.to_owned());
        }
        if ours {
            jumps.rules.push(rule.to_owned());
        }
    }

    /// How the jump from `hook` stands.
    pub fn jump(&self, hook: &str) -> Jump {
        match self.jumps.get(hook) {
            Some(Jumps { rules, before: None }) if rules.len() == 1 => Jump::First,
            Some(Jumps { rules, before: None }) => Jump::Several(rules.len()),
            Some(Jumps { rules, before: Some(other) }) if !rules.is_empty() => Jump::Behind(other.clone()),
            _ => Jump::Missing,
        }
    }
}

/// How a jump to our chain stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Jump {
    /// It is the chain's first rule, once.
    First,
    /// There is none.
    Missing,
    /// Another rule stands before it.
    Behind(String),
    /// It is first, but there are so many.
    Several(usize),
}

const JUMP: &str = "-j SHIELD";
const JUMP_SUFFIX: &str = " -j SHIELD";

fn parse_counters(text: &str) -> Drops {
    let (packets, bytes) = text.split_once(':').unwrap_or(("0", "0"));
    Drops { packets: packets.parse().unwrap_or(0), bytes: bytes.parse().unwrap_or(0) }
}

/// One transaction for `iptables-restore --noflush --counters`.
#[derive(Debug)]
pub struct Batch(String);

impl Default for Batch {
    fn default() -> Batch {
        Batch("*filter\n".to_owned())
    }
}

impl Batch {
    /// Makes our chain, or empties it when it is there.
    pub fn renew_chain(&mut self) {
        self.line(format_args!(":{CHAIN} - [0:0]"));
    }

    /// Appends a rule to our chain, with the counters it had.
    pub fn append(&mut self, rule: &Rule, drops: Drops) {
        let _ = write!(self.0, "[{}:{}] -A {CHAIN} ", drops.packets, drops.bytes);
        rule.write(&mut self.0);
        self.0.push('\n');
    }

    /// Deletes a rule from our chain; the whole transaction fails when it is not there.
    pub fn delete(&mut self, rule: &Rule) {
        self.0.push_str("-D SHIELD ");
        rule.write(&mut self.0);
        self.0.push('\n');
    }

    /// Makes the jump from `hook` the first rule there, in place of the jumps that are there.
    pub fn jump_first(&mut self, hook: &str, present: Option<&Jumps>) {
        self.delete_jumps(hook, present);
        self.line(format_args!("-I {hook} 1 {JUMP}"));
    }

    /// Deletes the jumps to our chain from `hook`.
    pub fn delete_jumps(&mut self, hook: &str, present: Option<&Jumps>) {
        for rule in present.map(|jumps| jumps.rules.as_slice()).unwrap_or_default() {
            self.line(format_args!("-D {hook} {rule}"));
        }
    }

    /// Deletes our chain. No jump to it may be left.
    pub fn delete_chain(&mut self) {
        self.line(format_args!("-F {CHAIN}"));
        self.line(format_args!("-X {CHAIN}"));
    }

    /// The transaction's text.
    pub fn commit(mut self) -> String {
        self.0.push_str("COMMIT\n");
        self.0
    }

    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        let _ = self.0.write_fmt(line);
        self.0.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAVED: &str = "\
# Generated by iptables-save v1.8.9 (nf_tables)
*filter
:INPUT ACCEPT [7:420]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:SHIELD - [0:0]
[1:60] -A INPUT -i lo -j ACCEPT
[9:540] -A INPUT -j SHIELD
[0:0] -A INPUT -i eth1 -j SHIELD
[0:0] -A FORWARD -j SHIELD
[0:0] -A SHIELD -s 203.0.113.7/32 -j RETURN
[8:480] -A SHIELD -m set --match-set shield4 src -j DROP
[2:120] -A SHIELD -s 192.0.2.0/24 -j DROP
[0:0] -A SHIELD -s 192.0.2.9/32 -p tcp -j DROP
COMMIT
# Completed on Tue Nov 24 14:00:00 2026
";

    fn snapshot(text: &str) -> Snapshot {
        let mut snapshot = Snapshot::default();
        text.lines().for_each(|line| snapshot.take(line).unwrap());
        snapshot
    }

    #[test]
    fn what_iptables_save_says() {
        let snapshot = snapshot(SAVED);
        let drops = |packets, bytes| Drops { packets, bytes };
        let expected = [
            (Rule::Exempt("203.0.113.7/32".parse().unwrap()), drops(0, 0)),
            (Rule::DropSet("shield4".to_owned()), drops(8, 480)),
            (Rule::Drop("192.0.2.0/24".parse().unwrap()), drops(2, 120)),
            (Rule::Foreign("-s 192.0.2.9/32 -p tcp -j DROP".to_owned()), drops(0, 0)),
        ];
        assert_eq!(snapshot.chain.as_deref(), Some(&expected[..]));
        assert_eq!(snapshot.jump(INPUT), Jump::Behind("-i lo -j ACCEPT".to_owned()));
        assert_eq!(snapshot.jumps[INPUT].rules, ["-j SHIELD", "-i eth1 -j SHIELD"]);
        assert_eq!(snapshot.jump(FORWARD), Jump::First);
        assert_eq!(snapshot.jump(DOCKER_USER), Jump::Missing);
        assert!(!snapshot.chains.contains(DOCKER_USER));
    }

    #[test]
    fn a_table_that_cannot_be_listed_is_an_error() {
        let line = "# Table `filter' is incompatible, use 'nft' tool.";
        assert!(Snapshot::default().take(line).unwrap_err().starts_with("Table `filter' is incompatible"));
    }

    #[test]
    fn a_batch_as_iptables_restore_reads_it() {
        let snapshot = snapshot(SAVED);
        let mut batch = Batch::default();
        batch.renew_chain();
        batch.jump_first(INPUT, snapshot.jumps.get(INPUT));
        batch.append(&Rule::Drop("2001:db8::/64".parse().unwrap()), Drops { packets: 3, bytes: 180 });
        batch.delete(&Rule::Drop("192.0.2.1".parse().unwrap()));
        let expected = "\
*filter
:SHIELD - [0:0]
-D INPUT -j SHIELD
-D INPUT -i eth1 -j SHIELD
-I INPUT 1 -j SHIELD
[3:180] -A SHIELD -s 2001:db8::/64 -j DROP
-D SHIELD -s 192.0.2.1/32 -j DROP
COMMIT
";
        assert_eq!(batch.commit(), expected);
    }
}
