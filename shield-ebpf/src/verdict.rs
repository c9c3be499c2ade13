//! From a source address to a verdict: filter, banned clients, banned networks, exemptions, in this order.
//!
//! Legitimate traffic leaves at the filter. Only a packet whose filter bit is set asks a hash map; only one that is
//! not banned by itself asks the tries, and only while they hold something.

use aya_ebpf::maps::{Array, LpmTrie, lpm_trie::Key};
use shield_common::{Ban, Control, FilterBit, KeyV4, KeyV6, filter_v4, filter_v6, mask_v6};

use crate::{
    clock, count,
    maps::{
        BANS_V4, BANS_V6, CONTROL, EXEMPT_V4, EXEMPT_V6, FILTER_V4, FILTER_V6, IPV6_PREFIX, NETWORKS_V4,
        NETWORKS_V6,
    },
    packet::{Source, octets},
};

/// What becomes of a packet.
#[derive(Clone, Copy)]
pub enum Verdict {
    /// It goes on.
    Pass,
    /// It ends here.
    Drop(Source),
}

/// The verdict on a packet of `bytes` bytes from `source`; counted.
#[inline(always)]
pub fn verdict(source: Source, bytes: u64) -> Verdict {
    let ban = match source {
        Source::V4(octets) => ban_v4(octets),
        Source::V6(halves) => ban_v6(halves),
    };
    let Some(ban) = ban else {
        count::total(|totals| totals.passed += 1);
        return Verdict::Pass;
    };
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

/// The ban in force on an IPv4 source.
#[inline(always)]
fn ban_v4(source: KeyV4) -> Option<*mut Ban> {
    if !is_set(&FILTER_V4, filter_v4(u32::from_be_bytes(source))) {
        return None;
    }
    in_force(BANS_V4.get_ptr_mut(source)).or_else(|| network_v4(source))
}

/// The ban in force on an IPv6 source.
#[inline(always)]
fn ban_v6(source: [u64; 2]) -> Option<*mut Ban> {
    let mask = mask_v6(IPV6_PREFIX.load());
    let client = [source[0] & mask[0], source[1] & mask[1]];
    if !is_set(&FILTER_V6, filter_v6(client)) {
        return None;
    }
    in_force(BANS_V6.get_ptr_mut(octets(client))).or_else(|| network_v6(octets(source)))
}

#[inline(always)]
fn network_v4(source: KeyV4) -> Option<*mut Ban> {
    let control = control()?;
    if control.networks_v4 == 0 {
        return None;
    }
    let ban = in_force(longest(&NETWORKS_V4, Key::new(32, source)))?;
    let exempt = control.exempt_v4 != 0 && EXEMPT_V4.get(Key::new(32, source)).is_some();
    unless_exempt(ban, exempt)
}

#[inline(always)]
fn network_v6(source: KeyV6) -> Option<*mut Ban> {
    let control = control()?;
    if control.networks_v6 == 0 {
        return None;
    }
    let ban = in_force(longest(&NETWORKS_V6, Key::new(128, source)))?;
    let exempt = control.exempt_v6 != 0 && EXEMPT_V6.get(Key::new(128, source)).is_some();
    unless_exempt(ban, exempt)
}

#[inline(always)]
fn unless_exempt(ban: *mut Ban, exempt: bool) -> Option<*mut Ban> {
    if exempt {
        count::total(|totals| totals.exempt += 1);
        return None;
    }
    Some(ban)
}

#[inline(always)]
fn is_set(filter: &Array<u64>, bit: FilterBit) -> bool {
    filter.get(bit.word).is_some_and(|word| word & bit.mask != 0)
}

#[inline(always)]
fn longest<K>(networks: &LpmTrie<K, Ban>, key: Key<K>) -> Option<*mut Ban> {
    networks.get(key).map(|ban| core::ptr::from_ref(ban).cast_mut())
}

#[inline(always)]
fn control() -> Option<&'static Control> {
    CONTROL.get(0)
}

/// The ban, unless it has ended.
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
