//! The page's listener, which a reload can move: the new address is bound before the old one is given up, and where that
//! cannot be, the old one stays.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Result;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::supervise::{EndGuard, Ended};
use crate::api::auth::Names;
use crate::api::token::Token;
use crate::api::{Bound, Door};
use crate::text;
use shield_engine::event::PartState;

pub(super) struct Page {
    door: Door,
    token_file: PathBuf,
    ended: Arc<Ended>,
    open: Option<Open>,
}

/// A listener that serves.
struct Open {
    /// As configured; the port may be 0.
    configured: SocketAddr,
    names: Names,
    stop: watch::Sender<bool>,
    serving: JoinHandle<()>,
}

impl Page {
    /// Binds the address at the start. Where it cannot be had there is no page yet: nobody is less protected by that, so that it
    /// is a state and no end of the start.
    pub(super) async fn open(
        door: Door,
        token_file: PathBuf,
        addr: Option<SocketAddr>,
        hosts: &[String],
        ended: &Arc<Ended>,
    ) -> (Page, PartState) {
        let mut page = Page { door, token_file, ended: Arc::clone(ended), open: None };
        let Some(addr) = addr else { return (page, state(None)) };
        let state = match page.bind(addr, hosts).await {
            Ok(bound) => {
                page.serve(addr, bound);
                state(Some(addr))
            }
            Err(error) => {
                tracing::error!("{error:#}");
                PartState::Degraded { reason: text::reload::page_missing(&format!("{error:#}")) }
            }
        };
        (page, state)
    }

    /// The configured address that is served.
    pub(super) fn addr(&self) -> Option<SocketAddr> {
        self.open.as_ref().map(|open| open.configured)
    }

    /// Serves `addr` and answers to `hosts`.
    ///
    /// # Errors
    /// The part's state, when the address cannot be had.
    pub(super) async fn change(&mut self, addr: Option<SocketAddr>, hosts: &[String]) -> Result<(), String> {
        if let Some(open) = &self.open {
            open.names.set(hosts);
        }
        if self.addr() == addr {
            return Ok(());
        }
        let Some(addr) = addr else {
            self.close().await;
            return Ok(());
        };
        match self.bind(addr, hosts).await {
            Ok(bound) => {
                self.close().await;
                self.serve(addr, bound);
                Ok(())
            }
            Err(error) => match self.addr().filter(|old| old.port() == addr.port() && is_taken(&error)) {
                Some(old) => self.swap(old, addr, hosts).await,
                None => Err(self.stays(addr, &error)),
            },
        }
    }

    /// Moves between addresses of one port, which may exclude each other: 127.0.0.1:8080 and 0.0.0.0:8080.
    async fn swap(&mut self, old: SocketAddr, new: SocketAddr, hosts: &[String]) -> Result<(), String> {
        self.close().await;
        let error = match self.bind(new, hosts).await {
            Ok(bound) => {
                self.serve(new, bound);
                return Ok(());
            }
            Err(error) => error,
        };
        match self.bind(old, hosts).await {
            Ok(bound) => self.serve(old, bound),
            Err(error) => tracing::error!("{error:#}"),
        }
        Err(self.stays(new, &error))
    }

    fn stays(&self, wanted: SocketAddr, error: &anyhow::Error) -> String {
        let stays = self.addr().map(|addr| addr.to_string());
        text::reload::page_stays(&wanted.to_string(), &format!("{error:#}"), stays.as_deref())
    }

    /// Stops serving; requests in progress have half a second.
    pub(super) async fn close(&mut self) {
        if let Some(open) = self.open.take() {
            // Fails when the listener has ended already.
            let _ = open.stop.send(true);
            if open.serving.await.is_err() {
                tracing::error!("the page's listener had panicked");
            }
        }
    }

    async fn bind(&self, addr: SocketAddr, hosts: &[String]) -> Result<Bound> {
        let token = Token::load_or_create(&self.token_file)?;
        self.door.bind(addr, token, hosts, dashboard::router()).await
    }

    fn serve(&mut self, configured: SocketAddr, bound: Bound) {
        tracing::info!("the page is at http://{}/", bound.addr);
        let (stop, stops) = watch::channel(false);
        let (names, ended) = (bound.names.clone(), Arc::clone(&self.ended));
        let serving = tokio::spawn(async move {
            // A listener ends when it is told to; before that it has panicked, and nobody would notice.
            let stop = stops.clone();
            let guard = EndGuard(ended);
            bound.serve(stops).await;
            if *stop.borrow() {
                guard.disarm();
            }
        });
        self.open = Some(Open { configured, names, stop, serving });
    }
}

fn is_taken(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == ErrorKind::AddrInUse)
    })
}

/// The state of a page that is where the configuration wants it.
pub(super) fn state(addr: Option<SocketAddr>) -> PartState {
    match addr {
        None => PartState::Off { reason: "[page] enabled = false".to_owned() },
        Some(addr) if dashboard::was_built() => PartState::Active { detail: format!("http://{addr}/") },
        Some(_) => PartState::Degraded {
            reason: "this agent was built without the page; `cargo xtask build` bundles it before it builds"
                .to_owned(),
        },
    }
}
