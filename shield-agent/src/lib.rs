//! Shield's agent: reads an access log, learns what traffic looks like, and makes the kernel drop what does not.
//!
//! This crate is the shell around `shield-engine`, which decides, and `shield-logline`, which reads lines. Its only
//! public surface is the command line; start reading at `agent/mod.rs`.

#![cfg_attr(
    not(feature = "test-support"),
    allow(unreachable_pub, reason = "the items behind `test_support` are public for it alone")
)]
#![cfg_attr(
    feature = "test-support",
    allow(missing_docs, reason = "what only tests and benchmarks reach is documented where it needs to be")
)]

mod address_owner;
mod agent;
mod api;
mod beat;
mod blocklist;
mod canary;
mod cli;
mod clock;
mod config;
mod crowdsec;
mod dry_run;
mod duration;
mod edge;
mod enforce;
mod file_stamp;
mod fleet;
mod host;
mod in_front;
mod latencies;
mod log_lines;
mod manifest;
mod memory;
mod netns_lock;
mod network_monitor;
mod notify;
mod own_bans;
mod owner;
mod performer;
mod pipeline;
mod policy;
mod port_holder;
mod random;
mod replay;
mod search_engines;
mod sites;
mod source;
mod ssh;
mod stages;
mod store;
mod suggest;
mod tcp_sockets;
#[cfg(test)]
mod test_owner;
#[cfg(feature = "test-support")]
pub mod test_support;
mod text;

pub use cli::print::error as print_error;
pub use cli::{Cli, Exit};
