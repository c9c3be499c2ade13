//! One IP version's filter table, as `iptables-save` and `iptables-restore` list and change it.
//!
//! Owns the command lines. The text of the listings and transactions is `chain`'s; what the table should hold is
//! decided in `chains`.

use std::time::Instant;

use anyhow::{Result, anyhow};

use super::chain::{Batch, DOCKER_USER, FORWARD, INPUT, Snapshot};
use super::lock::Lock;
use super::programs::{Programs, act};
use super::redirects;
use super::sets::Version;
use super::settings::{Containers, Settings};

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct Table {
    pub(super) version: Version,
    save: String,
    restore: String,
    containers: Containers,
    lock: Lock,
}

impl Table {
    pub(super) fn new(version: Version, settings: &Settings, lock: &Lock) -> Table {
        let program = settings.program(version);
        Table {
            version,
            save: format!("{program}-save"),
            restore: format!("{program}-restore"),
            containers: settings.containers.clone(),
            lock: lock.clone(),
        }
    }

    pub(super) fn read(&self, programs: &mut dyn Programs) -> Result<Snapshot> {
        let mut snapshot = Snapshot::default();
        let mut incompatible = None;
        programs.run(&[&self.save, "-c", "-t", "filter"], b"", &mut |line| {
            if let Err(message) = snapshot.take(line) {
                incompatible = Some(message);
            }
        })?;
        match incompatible {
            Some(message) => Err(anyhow!("`{} -t filter` cannot list the table: {message}", self.save)),
            None => Ok(snapshot),
        }
    }

    /// Applies `batch` in one transaction: no packet passes a half-written chain.
    pub(super) fn commit(&self, programs: &mut dyn Programs, batch: Batch) -> Result<()> {
        let (began, wait) = (Instant::now(), self.lock.wait_argument());
        let done = act(programs, &[&self.restore, "--noflush", "--counters", &wait], &batch.commit());
        self.lock.note(began, done, programs)
    }

    /// The chains that should jump to ours, as this host is set up now.
    pub(super) fn hooks(&self, programs: &mut dyn Programs, snapshot: &Snapshot) -> Result<Vec<String>> {
        let mut hooks = vec![INPUT.to_owned()];
        match &self.containers {
            Containers::Never => {}
            Containers::Chains(names) => {
                hooks.extend(names.iter().filter(|name| snapshot.chains.contains(*name)).cloned());
            }
            Containers::Auto if snapshot.chains.contains(DOCKER_USER) => hooks.push(DOCKER_USER.to_owned()),
            Containers::Auto
                if redirects::are_there(programs, self.version, &self.save, snapshot.is_nftables)? =>
            {
                hooks.push(FORWARD.to_owned());
            }
            Containers::Auto => {}
        }
        hooks.dedup();
        Ok(hooks)
    }
}
