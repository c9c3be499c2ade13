//! What was lost when the database was damaged, what was saved from the kernel, and what the operator does about it.

use std::path::Path;

use super::{counted, duration};
use shield_engine::backoff::Term;

/// The reason that an adopted ban carries. The audit log has the true one, from when the ban was made.
pub(crate) const ADOPTED: &str = "taken over from the kernel when the database was damaged";

/// The state after a start that found the database damaged.
pub(crate) fn damaged(damage: &str, kept: &Path, adopted: &str) -> String {
    format!(
        "the database was damaged ({damage}); {adopted}; lost are why and by which rule they were banned (the audit log still has \
         it: `shield-agent audit report`), offences, the history, the operator's allowlist (`shield-agent allow` shows what is left) and \
         the learned baseline. The damaged file is kept as {}: this is said for a day, or until that file is moved away or deleted",
        kept.display()
    )
}

/// What was taken over: `bans` in all, `without_end` of them with the term of a first offence.
pub(crate) fn adopted(bans: u64, without_end: u64, first_term: Term, problems: &[String]) -> String {
    let mut words = format!("{} taken over from the kernel with their ends", counted(bans, "ban"));
    if without_end > 0 {
        let term = match first_term {
            Term::Secs(secs) => duration(secs),
            Term::Permanent => "no end".to_owned(),
        };
        words.push_str(&format!(" ({without_end} whose end the kernel does not know: {term} from now)"));
    }
    for problem in problems {
        words.push_str(&format!("; could not list the bans of {problem}"));
    }
    words
}
