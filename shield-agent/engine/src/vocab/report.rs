//! The detector's state and its view of a client, for the page, metrics, `status` and `explain`.

use serde::{Deserialize, Serialize};

use crate::vocab::client::Client;
use crate::vocab::verdict::{Charged, Measure, PathCount, Rule};

/// What was learned of a site beside its baseline.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lessons {
    /// Kinds of paths (numbers, dates and hashes taken out) at which clients in good standing were refused.
    pub refused_kinds: u64,
    /// Clients that were served well, at most 4,096.
    pub clients_in_standing: u64,
}

/// One rule's result for one client, fired or not.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RuleView {
    pub rule: Rule,
    /// Whether it would fire now.
    pub fires: bool,
    /// The reason why it was not evaluated: switched off, warming up, too few requests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_asked: Option<String>,
    /// Every value that the rule uses, beside its threshold.
    pub measures: Vec<Measure>,
}

/// The detector's view of one client.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Explanation {
    pub client: Client,
    /// The event second of the explanation.
    pub at_secs: i64,
    /// Whether the detector has seen this client in its window.
    pub known: bool,
    pub window_secs: u32,
    pub requests: u32,
    pub errors: u32,
    pub rate: f64,
    /// The level that the client is compared with.
    pub baseline: BaselineView,
    /// Every rule, in the order of evaluation.
    pub rules: Vec<RuleView>,
    /// What weighs most in the client's score, weightiest first.
    pub account: Vec<Charged>,
    /// The most requested paths, most requested first, as far as they are remembered.
    pub top_paths: Vec<PathCount>,
}

/// A learned level.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BaselineView {
    /// `rolling`, `hour_slot`, `floor` or `warm_up`.
    pub source: String,
    /// Requests per second.
    pub mean: f64,
    /// Requests per second.
    pub stddev: f64,
    /// Errors per second.
    pub error_mean: f64,
    /// Samples behind it: seconds of the server, or windows of clients.
    pub samples: u64,
}

/// One of the busiest clients.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClientSummary {
    pub client: Client,
    /// Requests in the last 60 s.
    pub requests: u32,
    /// Errors in the last 60 s.
    pub errors: u32,
    /// Requests per second.
    pub rate: f64,
    /// Against the reference level.
    pub z_score: f64,
}

/// The whole server's rates over the last 60 s and its learned level, all in requests per second.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct ServerRates {
    pub requests: f64,
    pub errors: f64,
    /// Of clients that are banned or were meanwhile: those before the ban as well.
    pub of_banned: f64,
    /// Of the learned level.
    pub mean: f64,
    pub stddev: f64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DetectorStatus {
    /// During warm-up only rules that need no baseline fire: floods, probing, failed logins.
    pub warming_up: bool,
    /// By event time.
    pub warm_up_left_secs: u32,
    /// Requests per second of the whole server over the last 60 s.
    pub global_rate: f64,
    /// Errors per second of the whole server over the last 60 s.
    pub global_error_rate: f64,
    /// Requests per second, over the last 60 s, of clients that are banned or were meanwhile: those before the ban as well.
    pub banned_rate: f64,
    /// Both of the window's seconds, oldest first: requests, and those of them of banned clients.
    pub seconds: Vec<(u32, u32)>,
    /// The learned level of the whole server.
    pub global: BaselineView,
    /// The learned level of one client, for rate rules with `reference = "adaptive"`.
    pub clients: BaselineView,
    pub global_anomaly: bool,
    /// Whether a global anomaly has frozen learning.
    pub frozen: bool,
    /// Hour-of-day slots (UTC) with enough samples to be used.
    pub hour_slots: u32,
    /// Mean and standard deviation of requests per second by hour of day; `None` where nothing was learned.
    pub hours: Vec<Option<(f64, f64)>>,
    pub clients_tracked: u64,
    /// Clients dropped from a full table since the start.
    pub evicted: u64,
    /// Approximate memory for clients.
    pub clients_bytes: u64,
    /// Requests that were more than 5 min late and so belong to no window.
    pub late: u64,
    /// The latest event second.
    pub latest_secs: i64,
}

/// A change of the whole server's state.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GlobalChange {
    /// The request rate became anomalous.
    Started {
        /// One line with the numbers.
        condition: String,
        /// Requests per second.
        rate: f64,
        /// The baseline's mean, in requests per second.
        mean: f64,
        /// The baseline's standard deviation, in requests per second.
        stddev: f64,
        at_secs: i64,
    },
    /// The rate is normal again, or the new level was accepted as normal.
    Ended {
        /// Requests per second.
        rate: f64,
        /// The baseline's mean, in requests per second.
        mean: f64,
        lasted_secs: u64,
        at_secs: i64,
    },
}
