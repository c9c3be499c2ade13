//! Detects a client's ban in the kernel: by nftables' notification of a committed rule, and in the pinned XDP map.

use std::io::ErrorKind;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use aya::maps::{HashMap, Map, MapData, MapError};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, setsockopt, socket,
    sockopt,
};
use nix::sys::time::TimeVal;
use shield_common::map_name;
use shield_tests::lab::kernel::BanWords;

/// Pause between two lookups. A lookup takes about a microsecond, so nearly all CPU time is left to the agent.
const POLL_INTERVAL: Duration = Duration::from_micros(100);

/// The multicast group of nftables' commits, `NFNLGRP_NFTABLES`.
const NFTABLES_GROUP: u32 = 7;

/// The message type of a new rule: `NFNL_SUBSYS_NFTABLES` (10) and `NFT_MSG_NEWRULE` (6).
const NEW_RULE: u16 = 10 << 8 | 6;

/// The size of a netlink header: length, type, flags, sequence, sender.
const HEADER_BYTES: usize = 16;

/// Receives the commits to nftables in one namespace. Rules of iptables appear there if it is iptables-nft, as here.
pub(crate) struct RuleWatch {
    socket: OwnedFd,
    buffer: Vec<u8>,
}

impl RuleWatch {
    /// Subscribes in the namespace of the calling thread.
    pub(crate) fn open() -> Result<RuleWatch> {
        let socket = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkNetFilter,
        )
        .context("could not open a netlink socket")?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, 1 << (NFTABLES_GROUP - 1)))
            .context("could not subscribe to nftables' notifications")?;
        setsockopt(&socket, sockopt::RcvBuf, &(4 << 20)).context("could not enlarge the receive buffer")?;
        Ok(RuleWatch { socket, buffer: vec![0; 256 * 1024] })
    }

    /// Waits for the notification of a rule with this address, and returns its time.
    pub(crate) fn wait_for(&mut self, client: Ipv4Addr, at_most: Duration) -> Result<Instant> {
        let deadline = Instant::now() + at_most;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                bail!("no notification of a rule with {client} within {} s", at_most.as_secs());
            }
            let left = TimeVal::new(left.as_secs() as i64, i64::from(left.subsec_micros()).max(1));
            setsockopt(&self.socket, sockopt::ReceiveTimeout, &left)
                .context("could not set the receive timeout")?;
            match recv(self.socket.as_raw_fd(), &mut self.buffer, MsgFlags::empty()) {
                Ok(count) if announces(self.buffer.get(..count).unwrap_or_default(), client) => {
                    return Ok(Instant::now());
                }
                Ok(_) => {}
                Err(error) if std::io::Error::from(error).kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error).context("could not read nftables' notifications"),
            }
        }
    }
}

/// Returns whether one of these messages announces a rule that matches this address.
fn announces(mut messages: &[u8], client: Ipv4Addr) -> bool {
    while let Some((length, kind)) = header(messages) {
        let length = length.clamp(HEADER_BYTES, messages.len());
        let (message, rest) = messages.split_at(length);
        if kind == NEW_RULE && message.windows(4).any(|bytes| bytes == client.octets()) {
            return true;
        }
        // Messages are aligned to four bytes.
        messages = rest.get(length.next_multiple_of(4) - length..).unwrap_or_default();
    }
    false
}

fn header(messages: &[u8]) -> Option<(usize, u16)> {
    let (length, rest) = messages.split_first_chunk::<4>()?;
    let (kind, _) = rest.split_first_chunk::<2>()?;
    Some((u32::from_ne_bytes(*length) as usize, u16::from_ne_bytes(*kind)))
}

/// When an entry was seen.
pub(crate) struct Seen {
    pub seen: Instant,
    /// The longest time between two looks: what the machine itself stood still.
    pub longest_pause: Duration,
}

/// Polls the pinned map of banned IPv4 clients.
pub(crate) struct XdpWatch(HashMap<MapData, [u8; 4], BanWords>);

impl XdpWatch {
    /// Opens the map pinned below `pins`.
    pub(crate) fn open(pins: &Path) -> Result<XdpWatch> {
        let pin = pins.join("maps").join(map_name::BANS_V4);
        let data = MapData::from_pin(&pin)
            .with_context(|| format!("could not open the map pinned at {}", pin.display()))?;
        let map = HashMap::try_from(Map::HashMap(data))
            .context("could not use the pinned map as the map of bans")?;
        Ok(XdpWatch(map))
    }

    /// Waits for the client's entry, and returns the time at which it was seen.
    pub(crate) fn wait_for(&self, client: Ipv4Addr, at_most: Duration) -> Result<Seen> {
        let began = Instant::now();
        let (mut looked, mut longest_pause) = (began, Duration::ZERO);
        while began.elapsed() < at_most {
            let seen = self.0.get(&client.octets(), 0);
            let now = Instant::now();
            longest_pause = longest_pause.max(now - looked);
            looked = now;
            match seen {
                Ok(_) => return Ok(Seen { seen: now, longest_pause }),
                Err(MapError::KeyNotFound) => std::thread::sleep(POLL_INTERVAL),
                Err(error) => return Err(error).with_context(|| format!("could not look up {client}")),
            }
        }
        bail!("{client} was not in the XDP map within {} s", at_most.as_secs())
    }
}
