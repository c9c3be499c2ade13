//! Answers the API's queries from the engine (in looks, each between two events), the enforcers' counters and the database.
//!
//! Lists of bans come from the database: sorting a million of them in the engine would hold up lines. While the database
//! cannot be written, they are read from the engine in pieces and sorted here.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use anyhow::Context;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};

use super::reload::Request;
use super::watch::Health;
use crate::api::backend::{
    AgentView, AllowedRow, Answer, Backend, BanQuery, BanRow, BanRows, ClientView, Mode, Refusal, SiteView,
    TopClient, TopClients,
};
use crate::api::convert;
use crate::api::samples::{Sampled, Samples};
use crate::api::types::{
    BanSort, CanaryReport, CanaryRequest, ClientState, ConfigView, FleetView, Offences, PastBan, Promotion,
    ReloadReport,
};
use crate::blocklist;
use crate::canary::figures::MIN_OBSERVED_SECS;
use crate::canary::{Canary, Start};
use crate::clock;
use crate::config::Config;
use crate::edge::cloudflare;
use crate::edge::list::EdgeList;
use crate::enforce::Drops;
use crate::enforce::interpreter::Interpreter;
use crate::fleet;
use crate::latencies::Latencies;
use crate::pipeline::{Handle, Message};
use crate::policy::promote::Judge;
use crate::sites::{self, SiteCounts};
use crate::source::{self, Pool};
use crate::store::reader::{
    BanQuery as StoreQuery, BanSort as StoreSort, EndedBan, MAX_PAGE, Matcher, Reader,
};
use crate::store::unsaved::Unsaved;
use shield_engine::action::{BanRecord, Change, Reply, Step};
use shield_engine::allowlist::{AllowReason, Allowed};
use shield_engine::ban::Ban;
use shield_engine::client::Client;
use shield_engine::event::{Command, EnforcerName, PartReport, PartState};
use shield_engine::report::{ClientSummary, Explanation};
use shield_engine::slowed::Slowed;
use shield_engine::time::{Ends, Now};
use shield_engine::{Engine, TopWalk};

/// Clients whose state is found out in one look at the engine: some tenths of a millisecond.
const STATES_AT_ONCE: usize = 32;

/// Bans read from the ledger in one look at the engine: some tenths of a millisecond.
const BANS_AT_ONCE: usize = 2_000;
/// Slowed clients listed at most.
const SLOWED_SHOWN: usize = 1_000;

/// Sites whose bans are counted, those with the most.
const SITES_COUNTED: u32 = 1_000;

/// Ended bans shown for one client, at most.
const PAST_BANS: u32 = 20;

/// Clients with withheld bans that are grouped by network; this runs on the engine's thread.
const WITHHELD_SHOWN: usize = 2_000;

pub(crate) struct AgentBackend {
    owner: Handle,
    interpreter: Arc<Interpreter>,
    reader: Arc<Mutex<Reader>>,
    not_in_store: Unsaved,
    backlog: Arc<AtomicU64>,
    edge: Option<cloudflare::Shown>,
    fleet: Option<(String, fleet::Shown)>,
    blocklists: blocklist::Shown,
    about: About,
    shown: Shown,
    reloads: mpsc::Sender<Request>,
    health: Health,
    canary: Canary,
    judge: Arc<Mutex<Judge>>,
    pool: Pool,
    latencies: Arc<Latencies>,
    samples: Samples,
}

/// Where bans are recorded.
pub(crate) struct Records {
    pub reader: Reader,
    pub not_in_store: Unsaved,
    /// The performer's count of unsaved records.
    pub backlog: Arc<AtomicU64>,
    /// The numbers of the exporter to Cloudflare, where there is one.
    pub edge: Option<cloudflare::Shown>,
    /// This host's name in its fleet, and the numbers, where there is one.
    pub fleet: Option<(String, fleet::Shown)>,
    /// The numbers of the lists that are read by URL.
    pub blocklists: blocklist::Shown,
}

/// What is answered without asking the engine.
pub(crate) struct Beside {
    pub health: Health,
    pub canary: Canary,
    /// Where a canary gives its batches back.
    pub pool: Pool,
    pub latencies: Arc<Latencies>,
    pub samples: Samples,
}

/// Which answer of the rules about promotions is wanted.
enum Judging {
    Recent,
    /// With this least time to be observed, in seconds.
    Now(u64),
}

/// Facts that do not change while the agent runs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct About {
    /// When the agent started, in milliseconds since the Unix epoch.
    pub started_ms: i64,
    pub mode: Mode,
}

/// What a reload changes of the answers. A clone is the same.
#[derive(Clone)]
pub(super) struct Shown(Arc<RwLock<Arc<Current>>>);

pub(super) struct Current {
    /// The detector's profile by name.
    pub profile: String,
    /// The configuration without secrets.
    pub config: ConfigView,
    /// The same, whole.
    pub whole: Arc<Config>,
    pub sources: Vec<Arc<source::Stats>>,
}

/// A canary's name and what there is to say of it, in words of bounded length.
fn of_canary(name: &str, said: &[String]) -> String {
    let words = [&[name.to_owned()], said].concat().join("; ");
    words.chars().take(CHANGE_CHARS).collect()
}

/// Of the words about a change of the canary.
const CHANGE_CHARS: usize = 1_000;

impl Shown {
    pub(super) fn new(current: Current) -> Shown {
        Shown(Arc::new(RwLock::new(Arc::new(current))))
    }

    pub(super) fn set(&self, current: Current) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(current);
    }

    fn get(&self) -> Arc<Current> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl AgentBackend {
    pub(crate) fn new(
        owner: Handle,
        interpreter: Arc<Interpreter>,
        records: Records,
        about: About,
        shown: Shown,
        reloads: mpsc::Sender<Request>,
        beside: Beside,
    ) -> AgentBackend {
        let Beside { health, canary, pool, latencies, samples } = beside;
        let Records { reader, not_in_store, backlog, edge, fleet, blocklists } = records;
        let reader = Arc::new(Mutex::new(reader));
        AgentBackend {
            owner,
            interpreter,
            reader,
            not_in_store,
            backlog,
            edge,
            fleet,
            blocklists,
            about,
            shown,
            reloads,
            health,
            canary,
            judge: Arc::default(),
            pool,
            latencies,
            samples,
        }
    }

    /// What the canary found, with what the rules about promotions say of it: now, or for one that only looks a moment ago.
    async fn judged(&self, asked: Judging) -> Result<CanaryReport, Refusal> {
        let (canary, judge) = (self.canary.clone(), Arc::clone(&self.judge));
        let dir = self.shown.get().whole.rules.dir.clone();
        let judged = tokio::task::spawn_blocking(move || {
            let mut judge = judge.lock().unwrap_or_else(PoisonError::into_inner);
            let (last, least_secs) = match asked {
                Judging::Recent => (judge.last(), MIN_OBSERVED_SECS),
                Judging::Now(least_secs) => (None, least_secs),
            };
            last.unwrap_or_else(|| judge.judge(canary.report(), dir.as_deref(), least_secs))
        });
        Ok(judged.await.context("could not ask the policy: its thread ended")?)
    }

    async fn query_engine<T: Send + 'static>(
        &self,
        query: impl FnOnce(&Engine, Now) -> T + Send + 'static,
    ) -> Result<T, Refusal> {
        let stopping = |_| Refusal::Unavailable("the agent is stopping".to_owned());
        // Once it is known that the engine hangs, its reason says more than a timeout.
        if let Some((_, reason)) = self.health.stalled().into_iter().find(|(part, _)| part == "engine") {
            return Err(Refusal::Unavailable(format!("the engine does not answer: {reason}")));
        }
        self.owner.look(query).await.map_err(stopping)
    }

    /// Queries the database on a thread where blocking is allowed.
    async fn query_store<T: Send + 'static>(
        &self,
        query: impl FnOnce(&Reader, Now) -> anyhow::Result<T> + Send + 'static,
    ) -> Result<T, Refusal> {
        let reader = Arc::clone(&self.reader);
        let answer = tokio::task::spawn_blocking(move || {
            let reader = reader.lock().unwrap_or_else(PoisonError::into_inner);
            query(&reader, clock::now())
        });
        Ok(answer.await.context("could not finish the database query: its thread ended")??)
    }

    /// Adds the drop counters and the enforcers that hold each ban.
    async fn rows(&self, records: Vec<BanRecord>) -> Result<Vec<BanRow>, Refusal> {
        let clients: Vec<Client> = records.iter().map(|record| record.ban.client).collect();
        let drops = self.drops_of(clients.clone()).await;
        let held = self
            .query_engine(move |engine, now| {
                let facts = |c: &Client| (held_by(engine, *c), engine.leak_of(*c, now));
                clients.iter().map(facts).collect::<Vec<_>>()
            })
            .await?;
        let rows = records.into_iter().zip(drops).zip(held);
        Ok(rows
            .map(|((record, drops), (held_by, leaking))| BanRow { record, drops, leaking, held_by })
            .collect())
    }

    /// The sum of all enforcers' drop counters for each client; `None` when no enforcer counts it.
    async fn drops_of(&self, clients: Vec<Client>) -> Vec<Option<Drops>> {
        let mut sums = vec![None; clients.len()];
        for (name, answer) in self.interpreter.drops(clients).await {
            match answer {
                Ok(drops) => sums.iter_mut().zip(drops).for_each(|(sum, drops)| add(sum, drops)),
                Err(error) => tracing::debug!(enforcer = name.name(), "no drop counters: {error:#}"),
            }
        }
        sums
    }

    /// One page of the bans from the engine: while the database cannot be written, it does not know who is banned.
    async fn bans_in_memory(&self, query: StoreQuery) -> Result<BanRows, Refusal> {
        let mut bans = self.ledger(Matcher::new(&query)).await?;
        let not_in_store = self.not_in_store.clone();
        let (records, total, now) = self
            .query_store(move |reader, now| {
                if let Some(site) = &query.site {
                    let mut clients = reader.clients_of_site(site)?;
                    clients.extend(not_in_store.clients_of_site(site));
                    bans.retain(|ban| clients.contains(&ban.client));
                }
                let total = bans.len() as u64;
                let page = sorted_page(bans, &query);
                let records = page.into_iter().map(|ban| recorded(ban, reader, &not_in_store, now));
                Ok((records.collect::<anyhow::Result<Vec<BanRecord>>>()?, total, now))
            })
            .await?;
        Ok(BanRows { rows: self.rows(records).await?, total, slowed: Vec::new(), now })
    }

    /// The matching bans in force, in no order.
    ///
    /// Read in pieces from the end of the ledger to its beginning: a removal meanwhile moves the last ban into the gap, so
    /// that a ban is seen twice at most and none is passed over.
    async fn ledger(&self, matcher: Matcher) -> Result<Vec<Ban>, Refusal> {
        let mut bans = BTreeMap::new();
        let mut below = self.query_engine(|engine, _| engine.ledger().len()).await?;
        while below > 0 {
            let from = below.saturating_sub(BANS_AT_ONCE);
            let look = move |engine: &Engine, _: Now| -> Vec<Ban> {
                engine.ledger().entries_at(from..below).map(|entry| entry.ban).collect()
            };
            let piece = self.query_engine(look).await?.into_iter();
            bans.extend(
                piece.filter(|ban| matcher.matches(ban.client, ban.rule)).map(|ban| (ban.client, ban)),
            );
            below = from;
        }
        Ok(bans.into_values().collect())
    }

    async fn client_view(&self, asked: Client) -> Result<ClientView, Refusal> {
        let (detector, ban_over, slowed, wanted_by, allowed, proxy, offences, client, now) = self
            .query_engine(move |engine, now| {
                let client = engine.client_meant(asked);
                let explanation: Explanation = engine.detector().explain(client, now.wall_secs());
                let over = engine.ledger().ban_over(client);
                let slowed = engine.slowed_over(client).cloned();
                let banned = over.map(|ban: Ban| ban.client);
                let wanted_by = convert::wanted_by(engine.remotes(), client, banned);
                let allowed = engine.allowlist().about(client);
                let proxy = engine.proxy_in(client, now.wall_secs());
                let offences = engine.ledger().offences(client, now.wall_secs());
                (explanation, over, slowed, wanted_by, allowed, proxy, offences, client, now)
            })
            .await?;
        let not_in_store = self.not_in_store.clone();
        let (record, past, last) = self
            .query_store(move |reader, now| {
                let record = ban_over.map(|ban| recorded(ban, reader, &not_in_store, now)).transpose()?;
                let last = reader.offences(client)?.map(|count| count.last_secs * 1000);
                Ok((record, reader.history_of(client, PAST_BANS)?, last))
            })
            .await?;
        let ban = self.rows(record.into_iter().collect()).await?.pop();
        Ok(ClientView {
            detector,
            ban,
            slowed,
            wanted_by,
            allowed,
            proxy,
            offences: Offences {
                count: offences.map_or(0, NonZeroU32::get),
                last_ms: last.filter(|_| offences.is_some()),
            },
            history: past.into_iter().map(past_ban).collect(),
            now,
        })
    }
}

impl Backend for AgentBackend {
    fn view(&self) -> Answer<'_, AgentView> {
        Box::pin(async move {
            let (about, current) = (self.about, self.shown.get());
            let profile = current.profile.clone();
            let drops = self.interpreter.totals();
            let backlog = self.backlog.load(Ordering::Relaxed);
            let view =
                self.query_engine(move |engine, now| agent_view(engine, now, about, profile, drops)).await?;
            let sources = current.sources.iter().map(|stats| stats.snapshot()).collect();
            let stalled = self.health.stalled().into_iter().map(|(part, reason)| PartReport {
                part,
                state: PartState::Degraded { reason },
                repaired: None,
            });
            let parts = view.parts.into_iter().chain(stalled).collect();
            let read = |shown: &cloudflare::Shown| *shown.lock().unwrap_or_else(PoisonError::into_inner);
            let cloudflare = self.edge.as_ref().map(read);
            let blocklists = self.blocklists.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let numbers = |shown: &fleet::Shown| shown.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let fleet = self.fleet.as_ref().map(|(_, shown)| numbers(shown));
            Ok(AgentView { store_backlog: backlog, sources, parts, cloudflare, fleet, blocklists, ..view })
        })
    }

    fn samples(&self) -> Vec<Sampled> {
        self.samples.take()
    }

    fn fleet(&self) -> Answer<'_, FleetView> {
        Box::pin(async move {
            let origins = self.query_engine(|engine, now| convert::origins(engine.remotes(), now)).await?;
            let Some((name, shown)) = &self.fleet else {
                return Ok(FleetView { origins, ..FleetView::default() });
            };
            let numbers = shown.lock().unwrap_or_else(PoisonError::into_inner).clone();
            Ok(convert::fleet(name, numbers, origins))
        })
    }

    fn bans(&self, query: BanQuery) -> Answer<'_, BanRows> {
        Box::pin(async move {
            let BanQuery { search, rule, site, no_imported, sort, offset, limit } = query;
            let sort = match sort {
                BanSort::Since => StoreSort::Newest,
                BanSort::Ends => StoreSort::EndsFirst,
                BanSort::Client => StoreSort::Client,
            };
            let slowed = match (offset, rule, &site) {
                (0, None, None) => {
                    let search = search.clone();
                    self.query_engine(move |engine, _| slowed_matching(engine, search.as_deref())).await?
                }
                _ => Vec::new(),
            };
            let query = StoreQuery { search, rule, site, no_imported, sort, offset, limit };
            if self.not_in_store.is_behind() {
                let page = self.bans_in_memory(query).await?;
                return Ok(BanRows { slowed, ..page });
            }
            let (page, records, now) = self
                .query_store(move |reader, now| {
                    let mut page = reader.bans(&query, now)?;
                    let records: Vec<BanRecord> = std::mem::take(&mut page.bans);
                    let with_evidence: anyhow::Result<Vec<BanRecord>> = records
                        .into_iter()
                        .map(|record| Ok(reader.ban(record.ban.client, now)?.unwrap_or(record)))
                        .collect();
                    Ok((page, with_evidence?, now))
                })
                .await?;
            Ok(BanRows { rows: self.rows(records).await?, total: page.total, slowed, now })
        })
    }

    fn sites(&self) -> Answer<'_, SiteView> {
        Box::pin(async move {
            let (current, now) = (self.shown.get(), clock::now());
            let mut requests = SiteCounts::default();
            current.sources.iter().for_each(|stats| requests.add(stats.sites(now.boot_ms)));
            let bans = self.query_store(|reader, _| reader.bans_by_site(SITES_COUNTED)).await?;
            Ok(SiteView { requests: requests.bounded(sites::NAMES), bans, now })
        })
    }

    fn top(&self, n: usize) -> Answer<'_, TopClients> {
        Box::pin(async move {
            let mut walk = TopWalk::new(n);
            let (summaries, now) = loop {
                let step = move |engine: &Engine, now: Now| {
                    let found = walk.step(engine.detector(), now.wall_secs());
                    (walk, found, now)
                };
                let (rest, found, now) = self.query_engine(step).await?;
                match found {
                    Some(found) => break (found, now),
                    None => walk = rest,
                }
            };
            let mut clients = Vec::with_capacity(summaries.len());
            for piece in summaries.chunks(STATES_AT_ONCE) {
                let piece = piece.to_vec();
                let with_state = move |engine: &Engine, now: Now| -> Vec<TopClient> {
                    let state = |summary: &ClientSummary| state_of(engine, summary.client, now);
                    piece.into_iter().map(|summary| TopClient { state: state(&summary), summary }).collect()
                };
                clients.extend(self.query_engine(with_state).await?);
            }
            Ok(TopClients { clients, now })
        })
    }

    fn explain(&self, client: Client, at_ms: Option<i64>) -> Answer<'_, ClientView> {
        Box::pin(async move {
            let mut view = self.client_view(client).await?;
            if let Some(at_ms) = at_ms {
                view.history.retain(|past| past.since_ms <= at_ms && at_ms <= past.ended_ms);
                let began_later = view.ban.as_ref().is_some_and(|ban| ban.record.ban.since_ms > at_ms);
                view.ban = view.ban.filter(|_| !began_later);
            }
            Ok(view)
        })
    }

    fn allowlist(&self) -> Answer<'_, Vec<AllowedRow>> {
        Box::pin(async move {
            let look = |engine: &Engine, _: Now| -> Vec<(Allowed, Option<i64>)> {
                let entries = engine.allowlist().entries().iter();
                entries.map(|entry| (*entry, engine.allowed_until_ms(entry.network))).collect()
            };
            let entries = self.query_engine(look).await?;
            let mut notes = self.query_store(|reader, _| reader.allow_notes()).await?;
            let noted = |(entry, until_ms): (Allowed, Option<i64>)| {
                let is_operators = entry.reason == AllowReason::Operator;
                let note = is_operators.then(|| notes.remove(&entry.network.to_string())).flatten();
                (entry, note, until_ms)
            };
            Ok(entries.into_iter().map(noted).collect())
        })
    }

    fn command(&self, command: Command) -> Answer<'_, Reply> {
        Box::pin(async move {
            let stopping = |_| Refusal::Unavailable("the agent is stopping".to_owned());
            self.owner.command(command).await.map_err(stopping)
        })
    }

    fn reload(&self) -> Answer<'_, ReloadReport> {
        Box::pin(async move {
            let (answer, answered) = oneshot::channel();
            self.reloads.try_send(answer).map_err(|error| match error {
                TrySendError::Full(_) => Refusal::Unavailable("several reloads wait already".to_owned()),
                TrySendError::Closed(_) => Refusal::Unavailable("the agent is stopping".to_owned()),
            })?;
            answered.await.map_err(|_| Refusal::Unavailable("the agent is stopping".to_owned()))
        })
    }

    fn canary(&self) -> Answer<'_, CanaryReport> {
        Box::pin(async move { self.judged(Judging::Recent).await })
    }

    fn start_canary(&self, request: CanaryRequest) -> Answer<'_, Result<CanaryReport, String>> {
        Box::pin(async move {
            let what = of_canary(&request.name, &[]);
            let allowed = self.query_engine(|engine, _| engine.allowlist().entries().to_vec()).await?;
            let in_force = Arc::clone(&self.shown.get().whole);
            let (canary, owner, pool) = (self.canary.clone(), self.owner.clone(), self.pool.clone());
            let started = self.query_store(move |reader, now| {
                let CanaryRequest { name, text, base } = request;
                let baseline = reader.baseline()?;
                let start = Start { name, text, base, in_force, baseline, allowed, now };
                Ok(canary.start(start, &owner, pool).map_err(|error| format!("{error:#}")))
            });
            match started.await? {
                Ok(()) => {
                    self.record(Change { step: Step::CanaryStarted, text: what });
                    self.judged(Judging::Now(MIN_OBSERVED_SECS)).await.map(Ok)
                }
                Err(why) => Ok(Err(why)),
            }
        })
    }

    fn abort_canary(&self) -> Answer<'_, CanaryReport> {
        Box::pin(async move {
            let ended = self.canary.abort(&self.owner);
            let report = self.judged(Judging::Now(MIN_OBSERVED_SECS)).await?;
            if ended {
                let observed = [crate::text::duration(report.figures.observed_secs) + " observed"];
                let text = of_canary(report.name.as_deref().unwrap_or_default(), &observed);
                self.record(Change { step: Step::CanaryEnded, text });
            }
            Ok(report)
        })
    }

    fn promote_canary(&self, min_observed_secs: Option<u64>) -> Answer<'_, Promotion> {
        Box::pin(async move {
            let Some(candidate) = self.canary.candidate() else {
                let refusals = vec!["there is no canary: `shield-agent canary start` starts one".to_owned()];
                let report = CanaryReport { refusals, ..CanaryReport::default() };
                return Ok(Promotion { report, text: None, base: String::new() });
            };
            let report = self.judged(Judging::Now(min_observed_secs.unwrap_or(MIN_OBSERVED_SECS))).await?;
            let is_another = report.started_ms != Some(candidate.started_ms);
            let another = is_another.then(|| "another canary was started meanwhile".to_owned());
            let refusals = [report.refusals, another.into_iter().collect()].concat();
            if !refusals.is_empty() {
                let text = of_canary(report.name.as_deref().unwrap_or_default(), &refusals);
                self.record(Change { step: Step::CanaryRefused, text });
            }
            let text = refusals.is_empty().then_some(candidate.text);
            Ok(Promotion { report: CanaryReport { refusals, ..report }, text, base: candidate.base })
        })
    }

    fn record(&self, change: Change) {
        self.owner.send(Message::Change(change));
    }

    fn latencies(&self) -> Option<&Latencies> {
        Some(&self.latencies)
    }

    fn has_canary(&self) -> bool {
        self.canary.is_running()
    }

    fn config(&self) -> Answer<'_, ConfigView> {
        Box::pin(async move { Ok(self.shown.get().config.clone()) })
    }

    fn is_dry_run(&self) -> bool {
        self.about.mode == Mode::DryRun
    }

    fn edge_version(&self) -> u64 {
        self.interpreter.version()
    }

    fn edge_list(&self) -> Answer<'_, EdgeList> {
        Box::pin(async move {
            let interpreter = Arc::clone(&self.interpreter);
            let is_dry = self.about.mode == Mode::DryRun;
            let copied = tokio::task::spawn_blocking(move || {
                // What a dry run would ban is nobody's ban elsewhere either.
                if is_dry {
                    return EdgeList { version: interpreter.version(), ..EdgeList::default() };
                }
                EdgeList::of(&interpreter)
            });
            Ok(copied.await.context("could not copy the bans in force: the thread ended")?)
        })
    }

    fn stalled(&self) -> Vec<(String, String)> {
        self.health.stalled()
    }
}

fn agent_view(
    engine: &Engine,
    now: Now,
    about: About,
    profile: String,
    drops: Vec<(EnforcerName, Drops)>,
) -> AgentView {
    let part = |(name, part): (&String, &shield_engine::parts::Part)| PartReport {
        part: name.clone(),
        state: part.state.clone(),
        repaired: None,
    };
    let policy = engine.detector().policy();
    AgentView {
        now,
        started_ms: about.started_ms,
        mode: about.mode,
        parts: engine.parts().all().iter().map(part).collect(),
        detector: engine.detector().status(),
        profile,
        reference: policy.reference.name().to_owned(),
        max_clients: policy.max_clients as u64,
        totals: engine.totals(),
        rejected: engine.rejected(),
        bans: engine.ledger().len() as u64,
        slowed: engine.slowed_count() as u64,
        slowed_total: engine.slowed_total(),
        permanent_bans: engine.ledger().permanent_count() as u64,
        stopped: engine.banning_stopped(),
        paused_until_ms: engine.paused_until_ms(),
        withheld: engine.withheld().map(|(client, _)| client).take(WITHHELD_SHOWN).collect(),
        withheld_total: engine.withheld().count() as u64,
        leaking: engine.leaking_now(now) as u64,
        drops,
        store_backlog: 0,
        cloudflare: None,
        fleet: None,
        blocklists: BTreeMap::new(),
        sources: Vec::new(),
    }
}

/// A ban with its reason and evidence, from the database or from what is not in it yet. The ban itself is the engine's.
fn recorded(ban: Ban, reader: &Reader, not_in_store: &Unsaved, now: Now) -> anyhow::Result<BanRecord> {
    let is_it = |record: &BanRecord| record.ban.since_ms == ban.since_ms && record.ban.rule == ban.rule;
    let stored = reader.ban(ban.client, now)?.filter(is_it);
    let record = stored.or_else(|| not_in_store.ban(ban.client).filter(is_it));
    Ok(match record {
        Some(record) => BanRecord { ban, ..record },
        None => BanRecord { ban, reason: None, evidence: None },
    })
}

/// The page of a query, as [`Reader::bans`] would sort it.
fn sorted_page(mut bans: Vec<Ban>, query: &StoreQuery) -> Vec<Ban> {
    let end = |ban: &Ban| match ban.ends {
        Ends::Never => u64::MAX,
        Ends::At { boot_ms, .. } => boot_ms,
    };
    match query.sort {
        StoreSort::Newest => bans.sort_unstable_by_key(|ban| std::cmp::Reverse(ban.serial)),
        StoreSort::EndsFirst => bans.sort_unstable_by_key(|ban| (end(ban), ban.serial)),
        StoreSort::Client => bans.sort_by_cached_key(|ban| ban.client.to_string()),
    }
    let offset = usize::try_from(query.offset).unwrap_or(usize::MAX);
    bans.into_iter().skip(offset).take(query.limit.min(MAX_PAGE) as usize).collect()
}

/// The slowed clients that begin with a text.
fn slowed_matching(engine: &Engine, search: Option<&str>) -> Vec<Slowed> {
    let matches =
        |slowed: &&Slowed| search.is_none_or(|text| slowed.client.to_string().starts_with(text.trim()));
    engine.slowed().map(|(_, slowed)| slowed).filter(matches).take(SLOWED_SHOWN).cloned().collect()
}

fn held_by(engine: &Engine, client: Client) -> Option<Vec<EnforcerName>> {
    let ban = engine.ledger().get(client)?;
    Some(EnforcerName::ALL.into_iter().filter(|name| ban.is_held_by(*name)).collect())
}

fn state_of(engine: &Engine, client: Client, now: Now) -> ClientState {
    if engine.ledger().ban_over(client).is_some() {
        return ClientState::Banned;
    }
    let is_allowed = engine.allowlist().admit(client, engine.settings().ipv6_prefix).is_err();
    if is_allowed || engine.proxy_in(client, now.wall_secs()).is_some() {
        return ClientState::Allowed;
    }
    let fires = engine.detector().explain(client, now.wall_secs()).rules.iter().any(|rule| rule.fires);
    if fires { ClientState::Anomalous } else { ClientState::Normal }
}

fn add(sum: &mut Option<Drops>, more: Option<Drops>) {
    let Some(more) = more else { return };
    let sum = sum.get_or_insert_default();
    sum.packets += more.packets;
    sum.bytes += more.bytes;
}

fn past_ban(ended: EndedBan) -> PastBan {
    PastBan {
        serial: ended.serial,
        since_ms: ended.since_ms,
        ended_ms: ended.lifted_ms,
        rule: ended.rule,
        lifted: ended.lift_reason,
        reason: ended.reason,
    }
}
