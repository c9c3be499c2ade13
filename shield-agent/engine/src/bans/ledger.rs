//! The authoritative table of bans and offences.
//!
//! A ban is a slot with a serial number. Deadlines and the outcomes of enforcers carry that number, so that a late one
//! of an older ban never touches a newer one. Offences are kept apart from bans, so that lifting a ban does not forget
//! the level of the next one.
//!
//! Made for millions: a ban takes 27 bytes in `slots` and 4.6 in the index, and nothing for its deadline (`moments`).

mod moments;
mod slots;

use std::collections::BTreeMap;
use std::hash::BuildHasher;
use std::num::NonZeroU32;

use self::moments::{CHUNK, Moments, NEVER};
use self::slots::Slots;
use crate::bans::allowlist::BannableClient;
use crate::bans::backoff::Backoff;
use crate::bans::slot_index::SlotIndex;
use crate::seeded_map::{SeededMap, SeededState};
use crate::vocab::action::LiftReason;
use crate::vocab::ban::{Ban, Place};
use crate::vocab::client::Client;
use crate::vocab::event::EnforcerName;
use crate::vocab::time::{Ends, Now};
use crate::vocab::verdict::Rule;

/// Offences kept at most; beyond it the oldest tenth is forgotten.
const MAX_OFFENDERS: usize = 2_000_000;

/// A ban in force or being lifted, and the enforcers that hold it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LedgerEntry {
    pub ban: Ban,
    /// Set once the ban is being lifted.
    pub lifting: Option<LiftReason>,
    /// The enforcers that hold it, as bits by `EnforcerName`.
    held: u8,
    /// Its drops are to be sampled before its end, and were not yet.
    sampled: bool,
    /// The seconds from its start until the first enforcer held it; for a restored ban that none holds yet, until one should.
    in_force_after_secs: u32,
}

/// A restored ban may be in force this long after the start: an enforcer is set up first, and there may be a million of them.
const RESTORED_WITHIN_SECS: i64 = 60;

impl LedgerEntry {
    pub fn is_held_by(&self, enforcer: EnforcerName) -> bool {
        self.held & bit(enforcer) != 0
    }

    /// The second from which the client's packets should have been dropped.
    pub fn in_force_from(&self) -> i64 {
        self.started_at() + i64::from(self.in_force_after_secs)
    }

    fn started_at(&self) -> i64 {
        self.ban.since_ms.div_euclid(1000)
    }

    fn set_in_force_from(&mut self, secs: i64) {
        self.in_force_after_secs = u32::try_from((secs - self.started_at()).max(0)).unwrap_or(u32::MAX);
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Finished {
    pub ban: Ban,
    pub reason: LiftReason,
}

/// A sample of a ban's drops that is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct DueSample {
    pub at_ms: u64,
    pub serial: u64,
    pub client: Client,
}

pub struct Ledger {
    backoff: Backoff,
    /// Slots by client.
    index: SlotIndex,
    hasher: SeededState,
    slots: Slots,
    /// When bans end, of those that are not being lifted.
    ends: Moments,
    /// When bans are to be sampled.
    samples: Moments,
    networks: Networks,
    offences: SeededMap<Client, Offences>,
    next_serial: u64,
    ipv6_prefix: u8,
    lifting: usize,
    permanent: usize,
}

#[derive(Debug, Clone, Copy)]
struct Offences {
    count: NonZeroU32,
    last_secs: i64,
}

impl Ledger {
    /// An empty ledger; serial numbers go on from `next_serial`, tables are spread by `hasher`.
    pub(crate) fn new(backoff: Backoff, ipv6_prefix: u8, next_serial: u64, hasher: SeededState) -> Ledger {
        Ledger {
            backoff,
            index: SlotIndex::default(),
            hasher,
            slots: Slots::default(),
            ends: Moments::new(),
            samples: Moments::new(),
            networks: Networks::new(hasher),
            offences: SeededMap::with_hasher(hasher),
            next_serial: next_serial.max(1),
            ipv6_prefix,
            lifting: 0,
            permanent: 0,
        }
    }

    /// Makes room for so many more bans at once: tables that grow step by step are copied each time, and hold both copies then.
    pub(crate) fn reserve(&mut self, bans: usize) {
        let (hasher, slots) = (&self.hasher, &self.slots);
        self.index.reserve(bans, |slot| hasher.hash_one(slots.client(slot)));
        self.slots.reserve(bans);
    }

    /// Says that this client's ban will be looked for soon.
    pub(crate) fn prefetch(&self, client: Client) {
        self.index.prefetch(self.hasher.hash_one(client));
    }

    /// Changes the terms of bans to come.
    pub(crate) fn set_backoff(&mut self, backoff: Backoff) {
        self.backoff = backoff;
    }

    pub fn lifting_count(&self) -> usize {
        self.lifting
    }

    pub fn permanent_count(&self) -> usize {
        self.permanent
    }

    /// Bans in force or being lifted.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Every ban, in no particular order, but the same in every process.
    pub fn entries(&self) -> impl DoubleEndedIterator<Item = LedgerEntry> + ExactSizeIterator {
        self.entries_at(0..self.len())
    }

    /// The bans at these positions of [`Ledger::entries`], as far as there are any. A removal moves the last ban into the gap, and
    /// nothing else moves.
    pub fn entries_at(
        &self,
        positions: std::ops::Range<usize>,
    ) -> impl DoubleEndedIterator<Item = LedgerEntry> + ExactSizeIterator {
        let end = positions.end.min(self.len()) as u32;
        let from = (positions.start as u32).min(end);
        (from..end).map(|slot| self.slots.get(slot))
    }

    /// The ban of exactly this client or network.
    pub fn get(&self, client: Client) -> Option<LedgerEntry> {
        self.slot_of(client).map(|slot| self.slots.get(slot))
    }

    /// The ban that drops this client: its own, or that of a network around it. A ban being lifted does not count.
    #[inline]
    pub fn ban_over(&self, client: Client) -> Option<Ban> {
        if self.is_empty() { None } else { self.find_ban_over(client) }
    }

    fn find_ban_over(&self, client: Client) -> Option<Ban> {
        let active = |client| self.get(client).filter(|entry| entry.lifting.is_none()).map(|entry| entry.ban);
        active(client).or_else(|| self.networks.over(client).find_map(active))
    }

    /// Starts a ban. It replaces the client's older one.
    pub fn ban(
        &mut self,
        client: BannableClient,
        ends: Ends,
        rule: Rule,
        offence: Option<NonZeroU32>,
        place: Place,
        now: Now,
    ) -> Ban {
        let (client, serial) = (client.client(), self.take_serial());
        let ban = Ban { client, serial, since_ms: now.wall_ms, ends, offence, rule, place };
        let held = self.get(client).map_or(0, |old| old.held);
        self.put(LedgerEntry { ban, lifting: None, held, sampled: false, in_force_after_secs: 0 });
        ban
    }

    /// Restores a ban of an earlier run.
    pub fn restore(&mut self, client: BannableClient, saved: Ban, now: Now) {
        self.next_serial = self.next_serial.max(saved.serial + 1);
        let ban = Ban { client: client.client(), ..saved };
        let mut entry = LedgerEntry { ban, lifting: None, held: 0, sampled: false, in_force_after_secs: 0 };
        entry.set_in_force_from(now.wall_secs() + RESTORED_WITHIN_SECS);
        self.put(entry);
    }

    /// Moves the end of a ban, under a new serial number. `None` when there is no such ban, or it is being lifted.
    pub fn extend(&mut self, client: Client, ends: Ends) -> Option<Ban> {
        let (slot, mut entry) = self.active(client)?;
        let old = std::mem::replace(&mut entry.ban.ends, ends);
        entry.ban.serial = self.take_serial();
        entry.sampled = false;
        self.permanent += usize::from(ends == Ends::Never);
        self.permanent -= usize::from(old == Ends::Never);
        self.set(slot, entry);
        Some(entry.ban)
    }

    /// Puts a ban into force everywhere. Its serial number stays: outcomes of the orders before are as good as those after.
    /// `None` when it is everywhere, when there is none, or when it is being lifted.
    pub fn widen(&mut self, client: Client) -> Option<Ban> {
        let (slot, mut entry) = self.active(client)?;
        if entry.ban.place.is_everywhere() {
            return None;
        }
        entry.ban.place = Place::Everywhere;
        self.set(slot, entry);
        Some(entry.ban)
    }

    /// Marks a ban as being lifted. `None` when there is none, or it was marked before.
    pub fn begin_lift(&mut self, client: Client, reason: LiftReason) -> Option<Ban> {
        let (slot, entry) = self.active(client)?;
        Some(self.begin_lift_of(slot, entry, reason))
    }

    fn begin_lift_of(&mut self, slot: u32, entry: LedgerEntry, reason: LiftReason) -> Ban {
        self.lifting += 1;
        self.set(slot, LedgerEntry { lifting: Some(reason), ..entry });
        entry.ban
    }

    /// Marks bans whose end has come as being lifted, at most `limit`, and returns them, those that ended first at the front. Where
    /// more are due, it may not be these that ended first.
    pub fn expire(&mut self, now: Now, limit: usize) -> Vec<Ban> {
        let due = take_due(&self.slots, &mut self.ends, end_of, now, limit);
        due.into_iter()
            .map(|(_, _, slot)| self.begin_lift_of(slot, self.slots.get(slot), LiftReason::Expired))
            .collect()
    }

    /// The next moment on the boot clock at which [`Ledger::expire`] may find something.
    pub fn next_deadline(&self) -> Option<u64> {
        self.ends.soonest()
    }

    /// Has the drops of a ban sampled, [`SAMPLE_LEAD_MS`] before its end.
    pub(crate) fn sample(&mut self, client: Client) {
        if let Some((slot, entry)) = self.active(client) {
            self.set(slot, LedgerEntry { sampled: true, ..entry });
        }
    }

    /// The next moment on the boot clock at which [`Ledger::due_samples`] may find something.
    pub(crate) fn next_sample(&self) -> Option<u64> {
        self.samples.soonest()
    }

    /// The samples that are due, each once, at most `limit`.
    pub(crate) fn due_samples(&mut self, now: Now, limit: usize) -> Vec<DueSample> {
        let due = take_due(&self.slots, &mut self.samples, sample_of, now, limit);
        due.into_iter()
            .map(|(at_ms, serial, slot)| {
                let entry = self.slots.get(slot);
                self.set(slot, LedgerEntry { sampled: false, ..entry });
                DueSample { at_ms, serial, client: entry.ban.client }
            })
            .collect()
    }

    /// Records that an enforcer drops this client. `false` when the outcome is of a ban that is not the current one.
    pub fn confirm_banned(&mut self, enforcer: EnforcerName, client: Client, serial: u64, now: Now) -> bool {
        let Some(slot) = self.slot_of(client) else { return false };
        let mut entry = self.slots.get(slot);
        if entry.held == 0 {
            entry.set_in_force_from(now.wall_secs());
        }
        entry.held |= bit(enforcer);
        self.slots.set(slot, &entry);
        entry.ban.serial == serial
    }

    /// Records that an enforcer could not drop this client.
    pub fn deny_banned(&mut self, enforcer: EnforcerName, client: Client, serial: u64) {
        if let Some(slot) = self.slot_of(client) {
            self.forget_held(slot, enforcer, serial);
        }
    }

    /// Returns the entry of the slot. The enforcer no longer holds it, if its serial number is this.
    fn forget_held(&mut self, slot: u32, enforcer: EnforcerName, serial: u64) -> LedgerEntry {
        let mut entry = self.slots.get(slot);
        if entry.ban.serial == serial {
            entry.held &= !bit(enforcer);
            self.slots.set(slot, &entry);
        }
        entry
    }

    /// Records that an enforcer no longer drops this client. Removes and returns the ban when `pending` waits for no
    /// other enforcer.
    pub fn confirm_lifted(
        &mut self,
        enforcer: EnforcerName,
        client: Client,
        serial: u64,
        pending: &mut Pending,
    ) -> Option<Finished> {
        let slot = self.slot_of(client)?;
        let LedgerEntry { ban, lifting, .. } = self.forget_held(slot, enforcer, serial);
        let reason = lifting.filter(|_| ban.serial == serial)?;
        if !pending.forgot(client, serial, enforcer) {
            return None;
        }
        self.remove(client);
        Some(Finished { ban, reason })
    }

    /// Removes a ban that is being lifted, without waiting for enforcers.
    pub fn finish_lift(&mut self, client: Client) -> Option<Finished> {
        let LedgerEntry { ban, lifting, .. } = self.get(client)?;
        let reason = lifting?;
        self.remove(client);
        Some(Finished { ban, reason })
    }

    /// Counts an offence, and returns the client's offences that count, this one included.
    pub fn add_offence(&mut self, client: Client, now: Now) -> NonZeroU32 {
        let count = self.next_offence(client, now);
        self.set_offences(client, count, now.wall_secs());
        count
    }

    /// The number of the client's next offence.
    pub fn next_offence(&self, client: Client, now: Now) -> NonZeroU32 {
        self.offences(client, now.wall_secs()).map_or(NonZeroU32::MIN, |count| count.saturating_add(1))
    }

    /// The client's offences that still count.
    pub fn offences(&self, client: Client, now_secs: i64) -> Option<NonZeroU32> {
        let offences = self.offences.get(&client)?;
        self.backoff.is_remembered(offences.last_secs, now_secs).then_some(offences.count)
    }

    /// Sets a client's offences.
    pub fn set_offences(&mut self, client: Client, count: NonZeroU32, last_secs: i64) {
        if self.offences.len() >= MAX_OFFENDERS && !self.offences.contains_key(&client) {
            self.forget_oldest();
        }
        self.offences.insert(client, Offences { count, last_secs });
    }

    pub fn forget_offences(&mut self, client: Client) {
        self.offences.remove(&client);
    }

    /// Removes offences that no longer count, and returns their clients in order.
    pub fn forget_old_offences(&mut self, now_secs: i64) -> Vec<Client> {
        let backoff = &self.backoff;
        let mut forgotten: Vec<Client> = self
            .offences
            .extract_if(|_, o| !backoff.is_remembered(o.last_secs, now_secs))
            .map(|(client, _)| client)
            .collect();
        forgotten.sort_unstable();
        forgotten
    }

    pub fn backoff(&self) -> &Backoff {
        &self.backoff
    }

    /// Banned networks, not single clients.
    pub fn network_count(&self) -> usize {
        self.networks.len()
    }

    fn forget_oldest(&mut self) {
        let mut moments: Vec<i64> = self.offences.values().map(|o| o.last_secs).collect();
        let tenth = moments.len() / 10;
        let (_, cut, _) = moments.select_nth_unstable(tenth);
        let cut = *cut;
        self.offences.retain(|_, o| o.last_secs > cut);
    }

    fn take_serial(&mut self) -> u64 {
        self.next_serial += 1;
        self.next_serial - 1
    }

    fn put(&mut self, entry: LedgerEntry) {
        self.permanent += usize::from(entry.ban.ends == Ends::Never);
        match self.slot_of(entry.ban.client) {
            Some(slot) => {
                let old = self.slots.get(slot);
                self.lifting -= usize::from(old.lifting.is_some());
                self.permanent -= usize::from(old.ban.ends == Ends::Never);
                self.set(slot, entry);
            }
            None => self.insert(entry),
        }
    }

    fn insert(&mut self, entry: LedgerEntry) {
        let (slot, client) = (self.len() as u32, entry.ban.client);
        self.slots.push(&entry);
        self.note_moments(slot, &entry);
        let (hasher, slots) = (&self.hasher, &self.slots);
        self.index.insert(hasher.hash_one(client), slot, |slot| hasher.hash_one(slots.client(slot)));
        if !client.is_single(self.ipv6_prefix) {
            self.networks.add(client);
        }
    }

    /// Replaces the entry of a client.
    fn set(&mut self, slot: u32, entry: LedgerEntry) {
        self.slots.set(slot, &entry);
        self.note_moments(slot, &entry);
    }

    fn note_moments(&mut self, slot: u32, entry: &LedgerEntry) {
        end_of(entry).into_iter().for_each(|at_ms| self.ends.note(slot as usize, at_ms));
        sample_of(entry).into_iter().for_each(|at_ms| self.samples.note(slot as usize, at_ms));
    }

    fn remove(&mut self, client: Client) {
        let Some(slot) = self.slot_of(client) else { return };
        let (hasher, slots) = (&self.hasher, &self.slots);
        let hash_of = |slot| hasher.hash_one(slots.client(slot));
        self.index.remove(hash_of(slot), slot, hash_of);
        let last = (slots.len() - 1) as u32;
        if slot != last {
            self.index.renumber(hash_of(last), last, slot);
            let moved = self.slots.get(last);
            self.note_moments(slot, &moved);
        }
        let gone = self.slots.get(slot);
        self.slots.swap_remove(slot);
        self.lifting -= usize::from(gone.lifting.is_some());
        self.permanent -= usize::from(gone.ban.ends == Ends::Never);
        if !client.is_single(self.ipv6_prefix) {
            self.networks.remove(client);
        }
    }

    fn slot_of(&self, client: Client) -> Option<u32> {
        self.index.find(self.hasher.hash_one(client), |slot| self.slots.client(slot) == client)
    }

    /// The client's ban, unless it is being lifted.
    fn active(&self, client: Client) -> Option<(u32, LedgerEntry)> {
        let slot = self.slot_of(client)?;
        let entry = self.slots.get(slot);
        entry.lifting.is_none().then_some((slot, entry))
    }
}

/// How long before a ban's end its drops are sampled.
pub(crate) const SAMPLE_LEAD_MS: u64 = 12_000;

/// When a ban ends; `None` when it is being lifted, or permanent.
fn end_of(entry: &LedgerEntry) -> Option<u64> {
    match entry.ban.ends {
        Ends::At { boot_ms, .. } if entry.lifting.is_none() => Some(boot_ms),
        _ => None,
    }
}

fn sample_of(entry: &LedgerEntry) -> Option<u64> {
    let is_sampled = entry.sampled;
    end_of(entry).filter(|_| is_sampled).map(|end| end.saturating_sub(SAMPLE_LEAD_MS))
}

/// The slots whose moment has come, with it and their serial numbers: at most `limit`, in order. The caller has to change them so that
/// they have no such moment any more.
fn take_due(
    slots: &Slots,
    moments: &mut Moments,
    moment: fn(&LedgerEntry) -> Option<u64>,
    now: Now,
    limit: usize,
) -> Vec<(u64, u64, u32)> {
    let mut taken = Vec::new();
    while taken.len() < limit
        && let Some(chunk) = moments.due(now.boot_ms)
    {
        let (mut due, mut later) = (Vec::new(), NEVER);
        for slot in chunk * CHUNK..slots.len().min((chunk + 1) * CHUNK) {
            let entry = slots.get(slot as u32);
            match moment(&entry) {
                Some(at_ms) if at_ms <= now.boot_ms => due.push((at_ms, entry.ban.serial, slot as u32)),
                Some(at_ms) => later = later.min(at_ms),
                None => {}
            }
        }
        due.sort_unstable();
        let room = limit - taken.len();
        let left = due.get(room).map_or(NEVER, |(at_ms, ..)| *at_ms);
        due.truncate(room);
        moments.set(chunk, later.min(left));
        taken.append(&mut due);
    }
    taken.sort_unstable();
    taken
}

/// The enforcers that lifts still wait for.
#[derive(Debug, Default)]
pub struct Pending {
    enforcers: u8,
    forgot: BTreeMap<Client, (u64, u8)>,
}

impl Pending {
    /// Lifts wait for every one of these.
    pub fn new(enforcers: &[EnforcerName]) -> Pending {
        Pending {
            enforcers: enforcers.iter().map(|e| bit(*e)).fold(0, |a, b| a | b),
            forgot: BTreeMap::new(),
        }
    }

    pub fn waits(&self) -> bool {
        self.enforcers != 0
    }

    /// Records that an enforcer no longer drops this client; `true` when it was the last one.
    fn forgot(&mut self, client: Client, serial: u64, enforcer: EnforcerName) -> bool {
        let (seen_serial, seen) = self.forgot.get(&client).copied().unwrap_or((serial, 0));
        let seen = if seen_serial == serial { seen | bit(enforcer) } else { bit(enforcer) };
        if seen & self.enforcers == self.enforcers {
            self.forgot.remove(&client);
            return true;
        }
        self.forgot.insert(client, (serial, seen));
        false
    }
}

/// Banned networks by prefix length, so that the network around an address is found with one look-up per length in use.
#[derive(Debug)]
struct Networks {
    by_length: BTreeMap<(bool, u8), SeededMap<Client, ()>>,
    hasher: SeededState,
}

impl Networks {
    fn new(hasher: SeededState) -> Networks {
        Networks { by_length: BTreeMap::new(), hasher }
    }

    fn len(&self) -> usize {
        self.by_length.values().map(SeededMap::len).sum()
    }

    fn length_of(client: Client) -> (bool, u8) {
        (client.network().addr().is_ipv6(), client.network().prefix_len())
    }

    fn add(&mut self, client: Client) {
        let set = self.by_length.entry(Self::length_of(client));
        set.or_insert_with(|| SeededMap::with_hasher(self.hasher)).insert(client, ());
    }

    fn remove(&mut self, client: Client) {
        let length = Self::length_of(client);
        if let Some(set) = self.by_length.get_mut(&length) {
            set.remove(&client);
            if set.is_empty() {
                self.by_length.remove(&length);
            }
        }
    }

    /// The banned networks around a client, longest prefix first.
    fn over(&self, client: Client) -> impl Iterator<Item = Client> {
        let (is_v6, own) = Self::length_of(client);
        let addr = client.network().addr();
        self.by_length.iter().rev().filter_map(move |(&(v6, length), set)| {
            let wider = v6 == is_v6 && length <= own;
            let net = wider.then(|| ipnet::IpNet::new(addr, length).ok()).flatten()?;
            set.get_key_value(&Client::of_network(net)).map(|(client, ())| *client)
        })
    }
}

fn bit(enforcer: EnforcerName) -> u8 {
    1 << (enforcer as u8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bans::allowlist::Allowlist;
    use proptest::prelude::*;

    const T0: Now = Now { wall_ms: 1_700_000_000_000, boot_ms: 50_000 };

    fn bannable(text: &str) -> BannableClient {
        Allowlist::default().admit(text.parse().unwrap(), 64).unwrap()
    }

    fn nth(offence: u32) -> Option<NonZeroU32> {
        NonZeroU32::new(offence)
    }

    fn ledger() -> Ledger {
        Ledger::new(Backoff::default(), 64, 1, SeededState::new(7))
    }

    #[test]
    fn an_old_deadline_never_ends_a_newer_ban() {
        let mut ledger = ledger();
        let client = bannable("192.0.2.1");
        ledger.ban(client, Ends::after(T0, 10_000), Rule::ZScore, nth(1), Place::Everywhere, T0);
        ledger.ban(
            client,
            Ends::after(T0, 90_000),
            Rule::ZScore,
            nth(2),
            Place::Everywhere,
            T0.plus_ms(5_000),
        );
        assert!(ledger.expire(T0.plus_ms(10_000), 10).is_empty());
        assert_eq!(ledger.expire(T0.plus_ms(90_000), 10).len(), 1);
    }

    #[test]
    fn the_offence_level_survives_the_lift() {
        let mut ledger = ledger();
        let client = bannable("192.0.2.1");
        let offence = ledger.add_offence(client.client(), T0);
        ledger.ban(client, Ends::after(T0, 1), Rule::ZScore, Some(offence), Place::Everywhere, T0);
        ledger.expire(T0.plus_ms(2), 10);
        ledger.finish_lift(client.client()).unwrap();
        assert!(ledger.is_empty());
        assert_eq!(ledger.add_offence(client.client(), T0.plus_ms(3)).get(), 2);
    }

    #[test]
    fn a_lift_is_finished_only_when_every_enforcer_has_forgotten() {
        let mut ledger = ledger();
        let mut pending = Pending::new(&EnforcerName::KERNEL);
        let client = bannable("192.0.2.1");
        let serial = ledger.ban(client, Ends::Never, Rule::Operator, None, Place::Everywhere, T0).serial;
        let c = client.client();
        assert!(ledger.confirm_banned(EnforcerName::Xdp, c, serial, T0));
        ledger.begin_lift(c, LiftReason::Operator).unwrap();
        assert_eq!(ledger.confirm_lifted(EnforcerName::Xdp, c, serial, &mut pending), None);
        assert_eq!(
            ledger.confirm_lifted(EnforcerName::Xdp, c, serial, &mut pending),
            None,
            "the same one twice"
        );
        let done = ledger.confirm_lifted(EnforcerName::Iptables, c, serial, &mut pending).unwrap();
        assert_eq!(done.reason, LiftReason::Operator);
        assert!(ledger.is_empty());
    }

    #[test]
    fn the_outcome_of_an_old_lift_does_not_touch_a_new_ban() {
        let mut ledger = ledger();
        let mut pending = Pending::new(&[EnforcerName::Xdp]);
        let client = bannable("192.0.2.1");
        let old = ledger.ban(client, Ends::Never, Rule::Operator, None, Place::Everywhere, T0).serial;
        ledger.begin_lift(client.client(), LiftReason::Operator).unwrap();
        ledger.ban(client, Ends::Never, Rule::Operator, None, Place::Everywhere, T0);
        assert_eq!(ledger.confirm_lifted(EnforcerName::Xdp, client.client(), old, &mut pending), None);
        assert!(ledger.ban_over(client.client()).is_some());
    }

    #[test]
    fn a_client_inside_a_banned_network_is_banned() {
        let mut ledger = ledger();
        ledger.ban(bannable("198.51.100.0/24"), Ends::Never, Rule::Operator, None, Place::Everywhere, T0);
        ledger.ban(bannable("2001:db8::/32"), Ends::Never, Rule::Operator, None, Place::Everywhere, T0);
        let over = |text: &str| ledger.ban_over(text.parse().unwrap()).map(|b| b.client.to_string());
        assert_eq!(over("198.51.100.9").as_deref(), Some("198.51.100.0/24"));
        assert_eq!(over("2001:db8:9:9::/64").as_deref(), Some("2001:db8::/32"));
        assert_eq!(over("198.51.101.9"), None);
        ledger.begin_lift("198.51.100.0/24".parse().unwrap(), LiftReason::Operator);
        ledger.finish_lift("198.51.100.0/24".parse().unwrap());
        assert_eq!(ledger.ban_over("198.51.100.9".parse().unwrap()), None);
        assert_eq!(ledger.network_count(), 1);
    }

    #[test]
    fn the_oldest_tenth_of_too_many_offences_is_forgotten() {
        let mut ledger = ledger();
        let client = |n: usize| Client::from(std::net::Ipv4Addr::from_bits(n as u32));
        let one = NonZeroU32::MIN;
        for n in 0..MAX_OFFENDERS {
            ledger.set_offences(client(n), one, n as i64);
        }
        ledger.set_offences(client(0), one, 0);
        assert_eq!(ledger.offences.len(), MAX_OFFENDERS, "a known client needs no room");
        ledger.set_offences(client(MAX_OFFENDERS), one, MAX_OFFENDERS as i64);
        assert_eq!(ledger.offences.len(), MAX_OFFENDERS - MAX_OFFENDERS / 10);
        assert_eq!(ledger.offences(client(MAX_OFFENDERS / 10), 0), None);
        assert_eq!(ledger.offences(client(MAX_OFFENDERS / 10 + 1), 0), Some(one));
    }

    /// Deadlines are looked for in chunks of slots: those of many chunks, and more than are taken at once.
    #[test]
    fn many_ends_come_in_pieces_and_each_once() {
        let mut ledger = ledger();
        let clients = 5 * CHUNK as u32;
        let client = |n: u32| {
            Allowlist::default().admit(std::net::Ipv4Addr::from_bits(0x0b00_0000 + n).into(), 64).unwrap()
        };
        for n in 0..clients {
            let ends = Ends::after(T0, u64::from(n % 97) * 1_000 + 1_000);
            let ban = ledger.ban(client(n), ends, Rule::ZScore, None, Place::Everywhere, T0);
            if n.is_multiple_of(2) {
                ledger.sample(ban.client);
            }
        }
        // A lift moves the last one into the gap, and what is extended ends later.
        for n in (0..clients).step_by(10) {
            ledger.begin_lift(client(n).client(), LiftReason::Operator).unwrap();
            ledger.finish_lift(client(n).client()).unwrap();
            ledger.extend(client(n + 2).client(), Ends::after(T0, 500_000)).unwrap();
        }
        let (mut ended, mut sampled) = (BTreeMap::new(), BTreeMap::new());
        for secs in 0..=600 {
            let now = T0.plus_ms(secs * 1_000);
            loop {
                let samples = ledger.due_samples(now, 700);
                samples.iter().for_each(|due| assert_eq!(sampled.insert(due.client, secs), None));
                let due = ledger.expire(now, 700);
                due.iter().for_each(|ban| assert_eq!(ended.insert(ban.client, secs), None));
                if due.is_empty() && samples.is_empty() {
                    break;
                }
            }
        }
        assert_eq!(ledger.next_deadline(), None);
        for n in 0..clients {
            let (end, is_extended) = (u64::from(n % 97) + 1, n % 10 == 2);
            let expected = match (n % 10, is_extended) {
                (0, _) => None,
                (_, true) => Some(500),
                (_, false) => Some(end),
            };
            assert_eq!(ended.get(&client(n).client()).copied(), expected, "{n}");
            let is_sampled = n.is_multiple_of(2) && n % 10 != 0 && !is_extended;
            assert_eq!(
                sampled.get(&client(n).client()).copied(),
                is_sampled.then(|| end.saturating_sub(12)),
                "{n}"
            );
        }
    }

    #[derive(Debug, Clone)]
    enum Step {
        Ban(u8, u64),
        Lift(u8),
        Extend(u8, u64),
        Wait(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0u8..12, 1u64..500).prop_map(|(c, t)| Step::Ban(c, t)),
            (0u8..12).prop_map(Step::Lift),
            (0u8..12, 1u64..500).prop_map(|(c, t)| Step::Extend(c, t)),
            (1u64..300).prop_map(Step::Wait),
        ]
    }

    proptest! {
        /// A random walk ends equal to a map of client -> end.
        #[test]
        fn a_random_walk_equals_a_model(steps in prop::collection::vec(step(), 1..120)) {
            let (mut ledger, mut model, mut now) = (ledger(), BTreeMap::new(), T0);
            let who = |n: u8| bannable(&format!("192.0.2.{n}"));
            for step in steps {
                match step {
                    Step::Ban(c, ms) => {
                        ledger.ban(who(c), Ends::after(now, ms), Rule::ZScore, nth(1), Place::Everywhere, now);
                        model.insert(who(c).client(), now.boot_ms + ms);
                    }
                    Step::Lift(c) => {
                        let had = ledger.begin_lift(who(c).client(), LiftReason::Operator).is_some();
                        ledger.finish_lift(who(c).client());
                        prop_assert_eq!(had, model.remove(&who(c).client()).is_some());
                    }
                    Step::Extend(c, ms) => {
                        let moved = ledger.extend(who(c).client(), Ends::after(now, ms)).is_some();
                        prop_assert_eq!(moved, model.contains_key(&who(c).client()));
                        if moved { model.insert(who(c).client(), now.boot_ms + ms); }
                    }
                    Step::Wait(ms) => {
                        now = now.plus_ms(ms);
                        loop {
                            let ended = ledger.expire(now, 3);
                            for ban in &ended { ledger.finish_lift(ban.client); }
                            if ended.is_empty() { break; }
                        }
                        model.retain(|_, end| *end > now.boot_ms);
                        let next = ledger.next_deadline().unwrap_or(u64::MAX);
                        prop_assert!(next > now.boot_ms, "nothing would be found then");
                        prop_assert!(model.values().all(|end| next <= *end), "an end would be missed");
                    }
                }
                let held: BTreeMap<Client, u64> = ledger.entries().map(|e| match e.ban.ends {
                    Ends::At { boot_ms, .. } => (e.ban.client, boot_ms),
                    Ends::Never => (e.ban.client, u64::MAX),
                }).collect();
                prop_assert_eq!(&held, &model);
                prop_assert_eq!(ledger.permanent_count(), held.values().filter(|end| **end == u64::MAX).count());
            }
        }
    }
}
