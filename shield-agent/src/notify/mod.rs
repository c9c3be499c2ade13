//! Tells people: the audit log first, then Slack and a webhook. Bounded, and never in the way of a ban: writing a line
//! is all that the caller waits for.
//!
//! `audit` keeps the record. `words` says an event in a chat's lines, `slack` and `webhook` collect events for their
//! receiver, `courier` decides when to post, `post` does it. The live page is the API's business.

pub(crate) mod audit;
pub(crate) mod courier;
mod mailbox;
mod post;
#[cfg(test)]
mod samples;
pub(crate) mod secret;
mod slack;
mod webhook;
mod words;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use self::audit::AuditLog;
use self::courier::Pace;
use self::mailbox::Mailbox;
use self::post::{Delivery, Receiver};
use self::secret::Secret;
use self::slack::SlackBox;
use self::webhook::WebhookBox;
use crate::config::UrlFrom;
use shield_engine::action::Notice;
use shield_engine::event::{PartReport, PartState};
use shield_engine::time::Now;

/// Where a part's state is told. Called from several threads; it must not block.
pub(crate) type Report = Arc<dyn Fn(PartReport) + Send + Sync>;

/// Who is told, and where the record is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Settings {
    /// The audit log's file; made with mode 0640 when it is missing.
    pub audit: PathBuf,
    /// Slack's incoming webhook.
    pub slack: Option<UrlFrom>,
    /// A webhook that takes JSON.
    pub webhook: Option<UrlFrom>,
    /// How often is posted.
    pub pace: Pace,
    /// How long a receiver may take for its answer.
    pub timeout: Duration,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            audit: PathBuf::from("/var/log/shield/audit.jsonl"),
            slack: None,
            webhook: None,
            pace: Pace::default(),
            timeout: post::TIMEOUT,
        }
    }
}

/// Tells people.
pub(crate) struct Notifier {
    audit: AuditLog,
    audit_state: AuditState,
    slack: Option<Receiver<SlackBox>>,
    webhook: Option<Receiver<WebhookBox>>,
    report: Report,
}

/// What is on its way to those who are told by the network.
pub(crate) struct Outbox {
    deliveries: Vec<Delivery>,
}

impl Outbox {
    /// Posts what still waits, to all receivers at the same time, for at most `within`. For the end of the agent, when
    /// nothing is notified any more.
    pub(crate) async fn flush(self, within: Duration) {
        futures::future::join_all(self.deliveries.into_iter().map(|delivery| delivery.finish(within))).await;
    }
}

/// What was last reported of the audit log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum AuditState {
    Unknown,
    Active,
    Degraded,
}

impl Notifier {
    /// Starts the tasks that post, on the runtime of the one who calls. A receiver whose URL cannot be had is
    /// reported as degraded; nothing of this stops the agent. What is owed at the end is the outbox's business.
    pub(crate) fn start(settings: &Settings, report: Report) -> (Notifier, Outbox) {
        let (slack, to_slack) =
            start("slack", settings.slack.as_ref(), SlackBox::default(), settings, &report).unzip();
        let (webhook, to_webhook) =
            start("webhook", settings.webhook.as_ref(), WebhookBox::default(), settings, &report).unzip();
        let audit = AuditLog::new(&settings.audit);
        let notifier = Notifier { audit, audit_state: AuditState::Unknown, slack, webhook, report };
        (notifier, Outbox { deliveries: to_slack.into_iter().chain(to_webhook).collect() })
    }

    /// Records the event, then hands it to those who post.
    pub(crate) fn notify(&mut self, notice: &Notice, now: Now) {
        let recorded = self.audit.append(notice, now);
        self.report_audit(&recorded);
        if let Some(slack) = &self.slack {
            slack.put(notice, now.wall_ms);
        }
        if let Some(webhook) = &self.webhook {
            webhook.put(notice, now.wall_ms);
        }
    }

    fn report_audit(&mut self, recorded: &anyhow::Result<()>) {
        let state = if recorded.is_ok() { AuditState::Active } else { AuditState::Degraded };
        if std::mem::replace(&mut self.audit_state, state) == state {
            return;
        }
        let state = match recorded {
            Ok(()) => PartState::Active { detail: "one line an event".into() },
            Err(error) => PartState::Degraded {
                reason: format!(
                    "{error:#}; events are counted and their number recorded when it can be written"
                ),
            },
        };
        (self.report)(PartReport { part: "audit".into(), state, repaired: None });
    }
}

fn start<M: Mailbox>(
    part: &'static str,
    url: Option<&UrlFrom>,
    mailbox: M,
    settings: &Settings,
    report: &Report,
) -> Option<(Receiver<M>, Delivery)> {
    let started = url.map(|from| {
        let url = Secret::load(from)?;
        Receiver::start(part, mailbox, url, settings.pace, settings.timeout, Arc::clone(report))
    });
    let (receiver, state) = match started {
        None => (None, post::off()),
        Some(Ok(receiver)) => (Some(receiver), PartState::Active { detail: "a URL is configured".into() }),
        Some(Err(error)) => (None, PartState::Degraded { reason: format!("{error:#}") }),
    };
    report(PartReport { part: part.into(), state, repaired: None });
    receiver
}

#[cfg(test)]
mod tests;
