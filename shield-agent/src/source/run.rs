//! The thread of a source: read, deliver, report, sleep.

use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::change::Changes;
use super::file::claims::Claims;
use super::file::{self, Files, Start};
use super::lag::Lag;
use super::pipe::{self, Pipe};
use super::pool::Pool;
use super::sight::Sights;
use super::stats::{Backlog, Stats};
use super::stream::{Listener, Syslog};
use super::wake::Wake;
use super::watch::Watch;
use super::{Deliver, FirstStart, Input, Place, Report, Settings};
use crate::beat::{Beat, panic_text};
use crate::clock;
use crate::text::access as text;
use shield_engine::event::{PartReport, PartState};
use shield_engine::request::{Batch, Checkpoint, SourceId};
use shield_engine::time::Now;
use shield_logline::Output;

/// The pause before looking whether a program has opened a pipe for writing.
const WRITER_POLL: Duration = Duration::from_millis(250);

/// The pause before binding a socket is retried.
const BIND_RETRY: Duration = Duration::from_secs(5);

/// The pause before a source that panicked starts again, doubled with each further panic.
const FIRST_RESTART: Duration = Duration::from_secs(1);
const LAST_RESTART: Duration = Duration::from_secs(60);
/// The time after which a panic is no sign of the next.
const PANICS_FORGOTTEN_MS: u64 = 600_000;

/// The interval between two updates of the lag while a source reads without a pause.
const NOTE_EVERY_MS: u64 = 250;

/// Where a source of files begins.
pub(crate) enum From {
    /// Where it stopped.
    Checkpoint(Checkpoint),
    /// As its settings say, except in logs that one of these sources has read before.
    Others(Vec<Checkpoint>),
}

/// One source, ready to run.
pub(super) struct Source<D, R> {
    pub id: SourceId,
    pub beat: Beat,
    pub wake: Wake,
    pub changes: Changes,
    pub stats: Arc<Stats>,
    pub lag: Lag,
    pub sights: Sights,
    pub claims: Claims,
    pub max_open: usize,
    /// A named pipe lies at the path: its state is the source's.
    pub is_at_pipe: bool,
    pub pool: Pool,
    pub deliver: D,
    pub report: R,
}

impl<D: Deliver, R: Report> Source<D, R> {
    /// Runs until the source is stopped, its input ends, or the consumer is gone. Returns the position of files, to continue
    /// from. A panic is said, and the source goes on after a pause.
    pub(super) fn run(mut self, mut settings: Settings, mut from: From) -> Option<Checkpoint> {
        let mut panics = Panics::default();
        loop {
            let mut files = None;
            let ran = catch_unwind(AssertUnwindSafe(|| self.run_once(&mut settings, &from, &mut files)));
            let payload = match ran {
                Ok(position) => return position,
                Err(payload) => payload,
            };
            // What was read but not delivered is lost: at most one block.
            let position =
                files.and_then(|mut files| catch_unwind(AssertUnwindSafe(|| files.checkpoint())).ok());
            let pause = panics.note(position.as_ref(), clock::now().boot_ms);
            let mut reason = text::broke_down(panic_text(&*payload), pause.as_secs());
            if panics.are_at_one_place() {
                // The same bytes again would end as before.
                reason.push_str(text::SKIPS_TO_THE_END);
                settings.first_start = FirstStart::End;
                from = From::Others(Vec::new());
            } else if let Some(position) = position {
                from = From::Checkpoint(position);
            }
            self.set_state(PartState::Degraded { reason });
            self.sleep(pause);
            if self.wake.is_stopped() {
                return match from {
                    From::Checkpoint(position) => Some(position),
                    From::Others(_) => None,
                };
            }
        }
    }

    fn run_once(
        &mut self,
        settings: &mut Settings,
        from: &From,
        files: &mut Option<Files>,
    ) -> Option<Checkpoint> {
        match &settings.input {
            Input::Files(text) => return Some(self.run_files(Place::of(text), settings, from, files)),
            Input::Syslog(listener) => self.run_syslog(&listener.clone(), settings),
            Input::Stdin => self.run_stdin(settings),
        }
        None
    }

    /// Sleeps until a notification, or for `timeout`.
    fn rest(&self, timeout: Duration) {
        self.beat.resting(timeout);
        self.wake.wait(timeout);
        self.beat.working();
    }

    /// Sleeps for `pause`, unless the source is stopped.
    fn sleep(&self, pause: Duration) {
        let end_ms = clock::now().boot_ms + pause.as_millis() as u64;
        while !self.wake.is_stopped() {
            let left_ms = end_ms.saturating_sub(clock::now().boot_ms);
            if left_ms == 0 {
                break;
            }
            self.wake.take();
            self.rest(Duration::from_millis(left_ms));
        }
    }

    /// Delivers a batch. That blocks while the engine is behind, and the engine is watched itself.
    fn hand_over(&mut self, batch: Batch) -> ControlFlow<()> {
        self.beat.waiting();
        let flow = (self.deliver)(batch);
        self.beat.working();
        flow
    }

    fn run_files(
        &mut self,
        place: Place,
        settings: &mut Settings,
        from: &From,
        kept: &mut Option<Files>,
    ) -> Checkpoint {
        let start = match settings.first_start {
            FirstStart::End => Start::End,
            FirstStart::Beginning => Start::Beginning,
            FirstStart::CatchUp { secs } => Start::Since(clock::now().wall_secs() - i64::from(secs)),
        };
        let (name, format) = (settings.name.clone(), settings.format.clone());
        let pipe = if let Place::Path(path) = &place { Some(path.clone()) } else { None };
        let files = file::Settings { id: self.id, name, place, format, start, max_open: self.max_open };
        let files = kept.insert(match from {
            From::Checkpoint(checkpoint) => Files::new(files, Some(checkpoint), self.claims.clone()),
            From::Others(stopped) => {
                let mut files = Files::new(files, None, self.claims.clone());
                files.inherit(stopped);
                files
            }
        });
        let mut watch = Watch::new(&self.wake);
        let mut was_hinted = false;
        while !self.wake.is_stopped() {
            // What is left of a file that a pipe has taken the place of is read first, and then the pipe.
            self.is_at_pipe = pipe.as_deref().is_some_and(pipe::is_pipe);
            let ControlFlow::Continue(bytes) = self.read_all(files) else { break };
            // After all that was there: it was written in the format of before.
            if let Some(change) = self.changes.take() {
                *settings = self.take_over(change.settings());
                files.set_format(&settings.format);
                self.wake.notify();
            }
            if let Some(path) = pipe.as_deref().filter(|_| self.is_at_pipe) {
                if self.run_pipe(path, settings).is_break() {
                    break;
                }
                files.hint_all();
                continue;
            }
            self.note_idle(files, clock::now());
            if bytes > 0 {
                watch.note_lines(was_hinted);
            }
            watch.set(files.changed_folders());
            std::thread::sleep(pause_for(files.count()));
            self.rest(sleep_for(files, watch.interval()));
            was_hinted = self.wake.take();
            files.hint_all();
        }
        files.checkpoint()
    }

    /// What was seen of the lines before says nothing about those that are read by other settings.
    fn take_over(&mut self, settings: &Settings) -> Settings {
        self.sights = Sights::new(&settings.format.trusted_proxies, &settings.known);
        settings.clone()
    }

    /// Reads a pipe for as long as it lies there.
    fn run_pipe(&mut self, path: &Path, settings: &Settings) -> ControlFlow<()> {
        let mut pipe = match Pipe::open(path, &settings.format) {
            Ok(pipe) => pipe,
            Err(error) => {
                self.set_waiting(text::pipe_not_opened(path, &error));
                self.rest(BIND_RETRY);
                self.wake.take();
                return ControlFlow::Continue(());
            }
        };
        while !self.wake.is_stopped() && pipe.is_at(path) && !self.changes.is_pending() {
            self.beat.working();
            let mut batch = self.pool.take();
            let mut out = Output { lines: std::mem::take(&mut batch.lines), ..Output::default() };
            let found = match pipe.step(&mut batch.bytes, &mut out) {
                Ok(found) => found,
                Err(error) => {
                    self.set_waiting(text::pipe_not_read(path, &error));
                    self.rest(BIND_RETRY);
                    self.wake.take();
                    return ControlFlow::Continue(());
                }
            };
            let any = found == pipe::Found::Bytes || !out.lines.is_empty() || out.bytes > 0;
            self.deliver_parsed(batch, out, any)?;
            if found == pipe::Found::NoWriter {
                self.set_waiting(text::pipe_without_writer(path));
                self.rest(WRITER_POLL);
                self.wake.take();
            } else {
                self.sights.idle(true, clock::now());
                self.set_active("reading a pipe");
            }
        }
        ControlFlow::Continue(())
    }

    /// Delivers everything there is to read now; returns its length in bytes.
    fn read_all(&mut self, files: &mut Files) -> ControlFlow<(), u64> {
        let mut read = 0;
        let mut noted_ms = None;
        loop {
            self.beat.working();
            let mut batch = self.pool.take();
            let now = clock::now();
            let now_ms = now.boot_ms;
            // A source that is always behind would never come to the end of what was there.
            let found = if self.changes.is_overdue(now_ms) { None } else { files.step(now_ms, &mut batch) };
            let Some(bytes) = found else {
                self.pool.give(batch);
                return ControlFlow::Continue(read);
            };
            read += bytes;
            self.stats.count(&batch, bytes, now_ms);
            self.sights.read(files.log_just_read().unwrap_or(Path::new("")), &batch, now);
            // Before the delivery, which blocks as long as the engine is behind. Not for every batch: it costs a system
            // call for each log followed.
            if noted_ms.is_none_or(|noted_ms| now_ms >= noted_ms + NOTE_EVERY_MS) {
                noted_ms = Some(now_ms);
                self.note_progress(files, now_ms);
            }
            if self.hand_over(batch).is_break() {
                return ControlFlow::Break(());
            }
            if self.wake.is_stopped() {
                return ControlFlow::Break(());
            }
            if self.wake.take() {
                files.hint_all();
            }
        }
    }

    /// Notes that everything is read.
    fn note_idle(&mut self, files: &Files, now: Now) {
        self.sights.keep(files.count(), files.logs());
        self.sights.idle(matches!(files.state(), PartState::Active { .. }), now);
        self.note_progress(files, now.boot_ms);
    }

    /// Publishes how far behind the source is, and its state.
    fn note_progress(&mut self, files: &Files, now_ms: u64) {
        let backlog = Backlog { bytes: files.lag_bytes(), logs: files.count() as u64 };
        self.stats.set_backlog(backlog);
        if self.is_at_pipe {
            return;
        }
        let lagged = self.lag.state(files.state(), backlog.bytes, now_ms);
        self.set_seen_state(files.state(), lagged, files.count(), now_ms);
    }

    fn run_syslog(&mut self, listener: &Listener, settings: &mut Settings) {
        while !self.wake.is_stopped() {
            self.wake.take();
            if let Some(change) = self.changes.take() {
                *settings = self.take_over(change.settings());
            }
            let outcome = Syslog::bind(listener, &settings.format).and_then(|mut syslog| {
                self.set_active("listening");
                Ok(self.receive(&mut syslog, settings)?)
            });
            match outcome {
                Ok(()) => return,
                Err(error) => self.set_waiting(format!("{error:#}; retrying")),
            }
            self.rest(BIND_RETRY);
        }
    }

    fn receive(&mut self, syslog: &mut Syslog, settings: &mut Settings) -> std::io::Result<()> {
        while !self.wake.is_stopped() {
            self.beat.working();
            let mut batch = self.pool.take();
            let mut out = Output { lines: std::mem::take(&mut batch.lines), ..Output::default() };
            let any = syslog.step(&mut batch.bytes, &mut out)?;
            if self.deliver_parsed(batch, out, any).is_break() {
                break;
            }
            let now = clock::now();
            self.sights.idle(true, now);
            let state = syslog.state(now.boot_ms);
            self.set_seen_state(state.clone(), state, 1, now.boot_ms);
            // Datagrams that wait in the socket are read by it too: they cannot be told from those to come.
            if let Some(change) = self.changes.take() {
                *settings = self.take_over(change.settings());
                syslog.set_format(&settings.format);
            }
        }
        Ok(())
    }

    fn run_stdin(&mut self, settings: &Settings) {
        let mut input = shield_logline::stream::Input::new(std::io::stdin().lock(), &settings.format);
        self.set_active("reading");
        while !self.wake.is_stopped() {
            let mut batch = self.pool.take();
            let mut out = Output { lines: std::mem::take(&mut batch.lines), ..Output::default() };
            self.beat.waiting();
            let goes_on = input.step(&mut batch.bytes, &mut out);
            self.beat.working();
            if self.deliver_parsed(batch, out, true).is_break() {
                return;
            }
            self.set_active("reading");
            match goes_on {
                Ok(true) => {}
                Ok(false) => return self.set_state(PartState::Off { reason: "the input ended".to_owned() }),
                Err(error) => {
                    return self.set_state(PartState::Degraded {
                        reason: format!("could not read standard input: {error}"),
                    });
                }
            }
        }
    }

    fn deliver_parsed(&mut self, batch: Batch, out: Output, any: bool) -> ControlFlow<()> {
        let bytes = out.bytes;
        let batch = Batch {
            source: Some(self.id),
            log: 0,
            lines: out.lines,
            rejected: out.rejected,
            first_refused: out.first_refused,
            format: out.format,
            checkpoint: None,
            live: true,
            ..batch
        };
        if !any {
            self.pool.give(batch);
            return ControlFlow::Continue(());
        }
        let now = clock::now();
        self.stats.count(&batch, bytes, now.boot_ms);
        self.sights.read(Path::new(""), &batch, now);
        self.hand_over(batch)
    }

    fn set_waiting(&mut self, reason: String) {
        let waiting = PartState::Waiting { reason };
        self.set_seen_state(waiting.clone(), waiting, 1, clock::now().boot_ms);
    }

    fn set_active(&mut self, detail: &str) {
        let active = || PartState::Active { detail: detail.to_owned() };
        self.set_seen_state(active(), active(), 1, clock::now().boot_ms);
    }

    /// Sets the state that follows from `state`, the state by the lag, and what is seen in the lines.
    fn set_seen_state(&mut self, state: PartState, lagged: PartState, logs: usize, now_ms: u64) {
        let (state, trouble) = self.sights.state(state, lagged, logs, now_ms);
        self.stats.note(trouble, now_ms);
        self.set_state(state);
    }

    fn set_state(&mut self, state: PartState) {
        if self.stats.set_state(&state) {
            let part = format!("source:{}", self.stats.name());
            (self.report)(PartReport { part, state, repaired: None });
        }
    }
}

/// The panics of a source, for the pauses between its starts.
#[derive(Debug, Default)]
struct Panics {
    last_ms: u64,
    in_a_row: u32,
    position: Option<Checkpoint>,
    at_one_place: bool,
}

impl Panics {
    /// Notes a panic at `now_ms` (boot clock), and returns the pause before the next start: longer each time.
    fn note(&mut self, position: Option<&Checkpoint>, now_ms: u64) -> Duration {
        let is_long_ago = now_ms.saturating_sub(self.last_ms) > PANICS_FORGOTTEN_MS;
        self.in_a_row = if is_long_ago { 1 } else { self.in_a_row + 1 };
        self.at_one_place = !is_long_ago && position.is_some() && self.position.as_ref() == position;
        self.last_ms = now_ms;
        self.position = position.cloned();
        FIRST_RESTART.saturating_mul(1 << (self.in_a_row - 1).min(6)).min(LAST_RESTART)
    }

    /// The last two were at the same position.
    fn are_at_one_place(&self) -> bool {
        self.at_one_place
    }
}

/// Returns the least pause between two passes. A pass is two system calls a log, and on a busy server there is always a hint at
/// one of them: with thousands the pause bounds the passes to a few percent of a core.
fn pause_for(logs: usize) -> Duration {
    Duration::from_millis((logs as u64 / 40).min(50))
}

/// Returns how long to sleep: the interval, or less when a file needs attention before.
fn sleep_for(files: &Files, interval: Duration) -> Duration {
    let now_ms = clock::now().boot_ms;
    let until = files.deadline_ms().map(|deadline| Duration::from_millis(deadline.saturating_sub(now_ms)));
    until.map_or(interval, |until| until.min(interval))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_the_same_place_is_noticed() {
        let at = |position: &str| Checkpoint { source: "a".to_owned(), position: position.to_owned() };
        let mut panics = Panics::default();
        let mut check = |position: Option<&Checkpoint>, now_ms, secs, at_one_place| {
            assert_eq!(panics.note(position, now_ms), Duration::from_secs(secs));
            assert_eq!(panics.are_at_one_place(), at_one_place);
        };
        let start = 10 * PANICS_FORGOTTEN_MS;
        check(Some(&at("1")), start, 1, false);
        check(Some(&at("2")), start + 1, 2, false);
        check(Some(&at("2")), start + 2, 4, true);
        check(None, start + 3, 8, false);
        check(None, start + 4, 16, false);
        check(None, start + 5, 32, false);
        check(None, start + 6, 60, false);
        check(Some(&at("2")), start + 7 + PANICS_FORGOTTEN_MS, 1, false);
    }
}
