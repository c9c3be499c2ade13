//! The network interfaces, and the choice of those to guard. Queries netlink in the network namespace of the calling thread;
//! changes nothing.

use anyhow::{Context as _, Result, bail};
use hashbrown::HashSet;
use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::link::{
    InfoKind, LinkAttribute, LinkInfo, LinkLayerType, LinkMessage, LinkXdp, XdpAttached,
};
use netlink_packet_route::route::{RouteAttribute, RouteHeader, RouteMessage, RouteType};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

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
            Selection::DefaultRoute => default_route_interfaces()?
                .iter()
                // One that is gone since the listing of interfaces is found at the next change of the network.
                .filter_map(|index| all.iter().find(|interface| interface.index == *index))
                .map(|interface| on_ethernet(interface).map(|at| lowest(&all, at)))
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
    on_ethernet(found.ok_or_else(|| refuse("there is no interface of this name"))?)
}

fn on_ethernet(interface: &Interface) -> Chosen {
    if interface.ethernet != Framing::Other {
        return Ok(interface.clone());
    }
    let reason = "it carries no Ethernet frames (a tunnel, WireGuard or PPP), so XDP cannot guard it: only iptables can drop what \
                  comes in there";
    Err(Refused { name: interface.name.clone(), index: None, reason: reason.to_owned() })
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
    dump(RouteNetlinkMessage::GetLink(LinkMessage::default()), |message| {
        if let RouteNetlinkMessage::NewLink(link) = message {
            each(link);
        }
    })
}

/// Asks the kernel for all links or routes. Of routes, only the default ones are read: a router can have a million others.
fn dump(request: RouteNetlinkMessage, mut each: impl FnMut(RouteNetlinkMessage)) -> Result<()> {
    let mut socket = Socket::new(NETLINK_ROUTE).context("could not open a netlink socket")?;
    socket.bind_auto().context("could not bind a netlink socket")?;
    socket.send_to(&bytes(request), &SocketAddr::new(0, 0), 0).context("could not ask netlink")?;
    loop {
        let (datagram, _) = socket.recv_from_full().context("could not receive netlink's answer")?;
        let mut rest = &datagram[..];
        while !rest.is_empty() {
            let (message, after) = rest.split_at(aligned_length(rest));
            rest = after;
            if is_other_route(message) {
                continue;
            }
            let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(message)
                .context("could not parse netlink's answer")?;
            match message.payload {
                NetlinkPayload::InnerMessage(message) => each(message),
                NetlinkPayload::Done(_) => return Ok(()),
                NetlinkPayload::Error(error) => bail!("the kernel refused to list them: {error}"),
                _ => {}
            }
        }
    }
}

/// The length of the first message, which is its first word, with the padding behind it.
fn aligned_length(messages: &[u8]) -> usize {
    let length = messages.first_chunk().map_or(messages.len(), |bytes| u32::from_ne_bytes(*bytes) as usize);
    length.next_multiple_of(4).clamp(1, messages.len())
}

/// Returns `true` for a route to a network of some length: `struct nlmsghdr` has the type in its second word, and after its 16
/// bytes `struct rtmsg` begins with the family and the length.
fn is_other_route(message: &[u8]) -> bool {
    /// `RTM_NEWROUTE`.
    const NEW_ROUTE: u16 = 24;
    let is_route = message.get(4..6).is_some_and(|kind| kind == NEW_ROUTE.to_ne_bytes());
    is_route && message.get(17).is_some_and(|length| *length != 0)
}

fn bytes(request: RouteNetlinkMessage) -> Vec<u8> {
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    let mut message = NetlinkMessage::new(header, NetlinkPayload::from(request));
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

/// Names of the interfaces that default routes lead out of, IPv4's first, each once.
pub(crate) fn default_route_names() -> Result<Vec<String>> {
    let all = list()?;
    let name = |index: &u32| all.iter().find(|interface| interface.index == *index);
    Ok(default_route_interfaces()?.iter().filter_map(name).map(|found| found.name.clone()).collect())
}

/// The interfaces that default routes of the main table lead out of, each once, IPv4's first. A route can have several next hops,
/// over which the kernel spreads what it sends; what comes in takes any of them.
fn default_route_interfaces() -> Result<Vec<u32>> {
    let mut indexes: Vec<u32> = Vec::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut request = RouteMessage::default();
        request.header.address_family = family;
        dump(RouteNetlinkMessage::GetRoute(request), |message| {
            if let RouteNetlinkMessage::NewRoute(route) = message {
                indexes.extend(ways_out(&route));
            }
        })
        .context("could not list the default routes")?;
    }
    let mut seen = HashSet::new();
    indexes.retain(|index| seen.insert(*index));
    Ok(indexes)
}

/// The interfaces of a default route, none of any other and of one that refuses packets.
fn ways_out(route: &RouteMessage) -> Vec<u32> {
    let RouteHeader { table, kind, destination_prefix_length, .. } = &route.header;
    if *destination_prefix_length != 0 || *kind != RouteType::Unicast || *table != RouteHeader::RT_TABLE_MAIN
    {
        return Vec::new();
    }
    let of_attribute = |attribute: &RouteAttribute| match attribute {
        RouteAttribute::Oif(index) => vec![*index],
        RouteAttribute::MultiPath(hops) => hops.iter().map(|hop| hop.interface_index).collect(),
        _ => Vec::new(),
    };
    route.attributes.iter().flat_map(of_attribute).collect()
}

#[cfg(test)]
mod tests {
    use netlink_packet_route::route::RouteNextHop;

    use super::*;

    fn interface(name: &str, index: u32, ethernet: Framing, kind: Kind) -> Interface {
        Interface { name: name.to_owned(), index, xdp: Attached::Nothing, ethernet, kind }
    }

    #[test]
    fn the_ways_out_of_a_default_route_are_found() {
        let route = |length: u8, kind: RouteType, table: u8, attributes: &[RouteAttribute]| {
            let mut route = RouteMessage::default();
            route.header.destination_prefix_length = length;
            route.header.kind = kind;
            route.header.table = table;
            route.attributes = attributes.to_vec();
            ways_out(&route)
        };
        let hop = |interface_index| {
            let mut hop = RouteNextHop::default();
            hop.interface_index = interface_index;
            hop
        };
        let (main, other) = (RouteHeader::RT_TABLE_MAIN, 100);
        let one = [RouteAttribute::Priority(100), RouteAttribute::Oif(2)];
        let several = [RouteAttribute::MultiPath(vec![hop(3), hop(4)])];
        assert_eq!(route(0, RouteType::Unicast, main, &one), [2]);
        assert_eq!(route(0, RouteType::Unicast, main, &several), [3, 4]);
        assert!(route(24, RouteType::Unicast, main, &one).is_empty());
        assert!(route(0, RouteType::Unreachable, main, &one).is_empty());
        assert!(route(0, RouteType::Unicast, other, &one).is_empty(), "a VPN's own table");
    }

    #[test]
    fn other_routes_are_left_out_before_they_are_parsed() {
        let message = |kind: u16, length: u8| {
            let mut bytes = vec![0_u8; 28];
            bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
            bytes[17] = length;
            bytes
        };
        assert!(is_other_route(&message(24, 24)));
        assert!(!is_other_route(&message(24, 0)));
        assert!(!is_other_route(&message(16, 24)), "a link");
        assert!(!is_other_route(&message(24, 24)[..10]), "cut off");
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
