//! The maps and the constants set at load time. Layouts and names are `shield-common`'s.
//!
//! Hash maps are not preallocated: memory is taken only for bans that exist, and an element that is removed stays
//! valid under a reader until the packet is done (RCU), so a slot is never reused under the program.

use aya_ebpf::{
    Global,
    bindings::BPF_F_NO_PREALLOC,
    macros::map,
    maps::{Array, HashMap, LpmTrie, PerCpuArray},
};
use shield_common::{
    Ban, Control, FILTER_V4_WORDS, FILTER_V6_WORDS, KeyV4, KeyV6, MAX_BANS_V4, MAX_BANS_V6, MAX_EXEMPT,
    MAX_NETWORKS, SLOTS, Totals,
};

#[map]
pub static BANS_V4: HashMap<KeyV4, Ban> = HashMap::with_max_entries(MAX_BANS_V4, BPF_F_NO_PREALLOC);
#[map]
pub static BANS_V6: HashMap<KeyV6, Ban> = HashMap::with_max_entries(MAX_BANS_V6, BPF_F_NO_PREALLOC);
#[map]
pub static NETWORKS_V4: LpmTrie<KeyV4, Ban> = LpmTrie::with_max_entries(MAX_NETWORKS, 0);
#[map]
pub static NETWORKS_V6: LpmTrie<KeyV6, Ban> = LpmTrie::with_max_entries(MAX_NETWORKS, 0);
#[map]
pub static EXEMPT_V4: LpmTrie<KeyV4, u32> = LpmTrie::with_max_entries(MAX_EXEMPT, 0);
#[map]
pub static EXEMPT_V6: LpmTrie<KeyV6, u32> = LpmTrie::with_max_entries(MAX_EXEMPT, 0);
#[map]
pub static FILTER_V4: Array<u64> = Array::with_max_entries(FILTER_V4_WORDS, 0);
#[map]
pub static FILTER_V6: Array<u64> = Array::with_max_entries(FILTER_V6_WORDS, 0);
#[map]
pub static CONTROL: Array<Control> = Array::with_max_entries(1, 0);
#[map]
pub static TOTALS: PerCpuArray<Totals> = PerCpuArray::with_max_entries(SLOTS, 0);

/// Length of the prefix that makes an IPv6 client.
#[unsafe(no_mangle)]
pub static IPV6_PREFIX: Global<u8> = Global::new(64);
/// This program's place in `TOTALS`.
#[unsafe(no_mangle)]
pub static SLOT: Global<u32> = Global::new(0);
/// One dropped packet in how many is logged; a power of two, or 0.
#[unsafe(no_mangle)]
pub static LOG_EVERY: Global<u32> = Global::new(0);
