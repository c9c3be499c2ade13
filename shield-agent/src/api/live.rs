//! The live state: one reading of the engine is shared by all requests and streams, so that a thousand requests a second
//! cost the engine no more than ten. Also samples the history.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use axum::body::Bytes;
use tokio::sync::{broadcast, watch};
use tokio::time::Instant;

use super::backend::{AgentView, Backend, Refusal};
use super::convert;
use super::feed::{Feed, Published};
use super::history::{History, Sample};
use super::listen::stopped;
use super::top::Top;
use super::types::{ClientList, Dropped, Range, Snapshot, Status};
use super::vitals::{self, Vitals};
use crate::beat::Beat;
use crate::clock;
use shield_engine::event::EnforcerName;
use shield_engine::time::Now;

/// A reading of the engine younger than this is shared.
const STATUS_AGE_MS: u64 = 100;

/// A list of the busiest clients, or of the sites, younger than this is shared: finding them walks a whole table.
const TOP_AGE_MS: u64 = 1_000;

/// Numbers of busiest clients that are found at once and shared: what a page shows, and the most that can be asked for.
const TOP_SHARED: [usize; 2] = [100, 1_000];

/// Number of busiest clients in a snapshot.
const TOP_IN_SNAPSHOT: usize = 10;

/// The shortest time that a rate of drops is computed over: over less, single packets would look like bursts.
const MIN_RATE_PERIOD_MS: u64 = 900;

/// Period of samples and snapshots while there is a stream.
const PERIOD_MS: i64 = 1_000;

/// Period of samples otherwise: one for each step of the history.
const UNWATCHED_PERIOD_MS: i64 = 2_000;

/// Age at which the base of CPU shares is renewed without a request, so that the next request shows the last half minute
/// at most and not the hours since the last one.
const VITALS_AGE_MS: u64 = 15_000;

/// Period of saving the history.
const SAVE_EVERY_MS: u64 = 600_000;

/// When the busiest clients were found (boot clock, ms), and the list.
type FoundAt = (u64, Arc<Top>);

pub(crate) struct Live {
    backend: Arc<dyn Backend>,
    feed: Arc<Feed>,
    readings: tokio::sync::Mutex<Readings>,
    /// One in flight for each of [`TOP_SHARED`], however many ask.
    top: [tokio::sync::Mutex<Option<FoundAt>>; TOP_SHARED.len()],
    sites: tokio::sync::Mutex<Option<(u64, Bytes)>>,
    history: Mutex<History>,
    history_json: Mutex<BTreeMap<Range, (i64, Bytes)>>,
    history_path: Option<PathBuf>,
    snapshots: watch::Sender<Option<Arc<str>>>,
}

/// One reading of the engine and of the machine.
#[derive(Debug, Clone)]
pub(crate) struct Reading {
    pub view: AgentView,
    pub status: Status,
    /// `status` as JSON, made once for all requests.
    pub status_json: Bytes,
    pub vitals: Vitals,
    /// The metrics of this reading, made by the first who asks for them.
    metrics: OnceLock<Bytes>,
}

impl Reading {
    /// Returns the metrics, made by `render` if nobody has asked for those of this reading yet.
    pub(crate) fn metrics(&self, render: impl FnOnce(&Reading) -> String) -> Bytes {
        self.metrics.get_or_init(|| render(self).into()).clone()
    }
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
    /// Loads the history from `history_path`, if there is one, and keeps it there.
    pub(crate) fn new(backend: Arc<dyn Backend>, feed: Arc<Feed>, history_path: Option<PathBuf>) -> Live {
        let history = history_path.as_deref().map(load_history).unwrap_or_default();
        Live {
            backend,
            feed,
            readings: tokio::sync::Mutex::default(),
            top: Default::default(),
            sites: tokio::sync::Mutex::default(),
            history: Mutex::new(history),
            history_json: Mutex::default(),
            history_path,
            snapshots: watch::channel(None).0,
        }
    }

    pub(crate) fn backend(&self) -> &dyn Backend {
        &*self.backend
    }

    pub(crate) fn feed(&self) -> &Feed {
        &self.feed
    }

    /// Returns a reading that is at most a tenth of a second old.
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

    /// Returns the `n` busiest clients as JSON, at most a second old. Writing them is what costs, so it is done once for all.
    pub(crate) async fn top_json(&self, n: usize) -> Result<Bytes, Refusal> {
        Ok(self.top(n).await?.json(n))
    }

    /// Returns the sites as JSON, at most a second old.
    pub(crate) async fn sites_json(&self) -> Result<Bytes, Refusal> {
        let mut shared = self.sites.lock().await;
        let now = clock::now();
        if let Some((at, sites)) = &*shared
            && now.boot_ms.saturating_sub(*at) < TOP_AGE_MS
        {
            return Ok(sites.clone());
        }
        let view = self.backend.sites().await?;
        let sites = Bytes::from(json(&convert::sites(view, &self.feed.attacked_sites(now))));
        *shared = Some((now.boot_ms, sites.clone()));
        Ok(sites)
    }

    async fn top(&self, n: usize) -> Result<Arc<Top>, Refusal> {
        let size = usize::from(n > TOP_SHARED[0]);
        let mut shared = self.top[size].lock().await;
        let now = clock::now();
        if let Some((at, top)) = &*shared
            && now.boot_ms.saturating_sub(*at) < TOP_AGE_MS
        {
            return Ok(Arc::clone(top));
        }
        let top = Arc::new(Top::new(self.fresh_top(TOP_SHARED[size]).await?));
        *shared = Some((now.boot_ms, Arc::clone(&top)));
        Ok(top)
    }

    async fn fresh_top(&self, n: usize) -> Result<ClientList, Refusal> {
        let mut list = convert::client_list(&self.backend.top(n).await?);
        let since_ms = list.now_ms - i64::from(list.window_secs) * 1000;
        convert::add_banned(&mut list, self.feed.banned_since(since_ms));
        list.clients.truncate(n);
        Ok(list)
    }

    /// Returns the time series of the plots as JSON, at most a second old: shared, because it is long.
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

    /// Subscribes to the snapshots, one a second while there is a receiver.
    pub(crate) fn snapshots(&self) -> watch::Receiver<Option<Arc<str>>> {
        self.snapshots.subscribe()
    }

    /// Returns a snapshot as JSON, for a stream that starts.
    pub(crate) async fn snapshot(&self) -> Result<Arc<str>, Refusal> {
        let reading = self.reading().await?;
        let clients = self.top(TOP_IN_SNAPSHOT).await?.first(TOP_IN_SNAPSHOT);
        let snapshot = Snapshot { status: reading.status.clone(), clients };
        Ok(String::from_utf8(json(&snapshot)).expect("JSON is UTF-8").into())
    }

    /// Samples the history and sends snapshots to the streams until `stop` changes, then saves the history.
    pub(crate) async fn run(&self, mut stop: watch::Receiver<bool>, beat: Option<&Beat>) {
        let subscription = self.feed.subscribe(Some(0));
        subscription.missed.iter().for_each(|published| self.mark(published));
        let mut notices = subscription.live;
        let mut tick_at = Instant::now();
        let mut saved_at = clock::now();
        loop {
            beat.into_iter().for_each(|beat| beat.resting(tick_at.saturating_duration_since(Instant::now())));
            tokio::select! {
                () = stopped(&mut stop) => break,
                notice = notices.recv() => match notice {
                    Ok(published) => self.mark(&published),
                    Err(broadcast::error::RecvError::Lagged(missed)) => {
                        tracing::warn!(missed, "the history lacks marks: the notices came too fast");
                    }
                    Err(broadcast::error::RecvError::Closed) => break,
                },
                () = tokio::time::sleep_until(tick_at) => {
                    beat.into_iter().for_each(Beat::working);
                    // The engine is watched by itself.
                    beat.into_iter().for_each(Beat::waiting);
                    self.tick().await;
                    beat.into_iter().for_each(Beat::working);
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
            tracing::debug!(%refusal, "could not sample the history");
        }
        if self.snapshots.receiver_count() > 0
            && let Ok(json) = self.snapshot().await
        {
            self.snapshots.send_replace(Some(json));
        }
    }

    /// Reads only what the history keeps: a whole reading with its JSON costs more, and there may be no request for it.
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
        let heard = convert::Heard { conditions: feed.conditions(), attacks: feed.recent_attacks(now) };
        let status = convert::status(&view, &heard, dropped, &vitals);
        let status_json = Bytes::from(json(&status));
        Reading { view, status, status_json, vitals, metrics: OnceLock::new() }
    }

    /// Reads at most once a second: CPU shares of a shorter time would be mostly rounding.
    fn vitals(&mut self, started_ms: i64, now: Now) -> Vitals {
        match &self.read_vitals {
            Some((at, vitals)) if now.boot_ms.saturating_sub(*at) < MIN_RATE_PERIOD_MS => vitals.clone(),
            _ => {
                let vitals = self.vitals.read(started_ms, now);
                self.read_vitals = Some((now.boot_ms, vitals.clone()));
                vitals
            }
        }
    }

    /// Renews an old base of the CPU shares, see [`VITALS_AGE_MS`].
    fn keep_vitals(&mut self, started_ms: i64, now: Now) {
        let is_old = |(at, _): &(u64, Vitals)| now.boot_ms.saturating_sub(*at) >= VITALS_AGE_MS;
        if self.read_vitals.as_ref().is_none_or(is_old) {
            self.vitals(started_ms, now);
        }
    }

    fn dropped(&mut self, dropped: Dropped, now: Now) -> Dropped {
        match &self.rate_base {
            Some((at, base)) if counters(base) == counters(&dropped) => {
                let elapsed_ms = now.boot_ms.saturating_sub(*at);
                if elapsed_ms >= MIN_RATE_PERIOD_MS {
                    let per_sec =
                        |new: u64, old: u64| new.saturating_sub(old) as f64 * 1000.0 / elapsed_ms as f64;
                    self.rates = (per_sec(dropped.packets, base.packets), per_sec(dropped.bytes, base.bytes));
                    self.rate_base = Some((now.boot_ms, dropped.clone()));
                }
            }
            // What an enforcer counted before it was read for the first time was not dropped in this second.
            _ => self.rate_base = Some((now.boot_ms, dropped.clone())),
        }
        Dropped { packets_per_sec: self.rates.0, bytes_per_sec: self.rates.1, ..dropped }
    }
}

/// The enforcers that count.
fn counters(dropped: &Dropped) -> Vec<EnforcerName> {
    dropped.by_enforcer.iter().map(|counted| counted.enforcer).collect()
}

/// The pause until the next tick: with streams at whole seconds of the wall clock, otherwise in the middle of each step of
/// the history, so that jitter does not move a sample into another step.
fn pause(now: Now, watched: bool) -> Duration {
    let period_ms = if watched { PERIOD_MS } else { UNWATCHED_PERIOD_MS };
    let since_ms = (now.wall_ms - UNWATCHED_PERIOD_MS / 2).rem_euclid(period_ms);
    Duration::from_millis((period_ms - since_ms).unsigned_abs())
}

fn json(value: &impl serde::Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("the API's types have only text keys and cannot fail to be written")
}

/// Loads the saved history. A damaged one is replaced by an empty one: nothing is decided by it.
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
    serde_json::from_slice(&text).map(History::after_a_pause).unwrap_or_else(|error| {
        tracing::warn!(path = %path.display(), %error, "could not parse the saved history; the plots start empty");
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
    use crate::api::types::EnforcerDrops;

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
    fn drops_per_second_are_over_a_time_long_enough() {
        let mut readings = Readings::default();
        let mut at = |boot_ms, packets| {
            let dropped = Dropped { packets, bytes: packets * 60, ..Dropped::default() };
            let now = Now { wall_ms: 0, boot_ms };
            let shown = readings.dropped(dropped, now);
            (shown.packets_per_sec, shown.bytes_per_sec)
        };
        assert_eq!(at(0, 100), (0.0, 0.0));
        assert_eq!(at(100, 900), (0.0, 0.0), "too short a time");
        assert_eq!(at(1_000, 1_100), (1_000.0, 60_000.0));
        assert_eq!(at(1_500, 5_000), (1_000.0, 60_000.0));
        assert_eq!(at(3_000, 100), (0.0, 0.0), "an enforcer that was restarted counts from 0");
    }

    // A restart showed 10,197 packets a second that never were: the counters of XDP outlive the agent.
    #[test]
    fn what_an_enforcer_counted_before_its_first_reading_is_no_burst() {
        let mut readings = Readings::default();
        let mut at = |boot_ms, packets: &[u64]| {
            let counted = |(enforcer, packets)| EnforcerDrops { enforcer, packets, bytes: 0 };
            let by_enforcer: Vec<EnforcerDrops> = [EnforcerName::Iptables, EnforcerName::Xdp]
                .into_iter()
                .zip(packets.iter().copied())
                .map(counted)
                .collect();
            let dropped = Dropped { packets: packets.iter().sum(), by_enforcer, ..Dropped::default() };
            readings.dropped(dropped, Now { wall_ms: 0, boot_ms }).packets_per_sec
        };
        assert_eq!(at(0, &[]), 0.0);
        assert_eq!(at(1_000, &[5]), 0.0);
        assert_eq!(at(2_000, &[7]), 2.0);
        assert_eq!(at(3_000, &[9, 10_000]), 2.0, "the last that is known");
        assert_eq!(at(4_000, &[9, 10_010]), 10.0);
    }
}
