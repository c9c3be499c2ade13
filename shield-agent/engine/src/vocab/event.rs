//! Everything that can happen to the engine.

use serde::{Deserialize, Serialize};

use crate::bans::allowlist::{AllowReason, Allowed};
use crate::bans::backoff::Term;
use crate::reconfigure::NewSettings;
use crate::rules::PolicyAnswer;
use crate::vocab::action::{Change, CommandId, Reloaded};
use crate::vocab::client::Client;
use crate::vocab::remote::{Origin, Remote};
use crate::vocab::request::Batch;
use crate::vocab::verdict::Rule;

#[derive(Debug)]
pub enum Event<'a> {
    Lines(&'a Batch),
    /// A request of an operator or an import.
    Command(CommandId, Command),
    /// The result of orders to an enforcer.
    Outcome(Outcome),
    /// The drop counters of a client, in answer to `Order::SampleActivity`.
    Activity {
        client: Client,
        serial: u64,
        /// Packets dropped since the ban began, summed over the enforcers that count.
        packets: u64,
    },
    /// A part changed its state, or an enforcer repaired its rules.
    Part(PartReport),
    /// The addresses found on this host.
    HostAddresses {
        /// The reasons whose allowlist entries are replaced.
        reasons: &'a [AllowReason],
        entries: Vec<Allowed>,
    },
    /// The answer to `Action::VerifyBot`.
    BotVerified {
        client: Client,
        /// Whether the address's name belongs to a known search engine and resolves back to the address.
        genuine: bool,
    },
    /// Answers to `Action::AskPolicy`.
    Policy(Vec<PolicyAnswer>),
    /// What others say about clients.
    Remote(Remote),
    /// Other settings are in force from now on.
    NewSettings(Box<NewSettings>),
    /// A new configuration has taken effect in every part.
    Reloaded(Reloaded),
    /// A change of this host was tried.
    Change(Change),
    /// Time has passed.
    Tick,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    /// Ban these clients or networks.
    Ban {
        /// A single IPv6 address is widened to the configured prefix.
        clients: Vec<Client>,
        /// `None` takes the backoff ladder's next term and counts as an offence.
        term: Option<Term>,
        /// The operator's words.
        reason: Option<String>,
        /// `Rule::Operator` or `Rule::Imported`.
        rule: Rule,
    },
    /// Ban every entry of a list for its own term, as `Rule::Imported`. The reply has one result per entry, in order.
    Import { bans: Vec<ImportedBan>, refused: Refused },
    /// Lift these bans and clear the clients' windows.
    Unban {
        clients: Vec<Client>,
        /// Whether the clients' offences are forgotten too.
        forget: bool,
        reason: Option<String>,
    },
    /// Lift bans that were made by hand on this host, and nothing else: what rules and others want stays.
    TakeBack { clients: Vec<Client>, reason: Option<String> },
    /// Put these networks on the allowlist, which lifts the bans inside them.
    Allow {
        clients: Vec<Client>,
        /// For how long: 1 s to `MAX_ALLOW_SECS`; `None` until they are taken off it.
        secs: Option<u64>,
        reason: Option<String>,
    },
    /// Take an operator's entries off the allowlist.
    Disallow { clients: Vec<Client>, reason: Option<String> },
    /// Let rules ban and slow nobody for this long: 1 s to `MAX_PAUSE_SECS`.
    Pause { secs: u64, reason: Option<String> },
    /// End a pause, and a stop by the limits: those who get through are banned. The reply has one result for each.
    Resume { reason: Option<String> },
    /// Lift all that one origin wanted, and believe it no more. The reply has one result per client.
    ForgetOrigin(Origin),
    /// Believe an origin again. The reply is empty when it is not known.
    TrustOrigin(Origin),
}

/// What an entry of a list that may not be banned means for the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// They are banned.
    LeftOut,
    /// None is.
    StopsAll,
}

#[derive(Debug, Clone, PartialEq)]
pub struct ImportedBan {
    /// A single IPv6 address is widened to the configured prefix.
    pub client: Client,
    /// As in [`Command::Ban`].
    pub term: Option<Term>,
    /// The list's words.
    pub reason: Option<String>,
}

/// An enforcer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum EnforcerName {
    Iptables,
    Xdp,
    /// Refused by nginx itself, for clients whose packets come from a proxy.
    Nginx,
}

impl EnforcerName {
    pub const ALL: [EnforcerName; 3] = [EnforcerName::Iptables, EnforcerName::Xdp, EnforcerName::Nginx];
    /// Those that drop packets.
    pub const KERNEL: [EnforcerName; 2] = [EnforcerName::Iptables, EnforcerName::Xdp];

    /// The name in configuration, metrics, JSON and messages.
    pub fn name(self) -> &'static str {
        match self {
            EnforcerName::Iptables => "iptables",
            EnforcerName::Xdp => "xdp",
            EnforcerName::Nginx => "nginx",
        }
    }
}

/// The results of a batch of orders to one enforcer.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    pub enforcer: EnforcerName,
    /// Clients that are dropped now, with the serial numbers of their bans.
    pub banned: Vec<(Client, u64)>,
    /// Clients that are no longer dropped, with the serial numbers of the lifted bans.
    pub lifted: Vec<(Client, u64)>,
    pub failed: Vec<FailedOrder>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct FailedOrder {
    pub client: Client,
    pub serial: u64,
    /// `false` for an order to ban.
    pub was_lift: bool,
    /// The error in one line.
    pub error: String,
}

/// A part's state, for health checks, the page and alerts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PartReport {
    /// The part's name: `iptables`, `xdp`, `store`, `slack`, `source:PATH`…
    pub part: String,
    pub state: PartState,
    /// Set when an enforcer had to repair its rules.
    pub repaired: Option<Repair>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum PartState {
    /// Works as configured.
    Active {
        /// A short description: `native on eth0`, `rules, 12 clients`.
        detail: String,
    },
    /// Not ready yet, though nothing is wrong: warming up, or the log does not exist yet.
    Waiting { reason: String },
    /// Does not work, or only in part.
    Degraded {
        /// The cause, and what to do about it.
        reason: String,
    },
    /// Switched off.
    Off {
        /// The setting that switched it off.
        reason: String,
    },
}

/// The result of a reconcile that found differences.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repair {
    /// A description of the damage.
    pub found: String,
    /// Missing bans that were restored.
    pub restored: u64,
    /// Foreign entries that were removed.
    pub removed: u64,
}
