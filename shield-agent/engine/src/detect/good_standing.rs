//! Who is in good standing: a client that was served well here before a rule fires for it. The limits of the blast radius
//! protect these clients and nobody else, because whoever only attacks could otherwise use the limits up.
//!
//! Standing is a currency, so that it cannot be bought for less than it is worth: a minute in which a client is served well
//! earns it credit, a failed request costs as much as a served one earns, and what a client does after a rule fired for it
//! is charged to its credit by `bans/blast.rs`. An attacker who builds up standing first gets at most as many requests
//! through as he made good ones.

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

/// Served requests in its first minute that make a client worth remembering.
const LEAST_SERVED: u32 = 3;

/// Standing is forgotten after a week without a visit.
const REMEMBERED_SECS: u32 = 7 * 86_400;

/// A client counts as present for this long after its last request: the span of the blast radius.
const PRESENT_SECS: u32 = 600;

/// Clients remembered at most, in 40 bytes each. Beyond it the half with the least credit is forgotten.
const MAX_REMEMBERED: usize = 65_536;

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
    /// The end of the last minute with a request.
    last: u32,
}

/// The clients that were served well, with their credit.
pub(crate) struct Standings {
    records: SeededMap<u128, Record>,
    /// Clients in good standing that were present at the last minute's end.
    present: usize,
    /// The client with which the next minute's lesson begins.
    next_teacher: u128,
}

impl Standings {
    pub(crate) fn new(hasher: SeededState) -> Standings {
        Standings { records: SeededMap::with_hasher(hasher), present: 0, next_teacher: 0 }
    }

    fn credit(&self, key: u128) -> u16 {
        self.records.get(&key).map_or(0, |record| record.credit)
    }

    /// Accounts for a client's minute that ends at `second`.
    fn learn(&mut self, key: u128, minute: Counts, second: u32) {
        // A wrong password is refused, whatever the status says.
        let errors = minute.errors.max(minute.logins);
        let served = minute.requests.saturating_sub(errors);
        let known = self.records.get(&key).copied();
        if known.is_none() && served < LEAST_SERVED {
            return;
        }
        let credit = known.map_or(0, |record| record.credit);
        let lost = u16::try_from(errors).unwrap_or(u16::MAX);
        // A minute of failures earns nothing, whatever was served between them.
        let earned = if served > errors { served.min(u32::from(CREDIT_PER_MINUTE)) as u16 } else { 0 };
        let credit = credit.saturating_sub(lost).saturating_add(earned).min(MAX_CREDIT);
        self.records.insert(key, Record { credit, last: second });
    }

    /// Clients in good standing of a network that were there within the last 10 min.
    pub(crate) fn present_in(&self, network: Client, second: u32) -> usize {
        let singles = network.singles(128);
        let is_inside = |(key, record): &(&u128, &Record)| {
            record.credit >= GOOD_CREDIT
                && second.saturating_sub(record.last) < PRESENT_SECS
                && singles.contains(**key)
        };
        self.records.iter().filter(is_inside).count()
    }

    /// Whether a client, or one of a network, is in good standing and was there since `second`.
    fn good_since(&self, client: Client, second: u32) -> bool {
        let is_good = |record: &Record| record.credit >= GOOD_CREDIT && record.last >= second;
        if self.records.get(&client.key()).is_some_and(is_good) {
            return true;
        }
        let singles = client.singles(128);
        singles.count() > 1
            && self.records.iter().any(|(key, record)| is_good(record) && singles.contains(*key))
    }

    fn end_minute(&mut self, second: u32) {
        self.records
            .retain(|_, record| record.credit > 0 && second.saturating_sub(record.last) < REMEMBERED_SECS);
        if self.records.len() > MAX_REMEMBERED {
            self.forget_least();
        }
        let is_present = |record: &&Record| {
            record.credit >= GOOD_CREDIT && second.saturating_sub(record.last) < PRESENT_SECS
        };
        self.present = self.records.values().filter(is_present).count();
    }

    fn forget_least(&mut self) {
        let mut ranks: Vec<_> = self.records.iter().map(|(key, r)| (r.credit, r.last, *key)).collect();
        let half = ranks.len() / 2;
        let (_, cut, _) = ranks.select_nth_unstable(half);
        let cut = *cut;
        self.records.retain(|key, record| (record.credit, record.last, *key) > cut);
    }
}

impl Detector {
    /// The standing of a client for which a rule fires; `None` when nothing speaks for it.
    pub(crate) fn good_standing(&self, client: Client, now: EventSecs) -> Option<GoodStanding> {
        let credit = self.standings.credit(client.key());
        if credit >= GOOD_CREDIT {
            return Some(GoodStanding { credit, is_known: true });
        }
        let second = u32::try_from(now.max(0)).unwrap_or(u32::MAX);
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
    pub(crate) fn clients_in_good_standing(&self) -> usize {
        self.standings.present
    }

    /// The number of clients in good standing inside a network that were there within the last 10 min.
    pub(crate) fn in_good_standing(&self, network: Client) -> usize {
        self.standings.present_in(network, self.newest_second())
    }

    /// Takes one request off a client's credit.
    pub(crate) fn charge_standing(&mut self, client: Client) {
        if let Some(record) = self.standings.records.get_mut(&client.key()) {
            record.credit = record.credit.saturating_sub(1);
        }
    }

    /// Takes a client's standing away.
    pub(crate) fn lose_standing(&mut self, client: Client) {
        self.standings.records.remove(&client.key());
    }

    /// Learns from the minute that ends at `boundary` who was served well, and what those in good standing asked for.
    pub(crate) fn learn_standing(&mut self, boundary: u32) {
        let Detector { clients, standings, good_targets, .. } = self;
        let mut teachers = Vec::new();
        clients.each_active(60, boundary - 1, |active| {
            // A verdict in this minute or the one before it.
            if active.suspect_until > boundary - 60 {
                return;
            }
            standings.learn(active.key, active.counts, boundary);
            if standings.credit(active.key) >= GOOD_CREDIT {
                teachers.push(active.key);
            }
        });
        standings.end_minute(boundary);
        teachers.sort_unstable();
        let first = teachers.partition_point(|key| *key < standings.next_teacher);
        teachers.rotate_left(first);
        standings.next_teacher = teachers.get(TEACHERS_PER_MINUTE).copied().unwrap_or(0);
        for key in teachers.into_iter().take(TEACHERS_PER_MINUTE) {
            if let Some((activity, _)) = clients.activity(key) {
                activity
                    .asked()
                    .for_each(|(target, answer)| good_targets.learn(target, answer, key, boundary));
            }
        }
    }
}
