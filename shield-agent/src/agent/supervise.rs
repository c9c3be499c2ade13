//! Watches over the running agent: required enforcers, the end of essential threads, the host's addresses, memory. Threads
//! that hang are `watch`'s business.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;

use super::{Kernel, build, restore, systemd, watch};
use crate::beat::{Beat, Beats, panic_text};
use crate::config::{Config, Use};
use crate::enforce::interpreter::Interpreter;
use crate::host;
use crate::in_front;
use crate::memory;
use crate::netns_lock::{self, Taken};
use crate::pipeline::{Handle, Message};
use crate::store::trouble::Trouble;
use crate::{clock, ssh, text};
use shield_engine::Engine;
use shield_engine::event::{EnforcerName, PartReport, PartState};

/// How long a required enforcer may take to start.
const REQUIRED_START: Duration = Duration::from_secs(30);

/// How long an enforcer delays the start of web servers where another one has the restored bans in force already.
const ALL_RESTORED_IN: Duration = Duration::from_secs(15);
/// How long the restored bans do where they are not in force at all: a machine that starts many things at once can take that long.
const RESTORED_IN: Duration = Duration::from_secs(60);
/// The part that finds the addresses that must never be banned.
const HOST: &str = "host";
/// Pause between two scans of this host's addresses and SSH sessions.
const HOST_SCAN_INTERVAL: Duration = Duration::from_secs(5);
/// Scans between two looks for a proxy in front: 20 s.
const LOOK_IN_FRONT_EVERY: u32 = 4;
/// How long the engine's answer is waited for.
const ANSWERED_IN: Duration = Duration::from_secs(2);
/// The pause between two looks whether all is in force, for as long as that usually takes, and after it.
const LOOK_OFTEN: Duration = Duration::from_millis(2);
const LOOK: Duration = Duration::from_millis(20);
const USUAL_START: Duration = Duration::from_secs(2);
/// After this long the start is taken to be over.
const START_LASTS: Duration = Duration::from_secs(10);
const TRIM_INTERVAL: Duration = Duration::from_secs(3_600);

/// The pause between two looks whether a damaged database that is kept aside is still there.
const LOOK_AT_TROUBLE: Duration = Duration::from_secs(5);

/// Waits for SIGTERM or SIGINT.
///
/// # Errors
/// When a thread with an [`EndGuard`] ends first.
pub(super) async fn wait_for_end(ended: &Ended) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("could not listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("could not listen for SIGINT")?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        () = ended.notify.notified() => {
            bail!("an essential thread of the agent ended; the reason is in the log above")
        }
    }
    ended.expect();
    Ok(())
}

/// Held by an essential thread. Dropping it ends the agent: that covers a return and a panic alike.
pub(super) struct EndGuard(pub Arc<Ended>);

impl Drop for EndGuard {
    fn drop(&mut self) {
        self.0.has_ended.store(true, Ordering::Relaxed);
        self.0.notify.notify_one();
    }
}

impl EndGuard {
    /// For a part that ended because it was told to.
    pub(super) fn disarm(self) {
        std::mem::forget(self);
    }
}

/// Whether an essential thread has ended.
#[derive(Debug, Default)]
pub(super) struct Ended {
    notify: Notify,
    has_ended: AtomicBool,
    is_expected: AtomicBool,
}

impl Ended {
    /// The agent stops: all threads end now.
    pub(super) fn expect(&self) {
        self.is_expected.store(true, Ordering::Relaxed);
    }

    /// Whether one ended by itself.
    pub(super) fn has_ended(&self) -> bool {
        self.has_ended.load(Ordering::Relaxed) && !self.is_expected.load(Ordering::Relaxed)
    }
}

/// Takes the lock of this network namespace, where this agent changes anything in it.
///
/// # Errors
/// When another agent has it: the two would take away each other's rules.
pub(super) fn keep_others_out(config: &Config, kernel: Kernel) -> Result<()> {
    if build::enforcers(config, kernel).is_empty() {
        return Ok(());
    }
    let what = concat!("shield-agent ", env!("CARGO_PKG_VERSION"));
    match netns_lock::take(what, &config.state_dir)? {
        Taken::Ours => {}
        Taken::Without(why) => tracing::warn!("{why}"),
        Taken::Theirs(holder) => bail!(
            "another agent guards this network namespace: {holder}; two would remove each other's rules and bans: stop that one \
             first, or run this one with --dry-run"
        ),
    }
    Ok(())
}

/// Waits until what was lost at the start has been shown for long enough, or the operator has taken the damaged file away.
pub(super) async fn end_of_trouble(trouble: Option<Trouble>, owner: Handle) {
    let Some(trouble) = trouble else { return };
    while let left @ 1.. = trouble.left_ms(clock::now()) {
        // In pieces also without a file: the timer stands still while the machine is suspended.
        tokio::time::sleep(Duration::from_millis(left).min(LOOK_AT_TROUBLE)).await;
    }
    owner.send(Message::Part(restore::state_of(None)));
}

/// Waits until each required enforcer works.
///
/// # Errors
/// When one reports that it cannot, or does not start within [`REQUIRED_START`].
pub(super) async fn await_required(config: &Config, kernel: Kernel, interpreter: &Interpreter) -> Result<()> {
    let required = |name: &EnforcerName| match name {
        EnforcerName::Iptables => config.use_iptables == Use::Required,
        EnforcerName::Xdp => config.use_xdp == Use::Required,
        EnforcerName::Nginx => config.use_nginx == Use::Required,
    };
    let deadline = tokio::time::Instant::now() + REQUIRED_START;
    for name in build::enforcers(config, kernel).iter().filter(|name| required(name)) {
        loop {
            let state = interpreter.states().into_iter().find(|(n, _)| n == name).map(|(_, state)| state);
            match state {
                Some(PartState::Active { .. }) => break,
                // The files are right. What nginx makes of them is shown as the state: the whole agent does not wait until somebody
                // corrects nginx's configuration.
                Some(PartState::Degraded { .. })
                    if *name == EnforcerName::Nginx && interpreter.works(*name) =>
                {
                    break;
                }
                Some(PartState::Degraded { reason }) => {
                    bail!(
                        "{} is required ([{}] mode = \"required\") but cannot work: {reason}",
                        name.name(),
                        name.name()
                    )
                }
                _ if tokio::time::Instant::now() >= deadline => {
                    bail!(
                        "{} is required but did not start within {} s",
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

/// The thread that keeps the allowlist's host entries up to date.
pub(super) struct HostWatch {
    stop: Arc<AtomicBool>,
}

impl HostWatch {
    /// Lets the thread end after its current pause. It holds nothing that has to be closed, so nobody waits for it.
    pub(super) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

pub(super) fn watch_host(
    owner: Handle,
    settings: ssh::Settings,
    ports: Vec<u16>,
    beats: &Beats,
) -> Result<HostWatch> {
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let beat = beats.part(HOST, watch::HOST, running);
    spawn("host", move || {
        while !stopped.load(Ordering::Relaxed) {
            let scanned =
                catch_unwind(AssertUnwindSafe(|| scan_host(&owner, &settings, &ports, &beat, &stopped)));
            let Err(payload) = scanned else { break };
            // The entries found before stay on the allowlist.
            let reason = text::health::restarted(panic_text(&*payload), HOST_SCAN_INTERVAL.as_secs());
            report(&owner, HOST, PartState::Degraded { reason });
            beat.resting(HOST_SCAN_INTERVAL);
            std::thread::sleep(HOST_SCAN_INTERVAL);
            report(&owner, HOST, running());
        }
    })?;
    Ok(HostWatch { stop })
}

/// Scans until it is stopped.
fn scan_host(owner: &Handle, settings: &ssh::Settings, ports: &[u16], beat: &Beat, stopped: &AtomicBool) {
    let (mut watch, mut last_entries, mut last_problems) = (host::Watch::new(settings), None, Vec::new());
    let mut last_ssh = None;
    let (mut in_front, mut last_in_front) = (in_front::Watch::default(), None);
    let mut scans = 0_u32;
    while !stopped.load(Ordering::Relaxed) {
        beat.working();
        let host::Found { entries, problems, ssh } = watch.scan(clock::now());
        let new = problems.iter().filter(|problem| !last_problems.contains(*problem));
        new.for_each(|problem| tracing::warn!("{problem}"));
        last_problems = problems;
        if last_entries.as_ref() != Some(&entries) {
            owner.send(Message::HostAddresses(entries.clone()));
            last_entries = Some(entries);
        }
        if last_ssh.as_ref() != Some(&ssh) {
            report(owner, ssh::PART, ssh.clone());
            last_ssh = Some(ssh);
        }
        scans = scans.wrapping_add(1);
        if scans.is_multiple_of(LOOK_IN_FRONT_EVERY)
            && let Some(state) = look_in_front(owner, ports, &mut in_front)
            && last_in_front.as_ref() != Some(&state)
        {
            report(owner, in_front::PART, state.clone());
            last_in_front = Some(state);
        }
        beat.resting(HOST_SCAN_INTERVAL);
        std::thread::sleep(HOST_SCAN_INTERVAL);
    }
}

/// Looks for a proxy in front. `None` when there is nothing to say, or the engine is too busy to answer.
fn look_in_front(owner: &Handle, ports: &[u16], watch: &mut in_front::Watch) -> Option<PartState> {
    let requests = ask(owner, |engine| engine.totals().requests)?;
    // Reading the kernel's table is what costs, by its size and not by what is in it.
    if !watch.would_decide(requests) {
        return None;
    }
    let peers = in_front::Peers::read(ports);
    let asked = peers.clone();
    let seen = ask(owner, move |engine| in_front::Seen::of(engine, &asked))?;
    watch.look(&peers, &seen)
}

/// What the engine's thread answers, unless it is too busy.
fn ask<T: Send + 'static>(owner: &Handle, question: impl FnOnce(&Engine) -> T + Send + 'static) -> Option<T> {
    let (answer, answered) = std::sync::mpsc::channel();
    owner.send(Message::Query(Box::new(move |engine, _| {
        // Fails when the answer came too late.
        let _ = answer.send(question(engine));
    })));
    answered.recv_timeout(ANSWERED_IN).ok()
}

fn report(owner: &Handle, part: &str, state: PartState) {
    owner.send(Message::Part(PartReport { part: part.to_owned(), state, repaired: None }));
}

/// The state of a part that has none of its own.
pub(super) fn running() -> PartState {
    PartState::Active { detail: text::health::running() }
}

/// Ends the agent when this task does: then it has panicked.
pub(super) fn essential<T: Send + 'static>(
    ended: &Arc<Ended>,
    task: impl Future<Output = T> + Send + 'static,
) -> tokio::task::JoinHandle<T> {
    let guard = EndGuard(Arc::clone(ended));
    tokio::spawn(async move {
        let _guard = guard;
        task.await
    })
}

/// Returns memory to the kernel: once after the start, then the free heap at intervals.
pub(super) async fn return_memory() {
    tokio::time::sleep(START_LASTS).await;
    if let Err(error) = memory::unmap_program() {
        tracing::debug!("{error:#}");
    }
    loop {
        memory::trim_heap();
        tokio::time::sleep(TRIM_INTERVAL).await;
    }
}

/// Tells systemd that the agent is ready once every enforcer has put the restored bans in force or has failed to: a web server
/// that is ordered after it must not answer the banned. After a time it does so all the same, because a web server that waits for
/// ever hurts more.
pub(super) async fn ready_when_restored(interpreter: Arc<Interpreter>) {
    systemd::extend_start(RESTORED_IN + ANSWERED_IN);
    if let Some(waiting) = wait_for_restored(|| interpreter.states()).await {
        tracing::warn!("told systemd that the agent is ready; still being set up: {waiting}");
    }
    systemd::ready();
}

/// Returns who was not waited for any longer. One enforcer in the kernel that works keeps the banned out: another one is given
/// [`ALL_RESTORED_IN`] only.
async fn wait_for_restored(states: impl Fn() -> Vec<(EnforcerName, PartState)>) -> Option<String> {
    let began = tokio::time::Instant::now();
    loop {
        let states = states();
        let waits = states.iter().filter(|(_, state)| matches!(state, PartState::Waiting { .. }));
        let waiting: Vec<&str> = waits.map(|(name, _)| name.name()).collect();
        if waiting.is_empty() {
            return None;
        }
        let works = states
            .iter()
            .any(|(name, state)| *name != EnforcerName::Nginx && matches!(state, PartState::Active { .. }));
        if began.elapsed() >= if works { ALL_RESTORED_IN } else { RESTORED_IN } {
            return Some(waiting.join(" and "));
        }
        let pause = if began.elapsed() < USUAL_START { LOOK_OFTEN } else { LOOK };
        tokio::time::sleep(pause).await;
    }
}

pub(super) fn spawn<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<T>> {
    let thread = std::thread::Builder::new().name(name.to_owned());
    thread.spawn(work).with_context(|| format!("could not start the thread {name}"))
}

pub(super) fn join<T>(thread: JoinHandle<T>, what: &str) -> Result<T> {
    thread.join().map_err(|_| {
        anyhow::anyhow!("the thread of {what} panicked; the panic's message is in the log above")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// History: on a machine that was slow after a boot, nginx answered a banned client for 16 s.
    #[tokio::test(start_paused = true)]
    async fn web_servers_wait_longer_where_nothing_keeps_the_banned_out() {
        let check = async |from_secs: [Option<u64>; 2], ready_at: u64, missing: Option<&str>| {
            let began = tokio::time::Instant::now();
            let state = |works_from: Option<u64>| match works_from {
                Some(secs) if began.elapsed().as_secs() >= secs => {
                    PartState::Active { detail: String::new() }
                }
                _ => PartState::Waiting { reason: String::new() },
            };
            let [iptables, xdp] = from_secs;
            let waited = wait_for_restored(|| {
                vec![(EnforcerName::Iptables, state(iptables)), (EnforcerName::Xdp, state(xdp))]
            });
            assert_eq!(waited.await.as_deref(), missing, "{from_secs:?}");
            assert_eq!(began.elapsed().as_secs(), ready_at, "{from_secs:?}");
        };
        check([Some(1), Some(2)], 2, None).await;
        check([Some(1), None], 15, Some("xdp")).await;
        check([Some(42), None], 42, Some("xdp")).await;
        check([Some(42), Some(44)], 42, Some("xdp")).await;
        check([None, None], 60, Some("iptables and xdp")).await;
        // An enforcer that has failed is not waited for.
        let failed = || vec![(EnforcerName::Xdp, PartState::Degraded { reason: String::new() })];
        assert_eq!(wait_for_restored(failed).await, None);
    }

    #[tokio::test]
    async fn the_end_of_an_essential_thread_ends_the_agent() {
        for panics in [false, true] {
            let ended = Arc::new(Ended::default());
            let guard = EndGuard(Arc::clone(&ended));
            let thread = spawn("essential", move || {
                let _guard = guard;
                assert!(!panics, "this panic belongs to the test");
            });
            let error = wait_for_end(&ended).await.unwrap_err();
            assert!(error.to_string().contains("an essential thread of the agent ended"), "{error:#}");
            assert_eq!(join(thread.unwrap(), "the test").is_err(), panics);
        }
    }
}
