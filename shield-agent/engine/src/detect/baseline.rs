//! The learned baseline: levels of the whole server and of the site's clients, with a slot for each hour of the day, and
//! precedents set by single clients. Learns minute by minute; `detector.rs` decides which requests may teach.

use std::cmp::Ordering;
use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::detect::moments::Moments;
use crate::detect::ring::{SecondRing, ServerSecond};
use crate::detect::score::SavedSite;

/// Length of the rolling window, in minutes.
const ROLLING_MINUTES: usize = 30;

/// After a longer gap between two runs nothing is known of the time between.
const MISSED_SECS: u32 = 300;

/// The weight that an hour slot's earlier days keep when its hour comes again on a later day.
const HOUR_KEEP: f64 = 0.5;

/// The least mean and standard deviation, in requests or errors per second. On a silent site any visitor would be
/// infinitely many deviations above the mean otherwise.
pub(crate) const FLOOR: f64 = 0.1;

/// Client minutes that a level of clients needs before it is used.
const MIN_CLIENT_SAMPLES: f64 = 30.0;

/// Precedents expire after a day.
const PRECEDENT_SECS: u32 = 86_400;

/// A precedent is what this many other clients did: fewer could be an attacker's own.
const PRECEDENT_CLIENTS: usize = 3;

const SECS_PER_HOUR: u32 = 3600;

/// The longest silence that is learned in full. Halved on each day, what was learned before it is less than one sample then.
const MAX_SILENCE_SECS: u32 = 64 * 86_400;

/// A value of one client's minute that is compared with those of other clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Feature {
    /// Distinct pages.
    Paths,
    /// POSTs to one target.
    Posts,
    /// Requests for one page.
    Repeats,
    /// Refused requests.
    Failed,
}

impl Feature {
    /// In the order of their discriminants, which index arrays.
    pub(crate) const ALL: [Feature; 4] = [Feature::Paths, Feature::Posts, Feature::Repeats, Feature::Failed];

    /// The name in evidence.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Feature::Paths => "distinct_paths",
            Feature::Posts => "posts_to_one_path",
            Feature::Repeats => "requests_for_one_page",
            Feature::Failed => "failures",
        }
    }
}

/// The values learned of one client's minute.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct ClientMinute {
    /// Requests, with assets at their configured weight.
    pub load: f64,
    pub errors: f64,
    /// Indexed by [`Feature`].
    pub features: [f64; Feature::ALL.len()],
}

/// The samples that a level is computed from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// The last 30 min.
    Rolling,
    /// The same hour on this and earlier days.
    HourSlot,
    /// All hours together.
    AllHours,
    /// None: nothing was learned, and [`FLOOR`] applies.
    Floor,
}

impl Source {
    /// The name in evidence.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Source::Rolling => "rolling",
            Source::HourSlot => "hour_slot",
            Source::AllHours => "all_hours",
            Source::Floor => "floor",
        }
    }
}

/// A learned level, at least [`FLOOR`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Level {
    /// Requests per second.
    pub mean: f64,
    /// The population standard deviation, in requests per second.
    pub(crate) stddev: f64,
    /// Errors per second.
    pub(crate) error_mean: f64,
    /// The number of samples, less what was forgotten.
    pub(crate) samples: f64,
    pub(crate) source: Source,
}

impl Level {
    /// (rate - mean) / stddev.
    pub(crate) fn z_score(&self, rate: f64) -> f64 {
        (rate - self.mean) / self.stddev
    }

    fn of(rates: &Moments, errors: &Moments, source: Source) -> Level {
        Level {
            mean: rates.mean().max(FLOOR),
            stddev: rates.stddev().max(FLOOR),
            error_mean: errors.mean().max(FLOOR),
            samples: rates.count(),
            source,
        }
    }
}

/// A minute or an hour slot of the whole server. The samples are seconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
struct ServerSpan {
    requests: Moments,
    errors: Moments,
}

impl ServerSpan {
    fn silence(secs: u32) -> ServerSpan {
        let mut silence = ServerSpan::default();
        silence.requests.add_many(0.0, f64::from(secs));
        silence.errors.add_many(0.0, f64::from(secs));
        silence
    }

    fn merge(&mut self, other: &ServerSpan) {
        self.requests.merge(&other.requests);
        self.errors.merge(&other.errors);
    }

    fn forget(&mut self, keep: f64) {
        self.requests.forget(keep);
        self.errors.forget(keep);
    }
}

/// A minute or an hour slot of clients. The samples are minutes of single clients.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
struct ClientSpan {
    /// In requests per second.
    load: Moments,
    /// In errors per second.
    errors: Moments,
    /// ln(1 + value) by feature: the values spread over orders of magnitude.
    logs: [Moments; Feature::ALL.len()],
}

impl ClientSpan {
    fn add(&mut self, minute: &ClientMinute) {
        self.load.add(minute.load / 60.0);
        self.errors.add(minute.errors / 60.0);
        for (logs, value) in self.logs.iter_mut().zip(minute.features) {
            // Most values are 0, and so is their logarithm.
            logs.add(if value == 0.0 { 0.0 } else { value.ln_1p() });
        }
    }

    fn merge(&mut self, other: &ClientSpan) {
        self.load.merge(&other.load);
        self.errors.merge(&other.errors);
        for (logs, other) in self.logs.iter_mut().zip(&other.logs) {
            logs.merge(other);
        }
    }

    fn forget(&mut self, keep: f64) {
        self.load.forget(keep);
        self.errors.forget(keep);
        self.logs.iter_mut().for_each(|logs| logs.forget(keep));
    }
}

/// A minute of clients, gathered one by one. Its sums depend on the order in their last bits.
#[derive(Debug, Clone)]
pub(crate) struct ClientsMinute {
    /// Its first second.
    minute: u32,
    span: ClientSpan,
    precedents: [Vec<Precedent>; Feature::ALL.len()],
}

impl ClientsMinute {
    pub(crate) fn new(minute: u32) -> ClientsMinute {
        ClientsMinute { minute, span: ClientSpan::default(), precedents: Default::default() }
    }

    /// Adds a client with an id that is stable over restarts.
    pub(crate) fn add(&mut self, client: u64, values: &ClientMinute) {
        self.span.add(values);
        for (precedents, value) in self.precedents.iter_mut().zip(values.features) {
            remember(precedents, Precedent { client, value, second: self.minute });
        }
    }

    /// Forgets the precedents that a client set: it turned out to be an attacker.
    pub(crate) fn forget_precedents(&mut self, client: u64) {
        self.precedents.iter_mut().for_each(|all| all.retain(|p| p.client != client));
    }
}

/// An hour of the day, UTC.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
struct HourSlot {
    /// The day, since 1970, that was learned last.
    day: u32,
    server: ServerSpan,
    clients: ClientSpan,
}

/// A high value of a feature that a client reached.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
struct Precedent {
    client: u64,
    value: f64,
    second: u32,
}

/// Everything that outlives a restart.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Learned {
    /// The second at which learning began; 0 before.
    began: u32,
    /// The first second of the minute to learn next.
    minute: u32,
    /// The rolling window, oldest minute first.
    server: VecDeque<ServerSpan>,
    clients: VecDeque<ClientSpan>,
    hours: Vec<HourSlot>,
    precedents: [Vec<Precedent>; Feature::ALL.len()],
}

/// What was learned, and the levels in force. Changed through [`Thresholds`](super::thresholds::Thresholds) only.
#[derive(Debug, Clone)]
pub(crate) struct Baseline {
    learned: Learned,
    /// Minutes of a global anomaly: dropped when it ends, learned when it is accepted.
    frozen: VecDeque<ServerSpan>,
    min_samples: f64,
    server: Level,
    clients: Level,
    logs: [Moments; Feature::ALL.len()],
}

/// The format of [`Baseline::save`].
const SAVED_VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Saved {
    version: u32,
    learned: Learned,
    /// Absent before habits and standing were learned.
    #[serde(default)]
    site: SavedSite,
}

impl Baseline {
    pub(crate) fn set_min_samples(&mut self, min_samples: u32) {
        self.min_samples = f64::from(min_samples);
    }

    /// An empty baseline. An hour slot is used once it holds `min_samples` seconds or client minutes.
    pub(crate) fn new(min_samples: u32) -> Baseline {
        let learned = Learned { hours: vec![HourSlot::default(); 24], ..Learned::default() };
        let nothing = Level::of(&Moments::default(), &Moments::default(), Source::Floor);
        Baseline {
            learned,
            frozen: VecDeque::new(),
            min_samples: f64::from(min_samples),
            server: nothing,
            clients: nothing,
            logs: Default::default(),
        }
    }

    /// Begins learning at `second`, the first one seen, unless an earlier run has begun.
    pub(crate) fn begin(&mut self, second: u32) {
        if self.learned.began == 0 || second < self.learned.began {
            self.learned.began = second;
        }
        if self.learned.minute == 0 || self.learned.minute > second {
            self.learned.minute = second - second % 60;
        }
    }

    /// Goes on after a run that ended long ago: of the time between nothing is known, and it does not count as experience.
    pub(crate) fn resume(&mut self, second: u32) {
        let missed = second.saturating_sub(self.learned.minute);
        if self.learned.minute > 0 && missed > MISSED_SECS {
            self.learned.began = self.learned.began.saturating_add(missed);
            self.skip_to(second);
        }
    }

    /// Learns whole minutes from `second` on, and nothing of the time before any more.
    pub(crate) fn skip_to(&mut self, second: u32) {
        self.learned.minute = self.learned.minute.max(second.div_ceil(60).saturating_mul(60));
    }

    /// Seconds from the beginning of learning to `second`.
    pub(crate) fn age_secs(&self, second: u32) -> u32 {
        if self.learned.began == 0 { 0 } else { second.saturating_sub(self.learned.began) }
    }

    /// Learns the whole server's minute that starts at `minute`. While `frozen`, the minute is only set aside.
    pub(crate) fn learn_server(&mut self, minute: u32, ring: &SecondRing, frozen: bool) {
        let mut span = ServerSpan::default();
        // Nearly all seconds of a quiet site are empty. The sum is the same to the last bit as if they were added one by one.
        let mut empty = ServerSecond::default();
        for second in minute.max(self.learned.began)..minute + 60 {
            let ServerSecond { requests, errors } = ring.at(second);
            match requests {
                0 => empty.requests += 1,
                _ => span.requests.add(f64::from(requests)),
            }
            match errors {
                0 => empty.errors += 1,
                _ => span.errors.add(f64::from(errors)),
            }
        }
        span.requests.add_many(0.0, f64::from(empty.requests));
        span.errors.add_many(0.0, f64::from(empty.errors));
        self.learned.minute = self.learned.minute.max(minute + 60);
        if frozen {
            push(&mut self.frozen, span);
            return;
        }
        self.frozen.clear();
        self.learn_span(minute, span);
    }

    fn learn_span(&mut self, minute: u32, span: ServerSpan) {
        push(&mut self.learned.server, span);
        self.hour_mut(minute).server.merge(&span);
    }

    /// Learns `minutes` without a request, starting at `minute` (a minute's first second).
    ///
    /// Goes through the silence hour by hour: an hour's slot halves its past on each of the days, so two days of silence leave
    /// another level behind than one. After the last [`MAX_SILENCE_SECS`] nothing is left of what was before.
    pub(crate) fn learn_silence(&mut self, minute: u32, minutes: u32) {
        let end = minute.saturating_add(minutes.saturating_mul(60));
        let mut start = minute.max(end.saturating_sub(MAX_SILENCE_SECS));
        while start < end {
            let hour_end = (start - start % SECS_PER_HOUR).saturating_add(SECS_PER_HOUR);
            let silence = ServerSpan::silence(end.min(hour_end) - start);
            self.hour_mut(start).server.merge(&silence);
            start = end.min(hour_end);
        }
        for _ in 0..ROLLING_MINUTES.min(minutes as usize) {
            push(&mut self.learned.server, ServerSpan::silence(60));
            push(&mut self.learned.clients, ClientSpan::default());
        }
        self.learned.minute = self.learned.minute.max(end);
    }

    /// Learns the minute that starts at `minute` from clients, each with an id that is stable over restarts.
    #[cfg(test)]
    pub(crate) fn learn_clients(&mut self, minute: u32, clients: impl Iterator<Item = (u64, ClientMinute)>) {
        let mut all = ClientsMinute::new(minute);
        clients.for_each(|(client, values)| all.add(client, &values));
        self.learn_clients_minute(&all);
    }

    /// Learns a minute of clients.
    pub(crate) fn learn_clients_minute(&mut self, clients: &ClientsMinute) {
        let ClientsMinute { minute, span, precedents } = clients;
        for (known, new) in self.learned.precedents.iter_mut().zip(precedents) {
            known.retain(|p| minute.saturating_sub(p.second) < PRECEDENT_SECS);
            new.iter().for_each(|precedent| remember(known, *precedent));
        }
        push(&mut self.learned.clients, *span);
        self.hour_mut(*minute).clients.merge(span);
    }

    /// Learns the frozen minutes after all, in place of the level before them.
    pub(crate) fn accept_frozen(&mut self, second: u32) {
        if self.frozen.is_empty() {
            return;
        }
        self.learned.server = std::mem::take(&mut self.frozen);
        let mut accepted = ServerSpan::default();
        self.learned.server.iter().for_each(|span| accepted.merge(span));
        self.hour_mut(second).server = accepted;
    }

    /// Computes the levels in force at `second`.
    pub(crate) fn recompute(&mut self, second: u32) {
        let mut rolling = ServerSpan::default();
        self.learned.server.iter().for_each(|span| rolling.merge(span));
        let mut rolling_clients = ClientSpan::default();
        self.learned.clients.iter().for_each(|span| rolling_clients.merge(span));
        let slot = &self.learned.hours[hour_of(second)];
        self.server = match slot.server.requests.count() {
            n if n >= self.min_samples => {
                Level::of(&slot.server.requests, &slot.server.errors, Source::HourSlot)
            }
            _ if rolling.requests.count() > 0.0 => {
                Level::of(&rolling.requests, &rolling.errors, Source::Rolling)
            }
            _ => Level::of(&Moments::default(), &Moments::default(), Source::Floor),
        };
        let (clients, source) = self.client_span(&rolling_clients, slot);
        self.clients = Level::of(&clients.load, &clients.errors, source);
        self.logs = clients.logs;
    }

    fn client_span(&self, rolling: &ClientSpan, slot: &HourSlot) -> (ClientSpan, Source) {
        if slot.clients.load.count() >= self.min_samples {
            return (slot.clients, Source::HourSlot);
        }
        if rolling.load.count() >= MIN_CLIENT_SAMPLES {
            return (*rolling, Source::Rolling);
        }
        let mut all = ClientSpan::default();
        self.learned.hours.iter().for_each(|slot| all.merge(&slot.clients));
        if all.load.count() >= MIN_CLIENT_SAMPLES {
            return (all, Source::AllHours);
        }
        (ClientSpan::default(), Source::Floor)
    }

    pub(crate) fn server(&self) -> &Level {
        &self.server
    }

    pub(crate) fn clients(&self) -> &Level {
        &self.clients
    }

    /// Returns the z-score of a feature's value among minutes of clients, on a logarithmic scale; 0 when too little was
    /// learned to compare with.
    pub(crate) fn log_z_score(&self, feature: Feature, value: f64) -> f64 {
        let logs = &self.logs[feature as usize];
        if logs.count() < MIN_CLIENT_SAMPLES {
            return 0.0;
        }
        (value.ln_1p() - logs.mean()) / logs.stddev().max(FLOOR)
    }

    /// Returns the value whose [`Baseline::log_z_score`] is `z`; infinity when too little was learned.
    pub(crate) fn value_at_log_z(&self, feature: Feature, z: f64) -> f64 {
        let logs = &self.logs[feature as usize];
        if logs.count() < MIN_CLIENT_SAMPLES {
            return f64::INFINITY;
        }
        (logs.mean() + z * logs.stddev().max(FLOOR)).exp_m1()
    }

    /// Returns the geometric mean of 1 + value over minutes of clients, less 1.
    pub(crate) fn typical(&self, feature: Feature) -> f64 {
        self.logs[feature as usize].mean().exp_m1()
    }

    /// Returns the value that at least three other clients reached in some minute of the last day; 0 when there is none.
    pub(crate) fn precedent(&self, feature: Feature, client: u64, second: u32) -> f64 {
        let all = &self.learned.precedents[feature as usize];
        let others =
            all.iter().filter(|p| p.client != client && second.saturating_sub(p.second) < PRECEDENT_SECS);
        others.map(|p| p.value).nth(PRECEDENT_CLIENTS - 1).unwrap_or(0.0)
    }

    /// Returns a lower bound of [`Baseline::precedent`] for all clients and all seconds up to `until`: skips one precedent
    /// more, in case it is the client's own.
    pub(crate) fn least_precedent(&self, feature: Feature, until: u32) -> f64 {
        let all = &self.learned.precedents[feature as usize];
        let lasting = all.iter().filter(|p| until.saturating_sub(p.second) < PRECEDENT_SECS);
        lasting.map(|p| p.value).nth(PRECEDENT_CLIENTS).unwrap_or(0.0)
    }

    pub(crate) fn has_precedents_of(&self, client: u64) -> bool {
        self.learned.precedents.iter().flatten().any(|p| p.client == client)
    }

    /// Forgets the precedents that a client set: it turned out to be an attacker.
    pub(crate) fn forget_precedents(&mut self, client: u64) {
        self.learned.precedents.iter_mut().for_each(|all| all.retain(|p| p.client != client));
    }

    /// The first second of the minute to learn next.
    pub(crate) fn next_minute(&self) -> u32 {
        self.learned.minute
    }

    /// Mean and standard deviation of the requests per second by hour of the day; `None` where samples are too few.
    pub(crate) fn hours(&self) -> Vec<Option<(f64, f64)>> {
        let level = |slot: &HourSlot| {
            let requests = &slot.server.requests;
            (requests.count() >= self.min_samples).then(|| (requests.mean(), requests.stddev()))
        };
        self.learned.hours.iter().map(level).collect()
    }

    /// Serialises what was learned, for [`Baseline::restored`].
    pub(crate) fn save(&self, site: SavedSite) -> Vec<u8> {
        let saved = Saved { version: SAVED_VERSION, learned: self.learned.clone(), site };
        serde_json::to_vec(&saved).expect("numbers, lists and names always serialise")
    }

    /// Reads what [`Baseline::save`] wrote; the levels are those of the last minute learned.
    pub(crate) fn restored(bytes: &[u8], min_samples: u32) -> Result<(Baseline, SavedSite), String> {
        let saved: Saved = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
        if saved.version != SAVED_VERSION {
            return Err(format!(
                "its format is version {}, this Shield reads {SAVED_VERSION}",
                saved.version
            ));
        }
        saved.learned.check()?;
        let mut baseline = Baseline { learned: saved.learned, ..Baseline::new(min_samples) };
        baseline.recompute(baseline.learned.minute);
        Ok((baseline, saved.site))
    }

    fn hour_mut(&mut self, second: u32) -> &mut HourSlot {
        let day = second / (24 * SECS_PER_HOUR);
        let slot = &mut self.learned.hours[hour_of(second)];
        if slot.day != day {
            slot.server.forget(HOUR_KEEP);
            slot.clients.forget(HOUR_KEEP);
            slot.day = day;
        }
        slot
    }
}

impl Learned {
    fn check(&self) -> Result<(), String> {
        let server = self.server.iter().chain(self.hours.iter().map(|h| &h.server));
        let clients = self.clients.iter().chain(self.hours.iter().map(|h| &h.clients));
        let sane = server.clone().all(|s| s.requests.is_sane() && s.errors.is_sane())
            && clients
                .clone()
                .all(|c| c.load.is_sane() && c.errors.is_sane() && c.logs.iter().all(Moments::is_sane));
        if self.hours.len() != 24 {
            return Err(format!("its day has {} hours", self.hours.len()));
        }
        if self.server.len() > ROLLING_MINUTES || self.clients.len() > ROLLING_MINUTES || !sane {
            return Err("its numbers are not possible".to_owned());
        }
        Ok(())
    }
}

fn push<T>(minutes: &mut VecDeque<T>, span: T) {
    if minutes.len() >= ROLLING_MINUTES {
        minutes.pop_front();
    }
    minutes.push_back(span);
}

fn hour_of(second: u32) -> usize {
    (second / SECS_PER_HOUR % 24) as usize
}

/// The highest first, of equals the newest.
fn by_rank(a: &Precedent, b: &Precedent) -> Ordering {
    b.value.total_cmp(&a.value).then(b.second.cmp(&a.second)).then(a.client.cmp(&b.client))
}

/// Keeps the highest values, one per client and highest first; of equal ones the newer.
fn remember(precedents: &mut Vec<Precedent>, new: Precedent) {
    let least = precedents.last().filter(|_| precedents.len() > PRECEDENT_CLIENTS);
    if new.value <= 0.0 || least.is_some_and(|least| least.value > new.value) {
        return;
    }
    // On a busy site thousands of clients reach the same value.
    let is_behind = least.is_some_and(|least| by_rank(least, &new).is_lt());
    match precedents.iter().position(|p| p.client == new.client) {
        Some(old) if precedents[old].value > new.value => return,
        Some(old) => drop(precedents.remove(old)),
        None if is_behind => return,
        None => precedents.truncate(PRECEDENT_CLIENTS),
    }
    let at = precedents.partition_point(|known| by_rank(known, &new).is_lt());
    precedents.insert(at, new);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Teaches `minutes` in which each second has `rate` requests.
    fn learn(baseline: &mut Baseline, from: u32, minutes: u32, rate: impl Fn(u32) -> u32, frozen: bool) {
        let mut ring = SecondRing::new(1920, from);
        baseline.begin(from);
        for minute in 0..minutes {
            let start = from + minute * 60;
            for second in start..start + 60 {
                ring.advance(second);
                (0..rate(second)).for_each(|_| ring.add(second, 0));
            }
            baseline.learn_server(start, &ring, frozen);
        }
        baseline.recompute(from + minutes * 60);
    }

    #[test]
    fn nothing_learned_is_the_floors() {
        let baseline = Baseline::new(600);
        let Level { mean, stddev, error_mean, source, .. } = *baseline.server();
        assert_eq!((mean, stddev, error_mean, source), (FLOOR, FLOOR, FLOOR, Source::Floor));
    }

    #[test]
    fn empty_seconds_count_as_zeros() {
        let mut baseline = Baseline::new(100_000);
        learn(&mut baseline, 86_400, 10, |second| if second % 10 == 0 { 20 } else { 0 }, false);
        assert_eq!(baseline.server().source, Source::Rolling);
        assert!((baseline.server().mean - 2.0).abs() < 1e-9);
        assert!((baseline.server().stddev - 6.0).abs() < 1e-9);
    }

    #[test]
    fn the_rolling_window_is_30_minutes() {
        let mut baseline = Baseline::new(100_000);
        learn(&mut baseline, 86_400, 60, |second| if second < 86_400 + 1800 { 9 } else { 3 }, false);
        assert!((baseline.server().mean - 3.0).abs() < 1e-9);
        assert!((baseline.server().samples - 1800.0).abs() < 1e-9);
    }

    #[test]
    fn the_hours_slot_is_preferred_once_it_has_enough() {
        let mut baseline = Baseline::new(1200);
        learn(&mut baseline, 86_400, 19, |_| 4, false);
        assert_eq!(baseline.server().source, Source::Rolling);
        learn(&mut baseline, 86_400 + 19 * 60, 1, |_| 4, false);
        assert_eq!(baseline.server().source, Source::HourSlot);
    }

    #[test]
    fn an_hour_forgets_its_earlier_days_by_half() {
        let mut baseline = Baseline::new(1200);
        learn(&mut baseline, 86_400, 60, |_| 10, false);
        learn(&mut baseline, 2 * 86_400, 60, |_| 4, false);
        // 1800 remembered seconds of 10 and 3600 new ones of 4.
        baseline.recompute(2 * 86_400 + 3599);
        assert!((baseline.server().mean - 6.0).abs() < 1e-9);
    }

    /// History: only the last 25 h of a silence were learned. After 60 h without a request an hour's slot had forgotten
    /// its past once and not three times, its level was too high, and a ban was missed.
    #[test]
    fn a_silence_of_any_length_is_learned_as_minutes_without_requests() {
        for minutes in [1, 29, 31, 59, 61, 24 * 60, 25 * 60, 25 * 60 + 1, 60 * 60 + 7, 9 * 24 * 60] {
            let mut expected = Baseline::new(600);
            learn(&mut expected, 86_400, 90, |_| 10, false);
            let mut baseline = expected.clone();
            let start = baseline.next_minute();
            let mut ring = SecondRing::new(300, start);
            for minute in (start..start + minutes * 60).step_by(60) {
                ring.advance(minute + 59);
                expected.learn_server(minute, &ring, false);
                expected.learn_clients(minute, std::iter::empty());
            }
            baseline.learn_silence(start, minutes);
            assert_eq!(baseline.learned, expected.learned, "{minutes} min");
        }
    }

    #[test]
    fn the_longest_silence_that_a_clock_can_jump_over_is_learned() {
        let mut baseline = Baseline::new(600);
        learn(&mut baseline, 86_400, 90, |_| 10, false);
        let start = baseline.next_minute();
        baseline.learn_silence(start, (u32::MAX - start) / 60);
        baseline.recompute(start);
        let Level { mean, samples, source, .. } = *baseline.server();
        assert_eq!((mean, samples, source), (FLOOR, 7200.0, Source::HourSlot));
    }

    #[test]
    fn frozen_minutes_are_learned_only_when_accepted() {
        let mut baseline = Baseline::new(100_000);
        learn(&mut baseline, 86_400, 30, |_| 2, false);
        learn(&mut baseline, 86_400 + 1800, 30, |_| 50, true);
        assert!((baseline.server().mean - 2.0).abs() < 1e-9);
        baseline.accept_frozen(86_400 + 3600);
        baseline.recompute(86_400 + 3600);
        assert!((baseline.server().mean - 50.0).abs() < 1e-9);
    }

    #[test]
    fn a_precedent_needs_three_other_clients() {
        let mut baseline = Baseline::new(600);
        let minute = |paths| ClientMinute { features: [paths, 0.0, 0.0, 0.0], ..ClientMinute::default() };
        baseline.learn_clients(6000, [(1, minute(200.0)), (2, minute(90.0)), (3, minute(80.0))].into_iter());
        assert_eq!(baseline.precedent(Feature::Paths, 9, 6060), 80.0);
        assert_eq!(baseline.precedent(Feature::Paths, 1, 6060), 0.0, "one of the three is the client itself");
        baseline.learn_clients(6060, [(4, minute(70.0))].into_iter());
        assert_eq!(baseline.precedent(Feature::Paths, 1, 6120), 70.0);
        assert_eq!(baseline.precedent(Feature::Paths, 9, 6060 + PRECEDENT_SECS), 0.0, "a day later");
        baseline.forget_precedents(3);
        assert_eq!(baseline.precedent(Feature::Paths, 9, 6120), 70.0);
    }

    #[test]
    fn a_level_of_clients_comes_from_the_best_span_that_has_enough() {
        const DAY: u32 = 86_400;
        let mut baseline = Baseline::new(45);
        let level = |baseline: &mut Baseline, second| {
            baseline.recompute(second);
            let Level { mean, samples, source, .. } = *baseline.clients();
            (source, (mean * 60.0).round() as u32, samples as u32)
        };
        let minutes = |clients: u64, load: f64| {
            (0..clients).map(move |client| (client, ClientMinute { load, ..ClientMinute::default() }))
        };
        baseline.begin(DAY);
        baseline.learn_clients(DAY, minutes(29, 60.0));
        assert_eq!(
            level(&mut baseline, DAY + 60),
            (Source::Floor, 6, 0),
            "29 minutes of clients are too few"
        );
        baseline.learn_clients(DAY + 60, minutes(1, 60.0));
        assert_eq!(level(&mut baseline, DAY + 120), (Source::Rolling, 60, 30));
        baseline.learn_clients(DAY + 120, minutes(15, 120.0));
        assert_eq!(level(&mut baseline, DAY + 180), (Source::HourSlot, 80, 45));
        // An hour later the rolling window is empty, and the hour's own slot too.
        for minute in 60..90 {
            baseline.learn_clients(DAY + minute * 60, minutes(0, 0.0));
        }
        assert_eq!(level(&mut baseline, DAY + 5400), (Source::AllHours, 80, 45));
    }

    #[test]
    fn features_are_compared_on_a_logarithmic_scale() {
        let mut baseline = Baseline::new(600);
        let minute = |paths| ClientMinute { features: [paths, 0.0, 0.0, 0.0], ..ClientMinute::default() };
        baseline.begin(86_400);
        baseline.learn_clients(86_400, (0..29).map(|client| (client, minute(99.0))));
        baseline.recompute(86_460);
        assert_eq!(baseline.log_z_score(Feature::Paths, 1e6), 0.0, "too little to compare with");
        assert_eq!(baseline.value_at_log_z(Feature::Paths, 4.0), f64::INFINITY);
        baseline.learn_clients(86_460, [(29, minute(99.0))].into_iter());
        baseline.recompute(86_520);
        assert!((baseline.typical(Feature::Paths) - 99.0).abs() < 1e-9);
        // All alike: the standard deviation is the floor, 0.1 on this scale.
        let value = 100.0 * (0.4_f64).exp() - 1.0;
        assert!((baseline.log_z_score(Feature::Paths, value) - 4.0).abs() < 1e-9);
        assert!((baseline.value_at_log_z(Feature::Paths, 4.0) - value).abs() < 1e-6);
        assert_eq!(baseline.typical(Feature::Posts), 0.0);
    }

    #[test]
    fn the_hours_of_the_day_are_shown_once_they_have_enough() {
        let mut baseline = Baseline::new(1200);
        learn(&mut baseline, 86_400 + 3600, 60, |second| 2 + 2 * (second % 2), false);
        learn(&mut baseline, 86_400 + 7200, 19, |_| 1, false);
        let hours = baseline.hours();
        assert_eq!((hours.len(), hours[0], hours[2]), (24, None, None));
        assert_eq!(hours[1], Some((3.0, 1.0)));
    }

    #[test]
    fn the_highest_and_newest_precedents_are_kept() {
        let keep = |values: &[(u64, f64, u32)]| {
            let mut precedents = Vec::new();
            for &(client, value, second) in values {
                remember(&mut precedents, Precedent { client, value, second });
            }
            precedents.iter().map(|p| (p.client, p.value, p.second)).collect::<Vec<_>>()
        };
        assert_eq!(keep(&[(1, 0.0, 9)]), []);
        assert_eq!(keep(&[(1, 5.0, 1), (1, 4.0, 2)]), [(1, 5.0, 1)], "one a client: the higher");
        assert_eq!(keep(&[(1, 5.0, 1), (1, 5.0, 2)]), [(1, 5.0, 2)], "of equal ones the newer");
        let four = [(1, 5.0, 1), (2, 6.0, 1), (3, 7.0, 1), (4, 8.0, 1)];
        let sorted = [(4, 8.0, 1), (3, 7.0, 1), (2, 6.0, 1), (1, 5.0, 1)];
        assert_eq!(keep(&four), sorted);
        assert_eq!(keep(&[&four[..], &[(5, 4.9, 2)]].concat()), sorted, "lower than all");
        assert_eq!(
            keep(&[&four[..], &[(5, 5.0, 2)]].concat())[3],
            (5, 5.0, 2),
            "as high as the last, and newer"
        );
    }

    #[test]
    fn an_earlier_request_moves_the_beginning_and_a_later_one_does_not() {
        let mut baseline = Baseline::new(600);
        assert_eq!(baseline.age_secs(90_000), 0, "nothing began");
        baseline.begin(86_430);
        assert_eq!((baseline.age_secs(86_530), baseline.next_minute()), (100, 86_400));
        baseline.begin(90_000);
        assert_eq!((baseline.age_secs(86_530), baseline.next_minute()), (100, 86_400));
        baseline.begin(80_030);
        assert_eq!((baseline.age_secs(86_530), baseline.next_minute()), (6500, 79_980));
    }

    #[test]
    fn impossible_numbers_are_not_restored() {
        let saved: serde_json::Value =
            serde_json::from_slice(&Baseline::new(600).save(SavedSite::default())).unwrap();
        let minute = serde_json::to_value(ServerSpan::default()).unwrap();
        let clients = serde_json::to_value(ClientSpan::default()).unwrap();
        let refusal = |change: &dyn Fn(&mut serde_json::Value)| {
            let mut saved = saved.clone();
            change(&mut saved["learned"]);
            Baseline::restored(&serde_json::to_vec(&saved).unwrap(), 600).err()
        };
        let impossible = Some("its numbers are not possible".to_owned());
        let fill = |span: &serde_json::Value, n: usize| serde_json::Value::from(vec![span.clone(); n]);
        assert_eq!(refusal(&|learned| learned["server"] = fill(&minute, 30)), None);
        assert_eq!(refusal(&|learned| learned["server"] = fill(&minute, 31)), impossible);
        assert_eq!(refusal(&|learned| learned["clients"] = fill(&clients, 30)), None);
        assert_eq!(refusal(&|learned| learned["clients"] = fill(&clients, 31)), impossible);
        assert_eq!(
            refusal(&|learned| learned["hours"][3]["server"]["errors"]["n"] = (-1).into()),
            impossible
        );
        assert_eq!(
            refusal(&|learned| learned["hours"][3]["server"]["requests"]["sum"] = (-1).into()),
            impossible
        );
        assert_eq!(refusal(&|learned| learned["hours"][3]["clients"]["load"]["n"] = (-1).into()), impossible);
        assert_eq!(
            refusal(&|learned| learned["hours"][3]["clients"]["errors"]["n"] = (-1).into()),
            impossible
        );
        assert_eq!(
            refusal(&|learned| learned["hours"][3]["clients"]["logs"][3]["n"] = (-1).into()),
            impossible
        );
        let hours = refusal(&|learned| learned["hours"].as_array_mut().unwrap().truncate(23));
        assert_eq!(hours.as_deref(), Some("its day has 23 hours"));
    }

    #[test]
    fn it_survives_a_restart() {
        let mut baseline = Baseline::new(600);
        learn(&mut baseline, 86_400, 30, |second| second % 7, false);
        let restored = Baseline::restored(&baseline.save(SavedSite::default()), 600).unwrap().0;
        assert_eq!(restored.learned, baseline.learned);
        assert_eq!(restored.server(), baseline.server());
    }

    #[test]
    fn nonsense_is_not_restored() {
        assert!(Baseline::restored(b"", 600).is_err());
        let saved = String::from_utf8(Baseline::new(600).save(SavedSite::default())).unwrap();
        assert!(Baseline::restored(saved.as_bytes(), 600).is_ok());
        for (from, to) in [("\"version\":1", "\"version\":2"), ("\"n\":0.0", "\"n\":-1.0")] {
            assert!(Baseline::restored(saved.replace(from, to).as_bytes(), 600).is_err(), "{to}");
        }
    }
}
