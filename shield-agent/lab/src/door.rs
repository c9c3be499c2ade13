//! The way in from outside: a unix socket in the environment's folder, which a process on the router joins with the server. Unix
//! sockets know no network namespaces, so that no link leads from the host into an environment.

use std::fs;
use std::io::{self, ErrorKind};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::environment::{Environment, Part, Role};
use crate::launch::{self, Start};

/// The socket's name in the environment's folder.
const SOCKET: &str = "door.sock";
/// More connections at a time wait.
const MOST: usize = 128;
const CONNECT: Duration = Duration::from_secs(5);
/// A connection on which nothing moves for so long is given up.
const IDLE: Duration = Duration::from_secs(60);

impl Environment {
    /// The socket through which the server is reached from outside.
    pub fn door(&self) -> std::path::PathBuf {
        self.folder.join(SOCKET)
    }
}

/// Starts it on the router. The agent never bans its own gateway, so that nobody who looks in is banned by his own look.
///
/// # Errors
/// Fails if it cannot be started.
pub(crate) fn start(environment: &mut Environment) -> Result<()> {
    let router = environment.machine(Role::Router).context("could not find the router")?.name.clone();
    let entry = environment.entry().iter().find(|address| address.is_ipv4());
    let port = if environment.machine(Role::Proxy).is_some() { 80 } else { environment.port };
    let to = SocketAddr::new(*entry.context("could not find the server's address")?, port);
    let socket = environment.door().to_string_lossy().into_owned();
    let arguments = ["lab", "door", "--listen", &socket, "--to", &to.to_string()];
    let start = Start {
        program: launch::binary()?,
        arguments: arguments.iter().map(ToString::to_string).collect(),
        variables: vec![],
    };
    launch::part(environment, Part::Door, &router, start).map(drop)
}

/// Joins every connection to `socket` with one to `to`, until the process is ended.
///
/// # Errors
/// Fails if it cannot listen.
pub fn run(socket: &Path, to: SocketAddr) -> Result<()> {
    match fs::remove_file(socket) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("could not replace {}", socket.display()));
        }
        _ => {}
    }
    let listener =
        UnixListener::bind(socket).with_context(|| format!("could not listen on {}", socket.display()))?;
    // The front nginx's workers are nobody.
    fs::set_permissions(socket, fs::Permissions::from_mode(0o666))
        .with_context(|| format!("could not open {} to everybody", socket.display()))?;
    let count = Arc::new(AtomicUsize::new(0));
    for inside in listener.incoming() {
        let Ok(inside) = inside else {
            thread::sleep(Duration::from_millis(20));
            continue;
        };
        while count.load(Ordering::Acquire) >= MOST {
            thread::sleep(Duration::from_millis(5));
        }
        count.fetch_add(1, Ordering::AcqRel);
        let count = Arc::clone(&count);
        thread::spawn(move || {
            // A side that fails closes both; whoever is at the other sees that.
            let _ = join(&inside, to);
            count.fetch_sub(1, Ordering::AcqRel);
        });
    }
    Ok(())
}

fn join(inside: &UnixStream, to: SocketAddr) -> io::Result<()> {
    let outside = TcpStream::connect_timeout(&to, CONNECT)?;
    outside.set_nodelay(true)?;
    outside.set_read_timeout(Some(IDLE))?;
    outside.set_write_timeout(Some(IDLE))?;
    inside.set_read_timeout(Some(IDLE))?;
    inside.set_write_timeout(Some(IDLE))?;
    thread::scope(|scope| {
        scope.spawn(|| {
            let _ = io::copy(&mut &*inside, &mut &outside);
            let _ = outside.shutdown(Shutdown::Write);
        });
        let _ = io::copy(&mut &outside, &mut &*inside);
        let _ = inside.shutdown(Shutdown::Write);
    });
    Ok(())
}
