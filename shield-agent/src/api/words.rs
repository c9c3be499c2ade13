//! The engine's facts in a person's words: one line an event, one or two sentences a ban. Plain text, never markup;
//! parts of it come from the network (paths), with control characters made visible.

use super::evidence;
use super::types::{EventView, RuleState, Severity};
use shield_engine::action::{BanRecord, LiftReason, Notice};
use shield_engine::ban::Ban;
use shield_engine::client::Client;
use shield_engine::report::RuleView;
use shield_engine::time::Ends;
use shield_engine::verdict::{Evidence, PathCount, Rule};

/// Paths named in a ban's words.
const PATHS_NAMED: usize = 3;

/// A notice as the API shows it.
pub(crate) fn event(id: u64, at_ms: i64, notice: &Notice) -> EventView {
    EventView {
        id,
        at_ms,
        kind: kind(notice).to_owned(),
        severity: severity(notice),
        client: client(notice),
        text: plain(notice),
        data: notice.clone(),
    }
}

/// A notice in one line, with nothing in it that a terminal would obey.
pub(crate) fn plain(notice: &Notice) -> String {
    printable(&text(notice))
}

/// Every kind of notice.
pub(crate) const KINDS: [&str; 18] = [
    "banned",
    "would_ban",
    "lifted",
    "extended",
    "protected",
    "global_anomaly_started",
    "global_anomaly_ended",
    "degraded",
    "recovered",
    "repaired",
    "leaking",
    "blast_radius",
    "network_proposed",
    "evasion",
    "clock_skew",
    "allowlist_changed",
    "started",
    "stopping",
];

/// The notice's tag in JSON.
pub(crate) fn kind(notice: &Notice) -> &'static str {
    match notice {
        Notice::Banned(_) => "banned",
        Notice::WouldBan { .. } => "would_ban",
        Notice::Lifted { .. } => "lifted",
        Notice::Extended { .. } => "extended",
        Notice::Protected { .. } => "protected",
        Notice::GlobalAnomalyStarted { .. } => "global_anomaly_started",
        Notice::GlobalAnomalyEnded { .. } => "global_anomaly_ended",
        Notice::Degraded { .. } => "degraded",
        Notice::Recovered { .. } => "recovered",
        Notice::Repaired { .. } => "repaired",
        Notice::Leaking { .. } => "leaking",
        Notice::BlastRadius { .. } => "blast_radius",
        Notice::NetworkProposed { .. } => "network_proposed",
        Notice::Evasion { .. } => "evasion",
        Notice::ClockSkew { .. } => "clock_skew",
        Notice::AllowlistChanged { .. } => "allowlist_changed",
        Notice::Started { .. } => "started",
        Notice::Stopping { .. } => "stopping",
    }
}

fn severity(notice: &Notice) -> Severity {
    match notice {
        Notice::Leaking { .. } | Notice::Degraded { .. } | Notice::BlastRadius { stopped: true, .. } => {
            Severity::Critical
        }
        Notice::Banned(_)
        | Notice::WouldBan { .. }
        | Notice::Extended { .. }
        | Notice::Protected { .. }
        | Notice::GlobalAnomalyStarted { .. }
        | Notice::Repaired { .. }
        | Notice::NetworkProposed { .. }
        | Notice::Evasion { .. }
        | Notice::ClockSkew { .. } => Severity::Warning,
        Notice::Lifted { .. }
        | Notice::GlobalAnomalyEnded { .. }
        | Notice::Recovered { .. }
        | Notice::BlastRadius { stopped: false, .. }
        | Notice::AllowlistChanged { .. }
        | Notice::Started { .. }
        | Notice::Stopping { .. } => Severity::Info,
    }
}

fn client(notice: &Notice) -> Option<Client> {
    match notice {
        Notice::Banned(ban) | Notice::WouldBan { ban, .. } => Some(ban.ban.client),
        Notice::Lifted { client, .. }
        | Notice::Extended { client, .. }
        | Notice::Protected { client, .. }
        | Notice::Leaking { client, .. }
        | Notice::Evasion { client, .. } => Some(*client),
        Notice::NetworkProposed { network, .. } => Some(*network),
        Notice::AllowlistChanged { network, .. } => Some(Client::of_network(*network)),
        _ => None,
    }
}

fn text(notice: &Notice) -> String {
    match notice {
        Notice::Banned(ban) => format!("{} banned {}: {}", ban.ban.client, term(ban), cause(ban)),
        Notice::WouldBan { ban, because } => {
            format!(
                "{} would be banned {}, and is not ({because}): {}",
                ban.ban.client,
                term(ban),
                cause(ban)
            )
        }
        Notice::Lifted { client, reason, lasted_secs, note, .. } => {
            let note = note.as_ref().map(|note| format!(": {note}")).unwrap_or_default();
            format!("{client} lifted after {} ({}){note}", duration(*lasted_secs), lift(*reason))
        }
        Notice::Extended { client, ends, packets_per_sec } => {
            let until = until(*ends);
            format!("{client} stays banned {until}: {packets_per_sec:.1} packets/s still come")
        }
        Notice::Protected { client, network, reason, .. } => {
            format!("{client} is anomalous and not banned: {network} is {}", reason.describe())
        }
        Notice::GlobalAnomalyStarted { rate, mean, stddev, .. } => {
            format!("global anomaly: {}", evidence::anomaly(*rate, *mean, *stddev))
        }
        Notice::GlobalAnomalyEnded { rate, lasted_secs, .. } => {
            format!("global anomaly over after {}: {rate:.2} req/s", duration(*lasted_secs))
        }
        Notice::Degraded { part, reason } => format!("{part} degraded: {reason}"),
        Notice::Recovered { part, after_secs } => {
            format!("{part} works again after {}", duration(*after_secs))
        }
        Notice::Repaired { part, found, restored, removed } => {
            format!("{part} repaired: {found} ({restored} put back, {removed} removed)")
        }
        Notice::Leaking { client, requests, cause } => {
            format!("{client} is banned, but {requests} of its requests reached the web server: {cause}")
        }
        Notice::BlastRadius { stopped: true, reason } => format!("banning stopped: {reason}"),
        Notice::BlastRadius { stopped: false, reason } => format!("banning goes on: {reason}"),
        Notice::NetworkProposed { network, banned, clean } => {
            let others = if *clean == 1 { "1 other" } else { &format!("{clean} others") };
            format!("{banned} clients of {network} are banned; {others} in it did nothing wrong")
        }
        Notice::Evasion { client, lines } => {
            format!("{client} wrote {lines} lines in a minute that are not valid in the log's format")
        }
        Notice::ClockSkew { source, skew_secs } => skew(source, *skew_secs),
        Notice::AllowlistChanged { network, added, note } => {
            let note = note.as_ref().map(|note| format!(": {note}")).unwrap_or_default();
            let verb = if *added { "put on" } else { "taken off" };
            format!("{network} {verb} the allowlist{note}")
        }
        Notice::Started { version, restored, dry_run } => {
            let mode = if *dry_run { ", dry run" } else { "" };
            format!("shield {version} started, {} restored{mode}", bans(*restored))
        }
        Notice::Stopping { bans: 0 } => "shield is stopping; nobody is banned".to_owned(),
        Notice::Stopping { bans: 1 } => "shield is stopping; 1 ban stays until its end".to_owned(),
        Notice::Stopping { bans } => format!("shield is stopping; {bans} bans stay until their end"),
    }
}

fn bans(count: u64) -> String {
    if count == 1 { "1 ban".to_owned() } else { format!("{count} bans") }
}

fn skew(source: &str, skew_secs: i64) -> String {
    let way = if skew_secs > 0 { "ahead of" } else { "behind" };
    format!("{source} is {} {way} the wall clock", duration(skew_secs.unsigned_abs()))
}

fn lift(reason: LiftReason) -> &'static str {
    match reason {
        LiftReason::Expired => "its term was over",
        LiftReason::Operator => "by an operator",
        LiftReason::Allowed => "it was put on the allowlist",
    }
}

fn term(ban: &BanRecord) -> String {
    match ban.ban.ends {
        Ends::Never => "permanently".to_owned(),
        Ends::At { wall_ms, .. } => {
            let secs = wall_ms.saturating_sub(ban.ban.since_ms).max(0) / 1000;
            format!("for {}", duration(secs.unsigned_abs()))
        }
    }
}

fn until(ends: Ends) -> String {
    match ends {
        Ends::Never => "permanently".to_owned(),
        Ends::At { wall_ms, .. } => format!("until {}", utc(wall_ms)),
    }
}

/// A wall-clock moment as `2026-05-11T22:07:33Z`.
pub(crate) fn utc(wall_ms: i64) -> String {
    jiff::Timestamp::from_millisecond(wall_ms)
        .map(|time| time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
        .unwrap_or_else(|_| format!("{wall_ms} ms"))
}

/// Seconds as a person says them, in at most two units: `45 s`, `10 min`, `2 h 5 min`, `3 d`.
pub(crate) fn duration(secs: u64) -> String {
    const UNITS: [(u64, &str); 4] = [(86_400, "d"), (3_600, "h"), (60, "min"), (1, "s")];
    let Some(at) = UNITS.iter().position(|(size, _)| secs >= *size) else { return "0 s".to_owned() };
    let (size, name) = UNITS[at];
    let whole = format!("{} {name}", secs / size);
    match UNITS.get(at + 1).map(|(size, name)| (secs % UNITS[at].0 / size, name)) {
        Some((rest, name)) if rest > 0 => format!("{whole} {rest} {name}"),
        _ => whole,
    }
}

/// Bytes in binary units, as `1.5 MiB`.
pub(crate) fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

/// A ban's cause in one or two sentences.
pub(crate) fn cause(ban: &BanRecord) -> String {
    let given = ban.reason.as_deref().map(|reason| format!("{reason}. ")).unwrap_or_default();
    let facts = match (&ban.evidence, ban.ban.rule) {
        (Some(evidence), _) => evidence_words(evidence),
        (None, Rule::Operator) if given.is_empty() => "banned by an operator".to_owned(),
        (None, Rule::Imported) if given.is_empty() => "taken from an imported list".to_owned(),
        (None, Rule::Operator | Rule::Imported) => String::new(),
        (None, rule) => rule_words(rule).to_owned(),
    };
    printable(format!("{given}{facts}").trim_end_matches(['.', ' ']))
}

/// Evidence in words: what fired, what was counted, what was asked for.
pub(crate) fn evidence_words(evidence: &Evidence) -> String {
    let failed = match evidence.errors {
        0 => "none failed".to_owned(),
        errors if errors == evidence.requests => "all failed".to_owned(),
        errors => format!("{errors} failed"),
    };
    let (requests, secs) = (evidence.requests, evidence.window_secs);
    let mut words =
        format!("{}. In all {requests} requests in {secs} s, {failed}", evidence::fired(evidence));
    if !evidence.top_paths.is_empty() {
        words.push_str(&format!(". Mostly {}", paths_words(&evidence.top_paths)));
    }
    words
}

fn paths_words(paths: &[PathCount]) -> String {
    let named: Vec<String> =
        paths.iter().take(PATHS_NAMED).map(|path| format!("{} ({}x)", path.path, path.count)).collect();
    named.join(", ")
}

/// What a rule looks for.
pub(crate) fn rule_words(rule: Rule) -> &'static str {
    match rule {
        Rule::ZScore => "rate far above what clients here do",
        Rule::RateMultiplier => "rate a multiple of what clients here do",
        Rule::ErrorSurge => "mostly failing requests",
        Rule::Probing => "many different paths that do not exist",
        Rule::Flood => "flood",
        Rule::Behaviour => "behaviour unlike this site's clients",
        Rule::Operator => "banned by an operator",
        Rule::Imported => "taken from an imported list",
        Rule::Network => "several banned clients in one network",
    }
}

/// Where a learned level comes from.
pub(crate) fn baseline_source(source: &str) -> &str {
    match source {
        "rolling" => "the last 30 min",
        "hour_slot" => "this hour of the day",
        "all_hours" => "all hours of the day",
        "floor" => "least values, nothing learned yet",
        "warm_up" => "still learning",
        other => other,
    }
}

/// A rule's state as the API shows it.
pub(crate) fn rule_state(view: &RuleView) -> RuleState {
    let words = match (&view.not_asked, view.fires) {
        (Some(why), _) => format!("not asked ({why})"),
        (None, true) => format!("fires: {}", evidence::told(&view.measures)),
        (None, false) => format!("does not fire: {}", evidence::told(&view.measures)),
    };
    RuleState {
        rule: view.rule,
        fires: view.fires,
        not_asked: view.not_asked.clone(),
        measures: view.measures.clone(),
        words,
    }
}

/// Text with every control character made visible, so that a terminal obeys nothing that came from the network.
pub(crate) fn printable(text: &str) -> String {
    let is_safe = |c: char| !c.is_control() && !is_bidi_control(c);
    if text.chars().all(is_safe) {
        return text.to_owned();
    }
    text.chars().map(|c| if is_safe(c) { c.to_string() } else { c.escape_unicode().to_string() }).collect()
}

fn is_bidi_control(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;
    use shield_engine::verdict::Measure;

    fn evidence() -> Evidence {
        Evidence {
            rule: Rule::ZScore,
            condition: "z-score=5.43 > threshold=2.0".into(),
            rate: 3.72,
            mean: 0.1,
            stddev: 0.1,
            z_score: 5.43,
            threshold: 2.0,
            tightened: true,
            baseline: "floor".into(),
            window_secs: 60,
            requests: 223,
            errors: 200,
            measures: vec![Measure { name: "z-score".into(), value: 5.43, threshold: 2.0 }],
            top_paths: vec![PathCount { path: "/wp-login.php\u{1b}[2J".into(), count: 199 }],
            at_secs: 0,
        }
    }

    fn ban(evidence: Option<Evidence>, rule: Rule, reason: Option<&str>) -> BanRecord {
        BanRecord {
            ban: Ban {
                client: "192.0.2.7".parse().unwrap(),
                serial: 1,
                since_ms: 1_000,
                ends: Ends::At { boot_ms: 0, wall_ms: 601_000 },
                offence: std::num::NonZeroU32::new(1),
                rule,
            },
            reason: reason.map(str::to_owned),
            evidence: evidence.map(Box::new),
        }
    }

    #[test]
    fn a_ban_is_told_with_its_numbers_and_without_control_characters() {
        let text = event(1, 0, &Notice::Banned(Box::new(ban(Some(evidence()), Rule::ZScore, None)))).text;
        assert_eq!(
            text,
            "192.0.2.7 banned for 10 min: 3.72 req/s, 5.43 standard deviations above the usual 0.10 req/s (limit 2, \
             lowered because so many of its requests failed). In all 223 requests in 60 s, 200 failed. Mostly \
             /wp-login.php\\u{1b}[2J (199x)"
        );
    }

    #[test]
    fn causes_without_evidence() {
        let check = |rule, reason, expected: &str| assert_eq!(cause(&ban(None, rule, reason)), expected);
        check(Rule::Operator, None, "banned by an operator");
        check(Rule::Operator, Some("scraping"), "scraping");
        check(Rule::Imported, None, "taken from an imported list");
        check(Rule::Probing, None, "many different paths that do not exist");
    }

    #[test]
    fn durations() {
        let check = |secs, expected: &str| assert_eq!(duration(secs), expected);
        check(0, "0 s");
        check(59, "59 s");
        check(600, "10 min");
        check(7_500, "2 h 5 min");
        check(7_201, "2 h");
        check(259_200, "3 d");
        check(100_000, "1 d 3 h");
    }

    #[test]
    fn the_kind_is_the_tag_in_json() {
        let notices = [
            Notice::Stopping { bans: 1 },
            Notice::Started { version: "1".into(), restored: 0, dry_run: true },
            Notice::Recovered { part: "xdp".into(), after_secs: 4 },
            Notice::Banned(Box::new(ban(None, Rule::Flood, None))),
        ];
        for notice in notices {
            assert!(KINDS.contains(&kind(&notice)));
            assert_eq!(serde_json::to_value(&notice).unwrap()["event"], kind(&notice));
        }
    }
}
