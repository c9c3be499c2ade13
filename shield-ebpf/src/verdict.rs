//! From a source address to a verdict: banned clients, banned networks, exemptions, slowed clients, in this order.
//!
//! Most legitimate traffic has passed at the filter (`fast_path`). The kernel walks a trie node by node, so the tries are
//! queried only for a packet that no ban of a single client matches, and only while they hold something.

use core::mem::MaybeUninit;

use aya_ebpf::maps::{LpmTrie, lpm_trie::Key};
use shield_common::{Ban, Control, FilterBit, KeyV6, MAX_NESTED, filter_v6};

use crate::{
    clock, count,
    maps::{
        BANS_V4, BANS_V6, CONTROL, EXEMPT_V4, EXEMPT_V6, IPV6_MASK, IPV6_PREFIX, NETWORKS_V4, NETWORKS_V6,
    },
    packet::{Packet, Source, octets},
    police,
};

#[derive(Clone, Copy)]
pub enum Verdict {
    Pass,
    Drop(Source),
}

/// Decides on a packet of `bytes` bytes from `source`, and counts the decision.
#[inline(always)]
pub fn verdict(packet: Packet, source: Source, bytes: u64) -> Verdict {
    let ban = match source {
        Source::V4(address) => ban_v4(address),
        Source::V6(halves) => ban_v6(halves),
    };
    let Some(ban) = ban else {
        return unbanned_at_all(packet, source, bytes);
    };
    dropped(ban, source, bytes)
}

/// Decides on a packet whose source has no ban of its own.
#[inline(always)]
pub fn unbanned(packet: Packet, source: Source, bytes: u64) -> Verdict {
    let ban = match source {
        Source::V4(address) => network_v4(address),
        Source::V6(halves) => network_v6(octets(halves)),
    };
    match ban {
        Some(ban) => dropped(ban, source, bytes),
        None => unbanned_at_all(packet, source, bytes),
    }
}

/// Whether a source without a ban of its own is in no banned network either, nor slowed, as nearly all are. `false` if that takes
/// more than a few lookups. Asks for the source again where it needs it: see `entry`.
#[inline(always)]
pub fn is_plainly_unbanned_v4(source: impl Fn() -> u32) -> bool {
    control().is_some_and(|control| control.networks_v4 == 0) && !police::is_listed_v4(source())
}

/// As [`is_plainly_unbanned_v4`].
#[inline(always)]
pub fn is_plainly_unbanned_v6(source: impl Fn() -> [u64; 2]) -> bool {
    control().is_some_and(|control| control.networks_v6 == 0) && !police::is_listed_v6(source)
}

#[inline(always)]
fn unbanned_at_all(packet: Packet, source: Source, bytes: u64) -> Verdict {
    if police::is_over_its_limits(packet, source) {
        count::total(|totals| {
            totals.slowed += 1;
            totals.dropped_bytes += bytes;
        });
        return Verdict::Drop(source);
    }
    count::passed();
    Verdict::Pass
}

#[inline(always)]
fn dropped(ban: *mut Ban, source: Source, bytes: u64) -> Verdict {
    count::dropped(ban, bytes);
    count::total(|totals| {
        match source {
            Source::V4(_) => totals.dropped_v4 += 1,
            Source::V6(_) => totals.dropped_v6 += 1,
        }
        totals.dropped_bytes += bytes;
    });
    Verdict::Drop(source)
}

#[inline(always)]
fn ban_v4(source: u32) -> Option<*mut Ban> {
    in_force(BANS_V4.get_ptr_mut(source.to_ne_bytes())).or_else(|| network_v4(source))
}

#[inline(always)]
fn ban_v6(source: [u64; 2]) -> Option<*mut Ban> {
    in_force(BANS_V6.get_ptr_mut(octets(client_v6(source)))).or_else(|| network_v6(octets(source)))
}

/// Clears the host bits of an address. Tests for the usual prefix length first: the verifier knows the constant and removes
/// the other branch.
#[inline(always)]
pub fn client_v6(source: [u64; 2]) -> [u64; 2] {
    if IPV6_PREFIX.load() == 64 {
        return [source[0], 0];
    }
    masked(source)
}

/// Returns the filter's bit of the client. A function of its own, because LLVM would rather rotate a zero than jump.
#[inline(always)]
pub fn filter_bit_v6(source: [u64; 2]) -> FilterBit {
    if IPV6_PREFIX.load() == 64 { filter_v6([source[0], 0]) } else { filter_v6(masked(source)) }
}

#[inline(always)]
fn masked(source: [u64; 2]) -> [u64; 2] {
    let mask = IPV6_MASK.load();
    [source[0] & mask[0], source[1] & mask[1]]
}

#[inline(always)]
fn network_v4(source: u32) -> Option<*mut Ban> {
    let control = control()?;
    if control.networks_v4 == 0 {
        return None;
    }
    let ban = narrowest(&NETWORKS_V4, [source])?;
    let exempt = control.exempt_v4 != 0 && is_exempt(&EXEMPT_V4, [source]);
    unless_exempt(ban, exempt)
}

#[inline(always)]
fn network_v6(source: KeyV6) -> Option<*mut Ban> {
    let control = control()?;
    if control.networks_v6 == 0 {
        return None;
    }
    let ban = narrowest(&NETWORKS_V6, words_v6(source))?;
    let exempt = control.exempt_v6 != 0 && is_exempt(&EXEMPT_V6, words_v6(source));
    unless_exempt(ban, exempt)
}

/// Whether an IPv6 source passes even inside a network that is banned or slowed.
#[inline(always)]
pub fn is_exempt_v6(source: [u64; 2]) -> bool {
    control().is_some_and(|control| control.exempt_v6 != 0) && is_exempt(&EXEMPT_V6, words_v6(octets(source)))
}

#[inline(always)]
fn unless_exempt(ban: *mut Ban, exempt: bool) -> Option<*mut Ban> {
    if exempt {
        count::total(|totals| totals.exempt += 1);
        return None;
    }
    Some(ban)
}

/// A key of a trie: the prefix length, then an address of `WORDS` words.
#[repr(C)]
struct Around<const WORDS: usize> {
    longest: u32,
    source: [u32; WORDS],
}

impl<const WORDS: usize> Around<WORDS> {
    /// Writes the address; each lookup writes its own length. Volatile, because LLVM would merge two stores into one, which
    /// the verifier refuses where it is not aligned.
    #[inline(always)]
    fn write(key: &mut MaybeUninit<Self>, source: [u32; WORDS]) {
        let at: *mut u32 = key.as_mut_ptr().cast();
        for (word, bits) in source.iter().enumerate() {
            // SAFETY: inside `key`, which has a word for the length and then these.
            unsafe { at.add(1 + word).write_volatile(*bits) };
        }
    }

    /// Looks up the narrowest entry around a written address, among those with prefixes up to `longest` bits.
    #[inline(always)]
    fn lookup<'a, K, V>(key: &mut MaybeUninit<Self>, trie: &'a LpmTrie<K, V>, longest: u32) -> Option<&'a V> {
        const { assert!(size_of::<Self>() == size_of::<Key<K>>()) };
        // SAFETY: the first word of `key`.
        unsafe { key.as_mut_ptr().cast::<u32>().write_volatile(longest) };
        // SAFETY: both types are a word and an address, of the same size by the assertion; the trie's is not aligned.
        trie.get(unsafe { &*key.as_ptr().cast::<Key<K>>() })
    }
}

/// Finds the narrowest network around `source` whose ban is in force.
///
/// A trie returns only the longest match. A ban that has ended but is not lifted yet would hide the wider networks around
/// it, so those are looked up with a shorter prefix; at most `MAX_NESTED` times, because the verifier needs a bound.
#[inline(always)]
fn narrowest<K, const WORDS: usize>(networks: &LpmTrie<K, Ban>, source: [u32; WORDS]) -> Option<*mut Ban> {
    let mut key = MaybeUninit::uninit();
    Around::write(&mut key, source);
    let mut longest = bits_of(WORDS);
    for _ in 0..MAX_NESTED {
        let held = Around::lookup(&mut key, networks, longest)?;
        let ban = in_force(Some(core::ptr::from_ref(held).cast_mut()));
        if ban.is_some() {
            return ban;
        }
        // Not a network, or not shorter than the last one: going on could loop. The prefix needs no atomic read, because the
        // agent writes it once, before the element is in the trie.
        if held.prefix == 0 || held.prefix > longest {
            return None;
        }
        longest = held.prefix - 1;
    }
    None
}

#[inline(always)]
fn is_exempt<K, const WORDS: usize>(networks: &LpmTrie<K, u32>, source: [u32; WORDS]) -> bool {
    let mut key = MaybeUninit::uninit();
    Around::write(&mut key, source);
    Around::lookup(&mut key, networks, bits_of(WORDS)).is_some()
}

#[inline(always)]
const fn bits_of(words: usize) -> u32 {
    words as u32 * u32::BITS
}

/// Converts octets to words in memory order.
#[inline(always)]
fn words_v6(octets: KeyV6) -> [u32; 4] {
    // SAFETY: sixteen bytes either way, and any bytes are integers.
    unsafe { core::mem::transmute(octets) }
}

#[inline(always)]
fn control() -> Option<&'static Control> {
    CONTROL.get(0)
}

/// Returns the ban unless it has ended.
#[inline(always)]
fn in_force(ban: Option<*mut Ban>) -> Option<*mut Ban> {
    let ban = ban?;
    // SAFETY: points into a map value; one aligned word, which the agent replaces together with its element.
    if clock::now() < unsafe { (*ban).ends } {
        return Some(ban);
    }
    count::total(|totals| totals.expired += 1);
    None
}
