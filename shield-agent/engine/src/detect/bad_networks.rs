//! Networks whose clients do nothing but probe. A hosting customer has a /24 or an IPv6 /48 at the price of one address, and
//! may let each address do less than any rule sees: what the clients of one network ask for in vain is added up.
//!
//! A network becomes *bad* when its clients together asked for twice what a rule allows one client, or when very many of its
//! clients did nothing else. Its clients then need only a few probes for a verdict. A network with clients that are served
//! well is never bad.
//!
//! Bounded: [`MAX_NETWORKS`], in at most 1 KiB each.

use std::collections::BTreeMap;
use std::net::Ipv6Addr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::detect::trace::Trace;
use crate::vocab::client::Client;
use crate::vocab::slow::NETWORK_PREFIX;

/// Networks watched at most. Beyond it the quiet ones are dropped, and if that frees none, all are.
const MAX_NETWORKS: usize = 4_096;

/// Weights are added up for this long; then the half of them is forgotten.
const SPAN_SECS: u32 = 600;

/// A network stays bad for this long after the last probe.
const BAD_SECS: u32 = 3_600;

/// While a bad network goes on, it is reported again after this long.
const REPORT_SECS: u32 = 60;

/// Distinct targets and clients remembered of a network.
const MAX_TARGETS: usize = 96;
const MAX_CLIENTS: usize = 64;

/// The weight that makes a network bad: twice what one client may do in 10 min, in tenths of a failed path.
const BAD_WEIGHT: u32 = 600;

/// With so many clients at least: fewer are judged one by one.
const BAD_CLIENTS: usize = 4;

/// So many clients make a network bad whatever they asked for.
const MANY_CLIENTS: usize = 32;

/// The weight that a client of a bad network needs for a verdict: one probe, or three failed paths.
pub(crate) const CLIENT_WEIGHT: u32 = 30;

/// The sum of one network.
#[derive(Debug, Clone, Default)]
struct Sum {
    began: u32,
    last: u32,
    weight: u32,
    targets: Vec<u32>,
    clients: Vec<u128>,
    /// The second from which it is bad; 0 when it is not.
    bad_from: u32,
    /// The second of the last report.
    reported: u32,
}

/// The network of a client, by the key of its first address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct NetworkKey(u128);

impl NetworkKey {
    /// The /24 or /48 around a client's key.
    pub(crate) fn of(client: u128) -> NetworkKey {
        let is_v4 = client >> 32 == 0xffff;
        NetworkKey(if is_v4 { client & !0xff } else { client & !(u128::MAX >> NETWORK_PREFIX) })
    }

    /// The network as a client that can be banned.
    pub(crate) fn client(self) -> Client {
        let addr = Ipv6Addr::from_bits(self.0);
        let net = match addr.to_ipv4_mapped() {
            Some(v4) => IpNet::V4(Ipv4Net::new_assert(v4, 24)),
            None => IpNet::V6(Ipv6Net::new_assert(addr, NETWORK_PREFIX)),
        };
        Client::of_network(net)
    }
}

/// A network that has become bad.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BadNetwork {
    pub network: NetworkKey,
    /// Clients that probed, as far as they are remembered.
    pub clients: u32,
}

/// The networks with clients that probe.
#[derive(Default)]
pub(crate) struct BadNetworks {
    sums: BTreeMap<NetworkKey, Sum>,
    /// Those that became bad and were not announced yet.
    new: Vec<BadNetwork>,
    /// The bad network of the last request, when it is to be reported.
    reported: Option<BadNetwork>,
}

impl BadNetworks {
    /// Adds a request in vain. A network does not become bad, nor is it reported, when `is_mixed` says that others in it are
    /// served well.
    pub(crate) fn add(
        &mut self,
        client: u128,
        trace: &Trace,
        second: u32,
        is_mixed: impl FnOnce(NetworkKey, u32) -> bool,
    ) {
        let network = NetworkKey::of(client);
        if self.sums.len() >= MAX_NETWORKS && !self.sums.contains_key(&network) {
            self.make_room(second);
        }
        let sum = self.sums.entry(network).or_insert_with(|| Sum { began: second, ..Sum::default() });
        sum.fade(second);
        sum.last = sum.last.max(second);
        if !sum.targets.contains(&trace.key) && sum.targets.len() < MAX_TARGETS {
            sum.targets.push(trace.key);
            sum.weight += u32::from(trace.weight);
        }
        if !sum.clients.contains(&client) && sum.clients.len() < MAX_CLIENTS {
            sum.clients.push(client);
        }
        let clients = sum.clients.len();
        let is_bad = (sum.weight >= BAD_WEIGHT && clients >= BAD_CLIENTS) || clients >= MANY_CLIENTS;
        let is_reported = sum.bad_from > 0 && second.saturating_sub(sum.reported) < REPORT_SECS;
        if !is_bad || is_reported {
            return;
        }
        if is_mixed(network, clients as u32) {
            // Asked again when it has done as much again.
            *sum = Sum { began: second, last: second, ..Sum::default() };
            return;
        }
        let bad = BadNetwork { network, clients: clients as u32 };
        if sum.bad_from == 0 {
            // From the next second on, so that the order of this second's lines makes no difference.
            sum.bad_from = second + 1;
            self.new.push(bad);
        }
        sum.reported = second;
        self.reported = Some(bad);
    }

    /// The number of probing clients of a client's network, when the network is bad at `second`.
    pub(crate) fn around(&self, client: u128, second: u32) -> Option<u32> {
        let sum = self.sums.get(&NetworkKey::of(client))?;
        (sum.bad_from > 0 && sum.bad_from <= second).then_some(sum.clients.len() as u32)
    }

    /// Begins anew with a network: an operator said that it was a mistake.
    pub(crate) fn forget(&mut self, network: NetworkKey) {
        self.sums.remove(&network);
    }

    /// The bad network that the last request came from, once in [`REPORT_SECS`].
    pub(crate) fn take_reported(&mut self) -> Option<BadNetwork> {
        self.reported.take()
    }

    /// The networks that became bad since the last call.
    pub(crate) fn take_new(&mut self) -> Vec<BadNetwork> {
        std::mem::take(&mut self.new)
    }

    fn make_room(&mut self, second: u32) {
        self.sums.retain(|_, sum| second.saturating_sub(sum.last) < SPAN_SECS);
        if self.sums.len() >= MAX_NETWORKS {
            self.sums.clear();
        }
    }
}

impl Sum {
    fn fade(&mut self, second: u32) {
        if self.bad_from > 0 {
            if second.saturating_sub(self.last) >= BAD_SECS {
                *self = Sum { began: second, ..Sum::default() };
            }
            return;
        }
        if second.saturating_sub(self.last) >= SPAN_SECS {
            *self = Sum { began: second, ..Sum::default() };
        } else if second.saturating_sub(self.began) >= SPAN_SECS {
            self.began = second;
            self.weight /= 2;
            self.targets.drain(..self.targets.len() / 2);
            self.clients.drain(..self.clients.len() / 2);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probe(key: u32) -> Trace {
        Trace { key, weight: 30, ..Trace::default() }
    }

    fn v6(site: u128, subnet: u128) -> u128 {
        0x2001_0db8 << 96 | site << 80 | subnet << 64
    }

    #[test]
    fn the_network_of_a_client() {
        assert_eq!(NetworkKey::of(v6(7, 9)), NetworkKey::of(v6(7, 1)));
        assert_ne!(NetworkKey::of(v6(7, 9)), NetworkKey::of(v6(8, 9)));
        let v4 = |bits: u128| NetworkKey::of(0xffff << 32 | bits);
        assert_eq!(v4(0xc612_0001), v4(0xc612_00ff));
        assert_ne!(v4(0xc612_0001), v4(0xc612_0101));
    }

    #[test]
    fn what_clients_of_one_network_do_is_added_up() {
        let mut networks = BadNetworks::default();
        for n in 0..20 {
            networks.add(v6(1, u128::from(n)), &probe(n), 1000 + n, |_, _| false);
        }
        assert_eq!(networks.take_new(), [BadNetwork { network: NetworkKey::of(v6(1, 0)), clients: 20 }]);
        assert_eq!((networks.around(v6(1, 99), 1019), networks.around(v6(1, 99), 1020)), (None, Some(20)));
        assert_eq!(networks.around(v6(2, 99), 1020), None);
        assert_eq!(networks.take_reported().map(|bad| bad.clients), Some(20));
        for (second, is_reported) in [(1078, false), (1079, true), (1080, false), (1139, true)] {
            networks.add(v6(1, 0), &probe(1), second, |_, _| false);
            assert_eq!(networks.take_reported().is_some(), is_reported, "{second}");
        }
        assert_eq!(networks.take_new(), [], "it is announced once");
        networks.add(v6(1, 0), &probe(1), 1139 + BAD_SECS, |_, _| false);
        assert_eq!(networks.around(v6(1, 99), 1140 + BAD_SECS), None, "it was quiet for an hour");
    }

    #[test]
    fn a_network_that_others_use_well_is_not_bad() {
        let mut networks = BadNetworks::default();
        for n in 0..100 {
            networks.add(v6(1, u128::from(n)), &probe(n), 1000, |_, _| true);
        }
        assert_eq!((networks.take_new(), networks.around(v6(1, 1), 2000)), (vec![], None));
    }

    #[test]
    fn a_few_clients_are_judged_one_by_one_and_slow_ones_fade() {
        let mut networks = BadNetworks::default();
        for n in 0..100 {
            networks.add(v6(1, u128::from(n % 3)), &probe(n), 1000, |_, _| false);
        }
        for n in 0..100 {
            networks.add(v6(2, u128::from(n)), &probe(n), 1000 + 60 * n, |_, _| false);
        }
        assert_eq!(networks.take_new(), []);
    }

    #[test]
    fn the_networks_are_bounded() {
        let mut networks = BadNetworks::default();
        for n in 0..10 * MAX_NETWORKS as u128 {
            networks.add(v6(n, 0), &probe(1), 1000, |_, _| false);
        }
        assert!(networks.sums.len() <= MAX_NETWORKS);
    }
}
