//! Counts requests, learns what this server's traffic looks like, and judges clients against it.
//!
//! The windows are `window.rs`, the table `clients.rs`, the learned levels `baseline.rs`, the rules `rules.rs`.

use std::fmt;

use super::client::Client;
use super::policy::Policy;
use super::report::{BaselineView, ClientSummary, DetectorStatus, Explanation, GlobalChange};
use super::request::Request;
use super::time::EventSecs;
use super::verdict::Verdict;

/// How a client stands when its request is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Nothing is known against it: its request is counted, judged and learned from.
    Normal,
    /// It is banned: its request is shown in the totals, but not judged and teaches nothing.
    Banned,
}

/// Why a saved baseline could not be restored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadBaseline(String);

impl fmt::Display for BadBaseline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the saved baseline cannot be used ({}); learning starts anew", self.0)
    }
}

impl std::error::Error for BadBaseline {}

/// Learns what this server's traffic looks like and judges clients against it.
pub struct Detector {
    policy: Policy,
    ipv6_prefix: u8,
    seed: u64,
    latest: EventSecs,
}

impl Detector {
    /// A detector that knows nothing yet. `ipv6_prefix` is the length that makes an IPv6 client (1..=128). `seed`
    /// spreads the hash tables so that nobody can aim at them; no answer depends on it.
    pub fn new(policy: Policy, ipv6_prefix: u8, seed: u64) -> Detector {
        Detector { policy, ipv6_prefix, seed, latest: 0 }
    }

    /// The settings it runs with.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// The client that a request is counted for.
    pub fn client_of(&self, request: &Request<'_>) -> Client {
        Client::of_addr(request.addr, self.ipv6_prefix)
    }

    /// Counts one request of `client` at `second` and judges the client.
    pub fn observe(
        &mut self,
        request: &Request<'_>,
        second: EventSecs,
        client: Client,
        standing: Standing,
    ) -> Verdict {
        let _ = (request, client, standing, self.seed);
        self.latest = self.latest.max(second);
        Verdict::Normal
    }

    /// Time has come to `second`, with or without requests: recomputes what is due and says how the whole server's
    /// state changed. Call it at least once a second while live; requests in order do the same by themselves.
    pub fn tick(&mut self, second: EventSecs) -> Vec<GlobalChange> {
        self.latest = self.latest.max(second);
        Vec::new()
    }

    /// Forgets a client's windows: after an unban, so that old requests do not ban it again at once.
    pub fn forget(&mut self, client: Client) {
        let _ = client;
    }

    /// Each rule's value beside its threshold for one client, as of `second`.
    pub fn explain(&self, client: Client, second: EventSecs) -> Explanation {
        Explanation {
            client,
            at_secs: second,
            known: false,
            window_secs: 60,
            requests: 0,
            errors: 0,
            rate: 0.0,
            baseline: nothing_learned(),
            rules: Vec::new(),
            top_paths: Vec::new(),
        }
    }

    /// The `n` busiest clients over the 60 s up to `second`, busiest first.
    pub fn top(&self, n: usize, second: EventSecs) -> Vec<ClientSummary> {
        let _ = (n, second);
        Vec::new()
    }

    /// The detector's own state.
    pub fn status(&self) -> DetectorStatus {
        DetectorStatus {
            warming_up: true,
            warm_up_left_secs: self.policy.warm_up_secs,
            global_rate: 0.0,
            global_error_rate: 0.0,
            global: nothing_learned(),
            clients: nothing_learned(),
            global_anomaly: false,
            frozen: false,
            hour_slots: 0,
            hours: vec![None; 24],
            clients_tracked: 0,
            evicted: 0,
            clients_bytes: 0,
            latest_secs: self.latest,
        }
    }

    /// Clients that asked for something in the last 10 min: what a blast radius is a share of.
    pub fn active_clients(&self) -> usize {
        0
    }

    /// Clients inside `network` that asked for something in the last 10 min and did nothing wrong.
    pub fn clean_clients_in(&self, network: Client) -> u32 {
        let _ = network;
        0
    }

    /// What was learned, to be kept over a restart.
    pub fn save(&self) -> Vec<u8> {
        Vec::new()
    }

    /// Takes up what [`Detector::save`] wrote.
    pub fn restore(&mut self, saved: &[u8]) -> Result<(), BadBaseline> {
        if saved.is_empty() { Ok(()) } else { Err(BadBaseline("of an unknown version".to_owned())) }
    }
}

fn nothing_learned() -> BaselineView {
    BaselineView { source: "warm_up".to_owned(), mean: 0.1, stddev: 0.1, error_mean: 0.1, samples: 0 }
}
