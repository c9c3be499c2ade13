//! Whether an address is a search engine's: its reverse name lies in a known domain, and that name leads back to the
//! address (the check that the engines themselves publish). Asked only at the moment of a ban, off the hot path, and
//! remembered.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use crate::owner::{Handle, Message, Verified};
use shield_engine::client::Client;

/// Domains under which the engines' crawlers resolve, as their operators document. Never a hoster's domain: everybody
/// can rent a name under `googleusercontent.com`.
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
/// Answers remembered at most.
const MAX_REMEMBERED: usize = 10_000;
/// Questions under way at most; beyond it a client is simply not verified.
const MAX_ASKING: usize = 16;

/// Asks DNS, remembers answers.
#[derive(Clone, Default)]
pub(crate) struct SearchEngines {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Default)]
struct Inner {
    answers: HashMap<IpAddr, Verified>,
    asking: usize,
}

impl SearchEngines {
    /// Finds out about an address and tells the owner; never blocks.
    pub(crate) fn verify(&self, client: Client, addr: IpAddr, owner: &Handle) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let known = inner.answers.get(&addr).copied();
        if known.is_some() || inner.asking >= MAX_ASKING {
            return owner.say(Message::BotVerified(client, known.unwrap_or(Verified::Unknown)));
        }
        inner.asking += 1;
        drop(inner);
        let (this, owner) = (self.clone(), owner.clone());
        let asked = std::thread::Builder::new().name("dns".to_owned()).spawn(move || {
            let verified = ask(addr);
            this.remember(addr, verified);
            owner.say(Message::BotVerified(client, verified));
        });
        if let Err(error) = asked {
            // The engine bans after its time limit.
            tracing::warn!("cannot ask DNS about {addr}: {error}");
        }
    }

    fn remember(&self, addr: IpAddr, verified: Verified) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.asking = inner.asking.saturating_sub(1);
        if inner.answers.len() >= MAX_REMEMBERED {
            inner.answers.clear();
        }
        inner.answers.insert(addr, verified);
    }
}

fn ask(addr: IpAddr) -> Verified {
    let Ok(name) = dns_lookup::lookup_addr(&addr) else { return Verified::Unknown };
    if !is_crawler_name(&name) {
        return Verified::Unknown;
    }
    let leads_back = dns_lookup::lookup_host(&name).is_ok_and(|mut addrs| addrs.any(|a| a == addr));
    if leads_back { Verified::Genuine } else { Verified::Unknown }
}

/// Whether a host name lies under a known crawler domain.
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
