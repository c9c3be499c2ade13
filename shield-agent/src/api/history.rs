//! Time series of the last 30 minutes and 24 hours for the plots, with marks for bans and anomalies: two rings of bounded
//! size, kept across restarts as JSON in the state directory. Time is an argument.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::samples::Sampled;
use super::types::{Dropped, HistoryView, Mark, MarkKind, Range};
use crate::dry_run;
use shield_engine::action::Notice;

/// A step of the last half hour.
pub(super) const STEP_SECS: u32 = 2;

/// The values of one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Sample {
    /// Global rate, requests per second.
    pub rate: f64,
    /// Errors per second.
    pub error_rate: f64,
    /// Requests per second of clients that were banned by then.
    #[serde(default)]
    pub banned_rate: f64,
    /// Baseline mean, requests per second.
    pub mean: f64,
    /// Baseline standard deviation.
    pub stddev: f64,
    /// Dropped packets per second.
    pub packets_per_sec: f64,
    /// Dropped bytes per second.
    pub bytes_per_sec: f64,
    /// Bans in force.
    pub active_bans: f64,
}

impl Sample {
    pub(crate) fn of(sampled: &Sampled, dropped: &Dropped) -> Sample {
        let rates = sampled.rates;
        Sample {
            rate: rates.requests,
            error_rate: rates.errors,
            banned_rate: rates.of_banned,
            mean: rates.mean,
            stddev: rates.stddev,
            packets_per_sec: dropped.packets_per_sec,
            bytes_per_sec: dropped.bytes_per_sec,
            active_bans: sampled.bans as f64,
        }
    }

    fn combine(self, other: Sample, with: impl Fn(f64, f64) -> f64) -> Sample {
        Sample {
            rate: with(self.rate, other.rate),
            error_rate: with(self.error_rate, other.error_rate),
            banned_rate: with(self.banned_rate, other.banned_rate),
            mean: with(self.mean, other.mean),
            stddev: with(self.stddev, other.stddev),
            packets_per_sec: with(self.packets_per_sec, other.packets_per_sec),
            bytes_per_sec: with(self.bytes_per_sec, other.bytes_per_sec),
            active_bans: with(self.active_bans, other.active_bans),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct History {
    half_hour: Series,
    day: Series,
}

impl Default for History {
    fn default() -> History {
        History { half_hour: Series::new(STEP_SECS, 900), day: Series::new(60, 1_440) }
    }
}

impl History {
    pub(crate) fn record(&mut self, at_ms: i64, sample: Sample) {
        self.half_hour.record(at_ms, sample);
        self.day.record(at_ms, sample);
    }

    /// Adds a mark if the notice is of a kind that has one.
    pub(crate) fn mark(&mut self, at_ms: i64, notice: &Notice, text: &str) {
        let kind = match notice {
            Notice::Banned(_) => MarkKind::Bans,
            Notice::WouldBan { because, .. } if because == dry_run::BECAUSE => MarkKind::Bans,
            Notice::GlobalAnomalyStarted { .. } => MarkKind::AnomalyStarted,
            Notice::GlobalAnomalyEnded { .. } => MarkKind::AnomalyEnded,
            _ => return,
        };
        self.half_hour.mark(at_ms, kind, text);
        self.day.mark(at_ms, kind, text);
    }

    /// Ends the anomaly in which the record stops, where it stops: whether it goes on, nobody saw. One that does is announced
    /// again.
    pub(crate) fn after_a_pause(mut self) -> History {
        for series in [&mut self.half_hour, &mut self.day] {
            series.end_anomaly();
        }
        self
    }

    /// Returns a range up to `now_ms`, evenly spaced, with gaps where nothing was recorded.
    pub(crate) fn view(&self, range: Range, now_ms: i64) -> HistoryView {
        match range {
            Range::HalfHour => self.half_hour.view(range, now_ms),
            Range::Day => self.day.view(range, now_ms),
        }
    }
}

/// One ring of steps. A step's number is its start divided by the step's length.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Series {
    step_secs: u32,
    steps: usize,
    points: VecDeque<Step>,
    marks: VecDeque<StepMark>,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Step {
    number: i64,
    sum: Sample,
    samples: u32,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct StepMark {
    number: i64,
    mark: Mark,
}

impl Series {
    fn new(step_secs: u32, steps: usize) -> Series {
        Series { step_secs, steps, points: VecDeque::new(), marks: VecDeque::new() }
    }

    fn number(&self, at_ms: i64) -> i64 {
        at_ms.div_euclid(i64::from(self.step_secs) * 1000)
    }

    /// Adds to the newest step. After the clock was set back, steps in the future are dropped: time must grow along a ring.
    fn record(&mut self, at_ms: i64, sample: Sample) {
        let number = self.number(at_ms);
        while self.points.back().is_some_and(|last| last.number > number) {
            self.points.pop_back();
        }
        match self.points.back_mut() {
            Some(last) if last.number == number => {
                last.sum = last.sum.combine(sample, |a, b| a + b);
                last.samples += 1;
            }
            _ => self.points.push_back(Step { number, sum: sample, samples: 1 }),
        }
        self.forget_before(number - self.steps as i64);
    }

    fn forget_before(&mut self, oldest: i64) {
        while self.points.front().is_some_and(|first| first.number <= oldest) {
            self.points.pop_front();
        }
        while self.marks.front().is_some_and(|first| first.number <= oldest) {
            self.marks.pop_front();
        }
    }

    /// Keeps one mark for each kind and step: at most three times as many marks as points, whatever the rate of bans.
    fn mark(&mut self, at_ms: i64, kind: MarkKind, text: &str) {
        let number = self.number(at_ms);
        while self.marks.back().is_some_and(|last| last.number > number) {
            self.marks.pop_back();
        }
        let same = |found: &&mut StepMark| found.number == number && found.mark.kind == kind;
        match self.marks.iter_mut().rev().take(3).find(same) {
            Some(found) => {
                found.mark.count += 1;
                found.mark.text = if kind == MarkKind::Bans {
                    format!("{} bans", found.mark.count)
                } else {
                    text.to_owned()
                };
            }
            None => {
                let mark = Mark { at_ms, kind, count: 1, text: text.to_owned() };
                self.marks.push_back(StepMark { number, mark });
            }
        }
    }

    fn end_anomaly(&mut self) {
        let is_anomaly = |mark: &&StepMark| mark.mark.kind != MarkKind::Bans;
        let is_open = self.marks.iter().rev().find(is_anomaly).map(|mark| mark.mark.kind);
        let newest = self.points.back().map(|point| point.number);
        if let (Some(MarkKind::AnomalyStarted), Some(number)) = (is_open, newest) {
            let at_ms = number * i64::from(self.step_secs) * 1000;
            let text = "the agent stopped".to_owned();
            self.marks.push_back(StepMark {
                number: number.max(self.marks.back().map_or(number, |last| last.number)),
                mark: Mark { at_ms, kind: MarkKind::AnomalyEnded, count: 1, text },
            });
        }
    }

    fn view(&self, range: Range, now_ms: i64) -> HistoryView {
        let now = self.number(now_ms);
        // The step of now has no sample before its middle: that is no gap.
        let is_begun = self.points.back().is_none_or(|newest| newest.number != now - 1);
        let last = if is_begun { now } else { now - 1 };
        let first = last - self.steps as i64 + 1;
        let mut means = vec![None; self.steps];
        for step in self.points.iter().filter(|step| (first..=last).contains(&step.number)) {
            let count = f64::from(step.samples);
            means[(step.number - first) as usize] =
                Some(step.sum.combine(Sample::default(), |sum, _| sum / count));
        }
        let column = |pick: fn(&Sample) -> f64| means.iter().map(|mean| mean.as_ref().map(pick)).collect();
        HistoryView {
            range,
            step_secs: self.step_secs,
            at_ms: (first..=last).map(|number| number * i64::from(self.step_secs) * 1000).collect(),
            rate: column(|s| s.rate),
            error_rate: column(|s| s.error_rate),
            banned_rate: column(|s| s.banned_rate),
            mean: column(|s| s.mean),
            stddev: column(|s| s.stddev),
            dropped_packets_per_sec: column(|s| s.packets_per_sec),
            dropped_bytes_per_sec: column(|s| s.bytes_per_sec),
            active_bans: column(|s| s.active_bans),
            marks: self.marks_of(first, last),
        }
    }

    fn marks_of(&self, first: i64, last: i64) -> Vec<Mark> {
        let inside = self.marks.iter().filter(|mark| (first..=last).contains(&mark.number));
        inside.map(|mark| mark.mark.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at_rate(rate: f64) -> Sample {
        Sample { rate, ..Sample::default() }
    }

    #[test]
    fn a_point_is_the_mean_of_its_step_and_gaps_are_null() {
        let mut history = History::default();
        history.record(60_000, at_rate(1.0));
        history.record(61_000, at_rate(3.0));
        history.record(66_000, at_rate(5.0));
        let view = history.view(Range::HalfHour, 66_500);
        assert_eq!(view.at_ms.len(), 900);
        assert_eq!(view.rate[896..], [Some(2.0), None, None, Some(5.0)]);
        assert_eq!(view.at_ms[896..], [60_000, 62_000, 64_000, 66_000]);
        assert_eq!(history.view(Range::Day, 66_500).rate[1_439], Some(3.0));
    }

    #[test]
    fn memory_is_bounded_however_long_it_runs() {
        let mut history = History::default();
        for second in 0..200_000 {
            history.record(second * 1000, at_rate(1.0));
            history.mark(
                second * 1000,
                &Notice::GlobalAnomalyEnded { rate: 1.0, mean: 1.0, lasted_secs: 1 },
                "x",
            );
        }
        assert!(history.day.points.len() <= 1_440 && history.day.marks.len() <= 1_441);
        assert!(history.half_hour.points.len() <= 900 && history.half_hour.marks.len() <= 901);
    }

    #[test]
    fn many_bans_in_a_step_are_one_mark() {
        let mut history = History::default();
        let started =
            Notice::GlobalAnomalyStarted { condition: String::new(), rate: 1.0, mean: 1.0, stddev: 1.0 };
        let ban = serde_json::json!({"event": "banned", "client": "192.0.2.7", "serial": 1, "since_ms": 0,
            "ends": "never", "offence": 1, "rule": "flood"});
        let ban: Notice = serde_json::from_value(ban).unwrap();
        history.mark(120_000, &ban, "192.0.2.7 banned");
        history.mark(120_000, &started, "anomaly");
        history.mark(121_000, &ban, "192.0.2.8 banned");
        let marks = history.view(Range::Day, 122_000).marks;
        let shown: Vec<_> = marks.iter().map(|mark| (mark.kind, mark.count, mark.text.as_str())).collect();
        assert_eq!(shown, [(MarkKind::Bans, 2, "2 bans"), (MarkKind::AnomalyStarted, 1, "anomaly")]);
    }

    #[test]
    fn a_clock_set_back_keeps_the_order() {
        let mut history = History::default();
        history.record(100_000, at_rate(1.0));
        history.record(40_000, at_rate(2.0));
        history.record(42_000, at_rate(3.0));
        let numbers: Vec<i64> = history.half_hour.points.iter().map(|step| step.number).collect();
        assert_eq!(numbers, [20, 21]);
    }

    #[test]
    fn the_step_that_has_just_begun_is_no_gap() {
        let mut history = History::default();
        (0..30).for_each(|at| history.record(60_000 + at * 1000, at_rate(1.0)));
        for now_ms in [89_000, 90_000, 91_999] {
            let view = history.view(Range::HalfHour, now_ms);
            assert_eq!((view.rate[899], view.at_ms[899]), (Some(1.0), 88_000), "{now_ms}");
        }
        assert_eq!(
            history.view(Range::HalfHour, 92_000).rate[899],
            None,
            "two steps without a sample are a gap"
        );
    }

    // After a restart the plots were red from the start of an anomaly, long over, to the right edge.
    #[test]
    fn an_anomaly_ends_with_the_record() {
        let mut history = History::default();
        let started =
            Notice::GlobalAnomalyStarted { condition: String::new(), rate: 1.0, mean: 1.0, stddev: 1.0 };
        history.record(60_000, at_rate(1.0));
        history.mark(60_000, &started, "anomaly");
        history.record(80_000, at_rate(1.0));
        let kinds = |history: &History| -> Vec<(MarkKind, i64)> {
            history.view(Range::HalfHour, 100_000).marks.iter().map(|mark| (mark.kind, mark.at_ms)).collect()
        };
        let ended = [(MarkKind::AnomalyStarted, 60_000), (MarkKind::AnomalyEnded, 80_000)];
        let restored = history.after_a_pause();
        assert_eq!(kinds(&restored), ended);
        assert_eq!(kinds(&restored.after_a_pause()), ended, "once");
    }

    #[test]
    fn saved_and_restored_it_is_the_same() {
        let mut history = History::default();
        history.record(60_000, at_rate(1.5));
        let text = serde_json::to_string(&history).unwrap();
        assert_eq!(serde_json::from_str::<History>(&text).unwrap(), history);
    }
}
