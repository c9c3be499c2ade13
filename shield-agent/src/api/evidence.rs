//! The detector's measures in plain words, for people who do not know its names: `73 failed requests in 60 s (limit 60)`.
//! The names themselves stay in JSON, in the audit log and in a chat's second line.

use shield_engine::verdict::{Evidence, Measure};

/// What fired, in plain words, with the value and its limit.
pub(crate) fn fired(evidence: &Evidence) -> String {
    let tightened = if evidence.tightened { ", lowered because so many of its requests failed" } else { "" };
    let first = evidence.measures.first();
    let (value, limit) = match first.map(|measure| (measure.name.as_str(), measure)) {
        Some(("z-score", measure)) => (far_above(evidence), number(measure.threshold)),
        Some(("rate", measure)) => (times_the_usual(evidence), per_sec(measure.threshold)),
        Some((_, measure)) => match counted(measure) {
            Some(words) => (words, number(measure.threshold)),
            None => return evidence.condition.clone(),
        },
        None => return evidence.condition.clone(),
    };
    format!("{value} (limit {limit}{tightened})")
}

/// A global anomaly: how far the whole server's rate is above what was learned.
pub(crate) fn anomaly(rate: f64, mean: f64, stddev: f64) -> String {
    let deviations = if stddev > 0.0 { (rate - mean) / stddev } else { 0.0 };
    format!("{} in all, {} the usual {}", per_sec(rate), deviations_above(deviations), per_sec(mean))
}

/// What a rule looked at, fired or not: what was seen of it, each beside its limit. What only compares two counts is
/// left to the table of values: alone it says nothing to a person.
pub(crate) fn told(measures: &[Measure]) -> String {
    let mut told: Vec<String> = Vec::new();
    for (at, measure) in measures.iter().enumerate() {
        let is_first = !measures[..at].iter().any(|before| before.name == measure.name);
        if is_first && measure.value != 0.0 {
            told.extend(beside_its_limit(measure));
        }
    }
    if told.is_empty() { "nothing of the kind was seen".to_owned() } else { told.join(", ") }
}

fn beside_its_limit(measure: &Measure) -> Option<String> {
    let limit = number(measure.threshold);
    match measure.name.as_str() {
        "z-score" => Some(format!("{} the usual rate (limit {limit})", deviations_above(measure.value))),
        "rate" => Some(format!("{} (limit {})", per_sec(measure.value), per_sec(measure.threshold))),
        _ => counted(measure).map(|words| format!("{words} (limit {limit})")),
    }
}

/// A count with its noun; `None` for what is no count.
fn counted(measure: &Measure) -> Option<String> {
    let nouns = match measure.name.as_str() {
        "pages_sustained" => ("page at a stretch", "pages at a stretch"),
        "pages_burst" => ("page within a few seconds", "pages within a few seconds"),
        "requests_for_one_page" => {
            ("request for one and the same page", "requests for one and the same page")
        }
        "probes_60s" => ("probe for weak spots in 60 s", "probes for weak spots in 60 s"),
        "probes_600s" => ("probe for weak spots in 10 min", "probes for weak spots in 10 min"),
        "scripts_answered_alike" => {
            ("script asked for that does not exist", "scripts asked for that do not exist")
        }
        "malformed_requests" => ("malformed request in 60 s", "malformed requests in 60 s"),
        "failures" => ("failed request in 60 s", "failed requests in 60 s"),
        "logins_60s" => ("attempt to log in within 60 s", "attempts to log in within 60 s"),
        "logins_burst" => ("attempt to log in within seconds", "attempts to log in within seconds"),
        "remote_calls_60s" => ("remote call in 60 s", "remote calls in 60 s"),
        "distinct_paths" => {
            ("path in 60 s, unlike other clients", "different paths in 60 s, unlike other clients")
        }
        "posts_to_one_path" => {
            ("form sent to one path in 60 s", "forms sent to one path in 60 s, unlike other clients")
        }
        "requests" => ("request in 60 s", "requests in 60 s"),
        _ => return None,
    };
    let noun = if measure.value == 1.0 { nouns.0 } else { nouns.1 };
    Some(format!("{} {noun}", number(measure.value)))
}

fn far_above(evidence: &Evidence) -> String {
    let deviations = evidence.measures.first().map_or(evidence.z_score, |measure| measure.value);
    format!(
        "{}, {} the usual {}",
        per_sec(evidence.rate),
        deviations_above(deviations),
        per_sec(evidence.mean)
    )
}

fn times_the_usual(evidence: &Evidence) -> String {
    let times = if evidence.mean > 0.0 { evidence.rate / evidence.mean } else { 0.0 };
    format!("{}, {} times the usual {}", per_sec(evidence.rate), number(times), per_sec(evidence.mean))
}

fn deviations_above(deviations: f64) -> String {
    let side = if deviations < 0.0 { "below" } else { "above" };
    format!("{} standard deviations {side}", number(deviations.abs()))
}

fn per_sec(rate: f64) -> String {
    format!("{rate:.2} req/s")
}

/// Counts as they are; of anything else what a person wants of it: three figures at most.
fn number(value: f64) -> String {
    match value.abs() {
        _ if value.fract() == 0.0 => format!("{value:.0}"),
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}").trim_end_matches('0').to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shield_engine::verdict::Rule;

    fn evidence(rule: Rule, measures: &[(&str, f64, f64)]) -> Evidence {
        let measure = |&(name, value, threshold): &(&str, f64, f64)| Measure {
            name: name.to_owned(),
            value,
            threshold,
        };
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
            measures: measures.iter().map(measure).collect(),
            top_paths: Vec::new(),
            at_secs: 0,
        }
    }

    #[test]
    fn what_fired_reads_as_a_person_says_it() {
        let check = |rule, measures: &[(&str, f64, f64)], expected: &str| {
            assert_eq!(fired(&evidence(rule, measures)), expected);
        };
        let surge = [("failures", 73.0, 60.0), ("failures", 73.0, 4.0), ("failures_before", 40.0, 15.0)];
        check(Rule::ErrorSurge, &surge, "73 failed requests in 60 s (limit 60)");
        check(Rule::Probing, &[("probes_60s", 12.5, 10.0)], "12.5 probes for weak spots in 60 s (limit 10)");
        let far = "3.72 req/s, 36.2 standard deviations above the usual 0.10 req/s (limit 2)";
        check(Rule::ZScore, &[("z-score", 36.2, 2.0)], far);
        let many = "3.72 req/s, 37.2 times the usual 0.10 req/s (limit 0.50 req/s)";
        check(Rule::RateMultiplier, &[("rate", 3.72, 0.5)], many);
        check(Rule::Behaviour, &[("logins_60s", 1.0, 1.0)], "1 attempt to log in within 60 s (limit 1)");
        check(Rule::Behaviour, &[("of_a_later_version", 1.0, 0.0)], "x=1 > threshold=0");
        check(Rule::Network, &[], "x=1 > threshold=0");
    }

    #[test]
    fn a_tightened_limit_is_said() {
        let mut tightened = evidence(Rule::ZScore, &[("z-score", 5.434, 1.2)]);
        tightened.tightened = true;
        let words = fired(&tightened);
        assert!(words.ends_with("(limit 1.2, lowered because so many of its requests failed)"), "{words}");
    }

    #[test]
    fn a_global_anomaly_has_its_distance() {
        let words = "9.87 req/s in all, 11.4 standard deviations above the usual 2.81 req/s";
        assert_eq!(anomaly(9.87, 2.81, 0.62), words);
    }

    #[test]
    fn a_rule_that_looked_at_much_tells_what_was_seen() {
        let seen = evidence(
            Rule::Behaviour,
            &[
                ("logins_60s", 0.0, 30.0),
                ("distinct_paths", 3.0, 120.0),
                ("twenty_times_assets", 3.0, 40.0),
                ("distinct_paths", 3.0, 8.0),
                ("z-score", -1.5, 6.0),
            ],
        );
        let words = "3 different paths in 60 s, unlike other clients (limit 120), \
                     1.5 standard deviations below the usual rate (limit 6)";
        assert_eq!(told(&seen.measures), words);
        assert_eq!(told(&[]), "nothing of the kind was seen");
    }

    /// The first check of each clause of `engine::rules` is what its evidence begins with: each must have words.
    #[test]
    fn whatever_can_fire_has_words_of_its_own() {
        let first = [
            "pages_sustained",
            "pages_burst",
            "probes_60s",
            "scripts_answered_alike",
            "probes_600s",
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
        ]
        .concat();
        for name in first {
            assert!(source.contains(&format!("\"{name}\"")), "the rules know no {name} any more");
            let words = fired(&evidence(Rule::Behaviour, &[(name, 3.0, 2.0)]));
            assert_ne!(words, "x=1 > threshold=0", "{name} has no words");
        }
    }
}
