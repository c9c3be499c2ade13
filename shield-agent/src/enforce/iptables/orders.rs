//! Bans, lifts and exempt networks as they are ordered, carried out in both IP versions.

use std::collections::BTreeSet;

use anyhow::{Result, anyhow, bail};
use ipnet::IpNet;

use super::family::Family;
use super::firewall::Firewall;
use super::migrate::make_room;
use super::sets::{Element, Version, all_failed};
use crate::enforce::ban::{Ban, Failure};
use shield_engine::client::Client;
use shield_engine::time::Now;

pub(super) fn ban(firewall: &mut Firewall, bans: &[Ban], now: Now) -> Vec<Failure> {
    make_room(firewall, bans.len(), now);
    let (fitting, refused) = split_by_room(firewall, bans);
    let mut failures = refuse(firewall, &refused);
    for version in Version::ALL {
        let bans: Vec<Ban> = fitting.iter().copied().filter(|ban| version_of(ban) == version).collect();
        if !bans.is_empty() {
            failures.extend(ban_in_family(firewall, version, &bans, now));
        }
    }
    failures
}

fn version_of(ban: &Ban) -> Version {
    Version::of(&ban.client.client())
}

/// Splits off the bans that have no room as single rules where there are no sets. A client that has a rule needs none, and
/// one that comes twice needs one.
fn split_by_room(firewall: &Firewall, bans: &[Ban]) -> (Vec<Ban>, Vec<Ban>) {
    let mut room = firewall.storage.max_rules().saturating_sub(firewall.held_rules());
    let mut given = BTreeSet::new();
    bans.iter().partition(|ban| {
        let client = ban.client.client();
        let has_rule = firewall.has_rule(&client) || given.contains(&client);
        let fits = has_rule || room > 0;
        if fits && !has_rule {
            room -= 1;
            given.insert(client);
        }
        fits
    })
}

fn refuse(firewall: &mut Firewall, bans: &[Ban]) -> Vec<Failure> {
    let storage = &mut firewall.storage;
    bans.iter().for_each(|ban| storage.refuse(ban.client.client()));
    let Some(reason) = storage.unavailable().filter(|_| !bans.is_empty()) else { return Vec::new() };
    let max = storage.max_rules();
    let error = anyhow!("{max} single rules are the most allowed where there are no sets: {reason}");
    all_failed(bans.iter().map(|ban| ban.client.client()), &error)
}

fn ban_in_family(firewall: &mut Firewall, version: Version, bans: &[Ban], now: Now) -> Vec<Failure> {
    let Firewall { programs, families, storage, .. } = firewall;
    let clients = || bans.iter().map(|ban| ban.client.client());
    let chains = match &mut families[version as usize] {
        Family::Ready(chains) => chains,
        Family::Unavailable(family) => return all_failed(clients(), &family.refusal()),
    };
    if let Some(kind) = storage.sets() {
        let elements: Vec<Element> =
            bans.iter().map(|ban| Element::new(ban.client.client(), ban.ends, now)).collect();
        let failures = kind.store().add(&mut **programs, version, &elements);
        // When nothing could be added, the set may be gone (a firewall reload).
        if failures.len() == elements.len() && renew_set(firewall, version, elements.len()).is_ok() {
            return kind.store().add(&mut *firewall.programs, version, &elements);
        }
        return failures;
    }
    let pairs = bans.iter().map(|ban| (ban.client.client(), ban.ends));
    match chains.add_rules(&mut **programs, pairs) {
        Ok(()) => {
            clients().for_each(|client| storage.forget_refused(&client));
            Vec::new()
        }
        Err(error) => all_failed(clients(), &error),
    }
}

/// Makes a set again, and the chain that drops by it.
fn renew_set(firewall: &mut Firewall, version: Version, room: usize) -> Result<()> {
    let Firewall { programs, families, storage, .. } = firewall;
    let (Some(kind), Some(chains)) = (storage.sets(), families[version as usize].chains_mut()) else {
        return Ok(());
    };
    kind.store().ensure(&mut **programs, version, room)?;
    kind.store().exempt(&mut **programs, version, chains.exempt())?;
    chains.read_and_rewrite(&mut **programs)
}

pub(super) fn lift(firewall: &mut Firewall, clients: &[Client]) -> Vec<Failure> {
    let Firewall { programs, families, storage, .. } = firewall;
    let programs = &mut **programs;
    clients.iter().for_each(|client| storage.forget_refused(client));
    let mut failures = Vec::new();
    // Nothing of a version that cannot be filtered is in the kernel.
    for chains in families.iter_mut().filter_map(Family::chains_mut) {
        let version = chains.version();
        let clients: Vec<Client> =
            clients.iter().copied().filter(|client| Version::of(client) == version).collect();
        if clients.is_empty() {
            continue;
        }
        if let Err(error) = chains.remove_rules(programs, &clients) {
            failures.extend(all_failed(clients.iter().copied(), &error));
        }
        if let Some(kind) = storage.sets() {
            failures.extend(kind.store().remove(programs, version, &clients));
        }
    }
    failures
}

/// Lets `networks` through, in place of those before. Goes on with the other IP version when one fails.
pub(super) fn exempt(firewall: &mut Firewall, networks: &[IpNet]) -> Result<()> {
    let Firewall { programs, families, storage, .. } = firewall;
    let programs = &mut **programs;
    let mut errors = Vec::new();
    for chains in families.iter_mut().filter_map(Family::chains_mut) {
        chains.set_exempt(networks);
        let mut done = chains.read_and_rewrite(programs);
        if let Some(kind) = storage.sets() {
            done = done.and(kind.store().exempt(programs, chains.version(), chains.exempt()));
        }
        errors.extend(done.err().map(|error| format!("{error:#}")));
    }
    if errors.is_empty() { Ok(()) } else { bail!("{}", errors.join("; ")) }
}
