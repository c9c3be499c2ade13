//! Refuses banned clients inside nginx, for those whose packets come from a proxy: a firewall would have to drop the proxy.
//!
//! A banned client is a file with its address as the name, in a folder in a tmpfs. nginx looks for the file before it
//! answers (`include.rs` has its lines): no module, no reload, 5 to 7 us a request. Nothing here ends by itself: the
//! agent removes a file when the ban ends, and the service manager removes the whole folder when the agent stops for good
//! (`RuntimeDirectoryPreserve=restart`).

mod folder;
mod held;
pub(crate) mod include;
mod map;
mod names;
mod settings;

use std::collections::HashSet;

use anyhow::{Result, anyhow};
use ipnet::IpNet;

use self::folder::Folder;
use self::held::{Held, names_of};
pub use self::map::MapEnforcer;
use self::names::Name;
pub use self::settings::{Backend, Commands, Settings};
use super::ban::{Ban, Failure};
use super::desired::Desired;
use super::enforcer::Enforcer;
use crate::text::nginx;
use shield_engine::client::Client;
use shield_engine::event::{EnforcerName, PartState, Repair};
use shield_engine::time::Now;

/// The folder of the names that are let through inside a banned network.
pub(super) const EXEMPT_FOLDER: &str = "exempt";

/// The enforcer of the configured backend.
pub(crate) fn enforcer(settings: Settings) -> Box<dyn Enforcer> {
    match settings.backend {
        Backend::Files => Box::new(NginxEnforcer::new(settings)),
        Backend::Map => Box::new(MapEnforcer::new(settings)),
    }
}

/// Keeps nginx's folder of denied clients.
#[derive(Debug)]
pub struct NginxEnforcer {
    settings: Settings,
    denied: Folder,
    exempt: Folder,
    is_started: bool,
    /// The clients whose names we made.
    held: Held,
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
            held: Held::default(),
            full: false,
        }
    }

    fn deny(&mut self, client: Client) -> Result<()> {
        if let Some(reason) = self.held.refusal(&client) {
            return Err(anyhow!(reason));
        }
        let names = names_of(client);
        if !self.held.contains(&client) && self.held.len() >= self.settings.max_clients {
            self.full = true;
            return Err(anyhow!(nginx::full(self.settings.max_clients)));
        }
        self.held.sort_in(client);
        if self.held.needs_more_looks() {
            self.denied.set_few_looks(false)?;
        }
        if self.held.has_exempt_inside(client) {
            // Before the network itself, so that no exempt client meets a closed door.
            self.write_exempt()?;
        }
        for name in names {
            self.denied.add(name)?;
        }
        self.held.hold(client);
        Ok(())
    }

    /// Whether nginx's first look finds every name, and nobody is exempt.
    fn few_looks_are_enough(&self) -> bool {
        !self.held.needs_more_looks() && self.held.exempt_names().is_empty()
    }

    fn lift(&mut self, client: Client) -> Result<()> {
        self.held.remove(client);
        for name in names_of(client) {
            if !self.held.is_wanted(name) {
                self.denied.remove(name)?;
            }
        }
        self.full = false;
        if self.held.has_exempt_inside(client) {
            self.write_exempt()?;
        }
        Ok(())
    }

    fn write_exempt(&mut self) -> Result<()> {
        let wanted = self.held.exempt_names();
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

    /// Takes out what the other backend has left.
    fn remove_maps(&self) -> Result<Vec<String>> {
        if !self.settings.maps().exists() {
            return Ok(Vec::new());
        }
        MapEnforcer::of_leftovers(self.settings.clone()).cleanup()
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
        if let Err(error) = self.remove_maps() {
            // They count for some hours at the most.
            tracing::warn!("could not remove the maps of the backend `map`: {error:#}");
        }
        self.denied.prepare()?;
        self.held.set_exempt(exempt);
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
        self.held.refusal(client)
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
        self.held.set_exempt(networks);
        let result = self.write_exempt();
        self.leave();
        result
    }

    fn observe(&mut self, _now: Now) -> Result<Vec<(Client, Option<shield_engine::time::Ends>)>> {
        Ok(self.denied.names()?.into_iter().map(|name| (name.client(), None)).collect())
    }

    fn is_intact(&mut self, desired: usize) -> Result<bool> {
        let is_exempt_intact = self.held.exempt_names().is_empty() || self.exempt.is_as_left();
        Ok(self.held.len() == desired && self.denied.is_as_left() && is_exempt_intact)
    }

    fn reconcile(&mut self, desired: &Desired, exempt: &[IpNet], now: Now) -> Result<Option<Repair>> {
        let was_emptied = self.denied.prepare()?;
        self.held.set_exempt(exempt);
        let in_force = |ban: &Ban| ban.ends.remaining_ms(now).is_none_or(|ms| ms > 0);
        let wanted: Vec<Client> = desired
            .iter()
            .filter(in_force)
            .map(|ban| ban.client.client())
            .filter(|client| self.refusal(client).is_none())
            .collect();
        self.held.clear();
        wanted.iter().for_each(|client| self.held.sort_in(*client));
        let had_few_looks = self.denied.has_few_looks();
        if !self.few_looks_are_enough() {
            self.denied.set_few_looks(false)?;
        }
        self.write_exempt()?;
        let mut unwanted: HashSet<Name> = self.denied.names()?.into_iter().collect();
        self.full = false;
        self.held.reserve(wanted.len().min(self.settings.max_clients));
        let mut restored = 0;
        for client in wanted {
            if self.held.len() >= self.settings.max_clients {
                self.full = true;
                break;
            }
            self.held.hold(client);
            for name in names_of(client) {
                // The name of two clients is found only once, and is there already the second time.
                if !unwanted.remove(&name) && self.denied.add(name)? {
                    restored += 1;
                }
            }
        }
        let mut removed = 0;
        for name in unwanted {
            self.denied.remove(name)?;
            removed += 1;
        }
        self.leave();
        let was_wrong = had_few_looks && !self.few_looks_are_enough();
        let is_repaired = was_emptied || was_wrong || restored + removed > 0;
        Ok(is_repaired.then(|| Repair { found: nginx::FOLDER_DIFFERED.to_owned(), restored, removed }))
    }

    fn cleanup(&mut self) -> Result<Vec<String>> {
        self.is_started = false;
        self.held.clear();
        let maps = self.remove_maps()?;
        let exempt = self.exempt.clear()?;
        Ok(self.denied.clear()?.into_iter().chain(exempt).chain(maps).collect())
    }
}
