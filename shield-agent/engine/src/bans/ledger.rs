//! The authoritative table of bans and offences.
//!
//! A ban is a slot with a serial number. Deadlines and the outcomes of enforcers carry that number, so that a late one
//! of an older ban never touches a newer one. Offences are kept apart from bans, so that lifting a ban does not forget
//! the level of the next one.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::hash::BuildHasher;
use std::num::NonZeroU32;

use hashbrown::HashTable;

use crate::bans::allowlist::BannableClient;
use crate::bans::backoff::Backoff;
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

pub struct Ledger {
    backoff: Backoff,
    /// Positions in `slots` by client.
    index: HashTable<u32>,
    hasher: SeededState,
    slots: Vec<LedgerEntry>,
    /// (deadline on the boot clock, serial number, client). Entries of replaced bans are skipped when they come up,
    /// because removing them from the heap would cost a search.
    deadlines: BinaryHeap<Reverse<(u64, u64, Client)>>,
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
            index: HashTable::new(),
            hasher,
            slots: Vec::new(),
            deadlines: BinaryHeap::new(),
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
        self.index.reserve(bans, |&slot| hasher.hash_one(slots[slot as usize].ban.client));
        self.slots.reserve_exact(bans);
        self.deadlines.reserve_exact(bans);
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
        self.slots.is_empty()
    }

    /// Every ban, in no particular order, but the same in every process.
    pub fn entries(&self) -> impl ExactSizeIterator<Item = &LedgerEntry> {
        self.slots.iter()
    }

    /// The bans at these positions of [`Ledger::entries`]. A removal moves the last ban into the gap, and nothing else moves.
    pub(crate) fn entries_at(&self, positions: std::ops::Range<usize>) -> &[LedgerEntry] {
        self.slots.get(positions).unwrap_or_default()
    }

    /// The ban of exactly this client or network.
    pub fn get(&self, client: Client) -> Option<&LedgerEntry> {
        self.slot_of(client).map(|at| &self.slots[at as usize])
    }

    /// The ban that drops this client: its own, or that of a network around it. A ban being lifted does not count.
    #[inline]
    pub fn ban_over(&self, client: Client) -> Option<&Ban> {
        if self.slots.is_empty() { None } else { self.find_ban_over(client) }
    }

    fn find_ban_over(&self, client: Client) -> Option<&Ban> {
        let active =
            |client| self.get(client).filter(|entry| entry.lifting.is_none()).map(|entry| &entry.ban);
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
        self.put(LedgerEntry { ban, lifting: None, held, in_force_after_secs: 0 });
        ban
    }

    /// Restores a ban of an earlier run.
    pub fn restore(&mut self, client: BannableClient, saved: Ban, now: Now) {
        self.next_serial = self.next_serial.max(saved.serial + 1);
        let ban = Ban { client: client.client(), ..saved };
        let mut entry = LedgerEntry { ban, lifting: None, held: 0, in_force_after_secs: 0 };
        entry.set_in_force_from(now.wall_secs() + RESTORED_WITHIN_SECS);
        self.put(entry);
    }

    /// Moves the end of a ban, under a new serial number. `None` when there is no such ban, or it is being lifted.
    pub fn extend(&mut self, client: Client, ends: Ends) -> Option<Ban> {
        let at = self.slot_of(client)? as usize;
        if self.slots[at].lifting.is_some() {
            return None;
        }
        let serial = self.take_serial();
        let ban = &mut self.slots[at].ban;
        let old = std::mem::replace(&mut ban.ends, ends);
        ban.serial = serial;
        let moved = *ban;
        self.permanent += usize::from(ends == Ends::Never);
        self.permanent -= usize::from(old == Ends::Never);
        self.push_deadline(moved);
        Some(moved)
    }

    /// Puts a ban into force everywhere. Its serial number stays: outcomes of the orders before are as good as those after.
    /// `None` when it is everywhere, when there is none, or when it is being lifted.
    pub fn widen(&mut self, client: Client) -> Option<Ban> {
        let at = self.slot_of(client)? as usize;
        let entry = &mut self.slots[at];
        if entry.lifting.is_some() || entry.ban.place.is_everywhere() {
            return None;
        }
        entry.ban.place = Place::Everywhere;
        Some(entry.ban)
    }

    /// Marks a ban as being lifted. `None` when there is none, or it was marked before.
    pub fn begin_lift(&mut self, client: Client, reason: LiftReason) -> Option<Ban> {
        let at = self.slot_of(client)? as usize;
        let entry = &mut self.slots[at];
        if entry.lifting.is_some() {
            return None;
        }
        entry.lifting = Some(reason);
        self.lifting += 1;
        Some(entry.ban)
    }

    /// Marks bans whose end has come as being lifted, at most `limit`, and returns them.
    pub fn expire(&mut self, now: Now, limit: usize) -> Vec<Ban> {
        let mut due = Vec::new();
        while due.len() < limit {
            let Some(&Reverse((at_ms, serial, client))) = self.deadlines.peek() else { break };
            if at_ms > now.boot_ms {
                break;
            }
            self.deadlines.pop();
            if self.get(client).is_some_and(|entry| entry.ban.serial == serial) {
                due.extend(self.begin_lift(client, LiftReason::Expired));
            }
        }
        due
    }

    /// The next moment on the boot clock at which [`Ledger::expire`] may find something.
    pub fn next_deadline(&self) -> Option<u64> {
        self.deadlines.peek().map(|Reverse((at_ms, ..))| *at_ms)
    }

    /// Records that an enforcer drops this client. `false` when the outcome is of a ban that is not the current one.
    pub fn confirm_banned(&mut self, enforcer: EnforcerName, client: Client, serial: u64, now: Now) -> bool {
        let Some(at) = self.slot_of(client) else { return false };
        let entry = &mut self.slots[at as usize];
        if entry.held == 0 {
            entry.set_in_force_from(now.wall_secs());
        }
        entry.held |= bit(enforcer);
        entry.ban.serial == serial
    }

    /// Records that an enforcer could not drop this client.
    pub fn deny_banned(&mut self, enforcer: EnforcerName, client: Client, serial: u64) {
        if let Some(at) = self.slot_of(client)
            && self.slots[at as usize].ban.serial == serial
        {
            self.slots[at as usize].held &= !bit(enforcer);
        }
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
        let at = self.slot_of(client)? as usize;
        let entry = &mut self.slots[at];
        if entry.ban.serial == serial {
            entry.held &= !bit(enforcer);
        }
        let LedgerEntry { ban, lifting, .. } = *entry;
        let reason = lifting.filter(|_| ban.serial == serial)?;
        if !pending.forgot(client, serial, enforcer) {
            return None;
        }
        self.remove(client);
        Some(Finished { ban, reason })
    }

    /// Removes a ban that is being lifted, without waiting for enforcers.
    pub fn finish_lift(&mut self, client: Client) -> Option<Finished> {
        let LedgerEntry { ban, lifting, .. } = *self.get(client)?;
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
            Some(at) => {
                let old = std::mem::replace(&mut self.slots[at as usize], entry);
                self.lifting -= usize::from(old.lifting.is_some());
                self.permanent -= usize::from(old.ban.ends == Ends::Never);
            }
            None => self.insert(entry),
        }
        self.push_deadline(entry.ban);
    }

    fn insert(&mut self, entry: LedgerEntry) {
        let at = u32::try_from(self.slots.len()).expect("4,294,967,296 bans do not fit into memory");
        let client = entry.ban.client;
        self.slots.push(entry);
        let (hasher, slots) = (&self.hasher, &self.slots);
        let hash = hasher.hash_one(client);
        self.index.insert_unique(hash, at, |&slot| hasher.hash_one(slots[slot as usize].ban.client));
        if !client.is_single(self.ipv6_prefix) {
            self.networks.add(client);
        }
    }

    fn remove(&mut self, client: Client) {
        let Some(at) = self.slot_of(client) else { return };
        let hash = self.hasher.hash_one(client);
        if let Ok(found) = self.index.find_entry(hash, |&slot| slot == at) {
            found.remove();
        }
        let last = (self.slots.len() - 1) as u32;
        if at != last {
            let moved = self.hasher.hash_one(self.slots[last as usize].ban.client);
            if let Some(slot) = self.index.find_mut(moved, |&slot| slot == last) {
                *slot = at;
            }
        }
        let gone = self.slots.swap_remove(at as usize);
        self.lifting -= usize::from(gone.lifting.is_some());
        self.permanent -= usize::from(gone.ban.ends == Ends::Never);
        if !client.is_single(self.ipv6_prefix) {
            self.networks.remove(client);
        }
    }

    fn slot_of(&self, client: Client) -> Option<u32> {
        let hash = self.hasher.hash_one(client);
        self.index.find(hash, |&slot| self.slots[slot as usize].ban.client == client).copied()
    }

    fn push_deadline(&mut self, ban: Ban) {
        if let Ends::At { boot_ms, .. } = ban.ends {
            self.deadlines.push(Reverse((boot_ms, ban.serial, ban.client)));
        }
    }
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
                        for ban in ledger.expire(now, usize::MAX) { ledger.finish_lift(ban.client); }
                        model.retain(|_, end| *end > now.boot_ms);
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
