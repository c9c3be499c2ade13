//! Client addresses: parsing them, and finding the client in a proxy's chain.
//!
//! Addresses are canonical: an IPv4-mapped IPv6 address becomes the IPv4 address.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// The client that a request is attributed to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attributed {
    /// The client's address.
    pub addr: IpAddr,
    /// The address comes from a chain, so the client's packets have a proxy's address.
    pub behind_proxy: bool,
}

/// Proxies that are trusted to name their clients.
#[derive(Debug, Clone, Default)]
pub struct TrustedProxies(Vec<IpNet>);

impl TrustedProxies {
    /// Trusts the proxies of these networks.
    pub fn new(networks: Vec<IpNet>) -> TrustedProxies {
        TrustedProxies(networks)
    }

    /// Returns whether there are none, so that no chain is ever trusted.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn contains(&self, addr: IpAddr) -> bool {
        self.0.iter().any(|network| network.contains(&addr))
    }

    /// Attributes a request to its client.
    ///
    /// `field` is the text of the configured address field: an address, or itself a chain. `forwarded` is the text of the
    /// configured chain field (`X-Forwarded-For`), trusted only when the address in `field` is a trusted proxy.
    /// A chain is read from the right, skipping trusted proxies; the first other address is the client. Whatever is left of
    /// it was written by the client and is ignored. An element that is no address ends the reading, and the request is
    /// attributed to the proxy that added it.
    ///
    /// Returns `None` when the last element of `field` is no address.
    pub fn attribute(&self, field: &[u8], forwarded: &[u8]) -> Option<Attributed> {
        let mut hops = elements(field).chain(elements(forwarded));
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

    /// Attributes a request whose address field is a header, where `peer`, if the line has it, is the connection's address.
    ///
    /// The connection's own address is certain, a header is what its sender says:
    /// - The connection comes from a trusted proxy: its header is read as any chain. From another one: the client is the
    ///   connection's address, so that no header hides it.
    /// - No proxy is trusted, but the header is what was configured: its last address is the client, and unless it is the
    ///   connection's too, a ban could hit nobody but a third party, so `behind_proxy` is set and none is made.
    /// - The header is empty or garbage: the client is the connection's address.
    pub(crate) fn attribute_behind(&self, field: &[u8], peer: &[u8], forwarded: &[u8]) -> Option<Attributed> {
        let Some(connection) = last(peer) else { return self.attribute(field, forwarded) };
        if !self.is_empty() {
            return self.attribute(peer, field);
        }
        let claimed = self.attribute(field, forwarded);
        let addr = claimed.map_or(connection, |claimed| claimed.addr);
        Some(Attributed { addr, behind_proxy: addr != connection })
    }
}

/// Returns the last address of a list; `None` when its last element is none.
pub(crate) fn last(list: &[u8]) -> Option<IpAddr> {
    parse(elements(list).next()?)
}

/// Yields the elements of a list from the right. Empty ones between others do not count; an empty last one does, because it is
/// not the address that a proxy appends.
fn elements(list: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut all = list.rsplit(|byte| *byte == b',');
    all.next().into_iter().chain(all.filter(|element| !element.trim_ascii().is_empty()))
}

/// Returns false for most texts that are no addresses, without parsing them.
#[inline]
pub(crate) fn may_be(text: &[u8]) -> bool {
    text.iter().any(|byte| matches!(byte, b'.' | b':')) && text.iter().any(u8::is_ascii_hexdigit)
}

/// Parses one address: IPv4 or IPv6, with a port (`192.0.2.1:80`, `[2001:db8::1]:80`), a zone (`fe80::1%eth0`), or as the
/// header `Forwarded` has it (`for="[2001:db8::1]:80";proto=https`).
fn parse(text: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(text.trim_ascii()).ok()?;
    let addr = text.parse().ok().or_else(|| parse_decorated(text)).or_else(|| parse_forwarded(text))?;
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

/// Reads the `for` of one element of the header `Forwarded` (RFC 7239, section 4).
fn parse_forwarded(text: &str) -> Option<IpAddr> {
    let mut pairs = text.split(';').filter_map(|pair| pair.trim().split_once('='));
    let (_, node) = pairs.find(|(name, _)| name.eq_ignore_ascii_case("for"))?;
    let node = node.strip_prefix('"').and_then(|node| node.strip_suffix('"')).unwrap_or(node);
    node.parse().ok().or_else(|| parse_decorated(node))
}

fn without_zone(text: &str) -> Option<&str> {
    text.split('%').next()
}

/// Parses an IPv4 address at the start of `bytes`; returns it with its length. Accepts exactly what [`Ipv4Addr`]'s own
/// parser accepts.
///
/// Returns `None` when there is none, or when `bytes` are fewer than 16: the length is checked once and not for each octet.
#[inline]
pub(crate) fn leading_ipv4(bytes: &[u8]) -> Option<(Ipv4Addr, usize)> {
    let bytes = bytes.first_chunk::<16>()?;
    // All ends first, so that no octet waits for the one before it.
    let mut others = non_digits(bytes);
    let ends = [(); 4].map(|()| {
        let end = others.trailing_zeros() as usize;
        others &= others.wrapping_sub(1);
        end
    });
    let [first, second, third, end] = ends;
    let is_dot = |at: usize| bytes.get(at) == Some(&b'.');
    if !(is_dot(first) & is_dot(second) & is_dot(third)) {
        return None;
    }
    let octets = [
        octet(bytes, 0, first)?,
        octet(bytes, first + 1, second)?,
        octet(bytes, second + 1, third)?,
        octet(bytes, third + 1, end)?,
    ];
    Some((Ipv4Addr::from(octets), end))
}

/// A bit for each byte that is no digit, the first one lowest.
#[inline]
fn non_digits(bytes: &[u8; 16]) -> u32 {
    const LOW: u64 = u64::from_ne_bytes([0x7f; 8]);
    const ABOVE_NINE: u64 = u64::from_ne_bytes([0x76; 8]);
    // Moves the lowest bit of every byte into the highest byte, side by side.
    const GATHER: u64 = 0x0102_0408_1020_4080;
    let (words, _) = bytes.as_chunks::<8>();
    words.iter().rev().fold(0, |found, word| {
        let digits = u64::from_le_bytes(*word) ^ u64::from_ne_bytes([b'0'; 8]);
        // The high bit of every byte that is no digit. Exact, because no carry crosses from one byte into the next.
        let others = (((digits & LOW) + ABOVE_NINE) | digits) & !LOW;
        found << 8 | ((others >> 7).wrapping_mul(GATHER) >> 56) as u32
    })
}

/// Returns the value of the one to three digits from `start` to `end`; no leading zero.
#[inline]
fn octet(bytes: &[u8; 16], start: usize, end: usize) -> Option<u8> {
    let digits = u32::from_le_bytes(*bytes.get(start..)?.first_chunk::<4>()?) ^ 0x3030_3030;
    let len = end.checked_sub(start)?;
    let has_leading_zero = len > 1 && digits & 0xff == 0;
    if !(1..=3).contains(&len) || has_leading_zero {
        return None;
    }
    // The digits moved to the end of three bytes, zeros before them.
    let [hundreds, tens, ones, _] = ((digits << (8 * (4 - len))) >> 8).to_le_bytes();
    let value = u32::from(hundreds) * 100 + u32::from(tens) * 10 + u32::from(ones);
    u8::try_from(value).ok()
}

/// Parses an IPv6 address of plain groups (no dotted end, no zone) at the start of `bytes`; returns it with its length. Of
/// such addresses it accepts exactly what [`Ipv6Addr`]'s own parser accepts. Not canonical yet.
///
/// Returns `None` when there is none, or when `bytes` end with it, because it could continue.
#[inline]
pub(crate) fn leading_ipv6(bytes: &[u8]) -> Option<(Ipv6Addr, usize)> {
    let mut groups = [0_u16; 8];
    let mut count = 0;
    // The number of groups before the `::`.
    let mut gap = None;
    let mut at = 0;
    if *bytes.first_chunk::<2>()? == *b"::" {
        (gap, at) = (Some(0), 2);
    }
    loop {
        let (value, digits) = leading_hex(bytes.get(at..)?);
        if digits == 0 {
            // Without a digit the address can only end here, and only right behind a `::`.
            gap.filter(|gap| *gap == count)?;
            break;
        }
        *groups.get_mut(count)? = value;
        count += 1;
        at += digits;
        match bytes.get(at..)?.first_chunk::<2>()? {
            b"::" if gap.is_none() => (gap, at) = (Some(count), at + 2),
            [b':', next] if *next != b':' => at += 1,
            [b':', _] => return None,
            _ => break,
        }
        if count == groups.len() {
            return None;
        }
    }
    match gap {
        // A `::` stands for at least one group.
        Some(gap) if count < groups.len() => {
            let missing = groups.len() - count;
            groups[gap..].rotate_right(missing);
        }
        None if count == groups.len() => {}
        _ => return None,
    }
    Some((Ipv6Addr::from(groups), at))
}

/// Returns the value and the number of up to four hexadecimal digits at the start.
#[inline]
fn leading_hex(bytes: &[u8]) -> (u16, usize) {
    let word = match bytes.first_chunk::<4>() {
        Some(word) => *word,
        None => std::array::from_fn(|at| bytes.get(at).copied().unwrap_or_default()),
    };
    leading_hex_of(u32::from_le_bytes(word))
}

/// Works on all four bytes at once: groups have any length, so a loop would cost a mispredicted branch for nearly each.
#[inline]
fn leading_hex_of(word: u32) -> (u16, usize) {
    const HIGHS: u32 = 0x8080_8080;
    // Sets the high bit of each byte that is at least `least` (of the low seven bits); no carry crosses bytes.
    let reaches = |bytes: u32, least: u8| (bytes & !HIGHS) + u32::from(0x80 - least) * 0x0101_0101;
    let lower = word | 0x2020_2020;
    let is_digit = reaches(word, b'0') & !reaches(word, b'9' + 1);
    let is_letter = reaches(lower, b'a') & !reaches(lower, b'f' + 1);
    let is_other = !((is_digit | is_letter) & !word) & HIGHS;
    let len = is_other.trailing_zeros() as usize / 8;
    // A letter's low four bits are 1 to 6, and its bit 6 distinguishes it from a digit.
    let values = (word & 0x0f0f_0f0f) + (word >> 6 & 0x0101_0101) * 9;
    // The digits moved to the end of the four bytes, zeros before them.
    let [a, b, c, d] = values.checked_shl(32 - 8 * len as u32).unwrap_or(0).to_le_bytes().map(u16::from);
    (a << 12 | b << 8 | c << 4 | d, len)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fast(text: &str) -> Option<(Ipv4Addr, usize)> {
        leading_ipv4(format!("{text}\"                ").as_bytes())
    }

    #[test]
    fn addresses_are_read_with_ports_zones_and_brackets() {
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
        check("for=192.0.2.7", Some("192.0.2.7"));
        check("For=\"[2001:db8::1]:4711\";proto=https", Some("2001:db8::1"));
        check("by=192.0.2.1;for=192.0.2.7:80", Some("192.0.2.7"));
        check("for=unknown", None);
        check("for=_hidden", None);
        check("unknown", None);
        check("unix:", None);
        check("-", None);
        check("", None);
        check("192.0.2.07", None);
        check("192.0.2.7:port", None);
        check("[2001:db8::1]x", None);
    }

    #[test]
    fn the_fast_ipv4_reader_accepts_exactly_what_the_standard_library_does() {
        for text in [
            "0.0.0.0",
            "255.255.255.255",
            "255.255.255.2555",
            "1234567890123456",
            "1.22.333.4",
            "256.1.1.1",
            "1.2.3.256",
            "01.2.3.4",
            "1.2.3.04",
            "1.2.3",
            "1.2.3.",
            "1..2.3",
            ".1.2.3",
            "1:2.3.4",
            "1.2:3.4",
            "1.2.3:4",
        ] {
            let slow = text.parse::<Ipv4Addr>().ok().map(|addr| (addr, text.len()));
            assert_eq!(fast(text), slow, "{text}");
        }
        assert_eq!(leading_ipv4(b"1.2.3.4\"      x"), None, "fewer than 16 bytes");
    }

    #[test]
    fn the_fast_ipv6_reader_accepts_exactly_what_the_standard_library_does() {
        for text in [
            "::",
            "::1",
            "1::",
            "1:2:3:4:5:6:7:8",
            "1:2:3:4:5:6:7::",
            "::2:3:4:5:6:7:8",
            "1:2::7:8",
            "2001:DB8::1",
            "::1:2:3:4:5:6:7:8",
            "1::2:3:4:5:6:7:8",
            "1:2:3:4:5:6:7",
            "1:2:3:4:5:6:7:8:9",
            "1:::2",
            "1::2::3",
            ":1",
            "1:",
            "12345::",
            "",
            "g::",
        ] {
            let slow = text.parse::<Ipv6Addr>().ok().map(|addr| (addr, text.len()));
            let fast = leading_ipv6(format!("{text}\"  ").as_bytes()).filter(|(_, len)| *len == text.len());
            assert_eq!(fast, slow, "{text}");
        }
        assert_eq!(leading_ipv6(b"1:2:3:4:5:6:7:8"), None, "it could continue");
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
        check("198.51.100.1", "192.0.2.66,, 203.0.113.5,,198.51.100.9", "203.0.113.5", true);
        check("198.51.100.1", "203.0.113.5, ", "198.51.100.1", false);
        check("198.51.100.1", "for=192.0.2.66, for=203.0.113.5;proto=https", "203.0.113.5", true);
    }

    /// Whatever a client writes to the left of what the proxies appended changes nothing.
    #[test]
    fn a_forged_chain_neither_hides_nor_frames() {
        let proxies =
            TrustedProxies::new(vec!["198.51.100.0/24".parse().unwrap(), "10.0.0.0/8".parse().unwrap()]);
        let none = TrustedProxies::default();
        let client = Attributed { addr: "203.0.113.5".parse().unwrap(), behind_proxy: true };
        let direct = Attributed { behind_proxy: false, ..client };
        let forgeries = [
            "192.0.2.66".to_owned(),
            "192.0.2.66, 192.0.2.67".to_owned(),
            vec!["192.0.2.66"; 50].join(", "),
            "10.0.0.1, 127.0.0.1".to_owned(),
            "fe80::1%eth0".to_owned(),
            "192.0.2.66:80, [2001:db8::1]:443".to_owned(),
            "unknown".to_owned(),
            "for=192.0.2.66;by=198.51.100.1".to_owned(),
            "\\x22, \u{fffd}, ' OR 1=1 --".to_owned(),
            ",,,".to_owned(),
            " ".to_owned(),
        ];
        for forged in &forgeries {
            let chain = format!("{forged}, 203.0.113.5");
            let through = format!("{chain}, 10.1.2.3");
            // `$proxy_add_x_forwarded_for` in a field of its own, and as the address field itself.
            assert_eq!(proxies.attribute(b"198.51.100.1", through.as_bytes()), Some(client), "{forged}");
            assert_eq!(none.attribute(chain.as_bytes(), b""), Some(direct), "{forged}");
            assert_eq!(
                proxies.attribute(format!("{through}, 198.51.100.1").as_bytes(), b""),
                Some(client),
                "{forged}"
            );
            // A client that talks to the server itself.
            assert_eq!(proxies.attribute(b"203.0.113.5", forged.as_bytes()), Some(direct), "{forged}");
            assert_eq!(none.attribute(b"203.0.113.5", forged.as_bytes()), Some(direct), "{forged}");
            let behind = proxies.attribute_behind(forged.as_bytes(), b"203.0.113.5", b"");
            assert_eq!(behind, Some(direct), "{forged}");
            // No proxy is trusted, and the header is configured as the address: a ban hits the connection or nobody.
            let behind = none.attribute_behind(forged.as_bytes(), b"203.0.113.5", b"").unwrap();
            assert!(behind == direct || behind.behind_proxy, "{forged}");
        }
        // A private address between two proxies is skipped only where it is trusted.
        let only_edge = TrustedProxies::new(vec!["198.51.100.0/24".parse().unwrap()]);
        let found = only_edge.attribute(b"198.51.100.1", b"203.0.113.5, 10.1.2.3").unwrap();
        assert_eq!(found.addr, "10.1.2.3".parse::<IpAddr>().unwrap());
    }

    #[test]
    fn a_header_without_a_connection_is_read_as_it_is() {
        let none = TrustedProxies::default();
        let found = |field: &str, peer: &str| {
            none.attribute_behind(field.as_bytes(), peer.as_bytes(), b"")
                .map(|found| (found.addr.to_string(), found.behind_proxy))
        };
        let client = |behind_proxy| Some(("203.0.113.5".to_owned(), behind_proxy));
        assert_eq!(found("203.0.113.5", ""), client(false));
        assert_eq!(found("203.0.113.5", "unix:"), client(false));
        assert_eq!(found("203.0.113.5", "203.0.113.5"), client(false));
        assert_eq!(found("203.0.113.5", "192.0.2.1"), client(true));
        assert_eq!(found("-", "203.0.113.5"), client(false));
        assert_eq!(found("", ""), None);
    }

    proptest! {
        #[test]
        fn the_fast_reader_agrees_about_ipv6(text in "[0-9a-fA-F]{0,5}(:[0-9a-f]{0,4}){0,9}|[0-9a:.]{0,20}") {
            let fast = leading_ipv6(format!("{text}\"  ").as_bytes());
            let fast = fast.filter(|(_, len)| *len == text.len()).map(|(addr, _)| addr);
            let slow = text.parse::<Ipv6Addr>().ok().filter(|_| !text.contains('.'));
            prop_assert_eq!(fast, slow);
        }

        #[test]
        fn every_ipv6_address_is_read_fast(bits: u128, mask: u128) {
            let addr = Ipv6Addr::from_bits(bits & mask);
            let text = addr.to_string();
            let fast = leading_ipv6(format!("{text}\"  ").as_bytes()).filter(|(_, len)| *len == text.len());
            prop_assert!(text.contains('.') || fast == Some((addr, text.len())));
        }

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
