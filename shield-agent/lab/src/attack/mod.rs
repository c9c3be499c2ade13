//! Attacks on an environment's own server, from its own attackers: bounded in time, number and rate, and refused for every other
//! address. An attack ends once all its addresses are banned, or at its limits.

mod kinds;
mod sender;

pub use kinds::Kind;

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail, ensure};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::agent_api::AgentApi;
use crate::environment::{Environment, Machine, Role};
use crate::guard;

/// The most that any attack may be asked for.
const MOST: Limits = Limits { at_most: Duration::from_secs(1_800), requests: 200_000, per_sec: 1_000.0 };

/// How much of an attack is made at the most.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limits {
    /// It ends after this.
    pub at_most: Duration,
    /// And after so many requests.
    pub requests: u32,
    /// Requests a second.
    pub per_sec: f64,
}

/// What came of an attack.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// Which.
    pub kind: Kind,
    /// Addresses that it came from.
    pub addresses: usize,
    /// Requests that were sent.
    pub sent: u32,
    /// Those that were answered before the ban.
    pub passed: u32,
    /// Those that were answered though they began a second or more after the ban of their address.
    pub leaked: u32,
    /// Addresses that are banned at the end.
    pub banned: usize,
    /// From the first request until all of them were; absent unless all are.
    pub banned_after_ms: Option<u64>,
    /// What it was banned for, in the agent's words.
    pub reason: Option<String>,
}

/// Makes an attack and waits for its end. `from` chooses among the attackers' addresses; empty, the attack chooses.
///
/// # Errors
/// Fails if the limits are beyond what an attack may use, if an address is none of the environment's own attackers, and if the
/// agent cannot be asked for its bans.
pub fn run(environment: &Environment, kind: Kind, limits: Limits, from: &[IpAddr]) -> Result<Outcome> {
    limits.check()?;
    let attacker =
        environment.machine(Role::Attacker).context("could not find the environment's attackers")?;
    for address in from {
        let is_own = owns(attacker, *address);
        ensure!(is_own, "could not attack from {address}: it is no address of the environment's attackers");
    }
    let plan = kinds::Plan::of(kind, attacker, from)?;
    let target = target(environment, plan.sources[0])?;
    let namespace = guard::namespace(environment, &attacker.name)?;
    let server = environment.machine(Role::Server).context("could not find the environment's server")?;
    let bans = AgentApi::of(environment, &server.name);
    let began_ms = now_ms();
    let site = sender::Site { address: target, host: environment.host.as_deref().unwrap_or("localhost") };
    let sent = sender::send(&namespace, &plan, limits, site, &bans)?;
    outcome(kind, &plan, &sent, &bans, began_ms)
}

fn outcome(
    kind: Kind,
    plan: &kinds::Plan,
    sent: &sender::Sent,
    bans: &AgentApi,
    began_ms: i64,
) -> Result<Outcome> {
    /// What is on its way when a ban begins is no leak.
    const GRACE_MS: i64 = 1_000;
    let found = bans.read()?;
    let since = |address: IpAddr| found.iter().find(|ban| ban.covers(address)).map(|ban| ban.since_ms);
    let used: Vec<IpAddr> = plan.sources.iter().copied().filter(|source| sent.used(*source)).collect();
    let starts: Vec<i64> = used.iter().filter_map(|source| since(*source)).collect();
    let is_complete = !used.is_empty() && starts.len() == used.len();
    let last = starts.iter().max().copied().filter(|_| is_complete);
    let after = |answered: &&sender::Answered, grace| {
        since(answered.from).is_some_and(|since| answered.at_ms > since + grace)
    };
    Ok(Outcome {
        kind,
        addresses: used.len(),
        sent: sent.count,
        passed: sent.answered.iter().filter(|one| !after(one, 0)).count() as u32,
        leaked: sent.answered.iter().filter(|one| after(one, GRACE_MS)).count() as u32,
        banned: starts.len(),
        banned_after_ms: last.map(|last| (last - began_ms).max(0) as u64),
        reason: found
            .iter()
            .find(|ban| used.iter().any(|used| ban.covers(*used)))
            .map(|ban| ban.reason.clone()),
    })
}

/// The server, in the address family of the attacker.
fn target(environment: &Environment, from: IpAddr) -> Result<SocketAddr> {
    let address = environment.entry().iter().find(|address| address.is_ipv6() == from.is_ipv6());
    let address = address.with_context(|| format!("could not find an address of the server for {from}"))?;
    Ok(SocketAddr::new(*address, port(environment)))
}

/// The port that clients connect to: the proxy's own, or nginx'.
pub(crate) fn port(environment: &Environment) -> u16 {
    if environment.machine(Role::Proxy).is_some() { 80 } else { environment.port }
}

/// The first address that an attack uses unless others are asked for.
pub(crate) fn first_address(kind: Kind, attacker: &Machine) -> Option<IpAddr> {
    kinds::Plan::of(kind, attacker, &[]).ok()?.sources.first().copied()
}

/// Whether an address is one of the machine's, or in a network that is routed to it.
pub(crate) fn owns(machine: &Machine, address: IpAddr) -> bool {
    machine.addresses.contains(&address) || networks(machine).iter().any(|network| network.contains(&address))
}

/// The networks that are routed to a machine.
pub(crate) fn networks(machine: &Machine) -> Vec<IpNet> {
    machine.networks.iter().filter_map(|text| text.parse().ok()).collect()
}

impl Limits {
    /// Refuses what would be more than a rehearsal.
    fn check(self) -> Result<()> {
        if self.at_most > MOST.at_most || self.requests > MOST.requests || self.per_sec > MOST.per_sec {
            bail!(
                "could not make so large an attack: {} s, {} requests and {} requests/s are the most",
                MOST.at_most.as_secs(),
                MOST.requests,
                MOST.per_sec
            );
        }
        let is_some = self.per_sec.is_finite() && self.per_sec > 0.0 && self.requests > 0;
        ensure!(is_some, "could not make an attack without a request or without a rate");
        Ok(())
    }
}

/// The wall clock, in milliseconds since 1970.
pub fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64)
}

#[cfg(test)]
mod tests;
