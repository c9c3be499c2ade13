//! A hash that is the same in every process, for what is learned about a site: it outlives a restart, and no verdict may
//! depend on a seed.

/// FNV-1a with a final mixing step.
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
        let mixed = (self.0 ^ self.0 >> 32).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        mixed ^ mixed >> 29
    }
}
