//! The recent activity of a client: its window of counts, and its targets of the last 10 min. Bounded in memory whatever
//! the client does. A client's first few requests are kept in a light record instead, see `clients.rs`.

use crate::detect::prefetch;
pub(crate) use crate::detect::targets::TARGET_SECS;
use crate::detect::targets::{LATE_SECS, MAX_TARGETS, Target, Targets};
use crate::detect::trace::{Flags, Trace};
use crate::detect::window::{Counts, WINDOW_SECS, Window};

/// The values that the rules compare, derived from a client's targets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Spread {
    /// Distinct targets over the window, without assets.
    pub paths: u32,
    /// The largest number of distinct scripts over the window that were served the same page.
    pub alike_scripts: u32,
    /// The same of scripts that were redirected.
    pub alike_redirected: u32,
    /// Requests other than POST for one target, the most of any target, over the last 30 to 60 s.
    pub repeats: u32,
    /// POSTs to one target, the most of any target, over the last 30 to 60 s.
    pub posts: u32,
    /// Those of one target that were not accepted.
    pub unwanted_posts: u32,
}

/// Upper bounds of a [`Spread`], kept up to date with every request. At [`Ceiling::MAX`] a value is saturated, and the
/// true one may be higher.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Ceiling {
    /// See [`Spread::paths`].
    pub paths: u16,
    /// Distinct scripts, whatever the answer.
    pub scripts: u16,
    /// See [`Spread::repeats`].
    pub repeats: u16,
    /// See [`Spread::posts`].
    pub posts: u16,
}

/// The answers that a target got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asked {
    Served,
    InVain,
}

/// The activity of one client: two cache lines, and the heap behind them.
#[derive(Debug, Clone, Default)]
#[repr(C, align(64))]
pub(crate) struct Activity {
    pub window: Window,
    targets: Targets,
    /// Below the prefilter's limits for nearly every request; then the targets need not be walked.
    ceiling: Ceiling,
    /// The first second that the ceiling is valid for.
    ceiling_from: u32,
    spare: Spare,
    minute: Minute,
}

/// The values of one clock minute that the baseline learns. Counted request by request: walking all targets of all
/// clients once a minute would stall the detector.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Minute {
    /// Minutes since 1970.
    number: u32,
    /// Distinct targets, without assets.
    pub paths: u16,
    /// POSTs to one target, the most of any.
    pub posts: u16,
    /// Other requests for one target, the most of any.
    pub repeats: u16,
}

impl Minute {
    /// Accounts for a request that changed a target from `before` to `after`.
    #[inline]
    fn count(&mut self, before: &Target, after: &Target) {
        let number = after.last / 60;
        if number < self.number {
            return;
        }
        if number > self.number {
            *self = Minute { number, ..Minute::default() };
        }
        // Missing pictures are many to a page, and no pages.
        if after.flags.has(Flags::MISSED) {
            return;
        }
        let is_new = before.last / 60 < number && usize::from(self.paths) < MAX_TARGETS;
        self.paths += u16::from(is_new);
        let most = if after.flags.has(Flags::POST) { &mut self.posts } else { &mut self.repeats };
        *most = (*most).max(after.hits_in_minute().min(u32::from(u16::MAX)) as u16);
    }
}

/// The number of further plain requests that certainly stay below the prefilter's limits, plus one: 0 means unknown.
#[derive(Debug, Clone, Copy, Default)]
struct Spare {
    left: u16,
    /// The generation of the prefilter's limits that it holds for.
    generation: u32,
}

impl Activity {
    /// Counts one request.
    #[inline]
    pub(crate) fn add(&mut self, second: u32, trace: &Trace) {
        let mut is_plain = trace.is_plain();
        // What is spared holds for sums that only grow.
        let is_spending = !self.window.expires_at(second);
        if is_plain {
            self.window.add_plain(second, trace.flags.has(Flags::ASSET));
        } else {
            self.window.add(second, counts_of(trace));
        }
        if !trace.flags.has(Flags::NOT_A_PAGE) {
            let (before, after) = self.targets.hit(second, trace);
            self.ceiling.raise(&before, &after, second.max(self.ceiling_from));
            self.minute.count(&before, &after);
            is_plain &= after.is_plain();
        }
        self.spare.left = if is_plain && is_spending { self.spare.left.saturating_sub(1) } else { 0 };
    }

    /// Returns whether [`Activity::spare`] covers the request that was just counted.
    #[inline]
    pub(crate) fn is_spared(&self, generation: u32, second: u32) -> bool {
        self.spare.left > 0 && self.spare.generation == generation && second >= self.ceiling_from
    }

    /// Whether [`Activity::is_spared`] will hold after another plain request at `second`, if its target is plain.
    #[inline]
    pub(super) fn is_spared_another(&self, generation: u32, second: u32) -> bool {
        self.spare.left > 1
            && self.spare.generation == generation
            && second >= self.ceiling_from
            && !self.window.expires_at(second)
    }

    /// Counts a plain request by its target, unless that is not plain; then nothing is changed.
    #[inline]
    pub(super) fn hit_plain_target(&mut self, second: u32, trace: &Trace) -> bool {
        let Some((before, after)) = self.targets.hit_plain(second, trace) else { return false };
        self.ceiling.raise(&before, &after, second.max(self.ceiling_from));
        self.minute.count(&before, &after);
        true
    }

    /// Takes one off the plain requests that are spared.
    #[inline]
    pub(super) fn spend_spared(&mut self) {
        self.spare.left = self.spare.left.saturating_sub(1);
    }

    /// Removes from the window what a request at `second` would, and spares nothing until the next comparison.
    pub(super) fn expire(&mut self, second: u32) {
        if self.window.expires_at(second) {
            self.window.expire(second);
        }
        self.spare = Spare::default();
    }

    /// Spares the comparison with the limits of `generation` for this many plain requests more. A request that is not
    /// plain, or for a target that is not, ends it.
    pub(crate) fn spare(&mut self, requests: u32, generation: u32) {
        self.spare = Spare { left: requests.saturating_add(1).min(u32::from(u16::MAX)) as u16, generation };
    }

    /// Prefetches both cache lines.
    pub(crate) fn prefetch(&self) {
        prefetch::fetch(&self.window);
        prefetch::fetch(&self.ceiling);
    }

    /// Prefetches what [`Activity::add`] reads through them for this target at about `second`.
    pub(crate) fn prefetch_target(&self, key: u32, second: u32) {
        self.window.prefetch(second);
        self.targets.prefetch(key);
    }

    /// Prefetches what the sums of the window are worked out from.
    pub(crate) fn prefetch_counts(&self) {
        self.window.prefetch_oldest();
    }

    /// Upper bounds of the spread at `second`; `None` when that is too long ago to know.
    pub(crate) fn ceiling(&self, second: u32) -> Option<&Ceiling> {
        (second >= self.ceiling_from).then_some(&self.ceiling)
    }

    /// The values of the clock minute that ends with `second`.
    pub(crate) fn minute(&self, second: u32) -> Minute {
        if self.minute.number == second / 60 { self.minute } else { Minute::default() }
    }

    /// The ceiling, without a check that it is valid for the second in question.
    pub(crate) fn latest_ceiling(&self) -> &Ceiling {
        &self.ceiling
    }

    /// Computes the spread at `second`.
    pub(crate) fn spread(&self, second: u32) -> Spread {
        let mut spread = Spread::default();
        for target in self.targets.iter().filter(|t| t.is_within(WINDOW_SECS, second)) {
            spread.count(target, second);
        }
        (spread.alike_scripts, spread.alike_redirected) = self.alike_scripts(second);
        spread
    }

    /// Distinct scripts over the window that were served the same page, and that were redirected alike.
    pub(crate) fn alike_scripts(&self, second: u32) -> (u32, u32) {
        if self.ceiling.scripts < 2 {
            return (0, 0);
        }
        let mut alike = [0; 256];
        let recent = self.targets.iter().filter(|target| target.is_within(WINDOW_SECS, second));
        for target in recent.filter(|target| target.flags.has(Flags::SCRIPT)) {
            alike[usize::from(target.answer)] += 1;
        }
        // Marks of pages are odd, of redirects even, see `trace.rs`.
        let most = |from: usize| alike.iter().skip(from).step_by(2).copied().max().unwrap_or(0);
        (most(1), most(2))
    }

    /// Distinct pages that were served before `second` within the window, and neither refused nor redirected.
    pub(crate) fn served_pages(&self, second: u32) -> u32 {
        // Without branches: what a target is cannot be guessed from the one before.
        let served = |target: &Target| {
            (target.last < second || target.flags.has(Flags::EARLIER))
                & target.is_within(WINDOW_SECS, second)
                & (target.weight == 0)
                & !target.flags.has(Flags::HAS_FAILED.or(Flags::REDIRECTED))
        };
        self.targets.count(served)
    }

    /// Keys of the distinct targets over the window.
    pub(crate) fn recent_keys(&self, second: u32) -> impl Iterator<Item = u32> {
        self.targets
            .iter()
            .filter(move |target| target.is_within(WINDOW_SECS, second))
            .map(|target| target.key)
    }

    /// Computes the spread at `second`, removes expired targets, and lowers the ceiling to what is left.
    pub(crate) fn settle(&mut self, second: u32) -> Spread {
        self.targets.prune(second);
        self.ceiling_from = second.saturating_sub(LATE_SECS);
        self.ceiling = Ceiling::default();
        // The ceiling is now valid from an earlier second, and may be higher than before.
        self.spare = Spare::default();
        for target in self.targets.iter() {
            self.ceiling.raise(&Target::default(), target, self.ceiling_from);
        }
        self.spread(second)
    }

    /// Keys of the most requested targets over the last 30 to 60 s with their requests, most first; ties by key, for a
    /// deterministic order.
    pub(crate) fn top_targets(&self, n: usize, second: u32) -> Vec<(u32, u32)> {
        let repeats = self.targets.iter().map(|target| (target.key, target.repeats(second)));
        let mut all: Vec<_> = repeats.filter(|(_, hits)| *hits > 0).collect();
        all.sort_unstable_by_key(|(key, hits)| (std::cmp::Reverse(*hits), *key));
        all.truncate(n);
        all
    }

    /// The keys of its recent targets, and whether each was answered well every time.
    pub(crate) fn asked(&self) -> impl Iterator<Item = (u32, Asked)> {
        self.targets.packed().map(|target| {
            let is_served = target.weight == 0 && !target.has_failed();
            (target.key, if is_served { Asked::Served } else { Asked::InVain })
        })
    }

    /// The number of its recent targets, without walking them.
    pub(crate) fn targets(&self) -> usize {
        self.targets.len()
    }

    /// The number of those that weigh something, without walking them.
    pub(crate) fn targets_in_vain(&self) -> usize {
        self.targets.in_vain()
    }

    /// Their keys, in unspecified order.
    pub(crate) fn in_vain(&self) -> impl Iterator<Item = u32> {
        self.targets.iter().filter(|target| target.weight > 0).map(|target| target.key)
    }

    /// Those of them that are pages which failed, or worse: no icons, no challenges for a password.
    pub(crate) fn pages_in_vain(&self) -> impl Iterator<Item = u32> {
        const PAGE: u8 = 5;
        self.targets.iter().filter(|target| target.weight >= PAGE).map(|target| target.key)
    }

    /// Their weight together, in tenths of a failed path.
    pub(crate) fn weight_in_vain(&self) -> u32 {
        self.targets.iter().map(|target| u32::from(target.weight)).sum()
    }

    /// Memory in bytes, heap included.
    pub(crate) fn bytes(&self) -> usize {
        size_of::<Activity>() + self.window.heap_bytes() + self.targets.heap_bytes()
    }
}

impl Ceiling {
    /// The value at which a bound saturates.
    pub(crate) const MAX: u32 = u16::MAX as u32;

    /// Accounts for a request that changed a target from `before` to `after`: each bound grows by at least as much as the
    /// true value at `second` or later.
    #[inline]
    fn raise(&mut self, before: &Target, after: &Target, second: u32) {
        if !after.is_within(WINDOW_SECS, second) {
            return;
        }
        let was_recent = before.last > 0 && before.is_within(WINDOW_SECS, second);
        let grow = |value: &mut u16, by: bool| *value = value.saturating_add(u16::from(by));
        if !after.is_plain() {
            // See `Spread::count`.
            if after.flags.has(Flags::MISSED) {
                return;
            }
            let is_script = |target: &Target| target.flags.has(Flags::SCRIPT);
            grow(&mut self.scripts, is_script(after) && !(was_recent && is_script(before)));
        }
        grow(&mut self.paths, !was_recent);
        let most = if after.flags.has(Flags::POST) { &mut self.posts } else { &mut self.repeats };
        *most = (*most).max(after.repeats(second).min(Ceiling::MAX) as u16);
    }
}

impl Spread {
    fn count(&mut self, target: &Target, second: u32) {
        if target.flags.has(Flags::MISSED) {
            return;
        }
        self.paths += 1;
        let most = if target.flags.has(Flags::POST) { &mut self.posts } else { &mut self.repeats };
        *most = (*most).max(target.repeats(second));
        // Posts that are accepted have another target.
        if target.flags.has(Flags::POST) && target.has_failed() {
            self.unwanted_posts = self.unwanted_posts.max(target.repeats(second));
        }
    }
}

/// The counts that one request adds to a window.
pub(crate) fn counts_of(trace: &Trace) -> Counts {
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
        unproven_logins: flag(Flags::UNPROVEN_LOGIN),
        missed: flag(Flags::MISSED),
        parts: flag(Flags::PART),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_minute_equals_the_spread_at_its_end(
            steps in prop::collection::vec((0u32..20, 0u32..90, 0u32..8, 0usize..4), 1..300),
        ) {
            let (mut activity, mut newest) = (Activity::default(), 6000);
            for (ahead, late, key, kind) in steps {
                for end in newest / 60 * 60 + 59..newest + ahead {
                    if end % 60 == 59 {
                        let (minute, spread) = (activity.minute(end), activity.spread(end));
                        let counted = [minute.paths, minute.posts, minute.repeats].map(u32::from);
                        prop_assert_eq!(counted, [spread.paths, spread.posts, spread.repeats], "at {}", end);
                    }
                }
                newest += ahead;
                let second = if late < 60 { newest } else { newest - late };
                let flags = [Flags::default(), Flags::POST, Flags::FAILED, Flags::ASSET][kind];
                let key = if kind == 1 { !key } else { key };
                activity.add(second, &Trace { key, flags, ..Trace::default() });
            }
        }
    }
}
