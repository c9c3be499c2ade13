//! What is normal on this site: the templates and directories at which clients in good standing are refused, over weeks, and
//! those at which visitors are failing just now, which is the server's fault.
//!
//! Only clients in standing teach, each network once, and a network that turns out to attack is taken back. What is learned
//! takes effect when the second has ended, so that the order of a second's lines makes no difference.

use serde::{Deserialize, Serialize};

use crate::detect::stable_hash;

/// Networks remembered by entry.
const NETWORKS: usize = 4;

/// A network's lesson is forgotten after this many days.
const LESSON_DAYS: u16 = 14;

/// Entries of a table, and of each of its sets. Powers of two.
const ENTRIES: usize = 1 << 13;
const WAYS: usize = 8;

/// A client's network, as one independent teacher: its /24 or its /48.
pub(crate) fn network_of(key: u128) -> u32 {
    ((stable_hash::of_network(key) >> 32) as u32).max(1)
}

/// Networks whose good clients were refused at one template.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    template: u32,
    /// 0 for none.
    networks: [u32; NETWORKS],
    /// The day of each one's last lesson.
    days: [u16; NETWORKS],
}

impl Entry {
    fn learn(&mut self, network: u32, day: u16) {
        let known = self.networks.iter().position(|known| *known == network);
        let oldest = || (0..NETWORKS).min_by_key(|at| self.days[*at]).unwrap_or(0);
        let at = known.unwrap_or_else(oldest);
        self.networks[at] = network;
        self.days[at] = self.days[at].max(day);
    }

    fn others(&self, network: u32, day: u16) -> u32 {
        let counts = |(known, learned): &(&u32, &u16)| {
            **known != 0 && **known != network && day.saturating_sub(**learned) < LESSON_DAYS
        };
        self.networks.iter().zip(&self.days).filter(counts).count() as u32
    }

    fn newest(&self) -> u16 {
        self.days.iter().copied().max().unwrap_or(0)
    }
}

/// A bounded table by template. Its places depend on the template alone, so that what is evicted does not depend on a seed.
#[derive(Debug, Clone)]
struct Table(Box<[Entry]>);

impl Default for Table {
    fn default() -> Table {
        Table(vec![Entry::default(); ENTRIES].into_boxed_slice())
    }
}

impl Table {
    fn set(&self, template: u32) -> std::ops::Range<usize> {
        let start = template as usize & (ENTRIES - 1) & !(WAYS - 1);
        start..start + WAYS
    }

    fn get(&self, template: u32) -> Option<&Entry> {
        self.0[self.set(template)].iter().find(|entry| entry.template == template && template != 0)
    }

    fn learn(&mut self, template: u32, network: u32, day: u16) {
        let set = self.set(template);
        let set = &mut self.0[set];
        let worth = |entry: &Entry| {
            (entry.template != 0, entry.networks.iter().filter(|n| **n != 0).count(), entry.newest())
        };
        let at = set.iter().position(|entry| entry.template == template).unwrap_or_else(|| {
            let least = (0..WAYS).min_by_key(|at| worth(&set[*at])).unwrap_or(0);
            set[least] = Entry { template, ..Entry::default() };
            least
        });
        set[at].learn(network, day);
    }

    fn forget(&mut self, network: u32) {
        for entry in &mut self.0 {
            for at in 0..NETWORKS {
                if entry.networks[at] == network {
                    (entry.networks[at], entry.days[at]) = (0, 0);
                }
            }
        }
    }
}

/// Failures of visitors by template over the last few minutes.
#[derive(Debug, Clone, Copy, Default)]
struct Recent {
    template: u32,
    slot: u32,
    /// Networks in `slot`, and in the slot before it.
    now: [u16; FAILING],
    before: [u16; FAILING],
}

/// Networks remembered by template and slot.
const FAILING: usize = 6;
const RECENT_ENTRIES: usize = 1 << 10;
const RECENT_SLOT_SECS: u32 = 120;

impl Recent {
    fn roll(&mut self, slot: u32) {
        match slot.saturating_sub(self.slot) {
            0 => return,
            1 => self.before = self.now,
            _ => self.before = [0; FAILING],
        }
        self.now = [0; FAILING];
        self.slot = slot;
    }

    fn count(&self, slot: u32) -> u32 {
        let (now, before): (&[u16], &[u16]) = match slot.saturating_sub(self.slot) {
            0 => (&self.now, &self.before),
            1 => (&self.now, &[]),
            _ => (&[], &[]),
        };
        let is_first = |at: usize| !now.contains(&before[at]);
        let again = (0..before.len()).filter(|at| before[*at] != 0 && is_first(*at)).count();
        (now.iter().filter(|network| **network != 0).count() + again) as u32
    }
}

/// A lesson that takes effect when its second has ended.
#[derive(Debug, Clone, Copy)]
enum Lesson {
    Refused { template: u32, dir: u32, network: u32 },
    Failing { template: u32, network: u32 },
    Answered { answer: (u16, u64), name: u32 },
    Normal { answer: (u16, u64), network: u32 },
}

/// An answer that was given to probes: a catch-all's once it was given for several names that have nothing in common.
#[derive(Debug, Clone, Copy, Default)]
struct Answer {
    status: u16,
    size: u64,
    names: [u32; NAMES],
    /// Networks of visitors who were served it too: it is a page of this site.
    visitors: [u32; 2],
}

/// Names of probes that must get one answer.
const NAMES: usize = 4;

/// Answers remembered, the newest first.
const ANSWERS: usize = 16;

impl Answer {
    fn is_catch_all(&self) -> bool {
        self.names[NAMES - 1] != 0
    }
}

/// The habits of this site.
#[derive(Debug, Default)]
pub(crate) struct Habits {
    templates: Table,
    dirs: Table,
    recent: Vec<Recent>,
    pending: Vec<Lesson>,
    pending_at: u32,
    /// Visitors of the last two minutes that ended.
    visitors: [u32; 2],
    answers: Vec<Answer>,
    catch_alls: u32,
}

/// Visitors of distinct networks that must fail at one template for it to be broken, and their least share of all, as one in
/// this many.
const BROKEN_FROM: u32 = 4;
const BROKEN_SHARE: u32 = 6;

/// Lessons kept of one second: an attack must not fill the memory.
const MAX_PENDING: usize = 4096;

impl Habits {
    /// Notes that a client in standing was refused at a template.
    pub(crate) fn refused(&mut self, template: u32, dir: u32, network: u32, second: u32) {
        self.note(Lesson::Refused { template, dir, network }, second);
    }

    /// Notes that a visitor, who was served before, fails at a template.
    pub(crate) fn failing(&mut self, template: u32, network: u32, second: u32) {
        self.note(Lesson::Failing { template, network }, second);
    }

    /// Notes the answer that a probe of this name was served.
    pub(crate) fn answered(&mut self, status: u16, size: u64, name: u32, second: u32) {
        self.note(Lesson::Answered { answer: (status, size), name }, second);
    }

    /// Notes that a visitor was served this answer for a page.
    pub(crate) fn normal(&mut self, status: u16, size: u64, network: u32, second: u32) {
        self.note(Lesson::Normal { answer: (status, size), network }, second);
    }

    fn answer(&self, status: u16, size: u64) -> Option<&Answer> {
        self.answers.iter().find(|answer| (answer.status, answer.size) == (status, size))
    }

    pub(crate) fn knows_catch_alls(&self) -> bool {
        self.catch_alls > 0
    }

    /// Whether this is what the site answers to everything.
    pub(crate) fn is_catch_all(&self, status: u16, size: u64) -> bool {
        self.knows_catch_alls() && self.answer(status, size).is_some_and(Answer::is_catch_all)
    }

    /// Whether visitors are served it for pages too, as in an application of a single page.
    pub(crate) fn is_normal(&self, status: u16, size: u64) -> bool {
        self.answer(status, size).is_some_and(|answer| answer.visitors[1] != 0)
    }

    fn learn_answer(&mut self, (status, size): (u16, u64), name: u32) {
        let at = match self.answers.iter().position(|answer| (answer.status, answer.size) == (status, size)) {
            Some(at) => at,
            None => {
                if self.answers.len() >= ANSWERS {
                    let last = self.answers.iter().rposition(|answer| !answer.is_catch_all());
                    self.answers.remove(last.unwrap_or(ANSWERS - 1));
                }
                self.answers.insert(0, Answer { status, size, ..Answer::default() });
                0
            }
        };
        add_to(&mut self.answers[at].names, name);
        self.catch_alls = self.answers.iter().filter(|answer| answer.is_catch_all()).count() as u32;
    }

    fn note(&mut self, lesson: Lesson, second: u32) {
        self.settle(second);
        if self.pending.len() < MAX_PENDING {
            self.pending.push(lesson);
        }
    }

    /// Learns what was noted before `second`.
    pub(crate) fn settle(&mut self, second: u32) {
        if second == self.pending_at || self.pending.is_empty() {
            self.pending_at = second;
            return;
        }
        let at = std::mem::replace(&mut self.pending_at, second);
        for lesson in std::mem::take(&mut self.pending) {
            match lesson {
                Lesson::Refused { template, dir, network } => {
                    self.templates.learn(template, network, day_of(at));
                    if dir != 0 {
                        self.dirs.learn(dir, network, day_of(at));
                    }
                }
                Lesson::Failing { template, network } => self.fail(template, network as u16 | 1, at),
                Lesson::Answered { answer, name } => self.learn_answer(answer, name),
                Lesson::Normal { answer: (status, size), network } => {
                    let known = self.answers.iter_mut().find(|a| (a.status, a.size) == (status, size));
                    known.into_iter().for_each(|answer| add_to(&mut answer.visitors, network));
                }
            }
        }
    }

    fn fail(&mut self, template: u32, network: u16, second: u32) {
        if self.recent.is_empty() {
            self.recent = vec![Recent::default(); RECENT_ENTRIES];
        }
        let entry = &mut self.recent[template as usize & (RECENT_ENTRIES - 1)];
        if entry.template != template {
            *entry = Recent { template, ..Recent::default() };
        }
        entry.roll(second / RECENT_SLOT_SECS);
        add_to(&mut entry.now, network);
    }

    /// Ends a minute with so many visitors.
    pub(crate) fn end_of_minute(&mut self, visitors: u32) {
        self.visitors = [visitors, self.visitors[0]];
    }

    /// The number of other networks whose good clients were refused at this template.
    pub(crate) fn refused_at(&self, template: u32, network: u32, second: u32) -> u32 {
        self.templates.get(template).map_or(0, |entry| entry.others(network, day_of(second)))
    }

    /// The same of a directory.
    pub(crate) fn refused_in(&self, dir: u32, network: u32, second: u32) -> u32 {
        self.dirs.get(dir).map_or(0, |entry| entry.others(network, day_of(second)))
    }

    /// Whether visitors of several networks, a share of all that there are, have failed here within the last minutes: the
    /// site is broken, and nobody is charged for it.
    pub(crate) fn is_broken(&self, template: u32, second: u32) -> bool {
        let entry = self.recent.get(template as usize & (RECENT_ENTRIES - 1));
        let Some(entry) = entry.filter(|entry| entry.template == template) else { return false };
        let failing = entry.count(second / RECENT_SLOT_SECS);
        let visitors = self.visitors.iter().copied().max().unwrap_or(0).min(BROKEN_SHARE * FAILING as u32);
        failing >= BROKEN_FROM && failing * BROKEN_SHARE >= visitors
    }

    /// Takes back what a network taught.
    pub(crate) fn forget(&mut self, network: u32) {
        self.templates.forget(network);
        self.dirs.forget(network);
    }

    pub(crate) fn save(&self) -> SavedHabits {
        let known = |table: &Table| table.0.iter().filter(|entry| entry.template != 0).copied().collect();
        SavedHabits { templates: known(&self.templates), dirs: known(&self.dirs) }
    }

    pub(crate) fn restore(&mut self, saved: &SavedHabits) {
        let tables = [(&mut self.templates, &saved.templates), (&mut self.dirs, &saved.dirs)];
        for (table, entries) in tables {
            for entry in entries {
                let lessons = entry.networks.iter().zip(&entry.days).filter(|(network, _)| **network != 0);
                lessons.for_each(|(network, day)| table.learn(entry.template, *network, *day));
            }
        }
    }
}

/// See [`Habits::save`].
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct SavedHabits {
    templates: Vec<Entry>,
    dirs: Vec<Entry>,
}

impl SavedHabits {
    /// Templates at which good clients were refused.
    pub(crate) fn len(&self) -> usize {
        self.templates.len()
    }
}

/// Adds a value to those known, 0 marking a free place, unless they are full.
fn add_to<T: Copy + Default + PartialEq>(known: &mut [T], value: T) {
    if !known.contains(&value)
        && let Some(free) = known.iter_mut().find(|known| **known == T::default())
    {
        *free = value;
    }
}

fn day_of(second: u32) -> u16 {
    (second / 86_400) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u32 = 1_767_600_000;

    #[test]
    fn each_network_teaches_once_and_for_two_weeks() {
        let mut habits = Habits::default();
        for network in [1, 2, 2, 3] {
            habits.refused(77, 9, network, NOW);
        }
        assert_eq!(habits.refused_at(77, 8, NOW), 0, "not within the second");
        habits.settle(NOW + 1);
        assert_eq!(habits.refused_at(77, 8, NOW), 3);
        assert_eq!(habits.refused_at(77, 3, NOW), 2, "its own lesson does not count");
        assert_eq!((habits.refused_in(9, 8, NOW), habits.refused_at(78, 8, NOW)), (3, 0));
        assert_eq!(habits.refused_at(77, 8, NOW + 15 * 86_400), 0);
        let mut restored = Habits::default();
        restored.restore(&habits.save());
        assert_eq!(restored.refused_at(77, 8, NOW), 3);
        habits.forget(2);
        assert_eq!(habits.refused_at(77, 8, NOW), 2);
    }

    #[test]
    fn a_template_is_broken_while_several_visitors_fail() {
        let mut habits = Habits::default();
        for network in 1..=4 {
            habits.failing(77, network * 2, NOW + network);
        }
        habits.settle(NOW + 5);
        assert!(habits.is_broken(77, NOW + 5));
        assert!(!habits.is_broken(78, NOW + 5));
        habits.end_of_minute(30);
        assert!(!habits.is_broken(77, NOW + 5), "four of thirty");
        habits.end_of_minute(5);
        habits.end_of_minute(5);
        assert!(habits.is_broken(77, NOW + 60) && !habits.is_broken(77, NOW + 600));
    }

    #[test]
    fn a_network_is_a_24_or_a_48() {
        let v4 = |last: u8| 0xffff_c633_6400_u128 | u128::from(last);
        assert_eq!(network_of(v4(1)), network_of(v4(200)));
        assert_ne!(network_of(v4(1)), network_of(0xffff_c633_6501));
        let v6 = 0x2001_0db8_0001_0000_0000_0000_0000_0000_u128;
        assert_eq!(network_of(v6), network_of(v6 | 7 << 64));
        assert_ne!(network_of(v6), network_of(v6 + (1 << 80)));
    }
}
