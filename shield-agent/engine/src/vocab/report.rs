//! What the detector tells about itself and its clients: for the page, metrics, `status` and `explain`. Data only.

use serde::{Deserialize, Serialize};

use crate::vocab::client::Client;
use crate::vocab::verdict::{Measure, PathCount, Rule};

/// One rule's answer about one client, fired or not.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RuleView {
    /// Which rule.
    pub rule: Rule,
    /// Whether it would fire now.
    pub fires: bool,
    /// Why it was not asked, when it was not: switched off, warming up, too few requests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_asked: Option<String>,
    /// Every value it looks at, beside its threshold.
    pub measures: Vec<Measure>,
}

/// Why a client is, or is not, anomalous.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Explanation {
    /// Who.
    pub client: Client,
    /// The event second that it was asked for.
    pub at_secs: i64,
    /// Whether the detector knows this client at all.
    pub known: bool,
    /// Length of the window in seconds.
    pub window_secs: u32,
    /// Requests in the window.
    pub requests: u32,
    /// Errors in the window.
    pub errors: u32,
    /// Requests per second over the window.
    pub rate: f64,
    /// The reference level it is held against.
    pub baseline: BaselineView,
    /// Every rule, in the order in which they are asked.
    pub rules: Vec<RuleView>,
    /// The most requested paths, most first, as far as they are remembered.
    pub top_paths: Vec<PathCount>,
}

/// A learned level.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BaselineView {
    /// Where it comes from: `rolling`, `hour_slot`, `floor`, `warm_up`.
    pub source: String,
    /// Mean, requests per second.
    pub mean: f64,
    /// Standard deviation, requests per second.
    pub stddev: f64,
    /// Mean of errors per second.
    pub error_mean: f64,
    /// How many samples (seconds of the server, or windows of clients) it is made of.
    pub samples: u64,
}

/// A client among the busiest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClientSummary {
    /// Who.
    pub client: Client,
    /// Requests in the last 60 s.
    pub requests: u32,
    /// Errors in the last 60 s.
    pub errors: u32,
    /// Requests per second.
    pub rate: f64,
    /// The rate's z-score against the reference level.
    pub z_score: f64,
}

/// The detector's own state.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DetectorStatus {
    /// Whether it only bans what needs no baseline yet (floods, probing, password guessing).
    pub warming_up: bool,
    /// Seconds of warm-up left, by event time.
    pub warm_up_left_secs: u32,
    /// The whole server's requests per second over the last 60 s.
    pub global_rate: f64,
    /// The whole server's errors per second over the last 60 s.
    pub global_error_rate: f64,
    /// The whole server's learned level.
    pub global: BaselineView,
    /// The learned level of one client, which the rate rules use with `reference = "adaptive"`.
    pub clients: BaselineView,
    /// Whether a global anomaly is on.
    pub global_anomaly: bool,
    /// Whether learning is frozen because of it.
    pub frozen: bool,
    /// Hour-of-day slots (UTC) with enough samples to be used.
    pub hour_slots: u32,
    /// Mean and standard deviation of requests per second of each hour-of-day slot, `None` where nothing was learned.
    pub hours: Vec<Option<(f64, f64)>>,
    /// Clients tracked now.
    pub clients_tracked: u64,
    /// Clients dropped from the table because it was full, since the start.
    pub evicted: u64,
    /// Bytes held for clients, about.
    pub clients_bytes: u64,
    /// Requests that came more than 5 min late, and so belong to no window.
    pub late: u64,
    /// The last event second seen.
    pub latest_secs: i64,
}

/// A change of the whole server's state.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GlobalChange {
    /// The global rate became anomalous.
    Started {
        /// In one line, with the numbers.
        condition: String,
        /// Requests per second.
        rate: f64,
        /// The baseline's mean.
        mean: f64,
        /// Its standard deviation.
        stddev: f64,
        /// The event second.
        at_secs: i64,
    },
    /// It is back to normal, or the new level was accepted.
    Ended {
        /// Requests per second.
        rate: f64,
        /// The baseline's mean.
        mean: f64,
        /// How long it lasted.
        lasted_secs: u64,
        /// The event second.
        at_secs: i64,
    },
}
