//! The API's view of the rest of the agent: one trait, implemented over the engine's thread and the store, and by a fake in
//! the tests. It returns the engine's types; `convert` turns them into those of `types`.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;

use super::samples::Sampled;
use super::types::{
    BanSort, CanaryReport, CanaryRequest, ConfigView, FleetView, PastBan, Promotion, ReloadReport, Wanted,
};
use crate::blocklist;
use crate::edge::cloudflare::ListCounts;
use crate::edge::list::EdgeList;
use crate::enforce::Drops;
use crate::fleet;
use crate::latencies::Latencies;
use crate::sites::SiteCounts;
use crate::source;
use shield_engine::action::{BanRecord, Change, Reply, Totals};
use shield_engine::allowlist::Allowed;
use shield_engine::client::Client;
use shield_engine::event::{Command, EnforcerName, PartReport};
use shield_engine::report::{ClientSummary, DetectorStatus, Explanation};
use shield_engine::request::RejectedCounts;
use shield_engine::slowed::Slowed;
use shield_engine::time::Now;

/// An entry of the allowlist, with an operator's words and the end of his entry (wall clock, milliseconds) where there are some.
pub type AllowedRow = (Allowed, Option<String>, Option<i64>);

/// A future answer.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, Refusal>> + Send + 'a>>;

/// A failure to answer.
#[derive(Debug)]
pub enum Refusal {
    /// The engine or the store does not answer now: starting, stopping or overloaded.
    Unavailable(String),
    /// A failure that should not happen: logged with its causes, reported without them.
    Internal(anyhow::Error),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::Unavailable(message) => f.write_str(message),
            Refusal::Internal(error) => write!(f, "{error:#}"),
        }
    }
}

impl From<anyhow::Error> for Refusal {
    fn from(error: anyhow::Error) -> Refusal {
        Refusal::Internal(error)
    }
}

/// The mode of the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Bans are enforced.
    Enforcing,
    /// Bans are decided and recorded, but not enforced.
    DryRun,
}

/// The state of the agent, in one reading of the engine.
#[derive(Debug, Clone)]
pub struct AgentView {
    /// Time of the reading.
    pub now: Now,
    /// Start of the agent: wall clock, milliseconds.
    pub started_ms: i64,
    /// The mode.
    pub mode: Mode,
    /// All parts that have reported, in a fixed order.
    pub parts: Vec<PartReport>,
    /// The detector's own state.
    pub detector: DetectorStatus,
    /// Its rule profile's name.
    pub profile: String,
    /// `adaptive` or `classic`.
    pub reference: String,
    /// Capacity of its client table.
    pub max_clients: u64,
    /// Lifetime totals.
    pub totals: Totals,
    /// Lines rejected since the start.
    pub rejected: RejectedCounts,
    /// Bans in force.
    pub bans: u64,
    /// Permanent bans among them.
    pub permanent_bans: u64,
    /// Clients slowed now.
    pub slowed: u64,
    /// Clients slowed since the start.
    pub slowed_total: u64,
    /// Why the limits stop automatic bans; `None` while they do not.
    pub stopped: Option<String>,
    /// The end of a pause of automatic bans.
    pub paused_until_ms: Option<i64>,
    /// Clients whose bans the limits or a pause withhold, as many as are shown.
    pub withheld: Vec<Client>,
    /// All of them.
    pub withheld_total: u64,
    /// Banned clients whose requests still arrive.
    pub leaking: u64,
    /// Drops since the start, of each enforcer that counts.
    pub drops: Vec<(EnforcerName, Drops)>,
    /// Records that are not in the database yet.
    pub store_backlog: u64,
    /// The numbers of the list at Cloudflare, where there is one.
    pub cloudflare: Option<ListCounts>,
    /// The connection to the fleet, where there is one.
    pub fleet: Option<fleet::Numbers>,
    /// Lists that are read by URL, by name.
    pub blocklists: BTreeMap<String, blocklist::Numbers>,
    /// All sources, in the order of the configuration.
    pub sources: Vec<source::stats::Snapshot>,
}

/// A query for bans.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BanQuery {
    /// Start of the client's text; a whole address also finds the networks that contain it.
    pub search: Option<String>,
    /// Only bans for this rule.
    pub rule: Option<shield_engine::verdict::Rule>,
    /// Only bans of clients that asked for this site.
    pub site: Option<String>,
    /// Leaves out bans of lists, imported ones and those that are read by themselves.
    pub no_imported: bool,
    /// The order.
    pub sort: BanSort,
    /// Number of bans to skip.
    pub offset: u64,
    /// Maximum number of bans.
    pub limit: u32,
}

/// A ban in force.
#[derive(Debug, Clone, PartialEq)]
pub struct BanRow {
    /// The ban, with its evidence.
    pub record: BanRecord,
    /// Drops of this client since its ban; `None` while no enforcer counts them.
    pub drops: Option<Drops>,
    /// Its requests that reached the server in the last minute with any, if it leaks.
    pub leaking: Option<u32>,
    /// The enforcers that drop it now; `None` if unknown.
    pub held_by: Option<Vec<EnforcerName>>,
}

/// Bans that match a query.
#[derive(Debug, Clone, PartialEq)]
pub struct BanRows {
    /// In the requested order.
    pub rows: Vec<BanRow>,
    /// Number of all matching bans.
    pub total: u64,
    /// Slowed clients that match, on the first page alone.
    pub slowed: Vec<Slowed>,
    /// Time of the reading.
    pub now: Now,
}

/// The sites.
#[derive(Debug, Clone, PartialEq)]
pub struct SiteView {
    /// Requests since the start.
    pub requests: SiteCounts,
    /// Bans in force, of the sites with the most.
    pub bans: BTreeMap<String, u64>,
    /// Time of the reading.
    pub now: Now,
}

/// The busiest clients.
#[derive(Debug, Clone, PartialEq)]
pub struct TopClients {
    /// Busiest first.
    pub clients: Vec<TopClient>,
    /// Time of the reading.
    pub now: Now,
}

/// One of the busiest clients.
#[derive(Debug, Clone, PartialEq)]
pub struct TopClient {
    /// Its window.
    pub summary: ClientSummary,
    /// Its state.
    pub state: super::types::ClientState,
}

/// Everything known about one client.
#[derive(Debug, Clone, PartialEq)]
pub struct ClientView {
    /// The detector's explanation.
    pub detector: Explanation,
    /// The ban that drops it: its own or that of a network around it.
    pub ban: Option<BanRow>,
    /// Its entry in the slow lane.
    pub slowed: Option<Slowed>,
    /// Others that want it banned.
    pub wanted_by: Vec<Wanted>,
    /// Allowlist entries that protect it.
    pub allowed: Vec<Allowed>,
    /// A proxy that it is, or holds, by what the log says of connections.
    pub proxy: Option<IpAddr>,
    /// Remembered offences.
    pub offences: super::types::Offences,
    /// Its earlier bans, newest first.
    pub history: Vec<PastBan>,
    /// Time of the reading.
    pub now: Now,
}

/// The rest of the agent. Its methods are called concurrently and at any rate, and must not block.
pub trait Backend: Send + Sync + 'static {
    /// Reads the state of the agent.
    fn view(&self) -> Answer<'_, AgentView>;

    /// Takes what was put aside for the history since the last call, the oldest first.
    fn samples(&self) -> Vec<Sampled>;

    /// Bans in force.
    fn bans(&self, query: BanQuery) -> Answer<'_, BanRows>;

    /// Requests and bans by site. Asks the engine nothing.
    fn sites(&self) -> Answer<'_, SiteView> {
        Box::pin(async { Err(Refusal::Unavailable("nobody counts by site".to_owned())) })
    }

    /// The `n` busiest clients over the window.
    fn top(&self, n: usize) -> Answer<'_, TopClients>;

    /// Explains why a client is banned or is not: now, or at `at_ms` (wall clock) from the record.
    fn explain(&self, client: Client, at_ms: Option<i64>) -> Answer<'_, ClientView>;

    /// The allowlist, sorted by network.
    fn allowlist(&self) -> Answer<'_, Vec<AllowedRow>>;

    /// Runs a command in the engine. The reply comes once it is committed to the store; the kernel follows.
    fn command(&self, command: Command) -> Answer<'_, Reply>;

    /// Loads the configuration again.
    fn reload(&self) -> Answer<'_, ReloadReport>;

    /// What the canary found.
    fn canary(&self) -> Answer<'_, CanaryReport> {
        Box::pin(async { Ok(CanaryReport::default()) })
    }

    /// Starts a canary; the inner error says what is wrong with its configuration.
    fn start_canary(&self, _: CanaryRequest) -> Answer<'_, Result<CanaryReport, String>> {
        Box::pin(async { Err(Refusal::Unavailable("there is no engine to feed a canary".to_owned())) })
    }

    /// Ends the canary.
    fn abort_canary(&self) -> Answer<'_, CanaryReport> {
        self.canary()
    }

    /// Whether the canary may be promoted when it has observed for so long at least.
    fn promote_canary(&self, _min_observed_secs: Option<u64>) -> Answer<'_, Promotion> {
        Box::pin(async { Err(Refusal::Unavailable("there is no canary".to_owned())) })
    }

    /// How long what takes. Asks nobody.
    fn latencies(&self) -> Option<&Latencies> {
        None
    }

    /// Puts a change of this host on record.
    fn record(&self, _change: Change) {}

    /// Whether a canary runs. Asks nobody.
    fn has_canary(&self) -> bool {
        false
    }

    /// The configuration in force, without secrets.
    fn config(&self) -> Answer<'_, ConfigView>;

    /// Grows with every change of [`Backend::edge_list`]. Asks nobody.
    fn edge_version(&self) -> u64;

    /// Whether bans are only decided. Asks nobody.
    fn is_dry_run(&self) -> bool {
        false
    }

    /// The bans that may be handed to others. Read from the enforcers' table, so that it costs the engine nothing.
    fn edge_list(&self) -> Answer<'_, EdgeList>;

    /// The fleet that this host is part of, and what it heard of the others.
    fn fleet(&self) -> Answer<'_, FleetView>;

    /// The parts without which nobody is banned that hang now, by name, with the reason. Asks nobody: it is answered whatever
    /// hangs.
    fn stalled(&self) -> Vec<(String, String)> {
        Vec::new()
    }
}
