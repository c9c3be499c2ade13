//! Sources of lines (files, nginx's syslog datagrams, standard input), read into batches of requests.
//!
//! Every source has a thread of its own, because it waits in system calls. [`Prepared::start`] is the entry point. `file`
//! follows files through rotation and restarts, `stream` and `pipe` read what is in no file (`senders` says whose datagrams are believed), `unpack` packed files, `watch` and
//! `wake` decide when to read, `lag` when a source is too far behind, `sight` whether what is read can be used, `change` hands
//! other settings to a running source; the crate `shield-logline` parses the lines. Nothing here depends on what the
//! requests are for.

mod change;
pub(crate) mod file;
mod lag;
mod limit;
mod pipe;
pub(crate) mod pool;
mod run;
mod senders;
pub(crate) mod sight;
pub(crate) mod stats;
mod stream;
#[cfg(test)]
mod tests;
pub(crate) mod unpack;
mod wake;
mod watch;

use std::ops::ControlFlow;
use std::sync::Arc;
use std::thread::JoinHandle;

use anyhow::Context;
use ipnet::IpNet;

use file::claims::Claims;
pub(crate) use file::{FileId, Place};
pub(crate) use pool::Pool;
pub(crate) use stats::Stats;
pub(crate) use stream::Listener;

use change::Changes;
use lag::Lag;
pub(crate) use run::From;
use tokio::sync::oneshot;

use crate::beat::{Beats, Limits};
use crate::clock;
use shield_engine::event::PartReport;
use shield_engine::request::{Batch, Checkpoint, SourceId};
use sight::Sights;
use wake::Wake;

/// One configured source.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// The text of the configuration (`/var/log/nginx/access.log`). Checkpoints are stored under it, so it must not change
    /// between two runs.
    pub name: String,
    /// Its kind and place.
    pub input: Input,
    /// The format of its lines.
    pub format: shield_logline::Settings,
    /// The place to begin in a file without a checkpoint.
    pub first_start: FirstStart,
    /// Networks that the operator knows: all lines coming from one client of these is no fault.
    pub known: Vec<IpNet>,
}

#[cfg(any(test, feature = "test-support"))]
impl Settings {
    /// Returns the settings of the log, pattern or folder `text`, everything else at its default.
    pub fn of_files(text: &str) -> Settings {
        Settings {
            name: text.to_owned(),
            input: Input::Files(text.to_owned()),
            format: shield_logline::Settings::default(),
            first_start: FirstStart::End,
            known: Vec::new(),
        }
    }
}

/// The kind of a source, and its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// A log, a pattern of logs (`/var/log/nginx/*.access.log`), or a folder of logs.
    Files(String),
    /// A Unix socket that nginx sends lines to: `access_log syslog:server=unix:PATH`.
    Syslog(Listener),
    /// Standard input, read to its end.
    Stdin,
}

/// The place to begin in a file that existed before the agent first read it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum FirstStart {
    /// At its end.
    #[default]
    End,
    /// At its beginning (`--from-start`).
    Beginning,
    /// At the lines of the last `secs` seconds (`catch_up`), by the log's own times.
    CatchUp {
        /// Seconds before now.
        secs: u32,
    },
}

/// Takes a batch. Blocks while there is no room for it, which holds the source back; `Break` stops the source.
///
/// Used batches should be given back to the [`Pool`].
pub trait Deliver: FnMut(Batch) -> ControlFlow<()> + Send + 'static {}
impl<F: FnMut(Batch) -> ControlFlow<()> + Send + 'static> Deliver for F {}

/// Takes reports of state changes. Must not block for long, because the source does not read meanwhile.
pub trait Report: FnMut(PartReport) + Send + 'static {}
impl<F: FnMut(PartReport) + Send + 'static> Report for F {}

/// The configured sources before their threads start: their counters can be handed out first.
#[derive(Debug)]
pub struct Prepared {
    sources: Vec<(Settings, Arc<Stats>)>,
    beats: Beats,
}

impl Prepared {
    /// Makes the counters of every source.
    pub fn new(settings: Vec<Settings>) -> Prepared {
        let with_stats = |settings: Settings| {
            let stats = Arc::new(Stats::new(&settings.name, &settings.input));
            (settings, stats)
        };
        Prepared { sources: settings.into_iter().map(with_stats).collect(), beats: Beats::default() }
    }

    /// Has the sources' threads watched.
    pub(crate) fn watched(self, beats: Beats) -> Prepared {
        Prepared { beats, ..self }
    }

    /// Returns every source's counters, in the order of the settings.
    pub fn stats(&self) -> Vec<Arc<Stats>> {
        self.sources.iter().map(|(_, stats)| Arc::clone(stats)).collect()
    }

    /// Starts a thread for every source.
    ///
    /// `checkpoints` are those stored by earlier runs, of any source; each source takes its own.
    ///
    /// # Errors
    /// When a thread cannot be started, or there are more than 65,536 sources. A log that cannot be read is no error here
    /// but a state that is reported, and retried.
    pub fn start<D, R>(
        self,
        checkpoints: &[Checkpoint],
        pool: &Pool,
        deliver: &D,
        report: &R,
    ) -> anyhow::Result<Sources>
    where
        D: Deliver + Clone,
        R: Report + Clone,
    {
        let mut sources = Sources { beats: self.beats, ..Sources::default() };
        checkpoints.iter().for_each(|checkpoint| file::note_marks(checkpoint, &sources.claims));
        let readers = self.sources.iter().filter(|(settings, _)| matches!(settings.input, Input::Files(_)));
        let max_open = limit::open_files(readers.count());
        for (settings, stats) in self.sources {
            let checkpoint =
                checkpoints.iter().find(|checkpoint| checkpoint.source == settings.name).cloned();
            let from = checkpoint.map_or(From::Others(Vec::new()), From::Checkpoint);
            sources.start(settings, stats, from, max_open, pool, deliver.clone(), report.clone())?;
        }
        Ok(sources)
    }
}

/// The time without a sign after which a source counts as hanging. One step reads a block of lines; a network file system that
/// does not answer is the usual reason for more.
const STALLED: Limits = Limits::of_part(30_000);

/// The running sources.
#[derive(Debug, Default)]
pub struct Sources {
    threads: Vec<SourceThread>,
    next_id: u32,
    /// Who reads which file.
    claims: Claims,
    beats: Beats,
}

#[derive(Debug)]
struct SourceThread {
    input: Input,
    wake: Wake,
    changes: Changes,
    handle: JoinHandle<Option<Checkpoint>>,
    can_be_woken: bool,
}

/// A source that was told to stop.
pub(crate) struct Stopping(JoinHandle<Option<Checkpoint>>);

impl Stopping {
    /// Waits until its current batch is delivered, and returns its position. Blocks.
    pub(crate) fn wait(self) -> Option<Checkpoint> {
        self.0.join().unwrap_or_else(|_| {
            tracing::error!("a source's thread had panicked");
            None
        })
    }
}

impl Sources {
    /// The id of the source that is added next.
    pub(crate) fn next_id(&self) -> Option<SourceId> {
        u16::try_from(self.next_id).ok().map(SourceId)
    }

    /// Starts a thread for one more source.
    ///
    /// # Errors
    /// When the thread cannot be started, or there were 65,536 sources before.
    pub(crate) fn add<D: Deliver, R: Report>(
        &mut self,
        settings: Settings,
        stats: Arc<Stats>,
        from: From,
        pool: &Pool,
        deliver: D,
        report: R,
    ) -> anyhow::Result<()> {
        let readers = self.threads.iter().filter(|thread| matches!(thread.input, Input::Files(_)));
        let max_open = limit::open_files(readers.count() + 1);
        self.start(settings, stats, from, max_open, pool, deliver, report)
    }

    #[expect(clippy::too_many_arguments, reason = "what a thread needs, once")]
    fn start<D: Deliver, R: Report>(
        &mut self,
        settings: Settings,
        stats: Arc<Stats>,
        from: From,
        max_open: usize,
        pool: &Pool,
        deliver: D,
        report: R,
    ) -> anyhow::Result<()> {
        let id = self.next_id().context("could not number the sources: there are more than 65,536")?;
        self.next_id += 1;
        let (wake, changes) = (Wake::default(), Changes::default());
        let own = Arc::clone(&stats);
        let beat = self.beats.part(format!("source:{}", settings.name), STALLED, move || own.state());
        let source = run::Source {
            id,
            beat,
            wake: wake.clone(),
            changes: changes.clone(),
            stats,
            lag: Lag::default(),
            sights: Sights::new(&settings.format.trusted_proxies, &settings.known),
            claims: self.claims.clone(),
            max_open,
            is_at_pipe: false,
            pool: pool.clone(),
            deliver,
            report,
        };
        let (name, input) = (settings.name.clone(), settings.input.clone());
        let handle = std::thread::Builder::new()
            .name(format!("source-{}", id.0))
            .spawn(move || source.run(settings, from))
            .with_context(|| format!("could not start a thread for the source {name}"))?;
        let can_be_woken = input != Input::Stdin;
        self.threads.push(SourceThread { input, wake, changes, handle, can_be_woken });
        Ok(())
    }

    /// Tells one source to stop; the others go on.
    pub(crate) fn remove(&mut self, input: &Input) -> Option<Stopping> {
        let at = self.threads.iter().position(|thread| thread.input == *input)?;
        let thread = self.threads.swap_remove(at);
        thread.wake.stop();
        Some(Stopping(thread.handle))
    }

    /// Lets one source read its lines by other settings, after those that are there now. The answer comes once it does.
    pub(crate) fn change(&self, settings: Settings) -> Option<oneshot::Receiver<()>> {
        let thread = self.threads.iter().find(|thread| thread.input == settings.input)?;
        let taken = thread.changes.put(settings, clock::now().boot_ms);
        thread.wake.notify();
        Some(taken)
    }

    /// Stops every source, at the latest when its current batch is delivered.
    ///
    /// A thread that waits for standard input cannot be woken; it ends with the process.
    pub fn stop(self) {
        // All are woken before the first is waited for, so that they come to their ends at the same time.
        for thread in &self.threads {
            thread.wake.stop();
        }
        for thread in self.threads.into_iter().filter(|thread| thread.can_be_woken) {
            if thread.handle.join().is_err() {
                tracing::error!("a source's thread had panicked");
            }
        }
    }
}
