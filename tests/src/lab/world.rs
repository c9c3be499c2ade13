//! The machines of the lab: a server behind a router, and around the router its visitors and an attacker, each a network
//! namespace. All addresses are those reserved for documentation.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;

use crate::agent::Home;
use crate::http::{Get, Response};
use crate::netns::{End, Namespace, connect};
use crate::nginx::Nginx;
use crate::traffic::{Behaviour, Requester, VISITED_PATHS};

/// The server's addresses.
const SERVER_V4: &str = "192.0.2.80";
const SERVER_V6: &str = "2001:db8:80::80";
/// The server's only interface.
pub const SERVER_INTERFACE: &str = "eth0";
/// Time between the starts of two requests of a visitor.
pub const VISITOR_PAUSE: Duration = Duration::from_millis(250);
/// A visitor counts a later answer as lost.
const VISITOR_TIMEOUT: Duration = Duration::from_secs(2);

/// A client's link to the router.
#[derive(Debug, Clone, Copy)]
struct Uplink {
    name: &'static str,
    own: &'static str,
    router: &'static str,
    prefix: u8,
}

const VISITORS: &[Uplink] = &[
    Uplink { name: "alice", own: "198.51.100.2", router: "198.51.100.1", prefix: 30 },
    Uplink { name: "bob", own: "198.51.100.6", router: "198.51.100.5", prefix: 30 },
    Uplink { name: "carol", own: "2001:db8:ca01::2", router: "2001:db8:ca01::1", prefix: 64 },
    Uplink { name: "dave", own: "2001:db8:da7e::2", router: "2001:db8:da7e::1", prefix: 64 },
    // The attacker's neighbour: a ban that covered more than the attacker's address would hit erin too.
    Uplink { name: "erin", own: "203.0.113.70", router: "203.0.113.69", prefix: 30 },
];
const ATTACKER: Uplink = Uplink { name: "mallory", own: "203.0.113.66", router: "203.0.113.65", prefix: 30 };

/// All machines, connected and with nginx running. Dropping it deletes them.
#[derive(Debug)]
pub struct World {
    // Fields are dropped in order: nginx must end before its machine is deleted.
    nginx: Nginx,
    /// The agent's files.
    pub home: Home,
    /// The server.
    pub server: Arc<Namespace>,
    /// The attacker.
    pub attacker: Namespace,
    visitors: Vec<(Uplink, Namespace)>,
    _router: Namespace,
}

impl World {
    /// Creates and connects the machines, and starts nginx on the server. The agent is not started.
    ///
    /// # Errors
    /// Fails without root, or if a tool is missing.
    pub fn create() -> Result<Self> {
        let router = Namespace::create("router")?;
        router.enable_forwarding()?;
        let server = Namespace::create("server")?;
        connect(
            End {
                namespace: &server,
                interface: SERVER_INTERFACE,
                addresses: &[&format!("{SERVER_V4}/24"), &format!("{SERVER_V6}/64")],
            },
            End {
                namespace: &router,
                interface: "server",
                addresses: &["192.0.2.1/24", "2001:db8:80::1/64"],
            },
        )?;
        server.set_default_route("192.0.2.1".parse()?)?;
        server.set_default_route("2001:db8:80::1".parse()?)?;
        let attacker = ATTACKER.machine(&router)?;
        let visitors = VISITORS
            .iter()
            .map(|uplink| Ok((*uplink, uplink.machine(&router)?)))
            .collect::<Result<Vec<_>>>()?;
        let home = Home::create()?;
        let nginx = Nginx::start(&server, &home.folder().join("nginx"))?;
        Ok(Self { nginx, home, server: Arc::new(server), attacker, visitors, _router: router })
    }

    /// nginx's log on the server.
    pub fn access_log(&self) -> &std::path::Path {
        self.nginx.access_log()
    }

    /// The attacker's address.
    pub fn attacker_address(&self) -> IpAddr {
        ATTACKER.own.parse().expect("the lab's addresses are written right")
    }

    /// The names and addresses of the visitors.
    pub fn visitors(&self) -> Vec<(&'static str, IpAddr)> {
        VISITORS.iter().map(|uplink| (uplink.name, uplink.address())).collect()
    }

    /// Starts the requests of every visitor.
    pub fn start_visits(&self) -> Vec<(&'static str, Requester)> {
        let start = |(uplink, machine): &(Uplink, Namespace)| {
            let visit = Behaviour {
                server: server_for(uplink.address()),
                from: None,
                paths: VISITED_PATHS,
                pause: VISITOR_PAUSE,
                timeout: VISITOR_TIMEOUT,
                threads: 1,
            };
            (uplink.name, Requester::start(machine, visit))
        };
        self.visitors.iter().map(start).collect()
    }

    /// Starts the attack.
    pub fn start_attack(&self, attack: Attack) -> Requester {
        Requester::start(
            &self.attacker,
            Behaviour {
                server: server_for(self.attacker_address()),
                from: None,
                paths: attack.paths,
                pause: attack.pause,
                timeout: attack.timeout,
                threads: attack.threads,
            },
        )
    }

    /// Sends one request from the attacker.
    ///
    /// # Errors
    /// Fails if there is no answer in time.
    pub fn attacker_request(&self, timeout: Duration) -> Result<Response> {
        let server = server_for(self.attacker_address());
        self.attacker.enter(|| Get { server, from: None, path: "/", timeout }.send())
    }
}

/// The attacker's requests.
#[derive(Debug, Clone, Copy)]
pub struct Attack {
    /// Requested in turn.
    pub paths: &'static [&'static str],
    /// Parallel requests.
    pub threads: usize,
    /// Time between the starts of two requests of a thread.
    pub pause: Duration,
    /// An answer that takes longer counts as lost.
    pub timeout: Duration,
}

impl Uplink {
    fn address(self) -> IpAddr {
        self.own.parse().expect("the lab's addresses are written right")
    }

    fn machine(self, router: &Namespace) -> Result<Namespace> {
        let machine = Namespace::create(self.name)?;
        connect(
            End {
                namespace: &machine,
                interface: "eth0",
                addresses: &[&format!("{}/{}", self.own, self.prefix)],
            },
            End {
                namespace: router,
                interface: self.name,
                addresses: &[&format!("{}/{}", self.router, self.prefix)],
            },
        )?;
        machine.set_default_route(self.router.parse()?)?;
        Ok(machine)
    }
}

/// The server's address in the client's address family.
fn server_for(client: IpAddr) -> SocketAddr {
    let address = if client.is_ipv6() { SERVER_V6 } else { SERVER_V4 };
    SocketAddr::new(address.parse().expect("the lab's addresses are written right"), 80)
}
