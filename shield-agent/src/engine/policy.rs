//! What the detector is told to do: every rule's switch and thresholds, with the defaults that were measured.
//!
//! Nothing here decides anything; `rules.rs` does. Why each default is what it is stands in `docs/detection.md`.

use serde::{Deserialize, Serialize};

/// What one client's rate is compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reference {
    /// The distribution of the rates of this site's clients: does not depend on how many clients there are.
    Adaptive,
    /// The whole server's requests a second, as Shield was first described.
    Classic,
}

/// Whether something is switched on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Switch {
    /// It is.
    On,
    /// It is not.
    Off,
}

impl Switch {
    /// Whether it is on.
    pub fn is_on(self) -> bool {
        self == Switch::On
    }
}

/// The z-score rule: rate further than `threshold` standard deviations above the mean.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ZScoreRule {
    /// Whether it is asked.
    pub switch: Switch,
    /// Standard deviations above the mean (> 0).
    pub threshold: f64,
    /// Requests in the window below which it is not asked.
    pub min_requests: u32,
}

/// The rate-multiplier rule: rate above `multiplier` times the mean.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct RateMultiplierRule {
    /// Whether it is asked.
    pub switch: Switch,
    /// How many times the mean (> 1).
    pub multiplier: f64,
    /// Requests in the window below which it is not asked.
    pub min_requests: u32,
}

/// When many errors tighten the two rate rules.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Tightening {
    /// Whether they do.
    pub switch: Switch,
    /// The client's error rate above so many times the baseline's error rate (> 1).
    pub error_rate_multiplier: f64,
    /// What both thresholds are multiplied by then (0..1).
    pub factor: f64,
}

/// The absolute flood rule, the only one that bans during warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct FloodRule {
    /// Whether it is asked.
    pub switch: Switch,
    /// Requests per second ...
    pub rate: f64,
    /// ... held for so many seconds.
    pub sustained_secs: u32,
}

/// Every setting of detection.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Policy {
    /// What the rate rules compare with.
    pub reference: Reference,
    /// See [`ZScoreRule`].
    pub z_score: ZScoreRule,
    /// See [`RateMultiplierRule`].
    pub rate_multiplier: RateMultiplierRule,
    /// See [`Tightening`].
    pub tightening: Tightening,
    /// See [`FloodRule`].
    pub flood: FloodRule,
    /// Statuses that are this server's own answers to banned or limited clients, and so no errors.
    pub not_errors: Vec<u16>,
    /// Clients kept at most (>= 1); beyond it the coldest go.
    pub max_clients: usize,
    /// Seconds of baseline below which only [`Policy::flood`] bans.
    pub warm_up_secs: u32,
    /// Seconds an hour-of-day slot must have seen before it is preferred to the rolling window.
    pub baseline_min_samples: u32,
    /// Seconds after which a changed level is accepted as the new one, however anomalous.
    pub max_freeze_secs: u32,
}

impl Default for Policy {
    fn default() -> Policy {
        Policy {
            reference: Reference::Adaptive,
            z_score: ZScoreRule { switch: Switch::On, threshold: 6.0, min_requests: 100 },
            rate_multiplier: RateMultiplierRule { switch: Switch::On, multiplier: 10.0, min_requests: 100 },
            tightening: Tightening { switch: Switch::On, error_rate_multiplier: 3.0, factor: 0.6 },
            flood: FloodRule { switch: Switch::On, rate: 20.0, sustained_secs: 10 },
            not_errors: Vec::new(),
            max_clients: 1_000_000,
            warm_up_secs: 600,
            baseline_min_samples: 600,
            max_freeze_secs: 1800,
        }
    }
}

impl Policy {
    /// Exactly the behaviour as Shield was first described, with its numbers: two rules on the rate against the whole
    /// server's, tightened by errors, and nothing else.
    pub fn classic() -> Policy {
        Policy {
            reference: Reference::Classic,
            z_score: ZScoreRule { switch: Switch::On, threshold: 2.0, min_requests: 0 },
            rate_multiplier: RateMultiplierRule { switch: Switch::On, multiplier: 2.0, min_requests: 0 },
            flood: FloodRule { switch: Switch::Off, ..Policy::default().flood },
            warm_up_secs: 0,
            ..Policy::default()
        }
    }
}
