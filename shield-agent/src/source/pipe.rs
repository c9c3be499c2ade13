//! A named pipe, read like a stream: nothing in it can be read twice, so its batches have no checkpoint.
//!
//! The agent never waits in the opening of a pipe, and keeps it open while writers come and go, so that a writer that reloads
//! neither waits for a reader nor is killed for want of one.

use std::cell::Cell;
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;
use std::rc::Rc;

use nix::fcntl::{FcntlArg, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::FileId;
use shield_logline::stream::Input;
use shield_logline::{Output, Settings};

/// The longest wait for bytes: in between the thread checks whether it was stopped.
const WAIT_MS: u16 = 200;

/// The room asked for in the pipe. The kernel's 64 KiB are a fraction of a second of a busy server, and then nginx waits.
const ROOM_BYTES: i32 = 1 << 20;

/// What a pipe gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// Bytes, whose complete lines are in the output.
    Bytes,
    /// A program has it open and wrote nothing.
    Nothing,
    /// No program has it open for writing. The last line of the one that had is in the output.
    NoWriter,
}

/// An open pipe.
#[derive(Debug)]
pub(super) struct Pipe {
    id: FileId,
    input: Input<Reader>,
    file: File,
    /// A byte that was read to learn whether there is a writer.
    peeked: Rc<Cell<Option<u8>>>,
    has_writer: bool,
}

#[derive(Debug)]
struct Reader {
    file: File,
    peeked: Rc<Cell<Option<u8>>>,
}

impl Read for Reader {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        match (self.peeked.take(), room.first_mut()) {
            (Some(byte), Some(first)) => {
                *first = byte;
                Ok(1)
            }
            _ => self.file.read(room),
        }
    }
}

/// Returns whether a pipe lies at `path`.
pub(super) fn is_pipe(path: &Path) -> bool {
    path.metadata().is_ok_and(|meta| meta.file_type().is_fifo())
}

impl Pipe {
    /// Opens a pipe without waiting for a writer.
    pub(super) fn open(path: &Path, format: &Settings) -> io::Result<Pipe> {
        let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
        let meta = file.metadata()?;
        if !meta.file_type().is_fifo() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a named pipe any more"));
        }
        // More room is a help and no need: the system may have a lower limit.
        let _ = fcntl(&file, FcntlArg::F_SETPIPE_SZ(ROOM_BYTES));
        let peeked = Rc::new(Cell::new(None));
        let reader = Reader { file: file.try_clone()?, peeked: Rc::clone(&peeked) };
        Ok(Pipe { id: FileId::of(&meta), input: Input::new(reader, format), file, peeked, has_writer: false })
    }

    /// Returns whether `path` still names this pipe.
    pub(super) fn is_at(&self, path: &Path) -> bool {
        path.metadata().is_ok_and(|meta| FileId::of(&meta) == self.id)
    }

    /// Waits for bytes, [`WAIT_MS`] at most, and parses the lines among them.
    pub(super) fn step(&mut self, block: &mut Vec<u8>, out: &mut Output) -> io::Result<Found> {
        let mut wanted = [PollFd::new(self.file.as_fd(), PollFlags::POLLIN)];
        match poll(&mut wanted, PollTimeout::from(WAIT_MS)) {
            Ok(0) if !self.has_writer => return self.look_for_writer(block, out),
            Ok(0) | Err(nix::errno::Errno::EINTR) => return Ok(Found::Nothing),
            Ok(_) => {}
            Err(error) => return Err(error.into()),
        }
        let events = wanted.first().and_then(PollFd::revents).unwrap_or(PollFlags::empty());
        if events.contains(PollFlags::POLLIN) {
            self.has_writer = true;
            return match self.input.step(block, out) {
                Ok(true) => Ok(Found::Bytes),
                Ok(false) => Ok(Found::NoWriter),
                Err(error) => Err(error),
            };
        }
        if std::mem::take(&mut self.has_writer) {
            // The end of the stream, for now: what the writer left without a newline is its last line.
            self.input.step(block, out)?;
        }
        Ok(Found::NoWriter)
    }

    /// Learns whether a program has the pipe open. `poll` does not tell it of a pipe that nobody has opened yet; a read does.
    fn look_for_writer(&mut self, block: &mut Vec<u8>, out: &mut Output) -> io::Result<Found> {
        let mut byte = [0];
        match self.file.read(&mut byte) {
            Ok(0) => Ok(Found::NoWriter),
            Ok(_) => {
                self.has_writer = true;
                self.peeked.set(Some(byte[0]));
                self.input.step(block, out)?;
                Ok(Found::Bytes)
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                self.has_writer = error.kind() == io::ErrorKind::WouldBlock;
                Ok(Found::Nothing)
            }
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    const LINE: &str = r#"{"source_ip":"192.0.2.7","timestamp":1795530901,"status":200}"#;

    #[test]
    fn writers_come_and_go_and_no_line_is_lost() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pipe");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let mut pipe = Pipe::open(&path, &Settings::default()).unwrap();
        let mut lines = |expected| {
            let (mut block, mut out) = (Vec::new(), Output::default());
            let found = pipe.step(&mut block, &mut out).unwrap();
            assert_eq!((found, out.lines.len()), expected);
        };
        lines((Found::NoWriter, 0));
        // Opening waits for a reader, and there is one.
        let open = || OpenOptions::new().write(true).open(&path).unwrap();
        let (half, rest) = LINE.split_at(20);
        let mut nginx = open();
        lines((Found::Nothing, 0));
        write!(nginx, "{LINE}\n{half}").unwrap();
        lines((Found::Bytes, 1));
        let mut worker = open();
        drop(nginx);
        lines((Found::Nothing, 0));
        write!(worker, "{rest}\n{LINE}").unwrap();
        lines((Found::Bytes, 1));
        drop(worker);
        lines((Found::NoWriter, 1));
        lines((Found::NoWriter, 0));
        writeln!(open(), "{LINE}").unwrap();
        lines((Found::Bytes, 1));
    }
}
