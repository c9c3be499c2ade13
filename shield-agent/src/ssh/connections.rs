//! Inbound TCP connections that root's programs accepted. That there is one proves nothing of a login.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::path::Path;

use anyhow::{Context, Result};
use procfs::net::{TcpNetEntry, TcpState};

use crate::tcp_sockets::{self, ESTABLISHED, LISTEN, TcpSocket};

#[derive(Debug, Clone, Copy)]
struct Inbound {
    peer: IpAddr,
    peer_port: u16,
    port: u16,
}

/// Established connections to ports on which root listens, by socket inode.
#[derive(Debug, Default)]
pub(super) struct Connections {
    inbound: HashMap<u64, Inbound>,
    listening: BTreeSet<u64>,
}

impl Connections {
    pub(super) fn read() -> Result<Connections> {
        if let Ok(sockets) = tcp_sockets::list(usize::MAX) {
            return Ok(Connections::of(&sockets));
        }
        // A kernel that does not list them over netlink.
        let mut entries = procfs::net::tcp().context("could not read /proc/net/tcp")?;
        // Missing where IPv6 is switched off.
        entries.extend(procfs::net::tcp6().unwrap_or_default());
        let sockets: Vec<TcpSocket> = entries.iter().map(of_file).collect();
        Ok(Connections::of(&sockets))
    }

    fn of(sockets: &[TcpSocket]) -> Connections {
        let listeners = || sockets.iter().filter(|socket| socket.state == LISTEN);
        let ports: BTreeSet<u16> =
            listeners().filter(|socket| socket.uid == 0).map(|socket| socket.port).collect();
        let is_inbound = |socket: &&TcpSocket| {
            socket.state == ESTABLISHED
                && socket.uid == 0
                && socket.inode != 0
                && ports.contains(&socket.port)
        };
        let inbound = |socket: &TcpSocket| Inbound {
            peer: socket.peer,
            peer_port: socket.peer_port,
            port: socket.port,
        };
        Connections {
            inbound: sockets
                .iter()
                .filter(is_inbound)
                .map(|socket| (socket.inode, inbound(socket)))
                .collect(),
            listening: listeners().map(|socket| socket.inode).collect(),
        }
    }

    pub(super) fn is_listening(&self, inode: u64) -> bool {
        self.listening.contains(&inode)
    }

    /// The far end of the inbound connection with this socket.
    pub(super) fn peer(&self, inode: u64) -> Option<IpAddr> {
        self.inbound.get(&inode).map(|inbound| inbound.peer)
    }

    pub(super) fn serves(&self, addr: IpAddr, ports: &BTreeSet<u16>) -> bool {
        self.inbound.values().any(|inbound| inbound.peer == addr && ports.contains(&inbound.port))
    }

    /// The far ends, with their ports, of the connections to one of `ports`.
    pub(super) fn peers(&self, ports: &BTreeSet<u16>) -> impl Iterator<Item = (IpAddr, u16)> {
        let inbound = self.inbound.values().filter(|inbound| ports.contains(&inbound.port));
        inbound.map(|inbound| (inbound.peer, inbound.peer_port))
    }

    #[cfg(test)]
    pub(super) fn of_peer(peer: IpAddr, port: u16) -> Connections {
        let inbound = HashMap::from([(1, Inbound { peer, peer_port: 40_000, port })]);
        Connections { inbound, listening: BTreeSet::new() }
    }
}

/// The socket of a line of /proc/net/tcp.
fn of_file(entry: &TcpNetEntry) -> TcpSocket {
    TcpSocket {
        state: match entry.state {
            TcpState::Listen => LISTEN,
            TcpState::Established => ESTABLISHED,
            // Nothing is asked of the others.
            _ => 0,
        },
        port: entry.local_address.port(),
        peer: entry.remote_address.ip().to_canonical(),
        peer_port: entry.remote_address.port(),
        uid: entry.uid,
        inode: entry.inode,
    }
}

/// The ports of sshd: 22, and what its configuration names.
pub(super) fn ssh_ports(config: &Path) -> BTreeSet<u16> {
    let parts = std::fs::read_dir(config.with_extension("").with_file_name("sshd_config.d"));
    let parts = parts.into_iter().flatten().flatten().map(|entry| entry.path());
    let files =
        parts.filter(|path| path.extension().is_some_and(|ext| ext == "conf")).chain([config.to_owned()]);
    let texts = files.filter_map(|path| std::fs::read_to_string(path).ok());
    let found = texts.flat_map(|text| text.lines().filter_map(port).collect::<Vec<_>>());
    found.chain([22]).collect()
}

/// The port in a line of sshd's configuration: `Port 2222`, `ListenAddress 192.0.2.1:2222`.
fn port(line: &str) -> Option<u16> {
    let mut words = line.split(|c: char| c.is_ascii_whitespace() || c == '=').filter(|word| !word.is_empty());
    let (key, value) = (words.next()?, words.next()?);
    match key.to_ascii_lowercase().as_str() {
        "port" => value.parse().ok(),
        "listenaddress" if value.parse::<IpAddr>().is_err() => value.rsplit_once(':')?.1.parse().ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_read_from_sshds_configuration() {
        let check = |line: &str, expected: Option<u16>| assert_eq!(port(line), expected, "{line}");
        check("Port 2222", Some(2222));
        check("port=2222", Some(2222));
        check("ListenAddress 192.0.2.1:2200", Some(2200));
        check("ListenAddress [2001:db8::1]:2200", Some(2200));
        check("ListenAddress 2001:db8::1", None);
        check("ListenAddress 192.0.2.1", None);
        check("#Port 2222", None);
        check("Port", None);
    }
}
