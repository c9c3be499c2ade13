//! Bans that the ledger has and the audit log has not: an agent that is killed has committed a ban, and told the kernel, some
//! moments before it recorded it. The next start writes these lines late, once each.

use std::collections::HashSet;
use std::fs::File;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Deserialize;

use super::{files, read_tail};
use crate::store::reader::{Made, Reader};
use shield_engine::action::BanRecord;
use shield_engine::client::Client;
use shield_engine::time::Now;

/// Bytes of the log's end that are compared with the ledger. What is missing is the end of what an agent did before it died.
const COMPARED_BYTES: u64 = 4 << 20;

/// Bans of the ledger that are compared, at most.
const COMPARED_BANS: u32 = 20_000;

/// The end of the log, as far as it is about bans.
#[derive(Debug, Default)]
struct End {
    /// When its first line was written, in milliseconds since the Unix epoch; `None` of the whole log: then nothing was before.
    since_ms: Option<i64>,
    /// The smallest serial number in it.
    from_serial: Option<u64>,
    /// A ban keeps its client and its start when it is extended under another serial number.
    recorded: HashSet<(Client, i64)>,
    lines: u64,
}

#[derive(Deserialize)]
struct Line {
    seq: u64,
    at: jiff::Timestamp,
    event: String,
    client: Option<Client>,
    serial: Option<u64>,
    since_ms: Option<i64>,
}

impl End {
    fn add(&mut self, line: &[u8]) {
        let Ok(line) = serde_json::from_slice::<Line>(line) else { return };
        if self.lines == 0 && line.seq > 1 {
            self.since_ms = Some(line.at.as_millisecond());
        }
        self.lines += 1;
        if line.event != "banned" {
            return;
        }
        self.recorded.extend(line.client.zip(line.since_ms));
        self.from_serial = self.from_serial.into_iter().chain(line.serial).min();
    }

    /// Whether a ban belongs into this end of the log and is not there.
    fn lacks(&self, ban: &Made) -> bool {
        let is_after = match (self.since_ms, self.from_serial) {
            (None, _) => true,
            (Some(since), from) => ban.since_ms >= since && from.is_none_or(|from| ban.serial > from),
        };
        is_after && !self.recorded.contains(&(ban.client, ban.since_ms))
    }
}

/// The bans that the log lacks, in the order in which they were made, without those with the reason `except`.
///
/// # Errors
/// When the log or the database cannot be read.
pub(crate) fn missing(log: &Path, ledger: &Reader, except: &str, now: Now) -> Result<Vec<BanRecord>> {
    let end = end_of(log)?;
    if end.lines == 0 {
        // Without a line nobody can tell a log that was never begun from one that was taken away.
        return Ok(Vec::new());
    }
    let mut missing = ledger.newest_bans(COMPARED_BANS, now, |ban| end.lacks(ban))?;
    missing.retain(|ban| ban.reason.as_deref() != Some(except));
    missing.sort_by_key(|ban| ban.ban.serial);
    // They are in the database alone.
    missing.iter_mut().filter_map(|ban| ban.evidence.as_mut()).for_each(|evidence| evidence.lines.clear());
    Ok(missing)
}

/// The end of the log, reaching into the newest rotated file where the log was rotated only just now.
fn end_of(log: &Path) -> Result<End> {
    let mut end = End::default();
    for_each_at_the_end(log, COMPARED_BYTES, |line| end.add(line))?;
    Ok(end)
}

/// Calls `each` with the lines of the log's last `bytes`, and before them with those of the newest rotated file where the log
/// itself has less than half as many. The first line may be cut.
///
/// # Errors
/// When the log cannot be read. A damaged file before it is read as far as it can be; the log itself records the damage.
pub(super) fn for_each_at_the_end(log: &Path, bytes: u64, mut each: impl FnMut(&[u8])) -> Result<()> {
    let (tail, len) = match File::open(log) {
        Ok(mut file) => {
            let len = file.metadata()?.len();
            let tail = read_tail(&mut file, len, bytes)
                .with_context(|| format!("could not read the end of {}", log.display()))?;
            (tail, len)
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => (Vec::new(), 0),
        Err(error) => return Err(error).with_context(|| format!("could not open {}", log.display())),
    };
    let has_folder = log.parent().is_none_or(|dir| dir.as_os_str().is_empty() || dir.exists());
    if has_folder && len < bytes / 2 {
        let family = files::family(log)?;
        if let Some(newest) = family.iter().rfind(|path| *path != log) {
            let _ = files::for_each_line(newest, |_, line| {
                each(line);
                Ok(())
            });
        }
    }
    tail.split(|byte| *byte == b'\n').for_each(each);
    Ok(())
}
