//! The service manager's protocol: ready, alive, stopping. Does nothing when the agent does not run under systemd.

use sd_notify::NotifyState;

use crate::pipeline::Handle;

/// Reports readiness, and then feeds the watchdog for as long as the engine answers.
pub(super) async fn ready(owner: Handle) {
    notify(NotifyState::Ready);
    let Some(interval) = sd_notify::watchdog_enabled() else { return };
    // A third, so that one late tick does not make systemd kill a healthy agent.
    let mut ticks = tokio::time::interval(interval / 3);
    loop {
        ticks.tick().await;
        // A query, not a timer alone: an engine that hangs is exactly what the watchdog is for.
        if owner.query(|_, _| ()).await.is_ok() {
            notify(NotifyState::Watchdog);
        }
    }
}

/// Reports that the agent is stopping.
pub(super) fn stopping() {
    notify(NotifyState::Stopping);
}

fn notify(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::debug!("could not notify systemd: {error}");
    }
}
