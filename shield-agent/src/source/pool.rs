//! Used batches, kept for reuse: a batch is some hundred kilobytes that need not be allocated and zeroed again.

use std::sync::{Arc, Mutex, PoisonError};

use shield_engine::request::Batch;

/// Idle batches kept at most.
const MAX_IDLE: usize = 4;

/// Used batches. A clone shares the pool.
#[derive(Debug, Clone, Default)]
pub struct Pool(Arc<Mutex<Vec<Batch>>>);

impl Pool {
    /// Returns an empty batch, whose buffers may have capacity already.
    pub fn take(&self) -> Batch {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default()
    }

    /// Takes a batch back.
    pub fn give(&self, mut batch: Batch) {
        batch.lines.clear();
        // The bytes stay as they are: nothing points into them any more, and zeroing them would cost more than reading.
        batch.read_paths.clear();
        let bytes = std::mem::take(&mut batch.bytes);
        let empty = Batch { bytes, lines: batch.lines, read_paths: batch.read_paths, ..Batch::default() };
        let mut idle = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < MAX_IDLE {
            idle.push(empty);
        }
    }
}
