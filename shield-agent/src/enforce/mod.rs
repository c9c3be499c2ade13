//! Makes the kernel drop packets: the [`Enforcer`] contract, its implementations, and the interpreter that runs them.
//!
//! An enforcer is a blocking object on a thread of its own (`interpreter`), so that a slow iptables never holds up XDP.
//!
//! The modules inside import from each other by their own paths. The names below are for the rest of the crate: an
//! import of them from inside would make a circle.

pub(crate) mod ahead;
pub(crate) mod ban;
pub(crate) mod desired;
pub(crate) mod enforcer;
pub(crate) mod interpreter;
pub(crate) mod iptables;
pub(crate) mod nginx;
pub(crate) mod pieces;
pub(crate) mod reconcile;
#[cfg(any(test, feature = "test-support"))]
pub(crate) mod simulator;
pub(crate) mod xdp;

pub(crate) use ban::{Ban, Drops, Slow};
pub(crate) use enforcer::Enforcer;
