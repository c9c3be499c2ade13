//! The operators' own rules, written in Rego, about three decisions: whether a verdict becomes a ban, whether the agent may start to
//! enforce, and whether a configuration may go live. See `docs/policy.md`.
//!
//! `bundle` reads the files, `evaluate` runs them, `worker` does so in a process of its own and `asking` is the other end of its
//! pipes: a rule that loops, recurses without end or eats memory costs that process and nothing else. `service` asks about bans, `gate` is
//! the decision before the start, `promote` that before a configuration goes live, and `suite` runs the rules' own tests.

pub(crate) mod asking;
pub(crate) mod ban;
pub(crate) mod blocked;
pub(crate) mod bundle;
pub(crate) mod evaluate;
pub(crate) mod gate;
pub(crate) mod promote;
pub(crate) mod service;
pub(crate) mod suite;
pub(crate) mod worker;

use std::path::PathBuf;
use std::time::Duration;

use shield_engine::operator_rules::PolicyAction;

/// How long one decision may take.
pub(crate) const LIMIT: Duration = Duration::from_millis(5);
/// The same where nobody waits for it but an operator.
const UNHURRIED: Duration = Duration::from_millis(100);

/// Where the rules are, and what holds without them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Without one nobody is asked.
    pub dir: Option<PathBuf>,
    /// What becomes of a verdict of which the rules cannot say anything.
    pub on_error: PolicyAction,
}

impl Settings {
    /// As in the configuration.
    pub(crate) fn on_error_name(&self) -> &'static str {
        match self.on_error {
            PolicyAction::Ban => "keep",
            PolicyAction::Observe => "observe",
            PolicyAction::Slow => "slow",
        }
    }
}

/// A decision that rules are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Point {
    /// Whether a verdict becomes a ban
    Ban,
    /// Whether the agent may start to enforce
    Start,
    /// Whether a configuration may go live
    Promote,
}

impl Point {
    /// The package that answers.
    pub(crate) fn package(self) -> &'static str {
        match self {
            Point::Ban => "data.shield.ban",
            Point::Start => "data.shield.start",
            Point::Promote => "data.shield.promote",
        }
    }

    /// The rule that answers.
    pub(crate) fn rule(self) -> &'static str {
        match self {
            Point::Ban => "data.shield.ban.decision",
            Point::Start => "data.shield.start.deny",
            Point::Promote => "data.shield.promote.deny",
        }
    }

    /// How long a decision about it may take.
    pub(crate) fn limit(self) -> Duration {
        match self {
            Point::Ban | Point::Start => LIMIT,
            Point::Promote => UNHURRIED,
        }
    }

    /// A document as it is asked with, for trying rules.
    pub(crate) fn sample(self) -> serde_json::Value {
        let text = match self {
            Point::Ban => include_str!("samples/ban.json"),
            Point::Start => include_str!("samples/start.json"),
            Point::Promote => include_str!("samples/promote.json"),
        };
        serde_json::from_str(text).expect("a test reads every sample")
    }
}

/// Reasons of a set that are told at most, and the length of each.
const MAX_REASONS: usize = 20;
const MAX_REASON_CHARS: usize = 300;

/// The texts of a point's set of reasons. No value is no reason.
///
/// # Errors
/// When the answer is no set.
fn reasons(point: Point, answer: Option<serde_json::Value>) -> Result<Vec<String>, String> {
    use serde_json::Value;
    let reasons = match answer {
        None => return Ok(Vec::new()),
        Some(Value::Array(reasons)) => reasons,
        Some(other) => return Err(format!("{} is {other} and no set of texts", point.rule())),
    };
    let text = |reason: &Value| {
        let text = reason.as_str().map_or_else(|| reason.to_string(), str::to_owned);
        words(&text, MAX_REASON_CHARS)
    };
    Ok(reasons.iter().take(MAX_REASONS).map(text).collect())
}

/// A rule's words as they can be shown: one line, bounded.
fn words(text: &str, max_chars: usize) -> String {
    let plain = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    plain.take(max_chars).collect::<String>().trim().to_owned()
}

/// This host's name; empty where it has none.
pub(crate) fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::ValueEnum as _;

    #[test]
    fn every_sample_can_be_read() {
        for point in Point::value_variants() {
            assert!(point.sample().is_object());
        }
    }
}
