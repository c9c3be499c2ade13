//! The unit that is counted and banned: an IPv4 address, an IPv6 prefix, or a banned network (CIDR).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

/// A client as a network in canonical form: host bits zero, IPv4-mapped IPv6 turned into IPv4.
///
/// An IPv4 client is a /32, an IPv6 client a prefix of the configured length (/64 by default); any other length is a
/// network ban. A /32 is displayed without its length.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Client {
    /// The first address as IPv6 bits, IPv4 mapped into `::ffff:0:0/96`. Two whole words, because a client is made,
    /// compared and copied for every request.
    high: u64,
    low: u64,
    /// The length in IPv6 terms (0..=128): IPv4's own length plus 96.
    prefix: u8,
}

/// The low half of every IPv4 address in IPv6 bits: `::ffff:0:0/96`.
const MAPPED: u64 = 0xffff_0000_0000;
const MAPPED_PREFIX: u8 = 96;

impl Client {
    /// The client that an address belongs to. `::ffff:a.b.c.d` is the IPv4 client.
    ///
    /// `ipv6_prefix` is the length that makes an IPv6 client (1..=128); larger values count as 128.
    pub fn of_addr(addr: IpAddr, ipv6_prefix: u8) -> Client {
        match addr {
            IpAddr::V4(v4) => Client::from(v4),
            IpAddr::V6(v6) => {
                let (high, low) = halves(v6.to_bits());
                if is_v4_key(v6.to_bits()) {
                    return Client { high, low, prefix: 128 };
                }
                let prefix = ipv6_prefix.min(128);
                let (high_mask, low_mask) = halves(prefix_mask(prefix));
                Client { high: high & high_mask, low: low & low_mask, prefix }
            }
        }
    }

    /// The whole network as a client: host bits cleared, mapped IPv4 turned into IPv4.
    pub fn of_network(net: IpNet) -> Client {
        let (bits, prefix) = match net {
            IpNet::V4(net) => (net.addr().to_ipv6_mapped().to_bits(), MAPPED_PREFIX + net.prefix_len()),
            IpNet::V6(net) => (net.addr().to_bits(), net.prefix_len()),
        };
        let (high, low) = halves(bits & prefix_mask(prefix));
        Client { high, low, prefix }
    }

    /// The client that an operator means: a single IPv6 address (/128) stands for the client it belongs to, everything
    /// else for itself.
    pub fn widened(self, ipv6_prefix: u8) -> Client {
        match self.network() {
            IpNet::V6(net) if net.prefix_len() == 128 => Client::of_addr(IpAddr::V6(net.addr()), ipv6_prefix),
            _ => self,
        }
    }

    pub fn network(self) -> IpNet {
        if self.is_v4() {
            let net = Ipv4Net::new_assert(Ipv4Addr::from_bits(self.low as u32), self.prefix - MAPPED_PREFIX);
            return IpNet::V4(net);
        }
        IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::from_bits(self.key()), self.prefix))
    }

    /// Whether this is an ordinary client (IPv4 /32, IPv6 of exactly `ipv6_prefix`) and not a network.
    pub fn is_single(self, ipv6_prefix: u8) -> bool {
        self.prefix == if self.is_v4() { 128 } else { ipv6_prefix }
    }

    /// The address of a single IPv4 client as a number.
    #[inline]
    pub(crate) fn single_v4(self) -> Option<u32> {
        (self.prefix == 128 && self.is_v4()).then_some(self.low as u32)
    }

    /// A compact key for hash tables: the first address as IPv6 bits, IPv4 mapped into `::ffff:0:0/96`.
    /// Unique among ordinary clients ([`Client::is_single`]), not among networks of several lengths.
    pub fn key(self) -> u128 {
        u128::from(self.high) << 64 | u128::from(self.low)
    }

    /// The keys of the ordinary clients inside this network.
    pub fn singles(self, ipv6_prefix: u8) -> Singles {
        let length = if self.is_v4() { 128 } else { ipv6_prefix.min(128) };
        let step = u32::from(128 - length);
        Singles { first: self.key(), step, bits: u32::from(length.saturating_sub(self.prefix)) }
    }

    /// The first and the last address as IPv6 bits, IPv4 mapped.
    pub(crate) fn span(self) -> (u128, u128) {
        let first = self.key();
        (first, first | !prefix_mask(self.prefix))
    }

    pub fn contains(self, addr: IpAddr) -> bool {
        self.network().contains(&addr.to_canonical())
    }

    /// Whether every address of `other` lies inside this network.
    pub fn covers(self, other: IpNet) -> bool {
        self.network().contains(&other)
    }

    /// The client in 17 bytes without padding, for large tables.
    pub fn to_bytes(self) -> [u8; 17] {
        let mut bytes = [self.prefix; 17];
        bytes[..8].copy_from_slice(&self.high.to_be_bytes());
        bytes[8..16].copy_from_slice(&self.low.to_be_bytes());
        bytes
    }

    /// The inverse of [`Client::to_bytes`].
    pub fn from_bytes(bytes: [u8; 17]) -> Client {
        let [key @ .., prefix] = bytes;
        let (high, low) = halves(u128::from_be_bytes(key));
        Client { high, low, prefix }
    }

    fn is_v4(self) -> bool {
        self.prefix >= MAPPED_PREFIX && is_v4_key(self.key())
    }
}

fn is_v4_key(key: u128) -> bool {
    key >> 32 == u128::from(MAPPED >> 32)
}

/// The keys of the clients inside a network: see [`Client::singles`].
#[derive(Debug, Clone, Copy)]
pub struct Singles {
    first: u128,
    /// The distance between keys, as a power of two.
    step: u32,
    /// The number of keys, as a power of two.
    bits: u32,
}

impl Singles {
    /// The number of keys; saturates at `u128::MAX`.
    pub fn count(self) -> u128 {
        1_u128.checked_shl(self.bits).unwrap_or(u128::MAX)
    }

    /// Every key in ascending order.
    pub fn keys(self) -> impl Iterator<Item = u128> {
        (0..self.count()).map(move |nth| self.first | nth << self.step)
    }

    pub fn contains(self, key: u128) -> bool {
        let above = |key: u128| key.checked_shr(self.step + self.bits).unwrap_or(0);
        above(key) == above(self.first) && is_v4_key(key) == is_v4_key(self.first)
    }
}

fn halves(bits: u128) -> (u64, u64) {
    ((bits >> 64) as u64, bits as u64)
}

/// The network mask of an IPv6 prefix length (0..=128) as bits.
pub fn prefix_mask(prefix: u8) -> u128 {
    if prefix == 0 { 0 } else { u128::MAX << (128 - u32::from(prefix.min(128))) }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Client({self})")
    }
}

impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.network() {
            IpNet::V4(net) if net.prefix_len() == 32 => net.addr().fmt(f),
            net => net.fmt(f),
        }
    }
}

/// An error: the text is neither an address nor a network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotAClient(String);

impl fmt::Display for NotAClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is neither an IP address nor a network such as 192.0.2.0/24 or 2001:db8::/64", self.0)
    }
}

impl std::error::Error for NotAClient {}

impl FromStr for Client {
    type Err = NotAClient;

    /// Parses a network, or a single address as exactly that address (an IPv6 address becomes a /128; use
    /// [`Client::of_addr`] to widen it to the client's prefix).
    fn from_str(text: &str) -> Result<Client, NotAClient> {
        let text = text.trim();
        if let Ok(addr) = text.parse::<IpAddr>() {
            return Ok(Client::of_addr(addr, 128));
        }
        text.parse::<IpNet>().map(Client::of_network).map_err(|_| NotAClient(text.to_owned()))
    }
}

impl Serialize for Client {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(feature = "schema")]
impl schemars::JsonSchema for Client {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Client".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "description": "An IPv4 address, or a network in CIDR notation. An IPv6 client is a /64 unless configured otherwise.",
            "examples": ["192.0.2.7", "2001:db8:1:2::/64", "198.51.100.0/24"],
        })
    }
}

impl<'de> Deserialize<'de> for Client {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Client, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl From<Ipv4Addr> for Client {
    fn from(addr: Ipv4Addr) -> Client {
        Client { high: 0, low: MAPPED | u64::from(addr.to_bits()), prefix: 128 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_single_clients_of_a_network_are_those_it_covers() {
        let networks =
            ["192.0.2.0/29", "192.0.2.7/32", "2001:db8:1::/60", "2001:db8:1::/64", "2001:db8::/66"];
        for network in networks.map(|text| text.parse::<Client>().unwrap()) {
            let singles = network.singles(64);
            let keys: Vec<_> = singles.keys().collect();
            assert_eq!(keys.len() as u128, singles.count(), "{network}");
            assert!(keys.iter().all(|key| singles.contains(*key)), "{network}");
            for other in
                ["192.0.2.3", "192.0.2.7", "192.0.2.8", "2001:db8:1::1", "2001:db8:1:f::", "2001:db8:1:10::"]
            {
                let other = Client::of_addr(other.parse().unwrap(), 64);
                let inside = network.covers(other.network());
                assert_eq!(
                    (keys.contains(&other.key()), singles.contains(other.key())),
                    (inside, inside),
                    "{network} {other}"
                );
            }
        }
    }

    #[test]
    fn no_ipv4_client_is_one_of_an_ipv6_network() {
        let (v4, v6) = ("192.0.2.3".parse::<Client>().unwrap(), "2001:db8::/64".parse::<Client>().unwrap());
        for (network, has_v4, has_v6) in
            [("::/0", false, true), ("::/16", false, false), ("0.0.0.0/0", true, false)]
        {
            let singles = network.parse::<Client>().unwrap().singles(64);
            assert_eq!(
                (singles.contains(v4.key()), singles.contains(v6.key())),
                (has_v4, has_v6),
                "{network}"
            );
        }
    }

    #[test]
    fn an_address_becomes_its_client() {
        let check = |addr: &str, prefix, expected: &str| {
            assert_eq!(Client::of_addr(addr.parse().unwrap(), prefix).to_string(), expected, "{addr}");
        };
        check("192.0.2.7", 64, "192.0.2.7");
        check("::ffff:192.0.2.7", 64, "192.0.2.7");
        check("2001:db8:1:2:3:4:5:6", 64, "2001:db8:1:2::/64");
        check("2001:db8:1:2:3:4:5:6", 48, "2001:db8:1::/48");
        check("2001:db8:1:2:3:4:5:6", 128, "2001:db8:1:2:3:4:5:6/128");
    }

    #[test]
    fn a_client_is_its_network_again() {
        for text in
            ["192.0.2.7/32", "0.0.0.0/0", "10.0.0.0/8", "2001:db8::/64", "::/0", "::/95", "2001:db8::1/128"]
        {
            let net: IpNet = text.parse().unwrap();
            let client = Client::of_network(net);
            assert_eq!((client.network(), Client::from_bytes(client.to_bytes())), (net, client));
        }
        let all: Client = "0.0.0.0/0".parse().unwrap();
        assert!(all.contains("192.0.2.7".parse().unwrap()) && !all.contains("2001:db8::1".parse().unwrap()));
        let all: Client = "::/0".parse().unwrap();
        assert!(!all.contains("192.0.2.7".parse().unwrap()), "IPv4 lies in no IPv6 network");
        assert!("192.0.2.7".parse::<Client>().unwrap().is_single(64));
        assert!(!"192.0.2.0/24".parse::<Client>().unwrap().is_single(64));
    }

    #[test]
    fn text_becomes_a_client_or_says_why_not() {
        let check = |text: &str, expected: Result<&str, ()>| {
            let got = text.parse::<Client>().map(|c| c.to_string());
            assert_eq!(got.as_deref().map_err(|_| ()), expected, "{text}");
        };
        check(" 192.0.2.7 ", Ok("192.0.2.7"));
        check("192.0.2.7/24", Ok("192.0.2.0/24"));
        check("::ffff:192.0.2.0/120", Ok("192.0.2.0/24"));
        check("2001:db8::1/32", Ok("2001:db8::/32"));
        check("192.0.2.256", Err(()));
        check("192.0.2.7/33", Err(()));
        check("example.org", Err(()));
        check("", Err(()));
    }
}
