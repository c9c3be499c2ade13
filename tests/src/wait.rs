//! Waiting for something real: polling with a deadline, and an error that names what did not happen.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Between two looks. Short against everything that is measured with it (bans take milliseconds).
const PAUSE: Duration = Duration::from_millis(2);

/// Looks again and again until `look` answers, and returns its answer.
///
/// # Errors
/// When nothing came within `at_most` (the error says what was waited for), and at once when `look` itself fails.
pub fn until<T>(what: &str, at_most: Duration, mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let deadline = Instant::now() + at_most;
    loop {
        if let Some(answer) = look()? {
            return Ok(answer);
        }
        if Instant::now() >= deadline {
            bail!("waited {at_most:?} for {what}, in vain");
        }
        std::thread::sleep(PAUSE);
    }
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
