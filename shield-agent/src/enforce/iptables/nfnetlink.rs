//! Netfilter's netlink messages as bytes: headers and attributes, written and parsed. Nothing is sent here.
//!
//! The layout is that of `linux/netlink.h` and `linux/netfilter/nfnetlink.h`. What the messages mean is known to
//! `generation` and `ipset::message`.

use netlink_packet_core::NLM_F_REQUEST;

/// Length of `struct nlmsghdr`.
const HEADER: usize = 16;
/// Length of `struct nfgenmsg`.
const FAMILY: usize = 4;
/// Length of `struct nlattr`.
const ATTRIBUTE: usize = 4;
/// `NFPROTO_IPV4`; the subsystems used here ignore it.
const ANY_FAMILY: u8 = 2;
/// `NLA_F_NESTED`.
const NESTED: u16 = 1 << 15;
/// `NLA_F_NET_BYTEORDER`.
const NETWORK_ORDER: u16 = 1 << 14;

/// The kind of a subsystem's message.
pub(super) const fn kind(subsystem: u8, command: u8) -> u16 {
    (subsystem as u16) << 8 | command as u16
}

/// Makes `out` the header of a request; [`finish`] sets its length.
pub(super) fn begin(out: &mut Vec<u8>, kind: u16, flags: u16, sequence: u32) {
    out.clear();
    out.extend(0_u32.to_ne_bytes());
    out.extend(kind.to_ne_bytes());
    out.extend((NLM_F_REQUEST | flags).to_ne_bytes());
    out.extend(sequence.to_ne_bytes());
    out.extend(0_u32.to_ne_bytes());
    out.extend([ANY_FAMILY, 0, 0, 0]);
}

/// Sets the length of the message in `out`.
pub(super) fn finish(out: &mut [u8]) {
    let length = out.len() as u32;
    out[..4].copy_from_slice(&length.to_ne_bytes());
}

/// Appends an attribute.
pub(super) fn put(out: &mut Vec<u8>, kind: u16, value: &[u8]) {
    out.extend(((ATTRIBUTE + value.len()) as u16).to_ne_bytes());
    out.extend(kind.to_ne_bytes());
    out.extend_from_slice(value);
    out.resize(out.len().next_multiple_of(4), 0);
}

/// Appends an attribute whose value is in network byte order.
pub(super) fn put_number(out: &mut Vec<u8>, kind: u16, big_endian: &[u8]) {
    put(out, kind | NETWORK_ORDER, big_endian);
}

/// Begins a nested attribute, and returns its start for [`close`].
pub(super) fn nest(out: &mut Vec<u8>, kind: u16) -> usize {
    let start = out.len();
    put(out, kind | NESTED, &[]);
    start
}

/// Ends the nested attribute that began at `start`.
pub(super) fn close(out: &mut [u8], start: usize) {
    let length = (out.len() - start) as u16;
    out[start..start + 2].copy_from_slice(&length.to_ne_bytes());
}

/// A message as received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Message<'a> {
    pub(super) kind: u16,
    /// That of the request.
    pub(super) sequence: u32,
    /// The bytes behind `struct nlmsghdr`.
    pub(super) body: &'a [u8],
}

impl<'a> Message<'a> {
    /// The attributes of a message that has a `struct nfgenmsg`.
    pub(super) fn attributes(&self) -> impl Iterator<Item = (u16, &'a [u8])> + use<'a> {
        attributes(self.body.get(FAMILY..).unwrap_or_default())
    }
}

/// The messages of a datagram, up to one that is cut off.
pub(super) fn messages(datagram: &[u8]) -> impl Iterator<Item = Message<'_>> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        let length = u32_at(rest, 0)? as usize;
        let message =
            Message { kind: u16_at(rest, 4)?, sequence: u32_at(rest, 8)?, body: rest.get(HEADER..length)? };
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    })
}

/// Attributes as (kind, value), up to one that is cut off.
pub(super) fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(rest, 0)?);
        let attribute = (u16_at(rest, 2)? & !(NESTED | NETWORK_ORDER), rest.get(ATTRIBUTE..length)?);
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(attribute)
    })
}

/// The code (positive, 0 for success) of a `NLMSG_ERROR` or `NLMSG_DONE`, and the attributes of the request that it
/// answers, as far as it returns them.
pub(super) fn parse_status<'a>(
    message: &Message<'a>,
) -> (i32, impl Iterator<Item = (u16, &'a [u8])> + use<'a>) {
    let code = u32_at(message.body, 0).map_or(0, |code| code as i32);
    let request = message.body.get(4 + HEADER + FAMILY..).unwrap_or_default();
    (code.saturating_neg(), attributes(request))
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_parsed_again() {
        let mut bytes = Vec::new();
        begin(&mut bytes, kind(6, 7), 0, 99);
        put(&mut bytes, 1, &[6]);
        let nested = nest(&mut bytes, 8);
        put_number(&mut bytes, 3, &7_u32.to_be_bytes());
        close(&mut bytes, nested);
        finish(&mut bytes);
        bytes.extend(bytes.clone());

        let both: Vec<Message<'_>> = messages(&bytes).collect();
        assert_eq!(both.len(), 2);
        assert_eq!(both[0], both[1]);
        assert_eq!((both[0].kind, both[0].sequence), (0x0607, 99));
        let outer: Vec<(u16, &[u8])> = both[0].attributes().collect();
        assert_eq!(outer[0], (1, &[6][..]));
        assert_eq!(outer[1].0, 8);
        let inner: Vec<(u16, &[u8])> = attributes(outer[1].1).collect();
        assert_eq!(inner, [(3, &[0, 0, 0, 7][..])]);
    }

    #[test]
    fn what_is_cut_off_or_malformed_ends_the_parsing() {
        let check = |bytes: &[u8]| {
            assert_eq!(messages(bytes).count(), 0, "{bytes:?}");
            assert_eq!(attributes(bytes).count(), 0, "{bytes:?}");
        };
        check(&[]);
        check(&[3]);
        check(&[0; 40]);
        check(&[255; 40]);
        let mut bytes = Vec::new();
        begin(&mut bytes, 1, 0, 1);
        finish(&mut bytes);
        assert_eq!(messages(&bytes[..bytes.len() - 1]).count(), 0);
    }
}
