//! Addresses that must never be banned because this host needs them: its own, gateways, resolvers, and the peers of live
//! SSH sessions. Only reads.
//!
//! [`Watch`] scans every few seconds and reads again only what may have changed: addresses and gateways after the kernel
//! announced a change of the network, new processes, and connections when sshd's sockets changed. Every twelfth scan
//! reads everything, in case an announcement was missed or a process number was reused.

use std::collections::{BTreeSet, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use anyhow::{Context, Result};
use ipnet::IpNet;
use nix::ifaddrs::getifaddrs;
use procfs::process::{FDTarget, Process};

use crate::network_monitor::NetworkMonitor;
use shield_engine::allowlist::{AllowReason, Allowed};

/// Every n-th scan uses nothing that was read before: once a minute with a scan every 5 s.
const FULL_SCAN_EVERY: u32 = 12;

/// The reasons of the entries that a scan returns.
pub(crate) const REASONS: [AllowReason; 4] =
    [AllowReason::OwnAddress, AllowReason::Gateway, AllowReason::Resolver, AllowReason::SshSession];

/// The result of a scan: sorted entries, and a message for each thing that could not be read.
pub(crate) type Found = (Vec<Allowed>, Vec<String>);

/// Scans once.
pub(crate) fn addresses() -> Found {
    Watch::new().scan()
}

/// Repeated scans.
pub(crate) struct Watch {
    scans: u32,
    monitor: NetworkMonitor,
    /// Own addresses and gateways as of the last change of the network; `None` when they have to be read.
    network: Option<Vec<(AllowReason, IpAddr)>>,
    sessions: Sessions,
}

impl Watch {
    /// Watches the network namespace of the calling thread.
    pub(crate) fn new() -> Watch {
        Watch { scans: 0, monitor: NetworkMonitor::new(), network: None, sessions: Sessions::default() }
    }

    pub(crate) fn scan(&mut self) -> Found {
        let full = self.scans.is_multiple_of(FULL_SCAN_EVERY);
        self.scans = self.scans.wrapping_add(1);
        let mut found = Vec::new();
        let mut problems = Vec::new();
        if self.monitor.changed() || full {
            self.network = None;
        }
        match self.network.clone() {
            Some(network) => found.extend(network),
            None => self.network = read_network(&mut found, &mut problems),
        }
        let mut take = |reason, result: Result<Vec<IpAddr>>| match result {
            Ok(addrs) => found.extend(addrs.into_iter().map(|addr| (reason, addr))),
            Err(error) => problems.push(format!("{error:#}")),
        };
        take(AllowReason::Resolver, resolvers(Path::new("/etc/resolv.conf")));
        take(AllowReason::SshSession, self.sessions.peers(full));
        let clients = found.into_iter().filter(|(_, addr)| is_client(addr));
        let mut found: Vec<Allowed> = clients.map(|(reason, addr)| entry(addr, reason)).collect();
        found.sort_unstable();
        found.dedup();
        (found, problems)
    }
}

/// Appends own addresses and gateways to `found`. Returns them too when all could be read: only then may they be kept.
fn read_network(
    found: &mut Vec<(AllowReason, IpAddr)>,
    problems: &mut Vec<String>,
) -> Option<Vec<(AllowReason, IpAddr)>> {
    let (first, problems_before) = (found.len(), problems.len());
    let read = [
        (AllowReason::OwnAddress, own_addresses()),
        (AllowReason::Gateway, ipv4_gateways()),
        (AllowReason::Gateway, ipv6_gateways()),
    ];
    for (reason, result) in read {
        match result {
            Ok(addrs) => found.extend(addrs.into_iter().map(|addr| (reason, addr))),
            Err(error) => problems.push(format!("{error:#}")),
        }
    }
    (problems.len() == problems_before).then(|| found[first..].to_vec())
}

/// Own addresses and gateways, as far as they can be read.
pub(crate) fn network() -> Vec<(AllowReason, IpAddr)> {
    let mut found = Vec::new();
    read_network(&mut found, &mut Vec::new());
    found
}

fn entry(addr: IpAddr, reason: AllowReason) -> Allowed {
    Allowed { network: IpNet::from(addr.to_canonical()), reason }
}

/// Special addresses are on the allowlist anyway, and would only lengthen it.
fn is_client(addr: &IpAddr) -> bool {
    let link_local = matches!(addr, IpAddr::V6(v6) if v6.is_unicast_link_local());
    !(addr.is_loopback() || addr.is_unspecified() || addr.is_multicast() || link_local)
}

fn own_addresses() -> Result<Vec<IpAddr>> {
    let interfaces = getifaddrs().context("could not list this host's addresses")?;
    let addr = |storage: nix::sys::socket::SockaddrStorage| {
        let v4 = storage.as_sockaddr_in().map(|a| IpAddr::V4(a.ip()));
        v4.or_else(|| storage.as_sockaddr_in6().map(|a| IpAddr::V6(a.ip())))
    };
    Ok(interfaces.filter_map(|interface| interface.address.and_then(addr)).collect())
}

fn ipv4_gateways() -> Result<Vec<IpAddr>> {
    let text = read("/proc/net/route")?;
    Ok(text.lines().skip(1).filter_map(ipv4_gateway).collect())
}

/// A line of /proc/net/route: the gateway is the third column, hexadecimal in the host's byte order.
fn ipv4_gateway(line: &str) -> Option<IpAddr> {
    let gateway = u32::from_str_radix(line.split_ascii_whitespace().nth(2)?, 16).ok()?;
    (gateway != 0).then(|| IpAddr::V4(Ipv4Addr::from(gateway.to_ne_bytes())))
}

fn ipv6_gateways() -> Result<Vec<IpAddr>> {
    match std::fs::read_to_string("/proc/net/ipv6_route") {
        Ok(text) => Ok(text.lines().filter_map(ipv6_gateway).collect()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error).context("could not read /proc/net/ipv6_route"),
    }
}

/// A line of /proc/net/ipv6_route: the next hop is the fifth column, 32 hexadecimal digits.
fn ipv6_gateway(line: &str) -> Option<IpAddr> {
    let hop = u128::from_str_radix(line.split_ascii_whitespace().nth(4)?, 16).ok()?;
    (hop != 0).then(|| IpAddr::V6(Ipv6Addr::from_bits(hop)))
}

fn resolvers(path: &Path) -> Result<Vec<IpAddr>> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(text.lines().filter_map(resolver).collect()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error).with_context(|| format!("could not read {}", path.display())),
    }
}

fn resolver(line: &str) -> Option<IpAddr> {
    let mut words = line.split_ascii_whitespace();
    let is_nameserver = words.next() == Some("nameserver");
    let addr = words.next().filter(|_| is_nameserver)?;
    addr.split('%').next()?.parse().ok()
}

/// The live SSH sessions, and what makes the next scan cheap.
#[derive(Default)]
struct Sessions {
    /// Processes that were new at the last scan and were not sshd.
    new: BTreeSet<i32>,
    /// Processes that were not sshd at two scans. Their name is not read again: a process forked for a session runs sshd's
    /// program long before the second scan.
    others: BTreeSet<i32>,
    /// The sockets of all sshd processes, and the peers of those that are connected.
    known: Option<(HashSet<u64>, Vec<IpAddr>)>,
}

impl Sessions {
    /// The peers of established connections that belong to an sshd process, whatever port it listens on.
    fn peers(&mut self, full: bool) -> Result<Vec<IpAddr>> {
        if full {
            *self = Sessions::default();
        }
        let sshds = self.sshds().context("could not look for SSH sessions in /proc")?;
        let sockets: HashSet<u64> = sshds.into_iter().flat_map(sockets_of).collect();
        match &self.known {
            Some((known, peers)) if *known == sockets => Ok(peers.clone()),
            _ => {
                let peers = peers_of(&sockets)?;
                self.known = Some((sockets, peers.clone()));
                Ok(peers)
            }
        }
    }

    /// The sshd processes. Reads the names only of processes that are not in `others`.
    fn sshds(&mut self) -> Result<Vec<i32>> {
        let mut found = Vec::new();
        let (mut new, mut others) = (BTreeSet::new(), BTreeSet::new());
        for entry in std::fs::read_dir("/proc")? {
            let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            if self.others.contains(&pid) {
                others.insert(pid);
            } else if is_sshd(pid) {
                found.push(pid);
            } else if self.new.contains(&pid) {
                others.insert(pid);
            } else {
                new.insert(pid);
            }
        }
        (self.new, self.others) = (new, others);
        Ok(found)
    }
}

/// An unreadable name counts as no: processes end during the scan, and one that ended holds no session.
fn is_sshd(pid: i32) -> bool {
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm"));
    name.is_ok_and(|name| matches!(name.trim_end(), "sshd" | "sshd-session"))
}

fn sockets_of(pid: i32) -> Vec<u64> {
    let Ok(fds) = Process::new(pid).and_then(|process| process.fd()) else { return Vec::new() };
    let socket = |target| if let FDTarget::Socket(inode) = target { Some(inode) } else { None };
    fds.flatten().filter_map(|fd| socket(fd.target)).collect()
}

fn peers_of(sockets: &HashSet<u64>) -> Result<Vec<IpAddr>> {
    if sockets.is_empty() {
        return Ok(Vec::new());
    }
    let mut entries = procfs::net::tcp().context("could not read /proc/net/tcp")?;
    entries.extend(procfs::net::tcp6().unwrap_or_default());
    let established = entries
        .into_iter()
        .filter(|entry| entry.state == procfs::net::TcpState::Established && sockets.contains(&entry.inode));
    Ok(established.map(|entry| entry.remote_address.ip()).collect())
}

fn read(path: &str) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("could not read {path}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gateways_are_read_from_the_kernels_columns() {
        let v4 = "eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0";
        assert_eq!(ipv4_gateway(v4), Some("192.0.2.1".parse().unwrap()));
        assert_eq!(ipv4_gateway("eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0"), None);
        let v6 = "00000000000000000000000000000000 00 00000000000000000000000000000000 00 \
                  20010db8000000000000000000000001 00000400 00000001 00000000 00000003     eth0";
        assert_eq!(ipv6_gateway(v6), Some("2001:db8::1".parse().unwrap()));
    }

    #[test]
    fn resolvers_are_read_from_resolv_conf() {
        let check = |line: &str, expected: Option<&str>| {
            assert_eq!(resolver(line), expected.map(|a| a.parse().unwrap()), "{line}");
        };
        check("nameserver 192.0.2.53", Some("192.0.2.53"));
        check("nameserver fe80::1%eth0", Some("fe80::1"));
        check("# nameserver 192.0.2.53", None);
        check("search example.org", None);
        check("nameserver", None);
    }

    #[test]
    fn the_name_of_a_process_is_read_at_two_scans() {
        let own = std::process::id() as i32;
        let mut sessions = Sessions::default();
        sessions.sshds().unwrap();
        assert!(sessions.new.contains(&own) && !sessions.others.contains(&own));
        sessions.sshds().unwrap();
        assert!(!sessions.new.contains(&own) && sessions.others.contains(&own));
        sessions.peers(true).unwrap();
        assert!(!sessions.others.contains(&own), "a full scan starts over");
    }

    #[test]
    fn every_scan_finds_the_same() {
        let mut watch = Watch::new();
        let first = watch.scan();
        assert!(watch.network.is_some(), "{first:?}");
        assert_eq!(watch.scan(), first);
    }

    #[test]
    fn loopback_is_not_listed() {
        let (found, _) = addresses();
        assert!(found.iter().all(|entry| !entry.network.addr().is_loopback()));
    }
}
