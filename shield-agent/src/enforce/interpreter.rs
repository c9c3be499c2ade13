//! The interpreter of enforcement orders: a thread and a queue for each enforcer, and the shared table of wanted bans.
//!
//! Owns the timing: new bans first, lifts in pieces, a cheap check every 2 s, a full reconcile every 30 s, retries of a
//! failed start. The enforcers own what happens in the kernel, the engine what an outcome means. Nothing here blocks the
//! caller. Each thread's loop is in `worker`.

mod failures;
mod queue;
mod schedule;
mod stage;
#[cfg(test)]
mod tests;
mod urgent;
mod worker;

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};
use std::thread::JoinHandle;

use anyhow::{Result, anyhow};
use ipnet::IpNet;
use tokio::sync::oneshot;

use super::{Desired, Drops, Enforcer};
use queue::{Query, Queue};
use shield_engine::action::Order;
use shield_engine::client::Client;
use shield_engine::event::{EnforcerName, Outcome, PartReport, PartState};
use shield_engine::time::Now;
use worker::Worker;

/// Intervals in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Between cheap checks that an enforcer is still as it was left.
    pub check_every_ms: u64,
    /// Between full reconciles.
    pub reconcile_every_ms: u64,
    /// Between readings of the drop totals.
    pub totals_every_ms: u64,
    /// Between the first failed start of an enforcer and the next attempt; doubled each time.
    pub retry_first_ms: u64,
    /// The longest interval between two such attempts.
    pub retry_at_most_ms: u64,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            check_every_ms: 2_000,
            reconcile_every_ms: 30_000,
            totals_every_ms: 1_000,
            retry_first_ms: 1_000,
            retry_at_most_ms: 60_000,
        }
    }
}

/// The input of [`Interpreter::start`].
pub struct Start {
    /// Bans to put in force at once (restored ones), with their serial numbers.
    pub desired: Desired,
    /// Networks that pass even inside a banned network.
    pub exempt: Vec<IpNet>,
    /// Reads the clocks; a parameter for tests.
    pub clock: fn() -> Now,
    /// The intervals.
    pub settings: Settings,
}

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

/// The threads and queues. Dropping it ends the threads after the order in hand; the bans in the kernel stay.
pub struct Interpreter {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

/// Shared by the caller and all threads.
pub(crate) struct Shared {
    desired: RwLock<Desired>,
    /// Orders that are queued but not yet in `desired`, because a thread was reading it.
    backlog: Mutex<Vec<Order>>,
    exempt: Mutex<Arc<[IpNet]>>,
    lanes: Vec<Lane>,
    report: Reporter,
    clock: fn() -> Now,
    settings: Settings,
}

/// One enforcer's queue and last known state.
pub(crate) struct Lane {
    name: EnforcerName,
    queue: Mutex<Queue>,
    wake: Condvar,
    view: Mutex<View>,
}

/// The part of an enforcer's state that is read without waiting for it.
#[derive(Debug, Clone)]
struct View {
    state: PartState,
    total: Drops,
}

/// Locks even a poisoned mutex: every update under these locks is complete or harmless when a thread panics.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Interpreter {
    /// Starts one thread for each enforcer. The thread sets its enforcer up, puts `start.desired` in force and then follows
    /// orders. Returns at once. `report` is called on those threads and may block them.
    ///
    /// # Errors
    /// When a thread cannot be started.
    pub fn start(
        enforcers: Vec<Box<dyn Enforcer>>,
        start: Start,
        report: impl Fn(Report) + Send + Sync + 'static,
    ) -> Result<Interpreter> {
        let shared = Arc::new(Shared::new(enforcers.iter().map(|e| e.name()), start, Arc::new(report)));
        let mut interpreter = Interpreter { shared, threads: Vec::new() };
        for (at, enforcer) in enforcers.into_iter().enumerate() {
            let worker = Worker::new(enforcer, Arc::clone(&interpreter.shared), at);
            let thread = std::thread::Builder::new().name(format!("enforce-{}", worker.name()));
            interpreter.threads.push(thread.spawn(move || worker.run())?);
        }
        Ok(interpreter)
    }

    /// Takes orders, in the order given. Never blocks on an enforcer.
    ///
    /// Ignores `Order::AllowlistChanged`: the owner of the allowlist calls [`Interpreter::set_exempt`] with the new networks.
    pub fn submit(&self, orders: Vec<Order>) {
        self.shared.submit(orders);
    }

    /// Replaces the networks that pass even inside a banned network.
    pub fn set_exempt(&self, networks: Vec<IpNet>) {
        *lock(&self.shared.exempt) = networks.into();
        self.shared.for_each_queue(Queue::change_exempt);
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

    /// Returns what each enforcer dropped in total, as of the last reading (a second ago, longer on an idle server).
    pub fn totals(&self) -> Vec<(EnforcerName, Drops)> {
        self.shared.lanes.iter().map(|lane| (lane.name, lock(&lane.view).total)).collect()
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

impl Shared {
    fn new(names: impl Iterator<Item = EnforcerName>, start: Start, report: Reporter) -> Shared {
        Shared {
            desired: RwLock::new(start.desired),
            backlog: Mutex::default(),
            exempt: Mutex::new(start.exempt.into()),
            lanes: names.map(Lane::new).collect(),
            report,
            clock: start.clock,
            settings: start.settings,
        }
    }

    fn submit(&self, orders: Vec<Order>) {
        // First the backlog, then the queues, then the table: see `quiet`.
        lock(&self.backlog)
            .extend(orders.iter().filter(|o| matches!(o, Order::Ban { .. } | Order::Lift { .. })));
        self.for_each_queue(|queue| orders.iter().for_each(|order| queue.push(order)));
        self.sample(&orders);
        self.settle();
    }

    fn for_each_queue(&self, change: impl Fn(&mut Queue)) {
        for lane in &self.lanes {
            change(&mut lock(&lane.queue));
            lane.wake.notify_one();
        }
    }

    /// Brings the table up to date, unless a thread is reading it: that thread does it when done.
    fn settle(&self) {
        let Ok(mut desired) = self.desired.try_write() else { return };
        for order in lock(&self.backlog).drain(..) {
            match order {
                Order::Ban { client, ends, serial } => desired.insert(super::Ban { client, ends }, serial),
                Order::Lift { client, .. } => drop(desired.remove(&client)),
                Order::AllowlistChanged | Order::SampleActivity { .. } => {}
            }
        }
    }

    fn read_desired(&self) -> RwLockReadGuard<'_, Desired> {
        self.desired.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the table if it holds exactly the orders that this lane's enforcer has received, `None` otherwise.
    ///
    /// Every order is in the backlog before it is in a queue, and in a queue before it is in the table. So while the
    /// table is held for reading, an empty backlog means that every order taken from the queue is in the table, and an
    /// empty queue means that every order in the table was taken.
    fn quiet(&self, lane: &Lane) -> Option<RwLockReadGuard<'_, Desired>> {
        self.settle();
        let desired = self.read_desired();
        let quiet = lock(&self.backlog).is_empty() && lock(&lane.queue).is_quiet();
        quiet.then_some(desired)
    }

    fn exempt(&self) -> Arc<[IpNet]> {
        Arc::clone(&lock(&self.exempt))
    }

    /// Queries every enforcer for the drops of the sampled clients; the last to answer reports the sums.
    fn sample(&self, orders: &[Order]) {
        let samples: Vec<(Client, u64)> = orders
            .iter()
            .filter_map(|order| match order {
                Order::SampleActivity { client, serial } => Some((*client, *serial)),
                _ => None,
            })
            .collect();
        if samples.is_empty() {
            return;
        }
        let clients: Arc<[Client]> = samples.iter().map(|(client, _)| *client).collect();
        let sum = Arc::new(SampleSum::new(samples, Arc::clone(&self.report)));
        for lane in &self.lanes {
            let sum = Arc::clone(&sum);
            let answer = Box::new(move |drops: Result<Vec<_>>| sum.add(&drops.unwrap_or_default()));
            lane.query(Query { clients: Arc::clone(&clients), answer });
        }
    }
}

/// Sums the enforcers' drops of sampled clients. Reports when dropped, hence even if an enforcer never answers.
struct SampleSum {
    samples: Vec<(Client, u64)>,
    packets: Mutex<Vec<u64>>,
    report: Reporter,
}

impl SampleSum {
    fn new(samples: Vec<(Client, u64)>, report: Reporter) -> SampleSum {
        let packets = Mutex::new(vec![0; samples.len()]);
        SampleSum { samples, packets, report }
    }

    fn add(&self, drops: &[Option<Drops>]) {
        for (sum, drops) in lock(&self.packets).iter_mut().zip(drops) {
            *sum += drops.map_or(0, |drops| drops.packets);
        }
    }
}

impl Drop for SampleSum {
    fn drop(&mut self) {
        for ((client, serial), packets) in self.samples.iter().zip(lock(&self.packets).iter()) {
            (self.report)(Report::Activity { client: *client, serial: *serial, packets: *packets });
        }
    }
}

impl Lane {
    fn new(name: EnforcerName) -> Lane {
        let state = PartState::Waiting { reason: "starting".to_owned() };
        Lane {
            name,
            queue: Mutex::default(),
            wake: Condvar::new(),
            view: Mutex::new(View { state, total: Drops::default() }),
        }
    }

    fn query(&self, query: Query) {
        lock(&self.queue).push_query(query);
        self.wake.notify_one();
    }

    fn query_drops(&self, clients: Arc<[Client]>) -> oneshot::Receiver<Result<Vec<Option<Drops>>>> {
        let (sender, receiver) = oneshot::channel();
        self.query(Query { clients, answer: Box::new(move |drops| drop(sender.send(drops))) });
        receiver
    }

    #[cfg(any(test, feature = "test-support"))]
    fn request_reconcile(&self) -> oneshot::Receiver<Result<Option<shield_engine::event::Repair>>> {
        let (sender, receiver) = oneshot::channel();
        lock(&self.queue).request_reconcile(sender);
        self.wake.notify_one();
        receiver
    }
}
