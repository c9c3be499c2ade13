//! The control service: makes and takes down environments for whoever asks on its unix socket, looks after their health, and ends
//! what is over its time or orphaned. Of everything that it knows the files are the truth: after a kill the next one goes on with
//! them.
//!
//! The socket is root's alone, whatever group there is: who may name an nginx configuration to it may run anything as root.

use std::collections::{BTreeMap, HashSet};
use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};

use crate::create::{self, Request};
use crate::environment::{Environment, Keeper, Phase};
use crate::health::{self, Health};
use crate::state::{State, since_boot};
use crate::{api, destroy, front};

/// The file that names its process.
const CARD: &str = "service.json";
/// The reaper looks so often.
const TICK: Duration = Duration::from_secs(1);

/// How it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// The front nginx listens here, on 127.0.0.1.
    pub port: u16,
    /// Between two looks at the health of each environment.
    pub poll: Duration,
}

/// What its threads and requests share.
#[derive(Debug)]
pub(crate) struct Service {
    state: State,
    keeper: Keeper,
    /// One owner at a time of each environment's file.
    locks: Mutex<BTreeMap<String, Arc<Mutex<()>>>>,
    /// Environments that a thread takes down or looks at, so that a slow one is not begun twice.
    busy: Mutex<HashSet<(&'static str, String)>>,
    is_ending: AtomicBool,
}

/// Runs until SIGTERM or SIGINT, and takes everything down then.
///
/// # Errors
/// Fails without root, if another one runs, or if the front nginx cannot be started.
pub fn run(state: &State, settings: Settings) -> Result<()> {
    state.create()?;
    let _lock = lock(state)?;
    let service = Arc::new(Service {
        state: state.clone(),
        keeper: Keeper::of_this_process()?,
        locks: Mutex::default(),
        busy: Mutex::default(),
        is_ending: AtomicBool::new(false),
    });
    let card = serde_json::to_vec(&service.keeper).context("could not write down this process")?;
    fs::write(state.folder().join(CARD), card).context("could not write down this process")?;
    service.sweep(Sweep::AtStart);
    service.await_idle();
    front::start(state, settings.port)?;
    for environment in state.list()? {
        service.report("put on the front", &environment.id, front::add(state, &environment));
    }
    let reaper = Arc::clone(&service);
    thread::spawn(move || reaper.reap());
    let poller = Arc::clone(&service);
    thread::spawn(move || poller.poll(settings.poll));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let served = runtime.context("could not start the runtime")?.block_on(serve(Arc::clone(&service)));
    service.end();
    served
}

/// Ends the one that runs, and waits until everything is taken down. Returns whether one ran.
///
/// # Errors
/// Fails if it does not end in time.
pub fn stop(state: &State, at_most: Duration) -> Result<bool> {
    let Some(keeper) = running(state) else { return Ok(false) };
    let pid = i32::try_from(keeper.pid).context("could not use the control service's process id")?;
    kill(Pid::from_raw(pid), Signal::SIGTERM).context("could not signal the control service")?;
    let deadline = Instant::now() + at_most;
    while keeper.is_alive() {
        if Instant::now() >= deadline {
            bail!("could not end the control service in {} s: process {pid} goes on", at_most.as_secs());
        }
        thread::sleep(Duration::from_millis(10));
    }
    Ok(true)
}

/// Takes everything down without a service: what one left that was killed, or what was made without one. Returns the ids.
///
/// # Errors
/// Fails if a service starts meanwhile, or if something is left.
pub fn clear(state: &State) -> Result<Vec<String>> {
    if !state.folder().is_dir() {
        return Ok(Vec::new());
    }
    let _lock = lock(state)?;
    let ids = state.ids()?;
    for id in &ids {
        destroy::destroy(state, id)?;
    }
    front::stop(state)?;
    Ok(ids)
}

/// The one that runs.
fn running(state: &State) -> Option<Keeper> {
    let keeper: Keeper = serde_json::from_slice(&fs::read(state.folder().join(CARD)).ok()?).ok()?;
    keeper.is_alive().then_some(keeper)
}

fn lock(state: &State) -> Result<Flock<File>> {
    let path = state.folder().join("service.lock");
    let file = File::create(&path).with_context(|| format!("could not open {}", path.display()))?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(lock),
        Err((_, nix::errno::Errno::EWOULDBLOCK)) => {
            bail!("could not start: another control service uses {}", state.folder().display())
        }
        Err((_, errno)) => Err(errno).with_context(|| format!("could not lock {}", path.display())),
    }
}

async fn serve(service: Arc<Service>) -> Result<()> {
    let path = service.state.socket();
    match fs::remove_file(&path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("could not replace {}", path.display()));
        }
        _ => {}
    }
    let mut end = signal(SignalKind::terminate()).context("could not wait for signals")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("could not wait for signals")?;
    let listener =
        UnixListener::bind(&path).with_context(|| format!("could not listen on {}", path.display()))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o660))
        .with_context(|| format!("could not close {} to others", path.display()))?;
    let routes = api::routes(Arc::clone(&service));
    let serving = async { axum::serve(listener, routes).await.context("could not serve") };
    let ended = tokio::select! {
        served = serving => served,
        _ = end.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
    };
    let _ = fs::remove_file(&path);
    ended
}

/// Which environments are swept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sweep {
    /// Those of a service that is no more, and what a crash left half made.
    AtStart,
    /// Those over their time, and orphans.
    Tick,
    /// All.
    AtEnd,
}

impl Service {
    /// The folder of all environments.
    pub(crate) fn state(&self) -> &State {
        &self.state
    }

    /// Makes an environment, and then puts it on the front.
    pub(crate) fn create(&self, request: &Request) -> Result<Environment> {
        if self.is_ending.load(Ordering::Acquire) {
            bail!("could not create an environment: the control service is being ended");
        }
        let environment = create::create(&self.state, request, Some(self.keeper))?;
        front::add(&self.state, &environment)?;
        Ok(environment)
    }

    /// Runs `work` on an environment while nobody else changes it.
    pub(crate) fn alone<T>(&self, id: &str, work: impl FnOnce() -> T) -> T {
        let lock = {
            let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(locks.entry(id.to_owned()).or_default())
        };
        let _alone = lock.lock().unwrap_or_else(PoisonError::into_inner);
        work()
    }

    /// Takes an environment down; `None` if there is none.
    pub(crate) fn destroy(&self, id: &str) -> Result<Option<std::path::PathBuf>> {
        let done = self.alone(id, || destroy::destroy(&self.state, id));
        self.locks.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
        done
    }

    fn reap(self: &Arc<Self>) {
        while !self.is_ending.load(Ordering::Acquire) {
            let began = Instant::now();
            self.sweep(Sweep::Tick);
            thread::sleep(TICK.saturating_sub(began.elapsed()));
        }
    }

    /// Takes down, each on a thread of its own, what is to go.
    fn sweep(self: &Arc<Self>, sweep: Sweep) {
        let Ok(ids) = self.state.ids() else { return };
        for id in ids.into_iter().filter(|id| self.is_over(id, sweep)) {
            self.once("destroy", &id.clone(), move |service| {
                let done = service.destroy(&id);
                service.report("take down", &id, done);
            });
        }
    }

    fn is_over(&self, id: &str, sweep: Sweep) -> bool {
        if sweep == Sweep::AtEnd {
            return true;
        }
        let Ok(folder) = self.state.folder_of(id) else { return false };
        let Ok(environment) = Environment::read(&folder) else {
            // One that is just being made has no file for a moment.
            return is_old(&folder);
        };
        // One that is still being made is taken down once it is there, and not under the hands of whoever makes it.
        let is_late = environment.phase != Phase::Creating
            && since_boot().is_ok_and(|now| environment.left(now).is_zero());
        let is_orphan = environment.keeper.is_some_and(|keeper| !keeper.is_alive());
        is_late || is_orphan || (sweep == Sweep::AtStart && environment.phase == Phase::Destroying)
    }

    fn poll(self: &Arc<Self>, every: Duration) {
        while !self.is_ending.load(Ordering::Acquire) {
            let began = Instant::now();
            for environment in self.state.list().unwrap_or_default() {
                if environment.phase == Phase::Ready {
                    self.once("look", &environment.id.clone(), move |_| {
                        let mut health = Health::read(&environment);
                        health.add(health::look(&environment));
                        // It may be gone by now.
                        let _ = health.write(&environment);
                    });
                }
            }
            while began.elapsed() < every && !self.is_ending.load(Ordering::Acquire) {
                thread::sleep(Duration::from_millis(100).min(every));
            }
        }
    }

    /// Runs this on a thread of its own, unless it already runs for this environment.
    fn once(self: &Arc<Self>, what: &'static str, id: &str, work: impl FnOnce(&Arc<Self>) + Send + 'static) {
        let key = (what, id.to_owned());
        if !self.busy.lock().unwrap_or_else(PoisonError::into_inner).insert(key.clone()) {
            return;
        }
        let service = Arc::clone(self);
        thread::spawn(move || {
            work(&service);
            service.busy.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
        });
    }

    /// Waits until nothing is taken down any more.
    fn await_idle(&self) {
        let is_busy = || {
            let busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
            busy.iter().any(|(what, _)| *what == "destroy")
        };
        while is_busy() {
            thread::sleep(Duration::from_millis(10));
        }
    }

    fn end(self: &Arc<Self>) {
        self.is_ending.store(true, Ordering::Release);
        self.sweep(Sweep::AtEnd);
        self.await_idle();
        self.report("end", "the front nginx", front::stop(&self.state));
    }

    #[expect(clippy::unused_self, reason = "the service's log is its standard error")]
    fn report<T>(&self, what: &str, id: &str, done: Result<T>) {
        match done {
            Ok(_) => eprintln!("{what}: {id}: done"),
            Err(error) => eprintln!("could not {what} {id}: {error:#}"),
        }
    }
}

/// Whether nobody writes in a folder any more, by the time of its last change.
fn is_old(folder: &std::path::Path) -> bool {
    let changed = fs::metadata(folder).and_then(|metadata| metadata.modified());
    changed.is_ok_and(|changed| changed.elapsed().is_ok_and(|age| age > Duration::from_secs(2)))
}
