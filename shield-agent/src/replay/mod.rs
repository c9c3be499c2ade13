//! Runs past logs through the engine that the agent uses, without privileges and without a clock: the log's own times
//! are the time.
//!
//! `input` opens files, [`Replay`] runs their lines through [`Engine`] and keeps its decisions, `labels` compares them
//! with known answers, `render` and `html` show them. Same input, same output, byte for byte.

pub(crate) mod html;
pub(crate) mod input;
pub(crate) mod labels;
pub(crate) mod render;

use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;

use serde::Serialize;

use crate::text;
use shield_engine::action::{Action, BanRecord, Notice, Record};
use shield_engine::allowlist::Allowlist;
use shield_engine::client::Client;
use shield_engine::event::Event;
use shield_engine::operator_rules::{PolicyAnswer, PolicyQuestion, PolicyWord};
use shield_engine::policy::{Policy, Switch};
use shield_engine::report::{DetectorStatus, Explanation, Lessons};
use shield_engine::request::{Batch, Line, RejectedCounts};
use shield_engine::settings::{Proxied, RulesSettings, Settings};
use shield_engine::time::{Ends, EventSecs, Now};
use shield_engine::timeline::{Placement, Timeline};
use shield_engine::verdict::{Evidence, Rule};
use shield_engine::{Engine, PathReader};

/// Seed of the engine's hash tables: fixed, so that the output is reproducible.
const SEED: u64 = 0x5348_4945_4c44;

/// The boot clock at the first line: far from zero, so that nothing before it underflows.
const BOOT_START_MS: u64 = 1_000_000_000;

/// Longer than a ban of a client in good standing waits.
const SETTLED_AFTER_SECS: EventSecs = 60;

/// Lines offered to the engine at once, to be counted together.
const PLAIN_AHEAD: usize = 64;

/// Maximum points of the traffic curve; beyond it two are merged into one.
const MAX_POINTS: usize = 4096;

/// One ban of a replay.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ReplayedBan {
    /// Unix seconds.
    #[serde(skip)]
    pub at_secs: EventSecs,
    /// RFC 3339 in UTC.
    pub timestamp: String,
    /// The address whose request triggered the ban.
    pub ip: IpAddr,
    pub client: Client,
    pub rule: Rule,
    /// The client's offences, this one included.
    pub offence: u32,
    /// The term in seconds; `None` is permanent.
    pub term_secs: Option<u64>,
    /// The reason, when the ban was not made: an allowlist entry, the blast radius, a proxy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_made: Option<String>,
    /// The client's address comes from a proxy's header: a ban on this machine would not stop it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub behind_proxy: bool,
    pub evidence: Option<Box<Evidence>>,
}

/// A point of the traffic curve.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Point {
    /// Its first second, in Unix seconds.
    pub at_secs: EventSecs,
    pub requests: u64,
    /// Requests with an error status.
    pub errors: u64,
    /// Requests of banned clients.
    pub banned: u64,
    /// The baseline's mean for the whole server at its end, requests per second.
    pub baseline_mean: f64,
}

/// The result of a replay.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Outcome {
    /// Bans in order. Those not made are included, with the reason.
    pub bans: Vec<ReplayedBan>,
    pub requests: u64,
    /// Requests of clients that were banned at that time: the kernel would have dropped them.
    pub requests_banned: u64,
    pub clients: u64,
    /// Clients banned at least once.
    pub clients_banned: u64,
    /// Those of them that come by a proxy.
    pub clients_behind_proxy: u64,
    /// Clients slowed at least once, in the order of their addresses, banned later or not.
    pub slowed: std::collections::BTreeSet<Client>,
    /// Rejected lines by reason.
    pub rejected: RejectedCounts,
    /// Bans made, by rule.
    pub by_rule: BTreeMap<Rule, u64>,
    /// Starts and ends of global anomalies, one line each.
    pub global: Vec<String>,
    /// The first and the last second of the log.
    pub span: Option<(EventSecs, EventSecs)>,
    /// Seconds per point of the curve.
    pub point_secs: i64,
    /// The traffic curve, without points of no traffic.
    pub points: Vec<Point>,
}

/// A client to be explained: at a moment, or at its first ban, or else at its last request.
#[derive(Debug, Clone)]
pub struct Watch {
    client: Client,
    at_secs: Option<EventSecs>,
    is_done: bool,
    explanation: Option<Explanation>,
}

impl Watch {
    /// Watches a client; a single IPv6 address is widened to the prefix.
    pub fn new(client: Client, ipv6_prefix: u8, at_secs: Option<EventSecs>) -> Watch {
        let net = client.network();
        let is_host = net.prefix_len() == net.max_prefix_len();
        let client = if is_host { Client::of_addr(net.addr(), ipv6_prefix) } else { client };
        Watch { client, at_secs, is_done: false, explanation: None }
    }
}

/// Asks the operators' own rules. The inner error is one that the same question would always have; the outer one is of this machine
/// and this moment.
pub(crate) type AskRules = Box<dyn FnMut(&PolicyQuestion) -> Result<Result<PolicyWord, String>, String>>;

/// A running replay.
pub struct Replay {
    engine: Engine,
    ask_rules: Option<AskRules>,
    /// Why the rules could not be asked, which another run could.
    broken: Option<String>,
    ipv6_prefix: u8,
    start: Option<EventSecs>,
    now: EventSecs,
    timeline: Timeline,
    /// All clients. Each line is looked up in it, so it hashes faster than std's table: a log that is made to collide slows down nobody
    /// but its reader.
    seen: hashbrown::HashSet<u128>,
    banned: HashSet<Client>,
    /// Clients whose address came from a proxy's header.
    proxied: HashSet<Client>,
    watch: Option<Watch>,
    outcome: Outcome,
}

impl Replay {
    /// A replay that has seen nothing. There is no kernel to wait for, and nobody to ask: it shows what the detector would do.
    pub fn new(settings: Settings, policy: Policy, allowlist: Allowlist) -> Replay {
        let rules = RulesSettings { switch: Switch::Off, ..settings.rules };
        Replay::create(Settings { rules, ..settings }, policy, allowlist)
    }

    /// As [`Replay::new`], and the operators' own rules are asked about each verdict, as the agent would.
    pub(crate) fn asking(
        settings: Settings,
        policy: Policy,
        allowlist: Allowlist,
        ask_rules: AskRules,
    ) -> Replay {
        Replay { ask_rules: Some(ask_rules), ..Replay::create(settings, policy, allowlist) }
    }

    fn create(settings: Settings, policy: Policy, allowlist: Allowlist) -> Replay {
        let (enforcers, verify_search_engines, proxied) = (Vec::new(), Switch::Off, Proxied::Ban);
        let records_progress = Switch::Off;
        let settings = Settings { enforcers, verify_search_engines, proxied, records_progress, ..settings };
        Replay {
            ipv6_prefix: settings.ipv6_prefix,
            engine: Engine::new(settings, policy, allowlist, 1, SEED),
            ask_rules: None,
            broken: None,
            start: None,
            now: 0,
            timeline: Timeline::default(),
            seen: hashbrown::HashSet::new(),
            banned: HashSet::new(),
            proxied: HashSet::new(),
            watch: None,
            outcome: Outcome { point_secs: 60, ..Outcome::default() },
        }
    }

    /// Reads paths ahead for this replay, on another thread.
    pub fn path_reader(&self) -> PathReader {
        self.engine.path_reader()
    }

    /// Records the explanation of a client on the way.
    pub fn watch(&mut self, watch: Watch) {
        self.watch = Some(watch);
    }

    /// The explanation of the watched client; `None` until its first request.
    pub fn explanation(&self) -> Option<Explanation> {
        self.watch.as_ref()?.explanation.clone()
    }

    /// Runs a batch's lines through the engine, so that the replay's clock follows each: one by one, but for those of a second of
    /// which there is nothing to say. Leaves the batch without its lines.
    pub fn feed(&mut self, batch: &mut Batch) {
        let lines = std::mem::take(&mut batch.lines);
        for (total, refused) in self.outcome.rejected.iter_mut().zip(batch.rejected) {
            *total += refused;
        }
        if !batch.read_paths.are_of(lines.len()) {
            batch.read_paths.clear();
        }
        let mut at = 0;
        while at < lines.len() {
            batch.read_paths.begin_at(at);
            let following = lines.get(at..).unwrap_or_default();
            // A short log that is older than the one before it is one batch.
            let placed = self.timeline.place(following, at == 0);
            self.line(&lines[at], placed, batch);
            at += 1;
            at += self.plain_lines(lines.get(at..).unwrap_or_default(), at, batch);
        }
        batch.placed = None;
        // One after another, so that the processor waits for several of them at once.
        self.seen.extend(lines.iter().map(|line| Client::of_addr(line.addr, self.ipv6_prefix).key()));
    }

    /// Counts the lines that follow in the same second, up to one that the engine has more to do with than to count it. Returns how
    /// many.
    fn plain_lines(&mut self, following: &[Line], at: usize, batch: &mut Batch) -> usize {
        let may_be_plain = |line: &&Line| line.time == self.now && line.status == 200;
        let lines = following.iter().take(PLAIN_AHEAD).take_while(may_be_plain).count();
        let lines = following.get(..lines).unwrap_or_default();
        let is_watching = self.watch.as_ref().is_some_and(|watch| !watch.is_done);
        if lines.is_empty() || is_watching || !self.timeline.goes_on_at(self.now) {
            return 0;
        }
        batch.read_paths.begin_at(at);
        let counted = self.engine.count_plain_lines(batch, lines, self.clocks(self.now));
        let lines = lines.get(..counted).unwrap_or_default();
        let proxied = lines.iter().filter(|line| line.behind_proxy);
        self.proxied.extend(proxied.map(|line| Client::of_addr(line.addr, self.ipv6_prefix)));
        self.outcome.requests += counted as u64;
        if let Some(point) = self.outcome.points.last_mut() {
            point.requests += counted as u64;
        }
        counted
    }

    fn line(&mut self, line: &Line, placed: Placement, batch: &mut Batch) {
        if placed.is_back {
            self.go_back(placed.second);
        }
        self.move_to(placed.second);
        batch.placed = Some(placed);
        let client = Client::of_addr(line.addr, self.ipv6_prefix);
        let is_banned = self.engine.ledger().ban_over(client).is_some();
        self.count(line, client, is_banned);
        self.explain_before(placed.second);
        batch.lines.clear();
        batch.lines.push(*line);
        self.handle(Event::Lines(batch), Some(line));
        batch.lines.clear();
        self.explain_after(client);
    }

    /// Explains the watched client when its moment lies before this line.
    fn explain_before(&mut self, second: EventSecs) {
        let Some(watch) = self.watch.as_mut().filter(|watch| !watch.is_done) else { return };
        if let Some(at) = watch.at_secs.filter(|at| *at < second) {
            watch.explanation = Some(self.engine.detector().explain(watch.client, at));
            watch.is_done = true;
        }
    }

    /// Explains the watched client after a line of its own. Stops at its first ban, which clears its window and has
    /// evidence of its own.
    fn explain_after(&mut self, client: Client) {
        let Some(watch) = self.watch.as_mut().filter(|watch| !watch.is_done && watch.client == client) else {
            return;
        };
        if self.banned.contains(&client) {
            watch.is_done = watch.at_secs.is_none();
        } else {
            watch.explanation = Some(self.engine.detector().explain(client, self.now));
        }
    }

    fn count(&mut self, line: &Line, client: Client, is_banned: bool) {
        let outcome = &mut self.outcome;
        outcome.requests += 1;
        outcome.requests_banned += u64::from(is_banned);
        if line.behind_proxy {
            self.proxied.insert(client);
        }
        let at_secs = self.now - self.now.rem_euclid(outcome.point_secs);
        if outcome.points.last().is_none_or(|point| point.at_secs != at_secs) {
            let baseline_mean = self.engine.detector().level().mean;
            let point = Point { at_secs, requests: 0, errors: 0, banned: 0, baseline_mean };
            outcome.points.push(point);
            if outcome.points.len() > MAX_POINTS {
                coarsen(outcome);
            }
        }
        if let Some(point) = outcome.points.last_mut() {
            point.requests += 1;
            point.errors += u64::from(line.status >= 400);
            point.banned += u64::from(is_banned);
        }
    }

    /// Advances time to `second`, never back, with a tick at each end of a ban on the way: the client's next request must
    /// meet the ban lifted, as it would live.
    fn move_to(&mut self, second: EventSecs) {
        let start = *self.start.get_or_insert(second);
        let (first, last) = self.outcome.span.unwrap_or((start, start));
        self.outcome.span = Some((first.min(second), last.max(second)));
        if self.now == 0 {
            self.now = second;
        }
        while self.now < second {
            self.now = self.next_end().map_or(second, |end| end.clamp(self.now + 1, second));
            self.handle(Event::Tick, None);
        }
    }

    /// Sets the wall clock back with the log's. The time since the start goes on, by which bans end.
    fn go_back(&mut self, second: EventSecs) {
        let since_start = self.now.saturating_sub(self.start.unwrap_or(self.now));
        self.start = Some(second.saturating_sub(since_start));
        self.now = second;
    }

    /// The second in which the next ban ends.
    fn next_end(&self) -> Option<EventSecs> {
        let since_start_ms = self.engine.next_deadline()?.saturating_sub(BOOT_START_MS);
        Some(self.start? + i64::try_from(since_start_ms.div_ceil(1000)).ok()?)
    }

    fn clocks(&self, second: EventSecs) -> Now {
        let since_start = second.saturating_sub(self.start.unwrap_or(second)).max(0) as u64;
        Now { wall_ms: second.saturating_mul(1000), boot_ms: BOOT_START_MS + since_start * 1000 }
    }

    /// Has the engine handle an event, and at once the answers to what it asks the rules.
    fn handle(&mut self, event: Event<'_>, line: Option<&Line>) {
        let now = self.clocks(self.now);
        let mut actions = self.engine.handle(event, now);
        while !actions.is_empty() {
            let answers = self.answers(&actions);
            self.note(actions, line);
            if answers.is_empty() {
                return;
            }
            actions = self.engine.handle(Event::Policy(answers), now);
        }
    }

    fn answers(&mut self, actions: &[Action]) -> Vec<PolicyAnswer> {
        let Some(ask) = &mut self.ask_rules else { return Vec::new() };
        let broken = &mut self.broken;
        let mut answer = |action: &Action| {
            let Action::AskPolicy(question) = action else { return None };
            let word = ask(question).unwrap_or_else(|why| {
                broken.get_or_insert_with(|| why.clone());
                Err(why)
            });
            Some(PolicyAnswer { id: question.id, client: question.client, word })
        };
        actions.iter().filter_map(&mut answer).collect()
    }

    /// Why the rules could not be asked, if that was this machine's fault: another run may have another outcome.
    pub(crate) fn broken(&self) -> Option<&str> {
        self.broken.as_deref()
    }

    fn note(&mut self, actions: Vec<Action>, line: Option<&Line>) {
        let addr = line.map(|line| line.addr);
        for action in actions {
            let Action::Announce(notice) = action else { continue };
            match notice {
                Notice::Banned(record) => self.note_ban(*record, line, None),
                Notice::Slowed { slowed, .. } => {
                    self.outcome.slowed.insert(slowed.client);
                }
                Notice::WouldBan { ban, because } => self.note_ban(*ban, line, Some(because)),
                Notice::Withheld { bans, because } => {
                    bans.into_iter().for_each(|ban| self.note_ban(ban, None, Some(because.clone())));
                }
                Notice::Protected { client, network, reason, evidence } => {
                    let because = format!("{network} is {}", reason.describe());
                    self.note_protected(client, evidence, addr, because);
                }
                Notice::GlobalAnomalyStarted { .. } | Notice::GlobalAnomalyEnded { .. } => {
                    let line = text::notice_line(&notice);
                    self.outcome.global.push(format!("{}  {line}", rfc3339(self.now)));
                }
                _ => {}
            }
        }
    }

    fn note_ban(&mut self, record: BanRecord, line: Option<&Line>, not_made: Option<String>) {
        let addr = line.map(|line| line.addr);
        let behind_proxy = self.proxied.contains(&record.ban.client);
        if not_made.is_none() {
            *self.outcome.by_rule.entry(record.ban.rule).or_default() += 1;
            self.banned.insert(record.ban.client);
        }
        let term_secs = match record.ban.ends {
            Ends::At { wall_ms, .. } => Some((wall_ms - record.ban.since_ms).max(0) as u64 / 1000),
            Ends::Never => None,
        };
        self.outcome.bans.push(ReplayedBan {
            at_secs: self.now,
            timestamp: rfc3339(self.now),
            ip: addr.unwrap_or_else(|| record.ban.client.network().addr()),
            client: record.ban.client,
            rule: record.ban.rule,
            offence: record.ban.offence_number(),
            term_secs,
            not_made,
            behind_proxy,
            evidence: record.evidence,
        });
    }

    fn note_protected(
        &mut self,
        client: Client,
        evidence: Option<Box<Evidence>>,
        addr: Option<IpAddr>,
        because: String,
    ) {
        let Some(rule) = evidence.as_ref().map(|e| e.rule) else { return };
        self.outcome.bans.push(ReplayedBan {
            at_secs: self.now,
            timestamp: rfc3339(self.now),
            ip: addr.unwrap_or_else(|| client.network().addr()),
            client,
            rule,
            offence: 0,
            term_secs: Some(0),
            not_made: Some(because),
            behind_proxy: false,
            evidence,
        });
    }

    #[cfg(any(test, feature = "test-support"))]
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    #[cfg(any(test, feature = "test-support"))]
    pub fn now(&self) -> EventSecs {
        self.now
    }

    /// Ends the replay, and returns what was learned besides: for people, and as the agent stores it.
    pub(crate) fn learned(mut self) -> (Outcome, DetectorStatus, Lessons, Option<Record>) {
        let actions = self.engine.save(self.clocks(self.now));
        let (status, lessons) = (self.engine.detector().status(), self.engine.detector().lessons());
        let baseline = actions.iter().find_map(|action| match action {
            Action::Persist(record @ Record::Baseline(_)) => Some(record.clone()),
            _ => None,
        });
        self.note(actions, None);
        (self.finish(), status, lessons, baseline)
    }

    pub fn finish(mut self) -> Outcome {
        // Bans of clients in good standing wait for a while; the log's end must not cut that off.
        self.now += SETTLED_AFTER_SECS;
        self.handle(Event::Tick, None);
        self.outcome.clients = self.seen.len() as u64;
        self.outcome.clients_banned = self.banned.len() as u64;
        self.outcome.clients_behind_proxy = self.banned.intersection(&self.proxied).count() as u64;
        self.outcome
    }
}

/// A second as RFC 3339 in UTC.
pub(crate) fn rfc3339(second: EventSecs) -> String {
    jiff::Timestamp::from_second(second).map_or_else(|_| format!("@{second}"), |time| time.to_string())
}

/// Doubles the length of a point and merges points to it.
fn coarsen(outcome: &mut Outcome) {
    outcome.point_secs *= 2;
    let width = outcome.point_secs;
    let mut merged: Vec<Point> = Vec::with_capacity(outcome.points.len() / 2 + 1);
    for point in outcome.points.drain(..) {
        let at_secs = point.at_secs - point.at_secs.rem_euclid(width);
        match merged.last_mut().filter(|last| last.at_secs == at_secs) {
            Some(last) => {
                last.requests += point.requests;
                last.errors += point.errors;
                last.banned += point.banned;
                last.baseline_mean = point.baseline_mean;
            }
            None => merged.push(Point { at_secs, ..point }),
        }
    }
    outcome.points = merged;
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::path::Path;
    use std::sync::Arc;
    use std::sync::atomic::AtomicU64;

    use super::input::Input;
    use super::labels::Labels;
    use super::*;

    const PROBES: [&str; 6] =
        ["/.env", "/.git/config", "/backup.sql", "/phpmyadmin/", "/wp-config.php", "/.aws/credentials"];

    /// An attacker among visitors, in nginx's combined format.
    fn log() -> String {
        let line = |second: usize, client: &str, path: &str, status: u16| {
            format!(
                "{client} - - [05/Jan/2026:08:00:{second:02} +0000] \"GET {path} HTTP/1.1\" {status} 12 \"-\" \"-\"\n"
            )
        };
        let mut log = String::new();
        for (second, path) in PROBES.iter().enumerate() {
            log += &line(second, "192.0.2.9", path, 404);
            log += &line(second, "198.51.100.1", "/", 200);
        }
        log + &line(30, "192.0.2.9", "/again", 404)
    }

    fn replay(path: &Path) -> Result<Outcome, anyhow::Error> {
        replay_watching(path, None)
    }

    fn replay_watching(path: &Path, watch: Option<Watch>) -> Result<Outcome, anyhow::Error> {
        let mut replay = Replay::new(Settings::default(), Policy::default(), Allowlist::default());
        watch.into_iter().for_each(|watch| replay.watch(watch));
        let read = Arc::new(AtomicU64::new(0));
        Input::of(path).batches(&shield_logline::Settings::default(), &read, &mut |batch| {
            replay.feed(batch);
            Ok(())
        })?;
        Ok(replay.finish())
    }

    /// Where a client is watched, each line goes through the engine by itself.
    #[test]
    fn lines_that_are_counted_together_count_as_one_by_one() {
        let mut log = String::new();
        for n in 0..6_000_usize {
            // Four lines a second, one of fifty late, of visitors and of somebody who probes all the while.
            let secs = (n / 4).saturating_sub(if n % 50 == 7 { 3 } else { 0 });
            let time = format!("08:{:02}:{:02}", secs / 60 % 60, secs % 60);
            let (client, path, status) = match n % 11 {
                3 if !(2_000..=4_000).contains(&n) => (200, format!("{}?{n}", PROBES[n % PROBES.len()]), 404),
                5 => (n % 17, format!("/gone/{}", n % 90), 404),
                8 => (n % 5, "/static/app.css".to_owned(), 200),
                _ => (n % 23, format!("/articles/{}", n % 300), 200),
            };
            log += &format!(
                "192.0.2.{client} - - [05/Jan/2026:{time} +0000] \"GET {path} HTTP/1.1\" {status} 12 \"-\" \"-\"\n"
            );
        }
        let dir = tempfile::tempdir().unwrap();
        let path = write(dir.path(), "access.log", log.as_bytes());
        let absent = Watch::new("203.0.113.9".parse().unwrap(), 64, None);
        let (together, one_by_one) = (replay(&path).unwrap(), replay_watching(&path, Some(absent)).unwrap());
        assert_eq!(together, one_by_one);
        assert_eq!(together.requests, 6_000);
        assert!(together.clients_banned > 0 && together.requests_banned > 0, "{together:?}");
    }

    fn write(dir: &Path, name: &str, bytes: &[u8]) -> std::path::PathBuf {
        let path = dir.join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    #[test]
    fn plain_gzip_and_zstd_give_the_same_outcome() {
        let dir = tempfile::tempdir().unwrap();
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(log().as_bytes()).unwrap();
        let packed = zstd::encode_all(log().as_bytes(), 1).unwrap();
        let plain = replay(&write(dir.path(), "a.log", log().as_bytes())).unwrap();
        assert_eq!(replay(&write(dir.path(), "b.log.gz", &gzip.finish().unwrap())).unwrap(), plain);
        assert_eq!(replay(&write(dir.path(), "c.log.zst", &packed)).unwrap(), plain);
        let ban = &plain.bans[0];
        assert_eq!((plain.bans.len(), ban.timestamp.as_str()), (1, "2026-01-05T08:00:04Z"));
        assert_eq!(
            (ban.ip.to_string().as_str(), ban.rule, ban.term_secs),
            ("192.0.2.9", Rule::Probing, Some(600))
        );
        assert_eq!((plain.requests, plain.requests_banned), (13, 2), "what came after the ban is dropped");
        assert_eq!((plain.clients, plain.clients_banned), (2, 1));
    }

    #[test]
    fn clients_behind_a_proxy_are_found_and_marked() {
        let dir = tempfile::tempdir().unwrap();
        let listed = log().replace(" - - [", ", 203.0.113.1 - - [");
        let path = write(dir.path(), "a.log", listed.as_bytes());
        let proxies = vec!["203.0.113.1/32".parse().unwrap()];
        let format =
            shield_logline::Settings { trusted_proxies: proxies, ..shield_logline::Settings::default() };
        let mut replay = Replay::new(Settings::default(), Policy::default(), Allowlist::default());
        Input::of(&path)
            .batches(&format, &Arc::new(AtomicU64::new(0)), &mut |batch| {
                replay.feed(batch);
                Ok(())
            })
            .unwrap();
        let outcome = replay.finish();
        assert_eq!((outcome.clients_banned, outcome.clients_behind_proxy), (1, 1));
        assert_eq!(
            (outcome.bans[0].ip.to_string().as_str(), outcome.bans[0].behind_proxy),
            ("192.0.2.9", true)
        );
        let text = render::render(&outcome, None);
        assert!(text.contains("banned for 10 min, behind a proxy (offence 1)"), "{text}");
        assert!(text.contains("1 client of the banned: the agent would report it, not drop it"), "{text}");
    }

    #[test]
    fn a_file_that_is_no_log_is_refused_with_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let error =
            replay(&write(dir.path(), "notes.txt", b"buy milk\ncall home\n")).unwrap_err().to_string();
        assert!(error.contains("none of the 2 lines") && error.contains("combined"), "{error}");
        assert!(replay(&dir.path().join("absent.log")).unwrap_err().to_string().contains("could not open"));
        assert!(replay(dir.path()).unwrap_err().to_string().contains("is a directory"));
    }

    #[test]
    fn labels_are_held_against_the_bans() {
        let dir = tempfile::tempdir().unwrap();
        let outcome = replay(&write(dir.path(), "a.log", log().as_bytes())).unwrap();
        let labels = "ip,first,decision,why\n192.0.2.9,2026-01-05T08:00:00Z,ban,\"a, \"\"b\"\"\"\n198.51.100.1,,no_ban,\n\
                      203.0.113.5,,ban,\n203.0.113.6,,either,\n";
        let score = Labels::parse(labels, 64).unwrap().score(&outcome);
        assert_eq!((score.caught, score.to_ban, score.wrong, score.must_stay), (1, 2, 0, 1));
        assert_eq!((score.recall, score.median_secs_to_ban), (0.5, Some(4.0)));
        assert!(Labels::parse("address,decision\n", 64).is_err());
        assert!(Labels::parse("ip,decision\nnobody,ban\n", 64).is_err());
    }
}
