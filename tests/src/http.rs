//! A small blocking HTTP/1.1 client that reports what a visitor notices: the status and the latency, or a timeout.
//!
//! Each request has a connection of its own, with a selectable source address. Not a general client: it reads until the
//! server closes the connection.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::AsRawFd as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;

/// A GET request.
#[derive(Debug, Clone)]
pub struct Get<'a> {
    /// The server's address and port.
    pub server: SocketAddr,
    /// The source address; `None` lets the kernel choose.
    pub from: Option<IpAddr>,
    /// Path and query, as sent.
    pub path: &'a str,
    /// Applies to connecting, and to each read.
    pub timeout: Duration,
}

/// The answer to a [`Get`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// HTTP status.
    pub status: u16,
    /// Everything after the headers.
    pub body: Vec<u8>,
    /// Time from before the connection to the last byte.
    pub took: Duration,
}

impl Get<'_> {
    /// Sends the request and reads the answer.
    ///
    /// # Errors
    /// Fails if the connection fails, if no answer comes within the timeout (see [`is_timeout`]), or if the answer is not
    /// HTTP.
    pub fn send(&self) -> Result<Response> {
        let started = Instant::now();
        let mut stream = self.open()?;
        let request =
            format!("GET {} HTTP/1.1\r\nHost: shop.example\r\nConnection: close\r\n\r\n", self.path);
        stream.write_all(request.as_bytes()).context("could not send the request")?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).context("could not read the answer")?;
        let (status, body) = parse(&answer).context("could not parse the answer: it is not HTTP")?;
        Ok(Response { status, body, took: started.elapsed() })
    }

    /// Opens a TCP connection to the server, with the timeout set for reads and writes.
    ///
    /// # Errors
    /// Fails if the connection is not established within the timeout.
    pub fn open(&self) -> Result<TcpStream> {
        let family = if self.server.is_ipv6() { AddressFamily::Inet6 } else { AddressFamily::Inet };
        let fd = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)
            .context("could not create a socket")?;
        // Linux applies the send timeout to connect(2) as well (socket(7)).
        let timeout = TimeVal::new(
            self.timeout.as_secs().try_into().expect("a test's timeout fits in a time_t"),
            self.timeout.subsec_micros().into(),
        );
        setsockopt(&fd, sockopt::SendTimeout, &timeout).context("could not set the send timeout")?;
        setsockopt(&fd, sockopt::ReceiveTimeout, &timeout).context("could not set the receive timeout")?;
        if let Some(address) = self.from {
            let source = SockaddrStorage::from(SocketAddr::new(address, 0));
            bind(fd.as_raw_fd(), &source).with_context(|| format!("could not bind to {address}"))?;
        }
        connect(fd.as_raw_fd(), &SockaddrStorage::from(self.server))
            .with_context(|| format!("could not connect to {}", self.server))?;
        Ok(TcpStream::from(fd))
    }
}

/// Returns whether this error of [`Get::send`] is a timeout, as when packets are dropped. A refused or reset connection is
/// not: something answered.
pub fn is_timeout(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        let by_errno = cause.downcast_ref::<nix::errno::Errno>().is_some_and(|errno| {
            use nix::errno::Errno::{EAGAIN, EINPROGRESS, ETIMEDOUT};
            matches!(errno, &EAGAIN | &EINPROGRESS | &ETIMEDOUT)
        });
        let by_io = cause.downcast_ref::<std::io::Error>().is_some_and(|error| {
            use std::io::ErrorKind::{TimedOut, WouldBlock};
            matches!(error.kind(), TimedOut | WouldBlock)
        });
        by_errno || by_io
    })
}

fn parse(answer: &[u8]) -> Option<(u16, Vec<u8>)> {
    let status = std::str::from_utf8(answer.strip_prefix(b"HTTP/1.")?.get(2..5)?).ok()?.parse().ok()?;
    let headers_end = answer.windows(4).position(|four| four == b"\r\n\r\n")?;
    Some((status, answer[headers_end + 4..].to_vec()))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn get(server: SocketAddr) -> Get<'static> {
        Get {
            server,
            from: Some(IpAddr::from([127, 0, 0, 1])),
            path: "/",
            timeout: Duration::from_millis(200),
        }
    }

    #[test]
    fn reads_status_and_body() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = listener.local_addr().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let (mut stream, _) = listener.accept().unwrap();
                let _ = stream.read(&mut [0; 1024]).unwrap();
                stream.write_all(b"HTTP/1.1 404 Not Found\r\nX: y\r\n\r\ngone").unwrap();
            });
            let response = get(server).send().unwrap();
            assert_eq!((response.status, response.body.as_slice()), (404, b"gone".as_slice()));
        });
    }

    #[test]
    fn silence_is_a_timeout_and_refusal_is_not() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = listener.local_addr().unwrap();
        assert!(is_timeout(&get(server).send().unwrap_err()));
        drop(listener);
        assert!(!is_timeout(&get(server).send().unwrap_err()));
    }
}
