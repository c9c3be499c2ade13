//! Builds each part of the running agent from the configuration. In which order they start, `run` says.

use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, mpsc};

use anyhow::Result;
use ipnet::IpNet;

use super::backend::AgentBackend;
use super::{Kernel, supervise};
use crate::api::feed::Feed;
use crate::api::socket::ControlSocket;
use crate::api::{self, Server};
use crate::beat::Beats;
use crate::blocklist::{self, Lists};
use crate::clock;
use crate::config::{Config, Use};
use crate::crowdsec;
use crate::edge::cloudflare;
use crate::enforce::ahead::Ahead;
use crate::enforce::interpreter::tables::Tables;
use crate::enforce::interpreter::{self, Interpreter};
use crate::enforce::iptables::IptablesEnforcer;
use crate::enforce::xdp::XdpEnforcer;
use crate::enforce::{Enforcer, nginx};
use crate::fleet;
use crate::notify::audit::{late, recent};
use crate::notify::{self, AuditRecord, Notifier, Outbox};
use crate::owner::Owner;
use crate::pipeline::{Announce, Handle, Inbox, Job, Message, Verified};
use crate::search_engines::SearchEngines;
use crate::source::{self, Pool, Sources};
use crate::store::audit_head::AuditHead;
use crate::store::reader::Reader;
use crate::text;
use shield_engine::action::{Action, Notice};
use shield_engine::event::{EnforcerName, PartReport, PartState};
use shield_engine::request::Checkpoint;
use shield_engine::{Engine, PathReader};

/// The enforcers in use. The engine records a lift only after each of them has confirmed it.
pub(super) fn enforcers(config: &Config, kernel: Kernel) -> Vec<EnforcerName> {
    let uses = [
        (EnforcerName::Iptables, config.use_iptables),
        (EnforcerName::Xdp, config.use_xdp),
        (EnforcerName::Nginx, config.use_nginx),
    ];
    let used = uses.into_iter().filter(|(_, used)| kernel == Kernel::Enforce && *used != Use::Off);
    used.map(|(name, _)| name).collect()
}

/// An enforcer that has not touched the kernel yet.
pub(super) fn enforcer(name: EnforcerName, config: &Config) -> Box<dyn Enforcer> {
    match name {
        EnforcerName::Iptables => Box::new(IptablesEnforcer::new(config.iptables.clone())),
        EnforcerName::Xdp => Box::new(XdpEnforcer::new(config.xdp.clone())),
        EnforcerName::Nginx => nginx::enforcer(config.nginx.clone()),
    }
}

/// Begins to set up each enforcer in use, in the order in which orders are submitted: XDP takes microseconds, iptables milliseconds.
pub(super) fn begin_enforcement(config: &Config, kernel: Kernel, exempt: &[IpNet]) -> Result<Vec<Ahead>> {
    let mut names = enforcers(config, kernel);
    names.sort_by_key(|name| *name != EnforcerName::Xdp);
    let begin = |name| Ahead::begin(enforcer(name, config), exempt.to_vec(), clock::now());
    names.into_iter().map(begin).collect()
}

/// What the enforcers have to put in force: the bans, the networks that must never be dropped, the slowed clients.
pub(super) fn wanted(desired: Tables, engine: &Engine) -> interpreter::Start {
    interpreter::Start {
        desired,
        exempt: engine.allowlist().exempt_networks(),
        slowed: crate::owner::slowed(engine).1,
        clock: clock::now,
        settings: interpreter::Settings::default(),
    }
}

/// Starts a thread for each enforcer, whose set-up has begun, with what it has to put in force.
pub(super) fn start_enforcement(
    config: &Config,
    kernel: Kernel,
    started: Vec<Ahead>,
    wanted: interpreter::Start,
    owner: Handle,
    beats: &Beats,
) -> Result<Interpreter> {
    match kernel {
        Kernel::Enforce => {
            let unused: Vec<Box<dyn Enforcer>> = EnforcerName::ALL
                .into_iter()
                .filter(|name| !started.iter().any(|enforcer| enforcer.name() == *name))
                .map(|name| enforcer(name, config))
                .collect();
            let states = owner.clone();
            // Beside the start, because it may wait long for the lock of another program's firewall change.
            supervise::spawn("clean up", move || {
                unused.into_iter().filter_map(|mut enforcer| clean_up(&mut *enforcer)).for_each(|report| {
                    states.send(Message::Part(report));
                });
            })?;
        }
        Kernel::LeaveAlone => EnforcerName::KERNEL.iter().for_each(|name| {
            let state = PartState::Off { reason: "a dry run leaves the kernel alone".to_owned() };
            owner.send(Message::Part(PartReport { part: name.name().to_owned(), state, repaired: None }));
        }),
    }
    Interpreter::start_watched(started, wanted, beats, move |report| owner.send(Message::Enforcement(report)))
}

/// The exporter to Cloudflare, to be spawned, and its numbers.
pub(super) fn edge(
    config: &Config,
    kernel: Kernel,
    interpreter: &Arc<Interpreter>,
    offences: Reader,
    owner: &Handle,
) -> (Option<impl Future<Output = ()> + Send + use<>>, Option<cloudflare::Shown>) {
    let Some(settings) = config.cloudflare.clone() else { return (None, None) };
    let owner = owner.clone();
    let report: notify::Report = Arc::new(move |report| owner.send(Message::Part(report)));
    if kernel == Kernel::LeaveAlone {
        let state = PartState::Off { reason: "a dry run changes no list".to_owned() };
        report(PartReport { part: cloudflare::PART.to_owned(), state, repaired: None });
        return (None, None);
    }
    let shown = cloudflare::Shown::default();
    let bans = cloudflare::Bans { interpreter: Arc::downgrade(interpreter), reader: Mutex::new(offences) };
    (Some(cloudflare::run(settings, bans, Arc::clone(&shown), report)), Some(shown))
}

/// The fleet that this host is part of.
pub(super) fn fleet(config: &Config, kernel: Kernel, owner: &Handle) -> Option<fleet::Joined> {
    let settings = config.fleet.clone()?;
    let states = owner.clone();
    let report: notify::Report = Arc::new(move |report| states.send(Message::Part(report)));
    if kernel == Kernel::LeaveAlone {
        let state = PartState::Off { reason: text::fleet::DRY_RUN.to_owned() };
        report(PartReport { part: fleet::PART.to_owned(), state, repaired: None });
        return None;
    }
    Some(fleet::join(settings, owner.clone(), report))
}

/// The lists that are read by URL.
pub(super) fn blocklists(
    config: &Config,
    kernel: Kernel,
    interpreter: &Arc<Interpreter>,
    owner: &Handle,
) -> Lists {
    let states = owner.clone();
    let report: notify::Report = Arc::new(move |report| states.send(Message::Part(report)));
    if kernel == Kernel::LeaveAlone {
        return Lists::dry(&config.blocklists, &report);
    }
    let env = blocklist::Env {
        owner: owner.clone(),
        report,
        state_dir: config.state_dir.clone(),
        ipv6_prefix: config.engine.ipv6_prefix,
        interpreter: Arc::downgrade(interpreter),
    };
    Lists::start(env, &config.blocklists)
}

/// The connection to CrowdSec's local API, which asks nobody yet.
pub(super) fn crowdsec(config: &Config, kernel: Kernel, owner: &Handle) -> crowdsec::Link {
    let states = owner.clone();
    let report: notify::Report = Arc::new(move |report| states.send(Message::Part(report)));
    if kernel == Kernel::LeaveAlone {
        if config.crowdsec.is_some() {
            let state = PartState::Off { reason: text::crowdsec::DRY_RUN.to_owned() };
            report(PartReport { part: crowdsec::PART.to_owned(), state, repaired: None });
        }
        return crowdsec::Link::new(None);
    }
    let ipv6_prefix = config.engine.ipv6_prefix;
    crowdsec::Link::new(Some(crowdsec::Env { owner: owner.clone(), report, ipv6_prefix }))
}

/// Takes out what an earlier run left of an enforcer that is off now: nobody could see or lift these bans any more. Returns its
/// state; `None` of one that nobody has to hear of.
fn clean_up(enforcer: &mut dyn Enforcer) -> Option<PartReport> {
    let name = enforcer.name();
    let state = match enforcer.cleanup() {
        Ok(removed) => {
            if !removed.is_empty() {
                let things = text::counted(removed.len() as u64, "thing");
                tracing::info!("{} is off: removed {things} that an earlier run had left", name.name());
            }
            // Without a proxy nobody misses the one inside nginx.
            if !EnforcerName::KERNEL.contains(&name) {
                return None;
            }
            PartState::Off { reason: "mode = \"off\"".to_owned() }
        }
        Err(error) => PartState::Degraded {
            reason: format!(
                "mode = \"off\", but could not remove what an earlier run left, which may go on keeping clients out: \
                 {error:#}; stop the agent and run `shield-agent cleanup`"
            ),
        },
    };
    Some(PartReport { part: name.name().to_owned(), state, repaired: None })
}

/// What the database knows of the audit log. That it cannot be compared is no reason not to start.
pub(super) fn audit_record(
    config: &Config,
    kernel: Kernel,
    expected: Option<AuditHead>,
    ledger: &Reader,
) -> AuditRecord {
    // A dry run's bans are recorded as ones that would have been made.
    let late = match kernel {
        Kernel::Enforce => late::missing(&config.audit, ledger, text::restored::ADOPTED, clock::now()),
        Kernel::LeaveAlone => Ok(Vec::new()),
    };
    let late = late.unwrap_or_else(|error| {
        tracing::warn!("could not compare the audit log with the ledger: {error:#}");
        Vec::new()
    });
    if !late.is_empty() {
        let bans = text::counted(late.len() as u64, "ban");
        tracing::warn!(
            "recorded late in the audit log: {bans} that the last run was ended too soon to record"
        );
    }
    AuditRecord { expected, late, ..AuditRecord::default() }
}

/// Events of the runs before that are shown again.
const REMEMBERED: usize = 500;

/// The feed of the page, which begins with what the audit log holds of the runs before.
pub(super) fn feed(config: &Config) -> Feed {
    let now = clock::now();
    let feed = Feed::new(now);
    match recent::recent(&config.audit, REMEMBERED) {
        Ok(past) => feed.remember(&past, now),
        Err(error) => tracing::warn!("the page lists no events from before the start: {error:#}"),
    }
    feed
}

/// Starts the audit log, which goes on from `record`, Slack and webhook.
pub(super) fn start_notifier(config: &Config, record: AuditRecord, owner: Handle) -> (Announce, Outbox) {
    let settings = notify::Settings {
        audit: config.audit.clone(),
        slack: config.slack.clone(),
        webhook: config.webhook.clone(),
        events: notify::Events {
            slack: config.slack_events.clone(),
            webhook: config.webhook_events.clone(),
            page_url: config.page_url.clone(),
        },
        ..notify::Settings::default()
    };
    let report: notify::Report = Arc::new(move |report| owner.send(Message::Part(report)));
    let (mut notifier, outbox) = Notifier::start(&settings, record, report);
    (Box::new(move |notice| notifier.notify(notice, clock::now())), outbox)
}

/// Builds the owner of the engine, whose first job is `leftovers` and the notice `first`.
pub(super) fn owner(
    engine: Engine,
    mut leftovers: Vec<Action>,
    first: Notice,
    inbox: Inbox,
    performer: mpsc::Sender<Job>,
    handle: &Handle,
    pool: Pool,
) -> Owner {
    let engines = engine.settings().verify_search_engines.is_on().then(SearchEngines::start);
    let for_dns = handle.clone();
    let verify = Box::new(move |client, addr| match &engines {
        Some(engines) => engines.verify(client, addr, &for_dns),
        None => for_dns.send(Message::BotVerified(client, Verified::Unknown)),
    });
    let mut owner = Owner::new(engine, inbox, performer, verify, pool);
    leftovers.push(Action::Announce(first));
    owner.perform_first(leftovers);
    owner
}

/// Binds the control socket.
pub(super) fn bind_api(config: &Config, backend: Arc<AgentBackend>, feed: Arc<Feed>) -> Result<Server> {
    let settings = api::Settings {
        history_path: Some(config.state_dir.join(api::HISTORY_FILE)),
        ..api::Settings::default()
    };
    let mut server = Server::new(backend, feed, settings);
    server.add_control_socket(ControlSocket::bind(&config.socket)?);
    Ok(server)
}

/// Hands a source's lines to the engine.
pub(super) fn deliver_to(owner: &Handle, paths: &PathReader) -> impl source::Deliver + Clone + use<> {
    let (lines, mut paths) = (owner.clone(), paths.clone());
    move |mut batch| {
        paths.read(&mut batch);
        if lines.send_lines(batch) { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    }
}

/// Hands a source's states to the engine.
pub(super) fn report_to(owner: &Handle) -> impl source::Report + Clone + use<> {
    let states = owner.clone();
    move |report| states.send(Message::Part(report))
}

/// Starts a thread for each source.
pub(super) fn start_sources(
    sources: source::Prepared,
    checkpoints: &[Checkpoint],
    pool: &Pool,
    owner: &Handle,
    paths: &PathReader,
) -> Result<Sources> {
    sources.start(checkpoints, pool, &deliver_to(owner, paths), &report_to(owner))
}
