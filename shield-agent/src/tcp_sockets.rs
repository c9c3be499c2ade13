//! The TCP sockets of the calling thread's network namespace, as the kernel lists them over netlink (`sock_diag(7)`).
//!
//! /proc/net/tcp and tcp6 say the same, but each of the two reads that a file takes walks the kernel's whole table of connections:
//! 15 ms for four on a machine with 23 GB of memory, where these two walks take one. Whoever asks here reads the files where
//! the kernel has no such interface.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NLMSG_ALIGNTO, NLMSG_DONE, NLMSG_ERROR, NetlinkBuffer};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_SOCK_DIAG};

/// `TCP_ESTABLISHED` and `TCP_LISTEN`.
pub(crate) const ESTABLISHED: u8 = 1;
pub(crate) const LISTEN: u8 = 10;

/// `SOCK_DIAG_BY_FAMILY`.
const BY_FAMILY: u16 = 20;
const TCP: u8 = libc::IPPROTO_TCP as u8;
/// Every state from `TCP_ESTABLISHED` to `TCP_CLOSING`, as the files have them.
const ALL_STATES: u32 = 0x0ffe;
/// The lengths of `struct nlmsghdr` and `struct inet_diag_req_v2`.
const HEADER: usize = 16;
const REQUEST: usize = 56;

/// A socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TcpSocket {
    pub state: u8,
    /// Its own port.
    pub port: u16,
    /// The far end; IPv4 also where it came over an IPv6 socket.
    pub peer: IpAddr,
    pub peer_port: u16,
    pub uid: u32,
    /// 0 of one that no process holds any more.
    pub inode: u64,
}

/// Lists up to about `at_most` sockets of each IP version, those that listen first.
///
/// # Errors
/// When the kernel does not tell.
pub(crate) fn list(at_most: usize) -> io::Result<Vec<TcpSocket>> {
    let mut sockets = Vec::new();
    for family in [libc::AF_INET, libc::AF_INET6] {
        let limit = sockets.len().saturating_add(at_most);
        // A socket for each, because one whose answer is not read to its end is of no use any more.
        list_family(family as u8, limit, &mut sockets)?;
    }
    Ok(sockets)
}

fn list_family(family: u8, limit: usize, sockets: &mut Vec<TcpSocket>) -> io::Result<()> {
    let socket = Socket::new(NETLINK_SOCK_DIAG)?;
    socket.send_to(&request(family), &SocketAddr::new(0, 0), 0)?;
    while sockets.len() < limit {
        let (answer, _) = socket.recv_from_full()?;
        if take(&answer, sockets)? {
            break;
        }
    }
    Ok(())
}

fn request(family: u8) -> Vec<u8> {
    let length = HEADER + REQUEST;
    let mut request = Vec::with_capacity(length);
    request.extend((length as u32).to_ne_bytes());
    request.extend(BY_FAMILY.to_ne_bytes());
    request.extend((NLM_F_REQUEST | NLM_F_DUMP).to_ne_bytes());
    // Sequence and sender, then no more attributes in the answers, and sockets with any addresses and ports.
    request.extend([0; 8]);
    request.extend([family, TCP, 0, 0]);
    request.extend(ALL_STATES.to_ne_bytes());
    request.resize(length, 0);
    request
}

/// Takes the sockets out of a datagram; returns whether it was the last.
fn take(mut datagram: &[u8], sockets: &mut Vec<TcpSocket>) -> io::Result<bool> {
    while !datagram.is_empty() {
        let message = NetlinkBuffer::new_checked(datagram).map_err(io::Error::other)?;
        match message.message_type() {
            NLMSG_DONE => return Ok(true),
            NLMSG_ERROR => {
                let code = message.payload().first_chunk().map_or(0, |code| i32::from_ne_bytes(*code));
                return Err(io::Error::from_raw_os_error(code.saturating_neg()));
            }
            BY_FAMILY => sockets.extend(socket(message.payload())),
            _ => {}
        }
        let length = (message.length() as usize).next_multiple_of(usize::from(NLMSG_ALIGNTO));
        datagram = datagram.get(length..).unwrap_or_default();
    }
    Ok(false)
}

/// Reads a `struct inet_diag_msg`; `None` of what is none.
fn socket(message: &[u8]) -> Option<TcpSocket> {
    let [family, state, ..] = *message.first_chunk::<4>()?;
    let port = |at: usize| Some(u16::from_be_bytes(*message.get(at..)?.first_chunk()?));
    let number = |at: usize| Some(u32::from_ne_bytes(*message.get(at..)?.first_chunk()?));
    let far: [u8; 16] = *message.get(24..)?.first_chunk()?;
    let [a, b, c, d, ..] = far;
    let peer = match i32::from(family) {
        libc::AF_INET => IpAddr::V4(Ipv4Addr::new(a, b, c, d)),
        libc::AF_INET6 => IpAddr::V6(Ipv6Addr::from(far)).to_canonical(),
        _ => return None,
    };
    Some(TcpSocket {
        state,
        port: port(4)?,
        peer_port: port(6)?,
        peer,
        uid: number(64)?,
        inode: u64::from(number(68)?),
    })
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    fn inode(socket: &impl std::os::fd::AsFd) -> u64 {
        std::fs::File::from(socket.as_fd().try_clone_to_owned().unwrap()).metadata().unwrap().ino()
    }

    #[test]
    fn this_hosts_sockets_are_listed_as_proc_has_them() {
        for host in ["127.0.0.1:0", "[::1]:0"] {
            // A host may have no IPv6.
            let Ok(listener) = TcpListener::bind(host) else { continue };
            let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (accepted, from) = listener.accept().unwrap();
            let sockets = list(usize::MAX).unwrap();
            let of = |wanted: u64| *sockets.iter().find(|socket| socket.inode == wanted).unwrap();
            let listening = of(inode(&listener));
            assert_eq!((listening.state, listening.port), (LISTEN, listener.local_addr().unwrap().port()));
            let inbound = of(inode(&accepted));
            assert_eq!((inbound.state, inbound.port), (ESTABLISHED, listening.port));
            assert_eq!((inbound.peer, inbound.peer_port), (from.ip().to_canonical(), from.port()));
            assert_eq!(inbound.uid, nix::unistd::getuid().as_raw());
            assert_eq!(of(inode(&client)).peer_port, listening.port);

            let mut files = procfs::net::tcp().unwrap();
            files.extend(procfs::net::tcp6().unwrap_or_default());
            let file = files.iter().find(|entry| entry.inode == inbound.inode).unwrap();
            assert_eq!((file.local_address.port(), file.uid), (inbound.port, inbound.uid));
            assert_eq!(file.remote_address.ip().to_canonical(), inbound.peer);
        }
    }

    #[test]
    fn what_is_cut_off_or_refused_is_no_socket() {
        let mut message = vec![0; 72];
        (message[0], message[1]) = (libc::AF_INET as u8, ESTABLISHED);
        message[4..8].copy_from_slice(&[0, 80, 0x9c, 0x40]);
        message[24..28].copy_from_slice(&[198, 51, 100, 7]);
        message[64..68].copy_from_slice(&33_u32.to_ne_bytes());
        message[68..72].copy_from_slice(&4711_u32.to_ne_bytes());
        let expected = TcpSocket {
            state: ESTABLISHED,
            port: 80,
            peer: "198.51.100.7".parse().unwrap(),
            peer_port: 40_000,
            uid: 33,
            inode: 4711,
        };
        assert_eq!(socket(&message), Some(expected));
        for length in 0..72 {
            assert_eq!(socket(&message[..length]), None, "{length} bytes");
        }
        message[0] = libc::AF_UNIX as u8;
        assert_eq!(socket(&message), None);

        let datagram = |kind: u16, body: &[u8]| {
            let mut datagram = ((HEADER + body.len()) as u32).to_ne_bytes().to_vec();
            datagram.extend(kind.to_ne_bytes());
            datagram.resize(HEADER, 0);
            datagram.extend(body);
            datagram
        };
        let mut sockets = Vec::new();
        let refused = take(&datagram(NLMSG_ERROR, &(-libc::ENOENT).to_ne_bytes()), &mut sockets);
        assert_eq!(refused.unwrap_err().raw_os_error(), Some(libc::ENOENT));
        message[0] = libc::AF_INET as u8;
        let two = [datagram(BY_FAMILY, &message), datagram(BY_FAMILY, &message)].concat();
        assert!(!take(&two, &mut sockets).unwrap());
        assert!(take(&datagram(NLMSG_DONE, &[0; 4]), &mut sockets).unwrap());
        assert_eq!(sockets, [expected, expected]);
        assert!(take(&two[..10], &mut sockets).is_err());
    }
}
