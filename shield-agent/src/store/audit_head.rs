//! What the database remembers of the audit log: its last line. The chain of hashes cannot show that its own end is missing;
//! an end that is remembered elsewhere can. Somebody with root can change both.

use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

/// The last line of an audit log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditHead {
    /// The log's path: another log has another chain.
    pub path: String,
    pub seq: u64,
    pub hash: String,
}

/// The newest head, from whoever writes the log to whoever writes the database. A clone is the same.
#[derive(Debug, Clone, Default)]
pub(crate) struct AuditHeads(Arc<Mutex<Option<AuditHead>>>);

impl AuditHeads {
    pub(crate) fn set(&self, head: AuditHead) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(head);
    }

    pub(crate) fn newest(&self) -> Option<AuditHead> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
