//! Detection: requests are counted for each client, held against the site's baseline, and judged.

pub(crate) mod activity;
pub(crate) mod baseline;
#[cfg(test)]
mod classic_tests;
pub(crate) mod clients;
pub mod detector;
#[cfg(test)]
mod detector_tests;
pub(crate) mod global;
pub mod hash;
pub(crate) mod hashed_path;
pub(crate) mod moments;
pub(crate) mod path_interner;
pub mod policy;
mod prefetch;
mod prefilter;
pub(crate) mod ring;
pub mod rules;
pub mod shape;
mod shape_cache;
#[cfg(test)]
mod site_tests;
pub(crate) mod targets;
pub(crate) mod thresholds;
pub mod trace;
pub(crate) mod window;
