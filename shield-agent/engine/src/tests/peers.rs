//! Clients behind a proxy that the log names beside them.

use super::safeguards::{PROBES, requests};
use super::*;

const PROXY: &str = "192.0.2.80";

/// Sends the requests of `client` by `peer`.
fn by(engine: &mut Engine, peer: &str, client: &str, paths: &[&str], now: Now) -> Vec<Action> {
    let mut batch = requests(client, paths, now);
    let at = batch.bytes.len() as u32;
    batch.bytes.extend(peer.as_bytes());
    for line in &mut batch.lines {
        (line.peer_at, line.peer_len) = (at, peer.len() as u8);
    }
    engine.handle(Event::Lines(&batch), now)
}

fn bans(actions: &[Action]) -> Vec<(String, String)> {
    let record = |action: &Action| match action {
        Action::Announce(Notice::Banned(record)) => {
            Some((record.ban.client.to_string(), record.reason.clone().unwrap_or_default()))
        }
        _ => None,
    };
    actions.iter().filter_map(record).collect()
}

fn protected(actions: &[Action]) -> Vec<AllowReason> {
    let reason = |action: &Action| match action {
        Action::Announce(Notice::Protected { reason, .. }) => Some(*reason),
        _ => None,
    };
    actions.iter().filter_map(reason).collect()
}

/// Three visitors come by the proxy.
fn visit(engine: &mut Engine, now: Now) {
    for visitor in ["198.51.100.1", "198.51.100.2", "198.51.100.3"] {
        by(engine, PROXY, visitor, &["/"], now);
    }
}

#[test]
fn a_ban_behind_a_proxy_says_where_it_takes_effect_and_is_enforced_everywhere() {
    let mut engine = engine();
    let actions = by(&mut engine, PROXY, "203.0.113.5", &PROBES, T0);
    let [(client, reason)] = &bans(&actions)[..] else { panic!("{actions:?}") };
    assert_eq!(client, "203.0.113.5");
    assert!(reason.contains("packets come from 192.0.2.80") && reason.contains("[nginx] mode"), "{reason}");
    assert!(actions.iter().any(|action| matches!(action, Action::Enforce(Order::Ban { .. }))), "{actions:?}");

    let state = PartState::Active { detail: String::new() };
    let part = EnforcerName::Nginx.name().to_owned();
    engine.handle(Event::Part(PartReport { part, state, repaired: None }), T0);
    let actions = by(&mut engine, PROXY, "203.0.113.6", &PROBES, T0);
    assert!(bans(&actions)[0].1.ends_with("nginx refuses its requests"), "{actions:?}");
}

#[test]
fn a_direct_client_has_no_such_words() {
    let mut engine = engine();
    let actions = by(&mut engine, "203.0.113.5", "203.0.113.5", &PROBES, T0);
    assert_eq!(bans(&actions), [("203.0.113.5".to_owned(), String::new())]);
}

#[test]
fn a_proxy_is_not_banned_for_requests_of_its_own() {
    let mut engine = engine();
    visit(&mut engine, T0);
    let actions = by(&mut engine, PROXY, PROXY, &PROBES, T0);
    assert_eq!((bans(&actions), protected(&actions)), (vec![], vec![AllowReason::TrustedProxy]));
    // An hour after its last visitor it is an address like another.
    let later = T0.plus_ms(3_700_000);
    assert_eq!(bans(&by(&mut engine, PROXY, PROXY, &PROBES, later)).len(), 1);
}

/// Attack: a client that comes by the proxy too, and one that has itself named as a proxy by a single friend.
#[test]
fn a_claim_of_a_proxy_exempts_no_attacker() {
    let mut engine = engine();
    visit(&mut engine, T0);
    by(&mut engine, PROXY, "203.0.113.5", &["/"], T0);
    let actions = by(&mut engine, "203.0.113.5", "203.0.113.5", &PROBES, T0);
    assert_eq!(bans(&actions), [("203.0.113.5".to_owned(), String::new())], "it attacks directly");

    by(&mut engine, "203.0.113.9", "198.51.100.7", &["/"], T0);
    let actions = by(&mut engine, "203.0.113.9", "203.0.113.9", &PROBES, T0);
    assert_eq!(bans(&actions).len(), 1, "one client makes no proxy");
}
