//! Time as the engine sees it: an argument. The one place that reads clocks is `crate::clock`.

use serde::{Deserialize, Serialize};

/// Seconds since the Unix epoch, as written in a log line (UTC after the offset is applied).
pub type EventSecs = i64;

/// One reading of both clocks, handed to the engine with every event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Now {
    /// Wall clock: milliseconds since the Unix epoch. Jumps with NTP and operators.
    pub wall_ms: i64,
    /// Time since boot in milliseconds, suspend included (`CLOCK_BOOTTIME`). Never jumps; bans end by it.
    pub boot_ms: u64,
}

impl Now {
    /// The wall clock in whole seconds.
    pub fn wall_secs(self) -> EventSecs {
        self.wall_ms.div_euclid(1000)
    }

    /// The same moment `ms` milliseconds later, on both clocks.
    pub fn plus_ms(self, ms: u64) -> Now {
        Now { wall_ms: self.wall_ms + ms as i64, boot_ms: self.boot_ms + ms }
    }
}

/// When a ban ends. Decided on the boot clock; the wall clock is what people are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ends {
    /// At this moment.
    At {
        /// The deadline on the boot clock, in milliseconds since boot: the one that counts.
        boot_ms: u64,
        /// The same moment on the wall clock as it stood when the ban was made or restored.
        wall_ms: i64,
    },
    /// Not by itself.
    Never,
}

impl Ends {
    /// The moment `ms` milliseconds after `now`.
    pub fn after(now: Now, ms: u64) -> Ends {
        let end = now.plus_ms(ms);
        Ends::At { boot_ms: end.boot_ms, wall_ms: end.wall_ms }
    }

    /// Milliseconds left at `now`; `None` for a permanent ban, 0 when the end has passed.
    pub fn remaining_ms(self, now: Now) -> Option<u64> {
        match self {
            Ends::At { boot_ms, .. } => Some(boot_ms.saturating_sub(now.boot_ms)),
            Ends::Never => None,
        }
    }

    /// Whether the end has come at `now`.
    pub fn is_past(self, now: Now) -> bool {
        self.remaining_ms(now) == Some(0)
    }
}
