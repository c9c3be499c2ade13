//! Bans: who holds one, for how long, and what limits them.

pub mod allowlist;
pub mod backoff;
pub mod blast;
pub mod escalation;
pub mod extension;
pub mod leaks;
pub mod ledger;
