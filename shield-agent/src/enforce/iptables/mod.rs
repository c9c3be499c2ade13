//! The netfilter enforcer: an own chain for IPv4 and IPv6, jumped to first thing, with a DROP rule for each client while
//! they are few, and one DROP rule on a set when they are many.
//!
//! Owns the enforcer's verbs and the state that is shown. `backend` chooses between rules and sets, `repair` reconciles,
//! `family` owns one IP version's chain, `sets` with `ipset` and `nft` the sets, `chain` the text, `programs` the
//! processes, `nfnetlink` the bytes of what needs none.

mod backend;
mod chain;
mod family;
mod generation;
mod ipset;
mod nfnetlink;
mod nft;
pub(crate) mod programs;
mod refill;
mod repair;
pub(crate) mod sets;
pub(crate) mod settings;
#[cfg(test)]
mod walk;

use anyhow::{Result, anyhow, bail};
use hashbrown::HashMap;
use ipnet::IpNet;

use self::backend::HeldBy;
use self::chain::{Rule, Snapshot};
use self::family::Family;
use self::programs::{Host, NotInstalled, Programs};
use self::repair::{Settled, WorkOrder};
pub(crate) use self::sets::Version;
use self::sets::{Element, all_failed};
pub(crate) use self::settings::{Backend, Containers, Settings};
use super::{Ban, Desired, Drops, Enforcer, Failure, Lifts, NothingUrgent, Urgent};
use shield_engine::client::Client;
use shield_engine::event::{EnforcerName, PartState, Repair};
use shield_engine::time::{Ends, Now};

/// A set with more clients than this is not listed to answer a question about a few of them.
const MAX_LISTED_FOR_DROPS: usize = 20_000;

/// See the module.
pub struct IptablesEnforcer {
    settings: Settings,
    programs: Box<dyn Programs>,
    families: [Family; 2],
    held_by: HeldBy,
    /// Why there are no sets, once they were wanted.
    no_sets: Option<String>,
    /// Bans that found no room.
    refused: usize,
    /// How many clients the sets held when last asked.
    in_sets: usize,
    /// nftables' generation at which the chains were last found right; it stays so until the number changes.
    right_at: Option<u32>,
    /// The last full look, when it found nothing to repair and nothing was ordered since.
    settled: Option<Settled>,
    /// What rules of the set store itself dropped, as of the last reading.
    own_drops: Drops,
}

impl IptablesEnforcer {
    /// The enforcer over this host's own programs. Touches nothing before `start`.
    pub fn new(settings: Settings) -> IptablesEnforcer {
        IptablesEnforcer::with_programs(settings, Box::new(Host))
    }

    /// The enforcer over other programs: `enforce::simulator` passes its own.
    pub fn with_programs(settings: Settings, programs: Box<dyn Programs>) -> IptablesEnforcer {
        let families = Version::ALL.map(|version| Family::new(version, &settings));
        IptablesEnforcer {
            settings,
            programs,
            families,
            held_by: HeldBy::Rules,
            no_sets: None,
            refused: 0,
            in_sets: 0,
            right_at: None,
            settled: None,
            own_drops: Drops::default(),
        }
    }

    fn held_rules(&self) -> usize {
        self.families.iter().map(|family| family.rules.len()).sum()
    }

    /// A family's start: takes over what is there, and writes only when that is not right, in one transaction.
    fn start_family(&mut self, at: usize, exempt: &[IpNet]) -> Result<()> {
        let family = &mut self.families[at];
        let snapshot = family.snapshot(&mut *self.programs)?;
        family.adopt(&snapshot);
        family.set_exempt(exempt);
        family.find_hooks(&mut *self.programs, &snapshot)?;
        if family.faults(&snapshot).is_empty() && family.rule_faults(&snapshot) == (0, 0) {
            return Ok(());
        }
        family.rewrite(&mut *self.programs, &snapshot)
    }

    /// What each family's table says, and the errors of those that could not be asked.
    fn snapshots(&mut self) -> ([Option<Snapshot>; 2], Vec<String>) {
        let mut errors = Vec::new();
        let mut snapshots = [None, None];
        for family in self.families.iter_mut().filter(|family| family.missing.is_none()) {
            match family.snapshot(&mut *self.programs) {
                Ok(snapshot) => {
                    family.count(&snapshot);
                    snapshots[family.version as usize] = Some(snapshot);
                }
                Err(error) => errors.push(format!("{}: {error:#}", family.version.name())),
            }
        }
        (snapshots, errors)
    }

    /// The snapshots, or the first reason why there are not all of them.
    fn all_snapshots(&mut self) -> Result<[Option<Snapshot>; 2]> {
        let (snapshots, errors) = self.snapshots();
        if errors.is_empty() { Ok(snapshots) } else { bail!("{}", errors.join("; ")) }
    }

    /// How many clients the sets hold; `None` when one of the sets is gone.
    fn count_sets(&mut self) -> Result<Option<usize>> {
        let Some(store) = self.store() else { return Ok(Some(0)) };
        let counts = store.counts(&mut *self.programs)?;
        let available = self.families.iter().filter(|family| family.missing.is_none());
        let total = available.map(|family| counts[family.version as usize]).sum::<Option<usize>>();
        self.in_sets = total.unwrap_or(0);
        Ok(total)
    }

    fn ban_in_family(&mut self, at: usize, bans: &[Ban], now: Now) -> Vec<Failure> {
        if bans.is_empty() {
            return Vec::new();
        }
        let clients = || bans.iter().map(|ban| ban.client.client());
        let store = self.store();
        let family = &mut self.families[at];
        if let Some(reason) = &family.missing {
            let error = anyhow!("{} cannot be filtered here: {reason}", family.version.name());
            return all_failed(clients(), &error);
        }
        if let Some(store) = store {
            let elements: Vec<Element> =
                bans.iter().map(|ban| Element::new(ban.client.client(), ban.ends, now)).collect();
            let failures = store.add(&mut *self.programs, family.version, &elements);
            return match failures.len() {
                all if all == elements.len() => self.add_to_renewed_set(at, &elements, failures),
                _ => failures,
            };
        }
        let pairs = bans.iter().map(|ban| (ban.client.client(), ban.ends));
        match family.add_rules(&mut *self.programs, pairs) {
            Ok(()) => Vec::new(),
            Err(error) => all_failed(clients(), &error),
        }
    }

    /// Nothing could be added, so the set may be gone (a firewall reload): makes it again and tries once more.
    fn add_to_renewed_set(
        &mut self,
        at: usize,
        elements: &[Element],
        failures: Vec<Failure>,
    ) -> Vec<Failure> {
        let Some(store) = self.store() else { return failures };
        let (family, programs) = (&mut self.families[at], &mut *self.programs);
        let renewed = store
            .ensure(programs, family.version, elements.len())
            .and_then(|()| store.exempt(programs, family.version, family.exempt()))
            .and_then(|()| family.rewrite_afresh(programs));
        match renewed {
            Ok(()) => store.add(programs, family.version, elements),
            Err(_) => failures,
        }
    }

    fn lift_in_family(&mut self, at: usize, clients: &[Client]) -> Vec<Failure> {
        let store = self.store();
        let family = &mut self.families[at];
        if clients.is_empty() || family.missing.is_some() {
            // Nothing of a version that cannot be filtered is in the kernel.
            return Vec::new();
        }
        let mut failures = match family.remove_rules(&mut *self.programs, clients) {
            Ok(()) => Vec::new(),
            Err(error) => all_failed(clients.iter().copied(), &error),
        };
        if let Some(store) = store {
            failures.extend(store.remove(&mut *self.programs, family.version, clients));
        }
        failures
    }

    /// Calls `each` with every client in a set.
    fn list_sets(&mut self, each: &mut dyn FnMut(Element)) -> Result<()> {
        let Some(store) = self.store() else { return Ok(()) };
        let counts = store.counts(&mut *self.programs)?;
        for version in Version::ALL {
            if counts[version as usize].is_some() {
                store.list(&mut *self.programs, version, each)?;
            }
        }
        Ok(())
    }

    /// Whether chains and jumps are as they were written. Lists them only when a rule has changed anywhere since they were
    /// found right, or where that cannot be known (iptables-legacy).
    fn chains_are_right(&mut self) -> Result<bool> {
        let generation = self.programs.generation();
        if generation.is_some() && self.right_at == generation {
            return Ok(true);
        }
        let snapshots = self.all_snapshots()?;
        let right = self.families.iter().zip(&snapshots).all(|(family, snapshot)| {
            snapshot.as_ref().is_none_or(|snapshot| {
                family.faults(snapshot).is_empty() && family.rule_faults(snapshot) == (0, 0)
            })
        });
        let counted = snapshots.iter().flatten().all(|snapshot| snapshot.is_nftables);
        // Asked before the listing: a change in between makes the next check list again.
        self.right_at = generation.filter(|_| right && counted);
        Ok(right)
    }

    fn missing_versions(&self) -> Vec<String> {
        self.families
            .iter()
            .filter_map(|family| Some(format!("no {}: {}", family.version.name(), family.missing.as_ref()?)))
            .collect()
    }

    fn detail(&self) -> String {
        let hooks = self.families.iter().find(|f| f.missing.is_none()).map_or(&[][..], |f| &f.hooks[..]);
        let held = match self.held_by {
            HeldBy::Rules => format!("{} single rules", self.held_rules()),
            HeldBy::Ipset => format!("{} clients in ipset", self.in_sets),
            HeldBy::Nft => format!("{} clients in nftables sets", self.in_sets),
        };
        format!("{held}, first in {}", hooks.join(" and "))
    }

    fn shortage(&self) -> Option<String> {
        let reason = self.no_sets.as_ref()?;
        let cap = self.settings.max_rules_without_sets;
        let refused = match self.refused {
            0 => String::new(),
            n => format!(", {n} refused"),
        };
        Some(format!("no sets, so at most {cap} single rules{refused} (install ipset): {reason}"))
    }
}

impl Enforcer for IptablesEnforcer {
    fn name(&self) -> EnforcerName {
        EnforcerName::Iptables
    }

    fn start(&mut self, exempt: &[IpNet], now: Now) -> Result<()> {
        self.right_at = None;
        self.settled = None;
        for at in 0..self.families.len() {
            self.families[at].missing = None;
            if let Err(error) = self.start_family(at, exempt) {
                self.families[at].missing = Some(format!("{error:#}"));
            }
        }
        if self.families.iter().all(|family| family.missing.is_some()) {
            bail!("{}", self.missing_versions().join("; "));
        }
        self.adopt_sets(now);
        Ok(())
    }

    fn state(&self) -> PartState {
        let mut reasons = self.missing_versions();
        reasons.extend(self.shortage());
        if reasons.is_empty() {
            PartState::Active { detail: self.detail() }
        } else {
            PartState::Degraded { reason: reasons.join("; ") }
        }
    }

    fn ensure_banned(&mut self, bans: &[Ban], now: Now) -> Vec<Failure> {
        self.settled = None;
        self.make_room(bans, now);
        let (fitting, over) = self.within_cap(bans);
        let mut failures = self.refuse(&over);
        let (v4, v6): (Vec<Ban>, Vec<Ban>) =
            fitting.into_iter().partition(|ban| Version::of(&ban.client.client()) == Version::V4);
        failures.extend(self.ban_in_family(0, &v4, now));
        failures.extend(self.ban_in_family(1, &v6, now));
        failures
    }

    fn ensure_lifted(&mut self, clients: &[Client]) -> Vec<Failure> {
        self.settled = None;
        let (v4, v6): (Vec<Client>, Vec<Client>) =
            clients.iter().partition(|client| Version::of(client) == Version::V4);
        let mut failures = self.lift_in_family(0, &v4);
        failures.extend(self.lift_in_family(1, &v6));
        failures
    }

    fn lifts(&self) -> Lifts {
        match self.held_by {
            HeldBy::Rules => Lifts::Together,
            HeldBy::Ipset | HeldBy::Nft => Lifts::InPieces,
        }
    }

    fn ensure_exempt(&mut self, networks: &[IpNet]) -> Result<()> {
        self.right_at = None;
        self.settled = None;
        let store = self.store();
        let mut errors = Vec::new();
        for family in self.families.iter_mut().filter(|family| family.missing.is_none()) {
            family.set_exempt(networks);
            let mut done = family.rewrite_afresh(&mut *self.programs);
            if let Some(store) = &store {
                done = done.and(store.exempt(&mut *self.programs, family.version, family.exempt()));
            }
            errors.extend(done.err().map(|error| format!("{error:#}")));
        }
        if errors.is_empty() { Ok(()) } else { bail!("{}", errors.join("; ")) }
    }

    fn observe(&mut self, now: Now) -> Result<Vec<(Client, Option<Ends>)>> {
        let mut held = Vec::new();
        for (rule, _) in self.all_snapshots()?.iter().flatten().flat_map(|s| s.chain.iter().flatten()) {
            if let Rule::Drop(client) = rule {
                held.push((*client, None));
            }
        }
        self.list_sets(&mut |element| held.push((element.client, Some(element.ends(now)))))?;
        Ok(held)
    }

    fn is_intact(&mut self, desired: usize) -> Result<bool> {
        let right = self.chains_are_right()?;
        let in_sets = self.count_sets()?;
        let settled = self.no_sets.is_some() || self.wants_sets(desired) == (self.held_by != HeldBy::Rules);
        Ok(right && settled && in_sets.is_some_and(|in_sets| in_sets + self.held_rules() == desired))
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
        if self.is_settled(desired, exempt) {
            return Ok(None);
        }
        self.right_at = None;
        self.settled = None;
        self.repair(&mut WorkOrder { desired, exempt, now, urgent })
    }

    fn drops(&mut self, clients: &[Client]) -> Result<Vec<Option<Drops>>> {
        self.all_snapshots()?;
        let mut known: HashMap<Client, Option<Drops>> =
            clients.iter().map(|client| (*client, None)).collect();
        for (client, drops) in &mut known {
            let families = self.families.iter();
            *drops = families.filter_map(|family| family.rules.get(client)).map(|held| held.seen).next();
        }
        if self.count_sets()?.is_some_and(|held| held <= MAX_LISTED_FOR_DROPS) {
            self.list_sets(&mut |element| {
                if let Some(drops) = known.get_mut(&element.client) {
                    *drops = Some(element.drops);
                }
            })?;
        }
        Ok(clients.iter().map(|client| known[client]).collect())
    }

    fn total_drops(&mut self) -> Result<Drops> {
        // Without a rule that drops there is nothing to read.
        if self.held_by != HeldBy::Rules || self.held_rules() > 0 {
            self.all_snapshots()?;
        }
        if let Some(store) = self.store() {
            self.own_drops = store.own_drops(&mut *self.programs)?;
        }
        let mut total = self.own_drops;
        for drops in self.families.iter().map(Family::total) {
            total.packets += drops.packets;
            total.bytes += drops.bytes;
        }
        Ok(total)
    }

    fn cleanup(&mut self) -> Result<Vec<String>> {
        let mut removed = Vec::new();
        let mut errors = Vec::new();
        let mut note = |result: Result<Vec<String>>| match result {
            Ok(done) => removed.extend(done),
            Err(error) if is_absent(&error) => {}
            Err(error) => errors.push(format!("{error:#}")),
        };
        for family in &mut self.families {
            note(family.remove_all(&mut *self.programs));
            *family = Family::new(family.version, &self.settings);
        }
        for kind in HeldBy::SETS {
            for version in Version::ALL {
                let store = backend::store_of(kind, &self.settings).expect("sets have a store");
                let destroyed = store.destroy(&mut *self.programs, version);
                let text = format!("{}: the set of banned clients in {}", version.name(), store.name());
                note(destroyed.map(|was_there| Vec::from_iter(was_there.then_some(text))));
            }
        }
        self.held_by = HeldBy::Rules;
        self.settled = None;
        if errors.is_empty() { Ok(removed) } else { bail!("{}", errors.join("; ")) }
    }
}

/// Whether the error says that the program, or its part of the kernel, is not on this host: nothing of ours can be
/// there.
fn is_absent(error: &anyhow::Error) -> bool {
    let says = [
        "Address family not supported",
        "do you need to insmod",
        "Table does not exist",
        "Protocol not supported",
    ];
    let text = format!("{error:#}");
    error.downcast_ref::<NotInstalled>().is_some() || says.iter().any(|said| text.contains(said))
}
