//! Counts requests, learns the server's usual traffic, and judges clients against it.
//!
//! This file connects the parts (see the diagram in `mod.rs`) and owns event time. It returns verdicts; whether a client
//! is banned, and for how long, is decided in `lines.rs` and `bans/`.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use crate::detect::activity::{Activity, Spread};
use crate::detect::bad_networks::BadNetworks;
use crate::detect::baseline::Level;
use crate::detect::campaigns::Campaigns;
use crate::detect::clients::Clients;
pub(crate) use crate::detect::clients::{LOOK_AHEAD, Prepared};
use crate::detect::evidence::Charge;
use crate::detect::exempt::{Exempt, Exemption};
use crate::detect::global::Global;
use crate::detect::good_standing::Standings;
use crate::detect::good_targets::GoodTargets;
use crate::detect::hash::Seeded;
use crate::detect::minute::{AT_ONCE, EndingMinute};
use crate::detect::observed::Observed;
use crate::detect::path_interner::PathInterner;
use crate::detect::path_reader::{PathReader, ReadPath};
use crate::detect::policy::Policy;
use crate::detect::prefilter::Screening;
use crate::detect::ring::{SecondRing, ServerSecond};
use crate::detect::rules::{Facts, Fired, Judge, Kinds, Near, ORDER, Warmth};
use crate::detect::score::{ALIKE_FROM, Asked, Lately, Score, Scores};
use crate::detect::shape_cache::CachedShape;
use crate::detect::stable_hash;
use crate::detect::thresholds::Thresholds;
use crate::detect::trace::{Flags, Seen, Trace, Tracer};
use crate::detect::tries::Tries;
use crate::detect::window::{Counts, WINDOW_SECS};
use crate::seeded_map::SeededState;
use crate::vocab::client::Client;
use crate::vocab::report::{
    BaselineView, ClientSummary, DetectorStatus, Explanation, GlobalChange, Lessons, RuleView, ServerRates,
};
use crate::vocab::request::{Batch, Line, Request};
use crate::vocab::time::EventSecs;
use crate::vocab::verdict::{Charged, Evidence, PathCount, Rule, Verdict};

/// Nothing is learned from a client for this long after a verdict against it.
const SUSPECT_SECS: u32 = 60;

/// A client is not judged again for this long after a verdict: one per attack is enough, and evidence takes time to
/// gather.
const QUIET_SECS: u32 = 10;

/// The same where a verdict is only reported: short enough that the client is judged on.
const OBSERVED_SECS: u32 = SUSPECT_SECS - QUIET_SECS - 1;

/// Requests more than this older than the newest one are not counted.
const MAX_LATE_SECS: u32 = 300;

/// This many such requests in a row mean that the log's clock was set back.
const LATE_RUN: u32 = 100;

/// The whole server's seconds are learned this late: until then an attacker's requests can be subtracted.
pub(super) const LEARN_DELAY_SECS: u32 = 60;

/// Minute boundaries processed one by one after a gap. By then every window is empty, and the rest is silence.
const MINUTES_BEFORE_SILENCE: u32 = 3;

/// More clients than this do not watch a dashboard or a camera within the same minute.
const POLLING_CLIENTS: usize = 3;

/// The most paths in evidence, and the most entries of an account.
const TOP_PATHS: usize = 5;
const TOP_CHARGES: usize = 12;

/// A client's status when its request is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// The request is counted, judged and learned from.
    Normal,
    /// The request counts in the totals only: it is neither judged nor learned from.
    Banned,
}

/// A saved baseline that cannot be restored, with the reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadBaseline(String);

impl fmt::Display for BadBaseline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the saved baseline cannot be used ({}); learning starts anew", self.0)
    }
}

impl std::error::Error for BadBaseline {}

/// The share of the bar from which evidence is too much to ignore.
const DOUBT_SHARE: f32 = 0.5;

/// Evidence between one half and the bar.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Doubt {
    pub(crate) points: f64,
    pub(crate) bar: f64,
    pub(crate) rule: Rule,
}

/// Counts requests, learns the server's usual traffic, and judges clients against it.
pub struct Detector {
    pub(super) thresholds: Thresholds,
    ipv6_prefix: u8,
    /// The IPv6 clients that this host itself is part of. Their addresses are counted one by one: neighbours at a hoster share
    /// the network with the host and could not be banned otherwise.
    own_networks: Vec<Client>,
    pub(super) tracer: Tracer,
    tries: Tries,
    pub(super) paths: PathInterner,
    pub(super) clients: Clients,
    pub(super) standings: Standings,
    pub(super) good_targets: GoodTargets,
    pub(super) campaigns: Campaigns,
    pub(super) bad_networks: BadNetworks,
    pub(super) scores: Scores,
    /// Whether any evidence counts.
    pub(super) is_scoring: bool,
    /// What the operator says is normal here, if anything.
    pub(super) exempt: Option<Exempt>,
    observed: Observed,
    /// Clients that asked for one page at the rate of a flood, each with the second.
    bursts: Vec<(u128, u32)>,
    global: Global,
    changes: Vec<GlobalChange>,
    /// All requests: the rates on the status page and of the global anomaly.
    pub(super) shown: SecondRing,
    /// What banned clients asked, of `shown`.
    of_banned: SecondRing,
    /// Requests that the baseline may learn from.
    pub(super) teaching: SecondRing,
    /// The second of the first request; 0 before it.
    first: u32,
    /// The newest second; 0 before the first request.
    pub(super) latest: u32,
    /// The next minute boundary to process.
    boundary: u32,
    /// The minute before the last boundary, as long as not all of it is learned.
    pub(super) ending: Option<Box<EndingMinute>>,
    /// A minute is learned at once with up to so many clients in the table, and in pieces with more.
    pub(super) at_once: usize,
    pub(super) late_run: u32,
    late: u64,
    /// The doubt about the client of the last request.
    doubt: Option<Doubt>,
    /// No request is counted by the short way of `plain.rs`.
    #[cfg(test)]
    pub(crate) takes_long_way: bool,
    /// Requests counted by it.
    #[cfg(test)]
    pub(crate) plain: u64,
}

impl Detector {
    /// A detector that has learned nothing. `ipv6_prefix` is the prefix length of an IPv6 client (1..=128). `seed` keys the
    /// hash tables against chosen collisions; no verdict depends on it.
    pub fn new(policy: Policy, ipv6_prefix: u8, seed: u64) -> Detector {
        let hash = Seeded::new(seed);
        Detector {
            ipv6_prefix: ipv6_prefix.clamp(1, 128),
            own_networks: Vec::new(),
            tracer: Tracer::new(hash, &policy.not_errors),
            tries: Tries::default(),
            paths: PathInterner::default(),
            clients: Clients::new(policy.max_clients, hash),
            standings: Standings::new(SeededState::new(seed)),
            good_targets: GoodTargets::default(),
            campaigns: Campaigns::new(hash, SeededState::new(seed)),
            bad_networks: BadNetworks::default(),
            scores: Scores::new(&policy, hash),
            is_scoring: policy.scores(),
            exempt: exempt(&policy),
            observed: Observed::default(),
            bursts: Vec::new(),
            global: Global::default(),
            changes: Vec::new(),
            shown: SecondRing::new(WINDOW_SECS, 0),
            of_banned: SecondRing::new(WINDOW_SECS, 0),
            teaching: SecondRing::new(WINDOW_SECS + 4 * LEARN_DELAY_SECS, 0),
            first: 0,
            latest: 0,
            boundary: 0,
            ending: None,
            at_once: AT_ONCE,
            late_run: 0,
            late: 0,
            doubt: None,
            #[cfg(test)]
            takes_long_way: false,
            #[cfg(test)]
            plain: 0,
            thresholds: Thresholds::new(policy),
        }
    }

    /// Takes over other settings. What was learned and counted stays, and so does the size of the table of clients.
    pub(crate) fn set_policy(&mut self, policy: Policy) {
        self.finish_minute();
        let policy = Policy { max_clients: self.policy().max_clients, ..policy };
        self.tracer.set_not_errors(&policy.not_errors);
        self.is_scoring = policy.scores();
        self.exempt = exempt(&policy);
        self.thresholds.set_policy(policy, self.latest);
    }

    /// The settings in force.
    pub fn policy(&self) -> &Policy {
        self.thresholds.policy()
    }

    /// Takes over this host's addresses.
    pub(crate) fn set_own_addresses(&mut self, addresses: impl Iterator<Item = IpAddr>) {
        let ipv6 = addresses.filter(|addr| addr.to_canonical().is_ipv6());
        self.own_networks = ipv6.map(|addr| Client::of_addr(addr, self.ipv6_prefix)).collect();
        self.own_networks.sort_unstable();
        self.own_networks.dedup();
    }

    /// The client of a request.
    pub fn client_of(&self, request: &Request<'_>) -> Client {
        self.client_of_addr(request.addr)
    }

    /// The client of an address: the IPv4 address, or the prefix of the IPv6 address; in a network of this host's, the address
    /// itself.
    pub(crate) fn client_of_addr(&self, addr: IpAddr) -> Client {
        let client = Client::of_addr(addr, self.ipv6_prefix);
        if self.own_networks.contains(&client) { Client::of_addr(addr, 128) } else { client }
    }

    /// Prepares the requests to be observed next, at most [`LOOK_AHEAD`], and prefetches what counting them reads: the
    /// cache misses take far longer than the counting, and overlap this way. `read` begins with what was read of their paths, if
    /// anything.
    pub(crate) fn prepare_batch(
        &self,
        batch: &Batch,
        lines: &[Line],
        read: &[ReadPath],
        prepared: &mut Vec<Prepared>,
    ) {
        prepared.clear();
        let lines = lines.get(..LOOK_AHEAD).unwrap_or(lines);
        match read.get(..lines.len()) {
            Some(read) => prepared.extend(
                lines
                    .iter()
                    .zip(read)
                    .map(|(line, read)| Prepared::new(self.client_of_addr(line.addr), read.path, read.shape)),
            ),
            None => prepared.extend(lines.iter().map(|line| {
                let path = self.tracer.hash_path(batch.path_of(line));
                self.tracer.prefetch(path);
                Prepared::new(self.client_of_addr(line.addr), path, CachedShape::default())
            })),
        }
        prepared.iter().for_each(|one| self.paths.prefetch(one.path.hash as u32));
        self.clients.prefetch(prepared, self.latest);
    }

    pub(crate) fn path_reader(&self) -> PathReader {
        PathReader::new(self.tracer.hash())
    }

    /// What was read of the paths of these lines for this detector, if anything.
    pub(crate) fn read_paths<'a>(&self, batch: &'a Batch) -> &'a [ReadPath] {
        batch.read_paths.of(batch.lines.len(), self.hash())
    }

    /// The function that the paths are hashed by.
    pub(crate) fn hash(&self) -> Seeded {
        self.tracer.hash()
    }

    /// Prepares one request, without prefetching.
    pub fn prepare(&self, request: &Request<'_>) -> Prepared {
        Prepared::new(self.client_of(request), self.tracer.hash_path(request.path), CachedShape::default())
    }

    /// Counts a request at `second` and judges its client. `prepared` is what [`Detector::prepare`] returned for it.
    ///
    /// A request up to 5 min older than the newest one counts in its own second; an older one does not count.
    pub fn observe(
        &mut self,
        request: &Request<'_>,
        second: EventSecs,
        prepared: &Prepared,
        standing: Standing,
    ) -> Verdict {
        self.observe_at(&[], request, second, prepared, standing)
    }

    /// As [`Detector::observe`], of the server section that answered; empty when that is not known.
    pub(crate) fn observe_at(
        &mut self,
        server: &[u8],
        request: &Request<'_>,
        second: EventSecs,
        prepared: &Prepared,
        standing: Standing,
    ) -> Verdict {
        let Some(second) = self.advance_to(second) else { return Verdict::Normal };
        if self.ending.is_some() {
            self.learn_before_counting(prepared.client.key());
        }
        let seen = self.tracer.see(request, prepared);
        let (mut trace, path) = (seen.trace, seen.path);
        let mut error = u32::from(trace.flags.has(Flags::ERROR));
        self.shown.add(second, error);
        if standing == Standing::Banned {
            self.of_banned.add(second, error);
            return Verdict::Normal;
        }
        let exemption = self.exempt.as_ref().map_or(Exemption::No, |exempt| exempt.of(request, path, server));
        if exemption == Exemption::NotJudged {
            return Verdict::Normal;
        }
        if exemption == Exemption::ExpectedMiss {
            (trace, error) = (trace.expected(), 0);
        } else if request.status >= 300 || trace.flags.has(Flags::POST) {
            let client = stable_hash::of_client(prepared.client.key());
            trace = self.tries.weigh(&seen, request, client, second);
        }
        if !trace.flags.has(Flags::ASSET) {
            // Without the query, which may hold secrets.
            self.paths.put(trace.key, path);
        }
        let prefilter = self.thresholds.prefilter();
        let recorded = self.clients.record(prepared, second, &trace, prefilter);
        let is_light = recorded.is_none();
        let (suspect_until, screening, scripts) = match recorded {
            Some(recorded) => {
                let scripts = recorded.activity.latest_ceiling().scripts;
                (*recorded.suspect_until, recorded.screening, u32::from(scripts))
            }
            // Nearly every light client is plain: it is not looked up again.
            None if !Scores::is_telling(&trace) => (0, Screening::Skip, 0),
            None => (self.clients.suspect_until(prepared.client.key()), Screening::Skip, 0),
        };
        if suspect_until <= second {
            self.teaching.add(second, error);
        }
        let is_quiet = suspect_until >= second + SUSPECT_SECS - QUIET_SECS;
        if is_quiet {
            return Verdict::Normal;
        }
        let is_charged = self.is_scoring && {
            let key = prepared.client.key();
            let (status, size) = (request.status, request.size);
            let is_try = exemption == Exemption::No && trace != seen.trace;
            let Seen { shape, query_key, .. } = seen;
            let asked = Asked {
                key,
                second,
                path,
                query_key,
                trace: &trace,
                is_try,
                shape,
                status,
                size,
                method: request.method,
                watched_from: self.first,
            };
            charge(&mut self.scores, &self.clients, &asked, scripts)
        };
        let verdict = if is_charged || screening != Screening::Skip {
            self.decide(prepared.client, is_light, screening, suspect_until, second)
        } else {
            Verdict::Normal
        };
        match verdict {
            Verdict::Normal => self.verdict_by_company(prepared, &trace, second),
            anomalous @ Verdict::Anomalous(_) => anomalous,
        }
    }

    /// Returns and forgets the doubt about the client of the last request.
    #[inline]
    pub(crate) fn take_doubt(&mut self) -> Option<Doubt> {
        self.doubt.take()
    }

    /// The requests per second that a client was served of late.
    pub(crate) fn usual_rate(&self, client: Client) -> f64 {
        let depth = Depth::Counts { alike: false };
        let before = lately(&self.clients, client.key(), self.latest, depth).before;
        f64::from(before.requests.saturating_sub(before.errors)) / f64::from(WINDOW_SECS)
    }

    /// Notes evidence that is more than one half of the bar.
    fn note_doubt(&mut self, key: u128, score: &Score) {
        let score = score.without(&self.policy().observe);
        if score.total >= DOUBT_SHARE * score.bar && !score.is_reached() {
            let rule = score.rule();
            let round = |points: f32| (f64::from(points) * 100.0).round() / 100.0;
            let doubt = Doubt { points: round(score.total), bar: round(score.bar), rule };
            self.doubt = (!self.scores.carries_the_site(key)).then_some(doubt);
        }
    }

    fn lately(&self, key: u128, second: u32) -> Lately {
        lately(&self.clients, key, second, Depth::ServedPages)
    }

    /// Judges a client after a request that may have changed the result.
    fn decide(
        &mut self,
        of: Client,
        is_light: bool,
        screening: Screening,
        suspect_until: u32,
        second: u32,
    ) -> Verdict {
        let key = of.key();
        let may_score =
            self.is_scoring && self.scores.may_reach(key, DOUBT_SHARE, self.thresholds.policy(), second);
        let score = if may_score {
            self.scores.of(key, &self.lately(key, second), self.thresholds.policy(), second)
        } else {
            Score::default()
        };
        self.note_doubt(key, &score);
        if !score.is_reached() && screening == Screening::Skip {
            return Verdict::Normal;
        }
        let light;
        let (activity, spread) = if is_light {
            light = self.clients.activity(key).map_or_else(Activity::default, |(activity, _)| activity);
            (&light, light.spread(second))
        } else {
            let Some(activity) = self.clients.heavy_mut(key) else { return Verdict::Normal };
            let spread = match screening {
                Screening::CheckCounts => Spread::default(),
                Screening::Skip | Screening::CheckAll => activity.settle(second),
            };
            (&*activity, spread)
        };
        let mut facts = Facts::of(activity, spread, self.thresholds.policy(), second);
        facts.score = score;
        if screening != Screening::Skip {
            facts.kinds = Kinds::of(activity, &self.paths, second);
            if facts.is_burst(self.thresholds.policy()) {
                note_burst(&mut self.bursts, key, second);
            }
            facts.is_crowded = self.bursts.len() > POLLING_CLIENTS;
        }
        let client = precedent_id(key);
        let judge = self.thresholds.judge(client, second);
        let Some(fired) = judge.judge(&facts) else { return Verdict::Normal };
        if suspect_until <= second {
            for (at, counts) in activity.window.seconds().filter(|(at, _)| *at >= suspect_until) {
                let taught = ServerSecond { requests: counts.requests, errors: counts.errors };
                self.teaching.take_back(at, taught);
            }
        }
        let because = because(fired.rule, fired.is_observed, self.scores.carries_the_site(key));
        if because.is_some() && !self.observed.is_due(key, second) {
            self.clients.suspect(key, second + OBSERVED_SECS);
            return Verdict::Normal;
        }
        let mut evidence = evidence(&judge, &facts, fired, activity, &self.paths, second);
        let suspect_secs = if because.is_some() { OBSERVED_SECS } else { SUSPECT_SECS };
        self.clients.suspect(key, second + suspect_secs);
        evidence.account = self.account(key, second);
        evidence.observe = because;
        if evidence.observe.is_none() {
            self.scores.convict(key);
        }
        self.thresholds.forget_precedents(client, self.latest);
        if let Some(ending) = &mut self.ending {
            ending.forget_precedents(client);
        }
        Verdict::Anomalous(Box::new(evidence))
    }

    /// Judges a client for which no rule fires by the company it keeps; only after a request in vain.
    #[inline]
    fn verdict_by_company(&mut self, prepared: &Prepared, trace: &Trace, second: u32) -> Verdict {
        if trace.weight == 0 || !self.policy().probing.switch.is_on() {
            return Verdict::Normal;
        }
        let Some(mut evidence) = self.judge_company(prepared, trace, second) else { return Verdict::Normal };
        let key = prepared.client.key();
        let is_observed = self.policy().observe.contains(&evidence.rule);
        evidence.observe = because(evidence.rule, is_observed, self.scores.carries_the_site(key));
        if evidence.observe.is_none() {
            self.clients.suspect(key, second + SUSPECT_SECS);
        } else {
            self.clients.suspect(key, second + OBSERVED_SECS);
            if !self.observed.is_due(key, second) {
                return Verdict::Normal;
            }
        }
        Verdict::Anomalous(Box::new(evidence))
    }

    pub(super) fn evidence_of(
        &self,
        key: u128,
        facts: &Facts,
        fired: Fired,
        activity: &Activity,
        second: u32,
    ) -> Evidence {
        let judge = self.thresholds.judge(precedent_id(key), second);
        evidence(&judge, facts, fired, activity, &self.paths, second)
    }

    pub(super) fn ipv6_prefix(&self) -> u8 {
        self.ipv6_prefix
    }

    /// What weighs most in a client's score.
    fn account(&self, key: u128, second: u32) -> Vec<Charged> {
        let charges = self.scores.charges(key, second, TOP_CHARGES);
        let charged = |charge: Charge| Charged {
            kind: charge.kind.name().to_owned(),
            path: self.paths.get(charge.target),
            points: (f64::from(charge.left(second)) * 100.0).round() / 100.0,
            at_secs: i64::from(charge.at),
        };
        charges.into_iter().map(charged).collect()
    }

    /// Moves on to `second`, learns the minutes that ended, and returns the starts and ends of global anomalies since the
    /// last call. To be called once a second on a live log; requests in order move time on too.
    pub(crate) fn tick(&mut self, second: EventSecs) -> Vec<GlobalChange> {
        let second = event_second(second);
        if self.latest > 0 && second > self.latest {
            self.advance(second);
        }
        std::mem::take(&mut self.changes)
    }

    /// Counts what a client asked before its ban as asked by a banned one. Before [`Detector::forget`].
    pub(crate) fn note_ban(&mut self, client: Client) {
        let Some((activity, _)) = self.clients.activity(client.key()) else { return };
        for (second, counts) in activity.window.seconds() {
            self.of_banned
                .add_many(second, ServerSecond { requests: counts.requests, errors: counts.errors });
        }
    }

    /// Forgets a client's requests, so that after an unban they do not ban it again at once.
    pub(crate) fn forget(&mut self, client: Client) {
        self.learn_now(client.key());
        self.clients.forget(client.key());
        self.scores.forget(client.key());
    }

    /// Halves what a ban of this client takes: others ban it.
    pub(crate) fn suspect_more(&mut self, client: Client) {
        self.scores.suspect(client.key(), true);
    }

    /// Takes that back.
    pub(crate) fn suspect_less(&mut self, client: Client) {
        self.scores.suspect(client.key(), false);
    }

    /// Whether others ban the client, but not enough of them for a ban here.
    pub fn is_suspected(&self, client: Client) -> bool {
        self.scores.is_suspected(client.key())
    }

    /// Whether a client earned standing since `second`.
    pub(super) fn served_since(&self, client: Client, second: u32) -> bool {
        self.scores.served_since(client.key(), second)
    }

    /// Returns the values and thresholds of all rules for one client at `second`.
    pub fn explain(&self, client: Client, second: EventSecs) -> Explanation {
        let (key, at) = (client.key(), event_second(second));
        let known = self.clients.activity(key);
        let activity = known.as_ref().map_or_else(Activity::default, |(activity, _)| activity.clone());
        let facts = self.facts(key, &activity, at);
        let judge = self.thresholds.judge(precedent_id(key), at);
        Explanation {
            client,
            at_secs: i64::from(at),
            known: known.is_some(),
            window_secs: WINDOW_SECS,
            requests: facts.now.requests,
            errors: facts.now.errors,
            rate: judge.rate(facts.now),
            baseline: level_view(judge.level(), judge.warmth),
            account: self.account(key, at),
            rules: ORDER.into_iter().map(|rule| rule_view(&judge, rule, &facts)).collect(),
            top_paths: top_paths(&activity, &self.paths, at),
        }
    }

    /// Returns how close a client is to each clause of each rule at `second`, to measure margins.
    pub fn nearness(&self, client: Client, second: EventSecs) -> Vec<Near> {
        let (key, at) = (client.key(), event_second(second));
        let activity = self.clients.activity(key).map_or_else(Activity::default, |(activity, _)| activity);
        let facts = self.facts(key, &activity, at);
        self.thresholds.judge(precedent_id(key), at).nearness(&facts)
    }

    /// The score of a client.
    #[cfg(test)]
    pub(crate) fn explain_score(&self, addr: IpAddr, second: EventSecs) -> f64 {
        let (key, at) = (Client::of_addr(addr, self.ipv6_prefix).key(), event_second(second));
        let score = self.scores.of(key, &self.lately(key, at), self.thresholds.policy(), at);
        f64::from(score.total)
    }

    fn facts(&self, key: u128, activity: &Activity, second: u32) -> Facts {
        let policy = self.thresholds.policy();
        let mut facts = Facts::of(activity, activity.spread(second), policy, second);
        facts.kinds = Kinds::of(activity, &self.paths, second);
        if self.is_scoring {
            let served_pages = activity.served_pages(second);
            let lately = Lately { before: facts.before, served_pages, ..Lately::default() };
            facts.score = self.scores.of(key, &lately, policy, second);
        }
        facts
    }

    /// Whether requests of this client are remembered.
    pub fn knows(&self, client: Client) -> bool {
        self.clients.holds(client.key())
    }

    /// Returns the `n` busiest clients over the 60 s up to `second`, busiest first.
    pub fn top(&self, n: usize, second: EventSecs) -> Vec<ClientSummary> {
        let mut walk = TopWalk::new(n);
        loop {
            if let Some(top) = walk.step(self, second) {
                return top;
            }
        }
    }

    /// The whole server's rates.
    pub fn rates(&self) -> ServerRates {
        let (window, level) = (self.shown.window(), self.level());
        let per_second = |count: u32| f64::from(count) / f64::from(WINDOW_SECS);
        ServerRates {
            requests: per_second(window.requests),
            errors: per_second(window.errors),
            of_banned: per_second(self.of_banned.window().requests.min(window.requests)),
            mean: level.mean,
            stddev: level.stddev,
        }
    }

    /// Rates, levels and memory, for the status page.
    pub fn status(&self) -> DetectorStatus {
        let (policy, baseline) = (self.thresholds.policy(), self.thresholds.baseline());
        let warmth = self.thresholds.warmth(self.latest);
        let (rates, usage, hours) = (self.rates(), self.clients.usage(), baseline.hours());
        DetectorStatus {
            warming_up: warmth == Warmth::WarmingUp,
            warm_up_left_secs: policy.warm_up_secs.saturating_sub(baseline.age_secs(self.latest)),
            global_rate: rates.requests,
            global_error_rate: rates.errors,
            banned_rate: rates.of_banned,
            seconds: self.seconds(),
            global: level_view(baseline.server(), warmth),
            clients: level_view(baseline.clients(), warmth),
            global_anomaly: self.global.is_anomalous(),
            frozen: self.is_frozen(),
            hour_slots: hours.iter().flatten().count() as u32,
            hours,
            clients_tracked: usage.clients as u64,
            evicted: usage.evicted + self.scores.evicted(),
            clients_bytes: (usage.bytes + self.scores.bytes()) as u64,
            late: self.late,
            latest_secs: i64::from(self.latest),
        }
    }

    fn seconds(&self) -> Vec<(u32, u32)> {
        let first = (self.latest + 1).saturating_sub(WINDOW_SECS);
        let counts = |second| {
            let requests = self.shown.at(second).requests;
            (requests, self.of_banned.at(second).requests.min(requests))
        };
        (first..=self.latest).map(counts).collect()
    }

    /// What was learned of the site beside the baseline.
    pub fn lessons(&self) -> Lessons {
        self.scores.lessons()
    }

    /// The learned level of the whole server's rate.
    pub fn level(&self) -> &Level {
        self.thresholds.baseline().server()
    }

    /// The number of clients inside `network` with a request in the last 10 min that are not suspect.
    pub(crate) fn clean_clients_in(&self, network: Client) -> u32 {
        self.clients.clean_among(network.singles(self.ipv6_prefix), self.latest) as u32
    }

    pub(super) fn newest_second(&self) -> u32 {
        self.latest
    }

    /// Serialises the baseline.
    pub(crate) fn save(&self) -> Vec<u8> {
        self.thresholds.baseline().save(self.scores.save())
    }

    /// Takes over the baseline that [`Detector::save`] returned in an earlier run.
    pub(crate) fn restore(&mut self, saved: &[u8]) -> Result<(), BadBaseline> {
        self.finish_minute();
        let site = self.thresholds.restore(saved, self.latest).map_err(BadBaseline)?;
        self.scores.restore(&site);
        Ok(())
    }

    /// Moves time on to `second` if it is newer, and returns the second to count a request at; `None` when that is too old
    /// to count.
    #[inline]
    fn advance_to(&mut self, second: EventSecs) -> Option<u32> {
        if second == EventSecs::from(self.latest) && second > 0 {
            self.late_run = 0;
            return Some(self.latest);
        }
        self.advance_to_other(second)
    }

    fn advance_to_other(&mut self, second: EventSecs) -> Option<u32> {
        let second = event_second(second);
        if self.first == 0 {
            self.first = second;
        }
        if second > self.latest {
            self.late_run = 0;
            self.advance(second);
        } else if self.latest - second > MAX_LATE_SECS {
            self.late += 1;
            self.late_run += 1;
            if self.late_run < LATE_RUN {
                return None;
            }
            self.start_anew(second);
        } else {
            self.late_run = 0;
        }
        Some(second)
    }

    /// The newest second; `None` before the first request.
    pub(crate) fn latest(&self) -> Option<EventSecs> {
        (self.latest > 0).then_some(EventSecs::from(self.latest))
    }

    /// The clock was set back to `second`, for certain.
    pub(crate) fn set_back(&mut self, second: EventSecs) {
        let second = event_second(second);
        if second < self.latest {
            self.start_anew(second);
        }
    }

    /// Lines of another log begin at `second`: when that is far ahead, nothing is known of the time between.
    pub(crate) fn skip_to(&mut self, second: EventSecs) {
        let second = event_second(second);
        if self.latest > 0 && second > self.latest.saturating_add(MAX_LATE_SECS) {
            self.start_anew(second);
        }
    }

    /// The log's clock was set: windows start anew, the baseline stays.
    fn start_anew(&mut self, second: u32) {
        self.finish_minute();
        self.late_run = 0;
        self.first = second;
        self.tries = Tries::default();
        self.clients = Clients::new(self.thresholds.policy().max_clients, self.tracer.hash());
        self.shown = SecondRing::new(WINDOW_SECS, second);
        self.of_banned = SecondRing::new(WINDOW_SECS, second);
        self.teaching = SecondRing::new(WINDOW_SECS + 4 * LEARN_DELAY_SECS, second);
        self.thresholds.update(second, |baseline| {
            baseline.begin(second);
            baseline.skip_to(second);
        });
        self.boundary = next_boundary(second);
        self.latest = second;
    }

    fn advance(&mut self, second: u32) {
        if self.latest == 0 {
            self.thresholds.update(second, |baseline| {
                baseline.begin(second);
                baseline.resume(second);
            });
            self.shown.advance(second);
            self.of_banned.advance(second);
            self.teaching.advance(second);
            self.boundary = next_boundary(second);
        }
        if self.boundary <= second {
            self.end_minutes_up_to(second);
        }
        self.shown.advance(second);
        self.of_banned.advance(second);
        self.teaching.advance(second);
        let before = std::mem::replace(&mut self.latest, second);
        self.thresholds.advance(second);
        self.learn_each_second(before);
        self.watch_server(second);
    }

    /// Learns the minutes that ended by `second`. The levels are computed once, for the last of them: on a quiet site there are
    /// more minutes than requests.
    fn end_minutes_up_to(&mut self, second: u32) {
        let mut one_by_one = 0;
        while self.boundary <= second {
            self.finish_minute();
            let left = (second - self.boundary) / 60;
            if one_by_one >= MINUTES_BEFORE_SILENCE && left > 2 * MINUTES_BEFORE_SILENCE {
                self.thresholds.learn(|baseline| baseline.learn_silence(baseline.next_minute(), left));
                let last = self.boundary + (left - 1) * 60;
                if self.is_scoring {
                    self.scores.skip_minutes(self.boundary, last);
                }
                self.boundary += left * 60;
            }
            self.end_of_minute(self.boundary);
            self.boundary += 60;
            one_by_one += 1;
        }
        self.thresholds.update(self.boundary - 60, |_| ());
    }

    /// Returns whether the server's minutes are set aside instead of learned.
    pub(super) fn is_frozen(&self) -> bool {
        self.global.is_anomalous() && self.thresholds.policy().max_freeze_secs > 0
    }

    fn watch_server(&mut self, second: u32) {
        // Who is banned by now is no riddle any more: what is left says whether something else goes on.
        let asked = self.shown.window().requests.saturating_sub(self.of_banned.window().requests);
        let rate = f64::from(asked) / f64::from(WINDOW_SECS);
        if self.thresholds.warmth(second) == Warmth::WarmingUp {
            return;
        }
        let level = self.thresholds.baseline().server();
        if let Some(change) = self.global.watch(rate, level, self.thresholds.policy(), second) {
            if self.global.took_too_long() {
                self.thresholds.update(second, |baseline| baseline.accept_frozen(second));
            }
            self.changes.push(change);
        }
    }
}

/// Finds the busiest clients in pieces, between which lines are counted: a table of a million clients takes long.
///
/// From the last client to the first: one that is removed meanwhile is replaced by the last one, which was seen before.
#[derive(Debug)]
pub struct TopWalk {
    n: usize,
    /// The clients below this position are still to be seen; `None` before the first step.
    below: Option<usize>,
    found: Vec<(Counts, u128)>,
}

impl TopWalk {
    /// Clients seen in one piece: some tenths of a millisecond.
    const PIECE: usize = 8_192;

    pub fn new(n: usize) -> TopWalk {
        TopWalk { n, below: None, found: Vec::new() }
    }

    /// Goes on by one piece. Returns the clients, busiest first, once all were seen.
    pub fn step(&mut self, detector: &Detector, second: EventSecs) -> Option<Vec<ClientSummary>> {
        let at = event_second(second);
        let tracked = detector.clients.usage().clients;
        let end = self.below.unwrap_or(tracked).min(tracked);
        let from = end.saturating_sub(Self::PIECE);
        let found = &mut self.found;
        detector.clients.each_active_at(from..end, WINDOW_SECS, at, |active| {
            found.push((active.counts, active.key));
        });
        self.below = Some(from);
        self.keep_busiest();
        if from > 0 {
            return None;
        }
        let judge = detector.thresholds.judge(0, at);
        let summary = |(counts, key): (Counts, u128)| ClientSummary {
            client: client_of_key(key, detector.ipv6_prefix),
            requests: counts.requests,
            errors: counts.errors,
            rate: f64::from(counts.requests) / f64::from(WINDOW_SECS),
            z_score: judge.level().z_score(judge.rate(counts)),
        };
        Some(std::mem::take(&mut self.found).into_iter().map(summary).collect())
    }

    fn keep_busiest(&mut self) {
        let order = |(counts, key): &(Counts, u128)| (std::cmp::Reverse(counts.requests), *key);
        // Twice as many: a client that moved may be there twice.
        let most = self.n.saturating_mul(2);
        if self.found.len() > most && most > 0 {
            self.found.select_nth_unstable_by_key(most - 1, order);
            self.found.truncate(most);
        }
        self.found.sort_unstable_by_key(order);
        let mut seen = std::collections::BTreeSet::new();
        self.found.retain(|(_, key)| seen.insert(*key));
        self.found.truncate(self.n);
    }
}

fn evidence(
    judge: &Judge<'_>,
    facts: &Facts,
    fired: Fired,
    activity: &Activity,
    interner: &PathInterner,
    second: u32,
) -> Evidence {
    let (level, rate) = (judge.level(), judge.rate(facts.now));
    Evidence {
        rule: fired.rule,
        condition: fired.checks.first().map(|check| check.describe()).unwrap_or_default(),
        rate,
        mean: level.mean,
        stddev: level.stddev,
        z_score: level.z_score(rate),
        threshold: fired.checks.first().map_or(0.0, |check| check.threshold()),
        tightened: matches!(fired.rule, Rule::ZScore | Rule::RateMultiplier) && judge.is_tightened(facts.now),
        baseline: level_view(level, judge.warmth).source,
        window_secs: WINDOW_SECS,
        requests: facts.now.requests,
        errors: facts.now.errors,
        measures: fired.checks.iter().map(|check| check.measure()).collect(),
        top_paths: top_paths(activity, interner, second),
        account: Vec::new(),
        lines: Vec::new(),
        sites: Vec::new(),
        policy: None,
        observe: None,
        at_secs: i64::from(second),
    }
}

/// The reason why a client is only reported.
fn because(rule: Rule, is_observed: bool, carries_the_site: bool) -> Option<String> {
    if is_observed {
        return Some(format!(
            "the rule {rule} only observes, or needs what others only observe: [detect] observe"
        ));
    }
    carries_the_site.then(|| {
        "more than a fifth of what this site has served went to it: it is a proxy, or its own machine"
            .to_owned()
    })
}

fn exempt(policy: &Policy) -> Option<Exempt> {
    Exempt::new(policy)
}

/// Notes a client that asks for one page at the rate of a flood, and forgets those of more than a minute ago.
fn note_burst(bursts: &mut Vec<(u128, u32)>, key: u128, second: u32) {
    bursts.retain(|(known, at)| *known != key && second.saturating_sub(*at) < WINDOW_SECS);
    if bursts.len() <= POLLING_CLIENTS {
        bursts.push((key, second));
    }
}

/// Adds what a request is worth as evidence. Returns whether the client's score may have changed.
#[inline]
fn charge(scores: &mut Scores, clients: &Clients, asked: &Asked<'_>, scripts: u32) -> bool {
    let is_telling = Scores::is_telling(asked.trace);
    let is_in_vain = !is_telling && scores.is_in_vain(asked.trace, asked.status, asked.size);
    let is_alike = asked.trace.flags.has(Flags::SCRIPT) && scripts >= ALIKE_FROM;
    if !is_telling && !is_in_vain && !is_alike {
        return false;
    }
    let lately = lately(clients, asked.key, asked.second, Depth::Counts { alike: is_alike });
    if is_telling {
        scores.charge(asked, &lately);
    }
    if is_in_vain {
        scores.charge_in_vain(asked, &lately);
    }
    if is_alike {
        scores.charge_alike(asked.key, &lately, asked.second);
    }
    true
}

/// How much of a client's activity is looked at: walking its targets costs more than the rest together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Depth {
    Counts { alike: bool },
    ServedPages,
}

fn lately(clients: &Clients, key: u128, second: u32, depth: Depth) -> Lately {
    let Some(activity) = clients.heavy(key) else {
        let (before, served_pages) = clients.light_before(key, second);
        return Lately { before, served_pages, ..Lately::default() };
    };
    let mut lately = Lately { before: activity.window.before(second), ..Lately::default() };
    match depth {
        Depth::ServedPages => lately.served_pages = activity.served_pages(second),
        Depth::Counts { alike: true } => {
            (lately.alike, lately.alike_redirected) = activity.alike_scripts(second);
        }
        Depth::Counts { alike: false } => {}
    }
    lately
}

fn rule_view(judge: &Judge<'_>, rule: Rule, facts: &Facts) -> RuleView {
    let observed = &judge.policy.observe;
    let is_observed = observed.contains(&rule);
    let binding = Facts { score: facts.score.without(observed), ..*facts };
    let evaluation = judge.evaluate(rule, if is_observed { facts } else { &binding });
    let not_asked = if !judge.is_on(rule) {
        Some("switched off")
    } else if judge.warmth == Warmth::WarmingUp && matches!(rule, Rule::ZScore | Rule::RateMultiplier) {
        Some("still warming up")
    } else if is_observed && evaluation.fires {
        Some("only observes")
    } else {
        None
    };
    let mut measures: Vec<_> = evaluation.checks.iter().map(|check| check.measure()).collect();
    measures.dedup();
    RuleView { rule, fires: evaluation.fires, not_asked: not_asked.map(str::to_owned), measures }
}

fn top_paths(activity: &Activity, interner: &PathInterner, second: u32) -> Vec<PathCount> {
    let mut paths: Vec<PathCount> = Vec::new();
    for (key, count) in activity.top_targets(4 * TOP_PATHS, second) {
        let Some(path) = interner.get(key) else { continue };
        // Targets of one path differ in their queries, which evidence leaves out.
        match paths.iter_mut().find(|known| known.path == path) {
            Some(known) => known.count += count,
            None => paths.push(PathCount { path, count }),
        }
    }
    paths.sort_by(|a, b| b.count.cmp(&a.count).then_with(|| a.path.cmp(&b.path)));
    paths.truncate(TOP_PATHS);
    paths
}

fn level_view(level: &Level, warmth: Warmth) -> BaselineView {
    let source = if warmth == Warmth::WarmingUp { "warm_up" } else { level.source.name() };
    BaselineView {
        source: source.to_owned(),
        mean: level.mean,
        stddev: level.stddev,
        error_mean: level.error_mean,
        samples: level.samples as u64,
    }
}

/// The last second that is counted, in 2106. Short of the end of 32 bits by two days, so that sums of seconds and windows, of which
/// the longest is a day, do not overflow.
const LAST_SECOND: u32 = u32::MAX - 2 * 86_400;

/// Clamps to 32 bits, 1970 to 2106.
fn event_second(second: EventSecs) -> u32 {
    u32::try_from(second.max(1)).unwrap_or(LAST_SECOND).min(LAST_SECOND)
}

fn next_boundary(second: u32) -> u32 {
    second - second % 60 + 60
}

/// An id of a client that is stable over restarts, unlike its hash, whose seed changes.
pub(super) fn precedent_id(key: u128) -> u64 {
    key as u64 ^ (key >> 64) as u64
}

/// The inverse of [`Client::key`] for the clients that are counted: a key with bits behind the prefix is an address in a network
/// of this host's.
fn client_of_key(key: u128, ipv6_prefix: u8) -> Client {
    let addr = IpAddr::V6(Ipv6Addr::from_bits(key));
    let client = Client::of_addr(addr, ipv6_prefix);
    if client.key() == key { client } else { Client::of_addr(addr, 128) }
}
