//! The one interpreter of the engine's actions: store (committed) -> enforcers -> audit, Slack, webhook, live page.
//!
//! Jobs that tell the kernel to drop somebody, and commands that somebody waits for, overtake the bulk (expiries of
//! 100,000 bans, positions, lifted outcomes): serial numbers make that safe, see `engine::ledger` and `queue`.

mod queue;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use ipnet::IpNet;
use tokio::sync::oneshot;

use self::queue::Queue;
use crate::clock;
use crate::enforce::interpreter::Interpreter;
use crate::owner::{Handle, Message};
use crate::store::writer::Writer;
use shield_engine::action::{Action, Notice, Record, Reply};

/// How long the performer sleeps at most when there is nothing to do: its timer stands still while the machine sleeps,
/// and the clock that the store's work is due by does not.
const IDLE: Duration = Duration::from_secs(15);

/// The actions of one event, with what belongs to them.
pub struct Job {
    /// What to do, in order.
    pub actions: Vec<Action>,
    /// The networks that must get through, when the allowlist changed.
    pub exempt: Option<Vec<IpNet>>,
    /// Who waits for the reply.
    pub answer: Option<oneshot::Sender<Reply>>,
}

/// Takes a notice to people. Never blocks for long: queues are bounded and full ones are counted, not waited for.
pub(crate) type Announce = Box<dyn FnMut(&Notice) + Send>;

/// Performs actions. Owns the store's writing end and the notifier.
pub(crate) struct Performer {
    /// The store's writing end.
    pub writer: Writer,
    /// Told what to drop.
    pub interpreter: Arc<Interpreter>,
    /// Whom notices go to, in order: the audit log first, then Slack and webhook, the live page.
    pub announce: Vec<Announce>,
    /// Where the store's own state is reported.
    pub owner: Handle,
    /// Set to how many records are not in the database yet, for metrics.
    pub backlog: Arc<AtomicU64>,
}

impl Performer {
    /// Runs until every sender of jobs is gone, then finishes what is queued and closes the store.
    pub(crate) fn run(mut self, jobs: &Receiver<Job>) {
        let mut queue = Queue::default();
        let mut open = true;
        while open || !queue.is_empty() {
            if queue.is_empty() {
                open = self.wait(jobs, &mut queue);
            }
            jobs.try_iter().for_each(|job| queue.put(job));
            self.perform(queue.next());
            self.backlog.store(self.writer.backlog() as u64, Ordering::Relaxed);
        }
        if let Err(error) = self.writer.finish(clock::now()) {
            tracing::error!("the store was not closed cleanly: {error:#}");
        }
    }

    /// Waits for a job or until the store has work of its own; `false` when no more jobs can come.
    fn wait(&mut self, jobs: &Receiver<Job>, queue: &mut Queue) -> bool {
        let now = clock::now();
        if let Some(report) = self.writer.work(now) {
            self.owner.say(Message::Part(report));
        }
        let until_work = Duration::from_millis(self.writer.next_work_ms().saturating_sub(now.boot_ms));
        match jobs.recv_timeout(IDLE.min(until_work.max(Duration::from_millis(10)))) {
            Ok(job) => queue.put(job),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return false,
        }
        true
    }

    fn perform(&mut self, jobs: Vec<Job>) {
        let (mut records, mut orders, mut notices, mut replies) =
            (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut exempt = None;
        for mut job in jobs {
            exempt = job.exempt.take().or(exempt);
            for action in job.actions {
                match action {
                    Action::Persist(record) => records.push(record),
                    Action::Enforce(order) => orders.push(order),
                    Action::Announce(notice) => notices.push(notice),
                    Action::Reply(_, reply) => {
                        replies.extend(job.answer.take().map(|answer| (answer, reply)));
                    }
                    Action::VerifyBot { .. } => {}
                }
            }
        }
        self.commit(records);
        if let Some(networks) = exempt {
            self.interpreter.set_exempt(networks);
        }
        if !orders.is_empty() {
            self.interpreter.submit(orders);
            // Who was just woken to drop somebody goes before people are told of it, also where both share a processor.
            std::thread::yield_now();
        }
        for (answer, reply) in replies {
            // Whoever asked may have gone away.
            let _ = answer.send(reply);
        }
        for notice in &notices {
            self.announce.iter_mut().for_each(|announce| announce(notice));
        }
    }

    /// Commits, or keeps the records until the store works again: a ban that cannot be saved is still enforced, its
    /// end is in the kernel, and the store's state says that it is not saved.
    fn commit(&mut self, records: Vec<Record>) {
        if records.is_empty() {
            return;
        }
        if let Some(report) = self.writer.commit(records, clock::now()).report {
            self.owner.say(Message::Part(report));
        }
    }
}
