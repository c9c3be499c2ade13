//! Sliding windows in one-second buckets: exact, O(1) amortised a request. One client's ([`Window`], sparse) and the
//! whole server's ([`SecondRing`], dense). Who they belong to is `clients.rs`'s business, what they mean `rules.rs`'s.

use super::prefetch;

/// Length of the window in seconds.
pub const WINDOW_SECS: u32 = 60;

/// What is counted in a second, and summed up over a window.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// All requests.
    pub requests: u32,
    /// Errors: status >= 400, less those configured as our own answers.
    pub errors: u32,
    /// Requests for files that pages pull in.
    pub assets: u32,
    /// Refused requests (status 4xx) that say something about the client.
    pub failed: u32,
    /// Requests that the server could not answer (status 5xx), or that the client gave up.
    pub broken: u32,
    /// Requests that are none, in tenths.
    pub foreign_tenths: u32,
    /// Passwords posted and not accepted.
    pub logins: u32,
    /// Remote calls posted and not refused.
    pub remote_calls: u32,
}

impl Counts {
    /// Both together.
    pub fn plus(self, other: Counts) -> Counts {
        Counts {
            requests: self.requests + other.requests,
            errors: self.errors + other.errors,
            assets: self.assets + other.assets,
            failed: self.failed + other.failed,
            broken: self.broken + other.broken,
            foreign_tenths: self.foreign_tenths + other.foreign_tenths,
            logins: self.logins + other.logins,
            remote_calls: self.remote_calls + other.remote_calls,
        }
    }

    /// What is left when `other`, a part of it, is taken away.
    pub fn less(self, other: Counts) -> Counts {
        Counts {
            requests: self.requests - other.requests,
            errors: self.errors - other.errors,
            assets: self.assets - other.assets,
            failed: self.failed - other.failed,
            broken: self.broken - other.broken,
            foreign_tenths: self.foreign_tenths - other.foreign_tenths,
            logins: self.logins - other.logins,
            remote_calls: self.remote_calls - other.remote_calls,
        }
    }

    fn to_array(self) -> [u32; COUNTS] {
        let Counts { requests, errors, assets, failed, broken, foreign_tenths, logins, remote_calls } = self;
        [requests, errors, assets, failed, broken, foreign_tenths, logins, remote_calls]
    }

    fn from_array(counts: [u32; COUNTS]) -> Counts {
        let [requests, errors, assets, failed, broken, foreign_tenths, logins, remote_calls] = counts;
        Counts { requests, errors, assets, failed, broken, foreign_tenths, logins, remote_calls }
    }

    /// Pages that were served.
    pub fn served_pages(self) -> u32 {
        self.pages().saturating_sub(self.failed + self.broken)
    }

    /// Everything that was served: pages, and files that pages pull in.
    pub fn served(self) -> u32 {
        self.served_pages() + self.assets
    }

    /// Requests for anything but files that pages pull in.
    pub fn pages(self) -> u32 {
        self.requests - self.assets
    }
}

/// One second of one client, in 20 bytes: a client's window is as much of the processor's cache as this makes it. A
/// second of more than 65,535 of anything takes several.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Bucket {
    second: u32,
    counts: [u16; COUNTS],
}

/// How many things [`Counts`] counts.
const COUNTS: usize = 8;

impl Bucket {
    fn counts(&self) -> Counts {
        Counts::from_array(self.counts.map(u32::from))
    }

    /// Takes as much of `counts` as it can count, and leaves the rest there.
    fn take(&mut self, counts: &mut [u32; COUNTS]) {
        for (mine, left) in self.counts.iter_mut().zip(counts) {
            let taken = (*left).min(u32::from(u16::MAX - *mine));
            *mine += taken as u16;
            *left -= taken;
        }
    }
}

/// One client's last 60 s: only the seconds in which it asked for something, oldest first, and their sum.
#[derive(Debug, Clone, Default)]
pub struct Window {
    buckets: std::collections::VecDeque<Bucket>,
    sum: Counts,
    /// The first bucket's second, so that nearly every request need not read that bucket.
    oldest: u32,
}

impl Window {
    /// Counts something at `second`. Seconds may come out of order; what is older than the window ending at the newest
    /// second does not belong to it and changes nothing.
    pub fn add(&mut self, second: u32, counts: Counts) {
        let newest = self.buckets.back().map_or(0, |bucket| bucket.second);
        if second > newest {
            self.expire(second);
        } else if newest - second >= WINDOW_SECS {
            return;
        }
        self.sum = self.sum.plus(counts);
        let mut left = counts.to_array();
        let mut place = self.buckets.len();
        // A second that is there already is nearly always the last one.
        while second <= newest
            && let Some(bucket) = place.checked_sub(1).and_then(|at| self.buckets.get_mut(at))
            && bucket.second >= second
        {
            if bucket.second == second {
                bucket.take(&mut left);
                break;
            }
            place -= 1;
        }
        while left != [0; COUNTS] {
            let mut bucket = Bucket { second, counts: [0; COUNTS] };
            bucket.take(&mut left);
            if place == 0 {
                self.oldest = second;
            }
            if place == self.buckets.len() {
                self.buckets.push_back(bucket);
                place += 1;
            } else {
                self.buckets.insert(place, bucket);
            }
        }
    }

    /// Lets go of what lies outside the window ending at `second`.
    pub fn expire(&mut self, second: u32) {
        while !self.buckets.is_empty() && second.saturating_sub(self.oldest) >= WINDOW_SECS {
            if let Some(gone) = self.buckets.pop_front() {
                self.sum = self.sum.less(gone.counts());
            }
            self.oldest = self.buckets.front().map_or(0, |bucket| bucket.second);
        }
    }

    /// The sum over the window as of the last [`Window::add`] or [`Window::expire`].
    pub fn sum(&self) -> Counts {
        self.sum
    }

    /// The sum over the `secs` (1..=60) seconds up to and including `second`, of what is held.
    pub fn sum_of_last(&self, secs: u32, second: u32) -> Counts {
        let up_to = self.buckets.iter().rev().skip_while(|b| b.second > second);
        up_to.take_while(|b| second - b.second < secs).fold(Counts::default(), |sum, b| sum.plus(b.counts()))
    }

    /// What was counted in exactly this second.
    pub fn at(&self, second: u32) -> Counts {
        self.sum_of_last(1, second)
    }

    /// The sum over the window ending at `second`, without that second itself.
    pub fn before(&self, second: u32) -> Counts {
        // The sum is as of the newest second: nearly always the one that is asked about.
        let is_newest = self.buckets.back().is_none_or(|newest| newest.second == second);
        let sum = if is_newest { self.sum } else { self.sum_of_last(WINDOW_SECS, second) };
        sum.less(self.at(second))
    }

    /// Each second with its counts, oldest first; a very full one in several parts.
    pub fn seconds(&self) -> impl Iterator<Item = (u32, Counts)> {
        self.buckets.iter().map(|b| (b.second, b.counts()))
    }

    /// Fetches what [`Window::add`] will read.
    pub fn fetch(&self) {
        self.buckets.front().into_iter().chain(self.buckets.back()).for_each(prefetch::fetch);
    }

    /// Bytes on the heap.
    pub fn heap_bytes(&self) -> usize {
        self.buckets.capacity() * size_of::<Bucket>()
    }
}

/// One second of the whole server.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ServerSecond {
    /// Requests.
    pub requests: u32,
    /// Errors.
    pub errors: u32,
}

/// The whole server's last seconds, empty ones included, as many as it is made for.
#[derive(Debug, Clone)]
pub struct SecondRing {
    slots: Box<[ServerSecond]>,
    newest: u32,
    newest_slot: usize,
    sum: ServerSecond,
}

impl SecondRing {
    /// A ring of `len` seconds (at least the window's and the one that leaves it), all empty, ending at `newest`.
    pub fn new(len: u32, newest: u32) -> SecondRing {
        let len = len.max(WINDOW_SECS + 1) as usize;
        SecondRing {
            slots: vec![ServerSecond::default(); len].into(),
            newest,
            newest_slot: newest as usize % len,
            sum: ServerSecond::default(),
        }
    }

    /// Time moves on to `second`; never back.
    pub fn advance(&mut self, second: u32) {
        let steps = second.saturating_sub(self.newest);
        if steps as usize >= self.slots.len() {
            self.slots.fill(ServerSecond::default());
            self.sum = ServerSecond::default();
            self.newest = second;
            self.newest_slot = second as usize % self.slots.len();
            return;
        }
        for _ in 0..steps {
            // Asked before the step: in a ring no longer than the window, the step takes the second's own slot.
            let leaving = (self.newest + 1).checked_sub(WINDOW_SECS);
            let leaving = leaving.map_or(ServerSecond::default(), |second| self.at(second));
            self.newest += 1;
            self.sum.requests -= leaving.requests;
            self.sum.errors -= leaving.errors;
            self.newest_slot = (self.newest_slot + 1) % self.slots.len();
            self.slots[self.newest_slot] = ServerSecond::default();
        }
    }

    /// Counts one request at `second`; what is older than the ring is left out.
    pub fn add(&mut self, second: u32, error: u32) {
        self.change(second, |s| {
            s.requests += 1;
            s.errors += error;
        });
    }

    /// Takes back what was counted at `second`.
    pub fn take_back(&mut self, second: u32, what: ServerSecond) {
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
        let slot = self.slot(second);
        let before = self.slots[slot];
        change(&mut self.slots[slot]);
        if age < WINDOW_SECS {
            self.sum.requests = self.sum.requests + self.slots[slot].requests - before.requests;
            self.sum.errors = self.sum.errors + self.slots[slot].errors - before.errors;
        }
    }

    /// One second's counts; nothing for seconds outside the ring.
    pub fn at(&self, second: u32) -> ServerSecond {
        let age = self.newest.checked_sub(second);
        if age.is_some_and(|age| (age as usize) < self.slots.len()) {
            self.slots[self.slot(second)]
        } else {
            ServerSecond::default()
        }
    }

    /// The sum over the last 60 s.
    pub fn window(&self) -> ServerSecond {
        self.sum
    }

    /// The newest second.
    pub fn newest(&self) -> u32 {
        self.newest
    }

    fn slot(&self, second: u32) -> usize {
        // Dividing takes long, and nearly every request is of the newest second.
        if second == self.newest { self.newest_slot } else { second as usize % self.slots.len() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn one(error: bool) -> Counts {
        Counts { requests: 1, errors: u32::from(error), ..Counts::default() }
    }

    #[test]
    fn the_edge_of_the_window() {
        let mut window = Window::default();
        window.add(100, one(false));
        window.add(159, one(false));
        assert_eq!(window.sum().requests, 2, "59 s apart");
        window.expire(160);
        assert_eq!(window.sum().requests, 1, "60 s apart");
        window.add(90, one(false));
        assert_eq!(window.sum().requests, 1, "too old to belong");
    }

    #[test]
    fn a_second_counts_however_much_it_holds() {
        let mut window = Window::default();
        (0..70_000).for_each(|_| window.add(100, one(true)));
        window.add(101, Counts { requests: 200_000, ..Counts::default() });
        window.add(100, one(false));
        assert_eq!((window.at(100).requests, window.at(101).requests), (70_001, 200_000));
        assert_eq!((window.sum().requests, window.before(101).requests), (270_001, 70_001));
        assert_eq!(window.seconds().map(|(_, counts)| counts.requests).sum::<u32>(), 270_001);
        window.expire(160);
        assert_eq!((window.sum().requests, window.sum().errors), (200_000, 0));
    }

    #[test]
    fn a_ring_no_longer_than_the_window_forgets_what_leaves_it() {
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
        #[test]
        fn a_windows_sum_is_the_events_in_it(events in prop::collection::vec((0u32..200, any::<bool>()), 1..300)) {
            let (mut window, mut kept, mut newest) = (Window::default(), Vec::new(), 0);
            let (mut ring, mut shortest) = (SecondRing::new(300, 0), SecondRing::new(0, 0));
            for (second, error) in events {
                window.add(second, one(error));
                newest = newest.max(second);
                ring.advance(newest);
                ring.add(second, u32::from(error));
                shortest.advance(newest);
                shortest.add(second, u32::from(error));
                kept.push((second, error));
                let inside: Vec<_> = kept.iter().filter(|(s, _)| newest - s < WINDOW_SECS).collect();
                let errors = inside.iter().filter(|(_, e)| *e).count() as u32;
                prop_assert_eq!(window.sum().requests as usize, inside.len());
                prop_assert_eq!(window.sum().errors, errors);
                prop_assert_eq!(ring.window(), ServerSecond { requests: inside.len() as u32, errors });
                prop_assert_eq!(shortest.window(), ring.window());
                prop_assert_eq!(window.sum_of_last(WINDOW_SECS, newest), window.sum());
                for at in [second, newest] {
                    let all = window.sum_of_last(WINDOW_SECS, at);
                    prop_assert_eq!(window.before(at), all.less(window.at(at)));
                }
                prop_assert_eq!(window.at(second).requests as usize, inside.iter().filter(|(s, _)| *s == second).count());
            }
        }
    }
}
