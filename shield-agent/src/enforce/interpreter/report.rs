//! The events that the enforcers' threads report.

use std::sync::Arc;

use shield_engine::client::Client;
use shield_engine::event::{Outcome, PartReport};

/// An event for the engine.
#[derive(Debug, Clone, PartialEq)]
pub enum Report {
    /// The outcome of orders.
    Outcome(Outcome),
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

/// Receives reports, on the enforcers' threads.
pub(crate) type Reporter = Arc<dyn Fn(Report) + Send + Sync>;
