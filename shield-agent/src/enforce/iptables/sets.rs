//! What a set of banned clients is, whoever keeps it: ipset, or nftables in a table of its own.
//!
//! Owns the vocabulary that both stores share, and how a ban's end becomes a kernel timeout.

use anyhow::Result;

use super::chain::Rule;
use super::programs::Programs;
use crate::enforce::{Drops, Failure};
use shield_engine::client::Client;
use shield_engine::time::{Ends, Now};

/// The longest timeout that ipset takes (its kernel side counts milliseconds in 31 bits and then some): bans that last
/// longer are asserted again by every full reconcile.
pub(super) const MAX_TIMEOUT_SECS: u32 = 2_147_483;
/// Kernel timeouts run this much longer than the ban: the lift comes from the agent, the timeout is for when it is dead.
const GRACE_SECS: u64 = 1;
/// Ends that differ by no more than this are the same: kernel timeouts are listed in whole seconds, rounded down.
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
    /// Both.
    pub const ALL: [Version; 2] = [Version::V4, Version::V6];

    /// The version that this client's packets have.
    pub fn of(client: &Client) -> Version {
        if client.network().addr().is_ipv4() { Version::V4 } else { Version::V6 }
    }

    /// As people write it.
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
    /// Who.
    pub client: Client,
    /// Seconds left in the kernel; 0 for ever.
    pub timeout_secs: u32,
    /// What was dropped of it.
    pub drops: Drops,
}

impl Element {
    /// The element of a ban.
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

    /// Whether the kernel's end is near enough to the wanted one.
    pub(super) fn is_right_for(&self, ends: Ends, now: Now) -> bool {
        let wanted = timeout_secs(ends, now);
        match (wanted, self.timeout_secs) {
            (0, 0) => true,
            (0, _) | (_, 0) => false,
            // Longer than a timeout can be: asserted again once half of it is over.
            (MAX_TIMEOUT_SECS, held) => held > MAX_TIMEOUT_SECS / 2,
            (wanted, held) => wanted.abs_diff(held) <= SAME_END_SECS,
        }
    }
}

/// A ban's end as a kernel timeout: rounded up, at least a second (0 would be for ever), within the cap.
fn timeout_secs(ends: Ends, now: Now) -> u32 {
    match ends.remaining_ms(now) {
        None => 0,
        Some(ms) => {
            let secs = ms.div_ceil(1000) + GRACE_SECS;
            u32::try_from(secs).unwrap_or(MAX_TIMEOUT_SECS).min(MAX_TIMEOUT_SECS)
        }
    }
}

/// Something that keeps sets in the kernel, one for each IP version.
pub(super) trait SetStore: Sync {
    /// The name used in state and logs.
    fn name(&self) -> &'static str;

    /// Whether it works here at all.
    fn probe(&self, programs: &mut dyn Programs) -> Result<()>;

    /// Makes this version's set where it is missing, and what drops by it outside of our iptables chain.
    /// `room` is how many clients it will hold soon.
    fn ensure(&self, programs: &mut dyn Programs, version: Version, room: usize) -> Result<()>;

    /// How many clients each version's set holds; `None` when there is no such set or nothing drops by it.
    fn counts(&self, programs: &mut dyn Programs) -> Result<[Option<usize>; 2]>;

    /// Calls `each` with every element of this version's set.
    fn list(
        &self,
        programs: &mut dyn Programs,
        version: Version,
        each: &mut dyn FnMut(Element),
    ) -> Result<()>;

    /// Adds elements, or moves the ends of those that are there. All are tried; those that failed are returned.
    fn add(&self, programs: &mut dyn Programs, version: Version, elements: &[Element]) -> Vec<Failure>;

    /// Removes clients; absent ones succeed. All are tried; those that failed are returned.
    fn remove(&self, programs: &mut dyn Programs, version: Version, clients: &[Client]) -> Vec<Failure>;

    /// Lets these networks through, where that is not our iptables chain's business.
    fn exempt(&self, programs: &mut dyn Programs, version: Version, networks: &[ipnet::IpNet]) -> Result<()>;

    /// The rule of our iptables chain that drops by this version's set; `None` when the store does that itself.
    fn rule(&self, version: Version) -> Option<Rule>;

    /// What was dropped by rules of its own.
    fn own_drops(&self, programs: &mut dyn Programs) -> Result<Drops>;

    /// Removes this version's set; says whether there was one. No rule may refer to it any more.
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
    fn which_ends_are_the_same() {
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
