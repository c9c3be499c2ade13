//! The lab: a demonstration of Shield on disposable machines, with measured times.
//!
//! [`world`] creates the machines, and [`story`] runs the steps on them. [`kernel`] and [`log`] observe the effects from
//! outside the agent with a resolution of milliseconds, so that the times do not depend on what the agent reports.
//! [`cdn`] is another story, behind a proxy, [`fleet`] one of several hosts, and [`canary`] one of configurations that are tried.
//! [`chaos`] breaks everything in turn, again and again, and checks what must always hold.
//! [`report`] holds the measurements, [`narrator`] prints the steps, and [`recording`] makes a picture of a terminal beside them.
//! `cargo xtask lab` and the test of the same name run the same story.

pub mod canary;
pub mod cdn;
pub mod chaos;
pub mod fleet;
pub mod history;
pub mod kernel;
pub mod log;
pub mod narrator;
pub mod recording;
pub mod report;
pub mod story;
pub mod world;
