//! The engine's vocabulary: plain data that goes in and comes out, without behaviour of its own.

pub mod action;
pub mod ban;
pub mod client;
pub mod event;
pub(crate) mod policy;
pub mod remote;
pub mod report;
pub mod request;
pub mod slow;
pub mod time;
pub mod verdict;
