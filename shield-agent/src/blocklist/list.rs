//! One list: read again and again, stated to the engine, and its state in words.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use futures::FutureExt as _;

use super::cache::{About, Cache};
use super::fetch::{Failed, Fetched, Limits, Validators, fetch};
use super::parse::{Listed, parse};
use super::settings::Settings;
use super::{Env, Numbers, Shown, lock, now_ms};
use crate::beat::panic_text;
use crate::clock;
use crate::pipeline::{Handle, Message};
use crate::random;
use crate::text;
use shield_engine::client::Client;
use shield_engine::event::PartState;
use shield_engine::origin::{Origin, OriginKind, Remote, RemoteBan, Said, Statement};
use shield_engine::settings::LISTED_SECS;

/// The pauses after a reading that failed; never longer than `refresh`.
const FIRST_PAUSE: Duration = Duration::from_secs(60);
const LONGEST_PAUSE: Duration = Duration::from_secs(3_600);
/// A server may not ask for a longer one.
const LONGEST_ASKED: Duration = Duration::from_secs(86_400);
/// A pause is waited for in pieces: a timer stands still while the machine is suspended.
const PIECE: Duration = Duration::from_secs(30);
/// How often it is counted who came.
const COUNT_EVERY_MS: u64 = 300_000;
/// Clients that are stated to the engine at once, and whose drops are asked for at once.
const STATED: usize = 500;
const COUNTED: usize = 20_000;

pub(super) struct List {
    settings: Settings,
    env: Env,
    shown: Shown,
    cache: Cache,
    /// What is in force.
    about: Option<About>,
    clients: Arc<[Client]>,
    numbers: Numbers,
    failure: Option<String>,
}

impl List {
    pub(super) fn new(settings: Settings, env: Env, shown: Shown) -> List {
        let cache = Cache::new(&env.state_dir, &settings.name);
        let clients = Arc::from([]);
        List { settings, env, shown, cache, about: None, clients, numbers: Numbers::default(), failure: None }
    }

    /// Runs until it is aborted.
    pub(super) async fn run(mut self) {
        loop {
            let work = AssertUnwindSafe(self.keep()).catch_unwind().await;
            let reason = match work {
                Ok(error) => text::retrying(format!("{error:#}")),
                Err(payload) => text::health::restarted(panic_text(&*payload), FIRST_PAUSE.as_secs()),
            };
            self.env.tell(&self.settings.name, PartState::Degraded { reason });
            tokio::time::sleep(FIRST_PAUSE).await;
        }
    }

    /// Keeps the list until something unexpected happens.
    async fn keep(&mut self) -> anyhow::Error {
        if let Err(error) = self.begin().await {
            return error;
        }
        let age = self.about.as_ref().and_then(|about| u64::try_from(now_ms() - about.read_ms).ok());
        let mut pause = age
            .map_or(Duration::ZERO, |age| self.settings.refresh.saturating_sub(Duration::from_millis(age)));
        loop {
            self.wait(pause).await;
            pause = match self.refresh(Limits::USUAL).await {
                Ok(pause) => pause,
                Err(error) => return error,
            };
        }
    }

    /// Takes up what an earlier run left.
    pub(super) async fn begin(&mut self) -> Result<()> {
        self.env
            .tell(&self.settings.name, PartState::Waiting { reason: text::blocklist::READING.to_owned() });
        let found = self.load().await?;
        if let Some((about, listed)) = found {
            self.state(&listed, about.read_ms).await?;
            self.take(about, &listed);
            self.tell();
        }
        Ok(())
    }

    /// The text on disk, when it is this list's and still holds.
    async fn load(&self) -> Result<Option<(About, Listed)>> {
        let (cache, settings, prefix) = (self.cache.clone(), self.settings.clone(), self.env.ipv6_prefix);
        let work = move || {
            let (about, body) = cache.load()?;
            let is_ours = about.url == settings.url.as_str() && about.format == settings.format.name();
            let is_valid = (0..LISTED_SECS as i64 * 1000).contains(&(now_ms() - about.read_ms));
            let listed = parse(&body, settings.format, prefix).ok()?;
            (is_ours && is_valid).then_some((about, listed))
        };
        tokio::task::spawn_blocking(work).await.context("could not read the list on disk: the thread ended")
    }

    /// Reads the list once, and returns the pause until the next time.
    pub(super) async fn refresh(&mut self, limits: Limits) -> Result<Duration> {
        let known = self.about.as_ref().map_or_else(Validators::default, |about| about.validators.clone());
        let done = match fetch(&self.settings, &known, limits).await {
            Ok(Fetched::New { body, validators }) => self.adopt(body, validators).await?,
            Ok(Fetched::Unchanged) => self.renew().await?,
            Err(failed) => Err(failed),
        };
        let pause = match done {
            Ok(()) => {
                (self.failure, self.numbers.failures) = (None, 0);
                jittered(self.settings.refresh)
            }
            Err(Failed { why, retry_after }) => {
                self.failure = Some(why);
                self.numbers.failures += 1;
                let doublings = u32::try_from(self.numbers.failures - 1).unwrap_or(u32::MAX).min(6);
                let own = (FIRST_PAUSE * 2_u32.pow(doublings)).min(LONGEST_PAUSE).min(self.settings.refresh);
                own.max(retry_after.unwrap_or_default().min(LONGEST_ASKED))
            }
        };
        self.tell();
        Ok(pause)
    }

    /// Takes over a new text, if it is a list.
    async fn adopt(
        &mut self,
        body: Vec<u8>,
        validators: Validators,
    ) -> Result<std::result::Result<(), Failed>> {
        let (cache, settings, prefix) = (self.cache.clone(), self.settings.clone(), self.env.ipv6_prefix);
        let read_ms = now_ms();
        let work = move || {
            let listed = parse(&body, settings.format, prefix)?;
            let (url, format) = (settings.url.as_str(), settings.format.name());
            let saved = cache.save(url, format, read_ms, validators, &body);
            Ok::<_, String>((listed, saved))
        };
        let parsed = tokio::task::spawn_blocking(work)
            .await
            .context("could not take over the list: the thread ended")?;
        let (listed, saved) = match parsed {
            Ok(parsed) => parsed,
            Err(why) => return Ok(Err(why.into())),
        };
        self.state(&listed, read_ms).await?;
        match saved {
            Ok(about) => {
                self.take(about, &listed);
                Ok(Ok(()))
            }
            // It is in force all the same, and is read whole the next time.
            Err(error) => {
                self.about = None;
                self.count(&listed, read_ms);
                Ok(Err(text::blocklist::not_kept(&format!("{error:#}")).into()))
            }
        }
    }

    /// The text is as it was: it counts as read now.
    async fn renew(&mut self) -> Result<std::result::Result<(), Failed>> {
        let Some((mut about, listed)) = self.load().await? else {
            // Gone from the disk, or its time is over: it is read whole the next time.
            self.about = None;
            return Ok(Err(text::blocklist::LOST.into()));
        };
        about.read_ms = now_ms();
        self.state(&listed, about.read_ms).await?;
        // Until it can be noted, a restart counts from before.
        let noted = self.cache.save_about(&about);
        self.take(about, &listed);
        Ok(noted.map_err(|error| text::blocklist::not_kept(&format!("{error:#}")).into()))
    }

    fn take(&mut self, about: About, listed: &Listed) {
        self.count(listed, about.read_ms);
        self.about = Some(about);
    }

    fn count(&mut self, listed: &Listed, read_ms: i64) {
        self.clients = listed.keys().copied().collect();
        (self.numbers.clients, self.numbers.read_ms) = (listed.len() as u64, read_ms);
    }

    /// States the whole list to the engine, in pieces and no faster than it takes them in.
    async fn state(&self, listed: &Listed, read_ms: i64) -> Result<()> {
        let origin = Origin::new(OriginKind::Blocklist, &self.settings.name)
            .context("could not use the list's name: it was checked before")?;
        let stamp = next_stamp(&self.env.owner, &origin).await?;
        let age_ms = u64::try_from(now_ms() - read_ms).unwrap_or(0);
        let statement =
            |said| Statement { origin: origin.clone(), stamp, ahead_ms: 0, age_ms, is_replayed: false, said };
        let mut said = listed.iter().map(|(client, note)| {
            let (client, why) = (*client, note.clone());
            Said::Banned(RemoteBan { client, since_ms: read_ms, ends_ms: None, why, is_suspicion: false })
        });
        loop {
            let statements: Vec<Statement> = said.by_ref().take(STATED).map(statement).collect();
            if statements.is_empty() {
                break;
            }
            self.send(statements).await?;
        }
        self.send(vec![statement(Said::Complete { bans: listed.len() as u64 })]).await
    }

    async fn send(&self, statements: Vec<Statement>) -> Result<()> {
        self.env.owner.send(Message::Remote(Remote { statements, position: None }));
        self.env.owner.query(|_, _| ()).await
    }

    async fn wait(&mut self, pause: Duration) {
        let until_ms = clock::now().boot_ms + pause.as_millis() as u64;
        let mut count_ms = clock::now().boot_ms + PIECE.as_millis() as u64;
        loop {
            let now_ms = clock::now().boot_ms;
            if now_ms >= until_ms {
                return;
            }
            if now_ms >= count_ms {
                count_ms = now_ms + COUNT_EVERY_MS;
                self.count_hits().await;
            }
            tokio::time::sleep(PIECE.min(Duration::from_millis(until_ms - now_ms))).await;
        }
    }

    /// Counts who came, and how often.
    async fn count_hits(&mut self) {
        let Some(interpreter) = self.env.interpreter.upgrade() else { return };
        let (mut came, mut packets) = (0, 0);
        for piece in self.clients.chunks(COUNTED) {
            let mut sums = vec![0; piece.len()];
            for (_, drops) in interpreter.drops(piece.to_vec()).await {
                // An enforcer that does not answer says so itself.
                let drops = drops.unwrap_or_default();
                sums.iter_mut()
                    .zip(drops)
                    .for_each(|(sum, drops)| *sum += drops.map_or(0, |drops| drops.packets));
            }
            came += sums.iter().filter(|sum| **sum > 0).count() as u64;
            packets += sums.iter().sum::<u64>();
        }
        (self.numbers.hit_clients, self.numbers.dropped_packets) = (came, packets);
        self.tell();
    }

    fn tell(&self) {
        let Numbers { clients, read_ms, hit_clients, dropped_packets, .. } = self.numbers;
        lock(&self.shown).insert(self.settings.name.clone(), self.numbers);
        let state = match &self.failure {
            None => PartState::Active {
                detail: text::blocklist::in_force(clients, read_ms, (hit_clients, dropped_packets)),
            },
            Some(why) => {
                let until_ms = read_ms + LISTED_SECS as i64 * 1000;
                let is_in_force = clients > 0 && until_ms > now_ms();
                let old = is_in_force.then_some((clients, read_ms, until_ms));
                PartState::Degraded { reason: text::blocklist::failed(why, old) }
            }
        };
        self.env.tell(&self.settings.name, state);
    }
}

/// A stamp that the engine has not heard from this origin.
pub(super) async fn next_stamp(owner: &Handle, origin: &Origin) -> Result<u64> {
    let origin = origin.clone();
    let latest = owner.query(move |engine, _| engine.remotes().latest_stamp(&origin)).await?;
    Ok((latest + 1).max(u64::try_from(now_ms()).unwrap_or(0)))
}

/// Up to a tenth longer, so that a fleet's hosts do not all come at once.
fn jittered(pause: Duration) -> Duration {
    let chance = random::bytes().map_or(0, u16::from_ne_bytes);
    pause + (pause / 10).mul_f64(f64::from(chance) / f64::from(u16::MAX))
}
