//! The settings of the netfilter enforcer.

use super::sets::Version;

/// Settings of the netfilter enforcer; the defaults suit a host with nothing special about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Single rules, sets, or whichever suits the number of bans.
    pub backend: Backend,
    /// `Backend::Auto` keeps single rules up to this many bans, and goes back to them at half of it. Every packet is
    /// compared with every rule: 256 of them cost a packet about 1 us.
    pub max_rules: usize,
    /// The most single rules where neither ipset nor nftables can hold sets; bans beyond it fail and the enforcer is
    /// degraded.
    pub max_rules_without_sets: usize,
    /// The most bans of IPv4 clients in a set.
    pub max_entries_v4: usize,
    /// The most bans of IPv6 clients in a set.
    pub max_entries_v6: usize,
    pub containers: Containers,
    /// The program for IPv4; `-save` and `-restore` are appended. `iptables` is whichever flavour this host uses,
    /// `iptables-nft` and `iptables-legacy` name one.
    pub program_v4: String,
    /// The same for IPv6.
    pub program_v6: String,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            backend: Backend::Auto,
            max_rules: 256,
            max_rules_without_sets: 2_000,
            max_entries_v4: 1_000_000,
            max_entries_v6: 250_000,
            containers: Containers::Auto,
            program_v4: "iptables".to_owned(),
            program_v6: "ip6tables".to_owned(),
        }
    }
}

impl Settings {
    pub(super) fn program(&self, version: Version) -> &str {
        match version {
            Version::V4 => &self.program_v4,
            Version::V6 => &self.program_v6,
        }
    }

    pub(super) fn max_entries(&self) -> [usize; 2] {
        [self.max_entries_v4, self.max_entries_v6]
    }
}

/// Single rules or sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// Single rules while they are few, sets beyond `max_rules`.
    Auto,
    /// One DROP rule a client, however many.
    Rules,
    /// One DROP rule on a set of clients, however few.
    Ipset,
}

/// The hooked chains besides INPUT, for traffic to containers: packets to a published container port never pass INPUT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Containers {
    /// `DOCKER-USER` where there is one; otherwise `FORWARD` when a rule of any firewall redirects ports to other addresses.
    Auto,
    /// Only INPUT.
    Never,
    /// These chains of the filter table besides INPUT, as far as they exist.
    Chains(Vec<String>),
}
