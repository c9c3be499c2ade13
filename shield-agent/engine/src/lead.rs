//! Which log's lines carry the time. Logs are read side by side, and the backlog of one has other times than what is written to
//! another one now.
//!
//! The time goes on by live lines while there are any: a backlog that set it back would empty the windows that bans are made of,
//! and those who attack now would hide behind an old file that is read. Among backlogs each has the time for its turn; what lies
//! between the times of two logs is no silence of the site, and is not learned as one.

use crate::vocab::request::{Batch, SourceId};
use crate::vocab::time::Now;

/// Without a live line for this long, a backlog may carry the time.
const LIVE_LEADS_MS: u64 = 60_000;

/// The log whose lines came last, and the last live ones.
#[derive(Debug, Default)]
pub(crate) struct Lead {
    last: Option<(Option<SourceId>, u32)>,
    live_at_ms: Option<u64>,
}

impl Lead {
    /// Notes whose lines come now; returns whether other ones came before.
    pub(crate) fn take(&mut self, batch: &Batch, now: Now) -> bool {
        if batch.live {
            self.live_at_ms = Some(now.boot_ms);
        }
        let this = (batch.source, batch.log);
        self.last.replace(this).is_some_and(|last| last != this)
    }

    /// Returns whether live lines carry the time.
    pub(crate) fn is_live(&self, now: Now) -> bool {
        self.live_at_ms.is_some_and(|at| now.boot_ms < at + LIVE_LEADS_MS)
    }
}
