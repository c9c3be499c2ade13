//! Sends the requests of an attack at its pace, from threads in the attackers' namespace, and watches for the bans meanwhile.

use std::net::{IpAddr, SocketAddr};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;

use super::kinds::Plan;
use super::{Limits, now_ms};
use crate::agent_api::AgentApi;
use crate::guard::OwnNamespace;
use crate::wire::Request;

/// An answer that takes longer counts as none.
const PATIENCE: Duration = Duration::from_secs(1);
/// Most of them wait for an answer while packets are dropped.
const THREADS: usize = 16;
/// How often the agent is asked whether all are banned.
const ASK_EVERY: Duration = Duration::from_millis(250);
/// The attack goes on for so long after the last ban, to show that it holds.
const AFTER_BAN: Duration = Duration::from_secs(3);
/// nginx' own refusal of the banned is no answer of the site. A proxy in front answers 502 where nginx has closed the connection.
const REFUSALS: [u16; 4] = [403, 429, 444, 502];

/// What is attacked.
#[derive(Debug, Clone, Copy)]
pub(super) struct Site<'a> {
    pub address: SocketAddr,
    pub host: &'a str,
}

/// The requests that were sent.
#[derive(Debug, Default)]
pub(super) struct Sent {
    pub count: u32,
    pub answered: Vec<Answered>,
    /// The first so many sources were used.
    sources: Vec<IpAddr>,
}

/// A request that was answered.
#[derive(Debug, Clone, Copy)]
pub(super) struct Answered {
    pub from: IpAddr,
    /// When it began.
    pub at_ms: i64,
}

impl Sent {
    pub(super) fn used(&self, source: IpAddr) -> bool {
        self.sources.contains(&source)
    }
}

/// Sends until all sources are banned, or up to the limits.
pub(super) fn send(
    namespace: &OwnNamespace,
    plan: &Plan,
    limits: Limits,
    target: Site<'_>,
    bans: &AgentApi,
) -> Result<Sent> {
    let work = Work {
        plan,
        limits,
        target,
        began: Instant::now(),
        next: AtomicU32::new(0),
        is_over: AtomicBool::new(false),
        answered: Mutex::new(Vec::new()),
    };
    namespace.enter(|| {
        std::thread::scope(|scope| {
            // Threads inherit the namespace of whoever starts them.
            let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(|| work.send_until_over())).collect();
            work.watch(bans, || threads.iter().all(std::thread::ScopedJoinHandle::is_finished));
        });
    })?;
    let count = work.next.load(Ordering::Relaxed).min(limits.requests);
    let sources = plan.sources.iter().copied().take(count as usize).collect();
    let answered = work.answered.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    Ok(Sent { count, answered, sources })
}

struct Work<'a> {
    plan: &'a Plan,
    limits: Limits,
    target: Site<'a>,
    began: Instant,
    next: AtomicU32,
    is_over: AtomicBool,
    answered: Mutex<Vec<Answered>>,
}

impl Work<'_> {
    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed) || self.began.elapsed() >= self.limits.at_most
    }

    fn send_until_over(&self) {
        while !self.is_over() {
            let n = self.next.fetch_add(1, Ordering::Relaxed);
            if n >= self.limits.requests {
                return;
            }
            let due = self.began + Duration::from_secs_f64(f64::from(n) / self.limits.per_sec);
            if !self.sleep_until(due) {
                // Given back, because it was not sent. Others may have been taken since; then the count is that much too high.
                let _ = self.next.compare_exchange(n + 1, n, Ordering::Relaxed, Ordering::Relaxed);
                return;
            }
            self.send(n);
        }
    }

    /// `false` if the attack is over before.
    fn sleep_until(&self, due: Instant) -> bool {
        loop {
            let left = due.saturating_duration_since(Instant::now());
            if self.is_over() {
                return false;
            }
            if left.is_zero() {
                return true;
            }
            std::thread::sleep(left.min(Duration::from_millis(100)));
        }
    }

    fn send(&self, n: u32) {
        let (probe, from) = (self.plan.probe(n), self.plan.source(n));
        let headers: Vec<(&str, &str)> =
            probe.headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let body = if probe.method == "POST" { "user=admin&password=secret" } else { "" };
        let request = Request {
            method: probe.method,
            host: self.target.host,
            agent: probe.agent,
            headers: &headers,
            body,
            ..Request::get(&probe.target)
        };
        let at_ms = now_ms();
        if let Ok(answer) = request.send(self.target.address, Some(from), PATIENCE)
            && !REFUSALS.contains(&answer.status)
        {
            let mut answered = self.answered.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            answered.push(Answered { from, at_ms });
        }
    }

    /// Ends the attack a while after all are banned; returns when the senders have.
    fn watch(&self, bans: &AgentApi, is_done: impl Fn() -> bool) {
        let mut banned_at: Option<Instant> = None;
        while !is_done() {
            if banned_at.is_none() && self.all_are_banned(bans) {
                banned_at = Some(Instant::now());
            }
            if banned_at.is_some_and(|at| at.elapsed() >= AFTER_BAN) {
                self.is_over.store(true, Ordering::Relaxed);
            }
            std::thread::sleep(ASK_EVERY);
        }
    }

    fn all_are_banned(&self, bans: &AgentApi) -> bool {
        // An agent that is just being started has no answer; the attack goes on.
        let Ok(found) = bans.read() else { return false };
        self.plan.sources.iter().all(|source| found.iter().any(|ban| ban.covers(*source)))
    }
}
