//! Reads the clocks that the engine's time is made of. Timers and timeouts of the shell use `std::time::Instant` and
//! tokio's clock; nothing that the engine decides depends on those.
//!
//! In an environment of `shield-agent lab` the wall clock may be wrong on purpose: see [`ahead_ms`].

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::OnceLock;

use nix::time::{ClockId, clock_gettime};

use shield_engine::time::Now;

/// The wall clock and the boot clock.
pub fn now() -> Now {
    Now {
        wall_ms: read_ms(ClockId::CLOCK_REALTIME) + ahead_ms(),
        boot_ms: read_ms(ClockId::CLOCK_BOOTTIME) as u64,
    }
}

fn read_ms(clock: ClockId) -> i64 {
    let time = clock_gettime(clock).expect("these clocks exist on every Linux since 2.6.39");
    time.tv_sec() * 1000 + time.tv_nsec() / 1_000_000
}

/// How far an outage of a rehearsal has set the wall clock ahead. Only whoever starts the agent can set these variables, and
/// no service does.
fn ahead_ms() -> i64 {
    static FILE: OnceLock<Option<File>> = OnceLock::new();
    let open = || {
        std::env::var_os(shield_lab::environment::MARKER)?;
        // Made here, so that it can be held open before there is an outage.
        let path = std::env::var_os(shield_lab::launch::CLOCK)?;
        File::options().read(true).append(true).create(true).open(path).ok()
    };
    let Some(file) = FILE.get_or_init(open) else { return 0 };
    let mut text = [0; 20];
    let length = file.read_at(&mut text, 0).unwrap_or(0);
    let text = text.get(..length).and_then(|text| std::str::from_utf8(text).ok());
    text.and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}
