//! Chat messages: a heading and labelled lines for each event that is worth interrupting somebody for. Plain text;
//! escaping it for a chat's markup is `slack`'s business.

use crate::api::events;
use crate::api::types::Severity;
use crate::text::{
    both_rates, cause, counted, fired, lift_reason, notice_line, per_sec, posture, printable, slow_cause,
    slow_term, utc,
};
use shield_engine::action::{BanRecord, LiftReason, Notice, Step};
use shield_engine::client::Client;
use shield_engine::time::Ends;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Message {
    pub title: &'static str,
    /// Label and value of each line.
    pub lines: Vec<(&'static str, String)>,
    /// Where the page shows it.
    pub link: Option<String>,
}

impl Message {
    pub(super) fn plain(&self) -> String {
        let page = self.link.as_ref().map(|link| ("Page", link.clone()));
        let lines =
            self.lines.iter().chain(&page).map(|(label, value)| format!("\n• {label}: {}", printable(value)));
        format!("{}{}", self.title, lines.collect::<String>())
    }
}

/// The page's address for whoever reads an alert, with the client that the event is about.
pub(super) fn link(page: &str, notice: &Notice) -> String {
    match client(notice) {
        Some(client) => format!("{page}#client={client}"),
        None => page.to_owned(),
    }
}

fn client(notice: &Notice) -> Option<Client> {
    match notice {
        Notice::Banned(ban) | Notice::WouldBan { ban, .. } => Some(ban.ban.client),
        Notice::Lifted { client, .. } | Notice::Leaking { client, .. } => Some(*client),
        Notice::Slowed { slowed, .. } => Some(slowed.client),
        _ => None,
    }
}

/// Whether a channel is told of it unless the configuration names the kinds of events: not that a term is over or that who wanted
/// the ban wants it no more, nor each entry of a list.
pub(super) fn is_usual(notice: &Notice) -> bool {
    match notice {
        Notice::Lifted { reason, .. } | Notice::Released { reason, .. } => {
            !matches!(reason, LiftReason::Expired | LiftReason::Withdrawn)
        }
        Notice::Banned(ban) | Notice::WouldBan { ban, .. } => !ban.ban.rule.is_of_a_list(),
        _ => true,
    }
}

/// Whether somebody has to look at once: never in a digest.
pub(super) fn is_urgent(notice: &Notice) -> bool {
    events::severity(notice) == Severity::Critical || matches!(notice, Notice::Repaired { .. })
}

/// Returns the event's message; `None` for events that are recorded in the audit log only. The first lines are those that were
/// always there; what a person needs at night follows: the words, the host, and the command that undoes it.
pub(super) fn message(notice: &Notice, at_ms: i64, host: &str) -> Option<Message> {
    let (title, mut lines) = headed(notice, at_ms)?;
    lines.extend(details(notice));
    lines.push(("Host", host.to_owned()));
    lines.extend(remedy(notice));
    lines.push(("Severity", events::severity(notice).name().to_owned()));
    Some(Message { title, lines, link: None })
}

/// The heading and the first lines.
fn headed(notice: &Notice, at_ms: i64) -> Option<(&'static str, Vec<(&'static str, String)>)> {
    let (title, mut lines) = match notice {
        // A list has many thousand, of whom most never come.
        Notice::Banned(ban) | Notice::WouldBan { ban, .. } if ban.ban.rule.is_listed() => return None,
        Notice::Banned(ban) => return Some(("IP BANNED", ban_lines(ban))),
        Notice::WouldBan { ban, because } => {
            let mut lines = ban_lines(ban);
            lines.insert(1, ("Not banned", because.clone()));
            return Some(("IP WOULD BE BANNED", lines));
        }
        Notice::GlobalAnomalyStarted { rate, mean, .. } => {
            return Some(("GLOBAL TRAFFIC ANOMALY", anomaly_lines(*rate, *mean)));
        }
        Notice::Lifted { client, reason, lasted_secs, note, .. } => {
            let mut lines = vec![("IP", client.to_string()), ("Reason", lift_reason(*reason).to_owned())];
            lines.extend(note.clone().map(|note| ("Note", note)));
            lines.push(("Banned for", seconds(*lasted_secs)));
            ("IP UNBANNED", lines)
        }
        Notice::Slowed { slowed, unmade } => {
            let mut lines = vec![("IP", slowed.client.to_string())];
            lines.extend(unmade.clone().map(|because| ("Not slowed", because)));
            lines.push(("Condition", slow_cause(slowed)));
            lines.push(("Slowed", slow_term(slowed)));
            let title = if unmade.is_none() { "IP SLOWED" } else { "IP WOULD BE SLOWED" };
            (title, lines)
        }
        Notice::GlobalAnomalyEnded { rate, mean, lasted_secs } => {
            let lines = vec![
                ("Current rate", per_sec(*rate)),
                ("Baseline", per_sec(*mean)),
                ("Lasted", seconds(*lasted_secs)),
            ];
            ("GLOBAL TRAFFIC BACK TO NORMAL", lines)
        }
        Notice::Degraded { part, reason } => {
            ("SHIELD DEGRADED", vec![("Part", part.clone()), ("Reason", reason.clone())])
        }
        Notice::Recovered { part, after_secs } => {
            ("SHIELD RECOVERED", vec![("Part", part.clone()), ("Degraded for", seconds(*after_secs))])
        }
        Notice::Repaired { part, .. } => {
            ("FIREWALL CHANGED FROM OUTSIDE", vec![("Part", part.clone()), ("Reason", notice_line(notice))])
        }
        Notice::Leaking { client, requests, cause } => {
            let requests = format!("{requests} since the ban");
            (
                "BAN IS LEAKING",
                vec![("IP", client.to_string()), ("Requests", requests), ("Likely cause", cause.clone())],
            )
        }
        Notice::Withheld { because, .. } => {
            let lines = vec![("Who", notice_line(notice)), ("Reason", because.clone())];
            ("CLIENTS GET THROUGH", lines)
        }
        Notice::Paused { .. } => ("AUTOMATIC BANNING PAUSED", vec![("Reason", notice_line(notice))]),
        Notice::PauseEnded { .. } => ("AUTOMATIC BANNING RESUMED", vec![("Reason", notice_line(notice))]),
        Notice::BlastRadius { stopped, reason } => {
            let title = if *stopped { "AUTOMATIC BANNING STOPPED" } else { "AUTOMATIC BANNING RESUMED" };
            (title, vec![("Reason", reason.clone())])
        }
        Notice::Change(change) if !matches!(change.step, Step::CanaryStarted | Step::CanaryEnded) => {
            ("CHANGE OF THE HOST", vec![("What", notice_line(notice))])
        }
        _ => return None,
    };
    lines.push(("Timestamp", utc(at_ms)));
    Some((title, lines))
}

/// What a person wants to know besides.
fn details(notice: &Notice) -> Vec<(&'static str, String)> {
    let ban = match notice {
        Notice::Banned(ban) => ban,
        Notice::WouldBan { ban, .. } => ban,
        Notice::Withheld { .. } | Notice::Leaking { .. } | Notice::BlastRadius { stopped: true, .. } => {
            return vec![("State", posture::ATTACK_UNHANDLED.to_owned())];
        }
        Notice::Degraded { .. } => return vec![("State", posture::DEGRADED.to_owned())],
        _ => return Vec::new(),
    };
    let mut lines = Vec::new();
    if let Some(evidence) = &ban.evidence {
        lines.push(("Why", fired(evidence)));
        let requests = counted(u64::from(evidence.requests), "request");
        lines.push((
            "Requests",
            format!("{requests} in {} s, {} of them failed", evidence.window_secs, evidence.errors),
        ));
        let paths: Vec<String> = (evidence.top_paths.iter().take(PATHS_NAMED))
            .map(|path| format!("{} ({}x)", path.path, path.count))
            .collect();
        if !paths.is_empty() {
            lines.push(("Paths", paths.join(", ")));
        }
    }
    lines.extend(ban.ban.offence.map(|nth| ("Offence", nth.to_string())));
    lines
}

/// Paths named in a message.
const PATHS_NAMED: usize = 3;

/// The command that undoes it, or that is next.
fn remedy(notice: &Notice) -> Option<(&'static str, String)> {
    Some(match notice {
        Notice::Banned(ban) => ("Undo", format!("shield-agent unban {}", ban.ban.client)),
        Notice::Slowed { slowed, unmade: None } => ("Undo", format!("shield-agent unban {}", slowed.client)),
        Notice::Withheld { .. } | Notice::Paused { .. } | Notice::BlastRadius { stopped: true, .. } => {
            ("Ban them", posture::RESUME.to_owned())
        }
        Notice::Degraded { .. } => ("What to do", "shield-agent doctor".to_owned()),
        Notice::Leaking { client, .. } => {
            ("What to do", format!("shield-agent explain {client}; shield-agent doctor"))
        }
        _ => return None,
    })
}

fn ban_lines(ban: &BanRecord) -> Vec<(&'static str, String)> {
    let mut lines = vec![("IP", ban.ban.client.to_string())];
    match &ban.evidence {
        Some(evidence) => lines.extend([
            ("Condition", evidence.condition.clone()),
            ("Current rate", both_rates(evidence.requests, evidence.window_secs, evidence.rate)),
            ("Baseline", per_sec(evidence.mean)),
        ]),
        None => {
            lines.push(("Condition", cause(ban)));
        }
    }
    lines.push(("Ban duration", ban_term(ban)));
    lines.push(("Timestamp", utc(ban.ban.since_ms)));
    lines
}

fn anomaly_lines(rate: f64, mean: f64) -> Vec<(&'static str, String)> {
    vec![
        ("Condition", "Global request rate spike".to_owned()),
        ("Current rate", per_sec(rate)),
        ("Baseline", per_sec(mean)),
        ("Action", "No IP ban — monitoring closely".to_owned()),
    ]
}

/// A ban's term in whole seconds, rounded.
fn ban_term(ban: &BanRecord) -> String {
    match ban.ban.ends {
        Ends::Never => "permanent".to_owned(),
        Ends::At { wall_ms, .. } => {
            seconds((wall_ms.saturating_sub(ban.ban.since_ms).max(0) as u64 + 500) / 1000)
        }
    }
}

fn seconds(secs: u64) -> String {
    if secs == 1 { "1 second".to_owned() } else { format!("{secs} seconds") }
}

#[cfg(test)]
mod tests {
    use shield_engine::verdict::Rule;

    use super::super::samples;
    use super::*;

    fn check(notice: &Notice, expected: &str) {
        let message = message(notice, samples::AT_MS, "web1").expect("worth a message");
        let plain = message.plain();
        let rest = plain
            .strip_prefix(expected)
            .unwrap_or_else(|| panic!("{plain}\ndoes not begin with\n{expected}"));
        assert!(rest.starts_with('\n') && rest.contains("\n• Host: web1\n"), "{rest}");
        assert!(rest.lines().last().is_some_and(|line| line.starts_with("• Severity: ")), "{rest}");
    }

    #[test]
    fn a_ban_and_a_global_anomaly_read_as_promised() {
        check(
            &samples::banned(),
            "IP BANNED\n\
             • IP: 192.0.2.156\n\
             • Condition: z-score=5.43 > threshold=2.0\n\
             • Current rate: 3.72 req/s\n\
             • Baseline: 0.10 req/s\n\
             • Ban duration: 600 seconds\n\
             • Timestamp: 2026-05-11T22:07:33Z",
        );
        check(
            &samples::anomaly(),
            "GLOBAL TRAFFIC ANOMALY\n\
             • Condition: Global request rate spike\n\
             • Current rate: 3.10 req/s\n\
             • Baseline: 0.10 req/s\n\
             • Action: No IP ban — monitoring closely",
        );
    }

    #[test]
    fn the_other_events() {
        check(
            &samples::lifted(),
            "IP UNBANNED\n\
             • IP: 192.0.2.156\n\
             • Reason: lifted by an operator\n\
             • Note: asked for by mail\n\
             • Banned for: 61 seconds\n\
             • Timestamp: 2026-05-11T22:07:33Z",
        );
        check(
            &samples::degraded("xdp"),
            "SHIELD DEGRADED\n\
             • Part: xdp\n\
             • Reason: the program was detached\n\
             • Timestamp: 2026-05-11T22:07:33Z",
        );
        check(
            &Notice::Recovered { part: "xdp".into(), after_secs: 1 },
            "SHIELD RECOVERED\n\
             • Part: xdp\n\
             • Degraded for: 1 second\n\
             • Timestamp: 2026-05-11T22:07:33Z",
        );
        check(
            &Notice::Leaking {
                client: "192.0.2.0/24".parse().unwrap(),
                requests: 7,
                cause: "a proxy".into(),
            },
            "BAN IS LEAKING\n\
             • IP: 192.0.2.0/24\n\
             • Requests: 7 since the ban\n\
             • Likely cause: a proxy\n\
             • Timestamp: 2026-05-11T22:07:33Z",
        );
        check(
            &Notice::GlobalAnomalyEnded { rate: 0.2, mean: 0.1, lasted_secs: 90 },
            "GLOBAL TRAFFIC BACK TO NORMAL\n\
             • Current rate: 0.20 req/s\n\
             • Baseline: 0.10 req/s\n\
             • Lasted: 90 seconds\n\
             • Timestamp: 2026-05-11T22:07:33Z",
        );
        check(
            &Notice::BlastRadius { stopped: true, reason: "51 bans in 60 s > 50".into() },
            "AUTOMATIC BANNING STOPPED\n\
             • Reason: 51 bans in 60 s > 50\n\
             • Timestamp: 2026-05-11T22:07:33Z",
        );
    }

    #[test]
    fn at_night_it_says_the_paths_the_offence_and_the_way_back() {
        let plain = |notice: &Notice| message(notice, samples::AT_MS, "web1").unwrap().plain();
        let banned = plain(&samples::banned());
        let expected = "• Requests: 223 requests in 60 s, 4 of them failed\n\
             • Paths: /<script>alert(1)</script> (223x)\n\
             • Offence: 1\n\
             • Host: web1\n\
             • Undo: shield-agent unban 192.0.2.156\n\
             • Severity: warning";
        assert!(banned.ends_with(expected), "{banned}");
        let stopped = plain(&Notice::BlastRadius { stopped: true, reason: "51 bans".into() });
        let expected = "• State: Under attack, NOT handled\n• Host: web1\n• Ban them: shield-agent resume\n• Severity: critical";
        assert!(stopped.ends_with(expected), "{stopped}");
    }

    /// History: 35 of 51 messages of a night were terms that were over and entries of a list.
    #[test]
    fn what_a_channel_is_not_told_unless_it_asks() {
        let lifted = |reason| Notice::Lifted {
            client: "192.0.2.7".parse().unwrap(),
            reason,
            lasted_secs: 600,
            offence: 1,
            note: None,
        };
        assert!(!is_usual(&lifted(LiftReason::Expired)) && is_usual(&lifted(LiftReason::Operator)));
        assert!(!is_usual(&lifted(LiftReason::Withdrawn)), "a list may let go of thousands");
        let Notice::Banned(mut imported) = samples::banned_by_hand("list") else { panic!("a ban") };
        assert!(is_usual(&Notice::Banned(imported.clone())));
        imported.ban.rule = Rule::Imported;
        assert!(!is_usual(&Notice::Banned(imported)));
        let repaired =
            Notice::Repaired { part: "iptables".into(), found: "flushed".into(), restored: 3, removed: 0 };
        assert!(
            is_urgent(&repaired) && is_urgent(&samples::degraded("xdp")) && !is_urgent(&samples::banned())
        );
    }

    #[test]
    fn a_ban_by_hand_without_end() {
        check(
            &samples::banned_by_hand("spam\nIP BANNED"),
            "IP BANNED\n\
             • IP: 2001:db8:1:2::/64\n\
             • Condition: spam\\u{a}IP BANNED\n\
             • Ban duration: permanent\n\
             • Timestamp: 2026-05-11T22:07:33Z",
        );
    }

    #[test]
    fn events_for_the_audit_log_only() {
        assert_eq!(message(&Notice::Stopping { bans: 3 }, samples::AT_MS, "web1"), None);
    }
}
