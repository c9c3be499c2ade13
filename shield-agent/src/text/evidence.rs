//! Evidence in sentences for people who do not know the detector's measures: `73 failed requests in 60 s (limit 60)`.
//! The measures' own names stay in JSON, in the audit log and in a chat's `Condition`.

use shield_engine::action::BanRecord;
use shield_engine::operator_rules::{PolicyAction, PolicyTerm, PolicyWord};
use shield_engine::report::RuleView;
use shield_engine::verdict::{Evidence, Measure, PathCount, Rule};

use super::quantity::{deviations, number, per_sec, printable};
use super::{counted, duration, rule_sentence};

/// Paths named in a sentence.
const PATHS_NAMED: usize = 3;

/// A ban's cause: the operator's reason when there is one, then the evidence or what the rule looks for.
pub(crate) fn cause(ban: &BanRecord) -> String {
    let given = ban.reason.as_deref().map(|reason| format!("{reason}. ")).unwrap_or_default();
    let facts = match (&ban.evidence, ban.ban.rule) {
        (Some(evidence), _) => evidence_sentences(evidence),
        // The words of an operator or another host say more than that they wrote them.
        (None, rule) if !rule.is_detected() && !given.is_empty() => String::new(),
        (None, rule) => rule_sentence(rule).to_owned(),
    };
    let policy = ban.evidence.as_ref().and_then(|evidence| policy_words(evidence.policy.as_deref()?));
    let policy = policy.map(|words| format!(". {words}")).unwrap_or_default();
    printable(format!("{given}{facts}{policy}").trim_end_matches(['.', ' ']))
}

/// What the operators' own rules made of it; `None` where the verdict simply stands.
fn policy_words(word: &PolicyWord) -> Option<String> {
    if let Some(why) = &word.failed {
        return Some(format!("The policy could not be asked: {why}"));
    }
    let term = word.term.map(|term| match term {
        PolicyTerm::Secs(secs) => format!(" for {}", duration(secs)),
        PolicyTerm::Permanent => " permanently".to_owned(),
    });
    let because = word.because.as_ref().map(|because| format!(": {because}")).unwrap_or_default();
    let verb = match word.action {
        PolicyAction::Ban if term.is_none() && because.is_empty() => return None,
        PolicyAction::Ban => "bans it",
        PolicyAction::Observe => "spares it",
        PolicyAction::Slow => "slows it",
    };
    Some(format!("The policy {verb}{}{because}", term.unwrap_or_default()))
}

/// The kind of attack that a rule's ban answers, as a noun for many: `3 floods`.
pub(crate) fn attack_kind(ban: &BanRecord) -> &'static str {
    let measures = ban.evidence.iter().flat_map(|evidence| &evidence.measures);
    let first = measures.map(|measure| measure.name.as_str()).next();
    if first.is_some_and(|name| name.starts_with("logins")) {
        return "guessing passwords";
    }
    match ban.ban.rule {
        Rule::ZScore | Rule::RateMultiplier => "unusual rates",
        Rule::ErrorSurge => "failed requests",
        Rule::Probing => "probing",
        Rule::Flood => "floods",
        Rule::Behaviour => "unusual behaviour",
        Rule::Network => "their network",
        Rule::Operator | Rule::Imported | Rule::Remote | Rule::Blocklist | Rule::Crowdsec => "other reasons",
    }
}

/// The clause that fired, then all requests of the window, then the most requested paths.
fn evidence_sentences(evidence: &Evidence) -> String {
    let failed = match evidence.errors {
        0 => "none failed".to_owned(),
        errors if errors == evidence.requests => "all failed".to_owned(),
        errors => format!("{errors} failed"),
    };
    let requests = counted(u64::from(evidence.requests), "request");
    let mut sentences = format!("{}. {requests} in {} s, {failed}", fired(evidence), evidence.window_secs);
    if !evidence.top_paths.is_empty() {
        sentences.push_str(&format!(". Most requested: {}", top_paths(&evidence.top_paths)));
    }
    sentences
}

fn top_paths(paths: &[PathCount]) -> String {
    let named: Vec<String> =
        paths.iter().take(PATHS_NAMED).map(|path| format!("{} ({}x)", path.path, path.count)).collect();
    named.join(", ")
}

/// The first check of the clause that fired, with its value and limit. Evidence of a version with other measures
/// falls back to its own condition (`z-score=5.43 > threshold=2.0`).
pub(crate) fn fired(evidence: &Evidence) -> String {
    let tightened = if evidence.tightened { ", lowered because so many of its requests failed" } else { "" };
    let first = evidence.measures.first();
    let (value, limit) = match first.map(|measure| (measure.name.as_str(), measure)) {
        Some(("z-score", measure)) => (far_above(evidence), number(measure.threshold)),
        Some(("rate", measure)) => (times_the_usual(evidence), per_sec(measure.threshold)),
        Some((name, measure)) => match occurrences(measure) {
            // More than there were requests: a score, not a count.
            Some(_) if measure.value > f64::from(evidence.requests) && is_of_the_window(name) => {
                (points(measure).unwrap_or_default(), number(measure.threshold))
            }
            Some(text) => (format!("{text}{}", compared(name)), number(measure.threshold)),
            None => return evidence.condition.clone(),
        },
        None => return evidence.condition.clone(),
    };
    format!("{value} (limit {limit}{tightened})")
}

/// A global anomaly: how far the whole server's rate is from the learned one.
pub(crate) fn global_anomaly(rate: f64, mean: f64, stddev: f64) -> String {
    let distance = if stddev > 0.0 { (rate - mean) / stddev } else { 0.0 };
    format!("{} server-wide, {} the usual {}", per_sec(rate), deviations(distance), per_sec(mean))
}

/// A rule's answer about one client: why it was skipped, or whether it fires and on what.
pub(crate) fn rule_answer(view: &RuleView) -> String {
    match (&view.not_asked, view.fires) {
        (Some(why), true) => format!("fires and does nothing ({why}): {}", observed(&view.measures)),
        (Some(why), false) => format!("skipped ({why})"),
        (None, true) => format!("fires: {}", observed(&view.measures)),
        (None, false) => format!("does not fire: {}", observed(&view.measures)),
    }
}

/// The measures that were not zero, each beside its limit. Measures that only compare two counts are left to the table
/// of values: a sentence on one of them alone would mislead.
fn observed(measures: &[Measure]) -> String {
    let mut observed: Vec<String> = Vec::new();
    for (at, measure) in measures.iter().enumerate() {
        let is_first = !measures[..at].iter().any(|before| before.name == measure.name);
        if is_first && measure.value != 0.0 {
            observed.extend(beside_its_limit(measure));
        }
    }
    if observed.is_empty() { "nothing it looks for was seen".to_owned() } else { observed.join(", ") }
}

fn beside_its_limit(measure: &Measure) -> Option<String> {
    let limit = number(measure.threshold);
    match measure.name.as_str() {
        "z-score" => Some(format!("{} the usual rate (limit {limit})", deviations(measure.value))),
        "rate" => Some(format!("{} (limit {})", per_sec(measure.value), per_sec(measure.threshold))),
        _ => occurrences(measure).map(|text| format!("{text} (limit {limit})")),
    }
}

/// Whether a measure counts requests of the window, of which there are no more than requests.
fn is_of_the_window(name: &str) -> bool {
    name.ends_with("_60s") || matches!(name, "failures" | "distinct_paths" | "posts_to_one_path")
}

/// A counting measure with its noun; `None` for every other one. What is not whole is a score.
fn occurrences(measure: &Measure) -> Option<String> {
    if measure.value.fract() != 0.0 && measure.name != "score" {
        return points(measure);
    }
    let (one, many) = nouns(&measure.name)?;
    Some(format!("{} {}", number(measure.value), if measure.value == 1.0 { one } else { many }))
}

/// `13.2 points for probes for vulnerabilities in 60 s`: a request can count more than once or less, and fades.
fn points(measure: &Measure) -> Option<String> {
    let (_, many) = nouns(&measure.name)?;
    Some(format!("{} points for {many}", number(measure.value)))
}

fn nouns(name: &str) -> Option<(&'static str, &'static str)> {
    let nouns = match name {
        "pages_sustained" => ("page in a sustained period", "pages in a sustained period"),
        "pages_burst" => ("page within seconds", "pages within seconds"),
        "pages_in_one_second" => ("page within one second", "pages within one second"),
        "score" => ("point of evidence", "points of evidence"),
        "kinds_of_paths" => {
            ("kind of path in 60 s, hardly one served", "kinds of paths in 60 s, hardly one served")
        }
        "requests_for_one_page" => ("request for the same page", "requests for the same page"),
        "probes_60s" => ("probe for vulnerabilities in 60 s", "probes for vulnerabilities in 60 s"),
        "probes_600s" => ("probe for vulnerabilities in 10 min", "probes for vulnerabilities in 10 min"),
        "targets_of_a_campaign" => (
            "target that clients banned before asked for too",
            "targets that clients banned before asked for too",
        ),
        "probes_of_its_network" => (
            "probe, from a network whose clients do little else",
            "probes, from a network whose clients do little else",
        ),
        "scripts_answered_alike" => {
            ("script requested that does not exist", "scripts requested that do not exist")
        }
        "malformed_requests" => ("malformed request in 60 s", "malformed requests in 60 s"),
        "failures" => ("failed request in 60 s", "failed requests in 60 s"),
        "logins_60s" => ("failed login in 60 s", "failed logins in 60 s"),
        "logins_burst" => ("failed login within seconds", "failed logins within seconds"),
        "remote_calls_60s" => ("remote call in 60 s", "remote calls in 60 s"),
        "distinct_paths" => ("path in 60 s", "different paths in 60 s"),
        "posts_to_one_path" => ("form sent to one path in 60 s", "forms sent to one path in 60 s"),
        "requests" => ("request in 60 s", "requests in 60 s"),
        _ => return None,
    };
    Some(nouns)
}

/// The rest of the clause whose first check this is: these clauses fire only where other clients do less.
fn compared(name: &str) -> &'static str {
    match name {
        "distinct_paths" | "posts_to_one_path" => ", unlike other clients",
        _ => "",
    }
}

fn far_above(evidence: &Evidence) -> String {
    let distance = evidence.measures.first().map_or(evidence.z_score, |measure| measure.value);
    format!("{}, {} the usual {}", judged_rate(evidence), deviations(distance), per_sec(evidence.mean))
}

fn times_the_usual(evidence: &Evidence) -> String {
    let times = if evidence.mean > 0.0 { evidence.rate / evidence.mean } else { 0.0 };
    format!("{}, {} times the usual {}", judged_rate(evidence), number(times), per_sec(evidence.mean))
}

/// Rates that differ by less are shown alike.
const SAME_RATE: f64 = 0.01;

/// The rate of all requests. The rules of rates weigh them: a page's files count less than the page.
fn raw_rate(requests: u32, window_secs: u32, judged: f64) -> f64 {
    if requests == 0 || window_secs == 0 { judged } else { f64::from(requests) / f64::from(window_secs) }
}

/// The rate that the rules of rates compare, named as what it is.
fn judged_rate(evidence: &Evidence) -> String {
    let raw = raw_rate(evidence.requests, evidence.window_secs, evidence.rate);
    if (raw - evidence.rate).abs() < SAME_RATE {
        per_sec(evidence.rate)
    } else {
        format!("{} weighted", per_sec(evidence.rate))
    }
}

/// `1.33 req/s`, or `1.33 req/s, 0.34 weighted` where the rules of rates see another: a page's files count less than the page.
pub(crate) fn both_rates(requests: u32, window_secs: u32, judged: f64) -> String {
    let raw = raw_rate(requests, window_secs, judged);
    if (raw - judged).abs() < SAME_RATE {
        per_sec(raw)
    } else {
        format!("{}, {judged:.2} weighted", per_sec(raw))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use shield_engine::time::Ends;

    /// Evidence of 223 requests, 73 of which failed, with these measures (name, value, threshold).
    pub(crate) fn evidence(rule: Rule, measures: &[(&str, f64, f64)]) -> Evidence {
        Evidence {
            rule,
            condition: "x=1 > threshold=0".into(),
            rate: 3.72,
            mean: 0.1,
            stddev: 0.1,
            z_score: 36.2,
            threshold: measures.first().map_or(0.0, |first| first.2),
            tightened: false,
            baseline: "floor".into(),
            window_secs: 60,
            requests: 223,
            errors: 73,
            measures: self::measures(measures),
            top_paths: Vec::new(),
            account: Vec::new(),
            lines: Vec::new(),
            sites: Vec::new(),
            policy: None,
            observe: None,
            at_secs: 0,
        }
    }

    /// A ban of ten minutes.
    pub(crate) fn ban(evidence: Option<Evidence>, rule: Rule, reason: Option<&str>) -> BanRecord {
        BanRecord {
            ban: shield_engine::ban::Ban {
                client: "192.0.2.7".parse().unwrap(),
                serial: 1,
                since_ms: 1_000,
                ends: Ends::At { boot_ms: 0, wall_ms: 601_000 },
                offence: std::num::NonZeroU32::new(1),
                rule,
                place: shield_engine::ban::Place::Everywhere,
            },
            reason: reason.map(str::to_owned),
            evidence: evidence.map(Box::new),
        }
    }

    fn measures(measures: &[(&str, f64, f64)]) -> Vec<Measure> {
        let measure =
            |&(name, value, threshold): &(&str, f64, f64)| Measure { name: name.into(), value, threshold };
        measures.iter().map(measure).collect()
    }

    #[test]
    fn causes() {
        let check = |evidence, rule, reason, expected: &str| {
            assert_eq!(cause(&ban(evidence, rule, reason)), expected);
        };
        check(None, Rule::Operator, None, "banned by an operator");
        check(None, Rule::Operator, Some("scraping"), "scraping");
        check(None, Rule::Imported, None, "taken from an imported list");
        check(None, Rule::Remote, Some("banned by web-1: probing"), "banned by web-1: probing");
        check(None, Rule::Probing, None, "many different paths that do not exist");
        check(None, Rule::Network, Some("escalated"), "escalated. several banned clients in one network");
        let mut one = evidence(Rule::Behaviour, &[("logins_60s", 1.0, 1.0)]);
        (one.requests, one.errors) = (1, 1);
        check(
            Some(one),
            Rule::Behaviour,
            Some("a\u{1b}b"),
            "a\\u{1b}b. 1 failed login in 60 s (limit 1). 1 request in 60 s, all failed",
        );
    }

    #[test]
    fn what_fired_has_its_value_and_limit() {
        let check = |rule, measures: &[(&str, f64, f64)], expected: &str| {
            assert_eq!(fired(&evidence(rule, measures)), expected);
        };
        let surge = [("failures", 73.0, 60.0), ("failures", 73.0, 4.0), ("failures_before", 40.0, 15.0)];
        check(Rule::ErrorSurge, &surge, "73 failed requests in 60 s (limit 60)");
        let malformed = [("malformed_requests", 10.0, 10.0)];
        check(Rule::ErrorSurge, &malformed, "10 malformed requests in 60 s (limit 10)");
        check(
            Rule::Probing,
            &[("probes_60s", 12.5, 10.0)],
            "12.5 points for probes for vulnerabilities in 60 s (limit 10)",
        );
        check(
            Rule::Probing,
            &[("targets_of_a_campaign", 3.0, 3.0), ("clients_of_the_campaign", 7.0, 2.0)],
            "3 targets that clients banned before asked for too (limit 3)",
        );
        let far = "3.72 req/s, 36.2 standard deviations above the usual 0.10 req/s (limit 2)";
        check(Rule::ZScore, &[("z-score", 36.2, 2.0)], far);
        let many = "3.72 req/s, 37.2 times the usual 0.10 req/s (limit 0.50 req/s)";
        check(Rule::RateMultiplier, &[("rate", 3.72, 0.5)], many);
        check(Rule::Behaviour, &[("logins_60s", 1.0, 1.0)], "1 failed login in 60 s (limit 1)");
        check(Rule::Behaviour, &[("logins_burst", 7.0, 7.0)], "7 failed logins within seconds (limit 7)");
        let paths = "150 different paths in 60 s, unlike other clients (limit 120)";
        check(Rule::Behaviour, &[("distinct_paths", 150.0, 120.0)], paths);
        check(Rule::Behaviour, &[("of_a_later_version", 1.0, 0.0)], "x=1 > threshold=0");
        check(Rule::Network, &[], "x=1 > threshold=0");
    }

    #[test]
    fn a_tightened_limit_has_its_reason() {
        let mut tightened = evidence(Rule::ZScore, &[("z-score", 5.434, 1.2)]);
        tightened.tightened = true;
        let text = fired(&tightened);
        assert!(text.ends_with("(limit 1.2, lowered because so many of its requests failed)"), "{text}");
    }

    #[test]
    fn a_global_anomaly_has_its_distance() {
        let text = "9.87 req/s server-wide, 11.4 standard deviations above the usual 2.81 req/s";
        assert_eq!(global_anomaly(9.87, 2.81, 0.62), text);
    }

    #[test]
    fn a_rules_answer_shows_what_it_saw() {
        let check = |fires, not_asked: Option<&str>, values: &[(&str, f64, f64)], expected: &str| {
            let view = RuleView {
                rule: Rule::Behaviour,
                fires,
                not_asked: not_asked.map(str::to_owned),
                measures: measures(values),
            };
            assert_eq!(rule_answer(&view), expected);
        };
        let seen = [
            ("logins_60s", 0.0, 30.0),
            ("distinct_paths", 3.0, 120.0),
            ("four_times_assets", 3.0, 40.0),
            ("distinct_paths", 3.0, 8.0),
            ("z-score", -1.5, 6.0),
        ];
        let text = "does not fire: 3 different paths in 60 s (limit 120), 1.5 standard deviations below the usual rate (limit 6)";
        check(false, None, &seen, text);
        check(false, None, &[], "does not fire: nothing it looks for was seen");
        check(true, None, &[("logins_60s", 31.0, 30.0)], "fires: 31 failed logins in 60 s (limit 30)");
        check(false, Some("warming up"), &[], "skipped (warming up)");
        let observed = "fires and does nothing (only observes): 31 failed logins in 60 s (limit 30)";
        check(true, Some("only observes"), &[("logins_60s", 31.0, 30.0)], observed);
    }

    /// The first check of each clause of `detect::rules` is what its evidence begins with: each must have a sentence.
    #[test]
    fn whatever_can_fire_has_a_sentence_of_its_own() {
        let first = [
            "pages_sustained",
            "pages_burst",
            "pages_in_one_second",
            "kinds_of_paths",
            "score",
            "targets_of_a_campaign",
            "probes_of_its_network",
            "malformed_requests",
            "failures",
            "z-score",
            "rate",
            "logins_60s",
            "logins_burst",
            "remote_calls_60s",
            "distinct_paths",
            "posts_to_one_path",
            "requests_for_one_page",
        ];
        let source = [
            include_str!("../../engine/src/detect/rules.rs"),
            include_str!("../../engine/src/detect/baseline.rs"),
            include_str!("../../engine/src/detect/company.rs"),
        ]
        .concat();
        for name in first {
            assert!(source.contains(&format!("\"{name}\"")), "the rules know no {name} any more");
            let text = fired(&evidence(Rule::Behaviour, &[(name, 3.0, 2.0)]));
            assert_ne!(text, "x=1 > threshold=0", "{name} has no sentence");
        }
    }
}
