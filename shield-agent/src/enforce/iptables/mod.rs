//! The netfilter enforcer: an own chain for IPv4 and IPv6, jumped to first thing, with a DROP rule for each client while
//! they are few, and one DROP rule on a set when they are many.
//!
//! Owns the enforcer's verbs. `orders` carries out bans and lifts, `reconcile` (with `refill` and `findings`) compares and
//! repairs, `intact` knows when that can be skipped, `report` words the state. They work on a `firewall`: the two `family`s
//! with their `chains`, and the `storage` that chooses between rules and sets; `migrate` moves bans from one to the other.
//! Below them, `table` and `chain` are iptables' command lines and text, `redirects` finds the ports of containers, `sets` with
//! `ipset` and `nft` the sets, `programs` the processes, `lock` what they wait for, `generation` and `nfnetlink` what needs none.

pub(crate) mod chain;
mod chains;
mod family;
mod findings;
mod firewall;
mod generation;
mod intact;
mod ipset;
mod lock;
mod migrate;
mod nfnetlink;
mod nft;
mod orders;
pub(crate) mod programs;
mod reconcile;
pub(crate) mod redirects;
mod refill;
mod report;
pub(crate) mod sets;
pub(crate) mod settings;
mod storage;
mod table;
#[cfg(test)]
mod tests;

use anyhow::{Result, bail};
use hashbrown::HashMap;
use ipnet::IpNet;

use self::family::Family;
use self::firewall::Firewall;
use self::intact::{Change, Intact};
use self::programs::{Host, Programs};
use self::reconcile::{Goal, Outcome};
pub(crate) use self::sets::Version;
pub(crate) use self::settings::{Backend, Containers, Settings};
use self::storage::SetKind;
use super::ban::{Ban, Drops, Failure};
use super::desired::Desired;
use super::enforcer::{Enforcer, Lifts, NothingUrgent, Urgent};
use shield_engine::client::Client;
use shield_engine::event::{EnforcerName, PartState, Repair};
use shield_engine::time::Now;

/// A set with more clients than this is not listed to answer a query about a few of them.
const MAX_LISTED_FOR_DROPS: usize = 20_000;

/// See the module.
pub struct IptablesEnforcer {
    firewall: Firewall,
    intact: Intact,
}

impl IptablesEnforcer {
    /// The enforcer over this host's own programs. Touches nothing before `start`.
    pub fn new(settings: Settings) -> IptablesEnforcer {
        IptablesEnforcer::with_programs(settings, Box::new(Host))
    }

    /// The enforcer over other programs: `enforce::simulator` passes its own.
    pub fn with_programs(settings: Settings, programs: Box<dyn Programs>) -> IptablesEnforcer {
        IptablesEnforcer { firewall: Firewall::new(settings, programs), intact: Intact::default() }
    }

    /// The firewall for a change. Every change goes through here, so that none is made behind what is known to be intact.
    fn change(&mut self, change: Change) -> &mut Firewall {
        self.intact.forget(change);
        &mut self.firewall
    }
}

impl Enforcer for IptablesEnforcer {
    fn name(&self) -> EnforcerName {
        EnforcerName::Iptables
    }

    fn start(&mut self, exempt: &[IpNet], now: Now) -> Result<()> {
        let firewall = self.change(Change::All);
        for family in &mut firewall.families {
            family.start(&mut *firewall.programs, exempt);
        }
        if firewall.chains().next().is_none() {
            bail!("{}", report::unavailable(&firewall.families).join("; "));
        }
        migrate::adopt_sets(firewall, now);
        Ok(())
    }

    fn state(&self) -> PartState {
        report::state(&self.firewall)
    }

    fn ensure_banned(&mut self, bans: &[Ban], now: Now) -> Vec<Failure> {
        orders::ban(self.change(Change::Bans), bans, now)
    }

    fn refusal(&self, client: &Client) -> Option<String> {
        match &self.firewall.families[Version::of(client) as usize] {
            Family::Ready(_) => None,
            Family::Unavailable(family) => Some(format!("{:#}", family.refusal())),
        }
    }

    fn ensure_lifted(&mut self, clients: &[Client]) -> Vec<Failure> {
        orders::lift(self.change(Change::Bans), clients)
    }

    fn lifts(&self) -> Lifts {
        match self.firewall.storage.sets() {
            None => Lifts::Together,
            Some(_) => Lifts::InPieces,
        }
    }

    fn ensure_exempt(&mut self, networks: &[IpNet]) -> Result<()> {
        orders::exempt(self.change(Change::All), networks)
    }

    fn observe(&mut self, now: Now) -> Result<Vec<(Client, Option<shield_engine::time::Ends>)>> {
        let snapshots = self.firewall.snapshots()?;
        let single = snapshots.iter().flat_map(|snapshot| snapshot.dropped());
        let mut held: Vec<_> = single.map(|client| (client, None)).collect();
        self.firewall.list_sets(&mut |element| held.push((element.client, Some(element.ends(now)))))?;
        Ok(held)
    }

    fn is_intact(&mut self, desired: usize) -> Result<bool> {
        let firewall = &mut self.firewall;
        if firewall.lock.describe().is_some() {
            // What could not be written is tried again at once: it takes a second at most while the lock is held.
            return Ok(false);
        }
        let chains_are_right = self.intact.chains_are_right(firewall)?;
        let in_sets = firewall.count_sets()?;
        let held = in_sets.map(|in_sets| in_sets + firewall.held_rules());
        Ok(chains_are_right && firewall.storage.suits(desired) && held == Some(desired))
    }

    fn reconcile(&mut self, desired: &Desired, exempt: &[IpNet], now: Now) -> Result<Option<Repair>> {
        self.reconcile_yielding(desired, exempt, now, &mut NothingUrgent)
    }

    fn reconcile_yielding(
        &mut self,
        desired: &Desired,
        exempt: &[IpNet],
        now: Now,
        urgent: &mut dyn Urgent,
    ) -> Result<Option<Repair>> {
        if self.intact.skips_reconcile(&mut self.firewall, desired, exempt) {
            return Ok(None);
        }
        let firewall = self.change(Change::All);
        // Read before anything is listed: a change in between makes the next reconcile list again.
        let generation = firewall.programs.generation();
        let Outcome { repair, is_nftables } =
            reconcile::reconcile(firewall, &mut Goal { desired, exempt, now, urgent })?;
        // All is as it should be, so nothing waits for the lock, whoever may hold it.
        firewall.lock.free();
        if repair.is_none() && is_nftables {
            self.intact.settle(&self.firewall, generation, exempt);
        }
        Ok(repair)
    }

    fn drops(&mut self, clients: &[Client]) -> Result<Vec<Option<Drops>>> {
        let firewall = &mut self.firewall;
        firewall.snapshots()?;
        let of_rule = |client: &Client| firewall.chains().find_map(|chains| chains.rules().get(client));
        let mut known: HashMap<Client, Option<Drops>> =
            clients.iter().map(|client| (*client, of_rule(client).map(|held| held.counters))).collect();
        if firewall.count_sets()?.is_some_and(|held| held <= MAX_LISTED_FOR_DROPS) {
            firewall.list_sets(&mut |element| {
                if let Some(drops) = known.get_mut(&element.client) {
                    *drops = Some(element.drops);
                }
            })?;
        }
        Ok(clients.iter().map(|client| known[client]).collect())
    }

    fn total_drops(&mut self) -> Result<Drops> {
        let firewall = &mut self.firewall;
        let sets = firewall.storage.sets();
        // Without a rule that drops there is nothing to read.
        if sets.is_some() || firewall.held_rules() > 0 {
            firewall.snapshots()?;
        }
        if let Some(kind) = sets {
            firewall.storage.own_drops = kind.store().own_drops(&mut *firewall.programs)?;
        }
        let mut total = firewall.storage.own_drops;
        for drops in firewall.families.iter().map(Family::total) {
            total.packets += drops.packets;
            total.bytes += drops.bytes;
        }
        Ok(total)
    }

    fn cleanup(&mut self) -> Result<Vec<String>> {
        let Firewall { programs, families, storage, lock } = self.change(Change::All);
        let programs = &mut **programs;
        let mut removed = Vec::new();
        let mut errors = Vec::new();
        let mut note = |result: Result<Vec<String>>| match result {
            Ok(done) => removed.extend(done),
            Err(error) if programs::is_absent(&error) => {}
            Err(error) => errors.push(format!("{error:#}")),
        };
        // Chains before sets: a set that a rule names cannot be destroyed.
        for family in families.iter_mut() {
            note(chains::remove_all(family.table(), programs));
        }
        for kind in SetKind::all(storage.settings()) {
            let store = kind.store();
            for version in Version::ALL {
                let destroyed = store.destroy(programs, version);
                let text = format!("{}: the set of banned clients in {}", version.name(), store.name());
                note(destroyed.map(|was_there| Vec::from_iter(was_there.then_some(text))));
            }
        }
        *families = Family::both(storage.settings(), lock);
        storage.reset();
        if errors.is_empty() { Ok(removed) } else { bail!("{}", errors.join("; ")) }
    }
}
