//! The one owner of the engine: a thread that takes events in, calls `Engine::handle`, and passes the actions on.
//!
//! What operators and enforcers say goes before lines, so that the control socket answers while a backlog is read.
//! Lines wait in a short queue whose fullness holds their source back. Nothing here blocks on the store, the kernel
//! or the network; that is `performer`'s business.

use std::net::IpAddr;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::sync::{mpsc, oneshot};

use crate::clock;
use crate::enforce::interpreter::Report;
use crate::host;
use crate::performer::Job;
use crate::source::Pool;
use shield_engine::Engine;
use shield_engine::action::{Action, CommandId, Order, Reply};
use shield_engine::allowlist::Allowed;
use shield_engine::client::Client;
use shield_engine::event::{Command, Event, PartReport};
use shield_engine::request::Batch;
use shield_engine::time::Now;

/// Batches that wait for the engine at most. One is enough for it never to wait, and a batch is a millisecond of work, so
/// that what is said meanwhile is heard soon; more would only push each other out of the processor's cache.
const LINES_QUEUE: usize = 1;
/// The longest time between two ticks.
const TICK_MS: u64 = 1_000;

/// Looks at the engine between two events.
pub(crate) type Look = Box<dyn FnOnce(&Engine, Now) + Send>;

/// Something said to the owner, besides lines.
pub enum Message {
    /// An operator's command; the reply comes once it is committed.
    Command(Command, oneshot::Sender<Reply>),
    /// An enforcer's report.
    Enforcement(Report),
    /// Another part's report.
    Part(PartReport),
    /// What `host::addresses` found.
    HostAddresses(Vec<Allowed>),
    /// DNS answered.
    BotVerified(Client, Verified),
    /// Look at the engine.
    Read(Look),
    /// Save and stop.
    Stop,
}

/// What DNS said about a client that claims to be a search engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verified {
    /// It is one.
    Genuine,
    /// It is not, or nobody knows.
    Unknown,
}

/// Asks DNS about an address and tells the owner.
pub(crate) type Verify = Box<dyn FnMut(Client, IpAddr) + Send>;

/// The sending end of the owner's queues. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    control: mpsc::UnboundedSender<Message>,
    lines: mpsc::Sender<Batch>,
}

impl Handle {
    /// The queues of an owner that is still to be started.
    pub fn new() -> (Handle, Inbox) {
        let (control, control_in) = mpsc::unbounded_channel();
        let (lines, lines_in) = mpsc::channel(LINES_QUEUE);
        (Handle { control, lines }, Inbox { control: control_in, lines: lines_in })
    }

    /// Says something. Never blocks; an owner that has stopped no longer listens.
    pub fn say(&self, message: Message) {
        // Only after the owner stopped, when nothing said matters any more.
        let _ = self.control.send(message);
    }

    /// Hands lines over; waits while the engine is behind. For threads, not for async tasks. `false` when the owner
    /// has stopped.
    pub fn lines(&self, batch: Batch) -> bool {
        self.lines.blocking_send(batch).is_ok()
    }

    /// Looks at the engine between two events.
    ///
    /// # Errors
    /// When the owner has stopped.
    pub async fn read<T: Send + 'static>(
        &self,
        look: impl FnOnce(&Engine, Now) -> T + Send + 'static,
    ) -> Result<T> {
        let (answer, answered) = oneshot::channel();
        self.say(Message::Read(Box::new(move |engine, now| {
            // The asker may have gone away.
            let _ = answer.send(look(engine, now));
        })));
        answered.await.context("the engine has stopped")
    }

    /// Carries a command out and returns its reply.
    ///
    /// # Errors
    /// When the owner has stopped.
    pub async fn command(&self, command: Command) -> Result<Reply> {
        let (answer, answered) = oneshot::channel();
        self.say(Message::Command(command, answer));
        answered.await.context("the engine has stopped")
    }
}

/// The receiving ends.
pub struct Inbox {
    control: mpsc::UnboundedReceiver<Message>,
    lines: mpsc::Receiver<Batch>,
}

/// Wakes a thread that waits for what it polled.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// The owner's state.
pub struct Owner {
    engine: Engine,
    inbox: Inbox,
    perform: std::sync::mpsc::Sender<Job>,
    verify: Verify,
    pool: Pool,
    next_command: u64,
}

impl Owner {
    /// An owner of `engine`; actions go to `perform`, questions to DNS by `verify`, used batches to `pool`.
    pub fn new(
        engine: Engine,
        inbox: Inbox,
        perform: std::sync::mpsc::Sender<Job>,
        verify: Verify,
        pool: Pool,
    ) -> Owner {
        Owner { engine, inbox, perform, verify, pool, next_command: 1 }
    }

    /// Passes actions on that were made before the owner ran (restoring).
    pub fn pass_on(&mut self, actions: Vec<Action>) {
        self.perform(actions, None);
    }

    /// Runs until told to stop, on the calling thread. Returns the engine.
    pub fn run(mut self) -> Engine {
        self.follow();
        let actions = self.engine.save(clock::now());
        self.perform(actions, None);
        self.engine
    }

    /// Sleeps on the thread itself, not on a runtime's timer: that one wakes up more than once for a long wait.
    fn follow(&mut self) {
        let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
        let mut context = Context::from_waker(&waker);
        let mut tick_at = clock::now().boot_ms;
        loop {
            match self.inbox.control.poll_recv(&mut context) {
                Poll::Ready(None | Some(Message::Stop)) => return,
                Poll::Ready(Some(message)) => {
                    self.on_message(message);
                    continue;
                }
                Poll::Pending => {}
            }
            let now = clock::now();
            if now.boot_ms >= tick_at {
                let actions = self.engine.handle(Event::Tick, now);
                self.perform(actions, None);
                tick_at = self.next_tick(now);
                continue;
            }
            if let Poll::Ready(Some(batch)) = self.inbox.lines.poll_recv(&mut context) {
                let actions = self.engine.handle(Event::Lines(&batch), now);
                self.pool.give(batch);
                self.perform(actions, None);
                tick_at = tick_at.min(self.next_tick(clock::now()));
                continue;
            }
            std::thread::park_timeout(Duration::from_millis(tick_at - now.boot_ms));
        }
    }

    /// The next whole second, or the moment at which a ban ends, whichever comes first.
    fn next_tick(&self, now: Now) -> u64 {
        let second = (now.boot_ms / TICK_MS + 1) * TICK_MS;
        self.engine.next_deadline().map_or(second, |deadline| second.min(deadline.max(now.boot_ms)))
    }

    fn on_message(&mut self, message: Message) {
        let now = clock::now();
        let actions = match message {
            Message::Command(command, answer) => {
                let id = CommandId(self.next_command);
                self.next_command += 1;
                let actions = self.engine.handle(Event::Command(id, command), now);
                return self.perform(actions, Some(answer));
            }
            Message::Enforcement(Report::Outcome(outcome)) => {
                self.engine.handle(Event::Outcome(outcome), now)
            }
            Message::Enforcement(Report::Part(report)) | Message::Part(report) => {
                self.engine.handle(Event::Part(report), now)
            }
            Message::Enforcement(Report::Activity { client, serial, packets }) => {
                self.engine.handle(Event::Activity { client, serial, packets }, now)
            }
            Message::HostAddresses(entries) => {
                self.engine.handle(Event::HostAddresses { reasons: &host::REASONS, entries }, now)
            }
            Message::BotVerified(client, verified) => {
                let genuine = verified == Verified::Genuine;
                self.engine.handle(Event::BotVerified { client, genuine }, now)
            }
            Message::Read(look) => return look(&self.engine, now),
            Message::Stop => return,
        };
        self.perform(actions, None);
    }

    fn perform(&mut self, actions: Vec<Action>, answer: Option<oneshot::Sender<Reply>>) {
        if actions.is_empty() {
            return;
        }
        for action in &actions {
            if let Action::VerifyBot { client, addr } = action {
                (self.verify)(*client, *addr);
            }
        }
        let stale = actions.iter().any(|action| matches!(action, Action::Enforce(Order::AllowlistChanged)));
        let exempt = stale.then(|| self.engine.allowlist().exempt_networks());
        // The performer outlives the owner: it is stopped after it.
        let _ = self.perform.send(Job { actions, exempt, answer });
    }
}
