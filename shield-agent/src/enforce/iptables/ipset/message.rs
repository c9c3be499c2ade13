//! The requests to the kernel's ipset and its answers, as bytes (`linux/netfilter/ipset/ip_set.h`). Nothing is sent here.
//!
//! Many elements go into one message, each with its line number, and the kernel returns the line at which it stopped.
//! Without `NLM_F_EXCL` (the program's `-exist`) it accepts an element that is added again, or removed and absent.

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP};

use super::super::nfnetlink::{attributes, begin, close, finish, kind, nest, put, put_number};
use super::super::sets::Element;
use super::set::{Header, Verb};
use crate::enforce::ban::Drops;
use shield_engine::client::Client;

/// `NFNL_SUBSYS_IPSET`.
const IPSET: u8 = 6;
/// The protocol spoken: kernels before 4.20 speak 6 alone, all later ones 6 and 7.
pub(super) const PROTOCOL: u8 = 6;
/// The most bytes of a message: some 1,000 elements. A list of elements may have 64 KiB, but the kernel holds its lock for
/// as long as one message takes.
const MAX_BYTES: usize = 32 * 1024;
/// The most bytes of one element: an IPv6 network with all attributes.
const MAX_ELEMENT_BYTES: usize = 4 + 24 + 8 + 8 + 12 + 12 + 8;

/// `IPSET_CMD_PROTOCOL`.
const QUERY_PROTOCOL: u16 = kind(IPSET, 1);
/// `IPSET_CMD_LIST`; the parts of the answer have it too.
const LIST: u16 = kind(IPSET, 7);
/// `IPSET_CMD_ADD`.
const ADD: u16 = kind(IPSET, 9);
/// `IPSET_CMD_DEL`.
const DELETE: u16 = kind(IPSET, 10);

/// Attributes of a message, `IPSET_ATTR_…`.
mod of_message {
    pub(super) const PROTOCOL: u16 = 1;
    pub(super) const SET: u16 = 2;
    pub(super) const TYPE: u16 = 3;
    pub(super) const FLAGS: u16 = 6;
    pub(super) const DATA: u16 = 7;
    pub(super) const ELEMENTS: u16 = 8;
    pub(super) const LINE: u16 = 9;
    pub(super) const LOWEST_PROTOCOL: u16 = 10;
}

/// Attributes of an element, `IPSET_ATTR_…`.
mod of_element {
    pub(super) const ADDRESS: u16 = 1;
    pub(super) const LENGTH: u16 = 3;
    pub(super) const TIMEOUT: u16 = 6;
    pub(super) const LINE: u16 = 9;
    pub(super) const BYTES: u16 = 24;
    pub(super) const PACKETS: u16 = 25;
    /// Inside `ADDRESS`.
    pub(super) const V4: u16 = 1;
    pub(super) const V6: u16 = 2;
}

/// Attributes of a set's header, `IPSET_ATTR_…`.
mod of_header {
    pub(super) const TIMEOUT: u16 = 6;
    pub(super) const FLAGS: u16 = 8;
    pub(super) const BUCKETS: u16 = 18;
    pub(super) const MAX_ENTRIES: u16 = 19;
    pub(super) const ENTRIES: u16 = 24;
}

/// `IPSET_FLAG_LIST_HEADER`.
const HEADER_ONLY: u32 = 4;
/// `IPSET_FLAG_WITH_COUNTERS`.
const WITH_COUNTERS: u32 = 8;

/// The extent of a listing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Listed {
    Header,
    Elements,
}

/// Requests the protocols that the kernel speaks.
pub(super) fn query_protocol(out: &mut Vec<u8>, sequence: u32) {
    begin(out, QUERY_PROTOCOL, NLM_F_ACK, sequence);
    put(out, of_message::PROTOCOL, &[PROTOCOL]);
    finish(out);
}

/// The lowest and the highest protocol that the answer names.
pub(super) fn protocols<'a>(answer: impl Iterator<Item = (u16, &'a [u8])>) -> (u8, u8) {
    let (mut lowest, mut highest) = (None, 0);
    for (kind, value) in answer {
        let value = value.first().copied();
        match kind {
            of_message::PROTOCOL => highest = value.unwrap_or(0),
            of_message::LOWEST_PROTOCOL => lowest = value,
            _ => {}
        }
    }
    // A kernel that speaks only one protocol names no lowest.
    (lowest.unwrap_or(highest), highest)
}

/// Requests a listing of a set.
pub(super) fn list(out: &mut Vec<u8>, sequence: u32, set: &str, listed: Listed) {
    begin(out, LIST, NLM_F_ACK | NLM_F_DUMP, sequence);
    put(out, of_message::PROTOCOL, &[PROTOCOL]);
    put_set(out, set);
    if listed == Listed::Header {
        put_number(out, of_message::FLAGS, &HEADER_ONLY.to_be_bytes());
    }
    finish(out);
}

/// Adds or removes as many of the first elements as one message holds; returns their number. Lines count from 1.
pub(super) fn change<T>(
    out: &mut Vec<u8>,
    sequence: u32,
    verb: Verb,
    set: &str,
    items: &[T],
    element: impl Fn(&T) -> Element,
) -> usize {
    let command = match verb {
        Verb::Add => ADD,
        Verb::Remove => DELETE,
    };
    begin(out, command, NLM_F_ACK, sequence);
    put(out, of_message::PROTOCOL, &[PROTOCOL]);
    put_set(out, set);
    // The kernel overwrites it with the line at which it stopped.
    put_number(out, of_message::LINE, &0_u32.to_be_bytes());
    let elements = nest(out, of_message::ELEMENTS);
    let mut fitted = 0;
    for item in items {
        if out.len() + MAX_ELEMENT_BYTES > MAX_BYTES {
            break;
        }
        fitted += 1;
        put_element(out, verb, &element(item), fitted as u32);
    }
    close(out, elements);
    finish(out);
    fitted
}

fn put_set(out: &mut Vec<u8>, set: &str) {
    let mut name = [0; 32];
    name[..set.len()].copy_from_slice(set.as_bytes());
    put(out, of_message::SET, &name[..=set.len()]);
}

fn put_element(out: &mut Vec<u8>, verb: Verb, element: &Element, line: u32) {
    let data = nest(out, of_message::DATA);
    let network = element.client.network();
    let address = nest(out, of_element::ADDRESS);
    match network {
        IpNet::V4(network) => put_number(out, of_element::V4, &network.addr().octets()),
        IpNet::V6(network) => put_number(out, of_element::V6, &network.addr().octets()),
    }
    close(out, address);
    // An element without a length is a single address.
    if network.prefix_len() != network.max_prefix_len() {
        put(out, of_element::LENGTH, &[network.prefix_len()]);
    }
    if verb == Verb::Add {
        put_number(out, of_element::TIMEOUT, &element.timeout_secs.to_be_bytes());
        // Without counters, an element that is present keeps its own.
        if element.drops != Drops::default() {
            put_number(out, of_element::BYTES, &element.drops.bytes.to_be_bytes());
            put_number(out, of_element::PACKETS, &element.drops.packets.to_be_bytes());
        }
    }
    put_number(out, of_element::LINE, &line.to_be_bytes());
    close(out, data);
}

/// The line at which the kernel stopped, from the request that it returned; 0 when no single line was at fault.
pub(super) fn stopped_at<'a>(mut request: impl Iterator<Item = (u16, &'a [u8])>) -> u32 {
    request.find(|(kind, _)| *kind == of_message::LINE).and_then(|(_, line)| number(line)).unwrap_or(0)
}

/// The header of a listed set, when this part of the answer has it.
pub(super) fn header<'a>(part: impl Iterator<Item = (u16, &'a [u8])>) -> Option<Header> {
    let (mut header, mut is_hash_net) = (None, false);
    for (kind, value) in part {
        match kind {
            of_message::TYPE => is_hash_net = value == b"hash:net\0",
            of_message::DATA => header = Some(parse_header(value)),
            _ => {}
        }
    }
    header.map(|header| Header { is_ours: header.is_ours && is_hash_net, ..header })
}

fn parse_header(data: &[u8]) -> Header {
    let (mut has_timeout, mut flags, mut buckets, mut max_entries, mut entries) = (false, 0, 0, 0, 0);
    for (kind, value) in attributes(data) {
        let value = number(value).unwrap_or(0);
        match kind {
            of_header::TIMEOUT => has_timeout = true,
            of_header::FLAGS => flags = value,
            of_header::BUCKETS => buckets = value,
            of_header::MAX_ENTRIES => max_entries = value,
            of_header::ENTRIES => entries = value,
            _ => {}
        }
    }
    Header {
        is_ours: has_timeout && flags & WITH_COUNTERS != 0,
        max_entries: max_entries as usize,
        buckets: buckets as usize,
        entries: entries as usize,
    }
}

/// Calls `each` with the elements in this part of the answer; with `None` for a malformed one.
pub(super) fn elements<'a>(
    part: impl Iterator<Item = (u16, &'a [u8])>,
    each: &mut dyn FnMut(Option<Element>),
) {
    for (_, list) in part.filter(|(kind, _)| *kind == of_message::ELEMENTS) {
        attributes(list).for_each(|(_, data)| each(parse_element(data)));
    }
}

fn parse_element(data: &[u8]) -> Option<Element> {
    let (mut address, mut length, mut timeout_secs) = (None, None, 0);
    let mut drops = Drops::default();
    for (kind, value) in attributes(data) {
        match kind {
            of_element::ADDRESS => address = attributes(value).next(),
            of_element::LENGTH => length = value.first().copied(),
            of_element::TIMEOUT => timeout_secs = number(value)?,
            of_element::BYTES => drops.bytes = u64::from_be_bytes(value.try_into().ok()?),
            of_element::PACKETS => drops.packets = u64::from_be_bytes(value.try_into().ok()?),
            _ => {}
        }
    }
    let network = match address? {
        (of_element::V4, octets) => {
            let octets: [u8; 4] = octets.try_into().ok()?;
            IpNet::new(octets.into(), length.unwrap_or(32))
        }
        (of_element::V6, octets) => {
            let octets: [u8; 16] = octets.try_into().ok()?;
            IpNet::new(octets.into(), length.unwrap_or(128))
        }
        _ => return None,
    };
    Some(Element { client: Client::of_network(network.ok()?), timeout_secs, drops })
}

fn number(big_endian: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(big_endian.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::super::super::nfnetlink::{messages, parse_status};
    use super::*;

    fn element(client: &str, timeout_secs: u32, packets: u64) -> Element {
        let drops = Drops { packets, bytes: packets * 60 };
        Element { client: client.parse().unwrap(), timeout_secs, drops }
    }

    /// Puts the head of a request, in this machine's byte order, before its body.
    fn with_head(kind: u16, flags: u16, sequence: u32, body: &[u8]) -> Vec<u8> {
        let length = 20 + body.len() as u32;
        let head = [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), &flags.to_ne_bytes()].concat();
        [&head[..], &sequence.to_ne_bytes(), &[0; 4], &[2, 0, 0, 0], body].concat()
    }

    /// An attribute, with length and kind in this machine's byte order.
    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let length = 4 + value.len() as u16;
        let mut bytes = [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), value].concat();
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    /// As recorded from `ipset -exist restore` with the same elements.
    #[test]
    fn elements_are_added_by_the_same_bytes_as_by_ipset_itself() {
        let mut out = Vec::new();
        let items = [element("192.0.2.0/24", 9, 3), element("192.0.2.1", 0, 0)];
        assert_eq!(change(&mut out, 7, Verb::Add, "s", &items, |e| *e), 2);
        let first = [
            attribute(0x8001, &attribute(0x4001, &[192, 0, 2, 0])),
            attribute(3, &[24]),
            attribute(0x4006, &[0, 0, 0, 9]),
            attribute(0x4018, &[0, 0, 0, 0, 0, 0, 0, 180]),
            attribute(0x4019, &[0, 0, 0, 0, 0, 0, 0, 3]),
            attribute(0x4009, &[0, 0, 0, 1]),
        ];
        let second = [
            attribute(0x8001, &attribute(0x4001, &[192, 0, 2, 1])),
            attribute(0x4006, &[0, 0, 0, 0]),
            attribute(0x4009, &[0, 0, 0, 2]),
        ];
        let elements = [attribute(0x8007, &first.concat()), attribute(0x8007, &second.concat())];
        let body = [
            attribute(1, &[6]),
            attribute(2, b"s\0"),
            attribute(0x4009, &[0, 0, 0, 0]),
            attribute(0x8008, &elements.concat()),
        ];
        assert_eq!(out, with_head(0x0609, 5, 7, &body.concat()));
        assert_eq!(out.len(), 144);
    }

    #[test]
    fn elements_are_removed_by_address_and_length_alone() {
        let mut out = Vec::new();
        change(&mut out, 8, Verb::Remove, "shield6", &[element("2001:db8::/64", 9, 3)], |e| *e);
        let address = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let data = [
            attribute(0x8001, &attribute(0x4002, &address)),
            attribute(3, &[64]),
            attribute(0x4009, &[0, 0, 0, 1]),
        ];
        let body = [
            attribute(1, &[6]),
            attribute(2, b"shield6\0"),
            attribute(0x4009, &[0, 0, 0, 0]),
            attribute(0x8008, &attribute(0x8007, &data.concat())),
        ];
        assert_eq!(out, with_head(0x060a, 5, 8, &body.concat()));
    }

    #[test]
    fn a_message_is_no_longer_than_allowed() {
        let items = vec![element("2001:db8::/64", 9, 3); 3_000];
        let mut out = Vec::new();
        let fitted = change(&mut out, 1, Verb::Add, &"n".repeat(31), &items, |e| *e);
        assert!((1..3_000).contains(&fitted), "{fitted}");
        assert!((MAX_BYTES - MAX_ELEMENT_BYTES..=MAX_BYTES).contains(&out.len()), "{}", out.len());
    }

    #[test]
    fn queries() {
        let mut out = Vec::new();
        query_protocol(&mut out, 3);
        assert_eq!(out, with_head(0x0601, 5, 3, &attribute(1, &[6])));
        let named = [attribute(1, &[6]), attribute(2, b"shield4\0")].concat();
        list(&mut out, 4, "shield4", Listed::Elements);
        assert_eq!(out, with_head(0x0607, 0x305, 4, &named));
        list(&mut out, 5, "shield4", Listed::Header);
        let named = [named, attribute(0x4006, &[0, 0, 0, 4])].concat();
        assert_eq!(out, with_head(0x0607, 0x305, 5, &named));
    }

    #[test]
    fn the_protocols_that_the_kernel_speaks() {
        let check = |answer: &[(u16, u8)], expected| {
            let bytes: Vec<u8> = answer.iter().flat_map(|(kind, n)| attribute(*kind, &[*n])).collect();
            assert_eq!(protocols(attributes(&bytes)), expected, "{answer:?}");
        };
        check(&[(1, 7), (10, 6)], (6, 7));
        check(&[(1, 6)], (6, 6));
        check(&[], (0, 0));
    }

    /// As recorded from a kernel.
    #[test]
    fn a_listing_is_parsed() {
        let header_of = |kind: &[u8], flags: u8| {
            let data = [
                attribute(0x4012, &[0, 0, 4, 0]),
                attribute(0x4013, &[0, 1, 0, 0]),
                attribute(0x15, &[12]),
                attribute(0x4018, &[0, 0, 0, 2]),
                attribute(0x4006, &[0, 0, 0, 0]),
                attribute(0x4008, &[0, 0, 0, flags]),
            ];
            let part = [attribute(2, b"s\0"), attribute(3, kind), attribute(0x8007, &data.concat())].concat();
            header(attributes(&part))
        };
        let ours = Header { is_ours: true, max_entries: 65_536, buckets: 1024, entries: 2 };
        assert_eq!(header_of(b"hash:net\0", 8), Some(ours));
        assert_eq!(header_of(b"hash:net\0", 0), Some(Header { is_ours: false, ..ours }));
        assert_eq!(header_of(b"hash:ip\0", 8), Some(Header { is_ours: false, ..ours }));
        assert_eq!(header(attributes(&attribute(2, b"s\0"))), None);

        let data = [
            attribute(0x8001, &attribute(1, &[192, 0, 2, 0])),
            attribute(3, &[24]),
            attribute(0x4006, &[0, 0, 0, 8]),
            attribute(0x4018, &[0, 0, 0, 0, 0, 0, 0, 180]),
            attribute(0x4019, &[0, 0, 0, 0, 0, 0, 0, 3]),
        ];
        let list = [attribute(0x8007, &data.concat()), attribute(0x8007, &attribute(3, &[24]))].concat();
        let mut read = Vec::new();
        elements(attributes(&attribute(0x8008, &list)), &mut |element| read.push(element));
        assert_eq!(read, [Some(element("192.0.2.0/24", 8, 3)), None]);
    }

    /// The kernel returns the message with the line in it.
    #[test]
    fn the_line_at_which_it_stopped() {
        let mut request = Vec::new();
        change(&mut request, 9, Verb::Add, "s", &[element("192.0.2.1", 0, 0)], |e| *e);
        // Behind the heads (20), the protocol (8), the set's name (8) and its own head (4).
        request[40..44].copy_from_slice(&[0, 0, 0, 1]);
        let check = |code: i32, request: &[u8], expected| {
            let body = [&code.to_ne_bytes()[..], request].concat();
            let head = [&(16 + body.len() as u32).to_ne_bytes()[..], &[2, 0, 0, 0], &[9, 0, 0, 0], &[0; 4]];
            let datagram = [&head.concat()[..], &body].concat();
            let message = messages(&datagram).next().unwrap();
            let (code, request) = parse_status(&message);
            assert_eq!((code, stopped_at(request)), expected);
        };
        check(-4352, &request, (4352, 1));
        check(-2, &request[..16], (2, 0));
        check(0, &request[..16], (0, 0));
        check(0, &[], (0, 0));
    }
}
