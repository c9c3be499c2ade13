//! Scenarios through `Engine::handle`.

mod backlogs;
mod crowds;
mod evasions;
mod pause;
mod peers;
mod plain;
mod reconfigure;
mod remote;
mod rules;
mod safeguards;
mod slow;

use std::num::NonZeroU32;

use super::{Effects, Engine};
use crate::bans::allowlist::{AllowReason, Allowed, Allowlist};
use crate::bans::backoff::Term;
use crate::bans::blast::HeldBan;
use crate::detect::policy::Policy;
use crate::settings::Settings;
use crate::vocab::action::{Action, CommandId, LiftReason, Notice, Order, Record, Reply};
use crate::vocab::ban::Ban;
use crate::vocab::client::Client;
use crate::vocab::event::{Command, EnforcerName, Event, Outcome, PartReport, PartState};
use crate::vocab::request::{Batch, Line};
use crate::vocab::time::{Ends, Now};
use crate::vocab::verdict::{Evidence, Rule};

const T0: Now = Now { wall_ms: 1_700_000_000_000, boot_ms: 5_000_000 };

fn engine() -> Engine {
    let settings = Settings { enforcers: EnforcerName::KERNEL.to_vec(), ..Settings::default() };
    let own = Allowed { network: "192.0.2.10/32".parse().unwrap(), reason: AllowReason::OwnAddress };
    Engine::new(settings, Policy::default(), Allowlist::new([own]), 1, 7)
}

fn client(text: &str) -> Client {
    text.parse().unwrap()
}

fn ban_command(text: &str, term: Option<Term>) -> Event<'static> {
    let command = Command::Ban { clients: vec![client(text)], term, reason: None, rule: Rule::Operator };
    Event::Command(CommandId(1), command)
}

fn unban_command(text: &str) -> Event<'static> {
    let command =
        Command::Unban { clients: vec![client(text)], forget: false, reason: Some("a mistake".to_owned()) };
    Event::Command(CommandId(2), command)
}

/// Adds the line of a GET to a batch.
pub(crate) fn push<'a>(
    batch: &'a mut Batch,
    addr: std::net::IpAddr,
    path: &str,
    status: u16,
    now: Now,
) -> &'a mut Line {
    let method_at = batch.bytes.len() as u32;
    batch.bytes.extend(b"GET");
    batch.bytes.extend(path.as_bytes());
    batch.lines.push(Line {
        addr,
        time: now.wall_secs(),
        method_at,
        method_len: 3,
        path_at: method_at + 3,
        path_len: path.len() as u32,
        server_at: 0,
        server_len: 0,
        peer_at: 0,
        peer_len: 0,
        status,
        size: 512,
        behind_proxy: false,
        salvaged: false,
    });
    batch.lines.last_mut().unwrap()
}

fn evidence() -> Box<Evidence> {
    Box::new(Evidence {
        rule: Rule::ZScore,
        condition: "z-score=5.00 > threshold=2.0".to_owned(),
        rate: 3.0,
        mean: 0.1,
        stddev: 0.1,
        z_score: 29.0,
        threshold: 2.0,
        tightened: false,
        baseline: "rolling".to_owned(),
        window_secs: 60,
        requests: 180,
        errors: 0,
        measures: Vec::new(),
        top_paths: Vec::new(),
        account: Vec::new(),
        lines: Vec::new(),
        sites: Vec::new(),
        policy: None,
        observe: None,
        at_secs: T0.wall_secs(),
    })
}

fn offend(engine: &mut Engine, text: &str, now: Now) -> Vec<Action> {
    offend_as(engine, text, false, now)
}

fn offend_as(engine: &mut Engine, text: &str, by_proxy: bool, now: Now) -> Vec<Action> {
    let mut out = Effects::default();
    let client = engine.allowlist.admit(client(text), 64).unwrap();
    let evidence = Box::new(Evidence { at_secs: now.wall_secs(), ..*evidence() });
    engine.offend(HeldBan { client, evidence, by_proxy }, now, &mut out);
    out.into_actions()
}

fn serial_in(actions: &[Action]) -> u64 {
    let serial = |action: &Action| {
        if let Action::Enforce(Order::Ban { serial, .. }) = action { Some(*serial) } else { None }
    };
    actions.iter().find_map(serial).expect("a ban was ordered")
}

fn lifted(enforcer: EnforcerName, text: &str, serial: u64) -> Event<'static> {
    let lifted = vec![(client(text), serial)];
    Event::Outcome(Outcome { enforcer, banned: vec![], lifted, failed: vec![] })
}

fn reply(actions: &[Action]) -> &Reply {
    fn of(action: &Action) -> Option<&Reply> {
        if let Action::Reply(_, reply) = action { Some(reply) } else { None }
    }
    actions.iter().find_map(of).expect("a command is answered")
}

/// Invariant 4: a ban is committed, then enforced, then announced.
#[test]
fn a_ban_is_persisted_then_enforced_then_announced() {
    let actions = offend(&mut engine(), "203.0.113.5", T0);
    let kinds: Vec<u8> = actions
        .iter()
        .map(|action| match action {
            Action::Persist(_) => 0,
            Action::Enforce(_) => 1,
            Action::Announce(_) => 2,
            Action::Reply(..) | Action::VerifyBot { .. } | Action::AskPolicy(_) => 3,
        })
        .collect();
    assert!(kinds.is_sorted(), "{actions:?}");
    assert!([0, 1, 2].iter().all(|kind| kinds.contains(kind)));
}

/// Invariant 3, for every origin of a ban.
#[test]
fn nobody_on_the_allowlist_is_banned_by_any_path() {
    let mut engine = engine();
    let by_hand = engine.handle(ban_command("192.0.2.10", None), T0);
    assert!(!reply(&by_hand).results[0].ok);
    assert!(reply(&by_hand).results[0].message.contains("an address of this host"));
    let saved = Ban {
        client: client("192.0.2.10"),
        serial: 9,
        since_ms: T0.wall_ms,
        ends: Ends::Never,
        offence: NonZeroU32::new(1),
        rule: Rule::ZScore,
        place: crate::vocab::ban::Place::Everywhere,
    };
    let restored = engine.restore_ban(saved, T0);
    assert!(!restored.iter().any(|a| matches!(a, Action::Enforce(Order::Ban { .. }))), "{restored:?}");
    assert!(restored.iter().any(|a| matches!(a, Action::Persist(Record::Lifted { .. }))));
    assert!(engine.ledger().is_empty());
}

/// The lift is recorded only after every enforcer has forgotten.
#[test]
fn a_lift_is_recorded_when_the_kernel_has_forgotten() {
    let mut engine = engine();
    let serial = serial_in(&engine.handle(ban_command("203.0.113.5", Some(Term::Secs(60))), T0));
    let expired = engine.handle(Event::Tick, T0.plus_ms(60_000));
    assert!(expired.contains(&Action::Enforce(Order::Lift { client: client("203.0.113.5"), serial })));
    assert!(!expired.iter().any(|a| matches!(a, Action::Persist(Record::Lifted { .. }))));
    assert!(engine.handle(lifted(EnforcerName::Xdp, "203.0.113.5", serial), T0.plus_ms(60_001)).is_empty());
    let done = engine.handle(lifted(EnforcerName::Iptables, "203.0.113.5", serial), T0.plus_ms(60_050));
    assert!(
        done.iter().any(|a| matches!(a, Action::Persist(Record::Lifted { reason: LiftReason::Expired, .. })))
    );
    assert!(done.iter().any(|a| matches!(a, Action::Announce(Notice::Lifted { lasted_secs: 60, .. }))));
}

#[test]
fn repeat_offenders_climb_the_ladder() {
    let mut engine = engine();
    let mut now = T0;
    let mut terms = Vec::new();
    for _ in 0..5 {
        let serial = serial_in(&offend(&mut engine, "203.0.113.5", now));
        let ends = engine.ledger().get(client("203.0.113.5")).unwrap().ban.ends;
        terms.push(ends.remaining_ms(now).map(|ms| ms / 1000));
        let Some(left) = ends.remaining_ms(now) else { break };
        now = now.plus_ms(left);
        engine.handle(Event::Tick, now);
        for enforcer in EnforcerName::KERNEL {
            engine.handle(lifted(enforcer, "203.0.113.5", serial), now);
        }
    }
    assert_eq!(terms, [Some(600), Some(1800), Some(7200), None]);
}

#[test]
fn unban_says_what_it_did_and_why_it_could_not() {
    let mut engine = engine();
    let check = |engine: &mut Engine, text: &str, expected: &str| {
        let actions = engine.handle(unban_command(text), T0);
        assert_eq!(reply(&actions).results[0].message, expected);
    };
    check(&mut engine, "203.0.113.5", "was not banned");
    engine.handle(ban_command("203.0.113.5", None), T0);
    check(&mut engine, "203.0.113.5", "unbanned");
    check(&mut engine, "203.0.113.5", "is being unbanned already");
    engine.handle(ban_command("198.51.100.0/24", Some(Term::Permanent)), T0);
    check(&mut engine, "198.51.100.7", "is banned as part of 198.51.100.0/24: unban that network");
}

#[test]
fn an_ipv6_address_banned_by_hand_is_its_client() {
    let mut engine = engine();
    engine.handle(ban_command("2001:db8:1:2:3::4", None), T0);
    assert!(engine.ledger().get(client("2001:db8:1:2::/64")).is_some());
    let actions = engine.handle(unban_command("2001:db8:1:2::9"), T0);
    assert!(reply(&actions).results[0].ok);
}

#[test]
fn allowing_a_banned_client_lifts_it() {
    let mut engine = engine();
    let serial = serial_in(&engine.handle(ban_command("203.0.113.5", Some(Term::Permanent)), T0));
    let command = Command::Allow { clients: vec![client("203.0.113.0/24")], secs: None, reason: None };
    let actions = engine.handle(Event::Command(CommandId(3), command), T0);
    assert!(actions.contains(&Action::Enforce(Order::Lift { client: client("203.0.113.5"), serial })));
    assert!(!reply(&engine.handle(ban_command("203.0.113.6", None), T0)).results[0].ok);
}

/// What an operator allows for a while is judged again when that is over, and not before: over a restart too.
#[test]
fn what_is_allowed_for_a_while_ends_by_itself() {
    let network = "203.0.113.5/32".parse().unwrap();
    let allow = |engine: &mut Engine, secs| {
        let command = Command::Allow { clients: vec![client("203.0.113.5")], secs, reason: None };
        reply(&engine.handle(Event::Command(CommandId(3), command), T0)).results[0].message.clone()
    };
    let is_free = |engine: &mut Engine, at: Now| {
        let result = reply(&engine.handle(ban_command("203.0.113.5", None), at)).results[0].clone();
        !result.ok
    };
    let removed = |actions: &[Action]| {
        let is_it = |action: &&Action| {
            matches!(action, Action::Announce(Notice::AllowlistChanged { added: false, .. }))
        };
        (actions.iter().filter(is_it).count(), actions.contains(&Action::Enforce(Order::AllowlistChanged)))
    };
    let mut first = engine();
    assert_eq!(allow(&mut first, Some(3_600)), "allowed for 1 h");
    let until_ms = first.allowed_until_ms(network).unwrap();
    assert_eq!(until_ms, T0.wall_ms + 3_600_000);
    assert_eq!(removed(&first.handle(Event::Tick, T0.plus_ms(3_599_000))), (0, false));
    assert!(is_free(&mut first, T0.plus_ms(3_599_000)));

    let entry = Allowed { network, reason: AllowReason::Operator };
    let mut restarted = engine();
    restarted.allowlist.add(entry);
    restarted.restore_allow_end(network, until_ms, T0.plus_ms(1_800_000));
    assert_eq!(removed(&restarted.handle(Event::Tick, T0.plus_ms(3_599_000))), (0, false));
    for engine in [&mut first, &mut restarted] {
        let actions = engine.handle(Event::Tick, T0.plus_ms(3_601_000));
        assert_eq!(removed(&actions), (1, true));
        let gone =
            |action: &&Action| matches!(action, Action::Persist(Record::Disallowed(gone)) if *gone == entry);
        assert_eq!(actions.iter().filter(gone).count(), 1);
        assert!(!is_free(engine, T0.plus_ms(3_602_000)));
    }

    let mut later = engine();
    allow(&mut later, Some(60));
    assert_eq!(allow(&mut later, None), "allowed", "the later word counts");
    assert_eq!(removed(&later.handle(Event::Tick, T0.plus_ms(120_000))), (0, false));
    assert_eq!(later.allowed_until_ms(network), None);
    later.restore_allow_end(network, T0.wall_ms - 5, T0.plus_ms(130_000));
    assert_eq!(
        removed(&later.handle(Event::Tick, T0.plus_ms(131_000))).0,
        1,
        "it ended while the agent was off"
    );
}

#[test]
fn everything_cannot_be_allowed() {
    let command = Command::Allow { clients: vec![client("0.0.0.0/0")], secs: None, reason: None };
    let actions = engine().handle(Event::Command(CommandId(3), command), T0);
    assert!(!reply(&actions).results[0].ok);
}

#[test]
fn an_ssh_session_that_appears_lifts_the_ban_of_its_address() {
    let mut engine = engine();
    engine.handle(ban_command("203.0.113.5", None), T0);
    let entries =
        vec![Allowed { network: "203.0.113.5/32".parse().unwrap(), reason: AllowReason::SshSession }];
    let event = Event::HostAddresses { reasons: &[AllowReason::SshSession], entries };
    let actions = engine.handle(event, T0);
    assert!(actions.iter().any(|a| matches!(a, Action::Enforce(Order::Lift { .. }))));
    assert!(actions.contains(&Action::Enforce(Order::AllowlistChanged)));
}

/// History: it was announced nowhere, and whoever had been reported meanwhile stayed unjudged for ten minutes after it.
#[test]
fn the_exemption_of_an_ssh_session_is_announced_and_ends_at_once() {
    use AllowReason::{SshRecent, SshSession};
    let mut engine = engine();
    let network = "203.0.113.5/32".parse().unwrap();
    let report = |engine: &mut Engine, reasons: &[AllowReason]| {
        let entries = reasons.iter().map(|reason| Allowed { network, reason: *reason }).collect();
        let actions = engine.handle(Event::HostAddresses { reasons: &[SshSession, SshRecent], entries }, T0);
        let changes = actions.into_iter().filter_map(|action| match action {
            Action::Announce(Notice::AllowlistChanged { added, note, .. }) => Some((added, note.unwrap())),
            _ => None,
        });
        changes.collect::<Vec<_>>()
    };
    let begun = report(&mut engine, &[SshSession]);
    assert!(matches!(&begun[..], [(true, note)] if note.contains("live SSH session")), "{begun:?}");
    engine.suppressed.insert(client("203.0.113.5"), T0.boot_ms + 600_000);
    assert_eq!(report(&mut engine, &[SshRecent]), [], "it goes on for another reason");
    let ended = report(&mut engine, &[]);
    assert!(matches!(&ended[..], [(false, note)] if note.contains("ssh_keep")), "{ended:?}");
    assert!(engine.suppressed.is_empty(), "judged again at once");
}

#[test]
fn a_flood_that_still_comes_extends_the_ban_without_a_gap() {
    let mut engine = engine();
    let serial = serial_in(&offend(&mut engine, "203.0.113.5", T0));
    let who = client("203.0.113.5");
    let sample = Action::Enforce(Order::SampleActivity { client: who, serial });
    assert!(engine.handle(Event::Tick, T0.plus_ms(588_000)).contains(&sample));
    engine.handle(Event::Activity { client: who, serial, packets: 1_000 }, T0.plus_ms(588_000));
    assert!(engine.handle(Event::Tick, T0.plus_ms(598_000)).contains(&sample));
    let actions = engine.handle(Event::Activity { client: who, serial, packets: 2_000 }, T0.plus_ms(598_000));
    assert!(actions.iter().any(|a| matches!(a, Action::Announce(Notice::Extended { .. }))), "{actions:?}");
    assert!(actions.iter().any(|a| matches!(a, Action::Persist(Record::Extended(_)))));
    assert!(!engine.handle(Event::Tick, T0.plus_ms(600_000)).iter().any(|a| matches!(a, Action::Enforce(_))));
    let later = engine.handle(Event::Tick, T0.plus_ms(1_200_000));
    assert!(later.iter().any(|a| matches!(a, Action::Enforce(Order::Lift { .. }))));
}

#[test]
fn expiry_is_spread_over_ticks() {
    let mut engine = engine();
    let mut now = T0;
    for n in 0..5_000u32 {
        engine.handle(ban_command(&format!("10.0.{}.{}", n / 250, n % 250), Some(Term::Secs(60))), now);
    }
    now = now.plus_ms(60_000);
    let lifts = |actions: Vec<Action>| {
        actions.iter().filter(|a| matches!(a, Action::Enforce(Order::Lift { .. }))).count()
    };
    assert_eq!(lifts(engine.handle(Event::Tick, now)), crate::tick::LIFTS_PER_TICK);
    assert!(engine.next_deadline().is_some_and(|at| at <= now.boot_ms));
}

#[test]
fn wall_clock_jumps_neither_end_nor_keep_a_ban() {
    let mut engine = engine();
    engine.handle(ban_command("203.0.113.5", Some(Term::Secs(600))), T0);
    let jumped = |boot: u64, wall: i64| Now { wall_ms: T0.wall_ms + wall, boot_ms: T0.boot_ms + boot };
    let forward = engine.handle(Event::Tick, jumped(1_000, 86_400_000));
    assert!(!forward.iter().any(|a| matches!(a, Action::Enforce(_))), "a day forward ended it early");
    let back = engine.handle(Event::Tick, jumped(600_000, -86_400_000));
    assert!(back.iter().any(|a| matches!(a, Action::Enforce(Order::Lift { .. }))), "a day back kept it");
}

#[test]
fn parts_announce_only_changes() {
    let mut engine = engine();
    let report = |state| Event::Part(PartReport { part: "xdp".to_owned(), state, repaired: None });
    let degraded = || PartState::Degraded { reason: "no driver".to_owned() };
    assert_eq!(engine.handle(report(degraded()), T0).len(), 1);
    assert!(engine.handle(report(degraded()), T0).is_empty());
    let active = PartState::Active { detail: "native on eth0".to_owned() };
    assert!(matches!(engine.handle(report(active), T0)[..], [Action::Announce(Notice::Recovered { .. })]));
}

/// fail2ban#3544: a backlog was read as if it happened now.
#[test]
fn an_offence_in_a_backlog_is_punished_from_when_it_was() {
    let mut engine = engine();
    let mut left = |age_secs: i64, text: &str| {
        let mut out = Effects::default();
        let bannable = engine.allowlist.admit(client(text), 64).unwrap();
        let evidence = Box::new(Evidence { at_secs: T0.wall_secs() - age_secs, ..*evidence() });
        engine.offend(HeldBan { client: bannable, evidence, by_proxy: false }, T0, &mut out);
        engine.ledger().get(client(text)).and_then(|entry| entry.ban.ends.remaining_ms(T0))
    };
    assert_eq!(left(10, "203.0.113.1"), Some(600_000), "a line a little late is of now");
    assert_eq!(left(300, "203.0.113.4"), Some(600_000), "so is one at the limit of skew");
    assert_eq!(left(400, "203.0.113.2"), Some(200_000));
    assert_eq!(left(600, "203.0.113.5"), None, "over at this very second");
    assert_eq!(left(601, "203.0.113.3"), None);
    assert_eq!(
        engine.ledger().offences(client("203.0.113.3"), T0.wall_secs()),
        NonZeroU32::new(1),
        "but it is remembered"
    );
}

/// History: a tick in the middle of a backlog moved the windows to now, so that the backlog's next lines were late and its
/// half hour was counted as one minute.
#[test]
fn a_backlog_read_across_ticks_keeps_its_own_time() {
    let mut engine = engine();
    let bytes = b"GET/style.css".to_vec();
    let line = |visitor: u8, age_secs: i64| Line {
        addr: std::net::IpAddr::from([198, 51, 100, visitor]),
        time: T0.wall_secs() - age_secs,
        method_at: 0,
        method_len: 3,
        path_at: 3,
        path_len: 10,
        server_at: 0,
        server_len: 0,
        peer_at: 0,
        peer_len: 0,
        status: 200,
        size: 1,
        behind_proxy: false,
        salvaged: false,
    };
    for second in 0..1800 {
        let lines = (1..=5).map(|visitor| line(visitor, 1800 - second)).collect();
        let batch = Batch { bytes: bytes.clone(), lines, live: false, ..Batch::default() };
        let now = T0.plus_ms(second as u64);
        engine.handle(Event::Lines(&batch), now);
        if second % 100 == 0 {
            engine.handle(Event::Tick, now);
        }
    }
    let status = engine.detector().status();
    assert!((4.8..=5.2).contains(&status.global_rate), "{status:?}");
    assert_eq!((status.global_anomaly, status.late), (false, 0));
    engine.handle(Event::Tick, T0.plus_ms(120_000));
    assert_eq!(engine.detector().status().global_rate, 0.0, "time goes on when the backlog is read");
}
