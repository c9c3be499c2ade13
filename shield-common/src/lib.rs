//! The ABI between the XDP program and the agent: map names, keys, values, load-time globals and counters.
//!
//! Both sides compile this file, so that neither can disagree about a layout. The only code is the few calculations that
//! must have the same result in the kernel and in user space. Read next: `shield-ebpf/src/main.rs`.
#![no_std]

mod bucket;

pub use bucket::{Limits, Rate, take};

/// The version of everything in this file. Raise it with any change of a layout or a meaning.
///
/// An agent that finds maps of another version makes new ones, and copies the bans of those maps whose keys and values have
/// the sizes of its own. A map more needs no new version: an agent makes what is missing, and an earlier one leaves it alone.
pub const ABI_VERSION: u32 = 3;

/// A moment on the clock that the program reads: `jiffies`, ticks since boot.
///
/// `docs/adr/kernel-clock.md` has the reasons for this clock, and the effect of a suspend.
pub type KernelTime = u64;

/// The end of a permanent ban.
pub const NEVER: KernelTime = KernelTime::MAX;

/// Names of the maps, in the object and in bpffs.
pub mod map_name {
    /// Hash: IPv4 address ([`super::KeyV4`]) to [`super::Ban`].
    pub const BANS_V4: &str = "BANS_V4";
    /// Hash: IPv6 prefix ([`super::KeyV6`]) to [`super::Ban`].
    pub const BANS_V6: &str = "BANS_V6";
    /// Longest-prefix trie: banned IPv4 networks to [`super::Ban`].
    pub const NETWORKS_V4: &str = "NETWORKS_V4";
    /// Longest-prefix trie: banned IPv6 networks to [`super::Ban`].
    pub const NETWORKS_V6: &str = "NETWORKS_V6";
    /// Longest-prefix trie: IPv4 networks that pass inside a banned network.
    pub const EXEMPT_V4: &str = "EXEMPT_V4";
    /// Longest-prefix trie: IPv6 networks that pass inside a banned network.
    pub const EXEMPT_V6: &str = "EXEMPT_V6";
    /// Hash: IPv4 address ([`super::KeyV4`]) to [`super::Slow`].
    pub const SLOW_V4: &str = "SLOW_V4";
    /// Hash: IPv6 prefix ([`super::KeyV6`]) to [`super::Slow`].
    pub const SLOW_V6: &str = "SLOW_V6";
    /// Hash: IPv6 network of [`super::SLOW_NETWORK_PREFIX`] bits ([`super::KeyV6`]) to [`super::Slow`], one for all its clients.
    pub const SLOW_NETWORKS_V6: &str = "SLOW_NETWORKS_V6";
    /// Array of words: one bit for each IPv4 /24 ([`super::filter_v4`]).
    pub const FILTER_V4: &str = "FILTER_V4";
    /// Array of words: one bit for many IPv6 prefixes ([`super::filter_v6`]).
    pub const FILTER_V6: &str = "FILTER_V6";
    /// Array of one [`super::Control`].
    pub const CONTROL: &str = "CONTROL";
    /// Per-CPU array of [`super::Totals`], one for each slot.
    pub const TOTALS: &str = "TOTALS";

    /// The pinned maps, which the programs of all interfaces share.
    pub const PINNED: [&str; 13] = [
        BANS_V4,
        BANS_V6,
        NETWORKS_V4,
        NETWORKS_V6,
        EXEMPT_V4,
        EXEMPT_V6,
        SLOW_V4,
        SLOW_V6,
        SLOW_NETWORKS_V6,
        FILTER_V4,
        FILTER_V6,
        CONTROL,
        TOTALS,
    ];
}

/// Names of the programs in the object.
pub mod program_name {
    /// XDP, for drivers with multi-buffer packets (Linux 5.18).
    pub const XDP_FRAGS: &str = "shield_frags";
    /// XDP, for older kernels.
    pub const XDP: &str = "shield";
    /// Traffic control ingress (TCX), where another XDP program is attached.
    pub const TC: &str = "shield_tc";
    /// Never attached: the agent runs it to read the program's clock.
    pub const CLOCK: &str = "shield_clock";
}

/// Names of the constants that the agent sets when it loads the object.
pub mod global_name {
    /// `u8`: length of the prefix that makes an IPv6 client, 1..=128.
    pub const IPV6_PREFIX: &str = "IPV6_PREFIX";
    /// `[u64; 2]`: [`super::mask_v6`] of that length.
    pub const IPV6_MASK: &str = "IPV6_MASK";
    /// `u32`: the index of this program's element in `TOTALS`.
    pub const SLOT: &str = "SLOT";
    /// `u8`: 1 counts packets that pass in [`super::Totals::passed`]; 0 does not and costs nothing.
    pub const COUNT_PASSED: &str = "COUNT_PASSED";
    /// `u32`: logs one dropped packet in this many (a power of two); 0 logs none and costs nothing.
    pub const LOG_EVERY: &str = "LOG_EVERY";
}

/// Key of a banned IPv4 client: the octets of the address in packet order.
pub type KeyV4 = [u8; 4];

/// Key of a banned IPv6 client: the octets of the address in packet order, with zero host bits.
pub type KeyV6 = [u8; 16];

/// The value of a ban.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ban {
    /// Packets are dropped while the clock is before this moment.
    pub ends: KernelTime,
    /// Packets dropped since the ban was added.
    pub packets: u64,
    /// Their bytes, link-layer header included.
    pub bytes: u64,
    /// Length of the banned network's prefix; 0 for a single client. An ended ban leads the program to the next wider
    /// network by it, because a trie does not return the length of a match.
    pub prefix: u32,
    /// Zero. Makes the padding explicit, so that every byte of the value is initialised.
    pub reserved: u32,
}

impl Ban {
    /// Makes a ban that has dropped nothing yet.
    pub const fn new(ends: KernelTime, prefix: u32) -> Ban {
        Ban { ends, packets: 0, bytes: 0, prefix, reserved: 0 }
    }
}

/// The value of a slowed client: what is left of its allowance, and what it came to.
///
/// In maps of their own beside the bans, so that a ban keeps its size and needs no bucket, and so that a client that is both
/// slowed and banned is dropped: bans are looked up first.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Slow {
    /// Packets are policed while the clock is before this moment.
    pub ends: KernelTime,
    /// The bucket of new connections: see [`take`].
    pub connections: u64,
    /// The bucket of packets that carry data.
    pub packets: u64,
    /// How fast both are filled, and how far.
    pub limits: Limits,
    /// Ticks of the clock in one second.
    pub ticks_per_sec: u32,
    /// Zero. Makes the padding explicit.
    pub reserved: u32,
    /// Packets dropped since the client was slowed.
    pub dropped: u64,
}

impl Slow {
    /// Makes an entry whose buckets are full at `now`.
    pub const fn new(ends: KernelTime, limits: Limits, ticks_per_sec: u32, now: KernelTime) -> Slow {
        Slow {
            ends,
            connections: bucket::full(limits.connections, ticks_per_sec, now),
            packets: bucket::full(limits.packets, ticks_per_sec, now),
            limits,
            ticks_per_sec,
            reserved: 0,
            dropped: 0,
        }
    }
}

/// What the program and a later agent have to know beside the bans.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Control {
    /// [`ABI_VERSION`] of the maps beside this one.
    pub abi_version: u32,
    /// The prefix length of the keys of `BANS_V6`.
    pub ipv6_prefix: u32,
    /// How many entries `NETWORKS_V4` holds; while 0 it is not looked up.
    pub networks_v4: u32,
    /// How many entries `NETWORKS_V6` holds; while 0 it is not looked up.
    pub networks_v6: u32,
    /// How many entries `EXEMPT_V4` holds; while 0 it is not looked up.
    pub exempt_v4: u32,
    /// How many entries `EXEMPT_V6` holds; while 0 it is not looked up.
    pub exempt_v6: u32,
}

/// The counters of one program on one CPU, in packets unless noted.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Parsed and passed. Counted only by programs that are loaded to do so ([`global_name::COUNT_PASSED`]).
    pub passed: u64,
    /// Dropped for their IPv4 source.
    pub dropped_v4: u64,
    /// Dropped for their IPv6 source.
    pub dropped_v6: u64,
    /// Bytes of both, and of `slowed`.
    pub dropped_bytes: u64,
    /// Lookups that found an ended ban.
    pub expired: u64,
    /// Passed inside a banned network because exempt.
    pub exempt: u64,
    /// Passed because truncated or malformed.
    pub malformed: u64,
    /// Passed because neither IPv4 nor IPv6 (ARP, or behind more than two VLAN tags).
    pub not_ip: u64,
    /// Dropped because a slowed client sent more than its limits let through.
    pub slowed: u64,
}

/// The most banned networks around one address that are looked up while the narrower ones have ended. The verifier needs a
/// bound.
pub const MAX_NESTED: u32 = 8;

/// Elements of `TOTALS`: one for each interface; further interfaces share the last.
pub const SLOTS: u32 = 32;

/// Default size of `BANS_V4`.
pub const MAX_BANS_V4: u32 = 1_000_000;
/// Default size of `BANS_V6`.
pub const MAX_BANS_V6: u32 = 250_000;
/// Default size of each trie of banned networks.
pub const MAX_NETWORKS: u32 = 65_536;
/// Size of each trie of exempt networks.
pub const MAX_EXEMPT: u32 = 4_096;

/// Size of each map of slowed clients, and of that of slowed networks.
pub const MAX_SLOWED: u32 = 4_096;

/// Length of the prefix of a slowed IPv6 network: what a site is given, with 65,536 clients to hop through.
pub const SLOW_NETWORK_PREFIX: u8 = 48;

/// Words of `FILTER_V4`: one bit for each of the 2^24 /24s.
pub const FILTER_V4_WORDS: u32 = 1 << 18;
/// Words of `FILTER_V6`: 2^24 bits.
pub const FILTER_V6_WORDS: u32 = 1 << 18;

/// The position of a bit in a filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FilterBit {
    /// Index of the word.
    pub word: u32,
    /// The word with only this bit set.
    pub mask: u64,
}

/// Returns the bit of `FILTER_V4` for the /24 of an address in host byte order.
#[inline(always)]
pub const fn filter_v4(address: u32) -> FilterBit {
    FilterBit { word: address >> 14, mask: 1 << ((address >> 8) & 63) }
}

/// Returns the bit of `FILTER_V6` for a client's key, given as its two halves as loaded from memory.
///
/// Multiplicative hashing (Knuth, The Art of Computer Programming 3, 6.4) of the halves folded together. It need not resist
/// collisions: an attacker who searches for prefixes with the same bit only makes his own packets take the longer path.
#[inline(always)]
pub const fn filter_v6(halves: [u64; 2]) -> FilterBit {
    /// 2^64 divided by the golden ratio, made odd.
    const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
    let hash = (halves[0] ^ halves[1].rotate_left(32)).wrapping_mul(GOLDEN);
    FilterBit { word: (hash >> 46) as u32, mask: 1 << ((hash >> 40) & 63) }
}

/// Returns the masks of an IPv6 prefix length (0..=128) for the two halves of an address as loaded from memory.
pub const fn mask_v6(prefix: u8) -> [u64; 2] {
    [half_mask(prefix), half_mask(prefix.saturating_sub(64))]
}

const fn half_mask(bits: u8) -> u64 {
    match bits {
        0 => 0,
        1..=63 => (u64::MAX << (64 - bits)).to_be(),
        _ => u64::MAX,
    }
}

const _: () = {
    assert!(size_of::<Ban>() == 32 && align_of::<Ban>() == 8);
    assert!(size_of::<Slow>() == 48 && align_of::<Slow>() == 8);
    assert!(size_of::<Limits>() == 8 && align_of::<Limits>() == 2);
    assert!(size_of::<Control>() == 24 && align_of::<Control>() == 4);
    assert!(size_of::<Totals>() == 72 && align_of::<Totals>() == 8);
    assert!(size_of::<KeyV4>() == 4 && size_of::<KeyV6>() == 16);
};

#[cfg(feature = "user")]
#[expect(unsafe_code, reason = "aya::Pod is an unsafe marker trait")]
mod pod {
    // SAFETY: repr(C), only integers, and the sizes asserted above leave no room for padding.
    unsafe impl aya::Pod for super::Ban {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Slow {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Control {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Totals {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_24_has_a_bit_of_its_own() {
        let first = filter_v4(0xc000_0200);
        assert_eq!(first, filter_v4(0xc000_02ff));
        assert_ne!(first, filter_v4(0xc000_0300));
        assert_eq!(filter_v4(u32::MAX), FilterBit { word: FILTER_V4_WORDS - 1, mask: 1 << 63 });
    }

    #[test]
    fn the_v6_bit_is_inside_the_filter() {
        for halves in [[0, 0], [u64::MAX, 0], [u64::MAX, u64::MAX], [1, 2]] {
            assert!(filter_v6(halves).word < FILTER_V6_WORDS);
        }
    }

    #[test]
    fn masks_keep_the_leading_octets() {
        let check = |prefix: u8, expected: [u8; 16]| {
            let [high, low] = mask_v6(prefix);
            let mut octets = [0; 16];
            octets[..8].copy_from_slice(&high.to_ne_bytes());
            octets[8..].copy_from_slice(&low.to_ne_bytes());
            assert_eq!(octets, expected, "/{prefix}");
        };
        check(0, [0; 16]);
        check(128, [255; 16]);
        check(64, u128::to_be_bytes(u128::MAX << 64));
        check(49, u128::to_be_bytes(u128::MAX << 79));
        check(100, u128::to_be_bytes(u128::MAX << 28));
    }
}
