//! The thread that owns the engine: receives events, calls `Engine::handle`, and sends the actions to the performer.
//!
//! Control messages are handled before lines, so that the control socket answers while a backlog is read, but only some
//! before lines have their turn. What somebody asks over the API comes last, in pieces and within a bounded part of the
//! time: whoever floods the API delays its answers and no ban. Nothing here blocks on the store, the kernel or the network; that is `performer`'s business.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::error::TryRecvError;
use tokio::sync::oneshot;

use crate::beat::Beat;
use crate::canary::Tap;
use crate::clock;
use crate::enforce::Slow;
use crate::enforce::interpreter::Report;
use crate::host;
use crate::latencies::{Latencies, Stopwatch};
use crate::log_lines::LogLines;
use crate::pipeline::{Inbox, Job, Message, Verified, Verify};
use crate::policy::service::Service;
use crate::source::Pool;
use crate::stages;
use shield_engine::Engine;
use shield_engine::action::{Action, CommandId, Order, Record, Reply};
use shield_engine::allowlist::BannableClient;
use shield_engine::event::Event;
use shield_engine::request::Batch;
use shield_engine::slowed::Slowed;
use shield_engine::time::Now;

/// Control messages handled before lines have their turn. An operator is answered while a backlog is read, and no flood of
/// messages holds up detection.
const MESSAGES_PER_TURN: usize = 16;

/// The pause after a look, as a multiple of what it took: looks take a quarter of the thread at most.
const PAUSE_AFTER_LOOK: u32 = 3;

/// The longest time between two ticks.
const TICK_MS: u64 = 1_000;

/// For how long a stop waits for the answers of the operators' rules. They take milliseconds; what holds without them bans whom the
/// rules would have spared.
const LAST_ANSWERS: Duration = Duration::from_millis(500);

/// Unparks the thread that polled.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Owns the engine and runs it on one thread.
pub struct Owner {
    engine: Engine,
    inbox: Inbox,
    performer: Sender<Job>,
    verify: Verify,
    pool: Pool,
    next_command: u64,
    log_lines: LogLines,
    /// Without it the engine goes on by itself about what it asks.
    rules: Option<Service>,
    beat: Option<Beat>,
    canary: Option<Box<Tap>>,
    stopwatch: Stopwatch,
    at_ticks: Option<AtTicks>,
}

/// Looks at the engine behind each tick.
type AtTicks = Box<dyn FnMut(&Engine, Now) + Send>;

impl Owner {
    /// Actions go to `performer`, DNS verifications to `verify`, and processed batches back to `pool`.
    pub fn new(engine: Engine, inbox: Inbox, performer: Sender<Job>, verify: Verify, pool: Pool) -> Owner {
        Owner {
            engine,
            inbox,
            performer,
            verify,
            pool,
            next_command: 1,
            log_lines: LogLines::default(),
            rules: None,
            beat: None,
            canary: None,
            stopwatch: Stopwatch::default(),
            at_ticks: None,
        }
    }

    /// Says to `beat` that it goes round.
    pub(crate) fn watched(self, beat: Beat) -> Owner {
        Owner { beat: Some(beat), ..self }
    }

    /// Asks the operators' own rules here.
    pub(crate) fn asking(self, rules: Service) -> Owner {
        Owner { rules: Some(rules), ..self }
    }

    /// Measures into these.
    pub(crate) fn measured(self, latencies: Arc<Latencies>) -> Owner {
        Owner { stopwatch: Stopwatch::of(latencies), ..self }
    }

    /// Has this look at the engine behind each tick. It waits for nobody.
    pub(crate) fn looked_at(self, look: impl FnMut(&Engine, Now) + Send + 'static) -> Owner {
        Owner { at_ticks: Some(Box::new(look)), ..self }
    }

    /// Performs actions from before the owner runs: those of restoring.
    pub fn perform_first(&mut self, actions: Vec<Action>) {
        self.perform(actions, None);
    }

    /// Runs on the calling thread until [`Message::Stop`], saves, and returns the engine.
    pub fn run(mut self) -> Engine {
        self.handle_events();
        self.await_rules();
        let mut actions = self.engine.save(clock::now());
        self.log_lines.decided(&mut actions);
        self.perform(actions, None);
        self.engine
    }

    /// Parks the thread itself instead of using a runtime's timer, which wakes up more than once for a long wait.
    fn handle_events(&mut self) {
        let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
        let mut context = Context::from_waker(&waker);
        let mut tick_at = clock::now().boot_ms;
        let mut look_at = Instant::now();
        loop {
            self.beat.iter().for_each(Beat::working);
            let mut messages = 0;
            while messages < MESSAGES_PER_TURN {
                match self.inbox.control.poll_recv(&mut context) {
                    Poll::Ready(None | Some(Message::Stop)) => return,
                    Poll::Ready(Some(message)) => self.on_message(message),
                    Poll::Pending => break,
                }
                messages += 1;
            }
            let mut is_idle = messages < MESSAGES_PER_TURN;
            let now = clock::now();
            if now.boot_ms >= tick_at {
                let mut actions = self.engine.handle(Event::Tick, now);
                self.log_lines.decided(&mut actions);
                self.canary.iter().for_each(|canary| canary.tick(now));
                self.stopwatch.tidy();
                self.perform(actions, None);
                self.at_ticks.iter_mut().for_each(|look| look(&self.engine, now));
                tick_at = self.next_tick(now);
                is_idle = false;
            }
            if let Poll::Ready(Some((batch, delivered))) = self.inbox.lines.poll_recv(&mut context) {
                let mut actions = self.judge(&batch, now);
                self.stopwatch.judged(&batch, delivered, now);
                stages::judged(&actions, delivered);
                self.log_lines.judged(&batch, &mut actions);
                let left = match &self.canary {
                    Some(canary) => canary.lines(batch, now, delivered),
                    None => Some(batch),
                };
                left.into_iter().for_each(|batch| self.pool.give(batch));
                self.perform(actions, None);
                tick_at = tick_at.min(self.next_tick(clock::now()));
                is_idle = false;
            }
            let begin = Instant::now();
            let wait = look_at.saturating_duration_since(begin);
            if wait.is_zero()
                && let Poll::Ready(Some(look)) = self.inbox.looks.poll_recv(&mut context)
            {
                look(&self.engine, clock::now());
                let end = Instant::now();
                look_at = end + (end - begin) * PAUSE_AFTER_LOOK;
                is_idle = false;
            }
            if is_idle {
                let until_tick = Duration::from_millis(tick_at.saturating_sub(clock::now().boot_ms));
                let pause = if wait.is_zero() { until_tick } else { until_tick.min(wait) };
                self.beat.iter().for_each(|beat| beat.resting(pause));
                std::thread::park_timeout(pause);
            }
        }
    }

    /// Takes the answers of the rules that are under way. The engine goes on by itself about those that do not come.
    fn await_rules(&mut self) {
        let until = Instant::now() + LAST_ANSWERS;
        while self.rules.is_some() && self.engine.awaits_rules() && Instant::now() < until {
            match self.inbox.control.try_recv() {
                Ok(message @ Message::Policy(_)) => self.on_message(message),
                // Whoever sends anything else finds the agent stopped.
                Ok(_) => {}
                Err(TryRecvError::Empty) => std::thread::sleep(Duration::from_millis(1)),
                Err(TryRecvError::Disconnected) => return,
            }
        }
    }

    /// Judges a batch of lines. A panic ends the agent, whose state it may have left half changed; but the position behind the
    /// lines is saved before, because the next start would end at the same lines again, and every one after it.
    fn judge(&mut self, batch: &Batch, now: Now) -> Vec<Action> {
        let engine = &mut self.engine;
        let judged = catch_unwind(AssertUnwindSafe(|| {
            #[cfg(feature = "test-support")]
            crate::beat::fault::strike("lines");
            engine.handle(Event::Lines(batch), now)
        }));
        judged.unwrap_or_else(|payload| {
            let lines = batch.lines.len();
            if let Some(checkpoint) = &batch.checkpoint {
                tracing::error!(source = %checkpoint.source, lines, "the engine broke down over these lines: they are left out at the next start");
                self.perform(vec![Action::Persist(Record::Checkpoint(checkpoint.clone()))], None);
            }
            resume_unwind(payload)
        })
    }

    /// The next whole second or the next end of a ban, whichever comes first.
    fn next_tick(&self, now: Now) -> u64 {
        let second = (now.boot_ms / TICK_MS + 1) * TICK_MS;
        self.engine.next_deadline().map_or(second, |deadline| second.min(deadline.max(now.boot_ms)))
    }

    fn on_message(&mut self, message: Message) {
        let now = clock::now();
        let mut actions = match message {
            Message::Command(command, answer) => {
                self.canary.iter().for_each(|canary| canary.command(&command, now));
                let id = CommandId(self.next_command);
                self.next_command += 1;
                let actions = self.engine.handle(Event::Command(id, command), now);
                return self.perform(actions, Some(answer));
            }
            Message::Enforcement(Report::Outcome(outcome) | Report::Restored(outcome, _)) => {
                self.stopwatch.carried_out(&outcome);
                self.engine.handle(Event::Outcome(outcome), now)
            }
            Message::Enforcement(Report::Part(report)) | Message::Part(report) => {
                self.engine.handle(Event::Part(report), now)
            }
            Message::Enforcement(Report::Activity { client, serial, packets }) => {
                self.engine.handle(Event::Activity { client, serial, packets }, now)
            }
            Message::HostAddresses(entries) => {
                self.canary.iter().for_each(|canary| canary.host_addresses(&entries, now));
                self.engine.handle(Event::HostAddresses { reasons: &host::REASONS, entries }, now)
            }
            Message::BotVerified(client, verified) => {
                let genuine = verified == Verified::Genuine;
                self.engine.handle(Event::BotVerified { client, genuine }, now)
            }
            Message::Policy(answers) => self.engine.handle(Event::Policy(answers), now),
            Message::Remote(remote) => self.engine.handle(Event::Remote(remote), now),
            Message::NewSettings(new) => self.engine.handle(Event::NewSettings(new), now),
            Message::Reloaded(reloaded) => self.engine.handle(Event::Reloaded(reloaded), now),
            Message::Change(change) => self.engine.handle(Event::Change(change), now),
            Message::Canary(tap) => {
                self.canary = tap;
                return;
            }
            Message::Query(query) => return query(&self.engine, now),
            Message::Stop => return,
        };
        self.log_lines.decided(&mut actions);
        self.perform(actions, None);
    }

    fn perform(&mut self, actions: Vec<Action>, answer: Option<oneshot::Sender<Reply>>) {
        if actions.is_empty() {
            return;
        }
        self.stopwatch.ordered(&actions);
        for action in &actions {
            match action {
                Action::VerifyBot { client, addr } => (self.verify)(*client, *addr),
                Action::AskPolicy(question) => {
                    self.rules.iter().for_each(|rules| rules.ask(question.clone()));
                }
                _ => {}
            }
        }
        let stale = actions.iter().any(|action| matches!(action, Action::Enforce(Order::AllowlistChanged)));
        let exempt = stale.then(|| self.engine.allowlist().exempt_networks());
        let is_slowed_changed = |action| matches!(action, &Action::Enforce(Order::SlowedChanged));
        let slowed = actions.iter().any(is_slowed_changed).then(|| slowed(&self.engine));
        // Cannot fail: the performer runs until this sender is gone.
        let _ = self.performer.send(Job { actions, exempt, slowed, answer });
    }
}

/// The slow lane with its version, as the enforcers take it.
pub(crate) fn slowed(engine: &Engine) -> (u64, Vec<Slow>) {
    let slow = |(client, slowed): (BannableClient, &Slowed)| Slow {
        client,
        ends: slowed.ends,
        limits: slowed.limits,
    };
    (engine.slowed_version(), engine.slowed().map(slow).collect())
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, channel};

    use super::*;
    use crate::pipeline::Handle;
    use shield_engine::allowlist::Allowlist;
    use shield_engine::policy::Policy;
    use shield_engine::request::Rejected;
    use shield_engine::settings::Settings;

    fn rejected(handle: &Handle) -> Receiver<u64> {
        let (answer, answered) = channel();
        handle.send(Message::Query(Box::new(move |engine, _| {
            answer.send(engine.rejected().iter().sum()).expect("the test waits");
        })));
        answered
    }

    /// The owner of an empty engine, not yet running.
    fn owner(inbox: Inbox) -> (Owner, Receiver<Job>) {
        let engine = Engine::new(Settings::default(), Policy::default(), Allowlist::new([]), 1, 7);
        let (performer, jobs) = channel();
        (Owner::new(engine, inbox, performer, Box::new(|_, _| {}), Pool::default()), jobs)
    }

    /// Once a request for a thousand clients ran before any line, so that whoever sent enough of them had no ban made.
    #[test]
    fn lines_have_their_turn_whatever_is_asked() {
        const LOOK: Duration = Duration::from_millis(2);
        let (handle, inbox) = Handle::new();
        let (owner, _jobs) = owner(inbox);
        let looks = Arc::new(std::sync::atomic::AtomicU64::new(0));
        for _ in 0..20_000 {
            let looks = Arc::clone(&looks);
            let look: crate::pipeline::EngineQuery = Box::new(move |_, _| {
                std::thread::sleep(LOOK);
                looks.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            });
            handle.look_soon(look);
            handle.send(Message::Query(Box::new(|_, _| {})));
        }
        let owner = std::thread::spawn(move || owner.run());
        let begin = Instant::now();
        for _ in 0..50 {
            let mut batch = Batch::default();
            batch.rejected[Rejected::Malformed as usize] = 1;
            assert!(handle.send_lines(batch));
        }
        let (took, seen) = (begin.elapsed(), looks.load(std::sync::atomic::Ordering::Relaxed));
        assert!(LOOK * (seen as u32) * 2 <= took + LOOK * 4, "{seen} looks took most of {took:?}");
        handle.send(Message::Stop);
        assert_eq!(owner.join().expect("the owner ends").rejected().iter().sum::<u64>(), 50);
    }

    /// DNS is asked about nearly every ban, so its lines are of a batch that is gone when the answer comes.
    #[test]
    fn a_ban_that_waits_for_dns_keeps_its_log_lines() {
        let (handle, inbox) = Handle::new();
        let (performer, jobs) = channel();
        let settings =
            Settings { verify_search_engines: shield_engine::policy::Switch::On, ..Settings::default() };
        let engine = Engine::new(settings, Policy::default(), Allowlist::new([]), 1, 7);
        let answers = handle.clone();
        let verify: Verify =
            Box::new(move |client, _| answers.send(Message::BotVerified(client, Verified::Unknown)));
        let owner = Owner::new(engine, inbox, performer, verify, Pool::default());
        let owner = std::thread::spawn(move || owner.run());
        let begin = clock::now().wall_ms / 1000 - 60;
        for (n, path) in ["/.env", "/.git/config", "/backup.sql", "/.aws/credentials", "/.ssh/id_rsa"]
            .iter()
            .cycle()
            .take(40)
            .enumerate()
        {
            let at = jiff::Timestamp::from_second(begin + n as i64).expect("a time");
            let line = format!(
                "{{\"source_ip\":\"203.0.113.66\",\"timestamp\":\"{at}\",\"method\":\"GET\",\"path\":\"{path}?{n}\",\"status\":404,\"response_size\":9}}\n"
            );
            let mut bytes = line.into_bytes();
            let (end, mut out) = (bytes.len(), shield_logline::Output::default());
            shield_logline::Parser::new(&shield_logline::Settings::default())
                .parse_block(&mut bytes, 0, end, &mut out);
            assert!(handle.send_lines(Batch { bytes, lines: out.lines, ..Batch::default() }));
        }
        let record = jobs.iter().flat_map(|job| job.actions).find_map(|action| match action {
            Action::Persist(Record::Banned(record)) => Some(record),
            _ => None,
        });
        let lines = record.expect("it is banned").evidence.expect("by a rule").lines;
        assert!(!lines.is_empty() && lines.iter().all(|line| line.contains("203.0.113.66")), "{lines:?}");
        handle.send(Message::Stop);
        owner.join().expect("the owner ends");
    }

    /// An operator is answered while a backlog is read.
    #[test]
    fn messages_go_before_lines() {
        let (handle, inbox) = Handle::new();
        let (owner, jobs) = owner(inbox);
        let mut batch = Batch::default();
        batch.rejected[Rejected::Malformed as usize] = 1;
        assert!(handle.send_lines(batch));
        let answered = rejected(&handle);
        let owner = std::thread::spawn(move || owner.run());
        assert_eq!(answered.recv(), Ok(0), "the message overtook the lines");
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        while rejected(&handle).recv() == Ok(0) && std::time::Instant::now() < deadline {}
        handle.send(Message::Stop);
        let engine = owner.join().expect("the owner ends");
        assert_eq!(engine.rejected().iter().sum::<u64>(), 1);
        assert!(!handle.send_lines(Batch::default()), "a source notices that the owner has stopped");
        assert!(jobs.iter().count() > 0, "the baseline was saved");
    }
}
