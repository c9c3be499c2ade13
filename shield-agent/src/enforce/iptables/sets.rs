//! Sets of banned clients, as ipset and nftables both keep them.
//!
//! Owns the trait of the two stores, and the conversion of a ban's end into a kernel timeout.

use anyhow::Result;

use super::chain::Rule;
use super::programs::Programs;
use crate::enforce::ban::{Drops, Failure};
use shield_engine::client::Client;
use shield_engine::time::{Ends, Now};

/// The longest timeout that ipset accepts, in seconds: 31 bits of milliseconds. Longer bans are extended by full
/// reconciles.
pub(super) const MAX_TIMEOUT_SECS: u32 = 2_147_483;
/// Kernel timeouts run this much longer than the ban: the agent lifts it, and the timeout is for when the agent is dead.
const GRACE_SECS: u64 = 1;
/// Ends that differ by no more than this count as the same: kernel timeouts are listed in whole seconds, rounded down.
const SAME_END_SECS: u32 = 3;

/// An IP version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Version {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Version {
    /// Both versions.
    pub const ALL: [Version; 2] = [Version::V4, Version::V6];

    /// The version of this client's packets.
    pub fn of(client: &Client) -> Version {
        if client.network().addr().is_ipv4() { Version::V4 } else { Version::V6 }
    }

    /// `IPv4` or `IPv6`.
    pub fn name(self) -> &'static str {
        match self {
            Version::V4 => "IPv4",
            Version::V6 => "IPv6",
        }
    }
}

/// One client in a set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Element {
    pub client: Client,
    /// Seconds left in the kernel; 0 without an end.
    pub timeout_secs: u32,
    pub drops: Drops,
}

impl Element {
    pub(super) fn new(client: Client, ends: Ends, now: Now) -> Element {
        Element { client, timeout_secs: timeout_secs(ends, now), drops: Drops::default() }
    }

    /// The end that this element has at `now`, to the second.
    pub(super) fn ends(&self, now: Now) -> Ends {
        match self.timeout_secs {
            0 => Ends::Never,
            secs => Ends::after(now, u64::from(secs) * 1000),
        }
    }

    /// Returns `true` if the element's end is near enough to the wanted one.
    pub(super) fn is_right_for(&self, ends: Ends, now: Now) -> bool {
        let wanted = timeout_secs(ends, now);
        match (wanted, self.timeout_secs) {
            (0, 0) => true,
            (0, _) | (_, 0) => false,
            // Longer than a timeout can be: extended once half of it is over.
            (MAX_TIMEOUT_SECS, held) => held > MAX_TIMEOUT_SECS / 2,
            (wanted, held) => wanted.abs_diff(held) <= SAME_END_SECS,
        }
    }
}

/// A ban's end as a kernel timeout: rounded up, at least a second (0 would mean no end), at most the longest.
fn timeout_secs(ends: Ends, now: Now) -> u32 {
    match ends.remaining_ms(now) {
        None => 0,
        Some(ms) => {
            let secs = ms.div_ceil(1000) + GRACE_SECS;
            u32::try_from(secs).unwrap_or(MAX_TIMEOUT_SECS).min(MAX_TIMEOUT_SECS)
        }
    }
}

/// A kind of sets in the kernel, one set for each IP version.
pub(super) trait SetStore: Sync {
    /// The name in state and logs.
    fn name(&self) -> &'static str;

    /// Checks that it works on this host.
    fn probe(&self, programs: &mut dyn Programs) -> Result<()>;

    /// Creates this version's set where it is missing, with everything outside of our iptables chain that drops by it.
    /// `room` is the number of clients that it will hold soon.
    fn ensure(&self, programs: &mut dyn Programs, version: Version, room: usize) -> Result<()>;

    /// The number of clients in each version's set; `None` when there is no such set, or nothing drops by it.
    fn counts(&self, programs: &mut dyn Programs) -> Result<[Option<usize>; 2]>;

    /// Calls `each` with every element of this version's set.
    fn list(
        &self,
        programs: &mut dyn Programs,
        version: Version,
        each: &mut dyn FnMut(Element),
    ) -> Result<()>;

    /// Adds elements, or moves the ends of those that are present. All are tried; those that failed are returned.
    fn add(&self, programs: &mut dyn Programs, version: Version, elements: &[Element]) -> Vec<Failure>;

    /// Removes clients; absent ones succeed. All are tried; those that failed are returned.
    fn remove(&self, programs: &mut dyn Programs, version: Version, clients: &[Client]) -> Vec<Failure>;

    /// Lets these networks through, where our iptables chain does not see to that.
    fn exempt(&self, programs: &mut dyn Programs, version: Version, networks: &[ipnet::IpNet]) -> Result<()>;

    /// The rule of our iptables chain that drops by this version's set; `None` when the store has rules of its own.
    fn rule(&self, version: Version) -> Option<Rule>;

    /// The drops by the store's own rules.
    fn own_drops(&self, programs: &mut dyn Programs) -> Result<Drops>;

    /// Removes this version's set; returns whether there was one. No rule may refer to it any more.
    fn destroy(&self, programs: &mut dyn Programs, version: Version) -> Result<bool>;
}

/// The same failure for each of these clients.
pub(super) fn all_failed(clients: impl IntoIterator<Item = Client>, error: &anyhow::Error) -> Vec<Failure> {
    let text = format!("{error:#}");
    clients.into_iter().map(|client| Failure { client, error: anyhow::anyhow!(text.clone()) }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Now = Now { wall_ms: 1_700_000_000_000, boot_ms: 5_000_000 };

    fn element(timeout_secs: u32) -> Element {
        Element { client: "192.0.2.1".parse().unwrap(), timeout_secs, drops: Drops::default() }
    }

    #[test]
    fn an_end_becomes_a_timeout() {
        let check = |ends, expected| assert_eq!(timeout_secs(ends, NOW), expected, "{ends:?}");
        check(Ends::Never, 0);
        check(Ends::after(NOW, 10_000), 11);
        check(Ends::after(NOW, 10_001), 12);
        check(Ends::after(NOW, 0), 1);
        check(Ends::At { boot_ms: 1, wall_ms: 1 }, 1);
        check(Ends::after(NOW, 40 * 86_400_000), MAX_TIMEOUT_SECS);
        check(Ends::after(NOW, u64::from(u32::MAX) * 5000), MAX_TIMEOUT_SECS);
    }

    #[test]
    fn ends_that_count_as_the_same() {
        let check = |held, ends, expected| {
            assert_eq!(element(held).is_right_for(ends, NOW), expected, "{held} {ends:?}");
        };
        check(0, Ends::Never, true);
        check(100, Ends::Never, false);
        check(0, Ends::after(NOW, 100_000), false);
        check(99, Ends::after(NOW, 100_000), true);
        check(90, Ends::after(NOW, 100_000), false);
        let years = Ends::after(NOW, 3 * 365 * 86_400_000);
        check(MAX_TIMEOUT_SECS, years, true);
        check(MAX_TIMEOUT_SECS - 900_000, years, true);
        check(MAX_TIMEOUT_SECS / 2, years, false);
    }
}
