//! Reads the clocks that the engine's time is made of. Timers and timeouts of the shell use `std::time::Instant` and
//! tokio's clock; nothing that the engine decides depends on those.

use nix::time::{ClockId, clock_gettime};

use shield_engine::time::Now;

/// The wall clock and the boot clock.
pub fn now() -> Now {
    Now { wall_ms: read_ms(ClockId::CLOCK_REALTIME), boot_ms: read_ms(ClockId::CLOCK_BOOTTIME) as u64 }
}

fn read_ms(clock: ClockId) -> i64 {
    let time = clock_gettime(clock).expect("these clocks exist on every Linux since 2.6.39");
    time.tv_sec() * 1000 + time.tv_nsec() / 1_000_000
}
