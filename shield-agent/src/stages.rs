//! The moments at which a ban passes the stages of its way, as trace events of the target [`TARGET`], for whoever asks why one
//! was late (`cargo xtask bench latency --explain-slow`). Times are of the monotonic clock, in microseconds. Without a filter
//! that names the target nothing is read or written.

use std::time::Instant;

use nix::time::{ClockId, clock_gettime};

use shield_engine::action::{Action, Order};
use shield_engine::client::Client;

/// What `[agent] log` has to name, as `info,stages=trace`.
pub(crate) const TARGET: &str = "stages";

/// Whether anybody asks.
pub(crate) fn are_traced() -> bool {
    tracing::enabled!(target: TARGET, tracing::Level::TRACE)
}

/// The bans of lines that their source delivered then have been decided.
pub(crate) fn judged(actions: &[Action], delivered: Instant) {
    if !are_traced() {
        return;
    }
    let at = now_us();
    let delivered_us = at - i64::try_from(delivered.elapsed().as_micros()).unwrap_or(0);
    for client in banned(actions.iter().filter_map(order)) {
        tracing::trace!(target: TARGET, %client, delivered_us, at_us = at, "judged");
    }
}

/// These orders are the enforcers' now: what had to be in the database before is.
pub(crate) fn ordered(orders: &[Order]) {
    if are_traced() {
        passed("ordered", banned(orders.iter()));
    }
}

/// An enforcer has taken these bans in hand, or has put them in force.
pub(crate) fn passed(stage: &str, clients: impl Iterator<Item = Client>) {
    if !are_traced() {
        return;
    }
    let at = now_us();
    for client in clients {
        tracing::trace!(target: TARGET, %client, at_us = at, "{stage}");
    }
}

fn order(action: &Action) -> Option<&Order> {
    if let Action::Enforce(order) = action { Some(order) } else { None }
}

fn banned<'a>(orders: impl Iterator<Item = &'a Order>) -> impl Iterator<Item = Client> {
    orders.filter_map(|order| match order {
        Order::Ban { client, .. } => Some(client.client()),
        _ => None,
    })
}

fn now_us() -> i64 {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("this clock exists on every Linux");
    time.tv_sec() * 1_000_000 + time.tv_nsec() / 1_000
}
