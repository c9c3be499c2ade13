//! Clients behind a proxy that the log names beside them, and where their bans are in force.

use super::safeguards::{PROBES, requests};
use super::*;
use crate::vocab::ban::Place;
use crate::vocab::event::FailedOrder;

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
fn a_ban_behind_a_proxy_says_where_it_takes_effect() {
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

const CLIENT: &str = "203.0.113.5";

/// An engine with these enforcers, of which `active` work.
fn engine_with(enforcers: &[EnforcerName], active: &[EnforcerName]) -> Engine {
    let settings =
        Settings { enforcers: enforcers.to_vec(), refusal_status: Some(444), ..Settings::default() };
    let mut engine = Engine::new(settings, Policy::default(), Allowlist::default(), 1, 7);
    for enforcer in active {
        part(&mut engine, *enforcer, PartState::Active { detail: String::new() });
    }
    engine
}

fn part(engine: &mut Engine, enforcer: EnforcerName, state: PartState) -> Vec<Action> {
    let part = enforcer.name().to_owned();
    engine.handle(Event::Part(PartReport { part, state, repaired: None }), T0)
}

fn placing_engine() -> Engine {
    engine_with(&EnforcerName::ALL, &EnforcerName::ALL)
}

/// The places of the orders to ban and of what is stored of them, which must agree.
fn places(actions: &[Action]) -> Vec<Place> {
    let ordered = actions.iter().filter_map(|action| match action {
        Action::Enforce(Order::Ban { place, .. }) => Some(*place),
        _ => None,
    });
    let ordered: Vec<Place> = ordered.collect();
    let stored = actions.iter().filter_map(|action| match action {
        Action::Persist(Record::Banned(record) | Record::Extended(record)) => Some(record.ban.place),
        _ => None,
    });
    assert_eq!(ordered, stored.collect::<Vec<Place>>(), "{actions:?}");
    ordered
}

/// A request of a banned client with this status.
fn again(engine: &mut Engine, peer: &str, status: u16) -> Vec<Place> {
    let now = T0.plus_ms(1_000);
    let mut batch = requests(CLIENT, &["/"], now);
    let at = batch.bytes.len() as u32;
    batch.bytes.extend(peer.as_bytes());
    (batch.lines[0].peer_at, batch.lines[0].peer_len) = (at, peer.len() as u8);
    batch.lines[0].status = status;
    places(&engine.handle(Event::Lines(&batch), now))
}

#[test]
fn a_ban_is_in_force_where_its_clients_requests_come_past() {
    use Place::{Everywhere, Kernel, Nginx};
    let all = EnforcerName::ALL;
    let check = |ways: &[&str], enforcers: &[EnforcerName], active: &[EnforcerName], expected: Place| {
        let mut engine = engine_with(enforcers, active);
        for way in &ways[1..] {
            by(&mut engine, way, CLIENT, &["/"], T0);
        }
        let actions = by(&mut engine, ways[0], CLIENT, &PROBES, T0);
        assert_eq!(places(&actions), [expected], "{ways:?} {enforcers:?} {active:?}");
    };
    check(&[CLIENT], &all, &all, Kernel);
    check(&[PROXY], &all, &all, Nginx);
    check(&[""], &all, &all, Everywhere);
    check(&["unix:"], &all, &all, Everywhere);
    // It came both ways.
    check(&[CLIENT, PROXY], &all, &all, Everywhere);
    check(&[PROXY, CLIENT], &all, &all, Everywhere);
    // Nothing there works, or nothing else is there.
    let (xdp, nginx) = ([EnforcerName::Xdp], [EnforcerName::Nginx]);
    check(&[CLIENT], &all, &nginx, Everywhere);
    check(&[PROXY], &all, &EnforcerName::KERNEL, Everywhere);
    check(&[CLIENT], &all, &xdp, Kernel);
    check(&[CLIENT], &EnforcerName::KERNEL, &EnforcerName::KERNEL, Everywhere);
    check(&[CLIENT], &nginx, &nginx, Everywhere);
}

#[test]
fn what_a_rule_did_not_see_is_banned_everywhere() {
    let mut engine = placing_engine();
    by(&mut engine, CLIENT, CLIENT, &["/"], T0);
    let command = Command::Ban {
        clients: vec![CLIENT.parse().unwrap()],
        term: None,
        reason: None,
        rule: Rule::Operator,
    };
    let actions = engine.handle(Event::Command(CommandId(1), command), T0);
    assert_eq!(places(&actions), [Place::Everywhere]);
}

/// Attack: a client that is banned for what it sent one way goes on by the other.
#[test]
fn a_banned_client_that_comes_another_way_is_banned_everywhere() {
    let check = |first: &str, then: &str, status: u16| {
        let mut engine = placing_engine();
        by(&mut engine, first, CLIENT, &PROBES, T0);
        assert_eq!(again(&mut engine, first, status), [], "the same way");
        assert_eq!(again(&mut engine, then, status), [Place::Everywhere], "{first} {then}");
        assert_eq!(again(&mut engine, then, status), [], "once");
        assert_eq!(engine.ledger().len(), 1);
    };
    for status in [200, 444] {
        check(CLIENT, PROXY, status);
        check(PROXY, CLIENT, status);
        check(PROXY, "", status);
        check(CLIENT, "unix:", status);
    }
}

#[test]
fn a_leak_puts_a_ban_into_force_everywhere() {
    let mut engine = placing_engine();
    by(&mut engine, CLIENT, CLIENT, &PROBES, T0);
    let later = T0.plus_ms(60_000);
    let actions = by(&mut engine, CLIENT, CLIENT, &["/", "/", "/"], later);
    assert_eq!(places(&actions), [Place::Everywhere]);
    assert!(
        actions.iter().any(|a| matches!(a, Action::Enforce(Order::SampleActivity { .. }))),
        "{actions:?}"
    );
}

#[test]
fn a_ban_that_its_place_cannot_hold_is_put_into_force_everywhere() {
    let mut engine = placing_engine();
    let actions = by(&mut engine, PROXY, CLIENT, &PROBES, T0);
    let serial = actions.iter().find_map(|action| match action {
        Action::Enforce(Order::Ban { serial, .. }) => Some(*serial),
        _ => None,
    });
    let failed = |serial: u64| {
        let client = CLIENT.parse().unwrap();
        let failed = vec![FailedOrder { client, serial, was_lift: false, error: "full".to_owned() }];
        Event::Outcome(Outcome { enforcer: EnforcerName::Nginx, banned: vec![], lifted: vec![], failed })
    };
    let serial = serial.unwrap();
    assert_eq!(places(&engine.handle(failed(serial + 1), T0)), [], "of another ban");
    assert_eq!(places(&engine.handle(failed(serial), T0)), [Place::Everywhere]);
    assert_eq!(places(&engine.handle(failed(serial), T0)), [], "once");
}

#[test]
fn nginx_takes_over_when_nothing_in_the_kernel_works() {
    let mut engine = placing_engine();
    let bans = 1_200_u32;
    for n in 0..bans {
        let client = Allowlist::default().admit(std::net::Ipv4Addr::from_bits(0xcb00_7100 + n).into(), 64);
        let place = if n % 2 == 0 { Place::Kernel } else { Place::Nginx };
        engine.ledger.ban(client.unwrap(), Ends::Never, Rule::Operator, None, place, T0);
    }
    let degraded = || PartState::Degraded { reason: "gone".to_owned() };
    assert_eq!(places(&part(&mut engine, EnforcerName::Xdp, degraded())), [], "iptables works");
    let mut widened = places(&part(&mut engine, EnforcerName::Iptables, degraded()));
    while engine.is_widening() {
        assert_eq!(engine.next_deadline(), Some(0), "it goes on at once");
        widened.extend(places(&engine.handle(Event::Tick, T0)));
    }
    assert_eq!(widened, vec![Place::Everywhere; bans as usize / 2]);
    let kernels = engine.ledger().entries().filter(|entry| entry.ban.place == Place::Kernel);
    assert_eq!(kernels.count(), 0);

    // At a start, one says so before the other has begun.
    let mut engine = engine_with(&EnforcerName::ALL, &[EnforcerName::Nginx]);
    part(&mut engine, EnforcerName::Xdp, degraded());
    assert!(!engine.is_widening());
}

#[test]
fn a_restored_ban_keeps_its_place_where_there_is_one() {
    let check = |saved: Place, enforcers: &[EnforcerName], expected: Place| {
        let mut engine = engine_with(enforcers, &[]);
        let ban = Ban {
            client: CLIENT.parse().unwrap(),
            serial: 3,
            since_ms: 1,
            ends: Ends::Never,
            offence: None,
            rule: Rule::Flood,
            place: saved,
        };
        let actions = engine.restore_ban(ban, T0);
        let Action::Enforce(Order::Ban { place, .. }) = actions[0] else { panic!("{actions:?}") };
        assert_eq!(place, expected, "{saved:?} {enforcers:?}");
    };
    for place in [Place::Kernel, Place::Nginx, Place::Everywhere] {
        check(place, &EnforcerName::ALL, place);
    }
    check(Place::Nginx, &EnforcerName::KERNEL, Place::Everywhere);
    check(Place::Kernel, &[EnforcerName::Nginx], Place::Everywhere);
}
