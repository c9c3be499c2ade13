//! Counters: per ban in its value, per program and CPU in `TOTALS`; and which drops are logged.

use aya_ebpf::helpers::{bpf_get_prandom_u32, generated::bpf_map_lookup_elem};
use core::intrinsics::{AtomicOrdering, atomic_xadd};
use shield_common::{Ban, Totals};

use crate::{
    maps::{LOG_EVERY, SLOT, TOTALS},
    packet::Unknown,
};

/// Counts a packet let through because its source is unknown.
#[inline(always)]
pub fn not_understood(unknown: Unknown) {
    total(|totals| match unknown {
        Unknown::NotIp => totals.not_ip += 1,
        Unknown::Malformed => totals.malformed += 1,
    });
}

/// Counts in this program's totals on this CPU. Never interrupted by itself, hence plain additions.
///
/// `aya`'s own way would read `SLOT` and store it as a key on the stack; where it stands already, it is a key as well.
#[inline(always)]
pub fn total(add: impl FnOnce(&mut Totals)) {
    let (map, key) = ((&raw const TOTALS).cast_mut(), &raw const SLOT);
    // SAFETY: a map and a key of its size. The kernel only reads the key.
    let totals: *mut Totals = unsafe { bpf_map_lookup_elem(map.cast(), key.cast()) }.cast();
    // SAFETY: null, or a pointer from the kernel to this CPU's own value, which is as large as `Totals`.
    if let Some(totals) = unsafe { totals.as_mut() } {
        add(totals);
    }
}

/// Counts a dropped packet in its ban, which all CPUs share.
#[inline(always)]
pub fn dropped(ban: *mut Ban, bytes: u64) {
    // SAFETY: `ban` points into a map value, which the kernel keeps while the program runs.
    unsafe {
        atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(&raw mut (*ban).packets, 1);
        atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(&raw mut (*ban).bytes, bytes);
    }
}

/// Whether this drop is one that is logged. Constant false, and removed by the verifier, while `LOG_EVERY` is 0.
#[inline(always)]
pub fn is_sampled() -> bool {
    let every = LOG_EVERY.load();
    // SAFETY: the helper takes no argument.
    every != 0 && unsafe { bpf_get_prandom_u32() } & (every - 1) == 0
}
