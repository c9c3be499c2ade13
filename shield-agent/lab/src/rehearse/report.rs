//! The report of an exercise: as Markdown, as a page, and as JSON for programs.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use crate::agent_api::Explained;
use crate::attack::{Kind, Outcome};
use crate::environment::Profile;
use crate::visitors;

/// What an exercise showed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The environment's id.
    pub environment: String,
    /// How its clients reached the server.
    pub profile: Profile,
    /// In the order in which they were made.
    pub attacks: Vec<Attacked>,
    /// What the visitors met.
    pub visitors: visitors::Outcome,
    /// Clients of the log that did not come by: refused ones, and more than can be replayed.
    pub left_out: usize,
    /// Bans of somebody who must never be dropped, with their reasons.
    pub banned_visitors: Vec<String>,
    /// Parts of the agent that did not work at the end.
    pub faults: Vec<String>,
}

/// An attack and what is to be thought of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Attacked {
    /// What was measured.
    #[serde(flatten)]
    pub outcome: Outcome,
    /// In a word.
    pub verdict: Verdict,
    /// Why it was not stopped; nothing if it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// What to change; nothing if nothing needs to be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub change: Option<String>,
}

/// What is to be thought of an attack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// All its addresses were banned, and nothing came through after that.
    Stopped,
    /// Not all its addresses were banned, but they are let through no faster than one slowed client.
    Slowed,
    /// It is known that it may pass: `docs/evading.md` says how much of it.
    KnownToPass,
    /// Some of its addresses were not banned.
    Passed,
    /// It was answered though it was banned.
    Leaked,
}

impl Verdict {
    fn words(self) -> &'static str {
        match self {
            Verdict::Stopped => "stopped",
            Verdict::Slowed => "slowed",
            Verdict::KnownToPass => "known to pass",
            Verdict::Passed => "PASSED",
            Verdict::Leaked => "LEAKED",
        }
    }
}

impl Attacked {
    /// Judges an attack; `explain` asks the agent why an address is not banned.
    pub(super) fn of(outcome: Outcome, explain: impl FnOnce(&Outcome) -> Option<Explained>) -> Attacked {
        let is_stopped = outcome.leaked == 0 && outcome.banned_after_ms.is_some();
        let explained = if is_stopped { None } else { explain(&outcome) };
        let is_slowed = explained.as_ref().is_some_and(|explained| explained.slowed.is_some());
        let verdict = match &outcome {
            outcome if outcome.leaked > 0 => Verdict::Leaked,
            outcome if outcome.banned_after_ms.is_some() => Verdict::Stopped,
            _ if is_slowed => Verdict::Slowed,
            outcome if outcome.kind.may_pass() => Verdict::KnownToPass,
            _ => Verdict::Passed,
        };
        let why = match verdict {
            Verdict::Stopped => None,
            Verdict::Leaked => Some(LEAK.to_owned()),
            _ => explained.map(|explained| explained.words),
        };
        let change = match verdict {
            Verdict::Stopped => None,
            Verdict::Leaked => Some(LEAK_CHANGE.to_owned()),
            _ => Some(change(outcome.kind).to_owned()),
        };
        Attacked { outcome, verdict, why, change }
    }

    /// One line about it.
    pub fn line(&self) -> String {
        let Outcome { kind, passed, sent, .. } = &self.outcome;
        let banned = match self.outcome.banned_after_ms {
            Some(ms) => format!("banned after {passed} requests and {ms} ms"),
            None => format!("{} of {} addresses banned", self.outcome.banned, self.outcome.addresses),
        };
        format!("{}: {}, {banned}, {passed} of {sent} answered", kind.name(), self.verdict.words())
    }

    fn is_well(&self) -> bool {
        matches!(self.verdict, Verdict::Stopped | Verdict::Slowed | Verdict::KnownToPass)
    }
}

const LEAK: &str = "the ban is in force, and nginx still answered: the packets come from another address than the one that is banned, or a part of the agent does not work";
const LEAK_CHANGE: &str = "if a proxy stands in front of nginx, let nginx refuse the banned: `shield-agent init nginx-deny` prints the lines (docs/behind-a-proxy.md). Else see `shield-agent doctor`";

fn change(kind: Kind) -> &'static str {
    match kind {
        Kind::Ipv6Hopping | Kind::Botnet => {
            "`[ban] networks = \"ban\"` bans the network when enough of its clients attack; an own list of networks does for those that return"
        }
        Kind::Login | Kind::EvasionPatience => {
            "let the login's answer to a wrong password be 401 or 403, and limit it in nginx (limit_req); `[detect] behaviour.logins` is the bar"
        }
        Kind::Flood => {
            "`[detect] flood.page_requests` and `flood.rate` are the bars; limit_req in nginx helps meanwhile"
        }
        Kind::SlowScan | Kind::EvasionServed => {
            "whoever is slow or mostly served stays below the bar (docs/evading.md); keep off the web server what must not be found"
        }
        _ => {
            "see that no rule is off or only observes (`shield-agent config`), and that the log has each request's status"
        }
    }
}

impl Report {
    /// Nobody was hurt, and no attack passed that is not known to.
    pub fn is_well(&self) -> bool {
        self.attacks.iter().all(Attacked::is_well)
            && self.banned_visitors.is_empty()
            && self.visitors.hurt.is_empty()
            && self.faults.is_empty()
    }

    /// For a terminal, a ticket, a repository.
    pub fn markdown(&self) -> String {
        let mut text = String::new();
        let verdict = if self.is_well() { "Protected" } else { "Something to mend" };
        let _ = writeln!(text, "# Rehearsal: {verdict}\n");
        let _ = writeln!(text, "Environment {}.\n", self.environment);
        text += "| attack | verdict | addresses | answered before the ban | banned after | answered in spite of it |\n";
        text += "| --- | --- | --- | --- | --- | --- |\n";
        for attacked in &self.attacks {
            let _ = writeln!(text, "| {} |", attacked.cells().join(" | "));
        }
        text += "\n## Visitors\n\n";
        for line in self.visitor_lines() {
            let _ = writeln!(text, "- {line}");
        }
        let notes = self.notes();
        if !notes.is_empty() {
            text += "\n## What to change\n\n";
        }
        for (what, said) in notes {
            let _ = writeln!(text, "- **{what}**: {said}");
        }
        text
    }

    /// A page that needs nothing else.
    pub fn html(&self) -> String {
        let mut text = String::from(HEAD);
        let verdict = if self.is_well() { "Protected" } else { "Something to mend" };
        let _ =
            writeln!(text, "<h1>Rehearsal: {verdict}</h1><p>Environment {}.</p>", escaped(&self.environment));
        text += "<table><tr><th>attack<th>verdict<th>addresses<th>answered before the ban<th>banned after<th>answered in spite of it</tr>\n";
        for attacked in &self.attacks {
            let cells: String =
                attacked.cells().iter().map(|cell| format!("<td>{}", escaped(cell))).collect();
            let _ = writeln!(text, "<tr>{cells}</tr>");
        }
        text += "</table><h2>Visitors</h2><ul>\n";
        for line in self.visitor_lines() {
            let _ = writeln!(text, "<li>{}</li>", escaped(&line));
        }
        text += "</ul>\n";
        let notes = self.notes();
        if !notes.is_empty() {
            text += "<h2>What to change</h2><ul>\n";
            for (what, said) in notes {
                let _ = writeln!(text, "<li><b>{}</b>: {}</li>", escaped(&what), escaped(&said));
            }
            text += "</ul>\n";
        }
        text
    }

    fn visitor_lines(&self) -> Vec<String> {
        let visitors = &self.visitors;
        let mut lines = vec![format!(
            "{} visitors sent {} requests; {} got no answer, {} were refused or cut off",
            visitors.clients, visitors.sent, visitors.lost, visitors.failed
        )];
        if !visitors.hurt.is_empty() {
            let hurt: Vec<String> = visitors.hurt.iter().take(20).map(ToString::to_string).collect();
            lines.push(format!("HURT: {} of them ({})", visitors.hurt.len(), hurt.join(", ")));
        }
        lines.extend(self.banned_visitors.iter().map(|ban| format!("BANNED: {ban}")));
        if self.left_out > 0 {
            let left_out = self.left_out;
            lines.push(format!(
                "{left_out} clients of the log did not come by: most of their requests were refused, or the log is busier than a rehearsal"
            ));
        }
        lines
    }

    /// What to see to, each with its reason.
    fn notes(&self) -> Vec<(String, String)> {
        let of_attack = |attacked: &Attacked| {
            let change = attacked.change.as_ref()?;
            let why = attacked.why.as_ref().map(|why| format!("{why}. ")).unwrap_or_default();
            Some((attacked.outcome.kind.name().to_owned(), format!("{why}What to change: {change}")))
        };
        let mut notes: Vec<(String, String)> = self.attacks.iter().filter_map(of_attack).collect();
        if !self.banned_visitors.is_empty() {
            let what = "tell Shield what is normal here (`[detect] expected_misses`, `ignore_paths`, `monitors`); `shield-agent suggest` proposes limits from the log";
            notes.push(("banned visitors".to_owned(), what.to_owned()));
        }
        notes.extend(self.faults.iter().map(|fault| ("the agent".to_owned(), fault.clone())));
        notes
    }
}

impl Attacked {
    fn cells(&self) -> [String; 6] {
        let outcome = &self.outcome;
        let after = match outcome.banned_after_ms {
            Some(ms) => format!("{:.1} s", ms as f64 / 1e3),
            None if outcome.banned > 0 => format!("{} of {}", outcome.banned, outcome.addresses),
            None => "never".to_owned(),
        };
        [
            outcome.kind.name().to_owned(),
            self.verdict.words().to_owned(),
            outcome.addresses.to_string(),
            format!("{} of {}", outcome.passed, outcome.sent),
            after,
            outcome.leaked.to_string(),
        ]
    }
}

const HEAD: &str = "<!doctype html><meta charset=\"utf-8\"><title>Rehearsal</title>\
<style>body{font:16px sans-serif;max-width:60em;margin:2em auto;padding:0 1em}\
table{border-collapse:collapse}td,th{border:1px solid #999;padding:.3em .6em;text-align:left}</style>\n";

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(kind: Kind, banned_after_ms: Option<u64>, leaked: u32) -> Outcome {
        Outcome {
            kind,
            addresses: 1,
            sent: 40,
            passed: 12,
            leaked,
            banned: usize::from(banned_after_ms.is_some()),
            banned_after_ms,
            reason: None,
        }
    }

    fn report(outcomes: Vec<Outcome>) -> Report {
        let explain = |outcome: &Outcome| {
            let slowed = (outcome.kind == Kind::Ipv6Hopping).then(|| serde_json::json!({}));
            Some(Explained { words: "it has <2> of 12 points".to_owned(), slowed })
        };
        Report {
            environment: "shop-20261130-021504".to_owned(),
            profile: Profile::Direct,
            attacks: outcomes.into_iter().map(|outcome| Attacked::of(outcome, explain)).collect(),
            visitors: visitors::Outcome { clients: 3, sent: 90, ..visitors::Outcome::default() },
            left_out: 0,
            banned_visitors: vec![],
            faults: vec![],
        }
    }

    #[test]
    fn an_attack_is_judged_by_what_was_measured() {
        let check = |outcome, expected| assert_eq!(report(vec![outcome]).attacks[0].verdict, expected);
        check(outcome(Kind::Scan, Some(900), 0), Verdict::Stopped);
        check(outcome(Kind::Scan, Some(900), 1), Verdict::Leaked);
        check(outcome(Kind::Scan, None, 0), Verdict::Passed);
        check(outcome(Kind::SlowScan, None, 0), Verdict::KnownToPass);
        check(outcome(Kind::Ipv6Hopping, None, 0), Verdict::Slowed);
    }

    #[test]
    fn only_a_report_without_harm_and_without_a_leak_is_well() {
        let well = report(vec![outcome(Kind::Scan, Some(900), 0), outcome(Kind::SlowScan, None, 0)]);
        assert!(well.is_well());
        assert!(!report(vec![outcome(Kind::Flood, None, 0)]).is_well());
        assert!(!report(vec![outcome(Kind::Flood, Some(1), 3)]).is_well());
        let mut hurt = well.clone();
        hurt.visitors.hurt.insert(std::net::IpAddr::from([198, 18, 0, 1]));
        assert!(!hurt.is_well());
        let banned = Report { banned_visitors: vec!["198.18.0.1/32: flood".to_owned()], ..well.clone() };
        assert!(!banned.is_well());
        assert!(banned.markdown().contains("BANNED: 198.18.0.1/32"));
        let faulty = Report { faults: vec!["xdp: not attached".to_owned()], ..well };
        assert!(!faulty.is_well());
    }

    #[test]
    fn every_form_says_the_same_and_the_page_holds_no_foreign_markup() {
        let report = report(vec![outcome(Kind::Scan, Some(900), 0), outcome(Kind::Flood, None, 0)]);
        let (markdown, html) = (report.markdown(), report.html());
        assert!(markdown.contains("| scan | stopped | 1 | 12 of 40 | 0.9 s | 0 |"), "{markdown}");
        assert!(markdown.contains("| flood | PASSED | 1 | 12 of 40 | never | 0 |"), "{markdown}");
        assert!(markdown.contains("What to change: `[detect] flood.page_requests`"), "{markdown}");
        assert!(html.contains("<td>12 of 40") && html.contains("&lt;2&gt;") && !html.contains("<2>"));
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["attacks"][0]["banned_after_ms"], 900);
        assert_eq!(json["attacks"][1]["verdict"], "passed");
        assert_eq!(serde_json::from_value::<Report>(json).unwrap(), report);
    }
}
