//! The bans that may be handed to others.

use ipnet::IpNet;

use crate::enforce::interpreter::Interpreter;
use shield_engine::client::Client;

/// The clients in force at one moment, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EdgeList {
    /// Grows with every change of the bans.
    pub version: u64,
    pub clients: Vec<Client>,
    /// Banned networks with an exempt address inside: elsewhere nothing would let that one through.
    pub left_out: Vec<Client>,
}

impl EdgeList {
    pub(crate) fn new(version: u64, banned: impl Iterator<Item = Client>, exempt: &[IpNet]) -> EdgeList {
        let holds_exempt = |client: &Client| exempt.iter().any(|net| client.covers(*net));
        let is_network = |client: &Client| client.network().prefix_len() < client.network().max_prefix_len();
        let (mut left_out, mut clients): (Vec<Client>, Vec<Client>) =
            banned.partition(|client| is_network(client) && holds_exempt(client));
        clients.sort_unstable();
        left_out.sort_unstable();
        EdgeList { version, clients, left_out }
    }

    /// The bans that should be in force. Blocks for as long as their table is copied.
    pub(crate) fn of(interpreter: &Interpreter) -> EdgeList {
        let copied = interpreter.copy();
        let banned = copied.desired.iter().map(|ban| ban.client.client());
        EdgeList::new(copied.version, banned, &copied.exempt)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_with_an_exempt_address_inside_is_left_out() {
        let clients = |texts: &[&str]| -> Vec<Client> { texts.iter().map(|t| t.parse().unwrap()).collect() };
        let banned = clients(&["203.0.113.0/24", "2001:db8:1::/64", "198.51.100.0/24", "192.0.2.7"]);
        let list = EdgeList::new(3, banned.into_iter(), &["198.51.100.9/32".parse().unwrap()]);
        assert_eq!(list.clients, clients(&["192.0.2.7", "203.0.113.0/24", "2001:db8:1::/64"]));
        assert_eq!(list.left_out, clients(&["198.51.100.0/24"]));
    }
}
