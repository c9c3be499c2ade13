//! Every task and channel of the running agent: `docs/architecture.md`'s picture as code.
//!
//! Start order: store, engine (restored), enforcers (with the restored bans), performer, owner, API, sources. Stop order:
//! sources, owner (saves), performer (commits), enforcers' threads, API, and what is still to be told. Bans stay in the kernel throughout.

use std::num::NonZeroU32;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, watch};

use crate::api::backend::Mode;
use crate::api::feed::Feed;
use crate::api::socket::ControlSocket;
use crate::api::token::Token;
use crate::api::types::ConfigView;
use crate::api::{self, Server};
use crate::backend::{About, AgentBackend};
use crate::clock;
use crate::config::{Config, Use};
use crate::dry_run;
use crate::enforce::interpreter::{self, Interpreter, Report};
use crate::enforce::iptables::IptablesEnforcer;
use crate::enforce::xdp::XdpEnforcer;
use crate::enforce::{Ban, Desired, Enforcer};
use crate::host;
use crate::memory;
use crate::notify::{self, Notifier, Outbox};
use crate::owner::{Handle, Inbox, Message, Owner};
use crate::performer::{Announce, Job, Performer};
use crate::random;
use crate::search_engines::SearchEngines;
use crate::source::{self, Pool, Sources};
use crate::store::BootId;
use crate::store::reader::Reader;
use crate::store::writer::Writer;
use crate::store::{self, Found, Store};
use crate::text;
use shield_engine::Engine;
use shield_engine::action::{Action, Notice, Order};
use shield_engine::allowlist::Allowlist;
use shield_engine::event::{EnforcerName, PartReport, PartState};
use shield_engine::request::{Checkpoint, SourceId};
use shield_engine::time::Ends;

/// How long a required enforcer may take to start.
const REQUIRED_START: Duration = Duration::from_secs(30);
/// How long what is still to be told holds up the end; well within systemd's `TimeoutStopSec`.
const FLUSH: Duration = Duration::from_secs(3);
/// How often this host's own addresses and SSH sessions are looked up.
const HOST_EVERY: Duration = Duration::from_secs(5);
/// When the start counts as over.
const STARTED_AFTER: Duration = Duration::from_secs(10);
/// Between two times that free memory is given back to the kernel.
const TRIM_EVERY: Duration = Duration::from_secs(3_600);

/// Whether the kernel is touched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kernel {
    /// Bans are enforced.
    Enforce,
    /// Everything but the kernel.
    LeaveAlone,
}

/// How to run.
pub(crate) struct Options {
    /// The configuration.
    pub config: Config,
    /// Whether the kernel is touched.
    pub kernel: Kernel,
}

/// Runs the agent until SIGTERM or SIGINT.
///
/// # Errors
/// When something that the agent cannot do without is missing: the database (locked, unreadable), the control socket, a
/// required enforcer.
pub(crate) async fn run(options: Options) -> Result<()> {
    let Options { config, kernel } = options;
    let started = clock::now();
    let (store, reports) = open_store(&config, kernel, started)?;
    let reader = Reader::beside(&store).context("cannot open the database for reading")?;
    let mut restored = restore(&config, kernel, &store)?;
    let (handle, inbox) = Handle::new();
    let interpreter = Arc::new(start_enforcement(&config, kernel, &mut restored, handle.clone())?);
    await_required(&config, kernel, &interpreter).await?;
    let feed = Arc::new(Feed::new(started));
    let (perform, jobs) = mpsc::channel();
    let restored_checkpoints = std::mem::take(&mut restored.checkpoints);
    let pool = Pool::default();
    let announce = Notice::Started {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        restored: restored.engine.ledger().len() as u64,
        dry_run: kernel == Kernel::LeaveAlone,
    };
    let (notifier, outbox) = start_notifier(&config, handle.clone());
    let announce_to = [notifier, publisher(Arc::clone(&feed))];
    let backlog = Arc::new(AtomicU64::new(0));
    let performer = Performer {
        writer: Writer::new(store, started),
        interpreter: Arc::clone(&interpreter),
        announce: match kernel {
            Kernel::Enforce => announce_to.into(),
            Kernel::LeaveAlone => announce_to.map(dry_run::told).into(),
        },
        owner: handle.clone(),
        backlog: Arc::clone(&backlog),
    };
    let ended = Arc::new(Notify::new());
    let says = SaysWhenOver(Arc::clone(&ended));
    let performer = spawn("perform", move || {
        let _says = says;
        performer.run(&jobs);
    })?;
    for (at, source) in config.sources.iter().enumerate() {
        restored.engine.name_source(SourceId(at as u16), &source.name);
    }
    let says = SaysWhenOver(Arc::clone(&ended));
    let owner = start_owner(restored, inbox, perform, &handle, announce, pool.clone(), says)?;
    reports.into_iter().for_each(|report| handle.say(Message::Part(report)));

    let (stop_api, api_stopped) = watch::channel(false);
    let about = about(&config, kernel, started.wall_ms);
    let sources = source::Prepared::new(config.sources.clone());
    let interpreter_too = Arc::clone(&interpreter);
    let backend = AgentBackend::new(handle.clone(), interpreter_too, reader, backlog, sources.stats(), about);
    let server = serve(&config, Arc::new(backend), feed).await?;
    handle.say(Message::Part(PartReport {
        part: "page".to_owned(),
        state: page_state(&config),
        repaired: None,
    }));
    let server = tokio::spawn(server.run(api_stopped));
    let sources = start_sources(sources, &restored_checkpoints, &pool, &handle)?;
    let hosts = watch_host(handle.clone())?;
    tracing::info!(socket = %config.socket.display(), "started");
    let watchdog = tokio::spawn(systemd_watchdog(handle.clone()));
    let tidying = tokio::spawn(tidy_memory());

    let end = wait_for_end(&ended).await;
    tracing::info!("stopping; bans stay in the kernel until their end");
    sd_notify(&[sd_notify::NotifyState::Stopping]);
    watchdog.abort();
    tidying.abort();
    sources.stop();
    hosts.stop.store(true, Ordering::Relaxed);
    handle.say(Message::Stop);
    join(owner, "the engine")?;
    join(performer, "the store")?;
    // The last one who holds it ends its threads; requests under way hold it for a moment longer.
    drop(interpreter);
    // Nobody listens any more when the server has ended already.
    let _ = stop_api.send(true);
    server.await.context("the API ended badly")?;
    outbox.flush(FLUSH).await;
    end
}

/// What an earlier run left, taken up by a new engine.
struct Restored {
    engine: Engine,
    desired: Desired,
    leftovers: Vec<Action>,
    checkpoints: Vec<Checkpoint>,
}

fn open_store(
    config: &Config,
    kernel: Kernel,
    now: shield_engine::time::Now,
) -> Result<(Store, Vec<PartReport>)> {
    // What a dry run would have banned must never be enforced by a later run: it keeps a database of its own.
    let dir = match kernel {
        Kernel::Enforce => config.state_dir.clone(),
        Kernel::LeaveAlone => config.state_dir.join("dry-run"),
    };
    let settings = store::Settings {
        dir,
        offences_kept: Duration::from_secs(config.engine.backoff.forget_after_secs()),
        ..store::Settings::default()
    };
    let boot_id = BootId::current().context("cannot tell one boot from another")?;
    let (store, found) = Store::open(&settings, &boot_id, now)?;
    let state = match found {
        Found::Nothing | Found::Sound => PartState::Active { detail: settings.file().display().to_string() },
        Found::Damaged { moved_to, damage } => {
            tracing::error!(moved_to = %moved_to.display(), "the database was damaged ({damage}); began an empty one");
            let reason = format!(
                "the database was damaged and is kept as {}; bans and what was learned before are unknown ({damage})",
                moved_to.display()
            );
            PartState::Degraded { reason }
        }
    };
    Ok((store, vec![PartReport { part: "store".to_owned(), state, repaired: None }]))
}

fn restore(config: &Config, kernel: Kernel, store: &Store) -> Result<Restored> {
    let loaded = store.load().context("cannot read what an earlier run left")?;
    let mut settings = config.engine.clone();
    settings.enforcers = enforcers_used(config, kernel);
    let (host, problems) = host::addresses();
    problems.iter().for_each(|problem| tracing::warn!("{problem}"));
    let allowlist = Allowlist::new(config.allow.iter().copied().chain(loaded.allowed).chain(host));
    let mut engine =
        Engine::new(settings, config.policy.clone(), allowlist, loaded.next_serial, u64::from_ne_bytes(random::bytes()?));
    engine.restore_totals(loaded.totals);
    if let Some(saved) = &loaded.baseline
        && let Err(error) = engine.restore_baseline(saved)
    {
        tracing::warn!("{error}");
    }
    store.for_each_offence(|client, count, last_secs| {
        if let Some(count) = NonZeroU32::new(count) {
            engine.restore_offences(client, count, last_secs);
        }
    })?;
    let mut desired = Desired::with_capacity(loaded.bans as usize);
    let mut leftovers = Vec::new();
    let now = clock::now();
    store.for_each_ban(now, |ban| {
        for action in engine.restore_ban(ban.ban, now) {
            match action {
                Action::Enforce(Order::Ban { client, ends, serial }) => {
                    desired.insert(Ban { client, ends }, serial);
                }
                other => leftovers.push(other),
            }
        }
    })?;
    let checkpoint = |(source, position)| Checkpoint { source, position };
    let checkpoints = loaded.checkpoints.into_iter().map(checkpoint).collect();
    Ok(Restored { engine, desired, leftovers, checkpoints })
}

/// The enforcers that a lift waits for.
fn enforcers_used(config: &Config, kernel: Kernel) -> Vec<EnforcerName> {
    let uses = [(EnforcerName::Iptables, config.use_iptables), (EnforcerName::Xdp, config.use_xdp)];
    let used = uses.into_iter().filter(|(_, used)| kernel == Kernel::Enforce && *used != Use::Off);
    used.map(|(name, _)| name).collect()
}

fn start_enforcement(
    config: &Config,
    kernel: Kernel,
    restored: &mut Restored,
    owner: Handle,
) -> Result<Interpreter> {
    let mut enforcers: Vec<Box<dyn Enforcer>> = Vec::new();
    for name in enforcers_used(config, kernel) {
        match name {
            EnforcerName::Iptables => {
                enforcers.push(Box::new(IptablesEnforcer::new(config.iptables.clone())));
            }
            EnforcerName::Xdp => enforcers.push(Box::new(XdpEnforcer::new(config.xdp.clone()))),
        }
    }
    // They are told in this order: microseconds before milliseconds.
    enforcers.sort_by_key(|enforcer| enforcer.name() != EnforcerName::Xdp);
    for name in EnforcerName::ALL.iter().filter(|name| !enforcers.iter().any(|e| e.name() == **name)) {
        let why =
            if kernel == Kernel::LeaveAlone { "a dry run leaves the kernel alone" } else { "mode = \"off\"" };
        let state = PartState::Off { reason: why.to_owned() };
        owner.say(Message::Part(PartReport { part: name.name().to_owned(), state, repaired: None }));
    }
    let start = interpreter::Start {
        desired: std::mem::take(&mut restored.desired),
        exempt: restored.engine.allowlist().exempt_networks(),
        clock: clock::now,
        settings: interpreter::Settings::default(),
    };
    Interpreter::start(enforcers, start, move |report| say_report(&owner, report))
}

fn say_report(owner: &Handle, report: Report) {
    owner.say(Message::Enforcement(report));
}

/// Waits for the first word of each required enforcer; a word that it cannot is an error.
async fn await_required(config: &Config, kernel: Kernel, interpreter: &Interpreter) -> Result<()> {
    let required = |name: &EnforcerName| match name {
        EnforcerName::Iptables => config.use_iptables == Use::Required,
        EnforcerName::Xdp => config.use_xdp == Use::Required,
    };
    let deadline = tokio::time::Instant::now() + REQUIRED_START;
    for name in enforcers_used(config, kernel).iter().filter(|name| required(name)) {
        loop {
            let state = interpreter.states().into_iter().find(|(n, _)| n == name).map(|(_, state)| state);
            match state {
                Some(PartState::Active { .. }) => break,
                Some(PartState::Degraded { reason }) => {
                    bail!(
                        "{} is required ([{}] mode = \"required\") and cannot work: {reason}",
                        name.name(),
                        name.name()
                    )
                }
                _ if tokio::time::Instant::now() >= deadline => {
                    bail!(
                        "{} is required and did not start within {} s",
                        name.name(),
                        REQUIRED_START.as_secs()
                    )
                }
                // Polled: an enforcer starts once, within milliseconds.
                _ => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }
    Ok(())
}

fn start_notifier(config: &Config, owner: Handle) -> (Announce, Outbox) {
    let settings = notify::Settings {
        audit: config.audit.clone(),
        slack: config.slack.clone(),
        webhook: config.webhook.clone(),
        ..notify::Settings::default()
    };
    let report: notify::Report = Arc::new(move |report| owner.say(Message::Part(report)));
    let (mut notifier, outbox) = Notifier::start(&settings, report);
    (Box::new(move |notice| notifier.notify(notice, clock::now())), outbox)
}

fn publisher(feed: Arc<Feed>) -> Announce {
    Box::new(move |notice| {
        log_notice(notice);
        feed.publish(notice, clock::now());
    })
}

/// Every notice is a line in the log too: a past-tense fact with fields.
fn log_notice(notice: &Notice) {
    match notice {
        Notice::Banned(ban) => {
            let (ban, offence) = (ban.ban, ban.ban.offence_number());
            let (client, rule, until) = (ban.client, ban.rule, until(ban.ends));
            tracing::info!(%client, %rule, offence, until, "banned");
        }
        Notice::WouldBan { ban, because } => {
            let (client, rule, until) = (ban.ban.client, ban.ban.rule, until(ban.ban.ends));
            tracing::info!(%client, %rule, until, %because, "would ban");
        }
        Notice::Lifted { client, reason, lasted_secs, .. } => {
            tracing::info!(%client, reason = text::lift_reason_name(*reason), lasted_secs, "lifted");
        }
        Notice::Degraded { part, reason } => tracing::warn!(%part, %reason, "degraded"),
        Notice::Recovered { part, after_secs } => tracing::info!(%part, after_secs, "recovered"),
        Notice::Repaired { part, found, restored, removed } => {
            tracing::warn!(%part, %found, restored, removed, "repaired");
        }
        other => tracing::info!("{}", text::notice_line(other)),
    }
}

fn until(ends: Ends) -> String {
    match ends {
        Ends::Never => "lifted by hand".to_owned(),
        Ends::At { wall_ms, .. } => text::utc(wall_ms),
    }
}

fn start_owner(
    restored: Restored,
    inbox: Inbox,
    perform: mpsc::Sender<Job>,
    handle: &Handle,
    announce: Notice,
    pool: Pool,
    says: SaysWhenOver,
) -> Result<JoinHandle<Engine>> {
    let engines = SearchEngines::default();
    let for_dns = handle.clone();
    let verify = Box::new(move |client, addr| engines.verify(client, addr, &for_dns));
    let mut owner = Owner::new(restored.engine, inbox, perform, verify, pool);
    let mut first = restored.leftovers;
    first.push(Action::Announce(announce));
    owner.pass_on(first);
    spawn("engine", move || {
        let _says = says;
        owner.run()
    })
}

fn about(config: &Config, kernel: Kernel, started_ms: i64) -> About {
    About {
        started_ms,
        mode: if kernel == Kernel::Enforce { Mode::Enforcing } else { Mode::DryRun },
        profile: config.profile.clone(),
        config: ConfigView {
            path: config.file.as_ref().map(|path| path.display().to_string()),
            settings: config.shown(),
        },
    }
}

async fn serve(config: &Config, backend: Arc<AgentBackend>, feed: Arc<Feed>) -> Result<Server> {
    let settings = api::Settings {
        hosts: config.page_hosts.clone(),
        history_path: Some(config.state_dir.join(api::HISTORY_FILE)),
        ..api::Settings::default()
    };
    let mut server = Server::new(backend, feed, settings);
    server.add_control_socket(ControlSocket::bind(&config.socket)?);
    if let Some(addr) = config.page {
        let token = Token::load_or_create(&config.state_dir.join(api::TOKEN_FILE))?;
        let bound = server.add_tcp(addr, token, dashboard::router()).await?;
        tracing::info!("the page is at http://{bound}/");
    }
    Ok(server)
}

/// Served or not, and whether there is anything to serve.
fn page_state(config: &Config) -> PartState {
    match config.page {
        None => PartState::Off { reason: "[page] enabled = false".to_owned() },
        Some(addr) if dashboard::was_built() => PartState::Active { detail: format!("http://{addr}/") },
        Some(_) => PartState::Degraded {
            reason: "this agent was built without the page; `cargo xtask build` bundles it before it builds"
                .to_owned(),
        },
    }
}

fn start_sources(
    sources: source::Prepared,
    checkpoints: &[Checkpoint],
    pool: &Pool,
    owner: &Handle,
) -> Result<Sources> {
    let (lines, states) = (owner.clone(), owner.clone());
    let deliver =
        move |batch| if lines.lines(batch) { ControlFlow::Continue(()) } else { ControlFlow::Break(()) };
    let report = move |report| states.say(Message::Part(report));
    sources.start(checkpoints, pool, &deliver, &report)
}

/// The thread that keeps the allowlist's host entries true.
struct HostWatch {
    stop: Arc<AtomicBool>,
}

fn watch_host(owner: Handle) -> Result<HostWatch> {
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    spawn("host", move || {
        let (mut watch, mut told, mut said) = (host::Watch::begin(), None, Vec::new());
        while !stopped.load(Ordering::Relaxed) {
            let (entries, problems) = watch.look();
            problems.iter().filter(|p| !said.contains(*p)).for_each(|problem| tracing::warn!("{problem}"));
            said = problems;
            if told.as_ref() != Some(&entries) {
                owner.say(Message::HostAddresses(entries.clone()));
                told = Some(entries);
            }
            std::thread::sleep(HOST_EVERY);
        }
    })?;
    Ok(HostWatch { stop })
}

/// Tells systemd that the engine answers, as often as it wants to hear it.
async fn systemd_watchdog(owner: Handle) {
    sd_notify(&[sd_notify::NotifyState::Ready]);
    let Some(interval) = sd_notify::watchdog_enabled() else { return };
    let mut ticks = tokio::time::interval(interval / 3);
    loop {
        ticks.tick().await;
        // An engine that does not answer is exactly what the watchdog is for.
        if owner.read(|_, _| ()).await.is_ok() {
            sd_notify(&[sd_notify::NotifyState::Watchdog]);
        }
    }
}

/// Gives back what the start took, once it is over; and now and then what busy times left free.
async fn tidy_memory() {
    tokio::time::sleep(STARTED_AFTER).await;
    if let Err(error) = memory::let_go_of_program() {
        tracing::debug!("could not let go of the program's pages: {error:#}");
    }
    loop {
        memory::trim_heap();
        tokio::time::sleep(TRIM_EVERY).await;
    }
}

fn sd_notify(states: &[sd_notify::NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!("systemd was not told: {error}");
    }
}

/// Comes back when the agent is told to stop, or with an error when one of its threads ended.
async fn wait_for_end(ended: &Notify) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    tokio::select! {
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
        () = ended.notified() => {
            bail!("a thread that the agent cannot do without ended; see the message above")
        }
    }
}

/// Says so when it goes: held by a thread that the agent cannot do without, however that ends.
struct SaysWhenOver(Arc<Notify>);

impl Drop for SaysWhenOver {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

fn spawn<T: Send + 'static>(name: &str, work: impl FnOnce() -> T + Send + 'static) -> Result<JoinHandle<T>> {
    let thread = std::thread::Builder::new().name(name.to_owned());
    thread.spawn(work).with_context(|| format!("cannot start the thread {name}"))
}

fn join<T>(thread: JoinHandle<T>, what: &str) -> Result<T> {
    thread.join().map_err(|_| anyhow::anyhow!("the thread of {what} panicked"))
}
