//! Waits for real events: polls with a deadline, and names the missing event in the error.
//!
//! Every wait ends early after an interruption (Ctrl-C), so that destructors run and clean up.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Short compared with everything that is measured with it (bans take milliseconds).
const POLL_INTERVAL: Duration = Duration::from_millis(2);

static IS_INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Makes every wait of this process fail until [`resume`].
pub fn interrupt() {
    IS_INTERRUPTED.store(true, Ordering::Relaxed);
}

/// Re-enables waits, for the clean-up after an interruption.
pub fn resume() {
    IS_INTERRUPTED.store(false, Ordering::Relaxed);
}

/// Calls `poll` until it returns a value.
///
/// # Errors
/// Fails if there is no value within `at_most` (the error names `what`), and at once if `poll` fails or after an
/// interruption.
pub fn until<T>(what: &str, at_most: Duration, mut poll: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let deadline = Instant::now() + at_most;
    loop {
        if let Some(answer) = poll()? {
            return Ok(answer);
        }
        if Instant::now() >= deadline {
            bail!("timed out after {at_most:?} waiting for {what}");
        }
        check_interrupted()?;
        std::thread::sleep(POLL_INTERVAL);
    }
}

/// Sleeps, but can be interrupted.
///
/// # Errors
/// Fails after an interruption.
pub fn sleep(duration: Duration) -> Result<()> {
    let end = Instant::now() + duration;
    while Instant::now() < end {
        check_interrupted()?;
        std::thread::sleep(POLL_INTERVAL);
    }
    Ok(())
}

fn check_interrupted() -> Result<()> {
    if IS_INTERRUPTED.load(Ordering::Relaxed) {
        bail!("interrupted");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_value_is_returned_and_a_missing_one_is_named() {
        let mut polls = 0;
        let third = until("the third poll", Duration::from_secs(5), || {
            polls += 1;
            Ok((polls == 3).then_some(polls))
        });
        assert_eq!(third.unwrap(), 3);
        let never = until("Godot", Duration::from_millis(5), || Ok(None::<()>)).unwrap_err();
        assert!(never.to_string().contains("for Godot"), "{never}");
    }
}
