//! The knowledge that everything is in place, which saves listing it.
//!
//! nftables counts every change of any rule, those of other programs too (`generation`). While that number stays, what was
//! found right is right. Every change of the firewall, or of what is wanted of it, must call [`Intact::forget`].

use anyhow::Result;
use ipnet::IpNet;

use super::firewall::Firewall;
use crate::enforce::desired::Desired;

/// The most full reconciles skipped in a row while no rule changes. The one after them (every 10 min) lists all the same,
/// for changes that no generation counts, such as those in the tables of another iptables.
pub(super) const MAX_SKIPPED: u32 = 19;

/// A change of what is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// Of who is banned. The chains' heads and jumps stay as they are, and single rules are counted by the generation: with
    /// sets, the chains need not be listed after every ban.
    Bans,
    /// Of anything.
    All,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Intact {
    /// The generation at which the chains were last found right.
    chains_at: Option<u32>,
    /// The last full reconcile, when it found nothing to repair.
    settled: Option<Settled>,
}

#[derive(Debug)]
struct Settled {
    generation: u32,
    exempt: Vec<IpNet>,
    /// The number of reconciles that were skipped because of it.
    skipped: u32,
}

impl Intact {
    pub(super) fn forget(&mut self, change: Change) {
        self.settled = None;
        if change == Change::All {
            self.chains_at = None;
        }
    }

    /// Returns `true` if chains and jumps are as they were written. Lists them only when a rule has changed since they were found
    /// right, or where that cannot be known (iptables-legacy).
    pub(super) fn chains_are_right(&mut self, firewall: &mut Firewall) -> Result<bool> {
        // Read before the listing: a change in between makes the next check list again.
        let generation = firewall.programs.generation();
        if generation.is_some() && self.chains_at == generation {
            return Ok(true);
        }
        let snapshots = firewall.snapshots()?;
        let mut listed = snapshots.with(&mut firewall.families);
        let right = listed.all(|(chains, snapshot)| chains.is_as_written(snapshot));
        self.chains_at = generation.filter(|_| right && snapshots.are_nftables());
        Ok(right)
    }

    /// Notes a full reconcile that found nothing to repair at `generation`.
    ///
    /// Only with single rules in both IP versions: the generation counts neither what is in sets, nor the arrival of what
    /// was missing on this host.
    pub(super) fn settle(&mut self, firewall: &Firewall, generation: Option<u32>, exempt: &[IpNet]) {
        let storage = &firewall.storage;
        let is_counted = storage.sets().is_none()
            && storage.unavailable().is_none()
            && firewall.families.iter().all(|family| family.error().is_none());
        let settled = |generation| Settled { generation, exempt: exempt.to_vec(), skipped: 0 };
        self.settled = generation.filter(|_| is_counted).map(settled);
    }

    /// Returns `true` if a full reconcile would find nothing to repair, like the last one: no rule has changed since, and the
    /// same clients and networks are wanted.
    pub(super) fn skips_reconcile(
        &mut self,
        firewall: &mut Firewall,
        desired: &Desired,
        exempt: &[IpNet],
    ) -> bool {
        let Some(settled) = &mut self.settled else { return false };
        settled.skipped += 1;
        settled.skipped <= MAX_SKIPPED
            && settled.exempt == exempt
            && firewall.held_rules() == desired.len()
            && desired.iter().all(|ban| firewall.has_rule(&ban.client.client()))
            && firewall.programs.generation() == Some(settled.generation)
    }
}
