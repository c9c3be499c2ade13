//! The thin shell around a [`Courier`]: one task a receiver, one HTTP client, nobody who waits for it.

use std::error::Error as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use reqwest::header::{CONTENT_TYPE, RETRY_AFTER};
use reqwest::{Client, Response, StatusCode, redirect};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::Report;
use super::courier::{Answer, Courier, Pace, Step};
use super::mailbox::Mailbox;
use super::secret::Secret;
use crate::clock;
use shield_engine::action::Notice;
use shield_engine::event::{PartReport, PartState};

/// How long a receiver may take for its answer by default.
pub(super) const TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of a refusal's text that are repeated.
const REPEATED_BYTES: usize = 120;

/// A receiver of events. Cheap to clone.
#[derive(Debug)]
pub(super) struct Receiver<M> {
    shared: Arc<Shared<M>>,
}

#[derive(Debug)]
struct Shared<M> {
    courier: Mutex<Courier<M>>,
    wake: Notify,
}

impl<M: Mailbox> Receiver<M> {
    /// Starts the task that posts to `url`, on the runtime of the one who calls. `part` names it in reports. What it
    /// owes at the end is the second one's business.
    pub(super) fn start(
        part: &'static str,
        mailbox: M,
        url: Secret,
        pace: Pace,
        timeout: Duration,
        report: Report,
    ) -> Result<(Receiver<M>, Delivery)> {
        let client = client(&url, timeout).with_context(|| format!("preparing to post to {part}"))?;
        let shared =
            Arc::new(Shared { courier: Mutex::new(Courier::new(pace, mailbox)), wake: Notify::new() });
        let deliver = Arc::clone(&shared);
        let task = tokio::spawn(async move {
            while !deliver.lock().is_done() {
                let step = deliver.lock().step(clock::now().boot_ms);
                match step {
                    Step::Post(body) => {
                        let answer = post(&client, &url, body).await;
                        let change = deliver.lock().done(answer, clock::now().boot_ms);
                        if let Some(state) = change {
                            report(PartReport { part: part.into(), state, repaired: None });
                        }
                    }
                    Step::WaitUntil(at_ms) => deliver.wait_until(at_ms).await,
                    Step::Idle => deliver.wake.notified().await,
                }
            }
        });
        let closing: Arc<dyn Closing> = shared.clone();
        Ok((Receiver { shared }, Delivery { part, task, closing }))
    }

    /// Puts an event in. Never waits for the network.
    pub(super) fn put(&self, notice: &Notice, at_ms: i64) {
        self.shared.lock().mailbox().put(notice, at_ms);
        self.shared.wake.notify_one();
    }
}

/// The task behind a [`Receiver`].
pub(super) struct Delivery {
    part: &'static str,
    task: JoinHandle<()>,
    closing: Arc<dyn Closing>,
}

/// What a delivery needs to know of its receiver, whatever its messages are.
trait Closing: Send + Sync {
    fn close(&self);
    fn waiting(&self) -> u64;
}

impl Delivery {
    /// Posts what still waits, for at most `within`; says how much was not told. Nothing may be put in any more.
    pub(super) async fn finish(mut self, within: Duration) {
        self.closing.close();
        // An error says that the task panicked, which was said already; what waits is counted either way.
        let _ = tokio::time::timeout(within, &mut self.task).await;
        self.task.abort();
        let events = self.closing.waiting();
        if events > 0 {
            let part = self.part;
            tracing::warn!(part, events, "stopped before everything was told; the audit log has it all");
        }
    }
}

impl<M: Mailbox> Closing for Shared<M> {
    fn close(&self) {
        self.lock().close(clock::now().boot_ms);
        self.wake.notify_one();
    }

    fn waiting(&self) -> u64 {
        self.lock().waiting()
    }
}

impl<M> Shared<M> {
    /// Until then, or until there is something new: a message (which waits as well), or the end.
    async fn wait_until(&self, at_ms: u64) {
        let pause = Duration::from_millis(at_ms.saturating_sub(clock::now().boot_ms));
        // An error says that the time is up.
        let _ = tokio::time::timeout(pause, self.wake.notified()).await;
    }

    /// The lock is held for moments only, never across a wait; a panic inside leaves counts that are at worst old.
    fn lock(&self) -> MutexGuard<'_, Courier<M>> {
        self.courier.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A client for this URL. Redirects are not followed: they would carry the message to somebody else. The system's
/// roots are trusted; for `http://` none are needed.
fn client(url: &Secret, timeout: Duration) -> Result<Client> {
    install_provider();
    let builder = Client::builder()
        .timeout(timeout)
        .redirect(redirect::Policy::none())
        .user_agent(concat!("shield-agent/", env!("CARGO_PKG_VERSION")));
    let builder = if url.reveal().scheme() == "http" { builder.tls_certs_only([]) } else { builder };
    builder.build().context("making an HTTP client (are the system's root certificates installed?)")
}

/// TLS by ring, for the whole process.
fn install_provider() {
    // An error says that one is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

async fn post(client: &Client, url: &Secret, body: String) -> Answer {
    let request = client.post(url.reveal().clone()).header(CONTENT_TYPE, "application/json").body(body);
    match request.send().await {
        Ok(response) => judge(response, url).await,
        Err(error) => Answer::Failed { why: url.scrub(&chain(&error.without_url())), retry_after: None },
    }
}

async fn judge(response: Response, url: &Secret) -> Answer {
    let status = response.status();
    if status.is_success() {
        return Answer::Accepted;
    }
    let retry_after = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
    let retry_after = retry_after.and_then(|text| pause_asked(text, clock::now().wall_ms));
    let why = format!("answered {status}{}", url.scrub(&first_words(response).await));
    let again = status.is_server_error()
        || matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT);
    if again { Answer::Failed { why, retry_after } } else { Answer::Refused(why) }
}

/// The beginning of what was answered, such as Slack's `: invalid_token`.
async fn first_words(mut response: Response) -> String {
    let Ok(Some(chunk)) = response.chunk().await else { return String::new() };
    let text = String::from_utf8_lossy(&chunk[..chunk.len().min(REPEATED_BYTES)]).into_owned();
    format!(": {}", crate::text::printable(text.trim()))
}

/// A `Retry-After` in seconds or as a date (RFC 9110, section 10.2.3).
fn pause_asked(text: &str, wall_ms: i64) -> Option<Duration> {
    if let Ok(secs) = text.trim().parse() {
        return Some(Duration::from_secs(secs));
    }
    let at = jiff::fmt::rfc2822::parse(text.trim()).ok()?.timestamp().as_millisecond();
    Some(Duration::from_millis(u64::try_from(at.saturating_sub(wall_ms)).unwrap_or(0)))
}

/// An error with its causes, in one line.
fn chain(error: &reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}

/// How a receiver that was not started stands.
pub(super) fn off() -> PartState {
    PartState::Off { reason: "no URL is configured".into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_is_asked_for_in_seconds_or_by_date() {
        let at = 1_445_412_480_000 - 90_000;
        let check = |text: &str, expected: Option<u64>| {
            assert_eq!(pause_asked(text, at), expected.map(Duration::from_secs), "{text}");
        };
        check("120", Some(120));
        check(" 0 ", Some(0));
        check("Wed, 21 Oct 2015 07:28:00 GMT", Some(90));
        check("Wed, 21 Oct 1998 07:28:00 GMT", Some(0));
        check("soon", None);
        check("-5", None);
    }
}
