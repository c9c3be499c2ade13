//! The table of the wanted bans, which a reconcile compares the kernel with.
//!
//! Owns the compact form in which a million bans take about 19 MB (14 bytes each and 4.6 bytes of index; 17 more where the client is no
//! single IPv4 address). Decides nothing: the interpreter writes it as orders come in, enforcers read it.

use std::collections::BTreeMap;
use std::hash::BuildHasher;

use hashbrown::DefaultHashBuilder;

use crate::enforce::reconcile::Wanted;
use shield_engine::allowlist::{Bannables, PackedBannable};
use shield_engine::client::Client;
use shield_engine::slot_index::SlotIndex;
use shield_engine::time::Ends;

use super::ban::Ban;

/// Clients that are looked up at once, where there are millions: enough that the memory of the last one is there when the first one was
/// dealt with.
pub(crate) const LOOKED_UP_AT_ONCE: usize = 32;

/// The bans that should be in force, with the serial numbers of their orders. One table for all enforcers.
///
/// Entries are dense, so that a slot number can stand for a client in a bitmap; a removal moves the last entry into the
/// gap.
#[derive(Debug, Default, Clone)]
pub struct Desired {
    entries: Vec<Packed>,
    clients: Bannables,
    index: SlotIndex,
    hasher: DefaultHashBuilder,
    /// Those that do not fit into an entry, by its slot: after four billion bans.
    large_serials: BTreeMap<u32, u64>,
    wall_minus_boot_ms: i64,
}

/// 14 bytes with an alignment of 1: at a million bans every byte is a megabyte.
#[derive(Debug, Clone, Copy)]
struct Packed {
    who: PackedBannable,
    /// On the boot clock, in milliseconds; [`U40_MAX`] for none.
    end: U40,
    /// [`LARGE`] for one that does not fit.
    serial: [u8; 4],
}

/// A number below 2^40: milliseconds for 34 years, which no host runs without a boot.
#[derive(Debug, Clone, Copy)]
struct U40([u8; 5]);

const U40_MAX: u64 = (1 << 40) - 1;

/// Stands for a serial number of [`Desired::large_serials`].
const LARGE: u32 = u32::MAX;

impl U40 {
    fn new(value: u64) -> U40 {
        let [a, b, c, d, e, ..] = value.min(U40_MAX).to_le_bytes();
        U40([a, b, c, d, e])
    }

    fn get(self) -> u64 {
        let [a, b, c, d, e] = self.0;
        u64::from_le_bytes([a, b, c, d, e, 0, 0, 0])
    }
}

impl Desired {
    /// Makes an empty table with room for `bans` entries.
    pub fn with_capacity(bans: usize) -> Desired {
        Desired {
            entries: Vec::with_capacity(bans),
            index: SlotIndex::with_capacity(bans),
            ..Desired::default()
        }
    }

    /// Returns the number of wanted bans.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Returns whether no ban is wanted. Completes `len` where tests outside this crate reach it.
    #[cfg(any(test, feature = "test-support"))]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Adds `ban` in place of an earlier one of the same client. `serial` is kept for outcome reports.
    pub fn insert(&mut self, ban: Ban, serial: u64) {
        let end = match ban.ends {
            Ends::Never => U40_MAX,
            Ends::At { boot_ms, wall_ms } => {
                self.wall_minus_boot_ms = wall_ms.saturating_sub_unsigned(boot_ms);
                boot_ms.min(U40_MAX - 1)
            }
        };
        let end = U40::new(end);
        let client = ban.client.client();
        if let Some(slot) = self.slot(&client) {
            let serial = self.pack_serial(slot as u32, serial);
            self.entries[slot] = Packed { end, serial, ..self.entries[slot] };
            return;
        }
        let slot = u32::try_from(self.entries.len()).expect("bans are capped far below 2^32");
        let serial = self.pack_serial(slot, serial);
        self.entries.push(Packed { who: self.clients.pack(ban.client), end, serial });
        let (entries, clients, hasher) = (&self.entries, &self.clients, &self.hasher);
        self.index.insert(hasher.hash_one(client), slot, |slot| {
            hasher.hash_one(clients.unpack(entries[slot as usize].who).client())
        });
    }

    /// Removes the ban of this client and returns whether there was one.
    pub fn remove(&mut self, client: &Client) -> bool {
        let Some(slot) = self.slot(client) else { return false };
        let (entries, clients, hasher) = (&self.entries, &self.clients, &self.hasher);
        let hash_of = |slot: u32| hasher.hash_one(clients.unpack(entries[slot as usize].who).client());
        let (slot, last) = (slot as u32, entries.len() as u32 - 1);
        self.index.remove(hash_of(slot), slot, hash_of);
        if slot != last {
            self.index.renumber(hash_of(last), last, slot);
        }
        let gone = self.entries.swap_remove(slot as usize);
        self.large_serials.remove(&slot);
        if let Some(moved) = self.large_serials.remove(&last) {
            self.large_serials.insert(slot, moved);
        }
        self.clients.forget(gone.who);
        true
    }

    /// Says that this client will be looked for soon.
    pub(crate) fn prefetch(&self, client: &Client) {
        self.index.prefetch(self.hasher.hash_one(client));
    }

    /// Returns the ban wanted for this client.
    ///
    /// The wall-clock half of its end is computed from the newest clock reading in the table: storing it too would cost
    /// 8 bytes a ban, and only the boot-clock half, which is as ordered, decides when the ban ends.
    pub fn get(&self, client: &Client) -> Option<Ban> {
        self.slot(client).map(|slot| self.ban(slot))
    }

    pub(crate) fn contains(&self, client: &Client) -> bool {
        self.slot(client).is_some()
    }

    /// Returns the ban in a slot below `len()`.
    pub fn ban(&self, slot: usize) -> Ban {
        let packed = self.entries[slot];
        let ends = match packed.end.get() {
            U40_MAX => Ends::Never,
            boot_ms => {
                Ends::At { boot_ms, wall_ms: self.wall_minus_boot_ms.saturating_add_unsigned(boot_ms) }
            }
        };
        Ban { client: self.clients.unpack(packed.who), ends }
    }

    /// Returns the serial number of the ban in a slot below `len()`.
    pub fn serial(&self, slot: usize) -> u64 {
        match u32::from_le_bytes(self.entries[slot].serial) {
            LARGE => self.large_serials[&(slot as u32)],
            serial => u64::from(serial),
        }
    }

    fn pack_serial(&mut self, slot: u32, serial: u64) -> [u8; 4] {
        let small = u32::try_from(serial).ok().filter(|serial| *serial != LARGE);
        match small {
            Some(_) => drop(self.large_serials.remove(&slot)),
            None => drop(self.large_serials.insert(slot, serial)),
        }
        small.unwrap_or(LARGE).to_le_bytes()
    }

    /// Iterates over the bans, in the order of their slots.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Ban> + '_ {
        (0..self.len()).map(|slot| self.ban(slot))
    }
}

impl Wanted for Desired {
    type Entry = Ban;

    fn len(&self) -> usize {
        Desired::len(self)
    }

    fn slot(&self, client: &Client) -> Option<usize> {
        let is_it = |slot: u32| self.clients.unpack(self.entries[slot as usize].who).client() == *client;
        self.index.find(self.hasher.hash_one(client), is_it).map(|slot| slot as usize)
    }

    fn entry(&self, slot: usize) -> (Client, Ban) {
        let ban = self.ban(slot);
        (ban.client.client(), ban)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use shield_engine::allowlist::Allowlist;
    use std::collections::BTreeMap;

    fn ban(n: u8, ends: Ends) -> Ban {
        let client: Client = match n % 4 {
            0 => format!("2001:db8:{n}::/64"),
            1 => format!("192.0.{n}.0/24"),
            _ => format!("192.0.2.{n}"),
        }
        .parse()
        .unwrap();
        Ban { client: Allowlist::default().admit(client, 64).unwrap(), ends }
    }

    fn at(boot_ms: u64) -> Ends {
        Ends::At { boot_ms, wall_ms: 1_700_000_000_000 + boot_ms as i64 }
    }

    fn serial() -> impl Strategy<Value = u64> {
        let limit = u64::from(LARGE);
        prop_oneof![1u64..1_000, limit - 1..limit + 2, Just(u64::MAX)]
    }

    #[test]
    fn an_entry_takes_14_bytes() {
        assert_eq!((size_of::<Packed>(), align_of::<Packed>()), (14, 1));
    }

    #[test]
    fn what_is_put_in_comes_out() {
        let mut table = Desired::default();
        for (n, ends) in [(1, Ends::Never), (2, at(5_000)), (1, at(9_000))] {
            table.insert(ban(n, ends), u64::from(n) + 100);
        }
        assert_eq!(table.len(), 2);
        assert_eq!(table.get(&ban(1, Ends::Never).client.client()), Some(ban(1, at(9_000))));
        let slot = table.slot(&ban(2, Ends::Never).client.client()).unwrap();
        assert_eq!((table.ban(slot), table.serial(slot)), (ban(2, at(5_000)), 102));
    }

    proptest! {
        #[test]
        fn it_is_a_map(steps in prop::collection::vec((any::<bool>(), 0u8..20, 1u64..1_000_000, serial()), 0..200)) {
            let mut table = Desired::default();
            let mut model = BTreeMap::new();
            for (insert, n, boot_ms, serial) in steps {
                let ban = ban(n, at(boot_ms));
                let client = ban.client.client();
                if insert {
                    table.insert(ban, serial);
                    model.insert(client, (ban, serial));
                } else {
                    prop_assert_eq!(table.remove(&client), model.remove(&client).is_some());
                }
            }
            let held: BTreeMap<_, _> =
                (0..table.len()).map(|slot| (table.entry(slot).0, (table.ban(slot), table.serial(slot)))).collect();
            prop_assert_eq!(&held, &model);
            prop_assert!(model.iter().all(|(client, (ban, _))| table.get(client) == Some(*ban)));
            prop_assert!(table.large_serials.len() <= table.len(), "none is kept for a ban that is gone");
        }
    }
}
