//! No packet reaches the server: the router throws away what is for it. The links stay up, because the kernel forgets IPv6
//! addresses and routes with them.

use std::net::IpAddr;

use anyhow::{Context as _, Result};

use super::servers;
use crate::environment::{Environment, Role};
use crate::guard::{self, OwnNamespace};

/// Routes to the servers' addresses lead nowhere.
pub(super) fn cut(environment: &Environment) -> Result<String> {
    let router = router(environment)?;
    let cut = blackholes(&router)?;
    for address in addresses(environment)? {
        let to = host(address);
        if !cut.contains(&to) {
            router.run(&["ip", family(address), "route", "add", "blackhole", &to])?;
        }
    }
    Ok("no packet reaches the servers".to_owned())
}

/// Removes the routes that lead nowhere.
pub(super) fn join(environment: &Environment) -> Result<Vec<String>> {
    let router = router(environment)?;
    let cut = blackholes(&router)?;
    for to in &cut {
        let family = if to.contains(':') { "-6" } else { "-4" };
        router.run(&["ip", family, "route", "del", "blackhole", to])?;
    }
    Ok(cut.iter().map(|to| format!("packets to {to} went nowhere and arrive again")).collect())
}

fn router(environment: &Environment) -> Result<OwnNamespace> {
    let router = environment.machine(Role::Router).context("could not find the environment's router")?;
    guard::namespace(environment, &router.name)
}

fn addresses(environment: &Environment) -> Result<Vec<IpAddr>> {
    let servers = servers(environment)?;
    let of_servers = environment.machines.iter().filter(|machine| servers.contains(&machine.name));
    Ok(of_servers.flat_map(|machine| machine.addresses.clone()).collect())
}

/// The destinations that lead nowhere, as `ip` takes them.
fn blackholes(router: &OwnNamespace) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for family in ["-4", "-6"] {
        let routes = router.run(&["ip", family, "route", "show", "type", "blackhole"])?;
        found.extend(routes.lines().filter_map(destination));
    }
    Ok(found)
}

/// The destination in a line of `ip route`: `blackhole 192.0.2.80`, `blackhole 2001:db8::1 dev lo metric 1024`.
fn destination(line: &str) -> Option<String> {
    let to = line.split_whitespace().nth(1)?;
    Some(to.parse().map_or_else(|_| to.to_owned(), host))
}

fn host(address: IpAddr) -> String {
    format!("{address}/{}", if address.is_ipv6() { 128 } else { 32 })
}

fn family(address: IpAddr) -> &'static str {
    if address.is_ipv6() { "-6" } else { "-4" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_destination_is_read_from_the_lines_that_ip_prints() {
        let check = |line, expected: Option<&str>| assert_eq!(destination(line).as_deref(), expected);
        check("blackhole 192.0.2.80 ", Some("192.0.2.80/32"));
        check("blackhole 198.51.100.0/24", Some("198.51.100.0/24"));
        check("blackhole 2001:db8:80::80 dev lo metric 1024 pref medium", Some("2001:db8:80::80/128"));
        check("", None);
    }
}
