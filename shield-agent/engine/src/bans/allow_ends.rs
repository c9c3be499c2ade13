//! The ends of allowlist entries that an operator added for a while. An entry without an end stays until it is removed.

use std::collections::BTreeMap;

use ipnet::IpNet;

use crate::vocab::time::{Ends, Now};

/// The longest time for which a network is allowed: whoever wants it for longer allows it without an end.
pub const MAX_ALLOW_SECS: u64 = 366 * 86_400;

#[derive(Default)]
pub(crate) struct AllowEnds(BTreeMap<IpNet, Ends>);

impl AllowEnds {
    /// The later word counts: an entry may get an end, another one, or none.
    pub(crate) fn set(&mut self, network: IpNet, ends: Option<Ends>) {
        match ends {
            Some(ends) => self.0.insert(network, ends),
            None => self.0.remove(&network),
        };
    }

    /// The end on the wall clock in milliseconds; `None` without one.
    pub(crate) fn until_ms(&self, network: IpNet) -> Option<i64> {
        match self.0.get(&network)? {
            Ends::At { wall_ms, .. } => Some(*wall_ms),
            Ends::Never => None,
        }
    }

    /// Takes out the networks whose time is over, sorted.
    pub(crate) fn take_over(&mut self, now: Now) -> Vec<IpNet> {
        if self.0.is_empty() {
            return Vec::new();
        }
        let over: Vec<IpNet> =
            self.0.iter().filter(|(_, ends)| ends.is_past(now)).map(|(network, _)| *network).collect();
        for network in &over {
            self.0.remove(network);
        }
        over
    }
}
