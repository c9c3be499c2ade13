//! The bans in 27 bytes each, where a [`LedgerEntry`] takes 80.
//!
//! What nearly every ban has in common decides the widths: [`Packed`]. A ban that does not fit (its serial number is above 2^32, it
//! ends after 34 years) is kept whole beside the table, so that nothing is ever rounded.

use std::collections::BTreeMap;
use std::num::NonZeroU32;

use super::LedgerEntry;
use crate::bans::short::{Others, Short};
use crate::vocab::action::LiftReason;
use crate::vocab::ban::{Ban, Place};
use crate::vocab::client::Client;
use crate::vocab::event::EnforcerName;
use crate::vocab::time::Ends;
use crate::vocab::verdict::Rule;

/// The table. Slots are `0..len()`; a removal moves the last one into the gap.
#[derive(Debug, Default)]
pub(super) struct Slots {
    packed: Vec<Packed>,
    others: Others,
    offsets: Offsets,
    /// The entries that do not fit, by their slots.
    whole: BTreeMap<u32, LedgerEntry>,
}

/// An entry without padding.
#[derive(Debug, Clone, Copy)]
struct Packed {
    /// A [`Short`], whose bit is one of the flags.
    client: [u8; 4],
    serial: [u8; 4],
    /// Milliseconds since [`EPOCH_MS`].
    since: U40,
    /// The end on the boot clock in milliseconds; [`U40::MAX`] for none.
    end: U40,
    /// The place in [`Offsets`] of what the end is more on the wall clock.
    offset: [u8; 2],
    /// 0 when the ban is none.
    offence: u8,
    in_force_after_secs: [u8; 4],
    flags: Flags,
}

/// 2020 began; 34 years later bans begin to be kept whole.
const EPOCH_MS: i64 = 1_577_836_800_000;

/// A number below 2^40: milliseconds of 34 years.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct U40([u8; 5]);

impl U40 {
    const MAX: u64 = (1 << 40) - 1;

    fn new(value: u64) -> Option<U40> {
        let [a, b, c, d, e, 0, 0, 0] = value.to_le_bytes() else { return None };
        Some(U40([a, b, c, d, e]))
    }

    fn get(self) -> u64 {
        let [a, b, c, d, e] = self.0;
        u64::from_le_bytes([a, b, c, d, e, 0, 0, 0])
    }
}

/// Six small fields in 16 bits.
#[derive(Debug, Clone, Copy)]
struct Flags([u8; 2]);

const IS_OTHER: u16 = 1;
const IS_WHOLE: u16 = 1 << 1;
const IS_SAMPLED: u16 = 1 << 2;
const HELD_FROM: u32 = 3;
const LIFTING_FROM: u32 = 6;
const PLACE_FROM: u32 = 9;
const RULE_FROM: u32 = 11;

const _: () = assert!(size_of::<Packed>() == 27 && align_of::<Packed>() == 1);
const _: () = assert!(Rule::ALL.len() <= 1 << (16 - RULE_FROM));
const _: () = assert!(EnforcerName::ALL.len() <= (LIFTING_FROM - HELD_FROM) as usize);

impl Flags {
    fn new(entry: &LedgerEntry, is_other: bool) -> Flags {
        let lifting = match entry.lifting {
            None => 0,
            Some(LiftReason::Expired) => 1,
            Some(LiftReason::Operator) => 2,
            Some(LiftReason::Allowed) => 3,
            Some(LiftReason::Withdrawn) => 4,
        };
        let place = match entry.ban.place {
            Place::Kernel => 0,
            Place::Nginx => 1,
            Place::Everywhere => 2,
        };
        let bit = |is: bool, bit: u16| if is { bit } else { 0 };
        let bits = bit(is_other, IS_OTHER)
            | bit(entry.sampled, IS_SAMPLED)
            | u16::from(entry.held) << HELD_FROM
            | lifting << LIFTING_FROM
            | place << PLACE_FROM
            | (entry.ban.rule as u16) << RULE_FROM;
        Flags(bits.to_le_bytes())
    }

    fn bits(self) -> u16 {
        u16::from_le_bytes(self.0)
    }

    fn is(self, bit: u16) -> bool {
        self.bits() & bit != 0
    }

    fn held(self) -> u8 {
        (self.bits() >> HELD_FROM) as u8 & 0b111
    }

    fn lifting(self) -> Option<LiftReason> {
        match self.bits() >> LIFTING_FROM & 0b111 {
            0 => None,
            1 => Some(LiftReason::Expired),
            2 => Some(LiftReason::Operator),
            3 => Some(LiftReason::Allowed),
            _ => Some(LiftReason::Withdrawn),
        }
    }

    fn place(self) -> Place {
        match self.bits() >> PLACE_FROM & 0b11 {
            0 => Place::Kernel,
            1 => Place::Nginx,
            _ => Place::Everywhere,
        }
    }

    fn rule(self) -> Rule {
        Rule::ALL[usize::from(self.bits() >> RULE_FROM)]
    }
}

impl Packed {
    fn short(&self) -> Short {
        Short::of_parts(u32::from_le_bytes(self.client), self.flags.is(IS_OTHER))
    }

    /// Stands in for an entry that does not fit.
    fn placeholder(short: Short) -> Packed {
        let (client, is_other) = short.parts();
        let bits = IS_WHOLE | if is_other { IS_OTHER } else { 0 };
        Packed {
            client: client.to_le_bytes(),
            serial: [0; 4],
            since: U40([0; 5]),
            end: U40([0; 5]),
            offset: [0; 2],
            offence: 0,
            in_force_after_secs: [0; 4],
            flags: Flags(bits.to_le_bytes()),
        }
    }
}

impl Slots {
    pub(super) fn len(&self) -> usize {
        self.packed.len()
    }

    pub(super) fn reserve(&mut self, more: usize) {
        self.packed.reserve_exact(more);
    }

    #[inline]
    pub(super) fn client(&self, slot: u32) -> Client {
        self.others.client(self.packed[slot as usize].short())
    }

    pub(super) fn get(&self, slot: u32) -> LedgerEntry {
        let packed = &self.packed[slot as usize];
        if packed.flags.is(IS_WHOLE) {
            return self.whole[&slot];
        }
        let ends = match packed.end.get() {
            U40::MAX => Ends::Never,
            boot_ms => {
                let offset = self.offsets.get(u16::from_le_bytes(packed.offset));
                Ends::At { boot_ms, wall_ms: offset + boot_ms as i64 }
            }
        };
        let ban = Ban {
            client: self.others.client(packed.short()),
            serial: u64::from(u32::from_le_bytes(packed.serial)),
            since_ms: EPOCH_MS + packed.since.get() as i64,
            ends,
            offence: NonZeroU32::new(u32::from(packed.offence)),
            rule: packed.flags.rule(),
            place: packed.flags.place(),
        };
        LedgerEntry {
            ban,
            lifting: packed.flags.lifting(),
            held: packed.flags.held(),
            sampled: packed.flags.is(IS_SAMPLED),
            in_force_after_secs: u32::from_le_bytes(packed.in_force_after_secs),
        }
    }

    /// Puts an entry behind the last one.
    pub(super) fn push(&mut self, entry: &LedgerEntry) {
        let slot = u32::try_from(self.packed.len()).expect("4,294,967,296 bans do not fit into memory");
        let short = self.others.shorten(entry.ban.client);
        self.packed.push(Packed::placeholder(short));
        self.set(slot, entry);
    }

    /// Replaces an entry by another one of the same client.
    pub(super) fn set(&mut self, slot: u32, entry: &LedgerEntry) {
        let (old, short) = (self.packed[slot as usize], self.packed[slot as usize].short());
        if old.flags.is(IS_WHOLE) {
            self.whole.remove(&slot);
        }
        self.packed[slot as usize] = self.pack(entry, short).unwrap_or_else(|| {
            self.whole.insert(slot, *entry);
            Packed::placeholder(short)
        });
    }

    /// Removes an entry; the last one takes its slot.
    pub(super) fn swap_remove(&mut self, slot: u32) {
        let last = self.packed.len() as u32 - 1;
        self.others.forget(self.packed[slot as usize].short());
        self.whole.remove(&slot);
        if let Some(moved) = self.whole.remove(&last) {
            self.whole.insert(slot, moved);
        }
        self.packed.swap_remove(slot as usize);
    }

    /// `None` when a field does not fit.
    fn pack(&mut self, entry: &LedgerEntry, short: Short) -> Option<Packed> {
        let LedgerEntry { ban, in_force_after_secs, .. } = entry;
        let (client, is_other) = short.parts();
        let (end, offset) = match ban.ends {
            Ends::Never => (U40::MAX, 0),
            Ends::At { boot_ms: U40::MAX, .. } => return None,
            Ends::At { boot_ms, wall_ms } => {
                (boot_ms, self.offsets.place_of(wall_ms.checked_sub_unsigned(boot_ms)?)?)
            }
        };
        Some(Packed {
            client: client.to_le_bytes(),
            serial: u32::try_from(ban.serial).ok()?.to_le_bytes(),
            since: U40::new(u64::try_from(ban.since_ms.checked_sub(EPOCH_MS)?).ok()?)?,
            end: U40::new(end)?,
            offset: offset.to_le_bytes(),
            offence: u8::try_from(ban.offence_number()).ok()?,
            in_force_after_secs: in_force_after_secs.to_le_bytes(),
            flags: Flags::new(entry, is_other),
        })
    }
}

/// What the ends of bans are more on the wall clock than on the boot clock, in milliseconds: a few different numbers, as both go on
/// together until the wall clock is set. 65,536 at most.
#[derive(Debug, Default)]
struct Offsets {
    known: Vec<i64>,
    places: BTreeMap<i64, u16>,
    last: u16,
}

impl Offsets {
    fn get(&self, place: u16) -> i64 {
        self.known[usize::from(place)]
    }

    /// `None` for another one when there are as many as fit.
    fn place_of(&mut self, offset: i64) -> Option<u16> {
        if self.known.get(usize::from(self.last)) == Some(&offset) {
            return Some(self.last);
        }
        let place = match self.places.get(&offset) {
            Some(place) => *place,
            None => {
                let place = u16::try_from(self.known.len()).ok()?;
                self.known.push(offset);
                self.places.insert(offset, place);
                place
            }
        };
        self.last = place;
        Some(place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Numbers around each limit of the compact form, and any others.
    fn number(limits: &'static [u64]) -> impl Strategy<Value = u64> {
        let near = (prop::sample::select(limits), 0u64..5)
            .prop_map(|(limit, d)| limit.saturating_add(d).saturating_sub(2));
        prop_oneof![near, any::<u64>(), 0u64..1_000_000]
    }

    fn ends() -> impl Strategy<Value = Ends> {
        let at = (number(&[0, U40::MAX, u64::MAX]), prop_oneof![Just(None), any::<i64>().prop_map(Some)]);
        prop_oneof![
            Just(Ends::Never),
            at.prop_map(|(boot_ms, wall_ms)| {
                let usual = 1_700_000_000_000_i64.saturating_add_unsigned(boot_ms);
                Ends::At { boot_ms, wall_ms: wall_ms.unwrap_or(usual) }
            }),
        ]
    }

    fn client() -> impl Strategy<Value = Client> {
        prop_oneof![
            any::<u32>().prop_map(|bits| Client::from(std::net::Ipv4Addr::from_bits(bits))),
            (any::<u128>(), 0u8..=128).prop_map(|(bits, prefix)| {
                let net = ipnet::Ipv6Net::new(bits.into(), prefix).unwrap();
                Client::of_network(ipnet::IpNet::V6(net))
            }),
            (any::<u32>(), 0u8..=32).prop_map(|(bits, prefix)| {
                let net = ipnet::Ipv4Net::new(bits.into(), prefix).unwrap();
                Client::of_network(ipnet::IpNet::V4(net))
            }),
        ]
    }

    fn entry() -> impl Strategy<Value = LedgerEntry> {
        let lifting = [LiftReason::Expired, LiftReason::Operator, LiftReason::Allowed, LiftReason::Withdrawn];
        let since = number(&[EPOCH_MS as u64, EPOCH_MS as u64 + U40::MAX, i64::MAX as u64]);
        let ban = (
            client(),
            number(&[0, u32::MAX as u64]),
            since,
            ends(),
            prop_oneof![0u32..3, 250u32..260, any::<u32>()],
            prop::sample::select(&Rule::ALL[..]),
            prop::sample::select(&[Place::Kernel, Place::Nginx, Place::Everywhere][..]),
        );
        let state =
            (prop::option::of(prop::sample::select(lifting.to_vec())), 0u8..8, any::<bool>(), any::<u32>());
        (ban, state).prop_map(|(ban, (lifting, held, sampled, in_force_after_secs))| {
            let (client, serial, since, ends, offence, rule, place) = ban;
            let (since_ms, offence) = (since as i64, NonZeroU32::new(offence));
            let ban = Ban { client, serial, since_ms, ends, offence, rule, place };
            LedgerEntry { ban, lifting, held, sampled, in_force_after_secs }
        })
    }

    proptest! {
        /// What is put in comes out again to the bit, whether it fits or not, and wherever removals move it.
        #[test]
        fn the_table_equals_a_list(steps in prop::collection::vec((0u8..4, entry(), any::<prop::sample::Index>()), 1..60)) {
            let (mut slots, mut model) = (Slots::default(), Vec::<LedgerEntry>::new());
            for (step, entry, index) in steps {
                if model.is_empty() || step < 2 {
                    slots.push(&entry);
                    model.push(entry);
                } else {
                    let at = index.index(model.len());
                    if step == 2 {
                        slots.swap_remove(at as u32);
                        model.swap_remove(at);
                    } else {
                        let client = model[at].ban.client;
                        model[at] = LedgerEntry { ban: Ban { client, ..entry.ban }, ..entry };
                        slots.set(at as u32, &model[at]);
                    }
                }
                let held: Vec<LedgerEntry> = (0..slots.len() as u32).map(|slot| slots.get(slot)).collect();
                prop_assert_eq!(&held, &model);
                prop_assert!((0..slots.len()).all(|at| slots.client(at as u32) == model[at].ban.client));
            }
        }
    }

    #[test]
    fn an_ordinary_ban_fits_and_one_with_the_65537th_offset_is_kept_whole() {
        let mut slots = Slots::default();
        let entry = |n: u32, wall_ms: i64| LedgerEntry {
            ban: Ban {
                client: Client::from(std::net::Ipv4Addr::from_bits(n)),
                serial: 4_000_000_000,
                since_ms: 1_796_000_000_123,
                ends: Ends::At { boot_ms: 86_400_001, wall_ms },
                offence: NonZeroU32::new(3),
                rule: Rule::Crowdsec,
                place: Place::Kernel,
            },
            lifting: None,
            held: 3,
            sampled: true,
            in_force_after_secs: 100_000_000,
        };
        for n in 0..=u32::from(u16::MAX) {
            slots.push(&entry(n, 1_796_000_000_000 + i64::from(n)));
        }
        assert!(slots.whole.is_empty());
        let odd = entry(70_000, 7);
        slots.push(&odd);
        slots.push(&entry(70_001, 1_796_000_000_000));
        assert_eq!(slots.whole.len(), 1);
        assert_eq!(slots.get(1 << 16), odd);
    }
}
