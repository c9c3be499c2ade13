//! Bans: the ledger, the terms, and the limits.

pub(crate) mod allow_ends;
pub mod allowlist;
pub mod backoff;
pub(crate) mod blast;
pub(crate) mod escalation;
pub(crate) mod extension;
pub(crate) mod leaks;
pub(crate) mod ledger;
pub(crate) mod pause;
pub(crate) mod peers;
pub mod remote;
pub(crate) mod short;
pub mod slot_index;
pub(crate) mod slow;
mod spans;
