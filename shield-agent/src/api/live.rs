//! What the page and its streams see every second while anybody looks: one reading of the engine shared by everybody who
//! asks, so that a thousand requests a second cost the engine no more than ten. Also feeds the history.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::body::Bytes;
use tokio::sync::{broadcast, watch};
use tokio::time::Instant;

use super::backend::{AgentView, Backend, Refusal};
use super::convert;
use super::feed::{Feed, Published};
use super::history::{History, Sample};
use super::listen::stopped;
use super::types::{ClientList, Dropped, Range, Snapshot, Status};
use super::vitals::{self, Vitals};
use crate::clock;
use shield_engine::time::Now;

/// A reading of the engine younger than this is shared.
const STATUS_AGE_MS: u64 = 100;

/// A list of the busiest clients younger than this is shared: finding them walks the whole table.
const TOP_AGE_MS: u64 = 1_000;

/// How many of the busiest clients are found at once and shared.
const TOP_SHARED: usize = 100;

/// How many of them a snapshot carries.
const TOP_IN_SNAPSHOT: usize = 10;

/// How long the shortest stretch is that a rate of drops is taken over.
const RATE_STRETCH_MS: u64 = 900;

/// Between two samples and snapshots while somebody watches.
const PERIOD_MS: i64 = 1_000;

/// Between two samples while nobody does: one for each step of the history.
const UNWATCHED_PERIOD_MS: i64 = 2_000;

/// How old the base gets that CPU shares are taken from while nobody asks: they are then over half a minute at most.
const VITALS_AGE_MS: u64 = 15_000;

/// Between two saves of the history.
const SAVE_EVERY_MS: u64 = 600_000;

/// The shared readings.
pub(crate) struct Live {
    backend: Arc<dyn Backend>,
    feed: Arc<Feed>,
    readings: tokio::sync::Mutex<Readings>,
    top: tokio::sync::Mutex<Option<(u64, Arc<ClientList>)>>,
    history: Mutex<History>,
    history_json: Mutex<BTreeMap<Range, (i64, Bytes)>>,
    history_path: Option<PathBuf>,
    snapshots: watch::Sender<Option<Arc<str>>>,
}

/// One reading of everything.
#[derive(Debug, Clone)]
pub(crate) struct Reading {
    /// As the engine told it.
    pub view: AgentView,
    /// As the API shows it.
    pub status: Status,
    /// The same as JSON, made once for everybody who asks.
    pub status_json: Bytes,
    /// The process and the machine.
    pub vitals: Vitals,
}

#[derive(Default)]
struct Readings {
    last: Option<(u64, Arc<Reading>)>,
    vitals: vitals::Reader,
    read_vitals: Option<(u64, Vitals)>,
    rate_base: Option<(u64, Dropped)>,
    rates: (f64, f64),
}

impl Live {
    /// Readings of `backend`; the history is kept in `history_path` when there is one.
    pub(crate) fn new(backend: Arc<dyn Backend>, feed: Arc<Feed>, history_path: Option<PathBuf>) -> Live {
        let history = history_path.as_deref().map(load_history).unwrap_or_default();
        Live {
            backend,
            feed,
            readings: tokio::sync::Mutex::default(),
            top: tokio::sync::Mutex::default(),
            history: Mutex::new(history),
            history_json: Mutex::default(),
            history_path,
            snapshots: watch::channel(None).0,
        }
    }

    /// The rest of the agent.
    pub(crate) fn backend(&self) -> &dyn Backend {
        &*self.backend
    }

    /// What happened.
    pub(crate) fn feed(&self) -> &Feed {
        &self.feed
    }

    /// How everything stands, at most a tenth of a second old.
    pub(crate) async fn reading(&self) -> Result<Arc<Reading>, Refusal> {
        let mut readings = self.readings.lock().await;
        let now = clock::now();
        if let Some((at, reading)) = &readings.last
            && now.boot_ms.saturating_sub(*at) < STATUS_AGE_MS
        {
            return Ok(Arc::clone(reading));
        }
        let view = self.backend.view().await?;
        let reading = Arc::new(readings.complete(view, &self.feed, now));
        readings.last = Some((now.boot_ms, Arc::clone(&reading)));
        Ok(reading)
    }

    /// The `n` busiest clients, at most a second old.
    pub(crate) async fn top(&self, n: usize) -> Result<ClientList, Refusal> {
        if n > TOP_SHARED {
            return self.fresh_top(n).await;
        }
        let mut shared = self.top.lock().await;
        let now = clock::now();
        let list = match &*shared {
            Some((at, list)) if now.boot_ms.saturating_sub(*at) < TOP_AGE_MS => Arc::clone(list),
            _ => {
                let list = Arc::new(self.fresh_top(TOP_SHARED).await?);
                *shared = Some((now.boot_ms, Arc::clone(&list)));
                list
            }
        };
        Ok(ClientList { clients: list.clients.iter().take(n).cloned().collect(), ..(*list).clone() })
    }

    async fn fresh_top(&self, n: usize) -> Result<ClientList, Refusal> {
        let mut list = convert::client_list(&self.backend.top(n).await?);
        let since_ms = list.now_ms - i64::from(list.window_secs) * 1000;
        convert::add_banned(&mut list, self.feed.banned_since(since_ms));
        list.clients.truncate(n);
        Ok(list)
    }

    /// A time series for the plots as JSON, at most a second old: it is long, and the same for everybody.
    pub(crate) fn history(&self, range: Range) -> Bytes {
        let now_ms = clock::now().wall_ms;
        let second = now_ms.div_euclid(1000);
        let mut shared = self.history_json.lock().unwrap_or_else(PoisonError::into_inner);
        match shared.get(&range) {
            Some((at, json)) if *at == second => json.clone(),
            _ => {
                let fresh = Bytes::from(json(&self.lock_history().view(range, now_ms)));
                shared.insert(range, (second, fresh.clone()));
                fresh
            }
        }
    }

    /// The snapshots, one a second while anybody holds a receiver.
    pub(crate) fn snapshots(&self) -> watch::Receiver<Option<Arc<str>>> {
        self.snapshots.subscribe()
    }

    /// A snapshot's JSON, for a stream that starts.
    pub(crate) async fn snapshot(&self) -> Result<Arc<str>, Refusal> {
        let reading = self.reading().await?;
        let clients = self.top(TOP_IN_SNAPSHOT).await?;
        let snapshot = Snapshot { status: reading.status.clone(), clients };
        Ok(String::from_utf8(json(&snapshot)).expect("JSON is UTF-8").into())
    }

    /// Samples, and sends snapshots once a second while anybody watches, until `stop` changes, then saves the history.
    pub(crate) async fn run(&self, mut stop: watch::Receiver<bool>) {
        let subscription = self.feed.subscribe(Some(0));
        subscription.missed.iter().for_each(|published| self.mark(published));
        let mut notices = subscription.live;
        let mut tick_at = Instant::now();
        let mut saved_at = clock::now();
        loop {
            tokio::select! {
                () = stopped(&mut stop) => break,
                notice = notices.recv() => match notice {
                    Ok(published) => self.mark(&published),
                    Err(broadcast::error::RecvError::Lagged(missed)) => {
                        tracing::warn!(missed, "marked less on the history than happened");
                    }
                    Err(broadcast::error::RecvError::Closed) => break,
                },
                () = tokio::time::sleep_until(tick_at) => {
                    self.tick().await;
                    let now = clock::now();
                    tick_at = Instant::now() + pause(now, self.snapshots.receiver_count() > 0);
                    if now.boot_ms.saturating_sub(saved_at.boot_ms) >= SAVE_EVERY_MS {
                        self.save_history();
                        saved_at = now;
                    }
                }
            }
        }
        self.save_history();
    }

    async fn tick(&self) {
        if let Err(refusal) = self.take_sample().await {
            tracing::debug!(%refusal, "took no sample for the history");
        }
        if self.snapshots.receiver_count() > 0
            && let Ok(json) = self.snapshot().await
        {
            self.snapshots.send_replace(Some(json));
        }
    }

    /// Only what the history keeps: a reading's JSON and what it tells of the machine cost more, and nobody may look.
    async fn take_sample(&self) -> Result<(), Refusal> {
        let view = self.backend.view().await?;
        let mut readings = self.readings.lock().await;
        let dropped = readings.dropped(convert::dropped(&view), view.now);
        readings.keep_vitals(view.started_ms, view.now);
        drop(readings);
        self.lock_history().record(view.now.wall_ms, Sample::of(&view, &dropped));
        Ok(())
    }

    fn mark(&self, published: &Published) {
        let event = &published.event;
        self.lock_history().mark(event.at_ms, &event.data, &event.text);
    }

    fn lock_history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn save_history(&self) {
        let Some(path) = &self.history_path else { return };
        let content = json(&*self.lock_history());
        if let Err(error) = write_beside(path, &content) {
            tracing::warn!(path = %path.display(), %error, "could not save the history");
        }
    }
}

impl Readings {
    fn complete(&mut self, view: AgentView, feed: &Feed, now: Now) -> Reading {
        let vitals = self.vitals(view.started_ms, now);
        let dropped = self.dropped(convert::dropped(&view), now);
        let status = convert::status(&view, &feed.standing(), dropped, &vitals);
        let status_json = Bytes::from(json(&status));
        Reading { view, status, status_json, vitals }
    }

    /// Read at most once a second, so that CPU shares are over a stretch that means something.
    fn vitals(&mut self, started_ms: i64, now: Now) -> Vitals {
        match &self.read_vitals {
            Some((at, vitals)) if now.boot_ms.saturating_sub(*at) < RATE_STRETCH_MS => vitals.clone(),
            _ => {
                let vitals = self.vitals.read(started_ms, now);
                self.read_vitals = Some((now.boot_ms, vitals.clone()));
                vitals
            }
        }
    }

    /// Reads them when the last reading is old, so that the next one's CPU shares are of the last moments.
    fn keep_vitals(&mut self, started_ms: i64, now: Now) {
        let is_old = |(at, _): &(u64, Vitals)| now.boot_ms.saturating_sub(*at) >= VITALS_AGE_MS;
        if self.read_vitals.as_ref().is_none_or(is_old) {
            self.vitals(started_ms, now);
        }
    }

    fn dropped(&mut self, dropped: Dropped, now: Now) -> Dropped {
        match &self.rate_base {
            Some((at, base)) => {
                let elapsed_ms = now.boot_ms.saturating_sub(*at);
                if elapsed_ms >= RATE_STRETCH_MS {
                    let per_sec =
                        |new: u64, old: u64| new.saturating_sub(old) as f64 * 1000.0 / elapsed_ms as f64;
                    self.rates = (per_sec(dropped.packets, base.packets), per_sec(dropped.bytes, base.bytes));
                    self.rate_base = Some((now.boot_ms, dropped.clone()));
                }
            }
            None => self.rate_base = Some((now.boot_ms, dropped.clone())),
        }
        Dropped { packets_per_sec: self.rates.0, bytes_per_sec: self.rates.1, ..dropped }
    }
}

/// Until the next tick: at whole seconds of the wall clock, and between them only in the middle of a step of the history.
fn pause(now: Now, watched: bool) -> Duration {
    let period_ms = if watched { PERIOD_MS } else { UNWATCHED_PERIOD_MS };
    let since_ms = (now.wall_ms - UNWATCHED_PERIOD_MS / 2).rem_euclid(period_ms);
    Duration::from_millis((period_ms - since_ms).unsigned_abs())
}

fn json(value: &impl serde::Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("the API's types have only text keys and cannot fail to be written")
}

/// What was saved, or an empty history: it is shown, not decided by.
fn load_history(path: &Path) -> History {
    let text = match std::fs::read(path) {
        Ok(text) => text,
        Err(error) => {
            if error.kind() != std::io::ErrorKind::NotFound {
                tracing::warn!(path = %path.display(), %error, "could not read the saved history");
            }
            return History::default();
        }
    };
    serde_json::from_slice(&text).unwrap_or_else(|error| {
        tracing::warn!(path = %path.display(), %error, "the saved history is damaged; plots start anew");
        History::default()
    })
}

fn write_beside(path: &Path, content: &[u8]) -> std::io::Result<()> {
    let fresh = path.with_extension("new");
    std::fs::write(&fresh, content)?;
    std::fs::rename(&fresh, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_at_whole_seconds_and_in_the_middle_of_steps() {
        let check = |wall_ms: i64, watched: bool, expected_ms: u64| {
            let pause = pause(Now { wall_ms, boot_ms: 7 }, watched);
            assert_eq!(pause.as_millis(), u128::from(expected_ms), "{wall_ms} {watched}");
        };
        check(1_800_000_000_000, true, 1_000);
        check(1_800_000_000_250, true, 750);
        check(1_800_000_000_000, false, 1_000);
        check(1_800_000_001_000, false, 2_000);
        check(1_800_000_001_003, false, 1_997);
    }

    #[test]
    fn drops_per_second_are_over_a_stretch_long_enough() {
        let mut readings = Readings::default();
        let mut at = |boot_ms, packets| {
            let dropped = Dropped { packets, bytes: packets * 60, ..Dropped::default() };
            let now = Now { wall_ms: 0, boot_ms };
            let shown = readings.dropped(dropped, now);
            (shown.packets_per_sec, shown.bytes_per_sec)
        };
        assert_eq!(at(0, 100), (0.0, 0.0));
        assert_eq!(at(100, 900), (0.0, 0.0), "too short to tell");
        assert_eq!(at(1_000, 1_100), (1_000.0, 60_000.0));
        assert_eq!(at(1_500, 5_000), (1_000.0, 60_000.0));
        assert_eq!(at(3_000, 100), (0.0, 0.0), "an enforcer that was set up anew counts from 0");
    }
}
