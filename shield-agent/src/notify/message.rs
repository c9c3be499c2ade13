//! Chat messages: a heading and labelled lines for each event that is worth interrupting somebody for. Plain text;
//! escaping it for a chat's markup is `slack`'s business.

use crate::text::{cause, lift_reason, notice_line, per_sec, printable, slow_cause, slow_term, utc};
use shield_engine::action::{BanRecord, Notice};
use shield_engine::time::Ends;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Message {
    pub title: &'static str,
    /// Label and value of each line.
    pub lines: Vec<(&'static str, String)>,
}

impl Message {
    pub(super) fn plain(&self) -> String {
        let lines = self.lines.iter().map(|(label, value)| format!("\n• {label}: {}", printable(value)));
        format!("{}{}", self.title, lines.collect::<String>())
    }
}

/// Returns the event's message; `None` for events that are recorded in the audit log only.
pub(super) fn message(notice: &Notice, at_ms: i64) -> Option<Message> {
    let (title, mut lines) = match notice {
        // A list has many thousand, of whom most never come.
        Notice::Banned(ban) if ban.ban.rule.is_listed() => return None,
        Notice::Banned(ban) => return Some(Message { title: "IP BANNED", lines: ban_lines(ban) }),
        Notice::WouldBan { ban, because } => {
            let mut lines = ban_lines(ban);
            lines.insert(1, ("Not banned", because.clone()));
            return Some(Message { title: "IP WOULD BE BANNED", lines });
        }
        Notice::GlobalAnomalyStarted { rate, mean, .. } => {
            return Some(Message { title: "GLOBAL TRAFFIC ANOMALY", lines: anomaly_lines(*rate, *mean) });
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
        _ => return None,
    };
    lines.push(("Timestamp", utc(at_ms)));
    Some(Message { title, lines })
}

fn ban_lines(ban: &BanRecord) -> Vec<(&'static str, String)> {
    let mut lines = vec![("IP", ban.ban.client.to_string())];
    match &ban.evidence {
        Some(evidence) => lines.extend([
            ("Condition", evidence.condition.clone()),
            ("Current rate", per_sec(evidence.rate)),
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
    use super::super::samples;
    use super::*;

    fn check(notice: &Notice, expected: &str) {
        let message = message(notice, samples::AT_MS).expect("worth a message");
        assert_eq!(message.plain(), expected);
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
        assert_eq!(message(&Notice::Stopping { bans: 3 }, samples::AT_MS), None);
    }
}
