//! The disk with the agent's state is full.

use std::path::PathBuf;

use anyhow::{Result, ensure};

use crate::environment::Environment;
use crate::guard;

/// More than the disk of any environment holds, and little enough to be written in a moment.
const LARGEST_DISK: u64 = 512 << 20;

/// Writes a file that takes all the room.
pub(super) fn fill(environment: &Environment, server: &str) -> Result<String> {
    let folder = guard::folder(environment)?;
    let mut ballast = folder.create(&ballast(environment, server))?;
    // On the host's own disk it would take everybody's room.
    let is_own = ballast.is_on_own_disk(&folder)?;
    ensure!(is_own, "could not fill the disk of {server}: its state has none of its own");
    ballast.truncate()?;
    let bytes = ballast.fill(LARGEST_DISK)?;
    Ok(format!("the disk of the agent on {server} is full ({} MiB of ballast)", bytes >> 20))
}

/// Removes that file.
pub(super) fn clear(environment: &Environment, server: &str) -> Result<Vec<String>> {
    let removed = guard::folder(environment)?.remove(&ballast(environment, server))?;
    Ok(removed.then(|| format!("the disk of the agent on {server} has room again")).into_iter().collect())
}

fn ballast(environment: &Environment, server: &str) -> PathBuf {
    environment.state(server).join("ballast")
}
