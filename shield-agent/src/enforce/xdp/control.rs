//! The map `CONTROL`: version, prefix length, and how many entries each trie holds.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

use anyhow::{Context as _, Result};
use shield_common::{Control, map_name};

use super::kernel::{self, Update};

/// `CONTROL` has one element.
const KEY: u32 = 0;

pub(super) struct ControlMap {
    map: OwnedFd,
    value: Control,
}

impl ControlMap {
    /// Opens the map pinned in `maps` and reads it.
    pub(super) fn open(maps: &Path) -> Result<ControlMap> {
        let path = maps.join(map_name::CONTROL);
        let map = kernel::open_pinned(&path)
            .with_context(|| format!("could not open the map {}", path.display()))?;
        let value: Option<Control> =
            kernel::lookup(map.as_fd(), &KEY).context("could not read the map CONTROL")?;
        Ok(ControlMap { map, value: value.unwrap_or_default() })
    }

    pub(super) fn value(&self) -> Control {
        self.value
    }

    pub(super) fn set(&mut self, value: Control) -> Result<()> {
        if value != self.value {
            kernel::update(self.map.as_fd(), &KEY, &value, Update::Any)
                .context("could not write the map CONTROL")?;
            self.value = value;
        }
        Ok(())
    }

    /// The map's name and descriptor, for pinning.
    pub(super) fn pinnable(&self) -> (&'static str, BorrowedFd<'_>) {
        (map_name::CONTROL, self.map.as_fd())
    }
}
