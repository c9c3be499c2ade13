//! nginx's syslog datagrams (`access_log syslog:server=unix:…`).
//!
//! They cannot be read a second time, so their batches have no checkpoint.

use std::io::{self, IoSliceMut};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt, chown};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr, bind, recvmsg, setsockopt,
    socket, sockopt,
};

use super::senders::Senders;
use shield_engine::event::PartState;
use shield_logline::{Output, Parser, Settings, syslog};

/// The longest wait for a datagram: in between the thread checks whether it was stopped, because a socket's wait cannot be
/// ended from outside.
const RECEIVE_TIMEOUT: Duration = Duration::from_millis(200);

/// Datagrams of one batch at most.
const MAX_DATAGRAMS: usize = 1024;

/// A socket to make, and who may send to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    /// Where.
    pub path: PathBuf,
    /// Names or numbers of the users whose datagrams are read; empty for those that nginx usually runs as.
    pub users: Vec<String>,
    /// The group that the socket is given to; `None` for that of the first of the users.
    pub group: Option<String>,
    /// The socket's mode; `None` for one that lets only those users send, where one group holds them.
    pub mode: Option<u32>,
}

impl<T: Into<PathBuf>> From<T> for Listener {
    fn from(path: T) -> Listener {
        Listener { path: path.into(), users: Vec::new(), group: None, mode: None }
    }
}

/// Lets this group send to the socket, as far as the mode that is set afterwards lets a group: as its owner, or where that takes a
/// capability that the unit does not have, by an entry in its access list, which takes none.
fn let_group_in(path: &Path, group: u32) -> anyhow::Result<()> {
    if chown(path, None, Some(group)).is_ok() {
        return Ok(());
    }
    rustix::fs::lsetxattr(
        path,
        "system.posix_acl_access",
        &acl::of_group(group),
        rustix::fs::XattrFlags::empty(),
    )
    .with_context(|| format!("could not give {} to the group {group}", path.display()))
}

/// The kernel's own form of an access list (`linux/posix_acl_xattr.h`).
mod acl {
    const VERSION: u32 = 2;
    const OWNER: u16 = 0x01;
    const OWNING_GROUP: u16 = 0x04;
    const GROUP: u16 = 0x08;
    const MASK: u16 = 0x10;
    const OTHERS: u16 = 0x20;
    const NO_ID: u32 = u32::MAX;
    const READ_WRITE: u16 = 6;

    /// The owner and this group may read and write; the owning group, which is the agent's, and others may nothing. What the mode
    /// says of a group is the mask, as for every file with a list.
    pub(super) fn of_group(group: u32) -> Vec<u8> {
        let entries = [
            (OWNER, READ_WRITE, NO_ID),
            (OWNING_GROUP, 0, NO_ID),
            (GROUP, READ_WRITE, group),
            (MASK, READ_WRITE, NO_ID),
            (OTHERS, 0, NO_ID),
        ];
        let mut bytes = VERSION.to_le_bytes().to_vec();
        for (tag, access, id) in entries {
            bytes.extend(tag.to_le_bytes());
            bytes.extend(access.to_le_bytes());
            bytes.extend(id.to_le_bytes());
        }
        bytes
    }
}

/// A bound socket that nginx sends its lines to.
#[derive(Debug)]
pub(super) struct Syslog {
    socket: UnixDatagram,
    path: PathBuf,
    parser: Parser,
    datagram: Vec<u8>,
    /// For the sender's credentials.
    control: Vec<u8>,
    senders: Senders,
}

impl Syslog {
    /// Binds the socket, in place of one that a killed agent left behind.
    ///
    /// # Errors
    /// When `path` is something else than a socket, another program listens there, the folder is not writable, or this host
    /// does not have one of the users or the group.
    pub(super) fn bind(listener: &Listener, format: &Settings) -> anyhow::Result<Syslog> {
        let path = &listener.path;
        let senders = Senders::of(listener)?;
        remove_dead_socket(path)?;
        let socket = bind_with_credentials(path)
            .with_context(|| format!("could not bind the syslog socket {}", path.display()))?;
        let access = senders.access();
        let is_given = match access.group.map_or(Ok(()), |group| let_group_in(path, group)) {
            Ok(()) => true,
            Err(error) if listener.group.is_some() => return Err(error),
            Err(error) => {
                tracing::warn!(path = %path.display(), error = format!("{error:#}"), "could not let nginx's group alone in to the syslog socket: any user can send to it, and only nginx's lines are read");
                false
            }
        };
        let mode = listener.mode.unwrap_or(if is_given { access.mode } else { super::senders::ANYBODY });
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
            .with_context(|| format!("could not let nginx write to {}", path.display()))?;
        socket
            .set_read_timeout(Some(RECEIVE_TIMEOUT))
            .context("could not set a timeout on the syslog socket")?;
        let datagram = vec![0; format.max_line_bytes + 1024];
        let control = nix::cmsg_space!(nix::libc::ucred);
        Ok(Syslog { socket, path: path.clone(), parser: Parser::new(format), datagram, control, senders })
    }

    /// Reads datagrams by other settings from the next one on.
    pub(super) fn set_format(&mut self, format: &Settings) {
        self.datagram.resize(format.max_line_bytes + 1024, 0);
        self.parser = Parser::new(format);
    }

    /// The state at `now_ms` (boot clock).
    pub(super) fn state(&mut self, now_ms: u64) -> PartState {
        self.senders.state(now_ms)
    }

    /// Waits for datagrams, [`RECEIVE_TIMEOUT`] at most, and parses those that are there. Returns false when there were none.
    ///
    /// # Errors
    /// When the socket cannot be read.
    pub(super) fn step(&mut self, block: &mut Vec<u8>, out: &mut Output) -> io::Result<bool> {
        block.clear();
        let mut count = 0;
        while count < MAX_DATAGRAMS {
            // Only for the first datagram: whatever else is queued already belongs to this batch, without waiting for more.
            let flags = if count == 0 { MsgFlags::empty() } else { MsgFlags::MSG_DONTWAIT };
            match self.receive(flags) {
                Ok((len, sender)) => {
                    count += 1;
                    if self.senders.admit(sender) {
                        self.take(len, block, out);
                    }
                }
                Err(Errno::EAGAIN) => break,
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(count > 0)
    }

    /// Receives one datagram: its length, and the user who sent it as the kernel says.
    fn receive(&mut self, flags: MsgFlags) -> nix::Result<(usize, Option<u32>)> {
        let mut buffers = [IoSliceMut::new(&mut self.datagram)];
        let message = recvmsg::<()>(self.socket.as_raw_fd(), &mut buffers, Some(&mut self.control), flags)?;
        let sender = message.cmsgs()?.find_map(|control| match control {
            ControlMessageOwned::ScmCredentials(credentials) => Some(credentials.uid()),
            _ => None,
        });
        Ok((message.bytes, sender))
    }

    fn take(&mut self, len: usize, block: &mut Vec<u8>, out: &mut Output) {
        let from = block.len();
        let datagram = self.datagram.get(..len).unwrap_or_default();
        block.extend_from_slice(syslog::message(datagram));
        let end = block.len();
        self.parser.parse_single(block, from, end, out);
        // So that each datagram is a line of the block.
        block.push(b'\n');
    }
}

impl Drop for Syslog {
    fn drop(&mut self) {
        // An error means that the socket or its folder is gone already.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Binds a socket that nobody but this user can send to yet, and that learns of each datagram who sent it.
fn bind_with_credentials(path: &Path) -> io::Result<UnixDatagram> {
    let fd: OwnedFd = socket(AddressFamily::Unix, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    // Before it is bound: a datagram from before this has no sender.
    setsockopt(&fd, sockopt::PassCred, &true)?;
    bind(fd.as_raw_fd(), &UnixAddr::new(path)?)?;
    Ok(UnixDatagram::from(fd))
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

    /// As a user that this test runs as.
    fn listener(path: &Path) -> Listener {
        Listener { users: vec![nix::unistd::getuid().to_string()], ..path.into() }
    }

    const LINE: &str = r#"{"source_ip":"192.0.2.7","timestamp":1795530901,"status":200}"#;

    #[test]
    fn datagrams_are_lines_and_the_socket_is_removed_with_its_reader() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("nginx.sock");
        let mut syslog = Syslog::bind(&listener(&path), &Settings::default()).unwrap();
        let sender = UnixDatagram::unbound().unwrap();
        for text in
            [format!("<190>Nov 24 14:35:01 web nginx: {LINE}"), "<190>Nov 24 14:35:01 web nginx: x".into()]
        {
            sender.send_to(text.as_bytes(), &path).unwrap();
        }
        let (mut block, mut out) = (Vec::new(), Output::default());
        assert!(syslog.step(&mut block, &mut out).unwrap());
        assert_eq!((out.lines.len(), out.rejected[Rejected::Malformed.index()]), (1, 1));
        assert!(
            Syslog::bind(&listener(&path), &Settings::default())
                .unwrap_err()
                .to_string()
                .contains("listens on")
        );
        drop(syslog);
        assert!(!path.exists());
    }

    /// The unit has no capability to give a file away.
    #[test]
    fn an_access_list_lets_the_group_in_and_nobody_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("nginx.sock");
        let _socket = UnixDatagram::bind(&path).unwrap();
        rustix::fs::lsetxattr(
            &path,
            "system.posix_acl_access",
            &acl::of_group(4242),
            rustix::fs::XattrFlags::empty(),
        )
        .unwrap();
        // Of the owner, the mask, and of others; a mode that is set afterwards is the mask's.
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o660);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        let mut list = [0_u8; 128];
        let length = rustix::fs::lgetxattr(&path, "system.posix_acl_access", &mut list).unwrap();
        let mut masked = acl::of_group(4242);
        masked[4 + 3 * 8 + 2] = 0;
        assert_eq!(list[..length], masked);
    }

    #[test]
    fn a_socket_left_by_a_dead_agent_is_replaced_and_nothing_else_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("nginx.sock");
        drop(UnixDatagram::bind(&path).unwrap());
        drop(Syslog::bind(&listener(&path), &Settings::default()).unwrap());
        std::fs::write(&path, "precious").unwrap();
        assert!(Syslog::bind(&listener(&path), &Settings::default()).is_err());
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
    }

    #[test]
    fn datagrams_of_other_users_are_refused_counted_and_said() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("nginx.sock");
        // Not the user of this test.
        let others = Listener { users: vec!["4242".to_owned()], mode: Some(0o600), ..path.as_path().into() };
        let mut syslog = Syslog::bind(&others, &Settings::default()).unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        let sender = UnixDatagram::unbound().unwrap();
        sender.send_to(format!("<190>Nov 24 14:35:01 web nginx: {LINE}").as_bytes(), &path).unwrap();
        let (mut block, mut out) = (Vec::new(), Output::default());
        assert!(syslog.step(&mut block, &mut out).unwrap());
        assert_eq!((out.lines.len(), out.rejected.iter().sum::<u64>(), block.len()), (0, 0, 0));
        let own = nix::unistd::User::from_uid(nix::unistd::getuid()).unwrap().unwrap().name;
        let PartState::Degraded { reason } = syslog.state(1_000) else { panic!("it looks healthy") };
        assert!(
            reason.contains("reads nothing") && reason.contains(&own) && reason.contains("users"),
            "{reason}"
        );
    }

    #[test]
    fn a_user_that_does_not_exist_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("nginx.sock");
        let check = |listener: Listener, part: &str| {
            let error = format!("{:#}", Syslog::bind(&listener, &Settings::default()).unwrap_err());
            assert!(error.contains("could not find") && error.contains(part), "{error}");
        };
        check(Listener { users: vec!["no-such-user".to_owned()], ..path.as_path().into() }, "no-such-user");
        check(Listener { group: Some("no-such-group".to_owned()), ..path.as_path().into() }, "no-such-group");
    }
}
