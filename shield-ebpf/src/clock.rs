//! The clock that ends bans. See `docs/adr/kernel-clock.md`.

use aya_ebpf::helpers::generated::bpf_jiffies64;
use shield_common::KernelTime;

/// Returns the ticks since boot. The kernel's JIT compiles the call to one load.
#[inline(always)]
pub fn now() -> KernelTime {
    // SAFETY: the helper takes no argument and only reads a counter.
    unsafe { bpf_jiffies64() }
}
