//! Addresses that must never be banned because this host needs them: its own, gateways, resolvers, and those of SSH sessions
//! (`ssh/`).
//!
//! [`Watch`] scans every few seconds and reads again only what may have changed: addresses and gateways after the kernel
//! announced a change of the network, resolvers after their file has changed. Every twelfth scan reads everything, in case an
//! announcement was missed.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use ipnet::IpNet;
use nix::ifaddrs::getifaddrs;

use crate::file_stamp::Stamp;
use crate::network_monitor::NetworkMonitor;
use crate::ssh;
use shield_engine::allowlist::{AllowReason, Allowed};
use shield_engine::event::PartState;
use shield_engine::time::Now;

/// Every n-th scan uses nothing that was read before: once a minute with a scan every 5 s.
const FULL_SCAN_EVERY: u32 = 12;

/// The reasons of the entries that a scan returns.
pub(crate) const REASONS: [AllowReason; 5] = [
    AllowReason::OwnAddress,
    AllowReason::Gateway,
    AllowReason::Resolver,
    AllowReason::SshSession,
    AllowReason::SshRecent,
];

/// The result of a scan.
#[derive(Debug, PartialEq)]
pub(crate) struct Found {
    /// Sorted.
    pub entries: Vec<Allowed>,
    /// A message for each thing that could not be read.
    pub problems: Vec<String>,
    /// The state of the part [`ssh::PART`].
    pub ssh: PartState,
}

/// Scans once.
pub(crate) fn addresses(ssh: &ssh::Settings, now: Now) -> Found {
    Watch::new(ssh).scan(now)
}

/// Repeated scans.
pub(crate) struct Watch {
    scans: u32,
    monitor: NetworkMonitor,
    /// Own addresses and gateways as of the last change of the network; `None` when they have to be read.
    network: Option<Vec<(AllowReason, IpAddr)>>,
    resolvers: Resolvers,
    ssh: ssh::Watch,
}

/// The resolvers in a file.
struct Resolvers {
    path: PathBuf,
    addrs: Result<Vec<IpAddr>>,
    /// Of the file, when it was read.
    stamp: Option<Stamp>,
}

impl Watch {
    /// Watches the network namespace of the calling thread.
    pub(crate) fn new(ssh: &ssh::Settings) -> Watch {
        Watch {
            scans: 0,
            monitor: NetworkMonitor::new(),
            network: None,
            resolvers: Resolvers::of(Path::new("/etc/resolv.conf")),
            ssh: ssh::Watch::new(ssh),
        }
    }

    pub(crate) fn scan(&mut self, now: Now) -> Found {
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
        match self.resolvers.read(full) {
            Ok(addrs) => found.extend(addrs.iter().map(|addr| (AllowReason::Resolver, *addr))),
            Err(error) => problems.push(format!("{error:#}")),
        }
        let ssh = self.ssh.scan(now);
        found.extend(ssh.entries);
        let clients = found.into_iter().filter(|(_, addr)| is_client(addr));
        let mut entries: Vec<Allowed> = clients.map(|(reason, addr)| entry(addr, reason)).collect();
        entries.sort_unstable();
        entries.dedup();
        Found { entries, problems, ssh: ssh.state }
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

impl Resolvers {
    fn of(path: &Path) -> Resolvers {
        Resolvers { path: path.to_owned(), addrs: Ok(Vec::new()), stamp: None }
    }

    /// Reads the file if it has changed, or `always`.
    fn read(&mut self, always: bool) -> &Result<Vec<IpAddr>> {
        let stamp = Stamp::of(&self.path);
        if always || stamp != self.stamp {
            (self.stamp, self.addrs) = (stamp, resolvers(&self.path));
        }
        &self.addrs
    }
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

fn read(path: &str) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("could not read {path}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Now = Now { wall_ms: 1_800_000_000_000, boot_ms: 1_000 };

    fn settings(state_dir: &Path) -> ssh::Settings {
        ssh::Settings { enabled: true, keep_secs: 60, state_dir: state_dir.to_owned() }
    }

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
    fn a_file_of_resolvers_is_read_again_after_every_change() {
        let folder = tempfile::tempdir().unwrap();
        let path = &folder.path().join("resolv.conf");
        let mut resolvers = Resolvers::of(path);
        let mut found =
            || resolvers.read(false).as_ref().unwrap().iter().map(IpAddr::to_string).collect::<Vec<_>>();
        assert!(found().is_empty(), "no file");
        std::fs::write(path, "nameserver 192.0.2.53\n").unwrap();
        assert_eq!((found(), found()), (vec!["192.0.2.53".to_owned()], vec!["192.0.2.53".to_owned()]));
        // As resolvconf and DHCP clients do: another file in its place, of the same length.
        std::fs::write(folder.path().join("new"), "nameserver 192.0.2.54\n").unwrap();
        std::fs::rename(folder.path().join("new"), path).unwrap();
        assert_eq!(found(), ["192.0.2.54"]);
        std::fs::remove_file(path).unwrap();
        assert!(found().is_empty());
    }

    #[test]
    fn every_scan_finds_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let mut watch = Watch::new(&settings(folder.path()));
        let first = watch.scan(NOW);
        assert!(watch.network.is_some(), "{first:?}");
        assert_eq!(watch.scan(NOW), first);
    }

    #[test]
    fn loopback_is_not_listed() {
        let folder = tempfile::tempdir().unwrap();
        let found = addresses(&settings(folder.path()), NOW);
        assert!(found.entries.iter().all(|entry| !entry.network.addr().is_loopback()));
    }
}
