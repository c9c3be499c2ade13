//! Requests to the API, as whoever may use it sends them: nothing but a sound command reaches the engine, and each refusal is JSON
//! with words.

use std::cell::RefCell;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{Method, Request, StatusCode, Uri};
use shield_agent::test_support::api::backend::{
    AgentView, AllowedRow, Answer, Backend, BanQuery, BanRows, ClientView, Refusal, TopClients,
};
use shield_agent::test_support::api::operation::Operation;
use shield_agent::test_support::api::samples::Sampled;
use shield_agent::test_support::api::types::{ConfigView, FleetView, ReloadReport};
use shield_agent::test_support::edge::EdgeList;
use shield_agent::test_support::fuzz;
use shield_engine::action::{CommandResult, Reply};
use shield_engine::backoff::Term;
use shield_engine::client::Client;
use shield_engine::event::Command;
use tokio::runtime::{Builder, Runtime};
use tower::ServiceExt as _;

const MOST_CLIENTS: usize = 10_000;
const LONGEST_SECS: u64 = 3_155_760_000;
const LONGEST_ALLOWED_SECS: u64 = 366 * 86_400;
const LONGEST_REASON: usize = 1000;
const MOST_BYTES: usize = 1 << 20;

/// # Panics
/// When an answer is an internal error or not JSON, or a command breaks a limit of the API.
pub fn check(data: &[u8]) {
    let Some((first, rest)) = data.split_first() else { return };
    let operation = Operation::ALL[usize::from(*first) % Operation::ALL.len()];
    if matches!(operation, Operation::Events | Operation::Whoami) {
        return;
    }
    let is_post = operation.method() == Method::POST;
    let mut path = format!("/api/v1{}", operation.path());
    if !is_post {
        path = format!("{path}?{}", String::from_utf8_lossy(rest));
    }
    let Ok(uri) = path.parse::<Uri>() else { return };
    let request = Request::builder().method(operation.method()).uri(uri);
    let request = request.header("content-type", "application/json");
    let body = if is_post { Body::from(rest.to_vec()) } else { Body::empty() };
    let request = request.body(body).expect("the parts are valid");
    API.with_borrow(|api| {
        let (status, answer) = api.runtime.block_on(async {
            let response = api.router.clone().oneshot(request).await.expect("a router always answers");
            let status = response.status();
            (status, to_bytes(response.into_body(), MOST_BYTES).await.expect("the answer is bounded"))
        });
        assert_ne!(status, StatusCode::INTERNAL_SERVER_ERROR, "{}", String::from_utf8_lossy(&answer));
        if !status.is_success() {
            let refusal: serde_json::Value = serde_json::from_slice(&answer).expect("a refusal is JSON");
            assert!(refusal.to_string().len() > 20, "{refusal}");
        }
        let commands = std::mem::take(&mut *api.backend.commands.lock().expect("one thread"));
        assert!(is_post || commands.is_empty(), "a question changes nothing");
        assert!(status.is_success() || commands.len() <= 1, "{status}");
        commands.iter().for_each(check_command);
    });
}

fn check_command(command: &Command) {
    let is_sound = match command {
        Command::Ban { clients, term, reason, .. } => {
            are_bounded(clients.len()) && term.is_none_or(is_bounded) && is_short(reason)
        }
        Command::Unban { clients, reason, .. }
        | Command::TakeBack { clients, reason }
        | Command::Disallow { clients, reason } => are_bounded(clients.len()) && is_short(reason),
        Command::Allow { clients, reason, secs } => {
            let is_bounded = secs.is_none_or(|secs| (1..=LONGEST_ALLOWED_SECS).contains(&secs));
            are_bounded(clients.len()) && is_bounded && is_short(reason)
        }
        Command::Import { bans, .. } => {
            are_bounded(bans.len())
                && bans.iter().all(|ban| ban.term.is_none_or(is_bounded) && is_short(&ban.reason))
        }
        Command::Pause { secs, reason } => *secs > 0 && is_short(reason),
        Command::Resume { reason } => is_short(reason),
        Command::ForgetOrigin(_) | Command::TrustOrigin(_) => false,
    };
    assert!(is_sound, "{command:?}");
}

fn are_bounded(clients: usize) -> bool {
    (1..=MOST_CLIENTS).contains(&clients)
}

fn is_bounded(term: Term) -> bool {
    match term {
        Term::Permanent => true,
        Term::Secs(secs) => (1..=LONGEST_SECS).contains(&secs),
    }
}

fn is_short(reason: &Option<String>) -> bool {
    reason.as_ref().is_none_or(|reason| reason.chars().count() <= LONGEST_REASON)
}

struct Api {
    runtime: Runtime,
    router: Router,
    backend: Arc<Recorder>,
}

thread_local! {
    static API: RefCell<Api> = RefCell::new(Api::new());
}

impl Api {
    fn new() -> Api {
        let runtime = Builder::new_current_thread().enable_time().build().expect("a runtime can be made");
        let backend = Arc::new(Recorder::default());
        let of_router = Arc::clone(&backend) as Arc<dyn Backend>;
        Api { router: runtime.block_on(async { fuzz::router(of_router) }), runtime, backend }
    }
}

/// Takes commands, and knows nothing: what the routes make of an engine's answers depends on no input.
#[derive(Default)]
struct Recorder {
    commands: Mutex<Vec<Command>>,
}

fn nothing<T: Send + 'static>() -> Answer<'static, T> {
    Box::pin(async { Err(Refusal::Unavailable("the engine is not there".to_owned())) })
}

impl Backend for Recorder {
    fn samples(&self) -> Vec<Sampled> {
        Vec::new()
    }

    fn view(&self) -> Answer<'_, AgentView> {
        nothing()
    }

    fn bans(&self, _: BanQuery) -> Answer<'_, BanRows> {
        nothing()
    }

    fn top(&self, _: usize) -> Answer<'_, TopClients> {
        nothing()
    }

    fn explain(&self, _: Client, _: Option<i64>) -> Answer<'_, ClientView> {
        nothing()
    }

    fn allowlist(&self) -> Answer<'_, Vec<AllowedRow>> {
        nothing()
    }

    fn command(&self, command: Command) -> Answer<'_, Reply> {
        let clients = match &command {
            Command::Ban { clients, .. } | Command::Unban { clients, .. } => clients.clone(),
            _ => Vec::new(),
        };
        self.commands.lock().expect("one thread").push(command);
        let done = |client| CommandResult { client, ok: true, message: "done".to_owned() };
        Box::pin(async move { Ok(Reply { results: clients.into_iter().map(done).collect() }) })
    }

    fn reload(&self) -> Answer<'_, ReloadReport> {
        nothing()
    }

    fn config(&self) -> Answer<'_, ConfigView> {
        nothing()
    }

    fn edge_version(&self) -> u64 {
        0
    }

    fn edge_list(&self) -> Answer<'_, EdgeList> {
        nothing()
    }

    fn fleet(&self) -> Answer<'_, FleetView> {
        nothing()
    }
}
