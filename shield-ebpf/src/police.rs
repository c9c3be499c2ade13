//! Slowed clients and networks: a token bucket each for new connections and for packets that carry data.
//!
//! A packet without data (an acknowledgement, the end of a connection) passes always: so a page that a slowed visitor loads
//! arrives as fast as ever, and only what he asks for is counted. The arithmetic is in `shield-common`, with its tests.

use core::intrinsics::{AtomicOrdering, atomic_xadd};

use shield_common::{KeyV6, Rate, SLOW_NETWORK_PREFIX, Slow, mask_v6, take};

use crate::{
    clock,
    maps::{SLOW_NETWORKS_V6, SLOW_V4, SLOW_V6},
    packet::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, IPV4, IPV6, Packet, Source, Unknown, octets},
    verdict::{client_v6, is_exempt_v6},
};

const TCP: u8 = 6;
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;
/// The offset of a fragment, and whether more follow, as loaded.
const FRAGMENT: u16 = u16::to_be(0x3fff);

/// What a packet is counted as.
#[derive(Clone, Copy)]
enum Kind {
    /// Opens a TCP connection.
    Opens,
    /// Carries data, or is not understood: no form of packet must be free to who wants to send many.
    Carries,
    /// A TCP packet without data.
    Bare,
}

/// Whether the source or its network is slowed, and this packet is more than the limits let through. Takes what the packet
/// costs: of the network first, where a client of its own would otherwise be a way around it.
#[inline(always)]
pub fn is_over_its_limits(packet: Packet, source: Source) -> bool {
    match source {
        Source::V4(address) => is_over(SLOW_V4.get_ptr_mut(address.to_ne_bytes()), packet),
        Source::V6(halves) => {
            is_network_over(halves, packet) || is_over(SLOW_V6.get_ptr_mut(octets(client_v6(halves))), packet)
        }
    }
}

/// Whether the source has an entry, in force or not.
#[inline(always)]
pub fn is_listed_v4(source: u32) -> bool {
    SLOW_V4.get_ptr(source.to_ne_bytes()).is_some()
}

/// Whether the source or its network has an entry, in force or not.
#[inline(always)]
pub fn is_listed_v6(source: impl Fn() -> [u64; 2]) -> bool {
    SLOW_NETWORKS_V6.get_ptr(network_of(source())).is_some()
        || SLOW_V6.get_ptr(octets(client_v6(source()))).is_some()
}

#[inline(always)]
fn network_of(source: [u64; 2]) -> KeyV6 {
    const MASK: [u64; 2] = mask_v6(SLOW_NETWORK_PREFIX);
    octets([source[0] & MASK[0], source[1] & MASK[1]])
}

#[inline(always)]
fn is_network_over(source: [u64; 2], packet: Packet) -> bool {
    let network = SLOW_NETWORKS_V6.get_ptr_mut(network_of(source));
    // Exemptions stand in a trie, which the kernel walks node by node.
    network.is_some() && !is_exempt_v6(source) && is_over(network, packet)
}

#[inline(always)]
fn is_over(slow: Option<*mut Slow>, packet: Packet) -> bool {
    let Some(slow) = slow else { return false };
    let now = clock::now();
    // SAFETY: points into a map value, which the kernel keeps while the program runs; one aligned word.
    if now >= unsafe { (*slow).ends } {
        return false;
    }
    // SAFETY: as above. The limits of an element are written before it is in the map.
    let (limits, ticks_per_sec) = unsafe { ((*slow).limits, (*slow).ticks_per_sec) };
    let is_over = match kind(packet) {
        // SAFETY: a word of the value.
        Kind::Opens => unsafe {
            is_empty(&raw mut (*slow).connections, limits.connections, ticks_per_sec, now)
        },
        // SAFETY: as above.
        Kind::Carries => unsafe { is_empty(&raw mut (*slow).packets, limits.packets, ticks_per_sec, now) },
        Kind::Bare => false,
    };
    if is_over {
        dropped(slow);
    }
    is_over
}

/// Takes a token, and returns whether there was none.
///
/// # Safety
/// `bucket` is an aligned word of a map value.
#[inline(always)]
unsafe fn is_empty(bucket: *mut u64, rate: Rate, ticks_per_sec: u32, now: u64) -> bool {
    // Volatile, so that the word is read once and written once: see `shield_common::take` for other CPUs.
    // SAFETY: by the caller.
    let (next, was_there) = take(unsafe { bucket.read_volatile() }, rate, ticks_per_sec, now);
    // SAFETY: by the caller.
    unsafe { bucket.write_volatile(next) };
    !was_there
}

#[inline(always)]
fn dropped(slow: *mut Slow) {
    // SAFETY: `slow` points into a map value.
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(&raw mut (*slow).dropped, 1) };
}

#[inline(always)]
fn kind(packet: Packet) -> Kind {
    try_kind(packet).unwrap_or(Kind::Carries)
}

/// Headers with options or extensions are not walked: their packets count as carrying data.
#[inline(always)]
fn try_kind(packet: Packet) -> Result<Kind, Unknown> {
    let (ethertype, at) = packet.network_header()?;
    match ethertype {
        ETHERTYPE_IPV4 => {
            let first: u8 = packet.read(at)?;
            let protocol: u8 = packet.read(at + 9)?;
            let fragment: u16 = packet.read(at + 6)?;
            if first != 0x45 || protocol != TCP || fragment & FRAGMENT != 0 {
                return Ok(Kind::Carries);
            }
            let length: u16 = packet.read(at + 2)?;
            tcp(packet, at + IPV4, u32::from(u16::from_be(length)).wrapping_sub(IPV4 as u32))
        }
        ETHERTYPE_IPV6 => {
            let next_header: u8 = packet.read(at + 6)?;
            if next_header != TCP {
                return Ok(Kind::Carries);
            }
            let length: u16 = packet.read(at + 4)?;
            tcp(packet, at + IPV6, u32::from(u16::from_be(length)))
        }
        _ => Ok(Kind::Carries),
    }
}

/// Judges a TCP header at `at`, with `length` bytes of it and its data.
#[inline(always)]
fn tcp(packet: Packet, at: usize, length: u32) -> Result<Kind, Unknown> {
    let words: u8 = packet.read(at + 12)?;
    let flags: u8 = packet.read(at + 13)?;
    if flags & (SYN | ACK) == SYN {
        return Ok(Kind::Opens);
    }
    let header = u32::from(words >> 4) * 4;
    Ok(if length > header { Kind::Carries } else { Kind::Bare })
}
