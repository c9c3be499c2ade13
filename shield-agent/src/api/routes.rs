//! The handlers of `/api/v1` and `/metrics`: parse and bound the request, query the agent, answer. Not here: who may ask (`auth`), which
//! paths there are (`operation`).

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Extension, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodFilter, MethodRouter, get, on};
use axum::{Json, Router};
use futures::Stream;
use serde::Deserialize;
use tokio::sync::Semaphore;
use tower_http::set_header::SetResponseHeaderLayer;

use super::backend::BanQuery;
use super::error::{ApiError, Body, Params};
use super::export::Exports;
use super::live::Live;
use super::metrics::{self, ApiCounts, LiveNumbers};
use super::operation::{BASE, Operation};
use super::stream::EventStream;
use super::types::{
    AllowList, AllowRequest, BanPage, BanRequest, BanSort, CanaryReport, CanaryRequest, ChangeRecord,
    ConfigView, DisallowRequest, EventList, Explanation, FleetView, ImportRequest, LabList, LabView, Labels,
    MAX_CLIENTS_PER_REQUEST, MAX_REASON_CHARS, MAX_TERM_SECS, OriginRequest, PauseReport, PauseRequest,
    Promotion, PromotionRequest, Range, ReloadReport, ResumeReport, ResumeRequest, Term, Transport,
    UnbanRequest, Whoami,
};
use super::{Settings, convert};
use crate::address_owner::AddressOwners;
use crate::edge::format::EdgeFormat;
use crate::text;
use shield_engine::action::{Change, CommandResult, Reply};
use shield_engine::backoff;
use shield_engine::client::Client;
use shield_engine::event::{Command, ImportedBan, Refused};
use shield_engine::origin::{Origin, OriginKind};
use shield_engine::verdict::Rule;
use shield_engine::{MAX_ALLOW_SECS, MAX_PAUSE_SECS};

/// The largest body of a request, in bytes: an import of 10,000 entries with reasons.
const MAX_BODY_BYTES: usize = 4 * 1024 * 1024;

/// The largest page or list.
const MAX_LIMIT: u32 = 1_000;

pub(crate) struct Api {
    live: Arc<Live>,
    settings: Settings,
    /// Of TCP and of the control socket: whoever uses up the page's leaves root's commands theirs.
    budgets: [Budget; 2],
    answers: [AtomicU64; 5],
    exports: Exports,
    owners: Arc<AddressOwners>,
}

/// What clients of one transport can take together.
struct Budget {
    requests: Semaphore,
    streams: Arc<Semaphore>,
}

impl Budget {
    fn new(settings: &Settings) -> Budget {
        Budget {
            requests: Semaphore::new(settings.max_requests),
            streams: Arc::new(Semaphore::new(settings.max_streams)),
        }
    }
}

type Shared = State<Arc<Api>>;
type Answer<T> = Result<Json<T>, ApiError>;

impl Api {
    pub(crate) fn new(live: Arc<Live>, settings: Settings) -> Api {
        Api {
            live,
            budgets: [Budget::new(&settings), Budget::new(&settings)],
            settings,
            answers: Default::default(),
            exports: Exports::default(),
            owners: Arc::default(),
        }
    }

    /// What the databases of addresses are put into.
    pub(crate) fn owners(&self) -> Arc<AddressOwners> {
        Arc::clone(&self.owners)
    }

    fn counts(&self) -> ApiCounts {
        let free = |budget: &Budget| budget.streams.available_permits();
        let open: usize =
            self.budgets.iter().map(|b| self.settings.max_streams.saturating_sub(free(b))).sum();
        ApiCounts {
            answers: std::array::from_fn(|at| self.answers[at].load(Ordering::Relaxed)),
            streams: open as u64,
        }
    }

    fn budget(&self, transport: Transport) -> &Budget {
        match transport {
            Transport::Tcp => &self.budgets[0],
            Transport::Unix => &self.budgets[1],
        }
    }

    async fn command(&self, command: Command) -> Answer<Reply> {
        let mut reply = self.live.backend().command(command).await?;
        self.in_dry_run(&mut reply.results);
        Ok(Json(reply))
    }

    /// In a dry run nobody is banned, whatever the engine decided.
    fn in_dry_run(&self, results: &mut [CommandResult]) {
        if self.live.backend().is_dry_run() {
            results.iter_mut().for_each(|result| result.message = text::in_dry_run(&result.message));
        }
    }
}

/// The API and the metrics, without the page and without authorisation.
pub(crate) fn router(api: &Arc<Api>) -> Router {
    let v1 = Operation::ALL
        .into_iter()
        .fold(Router::new(), |router, operation| router.route(operation.path(), handler(operation)))
        .fallback(async |request: Request| not_found(&request))
        .method_not_allowed_fallback(async || ApiError::method_not_allowed());
    Router::new()
        .nest(BASE, v1)
        .route("/metrics", get(prometheus).fallback(async || ApiError::method_not_allowed()))
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .layer(middleware::from_fn_with_state(Arc::clone(api), bounded))
        // Outside of the bounds: requests that wait for an engine that hangs must not hide that it does.
        .route("/healthz", get(healthz).fallback(async || ApiError::method_not_allowed()))
        .layer(header_layer(header::CACHE_CONTROL, "no-store"))
        .with_state(Arc::clone(api))
}

fn handler(operation: Operation) -> MethodRouter<Arc<Api>> {
    let method = MethodFilter::try_from(operation.method()).expect("the table has only GET and POST");
    match operation {
        Operation::Whoami => on(method, whoami),
        Operation::Status => on(method, status),
        Operation::Bans => on(method, bans),
        Operation::Export => on(method, export),
        Operation::Ban => on(method, ban),
        Operation::Unban => on(method, unban),
        Operation::Import => on(method, import),
        Operation::Allowlist => on(method, allowlist),
        Operation::Allow => on(method, allow),
        Operation::Disallow => on(method, disallow),
        Operation::Pause => on(method, pause),
        Operation::Resume => on(method, resume),
        Operation::Reload => on(method, reload),
        Operation::Canary => on(method, canary),
        Operation::CanaryStart => on(method, canary_start),
        Operation::CanaryAbort => on(method, canary_abort),
        Operation::CanaryPromote => on(method, canary_promote),
        Operation::Record => on(method, record),
        Operation::Labels => on(method, labels),
        Operation::Clients => on(method, clients),
        Operation::Sites => on(method, sites),
        Operation::Labs => on(method, labs),
        Operation::Explain => on(method, explain),
        Operation::Events => on(method, events),
        Operation::RecentEvents => on(method, recent_events),
        Operation::History => on(method, history),
        Operation::Config => on(method, config),
        Operation::Fleet => on(method, fleet),
        Operation::ForgetOrigin => on(method, forget_origin),
        Operation::TrustOrigin => on(method, trust_origin),
    }
}

/// Adds the headers of every answer and counts answers. The page has set its own Content-Security-Policy.
pub(crate) fn finish(router: Router, api: &Arc<Api>) -> Router {
    router
        .layer(header_layer(header::X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .layer(header_layer(header::REFERRER_POLICY, "no-referrer"))
        .layer(header_layer(header::X_FRAME_OPTIONS, "DENY"))
        .layer(header_layer(header::CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"))
        .layer(header_layer(header::HeaderName::from_static("cross-origin-resource-policy"), "same-origin"))
        .layer(middleware::from_fn_with_state(Arc::clone(api), counted))
}

fn header_layer(name: header::HeaderName, value: &'static str) -> SetResponseHeaderLayer<HeaderValue> {
    SetResponseHeaderLayer::if_not_present(name, HeaderValue::from_static(value))
}

fn not_found(request: &Request) -> ApiError {
    ApiError::not_found(format!("there is no {}; docs/openapi.json lists the paths", request.uri().path()))
}

/// Bounds the number of requests at a time and the time of each. A stream counts only until its answer starts.
async fn bounded(
    State(api): Shared,
    Extension(whoami): Extension<Whoami>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let work = async {
        let slot = api.budget(whoami.transport).requests.acquire().await;
        let response = next.run(request).await;
        drop(slot);
        response
    };
    tokio::time::timeout(api.settings.request_timeout, work).await.map_err(|_| ApiError::timeout())
}

async fn counted(State(api): Shared, request: Request, next: Next) -> Response {
    let response = next.run(request).await;
    let class = usize::from(response.status().as_u16() / 100).clamp(1, 5) - 1;
    api.answers[class].fetch_add(1, Ordering::Relaxed);
    response
}

async fn whoami(Extension(whoami): Extension<Whoami>) -> Json<Whoami> {
    Json(whoami)
}

async fn status(State(api): Shared) -> Result<Response, ApiError> {
    Ok(ready_json(api.live.reading().await?.status_json.clone()))
}

fn ready_json(json: Bytes) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], json).into_response()
}

#[derive(Deserialize)]
#[cfg_attr(feature = "test-support", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct BansParams {
    /// How the client's text begins; a whole address also finds the networks that contain it.
    q: Option<String>,
    /// Only bans for this rule.
    rule: Option<Rule>,
    /// Only bans of clients that asked for this site, by its name in `/sites`.
    site: Option<String>,
    /// `false` leaves out bans of lists: imported ones, blocklists' and CrowdSec's.
    imported: Option<bool>,
    /// `since`: newest first. `ends`: ending soonest first, permanent last. `client`: by the client's text.
    #[serde(default)]
    sort: BanSort,
    /// Bans a page.
    #[serde(default)]
    limit: Limit<50>,
    /// Number of bans to skip, for going to a certain page. Not together with `cursor`.
    offset: Option<u64>,
    /// `next` of the page before, with the same `q`, `rule`, `site`, `imported` and `sort`.
    cursor: Option<String>,
}

async fn bans(State(api): Shared, Params(params): Params<BansParams>) -> Answer<BanPage> {
    let offset = match (params.offset, &params.cursor) {
        (Some(_), Some(_)) => {
            return Err(ApiError::bad_request("give either `offset` or `cursor`, not both"));
        }
        (offset, None) => offset.unwrap_or(0),
        (None, Some(cursor)) => {
            let wrong = || ApiError::bad_request("`cursor` is not the `next` of an earlier page");
            cursor.parse().map_err(|_| wrong())?
        }
    };
    let query = BanQuery {
        search: params.q.map(|q| q.trim().to_owned()).filter(|q| !q.is_empty()),
        rule: params.rule,
        site: params.site.filter(|site| !site.is_empty()),
        no_imported: params.imported == Some(false),
        sort: params.sort,
        offset,
        limit: params.limit.0,
    };
    let backend = api.live.backend();
    let mut page = convert::ban_page(backend.bans(query).await?, offset, backend.is_dry_run());
    for ban in &mut page.bans {
        ban.owner = api.owners.of(ban.client.network().addr());
    }
    Ok(Json(page))
}

#[derive(Deserialize)]
#[cfg_attr(feature = "test-support", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct ExportParams {
    /// The list's format.
    #[serde(default)]
    format: EdgeFormat,
}

async fn export(
    State(api): Shared,
    Params(params): Params<ExportParams>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let known = headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    let known: Vec<&str> = known.collect();
    Ok(api.exports.answer(api.live.backend(), params.format, &known.join(",")).await?)
}

async fn sites(State(api): Shared) -> Result<Response, ApiError> {
    Ok(ready_json(api.live.sites_json().await?))
}

/// Reads their files: the control service need not run, and the engine is not asked.
async fn labs() -> Answer<LabList> {
    let read = tokio::task::spawn_blocking(labs_now).await;
    let list = read.ok().and_then(Result::ok);
    list.map(Json).ok_or_else(|| ApiError::overloaded("could not read the environments for rehearsals"))
}

fn labs_now() -> anyhow::Result<LabList> {
    let state = shield_lab::state::State::of(None)?;
    let (now, front) = (shield_lab::state::since_boot()?, shield_lab::front::Front::of(&state));
    let view = |lab: &shield_lab::environment::Environment| LabView {
        id: lab.id.clone(),
        profile: lab.profile.name().to_owned(),
        phase: lab.phase.name().to_owned(),
        condition: shield_lab::health::Health::read(lab).condition.name().to_owned(),
        left_secs: lab.left(now).as_secs(),
        url: front.map(|front| front.url(&lab.id)),
    };
    Ok(LabList { labs: state.list()?.iter().map(view).collect() })
}

async fn ban(State(api): Shared, Body(request): Body<BanRequest>) -> Answer<Reply> {
    let command = Command::Ban {
        clients: some_clients(request.clients)?,
        term: asked_term(request.term)?,
        reason: reason(request.reason)?,
        rule: Rule::Operator,
    };
    api.command(command).await
}

async fn unban(State(api): Shared, Body(request): Body<UnbanRequest>) -> Answer<Reply> {
    let (clients, reason) = (some_clients(request.clients)?, reason(request.reason)?);
    let command = match request.here {
        true => Command::TakeBack { clients, reason },
        false => Command::Unban { clients, forget: request.forget, reason },
    };
    api.command(command).await
}

async fn import(State(api): Shared, Body(request): Body<ImportRequest>) -> Answer<Reply> {
    bounded_count("bans", request.bans.len())?;
    let entry = |entry: super::types::ImportEntry| {
        Ok(ImportedBan { client: entry.client, term: asked_term(entry.term)?, reason: reason(entry.reason)? })
    };
    let bans = request.bans.into_iter().map(entry).collect::<Result<Vec<ImportedBan>, ApiError>>()?;
    let refused = if request.all_or_nothing { Refused::StopsAll } else { Refused::LeftOut };
    api.command(Command::Import { bans, refused }).await
}

async fn allow(State(api): Shared, Body(request): Body<AllowRequest>) -> Answer<Reply> {
    if request.secs.is_some_and(|secs| !(1..=MAX_ALLOW_SECS).contains(&secs)) {
        return Err(ApiError::bad_request(format!(
            "`secs` is not between 1 and {MAX_ALLOW_SECS} (366 d); leave it out for no end"
        )));
    }
    let clients = some_clients(request.clients)?;
    api.command(Command::Allow { clients, secs: request.secs, reason: reason(request.reason)? }).await
}

async fn disallow(State(api): Shared, Body(request): Body<DisallowRequest>) -> Answer<Reply> {
    let clients = some_clients(request.clients)?;
    api.command(Command::Disallow { clients, reason: reason(request.reason)? }).await
}

async fn pause(State(api): Shared, Body(request): Body<PauseRequest>) -> Answer<PauseReport> {
    if !(1..=MAX_PAUSE_SECS).contains(&request.secs) {
        return Err(ApiError::bad_request(format!(
            "a pause of {} s is not between 1 s and {MAX_PAUSE_SECS} s; for longer use dry_run = true",
            request.secs
        )));
    }
    let command = Command::Pause { secs: request.secs, reason: reason(request.reason)? };
    api.live.backend().command(command).await?;
    // None when somebody else ended it in between.
    let until_ms = api.live.backend().view().await?.paused_until_ms;
    let until_ms = until_ms.ok_or_else(|| ApiError::bad_request("the pause was ended by another command"))?;
    Ok(Json(PauseReport { until_ms }))
}

async fn resume(State(api): Shared, Body(request): Body<ResumeRequest>) -> Answer<ResumeReport> {
    let reason = reason(request.reason)?;
    let before = api.live.backend().view().await?;
    let Reply { mut results } = api.live.backend().command(Command::Resume { reason }).await?;
    api.in_dry_run(&mut results);
    let (was_paused, was_stopped) = (before.paused_until_ms.is_some(), before.stopped.is_some());
    Ok(Json(ResumeReport { was_paused, was_stopped, results }))
}

async fn fleet(State(api): Shared) -> Answer<FleetView> {
    Ok(Json(api.live.backend().fleet().await?))
}

async fn forget_origin(State(api): Shared, Body(request): Body<OriginRequest>) -> Answer<Reply> {
    let origin = known_origin(&api, &request.origin).await?;
    api.command(Command::ForgetOrigin(origin)).await
}

async fn trust_origin(State(api): Shared, Body(request): Body<OriginRequest>) -> Answer<Reply> {
    let origin = known_origin(&api, &request.origin).await?;
    api.command(Command::TrustOrigin(origin)).await
}

async fn known_origin(api: &Api, name: &str) -> Result<Origin, ApiError> {
    let known = api.live.backend().fleet().await?;
    let is_known = known.origins.iter().any(|origin| origin.name == name);
    let origin = Origin::new(OriginKind::Fleet, name).filter(|_| is_known);
    origin.ok_or_else(|| ApiError::not_found(text::fleet::unknown(name)))
}

/// Over the control socket alone: whoever holds the page's token is not for that somebody who administers the server.
async fn reload(State(api): Shared, Extension(whoami): Extension<Whoami>) -> Answer<ReloadReport> {
    if whoami.transport != Transport::Unix {
        return Err(ApiError::forbidden(
            "the configuration is loaded again over the control socket (`shield-agent reload`) or by SIGHUP",
        ));
    }
    Ok(Json(api.live.backend().reload().await?))
}

async fn canary(State(api): Shared) -> Answer<CanaryReport> {
    Ok(Json(api.live.backend().canary().await?))
}

async fn canary_start(
    State(api): Shared,
    Extension(whoami): Extension<Whoami>,
    Body(request): Body<CanaryRequest>,
) -> Answer<CanaryReport> {
    only_here(&whoami, CANARY_ONLY_HERE)?;
    api.live.backend().start_canary(request).await?.map(Json).map_err(ApiError::bad_request)
}

async fn canary_abort(State(api): Shared, Extension(whoami): Extension<Whoami>) -> Answer<CanaryReport> {
    only_here(&whoami, CANARY_ONLY_HERE)?;
    Ok(Json(api.live.backend().abort_canary().await?))
}

async fn canary_promote(
    State(api): Shared,
    Extension(whoami): Extension<Whoami>,
    Body(request): Body<PromotionRequest>,
) -> Answer<Promotion> {
    only_here(&whoami, CANARY_ONLY_HERE)?;
    Ok(Json(api.live.backend().promote_canary(request.min_observed_secs).await?))
}

async fn record(
    State(api): Shared,
    Extension(whoami): Extension<Whoami>,
    Body(request): Body<ChangeRecord>,
) -> Answer<ChangeRecord> {
    only_here(&whoami, "a change is put on record over the control socket")?;
    let chars = request.text.chars().count();
    if chars == 0 || chars > MAX_CHANGE_CHARS {
        return Err(ApiError::bad_request(format!(
            "`text` has {chars} characters: give 1 to {MAX_CHANGE_CHARS}"
        )));
    }
    api.live.backend().record(Change { step: request.step, text: request.text.clone() });
    Ok(Json(request))
}

/// The longest words about a change.
const MAX_CHANGE_CHARS: usize = 2_000;
const CANARY_ONLY_HERE: &str =
    "a canary is started, ended and promoted over the control socket (`shield-agent canary`)";

/// As for a reload.
fn only_here(whoami: &Whoami, why: &str) -> Result<(), ApiError> {
    if whoami.transport == Transport::Unix { Ok(()) } else { Err(ApiError::forbidden(why)) }
}

async fn labels() -> Json<Labels> {
    Json(convert::labels())
}

async fn allowlist(State(api): Shared) -> Answer<AllowList> {
    let entries = api.live.backend().allowlist().await?;
    Ok(Json(AllowList {
        entries: entries
            .into_iter()
            .map(|(entry, note, until_ms)| convert::noted_entry(&entry, note, until_ms))
            .collect(),
    }))
}

#[derive(Deserialize)]
#[cfg_attr(feature = "test-support", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct ClientsParams {
    /// Number of clients.
    #[serde(default)]
    n: Limit<10>,
}

async fn clients(State(api): Shared, Params(params): Params<ClientsParams>) -> Result<Response, ApiError> {
    Ok(ready_json(api.live.top_json(params.n.0 as usize).await?))
}

#[derive(Deserialize)]
#[cfg_attr(feature = "test-support", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct ExplainParams {
    /// An address or a network.
    client: String,
    /// The moment to explain, milliseconds since the Unix epoch; now if left out. A past moment is explained from the
    /// record of bans.
    at: Option<i64>,
}

async fn explain(
    State(api): Shared,
    Extension(whoami): Extension<Whoami>,
    Params(params): Params<ExplainParams>,
) -> Answer<Explanation> {
    let client: Client = params.client.parse().map_err(|error| ApiError::bad_request(format!("{error}")))?;
    let view = api.live.backend().explain(client, params.at).await?;
    let mut explanation = convert::explanation(view, params.at, api.live.backend().is_dry_run());
    if !whoami.may_change {
        explanation.ban = explanation.ban.map(convert::without_lines);
    }
    Ok(Json(explanation))
}

async fn events(
    State(api): Shared,
    Extension(whoami): Extension<Whoami>,
    headers: HeaderMap,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>> + use<>>, ApiError> {
    let slot = Arc::clone(&api.budget(whoami.transport).streams).try_acquire_owned();
    let slot = slot.map_err(|_| ApiError::too_many_streams(api.settings.max_streams))?;
    let last_id = headers.get("last-event-id").and_then(|id| id.to_str().ok()?.trim().parse().ok());
    let subscription = api.live.feed().subscribe(last_id);
    let snapshots = api.live.snapshots();
    // Without a snapshot, because the engine does not answer, the stream is still worth having for its notices.
    let first = api.live.snapshot().await.ok();
    Ok(Sse::new(EventStream::new(subscription, first.as_deref(), snapshots, slot).into_stream()))
}

#[derive(Deserialize)]
#[cfg_attr(feature = "test-support", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct RecentParams {
    /// Number of events.
    #[serde(default)]
    limit: Limit<100>,
    /// Only events with a smaller id.
    before: Option<u64>,
    /// Only this kind.
    kind: Option<String>,
}

async fn recent_events(State(api): Shared, Params(params): Params<RecentParams>) -> Answer<EventList> {
    if let Some(kind) = params.kind.as_deref().filter(|kind| !text::KINDS.contains(kind)) {
        let kinds = text::KINDS.join(", ");
        return Err(ApiError::bad_request(format!("{kind:?} is no kind of event: use one of {kinds}")));
    }
    let limit = params.limit.0 as usize;
    Ok(Json(api.live.feed().recent(limit, params.before, params.kind.as_deref())))
}

#[derive(Deserialize)]
#[cfg_attr(feature = "test-support", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct HistoryParams {
    /// How far back.
    #[serde(default)]
    range: Range,
}

async fn history(State(api): Shared, Params(params): Params<HistoryParams>) -> Response {
    ready_json(api.live.history(params.range))
}

async fn config(State(api): Shared) -> Answer<ConfigView> {
    Ok(Json(api.live.backend().config().await?))
}

async fn prometheus(State(api): Shared) -> Result<Response, ApiError> {
    let reading = api.live.reading().await?;
    let backend = api.live.backend();
    let live = LiveNumbers { has_canary: backend.has_canary(), latencies: backend.latencies() };
    let text =
        reading.metrics(|reading| metrics::render(reading, &api.live.feed().counts(), api.counts(), &live));
    Ok(([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response())
}

/// For load balancers and service managers: 200 while lines are judged and bans are made, otherwise 503 with the reason.
async fn healthz(State(api): Shared) -> Response {
    let stalled = api.live.backend().stalled();
    let text = ([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], health_text(&stalled));
    if stalled.is_empty() {
        text.into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
    }
}

fn health_text(stalled: &[(String, String)]) -> String {
    if stalled.is_empty() {
        return "ok\n".to_owned();
    }
    stalled.iter().map(|(part, reason)| format!("{part}: {}\n", text::printable(reason))).collect()
}

/// The length of a list: 1 to [`MAX_LIMIT`].
#[derive(Deserialize)]
#[serde(try_from = "u32")]
struct Limit<const DEFAULT: u32>(u32);

impl<const DEFAULT: u32> Default for Limit<DEFAULT> {
    fn default() -> Self {
        Limit(DEFAULT)
    }
}

impl<const DEFAULT: u32> TryFrom<u32> for Limit<DEFAULT> {
    type Error = String;

    fn try_from(limit: u32) -> Result<Self, String> {
        let is_in_bounds = (1..=MAX_LIMIT).contains(&limit);
        is_in_bounds
            .then_some(Limit(limit))
            .ok_or_else(|| format!("{limit} is not between 1 and {MAX_LIMIT}"))
    }
}

#[cfg(feature = "test-support")]
impl<const DEFAULT: u32> schemars::JsonSchema for Limit<DEFAULT> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Limit".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({"type": "integer", "minimum": 1, "maximum": MAX_LIMIT, "default": DEFAULT})
    }
}

fn some_clients(clients: Vec<Client>) -> Result<Vec<Client>, ApiError> {
    bounded_count("clients", clients.len())?;
    Ok(clients)
}

fn bounded_count(field: &str, count: usize) -> Result<(), ApiError> {
    if (1..=MAX_CLIENTS_PER_REQUEST).contains(&count) {
        return Ok(());
    }
    Err(ApiError::bad_request(format!(
        "`{field}` holds {count} entries; send 1 to {MAX_CLIENTS_PER_REQUEST}"
    )))
}

fn asked_term(term: Term) -> Result<Option<backoff::Term>, ApiError> {
    match term {
        Term::Next => Ok(None),
        Term::Permanent => Ok(Some(backoff::Term::Permanent)),
        Term::Secs(secs) if (1..=MAX_TERM_SECS).contains(&secs) => Ok(Some(backoff::Term::Secs(secs))),
        Term::Secs(secs) => Err(ApiError::bad_request(format!(
            "a term of {secs} s is not between 1 s and {MAX_TERM_SECS} s; use \"permanent\" for a ban without an end"
        ))),
    }
}

fn reason(given: Option<String>) -> Result<Option<String>, ApiError> {
    let given = given.map(|text| text.trim().to_owned()).filter(|text| !text.is_empty());
    if given.as_ref().is_some_and(|text| text.chars().count() > MAX_REASON_CHARS) {
        return Err(ApiError::bad_request(format!("`reason` is longer than {MAX_REASON_CHARS} characters")));
    }
    Ok(given)
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            max_requests: 64,
            request_timeout: Duration::from_secs(10),
            max_streams: 256,
            limits: super::listen::Limits::default(),
            history_path: None,
        }
    }
}
