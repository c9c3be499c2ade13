//! The maps of slowed clients and networks: short, hence listed and compared as a whole at every change.

use std::hash::Hash;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

use anyhow::{Context as _, Result};
use aya::Pod;
use hashbrown::HashMap;
use shield_common::{
    KernelTime, KeyV4, KeyV6, Limits, MAX_SLOWED, Rate, SLOW_NETWORK_PREFIX, Slow, map_name,
};

use crate::enforce::ban;
use shield_engine::client::Client;
use shield_engine::slowed::{NETWORK_PREFIX, SlowLimits, SlowRate};

use super::kernel::{self, Update};
use super::keys::ByMap;

const _: () =
    assert!(NETWORK_PREFIX == SLOW_NETWORK_PREFIX, "what is slowed has the length of the map's keys");

/// Elements in one system call: all of them.
const CHUNK: usize = MAX_SLOWED as usize;

/// The slowed clients of both families, and the slowed networks.
pub(super) struct SlowMaps {
    v4: SlowMap<KeyV4>,
    v6: SlowMap<KeyV6>,
    networks_v6: SlowMap<KeyV6>,
    ipv6_prefix: u8,
    /// The clients last put in, whose bits the filters need.
    held: Vec<Client>,
}

/// The kernel's clock, as the entries need it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ticks {
    pub per_sec: u32,
    pub now: KernelTime,
}

impl SlowMaps {
    /// Opens the maps pinned in `maps`.
    pub(super) fn open(maps: &Path, ipv6_prefix: u8) -> Result<SlowMaps> {
        let (v4, v6) = (SlowMap::open(maps, map_name::SLOW_V4)?, SlowMap::open(maps, map_name::SLOW_V6)?);
        let networks_v6 = SlowMap::open(maps, map_name::SLOW_NETWORKS_V6)?;
        let mut maps = SlowMaps { v4, v6, networks_v6, ipv6_prefix, held: Vec::new() };
        // Those of an earlier agent are policed until somebody says otherwise.
        maps.held = maps.list()?.into_iter().map(|(client, _)| client).collect();
        Ok(maps)
    }

    pub(super) fn pinnable(&self) -> [(&'static str, BorrowedFd<'_>); 3] {
        [self.v4.pinnable(), self.v6.pinnable(), self.networks_v6.pinnable()]
    }

    /// The clients whose bits the filters need.
    pub(super) fn clients(&self) -> &[Client] {
        &self.held
    }

    /// Takes note of the clients that are about to be put in.
    pub(super) fn expect(&mut self, slowed: &[ban::Slow]) {
        self.held = slowed.iter().map(|slow| slow.client.client()).collect();
    }

    /// Makes the maps hold exactly these clients, additions first. Those that stay keep what is left in their buckets. Returns
    /// how many were changed.
    pub(super) fn replace(
        &self,
        slowed: &[ban::Slow],
        ends: impl Fn(&ban::Slow) -> KernelTime,
        ticks: Ticks,
    ) -> Result<usize> {
        let value = |slow: &ban::Slow| Slow::new(ends(slow), limits(slow.limits), ticks.per_sec, ticks.now);
        let wanted = slowed.iter().map(|slow| (slow.client.client(), value(slow)));
        let wanted = ByMap::new(wanted, self.ipv6_prefix);
        let networks_v6: Vec<(KeyV6, Slow)> =
            wanted.networks_v6.iter().map(|(net, slow)| (net.network().octets(), *slow)).collect();
        Ok(self.v4.replace(&wanted.v4, ticks)?
            + self.v6.replace(&wanted.v6, ticks)?
            + self.networks_v6.replace(&networks_v6, ticks)?)
    }

    /// Lists the entries.
    pub(super) fn list(&self) -> Result<Vec<(Client, Slow)>> {
        let mut all: Vec<(Client, Slow)> = Vec::new();
        all.extend(self.v4.list()?.into_iter().map(|(key, slow)| (super::keys::single_v4(key), slow)));
        let prefix = self.ipv6_prefix;
        all.extend(
            self.v6.list()?.into_iter().map(|(key, slow)| (super::keys::single_v6(key, prefix), slow)),
        );
        let network = |key: KeyV6| super::keys::single_v6(key, SLOW_NETWORK_PREFIX);
        all.extend(self.networks_v6.list()?.into_iter().map(|(key, slow)| (network(key), slow)));
        Ok(all)
    }
}

struct SlowMap<K> {
    map: OwnedFd,
    name: &'static str,
    keys: std::marker::PhantomData<K>,
}

impl<K: Pod + Eq + Hash> SlowMap<K> {
    fn open(maps: &Path, name: &'static str) -> Result<SlowMap<K>> {
        let path = maps.join(name);
        let map = kernel::open_pinned(&path)
            .with_context(|| format!("could not open the map {}", path.display()))?;
        Ok(SlowMap { map, name, keys: std::marker::PhantomData })
    }

    fn pinnable(&self) -> (&'static str, BorrowedFd<'_>) {
        (self.name, self.map.as_fd())
    }

    fn list(&self) -> Result<Vec<(K, Slow)>> {
        let mut all = Vec::new();
        kernel::lookup_all(self.map.as_fd(), CHUNK, |key: K, slow: Slow| all.push((key, slow)))
            .with_context(|| format!("could not list {}", self.name))?;
        Ok(all)
    }

    fn replace(&self, wanted: &[(K, Slow)], ticks: Ticks) -> Result<usize> {
        let mut held: HashMap<K, Slow> = self.list()?.into_iter().collect();
        let mut changed = 0;
        for (key, new) in wanted {
            let value = match held.remove(key) {
                Some(old) if is_as_wanted(&old, new, ticks) => continue,
                Some(old) => Slow { ends: new.ends, limits: new.limits, ..old },
                None => *new,
            };
            kernel::update(self.map.as_fd(), key, &value, Update::Any).with_context(|| {
                format!("could not slow a client in {} (at most {MAX_SLOWED})", self.name)
            })?;
            changed += 1;
        }
        for key in held.keys() {
            kernel::delete(self.map.as_fd(), key)
                .with_context(|| format!("could not remove a client from {}", self.name))?;
            changed += 1;
        }
        Ok(changed)
    }
}

/// An end that differs by a second or less is the same: it was computed from another reading of the clocks.
fn is_as_wanted(held: &Slow, wanted: &Slow, ticks: Ticks) -> bool {
    held.limits == wanted.limits && held.ends.abs_diff(wanted.ends) <= u64::from(ticks.per_sec)
}

fn limits(limits: SlowLimits) -> Limits {
    let rate = |rate: SlowRate| Rate { per_sec: rate.per_sec, burst: rate.burst };
    Limits { connections: rate(limits.connections), packets: rate(limits.packets) }
}
