//! What waits to be posted, in bounded memory, whatever happens on the way.

use shield_engine::action::Notice;

/// A receiver's own way to collect events and to put them into a body.
pub(crate) trait Mailbox: Send + 'static {
    /// Puts an event in, at its wall-clock time in milliseconds. Never refuses; what does not fit is counted.
    fn put(&mut self, notice: &Notice, at_ms: i64);

    /// Events that wait to be taken out.
    fn waiting(&self) -> u64;

    /// Takes the next body out; it must not be empty.
    fn take(&mut self) -> Parcel;

    /// So many events were taken out but could not be delivered.
    fn note_lost(&mut self, events: u64);
}

/// One body to post.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Parcel {
    /// JSON.
    pub body: String,
    /// Events that it tells of.
    pub events: u64,
    /// Which kind.
    pub kind: Kind,
}

/// How much a body tells of each event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Everything.
    Messages,
    /// Counts: there were too many to tell each, and so there may be more soon.
    Digest,
}
