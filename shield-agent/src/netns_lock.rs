//! One agent a network namespace: two with separate state folders would repair away each other's rules, bans and links for ever.
//!
//! The lock is a name in the namespace itself, an abstract socket, because that is what two agents share when they share
//! nothing else: containers with the host's network have their own `/run`. The kernel frees it with the process, however that
//! ends, and answers who holds it. Any local user can take such a name too; one that is held neither by root nor by the user
//! that this agent runs as is no agent's, and keeps nobody from starting.

use std::fmt;
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use serde::{Deserialize, Serialize};

/// Part of the contract between versions: it must never change.
const NAME: &str = "shield-agent/one-per-network-namespace";

/// How long another process may take to answer. A stopped one does not, and holds the lock all the same.
const ANSWER: Duration = Duration::from_millis(500);

/// The longest answer.
const ANSWER_BYTES: u64 = 8_192;

/// What the holder says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Card {
    what: String,
    state_dir: PathBuf,
}

/// Who holds the lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Holder {
    /// 0 when it is in another process namespace.
    pid: i32,
    uid: u32,
    card: Option<Card>,
}

/// The answer to taking the lock.
#[derive(Debug)]
pub(crate) enum Taken {
    /// Until the process ends.
    Ours,
    /// Another agent has it.
    Theirs(Holder),
    /// Nobody's, and this agent does not have it either: why, in words.
    Without(String),
}

impl Holder {
    /// The state directory of the agent, when it answers.
    pub(crate) fn state_dir(&self) -> Option<&Path> {
        self.card.as_ref().map(|card| card.state_dir.as_path())
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = self.card.as_ref().map_or("another shield-agent", |card| card.what.as_str());
        f.write_str(what)?;
        match self.pid {
            0 => f.write_str(" in another container")?,
            pid => write!(f, " (process {pid})")?,
        }
        match &self.card {
            Some(card) => write!(f, " with the state directory {}", card.state_dir.display()),
            None => f.write_str(", which does not answer"),
        }
    }
}

/// Takes the lock of the calling thread's network namespace. `what` and `state_dir` are what others are told.
///
/// # Errors
/// When no thread can be started.
pub(crate) fn take(what: &str, state_dir: &Path) -> Result<Taken> {
    take_named(NAME, what, state_dir)
}

/// Returns who holds the lock now, without taking it: whoever takes it, however shortly, keeps an agent from starting.
pub(crate) fn holder() -> Option<Holder> {
    let holder = ask(&SocketAddr::from_abstract_name(NAME).ok()?).ok()?;
    (holder.uid == 0 || holder.uid == nix::unistd::geteuid().as_raw()).then_some(holder)
}

fn take_named(name: &str, what: &str, state_dir: &Path) -> Result<Taken> {
    let address = SocketAddr::from_abstract_name(name).context("could not name the lock")?;
    let listener = match UnixListener::bind_addr(&address) {
        Ok(listener) => listener,
        Err(error) if error.kind() == ErrorKind::AddrInUse => return Ok(held(&address)),
        Err(error) => {
            return Ok(Taken::Without(format!("could not take the lock of this network namespace: {error}")));
        }
    };
    let card = Card { what: what.to_owned(), state_dir: state_dir.to_owned() };
    let card = serde_json::to_vec(&card).context("could not describe this agent")?;
    let thread = std::thread::Builder::new().name("lock".to_owned());
    thread.spawn(move || answer(&listener, &card)).context("could not start the thread lock")?;
    Ok(Taken::Ours)
}

/// Tells whoever asks, until the process ends. A card fits into any socket's buffer, so that nobody can hold this up.
fn answer(listener: &UnixListener, card: &[u8]) {
    for stream in listener.incoming() {
        match stream {
            Ok(mut stream) => {
                let _ = stream.set_nonblocking(true).and_then(|()| stream.write_all(card));
            }
            // Out of descriptors, for example: the lock is held all the same.
            Err(_) => std::thread::sleep(ANSWER),
        }
    }
}

fn held(address: &SocketAddr) -> Taken {
    match ask(address) {
        Ok(holder) if holder.uid == 0 || holder.uid == nix::unistd::geteuid().as_raw() => {
            Taken::Theirs(holder)
        }
        Ok(holder) => Taken::Without(format!(
            "the lock of this network namespace is held by process {} of user {}, which is no agent: end it, because a second \
             agent would not be noticed",
            holder.pid, holder.uid
        )),
        Err(error) => Taken::Without(format!(
            "could not find out who holds the lock of this network namespace ({error}): make sure that no second agent runs"
        )),
    }
}

fn ask(address: &SocketAddr) -> io::Result<Holder> {
    let socket = connect(address)?;
    let peer = getsockopt(&socket, PeerCredentials)?;
    let mut text = Vec::new();
    let read = socket
        .set_read_timeout(Some(ANSWER))
        .and_then(|()| (&socket).take(ANSWER_BYTES).read_to_end(&mut text));
    let card = read.ok().and_then(|_| serde_json::from_slice(&text).ok());
    Ok(Holder { pid: peer.pid(), uid: peer.uid(), card })
}

/// Connects without waiting: somebody who took the name and lets nobody in must not hold up a start.
fn connect(address: &SocketAddr) -> io::Result<UnixStream> {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
    use std::os::fd::AsRawFd as _;
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    let name = address.as_abstract_name().unwrap_or_default();
    connect(socket.as_raw_fd(), &UnixAddr::new_abstract(name)?)?;
    let stream = UnixStream::from(socket);
    stream.set_nonblocking(false)?;
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(of: &str) -> String {
        format!("shield-agent/test-{of}-{}", std::process::id())
    }

    #[test]
    fn the_second_one_is_told_of_the_first() {
        let name = name("second");
        let first = take_named(&name, "shield-agent", Path::new("/var/lib/shield")).unwrap();
        assert!(matches!(first, Taken::Ours), "{first:?}");
        for _ in 0..3 {
            let Taken::Theirs(holder) = take_named(&name, "cleanup", Path::new("/elsewhere")).unwrap() else {
                panic!("it was taken twice")
            };
            let pid = std::process::id();
            assert_eq!(
                holder.to_string(),
                format!("shield-agent (process {pid}) with the state directory /var/lib/shield")
            );
        }
    }

    #[test]
    fn one_that_does_not_answer_holds_it_all_the_same() {
        let name = name("stopped");
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let _listener = UnixListener::bind_addr(&address).unwrap();
        let taken = take_named(&name, "shield-agent", Path::new("/x")).unwrap();
        let Taken::Theirs(holder) = taken else { panic!("{taken:?}") };
        assert!(holder.to_string().ends_with(", which does not answer"), "{holder}");
    }

    /// A name that nobody can be asked about, because its owner lets nobody in, keeps no agent from starting.
    #[test]
    fn a_squatter_who_answers_nobody_does_not_hold_up_a_start() {
        let name = name("squatter");
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let _listener = UnixListener::bind_addr(&address).unwrap();
        let mut queue = Vec::new();
        while let Ok(stream) = connect(&address) {
            queue.push(stream);
        }
        let begin = std::time::Instant::now();
        let taken = take_named(&name, "shield-agent", Path::new("/x")).unwrap();
        assert!(matches!(taken, Taken::Without(_)), "{taken:?}");
        assert!(begin.elapsed() < ANSWER, "{:?}", begin.elapsed());
    }
}
