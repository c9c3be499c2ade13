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
