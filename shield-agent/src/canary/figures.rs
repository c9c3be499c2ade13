//! A canary's figures: all that the rules about its promotion may use, but for the clients.

use serde::{Deserialize, Serialize};

/// The least time to be observed where none is named: a quiet hour says nothing.
pub(crate) const MIN_OBSERVED_SECS: u64 = 3_600;

/// What is known of a canary.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "test-support", derive(schemars::JsonSchema), schemars(rename = "CanaryFigures"))]
pub struct Figures {
    /// For how long it has seen what the live engine saw.
    pub observed_secs: u64,
    /// Lines that it judged.
    pub lines: u64,
    /// Lines that it could not take, because it was too slow.
    pub lost_lines: u64,
    /// Whether nothing was left out.
    pub is_whole: bool,
    /// The most clients that were there at a time, those among them that it would have banned before.
    pub clients: u64,
    /// Clients that the live engine's rules banned since the canary started, or would have but for the limits.
    pub live_bans: u64,
    /// Clients that the canary would have banned.
    pub canary_bans: u64,
    /// Of these, clients that the live engine did not ban.
    pub only_canary: u64,
    /// Clients that the live engine banned and the canary would not have by then.
    pub only_live: u64,
    /// Of `only_canary`, clients that were served well within a day.
    pub known_good: u64,
    /// Of `only_canary`, search engines, verified by DNS.
    pub search_engines: u64,
    /// Of `only_canary`, clients that nobody knows, most of whose requests were answered well.
    pub served_strangers: u64,
    /// Times that the canary would have slowed a client.
    pub canary_slowed: u64,
    /// 99 of 100 lines had the canary's verdict within so many microseconds of their delivery; null before the first.
    pub verdict_p99_us: Option<u64>,
    /// The same of the live engine, on the same lines.
    pub live_verdict_p99_us: Option<u64>,
    pub site: Site,
}

/// How the site did meanwhile, by its log.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "test-support", derive(schemars::JsonSchema), schemars(rename = "CanarySite"))]
pub struct Site {
    pub answers: u64,
    /// Of these, with a status of 500 or more.
    pub errors: u64,
    /// 99 of 100 answers took at most so many milliseconds; null where the log has no `request_time`.
    pub p99_ms: Option<u64>,
}
