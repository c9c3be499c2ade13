//! The times of lines that are read later than they were written: of a backlog, or of a replay.
//!
//! A broken clock, a mixed file or a damaged line can date a line years ahead. It must not move the clock for all others: what
//! follows it would be late for ever. So a jump ahead counts only when most of the next lines agree with it, and the clock goes
//! back only for a long run of lines. Live lines are compared with the wall clock instead (`lines.rs`).

use crate::vocab::request::Line;
use crate::vocab::time::EventSecs;

/// Lines up to this much older than the newest one are in order: they are written when a request ends. A line this much ahead
/// moves the clock without being asked about.
pub(crate) const TOLERANCE_SECS: EventSecs = 300;

/// The following lines that are asked whether a jump ahead is right.
const VOTERS: usize = 16;

/// This many lines in a row mean that the log's clock was set back, or that an older log follows.
pub(crate) const LATE_RUN: usize = 100;

/// The time before a log's first line and most of the next ones may differ by without one of them being wrong.
const MAX_FIRST_PAUSE_SECS: EventSecs = 40 * 86_400;

/// Where a line counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placement {
    pub second: EventSecs,
    /// The log's clock was set back to this second.
    pub is_back: bool,
}

/// The seconds at which lines count.
#[derive(Debug, Clone, Default)]
pub struct Timeline {
    /// The newest second that is believed; `None` before the first line.
    latest: Option<EventSecs>,
    /// The last line jumped ahead to this second, and none followed it yet.
    doubted: Option<EventSecs>,
}

impl Timeline {
    /// Returns the second at which the first of `lines` counts; the others are those read with it, in order.
    ///
    /// `is_whole` says that no more lines follow of this log. An older log is then recognised however few lines it has.
    pub fn place(&mut self, lines: &[Line], is_whole: bool) -> Placement {
        let Some((line, following)) = lines.split_first() else {
            return Placement { second: self.latest.unwrap_or_default(), is_back: false };
        };
        let placed = match self.latest {
            None => first(line.time, following),
            Some(latest) if line.time > latest.saturating_add(TOLERANCE_SECS) => {
                if self.is_believed(line.time, following) { line.time } else { latest }
            }
            Some(latest) if line.time < latest.saturating_sub(TOLERANCE_SECS) => {
                return self.place_late(line.time, latest, following, is_whole);
            }
            Some(_) => {
                self.doubted = None;
                line.time
            }
        };
        self.latest = Some(self.latest.map_or(placed, |latest| latest.max(placed)));
        Placement { second: placed, is_back: false }
    }

    /// Whether a line of this time counts at it without a question, as nearly every one does: it is of the newest second.
    #[inline]
    pub fn goes_on_at(&mut self, time: EventSecs) -> bool {
        let is_newest = self.is_at(time);
        if is_newest {
            self.doubted = None;
        }
        is_newest
    }

    /// Whether this is the newest second.
    pub(crate) fn is_at(&self, time: EventSecs) -> bool {
        self.latest == Some(time)
    }

    /// Takes over the newest second from elsewhere.
    pub(crate) fn set(&mut self, latest: EventSecs) {
        self.latest = Some(latest);
    }

    /// Returns whether a jump ahead is right.
    fn is_believed(&mut self, time: EventSecs, following: &[Line]) -> bool {
        let agrees = |other: EventSecs| other >= time.saturating_sub(TOLERANCE_SECS);
        let voters = following.len().min(VOTERS);
        let votes = following.iter().take(VOTERS).filter(|line| agrees(line.time)).count();
        // The line before counts too where lines come one by one.
        let before = self.doubted.is_some_and(|doubted| time >= doubted.saturating_sub(TOLERANCE_SECS));
        self.doubted = Some(time).filter(|_| voters == 0 && !before);
        if voters == 0 { before } else { 2 * votes > voters }
    }

    /// A late line keeps its time, and is too late for the windows, unless the log goes on from there.
    fn place_late(
        &mut self,
        time: EventSecs,
        latest: EventSecs,
        following: &[Line],
        is_whole: bool,
    ) -> Placement {
        let is_late = |line: &&Line| line.time < latest.saturating_sub(TOLERANCE_SECS);
        let run = 1 + following.iter().take(LATE_RUN - 1).take_while(is_late).count();
        if run == LATE_RUN || (is_whole && run == 1 + following.len()) {
            // What follows is asked as at a beginning: the run's own first line may be a broken one.
            let placed = first(time, following);
            self.latest = Some(placed);
            return Placement { second: placed, is_back: true };
        }
        Placement { second: time, is_back: false }
    }
}

/// Returns where a log begins: at its first line, unless most of the next ones agree on another time.
fn first(time: EventSecs, following: &[Line]) -> EventSecs {
    let is_near = |a: EventSecs, b: EventSecs| a.abs_diff(b) <= TOLERANCE_SECS.unsigned_abs();
    let voters = following.get(..VOTERS.min(following.len())).unwrap_or_default();
    let near = |second: EventSecs| voters.iter().filter(|line| is_near(line.time, second)).count();
    if near(time) > 0 {
        return time;
    }
    let other = voters.iter().map(|line| line.time).find(|second| 2 * near(*second) > voters.len().max(2));
    // Ahead of most others by anything, a line is wrong; behind them there may have been a pause.
    other.filter(|other| !(time..time.saturating_add(MAX_FIRST_PAUSE_SECS)).contains(other)).unwrap_or(time)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;

    const T: EventSecs = 1_795_000_000;

    fn line(time: EventSecs) -> Line {
        Line {
            addr: Ipv4Addr::LOCALHOST.into(),
            time,
            method_at: 0,
            method_len: 0,
            path_at: 0,
            path_len: 0,
            server_at: 0,
            server_len: 0,
            peer_at: 0,
            peer_len: 0,
            status: 200,
            size: 0,
            behind_proxy: false,
            salvaged: false,
        }
    }

    fn place_all(times: &[EventSecs], is_whole: bool) -> Vec<EventSecs> {
        let lines: Vec<Line> = times.iter().map(|time| line(*time)).collect();
        let mut timeline = Timeline::default();
        (0..lines.len()).map(|at| timeline.place(&lines[at..], is_whole).second).collect()
    }

    #[test]
    fn one_line_of_another_time_moves_nothing() {
        let year_6026 = 127_990_000_000;
        for broken in [year_6026, EventSecs::MAX, EventSecs::from(u32::MAX), T + 86_400] {
            for at in [0, 1, 5, 19] {
                let mut times: Vec<EventSecs> = (0..20).map(|n| T + n).collect();
                times[at] = broken;
                let placed = place_all(&times, true);
                for (n, second) in placed.iter().enumerate() {
                    assert!((T - 1..T + 20).contains(second), "line {n} of {broken} at {at}: {second}");
                }
            }
        }
        let mut times: Vec<EventSecs> = (0..20).map(|n| T + n).collect();
        times[0] = 0;
        assert_eq!(place_all(&times, true)[0], T + 1, "a first line of 1970");
        times[0] = T;
        times[7] = -5;
        assert_eq!(place_all(&times, true)[8..], times[8..]);
    }

    #[test]
    fn pauses_and_sparse_logs_are_no_broken_lines() {
        let sparse: Vec<EventSecs> = (0..30).map(|n| T + n * 40_000).collect();
        assert_eq!(place_all(&sparse, true)[..29], sparse[..29]);
        let after_a_night: Vec<EventSecs> =
            (0..40).map(|n| T + n + if n < 20 { 0 } else { 30_000 }).collect();
        assert_eq!(place_all(&after_a_night, true), after_a_night);
    }

    #[test]
    fn a_log_may_be_followed_by_an_older_one() {
        let older: Vec<EventSecs> = (0..200).map(|n| if n < 50 { T + n } else { T - 86_400 + n }).collect();
        assert_eq!(place_all(&older, false), older);
        let mut timeline = Timeline::default();
        timeline.place(&[line(T)], true);
        let short: Vec<Line> = (0..10).map(|n| line(T - 86_400 + n)).collect();
        let back = Placement { second: T - 86_400, is_back: true };
        assert_eq!(timeline.place(&short, true), back);
        let onward = Placement { second: T - 86_400 + 1, is_back: false };
        assert_eq!(timeline.place(&short[1..], true), onward);
    }

    #[test]
    fn lines_that_come_one_by_one_need_a_second_one_to_agree() {
        let mut timeline = Timeline::default();
        let mut place = |time| timeline.place(&[line(time)], false).second;
        assert_eq!(place(T), T);
        assert_eq!(place(T + 90_000), T);
        assert_eq!(place(T + 1), T + 1);
        assert_eq!(place(T + 90_000), T + 1);
        assert_eq!(place(T + 90_001), T + 90_001);
    }

    proptest! {
        /// However wild the times are, each line counts at its own second or at one that another line has.
        #[test]
        fn nothing_is_invented(times in proptest::collection::vec(any::<i64>(), 1..60), is_whole: bool) {
            let placed = place_all(&times, is_whole);
            prop_assert!(placed.iter().all(|second| times.contains(second)));
        }
    }
}
