//! The live state: one reading of the engine is shared by all requests and streams, so that a thousand requests a second
//! cost the engine no more than ten. Also keeps the history.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use axum::body::Bytes;
use tokio::sync::{Notify, broadcast, watch};
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

/// Period of snapshots while there is a stream.
const PERIOD_MS: i64 = 1_000;

/// The time between two takings of samples while nobody asks. The base of CPU shares is renewed with each: the next request shows
/// the last seconds, and not the hours since the last one. A runtime that hangs is noticed so much later.
const UNWATCHED_PERIOD: Duration = Duration::from_secs(10);

/// Period of saving the history.
const SAVE_EVERY_MS: u64 = 600_000;

/// When the busiest clients were found (boot clock, ms), and the list.
type FoundAt = (u64, Arc<Top>);

pub(crate) struct Live {
    backend: Arc<dyn Backend>,
    feed: Arc<Feed>,
    readings: tokio::sync::Mutex<Readings>,
    rates: Mutex<Rates>,
    /// One in flight for each of [`TOP_SHARED`], however many ask.
    top: [tokio::sync::Mutex<Option<FoundAt>>; TOP_SHARED.len()],
    sites: tokio::sync::Mutex<Option<(u64, Bytes)>>,
    history: Mutex<History>,
    history_json: Mutex<BTreeMap<Range, (i64, Bytes)>>,
    history_path: Option<PathBuf>,
    snapshots: watch::Sender<Option<Arc<str>>>,
    /// Rung when a stream begins.
    bell: Notify,
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
}

/// What enforcers drop per second, from their counters.
#[derive(Default)]
struct Rates {
    base: Option<(u64, Dropped)>,
    per_sec: (f64, f64),
}

impl Live {
    /// Loads the history from `history_path`, if there is one, and keeps it there.
    pub(crate) fn new(backend: Arc<dyn Backend>, feed: Arc<Feed>, history_path: Option<PathBuf>) -> Live {
        let history = history_path.as_deref().map(load_history).unwrap_or_default();
        Live {
            backend,
            feed,
            readings: tokio::sync::Mutex::default(),
            rates: Mutex::default(),
            top: Default::default(),
            sites: tokio::sync::Mutex::default(),
            history: Mutex::new(history),
            history_json: Mutex::default(),
            history_path,
            snapshots: watch::channel(None).0,
            bell: Notify::new(),
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
        self.take_samples();
        let dropped = self.lock_rates().dropped(convert::dropped(&view.drops), now);
        let reading = Arc::new(readings.complete(view, dropped, &self.feed, now));
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
                self.take_samples();
                let fresh = Bytes::from(json(&self.lock_history().view(range, now_ms)));
                shared.insert(range, (second, fresh.clone()));
                fresh
            }
        }
    }

    /// Subscribes to the snapshots, one a second while there is a receiver.
    pub(crate) fn snapshots(&self) -> watch::Receiver<Option<Arc<str>>> {
        let snapshots = self.snapshots.subscribe();
        self.bell.notify_one();
        snapshots
    }

    /// Returns a snapshot as JSON, for a stream that starts.
    pub(crate) async fn snapshot(&self) -> Result<Arc<str>, Refusal> {
        let reading = self.reading().await?;
        let clients = self.top(TOP_IN_SNAPSHOT).await?.first(TOP_IN_SNAPSHOT);
        let snapshot = Snapshot { status: reading.status.clone(), clients };
        Ok(String::from_utf8(json(&snapshot)).expect("JSON is UTF-8").into())
    }

    /// Keeps the history and sends snapshots to the streams until `stop` changes, then saves the history.
    pub(crate) async fn run(&self, mut stop: watch::Receiver<bool>, beat: Option<&Beat>) {
        let subscription = self.feed.subscribe(Some(0));
        subscription.missed.iter().for_each(|published| self.mark(published));
        let mut notices = subscription.live;
        let mut tick_at = Instant::now();
        let mut is_watched = false;
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
                () = self.bell.notified(), if !is_watched => {
                    tick_at = Instant::now() + until_next_second(clock::now());
                }
                () = tokio::time::sleep_until(tick_at) => {
                    beat.into_iter().for_each(Beat::working);
                    // The engine is watched by itself.
                    beat.into_iter().for_each(Beat::waiting);
                    self.tick().await;
                    beat.into_iter().for_each(Beat::working);
                    let now = clock::now();
                    is_watched = self.snapshots.receiver_count() > 0;
                    tick_at = Instant::now() + if is_watched { until_next_second(now) } else { UNWATCHED_PERIOD };
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
        self.take_samples();
        if self.snapshots.receiver_count() == 0 {
            self.readings.lock().await.vitals.renew_base();
        } else if let Ok(json) = self.snapshot().await {
            self.snapshots.send_replace(Some(json));
        }
    }

    /// Adds to the history what was put aside for it.
    fn take_samples(&self) {
        // One at a time: rates are of the time between two samples.
        let mut rates = self.lock_rates();
        for sampled in self.backend.samples() {
            let dropped = rates.dropped(convert::dropped(&sampled.drops), sampled.now);
            self.lock_history().record(sampled.now.wall_ms, Sample::of(&sampled, &dropped));
        }
    }

    fn lock_rates(&self) -> MutexGuard<'_, Rates> {
        self.rates.lock().unwrap_or_else(PoisonError::into_inner)
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
        self.take_samples();
        let content = json(&*self.lock_history());
        if let Err(error) = write_beside(path, &content) {
            tracing::warn!(path = %path.display(), %error, "could not save the history");
        }
    }
}

impl Readings {
    fn complete(&mut self, view: AgentView, dropped: Dropped, feed: &Feed, now: Now) -> Reading {
        let vitals = self.vitals(view.started_ms, now);
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
}

impl Rates {
    fn dropped(&mut self, dropped: Dropped, now: Now) -> Dropped {
        match &self.base {
            Some((at, base)) if counters(base) == counters(&dropped) => {
                let elapsed_ms = now.boot_ms.saturating_sub(*at);
                if elapsed_ms >= MIN_RATE_PERIOD_MS {
                    let per_sec =
                        |new: u64, old: u64| new.saturating_sub(old) as f64 * 1000.0 / elapsed_ms as f64;
                    self.per_sec =
                        (per_sec(dropped.packets, base.packets), per_sec(dropped.bytes, base.bytes));
                    self.base = Some((now.boot_ms, dropped.clone()));
                }
            }
            // What an enforcer counted before it was read for the first time was not dropped in this second.
            _ => self.base = Some((now.boot_ms, dropped.clone())),
        }
        Dropped { packets_per_sec: self.per_sec.0, bytes_per_sec: self.per_sec.1, ..dropped }
    }
}

/// The enforcers that count.
fn counters(dropped: &Dropped) -> Vec<EnforcerName> {
    dropped.by_enforcer.iter().map(|counted| counted.enforcer).collect()
}

fn until_next_second(now: Now) -> Duration {
    Duration::from_millis((PERIOD_MS - now.wall_ms.rem_euclid(PERIOD_MS)).unsigned_abs())
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
    fn snapshots_are_sent_at_whole_seconds() {
        let pause = |wall_ms| until_next_second(Now { wall_ms, boot_ms: 7 }).as_millis();
        assert_eq!((pause(1_800_000_000_000), pause(1_800_000_000_250)), (1_000, 750));
    }

    #[test]
    fn drops_per_second_are_over_a_time_long_enough() {
        let mut rates = Rates::default();
        let mut at = |boot_ms, packets| {
            let dropped = Dropped { packets, bytes: packets * 60, ..Dropped::default() };
            let now = Now { wall_ms: 0, boot_ms };
            let shown = rates.dropped(dropped, now);
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
        let mut rates = Rates::default();
        let mut at = |boot_ms, packets: &[u64]| {
            let counted = |(enforcer, packets)| EnforcerDrops { enforcer, packets, bytes: 0 };
            let by_enforcer: Vec<EnforcerDrops> = [EnforcerName::Iptables, EnforcerName::Xdp]
                .into_iter()
                .zip(packets.iter().copied())
                .map(counted)
                .collect();
            let dropped = Dropped { packets: packets.iter().sum(), by_enforcer, ..Dropped::default() };
            rates.dropped(dropped, Now { wall_ms: 0, boot_ms }).packets_per_sec
        };
        assert_eq!(at(0, &[]), 0.0);
        assert_eq!(at(1_000, &[5]), 0.0);
        assert_eq!(at(2_000, &[7]), 2.0);
        assert_eq!(at(3_000, &[9, 10_000]), 2.0, "the last that is known");
        assert_eq!(at(4_000, &[9, 10_010]), 10.0);
    }
}
