//! Conversion between the boot clock, which ends bans, and the kernel's ticks, which the program reads.
//!
//! Ticks stand still in a suspend, the boot clock does not. Hence both are read together before ends are written or
//! compared, and a reconcile corrects the ends that a suspend has moved. See `docs/adr/kernel-clock.md`.

use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use aya::programs::{TestRun as _, TestRunOptions, Xdp};
use nix::time::{ClockId, clock_getres};
use shield_common::{KernelTime, NEVER};

use crate::clock;
use shield_engine::time::{Ends, Now};

/// Nanoseconds in a second.
const SECOND_NS: u64 = 1_000_000_000;
/// Tick rates that kernels are built with (`CONFIG_HZ`), per second.
const KNOWN_RATES: [u64; 6] = [100, 200, 250, 300, 500, 1000];
/// Long enough to distinguish 250 ticks a second from 300 with an error of a tick and a millisecond.
const CALIBRATION: Duration = Duration::from_millis(100);
/// Where the two clocks cannot be read that close together, it takes at least this many times what lay between them: an error of a
/// twentieth distinguishes these rates as well.
const CALIBRATION_PER_SPAN: u32 = 20;
/// Readings until one is not interrupted by the scheduler. Not many: for each, the kernel exchanges code that runs, which takes an
/// emulated processor a tenth of a second.
const TRIES: u32 = 10;
/// A reading that took no longer than this is not tried again.
const SHORT_MS: u64 = 1;
/// A reading that took longer is of no use: by so much a ban may end late, and a reconcile corrects ends that are a second off.
const MAX_SPAN_MS: u64 = 500;
/// A packet longer than an Ethernet header, below which the kernel does not run a program.
const PACKET: [u8; 64] = [0; 64];

/// One moment on both clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reading {
    pub boot_ms: u64,
    pub ticks: KernelTime,
}

/// The program's clock, compared with the boot clock.
#[derive(Debug, Clone, Copy)]
pub(super) struct KernelClock {
    ticks_per_sec: u64,
    last: Reading,
}

impl KernelClock {
    /// Reads the tick rate off the resolution of the kernel's coarse clock, which is a tick. Where that is none of a known rate,
    /// measures it, which takes a tenth of a second, and seconds on an emulated processor.
    ///
    /// # Errors
    /// When the kernel cannot run the program, or ticks at a rate that no kernel has.
    pub(super) fn calibrate(program: &Xdp) -> Result<KernelClock> {
        match told_rate() {
            Some(ticks_per_sec) => Ok(KernelClock { ticks_per_sec, last: read(program)?.0 }),
            None => KernelClock::measure(program),
        }
    }

    fn measure(program: &Xdp) -> Result<KernelClock> {
        let (first, mut span) = read(program)?;
        let last = loop {
            sleep(CALIBRATION.max(span * CALIBRATION_PER_SPAN));
            let (last, last_span) = read(program)?;
            span = span.max(last_span);
            if Duration::from_millis(last.boot_ms - first.boot_ms) >= span * CALIBRATION_PER_SPAN {
                break last;
            }
        };
        let measured = (last.ticks - first.ticks) * 1000 / (last.boot_ms - first.boot_ms).max(1);
        let ticks_per_sec = KNOWN_RATES
            .into_iter()
            .min_by_key(|rate| rate.abs_diff(measured))
            .filter(|rate| rate.abs_diff(measured) * 5 < *rate)
            .with_context(|| {
                format!("could not calibrate the kernel's clock: {measured} ticks a second fit no known rate")
            })?;
        Ok(KernelClock { ticks_per_sec, last })
    }

    #[cfg(test)]
    fn new(ticks_per_sec: u64, last: Reading) -> KernelClock {
        KernelClock { ticks_per_sec, last }
    }

    /// Reads both clocks again.
    pub(super) fn sync(&mut self, program: &Xdp) -> Result<()> {
        (self.last, _) = read(program)?;
        Ok(())
    }

    pub(super) fn ticks_per_sec(&self) -> u32 {
        u32::try_from(self.ticks_per_sec).expect("a rate of `KNOWN_RATES`")
    }

    /// The ticks at the last reading.
    pub(super) fn ticks(&self) -> KernelTime {
        self.last.ticks
    }

    /// Converts an end to ticks, rounded up: a ban never ends early.
    pub(super) fn ticks_at(&self, ends: Ends) -> KernelTime {
        let Ends::At { boot_ms, .. } = ends else { return NEVER };
        let ticks = i128::from(boot_ms) - i128::from(self.last.boot_ms);
        // One more, because the tick of the last reading had begun up to a whole tick before it.
        let ahead = (ticks * i128::from(self.ticks_per_sec)).div_euclid(1000) + 1;
        let ends = (i128::from(self.last.ticks) + ahead).clamp(0, i128::from(NEVER - 1));
        KernelTime::try_from(ends).expect("clamped to its range")
    }

    /// Converts ticks to an end, within a tick; `now` gives its wall clock.
    pub(super) fn ends_at(&self, ends: KernelTime, now: Now) -> Ends {
        if ends == NEVER {
            return Ends::Never;
        }
        let ticks = i128::from(ends) - i128::from(self.last.ticks);
        let boot = i128::from(self.last.boot_ms) + (ticks * 1000).div_euclid(i128::from(self.ticks_per_sec));
        let boot_ms = u64::try_from(boot.max(0)).unwrap_or(u64::MAX);
        let ahead = i64::try_from(i128::from(boot_ms) - i128::from(now.boot_ms)).unwrap_or(i64::MAX);
        Ends::At { boot_ms, wall_ms: now.wall_ms.saturating_add(ahead) }
    }
}

/// The rate that the kernel tells, if it is a known one.
fn told_rate() -> Option<u64> {
    let tick = clock_getres(ClockId::CLOCK_MONOTONIC_COARSE).ok()?;
    rate_of_tick(u64::try_from(Duration::from(tick).as_nanos()).ok()?)
}

/// The known rate with a tick of this length, which the kernel rounds to whole nanoseconds.
fn rate_of_tick(ns: u64) -> Option<u64> {
    KNOWN_RATES.into_iter().find(|rate| (SECOND_NS / rate).abs_diff(ns) <= 1)
}

/// Reads both clocks, and returns how long that took.
fn read(program: &Xdp) -> Result<(Reading, Duration)> {
    shortest(|| {
        let before = clock::now().boot_ms;
        let ticks = read_ticks(program)?;
        Ok((Reading { boot_ms: before, ticks }, clock::now().boot_ms))
    })
}

/// The reading that took the shortest time of those tried. A reading has the boot clock from before it began, and comes with that
/// clock from after it: so however long it took, a ban that is written by it ends late by that, and never early.
fn shortest(mut read: impl FnMut() -> Result<(Reading, u64)>) -> Result<(Reading, Duration)> {
    let mut best: Option<(Reading, u64)> = None;
    for _ in 0..TRIES {
        let (reading, after_ms) = read()?;
        let span_ms = after_ms.saturating_sub(reading.boot_ms);
        if best.is_none_or(|(_, shortest_ms)| span_ms < shortest_ms) {
            best = Some((reading, span_ms));
        }
        if span_ms <= SHORT_MS {
            break;
        }
    }
    let (reading, span_ms) = best.expect("there is at least one try");
    if span_ms > MAX_SPAN_MS {
        bail!(
            "could not read the kernel's clock: the quickest of {TRIES} readings took {span_ms} ms; is the machine overloaded?"
        );
    }
    Ok((reading, Duration::from_millis(span_ms)))
}

fn read_ticks(program: &Xdp) -> Result<KernelTime> {
    let mut out = PACKET;
    let options = TestRunOptions {
        data_in: Some(&PACKET),
        data_out: Some(&mut out),
        repeat: 1,
        ..TestRunOptions::default()
    };
    program.test_run(options).context("could not run the program that reads the kernel's clock")?;
    let [a, b, c, d, e, f, g, h, ..] = out;
    Ok(KernelTime::from_ne_bytes([a, b, c, d, e, f, g, h]))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Now = Now { wall_ms: 1_700_000_000_000, boot_ms: 500_000 };

    fn clock() -> KernelClock {
        KernelClock::new(250, Reading { boot_ms: 500_000, ticks: 10_000 })
    }

    #[test]
    fn a_tick_tells_the_rate() {
        let of_tick = |ns| rate_of_tick(ns);
        let known = [10_000_000, 5_000_000, 4_000_000, 3_333_333, 2_000_000, 1_000_000].map(of_tick);
        assert_eq!(known, KNOWN_RATES.map(Some));
        assert_eq!(rate_of_tick(3_333_334), Some(300), "rounded up");
        for none in [0, 1, 3_000_000, 976_563, u64::MAX] {
            assert_eq!(rate_of_tick(none), None, "{none}");
        }
    }

    /// Linux has told it since 2.6.32; only a host that does not has to measure.
    #[test]
    fn this_kernel_tells_its_rate() {
        assert!(told_rate().is_some(), "{:?}", clock_getres(ClockId::CLOCK_MONOTONIC_COARSE));
    }

    #[test]
    fn an_end_is_never_early_and_at_most_two_ticks_late() {
        for ahead in [0, 1, 3, 4, 999, 600_000] {
            let ticks = clock().ticks_at(Ends::after(NOW, ahead));
            let wanted = 10_000 + ahead * 250 / 1000;
            assert!((wanted..=wanted + 2).contains(&ticks), "{ahead} ms ahead became tick {ticks}");
        }
    }

    #[test]
    fn ends_come_back_within_two_ticks() {
        let ends = Ends::after(NOW, 7_200_000);
        let Ends::At { boot_ms, wall_ms } = clock().ends_at(clock().ticks_at(ends), NOW) else {
            panic!("an end became permanent");
        };
        assert!(boot_ms.abs_diff(7_700_000) <= 8, "{boot_ms}");
        assert!(wall_ms.abs_diff(NOW.wall_ms + 7_200_000) <= 8, "{wall_ms}");
    }

    /// Readings that take these times, one after the other, on a clock that ticks every 4 ms. Returns how many were made as well.
    fn readings(spans_ms: &[u64]) -> (Result<(Reading, Duration)>, usize) {
        let (mut boot_ms, mut made) = (500_000, 0);
        let best = shortest(|| {
            let span_ms = spans_ms[made % spans_ms.len()];
            made += 1;
            let reading = Reading { boot_ms, ticks: (boot_ms + span_ms) / 4 };
            boot_ms += span_ms;
            Ok((reading, boot_ms))
        });
        (best, made)
    }

    #[test]
    fn a_reading_that_nothing_interrupted_is_the_last() {
        let (best, made) = readings(&[7, 1, 0]);
        assert_eq!(best.unwrap(), (Reading { boot_ms: 500_007, ticks: 125_002 }, Duration::from_millis(1)));
        assert_eq!(made, 2);
    }

    /// History: on an emulated processor each reading takes a tenth of a second. Two hundred were tried before each ban until one
    /// took a millisecond, and the ban failed where none did.
    #[test]
    fn where_every_reading_is_slow_the_quickest_counts_and_no_ban_ends_early() {
        let (best, made) = readings(&[130, 90, 220]);
        let (reading, span) = best.unwrap();
        assert_eq!((span, made), (Duration::from_millis(90), 10));
        let clock = KernelClock::new(250, reading);
        let ends_ms = reading.boot_ms + 60_000;
        let ends_at_ms = clock.ticks_at(Ends::At { boot_ms: ends_ms, wall_ms: 0 }) * 4;
        assert!((ends_ms..=ends_ms + 90 + 8).contains(&ends_at_ms), "{ends_at_ms} for {ends_ms}");
    }

    #[test]
    fn a_clock_that_cannot_be_read_in_time_is_an_error_in_words() {
        let error = readings(&[700, 501]).0.unwrap_err().to_string();
        assert_eq!(
            error,
            "could not read the kernel's clock: the quickest of 10 readings took 501 ms; is the machine overloaded?"
        );
    }

    #[test]
    fn permanent_stays_permanent() {
        assert_eq!(clock().ticks_at(Ends::Never), NEVER);
        assert_eq!(clock().ends_at(NEVER, NOW), Ends::Never);
    }

    #[test]
    fn after_a_suspend_the_same_end_is_fewer_ticks_away() {
        let ends = Ends::after(NOW, 60_000);
        // Ten seconds passed on the boot clock, none on the ticks.
        let after = KernelClock::new(250, Reading { boot_ms: 510_000, ticks: 10_000 });
        assert_eq!(clock().ticks_at(ends) - after.ticks_at(ends), 2_500);
    }

    #[test]
    fn a_past_end_is_a_past_tick() {
        let ends = Ends::At { boot_ms: 1_000, wall_ms: 0 };
        assert!(clock().ticks_at(ends) < 10_000);
    }
}
