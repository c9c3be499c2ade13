//! Coverage-guided fuzz targets. Each is a function of bytes that panics where something is wrong; the binaries in
//! `bin/` hand it to libFuzzer. `cargo xtask fuzz TARGET` builds and runs them, `cargo xtask test` for a minute each.
//!
//! The agent's own sources are taken in by path and not as the crate `shield-agent`: what is fuzzed needs none of its
//! dependencies but a handful, and everything here is compiled a second time, with the fuzzer's instrumentation.

#[path = "../../../shield-agent/src/engine/mod.rs"]
#[expect(dead_code, reason = "the targets call a part of it")]
#[allow(missing_docs, reason = "documented where it belongs")]
mod engine;

pub mod blocks;
mod cursor;
pub mod differential;
pub mod lines;
mod reading;
pub mod requests;
mod seeds;
mod source;
mod writing;

pub use seeds::write as write_seeds;
