//! The state of the enforcer in words, for the status page and the logs. Lists nothing.

use super::chains::Chains;
use super::family::Family;
use super::firewall::{Firewall, held_rules};
use super::storage::Storage;
use crate::text::counted;
use shield_engine::event::PartState;

/// Degraded by every IP version of this host's that cannot be filtered and by missing sets; active otherwise, with mode and place.
pub(super) fn state(Firewall { families, storage, lock, .. }: &Firewall) -> PartState {
    let mut reasons: Vec<String> = reasons(families.iter().filter(|family| !family.is_absent())).collect();
    reasons.extend(lock.describe().map(|who| format!("{who}: what is new waits for it")));
    reasons.extend(shortage(storage));
    if reasons.is_empty() {
        PartState::Active { detail: detail(families, storage) }
    } else {
        PartState::Degraded { reason: reasons.join("; ") }
    }
}

/// The IP versions that cannot be filtered, each with its reason.
pub(super) fn unavailable(families: &[Family; 2]) -> Vec<String> {
    reasons(families.iter()).collect()
}

fn reasons<'a>(families: impl Iterator<Item = &'a Family>) -> impl Iterator<Item = String> {
    families.filter_map(|family| Some(format!("no {}: {:#}", family.version().name(), family.error()?)))
}

fn detail(families: &[Family; 2], storage: &Storage) -> String {
    let clients = || counted(storage.in_sets() as u64, "client");
    let held = match storage.sets() {
        None => counted(held_rules(families) as u64, "single rule"),
        Some(kind) => format!("{} in {}", clients(), kind.store().name()),
    };
    let hooks = families.iter().filter_map(Family::chains).next().map_or(&[][..], Chains::hooks);
    let absent = reasons(families.iter().filter(|family| family.is_absent()));
    std::iter::once(format!("{held}, first in {}", hooks.join(" and ")))
        .chain(absent)
        .collect::<Vec<_>>()
        .join("; ")
}

fn shortage(storage: &Storage) -> Option<String> {
    let reason = storage.unavailable()?;
    let max = storage.max_rules();
    let refused = match storage.refused() {
        0 => String::new(),
        n => format!(", {n} refused"),
    };
    let advice = if reason.is_for_want_of_ipset() { " (install ipset)" } else { "" };
    Some(format!("no sets, so at most {max} single rules{refused}{advice}: {reason}"))
}
