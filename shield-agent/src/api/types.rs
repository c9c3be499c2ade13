//! The JSON of `/api/v1`, for the server and for the command line alike. `document` turns these types and their doc
//! comments into `docs/openapi.json` and the page's `types.ts`: a comment here is what an API user reads there.
//!
//! Times are milliseconds since the Unix epoch on the wall clock (`_ms`), rates are per second.

use std::collections::BTreeMap;
use std::net::IpAddr;

use hyper::StatusCode;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::canary::figures::Figures;
use crate::enforce::Drops;
use shield_engine::action::{LiftReason, Notice, Step, Totals};
use shield_engine::allowlist::AllowReason;
use shield_engine::client::Client;
use shield_engine::event::EnforcerName;
use shield_engine::slowed::SlowLimits;
use shield_engine::verdict::{Evidence, Measure, PathCount, Rule};
#[cfg(feature = "test-support")]
use shield_engine::{MAX_ALLOW_SECS, MAX_PAUSE_SECS};

/// A refused request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "test-support", derive(schemars::JsonSchema), schemars(rename = "Error"))]
pub struct ErrorBody {
    /// Stable, for programs. A string rather than an [`ErrorCode`], because a newer agent may have codes that this
    /// client does not know.
    #[cfg_attr(feature = "test-support", schemars(with = "ErrorCode"))]
    pub code: String,
    /// For people: what is wrong, where, and what to do about it.
    pub message: String,
}

/// The kinds of refusals; each has its HTTP status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "test-support", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub(crate) enum ErrorCode {
    /// Malformed request.
    BadRequest,
    /// Token missing or wrong.
    Unauthorized,
    /// Not allowed for this user.
    Forbidden,
    /// No such thing.
    NotFound,
    /// Wrong method for this path.
    MethodNotAllowed,
    /// No answer in time.
    Timeout,
    /// Body too large.
    TooLarge,
    /// The Host header names another host.
    WrongHost,
    /// Too many event streams.
    TooManyStreams,
    /// The agent is starting, stopping or overloaded.
    Overloaded,
    /// Internal error; its causes are in the agent's log.
    Internal,
}

impl ErrorCode {
    pub(crate) fn status(self) -> StatusCode {
        match self {
            ErrorCode::BadRequest => StatusCode::BAD_REQUEST,
            ErrorCode::Unauthorized => StatusCode::UNAUTHORIZED,
            ErrorCode::Forbidden => StatusCode::FORBIDDEN,
            ErrorCode::NotFound => StatusCode::NOT_FOUND,
            ErrorCode::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            ErrorCode::Timeout => StatusCode::REQUEST_TIMEOUT,
            ErrorCode::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            ErrorCode::WrongHost => StatusCode::MISDIRECTED_REQUEST,
            ErrorCode::TooManyStreams => StatusCode::TOO_MANY_REQUESTS,
            ErrorCode::Overloaded => StatusCode::SERVICE_UNAVAILABLE,
            ErrorCode::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            ErrorCode::BadRequest => "bad_request",
            ErrorCode::Unauthorized => "unauthorized",
            ErrorCode::Forbidden => "forbidden",
            ErrorCode::NotFound => "not_found",
            ErrorCode::MethodNotAllowed => "method_not_allowed",
            ErrorCode::Timeout => "timeout",
            ErrorCode::TooLarge => "too_large",
            ErrorCode::WrongHost => "wrong_host",
            ErrorCode::TooManyStreams => "too_many_streams",
            ErrorCode::Overloaded => "overloaded",
            ErrorCode::Internal => "internal",
        }
    }
}

/// The transport that a request came over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "test-support", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub(crate) enum Transport {
    /// The control socket.
    Unix,
    /// TCP.
    Tcp,
}

/// The permissions of the caller. The page sends a token here to find out whether it is the right one (401 if not).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "test-support", derive(schemars::JsonSchema))]
pub(crate) struct Whoami {
    /// How the request came.
    pub transport: Transport,
    /// True if the credentials of this request allow changes.
    pub may_change: bool,
    /// True if reading needs the token as well: the agent listens beyond loopback.
    pub token_for_reads: bool,
}

/// The state of a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "test-support", derive(schemars::JsonSchema), schemars(rename = "PartState"))]
#[serde(rename_all = "snake_case")]
pub enum PartStateName {
    /// Works as configured.
    Active,
    /// Not ready yet; nothing to worry about.
    Waiting,
    /// Does not work, or only in part.
    Degraded,
    /// Switched off.
    Off,
}

impl PartStateName {
    /// All states.
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

/// A part of Shield with its state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "test-support", derive(schemars::JsonSchema))]
pub struct Part {
    /// `iptables`, `xdp`, `store`, `slack`, `source:PATH`…
    pub part: String,
    /// The display name.
    pub label: String,
    pub state: PartStateName,
    /// Details of a working part, or the reason for any other state and what to do about it.
    pub text: String,
}

/// The warm-up: until it ends, only what needs no baseline is banned (floods, probing, password guessing).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "test-support", derive(schemars::JsonSchema))]
pub struct WarmUp {
    /// Seconds left, by the log's time.
    pub remaining_secs: u64,
}

/// The detector.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "test-support", derive(schemars::JsonSchema), schemars(rename = "DetectorStatus"))]
pub struct Detector {
    /// Its state, as for a part.
    pub state: PartStateName,
    /// The details of the state, as for a part.
    pub text: String,
    /// The rule profile: `default`, `classic`…
    pub profile: String,
    /// The reference that a client's rate is compared with: `adaptive` or `classic`.
    pub reference: String,
    /// Null once the baseline is learned.
    pub warm_up: Option<WarmUp>,
    /// True while an anomaly keeps the baseline from learning.
    pub frozen: bool,
    /// The reason why the blast-radius limit stopped banning; null if it did not.
    pub blast_radius: Option<String>,
    /// The end of a pause of automatic bans that an operator asked for; null without one.
    #[serde(default)]
    pub paused_until_ms: Option<i64>,
    /// Clients in the table.
    pub clients: u64,
    /// Capacity of the table.
    pub max_clients: u64,
    /// Clients evicted from the full table since the start.
    pub evicted: u64,
}

/// A global anomaly in progress.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "test-support", derive(schemars::JsonSchema))]
pub struct Anomaly {
    /// Start of the anomaly.
    pub since_ms: i64,
    /// The condition that holds, with its numbers.
    pub condition: String,
}

/// The traffic of the whole server over the window.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "test-support", derive(schemars::JsonSchema))]
pub struct GlobalRate {
    /// Requests per second.
    pub rate: f64,
    /// Requests with an error status per second.
    pub error_rate: f64,
    /// Requests per second of clients that were banned by now, those before their bans as well.
    #[serde(default)]
    pub banned_rate: f64,
    /// Length of the window in seconds.
    pub window_secs: u32,
    /// The seconds of the window.
    #[serde(default)]
    pub seconds: Seconds,
    /// Null while traffic is normal.
    pub anomaly: Option<Anomaly>,
}

/// The seconds of the window one by one, oldest first, by the log's times.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "test-support", derive(schemars::JsonSchema))]
pub struct Seconds {
    /// The newest second, which may not be over.
    pub end_ms: i64,
    /// Requests.
    pub requests: Vec<u32>,
    /// Those of clients that were banned by now.
    pub of_banned: Vec<u32>,
}

/// The level that the global rate is compared with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "test-support", derive(schemars::JsonSchema))]
pub struct Baseline {
    /// Requests per second.
    pub mean: f64,
    /// Population standard deviation, requests per second.
    pub stddev: f64,
    /// Requests with an error status per second.
    pub error_mean: f64,
    /// Where the values come from.
    pub source: String,
    /// Seconds of traffic it was computed from.
    pub samples: u64,
    /// Mean rate of one client in requests per second; null until it is known.
    pub client_mean: Option<f64>,
    /// Standard deviation of one client's rate; null until it is known.
    pub client_stddev: Option<f64>,
}

/// The learned level of one hour of the day.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "test-support", derive(schemars::JsonSchema))]
pub struct HourSlot {
    /// 0 to 23, UTC.
    #[cfg_attr(feature = "test-support", schemars(range(max = 23)))]
    pub hour: u8,
    /// Requests per second; null until it is known.
    pub mean: Option<f64>,
    /// Standard deviation in requests per second; null until it is known.
    pub stddev: Option<f64>,
}

/// The packets and bytes that one enforcer dropped since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "test-support", derive(schemars::JsonSchema))]
pub struct EnforcerDrops {
    pub enforcer: EnforcerName,
    /// Packets.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
}

/// Packets and bytes that the kernel dropped for Shield. Packets that XDP drops never reach iptables, so the sums
/// count nothing twice.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "test-support", derive(schemars::JsonSchema))]
pub struct Dropped {
    /// Packets since the start.
    pub packets: u64,
    /// Bytes since the start.
    pub bytes: u64,
    /// Packets per second, over the last second or more.
    pub packets_per_sec: f64,
    /// Bytes per second, over the last second or more.
    pub bytes_per_sec: f64,
    /// One entry for each enforcer that counts.
    pub by_enforcer: Vec<EnforcerDrops>,
}

/// Bans in force.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "test-support", derive(schemars::JsonSchema))]
pub struct BanCounts {
    /// All bans in force.
    pub active: u64,
    /// Permanent bans among them.
    pub permanent: u64,
}

/// Slowed clients: let through no faster than their limits, which is no ban.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "test-support", derive(schemars::JsonSchema))]
pub struct SlowedCounts {
    /// Slowed now.
    pub active: u64,
    /// Slowed since the agent started.
    pub since_start: u64,
}

/// A slowed client.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "test-support", derive(schemars::JsonSchema))]
pub struct SlowedClient {
    pub client: Client,
    /// Start of its term.
    pub since_ms: i64,
    /// End of its term, unless it goes on.
    pub ends_ms: i64,
    /// Seconds left.
    pub remaining_secs: u64,
    /// The rule of the weightiest evidence.
    pub rule: Rule,
    /// What it is let through.
    pub limits: SlowLimits,
    /// The reason in plain words.
    pub words: String,
}

/// The agent's process.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "test-support", derive(schemars::JsonSchema), schemars(rename = "Agent"))]
pub struct AgentVitals {
    /// CPU in percent of one core over the last seconds.
    pub cpu_percent: f64,
    /// Resident memory.
    pub memory_bytes: u64,
    /// Seconds since the start.
    pub uptime_secs: u64,
    pub threads: u64,
}

/// The machine.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "test-support", derive(schemars::JsonSchema), schemars(rename = "Host"))]
pub struct HostVitals {
    pub name: String,
    /// CPU in percent of all cores over the last seconds.
    pub cpu_percent: f64,
    /// Logical CPUs.
    pub cores: u64,
    /// Load average over one minute.
    pub load_1min: f64,
    /// Total less available memory.
    pub memory_used_bytes: u64,
    pub memory_total_bytes: u64,
    /// Seconds since boot.
    pub uptime_secs: u64,
}

/// The worst state of any part, of the detector included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "test-support", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// Every part is active or switched off.
    Ok,
    /// A part waits, or the detector warms up.
    Waiting,
    /// A part does not work as configured.
    Degraded,
}

/// What is going on, the worst first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "test-support", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum PostureState {
    /// No log is read, or nothing of it can be used: nobody is judged.
    Blind,
    /// Clients attack, and some of them get through.
    AttackUnhandled,
    /// Clients attacked within the last minutes or are being dropped, and all of them are kept out.
    AttackHandled,
    /// A part does not work.
    #[default]
    Degraded,
    /// The whole server's traffic is unusual, and no client stands out.
    Unusual,
    /// The baseline is not known yet.
    Learning,
    /// None of these.
    Quiet,
}

/// What is going on, in one line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "test-support", derive(schemars::JsonSchema))]
pub struct Posture {
    pub state: PostureState,
    /// The state in words: `Under attack, handled`.
    pub title: String,
    /// The facts that it rests on; may be empty.
    pub text: String,
}

impl Default for Posture {
    /// What a client of an older agent shows.
    fn default() -> Posture {
        let text = "the agent is older than this command: restart it".to_owned();
        Posture { state: PostureState::Degraded, title: "Degraded".to_owned(), text }
    }
}

/// Clients that rules would ban, but that the blast-radius limit or a pause lets through.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "test-support", derive(schemars::JsonSchema))]
pub struct Withheld {
    /// Number of clients.
    pub clients: u64,
    /// The networks with the most of them.
    pub networks: Vec<WithheldNetwork>,
}

/// A network with clients that are let through.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "test-support", derive(schemars::JsonSchema))]
pub struct WithheldNetwork {
    /// The network: a /24 or /48, or the client where it is the only one.
    pub network: Client,
    /// Number of clients in it.
    pub clients: u64,
}

/// The state of the agent, its traffic, its bans and the machine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "test-support", derive(schemars::JsonSchema))]
pub struct Status {
    /// The agent's version.
    pub version: String,
    /// The agent's clock at the time of this answer: count down against it, not against the viewer's clock.
    pub now_ms: i64,
    /// Start of the agent.
    pub started_ms: i64,
    /// True if bans are decided and recorded but not enforced.
    pub dry_run: bool,
    /// What is going on, in one line: what the page and the terminal begin with.
    #[serde(default)]
    pub posture: Posture,
    /// The worst state of any part.
    pub health: Health,
    /// All parts, in a fixed order.
    pub parts: Vec<Part>,
    /// Every source.
    pub sources: Vec<SourceStatus>,
    /// The detector.
    pub detector: Detector,
    /// The whole server's traffic.
    pub global: GlobalRate,
    /// The level that the traffic is compared with.
    pub baseline: Baseline,
    /// 24 entries, hour 0 first.
    #[cfg_attr(feature = "test-support", schemars(length(min = 24, max = 24)))]
    pub hour_profile: Vec<HourSlot>,
    /// Totals since the first start, across restarts.
    pub totals: Totals,
    /// Log lines rejected since the start, by reason.
    pub rejected: BTreeMap<String, u64>,
    /// Bans in force.
    pub bans: BanCounts,
    /// Slowed clients.
    #[serde(default)]
    pub slowed: SlowedCounts,
    /// Clients that rules would ban, but that are let through because too many are hit at once, or in a pause.
    #[serde(default)]
    pub withheld: Withheld,
    /// Bans that rules made within the last 5 minutes, by kind of attack.
    #[serde(default)]
    pub attacks: BTreeMap<String, u64>,
    /// Packets and bytes that the kernel dropped.
    pub dropped: Dropped,
    /// The agent's process.
    pub agent: AgentVitals,
    /// The machine.
    pub host: HostVitals,
}

/// A source's lines since the start, and how far it is behind its logs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "test-support", derive(schemars::JsonSchema))]
pub struct SourceStatus {
    /// The name; the part of this source is `source:` and the name.
    pub source: String,
    /// Lines read, rejected ones included.
    pub lines: u64,
    /// Bytes of these lines.
    pub bytes: u64,
    /// Lines rejected.
    pub rejected: u64,
    /// Requests recovered from broken lines.
    pub salvaged: u64,
    /// Logs followed; null for a socket and for standard input.
    pub logs: Option<u64>,
    /// Bytes in the logs that are not read yet; null for a socket and for standard input.
    pub lag_bytes: Option<u64>,
    /// Age of the last line read, by the log's times; null if the source is not behind, and before the first line.
    pub lag_secs: Option<u64>,
    /// Time of the last line read, by the log's times; null before the first line.
    pub last_line_ms: Option<i64>,
    /// The name of the format of the last lines read; null before the first.
    pub format: Option<String>,
    /// Lines per second over the last minute or two, rejected ones included.
    pub lines_per_sec: f64,
    /// Rejected lines of 100, over the same time; null if there was none.
    pub rejected_percent: Option<f64>,
    /// Lines rejected, by reason.
    pub rejected_by: BTreeMap<String, u64>,
    /// `reading`, `waiting`, `off`, or what is wrong: `refused`, `field`, `some_refused`, `behind`, `silent`, `one_client`,
    /// `late`, `unread`, or `degraded` for anything else. The text of the source's part gives the reason and what to do.
    pub state: String,
}

/// A ban in force.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "test-support", derive(schemars::JsonSchema))]
pub struct Ban {
    /// The client.
    pub client: Client,
    /// Grows with every ban and every change of one, across restarts.
    pub serial: u64,
    /// Start of the ban.
    pub since_ms: i64,
    /// End of the ban; null if it is permanent.
    pub ends_ms: Option<i64>,
    /// Seconds left by the boot clock, which decides; null if the ban is permanent.
    pub remaining_secs: Option<u64>,
    /// The client's offences, this one included; 0 if the ban is not for an offence.
    pub offence: u32,
    /// The rule it was for.
    pub rule: Rule,
    /// The reason that the operator or the imported list gave.
    pub reason: Option<String>,
    /// The cause in plain words, one or two sentences.
    pub words: String,
    /// The detector's evidence; null for a ban that it did not make.
    pub evidence: Option<Box<Evidence>>,
    /// Dropped packets of this client since its ban; null while no enforcer counts them.
    pub dropped: Option<Drops>,
    /// Requests of it that reached the web server although it is banned, in the last minute with any; null where none did
    /// lately.
    #[serde(default)]
    pub leaking: Option<u32>,
    /// The enforcers that drop it now; null if that is not known.
    pub enforced_by: Option<Vec<EnforcerName>>,
    /// Whose network it is in, by the databases of `[page]`; absent without them, and where they do not know it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<AddressOwner>,
}

/// Whose network an address is in.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "test-support", derive(schemars::JsonSchema))]
pub struct AddressOwner {
    /// The number of the autonomous system.
    pub asn: Option<u32>,
    /// The autonomous system's name.
    pub name: Option<String>,
    /// The country's code of two letters.
    pub country: Option<String>,
}

/// One page of the bans in force.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "test-support", derive(schemars::JsonSchema))]
pub struct BanPage {
    /// In the requested order.
    pub bans: Vec<Ban>,
    /// Number of bans that match the filter.
    pub total: u64,
    /// The `cursor` of the next page; null on the last one.
    pub next: Option<String>,
    /// Slowed clients that match the search, in the order of their addresses, at most 1,000; on the first page alone, and
    /// none where a rule is asked for. They are no bans: `total` does not count them.
    #[serde(default)]
    pub slowed: Vec<SlowedClient>,
    /// True if none of them is enforced.
    #[serde(default)]
    pub dry_run: bool,
    /// The agent's clock at the time of this answer.
    pub now_ms: i64,
}

/// The requests of a site since the agent started, and who attacks it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "test-support", derive(schemars::JsonSchema))]
pub struct SiteActivity {
    /// The name of its server section, as the log has it.
    pub site: String,
    #[serde(flatten)]
    pub requests: SiteRequests,
    /// Bans in force of clients that asked for it. A client that asked for several sites counts at each.
    pub bans: u64,
    /// Clients that rules banned within the last 5 minutes and that asked for it.
    pub attackers: u64,
}

/// Requests read from the log since the agent started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "test-support", derive(schemars::JsonSchema))]
pub struct SiteRequests {
    pub requests: u64,
    /// With a status of 400 to 499.
    pub client_errors: u64,
    /// With a status of 500 or more.
    pub server_errors: u64,
    /// Requests read within the last 60 to 70 seconds.
    pub requests_last_minute: u64,
    /// Those of them with a status of 400 or more.
    pub errors_last_minute: u64,
}

/// The sites, as far as the log names the server section that answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "test-support", derive(schemars::JsonSchema))]
pub struct SiteList {
    /// Most attackers first, then most requests. At most 64: names beyond them, and what is no plain name, are in `other`.
    #[cfg_attr(feature = "test-support", schemars(length(max = 64)))]
    pub sites: Vec<SiteActivity>,
    /// Requests of sites that are not listed.
    pub other: SiteRequests,
    /// Requests whose line names no site.
    pub unnamed: SiteRequests,
    /// The agent's clock at the time of this answer.
    pub now_ms: i64,
}

/// An environment for rehearsals on this host, which `shield-agent lab` made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "test-support", derive(schemars::JsonSchema))]
pub struct LabView {
    /// Its name and the time of its creation.
    pub id: String,
    /// direct, cdn, container or fleet.
    pub profile: String,
    /// creating, ready or destroying.
    pub phase: String,
    /// unknown, good or degraded, by the control service's last looks.
    pub condition: String,
    /// Until it is taken down, in seconds.
    pub left_secs: u64,
    /// Where a browser on this host sees it; null without a control service.
    pub url: Option<String>,
}

/// The environments for rehearsals on this host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "test-support", derive(schemars::JsonSchema))]
pub struct LabList {
    /// In the order of their ids.
    pub labs: Vec<LabView>,
}

/// The order of a list of bans.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[cfg_attr(feature = "test-support", derive(schemars::JsonSchema))]
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
    pub fn name(self) -> &'static str {
        match self {
            BanSort::Since => "since",
            BanSort::Ends => "ends",
            BanSort::Client => "client",
        }
    }
}

/// The term of a ban.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "test-support", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub(crate) enum Term {
    /// The next step of the backoff ladder for this client.
    #[default]
    Next,
    /// Without an end.
    Permanent,
    /// This many seconds.
    Secs(#[cfg_attr(feature = "test-support", schemars(range(min = 1, max = MAX_TERM_SECS)))] u64),
}

/// The longest term in seconds: 100 years. A longer one is better said as permanent, and could overflow a deadline.
pub(crate) const MAX_TERM_SECS: u64 = 3_155_760_000;

/// The most clients that one request may name.
pub(crate) const MAX_CLIENTS_PER_REQUEST: usize = 10_000;

/// The longest reason, in characters.
pub(crate) const MAX_REASON_CHARS: usize = 1000;

/// Clients to ban.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "test-support", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(crate) struct BanRequest {
    /// Addresses or networks.
    #[cfg_attr(feature = "test-support", schemars(length(min = 1, max = MAX_CLIENTS_PER_REQUEST)))]
    pub clients: Vec<Client>,
    #[serde(default)]
    pub term: Term,
    /// The reason, for the record.
    #[serde(default)]
    #[cfg_attr(feature = "test-support", schemars(length(max = MAX_REASON_CHARS)))]
    pub reason: Option<String>,
}

fn yes() -> bool {
    true
}

/// Bans to lift. The windows of the clients are cleared, so that old requests do not ban them again at once.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "test-support", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(crate) struct UnbanRequest {
    /// Addresses or networks.
    #[cfg_attr(feature = "test-support", schemars(length(min = 1, max = MAX_CLIENTS_PER_REQUEST)))]
    pub clients: Vec<Client>,
    /// Forget the offences of these clients as well, so that they begin afresh.
    #[serde(default = "yes")]
    pub forget: bool,
    /// Lift only bans that were made by hand on this host: what rules and other hosts want stays, and offences do.
    #[serde(default)]
    pub here: bool,
    /// The reason, for the record.
    #[serde(default)]
    #[cfg_attr(feature = "test-support", schemars(length(max = MAX_REASON_CHARS)))]
    pub reason: Option<String>,
}

/// A pause of automatic bans: rules ban and slow nobody. Bans in force stay, and bans by hand go on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "test-support", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(crate) struct PauseRequest {
    /// How long it lasts, at most.
    #[cfg_attr(feature = "test-support", schemars(range(min = 1, max = MAX_PAUSE_SECS)))]
    pub secs: u64,
    /// The reason, for the record.
    #[serde(default)]
    #[cfg_attr(feature = "test-support", schemars(length(max = MAX_REASON_CHARS)))]
    pub reason: Option<String>,
}

/// The pause that was asked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "test-support", derive(schemars::JsonSchema))]
pub(crate) struct PauseReport {
    /// Its end, by itself or by `resume`.
    pub until_ms: i64,
}

/// The end of a pause, and of a stop by the blast-radius limit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "test-support", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(crate) struct ResumeRequest {
    /// The reason, for the record.
    #[serde(default)]
    #[cfg_attr(feature = "test-support", schemars(length(max = MAX_REASON_CHARS)))]
    pub reason: Option<String>,
}

/// What `resume` did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "test-support", derive(schemars::JsonSchema))]
pub(crate) struct ResumeReport {
    /// Whether automatic bans were paused.
    pub was_paused: bool,
    /// Whether the blast-radius limit had stopped them.
    pub was_stopped: bool,
    /// What becomes of each client that was let through meanwhile.
    pub results: Vec<shield_engine::action::CommandResult>,
}

/// Networks to put on the allowlist.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "test-support", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(crate) struct AllowRequest {
    /// Addresses or networks.
    #[cfg_attr(feature = "test-support", schemars(length(min = 1, max = MAX_CLIENTS_PER_REQUEST)))]
    pub clients: Vec<Client>,
    /// For how long; null or absent until they are taken off it.
    #[serde(default)]
    #[cfg_attr(feature = "test-support", schemars(range(min = 1, max = MAX_ALLOW_SECS)))]
    pub secs: Option<u64>,
    /// The reason, for the record.
    #[serde(default)]
    #[cfg_attr(feature = "test-support", schemars(length(max = MAX_REASON_CHARS)))]
    pub reason: Option<String>,
}

/// Networks to take off the allowlist.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "test-support", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(crate) struct DisallowRequest {
    /// Addresses or networks.
    #[cfg_attr(feature = "test-support", schemars(length(min = 1, max = MAX_CLIENTS_PER_REQUEST)))]
    pub clients: Vec<Client>,
    /// The reason, for the record.
    #[serde(default)]
    #[cfg_attr(feature = "test-support", schemars(length(max = MAX_REASON_CHARS)))]
    pub reason: Option<String>,
}

/// The fleet that this host is part of.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "test-support", derive(schemars::JsonSchema))]
pub struct FleetView {
    /// This host's name in it; null when it is part of none.
    pub name: Option<String>,
    pub connected: bool,
    /// The server that it is connected to.
    pub server: String,
    /// Bans of this host in force, which the others are told.
    pub own_bans: u64,
    /// Bans and unbans that the server does not have yet.
    pub waiting: u64,
    /// Statements of other hosts since the start.
    pub heard: u64,
    /// Messages that a newer Shield wrote, since the start.
    pub newer: u64,
    /// Messages that are none of a fleet's, since the start.
    pub unread: u64,
    /// Every other host that was ever heard, by name.
    pub origins: Vec<FleetOrigin>,
}

/// Another host of the fleet, as this one sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "test-support", derive(schemars::JsonSchema))]
pub struct FleetOrigin {
    pub name: String,
    /// When it was heard last, in milliseconds since the Unix epoch.
    pub heard_ms: i64,
    /// Seconds since then. Each host states its bans anew at least every 10 min.
    pub heard_secs_ago: u64,
    /// Clients that it wants banned.
    pub bans: u64,
    /// Those of them that count here.
    pub counted: u64,
    pub trust: Trust,
    /// Statements about clients that are never banned here, since the start.
    pub vetoed: u64,
    /// Statements about networks that were not accepted, since the start.
    pub refused_networks: u64,
}

/// What the word of another host is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "test-support", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Trust {
    /// It counts.
    Full,
    /// It is over a limit of number: new bans of it are only noted.
    Limited,
    /// It wanted too many clients banned that were served well here: nothing counts for an hour.
    Harmful,
    /// An operator of this host said so: nothing counts.
    Forgotten,
}

/// Another host of the fleet.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "test-support", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(crate) struct OriginRequest {
    /// Its name.
    pub origin: String,
}

/// One ban of an import.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "test-support", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(crate) struct ImportEntry {
    pub client: Client,
    #[serde(default)]
    pub term: Term,
    /// The reason, for the record.
    #[serde(default)]
    #[cfg_attr(feature = "test-support", schemars(length(max = MAX_REASON_CHARS)))]
    pub reason: Option<String>,
}

/// A list of bans, each with its own term.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "test-support", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(crate) struct ImportRequest {
    #[cfg_attr(feature = "test-support", schemars(length(min = 1, max = MAX_CLIENTS_PER_REQUEST)))]
    pub bans: Vec<ImportEntry>,
    /// Ban all of them, or none when one is refused.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub all_or_nothing: bool,
}

/// A network whose clients are never banned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "test-support", derive(schemars::JsonSchema))]
pub(crate) struct AllowEntry {
    /// In CIDR notation.
    #[cfg_attr(feature = "test-support", schemars(with = "String"))]
    pub network: IpNet,
    pub reason: AllowReason,
    /// The reason in plain words.
    pub words: String,
    /// The operator's own words, when some were given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// The end of an entry that was added for a while; absent when it stays until it is removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until_ms: Option<i64>,
}

/// The allowlist.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "test-support", derive(schemars::JsonSchema))]
pub(crate) struct AllowList {
    /// Sorted by network.
    pub entries: Vec<AllowEntry>,
}

/// The display names of what the API names for programs. Constant for one version of the agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "test-support", derive(schemars::JsonSchema))]
pub(crate) struct Labels {
    /// By the name in `rule`.
    pub rules: BTreeMap<String, String>,
    /// By the name in a baseline's `source`.
    pub baseline_sources: BTreeMap<String, String>,
    /// By the name in `enforcer` and `enforced_by`.
    pub enforcers: BTreeMap<String, String>,
}

/// The state of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "test-support", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum ClientState {
    /// No rule fires for it.
    Normal,
    /// A rule fires: it is about to be banned, or would be.
    Anomalous,
    /// Banned, and so dropped by the kernel.
    Banned,
    /// Protected by the allowlist.
    Allowed,
}

/// A client and its window: the last 60 s, or the 60 s before its ban if that was made within them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "test-support", derive(schemars::JsonSchema))]
pub struct ClientActivity {
    pub client: Client,
    /// Requests per second.
    pub rate: f64,
    /// Requests in the window.
    pub requests: u32,
    /// Requests with an error status in the window.
    pub errors: u32,
    /// Distance of the rate from the reference level, in standard deviations.
    pub z_score: f64,
    pub state: ClientState,
}

/// The busiest clients.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "test-support", derive(schemars::JsonSchema))]
pub struct ClientList {
    /// Length of the window in seconds.
    pub window_secs: u32,
    /// The agent's clock at the time of this answer.
    pub now_ms: i64,
    /// Highest rate first.
    pub clients: Vec<ClientActivity>,
}

/// The values of one rule beside its thresholds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "test-support", derive(schemars::JsonSchema))]
pub(crate) struct RuleState {
    pub rule: Rule,
    /// True if the rule fires.
    pub fires: bool,
    /// The reason why the rule was not evaluated (off, warming up, too few requests); null if it was.
    pub not_asked: Option<String>,
    pub measures: Vec<Measure>,
    /// The outcome in plain words.
    pub words: String,
}

/// A ban that has ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "test-support", derive(schemars::JsonSchema))]
pub struct PastBan {
    /// The serial number of the ban.
    pub serial: u64,
    /// Start of the ban.
    pub since_ms: i64,
    /// End of the ban.
    pub ended_ms: i64,
    /// The rule it was for.
    pub rule: Rule,
    /// The reason for its end.
    pub lifted: LiftReason,
    /// The reason that the operator gave.
    pub reason: Option<String>,
}

/// A client's window.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "test-support", derive(schemars::JsonSchema))]
pub(crate) struct Window {
    /// Length in seconds.
    pub secs: u32,
    pub requests: u32,
    /// Requests with an error status.
    pub errors: u32,
    /// Requests per second.
    pub rate: f64,
}

/// The level that a client's rate is compared with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "test-support", derive(schemars::JsonSchema))]
pub(crate) struct Reference {
    /// Requests per second.
    pub mean: f64,
    /// Requests per second.
    pub stddev: f64,
    /// Where the values come from.
    pub source: String,
}

/// A client's offences that are still remembered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "test-support", derive(schemars::JsonSchema))]
pub struct Offences {
    /// The number of offences.
    pub count: u32,
    /// Time of the last one; null if there is none.
    pub last_ms: Option<i64>,
}

/// Somebody else who wants a client banned.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "test-support", derive(schemars::JsonSchema))]
pub struct Wanted {
    /// `fleet:web-3`, `blocklist:drop`.
    pub origin: String,
    /// The client or network that it names.
    pub client: Client,
    /// Its words.
    pub why: String,
    /// Since when, in milliseconds since the Unix epoch.
    pub since_ms: i64,
    /// Until when; null for ever.
    pub ends_ms: Option<i64>,
    /// Whether its word counts here.
    pub counts: bool,
}

/// The reason why a client is banned, or why it is not.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "test-support", derive(schemars::JsonSchema))]
pub(crate) struct Explanation {
    pub client: Client,
    /// The moment that is explained.
    pub at_ms: i64,
    /// The answer in plain words.
    pub words: String,
    /// True if its ban is not enforced.
    #[serde(default)]
    pub dry_run: bool,
    /// The ban that drops it, its own or that of a network around it; null if there is none.
    pub ban: Option<Ban>,
    /// Null unless it is slowed now.
    #[serde(default)]
    pub slowed: Option<SlowedClient>,
    /// Others that want it banned: hosts of the fleet, blocklists, CrowdSec. Absent when there are none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub wanted_by: Vec<Wanted>,
    /// Allowlist entries that protect it.
    pub allowed: Vec<AllowEntry>,
    /// A proxy that it is, or holds, by the connections in the log: no rule bans it. Absent when there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy: Option<IpAddr>,
    /// Null if the client was not seen lately.
    pub window: Option<Window>,
    pub reference: Reference,
    /// All rules.
    pub rules: Vec<RuleState>,
    /// Most requested first.
    pub top_paths: Vec<PathCount>,
    pub offences: Offences,
    /// Newest first.
    pub history: Vec<PastBan>,
}

/// The severity of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "test-support", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// For information.
    Info,
    /// Deserves a look.
    Warning,
    /// Needs an operator.
    Critical,
}

impl Severity {
    /// The name in JSON and in messages.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Severity::Info => "info",
            Severity::Warning => "warning",
            Severity::Critical => "critical",
        }
    }
}

/// An event that an operator should know of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "test-support", derive(schemars::JsonSchema), schemars(rename = "Event"))]
pub struct EventView {
    /// Grows with every event, also across restarts.
    pub id: u64,
    pub at_ms: i64,
    /// The kind of event. New kinds may be added: show `text`.
    pub kind: String,
    pub severity: Severity,
    /// The client concerned; null if the event concerns none.
    pub client: Option<Client>,
    /// In plain words, one line. May contain text from the network: never markup.
    pub text: String,
    /// All facts, as in the audit log; `event` names the kind.
    #[cfg_attr(feature = "test-support", schemars(with = "NoticeFacts"))]
    pub data: Notice,
}

/// The part of a [`Notice`] that is fixed in the document: the rest depends on the kind, and the page shows `text`.
#[cfg(feature = "test-support")]
#[derive(schemars::JsonSchema)]
#[schemars(inline, extend("additionalProperties" = true))]
#[expect(dead_code, reason = "only its schema is used")]
struct NoticeFacts {
    event: String,
}

/// Recent events.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "test-support", derive(schemars::JsonSchema))]
pub struct EventList {
    /// Newest first.
    pub events: Vec<EventView>,
    /// The `before` of the next older events; null if there are no older ones here (the audit log has them).
    pub next: Option<u64>,
}

/// Events are missing in a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "test-support", derive(schemars::JsonSchema))]
pub struct Gap {
    /// Number of missing events; 0 if it is unknown.
    pub missed: u64,
}

/// What the page needs every second.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "test-support", derive(schemars::JsonSchema))]
pub struct Snapshot {
    /// The state of the agent, its traffic, its bans and the machine.
    pub status: Status,
    /// The ten busiest clients.
    pub clients: ClientList,
}

/// The range of a history.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "test-support", derive(schemars::JsonSchema), schemars(rename = "HistoryRange"))]
pub(crate) enum Range {
    /// 30 minutes, in steps of 2 s.
    #[default]
    #[serde(rename = "30m")]
    HalfHour,
    /// 24 hours, in steps of 60 s.
    #[serde(rename = "24h")]
    Day,
}

/// The kind of a mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "test-support", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub(crate) enum MarkKind {
    /// Bans were made.
    Bans,
    /// A global anomaly started.
    AnomalyStarted,
    /// A global anomaly ended.
    AnomalyEnded,
}

/// A mark on the plot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "test-support", derive(schemars::JsonSchema))]
pub(crate) struct Mark {
    pub at_ms: i64,
    pub kind: MarkKind,
    /// Number of bans in this step; 1 for an anomaly.
    pub count: u64,
    /// In plain words.
    pub text: String,
}

/// Time series in columns of equal length, oldest first and evenly spaced. Null where nothing was recorded.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "test-support", derive(schemars::JsonSchema), schemars(rename = "History"))]
pub(crate) struct HistoryView {
    pub range: Range,
    /// Seconds between two points; a point is the mean over them.
    pub step_secs: u32,
    /// Times of the points.
    pub at_ms: Vec<i64>,
    /// Global rate, requests per second.
    pub rate: Vec<Option<f64>>,
    /// Requests with an error status per second.
    pub error_rate: Vec<Option<f64>>,
    /// Requests per second of clients that were banned by then.
    pub banned_rate: Vec<Option<f64>>,
    /// Mean of the baseline, requests per second.
    pub mean: Vec<Option<f64>>,
    /// Standard deviation of the baseline, requests per second.
    pub stddev: Vec<Option<f64>>,
    /// Dropped packets per second.
    pub dropped_packets_per_sec: Vec<Option<f64>>,
    /// Dropped bytes per second.
    pub dropped_bytes_per_sec: Vec<Option<f64>>,
    /// Bans in force.
    pub active_bans: Vec<Option<f64>>,
    /// Oldest first.
    pub marks: Vec<Mark>,
}

/// The result of loading the configuration again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "test-support", derive(schemars::JsonSchema))]
pub struct ReloadReport {
    /// What became of it.
    pub outcome: ReloadOutcome,
    /// The file; null for the defaults.
    pub file: Option<String>,
    /// Settings that are in force now, each in a line.
    pub changed: Vec<String>,
    /// Settings that a restart will put in force.
    pub restart: Vec<String>,
    /// Settings that could not be put in force, each with the reason.
    pub failed: Vec<String>,
    /// Why the file is refused: every mistake with its line and column.
    pub mistakes: Vec<String>,
    /// Bans lifted because their clients are allowed now.
    pub lifted: u64,
}

/// What became of a reload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "test-support", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum ReloadOutcome {
    /// The configuration in force is another one.
    Changed,
    /// The file says what is in force already, but for what needs a restart.
    Unchanged,
    /// The file is wrong, and the configuration before it stays in force.
    Refused,
}

/// A configuration to try.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "test-support", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct CanaryRequest {
    /// The file's name, for people.
    pub name: String,
    /// The file's text.
    pub text: String,
    /// The SHA-256 of the file that it would replace, in hexadecimal.
    pub base: String,
}

/// Asks whether a canary may be promoted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "test-support", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(crate) struct PromotionRequest {
    /// The least time that it must have observed, in seconds; an hour without it.
    #[serde(default)]
    pub min_observed_secs: Option<u64>,
}

/// Whether a canary may be promoted, and what to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "test-support", derive(schemars::JsonSchema))]
pub struct Promotion {
    /// What it found. With `refusals` it may not be promoted.
    pub report: CanaryReport,
    /// The file's text; null when it may not be promoted.
    pub text: Option<String>,
    /// As in the request that started it.
    pub base: String,
}

/// A change of this host that was tried, for the record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "test-support", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(crate) struct ChangeRecord {
    pub step: Step,
    /// Of what, and why: at most 2,000 characters.
    pub text: String,
}

/// What a canary is doing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "test-support", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum CanaryState {
    /// None was started.
    #[default]
    None,
    /// It judges what the live engine judges.
    Running,
    /// It was ended; what it found until then is still there.
    Ended,
    /// It broke down.
    Failed,
}

/// What a canary found: a second engine with another configuration, on the same lines, without effects.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "test-support", derive(schemars::JsonSchema))]
pub struct CanaryReport {
    pub state: CanaryState,
    /// The file that it was started with.
    pub name: Option<String>,
    pub started_ms: Option<i64>,
    pub figures: Figures,
    /// Processor time a line, in nanoseconds.
    pub ns_per_line: u64,
    /// Approximate memory of its clients.
    pub client_bytes: u64,
    /// Clients that only one of the two bans, at most 200.
    pub differing: Vec<CanaryDifference>,
    /// The reasons against its promotion; empty when it is allowed.
    pub refusals: Vec<String>,
}

/// A client that only one of the two engines bans.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "test-support", derive(schemars::JsonSchema))]
pub struct CanaryDifference {
    pub client: Client,
    /// The live ban.
    pub live: Option<CanaryHit>,
    /// The canary's.
    pub canary: Option<CanaryHit>,
    /// Why the canary had not banned it when the live engine did.
    pub why_not: Option<String>,
    /// Whether it was served well within a day.
    pub is_known_good: bool,
    /// Whether it is a search engine, verified by DNS.
    pub is_search_engine: bool,
    /// Whether nobody knows it, the canary alone would ban it, and most of its requests were answered well.
    pub is_served_stranger: bool,
}

/// A ban of a rule.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "test-support", derive(schemars::JsonSchema))]
pub struct CanaryHit {
    pub at_ms: i64,
    pub rule: Rule,
    /// One line with the numbers.
    pub condition: Option<String>,
    /// Of the client, in the window of the verdict.
    pub requests: u32,
    /// Of these, those that failed.
    pub errors: u32,
}

/// The configuration in force, without secrets.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "test-support", derive(schemars::JsonSchema), schemars(rename = "Config"))]
pub struct ConfigView {
    /// The file it was read from; null for the defaults.
    pub path: Option<String>,
    /// All settings with their values; a secret appears as `(set)`.
    #[cfg_attr(feature = "test-support", schemars(with = "serde_json::Map<String, serde_json::Value>"))]
    pub settings: serde_json::Value,
}
