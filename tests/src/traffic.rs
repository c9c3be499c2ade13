//! Visitors and attackers: threads in namespaces that make requests at a given pace and write down what came of each.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::http::{Get, is_timeout};
use crate::netns::Namespace;

/// What a visitor asks for, in turn: pages and what they load. All of it exists.
pub const VISIT: &[&str] = &["/", "/static/app.js", "/static/style.css", "/static/logo.svg"];

/// How somebody behaves.
#[derive(Debug, Clone, Copy)]
pub struct Behaviour {
    /// Where the server listens.
    pub server: SocketAddr,
    /// The address to come from; the kernel's choice when `None`.
    pub from: Option<IpAddr>,
    /// Asked for in turn, again and again.
    pub paths: &'static [&'static str],
    /// From the beginning of one request to that of the next, for one thread; a slow answer makes it longer.
    pub pause: Duration,
    /// When an answer counts as lost.
    pub timeout: Duration,
    /// How many do this at the same time. 1 is a visitor.
    pub threads: usize,
}

/// One request and what came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    /// When it was begun.
    pub at: Instant,
    /// What came.
    pub outcome: Outcome,
}

/// What came of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// An answer with this status, after so long.
    Answered(u16, Duration),
    /// Nothing in time.
    TimedOut,
    /// Something else went wrong: refused, reset, not HTTP.
    Failed,
}

/// Somebody who is making requests; stops when dropped.
#[derive(Debug)]
pub struct Requester {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    is_over: AtomicBool,
    begun: AtomicUsize,
    samples: Mutex<Vec<Sample>>,
}

impl Requester {
    /// Starts making requests from this namespace.
    pub fn start(namespace: &Namespace, behaviour: Behaviour) -> Self {
        let shared = Arc::new(Shared::default());
        let threads = (0..behaviour.threads)
            .map(|_| {
                let shared = Arc::clone(&shared);
                namespace.spawn(move || make_requests(behaviour, &shared))
            })
            .collect();
        Self { shared, threads }
    }

    /// Everything so far, in the order in which it ended.
    pub fn samples(&self) -> Vec<Sample> {
        self.shared.samples.lock().expect("no requesting thread panics while it holds the samples").clone()
    }

    /// Ends it, waiting for the requests under way, and returns everything.
    pub fn stop(mut self) -> Vec<Sample> {
        self.end();
        self.samples()
    }

    fn end(&mut self) {
        self.shared.is_over.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Drop for Requester {
    fn drop(&mut self) {
        self.end();
    }
}

fn make_requests(behaviour: Behaviour, shared: &Shared) {
    while !shared.is_over.load(Ordering::Relaxed) {
        let at = Instant::now();
        let number = shared.begun.fetch_add(1, Ordering::Relaxed);
        let path = behaviour.paths[number % behaviour.paths.len()];
        let outcome = request(&behaviour, path);
        let samples = &shared.samples;
        samples
            .lock()
            .expect("no requesting thread panics while it holds the samples")
            .push(Sample { at, outcome });
        std::thread::sleep(behaviour.pause.saturating_sub(at.elapsed()));
    }
}

fn request(behaviour: &Behaviour, path: &str) -> Outcome {
    let get = Get { server: behaviour.server, from: behaviour.from, path, timeout: behaviour.timeout };
    match get.send() {
        Ok(response) => Outcome::Answered(response.status, response.took),
        Err(error) if is_timeout(&error) => Outcome::TimedOut,
        Err(_) => Outcome::Failed,
    }
}

/// The latency that this share (0..=1) of the answered requests stays within; `None` when none was answered.
pub fn latency_quantile(samples: &[Sample], share: f64) -> Option<Duration> {
    let mut took: Vec<Duration> = samples
        .iter()
        .filter_map(|sample| match sample.outcome {
            Outcome::Answered(_, took) => Some(took),
            Outcome::TimedOut | Outcome::Failed => None,
        })
        .collect();
    took.sort_unstable();
    let last = took.len().checked_sub(1)?;
    // Nearest rank.
    let rank = (share * took.len() as f64).ceil() as usize;
    took.get(rank.saturating_sub(1).min(last)).copied()
}

/// How many requests got no answer at all.
pub fn lost(samples: &[Sample]) -> usize {
    samples.iter().filter(|sample| !matches!(sample.outcome, Outcome::Answered(..))).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(ms: u64) -> Sample {
        Sample { at: Instant::now(), outcome: Outcome::Answered(200, Duration::from_millis(ms)) }
    }

    #[test]
    fn quantiles_are_by_nearest_rank_over_answered_requests() {
        let mut samples: Vec<Sample> = (1..=100).map(answered).collect();
        samples.push(Sample { at: Instant::now(), outcome: Outcome::TimedOut });
        let check =
            |share, ms| assert_eq!(latency_quantile(&samples, share), Some(Duration::from_millis(ms)));
        check(0.0, 1);
        check(0.5, 50);
        check(0.99, 99);
        check(1.0, 100);
        assert_eq!(latency_quantile(&[], 0.5), None);
        assert_eq!(lost(&samples), 1);
    }
}
