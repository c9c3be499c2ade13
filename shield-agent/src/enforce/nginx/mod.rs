//! Refuses banned clients inside nginx, for those whose packets come from a proxy: a firewall would have to drop the proxy.
//!
//! A banned client is a file with its address as the name, in a folder in a tmpfs. nginx looks for the file before it
//! answers (`include.rs` has its lines): no module, no reload, 5 to 7 us a request. Nothing here ends by itself: the
//! agent removes a file when the ban ends, and the service manager removes the whole folder when the agent stops for good
//! (`RuntimeDirectoryPreserve=restart`).

mod folder;
pub(crate) mod include;
mod names;
mod settings;

use std::collections::{BTreeSet, HashSet};

use anyhow::{Result, anyhow};
use ipnet::IpNet;

use self::folder::Folder;
use self::names::Name;
pub use self::settings::Settings;
use super::ban::{Ban, Drops, Failure};
use super::desired::Desired;
use super::enforcer::Enforcer;
use crate::text::nginx;
use shield_engine::client::Client;
use shield_engine::event::{EnforcerName, PartState, Repair};
use shield_engine::time::Now;

/// The folder of the names that are let through inside a banned network.
pub(super) const EXEMPT_FOLDER: &str = "exempt";

/// Keeps nginx's folder of denied clients.
#[derive(Debug)]
pub struct NginxEnforcer {
    settings: Settings,
    denied: Folder,
    exempt: Folder,
    is_started: bool,
    /// The clients whose names we made.
    held: HashSet<Client>,
    /// Those of them that are networks.
    networks: BTreeSet<Client>,
    /// Those of them that have several names: few.
    many_named: BTreeSet<Client>,
    /// Those of them whose names nginx's first look does not find: few.
    more_looks: BTreeSet<Client>,
    exempt_networks: Vec<IpNet>,
    full: bool,
}

impl NginxEnforcer {
    /// Changes nothing before its start.
    pub fn new(settings: Settings) -> NginxEnforcer {
        let denied = Folder::at(settings.folder.clone());
        NginxEnforcer {
            exempt: denied.inside(EXEMPT_FOLDER),
            denied,
            settings,
            is_started: false,
            held: HashSet::new(),
            networks: BTreeSet::new(),
            many_named: BTreeSet::new(),
            more_looks: BTreeSet::new(),
            exempt_networks: Vec::new(),
            full: false,
        }
    }

    fn deny(&mut self, client: Client) -> Result<()> {
        if let Some(reason) = self.refusal(&client) {
            return Err(anyhow!(reason));
        }
        let names = names_of(client);
        if !self.held.contains(&client) && self.held.len() >= self.settings.max_clients {
            self.full = true;
            return Err(anyhow!(nginx::full(self.settings.max_clients)));
        }
        self.note(client, &names);
        if !self.more_looks.is_empty() {
            self.denied.set_few_looks(false)?;
        }
        if self.exempt_networks.iter().any(|net| client.covers(*net)) {
            // Before the network itself, so that no exempt client meets a closed door.
            self.write_exempt()?;
        }
        for name in names {
            self.denied.add(name)?;
        }
        self.held.insert(client);
        Ok(())
    }

    /// Sorts a client into the sets.
    fn note(&mut self, client: Client, names: &[Name]) {
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

    fn forget(&mut self, client: Client) {
        self.held.remove(&client);
        self.networks.remove(&client);
        self.many_named.remove(&client);
        self.more_looks.remove(&client);
    }

    fn forget_all(&mut self) {
        self.held.clear();
        self.networks.clear();
        self.many_named.clear();
        self.more_looks.clear();
    }

    /// Whether nginx's first look finds every name, and nobody is exempt.
    fn few_looks_are_enough(&self) -> bool {
        self.more_looks.is_empty() && self.exempt_names().is_empty()
    }

    fn lift(&mut self, client: Client) -> Result<()> {
        self.forget(client);
        for name in names_of(client) {
            if !self.is_wanted(name) {
                self.denied.remove(name)?;
            }
        }
        self.full = false;
        if self.exempt_networks.iter().any(|net| client.covers(*net)) {
            self.write_exempt()?;
        }
        Ok(())
    }

    /// Whether a held client has this name.
    fn is_wanted(&self, name: Name) -> bool {
        let alone = name.client();
        let has_it = |held: &&Client| held.covers(alone.network()) && names_of(**held).contains(&name);
        self.held.contains(&alone) || self.many_named.iter().any(|held| has_it(&held))
    }

    /// The names of the exempt networks inside banned ones: elsewhere nothing needs an exemption.
    fn exempt_names(&self) -> BTreeSet<Name> {
        let inside = |net: &&IpNet| !self.networks.is_empty() && self.is_inside(**net);
        self.exempt_networks.iter().filter(inside).filter_map(|net| Name::covering(*net)).flatten().collect()
    }

    /// Whether a held network is around this one: that of some length around its address.
    fn is_inside(&self, net: IpNet) -> bool {
        let around =
            |length| IpNet::new(net.addr(), length).ok().map(|wider| Client::of_network(wider.trunc()));
        (0..=net.prefix_len()).filter_map(around).any(|wider| self.networks.contains(&wider))
    }

    fn write_exempt(&mut self) -> Result<()> {
        let wanted = self.exempt_names();
        if wanted.is_empty() && !self.exempt.path().exists() {
            return Ok(());
        }
        if !wanted.is_empty() {
            self.denied.set_few_looks(false)?;
        }
        self.exempt.prepare()?;
        for name in &wanted {
            self.exempt.add(*name)?;
        }
        for name in self.exempt.names()? {
            if !wanted.contains(&name) {
                self.exempt.remove(name)?;
            }
        }
        self.exempt.leave();
        Ok(())
    }

    /// Remembers the folder as we leave it, with all in it.
    fn leave(&mut self) {
        if let Err(error) = self.denied.set_few_looks(self.few_looks_are_enough()) {
            // A reconcile finds that it is wrong.
            tracing::warn!("{error:#}");
        }
        self.denied.leave();
    }
}

impl Enforcer for NginxEnforcer {
    fn name(&self) -> EnforcerName {
        EnforcerName::Nginx
    }

    fn start(&mut self, exempt: &[IpNet], _now: Now) -> Result<()> {
        self.denied.prepare()?;
        self.exempt_networks = exempt.to_vec();
        self.is_started = true;
        Ok(())
    }

    fn state(&self) -> PartState {
        if !self.is_started {
            return PartState::Off { reason: "not started".to_owned() };
        }
        if self.full {
            return PartState::Degraded { reason: nginx::full(self.settings.max_clients) };
        }
        PartState::Active { detail: nginx::files_in(self.denied.path()) }
    }

    fn ensure_banned(&mut self, bans: &[Ban], _now: Now) -> Vec<Failure> {
        let failures = bans
            .iter()
            .filter_map(|ban| {
                let client = ban.client.client();
                self.deny(client).err().map(|error| Failure { client, error })
            })
            .collect();
        self.leave();
        failures
    }

    fn refusal(&self, client: &Client) -> Option<String> {
        if Name::covering(client.network()).is_none() {
            return Some(nginx::no_name_for(client));
        }
        let unnamed =
            self.exempt_networks.iter().find(|net| client.covers(**net) && Name::covering(**net).is_none());
        unnamed.map(|net| nginx::cannot_exempt(client, net))
    }

    fn ensure_lifted(&mut self, clients: &[Client]) -> Vec<Failure> {
        let failures = clients
            .iter()
            .filter_map(|client| self.lift(*client).err().map(|error| Failure { client: *client, error }))
            .collect();
        self.leave();
        failures
    }

    fn ensure_exempt(&mut self, networks: &[IpNet]) -> Result<()> {
        self.exempt_networks = networks.to_vec();
        let result = self.write_exempt();
        self.leave();
        result
    }

    fn observe(&mut self, _now: Now) -> Result<Vec<(Client, Option<shield_engine::time::Ends>)>> {
        Ok(self.denied.names()?.into_iter().map(|name| (name.client(), None)).collect())
    }

    fn is_intact(&mut self, desired: usize) -> Result<bool> {
        let is_exempt_intact = self.exempt_names().is_empty() || self.exempt.is_as_left();
        Ok(self.held.len() == desired && self.denied.is_as_left() && is_exempt_intact)
    }

    fn reconcile(&mut self, desired: &Desired, exempt: &[IpNet], now: Now) -> Result<Option<Repair>> {
        let was_emptied = self.denied.prepare()?;
        self.exempt_networks = exempt.to_vec();
        let in_force = |ban: &Ban| ban.ends.remaining_ms(now).is_none_or(|ms| ms > 0);
        let wanted: Vec<Client> = desired
            .iter()
            .filter(in_force)
            .map(|ban| ban.client.client())
            .filter(|client| self.refusal(client).is_none())
            .collect();
        self.forget_all();
        wanted.iter().for_each(|client| self.note(*client, &names_of(*client)));
        let had_few_looks = self.denied.has_few_looks();
        if !self.few_looks_are_enough() {
            self.denied.set_few_looks(false)?;
        }
        self.write_exempt()?;
        let present: HashSet<Name> = self.denied.names()?.into_iter().collect();
        self.full = false;
        let (mut names, mut restored) = (HashSet::with_capacity(wanted.len()), 0);
        for client in wanted {
            if self.held.len() >= self.settings.max_clients {
                self.full = true;
                break;
            }
            self.held.insert(client);
            for name in names_of(client) {
                if !present.contains(&name) && names.insert(name) {
                    self.denied.add(name)?;
                    restored += 1;
                } else {
                    names.insert(name);
                }
            }
        }
        let mut removed = 0;
        for name in present.difference(&names) {
            self.denied.remove(*name)?;
            removed += 1;
        }
        self.leave();
        let was_wrong = had_few_looks && !self.few_looks_are_enough();
        let is_repaired = was_emptied || was_wrong || restored + removed > 0;
        Ok(is_repaired.then(|| Repair { found: nginx::FOLDER_DIFFERED.to_owned(), restored, removed }))
    }

    fn drops(&mut self, clients: &[Client]) -> Result<Vec<Option<Drops>>> {
        // What nginx refuses is in its log and nowhere else.
        Ok(vec![None; clients.len()])
    }

    fn total_drops(&mut self) -> Result<Drops> {
        Ok(Drops::default())
    }

    fn cleanup(&mut self) -> Result<Vec<String>> {
        self.is_started = false;
        self.forget_all();
        let exempt = self.exempt.clear()?;
        Ok(self.denied.clear()?.into_iter().chain(exempt).collect())
    }
}

fn names_of(client: Client) -> Vec<Name> {
    Name::covering(client.network()).unwrap_or_default()
}

/// Whether an exempt client could be inside.
fn is_network(client: Client) -> bool {
    let network = client.network();
    network.prefix_len() < network.max_prefix_len()
}
