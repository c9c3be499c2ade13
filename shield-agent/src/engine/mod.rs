//! The pure heart: no I/O, no clock, no tokio, no aya. Time comes in as an argument, effects go out as data.

pub mod action;
pub mod allowlist;
pub mod backoff;
pub mod client;
pub mod detector;
pub mod event;
pub mod ledger;
pub mod policy;
pub mod reconcile;
pub mod report;
pub mod request;
pub mod time;
pub mod verdict;
