//! Makes a port inside a namespace reachable on the host's loopback, so that a browser on the host can open the page of an
//! agent in the namespace.

use std::io;
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;

use anyhow::{Context as _, Result};

use crate::netns::Namespace;

/// Listens on a free port of the host's loopback and forwards every connection to `target` inside the namespace until the
/// namespace is dropped. Returns the address it listens on.
///
/// # Errors
/// Fails if there is no free port.
pub fn to_namespace(namespace: &Arc<Namespace>, target: SocketAddr) -> Result<SocketAddr> {
    // Weak, because this thread runs until the process ends and must not keep the namespace alive.
    let namespace = Arc::downgrade(namespace);
    let listener =
        TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("could not listen on the host's loopback")?;
    let address = listener.local_addr().context("could not get the port")?;
    std::thread::spawn(move || {
        for outside in listener.incoming().flatten() {
            let Some(namespace) = namespace.upgrade() else { return };
            // Before the agent listens the connection is closed, and the browser retries.
            if let Ok(inside) = namespace.enter(|| TcpStream::connect(target)) {
                let _ = forward_both_ways(&outside, &inside);
            }
        }
    });
    Ok(address)
}

fn forward_both_ways(outside: &TcpStream, inside: &TcpStream) -> io::Result<()> {
    for (from, to) in [(outside, inside), (inside, outside)] {
        let (mut from, mut to) = (from.try_clone()?, to.try_clone()?);
        std::thread::spawn(move || {
            let _ = io::copy(&mut from, &mut to);
            let _ = to.shutdown(Shutdown::Write);
        });
    }
    Ok(())
}
