//! Asks the kernel itself, not the agent, whether a client is dropped: `iptables -S SHIELD`, and the pinned XDP maps.

use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use aya::maps::{HashMap, Map, MapData, MapError};
use shield_common::{Ban, map_name};

use crate::netns::Namespace;
use crate::wait;

/// A ban as the map holds it, as words.
pub type BanWords = [u64; size_of::<Ban>() / size_of::<u64>()];

/// Where a client is dropped, or is no longer.
#[derive(Debug, Clone, Copy)]
pub struct BothAt {
    /// When the rule was seen to be there (or gone).
    pub iptables: Instant,
    /// When the map's entry was seen to be there (or gone).
    pub xdp: Instant,
}

/// What to wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// Dropped.
    Dropped,
    /// Dropped no longer.
    Forgotten,
}

/// Waits until both places are as wanted and says when each was. Looks every few milliseconds, at both at the same time.
///
/// # Errors
/// When one of them is not within `at_most`, or cannot be asked.
pub fn wait_for_both(
    server: &Namespace,
    pins: &Path,
    client: IpAddr,
    wanted: Wanted,
    at_most: Duration,
) -> Result<BothAt> {
    let is_wanted = |held: bool| (held == (wanted == Wanted::Dropped)).then(Instant::now);
    std::thread::scope(|scope| {
        let xdp = scope.spawn(|| {
            wait::until("the entry in the XDP map", at_most, || Ok(is_wanted(xdp_holds(pins, client)?)))
        });
        let iptables = wait::until("the rule in the chain SHIELD", at_most, || {
            Ok(is_wanted(iptables_rule(server, client)?.is_some()))
        });
        let xdp = xdp.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        Ok(BothAt { iptables: iptables?, xdp: xdp? })
    })
}

/// The rule that drops this client, as `iptables -S SHIELD` prints it; `None` when there is none, or no such chain.
///
/// # Errors
/// When iptables cannot be asked.
pub fn iptables_rule(server: &Namespace, client: IpAddr) -> Result<Option<String>> {
    let program = if client.is_ipv6() { "ip6tables" } else { "iptables" };
    let output = server.output(&[program, "--wait", "-S", "SHIELD"])?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        if said.contains("No chain") || said.contains("does not exist") {
            return Ok(None);
        }
        bail!("`{program} -S SHIELD` failed: {said}");
    }
    let source = if client.is_ipv6() { format!("-s {client}/") } else { format!("-s {client}/32 ") };
    let rules = String::from_utf8_lossy(&output.stdout);
    let rule = rules.lines().find(|rule| rule.contains(&source) && rule.ends_with("-j DROP"));
    Ok(rule.map(str::to_owned))
}

/// Whether the pinned map of the client's family has an entry for it. Only IPv4: the lab's attacker is one.
///
/// # Errors
/// When the map is not pinned there, or cannot be read.
pub fn xdp_holds(pins: &Path, client: IpAddr) -> Result<bool> {
    let IpAddr::V4(client) = client else { bail!("looked for {client}, which is not IPv4") };
    let pin = pins.join("maps").join(map_name::BANS_V4);
    let data =
        MapData::from_pin(&pin).with_context(|| format!("opened the map pinned at {}", pin.display()))?;
    // Only presence is asked here, because a slot can be reused under a reader.
    let map: HashMap<_, [u8; 4], BanWords> =
        HashMap::try_from(Map::HashMap(data)).context("the pinned map is not the one of bans")?;
    match map.get(&client.octets(), 0) {
        Ok(_) => Ok(true),
        Err(MapError::KeyNotFound) => Ok(false),
        Err(error) => Err(error).with_context(|| format!("looked up {client} in {}", pin.display())),
    }
}
