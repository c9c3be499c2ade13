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

/// The sizes of the maps and the values of the program's globals, but for the slot.
pub struct Globals {
    max_bans_v4: u32,
    max_bans_v6: u32,
    max_networks: u32,
    ipv6_prefix: u8,
    ipv6_mask: [u64; 2],
    count_passed: u8,
    log_every: u32,
    log_level: u8,
}

impl Globals {
    /// Those of these settings.
    pub fn of(settings: &Settings) -> Globals {
        let log_every = settings.log_every.map_or(0, |every| every.get().next_power_of_two());
        Globals {
            max_bans_v4: settings.max_bans_v4,
            max_bans_v6: settings.max_bans_v6,
            max_networks: settings.max_networks,
            ipv6_prefix: settings.ipv6_prefix,
            ipv6_mask: mask_v6(settings.ipv6_prefix),
            count_passed: u8::from(settings.count_passed),
            log_every,
            log_level: if log_every == 0 { LOG_OFF } else { LOG_DEBUG },
        }
    }
}

/// Loads the object, once for each interface. What the loader reads of the kernel takes most of that time, and is read once.
pub struct Loader<'a> {
    globals: &'a Globals,
    loader: Option<EbpfLoader<'a>>,
}

/// Every slot, for the loader to borrow.
static ALL_SLOTS: [u32; SLOTS as usize] = {
    let mut all = [0; SLOTS as usize];
    let mut slot = 0;
    while slot < SLOTS {
        all[slot as usize] = slot;
        slot += 1;
    }
    all
};

impl<'a> Loader<'a> {
    /// Reads nothing yet.
    pub fn new(globals: &'a Globals) -> Loader<'a> {
        Loader { globals, loader: None }
    }

    /// Loads the object's maps and links its programs to them. Maps pinned in `maps` are used as they are, others are
    /// created and pinned there. `slot` is the index of this copy in the totals.
    ///
    /// # Errors
    /// When the object is not in this binary, or the kernel refuses a map.
    pub fn load(&mut self, maps: &Path, slot: u32) -> Result<Ebpf> {
        self.load_with(Some(maps), slot)
    }

    /// As [`Loader::load`], with maps of its own that are pinned nowhere and go with the returned object. No load before it can have
    /// told this loader of pinned ones.
    ///
    /// # Errors
    /// As for [`Loader::load`].
    pub fn load_apart(globals: &'a Globals) -> Result<Ebpf> {
        Loader::new(globals).load_with(None, 0)
    }

    fn load_with(&mut self, maps: Option<&Path>, slot: u32) -> Result<Ebpf> {
        let object = OBJECT.context(NOT_EMBEDDED)?;
        let globals = self.globals;
        let loader = self.loader.get_or_insert_with(|| loader_of(globals));
        for (name, maps) in map_name::PINNED.into_iter().zip(std::iter::repeat(maps)) {
            maps.iter().for_each(|maps| {
                loader.map_pin_path(name, maps.join(name));
            });
        }
        loader
            .override_global(global_name::SLOT, &ALL_SLOTS[slot.min(SLOTS - 1) as usize], true)
            .load(object)
            .context("could not load the XDP object (it needs root, or CAP_BPF and CAP_NET_ADMIN)")
    }
}

fn loader_of(globals: &Globals) -> EbpfLoader<'_> {
    let mut loader = EbpfLoader::new();
    loader
        .map_max_entries(map_name::BANS_V4, globals.max_bans_v4)
        .map_max_entries(map_name::BANS_V6, globals.max_bans_v6)
        .map_max_entries(map_name::NETWORKS_V4, globals.max_networks)
        .map_max_entries(map_name::NETWORKS_V6, globals.max_networks)
        .override_global(global_name::IPV6_PREFIX, &globals.ipv6_prefix, true)
        .override_global(global_name::IPV6_MASK, &globals.ipv6_mask, true)
        .override_global(global_name::COUNT_PASSED, &globals.count_passed, true)
        .override_global(global_name::LOG_EVERY, &globals.log_every, true)
        .override_global(AYA_LOG_LEVEL, &globals.log_level, true);
    loader
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
