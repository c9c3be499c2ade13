//! The full reconcile: what is missing comes back, what nobody wants goes away, and what was found is said in words.

use anyhow::{Result, bail};
use ipnet::IpNet;

use super::IptablesEnforcer;
use super::backend::{HeldBy, store_of};
use super::chain::{Rule, Snapshot};
use super::family::Held;
use super::refill::Refill;
use super::sets::{SetStore, Version};
use crate::enforce::reconcile::{Planner, Wanted as _};
use crate::enforce::{Desired, Drops, Failure, Urgent};
use shield_engine::client::Client;
use shield_engine::event::Repair;
use shield_engine::time::Now;

/// So many errors of one reconcile are told; the others are counted.
const MAX_ERRORS: usize = 3;

/// So many full looks in a row are spared while no rule changes; the one after them (at 10 min) looks again, for what no
/// generation counts, such as the tables of another iptables.
const MOST_SPARED: u32 = 19;

/// A full look that found nothing to repair.
pub(super) struct Settled {
    /// nftables' generation then.
    generation: u32,
    exempt: Vec<IpNet>,
    /// How many looks it has spared.
    spared: u32,
}

/// What a reconcile is to achieve.
pub(super) struct WorkOrder<'a> {
    pub(super) desired: &'a Desired,
    pub(super) exempt: &'a [IpNet],
    pub(super) now: Now,
    pub(super) urgent: &'a mut dyn Urgent,
}

/// What one reconcile found, did and could not do.
#[derive(Default)]
pub(super) struct Work {
    found: Vec<String>,
    pub(super) restored: usize,
    pub(super) removed: usize,
    errors: Vec<String>,
    more_errors: usize,
}

impl IptablesEnforcer {
    pub(super) fn repair(&mut self, order: &mut WorkOrder<'_>) -> Result<Option<Repair>> {
        let mut work = Work::default();
        // Asked before anything is listed: a change in between makes the next reconcile list again.
        let generation = self.programs.generation();
        self.revive(&mut work);
        let (snapshots, errors) = self.snapshots();
        work.errors.extend(errors);
        self.look(&snapshots, order.exempt, &mut work);
        let before = self.held_by;
        let next = if self.wants_sets(order.desired.len()) { self.find_sets() } else { None };
        match next {
            Some(kind) => {
                let done = self.repair_sets(kind, &snapshots, order, &mut work);
                work.try_to(done);
            }
            None => self.repair_rules(&snapshots, order.desired, order.now, &mut work),
        }
        if self.held_by == HeldBy::Rules
            && before != HeldBy::Rules
            && let Some(store) = store_of(before, &self.settings)
        {
            for version in Version::ALL {
                work.try_to(store.destroy(&mut *self.programs, version).map(drop));
            }
        }
        let repaired = work.finish(before == self.held_by)?;
        let is_counted = snapshots.iter().flatten().all(|snapshot| snapshot.is_nftables);
        let is_settled = repaired.is_none() && is_counted && self.is_told_by_generation();
        let settled = |generation| Settled { generation, exempt: order.exempt.to_vec(), spared: 0 };
        self.settled = generation.filter(|_| is_settled).map(settled);
        Ok(repaired)
    }

    /// Whether the last full look found everything in place, and since then no rule has changed, anybody's, nor what is
    /// wanted: then another one would find the same.
    pub(super) fn is_settled(&mut self, desired: &Desired, exempt: &[IpNet]) -> bool {
        let Some(settled) = &mut self.settled else { return false };
        settled.spared += 1;
        if settled.spared > MOST_SPARED || settled.exempt != exempt || self.held_rules() != desired.len() {
            return false;
        }
        let holds = |client| self.families.iter().any(|family| family.rules.contains_key(&client));
        if !desired.iter().all(|ban| holds(ban.client.client())) {
            return false;
        }
        let generation = self.programs.generation();
        generation.is_some() && generation == self.settled.as_ref().map(|settled| settled.generation)
    }

    /// Whether nftables' generation tells all: not what is in sets, nor whether what is missing on this host has come.
    fn is_told_by_generation(&self) -> bool {
        let all_there = self.families.iter().all(|family| family.missing.is_none());
        self.held_by == HeldBy::Rules && self.no_sets.is_none() && all_there
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
                    work.fail(format!("{client}: no room for another single rule"));
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
        snapshots: &[Option<Snapshot>; 2],
        order: &mut WorkOrder<'_>,
        work: &mut Work,
    ) -> Result<()> {
        let Some(store) = store_of(kind, &self.settings) else { return Ok(()) };
        let was_in_use = self.held_by == kind;
        self.make_sets(&*store, was_in_use, order.desired.len(), work)?;
        // With no single rules to keep in force meanwhile, the chain drops by the set while that is being filled.
        let chain_first = was_in_use || self.held_rules() == 0;
        if chain_first {
            self.held_by = kind;
            self.write_chains(&*store, snapshots, work);
        }
        let available = self.families.iter().filter(|family| family.missing.is_none());
        let versions = available.map(|family| family.version).collect();
        let mut refill = Refill::new(&mut *self.programs, &*store, versions, order.desired, order.now);
        refill.urgent = if chain_first { Some(&mut *order.urgent) } else { None };
        refill.run(work)?;
        if !chain_first {
            // Filling took its time: the single rules have counted on.
            let (fresh, errors) = self.snapshots();
            work.errors.extend(errors);
            self.held_by = kind;
            self.write_chains(&*store, &fresh, work);
        }
        Ok(())
    }

    fn make_sets(
        &mut self,
        store: &dyn SetStore,
        was_in_use: bool,
        room: usize,
        work: &mut Work,
    ) -> Result<()> {
        let counts = store.counts(&mut *self.programs)?;
        for family in self.families.iter().filter(|family| family.missing.is_none()) {
            let version = family.version;
            let there = counts[version as usize].is_some();
            if was_in_use && !there {
                work.found.push(format!(
                    "{}: the set of banned clients was gone, or nothing dropped by it",
                    version.name()
                ));
            }
            store.ensure(&mut *self.programs, version, room)?;
            if !there || !was_in_use {
                store.exempt(&mut *self.programs, version, family.exempt())?;
            }
        }
        Ok(())
    }

    /// Makes the chains drop by the sets, and by no single rules.
    fn write_chains(&mut self, store: &dyn SetStore, snapshots: &[Option<Snapshot>; 2], work: &mut Work) {
        for (family, snapshot) in self.families.iter_mut().zip(snapshots) {
            let Some(snapshot) = snapshot else { continue };
            let held = family.rules.len();
            family.set_set_rule(store.rule(family.version));
            family.take_rules();
            let (_, surplus) = family.rule_faults(snapshot);
            // Single rules that were ours until now are no find.
            work.removed += surplus.saturating_sub(held);
            if surplus > 0 || !family.matches(snapshot) {
                work.try_to(family.rewrite(&mut *self.programs, snapshot));
            }
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
        if let Err(error) = result {
            self.fail(format!("{error:#}"));
        }
    }

    pub(super) fn failed(&mut self, failures: Vec<Failure>) {
        for failure in failures {
            self.fail(format!("{}: {:#}", failure.client, failure.error));
        }
    }

    /// Keeps the first few errors; a full set makes a million of them.
    fn fail(&mut self, error: String) {
        if self.errors.len() < MAX_ERRORS {
            self.errors.push(error);
        } else {
            self.more_errors += 1;
        }
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
        let mut text = self.errors.join("; ");
        if self.more_errors > 0 {
            text.push_str(&format!("; and {} more", self.more_errors));
        }
        if !self.found.is_empty() {
            text.push_str(&format!(" (found: {})", self.found.join("; ")));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::enforce::iptables::Settings;
    use crate::enforce::simulator::SimulatedHost;
    use crate::enforce::{Ban, Enforcer as _};
    use shield_engine::allowlist::Allowlist;
    use shield_engine::time::Ends;

    const NOW: Now = Now { wall_ms: 1_800_000_000_000, boot_ms: 5_000 };

    fn banned(clients: &[&str]) -> (Vec<Ban>, Desired) {
        let client = |text: &&str| Allowlist::default().admit(text.parse().unwrap(), 64).unwrap();
        let bans: Vec<Ban> =
            clients.iter().map(|text| Ban { client: client(text), ends: Ends::Never }).collect();
        let mut desired = Desired::default();
        bans.iter().zip(1..).for_each(|(ban, serial)| desired.insert(*ban, serial));
        (bans, desired)
    }

    /// How many programs one reconcile runs.
    fn runs(host: &SimulatedHost, enforcer: &mut IptablesEnforcer, desired: &Desired) -> usize {
        let before = host.runs();
        let _ = enforcer.reconcile(desired, &[], NOW).unwrap();
        host.runs() - before
    }

    #[test]
    fn a_full_look_is_spared_only_while_no_rule_changes_and_nothing_else_is_wanted() {
        let host = SimulatedHost::with_nftables();
        let mut enforcer = host.enforcer(Settings::default());
        enforcer.start(&[], NOW).unwrap();
        let (bans, desired) = banned(&["192.0.2.1", "2001:db8::/64"]);
        enforcer.ensure_banned(&bans, NOW);
        assert!(runs(&host, &mut enforcer, &desired) > 0);
        for _ in 0..MOST_SPARED {
            assert_eq!(runs(&host, &mut enforcer, &desired), 0);
        }
        assert!(runs(&host, &mut enforcer, &desired) > 0, "now and then it looks all the same");
        assert_eq!(runs(&host, &mut enforcer, &desired), 0);
        let (_, other) = banned(&["192.0.2.1", "2001:db8:1::/64"]);
        assert!(runs(&host, &mut enforcer, &other) > 0, "another one is wanted");
        enforcer.reconcile(&other, &[], NOW).unwrap();
        host.flush_rules();
        assert!(runs(&host, &mut enforcer, &other) > 0);
        assert!(host.send_from("192.0.2.1".parse().unwrap()), "what was flushed is back");
        enforcer.reconcile(&other, &[], NOW).unwrap();
        let exempt = ["192.0.2.0/24".parse().unwrap()];
        let before = host.runs();
        enforcer.reconcile(&other, &exempt, NOW).unwrap();
        assert!(host.runs() > before, "other networks are exempt");
    }

    #[test]
    fn without_a_generation_every_full_look_looks() {
        let host = SimulatedHost::new();
        let mut enforcer = host.enforcer(Settings::default());
        enforcer.start(&[], NOW).unwrap();
        let (_, desired) = banned(&[]);
        assert!((0..3).all(|_| runs(&host, &mut enforcer, &desired) > 0));
    }

    #[test]
    fn counters_are_not_read_where_nothing_is_dropped() {
        let host = SimulatedHost::new();
        let mut enforcer = host.enforcer(Settings::default());
        enforcer.start(&[], NOW).unwrap();
        let before = host.runs();
        enforcer.total_drops().unwrap();
        assert_eq!(host.runs(), before);
        let (bans, _) = banned(&["192.0.2.1"]);
        enforcer.ensure_banned(&bans, NOW);
        host.send_from("192.0.2.1".parse().unwrap());
        assert_eq!(enforcer.total_drops().unwrap().packets, 1);
        enforcer.ensure_lifted(&[bans[0].client.client()]);
        assert_eq!(enforcer.total_drops().unwrap().packets, 1, "what was dropped stays counted");
    }
}
