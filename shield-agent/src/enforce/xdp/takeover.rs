//! The maps at start: those of an earlier agent when they fit, else new ones that its bans are carried over into.
//!
//! Until the links run programs on the new maps, the old ones go on dropping: there is no gap.

use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use aya::maps::lpm_trie::Key;
use aya::maps::{Array, Map, MapData, MapInfo};
use aya::{Ebpf, Pod};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use shield_common::{ABI_VERSION, Ban, Control, KernelTime, KeyV4, KeyV6, map_name};

use shield_engine::client::Client;
use shield_engine::time::Now;

use super::bans::{Bans, Known};
use super::clock::KernelClock;
use super::pins::Pins;
use super::{Settings, kernel, object};

/// Maps ready to be used, and what was needed to make them so.
pub(super) struct Prepared {
    /// The maps.
    pub bans: Bans,
    /// The kernel's clock.
    pub clock: KernelClock,
    /// Holds the program that reads it.
    pub clock_object: Ebpf,
}

/// Elements a system call when reading an earlier agent's maps.
const CHUNK: usize = 4096;

/// Takes over the pinned maps, or makes new ones: beside the old, when there are old ones that do not fit.
///
/// # Errors
/// When the kernel refuses the maps or the clock program.
pub(super) fn maps(pins: &Pins, settings: &Settings, _now: Now) -> Result<Prepared> {
    let old = pins.maps();
    let fits = !old.exists() || fits(&old, settings);
    let folder = if fits { old.clone() } else { pins.new_maps() };
    fs::create_dir_all(&folder).with_context(|| format!("made {}", folder.display()))?;
    let mut clock_object = object::load(&folder, settings, 0)?;
    let clock = KernelClock::calibrate(object::clock(&mut clock_object)?)?;
    let mut bans = Bans::open(&folder, settings)?;
    if !fits {
        carry_over(&old, &mut bans);
    }
    bans.mark()?;
    Ok(Prepared { bans, clock, clock_object })
}

/// Whether the pinned maps are of this version, prefix length and size. Missing ones are made when the object loads.
fn fits(folder: &Path, settings: &Settings) -> bool {
    let control = control(folder).is_some_and(|control| {
        control.abi_version == ABI_VERSION && control.ipv6_prefix == u32::from(settings.ipv6_prefix)
    });
    let sized = [
        (map_name::BANS_V4, settings.max_bans_v4),
        (map_name::BANS_V6, settings.max_bans_v6),
        (map_name::NETWORKS_V4, settings.max_networks),
        (map_name::NETWORKS_V6, settings.max_networks),
    ];
    control
        && sized.iter().all(|(name, entries)| {
            MapInfo::from_pin(folder.join(name)).is_ok_and(|info| info.max_entries() == *entries)
        })
}

fn control(folder: &Path) -> Option<Control> {
    let map = MapData::from_pin(folder.join(map_name::CONTROL)).ok()?;
    let array: Array<MapData, Control> = Map::Array(map).try_into().ok()?;
    array.get(&0, 0).ok()
}

/// Copies what can be read of the old maps. What cannot is restored from the store, as after a reboot.
fn carry_over(old: &Path, bans: &mut Bans) {
    let Some(control) = control(old) else {
        tracing::warn!("maps of an unknown layout were replaced; their bans come back from the store");
        return;
    };
    let carried = read(old, control);
    let failed = bans.ensure(&carried, Known::Nothing);
    tracing::info!(
        bans = carried.len() - failed.len(),
        failed = failed.len(),
        "carried bans over into new maps"
    );
}

fn read(old: &Path, control: Control) -> Vec<(Client, KernelTime)> {
    let prefix = u8::try_from(control.ipv6_prefix).unwrap_or(128).min(128);
    let mut carried = Vec::new();
    read_map(old, map_name::BANS_V4, |key: KeyV4, ends| {
        carried.push((Client::from(Ipv4Addr::from(key)), ends));
    });
    read_map(old, map_name::BANS_V6, |key: KeyV6, ends| {
        carried.push((Client::of_addr(Ipv6Addr::from(key).into(), prefix), ends));
    });
    read_map(old, map_name::NETWORKS_V4, |key: Key<KeyV4>, ends| {
        let net = Ipv4Net::new(key.data().into(), key.prefix_len() as u8);
        carried.extend(net.map(|net| (Client::of_network(IpNet::V4(net)), ends)));
    });
    read_map(old, map_name::NETWORKS_V6, |key: Key<KeyV6>, ends| {
        let net = Ipv6Net::new(key.data().into(), key.prefix_len() as u8);
        carried.extend(net.map(|net| (Client::of_network(IpNet::V6(net)), ends)));
    });
    carried
}

fn read_map<K: Pod>(folder: &Path, name: &str, mut each: impl FnMut(K, KernelTime)) {
    let path = folder.join(name);
    let result = MapInfo::from_pin(&path).map_err(anyhow::Error::from).and_then(|info| {
        anyhow::ensure!(
            info.key_size() as usize == size_of::<K>() && info.value_size() as usize == size_of::<Ban>(),
            "its layout is another"
        );
        let map = kernel::open_pinned(&path)?;
        Ok(kernel::lookup_all(map.as_fd(), CHUNK, |key: K, ban: Ban| each(key, ban.ends))?)
    });
    if let Err(error) = result {
        tracing::warn!(map = name, %error, "could not carry over the bans of an earlier version");
    }
}
