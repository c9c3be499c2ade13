//! Waiting for something real: polling with a deadline, and an error that names what did not happen.
//!
//! Every wait ends early when somebody interrupts (Ctrl-C), so that what was made is cleaned up on the way out.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Between two looks. Short against everything that is measured with it (bans take milliseconds).
const PAUSE: Duration = Duration::from_millis(2);

static IS_INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Ends every wait of this process, until [`resume`].
pub fn interrupt() {
    IS_INTERRUPTED.store(true, Ordering::Relaxed);
}

/// Waits work again, for those who clean up after an interruption.
pub fn resume() {
    IS_INTERRUPTED.store(false, Ordering::Relaxed);
}

/// Looks again and again until `look` answers, and returns its answer.
///
/// # Errors
/// When nothing came within `at_most` (the error says what was waited for), and at once when `look` itself fails or
/// somebody interrupted.
pub fn until<T>(what: &str, at_most: Duration, mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let deadline = Instant::now() + at_most;
    loop {
        if let Some(answer) = look()? {
            return Ok(answer);
        }
        if Instant::now() >= deadline {
            bail!("waited {at_most:?} for {what}, in vain");
        }
        check_interrupted()?;
        std::thread::sleep(PAUSE);
    }
}

/// Lets time pass while others do something.
///
/// # Errors
/// When somebody interrupted.
pub fn pass(duration: Duration) -> Result<()> {
    let end = Instant::now() + duration;
    while Instant::now() < end {
        check_interrupted()?;
        std::thread::sleep(PAUSE);
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
    fn answers_as_soon_as_there_is_one_and_names_what_never_came() {
        let mut looks = 0;
        let third = until("the third look", Duration::from_secs(5), || {
            looks += 1;
            Ok((looks == 3).then_some(looks))
        });
        assert_eq!(third.unwrap(), 3);
        let never = until("Godot", Duration::from_millis(5), || Ok(None::<()>)).unwrap_err();
        assert!(never.to_string().contains("for Godot"), "{never}");
    }
}
