//! The fast path, on which nearly all legitimate packets pass: a plain header, and nothing banned near its source.
//!
//! Written for few instructions: each place where a header may stand has code of its own, so that offsets are constants and
//! two bounds checks suffice. Whatever is not recognised here goes to `packet`, which parses every packet that may come.

use core::intrinsics::cold_path;

use aya_ebpf::maps::Array;
use shield_common::{FilterBit, filter_v4};

use crate::{
    maps::{FILTER_V4, FILTER_V6},
    packet::{ETHERNET, IPV4, IPV6, Packet, Unknown, VLAN, is_vlan},
    verdict::filter_bit_v6,
};

/// The decision of the fast path.
#[derive(Clone, Copy)]
pub enum FastPath {
    /// Nothing is banned near the source.
    Pass,
    /// The filter has the bit of this source: it may be banned.
    CandidateV4(u32),
    /// As for IPv4. The header stands at this offset: its source is not kept meanwhile, which would take two registers.
    CandidateV6(usize),
    /// Not a plain packet; the full parser decides.
    Fallback,
}

/// What stands at one offset.
#[derive(Clone, Copy)]
enum Header {
    Decided(FastPath),
    VlanTag,
}

/// An EtherType and the two octets behind it, in packet order, so that one load and one comparison recognise a header.
struct Head {
    octets: u32,
    mask: u32,
}

/// IPv4 without options.
const PLAIN_IPV4: Head = Head::new([0x08, 0x00, 0x45, 0], [0xff, 0xff, 0xff, 0]);
/// IPv6 with any traffic class.
const PLAIN_IPV6: Head = Head::new([0x86, 0xdd, 0x60, 0], [0xff, 0xff, 0xf0, 0]);

impl Head {
    const fn new(octets: [u8; 4], mask: [u8; 4]) -> Head {
        Head { octets: u32::from_ne_bytes(octets), mask: u32::from_ne_bytes(mask) }
    }

    #[inline(always)]
    fn matches(&self, word: u32) -> bool {
        word & self.mask == self.octets
    }
}

/// Classifies a packet behind at most two VLAN tags.
#[inline(always)]
pub fn fast_path(packet: Packet) -> FastPath {
    // Written out instead of a loop: the offsets have to be constants.
    match header(packet, ETHERNET) {
        Header::Decided(decision) => decision,
        Header::VlanTag => match header(packet, ETHERNET + VLAN) {
            Header::Decided(decision) => decision,
            Header::VlanTag => match header(packet, ETHERNET + 2 * VLAN) {
                Header::Decided(decision) => decision,
                Header::VlanTag => FastPath::Fallback,
            },
        },
    }
}

#[inline(always)]
fn header(packet: Packet, offset: usize) -> Header {
    try_header(packet, offset).unwrap_or(Header::Decided(FastPath::Fallback))
}

/// Classifies the header at `offset`; fails when the packet is too short for it.
///
/// Kinds are tested in the order of their frequency.
#[inline(always)]
fn try_header(packet: Packet, offset: usize) -> Result<Header, Unknown> {
    packet.check(offset, IPV4)?;
    let head: u32 = packet.read(offset - 2)?;
    if PLAIN_IPV4.matches(head) {
        let address: u32 = packet.read(offset + 12)?;
        let bit = filter_v4(u32::from_be(address));
        return Ok(Header::Decided(query(&FILTER_V4, bit, FastPath::CandidateV4(address))));
    }
    if PLAIN_IPV6.matches(head) {
        packet.check(offset, IPV6)?;
        let halves = packet.halves(offset)?;
        return Ok(Header::Decided(query(&FILTER_V6, filter_bit_v6(halves), FastPath::CandidateV6(offset))));
    }
    let [first, second, ..] = head.to_ne_bytes();
    if is_vlan(u16::from_ne_bytes([first, second])) {
        return Ok(Header::VlanTag);
    }
    Ok(Header::Decided(FastPath::Fallback))
}

#[inline(always)]
fn query(filter: &Array<u64>, bit: FilterBit, candidate: FastPath) -> FastPath {
    match filter.get(bit.word) {
        Some(word) if word & bit.mask == 0 => FastPath::Pass,
        _ => {
            // Keeps the pass, which almost every packet takes, on the straight line.
            cold_path();
            candidate
        }
    }
}
