//! The slow lane: who gets into it, and how it ends.

use super::*;
use crate::detect::policy::Switch;
use crate::settings::SlowSettings;
use crate::vocab::request::SourceId;
use crate::vocab::slow::{SlowGrounds, Slowed};

const SUSPECT: &str = "203.0.113.66";

fn engine_with_xdp() -> Engine {
    let mut engine = engine();
    xdp(&mut engine, PartState::Active { detail: "native on eth0".to_owned() });
    engine
}

fn xdp(engine: &mut Engine, state: PartState) {
    let report = PartReport { part: "xdp".to_owned(), state, repaired: None };
    engine.handle(Event::Part(report), T0);
}

/// One request each, a second apart from T0 + `from` on.
fn ask(engine: &mut Engine, addr: &str, from: u64, targets: &[(&str, u16)]) -> Vec<Action> {
    ask_as(engine, addr, from, targets, false)
}

fn ask_as(
    engine: &mut Engine,
    addr: &str,
    from: u64,
    targets: &[(&str, u16)],
    behind_proxy: bool,
) -> Vec<Action> {
    let mut actions = Vec::new();
    for (at, (path, status)) in targets.iter().enumerate() {
        let now = T0.plus_ms((from + at as u64) * 1000);
        let mut batch = Batch { live: true, source: Some(SourceId(3)), ..Batch::default() };
        push(&mut batch, addr.parse().unwrap(), path, *status, now).behind_proxy = behind_proxy;
        actions.extend(engine.handle(Event::Lines(&batch), now));
        actions.extend(engine.handle(Event::Tick, now.plus_ms(900)));
    }
    actions
}

fn slowed(actions: &[Action]) -> Vec<Slowed> {
    let slowed = |action: &Action| match action {
        Action::Announce(Notice::Slowed { slowed, .. }) => Some((**slowed).clone()),
        _ => None,
    };
    actions.iter().filter_map(slowed).collect()
}

fn released(actions: &[Action]) -> Vec<LiftReason> {
    let reason = |action: &Action| match action {
        Action::Announce(Notice::Released { reason, .. }) => Some(*reason),
        _ => None,
    };
    actions.iter().filter_map(reason).collect()
}

fn is_changed(actions: &[Action]) -> bool {
    actions.iter().any(|action| matches!(action, Action::Enforce(Order::SlowedChanged)))
}

fn banned(actions: &[Action]) -> bool {
    actions.iter().any(|action| matches!(action, Action::Enforce(Order::Ban { .. })))
}

/// Probes until the client is in the slow lane; returns how many it took.
fn probe_until_slowed(engine: &mut Engine, addr: &str, from: u64) -> (usize, Vec<Slowed>) {
    for (at, probe) in PROBES.iter().enumerate() {
        let actions = ask(engine, addr, from + at as u64, &[(probe, 404)]);
        let found = slowed(&actions);
        if !found.is_empty() || banned(&actions) {
            return (at + 1, found);
        }
    }
    (PROBES.len(), Vec::new())
}

const PROBES: [&str; 12] = [
    "/phpinfo.php",
    "/old-admin.php",
    "/shell.php",
    "/backup.php",
    "/test.php",
    "/config.php",
    "/x.php",
    "/wp-login.php",
    "/a1.php",
    "/b2.php",
    "/c3.php",
    "/d4.php",
];

#[test]
fn half_of_the_evidence_slows_and_all_of_it_bans() {
    let mut engine = engine_with_xdp();
    let (probes, found) = probe_until_slowed(&mut engine, SUSPECT, 0);
    let [slow] = &found[..] else { panic!("slowed before it is banned: {found:?}") };
    let SlowGrounds::Evidence { points, bar } = slow.grounds else { panic!("{slow:?}") };
    assert!(points >= bar / 2.0 && points < bar, "{slow:?}");
    assert_eq!(slow.client, client(SUSPECT));
    assert_eq!(engine.slowed_count(), 1);
    assert_eq!(engine.ledger().offences(client(SUSPECT), T0.wall_secs()), None, "no offence");
    let mut last = Vec::new();
    for (at, probe) in PROBES.iter().enumerate().skip(probes) {
        last = ask(&mut engine, SUSPECT, at as u64, &[(probe, 404)]);
        if banned(&last) {
            break;
        }
    }
    assert!(banned(&last), "all of it bans");
    let orders: Vec<&Order> =
        last.iter().filter_map(|a| if let Action::Enforce(order) = a { Some(order) } else { None }).collect();
    assert!(
        matches!(orders[..], [Order::Ban { .. }, Order::SlowedChanged]),
        "dropped before it leaves the slow lane: {orders:?}"
    );
    assert!(released(&last).is_empty(), "the ban says it");
    assert_eq!(engine.slowed_count(), 0);
}

#[test]
fn whoever_behaves_is_let_go_and_whoever_goes_on_is_not() {
    let mut engine = engine_with_xdp();
    let (probes, found) = probe_until_slowed(&mut engine, SUSPECT, 0);
    assert_eq!(found.len(), 1);
    let since = probes as u64 - 1;
    let pages = [("/", 200), ("/about", 200), ("/style.css", 200)];
    assert!(released(&ask(&mut engine, SUSPECT, 20, &pages)).is_empty());
    let before = engine.handle(Event::Tick, T0.plus_ms((since + 598) * 1000));
    assert!(released(&before).is_empty());
    let after = engine.handle(Event::Tick, T0.plus_ms((since + 602) * 1000));
    assert_eq!(released(&after), [LiftReason::Expired]);
    assert!(is_changed(&after));
    assert_eq!(engine.slowed_count(), 0);
}

#[test]
fn nobody_on_the_allowlist_or_behind_a_proxy_is_slowed() {
    let probes = PROBES.map(|probe| (probe, 404));
    let mut engine = engine_with_xdp();
    assert!(slowed(&ask(&mut engine, "192.0.2.10", 0, &probes)).is_empty());
    let mut engine = engine_with_xdp();
    assert!(slowed(&ask_as(&mut engine, SUSPECT, 0, &probes, true)).is_empty());
    // Where nginx refuses the banned they are banned, but nothing could slow them.
    let mut backoff = crate::bans::backoff::Backoff::default();
    backoff.set_slow_first(true);
    for backoff in [crate::bans::backoff::Backoff::default(), backoff] {
        let settings = Settings {
            enforcers: EnforcerName::ALL.to_vec(),
            proxied: crate::settings::Proxied::Ban,
            backoff,
            ..Settings::default()
        };
        let mut engine = Engine::new(settings, Policy::default(), Allowlist::default(), 1, 7);
        xdp(&mut engine, PartState::Active { detail: String::new() });
        let actions = ask_as(&mut engine, SUSPECT, 0, &probes, true);
        assert!(slowed(&actions).is_empty() && banned(&actions));
    }
    let mut engine = engine_with_xdp();
    engine.allowlist.add(Allowed { network: "203.0.113.0/24".parse().unwrap(), reason: AllowReason::Cdn });
    assert!(slowed(&ask(&mut engine, SUSPECT, 0, &probes)).is_empty());
}

#[test]
fn allowing_and_unbanning_let_a_client_go() {
    let allow = |text: &str| Command::Allow { clients: vec![client(text)], secs: None, reason: None };
    for command in [allow(SUSPECT), allow("203.0.113.0/24")] {
        let mut engine = engine_with_xdp();
        probe_until_slowed(&mut engine, SUSPECT, 0);
        let actions = engine.handle(Event::Command(CommandId(1), command), T0.plus_ms(20_000));
        assert_eq!(released(&actions), [LiftReason::Allowed]);
        assert!(is_changed(&actions));
    }
    let mut engine = engine_with_xdp();
    probe_until_slowed(&mut engine, SUSPECT, 0);
    let actions = engine.handle(unban_command(SUSPECT), T0.plus_ms(20_000));
    assert_eq!(released(&actions), [LiftReason::Operator]);
    let replied = actions.iter().any(
        |action| matches!(action, Action::Reply(_, reply) if reply.results[0].ok && reply.results[0].message == "no longer slowed"),
    );
    assert!(replied, "{actions:?}");
}

#[test]
fn without_xdp_nobody_is_slowed_and_the_state_says_so() {
    let state = |engine: &Engine| engine.parts().all().get("slow").map(|part| part.state.clone());
    let mut engine = engine();
    let (_, found) = probe_until_slowed(&mut engine, SUSPECT, 0);
    assert!(found.is_empty());
    let reason = "clients cannot be slowed: XDP is not in force".to_owned();
    assert_eq!(state(&engine), Some(PartState::Waiting { reason }));
    let settings = Settings { enforcers: vec![EnforcerName::Iptables], ..Settings::default() };
    let mut engine = Engine::new(settings, Policy::default(), Allowlist::default(), 1, 7);
    let (_, found) = probe_until_slowed(&mut engine, SUSPECT, 0);
    assert!(found.is_empty());
    let reason = "clients cannot be slowed: XDP is off".to_owned();
    assert_eq!(state(&engine), Some(PartState::Off { reason }));
    let mut engine = engine_with_xdp();
    engine.handle(Event::Tick, T0.plus_ms(5_000));
    assert!(matches!(state(&engine), Some(PartState::Active { .. })));
}

#[test]
fn switched_off_it_slows_nobody() {
    let slow = SlowSettings { switch: Switch::Off, ..Settings::default().slow };
    let settings = Settings { enforcers: EnforcerName::ALL.to_vec(), slow, ..Settings::default() };
    let mut engine = Engine::new(settings, Policy::default(), Allowlist::default(), 1, 7);
    xdp(&mut engine, PartState::Active { detail: String::new() });
    let (_, found) = probe_until_slowed(&mut engine, SUSPECT, 0);
    assert!(found.is_empty());
}

/// A client in good standing whose ban waits for the blast radius.
#[test]
fn a_ban_that_waits_slows() {
    let mut engine = engine_with_xdp();
    let visitor = "198.51.100.9";
    let pages = [("/", 200), ("/a", 200), ("/b", 200), ("/style.css", 200), ("/c", 200)];
    for minute in 0..6 {
        ask(&mut engine, visitor, minute * 60, &pages);
    }
    let now = T0.plus_ms(400_000);
    let actions = offend(&mut engine, visitor, now);
    assert!(!banned(&actions));
    let [slow] = &slowed(&actions)[..] else { panic!("{actions:?}") };
    assert_eq!(slow.grounds, SlowGrounds::Withheld);
}

/// A flood that begins just before a full minute was served until then.
#[test]
fn what_a_flood_was_served_in_its_first_second_puts_no_ban_off() {
    let mut engine = engine_with_xdp();
    for minute in 0..30 {
        ask(&mut engine, "198.51.100.9", minute * 60, &[("/", 200); 20]);
    }
    let full_minute =
        (T0.plus_ms(1_800_000).wall_secs() as u64).next_multiple_of(60) * 1000 - T0.wall_ms as u64;
    let mut waited = Vec::new();
    let is_banned = (0..10).any(|second| {
        let now = T0.plus_ms(full_minute - 1_000 + second * 1_000);
        let mut batch = Batch { live: true, source: Some(SourceId(3)), ..Batch::default() };
        (0..if second == 0 { 12 } else { 200 }).for_each(|_| {
            push(&mut batch, SUSPECT.parse().unwrap(), "/", 200, now);
        });
        let mut actions = engine.handle(Event::Lines(&batch), now);
        actions.extend(engine.handle(Event::Tick, now.plus_ms(900)));
        waited.extend(slowed(&actions));
        banned(&actions)
    });
    assert!(is_banned && waited.is_empty(), "{waited:?}");
}

#[test]
fn a_ban_that_waits_slows_nobody_behind_a_proxy() {
    let mut engine = engine_with_xdp();
    let visitor = "198.51.100.9";
    let pages = [("/", 200), ("/a", 200), ("/b", 200), ("/style.css", 200), ("/c", 200)];
    for minute in 0..6 {
        ask_as(&mut engine, visitor, minute * 60, &pages, true);
    }
    let actions = offend_as(&mut engine, visitor, true, T0.plus_ms(400_000));
    assert!(!banned(&actions) && slowed(&actions).is_empty(), "{actions:?}");
}

/// Whoever is slowed is banned at the same request as without the slow lane: it is no place to hide in.
#[test]
fn the_slow_lane_puts_no_ban_off() {
    let banned_at = |engine: &mut Engine, pause_secs: u64| {
        (0..60).find(|at| {
            let probe = PROBES[*at as usize % PROBES.len()].replace(".php", &format!("{at}.php"));
            banned(&ask(engine, SUSPECT, at * pause_secs, &[(&probe, 404)]))
        })
    };
    for pause_secs in [1, 20, 120, 400] {
        let (mut with, mut without) = (engine_with_xdp(), engine());
        assert_eq!(banned_at(&mut with, pause_secs), banned_at(&mut without, pause_secs), "{pause_secs} s");
        assert_eq!(without.slowed_total(), 0);
    }
    assert!(banned_at(&mut engine_with_xdp(), 1).is_some());
}

/// Foreign pages embed broken pictures of this site: its regular visitors are not slowed for what they were made to ask.
#[test]
fn pictures_on_a_foreign_page_slow_no_visitor_in_good_standing() {
    let mut engine = engine_with_xdp();
    let visitor = "198.51.100.9";
    let pages = [("/", 200), ("/a", 200), ("/b", 200), ("/style.css", 200), ("/c", 200)];
    for minute in 0..20 {
        ask(&mut engine, visitor, minute * 60, &pages);
    }
    let probes = PROBES.map(|probe| (probe, 404));
    let actions = ask(&mut engine, visitor, 1_200, &probes[..3]);
    assert!(slowed(&actions).is_empty() && !banned(&actions), "{actions:?}");
    let mut fresh = engine_with_xdp();
    assert!(!slowed(&ask(&mut fresh, SUSPECT, 0, &probes[..5])).is_empty(), "a stranger is");
}

#[test]
fn a_restart_keeps_the_slow_lane() {
    let mut before = engine_with_xdp();
    let mut actions = Vec::new();
    for (at, probe) in PROBES.iter().enumerate() {
        actions.extend(ask(&mut before, SUSPECT, at as u64, &[(probe, 404)]));
        if before.slowed_count() > 0 {
            break;
        }
    }
    // Killed: nothing is saved at the end. The tick that followed has saved it.
    let saved = actions.iter().rev().find_map(|action| match action {
        Action::Persist(Record::Slowed(list)) => Some(list.clone()),
        _ => None,
    });
    let mut after = engine();
    after.restore_slowed(&saved.expect("it is saved"), T0.plus_ms(60_000)).unwrap();
    let [ref kept] = after.slowed().map(|(_, slowed)| slowed.clone()).collect::<Vec<_>>()[..] else {
        panic!("it is restored");
    };
    assert_eq!(kept.client, client(SUSPECT));
    let ended = after.handle(Event::Tick, T0.plus_ms(620_000));
    assert_eq!(released(&ended), [LiftReason::Expired]);
}

#[test]
fn dns_is_asked_before_a_search_engine_is_slowed() {
    let settings = Settings {
        enforcers: EnforcerName::ALL.to_vec(),
        verify_search_engines: Switch::On,
        ..Settings::default()
    };
    for genuine in [true, false] {
        let mut engine = Engine::new(settings.clone(), Policy::default(), Allowlist::default(), 1, 7);
        xdp(&mut engine, PartState::Active { detail: String::new() });
        let asked = (0..PROBES.len()).find(|at| {
            let actions = ask(&mut engine, SUSPECT, 0, &[(PROBES[*at], 404)]);
            assert!(slowed(&actions).is_empty(), "not before the answer");
            actions.iter().any(|action| matches!(action, Action::VerifyBot { .. }))
        });
        assert!(asked.is_some());
        let answer = Event::BotVerified { client: client(SUSPECT), genuine };
        let actions = engine.handle(answer, T0.plus_ms(1_000));
        assert_eq!(slowed(&actions).is_empty(), genuine);
    }
}

/// History: a late answer of DNS slowed a client that an operator had unbanned.
#[test]
fn an_unban_ends_what_waits_for_dns() {
    let settings = Settings {
        enforcers: EnforcerName::ALL.to_vec(),
        verify_search_engines: Switch::On,
        ..Settings::default()
    };
    let mut engine = Engine::new(settings, Policy::default(), Allowlist::default(), 1, 7);
    xdp(&mut engine, PartState::Active { detail: String::new() });
    let asked = PROBES.iter().any(|path| {
        let actions = ask(&mut engine, SUSPECT, 0, &[(path, 404)]);
        actions.iter().any(|action| matches!(action, Action::VerifyBot { .. }))
    });
    assert!(asked);
    engine.handle(unban_command(SUSPECT), T0.plus_ms(500));
    let answer = Event::BotVerified { client: client(SUSPECT), genuine: false };
    assert!(slowed(&engine.handle(answer, T0.plus_ms(1_000))).is_empty());
    assert!(slowed(&engine.handle(Event::Tick, T0.plus_ms(60_000))).is_empty());
}

/// `[slow] first_offence`: the step before the first term.
#[test]
fn a_first_offence_can_be_slowed_and_the_second_is_banned_for_the_first_term() {
    let mut backoff = crate::bans::backoff::Backoff::default();
    backoff.set_slow_first(true);
    let settings = Settings { enforcers: EnforcerName::ALL.to_vec(), backoff, ..Settings::default() };
    let mut engine = Engine::new(settings.clone(), Policy::default(), Allowlist::default(), 1, 7);
    xdp(&mut engine, PartState::Active { detail: String::new() });
    let first = offend(&mut engine, SUSPECT, T0);
    assert!(!banned(&first));
    assert_eq!(slowed(&first)[0].grounds, SlowGrounds::FirstStep);
    assert!(first.iter().any(|action| matches!(action, Action::Persist(Record::Offences { .. }))));
    let second = offend(&mut engine, SUSPECT, T0.plus_ms(20_000));
    assert!(banned(&second));
    let ends = engine.ledger().get(client(SUSPECT)).unwrap().ban.ends;
    assert_eq!(ends.remaining_ms(T0.plus_ms(20_000)), Some(600_000));
    // Without XDP the first offence is banned.
    let mut engine = Engine::new(settings, Policy::default(), Allowlist::default(), 1, 7);
    assert!(banned(&offend(&mut engine, SUSPECT, T0)));
}

/// A backlog is no reason to slow anybody now.
#[test]
fn what_was_in_doubt_an_hour_ago_is_not_slowed() {
    let mut engine = engine_with_xdp();
    let mut batch = Batch { live: false, source: Some(SourceId(3)), ..Batch::default() };
    for (at, path) in PROBES[..5].iter().enumerate() {
        push(&mut batch, SUSPECT.parse().unwrap(), path, 404, T0).time += at as i64 - 3600;
    }
    let actions = engine.handle(Event::Lines(&batch), T0);
    assert!(slowed(&actions).is_empty(), "{actions:?}");
}
