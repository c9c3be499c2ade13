//! Proxies as the log shows them: the connections' addresses (`$realip_remote_addr`) where they are not the clients'.
//!
//! Only nginx writes the field, and it replaces an address for the proxies alone that its configuration trusts. Even so a claim
//! takes nobody out of the kernel: a ban of a client behind a proxy is enforced everywhere. What is derived is where a ban takes
//! effect, in words, and that an address which several clients come by is not banned itself.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::vocab::client::Client;
use crate::vocab::time::EventSecs;

/// Clients that come by an address before it is taken for a proxy. A single one may have two addresses.
const MIN_CLIENTS: usize = 3;
/// How long an address stays a proxy after the last client that came by it.
const KEEP_SECS: i64 = 3_600;
/// A content delivery network has some thousands of addresses that fetch from one site.
const MAX_PEERS: usize = 8_192;
/// Clients whose proxy is remembered until their bans are made.
const MAX_CLIENTS: usize = 10_000;

/// The proxies that clients came by.
#[derive(Debug, Default)]
pub(crate) struct Peers {
    seen: BTreeMap<IpAddr, Seen>,
    /// The proxies of clients whose bans are about to be made.
    of_clients: BTreeMap<Client, IpAddr>,
}

#[derive(Debug)]
struct Seen {
    clients: [Option<Client>; MIN_CLIENTS],
    last: EventSecs,
}

impl Seen {
    fn is_proxy(&self, second: EventSecs) -> bool {
        self.clients.iter().all(Option::is_some) && second.saturating_sub(self.last) <= KEEP_SECS
    }
}

impl Peers {
    /// Records that a client's connection came from `peer`.
    pub(crate) fn came_by(&mut self, client: Client, peer: IpAddr, second: EventSecs) {
        if self.seen.len() >= MAX_PEERS && !self.seen.contains_key(&peer) {
            self.seen.retain(|_, seen| seen.is_proxy(second));
            if self.seen.len() >= MAX_PEERS {
                return;
            }
        }
        let seen = self.seen.entry(peer).or_insert(Seen { clients: [None; MIN_CLIENTS], last: second });
        if second.saturating_sub(seen.last) > KEEP_SECS {
            seen.clients = [None; MIN_CLIENTS];
        }
        seen.last = seen.last.max(second);
        if !seen.clients.contains(&Some(client))
            && let Some(free) = seen.clients.iter_mut().find(|known| known.is_none())
        {
            *free = Some(client);
        }
    }

    /// Returns a proxy in this network, a client's or a wider one.
    pub(crate) fn proxy_in(&self, client: Client, second: EventSecs) -> Option<IpAddr> {
        if self.seen.is_empty() {
            return None;
        }
        let (first, last) = match client.network() {
            IpNet::V4(network) => (IpAddr::V4(network.network()), IpAddr::V4(network.broadcast())),
            IpNet::V6(network) => (IpAddr::V6(network.network()), IpAddr::V6(network.broadcast())),
        };
        let inside = self.seen.range(first..=last).find(|(_, seen)| seen.is_proxy(second));
        inside.map(|(peer, _)| *peer)
    }

    /// Remembers the proxy of a client until its ban is made.
    pub(crate) fn remember(&mut self, client: Client, peer: IpAddr) {
        if self.of_clients.len() >= MAX_CLIENTS {
            self.of_clients.clear();
        }
        self.of_clients.insert(client, peer);
    }

    /// The proxy of a client whose ban is made now.
    pub(crate) fn take(&mut self, client: Client) -> Option<IpAddr> {
        if self.of_clients.is_empty() { None } else { self.of_clients.remove(&client) }
    }
}

/// Where the ban of a client behind a proxy takes effect.
pub(crate) fn where_enforced(peer: IpAddr, nginx_active: bool) -> String {
    if nginx_active {
        format!("proxied: its packets come from {peer}, so nginx refuses its requests")
    } else {
        format!(
            "proxied: its packets come from {peer}, so XDP and iptables cannot drop them; set [nginx] mode = \"on\" \
             (see `shield-agent init nginx-deny`)"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: &str = "192.0.2.10";

    fn client(n: u8) -> Client {
        std::net::Ipv4Addr::from([203, 0, 113, n]).into()
    }

    fn peer(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn is_proxy(peers: &Peers, text: &str, second: EventSecs) -> bool {
        peers.proxy_in(text.parse().unwrap(), second).is_some()
    }

    #[test]
    fn an_address_that_several_clients_come_by_is_a_proxy_for_an_hour() {
        let mut peers = Peers::default();
        for (n, expected) in [(1, false), (1, false), (2, false), (3, true)] {
            peers.came_by(client(n), peer(PEER), 1_000);
            assert_eq!(is_proxy(&peers, PEER, 1_000), expected, "{n}");
        }
        assert!(is_proxy(&peers, "192.0.2.0/24", 1_000), "and so is the network around it");
        assert!(!is_proxy(&peers, "192.0.2.11", 1_000));
        assert!(is_proxy(&peers, PEER, 1_000 + KEEP_SECS));
        assert!(!is_proxy(&peers, PEER, 1_001 + KEEP_SECS));
        peers.came_by(client(4), peer(PEER), 1_001 + KEEP_SECS);
        assert!(!is_proxy(&peers, PEER, 1_001 + KEEP_SECS), "it begins anew");
    }

    #[test]
    fn the_addresses_kept_are_bounded_and_proxies_stay() {
        let mut peers = Peers::default();
        (1..=3).for_each(|n| peers.came_by(client(n), peer(PEER), 0));
        for n in 0..2 * MAX_PEERS as u32 {
            peers.came_by(client(9), IpAddr::V4(n.into()), 0);
            assert!(peers.seen.len() <= MAX_PEERS);
        }
        assert!(is_proxy(&peers, PEER, 0));
    }
}
