//! A small HTTP/1.1 client that says exactly what a visitor would notice: the status, how long it took, or that nothing
//! came. One connection a request, blocking, source address selectable. Not for production use: it reads until the
//! server closes.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::AsRawFd as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;

/// One request to make.
#[derive(Debug, Clone)]
pub struct Get<'a> {
    /// Where the server listens.
    pub server: SocketAddr,
    /// The address to come from; the kernel's choice when `None`.
    pub from: Option<IpAddr>,
    /// Path and query, as sent.
    pub path: &'a str,
    /// For connecting, and again for each wait for bytes.
    pub timeout: Duration,
}

/// What came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// HTTP status.
    pub status: u16,
    /// Everything after the headers.
    pub body: Vec<u8>,
    /// From before the connection to the last byte.
    pub took: Duration,
}

impl Get<'_> {
    /// Makes the request.
    ///
    /// # Errors
    /// When the connection fails or nothing comes within the timeout (see [`is_timeout`]), and when the answer is not
    /// HTTP.
    pub fn send(&self) -> Result<Response> {
        let started = Instant::now();
        let mut stream = self.open()?;
        let request =
            format!("GET {} HTTP/1.1\r\nHost: shop.example\r\nConnection: close\r\n\r\n", self.path);
        stream.write_all(request.as_bytes()).context("sent the request")?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).context("read the answer")?;
        let (status, body) = parse(&answer).context("the answer is not HTTP")?;
        Ok(Response { status, body, took: started.elapsed() })
    }

    /// A TCP connection to the server, with the timeout set for reading and writing.
    ///
    /// # Errors
    /// When it is not there within the timeout.
    pub fn open(&self) -> Result<TcpStream> {
        let family = if self.server.is_ipv6() { AddressFamily::Inet6 } else { AddressFamily::Inet };
        let fd = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).context("made a socket")?;
        // Linux applies the send timeout to connect(2) as well (socket(7)).
        let timeout = TimeVal::new(
            self.timeout.as_secs().try_into().expect("a test's timeout fits in a time_t"),
            self.timeout.subsec_micros().into(),
        );
        setsockopt(&fd, sockopt::SendTimeout, &timeout).context("set the send timeout")?;
        setsockopt(&fd, sockopt::ReceiveTimeout, &timeout).context("set the receive timeout")?;
        if let Some(address) = self.from {
            let source = SockaddrStorage::from(SocketAddr::new(address, 0));
            bind(fd.as_raw_fd(), &source).with_context(|| format!("bound to {address}"))?;
        }
        connect(fd.as_raw_fd(), &SockaddrStorage::from(self.server))
            .with_context(|| format!("connected to {}", self.server))?;
        Ok(TcpStream::from(fd))
    }
}

/// Whether this error of [`Get::send`] means that nothing came in time, as when packets are dropped. A refused or reset
/// connection is an answer, and is not one.
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
