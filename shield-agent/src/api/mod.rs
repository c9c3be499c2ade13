//! The HTTP API: `/api/v1`, its event stream and `/metrics` and `/healthz`, on the Unix control socket and, with the page, on TCP.
//!
//! `backend` is what it needs from the rest of the agent; `types` is its JSON (`docs/openapi.json`); `auth` authorises;
//! `operation` is the table of paths and `routes` their handlers; `live` shares one reading of the engine among all requests;
//! `listen` bounds what clients can take. The engine never waits for anything here (invariant 7).

pub(crate) mod auth;
pub(crate) mod backend;
pub(crate) mod convert;
#[cfg(feature = "test-support")]
pub(crate) mod document;
pub(crate) mod error;
pub(crate) mod events;
mod export;
pub(crate) mod feed;
pub(crate) mod history;
pub(crate) mod listen;
pub(crate) mod live;
pub(crate) mod metrics;
pub(crate) mod operation;
mod posture;
pub(crate) mod priority;
pub(crate) mod routes;
pub(crate) mod samples;
pub(crate) mod socket;
pub(crate) mod stream;
pub(crate) mod token;
mod top;
pub(crate) mod types;
pub(crate) mod vitals;

use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use axum::{Router, middleware};
use futures::FutureExt;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

use self::auth::{Names, TcpAuth};
use self::backend::Backend;
use self::feed::Feed;
use self::live::Live;
use self::routes::Api;
use self::socket::ControlSocket;
use self::token::Token;
use crate::address_owner::AddressOwners;
use crate::beat::{Beat, panic_text};
use crate::text;
use shield_engine::event::{PartReport, PartState};

/// The part whose state is that of the runtime.
const PART: &str = "api";

/// The pause before the live state goes on after a panic.
const RESTART: Duration = Duration::from_secs(5);

/// The default path of the control socket.
pub(crate) const DEFAULT_SOCKET: &str = "/run/shield/control.sock";

/// In the state directory.
pub(crate) const TOKEN_FILE: &str = "api-token";

/// In the state directory.
pub(crate) const HISTORY_FILE: &str = "history.json";

/// Settings of the API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Requests handled at the same time over TCP, 1 or more, and as many over control sockets; others wait.
    pub max_requests: usize,
    /// Time limit of a request, including its wait.
    pub request_timeout: Duration,
    /// Event streams at the same time over TCP, and as many over control sockets.
    pub max_streams: usize,
    /// Limits of each listener's connections.
    pub limits: listen::Limits,
    /// The file that keeps the history of the plots across restarts; `None` keeps it in memory only.
    pub history_path: Option<PathBuf>,
}

/// The API before it listens: control sockets are added, then [`Server::run`] serves them. Listeners on TCP come from
/// [`Server::door`], and serve by themselves.
pub struct Server {
    live: Arc<Live>,
    api: Arc<Api>,
    limits: listen::Limits,
    unix: Vec<ControlSocket>,
    watched: Option<Watched>,
}

/// Who hears of the live state's task.
struct Watched {
    beat: Beat,
    report: Box<dyn FnMut(PartReport) + Send>,
}

impl Server {
    /// An API over `backend`; notices come through `feed`.
    pub fn new(backend: Arc<dyn Backend>, feed: Arc<Feed>, settings: Settings) -> Server {
        let live = Arc::new(Live::new(backend, feed, settings.history_path.clone()));
        let limits = settings.limits;
        let api = Arc::new(Api::new(Arc::clone(&live), settings));
        Server { live, api, limits, unix: Vec::new(), watched: None }
    }

    /// Serves a control socket as well.
    pub fn add_control_socket(&mut self, socket: ControlSocket) {
        self.unix.push(socket);
    }

    /// What the databases of addresses are put into.
    pub(crate) fn address_owners(&self) -> Arc<AddressOwners> {
        self.api.owners()
    }

    /// Has the runtime's own task watched, and its panics reported.
    pub(crate) fn watch(&mut self, beat: Beat, report: impl FnMut(PartReport) + Send + 'static) {
        self.watched = Some(Watched { beat, report: Box::new(report) });
    }

    /// What makes listeners on TCP, also while the server runs.
    pub fn door(&self) -> Door {
        Door { api: Arc::clone(&self.api), limits: self.limits }
    }

    /// Serves until `stop` is true, then gives requests in progress half a second to finish.
    pub async fn run(self, stop: watch::Receiver<bool>) {
        let mut tasks = JoinSet::new();
        let router = routes::router(&self.api).layer(middleware::from_fn(auth::unix));
        let unix_router = routes::finish(router, &self.api);
        for socket in self.unix {
            tasks.spawn(listen::serve_unix(socket, unix_router.clone(), self.limits, stop.clone()));
        }
        tasks.spawn(run_live(self.live, self.watched, stop));
        while let Some(ended) = tasks.join_next().await {
            // Whoever waits for this task learns of it: a listener that has panicked serves nobody.
            if let Err(error) = ended
                && error.is_panic()
            {
                std::panic::resume_unwind(error.into_panic());
            }
        }
    }
}

/// Samples and sends snapshots until `stop` is true. After a panic it goes on, because the API answers without it.
async fn run_live(live: Arc<Live>, mut watched: Option<Watched>, stop: watch::Receiver<bool>) {
    let beat = watched.as_ref().map(|watched| watched.beat.clone());
    while let Err(payload) = AssertUnwindSafe(live.run(stop.clone(), beat.as_ref())).catch_unwind().await {
        let mut report = |state| {
            if let Some(watched) = &mut watched {
                (watched.report)(PartReport { part: PART.to_owned(), state, repaired: None });
            }
        };
        let reason = text::health::restarted(panic_text(&*payload), RESTART.as_secs());
        report(PartState::Degraded { reason });
        beat.iter().for_each(|beat| beat.resting(RESTART));
        tokio::time::sleep(RESTART).await;
        report(PartState::Active { detail: text::health::running() });
    }
}

/// Makes listeners on TCP for a server.
#[derive(Clone)]
pub struct Door {
    api: Arc<Api>,
    limits: listen::Limits,
}

/// A listener on TCP that serves once it is run.
pub struct Bound {
    pub addr: SocketAddr,
    /// The host names it answers to, which can change while it serves.
    pub(crate) names: Names,
    listener: TcpListener,
    router: Router,
    limits: listen::Limits,
}

impl Door {
    /// Binds `addr`, with `page` at `/`. Changes need `token`; reads need it too when `addr` is not loopback.
    pub async fn bind(
        &self,
        addr: SocketAddr,
        token: Token,
        hosts: &[String],
        page: Router,
    ) -> Result<Bound> {
        let listener = TcpListener::bind(addr).await.with_context(|| {
            format!(
                "could not listen on {addr} for the page and the API; set another `listen` in [page] if it is taken"
            )
        })?;
        let addr = listener.local_addr().context("could not read the address that the API is bound to")?;
        let auth = Arc::new(TcpAuth::new(token, addr, hosts));
        let names = auth.names();
        let router =
            routes::router(&self.api).merge(page).layer(middleware::from_fn_with_state(auth, auth::tcp));
        let router = routes::finish(router, &self.api);
        Ok(Bound { addr, names, listener, router, limits: self.limits })
    }
}

impl Bound {
    /// Serves until `stop` is true.
    pub async fn serve(self, stop: watch::Receiver<bool>) {
        listen::serve_tcp(self.listener, self.router, self.limits, stop).await;
    }
}
