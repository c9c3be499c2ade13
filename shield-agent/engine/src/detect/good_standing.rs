//! Who is in good standing: a client that was served well here before a rule fires for it. The limits of the blast radius
//! protect these clients and nobody else, because whoever only attacks could otherwise use the limits up.
//!
//! Standing is a currency, so that it cannot be bought for less than it is worth: a minute in which a client is served well
//! earns it credit, a failed request costs as much as a served one earns, and what a client does after a rule fired for it
//! is charged to its credit by `bans/blast.rs`. An attacker who builds up standing first gets at most as many requests
//! through as he made good ones.

use std::collections::BinaryHeap;

use crate::detect::detector::{Detector, Prepared};
use crate::detect::window::Counts;
use crate::seeded_map::{SeededMap, SeededState};
use crate::vocab::client::Client;
use crate::vocab::time::EventSecs;

/// The most credit that one minute earns: about one page with its assets. A program that asks for more earns no more.
const CREDIT_PER_MINUTE: u16 = 30;

/// The most credit of a client: at ten requests a second it is used up within a minute.
pub(crate) const MAX_CREDIT: u16 = 600;

/// The credit from which a client is in good standing.
const GOOD_CREDIT: u16 = 10;

/// The credit of a client that came within this minute and was served a page with its assets.
pub(crate) const NEWCOMER_CREDIT: u16 = 30;

/// Assets that make a page's visitor of a newcomer. A program that only probes loads none.
const NEWCOMER_ASSETS: u32 = 3;

/// What a minute earned speaks for a client only after this long: a flood that begins a second before a full minute was
/// served until then, and must not be spared for that.
const SETTLING_SECS: u32 = 60;

/// Served requests in its first minute that make a client worth remembering.
const LEAST_SERVED: u32 = 3;

/// Standing is forgotten after a week without a visit.
const REMEMBERED_SECS: u32 = 7 * 86_400;

/// A client counts as present for this long after its last request: the span of the blast radius.
const PRESENT_SECS: u32 = 600;

/// Those that are forgotten are taken out this often, because that goes through all records.
const SWEPT_EACH_SECS: u32 = 3600;

/// Clients remembered at most, in 40 bytes each. Beyond it the half with the least credit is forgotten.
const MAX_REMEMBERED: usize = 65_536;

/// While a minute is learned there may be more of them, but no more than this: to choose whom to forget takes time.
const MAX_WITHIN_A_MINUTE: usize = 2 * MAX_REMEMBERED;

/// Clients whose targets are learned in one minute at most; the next minute goes on with others.
const TEACHERS_PER_MINUTE: usize = 1_000;

/// The standing of a client when a rule fires for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct GoodStanding {
    /// Requests that it has to its credit.
    pub credit: u16,
    /// Whether it earned it in earlier minutes.
    pub is_known: bool,
}

#[derive(Debug, Clone, Copy)]
struct Record {
    credit: u16,
    /// The part of it that the last minute earned.
    fresh: u16,
    /// The end of the last minute with a request.
    last: u32,
}

impl Record {
    fn is_kept(&self, ended: u32) -> bool {
        ended.saturating_sub(self.last) < REMEMBERED_SECS
    }
}

/// The clients that were served well, with their credit.
pub(crate) struct Standings {
    /// With some that are forgotten by now: see [`Standings::get`].
    records: SeededMap<u128, Record>,
    /// The end of the last full minute, by which clients are forgotten.
    ended: u32,
    /// When the forgotten ones were last taken out.
    swept: u32,
    /// Clients whose credit was used up since then.
    emptied: Vec<u128>,
    /// Clients in good standing that were present at the last minute's end. Counted when somebody asks, or before it would
    /// change: on most sites that is seldom, and there are more records than lines in a minute.
    present: Option<usize>,
    /// The client with which the next minute's lesson begins.
    next_teacher: u128,
}

impl Standings {
    pub(crate) fn new(hasher: SeededState) -> Standings {
        Standings {
            records: SeededMap::with_hasher(hasher),
            ended: 0,
            swept: 0,
            emptied: Vec::new(),
            present: Some(0),
            next_teacher: 0,
        }
    }

    /// What is remembered of a client.
    fn get(&self, key: u128) -> Option<&Record> {
        self.records.get(&key).filter(|record| record.is_kept(self.ended))
    }

    fn kept(&self) -> impl Iterator<Item = (&u128, &Record)> {
        self.records.iter().filter(|(_, record)| record.is_kept(self.ended))
    }

    #[cfg(test)]
    fn credit(&self, key: u128) -> u16 {
        self.get(key).map_or(0, |record| record.credit)
    }

    pub(super) fn present(&mut self) -> usize {
        let (present, ended) = (self.present, self.ended);
        let is_present = |(_, record): &(&u128, &Record)| {
            record.credit >= GOOD_CREDIT && ended.saturating_sub(record.last) < PRESENT_SECS
        };
        *self.present.insert(present.unwrap_or_else(|| self.kept().filter(is_present).count()))
    }

    fn charge(&mut self, key: u128) {
        self.present();
        let ended = self.ended;
        let Some(record) = self.records.get_mut(&key).filter(|record| record.is_kept(ended)) else { return };
        if record.credit == 1 {
            self.emptied.push(key);
        }
        record.credit = record.credit.saturating_sub(1);
    }

    fn lose(&mut self, key: u128) {
        self.present();
        self.records.remove(&key);
    }

    /// The credit without what was earned only now.
    fn settled_credit(&self, key: u128, second: u32) -> u16 {
        self.get(key).map_or(0, |record| {
            let is_settled = second.saturating_sub(record.last) >= SETTLING_SECS;
            if is_settled { record.credit } else { record.credit.saturating_sub(record.fresh) }
        })
    }

    /// Accounts for a client's minute that ends at `second`. Returns whether the client is in good standing then.
    pub(super) fn learn(&mut self, key: u128, minute: Counts, second: u32) -> bool {
        // A wrong password is refused, whatever the status says.
        let errors = minute.errors.max(minute.logins);
        let served = minute.requests.saturating_sub(errors);
        let known = self.get(key).copied();
        let is_full = self.records.len() >= MAX_WITHIN_A_MINUTE;
        if known.is_none() && (served < LEAST_SERVED || is_full) {
            return false;
        }
        let credit = known.map_or(0, |record| record.credit);
        let lost = u16::try_from(errors).unwrap_or(u16::MAX);
        // A minute of failures earns nothing, whatever was served between them.
        let earned = if served > errors { served.min(u32::from(CREDIT_PER_MINUTE)) as u16 } else { 0 };
        let credit = credit.saturating_sub(lost).saturating_add(earned).min(MAX_CREDIT);
        match credit {
            0 => self.records.remove(&key),
            _ => self.records.insert(key, Record { credit, fresh: earned, last: second }),
        };
        credit >= GOOD_CREDIT
    }

    /// Clients in good standing of a network that were there within the last 10 min.
    pub(crate) fn present_in(&self, network: Client, second: u32) -> usize {
        let singles = network.singles(128);
        let is_inside = |(key, record): &(&u128, &Record)| {
            record.credit >= GOOD_CREDIT
                && second.saturating_sub(record.last) < PRESENT_SECS
                && singles.contains(**key)
        };
        self.kept().filter(is_inside).count()
    }

    /// Whether a client, or one of a network, is in good standing and was there since `second`.
    fn good_since(&self, client: Client, second: u32) -> bool {
        let is_good = |record: &Record| record.credit >= GOOD_CREDIT && record.last >= second;
        if self.get(client.key()).is_some_and(is_good) {
            return true;
        }
        let singles = client.singles(128);
        singles.count() > 1 && self.kept().any(|(key, record)| is_good(record) && singles.contains(*key))
    }

    /// Before the clients' minutes that end at `second` are learned. The log's clock may have been set back: whoever was
    /// forgotten by then stays so.
    pub(super) fn begin_minute(&mut self, second: u32) {
        if second < self.ended {
            self.sweep();
            self.ended = second;
        }
    }

    pub(super) fn end_minute(&mut self, second: u32) {
        self.ended = second;
        self.present = None;
        for key in std::mem::take(&mut self.emptied) {
            if self.records.get(&key).is_some_and(|record| record.credit == 0) {
                self.records.remove(&key);
            }
        }
        let is_full = self.records.len() > MAX_REMEMBERED;
        if is_full || second.abs_diff(self.swept) >= SWEPT_EACH_SECS {
            self.sweep();
        }
        if self.records.len() > MAX_REMEMBERED {
            self.forget_least();
        }
    }

    /// Takes out the forgotten ones.
    fn sweep(&mut self) {
        let ended = self.ended;
        self.swept = ended;
        self.records.retain(|_, record| record.is_kept(ended));
    }

    fn forget_least(&mut self) {
        let mut ranks: Vec<_> = self.records.iter().map(|(key, r)| (r.credit, r.last, *key)).collect();
        let half = ranks.len() / 2;
        let (_, cut, _) = ranks.select_nth_unstable(half);
        let cut = *cut;
        self.records.retain(|key, record| (record.credit, record.last, *key) > cut);
    }
}

/// The clients of a minute whose targets are learned: the next ones by key after those of the minute before.
#[derive(Debug)]
pub(super) struct Teachers {
    first: u128,
    /// How far their keys are behind the first one, of the nearest ones: those of this minute, and the first of the next.
    ranks: BinaryHeap<u128>,
}

impl Teachers {
    pub(super) fn add(&mut self, key: u128) {
        self.ranks.push(key.wrapping_sub(self.first));
        if self.ranks.len() > TEACHERS_PER_MINUTE + 1 {
            self.ranks.pop();
        }
    }
}

impl Standings {
    pub(super) fn teachers(&self) -> Teachers {
        Teachers { first: self.next_teacher, ranks: BinaryHeap::new() }
    }

    /// The teachers of this minute, in order; the next minute goes on behind them.
    pub(super) fn choose(&mut self, teachers: Teachers) -> Vec<u128> {
        let Teachers { first, ranks } = teachers;
        let mut keys = ranks.into_sorted_vec();
        keys.iter_mut().for_each(|rank| *rank = rank.wrapping_add(first));
        self.next_teacher = keys.get(TEACHERS_PER_MINUTE).copied().unwrap_or(0);
        keys.truncate(TEACHERS_PER_MINUTE);
        keys
    }
}

impl Detector {
    /// The standing of a client for which a rule fires; `None` when nothing speaks for it.
    pub(crate) fn good_standing(&self, client: Client, now: EventSecs) -> Option<GoodStanding> {
        let second = u32::try_from(now.max(0)).unwrap_or(u32::MAX);
        let credit = self.standings.settled_credit(client.key(), second);
        if credit >= GOOD_CREDIT {
            return Some(GoodStanding { credit, is_known: true });
        }
        let window = self.clients.activity(client.key())?.0.window.before(second);
        let is_visitor = window.served_pages() > 0 && window.assets >= NEWCOMER_ASSETS;
        is_visitor.then_some(GoodStanding { credit: NEWCOMER_CREDIT, is_known: false })
    }

    /// Whether a client was served well here within so many seconds before the newest line: now, in an earlier minute, or over
    /// an earlier run. Of a network, whether one of its clients was.
    pub(crate) fn served_well_within(&self, client: Client, secs: u32) -> bool {
        let newest = self.newest_second();
        let since = newest.saturating_sub(secs);
        self.good_standing(client, newest.into()).is_some()
            || self.standings.good_since(client, since)
            || self.served_since(client, since)
    }

    /// Whether clients in good standing were served what this request asks for.
    pub(crate) fn was_served(&self, prepared: &Prepared) -> bool {
        self.good_targets.is_served(prepared.path.key(), self.newest_second())
    }

    /// The number of clients in good standing that were there within the last 10 min, as of the last full minute.
    pub(crate) fn clients_in_good_standing(&mut self) -> usize {
        self.standings.present()
    }

    /// The number of clients in good standing inside a network that were there within the last 10 min.
    pub(crate) fn in_good_standing(&self, network: Client) -> usize {
        self.standings.present_in(network, self.newest_second())
    }

    /// Takes one request off a client's credit.
    pub(crate) fn charge_standing(&mut self, client: Client) {
        self.learn_now(client.key());
        self.standings.charge(client.key());
    }

    /// Takes a client's standing away.
    pub(crate) fn lose_standing(&mut self, client: Client) {
        self.learn_now(client.key());
        self.standings.lose(client.key());
    }

    /// Learns what a client in good standing asked for in the minute that ends at `boundary`, and before. Returns the number of
    /// targets.
    pub(super) fn learn_from_teacher(&mut self, key: u128, boundary: u32) -> usize {
        let Detector { clients, good_targets, .. } = self;
        if let Some(activity) = clients.heavy(key) {
            good_targets.learn(activity.asked(), key, boundary);
            return activity.targets();
        }
        let Some((light, _)) = clients.activity(key) else { return 0 };
        good_targets.learn(light.asked(), key, boundary);
        light.targets()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;

    /// The same, brought up to date at every minute's end.
    #[derive(Default)]
    struct Exact {
        records: BTreeMap<u128, Record>,
        present: usize,
    }

    impl Exact {
        fn credit(&self, key: u128) -> u16 {
            self.records.get(&key).map_or(0, |record| record.credit)
        }

        fn learn(&mut self, key: u128, (served, errors): (u32, u32), second: u32) {
            if !self.records.contains_key(&key) && served < LEAST_SERVED {
                return;
            }
            let earned = if served > errors { served.min(u32::from(CREDIT_PER_MINUTE)) as u16 } else { 0 };
            let credit = self.credit(key).saturating_sub(errors as u16).saturating_add(earned);
            let record = Record { credit: credit.min(MAX_CREDIT), fresh: earned, last: second };
            self.records.insert(key, record);
        }

        fn end_minute(&mut self, second: u32) {
            self.records.retain(|_, r| r.credit > 0 && second.saturating_sub(r.last) < REMEMBERED_SECS);
            let is_present =
                |r: &&Record| r.credit >= GOOD_CREDIT && second.saturating_sub(r.last) < PRESENT_SECS;
            self.present = self.records.values().filter(is_present).count();
        }
    }

    #[derive(Debug, Clone)]
    enum Step {
        /// The log's clock moves on or back by so much, and so many requests of some clients were served and refused.
        Minute(i64, Vec<(u8, u32, u32)>),
        Charge(u8, u16),
        Lose(u8),
        Ask,
    }

    fn step() -> impl Strategy<Value = Step> {
        const DAY: i64 = 86_400;
        let ahead =
            prop::sample::select(vec![60, 60, 60, 600, 3600, DAY, 7 * DAY, 8 * DAY, -60, -DAY, -9 * DAY]);
        let visits = prop::collection::vec((0..6_u8, 0..40_u32, 0..12_u32), 0..6);
        prop_oneof![
            6 => (ahead, visits).prop_map(|(ahead, visits)| Step::Minute(ahead, visits)),
            2 => (0..6_u8, 1..50_u16).prop_map(|(client, requests)| Step::Charge(client, requests)),
            1 => (0..6_u8).prop_map(Step::Lose),
            2 => Just(Step::Ask),
        ]
    }

    fn client(n: u8) -> Client {
        Client::from(Ipv4Addr::new(198, 51, 100 + n % 2, n))
    }

    fn run(exact: &mut Exact, lazy: &mut Standings, step: &Step, second: &mut u32) {
        match step {
            Step::Minute(ahead, visits) => {
                *second = second.saturating_add_signed(*ahead as i32);
                let visits: BTreeMap<u8, (u32, u32)> =
                    visits.iter().map(|(client, served, errors)| (*client, (*served, *errors))).collect();
                lazy.begin_minute(*second);
                for (n, (served, errors)) in visits {
                    let key = client(n).key();
                    let counts = Counts { requests: served + errors, errors, ..Counts::default() };
                    lazy.learn(key, counts, *second);
                    exact.learn(key, (served, errors), *second);
                    assert_eq!(lazy.credit(key), exact.credit(key));
                }
                lazy.end_minute(*second);
                exact.end_minute(*second);
            }
            Step::Charge(n, requests) => {
                for _ in 0..*requests {
                    lazy.charge(client(*n).key());
                    let known = exact.records.get_mut(&client(*n).key());
                    known.into_iter().for_each(|record| record.credit = record.credit.saturating_sub(1));
                }
            }
            Step::Lose(n) => {
                lazy.lose(client(*n).key());
                exact.records.remove(&client(*n).key());
            }
            Step::Ask => assert_eq!(lazy.present(), exact.present),
        }
    }

    proptest! {
        /// What is taken out late is forgotten in time, also where the log's clock is set back.
        #[test]
        fn nobody_is_remembered_longer_or_shorter(steps in prop::collection::vec(step(), 1..60)) {
            let mut lazy = Standings::new(SeededState::new(7));
            let (mut exact, mut second) = (Exact::default(), 1_767_600_000);
            for step in &steps {
                run(&mut exact, &mut lazy, step, &mut second);
                for client in (0..6).map(client) {
                    prop_assert_eq!(lazy.credit(client.key()), exact.credit(client.key()));
                    let since = second.saturating_sub(86_400);
                    let is_good = exact.records.get(&client.key());
                    let is_good = is_good.is_some_and(|r| r.credit >= GOOD_CREDIT && r.last >= since);
                    prop_assert_eq!(lazy.good_since(client, since), is_good);
                }
                let network: Client = "198.51.100.0/24".parse().expect("a network");
                let present = exact.records.iter().filter(|(key, r)| {
                    network.singles(128).contains(**key)
                        && r.credit >= GOOD_CREDIT
                        && second.saturating_sub(r.last) < PRESENT_SECS
                });
                prop_assert_eq!(lazy.present_in(network, second), present.count());
            }
        }
    }

    #[test]
    fn the_forgotten_are_taken_out_within_the_hour() {
        let mut standings = Standings::new(SeededState::new(7));
        let start = 1_767_600_000;
        standings.learn(1, Counts { requests: 20, ..Counts::default() }, start);
        standings.end_minute(start);
        let week_later = start + REMEMBERED_SECS;
        for second in (start..=week_later + SWEPT_EACH_SECS).step_by(60) {
            standings.begin_minute(second);
            standings.end_minute(second);
            assert_eq!(standings.credit(1) > 0, second < week_later);
        }
        assert!(standings.records.is_empty());
    }
}
