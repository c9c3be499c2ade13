//! The harness of the privileged tests, which use the real kernel, iptables, nginx, Chromium and agent binary.
//!
//! Every test creates its own machines ([`netns`]) under unique names, and checks at its end that it leaves nothing behind
//! ([`residue`]). Everything here needs root. A missing tool fails the test with the tool's name: a skipped test would look
//! like a success. `cargo xtask lab` and the benchmarks are binaries of this crate (`src/bin/`).

#![expect(clippy::print_stderr, reason = "a test's clean-up runs in `drop`, which cannot return its error")]

pub mod agent;
pub mod attack;
pub mod bpffs;
pub mod clock;
pub mod cloud;
pub mod fleet;
pub mod http;
pub mod lab;
pub mod mishap;
pub mod nginx;
pub mod old_kernel;
pub mod process;
pub mod programs;
pub mod proxied;
pub mod receiver;
pub mod rehearse;
pub mod relay;
pub mod residue;
pub mod site;
pub mod ssh;
pub mod systemd;
pub mod traffic;
pub mod unit;
pub mod variants;
pub mod wait;

pub use shield_lab::{command, netns};
