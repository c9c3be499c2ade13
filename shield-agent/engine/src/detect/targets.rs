//! The recent targets of one client, in a small hash table per client. Nearly every request reads one, and with many
//! clients each read is a cache miss: so a slot is 16 bytes, four to a cache line, and a lookup reads nothing else first
//! (linear probing at a load of three quarters at most; removal rebuilds the table, so there are no tombstones).
//! `activity.rs` derives from them what the rules compare.

use crate::detect::prefetch;
use crate::detect::trace::{Flags, Trace};
use crate::detect::window::WINDOW_SECS;

/// Targets are forgotten after this long: the longest window of a rule.
pub(crate) const TARGET_SECS: u32 = 600;

/// The most targets kept of one client; far above every threshold.
pub(crate) const MAX_TARGETS: usize = 384;

/// Requests up to this much older than the newest one are judged without walking all targets again.
pub(crate) const LATE_SECS: u32 = 5;

/// Slots of the smallest and the largest table. Powers of two; three quarters of the largest are [`MAX_TARGETS`].
const MIN_SLOTS: usize = 8;
const MAX_SLOTS: usize = 512;

/// Targets evicted at once at the bound: selecting them walks the whole table, and is spread over as many requests.
const EVICTED_AT_ONCE: usize = 64;

/// Repeats of one target are counted in slots of this many seconds, of which the newest two count: the sum covers the
/// last 30 to 60 s and never exceeds the window.
const REPEAT_SLOT_SECS: u32 = 30;

/// One target, in 16 bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Target {
    /// A hash; the slot is taken from its low bits.
    pub key: u32,
    /// The second of the last request; 0 marks a free slot.
    pub last: u32,
    /// Requests in the slot of `last`, and in the slot before it.
    hits: u16,
    hits_before: u16,
    /// The highest weight of a request.
    pub weight: u8,
    /// The highest [`Trace::answer`] of a request.
    pub answer: u8,
    /// The flags of all requests together.
    pub flags: Flags,
}

impl Target {
    /// A target without a request.
    pub(crate) fn new(key: u32) -> Target {
        Target { key, ..Target::default() }
    }

    #[inline]
    pub(crate) fn hit(&mut self, second: u32, trace: &Trace) {
        match (second / REPEAT_SLOT_SECS).saturating_sub(self.last / REPEAT_SLOT_SECS) {
            // The same slot, or out of order: a late request counts in the newer slot.
            0 => {}
            1 => (self.hits_before, self.hits) = (self.hits, 0),
            _ => (self.hits_before, self.hits) = (0, 0),
        }
        if self.last > 0 && self.last < second {
            self.flags = self.flags.union(Flags::EARLIER);
        }
        self.hits = self.hits.saturating_add(1);
        self.last = self.last.max(second);
        // These only grow, so that the order of a second's lines makes no difference.
        self.weight = self.weight.max(trace.weight);
        self.flags = self.flags.union(trace.flags);
        if trace.is_redirected() {
            self.flags = self.flags.union(Flags::REDIRECTED);
        }
        self.answer = self.answer.max(trace.answer);
    }

    /// Returns its requests over the last 30 to 60 s.
    pub(crate) fn repeats(&self, second: u32) -> u32 {
        match (second / REPEAT_SLOT_SECS).saturating_sub(self.last / REPEAT_SLOT_SECS) {
            0 => u32::from(self.hits) + u32::from(self.hits_before),
            1 => u32::from(self.hits),
            _ => 0,
        }
    }

    /// Returns its requests in the clock minute of its last request.
    pub(crate) fn hits_in_minute(&self) -> u32 {
        const { assert!(2 * REPEAT_SLOT_SECS == 60, "a minute is two slots") };
        let is_second_half = self.last / REPEAT_SLOT_SECS % 2 == 1;
        u32::from(self.hits) + if is_second_half { u32::from(self.hits_before) } else { 0 }
    }

    /// Returns whether every request for it was served normally, and it is no script.
    pub(crate) fn is_plain(&self) -> bool {
        self.weight == 0 && !self.flags.has(Flags::UNUSUAL)
    }

    pub(crate) fn has_failed(&self) -> bool {
        self.flags.has(Flags::HAS_FAILED)
    }

    /// Returns whether its last request was less than `secs` before `second`.
    pub(crate) fn is_within(&self, secs: u32, second: u32) -> bool {
        second.saturating_sub(self.last) < secs
    }

    /// Returns whether a rule can still count it: served pages for a window only, all others for 10 min.
    fn matters(&self, second: u32) -> bool {
        let is_telling = (self.weight > 0) | self.flags.has(Flags::HAS_FAILED.or(Flags::SCRIPT));
        self.is_within(if is_telling { TARGET_SECS } else { WINDOW_SECS + LATE_SECS }, second)
    }
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Targets {
    slots: Box<[Target]>,
    len: u32,
    /// Those of them that weigh something.
    in_vain: u32,
}

impl Targets {
    /// All targets, in unspecified order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Target> {
        self.slots.iter().filter(|target| target.last > 0)
    }

    pub(crate) fn len(&self) -> usize {
        self.len as usize
    }

    /// All targets without the free slots between them, for whoever does much with each.
    pub(crate) fn packed(&self) -> impl Iterator<Item = Target> {
        let mut slots = self.slots.to_vec();
        let len = move_to_front(&mut slots, |_| true);
        slots.truncate(len);
        slots.into_iter()
    }

    /// How many of them are as asked.
    pub(crate) fn count(&self, is: impl Fn(&Target) -> bool) -> u32 {
        self.slots.iter().map(|target| u32::from((target.last > 0) & is(target))).sum()
    }

    /// How many of them weigh something.
    pub(crate) fn in_vain(&self) -> usize {
        self.in_vain as usize
    }

    /// Counts one request, and returns its target before and after.
    #[inline]
    pub(crate) fn hit(&mut self, second: u32, trace: &Trace) -> (Target, Target) {
        let at = place(&self.slots, trace.key);
        self.hit_at(at, second, trace)
    }

    /// As [`Targets::hit`], of a plain request for a target that is plain so far; `None`, and nothing is changed, for another.
    #[inline]
    pub(crate) fn hit_plain(&mut self, second: u32, trace: &Trace) -> Option<(Target, Target)> {
        let at = place(&self.slots, trace.key);
        let is_plain = at.and_then(|at| self.slots.get(at)).is_none_or(Target::is_plain);
        is_plain.then(|| self.hit_at(at, second, trace))
    }

    // A part of the loop over plain requests.
    #[inline(always)]
    fn hit_at(&mut self, at: Option<usize>, second: u32, trace: &Trace) -> (Target, Target) {
        if let Some(known) = at.and_then(|at| self.slots.get_mut(at)).filter(|target| target.last > 0) {
            let before = *known;
            known.hit(second, trace);
            let after = *known;
            self.in_vain += u32::from(before.weight == 0 && after.weight > 0);
            return (before, after);
        }
        let before = Target::new(trace.key);
        let mut after = before;
        after.hit(second, trace);
        self.insert(after, at, second);
        (before, after)
    }

    /// Adds a target at its slot `at`. Without room, targets that do not matter any more at `second` are removed first;
    /// at [`MAX_TARGETS`], the least suspicious.
    #[inline(never)]
    fn insert(&mut self, target: Target, mut at: Option<usize>, second: u32) {
        if 4 * (self.len as usize + 1) > 3 * self.slots.len() {
            self.make_room(second);
            at = place(&self.slots, target.key);
        }
        if let Some(slot) = at.and_then(|at| self.slots.get_mut(at)) {
            *slot = target;
            self.len += 1;
            self.in_vain += u32::from(target.weight > 0);
        }
    }

    #[cold]
    fn make_room(&mut self, second: u32) {
        let kept = move_to_front(&mut self.slots, |target| target.matters(second));
        self.rebuild(kept);
        if self.len as usize >= MAX_TARGETS {
            self.evict_least_suspicious();
        }
    }

    /// Removes targets that do not matter any more at `second`.
    pub(crate) fn prune(&mut self, second: u32) {
        self.retain(|target| target.matters(second));
    }

    /// Prefetches what [`Targets::hit`] reads first for this target.
    pub(crate) fn prefetch(&self, key: u32) {
        self.slots.get(home(&self.slots, key)).into_iter().for_each(prefetch::fetch);
    }

    pub(crate) fn heap_bytes(&self) -> usize {
        size_of_val(&*self.slots)
    }

    /// Evicts harmless targets first, so that a client cannot flush its probes with pages; then the oldest.
    fn evict_least_suspicious(&mut self) {
        let rank = |target: &Target| (target.weight, target.last, target.key);
        let mut ranks: Vec<_> = self.iter().map(rank).collect();
        let (_, least_kept, _) = ranks.select_nth_unstable(EVICTED_AT_ONCE);
        let least_kept = *least_kept;
        self.retain(|target| rank(target) >= least_kept);
    }

    fn retain(&mut self, keep: impl Fn(&Target) -> bool) {
        if self.count(&keep) < self.len {
            let kept = move_to_front(&mut self.slots, keep);
            self.rebuild(kept);
        }
    }

    /// Makes a table of the targets in the first `kept` slots, with twice the room needed, so that rebuilding is amortised: in its old
    /// place, unless it grows or shrinks.
    fn rebuild(&mut self, kept: usize) {
        let slots = (2 * (kept + 1)).next_power_of_two().clamp(MIN_SLOTS, MAX_SLOTS);
        let kept: Box<[Target]> = self.slots[..kept].into();
        if slots == self.slots.len() {
            self.slots.fill(Target::default());
        } else {
            self.slots = vec![Target::default(); slots].into_boxed_slice();
        }
        (self.len, self.in_vain) = (kept.len() as u32, 0);
        for target in kept {
            if let Some(slot) = place(&self.slots, target.key).and_then(|at| self.slots.get_mut(at)) {
                *slot = target;
                self.in_vain += u32::from(target.weight > 0);
            }
        }
    }
}

/// Moves the kept targets to the front, in order, and returns how many they are. What is behind them is of no use.
fn move_to_front(slots: &mut [Target], keep: impl Fn(&Target) -> bool) -> usize {
    let mut kept = 0;
    // Without branches: what a target is cannot be guessed from the one before.
    for at in 0..slots.len() {
        let target = slots[at];
        slots[kept] = target;
        kept += usize::from((target.last > 0) & keep(&target));
    }
    kept
}

/// The slot at which the search for a key begins.
#[inline]
fn home(slots: &[Target], key: u32) -> usize {
    key as usize & slots.len().wrapping_sub(1)
}

/// The slot of a key, or the free one where it belongs; `None` only for a table without slots.
#[inline]
fn place(slots: &[Target], key: u32) -> Option<usize> {
    let mut at = home(slots, key);
    loop {
        let target = slots.get(at)?;
        if target.last == 0 || target.key == key {
            return Some(at);
        }
        at = (at + 1) & (slots.len() - 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn trace(key: u32, weight: u8, flags: Flags) -> Trace {
        Trace { key, weight, flags, answer: 0 }
    }

    #[test]
    fn a_target_is_16_bytes() {
        assert_eq!(size_of::<Target>(), 16);
    }

    #[test]
    fn served_pages_expire_after_a_window_and_others_after_ten_minutes() {
        let mut targets = Targets::default();
        let plain = Flags::default();
        for (key, weight, flags) in
            [(1, 0, plain), (2, 5, plain), (3, 0, Flags::SCRIPT), (4, 0, Flags::FAILED)]
        {
            targets.hit(1000, &trace(key, weight, flags));
        }
        let kept = |targets: &Targets| {
            let mut keys: Vec<_> = targets.iter().map(|target| target.key).collect();
            keys.sort_unstable();
            keys
        };
        targets.prune(1000 + WINDOW_SECS + LATE_SECS - 1);
        assert_eq!(kept(&targets), [1, 2, 3, 4]);
        targets.prune(1000 + WINDOW_SECS + LATE_SECS);
        assert_eq!(kept(&targets), [2, 3, 4]);
        targets.prune(1000 + TARGET_SECS);
        assert!(kept(&targets).is_empty());
    }

    #[test]
    fn a_client_costs_at_most_8_kib_and_cannot_flush_its_probes() {
        let mut targets = Targets::default();
        for key in 0..100_000 {
            targets.hit(1000, &trace(key, u8::from(key < 100), Flags::default()));
            assert!(targets.heap_bytes() <= 8192 && targets.iter().count() <= MAX_TARGETS);
        }
        assert_eq!(targets.iter().filter(|target| target.weight > 0).count(), 100);
    }

    proptest! {
        /// Keys with few home slots, so that they collide.
        #[test]
        fn the_table_equals_a_map(steps in prop::collection::vec((0u32..40, 0u32..4, 0u32..30), 1..400)) {
            let (mut targets, mut model, mut now) = (Targets::default(), BTreeMap::<u32, Target>::new(), 1000);
            for (key, place, ahead) in steps {
                now += ahead;
                let key = key << 9 | (511 - place);
                let trace = trace(key, (key >> 9) as u8 % 2, Flags::default());
                let known = model.get(&key).copied().unwrap_or(Target::new(key));
                let (before, after) = targets.hit(now, &trace);
                let is_forgotten = before.last == 0 && !known.matters(now);
                prop_assert!(is_forgotten || before == known, "{before:?} {known:?}");
                model.insert(key, after);
                prop_assert_eq!(targets.len(), targets.iter().count());
                prop_assert!(targets.packed().eq(targets.iter().copied()));
                let in_vain = targets.iter().filter(|target| target.weight > 0).count();
                prop_assert_eq!(targets.in_vain(), in_vain);
                for known in model.values().filter(|known| known.matters(now)) {
                    prop_assert_eq!(targets.iter().find(|target| target.key == known.key), Some(known));
                }
            }
        }
    }
}
