//! The audit log: one event a line, appended before the event is sent anywhere else, never rewritten.
//!
//! Each line is JSON: `seq` (grows by one), `at` (RFC 3339, UTC), `prev` (the hash of the line before), the event's own
//! fields, and last `hash`. [`chain`] makes and verifies the hashes, [`files`] finds rotated files. This file
//! writes: it continues after the last line, follows a rotation, repairs the end that a crash tore, and counts what a
//! full disk refused so that the gap itself is on record.

pub(crate) mod chain;
pub(crate) mod files;
pub(crate) mod late;
pub(crate) mod recent;
pub(crate) mod report;

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Serialize;

use self::chain::{End, Head};
use crate::store::audit_head::{AuditHead, AuditHeads};
use shield_engine::action::{BanRecord, Notice};
use shield_engine::time::Now;

const FILE_MODE: u32 = 0o640;
const DIR_MODE: u32 = 0o750;
/// Bytes of the end of the file that are read at the start; no line is longer.
const TAIL_BYTES: u64 = 1 << 20;

/// Lines about the log itself.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Remark<'a> {
    /// The line before this one was not finished (a crash, a full disk). It stays as it is.
    TornLine {
        bytes: u64,
        /// SHA-256 of these bytes.
        sha256: &'a str,
    },
    /// A rotated file was damaged when the log was opened: the chain continues from the newest line that could be read.
    DamagedFile { file: &'a str, because: &'a str },
    /// The log ended before a line that is known to have been written: lines were cut off or the file was emptied, or the
    /// machine lost power before they reached the disk.
    LinesLost {
        /// The last line that was found; 0 for none.
        found: u64,
        /// The last line that was written.
        written: u64,
    },
    /// Events before this line could not be written.
    AuditGap {
        missing: u64,
        since: &'a str,
        /// The first error.
        because: &'a str,
    },
}

/// A ban of the ledger that an agent was killed too soon to record.
#[derive(Debug, Serialize)]
struct Late<'a> {
    #[serde(flatten)]
    notice: &'a Notice,
    late: bool,
}

/// What is known of the log from elsewhere, and who wants to know of it.
#[derive(Debug, Clone, Default)]
pub(crate) struct AuditRecord {
    /// The end that the database remembers.
    pub expected: Option<AuditHead>,
    /// Bans to be recorded before anything else.
    pub late: Vec<BanRecord>,
    /// Receives each new end.
    pub heads: AuditHeads,
}

/// The log, open for appending.
#[derive(Debug)]
pub struct AuditLog {
    path: PathBuf,
    open: Option<OpenFile>,
    head: Option<Head>,
    gap: Option<Gap>,
    /// Damaged files that are not on record yet.
    damages: Vec<files::Damage>,
    record: AuditRecord,
    /// The last line of the log as found and as written, when lines are missing and that is not on record yet.
    lost: Option<(u64, u64)>,
}

#[derive(Debug)]
struct OpenFile {
    file: File,
    /// Device and inode: a path that leads elsewhere was rotated.
    id: (u64, u64),
    /// Its length after the last line: a shorter one was cut.
    len: u64,
}

/// The repair that a file's end needs.
#[derive(Debug, PartialEq, Eq)]
enum Mend {
    Nothing,
    Newline,
    Torn { bytes: u64, sha256: String },
}

#[derive(Debug)]
struct Gap {
    missing: u64,
    since: String,
    because: String,
}

impl AuditLog {
    /// A log of which nothing is known.
    #[cfg(any(test, feature = "test-support"))]
    pub fn new(path: &Path) -> AuditLog {
        AuditLog::resume(path, AuditRecord::default())
    }

    /// A log at this path, with what is known of it from the last run. The first event opens the file; after a failure every
    /// later event tries again, so that the log goes on as soon as the disk allows.
    pub(crate) fn resume(path: &Path, record: AuditRecord) -> AuditLog {
        let path = path.to_owned();
        AuditLog { path, open: None, head: None, gap: None, damages: Vec::new(), record, lost: None }
    }

    /// Appends an event. A failed event is counted; the next one that can be written is preceded by a line with the
    /// number of missing events.
    pub fn append(&mut self, notice: &Notice, now: Now) -> Result<()> {
        let appended = self.try_append(notice, now);
        match &appended {
            Ok(()) => self.gap = None,
            Err(error) => self.count_missing(error, now),
        }
        appended
    }

    fn try_append(&mut self, notice: &Notice, now: Now) -> Result<()> {
        let at = stamp(now.wall_ms);
        let mend = self.open_if_needed()?;
        let mut head = self.head.clone().unwrap_or_default();
        let mut text = Vec::new();
        if mend != Mend::Nothing {
            text.push(b'\n');
        }
        if let Mend::Torn { bytes, sha256 } = &mend {
            head = chain::append(&mut text, &head, &at, &Remark::TornLine { bytes: *bytes, sha256 })?;
        }
        if let Some((found, written)) = self.lost {
            head = chain::append(&mut text, &head, &at, &Remark::LinesLost { found, written })?;
        }
        for damage in &self.damages {
            let remark = Remark::DamagedFile { file: &damage.file, because: &damage.because };
            head = chain::append(&mut text, &head, &at, &remark)?;
        }
        if let Some(gap) = &self.gap {
            let remark = Remark::AuditGap { missing: gap.missing, since: &gap.since, because: &gap.because };
            head = chain::append(&mut text, &head, &at, &remark)?;
        }
        for ban in &self.record.late {
            let notice = Notice::Banned(Box::new(ban.clone()));
            head = chain::append(&mut text, &head, &at, &Late { notice: &notice, late: true })?;
        }
        head = chain::append(&mut text, &head, &at, notice)?;
        self.write(&text)?;
        let path = self.path.display().to_string();
        self.record.heads.set(AuditHead { path, seq: head.seq, hash: head.hash.clone() });
        self.head = Some(head);
        self.damages.clear();
        self.record.late.clear();
        self.lost = None;
        Ok(())
    }

    /// Writes all or, as far as the file system allows, nothing. The rest of a failed write is repaired as a torn line
    /// when the file is opened again.
    fn write(&mut self, text: &[u8]) -> Result<()> {
        let Some(open) = &mut self.open else { return Ok(()) };
        let written = write_or_undo(&mut open.file, text);
        match written {
            Ok(()) => open.len += text.len() as u64,
            Err(_) => self.open = None,
        }
        written.with_context(|| format!("could not write to the audit log {}", self.path.display()))
    }

    /// Opens the file when it is not open or was rotated; returns the repair that its end needs.
    fn open_if_needed(&mut self) -> Result<Mend> {
        let current = std::fs::metadata(&self.path).ok().map(|meta| ((meta.dev(), meta.ino()), meta.len()));
        let is_open = |open: &OpenFile| current.is_some_and(|(id, len)| open.id == id && len >= open.len);
        if self.open.as_ref().is_some_and(is_open) {
            return Ok(Mend::Nothing);
        }
        let is_cut = self.open.as_ref().is_some_and(|open| current.is_some_and(|(id, _)| open.id == id));
        let shown = self.path.display().to_string();
        let mut file = create(&self.path).with_context(|| format!("could not open the audit log {shown}"))?;
        let meta = file.metadata()?;
        let tail = read_tail(&mut file, meta.len(), TAIL_BYTES)
            .with_context(|| format!("could not read the end of {shown}"))?;
        let (last, end) = chain::end_of(&tail);
        if self.head.is_none() || is_cut {
            let found = match last {
                Some(head) => Some(head),
                None => {
                    let (head, damages) = files::newest_head(&self.path)?;
                    self.damages = damages;
                    head
                }
            };
            let written = self.head.take().or_else(|| self.remembered());
            self.head = self.newer(found, written);
        }
        self.open = Some(OpenFile { file, id: (meta.dev(), meta.ino()), len: meta.len() });
        Ok(match end {
            End::Clean => Mend::Nothing,
            End::NoNewline => Mend::Newline,
            End::Torn(torn) => Mend::Torn { bytes: torn.len() as u64, sha256: chain::hex_sha256(torn) },
        })
    }

    /// The head that the database has of this log.
    fn remembered(&self) -> Option<Head> {
        let head = self.record.expected.as_ref().filter(|head| Path::new(&head.path) == self.path)?;
        Some(Head { seq: head.seq, hash: head.hash.clone() })
    }

    /// The head to continue from. When the log ends before a line that was written, that line: the gap stays visible in the
    /// chain, and goes on record.
    fn newer(&mut self, found: Option<Head>, written: Option<Head>) -> Option<Head> {
        let Some(written) = written else { return found };
        let found_seq = found.as_ref().map_or(0, |head| head.seq);
        if found_seq >= written.seq {
            return found;
        }
        self.lost = Some((found_seq, written.seq));
        Some(written)
    }

    fn count_missing(&mut self, error: &anyhow::Error, now: Now) {
        let gap = self.gap.get_or_insert_with(|| Gap {
            missing: 0,
            since: stamp(now.wall_ms),
            because: format!("{error:#}"),
        });
        gap.missing += 1;
    }
}

/// Appends all of `text`, or truncates the file to its length before.
fn write_or_undo(file: &mut File, text: &[u8]) -> io::Result<()> {
    let mut rest = text;
    while !rest.is_empty() {
        match file.write(rest) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => rest = &rest[written..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                let appended = (text.len() - rest.len()) as u64;
                if appended > 0
                    && let Ok(meta) = file.metadata()
                {
                    // When this fails as well, the torn line is found when the file is opened again.
                    let _ = file.set_len(meta.len().saturating_sub(appended));
                }
                return Err(error);
            }
        }
    }
    Ok(())
}

fn create(path: &Path) -> Result<File> {
    if let Some(dir) = path.parent().filter(|dir| !dir.exists()) {
        use std::os::unix::fs::DirBuilderExt;
        std::fs::DirBuilder::new().recursive(true).mode(DIR_MODE).create(dir)?;
    }
    Ok(OpenOptions::new().read(true).append(true).create(true).mode(FILE_MODE).open(path)?)
}

fn read_tail(file: &mut File, len: u64, bytes: u64) -> Result<Vec<u8>> {
    file.seek(SeekFrom::Start(len.saturating_sub(bytes)))?;
    let mut tail = Vec::new();
    file.take(bytes).read_to_end(&mut tail)?;
    Ok(tail)
}

/// A moment as RFC 3339 in UTC, in milliseconds.
pub(crate) fn stamp(wall_ms: i64) -> String {
    let time = jiff::Timestamp::from_millisecond(wall_ms).unwrap_or_default();
    time.strftime("%Y-%m-%dT%H:%M:%S.%3fZ").to_string()
}

#[cfg(test)]
mod tests;
