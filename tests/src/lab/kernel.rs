//! Queries the kernel, not the agent, for a client's ban: `iptables -S SHIELD`, and the pinned XDP maps.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use aya::maps::{HashMap, Map, MapData, MapError};
use shield_common::{Ban, map_name};

use crate::netns::Namespace;
use crate::wait;

/// A value of the map of bans, as machine words.
pub type BanWords = [u64; size_of::<Ban>() / size_of::<u64>()];

/// The times at which a change was seen in each enforcer.
#[derive(Debug, Clone, Copy)]
pub struct SeenAt {
    /// The rule was seen to be present (or gone).
    pub iptables: Instant,
    /// The map's entry was seen to be present (or gone).
    pub xdp: Instant,
}

/// The state to wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// The client is dropped.
    Dropped,
    /// The client is no longer dropped.
    Lifted,
}

/// Waits until both enforcers are in the wanted state, and returns the times. Both are polled in parallel every few
/// milliseconds, so that one does not delay the other's time.
///
/// # Errors
/// Fails if one of them does not reach the state within `at_most`, or if a query fails.
pub fn wait_for_both(
    server: &Namespace,
    pins: &Path,
    client: IpAddr,
    wanted: Wanted,
    at_most: Duration,
) -> Result<SeenAt> {
    let is_wanted = |held: bool| (held == (wanted == Wanted::Dropped)).then(Instant::now);
    std::thread::scope(|scope| {
        let xdp = scope.spawn(|| {
            wait::until("the entry in the XDP map", at_most, || Ok(is_wanted(xdp_holds(pins, client)?)))
        });
        let iptables = wait::until("the rule in the chain SHIELD", at_most, || {
            Ok(is_wanted(iptables_rule(server, client)?.is_some()))
        });
        let xdp = xdp.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        Ok(SeenAt { iptables: iptables?, xdp: xdp? })
    })
}

/// The rule that drops this client, as `iptables -S SHIELD` prints it; `None` if there is no such rule or no such chain.
///
/// # Errors
/// Fails if iptables does for another reason.
pub fn iptables_rule(server: &Namespace, client: IpAddr) -> Result<Option<String>> {
    let program = if client.is_ipv6() { "ip6tables" } else { "iptables" };
    let output = server.output(&[program, "--wait", "-S", "SHIELD"])?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        if stderr.contains("No chain") || stderr.contains("does not exist") {
            return Ok(None);
        }
        bail!("`{program} -S SHIELD` failed: {stderr}");
    }
    let source = if client.is_ipv6() { format!("-s {client}/") } else { format!("-s {client}/32 ") };
    let rules = String::from_utf8_lossy(&output.stdout);
    let rule = rules.lines().find(|rule| rule.contains(&source) && rule.ends_with("-j DROP"));
    Ok(rule.map(str::to_owned))
}

/// Returns whether the pinned map of bans has an entry for the client. Supports only IPv4, the family of the lab's attacker.
///
/// # Errors
/// Fails for an IPv6 client, or if the map is not pinned there or cannot be read.
pub fn xdp_holds(pins: &Path, client: IpAddr) -> Result<bool> {
    let IpAddr::V4(client) = client else { bail!("could not look up {client}: it is not an IPv4 address") };
    XdpBans::open(pins)?.holds(client)
}

/// The pinned map of banned IPv4 addresses, held open.
pub struct XdpBans(HashMap<MapData, [u8; 4], BanWords>);

impl XdpBans {
    /// Opens the map in an agent's folder of pins.
    ///
    /// # Errors
    /// Fails if the map is not pinned there.
    pub fn open(pins: &Path) -> Result<XdpBans> {
        let pin = pins.join("maps").join(map_name::BANS_V4);
        let data = MapData::from_pin(&pin)
            .with_context(|| format!("could not open the map pinned at {}", pin.display()))?;
        let map = HashMap::try_from(Map::HashMap(data));
        Ok(XdpBans(map.context("could not use the pinned map as the map of bans")?))
    }

    /// Whether it has an entry for the client.
    ///
    /// # Errors
    /// Fails if the map cannot be read.
    pub fn holds(&self, client: Ipv4Addr) -> Result<bool> {
        // Only presence is used, because the kernel can reuse a slot while its value is read.
        match self.0.get(&client.octets(), 0) {
            Ok(_) => Ok(true),
            Err(MapError::KeyNotFound) => Ok(false),
            Err(error) => Err(error).with_context(|| format!("could not look up {client} in the pinned map")),
        }
    }
}
