//! One message on its way to a server: sent again until the server has said that it has it.
//!
//! A server that loses its peers for a moment loses what it was just told, and says nothing. One message a subject is kept, one
//! host alone writes it, and its stamp tells readers that they know it already, so that a repeat is harmless, but for one thing: it
//! must not come after newer words of the same subject and take their place. So whoever publishes asks before each repeat.

use std::collections::HashMap;
use std::fmt::Display;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use tokio::time::{Instant, sleep_until};

use super::settings::{IN_FLIGHT, TIMEOUT};

/// When a message that was not acknowledged is sent again, since it was sent first.
const AGAIN: [Duration; 3] = [Duration::from_millis(300), Duration::from_secs(1), Duration::from_secs(2)];

/// The stamp of the latest message of each subject that is in flight.
#[derive(Debug, Default)]
pub(super) struct InFlight(HashMap<String, Arc<AtomicU64>>);

/// Whether a message is still the latest of its subject.
#[derive(Debug, Clone)]
pub(super) struct Latest {
    cell: Arc<AtomicU64>,
    stamp: u64,
}

impl InFlight {
    /// From now on this stamp is the latest of the subject.
    pub(super) fn begin(&mut self, subject: &str, stamp: u64) -> Latest {
        if self.0.len() >= 2 * IN_FLIGHT {
            // Those that nobody waits for any more.
            self.0.retain(|_, cell| Arc::strong_count(cell) > 1);
        }
        let cell = Arc::clone(self.0.entry(subject.to_owned()).or_default());
        cell.store(stamp, Ordering::Relaxed);
        Latest { cell, stamp }
    }
}

impl Latest {
    pub(super) fn holds(&self) -> bool {
        self.cell.load(Ordering::Relaxed) == self.stamp
    }
}

/// Sends once, and again while nothing is acknowledged and `may_repeat` says so. An acknowledgement of any of them will do.
///
/// # Errors
/// When none came within [`TIMEOUT`]: what the server said, or that it said nothing.
pub(super) async fn until_acknowledged<E: Display, Sent: Future<Output = Result<(), E>>>(
    send: impl Fn() -> Sent,
    may_repeat: impl Fn() -> bool,
) -> Result<(), String> {
    let begin = Instant::now();
    let mut sent = FuturesUnordered::from_iter([send()]);
    let mut repeats = AGAIN.into_iter();
    let mut repeat = repeats.next();
    let mut refused = None;
    loop {
        tokio::select! {
            // First, so that what is acknowledged already is not sent again.
            biased;
            Some(done) = sent.next(), if !sent.is_empty() => match done {
                Ok(()) => return Ok(()),
                // Not the last word: a cluster that chooses a leader refuses for a moment.
                Err(error) => refused = Some(error.to_string()),
            },
            () = sleep_until(begin + repeat.unwrap_or(TIMEOUT)) => match repeat.take() {
                Some(_) if may_repeat() => {
                    sent.push(send());
                    repeat = repeats.next();
                }
                Some(_) => {}
                None => return Err(refused.unwrap_or_else(|| format!("no answer within {} s", TIMEOUT.as_secs()))),
            },
        }
        if let (None, true, Some(why)) = (repeat, sent.is_empty(), &refused) {
            return Err(why.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// Which sending is answered, when after it, and how.
    type Answers = &'static [(usize, u64, Result<(), &'static str>)];

    /// Returns the outcome, when it was there, and when each was sent, in ms.
    async fn publish(answers: Answers, repeats: usize) -> (Result<(), String>, u64, Vec<u64>) {
        let begin = Instant::now();
        let since = move || begin.elapsed().as_millis() as u64;
        let times = Mutex::new(Vec::new());
        let send = || {
            let mut times = times.lock().unwrap();
            let number = times.len();
            times.push(since());
            let answer = answers.iter().find(|(of, ..)| *of == number);
            async move {
                let Some((_, after, done)) = answer else { return std::future::pending().await };
                tokio::time::sleep(Duration::from_millis(*after)).await;
                *done
            }
        };
        let done = until_acknowledged(send, || times.lock().unwrap().len() <= repeats).await;
        let times = times.lock().unwrap().clone();
        (done, since(), times)
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_not_acknowledged_is_sent_again_until_one_of_them_is() {
        let ok = Ok(());
        let check = async |answers: Answers, expected: (Result<(), &str>, u64, &[u64])| {
            let (done, at, times) = publish(answers, 9).await;
            assert_eq!(
                (done.as_ref().map_err(String::as_str).copied(), at, &times[..]),
                expected,
                "{answers:?}"
            );
        };
        check(&[(0, 5, Ok(()))], (ok, 5, &[0])).await;
        check(&[(1, 5, Ok(()))], (ok, 305, &[0, 300])).await;
        check(&[(3, 5, Ok(()))], (ok, 2_005, &[0, 300, 1_000, 2_000])).await;
        // The first is answered late: that is an answer too.
        check(&[(0, 1_500, Ok(()))], (ok, 1_500, &[0, 300, 1_000])).await;
        // A cluster without a leader refuses at once.
        check(&[(0, 1, Err("no responders")), (1, 5, Ok(()))], (ok, 305, &[0, 300])).await;
        check(&[], (Err("no answer within 5 s"), 5_000, &[0, 300, 1_000, 2_000])).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_of_all_is_said_and_not_waited_for() {
        const NO: Result<(), &str> = Err("too large");
        const ALL: Answers = &[(0, 1, NO), (1, 1, NO), (2, 1, NO), (3, 1, NO)];
        let (done, at, _) = publish(ALL, 9).await;
        assert_eq!((done.unwrap_err().as_str(), at), ("too large", 2_001));
    }

    #[tokio::test(start_paused = true)]
    async fn newer_words_of_the_same_subject_are_never_overtaken() {
        let (done, at, times) = publish(&[], 0).await;
        assert!(done.is_err());
        assert_eq!((at, times), (5_000, vec![0]), "given up only when no answer came");
        let mut in_flight = InFlight::default();
        let (ban, other) = (in_flight.begin("a", 1), in_flight.begin("b", 2));
        assert!(ban.holds() && other.holds());
        let withdrawal = in_flight.begin("a", 3);
        assert!(!ban.holds() && other.holds() && withdrawal.holds());
        drop((ban, other));
        (0..10_000).for_each(|n| drop(in_flight.begin(&n.to_string(), n)));
        assert!(in_flight.0.len() <= 2 * IN_FLIGHT && withdrawal.holds(), "it does not grow");
    }
}
