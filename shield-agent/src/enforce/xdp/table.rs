//! One map of bans, hash or trie: writes ends, reads ends and counters. Knows keys, not clients.

use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

use anyhow::{Context as _, Result, anyhow};
use shield_common::{Ban, KernelTime};

use super::kernel::{self, Update};
use super::keys::BanKey;
use super::occupancy::{Modify, Occupancy, OccupiedMap};

/// Elements in one system call.
const CHUNK: usize = 4096;

/// A map of bans with keys of one kind.
#[derive(Debug)]
pub(super) struct Table<K> {
    map: OccupiedMap,
    name: &'static str,
    capacity: u32,
    keys: PhantomData<K>,
}

/// The result of one call about many bans.
#[derive(Debug, Default)]
pub(super) struct Done {
    /// The number of elements added or removed.
    pub changed: usize,
    /// The failed ones, by their index in the call.
    pub failed: Vec<(usize, anyhow::Error)>,
}

impl<K: BanKey> Table<K> {
    /// Opens the map `name` pinned in `maps`, which was made for `capacity` elements.
    pub(super) fn open(maps: &Path, name: &'static str, capacity: u32) -> Result<Table<K>> {
        let path = maps.join(name);
        let map = kernel::open_pinned(&path)
            .with_context(|| format!("could not open the map {}", path.display()))?;
        Ok(Table { map: OccupiedMap::new(map), name, capacity, keys: PhantomData })
    }

    /// Duplicates the descriptor, for a listing that goes on while the table changes.
    pub(super) fn listing(&self) -> Result<Listing<K>> {
        let map = self.map.fd().try_clone_to_owned();
        let map = map.with_context(|| format!("could not duplicate the descriptor of {}", self.name))?;
        Ok(Listing { map, name: self.name, keys: PhantomData })
    }

    /// The map's name and descriptor, for pinning.
    pub(super) fn pinnable(&self) -> (&'static str, BorrowedFd<'_>) {
        (self.name, self.map.fd())
    }

    /// Reads the map's memory, which [`Table::occupancy`] is compared with.
    pub(super) fn memory(&self) -> Option<u64> {
        self.map.memory()
    }

    pub(super) fn occupancy(&self) -> Occupancy {
        self.map.occupancy()
    }

    /// Takes the map as it is for as we left it: see [`OccupiedMap::accept`].
    pub(super) fn accept(&mut self) {
        self.map.accept();
    }

    /// Adds bans, or moves their ends. Keeps the counters of those that are there already.
    ///
    /// One system call each, about a microsecond: the kernel's batches replace elements with their counters.
    pub(super) fn ensure(&mut self, bans: &[(K, KernelTime)]) -> Done {
        let writer = Writer { name: self.name, capacity: self.capacity };
        let mut change = self.map.modify();
        let mut done = Done::default();
        for (at, ban) in bans.iter().enumerate() {
            match writer.ensure(&change, ban) {
                Ok(was_added) => done.changed += usize::from(was_added),
                Err(error) => done.failed.push((at, error)),
            }
        }
        change.added(done.changed);
        done
    }

    /// Adds bans that are known not to be there, thousands a system call.
    pub(super) fn insert(&mut self, bans: &[(K, KernelTime)]) -> Done {
        let writer = Writer { name: self.name, capacity: self.capacity };
        let mut change = self.map.modify();
        // A batch does not return how many of its elements somebody else had put in since the listing.
        change.forget_count();
        let mut done = Done::default();
        let mut from = 0;
        while from < bans.len() {
            let chunk = &bans[from..bans.len().min(from + CHUNK)];
            let keys: Vec<K> = chunk.iter().map(|(key, _)| *key).collect();
            let values: Vec<Ban> = chunk.iter().map(|(key, ends)| Ban::new(*ends, key.prefix())).collect();
            let inserted = kernel::update_batch(change.fd(), &keys, &values);
            done.changed += inserted;
            from += inserted;
            if inserted < chunk.len() {
                // The element that the kernel refused goes by itself, because a batch does not return its error.
                match writer.ensure(&change, &bans[from]) {
                    Ok(was_added) => done.changed += usize::from(was_added),
                    Err(error) => done.failed.push((from, error)),
                }
                from += 1;
            }
        }
        done
    }

    /// Removes bans; absent ones are no failure.
    pub(super) fn remove(&mut self, keys: &[K]) -> Done {
        let writer = Writer { name: self.name, capacity: self.capacity };
        let mut change = self.map.modify();
        let mut done = Done::default();
        let mut from = 0;
        while from < keys.len() {
            let chunk = &keys[from..keys.len().min(from + CHUNK)];
            let deleted = kernel::delete_batch(change.fd(), chunk);
            done.changed += deleted;
            from += deleted;
            if deleted < chunk.len() {
                match kernel::delete(change.fd(), &keys[from]) {
                    Ok(was_there) => done.changed += usize::from(was_there),
                    Err(error) => done.failed.push((from, writer.explain(error))),
                }
                from += 1;
            }
        }
        change.removed(done.changed);
        done
    }

    /// Looks up the ban of a key; in a trie, that of the longest network around it.
    pub(super) fn get(&self, key: &K) -> Result<Option<Ban>> {
        get(self.map.fd(), self.name, key)
    }

    /// Calls `each` for every element.
    pub(super) fn for_each(&self, each: impl FnMut(K, Ban)) -> Result<()> {
        for_each(self.map.fd(), self.name, each)
    }

    /// Counts the elements of a map whose memory was just read. Lists them unless the number is known.
    pub(super) fn count(&mut self, memory: Option<u64>) -> Result<usize> {
        if let Some(count) = self.occupancy().count_at(memory) {
            return Ok(count);
        }
        let mut count = 0;
        self.for_each(|_, _| count += 1)?;
        self.map.listed(memory, count);
        Ok(count)
    }
}

/// A descriptor of a table, to list it while it changes.
pub(super) struct Listing<K> {
    map: OwnedFd,
    name: &'static str,
    keys: PhantomData<K>,
}

impl<K: BanKey> Listing<K> {
    /// Calls `each` for every element. One that is added meanwhile may be seen or not.
    pub(super) fn for_each(&self, each: impl FnMut(K, Ban)) -> Result<()> {
        for_each(self.map.as_fd(), self.name, each)
    }
}

fn for_each<K: BanKey>(map: BorrowedFd<'_>, name: &str, each: impl FnMut(K, Ban)) -> Result<()> {
    kernel::lookup_all(map, CHUNK, each).with_context(|| format!("could not list {name}"))
}

fn get<K: BanKey>(map: BorrowedFd<'_>, name: &str, key: &K) -> Result<Option<Ban>> {
    kernel::lookup(map, key).with_context(|| format!("could not look up a ban in {name}"))
}

/// Writes one ban, and explains why the kernel refused it.
#[derive(Clone, Copy)]
struct Writer {
    name: &'static str,
    capacity: u32,
}

impl Writer {
    /// Adds a ban or moves its end; returns whether it was added.
    fn ensure<K: BanKey>(self, change: &Modify<'_>, (key, ends): &(K, KernelTime)) -> Result<bool> {
        let new = Ban::new(*ends, key.prefix());
        match kernel::update(change.fd(), key, &new, Update::Insert) {
            Ok(()) => return Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {}
            Err(error) => return Err(self.explain(error)),
        }
        // It is there, so that a trie answers with this key itself, not with a shorter one.
        let old = get(change.fd(), self.name, key)?.unwrap_or(new);
        if old.ends != *ends {
            let moved = Ban { ends: *ends, ..old };
            kernel::update(change.fd(), key, &moved, Update::Any).map_err(|error| self.explain(error))?;
        }
        Ok(false)
    }

    fn explain(self, error: io::Error) -> anyhow::Error {
        // Hash maps answer E2BIG when full, tries ENOSPC.
        let is_full = matches!(error.raw_os_error(), Some(libc::E2BIG | libc::ENOSPC));
        if is_full {
            return Full { map: self.name, capacity: self.capacity }.into();
        }
        anyhow!(error).context(format!("could not change {}", self.name))
    }
}

/// The error of a map without room for another ban.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Full {
    map: &'static str,
    capacity: u32,
}

impl std::fmt::Display for Full {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "the kernel map {} is full ({} entries); raise its limit in the configuration",
            self.map, self.capacity
        )
    }
}

impl std::error::Error for Full {}
