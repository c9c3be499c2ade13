//! The filters of both families together: which bits clients and networks need.

use std::path::Path;

use anyhow::Result;
use ipnet::{IpNet, Ipv4Net};
use shield_common::{FILTER_V4_WORDS, FILTER_V6_WORDS, KeyV4, KeyV6, filter_v4, filter_v6, map_name};

use shield_engine::client::{Client, prefix_mask};

use super::filter::{Bitmap, Filter, Origin};
use super::keys::halves;

/// Whether the filters are an earlier agent's.
#[derive(Debug, Clone, Copy)]
pub(super) struct Origins {
    v4: Origin,
    v6: Origin,
}

impl Origins {
    /// Those of the maps pinned in `maps`, before the missing ones are made.
    pub(super) fn of(maps: &Path) -> Origins {
        let of = |name: &str| if maps.join(name).exists() { Origin::Found } else { Origin::Made };
        Origins { v4: of(map_name::FILTER_V4), v6: of(map_name::FILTER_V6) }
    }
}

pub(super) struct Filters {
    pub v4: Filter,
    pub v6: Filter,
    ipv6_prefix: u8,
}

impl Filters {
    /// Opens the filters pinned in `maps`, of these origins.
    pub(super) fn open(maps: &Path, ipv6_prefix: u8, origins: Origins) -> Result<Filters> {
        Ok(Filters {
            v4: Filter::open(maps, map_name::FILTER_V4, FILTER_V4_WORDS, origins.v4)?,
            v6: Filter::open(maps, map_name::FILTER_V6, FILTER_V6_WORDS, origins.v6)?,
            ipv6_prefix,
        })
    }

    pub(super) fn add_v4(&mut self, keys: impl ExactSizeIterator<Item = KeyV4>) -> Result<()> {
        self.v4.add_bits(keys.map(|key| filter_v4(u32::from_be_bytes(key))))
    }

    pub(super) fn add_v6(&mut self, keys: impl ExactSizeIterator<Item = KeyV6>) -> Result<()> {
        self.v6.add_bits(keys.map(|key| filter_v6(halves(key))))
    }

    /// Sets the bits of every /24 that the networks touch.
    pub(super) fn add_networks_v4<'a>(
        &mut self,
        networks: impl ExactSizeIterator<Item = &'a Ipv4Net>,
    ) -> Result<()> {
        if networks.len() == 0 {
            return Ok(());
        }
        let mut bits = Bitmap::empty(FILTER_V4_WORDS);
        networks.for_each(|net| set_network(&mut bits, net));
        self.v4.add(&bits)
    }

    /// Sets the bits of every client in the networks.
    pub(super) fn add_networks_v6(&mut self, networks: impl ExactSizeIterator<Item = Client>) -> Result<()> {
        if networks.len() == 0 {
            return Ok(());
        }
        let mut bits = NetworkBits::new(self.ipv6_prefix);
        networks.for_each(|net| bits.set(net));
        self.v6.add(&bits.bits)
    }

    /// Returns whether the filters have the bit of each client. Never for a network, which has many bits.
    pub(super) fn hold(&self, mut clients: impl Iterator<Item = Client>) -> Result<bool> {
        let holds = |client: Client| match (client.network(), client.is_single(self.ipv6_prefix)) {
            (IpNet::V4(net), true) => self.v4.holds(filter_v4(net.addr().to_bits())),
            (IpNet::V6(net), true) => self.v6.holds(filter_v6(halves(net.addr().octets()))),
            (_, false) => Ok(false),
        };
        clients.try_fold(true, |all, client| Ok(all && holds(client)?))
    }

    /// Reads the filters, and makes them hold exactly the bits that `clients` need; the first time more, see [`Filter::replace`].
    pub(super) fn rebuild(&mut self, clients: impl Iterator<Item = Client>) -> Result<()> {
        let mut v4 = Bitmap::empty(FILTER_V4_WORDS);
        let mut v6 = NetworkBits::new(self.ipv6_prefix);
        for client in clients {
            match (client.network(), client.is_single(self.ipv6_prefix)) {
                (IpNet::V4(net), _) => set_network(&mut v4, &net),
                (IpNet::V6(net), true) => v6.bits.set(filter_v6(halves(net.addr().octets()))),
                (IpNet::V6(_), false) => v6.set(client),
            }
        }
        self.v4.replace(&v4)?;
        self.v6.replace(&v6.bits)
    }
}

fn set_network(bits: &mut Bitmap, net: &Ipv4Net) {
    bits.set_range(filter_v4(net.network().to_bits()), filter_v4(net.broadcast().to_bits()));
}

/// The most IPv6 clients of networks whose bits are set one by one: as many as a quarter of the filter has bits. With more, all
/// bits are set.
const MAX_CLIENT_BITS: u128 = 1 << 22;

/// The bits of the clients in IPv6 networks: hashes of their prefixes, which lie anywhere.
struct NetworkBits {
    bits: Bitmap,
    ipv6_prefix: u8,
    clients: u128,
}

impl NetworkBits {
    fn new(ipv6_prefix: u8) -> NetworkBits {
        NetworkBits { bits: Bitmap::empty(FILTER_V6_WORDS), ipv6_prefix, clients: 0 }
    }

    fn set(&mut self, network: Client) {
        let singles = network.singles(self.ipv6_prefix);
        let before = self.clients;
        self.clients = self.clients.saturating_add(singles.count());
        match (before > MAX_CLIENT_BITS, self.clients > MAX_CLIENT_BITS) {
            (true, _) => {}
            (false, true) => self.bits.fill(),
            (false, false) => {
                // A network inside a single client, such as a /128, has that client's bit.
                let mask = prefix_mask(self.ipv6_prefix);
                let keys = singles.keys().map(|key| key & mask);
                keys.for_each(|key| self.bits.set(filter_v6(halves(key.to_be_bytes()))));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bits_of(ipv6_prefix: u8, networks: &[&str]) -> Bitmap {
        let mut bits = NetworkBits::new(ipv6_prefix);
        networks.iter().for_each(|net| bits.set(Client::of_network(net.parse().unwrap())));
        bits.bits
    }

    #[test]
    fn a_network_has_the_bits_of_its_clients_and_a_wide_one_all() {
        let mut singly = Bitmap::empty(FILTER_V6_WORDS);
        for n in 0..=u16::MAX {
            let addr = std::net::Ipv6Addr::new(0x2001, 0xdb8, 7, n, 0, 0, 0, 0);
            singly.set(filter_v6(halves(addr.octets())));
        }
        assert_eq!(bits_of(64, &["2001:db8:7::/48"]), singly);
        let mut all = Bitmap::empty(FILTER_V6_WORDS);
        all.fill();
        for (ipv6_prefix, networks) in [
            (64, ["2001:db8::/32", "2001:db8:7::/48"]),
            (64, ["2001:db8:7::/48", "::/0"]),
            (128, ["2001:db8:7::/48", "2001:db8:8::/48"]),
        ] {
            assert_eq!(bits_of(ipv6_prefix, &networks), all, "{ipv6_prefix} {networks:?}");
        }
        let mut of_client = Bitmap::empty(FILTER_V6_WORDS);
        of_client.set(filter_v6(halves(std::net::Ipv6Addr::new(0x2001, 0xdb8, 7, 1, 0, 0, 0, 0).octets())));
        assert_eq!(bits_of(64, &["2001:db8:7:1::5/128"]), of_client);
    }
}
