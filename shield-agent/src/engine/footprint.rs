//! What is kept of a client that asked for more than a few things: its window, and the targets it asked for in the
//! last 10 min. Bounded however many requests it makes. Clients with fewer requests are `clients.rs`'s light records.

use hashbrown::HashTable;

use super::trace::{Flags, Trace};
use super::window::{Counts, WINDOW_SECS, Window};

/// Targets older than this are forgotten.
pub const TRAIL_SECS: u32 = 600;

/// Targets remembered of one client at most; far above every threshold.
pub const MAX_TRAILS: usize = 384;

/// So many are let go at once when there are more, so that finding them costs little a request.
const TRAILS_LET_GO: usize = 64;

/// Requests may be judged this many seconds before the newest one without looking at every target again.
const LATE_SECS: u32 = 5;

/// Repeats of one target are counted in slots of this many seconds, of which the newest two count: a value covers the
/// last 30 to 60 s, never more than the window.
const REPEAT_SLOT_SECS: u32 = 30;

/// One target, in 16 bytes.
#[derive(Debug, Clone, Copy, Default)]
struct Trail {
    key: u32,
    /// When it was asked for last; 0 before the first time.
    last: u32,
    /// Requests in the slot of `last`, and in the slot before it.
    hits: u16,
    hits_before: u16,
    weight: u8,
    answer: u8,
    flags: Flags,
}

impl Trail {
    fn hit(&mut self, second: u32, trace: &Trace) {
        match (second / REPEAT_SLOT_SECS).saturating_sub(self.last / REPEAT_SLOT_SECS) {
            // The same slot, or out of order: counted with the newer one, which it is at most a minute away from.
            0 => {}
            1 => (self.hits_before, self.hits) = (self.hits, 0),
            _ => (self.hits_before, self.hits) = (0, 0),
        }
        self.hits = self.hits.saturating_add(1);
        self.last = self.last.max(second);
        // Both only grow, so that the order of a second's lines makes no difference.
        self.weight = self.weight.max(trace.weight);
        self.flags = self.flags.union(trace.flags);
        self.answer = self.answer.max(trace.answer);
    }

    fn repeats(&self, second: u32) -> u32 {
        match (second / REPEAT_SLOT_SECS).saturating_sub(self.last / REPEAT_SLOT_SECS) {
            0 => u32::from(self.hits) + u32::from(self.hits_before),
            1 => u32::from(self.hits),
            _ => 0,
        }
    }

    /// Its weight, if it was asked for within `secs` and its shape tells (or not, as asked).
    fn weight_if(&self, shaped: bool, secs: u32, second: u32) -> u32 {
        let counts = self.flags.has(Flags::SHAPED) == shaped && self.is_within(secs, second);
        if counts { u32::from(self.weight) } else { 0 }
    }

    fn has_failed(&self) -> bool {
        self.flags.has(Flags::FAILED) || self.flags.has(Flags::BROKEN)
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
    trails: HashTable<Trail>,
    /// At least what [`Footprint::spread`] would find: nearly every request is below what any rule asks for.
    ceiling: Spread,
    /// The second from which on the ceiling holds.
    ceiling_from: u32,
}

impl Footprint {
    /// Counts one request.
    pub fn add(&mut self, second: u32, trace: &Trace) {
        self.window.add(second, counts_of(trace));
        if trace.flags.has(Flags::ASSET) || trace.flags.has(Flags::NO_TARGET) {
            return;
        }
        let from = self.ceiling_from;
        if let Some(trail) = self.trails.find_mut(spread_out(trace.key), |trail| trail.key == trace.key) {
            let before = *trail;
            trail.hit(second, trace);
            return self.ceiling.raise(&before, trail, second.max(from));
        }
        if self.trails.len() >= MAX_TRAILS {
            self.make_room(second);
        }
        let unasked = Trail { key: trace.key, ..Trail::default() };
        let mut trail = unasked;
        trail.hit(second, trace);
        self.ceiling.raise(&unasked, &trail, second.max(from));
        self.trails.insert_unique(spread_out(trail.key), trail, |trail| spread_out(trail.key));
    }

    /// The second from which on [`Footprint::ceiling`] knows something.
    pub fn ceiling_from(&self) -> u32 {
        self.ceiling_from
    }

    /// Reads what [`Footprint::add`] will read for this target, and says something that depends on it.
    pub fn look_ahead(&self, key: u32) -> u32 {
        let known = self.trails.find(spread_out(key), |trail| trail.key == key);
        self.window.ends() ^ known.map_or(0, |trail| trail.last)
    }

    /// Lets go of what is old, and else of the least telling targets.
    fn make_room(&mut self, second: u32) {
        self.trails.retain(|trail| trail.is_within(TRAIL_SECS, second));
        let kept = MAX_TRAILS - TRAILS_LET_GO;
        if self.trails.len() <= kept {
            return;
        }
        // Harmless ones first, so that nobody hides probes under a heap of pages; then the oldest.
        let worth = |trail: &Trail| (trail.weight, trail.last, trail.key);
        let mut worths: Vec<_> = self.trails.iter().map(worth).collect();
        let (_, least_kept, _) = worths.select_nth_unstable(self.trails.len() - kept);
        let least_kept = *least_kept;
        self.trails.retain(|trail| worth(trail) >= least_kept);
    }

    /// At least what [`Footprint::spread`] would find at `second` (`alike_scripts`: all scripts); `None` when nothing
    /// is known about so long ago.
    pub fn ceiling(&self, second: u32) -> Option<&Spread> {
        (second >= self.ceiling_from).then_some(&self.ceiling)
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

    /// The same, and forgets what is older than 10 min and lowers the ceiling to what is there.
    pub fn settle(&mut self, second: u32) -> Spread {
        self.trails.retain(|trail| trail.is_within(TRAIL_SECS, second));
        self.ceiling_from = second.saturating_sub(LATE_SECS);
        self.ceiling = Spread::default();
        for trail in &self.trails {
            self.ceiling.raise(&Trail::default(), trail, self.ceiling_from);
        }
        self.spread(second)
    }

    /// Targets and requests for them over the last 30 to 60 s, most first (ties by key, so that the order is fixed).
    pub fn top_targets(&self, n: usize, second: u32) -> Vec<(u32, u32)> {
        let repeats = self.trails.iter().map(|trail| (trail.key, trail.repeats(second)));
        let mut all: Vec<_> = repeats.filter(|(_, hits)| *hits > 0).collect();
        all.sort_unstable_by_key(|(key, hits)| (std::cmp::Reverse(*hits), *key));
        all.truncate(n);
        all
    }

    /// Bytes it takes.
    pub fn bytes(&self) -> usize {
        size_of::<Footprint>() + self.window.heap_bytes() + self.trails.allocation_size()
    }
}

impl Spread {
    /// Takes in that a target became `after` from `before`: each value grows by at least as much as the true one at
    /// `second` or later.
    fn raise(&mut self, before: &Trail, after: &Trail, second: u32) {
        let weight = |shaped, secs| {
            let (old, new) = (before.weight_if(shaped, secs, second), after.weight_if(shaped, secs, second));
            new.saturating_sub(old)
        };
        self.shaped_weight += weight(true, WINDOW_SECS);
        self.plain_weight += weight(false, WINDOW_SECS);
        self.shaped_weight_600 += weight(true, TRAIL_SECS);
        self.plain_weight_600 += weight(false, TRAIL_SECS);
        let was_recent = before.last > 0 && before.is_within(WINDOW_SECS, second);
        if !after.is_within(WINDOW_SECS, second) {
            return;
        }
        self.paths += u32::from(!was_recent);
        self.failed_paths += u32::from(after.has_failed() && !(was_recent && before.has_failed()));
        let is_script = |trail: &Trail| trail.flags.has(Flags::SCRIPT);
        self.alike_scripts += u32::from(is_script(after) && !(was_recent && is_script(before)));
        let most = if after.flags.has(Flags::POST) { &mut self.posts } else { &mut self.repeats };
        *most = (*most).max(after.repeats(second));
    }

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
            self.failed_paths += u32::from(trail.has_failed());
            let most = if trail.flags.has(Flags::POST) { &mut self.posts } else { &mut self.repeats };
            *most = (*most).max(trail.repeats(second));
        }
    }
}

/// A target's key, which is a hash already, for a table that looks at the highest bits.
fn spread_out(key: u32) -> u64 {
    u64::from(key).wrapping_mul(0x9e37_79b9_7f4a_7c15)
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
