//! What the lab measured: one JSON object.

use std::time::Duration;

use serde::Serialize;

use crate::traffic::{Outcome, Sample, latency_quantile, lost};

/// Everything. `None` is what was not reached.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// Whether every step happened.
    pub ok: bool,
    /// The step that did not, and why.
    pub failed: Option<String>,
    /// From the first machine to the last proof, in seconds.
    pub took_secs: f64,
    /// Past log lines that the agent learned from.
    pub history_lines: usize,
    /// How XDP is attached.
    pub xdp: Option<String>,
    /// How iptables is set up.
    pub iptables: Option<String>,
    /// The first ban.
    pub first_ban: Option<BanReport>,
    /// What became of the attacker while banned.
    pub attacker_during_ban: Option<Answers>,
    /// The visitors before the attack.
    pub bystanders_before: Option<Answers>,
    /// The visitors from the attack's beginning to the ban's end.
    pub bystanders_during: Option<Answers>,
    /// The first ban's end.
    pub expiry: Option<Expiry>,
    /// The second ban.
    pub second_ban: Option<BanReport>,
    /// What was left on this machine at the end. Empty when all is well.
    pub residue: Vec<String>,
}

/// One ban, all times in seconds after the lab saw the offending line in the log. It looks every millisecond, so a time can
/// be slightly negative: the agent was quicker than the lab's own look.
#[derive(Debug, Clone, Serialize)]
pub struct BanReport {
    /// Which line of the attacker (counted from this attack's first) was one too many.
    pub offending_line: usize,
    /// That line, as nginx wrote it.
    pub line: String,
    /// From the attack's first line in the log to the offending one: what the detector needed to be sure.
    pub detected_after_secs: f64,
    /// Until the agent's verdict (its clock has milliseconds).
    pub verdict_secs: f64,
    /// Until the rule stood in `iptables -S SHIELD`, the asking included.
    pub iptables_secs: f64,
    /// Until the entry was in the XDP map.
    pub xdp_secs: f64,
    /// Until both.
    pub ban_secs: f64,
    /// Which rule fired.
    pub rule: String,
    /// Its numbers.
    pub condition: String,
    /// Which offence of the client.
    pub offence: u32,
    /// How long it is to last.
    pub term_secs: f64,
}

/// What came of many requests.
#[derive(Debug, Clone, Serialize)]
pub struct Answers {
    /// Requests made.
    pub requests: usize,
    /// Of them answered.
    pub answered: usize,
    /// Of them without any answer.
    pub lost: usize,
    /// Half of the answers took at most so long, in milliseconds.
    pub p50_ms: Option<f64>,
    /// 99 % of the answers took at most so long, in milliseconds.
    pub p99_ms: Option<f64>,
}

/// The end of the first ban, in seconds after the end that the agent had announced (negative: earlier).
#[derive(Debug, Clone, Serialize)]
pub struct Expiry {
    /// Until the rule was gone.
    pub iptables_secs: f64,
    /// Until the map's entry was gone.
    pub xdp_secs: f64,
    /// Until the attacker got an answer again.
    pub served_again_secs: f64,
}

impl Answers {
    /// Of these samples.
    pub fn of(samples: &[Sample]) -> Self {
        let lost = lost(samples);
        let ms = |share| latency_quantile(samples, share).map(|took: Duration| took.as_secs_f64() * 1e3);
        Self {
            requests: samples.len(),
            answered: samples.len() - lost,
            lost,
            p50_ms: ms(0.5),
            p99_ms: ms(0.99),
        }
    }

    /// For the story.
    pub fn in_words(&self) -> String {
        let Self { requests, answered, lost, .. } = self;
        let latency = match (self.p50_ms, self.p99_ms) {
            (Some(p50), Some(p99)) => format!(", p50 {p50:.1} ms, p99 {p99:.1} ms"),
            _ => String::new(),
        };
        format!("{answered} of {requests} requests answered, {lost} lost{latency}")
    }
}

/// Whether every one of these was an answer with status 200.
pub fn all_served(samples: &[Sample]) -> bool {
    samples.iter().all(|sample| matches!(sample.outcome, Outcome::Answered(200, _)))
}
