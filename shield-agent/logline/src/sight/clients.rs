//! One address for all clients: a proxy, a load balancer or a container's gateway stands in front, and the log has its address in
//! place of theirs.
//!
//! A site with one visitor looks the same at first, so the evidence that is needed depends on the address. A gateway of this host, an
//! own address or a container's gateway is nobody's visitor, and a few hundred lines for different paths are enough. Any other private
//! address must ask for many paths in nearly every hour of a day, and a public one in nearly every hour of two: people
//! sleep, and a public site without a single other address, of scanners at least, is not reached directly.

use std::hash::{DefaultHasher, Hasher as _};
use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;

use shield_engine::request::Request;

/// Lines that are looked at before anything is said.
const LINES: u64 = 200;

/// The shortest time that they must span.
const SPAN_MS: u64 = 600_000;

/// Of 64 bits, so many set by hashed paths: some twenty different paths. A health check asks for one or two.
const PATHS: u32 = 17;

/// The hours of the last 24, and of the last 48, in which that many paths must have been asked for.
const HOURS_OF_A_DAY: u32 = 18;
const HOURS_OF_TWO_DAYS: u32 = 40;

const HOUR_MS: u64 = 3_600_000;

/// Where an address stands, seen from this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// Loopback, or another address of this host.
    Own,
    /// A gateway of this host.
    Gateway,
    /// The usual address of a container network's gateway.
    Container,
    /// A proxy of `trusted_proxies`.
    TrustedProxy,
    /// Another private address.
    Private,
    /// Any other address.
    Public,
}

/// The addresses by which an [`Origin`] is known.
#[derive(Debug, Clone, Default)]
pub struct Surroundings {
    /// This host's own addresses.
    pub own: Vec<IpAddr>,
    /// This host's gateways.
    pub gateways: Vec<IpAddr>,
    /// `trusted_proxies`.
    pub proxies: Vec<IpNet>,
    /// Networks that an operator has said to know. One client of these is no fault.
    pub allowed: Vec<IpNet>,
}

impl Surroundings {
    fn origin(&self, addr: IpAddr) -> Origin {
        let is_in = |nets: &[IpNet]| nets.iter().any(|net| net.contains(&addr));
        if is_in(&self.proxies) {
            Origin::TrustedProxy
        } else if addr.is_loopback() || self.own.contains(&addr) {
            Origin::Own
        } else if self.gateways.contains(&addr) {
            Origin::Gateway
        } else if is_container_gateway(addr) {
            Origin::Container
        } else if is_private(addr) {
            Origin::Private
        } else {
            Origin::Public
        }
    }
}

/// Docker's and podman's bridges give themselves the first address of their network; the others are those of rootless networks.
fn is_container_gateway(addr: IpAddr) -> bool {
    let IpAddr::V4(v4) = addr else { return false };
    let [a, b, _, d] = v4.octets();
    let is_bridge = d == 1 && ((a == 172 && (17..32).contains(&b)) || (a == 10 && (88..=89).contains(&b)));
    is_bridge || [Ipv4Addr::new(10, 0, 2, 2), Ipv4Addr::new(10, 0, 2, 100)].contains(&v4)
}

fn is_private(addr: IpAddr) -> bool {
    match addr {
        IpAddr::V4(v4) => {
            let [a, b, ..] = v4.octets();
            v4.is_private() || v4.is_link_local() || (a == 100 && (64..128).contains(&b))
        }
        IpAddr::V6(v6) => v6.is_unique_local() || v6.is_unicast_link_local(),
    }
}

/// The client that all lines have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OneClient {
    /// Its address.
    pub addr: IpAddr,
    /// Where it stands.
    pub origin: Origin,
}

#[derive(Debug, Default)]
pub(super) struct Clients {
    addr: Option<IpAddr>,
    of_addr: u64,
    all: u64,
    since_ms: u64,
    hour: u64,
    /// A bit for each hashed path of this hour, and of the last.
    paths: u64,
    last_paths: u64,
    /// A bit for each hour with many paths, the last one lowest.
    hours: u64,
    found: Option<OneClient>,
}

impl Clients {
    pub(super) fn look_at(&mut self, request: &Request<'_>, now_ms: u64) {
        if request.behind_proxy {
            return;
        }
        self.turn(now_ms);
        if self.addr == Some(request.addr) {
            self.of_addr += 1;
            self.all += 1;
            self.paths |= bit_of(without_query(request.path));
        } else {
            self.look_at_another(request, now_ms);
        }
        if self.all >= 10_000 {
            self.all /= 2;
            self.of_addr /= 2;
        }
    }

    fn look_at_another(&mut self, request: &Request<'_>, now_ms: u64) {
        // The host's own health checks come beside every kind of client.
        if request.addr.is_loopback() && self.addr.is_some() {
            return;
        }
        self.all += 1;
        self.hours = 0;
        if self.of_addr * 2 < self.all {
            let paths = bit_of(without_query(request.path));
            *self = Clients {
                addr: Some(request.addr),
                of_addr: 1,
                all: 1,
                since_ms: now_ms,
                hour: self.hour,
                paths,
                ..Clients::default()
            };
        }
    }

    fn turn(&mut self, now_ms: u64) {
        let hour = now_ms / HOUR_MS;
        for _ in 0..hour.saturating_sub(self.hour).min(64) {
            self.hours = self.hours << 1 | u64::from(self.paths.count_ones() >= PATHS);
            self.last_paths = std::mem::take(&mut self.paths);
        }
        self.hour = hour;
    }

    fn has_many_paths(&self) -> bool {
        self.paths.count_ones().max(self.last_paths.count_ones()) >= PATHS
    }

    pub(super) fn suspect(&self) -> Option<IpAddr> {
        let is_found = self.found.is_some();
        self.addr.filter(|_| is_found || (self.of_addr >= LINES && self.has_many_paths()))
    }

    pub(super) fn judge(&mut self, surroundings: &Surroundings, now_ms: u64) {
        let span_ms = now_ms.saturating_sub(self.since_ms);
        let Some(addr) = self.addr else { return };
        let was_found = self.found.is_some_and(|found| found.addr == addr);
        let origin = surroundings.origin(addr);
        let hours_of = |last: u32| (self.hours & ((1 << last) - 1)).count_ones();
        let is_one = match origin {
            Origin::Private => was_found && hours_of(24) > 0 || hours_of(24) >= HOURS_OF_A_DAY,
            Origin::Public => was_found && hours_of(48) > 0 || hours_of(48) >= HOURS_OF_TWO_DAYS,
            // Nearly all, because a scanner may know the way past the proxy.
            _ if was_found => self.of_addr * 10 >= self.all * 8,
            _ => {
                self.of_addr >= LINES
                    && span_ms >= SPAN_MS
                    && self.has_many_paths()
                    && self.of_addr * 20 >= self.all * 19
            }
        };
        let is_allowed = surroundings.allowed.iter().any(|net| net.contains(&addr));
        self.found = (is_one && !is_allowed).then_some(OneClient { addr, origin });
    }

    pub(super) fn finding(&self) -> Option<OneClient> {
        self.found.filter(|found| self.addr == Some(found.addr))
    }

    /// Judges lines that span `span_secs`, without waiting for more. That is too short a time to tell a visitor of another address
    /// from a proxy.
    pub(super) fn at_a_glance(&self, surroundings: &Surroundings, span_secs: u64) -> Option<OneClient> {
        let addr = self.suspect()?;
        let origin = surroundings.origin(addr);
        let is_nobody = !matches!(origin, Origin::Private | Origin::Public);
        let is_allowed = surroundings.allowed.iter().any(|net| net.contains(&addr));
        let is_one = self.of_addr * 20 >= self.all * 19 && span_secs * 1_000 >= SPAN_MS;
        (is_nobody && is_one && !is_allowed).then_some(OneClient { addr, origin })
    }
}

fn without_query(path: &[u8]) -> &[u8] {
    path.split(|byte| *byte == b'?').next().unwrap_or_default()
}

/// One of 64 bits for a path. Whoever makes paths collide looks like fewer paths and gains nothing.
fn bit_of(path: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(path);
    1 << (hasher.finish() % 64)
}
