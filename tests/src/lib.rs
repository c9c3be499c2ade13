//! The harness of the tests against the real thing: kernel, iptables, nginx, Chromium, the real agent binary.
//!
//! Every test makes its own machines ([`netns`]) under unique names, and proves at its end that nothing of it is left
//! ([`residue`]). Everything here needs root; a missing tool is a failure that names it, never a silent skip.
//! The bodies of `cargo xtask lab` and of the benchmarks are the binaries of this crate (`src/bin/`).

#![expect(clippy::print_stderr, reason = "a test's clean-up can only tell the one who watches it")]

pub mod agent;
pub mod bpffs;
pub mod command;
pub mod http;
pub mod lab;
pub mod netns;
pub mod nginx;
pub mod programs;
pub mod relay;
pub mod residue;
pub mod site;
pub mod traffic;
pub mod wait;
