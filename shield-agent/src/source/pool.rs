//! Batches that were used up, to be filled again: a batch is some hundred kilobytes that need not be made anew.

use std::sync::{Arc, Mutex, PoisonError};

use shield_engine::request::Batch;

/// More than this many idle batches are not kept.
const MAX_IDLE: usize = 4;

/// Give used batches back, take empty ones. Cloning shares the pool.
#[derive(Debug, Clone, Default)]
pub struct Pool(Arc<Mutex<Vec<Batch>>>);

impl Pool {
    /// An empty batch; its buffers may have room already.
    pub fn take(&self) -> Batch {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default()
    }

    /// Gives a batch back when its lines were dealt with.
    pub fn give(&self, mut batch: Batch) {
        batch.lines.clear();
        // The bytes stay as they are: nothing points into them, and zeroing them again would cost more than reading.
        let empty = Batch { bytes: std::mem::take(&mut batch.bytes), lines: batch.lines, ..Batch::default() };
        let mut idle = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < MAX_IDLE {
            idle.push(empty);
        }
    }
}
