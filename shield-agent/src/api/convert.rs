//! Conversion of the engine's types into the API's JSON types: pure functions.

use std::collections::BTreeMap;

use super::backend::{AgentView, BanRow, BanRows, ClientView, Mode, SiteView, TopClients};
use super::feed::Conditions;
use super::posture;
use super::types::{
    AllowEntry, Anomaly, Ban, BanCounts, BanPage, Baseline, ClientActivity, ClientList, ClientState,
    Detector, Dropped, EnforcerDrops, Explanation, FleetOrigin, FleetView, GlobalRate, Health, HourSlot,
    Labels, Part, PartStateName, Posture, Reference, RuleState, Seconds, SiteActivity, SiteList,
    SiteRequests, SlowedClient, SlowedCounts, SourceStatus, Status, Trust, Wanted, WarmUp, Window, Withheld,
    WithheldNetwork,
};
use super::vitals::Vitals;
use crate::enforce::Drops;
use crate::fleet::Numbers;
use crate::sites::{self, Counts, SiteCounts};
use crate::source::file::BLOCK_BYTES;
use crate::source::stats::Snapshot;
use crate::text;
use shield_engine::action::BanRecord;
use shield_engine::allowlist::{AllowReason, Allowed};
use shield_engine::client::Client;
use shield_engine::event::{EnforcerName, PartReport, PartState};
use shield_engine::origin::OriginKind;
use shield_engine::remotes::{Distrust, OriginState, Remotes};
use shield_engine::report::{DetectorStatus, RuleView};
use shield_engine::request::Rejected;
use shield_engine::slowed::Slowed;
use shield_engine::time::{Ends, Now};
use shield_engine::verdict::Rule;

/// The length of the window of a rate, in seconds.
pub(crate) const WINDOW_SECS: u32 = 60;

/// What the notices told.
#[derive(Debug, Clone, Default)]
pub(crate) struct Heard {
    pub conditions: Conditions,
    /// See [`super::feed::Feed::recent_attacks`].
    pub attacks: BTreeMap<&'static str, u64>,
}

/// The status. `dropped` has its rates already: they need two readings.
pub(crate) fn status(view: &AgentView, heard: &Heard, dropped: Dropped, vitals: &Vitals) -> Status {
    let conditions = &heard.conditions;
    let sources: Vec<SourceStatus> =
        view.sources.iter().map(|source| source_status(source, &view.parts, view.now)).collect();
    let parts: Vec<Part> = view.parts.iter().map(|report| part(report, &view.sources, &sources)).collect();
    let mut status = Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        now_ms: view.now.wall_ms,
        started_ms: view.started_ms,
        dry_run: view.mode == Mode::DryRun,
        health: health(
            &parts,
            view.detector.warming_up,
            view.stopped.is_some() || view.paused_until_ms.is_some(),
        ),
        detector: detector(view),
        global: global(&view.detector, conditions, view.now),
        baseline: baseline(&view.detector),
        hour_profile: hour_profile(&view.detector.hours),
        totals: view.totals,
        rejected: Rejected::ALL
            .iter()
            .map(|why| (why.name().to_owned(), view.rejected[why.index()]))
            .collect(),
        bans: BanCounts { active: view.bans, permanent: view.permanent_bans },
        slowed: SlowedCounts { active: view.slowed, since_start: view.slowed_total },
        dropped,
        agent: vitals.agent.clone(),
        host: vitals.host.clone(),
        withheld: withheld(&view.withheld, view.withheld_total),
        attacks: heard.attacks.iter().map(|(kind, bans)| ((*kind).to_owned(), *bans)).collect(),
        posture: Posture::default(),
        parts,
        sources,
    };
    status.posture = posture::posture(&status, &heard.attacks, view.leaking);
    status
}

/// Networks of withheld clients in a status at most.
const WITHHELD_NETWORKS: usize = 20;

fn withheld(clients: &[Client], total: u64) -> Withheld {
    let networks = text::by_network(clients.iter().copied()).into_iter();
    let entry = |(network, clients)| WithheldNetwork { network, clients };
    Withheld { clients: total, networks: networks.map(entry).take(WITHHELD_NETWORKS).collect() }
}

fn part(report: &PartReport, snapshots: &[Snapshot], sources: &[SourceStatus]) -> Part {
    let (state, text) = match &report.state {
        PartState::Active { detail } => (PartStateName::Active, detail),
        PartState::Waiting { reason } => (PartStateName::Waiting, reason),
        PartState::Degraded { reason } => (PartStateName::Degraded, reason),
        PartState::Off { reason } => (PartStateName::Off, reason),
    };
    let name = report.part.strip_prefix("source:");
    let snapshot = snapshots.iter().find(|source| name == Some(&source.source));
    let trouble = snapshot.and_then(|source| source.trouble.as_ref());
    let source = sources.iter().find(|source| name == Some(&source.source));
    // The figures of now in place of those with which the state began.
    let text = trouble.filter(|_| state == PartStateName::Degraded).map_or(text, |trouble| &trouble.now);
    let rate = source.filter(|_| state == PartStateName::Active).map(rate_words);
    let more = rate.into_iter().chain(source.and_then(lag_words));
    let text = more.fold(text.clone(), |text, more| format!("{text}; {more}"));
    let label = text::printable(&text::part_name(&report.part));
    Part { part: report.part.clone(), label, state, text: text::printable(&text) }
}

/// Less than a block is no lag: the next read takes all of it.
const LAG_SHOWN_BYTES: u64 = BLOCK_BYTES as u64;

fn source_status(source: &Snapshot, parts: &[PartReport], now: Now) -> SourceStatus {
    let rejected: u64 = source.rejected.iter().sum();
    let lag_bytes = source.backlog.map(|backlog| backlog.bytes);
    let age_secs = |last_secs: i64| u64::try_from(now.wall_secs() - last_secs).unwrap_or(0);
    // On a quiet site the last line is old although nothing is left to read.
    let is_behind = lag_bytes.is_some_and(|bytes| bytes >= LAG_SHOWN_BYTES);
    SourceStatus {
        source: source.source.clone(),
        lines: source.lines + rejected,
        bytes: source.bytes,
        rejected,
        salvaged: source.salvaged,
        logs: source.backlog.map(|backlog| backlog.logs),
        lag_bytes,
        lag_secs: source.last_line_secs.filter(|_| is_behind).map(age_secs),
        last_line_ms: source.last_line_secs.map(|secs| secs.saturating_mul(1000)),
        format: source.format.map(str::to_owned),
        lines_per_sec: source.recent.lines_per_sec,
        rejected_percent: (source.recent.lines > 0)
            .then(|| 100.0 * source.recent.refused as f64 / source.recent.lines as f64),
        rejected_by: Rejected::ALL
            .iter()
            .map(|why| (why.name().to_owned(), source.rejected[why.index()]))
            .collect(),
        state: source_state(source, parts).to_owned(),
    }
}

/// The names of a source's states in JSON and metrics.
pub(crate) const SOURCE_STATES: [&str; 12] = [
    "reading",
    "waiting",
    "off",
    "refused",
    "field",
    "some_refused",
    "silent",
    "one_client",
    "late",
    "behind",
    "unread",
    "degraded",
];

fn source_state(source: &Snapshot, parts: &[PartReport]) -> &'static str {
    let is_its = |report: &&PartReport| report.part.strip_prefix("source:") == Some(&source.source);
    match parts.iter().find(is_its).map(|report| &report.state) {
        Some(PartState::Active { .. }) => "reading",
        Some(PartState::Waiting { .. }) | None => "waiting",
        Some(PartState::Off { .. }) => "off",
        Some(PartState::Degraded { .. }) => {
            source.trouble.as_ref().map_or("degraded", |trouble| trouble.kind)
        }
    }
}

/// `combined, 3.20 lines/s, none rejected`.
fn rate_words(source: &SourceStatus) -> String {
    if source.lines == 0 {
        return "no line yet".to_owned();
    }
    let format = source.format.as_ref().map(|format| format!("{format}, ")).unwrap_or_default();
    let rejected = match source.rejected_percent {
        None => return format!("{format}{:.2} lines/s", source.lines_per_sec),
        Some(0.0) => "none".to_owned(),
        Some(percent) if percent < 0.1 => "under 0.1 %".to_owned(),
        Some(percent) => format!("{percent:.1} %"),
    };
    format!("{format}{:.2} lines/s, {rejected} rejected", source.lines_per_sec)
}

/// `1.2 GiB (3 h) behind`; `None` when it is not.
fn lag_words(source: &SourceStatus) -> Option<String> {
    let bytes = text::bytes(source.lag_bytes.filter(|bytes| *bytes >= LAG_SHOWN_BYTES)?);
    let age = source.lag_secs.map(|secs| format!(" ({})", text::duration(secs))).unwrap_or_default();
    Some(format!("{bytes}{age} behind"))
}

fn health(parts: &[Part], warming_up: bool, is_stopped: bool) -> Health {
    let of_part = |part: &Part| match part.state {
        PartStateName::Active | PartStateName::Off => Health::Ok,
        PartStateName::Waiting => Health::Waiting,
        PartStateName::Degraded => Health::Degraded,
    };
    let worst_part = parts.iter().map(of_part).max().unwrap_or(Health::Ok);
    let detector = if warming_up { Health::Waiting } else { Health::Ok };
    let stopped = if is_stopped { Health::Degraded } else { Health::Ok };
    worst_part.max(detector).max(stopped)
}

fn detector(view: &AgentView) -> Detector {
    let status = &view.detector;
    let left = u64::from(status.warm_up_left_secs);
    let mut detector = Detector {
        state: PartStateName::Active,
        text: String::new(),
        profile: view.profile.clone(),
        reference: view.reference.clone(),
        warm_up: status.warming_up.then_some(WarmUp { remaining_secs: left }),
        frozen: status.frozen,
        blast_radius: view.stopped.clone(),
        paused_until_ms: view.paused_until_ms,
        clients: status.clients_tracked,
        max_clients: view.max_clients,
        evicted: status.evicted,
    };
    (detector.state, detector.text) = detector_state(&detector);
    detector
}

/// The detector as a part: it cannot break, but it can be in a state that an operator should know.
pub(crate) fn detector_state(detector: &Detector) -> (PartStateName, String) {
    if let Some(until_ms) = detector.paused_until_ms {
        return (PartStateName::Degraded, text::posture::paused(until_ms));
    }
    match (&detector.blast_radius, &detector.warm_up) {
        (Some(why), _) => (PartStateName::Degraded, format!("no automatic bans: {why}")),
        (None, Some(warm_up)) => {
            let left = text::duration(warm_up.remaining_secs);
            // It goes by the log's clock, which stands still without requests.
            let left = match detector.clients {
                0 => format!("no requests to learn from now; {left} left once they come"),
                _ => format!("{left} left"),
            };
            let text = format!("{left}; until then only floods, probing and failed logins lead to bans");
            (PartStateName::Waiting, text)
        }
        (None, None) if detector.frozen => {
            (PartStateName::Active, "learning paused during the global anomaly".to_owned())
        }
        (None, None) => {
            (PartStateName::Active, format!("profile {}, {} reference", detector.profile, detector.reference))
        }
    }
}

fn global(status: &DetectorStatus, conditions: &Conditions, now: Now) -> GlobalRate {
    let anomaly = || anomaly(status, conditions, now);
    GlobalRate {
        rate: status.global_rate,
        error_rate: status.global_error_rate,
        banned_rate: status.banned_rate,
        window_secs: WINDOW_SECS,
        seconds: Seconds {
            end_ms: status.latest_secs * 1000,
            requests: status.seconds.iter().map(|(all, _)| *all).collect(),
            of_banned: status.seconds.iter().map(|(_, banned)| *banned).collect(),
        },
        anomaly: status.global_anomaly.then(anomaly),
    }
}

/// The anomaly by the figures of now, which stand beside it; its start may have been announced before this run.
fn anomaly(status: &DetectorStatus, conditions: &Conditions, now: Now) -> Anomaly {
    let rate = (status.global_rate - status.banned_rate).max(0.0);
    let mut condition = text::global_anomaly(rate, status.global.mean, status.global.stddev);
    if status.banned_rate > 0.0 {
        condition.push_str(", banned clients left out");
    }
    Anomaly { since_ms: conditions.anomaly_since_ms.unwrap_or(now.wall_ms), condition }
}

fn baseline(status: &DetectorStatus) -> Baseline {
    let is_known = status.clients.samples > 0;
    Baseline {
        mean: status.global.mean,
        stddev: status.global.stddev,
        error_mean: status.global.error_mean,
        source: status.global.source.clone(),
        samples: status.global.samples,
        client_mean: is_known.then_some(status.clients.mean),
        client_stddev: is_known.then_some(status.clients.stddev),
    }
}

fn hour_profile(levels: &[Option<(f64, f64)>]) -> Vec<HourSlot> {
    let slot = |hour: u8| {
        let (mean, stddev) = levels.get(usize::from(hour)).copied().flatten().unzip();
        HourSlot { hour, mean, stddev }
    };
    (0..24).map(slot).collect()
}

/// The sums of all enforcers, without rates.
pub(crate) fn dropped(drops: &[(EnforcerName, Drops)]) -> Dropped {
    let by_enforcer: Vec<EnforcerDrops> = (drops.iter())
        .map(|(enforcer, drops)| EnforcerDrops {
            enforcer: *enforcer,
            packets: drops.packets,
            bytes: drops.bytes,
        })
        .collect();
    Dropped {
        packets: by_enforcer.iter().map(|drops| drops.packets).sum(),
        bytes: by_enforcer.iter().map(|drops| drops.bytes).sum(),
        packets_per_sec: 0.0,
        bytes_per_sec: 0.0,
        by_enforcer,
    }
}

pub(crate) fn ban(row: BanRow, now: Now) -> Ban {
    let words = text::cause(&row.record);
    let record = row.record;
    Ban {
        client: record.ban.client,
        serial: record.ban.serial,
        since_ms: record.ban.since_ms,
        ends_ms: ends_ms(record.ban.ends, now),
        remaining_secs: record.ban.ends.remaining_ms(now).map(|ms| ms.div_ceil(1000)),
        offence: record.ban.offence_number(),
        rule: record.ban.rule,
        reason: record.reason,
        words,
        evidence: record.evidence,
        dropped: row.drops,
        leaking: row.leaking,
        enforced_by: row.held_by,
        owner: None,
    }
}

/// The sites with the clients that attacked each of late.
pub(crate) fn sites(view: SiteView, attacked: &BTreeMap<String, u64>) -> SiteList {
    let SiteView { requests: SiteCounts { mut named, other, unnamed }, bans, now } = view;
    // After a restart a site may be known by its bans alone.
    for site in bans.keys().chain(attacked.keys()) {
        if named.len() < sites::NAMES && !named.contains_key(site) {
            named.insert(site.clone(), Counts::default());
        }
    }
    let number = |of: &BTreeMap<String, u64>, site: &str| of.get(site).copied().unwrap_or(0);
    let mut sites: Vec<SiteActivity> = named
        .into_iter()
        .map(|(site, counts)| SiteActivity {
            bans: number(&bans, &site),
            attackers: number(attacked, &site),
            requests: site_requests(counts),
            site,
        })
        .collect();
    sites.sort_by_key(|site| std::cmp::Reverse((site.attackers, site.requests.requests, site.bans)));
    SiteList { sites, other: site_requests(other), unnamed: site_requests(unnamed), now_ms: now.wall_ms }
}

fn site_requests(counts: Counts) -> SiteRequests {
    SiteRequests {
        requests: counts.requests,
        client_errors: counts.client_errors,
        server_errors: counts.server_errors,
        requests_last_minute: counts.in_minute,
        errors_last_minute: counts.errors_in_minute,
    }
}

/// Without the lines of the log, which are for those alone who may change something: a query string may hold a secret.
pub(crate) fn without_lines(ban: Ban) -> Ban {
    let evidence = ban.evidence.map(|mut evidence| {
        evidence.lines = Vec::new();
        evidence
    });
    Ban { evidence, ..ban }
}

/// The end on the present wall clock: the boot clock decides, and the wall clock may have been set since the ban.
fn ends_ms(ends: Ends, now: Now) -> Option<i64> {
    let remaining = i64::try_from(ends.remaining_ms(now)?).unwrap_or(i64::MAX);
    Some(now.wall_ms.saturating_add(remaining))
}

/// The page of bans that comes after `offset` others.
pub(crate) fn ban_page(found: BanRows, offset: u64, dry_run: bool) -> BanPage {
    let end = offset + found.rows.len() as u64;
    let has_more = !found.rows.is_empty() && end < found.total;
    BanPage {
        total: found.total,
        next: has_more.then(|| end.to_string()),
        dry_run,
        now_ms: found.now.wall_ms,
        slowed: found.slowed.iter().map(|slowed| slowed_client(slowed, found.now)).collect(),
        bans: found.rows.into_iter().map(|row| without_lines(ban(row, found.now))).collect(),
    }
}

/// The other hosts, as the engine sees them.
pub(crate) fn origins(remotes: &Remotes, now: Now) -> Vec<FleetOrigin> {
    let origin = |state: &OriginState| FleetOrigin {
        name: state.origin.name().to_owned(),
        heard_ms: state.heard_ms,
        heard_secs_ago: u64::try_from(now.wall_ms - state.heard_ms).unwrap_or(0) / 1000,
        bans: state.entries as u64,
        counted: state.counted as u64,
        trust: match state.distrust {
            Some(Distrust::Operator) => Trust::Forgotten,
            Some(Distrust::Harm { .. }) => Trust::Harmful,
            None if state.is_limited() => Trust::Limited,
            None => Trust::Full,
        },
        vetoed: state.vetoed,
        refused_networks: state.refused_networks,
    };
    remotes.origins().filter(|state| state.origin.kind() == OriginKind::Fleet).map(origin).collect()
}

/// Others that want a client banned, or the network whose ban drops it.
pub(crate) fn wanted_by(remotes: &Remotes, client: Client, banned: Option<Client>) -> Vec<Wanted> {
    let over = banned.filter(|banned| *banned != client);
    let of = |client: Client| {
        remotes.of(client).map(move |(state, entry)| Wanted {
            origin: state.origin.to_string(),
            client,
            why: entry.why.clone(),
            since_ms: entry.since_ms,
            ends_ms: entry.ends_ms,
            counts: entry.is_counted && state.distrust.is_none(),
        })
    };
    of(client).chain(over.into_iter().flat_map(of)).collect()
}

pub(crate) fn fleet(name: &str, numbers: Numbers, origins: Vec<FleetOrigin>) -> FleetView {
    let Numbers { is_connected, server, own, waiting, heard, newer, unread } = numbers;
    FleetView {
        name: Some(name.to_owned()),
        connected: is_connected,
        server,
        own_bans: own,
        waiting,
        heard,
        newer,
        unread,
        origins,
    }
}

fn slowed_client(slowed: &Slowed, now: Now) -> SlowedClient {
    let left_ms = slowed.ends.remaining_ms(now).unwrap_or(0);
    SlowedClient {
        client: slowed.client,
        since_ms: slowed.since_ms,
        ends_ms: now.wall_ms + left_ms as i64,
        remaining_secs: left_ms.div_ceil(1000),
        rule: slowed.rule,
        limits: slowed.limits,
        words: text::slow_cause(slowed),
    }
}

pub(crate) fn client_list(top: &TopClients) -> ClientList {
    let clients = top.clients.iter().map(|client| ClientActivity {
        client: client.summary.client,
        rate: client.summary.rate,
        requests: client.summary.requests,
        errors: client.summary.errors,
        z_score: client.summary.z_score,
        state: client.state,
    });
    ClientList { window_secs: WINDOW_SECS, now_ms: top.now.wall_ms, clients: clients.collect() }
}

/// Adds clients that were banned within the window, with the figures of their bans: their requests are no longer counted,
/// but an operator who looks for the attacker should find it here.
pub(crate) fn add_banned(list: &mut ClientList, bans: Vec<BanRecord>) {
    for ban in bans {
        let Some(evidence) = ban.evidence else { continue };
        if list.clients.iter().any(|listed| listed.client == ban.ban.client) {
            continue;
        }
        list.clients.push(ClientActivity {
            client: ban.ban.client,
            rate: evidence.rate,
            requests: evidence.requests,
            errors: evidence.errors,
            z_score: evidence.z_score,
            state: ClientState::Banned,
        });
    }
    list.clients.sort_by(|a, b| b.rate.total_cmp(&a.rate));
}

pub(crate) fn allow_entry(entry: &Allowed) -> AllowEntry {
    noted_entry(entry, None, None)
}

/// `note` and `until_ms` are of the operator's entry.
pub(crate) fn noted_entry(entry: &Allowed, note: Option<String>, until_ms: Option<i64>) -> AllowEntry {
    let is_operators = entry.reason == AllowReason::Operator;
    let (note, until_ms) = (note.filter(|_| is_operators), until_ms.filter(|_| is_operators));
    AllowEntry {
        network: entry.network,
        reason: entry.reason,
        words: entry.reason.describe().to_owned(),
        note,
        until_ms,
    }
}

/// The names that the API uses, as the page shows them.
pub(crate) fn labels() -> Labels {
    let owned = |name: &str, label: &str| (name.to_owned(), label.to_owned());
    let rule = |rule: Rule| owned(rule.name(), text::rule_title(rule));
    let source = |source: &str| owned(source, text::baseline_source(source));
    let enforcer = |name: EnforcerName| owned(name.name(), &text::part_name(name.name()));
    Labels {
        rules: Rule::ALL.into_iter().map(rule).collect(),
        baseline_sources: ["rolling", "hour_slot", "all_hours", "floor", "warm_up"]
            .into_iter()
            .map(source)
            .collect(),
        enforcers: EnforcerName::ALL.into_iter().map(enforcer).collect(),
    }
}

pub(crate) fn explanation(view: ClientView, at_ms: Option<i64>, dry_run: bool) -> Explanation {
    let detector = &view.detector;
    let window = detector.known.then_some(Window {
        secs: detector.window_secs,
        requests: detector.requests,
        errors: detector.errors,
        rate: detector.rate,
    });
    Explanation {
        client: detector.client,
        at_ms: at_ms.unwrap_or(view.now.wall_ms),
        words: at_ms.map_or_else(|| explanation_words(&view, dry_run), |at_ms| record_words(&view, at_ms)),
        dry_run,
        wanted_by: view.wanted_by.clone(),
        allowed: view.allowed.iter().map(allow_entry).collect(),
        proxy: view.proxy.filter(|_| at_ms.is_none()),
        slowed: view
            .slowed
            .as_ref()
            .filter(|_| at_ms.is_none())
            .map(|slowed| slowed_client(slowed, view.now)),
        window,
        reference: Reference {
            mean: detector.baseline.mean,
            stddev: detector.baseline.stddev,
            source: detector.baseline.source.clone(),
        },
        rules: detector.rules.iter().map(rule_state).collect(),
        top_paths: detector.top_paths.clone(),
        offences: view.offences,
        history: view.history,
        ban: view.ban.map(|row| ban(row, view.now)),
    }
}

fn rule_state(view: &RuleView) -> RuleState {
    RuleState {
        rule: view.rule,
        fires: view.fires,
        not_asked: view.not_asked.clone(),
        measures: view.measures.clone(),
        words: text::rule_answer(view),
    }
}

/// The answer for a past moment: about bans only, because nothing else is recorded.
fn record_words(view: &ClientView, at_ms: i64) -> String {
    let (client, at) = (view.detector.client, text::utc(at_ms));
    if let Some(row) = &view.ban {
        return format!("{client} was banned at {at}, and still is: {}", text::cause(&row.record));
    }
    match view.history.first() {
        Some(past) => {
            let why = past.reason.as_deref().unwrap_or_else(|| text::rule_sentence(past.rule));
            format!("{client} was banned at {at}, until {}: {why}", text::utc(past.ended_ms))
        }
        None => format!("{client} was not banned at {at}, as far as is remembered"),
    }
}

fn explanation_words(view: &ClientView, dry_run: bool) -> String {
    let client = view.detector.client;
    if let Some(row) = &view.ban {
        let through = if row.record.ban.client == client {
            String::new()
        } else {
            format!(" with {}", row.record.ban.client)
        };
        let state = if dry_run { "would be banned (dry run, nothing is dropped)" } else { "is banned" };
        return format!("{client} {state}{through}: {}", text::cause(&row.record));
    }
    if let Some(slowed) = &view.slowed {
        let (limits, cause) = (text::slow_limits(slowed.limits), text::slow_cause(slowed));
        return format!("{client} is not banned, but slowed {limits}: {cause}");
    }
    if let Some(entry) = view.allowed.first() {
        let (network, reason) = (entry.network, entry.reason.describe());
        // An operator may ban a CDN's edge; nobody may ban what the configuration allows.
        let by_whom =
            if entry.reason.is_infrastructure() { "is banned by no rule" } else { "is never banned" };
        return format!("{client} {by_whom}: {network} is {reason}");
    }
    if let Some(proxy) = view.proxy {
        return format!("{client} is banned by no rule: {}", text::in_front::is_a_proxy(client, proxy));
    }
    if !view.detector.known {
        return format!("{client} is not banned: no request of it was seen lately");
    }
    match view.detector.rules.iter().find(|rule| rule.fires) {
        Some(rule) => {
            format!("{client} is not banned, but {} fires: {}", rule.rule, text::rule_sentence(rule.rule))
        }
        None => format!("{client} is not banned: no rule fires"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::types::Offences;
    use crate::source::sight::Trouble;
    use crate::source::stats::{Backlog, Rate};
    use shield_engine::report::{self, BaselineView};

    fn part(state: PartStateName) -> Part {
        Part { part: "xdp".into(), label: "XDP".into(), state, text: String::new() }
    }

    #[test]
    fn withheld_clients_are_grouped_by_network_the_fullest_first() {
        let clients = ["192.0.2.7", "203.0.113.1", "203.0.113.2", "2001:db8:1:2::/64", "2001:db8:1:3::/64"];
        let clients: Vec<Client> = clients.iter().map(|client| client.parse().unwrap()).collect();
        let shown = withheld(&clients, 5);
        let networks: Vec<String> =
            shown.networks.iter().map(|network| format!("{} {}", network.network, network.clients)).collect();
        assert_eq!(networks, ["203.0.113.0/24 2", "2001:db8:1::/48 2", "192.0.2.7 1"]);
        let many: Vec<Client> = (0..50).map(|n| format!("10.0.{n}.1").parse().unwrap()).collect();
        let shown = withheld(&many, 60);
        assert_eq!((shown.networks.len(), shown.clients), (WITHHELD_NETWORKS, 60));
    }

    #[test]
    fn health_is_the_worst_that_holds() {
        use PartStateName::{Active, Degraded, Off, Waiting};
        let check = |states: &[PartStateName], warming_up, is_stopped, expected| {
            let parts: Vec<Part> = states.iter().copied().map(part).collect();
            assert_eq!(health(&parts, warming_up, is_stopped), expected, "{states:?}");
        };
        check(&[], false, false, Health::Ok);
        check(&[Active, Off], false, false, Health::Ok);
        check(&[Active], true, false, Health::Waiting);
        check(&[Waiting, Active], false, false, Health::Waiting);
        check(&[Waiting, Degraded], true, false, Health::Degraded);
        check(&[Active], false, true, Health::Degraded);
    }

    #[test]
    fn a_client_that_rules_spare_is_said_to_be_spared() {
        let words = |allowed: &[(&str, AllowReason)], proxy: Option<&str>| {
            let allowed = allowed
                .iter()
                .map(|(network, reason)| Allowed { network: network.parse().unwrap(), reason: *reason });
            let baseline =
                BaselineView { source: "floor".into(), mean: 0.1, stddev: 0.1, error_mean: 0.1, samples: 0 };
            let view = ClientView {
                detector: report::Explanation {
                    client: "203.0.113.9".parse().unwrap(),
                    at_secs: 20_000_000,
                    known: false,
                    window_secs: 60,
                    requests: 0,
                    errors: 0,
                    rate: 0.0,
                    baseline,
                    rules: Vec::new(),
                    account: Vec::new(),
                    top_paths: Vec::new(),
                },
                ban: None,
                slowed: None,
                wanted_by: Vec::new(),
                allowed: allowed.collect(),
                proxy: proxy.map(|proxy| proxy.parse().unwrap()),
                offences: Offences { count: 0, last_ms: None },
                history: Vec::new(),
                now: Now { wall_ms: 20_000_000_000, boot_ms: 0 },
            };
            explanation_words(&view, false)
        };
        let cdn = words(&[("203.0.113.0/24", AllowReason::Cdn)], None);
        assert_eq!(
            cdn,
            "203.0.113.9 is banned by no rule: 203.0.113.0/24 is a content delivery network (cdn_ranges in [allow])"
        );
        let configured = words(&[("203.0.113.0/24", AllowReason::Configured)], Some("203.0.113.9"));
        assert_eq!(configured, "203.0.113.9 is never banned: 203.0.113.0/24 is allowed in the configuration");
        let proxy = words(&[], Some("203.0.113.9"));
        assert!(proxy.starts_with("203.0.113.9 is banned by no rule: it is a proxy"), "{proxy}");
        let none = words(&[], None);
        assert_eq!(none, "203.0.113.9 is not banned: no request of it was seen lately");
    }

    #[test]
    fn a_source_behind_its_log_says_how_far() {
        let now = Now { wall_ms: 20_000_000_000, boot_ms: 0 };
        let check = |state: PartState, bytes: u64, last_line_secs, expected: &str| {
            let snapshot = Snapshot {
                source: "/a.log".into(),
                lines: 3,
                bytes: 500,
                salvaged: 1,
                rejected: [1, 0, 0, 0, 0, 0],
                backlog: Some(Backlog { bytes, logs: 1 }),
                last_line_secs,
                recent: Rate { lines: 0, refused: 0, lines_per_sec: 0.5 },
                trouble: None,
                format: None,
            };
            let report = PartReport { part: "source:/a.log".into(), state, repaired: None };
            let status = source_status(&snapshot, std::slice::from_ref(&report), now);
            assert_eq!((status.lines, status.rejected, status.lag_bytes), (4, 1, Some(bytes)));
            assert_eq!(super::part(&report, &[snapshot], &[status]).text, expected);
        };
        let reading = || PartState::Active { detail: "reading".into() };
        let late = || PartState::Degraded { reason: "bans come late".into() };
        check(reading(), 0, Some(1), "reading; 0.50 lines/s");
        check(reading(), LAG_SHOWN_BYTES - 1, Some(1), "reading; 0.50 lines/s");
        check(reading(), 300 << 20, None, "reading; 0.50 lines/s; 300.0 MiB behind");
        check(
            reading(),
            1_288_490_189,
            Some(20_000_000 - 10_800),
            "reading; 0.50 lines/s; 1.2 GiB (3 h) behind",
        );
        check(late(), 1 << 30, Some(20_000_000 - 90), "bans come late; 1.0 GiB (1 min 30 s) behind");
        check(reading(), 1 << 30, Some(20_000_060), "reading; 0.50 lines/s; 1.0 GiB (0 s) behind");
    }

    #[test]
    fn a_source_shows_its_rate_or_what_is_wrong_by_the_figures_of_now() {
        let now = Now { wall_ms: 20_000_000_000, boot_ms: 0 };
        let check = |state: PartState, refused, trouble: Option<Trouble>, expected: (&str, &str)| {
            let snapshot = Snapshot {
                source: "/a.log".into(),
                lines: 1_000,
                bytes: 500,
                salvaged: 0,
                rejected: [refused, 0, 0, 0, 0, 0],
                backlog: None,
                last_line_secs: None,
                recent: Rate { lines: 2_000, refused, lines_per_sec: 20.0 },
                trouble,
                format: Some("combined"),
            };
            let report = PartReport { part: "source:/a.log".into(), state, repaired: None };
            let status = source_status(&snapshot, std::slice::from_ref(&report), now);
            let text = super::part(&report, &[snapshot], std::slice::from_ref(&status)).text;
            assert_eq!((status.state.as_str(), text.as_str()), expected);
            assert!(SOURCE_STATES.contains(&status.state.as_str()));
        };
        let reading = || PartState::Active { detail: "reading".into() };
        let degraded = || PartState::Degraded { reason: "none of the last 20 lines".into() };
        let trouble = || Some(Trouble { kind: "refused", now: "none of the last 200 lines".into() });
        check(reading(), 0, None, ("reading", "reading; combined, 20.00 lines/s, none rejected"));
        check(reading(), 1, None, ("reading", "reading; combined, 20.00 lines/s, under 0.1 % rejected"));
        check(reading(), 50, None, ("reading", "reading; combined, 20.00 lines/s, 2.5 % rejected"));
        check(degraded(), 2_000, trouble(), ("refused", "none of the last 200 lines"));
        check(degraded(), 0, None, ("degraded", "none of the last 20 lines"));
        for kind in shield_logline::sight::Kind::ALL {
            assert!(SOURCE_STATES.contains(&kind.name()));
        }
    }

    #[test]
    fn the_end_shown_follows_a_wall_clock_that_jumped() {
        let then = Now { wall_ms: 1_000_000, boot_ms: 500 };
        let ends = Ends::after(then, 60_000);
        let jumped = Now { wall_ms: 9_000_000, boot_ms: 10_500 };
        assert_eq!(ends_ms(ends, jumped), Some(9_050_000));
        assert_eq!(ends_ms(Ends::Never, jumped), None);
    }
}
