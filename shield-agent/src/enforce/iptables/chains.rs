//! Our chain in one IP version's filter table, and the jumps to it: what should be there, and how it gets there.
//!
//! Owns the memory of the rules and of their counters. Sets, and the choice between rules and sets, are the business of
//! `sets` and `storage`.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use hashbrown::HashMap;
use ipnet::IpNet;

use super::chain::{Batch, CHAIN, Jump, Rule, Snapshot};
use super::lock::Locked;
use super::programs::Programs;
use super::sets::Version;
use super::table::Table;
use crate::enforce::ban::Drops;
use crate::text::counted;
use shield_engine::client::Client;
use shield_engine::time::Ends;

/// More rules than this are not deleted one by one: iptables-nft takes about 0.25 us a rule it walks past, and 20 us a
/// rule it writes, so that 80 deletions cost as much as writing what is left.
const MAX_SINGLE_DELETIONS: usize = 64;

/// The state of a client's own rule.
#[derive(Debug, Clone, Copy)]
pub(super) struct HeldRule {
    /// The ban's end. The kernel does not keep it, so it is unknown for a rule taken over from an earlier run.
    pub(super) ends: Option<Ends>,
    /// The rule's counters as of the last reading.
    pub(super) counters: Drops,
}

/// Single rules that a listing has too few and too many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RuleDifference {
    pub(super) missing: usize,
    /// Not wanted, or there twice.
    pub(super) surplus: usize,
}

impl RuleDifference {
    pub(super) fn is_none(self) -> bool {
        self.missing == 0 && self.surplus == 0
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Chains {
    table: Table,
    /// The chains that should jump to ours.
    hooks: Vec<String>,
    exempt: Vec<IpNet>,
    rules: HashMap<Client, HeldRule>,
    /// The rule that drops by a set, and its counters as of the last reading.
    set_rule: Option<(Rule, Drops)>,
    /// Counters of rules that are gone.
    retired: Drops,
}

impl Chains {
    /// Takes over what an earlier run left in the table. Writes only when that is not right, in one transaction, so that a
    /// restart opens no gap.
    ///
    /// # Errors
    /// When the table cannot be listed or written: then nothing of it has changed.
    pub(super) fn take_over(
        table: Table,
        exempt: &[IpNet],
        retired: Drops,
        programs: &mut dyn Programs,
    ) -> Result<Chains> {
        let snapshot = table.read(programs)?;
        let hooks = table.hooks(programs, &snapshot)?;
        let mut chains =
            Chains { table, hooks, exempt: Vec::new(), rules: HashMap::new(), set_rule: None, retired };
        chains.adopt(&snapshot);
        chains.set_exempt(exempt);
        if !chains.is_as_written(&snapshot) {
            chains.rewrite(programs, &snapshot)?;
        }
        Ok(chains)
    }

    fn adopt(&mut self, snapshot: &Snapshot) {
        for (rule, counters) in snapshot.chain.iter().flatten() {
            match rule {
                Rule::Drop(client) => {
                    self.rules.insert(*client, HeldRule { ends: None, counters: *counters });
                }
                Rule::DropSet(_) => self.set_rule = Some((rule.clone(), *counters)),
                Rule::Exempt(_) | Rule::Foreign(_) => {}
            }
        }
    }

    pub(super) fn table(&self) -> &Table {
        &self.table
    }

    pub(super) fn version(&self) -> Version {
        self.table.version
    }

    pub(super) fn hooks(&self) -> &[String] {
        &self.hooks
    }

    pub(super) fn exempt(&self) -> &[IpNet] {
        &self.exempt
    }

    pub(super) fn rules(&self) -> &HashMap<Client, HeldRule> {
        &self.rules
    }

    pub(super) fn retired(&self) -> Drops {
        self.retired
    }

    /// Lets those of `networks` that are of this IP version through, from the next rewrite on.
    pub(super) fn set_exempt(&mut self, networks: &[IpNet]) {
        let ours = |net: &&IpNet| Version::of(&Client::of_network(**net)) == self.table.version;
        self.exempt = networks.iter().filter(ours).map(IpNet::trunc).collect();
        self.exempt.sort_unstable();
        self.exempt.dedup();
    }

    /// Drops by this set's rule, or by none, from the next rewrite on.
    pub(super) fn set_set_rule(&mut self, rule: Option<Rule>) {
        if self.set_rule.as_ref().map(|(rule, _)| rule) == rule.as_ref() {
            return;
        }
        if let Some((_, counters)) = self.set_rule.take() {
            self.retire(counters);
        }
        self.set_rule = rule.map(|rule| (rule, Drops::default()));
    }

    pub(super) fn drops_by(&self, rule: &Rule) -> bool {
        self.set_rule.as_ref().is_some_and(|(ours, _)| ours == rule)
    }

    /// Wants these single rules and no others, from the next rewrite on. Clients that keep theirs keep their counters.
    pub(super) fn set_rules(&mut self, wanted: impl Iterator<Item = (Client, Option<Ends>)>) {
        let mut before = std::mem::take(&mut self.rules);
        for (client, ends) in wanted {
            let counters = before.remove(&client).map_or(Drops::default(), |held| held.counters);
            self.rules.insert(client, HeldRule { ends, counters });
        }
        before.values().for_each(|held| self.retire(held.counters));
    }

    fn retire(&mut self, counters: Drops) {
        self.retired.packets += counters.packets;
        self.retired.bytes += counters.bytes;
    }

    /// Brings the hooks up to date with the host; returns those that are new.
    ///
    /// # Errors
    /// When the rules that redirect ports cannot be listed: then the hooks stay as they were.
    pub(super) fn update_hooks(
        &mut self,
        programs: &mut dyn Programs,
        snapshot: &Snapshot,
    ) -> Result<Vec<String>> {
        let hooks = self.table.hooks(programs, snapshot)?;
        let before = std::mem::replace(&mut self.hooks, hooks);
        Ok(self.hooks.iter().filter(|hook| !before.contains(hook)).cloned().collect())
    }

    /// The rules that our chain should have, in order, with the counters they had.
    fn target(&self) -> impl Iterator<Item = (Rule, Drops)> + '_ {
        let exempt = self.exempt.iter().map(|net| (Rule::Exempt(*net), Drops::default()));
        let drops = self.rules.iter().map(|(client, held)| (Rule::Drop(*client), held.counters));
        exempt.chain(self.set_rule.clone()).chain(drops)
    }

    /// Returns `true` if the table is exactly as it should be.
    pub(super) fn is_as_written(&self, snapshot: &Snapshot) -> bool {
        self.faults(snapshot).is_empty() && self.rule_difference(snapshot).is_none()
    }

    /// Everything wrong with the jumps and the head of the chain, in words. Single rules are left out: their differences
    /// are counted (`rule_difference`), not listed.
    pub(super) fn faults(&self, snapshot: &Snapshot) -> Vec<String> {
        let mut faults = Vec::new();
        for hook in &self.hooks {
            faults.extend(jump_fault(hook, &snapshot.jump(hook), snapshot));
        }
        for (chain, jumps) in &snapshot.jumps {
            if !self.hooks.contains(chain) && !jumps.rules.is_empty() {
                faults.push(format!("an unwanted jump from {chain}"));
            }
        }
        match &snapshot.chain {
            None => faults.push(format!("chain {CHAIN} was gone")),
            Some(rules) if rules.is_empty() && self.target().next().is_some() => {
                faults.push(format!("chain {CHAIN} had been flushed"));
            }
            Some(rules) => faults.extend(self.order_faults(rules.iter().map(|(rule, _)| rule))),
        }
        let version = self.version().name();
        faults.into_iter().map(|fault| format!("{version}: {fault}")).collect()
    }

    /// The head of the chain (exempt networks, then the set) must be exact: a single rule before it would drop an exempt
    /// network. Foreign rules must not be there.
    fn order_faults<'a>(&self, rules: impl Iterator<Item = &'a Rule>) -> Vec<String> {
        let mut faults = Vec::new();
        let mut heads: Vec<&Rule> = Vec::new();
        let mut singles = false;
        for rule in rules {
            match rule {
                Rule::Foreign(text) => faults.push(format!("a foreign rule in chain {CHAIN}: `{text}`")),
                Rule::Drop(_) => singles = true,
                head if singles => faults.push(format!("rules of chain {CHAIN} out of order: `{head}`")),
                head => heads.push(head),
            }
        }
        let wanted: Vec<Rule> =
            self.target().map(|(rule, _)| rule).take_while(|rule| !matches!(rule, Rule::Drop(_))).collect();
        if faults.is_empty() && !heads.iter().copied().eq(wanted.iter()) {
            faults.push(format!("the head of chain {CHAIN} had been changed"));
        }
        faults
    }

    pub(super) fn rule_difference(&self, snapshot: &Snapshot) -> RuleDifference {
        let mut listed: BTreeMap<Client, usize> = BTreeMap::new();
        for client in snapshot.dropped() {
            *listed.entry(client).or_default() += 1;
        }
        let missing = self.rules.keys().filter(|client| !listed.contains_key(*client)).count();
        let surplus =
            listed.iter().map(|(client, n)| n - usize::from(self.rules.contains_key(client))).sum::<usize>();
        RuleDifference { missing, surplus }
    }

    /// Lists the table and notes the counters of our rules. Done just before rules are replaced, so that little that was
    /// dropped goes uncounted.
    pub(super) fn read(&mut self, programs: &mut dyn Programs) -> Result<Snapshot> {
        let snapshot = self.table.read(programs)?;
        self.note_counters(&snapshot);
        Ok(snapshot)
    }

    fn note_counters(&mut self, snapshot: &Snapshot) {
        for (rule, listed) in snapshot.chain.iter().flatten() {
            let known = match rule {
                Rule::Drop(client) => self.rules.get_mut(client).map(|held| &mut held.counters),
                Rule::DropSet(_) => self.set_rule.as_mut().filter(|(ours, _)| ours == rule).map(|(_, c)| c),
                Rule::Exempt(_) | Rule::Foreign(_) => None,
            };
            let Some(known) = known else { continue };
            // Fewer than before: the counter was zeroed, or the rule was put back without it.
            let lost = if listed.packets < known.packets { *known } else { Drops::default() };
            *known = *listed;
            self.retire(lost);
        }
    }

    /// Everything dropped by rules of this family, as of the last reading.
    pub(super) fn total(&self) -> Drops {
        let mut total = self.retired;
        let singles = self.rules.values().map(|held| held.counters);
        for drops in singles.chain(self.set_rule.iter().map(|(_, drops)| *drops)) {
            total.packets += drops.packets;
            total.bytes += drops.bytes;
        }
        total
    }

    /// Writes the whole chain and the jumps to it, in one transaction.
    pub(super) fn rewrite(&self, programs: &mut dyn Programs, snapshot: &Snapshot) -> Result<()> {
        let mut batch = Batch::default();
        batch.renew_chain();
        for (chain, jumps) in &snapshot.jumps {
            if !self.hooks.contains(chain) {
                batch.delete_jumps(chain, Some(jumps));
            }
        }
        for hook in &self.hooks {
            if snapshot.jump(hook) != Jump::First {
                batch.jump_first(hook, snapshot.jumps.get(hook));
            }
        }
        for (rule, counters) in self.target() {
            batch.append(&rule, counters);
        }
        self.table.commit(programs, batch).with_context(|| self.could_not("write"))
    }

    pub(super) fn read_and_rewrite(&mut self, programs: &mut dyn Programs) -> Result<()> {
        let snapshot = self.read(programs)?;
        self.rewrite(programs, &snapshot)
    }

    fn could_not(&self, verb: &str) -> String {
        format!("could not {verb} the {} chain {CHAIN}", self.version().name())
    }

    /// Adds rules for clients that have none and moves the ends of the others.
    pub(super) fn add_rules(
        &mut self,
        programs: &mut dyn Programs,
        bans: impl Iterator<Item = (Client, Ends)>,
    ) -> Result<()> {
        let mut batch = Batch::default();
        let mut new = HashMap::new();
        for (client, ends) in bans {
            if let Some(held) = self.rules.get_mut(&client) {
                held.ends = Some(ends);
                continue;
            }
            let rule = HeldRule { ends: Some(ends), counters: Drops::default() };
            if new.insert(client, rule).is_none() {
                batch.append(&Rule::Drop(client), Drops::default());
            }
        }
        if new.is_empty() {
            return Ok(());
        }
        self.rules.extend(new.iter().map(|(client, held)| (*client, *held)));
        let done = self.commit_or_rewrite(programs, batch);
        if done.is_err() {
            self.rules.retain(|client, _| !new.contains_key(client));
        }
        done
    }

    /// Removes the rules of these clients; those that have none succeed.
    ///
    /// A few are deleted one by one, for each of which iptables walks the chain. Many are left out when the
    /// whole chain is rewritten, which costs the same for any number of them.
    pub(super) fn remove_rules(&mut self, programs: &mut dyn Programs, clients: &[Client]) -> Result<()> {
        let held = clients.iter().filter(|client| self.rules.contains_key(*client)).count();
        let snapshot = if held > MAX_SINGLE_DELETIONS { Some(self.read(programs)?) } else { None };
        let gone: HashMap<Client, HeldRule> =
            clients.iter().filter_map(|client| Some((*client, self.rules.remove(client)?))).collect();
        if gone.is_empty() {
            return Ok(());
        }
        let done = match snapshot {
            Some(snapshot) => self.rewrite(programs, &snapshot),
            None => {
                let mut batch = Batch::default();
                gone.keys().for_each(|client| batch.delete(&Rule::Drop(*client)));
                self.commit_or_rewrite(programs, batch)
            }
        };
        match done {
            Ok(()) => gone.values().for_each(|held| self.retire(held.counters)),
            Err(_) => self.rules.extend(gone),
        }
        done
    }

    /// Commits a small change. When that is refused, the chain is not what it was (a firewall reload): writes all of it.
    fn commit_or_rewrite(&mut self, programs: &mut dyn Programs, batch: Batch) -> Result<()> {
        match self.table.commit(programs, batch) {
            // The whole chain would wait for the same lock.
            Err(error) if error.downcast_ref::<Locked>().is_some() => Err(error),
            Err(_) => self.read_and_rewrite(programs),
            Ok(()) => Ok(()),
        }
    }
}

/// Removes our chain and every jump to it, those added by hand too; returns a description of each thing removed.
pub(super) fn remove_all(table: &Table, programs: &mut dyn Programs) -> Result<Vec<String>> {
    let version = table.version.name();
    let snapshot = table.read(programs)?;
    let mut batch = Batch::default();
    let mut removed = Vec::new();
    for (chain, jumps) in snapshot.jumps.iter().filter(|(_, jumps)| !jumps.rules.is_empty()) {
        batch.delete_jumps(chain, Some(jumps));
        removed.push(format!("{version}: the jump from {chain} to {CHAIN}"));
    }
    if let Some(rules) = &snapshot.chain {
        batch.delete_chain();
        removed.push(format!("{version}: chain {CHAIN} with {}", counted(rules.len() as u64, "rule")));
    }
    if removed.is_empty() {
        return Ok(removed);
    }
    table.commit(programs, batch).with_context(|| format!("could not remove the {version} chain {CHAIN}"))?;
    Ok(removed)
}

fn jump_fault(hook: &str, jump: &Jump, snapshot: &Snapshot) -> Option<String> {
    match jump {
        Jump::First => None,
        // Reported as the chain's own absence.
        Jump::Missing if snapshot.chain.is_none() => None,
        Jump::Missing => Some(format!("the jump from {hook} was gone")),
        Jump::Behind(other) => Some(format!("another rule stood before ours in {hook}: `{other}`")),
        Jump::Several(times) => Some(format!("the jump from {hook} was there {times} times")),
    }
}
