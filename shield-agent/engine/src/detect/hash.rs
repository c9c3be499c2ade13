//! Seeded hashing of paths and clients: fast, and without collisions that a client could construct, as it does not know
//! the seed.

/// A hash function keyed by a secret seed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seeded {
    seed: u64,
    /// Masks the second operand of each product, which a client could otherwise choose.
    mask: u64,
}

/// Odd constants with well-mixed bits (the fractional digits of pi), as in wyhash and foldhash.
const MIX: [u64; 3] = [0x243f_6a88_85a3_08d3, 0x1319_8a2e_0370_7344, 0xa409_3822_299f_31d1];

impl Seeded {
    /// Derives the hash function from `seed`.
    pub fn new(seed: u64) -> Seeded {
        let first = fold(seed ^ MIX[0], MIX[1]);
        Seeded { seed: first, mask: fold(first ^ MIX[1], MIX[2]) }
    }

    /// Hashes bytes, 16 at a time: the two halves are folded through one 128-bit product. The last 16 may overlap those
    /// before them, which saves padding.
    #[inline]
    pub(crate) fn bytes(self, bytes: &[u8]) -> u64 {
        // A start per length: otherwise a text could be chosen that compensates for a difference in length.
        let start = fold(self.seed ^ bytes.len() as u64, self.mask);
        let ([low, high], state) = match bytes.last_chunk::<16>() {
            Some(last) if bytes.len() <= LANES_FROM => (words(last), self.in_turn(start, bytes)),
            Some(last) => (words(last), self.in_lanes(start, bytes)),
            None => (short_words(bytes), start),
        };
        fold(low ^ state, high ^ self.mask ^ MIX[2])
    }

    /// Mixes in all but the last 1 to 16 bytes.
    #[inline]
    fn in_turn(self, mut state: u64, bytes: &[u8]) -> u64 {
        let mut rest = bytes;
        while let Some((chunk, behind)) = rest.split_first_chunk::<16>()
            && !behind.is_empty()
        {
            let [low, high] = words(chunk);
            state = fold(low ^ state, high ^ self.mask);
            rest = behind;
        }
        state
    }

    /// As [`Seeded::in_turn`], in two lanes: their multiplications do not depend on each other and overlap.
    fn in_lanes(self, start: u64, bytes: &[u8]) -> u64 {
        let (mut one, mut other) = (start, start ^ MIX[0]);
        let mut rest = bytes;
        while let Some((chunk, behind)) = rest.split_first_chunk::<32>()
            && !behind.is_empty()
        {
            let [a, b, c, d] = four_words(chunk);
            one = fold(a ^ one, b ^ self.mask);
            other = fold(c ^ other, d ^ self.mask ^ MIX[1]);
            rest = behind;
        }
        self.in_turn(fold(one ^ self.mask, other ^ self.seed), rest)
    }

    /// Hashes the key of a client.
    #[inline]
    pub(crate) fn key(self, key: u128) -> u64 {
        fold(key as u64 ^ self.seed, (key >> 64) as u64 ^ self.mask)
    }
}

/// Texts longer than this, in bytes, are hashed in two lanes.
const LANES_FROM: usize = 64;

#[inline]
fn words(bytes: &[u8; 16]) -> [u64; 2] {
    let both = u128::from_le_bytes(*bytes);
    [both as u64, (both >> 64) as u64]
}

fn four_words(bytes: &[u8; 32]) -> [u64; 4] {
    let (low, high) = bytes.split_at(16);
    let half = |half: &[u8]| half.first_chunk().map_or([0; 2], words);
    let ([a, b], [c, d]) = (half(low), half(high));
    [a, b, c, d]
}

/// Packs fewer than 16 bytes into two words without loss, given their number, which is hashed separately.
#[inline]
fn short_words(bytes: &[u8]) -> [u64; 2] {
    if let (Some(first), Some(last)) = (bytes.first_chunk(), bytes.last_chunk()) {
        return [u64::from_le_bytes(*first), u64::from_le_bytes(*last)];
    }
    if let (Some(first), Some(last)) = (bytes.first_chunk(), bytes.last_chunk()) {
        return [u64::from(u32::from_le_bytes(*first)), u64::from(u32::from_le_bytes(*last))];
    }
    let at = |at: usize| bytes.get(at).map_or(0, |byte| u64::from(*byte));
    [at(0) | at(1) << 8 | at(2) << 16, 0]
}

#[inline]
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    // A product of zero would erase the state: both operands depend on the seed, so no client can force one.
    (product as u64) ^ ((product >> 64) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_that_differ_in_one_byte_hash_differently() {
        let hash = Seeded::new(7);
        let mut seen = std::collections::BTreeSet::new();
        for len in 0..140 {
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
    fn no_suffix_erases_the_state() {
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
    fn no_text_compensates_for_a_length() {
        let hash = Seeded::new(7);
        assert_ne!(hash.bytes(b"aaaaa"), hash.bytes(b"baaaaa"), "'a' ^ 5 is 'b' ^ 6");
        for (shorter, longer) in [(20, 21), (70, 71), (90, 91)] {
            let mut text = vec![b'a'; longer];
            text[0] ^= (shorter ^ longer) as u8;
            assert_ne!(hash.bytes(&vec![b'a'; shorter]), hash.bytes(&text), "{shorter}");
        }
    }

    #[test]
    fn another_seed_gives_other_hashes() {
        assert_ne!(Seeded::new(1).bytes(b"/"), Seeded::new(2).bytes(b"/"));
        assert_ne!(Seeded::new(1).key(1), Seeded::new(2).key(1));
    }
}
