//! Single rules or sets: which, and the way from one to the other without a gap.

use anyhow::{Result, anyhow};

use super::ipset::Ipset;
use super::nft::Nft;
use super::sets::{Element, SetStore, Version, all_failed};
use super::{Backend, IptablesEnforcer, Settings};
use crate::enforce::{Ban, Failure};
use shield_engine::time::{Ends, Now};

/// The kernel end given to a ban whose own end is not known yet, in milliseconds: the reconcile that follows every start
/// corrects it.
const UNKNOWN_END_MS: u64 = 600_000;

/// Where new bans go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HeldBy {
    Rules,
    Ipset,
    Nft,
}

impl HeldBy {
    /// The kinds of sets, the preferred one first.
    pub(super) const SETS: [HeldBy; 2] = [HeldBy::Ipset, HeldBy::Nft];
}

/// The store of this kind; single rules have none.
pub(super) fn store_of(held_by: HeldBy, settings: &Settings) -> Option<Box<dyn SetStore>> {
    let max_entries = settings.max_entries();
    match held_by {
        HeldBy::Rules => None,
        HeldBy::Ipset => Some(Box::new(Ipset { max_entries })),
        HeldBy::Nft => Some(Box::new(Nft { max_entries })),
    }
}

impl IptablesEnforcer {
    pub(super) fn store(&self) -> Option<Box<dyn SetStore>> {
        store_of(self.held_by, &self.settings)
    }

    /// Whether this many bans belong into sets. On the way back from sets to rules the limit is half as high, so that a
    /// number near it does not move everything to and fro.
    pub(super) fn wants_sets(&self, bans: usize) -> bool {
        match self.settings.backend {
            Backend::Rules => false,
            Backend::Ipset => true,
            Backend::Auto if self.held_by == HeldBy::Rules => bans > self.settings.max_rules,
            Backend::Auto => bans > self.settings.max_rules / 2,
        }
    }

    /// The first kind of set that works here, the one in use before any other; notes the reasons when none does.
    pub(super) fn find_sets(&mut self) -> Option<HeldBy> {
        if self.held_by != HeldBy::Rules {
            return Some(self.held_by);
        }
        let mut reasons = Vec::new();
        for kind in HeldBy::SETS {
            let Some(store) = store_of(kind, &self.settings) else { continue };
            match store.probe(&mut *self.programs) {
                Ok(()) => {
                    self.no_sets = None;
                    return Some(kind);
                }
                Err(error) => reasons.push(format!("{error:#}")),
            }
        }
        self.no_sets = Some(reasons.join("; "));
        None
    }

    /// Moves to sets when these bans are too many for single rules. Where that fails, the reason is kept and shown, and
    /// single rules go on up to their cap.
    pub(super) fn make_room(&mut self, bans: &[Ban], now: Now) {
        let too_many = self.held_by == HeldBy::Rules && self.wants_sets(self.held_rules() + bans.len());
        if !too_many || self.no_sets.is_some() {
            return;
        }
        if let Some(kind) = self.find_sets()
            && let Err(error) = self.move_to_sets(kind, bans.len(), now)
        {
            self.no_sets = Some(format!("{error:#}"));
        }
    }

    /// Moves single rules into sets: sets are filled first, then each chain changes in one transaction.
    fn move_to_sets(&mut self, kind: HeldBy, new: usize, now: Now) -> Result<()> {
        let Some(store) = store_of(kind, &self.settings) else { return Ok(()) };
        let room = self.held_rules() + new;
        for family in self.families.iter_mut().filter(|family| family.missing.is_none()) {
            store.ensure(&mut *self.programs, family.version, room)?;
            store.exempt(&mut *self.programs, family.version, family.exempt())?;
            let elements: Vec<Element> = family
                .rules
                .iter()
                .map(|(client, held)| {
                    let ends = held.ends.unwrap_or_else(|| Ends::after(now, UNKNOWN_END_MS));
                    Element { drops: held.seen, ..Element::new(*client, ends, now) }
                })
                .collect();
            if let Some(failure) = store.add(&mut *self.programs, family.version, &elements).pop() {
                return Err(failure.error.context("moved single rules into a set"));
            }
        }
        self.held_by = kind;
        self.drop_by_sets()
    }

    /// Makes the chains drop by the sets in use and not by single rules any more.
    pub(super) fn drop_by_sets(&mut self) -> Result<()> {
        let Some(store) = self.store() else { return Ok(()) };
        for family in self.families.iter_mut().filter(|family| family.missing.is_none()) {
            let snapshot = family.read(&mut *self.programs)?;
            family.set_set_rule(store.rule(family.version));
            family.take_rules();
            family.rewrite(&mut *self.programs, &snapshot)?;
        }
        Ok(())
    }

    /// At the start: goes on with the sets of an earlier run, or makes sets where the settings ask for them.
    pub(super) fn adopt_sets(&mut self, now: Now) {
        self.held_by = HeldBy::Rules;
        self.no_sets = None;
        let earlier = HeldBy::SETS.into_iter().find(|kind| self.used_before(*kind));
        let wanted = match (earlier, self.settings.backend) {
            (Some(kind), _) => Some(kind),
            (None, Backend::Ipset) => self.find_sets(),
            (None, _) => None,
        };
        if let Some(kind) = wanted
            && let Err(error) = self.move_to_sets(kind, 0, now)
        {
            self.held_by = HeldBy::Rules;
            self.no_sets = Some(format!("{error:#}"));
        }
    }

    fn used_before(&mut self, kind: HeldBy) -> bool {
        let Some(store) = store_of(kind, &self.settings) else { return false };
        let dropping: Vec<Version> = self
            .families
            .iter()
            .filter(|family| store.rule(family.version).is_none_or(|rule| family.drops_by(&rule)))
            .map(|family| family.version)
            .collect();
        if dropping.is_empty() {
            return false;
        }
        // A store that cannot be asked is not in use: our chains would name it, and are taken over all the same.
        let Ok(counts) = store.counts(&mut *self.programs) else { return false };
        dropping.into_iter().any(|version| counts[version as usize].is_some())
    }

    /// Cuts off the bans that have no room as single rules where there are no sets.
    pub(super) fn within_cap(&self, bans: &[Ban]) -> (Vec<Ban>, Vec<Ban>) {
        if self.held_by != HeldBy::Rules || self.no_sets.is_none() {
            return (bans.to_vec(), Vec::new());
        }
        let mut room = self.settings.max_rules_without_sets.saturating_sub(self.held_rules());
        bans.iter().partition(|ban| {
            let client = ban.client.client();
            let known = self.families.iter().any(|family| family.rules.contains_key(&client));
            let fits = known || room > 0;
            room -= usize::from(fits && !known);
            fits
        })
    }

    /// Fails bans for which there is no room.
    pub(super) fn refuse(&mut self, bans: &[Ban]) -> Vec<Failure> {
        self.refused = bans.len();
        if bans.is_empty() {
            return Vec::new();
        }
        let why = self.no_sets.as_deref().unwrap_or_default();
        let cap = self.settings.max_rules_without_sets;
        let error = anyhow!("{cap} single rules are the most allowed where there are no sets: {why}");
        all_failed(bans.iter().map(|ban| ban.client.client()), &error)
    }
}
