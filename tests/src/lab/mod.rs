//! The lab: Shield's whole story between disposable machines, told with its times.
//!
//! [`world`] is the machines, [`story`] what happens on them, [`kernel`] and [`log`] watch with millisecond resolution what the
//! story claims, [`report`] is what was measured, [`narrator`] how it is told. `cargo xtask lab` and the test of the
//! same name run the very same story.

pub mod history;
pub mod kernel;
pub mod log;
pub mod narrator;
pub mod report;
pub mod story;
pub mod world;
