//! The running agent: `docs/architecture.md`'s picture as code. [`run`] holds the start order and [`Running::stop`] the stop
//! order; `build` makes the parts, `restore` reads what the last run left, `adopt` what only the kernel still has, `watch` finds
//! threads that hang and `supervise` those that end, `systemd` speaks to the service manager, `notices` logs notices, `backend`
//! answers the API, and `reload` changes
//! the configuration of the parts, of them `page` itself.
//!
//! Parts make their own inner threads and queues (enforcers, notifier, sources, API); what connects two parts is made
//! here or in `build`. Bans stay in the kernel throughout.

mod adopt;
mod backend;
mod build;
mod notices;
mod page;
mod reload;
mod restore;
mod supervise;
mod systemd;
mod watch;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch as channel};

use self::backend::{About, AgentBackend, Beside, Records, Shown};
use self::page::{Page, Wanted};
use self::reload::Reloader;
pub(crate) use self::reload::SetLog;
use self::restore::{Opened, Restored};
use self::supervise::{EndGuard, Ended, HostWatch};
use self::watch::{Health, Watch, Watching};
use crate::address_owner;
use crate::api;
use crate::api::backend::Mode;
use crate::api::samples::Samples;
use crate::beat::Beats;
use crate::canary::Canary;
use crate::clock;
use crate::config::Config;
use crate::config::file::Origin;
use crate::dry_run;
use crate::enforce::interpreter::Interpreter;
use crate::fleet;
use crate::latencies::Latencies;
use crate::notify::Outbox;
use crate::performer::Performer;
use crate::pipeline::{Handle, Message};
use crate::policy::service::Service;
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
    /// Where `config` came from, to load it again.
    pub origin: Origin,
    pub kernel: Kernel,
    pub set_log: SetLog,
}

/// Runs the agent until SIGTERM or SIGINT; SIGHUP loads the configuration again.
///
/// # Errors
/// When something essential is missing (the database, the control socket, a required enforcer) or an essential thread
/// ends.
pub(crate) async fn run(options: Options) -> Result<()> {
    // Before anything else: without a handler SIGHUP ends the process.
    let hangups = signal(SignalKind::hangup()).context("could not listen for SIGHUP")?;
    let ended = Arc::new(Ended::default());
    let kernel = options.kernel;
    let running = start(options, hangups, &ended).await?;
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
    stop_server: channel::Sender<bool>,
    reloader: tokio::task::JoinHandle<(Sources, Page)>,
    stop_reloader: channel::Sender<bool>,
    host_watch: HostWatch,
    background: Vec<tokio::task::JoinHandle<()>>,
    watching: Watching,
}

/// Starts from the store outwards, so that every part finds those that it sends to: the store, the engine restored from
/// it, the enforcers with the restored bans, the performer, the owner, the API. Sources come last, because their lines
/// lead to bans. A required enforcer that cannot work ends the start before any line is read.
async fn start(options: Options, hangups: Signal, ended: &Arc<Ended>) -> Result<Running> {
    let Options { config, origin, kernel, set_log } = options;
    let started = clock::now();
    supervise::keep_others_out(&config, kernel)?;
    let (opened, restored) = restore::restore(&config, kernel, started)?;
    let reader = Reader::beside(&opened.store)?;
    let offences = Reader::beside(&opened.store)?;
    let Restored { mut engine, enforcers, desired, leftovers, checkpoints, audit_head, trouble } = restored;
    let Opened { store, state: store_state, .. } = opened;
    let (handle, inbox) = Handle::new();
    let (beats, health) = (Beats::default(), Health::default());

    let wanted = build::wanted(desired, &engine);
    let interpreter = build::start_enforcement(&config, kernel, enforcers, wanted, handle.clone(), &beats)?;
    let interpreter = Arc::new(interpreter);
    supervise::await_required(&config, kernel, &interpreter).await?;

    let feed = Arc::new(build::feed(&config));
    let record = build::audit_record(&config, kernel, audit_head, &reader);
    let heads = record.heads.clone();
    let (notifier, outbox) = build::start_notifier(&config, record, handle.clone());
    let joined = build::fleet(&config, kernel, &handle);
    let mut crowdsec = build::crowdsec(&config, kernel, &handle);
    let mut announce = vec![notifier, notices::publisher(Arc::clone(&feed))];
    if kernel == Kernel::LeaveAlone {
        announce = announce.into_iter().map(dry_run::announce).collect();
    }
    // Behind the dry run's wording: it compares decisions.
    let canary = Canary::default();
    let heard = canary.clone();
    announce.push(Box::new(move |notice| heard.hear(notice, clock::now())));
    let (mut member, mut fleet_numbers) = (None, None);
    if let Some(fleet::Joined { announce: tell, task, shown, name }) = joined {
        announce.push(tell);
        (member, fleet_numbers) = (Some(task), Some((name, shown)));
    }
    announce.push(crowdsec.announce());
    let unsaved = Arc::new(AtomicU64::new(0));
    let mut writer = Writer::new(store, started);
    writer.remember_audit(heads);
    writer.watched(beats.part(watch::DISK_PART, watch::DISK, supervise::running));
    let not_in_store = writer.unsaved();
    let performer = Performer {
        writer,
        interpreter: Arc::clone(&interpreter),
        announce,
        owner: handle.clone(),
        backlog: Arc::clone(&unsaved),
        beat: beats.part("performer", watch::PERFORMER, supervise::running),
    };
    let (jobs, jobs_in) = std::sync::mpsc::channel();
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
    let paths = engine.path_reader();
    let owner = build::owner(engine, leftovers, notice, inbox, jobs, &handle, pool.clone());
    let rules = Service::start(&config.rules, handle.clone())?;
    let owner = owner.asking(rules.clone()).watched(beats.part("engine", watch::ENGINE, supervise::running));
    let latencies = Arc::new(Latencies::default());
    let (samples, drops) = (Samples::default(), Arc::clone(&interpreter));
    let owner = owner.measured(Arc::clone(&latencies)).looked_at(samples.sampler(move || drops.totals()));
    let guard = EndGuard(Arc::clone(ended));
    let owner_thread = supervise::spawn("engine", move || {
        let _guard = guard;
        owner.run()
    })?;
    handle.send(Message::Part(store_state));
    if kernel == Kernel::Enforce {
        crate::policy::blocked::take(&config.state_dir)
            .into_iter()
            .for_each(|change| handle.send(Message::Change(change)));
    }
    handle.send(Message::Part(restore::state_of(trouble.as_ref())));

    let (stop_server, server_stops) = channel::channel(false);
    let sources = source::Prepared::new(config.sources.clone()).watched(beats.clone());
    let stats = sources.stats();
    let shown = Shown::new(reload::current(&config, stats.clone()));
    let (reloads, reload_requests) = mpsc::channel(reload::QUEUED);
    let (exporter, edge) = build::edge(&config, kernel, &interpreter, offences, &handle);
    let mode = if kernel == Kernel::Enforce { Mode::Enforcing } else { Mode::DryRun };
    let about = About { started_ms: started.wall_ms, mode };
    let drops = Arc::clone(&interpreter);
    let lists = build::blocklists(&config, kernel, &interpreter, &handle);
    let blocklists = lists.shown();
    crowdsec.change(config.crowdsec.as_ref()).await;
    let records = Records { reader, not_in_store, backlog: unsaved, edge, fleet: fleet_numbers, blocklists };
    let beside = Beside { health: health.clone(), canary, pool: pool.clone(), latencies, samples };
    let backend = AgentBackend::new(handle.clone(), drops, records, about, shown.clone(), reloads, beside);
    let mut server = build::bind_api(&config, Arc::new(backend), Arc::clone(&feed))?;
    server.watch(beats.part("api", watch::API, supervise::running), build::report_to(&handle));
    let owners =
        address_owner::keep(server.address_owners(), config.address_dbs.clone(), build::report_to(&handle));
    let token_file = config.state_dir.join(api::TOKEN_FILE);
    let (page, state) =
        Page::open(server.door(), token_file, Wanted::of(&config), &config.page_hosts, ended).await;
    handle.send(Message::Part(PartReport { part: "page".to_owned(), state, repaired: None }));
    let server = supervise::essential(ended, server.run(server_stops));

    let sources = build::start_sources(sources, &checkpoints, &pool, &handle, &paths)?;
    let host_watch = supervise::watch_host(handle.clone(), config.ssh(), config.web_ports.clone(), &beats)?;
    tracing::info!(socket = %config.socket.display(), "started");
    let hooks = outbox.hooks();
    let reloader = Reloader {
        origin,
        config,
        owner: handle.clone(),
        paths,
        pool,
        sources,
        stats,
        checkpoints: checkpoints.into_iter().map(|saved| (saved.source.clone(), saved)).collect(),
        page,
        lists,
        crowdsec,
        rules,
        hooks: hooks.clone(),
        set_log,
        shown,
    };
    let (stop_reloader, reloader_stops) = channel::channel(false);
    let reloader = supervise::essential(ended, reloader.run(hangups, reload_requests, reloader_stops));
    let mut background = vec![
        tokio::spawn(owners),
        tokio::spawn(supervise::return_memory()),
        tokio::spawn(supervise::end_of_trouble(trouble, handle.clone())),
        tokio::spawn(supervise::ready_when_restored(Arc::clone(&interpreter))),
    ];
    background.extend(exporter.map(tokio::spawn));
    background.extend(member.map(|member| tokio::spawn(member.run())));
    let announce = notices::without_the_engine(feed, hooks);
    let watch = Watch { beats, health, owner: handle.clone(), announce, ended: Arc::clone(ended) };
    let watching = watch.start()?;
    Ok(Running {
        owner: handle,
        owner_thread,
        performer,
        interpreter,
        outbox,
        server,
        stop_server,
        reloader,
        stop_reloader,
        host_watch,
        background,
        watching,
    })
}

impl Running {
    /// Stops in the direction of the data, so that each part takes in all that the one before it sent: sources, owner
    /// (saves), performer (commits), enforcers' threads. The API goes after them, so that the control socket answers
    /// until then; unsent notices go last.
    async fn stop(self) -> Result<()> {
        systemd::stopping();
        self.background.iter().for_each(tokio::task::JoinHandle::abort);
        // Fails when the reloader has ended already.
        let _ = self.stop_reloader.send(true);
        let (sources, mut page) =
            self.reloader.await.context("could not stop the reloading in an orderly way")?;
        sources.stop();
        self.host_watch.stop();
        self.owner.send(Message::Stop);
        supervise::join(self.owner_thread, "the engine")?;
        supervise::join(self.performer, "the store")?;
        // The last reference ends the enforcers' threads; API requests under way hold one for a moment longer.
        drop(self.interpreter);
        // Fails when the server has ended already.
        let _ = self.stop_server.send(true);
        page.close().await;
        self.server.await.context("could not stop the API in an orderly way")?;
        self.outbox.flush(FLUSH).await;
        // Last: until here it ends a stop that hangs.
        self.watching.stop();
        Ok(())
    }
}
