//! A replay's outcome as text, and as JSON lines.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::labels::{Labels, Score};
use super::{Outcome, ReplayedBan, rfc3339};
use crate::text::{self, counted, duration, per_sec};
use shield_engine::report::Explanation;
use shield_engine::request::Rejected;

/// Maximum number of bans listed; further ones are counted (`--json` lists all).
const MAX_LISTED: usize = 200;

/// Lists the bans with their time, rule and evidence, then the totals.
pub(crate) fn render(outcome: &Outcome, scored: Option<(&Labels, &Score)>) -> String {
    let mut out = String::new();
    for ban in outcome.bans.iter().take(MAX_LISTED) {
        let _ = writeln!(out, "{}", ban_line(ban));
    }
    if outcome.bans.len() > MAX_LISTED {
        let _ = writeln!(out, "… and {} more (--json lists all)", outcome.bans.len() - MAX_LISTED);
    }
    if !outcome.bans.is_empty() {
        out.push('\n');
    }
    for anomaly in &outcome.global {
        let _ = writeln!(out, "{anomaly}");
    }
    if !outcome.global.is_empty() {
        out.push('\n');
    }
    summary(outcome, &mut out);
    if let Some((labels, score)) = scored {
        comparison(labels, score, &mut out);
    }
    out
}

fn ban_line(ban: &ReplayedBan) -> String {
    let fired = ban.evidence.as_ref().map(|found| text::fired(found)).unwrap_or_default();
    let verdict = match (&ban.not_made, ban.term_secs) {
        (Some(because), _) => format!("not banned: {because}"),
        (None, Some(secs)) => format!("banned for {}", duration(secs)),
        (None, None) => "banned permanently".to_owned(),
    };
    let proxied = if ban.behind_proxy { ", behind a proxy" } else { "" };
    let paths: Vec<String> = ban
        .evidence
        .iter()
        .flat_map(|evidence| &evidence.top_paths)
        .take(3)
        .map(|path| format!("{} ({}x)", text::printable(&path.path), path.count))
        .collect();
    let paths = if paths.is_empty() { String::new() } else { format!("; {}", paths.join(", ")) };
    format!(
        "{}  {}  {}{proxied} (offence {})  {}: {fired}{paths}",
        ban.timestamp, ban.client, verdict, ban.offence, ban.rule
    )
}

fn summary(outcome: &Outcome, out: &mut String) {
    let made = outcome.bans.iter().filter(|ban| ban.not_made.is_none()).count() as u64;
    let share = |part: u64, of: u64| if of == 0 { 0.0 } else { 100.0 * part as f64 / of as f64 };
    if let Some((first, last)) = outcome.span {
        let _ = writeln!(out, "log             {} to {}", rfc3339(first), rfc3339(last));
    }
    let _ = writeln!(
        out,
        "requests        {} from {}",
        text::count(outcome.requests),
        counted(outcome.clients, "client")
    );
    let _ = writeln!(
        out,
        "bans            {} for {} of {} ({:.2} %)",
        text::count(made),
        text::count(outcome.clients_banned),
        counted(outcome.clients, "client"),
        share(outcome.clients_banned, outcome.clients)
    );
    let _ = writeln!(
        out,
        "dropped         {} ({:.2} %) while their client was banned",
        counted(outcome.requests_banned, "request"),
        share(outcome.requests_banned, outcome.requests)
    );
    if outcome.clients_behind_proxy > 0 {
        let _ = writeln!(
            out,
            "behind a proxy  {} of the banned: the agent would report {}, not drop {}, because the packets come from the proxy",
            counted(outcome.clients_behind_proxy, "client"),
            if outcome.clients_behind_proxy == 1 { "it" } else { "them" },
            if outcome.clients_behind_proxy == 1 { "it" } else { "them" },
        );
    }
    for (rule, count) in &outcome.by_rule {
        let _ = writeln!(out, "  {:<14}{}", rule.name(), text::count(*count));
    }
    for reason in Rejected::ALL {
        let count = outcome.rejected[reason.index()];
        if count > 0 {
            let _ = writeln!(out, "lines rejected  {} ({})", text::count(count), reason.name());
        }
    }
}

fn comparison(labels: &Labels, score: &Score, out: &mut String) {
    let _ = writeln!(out, "\ncompared with the labels");
    let _ =
        writeln!(out, "  caught        {} of {} ({:.1} %)", score.caught, score.to_ban, 100.0 * score.recall);
    let _ = writeln!(
        out,
        "  wrong bans    {} of {} that must not be banned ({:.3} %)",
        score.wrong,
        score.must_stay,
        100.0 * score.wrong_bans_share
    );
    if let Some(secs) = score.median_secs_to_ban {
        let _ = writeln!(out, "  time to ban   {secs:.0} s (median, from the first evidence)");
    }
    for (what, clients) in [("missed", &score.missed), ("wrong", &score.wrongly_banned)] {
        for client in clients {
            let label = labels.get(*client).map_or("", |label| &label.what);
            let _ =
                writeln!(out, "{}", format!("  {what:<14}{client}  {}", text::printable(label)).trim_end());
        }
    }
}

/// One JSON value a line: each ban (`event` is `ban`, or `would_ban` when it was not made), then one `summary`.
pub(crate) fn json_lines(outcome: &Outcome, score: Option<&Score>) -> Vec<Value> {
    let mut lines: Vec<Value> = outcome.bans.iter().map(ban_json).collect();
    let share = |part: u64, of: u64| if of == 0 { 0.0 } else { part as f64 / of as f64 };
    let rejected: serde_json::Map<String, Value> = Rejected::ALL
        .iter()
        .map(|reason| (reason.name().to_owned(), outcome.rejected[reason.index()].into()))
        .collect();
    lines.push(json!({
        "event": "summary",
        "requests": outcome.requests,
        "requests_banned": outcome.requests_banned,
        "requests_banned_share": share(outcome.requests_banned, outcome.requests),
        "clients": outcome.clients,
        "clients_banned": outcome.clients_banned,
        "clients_behind_proxy": outcome.clients_behind_proxy,
        "clients_banned_share": share(outcome.clients_banned, outcome.clients),
        "bans_by_rule": outcome.by_rule,
        "rejected": rejected,
        "global": outcome.global,
        "first": outcome.span.map(|(first, _)| rfc3339(first)),
        "last": outcome.span.map(|(_, last)| rfc3339(last)),
        "score": score,
    }));
    lines
}

fn ban_json(ban: &ReplayedBan) -> Value {
    let mut line = json!({
        "event": if ban.not_made.is_none() { "ban" } else { "would_ban" },
        "timestamp": ban.timestamp,
        "client": ban.client,
        "rule": ban.rule,
        "offence": ban.offence,
        "term_secs": ban.term_secs,
        "evidence": ban.evidence,
    });
    // Tools that score by `ip` count every line that has one as a ban, so bans not made have another name.
    let name = if ban.not_made.is_none() { "ip" } else { "address" };
    line[name] = json!(ban.ip);
    if let Some(because) = &ban.not_made {
        line["because"] = json!(because);
    }
    if ban.behind_proxy {
        line["behind_proxy"] = json!(true);
    }
    line
}

/// Compares two configurations: the bans that only one of two replays made.
pub(crate) fn render_difference(a: &Outcome, b: &Outcome) -> String {
    let (only_a, only_b) = difference(a, b);
    let mut out = String::new();
    let banned = |outcome: &Outcome| counted(outcome.clients_banned, "client");
    let _ = writeln!(out, "banned          {} before, {} after", banned(a), banned(b));
    let _ = writeln!(
        out,
        "dropped         {} before, {} after",
        counted(a.requests_banned, "request"),
        text::count(b.requests_banned)
    );
    for (title, bans) in [("no longer banned", &only_a), ("newly banned", &only_b)] {
        let _ = writeln!(out, "\n{title}: {}", bans.len());
        for ban in bans.iter().take(MAX_LISTED) {
            let _ = writeln!(out, "  {}", ban_line(ban));
        }
    }
    out
}

/// The comparison as JSON lines.
pub(crate) fn difference_json(a: &Outcome, b: &Outcome) -> Vec<Value> {
    let (only_a, only_b) = difference(a, b);
    let mut lines: Vec<Value> = only_a.iter().map(|ban| changed_json(ban, "no_longer_banned")).collect();
    lines.extend(only_b.iter().map(|ban| changed_json(ban, "newly_banned")));
    lines.push(json!({
        "event": "summary",
        "clients_banned": [a.clients_banned, b.clients_banned],
        "requests_banned": [a.requests_banned, b.requests_banned],
    }));
    lines
}

fn changed_json(ban: &ReplayedBan, change: &'static str) -> Value {
    let mut line = ban_json(ban);
    line["change"] = json!(change);
    line
}

/// The first ban of each client that only one of the two made, for both.
pub(super) fn difference<'a>(a: &'a Outcome, b: &'a Outcome) -> (Vec<&'a ReplayedBan>, Vec<&'a ReplayedBan>) {
    (only_in(a, b), only_in(b, a))
}

fn only_in<'a>(one: &'a Outcome, other: &Outcome) -> Vec<&'a ReplayedBan> {
    let made = |outcome: &'a Outcome| outcome.bans.iter().filter(|ban| ban.not_made.is_none());
    let others: std::collections::HashSet<_> =
        other.bans.iter().filter(|ban| ban.not_made.is_none()).map(|ban| ban.client).collect();
    let mut seen = std::collections::HashSet::new();
    made(one).filter(|ban| !others.contains(&ban.client) && seen.insert(ban.client)).collect()
}

/// Explains why a client was banned in the replay, or why not.
pub(crate) fn render_explanation(explanation: &Explanation, ban: Option<&ReplayedBan>) -> String {
    let mut out = String::new();
    match ban {
        Some(ban) => {
            let _ = writeln!(out, "{}\n", ban_line(ban));
        }
        None => {
            let _ = writeln!(out, "{} was not banned\n", explanation.client);
        }
    }
    let _ = writeln!(out, "at              {}", rfc3339(explanation.at_secs));
    let _ = writeln!(
        out,
        "window          {}, {} of them failed, in {} s ({})",
        counted(u64::from(explanation.requests), "request"),
        explanation.errors,
        explanation.window_secs,
        per_sec(explanation.rate)
    );
    let level = &explanation.baseline;
    let _ = writeln!(
        out,
        "usual           {} ± {:.2} ({})\n",
        per_sec(level.mean),
        level.stddev,
        text::baseline_source(&level.source)
    );
    for view in &explanation.rules {
        let _ = writeln!(out, "{:<16}{}", view.rule.name(), text::rule_answer(view));
        for measure in &view.measures {
            let _ = writeln!(
                out,
                "                {} {} (threshold {})",
                measure.name, measure.value, measure.threshold
            );
        }
    }
    if !explanation.top_paths.is_empty() {
        out.push_str("\nMost requested paths:\n");
        for path in &explanation.top_paths {
            let _ = writeln!(out, "  {:>6}  {}", path.count, text::printable(&path.path));
        }
    }
    out
}
