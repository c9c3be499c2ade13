//! The addresses that a list of networks covers, as intervals, to tell of nearly every client that no network of the list has to do
//! with it: a restart asks the allowlist about every ban, and hundreds of networks about each were a tenth of a second in 100,000.

use ipnet::IpNet;

use crate::vocab::client::Client;

/// Intervals of addresses (in IPv6 terms), sorted and disjoint.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Spans(Vec<(u128, u128)>);

impl Spans {
    pub(super) fn of(networks: impl Iterator<Item = IpNet>) -> Spans {
        let mut spans: Vec<(u128, u128)> =
            networks.map(|network| Client::of_network(network).span()).collect();
        spans.sort_unstable();
        let mut merged: Vec<(u128, u128)> = Vec::with_capacity(spans.len());
        for (first, last) in spans {
            match merged.last_mut() {
                Some((_, end)) if first <= *end => *end = last.max(*end),
                _ => merged.push((first, last)),
            }
        }
        Spans(merged)
    }

    /// Covers one more network.
    pub(super) fn insert(&mut self, network: IpNet) {
        let (mut first, mut last) = Client::of_network(network).span();
        let from = self.0.partition_point(|(_, end)| *end < first);
        let upto = self.0.partition_point(|(begin, _)| *begin <= last);
        if let (Some((begin, _)), Some((_, end))) = (self.0.get(from), self.0[..upto].last())
            && from < upto
        {
            (first, last) = (first.min(*begin), last.max(*end));
        }
        self.0.splice(from..upto.max(from), [(first, last)]);
    }

    /// Whether an address of the client is in one of the networks. Without one none of them covers it or lies in it.
    pub(super) fn touch(&self, client: Client) -> bool {
        let (first, last) = client.span();
        let at = self.0.partition_point(|(_, end)| *end < first);
        self.0.get(at).is_some_and(|(begin, _)| *begin <= last)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn client(text: &str) -> Client {
        text.parse().unwrap()
    }

    #[test]
    fn a_client_is_touched_by_what_it_overlaps() {
        let networks = ["192.0.2.0/24", "192.0.3.0/25", "198.51.100.7/32", "2001:db8::/48", "192.0.2.128/25"];
        let spans = Spans::of(networks.iter().map(|text| text.parse().unwrap()));
        for (text, touched) in [
            ("192.0.1.255", false),
            ("192.0.2.0", true),
            ("192.0.3.127", true),
            ("192.0.3.128", false),
            ("198.51.100.0/24", true),
            ("198.51.100.6", false),
            ("198.51.100.8", false),
            ("2001:db8:0:1::/64", true),
            ("2001:db8:1::/64", false),
            ("0.0.0.0/0", true),
            ("::/0", true),
            ("255.255.255.255", false),
        ] {
            assert_eq!(spans.touch(client(text)), touched, "{text}");
        }
        assert!(!Spans::default().touch(client("192.0.2.1")));
    }

    fn networks() -> impl Strategy<Value = Vec<Client>> {
        let v4 = (0u32..1 << 12, 20u8..=32).prop_map(|(bits, length)| {
            Client::of_network(IpNet::new(std::net::Ipv4Addr::from_bits(bits << 4).into(), length).unwrap())
        });
        // Not where IPv4 is mapped to: what covers all of it there covers no IPv4 client.
        let v6 = (0u128..1 << 12, 52u8..=64).prop_map(|(bits, length)| {
            let address = std::net::Ipv6Addr::from_bits((0x2001 << 112) | (bits << 64));
            Client::of_network(IpNet::new(address.into(), length).unwrap())
        });
        prop::collection::vec(prop_oneof![v4, v6], 0..30)
    }

    proptest! {
        /// It never says that a network has nothing to do with a client that it covers or lies in.
        #[test]
        fn it_agrees_with_a_walk(list in networks(), asked in networks()) {
            let spans = Spans::of(list.iter().map(|network| network.network()));
            let mut one_by_one = Spans::default();
            list.iter().for_each(|network| one_by_one.insert(network.network()));
            prop_assert_eq!(&one_by_one, &spans);
            for client in asked {
                let walked = list.iter().any(|net| {
                    net.covers(client.network()) || client.covers(net.network())
                });
                prop_assert_eq!(spans.touch(client), walked, "{} and {:?}", client, list);
            }
        }
    }
}
