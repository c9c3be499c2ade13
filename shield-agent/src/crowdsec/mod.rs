//! CrowdSec's local API, in both directions: as its bouncer Shield drops in the kernel what CrowdSec decides, and as a machine it
//! tells CrowdSec of this host's own bans.
//!
//! The server tells each change once and to one question, so that an answer that was lost or not understood is a gap: then, and
//! each hour, everything is asked anew. `decisions` holds what is in force; `teller` is the other direction. Each is a task of its
//! own; nothing waits for them.

mod alerts;
mod decisions;
mod lapi;
pub(crate) mod machine;
pub(crate) mod settings;
mod teller;
#[cfg(test)]
mod tests;

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use futures::FutureExt as _;
use reqwest::{Client as Http, Url};
use tokio::task::JoinHandle;

use self::decisions::{Book, Changes, Stream};
use self::machine::Machine;
pub(crate) use self::settings::Settings;
use self::teller::Teller;
use crate::beat::panic_text;
use crate::clock;
use crate::notify::{Report, post, secret};
use crate::own_bans;
use crate::pipeline::{Announce, Handle, Message};
use crate::random;
use crate::text;
use shield_engine::event::{PartReport, PartState};
use shield_engine::origin::{Origin, OriginKind, Remote, Said, Statement};

/// The part's name, and the origin's.
pub(crate) const PART: &str = "crowdsec";
/// The name of the part that tells of this host's own bans.
pub(crate) const ALERTS_PART: &str = "crowdsec alerts";
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

/// What both directions need of the agent.
#[derive(Clone)]
pub(crate) struct Env {
    pub owner: Handle,
    pub report: Report,
    pub ipv6_prefix: u8,
}

/// The connection to a local API, which a reload can change.
pub(crate) struct Link {
    /// `None` in a dry run.
    env: Option<Env>,
    /// Who hears of this host's own bans now.
    ear: Arc<Mutex<Option<Announce>>>,
    running: Option<(Settings, Vec<JoinHandle<()>>)>,
}

impl Link {
    /// One that asks nobody yet.
    pub(crate) fn new(env: Option<Env>) -> Link {
        Link { env, ear: Arc::default(), running: None }
    }

    /// Hears the agent's notices.
    pub(crate) fn announce(&self) -> Announce {
        let ear = Arc::clone(&self.ear);
        Box::new(move |notice| {
            if let Some(tell) = ear.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
                tell(notice);
            }
        })
    }

    /// Asks this local API from now on. The bans of the one before stay until this one has told what is in force there; where
    /// there is none any more they are let go.
    ///
    /// The tasks that ask no more have ended before anything is said of their parts: their last word would otherwise come after.
    pub(crate) async fn change(&mut self, settings: Option<&Settings>) {
        let Some(env) = self.env.clone() else { return };
        if self.running.as_ref().map(|(running, _)| running) == settings && settings.is_some() {
            return;
        }
        let (before, tasks) = self.stop().unzip();
        for task in tasks.into_iter().flatten() {
            // An error says that it was aborted.
            let _ = task.await;
        }
        let Some(settings) = settings else {
            for part in before.iter().flat_map(parts) {
                let state = PartState::Off { reason: text::crowdsec::REMOVED.to_owned() };
                (env.report)(PartReport { part: part.to_owned(), state, repaired: None });
            }
            tokio::spawn(let_go(env));
            return;
        };
        if before.is_some_and(|before| before.machine.is_some()) && settings.machine.is_none() {
            let state = PartState::Off { reason: text::crowdsec::REMOVED.to_owned() };
            (env.report)(PartReport { part: ALERTS_PART.to_owned(), state, repaired: None });
        }
        let mut tasks = Vec::new();
        let (tell, changes) = own_bans::listen();
        if let Some(teller) =
            Teller::new(settings.clone(), env.owner.clone(), Arc::clone(&env.report), changes)
        {
            *self.ear.lock().unwrap_or_else(PoisonError::into_inner) = Some(tell);
            tasks.push(tokio::spawn(teller.run()));
        }
        tasks.push(tokio::spawn(Crowdsec::new(settings.clone(), env).run()));
        self.running = Some((settings.clone(), tasks));
    }

    /// Returns what was asked until now, and the tasks that are about to end.
    fn stop(&mut self) -> Option<(Settings, Vec<JoinHandle<()>>)> {
        *self.ear.lock().unwrap_or_else(PoisonError::into_inner) = None;
        let (settings, tasks) = self.running.take()?;
        tasks.iter().for_each(JoinHandle::abort);
        Some((settings, tasks))
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.stop();
    }
}

fn parts(settings: &Settings) -> impl Iterator<Item = &'static str> + use<> {
    [Some(PART), settings.machine.as_ref().map(|_| ALERTS_PART)].into_iter().flatten()
}

/// Lets go of what a local API wanted that is not asked any more, also in an earlier run.
async fn let_go(env: Env) {
    let is_there = env.owner.query(|engine, _| {
        let mut origins = engine.remotes().origins();
        origins.any(|state| state.origin.kind() == OriginKind::Crowdsec && state.entries > 0)
    });
    // Fails when the agent stops.
    if is_there.await.unwrap_or(false) {
        let _ = state(&env, 0, Changes::default(), true).await;
    }
}

/// The decisions of one local API.
struct Crowdsec {
    settings: Settings,
    env: Env,
    book: Book,
    /// When everything is asked anew, on the boot clock; 0 for now.
    whole_ms: u64,
    stamp: u64,
    told: Option<PartState>,
}

impl Crowdsec {
    fn new(settings: Settings, env: Env) -> Crowdsec {
        Crowdsec { settings, env, book: Book::default(), whole_ms: 0, stamp: 0, told: None }
    }

    /// Runs until it is aborted.
    async fn run(mut self) {
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
        if let Some(Ok(machine)) = self.settings.machine.as_ref().map(Machine::load) {
            self.book.own_origin = Some(machine.origin());
        }
        let key = secret::load_text(&self.settings.key, "key")?;
        let http = post::http_client(self.settings.url.scheme(), TIMEOUT)?;
        let stream = stream(&http, &self.settings.url, &key, is_whole).await?;
        let now = clock::now();
        let changes = if is_whole {
            self.book.replace(stream, self.env.ipv6_prefix, now.wall_ms)
        } else {
            self.book.expire(now.wall_ms);
            self.book.apply(stream, self.env.ipv6_prefix, now.wall_ms)
        };
        let changes = changes.map_err(|why| anyhow::anyhow!(text::crowdsec::nonsense(&why)))?;
        let is_gap = changes.is_gap;
        self.stamp = state(&self.env, self.stamp, changes, is_whole).await?;
        if is_gap {
            self.whole_ms = 0;
        } else if is_whole {
            self.whole_ms = now.boot_ms + WHOLE_EVERY_MS;
        }
        Ok(())
    }

    fn tell(&mut self, state: PartState) {
        if self.told.as_ref() != Some(&state) {
            (self.env.report)(PartReport { part: PART.to_owned(), state: state.clone(), repaired: None });
            self.told = Some(state);
        }
    }
}

/// Hands what changed to the engine, and returns the stamp under which it did: a later one than `stamp` and all that the engine knows.
async fn state(env: &Env, stamp: u64, changes: Changes, is_whole: bool) -> Result<u64> {
    let origin = Origin::new(OriginKind::Crowdsec, "lapi").context("could not name the origin")?;
    let of = origin.clone();
    let latest = env.owner.query(move |engine, _| engine.remotes().latest_stamp(&of)).await?;
    let wall = u64::try_from(clock::now().wall_ms).unwrap_or(0);
    let stamp = (stamp.max(latest) + 1).max(wall);
    let statement =
        |said| Statement { origin: origin.clone(), stamp, ahead_ms: 0, age_ms: 0, is_replayed: false, said };
    let bans = changes.banned.len() as u64;
    let banned = changes.banned.into_iter().map(Said::Banned);
    let mut said = banned.chain(changes.withdrawn.into_iter().map(Said::Withdrawn));
    loop {
        let statements: Vec<Statement> = said.by_ref().take(STATED).map(statement).collect();
        if statements.is_empty() {
            break;
        }
        send(env, statements).await?;
    }
    if is_whole {
        send(env, vec![statement(Said::Complete { bans })]).await?;
    }
    Ok(stamp)
}

async fn send(env: &Env, statements: Vec<Statement>) -> Result<()> {
    env.owner.send(Message::Remote(Remote { statements, position: None }));
    // No faster than the engine takes it in.
    env.owner.query(|_, _| ()).await
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
