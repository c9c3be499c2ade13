//! The running agent: `docs/architecture.md`'s picture as code. [`run`] holds the start order and [`Running::stop`] the stop
//! order; `build` makes the parts, `restore` reads what the last run left, `supervise` watches over threads, `systemd`
//! speaks to the service manager, `notices` logs notices, and `backend` answers the API.
//!
//! Parts make their own inner threads and queues (enforcers, notifier, sources, API); what connects two parts is made
//! here or in `build`. Bans stay in the kernel throughout.

mod backend;
mod build;
mod notices;
mod restore;
mod supervise;
mod systemd;

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::sync::{Notify, watch};

use self::backend::AgentBackend;
use self::restore::Restored;
use self::supervise::{EndGuard, HostWatch};
use crate::api::feed::Feed;
use crate::clock;
use crate::config::Config;
use crate::dry_run;
use crate::enforce::interpreter::Interpreter;
use crate::notify::Outbox;
use crate::performer::Performer;
use crate::pipeline::{Handle, Message};
use crate::source::{self, Pool, Sources};
use crate::store::reader::Reader;
use crate::store::writer::Writer;
use shield_engine::Engine;
use shield_engine::action::Notice;
use shield_engine::event::PartReport;
use shield_engine::request::SourceId;

/// How long unsent notices delay the end; well within systemd's `TimeoutStopSec`.
const FLUSH: Duration = Duration::from_secs(3);

/// Whether bans are enforced in the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kernel {
    Enforce,
    /// A dry run: everything but the kernel.
    LeaveAlone,
}

/// How to run.
pub(crate) struct Options {
    pub config: Config,
    pub kernel: Kernel,
}

/// Runs the agent until SIGTERM or SIGINT.
///
/// # Errors
/// When something essential is missing (the database, the control socket, a required enforcer) or an essential thread
/// ends.
pub(crate) async fn run(options: Options) -> Result<()> {
    let ended = Arc::new(Notify::new());
    let kernel = options.kernel;
    let running = start(options, &ended).await?;
    let end = supervise::wait_for_end(&ended).await;
    match kernel {
        Kernel::Enforce => tracing::info!("stopping; bans stay in the kernel until their end"),
        Kernel::LeaveAlone => tracing::info!("stopping; a dry run leaves nothing in the kernel"),
    }
    running.stop().await?;
    end
}

/// Everything that has to be stopped.
struct Running {
    owner: Handle,
    owner_thread: JoinHandle<Engine>,
    performer: JoinHandle<()>,
    interpreter: Arc<Interpreter>,
    outbox: Outbox,
    server: tokio::task::JoinHandle<()>,
    stop_server: watch::Sender<bool>,
    sources: Sources,
    host_watch: HostWatch,
    background: [tokio::task::JoinHandle<()>; 2],
}

/// Starts from the store outwards, so that every part finds those that it sends to: the store, the engine restored from
/// it, the enforcers with the restored bans, the performer, the owner, the API. Sources come last, because their lines
/// lead to bans. A required enforcer that cannot work ends the start before any line is read.
async fn start(options: Options, ended: &Arc<Notify>) -> Result<Running> {
    let Options { config, kernel } = options;
    let started = clock::now();
    let (store, store_state) = restore::open_store(&config, kernel, started)?;
    let reader = Reader::beside(&store)?;
    let Restored { mut engine, desired, leftovers, checkpoints } = restore::restore(&config, kernel, &store)?;
    let (handle, inbox) = Handle::new();

    let exempt = engine.allowlist().exempt_networks();
    let interpreter = build::start_enforcement(&config, kernel, desired, exempt, handle.clone())?;
    let interpreter = Arc::new(interpreter);
    supervise::await_required(&config, kernel, &interpreter).await?;

    let feed = Arc::new(Feed::new(started));
    let (notifier, outbox) = build::start_notifier(&config, handle.clone());
    let announce = [notifier, notices::publisher(Arc::clone(&feed))];
    let unsaved = Arc::new(AtomicU64::new(0));
    let performer = Performer {
        writer: Writer::new(store, started),
        interpreter: Arc::clone(&interpreter),
        announce: match kernel {
            Kernel::Enforce => announce.into(),
            Kernel::LeaveAlone => announce.map(dry_run::announce).into(),
        },
        owner: handle.clone(),
        backlog: Arc::clone(&unsaved),
    };
    let (jobs, jobs_in) = mpsc::channel();
    let guard = EndGuard(Arc::clone(ended));
    let performer = supervise::spawn("perform", move || {
        let _guard = guard;
        performer.run(&jobs_in);
    })?;

    for (at, source) in config.sources.iter().enumerate() {
        engine.name_source(SourceId(at as u16), &source.name);
    }
    let notice = Notice::Started {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        restored: engine.ledger().len() as u64,
        dry_run: kernel == Kernel::LeaveAlone,
    };
    let pool = Pool::default();
    let owner = build::owner(engine, leftovers, notice, inbox, jobs, &handle, pool.clone());
    let guard = EndGuard(Arc::clone(ended));
    let owner_thread = supervise::spawn("engine", move || {
        let _guard = guard;
        owner.run()
    })?;
    handle.send(Message::Part(store_state));

    let (stop_server, server_stops) = watch::channel(false);
    let about = build::about(&config, kernel, started.wall_ms);
    let sources = source::Prepared::new(config.sources.clone());
    let drops = Arc::clone(&interpreter);
    let backend = AgentBackend::new(handle.clone(), drops, reader, unsaved, sources.stats(), about);
    let server = build::bind_api(&config, Arc::new(backend), feed).await?;
    let state = build::page_state(&config);
    handle.send(Message::Part(PartReport { part: "page".to_owned(), state, repaired: None }));
    let server = tokio::spawn(server.run(server_stops));

    let sources = build::start_sources(sources, &checkpoints, &pool, &handle)?;
    let host_watch = supervise::watch_host(handle.clone())?;
    tracing::info!(socket = %config.socket.display(), "started");
    let background = [tokio::spawn(systemd::ready(handle.clone())), tokio::spawn(supervise::return_memory())];
    Ok(Running {
        owner: handle,
        owner_thread,
        performer,
        interpreter,
        outbox,
        server,
        stop_server,
        sources,
        host_watch,
        background,
    })
}

impl Running {
    /// Stops in the direction of the data, so that each part takes in all that the one before it sent: sources, owner
    /// (saves), performer (commits), enforcers' threads. The API goes after them, so that the control socket answers
    /// until then; unsent notices go last.
    async fn stop(self) -> Result<()> {
        systemd::stopping();
        self.background.iter().for_each(tokio::task::JoinHandle::abort);
        self.sources.stop();
        self.host_watch.stop();
        self.owner.send(Message::Stop);
        supervise::join(self.owner_thread, "the engine")?;
        supervise::join(self.performer, "the store")?;
        // The last reference ends the enforcers' threads; API requests under way hold one for a moment longer.
        drop(self.interpreter);
        // Fails when the server has ended already.
        let _ = self.stop_server.send(true);
        self.server.await.context("could not stop the API in an orderly way")?;
        self.outbox.flush(FLUSH).await;
        Ok(())
    }
}
