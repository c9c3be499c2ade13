//! Accepts connections and serves HTTP/1 on them, with limits on their number, on the time of a request's head, and on the
//! time that an answer waits for its reader, so that 200 slow clients do not starve others.

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio_io_timeout::TimeoutStream;
use tower::ServiceExt;

use super::auth::Peer;
use super::socket::ControlSocket;

/// The limits of one listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Open connections; further ones are closed at once. Above 200, so that as many slow ones leave room for others.
    pub max_connections: usize,
    /// Time limit for the head of a request, also for the first and the next one of a connection kept alive.
    pub head_timeout: Duration,
    /// Time limit for an answer that the peer does not read.
    pub write_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            max_connections: 1_024,
            head_timeout: Duration::from_secs(5),
            write_timeout: Duration::from_secs(15),
        }
    }
}

/// The largest head of a request, in bytes.
const MAX_HEAD_BYTES: usize = 16 * 1024;

/// Time for requests in progress to finish when the agent stops. Event streams never finish by themselves.
const GRACE: Duration = Duration::from_millis(500);

/// Pause after a failed accept (no file descriptors left), which would fail again at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves TCP until `stop` is true.
pub(crate) async fn serve_tcp(
    listener: TcpListener,
    router: Router,
    limits: Limits,
    stop: watch::Receiver<bool>,
) {
    let accept = async || {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        Ok((stream, None))
    };
    serve(accept, router, limits, stop).await;
}

/// Serves the control socket until `stop` is true, then removes it.
pub(crate) async fn serve_unix(
    socket: ControlSocket,
    router: Router,
    limits: Limits,
    stop: watch::Receiver<bool>,
) {
    let accept = async || {
        let (stream, peer) = socket.accept().await?;
        Ok((stream, Some(peer)))
    };
    serve(accept, router, limits, stop).await;
}

async fn serve<S, A>(accept: impl Fn() -> A, router: Router, limits: Limits, mut stop: watch::Receiver<bool>)
where
    S: AsyncRead + AsyncWrite + Send + 'static,
    A: Future<Output = std::io::Result<(S, Option<Peer>)>>,
{
    let slots = Arc::new(Semaphore::new(limits.max_connections));
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = stopped(&mut stop) => break,
            Some(_) = connections.join_next() => continue,
            accepted = accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                let Ok(slot) = Arc::clone(&slots).try_acquire_owned() else {
                    tracing::debug!(limit = limits.max_connections, "closed a connection beyond the limit");
                    continue;
                };
                let connection = serve_connection(stream, peer, router.clone(), limits, stop.clone());
                connections.spawn(async move {
                    connection.await;
                    drop(slot);
                });
            }
            Err(error) => {
                tracing::debug!(%error, "could not accept an API connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    let all_done = async { while connections.join_next().await.is_some() {} };
    // Connections that are left then are aborted when the set is dropped.
    let _ = tokio::time::timeout(GRACE, all_done).await;
}

/// Resolves when the agent stops, or when its sender is gone.
pub(crate) async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|is_stopping| *is_stopping).await;
}

async fn serve_connection<S>(
    stream: S,
    peer: Option<Peer>,
    router: Router,
    limits: Limits,
    mut stop: watch::Receiver<bool>,
) where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(limits.write_timeout));
    let service = hyper::service::service_fn(move |request| answer(request, peer.clone(), router.clone()));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head_timeout)
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(TokioIo::new(Box::pin(stream)), service);
    tokio::pin!(connection);
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = stopped(&mut stop) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        tracing::trace!(%error, "an API connection ended");
    }
}

async fn answer(
    request: Request<Incoming>,
    peer: Option<Peer>,
    router: Router,
) -> Result<Response<Body>, Infallible> {
    let mut request = request.map(Body::new);
    if let Some(peer) = peer {
        request.extensions_mut().insert(peer);
    }
    router.oneshot(request).await
}
