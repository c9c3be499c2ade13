//! The sliding window of one client in one-second buckets: exact, O(1) amortised, sparse. The whole server's is dense, in
//! `ring.rs`.

use std::collections::VecDeque;

use crate::detect::prefetch;

/// The length of the window in seconds.
pub(crate) const WINDOW_SECS: u32 = 60;

/// The counts of one second, or their sum over a window.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// All requests.
    pub requests: u32,
    /// Status >= 400, without those in `not_errors`.
    pub errors: u32,
    /// Requests for assets: files that pages embed.
    pub assets: u32,
    /// Requests refused (4xx) for a reason that lies with the client.
    pub failed: u32,
    /// Requests that the server failed to answer (5xx), or that the client aborted (499).
    pub broken: u32,
    /// Malformed requests, in tenths.
    pub foreign_tenths: u32,
    /// Failed logins.
    pub logins: u32,
    /// Remote calls (`xmlrpc.php`) posted.
    pub remote_calls: u32,
    /// Logins of which the answer does not say whether they failed.
    pub unproven_logins: u32,
    /// Refused requests for assets.
    pub missed: u32,
    /// Those of the assets that can be anything: parts of a file (206), deliveries, writes by programs.
    pub parts: u32,
}

impl Counts {
    pub(crate) fn plus(self, other: Counts) -> Counts {
        Counts {
            requests: self.requests + other.requests,
            errors: self.errors + other.errors,
            assets: self.assets + other.assets,
            failed: self.failed + other.failed,
            broken: self.broken + other.broken,
            foreign_tenths: self.foreign_tenths + other.foreign_tenths,
            logins: self.logins + other.logins,
            remote_calls: self.remote_calls + other.remote_calls,
            unproven_logins: self.unproven_logins + other.unproven_logins,
            missed: self.missed + other.missed,
            parts: self.parts + other.parts,
        }
    }

    /// Subtracts `other`, which must be a part of it.
    pub(crate) fn less(self, other: Counts) -> Counts {
        Counts {
            requests: self.requests - other.requests,
            errors: self.errors - other.errors,
            assets: self.assets - other.assets,
            failed: self.failed - other.failed,
            broken: self.broken - other.broken,
            foreign_tenths: self.foreign_tenths - other.foreign_tenths,
            logins: self.logins - other.logins,
            remote_calls: self.remote_calls - other.remote_calls,
            unproven_logins: self.unproven_logins - other.unproven_logins,
            missed: self.missed - other.missed,
            parts: self.parts - other.parts,
        }
    }

    /// The counts other than requests and assets; `None` when all are 0.
    fn rare(self) -> Option<Counts> {
        let rare = Counts { requests: 0, assets: 0, ..self };
        (rare != Counts::default()).then_some(rare)
    }

    pub(crate) fn served_pages(self) -> u32 {
        self.pages().saturating_sub(self.failed + self.broken)
    }

    /// Served pages, and all assets.
    pub(crate) fn served(self) -> u32 {
        self.served_pages() + self.assets
    }

    /// What was served other than answers to passwords.
    pub(crate) fn served_beside_logins(self) -> u32 {
        self.served().saturating_sub(self.logins + self.unproven_logins)
    }

    /// All requests that are not for assets.
    pub(crate) fn pages(self) -> u32 {
        self.requests - self.assets - self.missed
    }

    /// What it takes to flood, in eighths of a page: a page brings its assets along, but no visitor or program fetches 160
    /// assets a second for a minute, or 80 of what only looks as harmless.
    pub(crate) fn flood_eighths(self) -> u32 {
        8 * self.pages() + 2 * (self.parts + self.missed) + (self.assets - self.parts)
    }
}

/// One second of one client in eight bytes, to keep windows small in the cache. A second with more than 65,535 requests
/// takes several buckets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Bucket {
    second: u32,
    requests: u16,
    assets: u16,
}

impl Bucket {
    fn counts(&self) -> Counts {
        let (requests, assets) = (u32::from(self.requests), u32::from(self.assets));
        Counts { requests, assets, ..Counts::default() }
    }

    /// Counts as many of these as fit, and returns the rest.
    fn take(&mut self, requests: u32, assets: u32) -> (u32, u32) {
        let take = |mine: &mut u16, more: u32| {
            let taken = more.min(u32::from(u16::MAX - *mine));
            *mine += taken as u16;
            more - taken
        };
        (take(&mut self.requests, requests), take(&mut self.assets, assets))
    }
}

/// Expired seconds are removed in one go, once the oldest is this much older than the window: removing one at almost
/// every request costs more than keeping a few too many.
const EXPIRY_SLACK_SECS: u32 = 20;

/// The last 60 s of one client: only the seconds with a request.
#[derive(Debug, Clone, Default)]
pub(crate) struct Window {
    /// Oldest first.
    buckets: VecDeque<Bucket>,
    /// The counts that few requests add to; many clients have none.
    rare: Option<Box<Rare>>,
    /// The sum of all buckets.
    requests: u32,
    assets: u32,
    /// The second of the first bucket, kept here so that nearly no request has to read that bucket.
    oldest: u32,
}

/// The buckets before a window, and their sum.
#[derive(Debug, Clone, Copy, Default)]
struct Old {
    buckets: usize,
    requests: u32,
    assets: u32,
}

/// All counts other than requests and assets.
#[derive(Debug, Clone, Default)]
struct Rare {
    /// Oldest first.
    seconds: VecDeque<(u32, Counts)>,
    sum: Counts,
}

impl Window {
    /// Counts one request at `second` that adds to requests and assets only: the fast path of [`Window::add`].
    // A part of the loop over plain requests.
    #[inline(always)]
    pub(crate) fn add_plain(&mut self, second: u32, is_asset: bool) {
        let assets = u16::from(is_asset);
        match self.buckets.back_mut() {
            Some(last) if last.second == second && last.requests < u16::MAX => {
                last.requests += 1;
                last.assets += assets;
            }
            Some(last) if last.second < second && !is_expiry_due(self.oldest, second) => {
                self.buckets.push_back(Bucket { second, requests: 1, assets });
            }
            _ => {
                let counts = Counts { requests: 1, assets: u32::from(assets), ..Counts::default() };
                return self.add(second, counts);
            }
        }
        self.requests += 1;
        self.assets += u32::from(assets);
    }

    /// Adds `counts` at `second`. Seconds may come out of order; those before the window that ends at the newest second
    /// are ignored.
    #[inline(never)]
    pub(crate) fn add(&mut self, second: u32, counts: Counts) {
        if self.newest().saturating_sub(second) >= WINDOW_SECS {
            return;
        }
        if is_expiry_due(self.oldest, second) {
            self.expire(second);
        }
        self.requests += counts.requests;
        self.assets += counts.assets;
        self.add_buckets(second, counts.requests, counts.assets);
        if let Some(counts) = counts.rare() {
            self.rare.get_or_insert_default().add(second, counts);
        }
    }

    fn add_buckets(&mut self, second: u32, mut requests: u32, mut assets: u32) {
        let later = self.buckets.iter().rev().take_while(|bucket| bucket.second > second).count();
        let mut place = self.buckets.len() - later;
        if let Some(last) = place.checked_sub(1).and_then(|at| self.buckets.get_mut(at))
            && last.second == second
        {
            (requests, assets) = last.take(requests, assets);
        }
        while (requests, assets) != (0, 0) {
            let mut bucket = Bucket { second, requests: 0, assets: 0 };
            (requests, assets) = bucket.take(requests, assets);
            self.buckets.insert(place, bucket);
            place += 1;
        }
        self.oldest = self.buckets.front().map_or(0, |bucket| bucket.second);
    }

    /// Removes seconds outside the window that ends at `second`.
    #[inline(never)]
    pub(crate) fn expire(&mut self, second: u32) {
        let old = self.old(second);
        self.buckets.drain(..old.buckets);
        self.requests -= old.requests;
        self.assets -= old.assets;
        self.oldest = self.buckets.front().map_or(second, |bucket| bucket.second);
        if let Some(rare) = &mut self.rare {
            rare.expire(second);
        }
    }

    /// What lies before the window that ends at `second`.
    fn old(&self, second: u32) -> Old {
        let mut old = Old::default();
        for bucket in self.buckets.iter().take_while(|bucket| is_old(bucket.second, second)) {
            old.buckets += 1;
            old.requests += u32::from(bucket.requests);
            old.assets += u32::from(bucket.assets);
        }
        old
    }

    /// An upper bound of [`Window::sum`] in O(1): the sum over up to 20 s more.
    pub(crate) fn at_most(&self) -> Counts {
        let rare = self.rare.as_ref().map_or(Counts::default(), |rare| rare.sum);
        Counts { requests: self.requests, assets: self.assets, ..rare }
    }

    /// The sum over the window that ends at the newest second.
    pub(crate) fn sum(&self) -> Counts {
        self.sum_up_to(self.newest())
    }

    /// The sum over the window that ends at `second`, which must not be before the newest one.
    fn sum_up_to(&self, second: u32) -> Counts {
        let old = self.old(second);
        let rare = self.rare.as_ref().map_or(Counts::default(), |rare| rare.sum_up_to(second));
        Counts { requests: self.requests - old.requests, assets: self.assets - old.assets, ..rare }
    }

    /// The sum over the `secs` (1..=60) seconds up to and including `second`, limited to the window that ends at the newest
    /// second.
    pub(crate) fn sum_of_last(&self, secs: u32, second: u32) -> Counts {
        let newest = self.newest();
        if secs == WINDOW_SECS && second >= newest {
            return self.sum_up_to(second);
        }
        let is_inside = |at: u32| at <= second && second - at < secs && newest - at < WINDOW_SECS;
        let buckets = self.buckets.iter().rev().skip_while(|bucket| bucket.second > second);
        let buckets = buckets.take_while(|bucket| is_inside(bucket.second)).map(Bucket::counts);
        let rare = self.rare().filter(|(at, _)| is_inside(*at)).map(|(_, counts)| *counts);
        buckets.chain(rare).fold(Counts::default(), Counts::plus)
    }

    /// The counts of exactly this second.
    pub(crate) fn at(&self, second: u32) -> Counts {
        if self.newest().saturating_sub(second) >= WINDOW_SECS {
            return Counts::default();
        }
        let rare = self.rare.as_ref().map_or(Counts::default(), |rare| rare.at(second));
        let later = self.buckets.iter().rev().skip_while(|bucket| bucket.second > second);
        // A second may take several buckets.
        later.take_while(|bucket| bucket.second == second).map(Bucket::counts).fold(rare, Counts::plus)
    }

    /// The sum over the window that ends at `second`, without that second itself.
    pub(crate) fn before(&self, second: u32) -> Counts {
        // Nearly always the newest second, whose sum is at hand.
        let sum = if self.newest() == second { self.sum() } else { self.sum_of_last(WINDOW_SECS, second) };
        sum.less(self.at(second))
    }

    /// The seconds of the window that ends at the newest one, with their counts. A second may come in several parts; the
    /// order is unspecified.
    pub(crate) fn seconds(&self) -> impl Iterator<Item = (u32, Counts)> {
        let newest = self.newest();
        let buckets = self.buckets.iter().map(|bucket| (bucket.second, bucket.counts()));
        buckets.chain(self.rare().copied()).filter(move |(at, _)| newest - at < WINDOW_SECS)
    }

    /// Whether the next request, at `second`, removes what is older than the window. Until then the sums only grow.
    #[inline]
    pub(crate) fn expires_at(&self, second: u32) -> bool {
        is_expiry_due(self.oldest, second)
    }

    /// Prefetches what [`Window::add`] reads at about `second`.
    pub(crate) fn prefetch(&self, second: u32) {
        self.buckets.back().into_iter().for_each(prefetch::fetch);
        if is_expiry_due(self.oldest, second) {
            self.prefetch_oldest();
        }
    }

    /// Prefetches the counts that leave the window next.
    pub(crate) fn prefetch_oldest(&self) {
        // One bucket of each cache line.
        let oldest = self.buckets.iter().take(EXPIRY_SLACK_SECS as usize).step_by(64 / size_of::<Bucket>());
        oldest.for_each(prefetch::fetch);
        self.rare.as_deref().into_iter().for_each(prefetch::fetch);
    }

    pub(crate) fn heap_bytes(&self) -> usize {
        let rare_bytes =
            |rare: &Rare| size_of::<Rare>() + rare.seconds.capacity() * size_of::<(u32, Counts)>();
        self.buckets.capacity() * size_of::<Bucket>() + self.rare.as_deref().map_or(0, rare_bytes)
    }

    fn rare(&self) -> impl Iterator<Item = &(u32, Counts)> {
        self.rare.iter().flat_map(|rare| rare.seconds.iter())
    }

    /// The newest second; 0 when empty.
    fn newest(&self) -> u32 {
        self.buckets.back().map_or(0, |bucket| bucket.second)
    }
}

impl Rare {
    fn add(&mut self, second: u32, counts: Counts) {
        self.sum = self.sum.plus(counts);
        let later = self.seconds.iter().rev().take_while(|(at, _)| *at > second).count();
        let place = self.seconds.len() - later;
        match place.checked_sub(1).and_then(|at| self.seconds.get_mut(at)) {
            Some((at, known)) if *at == second => *known = known.plus(counts),
            _ => self.seconds.insert(place, (second, counts)),
        }
    }

    fn expire(&mut self, second: u32) {
        while self.seconds.front().is_some_and(|(at, _)| is_old(*at, second))
            && let Some((_, gone)) = self.seconds.pop_front()
        {
            self.sum = self.sum.less(gone);
        }
    }

    /// The sum over the window that ends at `second`, which must not be before the newest one.
    fn sum_up_to(&self, second: u32) -> Counts {
        let old = self.seconds.iter().take_while(|(at, _)| is_old(*at, second));
        old.fold(self.sum, |sum, (_, counts)| sum.less(*counts))
    }

    fn at(&self, second: u32) -> Counts {
        let same = |(at, _): &&(u32, Counts)| *at == second;
        self.seconds.iter().rev().find(same).map_or(Counts::default(), |(_, counts)| *counts)
    }
}

/// Returns whether `at` lies before the window that ends at `second`.
fn is_old(at: u32, second: u32) -> bool {
    second.saturating_sub(at) >= WINDOW_SECS
}

fn is_expiry_due(oldest: u32, second: u32) -> bool {
    second.saturating_sub(oldest) >= WINDOW_SECS + EXPIRY_SLACK_SECS
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::detect::ring::{SecondRing, ServerSecond};
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
    fn a_second_may_exceed_what_a_bucket_holds() {
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

    proptest! {
        #[test]
        fn a_windows_sum_is_the_events_in_it(
            events in prop::collection::vec((0u32..25, 0u32..100, any::<bool>(), any::<bool>()), 1..300),
        ) {
            let (mut window, mut kept, mut newest) = (Window::default(), Vec::new(), 1000);
            let (mut ring, mut shortest) = (SecondRing::new(300, 1000), SecondRing::new(0, 1000));
            let first = (0, 0, false, false);
            for (ahead, late, error, asset) in std::iter::once(first).chain(events) {
                newest += ahead * u32::from(late < 60);
                let second = if late < 60 { newest } else { newest - late };
                let counts = Counts { requests: 1, errors: error.into(), assets: asset.into(), ..Counts::default() };
                if error { window.add(second, counts) } else { window.add_plain(second, asset) }
                ring.advance(newest);
                ring.add(second, u32::from(error));
                shortest.advance(newest);
                shortest.add(second, u32::from(error));
                kept.push((second, counts));
                let sum = |secs, at: u32| {
                    let inside = |s: &u32| newest - s < WINDOW_SECS && *s <= at && at - s < secs;
                    kept.iter().filter(|(s, _)| inside(s)).fold(Counts::default(), |sum, (_, c)| sum.plus(*c))
                };
                let all = sum(WINDOW_SECS, newest);
                prop_assert_eq!(window.sum(), all);
                prop_assert!(window.at_most().requests >= all.requests && window.at_most().errors >= all.errors);
                prop_assert_eq!(window.seconds().fold(Counts::default(), |sum, (_, c)| sum.plus(c)), all);
                prop_assert_eq!(ring.window(), ServerSecond { requests: all.requests, errors: all.errors });
                prop_assert_eq!(shortest.window(), ring.window());
                for at in [second, newest, newest + 7] {
                    prop_assert_eq!(window.sum_of_last(WINDOW_SECS, at), sum(WINDOW_SECS, at));
                    prop_assert_eq!(window.sum_of_last(7, at), sum(7, at));
                    prop_assert_eq!(window.before(at), sum(WINDOW_SECS, at).less(sum(1, at)));
                }
            }
        }

        #[test]
        fn the_upper_bound_covers_at_most_20_s_more(steps in prop::collection::vec(0u32..4, 1..2000)) {
            let (mut window, mut second, mut kept) = (Window::default(), 1000, Vec::new());
            for step in steps {
                second += step;
                window.add_plain(second, false);
                kept.push(second);
                let most = kept.iter().filter(|at| second - **at < WINDOW_SECS + EXPIRY_SLACK_SECS).count();
                prop_assert!(window.at_most().requests as usize <= most);
            }
        }
    }
}
