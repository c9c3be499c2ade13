//! The learning of a minute, once the log's clock has passed its end: what each client teaches, and the server's minutes that are
//! old enough.
//!
//! With few clients it is done at once. With many that would hold up a ban that is due meanwhile, for a tenth of a second per
//! hundred thousand: then it goes on with each line and each second of the log, in pieces that depend on nothing else, so that a
//! replay gives the same however it is cut. What is learned is the same, only known later: a client that asks again is learned
//! before its request counts, one that has to make room keeps what there is to learn of it (`walk.rs`), and whatever is left at
//! the next minute's end is learned then.

use crate::detect::baseline::{ClientMinute, ClientsMinute, Feature};
use crate::detect::clients::{ActiveClient, Passed};
use crate::detect::detector::{Detector, LEARN_DELAY_SECS, precedent_id};
use crate::detect::good_standing::{Standings, Teachers};
use crate::detect::policy::{Policy, Reference};
use crate::detect::rules::load;
use crate::detect::score::Scores;
use crate::detect::standing::Service;

/// Up to so many clients in the table a minute is learned at once: in some two milliseconds.
pub(super) const AT_ONCE: usize = 2_048;

/// Room for so many clients is made ahead of a minute that is learned at once.
const USUAL_CLIENTS: usize = 64;

/// Work is counted in clients that were not there in the minute: to learn one that was takes as long as to pass so many.
const CLIENT_WORK: i64 = 64;

/// The work done with one line of a client that is learned: from a quarter of a client to two. Between them as much as ends the
/// walk in half a minute, if as many lines come as in the last one.
const LINE_WORK: std::ops::RangeInclusive<i64> = CLIENT_WORK / 4..=2 * CLIENT_WORK;

/// The work done at the least with each new second: a thousand clients, in about two milliseconds.
const SECOND_WORK: i64 = 1_024 * CLIENT_WORK;

/// From so many seconds before the next minute's end on, each second does its share of all that is left.
const CATCH_UP_SECS: u32 = 30;

/// More than all the work there can be.
const ALL_WORK: i64 = 1 << 48;

/// A target of a teacher, in the same measure.
const TARGET_WORK: i64 = 4;

/// What a minute of clients teaches, besides what each one earns.
struct Lessons {
    clients: ClientsMinute,
    /// Clients that were served pages with their assets.
    visitors: u32,
    teachers: Teachers,
}

impl Lessons {
    fn new(boundary: u32, standings: &Standings) -> Lessons {
        Lessons { clients: ClientsMinute::new(boundary - 60), visitors: 0, teachers: standings.teachers() }
    }

    /// Takes note of one client, and returns what its minute adds to the levels.
    fn note(&mut self, client: &Learned) -> (u64, ClientMinute) {
        self.visitors += u32::from(client.is_visitor);
        if client.teaches {
            self.teachers.add(client.key);
        }
        (precedent_id(client.key), client.minute)
    }
}

/// A minute of which not everything is learned.
pub(super) struct EndingMinute {
    boundary: u32,
    /// `None` once all clients were learned.
    lessons: Option<Lessons>,
    /// Clients whose targets are still to be learned.
    teachers: std::vec::IntoIter<u128>,
    line_work: i64,
    /// Work that is due; below 0 what was done ahead.
    due: i64,
}

impl EndingMinute {
    /// The client turned out to be an attacker.
    pub(super) fn forget_precedents(&mut self, client: u64) {
        if let Some(lessons) = &mut self.lessons {
            lessons.clients.forget_precedents(client);
        }
    }

    /// The work due with the beginning of a second, where so many clients are left.
    fn second_work(&self, second: u32, left: usize) -> i64 {
        let secs = (self.boundary + 60).saturating_sub(second).max(1);
        let share = if secs > CATCH_UP_SECS { 0 } else { left as i64 * CLIENT_WORK / i64::from(secs) };
        share.max(SECOND_WORK)
    }
}

/// One client's minute.
struct Learned {
    key: u128,
    minute: ClientMinute,
    is_visitor: bool,
    teaches: bool,
}

/// What a client's minute changes at once.
struct Teaching<'a> {
    scores: &'a mut Scores,
    standings: &'a mut Standings,
    policy: &'a Policy,
    is_scoring: bool,
    boundary: u32,
}

impl Teaching<'_> {
    /// Credits a client with what it was served in the minute, in its score and in its standing, unless it is suspect.
    fn learn(&mut self, active: &ActiveClient<'_>) -> Option<Learned> {
        // A verdict in this minute or the one before it.
        if active.suspect_until > self.boundary - 60 {
            return None;
        }
        let is_visitor = self.is_scoring && credit(self.scores, active, self.boundary);
        let minute = client_minute(active, self.policy, self.boundary - 1);
        let teaches = self.standings.learn(active.key, active.counts, self.boundary);
        Some(Learned { key: active.key, minute, is_visitor, teaches })
    }

    fn learn_into(&mut self, lessons: &mut Lessons, active: &ActiveClient<'_>) {
        if let Some(learned) = self.learn(active) {
            let (client, minute) = lessons.note(&learned);
            lessons.clients.add(client, &minute);
        }
    }
}

impl Detector {
    /// Learns the minute before `boundary`, or begins to.
    pub(super) fn end_of_minute(&mut self, boundary: u32) {
        self.teaching.advance(boundary);
        self.standings.begin_minute(boundary);
        let is_at_once = self.clients.len() <= self.at_once;
        if is_at_once {
            self.learn_at_once(boundary);
        }
        if self.is_scoring {
            self.scores.end_of_minute(boundary);
        }
        self.learn_server(boundary);
        self.campaigns.expire(boundary);
        if is_at_once {
            self.clients.sweep(boundary);
        } else {
            self.begin_learning(boundary);
        }
    }

    /// Learns the server's minutes that are old enough.
    fn learn_server(&mut self, boundary: u32) {
        let is_frozen = self.is_frozen();
        let delay = learn_delay_secs(self.thresholds.policy().reference);
        let teaching = &self.teaching;
        self.thresholds.learn(|baseline| {
            while baseline.next_minute() + 60 + delay <= boundary {
                baseline.learn_server(baseline.next_minute(), teaching, is_frozen);
            }
        });
    }

    fn learn_at_once(&mut self, boundary: u32) {
        let Detector { clients, scores, standings, thresholds, is_scoring, .. } = self;
        let mut lessons = Lessons::new(boundary, standings);
        let mut learned = Vec::with_capacity(clients.len().min(USUAL_CLIENTS));
        let (policy, is_scoring) = (thresholds.policy(), *is_scoring);
        let mut teaching = Teaching { scores, standings, policy, is_scoring, boundary };
        clients.each_active(60, boundary - 1, |active| {
            learned.extend(teaching.learn(&active).map(|client| lessons.note(&client)));
        });
        // Sorted, because sums of floating-point numbers depend on their order.
        learned.sort_unstable_by_key(|(client, _)| *client);
        learned.iter().for_each(|(client, minute)| lessons.clients.add(*client, minute));
        self.thresholds.learn(|baseline| baseline.learn_clients_minute(&lessons.clients));
        self.end_clients(&lessons, boundary);
        for key in self.standings.choose(lessons.teachers) {
            self.learn_from_teacher(key, boundary);
        }
    }

    /// Ends what all clients of the minute taught together.
    fn end_clients(&mut self, lessons: &Lessons, boundary: u32) {
        self.standings.end_minute(boundary);
        if self.is_scoring {
            self.scores.learn_visitors(lessons.visitors);
        }
    }

    fn begin_learning(&mut self, boundary: u32) {
        // Counted now, because it is said of the last full minute, whoever asks before this one is learned.
        self.standings.present();
        self.clients.begin_walk(boundary);
        let lines: u32 = (boundary - 60..boundary).map(|second| self.teaching.at(second).requests).sum();
        let in_half_a_minute = 2 * self.clients.len() as i64 * CLIENT_WORK / i64::from(lines.max(1));
        self.ending = Some(Box::new(EndingMinute {
            boundary,
            lessons: Some(Lessons::new(boundary, &self.standings)),
            teachers: Vec::new().into_iter(),
            line_work: in_half_a_minute.clamp(*LINE_WORK.start(), *LINE_WORK.end()),
            due: 0,
        }));
    }

    /// Learns what a client did in the minute that ended, before another request of it counts, and goes on with others.
    #[cold]
    pub(super) fn learn_before_counting(&mut self, key: u128) {
        // That is the line's work already.
        if !self.learn_now(key) {
            self.go_on_learning(self.ending.as_ref().map_or(0, |ending| ending.line_work));
        }
    }

    /// Learns what a client did in the minute that ended, before it is changed. Returns `false` if that is known.
    pub(super) fn learn_now(&mut self, key: u128) -> bool {
        let Detector { ending, clients, scores, standings, thresholds, is_scoring, .. } = self;
        let Some(ending) = ending else { return false };
        let Some(lessons) = &mut ending.lessons else { return false };
        let (policy, is_scoring, boundary) = (thresholds.policy(), *is_scoring, ending.boundary);
        let mut teaching = Teaching { scores, standings, policy, is_scoring, boundary };
        clients.visit_ahead(key, |active| teaching.learn_into(lessons, &active))
    }

    /// Does the work that is due with the seconds after `before`.
    pub(super) fn learn_each_second(&mut self, before: u32) {
        let Some(ending) = &self.ending else { return };
        for second in before.max(ending.boundary) + 1..=self.latest {
            let left = self.clients.left_to_walk();
            let work = self.ending.as_ref().map_or(0, |ending| ending.second_work(second, left));
            self.go_on_learning(work);
        }
    }

    /// Learns what is left of the minute that ended.
    pub(crate) fn finish_minute(&mut self) {
        self.go_on_learning(ALL_WORK);
    }

    fn go_on_learning(&mut self, work: i64) {
        let Some(mut ending) = self.ending.take() else { return };
        self.learn_departed(&mut ending);
        ending.due += work;
        while ending.due > 0 {
            let done = match &mut ending.lessons {
                Some(lessons) => self.learn_next_client(lessons, ending.boundary),
                None => self.learn_next_teacher(&mut ending.teachers, ending.boundary),
            };
            match done {
                Some(work) => ending.due -= work,
                None => match ending.lessons.take() {
                    Some(lessons) => ending.teachers = self.end_walk(lessons, ending.boundary).into_iter(),
                    None => return,
                },
            }
        }
        self.ending = Some(ending);
    }

    /// Learns what clients did that had to make room.
    fn learn_departed(&mut self, ending: &mut EndingMinute) {
        let Detector { clients, scores, standings, thresholds, is_scoring, .. } = self;
        let Some(lessons) = &mut ending.lessons else { return };
        let (policy, is_scoring, boundary) = (thresholds.policy(), *is_scoring, ending.boundary);
        let mut teaching = Teaching { scores, standings, policy, is_scoring, boundary };
        for departed in clients.take_departed() {
            teaching.learn_into(lessons, &departed.active());
        }
    }

    /// Returns the work that it was; `None` when all clients are learned.
    fn learn_next_client(&mut self, lessons: &mut Lessons, boundary: u32) -> Option<i64> {
        let Detector { clients, scores, standings, thresholds, is_scoring, .. } = self;
        let (policy, is_scoring) = (thresholds.policy(), *is_scoring);
        let mut teaching = Teaching { scores, standings, policy, is_scoring, boundary };
        match clients.walk_on(|active| teaching.learn_into(lessons, &active)) {
            Passed::Idle => Some(1),
            Passed::Client => Some(CLIENT_WORK),
            Passed::End => None,
        }
    }

    fn learn_next_teacher(&mut self, teachers: &mut std::vec::IntoIter<u128>, boundary: u32) -> Option<i64> {
        let key = teachers.next()?;
        // What it did since the minute's end is among its targets.
        if self.clients.suspect_until(key) > boundary {
            return Some(CLIENT_WORK);
        }
        Some(CLIENT_WORK + TARGET_WORK * self.learn_from_teacher(key, boundary) as i64)
    }

    /// All clients are learned: the levels follow. Returns the clients whose targets are still to be learned.
    fn end_walk(&mut self, lessons: Lessons, boundary: u32) -> Vec<u128> {
        self.clients.end_walk();
        self.end_clients(&lessons, boundary);
        let second = self.latest.max(boundary);
        self.thresholds.update(second, |baseline| baseline.learn_clients_minute(&lessons.clients));
        self.standings.choose(lessons.teachers)
    }
}

/// Credits one client with what it was served in the minute before `boundary`. Returns whether it is a visitor.
fn credit(scores: &mut Scores, active: &ActiveClient<'_>, boundary: u32) -> bool {
    let counts = active.counts;
    let service = Service { pages: counts.served_pages(), assets: counts.assets, failed: counts.failed };
    // Distinct pages alone are weighed against failures, those that redirect among them: short links do.
    let distinct = || {
        active.activity.map_or(service.pages, |activity| {
            let paths = u32::from(activity.minute(boundary - 1).paths);
            let answered = paths.saturating_sub(counts.failed + counts.broken);
            activity.served_pages(boundary).max(answered).min(service.pages)
        })
    };
    scores.credit(active.key, service, distinct, boundary - 1);
    service.pages > 0 && service.assets > 0
}

/// The values learned of a client's clock minute that ends with `second`.
fn client_minute(active: &ActiveClient<'_>, policy: &Policy, second: u32) -> ClientMinute {
    let pages = active.activity.map(|activity| activity.minute(second));
    let load = load(active.counts, policy);
    let mut minute =
        ClientMinute { load, errors: f64::from(active.counts.errors), ..ClientMinute::default() };
    // A light client's targets are not distinguished: each of its few pages counts as a path.
    let paths = pages.map_or(active.counts.pages(), |pages| pages.paths.into());
    let pages = pages.unwrap_or_default();
    minute.features[Feature::Paths as usize] = f64::from(paths);
    minute.features[Feature::Posts as usize] = f64::from(pages.posts);
    minute.features[Feature::Repeats as usize] = f64::from(pages.repeats);
    minute.features[Feature::Failed as usize] = f64::from(active.counts.failed);
    minute
}

/// The classic rule's baseline includes every second up to the moment at which it is computed.
fn learn_delay_secs(reference: Reference) -> u32 {
    match reference {
        Reference::Adaptive => LEARN_DELAY_SECS,
        Reference::Classic => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_million_clients_are_learned_before_the_next_minute_ends_even_without_a_line() {
        let boundary = 1_767_600_000;
        let standings = Standings::new(crate::seeded_map::SeededState::new(1));
        let ending = EndingMinute {
            boundary,
            lessons: Some(Lessons::new(boundary, &standings)),
            teachers: Vec::new().into_iter(),
            line_work: 0,
            due: 0,
        };
        let (mut left, mut most) = (1_000_000, 0);
        for second in boundary + 1..boundary + 60 {
            let clients = (ending.second_work(second, left) as usize).div_ceil(CLIENT_WORK as usize);
            most = most.max(clients);
            left -= clients.min(left);
        }
        assert_eq!(left, 0);
        assert!(most < 40_000, "{most} clients in one second");
    }
}
