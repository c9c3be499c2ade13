//! Verifies by DNS that an address is a search engine's: its reverse name lies in a known domain, and that name resolves
//! back to the address (the check that the engines themselves publish). Runs only at the moment of a ban, on a thread of
//! its own, and caches the result.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

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

#[derive(Clone, Default)]
pub(crate) struct SearchEngines {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Default)]
struct Inner {
    answers: HashMap<IpAddr, Verified>,
    lookups: usize,
}

impl SearchEngines {
    /// Verifies an address and sends the result to the owner. Never blocks.
    pub(crate) fn verify(&self, client: Client, addr: IpAddr, owner: &Handle) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let known = inner.answers.get(&addr).copied();
        if known.is_some() || inner.lookups >= MAX_LOOKUPS {
            return owner.send(Message::BotVerified(client, known.unwrap_or(Verified::Unknown)));
        }
        inner.lookups += 1;
        drop(inner);
        let (this, owner) = (self.clone(), owner.clone());
        let started = std::thread::Builder::new().name("dns".to_owned()).spawn(move || {
            let verified = lookup(addr);
            this.cache(addr, verified);
            owner.send(Message::BotVerified(client, verified));
        });
        if let Err(error) = started {
            // No result is sent: the engine bans after its time limit.
            tracing::warn!("could not start the DNS lookup of {addr}: {error}");
            self.inner.lock().unwrap_or_else(PoisonError::into_inner).lookups -= 1;
        }
    }

    fn cache(&self, addr: IpAddr, verified: Verified) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.lookups = inner.lookups.saturating_sub(1);
        if inner.answers.len() >= MAX_CACHED {
            inner.answers.clear();
        }
        inner.answers.insert(addr, verified);
    }
}

fn lookup(addr: IpAddr) -> Verified {
    let Ok(name) = dns_lookup::lookup_addr(&addr) else { return Verified::Unknown };
    if !is_crawler_name(&name) {
        return Verified::Unknown;
    }
    let resolves_back = dns_lookup::lookup_host(&name).is_ok_and(|mut addrs| addrs.any(|a| a == addr));
    if resolves_back { Verified::Genuine } else { Verified::Unknown }
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
