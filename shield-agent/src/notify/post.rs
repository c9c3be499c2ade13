//! The I/O around a [`Dispatcher`]: one task and one HTTP client per receiver. Nothing in the agent waits for it.

use std::error::Error as _;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use futures::FutureExt;
use reqwest::header::{CONTENT_TYPE, RETRY_AFTER};
use reqwest::{Client, Response, StatusCode, redirect};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::Report;
use super::dispatch::{Answer, Dispatcher, Pace, Step};
use super::queue::EventQueue;
use super::secret::Secret;
use crate::beat::panic_text;
use crate::clock;
use crate::text;
use shield_engine::action::Notice;
use shield_engine::event::{PartReport, PartState};

/// Default timeout of one post.
pub(super) const TIMEOUT: Duration = Duration::from_secs(10);
/// The pause before a receiver whose task has panicked posts again.
const RESTART: Duration = Duration::from_secs(5);
/// Bytes of an error response that are quoted.
const REPEATED_BYTES: usize = 120;

/// A receiver of events. Cheap to clone.
#[derive(Debug)]
pub(super) struct Receiver<M> {
    shared: Arc<Shared<M>>,
}

#[derive(Debug)]
struct Shared<M> {
    dispatcher: Mutex<Dispatcher<M>>,
    wake: Notify,
}

impl<M: EventQueue> Receiver<M> {
    /// Starts the task that posts to `url` on the caller's runtime. `part` names it in reports.
    pub(super) fn start(
        part: &'static str,
        queue: M,
        url: Secret,
        pace: Pace,
        timeout: Duration,
        report: Report,
    ) -> Result<(Receiver<M>, Delivery)> {
        let client = client(&url, timeout).with_context(|| format!("could not set up posting to {part}"))?;
        let shared =
            Arc::new(Shared { dispatcher: Mutex::new(Dispatcher::new(pace, queue)), wake: Notify::new() });
        let deliver = Arc::clone(&shared);
        let task = tokio::spawn(async move {
            let tell = |state| report(PartReport { part: part.into(), state, repaired: None });
            // What was being posted is posted once more after a panic.
            while let Err(payload) =
                AssertUnwindSafe(deliver.deliver(part, &client, &url, &tell)).catch_unwind().await
            {
                let reason = text::health::restarted(panic_text(&*payload), RESTART.as_secs());
                tell(PartState::Degraded { reason });
                tokio::time::sleep(RESTART).await;
                tell(PartState::Active { detail: "posting".into() });
            }
        });
        let closing: Arc<dyn Closing> = shared.clone();
        Ok((Receiver { shared }, Delivery { part, task, closing }))
    }

    /// Queues an event. Never waits for the network.
    pub(super) fn push(&self, notice: &Notice, at_ms: i64) {
        self.shared.lock().queue().push(notice, at_ms);
        self.shared.wake.notify_one();
    }
}

/// The task behind a [`Receiver`].
pub(super) struct Delivery {
    part: &'static str,
    task: JoinHandle<()>,
    closing: Arc<dyn Closing>,
}

/// The receiver's side of a [`Delivery`], whatever its queue is.
trait Closing: Send + Sync {
    fn close(&self);
    fn waiting(&self) -> u64;
}

impl Delivery {
    /// Posts what still waits, for at most `within`; logs the number of events that were not posted.
    pub(super) async fn finish(mut self, within: Duration) {
        self.closing.close();
        // A panic of the task was logged when it happened; what waits is counted either way.
        let _ = tokio::time::timeout(within, &mut self.task).await;
        self.task.abort();
        let events = self.closing.waiting();
        if events > 0 {
            let part = self.part;
            tracing::warn!(part, events, "stopped before all events were posted; the audit log has them");
        }
    }
}

impl<M: EventQueue> Closing for Shared<M> {
    fn close(&self) {
        self.lock().close(clock::now().boot_ms);
        self.wake.notify_one();
    }

    fn waiting(&self) -> u64 {
        self.lock().waiting()
    }
}

impl<M: EventQueue> Shared<M> {
    /// Posts until the queue is closed and empty.
    async fn deliver(&self, part: &str, client: &Client, url: &Secret, tell: &(dyn Fn(PartState) + Sync)) {
        while !self.lock().is_done() {
            #[cfg(feature = "test-support")]
            crate::beat::fault::strike(part);
            let step = self.lock().step(clock::now().boot_ms);
            match step {
                Step::Post(body) => {
                    let answer = post(client, url, body).await;
                    let change = self.lock().done(answer, clock::now().boot_ms);
                    change.into_iter().for_each(tell);
                }
                Step::WaitUntil(at_ms) => self.wait_until(at_ms).await,
                Step::Idle => self.wake.notified().await,
            }
        }
        tracing::trace!(part, "posted everything");
    }
}

impl<M> Shared<M> {
    /// Waits until `at_ms` or until something changes: an event was pushed, or the agent stops.
    async fn wait_until(&self, at_ms: u64) {
        let pause = Duration::from_millis(at_ms.saturating_sub(clock::now().boot_ms));
        // A timeout is the normal end of a pause.
        let _ = tokio::time::timeout(pause, self.wake.notified()).await;
    }

    /// Never held across an await. A poisoned lock is used as it is: a panic inside leaves outdated counts at worst.
    fn lock(&self) -> MutexGuard<'_, Dispatcher<M>> {
        self.dispatcher.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Builds the client for this URL. Redirects are not followed: they would send events to another host. The system's
/// root certificates are trusted; for `http://` none are loaded, so that a host without them works.
fn client(url: &Secret, timeout: Duration) -> Result<Client> {
    http_client(url.expose().scheme(), timeout)
}

/// An HTTP client with a time limit for each whole request. See [`client`].
pub(crate) fn http_client(scheme: &str, timeout: Duration) -> Result<Client> {
    install_provider();
    let builder = Client::builder()
        .timeout(timeout)
        .redirect(redirect::Policy::none())
        .user_agent(concat!("shield-agent/", env!("CARGO_PKG_VERSION")));
    let builder = if scheme == "http" { builder.tls_certs_only([]) } else { builder };
    builder
        .build()
        .context("could not create an HTTP client: install the system's root certificates (ca-certificates)")
}

/// Makes ring the process' TLS provider.
fn install_provider() {
    // Fails only when one is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// Posts one body and does not try again.
pub(super) async fn once(url: &Secret, within: Duration, body: String) -> Result<Answer> {
    Ok(post(&client(url, within)?, url, body).await)
}

async fn post(client: &Client, url: &Secret, body: String) -> Answer {
    let request = client.post(url.expose().clone()).header(CONTENT_TYPE, "application/json").body(body);
    match request.send().await {
        Ok(response) => judge(response, url).await,
        Err(error) => Answer::Failed { why: url.redact(&chain(&error.without_url())), retry_after: None },
    }
}

async fn judge(response: Response, url: &Secret) -> Answer {
    let status = response.status();
    if status.is_success() {
        return Answer::Accepted;
    }
    let retry_after = retry_after(&response, clock::now().wall_ms);
    let why = format!("answered {status}{}", url.redact(&excerpt(response).await));
    let is_transient = status.is_server_error()
        || matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT);
    if is_transient { Answer::Failed { why, retry_after } } else { Answer::Refused(why) }
}

/// The beginning of the response's text, such as Slack's `: invalid_token`.
async fn excerpt(mut response: Response) -> String {
    let Ok(Some(chunk)) = response.chunk().await else { return String::new() };
    let text = String::from_utf8_lossy(&chunk[..chunk.len().min(REPEATED_BYTES)]).into_owned();
    format!(": {}", crate::text::printable(text.trim()))
}

/// The pause that an answer asks for.
pub(crate) fn retry_after(response: &Response, wall_ms: i64) -> Option<Duration> {
    let text = response.headers().get(RETRY_AFTER)?.to_str().ok()?;
    parse_retry_after(text, wall_ms)
}

/// Parses `Retry-After`: seconds or a date (RFC 9110, section 10.2.3).
fn parse_retry_after(text: &str, wall_ms: i64) -> Option<Duration> {
    if let Ok(secs) = text.trim().parse() {
        return Some(Duration::from_secs(secs));
    }
    let at = jiff::fmt::rfc2822::parse(text.trim()).ok()?.timestamp().as_millisecond();
    Some(Duration::from_millis(u64::try_from(at.saturating_sub(wall_ms)).unwrap_or(0)))
}

/// An error with its causes, in one line.
pub(crate) fn chain(error: &reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}

/// The state of a receiver that is not configured.
pub(super) fn off() -> PartState {
    PartState::Off { reason: "no URL is configured".into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_in_seconds_or_a_date() {
        let at = 1_445_412_480_000 - 90_000;
        let check = |text: &str, expected: Option<u64>| {
            assert_eq!(parse_retry_after(text, at), expected.map(Duration::from_secs), "{text}");
        };
        check("120", Some(120));
        check(" 0 ", Some(0));
        check("Wed, 21 Oct 2015 07:28:00 GMT", Some(90));
        check("Wed, 21 Oct 1998 07:28:00 GMT", Some(0));
        check("soon", None);
        check("-5", None);
    }
}
