//! The tries of the networks that pass even inside a banned network.

use std::hash::Hash;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

use anyhow::{Context as _, Result};
use aya::Pod;
use aya::maps::lpm_trie::Key;
use hashbrown::HashSet;
use shield_common::MAX_EXEMPT;

use super::kernel::{self, Update};

/// Elements in one system call: all of them.
const CHUNK: usize = MAX_EXEMPT as usize;
/// The value is never read, only presence counts.
const PRESENT: u32 = 1;

#[derive(Debug)]
pub(super) struct Exempt<A> {
    map: OwnedFd,
    name: &'static str,
    keys: std::marker::PhantomData<A>,
}

impl<A: Pod + Eq + Hash> Exempt<A> {
    /// Opens the trie `name` pinned in `maps`.
    pub(super) fn open(maps: &Path, name: &'static str) -> Result<Exempt<A>> {
        let path = maps.join(name);
        let map = kernel::open_pinned(&path)
            .with_context(|| format!("could not open the map {}", path.display()))?;
        Ok(Exempt { map, name, keys: std::marker::PhantomData })
    }

    /// The map's name and descriptor, for pinning.
    pub(super) fn pinnable(&self) -> (&'static str, BorrowedFd<'_>) {
        (self.name, self.map.as_fd())
    }

    /// Lists the networks.
    pub(super) fn keys(&self) -> Result<Vec<Key<A>>> {
        let mut keys = Vec::new();
        kernel::lookup_all(self.map.as_fd(), CHUNK, |key: Key<A>, _: u32| keys.push(key))
            .with_context(|| format!("could not list {}", self.name))?;
        Ok(keys)
    }

    /// Replaces the networks, additions first.
    pub(super) fn replace(&self, wanted: &[Key<A>]) -> Result<()> {
        for key in wanted {
            kernel::update(self.map.as_fd(), key, &PRESENT, Update::Any)
                .with_context(|| format!("could not add to {} (at most {MAX_EXEMPT} networks)", self.name))?;
        }
        let keep: HashSet<(u32, A)> = wanted.iter().map(|key| (key.prefix_len(), key.data())).collect();
        for old in self.keys()? {
            if !keep.contains(&(old.prefix_len(), old.data())) {
                kernel::delete(self.map.as_fd(), &old)
                    .with_context(|| format!("could not remove from {}", self.name))?;
            }
        }
        Ok(())
    }
}
