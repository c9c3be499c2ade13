//! The maps and the constants set at load time. Layouts and names are in `shield-common`.
//!
//! Hash maps are not preallocated, for two reasons: only existing bans take memory, and a removed element stays valid until
//! the program is done with its packet (RCU), where a preallocated one could be reused under it.

use aya_ebpf::{
    Global,
    bindings::BPF_F_NO_PREALLOC,
    macros::map,
    maps::{Array, HashMap, LpmTrie, PerCpuArray},
};
use shield_common::{
    Ban, Control, FILTER_V4_WORDS, FILTER_V6_WORDS, KeyV4, KeyV6, MAX_BANS_V4, MAX_BANS_V6, MAX_EXEMPT,
    MAX_NETWORKS, MAX_SLOWED, SLOTS, Slow, Totals, mask_v6,
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
pub static SLOW_V4: HashMap<KeyV4, Slow> = HashMap::with_max_entries(MAX_SLOWED, BPF_F_NO_PREALLOC);
#[map]
pub static SLOW_V6: HashMap<KeyV6, Slow> = HashMap::with_max_entries(MAX_SLOWED, BPF_F_NO_PREALLOC);
#[map]
pub static SLOW_NETWORKS_V6: HashMap<KeyV6, Slow> = HashMap::with_max_entries(MAX_SLOWED, BPF_F_NO_PREALLOC);
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
/// The mask of that length.
#[unsafe(no_mangle)]
pub static IPV6_MASK: Global<[u64; 2]> = Global::new(mask_v6(64));
/// The index of this program's element in `TOTALS`.
#[unsafe(no_mangle)]
pub static SLOT: Global<u32> = Global::new(0);
/// 1 to count packets that pass.
#[unsafe(no_mangle)]
pub static COUNT_PASSED: Global<u8> = Global::new(0);
/// Logs one dropped packet in this many; a power of two, or 0 for none.
#[unsafe(no_mangle)]
pub static LOG_EVERY: Global<u32> = Global::new(0);
