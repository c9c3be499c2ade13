//! What the detector answers, and the evidence that explains it: everything an alert or an appeal needs.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A detection rule. Each has its own switch, thresholds and evidence.
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
    /// Distinct failed paths.
    Probing,
    /// An absolute flood: needs nothing learned, so it bans during warm-up too.
    Flood,
    /// A spread of features (paths, repeats, share of static files) unlike this site's clients.
    Behaviour,
    /// Banned by hand.
    Operator,
    /// Taken from an imported list.
    Imported,
    /// Several clients of one network were banned within a short time.
    Network,
}

impl Rule {
    /// The name used in configuration, metrics, JSON and on the page.
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
        }
    }

    /// Whether a verdict of the detector, rather than a person or a list, stands behind it: only those are offences.
    pub fn is_detected(self) -> bool {
        !matches!(self, Rule::Operator | Rule::Imported)
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A path and how often the client asked for it in the window. Lossy UTF-8, cut to a bounded length.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct PathCount {
    /// The path.
    pub path: String,
    /// Requests for it in the window.
    pub count: u32,
}

/// One measured value beside the threshold it was held against.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Measure {
    /// What was measured, in the field's words: `rate`, `errors_60s`, `failed_paths_600s`…
    pub name: String,
    /// Its value.
    pub value: f64,
    /// The threshold in force (already tightened when `Evidence::tightened`).
    pub threshold: f64,
}

/// Why a client was found anomalous.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Evidence {
    /// The rule that fired first.
    pub rule: Rule,
    /// In one line, with the numbers: `z-score=5.43 > threshold=2.0`.
    pub condition: String,
    /// The client's rate over the window, in requests per second.
    pub rate: f64,
    /// The baseline's mean that it was held against, in requests per second.
    pub mean: f64,
    /// The baseline's standard deviation, in requests per second.
    pub stddev: f64,
    /// (rate - mean) / stddev.
    pub z_score: f64,
    /// The threshold of the rule that fired.
    pub threshold: f64,
    /// Whether an error surge tightened the thresholds.
    pub tightened: bool,
    /// What the baseline was: `rolling`, `hour_slot`, `floor`, `warm_up`.
    pub baseline: String,
    /// Length of the window in seconds.
    pub window_secs: u32,
    /// The client's requests in the window.
    pub requests: u32,
    /// Its errors (status >= 400, less those configured as our own answers) in the window.
    pub errors: u32,
    /// Every value that the rule looked at, beside its threshold.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub measures: Vec<Measure>,
    /// The most requested paths in the window, most first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub top_paths: Vec<PathCount>,
    /// The log's time of the request that tipped it, in Unix seconds.
    pub at_secs: i64,
}

/// The detector's answer about one client after one request.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// Like this site's traffic.
    Normal,
    /// Not like it, with the evidence (boxed: nearly every answer is `Normal`).
    Anomalous(Box<Evidence>),
}
