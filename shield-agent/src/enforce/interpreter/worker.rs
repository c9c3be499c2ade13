//! One enforcer's thread: takes work from its queue in order of urgency, and keeps the kernel as it should be.
//!
//! `step` does one piece of work and is all that the tests need; `run` is `step` in a loop with waiting in between.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Error, Result, anyhow};
use hashbrown::HashMap;

use super::failures::{Failed, banned_outcome, lifted_outcome};
use super::lane::{Lane, lock};
use super::report::{Report, UnderWay};
use super::schedule::{BANS_AT_ONCE, IN_FLIGHT_RETRY_MS, LiftPiece, Schedule};
use super::shared::Shared;
use super::stage::{Panicked, Stage};
use super::urgent::UrgentBans;
use crate::enforce::ahead::Begun;
use crate::enforce::ban::Ban;
use crate::enforce::desired::Desired;
use crate::enforce::enforcer::{Enforcer, Lifts};
use crate::enforce::reconcile::Wanted as _;
use crate::stages;
use shield_engine::client::Client;
use shield_engine::event::{Outcome, PartReport, PartState, Repair};
use shield_engine::time::Now;

/// The pause after a panic of the thread itself.
const AFTER_PANIC: Duration = Duration::from_millis(100);

/// How soon the engine is looked after that has not worked in what was reported of the restored bans.
const REPORT_PAUSE_MS: u64 = 2;

/// What to do after a step.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Step again at once: there may be more.
    Again,
    /// Sleep until this moment on the boot clock, unless something is queued.
    At(u64),
}

pub(super) struct Worker {
    enforcer: Box<dyn Enforcer>,
    /// How its first start went, if that was made before this worker was there.
    first_start: Option<std::thread::Result<Result<()>>>,
    shared: Arc<Shared>,
    /// The index of this worker's lane in `shared`.
    lane: usize,
    stage: Stage,
    /// Bans that failed, with their serial numbers. Retried at every reconcile.
    failed_bans: HashMap<Client, u64>,
    restore: Restore,
    /// The last failure to query or repair the kernel, until a reconcile succeeds.
    trouble: Option<Error>,
    schedule: Schedule,
    lift_piece: LiftPiece,
    reported: Option<PartState>,
}

/// The bans that were in the table at the start, until all are reported as banned.
#[derive(Default)]
struct Restore {
    /// Slots of the table below this one are not reported yet.
    below: usize,
    /// They have to be put in force first, because the reconcile at the start failed.
    must_ban: bool,
    reports: UnderWay,
}

impl Worker {
    pub(super) fn new(begun: Begun, shared: Arc<Shared>, lane: usize) -> Worker {
        Worker {
            enforcer: begun.enforcer,
            first_start: begun.start,
            shared,
            lane,
            stage: Stage::not_started(),
            failed_bans: HashMap::new(),
            restore: Restore::default(),
            trouble: None,
            schedule: Schedule::default(),
            lift_piece: LiftPiece::smallest(),
            reported: None,
        }
    }

    pub(super) fn name(&self) -> &'static str {
        self.enforcer.name().name()
    }

    /// Works until the queue is stopped.
    pub(super) fn run(mut self) {
        loop {
            let now = (self.shared.clock)();
            let shared = Arc::clone(&self.shared);
            let lane = &shared.lanes[self.lane];
            let next = self.step_unharmed(lane, now);
            let queue = lock(&lane.queue);
            if queue.is_stopping() {
                return;
            }
            if let Next::At(at_ms) = next
                && queue.is_idle()
            {
                let wait = Duration::from_millis(at_ms.saturating_sub(now.boot_ms));
                lane.resting(wait);
                drop(lane.wake.wait_timeout(queue, wait).unwrap_or_else(PoisonError::into_inner));
            }
        }
    }

    /// A step that survives its panic: one in the enforcer is caught at its call, and one around it must not end the thread
    /// either, because nobody would put bans in force then.
    fn step_unharmed(&mut self, lane: &Lane, now: Now) -> Next {
        let step = catch_unwind(AssertUnwindSafe(|| {
            lane.working();
            self.step(now)
        }));
        step.unwrap_or_else(|payload| {
            let retry_at_ms = now.boot_ms + self.shared.settings.retry_first_ms;
            self.stage = Stage::broken_until(Panicked::new("its thread", &*payload), retry_at_ms);
            // What panicked may do so again.
            let _ = catch_unwind(AssertUnwindSafe(|| self.publish(Publish::Transitions)));
            lane.resting(AFTER_PANIC);
            std::thread::sleep(AFTER_PANIC);
            Next::Again
        })
    }

    /// Does the most urgent piece of work.
    pub(super) fn step(&mut self, now: Now) -> Next {
        let next = self.work(now);
        self.publish(Publish::Transitions);
        next
    }

    /// In this order: a ban waits for nothing, a check finds a flush before the lifts of a mass expiry are through, and
    /// what can take seconds comes last.
    fn work(&mut self, now: Now) -> Next {
        if let Stage::Down { retry_at_ms, .. } = self.stage {
            if now.boot_ms >= retry_at_ms {
                self.try_start(now);
                return Next::Again;
            }
            self.refuse_everything();
            return Next::At(retry_at_ms);
        }
        if self.do_bans(now)
            || self.do_exempt()
            || self.do_slowed(now)
            || self.do_query()
            || self.do_check(now)
            || self.do_lifts()
        {
            return Next::Again;
        }
        if self.do_reconcile(now) || self.report_restored(now) || self.do_totals(now) {
            return Next::Again;
        }
        let next_ms = self.schedule.next_ms();
        Next::At(if self.restore.below == 0 { next_ms } else { next_ms.min(now.boot_ms + REPORT_PAUSE_MS) })
    }

    fn lane(&self) -> &Lane {
        &self.shared.lanes[self.lane]
    }

    /// Calls the enforcer. A panic in it takes the enforcer down, not the agent.
    fn guarded<T>(
        &mut self,
        step: &'static str,
        call: impl FnOnce(&mut dyn Enforcer) -> T,
    ) -> Result<T, Panicked> {
        let enforcer = &mut *self.enforcer;
        let called = catch_unwind(AssertUnwindSafe(|| call(enforcer)));
        called.map_err(|payload| self.broke_down(step, &*payload))
    }

    fn broke_down(&mut self, step: &'static str, payload: &(dyn Any + Send)) -> Panicked {
        let panicked = Panicked::new(step, payload);
        self.stage = Stage::broken(panicked.clone());
        panicked
    }

    /// The same for a call that can fail by itself.
    fn guarded_result<T>(
        &mut self,
        step: &'static str,
        call: impl FnOnce(&mut dyn Enforcer) -> Result<T>,
    ) -> Result<T> {
        self.guarded(step, call)?
    }

    fn try_start(&mut self, now: Now) {
        let exempt = self.shared.exempt();
        let Stage::Down { attempts, .. } = self.stage else { return };
        const STEP: &str = "starting";
        let started = match self.first_start.take() {
            Some(started) => match started {
                Ok(result) => result,
                Err(payload) => Err(self.broke_down(STEP, &*payload).into()),
            },
            None => self.guarded_result(STEP, |enforcer| enforcer.start(&exempt, now)),
        };
        match started {
            Ok(()) => self.started(now),
            Err(error) => {
                let settings = &self.shared.settings;
                let wait_ms = (settings.retry_first_ms << attempts.min(20)).min(settings.retry_at_most_ms);
                let retry_at_ms = now.boot_ms + wait_ms;
                let stage = std::mem::replace(&mut self.stage, Stage::Up);
                self.stage = stage.after_failed_start(error, attempts, retry_at_ms);
            }
        }
    }

    fn started(&mut self, now: Now) {
        self.stage = Stage::Up;
        self.trouble = None;
        let shared = Arc::clone(&self.shared);
        let settings = &shared.settings;
        self.schedule =
            Schedule::new(now.boot_ms + settings.check_every_ms, now.boot_ms + settings.reconcile_every_ms);
        let exempt = shared.exempt();
        let desired = shared.read_desired(&shared.lanes[self.lane]);
        self.failed_bans.clear();
        let filled = self.reconcile_yielding("filling", &desired, &exempt, now);
        self.restore =
            Restore { below: desired.len(), must_ban: filled.is_err(), reports: UnderWay::default() };
        if let Err(error) = filled {
            self.set_trouble("could not put all bans in force", error);
        }
        drop(desired);
        shared.settle();
        self.ensure_slowed(now);
    }

    /// Reconciles, and takes note of the urgent bans that came in between.
    fn reconcile_yielding(
        &mut self,
        step: &'static str,
        desired: &Desired,
        exempt: &[ipnet::IpNet],
        now: Now,
    ) -> Result<Option<Repair>> {
        let shared = Arc::clone(&self.shared);
        let mut urgent = UrgentBans::new(&shared, self.lane);
        let result = self
            .guarded_result(step, |enforcer| enforcer.reconcile_yielding(desired, exempt, now, &mut urgent));
        urgent.finish().iter().for_each(|outcome| self.note_failed(outcome));
        result
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
        self.passed("taken", &bans);
        let result = self.guarded("banning", |enforcer| enforcer.ensure_banned(&bans, now));
        self.passed("tried", &bans);
        let outcome = banned_outcome(self.enforcer.name(), orders, &Failed::new(result));
        self.note_failed(&outcome);
        self.report(Report::Outcome(outcome));
        self.schedule.banned(now.boot_ms);
    }

    fn passed(&self, what: &str, bans: &[Ban]) {
        if stages::are_traced() {
            let stage = format!("{what} by {}", self.name());
            stages::passed(&stage, bans.iter().map(|ban| ban.client.client()));
        }
    }

    fn note_failed(&mut self, outcome: &Outcome) {
        for (client, _) in &outcome.banned {
            self.failed_bans.remove(client);
        }
        self.failed_bans.extend(outcome.failed.iter().map(|order| (order.client, order.serial)));
    }

    fn do_lifts(&mut self) -> bool {
        let limit = match self.enforcer.lifts() {
            Lifts::InPieces => self.lift_piece.size(),
            Lifts::Together => usize::MAX,
        };
        let orders = lock(&self.lane().queue).take_lifts(limit);
        if orders.is_empty() {
            return false;
        }
        let began = Instant::now();
        let clients: Vec<Client> = orders.iter().map(|(client, _)| *client).collect();
        let result = self.guarded("lifting", |enforcer| enforcer.ensure_lifted(&clients));
        self.lift_piece.measured(clients.len(), began.elapsed());
        self.report_lifted(&orders, &Failed::new(result));
        true
    }

    fn report_lifted(&mut self, orders: &[(Client, u64)], failed: &Failed) {
        for (client, _) in orders {
            self.failed_bans.remove(client);
        }
        self.report(Report::Outcome(lifted_outcome(self.enforcer.name(), orders, failed)));
    }

    fn do_exempt(&mut self) -> bool {
        if !lock(&self.lane().queue).take_exempt_changed() {
            return false;
        }
        let exempt = self.shared.exempt();
        if let Err(error) = self.guarded_result("exempting", |enforcer| enforcer.ensure_exempt(&exempt)) {
            self.set_trouble("could not exempt the allowed networks", error);
            self.schedule.reconcile_ms = 0;
        }
        true
    }

    /// After the bans: a slowed client that is banned now is dropped before it leaves the slow lane.
    fn do_slowed(&mut self, now: Now) -> bool {
        if !lock(&self.lane().queue).take_slowed_changed() {
            return false;
        }
        self.ensure_slowed(now);
        true
    }

    fn ensure_slowed(&mut self, now: Now) {
        let slowed = self.shared.slowed();
        if let Err(error) = self.guarded_result("slowing", |enforcer| enforcer.ensure_slowed(&slowed, now)) {
            self.set_trouble("could not slow clients", error);
        }
    }

    fn do_query(&mut self) -> bool {
        let Some(query) = lock(&self.lane().queue).take_query() else { return false };
        let drops = self.guarded_result("counting", |enforcer| enforcer.drops(&query.clients));
        (query.answer)(drops);
        true
    }

    /// Does the cheap check, and schedules a full reconcile at once when something is wrong.
    fn do_check(&mut self, now: Now) -> bool {
        if now.boot_ms < self.schedule.check_ms {
            return false;
        }
        let shared = Arc::clone(&self.shared);
        let Some(expected) = shared.quiet(&shared.lanes[self.lane]).map(|desired| desired.len()) else {
            self.schedule.check_ms = now.boot_ms + IN_FLIGHT_RETRY_MS;
            return false;
        };
        let held = expected.saturating_sub(self.failed_bans.len());
        let began = Instant::now();
        let intact = self.guarded_result("checking", |enforcer| enforcer.is_intact(held));
        self.schedule.checked(now.boot_ms, shared.settings.check_every_ms, began, expected);
        match intact {
            Ok(true) => self.schedule.end_false_alarms(),
            Ok(false) => self.schedule.alarm(now.boot_ms),
            Err(error) => self.set_trouble("could not check the bans in the kernel", error),
        }
        true
    }

    fn do_reconcile(&mut self, now: Now) -> bool {
        #[cfg(any(test, feature = "test-support"))]
        if lock(&self.lane().queue).has_reconcile_requests() {
            self.schedule.reconcile_ms = self.schedule.reconcile_ms.min(now.boot_ms);
        }
        if now.boot_ms < self.schedule.reconcile_ms {
            return false;
        }
        let shared = Arc::clone(&self.shared);
        let Some(desired) = shared.quiet(&shared.lanes[self.lane]) else {
            self.schedule.reconcile_ms = now.boot_ms + IN_FLIGHT_RETRY_MS;
            return false;
        };
        #[cfg(any(test, feature = "test-support"))]
        let requests = lock(&self.lane().queue).take_reconciles();
        self.schedule.reconcile_ms = now.boot_ms + shared.settings.reconcile_every_ms;
        self.retry_failed(&desired, now);
        let result = self.reconcile_yielding("reconciling", &desired, &shared.exempt(), now);
        if result.is_ok() {
            self.report_recovered(&desired);
        }
        drop(desired);
        shared.settle();
        #[cfg(any(test, feature = "test-support"))]
        answer(requests, &result);
        self.reconciled(result, now);
        self.ensure_slowed(now);
        true
    }

    /// Retries failed bans by themselves, because a reconcile does not report which bans it put in force.
    fn retry_failed(&mut self, desired: &Desired, now: Now) {
        self.failed_bans.retain(|client, _| desired.contains(client));
        let again: Vec<(Ban, u64)> = self
            .failed_bans
            .iter()
            .filter_map(|(client, serial)| Some((desired.get(client)?, *serial)))
            .take(BANS_AT_ONCE)
            .collect();
        if !again.is_empty() {
            self.ban(&again, now);
        }
    }

    /// Reports the failed bans that a reconcile put in force all the same: it makes an IP version ready only after the
    /// retry of its bans has failed.
    ///
    /// A newer ban of the same client may have failed during the reconcile, which knows only the serial number in the
    /// table: that one is still to be retried.
    fn report_recovered(&mut self, desired: &Desired) {
        let recovered: Vec<(Ban, u64)> = self
            .failed_bans
            .iter()
            .filter_map(|(client, serial)| {
                let slot = desired.slot(client).filter(|slot| desired.serial(*slot) == *serial)?;
                self.enforcer.refusal(client).is_none().then(|| (desired.ban(slot), *serial))
            })
            .collect();
        for piece in recovered.chunks(BANS_AT_ONCE) {
            let outcome = self.reconciled_outcome(piece);
            self.report(Report::Outcome(outcome));
        }
    }

    fn reconciled(&mut self, result: Result<Option<Repair>>, now: Now) {
        match result {
            Ok(None) => {
                self.trouble = None;
                self.schedule.found_nothing(now.boot_ms, self.shared.settings.check_every_ms);
            }
            Ok(repair @ Some(_)) => {
                self.trouble = None;
                self.schedule.end_false_alarms();
                self.report_part(self.state(), repair);
            }
            Err(error) => self.set_trouble("could not reconcile", error),
        }
    }

    /// Reports a piece of the restored bans as in force.
    ///
    /// From the last slot down: a removal moves the table's last entry into the gap, so that what is not reported yet
    /// stays below the mark.
    fn report_restored(&mut self, now: Now) -> bool {
        if self.restore.below == 0 || self.restore.reports.is_full() {
            return false;
        }
        let piece: Vec<(Ban, u64)> = {
            let desired = self.shared.read_desired(self.lane());
            let top = self.restore.below.min(desired.len());
            self.restore.below = top.saturating_sub(BANS_AT_ONCE);
            (self.restore.below..top).map(|slot| (desired.ban(slot), desired.serial(slot))).collect()
        };
        self.shared.settle();
        if self.restore.must_ban {
            self.ban(&piece, now);
        } else {
            let mut reconciled = piece;
            reconciled.retain(|(ban, _)| !self.failed_bans.contains_key(&ban.client.client()));
            let outcome = self.reconciled_outcome(&reconciled);
            self.report(Report::Restored(outcome, self.restore.reports.clone()));
        }
        true
    }

    /// The outcome of bans of the table that a reconcile put in force, except those that the enforcer cannot hold: these have
    /// failed.
    fn reconciled_outcome(&mut self, orders: &[(Ban, u64)]) -> Outcome {
        let refused = orders.iter().filter_map(|(ban, _)| {
            let client = ban.client.client();
            Some((client, self.enforcer.refusal(&client)?))
        });
        let failed = Failed::Some(refused.collect());
        let outcome = banned_outcome(self.enforcer.name(), orders, &failed);
        self.note_failed(&outcome);
        outcome
    }

    fn do_totals(&mut self, now: Now) -> bool {
        if now.boot_ms < self.schedule.totals_ms {
            return false;
        }
        let began = Instant::now();
        let mut is_idle = false;
        match self.guarded_result("counting", |enforcer| enforcer.total_drops()) {
            Ok(total) => {
                is_idle = std::mem::replace(&mut lock(&self.lane().view).total, total) == total;
            }
            Err(error) => self.set_trouble("could not read the drop counters", error),
        }
        self.schedule.counted(now.boot_ms, self.shared.settings.totals_every_ms, began, is_idle);
        self.publish(Publish::Details);
        true
    }

    /// While it is down: fails bans and queries with the reason, and lifts unless no ban can be in force.
    fn refuse_everything(&mut self) {
        let Stage::Down { cause, .. } = &self.stage else { return };
        let (reason, was_never_in_force) = (cause.refusal(), cause.was_never_in_force());
        let (bans, lifts, queries) = {
            let mut queue = lock(&self.lane().queue);
            let queries: Vec<_> = std::iter::from_fn(|| queue.take_query()).collect();
            (queue.take_bans(usize::MAX), queue.take_lifts(usize::MAX), queries)
        };
        for query in queries {
            (query.answer)(Err(anyhow!(reason.clone())));
        }
        #[cfg(any(test, feature = "test-support"))]
        answer(lock(&self.lane().queue).take_reconciles(), &Err(anyhow!(reason.clone())));
        if !bans.is_empty() {
            let failed = Failed::All(reason.clone());
            self.report(Report::Outcome(banned_outcome(self.enforcer.name(), &bans, &failed)));
        }
        if !lifts.is_empty() {
            let failed = if was_never_in_force { Failed::none() } else { Failed::All(reason) };
            self.report_lifted(&lifts, &failed);
        }
    }

    fn set_trouble(&mut self, what: &'static str, error: Error) {
        self.trouble = Some(error.context(what));
    }

    /// The enforcer's state, as far as this worker knows better.
    fn state(&self) -> PartState {
        match (&self.stage, &self.trouble) {
            (Stage::Down { cause, .. }, _) => cause.state(),
            (Stage::Up, Some(trouble)) => PartState::Degraded { reason: format!("{trouble:#}") },
            (Stage::Up, None) => self.enforcer.state(),
        }
    }

    fn publish(&mut self, publish: Publish) {
        let state = self.state();
        let is_news = self.reported.as_ref().is_none_or(|before| publish.is_news(before, &state));
        lock(&self.lane().view).works = matches!(self.stage, Stage::Up) && self.trouble.is_none();
        if is_news {
            self.report_part(state, None);
        } else {
            lock(&self.lane().view).state = state;
        }
    }

    fn report_part(&mut self, state: PartState, repaired: Option<Repair>) {
        lock(&self.lane().view).state = state.clone();
        self.reported = Some(state.clone());
        let part = self.name().to_owned();
        self.report(Report::Part(PartReport { part, state, repaired }));
    }

    fn report(&self, report: Report) {
        (self.shared.report)(report);
    }
}

#[cfg(any(test, feature = "test-support"))]
fn answer(requests: Vec<super::queue::Reconciled>, result: &Result<Option<Repair>>) {
    for request in requests {
        let copy = match result {
            Ok(repair) => Ok(repair.clone()),
            Err(error) => Err(anyhow!("{error:#}")),
        };
        // Fails when the requester is gone.
        let _ = request.send(copy);
    }
}

/// Which changes of the state are reported.
#[derive(Clone, Copy)]
enum Publish {
    /// Only changes between working and not working: these at once.
    Transitions,
    /// Also details (`12 clients`), which change with every ban: these now and then.
    Details,
}

impl Publish {
    fn is_news(self, before: &PartState, state: &PartState) -> bool {
        let both_work = matches!((before, state), (PartState::Active { .. }, PartState::Active { .. }));
        match self {
            Publish::Transitions => !both_work && before != state,
            Publish::Details => before != state,
        }
    }
}
