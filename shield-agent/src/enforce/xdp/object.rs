//! The compiled XDP object inside this binary, and loading it into the kernel.

use std::path::Path;

use anyhow::{Context as _, Result};
use aya::programs::{SchedClassifier, Xdp};
use aya::util::KernelVersion;
use aya::{Ebpf, EbpfLoader};
use shield_common::{SLOTS, global_name, map_name, mask_v6, program_name};

use super::settings::Settings;

/// The object, unless this binary was built without a BPF toolchain.
static OBJECT: Option<&[u8]> = include!(concat!(env!("OUT_DIR"), "/xdp_object.rs"));

/// `aya_log`'s global for the least severe level that the program sends.
const AYA_LOG_LEVEL: &str = "AYA_LOG_LEVEL";
const LOG_DEBUG: u8 = 4;
/// With this level the verifier removes the logging code.
const LOG_OFF: u8 = 0;

/// The error of a binary without the object.
pub const NOT_EMBEDDED: &str =
    "this binary was built without the XDP object; build it with `cargo xtask build`, or take a release";

/// Returns whether this binary contains the XDP object.
pub fn is_embedded() -> bool {
    OBJECT.is_some()
}

/// Loads the object's maps and links its programs to them. Maps pinned in `maps` are used as they are, others are
/// created and pinned there. `slot` is the index of this copy in the totals.
///
/// # Errors
/// When the object is not in this binary, or the kernel refuses a map.
pub fn load(maps: &Path, settings: &Settings, slot: u32) -> Result<Ebpf> {
    load_with(Some(maps), settings, slot)
}

/// As [`load`], with maps of its own that are pinned nowhere and go with the returned object.
///
/// # Errors
/// As for [`load`].
pub fn load_apart(settings: &Settings) -> Result<Ebpf> {
    load_with(None, settings, 0)
}

fn load_with(maps: Option<&Path>, settings: &Settings, slot: u32) -> Result<Ebpf> {
    let object = OBJECT.context(NOT_EMBEDDED)?;
    let slot = slot.min(SLOTS - 1);
    let log_every = settings.log_every.map_or(0, |every| every.get().next_power_of_two());
    let log_level = if log_every == 0 { LOG_OFF } else { LOG_DEBUG };
    let mut loader = EbpfLoader::new();
    for (name, maps) in map_name::PINNED.into_iter().zip(std::iter::repeat(maps)) {
        maps.iter().for_each(|maps| {
            loader.map_pin_path(name, maps.join(name));
        });
    }
    loader
        .map_max_entries(map_name::BANS_V4, settings.max_bans_v4)
        .map_max_entries(map_name::BANS_V6, settings.max_bans_v6)
        .map_max_entries(map_name::NETWORKS_V4, settings.max_networks)
        .map_max_entries(map_name::NETWORKS_V6, settings.max_networks)
        .override_global(global_name::IPV6_PREFIX, &settings.ipv6_prefix, true)
        .override_global(global_name::IPV6_MASK, &mask_v6(settings.ipv6_prefix), true)
        .override_global(global_name::SLOT, &slot, true)
        .override_global(global_name::COUNT_PASSED, &u8::from(settings.count_passed), true)
        .override_global(global_name::LOG_EVERY, &log_every, true)
        .override_global(AYA_LOG_LEVEL, &log_level, true)
        .load(object)
        .context("could not load the XDP object (it needs root, or CAP_BPF and CAP_NET_ADMIN)")
}

/// Loads the XDP program into the kernel, with multi-buffer support where the kernel has it.
///
/// # Errors
/// When the verifier refuses it.
pub fn xdp(ebpf: &mut Ebpf) -> Result<&mut Xdp> {
    let has_frags = KernelVersion::current().is_ok_and(|version| version >= KernelVersion::new(5, 18, 0));
    xdp_named(ebpf, if has_frags { program_name::XDP_FRAGS } else { program_name::XDP })
}

/// Loads the program that reads the kernel's clock.
///
/// # Errors
/// When the verifier refuses it.
pub fn clock(ebpf: &mut Ebpf) -> Result<&mut Xdp> {
    xdp_named(ebpf, program_name::CLOCK)
}

/// Loads the traffic-control program.
///
/// # Errors
/// When the verifier refuses it.
pub fn classifier(ebpf: &mut Ebpf) -> Result<&mut SchedClassifier> {
    let program =
        ebpf.program_mut(program_name::TC).context("could not find the TC program in the object")?;
    let program: &mut SchedClassifier = program.try_into()?;
    program.load().context("could not load the TC program")?;
    Ok(program)
}

fn xdp_named<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp> {
    let program =
        ebpf.program_mut(name).with_context(|| format!("could not find the program {name} in the object"))?;
    let program: &mut Xdp = program.try_into()?;
    program.load().with_context(|| format!("could not load the XDP program {name}"))?;
    Ok(program)
}
