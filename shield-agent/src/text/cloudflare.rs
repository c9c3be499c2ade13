//! What is said of the list at Cloudflare.

use super::{bytes, count, counted, printable};
use crate::edge::cloudflare::ListCounts;

/// Characters of an answer that are repeated.
const REPEATED: usize = 80;

pub(crate) const READING: &str = "reading what the list holds";
pub(crate) const ENDLESS: &str =
    "the list does not come to an end: its pages repeat or hold over a million items";
pub(crate) const STUCK: &str = "a change of the list has not ended in 10 min";

/// A detail of the state.
pub(crate) fn items(counts: &ListCounts) -> String {
    let left_out = match counts.left_out {
        0 => String::new(),
        n => format!(", {} not in it", counted(n, "ban")),
    };
    format!(
        "{} in the list, {} pending{left_out}",
        counted(counts.items, "client"),
        counted(counts.pending, "change")
    )
}

/// What `cleanup` took away.
pub(crate) fn removed(items: u64) -> String {
    format!("{} from the list at Cloudflare", counted(items, "client"))
}

/// More bans than fit.
pub(crate) fn full(capacity: usize) -> String {
    format!(
        "the list is full ({} items): repeat offenders have its places, and other bans are in force on this host alone",
        count(capacity as u64)
    )
}

/// A refusal.
pub(crate) fn answered(status: u16, said: &str) -> String {
    let remedy = match status {
        401 | 403 => " (the token must be valid and may edit the account's filter lists)",
        404 => " (look at account and list in [cloudflare])",
        _ => "",
    };
    let said = if said.is_empty() { String::new() } else { format!(": {said}") };
    format!("Cloudflare answered {status}{remedy}{said}")
}

/// An operation that failed.
pub(crate) fn failed(error: &str) -> String {
    format!("Cloudflare did not make a change of the list: {error}")
}

/// An answer that does not fit.
pub(crate) fn nonsense(answer: &str) -> String {
    let begin: String = answer.chars().take(REPEATED).collect();
    format!("could not understand Cloudflare's answer, which begins: {}", printable(begin.trim()))
}

pub(crate) fn too_large(limit: u64) -> String {
    format!("could not read Cloudflare's answer: it is larger than {}", bytes(limit))
}
