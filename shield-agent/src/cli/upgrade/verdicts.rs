//! The verdicts of two versions on the same lines, compared. Pure.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::text;

/// Differences that are shown.
const SHOWN: usize = 20;

/// One line of `replay --json`, as far as it is compared.
#[derive(Debug, Deserialize)]
struct Line {
    event: String,
    #[serde(default)]
    client: Option<String>,
    #[serde(default)]
    rule: Option<String>,
    #[serde(default)]
    timestamp: Option<String>,
    #[serde(default)]
    offence: Option<u32>,
    #[serde(default)]
    term_secs: Option<u64>,
    #[serde(default)]
    because: Option<String>,
}

/// A verdict, without when it came: a version may be some requests earlier, and that is no other verdict.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Verdict {
    client: String,
    rule: String,
    offence: Option<u32>,
    term_secs: Option<u64>,
    /// Why nobody was banned for it.
    not_made: Option<String>,
}

/// What one version made of the lines.
#[derive(Debug, Default)]
pub(super) struct Verdicts(BTreeMap<Verdict, String>);

impl Verdicts {
    /// Reads the output of `replay --json`.
    ///
    /// # Errors
    /// When it is none, or not whole.
    pub(super) fn read(output: &str) -> Result<Verdicts> {
        let mut verdicts = BTreeMap::new();
        let mut is_whole = false;
        for line in output.lines() {
            let line: Line =
                serde_json::from_str(line).context("could not read a line of its replay's output")?;
            is_whole |= line.event == "summary";
            let (Some(client), Some(rule)) = (line.client, line.rule) else { continue };
            let verdict = Verdict {
                client,
                rule,
                offence: line.offence,
                term_secs: line.term_secs,
                not_made: line.because,
            };
            verdicts.insert(verdict, line.timestamp.unwrap_or_default());
        }
        anyhow::ensure!(is_whole, "could not read its replay's output: the summary at its end is missing");
        Ok(Verdicts(verdicts))
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

/// The verdicts that only one of them has, each in a line; of many the first ones, and how many there are.
pub(super) fn differences(old: &Verdicts, new: &Verdicts) -> Vec<String> {
    let only = |who: &str, of: &Verdicts, other: &Verdicts| -> Vec<String> {
        let lacks = |verdict: &&Verdict| !other.0.contains_key(*verdict);
        let shown = |verdict: &Verdict| said(who, verdict, of.0.get(verdict).map_or("", String::as_str));
        of.0.keys().filter(lacks).map(shown).collect()
    };
    let mut all = only("only the installed version: ", old, new);
    all.extend(only("only the new version: ", new, old));
    let more = all.len().saturating_sub(SHOWN);
    all.truncate(SHOWN);
    if more > 0 {
        all.push(format!("and {more} more"));
    }
    all
}

fn said(who: &str, verdict: &Verdict, at: &str) -> String {
    let Verdict { client, rule, term_secs, not_made, .. } = verdict;
    let term = term_secs.map_or("for good".to_owned(), |secs| format!("for {}", text::duration(secs)));
    let line = match not_made {
        None => format!("{who}{client} banned {term} by {rule} ({at})"),
        Some(because) => {
            format!("{who}{client} would be banned {term} by {rule}, but is not: {because} ({at})")
        }
    };
    text::printable(&line)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SUMMARY: &str = r#"{"event":"summary","requests":1}"#;

    fn ban(client: &str, rule: &str, at: &str) -> String {
        format!(
            r#"{{"event":"ban","client":"{client}","rule":"{rule}","timestamp":"{at}","offence":1,"term_secs":600,"ip":"{client}","new":1}}"#
        )
    }

    fn read(lines: &[&str]) -> Verdicts {
        Verdicts::read(&lines.join("\n")).unwrap()
    }

    #[test]
    fn the_same_verdict_at_another_second_is_the_same() {
        let old = read(&[&ban("192.0.2.7", "flood", "10:00"), SUMMARY]);
        let new = read(&[&ban("192.0.2.7", "flood", "10:01"), SUMMARY]);
        assert!(differences(&old, &new).is_empty());
    }

    #[test]
    fn each_difference_is_named_with_its_side() {
        let old = read(&[&ban("192.0.2.7", "flood", "10:00"), &ban("192.0.2.8", "flood", "10:00"), SUMMARY]);
        let new =
            read(&[&ban("192.0.2.7", "probing", "10:00"), &ban("192.0.2.8", "flood", "10:00"), SUMMARY]);
        assert_eq!(
            differences(&old, &new),
            [
                "only the installed version: 192.0.2.7 banned for 10 min by flood (10:00)",
                "only the new version: 192.0.2.7 banned for 10 min by probing (10:00)",
            ]
        );
        let many: Vec<String> = (0..50).map(|n| ban(&format!("192.0.2.{n}"), "flood", "10:00")).collect();
        let lines: Vec<&str> = many.iter().map(String::as_str).chain([SUMMARY]).collect();
        let said = differences(&read(&lines), &read(&[SUMMARY]));
        assert_eq!((said.len(), said.last().map(String::as_str)), (21, Some("and 30 more")));
    }

    #[test]
    fn an_output_that_is_cut_is_no_output() {
        assert!(Verdicts::read(&ban("192.0.2.7", "flood", "10:00")).is_err());
        assert!(Verdicts::read("").is_err());
        assert!(Verdicts::read("rubbish").is_err());
    }
}
