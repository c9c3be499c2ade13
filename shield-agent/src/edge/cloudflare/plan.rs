//! What to change in the list, from what it holds and what is wanted. Pure.

use std::collections::{BTreeMap, BTreeSet};

use shield_engine::client::Client;

/// A banned client that the list could hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wish {
    pub client: Client,
    /// Its offences so far: whoever comes back goes before whoever came once.
    pub offences: u32,
}

/// An item that is in the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Held {
    /// Its id, which a removal needs; unknown of an item that we added since the list was read.
    pub id: Option<String>,
    pub owner: Owner,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Owner {
    Us,
    /// Somebody else's: never touched.
    Others,
}

/// What the list holds, as far as it is known.
pub(super) type Items = BTreeMap<Client, Held>;

/// The changes that lead to what is wanted.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    pub remove: Vec<Client>,
    /// Those that matter most first.
    pub add: Vec<Client>,
    /// Wanted clients for which there is no room.
    pub no_room: usize,
}

/// `others` are the items of others that are no clients of ours; `refused` those that Cloudflare did not take, and when.
pub(super) fn plan(
    wanted: &[Wish],
    held: &Items,
    others: usize,
    capacity: usize,
    refused: &BTreeMap<Client, u64>,
) -> Plan {
    let owner = |client: &Client| held.get(client).map(|item| item.owner);
    let foreign = others + held.values().filter(|item| item.owner == Owner::Others).count();
    let room = capacity.saturating_sub(foreign);
    let mut ours: Vec<&Wish> = wanted
        .iter()
        .filter(|wish| owner(&wish.client) != Some(Owner::Others) && !refused.contains_key(&wish.client))
        .collect();
    // Among equals those that are there stay: a full list must not change with each ban.
    ours.sort_unstable_by_key(|wish| {
        (std::cmp::Reverse(wish.offences), owner(&wish.client).is_none(), wish.client)
    });
    let no_room = ours.len().saturating_sub(room);
    ours.truncate(room);
    let keep: BTreeSet<Client> = ours.iter().map(|wish| wish.client).collect();
    let remove = held.iter().filter(|(client, item)| item.owner == Owner::Us && !keep.contains(client));
    Plan {
        remove: remove.map(|(client, _)| *client).collect(),
        add: ours.iter().map(|wish| wish.client).filter(|client| owner(client).is_none()).collect(),
        no_room,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn client(n: u8) -> Client {
        format!("192.0.2.{n}").parse().unwrap()
    }

    fn held(items: &[(u8, Owner)]) -> Items {
        items.iter().map(|(n, owner)| (client(*n), Held { id: None, owner: *owner })).collect()
    }

    fn wishes(list: &[(u8, u32)]) -> Vec<Wish> {
        list.iter().map(|(n, offences)| Wish { client: client(*n), offences: *offences }).collect()
    }

    #[test]
    fn a_full_list_has_the_repeat_offenders_and_does_not_churn() {
        let wanted = wishes(&[(1, 1), (2, 1), (3, 5), (4, 1)]);
        let held = held(&[(4, Owner::Us), (9, Owner::Others)]);
        let plan = plan(&wanted, &held, 0, 3, &BTreeMap::new());
        assert_eq!(plan, Plan { remove: Vec::new(), add: vec![client(3)], no_room: 2 });
    }

    #[test]
    fn what_cloudflare_refused_is_left_out() {
        let plan = plan(&wishes(&[(1, 1), (2, 1)]), &Items::new(), 0, 9, &BTreeMap::from([(client(1), 0)]));
        assert_eq!(plan.add, [client(2)]);
    }

    proptest! {
        /// Whatever the list holds: after the changes it has what fits of what is wanted, everybody else's items, and a second
        /// look finds nothing to do.
        #[test]
        fn the_changes_lead_there(
            wanted in prop::collection::btree_map(0u8..30, 0u32..4, 0..25),
            items in prop::collection::btree_map(0u8..30, any::<bool>(), 0..25),
            others in 0usize..4,
            capacity in 0usize..40,
        ) {
            let wanted: Vec<Wish> = wishes(&wanted.into_iter().collect::<Vec<_>>());
            let owner = |ours| if ours { Owner::Us } else { Owner::Others };
            let before = held(&items.into_iter().map(|(n, ours)| (n, owner(ours))).collect::<Vec<_>>());
            let first = plan(&wanted, &before, others, capacity, &BTreeMap::new());
            let mut after = before.clone();
            for client in &first.remove {
                prop_assert_eq!(after.remove(client).unwrap().owner, Owner::Us);
            }
            for client in &first.add {
                let item = Held { id: None, owner: Owner::Us };
                prop_assert!(after.insert(*client, item).is_none(), "there already");
            }
            let foreign = |items: &Items| items.values().filter(|item| item.owner == Owner::Others).count();
            prop_assert_eq!(foreign(&before), foreign(&after));
            prop_assert!(after.len() + others <= capacity.max(foreign(&after) + others));
            let second = plan(&wanted, &after, others, capacity, &BTreeMap::new());
            prop_assert_eq!((second.add.len(), second.remove.len(), second.no_room), (0, 0, first.no_room));
        }
    }
}
