//! The machines of an environment and the links between them, by profile. All addresses are those reserved for documentation,
//! and for a crowd those reserved for benchmarks. No link leads to the host: environments have nothing in common.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::net::IpAddr;

use anyhow::{Context as _, Result};

use crate::command;
use crate::environment::{Environment, Machine, Profile, Role, namespace_name};
use crate::netns::Namespace;

/// The server's addresses.
pub const SERVER: [&str; 2] = ["192.0.2.80", "2001:db8:80::80"];
/// The second server's, in a fleet.
pub const SECOND_SERVER: [&str; 2] = ["192.0.2.81", "2001:db8:80::81"];
/// The proxy's, to which its clients connect.
pub const PROXY: [&str; 2] = ["203.0.113.10", "2001:db8:10::10"];
/// The container that nginx is in.
pub const CONTAINER: [&str; 2] = ["172.17.0.2", "fd00:17::2"];
/// The router's address on the server's link.
pub const ROUTER: &str = "192.0.2.1";
/// The server's interface to the router, and a client's.
pub const INTERFACE: &str = "eth0";

/// The machines and how they are connected.
#[derive(Debug, Default)]
pub(crate) struct Topology {
    pub machines: Vec<Machine>,
    /// Commands of `ip` on the host: the links.
    links: String,
    /// Commands of `ip` in a machine, by its name.
    inside: BTreeMap<String, String>,
}

/// One end of a link.
struct End<'a> {
    machine: &'a str,
    interface: &'a str,
    addresses: &'a [&'a str],
}

/// A client's machine.
struct Client {
    name: &'static str,
    role: Role,
    /// Its own address and the router's, with their prefix lengths, of each family that it has.
    links: &'static [(&'static str, &'static str)],
    networks: &'static [&'static str],
}

const CLIENTS: &[Client] = &[
    visitor("alice", &[("198.51.100.2/30", "198.51.100.1/30")]),
    visitor("bob", &[("198.51.100.6/30", "198.51.100.5/30")]),
    visitor("carol", &[("2001:db8:ca01::2/64", "2001:db8:ca01::1/64")]),
    visitor("dave", &[("2001:db8:da7e::2/64", "2001:db8:da7e::1/64")]),
    // The attacker's neighbour: a ban that covered more than the attacker's address would hit erin too.
    visitor("erin", &[("203.0.113.70/30", "203.0.113.69/30")]),
    Client {
        name: "visitors",
        role: Role::Visitor,
        links: &[("203.0.113.242/30", "203.0.113.241/30"), ("2001:db8:c0::2/64", "2001:db8:c0::1/64")],
        networks: &["198.18.0.0/16", "2001:db8:c0de::/48"],
    },
    Client {
        name: "attackers",
        role: Role::Attacker,
        links: &[("203.0.113.66/30", "203.0.113.65/30"), ("2001:db8:60::2/64", "2001:db8:60::1/64")],
        networks: &["203.0.113.128/26", "2001:db8:66::/48"],
    },
];

const fn visitor(name: &'static str, links: &'static [(&'static str, &'static str)]) -> Client {
    Client { name, role: Role::Visitor, links, networks: &[] }
}

impl Topology {
    /// The machines of an environment with this id.
    pub(crate) fn of(id: &str, profile: Profile) -> Self {
        let mut all = Self::default();
        all.machine(id, "router", Role::Router);
        all.server(id, "server", SERVER, ROUTER);
        match profile {
            Profile::Direct => {}
            Profile::Cdn => all.proxy(id),
            Profile::Container => all.container(id),
            Profile::Fleet => all.second_server(id),
        }
        for client in CLIENTS {
            all.client(id, client);
        }
        all
    }

    fn machine(&mut self, id: &str, name: &str, role: Role) -> &mut Machine {
        self.machines.push(Machine {
            name: name.to_owned(),
            role,
            namespace: namespace_name(id, name),
            addresses: Vec::new(),
            networks: Vec::new(),
        });
        self.machines.last_mut().expect("it was pushed just now")
    }

    fn server(&mut self, id: &str, name: &str, [v4, v6]: [&str; 2], router: &str) {
        self.machine(id, name, Role::Server).addresses = vec![address(v4), address(v6)];
        let (v4, v6, router) = (format!("{v4}/25"), format!("{v6}/64"), format!("{router}/25"));
        self.link(
            id,
            &End { machine: name, interface: INTERFACE, addresses: &[&v4, &v6] },
            &End { machine: "router", interface: name, addresses: &[&router, "2001:db8:80::1/64"] },
        );
        self.defaults(name, "192.0.2.1", Some("2001:db8:80::1"));
    }

    /// A server on a link of its own, so that nothing between the two is bridged.
    fn second_server(&mut self, id: &str) {
        let [v4, v6] = SECOND_SERVER;
        self.machine(id, "server-2", Role::Server).addresses = vec![address(v4), address(v6)];
        self.link(
            id,
            &End {
                machine: "server-2",
                interface: INTERFACE,
                addresses: &["192.0.2.81/32", "2001:db8:80::81/128"],
            },
            &End {
                machine: "router",
                interface: "server-2",
                addresses: &["192.0.2.253/32", "2001:db8:81::1/128"],
            },
        );
        let own = "route add 192.0.2.253 dev eth0\nroute add default via 192.0.2.253 dev eth0\n\
                   route add 2001:db8:81::1 dev eth0\nroute add default via 2001:db8:81::1 dev eth0\n";
        self.inside("server-2", own);
        self.inside("router", "route add 192.0.2.81 dev server-2\nroute add 2001:db8:80::81 dev server-2\n");
        // The servers are in one network, but the way between them is the router's.
        self.inside(
            "server",
            "route add 192.0.2.81 via 192.0.2.1\nroute add 2001:db8:80::81 via 2001:db8:80::1\n",
        );
    }

    fn proxy(&mut self, id: &str) {
        self.machine(id, "edge", Role::Proxy).addresses = PROXY.iter().map(|text| address(text)).collect();
        self.link(
            id,
            &End {
                machine: "edge",
                interface: INTERFACE,
                addresses: &["203.0.113.10/29", "2001:db8:10::10/64"],
            },
            &End {
                machine: "router",
                interface: "edge",
                addresses: &["203.0.113.9/29", "2001:db8:10::1/64"],
            },
        );
        self.defaults("edge", "203.0.113.9", Some("2001:db8:10::1"));
    }

    fn container(&mut self, id: &str) {
        self.machine(id, "container", Role::Container).addresses =
            CONTAINER.iter().map(|text| address(text)).collect();
        self.link(
            id,
            &End { machine: "server", interface: "docker0", addresses: &["172.17.0.1/16", "fd00:17::1/64"] },
            &End {
                machine: "container",
                interface: INTERFACE,
                addresses: &["172.17.0.2/16", "fd00:17::2/64"],
            },
        );
        self.defaults("container", "172.17.0.1", Some("fd00:17::1"));
    }

    fn client(&mut self, id: &str, client: &Client) {
        let own: Vec<&str> = client.links.iter().map(|(own, _)| *own).collect();
        let routers: Vec<&str> = client.links.iter().map(|(_, router)| *router).collect();
        let machine = self.machine(id, client.name, client.role);
        machine.networks = client.networks.iter().map(|text| (*text).to_owned()).collect();
        machine.addresses = own.iter().map(|text| address(text)).collect();
        for network in client.networks {
            machine.addresses.extend(some_of(network));
        }
        self.link(
            id,
            &End { machine: client.name, interface: INTERFACE, addresses: &own },
            &End { machine: "router", interface: client.name, addresses: &routers },
        );
        for (own, router) in client.links {
            self.inside(client.name, &format!("route add default via {}\n", bare(router)));
            for network in client.networks.iter().filter(|it| it.contains(':') == own.contains(':')) {
                self.inside("router", &format!("route add {network} via {}\n", bare(own)));
                self.inside(client.name, &format!("route add local {network} dev lo\n"));
            }
        }
    }

    fn link(&mut self, id: &str, a: &End<'_>, b: &End<'_>) {
        let _ = writeln!(
            self.links,
            "link add {} netns {} type veth peer name {} netns {}",
            a.interface,
            namespace_name(id, a.machine),
            b.interface,
            namespace_name(id, b.machine),
        );
        for end in [a, b] {
            for address in end.addresses {
                let nodad = if address.contains(':') { " nodad" } else { "" };
                self.inside(end.machine, &format!("address add {address} dev {}{nodad}\n", end.interface));
            }
            self.inside(end.machine, &format!("link set {} up\n", end.interface));
        }
    }

    fn defaults(&mut self, machine: &str, v4: &str, v6: Option<&str>) {
        for gateway in [Some(v4), v6].into_iter().flatten() {
            self.inside(machine, &format!("route add default via {gateway}\n"));
        }
    }

    fn inside(&mut self, machine: &str, commands: &str) {
        self.inside.entry(machine.to_owned()).or_default().push_str(commands);
    }

    /// Makes the namespaces and connects them.
    ///
    /// # Errors
    /// Fails without root, or if `ip` refuses something.
    pub(crate) fn make(&self) -> Result<()> {
        for machine in &self.machines {
            prepare(machine)?;
        }
        command::run_with(&["ip", "-batch", "-"], &self.links).context("could not connect the machines")?;
        for machine in &self.machines {
            let Some(commands) = self.inside.get(&machine.name) else { continue };
            // Links first: a route needs its interface up.
            command::run_with(&["ip", "-n", &machine.namespace, "-batch", "-"], &by_kind(commands))
                .with_context(|| format!("could not set up the machine {}", machine.name))?;
        }
        Ok(())
    }
}

impl Environment {
    /// The addresses that clients connect to: the proxy's if there is one, and otherwise the server's.
    pub fn entry(&self) -> &[IpAddr] {
        let machine = self.machine(Role::Proxy).or_else(|| self.machine(Role::Server));
        machine.map_or(&[], |machine| &machine.addresses)
    }
}

/// Makes the machine's namespace, with the switches of the kernel that it needs.
fn prepare(machine: &Machine) -> Result<()> {
    let namespace = Namespace::create_kept(&machine.namespace)?;
    let mut switches: Vec<&str> = Vec::new();
    if matches!(machine.role, Role::Router | Role::Server) {
        switches.extend(["ipv4/ip_forward", "ipv6/conf/all/forwarding"]);
    }
    if !machine.networks.is_empty() {
        // Linux takes an address of a local IPv6 network as a source only so.
        switches.extend(["ipv4/ip_nonlocal_bind", "ipv6/ip_nonlocal_bind"]);
    }
    namespace.enter(|| {
        for switch in switches {
            let path = format!("/proc/sys/net/{switch}");
            fs::write(&path, "1").with_context(|| format!("could not write 1 to {path}"))?;
        }
        Ok(())
    })
}

/// The commands, addresses before links before routes.
fn by_kind(commands: &str) -> String {
    let of = |kind: &str| commands.lines().filter(|line| line.starts_with(kind)).collect::<Vec<_>>();
    let mut lines = [of("address"), of("link"), of("route")].concat();
    lines.push("");
    lines.join("\n")
}

/// Addresses of a network that are listed one by one: of an IPv6 one the first.
fn some_of(network: &str) -> Vec<IpAddr> {
    let count = if network.ends_with("/26") { 62 } else { 254 };
    match address(network) {
        IpAddr::V4(first) => (1..=count).map(|n| IpAddr::from((first.to_bits() + n).to_be_bytes())).collect(),
        IpAddr::V6(first) => vec![IpAddr::from((first.to_bits() + 1).to_be_bytes())],
    }
}

fn bare(address: &str) -> &str {
    address.split('/').next().unwrap_or(address)
}

fn address(text: &str) -> IpAddr {
    bare(text).parse().expect("the addresses of the topology are written right")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_profile_has_its_machines_and_every_address_once() {
        let check = |profile, roles: &[(Role, usize)]| {
            let all = Topology::of("a-20261130-021504", profile);
            for (role, count) in roles {
                let found = all.machines.iter().filter(|machine| machine.role == *role).count();
                assert_eq!(found, *count, "{profile:?} {role:?}");
            }
            let mut addresses: Vec<IpAddr> =
                all.machines.iter().flat_map(|machine| machine.addresses.clone()).collect();
            let count = addresses.len();
            addresses.sort();
            addresses.dedup();
            assert_eq!(addresses.len(), count, "{profile:?}");
        };
        check(
            Profile::Direct,
            &[(Role::Server, 1), (Role::Visitor, 6), (Role::Attacker, 1), (Role::Proxy, 0)],
        );
        check(Profile::Cdn, &[(Role::Server, 1), (Role::Proxy, 1)]);
        check(Profile::Container, &[(Role::Server, 1), (Role::Container, 1)]);
        check(Profile::Fleet, &[(Role::Server, 2)]);
    }
}
