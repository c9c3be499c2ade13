//! The smallest set-up for end-to-end tests of the agent: a server with nginx, and a second machine, the street, with an
//! address for each client.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use shield_agent::test_support::api::types::{Ban, BanPage, PartStateName, Status};

use crate::agent::{Agent, Home};
use crate::http::{Get, is_timeout};
use crate::netns::{End, Namespace, connect};
use crate::nginx::Nginx;
use crate::traffic::{Behaviour, Requester, VISITED_PATHS};
use crate::wait;

/// The server's address and port.
pub const SERVER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 80)), 80);
/// An ordinary visitor.
pub const VISITOR: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 7));
/// An attacker.
pub const ATTACKER: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 66));
/// An answer that takes longer counts as none. Over a veth pair an answer takes about a millisecond.
const TIMEOUT: Duration = Duration::from_millis(400);

/// Time limit for the set-up of the enforcers, while other tests run on the same machine.
const SET_UP_TIMEOUT: Duration = Duration::from_secs(30);

/// The server, its nginx, the agent's files, and the street. Dropping it deletes everything.
#[derive(Debug)]
pub struct Site {
    /// The running nginx.
    pub nginx: Nginx,
    /// The agent's files.
    pub home: Home,
    /// The server; its interface is `eth0` and its default route leads to the street.
    pub server: Namespace,
    /// The machine of all clients.
    pub street: Namespace,
}

impl Site {
    /// Creates the machines and starts nginx. The agent is configured to read nginx's log, with the tables in `more`, but
    /// not started.
    ///
    /// # Errors
    /// Fails without root, or if a tool is missing.
    pub fn create(more: &str) -> Result<Self> {
        let server = Namespace::create("server")?;
        let street = Namespace::create("street")?;
        connect(
            End { namespace: &server, interface: "eth0", addresses: &[&format!("{}/24", SERVER.ip())] },
            End { namespace: &street, interface: "eth0", addresses: &["192.0.2.1/24"] },
        )?;
        server.set_default_route("192.0.2.1".parse()?)?;
        for resident in [VISITOR, ATTACKER] {
            street.add_address("eth0", &format!("{resident}/32"))?;
        }
        let home = Home::create()?;
        let nginx = Nginx::start(&server, &home.folder().join("nginx"))?;
        let pins = format!("pin_dir = {:?}\n", home.pins());
        let more = match more.contains("[xdp]\n") {
            true => more.replace("[xdp]\n", &format!("[xdp]\n{pins}")),
            false => format!("{more}\n[xdp]\n{pins}"),
        };
        home.configure(nginx.access_log(), "", &more)?;
        Ok(Self { nginx, home, server, street })
    }

    /// Starts the agent in the unit's sandbox and waits until its enforcers are set up: before that a ban is not in the kernel, and attaching a
    /// program to an interface loses packets of all clients.
    ///
    /// # Errors
    /// Fails if the agent does not start, or if an enabled enforcer does not work.
    pub fn start_agent(&self, more_arguments: &[&str]) -> Result<Agent> {
        let agent = Agent::start_in_unit(&self.server, &self.home, more_arguments)?;
        self.wait_until_protected()?;
        Ok(agent)
    }

    /// Waits until every enforcer is set up or switched off.
    ///
    /// # Errors
    /// Fails if an enabled enforcer does not work.
    pub fn wait_until_protected(&self) -> Result<()> {
        for part in ["iptables", "xdp"] {
            let found = wait::until(&format!("{part} to be set up"), SET_UP_TIMEOUT, || {
                let found = self.status()?.parts.into_iter().find(|found| found.part == part);
                Ok(found.filter(|found| found.state != PartStateName::Waiting))
            })?;
            ensure!(found.state != PartStateName::Degraded, "{part}: {}\n{}", found.text, self.home.log());
        }
        Ok(())
    }

    /// Sends a request from this address and returns the answer's status; `None` after a timeout.
    ///
    /// # Errors
    /// Fails if the connection is refused or reset, or if the answer is not HTTP.
    pub fn request(&self, from: IpAddr) -> Result<Option<u16>> {
        let get = Get { server: SERVER, from: Some(from), path: "/", timeout: TIMEOUT };
        match self.street.enter(|| get.send()) {
            Ok(response) => Ok(Some(response.status)),
            Err(error) if is_timeout(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Repeats a request until it is answered, and returns the time of the answer.
    ///
    /// # Errors
    /// Fails if there is no answer within `at_most`.
    pub fn wait_until_served(&self, from: IpAddr, at_most: Duration) -> Result<Instant> {
        wait::until("an answer", at_most, || Ok(self.request(from)?.map(|_| Instant::now())))
    }

    /// An attacker that sends four requests per second.
    pub fn persistent_attacker(&self) -> Requester {
        let behaviour = Behaviour {
            server: SERVER,
            from: Some(ATTACKER),
            paths: VISITED_PATHS,
            pause: Duration::from_millis(250),
            timeout: Duration::from_millis(250),
            threads: 1,
        };
        Requester::start(&self.street, behaviour)
    }

    /// The bans that the agent lists.
    ///
    /// # Errors
    /// Fails if it does not answer.
    pub fn bans(&self) -> Result<Vec<Ban>> {
        let page: BanPage = serde_json::from_value(self.home.json(&self.server, &["bans"])?)?;
        Ok(page.bans)
    }

    /// The agent's status.
    ///
    /// # Errors
    /// Fails if it does not answer.
    pub fn status(&self) -> Result<Status> {
        Ok(serde_json::from_value(self.home.json(&self.server, &["status"])?)?)
    }

    /// Bans the attacker with the operator's command, and waits until its requests time out.
    ///
    /// # Errors
    /// Fails if the agent refuses the command, or if the attacker is still served after five seconds.
    pub fn ban_attacker(&self, term: &str) -> Result<Ban> {
        self.home.command(&self.server, &["ban", &ATTACKER.to_string(), "--for", term])?;
        wait::until("the attacker's requests to time out", Duration::from_secs(5), || {
            Ok(self.request(ATTACKER)?.is_none().then_some(()))
        })?;
        let ban = self.bans()?.into_iter().find(|ban| ban.client.to_string() == ATTACKER.to_string());
        ban.ok_or_else(|| anyhow::anyhow!("the agent does not list the attacker's ban"))
    }
}
