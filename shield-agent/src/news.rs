//! Whether the kernel has announced a change of this host's network since it was last asked: what was read of links,
//! addresses and routes holds until then, and asking costs one system call. In the network namespace of the thread
//! that opened it.

use std::io::ErrorKind;

use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};

/// `RTMGRP_LINK | RTMGRP_IPV4_IFADDR | RTMGRP_IPV4_ROUTE | RTMGRP_IPV6_IFADDR | RTMGRP_IPV6_ROUTE`.
const GROUPS: u32 = 0x1 | 0x10 | 0x40 | 0x100 | 0x400;

/// Announcements of the kernel; where it makes none, there is always news.
#[derive(Debug)]
pub(crate) struct News(Option<Socket>);

impl News {
    /// Begins to listen.
    pub(crate) fn of_network() -> News {
        let opened = open().inspect_err(|error| {
            tracing::debug!(%error, "could not listen to changes of the network; asking again and again");
        });
        News(opened.ok())
    }

    /// Whether anything was announced since the last call. Ask it before what may have changed is read, so that a change
    /// in between is news the next time.
    pub(crate) fn came(&mut self) -> bool {
        let Some(socket) = &self.0 else { return true };
        let mut came = false;
        loop {
            // What it says does not matter: an announcement is cut to nothing.
            match socket.recv(&mut &mut [0_u8; 0][..], 0) {
                Ok(_) => came = true,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return came,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // ENOBUFS: there were more of them than it could hold.
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
    fn a_quiet_network_makes_no_news() {
        let mut news = News::of_network();
        assert!(news.0.is_some());
        // Other tests may change this host's network; they do not do it all the time.
        assert!((0..100).any(|_| !news.came()));
    }
}
