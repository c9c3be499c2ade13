//! What must never be banned because this host needs it: its own addresses, gateways, resolvers, and whoever is
//! logged in by SSH. Read from the kernel each time; nothing here is cached or changed.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use anyhow::{Context, Result};
use ipnet::IpNet;
use nix::ifaddrs::getifaddrs;
use procfs::process::FDTarget;

use crate::engine::allowlist::{AllowReason, Allowed};

/// The reasons that [`addresses`] finds entries for.
pub const REASONS: [AllowReason; 4] =
    [AllowReason::OwnAddress, AllowReason::Gateway, AllowReason::Resolver, AllowReason::SshSession];

/// Every address of this host's that must not be banned, and a line for each thing that could not be read.
pub fn addresses() -> (Vec<Allowed>, Vec<String>) {
    let mut found = Vec::new();
    let mut problems = Vec::new();
    let mut take = |reason, result: Result<Vec<IpAddr>>| match result {
        Ok(addrs) => found.extend(addrs.into_iter().filter(is_client).map(|addr| entry(addr, reason))),
        Err(error) => problems.push(format!("{error:#}")),
    };
    take(AllowReason::OwnAddress, own_addresses());
    take(AllowReason::Gateway, ipv4_gateways());
    take(AllowReason::Gateway, ipv6_gateways());
    take(AllowReason::Resolver, resolvers(Path::new("/etc/resolv.conf")));
    take(AllowReason::SshSession, ssh_peers());
    found.sort_unstable();
    found.dedup();
    (found, problems)
}

fn entry(addr: IpAddr, reason: AllowReason) -> Allowed {
    Allowed { network: IpNet::from(addr.to_canonical()), reason }
}

/// Special addresses are on the allowlist anyway.
fn is_client(addr: &IpAddr) -> bool {
    let link_local = matches!(addr, IpAddr::V6(v6) if v6.is_unicast_link_local());
    !(addr.is_loopback() || addr.is_unspecified() || addr.is_multicast() || link_local)
}

fn own_addresses() -> Result<Vec<IpAddr>> {
    let interfaces = getifaddrs().context("cannot list this host's addresses")?;
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
        Err(error) => Err(error).context("cannot read /proc/net/ipv6_route"),
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
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

fn resolver(line: &str) -> Option<IpAddr> {
    let mut words = line.split_ascii_whitespace();
    let is_nameserver = words.next() == Some("nameserver");
    let addr = words.next().filter(|_| is_nameserver)?;
    addr.split('%').next()?.parse().ok()
}

/// The far ends of established connections that belong to an sshd process, whatever port it listens on.
fn ssh_peers() -> Result<Vec<IpAddr>> {
    let sockets = sshd_sockets().context("cannot look for SSH sessions in /proc")?;
    if sockets.is_empty() {
        return Ok(Vec::new());
    }
    let mut entries = procfs::net::tcp().context("cannot read /proc/net/tcp")?;
    entries.extend(procfs::net::tcp6().unwrap_or_default());
    let established = entries
        .into_iter()
        .filter(|entry| entry.state == procfs::net::TcpState::Established && sockets.contains(&entry.inode));
    Ok(established.map(|entry| entry.remote_address.ip()).collect())
}

fn sshd_sockets() -> Result<HashSet<u64>> {
    let mut inodes = HashSet::new();
    for process in procfs::process::all_processes()?.flatten() {
        // Processes come and go while we look: one that is gone holds no session.
        let is_sshd = process.stat().is_ok_and(|stat| stat.comm == "sshd" || stat.comm == "sshd-session");
        let fds = if is_sshd { process.fd().ok() } else { None };
        for fd in fds.into_iter().flatten().flatten() {
            if let FDTarget::Socket(inode) = fd.target {
                inodes.insert(inode);
            }
        }
    }
    Ok(inodes)
}

fn read(path: &str) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("cannot read {path}"))
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
    fn loopback_is_not_listed() {
        let (found, _) = addresses();
        assert!(found.iter().all(|entry| !entry.network.addr().is_loopback()));
    }
}
