//! The settings of detection: switches and thresholds of all rules. `docs/detection.md` gives the reason and the measured
//! effect of each default.

use serde::{Deserialize, Serialize};

use ipnet::IpNet;

pub use crate::detect::exempt::{PathPattern, ServerName, SitePolicy};
use crate::vocab::verdict::Rule;

/// The distribution that a client's rate is compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reference {
    /// Rates of this site's clients: independent of their number.
    Adaptive,
    /// The whole server's requests per second, as Shield was first described.
    Classic,
}

impl Reference {
    /// The name in configuration and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Reference::Adaptive => "adaptive",
            Reference::Classic => "classic",
        }
    }
}

/// A setting that is on or off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Switch {
    /// Switched on.
    On,
    /// Switched off.
    Off,
}

impl Switch {
    /// Returns whether it is [`Switch::On`].
    pub fn is_on(self) -> bool {
        self == Switch::On
    }
}

/// The z-score rule: a rate more than `threshold` standard deviations above the mean.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ZScoreRule {
    /// Turns the rule on or off.
    pub switch: Switch,
    /// Standard deviations above the mean (> 0).
    pub threshold: f64,
    /// Requests in the window below which the rule does not fire.
    pub min_requests: u32,
}

/// The rate-multiplier rule: a rate above `multiplier` times the mean.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct RateMultiplierRule {
    /// Turns the rule on or off.
    pub switch: Switch,
    /// Multiple of the mean (> 1).
    pub multiplier: f64,
    /// Requests in the window below which the rule does not fire.
    pub min_requests: u32,
}

/// The tightening of the two rate rules for clients with many errors.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Tightening {
    /// Turns the tightening on or off.
    pub switch: Switch,
    /// The client's error rate must exceed this multiple of the baseline's (> 1).
    pub error_rate_multiplier: f64,
    /// The factor of both thresholds then (0..1).
    pub factor: f64,
}

/// The flood rule: absolute, without a baseline.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct FloodRule {
    /// Turns the rule on or off.
    pub switch: Switch,
    /// Pages (requests without assets) per second, held for `sustained_secs`.
    pub rate: f64,
    /// Seconds (1..=60) within which `rate * sustained_secs` pages make a flood.
    pub sustained_secs: u32,
    /// Requests for one page within `page_secs`.
    pub page_requests: u32,
    /// Seconds (1..=30) within which `page_requests` make a flood.
    pub page_secs: u32,
    /// Kinds of pages within 60 s, nearly none of them served.
    pub unserved_kinds: u32,
}

/// The score: all evidence against a client together. Needs no baseline.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct EvidenceScore {
    /// Points at which a new client is banned (> 0). A visitor with a page and its files needs twice as many, and a client
    /// served well for days up to eight times.
    pub threshold: f64,
}

/// The probing rule: what targets that failed or that no page links to add to the score.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ProbingRule {
    /// Turns the rule on or off.
    pub switch: Switch,
}

/// The error-surge rule: failures far above the baseline, by a client that mostly fails.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ErrorSurgeRule {
    /// Turns the rule on or off.
    pub switch: Switch,
    /// Refused requests (status 4xx) in the window below which the rule does not fire.
    pub min_errors: u32,
    /// The client's error rate must exceed this multiple of the baseline's (> 1).
    pub error_rate_multiplier: f64,
    /// Malformed requests in the window (binary, `CONNECT`, status 400 before a path was read); those that a health check
    /// or an office program may make count 0.3. Needs no baseline.
    pub malformed_requests: u32,
}

/// The behaviour rule: failed logins, and features of a window unlike this site's clients.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct BehaviourRule {
    /// Turns the rule on or off.
    pub switch: Switch,
    /// Failed logins in the window. Needs no baseline.
    pub logins: u32,
    /// Failed logins within `login_burst_secs`.
    pub login_burst: u32,
    /// Seconds (1..=60) within which `login_burst` counts.
    pub login_burst_secs: u32,
    /// Remote calls (`xmlrpc.php`) posted in the window. Needs no baseline.
    pub remote_calls: u32,
    /// The least number of distinct pages in the window that can fire.
    pub min_paths: u32,
    /// The least number of POSTs to one target in the window that can fire.
    pub min_posts: u32,
    /// The least number of requests for one page in the window that can fire.
    pub min_repeats: u32,
    /// Standard deviations above the mean of the logarithm, over this site's clients (> 0).
    pub z_threshold: f64,
    /// Multiple of the typical value of this site's clients (> 1).
    pub multiplier: f64,
    /// Multiple of the highest precedent that other clients set (> 1).
    pub precedent_multiplier: f64,
    /// Seconds of event time before a lack of precedents counts, here and in `error_surge`.
    pub experience_secs: u32,
}

/// The global anomaly of the whole server's rate. Only announced; bans nobody.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct GlobalRule {
    /// Turns the rule on or off.
    pub switch: Switch,
    /// Standard deviations above the mean (> 0).
    pub z_threshold: f64,
    /// Multiple of the mean (> 1).
    pub multiplier: f64,
    /// Requests per second below which the rule does not fire.
    pub min_rate: f64,
    /// Seconds that the rate must be high before the start is announced.
    pub start_secs: u32,
    /// Seconds that the rate must be low before the end is announced.
    pub end_secs: u32,
}

/// All settings of detection.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Policy {
    /// See [`Reference`].
    pub reference: Reference,
    /// Weight of an asset in a client's rate (0..=1), with `reference = "adaptive"`.
    pub asset_weight: f64,
    /// See [`ZScoreRule`].
    pub z_score: ZScoreRule,
    /// See [`RateMultiplierRule`].
    pub rate_multiplier: RateMultiplierRule,
    /// See [`Tightening`].
    pub tightening: Tightening,
    /// See [`FloodRule`].
    pub flood: FloodRule,
    /// See [`EvidenceScore`].
    pub evidence: EvidenceScore,
    /// See [`ProbingRule`].
    pub probing: ProbingRule,
    /// See [`ErrorSurgeRule`].
    pub error_surge: ErrorSurgeRule,
    /// See [`BehaviourRule`].
    pub behaviour: BehaviourRule,
    /// See [`GlobalRule`].
    pub global: GlobalRule,
    /// Paths, as served and without the query, that are not judged: requests for them count in the totals only.
    pub ignore_paths: Vec<PathPattern>,
    /// Paths at which a refusal (4xx) is expected and no failure, as in a cache; a flood of them is one.
    pub expected_misses: Vec<PathPattern>,
    /// Addresses and networks of monitors, which are not judged.
    pub monitors: Vec<IpNet>,
    /// What holds for single sites besides.
    #[serde(default)]
    pub sites: Vec<SitePolicy>,
    /// Rules that only report what they would ban, and whose evidence adds nothing to a ban.
    pub observe: Vec<Rule>,
    /// Statuses of this server's own answers to banned or limited clients, which are no errors.
    pub not_errors: Vec<u16>,
    /// The most clients tracked (>= 1); beyond it, those quiet longest are evicted.
    pub max_clients: usize,
    /// Seconds of event time before the baseline is used; until then only absolute rules ban.
    pub warm_up_secs: u32,
    /// Samples an hour-of-day slot must hold before it is preferred to the rolling window.
    pub baseline_min_samples: u32,
    /// Seconds of a global anomaly after which the new level is learned; with 0 an anomaly is learned like all traffic.
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
            flood: FloodRule {
                switch: on,
                rate: 20.0,
                sustained_secs: 60,
                page_requests: 40,
                page_secs: 3,
                unserved_kinds: 60,
            },
            evidence: EvidenceScore { threshold: 12.0 },
            probing: ProbingRule { switch: on },
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
            ignore_paths: Vec::new(),
            expected_misses: Vec::new(),
            monitors: Vec::new(),
            sites: Vec::new(),
            observe: Vec::new(),
            not_errors: Vec::new(),
            max_clients: 1_000_000,
            warm_up_secs: 600,
            baseline_min_samples: 600,
            max_freeze_secs: 1800,
        }
    }
}

impl Policy {
    /// Whether evidence attributed to this rule counts towards the score.
    pub(crate) fn counts(&self, rule: Rule) -> bool {
        match rule {
            Rule::Probing => self.probing.switch.is_on(),
            Rule::ErrorSurge => self.error_surge.switch.is_on(),
            Rule::Behaviour => self.behaviour.switch.is_on(),
            _ => false,
        }
    }

    /// Whether any evidence counts.
    pub(crate) fn scores(&self) -> bool {
        [Rule::Probing, Rule::ErrorSurge, Rule::Behaviour].into_iter().any(|rule| self.counts(rule))
    }

    /// The behaviour and numbers of Shield as first described: the two rate rules against the whole server's rate,
    /// tightened by errors, and nothing else.
    pub fn classic() -> Policy {
        let (off, default) = (Switch::Off, Policy::default());
        Policy {
            reference: Reference::Classic,
            asset_weight: 1.0,
            z_score: ZScoreRule { switch: Switch::On, threshold: 2.0, min_requests: 0 },
            rate_multiplier: RateMultiplierRule { switch: Switch::On, multiplier: 2.0, min_requests: 0 },
            flood: FloodRule { switch: off, ..default.flood },
            probing: ProbingRule { switch: off },
            error_surge: ErrorSurgeRule { switch: off, ..default.error_surge },
            behaviour: BehaviourRule { switch: off, ..default.behaviour },
            warm_up_secs: 0,
            max_freeze_secs: 0,
            ..default
        }
    }
}
