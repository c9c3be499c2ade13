//! The clock that bans end by. See `docs/adr/kernel-clock.md`.

use aya_ebpf::helpers::generated::bpf_jiffies64;
use shield_common::KernelTime;

/// Ticks since boot; the kernel's JIT makes this one load.
#[inline(always)]
pub fn now() -> KernelTime {
    // SAFETY: the helper takes no argument and only reads a counter.
    unsafe { bpf_jiffies64() }
}
