//! The wanted bans, in a table for the kernel's enforcers and one for nginx: a ban may be for one of them alone.
//!
//! A ban for a place where no enforcer is goes to the other one, so that no setting loses it.

use std::sync::{Mutex, PoisonError, RwLock, RwLockReadGuard};

use super::lane::lock;
use crate::enforce::ban::Ban;
use crate::enforce::desired::Desired;
use shield_engine::action::Order;
use shield_engine::ban::Place;
use shield_engine::client::Client;
use shield_engine::event::EnforcerName;

/// The enforcers that share a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Kernel,
    Nginx,
}

impl Side {
    pub(super) fn of(enforcer: EnforcerName) -> Side {
        if enforcer == EnforcerName::Nginx { Side::Nginx } else { Side::Kernel }
    }

    fn is_in(self, place: Place) -> bool {
        match self {
            Side::Kernel => EnforcerName::KERNEL.iter().any(|enforcer| place.includes(*enforcer)),
            Side::Nginx => place.includes(EnforcerName::Nginx),
        }
    }
}

/// Which of the tables are in use.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sides {
    kernel: bool,
    nginx: bool,
}

impl Sides {
    /// Without any enforcer the kernel's table is kept all the same.
    fn of(enforcers: impl IntoIterator<Item = EnforcerName>) -> Sides {
        let mut sides = Sides { kernel: false, nginx: false };
        for enforcer in enforcers {
            match Side::of(enforcer) {
                Side::Kernel => sides.kernel = true,
                Side::Nginx => sides.nginx = true,
            }
        }
        Sides { kernel: sides.kernel || !sides.nginx, ..sides }
    }

    fn wants(self, side: Side, place: Place) -> bool {
        match side {
            Side::Kernel => self.kernel && (side.is_in(place) || !self.nginx),
            Side::Nginx => self.nginx && (side.is_in(place) || !self.kernel),
        }
    }

    /// The order as it is for a side: a ban that is not for it is the end of any other ban of the client.
    pub(super) fn order_for(self, side: Side, order: &Order) -> Order {
        match *order {
            Order::Ban { client, place, serial, .. } if !self.wants(side, place) => {
                Order::Lift { client: client.client(), serial }
            }
            order => order,
        }
    }
}

/// The bans to start with.
pub struct Tables {
    sides: Sides,
    kernel: Desired,
    nginx: Desired,
}

impl Tables {
    /// Makes empty tables for these enforcers, the kernel's with room for `bans` entries.
    pub(crate) fn new(enforcers: impl IntoIterator<Item = EnforcerName>, bans: usize) -> Tables {
        let sides = Sides::of(enforcers);
        let kernel = Desired::with_capacity(if sides.kernel { bans } else { 0 });
        Tables { sides, kernel, nginx: Desired::default() }
    }

    /// Says that a ban of this client will be added soon.
    pub(crate) fn prefetch(&self, client: &Client) {
        self.kernel.prefetch(client);
        self.nginx.prefetch(client);
    }

    /// Adds `ban` where it is wanted.
    pub(crate) fn insert(&mut self, ban: Ban, place: Place, serial: u64) {
        if self.sides.wants(Side::Kernel, place) {
            self.kernel.insert(ban, serial);
        }
        if self.sides.wants(Side::Nginx, place) {
            self.nginx.insert(ban, serial);
        }
    }
}

/// The same bans for every enforcer.
#[cfg(any(test, feature = "test-support"))]
impl From<Desired> for Tables {
    fn from(desired: Desired) -> Tables {
        Tables { sides: Sides { kernel: true, nginx: true }, kernel: desired.clone(), nginx: desired }
    }
}

/// One side's table.
pub(super) struct Table {
    wanted: RwLock<Desired>,
    /// Orders that are queued but not yet in `wanted`, because a thread was reading it.
    backlog: Mutex<Vec<Order>>,
}

impl Table {
    fn new(desired: Desired) -> Table {
        Table { wanted: RwLock::new(desired), backlog: Mutex::default() }
    }

    pub(super) fn read(&self) -> RwLockReadGuard<'_, Desired> {
        self.wanted.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_settled(&self) -> bool {
        lock(&self.backlog).is_empty()
    }

    fn settle(&self) {
        let Ok(mut desired) = self.wanted.try_write() else { return };
        for order in lock(&self.backlog).drain(..) {
            apply(&order, &mut desired);
        }
    }

    fn copy(&self) -> Desired {
        let (mut desired, waiting) = {
            let desired = self.read();
            let waiting: Vec<Order> = lock(&self.backlog).clone();
            (desired.clone(), waiting)
        };
        self.settle();
        waiting.iter().for_each(|order| apply(order, &mut desired));
        desired
    }
}

/// Both tables while the agent runs.
pub(super) struct Wants {
    sides: Sides,
    kernel: Table,
    nginx: Table,
}

impl Wants {
    pub(super) fn new(start: Tables, enforcers: impl IntoIterator<Item = EnforcerName>) -> Wants {
        let Tables { kernel, nginx, .. } = start;
        Wants { sides: Sides::of(enforcers), kernel: Table::new(kernel), nginx: Table::new(nginx) }
    }

    pub(super) fn sides(&self) -> Sides {
        self.sides
    }

    pub(super) fn table(&self, side: Side) -> &Table {
        match side {
            Side::Kernel => &self.kernel,
            Side::Nginx => &self.nginx,
        }
    }

    fn in_use(&self) -> impl Iterator<Item = (Side, &Table)> {
        let sides = [(Side::Kernel, self.sides.kernel), (Side::Nginx, self.sides.nginx)];
        sides.into_iter().filter(|(_, is_used)| *is_used).map(|(side, _)| (side, self.table(side)))
    }

    /// Takes note of the bans and lifts among these orders. Returns whether there were any.
    pub(super) fn take(&self, orders: &[Order]) -> bool {
        let is_change = |order: &&Order| matches!(order, Order::Ban { .. } | Order::Lift { .. });
        for (side, table) in self.in_use() {
            let changes = orders.iter().filter(is_change).map(|order| self.sides.order_for(side, order));
            lock(&table.backlog).extend(changes);
        }
        orders.iter().any(|order| is_change(&order))
    }

    /// Brings the tables up to date, except one that a thread is reading: that thread does it when done.
    pub(super) fn settle(&self) {
        self.in_use().for_each(|(_, table)| table.settle());
    }

    /// Copies the bans that are wanted anywhere, with every order given so far. Waits for nobody who works in the kernel, and
    /// nobody waits for it longer than the copying takes: 2 MB of 100,000 bans.
    pub(super) fn copy(&self) -> Desired {
        let mut copies = self.in_use().map(|(_, table)| table.copy());
        let mut all = copies.next().unwrap_or_default();
        for other in copies {
            for slot in 0..other.len() {
                let ban = other.ban(slot);
                if !all.contains(&ban.client.client()) {
                    all.insert(ban, other.serial(slot));
                }
            }
        }
        all
    }
}

fn apply(order: &Order, desired: &mut Desired) {
    match *order {
        Order::Ban { client, ends, serial, .. } => desired.insert(Ban { client, ends }, serial),
        Order::Lift { client, .. } => drop(desired.remove(&client)),
        Order::AllowlistChanged | Order::SlowedChanged | Order::SampleActivity { .. } => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shield_engine::allowlist::Allowlist;
    use shield_engine::time::Ends;

    use EnforcerName::{Iptables, Nginx, Xdp};

    #[test]
    fn every_ban_is_wanted_somewhere() {
        let enforcers: [&[EnforcerName]; 5] = [&[], &[Xdp], &[Nginx], &[Iptables, Nginx], &EnforcerName::ALL];
        for here in enforcers {
            let sides = Sides::of(here.iter().copied());
            for place in [Place::Kernel, Place::Nginx, Place::Everywhere] {
                let wanting = [Side::Kernel, Side::Nginx].map(|side| sides.wants(side, place));
                assert!(wanting.contains(&true), "{here:?} {place:?}");
                let both_there = here.len() > 1;
                if both_there {
                    assert_eq!(
                        wanting,
                        [place != Place::Nginx, place != Place::Kernel],
                        "{here:?} {place:?}"
                    );
                }
            }
        }
    }

    fn order(n: u8, place: Place, serial: u64) -> Order {
        let client = format!("192.0.2.{n}").parse().unwrap();
        let client = Allowlist::default().admit(client, 64).unwrap();
        Order::Ban { client, ends: Ends::Never, place, serial }
    }

    /// The last numbers of the clients, sorted.
    fn clients(desired: &Desired) -> Vec<u8> {
        let last = |ban: Ban| match ban.client.client().network().addr() {
            std::net::IpAddr::V4(addr) => addr.octets()[3],
            std::net::IpAddr::V6(_) => 0,
        };
        let mut found: Vec<u8> = desired.iter().map(last).collect();
        found.sort_unstable();
        found
    }

    #[test]
    fn a_ban_moves_with_its_place_and_a_copy_has_all() {
        let start = Tables::new(EnforcerName::ALL, 0);
        let wants = Wants::new(start, EnforcerName::ALL);
        let check = |orders: &[Order], kernel: &[u8], nginx: &[u8], all: &[u8]| {
            assert_eq!(wants.take(orders), !orders.is_empty());
            wants.settle();
            let tables = [Side::Kernel, Side::Nginx].map(|side| clients(&wants.table(side).read()));
            assert_eq!(tables, [kernel.to_vec(), nginx.to_vec()], "{orders:?}");
            assert_eq!(clients(&wants.copy()), all, "{orders:?}");
        };
        let bans = [order(1, Place::Kernel, 1), order(2, Place::Nginx, 2), order(3, Place::Everywhere, 3)];
        check(&bans, &[1, 3], &[2, 3], &[1, 2, 3]);
        check(&[order(2, Place::Everywhere, 2)], &[1, 2, 3], &[2, 3], &[1, 2, 3]);
        check(&[order(3, Place::Kernel, 4)], &[1, 2, 3], &[2], &[1, 2, 3]);
        let lift = Order::Lift { client: "192.0.2.2".parse().unwrap(), serial: 2 };
        check(&[lift], &[1, 3], &[], &[1, 3]);
        check(&[], &[1, 3], &[], &[1, 3]);
    }
}
