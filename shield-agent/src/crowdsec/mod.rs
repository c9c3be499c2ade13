//! A bouncer of CrowdSec's local API: its decisions are dropped in the kernel like Shield's own bans.
//!
//! The server tells each change once and to one question, so that an answer that was lost or not understood is a gap: then, and
//! each hour, everything is asked anew. `decisions` holds what is in force. On a task of its own; nothing waits for it.

mod decisions;
pub(crate) mod settings;
#[cfg(test)]
mod tests;

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use anyhow::{Context as _, Result};
use futures::FutureExt as _;
use reqwest::{Client as Http, Url};

use self::decisions::{Book, Changes, Stream};
pub(crate) use self::settings::Settings;
use crate::beat::panic_text;
use crate::clock;
use crate::notify::{Report, post, secret};
use crate::pipeline::{Handle, Message};
use crate::random;
use crate::text;
use shield_engine::event::{PartReport, PartState};
use shield_engine::origin::{Origin, OriginKind, Remote, Said, Statement};

/// The part's name, and the origin's.
pub(crate) const PART: &str = "crowdsec";
/// Everything is asked anew after so long.
const WHOLE_EVERY_MS: u64 = 3_600_000;
/// Timeout of one question: a server with a community's list takes a while at first.
const TIMEOUT: Duration = Duration::from_secs(60);
/// The largest answer that is read; a community's list is about 10 MB.
const MAX_ANSWER: usize = 128 << 20;
/// The pauses after a failure.
const FIRST_PAUSE: Duration = Duration::from_secs(2);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// Clients that are stated to the engine at once.
const STATED: usize = 500;
/// Characters of an answer that are repeated.
const REPEATED: usize = 120;

/// The decisions of one local API.
pub(crate) struct Crowdsec {
    settings: Settings,
    owner: Handle,
    report: Report,
    ipv6_prefix: u8,
    book: Book,
    /// When everything is asked anew, on the boot clock; 0 for now.
    whole_ms: u64,
    stamp: u64,
    told: Option<PartState>,
}

impl Crowdsec {
    pub(crate) fn new(settings: Settings, owner: Handle, report: Report, ipv6_prefix: u8) -> Crowdsec {
        let book = Book::default();
        Crowdsec { settings, owner, report, ipv6_prefix, book, whole_ms: 0, stamp: 0, told: None }
    }

    /// Runs until it is aborted.
    pub(crate) async fn run(mut self) {
        self.tell(PartState::Waiting { reason: text::crowdsec::ASKING.to_owned() });
        let mut pause = FIRST_PAUSE;
        loop {
            let work = AssertUnwindSafe(self.ask()).catch_unwind().await;
            let clients = self.book.len() as u64;
            let reason = match work {
                Ok(Ok(())) => {
                    self.tell(PartState::Active {
                        detail: text::crowdsec::in_force(clients, self.book.ignored),
                    });
                    pause = FIRST_PAUSE;
                    tokio::time::sleep(self.settings.poll).await;
                    continue;
                }
                Ok(Err(error)) => text::crowdsec::failed(&format!("{error:#}"), clients),
                Err(payload) => text::health::restarted(panic_text(&*payload), pause.as_secs()),
            };
            // What the answer held is told to nobody again.
            self.whole_ms = 0;
            self.tell(PartState::Degraded { reason });
            tokio::time::sleep(jittered(pause)).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Asks once, and hands what changed to the engine.
    async fn ask(&mut self) -> Result<()> {
        let is_whole = clock::now().boot_ms >= self.whole_ms;
        let key = secret::load_text(&self.settings.key, "key")?;
        let http = post::http_client(self.settings.url.scheme(), TIMEOUT)?;
        let stream = stream(&http, &self.settings.url, &key, is_whole).await?;
        let now = clock::now();
        let changes = if is_whole {
            self.book.replace(stream, self.ipv6_prefix, now.wall_ms)
        } else {
            self.book.expire(now.wall_ms);
            self.book.apply(stream, self.ipv6_prefix, now.wall_ms)
        };
        let changes = changes.map_err(|why| anyhow::anyhow!(text::crowdsec::nonsense(&why)))?;
        let is_gap = changes.is_gap;
        self.state(changes, is_whole).await?;
        if is_gap {
            self.whole_ms = 0;
        } else if is_whole {
            self.whole_ms = now.boot_ms + WHOLE_EVERY_MS;
        }
        Ok(())
    }

    async fn state(&mut self, changes: Changes, is_whole: bool) -> Result<()> {
        let origin = Origin::new(OriginKind::Crowdsec, "lapi").context("could not name the origin")?;
        let of = origin.clone();
        let latest = self.owner.query(move |engine, _| engine.remotes().latest_stamp(&of)).await?;
        let wall = u64::try_from(clock::now().wall_ms).unwrap_or(0);
        self.stamp = (self.stamp.max(latest) + 1).max(wall);
        let stamp = self.stamp;
        let statement = |said| Statement {
            origin: origin.clone(),
            stamp,
            ahead_ms: 0,
            age_ms: 0,
            is_replayed: false,
            said,
        };
        let bans = changes.banned.len() as u64;
        let banned = changes.banned.into_iter().map(Said::Banned);
        let mut said = banned.chain(changes.withdrawn.into_iter().map(Said::Withdrawn));
        loop {
            let statements: Vec<Statement> = said.by_ref().take(STATED).map(statement).collect();
            if statements.is_empty() {
                break;
            }
            self.send(statements).await?;
        }
        if is_whole {
            self.send(vec![statement(Said::Complete { bans })]).await?;
        }
        Ok(())
    }

    async fn send(&self, statements: Vec<Statement>) -> Result<()> {
        self.owner.send(Message::Remote(Remote { statements, position: None }));
        // No faster than the engine takes it in.
        self.owner.query(|_, _| ()).await
    }

    fn tell(&mut self, state: PartState) {
        if self.told.as_ref() != Some(&state) {
            (self.report)(PartReport { part: PART.to_owned(), state: state.clone(), repaired: None });
            self.told = Some(state);
        }
    }
}

async fn stream(http: &Http, base: &Url, key: &str, is_whole: bool) -> Result<Stream> {
    let mut url = base.clone();
    let path = format!("{}/v1/decisions/stream", base.path().trim_end_matches('/'));
    url.set_path(&path);
    url.query_pairs_mut().append_pair("startup", if is_whole { "true" } else { "false" });
    let request = http.get(url).header("X-Api-Key", key);
    let failed = |error: reqwest::Error| anyhow::anyhow!(post::chain(&error.without_url()));
    let mut response = request.send().await.map_err(failed)?;
    let status = response.status();
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(failed)? {
        body.extend_from_slice(&chunk);
        anyhow::ensure!(body.len() <= MAX_ANSWER, text::crowdsec::too_large(&text::bytes(MAX_ANSWER as u64)));
    }
    if status != reqwest::StatusCode::OK {
        let said: String = String::from_utf8_lossy(&body).trim().chars().take(REPEATED).collect();
        anyhow::bail!(text::crowdsec::answered(status.as_u16(), &text::printable(&said)));
    }
    serde_json::from_slice(&body)
        .map_err(|error| anyhow::anyhow!(text::crowdsec::nonsense(&error.to_string())))
}

/// A pause between half and all of the longest, so that hosts of one server do not come back at once.
fn jittered(longest: Duration) -> Duration {
    let chance = random::bytes().map_or(0, u16::from_ne_bytes);
    longest / 2 + (longest / 2).mul_f64(f64::from(chance) / f64::from(u16::MAX))
}
