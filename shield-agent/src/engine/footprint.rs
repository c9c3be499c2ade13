//! What is kept of a client that asked for more than a few things: its window, and the targets it asked for in the
//! last 10 min. Bounded however many requests it makes. Clients with fewer requests are `clients.rs`'s light records.

use super::trace::{Flags, Trace};
use super::window::{Counts, WINDOW_SECS, Window};

/// Targets older than this are forgotten.
pub const TRAIL_SECS: u32 = 600;

/// Targets remembered of one client at most; far above every threshold.
pub const MAX_TRAILS: usize = 320;

/// Repeats of one target are counted in slots of this many seconds, of which the newest two count: a value covers the
/// last 30 to 60 s, never more than the window.
const REPEAT_SLOT_SECS: u32 = 30;

/// One target.
#[derive(Debug, Clone, Copy, Default)]
struct Trail {
    /// When it was asked for last.
    last: u32,
    /// The slot that `hits` counts.
    slot: u32,
    hits: u16,
    hits_before: u16,
    weight: u8,
    answer: u8,
    flags: Flags,
}

impl Trail {
    fn hit(&mut self, second: u32, trace: &Trace) {
        let slot = second / REPEAT_SLOT_SECS;
        match slot.checked_sub(self.slot) {
            Some(0) => {}
            Some(1) => (self.hits_before, self.hits) = (self.hits, 0),
            Some(_) => (self.hits_before, self.hits) = (0, 0),
            // Out of order by a slot: counted with the newer one, which it is at most a minute away from.
            None => {}
        }
        self.slot = self.slot.max(slot);
        self.hits = self.hits.saturating_add(1);
        self.last = self.last.max(second);
        // Both only grow, so that the order of a second's lines makes no difference.
        self.weight = self.weight.max(trace.weight);
        self.flags = self.flags.union(trace.flags);
        self.answer = self.answer.max(trace.answer);
    }

    fn repeats(&self, second: u32) -> u32 {
        let now = second / REPEAT_SLOT_SECS;
        match now.saturating_sub(self.slot) {
            0 => u32::from(self.hits) + u32::from(self.hits_before),
            1 => u32::from(self.hits),
            _ => 0,
        }
    }

    fn is_within(&self, secs: u32, second: u32) -> bool {
        second.saturating_sub(self.last) < secs
    }
}

/// What a client's targets amount to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Spread {
    /// Distinct targets that are no assets, over the window.
    pub paths: u32,
    /// Distinct failed targets over the window.
    pub failed_paths: u32,
    /// Distinct scripts over the window that were answered alike: most of any one answer.
    pub alike_scripts: u32,
    /// Weight over the window of targets whose shape tells, in tenths of a failed path.
    pub shaped_weight: u32,
    /// Weight over the window of targets that merely failed.
    pub plain_weight: u32,
    /// Weight over 10 min of targets whose shape tells.
    pub shaped_weight_600: u32,
    /// Weight over 10 min of targets that merely failed.
    pub plain_weight_600: u32,
    /// Requests for the target asked for (not posted to) most, over the last 30 to 60 s.
    pub repeats: u32,
    /// Posts to the target posted to most, over the last 30 to 60 s.
    pub posts: u32,
}

/// What is kept of one busy client.
#[derive(Debug, Clone, Default)]
pub struct Footprint {
    /// Its window.
    pub window: Window,
    keys: Vec<u32>,
    trails: Vec<Trail>,
    /// At least the sum of the trails' weights: lets the rules skip [`Footprint::spread`] nearly always.
    weight_ceiling: u32,
    /// At least the most repeats of any trail.
    repeat_ceiling: u32,
}

impl Footprint {
    /// Counts one request.
    pub fn add(&mut self, second: u32, trace: &Trace) {
        self.window.add(second, counts_of(trace));
        if trace.flags.has(Flags::ASSET) || trace.flags.has(Flags::NO_TARGET) {
            return;
        }
        let at = match self.keys.iter().position(|key| *key == trace.key) {
            Some(at) => at,
            None => self.new_trail(second, trace.key),
        };
        let before = self.trails[at].weight;
        self.trails[at].hit(second, trace);
        self.weight_ceiling += u32::from(self.trails[at].weight - before);
        self.repeat_ceiling = self.repeat_ceiling.max(self.trails[at].repeats(second));
    }

    fn new_trail(&mut self, second: u32, key: u32) -> usize {
        if self.keys.len() >= MAX_TRAILS {
            self.forget_before(second, TRAIL_SECS);
        }
        if self.keys.len() >= MAX_TRAILS {
            // Harmless ones first, so that nobody hides probes under a heap of pages.
            let worth = |at: &usize| (self.trails[*at].weight, self.trails[*at].last);
            let least = (0..self.trails.len()).min_by_key(worth).unwrap_or(0);
            self.remove(least);
        }
        self.keys.push(key);
        self.trails.push(Trail { slot: second / REPEAT_SLOT_SECS, ..Trail::default() });
        self.keys.len() - 1
    }

    fn remove(&mut self, at: usize) {
        self.keys.swap_remove(at);
        let gone = self.trails.swap_remove(at);
        self.weight_ceiling -= u32::from(gone.weight);
    }

    fn forget_before(&mut self, second: u32, secs: u32) {
        let mut at = 0;
        while at < self.trails.len() {
            if self.trails[at].is_within(secs, second) { at += 1 } else { self.remove(at) }
        }
    }

    /// At least the weight that [`Footprint::spread`] would find over 10 min.
    pub fn weight_ceiling(&self) -> u32 {
        self.weight_ceiling
    }

    /// At least the repeats that [`Footprint::spread`] would find.
    pub fn repeat_ceiling(&self) -> u32 {
        self.repeat_ceiling
    }

    /// At least the distinct paths that [`Footprint::spread`] would find.
    pub fn path_ceiling(&self) -> u32 {
        self.keys.len() as u32
    }

    /// What the targets amount to at `second`, without changing anything.
    pub fn spread(&self, second: u32) -> Spread {
        let mut spread = Spread::default();
        let mut alike = [0u32; 256];
        for trail in self.trails.iter().filter(|t| t.is_within(TRAIL_SECS, second)) {
            spread.count(trail, second);
            let is_script = trail.flags.has(Flags::SCRIPT) && trail.is_within(WINDOW_SECS, second);
            alike[usize::from(trail.answer)] += u32::from(is_script);
        }
        spread.alike_scripts = alike.iter().skip(1).copied().max().unwrap_or(0);
        spread
    }

    /// The same, and forgets what is older than 10 min, so that the ceilings come down.
    pub fn settle(&mut self, second: u32) -> Spread {
        self.forget_before(second, TRAIL_SECS);
        let spread = self.spread(second);
        self.repeat_ceiling = spread.repeats.max(spread.posts);
        spread
    }

    /// Targets and requests for them over the last 30 to 60 s, most first (ties by key, so that the order is fixed).
    pub fn top_targets(&self, n: usize, second: u32) -> Vec<(u32, u32)> {
        let repeats = self.trails.iter().map(|t| t.repeats(second));
        let mut all: Vec<_> = self.keys.iter().copied().zip(repeats).filter(|(_, hits)| *hits > 0).collect();
        all.sort_unstable_by_key(|(key, hits)| (std::cmp::Reverse(*hits), *key));
        all.truncate(n);
        all
    }

    /// Bytes it takes.
    pub fn bytes(&self) -> usize {
        let trails = self.trails.capacity() * size_of::<Trail>() + self.keys.capacity() * size_of::<u32>();
        size_of::<Footprint>() + self.window.heap_bytes() + trails
    }
}

impl Spread {
    fn count(&mut self, trail: &Trail, second: u32) {
        let weight = u32::from(trail.weight);
        let recent = trail.is_within(WINDOW_SECS, second);
        if trail.flags.has(Flags::SHAPED) {
            self.shaped_weight_600 += weight;
            self.shaped_weight += if recent { weight } else { 0 };
        } else {
            self.plain_weight_600 += weight;
            self.plain_weight += if recent { weight } else { 0 };
        }
        if recent {
            self.paths += 1;
            self.failed_paths += u32::from(trail.flags.has(Flags::FAILED) || trail.flags.has(Flags::BROKEN));
            let most = if trail.flags.has(Flags::POST) { &mut self.posts } else { &mut self.repeats };
            *most = (*most).max(trail.repeats(second));
        }
    }
}

/// What a request adds to a window.
pub fn counts_of(trace: &Trace) -> Counts {
    let flag = |flag| u32::from(trace.flags.has(flag));
    Counts {
        requests: 1,
        errors: flag(Flags::ERROR),
        assets: flag(Flags::ASSET),
        failed: flag(Flags::FAILED),
        broken: flag(Flags::BROKEN),
        foreign_tenths: u32::from(trace.foreign_tenths()),
        logins: flag(Flags::LOGIN),
        remote_calls: flag(Flags::REMOTE_CALL),
    }
}
