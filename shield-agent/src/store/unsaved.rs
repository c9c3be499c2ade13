//! The records that are not in the database yet, seen from beside the writer: while it cannot be written, the database does
//! not know who is banned, and an answer from it would be an empty truth.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::held::Held;
use shield_engine::action::BanRecord;
use shield_engine::client::Client;

/// A clone is the same.
#[derive(Debug, Clone)]
pub struct Unsaved {
    held: Arc<Mutex<Held>>,
    is_behind: Arc<AtomicBool>,
}

impl Unsaved {
    pub(super) fn new(held: Held) -> Unsaved {
        Unsaved { held: Arc::new(Mutex::new(held)), is_behind: Arc::default() }
    }

    pub(super) fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_behind(&self, is_behind: bool) {
        self.is_behind.store(is_behind, Ordering::Relaxed);
    }

    /// Whether the database lacks bans: it cannot be written, or not all that was held was written yet, or some of it was
    /// too much to hold.
    pub(crate) fn is_behind(&self) -> bool {
        self.is_behind.load(Ordering::Relaxed)
    }

    /// A client's ban that is not in the database.
    pub(crate) fn ban(&self, client: Client) -> Option<BanRecord> {
        self.held().ban(client).cloned()
    }

    /// The clients whose bans are not in the database and of this site.
    pub(crate) fn clients_of_site(&self, site: &str) -> HashSet<Client> {
        self.held().clients_of_site(site).collect()
    }
}
