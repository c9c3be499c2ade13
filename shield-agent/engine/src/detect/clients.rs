//! The bounded table of clients: a record of 64 bytes each, which holds a client's first few requests itself, and an
//! [`Activity`] for those that make more. At the bound, the light client that was quiet longest is evicted first, and an
//! activity only for that of a busier client: an attacker with a million addresses cannot flush out a busy one. Evictions
//! are counted.

use hashbrown::HashTable;

use crate::detect::activity::{Activity, TARGET_SECS, counts_of};
use crate::detect::hash::Seeded;
use crate::detect::hashed_path::HashedPath;
use crate::detect::prefetch;
use crate::detect::prefilter::{Prefilter, Screening};
use crate::detect::shape_cache::CachedShape;
use crate::detect::trace::{Flags, Trace};
use crate::detect::walk::{Departed, Walk};
use crate::detect::window::{Counts, WINDOW_SECS};
use crate::vocab::client::{Client, Singles};

/// Requests that fit into a record; the next one creates an activity. No rule can fire before that one.
pub(crate) const LIGHT_REQUESTS: usize = 4;

/// At most one client in this many has an activity, but [`MIN_ACTIVITIES`] may in any case.
const CLIENTS_PER_ACTIVITY: usize = 8;
const MIN_ACTIVITIES: usize = 1024;

/// Records compared to find one to evict: a sample, as an exact order would cost every request its upkeep.
const EVICTION_SAMPLE: usize = 32;

/// Requests prepared at once: about as many reads as a processor can have in flight.
pub(crate) const LOOK_AHEAD: usize = 16;

/// What a walk reads of a client is prefetched when it is still so many clients away.
const VISIT_AHEAD: usize = 4;

/// The cost of looking up one client, in records read sequentially.
const CLIENTS_PER_LOOKUP: u128 = 4;

const NO_ACTIVITY: u32 = u32::MAX;

/// A [`Prepared::place`] that was not looked up or not found.
const UNKNOWN: u32 = u32::MAX;

/// A request's client and path hash, computed before the request is counted.
#[derive(Debug, Clone, Copy)]
pub struct Prepared {
    pub(crate) client: Client,
    pub(crate) path: HashedPath,
    /// What the path is, where that was read before.
    pub(crate) shape: CachedShape,
    /// The index at which its client's record was found; a hint, as the record may have moved since.
    place: u32,
}

impl Prepared {
    pub(crate) fn new(client: Client, path: HashedPath, shape: CachedShape) -> Prepared {
        Prepared { client, path, shape, place: UNKNOWN }
    }

    /// The key of its target in the usual case: the answer can change it.
    fn target(&self) -> u32 {
        self.path.hash as u32
    }
}

/// One client, in one cache line.
#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
pub(super) struct Record {
    key: [u64; 2],
    /// The second of its newest request.
    pub(super) last: u32,
    /// Index into [`Clients::activities`], or [`NO_ACTIVITY`].
    activity: u32,
    /// Nothing is learned from it before this second.
    pub(super) suspect_until: u32,
    light: Light,
}

impl Record {
    /// Adds a request of a light client; returns `false` when there is no room for it.
    #[inline]
    pub(super) fn add_light(&mut self, second: u32, trace: &Trace) -> bool {
        let newest = self.last.max(second);
        self.light.age(newest - self.last);
        self.last = newest;
        self.light.push(newest - second, trace)
    }
}

/// A client's first few requests: their traces, and how many seconds before [`Record::last`] they came.
#[derive(Debug, Clone, Copy)]
struct Light {
    keys: [u32; LIGHT_REQUESTS],
    /// [`NO_REQUEST`] after the last one.
    agos: [u16; LIGHT_REQUESTS],
    weights: [u8; LIGHT_REQUESTS],
    flags: [Flags; LIGHT_REQUESTS],
}

const NO_REQUEST: u16 = u16::MAX;

/// Marks the weight of a redirected request; weights are far below it.
const REDIRECTED: u8 = 0x80;

impl Default for Light {
    fn default() -> Light {
        Light {
            keys: [0; LIGHT_REQUESTS],
            agos: [NO_REQUEST; LIGHT_REQUESTS],
            weights: [0; LIGHT_REQUESTS],
            flags: [Flags::default(); LIGHT_REQUESTS],
        }
    }
}

impl Light {
    fn len(&self) -> usize {
        self.agos.iter().position(|ago| *ago == NO_REQUEST).unwrap_or(LIGHT_REQUESTS)
    }

    /// Adds a request; returns `false` when there is no room.
    fn push(&mut self, ago: u32, trace: &Trace) -> bool {
        let at = self.len();
        if at == LIGHT_REQUESTS {
            return false;
        }
        self.keys[at] = trace.key;
        self.agos[at] = ago.min(u32::from(NO_REQUEST) - 1) as u16;
        self.weights[at] = trace.weight | if trace.is_redirected() { REDIRECTED } else { 0 };
        self.flags[at] = trace.flags;
        true
    }

    fn requests(&self) -> impl Iterator<Item = (u32, Trace)> {
        (0..self.len()).map(|at| {
            // Of the answer only whether it was a redirect is kept.
            let (weight, answer) = match self.weights[at] & REDIRECTED {
                0 => (self.weights[at], 0),
                _ => (self.weights[at] & !REDIRECTED, 2),
            };
            let trace = Trace { key: self.keys[at], flags: self.flags[at], weight, answer };
            (u32::from(self.agos[at]), trace)
        })
    }

    /// Moves the newest second on by `secs`, and drops requests older than 10 min.
    fn age(&mut self, secs: u32) {
        if secs == 0 {
            return;
        }
        let kept = std::mem::take(self);
        for (ago, trace) in kept.requests() {
            let ago = ago.saturating_add(secs);
            if ago < TARGET_SECS {
                self.push(ago, &trace);
            }
        }
    }
}

/// A client with an [`Activity`] whose request was just counted.
pub(crate) struct Recorded<'a> {
    pub activity: &'a mut Activity,
    /// Nothing is learned from the client before this second.
    pub suspect_until: &'a mut u32,
    pub screening: Screening,
}

/// The table's size and its evictions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    pub clients: usize,
    pub activities: usize,
    /// Clients and activities evicted since the start.
    pub evicted: u64,
    /// Approximate memory in bytes.
    pub bytes: usize,
}

/// An entry of the index.
#[derive(Debug, Clone, Copy)]
struct Entry {
    /// 32 bits of the key's hash, more than the table itself compares: so a lookup nearly never reads a wrong record.
    mark: u32,
    /// Index into [`Clients::records`].
    at: u32,
}

fn mark(hash: u64) -> u32 {
    hash as u32
}

pub(crate) struct Clients {
    hash: Seeded,
    index: HashTable<Entry>,
    records: Vec<Record>,
    activities: Vec<Activity>,
    /// The index of each activity's record.
    owners: Vec<u32>,
    max_clients: usize,
    hand: usize,
    activity_hand: usize,
    evicted: u64,
    /// The walk that ends a minute, as long as it goes on.
    walk: Option<Walk>,
}

/// What a step of the walk through the clients came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Passed {
    /// A client that was not there in the minute, or that was visited ahead of its turn.
    Idle,
    /// A client that was visited, or removed because no rule counts its requests any more.
    Client,
    /// Nothing: all clients were passed.
    End,
}

impl Clients {
    /// An empty table for at most `max_clients` (at least 1).
    pub(crate) fn new(max_clients: usize, hash: Seeded) -> Clients {
        Clients {
            hash,
            index: HashTable::new(),
            records: Vec::new(),
            activities: Vec::new(),
            owners: Vec::new(),
            max_clients: max_clients.clamp(1, NO_ACTIVITY as usize),
            hand: 0,
            activity_hand: 0,
            evicted: 0,
            walk: None,
        }
    }

    /// Counts one request. Returns `None` for a light client: no rule can fire before a client has an [`Activity`].
    pub(crate) fn record(
        &mut self,
        prepared: &Prepared,
        second: u32,
        trace: &Trace,
        prefilter: &Prefilter,
    ) -> Option<Recorded<'_>> {
        let at = self.place_of(prepared, second);
        let record = &mut self.records[at];
        if record.activity == NO_ACTIVITY {
            if record.add_light(second, trace) {
                return None;
            }
            self.promote(at);
        }
        let record = &mut self.records[at];
        record.last = record.last.max(second);
        let activity = &mut self.activities[record.activity as usize];
        let screening = prefilter.record(activity, second, trace);
        Some(Recorded { activity, suspect_until: &mut record.suspect_until, screening })
    }

    /// The record of a request's client, which is a new one if there was none, and the activity of a client that is not light.
    #[inline]
    pub(super) fn record_of(
        &mut self,
        prepared: &Prepared,
        second: u32,
    ) -> (&mut Record, Option<&mut Activity>) {
        let at = self.place_of(prepared, second);
        let record = &mut self.records[at];
        let activity = self.activities.get_mut(record.activity as usize);
        (record, activity)
    }

    // A part of the loop over plain requests.
    #[inline(always)]
    fn place_of(&mut self, prepared: &Prepared, second: u32) -> usize {
        let (place, key) = (prepared.place as usize, prepared.client.key());
        match self.records.get(place) {
            Some(record) if record.key == split(key) => place,
            _ => self.position(key).unwrap_or_else(|| self.insert(key, second)),
        }
    }

    /// Prefetches what [`Clients::record`] reads for these requests, of about `second`, and notes the places of their
    /// clients. Goes through all requests for each level of indirection, so that the cache misses of a level overlap.
    pub(crate) fn prefetch(&self, prepared: &mut [Prepared], second: u32) {
        for one in prepared.iter_mut() {
            let hash = self.hash.key(one.client.key());
            let found = self.index.find(hash, |entry| entry.mark == mark(hash));
            one.place = found.map_or(UNKNOWN, |entry| entry.at);
            self.records.get(one.place as usize).into_iter().for_each(prefetch::fetch);
        }
        let mut activities = [None; LOOK_AHEAD];
        for (activity, one) in activities.iter_mut().zip(prepared.iter()) {
            let record = self.records.get(one.place as usize);
            *activity = record.and_then(|record| self.activities.get(record.activity as usize));
            if let Some(activity) = activity {
                activity.prefetch();
            }
        }
        for (activity, one) in activities.iter().zip(prepared.iter()) {
            if let Some(activity) = activity {
                activity.prefetch_target(one.target(), second);
            }
        }
    }

    /// The activity of a client that is not light.
    pub(crate) fn heavy(&self, key: u128) -> Option<&Activity> {
        self.activities.get(self.records[self.position(key)?].activity as usize)
    }

    pub(crate) fn heavy_mut(&mut self, key: u128) -> Option<&mut Activity> {
        let at = self.records[self.position(key)?].activity as usize;
        self.activities.get_mut(at)
    }

    /// The counts of a light client over the window that ends before `second`, and its distinct pages served by then.
    pub(crate) fn light_before(&self, key: u128, second: u32) -> (Counts, u32) {
        let Some(record) = self.position(key).and_then(|at| self.records.get(at)) else {
            return Default::default();
        };
        let counts = record.light_counts(WINDOW_SECS - 1, second.saturating_sub(1));
        // At most a few requests: as an activity of its own it is counted like that of a busier client.
        let served =
            if counts.served_pages() > 0 { self.activity_of(record).served_pages(second) } else { 0 };
        (counts, served)
    }

    /// Nothing is learned from a client until `second`.
    pub(crate) fn suspect(&mut self, key: u128, until: u32) {
        if let Some(at) = self.position(key) {
            self.records[at].suspect_until = until;
        }
    }

    /// Nothing is learned from a client before this second.
    pub(crate) fn suspect_until(&self, key: u128) -> u32 {
        self.position(key).map_or(0, |at| self.records[at].suspect_until)
    }

    pub(crate) fn forget(&mut self, key: u128) {
        if let Some(at) = self.position(key) {
            self.remove(at);
        }
    }

    pub(crate) fn holds(&self, key: u128) -> bool {
        self.position(key).is_some()
    }

    /// Returns a copy of a client's activity, light or not, and the second until which it is suspect.
    pub(crate) fn activity(&self, key: u128) -> Option<(Activity, u32)> {
        let record = &self.records[self.position(key)?];
        Some((self.activity_of(record), record.suspect_until))
    }

    fn activity_of(&self, record: &Record) -> Activity {
        match self.activities.get(record.activity as usize) {
            Some(activity) => activity.clone(),
            None => {
                let mut activity = Activity::default();
                let mut requests: Vec<_> = record.light.requests().collect();
                requests.sort_by_key(|(ago, _)| std::cmp::Reverse(*ago));
                requests
                    .iter()
                    .for_each(|(ago, trace)| activity.add(record.last.saturating_sub(*ago), trace));
                activity
            }
        }
    }

    /// Visits the clients with a request in the `secs` (1..=60) seconds up to and including `second`.
    pub(crate) fn each_active(&self, secs: u32, second: u32, visit: impl FnMut(ActiveClient<'_>)) {
        self.each_active_at(0..self.records.len(), secs, second, visit);
    }

    /// The same for the clients at these positions. A removal moves the last client into the gap, and nothing else moves.
    pub(crate) fn each_active_at(
        &self,
        positions: std::ops::Range<usize>,
        secs: u32,
        second: u32,
        mut visit: impl FnMut(ActiveClient<'_>),
    ) {
        let records = self.records.get(positions).unwrap_or_default();
        for (at, record) in records.iter().enumerate() {
            let activity_of = |ahead: usize| {
                records.get(at + ahead).and_then(|record| self.activities.get(record.activity as usize))
            };
            activity_of(2 * VISIT_AHEAD).into_iter().for_each(Activity::prefetch);
            activity_of(VISIT_AHEAD).into_iter().for_each(Activity::prefetch_counts);
            self.active(record, secs, second).into_iter().for_each(&mut visit);
        }
    }

    fn active(&self, record: &Record, secs: u32, second: u32) -> Option<ActiveClient<'_>> {
        if second.saturating_sub(record.last) >= secs {
            return None;
        }
        let activity = self.activities.get(record.activity as usize);
        let counts = match activity {
            Some(activity) => activity.window.sum_of_last(secs, second),
            None => record.light_counts(secs, second),
        };
        Some(ActiveClient { key: join(record.key), counts, activity, suspect_until: record.suspect_until })
    }

    pub(crate) fn len(&self) -> usize {
        self.records.len()
    }

    /// Begins a walk through all clients of now, for what they did in the minute before `boundary`: it visits those that were there
    /// in that minute, and removes those that [`Clients::sweep`] would.
    pub(crate) fn begin_walk(&mut self, boundary: u32) {
        self.walk = Some(Walk::new(self.records.len(), boundary));
    }

    /// Goes on to the next client.
    pub(crate) fn walk_on(&mut self, visit: impl FnOnce(ActiveClient<'_>)) -> Passed {
        let Some(walk) = &mut self.walk else { return Passed::End };
        match walk.next() {
            None => Passed::End,
            Some((_, true)) => Passed::Idle,
            Some((at, false)) => self.end_minute_of(at, visit),
        }
    }

    /// Visits a client ahead of its turn, before it changes. Returns `false` if it was passed before.
    pub(crate) fn visit_ahead(&mut self, key: u128, visit: impl FnOnce(ActiveClient<'_>)) -> bool {
        let Some(at) = self.position(key) else { return false };
        let is_due = self.walk.as_mut().is_some_and(|walk| walk.take(at));
        if is_due {
            self.end_minute_of(at, visit);
        }
        is_due
    }

    /// Clients that had to make room since the last call, before they were visited.
    pub(crate) fn take_departed(&mut self) -> Vec<Departed> {
        self.walk.as_mut().map_or(Vec::new(), Walk::take_departed)
    }

    pub(crate) fn end_walk(&mut self) {
        self.walk = None;
    }

    /// The clients that the walk has still to pass.
    pub(crate) fn left_to_walk(&self) -> usize {
        self.walk.as_ref().map_or(0, Walk::left)
    }

    fn end_minute_of(&mut self, at: usize, visit: impl FnOnce(ActiveClient<'_>)) -> Passed {
        let Some(boundary) = self.walk.as_ref().map(Walk::boundary) else { return Passed::End };
        let record = &self.records[at];
        if boundary.saturating_sub(record.last) >= TARGET_SECS {
            self.remove(at);
            return Passed::Client;
        }
        match self.active(record, WINDOW_SECS, boundary - 1) {
            Some(active) => {
                visit(active);
                Passed::Client
            }
            None => Passed::Idle,
        }
    }

    /// Keeps what the walk has still to learn of a client that is about to lose it.
    fn depart(&mut self, at: usize) {
        let Some(walk) = &mut self.walk else { return };
        if !walk.take(at) {
            return;
        }
        let before = walk.boundary() - 1;
        if let Some(departed) = self.active(&self.records[at], WINDOW_SECS, before).map(Departed::of)
            && let Some(walk) = &mut self.walk
        {
            walk.put_aside(departed);
        }
    }

    /// Counts the clients among `singles` with a request in the 10 min up to `second` that are not suspect then. Looks up
    /// each address or walks all clients, whichever is cheaper: a ban waits for this.
    pub(crate) fn clean_among(&self, singles: Singles, second: u32) -> usize {
        let is_clean = |r: &Record| second.saturating_sub(r.last) < TARGET_SECS && r.suspect_until <= second;
        if singles.count().saturating_mul(CLIENTS_PER_LOOKUP) <= self.records.len() as u128 {
            let known = singles.keys().filter_map(|key| self.records.get(self.position(key)?));
            return known.filter(|r| is_clean(r)).count();
        }
        self.records.iter().filter(|r| is_clean(r) && singles.contains(join(r.key))).count()
    }

    /// Whether at least `enough` of the clients among `singles` had a request in the 10 min up to `second` and were served more
    /// than they asked for in vain. Asked again and again about a network that is, so it copies nothing and stops early.
    pub(crate) fn are_served_among(&self, singles: Singles, second: u32, enough: usize) -> bool {
        let is_served = |record: &&Record| {
            second.saturating_sub(record.last) < TARGET_SECS && self.balance_of(record).is_served()
        };
        if singles.count().saturating_mul(CLIENTS_PER_LOOKUP) <= self.records.len() as u128 {
            let known = singles.keys().filter_map(|key| self.records.get(self.position(key)?));
            return known.filter(is_served).take(enough).count() == enough;
        }
        let inside = self.records.iter().filter(|r| singles.contains(join(r.key)));
        inside.filter(is_served).take(enough).count() == enough
    }

    fn balance_of(&self, record: &Record) -> Balance {
        match self.activities.get(record.activity as usize) {
            Some(activity) => Balance::of(activity),
            None => record.light_balance(),
        }
    }

    /// Removes clients without a request in the 10 min up to `second`: no rule counts any of theirs.
    pub(crate) fn sweep(&mut self, second: u32) {
        let mut at = 0;
        while at < self.records.len() {
            if second.saturating_sub(self.records[at].last) >= TARGET_SECS {
                self.remove(at);
            } else {
                at += 1;
            }
        }
    }

    /// The table's size and its evictions.
    pub(crate) fn usage(&self) -> Usage {
        let records = self.records.capacity() * size_of::<Record>();
        let index = self.index.allocation_size();
        let activities: usize = self.activities.iter().map(|f| f.bytes() + size_of::<u32>()).sum();
        Usage {
            clients: self.records.len(),
            activities: self.activities.len(),
            evicted: self.evicted,
            bytes: records + index + activities,
        }
    }

    fn position(&self, key: u128) -> Option<usize> {
        let (split, hash) = (split(key), self.hash.key(key));
        let is_it = |entry: &Entry| entry.mark == mark(hash) && self.records[entry.at as usize].key == split;
        self.index.find(hash, is_it).map(|entry| entry.at as usize)
    }

    fn insert(&mut self, key: u128, second: u32) -> usize {
        if self.records.len() >= self.max_clients {
            self.evict_client();
        }
        if self.records.len() == self.records.capacity() {
            // By a quarter instead of doubling, to keep the documented bound of 100 bytes per light client.
            self.records.reserve_exact((self.records.len() / 4).max(1024));
        }
        let at = self.records.len();
        let light = Light::default();
        self.records.push(Record {
            key: split(key),
            last: second,
            activity: NO_ACTIVITY,
            suspect_until: 0,
            light,
        });
        let Clients { index, records, hash, .. } = self;
        let new = Entry { mark: mark(hash.key(key)), at: at as u32 };
        index.insert_unique(hash.key(key), new, |entry| hash.key(join(records[entry.at as usize].key)));
        at
    }

    /// Moves a client's first requests into a new activity.
    fn promote(&mut self, at: usize) {
        if self.activities.len() >= (self.max_clients / CLIENTS_PER_ACTIVITY).max(MIN_ACTIVITIES) {
            self.evict_activity();
        }
        let activity = self.activity_of(&self.records[at]);
        self.records[at].activity = self.activities.len() as u32;
        self.records[at].light = Light::default();
        self.activities.push(activity);
        self.owners.push(at as u32);
    }

    fn evict_client(&mut self) {
        let len = self.records.len();
        let rank = |at: &usize| {
            let record = &self.records[*at];
            (record.activity != NO_ACTIVITY, record.last)
        };
        let mut coldest = self.hand % len;
        // Continues past samples without a light client: nearly always there is one further on, and the hand does not come
        // back to what it passed before it went round.
        for _ in 0..len.div_ceil(EVICTION_SAMPLE) {
            let sample = (0..EVICTION_SAMPLE.min(len)).map(|i| (self.hand + i) % len);
            coldest = sample.chain([coldest]).min_by_key(rank).unwrap_or(coldest);
            self.hand = (self.hand + EVICTION_SAMPLE) % len;
            if !rank(&coldest).0 {
                break;
            }
        }
        self.evicted += 1;
        self.remove(coldest);
    }

    fn evict_activity(&mut self) {
        let len = self.activities.len();
        let rank = |at: &usize| {
            let owner = self.owners[*at] as usize;
            (self.activities[*at].window.sum().requests, self.records[owner].last)
        };
        let sample = (0..EVICTION_SAMPLE.min(len)).map(|i| (self.activity_hand + i) % len);
        let least = sample.min_by_key(rank).unwrap_or(0);
        self.activity_hand = (self.activity_hand + EVICTION_SAMPLE) % len;
        self.evicted += 1;
        self.depart(self.owners[least] as usize);
        self.drop_activity(self.owners[least] as usize);
    }

    fn drop_activity(&mut self, at: usize) {
        let gone = std::mem::replace(&mut self.records[at].activity, NO_ACTIVITY);
        if gone == NO_ACTIVITY {
            return;
        }
        self.activities.swap_remove(gone as usize);
        self.owners.swap_remove(gone as usize);
        if let Some(owner) = self.owners.get(gone as usize) {
            self.records[*owner as usize].activity = gone;
        }
    }

    fn remove(&mut self, at: usize) {
        self.depart(at);
        self.drop_activity(at);
        let key = join(self.records[at].key);
        if let Ok(entry) = self.index.find_entry(self.hash.key(key), |entry| entry.at as usize == at) {
            entry.remove();
        }
        self.records.swap_remove(at);
        if let Some(walk) = &mut self.walk {
            walk.swap_removed(at, self.records.len());
        }
        let Some(moved) = self.records.get(at).copied() else { return };
        let last = self.records.len() as u32;
        if let Some(entry) = self.index.find_mut(self.hash.key(join(moved.key)), |entry| entry.at == last) {
            entry.at = at as u32;
        }
        if let Some(owner) = self.owners.get_mut(moved.activity as usize) {
            *owner = at as u32;
        }
    }
}

/// A client visited by [`Clients::each_active`].
pub(crate) struct ActiveClient<'a> {
    pub key: u128,
    /// Over the seconds of the visit.
    pub counts: Counts,
    /// `None` for a light client.
    pub activity: Option<&'a Activity>,
    /// Nothing is learned from it before this second.
    pub suspect_until: u32,
}

impl Record {
    fn light_counts(&self, secs: u32, second: u32) -> Counts {
        let inside = |(ago, _): &(u32, Trace)| {
            let at = self.last.saturating_sub(*ago);
            at <= second && second - at < secs.min(WINDOW_SECS)
        };
        let requests = self.light.requests().filter(inside);
        requests.fold(Counts::default(), |sum, (_, trace)| sum.plus(counts_of(&trace)))
    }

    /// What [`Balance::of`] is for the same requests in an activity.
    fn light_balance(&self) -> Balance {
        let mut weights = [(0, 0); LIGHT_REQUESTS];
        let mut targets = 0;
        for (_, trace) in self.light.requests().filter(|(_, trace)| !trace.flags.has(Flags::NOT_A_PAGE)) {
            let known = weights[..targets].iter().position(|(key, _)| *key == trace.key);
            targets = targets.max(known.unwrap_or(targets) + 1);
            let weight = &mut weights[known.unwrap_or(targets - 1)];
            *weight = (trace.key, trace.weight.max(weight.1));
        }
        let in_vain = weights[..targets].iter().filter(|(_, weight)| *weight > 0).count();
        let assets = self.light_counts(WINDOW_SECS, self.last).assets as usize;
        Balance { served: targets - in_vain + assets, in_vain }
    }
}

/// What a client was served and what it asked for in vain, in distinct targets; assets one by one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Balance {
    served: usize,
    in_vain: usize,
}

impl Balance {
    fn of(activity: &Activity) -> Balance {
        let in_vain = activity.targets_in_vain();
        let served = activity.targets() - in_vain + activity.window.sum().assets as usize;
        Balance { served, in_vain }
    }

    fn is_served(self) -> bool {
        self.served > self.in_vain
    }
}

fn split(key: u128) -> [u64; 2] {
    [key as u64, (key >> 64) as u64]
}

fn join([low, high]: [u64; 2]) -> u128 {
    u128::from(high) << 64 | u128::from(low)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::detect::policy::Policy;
    use crate::detect::thresholds::Thresholds;
    use proptest::prelude::*;
    use std::net::{IpAddr, Ipv6Addr};
    use std::sync::LazyLock;

    fn clients(max: usize) -> Clients {
        Clients::new(max, Seeded::new(9))
    }

    fn page(key: u32) -> Trace {
        Trace { key, ..Trace::default() }
    }

    fn prepared(key: u128) -> Prepared {
        let client = Client::of_addr(IpAddr::V6(Ipv6Addr::from_bits(key)), 128);
        assert_eq!(client.key(), key);
        Prepared::new(client, HashedPath::default(), CachedShape::default())
    }

    fn add(clients: &mut Clients, key: u128, second: u32, trace: &Trace) {
        record(clients, &prepared(key), second, trace);
    }

    fn record(clients: &mut Clients, prepared: &Prepared, second: u32, trace: &Trace) {
        static PREFILTER: LazyLock<Prefilter> =
            LazyLock::new(|| *Thresholds::new(Policy::default()).prefilter());
        clients.record(prepared, second, trace, &PREFILTER);
    }

    fn requests(clients: &Clients, key: u128) -> Option<u32> {
        clients.activity(key).map(|(activity, _)| activity.window.sum().requests)
    }

    #[test]
    fn a_record_is_one_cache_line_and_an_activity_two() {
        assert_eq!((size_of::<Record>(), size_of::<Activity>()), (64, 128));
    }

    #[test]
    fn a_light_client_costs_at_most_100_bytes() {
        let mut table = clients(1_000_000);
        for key in 0..1_000_000u128 {
            add(&mut table, key, 1000, &page(1));
        }
        let usage = table.usage();
        assert_eq!(usage.clients, 1_000_000);
        assert!(usage.bytes <= 100 * 1_000_000, "{} bytes", usage.bytes);
    }

    #[test]
    fn a_heavy_client_is_never_lost_among_a_million_light_ones() {
        let mut table = clients(10_000);
        let heavy = u128::MAX;
        for n in 0..1_000_000u32 {
            let second = 1000 + n / 20_000;
            add(&mut table, u128::from(n), second, &page(n));
            if n % 1000 == 0 {
                add(&mut table, heavy, second, &page(7));
            }
        }
        assert_eq!(requests(&table, heavy), Some(1000));
        let usage = table.usage();
        assert_eq!((usage.clients, usage.evicted), (10_000, 1_000_001 - 10_000));
    }

    #[test]
    fn clean_clients_are_counted_alike_by_lookup_and_by_walk() {
        let mut table = clients(10_000);
        let first = Client::of_addr("192.0.2.0".parse().unwrap(), 64).key();
        for n in 0..4_000u128 {
            add(&mut table, first + n, 1000, &page(1));
        }
        add(&mut table, first + 3, 2000, &page(1));
        for (network, recent, all) in
            [("192.0.2.0/24", 1, 256), ("192.0.0.0/21", 1, 1_536), ("192.0.2.4/30", 0, 4)]
        {
            let singles = network.parse::<Client>().unwrap().singles(64);
            assert_eq!(table.clean_among(singles, 1000), all, "{network}");
            assert_eq!(table.clean_among(singles, 2000), recent, "{network}");
        }
        let at = table.position(first + 3).unwrap();
        table.records[at].suspect_until = 2_001;
        let singles = "192.0.2.0/24".parse::<Client>().unwrap().singles(64);
        assert_eq!((table.clean_among(singles, 2000), table.clean_among(singles, 2001)), (0, 1));
    }

    #[test]
    fn a_full_table_evicts_light_clients_before_busy_ones() {
        let mut table = clients(10_000);
        for key in (0..1_000).flat_map(|key| [key; 9]) {
            add(&mut table, key, 1000, &page(1));
        }
        for key in 1_000..100_000u128 {
            add(&mut table, key, 1001, &page(1));
        }
        assert!((0..1_000).all(|key| requests(&table, key) == Some(9)));
        assert_eq!((table.usage().clients, table.evicted), (10_000, 90_000));
    }

    #[test]
    fn a_client_whose_record_moved_since_the_lookup_is_still_found() {
        let mut table = clients(100);
        (1..=3).for_each(|key| add(&mut table, key, 1000, &page(1)));
        let mut prepared = [prepared(3); LOOK_AHEAD];
        table.prefetch(&mut prepared, 1000);
        assert_eq!(prepared[0].place, 2);
        table.forget(1);
        add(&mut table, 4, 1000, &page(1));
        assert_eq!(table.position(3), Some(0), "another client has its old place");
        record(&mut table, &prepared[0], 1000, &page(1));
        assert_eq!((requests(&table, 3), requests(&table, 4)), (Some(2), Some(1)));
    }

    #[test]
    fn the_client_quiet_longest_is_evicted_first() {
        let mut table = clients(10);
        for key in 0..10u128 {
            add(&mut table, key, 1000 + key as u32, &page(1));
        }
        add(&mut table, 0, 1020, &page(1));
        add(&mut table, 99, 1021, &page(1));
        assert_eq!(requests(&table, 1), None, "client 1 was quiet the longest");
        assert_eq!(requests(&table, 0), Some(2), "client 0 came back");
    }

    #[test]
    fn the_least_active_client_loses_its_activity() {
        let mut table = clients(1);
        table.max_clients = 10_000;
        for key in 0..2000u128 {
            for n in 0..(if key == 5 { 50 } else { 5 }) {
                add(&mut table, key, 1000, &page(n));
            }
        }
        assert_eq!(requests(&table, 5), Some(50));
        assert_eq!(table.usage().activities, 10_000 / CLIENTS_PER_ACTIVITY);
    }

    #[test]
    fn the_bounds_are_exact() {
        let mut table = clients(3);
        (0..3).for_each(|key| add(&mut table, key, 1000, &page(1)));
        assert_eq!((table.usage().clients, table.usage().evicted), (3, 0));
        add(&mut table, 3, 1000, &page(1));
        assert_eq!((table.usage().clients, table.usage().evicted), (3, 1));
        // One client in eight may have an activity, and never fewer than 1,024 clients may.
        for (max, activities) in [(2_000, MIN_ACTIVITIES), (8 * MIN_ACTIVITIES + 8, MIN_ACTIVITIES + 1)] {
            let mut table = clients(max);
            for key in 0..1_500 {
                (0..=LIGHT_REQUESTS).for_each(|_| add(&mut table, key, 1000, &page(1)));
            }
            let usage = table.usage();
            assert_eq!((usage.clients, usage.activities), (1_500, activities));
            assert_eq!(
                usage.evicted,
                1_500 - activities as u64,
                "each client beyond the bound cost one its activity"
            );
        }
    }

    #[test]
    fn a_client_that_lost_its_activity_starts_again_as_a_light_one() {
        let mut table = clients(100);
        (0..9).for_each(|_| add(&mut table, 1, 1000, &page(1)));
        (0..9).for_each(|_| add(&mut table, 2, 1000, &page(1)));
        table.drop_activity(table.position(1).unwrap());
        assert_eq!((requests(&table, 1), requests(&table, 2)), (Some(0), Some(9)));
        add(&mut table, 1, 1000, &page(1));
        add(&mut table, 2, 1000, &page(1));
        assert_eq!((requests(&table, 1), requests(&table, 2)), (Some(1), Some(10)));
    }

    #[test]
    fn a_visit_counts_light_and_busy_clients_alike() {
        let failed = Trace { flags: Flags::ERROR.union(Flags::FAILED), ..Trace::default() };
        let mut table = clients(100);
        for (second, trace) in [(1000, page(1)), (1010, failed), (1050, page(1))] {
            add(&mut table, 1, second, &trace);
            // A busy client does each of these twice.
            (0..2).for_each(|_| add(&mut table, 2, second, &trace));
        }
        assert_eq!(table.usage().activities, 1);
        let visit = |secs, second| {
            let mut seen = Vec::new();
            table.each_active(secs, second, |active| {
                let times = if active.activity.is_some() { 2 } else { 1 };
                assert_eq!(active.key, times, "client 2 is the busy one");
                let (requests, errors) = (active.counts.requests, active.counts.errors);
                assert_eq!((requests % times as u32, errors % times as u32, active.suspect_until), (0, 0, 0));
                seen.push((requests / times as u32, errors / times as u32));
            });
            seen.dedup();
            seen
        };
        assert_eq!(visit(60, 1050), [(3, 1)]);
        assert_eq!(visit(60, 1060), [(2, 1)]);
        assert_eq!(visit(60, 1069), [(2, 1)]);
        assert_eq!(visit(60, 1070), [(1, 0)]);
        assert_eq!(visit(10, 1050), [(1, 0)]);
        assert_eq!(visit(60, 1109), [(1, 0)]);
        assert_eq!(visit(60, 1110), []);
    }

    #[test]
    fn a_light_client_forgets_requests_older_than_ten_minutes() {
        for (second, activities) in [(1000 + TARGET_SECS - 1, 1), (1000 + TARGET_SECS, 0)] {
            let mut table = clients(100);
            (0..LIGHT_REQUESTS).for_each(|_| add(&mut table, 1, 1000, &page(1)));
            (0..LIGHT_REQUESTS).for_each(|_| add(&mut table, 1, second, &page(1)));
            assert_eq!(table.usage().activities, activities, "at {second}");
        }
    }

    #[test]
    fn quiet_clients_are_removed() {
        let mut table = clients(100);
        add(&mut table, 1, 1000, &page(1));
        add(&mut table, 2, 1500, &page(1));
        table.sweep(1599);
        assert_eq!(table.usage().clients, 2);
        table.sweep(1600);
        assert_eq!((requests(&table, 1), requests(&table, 2)), (None, Some(1)));
    }

    proptest! {
        /// A light client is weighed as it would be with an activity.
        #[test]
        fn a_light_clients_balance_is_that_of_its_activity(
            asked in prop::collection::vec((0u32..3, 0u32..90, 0u8..3, 0usize..4), 1..=LIGHT_REQUESTS),
        ) {
            let (mut clients, mut second) = (clients(4), 1000);
            for (key, ahead, weight, kind) in asked {
                second += ahead;
                let flags = [Flags::default(), Flags::ASSET, Flags::FAILED, Flags::EMBEDDED][kind];
                add(&mut clients, 1, second, &Trace { key, flags, weight, answer: 0 });
            }
            let record = &clients.records[0];
            prop_assert_eq!(record.activity, NO_ACTIVITY);
            prop_assert_eq!(record.light_balance(), Balance::of(&clients.activity_of(record)));
        }

        #[test]
        fn the_table_equals_a_map(steps in prop::collection::vec((0u128..40, 0u32..8, 0u32..90), 1..400)) {
            let mut table = clients(1000);
            let mut model = std::collections::BTreeMap::<u128, Vec<u32>>::new();
            let mut now = 1000;
            for (key, kind, ahead) in steps {
                match kind {
                    0 => { table.forget(key); model.remove(&key); }
                    1 => { now += ahead; }
                    _ => { add(&mut table, key, now, &page(kind)); model.entry(key).or_default().push(now); }
                }
            }
            for key in 0..40 {
                let expected = model.get(&key).map(|seconds| {
                    let last = *seconds.iter().max().unwrap();
                    seconds.iter().filter(|s| last - **s < WINDOW_SECS).count() as u32
                });
                prop_assert_eq!(requests(&table, key), expected, "client {}", key);
            }
        }
    }
}
