//! All maps together, in the ledger's words: which map a client belongs to, what order changes are made in.
//!
//! Order: filter bits before a ban, the ban before the count that lets it be asked. A reader in the kernel so never
//! misses a ban that is in force.

use std::cell::Cell;
use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result};
use aya::maps::lpm_trie::Key;
use aya::maps::{Map, MapData, PerCpuArray};
use hashbrown::{HashMap, HashSet};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use shield_common::{
    ABI_VERSION, Ban, Control, FILTER_V4_WORDS, FILTER_V6_WORDS, KernelTime, KeyV4, KeyV6, Totals, filter_v4,
    filter_v6, map_name,
};

use shield_engine::client::Client;

use super::Settings;
use super::exempt::Exempt;
use super::filter::{Bitmap, Filter};
use super::kernel::{self, Update};
use super::table::{BanKey, Table};

/// CONTROL has one element.
const CONTROL_KEY: u32 = 0;

/// The maps that all interfaces' programs share.
pub(super) struct Bans {
    v4: Table<KeyV4>,
    v6: Table<KeyV6>,
    networks_v4: Table<Key<KeyV4>>,
    networks_v6: Table<Key<KeyV6>>,
    exempt_v4: Exempt<KeyV4>,
    exempt_v6: Exempt<KeyV6>,
    filter_v4: Filter,
    filter_v6: Filter,
    control: OwnedFd,
    totals: OwnedFd,
    totals_reader: PerCpuArray<MapData, Totals>,
    now: Control,
    ipv6_prefix: u8,
    /// The folder of pins as it was when all were there.
    all_pinned_at: Cell<Option<FolderState>>,
}

/// Descriptors of the maps of bans, for listing them.
pub(super) struct Listing {
    v4: Table<KeyV4>,
    v6: Table<KeyV6>,
    networks_v4: Table<Key<KeyV4>>,
    networks_v6: Table<Key<KeyV6>>,
    ipv6_prefix: u8,
}

impl Listing {
    /// Calls `each` for every ban held. One that is put in meanwhile may be seen or not.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub(super) fn for_each(&self, mut each: impl FnMut(Client, Ban)) -> Result<()> {
        let prefix = self.ipv6_prefix;
        self.v4.for_each(|key, ban| each(Client::from(Ipv4Addr::from(key)), ban))?;
        self.v6.for_each(|key, ban| each(Client::of_addr(Ipv6Addr::from(key).into(), prefix), ban))?;
        self.networks_v4.for_each(|key, ban| each(client_v4(key), ban))?;
        self.networks_v6.for_each(|key, ban| each(client_v6(key), ban))
    }
}

/// What is known about bans that are to be put in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Known {
    /// They may be there already.
    Nothing,
    /// They are not there: found by listing, and nobody else puts any in.
    Absent,
}

/// Clients sorted by the map they belong to, with their place in the caller's list.
struct Sorted<T> {
    v4: Vec<(KeyV4, T)>,
    v6: Vec<(KeyV6, T)>,
    networks_v4: Vec<(Ipv4Net, T)>,
    networks_v6: Vec<(Ipv6Net, T)>,
}

impl<T> Sorted<T> {
    fn new(clients: impl IntoIterator<Item = (Client, T)>, ipv6_prefix: u8) -> Sorted<T> {
        let mut sorted =
            Sorted { v4: Vec::new(), v6: Vec::new(), networks_v4: Vec::new(), networks_v6: Vec::new() };
        for (client, with) in clients {
            match (client.network(), client.is_single(ipv6_prefix)) {
                (IpNet::V4(net), true) => sorted.v4.push((net.addr().octets(), with)),
                (IpNet::V6(net), true) => sorted.v6.push((net.addr().octets(), with)),
                (IpNet::V4(net), false) => sorted.networks_v4.push((net, with)),
                (IpNet::V6(net), false) => sorted.networks_v6.push((net, with)),
            }
        }
        sorted
    }
}

/// Which folder it is, and when a name in it was last made or taken away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct FolderState {
    inode: u64,
    changed: SystemTime,
}

impl FolderState {
    fn of(folder: &Path) -> Option<FolderState> {
        let meta = folder.metadata().ok()?;
        Some(FolderState { inode: meta.ino(), changed: meta.modified().ok()? })
    }

    /// Whether another change would show: the kernel's clock for files stands still for some milliseconds.
    fn is_settled(self) -> bool {
        const TICK: Duration = Duration::from_millis(100);
        self.changed.elapsed().is_ok_and(|age| age >= TICK)
    }
}

impl Bans {
    /// Opens the maps pinned in `maps`.
    ///
    /// # Errors
    /// When one is missing.
    pub(super) fn open(maps: &Path, settings: &Settings) -> Result<Bans> {
        let pinned = |name: &str| {
            kernel::open_pinned(&maps.join(name)).with_context(|| format!("opened the map {name}"))
        };
        let control = pinned(map_name::CONTROL)?;
        let now = kernel::lookup(control.as_fd(), &CONTROL_KEY).context("read CONTROL")?;
        let totals = pinned(map_name::TOTALS)?;
        let reader = MapData::from_fd(totals.try_clone()?).context("opened TOTALS")?;
        Ok(Bans {
            v4: Table::open(maps, map_name::BANS_V4, settings.max_bans_v4)?,
            v6: Table::open(maps, map_name::BANS_V6, settings.max_bans_v6)?,
            networks_v4: Table::open(maps, map_name::NETWORKS_V4, settings.max_networks)?,
            networks_v6: Table::open(maps, map_name::NETWORKS_V6, settings.max_networks)?,
            exempt_v4: Exempt::open(maps, map_name::EXEMPT_V4)?,
            exempt_v6: Exempt::open(maps, map_name::EXEMPT_V6)?,
            filter_v4: Filter::open(maps, map_name::FILTER_V4, FILTER_V4_WORDS)?,
            filter_v6: Filter::open(maps, map_name::FILTER_V6, FILTER_V6_WORDS)?,
            control,
            totals,
            totals_reader: Map::PerCpuArray(reader).try_into()?,
            now: now.unwrap_or_default(),
            ipv6_prefix: settings.ipv6_prefix,
            all_pinned_at: Cell::new(None),
        })
    }

    /// Marks the maps as being of this version and prefix length, and counts what they hold.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(super) fn mark(&mut self) -> Result<()> {
        let count = |count: usize| u32::try_from(count).expect("maps have at most 2^32 entries");
        let control = Control {
            abi_version: ABI_VERSION,
            ipv6_prefix: u32::from(self.ipv6_prefix),
            networks_v4: count(self.networks_v4.count()?),
            networks_v6: count(self.networks_v6.count()?),
            exempt_v4: count(self.exempt_v4.keys()?.len()),
            exempt_v6: count(self.exempt_v6.keys()?.len()),
        };
        self.set_control(control)
    }

    fn set_control(&mut self, control: Control) -> Result<()> {
        if control != self.now {
            kernel::update(self.control.as_fd(), &CONTROL_KEY, &control, Update::Any)
                .context("wrote CONTROL")?;
            self.now = control;
        }
        Ok(())
    }

    /// Whether every map is pinned in `maps`. Looks at each only when the folder has changed since all of them were.
    pub(super) fn is_pinned(&self, maps: &Path) -> bool {
        let Some(now) = FolderState::of(maps) else { return false };
        if self.all_pinned_at.get() == Some(now) {
            return true;
        }
        let all = map_name::PINNED.iter().all(|name| maps.join(name).exists());
        self.all_pinned_at.set(Some(now).filter(|now| all && now.is_settled()));
        all
    }

    /// Pins again what is not pinned in `maps` any more; says whether there was such.
    ///
    /// # Errors
    /// When the folder cannot be made or a map not pinned.
    pub(super) fn repin(&self, maps: &Path) -> Result<bool> {
        if self.is_pinned(maps) {
            return Ok(false);
        }
        fs::create_dir_all(maps).with_context(|| format!("made {}", maps.display()))?;
        for (name, map) in self.pinnable() {
            match kernel::pin(map, &maps.join(name)) {
                Err(error) if error.raw_os_error() != Some(libc::EEXIST) => {
                    return Err(error).with_context(|| format!("pinned {name} in {}", maps.display()));
                }
                _ => {}
            }
        }
        Ok(true)
    }

    fn pinnable(&self) -> [(&'static str, BorrowedFd<'_>); map_name::PINNED.len()] {
        [
            self.v4.pinnable(),
            self.v6.pinnable(),
            self.networks_v4.pinnable(),
            self.networks_v6.pinnable(),
            self.exempt_v4.pinnable(),
            self.exempt_v6.pinnable(),
            self.filter_v4.pinnable(),
            self.filter_v6.pinnable(),
            (map_name::CONTROL, self.control.as_fd()),
            (map_name::TOTALS, self.totals.as_fd()),
        ]
    }

    /// Puts bans in, or moves their ends. Returns those that failed by their place in `bans`.
    pub(super) fn ensure(
        &mut self,
        bans: &[(Client, KernelTime)],
        known: Known,
    ) -> Vec<(usize, anyhow::Error)> {
        let placed = bans.iter().enumerate().map(|(at, (client, ends))| (*client, (at, *ends)));
        let sorted = Sorted::new(placed, self.ipv6_prefix);
        let mut failed = Vec::new();
        self.ensure_singles(&sorted, known, &mut failed);
        self.ensure_networks(&sorted, &mut failed);
        failed
    }

    fn ensure_singles(
        &mut self,
        sorted: &Sorted<(usize, KernelTime)>,
        known: Known,
        failed: &mut Vec<(usize, anyhow::Error)>,
    ) {
        let bits = sorted.v4.iter().map(|(key, _)| filter_v4(u32::from_be_bytes(*key)));
        match self.filter_v4.add_bits(bits) {
            Ok(()) => {
                ensure(&self.v4, &sorted.v4, known, |key| *key, failed);
            }
            Err(error) => fail_all(&sorted.v4, &error, failed),
        }
        let bits = sorted.v6.iter().map(|(key, _)| filter_v6(halves(*key)));
        match self.filter_v6.add_bits(bits) {
            Ok(()) => {
                ensure(&self.v6, &sorted.v6, known, |key| *key, failed);
            }
            Err(error) => fail_all(&sorted.v6, &error, failed),
        }
    }

    fn ensure_networks(
        &mut self,
        sorted: &Sorted<(usize, KernelTime)>,
        failed: &mut Vec<(usize, anyhow::Error)>,
    ) {
        if let Err(error) = self.filter_networks(sorted) {
            fail_all(&sorted.networks_v4, &error, failed);
            fail_all(&sorted.networks_v6, &error, failed);
            return;
        }
        let v4 = ensure(&self.networks_v4, &sorted.networks_v4, Known::Nothing, key_v4, failed);
        let v6 = ensure(&self.networks_v6, &sorted.networks_v6, Known::Nothing, key_v6, failed);
        let control = Control {
            networks_v4: self.now.networks_v4 + v4 as u32,
            networks_v6: self.now.networks_v6 + v6 as u32,
            ..self.now
        };
        if let Err(error) = self.set_control(control) {
            fail_all(&sorted.networks_v4, &error, failed);
            fail_all(&sorted.networks_v6, &error, failed);
        }
    }

    /// Sets the bits of every /24 a network touches; any IPv6 network sets all bits, for its prefixes have no order.
    fn filter_networks<T>(&mut self, sorted: &Sorted<T>) -> Result<()> {
        if !sorted.networks_v4.is_empty() {
            let mut bits = Bitmap::empty(FILTER_V4_WORDS);
            sorted.networks_v4.iter().for_each(|(net, _)| set_network(&mut bits, net));
            self.filter_v4.add(&bits)?;
        }
        if !sorted.networks_v6.is_empty() {
            let mut bits = Bitmap::empty(FILTER_V6_WORDS);
            bits.fill();
            self.filter_v6.add(&bits)?;
        }
        Ok(())
    }

    /// Takes bans out; absent is success. Returns those that failed by their place in `clients`.
    pub(super) fn remove(&mut self, clients: &[Client]) -> Vec<(usize, anyhow::Error)> {
        let placed = clients.iter().enumerate().map(|(at, client)| (*client, at));
        let sorted = Sorted::new(placed, self.ipv6_prefix);
        let mut failed = Vec::new();
        remove(&self.v4, &sorted.v4, |key| *key, &mut failed);
        remove(&self.v6, &sorted.v6, |key| *key, &mut failed);
        let v4 = remove(&self.networks_v4, &sorted.networks_v4, key_v4, &mut failed);
        let v6 = remove(&self.networks_v6, &sorted.networks_v6, key_v6, &mut failed);
        let control = Control {
            networks_v4: self.now.networks_v4.saturating_sub(v4 as u32),
            networks_v6: self.now.networks_v6.saturating_sub(v6 as u32),
            ..self.now
        };
        if let Err(error) = self.set_control(control) {
            failed.extend(sorted.networks_v4.iter().map(|(_, at)| (*at, repeat(&error))));
            failed.extend(sorted.networks_v6.iter().map(|(_, at)| (*at, repeat(&error))));
        }
        failed
    }

    /// The bans held, to be listed while others are put in.
    ///
    /// # Errors
    /// When there are too many descriptors.
    pub(super) fn listing(&self) -> Result<Listing> {
        Ok(Listing {
            v4: self.v4.another()?,
            v6: self.v6.another()?,
            networks_v4: self.networks_v4.another()?,
            networks_v6: self.networks_v6.another()?,
            ipv6_prefix: self.ipv6_prefix,
        })
    }

    /// How many bans are held.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub(super) fn count(&self) -> Result<usize> {
        Ok(self.v4.count()? + self.v6.count()? + self.networks_v4.count()? + self.networks_v6.count()?)
    }

    /// Takes what is held now for what was put in: after it has been compared.
    pub(super) fn remember(&self) {
        self.v4.remember();
        self.v6.remember();
        self.networks_v4.remember();
        self.networks_v6.remember();
    }

    /// Whether as many bans are held as when we last changed them, by this reading of the maps' memory; `None` where the
    /// kernel does not say without listing.
    pub(super) fn is_left_at(&self, memory: [u64; 4]) -> Option<bool> {
        let all = [
            self.v4.is_left_at(memory[0]),
            self.v6.is_left_at(memory[1]),
            self.networks_v4.is_left_at(memory[2]),
            self.networks_v6.is_left_at(memory[3]),
        ];
        if all.contains(&Some(false)) {
            return Some(false);
        }
        all.iter().all(Option::is_some).then_some(true)
    }

    /// The memory of the four maps of bans; `None` where the kernel does not say.
    pub(super) fn memory(&self) -> Option<[u64; 4]> {
        Some([self.v4.memory()?, self.v6.memory()?, self.networks_v4.memory()?, self.networks_v6.memory()?])
    }

    /// Whether the filters have the bit of each of these clients. Of networks, which have many, never.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub(super) fn filters_hold(&self, mut clients: impl Iterator<Item = Client>) -> Result<bool> {
        let holds = |client: Client| match (client.network(), client.is_single(self.ipv6_prefix)) {
            (IpNet::V4(net), true) => self.filter_v4.holds(filter_v4(net.addr().to_bits())),
            (IpNet::V6(net), true) => self.filter_v6.holds(filter_v6(halves(net.addr().octets()))),
            (_, false) => Ok(false),
        };
        clients.try_fold(true, |all, client| Ok(all && holds(client)?))
    }

    /// The bans held on these clients.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub(super) fn get_all(&self, clients: &[Client]) -> Result<Vec<Option<Ban>>> {
        let networks = self.networks_among(clients)?;
        let get = |client: &Client| match (client.network(), client.is_single(self.ipv6_prefix)) {
            (IpNet::V4(net), true) => self.v4.get(&net.addr().octets()),
            (IpNet::V6(net), true) => self.v6.get(&net.addr().octets()),
            (_, false) => Ok(networks.get(client).copied()),
        };
        clients.iter().map(get).collect()
    }

    /// The bans of the networks among `clients`, found by listing: a trie only answers with the longest match.
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
        self.networks_v4.for_each(|key, ban| keep(client_v4(key), ban))?;
        self.networks_v6.for_each(|key, ban| keep(client_v6(key), ban))?;
        Ok(found)
    }

    /// Reads the filters, and makes them hold exactly what `clients` need.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(super) fn rebuild_filters(&mut self, clients: impl Iterator<Item = Client>) -> Result<()> {
        let mut v4 = Bitmap::empty(FILTER_V4_WORDS);
        let mut v6 = Bitmap::empty(FILTER_V6_WORDS);
        for client in clients {
            match (client.network(), client.is_single(self.ipv6_prefix)) {
                (IpNet::V4(net), _) => set_network(&mut v4, &net),
                (IpNet::V6(net), true) => v6.set(filter_v6(halves(net.addr().octets()))),
                (IpNet::V6(_), false) => v6.fill(),
            }
        }
        self.filter_v4.read()?;
        self.filter_v4.replace(&v4)?;
        self.filter_v6.read()?;
        self.filter_v6.replace(&v6)
    }

    /// Makes `networks` the exempt ones, additions first.
    ///
    /// # Errors
    /// When there are too many, or the kernel refuses.
    pub(super) fn ensure_exempt(&mut self, networks: &[IpNet]) -> Result<()> {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for network in networks {
            match Client::of_network(*network).network() {
                IpNet::V4(net) => v4.push(key_v4(&net)),
                IpNet::V6(net) => v6.push(key_v6(&net)),
            }
        }
        self.exempt_v4.replace(&v4)?;
        self.exempt_v6.replace(&v6)?;
        let control = Control {
            exempt_v4: self.exempt_v4.keys()?.len() as u32,
            exempt_v6: self.exempt_v6.keys()?.len() as u32,
            ..self.now
        };
        self.set_control(control)
    }

    /// The totals of the program in `slot`, over all CPUs.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub(super) fn totals(&self, slot: u32) -> Result<Totals> {
        let values = self.totals_reader.get(&slot, 0).context("read TOTALS")?;
        Ok(values.iter().fold(Totals::default(), |sum, cpu| Totals {
            passed: sum.passed + cpu.passed,
            dropped_v4: sum.dropped_v4 + cpu.dropped_v4,
            dropped_v6: sum.dropped_v6 + cpu.dropped_v6,
            dropped_bytes: sum.dropped_bytes + cpu.dropped_bytes,
            expired: sum.expired + cpu.expired,
            exempt: sum.exempt + cpu.exempt,
            malformed: sum.malformed + cpu.malformed,
            not_ip: sum.not_ip + cpu.not_ip,
        }))
    }
}

/// Puts entries into a table; says how many were new.
fn ensure<K: BanKey, N>(
    table: &Table<K>,
    entries: &[(N, (usize, KernelTime))],
    known: Known,
    key: impl Fn(&N) -> K,
    failed: &mut Vec<(usize, anyhow::Error)>,
) -> usize {
    let bans: Vec<(K, KernelTime)> = entries.iter().map(|(of, (_, ends))| (key(of), *ends)).collect();
    let ensured = match known {
        Known::Absent => table.insert(&bans),
        Known::Nothing => table.ensure(&bans),
    };
    failed.extend(ensured.failed.into_iter().map(|(at, error)| (entries[at].1.0, error)));
    ensured.changed
}

/// Takes entries out of a table; says how many were in.
fn remove<K: BanKey, N>(
    table: &Table<K>,
    entries: &[(N, usize)],
    key: impl Fn(&N) -> K,
    failed: &mut Vec<(usize, anyhow::Error)>,
) -> usize {
    let keys: Vec<K> = entries.iter().map(|(of, _)| key(of)).collect();
    let removed = table.remove(&keys);
    failed.extend(removed.failed.into_iter().map(|(at, error)| (entries[at].1, error)));
    removed.changed
}

fn fail_all<N>(
    entries: &[(N, (usize, KernelTime))],
    error: &anyhow::Error,
    failed: &mut Vec<(usize, anyhow::Error)>,
) {
    failed.extend(entries.iter().map(|(_, (at, _))| (*at, repeat(error))));
}

/// The same error for another client.
fn repeat(error: &anyhow::Error) -> anyhow::Error {
    anyhow::anyhow!("{error:#}")
}

fn set_network(bits: &mut Bitmap, net: &Ipv4Net) {
    bits.set_range(filter_v4(net.network().to_bits()), filter_v4(net.broadcast().to_bits()));
}

fn key_v4(net: &Ipv4Net) -> Key<KeyV4> {
    Key::new(u32::from(net.prefix_len()), net.network().octets())
}

fn key_v6(net: &Ipv6Net) -> Key<KeyV6> {
    Key::new(u32::from(net.prefix_len()), net.network().octets())
}

fn client_v4(key: Key<KeyV4>) -> Client {
    let prefix = u8::try_from(key.prefix_len()).unwrap_or(32).min(32);
    Client::of_network(IpNet::V4(Ipv4Net::new_assert(key.data().into(), prefix)))
}

fn client_v6(key: Key<KeyV6>) -> Client {
    let prefix = u8::try_from(key.prefix_len()).unwrap_or(128).min(128);
    Client::of_network(IpNet::V6(Ipv6Net::new_assert(key.data().into(), prefix)))
}

/// The halves of a key as the program loads them.
fn halves(key: KeyV6) -> [u64; 2] {
    let [a, b, c, d, e, f, g, h, rest @ ..] = key;
    [u64::from_ne_bytes([a, b, c, d, e, f, g, h]), u64::from_ne_bytes(rest)]
}
