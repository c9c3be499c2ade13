//! The tries of networks that get through a banned network.

use std::hash::Hash;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

use anyhow::{Context as _, Result};
use aya::Pod;
use aya::maps::lpm_trie::Key;
use hashbrown::HashSet;
use shield_common::MAX_EXEMPT;

use super::kernel::{self, Update};

/// Elements a system call: all of them.
const CHUNK: usize = MAX_EXEMPT as usize;
/// The value means nothing; presence is what counts.
const PRESENT: u32 = 1;

/// One trie.
#[derive(Debug)]
pub(super) struct Exempt<A> {
    map: OwnedFd,
    name: &'static str,
    keys: std::marker::PhantomData<A>,
}

impl<A: Pod + Eq + Hash> Exempt<A> {
    /// Opens the trie `name` pinned in `maps`.
    ///
    /// # Errors
    /// When it is not there.
    pub(super) fn open(maps: &Path, name: &'static str) -> Result<Exempt<A>> {
        let path = maps.join(name);
        let map = kernel::open_pinned(&path).with_context(|| format!("opened the map {}", path.display()))?;
        Ok(Exempt { map, name, keys: std::marker::PhantomData })
    }

    /// The map's name and descriptor, for pinning.
    pub(super) fn pinnable(&self) -> (&'static str, BorrowedFd<'_>) {
        (self.name, self.map.as_fd())
    }

    /// What is in it.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub(super) fn keys(&self) -> Result<Vec<Key<A>>> {
        let mut keys = Vec::new();
        kernel::lookup_all(self.map.as_fd(), CHUNK, |key: Key<A>, _: u32| keys.push(key))
            .with_context(|| format!("listed {}", self.name))?;
        Ok(keys)
    }

    /// Makes it hold exactly `wanted`, additions first.
    ///
    /// # Errors
    /// When there are more than fit, or the kernel refuses.
    pub(super) fn replace(&self, wanted: &[Key<A>]) -> Result<()> {
        for key in wanted {
            kernel::update(self.map.as_fd(), key, &PRESENT, Update::Any)
                .with_context(|| format!("added to {} ({MAX_EXEMPT} networks at most)", self.name))?;
        }
        let keep: HashSet<(u32, A)> = wanted.iter().map(|key| (key.prefix_len(), key.data())).collect();
        for old in self.keys()? {
            if !keep.contains(&(old.prefix_len(), old.data())) {
                kernel::delete(self.map.as_fd(), &old)
                    .with_context(|| format!("removed from {}", self.name))?;
            }
        }
        Ok(())
    }
}
