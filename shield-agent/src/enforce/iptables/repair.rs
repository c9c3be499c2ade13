//! The full reconcile: what is missing comes back, what nobody wants goes away, and what was found is said in words.

use anyhow::{Result, bail};
use ipnet::IpNet;

use super::backend::{HeldBy, store_of};
use super::chain::{Rule, Snapshot};
use super::family::Held;
use super::sets::{Element, SetStore, Version};
use super::{IptablesEnforcer, programs::Programs};
use crate::enforce::{Desired, Drops, Failure};
use crate::engine::client::Client;
use crate::engine::event::Repair;
use crate::engine::reconcile::{Planner, Wanted as _};
use crate::engine::time::Now;

/// Elements put back into a set at once.
const ELEMENTS_AT_ONCE: usize = 50_000;
/// So many errors of one reconcile are told; the others are counted.
const MAX_ERRORS: usize = 3;

/// What one reconcile found, did and could not do.
#[derive(Default)]
struct Work {
    found: Vec<String>,
    restored: usize,
    removed: usize,
    errors: Vec<String>,
}

impl IptablesEnforcer {
    pub(super) fn repair(&mut self, desired: &Desired, exempt: &[IpNet], now: Now) -> Result<Option<Repair>> {
        let mut work = Work::default();
        self.revive(&mut work);
        let (snapshots, errors) = self.snapshots();
        work.errors.extend(errors);
        self.look(&snapshots, exempt, &mut work);
        let before = self.held_by;
        let next = if self.wants_sets(desired.len()) { self.find_sets() } else { None };
        match next {
            Some(kind) => self.repair_sets(kind, snapshots, desired, now, &mut work),
            None => self.repair_rules(&snapshots, desired, now, &mut work),
        }
        if self.held_by == HeldBy::Rules
            && before != HeldBy::Rules
            && let Some(store) = store_of(before, &self.settings)
        {
            for version in Version::ALL {
                work.try_to(store.destroy(&mut *self.programs, version).map(drop));
            }
        }
        work.finish(before == self.held_by)
    }

    /// Gives IP versions that could not be filtered another chance.
    fn revive(&mut self, work: &mut Work) {
        for at in 0..self.families.len() {
            let Some(reason) = self.families[at].missing.take() else { continue };
            let exempt = self.families[at].exempt().to_vec();
            match self.start_family(at, &exempt) {
                Ok(()) => {
                    let name = self.families[at].version.name();
                    work.found.push(format!("{name}: can be filtered again (was: {reason})"));
                }
                Err(error) => self.families[at].missing = Some(format!("{error:#}")),
            }
        }
    }

    /// Says what is wrong with the chains, then brings hooks and exempt networks up to date.
    fn look(&mut self, snapshots: &[Option<Snapshot>; 2], exempt: &[IpNet], work: &mut Work) {
        for (family, snapshot) in self.families.iter_mut().zip(snapshots) {
            let Some(snapshot) = snapshot else { continue };
            work.found.extend(family.faults(snapshot));
            let hooks = family.hooks.clone();
            work.try_to(family.find_hooks(&mut *self.programs, snapshot));
            for hook in family.hooks.iter().filter(|hook| !hooks.contains(hook)) {
                let name = family.version.name();
                work.found.push(format!("{name}: traffic to containers now passes {hook}"));
            }
            family.set_exempt(exempt);
        }
    }

    fn repair_rules(
        &mut self,
        snapshots: &[Option<Snapshot>; 2],
        desired: &Desired,
        now: Now,
        work: &mut Work,
    ) {
        self.held_by = HeldBy::Rules;
        let mut room = match self.no_sets {
            Some(_) => self.settings.max_rules_without_sets,
            None => usize::MAX,
        };
        let mut planner = Planner::new(desired);
        for client in snapshots.iter().flatten().flat_map(dropped) {
            planner.see(client, |_| true);
        }
        for (family, snapshot) in self.families.iter_mut().zip(snapshots) {
            let Some(snapshot) = snapshot else { continue };
            let seen = std::mem::take(&mut family.rules);
            for slot in 0..desired.len() {
                let (client, ban) = desired.entry(slot);
                let was_there = planner.was_seen(slot);
                if Version::of(&client) != family.version || (ban.ends.is_past(now) && !was_there) {
                    continue;
                }
                if room == 0 {
                    work.errors.push(format!("{client}: no room for another single rule"));
                    continue;
                }
                room -= 1;
                let drops = seen.get(&client).map_or(Drops::default(), |held| held.seen);
                family.rules.insert(client, Held { ends: Some(ban.ends), seen: drops });
            }
            family.forget_all_but_current(seen);
            family.set_set_rule(None);
            let (missing, surplus) = family.rule_faults(snapshot);
            work.restored += missing;
            work.removed += surplus;
            if missing + surplus > 0 || !family.matches(snapshot) {
                work.try_to(family.rewrite(&mut *self.programs, snapshot));
            }
        }
    }

    fn repair_sets(
        &mut self,
        kind: HeldBy,
        mut snapshots: [Option<Snapshot>; 2],
        desired: &Desired,
        now: Now,
        work: &mut Work,
    ) {
        let Some(store) = store_of(kind, &self.settings) else { return };
        let was_in_use = self.held_by == kind;
        let filled = self.fill_sets(&*store, was_in_use, desired, now, work);
        if let Err(error) = filled {
            work.errors.push(format!("{error:#}"));
            return;
        }
        self.held_by = kind;
        if !was_in_use {
            // Filling took its time: the single rules have counted on.
            let (fresh, errors) = self.snapshots();
            snapshots = fresh;
            work.errors.extend(errors);
        }
        for (family, snapshot) in self.families.iter_mut().zip(&snapshots) {
            let Some(snapshot) = snapshot else { continue };
            family.set_set_rule(store.rule(family.version));
            family.take_rules();
            let (_, surplus) = family.rule_faults(snapshot);
            work.removed += if was_in_use { surplus } else { 0 };
            if surplus > 0 || !family.matches(snapshot) {
                work.try_to(family.rewrite(&mut *self.programs, snapshot));
            }
        }
    }

    /// Brings the sets to exactly what is wanted, additions first.
    fn fill_sets(
        &mut self,
        store: &dyn SetStore,
        was_in_use: bool,
        desired: &Desired,
        now: Now,
        work: &mut Work,
    ) -> Result<()> {
        let programs = &mut *self.programs;
        let counts = store.counts(programs)?;
        let mut planner = Planner::new(desired);
        let families: Vec<_> = self.families.iter().filter(|family| family.missing.is_none()).collect();
        for family in &families {
            let version = family.version;
            let there = counts[version as usize].is_some();
            if was_in_use && !there {
                work.found.push(format!("{}: the set of banned clients was gone", version.name()));
            }
            store.ensure(programs, version, desired.len())?;
            if !there || !was_in_use {
                store.exempt(programs, version, family.exempt())?;
            }
            store.list(programs, version, &mut |element| {
                planner.see(element.client, |ban| element.is_right_for(ban.ends, now));
            })?;
        }
        let versions: Vec<Version> = families.iter().map(|family| family.version).collect();
        put_back(programs, store, &versions, desired, &planner, now, work);
        take_out(programs, store, planner.surplus(), work);
        Ok(())
    }
}

fn put_back(
    programs: &mut dyn Programs,
    store: &dyn SetStore,
    versions: &[Version],
    desired: &Desired,
    planner: &Planner<'_, Desired>,
    now: Now,
    work: &mut Work,
) {
    for version in versions {
        let mut piece: Vec<Element> = Vec::new();
        let mut missing = planner.missing().peekable();
        while let Some(slot) = missing.next() {
            let (client, ban) = desired.entry(slot);
            if Version::of(&client) == *version && !ban.ends.is_past(now) {
                work.restored += usize::from(!planner.was_seen(slot));
                piece.push(Element::new(client, ban.ends, now));
            }
            if piece.len() == ELEMENTS_AT_ONCE || missing.peek().is_none() {
                work.failed(store.add(programs, *version, &piece));
                piece.clear();
            }
        }
    }
    // Ends that were wrong are put right without a word: after a suspend all of them are.
}

fn take_out(programs: &mut dyn Programs, store: &dyn SetStore, surplus: &[Client], work: &mut Work) {
    for version in Version::ALL {
        let clients: Vec<Client> =
            surplus.iter().copied().filter(|client| Version::of(client) == version).collect();
        if !clients.is_empty() {
            work.removed += clients.len();
            work.failed(store.remove(programs, version, &clients));
        }
    }
}

/// The clients that have a DROP rule of their own.
fn dropped(snapshot: &Snapshot) -> impl Iterator<Item = Client> + '_ {
    snapshot.chain.iter().flatten().filter_map(|(rule, _)| match rule {
        Rule::Drop(client) => Some(*client),
        _ => None,
    })
}

impl Work {
    fn try_to(&mut self, result: Result<()>) {
        self.errors.extend(result.err().map(|error| format!("{error:#}")));
    }

    fn failed(&mut self, failures: Vec<Failure>) {
        self.errors.extend(failures.into_iter().map(|f| format!("{}: {:#}", f.client, f.error)));
    }

    /// The repair in words; the errors when something is still wrong. `settled` is false when bans only moved between
    /// rules and sets, which is no repair.
    fn finish(mut self, settled: bool) -> Result<Option<Repair>> {
        if !self.errors.is_empty() {
            bail!("{}", self.all_errors());
        }
        let (restored, removed) = if settled { (self.restored, self.removed) } else { (0, 0) };
        if restored > 0 {
            self.found.push(format!("{restored} bans were missing"));
        }
        if removed > 0 {
            self.found.push(format!("{removed} entries were there that nobody wanted, or twice"));
        }
        if self.found.is_empty() {
            return Ok(None);
        }
        let found = self.found.join("; ");
        Ok(Some(Repair { found, restored: restored as u64, removed: removed as u64 }))
    }

    fn all_errors(&self) -> String {
        let mut text = self.errors[..self.errors.len().min(MAX_ERRORS)].join("; ");
        if self.errors.len() > MAX_ERRORS {
            text.push_str(&format!("; and {} more", self.errors.len() - MAX_ERRORS));
        }
        if !self.found.is_empty() {
            text.push_str(&format!(" (found: {})", self.found.join("; ")));
        }
        text
    }
}
