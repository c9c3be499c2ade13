//! `plan(desired, observed)`: what to change so that an enforcer holds exactly what the ledger wants. Pure.

use shield_engine::client::Client;

/// What to do, additions first so that no repair opens a gap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Plan<E> {
    /// Wanted but absent, or held with another end.
    pub add: Vec<(Client, E)>,
    /// Held but not wanted (or held more than once: the surplus).
    pub remove: Vec<Client>,
}

impl<E> Plan<E> {
    /// Whether there is nothing to do.
    pub(crate) fn is_empty(&self) -> bool {
        self.add.is_empty() && self.remove.is_empty()
    }
}

/// A table of what is wanted, with a dense slot number for each client, so that "seen" is one bit a client.
pub(crate) trait Wanted {
    /// What is wanted about a client.
    type Entry: Copy;

    /// How many clients; slots are `0..len()`.
    fn len(&self) -> usize;

    /// Whether nothing is wanted.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The slot of this client.
    fn slot(&self, client: &Client) -> Option<usize>;

    /// The client in a slot, and what is wanted about it.
    fn entry(&self, slot: usize) -> (Client, Self::Entry);
}

/// Compares what is wanted with what is there.
///
/// `same_end` says whether an observed end is near enough to the wanted one (clocks of different resolution);
/// enforcers that hold no end pass `|_, _| true`.
pub(crate) fn plan<W: Wanted, O>(
    desired: &W,
    observed: impl IntoIterator<Item = (Client, O)>,
    mut same_end: impl FnMut(W::Entry, O) -> bool,
) -> Plan<W::Entry> {
    let mut planner = Planner::new(desired);
    for (client, end) in observed {
        planner.see(client, |wanted| same_end(wanted, end));
    }
    planner.finish()
}

/// [`plan`] for a listing that comes entry by entry and is never held in memory as a whole.
pub(crate) struct Planner<'a, W> {
    desired: &'a W,
    seen: Bits,
    right: Bits,
    remove: Vec<Client>,
}

impl<'a, W: Wanted> Planner<'a, W> {
    /// A comparison with this table.
    pub(crate) fn new(desired: &'a W) -> Self {
        Planner {
            desired,
            seen: Bits::new(desired.len()),
            right: Bits::new(desired.len()),
            remove: Vec::new(),
        }
    }

    /// The enforcer holds this client; `is_right` says whether in the wanted form.
    pub(crate) fn see(&mut self, client: Client, is_right: impl FnOnce(W::Entry) -> bool) {
        let Some(slot) = self.desired.slot(&client) else {
            self.remove.push(client);
            return;
        };
        // Seen twice: one copy too many would outlive the ban.
        if self.seen.set(slot) {
            self.remove.push(client);
        }
        if is_right(self.desired.entry(slot).1) {
            self.right.set(slot);
        }
    }

    /// Slots that are wanted but were not seen, or not in the wanted form.
    pub(crate) fn missing(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.desired.len()).filter(|slot| !self.right.get(*slot))
    }

    /// Whether the client in this slot was seen, in whatever form.
    pub(crate) fn was_seen(&self, slot: usize) -> bool {
        self.seen.get(slot)
    }

    /// Clients that were seen but are not wanted, or were seen once too often.
    pub(crate) fn surplus(&self) -> &[Client] {
        &self.remove
    }

    /// What is to be changed.
    pub(crate) fn finish(self) -> Plan<W::Entry> {
        let slots = 0..self.desired.len();
        let mut add: Vec<_> =
            slots.filter(|slot| !self.right.get(*slot)).map(|slot| self.desired.entry(slot)).collect();
        let mut remove = self.remove;
        add.sort_unstable_by_key(|(client, _)| *client);
        remove.sort_unstable();
        Plan { add, remove }
    }
}

/// One bit a slot.
struct Bits(Vec<u64>);

impl Bits {
    fn new(len: usize) -> Bits {
        Bits(vec![0; len.div_ceil(64)])
    }

    fn get(&self, at: usize) -> bool {
        self.0[at / 64] & (1 << (at % 64)) != 0
    }

    /// Sets a bit; says whether it was set before.
    fn set(&mut self, at: usize) -> bool {
        let before = self.get(at);
        self.0[at / 64] |= 1 << (at % 64);
        before
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;
    use std::net::Ipv4Addr;

    fn client(n: u32) -> Client {
        Client::from(Ipv4Addr::from_bits(0x0a00_0000 + n))
    }

    /// The plainest table: a list.
    struct List(Vec<(Client, u32)>);

    impl Wanted for List {
        type Entry = u32;

        fn len(&self) -> usize {
            self.0.len()
        }

        fn slot(&self, client: &Client) -> Option<usize> {
            self.0.iter().position(|(c, _)| c == client)
        }

        fn entry(&self, slot: usize) -> (Client, u32) {
            self.0[slot]
        }
    }

    #[test]
    fn what_is_missing_stale_or_foreign() {
        let desired = List(vec![(client(1), 10), (client(2), 20), (client(3), 30)]);
        let observed = [(client(2), 20), (client(3), 31), (client(4), 40)];
        let plan = plan(&desired, observed, |a, b| a == b);
        assert_eq!(plan.add, [(client(1), 10), (client(3), 30)]);
        assert_eq!(plan.remove, [client(4)]);
    }

    #[test]
    fn a_duplicate_is_removed() {
        let desired = List(vec![(client(1), 0)]);
        let plan = plan(&desired, [(client(1), ()), (client(1), ())], |_, _| true);
        assert_eq!((plan.add.len(), plan.remove), (0, vec![client(1)]));
    }

    proptest! {
        #[test]
        fn applied_twice_it_does_nothing(
            wanted in prop::collection::hash_map(0u32..50, 0u32..3, 0..40),
            held in prop::collection::hash_map(0u32..50, 0u32..3, 0..40),
        ) {
            let desired = List(wanted.iter().map(|(n, e)| (client(*n), *e)).collect());
            let mut kernel: BTreeMap<Client, u32> = held.iter().map(|(n, e)| (client(*n), *e)).collect();
            let first = plan(&desired, kernel.clone(), |a, b| a == b);
            for (c, e) in first.add { kernel.insert(c, e); }
            for c in first.remove { kernel.remove(&c); }
            prop_assert_eq!(&kernel, &desired.0.iter().copied().collect::<BTreeMap<_, _>>());
            prop_assert!(plan(&desired, kernel, |a, b| a == b).is_empty());
        }
    }
}
