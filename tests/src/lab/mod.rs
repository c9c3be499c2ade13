//! The lab: a demonstration of Shield on disposable machines, with measured times.
//!
//! [`world`] creates the machines, and [`story`] runs the steps on them. [`kernel`] and [`log`] observe the effects from
//! outside the agent with a resolution of milliseconds, so that the times do not depend on what the agent reports.
//! [`cdn`] is another story, behind a proxy, and [`fleet`] one of several hosts. [`report`] holds the measurements, and [`narrator`] prints the steps. `cargo xtask lab` and the test of the same name run
//! the same story.

pub mod cdn;
pub mod fleet;
pub mod history;
pub mod kernel;
pub mod log;
pub mod narrator;
pub mod report;
pub mod story;
pub mod world;
