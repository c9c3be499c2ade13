//! Verifies by DNS that an address is a search engine's: its reverse name lies in a known domain, and that name resolves
//! back to the address (the check that the engines themselves publish). Runs only at the moment of a ban, on a thread of
//! its own, and caches the result.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use dns_lookup::{LookupError, LookupErrorKind};

use crate::pipeline::{Handle, Message, Verified};
use shield_engine::client::Client;

/// Domains under which the engines' crawlers resolve, as their operators document. Never a hosting provider's
/// domain: anyone can rent a name under `googleusercontent.com`.
const DOMAINS: [&str; 9] = [
    "googlebot.com",
    "google.com",
    "search.msn.com",
    "applebot.apple.com",
    "crawl.yahoo.net",
    "crawl.baidu.com",
    "crawl.baidu.jp",
    "yandex.com",
    "yandex.net",
];
const MAX_CACHED: usize = 10_000;
/// Lookups at the same time. Beyond it a client counts as not verified: a flood must not start a thread for each address.
const MAX_LOOKUPS: usize = 16;

/// A name that no resolver knows (RFC 2606), but that each answers for.
const PROBE: &str = "shield.invalid";
/// The time between two probes while no resolver answers.
const PROBE_EVERY: Duration = Duration::from_secs(60);
/// A lookup that takes longer than the engine waits is as good as none.
const TOO_LONG: Duration = Duration::from_secs(2);
/// Slow or failed lookups in a row after which nobody waits for the resolvers any more.
const MAX_FAILURES: u32 = 3;

/// Looks names up. No ban waits before a resolver has answered, or after it has ceased to: a host without resolvers bans
/// as fast as if search engines were not verified.
#[derive(Clone)]
pub(crate) struct SearchEngines {
    inner: Arc<Mutex<Inner>>,
}

struct Inner {
    answers: HashMap<IpAddr, Verified>,
    lookups: usize,
    resolvers: Resolvers,
}

/// Whether the resolvers answer.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Resolvers {
    /// `failures` lookups in a row were slow or failed.
    Answer { failures: u32 },
    /// `probed` is the start of the last probe.
    Silent { probed: Option<Instant> },
}

impl Resolvers {
    fn note(&mut self, is_answered: bool) {
        *self = match (*self, is_answered) {
            (_, true) => Resolvers::Answer { failures: 0 },
            (Resolvers::Answer { failures }, false) if failures + 1 < MAX_FAILURES => {
                Resolvers::Answer { failures: failures + 1 }
            }
            (Resolvers::Answer { .. }, false) => Resolvers::Silent { probed: None },
            (silent, false) => silent,
        };
    }

    fn is_probe_due(self, now: Instant) -> bool {
        let Resolvers::Silent { probed } = self else { return false };
        probed.is_none_or(|at| now.duration_since(at) >= PROBE_EVERY)
    }
}

impl SearchEngines {
    /// Asks whether resolvers answer, so that the first search engine that trips a rule can be verified.
    pub(crate) fn start() -> SearchEngines {
        let resolvers = Resolvers::Silent { probed: None };
        let inner = Inner { answers: HashMap::new(), lookups: 0, resolvers };
        let this = SearchEngines { inner: Arc::new(Mutex::new(inner)) };
        this.probe_if_due();
        this
    }

    /// Verifies an address and sends the result to the owner. Never blocks.
    pub(crate) fn verify(&self, client: Client, addr: IpAddr, owner: &Handle) {
        self.probe_if_due();
        let mut inner = self.lock();
        let known = inner.answers.get(&addr).copied();
        let is_silent = matches!(inner.resolvers, Resolvers::Silent { .. });
        if known.is_some() || is_silent || inner.lookups >= MAX_LOOKUPS {
            drop(inner);
            return owner.send(Message::BotVerified(client, known.unwrap_or(Verified::Unknown)));
        }
        inner.lookups += 1;
        drop(inner);
        let owner = owner.clone();
        let is_started = self.look_up(move |this| {
            let (verified, is_answered) = timed(|| lookup(addr));
            this.finish(is_answered, is_answered.then_some((addr, verified)));
            owner.send(Message::BotVerified(client, verified));
        });
        if !is_started {
            // No result is sent: the engine bans after its time limit.
            self.lock().lookups -= 1;
        }
    }

    fn probe_if_due(&self) {
        let now = Instant::now();
        let mut inner = self.lock();
        if !inner.resolvers.is_probe_due(now) {
            return;
        }
        inner.resolvers = Resolvers::Silent { probed: Some(now) };
        inner.lookups += 1;
        drop(inner);
        let is_started = self.look_up(|this| {
            let ((), is_answered) = timed(|| ((), answered(dns_lookup::lookup_host(PROBE).err())));
            this.finish(is_answered, None);
        });
        if !is_started {
            self.lock().lookups -= 1;
        }
    }

    fn look_up(&self, work: impl FnOnce(&SearchEngines) + Send + 'static) -> bool {
        let this = self.clone();
        let started = std::thread::Builder::new().name("dns".to_owned()).spawn(move || work(&this));
        started.map_err(|error| tracing::warn!("could not start a DNS lookup: {error}")).is_ok()
    }

    fn finish(&self, is_answered: bool, answer: Option<(IpAddr, Verified)>) {
        let mut inner = self.lock();
        inner.lookups = inner.lookups.saturating_sub(1);
        let before = std::mem::discriminant(&inner.resolvers);
        inner.resolvers.note(is_answered);
        let has_changed = std::mem::discriminant(&inner.resolvers) != before;
        let is_silent = matches!(inner.resolvers, Resolvers::Silent { .. });
        if let Some((addr, verified)) = answer {
            if inner.answers.len() >= MAX_CACHED {
                inner.answers.clear();
            }
            inner.answers.insert(addr, verified);
        }
        drop(inner);
        if has_changed && is_silent {
            tracing::warn!("no DNS resolver answers: search engines are banned like others until one does");
        } else if has_changed {
            tracing::info!("a DNS resolver answers: search engines are verified before a ban");
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The result, and whether a resolver answered in time.
fn timed<T>(work: impl FnOnce() -> (T, bool)) -> (T, bool) {
    let began = Instant::now();
    let (result, is_answered) = work();
    (result, is_answered && began.elapsed() < TOO_LONG)
}

/// Whether a resolver answered: "there is no such name" is an answer.
fn answered(error: Option<LookupError>) -> bool {
    error.is_none_or(|error| matches!(error.kind(), LookupErrorKind::NoName | LookupErrorKind::NoData))
}

fn lookup(addr: IpAddr) -> (Verified, bool) {
    let name = match dns_lookup::lookup_addr(&addr) {
        Ok(name) => name,
        Err(error) => return (Verified::Unknown, answered(Some(error))),
    };
    if !is_crawler_name(&name) {
        return (Verified::Unknown, true);
    }
    match dns_lookup::lookup_host(&name) {
        Ok(mut addrs) => {
            let resolves_back = addrs.any(|found| found == addr);
            (if resolves_back { Verified::Genuine } else { Verified::Unknown }, true)
        }
        Err(error) => (Verified::Unknown, answered(Some(error))),
    }
}

pub(crate) fn is_crawler_name(name: &str) -> bool {
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    let under = |domain: &str| name.strip_suffix(domain).is_some_and(|head| head.ends_with('.'));
    DOMAINS.iter().any(|domain| under(domain))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_waits_for_resolvers_that_do_not_answer() {
        let now = Instant::now();
        let mut resolvers = Resolvers::Silent { probed: None };
        assert!(resolvers.is_probe_due(now));
        resolvers = Resolvers::Silent { probed: Some(now) };
        assert!(!resolvers.is_probe_due(now + PROBE_EVERY / 2) && resolvers.is_probe_due(now + PROBE_EVERY));
        resolvers.note(false);
        assert_eq!(resolvers, Resolvers::Silent { probed: Some(now) });
        resolvers.note(true);
        for _ in 1..MAX_FAILURES {
            resolvers.note(false);
            assert!(matches!(resolvers, Resolvers::Answer { .. }), "one slow answer is no outage");
        }
        resolvers.note(false);
        assert_eq!(resolvers, Resolvers::Silent { probed: None });
    }

    #[test]
    fn names_that_only_look_like_a_crawlers_are_refused() {
        let check = |name: &str, expected| assert_eq!(is_crawler_name(name), expected, "{name}");
        check("crawl-192-0-2-1.googlebot.com", true);
        check("Crawl-192-0-2-1.GoogleBot.com.", true);
        check("msnbot-192-0-2-1.search.msn.com", true);
        check("googlebot.com", false);
        check("googlebot.com.example.org", false);
        check("evilgooglebot.com", false);
        check("1.2.0.192.bc.googleusercontent.com", false);
        check("", false);
    }
}
