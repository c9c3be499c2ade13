//! The agent's wall clock is wrong, as after a start without a time server. The boot clock, which nobody can set, stays right.

use std::fs;

use anyhow::Result;

use crate::environment::Environment;
use crate::guard;

/// More than what a line's time may differ from the clock by default (`max_clock_skew`, 5 min).
const AHEAD_MS: u64 = 600_000;

/// Sets the clock ahead.
pub(super) fn set_ahead(environment: &Environment, server: &str) -> Result<String> {
    write(environment, server, AHEAD_MS)?;
    Ok(format!("the clock of the agent on {server} is ahead by {} min", AHEAD_MS / 60_000))
}

/// Sets it back to the right time.
pub(super) fn set_right(environment: &Environment, server: &str) -> Result<Vec<String>> {
    let text = fs::read_to_string(environment.clock(server)).unwrap_or_default();
    if text.trim().is_empty() || text.trim().bytes().all(|byte| byte == b'0') {
        return Ok(Vec::new());
    }
    write(environment, server, 0)?;
    Ok(vec![format!("the clock of the agent on {server} was wrong and is right again")])
}

/// Always as many digits, so that one write replaces all of what was there.
fn write(environment: &Environment, server: &str, ahead_ms: u64) -> Result<()> {
    let file = guard::folder(environment)?.create(&environment.clock(server))?;
    file.overwrite(&format!("{ahead_ms:020}\n"))
}
