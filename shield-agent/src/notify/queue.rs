//! The queue of events in front of a receiver: bounded in memory, whatever fails behind it.

use super::Links;
use shield_engine::action::Notice;

/// A receiver's way to collect events and to encode them into bodies.
pub(crate) trait EventQueue: Send + 'static {
    /// Adds an event with its wall-clock time in milliseconds. Never blocks and never fails: a ban must not wait for a
    /// chat. Events beyond the bound are counted instead.
    fn push(&mut self, notice: &Notice, at_ms: i64);

    /// Links to the page from now on, for those that have links.
    fn link_to(&mut self, _: &Links) {}

    /// Whether the next body is one that must not wait for others to be gathered.
    fn is_urgent(&self) -> bool {
        false
    }

    /// Number of events not taken yet.
    fn waiting(&self) -> u64;

    /// Takes the next body; the queue must not be empty.
    fn take(&mut self) -> Payload;

    /// Counts events that were taken but could not be delivered; the next body reports them.
    fn count_lost(&mut self, events: u64);
}

/// One body to post.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Payload {
    /// JSON.
    pub body: String,
    /// Events that it covers.
    pub events: u64,
    pub kind: Kind,
}

/// Detail of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Every event in full.
    Messages,
    /// Counts only: there were too many events to send each.
    Digest,
}
