//! The whole server's sliding window in one-second buckets: exact, O(1) amortised, dense. A single client's window is
//! sparse, in `window.rs`.

use crate::detect::window::WINDOW_SECS;

/// The counts of one second.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct ServerSecond {
    pub requests: u32,
    pub errors: u32,
}

/// The last seconds, empty ones included.
#[derive(Debug, Clone)]
pub(crate) struct SecondRing {
    slots: Box<[ServerSecond]>,
    newest: u32,
    newest_slot: usize,
    /// The latest second with something in it, at least: the slots of all later ones are empty.
    filled: u32,
    /// The newest second, which nearly every request is counted in. Its slot stays empty until the next second begins.
    now: ServerSecond,
    /// The sum of the window without the newest second.
    sum: ServerSecond,
}

impl SecondRing {
    /// A ring of `len` empty seconds that ends at `newest`. It is at least one second longer than the window: the second
    /// that leaves the window must still be there to be subtracted.
    pub(crate) fn new(len: u32, newest: u32) -> SecondRing {
        let len = len.max(WINDOW_SECS + 1) as usize;
        SecondRing {
            slots: vec![ServerSecond::default(); len].into(),
            newest,
            newest_slot: newest as usize % len,
            filled: 0,
            now: ServerSecond::default(),
            sum: ServerSecond::default(),
        }
    }

    /// Moves on to `second`. An earlier one changes nothing.
    pub(crate) fn advance(&mut self, second: u32) {
        let steps = second.saturating_sub(self.newest);
        if steps == 0 {
            return;
        }
        let len = self.slots.len();
        let now = std::mem::take(&mut self.now);
        if now != ServerSecond::default() {
            self.filled = self.newest;
            self.slots[self.newest_slot] = now;
            self.sum.requests += now.requests;
            self.sum.errors += now.errors;
        }
        // Banned clients are rare, and so are their requests.
        let is_empty = (self.newest - self.filled) as usize >= len;
        if is_empty || steps as usize >= len {
            if !is_empty {
                self.slots.fill(ServerSecond::default());
                self.sum = ServerSecond::default();
            }
            self.newest = second;
            self.newest_slot = second as usize % len;
            return;
        }
        if steps >= WINDOW_SECS {
            // Everything leaves the window; what is passed over is empty.
            let from = self.newest_slot + 1;
            let upto = from + steps as usize;
            self.slots[from.min(len)..upto.min(len)].fill(ServerSecond::default());
            self.slots[..upto.saturating_sub(len)].fill(ServerSecond::default());
            self.sum = ServerSecond::default();
            self.newest = second;
            self.newest_slot = (upto - 1) % len;
            return;
        }
        let next = |slot: usize| if slot + 1 == len { 0 } else { slot + 1 };
        // The ring is longer than the window: the second that leaves the window has a slot of its own.
        let back = WINDOW_SECS as usize;
        let mut slot = self.newest_slot;
        let mut leaving = if slot >= back { slot - back } else { slot + len - back };
        let (slots, mut sum) = (&mut self.slots[..], self.sum);
        for _ in 0..steps {
            (slot, leaving) = (next(slot), next(leaving));
            let left = slots[leaving];
            sum.requests -= left.requests;
            sum.errors -= left.errors;
            slots[slot] = ServerSecond::default();
        }
        (self.newest, self.newest_slot, self.sum) = (second, slot, sum);
    }

    /// Counts one request at `second`, unless that is older than the ring.
    #[inline(always)]
    pub(crate) fn add(&mut self, second: u32, error: u32) {
        if second != self.newest {
            return self.change(second, |s| {
                s.requests += 1;
                s.errors += error;
            });
        }
        self.now.requests += 1;
        self.now.errors += error;
    }

    /// Adds `what` to `second`'s counts, unless that is older than the ring.
    pub(crate) fn add_many(&mut self, second: u32, what: ServerSecond) {
        self.change(second, |s| {
            s.requests += what.requests;
            s.errors += what.errors;
        });
    }

    /// Subtracts `what` from `second`'s counts.
    pub(crate) fn take_back(&mut self, second: u32, what: ServerSecond) {
        self.change(second, |s| {
            s.requests = s.requests.saturating_sub(what.requests);
            s.errors = s.errors.saturating_sub(what.errors);
        });
    }

    fn change(&mut self, second: u32, change: impl Fn(&mut ServerSecond)) {
        let Some(age) = self.newest.checked_sub(second).filter(|age| (*age as usize) < self.slots.len())
        else {
            return;
        };
        if age == 0 {
            return change(&mut self.now);
        }
        self.filled = self.filled.max(second);
        let slot = self.slot(second);
        let before = self.slots[slot];
        change(&mut self.slots[slot]);
        if age < WINDOW_SECS {
            self.sum.requests = self.sum.requests + self.slots[slot].requests - before.requests;
            self.sum.errors = self.sum.errors + self.slots[slot].errors - before.errors;
        }
    }

    /// Returns the counts of one second; zeros outside the ring.
    pub(crate) fn at(&self, second: u32) -> ServerSecond {
        let age = self.newest.checked_sub(second);
        if age == Some(0) {
            self.now
        } else if age.is_some_and(|age| (age as usize) < self.slots.len()) {
            self.slots[self.slot(second)]
        } else {
            ServerSecond::default()
        }
    }

    /// The sum over the last 60 s.
    pub(crate) fn window(&self) -> ServerSecond {
        ServerSecond {
            requests: self.sum.requests + self.now.requests,
            errors: self.sum.errors + self.now.errors,
        }
    }

    fn slot(&self, second: u32) -> usize {
        second as usize % self.slots.len()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_shortest_ring_subtracts_what_leaves_the_window() {
        let mut ring = SecondRing::new(WINDOW_SECS, 1000);
        for second in 1000..2000 {
            ring.advance(second);
            ring.add(second, 0);
        }
        assert_eq!(ring.window().requests, WINDOW_SECS);
    }

    #[test]
    fn a_gap_empties_the_ring() {
        let mut ring = SecondRing::new(1800, 1000);
        ring.add(1000, 1);
        ring.advance(1059);
        assert_eq!(ring.window(), ServerSecond { requests: 1, errors: 1 });
        ring.advance(1060);
        assert_eq!(ring.window(), ServerSecond::default());
        assert_eq!(ring.at(1000).requests, 1);
        ring.advance(900_000);
        assert_eq!(ring.at(1000), ServerSecond::default());
    }

    proptest! {
        /// One step over a pause is as good as a step for each of its seconds.
        #[test]
        fn a_pause_is_passed_over_as_its_seconds_are(
            len in 1..400_u32,
            log in prop::collection::vec((prop_oneof![3 => 0..5_u32, 2 => 50..70_u32, 2 => 0..500_u32], 0..4_u32), 1..60),
        ) {
            let (mut second, mut jumping, mut stepping) = (1000, SecondRing::new(len, 1000), SecondRing::new(len, 1000));
            for (pause, requests) in log {
                (second + 1..=second + pause).for_each(|second| stepping.advance(second));
                second += pause;
                jumping.advance(second);
                for ring in [&mut jumping, &mut stepping] {
                    (0..requests).for_each(|number| ring.add(second, number % 2));
                }
                prop_assert_eq!(jumping.window(), stepping.window());
                for ago in 0..len + 61 {
                    prop_assert_eq!(jumping.at(second - ago), stepping.at(second - ago), "{} s ago", ago);
                }
            }
        }
    }
}
