//! Shield's agent: reads an access log, learns what traffic looks like, and makes the kernel drop what does not.
//!
//! `engine` is the pure heart; everything else is the shell around it. Start reading at `engine/mod.rs`, then
//! `wire.rs`.

pub mod api;
pub mod backend;
pub mod cli;
pub mod clock;
pub mod config;
pub mod dry_run;
pub mod enforce;
pub mod host;
pub mod memory;
pub mod news;
pub mod notify;
pub mod owner;
pub mod performer;
pub mod replay;
pub mod search_engines;
pub mod source;
pub mod store;
pub mod wire;
