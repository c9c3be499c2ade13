//! Coverage-guided fuzz targets. Each is a function of bytes that panics where something is wrong; the binaries in
//! `bin/` hand it to libFuzzer. `cargo xtask fuzz TARGET` builds and runs them, `cargo xtask test` for a minute each.

pub mod blocks;
mod cursor;
pub mod differential;
pub mod lines;
mod reading;
pub mod requests;
mod seeds;
mod writing;

pub use seeds::write as write_seeds;
