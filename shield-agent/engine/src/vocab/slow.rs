//! A slowed client: between nothing and a ban, its new connections and packets are let through no faster than its limits.

use serde::{Deserialize, Serialize};

use crate::vocab::client::Client;
use crate::vocab::time::Ends;
use crate::vocab::verdict::Rule;

/// How fast, and how many at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct SlowRate {
    /// In the long run.
    pub per_sec: u16,
    /// At once, after a pause.
    pub burst: u16,
}

/// What a slowed client is let through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct SlowLimits {
    /// New TCP connections.
    pub connections: SlowRate,
    /// Packets that carry data. Those without any, which acknowledge what the server sends, are not limited.
    pub packets: SlowRate,
}

/// The reason why a client is slowed and not banned.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "grounds", rename_all = "snake_case")]
pub enum SlowGrounds {
    /// What speaks against it is more than half of what a ban takes.
    Evidence {
        /// Its score, in points.
        points: f64,
        /// The points from which it would be banned.
        bar: f64,
    },
    /// A rule fired, but its ban waits or is withheld: it is in good standing.
    Withheld,
    /// The first step of the ladder of terms.
    FirstStep,
    /// A rule fired, and the operators' own rules slow its clients.
    Policy,
    /// Its clients do little else than ask for what is not there, each next request from another.
    Hopping {
        /// Those seen so far, at most 64 of them.
        clients: u32,
    },
}

/// The length of the prefix of a slowed IPv6 network.
pub const NETWORK_PREFIX: u8 = 48;

/// A slowed client.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Slowed {
    /// An IPv4 address, an IPv6 prefix, or an IPv6 network of [`NETWORK_PREFIX`] bits, whose clients share the limits.
    pub client: Client,
    /// The start on the wall clock, in milliseconds since the Unix epoch.
    pub since_ms: i64,
    /// The end, on the clock of this boot.
    pub ends: Ends,
    /// The rule of the weightiest evidence.
    pub rule: Rule,
    pub limits: SlowLimits,
    #[serde(flatten)]
    pub grounds: SlowGrounds,
}
