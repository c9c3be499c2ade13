//! The parts of this host's firewall that are ours, with the programs that reach them.
//!
//! Owns the queries that concern both IP versions, or rules and sets, together. Orders are carried out by `orders`,
//! moves between rules and sets by `migrate`, the full comparison by `reconcile`.

use anyhow::Result;

use super::chains::Chains;
use super::family::{Family, Snapshots, all_snapshots};
use super::lock::Lock;
use super::programs::Programs;
use super::sets::{Element, Version};
use super::settings::Settings;
use super::storage::Storage;
use shield_engine::client::Client;

/// See the module.
pub(super) struct Firewall {
    pub(super) programs: Box<dyn Programs>,
    pub(super) families: [Family; 2],
    pub(super) storage: Storage,
    /// That of both families' tables.
    pub(super) lock: Lock,
}

impl Firewall {
    pub(super) fn new(settings: Settings, programs: Box<dyn Programs>) -> Firewall {
        let lock = Lock::default();
        let families = Family::both(&settings, &lock);
        Firewall { programs, families, storage: Storage::new(settings), lock }
    }

    /// The chains of the IP versions that can be filtered.
    pub(super) fn chains(&self) -> impl Iterator<Item = &Chains> {
        self.families.iter().filter_map(Family::chains)
    }

    pub(super) fn held_rules(&self) -> usize {
        held_rules(&self.families)
    }

    pub(super) fn has_rule(&self, client: &Client) -> bool {
        self.chains().any(|chains| chains.rules().contains_key(client))
    }

    /// Lists both tables and notes their counters.
    pub(super) fn snapshots(&mut self) -> Result<Snapshots> {
        all_snapshots(&mut self.families, &mut *self.programs)
    }

    /// Counts the clients in the sets; `None` when one of the sets is gone, or nothing drops by it.
    pub(super) fn count_sets(&mut self) -> Result<Option<usize>> {
        let Some(kind) = self.storage.sets() else { return Ok(Some(0)) };
        let counts = kind.store().counts(&mut *self.programs)?;
        let total = self.chains().map(|chains| counts[chains.version() as usize]).sum::<Option<usize>>();
        self.storage.note_in_sets(total.unwrap_or(0));
        Ok(total)
    }

    /// Calls `each` with every client in a set.
    pub(super) fn list_sets(&mut self, each: &mut dyn FnMut(Element)) -> Result<()> {
        let Some(kind) = self.storage.sets() else { return Ok(()) };
        let counts = kind.store().counts(&mut *self.programs)?;
        for version in Version::ALL {
            if counts[version as usize].is_some() {
                kind.store().list(&mut *self.programs, version, each)?;
            }
        }
        Ok(())
    }
}

/// The number of clients that have a rule of their own.
pub(super) fn held_rules(families: &[Family; 2]) -> usize {
    families.iter().filter_map(Family::chains).map(|chains| chains.rules().len()).sum()
}
