//! What an environment's agent says of itself, asked over its control socket.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use ipnet::IpNet;
use serde::Deserialize;

use crate::environment::Environment;
use crate::wire::Request;

const WITHIN: Duration = Duration::from_secs(5);
/// The most that one answer holds.
const PAGE: &str = "/api/v1/bans?limit=1000";

/// Where one agent is asked.
#[derive(Debug, Clone)]
pub struct AgentApi {
    socket: PathBuf,
}

/// A ban, as far as a rehearsal needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ban {
    /// The banned addresses.
    pub client: IpNet,
    /// When it began, in milliseconds since 1970.
    pub since_ms: i64,
    /// When it ends; `None` for never.
    pub ends_ms: Option<i64>,
    /// What it is for, in the agent's words.
    pub reason: String,
}

#[derive(Deserialize)]
struct Page {
    bans: Vec<Row>,
}

#[derive(Deserialize)]
struct Row {
    client: String,
    since_ms: i64,
    ends_ms: Option<i64>,
    #[serde(default)]
    words: Option<String>,
    #[serde(default)]
    reason: Option<String>,
}

/// What the agent thinks of a client.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Explained {
    /// In its own words.
    pub words: String,
    /// How it is slowed; nothing if it is not.
    #[serde(default)]
    pub slowed: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct Status {
    parts: Vec<Part>,
    totals: Totals,
}

#[derive(Deserialize)]
struct Totals {
    requests: u64,
}

#[derive(Deserialize)]
struct Part {
    part: String,
    state: String,
    text: String,
}

impl AgentApi {
    /// The agent on this machine.
    pub fn of(environment: &Environment, machine: &str) -> AgentApi {
        AgentApi { socket: environment.socket(machine) }
    }

    /// The first thousand bans.
    ///
    /// # Errors
    /// Fails if the agent does not answer.
    pub fn read(&self) -> Result<Vec<Ban>> {
        let page: Page = self.ask(PAGE)?;
        page.bans.into_iter().map(Row::ban).collect()
    }

    /// What the agent thinks of an address, in its own words.
    ///
    /// # Errors
    /// As for [`AgentApi::read`].
    pub fn explain(&self, address: IpAddr) -> Result<Explained> {
        self.ask(&format!("/api/v1/explain?client={address}"))
    }

    /// Its parts that do not work, each with its reason.
    ///
    /// # Errors
    /// As for [`AgentApi::read`].
    pub fn faults(&self) -> Result<Vec<String>> {
        let status: Status = self.ask("/api/v1/status")?;
        let faults = status.parts.into_iter().filter(|part| part.state == "degraded");
        Ok(faults.map(|part| format!("{}: {}", part.part, part.text)).collect())
    }

    /// Requests that it has read in all.
    ///
    /// # Errors
    /// As for [`AgentApi::read`].
    pub fn requests(&self) -> Result<u64> {
        let status: Status = self.ask("/api/v1/status")?;
        Ok(status.totals.requests)
    }

    fn ask<T: serde::de::DeserializeOwned>(&self, target: &str) -> Result<T> {
        let answer = Request::get(target).send_to(&self.socket, WITHIN)?;
        ensure!(answer.status == 200, "could not ask the agent for {target}: it answered {}", answer.status);
        serde_json::from_slice(&answer.body)
            .with_context(|| format!("could not read the agent's answer to {target}"))
    }
}

impl Row {
    fn ban(self) -> Result<Ban> {
        let client = self.client.parse().or_else(|_| self.client.parse().map(single));
        let client = client.with_context(|| format!("could not read the banned client {:?}", self.client))?;
        let reason = self.words.or(self.reason).unwrap_or_default();
        Ok(Ban { client, since_ms: self.since_ms, ends_ms: self.ends_ms, reason })
    }
}

/// The network that holds one address alone.
fn single(address: IpAddr) -> IpNet {
    IpNet::from(address)
}

impl Ban {
    /// Whether it is a ban of this address.
    pub fn covers(&self, address: IpAddr) -> bool {
        self.client.contains(&address)
    }
}
