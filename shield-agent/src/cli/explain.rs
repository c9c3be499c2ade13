//! `shield-agent explain CLIENT`: the reasons why a client is banned or not, from the running agent.

use anyhow::Result;
use clap::Args;

use super::client::AgentClient;
use super::print::{self, Colour, Style};
use super::reply::{Format, JsonArg};
use super::{Exit, args};
use crate::api::operation::Operation;
use crate::api::types::{Ban, Explanation, PastBan, RuleState};
use crate::text::{self, counted, duration, per_sec};
use shield_engine::client::Client;
use shield_engine::verdict::{Charged, PathCount};

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
        Format::Text => {
            let text = render(&explanation, args.moment(), Colour::of_stdout());
            print::text(&fitted(&text, print::columns()))?;
        }
    }
    Ok(Exit::Done)
}

/// Blanks before the rest of a line that is too long for the terminal: as wide as the labels.
const INDENT: usize = 11;

fn fitted(text: &str, columns: Option<usize>) -> String {
    text.lines().map(|line| print::wrapped(line, INDENT, columns) + "\n").collect()
}

pub(crate) fn render(explanation: &Explanation, moment: Moment, colour: Colour) -> String {
    let mut lines = vec![colour.paint(Style::Bold, &explanation.words), String::new()];
    lines.extend(record(explanation));
    match &explanation.ban {
        // What rules say now says nothing of it: the windows of a banned client are empty.
        Some(ban) if moment == Moment::Now => {
            lines.extend(story(ban, explanation));
            lines.extend(earlier(explanation));
            lines.extend(undo(ban, explanation));
        }
        _ => {
            if moment == Moment::Past {
                lines.extend([String::new(), AS_OF_NOW.to_owned()]);
            }
            lines.extend(current(explanation));
            lines.extend(explanation.rules.iter().map(|rule| rule_line(rule, colour)));
            lines.extend(paths("Most requested paths:", &explanation.top_paths));
            lines.extend(earlier(explanation));
        }
    }
    lines.join("\n") + "\n"
}

fn paths(heading: &str, paths: &[PathCount]) -> Vec<String> {
    if paths.is_empty() {
        return Vec::new();
    }
    let path = |path: &PathCount| format!("  {:>6}  {}", path.count, text::printable(&path.path));
    [String::new(), heading.to_owned()].into_iter().chain(paths.iter().map(path)).collect()
}

fn earlier(explanation: &Explanation) -> Vec<String> {
    if explanation.history.is_empty() {
        return Vec::new();
    }
    let past = explanation.history.iter().map(past_line);
    [String::new(), "Earlier bans:".to_owned()].into_iter().chain(past).collect()
}

/// What fired when the ban was made, and what was dropped since. The evidence is kept with the ban, over restarts too.
fn story(ban: &Ban, explanation: &Explanation) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(drops) = ban.dropped {
        let packets = counted(drops.packets, "packet");
        lines.push(format!("dropped    {packets} since then, {}", text::bytes(drops.bytes)));
    }
    lines.push(match ban.offence {
        0 => format!("offences   {}, this ban is for none", explanation.offences.count),
        nth => format!("offences   {nth}, this one included"),
    });
    lines.extend(wanted(explanation));
    let Some(evidence) = &ban.evidence else { return lines };
    lines.extend([String::new(), "What led to the ban:".to_owned()]);
    lines.push(format!("  rule       {}: {}", evidence.rule.name(), text::fired(evidence)));
    lines.push(format!(
        "  requests   {}, {} of them failed, in {} s ({}); usual: {}",
        counted(u64::from(evidence.requests), "request"),
        evidence.errors,
        evidence.window_secs,
        text::both_rates(evidence.requests, evidence.window_secs, evidence.rate),
        per_sec(evidence.mean)
    ));
    lines.push(format!("  last line  {}, by the times in the log", text::utc(evidence.at_secs * 1000)));
    if !evidence.sites.is_empty() {
        lines.push(format!("  sites      {}", text::printable(&evidence.sites.join(", "))));
    }
    if !evidence.account.is_empty() {
        lines.extend([String::new(), "What counted most (points left when the ban was made):".to_owned()]);
        lines.extend(evidence.account.iter().map(charged_line));
    }
    lines.extend(paths("Most requested then, in the same time:", &evidence.top_paths));
    if !evidence.lines.is_empty() {
        lines.extend([String::new(), "Its last lines in the log before the ban:".to_owned()]);
        lines.extend(evidence.lines.iter().map(|line| format!("  {}", text::printable(line))));
    }
    lines
}

/// Who else wants it banned.
fn wanted(explanation: &Explanation) -> impl Iterator<Item = String> {
    explanation.wanted_by.iter().map(|wanted| format!("wanted by  {}", text::fleet::wanted(wanted)))
}

fn charged_line(charged: &Charged) -> String {
    let (at, kind) = (text::utc(charged.at_secs * 1000), charged.kind.replace('_', " "));
    match &charged.path {
        Some(path) => format!("  {at}  {:>6.2}  {kind}: {}", charged.points, text::printable(path)),
        None => format!("  {at}  {:>6.2}  {kind}", charged.points),
    }
}

fn undo(ban: &Ban, explanation: &Explanation) -> Vec<String> {
    let mut lines = vec![
        String::new(),
        "To undo it:".to_owned(),
        format!("  shield-agent unban {}  lift it now", ban.client),
        format!("  shield-agent allow {}  lift it, and never ban it again", ban.client),
    ];
    if ban.client != explanation.client {
        lines.insert(2, format!("  (the ban is of {}, which {} is in)", ban.client, explanation.client));
    }
    lines
}

/// Lines that hold for the moment explained.
fn record(explanation: &Explanation) -> Vec<String> {
    let mut lines = vec![format!("at         {}", text::utc(explanation.at_ms))];
    if let Some(ban) = &explanation.ban {
        let left = ban
            .remaining_secs
            .map_or("permanently".to_owned(), |secs| format!("for another {}", duration(secs)));
        lines.push(format!("banned     since {}, {left}", text::utc(ban.since_ms)));
        lines.push(match explanation.dry_run {
            true => "in force   nowhere: a dry run drops nothing".to_owned(),
            false => format!("in force   {}", text::held_by(ban.enforced_by.as_deref())),
        });
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
    lines.extend(wanted(explanation));
    for entry in &explanation.allowed {
        lines.push(format!("allowed    {}: {}", entry.network, entry.words));
    }
    if let Some(window) = &explanation.window {
        lines.push(format!(
            "window     {}, {} of them failed, in {} s ({})",
            counted(u64::from(window.requests), "request"),
            window.errors,
            window.secs,
            text::both_rates(window.requests, window.secs, window.rate)
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
    use crate::enforce::Drops;
    use shield_engine::action::LiftReason;
    use shield_engine::event::EnforcerName;
    use shield_engine::verdict::{Evidence, Measure, Rule};

    #[test]
    fn an_explanation_holds_each_value_beside_its_threshold() {
        let explanation = Explanation {
            client: "192.0.2.7".parse().unwrap(),
            at_ms: 1_778_537_253_000,
            words: "192.0.2.7 is not banned: no rule fires".into(),
            dry_run: false,
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
            proxy: None,
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

    /// History: of a banned client it said six times "does not fire".
    #[test]
    fn a_banned_client_has_its_story() {
        let charged = |kind: &str, path: &str, points, at_secs| Charged {
            kind: kind.into(),
            path: Some(path.into()),
            points,
            at_secs,
        };
        let evidence = Evidence {
            rule: Rule::Probing,
            condition: "probes_60s=14 > threshold=12".into(),
            rate: 0.34,
            mean: 0.2,
            stddev: 0.1,
            z_score: 1.4,
            threshold: 12.0,
            tightened: false,
            baseline: "rolling".into(),
            window_secs: 60,
            requests: 6,
            errors: 6,
            measures: vec![Measure { name: "probes_60s".into(), value: 14.0, threshold: 12.0 }],
            top_paths: vec![PathCount { path: "/.env".into(), count: 3 }],
            account: vec![
                charged("probes", "/.env", 3.0, 1_778_537_250),
                charged("failed_paths", "/x\u{7}", 1.0, 1_778_537_251),
            ],
            lines: vec!["192.0.2.7 - - [11/May/2026:22:07:31 +0000] \"GET /x\u{7} HTTP/1.1\" 404 5".into()],
            sites: vec!["shop.example.org".into(), "a\u{7}".into()],
            policy: None,
            observe: None,
            at_secs: 1_778_537_252,
        };
        let ban = Ban {
            client: "192.0.2.7".parse().unwrap(),
            serial: 7,
            since_ms: 1_778_537_253_000,
            ends_ms: Some(1_778_540_853_000),
            remaining_secs: Some(3_540),
            offence: 2,
            rule: Rule::Probing,
            reason: None,
            words: String::new(),
            evidence: Some(Box::new(evidence)),
            dropped: Some(Drops { packets: 12_345, bytes: 1_572_864 }),
            enforced_by: Some(vec![EnforcerName::Iptables, EnforcerName::Xdp]),
            leaking: None,
            owner: None,
        };
        let quiet = |rule| RuleState {
            rule,
            fires: false,
            not_asked: None,
            measures: Vec::new(),
            words: "does not fire: nothing it looks for was seen".into(),
        };
        let explanation = Explanation {
            client: "192.0.2.7".parse().unwrap(),
            at_ms: 1_778_537_313_000,
            words: "192.0.2.7 is banned: 14 points".into(),
            dry_run: false,
            ban: Some(ban),
            slowed: None,
            wanted_by: Vec::new(),
            allowed: Vec::new(),
            proxy: None,
            window: None,
            reference: Reference { mean: 0.2, stddev: 0.1, source: "rolling".into() },
            rules: vec![quiet(Rule::Flood), quiet(Rule::Probing)],
            top_paths: Vec::new(),
            offences: Offences { count: 2, last_ms: Some(1_778_537_253_000) },
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
192.0.2.7 is banned: 14 points

at         2026-05-11T22:08:33Z
banned     since 2026-05-11T22:07:33Z, for another 59 min
in force   iptables, xdp
dropped    12,345 packets since then, 1.5 MiB
offences   2, this one included

What led to the ban:
  rule       probing: 14 points for probes for vulnerabilities in 60 s (limit 12)
  requests   6 requests, 6 of them failed, in 60 s (0.10 req/s, 0.34 weighted); usual: 0.20 req/s
  last line  2026-05-11T22:07:32Z, by the times in the log
  sites      shop.example.org, a\\u{7}

What counted most (points left when the ban was made):
  2026-05-11T22:07:30Z    3.00  probes: /.env
  2026-05-11T22:07:31Z    1.00  failed paths: /x\\u{7}

Most requested then, in the same time:
       3  /.env

Its last lines in the log before the ban:
  192.0.2.7 - - [11/May/2026:22:07:31 +0000] \"GET /x\\u{7} HTTP/1.1\" 404 5

Earlier bans:
  2026-05-11T20:06:40Z  flood, 10 min (its term is over)

To undo it:
  shield-agent unban 192.0.2.7  lift it now
  shield-agent allow 192.0.2.7  lift it, and never ban it again
";
        assert_eq!(render(&explanation, Moment::Now, Colour::Off), expected);
    }
}
