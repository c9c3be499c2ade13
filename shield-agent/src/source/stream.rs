//! Lines that are in no file: nginx's syslog datagrams (`access_log syslog:server=unix:…`) and standard input.
//!
//! Neither can be read a second time, so their batches have no checkpoint.

use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;

use super::format::{Output, Parser, Settings};

/// How long a wait for a datagram lasts before the thread looks whether it is to stop.
const RECEIVE_TIMEOUT: Duration = Duration::from_millis(200);

/// Datagrams taken into one batch at most.
const MAX_DATAGRAMS: usize = 1024;

/// nginx's workers run as another user; the socket only takes lines in.
const SOCKET_MODE: u32 = 0o666;

/// Standard input is read by pieces of this size.
const READ_BYTES: usize = 256 * 1024;

/// A socket that nginx sends its lines to.
#[derive(Debug)]
pub struct Syslog {
    socket: UnixDatagram,
    path: PathBuf,
    parser: Parser,
    datagram: Vec<u8>,
}

impl Syslog {
    /// Binds the socket; one that a dead agent left behind is replaced.
    ///
    /// # Errors
    /// When something else is at `path`, somebody listens there, or the folder cannot be written to.
    pub fn bind(path: &Path, format: &Settings) -> anyhow::Result<Syslog> {
        remove_dead_socket(path)?;
        let socket =
            UnixDatagram::bind(path).with_context(|| format!("bind the syslog socket {}", path.display()))?;
        let mode = std::fs::Permissions::from_mode(SOCKET_MODE);
        std::fs::set_permissions(path, mode)
            .with_context(|| format!("let nginx write to {}", path.display()))?;
        socket.set_read_timeout(Some(RECEIVE_TIMEOUT)).context("set a timeout on the syslog socket")?;
        let datagram = vec![0; format.max_line_bytes + 1024];
        Ok(Syslog { socket, path: path.to_owned(), parser: Parser::new(format), datagram })
    }

    /// Waits a moment for datagrams and parses those that are there. False when there were none.
    ///
    /// # Errors
    /// When the socket cannot be read.
    pub fn step(&mut self, block: &mut Vec<u8>, out: &mut Output) -> io::Result<bool> {
        block.clear();
        let mut count = 0;
        while count < MAX_DATAGRAMS {
            match self.socket.recv(&mut self.datagram) {
                Ok(len) => self.take(len, block, out),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
            // Only the first wait may last; whatever else is there already is taken with it.
            self.socket.set_nonblocking(true)?;
            count += 1;
        }
        self.socket.set_nonblocking(false)?;
        Ok(count > 0)
    }

    fn take(&mut self, len: usize, block: &mut Vec<u8>, out: &mut Output) {
        let from = block.len();
        let datagram = self.datagram.get(..len).unwrap_or_default();
        block.extend_from_slice(message(datagram));
        let end = block.len();
        self.parser.parse_single(block, from, end, out);
    }
}

impl Drop for Syslog {
    fn drop(&mut self) {
        // It may be gone already, or the folder; then there is nothing to clean up.
        let _ = std::fs::remove_file(&self.path);
    }
}

fn remove_dead_socket(path: &Path) -> anyhow::Result<()> {
    let Ok(meta) = path.symlink_metadata() else { return Ok(()) };
    if !meta.file_type().is_socket() {
        anyhow::bail!("{} is there already and no socket; remove it or choose another path", path.display());
    }
    let probe = UnixDatagram::unbound().context("make a socket")?;
    if probe.connect(path).is_ok() {
        anyhow::bail!("another program listens on {}; stop it or choose another path", path.display());
    }
    std::fs::remove_file(path).with_context(|| format!("remove the dead socket {}", path.display()))
}

/// A syslog datagram without its header `<PRI>Mon dd hh:mm:ss HOST TAG: `. With nginx's `nohostname` HOST is missing.
///
/// nginx writes the header itself, and neither host nor tag can hold `: `, so the first one ends it.
fn message(datagram: &[u8]) -> &[u8] {
    let end = memchr::memmem::find(datagram, b": ").filter(|_| datagram.first() == Some(&b'<'));
    let text = end.and_then(|end| datagram.get(end + 2..)).unwrap_or(datagram);
    text.strip_suffix(b"\n").unwrap_or(text)
}

/// Standard input.
#[derive(Debug)]
pub struct Input<R> {
    reader: R,
    parser: Parser,
    max_line_bytes: usize,
    /// The beginning of a line whose end has not come yet.
    partial: Vec<u8>,
    skipping: bool,
}

impl<R: Read> Input<R> {
    /// Reads lines from `reader`.
    pub fn new(reader: R, format: &Settings) -> Input<R> {
        let max_line_bytes = format.max_line_bytes;
        Input { reader, parser: Parser::new(format), max_line_bytes, partial: Vec::new(), skipping: false }
    }

    /// Waits for bytes and parses the lines among them. False at the end of the input, whose last line may lack its newline.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn step(&mut self, block: &mut Vec<u8>, out: &mut Output) -> io::Result<bool> {
        block.clear();
        block.append(&mut self.partial);
        let from = block.len();
        block.resize(from + READ_BYTES, 0);
        let read = loop {
            match self.reader.read(block.get_mut(from..).unwrap_or_default()) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                read => break read?,
            }
        };
        let end = from + read;
        if read == 0 {
            if end > 0 && !self.skipping {
                self.parser.parse_single(block, 0, end, out);
            }
            return Ok(false);
        }
        self.take(block, end, out);
        Ok(true)
    }

    fn take(&mut self, block: &mut Vec<u8>, end: usize, out: &mut Output) {
        let mut start = 0;
        if self.skipping {
            let Some(newline) = memchr::memchr(b'\n', block.get(..end).unwrap_or_default()) else { return };
            self.skipping = false;
            start = newline + 1;
        }
        let upto = self.parser.parse_block(block, start, end, out);
        let rest = block.get(upto..end).unwrap_or_default();
        if rest.len() > self.max_line_bytes {
            self.skipping = true;
            out.reject(crate::engine::request::Rejected::TooLong);
        } else {
            self.partial.extend_from_slice(rest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::request::Rejected;

    const LINE: &str = r#"{"source_ip":"192.0.2.7","timestamp":1795530901,"status":200}"#;

    #[test]
    fn the_syslog_header_is_cut_off() {
        let check = |datagram: &str, expected: &str| {
            assert_eq!(message(datagram.as_bytes()), expected.as_bytes(), "{datagram}");
        };
        check(&format!("<190>Nov 24 14:35:01 web nginx: {LINE}"), LINE);
        check(&format!("<190>Nov 24 14:35:01 nginx: {LINE}\n"), LINE);
        check(LINE, LINE);
    }

    #[test]
    fn datagrams_are_lines_and_the_socket_goes_with_its_reader() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("nginx.sock");
        let mut syslog = Syslog::bind(&path, &Settings::default()).unwrap();
        let sender = UnixDatagram::unbound().unwrap();
        for text in
            [format!("<190>Nov 24 14:35:01 web nginx: {LINE}"), "<190>Nov 24 14:35:01 web nginx: x".into()]
        {
            sender.send_to(text.as_bytes(), &path).unwrap();
        }
        let (mut block, mut out) = (Vec::new(), Output::default());
        assert!(syslog.step(&mut block, &mut out).unwrap());
        assert_eq!((out.lines.len(), out.rejected[Rejected::Malformed.index()]), (1, 1));
        assert!(Syslog::bind(&path, &Settings::default()).unwrap_err().to_string().contains("listens on"));
        drop(syslog);
        assert!(!path.exists());
    }

    #[test]
    fn a_socket_left_by_a_dead_agent_is_replaced_and_nothing_else_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("nginx.sock");
        drop(UnixDatagram::bind(&path).unwrap());
        drop(Syslog::bind(&path, &Settings::default()).unwrap());
        std::fs::write(&path, "precious").unwrap();
        assert!(Syslog::bind(&path, &Settings::default()).is_err());
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
    }

    #[test]
    fn input_is_read_to_its_last_line_in_pieces_of_any_size() {
        struct Pieces<'a>(&'a [u8], usize);
        impl Read for Pieces<'_> {
            fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
                let len = self.1.min(room.len()).min(self.0.len());
                let (piece, rest) = self.0.split_at(len);
                room[..len].copy_from_slice(piece);
                self.0 = rest;
                Ok(len)
            }
        }
        let settings = Settings { max_line_bytes: 100, ..Settings::default() };
        let text = format!("{LINE}\n{}\n{LINE}\nrubbish\n{LINE}", "x".repeat(1000));
        for size in [1, 7, 64, 101, 5000] {
            let mut input = Input::new(Pieces(text.as_bytes(), size), &settings);
            let (mut block, mut out) = (Vec::new(), Output::default());
            while input.step(&mut block, &mut out).unwrap() {}
            assert_eq!(out.lines.len(), 3, "{size}");
            assert_eq!(out.rejected[Rejected::TooLong.index()], 1, "{size}");
            assert_eq!(out.rejected[Rejected::Malformed.index()], 1, "{size}");
        }
    }
}
