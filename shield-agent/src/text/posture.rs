//! What is going on, in one line: what the page, `status` and `top` begin with.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use super::{count, counted, per_sec, plural};

pub(crate) const BLIND: &str = "Blind";
pub(crate) const ATTACK_UNHANDLED: &str = "Under attack, NOT handled";
pub(crate) const ATTACK_HANDLED: &str = "Under attack, handled";
pub(crate) const DEGRADED: &str = "Degraded";
pub(crate) const UNUSUAL: &str = "Unusual traffic";
pub(crate) const LEARNING: &str = "Learning";
pub(crate) const QUIET: &str = "Quiet";

/// Parts named in one line.
const PARTS_NAMED: usize = 3;

/// Clients that attack, and what keeps them out.
pub(crate) struct Attack<'a> {
    /// Bans by rules within the last `minutes`, by kind of attack.
    pub bans: &'a BTreeMap<&'static str, u64>,
    pub minutes: u64,
    /// Clients whose bans the limits or a pause withhold.
    pub withheld: u64,
    /// Why, in a clause.
    pub withheld_because: String,
    /// Banned clients whose requests still arrive.
    pub leaking: u64,
    pub is_dry: bool,
    pub is_enforced: bool,
    /// `None` when it is not worth a word.
    pub packets_per_sec: Option<f64>,
}

/// The whole server's traffic against what is usual.
pub(crate) enum Traffic {
    Unknown { rate: f64 },
    Usual { rate: f64 },
    More { rate: f64, mean: f64 },
}

/// `8 clients banned in 5 min (3 for probing, 3 for floods, 2 for guessing passwords), 325 packets/s dropped`.
pub(crate) fn attack(attack: &Attack<'_>) -> String {
    let mut clauses = Vec::new();
    if attack.withheld > 0 {
        let clients = plural(attack.withheld, "client gets", "clients get");
        clauses.push(format!("{clients} through, because {}", attack.withheld_because));
    }
    if attack.leaking > 0 {
        clauses.push(format!(
            "requests of {} still reach the web server",
            counted(attack.leaking, "banned client")
        ));
    }
    if !attack.is_enforced && !attack.is_dry {
        clauses.push("no enforcer is active, so nobody is kept out".to_owned());
    }
    let bans: u64 = attack.bans.values().sum();
    if bans > 0 {
        let made = if attack.is_dry { "dry run, nothing is dropped: would have made" } else { "made" };
        clauses.push(format!(
            "{made} {} in {} min ({})",
            counted(bans, "ban"),
            attack.minutes,
            kinds(attack.bans)
        ));
    }
    if let Some(rate) = attack.packets_per_sec {
        clauses.push(format!("{} packets/s dropped", count(rate.round() as u64)));
    }
    clauses.join("; ")
}

/// The most frequent first.
pub(super) fn kinds(bans: &BTreeMap<&'static str, u64>) -> String {
    let mut kinds: Vec<(&str, u64)> = bans.iter().map(|(kind, number)| (*kind, *number)).collect();
    kinds.sort_by_key(|(_, number)| Reverse(*number));
    let kinds: Vec<String> =
        kinds.iter().map(|(kind, number)| format!("{} for {kind}", count(*number))).collect();
    kinds.join(", ")
}

/// `14.10 req/s, usual`.
pub(crate) fn traffic(traffic: &Traffic) -> String {
    match *traffic {
        Traffic::Unknown { rate } => per_sec(rate),
        Traffic::Usual { rate } => format!("{}, usual", per_sec(rate)),
        Traffic::More { rate, mean } => format!("{}, usually {}", per_sec(rate), per_sec(mean)),
    }
}

/// `XDP (no driver support on eth0)`, or only the names of several.
pub(crate) fn parts(parts: &[(&str, &str)]) -> String {
    if let [(label, reason)] = parts {
        return format!("{label} ({reason})");
    }
    let named: Vec<&str> = parts.iter().take(PARTS_NAMED).map(|(label, _)| *label).collect();
    let more = match parts.len().saturating_sub(PARTS_NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!("{}{more}", named.join(", "))
}

/// The names alone, behind what weighs more.
pub(crate) fn degraded(parts: &[(&str, &str)]) -> String {
    let names: Vec<&str> = parts.iter().map(|(label, _)| *label).collect();
    format!("degraded: {}", names.join(", "))
}

/// Bans are stopped, although none is withheld now.
pub(crate) fn stopped(why: &str) -> String {
    format!("automatic bans are stopped: {why}")
}

/// Rules ban nobody, because an operator said so.
pub(crate) fn paused(until_ms: i64) -> String {
    format!("automatic bans are paused until {}", super::utc(until_ms))
}

/// The command that ends a pause or a stop.
pub(crate) const RESUME: &str = "shield-agent resume";

/// No log is read.
pub(crate) fn blind(source: Option<(&str, &str)>) -> String {
    match source {
        Some((label, reason)) => format!("no request is judged: {label}: {reason}"),
        None => "no request is judged: no log is configured".to_owned(),
    }
}

pub(crate) fn no_attack(minutes: u64) -> String {
    format!("no attack within {minutes} min")
}

pub(crate) fn no_attacker() -> String {
    "no client stands out".to_owned()
}

/// `waiting: Log access.log`.
pub(crate) fn waiting(labels: &[&str]) -> String {
    format!("waiting: {}", labels.join(", "))
}
