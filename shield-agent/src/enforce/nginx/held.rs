//! The clients that are to be refused, and the names that they and the exempt networks among them have. Pure.

use std::collections::{BTreeSet, HashSet};

use ipnet::IpNet;
use shield_engine::client::Client;

use super::names::Name;
use crate::text::nginx;

/// The held clients, sorted by what they need of nginx.
#[derive(Debug, Default)]
pub(super) struct Held {
    clients: HashSet<Client>,
    /// Those of them that are networks.
    networks: BTreeSet<Client>,
    /// Those of them that have several names: few.
    many_named: BTreeSet<Client>,
    /// Those of them whose names nginx's first look does not find: few.
    more_looks: BTreeSet<Client>,
    exempt: Vec<IpNet>,
}

impl Held {
    /// Holds a client that is sorted in.
    pub(super) fn hold(&mut self, client: Client) {
        self.clients.insert(client);
    }

    /// Makes room for so many clients.
    pub(super) fn reserve(&mut self, clients: usize) {
        self.clients.reserve(clients);
    }

    /// Says what a client needs of nginx that is to be held.
    pub(super) fn sort_in(&mut self, client: Client) {
        let names = names_of(client);
        if is_network(client) {
            self.networks.insert(client);
        }
        if names.len() > 1 {
            self.many_named.insert(client);
        }
        if !names.iter().all(|name| name.is_first_look()) {
            self.more_looks.insert(client);
        }
    }

    /// Returns whether it was held.
    pub(super) fn remove(&mut self, client: Client) -> bool {
        self.networks.remove(&client);
        self.many_named.remove(&client);
        self.more_looks.remove(&client);
        self.clients.remove(&client)
    }

    /// Forgets all clients. The exempt networks stay.
    pub(super) fn clear(&mut self) {
        *self = Held { exempt: std::mem::take(&mut self.exempt), ..Held::default() };
    }

    pub(super) fn set_exempt(&mut self, networks: &[IpNet]) {
        self.exempt = networks.to_vec();
    }

    pub(super) fn len(&self) -> usize {
        self.clients.len()
    }

    pub(super) fn contains(&self, client: &Client) -> bool {
        self.clients.contains(client)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Client> + '_ {
        self.clients.iter().copied()
    }

    /// Whether an exempt network is inside this client.
    pub(super) fn has_exempt_inside(&self, client: Client) -> bool {
        self.exempt.iter().any(|net| client.covers(*net))
    }

    /// Whether a held client has a name that nginx's first look does not find.
    pub(super) fn needs_more_looks(&self) -> bool {
        !self.more_looks.is_empty()
    }

    /// Whether a held client has this name.
    pub(super) fn is_wanted(&self, name: Name) -> bool {
        let alone = name.client();
        let has_it = |held: &&Client| held.covers(alone.network()) && names_of(**held).contains(&name);
        self.clients.contains(&alone) || self.many_named.iter().any(|held| has_it(&held))
    }

    /// Why nginx cannot refuse this client.
    pub(super) fn refusal(&self, client: &Client) -> Option<String> {
        if Name::covering(client.network()).is_none() {
            return Some(nginx::no_name_for(client));
        }
        let unnamed = self.exempt.iter().find(|net| client.covers(**net) && Name::covering(**net).is_none());
        unnamed.map(|net| nginx::cannot_exempt(client, net))
    }

    /// The names of the exempt networks inside banned ones: elsewhere nothing needs an exemption.
    pub(super) fn exempt_names(&self) -> BTreeSet<Name> {
        let inside = |net: &&IpNet| !self.networks.is_empty() && self.is_inside(**net);
        self.exempt.iter().filter(inside).filter_map(|net| Name::covering(*net)).flatten().collect()
    }

    /// Whether a held network is around this one: that of some length around its address.
    fn is_inside(&self, net: IpNet) -> bool {
        let around =
            |length| IpNet::new(net.addr(), length).ok().map(|wider| Client::of_network(wider.trunc()));
        (0..=net.prefix_len()).filter_map(around).any(|wider| self.networks.contains(&wider))
    }
}

pub(super) fn names_of(client: Client) -> Vec<Name> {
    Name::covering(client.network()).unwrap_or_default()
}

/// Whether an exempt client could be inside.
fn is_network(client: Client) -> bool {
    let network = client.network();
    network.prefix_len() < network.max_prefix_len()
}
