//! The last events of the log, for whoever looks at the agent after a restart.

use std::collections::VecDeque;
use std::path::Path;

use anyhow::Result;
use serde::Deserialize;

use super::late::for_each_at_the_end;
use shield_engine::action::Notice;

/// Bytes of the log's end that are looked through.
const READ_BYTES: u64 = 1 << 20;

#[derive(Deserialize)]
struct Line {
    at: jiff::Timestamp,
    #[serde(flatten)]
    notice: Notice,
}

/// The last events with their times (wall clock, ms), oldest first, at most `limit`. Lines about the log itself are none, nor
/// is what another version of Shield wrote and this one does not know.
///
/// # Errors
/// When the log cannot be read.
pub(crate) fn recent(log: &Path, limit: usize) -> Result<Vec<(i64, Notice)>> {
    let mut last = VecDeque::new();
    for_each_at_the_end(log, READ_BYTES, |line| {
        let Ok(line) = serde_json::from_slice::<Line>(line) else { return };
        if last.len() == limit {
            last.pop_front();
        }
        last.push_back((line.at.as_millisecond(), line.notice));
    })?;
    Ok(last.into())
}
