//! The lab's measurements, printed as one JSON object.

use std::time::Duration;

use serde::Serialize;

use crate::traffic::{Outcome, Sample, count_lost, latency_quantile};

/// All measurements. `None` stands for steps that were not reached.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// All steps succeeded.
    pub ok: bool,
    /// The step that failed, and its error.
    pub failed: Option<String>,
    /// From the first machine to the last check, in seconds.
    pub took_secs: f64,
    /// Lines of the history, from which the agent learns its baseline.
    pub history_lines: usize,
    /// The state of the XDP enforcer.
    pub xdp: Option<String>,
    /// The state of the iptables enforcer.
    pub iptables: Option<String>,
    /// The first ban.
    pub first_ban: Option<BanReport>,
    /// The attacker's requests during its ban.
    pub attacker_during_ban: Option<Answers>,
    /// The visitors' requests before the attack.
    pub bystanders_before: Option<Answers>,
    /// The visitors' requests from the start of the attack to the end of the ban.
    pub bystanders_during: Option<Answers>,
    /// The first ban's end.
    pub expiry: Option<Expiry>,
    /// The second ban.
    pub second_ban: Option<BanReport>,
    /// Leftovers on this machine at the end; empty after a clean run.
    pub residue: Vec<String>,
}

/// A ban. Times are in seconds after the lab saw the offending line in the log. The lab polls the log every millisecond, so
/// a time is slightly negative if the agent was faster.
#[derive(Debug, Clone, Serialize)]
pub struct BanReport {
    /// The number of the line that triggered the ban, counted from this attack's first line.
    pub offending_line: usize,
    /// That line, as nginx wrote it.
    pub line: String,
    /// From the attack's first line in the log to the offending one.
    pub detected_after_secs: f64,
    /// Until the agent's verdict, which has a resolution of a millisecond.
    pub verdict_secs: f64,
    /// Until `iptables -S SHIELD` listed the rule, its own run time included.
    pub iptables_secs: f64,
    /// Until the entry was in the XDP map.
    pub xdp_secs: f64,
    /// Until both enforcers dropped the client.
    pub ban_secs: f64,
    /// The detection rule that fired.
    pub rule: String,
    /// The rule's measured value and threshold.
    pub condition: String,
    /// The number of the client's offence.
    pub offence: u32,
    /// The ban's duration.
    pub term_secs: f64,
}

/// A summary of many requests.
#[derive(Debug, Clone, Serialize)]
pub struct Answers {
    /// All requests.
    pub requests: usize,
    /// Requests with an answer.
    pub answered: usize,
    /// Requests without an answer.
    pub lost: usize,
    /// Median latency of the answers.
    pub p50_ms: Option<f64>,
    /// 99th percentile of the latency of the answers.
    pub p99_ms: Option<f64>,
}

/// The end of the first ban. Times are in seconds after the end that the agent had announced; negative ones are earlier.
#[derive(Debug, Clone, Serialize)]
pub struct Expiry {
    /// Until the rule was gone.
    pub iptables_secs: f64,
    /// Until the map's entry was gone.
    pub xdp_secs: f64,
    /// Until a request of the attacker was answered.
    pub served_again_secs: f64,
}

impl Answers {
    /// Summarises these samples.
    pub fn of(samples: &[Sample]) -> Self {
        let lost = count_lost(samples);
        let ms = |share| latency_quantile(samples, share).map(|took: Duration| took.as_secs_f64() * 1e3);
        Self {
            requests: samples.len(),
            answered: samples.len() - lost,
            lost,
            p50_ms: ms(0.5),
            p99_ms: ms(0.99),
        }
    }

    /// The line that the story prints.
    pub fn summary(&self) -> String {
        let Self { requests, answered, lost, .. } = self;
        let latency = match (self.p50_ms, self.p99_ms) {
            (Some(p50), Some(p99)) => format!(", p50 {p50:.1} ms, p99 {p99:.1} ms"),
            _ => String::new(),
        };
        format!("{answered} of {requests} requests answered, {lost} lost{latency}")
    }
}

/// Returns whether every request was answered with status 200.
pub fn all_served(samples: &[Sample]) -> bool {
    samples.iter().all(|sample| matches!(sample.outcome, Outcome::Answered(200, _)))
}
