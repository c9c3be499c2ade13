//! What is said of CrowdSec's local API.

use super::{counted, printable};

pub(crate) const DRY_RUN: &str = "a dry run asks no CrowdSec";
pub(crate) const ASKING: &str = "asking for all decisions";

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
