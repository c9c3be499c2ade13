//! Settings that change while the engine runs.

use super::*;
use crate::bans::backoff::Backoff;
use crate::reconfigure::NewSettings;
use crate::vocab::request::SourceId;

fn same(engine: &Engine) -> NewSettings {
    NewSettings {
        settings: engine.settings().clone(),
        policy: engine.detector().policy().clone(),
        allow: Vec::new(),
        sources: Vec::new(),
        gone: Vec::new(),
    }
}

fn change(engine: &mut Engine, change: impl FnOnce(&mut NewSettings), now: Now) -> Vec<Action> {
    let mut new = same(engine);
    change(&mut new);
    engine.handle(Event::NewSettings(Box::new(new)), now)
}

fn allowed(network: &str) -> Allowed {
    Allowed { network: network.parse().unwrap(), reason: AllowReason::Configured }
}

fn lifts(actions: &[Action]) -> Vec<Client> {
    let lift = |action: &Action| match action {
        Action::Enforce(Order::Lift { client, .. }) => Some(*client),
        _ => None,
    };
    actions.iter().filter_map(lift).collect()
}

#[test]
fn a_newly_allowed_client_is_lifted_and_others_stay_banned() {
    let mut engine = engine();
    for text in ["203.0.113.5", "203.0.113.6", "198.51.100.7"] {
        engine.handle(ban_command(text, None), T0);
    }
    let actions = change(&mut engine, |new| new.allow = vec![allowed("203.0.113.5/32")], T0);
    assert!(actions.contains(&Action::Enforce(Order::AllowlistChanged)));
    assert_eq!(lifts(&actions), [client("203.0.113.5")]);
    assert_eq!(engine.lifted_by_settings(), Some(1));
    let reply = engine.handle(ban_command("203.0.113.5", None), T0);
    assert!(
        lifts(&reply).is_empty() && !reply.iter().any(|a| matches!(a, Action::Enforce(Order::Ban { .. })))
    );
    assert!(change(&mut engine, |new| new.allow = vec![allowed("203.0.113.5/32")], T0).is_empty());
    let removed = change(&mut engine, |_| {}, T0);
    assert_eq!(removed, [Action::Enforce(Order::AllowlistChanged)]);
    assert!(engine.allowlist().admit(client("192.0.2.10"), 64).is_err(), "the host's own entries stay");
}

/// An operator may ban infrastructure; what protects it from rules lifts no ban of his, and goes when it is switched off.
#[test]
fn infrastructure_comes_and_goes_and_an_operators_ban_of_it_stays() {
    let mut engine = engine();
    let private = Allowed { network: "10.0.0.0/8".parse().unwrap(), reason: AllowReason::Private };
    engine.handle(ban_command("10.0.0.5", None), T0);
    let bans_by_rule = |engine: &Engine| engine.allowlist().admit(client("10.0.0.6"), 64).is_ok();
    let actions = change(&mut engine, |new| new.allow = vec![private], T0);
    assert!(lifts(&actions).is_empty(), "{actions:?}");
    assert_eq!(engine.lifted_by_settings(), Some(0));
    assert!(engine.ledger().get(client("10.0.0.5")).is_some_and(|entry| entry.lifting.is_none()));
    assert!(!bans_by_rule(&engine));
    change(&mut engine, |_| {}, T0);
    assert!(bans_by_rule(&engine));
}

#[test]
fn a_long_ledger_is_compared_in_pieces_and_no_ban_is_forgotten() {
    let mut engine = engine();
    for n in 0..10_000u32 {
        engine.handle(ban_command(&format!("10.{}.{}.{}", n % 2, n / 250 % 250, n % 250), None), T0);
    }
    let forbidden =
        engine.ledger().entries().filter(|e| e.ban.client.to_string().starts_with("10.1.")).count();
    // The longer the allowlist, the smaller the pieces.
    let mut allow: Vec<Allowed> = (0..250).map(|n| allowed(&format!("198.51.100.{n}/32"))).collect();
    allow.push(allowed("10.1.0.0/16"));
    let mut lifted = lifts(&change(&mut engine, |new| new.allow = allow, T0));
    let mut pieces = 1;
    while engine.is_rechecking() {
        assert!(engine.next_deadline().is_some_and(|at| at <= T0.boot_ms), "the owner does not sleep on it");
        // Meanwhile bans end, which moves others to their place.
        let gone = engine.ledger().entries().nth(pieces * 7).map(|e| e.ban).unwrap();
        engine.handle(unban_command(&gone.client.to_string()), T0);
        for enforcer in EnforcerName::KERNEL {
            engine.handle(super::lifted(enforcer, &gone.client.to_string(), gone.serial), T0);
        }
        lifted.extend(lifts(&engine.handle(Event::Tick, T0)));
        pieces += 1;
    }
    assert!(pieces > 3, "{pieces}");
    let all = engine.lifted_by_settings().expect("it is over") as usize;
    assert!((lifted.len()..=forbidden).contains(&all) && all >= forbidden - pieces, "{all} of {forbidden}");
    let left: Vec<_> =
        engine.ledger().entries().filter(|e| e.ban.client.to_string().starts_with("10.1.")).collect();
    assert!(left.iter().all(|entry| entry.lifting.is_some()));
    assert!(lifted.len() <= forbidden && left.len() >= forbidden - pieces);
}

#[test]
fn terms_and_limits_hold_for_bans_to_come() {
    let mut engine = engine();
    let who = client("203.0.113.5");
    engine.handle(ban_command("203.0.113.5", None), T0);
    let before = engine.ledger().get(who).unwrap();
    let terms = Backoff::new(vec![Term::Secs(60)], 3600).unwrap();
    let actions = change(
        &mut engine,
        |new| {
            new.settings.backoff = terms;
            new.settings.max_bans = 2;
            new.settings.blast.always_allowed = 0;
            new.settings.blast.max_share = 0.0;
        },
        T0,
    );
    assert!(actions.is_empty(), "{actions:?}");
    assert_eq!(engine.ledger().get(who).unwrap(), before);
    engine.handle(ban_command("203.0.113.6", None), T0);
    let ends = engine.ledger().get(client("203.0.113.6")).unwrap().ban.ends;
    assert_eq!(ends.remaining_ms(T0), Some(60_000));
    assert!(!offend(&mut engine, "203.0.113.7", T0).iter().any(|a| matches!(a, Action::Enforce(_))));
    engine.handle(ban_command("203.0.113.8", None), T0);
    assert!(engine.ledger().get(client("203.0.113.8")).is_none(), "the ledger holds two");
}

#[test]
fn thresholds_change_and_what_was_learned_stays() {
    let mut engine = engine();
    let learned = engine.detector().save();
    let actions = change(
        &mut engine,
        |new| {
            new.policy.flood.page_requests = 3;
            new.policy.max_clients = 5;
            new.settings.ipv6_prefix = 48;
            new.settings.enforcers.clear();
        },
        T0,
    );
    assert!(actions.is_empty());
    assert_eq!(engine.detector().policy().flood.page_requests, 3);
    assert_eq!(engine.detector().policy().max_clients, Policy::default().max_clients);
    assert_eq!((engine.settings().ipv6_prefix, engine.settings().enforcers.len()), (64, 2));
    assert_eq!(engine.detector().save(), learned);
}

/// A client that is far from every limit is not compared with them for a while; a lower limit counts at once all the same.
#[test]
fn a_lower_threshold_holds_for_clients_that_are_counted_already() {
    let mut engine = engine();
    let send = |engine: &mut Engine, count: usize| {
        let mut batch = safeguards::requests("203.0.113.5", &vec!["/"; count], T0);
        batch.lines.iter_mut().for_each(|line| line.status = 200);
        let actions = engine.handle(Event::Lines(&batch), T0);
        actions.iter().any(|a| matches!(a, Action::Enforce(Order::Ban { .. })))
    };
    assert!(!send(&mut engine, 30));
    change(&mut engine, |new| new.policy.flood.page_requests = 20, T0);
    assert!(send(&mut engine, 3));
}

#[test]
fn parts_and_sources_come_and_go() {
    let mut engine = engine();
    let state = PartState::Degraded { reason: "gone".to_owned() };
    engine.handle(Event::Part(PartReport { part: "source:/a".to_owned(), state, repaired: None }), T0);
    change(
        &mut engine,
        |new| {
            new.gone = vec!["source:/a".to_owned()];
            new.sources = vec![(SourceId(7), "/b".to_owned())];
        },
        T0,
    );
    assert!(engine.parts().all().is_empty());
    assert_eq!(engine.sources.get(&SourceId(7)).map(String::as_str), Some("/b"));
}

#[test]
fn the_same_changes_lead_to_the_same_actions() {
    let run = || {
        let mut engine = engine();
        let mut actions = Vec::new();
        for n in 0..300 {
            actions.extend(engine.handle(ban_command(&format!("10.0.0.{}", n % 250), None), T0));
        }
        actions.extend(change(&mut engine, |new| new.allow = vec![allowed("10.0.0.0/25")], T0));
        actions.extend(engine.handle(Event::Tick, T0.plus_ms(5_000)));
        actions
    };
    assert_eq!(run(), run());
}
