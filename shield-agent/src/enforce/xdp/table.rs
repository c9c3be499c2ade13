//! One map of bans, hash or trie alike: ends in, ends and counters out. Knows keys, not clients.

use std::cell::Cell;
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

use anyhow::{Context as _, Result, anyhow};
use aya::Pod;
use aya::maps::lpm_trie::Key;
use shield_common::{Ban, KernelTime, KeyV4, KeyV6};

use super::kernel::{self, Account, Update};

/// Elements a system call.
const CHUNK: usize = 4096;

/// A key of a map of bans.
pub(super) trait BanKey: Pod {
    /// Length of the network's prefix; 0 for a single client.
    fn prefix(&self) -> u32;
}

impl BanKey for KeyV4 {
    fn prefix(&self) -> u32 {
        0
    }
}

impl BanKey for KeyV6 {
    fn prefix(&self) -> u32 {
        0
    }
}

impl<K: Pod> BanKey for Key<K>
where
    Key<K>: Pod,
{
    fn prefix(&self) -> u32 {
        self.prefix_len()
    }
}

/// A map of bans with keys of one kind.
#[derive(Debug)]
pub(super) struct Table<K> {
    map: OwnedFd,
    name: &'static str,
    capacity: u32,
    /// The map's memory after our last change: when it is another one now, somebody else put bans in or took some out.
    left_at: Cell<Option<u64>>,
    /// How many elements there were then, counted once and followed through our changes since.
    left: Cell<Option<usize>>,
    account: Account,
    keys: PhantomData<K>,
}

/// What became of the bans of one call.
#[derive(Debug, Default)]
pub(super) struct Done {
    /// How many were put in that were not in, or taken out that were.
    pub changed: usize,
    /// Those that failed: their place in the call, and why.
    pub failed: Vec<(usize, anyhow::Error)>,
}

impl<K: BanKey> Table<K> {
    /// Opens the map `name` pinned in `maps`, which was made for `capacity` elements.
    ///
    /// # Errors
    /// When it is not pinned there.
    pub(super) fn open(maps: &Path, name: &'static str, capacity: u32) -> Result<Table<K>> {
        let path = maps.join(name);
        let map = kernel::open_pinned(&path).with_context(|| format!("opened the map {}", path.display()))?;
        Ok(Table::of(map, name, capacity))
    }

    fn of(map: OwnedFd, name: &'static str, capacity: u32) -> Table<K> {
        let (left_at, left) = (Cell::new(None), Cell::new(None));
        Table { map, name, capacity, left_at, left, account: Account::default(), keys: PhantomData }
    }

    /// Another descriptor of the same map.
    ///
    /// # Errors
    /// When there are too many descriptors.
    pub(super) fn another(&self) -> Result<Table<K>> {
        let map = self.map.try_clone().with_context(|| format!("duplicated {}", self.name))?;
        Ok(Table::of(map, self.name, self.capacity))
    }

    /// The map's name and descriptor, for pinning.
    pub(super) fn pinnable(&self) -> (&'static str, BorrowedFd<'_>) {
        (self.name, self.map.as_fd())
    }

    /// Puts bans in, or moves their ends. Counters of a ban that is there already are kept.
    ///
    /// One system call each, about a microsecond: the kernel's batches cannot spare what is there already.
    pub(super) fn ensure(&self, bans: &[(K, KernelTime)]) -> Done {
        self.doubt();
        let mut done = Done::default();
        for (at, ban) in bans.iter().enumerate() {
            match self.ensure_one(ban) {
                Ok(inserted) => done.changed += usize::from(inserted),
                Err(error) => done.failed.push((at, error)),
            }
        }
        self.left.set(self.left.get().map(|left| left + done.changed));
        self.remember();
        done
    }

    /// Before a change of ours: when somebody else was there meanwhile, how many there are is not known any more.
    fn doubt(&self) {
        if self.is_as_left() != Some(true) {
            self.left.set(None);
        }
    }

    /// How many elements there are, where that is known without listing them.
    pub(super) fn known_count(&self) -> Option<usize> {
        self.doubt();
        self.left.get()
    }

    /// Takes the map as it is now for as we left it.
    pub(super) fn remember(&self) {
        self.left_at.set(self.memory());
    }

    /// Whether the map holds as many bans as when we left it; `None` where the kernel does not say. Costs microseconds,
    /// however many there are.
    pub(super) fn is_as_left(&self) -> Option<bool> {
        let left_at = self.left_at.get()?;
        Some(self.memory() == Some(left_at))
    }

    /// The same, of a reading of the map's memory.
    pub(super) fn is_left_at(&self, memory: u64) -> Option<bool> {
        Some(memory == self.left_at.get()?)
    }

    /// What the map's elements take, in bytes; `None` where the kernel does not say.
    pub(super) fn memory(&self) -> Option<u64> {
        self.account.memory(self.map.as_fd())
    }

    /// Puts in bans that are known not to be there, thousands a system call.
    pub(super) fn insert(&self, bans: &[(K, KernelTime)]) -> Done {
        self.left.set(None);
        let mut done = Done::default();
        let mut from = 0;
        while from < bans.len() {
            let chunk = &bans[from..bans.len().min(from + CHUNK)];
            let keys: Vec<K> = chunk.iter().map(|(key, _)| *key).collect();
            let values: Vec<Ban> = chunk.iter().map(|(key, ends)| Ban::new(*ends, key.prefix())).collect();
            let inserted = kernel::update_batch(self.map.as_fd(), &keys, &values);
            done.changed += inserted;
            from += inserted;
            if inserted < chunk.len() {
                // What the kernel refused goes by itself, which brings out why.
                let one = self.ensure(&bans[from..=from]);
                done.changed += one.changed;
                done.failed.extend(one.failed.into_iter().map(|(_, error)| (from, error)));
                from += 1;
            }
        }
        self.remember();
        done
    }

    /// Inserts one or moves its end; says whether it was inserted.
    fn ensure_one(&self, (key, ends): &(K, KernelTime)) -> Result<bool> {
        let new = Ban::new(*ends, key.prefix());
        match kernel::update(self.map.as_fd(), key, &new, Update::Insert) {
            Ok(()) => return Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {}
            Err(error) => return Err(self.explain(error)),
        }
        // It is there, so that a trie answers with this key itself, not with a shorter one.
        let old = self.get(key)?.unwrap_or(new);
        if old.ends != *ends {
            let moved = Ban { ends: *ends, ..old };
            kernel::update(self.map.as_fd(), key, &moved, Update::Any)
                .map_err(|error| self.explain(error))?;
        }
        Ok(false)
    }

    /// Takes bans out; those that were not in are no failure. Says how many were in.
    pub(super) fn remove(&self, keys: &[K]) -> Done {
        self.doubt();
        let mut removed = Done::default();
        let mut from = 0;
        while from < keys.len() {
            let chunk = &keys[from..keys.len().min(from + CHUNK)];
            let done = kernel::delete_batch(self.map.as_fd(), chunk);
            removed.changed += done;
            from += done;
            if done < chunk.len() {
                match kernel::delete(self.map.as_fd(), &keys[from]) {
                    Ok(was_in) => removed.changed += usize::from(was_in),
                    Err(error) => removed.failed.push((from, self.explain(error))),
                }
                from += 1;
            }
        }
        self.left.set(self.left.get().and_then(|left| left.checked_sub(removed.changed)));
        self.remember();
        removed
    }

    /// The ban of a key; in a trie, of the longest network that holds it.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub(super) fn get(&self, key: &K) -> Result<Option<Ban>> {
        kernel::lookup(self.map.as_fd(), key).with_context(|| format!("looked up a ban in {}", self.name))
    }

    /// Calls `each` for every element.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub(super) fn for_each(&self, each: impl FnMut(K, Ban)) -> Result<()> {
        kernel::lookup_all(self.map.as_fd(), CHUNK, each).with_context(|| format!("listed {}", self.name))
    }

    /// How many elements there are; lists them unless that is known.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub(super) fn count(&self) -> Result<usize> {
        if let Some(count) = self.known_count() {
            return Ok(count);
        }
        let memory = self.memory();
        let mut count = 0;
        self.for_each(|_, _| count += 1)?;
        // What is put in meanwhile changes the memory, and is doubted the next time.
        self.left_at.set(memory);
        self.left.set(memory.map(|_| count));
        Ok(count)
    }

    fn explain(&self, error: io::Error) -> anyhow::Error {
        // Hash maps answer E2BIG when full, tries ENOSPC.
        let is_full = matches!(error.raw_os_error(), Some(libc::E2BIG | libc::ENOSPC));
        if is_full {
            return anyhow!(Full { map: self.name, capacity: self.capacity });
        }
        anyhow!(error).context(format!("changed {}", self.name))
    }
}

/// A map that has no room left.
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
