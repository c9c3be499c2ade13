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

impl Reference {
    /// The name used in configuration and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Reference::Adaptive => "adaptive",
            Reference::Classic => "classic",
        }
    }
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

/// The absolute flood rule: needs nothing learned.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct FloodRule {
    /// Whether it is asked.
    pub switch: Switch,
    /// Pages (all but assets) per second ...
    pub rate: f64,
    /// ... held for so many seconds (1..=60): `rate * sustained_secs` pages within them.
    pub sustained_secs: u32,
    /// Requests for one and the same page ...
    pub page_requests: u32,
    /// ... within so many seconds (1..=30).
    pub page_secs: u32,
}

/// The probing rule: distinct targets that failed or that no page links to. Needs nothing learned.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ProbingRule {
    /// Whether it is asked.
    pub switch: Switch,
    /// Over 60 s, in failed paths (a target shaped like a probe weighs up to three).
    pub threshold_60s: f64,
    /// The same over 10 min.
    pub threshold_600s: f64,
    /// Distinct scripts in the window that were all answered alike, whatever the answer.
    pub alike_scripts: u32,
}

/// The error-surge rule: failures far above the baseline, and most of what the client does.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ErrorSurgeRule {
    /// Whether it is asked.
    pub switch: Switch,
    /// Refused requests (status 4xx) in the window below which it is not asked.
    pub min_errors: u32,
    /// The client's error rate above so many times the baseline's error rate (> 1).
    pub error_rate_multiplier: f64,
    /// Requests that are none (binary, `CONNECT`, status 400 before a path was read) in the window; those that may be a
    /// health check's or an office program's count 0.3. Needs nothing learned.
    pub malformed_requests: u32,
}

/// The behaviour rule: repeated passwords, and features of a window unlike this site's clients.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct BehaviourRule {
    /// Whether it is asked.
    pub switch: Switch,
    /// Passwords posted in vain in the window; needs nothing learned.
    pub logins: u32,
    /// Passwords posted in vain ...
    pub login_burst: u32,
    /// ... within so many seconds (1..=60).
    pub login_burst_secs: u32,
    /// Remote calls (`xmlrpc.php`) posted in the window; needs nothing learned.
    pub remote_calls: u32,
    /// Distinct pages in the window below which their number is not judged.
    pub min_paths: u32,
    /// POSTs to one target in the window below which their number is not judged.
    pub min_posts: u32,
    /// Requests for one page in the window below which their number is not judged.
    pub min_repeats: u32,
    /// Standard deviations above the mean of the logarithm, over this site's clients (> 0).
    pub z_threshold: f64,
    /// How many times what is typical for this site's clients (> 1).
    pub multiplier: f64,
    /// How many times what other clients of this site were seen doing before (> 1).
    pub precedent_multiplier: f64,
    /// Seconds of event time before the lack of a precedent counts, here and in `error_surge`.
    pub experience_secs: u32,
}

/// When the whole server's rate is announced as anomalous. Bans nobody.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct GlobalRule {
    /// Whether it is asked.
    pub switch: Switch,
    /// Standard deviations above the mean (> 0).
    pub z_threshold: f64,
    /// How many times the mean (> 1).
    pub multiplier: f64,
    /// Requests per second below which it is not asked.
    pub min_rate: f64,
    /// Seconds it must last before it is announced.
    pub start_secs: u32,
    /// Seconds it must be over before its end is.
    pub end_secs: u32,
}

/// Every setting of detection.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Policy {
    /// What the rate rules compare with.
    pub reference: Reference,
    /// What a request for an asset counts in a client's rate (0..=1), with `reference = "adaptive"`.
    pub asset_weight: f64,
    /// See [`ZScoreRule`].
    pub z_score: ZScoreRule,
    /// See [`RateMultiplierRule`].
    pub rate_multiplier: RateMultiplierRule,
    /// See [`Tightening`].
    pub tightening: Tightening,
    /// See [`FloodRule`].
    pub flood: FloodRule,
    /// See [`ProbingRule`].
    pub probing: ProbingRule,
    /// See [`ErrorSurgeRule`].
    pub error_surge: ErrorSurgeRule,
    /// See [`BehaviourRule`].
    pub behaviour: BehaviourRule,
    /// See [`GlobalRule`].
    pub global: GlobalRule,
    /// Statuses that are this server's own answers to banned or limited clients, and so no errors.
    pub not_errors: Vec<u16>,
    /// Clients kept at most (>= 1); beyond it the coldest go.
    pub max_clients: usize,
    /// Seconds of event time before anything learned is used: until then only absolute rules ban.
    pub warm_up_secs: u32,
    /// Samples an hour-of-day slot must hold before it is preferred to the rolling window.
    pub baseline_min_samples: u32,
    /// Seconds of a global anomaly after which the new level is accepted as real; 0: a global anomaly is learned as
    /// everything else is.
    pub max_freeze_secs: u32,
}

impl Default for Policy {
    fn default() -> Policy {
        let on = Switch::On;
        Policy {
            reference: Reference::Adaptive,
            asset_weight: 0.1,
            z_score: ZScoreRule { switch: on, threshold: 6.0, min_requests: 600 },
            rate_multiplier: RateMultiplierRule { switch: on, multiplier: 10.0, min_requests: 600 },
            tightening: Tightening { switch: on, error_rate_multiplier: 3.0, factor: 0.6 },
            flood: FloodRule { switch: on, rate: 20.0, sustained_secs: 60, page_requests: 40, page_secs: 3 },
            probing: ProbingRule { switch: on, threshold_60s: 13.0, threshold_600s: 30.0, alike_scripts: 20 },
            error_surge: ErrorSurgeRule {
                switch: on,
                min_errors: 120,
                error_rate_multiplier: 3.0,
                malformed_requests: 10,
            },
            behaviour: BehaviourRule {
                switch: on,
                logins: 30,
                login_burst: 7,
                login_burst_secs: 5,
                remote_calls: 35,
                min_paths: 120,
                min_posts: 90,
                min_repeats: 150,
                z_threshold: 4.0,
                multiplier: 8.0,
                precedent_multiplier: 2.0,
                experience_secs: 21_600,
            },
            global: GlobalRule {
                switch: on,
                z_threshold: 3.0,
                multiplier: 3.0,
                min_rate: 5.0,
                start_secs: 5,
                end_secs: 60,
            },
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
        let (off, default) = (Switch::Off, Policy::default());
        Policy {
            reference: Reference::Classic,
            asset_weight: 1.0,
            z_score: ZScoreRule { switch: Switch::On, threshold: 2.0, min_requests: 0 },
            rate_multiplier: RateMultiplierRule { switch: Switch::On, multiplier: 2.0, min_requests: 0 },
            flood: FloodRule { switch: off, ..default.flood },
            probing: ProbingRule { switch: off, ..default.probing },
            error_surge: ErrorSurgeRule { switch: off, ..default.error_surge },
            behaviour: BehaviourRule { switch: off, ..default.behaviour },
            warm_up_secs: 0,
            max_freeze_secs: 0,
            ..default
        }
    }
}
