//! What a visitor notices of one GET request: the status and the latency, or a timeout.

use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::Result;
use shield_lab::wire::{self, Request};
pub use shield_lab::wire::{Answer as Response, is_timeout};

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

impl Get<'_> {
    /// Sends the request over a connection of its own and reads the answer.
    ///
    /// # Errors
    /// Fails if the connection fails, if no answer comes within the timeout (see [`is_timeout`]), or if the answer is not
    /// HTTP.
    pub fn send(&self) -> Result<Response> {
        let request = Request { host: "shop.example", ..Request::get(self.path) };
        request.send(self.server, self.from, self.timeout)
    }

    /// Opens a TCP connection to the server, with the timeout set for reads and writes.
    ///
    /// # Errors
    /// Fails if the connection is not established within the timeout.
    pub fn open(&self) -> Result<TcpStream> {
        wire::open(self.server, self.from, self.timeout)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
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
