//! Clients by the networks that they are in.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use ipnet::IpNet;

use super::count;
use shield_engine::client::Client;

/// Networks named in one line.
const NAMED: usize = 5;

/// The networks of these clients with the numbers of clients in them, most first. A client that is alone is named itself.
pub(crate) fn by_network(clients: impl IntoIterator<Item = Client>) -> Vec<(Client, u64)> {
    let mut networks: BTreeMap<IpNet, Vec<Client>> = BTreeMap::new();
    for client in clients {
        networks.entry(around(client)).or_default().push(client);
    }
    let entry = |(network, clients): (IpNet, Vec<Client>)| match clients[..] {
        [client] => (client, 1),
        _ => (Client::of_network(network), clients.len() as u64),
    };
    let mut networks: Vec<(Client, u64)> = networks.into_iter().map(entry).collect();
    networks.sort_by_key(|(_, clients)| Reverse(*clients));
    networks
}

/// `203.0.113.0/24 (47), 192.0.2.7 and 3 more`.
pub(crate) fn networks(networks: &[(Client, u64)]) -> String {
    let one = |(network, clients): &(Client, u64)| match clients {
        1 => network.to_string(),
        _ => format!("{network} ({})", count(*clients)),
    };
    let named: Vec<String> = networks.iter().take(NAMED).map(one).collect();
    match networks.len().saturating_sub(NAMED) {
        0 => named.join(", "),
        more => format!("{} and {} more", named.join(", "), count(more as u64)),
    }
}

/// The network that a client is shown with: /24 or /48.
fn around(client: Client) -> IpNet {
    let network = client.network();
    let len = network.prefix_len().min(if network.addr().is_ipv4() { 24 } else { 48 });
    IpNet::new(network.addr(), len).expect("no longer than the client's own").trunc()
}
