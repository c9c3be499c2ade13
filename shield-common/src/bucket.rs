//! The token bucket that polices a slowed client. Pure, so that the kernel and the tests of it run the same lines.
//!
//! A bucket is one word, so that it is read and written whole: the tick of the last refill in its upper half, what it holds in
//! the lower half. It holds fractions of tokens, of which `ticks_per_sec` are one: so a tick adds `per_sec` of them, and no
//! division is needed.
//!
//! The program reads the word, computes, and writes it back without a lock. Two CPUs that do so at the same moment may both
//! take the same token, and one write is lost: at most as many packets as there are CPUs pass instead of one, within the
//! hundred nanoseconds that one run takes. A card steers the packets of one connection to one CPU, and the limit is no
//! promise to a packet, so that a lock or a compare-and-swap, which older kernels refuse, is not worth its price.

use crate::KernelTime;

/// How fast a bucket is filled.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rate {
    /// Tokens per second.
    pub per_sec: u16,
    /// Tokens that it holds at most.
    pub burst: u16,
}

/// The limits of a slowed client.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// Of new connections: TCP packets with SYN and without ACK.
    pub connections: Rate,
    /// Of packets that carry data, and of all that are not TCP.
    pub packets: Rate,
}

/// A difference of ticks from which on the clock is taken as set back: half of the 32 bits that a bucket keeps of it, 24 days
/// at 1,000 ticks a second.
const SET_BACK: u32 = 1 << 31;

/// The fractions in a full bucket.
const fn capacity(rate: Rate, ticks_per_sec: u32) -> u64 {
    let fractions = rate.burst as u64 * ticks_per_sec as u64;
    if fractions > u32::MAX as u64 { u32::MAX as u64 } else { fractions }
}

const fn word(now: KernelTime, held: u64) -> u64 {
    ((now as u32 as u64) << 32) | held
}

/// Returns a full bucket.
pub(crate) const fn full(rate: Rate, ticks_per_sec: u32, now: KernelTime) -> u64 {
    word(now, capacity(rate, ticks_per_sec))
}

/// Takes a token at `now`. Returns the bucket after it, and whether there was one.
///
/// A clock that was set back adds nothing, and is the time of the refill from then on.
#[inline(always)]
pub const fn take(bucket: u64, rate: Rate, ticks_per_sec: u32, now: KernelTime) -> (u64, bool) {
    let passed = (now as u32).wrapping_sub((bucket >> 32) as u32);
    let passed = if passed < SET_BACK { passed as u64 } else { 0 };
    let held = (bucket as u32 as u64) + passed * rate.per_sec as u64;
    let capacity = capacity(rate, ticks_per_sec);
    let held = if held > capacity { capacity } else { held };
    let token = ticks_per_sec as u64;
    if held >= token { (word(now, held - token), true) } else { (word(now, held), false) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HZ: u32 = 250;

    /// How many of `packets` pass, each so many ticks after the one before it.
    fn passing(rate: Rate, start: KernelTime, gaps: &[u64]) -> u64 {
        let (mut bucket, mut now, mut passed) = (full(rate, HZ, start), start, 0);
        for gap in gaps {
            now += gap;
            let (next, is_there) = take(bucket, rate, HZ, now);
            bucket = next;
            passed += u64::from(is_there);
        }
        passed
    }

    #[test]
    fn a_burst_passes_and_then_the_rate() {
        let rate = Rate { per_sec: 2, burst: 12 };
        assert_eq!(passing(rate, 0, &[0; 100]), 12);
        // The first packet comes at once: a full bucket would not take up what a tick before it adds.
        let mut ten_seconds = [1; 1 + 10 * HZ as usize];
        ten_seconds[0] = 0;
        assert_eq!(passing(rate, 0, &ten_seconds), 12 + 2 * 10);
    }

    /// The bucket keeps 32 bits of the clock, which starts minutes before they are full on some kernels.
    #[test]
    fn the_end_of_32_bits_is_no_jump() {
        let rate = Rate { per_sec: 2, burst: 12 };
        for start in [u64::from(u32::MAX) - 100, u64::from(u32::MAX), 7 << 40] {
            assert_eq!(passing(rate, start, &[1; 500]), passing(rate, 0, &[1; 500]), "{start}");
        }
    }

    #[test]
    fn a_clock_set_back_gives_nothing_and_takes_nothing() {
        let rate = Rate { per_sec: 10, burst: 5 };
        let (mut bucket, _) = take(full(rate, HZ, 1_000_000), rate, HZ, 1_000_000);
        for _ in 0..10 {
            bucket = take(bucket, rate, HZ, 1_000_000).0;
        }
        let (back, is_there) = take(bucket, rate, HZ, 10_000);
        assert!(!is_there);
        assert!(!take(back, rate, HZ, 10_000).1);
        assert!(take(back, rate, HZ, 10_000 + u64::from(HZ)).1, "it goes on from there");
    }

    #[test]
    fn a_limit_of_nothing_lets_nothing_through() {
        assert_eq!(passing(Rate::default(), 5, &[1000; 50]), 0);
    }

    proptest! {
        /// Never more than the burst and what the time brings, over any span.
        #[test]
        fn it_never_passes_more_than_its_rate(
            per_sec in 0u16..=u16::MAX,
            burst in 0u16..=u16::MAX,
            hz in prop::sample::select(&[100u32, 250, 300, 1000][..]),
            start in any::<u64>().prop_map(|at| at >> 1),
            gaps in prop::collection::vec(0u64..2_000, 1..300),
        ) {
            let rate = Rate { per_sec, burst };
            let (mut bucket, mut now, mut passed) = (full(rate, hz, start), start, 0u64);
            for gap in gaps {
                now += gap;
                let (next, is_there) = take(bucket, rate, hz, now);
                passed += u64::from(is_there);
                bucket = next;
                let most = u64::from(burst) + (now - start) * u64::from(per_sec) / u64::from(hz);
                prop_assert!(passed <= most, "{passed} of {most}");
            }
        }

        /// Whoever waits longer has never less.
        #[test]
        fn it_only_fills(held in any::<u32>(), rate in (any::<u16>(), any::<u16>()), wait in 0u64..1 << 30, more in 0u64..1 << 30) {
            let rate = Rate { per_sec: rate.0, burst: rate.1 };
            let bucket = word(0, u64::from(held).min(capacity(rate, HZ)));
            let left = |now| {
                let (next, is_there) = take(bucket, rate, HZ, now);
                u64::from(next as u32) + if is_there { u64::from(HZ) } else { 0 }
            };
            prop_assert!(left(wait) <= left(wait + more));
            prop_assert!(left(wait + more) <= capacity(rate, HZ));
        }

        /// Whatever the clock does, what passes is bounded by the time that went forward.
        #[test]
        fn a_clock_that_jumps_gives_no_more(jumps in prop::collection::vec(-5_000i64..5_000, 1..200)) {
            let rate = Rate { per_sec: 3, burst: 7 };
            let (mut now, mut forward, mut passed) = (1i64 << 33, 0u64, 0u64);
            let mut bucket = full(rate, HZ, now as u64);
            for jump in jumps {
                now += jump;
                forward += jump.max(0) as u64;
                let (next, is_there) = take(bucket, rate, HZ, now as u64);
                bucket = next;
                passed += u64::from(is_there);
                prop_assert!(passed <= 7 + forward * 3 / u64::from(HZ));
            }
        }
    }
}
