//! Notices for the page and for streams: the last ones, those to come, and the conditions that they began. The rest of the
//! agent calls [`Feed::publish`], which never waits (invariant 7). Not the lasting record: that is the audit log, whose end is
//! remembered at the start, so that a restart hides neither what happened before it nor an attack that goes on.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::broadcast;

use super::events;
use super::types::{EventList, EventView};
use crate::dry_run;
use crate::text;
use shield_engine::action::{BanRecord, Notice};
use shield_engine::time::Now;
use shield_engine::verdict::Rule;

/// Notices kept for `/events/recent` and for streams that resume.
const KEPT: usize = 2_000;

/// Notices that a stream may lag behind before it misses some.
const BACKLOG: usize = 1_024;

/// Ids count up from the wall clock at the start, in milliseconds times this. So they grow across restarts, unless there
/// are more notices than this a millisecond, and stay below 2^53, exact in JavaScript, until the year 2255.
const IDS_PER_MS: u64 = 1_000;

/// How far back [`Feed::recent_attacks`] counts, and in what steps.
pub(crate) const ATTACKS_SECS: u64 = 300;
const ATTACK_STEP_MS: u64 = 10_000;

/// The notices of this run, behind the last ones of the run before.
#[derive(Debug)]
pub struct Feed {
    inner: Mutex<Inner>,
    live: broadcast::Sender<Arc<Published>>,
}

/// A notice with its JSON, made once for all streams.
#[derive(Debug, Clone)]
pub struct Published {
    /// The event.
    pub event: EventView,
    /// Its JSON.
    pub json: String,
}

/// Numbers of notices since the start.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    /// Bans made, by rule.
    pub bans: BTreeMap<Rule, u64>,
    /// Bans ended, by reason.
    pub lifts: BTreeMap<&'static str, u64>,
    /// What the policy decided about verdicts, by outcome.
    pub decisions: BTreeMap<&'static str, u64>,
    /// Every kind of notice.
    pub notices: BTreeMap<String, u64>,
}

/// Conditions that have started and not ended.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Conditions {
    /// When the global anomaly in progress began.
    pub anomaly_since_ms: Option<i64>,
}

/// A new stream: the notices it missed, and those to come.
#[derive(Debug)]
pub struct Subscription {
    /// Notices after the id it resumed from, oldest first.
    pub missed: Vec<Arc<Published>>,
    /// True if some are missing between the id it resumed from and `missed`.
    pub gap: bool,
    /// The notices from now on.
    pub live: broadcast::Receiver<Arc<Published>>,
}

#[derive(Debug)]
struct Inner {
    next_id: u64,
    first_id: u64,
    kept: VecDeque<Arc<Published>>,
    counts: Counts,
    conditions: Conditions,
    attacks: Attacks,
}

/// Bans by rules within the last minutes, by kind of attack: the notices kept may be fewer.
#[derive(Debug, Default)]
struct Attacks {
    steps: VecDeque<(u64, BTreeMap<&'static str, u64>)>,
}

impl Attacks {
    /// Notices come in the order of `at_boot_ms`.
    fn follow(&mut self, notice: &Notice, at_boot_ms: u64) {
        let Some(ban) = made_by_a_rule(notice) else { return };
        self.drop_old(at_boot_ms);
        let step = at_boot_ms / ATTACK_STEP_MS;
        if self.steps.back().is_none_or(|(at, _)| *at != step) {
            self.steps.push_back((step, BTreeMap::new()));
        }
        let (_, kinds) = self.steps.back_mut().expect("a step was added just before");
        *kinds.entry(text::attack_kind(ban)).or_default() += 1;
    }

    fn drop_old(&mut self, boot_ms: u64) {
        let oldest = (boot_ms / ATTACK_STEP_MS).saturating_sub(ATTACKS_SECS * 1000 / ATTACK_STEP_MS);
        while self.steps.front().is_some_and(|(at, _)| *at < oldest) {
            self.steps.pop_front();
        }
    }

    fn count(&mut self, now: Now) -> BTreeMap<&'static str, u64> {
        self.drop_old(now.boot_ms);
        let mut sum = BTreeMap::new();
        for (kind, number) in self.steps.iter().flat_map(|(_, kinds)| kinds) {
            *sum.entry(*kind).or_default() += number;
        }
        sum
    }
}

/// The ban that a rule made, or would have in a dry run.
fn made_by_a_rule(notice: &Notice) -> Option<&BanRecord> {
    let ban = match notice {
        Notice::Banned(ban) => ban,
        Notice::WouldBan { ban, because } if because == dry_run::BECAUSE => ban,
        _ => return None,
    };
    ban.ban.rule.is_detected().then_some(&**ban)
}

impl Feed {
    /// The empty feed of an agent that starts now.
    pub fn new(now: Now) -> Feed {
        let first_id = u64::try_from(now.wall_ms).unwrap_or(0) * IDS_PER_MS;
        Feed {
            inner: Mutex::new(Inner {
                next_id: first_id,
                first_id,
                kept: VecDeque::new(),
                counts: Counts::default(),
                conditions: Conditions::default(),
                attacks: Attacks::default(),
            }),
            live: broadcast::channel(BACKLOG).0,
        }
    }

    /// Takes what happened before the start: notices with their times (wall clock, ms), oldest first. Before anything is
    /// published. They are listed, and the last bans of rules count as attacks; a stream is sent none of them.
    pub(crate) fn remember(&self, past: &[(i64, Notice)], now: Now) {
        let past = past.get(past.len().saturating_sub(KEPT)..).unwrap_or(past);
        let mut inner = self.lock();
        let before = inner.first_id.saturating_sub(past.len() as u64);
        for (id, (at_ms, notice)) in (before..).zip(past) {
            inner.kept.push_back(Arc::new(Published::of(id, *at_ms, notice)));
            // What is later than now was recorded by a clock that was wrong.
            let age_ms = u64::try_from(now.wall_ms.saturating_sub(*at_ms)).ok();
            if let Some(at_boot_ms) = age_ms.and_then(|age_ms| now.boot_ms.checked_sub(age_ms)) {
                inner.attacks.follow(notice, at_boot_ms);
            }
        }
    }

    /// Publishes a notice. Never waits for a subscriber.
    pub fn publish(&self, notice: &Notice, now: Now) {
        let mut inner = self.lock();
        let published = Arc::new(inner.record(notice, now));
        inner.kept.push_back(Arc::clone(&published));
        if inner.kept.len() > KEPT {
            inner.kept.pop_front();
        }
        // An error only means that there is no subscriber. Sent under the lock, so that the order is that of the ids.
        let _ = self.live.send(published);
    }

    /// Returns the last notices, newest first: at most `limit`, older than `before`, of this `kind`.
    pub fn recent(&self, limit: usize, before: Option<u64>, kind: Option<&str>) -> EventList {
        let inner = self.lock();
        let mut matching = (inner.kept.iter().rev())
            .map(|published| &published.event)
            .filter(|event| before.is_none_or(|id| event.id < id))
            .filter(|event| kind.is_none_or(|kind| event.kind == kind));
        let events: Vec<EventView> = matching.by_ref().take(limit).cloned().collect();
        let next = matching.next().and(events.last()).map(|event| event.id);
        EventList { events, next }
    }

    /// Returns the bans published at `since_ms` (wall clock) or later whose end was not published yet, newest first.
    pub fn banned_since(&self, since_ms: i64) -> Vec<BanRecord> {
        let inner = self.lock();
        let mut ended = HashSet::new();
        let mut bans = Vec::new();
        for event in inner.kept.iter().rev().map(|published| &published.event) {
            match &event.data {
                _ if event.at_ms < since_ms => break,
                Notice::Lifted { client, .. } => drop(ended.insert(*client)),
                // A ban older than one already seen, or than its own end, is over.
                Notice::Banned(ban) if ended.insert(ban.ban.client) => bans.push((**ban).clone()),
                _ => {}
            }
        }
        bans
    }

    /// Starts a stream after the notice `last_id`, or with the next notice.
    pub fn subscribe(&self, last_id: Option<u64>) -> Subscription {
        let inner = self.lock();
        let live = self.live.subscribe();
        let Some(last_id) = last_id else { return Subscription { missed: Vec::new(), gap: false, live } };
        let of_this_run = || inner.kept.iter().filter(|published| published.event.id >= inner.first_id);
        let missed = of_this_run().filter(|published| published.event.id > last_id).cloned().collect();
        let oldest = of_this_run().next().map_or(inner.next_id, |published| published.event.id);
        let gap = last_id < inner.first_id || last_id + 1 < oldest;
        Subscription { missed, gap, live }
    }

    pub fn counts(&self) -> Counts {
        self.lock().counts.clone()
    }

    /// Returns the bans by rules within the last [`ATTACKS_SECS`], by kind of attack.
    pub(crate) fn recent_attacks(&self, now: Now) -> BTreeMap<&'static str, u64> {
        self.lock().attacks.count(now)
    }

    /// Returns the clients that rules banned within the last [`ATTACKS_SECS`], by the site that they asked for. Of the notices
    /// that are kept, so that it is bounded.
    pub(crate) fn attacked_sites(&self, now: Now) -> BTreeMap<String, u64> {
        let since_ms = now.wall_ms.saturating_sub(ATTACKS_SECS as i64 * 1000);
        let inner = self.lock();
        let recent = inner.kept.iter().rev().map(|published| &published.event);
        let mut seen = HashSet::new();
        let mut sites = BTreeMap::new();
        for event in recent.take_while(|event| event.at_ms >= since_ms) {
            let Some(ban) = made_by_a_rule(&event.data).filter(|ban| seen.insert(ban.ban.client)) else {
                continue;
            };
            for site in ban.evidence.iter().flat_map(|evidence| &evidence.sites) {
                *sites.entry(site.clone()).or_default() += 1;
            }
        }
        sites
    }

    pub fn conditions(&self) -> Conditions {
        self.lock().conditions.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Inner {
    fn record(&mut self, notice: &Notice, now: Now) -> Published {
        let id = self.next_id;
        self.next_id += 1;
        let published = Published::of(id, now.wall_ms, notice);
        self.counts.add(&published.event.kind, notice);
        self.conditions.follow(notice, now);
        self.attacks.follow(notice, now.boot_ms);
        published
    }
}

impl Published {
    fn of(id: u64, at_ms: i64, notice: &Notice) -> Published {
        let event = events::event(id, at_ms, notice);
        let json = serde_json::to_string(&event).expect("an event has only text keys");
        Published { event, json }
    }
}

impl Counts {
    fn add(&mut self, kind: &str, notice: &Notice) {
        *self.notices.entry(kind.to_owned()).or_default() += 1;
        if let Some(outcome) = text::policy_outcome(notice) {
            *self.decisions.entry(outcome).or_default() += 1;
        }
        match notice {
            Notice::Banned(ban) => *self.bans.entry(ban.ban.rule).or_default() += 1,
            Notice::Lifted { reason, .. } => {
                *self.lifts.entry(text::lift_reason_name(*reason)).or_default() += 1;
            }
            _ => {}
        }
    }
}

impl Conditions {
    fn follow(&mut self, notice: &Notice, now: Now) {
        match notice {
            Notice::GlobalAnomalyStarted { .. } => self.anomaly_since_ms = Some(now.wall_ms),
            Notice::GlobalAnomalyEnded { .. } => self.anomaly_since_ms = None,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shield_engine::action::LiftReason;

    const NOW: Now = Now { wall_ms: 1_800_000_000_000, boot_ms: 5_000 };

    fn skew(seconds: i64) -> Notice {
        Notice::ClockSkew { source: "log".into(), skew_secs: seconds }
    }

    #[test]
    fn ids_grow_across_restarts_and_stay_exact_in_javascript() {
        let first = Feed::new(NOW);
        (0..10).for_each(|n| first.publish(&skew(n), NOW));
        let second = Feed::new(NOW.plus_ms(1));
        second.publish(&skew(0), NOW.plus_ms(1));
        let last = first.recent(1, None, None).events[0].id;
        let next = second.recent(1, None, None).events[0].id;
        assert!(last < next);
        assert!(next < 1 << 53);
    }

    #[test]
    fn recent_pages_backwards_without_loss_or_repeat() {
        let feed = Feed::new(NOW);
        (0..7).for_each(|n| feed.publish(&skew(n), NOW));
        let mut seen = Vec::new();
        let mut before = None;
        loop {
            let page = feed.recent(3, before, None);
            seen.extend(page.events.iter().map(|event| event.id));
            before = page.next;
            if before.is_none() {
                break;
            }
        }
        let all: Vec<u64> = feed.lock().kept.iter().rev().map(|published| published.event.id).collect();
        assert_eq!(seen, all);
    }

    #[test]
    fn recent_filters_by_kind() {
        let feed = Feed::new(NOW);
        feed.publish(&skew(1), NOW);
        feed.publish(&Notice::Stopping { bans: 3 }, NOW);
        let kinds = |kind| feed.recent(10, None, kind).events.len();
        assert_eq!((kinds(None), kinds(Some("stopping")), kinds(Some("nothing"))), (2, 1, 0));
    }

    #[test]
    fn attacks_are_the_bans_by_rules_of_the_last_minutes() {
        let feed = Feed::new(NOW);
        let ban = |client: &str, rule: &str| -> Notice {
            let json = serde_json::json!({"event": "banned", "client": client, "serial": 1, "since_ms": 0,
                "ends": "never", "offence": 1, "rule": rule});
            serde_json::from_value(json).unwrap()
        };
        feed.publish(&ban("192.0.2.1", "probing"), NOW);
        feed.publish(&ban("192.0.2.2", "operator"), NOW);
        feed.publish(&ban("192.0.2.3", "imported"), NOW);
        let later = NOW.plus_ms(100_000);
        feed.publish(&ban("192.0.2.4", "flood"), later);
        feed.publish(&ban("192.0.2.5", "flood"), later);
        let counts = |now: Now| feed.recent_attacks(now).into_iter().collect::<Vec<_>>();
        assert_eq!(counts(later), [("floods", 2), ("probing", 1)]);
        let span_ms = ATTACKS_SECS * 1000 + ATTACK_STEP_MS;
        assert_eq!(counts(NOW.plus_ms(span_ms)), [("floods", 2)]);
        assert_eq!(counts(later.plus_ms(span_ms)), []);
    }

    /// History: after a restart in the middle of an attack the page listed no event and said that all was quiet.
    #[test]
    fn what_happened_before_the_start_is_listed_and_counts_as_an_attack() {
        let ban = |client: &str, because: Option<&str>| -> Notice {
            let mut json = serde_json::json!({"event": "banned", "client": client, "serial": 1, "since_ms": 0,
                "ends": "never", "offence": 1, "rule": "flood"});
            if let Some(because) = because {
                json = serde_json::json!({"event": "would_ban", "ban": json, "because": because});
            }
            serde_json::from_value(json).unwrap()
        };
        let now = Now { wall_ms: NOW.wall_ms, boot_ms: 200_000 };
        let ago = |secs: i64| now.wall_ms - secs * 1000;
        let past = [
            (ago(400), ban("192.0.2.1", None)),
            (ago(250), ban("192.0.2.2", None)),
            (ago(100), ban("192.0.2.3", None)),
            (ago(60), ban("192.0.2.4", Some(dry_run::BECAUSE))),
            (ago(50), ban("192.0.2.5", Some("behind a proxy"))),
            (ago(-90), ban("192.0.2.6", None)),
        ];
        let feed = Feed::new(now);
        feed.remember(&past, now);
        // The second one is older than this boot.
        assert_eq!(feed.recent_attacks(now).into_iter().collect::<Vec<_>>(), [("floods", 2)]);
        assert_eq!(feed.counts(), Counts::default(), "counters are of this run");
        feed.publish(&skew(1), now);
        let listed = feed.recent(10, None, None).events;
        assert_eq!(
            listed.iter().map(|event| event.at_ms).collect::<Vec<_>>(),
            [now.wall_ms, ago(-90), ago(50), ago(60), ago(100), ago(250), ago(400)]
        );
        assert!(listed.is_sorted_by(|a, b| a.id > b.id));
        let resumed = feed.subscribe(Some(ago(300).unsigned_abs() * IDS_PER_MS));
        assert_eq!((resumed.missed.len(), resumed.gap), (1, true), "the page asks for the list itself");
        let feed = Feed::new(now);
        feed.remember(&past, now);
        assert_eq!(feed.subscribe(Some(0)).missed.len(), 0);
    }

    #[test]
    fn the_oldest_are_dropped_and_a_resumed_stream_learns_of_the_gap() {
        let feed = Feed::new(NOW);
        (0..KEPT as i64 + 5).for_each(|n| feed.publish(&skew(n), NOW));
        let first = feed.lock().first_id;
        let resumed = |id| {
            let subscription = feed.subscribe(Some(id));
            (subscription.missed.len(), subscription.gap)
        };
        assert_eq!(resumed(first), (KEPT, true));
        assert_eq!(resumed(first + 4), (KEPT, false));
        assert_eq!(resumed(first + 6), (KEPT - 2, false));
        assert_eq!(resumed(7), (KEPT, true), "an id of an earlier run");
        assert!(!feed.subscribe(None).gap);
    }

    #[test]
    fn a_condition_lasts_until_its_end_is_published() {
        let feed = Feed::new(NOW);
        let started = Notice::GlobalAnomalyStarted {
            condition: "z-score=9.00 > threshold=3.0".into(),
            rate: 9.0,
            mean: 1.0,
            stddev: 0.5,
        };
        feed.publish(&started, NOW);
        let conditions = feed.conditions();
        assert_eq!(conditions.anomaly_since_ms, Some(NOW.wall_ms));
        feed.publish(&Notice::GlobalAnomalyEnded { rate: 1.0, mean: 1.0, lasted_secs: 60 }, NOW);
        assert_eq!(feed.conditions(), Conditions::default());
    }

    #[test]
    fn the_attackers_of_a_site_are_the_clients_banned_of_late() {
        let feed = Feed::new(NOW);
        let ban = |client: &str, sites: &[&str]| {
            let mut notice = crate::notify::samples::banned_client(client.parse().unwrap());
            let Notice::Banned(record) = &mut notice else { unreachable!() };
            record.evidence.as_mut().unwrap().sites = sites.iter().map(ToString::to_string).collect();
            notice
        };
        feed.publish(&ban("192.0.2.9", &["shop"]), NOW);
        let later = NOW.plus_ms(ATTACKS_SECS * 1000 + 1);
        for notice in
            [ban("192.0.2.1", &["shop", "blog"]), ban("192.0.2.1", &["shop"]), ban("192.0.2.2", &["shop"])]
        {
            feed.publish(&notice, later);
        }
        let attacked: Vec<(String, u64)> = feed.attacked_sites(later).into_iter().collect();
        assert_eq!(attacked, [("shop".to_owned(), 2)], "the newest ban of a client says which");
    }

    #[test]
    fn recent_bans_are_those_that_have_not_ended() {
        let feed = Feed::new(NOW);
        let ban = |client: &str, serial: u64| {
            let record = serde_json::json!({"event": "banned", "client": client, "serial": serial, "since_ms": 0,
                "ends": "never", "offence": 1, "rule": "flood"});
            serde_json::from_value::<Notice>(record).unwrap()
        };
        let lift = Notice::Lifted {
            client: "192.0.2.2".parse().unwrap(),
            reason: LiftReason::Operator,
            lasted_secs: 1,
            offence: 0,
            note: None,
        };
        feed.publish(&ban("192.0.2.9", 1), NOW);
        let later = NOW.plus_ms(60_001);
        for notice in
            [ban("192.0.2.1", 2), ban("192.0.2.2", 3), lift, ban("192.0.2.1", 4), ban("192.0.2.3", 5)]
        {
            feed.publish(&notice, later);
        }
        let serials: Vec<u64> = feed.banned_since(NOW.wall_ms + 1).iter().map(|ban| ban.ban.serial).collect();
        assert_eq!(serials, [5, 4]);
    }
}
