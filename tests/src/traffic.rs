//! Visitors and attackers: threads in namespaces that send requests at a given rate and record the outcome of each.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::http::{Get, is_timeout};
use crate::netns::Namespace;

/// The paths that a visitor requests in turn: a page and its assets, all of which exist.
pub const VISITED_PATHS: &[&str] = &["/", "/static/app.js", "/static/style.css", "/static/logo.svg"];

/// The requests of a visitor or an attacker.
#[derive(Debug, Clone, Copy)]
pub struct Behaviour {
    /// The server's address and port.
    pub server: SocketAddr,
    /// The source address; `None` lets the kernel choose.
    pub from: Option<IpAddr>,
    /// Requested in turn, repeatedly.
    pub paths: &'static [&'static str],
    /// Time from the start of one request to the start of the next one of the same thread; a slow answer extends it.
    pub pause: Duration,
    /// An answer that takes longer counts as lost.
    pub timeout: Duration,
    /// Parallel requests; 1 for a visitor.
    pub threads: usize,
}

/// A request and its outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    /// The start of the request.
    pub at: Instant,
    /// Its outcome.
    pub outcome: Outcome,
}

/// The outcome of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// An answer with its status and latency.
    Answered(u16, Duration),
    /// No answer in time.
    TimedOut,
    /// Another failure: refused, reset, not HTTP.
    Failed,
}

/// A running visitor or attacker. Dropping it stops it.
#[derive(Debug)]
pub struct Requester {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    is_stopped: AtomicBool,
    started: AtomicUsize,
    samples: Mutex<Vec<Sample>>,
}

impl Requester {
    /// Starts sending requests from this namespace.
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

    /// The requests so far, in the order of their ends.
    pub fn samples(&self) -> Vec<Sample> {
        self.shared.samples.lock().expect("no requesting thread panics while it holds the samples").clone()
    }

    /// Waits for the requests in progress, stops, and returns all requests.
    pub fn stop(mut self) -> Vec<Sample> {
        self.end();
        self.samples()
    }

    fn end(&mut self) {
        self.shared.is_stopped.store(true, Ordering::Relaxed);
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
    while !shared.is_stopped.load(Ordering::Relaxed) {
        let at = Instant::now();
        let number = shared.started.fetch_add(1, Ordering::Relaxed);
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

/// The latency that this share (0..=1) of the answered requests does not exceed; `None` if none was answered.
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
    // The nearest-rank method, so that the result is a latency that was measured.
    let rank = (share * took.len() as f64).ceil() as usize;
    took.get(rank.saturating_sub(1).min(last)).copied()
}

/// The number of requests without an answer.
pub fn count_lost(samples: &[Sample]) -> usize {
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
        assert_eq!(count_lost(&samples), 1);
    }
}
