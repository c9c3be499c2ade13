//! What speaks for a client: how long, and how much, it was served well. Earned minute by minute, slowly and up to a cap, so
//! that browsing for an hour buys an attacker next to nothing; lost by a verdict, and by weeks of absence.

use std::cmp::Ordering;

use serde::{Deserialize, Serialize};

use crate::detect::hash::Seeded;
use crate::detect::sampled_table::{Keyed, SampledTable};

/// At most one slot of good service is earned in this many seconds.
const SLOT_SECS: u32 = 600;

/// Slots are counted in quarters: pages with their files earn a whole one, what a program is served a quarter.
const WHOLE_SLOT: u16 = 4;
const PROGRAM_SLOT: u16 = 1;

/// More slots earn nothing.
const MAX_QUARTERS: u16 = 4 * 400;

/// Everything earned halves once in this many slots without service: a week.
const HALVED_AFTER_SLOTS: u32 = 7 * 86_400 / SLOT_SECS;

/// Slots and requests of good service from which a client's own traffic teaches what is normal here.
const TEACHER_QUARTERS: u16 = 2 * WHOLE_SLOT;
const TEACHER_REQUESTS: f32 = 8.0;

/// The most that standing multiplies the bar by.
const MAX_MULTIPLE: f32 = 8.0;

/// The service of one client in one minute.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Service {
    /// Pages and assets that were served.
    pub(crate) pages: u32,
    pub(crate) assets: u32,
    /// Requests that were refused.
    pub(crate) failed: u32,
}

impl Service {
    /// What the minute earns, in quarters of a slot; `None` for no good service.
    fn earns(self) -> Option<u16> {
        let served = self.pages + self.assets;
        let is_good = self.pages > 0 && 4 * self.failed <= served;
        match self.assets {
            _ if !is_good => None,
            0 if self.pages >= 3 && self.failed == 0 => Some(PROGRAM_SLOT),
            0 => None,
            _ => Some(WHOLE_SLOT),
        }
    }
}

/// One client's standing, in 32 bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
struct Entry {
    key: u128,
    /// The slot of the last good service, since 1970.
    slot: u32,
    /// Served requests.
    requests: f32,
    quarters: u16,
}

impl Entry {
    /// Halves what was earned for each week of absence.
    fn forget(&mut self, slot: u32) {
        let weeks = slot.saturating_sub(self.slot) / HALVED_AFTER_SLOTS;
        if weeks > 0 {
            self.quarters >>= weeks.min(15);
            self.requests /= (1u64 << weeks.min(40)) as f32;
        }
    }

    /// The least earned first, of equals the one longest away.
    fn by_merit(&self, other: &Entry) -> Ordering {
        (self.quarters, self.slot).cmp(&(other.quarters, other.slot))
    }

    fn merit(&self, second: u32) -> Merit {
        let mut entry = *self;
        entry.forget(second / SLOT_SECS);
        Merit { quarters: entry.quarters, requests: entry.requests }
    }
}

impl Keyed for Entry {
    fn key(&self) -> u128 {
        self.key
    }
}

/// What a client has earned.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Merit {
    quarters: u16,
    requests: f32,
}

impl Merit {
    /// Whether what happens to this client shows what is normal on this site.
    pub(crate) fn teaches(self) -> bool {
        self.quarters >= TEACHER_QUARTERS && self.requests >= TEACHER_REQUESTS
    }

    /// Whether it was ever served well.
    pub(crate) fn is_any(self) -> bool {
        self.quarters > 0
    }

    /// What the bar is multiplied by: by time *and* by volume, so that neither a loop of requests nor a page left open
    /// earns much.
    pub(crate) fn multiple(self) -> f32 {
        let by_time = f32::from(self.quarters) / f32::from(4 * WHOLE_SLOT);
        let by_volume = (1.0 + self.requests / 64.0).log2();
        (1.0 + by_time.min(by_volume)).min(MAX_MULTIPLE)
    }
}

/// The most entries that are saved: the best.
const MAX_SAVED: usize = 4096;

/// The standing of all clients that have earned any.
pub(crate) struct Standings {
    table: SampledTable<Entry>,
    /// Served requests of all clients.
    served: f32,
}

impl Standings {
    pub(crate) fn new(max: usize, hash: Seeded) -> Standings {
        Standings { table: SampledTable::new(max, hash), served: 0.0 }
    }

    /// What a client has earned by `second`.
    pub(crate) fn of(&self, key: u128, second: u32) -> Merit {
        self.table.get(key).map_or(Merit::default(), |entry| entry.merit(second))
    }

    /// Whether a client was served well since `second`.
    pub(crate) fn served_since(&self, key: u128, second: u32) -> bool {
        self.table.get(key).is_some_and(|entry| entry.quarters > 0 && entry.slot >= second / SLOT_SECS)
    }

    /// Whether a client carries more than a fifth of all that was ever served here, over hours: a proxy, a CDN or the
    /// site's own machine. A ban would cut off everybody behind it.
    pub(crate) fn carries_the_site(&self, key: u128) -> bool {
        let Some(entry) = self.table.get(key) else { return false };
        entry.quarters >= 6 * WHOLE_SLOT && entry.requests >= 500.0 && 5.0 * entry.requests >= self.served
    }

    /// Credits the service of one client in the minute before `second`.
    pub(crate) fn credit(&mut self, key: u128, service: Service, second: u32) {
        self.served += (service.pages + service.assets) as f32;
        let Some(quarters) = service.earns() else { return };
        let slot = second / SLOT_SECS;
        let entry = self.table.get_or_insert(key, || Entry { key, ..Entry::default() }, Entry::by_merit);
        entry.forget(slot);
        if entry.slot < slot {
            entry.quarters = (entry.quarters + quarters).min(MAX_QUARTERS);
        }
        entry.slot = entry.slot.max(slot);
        entry.requests += (service.pages + service.assets) as f32;
    }

    /// Takes away what a client has earned: it turned out to be an attacker.
    pub(crate) fn forfeit(&mut self, key: u128) {
        self.table.remove(key);
    }

    /// Approximate memory in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.table.bytes()
    }

    /// The best standings, for a later run.
    pub(crate) fn save(&self) -> SavedStandings {
        let order = |a: &Entry, b: &Entry| b.by_merit(a).then(a.key.cmp(&b.key));
        let mut best = self.table.entries().to_vec();
        // Of a hundred thousand only the best are sorted: a ban waits for this.
        if best.len() > MAX_SAVED {
            best.select_nth_unstable_by(MAX_SAVED, order);
            best.truncate(MAX_SAVED);
        }
        best.sort_unstable_by(order);
        SavedStandings { served: self.served, best }
    }

    /// Takes over what an earlier run saved.
    pub(crate) fn restore(&mut self, saved: &SavedStandings) {
        self.served = saved.served;
        for entry in saved.best.iter().take(self.table.max()) {
            self.table.get_or_insert(entry.key, || *entry, Entry::by_merit);
        }
    }
}

/// See [`Standings::save`].
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct SavedStandings {
    served: f32,
    best: Vec<Entry>,
}

impl SavedStandings {
    /// Clients that have earned something.
    pub(crate) fn len(&self) -> usize {
        self.best.iter().filter(|entry| entry.quarters > 0).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: Service = Service { pages: 2, assets: 6, failed: 0 };

    fn after(minutes: u32, every_secs: u32, service: Service) -> Standings {
        let mut standings = Standings::new(10, Seeded::new(1));
        for n in 0..minutes {
            standings.credit(7, service, 1_767_600_000 + n * every_secs);
        }
        standings
    }

    #[test]
    fn standing_is_earned_over_hours_and_not_by_requests_alone() {
        let multiple =
            |standings: &Standings, second: u32| standings.of(7, 1_767_600_000 + second).multiple();
        let quick = after(9, 60, Service { pages: 500, assets: 500, failed: 0 });
        assert!(multiple(&quick, 540) < 1.6, "9,000 requests in nine minutes");
        let idle = after(100, 600, Service { pages: 1, assets: 1, failed: 0 });
        assert!(multiple(&idle, 60_000) < 3.1, "a page left open for a day");
        let office = after(200, 600, Service { pages: 20, assets: 60, failed: 1 });
        assert_eq!(multiple(&office, 120_000), MAX_MULTIPLE);
        assert!(multiple(&office, 120_000 + 5 * 7 * 86_400) < 3.0, "five weeks later");
    }

    #[test]
    fn a_failing_minute_earns_nothing() {
        assert_eq!(Service { failed: 3, ..PAGE }.earns(), None);
        assert_eq!(PAGE.earns(), Some(WHOLE_SLOT));
        assert_eq!(Service { pages: 9, ..Service::default() }.earns(), Some(PROGRAM_SLOT));
        let standings = after(30, 600, Service { failed: 9, ..PAGE });
        assert!(!standings.of(7, 1_767_620_000).teaches());
        assert!(after(2, 600, PAGE).of(7, 1_767_600_700).teaches());
        assert!(!after(2, 60, PAGE).of(7, 1_767_600_100).teaches(), "two minutes are no time");
    }

    #[test]
    fn those_with_the_least_make_room() {
        let mut standings = Standings::new(10, Seeded::new(1));
        (0..40).for_each(|n| standings.credit(1, PAGE, 1_767_600_000 + n * 600));
        (100..200).for_each(|key| standings.credit(key, PAGE, 1_767_630_000));
        assert!(standings.of(1, 1_767_630_000).multiple() > 2.0);
        assert_eq!(standings.table.entries().len(), 10);
        let saved = standings.save();
        let mut restored = Standings::new(10, Seeded::new(2));
        restored.restore(&saved);
        assert_eq!(restored.of(1, 1_767_630_000), standings.of(1, 1_767_630_000));
        standings.forfeit(1);
        assert_eq!(standings.of(1, 1_767_630_000), Merit::default());
    }

    #[test]
    fn what_carries_a_fifth_of_the_site_is_infrastructure() {
        let mut standings = Standings::new(1000, Seeded::new(1));
        for n in 0..40 {
            let second = 1_767_600_000 + n * 600;
            standings.credit(1, Service { pages: 100, assets: 100, failed: 0 }, second);
            standings.credit(2, Service { pages: 10, assets: 10, failed: 0 }, second);
            (10..20)
                .for_each(|key| standings.credit(key, Service { pages: 20, assets: 20, failed: 0 }, second));
        }
        assert!(standings.carries_the_site(1) && !standings.carries_the_site(2));
    }
}
