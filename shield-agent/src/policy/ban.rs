//! The question about a ban as a document, and the answer taken from one.

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::{Map, Value, json};

use super::words;
use crate::api::types::MAX_TERM_SECS;
use shield_engine::backoff::Term;
use shield_engine::operator_rules::{PolicyAction, PolicyQuestion, PolicyTerm, PolicyWord};

/// What a client wrote itself and could make long: so many of its paths, so much of each.
const MAX_PATHS: usize = 10;
const MAX_PATH_CHARS: usize = 200;
/// The rules' words in a ban's record.
const MAX_BECAUSE_CHARS: usize = 200;

/// The document that the rules see. Bounded: what a client asks for does not make a rule slow.
pub(crate) fn document(question: &PolicyQuestion, host: &str, zone: &TimeZone) -> Value {
    let evidence = &question.evidence;
    let network = question.client.network();
    let measures: Map<String, Value> = (evidence.measures.iter())
        .map(|m| (m.name.clone(), json!({ "value": m.value, "threshold": m.threshold })))
        .collect();
    let paths: Vec<Value> = (evidence.top_paths.iter().take(MAX_PATHS))
        .map(|p| json!({ "path": p.path.chars().take(MAX_PATH_CHARS).collect::<String>(), "count": p.count }))
        .collect();
    json!({
        "client": question.client.to_string(),
        "family": if network.addr().is_ipv4() { 4 } else { 6 },
        "behind_proxy": question.by_proxy,
        "in_good_standing": question.in_good_standing,
        "rule": evidence.rule.name(),
        "condition": evidence.condition,
        "offence": question.offence,
        "term": match question.term {
            Term::Secs(secs) => json!(secs),
            Term::Permanent => json!("permanent"),
        },
        "bans": question.bans,
        "rate": evidence.rate,
        "mean": evidence.mean,
        "stddev": evidence.stddev,
        "z_score": evidence.z_score,
        "threshold": evidence.threshold,
        "requests": evidence.requests,
        "errors": evidence.errors,
        "window_secs": evidence.window_secs,
        "baseline": evidence.baseline,
        "tightened": evidence.tightened,
        "measures": measures,
        "top_paths": paths,
        "host": host,
        "time": time(question.at_ms, zone),
    })
}

/// The moment of the question, taken apart: a rule has no clock.
pub(super) fn time(at_ms: i64, zone: &TimeZone) -> Value {
    let at = Timestamp::from_millisecond(at_ms).unwrap_or_default();
    let local = zone.to_datetime(at);
    json!({
        "unix_secs": at.as_second(),
        "utc": crate::text::utc(at_ms),
        "zone": zone.iana_name().unwrap_or("UTC"),
        "date": local.date().to_string(),
        "hour": local.hour(),
        "minute": local.minute(),
        "weekday": WEEKDAYS[usize::from(local.weekday().to_monday_zero_offset().unsigned_abs()) % WEEKDAYS.len()],
    })
}

const WEEKDAYS: [&str; 7] = ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"];

/// The answer in a rule's value. No value lets the verdict stand.
///
/// # Errors
/// When it is none, in words.
pub(crate) fn answer(value: Option<Value>) -> Result<PolicyWord, String> {
    let stands = PolicyWord { action: PolicyAction::Ban, term: None, because: None, failed: None };
    let Some(value) = value else { return Ok(stands) };
    let Value::Object(object) = value else {
        return Err(format!("the decision is {} and no object with action", shortened(&value)));
    };
    let mut word = stands;
    let mut has_action = false;
    for (name, value) in &object {
        match (name.as_str(), value) {
            ("action", Value::String(action)) => {
                has_action = true;
                word.action = match action.as_str() {
                    "ban" => PolicyAction::Ban,
                    "observe" => PolicyAction::Observe,
                    "slow" => PolicyAction::Slow,
                    _ => {
                        return Err(format!("the action {:?} is not ban, observe or slow", shortened(value)));
                    }
                };
            }
            ("term", value) => word.term = Some(term(value)?),
            ("because", Value::String(because)) => word.because = Some(words(because, MAX_BECAUSE_CHARS)),
            ("action" | "because", other) => {
                return Err(format!("{name} is {} and no text", shortened(other)));
            }
            (other, _) => {
                return Err(format!(
                    "the decision has {:?}, and only action, term, because are known",
                    words(other, 40)
                ));
            }
        }
    }
    if !has_action {
        return Err("the decision has no action".to_owned());
    }
    Ok(word)
}

fn term(value: &Value) -> Result<PolicyTerm, String> {
    if value.as_str() == Some("permanent") {
        return Ok(PolicyTerm::Permanent);
    }
    // Rego has numbers alone: 600.0 is a whole one too.
    let secs = value
        .as_u64()
        .or_else(|| value.as_f64().filter(|secs| secs.fract() == 0.0 && *secs > 0.0).map(|secs| secs as u64));
    match secs {
        Some(secs @ 1..=MAX_TERM_SECS) => Ok(PolicyTerm::Secs(secs)),
        _ => Err(format!(
            "the term is {}: seconds from 1 to {MAX_TERM_SECS}, or \"permanent\"",
            shortened(value)
        )),
    }
}

fn shortened(value: &Value) -> String {
    words(&value.to_string(), 60)
}

#[cfg(test)]
mod tests {
    use super::super::Point;
    use super::*;

    #[test]
    fn answers_are_read_and_nonsense_is_refused() {
        let word = |value: Value| answer(Some(value));
        assert_eq!(answer(None).unwrap().action, PolicyAction::Ban);
        assert_eq!(word(json!({"action": "slow"})).unwrap().action, PolicyAction::Slow);
        let full = word(json!({"action": "ban", "term": 600, "because": "a\nb"})).unwrap();
        assert_eq!((full.term, full.because.as_deref()), (Some(PolicyTerm::Secs(600)), Some("a b")));
        let permanent = word(json!({"action": "ban", "term": "permanent"})).unwrap();
        assert_eq!(permanent.term, Some(PolicyTerm::Permanent));
        for wrong in [
            json!(true),
            json!([]),
            json!({}),
            json!({"term": 5}),
            json!({"action": "kill"}),
            json!({"action": 1}),
            json!({"action": "ban", "term": 0}),
            json!({"action": "ban", "term": -1}),
            json!({"action": "ban", "term": 1.5}),
            json!({"action": "ban", "term": 1e300}),
            json!({"action": "ban", "becuase": "x"}),
        ] {
            assert!(word(wrong.clone()).is_err(), "{wrong}");
        }
        let long = word(json!({"action": "ban", "because": "x".repeat(9_000)})).unwrap();
        assert_eq!(long.because.unwrap().len(), MAX_BECAUSE_CHARS);
    }

    fn question() -> PolicyQuestion {
        let mut evidence = crate::notify::samples::evidence();
        evidence.top_paths = (0..50)
            .map(|n| shield_engine::verdict::PathCount {
                path: format!("/{n}/{}", "ä".repeat(5_000)),
                count: 1,
            })
            .collect();
        PolicyQuestion {
            id: 1,
            client: "203.0.113.7".parse().unwrap(),
            by_proxy: false,
            in_good_standing: false,
            offence: 1,
            term: Term::Secs(600),
            bans: 3,
            evidence: Box::new(evidence),
            at_ms: 1_795_996_801_000,
        }
    }

    #[test]
    fn the_document_has_the_keys_of_the_sample_and_is_bounded() {
        let document = document(&question(), "web1", &TimeZone::UTC);
        let names = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(&document), names(&Point::Ban.sample()));
        assert_eq!(document["time"], Point::Ban.sample()["time"]);
        assert!(document.to_string().len() < 16 * 1024, "{}", document.to_string().len());
    }

    #[test]
    fn the_hour_is_that_of_the_zone() {
        let time = |zone: &str| time(1_795_996_801_000, &TimeZone::get(zone).unwrap());
        let berlin = time("Europe/Berlin");
        assert_eq!((berlin["hour"].as_u64(), berlin["date"].as_str()), (Some(1), Some("2026-11-30")));
        assert_eq!(time("America/New_York")["weekday"], "sunday");
    }
}
