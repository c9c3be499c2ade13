//! Performs the engine's actions in a fixed order: store (committed), enforcers, replies, then the audit log, Slack,
//! webhook and live page.
//!
//! Urgent jobs (those that ban somebody or answer a command) overtake bulk jobs (expiries of 100,000 bans, positions).
//! Serial numbers make that safe, see `engine::ledger` and `queue`.

mod queue;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use self::queue::Queue;
use crate::beat::Beat;
use crate::clock;
use crate::enforce::Slow;
use crate::enforce::interpreter::Interpreter;
use crate::pipeline::{Announce, Handle, Job, Message};
use crate::stages;
use crate::store::writer::Writer;
use shield_engine::action::{Action, Record};

/// The longest sleep. The timer of `recv_timeout` stands still while the machine is suspended, but the store's work is
/// due by the boot clock, which does not.
const MAX_IDLE: Duration = Duration::from_secs(15);
/// The shortest sleep, so that work that cannot make progress does not spin.
const MIN_IDLE: Duration = Duration::from_millis(10);

/// Owns the only connection that writes to the store.
pub(crate) struct Performer {
    pub writer: Writer,
    pub interpreter: Arc<Interpreter>,
    /// Receivers of notices, in order: the notifier (audit log, Slack, webhook) before the live page.
    pub announce: Vec<Announce>,
    /// Receives reports about the store.
    pub owner: Handle,
    /// Records that are not in the database yet, for metrics.
    pub backlog: Arc<AtomicU64>,
    pub beat: Beat,
}

impl Performer {
    /// Runs until every sender of jobs is gone, then performs the queued jobs and closes the store.
    pub(crate) fn run(mut self, jobs: &Receiver<Job>) {
        let mut queue = Queue::default();
        let mut open = true;
        // A disk that hangs is seen here too.
        self.beat.working();
        self.writer.lengthen_log(clock::now());
        while open || !queue.is_empty() {
            self.beat.working();
            if queue.is_empty() {
                open = self.wait(jobs, &mut queue);
            }
            jobs.try_iter().for_each(|job| queue.push(job));
            self.perform(queue.next());
            self.backlog.store(self.writer.backlog() as u64, Ordering::Relaxed);
        }
        if let Err(error) = self.writer.finish(clock::now()) {
            tracing::error!("could not close the store cleanly: {error:#}");
        }
    }

    /// Waits for a job or until the store's own work is due; returns `false` when no more jobs can come.
    fn wait(&mut self, jobs: &Receiver<Job>, queue: &mut Queue) -> bool {
        let now = clock::now();
        if let Some(report) = self.writer.work(now) {
            self.owner.send(Message::Part(report));
        }
        let until_work = Duration::from_millis(self.writer.next_work_ms().saturating_sub(now.boot_ms));
        let pause = until_work.clamp(MIN_IDLE, MAX_IDLE);
        self.beat.resting(pause);
        let received = jobs.recv_timeout(pause);
        self.beat.working();
        match received {
            Ok(job) => queue.push(job),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return false,
        }
        true
    }

    fn perform(&mut self, jobs: Vec<Job>) {
        let (mut records, mut orders, mut notices, mut replies) =
            (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let (mut exempt, mut slowed) = (None, None::<(u64, Vec<Slow>)>);
        for mut job in jobs {
            exempt = job.exempt.take().or(exempt);
            // The newest: an urgent job may have overtaken others.
            slowed = job.slowed.take().into_iter().chain(slowed).max_by_key(|(version, _)| *version);
            for action in job.actions {
                match action {
                    Action::Persist(record) => records.push(record),
                    Action::Enforce(order) => orders.push(order),
                    Action::Announce(notice) => notices.push(notice),
                    Action::Reply(_, reply) => {
                        replies.extend(job.answer.take().map(|answer| (answer, reply)));
                    }
                    Action::VerifyBot { .. } | Action::AskPolicy(_) => {}
                }
            }
        }
        self.commit(records);
        if let Some(networks) = exempt {
            self.interpreter.set_exempt(networks);
        }
        if !orders.is_empty() {
            stages::ordered(&orders);
            self.interpreter.submit(orders);
            // The enforcer's thread was just woken: on a shared processor it runs before this one announces the ban.
            std::thread::yield_now();
        }
        // After the orders: a ban is queued before its client leaves the slow lane.
        if let Some((version, slowed)) = slowed {
            self.interpreter.set_slowed(version, slowed);
        }
        for (answer, reply) in replies {
            // Fails when the client has disconnected.
            let _ = answer.send(reply);
        }
        for notice in &notices {
            self.announce.iter_mut().for_each(|announce| announce(notice));
        }
    }

    /// Commits the records, or holds them until the store works again. A ban that cannot be saved is still enforced: its
    /// end is in the kernel, and the store's state reports that it is not saved.
    fn commit(&mut self, records: Vec<Record>) {
        if records.is_empty() {
            return;
        }
        if let Some(report) = self.writer.commit(records, clock::now()).report {
            self.owner.send(Message::Part(report));
        }
    }
}
