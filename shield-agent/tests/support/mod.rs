//! An API over a fake backend, on a free port and on a socket in a temporary directory. Each test file uses a part.

pub(crate) mod schema;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use serde_json::{Value, json};
use shield_agent::test_support::api::backend::{
    AgentView, AllowedRow, Answer as Later, Backend, BanQuery, BanRow, BanRows, ClientView, Mode, Refusal,
    SiteView, TopClient, TopClients,
};
use shield_agent::test_support::api::feed::Feed;
use shield_agent::test_support::api::listen::Limits;
use shield_agent::test_support::api::samples::Sampled;
use shield_agent::test_support::api::socket::ControlSocket;
use shield_agent::test_support::api::token::Token;
use shield_agent::test_support::api::types::{
    CanaryReport, CanaryRequest, ClientState, ConfigView, FleetOrigin, FleetView, Offences, PastBan,
    Promotion, ReloadOutcome, ReloadReport, Trust,
};
use shield_agent::test_support::api::{Server, Settings};
use shield_agent::test_support::cli::client::{AgentClient, Endpoint};
use shield_agent::test_support::clock;
use shield_agent::test_support::edge::EdgeList;
use shield_agent::test_support::enforce::Drops;
use shield_agent::test_support::sites::{Counts, SiteCounts};
use shield_agent::test_support::source::{Backlog, Rate, Snapshot};
use shield_engine::action::{BanRecord, CommandResult, LiftReason, Notice, Reply, Totals};
use shield_engine::allowlist::{AllowReason, Allowed};
use shield_engine::ban::Ban;
use shield_engine::client::Client;
use shield_engine::event::{Command, EnforcerName, PartReport, PartState};
use shield_engine::report::{
    BaselineView, ClientSummary, DetectorStatus, Explanation, RuleView, ServerRates,
};
use shield_engine::time::Ends;
use shield_engine::verdict::{Evidence, Measure, PathCount, Rule};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// The token of the API under test.
pub(crate) const TOKEN: &str = "0123456789abcdef0123456789abcdef";

/// Number of bans in the backend.
pub(crate) const BANS: usize = 5;

/// The settings that a test can change.
pub(crate) struct Setup {
    pub listen: &'static str,
    pub limits: Limits,
    pub request_timeout: Duration,
    pub max_streams: usize,
}

impl Default for Setup {
    fn default() -> Setup {
        let usual = Settings::default();
        Setup {
            listen: "127.0.0.1:0",
            limits: usual.limits,
            request_timeout: usual.request_timeout,
            max_streams: usual.max_streams,
        }
    }
}

/// A running API. Dropping it stops it.
pub(crate) struct Running {
    pub backend: Arc<FakeBackend>,
    pub feed: Arc<Feed>,
    pub tcp: SocketAddr,
    socket: std::path::PathBuf,
    stop: watch::Sender<bool>,
    serving: JoinHandle<()>,
    _dir: tempfile::TempDir,
}

impl Setup {
    pub(crate) async fn start(self) -> Running {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("control.sock");
        let backend = Arc::new(FakeBackend::default());
        let feed = Arc::new(Feed::new(clock::now()));
        let settings = Settings {
            limits: self.limits,
            request_timeout: self.request_timeout,
            max_streams: self.max_streams,
            history_path: Some(dir.path().join("history.json")),
            ..Settings::default()
        };
        let mut server = Server::new(Arc::clone(&backend) as Arc<dyn Backend>, Arc::clone(&feed), settings);
        server.add_control_socket(ControlSocket::bind(&socket).unwrap());
        let page = Router::new().route("/", get(async || "the page"));
        let hosts = ["shield.example.org".to_owned()];
        let addr = self.listen.parse().unwrap();
        let bound = server.door().bind(addr, Token::of(TOKEN), &hosts, page).await.unwrap();
        let tcp = SocketAddr::new([127, 0, 0, 1].into(), bound.addr.port());
        let (stop, stopped) = watch::channel(false);
        tokio::spawn(bound.serve(stopped.clone()));
        let serving = tokio::spawn(server.run(stopped));
        Running { backend, feed, tcp, socket, stop, serving, _dir: dir }
    }
}

impl Running {
    pub(crate) fn unix_client(&self) -> AgentClient {
        AgentClient::new(Endpoint::Unix(self.socket.clone()))
    }

    pub(crate) fn socket(&self) -> &std::path::Path {
        &self.socket
    }

    pub(crate) fn publish_some_notices(&self) {
        let now = clock::now();
        for row in ban_rows().into_iter().take(2) {
            self.feed.publish(&Notice::Banned(Box::new(row.record)), now);
        }
        let condition = "z-score=9.00 > threshold=3.0".to_owned();
        self.feed
            .publish(&Notice::GlobalAnomalyStarted { condition, rate: 9.0, mean: 1.0, stddev: 0.5 }, now);
        self.feed.publish(&Notice::Degraded { part: "xdp".into(), reason: "no driver".into() }, now);
    }

    pub(crate) async fn stop(self) {
        self.stop.send(true).unwrap();
        self.serving.await.unwrap();
        assert!(!self.socket.exists(), "the socket is removed");
    }
}

/// An HTTP answer.
pub(crate) struct Answer {
    pub status: u16,
    pub body: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }
}

/// One request over TCP to `/api/v1` + `target`.
pub(crate) async fn request(
    running: &Running,
    method: &str,
    target: &str,
    body: Option<&Value>,
    token: Option<&str>,
) -> Answer {
    let body = body.map(Value::to_string).unwrap_or_default();
    let token = token.map(|token| format!("authorization: Bearer {token}\r\n")).unwrap_or_default();
    let content = format!("content-type: application/json\r\ncontent-length: {}\r\n", body.len());
    let method = method.to_uppercase();
    let head = format!("{method} /api/v1{target} HTTP/1.1\r\nhost: localhost\r\n{token}{content}\r\n");
    let answer = raw(running, &format!("{head}{body}")).await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    Answer { status: status.unwrap_or_else(|| panic!("no status in {answer:?}")), body: body.to_owned() }
}

/// Writes `text` to a new connection and returns the answer, head and body.
pub(crate) async fn raw(running: &Running, text: &str) -> String {
    let mut stream = TcpStream::connect(running.tcp).await.unwrap();
    let text = text.replacen("\r\n\r\n", "\r\nconnection: close\r\n\r\n", 1);
    // A refusal may come, and the connection close, before a large body is written.
    let _ = stream.write_all(text.as_bytes()).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}

/// Answers from constants and records the commands.
#[derive(Default)]
pub(crate) struct FakeBackend {
    commands: Mutex<Vec<Command>>,
    views: AtomicU64,
    trouble: Mutex<Option<Trouble>>,
    edge: Mutex<EdgeList>,
    edge_lists: AtomicU64,
}

enum Trouble {
    Hangs,
    Fails(&'static str),
}

impl FakeBackend {
    pub(crate) fn commands(&self) -> Vec<Command> {
        self.commands.lock().unwrap().clone()
    }

    pub(crate) fn views(&self) -> u64 {
        self.views.load(Ordering::Relaxed)
    }

    /// Hands out these clients from now on.
    pub(crate) fn hand_out(&self, clients: &[&str]) {
        let mut edge = self.edge.lock().unwrap();
        edge.version += 1;
        edge.clients = clients.iter().map(|client| client.parse().unwrap()).collect();
    }

    /// How often the list was copied.
    pub(crate) fn edge_lists(&self) -> u64 {
        self.edge_lists.load(Ordering::Relaxed)
    }

    pub(crate) fn hang(&self) {
        *self.trouble.lock().unwrap() = Some(Trouble::Hangs);
    }

    pub(crate) fn fail(&self, words: &'static str) {
        *self.trouble.lock().unwrap() = Some(Trouble::Fails(words));
    }

    /// The end of the pause that was asked for last, unless it was ended since.
    fn paused_until_ms(&self, now_ms: i64) -> Option<i64> {
        let commands = self.commands.lock().unwrap();
        let latest = commands.iter().rev().find_map(|command| match command {
            Command::Pause { secs, .. } => Some(Some(now_ms + 1000 * secs.cast_signed())),
            Command::Resume { .. } => Some(None),
            _ => None,
        });
        latest.flatten()
    }

    fn later<T: Send + 'static>(&self, answer: T) -> Later<'_, T> {
        match &*self.trouble.lock().unwrap() {
            Some(Trouble::Hangs) => Box::pin(std::future::pending()),
            Some(Trouble::Fails(words)) => {
                let words = *words;
                Box::pin(async move { Err(Refusal::Internal(anyhow::anyhow!(words))) })
            }
            None => Box::pin(async move { Ok(answer) }),
        }
    }
}

impl Backend for FakeBackend {
    fn samples(&self) -> Vec<Sampled> {
        let rates = ServerRates { requests: 4.2, errors: 0.2, of_banned: 0.0, mean: 4.0, stddev: 1.0 };
        vec![Sampled { now: clock::now(), rates, bans: BANS as u64, drops: Vec::new() }]
    }

    fn view(&self) -> Later<'_, AgentView> {
        self.views.fetch_add(1, Ordering::Relaxed);
        let now = clock::now();
        self.later(AgentView {
            now,
            started_ms: now.wall_ms - 60_000,
            mode: Mode::Enforcing,
            parts: parts(),
            detector: detector_status(),
            profile: "default".into(),
            reference: "adaptive".into(),
            max_clients: 1_000_000,
            totals: Totals { requests: 100, errors: 5, rejected: 1, salvaged: 0, bans: 7, lifts: 2 },
            rejected: [1, 0, 0, 0, 0, 0],
            bans: BANS as u64,
            permanent_bans: 1,
            slowed: 0,
            slowed_total: 0,
            stopped: Some("21 % of the clients".to_owned()),
            paused_until_ms: self.paused_until_ms(now.wall_ms),
            withheld: Vec::new(),
            withheld_total: 0,
            leaking: 0,
            store_backlog: 0,
            cloudflare: None,
            fleet: None,
            blocklists: Default::default(),
            sources: sources(),
            drops: vec![
                (EnforcerName::Iptables, Drops { packets: 10, bytes: 600 }),
                (EnforcerName::Xdp, Drops { packets: 20, bytes: 1_200 }),
            ],
        })
    }

    fn bans(&self, query: BanQuery) -> Later<'_, BanRows> {
        let rows = ban_rows();
        let total = rows.len() as u64;
        let rows = rows.into_iter().skip(query.offset as usize).take(query.limit as usize).collect();
        self.later(BanRows { rows, total, slowed: Vec::new(), now: clock::now() })
    }

    fn sites(&self) -> Later<'_, SiteView> {
        let counts = |requests| Counts { requests, client_errors: 2, in_minute: 3, ..Counts::default() };
        let named = [("shop.example.org".to_owned(), counts(9)), ("blog.example.org".to_owned(), counts(20))];
        self.later(SiteView {
            requests: SiteCounts { named: named.into(), unnamed: counts(4), ..SiteCounts::default() },
            bans: [("old.example.org".to_owned(), 2)].into(),
            now: clock::now(),
        })
    }

    fn top(&self, n: usize) -> Later<'_, TopClients> {
        let states = [ClientState::Banned, ClientState::Normal, ClientState::Anomalous, ClientState::Allowed];
        let client = |(at, state): (usize, ClientState)| TopClient {
            summary: ClientSummary {
                client: format!("192.0.2.{at}").parse().unwrap(),
                requests: 90,
                errors: 3,
                rate: 1.5,
                z_score: -0.25,
            },
            state,
        };
        let clients = states.into_iter().enumerate().map(client).take(n).collect();
        self.later(TopClients { clients, now: clock::now() })
    }

    fn explain(&self, client: Client, _at_ms: Option<i64>) -> Later<'_, ClientView> {
        let past = PastBan {
            serial: 3,
            since_ms: 1_000,
            ended_ms: 2_000,
            rule: Rule::Probing,
            lifted: LiftReason::Operator,
            reason: Some("a colleague".into()),
        };
        self.later(ClientView {
            detector: explanation(client),
            ban: ban_rows().into_iter().find(|row| row.record.ban.client == client),
            slowed: None,
            wanted_by: Vec::new(),
            allowed: vec![Allowed {
                network: "198.51.100.0/24".parse().unwrap(),
                reason: AllowReason::Operator,
            }],
            proxy: None,
            offences: Offences { count: 2, last_ms: Some(1_000) },
            history: vec![past],
            now: clock::now(),
        })
    }

    fn start_canary(&self, _: CanaryRequest) -> Later<'_, Result<CanaryReport, String>> {
        self.later(Ok(CanaryReport::default()))
    }

    fn promote_canary(&self, _: Option<u64>) -> Later<'_, Promotion> {
        let report = CanaryReport::default();
        self.later(Promotion { report, text: Some(String::new()), base: "00".into() })
    }

    fn fleet(&self) -> Later<'_, FleetView> {
        let origin = FleetOrigin {
            name: "web-2".into(),
            heard_ms: 1_000,
            heard_secs_ago: 4,
            bans: 3,
            counted: 2,
            trust: Trust::Limited,
            vetoed: 1,
            refused_networks: 0,
        };
        self.later(FleetView { name: Some("web-1".into()), origins: vec![origin], ..FleetView::default() })
    }

    fn allowlist(&self) -> Later<'_, Vec<AllowedRow>> {
        self.later(vec![
            (Allowed { network: "127.0.0.0/8".parse().unwrap(), reason: AllowReason::Special }, None, None),
            (
                Allowed { network: "2001:db8::1/128".parse().unwrap(), reason: AllowReason::Gateway },
                None,
                None,
            ),
        ])
    }

    fn command(&self, command: Command) -> Later<'_, Reply> {
        let clients = match &command {
            Command::Ban { clients, .. }
            | Command::Unban { clients, .. }
            | Command::TakeBack { clients, .. }
            | Command::Allow { clients, .. }
            | Command::Disallow { clients, .. } => clients.clone(),
            Command::Import { bans, .. } => bans.iter().map(|ban| ban.client).collect(),
            Command::ForgetOrigin(_)
            | Command::TrustOrigin(_)
            | Command::Pause { .. }
            | Command::Resume { .. } => Vec::new(),
        };
        self.commands.lock().unwrap().push(command);
        let done = |client: Client| {
            let is_own = client == "127.0.0.1".parse().unwrap();
            let message = if is_own { "not banned: a loopback address" } else { "done" };
            CommandResult { client, ok: !is_own, message: message.into() }
        };
        self.later(Reply { results: clients.into_iter().map(done).collect() })
    }

    fn reload(&self) -> Later<'_, ReloadReport> {
        self.later(ReloadReport {
            outcome: ReloadOutcome::Changed,
            file: Some("/etc/shield/shield.toml".into()),
            changed: vec!["[ban] max_bans: 1 -> 2".into()],
            restart: Vec::new(),
            failed: Vec::new(),
            mistakes: Vec::new(),
            lifted: 0,
        })
    }

    fn edge_version(&self) -> u64 {
        self.edge.lock().unwrap().version
    }

    fn edge_list(&self) -> Later<'_, EdgeList> {
        self.edge_lists.fetch_add(1, Ordering::Relaxed);
        let list = self.edge.lock().unwrap().clone();
        self.later(list)
    }

    fn config(&self) -> Later<'_, ConfigView> {
        let settings = json!({"slack": {"webhook": "(set)"}, "detector": {"z_threshold": 3.0}});
        self.later(ConfigView { path: Some("/etc/shield/shield.toml".into()), settings })
    }
}

fn parts() -> Vec<PartReport> {
    let part = |part: &str, state| PartReport { part: part.into(), state, repaired: None };
    vec![
        part("iptables", PartState::Active { detail: "rules, 5 clients".into() }),
        part("xdp", PartState::Degraded { reason: "no driver support".into() }),
        part("source:/var/log/nginx/access.log", PartState::Waiting { reason: "not there yet".into() }),
        part("slack", PartState::Off { reason: "no webhook configured".into() }),
    ]
}

fn sources() -> Vec<Snapshot> {
    vec![Snapshot {
        source: "/var/log/nginx/access.log".into(),
        lines: 99,
        bytes: 20_000,
        salvaged: 0,
        rejected: [1, 0, 0, 0, 0, 0],
        backlog: Some(Backlog { bytes: 3 << 20, logs: 1 }),
        last_line_secs: Some(1_795_530_901),
        recent: Rate { lines: 120, refused: 6, lines_per_sec: 2.0 },
        trouble: None,
        format: Some("combined"),
    }]
}

fn baseline() -> BaselineView {
    BaselineView { source: "rolling".into(), mean: 1.0, stddev: 0.5, error_mean: 0.1, samples: 1_800 }
}

fn detector_status() -> DetectorStatus {
    let mut hours = vec![None; 24];
    hours[7] = Some((1.5, 0.5));
    DetectorStatus {
        warming_up: true,
        warm_up_left_secs: 40,
        global_rate: 2.5,
        global_error_rate: 0.2,
        banned_rate: 1.0,
        seconds: vec![(3, 0), (2, 2)],
        global: baseline(),
        clients: baseline(),
        global_anomaly: true,
        frozen: true,
        hour_slots: 1,
        hours,
        clients_tracked: 4,
        evicted: 0,
        late: 0,
        clients_bytes: 400,
        latest_secs: 1_800_000_000,
    }
}

fn measure() -> Measure {
    Measure { name: "failed_paths_60s".into(), value: 12.0, threshold: 10.0 }
}

fn explanation(client: Client) -> Explanation {
    Explanation {
        client,
        at_secs: 1_800_000_000,
        known: true,
        window_secs: 60,
        requests: 90,
        errors: 80,
        rate: 1.5,
        baseline: baseline(),
        account: Vec::new(),
        rules: vec![
            RuleView { rule: Rule::Probing, fires: true, not_asked: None, measures: vec![measure()] },
            RuleView {
                rule: Rule::ZScore,
                fires: false,
                not_asked: Some("warming up".into()),
                measures: Vec::new(),
            },
        ],
        top_paths: vec![PathCount { path: "/<script>".into(), count: 3 }],
    }
}

/// A line of the log that is kept with every ban.
pub(crate) const SECRET_LINE: &str = "192.0.2.7 - - [x] GET /reset?token=secret 404";

fn evidence() -> Evidence {
    Evidence {
        rule: Rule::Probing,
        condition: "failed_paths_60s=12 > threshold=10".into(),
        rate: 1.5,
        mean: 0.1,
        stddev: 0.1,
        z_score: 14.0,
        threshold: 10.0,
        tightened: false,
        baseline: "rolling".into(),
        window_secs: 60,
        requests: 90,
        errors: 80,
        measures: vec![measure()],
        top_paths: vec![PathCount { path: "/.env".into(), count: 7 }],
        account: Vec::new(),
        lines: vec![SECRET_LINE.to_owned()],
        sites: vec!["shop.example.org".into()],
        policy: None,
        observe: None,
        at_secs: 1_800_000_000,
    }
}

/// Bans of every kind: with and without evidence, reason, end, counters.
pub(crate) fn ban_rows() -> Vec<BanRow> {
    let now = clock::now();
    let row = |at: usize| BanRow {
        record: BanRecord {
            ban: Ban {
                client: format!("192.0.2.{at}").parse().unwrap(),
                serial: at as u64 + 1,
                since_ms: now.wall_ms - 1_000,
                ends: if at == 4 { Ends::Never } else { Ends::after(now, 600_000) },
                offence: std::num::NonZeroU32::new(at as u32),
                rule: if at == 0 { Rule::Operator } else { Rule::Probing },
                place: shield_engine::ban::Place::Everywhere,
            },
            reason: (at == 0).then(|| "scraping".to_owned()),
            evidence: (at != 0).then(|| Box::new(evidence())),
        },
        drops: (at == 1).then_some(Drops { packets: 9, bytes: 540 }),
        leaking: (at == 2).then_some(3),
        held_by: (at == 1).then(|| vec![EnforcerName::Iptables, EnforcerName::Xdp]),
    };
    (0..BANS).map(row).collect()
}
