//! The interpreter of enforcement orders: a thread and a queue for each enforcer, and the shared table of wanted bans.
//!
//! Owns the timing: new bans first, lifts in pieces, a cheap check every 2 s, a full reconcile every 30 s, retries of a
//! failed start. The enforcers own what happens in the kernel, the engine what an outcome means. Nothing here blocks the
//! caller. Each thread's loop is in `worker`.

mod failures;
mod lane;
mod queue;
pub(crate) mod report;
mod schedule;
pub(crate) mod settings;
pub(crate) mod shared;
mod stage;
pub(crate) mod tables;
#[cfg(test)]
mod tests;
mod urgent;
mod worker;

use std::sync::Arc;
use std::thread::JoinHandle;

use anyhow::{Result, anyhow};
use ipnet::IpNet;

use self::lane::lock;
use self::queue::Queue;
pub(crate) use self::report::Report;
pub(crate) use self::settings::Settings;
pub(crate) use self::shared::Start;
use self::shared::{Copied, Shared};
use self::worker::Worker;
use super::ahead::Ahead;
use super::ban::{Drops, Slow};
#[cfg(any(test, feature = "test-support"))]
use super::enforcer::Enforcer;
use crate::beat::Beats;
use shield_engine::action::Order;
use shield_engine::client::Client;
use shield_engine::event::{EnforcerName, PartState};

/// The threads and queues. Dropping it ends the threads after the order in hand; the bans in the kernel stay.
pub struct Interpreter {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Interpreter {
    /// As [`Interpreter::start_watched`], without anybody who watches.
    ///
    /// # Errors
    /// When a thread cannot be started.
    #[cfg(any(test, feature = "test-support"))]
    pub fn start(
        enforcers: Vec<Box<dyn Enforcer>>,
        start: Start,
        report: impl Fn(Report) + Send + Sync + 'static,
    ) -> Result<Interpreter> {
        let enforcers = enforcers.into_iter().map(Ahead::Fresh).collect();
        Interpreter::start_watched(enforcers, start, &Beats::default(), report)
    }

    /// Starts one thread for each enforcer. The thread sets its enforcer up, unless that has begun before, puts `start.desired`
    /// in force and then follows orders. Returns at once. `report` is called on those threads and may block them; `beats`
    /// watches them.
    ///
    /// # Errors
    /// When a thread cannot be started.
    pub(crate) fn start_watched(
        enforcers: Vec<Ahead>,
        start: Start,
        beats: &Beats,
        report: impl Fn(Report) + Send + Sync + 'static,
    ) -> Result<Interpreter> {
        let shared = Arc::new(Shared::new(enforcers.iter().map(|e| e.name()), start, Arc::new(report)));
        let mut interpreter = Interpreter { shared, threads: Vec::new() };
        for (at, enforcer) in enforcers.into_iter().enumerate() {
            interpreter.shared.lanes[at].watch(beats);
            let thread = std::thread::Builder::new().name(format!("enforce-{}", enforcer.name().name()));
            let shared = Arc::clone(&interpreter.shared);
            let work = move || Worker::new(enforcer.finish(), shared, at).run();
            interpreter.threads.push(thread.spawn(work)?);
        }
        Ok(interpreter)
    }

    /// Takes orders, in the order given. Never blocks on an enforcer.
    ///
    /// Ignores `Order::AllowlistChanged` and `Order::SlowedChanged`: whoever has the lists calls [`Interpreter::set_exempt`] and
    /// [`Interpreter::set_slowed`].
    pub fn submit(&self, orders: Vec<Order>) {
        self.shared.submit(orders);
    }

    /// Replaces the networks that pass even inside a banned network.
    pub fn set_exempt(&self, networks: Vec<IpNet>) {
        self.shared.set_exempt(networks);
    }

    /// Replaces the list of slowed clients, unless a newer version of it was set before.
    pub fn set_slowed(&self, version: u64, slowed: Vec<Slow>) {
        self.shared.set_slowed(version, slowed);
    }

    /// Reconciles every enforcer now and returns the repairs once all are done. The agent itself reconciles by the clock.
    #[cfg(any(test, feature = "test-support"))]
    pub async fn reconcile_now(&self) -> Vec<(EnforcerName, Result<Option<shield_engine::event::Repair>>)> {
        let queries: Vec<_> =
            self.shared.lanes.iter().map(|lane| (lane.name, lane.request_reconcile())).collect();
        let mut results = Vec::with_capacity(queries.len());
        for (name, answer) in queries {
            results.push((name, answer.await.unwrap_or_else(|_| Err(stopped(name)))));
        }
        results
    }

    /// Returns what each enforcer dropped of these clients since their bans; `None` where it does not know.
    pub async fn drops(&self, clients: Vec<Client>) -> Vec<(EnforcerName, Result<Vec<Option<Drops>>>)> {
        let clients: Arc<[Client]> = clients.into();
        let queries: Vec<_> = self
            .shared
            .lanes
            .iter()
            .map(|lane| (lane.name, lane.query_drops(Arc::clone(&clients))))
            .collect();
        let mut results = Vec::with_capacity(queries.len());
        for (name, answer) in queries {
            results.push((name, answer.await.unwrap_or_else(|_| Err(stopped(name)))));
        }
        results
    }

    /// Grows with every change of what [`Interpreter::copy`] returns.
    pub(crate) fn version(&self) -> u64 {
        self.shared.version()
    }

    /// Copies the bans that should be in force. For a thread that may block for a moment.
    pub(crate) fn copy(&self) -> Copied {
        self.shared.copy()
    }

    /// Returns what each enforcer dropped in total, as of the last reading (a second ago, longer on an idle server).
    pub fn totals(&self) -> Vec<(EnforcerName, Drops)> {
        self.shared.lanes.iter().map(|lane| (lane.name, lock(&lane.view).total)).collect()
    }

    /// Returns whether an enforcer's own work succeeds, whatever its state says of others'.
    pub(crate) fn works(&self, name: EnforcerName) -> bool {
        self.shared.lanes.iter().any(|lane| lane.name == name && lock(&lane.view).works)
    }

    /// Returns the state of each enforcer.
    pub fn states(&self) -> Vec<(EnforcerName, PartState)> {
        self.shared.lanes.iter().map(|lane| (lane.name, lock(&lane.view).state.clone())).collect()
    }
}

impl Drop for Interpreter {
    fn drop(&mut self) {
        self.shared.for_each_queue(Queue::stop);
        for thread in self.threads.drain(..) {
            // A worker catches its enforcer's panics; a panic of the report callback was printed where it happened.
            let _ = thread.join();
        }
    }
}

fn stopped(name: EnforcerName) -> anyhow::Error {
    anyhow!("the {} enforcer's thread has stopped", name.name())
}
