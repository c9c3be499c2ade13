//! Where lines come from, and how bytes become requests.
//!
//! `format` understands lines. (More to follow.)

pub mod format;
