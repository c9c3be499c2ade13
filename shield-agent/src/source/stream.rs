//! nginx's syslog datagrams (`access_log syslog:server=unix:…`).
//!
//! They cannot be read a second time, so their batches have no checkpoint.

use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;

use shield_logline::{Output, Parser, Settings, syslog};

/// The longest wait for a datagram: in between the thread checks whether it was stopped, because a socket's wait cannot be
/// ended from outside.
const RECEIVE_TIMEOUT: Duration = Duration::from_millis(200);

/// Datagrams of one batch at most.
const MAX_DATAGRAMS: usize = 1024;

/// Anyone may send, because nginx's workers run as another user. Nothing can be read from the socket.
const SOCKET_MODE: u32 = 0o666;

/// A bound socket that nginx sends its lines to.
#[derive(Debug)]
pub(super) struct Syslog {
    socket: UnixDatagram,
    path: PathBuf,
    parser: Parser,
    datagram: Vec<u8>,
}

impl Syslog {
    /// Binds the socket, in place of one that a killed agent left behind.
    ///
    /// # Errors
    /// When `path` is something else than a socket, another program listens there, or the folder is not writable.
    pub(super) fn bind(path: &Path, format: &Settings) -> anyhow::Result<Syslog> {
        remove_dead_socket(path)?;
        let socket = UnixDatagram::bind(path)
            .with_context(|| format!("could not bind the syslog socket {}", path.display()))?;
        let mode = std::fs::Permissions::from_mode(SOCKET_MODE);
        std::fs::set_permissions(path, mode)
            .with_context(|| format!("could not let nginx write to {}", path.display()))?;
        socket
            .set_read_timeout(Some(RECEIVE_TIMEOUT))
            .context("could not set a timeout on the syslog socket")?;
        let datagram = vec![0; format.max_line_bytes + 1024];
        Ok(Syslog { socket, path: path.to_owned(), parser: Parser::new(format), datagram })
    }

    /// Reads datagrams by other settings from the next one on.
    pub(super) fn set_format(&mut self, format: &Settings) {
        self.datagram.resize(format.max_line_bytes + 1024, 0);
        self.parser = Parser::new(format);
    }

    /// Waits for datagrams, [`RECEIVE_TIMEOUT`] at most, and parses those that are there. Returns false when there were none.
    ///
    /// # Errors
    /// When the socket cannot be read.
    pub(super) fn step(&mut self, block: &mut Vec<u8>, out: &mut Output) -> io::Result<bool> {
        block.clear();
        let mut count = 0;
        while count < MAX_DATAGRAMS {
            match self.socket.recv(&mut self.datagram) {
                Ok(len) => self.take(len, block, out),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
            // Only for the first datagram: whatever else is queued already belongs to this batch, without waiting for more.
            self.socket.set_nonblocking(true)?;
            count += 1;
        }
        self.socket.set_nonblocking(false)?;
        Ok(count > 0)
    }

    fn take(&mut self, len: usize, block: &mut Vec<u8>, out: &mut Output) {
        let from = block.len();
        let datagram = self.datagram.get(..len).unwrap_or_default();
        block.extend_from_slice(syslog::message(datagram));
        let end = block.len();
        self.parser.parse_single(block, from, end, out);
    }
}

impl Drop for Syslog {
    fn drop(&mut self) {
        // An error means that the socket or its folder is gone already.
        let _ = std::fs::remove_file(&self.path);
    }
}

fn remove_dead_socket(path: &Path) -> anyhow::Result<()> {
    let Ok(meta) = path.symlink_metadata() else { return Ok(()) };
    if !meta.file_type().is_socket() {
        anyhow::bail!("{} exists and is not a socket; remove it or choose another path", path.display());
    }
    let probe = UnixDatagram::unbound().context("could not create a socket")?;
    if probe.connect(path).is_ok() {
        anyhow::bail!("another program listens on {}; stop it or choose another path", path.display());
    }
    std::fs::remove_file(path).with_context(|| format!("could not remove the dead socket {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use shield_engine::request::Rejected;

    const LINE: &str = r#"{"source_ip":"192.0.2.7","timestamp":1795530901,"status":200}"#;

    #[test]
    fn datagrams_are_lines_and_the_socket_is_removed_with_its_reader() {
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
}
