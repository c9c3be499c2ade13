//! What is said of lists that are read by URL.

use super::{bytes, count, counted, plural, utc};
use ipnet::IpNet;
use shield_engine::client::Client;

pub(crate) const DRY_RUN: &str = "a dry run reads no blocklists";
pub(crate) const READING: &str = "reading it for the first time";
pub(crate) const EMPTY: &str = "it holds no address: remove its section from the configuration if that is meant, and its bans are lifted";
pub(crate) const CUT_OFF: &str =
    "it may be cut off: the server does not say how long it is, and its last line has no end";
pub(crate) const REMOVED: &str = "it is no longer in the configuration: its bans are lifted";
pub(crate) const LOST: &str = "what was read before is no longer on the disk: it is read whole the next time";
pub(crate) const REDIRECTS: &str = "it redirects more than 5 times";

pub(crate) fn wrong_line(line: usize, why: &str) -> String {
    format!("line {line}: {why}")
}

pub(crate) fn no_client(found: &str) -> String {
    format!(
        "{found:?} is no address or network (a list with further columns needs format = \"columns\", one of JSON objects \
         \"json_lines\")"
    )
}

pub(crate) fn no_text(line: usize) -> String {
    format!("line {line} is no text: a list must not be compressed")
}

pub(crate) fn too_wide(client: Client) -> String {
    let width = match client.network() {
        IpNet::V4(net) => plural(1_u64 << (32 - net.prefix_len()), "address", "addresses"),
        IpNet::V6(net) => format!("2^{} networks of the size /64", 64_u8.saturating_sub(net.prefix_len())),
    };
    format!("{client} covers {width}, which no list may ban")
}

pub(crate) fn too_many(most: usize) -> String {
    format!("it holds more than {} addresses and networks, which is the most", count(most as u64))
}

pub(crate) fn too_large(most: usize) -> String {
    format!("it is larger than {}, which is the most", bytes(most as u64))
}

pub(crate) fn too_slow(secs: u64) -> String {
    format!("it was not there whole after {secs} s")
}

pub(crate) fn not_kept(why: &str) -> String {
    format!("it is in force, but could not be kept for the next start: {why}")
}

pub(crate) fn answered(url: &str, status: &str) -> String {
    format!("{url} answered {status}")
}

pub(crate) fn compressed(encoding: &str) -> String {
    format!("the server compresses it ({encoding}) though it was asked not to")
}

pub(crate) fn insecure(url: &str) -> String {
    format!("it redirects to {url}, which is without TLS: whoever is in between could ban anybody")
}

pub(crate) fn bad_redirect(url: &str) -> String {
    format!("{url} redirects to no address that can be used")
}

/// The detail of a state.
pub(crate) fn in_force(clients: u64, read_ms: i64, hits: (u64, u64)) -> String {
    let came = match hits {
        (0, _) => String::new(),
        (came, packets) => format!("; {} of them came, {} dropped", count(came), counted(packets, "packet")),
    };
    format!("{}, read at {}{came}", counted(clients, "client"), utc(read_ms))
}

/// A list that could not be read. `old` is what is in force instead: its clients, when it was read and how long it holds.
pub(crate) fn failed(why: &str, old: Option<(u64, i64, i64)>) -> String {
    let rest = match old {
        Some((clients, read_ms, until_ms)) => format!(
            "the list of {} ({}) stays in force until {}",
            utc(read_ms),
            counted(clients, "client"),
            utc(until_ms)
        ),
        None => "nobody is banned by it".to_owned(),
    };
    super::retrying(format!("could not refresh the list: {why}; {rest}"))
}
