//! Watches over the running agent: required enforcers, essential threads, the host's addresses, memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;

use super::{Kernel, build};
use crate::config::{Config, Use};
use crate::enforce::interpreter::Interpreter;
use crate::host;
use crate::memory;
use crate::pipeline::{Handle, Message};
use crate::{clock, ssh};
use shield_engine::event::{EnforcerName, PartReport, PartState};

/// How long a required enforcer may take to start.
const REQUIRED_START: Duration = Duration::from_secs(30);
/// Pause between two scans of this host's addresses and SSH sessions.
const HOST_SCAN_INTERVAL: Duration = Duration::from_secs(5);
/// After this long the start is taken to be over.
const START_LASTS: Duration = Duration::from_secs(10);
const TRIM_INTERVAL: Duration = Duration::from_secs(3_600);

/// Waits for SIGTERM or SIGINT.
///
/// # Errors
/// When a thread with an [`EndGuard`] ends first.
pub(super) async fn wait_for_end(ended: &Notify) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("could not listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("could not listen for SIGINT")?;
    tokio::select! {
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
        () = ended.notified() => {
            bail!("an essential thread of the agent ended; the reason is in the log above")
        }
    }
}

/// Held by an essential thread. Dropping it ends the agent: that covers a return and a panic alike.
pub(super) struct EndGuard(pub Arc<Notify>);

impl Drop for EndGuard {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

/// Waits until each required enforcer works.
///
/// # Errors
/// When one reports that it cannot, or does not start within [`REQUIRED_START`].
pub(super) async fn await_required(config: &Config, kernel: Kernel, interpreter: &Interpreter) -> Result<()> {
    let required = |name: &EnforcerName| match name {
        EnforcerName::Iptables => config.use_iptables == Use::Required,
        EnforcerName::Xdp => config.use_xdp == Use::Required,
    };
    let deadline = tokio::time::Instant::now() + REQUIRED_START;
    for name in build::enforcers(config, kernel).iter().filter(|name| required(name)) {
        loop {
            let state = interpreter.states().into_iter().find(|(n, _)| n == name).map(|(_, state)| state);
            match state {
                Some(PartState::Active { .. }) => break,
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

pub(super) fn watch_host(owner: Handle, settings: ssh::Settings) -> Result<HostWatch> {
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    spawn("host", move || {
        let (mut watch, mut last_entries, mut last_problems) =
            (host::Watch::new(&settings), None, Vec::new());
        let mut last_ssh = None;
        while !stopped.load(Ordering::Relaxed) {
            let host::Found { entries, problems, ssh } = watch.scan(clock::now());
            let new = problems.iter().filter(|problem| !last_problems.contains(*problem));
            new.for_each(|problem| tracing::warn!("{problem}"));
            last_problems = problems;
            if last_entries.as_ref() != Some(&entries) {
                owner.send(Message::HostAddresses(entries.clone()));
                last_entries = Some(entries);
            }
            if last_ssh.as_ref() != Some(&ssh) {
                let report = PartReport { part: ssh::PART.to_owned(), state: ssh.clone(), repaired: None };
                owner.send(Message::Part(report));
                last_ssh = Some(ssh);
            }
            std::thread::sleep(HOST_SCAN_INTERVAL);
        }
    })?;
    Ok(HostWatch { stop })
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

    #[tokio::test]
    async fn the_end_of_an_essential_thread_ends_the_agent() {
        for panics in [false, true] {
            let ended = Arc::new(Notify::new());
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
