//! The receivers of events, Slack and a webhook, and their change at run time: a reload reads each URL again, and a file that
//! was not there at the start is looked for until it is.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::dispatch::Pace;
use super::post::{self, Delivery, Receiver};
use super::queue::EventQueue;
use super::secret::Secret;
use super::slack::SlackQueue;
use super::webhook::WebhookQueue;
use super::{Events, Links, Report, Settings, message};
use crate::config::UrlFrom;
use crate::text;
use shield_engine::action::Notice;
use shield_engine::event::{PartReport, PartState};

/// Time for what still waits for the URL of before.
const FAREWELL: Duration = Duration::from_secs(10);

/// All receivers. A clone is the same ones.
#[derive(Clone)]
pub(crate) struct Hooks(Arc<Mutex<Inner>>);

struct Inner {
    slack: Hook<SlackQueue>,
    webhook: Hook<WebhookQueue>,
    links: Links,
    pace: Pace,
    timeout: Duration,
    report: Report,
}

struct Hook<M> {
    part: &'static str,
    from: Option<UrlFrom>,
    /// The kinds of events that are told; `None` for the usual ones.
    events: Option<Vec<String>>,
    is_usual: fn(&Notice) -> bool,
    running: Option<Running<M>>,
    /// The last attempt to load the URL failed.
    has_failed: bool,
}

struct Running<M> {
    url: Secret,
    receiver: Receiver<M>,
    delivery: Delivery,
}

/// What [`Hooks::set`] did, each item in a line.
#[derive(Debug, Default)]
pub(crate) struct Set {
    /// Receivers that post to another URL from now on.
    pub fresh: Vec<String>,
    /// What could not be done.
    pub failed: Vec<String>,
}

/// What becomes of a receiver. Made without the lock: reading a file and the system's certificates takes its time.
enum Next<M> {
    /// It goes on as it is.
    Same,
    Off,
    Started(Running<M>),
    Failed {
        reason: String,
        /// Whether the URL of before is still used.
        goes_on: bool,
    },
}

impl Hooks {
    /// Starts the receivers on the caller's runtime.
    pub(super) fn start(settings: &Settings, report: Report) -> Hooks {
        let hooks = Hooks(Arc::new(Mutex::new(Inner {
            slack: Hook::new("slack", message::is_usual),
            webhook: Hook::new("webhook", |_| true),
            links: Links::default(),
            pace: settings.pace,
            timeout: settings.timeout,
            report,
        })));
        hooks.set_events(settings.events.clone());
        // Failures are reported as states.
        hooks.set(settings.slack.as_ref(), settings.webhook.as_ref());
        hooks
    }

    /// Tells each receiver these kinds of events from now on, with links to that page.
    pub(crate) fn set_events(&self, events: Events) {
        let mut inner = self.lock();
        inner.slack.events = events.slack;
        inner.webhook.events = events.webhook;
        inner.links.set(events.page_url.as_deref());
    }

    /// Reads each URL again and posts to it from now on. What could not be done is the part's state, too. Blocks while it
    /// reads.
    pub(crate) fn set(&self, slack: Option<&UrlFrom>, webhook: Option<&UrlFrom>) -> Set {
        let mut set = Set::default();
        self.set_one(slack, |inner| &mut inner.slack, &mut set);
        self.set_one(webhook, |inner| &mut inner.webhook, &mut set);
        set
    }

    /// Looks again for files that were not there. Blocks while it reads.
    pub(crate) fn retry(&self) {
        self.retry_one(|inner| &mut inner.slack);
        self.retry_one(|inner| &mut inner.webhook);
    }

    /// Whether there is a file to look for.
    pub(crate) fn is_waiting(&self) -> bool {
        let inner = self.lock();
        inner.slack.is_waiting() || inner.webhook.is_waiting()
    }

    /// Queues an event for every receiver.
    pub(crate) fn push(&self, notice: &Notice, at_ms: i64) {
        let inner = self.lock();
        inner.slack.push(notice, at_ms);
        inner.webhook.push(notice, at_ms);
    }

    /// Takes the receivers away, to finish what they still have.
    pub(super) fn close(&self) -> Vec<Delivery> {
        let mut inner = self.lock();
        let slack = inner.slack.running.take().map(|running| running.delivery);
        let webhook = inner.webhook.running.take().map(|running| running.delivery);
        slack.into_iter().chain(webhook).collect()
    }

    fn set_one<M: EventQueue + Default>(
        &self,
        from: Option<&UrlFrom>,
        hook: fn(&mut Inner) -> &mut Hook<M>,
        set: &mut Set,
    ) {
        let (part, url, is_same_place) = {
            let mut inner = self.lock();
            let hook = hook(&mut inner);
            let url = hook.running.as_ref().map(|running| running.url.clone());
            (hook.part, url, hook.from.as_ref() == from)
        };
        let next = match from {
            None => Next::Off,
            Some(from) => match Secret::load(from) {
                Ok(new) if url.as_ref() == Some(&new) => Next::Same,
                Ok(new) => self.started(part, new),
                Err(error) if is_same_place && url.is_some() => {
                    Next::Failed { reason: text::reload::url_stays(&format!("{error:#}")), goes_on: true }
                }
                Err(error) => {
                    let why = format!("{error:#}");
                    let reason = if matches!(from, UrlFrom::File(_)) { text::retrying(why) } else { why };
                    Next::Failed { reason, goes_on: false }
                }
            },
        };
        if matches!(next, Next::Started(_)) {
            set.fresh.push(format!("[{part}] url: another one was read"));
        }
        set.failed.extend(self.install(from, next, hook));
    }

    fn retry_one<M: EventQueue + Default>(&self, hook: fn(&mut Inner) -> &mut Hook<M>) {
        let (part, from) = {
            let mut inner = self.lock();
            let hook = hook(&mut inner);
            (hook.part, hook.from.clone().filter(|_| hook.is_waiting()))
        };
        if let Some(from) = from
            && let Ok(url) = Secret::load(&from)
        {
            // A failure is reported as a state.
            let _ = self.install(Some(&from), self.started(part, url), hook);
        }
    }

    fn started<M: EventQueue + Default>(&self, part: &'static str, url: Secret) -> Next<M> {
        let mut queue = M::default();
        let (pace, timeout, report) = {
            let inner = self.lock();
            queue.link_to(&inner.links);
            (inner.pace, inner.timeout, Arc::clone(&inner.report))
        };
        match Receiver::start(part, queue, url.clone(), pace, timeout, report) {
            Ok((receiver, delivery)) => Next::Started(Running { url, receiver, delivery }),
            Err(error) => Next::Failed { reason: format!("{error:#}"), goes_on: false },
        }
    }

    /// Puts a receiver in force and reports the part's state.
    fn install<M: EventQueue>(
        &self,
        from: Option<&UrlFrom>,
        next: Next<M>,
        hook: fn(&mut Inner) -> &mut Hook<M>,
    ) -> Option<String> {
        let mut inner = self.lock();
        let report = Arc::clone(&inner.report);
        let hook = hook(&mut inner);
        hook.from = from.cloned();
        let configured = || PartState::Active { detail: "URL configured".into() };
        let (state, failure) = match next {
            Next::Same => (std::mem::take(&mut hook.has_failed).then(configured), None),
            Next::Off => {
                hook.replace(None);
                (Some(post::off()), None)
            }
            Next::Started(running) => {
                hook.replace(Some(running));
                (Some(configured()), None)
            }
            Next::Failed { reason, goes_on } => {
                if !goes_on {
                    hook.replace(None);
                }
                let failure = format!("[{}] url: {reason}", hook.part);
                (Some(PartState::Degraded { reason }), Some(failure))
            }
        };
        hook.has_failed = failure.is_some();
        if let Some(state) = state {
            report(PartReport { part: hook.part.into(), state, repaired: None });
        }
        failure
    }

    /// Never held across reading or waiting. A poisoned lock is used as it is.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<M: EventQueue> Hook<M> {
    fn new(part: &'static str, is_usual: fn(&Notice) -> bool) -> Hook<M> {
        Hook { part, from: None, events: None, is_usual, running: None, has_failed: false }
    }

    fn is_waiting(&self) -> bool {
        self.running.is_none() && matches!(self.from, Some(UrlFrom::File(_)))
    }

    fn push(&self, notice: &Notice, at_ms: i64) {
        let kind = text::kind(notice);
        let is_told = match &self.events {
            Some(events) => events.iter().any(|told| told == kind),
            None => (self.is_usual)(notice),
        };
        if let Some(running) = self.running.as_ref().filter(|_| is_told) {
            running.receiver.push(notice, at_ms);
        }
    }

    /// What still waits for the URL of before is posted there.
    fn replace(&mut self, running: Option<Running<M>>) {
        if let Some(old) = std::mem::replace(&mut self.running, running) {
            tokio::spawn(old.delivery.finish(FAREWELL));
        }
    }
}
