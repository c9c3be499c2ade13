//! A ban as the enforcers carry it out, its failure, and the drops counted for it.

use shield_engine::allowlist::BannableClient;
use shield_engine::client::Client;
use shield_engine::slowed::SlowLimits;
use shield_engine::time::Ends;

/// A banned client and the end of its ban.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ban {
    /// Checked against the allowlist, as its type proves.
    pub client: BannableClient,
    /// The moment from which packets pass again.
    pub ends: Ends,
}

/// A slowed client, and what it is let through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slow {
    /// Checked against the allowlist, as its type proves. A single client, never a network.
    pub client: BannableClient,
    /// The moment from which everything passes again.
    pub ends: Ends,
    pub limits: SlowLimits,
}

/// A ban or lift that failed.
#[derive(Debug)]
pub struct Failure {
    /// The client of the ban or lift.
    pub client: Client,
    /// Names the command line or system call that failed.
    pub error: anyhow::Error,
}

/// Dropped packets and bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[cfg_attr(feature = "test-support", derive(schemars::JsonSchema))]
pub struct Drops {
    /// Counted since the ban, or since the enforcer was set up.
    pub packets: u64,
    /// Includes the link-layer header where the enforcer sees it: XDP does, iptables does not.
    pub bytes: u64,
}
