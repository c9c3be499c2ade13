//! `plan(desired, observed)`: what to change so that an enforcer holds exactly what the ledger wants. Pure.

use hashbrown::HashMap;

use super::client::Client;

/// What to do, additions first so that no repair opens a gap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan<E> {
    /// Wanted but absent, or held with another end.
    pub add: Vec<(Client, E)>,
    /// Held but not wanted (or held more than once: the surplus).
    pub remove: Vec<Client>,
}

impl<E> Plan<E> {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.add.is_empty() && self.remove.is_empty()
    }
}

/// Compares what is wanted with what is there.
///
/// `same_end` says whether an observed end is near enough to the wanted one (clocks of different resolution);
/// enforcers that hold no end pass `|_, _| true`.
pub fn plan<'a, E: Copy + 'a>(
    desired: &HashMap<Client, E>,
    observed: impl IntoIterator<Item = (Client, E)>,
    mut same_end: impl FnMut(E, E) -> bool,
) -> Plan<E> {
    let mut seen: HashMap<Client, bool> = HashMap::with_capacity(desired.len());
    let mut remove = Vec::new();
    for (client, end) in observed {
        match desired.get(&client) {
            None => remove.push(client),
            Some(&want) => {
                let right = same_end(want, end);
                // Seen twice: one copy too many would outlive the ban.
                if seen.insert(client, right).is_some() {
                    remove.push(client);
                }
            }
        }
    }
    let mut add: Vec<(Client, E)> = desired
        .iter()
        .filter(|(client, _)| seen.get(*client) != Some(&true))
        .map(|(client, end)| (*client, *end))
        .collect();
    add.sort_unstable_by_key(|(client, _)| *client);
    remove.sort_unstable();
    Plan { add, remove }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::Ipv4Addr;

    fn client(n: u32) -> Client {
        Client::from(Ipv4Addr::from_bits(0x0a00_0000 + n))
    }

    #[test]
    fn what_is_missing_stale_or_foreign() {
        let desired = HashMap::from_iter([(client(1), 10), (client(2), 20), (client(3), 30)]);
        let observed = [(client(2), 20), (client(3), 31), (client(4), 40)];
        let plan = plan(&desired, observed, |a, b| a == b);
        assert_eq!(plan.add, [(client(1), 10), (client(3), 30)]);
        assert_eq!(plan.remove, [client(4)]);
    }

    #[test]
    fn a_duplicate_is_removed() {
        let desired = HashMap::from_iter([(client(1), ())]);
        let plan = plan(&desired, [(client(1), ()), (client(1), ())], |_, _| true);
        assert_eq!((plan.add.len(), plan.remove), (0, vec![client(1)]));
    }

    proptest! {
        #[test]
        fn applied_twice_it_does_nothing(
            wanted in prop::collection::hash_map(0u32..50, 0u32..3, 0..40),
            held in prop::collection::hash_map(0u32..50, 0u32..3, 0..40),
        ) {
            let desired: HashMap<Client, u32> = wanted.iter().map(|(n, e)| (client(*n), *e)).collect();
            let mut kernel: HashMap<Client, u32> = held.iter().map(|(n, e)| (client(*n), *e)).collect();
            let first = plan(&desired, kernel.iter().map(|(c, e)| (*c, *e)), |a, b| a == b);
            for (c, e) in first.add { kernel.insert(c, e); }
            for c in first.remove { kernel.remove(&c); }
            prop_assert_eq!(&kernel, &desired);
            prop_assert!(plan(&desired, kernel.iter().map(|(c, e)| (*c, *e)), |a, b| a == b).is_empty());
        }
    }
}
