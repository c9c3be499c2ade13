//! The service manager's protocol: ready, alive, reloading, stopping. Does nothing when the agent does not run under systemd.

use std::time::Duration;

use sd_notify::NotifyState;

/// Reports readiness.
pub(super) fn ready() {
    notify(&[NotifyState::Ready]);
}

/// Keeps systemd from ending the start for this long from now on, also where it gives a start less time.
pub(super) fn extend_start(by: Duration) {
    notify(&[NotifyState::ExtendTimeoutUsec(u32::try_from(by.as_micros()).unwrap_or(u32::MAX))]);
}

/// Feeds the watchdog.
pub(super) fn alive() {
    notify(&[NotifyState::Watchdog]);
}

/// Reports that the agent is stopping.
pub(super) fn stopping() {
    notify(&[NotifyState::Stopping]);
}

/// Reports that the configuration is being loaded. With the time, which `Type=notify-reload` needs from systemd 253 on; older
/// ones ignore it.
pub(super) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => notify(&[NotifyState::Reloading, now]),
        Err(error) => tracing::debug!("could not read the monotonic clock: {error}"),
    }
}

/// Reports the end of what [`reloading`] began, with a line for `systemctl status`.
pub(super) fn reloaded(status: &str) {
    notify(&[NotifyState::Ready, NotifyState::Status(status)]);
}

fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!("could not notify systemd: {error}");
    }
}
