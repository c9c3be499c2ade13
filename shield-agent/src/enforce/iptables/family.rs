//! An IP version as this host can filter it: not at all, with the reason, or by chains that are in place.

use anyhow::{Result, anyhow};
use ipnet::IpNet;

use super::chain::Snapshot;
use super::chains::Chains;
use super::lock::Lock;
use super::programs::Programs;
use super::sets::Version;
use super::settings::Settings;
use super::table::Table;
use crate::enforce::ban::Drops;

/// See the module.
#[derive(Debug)]
pub(super) enum Family {
    Unavailable(Unavailable),
    Ready(Chains),
}

/// An IP version that cannot be filtered here, so nothing of ours is in its table.
#[derive(Debug)]
pub(super) struct Unavailable {
    table: Table,
    /// The drops of chains that were in place earlier: the total must not fall when a family is started again.
    retired: Drops,
    error: anyhow::Error,
    /// This host has no such IP version, so that no client of it can come.
    is_absent: bool,
}

impl Unavailable {
    /// Returns the error for a ban of this IP version.
    pub(super) fn refusal(&self) -> anyhow::Error {
        anyhow!("{} cannot be filtered here: {:#}", self.table.version.name(), self.error)
    }
}

impl Family {
    /// The family before its first start.
    pub(super) fn new(version: Version, settings: &Settings, lock: &Lock) -> Family {
        Family::Unavailable(Unavailable {
            table: Table::new(version, settings, lock),
            retired: Drops::default(),
            error: anyhow!("it has not been started"),
            is_absent: false,
        })
    }

    pub(super) fn both(settings: &Settings, lock: &Lock) -> [Family; 2] {
        Version::ALL.map(|version| Family::new(version, settings, lock))
    }

    pub(super) fn table(&self) -> &Table {
        match self {
            Family::Unavailable(family) => &family.table,
            Family::Ready(chains) => chains.table(),
        }
    }

    pub(super) fn version(&self) -> Version {
        self.table().version
    }

    pub(super) fn chains(&self) -> Option<&Chains> {
        match self {
            Family::Unavailable(_) => None,
            Family::Ready(chains) => Some(chains),
        }
    }

    pub(super) fn chains_mut(&mut self) -> Option<&mut Chains> {
        match self {
            Family::Unavailable(_) => None,
            Family::Ready(chains) => Some(chains),
        }
    }

    pub(super) fn error(&self) -> Option<&anyhow::Error> {
        match self {
            Family::Unavailable(family) => Some(&family.error),
            Family::Ready(_) => None,
        }
    }

    /// Returns `true` if there is nothing to filter, because this host does not have the IP version.
    pub(super) fn is_absent(&self) -> bool {
        matches!(self, Family::Unavailable(family) if family.is_absent)
    }

    /// Takes over what is in the table, or writes it.
    pub(super) fn start(&mut self, programs: &mut dyn Programs, exempt: &[IpNet]) {
        let table = self.table().clone();
        let retired = match self {
            Family::Unavailable(family) => family.retired,
            Family::Ready(chains) => chains.retired(),
        };
        *self = match Chains::take_over(table.clone(), exempt, retired, programs) {
            Ok(chains) => Family::Ready(chains),
            Err(error) => {
                let is_absent = table.version == Version::V6 && lacks_ipv6(programs);
                let error = if is_absent { anyhow!("this host has no IPv6") } else { error };
                Family::Unavailable(Unavailable { table, retired, error, is_absent })
            }
        };
    }

    /// Everything dropped by rules of this family, as of the last reading.
    pub(super) fn total(&self) -> Drops {
        match self {
            Family::Unavailable(family) => family.retired,
            Family::Ready(chains) => chains.total(),
        }
    }
}

/// Returns `true` if the kernel runs without IPv6 (`ipv6.disable=1`, or no such module). Where `/proc` is hidden from this
/// process nothing is known, and IPv6 counts as there.
fn lacks_ipv6(programs: &mut dyn Programs) -> bool {
    programs.read_proc("/proc/thread-self/net/dev").is_some()
        && programs.read_proc("/proc/thread-self/net/if_inet6").is_none()
}

/// The filter table of each IP version; `None` where it cannot be filtered or could not be listed.
#[derive(Debug, Default)]
pub(super) struct Snapshots([Option<Snapshot>; 2]);

impl Snapshots {
    /// Lists the tables of all families that can be filtered. Goes on with the second when the first fails, and
    /// returns the errors beside what could be listed.
    pub(super) fn read(
        families: &mut [Family; 2],
        programs: &mut dyn Programs,
    ) -> (Snapshots, Vec<anyhow::Error>) {
        let mut errors = Vec::new();
        let mut snapshots = Snapshots::default();
        for chains in families.iter_mut().filter_map(Family::chains_mut) {
            let version = chains.version();
            match chains.read(programs) {
                Ok(snapshot) => snapshots.0[version as usize] = Some(snapshot),
                Err(error) => {
                    errors.push(error.context(format!("could not list the {} filter table", version.name())));
                }
            }
        }
        (snapshots, errors)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Snapshot> {
        self.0.iter().flatten()
    }

    /// Each family's chains with the listing of its table, where there are both.
    pub(super) fn with<'a>(
        &'a self,
        families: &'a mut [Family; 2],
    ) -> impl Iterator<Item = (&'a mut Chains, &'a Snapshot)> {
        families
            .iter_mut()
            .zip(&self.0)
            .filter_map(|(family, snapshot)| Some((family.chains_mut()?, snapshot.as_ref()?)))
    }

    /// Returns `true` if nftables keeps every listed table, so that its generation counts every change.
    pub(super) fn are_nftables(&self) -> bool {
        self.iter().all(|snapshot| snapshot.is_nftables)
    }
}

/// The listings, or the errors of those tables that could not be listed.
pub(super) fn all_snapshots(families: &mut [Family; 2], programs: &mut dyn Programs) -> Result<Snapshots> {
    let (snapshots, errors) = Snapshots::read(families, programs);
    if errors.is_empty() {
        return Ok(snapshots);
    }
    let errors: Vec<String> = errors.iter().map(|error| format!("{error:#}")).collect();
    Err(anyhow!("{}", errors.join("; ")))
}
