//! The vocabulary that `kernel`, `message` and `text` share: the sets' names, their properties and the changes to them.

use std::fmt;

/// A batch is abandoned after so many failures of single elements: the cause is not a single element then.
pub(super) const MAX_BAD_ELEMENTS: usize = 8;
/// By IP version.
pub(super) const SETS: [&str; 2] = ["shield4", "shield6"];

/// A set's properties, which are read without listing its elements.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) is_ours: bool,
    pub(super) max_entries: usize,
    /// Buckets of its hash.
    pub(super) buckets: usize,
    pub(super) entries: usize,
}

/// A change of elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verb {
    /// One that is present gets the new timeout, and keeps its counters where none are given.
    Add,
    /// One that is absent is no error.
    Remove,
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Verb::Add => "add to",
            Verb::Remove => "remove from",
        })
    }
}
