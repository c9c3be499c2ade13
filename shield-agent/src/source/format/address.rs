//! Client addresses: as written, and out of a proxy's chain.
//!
//! Addresses come out canonical: an IPv4-mapped IPv6 address is the IPv4 address.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;

/// Who a request is attributed to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attributed {
    /// The client.
    pub addr: IpAddr,
    /// It came out of a chain, so its packets come from a proxy's address.
    pub behind_proxy: bool,
}

/// Proxies whose word about their clients is believed.
#[derive(Debug, Clone, Default)]
pub struct TrustedProxies(Vec<IpNet>);

impl TrustedProxies {
    /// The proxies of these networks.
    pub fn new(networks: Vec<IpNet>) -> TrustedProxies {
        TrustedProxies(networks)
    }

    /// Whether there are none, so that no chain is ever believed.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn contains(&self, addr: IpAddr) -> bool {
        self.0.iter().any(|network| network.contains(&addr))
    }

    /// Attributes a request to its client.
    ///
    /// `field` is the text of the configured address field: an address, or itself a chain. `forwarded` is the text of the
    /// configured chain field (`X-Forwarded-For`), believed only when the address in `field` is a trusted proxy.
    /// A chain is read from the right, skipping trusted proxies; the first other address is the client. What stands
    /// left of it was written by the client and means nothing. An element that is no address ends the reading,
    /// and the request stays with the proxy that handed it on.
    ///
    /// `None` when `field` holds no address.
    pub fn attribute(&self, field: &[u8], forwarded: &[u8]) -> Option<Attributed> {
        let mut hops = field.rsplit(|byte| *byte == b',').chain(forwarded.rsplit(|byte| *byte == b','));
        let addr = parse(hops.next()?)?;
        let mut found = Attributed { addr, behind_proxy: false };
        while self.contains(found.addr) {
            match hops.next().and_then(parse) {
                Some(addr) => found = Attributed { addr, behind_proxy: true },
                None => break,
            }
        }
        Some(found)
    }
}

/// Reads one address: IPv4, IPv6, either with a port (`192.0.2.1:80`, `[2001:db8::1]:80`) or a zone (`fe80::1%eth0`).
pub fn parse(text: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(text.trim_ascii()).ok()?;
    let addr = text.parse().ok().or_else(|| parse_decorated(text))?;
    Some(IpAddr::to_canonical(&addr))
}

fn parse_decorated(text: &str) -> Option<IpAddr> {
    if let Some(rest) = text.strip_prefix('[') {
        let (inside, port) = rest.split_once(']')?;
        let is_port =
            port.is_empty() || port.strip_prefix(':').is_some_and(|port| port.parse::<u16>().is_ok());
        return without_zone(inside)?.parse().ok().filter(|_| is_port);
    }
    match text.split_once(':') {
        Some((host, port)) if port.parse::<u16>().is_ok() => host.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
        _ => without_zone(text)?.parse().ok(),
    }
}

fn without_zone(text: &str) -> Option<&str> {
    text.split('%').next()
}

/// An IPv4 address at the start of `bytes`, with its length; the shapes of [`Ipv4Addr`]'s own parser and no others.
///
/// `None` when there is none, or when `bytes` hold fewer than 16 bytes to look at.
#[inline]
pub fn leading_ipv4(bytes: &[u8]) -> Option<(Ipv4Addr, usize)> {
    let word = u128::from_le_bytes(*bytes.first_chunk::<16>()?);
    let mut dots = marks(word, b'.');
    let mut start = 0;
    let mut octets = [0_u8; 4];
    for octet in octets.iter_mut().take(3) {
        let end = dots.trailing_zeros() as usize / 8;
        *octet = octet_between(word, start, end)?;
        start = end + 1;
        dots &= dots.wrapping_sub(1);
    }
    let end = start + digits_at(word >> (start * 8).min(127));
    octets[3] = octet_between(word, start, end)?;
    Some((Ipv4Addr::from(octets), end))
}

/// The high bit of every byte of `word` that is `byte` (exact: no borrow runs between bytes).
#[inline]
fn marks(word: u128, byte: u8) -> u128 {
    const LOW: u128 = u128::from_ne_bytes([0x7f; 16]);
    let differs = word ^ u128::from_ne_bytes([byte; 16]);
    !(((differs & LOW) + LOW) | differs | LOW)
}

/// How many of the first three bytes are digits.
#[inline]
fn digits_at(word: u128) -> usize {
    let [a, b, c, ..] = word.to_le_bytes();
    let is = |byte: u8| usize::from(byte.is_ascii_digit());
    is(a) * (1 + is(b) * (1 + is(c)))
}

/// The value of the one to three digits at `start..end`, without a leading zero.
#[inline]
fn octet_between(word: u128, start: usize, end: usize) -> Option<u8> {
    let len = end.wrapping_sub(start);
    if !(1..=3).contains(&len) || end > 15 {
        return None;
    }
    // The digits moved to the end of three bytes, zeros before them.
    let text = (((word >> (start * 8)) as u32) << (8 * (4 - len))) >> 8;
    let present = 0x00ff_ffff_u32 & (0x00ff_ffff_u32 << (8 * (3 - len)));
    let values = text.wrapping_sub(0x0030_3030 & present);
    let [h, t, o, _] = values.to_le_bytes();
    let value = u32::from(h) * 100 + u32::from(t) * 10 + u32::from(o);
    let is_decimal = h <= 9 && t <= 9 && o <= 9;
    let first = (text >> (8 * (3 - len))) as u8;
    (is_decimal && (first != b'0' || len == 1)).then(|| u8::try_from(value).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fast(text: &str) -> Option<(Ipv4Addr, usize)> {
        leading_ipv4(format!("{text}\"                ").as_bytes())
    }

    #[test]
    fn addresses_are_read_in_every_dress() {
        let check = |text: &str, expected: Option<&str>| {
            assert_eq!(parse(text.as_bytes()).map(|addr| addr.to_string()).as_deref(), expected, "{text}");
        };
        check("192.0.2.7", Some("192.0.2.7"));
        check(" 192.0.2.7 ", Some("192.0.2.7"));
        check("192.0.2.7:8080", Some("192.0.2.7"));
        check("::ffff:192.0.2.7", Some("192.0.2.7"));
        check("::ffff:c000:207", Some("192.0.2.7"));
        check("2001:DB8::1", Some("2001:db8::1"));
        check("[2001:db8::1]:443", Some("2001:db8::1"));
        check("[2001:db8::1]", Some("2001:db8::1"));
        check("fe80::1%eth0", Some("fe80::1"));
        check("unix:", None);
        check("-", None);
        check("", None);
        check("192.0.2.07", None);
        check("192.0.2.7:port", None);
        check("[2001:db8::1]x", None);
    }

    #[test]
    fn the_fast_reader_knows_exactly_what_the_slow_one_knows() {
        for text in
            ["0.0.0.0", "255.255.255.255", "1.22.333.4", "256.1.1.1", "01.2.3.4", "1.2.3", "1.2.3.", "1..2.3"]
        {
            let slow = text.parse::<Ipv4Addr>().ok().map(|addr| (addr, text.len()));
            assert_eq!(fast(text), slow, "{text}");
        }
        assert_eq!(leading_ipv4(b"1.2.3.4\"      x"), None, "fewer than 16 bytes");
    }

    #[test]
    fn a_chain_is_read_from_the_right() {
        let proxies = TrustedProxies::new(vec!["198.51.100.0/24".parse().unwrap()]);
        let check = |field: &str, forwarded: &str, addr: &str, behind_proxy| {
            let expected = Attributed { addr: addr.parse().unwrap(), behind_proxy };
            assert_eq!(
                proxies.attribute(field.as_bytes(), forwarded.as_bytes()),
                Some(expected),
                "{field} <- {forwarded}"
            );
        };
        check("192.0.2.1", "203.0.113.5", "192.0.2.1", false);
        check("198.51.100.1", "203.0.113.5", "203.0.113.5", true);
        check("198.51.100.1", "192.0.2.66, 203.0.113.5", "203.0.113.5", true);
        check("198.51.100.1", "192.0.2.66, 203.0.113.5, 198.51.100.9", "203.0.113.5", true);
        check("198.51.100.1", "-", "198.51.100.1", false);
        check("198.51.100.1", "", "198.51.100.1", false);
        check("198.51.100.1", "203.0.113.5, unknown", "198.51.100.1", false);
        check("198.51.100.1", "198.51.100.2, 198.51.100.3", "198.51.100.2", true);
        check("203.0.113.5, 198.51.100.1", "", "203.0.113.5", true);
        check("198.51.100.1", "[2001:db8::5]:1234", "2001:db8::5", true);
    }

    proptest! {
        #[test]
        fn the_fast_reader_agrees_with_the_slow_one(text in "[0-9]{1,4}(\\.[0-9]{1,4}){3}|[0-9.a]{0,15}") {
            if let Some((addr, len)) = fast(&text) {
                prop_assert_eq!(text.get(..len).unwrap().parse(), Ok(addr));
            } else {
                prop_assert!(text.parse::<Ipv4Addr>().is_err());
            }
        }
    }
}
