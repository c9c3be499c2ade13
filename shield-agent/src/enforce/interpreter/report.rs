//! The events that the enforcers' threads report.

use std::sync::Arc;

use shield_engine::client::Client;
use shield_engine::event::{Outcome, PartReport};

/// An event for the engine.
#[derive(Debug, Clone, PartialEq)]
pub enum Report {
    /// The outcome of orders.
    Outcome(Outcome),
    /// The outcome of a piece of the bans that were there at the start. Whoever has worked it in drops it, and then the next one comes:
    /// there may be millions of bans, and an engine that is behind must not have them all in its queue.
    Restored(Outcome, UnderWay),
    /// An enforcer changed its state, or repaired something.
    Part(PartReport),
    /// The answer to `Order::SampleActivity`: the packets dropped since the ban, over all enforcers that count.
    Activity {
        /// The sampled client.
        client: Client,
        /// The ban's serial number.
        serial: u64,
        /// 0 where no enforcer knows.
        packets: u64,
    },
}

/// Pieces of a long report that are under way at once.
const AT_ONCE: usize = 8;

/// Stands for a piece of a long report, until it is dropped.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct UnderWay(Arc<()>);

impl UnderWay {
    /// Whether as many pieces as may be are under way, besides this one that they are all made from.
    pub(super) fn is_full(&self) -> bool {
        Arc::strong_count(&self.0) > AT_ONCE
    }
}

/// Receives reports, on the enforcers' threads.
pub(crate) type Reporter = Arc<dyn Fn(Report) + Send + Sync>;
