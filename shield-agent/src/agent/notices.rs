//! Notices as lines of the agent's own log: past-tense facts with fields.

use std::sync::Arc;

use crate::api::feed::Feed;
use crate::clock;
use crate::notify::Hooks;
use crate::pipeline::Announce;
use crate::text;
use shield_engine::action::{LiftReason, Notice};
use shield_engine::time::Ends;

/// Returns a receiver that logs each notice and publishes it to the page.
pub(super) fn publisher(feed: Arc<Feed>) -> Announce {
    Box::new(move |notice| {
        log_notice(notice);
        feed.publish(notice, clock::now());
    })
}

/// Returns a receiver of notices that neither the engine nor the performer can give: they are why there is one. Those are in
/// the agent's log, on the page and with the operators' webhooks, and not in the audit log, which is the performer's.
pub(super) fn without_the_engine(feed: Arc<Feed>, hooks: Hooks) -> Announce {
    let mut publish = publisher(feed);
    Box::new(move |notice| {
        publish(notice);
        hooks.push(notice, clock::now().wall_ms);
    })
}

fn log_notice(notice: &Notice) {
    match notice {
        Notice::Banned(ban) => {
            let (ban, offence) = (ban.ban, ban.ban.offence_number());
            let (client, rule, until) = (ban.client, ban.rule, end_of(ban.ends));
            // A list's many thousand are one line of its part's state.
            if rule.is_listed() {
                tracing::debug!(%client, %rule, until, "banned");
            } else {
                tracing::info!(%client, %rule, offence, until, "banned");
            }
        }
        Notice::WouldBan { ban, because } => {
            let (client, rule, until) = (ban.ban.client, ban.ban.rule, end_of(ban.ban.ends));
            if rule.is_listed() {
                tracing::debug!(%client, %rule, until, %because, "would ban");
                return;
            }
            tracing::info!(%client, %rule, until, %because, "would ban");
        }
        Notice::Lifted { client, reason: reason @ LiftReason::Withdrawn, lasted_secs, .. } => {
            tracing::debug!(%client, reason = text::lift_reason_name(*reason), lasted_secs, "lifted");
        }
        Notice::Lifted { client, reason, lasted_secs, .. } => {
            tracing::info!(%client, reason = text::lift_reason_name(*reason), lasted_secs, "lifted");
        }
        Notice::Degraded { part, reason } => tracing::warn!(%part, %reason, "degraded"),
        Notice::Recovered { part, after_secs } => tracing::info!(%part, after_secs, "recovered"),
        Notice::Repaired { part, found, restored, removed } => {
            tracing::warn!(%part, %found, restored, removed, "repaired");
        }
        other => tracing::info!("{}", text::notice_line(other)),
    }
}

fn end_of(ends: Ends) -> String {
    match ends {
        Ends::Never => "lifted by hand".to_owned(),
        Ends::At { wall_ms, .. } => text::utc(wall_ms),
    }
}
