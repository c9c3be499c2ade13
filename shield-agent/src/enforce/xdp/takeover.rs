//! The maps at start: an earlier agent's if they fit, else new ones into which its bans are copied.
//!
//! The old maps go on dropping until the links run programs on the new ones, so that there is no gap.

use std::fs;
use std::os::fd::AsFd as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use aya::Pod;
use aya::maps::{Array, Map, MapData, MapInfo};
use shield_common::{ABI_VERSION, Ban, Control, KernelTime, map_name};

use crate::enforce::pieces::in_pieces;
use shield_engine::client::Client;

use super::bans::Bans;
use super::clock::KernelClock;
use super::filters::Origins;
use super::maps::{BanMaps, Presence};
use super::object::Loader;
use super::pins::Pins;
use super::settings::Settings;
use super::{kernel, keys, object};

/// Elements in one system call when reading an earlier agent's maps.
const CHUNK: usize = 4096;
/// Bans that are carried over at once.
const CARRIED_AT_ONCE: usize = 16_384;

/// Takes over the pinned maps, or makes new ones: beside the old ones, where these do not fit.
pub(super) fn bans(pins: &Pins, settings: &Settings, loader: &mut Loader<'_>) -> Result<Bans> {
    let old = pins.maps();
    let fits = !old.exists() || fits(&old, settings);
    let folder = if fits { old.clone() } else { pins.new_maps() };
    fs::create_dir_all(&folder).with_context(|| format!("could not make {}", folder.display()))?;
    // Before the object makes those that are missing.
    let filters = Origins::of(&folder);
    let mut clock_object = loader.load(&folder, 0)?;
    let clock = KernelClock::calibrate(object::clock(&mut clock_object)?)?;
    let mut maps = BanMaps::open(&folder, settings, filters)?;
    if !fits {
        carry_over(&old, &mut maps);
    }
    maps.write_control()?;
    Ok(Bans::new(maps, clock, clock_object))
}

/// Returns whether the pinned maps have this version, prefix length and size. Missing ones are made when the object loads.
pub(super) fn fits(folder: &Path, settings: &Settings) -> bool {
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

/// Copies what can be read of the old maps. The rest is restored from the store, as after a reboot.
fn carry_over(old: &Path, maps: &mut BanMaps) {
    let Some(control) = control(old) else {
        tracing::warn!("maps of an unknown layout were replaced; their bans come back from the store");
        return;
    };
    let (mut bans, mut failed) = (0, 0);
    in_pieces(
        CARRIED_AT_ONCE,
        |piece| {
            bans += piece.len();
            failed += maps.ensure(piece, Presence::Unknown).len();
        },
        |each| read(old, control, each),
    );
    tracing::info!(bans = bans - failed, failed, "carried bans over into new maps");
}

fn read(old: &Path, control: Control, each: &mut dyn FnMut((Client, KernelTime))) {
    let prefix = u8::try_from(control.ipv6_prefix).unwrap_or(128).min(128);
    read_map(old, map_name::BANS_V4, |key, ends| each((keys::single_v4(key), ends)));
    read_map(old, map_name::BANS_V6, |key, ends| each((keys::single_v6(key, prefix), ends)));
    read_map(old, map_name::NETWORKS_V4, |key, ends| each((keys::network_v4(key), ends)));
    read_map(old, map_name::NETWORKS_V6, |key, ends| each((keys::network_v6(key), ends)));
}

fn read_map<K: Pod>(folder: &Path, name: &str, mut each: impl FnMut(K, KernelTime)) {
    let path = folder.join(name);
    let result = MapInfo::from_pin(&path).map_err(anyhow::Error::from).and_then(|info| {
        anyhow::ensure!(
            info.key_size() as usize == size_of::<K>() && info.value_size() as usize == size_of::<Ban>(),
            "its keys or values have another size"
        );
        let map = kernel::open_pinned(&path)?;
        Ok(kernel::lookup_all(map.as_fd(), CHUNK, |key: K, ban: Ban| each(key, ban.ends))?)
    });
    if let Err(error) = result {
        tracing::warn!(map = name, %error, "could not carry over the bans of an earlier version");
    }
}
