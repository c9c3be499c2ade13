//! When a message is posted, and what happens when that fails: at most one post a second, digests less often, retries
//! with growing pauses, `Retry-After` obeyed. Pure: `now_ms` comes in (any clock that only goes forward), posts go out.

use std::time::Duration;

use super::mailbox::{Kind, Mailbox, Parcel};
use crate::text::retrying;
use shield_engine::event::PartState;

/// How often is posted, and for how long it is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pace {
    /// Shortest time between two posts.
    pub between_posts: Duration,
    /// Shortest time from a digest to the next post.
    pub after_digest: Duration,
    /// The pause after the first failure; it doubles with every further one.
    pub first_pause: Duration,
    /// The longest pause, except when the other side asks for a longer one.
    pub longest_pause: Duration,
    /// How long one message is tried.
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
const TOLERATED: u32 = 3;
/// The longest `Retry-After` that is obeyed.
const LONGEST_ASKED: Duration = Duration::from_secs(3600);

/// What to do now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// Post this, then tell [`Courier::done`].
    Post(String),
    /// Ask again at this time.
    WaitUntil(u64),
    /// Nothing to do until something is put in.
    Idle,
}

/// How a post went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    /// It was taken.
    Accepted,
    /// It will never be taken: the URL or the message is wrong.
    Refused(String),
    /// It may be taken later; not before the time given when there is one.
    Failed {
        /// What happened.
        why: String,
        /// The pause that was asked for.
        retry_after: Option<Duration>,
    },
}

/// Takes messages from a mailbox to one receiver.
#[derive(Debug)]
pub(crate) struct Courier<M> {
    pace: Pace,
    mailbox: M,
    carried: Option<Carried>,
    ready_at_ms: u64,
    failures: u32,
    degraded: bool,
    phase: Phase,
}

/// How long there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// As long as it takes.
    Open,
    /// The agent stops: what waits is posted as soon as the receiver bears it.
    Closing,
}

#[derive(Debug)]
struct Carried {
    parcel: Parcel,
    since_ms: u64,
}

impl<M: Mailbox> Courier<M> {
    /// A courier for this mailbox.
    pub(crate) fn new(pace: Pace, mailbox: M) -> Courier<M> {
        Courier {
            pace,
            mailbox,
            carried: None,
            ready_at_ms: 0,
            failures: 0,
            degraded: false,
            phase: Phase::Open,
        }
    }

    /// Nothing more will be put in, and there is little time: from now on no pause is longer than the shortest, except
    /// one that the other side asks for from now on.
    pub(crate) fn close(&mut self, now_ms: u64) {
        self.phase = Phase::Closing;
        self.ready_at_ms = self.ready_at_ms.min(now_ms + millis(self.pace.between_posts));
    }

    /// Whether it was closed and everything was posted or given up.
    pub(crate) fn is_done(&self) -> bool {
        self.phase == Phase::Closing && self.waiting() == 0
    }

    /// Events that were put in and neither posted nor given up.
    pub(crate) fn waiting(&self) -> u64 {
        let carried = self.carried.as_ref().map_or(0, |carried| carried.parcel.events);
        carried + self.mailbox.waiting()
    }

    /// What waits.
    pub(crate) fn mailbox(&mut self) -> &mut M {
        &mut self.mailbox
    }

    /// What to do at `now_ms`.
    pub(crate) fn step(&mut self, now_ms: u64) -> Step {
        if self.waiting() == 0 {
            return Step::Idle;
        }
        if now_ms < self.ready_at_ms {
            return Step::WaitUntil(self.ready_at_ms);
        }
        let mailbox = &mut self.mailbox;
        let carried =
            self.carried.get_or_insert_with(|| Carried { parcel: mailbox.take(), since_ms: now_ms });
        Step::Post(carried.parcel.body.clone())
    }

    /// Takes note of how the last post went; returns the part's state when it changed.
    pub(crate) fn done(&mut self, answer: Answer, now_ms: u64) -> Option<PartState> {
        match answer {
            Answer::Accepted => self.accepted(now_ms),
            Answer::Refused(why) => {
                self.give_up();
                self.ready_at_ms = now_ms + millis(self.pace.between_posts);
                self.degrade(format!("{why}; the message is given up: check the webhook's URL"))
            }
            Answer::Failed { why, retry_after } => self.failed(why, retry_after, now_ms),
        }
    }

    fn accepted(&mut self, now_ms: u64) -> Option<PartState> {
        let kind = self.carried.take().map_or(Kind::Messages, |carried| carried.parcel.kind);
        let pause = match (kind, self.phase) {
            (Kind::Digest, Phase::Open) => self.pace.after_digest,
            (Kind::Messages, _) | (_, Phase::Closing) => self.pace.between_posts,
        };
        self.ready_at_ms = now_ms + millis(pause);
        self.failures = 0;
        let was_degraded = std::mem::take(&mut self.degraded);
        was_degraded.then(|| PartState::Active { detail: "posting again".into() })
    }

    fn failed(&mut self, why: String, retry_after: Option<Duration>, now_ms: u64) -> Option<PartState> {
        let doubled = self.pace.first_pause.saturating_mul(1 << self.failures.min(20));
        let asked = retry_after.unwrap_or_default().min(LONGEST_ASKED);
        let longest = match self.phase {
            Phase::Open => self.pace.longest_pause,
            Phase::Closing => self.pace.between_posts,
        };
        self.ready_at_ms = now_ms + millis(doubled.min(longest).max(asked));
        self.failures += 1;
        if self.carried.as_ref().is_some_and(|c| now_ms >= c.since_ms + millis(self.pace.give_up_after)) {
            self.give_up();
        }
        if self.failures < TOLERATED {
            return None;
        }
        self.degrade(retrying(why))
    }

    fn give_up(&mut self) {
        if let Some(carried) = self.carried.take() {
            self.mailbox.note_lost(carried.parcel.events);
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
    use super::super::slack::SlackBox;
    use super::*;
    use shield_engine::client::Client;

    fn courier() -> Courier<SlackBox> {
        Courier::new(Pace::default(), SlackBox::default())
    }

    fn ban(n: u32) -> shield_engine::action::Notice {
        samples::banned_client(Client::from(std::net::Ipv4Addr::from_bits(0xcb00_7100 + n)))
    }

    fn failure(retry_after: Option<u64>) -> Answer {
        Answer::Failed { why: "answered 503".into(), retry_after: retry_after.map(Duration::from_secs) }
    }

    /// Puts `count` bans in, evenly over `over_ms`, with a receiver that takes everything; returns the posts.
    fn posts_of(count: u64, over_ms: u64) -> Vec<String> {
        let mut courier = courier();
        let mut posts = Vec::new();
        let mut put = 0;
        for now_ms in 0..over_ms + 60_000 {
            while put < count && put * over_ms <= now_ms * count {
                courier.mailbox().put(&ban(put as u32), samples::AT_MS);
                put += 1;
            }
            if let Step::Post(body) = courier.step(now_ms) {
                posts.push(body);
                assert_eq!(courier.done(Answer::Accepted, now_ms), None);
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

    /// How many bans a post tells of.
    fn bans_counted(body: &str) -> u64 {
        let json: serde_json::Value = serde_json::from_str(body).unwrap();
        let text = json["text"].as_str().unwrap();
        let number = |line: &str| line.strip_prefix("• IP BANNED: ")?.split(' ').next()?.parse::<u64>().ok();
        let in_digest: u64 = text.lines().filter_map(number).sum();
        in_digest + text.lines().filter(|line| *line == "IP BANNED").count() as u64
    }

    #[test]
    fn single_events_are_posted_one_a_second() {
        let mut courier = courier();
        courier.mailbox().put(&ban(1), samples::AT_MS);
        assert!(matches!(courier.step(5), Step::Post(_)));
        courier.done(Answer::Accepted, 10);
        assert_eq!(courier.step(11), Step::Idle);
        courier.mailbox().put(&ban(2), samples::AT_MS);
        assert_eq!(courier.step(12), Step::WaitUntil(1_010));
        assert!(matches!(courier.step(1_010), Step::Post(_)));
    }

    #[test]
    fn a_failed_post_is_tried_again_with_growing_pauses_and_the_same_text() {
        let mut courier = courier();
        courier.mailbox().put(&ban(1), samples::AT_MS);
        let Step::Post(first) = courier.step(0) else { panic!("nothing to post") };
        let mut now_ms = 0;
        let mut pauses = Vec::new();
        for _ in 0..9 {
            courier.done(failure(None), now_ms);
            courier.mailbox().put(&ban(2), samples::AT_MS);
            let Step::WaitUntil(at_ms) = courier.step(now_ms) else { panic!("no pause") };
            pauses.push((at_ms - now_ms) / 1000);
            now_ms = at_ms;
            assert_eq!(courier.step(now_ms), Step::Post(first.clone()));
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
    }

    #[test]
    fn the_pause_asked_for_is_kept_within_reason() {
        let check = |asked: u64, expected_secs: u64| {
            let mut courier = courier();
            courier.mailbox().put(&ban(1), samples::AT_MS);
            courier.step(0);
            courier.done(failure(Some(asked)), 0);
            assert_eq!(courier.step(0), Step::WaitUntil(expected_secs * 1000));
        };
        check(0, 1);
        check(30, 30);
        check(90, 90);
        check(u64::MAX, 3600);
    }

    #[test]
    fn three_failures_in_a_row_are_a_state_and_success_ends_it() {
        let mut courier = courier();
        courier.mailbox().put(&ban(1), samples::AT_MS);
        courier.step(0);
        assert_eq!(courier.done(failure(None), 0), None);
        assert_eq!(courier.done(failure(None), 10_000), None);
        let reason = "inactive, retrying: answered 503".to_owned();
        assert_eq!(courier.done(failure(None), 20_000), Some(PartState::Degraded { reason }));
        assert_eq!(courier.done(failure(None), 40_000), None, "said once");
        let detail = "posting again".to_owned();
        assert_eq!(courier.done(Answer::Accepted, 60_000), Some(PartState::Active { detail }));
    }

    #[test]
    fn a_refused_message_is_given_up_at_once_and_counted_in_the_next() {
        let mut courier = courier();
        courier.mailbox().put(&ban(1), samples::AT_MS);
        courier.step(0);
        let state = courier.done(Answer::Refused("answered 404".into()), 0);
        assert!(
            matches!(state, Some(PartState::Degraded { reason }) if reason.contains("check the webhook's URL"))
        );
        assert_eq!(courier.step(0), Step::Idle);
        courier.mailbox().put(&ban(2), samples::AT_MS);
        let Step::Post(body) = courier.step(1_000) else { panic!("nothing to post") };
        assert!(body.contains("1 earlier event could not be posted"), "{body}");
    }

    #[test]
    fn a_message_that_fails_for_hours_is_given_up() {
        let mut courier = courier();
        courier.mailbox().put(&ban(1), samples::AT_MS);
        courier.step(0);
        courier.done(failure(None), 0);
        courier.done(failure(None), 6 * 3_600_000);
        assert_eq!(courier.step(7 * 3_600_000), Step::Idle);
    }

    /// A courier in the pause after a failure that is `failures` long in a row, with one more ban in its box.
    fn in_a_long_pause(failures: u32) -> Courier<SlackBox> {
        let mut courier = courier();
        courier.mailbox().put(&ban(1), samples::AT_MS);
        courier.step(0);
        (0..failures).for_each(|_| drop(courier.done(failure(None), 0)));
        courier.mailbox().put(&ban(2), samples::AT_MS);
        courier
    }

    #[test]
    fn closing_cuts_pauses_short_until_everything_is_told() {
        let mut courier = in_a_long_pause(6);
        assert_eq!(courier.step(0), Step::WaitUntil(32_000));
        courier.close(500);
        assert_eq!(
            (courier.step(500), courier.waiting(), courier.is_done()),
            (Step::WaitUntil(1_500), 2, false)
        );
        assert!(matches!(courier.step(1_500), Step::Post(_)));
        courier.done(failure(None), 1_500);
        assert_eq!(courier.step(1_500), Step::WaitUntil(2_500), "not 60 s");
        courier.step(2_500);
        courier.done(Answer::Accepted, 2_500);
        assert!(matches!(courier.step(3_500), Step::Post(_)));
        courier.done(Answer::Accepted, 3_500);
        assert!(courier.is_done());
    }

    #[test]
    fn a_pause_that_the_other_side_asked_for_after_closing_is_kept() {
        let mut courier = in_a_long_pause(1);
        courier.close(0);
        courier.step(1_000);
        courier.done(failure(Some(30)), 1_000);
        assert_eq!(courier.step(1_000), Step::WaitUntil(31_000));
    }
}
