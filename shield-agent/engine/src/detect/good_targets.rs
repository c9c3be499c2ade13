//! The targets that clients in good standing ask for. When such a target fails, the site is to blame and not who asks for
//! it; and what good clients ask for is no mark of a campaign.
//!
//! A fixed table of 128 KiB, one slot a key: a new target takes a slot only when its owner is old or less known, so that
//! nobody can flush it by asking for much.

use crate::detect::activity::Asked;
use crate::detect::stable_hash;

/// A power of two.
const SLOTS: usize = 1 << 13;

/// So many networks must have asked for a target: fewer could be one attacker's, who builds up standing to bless a probe.
const NETWORKS: usize = 3;

/// A target that nobody in good standing asked for within two days is forgotten.
const REMEMBERED_SECS: u32 = 2 * 86_400;

#[derive(Debug, Clone, Copy, Default)]
struct Slot {
    key: u32,
    /// Short hashes of the networks that asked for it; 0 where there is none.
    networks: [u16; NETWORKS],
    /// How many of them were served.
    served: u8,
    /// Days since 1970 (modulo 256) of the last time.
    day: u8,
}

impl Slot {
    fn known(&self) -> usize {
        self.networks.iter().filter(|network| **network != 0).count()
    }
}

/// The targets, by key.
pub(crate) struct GoodTargets {
    slots: Box<[Slot]>,
}

impl Default for GoodTargets {
    fn default() -> GoodTargets {
        GoodTargets { slots: vec![Slot::default(); SLOTS].into_boxed_slice() }
    }
}

impl GoodTargets {
    /// Learns that the client `who` in good standing asked for these targets up to `second`.
    pub(crate) fn learn(&mut self, asked: impl Iterator<Item = (u32, Asked)>, who: u128, second: u32) {
        let (day, network) = (day_of(second), network_mark(who));
        asked.for_each(|(key, answer)| self.learn_one(key, answer, network, day));
    }

    #[inline]
    fn learn_one(&mut self, key: u32, answer: Asked, network: u16, day: u8) {
        let slot = &mut self.slots[place(key)];
        if slot.key != key || is_old(slot, day) {
            if slot.known() > 1 && slot.key != key && !is_old(slot, day) {
                return;
            }
            *slot = Slot { key, ..Slot::default() };
        }
        slot.day = day;
        if slot.networks.contains(&network) {
            return;
        }
        if let Some(free) = slot.networks.iter_mut().find(|network| **network == 0) {
            *free = network;
            slot.served += u8::from(answer == Asked::Served);
        }
    }

    /// Whether clients in good standing of several networks asked for it.
    pub(crate) fn is_asked(&self, key: u32, second: u32) -> bool {
        self.find(key, second).is_some_and(|slot| slot.known() == NETWORKS)
    }

    /// Whether all of them were served.
    pub(crate) fn is_served(&self, key: u32, second: u32) -> bool {
        let all = |slot: &Slot| usize::from(slot.served) == NETWORKS;
        self.is_asked(key, second) && self.find(key, second).is_some_and(all)
    }

    fn find(&self, key: u32, second: u32) -> Option<&Slot> {
        let slot = &self.slots[place(key)];
        (slot.key == key && !is_old(slot, day_of(second))).then_some(slot)
    }
}

fn place(key: u32) -> usize {
    key as usize & (SLOTS - 1)
}

fn day_of(second: u32) -> u8 {
    (second / 86_400) as u8
}

fn is_old(slot: &Slot, day: u8) -> bool {
    u32::from(day.wrapping_sub(slot.day)) * 86_400 > REMEMBERED_SECS
}

/// A hash of the client's network in 16 bits, never 0.
fn network_mark(key: u128) -> u16 {
    (stable_hash::of_network(key) >> 48) as u16 | 1
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u32 = 86_400;

    fn who(network: u32) -> u128 {
        (0xffff_u128 << 32) | u128::from(0xc612_0001 + (network << 8))
    }

    #[test]
    fn three_networks_make_a_target_good_until_it_is_old() {
        let mut targets = GoodTargets::default();
        let now = 20_000 * DAY;
        for visit in 0..5 {
            targets.learn([(7, Asked::Served)].into_iter(), who(1), now + visit);
            targets.learn([(7, Asked::Served)].into_iter(), who(1) + 1, now);
        }
        assert!(!targets.is_asked(7, now), "one network, however many of its clients");
        targets.learn([(7, Asked::Served)].into_iter(), who(2), now);
        targets.learn([(7, Asked::Served)].into_iter(), who(3), now);
        assert!(targets.is_asked(7, now) && targets.is_served(7, now));
        assert!(targets.is_asked(7, now + 2 * DAY) && !targets.is_asked(7, now + 3 * DAY));
        assert!(!targets.is_asked(8, now));
    }

    #[test]
    fn what_was_never_served_is_asked_for_but_not_served() {
        let mut targets = GoodTargets::default();
        for network in 1..=3 {
            targets.learn([(9, Asked::InVain)].into_iter(), who(network), 1000);
        }
        assert!(targets.is_asked(9, 1000) && !targets.is_served(9, 1000));
    }

    #[test]
    fn one_client_that_asks_for_much_flushes_nothing() {
        let mut targets = GoodTargets::default();
        for network in 1..=3 {
            targets.learn([(9, Asked::Served)].into_iter(), who(network), 1000);
        }
        for key in (9..9 + 100 * SLOTS as u32).step_by(SLOTS) {
            targets.learn([(key, Asked::Served)].into_iter(), who(4), 1001);
        }
        assert!(targets.is_served(9, 1001));
    }
}
