//! The full reconcile: lists what is in the kernel, brings back what is missing, removes what is not wanted, and reports
//! what was found.

use anyhow::Result;
use ipnet::IpNet;

use super::family::{Family, Snapshots};
use super::findings::Findings;
use super::firewall::Firewall;
use super::migrate::destroy_sets;
use super::refill::Refill;
use super::sets::{SetStore, Version};
use super::storage::SetKind;
use crate::enforce::desired::Desired;
use crate::enforce::enforcer::Urgent;
use crate::enforce::reconcile::{Planner, Wanted as _};
use shield_engine::client::Client;
use shield_engine::event::Repair;
use shield_engine::time::{Ends, Now};

/// The state that a reconcile is to achieve.
pub(super) struct Goal<'a> {
    pub(super) desired: &'a Desired,
    pub(super) exempt: &'a [IpNet],
    pub(super) now: Now,
    pub(super) urgent: &'a mut dyn Urgent,
}

/// The result of a reconcile.
pub(super) struct Outcome {
    /// `None` when all was right.
    pub(super) repair: Option<Repair>,
    /// nftables keeps all that was listed, so that its generation counts every change.
    pub(super) is_nftables: bool,
}

/// Brings the firewall to what `goal` wants.
///
/// # Errors
/// When something could not be listed or put right; everything else was.
pub(super) fn reconcile(firewall: &mut Firewall, goal: &mut Goal<'_>) -> Result<Outcome> {
    let mut findings = Findings::default();
    retry_unavailable(firewall, goal.exempt, &mut findings);
    let (snapshots, errors) = Snapshots::read(&mut firewall.families, &mut *firewall.programs);
    findings.fail_all(errors);
    check_chains(firewall, &snapshots, goal.exempt, &mut findings);
    let before = firewall.storage.sets();
    let sets = match firewall.storage.wants_sets(goal.desired.len()) {
        true => firewall.storage.find_sets(&mut *firewall.programs),
        false => None,
    };
    match sets {
        Some(kind) => {
            let done = keep_in_sets(firewall, kind, &snapshots, goal, &mut findings);
            findings.check(done);
        }
        None => keep_in_rules(firewall, &snapshots, goal.desired, goal.now, &mut findings),
    }
    let after = firewall.storage.sets();
    if let (Some(kind), None) = (before, after) {
        findings.fail_all(destroy_sets(firewall, kind.store()));
    }
    if before != after {
        // Bans that only moved between rules and sets were neither missing nor unwanted.
        (findings.restored, findings.removed) = (0, 0);
    }
    Ok(Outcome { repair: findings.finish()?, is_nftables: snapshots.are_nftables() })
}

/// Starts the IP versions that could not be filtered until now.
fn retry_unavailable(firewall: &mut Firewall, exempt: &[IpNet], findings: &mut Findings) {
    for family in &mut firewall.families {
        let Some(reason) = family.error().map(|error| format!("{error:#}")) else { continue };
        family.start(&mut *firewall.programs, exempt);
        if family.error().is_none() {
            let version = family.version().name();
            findings.note(format!("{version}: can be filtered again (was: {reason})"));
        }
    }
}

/// Notes what is wrong with the chains, then brings hooks and exempt networks up to date. In this order: what has changed
/// since the chains were written is no fault of them.
fn check_chains(firewall: &mut Firewall, snapshots: &Snapshots, exempt: &[IpNet], findings: &mut Findings) {
    for (chains, snapshot) in snapshots.with(&mut firewall.families) {
        findings.note_all(chains.faults(snapshot));
        match chains.update_hooks(&mut *firewall.programs, snapshot) {
            Ok(new) => {
                let version = chains.version().name();
                let noted =
                    new.iter().map(|hook| format!("{version}: traffic to containers now passes {hook}"));
                findings.note_all(noted.collect());
            }
            Err(error) => findings.check(Err(error)),
        }
        chains.set_exempt(exempt);
    }
}

/// Keeps every ban in a rule of its own, as far as there may be rules.
fn keep_in_rules(
    firewall: &mut Firewall,
    snapshots: &Snapshots,
    desired: &Desired,
    now: Now,
    findings: &mut Findings,
) {
    let Firewall { programs, families, storage, .. } = firewall;
    storage.use_rules();
    storage.forget_all_refused();
    let mut room = storage.max_rules();
    let mut planner = Planner::new(desired);
    for client in snapshots.iter().flat_map(|snapshot| snapshot.dropped()) {
        planner.see(client, |_| true);
    }
    for (chains, snapshot) in snapshots.with(families) {
        let version = chains.version();
        let wanted = (0..desired.len()).filter_map(|slot| {
            let (client, ban) = desired.entry(slot);
            // One that has ended stays if it is there, until it is lifted; it does not come back.
            let is_wanted = !ban.ends.is_past(now) || planner.was_seen(slot);
            (Version::of(&client) == version && is_wanted).then_some((client, Some(ban.ends)))
        });
        let wanted: Vec<(Client, Option<Ends>)> = wanted.collect();
        let (fitting, refused) = wanted.split_at(room.min(wanted.len()));
        room -= fitting.len();
        for (client, _) in refused {
            storage.refuse(*client);
            findings.fail(format!("{client}: no room for another single rule"));
        }
        chains.set_rules(fitting.iter().copied());
        chains.set_set_rule(None);
        let difference = chains.rule_difference(snapshot);
        findings.restored += difference.missing;
        findings.removed += difference.surplus;
        if !chains.is_as_written(snapshot) {
            findings.check(chains.rewrite(&mut **programs, snapshot));
        }
    }
}

/// Keeps every ban in the sets of this kind, and none in a rule of its own.
fn keep_in_sets(
    firewall: &mut Firewall,
    kind: SetKind,
    snapshots: &Snapshots,
    goal: &mut Goal<'_>,
    findings: &mut Findings,
) -> Result<()> {
    let store = kind.store();
    let was_in_use = firewall.storage.sets() == Some(kind);
    ensure_sets(firewall, store, was_in_use, goal.desired.len(), findings)?;
    // With no single rules to keep in force meanwhile, the chain drops by the set while that is being filled.
    let chain_first = was_in_use || firewall.held_rules() == 0;
    if chain_first {
        firewall.storage.use_sets(kind);
        drop_by_sets(firewall, store, snapshots, findings);
    }
    let versions = firewall.chains().map(|chains| chains.version()).collect();
    let mut refill = Refill::new(&mut *firewall.programs, store, versions, goal.desired, goal.now);
    refill.urgent = if chain_first { Some(&mut *goal.urgent) } else { None };
    refill.run(findings)?;
    if !chain_first {
        // Filling took its time: the single rules have counted on.
        let (fresh, errors) = Snapshots::read(&mut firewall.families, &mut *firewall.programs);
        findings.fail_all(errors);
        firewall.storage.use_sets(kind);
        drop_by_sets(firewall, store, &fresh, findings);
    }
    Ok(())
}

/// Makes the sets that are missing.
fn ensure_sets(
    firewall: &mut Firewall,
    store: &dyn SetStore,
    was_in_use: bool,
    room: usize,
    findings: &mut Findings,
) -> Result<()> {
    let Firewall { programs, families, .. } = firewall;
    let programs = &mut **programs;
    let counts = store.counts(programs)?;
    for chains in families.iter().filter_map(Family::chains) {
        let version = chains.version();
        let is_there = counts[version as usize].is_some();
        if was_in_use && !is_there {
            let version = version.name();
            findings.note(format!("{version}: the set of banned clients was gone, or nothing dropped by it"));
        }
        store.ensure(programs, version, room)?;
        if !is_there || !was_in_use {
            store.exempt(programs, version, chains.exempt())?;
        }
    }
    Ok(())
}

/// Makes the chains drop by the sets, and by no single rules.
fn drop_by_sets(
    firewall: &mut Firewall,
    store: &dyn SetStore,
    snapshots: &Snapshots,
    findings: &mut Findings,
) {
    let Firewall { programs, families, .. } = firewall;
    for (chains, snapshot) in snapshots.with(families) {
        let held = chains.rules().len();
        chains.set_set_rule(store.rule(chains.version()));
        chains.set_rules(std::iter::empty());
        let surplus = chains.rule_difference(snapshot).surplus;
        // Single rules that were wanted until now are no find.
        findings.removed += surplus.saturating_sub(held);
        if !chains.is_as_written(snapshot) {
            findings.check(chains.rewrite(&mut **programs, snapshot));
        }
    }
}
