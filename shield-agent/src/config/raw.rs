//! The configuration file as it is written. Every key is optional; a key that is not here is refused.
//!
//! Nothing is checked or defaulted here: that is `mod.rs`, once.

use std::net::SocketAddr;
use std::path::PathBuf;

use ipnet::IpNet;
use serde::Deserialize;

use super::span::{Span, TermSpan};

/// The whole file.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct RawConfig {
    /// `[agent]`
    pub agent: RawAgent,
    /// `[[source]]`
    pub source: Vec<RawSource>,
    /// `[detect]`: the detector's policy, key by key, see `engine::policy` (checked in `mod.rs`).
    pub detect: toml::Table,
    /// `[ban]`
    pub ban: RawBan,
    /// `[allow]`
    pub allow: RawAllow,
    /// `[iptables]`
    pub iptables: RawIptables,
    /// `[xdp]`
    pub xdp: RawXdp,
    /// `[page]`
    pub page: RawPage,
    /// `[slack]`
    pub slack: RawHook,
    /// `[webhook]`
    pub webhook: RawHook,
    /// `[audit]`
    pub audit: RawAudit,
}

/// `[agent]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct RawAgent {
    /// Where the database and the token lie.
    pub state_dir: Option<PathBuf>,
    /// The control socket.
    pub socket: Option<PathBuf>,
    /// `error`, `warn`, `info`, `debug`, `trace`, or a tracing filter.
    pub log: Option<String>,
    /// A live line further away from the wall clock is counted at the wall clock.
    pub max_clock_skew: Option<Span>,
}

/// `[[source]]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct RawSource {
    /// A file, a pattern (`*`), or a folder.
    pub path: Option<PathBuf>,
    /// A Unix datagram socket to create, for nginx's `access_log syslog:server=unix:…`.
    pub syslog: Option<PathBuf>,
    /// Read standard input.
    pub stdin: Option<bool>,
    /// `auto`, `json`, `combined` or `common`.
    pub format: Option<String>,
    /// Names of the JSON fields.
    pub fields: Option<RawFields>,
    /// At the first start, begin this long before now instead of at the end.
    pub catch_up: Option<Span>,
    /// Longer lines are skipped and counted.
    pub max_line_bytes: Option<usize>,
}

/// `[source.fields]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct RawFields {
    /// The client's address.
    pub source_ip: Option<String>,
    /// The time.
    pub timestamp: Option<String>,
    /// The method.
    pub method: Option<String>,
    /// The path.
    pub path: Option<String>,
    /// The status.
    pub status: Option<String>,
    /// The answer's size.
    pub response_size: Option<String>,
    /// A proxy chain (`X-Forwarded-For`), read from the right.
    pub forwarded_for: Option<String>,
}

/// `[ban]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct RawBan {
    /// The ladder.
    pub terms: Option<Vec<TermSpan>>,
    /// Offences are forgotten after this long without a ban.
    pub forget_after: Option<Span>,
    /// Prefix length of an IPv6 client.
    pub ipv6_prefix: Option<u8>,
    /// Bans held at most.
    pub max_bans: Option<usize>,
    /// Blast radius: share of the clients active in 10 min.
    pub max_share: Option<f64>,
    /// Blast radius: bans in 10 min that are always allowed.
    pub always_allowed: Option<usize>,
    /// Blast radius: bans a minute.
    pub max_bans_per_minute: Option<usize>,
    /// `off`, `term` or `next`.
    pub extend: Option<String>,
    /// Packets per second from which a flood still comes.
    pub extend_from_packets_per_sec: Option<f64>,
    /// A banned client's requests are a leak after this long.
    pub leak_grace: Option<Span>,
    /// `off`, `propose` or `ban`.
    pub networks: Option<String>,
    /// So many banned clients of one network…
    pub network_clients: Option<usize>,
    /// …within this long.
    pub network_within: Option<Span>,
}

/// `[allow]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct RawAllow {
    /// Never banned.
    pub networks: Option<Vec<IpNet>>,
    /// Proxies in front of the web server.
    pub trusted_proxies: Option<Vec<IpNet>>,
    /// Whether search engines, verified by DNS, are spared.
    pub search_engines: Option<bool>,
}

/// `[iptables]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct RawIptables {
    /// `on`, `off` or `required`.
    pub mode: Option<String>,
    /// `auto`, `rules` or `ipset`.
    pub backend: Option<String>,
    /// `auto` moves to sets beyond so many bans.
    pub max_rules: Option<usize>,
    /// Chains to jump from besides INPUT: `["FORWARD"]`, `["DOCKER-USER"]`, `[]` for none, `["auto"]` to find out.
    pub hooks: Option<Vec<String>>,
    /// IPv4 bans held at most in a set.
    pub max_bans_ipv4: Option<usize>,
    /// IPv6 bans held at most in a set.
    pub max_bans_ipv6: Option<usize>,
    /// The program for IPv4: `iptables`, `iptables-nft`, `iptables-legacy`, or a path.
    pub program_ipv4: Option<String>,
    /// The program for IPv6.
    pub program_ipv6: Option<String>,
}

/// `[xdp]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct RawXdp {
    /// `on`, `off` or `required`.
    pub mode: Option<String>,
    /// Interface names; `default` (the default route's) or `all` (physical ones).
    pub interfaces: Option<Vec<String>>,
    /// `auto`, `native` or `generic`.
    pub attach: Option<String>,
    /// IPv4 bans held at most.
    pub max_bans_ipv4: Option<u32>,
    /// IPv6 bans held at most.
    pub max_bans_ipv6: Option<u32>,
    /// Banned networks held at most, of IPv4 and of IPv6 each.
    pub max_networks: Option<u32>,
    /// Where the pins lie.
    pub pin_dir: Option<PathBuf>,
    /// One dropped packet in how many is logged at debug level; 0 logs none.
    pub log_drops_every: Option<u32>,
}

/// `[page]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct RawPage {
    /// Whether there is a page.
    pub enabled: Option<bool>,
    /// Where it listens.
    pub listen: Option<SocketAddr>,
    /// Host names it answers to, besides loopback's.
    pub hosts: Option<Vec<String>>,
}

/// `[slack]`, `[webhook]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct RawHook {
    /// A file with the URL.
    pub url_file: Option<PathBuf>,
    /// An environment variable with the URL.
    pub url_env: Option<String>,
    /// A systemd credential with the URL.
    pub url_credential: Option<String>,
}

/// `[audit]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct RawAudit {
    /// The file.
    pub path: Option<PathBuf>,
}
