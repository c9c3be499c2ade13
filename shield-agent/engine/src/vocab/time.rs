//! Time as the engine sees it: an argument. Only `shield-agent`'s `clock` reads clocks.

use serde::{Deserialize, Serialize};

/// Seconds since the Unix epoch, as written in a log line (UTC, after applying the offset).
pub type EventSecs = i64;

/// A reading of both clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Now {
    /// Wall clock: milliseconds since the Unix epoch. Jumps with NTP and operators.
    pub wall_ms: i64,
    /// Milliseconds since boot, suspend included (`CLOCK_BOOTTIME`). Never jumps, so bans end by it.
    pub boot_ms: u64,
}

impl Now {
    pub fn wall_secs(self) -> EventSecs {
        self.wall_ms.div_euclid(1000)
    }

    /// The moment `ms` milliseconds later, on both clocks.
    pub fn plus_ms(self, ms: u64) -> Now {
        Now { wall_ms: self.wall_ms + ms as i64, boot_ms: self.boot_ms + ms }
    }
}

/// The end of a ban. The boot clock decides; the wall clock is for display.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ends {
    At {
        /// The deadline, in milliseconds since boot.
        boot_ms: u64,
        /// The same moment on the wall clock as it stood when the ban was made or restored.
        wall_ms: i64,
    },
    /// Permanent.
    Never,
}

/// A duration in at most two units, largest first: `45 s`, `10 min`, `2 h 5 min`, `3 d`. The rest is cut, not rounded.
pub fn duration_words(secs: u64) -> String {
    const UNITS: [(u64, &str); 4] = [(86_400, "d"), (3_600, "h"), (60, "min"), (1, "s")];
    let Some(at) = UNITS.iter().position(|(size, _)| secs >= *size) else { return "0 s".to_owned() };
    let (size, name) = UNITS[at];
    let whole = format!("{} {name}", secs / size);
    match UNITS.get(at + 1).map(|(next, name)| (secs % size / next, name)) {
        Some((rest, name)) if rest > 0 => format!("{whole} {rest} {name}"),
        _ => whole,
    }
}

impl Ends {
    /// The moment `ms` milliseconds after `now`.
    pub fn after(now: Now, ms: u64) -> Ends {
        let end = now.plus_ms(ms);
        Ends::At { boot_ms: end.boot_ms, wall_ms: end.wall_ms }
    }

    /// Milliseconds left at `now`: 0 once the end has passed, `None` for a permanent ban.
    pub fn remaining_ms(self, now: Now) -> Option<u64> {
        match self {
            Ends::At { boot_ms, .. } => Some(boot_ms.saturating_sub(now.boot_ms)),
            Ends::Never => None,
        }
    }

    pub fn is_past(self, now: Now) -> bool {
        self.remaining_ms(now) == Some(0)
    }
}
