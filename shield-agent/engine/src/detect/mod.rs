//! Detection: requests are counted for each client, held against the site's baseline, and judged.

pub mod aim;
pub mod baseline;
#[cfg(test)]
mod classic_tests;
pub mod clients;
pub mod detector;
#[cfg(test)]
mod detector_tests;
pub mod footprint;
mod gate;
pub mod global;
pub mod hash;
pub mod moments;
pub mod names;
pub mod policy;
mod prefetch;
mod remembered;
pub mod ring;
pub mod rules;
pub mod shape;
#[cfg(test)]
mod site_tests;
pub mod trace;
pub mod trails;
pub mod window;
