//! The detector's verdict and its evidence: everything that an alert or an appeal needs.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::vocab::policy::PolicyWord;

/// A detection rule, or another origin of a ban.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(rename = "RuleName"))]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    /// The rate's z-score against the baseline.
    ZScore,
    /// The rate against a multiple of the baseline's mean.
    RateMultiplier,
    /// Failures in the window against the baseline's error rate.
    ErrorSurge,
    /// Distinct failed paths, or paths that only attackers request.
    Probing,
    /// An absolute rate: needs no baseline, so it fires during warm-up too.
    Flood,
    /// A mix of features (paths, repeats, share of static files) unlike this site's clients.
    Behaviour,
    Operator,
    Imported,
    /// Several clients of one network were banned within a short time.
    Network,
    /// Another host banned it.
    Remote,
    /// It is on a blocklist that is read by URL.
    Blocklist,
    /// CrowdSec banned it.
    Crowdsec,
}

impl Rule {
    /// Every rule.
    pub const ALL: [Rule; 12] = [
        Rule::ZScore,
        Rule::RateMultiplier,
        Rule::ErrorSurge,
        Rule::Probing,
        Rule::Flood,
        Rule::Behaviour,
        Rule::Operator,
        Rule::Imported,
        Rule::Network,
        Rule::Remote,
        Rule::Blocklist,
        Rule::Crowdsec,
    ];

    /// The name in configuration, metrics, JSON and on the page.
    pub fn name(self) -> &'static str {
        match self {
            Rule::ZScore => "z_score",
            Rule::RateMultiplier => "rate_multiplier",
            Rule::ErrorSurge => "error_surge",
            Rule::Probing => "probing",
            Rule::Flood => "flood",
            Rule::Behaviour => "behaviour",
            Rule::Operator => "operator",
            Rule::Imported => "imported",
            Rule::Network => "network",
            Rule::Remote => "remote",
            Rule::Blocklist => "blocklist",
            Rule::Crowdsec => "crowdsec",
        }
    }

    /// Whether the detector made the ban, and not a person, a list or another host.
    pub fn is_detected(self) -> bool {
        !matches!(self, Rule::Operator | Rule::Imported) && !self.is_remote()
    }

    /// Whether others want the ban: it ends when they no longer do, and is never told to a fleet.
    pub fn is_remote(self) -> bool {
        self == Rule::Remote || self.is_listed()
    }

    /// Whether the ban is one of a list's, read by itself or imported.
    pub fn is_of_a_list(self) -> bool {
        self == Rule::Imported || self.is_listed()
    }

    /// Whether the client stands on a list: one of many thousand, of whom most never come here.
    pub fn is_listed(self) -> bool {
        matches!(self, Rule::Blocklist | Rule::Crowdsec)
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A path with its requests in the window. Lossy UTF-8 of bounded length.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct PathCount {
    pub path: String,
    pub count: u32,
}

/// A measured value beside its threshold.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Measure {
    /// `rate`, `errors_60s`, `failed_paths_600s`…
    pub name: String,
    pub value: f64,
    /// The threshold in force, already lowered when [`Evidence::tightened`].
    pub threshold: f64,
}

/// One entry of a client's account: what was charged, and what is left of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Charged {
    /// `probes`, `failed_paths`, `malformed_requests`…
    pub kind: String,
    /// The path, as far as it is remembered. Lossy UTF-8 of bounded length.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// What is left of its points.
    pub points: f64,
    /// The log's time of the request, in Unix seconds.
    pub at_secs: i64,
}

/// The grounds of an anomalous verdict.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Evidence {
    /// The first rule that fired.
    pub rule: Rule,
    /// One line with the numbers: `z-score=5.43 > threshold=2.0`.
    pub condition: String,
    /// The client's requests per second over the window.
    pub rate: f64,
    /// The baseline's mean, in requests per second.
    pub mean: f64,
    /// The baseline's standard deviation, in requests per second.
    pub stddev: f64,
    /// (rate - mean) / stddev.
    pub z_score: f64,
    /// The threshold of the rule that fired.
    pub threshold: f64,
    /// Whether an error surge lowered the thresholds.
    pub tightened: bool,
    /// `rolling`, `hour_slot`, `floor` or `warm_up`.
    pub baseline: String,
    pub window_secs: u32,
    /// The client's requests in the window.
    pub requests: u32,
    /// The client's errors in the window: status >= 400, without those configured as our own answers.
    pub errors: u32,
    /// Every value that the rule uses, beside its threshold.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub measures: Vec<Measure>,
    /// The most requested paths in the window, most requested first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub top_paths: Vec<PathCount>,
    /// What weighs most in the client's score, weightiest first. Bounded: it need not add up to the score.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub account: Vec<Charged>,
    /// The client's last log lines before the ban, as they were written, oldest first. Filled in by whoever reads the log, of a
    /// ban in the database alone: a query string may hold a secret.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lines: Vec<String>,
    /// The sites that its last requests went to, by the names of the server sections, most asked for first. Filled in by whoever
    /// reads the log, as far as it names them; bounded.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sites: Vec<String>,
    /// What the operators' own rules say about it, once they were asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<Box<PolicyWord>>,
    /// The reason why the client is only reported and not banned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observe: Option<String>,
    /// The log's time of the request that made the rule fire, in Unix seconds.
    pub at_secs: i64,
}

/// The detector's verdict about a client after one request.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    Normal,
    /// Boxed, because nearly every verdict is `Normal`.
    Anomalous(Box<Evidence>),
}
