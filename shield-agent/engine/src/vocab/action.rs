//! What the engine wants done: effects as data. One interpreter performs them, in the order
//! persist (committed) -> enforce -> announce.

use std::num::NonZeroU32;

use serde::{Deserialize, Serialize};

use crate::bans::allowlist::{AllowReason, Allowed, BannableClient};
use crate::vocab::ban::Ban;
use crate::vocab::client::Client;
use crate::vocab::request::Checkpoint;
use crate::vocab::time::Ends;
use crate::vocab::verdict::Evidence;

/// One effect.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Write to the store. All of one `handle` call's records are one transaction.
    Persist(Record),
    /// Tell the enforcers.
    Enforce(Order),
    /// Tell people: audit log first, then Slack, webhook and the live page.
    Announce(Notice),
    /// Answer a command.
    Reply(CommandId, Reply),
    /// Ask DNS (reverse, then forward) whether this address is a search engine's; answer with `Event::BotVerified`.
    VerifyBot {
        /// The client whose ban waits for it.
        client: Client,
        /// The address to ask for.
        addr: std::net::IpAddr,
    },
}

/// Which command a reply answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CommandId(pub u64);

/// The answer to a command: what was done for each client asked for, in order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Reply {
    /// One result a client.
    pub results: Vec<CommandResult>,
}

/// What a command did about one client.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct CommandResult {
    /// The client, in canonical form.
    pub client: Client,
    /// Whether the wish was fulfilled.
    pub ok: bool,
    /// In words: `banned until …`, `not banned: an address of this host`, `was not banned`.
    pub message: String,
}

/// An order to the enforcers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Drop this client until the end given; also used to move the end.
    Ban {
        /// Who.
        client: BannableClient,
        /// Until when.
        ends: Ends,
        /// The ban's serial number, returned with the outcome so that an old outcome never touches a newer ban.
        serial: u64,
    },
    /// Stop dropping this client. Absent is success.
    Lift {
        /// Who.
        client: Client,
        /// The serial number of the ban that is lifted.
        serial: u64,
    },
    /// The allowlist changed: these networks must get through even inside a banned network.
    /// (The list itself is read from the engine; this only says that it is stale.)
    AllowlistChanged,
    /// Sample the drop counters of this client and report them as an `Event::Activity`.
    SampleActivity {
        /// Who.
        client: Client,
        /// The ban's serial number.
        serial: u64,
    },
}

/// Why a ban ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum LiftReason {
    /// Its term was over.
    Expired,
    /// An operator lifted it.
    Operator,
    /// The client was put on the allowlist.
    Allowed,
}

/// A ban as it is stored, exported and announced.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BanRecord {
    /// The ban itself.
    #[serde(flatten)]
    pub ban: Ban,
    /// The operator's or list's words, when there are some.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The detector's evidence, when there is some.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence: Option<Box<Evidence>>,
}

/// Something to write to the store.
#[derive(Debug, Clone, PartialEq)]
pub enum Record {
    /// A new ban (the same client's older one is replaced).
    Banned(Box<BanRecord>),
    /// The end of a ban was moved: serial number, end and reason change, the evidence stays.
    Extended(Box<BanRecord>),
    /// A ban that ended; it moves to the history.
    Lifted {
        /// Who.
        client: Client,
        /// Which of its bans.
        serial: u64,
        /// When, wall clock, milliseconds.
        at_ms: i64,
        /// Why.
        reason: LiftReason,
    },
    /// A client's offences.
    Offences {
        /// The client or network.
        client: Client,
        /// Its offences that count.
        count: NonZeroU32,
        /// The last offence, or the end of its ban: Unix seconds.
        last_secs: i64,
    },
    /// A client's offences no longer count.
    OffencesForgotten(Client),
    /// The learned baseline, in the detector's own encoding.
    Baseline(Vec<u8>),
    /// Where a source goes on.
    Checkpoint(Checkpoint),
    /// Lifetime totals, so that counters survive restarts.
    Totals(Totals),
    /// An operator's allowlist entry.
    Allowed(Allowed),
    /// An operator's allowlist entry taken away.
    Disallowed(Allowed),
}

/// Lifetime totals.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Totals {
    /// Requests counted.
    pub requests: u64,
    /// Requests with an error status.
    pub errors: u64,
    /// Lines refused.
    pub rejected: u64,
    /// Lines saved by the tolerant reader.
    pub salvaged: u64,
    /// Bans made.
    pub bans: u64,
    /// Bans ended.
    pub lifts: u64,
}

/// Something people should know. One variant a kind of event; serialised with the kind in `event`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Notice {
    /// A client was banned (or its ban renewed).
    Banned(Box<BanRecord>),
    /// A ban would have been made, but the engine only observes: dry run, blast-radius limit, or no detector ban.
    WouldBan {
        /// The ban that was not made.
        ban: Box<BanRecord>,
        /// Why not.
        because: String,
    },
    /// A ban ended, in every enforcer.
    Lifted {
        /// Who.
        client: Client,
        /// Why.
        reason: LiftReason,
        /// How long it lasted, in seconds.
        lasted_secs: u64,
        /// Offences that stay remembered.
        offence: u32,
        /// The operator's words.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        note: Option<String>,
    },
    /// A ban's time was up but its flood still came, so its end was moved.
    Extended {
        /// Who.
        client: Client,
        /// The new end.
        ends: Ends,
        /// Packets per second still dropped when it was decided.
        packets_per_sec: f64,
    },
    /// An anomalous client could not be banned because the allowlist protects it.
    Protected {
        /// Who.
        client: Client,
        /// By which entry.
        network: ipnet::IpNet,
        /// Why that entry is there.
        reason: AllowReason,
        /// The evidence.
        evidence: Option<Box<Evidence>>,
    },
    /// The global rate became anomalous.
    GlobalAnomalyStarted {
        /// In one line, with the numbers.
        condition: String,
        /// The global rate, requests per second.
        rate: f64,
        /// The baseline's mean, requests per second.
        mean: f64,
        /// Its standard deviation.
        stddev: f64,
    },
    /// It is back to normal (or the new level was accepted).
    GlobalAnomalyEnded {
        /// The global rate, requests per second.
        rate: f64,
        /// The baseline's mean, requests per second.
        mean: f64,
        /// How long it lasted, seconds.
        lasted_secs: u64,
    },
    /// A part of Shield stopped working as configured.
    Degraded {
        /// Which: `iptables`, `xdp`, `store`, `slack`, `source:PATH`…
        part: String,
        /// Why, and what to do.
        reason: String,
    },
    /// It works again.
    Recovered {
        /// Which.
        part: String,
        /// How long it was degraded, seconds.
        after_secs: u64,
    },
    /// Somebody changed what an enforcer holds, and it was repaired.
    Repaired {
        /// Which enforcer.
        part: String,
        /// What was found, in words.
        found: String,
        /// Bans that were missing and put back.
        restored: u64,
        /// Entries that nobody wanted and were removed.
        removed: u64,
    },
    /// A banned client's requests still reach the web server.
    Leaking {
        /// Who.
        client: Client,
        /// Requests seen since the grace period ended.
        requests: u32,
        /// The likely cause, worked out.
        cause: String,
    },
    /// The blast-radius limit stopped banning, or lets it go on again.
    BlastRadius {
        /// Whether banning is stopped.
        stopped: bool,
        /// Which limit, with the numbers.
        reason: String,
    },
    /// Several clients of one network were banned; banning the whole network is proposed.
    NetworkProposed {
        /// The network.
        network: Client,
        /// Its banned clients.
        banned: u32,
        /// Clients inside it that did nothing wrong in the last 10 minutes.
        clean: u32,
    },
    /// One client writes many lines that are not valid in the log's format.
    Evasion {
        /// Who.
        client: Client,
        /// Lines in the last minute.
        lines: u32,
    },
    /// A source's lines are too far from the wall clock to be counted at their own time.
    ClockSkew {
        /// The source.
        source: String,
        /// By how much, seconds; positive when the log is ahead.
        skew_secs: i64,
    },
    /// An operator changed the allowlist.
    AllowlistChanged {
        /// The network.
        network: ipnet::IpNet,
        /// Added, or removed.
        added: bool,
        /// The operator's words.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        note: Option<String>,
    },
    /// The agent started.
    Started {
        /// Its version.
        version: String,
        /// Bans restored from the store.
        restored: u64,
        /// Whether the kernel is left alone.
        dry_run: bool,
    },
    /// The agent is stopping; bans stay in the kernel until their end.
    Stopping {
        /// Bans in force.
        bans: u64,
    },
}
