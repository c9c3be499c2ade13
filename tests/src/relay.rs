//! Makes a port inside a namespace reachable from the host, on loopback only: so that a browser can open the page of an
//! agent that runs in one.

use std::io;
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;

use anyhow::{Context as _, Result};

use crate::netns::Namespace;

/// Listens on a free port of the host's loopback and passes every connection on to `target` inside the namespace, until
/// the namespace is dropped. Returns where it listens.
///
/// # Errors
/// When there is no free port.
pub fn to_namespace(namespace: &Arc<Namespace>, target: SocketAddr) -> Result<SocketAddr> {
    // Weak: this thread outlives the namespace, and must not keep it.
    let namespace = Arc::downgrade(namespace);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("listened on the host's loopback")?;
    let address = listener.local_addr().context("asked for the port")?;
    std::thread::spawn(move || {
        for outside in listener.incoming().flatten() {
            let Some(namespace) = namespace.upgrade() else { return };
            // A browser that asks before the agent listens gets a closed connection, and asks again.
            if let Ok(inside) = namespace.enter(|| TcpStream::connect(target)) {
                let _ = pass_both_ways(&outside, &inside);
            }
        }
    });
    Ok(address)
}

fn pass_both_ways(outside: &TcpStream, inside: &TcpStream) -> io::Result<()> {
    for (from, to) in [(outside, inside), (inside, outside)] {
        let (mut from, mut to) = (from.try_clone()?, to.try_clone()?);
        std::thread::spawn(move || {
            let _ = io::copy(&mut from, &mut to);
            let _ = to.shutdown(Shutdown::Write);
        });
    }
    Ok(())
}
