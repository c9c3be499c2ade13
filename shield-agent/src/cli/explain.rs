//! `shield-agent explain CLIENT`: the reasons why a client is banned or not, from the running agent.

use anyhow::Result;
use clap::Args;

use super::client::AgentClient;
use super::print::{self, Colour, Style};
use super::reply::{Format, JsonArg};
use super::{Exit, args};
use crate::api::operation::Operation;
use crate::api::types::{Explanation, PastBan, RuleState};
use crate::text::{self, counted, duration, per_sec};
use shield_engine::client::Client;

#[derive(Debug, Clone, Args)]
pub struct ExplainArgs {
    /// An address or a network
    #[arg(value_name = "CLIENT")]
    client: Client,
    /// At this time, from the record: 2026-05-11T22:07:33Z, or a date and time in this host's time zone
    #[arg(long, value_name = "TIME", value_parser = args::moment, allow_hyphen_values = true)]
    at: Option<i64>,
    #[command(flatten)]
    json: JsonArg,
}

/// The moment that is explained.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Moment {
    Now,
    Past,
}

/// Separates the record of a past moment from values that are only known for the present.
const AS_OF_NOW: &str = "Current values, not those of that time (the audit log keeps each ban's evidence):";

impl ExplainArgs {
    fn moment(&self) -> Moment {
        if self.at.is_some() { Moment::Past } else { Moment::Now }
    }
}

pub(crate) async fn run(args: &ExplainArgs, client: &AgentClient) -> Result<Exit> {
    let mut params = vec![("client", args.client.to_string())];
    params.extend(args.at.map(|at| ("at", at.to_string())));
    let explanation: Explanation = client.get(Operation::Explain, &params).await?;
    match args.json.format() {
        Format::Json => print::json(&explanation)?,
        Format::Text => print::text(&render(&explanation, args.moment(), Colour::of_stdout()))?,
    }
    Ok(Exit::Done)
}

pub(crate) fn render(explanation: &Explanation, moment: Moment, colour: Colour) -> String {
    let mut lines = vec![colour.paint(Style::Bold, &explanation.words), String::new()];
    lines.extend(record(explanation));
    if moment == Moment::Past {
        lines.extend([String::new(), AS_OF_NOW.to_owned()]);
    }
    lines.extend(current(explanation));
    lines.extend(explanation.rules.iter().map(|rule| rule_line(rule, colour)));
    if !explanation.top_paths.is_empty() {
        lines.push(String::new());
        lines.push("Most requested paths:".to_owned());
        let path = |path: &shield_engine::verdict::PathCount| {
            format!("  {:>6}  {}", path.count, text::printable(&path.path))
        };
        lines.extend(explanation.top_paths.iter().map(path));
    }
    if !explanation.history.is_empty() {
        lines.push(String::new());
        lines.push("Earlier bans:".to_owned());
        lines.extend(explanation.history.iter().map(past_line));
    }
    lines.join("\n") + "\n"
}

/// Lines that hold for the moment explained.
fn record(explanation: &Explanation) -> Vec<String> {
    let mut lines = vec![format!("at         {}", text::utc(explanation.at_ms))];
    if let Some(ban) = &explanation.ban {
        let left = ban
            .remaining_secs
            .map_or("permanently".to_owned(), |secs| format!("for another {}", duration(secs)));
        lines.push(format!("banned     since {}, {left}", text::utc(ban.since_ms)));
        lines.push(format!("in force   {}", text::held_by(ban.enforced_by.as_deref())));
    }
    if let Some(slowed) = &explanation.slowed {
        let left = duration(slowed.remaining_secs);
        lines.push(format!("slowed     since {}, for another {left}", text::utc(slowed.since_ms)));
    }
    lines
}

/// Lines that are only known for the present.
fn current(explanation: &Explanation) -> Vec<String> {
    let mut lines = Vec::new();
    for wanted in &explanation.wanted_by {
        lines.push(format!("wanted by  {}", text::fleet::wanted(wanted)));
    }
    for entry in &explanation.allowed {
        lines.push(format!("allowed    {}: {}", entry.network, entry.words));
    }
    if let Some(window) = &explanation.window {
        lines.push(format!(
            "window     {}, {} of them failed, in {} s ({})",
            counted(u64::from(window.requests), "request"),
            window.errors,
            window.secs,
            per_sec(window.rate)
        ));
    }
    let reference = &explanation.reference;
    lines.push(format!(
        "usual      {} ± {:.2} ({})",
        per_sec(reference.mean),
        reference.stddev,
        text::baseline_source(&reference.source)
    ));
    let offences = explanation.offences;
    let last = offences.last_ms.map(|ms| format!(", the last at {}", text::utc(ms))).unwrap_or_default();
    lines.push(format!("offences   {}{last}", offences.count));
    lines.push(String::new());
    lines
}

fn rule_line(rule: &RuleState, colour: Colour) -> String {
    let style = if rule.fires { Style::Bad } else { Style::Dim };
    format!("{:<16} {}", rule.rule.name(), colour.paint(style, &rule.words))
}

fn past_line(past: &PastBan) -> String {
    let lasted = u64::try_from((past.ended_ms - past.since_ms) / 1000).unwrap_or(0);
    let note = past.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
    let ended = text::lift_reason(past.lifted);
    format!("  {}  {}, {} ({ended}){note}", text::utc(past.since_ms), past.rule, duration(lasted))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::types::{Offences, Reference, Wanted, Window};
    use shield_engine::action::LiftReason;
    use shield_engine::verdict::{Measure, PathCount, Rule};

    #[test]
    fn an_explanation_holds_each_value_beside_its_threshold() {
        let explanation = Explanation {
            client: "192.0.2.7".parse().unwrap(),
            at_ms: 1_778_537_253_000,
            words: "192.0.2.7 is not banned: no rule fires".into(),
            ban: None,
            slowed: None,
            wanted_by: vec![Wanted {
                origin: "fleet:web-3".into(),
                client: "192.0.2.7".parse().unwrap(),
                why: "probing: 12 probes".into(),
                since_ms: 1_778_537_000_000,
                ends_ms: Some(1_778_544_000_000),
                counts: true,
            }],
            allowed: Vec::new(),
            window: Some(Window { secs: 60, requests: 90, errors: 3, rate: 1.5 }),
            reference: Reference { mean: 0.2, stddev: 0.1, source: "rolling".into() },
            rules: vec![RuleState {
                rule: Rule::Probing,
                fires: false,
                not_asked: None,
                measures: vec![Measure { name: "probes_60s".into(), value: 3.0, threshold: 10.0 }],
                words: "does not fire: 3 probes for weak spots in 60 s (limit 10)".into(),
            }],
            top_paths: vec![PathCount { path: "/\u{1b}]0;x".into(), count: 7 }],
            offences: Offences { count: 1, last_ms: Some(1_778_530_000_000) },
            history: vec![PastBan {
                serial: 1,
                since_ms: 1_778_530_000_000,
                ended_ms: 1_778_530_600_000,
                rule: Rule::Flood,
                lifted: LiftReason::Expired,
                reason: None,
            }],
        };
        let expected = "\
192.0.2.7 is not banned: no rule fires

at         2026-05-11T22:07:33Z
wanted by  web-3, a host of the fleet: 192.0.2.7 since 2026-05-11T22:03:20Z until 2026-05-12T00:00:00Z: probing: 12 probes
window     90 requests, 3 of them failed, in 60 s (1.50 req/s)
usual      0.20 req/s ± 0.10 (last 30 min)
offences   1, the last at 2026-05-11T20:06:40Z

probing          does not fire: 3 probes for weak spots in 60 s (limit 10)

Most requested paths:
       7  /\\u{1b}]0;x

Earlier bans:
  2026-05-11T20:06:40Z  flood, 10 min (its term is over)
";
        assert_eq!(render(&explanation, Moment::Now, Colour::Off), expected);
        let then = render(&explanation, Moment::Past, Colour::Off);
        let split = format!("at         2026-05-11T22:07:33Z\n\n{AS_OF_NOW}\nwanted by ");
        assert!(then.contains(&split), "{then}");
    }
}
