//! The file names that stand for clients in the folder of denied clients, and the networks that they cover. Pure.
//!
//! nginx looks for three names: the client's address, its network of a usual size (/24 of IPv4, /64 of IPv6), and of IPv6
//! the /48 too. Whatever is banned is expressed in these.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use shield_engine::client::Client;

/// Most names of one network: those of an IPv4 /16 or an IPv6 /40.
pub(super) const MAX_NAMES: usize = 256;

/// The lengths, in bits, of the networks that have a name, finest first.
const LENGTHS_V4: [u8; 2] = [32, 24];
const LENGTHS_V6: [u8; 3] = [128, 64, 48];

/// A name that nginx looks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Name(IpNet);

impl Name {
    /// The name of a network with a length that nginx looks for.
    fn of(network: IpNet) -> Option<Name> {
        let lengths: &[u8] = if network.addr().is_ipv4() { &LENGTHS_V4 } else { &LENGTHS_V6 };
        lengths.contains(&network.prefix_len()).then(|| Name(network.trunc()))
    }

    /// The names that cover exactly `network`, coarsest possible; `None` where they are more than [`MAX_NAMES`].
    pub(super) fn covering(network: IpNet) -> Option<Vec<Name>> {
        let lengths: &[u8] = if network.addr().is_ipv4() { &LENGTHS_V4 } else { &LENGTHS_V6 };
        let length = lengths.iter().rev().find(|length| **length >= network.prefix_len())?;
        if *length == network.prefix_len() {
            return Some(vec![Name(network.trunc())]);
        }
        if usize::from(length - network.prefix_len()) > MAX_NAMES.ilog2() as usize {
            return None;
        }
        let parts: Vec<IpNet> = match network {
            IpNet::V4(net) => net.subnets(*length).ok()?.map(IpNet::V4).collect(),
            IpNet::V6(net) => net.subnets(*length).ok()?.map(IpNet::V6).collect(),
        };
        Some(parts.into_iter().map(Name).collect())
    }

    /// Whether nginx's first look is for this kind of name: an IPv4 address, or an IPv6 /64.
    pub(super) fn is_first_look(self) -> bool {
        self.0.prefix_len() == if self.0.addr().is_ipv4() { LENGTHS_V4[0] } else { LENGTHS_V6[1] }
    }

    /// The client that has this name and no other.
    pub(super) fn client(self) -> Client {
        Client::of_network(self.0)
    }

    /// The name of a file, the inverse of the `Display`; `None` of a file that Shield did not make.
    pub(super) fn parse(text: &str) -> Option<Name> {
        let name = match text.split_once('-') {
            None => Name::of(IpNet::from(text.parse::<IpAddr>().ok()?)),
            Some((groups, "24")) => {
                Name::of(IpNet::V4(Ipv4Net::new(groups.parse::<Ipv4Addr>().ok()?, 24).ok()?))
            }
            Some((groups, "64")) => Name::of(from_groups(groups, 4)?),
            Some((groups, "48")) => Name::of(from_groups(groups, 3)?),
            Some(_) => None,
        };
        name.filter(|name| name.to_string() == text)
    }
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            IpNet::V4(net) if net.prefix_len() == 32 => write!(f, "{}", net.addr()),
            IpNet::V4(net) => write!(f, "{net}", net = net.addr()).and_then(|()| write!(f, "-24")),
            IpNet::V6(net) if net.prefix_len() == 128 => write!(f, "{}", net.addr()),
            IpNet::V6(net) => {
                let count = usize::from(net.prefix_len() / 16);
                let groups = net.addr().segments().map(|group| format!("{group:x}"));
                write!(f, "{}-{}", groups[..count].join(":"), net.prefix_len())
            }
        }
    }
}

/// The network of `count` leading groups, as in `2001:db8:0:1`.
fn from_groups(text: &str, count: usize) -> Option<IpNet> {
    let mut segments = [0u16; 8];
    let groups: Vec<&str> = text.split(':').collect();
    if groups.len() != count {
        return None;
    }
    for (segment, group) in segments.iter_mut().zip(&groups) {
        *segment = u16::from_str_radix(group, 16).ok()?;
    }
    let length = u8::try_from(count * 16).ok()?;
    Some(IpNet::V6(Ipv6Net::new(Ipv6Addr::from(segments), length).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn networks_have_the_names_that_nginx_looks_for() {
        let check = |network: &str, first: &str, count: usize| {
            let names = Name::covering(network.parse().unwrap()).unwrap();
            assert_eq!((names[0].to_string().as_str(), names.len()), (first, count), "{network}");
        };
        check("192.0.2.7/32", "192.0.2.7", 1);
        check("192.0.2.4/30", "192.0.2.4", 4);
        check("192.0.2.0/24", "192.0.2.0-24", 1);
        check("192.0.0.0/16", "192.0.0.0-24", 256);
        check("2001:db8::1/128", "2001:db8::1", 1);
        check("2001:db8::/64", "2001:db8:0:0-64", 1);
        check("2001:db8:a:b::/56", "2001:db8:a:0-64", 256);
        check("2001:db8:a::/48", "2001:db8:a-48", 1);
        check("2001:d00::/40", "2001:d00:0-48", 256);
        for network in ["192.0.0.0/15", "2001:db8::/96", "2001:db8::/52", "2001::/16", "::/0"] {
            assert_eq!(Name::covering(network.parse().unwrap()), None, "{network}");
        }
    }

    #[test]
    fn foreign_files_have_no_name() {
        for text in
            ["", "x", "1.2.3.4-25", "1.2.3.4-24", "01.2.3.4", "2001:DB8::1", "1:2:3-64", "::1-64", "1.2.3"]
        {
            assert_eq!(Name::parse(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_name_is_read_back_and_covers_what_it_says(bits: u128, v4: bool, at in 0usize..3) {
            let network = if v4 {
                IpNet::V4(Ipv4Net::new(Ipv4Addr::from_bits(bits as u32), LENGTHS_V4[at % 2]).unwrap())
            } else {
                IpNet::V6(Ipv6Net::new(Ipv6Addr::from_bits(bits), LENGTHS_V6[at]).unwrap())
            }.trunc();
            let names = Name::covering(network).unwrap();
            prop_assert_eq!(names.len(), 1);
            prop_assert_eq!(Name::parse(&names[0].to_string()), Some(names[0]));
        }

        #[test]
        fn the_names_of_a_network_are_its_parts(bits: u32, length in 16u8..=32) {
            let network = IpNet::V4(Ipv4Net::new(Ipv4Addr::from_bits(bits), length).unwrap().trunc());
            let names = Name::covering(network).unwrap();
            let addresses: u32 = names.iter().map(|name| 1 << (32 - name.0.prefix_len())).sum();
            prop_assert_eq!(addresses, 1u32.checked_shl(u32::from(32 - length)).unwrap());
            prop_assert!(names.iter().all(|name| network.contains(&name.0)));
        }
    }
}
