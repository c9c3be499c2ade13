//! The compiled XDP object inside this binary, and how it is put into the kernel.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use aya::programs::{SchedClassifier, Xdp};
use aya::util::KernelVersion;
use aya::{Ebpf, EbpfLoader};
use shield_common::{SLOTS, global_name, map_name, program_name};

use super::Settings;

/// The object, unless this binary was built without a BPF toolchain.
static OBJECT: Option<&[u8]> = include!(concat!(env!("OUT_DIR"), "/xdp_object.rs"));

/// `aya_log`'s own switch: what it keeps of the program's messages.
const AYA_LOG_LEVEL: &str = "AYA_LOG_LEVEL";
/// Everything down to debug.
const LOG_DEBUG: u8 = 4;
/// Nothing: the verifier then removes the code.
const LOG_OFF: u8 = 0;

/// What is said when it is not there.
pub const NOT_EMBEDDED: &str =
    "this binary was built without the XDP object; build it with `cargo xtask build`, or take a release";

/// Whether this binary carries the XDP object.
pub fn is_embedded() -> bool {
    OBJECT.is_some()
}

/// Loads the object's maps and links its programs to them. Maps pinned in `maps` are used as they are, others are
/// created and pinned there. `slot` is the place of this copy in the totals.
///
/// # Errors
/// When the object is not in this binary, or the kernel refuses a map.
pub fn load(maps: &Path, settings: &Settings, slot: u32) -> Result<Ebpf> {
    let object = OBJECT.context(NOT_EMBEDDED)?;
    let slot = slot.min(SLOTS - 1);
    let log_every = settings.log_every.map_or(0, |every| every.get().next_power_of_two());
    let log_level = if log_every == 0 { LOG_OFF } else { LOG_DEBUG };
    let mut loader = EbpfLoader::new();
    for name in map_name::PINNED {
        loader.map_pin_path(name, maps.join(name));
    }
    loader
        .map_max_entries(map_name::BANS_V4, settings.max_bans_v4)
        .map_max_entries(map_name::BANS_V6, settings.max_bans_v6)
        .map_max_entries(map_name::NETWORKS_V4, settings.max_networks)
        .map_max_entries(map_name::NETWORKS_V6, settings.max_networks)
        .override_global(global_name::IPV6_PREFIX, &settings.ipv6_prefix, true)
        .override_global(global_name::SLOT, &slot, true)
        .override_global(global_name::LOG_EVERY, &log_every, true)
        .override_global(AYA_LOG_LEVEL, &log_level, true)
        .load(object)
        .context("loaded the XDP object (needs root, or CAP_BPF and CAP_NET_ADMIN)")
}

/// Puts the XDP program into the kernel: with multi-buffer support where the kernel has it.
///
/// # Errors
/// When the verifier refuses it.
pub fn xdp(ebpf: &mut Ebpf) -> Result<&mut Xdp> {
    let has_frags = KernelVersion::current().is_ok_and(|version| version >= KernelVersion::new(5, 18, 0));
    xdp_named(ebpf, if has_frags { program_name::XDP_FRAGS } else { program_name::XDP })
}

/// Puts the program that reads the kernel's clock into the kernel.
///
/// # Errors
/// When the verifier refuses it.
pub fn clock(ebpf: &mut Ebpf) -> Result<&mut Xdp> {
    xdp_named(ebpf, program_name::CLOCK)
}

/// Puts the traffic-control program into the kernel.
///
/// # Errors
/// When the verifier refuses it.
pub fn classifier(ebpf: &mut Ebpf) -> Result<&mut SchedClassifier> {
    let program = ebpf.program_mut(program_name::TC).context("looked for the TC program in the object")?;
    let program: &mut SchedClassifier = program.try_into()?;
    program.load().context("loaded the TC program")?;
    Ok(program)
}

fn xdp_named<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp> {
    let program =
        ebpf.program_mut(name).with_context(|| format!("looked for the program {name} in the object"))?;
    let program: &mut Xdp = program.try_into()?;
    program.load().with_context(|| format!("loaded the XDP program {name}"))?;
    Ok(program)
}

/// Refuses settings that no map can be made with.
///
/// # Errors
/// Naming the setting and its range.
pub fn check(settings: &Settings) -> Result<()> {
    for (name, value) in [
        ("max_bans_v4", settings.max_bans_v4),
        ("max_bans_v6", settings.max_bans_v6),
        ("max_networks", settings.max_networks),
    ] {
        ensure!(value > 0, "{name} is 0; it must be at least 1");
    }
    ensure!(
        (1..=128).contains(&settings.ipv6_prefix),
        "ipv6_prefix is {}; it must be in 1..=128",
        settings.ipv6_prefix
    );
    Ok(())
}
