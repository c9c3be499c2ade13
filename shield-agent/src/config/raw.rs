//! The configuration file as it is written. Every key is optional; unknown keys are refused.
//!
//! `packaging/shield.toml` explains the keys; defaults and ranges are in `validate`.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use ipnet::IpNet;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use super::span::{Span, TermSpan};

#[derive(Debug, Clone, Default, Deserialize)]
#[cfg_attr(feature = "test-support", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub(crate) struct RawConfig {
    pub agent: RawAgent,
    pub source: Vec<RawSource>,
    /// `[detect]`: the detector's policy, key by key, see `engine::policy`.
    #[cfg_attr(feature = "test-support", schemars(schema_with = "super::schema::detect_section"))]
    pub detect: toml::Table,
    pub site: Vec<RawSite>,
    pub ban: RawBan,
    pub slow: RawSlow,
    pub allow: RawAllow,
    pub iptables: RawIptables,
    pub xdp: RawXdp,
    pub nginx: RawNginx,
    pub cloudflare: RawCloudflare,
    pub fleet: RawFleet,
    pub blocklist: Vec<RawBlocklist>,
    pub crowdsec: RawCrowdsec,
    pub policy: RawPolicy,
    pub page: RawPage,
    pub slack: RawHook,
    pub webhook: RawHook,
    pub audit: RawAudit,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[cfg_attr(feature = "test-support", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub(crate) struct RawAgent {
    /// Holds the database and the API token.
    pub state_dir: Option<PathBuf>,
    pub socket: Option<PathBuf>,
    /// `error`, `warn`, `info`, `debug`, `trace`, or a tracing filter.
    pub log: Option<String>,
    /// Live lines whose time differs more from the wall clock are counted at the wall clock.
    pub max_clock_skew: Option<Span>,
    /// The ports that visitors, or the proxy before them, connect to.
    pub web_ports: Option<Vec<u16>>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[cfg_attr(feature = "test-support", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub(crate) struct RawSource {
    /// A file, a pattern (`*`), or a folder.
    pub path: Option<PathBuf>,
    /// A Unix datagram socket to create, for nginx's `access_log syslog:server=unix:…`.
    pub syslog: Option<PathBuf>,
    /// The users whose datagrams the socket takes, by name or number; without it root and the users that nginx usually runs as.
    pub users: Option<Vec<String>>,
    /// The group that the socket is given to.
    pub group: Option<String>,
    /// The socket's mode: `"0660"`.
    pub mode: Option<String>,
    /// `true`: read standard input.
    pub stdin: Option<bool>,
    /// `auto`, `json`, `combined`, `common`, or the text of a `log_format`.
    pub format: Option<String>,
    pub fields: Option<RawFields>,
    /// At the first start, begin with the lines of this long ago instead of at the end.
    pub catch_up: Option<Span>,
    /// Longer lines are skipped and counted.
    pub max_line_bytes: Option<usize>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[cfg_attr(feature = "test-support", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub(crate) struct RawFields {
    /// Each is a field's name; one inside an object has both names, joined by a dot.
    pub source_ip: Option<String>,
    pub timestamp: Option<String>,
    pub method: Option<String>,
    pub path: Option<String>,
    pub status: Option<String>,
    pub response_size: Option<String>,
    /// The field with a proxy chain (`X-Forwarded-For`), which is read from the right.
    pub forwarded_for: Option<String>,
    /// The field with `$server_name`, for `[[site]]`.
    pub server_name: Option<String>,
    /// The field with `$realip_remote_addr`.
    pub peer: Option<String>,
}

/// `[[site]]`: what is normal on one site, besides what `[detect]` says of all.
#[derive(Debug, Clone, Default, Deserialize)]
#[cfg_attr(feature = "test-support", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub(crate) struct RawSite {
    /// The first name of its server section (`$server_name`), or `*.` and a domain.
    pub host: Option<String>,
    /// `false`: nothing on it is judged.
    pub judged: Option<bool>,
    pub ignore_paths: Option<Vec<String>>,
    pub expected_misses: Option<Vec<String>>,
    pub monitors: Option<Vec<String>>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[cfg_attr(feature = "test-support", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub(crate) struct RawBan {
    pub terms: Option<Vec<Deferred<TermSpan>>>,
    /// Offences are forgotten after this long without a ban.
    pub forget_after: Option<Span>,
    /// Prefix length of an IPv6 client's network.
    pub ipv6_prefix: Option<u8>,
    pub max_bans: Option<usize>,
    /// Largest share of the clients in good standing for which rules may fire within 10 min, 0.0 to 1.0.
    pub max_share: Option<f64>,
    /// Clients in good standing in 10 min whose bans `max_share` never prevents.
    pub always_allowed: Option<usize>,
    /// Bans of clients in good standing.
    pub max_bans_per_minute: Option<usize>,
    /// `off`, `term` or `next`.
    pub extend: Option<String>,
    /// Dropped packets per second from which a ban is extended.
    pub extend_from_packets_per_sec: Option<f64>,
    /// Requests of a client that was banned longer ago than this are reported as a leak.
    pub leak_grace: Option<Span>,
    /// `off`, `propose` or `ban`.
    pub networks: Option<String>,
    /// Banned clients of one network from which `networks` applies…
    pub network_clients: Option<usize>,
    /// …when they were banned within this long.
    pub network_within: Option<Span>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[cfg_attr(feature = "test-support", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub(crate) struct RawSlow {
    /// `false`: nobody is slowed.
    pub enabled: Option<bool>,
    /// `true`: a first offence is slowed, and only the second is banned.
    pub first_offence: Option<bool>,
    /// How long a client is slowed.
    pub term: Option<Span>,
    /// New connections of a slowed client that are let through, at least.
    pub connections_per_sec: Option<u16>,
    /// Its packets with data, at least.
    pub packets_per_sec: Option<u16>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[cfg_attr(feature = "test-support", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub(crate) struct RawAllow {
    pub networks: Option<Vec<Deferred<Network>>>,
    /// Proxies in front of the web server: never banned, and skipped when a proxy chain is read.
    pub trusted_proxies: Option<Vec<Deferred<Network>>>,
    /// `true`: addresses of SSH sessions are allowed by themselves…
    pub ssh_sessions: Option<bool>,
    /// …and for this long after the last session.
    pub ssh_keep: Option<Span>,
    /// `true`: search engines, verified by DNS, are not banned.
    pub search_engines: Option<bool>,
    /// `true`: addresses of content delivery networks are reported, not banned by rules.
    pub cdn_ranges: Option<bool>,
    /// Replaces the shipped list of their networks.
    pub cdn_ranges_file: Option<PathBuf>,
    /// `true`: private addresses are reported, not banned by rules.
    pub private_networks: Option<bool>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[cfg_attr(feature = "test-support", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub(crate) struct RawIptables {
    /// `on`, `off` or `required`.
    pub mode: Option<String>,
    /// `auto`, `rules` or `ipset`.
    pub backend: Option<String>,
    /// Bans above which `auto` changes from rules to sets.
    pub max_rules: Option<usize>,
    /// Chains to jump from besides INPUT: `["FORWARD"]`, `["DOCKER-USER"]`, `[]` for none, `["auto"]` to find out.
    pub hooks: Option<Vec<String>>,
    /// Size of the IPv4 set.
    pub max_bans_ipv4: Option<usize>,
    /// Size of the IPv6 set.
    pub max_bans_ipv6: Option<usize>,
    /// The program for IPv4: `iptables`, `iptables-nft`, `iptables-legacy`, or a path.
    pub program_ipv4: Option<String>,
    pub program_ipv6: Option<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[cfg_attr(feature = "test-support", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub(crate) struct RawXdp {
    /// `on`, `off` or `required`.
    pub mode: Option<String>,
    /// Interface names; `default` (the default route's) or `all` (physical ones).
    pub interfaces: Option<Vec<String>>,
    /// `auto`, `native` or `generic`.
    pub attach: Option<String>,
    /// Size of the IPv4 map.
    pub max_bans_ipv4: Option<u32>,
    /// Size of the IPv6 map.
    pub max_bans_ipv6: Option<u32>,
    /// Size of each of the two maps of networks (IPv4, IPv6).
    pub max_networks: Option<u32>,
    /// Directory of the pinned maps and links, on a BPF file system.
    pub pin_dir: Option<PathBuf>,
    /// Logs every n-th dropped packet at debug level; 0 logs none.
    pub log_drops_every: Option<u32>,
}

/// `[nginx]`
#[derive(Debug, Clone, Default, Deserialize)]
#[cfg_attr(feature = "test-support", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub(crate) struct RawNginx {
    /// `on`, `off` or `required`.
    pub mode: Option<String>,
    /// `files` or `map`.
    pub backend: Option<String>,
    /// The folder whose files nginx looks for, or reads.
    pub folder: Option<PathBuf>,
    /// Most clients at a time.
    pub max_clients: Option<usize>,
    /// The status of the included lines.
    pub status: Option<u16>,
    /// Argument vectors that `map` runs.
    pub copy_command: Option<Vec<String>>,
    pub test_command: Option<Vec<String>>,
    pub reload_command: Option<Vec<String>>,
    pub workers_command: Option<Vec<String>>,
    /// Between two reloads, at the least.
    pub reload_every: Option<Span>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[cfg_attr(feature = "test-support", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub(crate) struct RawPage {
    pub enabled: Option<bool>,
    pub listen: Option<Listen>,
    /// `true`: where the port is taken, one of the next nine.
    pub next_free_port: Option<bool>,
    /// Host names it answers to, besides loopback's.
    pub hosts: Option<Vec<String>>,
    /// The address under which readers of alerts reach the page, for links to it.
    pub url: Option<String>,
    /// A database of autonomous systems in MaxMind's format.
    pub asn_db: Option<PathBuf>,
    /// A database of countries in MaxMind's format.
    pub country_db: Option<PathBuf>,
}

/// `[cloudflare]`
#[derive(Debug, Clone, Default, Deserialize)]
#[cfg_attr(feature = "test-support", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub(crate) struct RawCloudflare {
    /// The account's id.
    pub account: Option<String>,
    /// The list's id.
    pub list: Option<String>,
    pub token_file: Option<PathBuf>,
    /// The name of a systemd credential.
    pub token_credential: Option<String>,
    /// Most items in the list.
    pub max_items: Option<usize>,
    /// The share of the account's limits that may be used.
    pub share: Option<f64>,
    /// Marks this host's items.
    pub name: Option<String>,
    /// The API's address.
    pub api: Option<String>,
}

/// `[fleet]`
#[derive(Debug, Clone, Default, Deserialize)]
#[cfg_attr(feature = "test-support", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub(crate) struct RawFleet {
    /// `nats://` or `tls://`, host and port; several with commas between them.
    pub url: Option<String>,
    pub credentials_file: Option<PathBuf>,
    /// The name of a systemd credential.
    pub credentials_credential: Option<String>,
    /// Authorities that the servers' certificates may be signed by, beside the system's.
    pub ca_file: Option<PathBuf>,
    /// This host's name in the fleet.
    pub name: Option<String>,
    pub max_remote_term: Option<TermSpan>,
    /// Clients that one host may newly ban in a minute.
    pub max_new_per_min: Option<usize>,
    /// Clients that one host may have banned at a time.
    pub max_live: Option<usize>,
    /// Hosts that must agree about a client that was served well here.
    pub confirm: Option<usize>,
    pub accept_networks: Option<bool>,
}

/// `[[blocklist]]`
#[derive(Debug, Clone, Default, Deserialize)]
#[cfg_attr(feature = "test-support", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub(crate) struct RawBlocklist {
    /// Its name in Shield.
    pub name: Option<String>,
    /// `https://`, or `http://` on this host.
    pub url: Option<String>,
    /// How often it is read.
    pub refresh: Option<Span>,
    /// `plain`, `columns` or `json_lines`.
    pub format: Option<String>,
    /// Holds `USER:PASSWORD`.
    pub credentials_file: Option<PathBuf>,
    /// The name of a systemd credential.
    pub credentials_credential: Option<String>,
    /// `true`: without TLS from other hosts too.
    pub allow_http: Option<bool>,
}

/// `[crowdsec]`
#[derive(Debug, Clone, Default, Deserialize)]
#[cfg_attr(feature = "test-support", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub(crate) struct RawCrowdsec {
    /// The local API's address.
    pub url: Option<String>,
    /// Holds the key of a bouncer.
    pub key_file: Option<PathBuf>,
    /// The name of a systemd credential.
    pub key_credential: Option<String>,
    /// How often it is asked.
    pub poll: Option<Span>,
    /// Holds a machine's login, to tell of this host's own bans.
    pub machine_file: Option<PathBuf>,
    /// The name of a systemd credential.
    pub machine_credential: Option<String>,
}

/// `[policy]`
#[derive(Debug, Clone, Default, Deserialize)]
#[cfg_attr(feature = "test-support", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub(crate) struct RawPolicy {
    /// The folder of the rules.
    pub dir: Option<PathBuf>,
    /// `keep`, `observe` or `slow`.
    pub on_error: Option<String>,
}

/// `[slack]`, `[webhook]`
#[derive(Debug, Clone, Default, Deserialize)]
#[cfg_attr(feature = "test-support", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub(crate) struct RawHook {
    pub url_file: Option<PathBuf>,
    pub url_env: Option<String>,
    pub url_credential: Option<String>,
    /// The kinds of events that are posted, in place of the usual ones.
    pub events: Option<Vec<String>>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[cfg_attr(feature = "test-support", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub(crate) struct RawAudit {
    pub path: Option<PathBuf>,
}

/// An item of an array whose error is kept until `validate` can name the item: toml's own error shows where the array
/// begins, which is no help in a long one.
#[derive(Debug, Clone)]
pub(crate) struct Deferred<T>(pub Result<T, String>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Deferred<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Deferred<T>, D::Error> {
        Ok(Deferred(T::deserialize(deserializer).map_err(|error| error.to_string().trim_end().to_owned())))
    }
}

/// A network, written with its prefix length. A newtype for the sake of its error: `ipnet`'s does not name the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Network(pub IpNet);

impl<'de> Deserialize<'de> for Network {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Network, D::Error> {
        let text = String::deserialize(deserializer)?;
        network(&text).map(Network).ok_or_else(|| {
            let is_name = text.contains(|c: char| c.is_ascii_alphabetic()) && !text.contains([':', '/', ' ']);
            D::Error::custom(match is_name {
                true => format!(
                    "{text:?} is a name, and names are not looked up: write the address that it has, as \
                     `getent hosts {text}` shows it"
                ),
                false => format!(
                    "{text:?} is not a network: write an address, or one with its prefix length, such as 192.0.2.7, \
                     192.0.2.0/24 or 2001:db8::/32"
                ),
            })
        })
    }
}

/// Reads a network; an address alone is that address.
pub(super) fn network(text: &str) -> Option<IpNet> {
    text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
}

/// The page's address and port; a newtype for the same reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Listen(pub SocketAddr);

impl<'de> Deserialize<'de> for Listen {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Listen, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map(Listen).map_err(|_| {
            D::Error::custom(format!(
                "{text:?} is not an address and a port: write for example 127.0.0.1:8080 or [::1]:8080"
            ))
        })
    }
}
