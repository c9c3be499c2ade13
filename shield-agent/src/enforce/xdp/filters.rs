//! The filters of both families together: which bits clients and networks need.

use std::path::Path;

use anyhow::Result;
use ipnet::{IpNet, Ipv4Net};
use shield_common::{FILTER_V4_WORDS, FILTER_V6_WORDS, KeyV4, KeyV6, filter_v4, filter_v6, map_name};

use shield_engine::client::Client;

use super::filter::{Bitmap, Filter};
use super::keys::halves;

pub(super) struct Filters {
    pub v4: Filter,
    pub v6: Filter,
    ipv6_prefix: u8,
}

impl Filters {
    /// Opens the filters pinned in `maps`.
    pub(super) fn open(maps: &Path, ipv6_prefix: u8) -> Result<Filters> {
        Ok(Filters {
            v4: Filter::open(maps, map_name::FILTER_V4, FILTER_V4_WORDS)?,
            v6: Filter::open(maps, map_name::FILTER_V6, FILTER_V6_WORDS)?,
            ipv6_prefix,
        })
    }

    pub(super) fn add_v4(&mut self, keys: impl Iterator<Item = KeyV4>) -> Result<()> {
        self.v4.add_bits(keys.map(|key| filter_v4(u32::from_be_bytes(key))))
    }

    pub(super) fn add_v6(&mut self, keys: impl Iterator<Item = KeyV6>) -> Result<()> {
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

    /// Sets every IPv6 bit: bits are hashes of prefixes, so a network's lie anywhere.
    pub(super) fn add_any_network_v6(&mut self) -> Result<()> {
        let mut bits = Bitmap::empty(FILTER_V6_WORDS);
        bits.fill();
        self.v6.add(&bits)
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

    /// Reads the filters, and makes them hold exactly the bits that `clients` need.
    pub(super) fn rebuild(&mut self, clients: impl Iterator<Item = Client>) -> Result<()> {
        let mut v4 = Bitmap::empty(FILTER_V4_WORDS);
        let mut v6 = Bitmap::empty(FILTER_V6_WORDS);
        for client in clients {
            match (client.network(), client.is_single(self.ipv6_prefix)) {
                (IpNet::V4(net), _) => set_network(&mut v4, &net),
                (IpNet::V6(net), true) => v6.set(filter_v6(halves(net.addr().octets()))),
                (IpNet::V6(_), false) => v6.fill(),
            }
        }
        self.v4.read()?;
        self.v4.replace(&v4)?;
        self.v6.read()?;
        self.v6.replace(&v6)
    }
}

fn set_network(bits: &mut Bitmap, net: &Ipv4Net) {
    bits.set_range(filter_v4(net.network().to_bits()), filter_v4(net.broadcast().to_bits()));
}
