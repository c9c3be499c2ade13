//! What stands between a verdict and a ban, and what keeps tables bounded.

use super::*;
use crate::bans::backoff::Term;
use crate::detect::policy::Switch;
use crate::settings::{ExtendBy, NetworkAction, NetworkEscalation};
use crate::vocab::ban::Place;
use crate::vocab::event::{FailedOrder, ImportedBan, Refused};
use crate::vocab::request::{Checkpoint, SourceId};

pub(super) const PROBES: [&str; 8] = [
    "/.env",
    "/.git/config",
    "/backup.sql",
    "/phpmyadmin/",
    "/wp-config.php",
    "/.aws/credentials",
    "/db.sql.gz",
    "/.ssh/id_rsa",
];

pub(super) fn engine_with(change: impl FnOnce(&mut Settings)) -> Engine {
    let mut settings = Settings { enforcers: EnforcerName::KERNEL.to_vec(), ..Settings::default() };
    change(&mut settings);
    Engine::new(settings, Policy::default(), Allowlist::default(), 1, 7)
}

/// Live failed requests for `paths`, one client's, at `now`.
pub(super) fn requests(addr: &str, paths: &[&str], now: Now) -> Batch {
    let mut batch = Batch { live: true, source: Some(SourceId(3)), ..Batch::default() };
    for path in paths {
        let method_at = batch.bytes.len() as u32;
        batch.bytes.extend(b"GET");
        batch.bytes.extend(path.as_bytes());
        batch.lines.push(Line {
            addr: addr.parse().unwrap(),
            time: now.wall_secs(),
            method_at,
            method_len: 3,
            path_at: method_at + 3,
            path_len: path.len() as u32,
            server_at: 0,
            server_len: 0,
            peer_at: 0,
            peer_len: 0,
            status: 404,
            size: 1,
            behind_proxy: false,
            salvaged: false,
        });
    }
    batch
}

fn attack(engine: &mut Engine, addr: &str, now: Now) -> Vec<Action> {
    engine.handle(Event::Lines(&requests(addr, &PROBES, now)), now)
}

pub(super) fn banned(actions: &[Action]) -> Vec<String> {
    let client = |action: &Action| match action {
        Action::Enforce(Order::Ban { client, .. }) => Some(client.to_string()),
        _ => None,
    };
    actions.iter().filter_map(client).collect()
}

fn lifts(actions: &[Action]) -> usize {
    actions.iter().filter(|action| matches!(action, Action::Enforce(Order::Lift { .. }))).count()
}

fn notices(actions: &[Action]) -> Vec<&Notice> {
    actions
        .iter()
        .filter_map(|a| if let Action::Announce(notice) = a { Some(notice) } else { None })
        .collect()
}

pub(super) fn why_not_banned(actions: &[Action]) -> Option<&str> {
    notices(actions).into_iter().find_map(|notice| match notice {
        Notice::WouldBan { because, .. } => Some(because.as_str()),
        _ => None,
    })
}

fn done(enforcer: EnforcerName) -> Outcome {
    Outcome { enforcer, banned: vec![], lifted: vec![], failed: vec![] }
}

#[test]
fn an_attack_in_the_log_bans_and_counts() {
    let mut engine = engine_with(|_| {});
    assert_eq!(banned(&attack(&mut engine, "203.0.113.5", T0)), ["203.0.113.5"]);
    let totals = engine.totals();
    assert_eq!((totals.requests, totals.errors, totals.bans, totals.lifts), (8, 8, 1, 0));
    assert_eq!(engine.bans_by_rule().iter().collect::<Vec<_>>(), [(&Rule::Probing, &1)]);
}

#[test]
fn a_client_behind_a_proxy_is_announced_once_in_ten_minutes() {
    let mut engine = engine_with(|_| {});
    let mut attack = |now| {
        let mut batch = requests("203.0.113.5", &PROBES, now);
        batch.lines.iter_mut().for_each(|line| line.behind_proxy = true);
        let actions = engine.handle(Event::Lines(&batch), now);
        assert_eq!(banned(&actions), [""; 0]);
        why_not_banned(&actions).is_some_and(|because| because.contains("proxy's header"))
    };
    assert!(attack(T0));
    assert!(!attack(T0.plus_ms(599_000)));
    assert!(attack(T0.plus_ms(600_000)));
}

#[test]
fn a_full_ledger_refuses_rules_and_operators_but_not_the_change_of_a_ban() {
    let mut engine = engine_with(|settings| settings.max_bans = 1);
    assert!(reply(&engine.handle(ban_command("203.0.113.5", None), T0)).results[0].ok);
    let refused = engine.handle(ban_command("203.0.113.6", None), T0);
    assert_eq!(
        reply(&refused).results[0].message,
        "not banned: the ledger is full: raise max_bans = 1 in [ban]"
    );
    assert_eq!(
        why_not_banned(&attack(&mut engine, "203.0.113.7", T0)),
        Some("the ledger is full: raise max_bans = 1 in [ban]")
    );
    let changed = engine.handle(ban_command("203.0.113.5", Some(Term::Permanent)), T0);
    assert!(reply(&changed).results[0].ok);
}

#[test]
fn a_search_engine_is_verified_before_its_ban() {
    let verifying = || engine_with(|settings| settings.verify_search_engines = Switch::On);
    let who = client("203.0.113.5");
    let asked = Action::VerifyBot { client: who, addr: "203.0.113.5".parse().unwrap() };
    let answer = |genuine| Event::BotVerified { client: who, genuine };

    let mut engine = verifying();
    let actions = attack(&mut engine, "203.0.113.5", T0);
    assert_eq!((actions.contains(&asked), banned(&actions)), (true, vec![]));
    let spared = engine.handle(answer(true), T0);
    let is_spared = |n: &&Notice| {
        matches!(n, Notice::Protected { reason: AllowReason::SearchEngine, evidence: Some(_), .. })
    };
    assert!(notices(&spared).iter().any(is_spared), "{spared:?}");
    let day = 86_400_000;
    assert!(attack(&mut engine, "203.0.113.5", T0.plus_ms(day - 1000)).is_empty(), "spared for a day");
    assert!(attack(&mut engine, "203.0.113.5", T0.plus_ms(day)).contains(&asked));

    let mut engine = verifying();
    attack(&mut engine, "203.0.113.5", T0);
    assert_eq!(banned(&engine.handle(answer(false), T0)), ["203.0.113.5"]);
    assert!(engine.handle(answer(false), T0).is_empty(), "answered once");
}

/// History: DNS was still asked about a client that an operator had unbanned, and its late answer banned that client.
#[test]
fn an_unban_ends_what_waits_for_dns() {
    let mut engine = engine_with(|settings| settings.verify_search_engines = Switch::On);
    let who = client("203.0.113.5");
    attack(&mut engine, "203.0.113.5", T0);
    engine.handle(unban_command("203.0.113.5"), T0.plus_ms(100));
    let late = engine.handle(Event::BotVerified { client: who, genuine: false }, T0.plus_ms(200));
    assert_eq!(banned(&late), [""; 0]);
    assert_eq!(banned(&engine.handle(Event::Tick, T0.plus_ms(60_000))), [""; 0], "nor does no answer");
    // What it does from then on counts.
    let again = attack(&mut engine, "203.0.113.5", T0.plus_ms(61_000));
    assert!(again.iter().any(|action| matches!(action, Action::VerifyBot { .. })), "{again:?}");
    let answer = Event::BotVerified { client: who, genuine: false };
    assert_eq!(banned(&engine.handle(answer, T0.plus_ms(61_001))), ["203.0.113.5"]);
}

/// History: a map with random state decided who was banned first.
#[test]
fn verdicts_that_dns_does_not_answer_become_bans_oldest_first() {
    let mut engine = engine_with(|settings| settings.verify_search_engines = Switch::On);
    for (at, n) in [9, 4, 7, 1, 8].into_iter().enumerate() {
        attack(&mut engine, &format!("203.0.{n}.5"), T0.plus_ms(at as u64));
    }
    assert_eq!(banned(&engine.handle(Event::Tick, T0.plus_ms(1_999))), [""; 0]);
    let late = engine.handle(Event::Tick, T0.plus_ms(2_004));
    assert_eq!(banned(&late), ["203.0.9.5", "203.0.4.5", "203.0.7.5", "203.0.1.5", "203.0.8.5"]);
}

#[test]
fn a_network_of_banned_clients_is_proposed_or_banned() {
    let check = |action, expected: &[&str], is_proposed: bool| {
        let mut engine = engine_with(|settings| {
            settings.networks = NetworkEscalation { clients: 3, action, ..settings.networks };
        });
        let mut actions: Vec<Action> =
            (1..=3).flat_map(|n| attack(&mut engine, &format!("203.0.113.{n}"), T0)).collect();
        let has = |wanted: fn(&Notice) -> bool, actions: &[Action]| notices(actions).into_iter().any(wanted);
        assert_eq!(has(|n| matches!(n, Notice::NetworkProposed { banned: 3, .. }), &actions), is_proposed);
        actions.retain(|action| banned(std::slice::from_ref(action)).iter().any(|c| c.contains('/')));
        assert_eq!(banned(&actions), expected, "{action:?}");
        engine
    };
    check(NetworkAction::Off, &[], false);
    check(NetworkAction::Propose, &[], true);
    let mut engine = check(NetworkAction::Ban, &["203.0.113.0/24"], true);
    assert_eq!(engine.ledger().network_count(), 1);
    assert_eq!(attack(&mut engine, "203.0.113.9", T0), [], "its clients are banned with it");
}

#[test]
fn many_malformed_lines_of_a_client_are_announced_once_a_minute() {
    let mut engine = engine_with(|settings| settings.evasion_lines_per_min = 3);
    let send = |engine: &mut Engine, now| {
        let mut batch = requests("203.0.113.5", &["/"], now);
        batch.lines[0].salvaged = true;
        let actions = engine.handle(Event::Lines(&batch), now);
        notices(&actions).into_iter().any(|n| matches!(n, Notice::Evasion { lines: 3, .. }))
    };
    assert_eq!([T0; 4].map(|now| send(&mut engine, now)), [false, false, true, false]);
    let minute = Now { boot_ms: T0.boot_ms.next_multiple_of(60_000), ..T0 };
    engine.handle(Event::Tick, minute);
    assert_eq!([minute; 3].map(|now| send(&mut engine, now)), [false, false, true]);
    assert_eq!(engine.totals().salvaged, 7);
}

#[test]
fn a_wrong_clock_in_the_log_is_announced_once_an_hour_and_counted_now() {
    let mut engine = engine_with(|_| {});
    engine.name_source(SourceId(3), "access.log");
    let mut send = |skew_secs: i64, now: Now| {
        let mut batch = requests("203.0.113.5", &["/"], now);
        batch.lines[0].time += skew_secs;
        let actions = engine.handle(Event::Lines(&batch), now);
        let skew = notices(&actions).into_iter().find_map(|notice| match notice {
            Notice::ClockSkew { source, skew_secs } => Some((source.clone(), *skew_secs)),
            _ => None,
        });
        (skew, engine.detector().status().latest_secs - now.wall_secs())
    };
    assert_eq!(send(300, T0), (None, 0), "still within the limit, and not before it happened");
    let later = |ms: u64| T0.plus_ms(600_000 + ms);
    assert_eq!(send(-7200, later(0)), (Some(("access.log".to_owned(), -7200)), 0));
    assert_eq!(send(-7200, later(3_599_999)).0, None);
    assert_eq!(send(-7200, later(3_600_000)).0, Some(("access.log".to_owned(), -7200)));
}

/// History: one line of the year 6026 in a backlog made everything behind it late, and one of 2106 never returned.
#[test]
fn one_line_of_another_time_moves_no_clock() {
    let year_6026 = 127_990_000_000;
    for broken in [year_6026, i64::MAX, i64::from(u32::MAX), i64::from(u32::MAX) - 1, 0, i64::MIN] {
        for at in [0, 1, 10, 19] {
            let mut engine = engine_with(|_| {});
            let mut batch = requests("203.0.113.5", &["/"; 20], T0);
            batch.live = false;
            batch.lines[at].time = broken;
            engine.handle(Event::Lines(&batch), T0);
            let latest = engine.detector().status().latest_secs;
            assert_eq!(latest, T0.wall_secs(), "{broken} at {at}");
        }
    }
    // However many of them there are, the present is the end.
    let mut engine = engine_with(|_| {});
    let mut batch = requests("203.0.113.5", &["/"; 300], T0);
    batch.live = false;
    batch.lines.iter_mut().for_each(|line| line.time = year_6026);
    engine.handle(Event::Lines(&batch), T0);
    assert!(engine.detector().status().latest_secs <= T0.wall_secs() + 300);
}

/// History: after the wall clock was set back, the first hundred lines were late and not judged.
#[test]
fn the_first_line_after_the_clock_was_set_back_is_judged() {
    let mut engine = engine_with(|_| {});
    engine.handle(Event::Lines(&requests("203.0.113.9", &["/"; 5], T0)), T0);
    let back = Now { wall_ms: T0.wall_ms - 3_600_000, boot_ms: T0.boot_ms + 1000 };
    let actions = engine.handle(Event::Lines(&requests("203.0.113.5", &PROBES, back)), back);
    assert_eq!(engine.detector().status().late, 0);
    assert!(notices(&actions).iter().any(|notice| matches!(notice, Notice::Banned(_))), "{actions:?}");
}

#[test]
fn a_decision_is_saved_with_the_position_it_was_made_at() {
    let mut engine = engine_with(|_| {});
    let at = |position: &str| Checkpoint { source: "access.log".into(), position: position.into() };
    let saves = |actions: &[Action], position: &str| {
        actions.contains(&Action::Persist(Record::Checkpoint(at(position))))
    };
    let quiet = Batch { checkpoint: Some(at("1")), ..requests("203.0.113.5", &["/"], T0) };
    assert!(
        !saves(&engine.handle(Event::Lines(&quiet), T0), "1"),
        "positions alone wait for the next second"
    );
    assert!(saves(&engine.handle(Event::Tick, T0), "1"));
    let decisive = Batch { checkpoint: Some(at("2")), ..requests("203.0.113.5", &PROBES, T0) };
    assert!(saves(&engine.handle(Event::Lines(&decisive), T0), "2"));
    assert!(!saves(&engine.handle(Event::Tick, T0.plus_ms(1000)), "2"), "saved once");
}

#[test]
fn refused_lines_are_counted_by_reason() {
    let mut engine = engine_with(|_| {});
    let batch = Batch { rejected: [1, 0, 2, 0, 0, 0], ..Batch::default() };
    engine.handle(Event::Lines(&batch), T0);
    engine.handle(Event::Lines(&batch), T0);
    assert_eq!((engine.rejected(), engine.totals().rejected), ([2, 0, 4, 0, 0, 0], 6));
}

#[test]
fn an_unconfirmed_lift_is_ordered_again_every_five_seconds() {
    let mut engine = engine_with(|_| {});
    let start = Now { boot_ms: 5_000_000, ..T0 };
    let serial = serial_in(&engine.handle(ban_command("203.0.113.5", Some(Term::Secs(1))), start));
    let counts: Vec<usize> =
        (0..=11).map(|second| lifts(&engine.handle(Event::Tick, start.plus_ms(second * 1000)))).collect();
    assert_eq!(counts, [0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0]);
    for enforcer in EnforcerName::KERNEL {
        engine.handle(lifted(enforcer, "203.0.113.5", serial), start.plus_ms(11_000));
    }
    assert_eq!(lifts(&engine.handle(Event::Tick, start.plus_ms(15_000))), 0);
    assert_eq!((engine.totals().lifts, engine.ledger().len()), (1, 0));
}

#[test]
fn the_baseline_is_saved_every_minute() {
    let mut engine = engine_with(|_| {});
    let saves = |actions: Vec<Action>| {
        actions.iter().any(|action| matches!(action, Action::Persist(Record::Baseline(_))))
    };
    assert!(saves(engine.handle(Event::Tick, T0)));
    assert!(!saves(engine.handle(Event::Tick, T0.plus_ms(59_000))));
    assert!(saves(engine.handle(Event::Tick, T0.plus_ms(60_000))));
    assert!(saves(engine.save(T0.plus_ms(61_000))), "when it stops");
}

#[test]
fn a_ban_carried_out_too_late_is_taken_back() {
    let mut engine = engine_with(|settings| settings.enforcers.clear());
    let serial = serial_in(&engine.handle(ban_command("203.0.113.5", None), T0));
    let who = client("203.0.113.5");
    let late = || Outcome { banned: vec![(who, serial)], ..done(EnforcerName::Xdp) };
    assert_eq!(engine.handle(Event::Outcome(late()), T0), [], "it is still wanted");
    let unbanned = engine.handle(unban_command("203.0.113.5"), T0);
    let note = Some("a mistake".to_owned());
    let is_over = |n: &&Notice| matches!(n, Notice::Lifted { note: n, .. } if *n == note);
    assert!(notices(&unbanned).iter().any(is_over), "without enforcers it ends at once");
    assert_eq!(
        engine.handle(Event::Outcome(late()), T0),
        [Action::Enforce(Order::Lift { client: who, serial })]
    );
}

#[test]
fn a_leak_is_explained_by_what_the_enforcers_hold() {
    let mut engine = engine_with(|_| {});
    let serial = serial_in(&attack(&mut engine, "203.0.113.5", T0));
    let who = client("203.0.113.5");
    let confirm = || Outcome { banned: vec![(who, serial)], ..done(EnforcerName::Xdp) };
    assert_eq!(engine.handle(Event::Outcome(confirm()), T0), []);
    let cause = |engine: &mut Engine, now| {
        let actions = engine.handle(Event::Activity { client: who, serial, packets: 0 }, now);
        notices(&actions).into_iter().find_map(|notice| match notice {
            Notice::Leaking { cause, requests: 3, .. } => Some(cause.clone()),
            _ => None,
        })
    };
    let sample = Action::Enforce(Order::SampleActivity { client: who, serial });
    let still = |engine: &mut Engine, now| {
        engine.handle(Event::Lines(&requests("203.0.113.5", &["/", "/", "/"], now)), now).contains(&sample)
    };
    let later = |ms| T0.plus_ms(ms);
    assert!(!still(&mut engine, later(9_000)), "on its way before the ban");
    assert!(still(&mut engine, later(20_000)));
    assert!(cause(&mut engine, later(20_000)).is_some_and(|cause| cause.contains("XDP is off")));
    assert_eq!((engine.leaking(), cause(&mut engine, later(20_000))), (1, None), "announced once");
    let failed = FailedOrder { client: who, serial, was_lift: false, error: "no".into() };
    engine.handle(Event::Outcome(Outcome { failed: vec![failed], ..done(EnforcerName::Xdp) }), later(21_000));
    assert!(!still(&mut engine, later(300_000)), "quiet for ten minutes");
    assert!(still(&mut engine, later(660_000)) || still(&mut engine, later(661_000)));
    assert!(cause(&mut engine, later(661_000)).is_some_and(|cause| cause.contains("no enforcer holds")));
}

#[test]
fn a_list_is_imported_entry_by_entry_or_as_a_whole() {
    let own = Allowed { network: "203.0.113.9/32".parse().unwrap(), reason: AllowReason::OwnAddress };
    let new = || {
        let settings = Settings { max_bans: 3, ..Settings::default() };
        Engine::new(settings, Policy::default(), Allowlist::new([own]), 1, 7)
    };
    let import = |engine: &mut Engine, clients: &[&str], refused| {
        let ban =
            |text: &&str| ImportedBan { client: client(text), term: Some(Term::Secs(60)), reason: None };
        let command = Command::Import { bans: clients.iter().map(ban).collect(), refused };
        let actions = engine.handle(Event::Command(CommandId(1), command), T0);
        let made = actions.iter().filter(|a| matches!(a, Action::Persist(Record::Banned(_)))).count();
        let results: Vec<(bool, String)> =
            reply(&actions).results.iter().map(|result| (result.ok, result.message.clone())).collect();
        (made, results)
    };
    let list = ["203.0.113.1", "203.0.113.9", "203.0.113.2"];
    let mut engine = new();
    let (made, results) = import(&mut engine, &list, Refused::StopsAll);
    assert_eq!((made, engine.ledger().len()), (0, 0));
    assert_eq!(results[0], (false, "not banned: other entries of the list were refused".to_owned()));
    assert!(results[1].1.contains("203.0.113.9/32 is on the allowlist"), "{results:?}");
    assert_eq!(import(&mut engine, &list, Refused::LeftOut).0, 2);
    assert_eq!(
        import(&mut engine, &["203.0.113.1", "203.0.113.2"], Refused::StopsAll).0,
        2,
        "these take no room"
    );
    let (made, results) = import(&mut engine, &["203.0.113.3", "203.0.113.4"], Refused::StopsAll);
    assert_eq!(made, 0, "there is room for one");
    assert!(results.iter().all(|(ok, message)| !ok && message.contains("the ledger is full")), "{results:?}");
    assert_eq!(
        import(&mut engine, &["203.0.113.3", "203.0.113.3"], Refused::StopsAll).0,
        2,
        "the same one twice"
    );
}

#[test]
fn forgetting_a_client_starts_its_ladder_again() {
    let mut engine = engine_with(|_| {});
    let who = client("203.0.113.5");
    engine.restore_offences(who, NonZeroU32::new(2).unwrap(), T0.wall_secs());
    let third = engine.handle(ban_command("203.0.113.5", None), T0);
    assert_eq!(reply(&third).results[0].message, "banned for 2 h");
    let forget = Command::Unban { clients: vec![who], forget: true, reason: None };
    let actions = engine.handle(Event::Command(CommandId(4), forget), T0);
    assert!(actions.contains(&Action::Persist(Record::OffencesForgotten(who))));
    assert_eq!(engine.ledger().offences(who, T0.wall_secs()), None);
    let first = engine.handle(ban_command("203.0.113.5", None), T0);
    assert_eq!(reply(&first).results[0].message, "banned for 10 min");
}

#[test]
fn old_offences_are_forgotten_every_hour() {
    let mut engine = engine_with(|_| {});
    let month = 30 * 86_400;
    for (n, age_secs) in [(9, month), (3, month + 5), (5, month - 1)] {
        let who = client(&format!("203.0.113.{n}"));
        engine.restore_offences(who, NonZeroU32::MIN, T0.wall_secs() - age_secs);
    }
    let forgotten = |actions: Vec<Action>| -> Vec<String> {
        let client = |action: &Action| match action {
            Action::Persist(Record::OffencesForgotten(client)) => Some(client.to_string()),
            _ => None,
        };
        actions.iter().filter_map(client).collect()
    };
    let hour = Now { boot_ms: 7_200_000, ..T0 };
    assert_eq!(forgotten(engine.handle(Event::Tick, Now { boot_ms: 7_199_000, ..T0 })), [""; 0]);
    assert_eq!(forgotten(engine.handle(Event::Tick, hour)), ["203.0.113.3", "203.0.113.9"]);
}

#[test]
fn the_allowlist_says_why_it_keeps_an_entry() {
    let mut engine = engine();
    let command = |engine: &mut Engine, command| {
        reply(&engine.handle(Event::Command(CommandId(1), command), T0)).results[0].message.clone()
    };
    let allow = |text: &str| Command::Allow { clients: vec![client(text)], secs: None, reason: None };
    let disallow = |text: &str| Command::Disallow { clients: vec![client(text)], reason: None };
    for n in 5..8 {
        engine.handle(ban_command(&format!("203.0.113.{n}"), None), T0);
    }
    assert_eq!(command(&mut engine, allow("203.0.113.5")), "allowed; 1 ban lifted");
    assert_eq!(command(&mut engine, allow("203.0.113.0/24")), "allowed; 2 bans lifted");
    assert_eq!(command(&mut engine, allow("198.51.100.1")), "allowed");
    assert_eq!(command(&mut engine, disallow("198.51.100.1")), "no longer allowed");
    assert_eq!(command(&mut engine, disallow("198.51.100.1")), "was not on the allowlist");
    assert_eq!(command(&mut engine, disallow("192.0.2.10")), "stays allowed: an address of this host");
}

#[test]
fn serial_numbers_go_on_after_a_restart() {
    let mut engine = engine_with(|_| {});
    let saved = Ban {
        client: client("203.0.113.5"),
        serial: 41,
        since_ms: T0.wall_ms,
        ends: Ends::Never,
        offence: None,
        rule: Rule::Operator,
        place: crate::vocab::ban::Place::Everywhere,
    };
    assert_eq!(serial_in(&engine.restore_ban(saved, T0)), 41);
    assert_eq!(serial_in(&engine.handle(ban_command("203.0.113.6", None), T0)), 42);
    assert_eq!((engine.ledger().len(), engine.ledger().permanent_count()), (2, 1));
}

#[test]
fn a_tick_does_not_end_the_suppression_of_a_client() {
    let mut engine = engine_with(|settings| settings.max_bans = 0);
    assert!(why_not_banned(&attack(&mut engine, "203.0.113.5", T0)).is_some());
    engine.handle(Event::Tick, T0.plus_ms(300_000));
    assert_eq!(why_not_banned(&attack(&mut engine, "203.0.113.5", T0.plus_ms(599_999))), None);
    engine.handle(Event::Tick, T0.plus_ms(600_000));
    assert!(why_not_banned(&attack(&mut engine, "203.0.113.5", T0.plus_ms(600_000))).is_some());
}

#[test]
fn retries_and_saves_happen_once_a_second_however_often_it_ticks() {
    let mut engine = engine_with(|_| {});
    let start = Now { boot_ms: 5_000_000, ..T0 };
    engine.handle(ban_command("203.0.113.5", Some(Term::Secs(2))), start);
    assert_eq!(engine.next_deadline(), Some(start.boot_ms + 2_000));
    assert_eq!(lifts(&engine.handle(Event::Tick, start.plus_ms(2_000))), 1);
    let counts = [5_000, 5_001, 5_999, 6_000].map(|ms| lifts(&engine.handle(Event::Tick, start.plus_ms(ms))));
    assert_eq!(counts, [1, 0, 0, 0]);
}

#[test]
fn the_clients_with_malformed_lines_are_bounded() {
    let mut engine = engine_with(|settings| settings.evasion_lines_per_min = 2);
    let mut announced = |clients: std::ops::Range<u32>| {
        let mut batch = requests("203.0.113.5", &["/"], T0);
        let line = Line { salvaged: true, ..batch.lines[0] };
        let addr = |n: u32| std::net::Ipv4Addr::from_bits(0x0a00_0000 + n).into();
        batch.lines = clients.map(|n| Line { addr: addr(n), ..line }).collect();
        let actions = engine.handle(Event::Lines(&batch), T0);
        notices(&actions).into_iter().filter(|n| matches!(n, Notice::Evasion { .. })).count()
    };
    assert_eq!(announced(0..10_000), 0);
    assert_eq!([announced(10_000..10_001), announced(10_000..10_001)], [0, 0], "one too many");
    assert_eq!(announced(9_999..10_000), 1, "those known are still counted");
}

/// History: after a reboot the bans of an hour ago counted as leaking while the enforcers were still being set up.
#[test]
fn a_restored_ban_is_no_leak_before_it_is_in_force() {
    let mut engine = engine_with(|_| {});
    let who = client("203.0.113.5");
    let hour_ago = T0.wall_ms - 3_600_000;
    let ban = Ban {
        place: Place::Everywhere,
        client: who,
        serial: 7,
        since_ms: hour_ago,
        ends: Ends::Never,
        offence: None,
        rule: Rule::Operator,
    };
    engine.restore_ban(ban, T0);
    let later = |secs: u64| T0.plus_ms(secs * 1000);
    let sample = Action::Enforce(Order::SampleActivity { client: who, serial: 7 });
    let leaks = |engine: &mut Engine, secs| {
        let now = later(secs);
        engine.handle(Event::Lines(&requests("203.0.113.5", &["/", "/", "/"], now)), now).contains(&sample)
    };
    assert!(!leaks(&mut engine, 30), "XDP is still being set up");
    engine.handle(Event::Outcome(Outcome { banned: vec![(who, 7)], ..done(EnforcerName::Xdp) }), later(40));
    assert!(!leaks(&mut engine, 45), "sent before it was in force");
    assert!(leaks(&mut engine, 60));
}

/// The other way: no enforcer ever puts it in force.
#[test]
fn a_restored_ban_that_never_gets_into_force_is_a_leak() {
    let mut engine = engine_with(|_| {});
    let who = client("203.0.113.5");
    let ban = Ban {
        place: Place::Everywhere,
        client: who,
        serial: 7,
        since_ms: T0.wall_ms,
        ends: Ends::Never,
        offence: None,
        rule: Rule::Operator,
    };
    engine.restore_ban(ban, T0);
    let now = T0.plus_ms(75_000);
    let actions = engine.handle(Event::Lines(&requests("203.0.113.5", &["/", "/", "/"], now)), now);
    assert!(actions.contains(&Action::Enforce(Order::SampleActivity { client: who, serial: 7 })));
}

#[test]
fn a_leak_through_a_proxy_is_explained_by_the_proxy() {
    let mut engine = engine_with(|_| {});
    let serial = serial_in(&attack(&mut engine, "203.0.113.5", T0));
    let later = T0.plus_ms(20_000);
    let mut batch = requests("203.0.113.5", &["/"; 4], later);
    batch.lines[3].behind_proxy = true;
    engine.handle(Event::Lines(&batch), later);
    let who = client("203.0.113.5");
    let actions = engine.handle(Event::Activity { client: who, serial, packets: 9 }, later);
    let is_explained =
        |n: &&Notice| matches!(n, Notice::Leaking { cause, .. } if cause.contains("through a proxy"));
    assert!(notices(&actions).iter().any(is_explained), "{actions:?}");
}

/// History: a mutant that gave the same term instead of the next survived every test.
#[test]
fn an_extension_moves_the_end_by_the_term_configured() {
    for (by, expected_secs) in [(ExtendBy::SameTerm, 602), (ExtendBy::NextTerm, 1802), (ExtendBy::Off, 2)] {
        let mut engine = engine_with(|settings| settings.extension.by = by);
        let serial = serial_in(&offend(&mut engine, "203.0.113.5", T0));
        let who = client("203.0.113.5");
        for (at_ms, packets) in [(588_000, 1_000), (598_000, 2_000)] {
            let now = T0.plus_ms(at_ms);
            let sample = Action::Enforce(Order::SampleActivity { client: who, serial });
            if engine.handle(Event::Tick, now).contains(&sample) {
                engine.handle(Event::Activity { client: who, serial, packets }, now);
            }
        }
        let ends = engine.ledger().get(who).unwrap().ban.ends;
        assert_eq!(ends.remaining_ms(T0.plus_ms(598_000)), Some(expected_secs * 1000), "{by:?}");
    }
}

#[test]
fn infrastructure_is_reported_by_rules_and_banned_by_operators_across_a_restart() {
    let private = Allowed { network: "10.0.0.0/8".parse().unwrap(), reason: AllowReason::Private };
    let cdn = Allowed { network: "203.0.113.0/24".parse().unwrap(), reason: AllowReason::Cdn };
    let new = || {
        let settings = Settings { enforcers: EnforcerName::KERNEL.to_vec(), ..Settings::default() };
        Engine::new(settings, Policy::default(), Allowlist::new([private, cdn]), 1, 7)
    };
    let mut engine = new();
    for (addr, reason) in [("10.0.0.5", AllowReason::Private), ("203.0.113.5", AllowReason::Cdn)] {
        let actions = attack(&mut engine, addr, T0);
        assert_eq!(banned(&actions), [""; 0]);
        let is_reported = |n: &&Notice| matches!(n, Notice::Protected { reason: r, .. } if *r == reason);
        assert!(notices(&actions).iter().any(is_reported), "{actions:?}");
        assert!(reply(&engine.handle(ban_command(addr, Some(Term::Permanent)), T0)).results[0].ok);
    }
    let saved: Vec<Ban> = engine.ledger().entries().map(|entry| entry.ban).collect();
    let mut restarted = new();
    for ban in saved {
        let actions = restarted.restore_ban(ban, T0);
        assert_eq!(banned(&actions).len(), 1, "an operator's ban outlives a restart");
        let imported = restarted.restore_ban(Ban { rule: Rule::Imported, serial: 99, ..ban }, T0);
        assert_eq!(banned(&imported), [""; 0], "one of a list does not");
    }
}

/// With search engines verified, evidence, standing and the campaign of a client outlive the wait for DNS.
#[test]
fn a_wait_for_dns_loses_nothing() {
    let mut engine = engine_with(|settings| settings.verify_search_engines = Switch::On);
    for (n, expected) in [(1, 1), (2, 1), (3, 1)] {
        let addr = format!("203.{n}.113.5");
        let paths = if n < 3 { &PROBES[..] } else { &PROBES[..3] };
        let now = T0.plus_ms(10_000 * n);
        engine.handle(Event::Lines(&requests(&addr, paths, now)), now);
        let answer = Event::BotVerified { client: client(&addr), genuine: false };
        assert_eq!(banned(&engine.handle(answer, now)).len(), expected, "client {n}");
    }
}

/// History: hosters give many customers' servers one /64, and none of one's neighbours there could be banned.
#[test]
fn neighbours_in_a_network_of_the_hosts_are_banned_one_by_one() {
    let own = |text: &str| Allowed { network: text.parse().unwrap(), reason: AllowReason::OwnAddress };
    let mut engine = engine_with(|settings| settings.verify_search_engines = Switch::Off);
    let entries = vec![own("2001:db8:1:2::10/128"), own("192.0.2.10/32")];
    engine.handle(Event::HostAddresses { reasons: &[AllowReason::OwnAddress], entries }, T0);
    let ban = |engine: &mut Engine, who: &str| banned(&engine.handle(ban_command(who, None), T0));
    assert_eq!(ban(&mut engine, "2001:db8:1:2::66"), ["2001:db8:1:2::66/128"], "by hand");
    assert_eq!(ban(&mut engine, "2001:db8:1:2::10"), [""; 0], "the host itself");
    assert_eq!(ban(&mut engine, "2001:db8:1:2::/64"), [""; 0], "the host is inside");
    assert_eq!(ban(&mut engine, "2001:db8:1:3::66"), ["2001:db8:1:3::/64"], "elsewhere");
    let found = attack(&mut engine, "2001:db8:1:2::77", T0.plus_ms(1_000));
    assert_eq!(banned(&found), ["2001:db8:1:2::77/128"], "by a rule");
    // What one neighbour did is not another's.
    let innocent = engine.handle(Event::Lines(&requests("2001:db8:1:2::78", &["/x"], T0)), T0.plus_ms(2_000));
    assert_eq!(banned(&innocent), [""; 0]);
    let lifted = engine.handle(unban_command("2001:db8:1:2::77"), T0.plus_ms(3_000));
    assert_eq!(lifts(&lifted), 1, "{lifted:?}");
    assert!(banned(&attack(&mut engine, "2001:db8:1:2::10", T0.plus_ms(4_000))).is_empty());
}

/// What the neighbours are counted under ends with the address that made them neighbours.
#[test]
fn an_address_that_leaves_the_host_takes_its_network_along() {
    let mut engine = engine_with(|settings| settings.verify_search_engines = Switch::Off);
    let own = Allowed { network: "2001:db8:1:2::10/128".parse().unwrap(), reason: AllowReason::OwnAddress };
    for (entries, expected) in [(vec![own], "2001:db8:1:2::66/128"), (vec![], "2001:db8:1:2::/64")] {
        engine.handle(Event::HostAddresses { reasons: &[AllowReason::OwnAddress], entries }, T0);
        assert_eq!(engine.client_meant(client("2001:db8:1:2::66")).network().to_string(), expected);
    }
}
