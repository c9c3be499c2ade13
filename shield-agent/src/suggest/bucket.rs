//! The leaky bucket of nginx's `limit_req`, in its own units: thousandths of a request, and milliseconds.
//!
//! `tests/tests/nginx_limits.rs` holds it against a real nginx.

/// What a zone and a `limit_req` line say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    pub rate: Rate,
    /// Requests beyond the rate that are not refused.
    pub burst: u32,
    /// Requests beyond the rate that are not delayed either: 0 unless `delay=` says so, all with `nodelay`.
    pub delay: Delay,
}

/// How `limit_req` treats what is beyond the rate and within the burst.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delay {
    /// Delays what is beyond this many requests (`delay=`).
    Beyond(u32),
    /// Delays nothing (`nodelay`).
    Never,
}

/// A rate as nginx takes it: whole requests a second or a minute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rate {
    PerSecond(u32),
    PerMinute(u32),
}

impl Rate {
    /// Thousandths of a request per second, cut as nginx cuts them.
    fn thousandths_per_sec(self) -> i64 {
        match self {
            Rate::PerSecond(requests) => i64::from(requests) * 1000,
            Rate::PerMinute(requests) => i64::from(requests) * 1000 / 60,
        }
    }

    /// Requests in a minute, rounded down.
    pub fn per_minute(self) -> u32 {
        match self {
            Rate::PerSecond(requests) => requests.saturating_mul(60),
            Rate::PerMinute(requests) => requests,
        }
    }
}

/// As in a configuration: `10r/s`.
impl std::fmt::Display for Rate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Rate::PerSecond(requests) => write!(f, "{requests}r/s"),
            Rate::PerMinute(requests) => write!(f, "{requests}r/m"),
        }
    }
}

/// nginx's answer to one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    Passed,
    Delayed,
    Refused,
}

/// One address's account in one zone.
#[derive(Debug, Clone, Copy, Default)]
pub struct Bucket {
    /// Requests beyond the rate, in thousandths.
    excess: i64,
    /// `None` before its first request, which is never beyond the rate.
    last_ms: Option<i64>,
}

/// A clock that jumped back further than this counts as one millisecond.
const MAX_BACK_MS: i64 = 60_000;

impl Bucket {
    /// Accounts one request. A refused one is not part of the excess, so a client that goes on gets its rate.
    pub fn request(&mut self, at_ms: i64, limit: Limit) -> Answer {
        let excess = self.excess_at(at_ms, limit.rate);
        if excess > i64::from(limit.burst) * 1000 {
            return Answer::Refused;
        }
        self.keep(excess, at_ms);
        match limit.delay {
            Delay::Beyond(free) if excess > i64::from(free) * 1000 => Answer::Delayed,
            Delay::Beyond(_) | Delay::Never => Answer::Passed,
        }
    }

    /// Accounts one request to which no burst is too large; returns the burst that it needs, in whole requests.
    pub fn needed_burst(&mut self, at_ms: i64, rate: Rate) -> u32 {
        let excess = self.excess_at(at_ms, rate);
        self.keep(excess, at_ms);
        u32::try_from(u64::try_from(excess).unwrap_or(0).div_ceil(1000)).unwrap_or(u32::MAX)
    }

    fn excess_at(&self, at_ms: i64, rate: Rate) -> i64 {
        let Some(last_ms) = self.last_ms else { return 0 };
        let passed_ms = match at_ms.saturating_sub(last_ms) {
            back if back < -MAX_BACK_MS => 1,
            passed => passed.max(0),
        };
        let leaked = rate.thousandths_per_sec().saturating_mul(passed_ms) / 1000;
        self.excess.saturating_sub(leaked).saturating_add(1000).max(0)
    }

    fn keep(&mut self, excess: i64, at_ms: i64) {
        self.excess = excess;
        match self.last_ms {
            // A request that is a little older does not turn the clock back.
            Some(last_ms) if (-MAX_BACK_MS..=0).contains(&at_ms.saturating_sub(last_ms)) => {}
            _ => self.last_ms = Some(at_ms),
        }
    }
}

/// How the requests of one second lie in it, which a log of whole seconds does not tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Within {
    /// All at its start: the worst for their client.
    Together,
    /// At equal distances: the best.
    Evenly,
}

/// Collects the requests of one address in one zone until their second is over, and says when each was made.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Second {
    second: i64,
    requests: u32,
}

impl Second {
    /// Adds a request; returns the moments of an earlier second's, if that is over. A line that is up to a minute older counts
    /// in the second that runs: nginx writes a line when the request ends.
    pub(crate) fn add(&mut self, second: i64, within: Within) -> impl Iterator<Item = i64> + use<> {
        let is_same = self.requests > 0 && (self.second - MAX_BACK_MS / 1000..=self.second).contains(&second);
        let before = if is_same { Second::default() } else { std::mem::take(self) };
        if !is_same {
            self.second = second;
        }
        self.requests = self.requests.saturating_add(1);
        before.moments(within)
    }

    /// The moments of the requests that it holds.
    pub(crate) fn moments(self, within: Within) -> impl Iterator<Item = i64> + use<> {
        let Second { second, requests } = self;
        (0..requests).map(move |nth| {
            let into_ms = match within {
                Within::Together => 0,
                Within::Evenly => i64::from(nth) * 1000 / i64::from(requests.max(1)),
            };
            second.saturating_mul(1000).saturating_add(into_ms)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Answer::{Delayed, Passed, Refused};

    fn answers(limit: Limit, at_ms: &[i64]) -> Vec<Answer> {
        let mut bucket = Bucket::default();
        at_ms.iter().map(|at| bucket.request(*at, limit)).collect()
    }

    #[test]
    fn answers_are_those_of_nginx() {
        let check = |rate, burst, delay, at_ms: &[i64], expected: &[Answer]| {
            let limit = Limit { rate, burst, delay };
            assert_eq!(answers(limit, at_ms), expected, "{limit:?} {at_ms:?}");
        };
        let one = Rate::PerSecond(1);
        // Without a burst the second request within a second is refused; it costs nothing, so the next in time passes.
        check(one, 0, Delay::Beyond(0), &[0, 500, 1000], &[Passed, Refused, Passed]);
        // Without `nodelay` whatever is beyond the rate waits.
        check(one, 2, Delay::Beyond(0), &[0, 0, 0, 0], &[Passed, Delayed, Delayed, Refused]);
        check(one, 2, Delay::Never, &[0, 0, 0, 0], &[Passed, Passed, Passed, Refused]);
        check(one, 3, Delay::Beyond(2), &[0; 5], &[Passed, Passed, Passed, Delayed, Refused]);
        // The burst comes back at the rate.
        check(one, 1, Delay::Never, &[0, 0, 999, 1000, 3000], &[Passed, Passed, Refused, Passed, Passed]);
        // 10r/m is 166 thousandths a second: 6 s are not quite enough for one request.
        check(Rate::PerMinute(10), 0, Delay::Beyond(0), &[0, 6000, 6025], &[Passed, Refused, Passed]);
        // A clock that goes back a little passes no time; far back, it is set.
        check(one, 1, Delay::Never, &[5000, 4000, 6000, 7000], &[Passed, Passed, Passed, Passed]);
        check(one, 1, Delay::Never, &[100_000, 1000, 3000], &[Passed, Passed, Passed]);
    }

    #[test]
    fn the_needed_burst_is_the_least_that_refuses_nothing() {
        let rate = Rate::PerSecond(2);
        let at_ms = [0, 0, 0, 0, 400, 1000, 1000, 9000, 9000];
        let mut bucket = Bucket::default();
        let needed = at_ms.iter().map(|at| bucket.needed_burst(*at, rate)).max().unwrap();
        let refused = |burst| answers(Limit { rate, burst, delay: Delay::Never }, &at_ms).contains(&Refused);
        assert!(refused(needed - 1) && !refused(needed), "{needed}");
    }

    #[test]
    fn a_second_is_told_when_the_next_begins_however_lines_are_mixed() {
        let mut second = Second::default();
        let mut told = Vec::new();
        for line in [10, 10, 9, 10, 12, 11] {
            told.extend(second.add(line, Within::Evenly));
        }
        told.extend(second.moments(Within::Together));
        assert_eq!(told, [10_000, 10_250, 10_500, 10_750, 12_000, 12_000]);
    }
}
