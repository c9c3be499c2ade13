//! The keys of the maps of bans, and the clients they stand for.

use std::net::{Ipv4Addr, Ipv6Addr};

use aya::Pod;
use aya::maps::lpm_trie::Key;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use shield_common::{KeyV4, KeyV6};

use shield_engine::client::Client;

/// A key of a map of bans.
pub(super) trait BanKey: Pod {
    /// The length of the network's prefix; 0 for a single client.
    fn prefix(&self) -> u32;
}

impl BanKey for KeyV4 {
    fn prefix(&self) -> u32 {
        0
    }
}

impl BanKey for KeyV6 {
    fn prefix(&self) -> u32 {
        0
    }
}

impl<K: Pod> BanKey for Key<K>
where
    Key<K>: Pod,
{
    fn prefix(&self) -> u32 {
        self.prefix_len()
    }
}

/// Clients with something about each, by the map that holds them.
pub(super) struct ByMap<T> {
    pub v4: Vec<(KeyV4, T)>,
    pub v6: Vec<(KeyV6, T)>,
    pub networks_v4: Vec<(Ipv4Net, T)>,
    pub networks_v6: Vec<(Ipv6Net, T)>,
}

impl<T> ByMap<T> {
    pub(super) fn new(clients: impl IntoIterator<Item = (Client, T)>, ipv6_prefix: u8) -> ByMap<T> {
        let mut by_map =
            ByMap { v4: Vec::new(), v6: Vec::new(), networks_v4: Vec::new(), networks_v6: Vec::new() };
        for (client, with) in clients {
            match (client.network(), client.is_single(ipv6_prefix)) {
                (IpNet::V4(net), true) => by_map.v4.push((net.addr().octets(), with)),
                (IpNet::V6(net), true) => by_map.v6.push((net.addr().octets(), with)),
                (IpNet::V4(net), false) => by_map.networks_v4.push((net, with)),
                (IpNet::V6(net), false) => by_map.networks_v6.push((net, with)),
            }
        }
        by_map
    }
}

pub(super) fn single_v4(key: KeyV4) -> Client {
    Client::from(Ipv4Addr::from(key))
}

pub(super) fn single_v6(key: KeyV6, ipv6_prefix: u8) -> Client {
    Client::of_addr(Ipv6Addr::from(key).into(), ipv6_prefix)
}

pub(super) fn network_key_v4(net: &Ipv4Net) -> Key<KeyV4> {
    Key::new(u32::from(net.prefix_len()), net.network().octets())
}

pub(super) fn network_key_v6(net: &Ipv6Net) -> Key<KeyV6> {
    Key::new(u32::from(net.prefix_len()), net.network().octets())
}

pub(super) fn network_v4(key: Key<KeyV4>) -> Client {
    let prefix = u8::try_from(key.prefix_len()).unwrap_or(32).min(32);
    Client::of_network(IpNet::V4(Ipv4Net::new_assert(key.data().into(), prefix)))
}

pub(super) fn network_v6(key: Key<KeyV6>) -> Client {
    let prefix = u8::try_from(key.prefix_len()).unwrap_or(128).min(128);
    Client::of_network(IpNet::V6(Ipv6Net::new_assert(key.data().into(), prefix)))
}

/// The halves of an address in memory order, as the XDP program loads them.
pub(super) fn halves(key: KeyV6) -> [u64; 2] {
    let [a, b, c, d, e, f, g, h, rest @ ..] = key;
    [u64::from_ne_bytes([a, b, c, d, e, f, g, h]), u64::from_ne_bytes(rest)]
}
