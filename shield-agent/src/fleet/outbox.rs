//! What this host tells the fleet, and when: new bans at once, newest first, and all of them again every few minutes. Pure: the
//! time comes in.
//!
//! The ledger is the outbox. What could not be told is not queued on the disk: every connection begins with a round of all
//! bans in force, and one that ended meanwhile is simply not in it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::message::{self, Outgoing};
use crate::own_bans::OwnBan;
use shield_engine::client::Client;
use shield_engine::origin::{RemoteBan, Said};
use shield_engine::time::{Ends, Now};

/// The pause between two rounds: this long, and up to as long again by chance, so that a fleet's hosts do not speak at once.
const ROUND_MS: u64 = 300_000;
/// A ban that ends within this time is not worth a message.
const LEAST_LEFT_MS: i64 = 5_000;
/// A lift is told for this long.
const LIFT_MS: i64 = 24 * 3_600_000;

#[derive(Debug)]
struct Own {
    ban: OwnBan,
    /// The stamp of the last statement that the server has; 0 for none.
    told: u64,
}

/// What a message in flight was about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum About {
    Ban(Client),
    Withdrawal(Client),
    Lift(Client),
    Complete,
}

/// A message that is to be published now.
#[derive(Debug)]
pub(crate) struct Due {
    pub about: About,
    pub stamp: u64,
    pub message: Outgoing,
}

#[derive(Debug)]
struct Round {
    stamp: u64,
    /// Still to be stated, the newest last.
    queue: Vec<About>,
    /// Stated, and not acknowledged yet.
    awaited: BTreeSet<About>,
}

#[derive(Debug)]
pub(crate) struct Outbox {
    name: String,
    own: BTreeMap<Client, Own>,
    lifts: BTreeMap<Client, (i64, Option<String>)>,
    /// To be told at once, the newest first.
    urgent: VecDeque<About>,
    round: Option<Round>,
    next_round_ms: u64,
    stamp: u64,
    /// For the pauses between rounds.
    chance: u64,
}

impl Outbox {
    /// The outbox of the host of this name; `chance` is a random number.
    pub(crate) fn new(name: &str, chance: u64) -> Outbox {
        Outbox {
            name: name.to_owned(),
            own: BTreeMap::new(),
            lifts: BTreeMap::new(),
            urgent: VecDeque::new(),
            round: None,
            next_round_ms: 0,
            stamp: 0,
            chance: chance | 1,
        }
    }

    /// Own bans in force.
    pub(crate) fn len(&self) -> usize {
        self.own.len()
    }

    /// Bans and lifts that the server does not have yet.
    pub(crate) fn waiting(&self) -> usize {
        self.own.values().filter(|own| own.told == 0).count()
            + self.urgent.iter().filter(|about| !matches!(about, About::Ban(_))).count()
    }

    /// Takes over all own bans in force.
    pub(crate) fn set_all(&mut self, bans: impl IntoIterator<Item = (Client, OwnBan)>) {
        let mut own = BTreeMap::new();
        for (client, ban) in bans {
            let told = self.own.get(&client).map_or(0, |old| old.told);
            own.insert(client, Own { ban, told });
        }
        self.own = own;
    }

    pub(crate) fn banned(&mut self, client: Client, ban: OwnBan) {
        self.own.insert(client, Own { ban, told: 0 });
        self.urgent.push_front(About::Ban(client));
    }

    pub(crate) fn extended(&mut self, client: Client, ends: Ends) {
        if let Some(own) = self.own.get_mut(&client) {
            own.ban.ends = ends;
            own.told = 0;
            self.urgent.push_front(About::Ban(client));
        }
    }

    /// The ban ended by itself: everybody knows its end.
    pub(crate) fn expired(&mut self, client: Client) {
        self.own.remove(&client);
    }

    /// The ban ended before its end.
    pub(crate) fn withdrawn(&mut self, client: Client) {
        if self.own.remove(&client).is_some() {
            self.urgent.push_front(About::Withdrawal(client));
        }
    }

    /// Takes over the unbans of this host's operators. New ones are told at once.
    pub(crate) fn set_lifts(&mut self, lifts: impl IntoIterator<Item = (Client, i64, Option<String>)>) {
        for (client, at_ms, note) in lifts {
            let old = self.lifts.insert(client, (at_ms, note));
            if old.is_none_or(|(known, _)| known != at_ms) {
                self.urgent.push_front(About::Lift(client));
            }
        }
    }

    /// Begins a connection: everything is stated anew.
    pub(crate) fn connected(&mut self, now: Now) {
        self.urgent.clear();
        self.own.values_mut().for_each(|own| own.told = 0);
        self.begin_round(now);
    }

    /// Takes over the last stamp that the server has of this host.
    pub(crate) fn known(&mut self, stamp: u64) {
        self.stamp = self.stamp.max(stamp);
    }

    /// A stamp that was never used.
    pub(crate) fn next_stamp(&mut self, now: Now) -> u64 {
        let wall = u64::try_from(now.wall_ms).unwrap_or(0);
        self.stamp = (self.stamp + 1).max(wall);
        self.stamp
    }

    fn begin_round(&mut self, now: Now) {
        let stamp = self.next_stamp(now);
        self.lifts.retain(|_, (at_ms, _)| *at_ms + LIFT_MS > now.wall_ms);
        let mut bans: Vec<(i64, Client)> =
            self.own.iter().map(|(client, own)| (own.ban.since_ms, *client)).collect();
        bans.sort_unstable();
        let mut queue: Vec<About> = bans.into_iter().map(|(_, client)| About::Ban(client)).collect();
        queue.extend(self.lifts.keys().map(|client| About::Lift(*client)));
        self.round = Some(Round { stamp, queue, awaited: BTreeSet::new() });
        // xorshift: what it is for needs no more.
        self.chance ^= self.chance << 13;
        self.chance ^= self.chance >> 7;
        self.chance ^= self.chance << 17;
        self.next_round_ms = now.boot_ms + ROUND_MS + self.chance % ROUND_MS;
    }

    /// At most `most` messages that are due now, the most urgent first.
    pub(crate) fn due(&mut self, most: usize, now: Now) -> Vec<Due> {
        if self.round.is_none() && now.boot_ms >= self.next_round_ms {
            self.begin_round(now);
        }
        let mut due = Vec::new();
        while due.len() < most {
            let about = match self.urgent.pop_front() {
                Some(about) => about,
                None => match self.round.as_mut().and_then(|round| round.queue.pop()) {
                    Some(about) => about,
                    None => break,
                },
            };
            due.extend(self.message(about, now));
        }
        if due.len() < most {
            due.extend(self.complete(now));
        }
        due
    }

    fn message(&mut self, about: About, now: Now) -> Option<Due> {
        let Some(said) = self.said(about, now) else {
            // It ended meanwhile: the round does not wait for it.
            self.round.iter_mut().for_each(|round| {
                round.awaited.remove(&about);
            });
            return None;
        };
        let stamp = self.next_stamp(now);
        if let Some(round) = &mut self.round {
            round.awaited.insert(about);
        }
        Some(Due { about, stamp, message: message::outgoing_of(&self.name, stamp, now.wall_ms, said) })
    }

    fn said(&self, about: About, now: Now) -> Option<Said> {
        match about {
            About::Ban(client) => {
                let OwnBan { since_ms, ends, why, .. } = &self.own.get(&client)?.ban;
                let left_ms = ends.remaining_ms(now).map(|left| left as i64);
                // By the boot clock, on the wall clock as it stands: it may have been set since the ban was made.
                let ends_ms = left_ms.map(|left| now.wall_ms + left);
                let (since_ms, why) = (*since_ms, why.clone());
                let ban = RemoteBan { client, since_ms, ends_ms, why, is_suspicion: false };
                left_ms.is_none_or(|left| left >= LEAST_LEFT_MS).then_some(Said::Banned(ban))
            }
            // Banned again meanwhile: that says it all.
            About::Withdrawal(client) => (!self.own.contains_key(&client)).then_some(Said::Withdrawn(client)),
            About::Lift(client) => {
                let (at_ms, note) = self.lifts.get(&client)?.clone();
                Some(Said::Lifted { client, at_ms, note })
            }
            About::Complete => None,
        }
    }

    /// The end of a round, once the server has all of it.
    fn complete(&mut self, now: Now) -> Option<Due> {
        let round = self.round.take_if(|round| round.queue.is_empty() && round.awaited.is_empty())?;
        let bans = self.own.values().filter(|own| own.told >= round.stamp).count() as u64;
        let said = Said::Complete { bans };
        let message = message::outgoing_of(&self.name, round.stamp, now.wall_ms, said);
        Some(Due { about: About::Complete, stamp: round.stamp, message })
    }

    /// The server has the message.
    pub(crate) fn acknowledged(&mut self, about: About, stamp: u64) {
        if let About::Ban(client) = about
            && let Some(own) = self.own.get_mut(&client)
        {
            own.told = own.told.max(stamp);
        }
        if let Some(round) = &mut self.round {
            round.awaited.remove(&about);
        }
    }

    /// The server does not have it, as far as is known: it is told again.
    pub(crate) fn failed(&mut self, about: About) {
        if about != About::Complete {
            self.urgent.push_back(about);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shield_engine::verdict::Rule;

    const T0: Now = Now { wall_ms: 1_700_000_000_000, boot_ms: 1_000_000 };

    fn client(n: u8) -> Client {
        std::net::Ipv4Addr::new(203, 0, 113, n).into()
    }

    fn ban(secs: u64, since_ms: i64) -> OwnBan {
        OwnBan {
            since_ms,
            ends: Ends::after(T0, secs * 1000),
            rule: Rule::Probing,
            why: "probing".to_owned(),
        }
    }

    fn said(due: &[Due]) -> Vec<Said> {
        let read =
            |due: &Due| message::read(&due.message.subject, &due.message.payload).unwrap().said.unwrap();
        due.iter().map(read).collect()
    }

    fn acknowledge(outbox: &mut Outbox, due: &[Due]) {
        due.iter().for_each(|due| outbox.acknowledged(due.about, due.stamp));
    }

    fn clients(said: &[Said]) -> Vec<Option<Client>> {
        let of = |said: &Said| match said {
            Said::Banned(ban) => Some(ban.client),
            Said::Withdrawn(client) | Said::Lifted { client, .. } => Some(*client),
            Said::Complete { .. } => None,
        };
        said.iter().map(of).collect()
    }

    #[test]
    fn a_connection_begins_with_everything_newest_first_and_ends_the_round_once_it_is_there() {
        let mut outbox = Outbox::new("web-1", 1);
        outbox.set_all([(client(1), ban(7200, 1)), (client(2), ban(7200, 3)), (client(3), ban(3, 2))]);
        outbox.connected(T0);
        let due = outbox.due(10, T0);
        assert_eq!(clients(&said(&due)), [Some(client(2)), Some(client(1))], "one ends too soon");
        assert!(outbox.due(10, T0).is_empty(), "the server does not have them yet");
        acknowledge(&mut outbox, &due);
        let end = outbox.due(10, T0);
        assert_eq!(said(&end), [Said::Complete { bans: 2 }]);
        assert!(end[0].stamp < due[0].stamp && outbox.due(10, T0.plus_ms(ROUND_MS - 1)).is_empty());
        assert_eq!(clients(&said(&outbox.due(10, T0.plus_ms(2 * ROUND_MS)))).len(), 2, "and again");
    }

    #[test]
    fn a_new_ban_does_not_wait_for_the_round() {
        let mut outbox = Outbox::new("web-1", 1);
        outbox.set_all((1..=100).map(|n| (client(n), ban(600, n.into()))));
        outbox.connected(T0);
        outbox.due(10, T0);
        outbox.banned(client(200), ban(600, 500));
        assert_eq!(clients(&said(&outbox.due(1, T0))), [Some(client(200))]);
    }

    #[test]
    fn what_was_refused_is_told_again_and_nothing_is_complete_without_it() {
        let mut outbox = Outbox::new("web-1", 1);
        outbox.set_all([(client(1), ban(600, 1))]);
        outbox.connected(T0);
        let first = outbox.due(10, T0);
        outbox.failed(first[0].about);
        assert_eq!(outbox.waiting(), 1);
        let second = outbox.due(10, T0);
        assert_eq!(clients(&said(&second)), [Some(client(1))]);
        assert!(second[0].stamp > first[0].stamp);
        acknowledge(&mut outbox, &second);
        assert_eq!((said(&outbox.due(10, T0)), outbox.waiting()), (vec![Said::Complete { bans: 1 }], 0));
    }

    #[test]
    fn an_end_is_told_only_when_it_comes_early() {
        let mut outbox = Outbox::new("web-1", 1);
        outbox.connected(T0);
        acknowledge(&mut outbox, &[]);
        outbox.due(10, T0);
        for n in 1..=3 {
            outbox.banned(client(n), ban(600, n.into()));
        }
        let due = outbox.due(10, T0);
        acknowledge(&mut outbox, &due);
        outbox.expired(client(1));
        outbox.withdrawn(client(2));
        outbox.withdrawn(client(9));
        assert_eq!(said(&outbox.due(10, T0)), [Said::Withdrawn(client(2))]);
        outbox.withdrawn(client(3));
        outbox.banned(client(3), ban(60, 9));
        let again = said(&outbox.due(10, T0));
        assert!(matches!(&again[..], [Said::Banned(_)]), "{again:?}");
    }

    #[test]
    fn stamps_grow_whatever_the_clock_does() {
        let mut outbox = Outbox::new("web-1", 1);
        let ahead = u64::try_from(T0.wall_ms).unwrap() + 1_000_000;
        outbox.set_all([(client(1), ban(600, 1))]);
        outbox.known(ahead);
        outbox.connected(T0);
        let back = Now { wall_ms: 5, ..T0 };
        let mut last = ahead;
        for _ in 0..5 {
            outbox.banned(client(1), ban(600, 1));
            let due = outbox.due(1, back);
            assert!(due[0].stamp > last);
            last = due[0].stamp;
        }
    }

    #[test]
    fn lifts_are_told_at_once_and_for_a_day() {
        let mut outbox = Outbox::new("web-1", 1);
        outbox.connected(T0);
        outbox.due(10, T0);
        let lift = || [(client(1), T0.wall_ms, Some("a mistake".to_owned()))];
        outbox.set_lifts(lift());
        outbox.set_lifts(lift());
        assert_eq!(clients(&said(&outbox.due(10, T0))), [Some(client(1))], "once");
        outbox.connected(T0.plus_ms(23 * 3_600_000));
        assert_eq!(outbox.due(10, T0.plus_ms(23 * 3_600_000)).len(), 1);
        outbox.connected(T0.plus_ms(25 * 3_600_000));
        let late = outbox.due(10, T0.plus_ms(25 * 3_600_000));
        assert_eq!(said(&late), [Said::Complete { bans: 0 }]);
    }
}
