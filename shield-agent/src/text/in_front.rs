//! What is said of a proxy in front that was seen by the connections of this host.

use std::net::IpAddr;

use ipnet::IpNet;

use super::counted;
use shield_engine::client::Client;

/// A detail of the state when it is over.
pub(crate) const DIRECT: &str = "clients connect to this host themselves";

/// A detail of the state when nothing can be seen.
pub(crate) const HIDDEN: &str = "whether a proxy stands in front cannot be told: no process of this host serves a web port, and the kernel \
                                 does not list what it forwards into containers (/proc/net/nf_conntrack)";

/// Why no rule bans a client, or a network, that the log shows as a proxy.
pub(crate) fn is_a_proxy(client: Client, proxy: IpAddr) -> String {
    const BECAUSE: &str = "three clients or more came by it within the hour, as the log says (peer)";
    if client.network() == IpNet::from(proxy) {
        format!("it is a proxy: {BECAUSE}")
    } else {
        format!("{proxy} in it is a proxy: {BECAUSE}")
    }
}

/// A detail of the state.
pub(crate) fn refused_by_nginx(peers: &[IpAddr]) -> String {
    format!("a proxy stands in front ({}), and nginx refuses the banned", named(peers))
}

/// What was seen, what it means, and what to do.
pub(crate) fn proxied(peers: &[IpAddr], connections: u32, clients: u64, is_named: bool) -> String {
    let field = if is_named {
        ""
    } else {
        "; with \"peer\":\"$realip_remote_addr\" in the log_format, Shield knows who comes by it (`shield-agent init nginx`)"
    };
    format!(
        "a proxy stands in front: {} to the web ports belong to {}, and none of the {} in the log is connected to this host. XDP and \
         iptables cannot drop a single one of them: let nginx refuse the banned, [nginx] mode = \"on\" (`shield-agent init \
         nginx-deny` prints the steps){field}",
        counted(u64::from(connections), "connection"),
        named(peers),
        counted(clients, "client")
    )
}

/// The same after a single look.
pub(crate) fn likely(peers: &[IpAddr], connections: u32, clients: u64, nginx_refuses: bool) -> String {
    let remedy = if nginx_refuses {
        "nginx refuses the banned where it includes Shield's lines"
    } else {
        "then XDP and iptables can drop none of them; see `shield-agent init nginx-deny`"
    };
    format!(
        "probably a proxy: {} to the web ports belong to {}, and none of the {} in the last lines is connected; {remedy}",
        counted(u64::from(connections), "connection"),
        named(peers),
        counted(clients, "client")
    )
}

/// The first of them, and how many there are.
fn named(peers: &[IpAddr]) -> String {
    let first = peers.first().map_or("no address".to_owned(), IpAddr::to_string);
    match peers.len() {
        0 | 1 => first,
        2 => format!("{first} and 1 other address"),
        all => format!("{first} and {} other addresses", all - 1),
    }
}
