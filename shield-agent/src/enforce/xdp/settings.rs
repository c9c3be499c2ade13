//! The configuration of the XDP enforcer.

use std::num::NonZeroU32;
use std::path::PathBuf;

use anyhow::{Result, ensure};

use super::interfaces::Selection;

/// The hook that the program is attached to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// In the driver; where the driver cannot, in the network stack, with the reason in the state.
    #[default]
    Auto,
    /// In the driver, or not at all (`require_native`).
    Native,
    /// In the network stack.
    Generic,
}

/// The configuration of the XDP enforcer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The guarded interfaces.
    pub interfaces: Selection,
    /// The hook, with or without a fallback.
    pub mode: Mode,
    /// Most banned IPv4 addresses at a time (at least 1). Memory is taken as bans are made, about 100 bytes each.
    pub max_bans_v4: u32,
    /// Most banned IPv6 clients at a time (at least 1).
    pub max_bans_v6: u32,
    /// Most banned networks of each family at a time (at least 1).
    pub max_networks: u32,
    /// Length of the prefix that makes an IPv6 client, 1..=128.
    pub ipv6_prefix: u8,
    /// Folder in a bpffs where maps and links outlive the agent. A bpffs is mounted when there is none.
    pub pin_folder: PathBuf,
    /// Logs one dropped packet in this many at debug level (rounded up to a power of two); `None` logs none and costs
    /// nothing.
    pub log_every: Option<NonZeroU32>,
    /// Counts the packets that pass, too. Nothing reads that but tests, and it is a third of what a packet that passes costs.
    pub count_passed: bool,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            interfaces: Selection::default(),
            mode: Mode::default(),
            max_bans_v4: shield_common::MAX_BANS_V4,
            max_bans_v6: shield_common::MAX_BANS_V6,
            max_networks: shield_common::MAX_NETWORKS,
            ipv6_prefix: 64,
            pin_folder: PathBuf::from("/sys/fs/bpf/shield"),
            log_every: None,
            count_passed: false,
        }
    }
}

/// Checks what the kernel would refuse with a bare EINVAL when the maps are made.
///
/// # Errors
/// Names the setting and its range.
pub(super) fn check(settings: &Settings) -> Result<()> {
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
