//! Slowed clients in words.

use shield_engine::slowed::{SlowGrounds, SlowLimits, Slowed};
use shield_engine::time::Ends;

use super::{counted, duration, rule_sentence};

/// `for 10 min to 2 connections/s and 20 packets/s`.
pub(crate) fn slow_term(slowed: &Slowed) -> String {
    let Ends::At { wall_ms, .. } = slowed.ends else { return slow_limits(slowed.limits) };
    let secs = (wall_ms.saturating_sub(slowed.since_ms).max(0) as u64 + 500) / 1000;
    format!("for {} {}", duration(secs), slow_limits(slowed.limits))
}

/// `to 2 connections/s and 20 packets/s`.
pub(crate) fn slow_limits(limits: SlowLimits) -> String {
    format!("to {} connections/s and {} packets/s", limits.connections.per_sec, limits.packets.per_sec)
}

/// The reason why a client is slowed.
pub(crate) fn slow_cause(slowed: &Slowed) -> String {
    let rule = rule_sentence(slowed.rule);
    match slowed.grounds {
        SlowGrounds::Evidence { points, bar } => {
            format!("{points} of the {bar} points of evidence that a ban takes ({rule})")
        }
        SlowGrounds::Withheld => format!("{rule}, but it was served well before: its ban waits"),
        SlowGrounds::Policy => format!("{rule}; the policy slows it"),
        SlowGrounds::FirstStep => format!("{rule}, for the first time"),
        SlowGrounds::Hopping { clients } => {
            let clients = counted(clients.into(), "client");
            format!("{clients} or more in this network only probe, and share these limits")
        }
    }
}
