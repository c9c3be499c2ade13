//! The report of a period in Markdown, made from the audit log: timeline, offenders, rules, leaks, gaps in protection.
//! Pure: lines come in, text goes out. Memory grows with clients and notable events, not with lines.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;

use serde::Deserialize;

use crate::text::{self, duration, lift_reason, printable, utc};
use shield_engine::action::{BanRecord, LiftReason, Notice};
use shield_engine::client::Client;
use shield_engine::operator_rules::PolicyTerm;
use shield_engine::verdict::Rule;

/// Number of offenders listed.
const OFFENDERS: usize = 10;
/// Maximum rows of a list; further ones are counted.
const ROWS: usize = 200;
/// The parts whose absence is a gap in protection.
const PROTECTING: [&str; 2] = ["iptables", "xdp"];
const AGENT: &str = "agent";
const BANNING: &str = "automatic bans";
const PAUSE: &str = "automatic bans (paused)";

/// Collects lines into a report.
#[derive(Debug)]
pub(crate) struct Report {
    from_ms: i64,
    to_ms: i64,
    last_ms: Option<i64>,
    days: BTreeMap<String, Day>,
    timeline: Rows,
    offenders: HashMap<Client, Offender>,
    rules: BTreeMap<Rule, u64>,
    by_hand: Rows,
    leaks: Rows,
    gaps: Rows,
    gaps_total_secs: u64,
    changes: Rows,
    policy: Rows,
    outcomes: BTreeMap<&'static str, u64>,
    began: BTreeMap<String, (i64, String)>,
    unreadable: u64,
    missing: u64,
}

/// One day's counts.
#[derive(Debug, Default)]
struct Day {
    bans: u64,
    lifts: u64,
    anomalies: u64,
}

/// One client's bans.
#[derive(Debug)]
struct Offender {
    bans: u64,
    last_ms: i64,
    last_rule: Rule,
    last_why: String,
}

/// Rows of a list, bounded.
#[derive(Debug, Default)]
struct Rows {
    shown: Vec<String>,
    count: u64,
}

impl Rows {
    fn add(&mut self, row: impl FnOnce() -> String) {
        self.count += 1;
        if self.shown.len() < ROWS {
            self.shown.push(row());
        }
    }
}

/// The fields that a line begins with.
#[derive(Deserialize)]
struct Line {
    at: jiff::Timestamp,
    event: String,
    #[serde(default)]
    missing: u64,
}

impl Report {
    /// A report of the events from `from_ms` to `to_ms` (wall clock, milliseconds).
    pub(crate) fn new(from_ms: i64, to_ms: i64) -> Report {
        Report {
            from_ms,
            to_ms,
            last_ms: None,
            days: BTreeMap::new(),
            timeline: Rows::default(),
            offenders: HashMap::new(),
            rules: BTreeMap::new(),
            by_hand: Rows::default(),
            leaks: Rows::default(),
            gaps: Rows::default(),
            gaps_total_secs: 0,
            changes: Rows::default(),
            policy: Rows::default(),
            outcomes: BTreeMap::new(),
            began: BTreeMap::new(),
            unreadable: 0,
            missing: 0,
        }
    }

    /// Takes the next line of the log.
    pub(crate) fn line(&mut self, line: &[u8]) {
        let Ok(head) = serde_json::from_slice::<Line>(line) else {
            self.unreadable += 1;
            return;
        };
        let at_ms = head.at.as_millisecond();
        if at_ms < self.from_ms || at_ms > self.to_ms {
            return;
        }
        match serde_json::from_slice::<Notice>(line) {
            Ok(notice) => self.notice(&notice, at_ms),
            Err(_) if head.event == "audit_gap" => self.missing += head.missing,
            Err(_) if matches!(head.event.as_str(), "torn_line" | "damaged_file") => {}
            Err(_) => self.unreadable += 1,
        }
        self.last_ms = Some(at_ms);
    }

    fn notice(&mut self, notice: &Notice, at_ms: i64) {
        self.decided(notice, at_ms);
        match notice {
            Notice::Banned(ban) => self.banned(ban, at_ms),
            Notice::Change(_) | Notice::Reloaded(_) => {
                self.changes.add(|| format!("- {} {}", utc(at_ms), safe(&text::notice_line(notice))));
            }
            Notice::Lifted { client, reason, note, .. } => {
                self.lifted(*client, *reason, note.as_deref(), at_ms);
            }
            Notice::GlobalAnomalyStarted { .. } => {
                self.day(at_ms).anomalies += 1;
                self.timeline_notice(notice, at_ms);
            }
            Notice::Degraded { part, reason } if PROTECTING.contains(&part.as_str()) => {
                self.begin(part, reason, at_ms);
            }
            Notice::Recovered { part, .. } if PROTECTING.contains(&part.as_str()) => self.end(part, at_ms),
            Notice::GlobalAnomalyEnded { .. }
            | Notice::Degraded { .. }
            | Notice::Recovered { .. }
            | Notice::Repaired { .. } => self.timeline_notice(notice, at_ms),
            Notice::Leaking { client, requests, cause } => {
                self.leaks.add(|| format!("| {} | {client} | {requests} | {} |", utc(at_ms), safe(cause)));
            }
            Notice::BlastRadius { stopped: true, reason } => self.begin(BANNING, reason, at_ms),
            Notice::BlastRadius { stopped: false, .. } => self.end(BANNING, at_ms),
            Notice::Paused { note, .. } => {
                let note = note.as_deref().map(|note| format!(": {note}")).unwrap_or_default();
                self.begin(PAUSE, &format!("an operator paused them{note}"), at_ms);
            }
            Notice::PauseEnded { .. } => self.end(PAUSE, at_ms),
            Notice::Started { dry_run, .. } => {
                self.started(notice, at_ms);
                if *dry_run {
                    self.begin(AGENT, "a dry run drops nobody", at_ms);
                }
            }
            Notice::Stopping { .. } => self.begin(AGENT, "the agent was stopped", at_ms),
            _ => {}
        }
    }

    /// Takes in what the policy said about a verdict; nothing where nobody was asked.
    fn decided(&mut self, notice: &Notice, at_ms: i64) {
        let Some(outcome) = text::policy_outcome(notice) else { return };
        *self.outcomes.entry(outcome).or_default() += 1;
        let (client, rule, why) = match notice {
            Notice::Banned(ban) => (ban.ban.client, ban.ban.rule, words(ban)),
            Notice::WouldBan { ban, .. } => (ban.ban.client, ban.ban.rule, words(ban)),
            Notice::Slowed { slowed, .. } => (slowed.client, slowed.rule, Some(String::new())),
            _ => return,
        };
        // That a verdict stands without a word is what the rules say nearly always.
        let Some(why) = why.or_else(|| (outcome != "ban").then(String::new)) else { return };
        let row = || format!("| {} | {client} | {rule} | {outcome} | {} |", utc(at_ms), safe(&why));
        self.policy.add(row);
    }

    fn banned(&mut self, ban: &BanRecord, at_ms: i64) {
        self.day(at_ms).bans += 1;
        *self.rules.entry(ban.ban.rule).or_default() += 1;
        let cause = ban.evidence.as_ref().map(|evidence| text::fired(evidence));
        let offender = self.offenders.entry(ban.ban.client).or_insert_with(|| Offender {
            bans: 0,
            last_ms: at_ms,
            last_rule: ban.ban.rule,
            last_why: String::new(),
        });
        offender.bans += 1;
        offender.last_ms = at_ms;
        offender.last_rule = ban.ban.rule;
        offender.last_why = cause.or_else(|| ban.reason.clone()).unwrap_or_default();
    }

    fn lifted(&mut self, client: Client, reason: LiftReason, note: Option<&str>, at_ms: i64) {
        self.day(at_ms).lifts += 1;
        if reason != LiftReason::Expired {
            let note = safe(note.unwrap_or_default());
            self.by_hand.add(|| format!("| {} | {client} | {} | {note} |", utc(at_ms), lift_reason(reason)));
        }
    }

    /// Handles a start. Without a stop before it the agent died, at its last event or later. Gaps of parts end here as
    /// well: the agent that starts checks them anew and reports what is still degraded.
    fn started(&mut self, notice: &Notice, at_ms: i64) {
        if let Some(last_ms) = self.last_ms
            && !self.began.contains_key(AGENT)
        {
            self.begin(
                AGENT,
                "the agent died without recording a stop (the gap begins at its last event)",
                last_ms,
            );
        }
        // A pause outlives a restart.
        let open: Vec<String> = self.began.keys().filter(|part| *part != PAUSE).cloned().collect();
        open.iter().for_each(|part| self.end(part, at_ms));
        self.timeline_notice(notice, at_ms);
    }

    fn begin(&mut self, part: &str, reason: &str, at_ms: i64) {
        self.timeline_entry(at_ms, || format!("{} stopped protecting: {}", safe(part), safe(reason)));
        self.began.entry(part.to_owned()).or_insert_with(|| (at_ms, reason.to_owned()));
    }

    fn end(&mut self, part: &str, at_ms: i64) {
        let Some((began_ms, reason)) = self.began.remove(part) else { return };
        self.timeline_entry(at_ms, || format!("{} protects again", safe(part)));
        self.gap(part, began_ms, at_ms, &utc(at_ms), &reason);
    }

    fn gap(&mut self, part: &str, began_ms: i64, ended_ms: i64, ended: &str, reason: &str) {
        let secs = u64::try_from((ended_ms - began_ms) / 1000).unwrap_or(0);
        self.gaps_total_secs += secs;
        self.gaps.add(|| {
            format!(
                "| {} | {} | {ended} | {} | {} |",
                safe(part),
                utc(began_ms),
                duration(secs),
                safe(reason)
            )
        });
    }

    fn day(&mut self, at_ms: i64) -> &mut Day {
        let mut day = utc(at_ms);
        day.truncate("2026-05-11".len());
        self.days.entry(day).or_default()
    }

    fn timeline_notice(&mut self, notice: &Notice, at_ms: i64) {
        self.timeline_entry(at_ms, || safe(&text::notice_line(notice)));
    }

    fn timeline_entry(&mut self, at_ms: i64, what: impl FnOnce() -> String) {
        self.timeline.add(|| format!("- {} {}", utc(at_ms), what()));
    }

    /// The report. All times in it are UTC.
    pub(crate) fn markdown(mut self) -> String {
        for (part, (began_ms, reason)) in std::mem::take(&mut self.began) {
            self.gap(&part, began_ms, self.to_ms, "not yet", &reason);
        }
        let mut out = format!("# Shield, {} to {}\n\n", utc(self.from_ms), utc(self.to_ms));
        self.write_summary(&mut out);
        self.write_timeline(&mut out);
        self.write_changes(&mut out);
        self.write_policy(&mut out);
        self.write_offenders(&mut out);
        self.write_rules(&mut out);
        section(&mut out, "Lifted by an operator", "| When | Client | How | Note |", &self.by_hand);
        section(&mut out, "Leaks", "| When | Client | Requests after the ban | Likely cause |", &self.leaks);
        section(&mut out, "Gaps in protection", "| Part | From | To | For | Why |", &self.gaps);
        out
    }

    fn write_summary(&self, out: &mut String) {
        let sum = |of: fn(&Day) -> u64| self.days.values().map(of).sum::<u64>();
        let mut row = |name: &str, value: String| {
            let _ = writeln!(out, "| {name} | {value} |");
        };
        row("In short", String::new());
        row("---", "---:".into());
        row("Bans", sum(|day| day.bans).to_string());
        row("Clients banned", self.offenders.len().to_string());
        row("Bans ended", sum(|day| day.lifts).to_string());
        row("Lifted by an operator", self.by_hand.count.to_string());
        row("Global anomalies", sum(|day| day.anomalies).to_string());
        row("Leaking bans", self.leaks.count.to_string());
        let gaps = match self.gaps.count {
            0 => "0".to_owned(),
            count => format!("{count}, {} in all", duration(self.gaps_total_secs)),
        };
        row("Gaps in protection", gaps);
        if self.missing > 0 {
            row("Events missing from the log", self.missing.to_string());
        }
        if self.unreadable > 0 {
            row("Lines that could not be read", format!("{} (run `audit verify`)", self.unreadable));
        }
    }

    fn write_timeline(&self, out: &mut String) {
        out.push_str("\n## Timeline\n\n");
        if self.days.is_empty() && self.timeline.count == 0 {
            out.push_str("No events.\n");
        }
        if !self.days.is_empty() {
            out.push_str("| Day | Bans | Ended | Global anomalies |\n| --- | ---: | ---: | ---: |\n");
        }
        for (date, day) in &self.days {
            let _ = writeln!(out, "| {date} | {} | {} | {} |", day.bans, day.lifts, day.anomalies);
        }
        if self.timeline.count > 0 && !self.days.is_empty() {
            out.push('\n');
        }
        rows(out, &self.timeline);
    }

    fn write_changes(&self, out: &mut String) {
        out.push_str("\n## Changes, gates, canaries, upgrades\n\n");
        if self.changes.count == 0 {
            out.push_str("None.\n");
        }
        rows(out, &self.changes);
    }

    fn write_policy(&self, out: &mut String) {
        out.push_str("\n## Decided by the policy\n\n");
        if self.outcomes.is_empty() {
            out.push_str("Nothing.\n");
            return;
        }
        let counts: Vec<String> =
            self.outcomes.iter().map(|(decision, count)| format!("{decision}: {count}")).collect();
        let _ = writeln!(out, "{}", counts.join(", "));
        if self.policy.count > 0 {
            out.push_str("\n| When | Client | Rule | Decision | Why |\n| --- | --- | --- | --- | --- |\n");
            rows(out, &self.policy);
        }
    }

    fn write_offenders(&self, out: &mut String) {
        let mut all: Vec<(&Client, &Offender)> = self.offenders.iter().collect();
        all.sort_by_key(|(client, offender)| {
            (std::cmp::Reverse((offender.bans, offender.last_ms)), **client)
        });
        let mut list = Rows::default();
        for (client, offender) in all.into_iter().take(OFFENDERS) {
            let Offender { bans, last_ms, last_rule, last_why } = offender;
            let why = safe(last_why);
            list.add(|| format!("| {client} | {bans} | {} | {last_rule} | {why} |", utc(*last_ms)));
        }
        section(out, "Top offenders", "| Client | Bans | Last ban | Last rule | Why |", &list);
    }

    fn write_rules(&self, out: &mut String) {
        let mut all: Vec<(&Rule, &u64)> = self.rules.iter().collect();
        all.sort_by_key(|(rule, count)| (std::cmp::Reverse(**count), **rule));
        let mut list = Rows::default();
        all.into_iter().for_each(|(rule, count)| list.add(|| format!("| {rule} | {count} |")));
        section(out, "By rule", "| Rule | Bans |", &list);
    }
}

fn section(out: &mut String, title: &str, heading: &str, list: &Rows) {
    let _ = write!(out, "\n## {title}\n\n");
    if list.count == 0 {
        out.push_str("None.\n");
        return;
    }
    let columns = heading.matches('|').count() - 1;
    let _ = writeln!(out, "{heading}\n|{}", " --- |".repeat(columns));
    rows(out, list);
}

fn rows(out: &mut String, list: &Rows) {
    for row in &list.shown {
        out.push_str(row);
        out.push('\n');
    }
    let more = list.count - list.shown.len() as u64;
    if more > 0 {
        let _ = write!(out, "\n{more} more in the log.\n");
    }
}

/// The words of the policy about a ban, or why there are none; `None` when it said nothing but its decision.
fn words(ban: &BanRecord) -> Option<String> {
    let word = ban.evidence.as_ref()?.policy.as_deref()?;
    let term = word.term.map(|term| match term {
        PolicyTerm::Secs(secs) => format!("for {}", duration(secs)),
        PolicyTerm::Permanent => "permanent".to_owned(),
    });
    let said: Vec<String> = word.failed.iter().chain(&word.because).cloned().chain(term).collect();
    (!said.is_empty()).then(|| said.join("; "))
}

/// Text from outside, with nothing in it that Markdown or HTML obeys.
fn safe(text: &str) -> String {
    let mut out = String::new();
    for c in printable(text).chars() {
        match c {
            '<' => out.push_str("&lt;"),
            '&' => out.push_str("&amp;"),
            '|' | '`' | '*' | '[' | ']' | '\\' | '!' | '#' => {
                out.push('\\');
                out.push(c);
            }
            _ => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::chain::{self, Head};
    use super::super::stamp;
    use super::*;
    use crate::notify::samples;

    const HOUR_MS: i64 = 3_600_000;

    fn report_of(events: &[(i64, Notice)]) -> String {
        let mut report = Report::new(samples::AT_MS, samples::AT_MS + 48 * HOUR_MS);
        let mut head = Head::default();
        for (after_ms, notice) in events {
            let mut text = Vec::new();
            head = chain::append(&mut text, &head, &stamp(samples::AT_MS + after_ms), notice).unwrap();
            report.line(text.strip_suffix(b"\n").unwrap());
        }
        report.markdown()
    }

    #[test]
    fn some_days_in_markdown() {
        let client = |text: &str| text.parse::<Client>().unwrap();
        let degraded = samples::degraded("xdp");
        let recovered = |part: &str| Notice::Recovered { part: part.into(), after_secs: 1 };
        let leak = Notice::Leaking { client: client("192.0.2.156"), requests: 12, cause: "a | proxy".into() };
        let report = report_of(&[
            (-1, samples::banned_client(client("198.51.100.1"))),
            (0, Notice::Started { version: "0.1.0".into(), restored: 3, dry_run: false }),
            (1_000, samples::banned()),
            (2_000, samples::banned_by_hand("<script>`x`")),
            (3_000, samples::anomaly()),
            (63_000, Notice::GlobalAnomalyEnded { rate: 0.2, mean: 0.1, lasted_secs: 60 }),
            (100_000, samples::lifted()),
            (110_000, samples::banned()),
            (111_000, leak),
            (HOUR_MS, degraded),
            (HOUR_MS + 90_000, recovered("xdp")),
            (2 * HOUR_MS, samples::degraded("slack")),
            (2 * HOUR_MS + 1_000, recovered("slack")),
            (3 * HOUR_MS, Notice::Stopping { bans: 2 }),
            (3 * HOUR_MS + 5_000, Notice::Started { version: "0.1.1".into(), restored: 2, dry_run: false }),
            (47 * HOUR_MS, samples::degraded("iptables")),
            (49 * HOUR_MS, samples::banned()),
        ]);
        assert_eq!(report, include_str!("report.golden.md"));
    }

    #[test]
    fn days_without_events() {
        let report = report_of(&[]);
        assert!(report.contains("## Timeline\n\nNo events.\n"), "{report}");
        assert_eq!(report.matches("None.").count(), 6, "{report}");
    }

    #[test]
    fn an_agent_that_died_leaves_a_gap_from_its_last_event() {
        let started = || Notice::Started { version: "0.1.0".into(), restored: 0, dry_run: false };
        let report = report_of(&[(0, started()), (60_000, samples::banned()), (120_000, started())]);
        let row = "| agent | 2026-05-11T22:08:33Z | 2026-05-11T22:09:33Z | 1 min | the agent died without recording a stop";
        assert!(report.contains(row), "{report}");
    }

    /// History: a day of a dry run counted as a day of protection.
    #[test]
    fn a_dry_run_is_a_gap_until_a_real_start() {
        let started = |dry_run| Notice::Started { version: "0.1.0".into(), restored: 0, dry_run };
        let stopped = Notice::Stopping { bans: 0 };
        let report = report_of(&[(0, started(true)), (60_000, stopped), (120_000, started(false))]);
        let row = "| agent | 2026-05-11T22:07:33Z | 2026-05-11T22:09:33Z | 2 min | a dry run drops nobody |";
        assert!(report.contains(row), "{report}");
    }

    #[test]
    fn changes_and_decisions_of_the_policy_have_their_sections() {
        use shield_engine::action::{Change, Step};
        use shield_engine::operator_rules::{PolicyAction, PolicyWord};
        let decided = |action, because: Option<&str>, failed: Option<&str>| {
            let Notice::Banned(mut ban) = samples::banned() else { unreachable!("the sample is a ban") };
            let word = PolicyWord {
                action,
                term: None,
                because: because.map(str::to_owned),
                failed: failed.map(str::to_owned),
            };
            ban.evidence.as_mut().unwrap().policy = Some(Box::new(word));
            ban
        };
        let spared = decided(PolicyAction::Observe, Some("the <night> import"), None);
        let change = |step, text: &str| Notice::Change(Change { step, text: text.to_owned() });
        let report = report_of(&[
            (0, Notice::Banned(decided(PolicyAction::Ban, None, None))),
            (1_000, Notice::Banned(decided(PolicyAction::Ban, None, Some("no answer within 5 ms")))),
            (2_000, Notice::WouldBan { ban: spared, because: "the policy spares it".into() }),
            (3_000, change(Step::GateBlocked, "disk below 1 GB")),
            (4_000, change(Step::CanaryRefused, "new.toml; 1 client served well")),
            (5_000, change(Step::Upgraded, "0.1.0 to 0.2.0")),
        ]);
        let decisions = "\n## Decided by the policy\n\nban: 1, no_answer: 1, observe: 1\n\n\
                         | When | Client | Rule | Decision | Why |\n| --- | --- | --- | --- | --- |\n\
                         | 2026-05-11T22:07:34Z | 192.0.2.156 | z_score | no_answer | no answer within 5 ms |\n\
                         | 2026-05-11T22:07:35Z | 192.0.2.156 | z_score | observe | the &lt;night> import |\n";
        assert!(report.contains(decisions), "{report}");
        let changes = "\n## Changes, gates, canaries, upgrades\n\n\
                       - 2026-05-11T22:07:36Z start blocked by the policy: disk below 1 GB\n\
                       - 2026-05-11T22:07:37Z canary not promoted: new.toml; 1 client served well\n\
                       - 2026-05-11T22:07:38Z upgraded: 0.1.0 to 0.2.0\n";
        assert!(report.contains(changes), "{report}");
    }

    #[test]
    fn long_lists_are_cut_and_say_so() {
        let leak = Notice::Leaking { client: "192.0.2.1".parse().unwrap(), requests: 1, cause: "x".into() };
        let leaks: Vec<(i64, Notice)> = (0..250).map(|n| (n, leak.clone())).collect();
        assert!(report_of(&leaks).contains("\n50 more in the log.\n"));
    }
}
