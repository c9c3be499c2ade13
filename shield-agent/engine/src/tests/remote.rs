//! Bans that other hosts ask for.

use super::*;
use crate::detect::policy::Switch;
use crate::settings::RemoteSettings;
use crate::vocab::remote::{Origin, OriginKind, Remote, RemoteBan, Said, Statement};

fn settings() -> Settings {
    let defaults = Settings::default();
    Settings { remote: RemoteSettings { switch: Switch::On, ..defaults.remote }, ..defaults }
}

fn host_with(settings: Settings) -> Engine {
    let own = Allowed { network: "192.0.2.10/32".parse().unwrap(), reason: AllowReason::OwnAddress };
    Engine::new(settings, Policy::default(), Allowlist::new([own]), 1, 7)
}

fn host() -> Engine {
    host_with(settings())
}

fn origin(name: &str) -> Origin {
    Origin::new(OriginKind::Fleet, name).unwrap()
}

fn statement(from: &str, stamp: u64, said: Said) -> Statement {
    Statement { origin: origin(from), stamp, ahead_ms: 0, age_ms: 0, is_replayed: false, said }
}

fn say(engine: &mut Engine, from: &str, stamp: u64, said: Said, now: Now) -> Vec<Action> {
    let statements = vec![statement(from, stamp, said)];
    engine.handle(Event::Remote(Remote { statements, position: None }), now)
}

fn bans(text: &str, secs: Option<u64>, now: Now) -> Said {
    Said::Banned(RemoteBan {
        client: client(text),
        since_ms: now.wall_ms,
        ends_ms: secs.map(|secs| now.wall_ms + secs as i64 * 1000),
        why: "probing: score=12 > 10".to_owned(),
        is_suspicion: false,
    })
}

fn left_secs(engine: &Engine, text: &str, now: Now) -> Option<u64> {
    let entry = engine.ledger().get(client(text)).filter(|entry| entry.lifting.is_none())?;
    Some(entry.ban.ends.remaining_ms(now).map_or(u64::MAX, |ms| ms / 1000))
}

fn is_banned(engine: &Engine, text: &str) -> bool {
    engine.ledger().ban_over(client(text)).is_some()
}

fn seconds(engine: &mut Engine, from: Now, secs: u64) -> Now {
    for second in 1..=secs {
        engine.handle(Event::Tick, from.plus_ms(second * 1000));
    }
    from.plus_ms(secs * 1000)
}

/// A client that is served pages with their files, a minute after another.
fn serve_well(engine: &mut Engine, text: &str, from: Now, minutes: u64) -> Now {
    for minute in 0..minutes {
        for (n, path) in ["/", "/a.css", "/b.js", "/c.png", "/d.png"].iter().enumerate() {
            let now = from.plus_ms(minute * 60_000 + n as u64 * 1_000);
            serve(engine, text, path, 200, now);
        }
    }
    from.plus_ms(minutes * 60_000)
}

fn serve(engine: &mut Engine, text: &str, path: &str, status: u16, now: Now) -> Vec<Action> {
    let mut batch = Batch { live: true, ..Batch::default() };
    push(&mut batch, text.parse().unwrap(), path, status, now).size = 900;
    engine.handle(Event::Lines(&batch), now)
}

#[test]
fn a_ban_of_another_host_is_made_here_and_says_whose_it_is() {
    let mut engine = host();
    let actions = say(&mut engine, "web-1", 1, bans("203.0.113.5", Some(600), T0), T0);
    assert_eq!(left_secs(&engine, "203.0.113.5", T0), Some(600));
    let made = actions.iter().find_map(|action| match action {
        Action::Announce(Notice::Banned(record)) => Some(record.clone()),
        _ => None,
    });
    let made = made.expect("it is announced");
    assert_eq!((made.ban.rule, made.ban.offence), (Rule::Remote, None));
    assert_eq!(made.reason.as_deref(), Some("banned by web-1: probing: score=12 > 10"));
    assert_eq!(engine.ledger().offences(client("203.0.113.5"), T0.wall_secs()), None, "no offence here");
    let kinds: Vec<u8> = actions
        .iter()
        .map(|action| match action {
            Action::Persist(_) => 0,
            Action::Enforce(_) => 1,
            _ => 2,
        })
        .collect();
    assert!(kinds.is_sorted(), "{actions:?}");
}

#[test]
fn it_ends_at_its_end_and_not_with_the_first_of_two_origins() {
    let mut engine = host();
    say(&mut engine, "web-1", 1, bans("203.0.113.5", Some(600), T0), T0);
    say(&mut engine, "web-2", 1, bans("203.0.113.5", Some(1200), T0), T0);
    let then = seconds(&mut engine, T0, 601);
    assert_eq!(left_secs(&engine, "203.0.113.5", then), Some(599));
    say(&mut engine, "web-2", 2, Said::Withdrawn(client("203.0.113.5")), then);
    assert!(!is_banned(&engine, "203.0.113.5"));
    say(&mut engine, "web-2", 1, bans("203.0.113.5", Some(1200), T0), then);
    assert!(!is_banned(&engine, "203.0.113.5"), "an older statement that came late");
}

#[test]
fn nobody_who_is_allowed_is_banned_for_others() {
    let mut engine = host();
    say(&mut engine, "web-1", 1, bans("192.0.2.10", Some(600), T0), T0);
    say(&mut engine, "web-2", 1, bans("127.0.0.1", None, T0), T0);
    assert!(engine.ledger().is_empty() && engine.remotes().is_empty());
    assert_eq!(engine.remotes().origins().map(|state| state.vetoed).sum::<u64>(), 2);
    say(&mut engine, "web-1", 2, bans("203.0.113.5", Some(600), T0), T0);
    let command = Command::Allow { clients: vec![client("203.0.113.0/24")], secs: None, reason: None };
    engine.handle(Event::Command(CommandId(3), command), T0);
    say(&mut engine, "web-1", 3, bans("203.0.113.5", Some(600), T0), T0);
    assert!(!is_banned(&engine, "203.0.113.5"));
}

#[test]
fn networks_are_the_owners_choice() {
    let mut engine = host();
    for (stamp, network) in ["203.0.113.0/24", "0.0.0.0/0", "::/0", "2001:db8::/48"].iter().enumerate() {
        say(&mut engine, "web-1", stamp as u64 + 1, bans(network, Some(600), T0), T0);
    }
    assert!(engine.ledger().is_empty());
    let mut settings = settings();
    settings.remote.accept_networks = Switch::On;
    let mut engine = host_with(settings);
    for (stamp, network) in
        ["203.0.113.0/24", "0.0.0.0/0", "128.0.0.0/1", "::/0", "2000::/3"].iter().enumerate()
    {
        say(&mut engine, "web-1", stamp as u64 + 1, bans(network, Some(600), T0), T0);
    }
    assert_eq!(engine.ledger().len(), 1, "never everybody");
}

#[test]
fn no_remote_ban_is_longer_than_the_longest_term_and_each_restatement_renews_it() {
    let mut engine = host();
    say(&mut engine, "web-1", 1, bans("203.0.113.5", None, T0), T0);
    assert_eq!(left_secs(&engine, "203.0.113.5", T0), Some(7200));
    let early = T0.plus_ms(600_000);
    let quiet = say(&mut engine, "web-1", 2, bans("203.0.113.5", None, T0), early);
    assert!(quiet.is_empty(), "nothing is worth doing yet: {quiet:?}");
    let late = T0.plus_ms(3_700_000);
    say(&mut engine, "web-1", 3, bans("203.0.113.5", None, T0), late);
    assert_eq!(left_secs(&engine, "203.0.113.5", late), Some(7200));
    let old = Statement { age_ms: 7_000_000, ..statement("web-2", 1, bans("203.0.113.6", None, T0)) };
    engine.handle(Event::Remote(Remote { statements: vec![old], position: None }), late);
    assert_eq!(left_secs(&engine, "203.0.113.6", late), Some(200), "counted from when it was said");
    let mut settings = settings();
    settings.remote.max_term = Term::Permanent;
    let mut engine = host_with(settings);
    say(&mut engine, "web-1", 1, bans("203.0.113.5", None, T0), T0);
    assert_eq!(left_secs(&engine, "203.0.113.5", T0), Some(u64::MAX));
}

#[test]
fn an_origins_clock_is_corrected() {
    let mut engine = host();
    let skewed = Now { wall_ms: T0.wall_ms + 300_000, ..T0 };
    let mut statement = statement("web-1", 1, bans("203.0.113.5", Some(60), skewed));
    statement.ahead_ms = 300_000;
    engine.handle(Event::Remote(Remote { statements: vec![statement], position: None }), T0);
    assert_eq!(left_secs(&engine, "203.0.113.5", T0), Some(60));
}

#[test]
fn whoever_was_served_well_needs_two_origins_or_a_sign_of_this_host() {
    let mut engine = host();
    let now = serve_well(&mut engine, "198.51.100.7", T0, 5);
    say(&mut engine, "web-1", 1, bans("198.51.100.7", Some(7000), now), now);
    assert!(!is_banned(&engine, "198.51.100.7"));
    assert!(engine.detector().is_suspected(client("198.51.100.7")), "half the evidence is enough now");
    say(&mut engine, "web-1", 2, bans("198.51.100.7", Some(7000), now), now);
    assert!(!is_banned(&engine, "198.51.100.7"), "one origin twice is one origin");
    say(&mut engine, "web-2", 1, bans("198.51.100.7", Some(7000), now), now);
    assert!(is_banned(&engine, "198.51.100.7"));
    assert!(!engine.detector().is_suspected(client("198.51.100.7")));
    say(&mut engine, "web-1", 1, bans("203.0.113.5", Some(600), now), now);
}

#[test]
fn suspicion_halves_what_a_ban_takes() {
    let probes =
        ["/.env", "/.git/config", "/wp-config.php.bak", "/phpmyadmin/", "/.aws/credentials", "/backup.sql"];
    let needed = |is_suspected: bool| {
        let mut engine = host();
        let mut now = serve_well(&mut engine, "198.51.100.7", T0, 5);
        if is_suspected {
            say(&mut engine, "web-1", 1, bans("198.51.100.7", Some(7000), now), now);
        }
        for round in 0..40 {
            for probe in probes {
                now = now.plus_ms(1_000);
                serve(&mut engine, "198.51.100.7", &format!("{probe}?{round}"), 404, now);
                engine.handle(Event::Tick, now);
                let is_judged =
                    engine.blast.is_held(client("198.51.100.7")) || is_banned(&engine, "198.51.100.7");
                if is_judged {
                    return now.wall_ms - T0.wall_ms - 300_000;
                }
            }
        }
        panic!("never judged")
    };
    let (trusted, suspected) = (needed(false), needed(true));
    assert!(suspected * 3 <= trusted * 2 && suspected > 1_000, "{suspected} ms against {trusted} ms");
}

#[test]
fn an_origin_that_wants_good_clients_banned_is_heard_no_more() {
    let mut engine = host();
    let mut now = T0;
    for minute in 0..5 {
        for n in 1..=30 {
            serve_well(&mut engine, &format!("198.51.100.{n}"), T0.plus_ms(minute * 60_000), 1);
        }
        now = T0.plus_ms((minute + 1) * 60_000);
        engine.handle(Event::Tick, now);
    }
    say(&mut engine, "bad", 1, bans("203.0.113.5", Some(600), now), now);
    say(&mut engine, "web-2", 1, bans("203.0.113.6", Some(600), now), now);
    assert!(is_banned(&engine, "203.0.113.5"));
    let mut notices = Vec::new();
    for n in 1..=30 {
        let said = bans(&format!("198.51.100.{n}"), Some(600), now);
        notices.extend(say(&mut engine, "bad", 1 + n, said, now));
    }
    let is_alarm = |action: &&Action| matches!(action, Action::Announce(Notice::Degraded { part, .. }) if part == "origin:bad");
    assert_eq!(notices.iter().filter(is_alarm).count(), 1);
    assert!((1..=30).all(|n| !is_banned(&engine, &format!("198.51.100.{n}"))));
    assert!(!is_banned(&engine, "203.0.113.5"), "its other bans are lifted");
    assert!(is_banned(&engine, "203.0.113.6"), "other origins' are not");
    say(&mut engine, "bad", 99, bans("203.0.113.7", Some(600), now), now);
    assert!(!is_banned(&engine, "203.0.113.7"));
}

#[test]
fn an_origin_that_bans_too_many_is_only_noted_and_recovers() {
    let mut settings = settings();
    settings.remote.max_new_per_min = 10;
    settings.remote.max_live = 25;
    let mut engine = host_with(settings);
    let mut stamp = 0;
    let mut wave = |engine: &mut Engine, net: u8, many: u8, is_replayed: bool, now: Now| {
        let mut statements = Vec::new();
        for n in 1..=many {
            stamp += 1;
            let said = bans(&format!("203.0.{net}.{n}"), Some(7000), now);
            statements.push(Statement { is_replayed, ..statement("web-1", stamp, said) });
        }
        engine.handle(Event::Remote(Remote { statements, position: None }), now)
    };
    wave(&mut engine, 1, 20, false, T0);
    assert_eq!(engine.ledger().len(), 10, "what it banned before stays");
    let now = T0.plus_ms(61_000);
    wave(&mut engine, 2, 5, false, now);
    assert_eq!(engine.ledger().len(), 10, "it must keep to the limit for a while");
    let now = seconds(&mut engine, now, 700);
    wave(&mut engine, 2, 5, false, now);
    assert_eq!(engine.ledger().len(), 15);
    let mut newcomer = host_with(Settings {
        remote: RemoteSettings { max_new_per_min: 10, ..engine.settings().remote },
        ..Settings::default()
    });
    wave(&mut newcomer, 3, 40, true, T0);
    assert_eq!(newcomer.ledger().len(), 25, "who joins hears everything at once, up to max_live");
}

#[test]
fn an_operators_unban_reaches_every_host_and_stays() {
    let mut engine = host();
    offend(&mut engine, "203.0.113.5", T0);
    say(&mut engine, "web-1", 1, bans("203.0.113.6", Some(600), T0), T0);
    let later = T0.plus_ms(20_000);
    let lift = |text: &str| Said::Lifted {
        client: client(text),
        at_ms: later.wall_ms,
        note: Some("a customer".to_owned()),
    };
    let actions = say(&mut engine, "web-2", 1, lift("203.0.113.5"), later);
    assert!(!is_banned(&engine, "203.0.113.5"), "a ban of this host itself");
    let note = actions.iter().find_map(|action| match action {
        Action::Announce(Notice::Lifted { note, reason: LiftReason::Operator, .. }) => note.clone(),
        _ => None,
    });
    assert_eq!(note.as_deref(), Some("on web-2: a customer"));
    say(&mut engine, "web-2", 2, lift("203.0.113.6"), later);
    assert!(!is_banned(&engine, "203.0.113.6"));
    say(&mut engine, "web-1", 2, bans("203.0.113.6", Some(600), T0), later);
    assert!(!is_banned(&engine, "203.0.113.6"), "web-1 was away and states it again");
    let anew = later.plus_ms(60_000);
    say(&mut engine, "web-1", 3, bans("203.0.113.6", Some(600), anew), anew);
    assert!(is_banned(&engine, "203.0.113.6"), "but a new offence is a new ban");
    engine.handle(unban_command("203.0.113.6"), anew);
    say(&mut engine, "web-1", 4, bans("203.0.113.6", Some(600), anew), anew.plus_ms(1_000));
    assert!(!is_banned(&engine, "203.0.113.6"), "lifted here, where others wanted it");
    assert_eq!(
        engine.remotes().own_lifts().map(|(client, _)| client.to_string()).collect::<Vec<_>>(),
        ["203.0.113.6"]
    );
}

/// Whoever takes a host over cannot open the fleet's doors all at once.
#[test]
fn lifts_have_a_limit_too() {
    let mut engine = host();
    let later = T0.plus_ms(20_000);
    for n in 1..=200 {
        offend(&mut engine, &format!("203.0.113.{n}"), T0);
    }
    for n in 1..=200 {
        let said =
            Said::Lifted { client: client(&format!("203.0.113.{n}")), at_ms: later.wall_ms, note: None };
        say(&mut engine, "bad", n, said, later);
    }
    assert_eq!(engine.ledger().len(), 140);
}

#[test]
fn a_local_ban_that_ends_goes_over_to_those_who_still_want_it() {
    let mut engine = engine_with_kernel();
    offend(&mut engine, "203.0.113.5", T0);
    let said = say(&mut engine, "web-1", 1, bans("203.0.113.5", Some(1200), T0), T0);
    assert!(!said.iter().any(|action| matches!(action, Action::Enforce(_))), "this host's own ban is enough");
    let mut lifted = false;
    for second in 1..=610 {
        let actions = engine.handle(Event::Tick, T0.plus_ms(second * 1000));
        lifted |= actions.iter().any(|action| matches!(action, Action::Enforce(Order::Lift { .. })));
    }
    assert!(!lifted, "no packet gets through in between");
    let entry = engine.ledger().get(client("203.0.113.5")).unwrap();
    assert_eq!((entry.ban.rule, entry.lifting), (Rule::Remote, None));
}

fn engine_with_kernel() -> Engine {
    host_with(Settings { enforcers: EnforcerName::KERNEL.to_vec(), ..settings() })
}

#[test]
fn what_was_not_stated_again_is_over_but_not_when_a_statement_was_missed() {
    let mut engine = host();
    for n in 1..=3 {
        say(&mut engine, "web-1", n, bans(&format!("203.0.113.{n}"), Some(7000), T0), T0);
    }
    say(&mut engine, "web-1", 10, bans("203.0.113.1", Some(7000), T0), T0);
    say(&mut engine, "web-1", 11, Said::Complete { bans: 2 }, T0);
    let now = seconds(&mut engine, T0, 60);
    assert_eq!(engine.ledger().len(), 3, "one of the two was missed, and which it was is not known");
    say(&mut engine, "web-1", 20, bans("203.0.113.1", Some(7000), T0), now);
    say(&mut engine, "web-1", 20, Said::Complete { bans: 1 }, now);
    let now = seconds(&mut engine, now, 20);
    assert_eq!(engine.ledger().len(), 3, "what is late may still come");
    seconds(&mut engine, now, 20);
    assert_eq!(engine.ledger().len(), 1);
}

#[test]
fn forgetting_an_origin_lifts_what_it_alone_wanted_until_it_is_trusted_again() {
    let mut engine = host();
    say(&mut engine, "web-1", 1, bans("203.0.113.5", Some(600), T0), T0);
    say(&mut engine, "web-1", 2, bans("203.0.113.6", Some(600), T0), T0);
    say(&mut engine, "web-2", 1, bans("203.0.113.6", Some(600), T0), T0);
    let actions = engine.handle(Event::Command(CommandId(5), Command::ForgetOrigin(origin("web-1"))), T0);
    let results: Vec<&str> = reply(&actions).results.iter().map(|result| &*result.message).collect();
    assert_eq!(results, ["unbanned", "stays banned: others want it too"]);
    say(&mut engine, "web-1", 3, bans("203.0.113.5", Some(600), T0), T0);
    assert!(!is_banned(&engine, "203.0.113.5"));
    engine.handle(Event::Command(CommandId(6), Command::TrustOrigin(origin("web-1"))), T0);
    assert!(is_banned(&engine, "203.0.113.5"), "it went on saying so");
}

/// What the store would hold.
#[derive(Default)]
struct Stored {
    bans: std::collections::BTreeMap<Client, Ban>,
    entries: std::collections::BTreeMap<(String, Client), Vec<u8>>,
    state: Option<Vec<u8>>,
}

impl Stored {
    fn take(&mut self, actions: &[Action]) {
        for action in actions {
            let Action::Persist(record) = action else { continue };
            match record {
                Record::Banned(record) | Record::Extended(record) => {
                    self.bans.insert(record.ban.client, record.ban);
                }
                Record::Lifted { client, .. } => {
                    self.bans.remove(client);
                }
                Record::Remote { origin, client, entry: Some(entry) } => {
                    self.entries.insert((origin.clone(), *client), entry.clone());
                }
                Record::Remote { origin, client, entry: None } => {
                    self.entries.remove(&(origin.clone(), *client));
                }
                Record::RemoteState(state) => self.state = Some(state.clone()),
                _ => {}
            }
        }
    }

    fn start(&self, now: Now) -> Engine {
        let mut engine = host();
        for ban in self.bans.values() {
            engine.restore_ban(*ban, now);
        }
        if let Some(state) = &self.state {
            engine.restore_remote_state(state).unwrap();
        }
        for ((origin, client), entry) in &self.entries {
            engine.restore_remote(origin, *client, entry, now).unwrap();
        }
        engine
    }
}

#[test]
fn what_others_said_outlives_a_restart_and_no_restart_prolongs_it() {
    let mut engine = host();
    let mut stored = Stored::default();
    stored.take(&say(&mut engine, "web-1", 1, bans("203.0.113.5", None, T0), T0));
    stored.take(&engine.save(T0));
    let mut now = T0;
    for _ in 0..5 {
        now = now.plus_ms(1_200_000);
        engine = stored.start(now);
        stored.take(&engine.handle(Event::Tick, now));
    }
    assert_eq!(left_secs(&engine, "203.0.113.5", now), Some(1200));
    let now = now.plus_ms(1_201_000);
    stored.take(&engine.handle(Event::Tick, now));
    assert!(!is_banned(&engine, "203.0.113.5"));
    assert!(stored.bans.is_empty() && stored.entries.is_empty(), "nothing is left behind");
}

mod walk {
    //! A random walk of three origins and a host that hears them, against what they want.

    use std::collections::BTreeMap;
    use std::collections::btree_map::Entry;

    use super::*;

    /// Statements arrive within this time, in any order.
    const LATE_MS: u64 = 20_000;
    const RESTATED_MS: u64 = 600_000;
    /// The grace of a complete restatement, a tick, and what a clock's correction is wrong by.
    const SLACK_MS: u64 = 30_000 + 1_000 + 500;

    struct Random(u64);

    impl Random {
        fn below(&mut self, n: u64) -> u64 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            self.0 % n
        }

        fn one_in(&mut self, n: u64) -> bool {
            self.below(n) == 0
        }
    }

    /// An origin. Times are true ones, in milliseconds.
    struct Peer {
        name: &'static str,
        ahead_ms: i64,
        stamp: u64,
        /// The wanted bans: since when, until when, and stated at the latest when.
        wants: BTreeMap<Client, (u64, Option<u64>)>,
        restated_ms: u64,
        /// Statements arrive no sooner than this.
        cut_off_until_ms: u64,
    }

    struct Walk {
        random: Random,
        peers: Vec<Peer>,
        engine: Engine,
        stored: Stored,
        /// How far this host's clock is ahead of true time.
        ahead_ms: i64,
        ms: u64,
        mail: Vec<(u64, Statement)>,
        /// When a client was last wanted by anybody, on true time, and by its own end or not.
        over: BTreeMap<Client, (u64, bool)>,
    }

    impl Walk {
        fn new(seed: u64) -> Walk {
            let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
            let mut skew = || random.below(600_000) as i64 - 300_000;
            let peers = ["a", "b", "c"].map(|name| Peer {
                name,
                ahead_ms: skew(),
                stamp: 1,
                wants: BTreeMap::new(),
                restated_ms: 0,
                cut_off_until_ms: 0,
            });
            let ahead_ms = skew();
            Walk {
                random,
                peers: peers.into(),
                engine: host(),
                stored: Stored::default(),
                ahead_ms,
                ms: 0,
                mail: Vec::new(),
                over: BTreeMap::new(),
            }
        }

        fn now(&self) -> Now {
            Now { wall_ms: T0.wall_ms + self.ms as i64 + self.ahead_ms, boot_ms: T0.boot_ms + self.ms }
        }

        fn send(&mut self, at: usize, said: Said, may_be_lost: bool) {
            let (ms, ahead_ms) = (self.ms, self.ahead_ms);
            let error_ms = self.random.below(400) as i64 - 200;
            let peer = &mut self.peers[at];
            peer.stamp += 1;
            let statement = Statement {
                origin: origin(peer.name),
                stamp: peer.stamp,
                ahead_ms: peer.ahead_ms - ahead_ms + error_ms,
                age_ms: 0,
                is_replayed: false,
                said,
            };
            let from = ms.max(peer.cut_off_until_ms);
            if may_be_lost && self.random.one_in(20) {
                return;
            }
            for _ in 0..=u64::from(self.random.one_in(8)) {
                let late = self.random.below(LATE_MS);
                self.mail.push((from + late, statement.clone()));
            }
        }

        fn state(&mut self, at: usize, who: Client, may_be_lost: bool) {
            let peer = &self.peers[at];
            let (since, ends) = peer.wants[&who];
            let wall = |true_ms: u64| T0.wall_ms + true_ms as i64 + peer.ahead_ms;
            let ban = RemoteBan {
                client: who,
                since_ms: wall(since),
                ends_ms: ends.map(wall),
                why: String::new(),
                is_suspicion: false,
            };
            self.send(at, Said::Banned(ban), may_be_lost);
        }

        fn restate(&mut self, at: usize) {
            let first = self.peers[at].stamp + 1;
            let clients: Vec<Client> = self.peers[at].wants.keys().copied().collect();
            for who in &clients {
                self.state(at, *who, false);
            }
            let last = self.peers[at].stamp;
            self.peers[at].stamp = first - 1;
            self.send(at, Said::Complete { bans: clients.len() as u64 }, false);
            self.peers[at].stamp = last.max(first);
            self.peers[at].restated_ms = self.ms + 300_000 + self.random.below(300_000);
        }

        fn stop_wanting(&mut self, at: usize, who: Client, is_end: bool) {
            self.peers[at].wants.remove(&who);
            self.over.insert(who, (self.ms, is_end));
        }

        fn step(&mut self) {
            self.ms += 1_000;
            for at in 0..self.peers.len() {
                let ms = self.ms;
                let ended: Vec<Client> = self.peers[at]
                    .wants
                    .iter()
                    .filter(|(_, (_, ends))| ends.is_some_and(|ends| ends <= ms))
                    .map(|(who, _)| *who)
                    .collect();
                ended.into_iter().for_each(|who| self.stop_wanting(at, who, true));
                if self.random.one_in(25) {
                    let who = Client::from(std::net::Ipv4Addr::new(203, 0, 113, self.random.below(12) as u8));
                    let ends = (!self.random.one_in(6)).then(|| ms + 20_000 + self.random.below(3_000_000));
                    if let Entry::Vacant(new) = self.peers[at].wants.entry(who) {
                        new.insert((ms, ends));
                        self.state(at, who, true);
                    }
                }
                if self.random.one_in(120)
                    && let Some(who) = self.peers[at].wants.keys().next().copied()
                {
                    self.stop_wanting(at, who, false);
                    self.send(at, Said::Withdrawn(who), true);
                }
                if self.random.one_in(2_000) {
                    self.peers[at].cut_off_until_ms = ms + self.random.below(1_200_000);
                }
                if self.peers[at].restated_ms <= ms {
                    self.restate(at);
                }
            }
            let now = self.now();
            let (due, mail) = std::mem::take(&mut self.mail).into_iter().partition(|(at, _)| *at <= self.ms);
            self.mail = mail;
            let due: Vec<(u64, Statement)> = due;
            let mut due = due;
            due.sort_by_key(|(at, _)| *at);
            let statements = due.into_iter().map(|(_, statement)| statement).collect();
            let position = Some(self.ms.to_string());
            self.stored.take(&self.engine.handle(Event::Remote(Remote { statements, position }), now));
            self.stored.take(&self.engine.handle(Event::Tick, now));
            if self.random.one_in(900) {
                self.engine = self.stored.start(now);
            }
        }

        fn check(&self) {
            let now = self.now();
            for entry in self.engine.ledger().entries().filter(|entry| entry.lifting.is_none()) {
                let who = entry.ban.client;
                assert!(!who.covers("203.0.113.3/32".parse().unwrap()), "an allowed client is banned");
                if self.peers.iter().any(|peer| peer.wants.contains_key(&who)) {
                    continue;
                }
                let (over_ms, is_end) = self.over[&who];
                let cut_off = self.peers.iter().map(|peer| peer.cut_off_until_ms).max().unwrap();
                // What ended by itself ends here without a word. A withdrawal may be lost, and one statement of the round after
                // it missed over a restart of this host.
                let most = match is_end {
                    true => over_ms + RESTATED_MS + SLACK_MS,
                    false => over_ms.max(cut_off) + 2 * (RESTATED_MS + LATE_MS) + SLACK_MS,
                };
                assert!(self.ms <= most, "{who} is still banned {} ms after its end", self.ms - over_ms);
            }
            for peer in &self.peers {
                let is_live = peer.cut_off_until_ms + LATE_MS + RESTATED_MS < self.ms;
                for (who, (since, ends)) in peer.wants.iter().filter(|_| is_live) {
                    let is_told = since + RESTATED_MS + LATE_MS + 1_000 < self.ms;
                    let has_time = ends.is_none_or(|ends| ends > self.ms + 6_000);
                    if is_told && has_time && who.to_string() != "203.0.113.3" {
                        let held = self.engine.ledger().ban_over(*who).is_some();
                        assert!(
                            held,
                            "{who}, which {} wants since {since}, is not banned at {now:?}",
                            peer.name
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn no_ban_outlives_its_end_none_is_lost_and_no_allowed_client_is_dropped() {
        for seed in 1..=6 {
            let mut walk = Walk::new(seed);
            let entry =
                Allowed { network: "203.0.113.3/32".parse().unwrap(), reason: AllowReason::Configured };
            let mut seen = 0;
            for _ in 0..8_000 {
                // A restart reads the configuration anew.
                walk.engine.allowlist.add(entry);
                walk.step();
                walk.check();
                seen = seen.max(walk.engine.ledger().len());
            }
            assert!(seen > 3, "the walk does something");
        }
    }
}

/// What a list says: everything at once, for as long as it may.
fn list(engine: &mut Engine, name: &str, stamp: u64, clients: &[&str], now: Now) -> Vec<Action> {
    let origin = Origin::new(OriginKind::Blocklist, name).unwrap();
    let mut statements: Vec<Statement> = clients
        .iter()
        .map(|text| Statement { origin: origin.clone(), ..statement("x", stamp, bans(text, None, now)) })
        .collect();
    let complete = Said::Complete { bans: clients.len() as u64 };
    statements.push(Statement { origin, ..statement("x", stamp, complete) });
    engine.handle(Event::Remote(Remote { statements, position: None }), now)
}

#[test]
fn a_list_bans_under_its_own_name_and_lets_go_of_what_left_it() {
    let mut engine = host();
    let first = ["203.0.113.5", "203.0.113.0/28", "100.0.0.0/8", "0.0.0.0/7", "2001:db8::/19", "192.0.2.10"];
    let actions = list(&mut engine, "drop", 1, &first, T0);
    assert!(is_banned(&engine, "203.0.113.5") && is_banned(&engine, "100.1.2.3"), "networks too");
    assert!(!is_banned(&engine, "1.2.3.4") && !is_banned(&engine, "192.0.2.10"), "too wide, and allowed");
    let made = actions.iter().find_map(|action| match action {
        Action::Announce(Notice::Banned(record)) => Some(record.clone()),
        _ => None,
    });
    let made = made.unwrap();
    assert_eq!((made.ban.rule, made.ban.offence), (Rule::Blocklist, None));
    assert!(made.reason.unwrap().starts_with("on the blocklist drop"));
    assert_eq!(left_secs(&engine, "203.0.113.5", T0), Some(7 * 86_400), "never for ever");
    let then = T0.plus_ms(3_600_000);
    list(&mut engine, "drop", 2, &["203.0.113.5"], then);
    seconds(&mut engine, then, 31);
    assert!(is_banned(&engine, "203.0.113.5"));
    assert!(!is_banned(&engine, "203.0.113.6") && !is_banned(&engine, "100.1.2.3"));
}

#[test]
fn a_long_list_is_taken_whole_and_let_go_in_pieces() {
    let mut engine = host();
    let long: Vec<String> = (0..5_000).map(|n| format!("100.1.{}.{}", n / 250, n % 250 + 1)).collect();
    let texts: Vec<&str> = long.iter().map(String::as_str).collect();
    list(&mut engine, "drop", 1, &texts, T0);
    assert_eq!(engine.ledger().len(), 5_000, "limits of number are for hosts");
    list(&mut engine, "drop", 2, &["203.0.113.5"], T0.plus_ms(1_000));
    let mut most = 0;
    for second in 1..=40 {
        let actions = engine.handle(Event::Tick, T0.plus_ms(1_000 + second * 1_000));
        let lifts = actions.iter().filter(|action| matches!(action, Action::Enforce(Order::Lift { .. })));
        most = most.max(lifts.count());
    }
    assert!((1..=crate::tick::LIFTS_PER_TICK).contains(&most), "{most}");
    let left = engine.ledger().entries().filter(|entry| entry.lifting.is_none()).count();
    assert_eq!((left, engine.remotes().len()), (1, 1));
}

#[test]
fn all_lists_are_one_voice_about_who_was_served_well() {
    let mut engine = host();
    let now = serve_well(&mut engine, "198.51.100.7", T0, 5);
    list(&mut engine, "one", 1, &["198.51.100.7"], now);
    list(&mut engine, "two", 1, &["198.51.100.7"], now);
    assert!(!is_banned(&engine, "198.51.100.7") && engine.detector().is_suspected(client("198.51.100.7")));
    say(&mut engine, "web-1", 1, bans("198.51.100.7", Some(600), now), now);
    assert!(is_banned(&engine, "198.51.100.7"));
    let rule = engine.ledger().get(client("198.51.100.7")).map(|entry| entry.ban.rule);
    assert_eq!(rule, Some(Rule::Remote), "a host saw it");
}

#[test]
fn an_unban_sets_a_list_aside_for_a_day() {
    let mut engine = host();
    list(&mut engine, "drop", 1, &["203.0.113.5"], T0);
    let command = Command::Unban { clients: vec![client("203.0.113.5")], forget: false, reason: None };
    engine.handle(Event::Command(CommandId(1), command), T0.plus_ms(1_000));
    for hour in 1..=23 {
        let now = T0.plus_ms(hour * 3_600_000);
        list(&mut engine, "drop", 1 + hour, &["203.0.113.5"], now);
        assert!(!is_banned(&engine, "203.0.113.5"), "hour {hour}");
    }
    let tomorrow = T0.plus_ms(25 * 3_600_000);
    seconds(&mut engine, tomorrow, 61);
    list(&mut engine, "drop", 99, &["203.0.113.5"], tomorrow.plus_ms(62_000));
    assert!(is_banned(&engine, "203.0.113.5"));
}

#[test]
fn a_list_that_is_restored_goes_on() {
    let mut engine = host();
    let actions = list(&mut engine, "drop", 5, &["203.0.113.5"], T0);
    let saved = actions.iter().find_map(|action| match action {
        Action::Persist(Record::Remote { origin, client, entry: Some(entry) }) => {
            Some((origin.clone(), *client, entry.clone()))
        }
        _ => None,
    });
    let (origin, of, entry) = saved.unwrap();
    assert_eq!(origin, "blocklist:drop");
    let later = T0.plus_ms(6 * 86_400_000);
    let mut engine = host();
    engine.restore_remote(&origin, of, &entry, later).unwrap();
    assert_eq!(engine.remotes().len(), 1);
    let past = T0.plus_ms(8 * 86_400_000);
    let mut engine = host();
    engine.restore_remote(&origin, of, &entry, past).unwrap();
    assert!(engine.remotes().is_empty(), "it outlives its week by no restart");
}

#[test]
fn a_suspicion_bans_nobody_and_halves_what_a_ban_takes_while_it_lasts() {
    let mut engine = host();
    let origin = Origin::new(OriginKind::Crowdsec, "lapi").unwrap();
    let tell = |engine: &mut Engine, stamp, is_suspicion, now: Now| {
        let said = match bans("203.0.113.5", Some(600), now) {
            Said::Banned(ban) => Said::Banned(RemoteBan { is_suspicion, ..ban }),
            other => other,
        };
        let statements = vec![Statement { origin: origin.clone(), ..statement("x", stamp, said) }];
        engine.handle(Event::Remote(Remote { statements, position: None }), now)
    };
    tell(&mut engine, 1, true, T0);
    assert!(!is_banned(&engine, "203.0.113.5") && engine.detector().is_suspected(client("203.0.113.5")));
    let then = T0.plus_ms(1_000);
    tell(&mut engine, 2, false, then);
    let rule = engine.ledger().get(client("203.0.113.5")).map(|entry| entry.ban.rule);
    assert_eq!(rule, Some(Rule::Crowdsec), "it became a ban");
    let later = T0.plus_ms(2_000);
    tell(&mut engine, 3, true, later);
    let over = engine.ledger().get(client("203.0.113.5")).is_none_or(|entry| entry.lifting.is_some());
    assert!(over && engine.detector().is_suspected(client("203.0.113.5")), "and is none any more");
    seconds(&mut engine, later, 601);
    assert!(!engine.detector().is_suspected(client("203.0.113.5")));
}

#[test]
fn what_was_banned_by_hand_is_taken_back_and_nothing_else() {
    let mut engine = host();
    let command = |engine: &mut Engine, command: Command| {
        let actions = engine.handle(Event::Command(CommandId(1), command), T0);
        let message = |action: &Action| match action {
            Action::Reply(_, reply) => Some((reply.results[0].ok, reply.results[0].message.clone())),
            _ => None,
        };
        actions.iter().find_map(message).unwrap()
    };
    let take_back = |text: &str| Command::TakeBack { clients: vec![client(text)], reason: None };
    let ban = |text: &str, secs: u64| Command::Ban {
        clients: vec![client(text)],
        term: Some(Term::Secs(secs)),
        reason: None,
        rule: Rule::Operator,
    };
    let is_in_force = |engine: &Engine, text: &str| {
        engine.ledger().get(client(text)).is_some_and(|entry| entry.lifting.is_none())
    };
    say(&mut engine, "web-1", 1, bans("203.0.113.5", Some(3600), T0), T0);
    let (ok, message) = command(&mut engine, take_back("203.0.113.5"));
    assert!(!ok && message.contains("stays banned") && is_in_force(&engine, "203.0.113.5"), "{message}");
    // A shorter ban takes nothing away from a longer one, and so its end does not either.
    let (ok, message) = command(&mut engine, ban("203.0.113.5", 60));
    assert!(ok && message.starts_with("stays banned for 1 h"), "{message}");
    assert_eq!(left_secs(&engine, "203.0.113.5", T0), Some(3600));
    assert!(!command(&mut engine, take_back("203.0.113.5")).0 && is_in_force(&engine, "203.0.113.5"));
    // By hand for longer: that is the ban now.
    assert!(command(&mut engine, ban("203.0.113.5", 7200)).0);
    assert_eq!(left_secs(&engine, "203.0.113.5", T0), Some(7200));
    assert!(command(&mut engine, take_back("203.0.113.5")).0 && !is_in_force(&engine, "203.0.113.5"));
    assert!(engine.remotes().own_lifts().next().is_none(), "other hosts are told of no unban");
    assert!(!command(&mut engine, take_back("203.0.113.77")).0);
}
