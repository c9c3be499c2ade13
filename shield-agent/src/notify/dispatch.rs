//! Pacing and retries of posts: at most one a second, digests less often, retries with growing pauses, `Retry-After`
//! obeyed. Pure: `now_ms` comes in (any monotonic clock), posts go out.

use std::time::Duration;

use super::queue::{EventQueue, Kind, Payload};
use crate::text::retrying;
use shield_engine::event::PartState;

/// Limits on posting and retrying.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pace {
    /// Minimum time between two posts.
    pub between_posts: Duration,
    /// Minimum time from a digest to the next post: where one digest was needed, more events are on their way, and
    /// waiting puts them into one message.
    pub after_digest: Duration,
    /// The pause after the first failure; it doubles with every further one.
    pub first_pause: Duration,
    /// The longest pause, unless `Retry-After` is longer.
    pub longest_pause: Duration,
    /// Age at which a message that keeps failing is given up.
    pub give_up_after: Duration,
}

impl Default for Pace {
    /// One a second (what Slack allows), digests every 10 s, pauses of 1 s to 1 min, given up after 6 h.
    fn default() -> Pace {
        Pace {
            between_posts: Duration::from_secs(1),
            after_digest: Duration::from_secs(10),
            first_pause: Duration::from_secs(1),
            longest_pause: Duration::from_secs(60),
            give_up_after: Duration::from_secs(6 * 3600),
        }
    }
}

/// Failures in a row after which the part counts as degraded.
const FAILURES_BEFORE_DEGRADED: u32 = 3;
/// The longest `Retry-After` that is obeyed, so that no answer can silence Shield for days.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(3600);

/// The next step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// Post this body, then call [`Dispatcher::done`].
    Post(String),
    /// Call [`Dispatcher::step`] again at this time, in milliseconds.
    WaitUntil(u64),
    /// Nothing to do until an event is pushed.
    Idle,
}

/// The result of a post.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    Accepted,
    /// Retrying cannot help: the URL or the message is wrong.
    Refused(String),
    /// Retrying may help, after `retry_after` when the receiver sent one.
    Failed {
        why: String,
        retry_after: Option<Duration>,
    },
}

/// Posts one queue to one receiver.
#[derive(Debug)]
pub(crate) struct Dispatcher<M> {
    pace: Pace,
    queue: M,
    in_flight: Option<InFlight>,
    ready_at_ms: u64,
    /// The same for what is urgent: no digest holds it up.
    urgent_at_ms: u64,
    failures: u32,
    degraded: bool,
    phase: Phase,
}

/// Running or stopping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Open,
    /// The agent stops: pauses are cut short so that what waits is posted before it ends.
    Closing,
}

#[derive(Debug)]
struct InFlight {
    payload: Payload,
    since_ms: u64,
}

impl<M: EventQueue> Dispatcher<M> {
    pub(crate) fn new(pace: Pace, queue: M) -> Dispatcher<M> {
        Dispatcher {
            pace,
            queue,
            in_flight: None,
            ready_at_ms: 0,
            urgent_at_ms: 0,
            failures: 0,
            degraded: false,
            phase: Phase::Open,
        }
    }

    /// Announces that nothing more will be pushed and that time is short: no pause is longer than `between_posts` from
    /// now on, except a `Retry-After` received after this call.
    pub(crate) fn close(&mut self, now_ms: u64) {
        self.phase = Phase::Closing;
        self.ready_at_ms = self.ready_at_ms.min(now_ms + millis(self.pace.between_posts));
    }

    /// Closed, with everything posted or given up.
    pub(crate) fn is_done(&self) -> bool {
        self.phase == Phase::Closing && self.waiting() == 0
    }

    /// Number of events neither posted nor given up.
    pub(crate) fn waiting(&self) -> u64 {
        let in_flight = self.in_flight.as_ref().map_or(0, |in_flight| in_flight.payload.events);
        in_flight + self.queue.waiting()
    }

    pub(crate) fn queue(&mut self) -> &mut M {
        &mut self.queue
    }

    /// Returns the next step at `now_ms`. A failed body is returned again unchanged until it is accepted or given up,
    /// so that a receiver that took it before its answer was lost sees a repetition, not another message.
    pub(crate) fn step(&mut self, now_ms: u64) -> Step {
        if self.waiting() == 0 {
            return Step::Idle;
        }
        let is_urgent = self.in_flight.is_none() && self.queue.is_urgent();
        let ready_at_ms = if is_urgent { self.urgent_at_ms.min(self.ready_at_ms) } else { self.ready_at_ms };
        if now_ms < ready_at_ms {
            return Step::WaitUntil(ready_at_ms);
        }
        let queue = &mut self.queue;
        let in_flight =
            self.in_flight.get_or_insert_with(|| InFlight { payload: queue.take(), since_ms: now_ms });
        Step::Post(in_flight.payload.body.clone())
    }

    /// Records the result of the last post; returns the part's state when it changed.
    pub(crate) fn done(&mut self, answer: Answer, now_ms: u64) -> Option<PartState> {
        match answer {
            Answer::Accepted => self.accepted(now_ms),
            Answer::Refused(why) => {
                self.give_up();
                self.ready_at_ms = now_ms + millis(self.pace.between_posts);
                self.urgent_at_ms = self.ready_at_ms;
                self.degrade(format!("{why}; message discarded: check the webhook's URL"))
            }
            Answer::Failed { why, retry_after } => self.failed(why, retry_after, now_ms),
        }
    }

    fn accepted(&mut self, now_ms: u64) -> Option<PartState> {
        let kind = self.in_flight.take().map_or(Kind::Messages, |in_flight| in_flight.payload.kind);
        let pause = match (kind, self.phase) {
            (Kind::Digest, Phase::Open) => self.pace.after_digest,
            (Kind::Messages, _) | (_, Phase::Closing) => self.pace.between_posts,
        };
        self.ready_at_ms = now_ms + millis(pause);
        self.urgent_at_ms = now_ms + millis(self.pace.between_posts);
        self.failures = 0;
        let was_degraded = std::mem::take(&mut self.degraded);
        was_degraded.then(|| PartState::Active { detail: "posting".into() })
    }

    fn failed(&mut self, why: String, retry_after: Option<Duration>, now_ms: u64) -> Option<PartState> {
        let doubled = self.pace.first_pause.saturating_mul(1 << self.failures.min(20));
        let retry_after = retry_after.unwrap_or_default().min(MAX_RETRY_AFTER);
        let longest = match self.phase {
            Phase::Open => self.pace.longest_pause,
            Phase::Closing => self.pace.between_posts,
        };
        self.ready_at_ms = now_ms + millis(doubled.min(longest).max(retry_after));
        self.urgent_at_ms = self.ready_at_ms;
        self.failures += 1;
        if self.in_flight.as_ref().is_some_and(|c| now_ms >= c.since_ms + millis(self.pace.give_up_after)) {
            self.give_up();
        }
        if self.failures < FAILURES_BEFORE_DEGRADED {
            return None;
        }
        self.degrade(retrying(why))
    }

    fn give_up(&mut self) {
        if let Some(in_flight) = self.in_flight.take() {
            self.queue.count_lost(in_flight.payload.events);
        }
    }

    fn degrade(&mut self, reason: String) -> Option<PartState> {
        let was_degraded = std::mem::replace(&mut self.degraded, true);
        (!was_degraded).then_some(PartState::Degraded { reason })
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::super::samples;
    use super::super::slack::SlackQueue;
    use super::*;
    use shield_engine::client::Client;

    fn dispatcher() -> Dispatcher<SlackQueue> {
        Dispatcher::new(Pace::default(), SlackQueue::default())
    }

    fn ban(n: u32) -> shield_engine::action::Notice {
        samples::banned_client(Client::from(std::net::Ipv4Addr::from_bits(0xcb00_7100 + n)))
    }

    fn failure(retry_after: Option<u64>) -> Answer {
        Answer::Failed { why: "answered 503".into(), retry_after: retry_after.map(Duration::from_secs) }
    }

    /// Pushes `count` bans, evenly over `over_ms`, for a receiver that accepts everything; returns the posts.
    fn posts_of(count: u64, over_ms: u64) -> Vec<String> {
        let mut dispatcher = dispatcher();
        let mut posts = Vec::new();
        let mut put = 0;
        for now_ms in 0..over_ms + 60_000 {
            while put < count && put * over_ms <= now_ms * count {
                dispatcher.queue().push(&ban(put as u32), samples::AT_MS);
                put += 1;
            }
            if let Step::Post(body) = dispatcher.step(now_ms) {
                posts.push(body);
                assert_eq!(dispatcher.done(Answer::Accepted, now_ms), None);
            }
        }
        posts
    }

    #[test]
    fn five_hundred_bans_in_ten_seconds_are_at_most_three_posts_and_all_are_counted() {
        let check = |over_ms| {
            let posts = posts_of(500, over_ms);
            assert!((1..=3).contains(&posts.len()), "{} posts", posts.len());
            let counted: u64 = posts.iter().map(|post| bans_counted(post)).sum();
            assert_eq!(counted, 500);
        };
        check(10_000);
        check(5_000);
        check(1);
    }

    /// Number of bans that a post covers.
    fn bans_counted(body: &str) -> u64 {
        let json: serde_json::Value = serde_json::from_str(body).unwrap();
        let text = json["text"].as_str().unwrap();
        let number = |line: &str| line.strip_prefix("• IP BANNED: ")?.split(' ').next()?.parse::<u64>().ok();
        let in_digest: u64 = text.lines().filter_map(number).sum();
        in_digest + text.lines().filter(|line| *line == "IP BANNED").count() as u64
    }

    #[test]
    fn single_events_are_posted_one_a_second() {
        let mut dispatcher = dispatcher();
        dispatcher.queue().push(&ban(1), samples::AT_MS);
        assert!(matches!(dispatcher.step(5), Step::Post(_)));
        dispatcher.done(Answer::Accepted, 10);
        assert_eq!(dispatcher.step(11), Step::Idle);
        dispatcher.queue().push(&ban(2), samples::AT_MS);
        assert_eq!(dispatcher.step(12), Step::WaitUntil(1_010));
        assert!(matches!(dispatcher.step(1_010), Step::Post(_)));
    }

    #[test]
    fn a_failed_post_is_retried_with_growing_pauses_and_the_same_text() {
        let mut dispatcher = dispatcher();
        dispatcher.queue().push(&ban(1), samples::AT_MS);
        let Step::Post(first) = dispatcher.step(0) else { panic!("nothing to post") };
        let mut now_ms = 0;
        let mut pauses = Vec::new();
        for _ in 0..9 {
            dispatcher.done(failure(None), now_ms);
            dispatcher.queue().push(&ban(2), samples::AT_MS);
            let Step::WaitUntil(at_ms) = dispatcher.step(now_ms) else { panic!("no pause") };
            pauses.push((at_ms - now_ms) / 1000);
            now_ms = at_ms;
            assert_eq!(dispatcher.step(now_ms), Step::Post(first.clone()));
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
    }

    #[test]
    fn retry_after_is_obeyed_up_to_an_hour() {
        let check = |asked: u64, expected_secs: u64| {
            let mut dispatcher = dispatcher();
            dispatcher.queue().push(&ban(1), samples::AT_MS);
            dispatcher.step(0);
            dispatcher.done(failure(Some(asked)), 0);
            assert_eq!(dispatcher.step(0), Step::WaitUntil(expected_secs * 1000));
        };
        check(0, 1);
        check(30, 30);
        check(90, 90);
        check(u64::MAX, 3600);
    }

    #[test]
    fn three_failures_in_a_row_are_a_state_and_success_ends_it() {
        let mut dispatcher = dispatcher();
        dispatcher.queue().push(&ban(1), samples::AT_MS);
        dispatcher.step(0);
        assert_eq!(dispatcher.done(failure(None), 0), None);
        assert_eq!(dispatcher.done(failure(None), 10_000), None);
        let reason = "inactive, retrying: answered 503".to_owned();
        assert_eq!(dispatcher.done(failure(None), 20_000), Some(PartState::Degraded { reason }));
        assert_eq!(dispatcher.done(failure(None), 40_000), None, "reported once");
        let detail = "posting".to_owned();
        assert_eq!(dispatcher.done(Answer::Accepted, 60_000), Some(PartState::Active { detail }));
    }

    #[test]
    fn a_refused_message_is_given_up_at_once_and_counted_in_the_next() {
        let mut dispatcher = dispatcher();
        dispatcher.queue().push(&ban(1), samples::AT_MS);
        dispatcher.step(0);
        let state = dispatcher.done(Answer::Refused("answered 404".into()), 0);
        assert!(
            matches!(state, Some(PartState::Degraded { reason }) if reason.contains("check the webhook's URL"))
        );
        assert_eq!(dispatcher.step(0), Step::Idle);
        dispatcher.queue().push(&ban(2), samples::AT_MS);
        let Step::Post(body) = dispatcher.step(1_000) else { panic!("nothing to post") };
        assert!(body.contains("1 earlier event could not be posted"), "{body}");
    }

    #[test]
    fn a_message_that_fails_for_hours_is_given_up() {
        let mut dispatcher = dispatcher();
        dispatcher.queue().push(&ban(1), samples::AT_MS);
        dispatcher.step(0);
        dispatcher.done(failure(None), 0);
        dispatcher.done(failure(None), 6 * 3_600_000);
        assert_eq!(dispatcher.step(7 * 3_600_000), Step::Idle);
    }

    /// A dispatcher that pauses after `failures` failures in a row, with one more ban in its queue.
    fn in_a_long_pause(failures: u32) -> Dispatcher<SlackQueue> {
        let mut dispatcher = dispatcher();
        dispatcher.queue().push(&ban(1), samples::AT_MS);
        dispatcher.step(0);
        (0..failures).for_each(|_| drop(dispatcher.done(failure(None), 0)));
        dispatcher.queue().push(&ban(2), samples::AT_MS);
        dispatcher
    }

    #[test]
    fn closing_cuts_pauses_short_until_everything_is_posted() {
        let mut dispatcher = in_a_long_pause(6);
        assert_eq!(dispatcher.step(0), Step::WaitUntil(32_000));
        dispatcher.close(500);
        assert_eq!(
            (dispatcher.step(500), dispatcher.waiting(), dispatcher.is_done()),
            (Step::WaitUntil(1_500), 2, false)
        );
        assert!(matches!(dispatcher.step(1_500), Step::Post(_)));
        dispatcher.done(failure(None), 1_500);
        assert_eq!(dispatcher.step(1_500), Step::WaitUntil(2_500), "not 60 s");
        dispatcher.step(2_500);
        dispatcher.done(Answer::Accepted, 2_500);
        assert!(matches!(dispatcher.step(3_500), Step::Post(_)));
        dispatcher.done(Answer::Accepted, 3_500);
        assert!(dispatcher.is_done());
    }

    #[test]
    fn a_retry_after_received_after_closing_is_obeyed() {
        let mut dispatcher = in_a_long_pause(1);
        dispatcher.close(0);
        dispatcher.step(1_000);
        dispatcher.done(failure(Some(30)), 1_000);
        assert_eq!(dispatcher.step(1_000), Step::WaitUntil(31_000));
    }
}
