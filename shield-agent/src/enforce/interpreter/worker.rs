//! One enforcer's thread: takes work from its queue in order of urgency, and keeps the kernel as it should be.
//!
//! `step` does one piece of work and is all that the tests need; `run` is `step` in a loop with waiting in between.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use hashbrown::HashMap;

use super::queue::Reconciled;
use super::{Lane, Report, Shared, lock};
use crate::enforce::{Ban, Enforcer, Failure, Lifts, Urgent};
use shield_engine::client::Client;
use shield_engine::event::{EnforcerName, FailedOrder, Outcome, PartReport, PartState, Repair};
use shield_engine::time::Now;

/// Bans given to an enforcer at once: enough to make one process or one batch worth its while, few enough to be done
/// in some ten milliseconds.
const BANS_AT_ONCE: usize = 4096;
/// Lifts are cut so that a piece takes about this long: a new ban waits for one piece at most.
const LIFT_PIECE_MS: u64 = 10;
/// The smallest and the largest piece of lifts.
const LIFT_PIECE: std::ops::RangeInclusive<usize> = 256..=8192;
/// How soon a check that met orders in flight is tried again.
const NOT_QUIET_MS: u64 = 20;
/// What looks at the kernel rests so many times as long as it took: reading the counters of 10,000 single rules takes
/// 80 ms, for which a new ban may have to wait.
const REST: u64 = 20;
/// And so many times that when nothing was dropped meanwhile, and until the next check: an idle server's agent costs next
/// to nothing.
const QUIET_REST: u64 = 100;
/// But never longer than this.
const QUIET_REST_AT_MOST_MS: u64 = 15_000;
/// A check never rests longer than this, so that what it finds is healed within 5 s.
const CHECK_REST_AT_MOST_MS: u64 = 4_000;

/// What to do after a step.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// There may be more at once.
    Again,
    /// Nothing before this moment on the boot clock, unless something is queued.
    At(u64),
}

/// See the module.
pub(super) struct Worker {
    enforcer: Box<dyn Enforcer>,
    shared: Arc<Shared>,
    at: usize,
    stage: Stage,
    /// Bans that failed, with their serial numbers: tried again at every reconcile.
    unfulfilled: HashMap<Client, u64>,
    /// Slots of the table below this one are yet to be reported as banned, after a start.
    to_report: usize,
    /// They have to be put in force first, because the reconcile at the start did not achieve it.
    refill: bool,
    /// Why the kernel could not be asked or repaired lately.
    trouble: Option<String>,
    due: Due,
    lift_piece: usize,
    told: Option<PartState>,
}

/// Whether the enforcer is set up.
enum Stage {
    /// It is not; nothing of it is in the kernel, unless it broke down while running.
    Down {
        why: Why,
        attempts: u32,
        retry_at_ms: u64,
    },
    Up,
}

enum Why {
    NotYet,
    NeverStarted(String),
    Broke(String),
}

/// When to do what next, on the boot clock in milliseconds.
#[derive(Default)]
struct Due {
    check_ms: u64,
    reconcile_ms: u64,
    totals_ms: u64,
    /// A check that raised a false alarm is not believed again before this.
    believe_check_ms: u64,
    false_alarms: u32,
}

impl Worker {
    pub(super) fn new(enforcer: Box<dyn Enforcer>, shared: Arc<Shared>, at: usize) -> Worker {
        Worker {
            enforcer,
            shared,
            at,
            stage: Stage::Down { why: Why::NotYet, attempts: 0, retry_at_ms: 0 },
            unfulfilled: HashMap::new(),
            to_report: 0,
            refill: false,
            trouble: None,
            due: Due::default(),
            lift_piece: *LIFT_PIECE.start(),
            told: None,
        }
    }

    pub(super) fn name(&self) -> &'static str {
        self.enforcer.name().name()
    }

    /// Works until the queue says stop.
    pub(super) fn run(mut self) {
        loop {
            let now = (self.shared.clock)();
            let next = self.step(now);
            let shared = Arc::clone(&self.shared);
            let lane = &shared.lanes[self.at];
            let queue = lock(&lane.queue);
            if queue.is_stopping() {
                return;
            }
            if let Next::At(at_ms) = next
                && queue.is_idle()
            {
                let wait = Duration::from_millis(at_ms.saturating_sub(now.boot_ms));
                drop(lane.wake.wait_timeout(queue, wait).unwrap_or_else(PoisonError::into_inner));
            }
        }
    }

    /// Does the most urgent piece of work.
    pub(super) fn step(&mut self, now: Now) -> Next {
        let next = self.work(now);
        self.publish(Told::WhenItMatters);
        next
    }

    fn work(&mut self, now: Now) -> Next {
        if let Stage::Down { retry_at_ms, .. } = self.stage {
            if now.boot_ms >= retry_at_ms {
                self.try_start(now);
                return Next::Again;
            }
            self.refuse_everything();
            return Next::At(retry_at_ms);
        }
        if self.do_bans(now) || self.do_exempt() || self.do_query() || self.do_check(now) || self.do_lifts() {
            return Next::Again;
        }
        if self.do_reconcile(now) || self.report_restored(now) || self.do_totals(now) {
            return Next::Again;
        }
        Next::At(self.due.check_ms.min(self.due.reconcile_ms).min(self.due.totals_ms))
    }

    fn lane(&self) -> &Lane {
        &self.shared.lanes[self.at]
    }

    /// Calls the enforcer; a panic in it takes the enforcer down, not the agent.
    fn guarded<T>(&mut self, what: &str, call: impl FnOnce(&mut dyn Enforcer) -> T) -> Result<T> {
        let enforcer = &mut *self.enforcer;
        catch_unwind(AssertUnwindSafe(|| call(enforcer))).map_err(|panic| {
            let reason = format!("{what} panicked: {}", panic_text(&*panic));
            self.stage = Stage::Down { why: Why::Broke(reason.clone()), attempts: 0, retry_at_ms: 0 };
            anyhow!(reason)
        })
    }

    fn try_start(&mut self, now: Now) {
        let exempt = self.shared.exempt();
        let Stage::Down { attempts, .. } = self.stage else { return };
        let started = self.guarded("starting", |enforcer| enforcer.start(&exempt, now));
        match started.and_then(|result| result) {
            Ok(()) => self.started(now),
            Err(error) => {
                let settings = &self.shared.settings;
                let wait_ms = (settings.retry_first_ms << attempts.min(20)).min(settings.retry_at_most_ms);
                let why = match &self.stage {
                    Stage::Down { why: Why::Broke(_), .. } => Why::Broke(format!("{error:#}")),
                    _ => Why::NeverStarted(format!("{error:#}")),
                };
                let retry_at_ms = now.boot_ms + wait_ms;
                self.stage = Stage::Down { why, attempts: attempts + 1, retry_at_ms };
            }
        }
    }

    fn started(&mut self, now: Now) {
        self.stage = Stage::Up;
        self.trouble = None;
        self.due = Due { check_ms: now.boot_ms + self.shared.settings.check_every_ms, ..Due::default() };
        // What is in the table is put in force by the first reconcile; what that cannot do stays unfulfilled.
        let shared = Arc::clone(&self.shared);
        let exempt = shared.exempt();
        let desired = shared.read_desired();
        let mut urgent = UrgentBans::new(&shared, self.at);
        let filled = self
            .guarded("filling", |enforcer| enforcer.reconcile_yielding(&desired, &exempt, now, &mut urgent));
        let outcomes = urgent.finish();
        self.unfulfilled.clear();
        outcomes.iter().for_each(|outcome| self.remember(outcome));
        self.to_report = desired.len();
        self.due.reconcile_ms = now.boot_ms + shared.settings.reconcile_every_ms;
        let filled = filled.and_then(|result| result);
        self.refill = filled.is_err();
        if let Err(error) = filled {
            self.in_trouble("could not put all bans in force", &error);
        }
        drop(desired);
        shared.settle();
    }

    fn do_bans(&mut self, now: Now) -> bool {
        let orders = lock(&self.lane().queue).take_bans(BANS_AT_ONCE);
        if orders.is_empty() {
            return false;
        }
        self.ban(&orders, now);
        true
    }

    fn ban(&mut self, orders: &[(Ban, u64)], now: Now) {
        let bans: Vec<Ban> = orders.iter().map(|(ban, _)| *ban).collect();
        let result = self.guarded("banning", |enforcer| enforcer.ensure_banned(&bans, now));
        self.report_banned(orders, &Failed::new(result));
    }

    /// Tells what became of bans, and remembers those to be tried again.
    fn report_banned(&mut self, orders: &[(Ban, u64)], failed: &Failed) {
        let outcome = banned_outcome(self.enforcer.name(), orders, failed);
        self.remember(&outcome);
        (self.shared.report)(Report::Outcome(outcome));
    }

    fn remember(&mut self, outcome: &Outcome) {
        for (client, _) in &outcome.banned {
            self.unfulfilled.remove(client);
        }
        self.unfulfilled.extend(outcome.failed.iter().map(|order| (order.client, order.serial)));
    }

    fn do_lifts(&mut self) -> bool {
        let limit = match self.enforcer.lifts() {
            Lifts::InPieces => self.lift_piece,
            Lifts::Together => usize::MAX,
        };
        let orders = lock(&self.lane().queue).take_lifts(limit);
        if orders.is_empty() {
            return false;
        }
        let began = Instant::now();
        let clients: Vec<Client> = orders.iter().map(|(client, _)| *client).collect();
        let result = self.guarded("lifting", |enforcer| enforcer.ensure_lifted(&clients));
        if clients.len() == self.lift_piece {
            self.lift_piece = next_piece(self.lift_piece, began.elapsed());
        }
        self.report_lifted(&orders, &Failed::new(result));
        true
    }

    fn report_lifted(&mut self, orders: &[(Client, u64)], failed: &Failed) {
        let mut outcome = self.outcome();
        for (client, serial) in orders {
            self.unfulfilled.remove(client);
            match failed.error_of(client) {
                None => outcome.lifted.push((*client, *serial)),
                Some(error) => {
                    outcome.failed.push(FailedOrder {
                        client: *client,
                        serial: *serial,
                        was_lift: true,
                        error,
                    });
                }
            }
        }
        (self.shared.report)(Report::Outcome(outcome));
    }

    fn outcome(&self) -> Outcome {
        Outcome { enforcer: self.enforcer.name(), banned: Vec::new(), lifted: Vec::new(), failed: Vec::new() }
    }

    fn do_exempt(&mut self) -> bool {
        if !lock(&self.lane().queue).take_exempt_changed() {
            return false;
        }
        let exempt = self.shared.exempt();
        let result = self.guarded("exempting", |enforcer| enforcer.ensure_exempt(&exempt));
        if let Err(error) = result.and_then(|result| result) {
            self.in_trouble("could not exempt the allowed networks", &error);
            self.due.reconcile_ms = 0;
        }
        true
    }

    fn do_query(&mut self) -> bool {
        let Some(query) = lock(&self.lane().queue).take_query() else { return false };
        let drops = self.guarded("counting", |enforcer| enforcer.drops(&query.clients));
        (query.answer)(drops.and_then(|result| result));
        true
    }

    /// The cheap check; a full reconcile at once when something is wrong.
    fn do_check(&mut self, now: Now) -> bool {
        if now.boot_ms < self.due.check_ms {
            return false;
        }
        let shared = Arc::clone(&self.shared);
        let Some(expected) = shared.quiet(&shared.lanes[self.at]).map(|desired| desired.len()) else {
            self.due.check_ms = now.boot_ms + NOT_QUIET_MS;
            return false;
        };
        self.due.check_ms = next_beat(now.boot_ms, shared.settings.check_every_ms);
        let held = expected.saturating_sub(self.unfulfilled.len());
        let began = Instant::now();
        let intact = self.guarded("checking", |enforcer| enforcer.is_intact(held));
        self.due.check_ms = self.due.check_ms.max(now.boot_ms + rest_ms(began).min(CHECK_REST_AT_MOST_MS));
        match intact.and_then(|result| result) {
            Ok(true) => self.due.false_alarms = 0,
            Ok(false) if now.boot_ms >= self.due.believe_check_ms => self.due.reconcile_ms = now.boot_ms,
            Ok(false) => {}
            Err(error) => self.in_trouble("could not check", &error),
        }
        true
    }

    fn do_reconcile(&mut self, now: Now) -> bool {
        let asked = lock(&self.lane().queue).wants_reconcile();
        if !asked && now.boot_ms < self.due.reconcile_ms {
            return false;
        }
        let shared = Arc::clone(&self.shared);
        let Some(desired) = shared.quiet(&shared.lanes[self.at]) else {
            self.due.reconcile_ms = now.boot_ms + NOT_QUIET_MS;
            return false;
        };
        let answers = lock(&self.lane().queue).take_reconciles();
        self.due.reconcile_ms = now.boot_ms + shared.settings.reconcile_every_ms;
        self.retry_unfulfilled(&desired, now);
        let exempt = shared.exempt();
        let mut urgent = UrgentBans::new(&shared, self.at);
        let result = self.guarded("reconciling", |enforcer| {
            enforcer.reconcile_yielding(&desired, &exempt, now, &mut urgent)
        });
        let outcomes = urgent.finish();
        drop(desired);
        shared.settle();
        outcomes.iter().for_each(|outcome| self.remember(outcome));
        self.reconciled(result.and_then(|result| result), answers, now);
        true
    }

    /// Tries bans that failed again, so that the engine learns which of them are in force now.
    fn retry_unfulfilled(&mut self, desired: &super::Desired, now: Now) {
        self.unfulfilled.retain(|client, _| desired.contains(client));
        let again: Vec<(Ban, u64)> = self
            .unfulfilled
            .iter()
            .filter_map(|(client, serial)| Some((desired.get(client)?, *serial)))
            .take(BANS_AT_ONCE)
            .collect();
        if !again.is_empty() {
            self.ban(&again, now);
        }
    }

    fn reconciled(&mut self, result: Result<Option<Repair>>, answers: Vec<Reconciled>, now: Now) {
        match &result {
            Ok(None) => {
                self.trouble = None;
                self.doubt_check(now);
            }
            Ok(Some(repair)) => {
                self.trouble = None;
                self.due.false_alarms = 0;
                self.tell(self.state(), Some(repair.clone()));
            }
            Err(error) => self.in_trouble("could not reconcile", error),
        }
        let text = result.as_ref().err().map(|error| format!("{error:#}"));
        let repair = result.ok().flatten();
        for answer in answers {
            let result = match &text {
                None => Ok(repair.clone()),
                Some(text) => Err(anyhow!(text.clone())),
            };
            // Whoever asked may have gone away.
            let _ = answer.send(result);
        }
    }

    /// When a check said that something was wrong and nothing was, the next such alarm has to wait longer: a listing of a
    /// million bans every two seconds would be worse than what it looks for.
    fn doubt_check(&mut self, now: Now) {
        self.due.false_alarms = (self.due.false_alarms + 1).min(4);
        let wait_ms = self.shared.settings.check_every_ms << self.due.false_alarms;
        self.due.believe_check_ms = now.boot_ms + wait_ms.saturating_sub(self.shared.settings.check_every_ms);
    }

    /// Tells the engine, piece by piece, that the bans that were in the table at the start are in force.
    ///
    /// From the last slot down: a removal moves the table's last entry into the gap, so that what is yet to be
    /// reported stays below the mark.
    fn report_restored(&mut self, now: Now) -> bool {
        if self.to_report == 0 {
            return false;
        }
        let piece: Vec<(Ban, u64)> = {
            let desired = self.shared.read_desired();
            let top = self.to_report.min(desired.len());
            self.to_report = top.saturating_sub(BANS_AT_ONCE);
            (self.to_report..top).map(|slot| (desired.ban(slot), desired.serial(slot))).collect()
        };
        self.shared.settle();
        if self.refill {
            self.ban(&piece, now);
        } else {
            let mut outcome = self.outcome();
            let held = piece.iter().map(|(ban, serial)| (ban.client.client(), *serial));
            outcome.banned = held.filter(|(client, _)| !self.unfulfilled.contains_key(client)).collect();
            (self.shared.report)(Report::Outcome(outcome));
        }
        true
    }

    fn do_totals(&mut self, now: Now) -> bool {
        if now.boot_ms < self.due.totals_ms {
            return false;
        }
        let began = Instant::now();
        let total = self.guarded("counting", |enforcer| enforcer.total_drops());
        let busy_ms = rest_ms(began);
        let mut due_ms = now.boot_ms + self.shared.settings.totals_every_ms.max(busy_ms);
        match total.and_then(|result| result) {
            Ok(total) => {
                let before = std::mem::replace(&mut lock(&self.lane().view).total, total);
                if before == total {
                    let quiet_ms = busy_ms.saturating_mul(QUIET_REST).min(QUIET_REST_AT_MOST_MS);
                    // Along with the next check: one wake for both.
                    due_ms = due_ms.max(now.boot_ms + quiet_ms).max(self.due.check_ms);
                }
            }
            Err(error) => self.in_trouble("could not read the drop counters", &error),
        }
        self.due.totals_ms = due_ms;
        self.publish(Told::Always);
        true
    }

    /// While it is down: bans fail with the reason, lifts of what was never in force succeed.
    fn refuse_everything(&mut self) {
        let Stage::Down { why, .. } = &self.stage else { return };
        let (reason, never_in_force) = match why {
            Why::NotYet => ("not started yet".to_owned(), true),
            Why::NeverStarted(reason) => (reason.clone(), true),
            Why::Broke(reason) => (reason.clone(), false),
        };
        let (bans, lifts, queries, asked) = {
            let mut queue = lock(&self.lane().queue);
            let queries: Vec<_> = std::iter::from_fn(|| queue.take_query()).collect();
            (queue.take_bans(usize::MAX), queue.take_lifts(usize::MAX), queries, queue.take_reconciles())
        };
        for query in queries {
            (query.answer)(Err(anyhow!(reason.clone())));
        }
        for answer in asked {
            let _ = answer.send(Err(anyhow!(reason.clone())));
        }
        if !bans.is_empty() {
            self.refuse_bans(&bans, &reason);
        }
        if !lifts.is_empty() {
            let failed = if never_in_force { Failed::default() } else { Failed::all(reason) };
            self.report_lifted(&lifts, &failed);
        }
    }

    fn refuse_bans(&mut self, bans: &[(Ban, u64)], reason: &str) {
        let mut outcome = self.outcome();
        for (ban, serial) in bans {
            let (client, error) = (ban.client.client(), reason.to_owned());
            outcome.failed.push(FailedOrder { client, serial: *serial, was_lift: false, error });
        }
        (self.shared.report)(Report::Outcome(outcome));
    }

    fn in_trouble(&mut self, what: &str, error: &anyhow::Error) {
        self.trouble = Some(format!("{what}: {error:#}"));
    }

    /// How it stands, seen from here.
    fn state(&self) -> PartState {
        let degraded = |reason: String| PartState::Degraded { reason };
        match (&self.stage, &self.trouble) {
            (Stage::Down { why: Why::NotYet, .. }, _) => PartState::Waiting { reason: "starting".to_owned() },
            (Stage::Down { why: Why::NeverStarted(reason), .. }, _) => {
                degraded(format!("not in force, is tried again: {reason}"))
            }
            (Stage::Down { why: Why::Broke(reason), .. }, _) => {
                degraded(format!("broke down, is started again: {reason}"))
            }
            (Stage::Up, Some(trouble)) => degraded(trouble.clone()),
            (Stage::Up, None) => self.enforcer.state(),
        }
    }

    fn publish(&mut self, told: Told) {
        let state = self.state();
        let news = self.told.as_ref().is_none_or(|before| match told {
            Told::Always => *before != state,
            Told::WhenItMatters => is_news(before, &state),
        });
        if news {
            self.tell(state, None);
        } else {
            lock(&self.lane().view).state = state;
        }
    }

    fn tell(&mut self, state: PartState, repaired: Option<Repair>) {
        lock(&self.lane().view).state = state.clone();
        self.told = Some(state.clone());
        let part = self.name().to_owned();
        (self.shared.report)(Report::Part(PartReport { part, state, repaired }));
    }
}

/// What became of bans.
fn banned_outcome(enforcer: EnforcerName, orders: &[(Ban, u64)], failed: &Failed) -> Outcome {
    let mut outcome = Outcome { enforcer, banned: Vec::new(), lifted: Vec::new(), failed: Vec::new() };
    for (ban, serial) in orders {
        let (client, serial) = (ban.client.client(), *serial);
        match failed.error_of(&client) {
            None => outcome.banned.push((client, serial)),
            Some(error) => outcome.failed.push(FailedOrder { client, serial, was_lift: false, error }),
        }
    }
    outcome
}

/// New bans taken from the queue in the middle of a reconcile, and reported at once.
struct UrgentBans<'a> {
    shared: &'a Shared,
    at: usize,
    taken: Vec<(Ban, u64)>,
    outcomes: Vec<Outcome>,
}

impl<'a> UrgentBans<'a> {
    fn new(shared: &'a Shared, at: usize) -> UrgentBans<'a> {
        UrgentBans { shared, at, taken: Vec::new(), outcomes: Vec::new() }
    }

    fn tell(&mut self, failed: &Failed) {
        let orders = std::mem::take(&mut self.taken);
        let outcome = banned_outcome(self.shared.lanes[self.at].name, &orders, failed);
        (self.shared.report)(Report::Outcome(outcome.clone()));
        self.outcomes.push(outcome);
    }

    /// What was reported; bans that were taken but never carried out have failed.
    fn finish(mut self) -> Vec<Outcome> {
        if !self.taken.is_empty() {
            self.tell(&Failed::all("the enforcer broke down".to_owned()));
        }
        self.outcomes
    }
}

impl Urgent for UrgentBans<'_> {
    fn take(&mut self) -> Vec<Ban> {
        let new = lock(&self.shared.lanes[self.at].queue).take_bans(BANS_AT_ONCE);
        let bans = new.iter().map(|(ban, _)| *ban).collect();
        self.taken.extend(new);
        bans
    }

    fn done(&mut self, _: &[Ban], failures: Vec<Failure>) {
        if !self.taken.is_empty() {
            self.tell(&Failed::new(Ok(failures)));
        }
    }
}

/// When a changed state is reported.
#[derive(Clone, Copy)]
enum Told {
    /// At once, because it works or does not work now.
    WhenItMatters,
    /// Now and then, because its details (`12 clients`) changed.
    Always,
}

fn is_news(before: &PartState, state: &PartState) -> bool {
    let both_work = matches!((before, state), (PartState::Active { .. }, PartState::Active { .. }));
    !both_work && before != state
}

/// How long something that began then and is over now should rest.
fn rest_ms(began: Instant) -> u64 {
    REST.saturating_mul(u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX))
}

fn next_piece(piece: usize, took: Duration) -> usize {
    let took_ms = took.as_millis() as u64;
    let next = if took_ms > LIFT_PIECE_MS {
        piece / 2
    } else if took_ms < LIFT_PIECE_MS / 2 {
        piece * 2
    } else {
        piece
    };
    next.clamp(*LIFT_PIECE.start(), *LIFT_PIECE.end())
}

/// Which clients of a batch failed.
#[derive(Default)]
struct Failed {
    all: Option<String>,
    some: HashMap<Client, String>,
}

impl Failed {
    fn new(result: Result<Vec<Failure>>) -> Failed {
        match result.context("the enforcer broke down") {
            Ok(failures) => {
                let some = failures.into_iter().map(|f| (f.client, format!("{:#}", f.error))).collect();
                Failed { all: None, some }
            }
            Err(error) => Failed::all(format!("{error:#}")),
        }
    }

    fn all(reason: String) -> Failed {
        Failed { all: Some(reason), some: HashMap::new() }
    }

    fn error_of(&self, client: &Client) -> Option<String> {
        self.all.as_ref().or_else(|| self.some.get(client)).cloned()
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("without a message")
}

/// The next multiple of `every_ms`: what several parts do at the same moment wakes an idle machine once.
fn next_beat(now_ms: u64, every_ms: u64) -> u64 {
    let every_ms = every_ms.max(1);
    (now_ms / every_ms + 1) * every_ms
}
