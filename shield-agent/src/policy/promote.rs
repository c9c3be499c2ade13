//! Whether what a canary tried may go live: by the operators' own rules where they have any about this, else by those that come with
//! Shield. There is no other rule.
//!
//! The gate fails closed: without an answer nothing goes live, in words. What is in force goes on meanwhile, so that nobody is hurt.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;
use jiff::tz::TimeZone;
use serde_json::{Value, json};

use super::asking::{Asking, Unanswered};
use super::bundle::Bundle;
use super::{Point, ban, host_name, reasons};
use crate::api::types::{CanaryDifference, CanaryReport, CanaryState};
use crate::clock;

/// Clients that the rules see, the ones that matter most first.
const MAX_CLIENTS: usize = 50;
/// What a client wrote itself is in a condition.
const MAX_CONDITION_CHARS: usize = 200;

/// Whoever only reads gets a report that is at most this old: rules that end their process are not started for each reader.
const FRESH: Duration = Duration::from_millis(500);

/// Asks; keeps the rules' process for the next question about them.
#[derive(Debug, Default)]
pub(crate) struct Judge {
    loaded: Option<(Bundle, Asking)>,
    judged: Option<(Instant, CanaryReport)>,
}

impl Judge {
    /// The report of a moment ago, if there is one.
    pub(crate) fn last(&self) -> Option<CanaryReport> {
        let (at, report) = self.judged.as_ref()?;
        (at.elapsed() < FRESH).then(|| report.clone())
    }

    /// The report with what the rules say of it.
    pub(crate) fn judge(
        &mut self,
        report: CanaryReport,
        dir: Option<&Path>,
        least_secs: u64,
    ) -> CanaryReport {
        let mut report = report;
        if report.state != CanaryState::None {
            let input = document(&report, least_secs, clock::now().wall_ms, &TimeZone::system());
            report.refusals = self.refusals(dir, input);
        }
        if report.state != CanaryState::Running {
            self.loaded = None;
        }
        self.judged = Some((Instant::now(), report.clone()));
        report
    }

    /// The reasons against a promotion. Without a folder, or where it says nothing about promotions, the shipped rules have them.
    fn refusals(&mut self, dir: Option<&Path>, input: Value) -> Vec<String> {
        let asked = bundle(dir).map_err(|error| format!("{error:#}")).and_then(|bundle| {
            let answer = self.ask(bundle, input)?;
            reasons(Point::Promote, answer)
        });
        asked.unwrap_or_else(|why| {
            let hint = "`shield-agent policy check` and `policy eval promote` show what is wrong";
            vec![format!(
                "the policy could not be asked, and nothing goes live without its answer: {why}; {hint}"
            )]
        })
    }

    fn ask(&mut self, bundle: Bundle, input: Value) -> Result<Option<Value>, String> {
        let loaded = match self.loaded.take().filter(|(known, _)| *known == bundle) {
            Some(loaded) => loaded,
            None => {
                let asking = Asking::start(&bundle, Point::Promote).map_err(|why| why.to_string())?;
                (bundle, asking)
            }
        };
        let (_, asking) = self.loaded.insert(loaded);
        let told = asking.ask(Point::Promote.rule(), input);
        if matches!(told, Err(Unanswered::Broken(_))) {
            self.loaded = None;
        }
        told.map_err(|why| why.to_string())
    }
}

fn bundle(dir: Option<&Path>) -> Result<Bundle> {
    if let Some(dir) = dir {
        let bundle = Bundle::read(dir)?;
        if bundle.has_package(Point::Promote.package()) {
            return Ok(bundle);
        }
    }
    Ok(Bundle::shipped().only("promote"))
}

/// The document that the rules see.
pub(crate) fn document(report: &CanaryReport, least_secs: u64, now_ms: i64, zone: &TimeZone) -> Value {
    let figures = &report.figures;
    let site = &figures.site;
    let share = |part: u64, whole: u64| if whole == 0 { 0.0 } else { part as f64 / whole as f64 };
    let millis = |micros: u64| micros as f64 / 1000.0;
    let with = |mut object: Value, name: &str, value: Option<Value>| {
        if let (Some(value), Some(object)) = (value, object.as_object_mut()) {
            object.insert(name.to_owned(), value);
        }
        object
    };
    let candidate = json!({
        "bans": figures.canary_bans,
        "only": figures.only_canary,
        "client_share": share(figures.canary_bans, figures.clients),
        "known_good_hit": figures.known_good,
        "verified_bots_hit": figures.search_engines,
        "served_strangers_hit": figures.served_strangers,
        "slowed": figures.canary_slowed,
        "ns_per_line": report.ns_per_line,
    });
    let live = json!({
        "bans": figures.live_bans,
        "only": figures.only_live,
        "client_share": share(figures.live_bans, figures.clients),
    });
    let verdict = |micros: Option<u64>| micros.map(|micros| json!(millis(micros)));
    let answers = json!({ "answers": site.answers });
    let rate = (site.answers > 0).then(|| json!(share(site.errors, site.answers)));
    let differing: Vec<Value> = report.differing.iter().take(MAX_CLIENTS).map(client).collect();
    json!({
        "name": report.name,
        "host": host_name(),
        "time": ban::time(now_ms, zone),
        "state": match report.state {
            CanaryState::None => "none",
            CanaryState::Running => "running",
            CanaryState::Ended => "ended",
            CanaryState::Failed => "failed",
        },
        "hours": figures.observed_secs as f64 / 3600.0,
        "observed_secs": figures.observed_secs,
        "least_secs": least_secs,
        "lines": figures.lines,
        "lost_lines": figures.lost_lines,
        "lost_share": share(figures.lost_lines, figures.lines.saturating_add(figures.lost_lines)),
        "whole": figures.is_whole,
        "clients": figures.clients,
        "candidate": with(candidate, "p99_ms", verdict(figures.verdict_p99_us)),
        "live": with(live, "p99_ms", verdict(figures.live_verdict_p99_us)),
        "site": with(with(answers, "error_rate", rate), "p99_ms", site.p99_ms.map(|ms| json!(ms))),
        "differing": differing,
    })
}

fn client(difference: &CanaryDifference) -> Value {
    let (by, hit) = match (&difference.canary, &difference.live) {
        (Some(hit), _) => ("candidate", Some(hit)),
        (None, hit) => ("live", hit.as_ref()),
    };
    json!({
        "client": difference.client.to_string(),
        "banned_by": by,
        "rule": hit.map(|hit| hit.rule.name()),
        "condition": hit.and_then(|hit| hit.condition.as_deref()).map(|text| super::words(text, MAX_CONDITION_CHARS)),
        "requests": hit.map(|hit| hit.requests),
        "errors": hit.map(|hit| hit.errors),
        "known_good": difference.is_known_good,
        "verified_bot": difference.is_search_engine,
        "served_stranger": difference.is_served_stranger,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::types::CanaryHit;
    use crate::canary::figures::{Figures, Site};
    use shield_engine::verdict::Rule;

    fn report() -> CanaryReport {
        let hit = CanaryHit { at_ms: 1, rule: Rule::Probing, condition: None, requests: 14, errors: 2 };
        let differing = CanaryDifference {
            client: "203.0.113.9".parse().unwrap(),
            live: None,
            canary: Some(hit),
            why_not: None,
            is_known_good: false,
            is_search_engine: false,
            is_served_stranger: true,
        };
        CanaryReport {
            state: CanaryState::Running,
            name: Some("new.toml".to_owned()),
            figures: Figures {
                lines: 300,
                lost_lines: 100,
                clients: 50,
                canary_bans: 10,
                verdict_p99_us: Some(500),
                live_verdict_p99_us: Some(500),
                site: Site { answers: 200, errors: 3, p99_ms: Some(50) },
                ..Figures::default()
            },
            differing: vec![differing],
            ..CanaryReport::default()
        }
    }

    /// The keys of all objects, in depth.
    fn keys(value: &Value, at: &str) -> Vec<String> {
        match value {
            Value::Object(object) => {
                let below = |(name, value): (&String, &Value)| {
                    let at = format!("{at}.{name}");
                    [vec![at.clone()], keys(value, &at)].concat()
                };
                let mut found: Vec<String> = object.iter().flat_map(below).collect();
                found.sort();
                found
            }
            Value::Array(list) => list.first().map(|first| keys(first, at)).unwrap_or_default(),
            _ => Vec::new(),
        }
    }

    #[test]
    fn the_document_has_the_keys_of_the_sample() {
        let found = document(&report(), 3_600, 1_795_996_801_000, &TimeZone::UTC);
        assert_eq!(keys(&found, ""), keys(&Point::Promote.sample(), ""));
        assert_eq!(
            (found["lost_share"].as_f64(), found["candidate"]["client_share"].as_f64()),
            (Some(0.25), Some(0.2))
        );
        assert_eq!(
            (found["site"]["error_rate"].as_f64(), found["site"]["p99_ms"].as_u64()),
            (Some(0.015), Some(50))
        );
    }

    /// What is not known is not in the question.
    #[test]
    fn a_site_without_answers_has_no_rates() {
        let found = document(&CanaryReport::default(), 3_600, 0, &TimeZone::UTC);
        assert_eq!(found["site"], json!({ "answers": 0 }));
        assert!(found["candidate"].get("p99_ms").is_none());
    }

    #[test]
    fn without_a_package_about_promotions_the_shipped_rules_are_asked() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.rego");
        std::fs::write(&path, "package shield.ban").unwrap();
        let names = |dir| bundle(dir).unwrap().files.into_iter().map(|file| file.path).collect::<Vec<_>>();
        assert_eq!(names(Some(folder.path())), ["promote.rego", "promote_test.rego"]);
        assert_eq!(names(None), names(Some(folder.path())));
        std::fs::write(&path, "package shield.promote").unwrap();
        assert_eq!(names(Some(folder.path())).len(), 1);
    }

    #[test]
    fn without_an_answer_nothing_goes_live() {
        let refused = Judge::default().refusals(Some(Path::new("/nonexistent")), json!({}));
        assert!(
            refused.len() == 1 && refused[0].contains("nothing goes live without its answer"),
            "{refused:?}"
        );
        assert!(refused[0].contains("could not read the policy's folder /nonexistent"), "{refused:?}");
    }
}
