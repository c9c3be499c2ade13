//! What is said of a part that hangs or panicked, and of the end that follows.

use super::utc;

/// The reason of a part that has not gone on since `since_ms` (wall clock).
pub(crate) fn stalled(since_ms: i64) -> String {
    format!(
        "it has not gone on since {}; if it stays so, restart the agent: bans stay in the kernel meanwhile",
        utc(since_ms)
    )
}

/// The same of the thread that waits for the disk. A restart would wait for the same disk.
pub(crate) fn disk_stalled(since_ms: i64) -> String {
    format!(
        "the disk under the database has not answered since {}; bans go on, but a power failure would lose what was saved since: \
         look for errors of the disk in `dmesg`",
        utc(since_ms)
    )
}

/// What a part is, as far as nobody else says it.
pub(crate) fn running() -> String {
    "running".to_owned()
}

/// The reason of a part that panicked and was started again.
pub(crate) fn restarted(message: &str, wait_secs: u64) -> String {
    format!("it broke down and starts again in {wait_secs} s: {message}")
}

/// The line in the agent's log before the process ends because of a part.
pub(crate) fn ends(part: &str, since_ms: i64) -> String {
    format!(
        "{part} has not gone on since {}: ending, so that the service manager starts the agent again; bans stay in the \
         kernel",
        utc(since_ms)
    )
}

/// The line before the process ends because it could not stop.
pub(crate) fn ends_hard(within_secs: u64) -> String {
    format!("could not stop within {within_secs} s after a part had ended: ending at once")
}

/// What `shield-agent health` says.
pub(crate) const DRY_RUN: &str = "dry run: nothing is dropped";
pub(crate) const NOTHING_ENFORCES: &str =
    "no ban is in force: neither iptables nor XDP nor nginx keeps anybody out";
pub(crate) const BLIND: &str = "no log can be used, so nobody is judged";

pub(crate) fn banning_stopped(why: &str) -> String {
    format!("automatic bans are stopped: {why}")
}

pub(crate) fn no_answer(within_secs: u64) -> String {
    format!("the agent gave no answer within {}", super::duration(within_secs))
}

pub(crate) fn protecting(enforcers: &[&str], bans: u64, is_learning: bool) -> String {
    let active = match enforcers {
        [] => "starting".to_owned(),
        names => format!("{} active", names.join(", ")),
    };
    let learning = if is_learning { "; still learning" } else { "" };
    format!("{active}; {}{learning}", super::counted(bans, "ban"))
}

/// Nagios' performance data: `c` is a counter.
pub(crate) fn performance(bans: u64, dropped: u64, requests: u64, rate: f64) -> String {
    format!("bans={bans} dropped={dropped}c requests={requests}c rate={rate:.2}")
}
