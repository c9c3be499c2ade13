//! Detects changes of this host's links, addresses and routes by the kernel's netlink announcements, so that they are
//! read again only after a change; a check costs one system call. It covers the network namespace of the thread that
//! opened it.

use std::io::ErrorKind;

use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};

/// `RTMGRP_LINK | RTMGRP_IPV4_IFADDR | RTMGRP_IPV4_ROUTE | RTMGRP_IPV6_IFADDR | RTMGRP_IPV6_ROUTE`.
const GROUPS: u32 = 0x1 | 0x10 | 0x40 | 0x100 | 0x400;

/// A subscription to the kernel's announcements. Without a socket every check reports a change, which is slower but
/// never stale.
#[derive(Debug)]
pub(crate) struct NetworkMonitor(Option<Socket>);

impl NetworkMonitor {
    pub(crate) fn new() -> NetworkMonitor {
        let opened = open().inspect_err(|error| {
            tracing::debug!(%error, "could not subscribe to changes of the network; reading it at every check");
        });
        NetworkMonitor(opened.ok())
    }

    /// Returns whether anything was announced since the last call. Call it before reading what may have changed: a change
    /// in between is then reported by the next call.
    pub(crate) fn changed(&mut self) -> bool {
        let Some(socket) = &self.0 else { return true };
        let mut changed = false;
        loop {
            // An empty buffer truncates the announcement: its content does not matter.
            match socket.recv(&mut &mut [0_u8; 0][..], 0) {
                Ok(_) => changed = true,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return changed,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // ENOBUFS: the socket's buffer overflowed.
                Err(_) => return true,
            }
        }
    }
}

fn open() -> std::io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind(&SocketAddr::new(0, GROUPS))?;
    socket.set_non_blocking(true)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quiet_network_reports_no_change() {
        let mut monitor = NetworkMonitor::new();
        assert!(monitor.0.is_some());
        // Other tests may change this host's network; but not all the time.
        assert!((0..100).any(|_| !monitor.changed()));
    }
}
