//! A proxy in front that the log does not name: whoever is in the log has no connection with this host, and what has
//! connections is a few addresses that are not in the log.
//!
//! The kernel tells the connections (`tcp_sockets`, and for those that it forwards into a container /proc/net/nf_conntrack; the unit's
//! sandbox shows both), the engine whether an address is a client of the log. Being wrong would tell an operator that he is not protected, hence: several looks in a row, each with enough
//! requests in between, and one client seen among the connections says the contrary. Connections that hang open and ask for
//! nothing, or short ones that are gone at each look, are no proxy by themselves.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use shield_engine::Engine;
use shield_engine::client::Client;
use shield_engine::event::{EnforcerName, PartState};

use crate::host;
use crate::tcp_sockets::{self, ESTABLISHED, LISTEN, TcpSocket};
use crate::text::in_front as text;
use shield_engine::allowlist::AllowReason;

/// The name of the part in the status. It is there once a proxy was seen.
pub(crate) const PART: &str = "proxy";

/// The usual ports of web servers.
pub(crate) const WEB_PORTS: [u16; 4] = [80, 443, 8080, 8443];
/// Sockets or lines read of each table: a flood must not make a look dear. Listening sockets come first.
const MAX_LINES: usize = 20_000;
/// Peers of which the engine is asked, those with the most connections.
const MAX_ASKED: usize = 24;
/// Requests between two looks without which a look says nothing.
const MIN_REQUESTS: u64 = 20;
/// Clients in the log for each peer, without which these are not few.
const CLIENTS_A_PEER: u64 = 3;
const MIN_CLIENTS: u64 = 10;
/// Looks in a row that must say the same.
const LOOKS: u32 = 3;

/// A line of the kernel's table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Socket {
    port: u16,
    peer: IpAddr,
    state: u8,
}

impl From<&TcpSocket> for Socket {
    fn from(socket: &TcpSocket) -> Socket {
        Socket { port: socket.port, peer: socket.peer, state: socket.state }
    }
}

/// The far ends of the connections to web ports.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Peers {
    /// How many of each are established.
    established: BTreeMap<IpAddr, u32>,
    /// No process of the host serves a web port, and the kernel does not tell what it forwards.
    are_hidden: bool,
}

impl Peers {
    /// Reads those of connections to `ports`; empty where the kernel does not tell.
    pub(crate) fn read(ports: &[u16]) -> Peers {
        let listed = tcp_sockets::list(MAX_LINES).map(|all| all.iter().map(Socket::from).collect());
        let sockets: Vec<Socket> = listed.unwrap_or_else(|_| sockets_in_proc());
        let mut peers = Peers::of(&sockets, ports);
        let Ok(file) = std::fs::File::open("/proc/net/nf_conntrack") else {
            let is_served = |socket: &Socket| socket.state == LISTEN && ports.contains(&socket.port);
            peers.are_hidden = !sockets.iter().any(is_served);
            return peers;
        };
        let lines = BufReader::new(file).lines().map_while(Result::ok).take(MAX_LINES);
        let forwarded: Vec<Forwarded> = lines.filter_map(|line| forwarded(&line)).collect();
        if !forwarded.is_empty() {
            let own = host::network().into_iter().filter(|(reason, _)| *reason == AllowReason::OwnAddress);
            peers.add_forwarded(&forwarded, &own.map(|(_, addr)| addr.to_canonical()).collect(), ports);
        }
        peers
    }

    /// Those that reach a container by a port of the host's. What containers ask of each other, or of the world, is none of them.
    fn add_forwarded(&mut self, forwarded: &[Forwarded], own: &BTreeSet<IpAddr>, ports: &[u16]) {
        let is_published =
            |it: &&Forwarded| ports.contains(&it.port) && own.contains(&it.to) && !own.contains(&it.peer);
        for it in forwarded.iter().filter(is_published) {
            *self.established.entry(it.peer).or_default() += 1;
        }
    }

    fn of(sockets: &[Socket], ports: &[u16]) -> Peers {
        let is_served = |port: &u16| sockets.iter().any(|s| s.state == LISTEN && s.port == *port);
        let served: Vec<u16> = ports.iter().copied().filter(is_served).collect();
        let mut peers = BTreeMap::new();
        for socket in sockets {
            // A proxy on this host has the visitors' packets before it.
            if socket.state != LISTEN && served.contains(&socket.port) && !socket.peer.is_loopback() {
                *peers.entry(socket.peer).or_default() += u32::from(socket.state == ESTABLISHED);
            }
        }
        Peers { established: peers, are_hidden: false }
    }

    /// Those with the most connections first.
    fn busiest(&self) -> Vec<(IpAddr, u32)> {
        let mut peers: Vec<(IpAddr, u32)> =
            self.established.iter().map(|(addr, count)| (*addr, *count)).collect();
        peers.sort_by_key(|(addr, count)| (std::cmp::Reverse(*count), *addr));
        peers
    }
}

/// Reads the files, for kernels that do not list their sockets over netlink.
fn sockets_in_proc() -> Vec<Socket> {
    let mut sockets = Vec::new();
    for path in ["/proc/net/tcp", "/proc/net/tcp6"] {
        let Ok(file) = std::fs::File::open(path) else { continue };
        let lines = BufReader::new(file).lines().map_while(Result::ok).skip(1).take(MAX_LINES);
        sockets.extend(lines.filter_map(|line| socket(&line)));
    }
    sockets
}

/// Reads a line of /proc/net/tcp or tcp6: `0: 0100007F:1F90 00000000:0000 0A …`, words in the host's byte order.
fn socket(line: &str) -> Option<Socket> {
    let mut columns = line.split_ascii_whitespace().skip(1);
    let (local, remote, state) = (columns.next()?, columns.next()?, columns.next()?);
    let (_, port) = local.split_once(':')?;
    let (addr, _) = remote.split_once(':')?;
    let word = |at: usize| u32::from_str_radix(addr.get(at * 8..at * 8 + 8)?, 16).ok().map(u32::to_ne_bytes);
    let peer = match addr.len() {
        8 => IpAddr::V4(Ipv4Addr::from(word(0)?)),
        32 => {
            let words = [word(0)?, word(1)?, word(2)?, word(3)?].concat();
            IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(words).ok()?)).to_canonical()
        }
        _ => return None,
    };
    Some(Socket {
        port: u16::from_str_radix(port, 16).ok()?,
        peer,
        state: u8::from_str_radix(state, 16).ok()?,
    })
}

/// A connection that the kernel leads on to another address than it was made to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Forwarded {
    peer: IpAddr,
    to: IpAddr,
    port: u16,
}

/// Reads a line of /proc/net/nf_conntrack: `ipv4 2 tcp 6 431999 ESTABLISHED src=A dst=B sport=1 dport=80 src=C dst=A …`, the connection
/// as it was made, then as the answers come. `None` of what is not established, or not led on.
fn forwarded(line: &str) -> Option<Forwarded> {
    let words: Vec<&str> = line.split_ascii_whitespace().collect();
    if words.get(2) != Some(&"tcp") || !words.contains(&"ESTABLISHED") {
        return None;
    }
    let all = |key: &'static str| words.iter().filter_map(move |word| word.strip_prefix(key));
    let mut from = all("src=").filter_map(|text| text.parse::<IpAddr>().ok());
    let (peer, answers_from) = (from.next()?, from.next()?);
    let to: IpAddr = all("dst=").next()?.parse().ok()?;
    let port = all("dport=").next()?.parse().ok()?;
    (answers_from != to).then_some(Forwarded { peer, to, port })
}

/// What a single look says, with the last lines' clients: `check` has no engine, and the next look is the operator's. `None` where
/// nothing speaks for a proxy.
pub(crate) fn at_a_glance(peers: &Peers, in_log: &BTreeSet<IpAddr>, nginx_refuses: bool) -> Option<String> {
    let connections: u32 = peers.established.values().sum();
    let busiest: Vec<IpAddr> = peers.busiest().into_iter().map(|(addr, _)| addr).collect();
    let is_likely = connections > 0
        && are_few(busiest.len(), in_log.len() as u64)
        && !busiest.iter().any(|peer| in_log.contains(peer));
    is_likely.then(|| text::likely(&busiest, connections, in_log.len() as u64, nginx_refuses))
}

/// Whether so many peers are few for so many clients.
fn are_few(peers: usize, clients: u64) -> bool {
    clients >= MIN_CLIENTS.max(CLIENTS_A_PEER * peers as u64)
}

/// What the engine knows of the peers.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    /// Requests so far.
    pub requests: u64,
    /// Clients of the log that are remembered.
    pub clients: u64,
    /// The peers that are clients of the log.
    pub are_clients: Vec<IpAddr>,
    /// Connections of the banned hang until they time out, and say nothing.
    pub are_banned: Vec<IpAddr>,
    /// Whether the log names a proxy beside its client.
    pub is_named: bool,
    pub nginx_refuses: bool,
}

impl Seen {
    /// Asks the engine. On its thread, hence a few of the peers alone.
    pub(crate) fn of(engine: &Engine, peers: &Peers) -> Seen {
        let asked = peers.busiest().into_iter().take(MAX_ASKED).map(|(addr, _)| addr);
        let (mut are_clients, mut are_banned) = (Vec::new(), Vec::new());
        for addr in asked {
            let client = engine.client_meant(Client::of_addr(addr, 128));
            if engine.ledger().ban_over(client).is_some() {
                are_banned.push(addr);
            } else if engine.detector().knows(client) {
                are_clients.push(addr);
            }
        }
        Seen {
            requests: engine.totals().requests,
            clients: engine.detector().status().clients_tracked,
            are_clients,
            are_banned,
            is_named: engine.has_named_proxy(),
            nginx_refuses: engine.parts().is_active(EnforcerName::Nginx.name()),
        }
    }
}

/// What the looks so far amount to.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    requests: u64,
    proxied: u32,
    direct: u32,
    hidden: u32,
    /// The peers of the look that decided, kept so that a state's reason does not change with every connection.
    found: Option<Found>,
    was_found: bool,
}

#[derive(Debug)]
struct Found {
    peers: Vec<IpAddr>,
    connections: u32,
    clients: u64,
}

impl Watch {
    /// Whether a look could change anything after so many requests. If it could not, they were asked for too slowly to
    /// count for the next one.
    pub(crate) fn would_decide(&mut self, requests: u64) -> bool {
        let is_under_way = self.found.is_some() || self.proxied > 0 || self.hidden > 0;
        let would = is_under_way || self.is_busy(requests);
        if !would {
            self.requests = requests;
        }
        would
    }

    fn is_busy(&self, requests: u64) -> bool {
        requests.saturating_sub(self.requests) >= MIN_REQUESTS
    }

    /// Takes a look into account and returns the part's state; `None` while there is nothing to say.
    pub(crate) fn look(&mut self, peers: &Peers, seen: &Seen) -> Option<PartState> {
        let is_busy = self.is_busy(seen.requests);
        self.requests = seen.requests;
        let busiest = peers.busiest();
        let others: Vec<&(IpAddr, u32)> =
            busiest.iter().filter(|(addr, _)| !seen.are_banned.contains(addr)).collect();
        let connections: u32 = others.iter().map(|(_, count)| count).sum();
        let are_few = are_few(others.len(), seen.clients);
        if !seen.are_clients.is_empty() {
            (self.proxied, self.direct) = (0, self.direct + 1);
        } else if is_busy && are_few && connections > 0 {
            (self.proxied, self.direct) = (self.proxied + 1, 0);
        }
        if peers.are_hidden && is_busy && seen.clients >= MIN_CLIENTS {
            self.hidden += 1;
        } else if !peers.are_hidden {
            self.hidden = 0;
        }
        if self.proxied >= LOOKS && self.found.is_none() {
            let peers = others.iter().map(|(addr, _)| *addr).collect();
            self.found = Some(Found { peers, connections, clients: seen.clients });
            self.was_found = true;
        }
        if self.direct >= LOOKS {
            self.found = None;
        }
        match &self.found {
            Some(found) if seen.nginx_refuses => {
                Some(PartState::Active { detail: text::refused_by_nginx(&found.peers) })
            }
            Some(found) => Some(PartState::Degraded {
                reason: text::proxied(&found.peers, found.connections, found.clients, seen.is_named),
            }),
            None if self.hidden >= LOOKS && !seen.is_named => {
                Some(PartState::Active { detail: text::HIDDEN.to_owned() })
            }
            None => self.was_found.then(|| PartState::Active { detail: text::DIRECT.to_owned() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_line_of_the_kernels_table_is_read() {
        let v4 =
            "   1: 0A0200C0:0050 016433C6:D431 01 00000000:00000000 00:00000000 00000000    33        0 1 1";
        let v6 = "   1: 00000000000000000000000000000000:01BB B80D0120000000000000000001000000:D431 06 0:0";
        let mapped =
            "   1: 0000000000000000FFFF00000A0200C0:01BB 0000000000000000FFFF0000016433C6:D431 01 0:0";
        if cfg!(target_endian = "little") {
            let check = |line: &str, port: u16, peer: &str, state: u8| {
                assert_eq!(socket(line), Some(Socket { port, peer: addr(peer), state }), "{line}");
            };
            check(v4, 80, "198.51.100.1", ESTABLISHED);
            check(v6, 443, "2001:db8::1", 6);
            check(mapped, 443, "198.51.100.1", ESTABLISHED);
        }
        for line in ["", "0: 0100007F", "0: zz:0050 00:00 01", "0: 0100007F:0050 0100:00 01", "ä: ä:ä ä:ä ä"]
        {
            assert_eq!(socket(line), None, "{line}");
        }
    }

    #[test]
    fn only_connections_to_served_web_ports_count() {
        let socket = |port, peer: &str, state| Socket { port, peer: addr(peer), state };
        let sockets = [
            socket(80, "0.0.0.0", LISTEN),
            socket(22, "0.0.0.0", LISTEN),
            socket(80, "192.0.2.1", ESTABLISHED),
            socket(80, "192.0.2.1", ESTABLISHED),
            // Closed a moment ago.
            socket(80, "192.0.2.2", 6),
            socket(80, "127.0.0.1", ESTABLISHED),
            socket(22, "192.0.2.3", ESTABLISHED),
            // Going out to another host's port is no listening here.
            socket(443, "192.0.2.4", ESTABLISHED),
        ];
        let expected = BTreeMap::from([(addr("192.0.2.1"), 2), (addr("192.0.2.2"), 0)]);
        let of = |ports: &[u16]| Peers::of(&sockets, ports).established;
        assert_eq!(of(&WEB_PORTS), expected);
        assert_eq!(of(&[22]), BTreeMap::from([(addr("192.0.2.3"), 1)]));
    }

    #[test]
    fn connections_into_containers_are_those_to_a_port_of_the_hosts() {
        let line = |state: &str, made: &str, back: &str| {
            let text =
                format!("ipv4     2 tcp      6 431999 {state} {made} {back} [ASSURED] mark=0 zone=0 use=2");
            forwarded(&text)
        };
        let made = "src=198.51.100.1 dst=192.0.2.10 sport=54321 dport=80";
        let back = "src=172.17.0.2 dst=198.51.100.1 sport=8080 dport=54321";
        let found = Forwarded { peer: addr("198.51.100.1"), to: addr("192.0.2.10"), port: 80 };
        assert_eq!(line("ESTABLISHED", made, back), Some(found));
        assert_eq!(line("TIME_WAIT", made, back), None);
        let own = "src=192.0.2.10 dst=198.51.100.1 sport=80 dport=54321";
        assert_eq!(line("ESTABLISHED", made, own), None, "served by the host itself");
        for text in [
            "",
            "ipv4 2 udp 17 29 src=1.2.3.4 dst=4.3.2.1",
            "ipv4 2 tcp 6 1 ESTABLISHED src=a dst=b sport=1 dport=2",
        ] {
            assert_eq!(forwarded(text), None, "{text}");
        }
        let v6 = "ipv6     10 tcp      6 300 ESTABLISHED src=2001:db8::1 dst=2001:db8::10 sport=5 dport=443 src=fd00::2 dst=2001:db8::1 \
                  sport=443 dport=5 [ASSURED] mark=0 use=1";
        let v6 = forwarded(v6).unwrap();
        let others = [
            // A service of a cluster, not an address of the host's.
            Forwarded { to: addr("10.96.0.1"), ..found },
            Forwarded { port: 5432, ..found },
            // The host itself.
            Forwarded { peer: addr("192.0.2.10"), ..found },
        ];
        let mut peers = Peers::default();
        let hosts = BTreeSet::from([addr("192.0.2.10"), addr("2001:db8::10")]);
        peers.add_forwarded(&[&[found, found, v6][..], &others[..]].concat(), &hosts, &WEB_PORTS);
        let expected = BTreeMap::from([(addr("198.51.100.1"), 2), (addr("2001:db8::1"), 1)]);
        assert_eq!(peers.established, expected);
    }

    #[test]
    fn what_the_kernel_does_not_tell_is_said() {
        let hidden = Peers { are_hidden: true, ..Peers::default() };
        let seen = Seen { clients: 40, ..Seen::default() };
        let state = last(&mut Watch::default(), &hidden, &seen, 50);
        assert_eq!(state, Some(PartState::Active { detail: text::HIDDEN.to_owned() }));
        assert_eq!(last(&mut Watch::default(), &hidden, &seen, 3), None, "nobody asks");
        let named = Seen { is_named: true, ..seen };
        assert_eq!(last(&mut Watch::default(), &hidden, &named, 50), None, "the log tells");
    }

    fn peers(list: &[(&str, u32)]) -> Peers {
        let established = list.iter().map(|(text, count)| (addr(text), *count)).collect();
        Peers { established, are_hidden: false }
    }

    /// The states after looks at these peers, with so many requests in between.
    fn states(
        watch: &mut Watch,
        peers: &Peers,
        seen: &Seen,
        requests: u64,
        looks: u32,
    ) -> Vec<Option<PartState>> {
        let mut look = |_| {
            let requests = watch.requests + requests;
            watch.look(peers, &Seen { requests, ..seen.clone() })
        };
        (0..looks).map(&mut look).collect()
    }

    fn last(watch: &mut Watch, peers: &Peers, seen: &Seen, requests: u64) -> Option<PartState> {
        states(watch, peers, seen, requests, LOOKS).pop().flatten()
    }

    #[test]
    fn few_peers_that_are_not_in_the_log_of_many_are_a_proxy() {
        let (cdn, seen) =
            (peers(&[("192.0.2.80", 7), ("192.0.2.81", 1)]), Seen { clients: 40, ..Seen::default() });
        let mut watch = Watch::default();
        let found = states(&mut watch, &cdn, &seen, 50, 3);
        let [None, None, Some(PartState::Degraded { reason })] = &found[..] else { panic!("{found:?}") };
        for part in
            ["192.0.2.80", "1 other", "8 connections", "40 clients", "init nginx-deny", "$realip_remote_addr"]
        {
            assert!(reason.contains(part), "{part}: {reason}");
        }
        // The reason stays as it was announced, also at night.
        let later = peers(&[("192.0.2.82", 1)]);
        assert_eq!(states(&mut watch, &later, &seen, 0, 2), [found[2].clone(), found[2].clone()]);
        let refusing = Seen { nginx_refuses: true, ..seen.clone() };
        let state = watch.look(&cdn, &refusing);
        assert!(
            matches!(&state, Some(PartState::Active { detail }) if detail.contains("192.0.2.80")),
            "{state:?}"
        );
        let direct = Seen { are_clients: vec![addr("192.0.2.82")], ..seen };
        assert!(matches!(last(&mut watch, &later, &direct, 50), Some(PartState::Active { .. })));
    }

    #[test]
    fn no_proxy_is_seen_where_there_may_be_none() {
        let check = |what: &str, peers: &Peers, seen: &Seen, requests: u64| {
            assert_eq!(last(&mut Watch::default(), peers, seen, requests), None, "{what}");
        };
        let (one, many) = (peers(&[("192.0.2.80", 900)]), Seen { clients: 40, ..Seen::default() });
        check(
            "a client of the log among them",
            &one,
            &Seen { are_clients: vec![addr("192.0.2.80")], ..many.clone() },
            50,
        );
        check("few clients", &one, &Seen { clients: 9, ..Seen::default() }, 50);
        check("nobody asks: connections that hang", &one, &many, 3);
        check("only the banned", &one, &Seen { are_banned: vec![addr("192.0.2.80")], ..many.clone() }, 50);
        check("nobody is connected", &peers(&[]), &many, 50);
        check("closed connections alone", &peers(&[("192.0.2.80", 0)]), &many, 50);
        let crowd: Vec<String> = (1..30).map(|n| format!("192.0.2.{n}")).collect();
        let crowd: Vec<(&str, u32)> = crowd.iter().map(|text| (text.as_str(), 1)).collect();
        check("as many peers as clients", &peers(&crowd), &many, 50);
        // One visitor seen among the connections begins it anew.
        let mut watch = Watch::default();
        states(&mut watch, &one, &many, 50, LOOKS - 1);
        watch.look(&one, &Seen { are_clients: vec![addr("192.0.2.80")], ..many.clone() });
        assert_eq!(states(&mut watch, &one, &many, 50, LOOKS - 1), [None, None]);
    }

    #[test]
    fn a_quiet_log_needs_no_look() {
        let (cdn, seen) = (peers(&[("192.0.2.80", 7)]), Seen { clients: 40, ..Seen::default() });
        let mut watch = Watch::default();
        // Never enough at a time, however many in all.
        assert!(!(1..20).any(|n| watch.would_decide(n * (MIN_REQUESTS - 1))));
        let requests = watch.requests + MIN_REQUESTS;
        assert!(watch.would_decide(requests));
        watch.look(&cdn, &Seen { requests, ..seen });
        // What is under way is gone on with: a visitor among the connections would end it.
        assert!(watch.would_decide(requests));
    }

    #[test]
    fn a_single_look_names_a_likely_proxy() {
        let in_log: BTreeSet<IpAddr> = (1..=12).map(|n| addr(&format!("198.51.100.{n}"))).collect();
        let of = |list: &[(&str, u32)]| at_a_glance(&peers(list), &in_log, false);
        let said = of(&[("192.0.2.80", 3)]).unwrap();
        assert!(said.contains("192.0.2.80") && said.contains("12 clients"), "{said}");
        assert_eq!(of(&[("192.0.2.80", 0)]), None, "nobody is connected");
        assert_eq!(of(&[("192.0.2.80", 3), ("198.51.100.7", 1)]), None, "a client among them");
        let five: Vec<String> = (0..5).map(|n| format!("192.0.2.{n}")).collect();
        assert_eq!(of(&five.iter().map(|text| (text.as_str(), 1)).collect::<Vec<_>>()), None, "not few");
    }
}
