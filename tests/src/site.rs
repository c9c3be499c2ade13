//! The smallest place where the agent can be tested end to end: a server with nginx, and a street from which anybody comes,
//! each under an address of their own.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use shield_agent::test_support::api::types::{Ban, BanPage, PartStateName, Status};

use crate::agent::{Agent, Home};
use crate::http::{Get, is_timeout};
use crate::netns::{End, Namespace, connect};
use crate::nginx::Nginx;
use crate::wait;

/// Where the server listens.
pub const SERVER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 80)), 80);
/// An ordinary visitor.
pub const VISITOR: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 7));
/// An attacker.
pub const ATTACKER: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 66));
/// When an answer counts as not coming. Over a veth pair one takes about a millisecond.
const PATIENCE: Duration = Duration::from_millis(400);

/// How long the enforcers may take to be set up, on a machine that runs other tests at the same time.
const TIME_TO_SET_UP: Duration = Duration::from_secs(30);

/// The server, its nginx, the agent's files, and the street. Dropping it deletes all of it.
#[derive(Debug)]
pub struct Site {
    /// The running nginx.
    pub nginx: Nginx,
    /// The agent's files.
    pub home: Home,
    /// The server: its interface is `eth0`, its default route leads into the street.
    pub server: Namespace,
    /// Everybody else.
    pub street: Namespace,
}

impl Site {
    /// Makes it, with the agent configured to read nginx's log and by `more` (tables of the config file), not started.
    ///
    /// # Errors
    /// Without root, and when a tool is missing.
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

    /// Starts the agent and waits until its enforcers are set up: before that, a ban is not in the kernel yet, and attaching
    /// a program to a card loses packets of everybody.
    ///
    /// # Errors
    /// When the agent does not start, or an enforcer that is not switched off does not work.
    pub fn start_agent(&self, more_arguments: &[&str]) -> Result<Agent> {
        let agent = Agent::start(&self.server, &self.home, more_arguments)?;
        self.wait_until_protected()?;
        Ok(agent)
    }

    /// Waits until every enforcer is set up or switched off.
    ///
    /// # Errors
    /// When one does not work.
    pub fn wait_until_protected(&self) -> Result<()> {
        for part in ["iptables", "xdp"] {
            let found = wait::until(&format!("{part} to be set up"), TIME_TO_SET_UP, || {
                let found = self.status()?.parts.into_iter().find(|found| found.part == part);
                Ok(found.filter(|found| found.state != PartStateName::Waiting))
            })?;
            ensure!(found.state != PartStateName::Degraded, "{part}: {}\n{}", found.text, self.home.log());
        }
        Ok(())
    }

    /// The status that a request from this address gets; `None` when nothing comes.
    ///
    /// # Errors
    /// When something else than silence is the answer: refused, reset, not HTTP.
    pub fn ask(&self, from: IpAddr) -> Result<Option<u16>> {
        let get = Get { server: SERVER, from: Some(from), path: "/", timeout: PATIENCE };
        match self.street.enter(|| get.send()) {
            Ok(response) => Ok(Some(response.status)),
            Err(error) if is_timeout(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Asks again and again until there is an answer, and says when.
    ///
    /// # Errors
    /// When there is none within `at_most`.
    pub fn wait_until_served(&self, from: IpAddr, at_most: Duration) -> Result<Instant> {
        wait::until("an answer", at_most, || Ok(self.ask(from)?.map(|_| Instant::now())))
    }

    /// The bans that the agent lists.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn bans(&self) -> Result<Vec<Ban>> {
        let page: BanPage = serde_json::from_value(self.home.json(&self.server, &["bans"])?)?;
        Ok(page.bans)
    }

    /// The agent's status.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn status(&self) -> Result<Status> {
        Ok(serde_json::from_value(self.home.json(&self.server, &["status"])?)?)
    }

    /// Has the operator ban the attacker, and waits until both enforcers that are on hold it.
    ///
    /// # Errors
    /// When the agent refuses, or the attacker is still served.
    pub fn ban_attacker(&self, term: &str) -> Result<Ban> {
        self.home.command(&self.server, &["ban", &ATTACKER.to_string(), "--for", term])?;
        wait::until("the attacker's requests to time out", Duration::from_secs(5), || {
            Ok(self.ask(ATTACKER)?.is_none().then_some(()))
        })?;
        let ban = self.bans()?.into_iter().find(|ban| ban.client.to_string() == ATTACKER.to_string());
        ban.ok_or_else(|| anyhow::anyhow!("the agent does not list the ban that it made"))
    }
}
