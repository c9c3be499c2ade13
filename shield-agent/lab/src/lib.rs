//! Disposable environments: a server with the operator's own nginx, visitors and attackers, each a network namespace. All
//! that is made here carries a marker, and only what carries it is ever stopped, broken or deleted.
//!
//! [`create`] makes one and [`destroy`] takes it down; [`environment`] is what is known of it in between, and [`service`] looks
//! after all of them.

#![expect(clippy::print_stderr, reason = "a namespace is deleted in `drop`, which cannot return its error")]

mod agent;
pub mod agent_api;
pub mod api;
pub mod app;
pub mod attack;
pub mod client;
pub mod command;
pub mod create;
pub mod destroy;
pub mod door;
pub mod environment;
mod fleet;
pub mod front;
pub mod guard;
pub mod health;
pub mod launch;
pub mod logs;
pub mod netns;
pub mod outage;
pub mod paths;
pub mod rehearse;
mod rewrite;
mod server;
pub mod service;
pub mod state;
pub mod topology;
pub mod visitors;
pub mod wire;
