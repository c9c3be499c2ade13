//! The page's listener, which a reload can move: the new address is bound before the old one is given up, and where that
//! cannot be, the old one stays. A port that another program has is never fatal: its holder is named, and where the
//! configuration says so the next free port is taken.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Result;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::reload::off_runtime;
use super::supervise::{EndGuard, Ended};
use crate::api::auth::Names;
use crate::api::token::Token;
use crate::api::{Bound, Door};
use crate::config::Config;
use crate::port_holder;
use crate::text;
use shield_engine::event::PartState;

pub(super) struct Page {
    door: Door,
    token_file: PathBuf,
    ended: Arc<Ended>,
    open: Option<Open>,
}

/// Ports behind the configured one that are tried.
const NEXT_PORTS: u16 = 9;

/// Where the page is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wanted {
    /// The port may be 0.
    pub addr: SocketAddr,
    /// Another port will do where this one is taken.
    pub or_next_port: bool,
}

impl Wanted {
    pub(super) fn of(config: &Config) -> Option<Wanted> {
        config.page.map(|addr| Wanted { addr, or_next_port: config.page_next_free_port })
    }
}

/// A listener that serves.
struct Open {
    configured: Wanted,
    addr: SocketAddr,
    /// Why it is on another port than the configured one.
    instead: Option<String>,
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
        wanted: Option<Wanted>,
        hosts: &[String],
        ended: &Arc<Ended>,
    ) -> (Page, PartState) {
        let mut page = Page { door, token_file, ended: Arc::clone(ended), open: None };
        let Some(wanted) = wanted else {
            let state = page.state();
            return (page, state);
        };
        let state = match page.bind_or_next(wanted, hosts).await {
            Ok(found) => {
                page.serve(wanted, found);
                page.state()
            }
            Err(error) => {
                tracing::error!("{error:#}");
                PartState::Degraded { reason: text::reload::page_missing(&format!("{error:#}")) }
            }
        };
        (page, state)
    }

    /// What is served, as it was configured.
    pub(super) fn served(&self) -> Option<Wanted> {
        self.open.as_ref().map(|open| open.configured)
    }

    /// The state of a page that is where the configuration wants it.
    pub(super) fn state(&self) -> PartState {
        match &self.open {
            None => PartState::Off { reason: "[page] enabled = false".to_owned() },
            Some(open) if dashboard::was_built() => {
                let instead = open.instead.as_ref().map(|why| format!(" ({why})")).unwrap_or_default();
                PartState::Active { detail: format!("http://{}/{instead}", open.addr) }
            }
            Some(_) => PartState::Degraded {
                reason:
                    "this agent was built without the page; `cargo xtask build` bundles it before it builds"
                        .to_owned(),
            },
        }
    }

    /// Serves the address that is wanted and answers to `hosts`.
    ///
    /// # Errors
    /// The part's state, when the address cannot be had.
    pub(super) async fn change(&mut self, wanted: Option<Wanted>, hosts: &[String]) -> Result<(), String> {
        if let Some(open) = &self.open {
            open.names.set(hosts);
        }
        if self.served() == wanted {
            return Ok(());
        }
        let Some(wanted) = wanted else {
            self.close().await;
            return Ok(());
        };
        if let Some(open) = &mut self.open
            && (open.addr == wanted.addr || (open.configured.addr == wanted.addr && open.instead.is_none()))
        {
            (open.configured, open.instead) = (wanted, None);
            return Ok(());
        }
        let in_the_way = self.open.as_ref().filter(|open| open.addr.port() == wanted.addr.port());
        if let Some(old) = in_the_way.map(|open| open.configured) {
            return self.swap(old, wanted, hosts).await;
        }
        match self.bind_or_next(wanted, hosts).await {
            Ok(found) => {
                self.close().await;
                self.serve(wanted, found);
                Ok(())
            }
            Err(error) => Err(self.stays(wanted, &error)),
        }
    }

    /// Moves between addresses of one port, which may exclude each other: 127.0.0.1:8080 and 0.0.0.0:8080.
    async fn swap(&mut self, old: Wanted, new: Wanted, hosts: &[String]) -> Result<(), String> {
        self.close().await;
        let error = match self.bind_or_next(new, hosts).await {
            Ok(bound) => {
                self.serve(new, bound);
                return Ok(());
            }
            Err(error) => error,
        };
        match self.bind_or_next(old, hosts).await {
            Ok(bound) => self.serve(old, bound),
            Err(error) => tracing::error!("{error:#}"),
        }
        Err(self.stays(new, &error))
    }

    fn stays(&self, wanted: Wanted, error: &anyhow::Error) -> String {
        let stays = self.open.as_ref().map(|open| open.addr.to_string());
        text::reload::page_stays(&wanted.addr.to_string(), &format!("{error:#}"), stays.as_deref())
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

    /// Binds the address, or one of the next ports where that will do. Returns why with another one.
    async fn bind_or_next(&self, wanted: Wanted, hosts: &[String]) -> Result<(Bound, Option<String>)> {
        let error = match self.bind(wanted.addr, hosts).await {
            Ok(bound) => return Ok((bound, None)),
            Err(error) if is_taken(&error) => error,
            Err(error) => return Err(error),
        };
        let holder = off_runtime(move || port_holder::holder(wanted.addr)).await.flatten();
        if wanted.or_next_port {
            for more in 1..=NEXT_PORTS {
                let Some(port) = wanted.addr.port().checked_add(more) else { break };
                let next = SocketAddr::new(wanted.addr.ip(), port);
                if let Ok(bound) = self.bind(next, hosts).await {
                    return Ok((bound, Some(text::reload::page_instead(wanted.addr, holder.as_deref()))));
                }
            }
        }
        match holder {
            Some(holder) => Err(error.context(text::reload::page_taken(wanted.addr, &holder))),
            None => Err(error),
        }
    }

    async fn bind(&self, addr: SocketAddr, hosts: &[String]) -> Result<Bound> {
        let token = Token::load_or_create(&self.token_file)?;
        self.door.bind(addr, token, hosts, dashboard::router()).await
    }

    fn serve(&mut self, configured: Wanted, (bound, instead): (Bound, Option<String>)) {
        let addr = bound.addr;
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
        self.open = Some(Open { configured, addr, instead, names, stop, serving });
    }
}

fn is_taken(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == ErrorKind::AddrInUse)
    })
}
