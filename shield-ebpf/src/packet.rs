//! From bytes to a source address: Ethernet, up to two VLAN tags, IPv4, IPv6.
//!
//! Bans match source addresses only, which stand at a fixed offset of either header. Hence options, extension headers,
//! fragments and ports are not parsed.

/// Length of an Ethernet header.
pub const ETHERNET: usize = 14;
/// Length of a VLAN tag with the EtherType behind it.
pub const VLAN: usize = 4;
/// Length of an IPv4 header without options.
pub const IPV4: usize = 20;
/// Length of an IPv6 header without extensions.
pub const IPV6: usize = 40;

/// The first octet of an IPv4 header: version 4, and a length of at least five words.
const IPV4_FIRST: core::ops::RangeInclusive<u8> = 0x45..=0x4f;

pub const ETHERTYPE_IPV4: u16 = u16::to_be(0x0800);
pub const ETHERTYPE_IPV6: u16 = u16::to_be(0x86dd);
const ETHERTYPE_8021Q: u16 = u16::to_be(0x8100);
const ETHERTYPE_8021AD: u16 = u16::to_be(0x88a8);

/// The source address of a packet.
#[derive(Clone, Copy)]
pub enum Source {
    /// In memory order. A word instead of octets, because LLVM stores octets in a way that the verifier refuses.
    V4(u32),
    /// Both halves as loaded, not converted from network byte order.
    V6([u64; 2]),
}

/// The reason why a packet has no source address.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Unknown {
    /// Neither IPv4 nor IPv6.
    NotIp,
    /// Too short, or not what it claims to be.
    Malformed,
}

/// A packet's first buffer. The only code that touches packet memory.
#[derive(Clone, Copy)]
pub struct Packet {
    start: usize,
    end: usize,
}

impl Packet {
    /// Takes the addresses `data` and `data_end` of the context.
    #[inline(always)]
    pub fn new(start: usize, end: usize) -> Packet {
        Packet { start, end }
    }

    #[inline(always)]
    pub fn len(self) -> u64 {
        (self.end - self.start) as u64
    }

    #[inline(always)]
    pub fn source(self) -> Result<Source, Unknown> {
        let (ethertype, offset) = self.network_header()?;
        match ethertype {
            ETHERTYPE_IPV4 => self.source_v4(offset),
            ETHERTYPE_IPV6 => self.source_v6(offset),
            _ => Err(Unknown::NotIp),
        }
    }

    /// Returns the EtherType behind at most two VLAN tags, and the offset of its header.
    #[inline(always)]
    pub fn network_header(self) -> Result<(u16, usize), Unknown> {
        let outer: u16 = self.read(ETHERNET - 2)?;
        if !is_vlan(outer) {
            return Ok((outer, ETHERNET));
        }
        let inner: u16 = self.read(ETHERNET + VLAN - 2)?;
        if !is_vlan(inner) {
            return Ok((inner, ETHERNET + VLAN));
        }
        Ok((self.read(ETHERNET + 2 * VLAN - 2)?, ETHERNET + 2 * VLAN))
    }

    #[inline(always)]
    fn source_v4(self, offset: usize) -> Result<Source, Unknown> {
        self.check(offset, IPV4)?;
        let version_and_length: u8 = self.read(offset)?;
        if !IPV4_FIRST.contains(&version_and_length) {
            return Err(Unknown::Malformed);
        }
        Ok(Source::V4(self.read(offset + 12)?))
    }

    #[inline(always)]
    fn source_v6(self, offset: usize) -> Result<Source, Unknown> {
        self.check(offset, IPV6)?;
        let version: u8 = self.read(offset)?;
        if version >> 4 != 6 {
            return Err(Unknown::Malformed);
        }
        Ok(Source::V6(self.halves(offset)?))
    }

    /// Reads the source of the IPv6 header at `offset`.
    #[inline(always)]
    pub fn halves(self, offset: usize) -> Result<[u64; 2], Unknown> {
        self.read(offset + 8)
    }

    /// The only bounds check, in the form `start + constant > end` that the verifier recognises.
    #[inline(always)]
    pub fn check(self, offset: usize, length: usize) -> Result<usize, Unknown> {
        let at = self.start + offset;
        if at + length > self.end { Err(Unknown::Malformed) } else { Ok(at) }
    }

    /// Reads the `T` at `offset`, which must be an integer or an array of integers. Unaligned, because an Ethernet header of
    /// 14 bytes leaves the headers behind it unaligned.
    #[inline(always)]
    pub fn read<T: Copy>(self, offset: usize) -> Result<T, Unknown> {
        let at = self.check(offset, size_of::<T>())?;
        // SAFETY: inside the packet by the check (which the verifier repeats), and only integers are read.
        Ok(unsafe { (at as *const T).read_unaligned() })
    }

    /// Writes `value` at `offset` if the packet is long enough.
    #[inline(always)]
    pub fn write<T: Copy>(self, offset: usize, value: T) {
        if let Ok(at) = self.check(offset, size_of::<T>()) {
            // SAFETY: inside the packet by the check.
            unsafe { (at as *mut T).write_unaligned(value) };
        }
    }
}

/// Returns whether an EtherType, in network byte order as loaded, is that of a VLAN tag.
#[inline(always)]
pub fn is_vlan(ethertype: u16) -> bool {
    ethertype == ETHERTYPE_8021Q || ethertype == ETHERTYPE_8021AD
}

/// Converts the halves of an IPv6 address to octets.
#[inline(always)]
pub fn octets(halves: [u64; 2]) -> [u8; 16] {
    // SAFETY: two integers without padding, read as bytes in memory order.
    unsafe { core::mem::transmute(halves) }
}
