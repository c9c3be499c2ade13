//! The network interfaces, and the choice of those to guard. Queries netlink in the network namespace of the calling thread;
//! changes nothing.

use std::fs;

use anyhow::{Context as _, Result, bail};
use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    InfoKind, LinkAttribute, LinkInfo, LinkLayerType, LinkMessage, LinkXdp, XdpAttached,
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

/// `RTF_REJECT`: a route that refuses packets.
const ROUTE_REJECTS: u32 = 0x200;

/// The configured choice of interfaces.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Selection {
    /// The interfaces of the default routes, IPv4 and IPv6.
    #[default]
    DefaultRoute,
    /// Every hardware (or virtio) Ethernet interface.
    AllPhysical,
    /// Interfaces by name.
    Named(Vec<String>),
}

/// The XDP program attached to an interface, as the kernel reports it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attached {
    /// None.
    Nothing,
    /// One in the driver, with its id.
    Native(u32),
    /// One in the network stack, with its id.
    Generic(u32),
    /// Several, or one in the card's own hardware.
    Other,
}

/// A network interface, as it was when listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// May change while the interface lives.
    pub name: String,
    /// Stays while the interface lives.
    pub index: u32,
    /// The XDP program on it.
    pub xdp: Attached,
    ethernet: Framing,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Framing {
    Ethernet,
    /// Loopback frames look like Ethernet.
    Loopback,
    /// Tunnels, PPP: no header that the program could parse.
    Other,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Physical,
    /// A VLAN device on the interface with this index.
    VlanOn(u32),
    Virtual,
}

/// A chosen interface, or why it cannot be guarded.
pub(crate) type Chosen = std::result::Result<Interface, Refused>;

/// An interface that cannot be guarded now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// Its name, as configured.
    pub name: String,
    /// Its index, if it exists but the program could not be attached.
    pub index: Option<u32>,
    /// The reason, and what to do about it where something can be done.
    pub reason: String,
}

impl Selection {
    /// Chooses among the interfaces that exist now.
    ///
    /// # Errors
    /// When interfaces or routes cannot be read.
    pub fn choose(&self) -> Result<Vec<Chosen>> {
        let all = list()?;
        Ok(match self {
            Selection::Named(names) => names.iter().map(|name| named(&all, name)).collect(),
            Selection::AllPhysical => all
                .iter()
                .filter(|interface| {
                    interface.kind == Kind::Physical && interface.ethernet == Framing::Ethernet
                })
                .cloned()
                .map(Ok)
                .collect(),
            Selection::DefaultRoute => default_route_names()?
                .iter()
                .map(|name| named(&all, name).map(|at| lowest(&all, at)))
                .fold(Vec::new(), |mut chosen, next| {
                    if !chosen.contains(&next) {
                        chosen.push(next);
                    }
                    chosen
                }),
        })
    }
}

fn named(all: &[Interface], name: &str) -> Chosen {
    let refuse = |reason: &str| Refused { name: name.to_owned(), index: None, reason: reason.to_owned() };
    let found = all.iter().find(|interface| interface.name == name);
    let interface = found.ok_or_else(|| refuse("there is no interface of this name"))?;
    if interface.ethernet == Framing::Other {
        return Err(refuse("it carries no Ethernet frames (a tunnel or PPP); XDP cannot guard it"));
    }
    Ok(interface.clone())
}

/// Returns the interface below a VLAN device. Only there the program can run in the driver; it parses the tags itself.
fn lowest(all: &[Interface], interface: Interface) -> Interface {
    let Kind::VlanOn(index) = interface.kind else { return interface };
    let below =
        all.iter().find(|candidate| candidate.index == index && candidate.ethernet == Framing::Ethernet);
    below.map_or(interface, |below| lowest(all, below.clone()))
}

/// Lists the interfaces of this network namespace.
pub(crate) fn list() -> Result<Vec<Interface>> {
    let mut interfaces = Vec::new();
    dump_links(|link| interfaces.push(describe(link))).context("could not list the network interfaces")?;
    Ok(interfaces)
}

fn dump_links(mut each: impl FnMut(LinkMessage)) -> Result<()> {
    let mut socket = Socket::new(NETLINK_ROUTE).context("could not open a netlink socket")?;
    socket.bind_auto().context("could not bind a netlink socket")?;
    socket.send_to(&link_request(), &SocketAddr::new(0, 0), 0).context("could not send RTM_GETLINK")?;
    loop {
        let (datagram, _) = socket.recv_from_full().context("could not receive the links")?;
        let mut rest = &datagram[..];
        while !rest.is_empty() {
            let message =
                NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest).context("could not parse a link")?;
            let length = (message.header.length as usize).next_multiple_of(4).clamp(1, rest.len());
            rest = &rest[length..];
            match message.payload {
                NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) => each(link),
                NetlinkPayload::Done(_) => return Ok(()),
                NetlinkPayload::Error(error) => bail!("the kernel refused to list links: {error}"),
                _ => {}
            }
        }
    }
}

fn link_request() -> Vec<u8> {
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    let payload = RouteNetlinkMessage::GetLink(LinkMessage::default());
    let mut message = NetlinkMessage::new(header, NetlinkPayload::from(payload));
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}

fn describe(link: LinkMessage) -> Interface {
    let ethernet = match link.header.link_layer_type {
        LinkLayerType::Ether => Framing::Ethernet,
        LinkLayerType::Loopback => Framing::Loopback,
        _ => Framing::Other,
    };
    let mut interface = Interface {
        name: String::new(),
        index: link.header.index,
        xdp: Attached::Nothing,
        ethernet,
        kind: Kind::Physical,
    };
    let mut below = None;
    let mut is_vlan = false;
    for attribute in link.attributes {
        match attribute {
            LinkAttribute::IfName(name) => interface.name = name,
            LinkAttribute::Link(index) => below = Some(index),
            LinkAttribute::Xdp(xdp) => interface.xdp = attached(&xdp),
            LinkAttribute::LinkInfo(infos) => {
                for info in infos {
                    if let LinkInfo::Kind(kind) = info {
                        interface.kind = Kind::Virtual;
                        is_vlan = kind == InfoKind::Vlan;
                    }
                }
            }
            _ => {}
        }
    }
    if let (true, Some(index)) = (is_vlan, below) {
        interface.kind = Kind::VlanOn(index);
    }
    interface
}

fn attached(attributes: &[LinkXdp]) -> Attached {
    let id = attributes.iter().find_map(|attribute| match attribute {
        LinkXdp::ProgId(id) => Some(*id),
        _ => None,
    });
    let mode = attributes.iter().find_map(|attribute| match attribute {
        LinkXdp::Attached(mode) => Some(*mode),
        _ => None,
    });
    match (mode, id) {
        (None | Some(XdpAttached::None), _) => Attached::Nothing,
        (Some(XdpAttached::Driver), Some(id)) => Attached::Native(id),
        (Some(XdpAttached::SocketBuffer), Some(id)) => Attached::Generic(id),
        _ => Attached::Other,
    }
}

/// Names of the interfaces that default routes lead out of, IPv4 first, each once.
fn default_route_names() -> Result<Vec<String>> {
    let mut names: Vec<String> = Vec::new();
    let v4 = read_routes("/proc/thread-self/net/route")?;
    let v6 = read_routes("/proc/thread-self/net/ipv6_route")?;
    for name in v4.lines().filter_map(default_v4).chain(v6.lines().filter_map(default_v6)) {
        if !names.iter().any(|known| known == name) {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

/// A missing file is a kernel without that family.
fn read_routes(path: &str) -> Result<String> {
    match fs::read_to_string(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
        other => other.with_context(|| format!("could not read {path}")),
    }
}

/// `Iface Destination Gateway Flags RefCnt Use Metric Mask …`, numbers in hexadecimal.
fn default_v4(line: &str) -> Option<&str> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let [name, "00000000", _, flags, _, _, _, "00000000", ..] = fields[..] else { return None };
    accepts(flags).then_some(name)
}

/// `destination length source length gateway metric references use flags name`, numbers in hexadecimal.
fn default_v6(line: &str) -> Option<&str> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let [_, "00", _, _, _, _, _, _, flags, name] = fields[..] else { return None };
    (accepts(flags) && name != "lo").then_some(name)
}

fn accepts(flags: &str) -> bool {
    u32::from_str_radix(flags, 16).is_ok_and(|flags| flags & ROUTE_REJECTS == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interface(name: &str, index: u32, ethernet: Framing, kind: Kind) -> Interface {
        Interface { name: name.to_owned(), index, xdp: Attached::Nothing, ethernet, kind }
    }

    #[test]
    fn default_routes_are_found() {
        let check =
            |parse: fn(&str) -> Option<&str>, line, expected| assert_eq!(parse(line), expected, "{line}");
        check(default_v4, "eth0\t00000000\t010200C0\t0003\t0\t0\t100\t00000000\t0\t0\t0", Some("eth0"));
        check(default_v4, "eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0", None);
        check(default_v4, "*\t00000000\t00000000\t0201\t0\t0\t0\t00000000\t0\t0\t0", None);
        check(
            default_v4,
            "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT",
            None,
        );
        let zero = "00000000000000000000000000000000";
        let gateway = "fe800000000000000000000000000001";
        let v6 = |length: &str, flags: &str, name: &str| {
            format!("{zero} {length} {zero} 00 {gateway} 00000400 00000001 00000000 {flags} {name}")
        };
        assert_eq!(default_v6(&v6("00", "00000003", "eth1")), Some("eth1"));
        assert_eq!(default_v6(&v6("00", "00200200", "lo")), None);
        assert_eq!(default_v6(&v6("40", "00000001", "eth1")), None);
    }

    #[test]
    fn a_vlan_device_is_guarded_below() {
        let all = [
            interface("eth0", 2, Framing::Ethernet, Kind::Physical),
            interface("eth0.7", 3, Framing::Ethernet, Kind::VlanOn(2)),
            interface("eth0.7.9", 4, Framing::Ethernet, Kind::VlanOn(3)),
            // What it stands on is in another namespace.
            interface("lonely", 5, Framing::Ethernet, Kind::VlanOn(77)),
        ];
        let check =
            |at: usize, expected: &str| assert_eq!(lowest(&all, all[at].clone()).name, expected, "{at}");
        check(0, "eth0");
        check(1, "eth0");
        check(2, "eth0");
        check(3, "lonely");
    }

    #[test]
    fn an_interface_that_cannot_be_guarded_says_why() {
        let all = [interface("wg0", 2, Framing::Other, Kind::Virtual)];
        assert!(named(&all, "wg0").unwrap_err().reason.contains("no Ethernet"));
        assert!(named(&all, "eth9").unwrap_err().reason.contains("no interface"));
    }
}
