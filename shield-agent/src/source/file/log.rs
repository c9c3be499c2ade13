//! One open log file, plain or packed, read in blocks of whole lines from its mark on.
//!
//! The file of a log that nothing is written to can be closed ([`OpenLog::park`]) without losing the place: a server can have
//! thousands of logs, and fewer descriptors.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use memchr::memchr;

use super::access;
use super::mark::{FileId, Fingerprint, HEAD_BYTES, Mark, SavedMark, TAIL_BYTES, modified_ns};
use crate::source::unpack::Packing;
use shield_engine::request::Rejected;
use shield_logline::{Output, Parser};

/// The outcome of a read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// Complete lines, which may all be refused ones.
    Lines,
    /// No complete line behind the mark, at most the beginning of one.
    End,
    /// The bytes before the mark are not those that were read: the file was truncated, and maybe written anew.
    Rewritten,
}

/// An open log.
#[derive(Debug)]
pub(super) struct OpenLog {
    pub id: FileId,
    /// The name it was opened by.
    pub path: PathBuf,
    /// The position up to which the file is read.
    pub mark: Mark,
    /// See [`SavedMark::modified_ns`]; `i64::MIN` when nothing was read since it was opened at its start.
    modified_ns: i64,
    /// The last write before it was opened: nanoseconds since the Unix epoch.
    opened_ns: i64,
    /// Length and time of the last write when nothing complete was left to read. While both stay the same, the file need
    /// not be read again.
    ended: Option<(u64, i64)>,
    content: Content,
}

#[derive(Debug)]
enum Content {
    Plain(File),
    Packed(Box<Packed>),
    /// Closed meanwhile; its name is [`OpenLog::path`].
    Parked,
}

/// A packed file can be read forwards only, so `ahead` keeps the bytes unpacked behind the mark until they are parsed.
struct Packed {
    text: Box<dyn Read + Send>,
    ahead: Vec<u8>,
    len_bytes: u64,
    read_bytes: Arc<AtomicU64>,
    /// The reason why it could be unpacked only up to here.
    damage: Option<String>,
}

impl std::fmt::Debug for Packed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Packed").field("ahead", &self.ahead.len()).finish_non_exhaustive()
    }
}

/// A packed file, whose bytes are counted as they are read.
struct Counted {
    file: File,
    read_bytes: Arc<AtomicU64>,
}

impl Read for Counted {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(room)?;
        self.read_bytes.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

impl OpenLog {
    /// Opens a regular file at its start.
    pub(super) fn open(path: &Path) -> io::Result<OpenLog> {
        let file = access::open_regular(path)?;
        let meta = file.metadata()?;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        // A packed file without content is one that is being written, or a log that was rotated empty.
        let content = match Packing::of_name(&name).filter(|_| meta.len() > 0) {
            Some((_, packing)) => Content::Packed(Box::new(Packed::new(file, meta.len(), packing)?)),
            None => Content::Plain(file),
        };
        Ok(OpenLog {
            id: FileId::of(&meta),
            path: path.to_owned(),
            mark: Mark::default(),
            modified_ns: i64::MIN,
            opened_ns: modified_ns(&meta),
            ended: None,
            content,
        })
    }

    /// Closes the file and keeps the place in it. Returns false when that cannot be done: it is packed, or has no name by which
    /// it could be opened again.
    pub(super) fn park(&mut self) -> bool {
        let Content::Plain(file) = &self.content else { return false };
        // The name that it has now: it may have been renamed since it was opened.
        let link = format!("/proc/self/fd/{}", file.as_raw_fd());
        let Ok(path) = std::fs::read_link(link) else { return false };
        if !super::claims::names(&path, self.id) {
            return false;
        }
        self.path = path;
        self.content = Content::Parked;
        true
    }

    pub(super) fn is_parked(&self) -> bool {
        matches!(self.content, Content::Parked)
    }

    /// Opens a parked file again unless it was read to its end and nothing was written to it since. Returns false when its name is another file's by now.
    pub(super) fn unpark_if_changed(&mut self) -> io::Result<bool> {
        if !self.is_parked() {
            return Ok(true);
        }
        let meta = match self.path.metadata() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            meta => meta?,
        };
        if FileId::of(&meta) != self.id {
            return Ok(false);
        }
        if self.ended == Some((meta.len(), modified_ns(&meta))) {
            return Ok(true);
        }
        let file = access::open_regular(&self.path)?;
        if FileId::of(&file.metadata()?) != self.id {
            return Ok(false);
        }
        self.content = Content::Plain(file);
        Ok(true)
    }

    /// Opens the file at `saved`'s offset; `None` when the bytes before it are not those that were read.
    pub(super) fn resume(path: &Path, saved: &SavedMark) -> io::Result<Option<OpenLog>> {
        let mut log = OpenLog::open(path)?;
        let mark = match &mut log.content {
            Content::Plain(file) => match Mark::at(file, saved.offset) {
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
                mark => mark?,
            },
            Content::Packed(packed) => match packed.skip_to(saved)? {
                Some(mark) => mark,
                None => return Ok(None),
            },
            Content::Parked => return Ok(None),
        };
        if !saved.head.matches(&mark.head) || !saved.tail.matches(&mark.tail) {
            return Ok(None);
        }
        log.mark = Mark { skipping: saved.skipping, ..mark };
        log.modified_ns = saved.modified_ns;
        Ok(Some(log))
    }

    /// Returns the mark in the form that is stored.
    pub(super) fn saved(&self) -> SavedMark {
        let mark = &self.mark;
        SavedMark {
            id: self.id,
            offset: mark.offset,
            head: Fingerprint::of(&mark.head),
            tail: Fingerprint::of(&mark.tail),
            skipping: mark.skipping,
            modified_ns: self.modified_ns,
        }
    }

    /// See [`SavedMark::modified_ns`].
    pub(super) fn modified_ns(&self) -> i64 {
        self.modified_ns
    }

    /// Returns the last write before it was opened: nanoseconds since the Unix epoch.
    pub(super) fn opened_ns(&self) -> i64 {
        self.opened_ns
    }

    /// Returns the file of a plain log.
    pub(super) fn plain(&self) -> Option<&File> {
        match &self.content {
            Content::Plain(file) => Some(file),
            Content::Packed(_) | Content::Parked => None,
        }
    }

    pub(super) fn is_packed(&self) -> bool {
        matches!(self.content, Content::Packed(_))
    }

    /// Returns why a packed file could not be unpacked to its end.
    pub(super) fn damage(&self) -> Option<&str> {
        match &self.content {
            Content::Packed(packed) => packed.damage.as_deref(),
            Content::Plain(_) | Content::Parked => None,
        }
    }

    /// Returns how many bytes are behind the mark. Those of a packed file count as packed: its unpacked length is not known.
    pub(super) fn unread_bytes(&self) -> u64 {
        match &self.content {
            Content::Plain(_) => {
                self.len_and_time().map_or(0, |(len, _)| len.saturating_sub(self.mark.offset))
            }
            Content::Packed(packed) => packed.unread_bytes(),
            Content::Parked => {
                let len = self.ended.map(|(len, _)| len);
                let len = len.or_else(|| self.path.metadata().ok().map(|meta| meta.len()));
                len.map_or(0, |len| len.saturating_sub(self.mark.offset))
            }
        }
    }

    /// Returns whether the file has no name any more, so that it is gone once its writer closes it.
    pub(super) fn is_deleted(&self) -> bool {
        self.plain().is_some_and(|file| file.metadata().is_ok_and(|meta| meta.nlink() == 0))
    }

    /// Returns whether the file is as it was at [`Found::End`].
    pub(super) fn is_unchanged(&self) -> bool {
        self.is_parked() || self.ended.is_some() && self.ended == self.len_and_time()
    }

    fn len_and_time(&self) -> Option<(u64, i64)> {
        let meta = self.plain()?.metadata().ok()?;
        Some((meta.len(), modified_ns(&meta)))
    }

    /// Moves the mark to the start of the line that `offset` is in, so that a line written half at the start is read whole.
    pub(super) fn start_at(&mut self, offset: u64, max_line_bytes: usize) -> io::Result<()> {
        let Some(file) = self.plain() else { return Ok(()) };
        let window = offset.min(max_line_bytes as u64 + 1);
        let mut before = vec![0; window as usize];
        file.read_exact_at(&mut before, offset - window)?;
        let newline = memchr::memrchr(b'\n', &before);
        let start = match newline {
            Some(at) => offset - window + at as u64 + 1,
            None if window == offset => 0,
            None => offset,
        };
        let mut mark = Mark::at(file, start)?;
        mark.skipping = newline.is_none() && start != 0;
        self.mark = mark;
        Ok(())
    }

    /// Reads one block of at most `max_bytes` into `block` and parses its lines.
    pub(super) fn read(
        &mut self,
        block: &mut Vec<u8>,
        max_bytes: usize,
        parser: &mut Parser,
        out: &mut Output,
    ) -> io::Result<Found> {
        // Queried before reading, so that what is written meanwhile shows as a change.
        let before = self.len_and_time();
        let overlap = self.overlap();
        let end = self.fill(block, overlap, max_bytes)?;
        if end < overlap || block.get(..overlap) != Some(self.mark.tail.get(..overlap).unwrap_or_default()) {
            return Ok(Found::Rewritten);
        }
        // Only after the check above: nothing was read of a file that was rewritten.
        self.modified_ns = before.map_or(self.opened_ns, |(_, time)| time);
        let from = self.skip_long_line(block, overlap, end);
        let mut upto = parser.parse_block(block, from, end, out);
        if upto == overlap && end == overlap + max_bytes {
            out.reject(Rejected::TooLong);
            parser.skipped();
            self.mark.skipping = true;
            upto = end;
        }
        self.advance(block.get(overlap..upto).unwrap_or_default());
        self.ended = before.filter(|_| upto == overlap);
        if upto == overlap { Ok(Found::End) } else { Ok(Found::Lines) }
    }

    /// Parses the bytes behind the last newline, as the last line of a file that is not written to any more.
    pub(super) fn read_rest(
        &mut self,
        block: &mut Vec<u8>,
        max_bytes: usize,
        parser: &mut Parser,
        out: &mut Output,
    ) -> io::Result<()> {
        let overlap = self.overlap();
        let end = self.fill(block, overlap, max_bytes)?;
        if end > overlap && !self.mark.skipping {
            parser.parse_single(block, overlap, end, out);
        }
        self.advance(block.get(overlap..end.max(overlap)).unwrap_or_default());
        Ok(())
    }

    /// Returns the first bytes of a file that was just opened at its start, by which a copy is recognised.
    pub(super) fn head(&mut self) -> io::Result<Vec<u8>> {
        let mut head = Vec::new();
        let len = self.fill(&mut head, 0, HEAD_BYTES)?;
        head.truncate(len);
        Ok(head)
    }

    /// Returns how many bytes before the mark are read again to check that they are the same.
    fn overlap(&self) -> usize {
        match self.content {
            Content::Plain(_) => self.mark.tail.len().min(TAIL_BYTES),
            Content::Packed(_) | Content::Parked => 0,
        }
    }

    fn fill(&mut self, block: &mut Vec<u8>, overlap: usize, max_bytes: usize) -> io::Result<usize> {
        let wanted = overlap + max_bytes;
        // A reused block is longer, by the text appended to it, so this cuts it and zeroes nothing.
        block.resize(wanted, 0);
        match &mut self.content {
            Content::Plain(file) => fill_at(file, block, self.mark.offset - overlap as u64),
            Content::Packed(packed) => Ok(packed.peek(block)),
            Content::Parked => Ok(0),
        }
    }

    /// Returns where the line after a too long one starts in the block, or the block's end when it starts behind it.
    fn skip_long_line(&mut self, block: &[u8], from: usize, end: usize) -> usize {
        if !self.mark.skipping {
            return from;
        }
        match memchr(b'\n', block.get(from..end).unwrap_or_default()) {
            Some(len) => {
                self.mark.skipping = false;
                from + len + 1
            }
            None => end,
        }
    }

    fn advance(&mut self, read: &[u8]) {
        self.mark.advance(read);
        if let Content::Packed(packed) = &mut self.content {
            packed.ahead.drain(..read.len().min(packed.ahead.len()));
        }
    }
}

impl Packed {
    fn new(file: File, len_bytes: u64, packing: Packing) -> io::Result<Packed> {
        let read_bytes = Arc::new(AtomicU64::new(0));
        let counted = Counted { file, read_bytes: Arc::clone(&read_bytes) };
        let text = packing.unpack(BufReader::new(counted))?;
        Ok(Packed { text, ahead: Vec::new(), len_bytes, read_bytes, damage: None })
    }

    /// Unpacks until `room` can be filled or the text ends, and copies the text without consuming it.
    ///
    /// What precedes the damage of a damaged file is read like any other text.
    fn peek(&mut self, room: &mut [u8]) -> usize {
        let missing = room.len().saturating_sub(self.ahead.len());
        if missing > 0 && self.damage.is_none() {
            let read = self.text.by_ref().take(missing as u64).read_to_end(&mut self.ahead);
            self.damage = read.err().map(|error| error.to_string());
        }
        let len = room.len().min(self.ahead.len());
        room.get_mut(..len).unwrap_or_default().copy_from_slice(self.ahead.get(..len).unwrap_or_default());
        len
    }

    /// Returns how many packed bytes of the file were not read yet.
    fn unread_bytes(&self) -> u64 {
        self.len_bytes.saturating_sub(self.read_bytes.load(Ordering::Relaxed))
    }

    /// Unpacks and drops everything before the saved offset. Returns the mark there; `None` when the text is shorter, or
    /// begins otherwise.
    fn skip_to(&mut self, saved: &SavedMark) -> io::Result<Option<Mark>> {
        let mut mark = Mark::default();
        let mut chunk = vec![0; 64 * 1024];
        while mark.offset < saved.offset {
            let wanted = (saved.offset - mark.offset).min(chunk.len() as u64) as usize;
            let read = self.text.read(chunk.get_mut(..wanted).unwrap_or_default())?;
            if read == 0 {
                return Ok(None);
            }
            mark.advance(chunk.get(..read).unwrap_or_default());
            // Most old logs differ in their first line: they need not be unpacked any further.
            let is_head_whole = mark.head.len() == HEAD_BYTES || mark.offset == saved.offset;
            if is_head_whole && !saved.head.matches(&mark.head) {
                return Ok(None);
            }
        }
        Ok(Some(mark))
    }
}

/// Reads until `room` is full or the file ends.
fn fill_at(file: &File, room: &mut [u8], at: u64) -> io::Result<usize> {
    let mut filled = 0;
    while let Some(rest) = room.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, at + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
