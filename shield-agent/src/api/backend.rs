//! What the API needs from the rest of the agent: one trait, implemented over the engine's thread and the store, and
//! by a fake in the tests. It speaks the engine's words; turning them into the JSON of `types` is the API's work.

use std::fmt;
use std::future::Future;
use std::pin::Pin;

use super::types::{BanSort, ConfigView, PastBan};
use crate::enforce::Drops;
use crate::source;
use shield_engine::action::{BanRecord, Reply, Totals};
use shield_engine::allowlist::Allowed;
use shield_engine::client::Client;
use shield_engine::event::{Command, EnforcerName, PartReport};
use shield_engine::report::{ClientSummary, DetectorStatus, Explanation};
use shield_engine::request::RejectedCounts;
use shield_engine::time::Now;

/// An answer that comes later.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, Refusal>> + Send + 'a>>;

/// Why there is no answer.
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

/// Whether the kernel is touched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Bans are enforced.
    Enforcing,
    /// Everything but the kernel.
    DryRun,
}

/// How the agent stands, in one reading of the engine.
#[derive(Debug, Clone)]
pub struct AgentView {
    /// The moment of the reading.
    pub now: Now,
    /// When the agent started: wall clock, milliseconds.
    pub started_ms: i64,
    /// Whether the kernel is touched.
    pub mode: Mode,
    /// Every part that ever reported, in a fixed order.
    pub parts: Vec<PartReport>,
    /// The detector's own state.
    pub detector: DetectorStatus,
    /// Its rule profile's name.
    pub profile: String,
    /// `adaptive` or `classic`.
    pub reference: String,
    /// The bound of its client table.
    pub max_clients: u64,
    /// Lifetime totals.
    pub totals: Totals,
    /// Lines refused since start.
    pub rejected: RejectedCounts,
    /// Bans in force.
    pub bans: u64,
    /// Those of them without an end.
    pub permanent_bans: u64,
    /// What each enforcer that counts has dropped since start.
    pub drops: Vec<(EnforcerName, Drops)>,
    /// Records that are not in the database yet.
    pub store_backlog: u64,
    /// What every source has read, in the order of the configuration.
    pub sources: Vec<source::stats::Snapshot>,
}

/// Which bans to list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BanQuery {
    /// How the client's text begins; a whole address also finds the networks that hold it.
    pub search: Option<String>,
    /// Only bans for this rule.
    pub rule: Option<shield_engine::verdict::Rule>,
    /// In which order.
    pub sort: BanSort,
    /// How many to pass over.
    pub offset: u64,
    /// How many at most.
    pub limit: u32,
}

/// One ban as it stands.
#[derive(Debug, Clone, PartialEq)]
pub struct BanRow {
    /// The ban, with its evidence.
    pub record: BanRecord,
    /// What was dropped of this client since its ban; `None` where nobody counts.
    pub drops: Option<Drops>,
    /// The enforcers that drop it now; `None` when not known.
    pub held_by: Option<Vec<EnforcerName>>,
}

/// Some bans.
#[derive(Debug, Clone, PartialEq)]
pub struct BanRows {
    /// In the order asked for.
    pub rows: Vec<BanRow>,
    /// How many match in all.
    pub total: u64,
    /// The moment of the reading.
    pub now: Now,
}

/// The busiest clients.
#[derive(Debug, Clone, PartialEq)]
pub struct TopClients {
    /// Busiest first, with what holds for each.
    pub clients: Vec<TopClient>,
    /// The moment of the reading.
    pub now: Now,
}

/// One of the busiest clients.
#[derive(Debug, Clone, PartialEq)]
pub struct TopClient {
    /// Its window.
    pub summary: ClientSummary,
    /// Whether a rule fires for it now.
    pub state: super::types::ClientState,
}

/// Everything known about one client.
#[derive(Debug, Clone, PartialEq)]
pub struct ClientView {
    /// The detector's explanation.
    pub detector: Explanation,
    /// The ban that drops it: its own or that of a network around it.
    pub ban: Option<BanRow>,
    /// Allowlist entries that protect it.
    pub allowed: Vec<Allowed>,
    /// Remembered offences.
    pub offences: super::types::Offences,
    /// Its bans that ended, newest first.
    pub history: Vec<PastBan>,
    /// The moment of the reading.
    pub now: Now,
}

/// The rest of the agent, as the API sees it. Every method may be called at any rate and concurrently; none may block.
pub trait Backend: Send + Sync + 'static {
    /// How the agent stands.
    fn view(&self) -> Answer<'_, AgentView>;

    /// Bans in force.
    fn bans(&self, query: BanQuery) -> Answer<'_, BanRows>;

    /// The `n` busiest clients over the window.
    fn top(&self, n: usize) -> Answer<'_, TopClients>;

    /// Why a client is banned, or why not; at `at_ms` (wall clock) from the record, or now.
    fn explain(&self, client: Client, at_ms: Option<i64>) -> Answer<'_, ClientView>;

    /// The allowlist, sorted by network.
    fn allowlist(&self) -> Answer<'_, Vec<Allowed>>;

    /// Has the engine carry out a command and waits for its reply (committed to the store; the kernel follows).
    fn command(&self, command: Command) -> Answer<'_, Reply>;

    /// The configuration in force, without secrets.
    fn config(&self) -> Answer<'_, ConfigView>;
}
