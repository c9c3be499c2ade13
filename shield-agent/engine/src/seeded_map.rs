//! Hash maps whose order depends on the engine's seed alone.
//!
//! The standard maps draw a new seed in every process, so that whatever walks one gives another order, and with it
//! other bans, in every run of a replay. The seed stays secret in the agent, because clients choose their addresses
//! and could otherwise aim many of them at one slot. Even so, sort what is walked: the order may differ between
//! processor architectures. Where speed does not matter, a `BTreeMap` is the better choice.

use std::hash::{BuildHasher, Hasher};

use crate::detect::hash::Seeded;

/// A hash map that is spread by the engine's seed.
#[expect(clippy::disallowed_types, reason = "the hasher is the seeded one")]
pub(crate) type SeededMap<K, V> = hashbrown::HashMap<K, V, SeededState>;

/// Builds hashers from one seed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SeededState(Seeded);

impl SeededState {
    pub(crate) fn new(seed: u64) -> SeededState {
        SeededState(Seeded::new(seed))
    }
}

impl BuildHasher for SeededState {
    type Hasher = SeededHasher;

    fn build_hasher(&self) -> SeededHasher {
        SeededHasher { seeded: self.0, state: 0 }
    }
}

/// Mixes one word after another into its state.
pub(crate) struct SeededHasher {
    seeded: Seeded,
    state: u64,
}

impl Hasher for SeededHasher {
    fn write(&mut self, bytes: &[u8]) {
        self.write_u64(self.seeded.bytes(bytes));
    }

    fn write_u8(&mut self, byte: u8) {
        self.write_u64(u64::from(byte));
    }

    fn write_u64(&mut self, word: u64) {
        self.state = self.seeded.key(u128::from(self.state) << 64 | u128::from(word));
    }

    fn finish(&self) -> u64 {
        self.state
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vocab::client::Client;

    fn hash(seed: u64, client: &str) -> u64 {
        SeededState::new(seed).hash_one(client.parse::<Client>().unwrap())
    }

    #[test]
    fn a_hash_depends_on_the_seed_and_on_all_of_the_client() {
        assert_eq!(hash(7, "192.0.2.1"), hash(7, "192.0.2.1"));
        assert_ne!(hash(7, "192.0.2.1"), hash(8, "192.0.2.1"));
        assert_ne!(hash(7, "192.0.2.0/25"), hash(7, "192.0.2.0/24"), "only the length differs");
        assert_ne!(hash(7, "2001:db8:1::/64"), hash(7, "2001:db8:2::/64"), "only the high half differs");
        assert_ne!(hash(7, "2001:db8::1/128"), hash(7, "2001:db8::2/128"), "only the low half differs");
    }

    #[test]
    fn neighbouring_addresses_spread_over_the_table() {
        let state = SeededState::new(7);
        let buckets =
            (0..4096_u32).map(|n| state.hash_one(Client::from(std::net::Ipv4Addr::from_bits(n))) % 4096);
        let used: std::collections::BTreeSet<u64> = buckets.collect();
        // A random spread over as many buckets uses 1 - 1/e of them: 2589.
        assert!((2450..2730).contains(&used.len()), "{}", used.len());
        let tags =
            (0..4096_u32).map(|n| state.hash_one(Client::from(std::net::Ipv4Addr::from_bits(n))) >> 57);
        assert_eq!(
            tags.collect::<std::collections::BTreeSet<u64>>().len(),
            128,
            "hashbrown's tags are the top 7 bits"
        );
    }
}
