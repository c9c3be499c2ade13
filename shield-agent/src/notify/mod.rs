//! Notifications: the audit log first, then Slack and a webhook. Bounded, and never in the way of a ban: appending one
//! line is all that the caller waits for.
//!
//! `audit` keeps the record. `message` lays out chat messages, `slack` and `webhook` queue events for their receiver,
//! `trial` posts a test message, `dispatch` paces and retries posts, `post` sends them, `hooks` starts and changes the receivers. The live page is the API's business.

pub(crate) mod audit;
pub(crate) mod dispatch;
mod hooks;
mod message;
pub(crate) mod post;
mod queue;
#[cfg(test)]
pub(crate) mod samples;
pub(crate) mod secret;
mod slack;
mod trial;
mod webhook;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use self::audit::AuditLog;
pub(crate) use self::audit::AuditRecord;
use self::dispatch::Pace;
pub(crate) use self::hooks::Hooks;
pub(crate) use self::trial::{Trial, test_posts};
use crate::config::UrlFrom;
use shield_engine::action::Notice;
use shield_engine::event::{PartReport, PartState};
use shield_engine::time::Now;

/// Receives the parts' states. Called from several threads; it must not block.
pub(crate) type Report = Arc<dyn Fn(PartReport) + Send + Sync>;

/// Receivers and the audit log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Settings {
    /// The audit log's file; created with mode 0640.
    pub audit: PathBuf,
    /// Slack's incoming webhook.
    pub slack: Option<UrlFrom>,
    /// A webhook that takes JSON.
    pub webhook: Option<UrlFrom>,
    pub events: Events,
    pub pace: Pace,
    /// Timeout of one post.
    pub timeout: Duration,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            audit: PathBuf::from("/var/log/shield/audit.jsonl"),
            slack: None,
            webhook: None,
            events: Events::default(),
            pace: Pace::default(),
            timeout: post::TIMEOUT,
        }
    }
}

/// The kinds of events that each receiver is told, `None` for the usual ones, and what its messages link to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Events {
    pub slack: Option<Vec<String>>,
    pub webhook: Option<Vec<String>>,
    /// The address under which readers of alerts reach the live page.
    pub page_url: Option<String>,
}

/// That address, shared with the queues, because a reload can change it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Links(Arc<Mutex<Option<String>>>);

impl Links {
    fn set(&self, page: Option<&str>) {
        *self.lock() = page.map(str::to_owned);
    }

    fn page(&self) -> Option<String> {
        self.lock().clone()
    }

    /// A poisoned lock is used as it is.
    fn lock(&self) -> MutexGuard<'_, Option<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// This host's name, as messages name it.
fn host() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned()
}

/// Records events and hands them to the receivers.
pub(crate) struct Notifier {
    audit: AuditLog,
    audit_state: AuditState,
    hooks: Hooks,
    report: Report,
}

/// Events that are queued or being posted.
pub(crate) struct Outbox {
    hooks: Hooks,
}

impl Outbox {
    /// Posts what still waits, to all receivers concurrently, for at most `within`. Call it last: events pushed later
    /// are lost.
    pub(crate) async fn flush(self, within: Duration) {
        let deliveries = self.hooks.close();
        futures::future::join_all(deliveries.into_iter().map(|delivery| delivery.finish(within))).await;
    }

    /// The receivers, to change them at run time.
    pub(crate) fn hooks(&self) -> Hooks {
        self.hooks.clone()
    }
}

/// The audit log's state as last reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum AuditState {
    Unknown,
    Active,
    Degraded,
}

impl Notifier {
    /// Starts the posting tasks on the caller's runtime. A receiver whose URL cannot be loaded is reported as degraded;
    /// it does not stop the agent, because protection matters more than messages about it.
    pub(crate) fn start(settings: &Settings, record: AuditRecord, report: Report) -> (Notifier, Outbox) {
        let hooks = Hooks::start(settings, Arc::clone(&report));
        let audit = AuditLog::resume(&settings.audit, record);
        let notifier = Notifier { audit, audit_state: AuditState::Unknown, hooks: hooks.clone(), report };
        (notifier, Outbox { hooks })
    }

    /// Appends the event to the audit log, then queues it for the receivers.
    pub(crate) fn notify(&mut self, notice: &Notice, now: Now) {
        let recorded = self.audit.append(notice, now);
        self.report_audit(&recorded);
        self.hooks.push(notice, now.wall_ms);
    }

    fn report_audit(&mut self, recorded: &anyhow::Result<()>) {
        let state = if recorded.is_ok() { AuditState::Active } else { AuditState::Degraded };
        if std::mem::replace(&mut self.audit_state, state) == state {
            return;
        }
        let state = match recorded {
            Ok(()) => PartState::Active { detail: "writing".into() },
            Err(error) => PartState::Degraded {
                reason: format!("{error:#}; missed events are counted and recorded once it can be written"),
            },
        };
        (self.report)(PartReport { part: "audit".into(), state, repaired: None });
    }
}

#[cfg(test)]
mod tests;
