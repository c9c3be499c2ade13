//! One enforcer's queue of orders: coalesced per client, bans before lifts.
//!
//! Owns only the order in which work is taken; `worker` carries it out.

use std::collections::VecDeque;
use std::sync::Arc;

use anyhow::Result;
use hashbrown::HashMap;

use crate::enforce::ban::{Ban, Drops};
use shield_engine::action::Order;
use shield_engine::client::Client;

/// An emptied queue with room for more entries frees its memory.
const KEEP_CAPACITY: usize = 4096;

/// The newest order about one client, which replaces earlier ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Latest {
    Ban(Ban, u64),
    Lift(u64),
}

/// A query of drop counters. `answer` is called on the enforcer's thread.
pub(super) struct Query {
    pub(super) clients: Arc<[Client]>,
    pub(super) answer: Answer,
}

pub(super) type Answer = Box<dyn FnOnce(Result<Vec<Option<Drops>>>) + Send>;

/// Receives the result of a requested reconcile. Only tests and benches request one: the agent reconciles by the clock.
#[cfg(any(test, feature = "test-support"))]
pub(super) type Reconciled = tokio::sync::oneshot::Sender<Result<Option<shield_engine::event::Repair>>>;

#[derive(Default)]
pub(super) struct Queue {
    latest: HashMap<Client, Latest>,
    bans: VecDeque<Client>,
    lifts: VecDeque<Client>,
    queries: VecDeque<Query>,
    #[cfg(any(test, feature = "test-support"))]
    reconciles: Vec<Reconciled>,
    #[cfg(any(test, feature = "test-support"))]
    new_request: bool,
    exempt_changed: bool,
    slowed_changed: bool,
    stopping: bool,
}

impl Queue {
    /// Appends a ban or a lift; ignores other orders, which are handled without a queue.
    pub(super) fn push(&mut self, order: &Order) {
        let (client, latest) = match *order {
            Order::Ban { client, ends, serial, .. } => {
                (client.client(), Latest::Ban(Ban { client, ends }, serial))
            }
            Order::Lift { client, serial } => (client, Latest::Lift(serial)),
            Order::AllowlistChanged | Order::SlowedChanged | Order::SampleActivity { .. } => return,
        };
        let before = self.latest.insert(client, latest);
        let same_kind =
            before.is_some_and(|b| matches!(b, Latest::Ban(..)) == matches!(latest, Latest::Ban(..)));
        match latest {
            _ if same_kind => {}
            Latest::Ban(..) => self.bans.push_back(client),
            Latest::Lift(_) => self.lifts.push_back(client),
        }
    }

    /// Takes up to `limit` bans, oldest first.
    pub(super) fn take_bans(&mut self, limit: usize) -> Vec<(Ban, u64)> {
        let mut taken = Vec::new();
        while taken.len() < limit
            && let Some(client) = self.bans.pop_front()
        {
            if let Some(&Latest::Ban(ban, serial)) = self.latest.get(&client) {
                self.latest.remove(&client);
                taken.push((ban, serial));
            }
        }
        self.shrink();
        taken
    }

    /// Takes up to `limit` lifts, oldest first.
    pub(super) fn take_lifts(&mut self, limit: usize) -> Vec<(Client, u64)> {
        let mut taken = Vec::new();
        while taken.len() < limit
            && let Some(client) = self.lifts.pop_front()
        {
            if let Some(&Latest::Lift(serial)) = self.latest.get(&client) {
                self.latest.remove(&client);
                taken.push((client, serial));
            }
        }
        self.shrink();
        taken
    }

    /// Returns whether no ban and no lift is queued.
    pub(super) fn is_quiet(&self) -> bool {
        self.latest.is_empty()
    }

    /// Returns whether a worker that found nothing to do may sleep, because nothing came in since.
    pub(super) fn is_idle(&self) -> bool {
        #[cfg(any(test, feature = "test-support"))]
        if self.new_request {
            return false;
        }
        self.is_quiet() && self.queries.is_empty() && !self.exempt_changed && !self.slowed_changed
    }

    pub(super) fn push_query(&mut self, query: Query) {
        self.queries.push_back(query);
    }

    pub(super) fn take_query(&mut self) -> Option<Query> {
        self.queries.pop_front()
    }

    #[cfg(any(test, feature = "test-support"))]
    pub(super) fn request_reconcile(&mut self, answer: Reconciled) {
        self.reconciles.push(answer);
        self.new_request = true;
    }

    #[cfg(any(test, feature = "test-support"))]
    pub(super) fn has_reconcile_requests(&mut self) -> bool {
        self.new_request = false;
        !self.reconciles.is_empty()
    }

    #[cfg(any(test, feature = "test-support"))]
    pub(super) fn take_reconciles(&mut self) -> Vec<Reconciled> {
        std::mem::take(&mut self.reconciles)
    }

    pub(super) fn change_exempt(&mut self) {
        self.exempt_changed = true;
    }

    pub(super) fn take_exempt_changed(&mut self) -> bool {
        std::mem::take(&mut self.exempt_changed)
    }

    pub(super) fn change_slowed(&mut self) {
        self.slowed_changed = true;
    }

    pub(super) fn take_slowed_changed(&mut self) -> bool {
        std::mem::take(&mut self.slowed_changed)
    }

    pub(super) fn stop(&mut self) {
        self.stopping = true;
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stopping
    }

    fn shrink(&mut self) {
        if self.latest.is_empty() && self.latest.capacity() > KEEP_CAPACITY {
            self.latest = HashMap::new();
            self.bans = VecDeque::new();
            self.lifts = VecDeque::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shield_engine::allowlist::Allowlist;
    use shield_engine::ban::Place;
    use shield_engine::time::Ends;

    fn ban(text: &str, serial: u64) -> Order {
        let client = Allowlist::default().admit(text.parse().unwrap(), 64).unwrap();
        Order::Ban { client, ends: Ends::Never, place: Place::Everywhere, serial }
    }

    fn lift(text: &str, serial: u64) -> Order {
        Order::Lift { client: text.parse().unwrap(), serial }
    }

    /// Serial numbers of the bans and lifts that come out of these orders.
    fn serials(orders: &[Order]) -> (Vec<u64>, Vec<u64>) {
        let mut queue = Queue::default();
        orders.iter().for_each(|order| queue.push(order));
        let bans = queue.take_bans(100).into_iter().map(|(_, serial)| serial).collect();
        let lifts = queue.take_lifts(100).into_iter().map(|(_, serial)| serial).collect();
        assert!(queue.is_quiet());
        (bans, lifts)
    }

    #[test]
    fn the_newest_order_about_a_client_wins() {
        let (a, b) = ("192.0.2.1", "192.0.2.2");
        let check = |orders: &[Order], bans: &[u64], lifts: &[u64]| {
            assert_eq!(serials(orders), (bans.to_vec(), lifts.to_vec()), "{orders:?}");
        };
        check(&[ban(a, 1), ban(a, 2)], &[2], &[]);
        check(&[ban(a, 1), lift(a, 1)], &[], &[1]);
        check(&[lift(a, 1), ban(a, 2)], &[2], &[]);
        check(&[ban(a, 1), lift(a, 1), ban(a, 2), ban(b, 3)], &[2, 3], &[]);
        check(&[lift(a, 1), lift(b, 2), ban(b, 3), lift(b, 3)], &[], &[1, 3]);
    }

    #[test]
    fn an_emptied_queue_gives_its_memory_back() {
        let mut queue = Queue::default();
        for n in 0..20_000_u32 {
            queue.push(&Order::Lift {
                client: std::net::Ipv4Addr::from_bits(0xc633_0000 + n).into(),
                serial: 1,
            });
        }
        while !queue.take_lifts(512).is_empty() {}
        assert!(queue.latest.capacity() <= KEEP_CAPACITY);
    }
}
