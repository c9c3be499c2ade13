//! What is going on, as one of seven states: a pure function of a status and of the bans of the last minutes. Page and
//! terminal show it and decide nothing themselves, so that they never contradict each other.

use std::collections::BTreeMap;

use super::feed::ATTACKS_SECS;
use super::types::{PartStateName, Posture, PostureState, Status};
use crate::text::posture as words;
use crate::text::posture::{Attack, Traffic};

/// Drops per second from which banned clients count as attacking still. Fewer are single retries.
const ATTACK_PACKETS_PER_SEC: f64 = 10.0;

/// Deviations from the mean up to which traffic is called usual.
const USUAL_DEVIATIONS: f64 = 3.0;

/// States of a source from which no client can be judged.
const BLIND_SOURCES: [&str; 6] = ["refused", "silent", "unread", "degraded", "waiting", "off"];

/// Parts that keep banned clients out.
const ENFORCERS: [&str; 3] = ["iptables", "xdp", "nginx"];

/// Decides. `bans` are those made by rules within the last [`ATTACKS_SECS`], by kind of attack; `leaking` clients are banned
/// and still arrive.
pub(crate) fn posture(status: &Status, bans: &BTreeMap<&'static str, u64>, leaking: u64) -> Posture {
    let is_enforced = is_enforced(status);
    let attack = Attack {
        bans,
        minutes: ATTACKS_SECS / 60,
        withheld: status.withheld.clients,
        withheld_because: withheld_because(status),
        leaking,
        is_dry: status.dry_run,
        is_enforced,
        packets_per_sec: Some(status.dropped.packets_per_sec).filter(|rate| *rate >= ATTACK_PACKETS_PER_SEC),
    };
    let degraded = parts(status, PartStateName::Degraded);
    let waiting = parts(status, PartStateName::Waiting);
    let state = state(status, &attack, !degraded.is_empty());
    let (title, mut clauses) = match state {
        PostureState::Blind => (words::BLIND, vec![words::blind(blind_source(status))]),
        PostureState::AttackUnhandled => (words::ATTACK_UNHANDLED, vec![words::attack(&attack)]),
        PostureState::AttackHandled => (words::ATTACK_HANDLED, vec![words::attack(&attack)]),
        PostureState::Degraded if degraded.is_empty() => (words::DEGRADED, vec![]),
        PostureState::Degraded => (words::DEGRADED, vec![words::parts(&degraded)]),
        PostureState::Unusual => (words::UNUSUAL, vec![words::no_attacker()]),
        PostureState::Learning => (words::LEARNING, vec![status.detector.text.clone()]),
        PostureState::Quiet => (words::QUIET, vec![words::no_attack(attack.minutes)]),
    };
    let is_stopped_unsaid = attack.withheld == 0 && state != PostureState::Blind;
    clauses.extend(not_banning(status).filter(|_| is_stopped_unsaid));
    if state != PostureState::Blind {
        clauses.push(words::traffic(&traffic(status)));
    }
    if !degraded.is_empty() && !matches!(state, PostureState::Blind | PostureState::Degraded) {
        clauses.push(words::degraded(&degraded));
    }
    if !waiting.is_empty() && state == PostureState::Quiet {
        let labels: Vec<&str> = waiting.iter().map(|(label, _)| *label).collect();
        clauses.push(words::waiting(&labels));
    }
    Posture { state, title: title.to_owned(), text: clauses.join("; ") }
}

/// The worst that holds.
fn state(status: &Status, attack: &Attack<'_>, is_degraded: bool) -> PostureState {
    let is_attacked = !attack.bans.is_empty() || attack.packets_per_sec.is_some();
    let is_kept_out = attack.is_enforced && !attack.is_dry;
    let gets_through = attack.withheld > 0 || attack.leaking > 0 || (is_attacked && !is_kept_out);
    if is_blind(status) {
        PostureState::Blind
    } else if gets_through {
        PostureState::AttackUnhandled
    } else if is_attacked {
        PostureState::AttackHandled
    } else if is_degraded || not_banning(status).is_some() {
        PostureState::Degraded
    } else if status.global.anomaly.is_some() {
        PostureState::Unusual
    } else if status.detector.warm_up.is_some() {
        PostureState::Learning
    } else {
        PostureState::Quiet
    }
}

/// Why rules ban nobody, or not all that they would; `None` while they do.
fn not_banning(status: &Status) -> Option<String> {
    let stopped = || status.detector.blast_radius.as_deref().map(words::stopped);
    status.detector.paused_until_ms.map(words::paused).or_else(stopped)
}

fn withheld_because(status: &Status) -> String {
    status.detector.paused_until_ms.map_or("automatic bans are stopped".to_owned(), words::paused)
}

/// Whether any enforcer holds the bans. Without a report of one the agent is only starting.
fn is_enforced(status: &Status) -> bool {
    let is_enforcer = |name: &str| ENFORCERS.contains(&name);
    let mut enforcers = status.parts.iter().filter(|part| is_enforcer(&part.part)).peekable();
    enforcers.peek().is_none() || enforcers.any(|part| part.state == PartStateName::Active)
}

fn is_blind(status: &Status) -> bool {
    let is_blind = |state: &str| BLIND_SOURCES.contains(&state);
    !status.sources.is_empty() && status.sources.iter().all(|source| is_blind(&source.state))
}

/// A source that is not read, and why: one that is degraded before one that only waits.
fn blind_source(status: &Status) -> Option<(&str, &str)> {
    let sources = || status.parts.iter().filter(|part| part.part.starts_with("source:"));
    let degraded = sources().find(|part| part.state == PartStateName::Degraded);
    degraded.or_else(|| sources().next()).map(|part| (part.label.as_str(), part.text.as_str()))
}

/// Label and text of the parts in that state.
fn parts(status: &Status, state: PartStateName) -> Vec<(&str, &str)> {
    let parts = status.parts.iter().filter(|part| part.state == state);
    parts.map(|part| (part.label.as_str(), part.text.as_str())).collect()
}

fn traffic(status: &Status) -> Traffic {
    let (rate, mean, stddev) = (status.global.rate, status.baseline.mean, status.baseline.stddev);
    if status.detector.warm_up.is_some() {
        Traffic::Unknown { rate }
    } else if status.global.anomaly.is_some() || rate > mean + USUAL_DEVIATIONS * stddev {
        Traffic::More { rate, mean }
    } else {
        Traffic::Usual { rate }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::types::{Anomaly, Part, SourceStatus, WarmUp};
    use crate::cli::status::tests::calm as status;

    type Change = fn(&mut Status);

    /// Changes of the calm status, bans by kind of attack, leaking clients, and what is said.
    type Case<'a> = (&'a [Change], &'a [(&'static str, u64)], u64, &'a str);

    fn set(status: &mut Status, part: &str, state: PartStateName, text: &str) {
        status.parts.retain(|known| known.part != part);
        status.parts.push(Part { part: part.into(), label: part.into(), state, text: text.into() });
    }

    fn source(state: &str) -> SourceStatus {
        let mut source: SourceStatus = serde_json::from_str(
            r#"{"source":"a.log","lines":0,"bytes":0,"rejected":0,"salvaged":0,"logs":null,"lag_bytes":null,
                "lag_secs":null,"last_line_ms":null,"format":null,"lines_per_sec":0,"rejected_percent":null,
                "rejected_by":{},"state":""}"#,
        )
        .unwrap();
        source.state = state.into();
        source
    }

    fn decide(changes: &[Change], bans: &[(&'static str, u64)], leaking: u64) -> String {
        let mut status = status();
        changes.iter().for_each(|change| change(&mut status));
        let Posture { title, text, .. } = posture(&status, &bans.iter().copied().collect(), leaking);
        format!("{title}: {text}")
    }

    const DEGRADE: Change = |s| set(s, "xdp", PartStateName::Degraded, "no driver");
    const WARM_UP: Change = |s| {
        s.detector.warm_up = Some(WarmUp { remaining_secs: 90 });
        s.detector.text = "1 min 30 s left".into();
    };
    const ANOMALY: Change = |s| {
        s.global.rate = 928.0;
        s.global.anomaly = Some(Anomaly { since_ms: 0, condition: String::new() });
    };
    const STOPPED: Change = |s| s.detector.blast_radius = Some("too many".into());
    const PAUSED: Change = |s| s.detector.paused_until_ms = Some(1_778_537_253_000);
    const WITHHELD: Change = |s| s.withheld.clients = 48;
    const BLIND: Change = |s| {
        s.sources = vec![source("refused"), source("waiting")];
        set(s, "source:a.log", PartStateName::Degraded, "none of the last 200 lines is of the format");
    };
    const NO_ENFORCER: Change = |s| set(s, "iptables", PartStateName::Degraded, "no iptables");

    /// Each adds what is worse than all before it.
    #[test]
    fn each_state_gives_way_to_a_worse_one_and_comes_back() {
        let bans = [("probing", 3), ("floods", 4), ("guessing passwords", 1)];
        let made = "made 8 bans in 5 min (4 for floods, 3 for probing, 1 for guessing passwords)";
        let cases: &[Case<'_>] = &[
            (&[], &[], 0, "Quiet: no attack within 5 min; 3.20 req/s, usual"),
            (&[WARM_UP], &[], 0, "Learning: 1 min 30 s left; 3.20 req/s"),
            (&[ANOMALY], &[], 0, "Unusual traffic: no client stands out; 928.00 req/s, usually 2.90 req/s"),
            (&[WARM_UP, DEGRADE], &[], 0, "Degraded: xdp (no driver); 3.20 req/s"),
            (&[STOPPED], &[], 0, "Degraded: automatic bans are stopped: too many; 3.20 req/s, usual"),
            (
                &[PAUSED, STOPPED],
                &[],
                0,
                "Degraded: automatic bans are paused until 2026-05-11T22:07:33Z; 3.20 req/s, usual",
            ),
            (&[], &bans, 0, &format!("Under attack, handled: {made}; 3.20 req/s, usual")),
            (
                &[ANOMALY, DEGRADE],
                &bans,
                0,
                &format!("Under attack, handled: {made}; 928.00 req/s, usually 2.90 req/s; degraded: xdp"),
            ),
            (
                &[|s| s.dropped.packets_per_sec = 1_324.6],
                &[],
                0,
                "Under attack, handled: 1,325 packets/s dropped; 3.20 req/s, usual",
            ),
            (
                &[|s| s.dropped.packets_per_sec = 9.9],
                &[],
                0,
                "Quiet: no attack within 5 min; 3.20 req/s, usual",
            ),
            (
                &[STOPPED, WITHHELD],
                &[],
                0,
                "Under attack, NOT handled: 48 clients get through, because automatic bans are stopped; 3.20 req/s, usual",
            ),
            (
                &[PAUSED, WITHHELD],
                &[],
                0,
                "Under attack, NOT handled: 48 clients get through, because automatic bans are paused until \
                 2026-05-11T22:07:33Z; 3.20 req/s, usual",
            ),
            (
                &[],
                &[],
                1,
                "Under attack, NOT handled: requests of 1 banned client still reach the web server; 3.20 req/s, usual",
            ),
            (
                &[NO_ENFORCER],
                &[("floods", 1)],
                0,
                "Under attack, NOT handled: no enforcer is active, so nobody is kept out; made 1 ban in 5 min (1 for \
                 floods); 3.20 req/s, usual; degraded: iptables",
            ),
            (
                &[|s| s.dry_run = true],
                &[("floods", 2)],
                0,
                "Under attack, NOT handled: dry run, nothing is dropped: would have made 2 bans in 5 min (2 for floods); \
                 3.20 req/s, usual",
            ),
            (
                &[BLIND, WITHHELD, ANOMALY],
                &bans,
                1,
                "Blind: no request is judged: source:a.log: none of the last 200 lines is of the format",
            ),
        ];
        for (changes, bans, leaking, expected) in cases {
            assert_eq!(decide(changes, bans, *leaking), *expected);
        }
    }

    #[test]
    fn one_log_that_is_read_is_enough_to_see() {
        let mut status = status();
        status.sources = vec![source("refused"), source("behind")];
        assert_eq!(posture(&status, &BTreeMap::new(), 0).state, PostureState::Quiet);
        status.sources = vec![source("waiting")];
        assert_eq!(posture(&status, &BTreeMap::new(), 0).state, PostureState::Blind);
    }

    #[test]
    fn a_part_that_waits_is_said_where_all_is_quiet() {
        let waits: Change = |s| set(s, "source:b.log", PartStateName::Waiting, "not there yet");
        let expected = "Quiet: no attack within 5 min; 3.20 req/s, usual; waiting: source:b.log";
        assert_eq!(decide(&[waits], &[], 0), expected);
    }
}
