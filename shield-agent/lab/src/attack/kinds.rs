//! What each attack asks for, from which addresses, and how fast.

use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context as _, Error, Result};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::Limits;
use crate::environment::Machine;

/// An attack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Looks for what others forgot on their servers.
    Scan,
    /// One page, as fast as it comes.
    Flood,
    /// Tries passwords.
    Login,
    /// A scan with seconds between its requests.
    SlowScan,
    /// One list of names, asked for by many addresses in turn.
    Botnet,
    /// Every request from another /64 of one IPv6 network.
    Ipv6Hopping,
    /// A scan in escapes, double slashes, dots and capitals.
    EvasionSpelling,
    /// A scan with a page of the site between two probes.
    EvasionServed,
    /// Names that only look like pictures and style sheets.
    EvasionAssets,
    /// A scan that claims to come from somebody else (`X-Forwarded-For`).
    EvasionForwarded,
    /// A scan that claims to be a search engine.
    EvasionAgent,
    /// Passwords, one every few seconds.
    EvasionPatience,
}

impl Kind {
    /// Every attack, those that need longest last.
    pub const ALL: [Kind; 12] = [
        Kind::Scan,
        Kind::Flood,
        Kind::Login,
        Kind::Botnet,
        Kind::Ipv6Hopping,
        Kind::EvasionSpelling,
        Kind::EvasionServed,
        Kind::EvasionAssets,
        Kind::EvasionForwarded,
        Kind::EvasionAgent,
        Kind::SlowScan,
        Kind::EvasionPatience,
    ];

    /// Its name on the command line and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Scan => "scan",
            Kind::Flood => "flood",
            Kind::Login => "login",
            Kind::SlowScan => "slow-scan",
            Kind::Botnet => "botnet",
            Kind::Ipv6Hopping => "ipv6-hopping",
            Kind::EvasionSpelling => "evasion-spelling",
            Kind::EvasionServed => "evasion-served",
            Kind::EvasionAssets => "evasion-assets",
            Kind::EvasionForwarded => "evasion-forwarded",
            Kind::EvasionAgent => "evasion-agent",
            Kind::EvasionPatience => "evasion-patience",
        }
    }

    /// How much of it is made unless something else is asked for.
    pub fn limits(self) -> Limits {
        let (secs, requests, per_sec) = match self {
            Kind::Flood => (30, 6_000, 200.0),
            Kind::SlowScan => (60, 60, 1.0),
            Kind::EvasionPatience => (60, 15, 0.25),
            Kind::EvasionServed => (45, 450, 10.0),
            Kind::Botnet => (45, 900, 20.0),
            _ => (45, 900, 20.0),
        };
        Limits { at_most: Duration::from_secs(secs), requests, per_sec }
    }

    /// One that `docs/evading.md` lists as known to pass may do so.
    pub fn may_pass(self) -> bool {
        matches!(self, Kind::SlowScan | Kind::EvasionPatience | Kind::EvasionServed)
    }
}

impl FromStr for Kind {
    type Err = Error;

    fn from_str(name: &str) -> Result<Kind> {
        let found = Kind::ALL.into_iter().find(|kind| kind.name() == name);
        found.with_context(|| {
            let names = Kind::ALL.map(Kind::name).join(", ");
            format!("could not find an attack `{name}`; there are {names}")
        })
    }
}

/// An attack as it is carried out.
#[derive(Debug)]
pub(super) struct Plan {
    pub kind: Kind,
    /// Used in turn.
    pub sources: Vec<IpAddr>,
}

/// One request of an attack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Probe {
    pub method: &'static str,
    pub target: String,
    pub agent: &'static str,
    pub headers: Vec<(&'static str, String)>,
}

/// What scanners ask every server for.
const PROBES: [&str; 24] = [
    "/.env",
    "/.git/config",
    "/wp-login.php",
    "/phpmyadmin/index.php",
    "/admin/config.php",
    "/vendor/phpunit/phpunit/src/Util/PHP/eval-stdin.php",
    "/.aws/credentials",
    "/backup.sql",
    "/server-status",
    "/cgi-bin/test.cgi",
    "/wp-content/plugins/hello.php",
    "/solr/admin/info/system",
    "/actuator/env",
    "/.svn/entries",
    "/config.json",
    "/wp-config.php.bak",
    "/boaform/admin/formLogin",
    "/HNAP1/",
    "/owa/auth/x.js",
    "/manager/html",
    "/telescope/requests",
    "/.DS_Store",
    "/debug/default/view",
    "/xmlrpc.php",
];
/// What is left lying about, with one ending for each attack.
const NAMES: [&str; 20] = [
    "backup", "dump", "db", "database", "site", "www", "html", "old", "test", "dev", "config", "settings",
    "users", "export", "archive", "data", "app", "src", "private", "secret",
];
const ENDINGS: [&str; 12] =
    [".sql", ".zip", ".bak", ".tar.gz", ".old", ".env", ".7z", ".php~", ".conf", ".key", ".rar", ".save"];
const BROWSER: &str = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0";
const SCANNER: &str = "Mozilla/5.0 zgrab/0.x";
const SEARCH_ENGINE: &str = "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)";
/// Different /64s of one network that are used in turn.
const HOPS: u16 = 512;
const BOTS: usize = 16;

impl Plan {
    /// Each attack gets an address of its own unless `from` says otherwise, so that one's ban is not taken for another's.
    pub(super) fn of(kind: Kind, attacker: &Machine, from: &[IpAddr]) -> Result<Plan> {
        if !from.is_empty() {
            return Ok(Plan { kind, sources: from.to_vec() });
        }
        let own: Vec<IpAddr> = attacker.addresses.iter().copied().filter(IpAddr::is_ipv4).collect();
        let index = Kind::ALL.iter().position(|other| *other == kind).unwrap_or(0);
        let sources = match kind {
            Kind::Ipv6Hopping => hops(attacker)?,
            // The last ones, which no other attack uses.
            Kind::Botnet => own.iter().rev().take(BOTS).copied().collect(),
            _ => own.iter().cycle().skip(index).take(1).copied().collect(),
        };
        if sources.is_empty() {
            anyhow::bail!("could not find an address for the attack {} on {}", kind.name(), attacker.name);
        }
        Ok(Plan { kind, sources })
    }

    /// The source of request `n`.
    pub(super) fn source(&self, n: u32) -> IpAddr {
        self.sources[n as usize % self.sources.len()]
    }

    /// Request `n`.
    pub(super) fn probe(&self, n: u32) -> Probe {
        let index = n as usize;
        let listed = self.listed(index);
        let get = |target: String, agent| Probe { method: "GET", target, agent, headers: vec![] };
        match self.kind {
            Kind::Scan | Kind::SlowScan | Kind::Ipv6Hopping => get(listed, SCANNER),
            // Each has a part of the list.
            Kind::Botnet => get(listed, BROWSER),
            Kind::Flood => get("/".to_owned(), BROWSER),
            Kind::Login | Kind::EvasionPatience => {
                Probe { method: "POST", ..get("/login".to_owned(), BROWSER) }
            }
            Kind::EvasionSpelling => get(respelled(&listed, index), BROWSER),
            Kind::EvasionServed => {
                get(if index.is_multiple_of(2) { "/".to_owned() } else { listed }, BROWSER)
            }
            Kind::EvasionAssets => get(format!("/wp-content/plugins/plugin-{index}/style.css"), BROWSER),
            Kind::EvasionForwarded => {
                let claimed = format!("198.51.100.{}", index % 250 + 1);
                let headers = vec![("X-Forwarded-For", claimed.clone()), ("X-Real-IP", claimed)];
                Probe { headers, ..get(listed, BROWSER) }
            }
            Kind::EvasionAgent => get(listed, SEARCH_ENGINE),
        }
    }

    /// Name `index` of the attack's list. Each attack has a list of its own: whoever asks for one that others were banned for is
    /// banned sooner, and the attacks are made one after the other.
    fn listed(&self, index: usize) -> String {
        if matches!(self.kind, Kind::Scan | Kind::Botnet) {
            let name = PROBES[index % PROBES.len()];
            return match index / PROBES.len() {
                0 => name.to_owned(),
                round => format!("/old{round}{name}"),
            };
        }
        let ending = ENDINGS[self.kind as usize % ENDINGS.len()];
        let name = NAMES[index % NAMES.len()];
        match index / NAMES.len() {
            0 => format!("/{name}{ending}"),
            round => format!("/old{round}/{name}{ending}"),
        }
    }
}

/// Another spelling of the same path.
fn respelled(path: &str, index: usize) -> String {
    let name = path.strip_prefix('/').unwrap_or(path);
    match index % 5 {
        0 => format!("//{name}"),
        1 => format!("/./{name}"),
        2 => format!("/a/../{name}"),
        3 => path.replace('.', "%2e").replace('e', "%65"),
        _ => format!("/%2f{name}?v={index}"),
    }
}

/// Addresses of different /64s of the attacker's IPv6 network.
fn hops(attacker: &Machine) -> Result<Vec<IpAddr>> {
    let network = super::networks(attacker).into_iter().find_map(|network| match network {
        IpNet::V6(network) if network.prefix_len() <= 48 => Some(network.network()),
        _ => None,
    });
    let network = network.with_context(|| {
        format!("could not find an IPv6 network of {} to hop in: it needs a /48", attacker.name)
    })?;
    let hop = |n: u16| {
        let [a, b, c, ..] = network.segments();
        IpAddr::V6(Ipv6Addr::new(a, b, c, n, 0, 0, 0, 1))
    };
    Ok((1..=HOPS).map(hop).collect())
}
