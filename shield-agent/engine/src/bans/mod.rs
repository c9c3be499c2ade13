//! Bans: who holds one, for how long, and what limits them.

pub mod allowlist;
pub mod backoff;
pub(crate) mod blast;
pub(crate) mod escalation;
pub(crate) mod extension;
pub(crate) mod leaks;
pub(crate) mod ledger;
