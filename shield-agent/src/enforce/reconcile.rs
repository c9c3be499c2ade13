//! The comparison of the wanted bans with those in the kernel. Pure.

use shield_engine::client::Client;

/// A table of the wanted bans. Each client has a dense slot number, so that "seen" takes one bit a client.
pub(crate) trait Wanted {
    type Entry: Copy;

    /// The number of clients; slots are `0..len()`.
    fn len(&self) -> usize;

    fn slot(&self, client: &Client) -> Option<usize>;

    fn entry(&self, slot: usize) -> (Client, Self::Entry);
}

/// Compares a listing with the wanted bans.
///
/// Takes the listing entry by entry: a million observed bans in memory would cost more than the wanted table itself.
pub(crate) struct Planner<'a, W> {
    desired: &'a W,
    seen: Bits,
    right: Bits,
    remove: Vec<Client>,
}

impl<'a, W: Wanted> Planner<'a, W> {
    pub(crate) fn new(desired: &'a W) -> Self {
        Planner {
            desired,
            seen: Bits::new(desired.len()),
            right: Bits::new(desired.len()),
            remove: Vec::new(),
        }
    }

    /// Takes one entry of the listing; `is_right` compares its form (such as the end of the ban) with the wanted one.
    pub(crate) fn see(&mut self, client: Client, is_right: impl FnOnce(W::Entry) -> bool) {
        let Some(slot) = self.desired.slot(&client) else {
            self.remove.push(client);
            return;
        };
        // A client that is listed twice, as a rule can be: the copy would outlive the ban.
        if self.seen.set(slot) {
            self.remove.push(client);
        }
        if is_right(self.desired.entry(slot).1) {
            self.right.set(slot);
        }
    }

    /// Returns the slots that were not seen in the wanted form.
    pub(crate) fn missing(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.desired.len()).filter(|slot| !self.right.get(*slot))
    }

    /// Returns whether the client in this slot was seen, in any form.
    pub(crate) fn was_seen(&self, slot: usize) -> bool {
        self.seen.get(slot)
    }

    /// Returns the clients that are not wanted, and those that were seen more than once.
    pub(crate) fn surplus(&self) -> &[Client] {
        &self.remove
    }
}

/// A set of slots, one bit each.
struct Bits(Vec<u64>);

impl Bits {
    fn new(len: usize) -> Bits {
        Bits(vec![0; len.div_ceil(64)])
    }

    fn get(&self, at: usize) -> bool {
        self.0[at / 64] & (1 << (at % 64)) != 0
    }

    /// Sets a bit and returns whether it was set before.
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

    /// The additions and removals that `observed` needs, sorted.
    fn plan(
        desired: &List,
        observed: impl IntoIterator<Item = (Client, u32)>,
    ) -> (Vec<(Client, u32)>, Vec<Client>) {
        let mut planner = Planner::new(desired);
        for (client, end) in observed {
            planner.see(client, |wanted| wanted == end);
        }
        let mut add: Vec<_> = planner.missing().map(|slot| desired.entry(slot)).collect();
        let mut remove = planner.surplus().to_vec();
        add.sort_unstable();
        remove.sort_unstable();
        (add, remove)
    }

    #[test]
    fn what_is_missing_stale_or_foreign() {
        let desired = List(vec![(client(1), 10), (client(2), 20), (client(3), 30)]);
        let observed = [(client(2), 20), (client(3), 31), (client(4), 40)];
        let (add, remove) = plan(&desired, observed);
        assert_eq!(add, [(client(1), 10), (client(3), 30)]);
        assert_eq!(remove, [client(4)]);
    }

    #[test]
    fn a_duplicate_is_removed() {
        let desired = List(vec![(client(1), 0)]);
        let (add, remove) = plan(&desired, [(client(1), 0), (client(1), 0)]);
        assert_eq!((add.len(), remove), (0, vec![client(1)]));
    }

    proptest! {
        #[test]
        fn applied_twice_it_does_nothing(
            wanted in prop::collection::hash_map(0u32..50, 0u32..3, 0..40),
            held in prop::collection::hash_map(0u32..50, 0u32..3, 0..40),
        ) {
            let desired = List(wanted.iter().map(|(n, e)| (client(*n), *e)).collect());
            let mut kernel: BTreeMap<Client, u32> = held.iter().map(|(n, e)| (client(*n), *e)).collect();
            let (add, remove) = plan(&desired, kernel.clone());
            for (c, e) in add { kernel.insert(c, e); }
            for c in remove { kernel.remove(&c); }
            prop_assert_eq!(&kernel, &desired.0.iter().copied().collect::<BTreeMap<_, _>>());
            prop_assert_eq!(plan(&desired, kernel), (vec![], vec![]));
        }
    }
}
