//! Notices in one line each, for the live page, `events`, the agent's log and the timeline of the audit report.

use std::collections::BTreeMap;

use shield_engine::action::{BanRecord, Notice, Step};
use shield_engine::operator_rules::PolicyAction;
use shield_engine::slowed::SlowGrounds;

use super::{
    attack_kind, by_network, bytes, cause, counted, duration, global_anomaly, lift_reason, networks, per_sec,
    plural, posture, printable, reload, slow_cause, slow_term, term, until, utc,
};

/// Every kind of notice, as in the `event` field of its JSON.
pub(crate) const KINDS: [&str; 26] = [
    "banned",
    "would_ban",
    "withheld",
    "lifted",
    "extended",
    "slowed",
    "released",
    "protected",
    "global_anomaly_started",
    "global_anomaly_ended",
    "degraded",
    "recovered",
    "repaired",
    "leaking",
    "blast_radius",
    "paused",
    "pause_ended",
    "network_proposed",
    "evasion",
    "clock_skew",
    "lost",
    "allowlist_changed",
    "reloaded",
    "change",
    "started",
    "stopping",
];

/// The notice's kind: one of [`KINDS`].
pub(crate) fn kind(notice: &Notice) -> &'static str {
    match notice {
        Notice::Banned(_) => "banned",
        Notice::WouldBan { .. } => "would_ban",
        Notice::Withheld { .. } => "withheld",
        Notice::Lifted { .. } => "lifted",
        Notice::Extended { .. } => "extended",
        Notice::Slowed { .. } => "slowed",
        Notice::Released { .. } => "released",
        Notice::Protected { .. } => "protected",
        Notice::GlobalAnomalyStarted { .. } => "global_anomaly_started",
        Notice::GlobalAnomalyEnded { .. } => "global_anomaly_ended",
        Notice::Degraded { .. } => "degraded",
        Notice::Recovered { .. } => "recovered",
        Notice::Repaired { .. } => "repaired",
        Notice::Leaking { .. } => "leaking",
        Notice::BlastRadius { .. } => "blast_radius",
        Notice::Paused { .. } => "paused",
        Notice::PauseEnded { .. } => "pause_ended",
        Notice::NetworkProposed { .. } => "network_proposed",
        Notice::Evasion { .. } => "evasion",
        Notice::ClockSkew { .. } => "clock_skew",
        Notice::Lost { .. } => "lost",
        Notice::AllowlistChanged { .. } => "allowlist_changed",
        Notice::Reloaded(_) => "reloaded",
        Notice::Change(_) => "change",
        Notice::Started { .. } => "started",
        Notice::Stopping { .. } => "stopping",
    }
}

/// The notice in one line, printable.
pub(crate) fn notice_line(notice: &Notice) -> String {
    printable(&line(notice))
}

fn line(notice: &Notice) -> String {
    match notice {
        Notice::Banned(ban) => format!("{} banned {}: {}", ban.ban.client, term(ban), cause(ban)),
        Notice::WouldBan { ban, because } => {
            format!(
                "{} would be banned {}, but is not ({because}): {}",
                ban.ban.client,
                term(ban),
                cause(ban)
            )
        }
        Notice::Withheld { bans, because } => withheld(bans, because),
        Notice::Lifted { client, reason, lasted_secs, note, .. } => {
            let (lasted, reason) = (duration(*lasted_secs), lift_reason(*reason));
            format!("ban of {client} ended after {lasted}: {reason}{}", in_brackets(note.as_deref()))
        }
        Notice::Extended { client, ends, packets_per_sec } => {
            format!("ban of {client} extended {}: {packets_per_sec:.1} packets/s still arrive", until(*ends))
        }
        Notice::Slowed { slowed, unmade: None } => {
            format!("{} slowed {}: {}", slowed.client, slow_term(slowed), slow_cause(slowed))
        }
        Notice::Slowed { slowed, unmade: Some(because) } => format!(
            "{} would be slowed {}, but is not ({because}): {}",
            slowed.client,
            slow_term(slowed),
            slow_cause(slowed)
        ),
        Notice::Released { client, reason, lasted_secs } => {
            let lasted = duration(*lasted_secs);
            format!("{client} is no longer slowed after {lasted}: {}", lift_reason(*reason))
        }
        Notice::Protected { client, network, reason, .. } => {
            format!("{client} is anomalous but not banned: {network} is {}", reason.describe())
        }
        Notice::GlobalAnomalyStarted { rate, mean, stddev, .. } => {
            format!("global anomaly started: {}", global_anomaly(*rate, *mean, *stddev))
        }
        Notice::GlobalAnomalyEnded { rate, lasted_secs, .. } => {
            // The log's times: those of the notices are apart by less while a backlog is read.
            let lasted = duration(*lasted_secs);
            format!("global anomaly ended after {lasted} by the times in the log: {}", per_sec(*rate))
        }
        Notice::Degraded { part, reason } => format!("{part} degraded: {reason}"),
        Notice::Recovered { part, after_secs } => {
            format!("{part} recovered after {}", duration(*after_secs))
        }
        Notice::Repaired { part, found, restored, removed } => format!(
            "{part} repaired: {found} ({} restored, {} removed)",
            counted(*restored, "ban"),
            plural(*removed, "entry", "entries")
        ),
        Notice::Leaking { client, requests, cause } => {
            let requests = counted(u64::from(*requests), "request");
            format!("{client} is banned, but {requests} of it reached the web server: {cause}")
        }
        Notice::BlastRadius { stopped: true, reason } => format!("automatic bans stopped: {reason}"),
        Notice::BlastRadius { stopped: false, reason } => format!("automatic bans resumed: {reason}"),
        Notice::Paused { ends, note } => {
            let note = in_brackets(note.as_deref());
            format!("automatic bans paused {}{note}; end it with: shield-agent resume", until(*ends))
        }
        Notice::PauseEnded { by_hand, note } => {
            let why = if *by_hand { "an operator ended the pause" } else { "the pause is over" };
            format!("automatic bans go on: {why}{}", in_brackets(note.as_deref()))
        }
        Notice::NetworkProposed { network, banned, clean } => format!(
            "ban of {network} proposed: {}, {} in it without an offence",
            counted(u64::from(*banned), "banned client"),
            counted(u64::from(*clean), "other")
        ),
        Notice::Evasion { client, lines } => {
            let lines = counted(u64::from(*lines), "line");
            format!("{lines} of {client} in one minute not valid in the log's format")
        }
        Notice::ClockSkew { source, skew_secs } => {
            let (side, why) = if *skew_secs > 0 {
                ("ahead of", "check the clock and the time zone of whatever writes it")
            } else {
                (
                    "behind",
                    "nginx held them back (buffer= in access_log), or the clock or the time zone is wrong",
                )
            };
            let skew = duration(skew_secs.unsigned_abs());
            format!(
                "times in {source} are {skew} {side} the wall clock, and its lines count when they are read: {why}"
            )
        }
        Notice::Lost { source, bytes: size, reason } => {
            let size = size.map_or("an unknown number of bytes".to_owned(), bytes);
            format!("lines of {source} lost ({size}): {reason}")
        }
        Notice::AllowlistChanged { network, added, until_ms, note } => {
            let change = if *added { "added to" } else { "removed from" };
            let until = until_ms.map(|until_ms| format!(" until {}", utc(until_ms))).unwrap_or_default();
            format!("{network} {change} the allowlist{until}{}", in_brackets(note.as_deref()))
        }
        Notice::Reloaded(reloaded) => reload::summary(reloaded),
        Notice::Change(change) => format!("{}: {}", step(change.step), change.text),
        Notice::Started { version, restored, dry_run } => {
            let mode = if *dry_run { ", dry run" } else { "" };
            format!("shield {version} started, {} restored{mode}", counted(*restored, "ban"))
        }
        Notice::Stopping { bans: 0 } => "shield is stopping; no bans in force".to_owned(),
        Notice::Stopping { bans } => {
            let stay = if *bans == 1 { "stays until its end" } else { "stay until their end" };
            format!("shield is stopping; {} {stay}", counted(*bans, "ban"))
        }
    }
}

/// What the operators' rules decided about a verdict; `None` where they were not asked.
pub(crate) fn policy_outcome(notice: &Notice) -> Option<&'static str> {
    let ban = match notice {
        Notice::Banned(ban) => ban,
        Notice::WouldBan { ban, .. } => ban,
        Notice::Slowed { slowed, .. } if slowed.grounds == SlowGrounds::Policy => return Some("slow"),
        _ => return None,
    };
    let word = ban.evidence.as_ref()?.policy.as_ref()?;
    Some(match (&word.failed, word.action) {
        (Some(_), _) => "no_answer",
        (None, PolicyAction::Ban) => "ban",
        // Slowed clients are announced as such: this one could not be.
        (None, PolicyAction::Observe | PolicyAction::Slow) => "observe",
    })
}

/// Every outcome that [`policy_outcome`] returns.
pub(crate) const POLICY_OUTCOMES: [&str; 4] = ["ban", "observe", "slow", "no_answer"];

/// What became of a change, for a line that goes on with what it was.
fn step(step: Step) -> &'static str {
    match step {
        Step::GateBlocked => "start blocked by the policy",
        Step::CanaryStarted => "canary started",
        Step::CanaryEnded => "canary ended",
        Step::CanaryRefused => "canary not promoted",
        Step::CanaryPromoted => "canary promoted",
        Step::ConfigRolledBack => "configuration rolled back",
        Step::Upgraded => "upgraded",
        Step::UpgradeRefused => "upgrade refused",
        Step::UpgradeRolledBack => "upgrade rolled back",
    }
}

/// The words of `shield-agent notify test`.
pub(crate) fn test_message(host: &str) -> String {
    format!("SHIELD TEST\nThis is a test message from {host}: what happens there is told here.")
}

/// Those who get through, by network and by what they do.
fn withheld(bans: &[BanRecord], because: &str) -> String {
    if let [ban] = bans {
        return format!(
            "{} would be banned {}, but is not ({because}): {}",
            ban.ban.client,
            term(ban),
            cause(ban)
        );
    }
    let clients = plural(bans.len() as u64, "client gets", "clients get");
    let by_network = by_network(bans.iter().map(|ban| ban.ban.client));
    let mut kinds: BTreeMap<&str, u64> = BTreeMap::new();
    for ban in bans {
        *kinds.entry(attack_kind(ban)).or_default() += 1;
    }
    format!("{clients} through ({because}): {}; {}", networks(&by_network), posture::kinds(&kinds))
}

fn in_brackets(note: Option<&str>) -> String {
    note.map(|note| format!(" ({note})")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::super::evidence::tests::{ban, evidence};
    use super::*;
    use shield_engine::action::LiftReason;
    use shield_engine::allowlist::AllowReason;
    use shield_engine::client::Client;
    use shield_engine::slowed::{SlowGrounds, SlowLimits, SlowRate, Slowed};
    use shield_engine::time::Ends;
    use shield_engine::verdict::{PathCount, Rule};

    fn check(notice: &Notice, expected: &str) {
        assert_eq!(notice_line(notice), expected);
        assert!(KINDS.contains(&kind(notice)));
        assert_eq!(serde_json::to_value(notice).unwrap()["event"], kind(notice));
    }

    fn client() -> Client {
        "192.0.2.7".parse().unwrap()
    }

    #[test]
    fn a_ban_has_its_numbers_and_no_control_characters() {
        let mut found = evidence(Rule::ZScore, &[("z-score", 5.43, 2.0)]);
        found.tightened = true;
        found.top_paths = vec![PathCount { path: "/wp-login.php\u{1b}[2J".into(), count: 199 }];
        check(
            &Notice::Banned(Box::new(ban(Some(found), Rule::ZScore, None))),
            "192.0.2.7 banned for 10 min: 3.72 req/s, 5.43 standard deviations above the usual 0.10 req/s (limit 2, \
             lowered because so many of its requests failed). 223 requests in 60 s, 73 failed. Most requested: \
             /wp-login.php\\u{1b}[2J (199x)",
        );
    }

    #[test]
    fn what_becomes_of_bans() {
        check(
            &Notice::WouldBan { ban: Box::new(ban(None, Rule::Flood, None)), because: "dry run".into() },
            "192.0.2.7 would be banned for 10 min, but is not (dry run): flood of requests",
        );
        let lifted = |reason, note: Option<&str>| Notice::Lifted {
            client: client(),
            reason,
            lasted_secs: 600,
            offence: 1,
            note: note.map(str::to_owned),
        };
        check(&lifted(LiftReason::Expired, None), "ban of 192.0.2.7 ended after 10 min: its term is over");
        check(
            &lifted(LiftReason::Operator, Some("by mail")),
            "ban of 192.0.2.7 ended after 10 min: lifted by an operator (by mail)",
        );
        check(
            &Notice::Extended {
                client: client(),
                ends: Ends::At { boot_ms: 0, wall_ms: 1_778_537_253_000 },
                packets_per_sec: 12.0,
            },
            "ban of 192.0.2.7 extended until 2026-05-11T22:07:33Z: 12.0 packets/s still arrive",
        );
        let leaking = |requests| Notice::Leaking { client: client(), requests, cause: "a proxy".into() };
        check(&leaking(1), "192.0.2.7 is banned, but 1 request of it reached the web server: a proxy");
        check(&leaking(7), "192.0.2.7 is banned, but 7 requests of it reached the web server: a proxy");
        check(
            &Notice::Protected {
                client: client(),
                network: "192.0.2.7/32".parse().unwrap(),
                reason: AllowReason::Gateway,
                evidence: None,
            },
            "192.0.2.7 is anomalous but not banned: 192.0.2.7/32 is a gateway of this host",
        );
    }

    /// History: 48 clients that got through were 48 events of five lines.
    #[test]
    fn many_that_get_through_are_one_line() {
        let record = |client: &str| {
            let mut record = ban(None, Rule::Flood, None);
            record.ban.client = client.parse().unwrap();
            record
        };
        let because = || "automatic bans are paused".to_owned();
        check(
            &Notice::Withheld { bans: vec![record("192.0.2.7")], because: because() },
            "192.0.2.7 would be banned for 10 min, but is not (automatic bans are paused): flood of requests",
        );
        let bans = ["203.0.113.9", "192.0.2.7", "203.0.113.5"].map(record).to_vec();
        check(
            &Notice::Withheld { bans, because: because() },
            "3 clients get through (automatic bans are paused): 203.0.113.0/24 (2), 192.0.2.7; 3 for floods",
        );
        let ends = Ends::At { boot_ms: 0, wall_ms: 1_778_537_253_000 };
        check(
            &Notice::Paused { ends, note: Some("load test".into()) },
            "automatic bans paused until 2026-05-11T22:07:33Z (load test); end it with: shield-agent resume",
        );
        let ended = |by_hand| Notice::PauseEnded { by_hand, note: None };
        check(&ended(false), "automatic bans go on: the pause is over");
        check(&ended(true), "automatic bans go on: an operator ended the pause");
    }

    #[test]
    fn who_is_slowed_and_no_more() {
        let rate = |per_sec, burst| SlowRate { per_sec, burst };
        let slowed = |grounds| Slowed {
            client: client(),
            since_ms: 1_778_537_253_000,
            ends: Ends::At { boot_ms: 0, wall_ms: 1_778_537_853_000 },
            rule: Rule::Probing,
            limits: SlowLimits { connections: rate(2, 12), packets: rate(20, 200) },
            grounds,
        };
        let notice = |grounds, unmade: Option<&str>| Notice::Slowed {
            slowed: Box::new(slowed(grounds)),
            unmade: unmade.map(str::to_owned),
        };
        check(
            &notice(SlowGrounds::Evidence { points: 6.25, bar: 10.0 }, None),
            "192.0.2.7 slowed for 10 min to 2 connections/s and 20 packets/s: 6.25 of the 10 points of evidence that a \
             ban takes (many different paths that do not exist)",
        );
        check(
            &notice(SlowGrounds::Withheld, Some("dry run")),
            "192.0.2.7 would be slowed for 10 min to 2 connections/s and 20 packets/s, but is not (dry run): many \
             different paths that do not exist, but it was served well before: its ban waits",
        );
        check(
            &notice(SlowGrounds::Hopping { clients: 32 }, None),
            "192.0.2.7 slowed for 10 min to 2 connections/s and 20 packets/s: 32 clients or more in this network only \
             probe, and share these limits",
        );
        check(
            &Notice::Released { client: client(), reason: LiftReason::Expired, lasted_secs: 600 },
            "192.0.2.7 is no longer slowed after 10 min: its term is over",
        );
    }

    #[test]
    fn what_concerns_many() {
        check(
            &Notice::GlobalAnomalyStarted { condition: String::new(), rate: 9.87, mean: 2.81, stddev: 0.62 },
            "global anomaly started: 9.87 req/s server-wide, 11.4 standard deviations above the usual 2.81 req/s",
        );
        check(
            &Notice::GlobalAnomalyEnded { rate: 2.9, mean: 2.81, lasted_secs: 90 },
            "global anomaly ended after 1 min 30 s by the times in the log: 2.90 req/s",
        );
        let limit = || "51 bans in 60 s > 50".to_owned();
        let blast_radius = |stopped| Notice::BlastRadius { stopped, reason: limit() };
        check(&blast_radius(true), "automatic bans stopped: 51 bans in 60 s > 50");
        check(&blast_radius(false), "automatic bans resumed: 51 bans in 60 s > 50");
        check(
            &Notice::NetworkProposed { network: "192.0.2.0/24".parse().unwrap(), banned: 12, clean: 1 },
            "ban of 192.0.2.0/24 proposed: 12 banned clients, 1 other in it without an offence",
        );
        let changed = |added, note: Option<&str>| Notice::AllowlistChanged {
            network: "192.0.2.0/24".parse().unwrap(),
            added,
            until_ms: None,
            note: note.map(str::to_owned),
        };
        check(&changed(true, Some("office")), "192.0.2.0/24 added to the allowlist (office)");
        check(&changed(false, None), "192.0.2.0/24 removed from the allowlist");
        let mut for_a_while = changed(true, Some("office"));
        if let Notice::AllowlistChanged { until_ms, .. } = &mut for_a_while {
            *until_ms = Some(1_778_537_253_000);
        }
        check(&for_a_while, "192.0.2.0/24 added to the allowlist until 2026-05-11T22:07:33Z (office)");
    }

    #[test]
    fn shield_itself() {
        check(
            &Notice::Degraded { part: "xdp".into(), reason: "no driver".into() },
            "xdp degraded: no driver",
        );
        check(&Notice::Recovered { part: "xdp".into(), after_secs: 4 }, "xdp recovered after 4 s");
        let repaired = |restored, removed| Notice::Repaired {
            part: "iptables".into(),
            found: "the jump was missing".into(),
            restored,
            removed,
        };
        check(&repaired(1, 2), "iptables repaired: the jump was missing (1 ban restored, 2 entries removed)");
        check(&repaired(2, 1), "iptables repaired: the jump was missing (2 bans restored, 1 entry removed)");
        check(
            &Notice::Evasion { client: client(), lines: 30 },
            "30 lines of 192.0.2.7 in one minute not valid in the log's format",
        );
        let skewed = |skew_secs| Notice::ClockSkew { source: "/var/log/a.log".into(), skew_secs };
        check(
            &skewed(300),
            "times in /var/log/a.log are 5 min ahead of the wall clock, and its lines count when they are read: check the clock \
             and the time zone of whatever writes it",
        );
        check(
            &skewed(-300),
            "times in /var/log/a.log are 5 min behind the wall clock, and its lines count when they are read: nginx held them \
             back (buffer= in access_log), or the clock or the time zone is wrong",
        );
        let lost = |bytes| Notice::Lost { source: "/var/log/a.log".into(), bytes, reason: "gone".into() };
        check(&lost(Some(2048)), "lines of /var/log/a.log lost (2.0 KiB): gone");
        check(&lost(None), "lines of /var/log/a.log lost (an unknown number of bytes): gone");
        let started = |restored, dry_run| Notice::Started { version: "1".into(), restored, dry_run };
        check(&started(1, true), "shield 1 started, 1 ban restored, dry run");
        check(&started(2, false), "shield 1 started, 2 bans restored");
        check(&Notice::Stopping { bans: 0 }, "shield is stopping; no bans in force");
        check(&Notice::Stopping { bans: 1 }, "shield is stopping; 1 ban stays until its end");
        check(&Notice::Stopping { bans: 2 }, "shield is stopping; 2 bans stay until their end");
    }
}
