//! How far a walk through the table of clients has come, while the table changes: a table of a hundred thousand clients takes
//! too long to be walked between two requests. `clients.rs` moves it along, `minute.rs` decides when.

use crate::detect::activity::Activity;
use crate::detect::clients::ActiveClient;
use crate::detect::window::Counts;

/// A walk from the last client to the first. Every client that was there when it began is taken exactly once: in its turn, or
/// ahead of it, before it changes or leaves.
///
/// A client is still to be taken if it is below `below` and not marked in `ahead`. What comes later is put behind the last one,
/// and a removal moves the last one into the gap, with its mark.
pub(super) struct Walk {
    /// The walk is for the minute before this second.
    boundary: u32,
    below: usize,
    /// One bit for each position.
    ahead: Vec<u64>,
    departed: Vec<Departed>,
}

impl Walk {
    pub(super) fn new(clients: usize, boundary: u32) -> Walk {
        Walk { boundary, below: clients, ahead: vec![0; clients.div_ceil(64)], departed: Vec::new() }
    }

    pub(super) fn boundary(&self) -> u32 {
        self.boundary
    }

    /// The clients that were not passed yet.
    pub(super) fn left(&self) -> usize {
        self.below
    }

    /// Passes the next position. Returns it, and whether its client was taken ahead of its turn.
    pub(super) fn next(&mut self) -> Option<(usize, bool)> {
        let at = self.below.checked_sub(1)?;
        let is_ahead = self.is_taken(at);
        self.below = at;
        Some((at, is_ahead))
    }

    /// Takes a client ahead of its turn. Returns `false` if it was taken before, or came after the walk began.
    pub(super) fn take(&mut self, at: usize) -> bool {
        let is_due = !self.is_taken(at);
        if is_due {
            self.ahead[at / 64] |= 1 << (at % 64);
        }
        is_due
    }

    fn is_taken(&self, at: usize) -> bool {
        at >= self.below || self.ahead[at / 64] >> (at % 64) & 1 == 1
    }

    /// The client at `at` was removed, and the one at `last` took its place.
    pub(super) fn swap_removed(&mut self, at: usize, last: usize) {
        if at < self.below && at < last {
            let is_taken = u64::from(self.is_taken(last));
            let word = &mut self.ahead[at / 64];
            *word = *word & !(1 << (at % 64)) | is_taken << (at % 64);
        }
        self.below = self.below.min(last);
    }

    pub(super) fn put_aside(&mut self, departed: Departed) {
        self.departed.push(departed);
    }

    pub(super) fn take_departed(&mut self) -> Vec<Departed> {
        std::mem::take(&mut self.departed)
    }
}

/// What there was to learn of a client that left.
pub(crate) struct Departed {
    key: u128,
    counts: Counts,
    activity: Option<Activity>,
    suspect_until: u32,
}

impl Departed {
    pub(super) fn of(active: ActiveClient<'_>) -> Departed {
        let ActiveClient { key, counts, activity, suspect_until } = active;
        Departed { key, counts, activity: activity.cloned(), suspect_until }
    }

    pub(crate) fn active(&self) -> ActiveClient<'_> {
        let Departed { key, counts, ref activity, suspect_until } = *self;
        ActiveClient { key, counts, activity: activity.as_ref(), suspect_until }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    enum Step {
        On,
        Ahead(usize),
        Remove(usize),
        Insert,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => Just(Step::On),
            2 => any::<prop::sample::Index>().prop_map(|at| Step::Ahead(at.index(300))),
            2 => any::<prop::sample::Index>().prop_map(|at| Step::Remove(at.index(300))),
            1 => Just(Step::Insert),
        ]
    }

    proptest! {
        /// Whatever comes and goes meanwhile, each client of the beginning is taken once, and nobody else.
        #[test]
        fn each_client_is_taken_once(clients in 0..200_usize, steps in prop::collection::vec(step(), 0..400)) {
            let mut table: Vec<usize> = (0..clients).collect();
            let mut walk = Walk::new(clients, 60);
            let mut taken = Vec::new();
            let mut newest = clients;
            for step in steps {
                match step {
                    Step::On => {
                        if let Some((at, false)) = walk.next() {
                            taken.push(table[at]);
                        }
                    }
                    Step::Ahead(at) if at < table.len() => {
                        if walk.take(at) {
                            taken.push(table[at]);
                        }
                    }
                    Step::Remove(at) if at < table.len() => {
                        if walk.take(at) {
                            taken.push(table[at]);
                        }
                        table.swap_remove(at);
                        walk.swap_removed(at, table.len());
                    }
                    Step::Insert => {
                        table.push(newest);
                        newest += 1;
                    }
                    Step::Ahead(_) | Step::Remove(_) => {}
                }
            }
            while let Some((at, is_ahead)) = walk.next() {
                if !is_ahead {
                    taken.push(table[at]);
                }
            }
            taken.sort_unstable();
            prop_assert_eq!(taken, (0..clients).collect::<Vec<_>>());
        }
    }
}
