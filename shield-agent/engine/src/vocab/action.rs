//! Effects as data: what the engine wants written, enforced, announced and answered.

use std::num::NonZeroU32;

use serde::{Deserialize, Serialize};

use crate::bans::allowlist::{AllowReason, Allowed, BannableClient};
use crate::rules::PolicyQuestion;
use crate::vocab::ban::{Ban, Place};
use crate::vocab::client::Client;
use crate::vocab::request::Checkpoint;
use crate::vocab::slow::Slowed;
use crate::vocab::time::Ends;
use crate::vocab::verdict::Evidence;

#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Write to the store. All records of one `Engine::handle` call are one transaction.
    Persist(Record),
    /// Give an order to the enforcers.
    Enforce(Order),
    /// Publish: to the audit log first, then Slack, the webhook and the live page.
    Announce(Notice),
    /// Answer a command.
    Reply(CommandId, Reply),
    /// Check by reverse and forward DNS that this address is a search engine's; the answer is `Event::BotVerified`.
    VerifyBot {
        /// The client whose ban waits for the answer.
        client: Client,
        /// The address to look up.
        addr: std::net::IpAddr,
    },
    /// Ask the operators' own rules about a verdict; the answer is one of `Event::Policy`.
    AskPolicy(Box<PolicyQuestion>),
}

/// Identifies the command that a reply answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CommandId(pub u64);

/// The answer to a command.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Reply {
    /// One result per client of the command, in its order.
    pub results: Vec<CommandResult>,
}

/// The result of a command for one client.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct CommandResult {
    pub client: Client,
    /// Whether the command took effect.
    pub ok: bool,
    /// For people: `banned for 10 min`, `not banned: …`, `was not banned`.
    pub message: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Drop this client until `ends`; also moves the end of a ban in force.
    Ban {
        client: BannableClient,
        ends: Ends,
        place: Place,
        /// Returned with the outcome, so that a late outcome of an older ban never touches a newer one.
        serial: u64,
    },
    /// Stop dropping this client. Not having dropped it is success.
    Lift {
        client: Client,
        /// The serial number of the lifted ban.
        serial: u64,
    },
    /// The allowlist changed. Enforcers read it from the engine; its entries must get through even inside a
    /// banned network.
    AllowlistChanged,
    /// The slow lane changed. Enforcers read it from the engine.
    SlowedChanged,
    /// Sample the drop counters of this client and report them as `Event::Activity`.
    SampleActivity { client: Client, serial: u64 },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum LiftReason {
    /// Its term was over.
    Expired,
    Operator,
    /// The client was put on the allowlist.
    Allowed,
    /// Another host wanted it, and does no more.
    Withdrawn,
}

/// A ban as it is stored, exported and announced.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BanRecord {
    #[serde(flatten)]
    pub ban: Ban,
    /// The operator's or the list's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The detector's evidence; `None` for bans that no detector made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence: Option<Box<Evidence>>,
}

/// A change of the store.
#[derive(Debug, Clone, PartialEq)]
pub enum Record {
    /// A new ban. It replaces the client's older one.
    Banned(Box<BanRecord>),
    /// A ban whose end was moved: serial number, end and reason change, the evidence stays.
    Extended(Box<BanRecord>),
    /// A ban that ended and moves to the history.
    Lifted {
        client: Client,
        serial: u64,
        /// Wall clock, in milliseconds.
        at_ms: i64,
        reason: LiftReason,
    },
    Offences {
        client: Client,
        count: NonZeroU32,
        /// The time of the last offence, or of the end of its ban: Unix seconds.
        last_secs: i64,
    },
    /// A client's offences no longer count.
    OffencesForgotten(Client),
    /// The learned baseline, in the detector's own encoding.
    Baseline(Vec<u8>),
    /// The position at which a source resumes.
    Checkpoint(Checkpoint),
    /// The slow lane, in the engine's own encoding.
    Slowed(Vec<u8>),
    /// What an origin wants of a client, in the engine's own encoding; `None` for nothing any more.
    Remote { origin: String, client: Client, entry: Option<Vec<u8>> },
    /// What is known of the origins, in the engine's own encoding.
    RemoteState(Vec<u8>),
    /// A pause of automatic bans, in the engine's own encoding; empty for none.
    Paused(Vec<u8>),
    /// Lifetime totals, so that counters survive restarts.
    Totals(Totals),
    /// An allowlist entry that an operator added.
    Allowed {
        entry: Allowed,
        /// The operator's words.
        note: Option<String>,
        /// Its end, on the wall clock in milliseconds; `None` until it is removed.
        until_ms: Option<i64>,
    },
    /// An allowlist entry that an operator removed.
    Disallowed(Allowed),
}

/// What the loading of a new configuration did, each item in a line of its own.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reloaded {
    /// Settings that are in force now.
    pub changed: Vec<String>,
    /// Settings that are in force after a restart.
    pub restart: Vec<String>,
    /// Settings that could not be put in force, each with the reason.
    pub failed: Vec<String>,
    /// Bans lifted because the new allowlist forbids them.
    pub lifted: u64,
}

/// What became of a change of this host that something had to let through: a gate, a canary, an upgrade.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// The policy kept the agent from starting.
    GateBlocked,
    CanaryStarted,
    /// It was ended, by hand or because its configuration is in force.
    CanaryEnded,
    /// It was not promoted.
    CanaryRefused,
    /// Its configuration is in force.
    CanaryPromoted,
    /// The configuration from before a promotion is in force again.
    ConfigRolledBack,
    /// Another version of the agent is installed.
    Upgraded,
    /// A version was not installed.
    UpgradeRefused,
    /// A version was installed and not healthy: the one before is back.
    UpgradeRolledBack,
}

/// A change of this host that was tried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    pub step: Step,
    /// Of what, and why: one line of bounded length.
    pub text: String,
}

/// Totals over the lifetime of the database, across restarts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Totals {
    pub requests: u64,
    /// Requests with a status of 400 or more.
    pub errors: u64,
    /// Lines that were not counted as requests.
    pub rejected: u64,
    /// Malformed lines that the tolerant reader recovered.
    pub salvaged: u64,
    pub bans: u64,
    pub lifts: u64,
}

/// An event that people are notified of. JSON names the variant in `event`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Notice {
    /// A client was banned.
    Banned(Box<BanRecord>),
    /// A ban was not made, though a rule fired: a dry run, a limit, a proxy, or a backlog too old.
    WouldBan {
        /// The ban as it would have been. Its serial number is [`Ban::UNMADE`] except in a dry run.
        ban: Box<BanRecord>,
        /// The reason why it was not made.
        because: String,
    },
    /// Bans that were not made, of many clients at once: the limits or a pause let them through.
    Withheld {
        /// The bans as they would have been. Their serial numbers are [`Ban::UNMADE`].
        bans: Vec<BanRecord>,
        /// The reason why they were not made.
        because: String,
    },
    /// An operator paused automatic bans.
    Paused {
        ends: Ends,
        /// The operator's words.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        note: Option<String>,
    },
    /// Rules ban again after a pause.
    PauseEnded {
        /// Whether an operator ended it before its time.
        by_hand: bool,
        /// The operator's words.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        note: Option<String>,
    },
    /// A ban ended in every enforcer.
    Lifted {
        client: Client,
        reason: LiftReason,
        lasted_secs: u64,
        /// Offences that still count; 0 when none do.
        offence: u32,
        /// The operator's words.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        note: Option<String>,
    },
    /// A client is slowed: let through no faster than its limits.
    Slowed {
        #[serde(flatten)]
        slowed: Box<Slowed>,
        /// The reason why it would be, but is not: a dry run.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        unmade: Option<String>,
    },
    /// A client is no longer slowed, and was not banned.
    Released { client: Client, reason: LiftReason, lasted_secs: u64 },
    /// A ban was about to end while its flood went on, so its end was moved.
    Extended {
        client: Client,
        ends: Ends,
        /// The drop rate measured shortly before the end.
        packets_per_sec: f64,
    },
    /// A rule fired for a client that the allowlist protects.
    Protected {
        client: Client,
        /// The entry that protects it.
        network: ipnet::IpNet,
        /// The reason of that entry.
        reason: AllowReason,
        evidence: Option<Box<Evidence>>,
    },
    /// The whole server's request rate became anomalous.
    GlobalAnomalyStarted {
        /// One line with the numbers.
        condition: String,
        /// Requests per second.
        rate: f64,
        /// The baseline's mean, in requests per second.
        mean: f64,
        /// The baseline's standard deviation, in requests per second.
        stddev: f64,
    },
    /// The rate is normal again, or the new level was accepted as normal.
    GlobalAnomalyEnded {
        /// Requests per second.
        rate: f64,
        /// The baseline's mean, in requests per second.
        mean: f64,
        lasted_secs: u64,
    },
    /// A part of Shield no longer works as configured.
    Degraded {
        /// The part's name: `iptables`, `xdp`, `store`, `slack`, `source:PATH`…
        part: String,
        /// The cause, and what to do about it.
        reason: String,
    },
    /// A degraded part works again.
    Recovered { part: String, after_secs: u64 },
    /// An enforcer's rules were changed from outside, and were repaired.
    Repaired {
        /// The enforcer's name.
        part: String,
        /// A description of the damage.
        found: String,
        /// Missing bans that were restored.
        restored: u64,
        /// Foreign entries that were removed.
        removed: u64,
    },
    /// Requests of a banned client still reach the web server.
    Leaking {
        client: Client,
        /// Requests in the log since the grace period ended.
        requests: u32,
        /// The likely cause, and what to do about it.
        cause: String,
    },
    /// The blast-radius limit stopped bans by rules, or permits them again.
    BlastRadius {
        stopped: bool,
        /// The limit, with the numbers.
        reason: String,
    },
    /// Several clients of one network were banned; a ban of the whole network is proposed.
    NetworkProposed {
        network: Client,
        /// Clients of the network that were banned.
        banned: u32,
        /// Clients of the network that were active in the last 10 minutes and are not suspect.
        clean: u32,
    },
    /// A client causes many lines that are malformed in the log's format.
    Evasion {
        client: Client,
        /// Lines within the current minute.
        lines: u32,
    },
    /// A source's timestamps are too far from the wall clock to be used.
    ClockSkew {
        source: String,
        /// Positive when the log is ahead of the wall clock.
        skew_secs: i64,
    },
    /// Lines of a log were lost: a rotated file could not be found, read or unpacked.
    Lost {
        source: String,
        /// The length of what is lost, in the form that it has on the disk; absent when that cannot be known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        bytes: Option<u64>,
        /// What is lost, and why.
        reason: String,
    },
    /// An operator changed the allowlist.
    AllowlistChanged {
        network: ipnet::IpNet,
        /// `false` for a removed entry.
        added: bool,
        /// The end of an entry that was added for a while, on the wall clock in milliseconds.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        until_ms: Option<i64>,
        /// The operator's words.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        note: Option<String>,
    },
    /// A new configuration has taken effect.
    Reloaded(Reloaded),
    /// A gate, a canary or an upgrade let a change through, or did not.
    Change(Change),
    Started {
        version: String,
        /// Bans restored from the store.
        restored: u64,
        dry_run: bool,
    },
    /// The agent is stopping; bans stay in the kernel until their end.
    Stopping { bans: u64 },
}
