//! The first look at a packet, after which nearly all legitimate ones pass: a plain header, and nothing banned near its
//! source.
//!
//! Written for few instructions: each place where a header may stand has code of its own, with constant offsets and two
//! bounds checks at most. What it does not recognise is for `packet`, which knows all that may come.

use core::intrinsics::cold_path;

use aya_ebpf::maps::Array;
use shield_common::{FilterBit, filter_v4, filter_v6};

use crate::{
    maps::{FILTER_V4, FILTER_V6},
    packet::{ETHERNET, IPV4, IPV6, Packet, Source, Unknown, VLAN, is_vlan},
    verdict::client_v6,
};

/// What the first look says.
#[derive(Clone, Copy)]
pub enum Glance {
    /// Nothing is banned near the source.
    Free,
    /// Something may be banned at the source: a filter says so.
    Marked(Source),
    /// Behind a VLAN tag.
    Tagged,
    /// Not a plain packet.
    Unclear,
}

/// An EtherType and the two octets behind it, in the packet's order.
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
    fn is(&self, word: u32) -> bool {
        word & self.mask == self.octets
    }
}

/// Looks at a packet behind no tag, one or two.
#[inline(always)]
pub fn glance(packet: Packet) -> Glance {
    match glance_at(packet, ETHERNET) {
        Glance::Tagged => match glance_at(packet, ETHERNET + VLAN) {
            Glance::Tagged => glance_at(packet, ETHERNET + 2 * VLAN),
            glance => glance,
        },
        glance => glance,
    }
}

#[inline(always)]
fn glance_at(packet: Packet, offset: usize) -> Glance {
    look(packet, offset).unwrap_or(Glance::Unclear)
}

/// Looks at the header at `offset`; the error is that the packet is too short for it. In the order of how often each
/// kind comes; asking for tags before IPv6 costs IPv6 nothing that can be measured, and tagged packets less.
#[inline(always)]
fn look(packet: Packet, offset: usize) -> Result<Glance, Unknown> {
    packet.check(offset, IPV4)?;
    let head: u32 = packet.read(offset - 2)?;
    if PLAIN_IPV4.is(head) {
        let address: u32 = packet.read(offset + 12)?;
        return Ok(ask(&FILTER_V4, filter_v4(u32::from_be(address)), Source::V4(address)));
    }
    let [first, second, ..] = head.to_ne_bytes();
    if is_vlan(u16::from_ne_bytes([first, second])) {
        return Ok(Glance::Tagged);
    }
    if PLAIN_IPV6.is(head) {
        packet.check(offset, IPV6)?;
        let halves = packet.read(offset + 8)?;
        return Ok(ask(&FILTER_V6, filter_v6(client_v6(halves)), Source::V6(halves)));
    }
    Ok(Glance::Unclear)
}

/// What a filter says of a source.
#[inline(always)]
fn ask(filter: &Array<u64>, bit: FilterBit, source: Source) -> Glance {
    match filter.get(bit.word) {
        Some(word) if word & bit.mask == 0 => Glance::Free,
        _ => {
            cold_path();
            Glance::Marked(source)
        }
    }
}
