//! What is said of the fleet.

use super::rule_sentence;
use crate::api::types::{FleetView, Trust, Wanted};
use shield_engine::verdict::Rule;

/// The grounds of a ban whose evidence is not at hand.
pub(crate) fn why(rule: Rule) -> String {
    format!("{rule}: {}", rule_sentence(rule))
}

/// The detail of a state.
pub(crate) fn taking_part(name: &str, servers: &[String]) -> String {
    format!("as {name}, over {}", servers.join(","))
}

pub(crate) fn cut_off(servers: &[String]) -> String {
    super::retrying(format!(
        "no connection to {}; bans of this host are in force here, and others hear of them once it is back",
        servers.join(",")
    ))
}

/// Why there is no connection, by what the attempt said.
pub(crate) fn no_connection(servers: &str, said: &str) -> String {
    let said = said.to_lowercase();
    let cause = if said.contains("unknownissuer") || said.contains("unknown issuer") {
        "no authority that this host trusts has signed the server's certificate: name the one that has with ca_file in [fleet]"
    } else if said.contains("expired") {
        "the server's certificate has expired, or this host's clock is wrong"
    } else if said.contains("notvalidforname") || said.contains("not valid for name") {
        "the server's certificate is for another name than the one in url in [fleet]"
    } else {
        "is nats-server running there, and do the credentials belong to it?"
    };
    format!("could not connect to {servers}: {cause}")
}

/// A refused publish is answered by nothing, so that the permissions are the likeliest cause.
pub(crate) fn refused(name: &str, why: &str) -> String {
    format!(
        "could not tell the fleet what is banned here ({why}): is name = \"{name}\" in [fleet] the one that these credentials may \
         publish as?"
    )
}

/// Dry runs.
pub(crate) const DRY_RUN: &str = "a dry run tells no fleet anything and hears none";

/// A host that was never heard.
pub(crate) fn unknown(name: &str) -> String {
    format!(
        "no host named {:?} was ever heard here: `shield-agent fleet` lists those that were",
        super::printable(name)
    )
}

/// What the word of another host is worth.
pub(crate) fn trust(trust: Trust) -> &'static str {
    match trust {
        Trust::Full => "counts",
        Trust::Limited => "over a limit: new bans are only noted",
        Trust::Harmful => "not believed for an hour: it wanted too many good clients banned",
        Trust::Forgotten => "not believed: forgotten by an operator",
    }
}

/// Who else wants a client banned, and why.
pub(crate) fn wanted(wanted: &Wanted) -> String {
    let name = super::printable(&wanted.origin);
    let who = match name.split_once(':') {
        Some(("fleet", host)) => format!("{host}, a host of the fleet"),
        Some(("blocklist", list)) => format!("the blocklist {list}"),
        Some(("crowdsec", _)) => "CrowdSec".to_owned(),
        _ => name.clone(),
    };
    let since = super::utc(wanted.since_ms);
    let until = wanted.ends_ms.map(|ends| format!(" until {}", super::utc(ends))).unwrap_or_default();
    let why =
        if wanted.why.is_empty() { String::new() } else { format!(": {}", super::printable(&wanted.why)) };
    let counts = if wanted.counts { "" } else { " (its word does not count here now)" };
    format!("{who}: {} since {since}{until}{counts}{why}", wanted.client)
}

/// The fleet in one line.
pub(crate) fn summary(view: &FleetView) -> String {
    let Some(name) = &view.name else {
        return "this host is part of no fleet: [fleet] url in the configuration".to_owned();
    };
    let connection = match view.connected {
        true => format!("connected to {}", super::printable(&view.server)),
        false => "not connected: bans of this host are in force here, and are told once it is".to_owned(),
    };
    let waiting = match view.waiting {
        0 => String::new(),
        waiting => format!(", {} not told yet", super::count(waiting)),
    };
    let unread = match view.unread + view.newer {
        0 => String::new(),
        unread => format!(
            "; {} could not be read ({} of a newer Shield)",
            super::counted(unread, "message"),
            view.newer
        ),
    };
    format!(
        "{name}, {connection}; {}{waiting}{unread}",
        super::plural(view.own_bans, "ban of its own", "bans of its own")
    )
}
