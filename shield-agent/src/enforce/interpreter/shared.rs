//! The state that the caller and all enforcers' threads share: the table of wanted bans and a lane for each enforcer.

use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};

use anyhow::Result;
use ipnet::IpNet;

use super::lane::{Lane, lock};
use super::queue::{Query, Queue};
use super::report::{Report, Reporter};
use super::settings::Settings;
use crate::enforce::ban::{Ban, Drops, Slow};
use crate::enforce::desired::Desired;
use shield_engine::action::Order;
use shield_engine::client::Client;
use shield_engine::event::EnforcerName;
use shield_engine::time::Now;

/// The input of `Interpreter::start`.
pub struct Start {
    /// Bans to put in force at once (restored ones), with their serial numbers.
    pub desired: Desired,
    /// Networks that pass even inside a banned network.
    pub exempt: Vec<IpNet>,
    /// Clients to slow at once (restored ones).
    pub slowed: Vec<Slow>,
    /// Reads the clocks; a parameter for tests.
    pub clock: fn() -> Now,
    /// The intervals.
    pub settings: Settings,
}

/// Shared by the caller and all threads.
pub(super) struct Shared {
    desired: RwLock<Desired>,
    /// Orders that are queued but not yet in `desired`, because a thread was reading it.
    backlog: Mutex<Vec<Order>>,
    exempt: Mutex<Arc<[IpNet]>>,
    /// With the version of the list, so that an older one never replaces a newer one.
    slowed: Mutex<(u64, Arc<[Slow]>)>,
    pub(super) lanes: Vec<Lane>,
    pub(super) report: Reporter,
    pub(super) clock: fn() -> Now,
    pub(super) settings: Settings,
}

impl Shared {
    pub(super) fn new(names: impl Iterator<Item = EnforcerName>, start: Start, report: Reporter) -> Shared {
        Shared {
            desired: RwLock::new(start.desired),
            backlog: Mutex::default(),
            exempt: Mutex::new(start.exempt.into()),
            slowed: Mutex::new((0, start.slowed.into())),
            lanes: names.map(Lane::new).collect(),
            report,
            clock: start.clock,
            settings: start.settings,
        }
    }

    pub(super) fn submit(&self, orders: Vec<Order>) {
        // First the backlog, then the queues, then the table: see `quiet`.
        lock(&self.backlog)
            .extend(orders.iter().filter(|o| matches!(o, Order::Ban { .. } | Order::Lift { .. })));
        self.for_each_queue(|queue| orders.iter().for_each(|order| queue.push(order)));
        self.sample(&orders);
        self.settle();
    }

    pub(super) fn for_each_queue(&self, change: impl Fn(&mut Queue)) {
        for lane in &self.lanes {
            change(&mut lock(&lane.queue));
            lane.wake.notify_one();
        }
    }

    /// Brings the table up to date, unless a thread is reading it: that thread does it when done.
    pub(super) fn settle(&self) {
        let Ok(mut desired) = self.desired.try_write() else { return };
        for order in lock(&self.backlog).drain(..) {
            match order {
                Order::Ban { client, ends, serial } => desired.insert(Ban { client, ends }, serial),
                Order::Lift { client, .. } => drop(desired.remove(&client)),
                Order::AllowlistChanged | Order::SlowedChanged | Order::SampleActivity { .. } => {}
            }
        }
    }

    pub(super) fn read_desired(&self) -> RwLockReadGuard<'_, Desired> {
        self.desired.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the table if it holds exactly the orders that this lane's enforcer has received, `None` otherwise.
    ///
    /// Every order is in the backlog before it is in a queue, and in a queue before it is in the table. So while the
    /// table is held for reading, an empty backlog means that every order taken from the queue is in the table, and an
    /// empty queue means that every order in the table was taken.
    pub(super) fn quiet(&self, lane: &Lane) -> Option<RwLockReadGuard<'_, Desired>> {
        self.settle();
        let desired = self.read_desired();
        let quiet = lock(&self.backlog).is_empty() && lock(&lane.queue).is_quiet();
        quiet.then_some(desired)
    }

    pub(super) fn set_exempt(&self, networks: Vec<IpNet>) {
        *lock(&self.exempt) = networks.into();
        self.for_each_queue(Queue::change_exempt);
    }

    pub(super) fn exempt(&self) -> Arc<[IpNet]> {
        Arc::clone(&lock(&self.exempt))
    }

    pub(super) fn set_slowed(&self, version: u64, slowed: Vec<Slow>) {
        let mut current = lock(&self.slowed);
        if version <= current.0 {
            return;
        }
        *current = (version, slowed.into());
        drop(current);
        self.for_each_queue(Queue::change_slowed);
    }

    pub(super) fn slowed(&self) -> Arc<[Slow]> {
        Arc::clone(&lock(&self.slowed).1)
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
