//! Takes part in a fleet over NATS JetStream: what this host bans is told to the others, and what they ban is handed to the
//! engine, which decides what it is worth. `docs/fleet.md` has the picture and the security model.
//!
//! On a task of its own: a ban here is in force before anybody is told, and nothing here is waited for. `session` is one
//! connection, `outbox` what there is to tell, `message` the form of it.

pub(crate) mod init;
mod message;
mod outbox;
mod publish;
#[cfg(test)]
mod relay;
mod session;
pub(crate) mod settings;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::FutureExt as _;

use self::outbox::Outbox;
pub(crate) use self::settings::Settings;
use self::settings::{FIRST_PAUSE, LONGEST_PAUSE, REACHED_PAUSE};
use crate::beat::panic_text;
use crate::notify::Report;
use crate::own_bans::{self, Changes};
use crate::pipeline::{Announce, Handle};
use crate::random;
use crate::text;
use shield_engine::client::Client;
use shield_engine::event::{PartReport, PartState};

/// The part's name.
pub(crate) const PART: &str = "fleet";
/// A connection that held for this long was a good one: the next is tried soon.
const GOOD: Duration = Duration::from_secs(60);
/// Grounds remembered, for rounds.
const WHYS: usize = 100_000;

/// The numbers of a running task, for status and metrics.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Numbers {
    pub is_connected: bool,
    /// The server's name.
    pub server: String,
    /// Own bans in force.
    pub own: u64,
    /// Of these, and of lifts, what the server does not have yet.
    pub waiting: u64,
    /// Statements of other hosts, since the start.
    pub heard: u64,
    /// Messages that a newer Shield wrote.
    pub newer: u64,
    /// Messages that are none of a fleet's.
    pub unread: u64,
}

pub(crate) type Shown = Arc<Mutex<Numbers>>;

/// The two ends of a fleet's task.
pub(crate) struct Joined {
    /// Hears the agent's notices.
    pub announce: Announce,
    pub task: Fleet,
    pub shown: Shown,
    /// This host's name in it.
    pub name: String,
}

pub(crate) struct Fleet {
    settings: Settings,
    owner: Handle,
    changes: Changes,
    outbox: Outbox,
    /// The grounds of own bans, which the ledger does not keep.
    whys: HashMap<Client, String>,
    shown: Shown,
    report: Report,
    told: Option<PartState>,
    refused: String,
    /// Whether the last try got as far as a server.
    is_reached: bool,
}

/// Joins a fleet: the task is to be spawned as [`Fleet::run`].
pub(crate) fn join(settings: Settings, owner: Handle, report: Report) -> Joined {
    let (announce, changes) = own_bans::listen();
    let chance = random::bytes().map_or(1, u64::from_ne_bytes);
    let shown = Shown::default();
    let name = settings.name.clone();
    let task = Fleet {
        outbox: Outbox::new(&settings.name, chance),
        settings,
        owner,
        changes,
        whys: HashMap::new(),
        shown: Arc::clone(&shown),
        report,
        told: None,
        refused: String::new(),
        is_reached: false,
    };
    Joined { announce, task, shown, name }
}

impl Fleet {
    /// Runs until it is aborted.
    pub(crate) async fn run(mut self) {
        let mut pause = FIRST_PAUSE;
        loop {
            let begin = Instant::now();
            let work = AssertUnwindSafe(session::run(&mut self)).catch_unwind().await;
            let reason = match work {
                Ok(Ok(())) => {
                    pause = FIRST_PAUSE;
                    tokio::time::sleep(jitter(pause)).await;
                    continue;
                }
                Ok(Err(error)) => text::retrying(format!("{error:#}")),
                Err(payload) => text::health::restarted(panic_text(&*payload), pause.as_secs()),
            };
            self.shown(|shown| shown.is_connected = false);
            self.tell(PartState::Degraded { reason });
            pause = next_pause(pause, begin.elapsed(), self.is_reached);
            tokio::time::sleep(jitter(pause)).await;
        }
    }

    fn tell(&mut self, state: PartState) {
        let (own, waiting) = (self.outbox.len() as u64, self.outbox.waiting() as u64);
        self.shown(|shown| (shown.own, shown.waiting) = (own, waiting));
        if self.told.as_ref() != Some(&state) {
            (self.report)(PartReport { part: PART.to_owned(), state: state.clone(), repaired: None });
            self.told = Some(state);
        }
    }

    fn shown(&self, change: impl FnOnce(&mut Numbers)) {
        change(&mut self.shown.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn is_connected(&self) -> bool {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner).is_connected
    }

    /// Remembers the grounds of a ban.
    fn remember(&mut self, client: Client, why: &str) {
        if self.whys.len() < WHYS || self.whys.contains_key(&client) {
            self.whys.insert(client, why.to_owned());
        }
    }
}

/// The pause after a try that followed this one and lasted for so long.
fn next_pause(pause: Duration, lasted: Duration, is_reached: bool) -> Duration {
    let longest = if is_reached { REACHED_PAUSE } else { LONGEST_PAUSE };
    if lasted > GOOD { FIRST_PAUSE } else { (pause * 2).min(longest) }
}

/// A pause between half and all of the longest, by chance, so that a fleet's hosts do not come back at once.
fn jitter(longest: Duration) -> Duration {
    let chance = random::bytes().map_or(0, u16::from_ne_bytes);
    longest.div_f64(2.0) + longest.div_f64(2.0).mul_f64(f64::from(chance) / f64::from(u16::MAX))
}
