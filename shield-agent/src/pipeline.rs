//! What the threads of the pipeline exchange: sources and the API send to the owner of the engine, the owner sends jobs
//! to the performer, both threads and the enforcers report back to the owner.
//!
//! Only data and sending ends live here, so that `owner` and `performer` need not know each other.

use std::net::IpAddr;
use std::time::Instant;

use anyhow::{Context as _, Result};
use ipnet::IpNet;
use tokio::sync::{mpsc, oneshot};

use crate::canary::Tap;
use crate::enforce::Slow;
use crate::enforce::interpreter::Report;
use shield_engine::Engine;
use shield_engine::action::{Action, Change, Notice, Reloaded, Reply};
use shield_engine::allowlist::Allowed;
use shield_engine::client::Client;
use shield_engine::event::{Command, PartReport};
use shield_engine::operator_rules::PolicyAnswer;
use shield_engine::origin::Remote;
use shield_engine::reconfigure::NewSettings;
use shield_engine::request::Batch;
use shield_engine::time::Now;

/// Batches in the queue of lines. One is enough to keep the engine busy, and a batch is a millisecond of work, so that
/// control messages are handled soon. A longer queue would only evict its own batches from the processor's cache.
const QUEUED_BATCHES: usize = 1;

/// A query that runs on the owner's thread, between two events.
pub(crate) type EngineQuery = Box<dyn FnOnce(&Engine, Now) + Send>;

/// Everything that is sent to the owner except lines.
pub enum Message {
    /// An operator's command. The reply is sent once its effects are committed.
    Command(Command, oneshot::Sender<Reply>),
    /// An enforcer's report.
    Enforcement(Report),
    /// Another part's report.
    Part(PartReport),
    /// The entries that `host::addresses` found.
    HostAddresses(Vec<Allowed>),
    /// The result of a DNS verification.
    BotVerified(Client, Verified),
    /// What the operators' own rules say.
    Policy(Vec<PolicyAnswer>),
    /// What other hosts say.
    Remote(Remote),
    /// Other settings.
    NewSettings(Box<NewSettings>),
    /// A new configuration has taken effect.
    Reloaded(Reloaded),
    /// A change of this host was tried.
    Change(Change),
    /// From now on a canary is fed what the engine is; `None` ends that.
    Canary(Option<Box<Tap>>),
    /// A query of the agent's own, which goes before lines.
    Query(EngineQuery),
    /// Save and stop.
    Stop,
}

/// The DNS verification of a client that claims to be a search engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verified {
    /// Its name and its address belong together and to a known search engine.
    Genuine,
    /// They do not, or DNS did not answer.
    Unknown,
}

/// Starts a DNS verification; the result reaches the owner as [`Message::BotVerified`].
pub(crate) type Verify = Box<dyn FnMut(Client, IpAddr) + Send>;

/// Delivers a notice to the audit log, to operators, or to the page. Must not block: receivers have bounded queues that
/// count what they drop.
pub(crate) type Announce = Box<dyn FnMut(&Notice) + Send>;

/// The actions of one event and what goes with them.
pub struct Job {
    /// In the order in which they take effect.
    pub actions: Vec<Action>,
    /// The allowlist's networks, when the event changed them.
    pub exempt: Option<Vec<IpNet>>,
    /// The slow lane with its version, when the event changed it.
    pub slowed: Option<(u64, Vec<Slow>)>,
    /// Receives the reply to the command that caused the event.
    pub answer: Option<oneshot::Sender<Reply>>,
}

/// The sending end of the owner's queues. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    control: mpsc::UnboundedSender<Message>,
    lines: mpsc::Sender<(Batch, Instant)>,
    looks: mpsc::UnboundedSender<EngineQuery>,
}

/// The receiving end of the owner's queues.
pub struct Inbox {
    pub(crate) control: mpsc::UnboundedReceiver<Message>,
    /// Each with the moment at which it was delivered.
    pub(crate) lines: mpsc::Receiver<(Batch, Instant)>,
    pub(crate) looks: mpsc::UnboundedReceiver<EngineQuery>,
}

impl Handle {
    /// The two ends of the queues of an owner that is still to be started.
    pub fn new() -> (Handle, Inbox) {
        let (control, control_in) = mpsc::unbounded_channel();
        let (lines, lines_in) = mpsc::channel(QUEUED_BATCHES);
        let (looks, looks_in) = mpsc::unbounded_channel();
        (Handle { control, lines, looks }, Inbox { control: control_in, lines: lines_in, looks: looks_in })
    }

    /// Sends a message. Never blocks.
    pub fn send(&self, message: Message) {
        // Fails only after the owner has stopped, when no message matters any more.
        let _ = self.control.send(message);
    }

    /// Sends lines, and blocks while the engine is behind: that holds the source back instead of filling memory. For
    /// threads, not for async tasks. Returns `false` when the owner has stopped.
    pub fn send_lines(&self, batch: Batch) -> bool {
        self.lines.blocking_send((batch, Instant::now())).is_ok()
    }

    /// Looks at the engine on behalf of somebody who asked from outside. The owner comes to it once lines had their turn, and
    /// gives all looks together a bounded part of its time. Keep one far below a millisecond, and split what takes longer.
    ///
    /// # Errors
    /// When the owner has stopped.
    pub(crate) async fn look<T: Send + 'static>(
        &self,
        look: impl FnOnce(&Engine, Now) -> T + Send + 'static,
    ) -> Result<T> {
        let (answer, answered) = oneshot::channel();
        // Fails only after the owner has stopped, which the answer says.
        let _ = self.looks.send(Box::new(move |engine, now| {
            // Nobody waits for the answer of a request that was given up.
            if !answer.is_closed() {
                let _ = answer.send(look(engine, now));
            }
        }));
        answered.await.context("could not look at the engine: it has stopped")
    }

    /// As [`Handle::look`], and nobody waits.
    pub(crate) fn look_soon(&self, look: EngineQuery) {
        // Fails only after the owner has stopped, when there is nothing to look at any more.
        let _ = self.looks.send(look);
    }

    /// Runs `query` on the owner's thread, between two events and before lines: for the agent itself, never for a request.
    ///
    /// # Errors
    /// When the owner has stopped.
    pub async fn query<T: Send + 'static>(
        &self,
        query: impl FnOnce(&Engine, Now) -> T + Send + 'static,
    ) -> Result<T> {
        let (answer, answered) = oneshot::channel();
        self.send(Message::Query(Box::new(move |engine, now| {
            // Fails when the caller was cancelled.
            let _ = answer.send(query(engine, now));
        })));
        answered.await.context("could not query the engine: it has stopped")
    }

    /// Carries out a command and returns its reply.
    ///
    /// # Errors
    /// When the owner has stopped.
    pub async fn command(&self, command: Command) -> Result<Reply> {
        let (answer, answered) = oneshot::channel();
        self.send(Message::Command(command, answer));
        answered.await.context("could not carry out the command: the engine has stopped")
    }
}
