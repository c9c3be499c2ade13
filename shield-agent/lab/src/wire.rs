//! HTTP/1.1 without a runtime, for the environment's own parts and for visitors: one request a connection, from a chosen source
//! address, every part of it bounded in time and size. `httparse` reads what comes.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;

/// What is read of an answer or a request at the most.
const MOST_BYTES: u64 = 8 << 20;
/// Lines of a request or answer before its body.
const MOST_HEADERS: usize = 100;

/// A request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request<'a> {
    /// `GET`, `POST`.
    pub method: &'static str,
    /// Path and query, as sent.
    pub target: &'a str,
    /// The name that it is for.
    pub host: &'a str,
    /// The program that says to ask.
    pub agent: &'a str,
    /// Further headers.
    pub headers: &'a [(&'a str, &'a str)],
    /// What is sent behind them.
    pub body: &'a str,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Everything after the headers.
    pub body: Vec<u8>,
    /// Time from before the connection to the last byte.
    pub took: Duration,
}

impl<'a> Request<'a> {
    /// A plain GET.
    pub fn get(target: &'a str) -> Request<'a> {
        Request { method: "GET", target, host: "localhost", agent: "shield-lab", headers: &[], body: "" }
    }

    /// Sends it over a new connection from this address and reads the answer.
    ///
    /// # Errors
    /// Fails if the connection fails, if no answer comes in time (see [`is_timeout`]), or if the answer is not HTTP.
    pub fn send(&self, server: SocketAddr, from: Option<IpAddr>, within: Duration) -> Result<Answer> {
        let began = Instant::now();
        let stream = open(server, from, within)?;
        self.ask(stream, began)
    }

    /// Sends it over a Unix socket and reads the answer.
    ///
    /// # Errors
    /// As for [`Request::send`].
    pub fn send_to(&self, socket: &Path, within: Duration) -> Result<Answer> {
        let began = Instant::now();
        let stream = UnixStream::connect(socket)
            .with_context(|| format!("could not connect to {}", socket.display()))?;
        stream.set_read_timeout(Some(within)).context("could not set the time limit")?;
        stream.set_write_timeout(Some(within)).context("could not set the time limit")?;
        self.ask(stream, began)
    }

    fn ask(&self, mut stream: impl Read + Write, began: Instant) -> Result<Answer> {
        stream.write_all(self.text().as_bytes()).context("could not send the request")?;
        let mut answer = Vec::new();
        stream.take(MOST_BYTES).read_to_end(&mut answer).context("could not read the answer")?;
        let (status, body) = parse(&answer).context("could not parse the answer: it is not HTTP")?;
        Ok(Answer { status, body, took: began.elapsed() })
    }

    fn text(&self) -> String {
        let Request { method, target, host, agent, headers, body } = self;
        let more: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let length =
            if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
        format!(
            "{method} {target} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: {agent}\r\n{more}{length}Connection: close\r\n\r\n{body}"
        )
    }
}

/// Opens a TCP connection with this limit for connecting, each write and each read.
///
/// # Errors
/// Fails if it is not established within the limit (see [`is_timeout`]), or if the address is not this machine's.
pub fn open(server: SocketAddr, from: Option<IpAddr>, within: Duration) -> Result<TcpStream> {
    let family = if server.is_ipv6() { AddressFamily::Inet6 } else { AddressFamily::Inet };
    let fd = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)
        .context("could not create a socket")?;
    // Linux applies the send timeout to connect(2) as well (socket(7)).
    let limit = TimeVal::new(within.as_secs() as i64, within.subsec_micros().into());
    setsockopt(&fd, sockopt::SendTimeout, &limit).context("could not set the time limit")?;
    setsockopt(&fd, sockopt::ReceiveTimeout, &limit).context("could not set the time limit")?;
    if let Some(address) = from {
        let source = SockaddrStorage::from(SocketAddr::new(address, 0));
        bind(fd.as_raw_fd(), &source).with_context(|| format!("could not bind to {address}"))?;
    }
    connect(fd.as_raw_fd(), &SockaddrStorage::from(server))
        .with_context(|| format!("could not connect to {server}"))?;
    Ok(TcpStream::from(fd))
}

/// Whether an error of [`Request::send`] means that nothing answered, as when packets are dropped. A refused or reset
/// connection does not: something answered.
pub fn is_timeout(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        use nix::errno::Errno::{EAGAIN, EINPROGRESS, ETIMEDOUT};
        let by_errno = cause
            .downcast_ref::<nix::errno::Errno>()
            .is_some_and(|errno| matches!(errno, &EAGAIN | &EINPROGRESS | &ETIMEDOUT));
        let by_io = cause
            .downcast_ref::<io::Error>()
            .is_some_and(|error| matches!(error.kind(), io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock));
        by_errno || by_io
    })
}

fn parse(answer: &[u8]) -> Option<(u16, Vec<u8>)> {
    let mut headers = [httparse::EMPTY_HEADER; MOST_HEADERS];
    let mut parsed = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(end) = parsed.parse(answer).ok()? else { return None };
    let body = answer.get(end..)?;
    let is_chunked = parsed.headers.iter().any(|header| {
        header.name.eq_ignore_ascii_case("transfer-encoding") && header.value.eq_ignore_ascii_case(b"chunked")
    });
    let body = if is_chunked { unchunked(body)? } else { body.to_vec() };
    Some((parsed.code?, body))
}

/// A body that came in pieces, each behind its length.
fn unchunked(mut rest: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let httparse::Status::Complete((begin, length)) = httparse::parse_chunk_size(rest).ok()? else {
            return None;
        };
        if length == 0 {
            return Some(body);
        }
        let upto = begin.checked_add(usize::try_from(length).ok()?)?;
        body.extend_from_slice(rest.get(begin..upto)?);
        rest = rest.get(upto.checked_add(2)?..)?;
    }
}

/// A request that came in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Received {
    pub method: String,
    pub target: String,
    /// Names in small letters.
    pub headers: Vec<(String, String)>,
}

impl Received {
    /// Reads one request with its body, which is thrown away; `None` where there is none, or what came is not HTTP.
    pub(crate) fn read(stream: impl Read) -> io::Result<Option<Received>> {
        let mut stream = BufReader::new(stream.take(MOST_BYTES));
        let mut head = Vec::new();
        let received = loop {
            if stream.read_until(b'\n', &mut head)? == 0 {
                return Ok(None);
            }
            if !head.ends_with(b"\n\r\n") && !head.ends_with(b"\n\n") {
                continue;
            }
            match Received::parse(&head) {
                Ok(Some(received)) => break received,
                // Empty lines before the first one.
                Ok(None) => {}
                Err(_) => return Ok(None),
            }
        };
        let length = received.header("content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
        io::copy(&mut stream.take(length), &mut io::sink())?;
        Ok(Some(received))
    }

    /// The request whose head this is; `None` if it is not whole.
    fn parse(head: &[u8]) -> Result<Option<Received>, httparse::Error> {
        let mut headers = [httparse::EMPTY_HEADER; MOST_HEADERS];
        let mut parsed = httparse::Request::new(&mut headers);
        if parsed.parse(head)?.is_partial() {
            return Ok(None);
        }
        let (Some(method), Some(target)) = (parsed.method, parsed.path) else { return Ok(None) };
        let (method, target) = (method.to_owned(), target.to_owned());
        let header = |header: &httparse::Header<'_>| {
            (header.name.to_ascii_lowercase(), String::from_utf8_lossy(header.value).into_owned())
        };
        Ok(Some(Received { method, target, headers: parsed.headers.iter().map(header).collect() }))
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_whole_or_in_pieces_and_nonsense_is_none() {
        let check = |text: &[u8], expected: Option<(u16, &[u8])>| {
            let parsed = parse(text);
            assert_eq!(parsed.as_ref().map(|(status, body)| (*status, body.as_slice())), expected);
        };
        check(b"HTTP/1.1 200 OK\r\nX: y\r\n\r\nhello", Some((200, b"hello")));
        let pieces =
            b"HTTP/1.1 404 No\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n";
        check(pieces, Some((404, b"abcde")));
        check(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\nab", None);
        check(b"SSH-2.0-x", None);
    }

    #[test]
    fn a_request_is_read_with_its_headers_and_without_its_body() {
        let text = b"\r\nPOST /login?a=b HTTP/1.1\r\nHost: shop\r\nContent-Length: 3\r\n\r\nx=yrest";
        let received = Received::read(&text[..]).unwrap().unwrap();
        assert_eq!((received.method.as_str(), received.target.as_str()), ("POST", "/login?a=b"));
        assert_eq!(received.header("host"), Some("shop"));
        for nonsense in [&b"GET / HT"[..], b"\x16\x03\x01\r\n\r\n", b"GET\r\n\r\n"] {
            assert_eq!(Received::read(nonsense).unwrap(), None);
        }
    }
}
