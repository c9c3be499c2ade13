//! All maps together, in terms of clients: which map a client belongs to, and the order of changes.
//!
//! Order: filter bits before a ban, and the ban before the count of its trie in `CONTROL`, without which the program does
//! not query the trie. So a program that runs meanwhile never misses a ban that is reported as in force.

use std::fs;
use std::os::fd::BorrowedFd;
use std::path::Path;

use anyhow::{Context as _, Result};
use aya::maps::lpm_trie::Key;
use hashbrown::{HashMap, HashSet};
use ipnet::IpNet;
use shield_common::{ABI_VERSION, Ban, Control, KernelTime, KeyV4, KeyV6, map_name};

use shield_engine::client::Client;

use super::control::ControlMap;
use super::exempt::Exempt;
use super::filters::{Filters, Origins};
use super::kernel;
use super::keys::{
    BanKey, ByMap, network_key_v4, network_key_v6, network_v4, network_v6, single_v4, single_v6,
};
use super::pin_check::PinCheck;
use super::settings::Settings;
use super::slow::SlowMaps;
use super::table::{self, Table};
use super::totals::TotalsMap;

/// The maps that the programs of all interfaces share.
pub(super) struct BanMaps {
    v4: Table<KeyV4>,
    v6: Table<KeyV6>,
    networks_v4: Table<Key<KeyV4>>,
    networks_v6: Table<Key<KeyV6>>,
    exempt_v4: Exempt<KeyV4>,
    exempt_v6: Exempt<KeyV6>,
    pub slow: SlowMaps,
    pub filters: Filters,
    control: ControlMap,
    pub totals: TotalsMap,
    ipv6_prefix: u8,
    pin_check: PinCheck,
}

/// One reading of the memory of the four maps of bans.
#[derive(Debug, Clone, Copy)]
pub(super) struct Memory([Option<u64>; 4]);

/// Descriptors of the maps of bans, to list them while bans are added.
pub(super) struct Listing {
    v4: table::Listing<KeyV4>,
    v6: table::Listing<KeyV6>,
    networks_v4: table::Listing<Key<KeyV4>>,
    networks_v6: table::Listing<Key<KeyV6>>,
    ipv6_prefix: u8,
}

impl Listing {
    /// Calls `each` for every ban. One that is added meanwhile may be seen or not.
    pub(super) fn for_each(&self, mut each: impl FnMut(Client, Ban)) -> Result<()> {
        let prefix = self.ipv6_prefix;
        self.v4.for_each(|key, ban| each(single_v4(key), ban))?;
        self.v6.for_each(|key, ban| each(single_v6(key, prefix), ban))?;
        self.networks_v4.for_each(|key, ban| each(network_v4(key), ban))?;
        self.networks_v6.for_each(|key, ban| each(network_v6(key), ban))
    }
}

/// What is known about bans that are to be added.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Presence {
    /// They may be there already.
    Unknown,
    /// They are not there: a listing has shown it, and nobody else adds any.
    Absent,
}

impl BanMaps {
    /// Opens the maps pinned in `maps`, with filters of these origins. Fails when one is missing.
    pub(super) fn open(maps: &Path, settings: &Settings, filters: Origins) -> Result<BanMaps> {
        Ok(BanMaps {
            v4: Table::open(maps, map_name::BANS_V4, settings.max_bans_v4)?,
            v6: Table::open(maps, map_name::BANS_V6, settings.max_bans_v6)?,
            networks_v4: Table::open(maps, map_name::NETWORKS_V4, settings.max_networks)?,
            networks_v6: Table::open(maps, map_name::NETWORKS_V6, settings.max_networks)?,
            exempt_v4: Exempt::open(maps, map_name::EXEMPT_V4)?,
            exempt_v6: Exempt::open(maps, map_name::EXEMPT_V6)?,
            slow: SlowMaps::open(maps, settings.ipv6_prefix)?,
            filters: Filters::open(maps, settings.ipv6_prefix, filters)?,
            control: ControlMap::open(maps)?,
            totals: TotalsMap::open(maps)?,
            ipv6_prefix: settings.ipv6_prefix,
            pin_check: PinCheck::default(),
        })
    }

    /// Writes the version, the prefix length and the sizes of the tries into `CONTROL`.
    pub(super) fn write_control(&mut self) -> Result<()> {
        let size = |count: usize| u32::try_from(count).expect("maps have at most 2^32 entries");
        let memory = self.memory();
        self.control.set(Control {
            abi_version: ABI_VERSION,
            ipv6_prefix: u32::from(self.ipv6_prefix),
            networks_v4: size(self.networks_v4.count(memory.0[2])?),
            networks_v6: size(self.networks_v6.count(memory.0[3])?),
            exempt_v4: size(self.exempt_v4.keys()?.len()),
            exempt_v6: size(self.exempt_v6.keys()?.len()),
        })
    }

    /// Returns whether every map is pinned in `maps`.
    pub(super) fn is_pinned(&mut self, maps: &Path) -> bool {
        self.pin_check.is_complete(maps)
    }

    /// Pins what is not pinned in `maps` any more, and returns whether anything was not.
    pub(super) fn repin(&mut self, maps: &Path) -> Result<bool> {
        if self.is_pinned(maps) {
            return Ok(false);
        }
        fs::create_dir_all(maps).with_context(|| format!("could not make {}", maps.display()))?;
        for (name, map) in self.pinnable() {
            match kernel::pin(map, &maps.join(name)) {
                Err(error) if error.raw_os_error() != Some(libc::EEXIST) => {
                    return Err(error).with_context(|| format!("could not pin {name} in {}", maps.display()));
                }
                _ => {}
            }
        }
        Ok(true)
    }

    fn pinnable(&self) -> [(&'static str, BorrowedFd<'_>); map_name::PINNED.len()] {
        let [slow_v4, slow_v6, slow_networks_v6] = self.slow.pinnable();
        [
            self.v4.pinnable(),
            self.v6.pinnable(),
            self.networks_v4.pinnable(),
            self.networks_v6.pinnable(),
            self.exempt_v4.pinnable(),
            self.exempt_v6.pinnable(),
            slow_v4,
            slow_v6,
            slow_networks_v6,
            self.filters.v4.pinnable(),
            self.filters.v6.pinnable(),
            self.control.pinnable(),
            self.totals.pinnable(),
        ]
    }

    /// Adds bans, or moves their ends. Returns the failed ones by their index in `bans`.
    pub(super) fn ensure(
        &mut self,
        bans: &[(Client, KernelTime)],
        presence: Presence,
    ) -> Vec<(usize, anyhow::Error)> {
        let indexed = bans.iter().enumerate().map(|(at, (client, ends))| (*client, (at, *ends)));
        let bans = ByMap::new(indexed, self.ipv6_prefix);
        let mut failed = Vec::new();
        self.ensure_singles(&bans, presence, &mut failed);
        self.ensure_networks(&bans, &mut failed);
        failed
    }

    fn ensure_singles(
        &mut self,
        bans: &ByMap<(usize, KernelTime)>,
        presence: Presence,
        failed: &mut Vec<(usize, anyhow::Error)>,
    ) {
        match self.filters.add_v4(bans.v4.iter().map(|(key, _)| *key)) {
            Ok(()) => {
                ensure(&mut self.v4, &bans.v4, presence, |key| *key, failed);
            }
            Err(error) => fail_all(&bans.v4, &error, failed),
        }
        match self.filters.add_v6(bans.v6.iter().map(|(key, _)| *key)) {
            Ok(()) => {
                ensure(&mut self.v6, &bans.v6, presence, |key| *key, failed);
            }
            Err(error) => fail_all(&bans.v6, &error, failed),
        }
    }

    fn ensure_networks(
        &mut self,
        bans: &ByMap<(usize, KernelTime)>,
        failed: &mut Vec<(usize, anyhow::Error)>,
    ) {
        if let Err(error) = self.filter_networks(bans) {
            fail_all(&bans.networks_v4, &error, failed);
            fail_all(&bans.networks_v6, &error, failed);
            return;
        }
        // A batch would not return how many are new, which `CONTROL` needs.
        let unknown = Presence::Unknown;
        let v4 = ensure(&mut self.networks_v4, &bans.networks_v4, unknown, network_key_v4, failed);
        let v6 = ensure(&mut self.networks_v6, &bans.networks_v6, unknown, network_key_v6, failed);
        let control = self.control.value();
        let control = Control {
            networks_v4: control.networks_v4 + v4 as u32,
            networks_v6: control.networks_v6 + v6 as u32,
            ..control
        };
        if let Err(error) = self.control.set(control) {
            fail_all(&bans.networks_v4, &error, failed);
            fail_all(&bans.networks_v6, &error, failed);
        }
    }

    fn filter_networks<T>(&mut self, bans: &ByMap<T>) -> Result<()> {
        self.filters.add_networks_v4(bans.networks_v4.iter().map(|(net, _)| net))?;
        self.filters
            .add_networks_v6(bans.networks_v6.iter().map(|(net, _)| Client::of_network((*net).into())))
    }

    /// Removes bans; absent ones are no failure. Returns the failed ones by their index in `clients`.
    pub(super) fn remove(&mut self, clients: &[Client]) -> Vec<(usize, anyhow::Error)> {
        let indexed = clients.iter().enumerate().map(|(at, client)| (*client, at));
        let clients = ByMap::new(indexed, self.ipv6_prefix);
        let mut failed = Vec::new();
        remove(&mut self.v4, &clients.v4, |key| *key, &mut failed);
        remove(&mut self.v6, &clients.v6, |key| *key, &mut failed);
        let v4 = remove(&mut self.networks_v4, &clients.networks_v4, network_key_v4, &mut failed);
        let v6 = remove(&mut self.networks_v6, &clients.networks_v6, network_key_v6, &mut failed);
        let control = self.control.value();
        let control = Control {
            networks_v4: control.networks_v4.saturating_sub(v4 as u32),
            networks_v6: control.networks_v6.saturating_sub(v6 as u32),
            ..control
        };
        if let Err(error) = self.control.set(control) {
            failed.extend(clients.networks_v4.iter().map(|(_, at)| (*at, repeat(&error))));
            failed.extend(clients.networks_v6.iter().map(|(_, at)| (*at, repeat(&error))));
        }
        failed
    }

    /// Prepares the filters for these slowed clients.
    pub(super) fn expect_slowed(&mut self, slowed: &[crate::enforce::Slow]) -> Result<()> {
        self.slow.expect(slowed);
        let keys = ByMap::new(self.slow.clients().iter().map(|client| (*client, ())), self.ipv6_prefix);
        self.filters.add_v4(keys.v4.iter().map(|(key, ())| *key))?;
        self.filters.add_v6(keys.v6.iter().map(|(key, ())| *key))?;
        self.filter_networks(&keys)
    }

    pub(super) fn listing(&self) -> Result<Listing> {
        Ok(Listing {
            v4: self.v4.listing()?,
            v6: self.v6.listing()?,
            networks_v4: self.networks_v4.listing()?,
            networks_v6: self.networks_v6.listing()?,
            ipv6_prefix: self.ipv6_prefix,
        })
    }

    pub(super) fn memory(&self) -> Memory {
        Memory([self.v4.memory(), self.v6.memory(), self.networks_v4.memory(), self.networks_v6.memory()])
    }

    /// Returns whether the maps hold as many bans as after our last change; `None` where the kernel does not account for
    /// their memory.
    pub(super) fn is_as_left(&self, Memory([v4, v6, networks_v4, networks_v6]): Memory) -> Option<bool> {
        let all = [
            self.v4.occupancy().is_as_left(v4),
            self.v6.occupancy().is_as_left(v6),
            self.networks_v4.occupancy().is_as_left(networks_v4),
            self.networks_v6.occupancy().is_as_left(networks_v6),
        ];
        if all.contains(&Some(false)) {
            return Some(false);
        }
        all.iter().all(Option::is_some).then_some(true)
    }

    /// Returns the number of bans where it is known without listing them.
    pub(super) fn known_count(&self, Memory([v4, v6, networks_v4, networks_v6]): Memory) -> Option<usize> {
        Some(
            self.v4.occupancy().count_at(v4)?
                + self.v6.occupancy().count_at(v6)?
                + self.networks_v4.occupancy().count_at(networks_v4)?
                + self.networks_v6.occupancy().count_at(networks_v6)?,
        )
    }

    /// Counts the bans; lists only maps whose number of elements is not known.
    pub(super) fn count(&mut self, Memory([v4, v6, networks_v4, networks_v6]): Memory) -> Result<usize> {
        Ok(self.v4.count(v4)?
            + self.v6.count(v6)?
            + self.networks_v4.count(networks_v4)?
            + self.networks_v6.count(networks_v6)?)
    }

    /// Takes the bans as they are for as we left them, after a reconcile has compared them.
    pub(super) fn accept(&mut self) {
        self.v4.accept();
        self.v6.accept();
        self.networks_v4.accept();
        self.networks_v6.accept();
    }

    /// Looks up the bans of these clients.
    pub(super) fn get_all(&self, clients: &[Client]) -> Result<Vec<Option<Ban>>> {
        let networks = self.networks_among(clients)?;
        let get = |client: &Client| match (client.network(), client.is_single(self.ipv6_prefix)) {
            (IpNet::V4(net), true) => self.v4.get(&net.addr().octets()),
            (IpNet::V6(net), true) => self.v6.get(&net.addr().octets()),
            (_, false) => Ok(networks.get(client).copied()),
        };
        clients.iter().map(get).collect()
    }

    /// Finds the bans of the networks among `clients` by listing, because a trie returns only the longest match.
    fn networks_among(&self, clients: &[Client]) -> Result<HashMap<Client, Ban>> {
        let mut found = HashMap::new();
        let wanted: HashSet<Client> =
            clients.iter().filter(|client| !client.is_single(self.ipv6_prefix)).copied().collect();
        if wanted.is_empty() {
            return Ok(found);
        }
        let mut keep = |client: Client, ban: Ban| {
            if wanted.contains(&client) {
                found.insert(client, ban);
            }
        };
        self.networks_v4.for_each(|key, ban| keep(network_v4(key), ban))?;
        self.networks_v6.for_each(|key, ban| keep(network_v6(key), ban))?;
        Ok(found)
    }

    /// Replaces the exempt networks, additions first.
    pub(super) fn ensure_exempt(&mut self, networks: &[IpNet]) -> Result<()> {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for network in networks {
            match Client::of_network(*network).network() {
                IpNet::V4(net) => v4.push(network_key_v4(&net)),
                IpNet::V6(net) => v6.push(network_key_v6(&net)),
            }
        }
        self.exempt_v4.replace(&v4)?;
        self.exempt_v6.replace(&v6)?;
        self.control.set(Control {
            exempt_v4: self.exempt_v4.keys()?.len() as u32,
            exempt_v6: self.exempt_v6.keys()?.len() as u32,
            ..self.control.value()
        })
    }
}

/// Adds entries to a table; returns how many were new.
fn ensure<K: BanKey, N>(
    table: &mut Table<K>,
    entries: &[(N, (usize, KernelTime))],
    presence: Presence,
    key: impl Fn(&N) -> K,
    failed: &mut Vec<(usize, anyhow::Error)>,
) -> usize {
    let bans: Vec<(K, KernelTime)> = entries.iter().map(|(of, (_, ends))| (key(of), *ends)).collect();
    let done = match presence {
        Presence::Absent => table.insert(&bans),
        Presence::Unknown => table.ensure(&bans),
    };
    failed.extend(done.failed.into_iter().map(|(at, error)| (entries[at].1.0, error)));
    done.changed
}

/// Removes entries from a table; returns how many were there.
fn remove<K: BanKey, N>(
    table: &mut Table<K>,
    entries: &[(N, usize)],
    key: impl Fn(&N) -> K,
    failed: &mut Vec<(usize, anyhow::Error)>,
) -> usize {
    let keys: Vec<K> = entries.iter().map(|(of, _)| key(of)).collect();
    let done = table.remove(&keys);
    failed.extend(done.failed.into_iter().map(|(at, error)| (entries[at].1, error)));
    done.changed
}

fn fail_all<N>(
    entries: &[(N, (usize, KernelTime))],
    error: &anyhow::Error,
    failed: &mut Vec<(usize, anyhow::Error)>,
) {
    failed.extend(entries.iter().map(|(_, (at, _))| (*at, repeat(error))));
}

/// Copies an error for another client.
fn repeat(error: &anyhow::Error) -> anyhow::Error {
    anyhow::anyhow!("{error:#}")
}
