//! One enforcer as the other threads reach it: its queue, and its state as of its last report.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use anyhow::Result;
use tokio::sync::oneshot;

use super::queue::{Query, Queue};
use crate::beat::{Beat, Beats, Limits};
use crate::enforce::ban::Drops;
use shield_engine::client::Client;
use shield_engine::event::{EnforcerName, PartState};

/// The time without a sign after which an enforcer counts as hanging. The longest single step, filling sets with a million bans,
/// takes seconds; iptables waits for a lock of others for longer.
const STALLED: Limits = Limits::of_part(60_000);

/// One enforcer's queue and last known state.
pub(super) struct Lane {
    pub(super) name: EnforcerName,
    pub(super) queue: Mutex<Queue>,
    pub(super) wake: Condvar,
    pub(super) view: Arc<Mutex<View>>,
    beat: OnceLock<Beat>,
}

/// The part of an enforcer's state that is read without waiting for it.
#[derive(Debug, Clone)]
pub(super) struct View {
    pub(super) state: PartState,
    /// Its own work succeeds, whatever its state says of others'.
    pub(super) works: bool,
    pub(super) total: Drops,
}

/// Locks even a poisoned mutex: every update under these locks is complete or harmless when a thread panics.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Lane {
    pub(super) fn new(name: EnforcerName) -> Lane {
        let state = PartState::Waiting { reason: "starting".to_owned() };
        Lane {
            name,
            queue: Mutex::default(),
            wake: Condvar::new(),
            view: Arc::new(Mutex::new(View { state, works: false, total: Drops::default() })),
            beat: OnceLock::new(),
        }
    }

    /// Has the lane's thread watched.
    pub(super) fn watch(&self, beats: &Beats) {
        let view = Arc::clone(&self.view);
        let beat = beats.part(self.name.name(), STALLED, move || lock(&view).state.clone());
        // Fails when it is watched already.
        let _ = self.beat.set(beat);
    }

    /// Says that the lane's thread goes on.
    pub(super) fn working(&self) {
        self.beat.get().into_iter().for_each(Beat::working);
    }

    /// Says that it sleeps for so long at most.
    pub(super) fn resting(&self, at_most: Duration) {
        self.beat.get().into_iter().for_each(|beat| beat.resting(at_most));
    }

    pub(super) fn query(&self, query: Query) {
        lock(&self.queue).push_query(query);
        self.wake.notify_one();
    }

    pub(super) fn query_drops(
        &self,
        clients: Arc<[Client]>,
    ) -> oneshot::Receiver<Result<Vec<Option<Drops>>>> {
        let (sender, receiver) = oneshot::channel();
        self.query(Query { clients, answer: Box::new(move |drops| drop(sender.send(drops))) });
        receiver
    }

    #[cfg(any(test, feature = "test-support"))]
    pub(super) fn request_reconcile(
        &self,
    ) -> oneshot::Receiver<Result<Option<shield_engine::event::Repair>>> {
        let (sender, receiver) = oneshot::channel();
        lock(&self.queue).request_reconcile(sender);
        self.wake.notify_one();
        receiver
    }
}
