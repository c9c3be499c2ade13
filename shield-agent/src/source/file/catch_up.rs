//! Finds where in a log the lines of a given time begin, by bisection, because a log can be many gigabytes.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::log::OpenLog;
use super::mark::Mark;
use shield_engine::time::EventSecs;
use shield_logline::{Output, Parser};

/// Below this many bytes the lines are read one after another.
const LINEAR_BYTES: u64 = 64 * 1024;

/// Puts the mark of a log at the first line of time `since` or later.
///
/// An access log is in order but for a second or two, because lines are written when a request ends. Bisection misses the
/// right line by no more than that disorder.
pub(super) fn start_since(
    log: &mut OpenLog,
    since: EventSecs,
    max_line_bytes: usize,
    parser: &mut Parser,
) -> io::Result<()> {
    let Some(file) = log.plain() else { return Ok(()) };
    let mut search =
        Search { file, since, window_bytes: (2 * max_line_bytes).max(LINEAR_BYTES as usize), parser };
    let offset = search.bisect(file.metadata()?.len())?;
    let mark = Mark::at(file, offset)?;
    log.mark = mark;
    Ok(())
}

struct Search<'a> {
    file: &'a File,
    since: EventSecs,
    window_bytes: usize,
    parser: &'a mut Parser,
}

impl Search<'_> {
    /// Returns the start of the first line that is late enough, or of the last one.
    fn bisect(&mut self, len: u64) -> io::Result<u64> {
        // Invariant: every line that starts before `early` is too early, and the result is not behind `late`.
        let (mut early, mut late) = (0, len);
        while late - early > LINEAR_BYTES {
            let middle = early + (late - early) / 2;
            match self.first_line_after(middle)? {
                Some((start, time)) if time < self.since && start < late => early = start,
                _ => late = middle,
            }
        }
        self.walk(early, len)
    }

    /// Returns the first readable line that starts behind `offset`, and its time.
    fn first_line_after(&mut self, offset: u64) -> io::Result<Option<(u64, EventSecs)>> {
        let window = self.window(offset)?;
        let Some(first) = memchr::memchr(b'\n', &window) else { return Ok(None) };
        Ok(self.timed_lines(&window, first + 1).next().map(|(at, time)| (offset + at as u64, time)))
    }

    fn walk(&mut self, from: u64, len: u64) -> io::Result<u64> {
        let mut at = from;
        while at < len {
            let window = self.window(at)?;
            let since = self.since;
            if let Some((found, _)) = self.timed_lines(&window, 0).find(|(_, time)| *time >= since) {
                return Ok(at + found as u64);
            }
            match memchr::memrchr(b'\n', &window) {
                Some(newline) => at += newline as u64 + 1,
                None => break,
            }
        }
        Ok(at.min(len))
    }

    /// Yields the start and time of every request among the window's complete lines from `from` on.
    fn timed_lines<'w>(
        &'w mut self,
        window: &'w [u8],
        from: usize,
    ) -> impl Iterator<Item = (usize, EventSecs)> + 'w {
        let starts =
            std::iter::once(from).chain(memchr::memchr_iter(b'\n', window).map(|newline| newline + 1));
        starts.filter(move |start| *start >= from).filter_map(move |start| {
            let len = memchr::memchr(b'\n', window.get(start..)?)?;
            let mut line = window.get(start..start + len)?.to_vec();
            let mut out = Output::default();
            self.parser.parse_single(&mut line, 0, len, &mut out);
            Some((start, out.lines.first()?.time))
        })
    }

    fn window(&self, at: u64) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; self.window_bytes];
        let mut filled = 0;
        while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match self.file.read_at(rest, at + filled as u64)? {
                0 => break,
                read => filled += read,
            }
        }
        bytes.truncate(filled);
        Ok(bytes)
    }
}
