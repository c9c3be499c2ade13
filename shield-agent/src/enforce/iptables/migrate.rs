//! Moves bans from single rules into sets, without a moment in which they are in neither.

use anyhow::{Context as _, Result};

use super::family::Family;
use super::firewall::Firewall;
use super::sets::{Element, SetStore, Version};
use super::settings::Backend;
use super::storage::SetKind;
use shield_engine::time::{Ends, Now};

/// The kernel end given to a ban whose own end is not known yet, in milliseconds: the reconcile that follows every start
/// corrects it.
const UNKNOWN_END_MS: u64 = 600_000;

/// Moves to sets when `new` more bans are too many for single rules. Where that fails, the reason is kept and shown, and
/// single rules go on up to their cap.
pub(super) fn make_room(firewall: &mut Firewall, new: usize, now: Now) {
    let storage = &firewall.storage;
    let too_many = storage.sets().is_none() && storage.wants_sets(firewall.held_rules() + new);
    // Sets that are unavailable are probed again by the next reconcile, not for every ban.
    if !too_many || storage.unavailable().is_some() {
        return;
    }
    if let Some(kind) = firewall.storage.find_sets(&mut *firewall.programs)
        && let Err(error) = move_to_sets(firewall, kind, new, now)
    {
        firewall.storage.set_unavailable(error);
    }
}

/// At the start: goes on with the sets of an earlier run, or makes sets where the settings ask for them.
pub(super) fn adopt_sets(firewall: &mut Firewall, now: Now) {
    firewall.storage.reset();
    let earlier = SetKind::all(firewall.storage.settings()).into_iter().find(|kind| was_used(firewall, kind));
    let wanted = match (earlier, firewall.storage.settings().backend) {
        (Some(kind), _) => Some(kind),
        (None, Backend::Ipset) => firewall.storage.find_sets(&mut *firewall.programs),
        (None, Backend::Auto | Backend::Rules) => None,
    };
    if let Some(kind) = wanted
        && let Err(error) = move_to_sets(firewall, kind, 0, now)
    {
        firewall.storage.use_rules();
        firewall.storage.set_unavailable(error);
    }
}

fn was_used(firewall: &mut Firewall, kind: &SetKind) -> bool {
    let store = kind.store();
    let dropping: Vec<Version> = firewall
        .chains()
        .filter(|chains| store.rule(chains.version()).is_none_or(|rule| chains.drops_by(&rule)))
        .map(|chains| chains.version())
        .collect();
    if dropping.is_empty() {
        return false;
    }
    // A store that cannot be listed is not in use: our chains would name its sets, and are taken over all the same.
    let Ok(counts) = store.counts(&mut *firewall.programs) else { return false };
    dropping.into_iter().any(|version| counts[version as usize].is_some())
}

/// Moves single rules into sets: sets are filled first, then each chain changes in one transaction.
fn move_to_sets(firewall: &mut Firewall, kind: SetKind, new: usize, now: Now) -> Result<()> {
    let room = firewall.held_rules() + new;
    let Firewall { programs, families, storage, .. } = firewall;
    let (programs, store) = (&mut **programs, kind.store());
    for chains in families.iter().filter_map(Family::chains) {
        let version = chains.version();
        store.ensure(programs, version, room)?;
        store.exempt(programs, version, chains.exempt())?;
        let elements: Vec<Element> = chains
            .rules()
            .iter()
            .map(|(client, held)| {
                let ends = held.ends.unwrap_or_else(|| Ends::after(now, UNKNOWN_END_MS));
                Element { drops: held.counters, ..Element::new(*client, ends, now) }
            })
            .collect();
        if let Some(failure) = store.add(programs, version, &elements).pop() {
            return Err(failure.error).context("could not move single rules into a set");
        }
    }
    storage.use_sets(kind);
    for chains in families.iter_mut().filter_map(Family::chains_mut) {
        let snapshot = chains.read(programs)?;
        chains.set_set_rule(store.rule(chains.version()));
        chains.set_rules(std::iter::empty());
        chains.rewrite(programs, &snapshot)?;
    }
    Ok(())
}

/// Removes sets that no chain drops by any more.
pub(super) fn destroy_sets(firewall: &mut Firewall, store: &dyn SetStore) -> Vec<anyhow::Error> {
    let destroyed = Version::ALL.map(|version| store.destroy(&mut *firewall.programs, version));
    destroyed.into_iter().filter_map(Result::err).collect()
}
