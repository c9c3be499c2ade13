//! A hash that is the same in every process, for what is learned about a site: it outlives a restart, and no verdict may
//! depend on a seed.

/// FNV-1a with a final mixing step, because tables take their places from single bits of it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StableHash(u64);

impl Default for StableHash {
    fn default() -> StableHash {
        StableHash(0xcbf2_9ce4_8422_2325)
    }
}

impl StableHash {
    pub(crate) fn of(text: &[u8]) -> StableHash {
        let mut hash = StableHash::default();
        hash.add(text);
        hash
    }

    pub(crate) fn add(&mut self, text: &[u8]) {
        for byte in text {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    pub(crate) fn finish(self) -> u64 {
        let mixed = mix(self.0 ^ self.0 >> 32);
        mixed ^ mixed >> 29
    }
}

/// Spreads a number over the upper bits: a multiplication by 2^64 divided by the golden ratio.
fn mix(number: u64) -> u64 {
    number.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

fn folded(key: u128) -> u64 {
    key as u64 ^ (key >> 64) as u64
}

/// A hash of a text.
pub(crate) fn of_text(text: &[u8]) -> u64 {
    StableHash::of(text).finish()
}

/// A hash of a client's key.
pub(crate) fn of_client(key: u128) -> u64 {
    let mixed = mix(folded(key));
    mixed ^ mixed >> 32
}

/// A hash of a client's network (its /24, or /48 of IPv6), of which the upper bits are the best.
pub(crate) fn of_network(key: u128) -> u64 {
    // IPv4 clients are mapped addresses: their last 32 bits vary.
    let is_v4 = key >> 32 == 0xffff;
    mix(folded(if is_v4 { key >> 8 } else { key >> 80 }))
}
