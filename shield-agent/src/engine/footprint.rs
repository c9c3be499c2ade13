//! What is kept of a client that asked for more than a few things: its window, and the targets it asked for in the
//! last 10 min. Bounded however many requests it makes. Clients with fewer requests are `clients.rs`'s light records.

use super::prefetch;
use super::trace::{Flags, Trace};
pub use super::trails::TRAIL_SECS;
use super::trails::{LATE_SECS, Trail, Trails};
use super::window::{Counts, WINDOW_SECS, Window};

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

/// At least what [`Footprint::spread`] would find. A value that reached [`Ceiling::MAX`] may be anything above.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ceiling {
    /// See [`Spread::paths`].
    pub paths: u16,
    /// See [`Spread::failed_paths`].
    pub failed_paths: u16,
    /// Distinct scripts, however answered.
    pub scripts: u16,
    /// See [`Spread::shaped_weight`].
    pub shaped_weight: u16,
    /// See [`Spread::plain_weight`].
    pub plain_weight: u16,
    /// See [`Spread::shaped_weight_600`].
    pub shaped_weight_600: u16,
    /// See [`Spread::plain_weight_600`].
    pub plain_weight_600: u16,
    /// See [`Spread::repeats`].
    pub repeats: u16,
    /// See [`Spread::posts`].
    pub posts: u16,
}

/// What is kept of one busy client: two lines of the processor's cache, and what they point to.
#[derive(Debug, Clone, Default)]
#[repr(C, align(64))]
pub struct Footprint {
    /// Its window.
    pub window: Window,
    trails: Trails,
    /// Nearly every request is below what any rule asks for: then it is enough to know this.
    ceiling: Ceiling,
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
        let from = second.max(self.ceiling_from);
        if let Some(trail) = self.trails.get_mut(trace.key) {
            let before = *trail;
            trail.hit(second, trace);
            return self.ceiling.raise(&before, trail, from);
        }
        let unasked = Trail::unasked(trace.key);
        let mut trail = unasked;
        trail.hit(second, trace);
        self.ceiling.raise(&unasked, &trail, from);
        self.trails.insert(trail, second);
    }

    /// Fetches both its lines.
    pub fn fetch(&self) {
        prefetch::fetch(&self.window);
        prefetch::fetch(&self.ceiling);
    }

    /// Fetches what [`Footprint::add`] will follow from them for this target.
    pub fn fetch_target(&self, key: u32) {
        self.window.fetch();
        self.trails.fetch(key);
    }

    /// At least what [`Footprint::spread`] would find at `second`; `None` when nothing is known about so long ago.
    pub fn ceiling(&self, second: u32) -> Option<&Ceiling> {
        (second >= self.ceiling_from).then_some(&self.ceiling)
    }

    /// What the targets amount to at `second`, without changing anything.
    pub fn spread(&self, second: u32) -> Spread {
        let mut spread = Spread::default();
        let mut scripts = false;
        for trail in self.trails.iter().filter(|t| t.is_within(TRAIL_SECS, second)) {
            spread.count(trail, second);
            scripts |= trail.flags.has(Flags::SCRIPT);
        }
        if scripts {
            spread.alike_scripts = self.alike_scripts(second);
        }
        spread
    }

    /// Distinct scripts over the window that were answered alike: most of any one answer.
    fn alike_scripts(&self, second: u32) -> u32 {
        let mut alike = [0; 256];
        let recent = self.trails.iter().filter(|trail| trail.is_within(WINDOW_SECS, second));
        for trail in recent.filter(|trail| trail.flags.has(Flags::SCRIPT)) {
            alike[usize::from(trail.answer)] += 1;
        }
        alike.iter().skip(1).copied().max().unwrap_or(0)
    }

    /// The same as [`Footprint::spread`]; forgets what does not matter any more and lowers the ceiling to what is there.
    pub fn settle(&mut self, second: u32) -> Spread {
        self.trails.prune(second);
        self.ceiling_from = second.saturating_sub(LATE_SECS);
        self.ceiling = Ceiling::default();
        for trail in self.trails.iter() {
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
        size_of::<Footprint>() + self.window.heap_bytes() + self.trails.heap_bytes()
    }
}

impl Ceiling {
    /// Nothing is counted beyond it.
    pub const MAX: u32 = u16::MAX as u32;

    /// Takes in that a target became `after` from `before`: each value grows by at least as much as the true one at
    /// `second` or later.
    fn raise(&mut self, before: &Trail, after: &Trail, second: u32) {
        if after.weight > 0 {
            self.raise_weights(before, after, second);
        }
        if !after.is_within(WINDOW_SECS, second) {
            return;
        }
        let was_recent = before.last > 0 && before.is_within(WINDOW_SECS, second);
        let grow = |value: &mut u16, by: bool| *value = value.saturating_add(u16::from(by));
        grow(&mut self.paths, !was_recent);
        grow(&mut self.failed_paths, after.has_failed() && !(was_recent && before.has_failed()));
        let is_script = |trail: &Trail| trail.flags.has(Flags::SCRIPT);
        grow(&mut self.scripts, is_script(after) && !(was_recent && is_script(before)));
        let most = if after.flags.has(Flags::POST) { &mut self.posts } else { &mut self.repeats };
        *most = (*most).max(after.repeats(second).min(Ceiling::MAX) as u16);
    }

    fn raise_weights(&mut self, before: &Trail, after: &Trail, second: u32) {
        let grow = |value: &mut u16, shaped, secs| {
            let weight_of = |trail: &Trail| {
                let counts = trail.flags.has(Flags::SHAPED) == shaped && trail.is_within(secs, second);
                if counts { u16::from(trail.weight) } else { 0 }
            };
            *value = value.saturating_add(weight_of(after).saturating_sub(weight_of(before)));
        };
        grow(&mut self.shaped_weight, true, WINDOW_SECS);
        grow(&mut self.plain_weight, false, WINDOW_SECS);
        grow(&mut self.shaped_weight_600, true, TRAIL_SECS);
        grow(&mut self.plain_weight_600, false, TRAIL_SECS);
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
            self.failed_paths += u32::from(trail.has_failed());
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
