//! Coverage-guided fuzz targets. Each is a function of bytes that panics when a property does not hold; the binaries in
//! `bin/` pass it to libFuzzer. `cargo xtask fuzz TARGET` builds and runs them as long as one likes, `cargo xtask test` with a
//! fixed seed and number of inputs: nothing here may depend on time, addresses or a random map.
//!
//! Seeds are generated (`seeds.rs`). What libFuzzer learned is kept in `target/fuzz/corpus` and never committed; a finding
//! that was fixed goes to `corpus/` here, from where `cargo test` replays it.

pub mod blocks;
mod cursor;
pub mod differential;
pub mod formats;
pub mod lines;
pub mod paths;
mod reading;
pub mod requests;
mod seeds;
pub mod times;
pub mod wrapped;
mod writing;

pub use seeds::{write as write_seeds, write_all as write_all_seeds};
