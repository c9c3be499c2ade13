//! Proxies as the log shows them: the connections' addresses (`$realip_remote_addr`) where they are not the clients'.
//!
//! Only nginx writes the field, and it replaces an address for the proxies alone that its configuration trusts. What is derived
//! is by which ways a client came lately, hence where its ban takes effect, and that an address which several clients come by is
//! not banned itself.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::seeded_map::{SeededMap, SeededState};
use crate::vocab::client::Client;
use crate::vocab::request::Way;
use crate::vocab::time::EventSecs;

/// Clients that come by an address before it is taken for a proxy. A single one may have two addresses.
const MIN_CLIENTS: usize = 3;
/// How long an address stays a proxy after the last client that came by it.
const KEEP_SECS: i64 = 3_600;
/// A content delivery network has some thousands of addresses that fetch from one site.
const MAX_PEERS: usize = 8_192;
/// Clients whose proxy is remembered until their bans are made.
const MAX_CLIENTS: usize = 10_000;

/// Clients whose ways are remembered, twice: the older half is forgotten when there are as many newer ones.
const MAX_WAYS: usize = 32_768;

/// The proxies that clients came by.
pub(crate) struct Peers {
    seen: BTreeMap<IpAddr, Seen>,
    /// The ways of the clients seen latest, and of those before.
    ways: [SeededMap<Client, Ways>; 2],
    /// The proxies of clients whose bans are about to be made.
    of_clients: BTreeMap<Client, IpAddr>,
}

/// The ways by which one client came.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Ways {
    pub is_direct: bool,
    pub is_proxied: bool,
}

impl From<Way> for Ways {
    fn from(way: Way) -> Ways {
        let is_unknown = way == Way::Unknown;
        Ways { is_direct: is_unknown || way == Way::Direct, is_proxied: is_unknown || way.peer().is_some() }
    }
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
    pub(crate) fn new(hasher: SeededState) -> Peers {
        let ways = [SeededMap::with_hasher(hasher), SeededMap::with_hasher(hasher)];
        Peers { seen: BTreeMap::new(), ways, of_clients: BTreeMap::new() }
    }

    /// Records the way by which a client came; an unknown one may be any.
    pub(crate) fn note(&mut self, client: Client, way: Way) {
        let new = Ways::from(way);
        let [latest, before] = &mut self.ways;
        if let Some(ways) = latest.get_mut(&client) {
            ways.is_direct |= new.is_direct;
            ways.is_proxied |= new.is_proxied;
            return;
        }
        let old = before.get(&client).copied().unwrap_or_default();
        if latest.len() >= MAX_WAYS {
            std::mem::swap(latest, before);
            latest.clear();
        }
        latest.insert(
            client,
            Ways { is_direct: old.is_direct || new.is_direct, is_proxied: old.is_proxied || new.is_proxied },
        );
    }

    /// The ways by which a client came lately; none where that is forgotten.
    pub(crate) fn ways_of(&self, client: Client) -> Ways {
        let known = self.ways.iter().find_map(|generation| generation.get(&client));
        known.copied().unwrap_or_default()
    }

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

    /// Whether no line named a proxy lately.
    pub(crate) fn is_empty(&self) -> bool {
        self.seen.is_empty()
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
        let mut peers = Peers::new(SeededState::new(7));
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
        let mut peers = Peers::new(SeededState::new(7));
        (1..=3).for_each(|n| peers.came_by(client(n), peer(PEER), 0));
        for n in 0..2 * MAX_PEERS as u32 {
            peers.came_by(client(9), IpAddr::V4(n.into()), 0);
            assert!(peers.seen.len() <= MAX_PEERS);
        }
        assert!(is_proxy(&peers, PEER, 0));
    }

    #[test]
    fn the_ways_of_a_client_add_up_and_are_bounded() {
        let mut peers = Peers::new(SeededState::new(7));
        let (direct, proxied) = (Way::Direct, Way::Proxied(peer(PEER)));
        let ways = |is_direct, is_proxied| Ways { is_direct, is_proxied };
        assert_eq!(peers.ways_of(client(1)), ways(false, false), "never seen");
        peers.note(client(1), direct);
        assert_eq!(peers.ways_of(client(1)), ways(true, false));
        peers.note(client(2), proxied);
        assert_eq!(peers.ways_of(client(2)), ways(false, true));
        for n in 0..MAX_WAYS as u32 {
            peers.note(std::net::Ipv4Addr::from_bits(n).into(), direct);
        }
        peers.note(client(2), direct);
        assert_eq!(peers.ways_of(client(2)), ways(true, true), "what the older half knows counts");
        peers.note(client(3), Way::Unknown);
        assert_eq!(peers.ways_of(client(3)), ways(true, true), "an unknown way may be any");
        for n in 0..3 * MAX_WAYS as u32 {
            peers.note(std::net::Ipv4Addr::from_bits(n).into(), direct);
            assert!(peers.ways.iter().all(|generation| generation.len() <= MAX_WAYS));
        }
        assert_eq!(peers.ways_of(client(1)), ways(false, false), "forgotten");
    }
}
