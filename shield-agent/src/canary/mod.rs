//! A canary: a second engine under another configuration, on the very lines that the live engine judges, without effects.
//!
//! The live engine's owner hands each used batch on instead of putting it back ([`Tap`]): nothing is copied, and nothing waits. The
//! queue is bounded; when the canary cannot keep up, batches are left out, counted, and its result is incomplete. `run` is the
//! thread, `compare` what both engines decided about whom, `site` how the site does meanwhile. Whether the `figures` allow a promotion is
//! the rules' business: `crate::policy::promote`.

mod compare;
pub(crate) mod figures;
mod run;
mod site;

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use anyhow::{Context, Result};

use self::compare::Compare;
use self::figures::Figures;
use self::run::Runner;
use self::site::Site;
use crate::api::priority;
use crate::api::types::{CanaryReport, CanaryState};
use crate::config::{Config, keys};
use crate::latencies::{FAST, Histogram};
use crate::pipeline::{Handle, Message};
use crate::source::Pool;
use shield_engine::Engine;
use shield_engine::action::Notice;
use shield_engine::allowlist::{AllowReason, Allowed, Allowlist};
use shield_engine::event::Command;
use shield_engine::policy::Switch;
use shield_engine::request::{Batch, Line};
use shield_engine::settings::{RulesSettings, Settings};
use shield_engine::time::Now;

/// What waits for the canary at most. A live batch may be a single line, and one of a backlog some hundred kilobytes, so that both
/// are bounded.
const QUEUED: usize = 8_192;
const QUEUED_BYTES: usize = 64 << 20;

/// What the canary's engine is fed, in the order in which the live engine was.
enum Fed {
    /// With the moment of their delivery by their source.
    Lines(Box<Batch>, Now, Instant),
    Tick(Now),
    HostAddresses(Vec<Allowed>, Now),
    Command(Command, Now),
}

/// The live engine's end: everything here is a few atomic steps and never waits.
pub struct Tap {
    queue: SyncSender<Fed>,
    run: Arc<Run>,
}

impl Tap {
    /// Takes a batch that the live engine has judged; gives it back when the canary cannot take it.
    pub(crate) fn lines(&self, batch: Batch, now: Now, delivered: Instant) -> Option<Batch> {
        let (lines, bytes) = (batch.lines.len() as u64, bytes_of(&batch));
        self.run.live_verdicts.note(delivered.elapsed(), lines);
        let waiting = self.run.queued_bytes.fetch_add(bytes, Ordering::Relaxed);
        if waiting + bytes > QUEUED_BYTES {
            self.run.left_out(lines, bytes);
            return Some(batch);
        }
        match self.queue.try_send(Fed::Lines(Box::new(batch), now, delivered)) {
            Ok(()) => None,
            Err(TrySendError::Full(fed) | TrySendError::Disconnected(fed)) => {
                self.run.left_out(lines, bytes);
                let Fed::Lines(batch, ..) = fed else { return None };
                Some(*batch)
            }
        }
    }

    /// One that is left out is made up for by the next.
    pub(crate) fn tick(&self, now: Now) {
        let _ = self.queue.try_send(Fed::Tick(now));
    }

    pub(crate) fn host_addresses(&self, entries: &[Allowed], now: Now) {
        self.or_incomplete(Fed::HostAddresses(entries.to_vec(), now));
    }

    /// What an operator does holds for both engines. Lists are left out: they are no rule's bans.
    pub(crate) fn command(&self, command: &Command, now: Now) {
        if matches!(command, Command::Allow { .. } | Command::Disallow { .. } | Command::Unban { .. }) {
            self.or_incomplete(Fed::Command(command.clone(), now));
        }
    }

    fn or_incomplete(&self, fed: Fed) {
        if self.queue.try_send(fed).is_err() {
            self.run.missed.store(true, Ordering::Relaxed);
        }
    }
}

/// The memory that a batch holds, of which its lines may be little.
fn bytes_of(batch: &Batch) -> usize {
    batch.bytes.capacity() + batch.lines.capacity() * size_of::<Line>()
}

/// A canary that runs, or has ended and can still be looked at.
pub(crate) struct Run {
    /// The name of the file it came from, and its text.
    name: String,
    text: String,
    /// The hash of the configuration file that it would replace.
    base: String,
    started_ms: i64,
    stop: AtomicBool,
    failed: AtomicBool,
    /// Something other than lines did not fit into the queue.
    missed: AtomicBool,
    lines: AtomicU64,
    lost_lines: AtomicU64,
    /// The memory of the batches that wait.
    queued_bytes: AtomicUsize,
    /// Of its thread, judging.
    busy_ns: AtomicU64,
    /// The latest moment that it was fed, on the wall clock.
    seen_ms: AtomicU64,
    /// As its engine has them now.
    clients: AtomicU64,
    client_bytes: AtomicU64,
    compare: Mutex<Compare>,
    /// From the delivery of lines to their verdicts here and in the live engine.
    verdicts: Histogram,
    live_verdicts: Histogram,
    site: Site,
}

/// What a canary is started with.
pub(crate) struct Start {
    pub name: String,
    pub text: String,
    pub base: String,
    /// The live engine's configuration.
    pub in_force: Arc<Config>,
    /// The learned baseline, as it was last stored.
    pub baseline: Option<Vec<u8>>,
    /// The live engine's allowlist.
    pub allowed: Vec<Allowed>,
    pub now: Now,
}

/// What would be promoted.
pub(crate) struct Candidate {
    pub started_ms: i64,
    pub text: String,
    /// The hash of what it would replace.
    pub base: String,
}

/// The canary of an agent: at most one. A clone is the same.
#[derive(Clone, Default)]
pub(crate) struct Canary(Arc<Mutex<Option<Arc<Run>>>>);

impl Canary {
    /// Starts one in place of the last.
    ///
    /// # Errors
    /// When the configuration is wrong, one runs already, or its thread cannot be started.
    pub(crate) fn start(&self, start: Start, owner: &Handle, pool: Pool) -> Result<()> {
        let mut slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        anyhow::ensure!(
            slot.as_ref().is_none_or(|run| run.state() != CanaryState::Running),
            "a canary runs already: `shield-agent canary abort` ends it"
        );
        let wanted = Config::parse(&start.text).with_context(|| format!("could not use {}", start.name))?;
        // What needs a restart is not tried, and would not change with a promotion either.
        let config = keys::in_force(&start.in_force, wanted);
        let engine = engine(&config, &start)?;
        let run = Arc::new(Run::new(start.name, start.text, start.base, start.now));
        let (queue, fed) = sync_channel(QUEUED);
        let runner = Runner::new(engine, Arc::clone(&run), pool, owner.clone());
        let thread = std::thread::Builder::new().name("canary".to_owned());
        thread
            .spawn(move || {
                // The machine is the live engine's first.
                priority::give_way();
                runner.run(&fed);
            })
            .context("could not start the canary's thread")?;
        owner.send(Message::Canary(Some(Box::new(Tap { queue, run: Arc::clone(&run) }))));
        *slot = Some(run);
        Ok(())
    }

    /// Ends it. What it found can be looked at until the next one. Returns `false` when none runs.
    pub(crate) fn abort(&self, owner: &Handle) -> bool {
        let slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(run) = slot.as_ref().filter(|run| run.state() == CanaryState::Running) else { return false };
        run.stop.store(true, Ordering::Relaxed);
        owner.send(Message::Canary(None));
        true
    }

    pub(crate) fn is_running(&self) -> bool {
        self.current().is_some_and(|run| run.state() == CanaryState::Running)
    }

    /// Hears what the live engine decides; on the performer's thread.
    pub(crate) fn hear(&self, notice: &Notice, now: Now) {
        if let Some(run) = self.current().filter(|run| run.state() == CanaryState::Running) {
            run.compare().live(notice, now.wall_ms);
        }
    }

    /// What it found so far, without what the rules say of it.
    pub(crate) fn report(&self) -> CanaryReport {
        self.current().map_or_else(CanaryReport::default, |run| run.report())
    }

    pub(crate) fn candidate(&self) -> Option<Candidate> {
        let run = self.current()?;
        Some(Candidate { started_ms: run.started_ms, text: run.text.clone(), base: run.base.clone() })
    }

    fn current(&self) -> Option<Arc<Run>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// An engine that has learned what the live one had, and reaches nobody: it has no enforcers, and its actions go nowhere.
fn engine(config: &Config, start: &Start) -> Result<Engine> {
    // The operators' own rules are not asked twice about one client: what is compared is the detection.
    let rules = RulesSettings { switch: Switch::Off, ..config.engine.rules };
    let records_progress = Switch::Off;
    let settings = Settings { enforcers: Vec::new(), rules, records_progress, ..config.engine.clone() };
    let is_of_the_file = |entry: &&Allowed| {
        use AllowReason::{Cdn, Configured, Private, TrustedProxy};
        matches!(entry.reason, Configured | TrustedProxy | Cdn | Private)
    };
    let others = start.allowed.iter().filter(|entry| !is_of_the_file(entry));
    let allowed = config.allow.iter().chain(&config.infrastructure).chain(others).copied();
    let seed = u64::from_ne_bytes(crate::random::bytes()?);
    let mut engine = Engine::new(settings, config.policy.clone(), Allowlist::new(allowed), 1, seed);
    if let Some(saved) = &start.baseline
        && let Err(error) = engine.restore_baseline(saved)
    {
        tracing::warn!("the canary begins without what was learned: {error}");
    }
    Ok(engine)
}

impl Run {
    fn new(name: String, text: String, base: String, now: Now) -> Run {
        Run {
            name,
            text,
            base,
            started_ms: now.wall_ms,
            stop: AtomicBool::new(false),
            failed: AtomicBool::new(false),
            missed: AtomicBool::new(false),
            lines: AtomicU64::new(0),
            lost_lines: AtomicU64::new(0),
            queued_bytes: AtomicUsize::new(0),
            busy_ns: AtomicU64::new(0),
            seen_ms: AtomicU64::new(now.wall_ms.unsigned_abs()),
            clients: AtomicU64::new(0),
            client_bytes: AtomicU64::new(0),
            compare: Mutex::default(),
            verdicts: Histogram::new(&FAST),
            live_verdicts: Histogram::new(&FAST),
            site: Site::default(),
        }
    }

    fn left_out(&self, lines: u64, bytes: usize) {
        self.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.lost_lines.fetch_add(lines, Ordering::Relaxed);
    }

    fn compare(&self) -> std::sync::MutexGuard<'_, Compare> {
        self.compare.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn state(&self) -> CanaryState {
        if self.failed.load(Ordering::Relaxed) {
            CanaryState::Failed
        } else if self.stop.load(Ordering::Relaxed) {
            CanaryState::Ended
        } else {
            CanaryState::Running
        }
    }

    fn report(&self) -> CanaryReport {
        let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let seen_ms = i64::try_from(load(&self.seen_ms)).unwrap_or(i64::MAX);
        let compare = self.compare();
        let figures = Figures {
            observed_secs: (seen_ms - self.started_ms).max(0).unsigned_abs() / 1000,
            lines: load(&self.lines),
            lost_lines: load(&self.lost_lines),
            is_whole: load(&self.lost_lines) == 0
                && !self.missed.load(Ordering::Relaxed)
                && compare.is_whole(),
            clients: load(&self.clients).max(compare.canary_bans()),
            verdict_p99_us: p99(&self.verdicts),
            live_verdict_p99_us: p99(&self.live_verdicts),
            site: self.site.figures(),
            ..compare.figures()
        };
        let ns_per_line = load(&self.busy_ns).checked_div(figures.lines).unwrap_or(0);
        CanaryReport {
            state: self.state(),
            name: Some(self.name.clone()),
            started_ms: Some(self.started_ms),
            figures,
            ns_per_line,
            client_bytes: load(&self.client_bytes),
            differing: compare.differing(),
            ..CanaryReport::default()
        }
    }
}

fn p99(verdicts: &Histogram) -> Option<u64> {
    verdicts.at_most(0.99).map(|took| took.as_micros() as u64)
}

#[cfg(test)]
mod tests;
