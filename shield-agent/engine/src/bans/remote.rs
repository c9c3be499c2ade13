//! The table of what others want banned: one entry for each origin and client.
//!
//! One writer an entry, so there are no conflicts: what is banned is the union over the origins, and it ends when the last
//! origin's entry ends. The table knows no ledger and bans nobody; `crate::remote` brings the ledger up to it.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::settings::RemoteSettings;
use crate::vocab::client::Client;
use crate::vocab::remote::{Origin, OriginKind};
use crate::vocab::time::{Ends, Now};

/// Origins at most; further ones are not heard.
const MAX_ORIGINS: usize = 1_024;
/// Lifts kept at most. Beyond it the oldest are forgotten.
const MAX_LIFTS: usize = 20_000;
/// An operator's unban holds for this long, so that a host that was away for a day lets go too.
pub(crate) const LIFT_MS: i64 = 24 * 3_600_000;
/// What is left of the differences between clocks: a ban made this long after a lift may still be the lifted one.
const LIFT_TOLERANCE_MS: i64 = 10_000;
/// A withdrawal is remembered for this long, so that an older statement that arrives after it bans nobody.
const WITHDRAWN_KEPT_MS: u64 = 3_600_000;
/// An origin that went over a limit of number is heard fully again after so long within it.
const LIMITED_MS: u64 = 600_000;
/// An origin that wanted too many good clients banned is trusted again after so long, unless it does so again.
const HARM_MS: i64 = 3_600_000;
/// What arrives out of order does so within this time.
const COMPLETE_GRACE_MS: u64 = 30_000;
/// Clients of an origin remembered without an entry, at most.
const MAX_OTHERS: usize = 100_000;
/// The span over which good clients that an origin wants banned are counted.
const HARM_SPAN_MS: u64 = 600_000;
/// That many good clients are never too many.
const LEAST_HARM: usize = 10;
/// Clients of a list at most. Lists are the operator's own choice, so that only their size is limited.
pub const MAX_LISTED: usize = 500_000;
/// Unbans of one origin per minute. Operators need no more; whoever took a host over could lift every ban.
const MAX_LIFTS_PER_MIN: usize = 60;
const MINUTE_MS: u64 = 60_000;

/// An origin's number in the table.
pub(crate) type OriginId = u16;

/// What one origin says about one client.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    stamp: u64,
    /// On this host's wall clock, like every time here.
    pub since_ms: i64,
    /// The end as the origin wants it; `None` for a permanent ban.
    pub ends_ms: Option<i64>,
    /// The end as this host grants it: no later than the longest term from when it was last heard.
    pub until: Ends,
    /// The grounds, in the origin's words.
    pub why: String,
    /// Whether it counts: the origin kept its limits when it said so.
    pub is_counted: bool,
    /// It bans nobody, and makes a client suspect.
    pub is_suspicion: bool,
    heard_ms: i64,
    saved_heard_ms: i64,
}

/// An entry as it is saved.
#[derive(Debug, Serialize, Deserialize)]
struct SavedEntry {
    since_ms: i64,
    ends_ms: Option<i64>,
    heard_ms: i64,
    why: String,
    is_counted: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    is_suspicion: bool,
}

/// Why nothing that an origin says counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Distrust {
    /// It wanted too many of this host's good clients banned; until then, on the wall clock.
    Harm { until_ms: i64 },
    /// An operator of this host said so.
    Operator,
}

/// An operator's unban.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoteLift {
    /// On this host's wall clock.
    pub at_ms: i64,
    /// `None` when it was on this host.
    pub origin: Option<String>,
    pub note: Option<String>,
}

/// One origin.
#[derive(Debug, Clone)]
pub struct OriginState {
    pub origin: Origin,
    latest: u64,
    floor: u64,
    /// When it was heard last, on the wall clock.
    pub heard_ms: i64,
    /// Clients that it wants banned now.
    pub entries: usize,
    /// Those of them that count.
    pub counted: usize,
    pub distrust: Option<Distrust>,
    /// Set while it is over a limit of number, which it was at this moment on the boot clock.
    limited_ms: Option<u64>,
    minute: u64,
    new_in_minute: usize,
    lifts_in_minute: usize,
    hits: BTreeMap<Client, u64>,
    /// The stamps of what was heard and not kept, so that a complete restatement is known for one.
    others: BTreeMap<Client, u64>,
    /// The last complete restatement that is still to be compared with: its stamp, its bans, and when, on the boot clock.
    complete: Option<(u64, u64, u64)>,
    /// Statements about clients that this host's allowlist protects, since the start.
    pub vetoed: u64,
    /// Statements about networks that were not accepted, since the start.
    pub refused_networks: u64,
}

impl OriginState {
    fn new(origin: Origin) -> OriginState {
        OriginState {
            origin,
            latest: 0,
            floor: 0,
            heard_ms: 0,
            entries: 0,
            counted: 0,
            distrust: None,
            limited_ms: None,
            minute: 0,
            new_in_minute: 0,
            lifts_in_minute: 0,
            hits: BTreeMap::new(),
            others: BTreeMap::new(),
            complete: None,
            vetoed: 0,
            refused_networks: 0,
        }
    }

    pub fn is_limited(&self) -> bool {
        self.limited_ms.is_some()
    }

    fn turn_minute(&mut self, now: Now) {
        let minute = now.boot_ms / MINUTE_MS;
        if minute != self.minute {
            (self.minute, self.new_in_minute, self.lifts_in_minute) = (minute, 0, 0);
        }
    }
}

/// An origin as it is saved.
#[derive(Debug, Serialize, Deserialize)]
struct SavedOrigin {
    origin: String,
    latest: u64,
    floor: u64,
    heard_ms: i64,
    distrust: Option<Distrust>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct SavedState {
    origins: Vec<SavedOrigin>,
    lifts: Vec<(Client, RemoteLift)>,
    position: Option<String>,
}

/// A limit that an origin went over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Over {
    Minute,
    Live,
    Lifts,
    Listed,
}

/// What the origins want of one client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Wants {
    /// The latest end.
    pub until: Option<Ends>,
    /// Origins that count.
    pub origins: usize,
    /// The kind that says most about the client: a host saw it, a list need not have.
    pub kind: Option<OriginKind>,
    /// Something speaks against the client that is not enough for a ban.
    pub is_suspected: bool,
}

#[derive(Debug, Default)]
pub struct Remotes {
    origins: Vec<OriginState>,
    ids: BTreeMap<Origin, OriginId>,
    entries: BTreeMap<(Client, OriginId), Entry>,
    /// Ends on the boot clock.
    deadlines: BTreeSet<(u64, Client, OriginId)>,
    /// Withdrawn entries: the stamp, and when it was heard on the boot clock.
    withdrawn: BTreeMap<(Client, OriginId), (u64, u64)>,
    lifts: BTreeMap<Client, RemoteLift>,
    position: Option<String>,
    is_changed: bool,
}

impl Remotes {
    /// The origin's number; `None` when there are too many.
    pub(crate) fn id(&mut self, origin: &Origin) -> Option<OriginId> {
        if let Some(id) = self.ids.get(origin) {
            return Some(*id);
        }
        if self.origins.len() >= MAX_ORIGINS {
            return None;
        }
        let id = self.origins.len() as OriginId;
        self.origins.push(OriginState::new(origin.clone()));
        self.ids.insert(origin.clone(), id);
        self.is_changed = true;
        Some(id)
    }

    pub(crate) fn known_id(&self, origin: &Origin) -> Option<OriginId> {
        self.ids.get(origin).copied()
    }

    pub(crate) fn state(&self, id: OriginId) -> &OriginState {
        &self.origins[usize::from(id)]
    }

    pub(crate) fn state_mut(&mut self, id: OriginId) -> &mut OriginState {
        self.is_changed = true;
        &mut self.origins[usize::from(id)]
    }

    /// Every origin that was ever heard, in the order of their names.
    pub fn origins(&self) -> impl Iterator<Item = &OriginState> {
        self.ids.values().map(|id| self.state(*id))
    }

    /// The stamp of the latest statement of an origin; 0 for none.
    pub fn latest_stamp(&self, origin: &Origin) -> u64 {
        self.known_id(origin).map_or(0, |id| self.state(id).latest)
    }

    /// What the origins say about a client.
    pub fn of(&self, client: Client) -> impl Iterator<Item = (&OriginState, &Entry)> {
        let range = (client, OriginId::MIN)..=(client, OriginId::MAX);
        self.entries.range(range).map(|((_, id), entry)| (self.state(*id), entry))
    }

    pub fn lift_of(&self, client: Client) -> Option<&RemoteLift> {
        self.lifts.get(&client)
    }

    /// The unbans of this host's operators that others are still to be told.
    pub fn own_lifts(&self) -> impl Iterator<Item = (Client, &RemoteLift)> {
        let own = |(client, lift): (&Client, _)| (*client, lift);
        self.lifts.iter().map(own).filter(|(_, lift): &(_, &RemoteLift)| lift.origin.is_none())
    }

    pub fn position(&self) -> Option<&str> {
        self.position.as_deref()
    }

    /// Entries of all origins.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether nobody was heard and nobody is to be told anything: the passing of time changes nothing.
    pub(crate) fn has_nothing_to_settle(&self) -> bool {
        self.origins.is_empty() && self.lifts.is_empty() && self.withdrawn.is_empty() && !self.is_changed
    }

    pub(crate) fn set_position(&mut self, position: String) {
        self.position = Some(position);
        self.is_changed = true;
    }

    /// Notes that an origin was heard. Returns whether the statement can be newer than what is known of all its clients.
    pub(crate) fn hears(&mut self, id: OriginId, stamp: u64, now: Now) -> bool {
        let state = self.state_mut(id);
        state.heard_ms = now.wall_ms;
        state.latest = state.latest.max(stamp);
        stamp >= state.floor
    }

    /// Whether a statement about a client is newer than the last one.
    pub(crate) fn is_news(&self, client: Client, id: OriginId, stamp: u64) -> bool {
        let at = (client, id);
        if self.state(id).others.get(&client).is_some_and(|known| *known >= stamp) {
            return false;
        }
        self.entries.get(&at).is_none_or(|entry| entry.stamp < stamp)
            && self.withdrawn.get(&at).is_none_or(|(known, _)| *known < stamp)
    }

    pub(crate) fn entry(&self, client: Client, id: OriginId) -> Option<&Entry> {
        self.entries.get(&(client, id))
    }

    /// The limit of number that one more entry would break; a broken one is remembered.
    pub(crate) fn over_limit(
        &mut self,
        id: OriginId,
        settings: &RemoteSettings,
        is_replayed: bool,
        now: Now,
    ) -> Option<Over> {
        let state = self.state_mut(id);
        if state.origin.kind() != OriginKind::Fleet {
            return (state.counted >= MAX_LISTED).then_some(Over::Listed);
        }
        state.turn_minute(now);
        let over = if state.counted >= settings.max_live {
            Some(Over::Live)
        } else if !is_replayed && (state.new_in_minute >= settings.max_new_per_min || state.is_limited()) {
            Some(Over::Minute)
        } else {
            None
        };
        if !is_replayed {
            state.new_in_minute += 1;
        }
        let is_breach = over == Some(Over::Live) || state.new_in_minute > settings.max_new_per_min;
        if over.is_some() && is_breach {
            state.limited_ms = Some(now.boot_ms);
        }
        over
    }

    /// The same for an unban.
    pub(crate) fn over_lift_limit(&mut self, id: OriginId, now: Now) -> Option<Over> {
        let state = self.state_mut(id);
        state.turn_minute(now);
        state.lifts_in_minute += 1;
        if state.lifts_in_minute <= MAX_LIFTS_PER_MIN {
            return None;
        }
        state.limited_ms = Some(now.boot_ms);
        Some(Over::Lifts)
    }

    /// Counts a good client that an origin wants banned. Returns their number when that is too many.
    pub(crate) fn harms(&mut self, id: OriginId, client: Client, most: usize, now: Now) -> Option<usize> {
        let state = self.state_mut(id);
        state.hits.retain(|_, at| *at + HARM_SPAN_MS > now.boot_ms);
        state.hits.insert(client, now.boot_ms);
        let hits = state.hits.len();
        if hits <= most.max(LEAST_HARM) {
            return None;
        }
        // Counted anew, so that one that goes on stays out.
        state.hits.clear();
        if state.distrust != Some(Distrust::Operator) {
            state.distrust = Some(Distrust::Harm { until_ms: now.wall_ms + HARM_MS });
        }
        Some(hits)
    }

    /// The clients that an origin speaks about.
    pub(crate) fn clients_of(&self, id: OriginId) -> Vec<Client> {
        self.entries.keys().filter(|(_, of)| *of == id).map(|(client, _)| *client).collect()
    }

    /// Takes in a statement. Returns whether it has to be saved.
    pub(crate) fn put(&mut self, client: Client, id: OriginId, new: NewEntry, now: Now) -> bool {
        let at = (client, id);
        let old = self.entries.remove(&at);
        let NewEntry { stamp, since_ms, ends_ms, until, why, is_counted, is_suspicion } = new;
        let half_ms = until.remaining_ms(now).unwrap_or(0) as i64 / 2;
        let is_saved = old.as_ref().is_some_and(|old| {
            let is_same_end = match (old.ends_ms, ends_ms) {
                (Some(old), Some(new)) => (old - new).abs() < 2_000,
                (old, new) => old == new,
            };
            let is_same_weight = old.is_counted == is_counted && old.is_suspicion == is_suspicion;
            let is_same = is_same_end && old.why == why && is_same_weight;
            is_same && now.wall_ms - old.saved_heard_ms < half_ms.max(1)
        });
        let saved_heard_ms = match &old {
            Some(old) if is_saved => old.saved_heard_ms,
            _ => now.wall_ms,
        };
        self.withdrawn.remove(&at);
        self.forget_deadline(at, old.as_ref());
        if let Ends::At { boot_ms, .. } = until {
            self.deadlines.insert((boot_ms, client, id));
        }
        let state = self.state_mut(id);
        state.entries += usize::from(old.is_none());
        state.counted -= usize::from(old.is_some_and(|old| old.is_counted));
        state.counted += usize::from(is_counted);
        let heard_ms = now.wall_ms;
        let entry = Entry {
            stamp,
            since_ms,
            ends_ms,
            until,
            why,
            is_counted,
            is_suspicion,
            heard_ms,
            saved_heard_ms,
        };
        self.entries.insert(at, entry);
        !is_saved
    }

    /// Takes an entry out. Returns whether there was one.
    pub(crate) fn remove(&mut self, client: Client, id: OriginId) -> bool {
        let Some(old) = self.entries.remove(&(client, id)) else { return false };
        self.forget_deadline((client, id), Some(&old));
        let state = self.state_mut(id);
        state.entries -= 1;
        state.counted -= usize::from(old.is_counted);
        true
    }

    /// The same, for a withdrawal.
    pub(crate) fn withdraw(&mut self, client: Client, id: OriginId, stamp: u64, now: Now) -> bool {
        if !self.is_news(client, id, stamp) {
            return false;
        }
        self.withdrawn.insert((client, id), (stamp, now.boot_ms));
        self.remove(client, id)
    }

    /// Notes that a statement was heard that has no entry.
    pub(crate) fn heard_without_entry(&mut self, client: Client, id: OriginId, stamp: u64) {
        let others = &mut self.state_mut(id).others;
        if others.len() < MAX_OTHERS {
            others.insert(client, stamp);
        }
    }

    /// Notes that an origin has stated all its bans.
    pub(crate) fn complete(&mut self, id: OriginId, stamp: u64, bans: u64, now: Now) {
        let state = self.state_mut(id);
        if state.complete.is_none_or(|(known, ..)| known < stamp) {
            state.complete = Some((stamp, bans, now.boot_ms + COMPLETE_GRACE_MS));
        }
    }

    /// Takes out at most `limit` entries that origins did not state again, and returns them. Where a statement was missed,
    /// nothing is: it may be the missing one.
    pub(crate) fn sweep(&mut self, now: Now, limit: usize) -> Vec<(Client, OriginId)> {
        let mut over = Vec::new();
        for id in 0..self.origins.len() as OriginId {
            let state = self.state(id);
            let Some((stamp, bans, _)) = state.complete.filter(|(.., due)| *due <= now.boot_ms) else {
                continue;
            };
            let others = state.others.values().filter(|known| **known >= stamp).count();
            let entries =
                self.entries.iter().filter(|((_, of), entry)| *of == id && entry.stamp >= stamp).count();
            let room = limit - over.len();
            let taken =
                if (entries + others) as u64 >= bans { self.take_older(id, stamp, room) } else { Vec::new() };
            over.extend(taken.into_iter().map(|client| (client, id)));
            if over.len() >= limit {
                // The rest at the next turn.
                break;
            }
            self.state_mut(id).complete = None;
        }
        over
    }

    fn take_older(&mut self, id: OriginId, stamp: u64, limit: usize) -> Vec<Client> {
        let state = self.state_mut(id);
        state.floor = state.floor.max(stamp);
        state.others.retain(|_, known| *known >= stamp);
        let is_over = |((_, of), entry): &(&(Client, OriginId), &Entry)| *of == id && entry.stamp < stamp;
        let over = self.entries.iter().filter(is_over).map(|((client, _), _)| *client);
        let over: Vec<Client> = over.take(limit).collect();
        over.iter().for_each(|client| {
            self.remove(*client, id);
        });
        self.withdrawn.retain(|(_, of), (known, _)| *of != id || *known >= stamp);
        over
    }

    /// Takes out at most `limit` entries whose end has come.
    pub(crate) fn expire(&mut self, now: Now, limit: usize) -> Vec<(Client, OriginId)> {
        let mut due = Vec::new();
        while due.len() < limit {
            let Some(&(at_ms, client, id)) = self.deadlines.first() else { break };
            if at_ms > now.boot_ms {
                break;
            }
            let stamp = self.entry(client, id).map_or(0, |entry| entry.stamp);
            self.remove(client, id);
            self.heard_without_entry(client, id, stamp);
            due.push((client, id));
        }
        due
    }

    /// What the origins want of a client now.
    pub(crate) fn wants(&self, client: Client, now: Now) -> Wants {
        let lifted_ms = self.lifts.get(&client).map(|lift| lift.at_ms + LIFT_TOLERANCE_MS);
        let mut wants = Wants::default();
        let mut has_listed = false;
        for (state, entry) in self.of(client) {
            let is_lifted = lifted_ms.is_some_and(|lifted| entry.since_ms <= lifted);
            if !entry.is_counted || state.distrust.is_some() || is_lifted || entry.until.is_past(now) {
                continue;
            }
            if entry.is_suspicion {
                wants.is_suspected = true;
                continue;
            }
            // Lists copy from each other: together they are one voice.
            let is_listed = state.origin.kind() != OriginKind::Fleet;
            wants.origins += usize::from(!(is_listed && has_listed));
            has_listed |= is_listed;
            wants.kind = wants.kind.into_iter().chain([state.origin.kind()]).min();
            wants.until = Some(match (wants.until, entry.until) {
                (None, until) => until,
                (Some(a), b) => later(a, b),
            });
        }
        wants
    }

    /// Notes an operator's unban.
    pub(crate) fn lift(&mut self, client: Client, lift: RemoteLift) {
        if self.lifts.len() >= MAX_LIFTS && !self.lifts.contains_key(&client) {
            let oldest = self.lifts.iter().min_by_key(|(client, lift)| (lift.at_ms, **client));
            if let Some(oldest) = oldest.map(|(client, _)| *client) {
                self.lifts.remove(&oldest);
            }
        }
        self.lifts.insert(client, lift);
        self.is_changed = true;
    }

    /// What a minute's passing brings. Returns the origins that are trusted again.
    pub(crate) fn each_minute(&mut self, now: Now) -> Vec<OriginId> {
        let before = self.lifts.len();
        self.lifts.retain(|_, lift| lift.at_ms + LIFT_MS > now.wall_ms);
        self.is_changed |= self.lifts.len() != before;
        self.withdrawn.retain(|_, (_, at)| *at + WITHDRAWN_KEPT_MS > now.boot_ms);
        let mut trusted = Vec::new();
        for (id, state) in self.origins.iter_mut().enumerate() {
            let is_over =
                matches!(state.distrust, Some(Distrust::Harm { until_ms }) if until_ms <= now.wall_ms);
            let is_within = state.limited_ms.is_some_and(|at| at + LIMITED_MS <= now.boot_ms);
            if is_over {
                state.distrust = None;
            }
            if is_within {
                state.limited_ms = None;
            }
            if is_over || is_within {
                self.is_changed = true;
                trusted.push(id as OriginId);
            }
        }
        trusted
    }

    fn forget_deadline(&mut self, (client, id): (Client, OriginId), old: Option<&Entry>) {
        if let Some(Entry { until: Ends::At { boot_ms, .. }, .. }) = old {
            self.deadlines.remove(&(*boot_ms, client, id));
        }
    }

    /// The entry in the form in which it is saved.
    pub(crate) fn saved_entry(&self, client: Client, id: OriginId) -> Option<Vec<u8>> {
        let Entry { since_ms, ends_ms, heard_ms, why, is_counted, is_suspicion, .. } =
            self.entry(client, id)?.clone();
        serde_json::to_vec(&SavedEntry { since_ms, ends_ms, heard_ms, why, is_counted, is_suspicion }).ok()
    }

    /// Everything but the entries, in the form in which it is saved; `None` when it did not change.
    pub(crate) fn changed(&mut self) -> Option<Vec<u8>> {
        if !std::mem::take(&mut self.is_changed) {
            return None;
        }
        let saved = |state: &OriginState| SavedOrigin {
            origin: state.origin.to_string(),
            latest: state.latest,
            floor: state.floor,
            heard_ms: state.heard_ms,
            distrust: state.distrust,
        };
        let state = SavedState {
            origins: self.origins.iter().map(saved).collect(),
            lifts: self.lifts.iter().map(|(client, lift)| (*client, lift.clone())).collect(),
            position: self.position.clone(),
        };
        serde_json::to_vec(&state).ok()
    }

    pub(crate) fn restore_state(&mut self, saved: &[u8]) -> Result<(), serde_json::Error> {
        let SavedState { origins, lifts, position } = serde_json::from_slice(saved)?;
        for saved in origins {
            let Some(id) = Origin::parse(&saved.origin).and_then(|origin| self.id(&origin)) else { continue };
            let state = self.state_mut(id);
            (state.latest, state.floor) = (saved.latest, saved.floor);
            (state.heard_ms, state.distrust) = (saved.heard_ms, saved.distrust);
        }
        self.lifts = lifts.into_iter().collect();
        self.position = position;
        self.is_changed = false;
        Ok(())
    }

    /// Restores an entry. It outlives what it was granted by no restart; over-old ones are left out.
    ///
    /// Its stamp is not saved, because it grows with every restatement: it counts as stated with the latest statement of its
    /// origin that was heard before the restart.
    pub(crate) fn restore_entry(
        &mut self,
        origin: &Origin,
        client: Client,
        saved: &[u8],
        settings: &RemoteSettings,
        now: Now,
    ) -> Result<bool, serde_json::Error> {
        let SavedEntry { since_ms, ends_ms, heard_ms, why, is_counted, is_suspicion } =
            serde_json::from_slice(saved)?;
        let Some(id) = self.id(origin) else { return Ok(false) };
        let wanted_ms = ends_ms.map(|ends| ends - now.wall_ms);
        // A clock that was set back grants no more than a term.
        let granted_ms =
            settings.max_term_ms(origin.kind()).map(|most| (heard_ms - now.wall_ms).min(0) + most);
        let left_ms = match (wanted_ms, granted_ms) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        if left_ms.is_some_and(|left| left <= 0) {
            return Ok(false);
        }
        let until = left_ms.map_or(Ends::Never, |left| Ends::after(now, left as u64));
        let stamp = self.state(id).latest;
        let entry = NewEntry { stamp, since_ms, ends_ms, until, why, is_counted, is_suspicion };
        self.put(client, id, entry, now);
        if let Some(entry) = self.entries.get_mut(&(client, id)) {
            (entry.heard_ms, entry.saved_heard_ms) = (heard_ms, heard_ms);
        }
        Ok(true)
    }
}

/// A statement about a client, on this host's clock.
#[derive(Debug)]
pub(crate) struct NewEntry {
    pub stamp: u64,
    pub since_ms: i64,
    pub ends_ms: Option<i64>,
    pub until: Ends,
    pub why: String,
    pub is_counted: bool,
    pub is_suspicion: bool,
}

fn later(a: Ends, b: Ends) -> Ends {
    match (a, b) {
        (Ends::At { boot_ms: x, .. }, Ends::At { boot_ms: y, .. }) => {
            if x >= y {
                a
            } else {
                b
            }
        }
        _ => Ends::Never,
    }
}
