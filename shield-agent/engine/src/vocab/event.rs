//! Everything that can happen to Shield.

use serde::{Deserialize, Serialize};

use crate::bans::allowlist::{AllowReason, Allowed};
use crate::bans::backoff::Term;
use crate::vocab::action::CommandId;
use crate::vocab::client::Client;
use crate::vocab::request::Batch;
use crate::vocab::verdict::Rule;

/// One thing that happened.
#[derive(Debug)]
pub enum Event<'a> {
    /// Lines were read.
    Lines(&'a Batch),
    /// An operator (or an import) wants something.
    Command(CommandId, Command),
    /// An enforcer did, or could not do, what it was told.
    Outcome(Outcome),
    /// How much of a banned client's traffic was dropped lately.
    Activity {
        /// Who.
        client: Client,
        /// The ban's serial number.
        serial: u64,
        /// Packets dropped since the ban, over all enforcers that count.
        packets: u64,
    },
    /// A part changed its state, or an enforcer repaired itself.
    Part(PartReport),
    /// The addresses found on this host changed: replaces the entries for `reasons`.
    HostAddresses {
        /// The reasons that these entries replace.
        reasons: &'a [AllowReason],
        /// The entries.
        entries: Vec<Allowed>,
    },
    /// DNS answered whether an anomalous client is a search engine.
    BotVerified {
        /// The client.
        client: Client,
        /// Whether its name belongs to a known search engine and leads back to the address.
        genuine: bool,
    },
    /// Time has passed.
    Tick,
}

/// What an operator can ask for.
#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    /// Ban these clients or networks.
    Ban {
        /// Who. A single IPv6 address is widened to the configured prefix.
        clients: Vec<Client>,
        /// The term; `None` takes the next one of the backoff ladder and counts as an offence.
        term: Option<Term>,
        /// Why, in the operator's words.
        reason: Option<String>,
        /// `Rule::Operator` or `Rule::Imported`.
        rule: Rule,
    },
    /// Ban a list, each entry for its own term (`Rule::Imported`). One reply, one result an entry, in order.
    Import {
        /// The entries.
        bans: Vec<ImportedBan>,
    },
    /// Lift these bans and clear the clients' windows.
    Unban {
        /// Who.
        clients: Vec<Client>,
        /// Whether their offences are forgotten as well.
        forget: bool,
        /// Why.
        reason: Option<String>,
    },
    /// Never ban these networks; lifts what is banned inside them.
    Allow {
        /// The networks.
        clients: Vec<Client>,
        /// Why.
        reason: Option<String>,
    },
    /// Take operator's entries off the allowlist.
    Disallow {
        /// The networks.
        clients: Vec<Client>,
        /// Why.
        reason: Option<String>,
    },
}

/// One entry of an imported list.
#[derive(Debug, Clone, PartialEq)]
pub struct ImportedBan {
    /// Who. A single IPv6 address is widened to the configured prefix.
    pub client: Client,
    /// As in [`Command::Ban`].
    pub term: Option<Term>,
    /// The list's words.
    pub reason: Option<String>,
}

/// An enforcer's name; the order is the order of [`EnforcerSet`] bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum EnforcerName {
    /// The netfilter rules.
    Iptables,
    /// The XDP program.
    Xdp,
}

impl EnforcerName {
    /// Both.
    pub const ALL: [EnforcerName; 2] = [EnforcerName::Iptables, EnforcerName::Xdp];

    /// The name used everywhere.
    pub fn name(self) -> &'static str {
        match self {
            EnforcerName::Iptables => "iptables",
            EnforcerName::Xdp => "xdp",
        }
    }
}

/// What became of orders, in one report an enforcer and batch.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// Which enforcer.
    pub enforcer: EnforcerName,
    /// Clients that are dropped now, with their ban's serial number.
    pub banned: Vec<(Client, u64)>,
    /// Clients that are not dropped any more, with the serial number of the lifted ban.
    pub lifted: Vec<(Client, u64)>,
    /// Orders that failed.
    pub failed: Vec<FailedOrder>,
}

/// One order that failed.
#[derive(Debug, Clone, PartialEq)]
pub struct FailedOrder {
    /// Who.
    pub client: Client,
    /// The ban's serial number.
    pub serial: u64,
    /// Whether it was a lift.
    pub was_lift: bool,
    /// The error, in one line.
    pub error: String,
}

/// A part's state, for health, the page and alerts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PartReport {
    /// Which: `iptables`, `xdp`, `store`, `slack`, `source:PATH`…
    pub part: String,
    /// Its state.
    pub state: PartState,
    /// Something was repaired: what was found, bans put back, entries removed.
    pub repaired: Option<Repair>,
}

/// Whether a part works as configured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum PartState {
    /// It does; in a few words how (`native on eth0`, `rules, 12 clients`).
    Active {
        /// The words.
        detail: String,
    },
    /// Not ready yet, which is nothing to worry about (warming up, the log is not there yet).
    Waiting {
        /// For what.
        reason: String,
    },
    /// It does not, or only in part.
    Degraded {
        /// Why, and what to do.
        reason: String,
    },
    /// Switched off in the configuration.
    Off {
        /// By what.
        reason: String,
    },
}

/// What a reconcile repaired.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repair {
    /// What was found, in words.
    pub found: String,
    /// Bans that were missing and put back.
    pub restored: u64,
    /// Entries that nobody wanted and were removed.
    pub removed: u64,
}
