//! Counters, per ban in its value and per program and CPU in `TOTALS`, and the sampling of drops for the log.

use aya_ebpf::helpers::{bpf_get_prandom_u32, generated::bpf_map_lookup_elem};
use core::intrinsics::{AtomicOrdering, atomic_xadd};
use shield_common::{Ban, Totals};

use crate::{
    maps::{COUNT_PASSED, LOG_EVERY, SLOT, TOTALS},
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

/// Changes this program's totals on this CPU. Plain additions, because the program never interrupts itself on one CPU.
///
/// Calls the helper directly: `aya`'s `get_ptr_mut` would load `SLOT` and store it on the stack, while the static itself
/// serves as the key.
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

/// Counts a packet let through. Removed by the verifier while `COUNT_PASSED` is 0.
#[inline(always)]
pub fn passed() {
    if COUNT_PASSED.load() != 0 {
        total(|totals| totals.passed += 1);
    }
}

/// Counts a dropped packet in its ban. Atomic, because all CPUs share the element.
#[inline(always)]
pub fn dropped(ban: *mut Ban, bytes: u64) {
    // SAFETY: `ban` points into a map value, which the kernel keeps while the program runs.
    unsafe {
        atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(&raw mut (*ban).packets, 1);
        atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(&raw mut (*ban).bytes, bytes);
    }
}

/// Draws whether to log this drop. Constant false while `LOG_EVERY` is 0, so that the verifier removes the code.
#[inline(always)]
pub fn is_sampled() -> bool {
    let every = LOG_EVERY.load();
    // SAFETY: the helper takes no argument.
    every != 0 && unsafe { bpf_get_prandom_u32() } & (every - 1) == 0
}
