//! The state that the caller and all enforcers' threads share: the table of wanted bans and a lane for each enforcer.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLockReadGuard};

use anyhow::Result;
use ipnet::IpNet;

use super::lane::{Lane, lock};
use super::queue::{Query, Queue};
use super::report::{Report, Reporter};
use super::settings::Settings;
use super::tables::{Side, Table, Tables, Wants};
use crate::enforce::ban::{Drops, Slow};
use crate::enforce::desired::Desired;
use shield_engine::action::Order;
use shield_engine::client::Client;
use shield_engine::event::EnforcerName;
use shield_engine::time::Now;

/// The input of `Interpreter::start`.
pub struct Start {
    /// Bans to put in force at once (restored ones), with their serial numbers.
    pub desired: Tables,
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
    wants: Wants,
    exempt: Mutex<Arc<[IpNet]>>,
    /// With the version of the list, so that an older one never replaces a newer one.
    slowed: Mutex<(u64, Arc<[Slow]>)>,
    /// Grows after every change of what is wanted, for [`Shared::copy`].
    version: AtomicU64,
    pub(super) lanes: Vec<Lane>,
    pub(super) report: Reporter,
    pub(super) clock: fn() -> Now,
    pub(super) settings: Settings,
}

impl Shared {
    pub(super) fn new(names: impl Iterator<Item = EnforcerName>, start: Start, report: Reporter) -> Shared {
        let names: Vec<EnforcerName> = names.collect();
        Shared {
            wants: Wants::new(start.desired, names.iter().copied()),
            exempt: Mutex::new(start.exempt.into()),
            slowed: Mutex::new((0, start.slowed.into())),
            version: AtomicU64::new(1),
            lanes: names.into_iter().map(Lane::new).collect(),
            report,
            clock: start.clock,
            settings: start.settings,
        }
    }

    pub(super) fn submit(&self, orders: Vec<Order>) {
        // First the backlogs, then the queues, then the tables: see `quiet`.
        if self.wants.take(&orders) {
            self.version.fetch_add(1, Ordering::Release);
        }
        let sides = self.wants.sides();
        for lane in &self.lanes {
            let side = Side::of(lane.name);
            let mut queue = lock(&lane.queue);
            orders.iter().for_each(|order| queue.push(&sides.order_for(side, order)));
            drop(queue);
            lane.wake.notify_one();
        }
        self.sample(&orders);
        self.settle();
    }

    pub(super) fn for_each_queue(&self, change: impl Fn(&mut Queue)) {
        for lane in &self.lanes {
            change(&mut lock(&lane.queue));
            lane.wake.notify_one();
        }
    }

    /// Brings the tables up to date, except one that a thread is reading: that thread does it when done.
    pub(super) fn settle(&self) {
        self.wants.settle();
    }

    /// Grows with every change of the wanted bans and of the exempt networks.
    pub(super) fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// Copies the bans that are wanted anywhere, with every order given so far.
    pub(super) fn copy(&self) -> Copied {
        // Read before the tables: a change meanwhile shows up as another version once more.
        let version = self.version();
        Copied { version, desired: self.wants.copy(), exempt: self.exempt() }
    }

    fn table_of(&self, lane: &Lane) -> &Table {
        self.wants.table(Side::of(lane.name))
    }

    pub(super) fn read_desired(&self, lane: &Lane) -> RwLockReadGuard<'_, Desired> {
        self.table_of(lane).read()
    }

    /// Returns the lane's table if it holds exactly the orders that this lane's enforcer has received, `None` otherwise.
    ///
    /// Every order is in the backlog before it is in a queue, and in a queue before it is in the table. So while the
    /// table is held for reading, an empty backlog means that every order taken from the queue is in the table, and an
    /// empty queue means that every order in the table was taken.
    pub(super) fn quiet(&self, lane: &Lane) -> Option<RwLockReadGuard<'_, Desired>> {
        self.settle();
        let table = self.table_of(lane);
        let desired = table.read();
        let quiet = table.is_settled() && lock(&lane.queue).is_quiet();
        quiet.then_some(desired)
    }

    pub(super) fn set_exempt(&self, networks: Vec<IpNet>) {
        *lock(&self.exempt) = networks.into();
        self.version.fetch_add(1, Ordering::Release);
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

/// The wanted bans at one moment.
pub(crate) struct Copied {
    pub version: u64,
    pub desired: Desired,
    /// Networks that pass even inside a banned network.
    pub exempt: Arc<[IpNet]>,
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

#[cfg(test)]
mod tests {
    use super::*;
    use shield_engine::allowlist::Allowlist;
    use shield_engine::ban::Place;
    use shield_engine::time::Ends;

    fn order(n: u8) -> Order {
        let client: Client = format!("192.0.2.{n}").parse().unwrap();
        let client = Allowlist::default().admit(client, 64).unwrap();
        Order::Ban { client, ends: Ends::Never, place: Place::Everywhere, serial: u64::from(n) }
    }

    fn lift(n: u8) -> Order {
        Order::Lift { client: format!("192.0.2.{n}").parse().unwrap(), serial: u64::from(n) }
    }

    /// An enforcer holds the table for as long as its reconcile takes; whoever is handed the list must not wait for that, nor
    /// miss an order.
    #[test]
    fn a_copy_has_every_order_while_an_enforcer_reads_the_table() {
        let start = Start {
            desired: Desired::default().into(),
            exempt: Vec::new(),
            slowed: Vec::new(),
            clock: crate::clock::now,
            settings: Settings::default(),
        };
        let shared = Shared::new(std::iter::empty(), start, Arc::new(|_| {}));
        let before = shared.version();
        shared.submit(vec![order(1), order(2)]);
        let reading = shared.wants.table(Side::Kernel).read();
        shared.submit(vec![lift(1), order(3)]);
        let copied = shared.copy();
        drop(reading);
        let mut clients: Vec<String> =
            copied.desired.iter().map(|ban| ban.client.client().to_string()).collect();
        clients.sort();
        assert_eq!(clients, ["192.0.2.2", "192.0.2.3"]);
        assert!(copied.version > before && copied.version == shared.version());
        shared.submit(vec![Order::AllowlistChanged]);
        assert_eq!(shared.version(), copied.version, "nothing changed");
        shared.set_exempt(vec!["192.0.2.9/32".parse().unwrap()]);
        let copied_later = shared.copy();
        assert_eq!((copied_later.version, copied_later.exempt.len()), (copied.version + 1, 1));
    }
}
