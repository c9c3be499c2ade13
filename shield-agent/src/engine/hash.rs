//! Seeded hashing of paths and clients: fast, and not to be aimed at by whoever does not know the seed.

/// Hashes with one secret.
#[derive(Debug, Clone, Copy)]
pub struct Seeded {
    seed: u64,
    /// Hides the other operand of each product, which would otherwise be the client's to choose.
    mask: u64,
}

/// Odd constants with well-mixed bits (the fractional digits of pi), as in wyhash and foldhash.
const MIX: [u64; 3] = [0x243f_6a88_85a3_08d3, 0x1319_8a2e_0370_7344, 0xa409_3822_299f_31d1];

impl Seeded {
    /// A hasher of this secret.
    pub fn new(seed: u64) -> Seeded {
        let first = fold(seed ^ MIX[0], MIX[1]);
        Seeded { seed: first, mask: fold(first ^ MIX[1], MIX[2]) }
    }

    /// Hashes bytes, 16 at a time: the two halves are folded through one 128-bit product.
    pub fn bytes(self, bytes: &[u8]) -> u64 {
        let mut state = self.seed ^ bytes.len() as u64;
        let mut chunks = bytes.chunks_exact(16);
        for chunk in &mut chunks {
            let (low, high) = chunk.split_at(8);
            state = fold(word(low) ^ state, word(high) ^ self.mask);
        }
        let rest = chunks.remainder();
        let (low, high) = rest.split_at(rest.len().min(8));
        fold(word(low) ^ state, word(high) ^ self.mask ^ MIX[2])
    }

    /// Hashes a client's key.
    pub fn key(self, key: u128) -> u64 {
        fold(key as u64 ^ self.seed, (key >> 64) as u64 ^ self.mask)
    }
}

fn word(bytes: &[u8]) -> u64 {
    let mut padded = [0; 8];
    padded[..bytes.len()].copy_from_slice(bytes);
    u64::from_le_bytes(padded)
}

fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    // A product of zero would swallow whatever came before: both operands are seeded, so that nobody can aim at it.
    (product as u64) ^ ((product >> 64) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_that_differ_anywhere_hash_apart() {
        let hash = Seeded::new(7);
        let mut seen = std::collections::HashSet::new();
        for len in 0..70 {
            for at in 0..len {
                let mut text = vec![b'a'; len];
                text[at] = b'b';
                assert!(seen.insert(hash.bytes(&text)), "len {len} at {at}");
            }
            assert!(seen.insert(hash.bytes(&vec![b'a'; len])), "len {len}");
        }
    }

    /// History: a fuzzer found a path that ended in the constant that it was mixed with, so that the product was zero
    /// and all such paths had one hash, whatever the seed.
    #[test]
    fn no_ending_swallows_what_comes_before() {
        for constant in MIX {
            for seed in 0..100 {
                let hash = Seeded::new(seed);
                let with = |head: &[u8; 8]| [&head[..], &constant.to_le_bytes(), b"/and/more"].concat();
                assert_ne!(hash.bytes(&with(b"/first/a")), hash.bytes(&with(b"/other/b")));
                assert_ne!(hash.bytes(&with(b"/first/a")[..16]), hash.bytes(&with(b"/other/b")[..16]));
                assert_ne!(hash.bytes(&with(b"/first/a")[..15]), hash.bytes(&with(b"/other/b")[..15]));
                assert_ne!(
                    hash.key(u128::from(constant) << 64 | 1),
                    hash.key(u128::from(constant) << 64 | 2)
                );
            }
        }
    }

    #[test]
    fn the_seed_changes_the_order() {
        assert_ne!(Seeded::new(1).bytes(b"/"), Seeded::new(2).bytes(b"/"));
        assert_ne!(Seeded::new(1).key(1), Seeded::new(2).key(1));
    }
}
