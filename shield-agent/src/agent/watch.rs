//! The thread that watches over all others: it finds those that hang, tells of them, feeds systemd's watchdog, and ends the
//! process when it can do nothing else.
//!
//! Time counts only while this thread itself goes round, so that a machine that slept, or an agent that was stopped by a
//! signal, is not taken for one whose threads hang.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::supervise::{self, EndGuard, Ended};
use super::systemd;
use crate::beat::{Beats, Limits, Part, Word};
use crate::clock;
use crate::pipeline::{Handle, Message};
use crate::text::health as text;
use shield_engine::action::Notice;
use shield_engine::event::{PartReport, PartState};
use shield_engine::time::Now;

/// The engine makes bans, so it may hang for the shortest time. Below systemd's `WatchdogSec`, so that the reason is told
/// before.
pub(super) const ENGINE: Limits = Limits::of_part(10_000).ends(60_000).vital();
/// A commit on a slow disk takes seconds.
pub(super) const PERFORMER: Limits = Limits::of_part(15_000).ends(120_000).vital();
/// Without the API's runtime the agent hears no signal and posts nothing, though it bans.
pub(super) const API: Limits = Limits::of_part(20_000).ends(120_000);
/// The disk is waited for on a thread of its own, so that bans go on while it does not answer.
pub(super) const DISK_PART: &str = "store-disk";
pub(super) const DISK: Limits = Limits::of_part(30_000);
/// Reads `/proc`, which can take long on a machine out of memory.
pub(super) const HOST: Limits = Limits::of_part(60_000);

/// The pause between two rounds.
const ROUND: Duration = Duration::from_secs(2);

/// Rounds that came later than this count as if they had come then: the machine slept, or this process was stopped.
const LATE_FACTOR: u64 = 2;

/// The time for an orderly stop after a part had ended, which may itself wait for a part that hangs.
const STOP_WITHIN_MS: u64 = 15_000;

/// The vital parts that hang now, with the reason. A clone is the same.
#[derive(Debug, Clone, Default)]
pub(crate) struct Health(Arc<Mutex<BTreeMap<String, String>>>);

impl Health {
    /// The parts that hang, by name.
    pub(crate) fn stalled(&self) -> Vec<(String, String)> {
        let stalled = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        stalled.iter().map(|(name, reason)| (name.clone(), reason.clone())).collect()
    }

    fn set(&self, part: &str, reason: Option<String>) {
        let mut stalled = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match reason {
            Some(reason) => drop(stalled.insert(part.to_owned(), reason)),
            None => drop(stalled.remove(part)),
        }
    }
}

/// What a round found.
#[derive(Debug)]
enum Found {
    /// The part has hung for so long, in milliseconds.
    Stalled(Arc<Part>, u64),
    /// It goes on, after so long.
    GoesOn(Arc<Part>, u64),
    /// It has hung until the process has to end.
    Over(Arc<Part>, u64),
}

/// A part as of the last round.
struct Seen {
    part: Weak<Part>,
    word: Word,
    /// When the word was first seen, on the clock of rounds.
    since_ms: u64,
    stalled_since_ms: Option<u64>,
}

/// Finds parts that hang. Pure but for the words of the parts.
#[derive(Default)]
struct Rounds {
    seen: Vec<Seen>,
    /// The time during which rounds were made.
    ran_ms: u64,
    last_ms: Option<u64>,
    round_ms: u64,
}

impl Rounds {
    fn new(round: Duration) -> Rounds {
        Rounds { round_ms: round.as_millis() as u64, ..Rounds::default() }
    }

    /// Looks at all parts at `now_ms`, on a clock that only goes forward.
    fn look(&mut self, beats: &Beats, now_ms: u64) -> Vec<Found> {
        let passed = now_ms.saturating_sub(self.last_ms.replace(now_ms).unwrap_or(now_ms));
        self.ran_ms += passed.min(LATE_FACTOR * self.round_ms);
        let parts = beats.all();
        self.seen.retain(|seen| parts.iter().any(|part| seen.is(part)));
        let mut found = Vec::new();
        for part in parts {
            let word = part.word();
            let Some(seen) = self.seen.iter_mut().find(|seen| seen.is(&part)) else {
                let part = Arc::downgrade(&part);
                self.seen.push(Seen { part, word, since_ms: self.ran_ms, stalled_since_ms: None });
                continue;
            };
            if seen.word != word {
                seen.word = word;
                seen.since_ms = self.ran_ms;
                if let Some(since_ms) = seen.stalled_since_ms.take() {
                    found.push(Found::GoesOn(part, self.ran_ms - since_ms));
                }
                continue;
            }
            let Some(sleep_ms) = word.sleep_ms() else { continue };
            let hung_ms = (self.ran_ms - seen.since_ms).saturating_sub(sleep_ms);
            let limits = part.limits;
            if limits.ends_ms.is_some_and(|ends_ms| hung_ms >= ends_ms) {
                found.push(Found::Over(part, hung_ms));
            } else if hung_ms >= limits.stalled_ms && seen.stalled_since_ms.is_none() {
                seen.stalled_since_ms = Some(self.ran_ms - hung_ms);
                found.push(Found::Stalled(part, hung_ms));
            }
        }
        found
    }
}

impl Seen {
    fn is(&self, part: &Arc<Part>) -> bool {
        std::ptr::eq(self.part.as_ptr(), Arc::as_ptr(part))
    }
}

/// When systemd is told that the agent lives: at a third of its interval, and only after the engine went round.
#[derive(Debug)]
struct Watchdog {
    every_ms: u64,
    told: Option<(u64, Word)>,
}

impl Watchdog {
    /// A third, so that one late round does not make systemd kill a healthy agent.
    fn new(interval: Duration) -> Watchdog {
        Watchdog { every_ms: (interval.as_millis() / 3) as u64, told: None }
    }

    fn is_due(&mut self, engine: Word, now_ms: u64) -> bool {
        let is_due = self
            .told
            .is_none_or(|(at_ms, word)| word != engine && now_ms.saturating_sub(at_ms) >= self.every_ms);
        if is_due {
            self.told = Some((now_ms, engine));
        }
        is_due
    }
}

/// What the thread needs.
pub(super) struct Watch {
    pub beats: Beats,
    pub health: Health,
    pub owner: Handle,
    /// Tells of a vital part that hangs: the engine and the performer cannot.
    pub announce: Box<dyn FnMut(&Notice) + Send>,
    pub ended: Arc<Ended>,
}

/// The running thread.
pub(super) struct Watching {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Watching {
    pub(super) fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.thread().unpark();
        // A panic was printed where it happened.
        let _ = self.thread.join();
    }
}

impl Watch {
    pub(super) fn start(mut self) -> Result<Watching> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let guard = EndGuard(Arc::clone(&self.ended));
        let thread = supervise::spawn("watch", move || {
            let _guard = guard;
            self.run(&stopped);
        })?;
        Ok(Watching { stop, thread })
    }

    fn run(&mut self, stopped: &AtomicBool) {
        let mut watchdog = sd_notify::watchdog_enabled().map(Watchdog::new);
        let third = watchdog.as_ref().map(|dog| Duration::from_millis(dog.every_ms));
        let shortest = self.beats.all().iter().map(|part| part.limits.stalled_ms / 4).min();
        let round =
            [third, shortest.map(Duration::from_millis)].into_iter().flatten().fold(ROUND, Duration::min);
        let mut rounds = Rounds::new(round);
        let began = Instant::now();
        let mut ending_ms = None;
        while !stopped.load(Ordering::Relaxed) {
            let now_ms = began.elapsed().as_millis() as u64;
            for found in rounds.look(&self.beats, now_ms) {
                self.tell(found, clock::now());
            }
            if let Some(watchdog) = &mut watchdog
                && let Some(engine) = self.beats.all().iter().find(|part| part.name == "engine")
                && watchdog.is_due(engine.word(), now_ms)
            {
                systemd::alive();
            }
            if self.ended.has_ended() {
                let since_ms = *ending_ms.get_or_insert(rounds.ran_ms);
                if rounds.ran_ms - since_ms >= STOP_WITHIN_MS {
                    tracing::error!("{}", text::ends_hard(STOP_WITHIN_MS / 1_000));
                    end_process();
                }
            }
            std::thread::park_timeout(round);
        }
    }

    fn tell(&mut self, found: Found, now: Now) {
        let since = |hung_ms: u64| now.wall_ms - hung_ms as i64;
        match found {
            Found::Stalled(part, hung_ms) => {
                let reason = if part.name == DISK_PART {
                    text::disk_stalled(since(hung_ms))
                } else {
                    text::stalled(since(hung_ms))
                };
                if part.limits.is_vital {
                    self.health.set(&part.name, Some(reason.clone()));
                    (self.announce)(&Notice::Degraded { part: part.name.clone(), reason });
                } else {
                    self.report(&part, PartState::Degraded { reason });
                }
            }
            Found::GoesOn(part, hung_ms) => {
                if part.limits.is_vital {
                    self.health.set(&part.name, None);
                    let after_secs = hung_ms / 1_000;
                    (self.announce)(&Notice::Recovered { part: part.name.clone(), after_secs });
                } else {
                    self.report(&part, part.own_state());
                }
            }
            Found::Over(part, hung_ms) => {
                tracing::error!("{}", text::ends(&part.name, since(hung_ms)));
                end_process();
            }
        }
    }

    fn report(&self, part: &Part, state: PartState) {
        self.owner.send(Message::Part(PartReport { part: part.name.clone(), state, repaired: None }));
    }
}

/// Ends without waiting for anybody: what could be waited for hangs.
#[expect(clippy::exit, reason = "an orderly end would wait for the thread that hangs")]
fn end_process() -> ! {
    std::process::exit(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::beat::Beat;

    const ROUND_MS: u64 = 1_000;
    const SOME: Limits = Limits::of_part(5_000).ends(20_000);

    struct World {
        beats: Beats,
        beat: Beat,
        rounds: Rounds,
        now_ms: u64,
    }

    impl World {
        fn new() -> World {
            let beats = Beats::default();
            let beat = beats.part("x", SOME, || PartState::Active { detail: "own".to_owned() });
            let mut world =
                World { beats, beat, rounds: Rounds::new(Duration::from_millis(ROUND_MS)), now_ms: 7_000 };
            world.beat.working();
            assert_eq!(world.round(0), "");
            world
        }

        /// What a round finds, after so long without one.
        fn round(&mut self, after_ms: u64) -> String {
            self.now_ms += after_ms;
            let words = self.rounds.look(&self.beats, self.now_ms).into_iter().map(|found| match found {
                Found::Stalled(part, ms) => format!("{} stalled {ms}", part.name),
                Found::GoesOn(part, ms) => format!("{} goes on {ms}", part.name),
                Found::Over(part, ms) => format!("{} over {ms}", part.name),
            });
            words.collect::<Vec<_>>().join(", ")
        }

        fn rounds(&mut self, count: u64) -> Vec<String> {
            (0..count).map(|_| self.round(ROUND_MS)).filter(|found| !found.is_empty()).collect()
        }
    }

    #[test]
    fn a_part_that_hangs_is_told_of_once_and_ends_the_process_at_last() {
        let mut world = World::new();
        assert_eq!(world.rounds(4), [""; 0]);
        assert_eq!(world.rounds(15), ["x stalled 5000"]);
        assert_eq!(world.round(ROUND_MS), "x over 20000");
    }

    #[test]
    fn a_part_that_goes_on_is_healthy_again() {
        let mut world = World::new();
        assert_eq!(world.rounds(7), ["x stalled 5000"]);
        world.beat.working();
        assert_eq!(world.round(ROUND_MS), "x goes on 8000");
        assert_eq!(world.rounds(4), [""; 0]);
        assert_eq!(world.rounds(1), ["x stalled 5000"]);
    }

    #[test]
    fn an_announced_sleep_is_no_stall_until_it_is_over() {
        let mut world = World::new();
        world.beat.resting(Duration::from_secs(60));
        assert_eq!(world.rounds(65), [""; 0]);
        assert_eq!(world.rounds(1), ["x stalled 5000"]);
        world.beat.waiting();
        assert_eq!(world.rounds(1), ["x goes on 6000"]);
        assert_eq!(world.rounds(10_000), [""; 0]);
    }

    /// A virtual machine that is resumed, a laptop that wakes up, SIGSTOP and SIGCONT.
    #[test]
    fn time_in_which_nobody_ran_does_not_count() {
        let mut world = World::new();
        assert_eq!(world.round(3_600_000), "");
        assert_eq!(world.round(ROUND_MS), "");
        world.beat.working();
        assert_eq!(world.rounds(5), [""; 0]);
    }

    #[test]
    fn a_part_that_ended_is_forgotten() {
        let mut world = World::new();
        let beats = world.beats.clone();
        world.beat = beats.part("y", SOME, || PartState::Off { reason: String::new() });
        world.beat.working();
        assert_eq!(world.rounds(30).first().map(String::as_str), Some("y stalled 5000"));
        assert_eq!(world.rounds.seen.len(), 1);
    }

    #[test]
    fn systemd_hears_nothing_while_the_engine_does_not_go_round() {
        let beats = Beats::default();
        let beat = beats.part("engine", ENGINE, || PartState::Off { reason: String::new() });
        let word = || beats.all()[0].word();
        let mut dog = Watchdog::new(Duration::from_secs(30));
        assert!(dog.is_due(word(), 0), "at once");
        assert!(!dog.is_due(word(), 60_000), "the engine hangs");
        beat.working();
        assert!(dog.is_due(word(), 60_001));
        beat.working();
        assert!(!dog.is_due(word(), 69_000) && dog.is_due(word(), 70_001));
    }

    #[test]
    fn the_engine_is_told_of_before_systemd_kills() {
        let unit = include_str!("../../../packaging/shield.service");
        let watchdog = unit.lines().find_map(|line| line.strip_prefix("WatchdogSec=")?.parse::<u64>().ok());
        assert!(ENGINE.stalled_ms + 2 * ROUND.as_millis() as u64 <= watchdog.unwrap() * 1_000 / 2);
    }
}
