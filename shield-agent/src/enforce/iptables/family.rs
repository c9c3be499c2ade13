//! One IP version's filter table: our chain, the jumps to it, and the memory of what should be in it.
//!
//! Owns what the chain should look like and how it gets there. Sets, and the choice between rules and sets, are the
//! business of `sets` and of the enforcer in `mod`.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, anyhow};
use hashbrown::HashMap;
use ipnet::IpNet;

use super::chain::{Batch, CHAIN, DOCKER_USER, FORWARD, INPUT, Jump, Rule, Snapshot};
use super::programs::{Programs, act};
use super::sets::Version;
use super::settings::{Containers, Settings};
use crate::enforce::Drops;
use shield_engine::client::Client;
use shield_engine::time::Ends;

/// Seconds to wait for another program that holds iptables' lock.
const WAIT: &str = "--wait=5";
/// More rules than this are not deleted one by one: iptables-nft takes about 0.25 us a rule it walks past, and 20 us a
/// rule it writes, so that 80 deletions cost as much as writing what is left.
const DELETED_ONE_BY_ONE: usize = 64;

/// A client that has a rule of its own.
#[derive(Debug, Clone, Copy)]
pub(super) struct Held {
    /// The ban's end, where it is known: the kernel does not keep it.
    pub(super) ends: Option<Ends>,
    /// The rule's counters when they were last read.
    pub(super) seen: Drops,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Family {
    pub(super) version: Version,
    save: String,
    restore: String,
    containers: Containers,
    /// The chains that should jump to ours.
    pub(super) hooks: Vec<String>,
    exempt: Vec<IpNet>,
    pub(super) rules: HashMap<Client, Held>,
    /// The rule that drops by a set, and its counters when they were last read.
    set_rule: Option<(Rule, Drops)>,
    /// Counters of rules that are gone.
    retired: Drops,
    /// Why this version cannot be filtered here.
    pub(super) missing: Option<String>,
}

impl Family {
    pub(super) fn new(version: Version, settings: &Settings) -> Family {
        let program = settings.program(version);
        Family {
            version,
            save: format!("{program}-save"),
            restore: format!("{program}-restore"),
            containers: settings.containers.clone(),
            hooks: vec![INPUT.to_owned()],
            exempt: Vec::new(),
            rules: HashMap::new(),
            set_rule: None,
            retired: Drops::default(),
            missing: None,
        }
    }

    /// What the filter table says about us.
    pub(super) fn snapshot(&self, programs: &mut dyn Programs) -> Result<Snapshot> {
        let mut snapshot = Snapshot::default();
        let mut incompatible = None;
        programs.run(&[&self.save, "-c", "-t", "filter"], b"", &mut |line| {
            if let Err(said) = snapshot.take(line) {
                incompatible = Some(said);
            }
        })?;
        match incompatible {
            Some(said) => Err(anyhow!("`{} -t filter` cannot list the table: {said}", self.save)),
            None => Ok(snapshot),
        }
    }

    /// Takes over what an earlier run left in our chain.
    pub(super) fn adopt(&mut self, snapshot: &Snapshot) {
        self.rules.clear();
        self.set_rule = None;
        for (rule, drops) in snapshot.chain.iter().flatten() {
            match rule {
                Rule::Drop(client) => {
                    self.rules.insert(*client, Held { ends: None, seen: *drops });
                }
                Rule::DropSet(_) => self.set_rule = Some((rule.clone(), *drops)),
                Rule::Exempt(_) | Rule::Foreign(_) => {}
            }
        }
    }

    /// Lets these networks (those of this version) through from the next rewrite on.
    pub(super) fn set_exempt(&mut self, networks: &[IpNet]) {
        let ours = |net: &&IpNet| Version::of(&Client::of_network(**net)) == self.version;
        self.exempt = networks.iter().filter(ours).map(IpNet::trunc).collect();
        self.exempt.sort_unstable();
        self.exempt.dedup();
    }

    pub(super) fn exempt(&self) -> &[IpNet] {
        &self.exempt
    }

    /// Drops by this set's rule, or by none, from the next rewrite on.
    pub(super) fn set_set_rule(&mut self, rule: Option<Rule>) {
        if self.set_rule.as_ref().map(|(rule, _)| rule) == rule.as_ref() {
            return;
        }
        if let Some((_, seen)) = self.set_rule.take() {
            self.retire(seen);
        }
        self.set_rule = rule.map(|rule| (rule, Drops::default()));
    }

    /// Whether this set's rule is in our chain.
    pub(super) fn drops_by(&self, rule: &Rule) -> bool {
        self.set_rule.as_ref().is_some_and(|(ours, _)| ours == rule)
    }

    /// Forgets the single rules (from the next rewrite on); returns them.
    pub(super) fn take_rules(&mut self) -> HashMap<Client, Held> {
        let rules = std::mem::take(&mut self.rules);
        for held in rules.values() {
            self.retire(held.seen);
        }
        rules
    }

    /// Keeps the counters of those of `before` that have no rule any more.
    pub(super) fn forget_all_but_current(&mut self, before: HashMap<Client, Held>) {
        for (client, held) in before {
            if !self.rules.contains_key(&client) {
                self.retire(held.seen);
            }
        }
    }

    fn retire(&mut self, seen: Drops) {
        self.retired.packets += seen.packets;
        self.retired.bytes += seen.bytes;
    }

    /// Which chains should jump to ours, as this host stands: asks for published ports where that matters.
    pub(super) fn find_hooks(&mut self, programs: &mut dyn Programs, snapshot: &Snapshot) -> Result<()> {
        let mut hooks = vec![INPUT.to_owned()];
        match &self.containers {
            Containers::Never => {}
            Containers::Chains(names) => {
                hooks.extend(names.iter().filter(|name| snapshot.chains.contains(*name)).cloned());
            }
            Containers::Auto if snapshot.chains.contains(DOCKER_USER) => hooks.push(DOCKER_USER.to_owned()),
            Containers::Auto if self.publishes_ports(programs)? => hooks.push(FORWARD.to_owned()),
            Containers::Auto => {}
        }
        hooks.dedup();
        self.hooks = hooks;
        Ok(())
    }

    /// Whether the nat table sends packets for this host to other addresses.
    fn publishes_ports(&self, programs: &mut dyn Programs) -> Result<bool> {
        // Asking legacy iptables for a table that is not loaded would load it, and connection tracking with it.
        let loaded = match self.version {
            Version::V4 => "/proc/thread-self/net/ip_tables_names",
            Version::V6 => "/proc/thread-self/net/ip6_tables_names",
        };
        let is_legacy = self.save.contains("legacy")
            || programs.read_proc(loaded).is_some_and(|names| names.lines().any(|name| name == "filter"));
        if is_legacy && !programs.read_proc(loaded).is_some_and(|names| names.lines().any(|n| n == "nat")) {
            return Ok(false);
        }
        let mut found = false;
        programs.run(&[&self.save, "-t", "nat"], b"", &mut |line| {
            found |= line.starts_with("-A ") && line.contains(" -j DNAT ");
        })?;
        Ok(found)
    }

    /// The rules that our chain should have, in order, with the counters they had.
    fn target(&self) -> impl Iterator<Item = (Rule, Drops)> + '_ {
        let exempt = self.exempt.iter().map(|net| (Rule::Exempt(*net), Drops::default()));
        let drops = self.rules.iter().map(|(client, held)| (Rule::Drop(*client), held.seen));
        exempt.chain(self.set_rule.clone()).chain(drops)
    }

    /// What is not as it should be, in words; nothing when all is right. Differences of single rules are left out:
    /// those are `plan`'s business.
    pub(super) fn faults(&self, snapshot: &Snapshot) -> Vec<String> {
        let mut faults = Vec::new();
        for hook in &self.hooks {
            faults.extend(jump_fault(hook, &snapshot.jump(hook), snapshot));
        }
        for (chain, jumps) in &snapshot.jumps {
            if !self.hooks.contains(chain) && !jumps.rules.is_empty() {
                faults.push(format!("a jump from {chain} that is not wanted"));
            }
        }
        match &snapshot.chain {
            None => faults.push(format!("chain {CHAIN} was gone")),
            Some(rules) if rules.is_empty() && self.target().next().is_some() => {
                faults.push(format!("chain {CHAIN} had been flushed"));
            }
            Some(rules) => faults.extend(self.order_faults(rules.iter().map(|(rule, _)| rule))),
        }
        faults.into_iter().map(|fault| format!("{}: {fault}", self.version.name())).collect()
    }

    /// The head of the chain (exempt networks, then the set) must be exact; foreign rules must not be there.
    fn order_faults<'a>(&self, rules: impl Iterator<Item = &'a Rule>) -> Vec<String> {
        let mut faults = Vec::new();
        let mut heads: Vec<&Rule> = Vec::new();
        let mut singles = false;
        for rule in rules {
            match rule {
                Rule::Foreign(text) => faults.push(format!("a foreign rule in chain {CHAIN}: `{text}`")),
                Rule::Drop(_) => singles = true,
                head if singles => faults.push(format!("rules of chain {CHAIN} out of order: {head:?}")),
                head => heads.push(head),
            }
        }
        let wanted: Vec<Rule> =
            self.target().map(|(rule, _)| rule).take_while(|rule| !matches!(rule, Rule::Drop(_))).collect();
        if faults.is_empty() && !heads.iter().copied().eq(wanted.iter()) {
            faults.push(format!("the head of chain {CHAIN} was not as written"));
        }
        faults
    }

    /// How many single rules are missing, surplus (twice, or not wanted).
    pub(super) fn rule_faults(&self, snapshot: &Snapshot) -> (usize, usize) {
        let mut seen: BTreeMap<Client, usize> = BTreeMap::new();
        for (rule, _) in snapshot.chain.iter().flatten() {
            if let Rule::Drop(client) = rule {
                *seen.entry(*client).or_default() += 1;
            }
        }
        let missing = self.rules.keys().filter(|client| !seen.contains_key(*client)).count();
        let surplus =
            seen.iter().map(|(client, n)| n - usize::from(self.rules.contains_key(client))).sum::<usize>();
        (missing, surplus)
    }

    /// Whether jumps and the head of the chain are as they should be.
    pub(super) fn matches(&self, snapshot: &Snapshot) -> bool {
        self.faults(snapshot).is_empty()
    }

    /// Reads the counters of our rules out of a snapshot.
    pub(super) fn count(&mut self, snapshot: &Snapshot) {
        for (rule, drops) in snapshot.chain.iter().flatten() {
            let seen = match rule {
                Rule::Drop(client) => self.rules.get_mut(client).map(|held| &mut held.seen),
                Rule::DropSet(_) => self.set_rule.as_mut().filter(|(ours, _)| ours == rule).map(|(_, s)| s),
                Rule::Exempt(_) | Rule::Foreign(_) => None,
            };
            let Some(seen) = seen else { continue };
            // Smaller than before: somebody zeroed it, or put the rule back without its counters.
            let before = if drops.packets < seen.packets { *seen } else { Drops::default() };
            *seen = *drops;
            self.retire(before);
        }
    }

    /// Everything dropped by rules of this family, as of the last reading.
    pub(super) fn total(&self) -> Drops {
        let mut total = self.retired;
        let singles = self.rules.values().map(|held| held.seen);
        for drops in singles.chain(self.set_rule.iter().map(|(_, drops)| *drops)) {
            total.packets += drops.packets;
            total.bytes += drops.bytes;
        }
        total
    }

    /// Writes the whole chain and the jumps to it, in one transaction: no packet sees a half-made chain.
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
        for (rule, drops) in self.target() {
            batch.append(&rule, drops);
        }
        self.commit(programs, batch).context(format!("wrote the {} chain {CHAIN}", self.version.name()))
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
            } else if new.insert(client, Held { ends: Some(ends), seen: Drops::default() }).is_none() {
                batch.append(&Rule::Drop(client), Drops::default());
            }
        }
        if new.is_empty() {
            return Ok(());
        }
        let before = self.rules.len();
        self.rules.extend(new.iter().map(|(client, held)| (*client, *held)));
        let done = self.commit(programs, batch).or_else(|_| self.rewrite_afresh(programs));
        if done.is_err() {
            self.rules.retain(|client, _| !new.contains_key(client));
            debug_assert_eq!(self.rules.len(), before);
        }
        done
    }

    /// Removes the rules of these clients; those that have none succeed.
    ///
    /// A few are deleted one by one, for each of which iptables walks the chain. Many are left out of a chain written
    /// anew, which costs the same however many they are.
    pub(super) fn remove_rules(&mut self, programs: &mut dyn Programs, clients: &[Client]) -> Result<()> {
        let held = clients.iter().filter(|client| self.rules.contains_key(*client)).count();
        let before = if held > DELETED_ONE_BY_ONE { Some(self.read(programs)?) } else { None };
        let gone: HashMap<Client, Held> =
            clients.iter().filter_map(|client| Some((*client, self.rules.remove(client)?))).collect();
        if gone.is_empty() {
            return Ok(());
        }
        let done = match before {
            Some(snapshot) => self.rewrite(programs, &snapshot),
            None => self.delete_rules(programs, gone.keys()),
        };
        match done {
            Ok(()) => gone.values().for_each(|held| self.retire(held.seen)),
            Err(_) => self.rules.extend(gone),
        }
        done
    }

    fn delete_rules<'a>(
        &mut self,
        programs: &mut dyn Programs,
        clients: impl Iterator<Item = &'a Client>,
    ) -> Result<()> {
        let mut batch = Batch::default();
        clients.for_each(|client| batch.delete(&Rule::Drop(*client)));
        self.commit(programs, batch).or_else(|_| self.rewrite_afresh(programs))
    }

    /// A small change was refused, so the chain is not what it was: writes all of it.
    pub(super) fn rewrite_afresh(&mut self, programs: &mut dyn Programs) -> Result<()> {
        let snapshot = self.read(programs)?;
        self.rewrite(programs, &snapshot)
    }

    /// A snapshot whose counters are noted: to be taken just before rules are replaced, so that little goes uncounted.
    pub(super) fn read(&mut self, programs: &mut dyn Programs) -> Result<Snapshot> {
        let snapshot = self.snapshot(programs)?;
        self.count(&snapshot);
        Ok(snapshot)
    }

    /// Removes our chain and every jump to it; says what it removed.
    pub(super) fn remove_all(&self, programs: &mut dyn Programs) -> Result<Vec<String>> {
        let snapshot = self.snapshot(programs)?;
        let mut batch = Batch::default();
        let mut removed = Vec::new();
        for (chain, jumps) in snapshot.jumps.iter().filter(|(_, jumps)| !jumps.rules.is_empty()) {
            batch.delete_jumps(chain, Some(jumps));
            removed.push(format!("{}: the jump from {chain} to {CHAIN}", self.version.name()));
        }
        if let Some(rules) = &snapshot.chain {
            batch.delete_chain();
            removed.push(format!("{}: chain {CHAIN} with {} rules", self.version.name(), rules.len()));
        }
        if removed.is_empty() {
            return Ok(removed);
        }
        self.commit(programs, batch).context(format!("removed the {} chain {CHAIN}", self.version.name()))?;
        Ok(removed)
    }

    fn commit(&self, programs: &mut dyn Programs, batch: Batch) -> Result<()> {
        act(programs, &[&self.restore, "--noflush", "--counters", WAIT], &batch.commit())
    }
}

fn jump_fault(hook: &str, jump: &Jump, snapshot: &Snapshot) -> Option<String> {
    match jump {
        Jump::First => None,
        Jump::Missing if snapshot.chain.is_none() => None,
        Jump::Missing => Some(format!("the jump from {hook} was gone")),
        Jump::Behind(other) => Some(format!("another rule stood before ours in {hook}: `{other}`")),
        Jump::Several(times) => Some(format!("the jump from {hook} was there {times} times")),
    }
}
