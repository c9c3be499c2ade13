//! What is said of CrowdSec's local API.

use super::{counted, printable};
use shield_engine::client::Client;
use shield_engine::verdict::Rule;

pub(crate) const DRY_RUN: &str = "a dry run asks no CrowdSec";
pub(crate) const ASKING: &str = "asking for all decisions";
pub(crate) const LOGGING_IN: &str = "logging in";
pub(crate) const REMOVED: &str = "taken out of the configuration";
pub(crate) const NO_TOKEN: &str = "its answer to the login has no token";

pub(crate) fn no_client(id: u64, value: &str) -> String {
    format!("decision {id} is about {:?}, which is no address or network", printable(value))
}

pub(crate) fn no_duration(id: u64, duration: &str) -> String {
    format!("decision {id} has the duration {:?}, which is none", printable(duration))
}

/// The detail of a state.
pub(crate) fn in_force(clients: u64, ignored: u64) -> String {
    let ignored = match ignored {
        0 => String::new(),
        ignored => {
            format!("; {} about neither addresses nor networks left out", counted(ignored, "decision"))
        }
    };
    format!("decisions about {}{ignored}", counted(clients, "client"))
}

/// A refusal.
pub(crate) fn answered(status: u16, said: &str) -> String {
    let remedy = match status {
        401 | 403 => {
            " (is the key in key_file that of a bouncer? `cscli bouncers add shield` prints a new one)"
        }
        404 => " (is url in [crowdsec] that of the local API, usually http://127.0.0.1:8080/?)",
        _ => "",
    };
    let said = if said.is_empty() { String::new() } else { format!(": {said}") };
    format!("it answered {status}{remedy}{said}")
}

pub(crate) fn nonsense(why: &str) -> String {
    format!("its answer is no list of decisions: {why}")
}

pub(crate) fn too_large(most: &str) -> String {
    format!("its answer is larger than {most}")
}

/// Nothing can be heard now.
pub(crate) fn failed(why: &str, clients: u64) -> String {
    let rest = match clients {
        0 => String::new(),
        clients => format!(
            "; its decisions about {} hold until their ends, a day at most",
            counted(clients, "client")
        ),
    };
    super::retrying(format!("could not ask CrowdSec's local API: {why}{rest}"))
}

/// What is missing in a machine's login.
pub(crate) fn no_login(key: &str) -> String {
    format!(
        "could not use the machine's login: it has no line \"{key}: …\", as `cscli machines add NAME --auto -f FILE` writes it"
    )
}

/// The message of an alert.
pub(crate) fn alert(client: Client, rule: Rule) -> String {
    format!("Shield banned {client}: {}", super::rule_title(rule))
}

pub(crate) fn login_refused(login: &str, status: u16, said: &str) -> String {
    let said = if said.is_empty() { String::new() } else { format!(": {said}") };
    format!(
        "it answered {status} to the login of {}{said} (is it a machine there, and validated? `cscli machines list` shows them, \
         `cscli machines add NAME --auto -f FILE` makes one)",
        printable(login)
    )
}

pub(crate) fn unexpected(to_what: &str, status: u16, said: &str) -> String {
    let said = if said.is_empty() { String::new() } else { format!(": {said}") };
    format!("it answered {status} {to_what}{said}")
}

pub(crate) fn no_alerts(why: &str) -> String {
    format!("its answer is no list of alerts: {why}")
}

pub(crate) fn not_taken(why: &str) -> String {
    format!("CrowdSec's local API did not take a ban, which stays in force here: {why}")
}

/// Nothing can be told now.
pub(crate) fn not_told(why: &str, waiting: u64) -> String {
    let rest = match waiting {
        0 => String::new(),
        waiting => format!("; {} of this host's wait, in force here", counted(waiting, "ban")),
    };
    super::retrying(format!("could not tell CrowdSec's local API: {why}{rest}"))
}

/// The detail of a state.
pub(crate) fn telling(told: u64, allowed: u64, refused: u64, has_allowlists: bool) -> String {
    let mut detail = format!("{} of this host's told", counted(told, "ban"));
    if allowed > 0 {
        detail.push_str(&format!(
            "; {} not told, because CrowdSec's allowlist has them",
            counted(allowed, "client")
        ));
    }
    if refused > 0 {
        detail.push_str(&format!("; {} not taken, which the log names", counted(refused, "ban")));
    }
    if !has_allowlists {
        detail.push_str("; this CrowdSec has no allowlists to ask");
    }
    detail
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_and_what_is_not() {
        let check = |of: (u64, u64, u64, bool), expected: &str| {
            assert_eq!(telling(of.0, of.1, of.2, of.3), expected);
        };
        check((1, 0, 0, true), "1 ban of this host's told");
        check(
            (2, 1, 1, false),
            "2 bans of this host's told; 1 client not told, because CrowdSec's allowlist has them; 1 ban not taken, which the log \
             names; this CrowdSec has no allowlists to ask",
        );
    }
}
