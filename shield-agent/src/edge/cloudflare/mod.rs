//! Keeps a list at Cloudflare to the bans in force, so that their edge refuses who is banned here.
//!
//! `sync` decides which calls to make and when, `plan` what to change, `calls` what may be spent, `api` makes the calls. All on a
//! task of its own that nobody waits for: a ban here is in force long before.

mod api;
mod calls;
mod plan;
pub(crate) mod settings;
mod sync;
#[cfg(test)]
mod tests;

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use futures::FutureExt as _;

use self::api::Api;
use self::plan::Wish;
pub(crate) use self::settings::Settings;
pub(crate) use self::sync::ListCounts;
use self::sync::{Step, Sync};
use super::list::EdgeList;
use crate::beat::panic_text;
use crate::clock;
use crate::config::UrlFrom;
use crate::enforce::interpreter::Interpreter;
use crate::notify::Report;
use crate::notify::secret;
use crate::store::reader::Reader;
use crate::text;
use shield_engine::event::{PartReport, PartState};

/// The part's name.
pub(crate) const PART: &str = "cloudflare";
/// The pause after a panic, and between looks for a token that cannot be read.
const RESTART: Duration = Duration::from_secs(5);
const TOKEN_RETRY: Duration = Duration::from_secs(60);
/// The bans are looked at no more often: each change waits for its batch anyhow.
const LOOK_EVERY_MS: u64 = 5_000;
/// The longest time that `cleanup` takes.
const CLEANUP: Duration = Duration::from_secs(120);

/// The numbers of a running exporter, for metrics.
pub(crate) type Shown = Arc<Mutex<ListCounts>>;

/// What the exporter reads the bans from.
pub(crate) struct Bans {
    /// Weak: the enforcers' threads end with their last user.
    pub interpreter: Weak<Interpreter>,
    /// For the number of offences.
    pub reader: Mutex<Reader>,
}

/// Runs until it is aborted.
pub(crate) async fn run(settings: Settings, bans: Bans, shown: Shown, report: Report) {
    let bans = Arc::new(bans);
    let tell = |state| report(PartReport { part: PART.into(), state, repaired: None });
    loop {
        let work = AssertUnwindSafe(keep(&settings, &bans, &shown, &tell)).catch_unwind().await;
        let reason = match work {
            Ok(error) => text::retrying(format!("{error:#}")),
            Err(payload) => text::health::restarted(panic_text(&*payload), RESTART.as_secs()),
        };
        tell(PartState::Degraded { reason });
        tokio::time::sleep(RESTART).await;
    }
}

/// Keeps the list until something unexpected happens.
async fn keep(
    settings: &Settings,
    bans: &Arc<Bans>,
    shown: &Shown,
    tell: &(dyn Fn(PartState) + std::marker::Sync),
) -> anyhow::Error {
    let mut sync = Sync::new(settings.clone());
    let api = match Api::new(settings, api::TIMEOUT) {
        Ok(api) => api,
        Err(error) => return error,
    };
    let mut token = Token::new(&settings.token);
    let (mut seen, mut look_ms, mut last) = (None, 0, None);
    loop {
        #[cfg(feature = "test-support")]
        crate::beat::fault::strike(PART);
        let now_ms = clock::now().boot_ms;
        if now_ms >= look_ms {
            look_ms = now_ms + LOOK_EVERY_MS;
            match wishes(bans, seen).await {
                Ok(Some((version, wanted))) => {
                    seen = Some(version);
                    sync.want(wanted);
                }
                Ok(None) => {}
                Err(error) => return error,
            }
        }
        let read = token.get();
        let state = match &read {
            Ok(_) => sync.state(),
            Err(reason) => PartState::Degraded { reason: text::retrying(reason.clone()) },
        };
        if last.as_ref() != Some(&state) {
            tell(state.clone());
            last = Some(state);
        }
        *shown.lock().unwrap_or_else(PoisonError::into_inner) = sync.counts();
        let Ok(word) = read else {
            tokio::time::sleep(TOKEN_RETRY).await;
            continue;
        };
        match sync.step(now_ms) {
            Step::Call(request) => {
                let answer = api.call(&word, &request).await;
                token.judge(&answer);
                sync.done(answer, clock::now().boot_ms);
            }
            Step::WaitUntil(at_ms) => {
                // In pieces: a timer stands still while the machine is suspended, and bans may have changed.
                let pause = at_ms.saturating_sub(now_ms).clamp(50, LOOK_EVERY_MS);
                tokio::time::sleep(Duration::from_millis(pause)).await;
            }
        }
    }
}

/// The token, read again after it was denied, so that a new one in the file is found.
struct Token<'a> {
    from: &'a UrlFrom,
    read: Option<String>,
}

impl Token<'_> {
    fn new(from: &UrlFrom) -> Token<'_> {
        Token { from, read: None }
    }

    fn get(&mut self) -> Result<String, String> {
        if let Some(token) = &self.read {
            return Ok(token.clone());
        }
        let token = secret::load_text(self.from, "Cloudflare token").map_err(|error| format!("{error:#}"))?;
        self.read = Some(token.clone());
        Ok(token)
    }

    fn judge(&mut self, answer: &sync::Answer) {
        if let sync::Answer::Failed(failure) = answer
            && failure.kind == sync::FailureKind::Denied
        {
            self.read = None;
        }
    }
}

/// The bans that may be handed out with their offences; `None` while they are as `seen`.
async fn wishes(bans: &Arc<Bans>, seen: Option<u64>) -> Result<Option<(u64, Vec<Wish>)>> {
    let Some(interpreter) = bans.interpreter.upgrade() else { bail!("the agent is stopping") };
    if seen == Some(interpreter.version()) {
        return Ok(None);
    }
    let bans = Arc::clone(bans);
    let work = tokio::task::spawn_blocking(move || {
        let list = EdgeList::of(&interpreter);
        drop(interpreter);
        let reader = bans.reader.lock().unwrap_or_else(PoisonError::into_inner);
        let offences = reader.offences_in_force()?;
        let wish = |client| Wish { client, offences: offences.get(&client).copied().unwrap_or(0) };
        anyhow::Ok((list.version, list.clients.into_iter().map(wish).collect()))
    });
    Ok(Some(work.await.context("could not read the bans in force: the thread ended")??))
}

/// Takes everything of this host's out of the list. Returns how many items went.
///
/// # Errors
/// When the list still holds some of it.
pub(crate) async fn cleanup(settings: &Settings) -> Result<u64> {
    let token = secret::load_text(&settings.token, "Cloudflare token")?;
    let api = Api::new(settings, api::TIMEOUT)?;
    // The whole of the limits: nobody else of this host uses them now.
    let mut sync = Sync::new(Settings { share: 1.0, ..settings.clone() });
    let (begin_ms, mut removed) = (clock::now().boot_ms, 0);
    sync.want(Vec::new());
    loop {
        let now_ms = clock::now().boot_ms;
        if sync.is_done() {
            return Ok(removed);
        }
        if now_ms.saturating_sub(begin_ms) > CLEANUP.as_millis() as u64 {
            bail!("could not empty the list at Cloudflare in {} s: repeat the command", CLEANUP.as_secs());
        }
        let before = sync.counts().items;
        match sync.step(now_ms) {
            Step::Call(request) => {
                let answer = api.call(&token, &request).await;
                if let sync::Answer::Failed(failure) = &answer
                    && matches!(failure.kind, sync::FailureKind::Denied | sync::FailureKind::Refused)
                {
                    bail!("could not empty the list at Cloudflare: {}", failure.why);
                }
                sync.done(answer, clock::now().boot_ms);
            }
            Step::WaitUntil(at_ms) => {
                let pause = at_ms.saturating_sub(now_ms).clamp(10, 1_000);
                tokio::time::sleep(Duration::from_millis(pause)).await;
            }
        }
        removed += before.saturating_sub(sync.counts().items);
    }
}
