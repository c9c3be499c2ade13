//! The JSON of `/api/v1`, for the server and for the command line alike. `docs/openapi.json` describes the same types;
//! the tests hold every answer against it. Nothing here computes anything.
//!
//! Times are milliseconds since the Unix epoch on the wall clock (`_ms`), rates are per second.

use std::collections::BTreeMap;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::enforce::Drops;
use shield_engine::action::{LiftReason, Notice, Totals};
use shield_engine::allowlist::AllowReason;
use shield_engine::client::Client;
use shield_engine::event::EnforcerName;
use shield_engine::verdict::{Evidence, Measure, PathCount, Rule};

/// Why a request was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// Stable, for programs.
    pub code: String,
    /// For people: what, where, and what to do.
    pub message: String,
}

/// How a request came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Transport {
    /// Over the control socket.
    Unix,
    /// Over TCP.
    Tcp,
}

/// What a caller may do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Whoami {
    /// How the request came.
    pub transport: Transport,
    /// Whether its credentials allow changes.
    pub may_change: bool,
    /// Whether reading needs the token as well.
    pub token_for_reads: bool,
}

/// A part's state without its text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PartStateName {
    /// Works as configured.
    Active,
    /// Not ready yet.
    Waiting,
    /// Does not work, or only in part.
    Degraded,
    /// Switched off.
    Off,
}

impl PartStateName {
    /// All of them.
    pub const ALL: [PartStateName; 4] =
        [PartStateName::Active, PartStateName::Waiting, PartStateName::Degraded, PartStateName::Off];

    /// The name in JSON, in metrics and on the terminal.
    pub fn name(self) -> &'static str {
        match self {
            PartStateName::Active => "active",
            PartStateName::Waiting => "waiting",
            PartStateName::Degraded => "degraded",
            PartStateName::Off => "off",
        }
    }
}

/// One part of Shield and how it stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// Which: `iptables`, `xdp`, `store`, `slack`, `source:PATH`…
    pub part: String,
    /// Its state.
    pub state: PartStateName,
    /// How it works, for what it waits, or why it does not work and what to do.
    pub text: String,
}

/// The detector still learns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct WarmUp {
    /// Seconds left, by the log's time.
    pub remaining_secs: u64,
}

/// The detector's state.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Detector {
    /// The rule profile.
    pub profile: String,
    /// What a client's rate is compared with: `adaptive` or `classic`.
    pub reference: String,
    /// Set while it only bans what needs no baseline: floods, probing, password guessing.
    pub warm_up: Option<WarmUp>,
    /// Whether learning is frozen because of an anomaly.
    pub frozen: bool,
    /// Why the blast-radius limit stopped banning.
    pub blast_radius: Option<String>,
    /// Clients in the table.
    pub clients: u64,
    /// The table's bound.
    pub max_clients: u64,
    /// Clients dropped at the bound, since start.
    pub evicted: u64,
}

/// A global anomaly under way.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Anomaly {
    /// When it started.
    pub since_ms: i64,
    /// With the numbers.
    pub condition: String,
}

/// The whole server's traffic over the window.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GlobalRate {
    /// Requests per second.
    pub rate: f64,
    /// Errors per second.
    pub error_rate: f64,
    /// Length of the window in seconds.
    pub window_secs: u32,
    /// Set during a global anomaly.
    pub anomaly: Option<Anomaly>,
}

/// The level that the global rate is compared with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Baseline {
    /// Requests per second.
    pub mean: f64,
    /// Population standard deviation, requests per second.
    pub stddev: f64,
    /// Errors per second.
    pub error_mean: f64,
    /// `rolling`, `hour_slot`, `floor` or `warm_up`.
    pub source: String,
    /// Seconds it was computed from.
    pub samples: u64,
    /// Mean rate of one client, once known.
    pub client_mean: Option<f64>,
    /// Its standard deviation.
    pub client_stddev: Option<f64>,
}

/// What is learned about one hour of the day.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct HourSlot {
    /// 0 to 23, UTC.
    pub hour: u8,
    /// Requests per second, once known.
    pub mean: Option<f64>,
    /// Its standard deviation, when known.
    pub stddev: Option<f64>,
}

/// One enforcer's drops since start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnforcerDrops {
    /// Which.
    pub enforcer: EnforcerName,
    /// Packets.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
}

/// What the kernel dropped.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Dropped {
    /// Packets since start.
    pub packets: u64,
    /// Bytes since start.
    pub bytes: u64,
    /// Packets per second now.
    pub packets_per_sec: f64,
    /// Bytes per second now.
    pub bytes_per_sec: f64,
    /// One entry an enforcer that counts.
    pub by_enforcer: Vec<EnforcerDrops>,
}

/// Bans in force.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BanCounts {
    /// All.
    pub active: u64,
    /// Those without an end.
    pub permanent: u64,
}

/// The agent's process.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct AgentVitals {
    /// CPU in percent of one core over the last seconds.
    pub cpu_percent: f64,
    /// Resident memory.
    pub memory_bytes: u64,
    /// Seconds since it started.
    pub uptime_secs: u64,
    /// Threads.
    pub threads: u64,
}

/// The machine.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct HostVitals {
    /// Host name.
    pub name: String,
    /// CPU in percent of all cores over the last seconds.
    pub cpu_percent: f64,
    /// Logical CPUs.
    pub cores: u64,
    /// Load average over one minute.
    pub load_1min: f64,
    /// Total less available memory.
    pub memory_used_bytes: u64,
    /// Total memory.
    pub memory_total_bytes: u64,
    /// Seconds since boot.
    pub uptime_secs: u64,
}

/// The worst state of any part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// Every part is active or switched off.
    Ok,
    /// A part waits, or the detector warms up.
    Waiting,
    /// A part does not work as configured.
    Degraded,
}

/// Everything at a glance.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The agent's version.
    pub version: String,
    /// The agent's clock when this was made.
    pub now_ms: i64,
    /// When the agent started.
    pub started_ms: i64,
    /// Whether the kernel is left alone.
    pub dry_run: bool,
    /// The worst part's state.
    pub health: Health,
    /// Every part.
    pub parts: Vec<Part>,
    /// Every source.
    pub sources: Vec<SourceStatus>,
    /// The detector.
    pub detector: Detector,
    /// The whole server's traffic.
    pub global: GlobalRate,
    /// What it is compared with.
    pub baseline: Baseline,
    /// 24 entries, hour 0 first.
    pub hour_profile: Vec<HourSlot>,
    /// Across restarts.
    pub totals: Totals,
    /// Lines refused since start, by reason.
    pub rejected: BTreeMap<String, u64>,
    /// Bans in force.
    pub bans: BanCounts,
    /// What was dropped.
    pub dropped: Dropped,
    /// The agent's process.
    pub agent: AgentVitals,
    /// The machine.
    pub host: HostVitals,
}

/// What one source has read since start, and how far it is behind its logs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceStatus {
    /// Its name; its part is `source:` and the name.
    pub source: String,
    /// Lines read, refused ones included.
    pub lines: u64,
    /// Bytes of these lines.
    pub bytes: u64,
    /// Lines refused.
    pub rejected: u64,
    /// Requests recovered from broken lines.
    pub salvaged: u64,
    /// Logs followed; `None` for a socket and for standard input.
    pub logs: Option<u64>,
    /// Bytes in the logs that are not read yet; `None` for a socket and for standard input.
    pub lag_bytes: Option<u64>,
    /// How old the last line read is, by the log's times. `None` when the source is not behind, or before the first line.
    pub lag_secs: Option<u64>,
    /// When the last line read was logged, by the log's times; `None` before the first.
    pub last_line_ms: Option<i64>,
}

/// A ban in force.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ban {
    /// Who.
    pub client: Client,
    /// Grows with every ban or change of one.
    pub serial: u64,
    /// Since when.
    pub since_ms: i64,
    /// Until when; `None` is permanent.
    pub ends_ms: Option<i64>,
    /// Seconds left by the clock that counts; `None` is permanent.
    pub remaining_secs: Option<u64>,
    /// The client's offences, this one included.
    pub offence: u32,
    /// What for.
    pub rule: Rule,
    /// The operator's or the list's words.
    pub reason: Option<String>,
    /// The evidence in plain words.
    pub words: String,
    /// The detector's evidence.
    pub evidence: Option<Box<Evidence>>,
    /// What was dropped of this client since its ban, where it is counted.
    pub dropped: Option<Drops>,
    /// The enforcers that drop it now, when known.
    pub enforced_by: Option<Vec<EnforcerName>>,
}

/// One page of bans.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BanPage {
    /// In the order asked for.
    pub bans: Vec<Ban>,
    /// Bans that match the filter.
    pub total: u64,
    /// The next page's cursor.
    pub next: Option<String>,
    /// The agent's clock.
    pub now_ms: i64,
}

/// How bans are sorted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum BanSort {
    /// Newest first.
    #[default]
    Since,
    /// Ending soonest first, permanent last.
    Ends,
    /// By the client's text.
    Client,
}

impl BanSort {
    /// The name in the query.
    pub fn name(self) -> &'static str {
        match self {
            BanSort::Since => "since",
            BanSort::Ends => "ends",
            BanSort::Client => "client",
        }
    }
}

/// How long to ban.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Term {
    /// The backoff ladder's next step for this client.
    #[default]
    Next,
    /// For ever.
    Permanent,
    /// This many seconds, at least 1.
    Secs(u64),
}

/// The longest term in seconds (100 years): beyond it say permanent.
pub(crate) const MAX_TERM_SECS: u64 = 3_155_760_000;

/// Clients a request may name.
pub(crate) const MAX_CLIENTS_PER_REQUEST: usize = 10_000;

/// Bytes of an operator's reason.
pub(crate) const MAX_REASON_CHARS: usize = 1000;

/// Ban these.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct BanRequest {
    /// Addresses or networks.
    pub clients: Vec<Client>,
    /// How long.
    #[serde(default)]
    pub term: Term,
    /// Why.
    #[serde(default)]
    pub reason: Option<String>,
}

/// Lift these.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct UnbanRequest {
    /// Addresses or networks.
    pub clients: Vec<Client>,
    /// Whether their offences are forgotten as well.
    #[serde(default)]
    pub forget: bool,
    /// Why.
    #[serde(default)]
    pub reason: Option<String>,
}

/// Put these on the allowlist, or take them off it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AllowRequest {
    /// Addresses or networks.
    pub clients: Vec<Client>,
    /// Why.
    #[serde(default)]
    pub reason: Option<String>,
}

/// One entry of an import.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ImportEntry {
    /// Who.
    pub client: Client,
    /// How long.
    #[serde(default)]
    pub term: Term,
    /// Why.
    #[serde(default)]
    pub reason: Option<String>,
}

/// Ban a list.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ImportRequest {
    /// The bans.
    pub bans: Vec<ImportEntry>,
}

/// A network that is never banned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AllowEntry {
    /// The network.
    pub network: IpNet,
    /// Why it is here.
    pub reason: AllowReason,
    /// The reason in words.
    pub words: String,
}

/// The allowlist.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AllowList {
    /// Sorted by network.
    pub entries: Vec<AllowEntry>,
}

/// What a busy client is at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClientState {
    /// Nothing is held against it.
    Normal,
    /// The detector finds it anomalous.
    Anomalous,
    /// It is banned.
    Banned,
    /// The allowlist protects it.
    Allowed,
}

/// A client and its last 60 s; of one that was banned within them, the 60 s before its ban.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClientActivity {
    /// Who.
    pub client: Client,
    /// Requests per second.
    pub rate: f64,
    /// Requests in the window.
    pub requests: u32,
    /// Errors in the window.
    pub errors: u32,
    /// Against the reference level.
    pub z_score: f64,
    /// What it is.
    pub state: ClientState,
}

/// The busiest clients.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClientList {
    /// Length of the window in seconds.
    pub window_secs: u32,
    /// The agent's clock.
    pub now_ms: i64,
    /// Highest rate first.
    pub clients: Vec<ClientActivity>,
}

/// One rule's values beside its thresholds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct RuleState {
    /// Which rule.
    pub rule: Rule,
    /// Whether it would fire.
    pub fires: bool,
    /// Why it was not asked, when it was not.
    pub not_asked: Option<String>,
    /// Each value beside its threshold.
    pub measures: Vec<Measure>,
    /// In plain words.
    pub words: String,
}

/// A ban that ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PastBan {
    /// Its serial number.
    pub serial: u64,
    /// From.
    pub since_ms: i64,
    /// To.
    pub ended_ms: i64,
    /// What for.
    pub rule: Rule,
    /// Why it ended.
    pub lifted: LiftReason,
    /// The operator's words.
    pub reason: Option<String>,
}

/// A client's window.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Window {
    /// Length in seconds.
    pub secs: u32,
    /// Requests.
    pub requests: u32,
    /// Errors.
    pub errors: u32,
    /// Requests per second.
    pub rate: f64,
}

/// What a client's rate is compared with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Reference {
    /// Requests per second.
    pub mean: f64,
    /// Requests per second.
    pub stddev: f64,
    /// `rolling`, `hour_slot`, `floor` or `warm_up`.
    pub source: String,
}

/// What is remembered of a client's offences.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offences {
    /// How many.
    pub count: u32,
    /// When the last one was.
    pub last_ms: Option<i64>,
}

/// Why a client is banned, or why not.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Explanation {
    /// Who.
    pub client: Client,
    /// The moment explained.
    pub at_ms: i64,
    /// The answer in plain words.
    pub words: String,
    /// Its ban.
    pub ban: Option<Ban>,
    /// Allowlist entries that protect it.
    pub allowed: Vec<AllowEntry>,
    /// Its window, when it was seen lately.
    pub window: Option<Window>,
    /// What its rate is compared with.
    pub reference: Reference,
    /// Every rule.
    pub rules: Vec<RuleState>,
    /// Most first.
    pub top_paths: Vec<PathCount>,
    /// What is remembered.
    pub offences: Offences,
    /// Newest first.
    pub history: Vec<PastBan>,
}

/// How loud an event is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Good to know.
    Info,
    /// Worth a look.
    Warning,
    /// Somebody must act.
    Critical,
}

/// Something people should know.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EventView {
    /// Grows with every event, also across restarts.
    pub id: u64,
    /// When.
    pub at_ms: i64,
    /// What happened: the notice's tag.
    pub kind: String,
    /// How loud it is.
    pub severity: Severity,
    /// Whom it is about.
    pub client: Option<Client>,
    /// In plain words, one line.
    pub text: String,
    /// Everything.
    pub data: Notice,
}

/// Recent events.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EventList {
    /// Newest first.
    pub events: Vec<EventView>,
    /// Ask for older ones with this as `before`.
    pub next: Option<u64>,
}

/// Notices are missing in a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// How many; 0 when unknown.
    pub missed: u64,
}

/// What the page needs every second.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Everything at a glance.
    pub status: Status,
    /// The ten busiest clients.
    pub clients: ClientList,
}

/// How far back a history goes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Range {
    /// 30 minutes.
    #[default]
    #[serde(rename = "30m")]
    HalfHour,
    /// 24 hours.
    #[serde(rename = "24h")]
    Day,
}

/// What a mark on the plot is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum MarkKind {
    /// Bans were made.
    Bans,
    /// A global anomaly started.
    AnomalyStarted,
    /// A global anomaly ended.
    AnomalyEnded,
}

/// Something to mark on the plot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Mark {
    /// When.
    pub at_ms: i64,
    /// What.
    pub kind: MarkKind,
    /// How many bans fell into this step; 1 for anomalies.
    pub count: u64,
    /// In words.
    pub text: String,
}

/// Time series in columns of equal length, oldest first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct HistoryView {
    /// What was asked for.
    pub range: Range,
    /// Distance of two points in seconds; a point is the mean over it.
    pub step_secs: u32,
    /// The points' times.
    pub at_ms: Vec<i64>,
    /// Global rate.
    pub rate: Vec<Option<f64>>,
    /// Errors per second.
    pub error_rate: Vec<Option<f64>>,
    /// Baseline mean.
    pub mean: Vec<Option<f64>>,
    /// Baseline standard deviation.
    pub stddev: Vec<Option<f64>>,
    /// Packets per second.
    pub dropped_packets_per_sec: Vec<Option<f64>>,
    /// Bytes per second.
    pub dropped_bytes_per_sec: Vec<Option<f64>>,
    /// Bans in force.
    pub active_bans: Vec<Option<f64>>,
    /// Oldest first.
    pub marks: Vec<Mark>,
}

/// The configuration in force, without secrets.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ConfigView {
    /// The file it came from; `None` for the defaults.
    pub path: Option<String>,
    /// Every setting; secrets appear as `(set)`.
    pub settings: serde_json::Value,
}
