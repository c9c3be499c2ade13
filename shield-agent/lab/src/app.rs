//! The app behind nginx: `/`, `/health`, a login that refuses everybody, and `/chaos`, with which it becomes slow or fails. A
//! replayed visitor asks it for the answer that the log has.
//!
//! A second one of it stands for Slack. Both know only the state that `/chaos` sets; nothing that is sent to them is kept.

use std::io::Write as _;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::wire::Received;

/// The status that a replayed visitor wants, because the log has it.
pub const WANTED_STATUS: &str = "x-lab-status";
/// And the size of the body.
pub const WANTED_SIZE: &str = "x-lab-size";

/// A connection that says nothing for so long is closed.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long an answer takes while the app is slow.
const SLOWNESS: Duration = Duration::from_secs(2);
/// Connections at a time; further ones are closed at once, so that a flood ends nothing but itself.
const MOST_CONNECTIONS: usize = 512;
/// A body is not longer, whatever the log says.
const MOST_BODY: usize = 1 << 20;

/// What `/chaos` has set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mood {
    Well,
    Slow,
    Failing,
}

#[derive(Debug, Default)]
struct Shared {
    mood: AtomicU8,
    connections: AtomicUsize,
}

/// Serves both until the process ends.
///
/// # Errors
/// Fails if an address is taken.
pub fn serve(listen: SocketAddr, slack: Option<SocketAddr>) -> Result<()> {
    if let Some(slack) = slack {
        let listener = bind(slack)?;
        let serve = move || serve_listener(&listener);
        std::thread::Builder::new()
            .name("slack".to_owned())
            .spawn(serve)
            .context("could not start a thread")?;
    }
    serve_listener(&bind(listen)?);
    Ok(())
}

fn bind(address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address).with_context(|| format!("could not listen on {address}"))
}

fn serve_listener(listener: &TcpListener) {
    let shared = Arc::new(Shared::default());
    for stream in listener.incoming().flatten() {
        if shared.connections.fetch_add(1, Ordering::Relaxed) >= MOST_CONNECTIONS {
            shared.connections.fetch_sub(1, Ordering::Relaxed);
            continue;
        }
        let of_thread = Arc::clone(&shared);
        let work = move || {
            // A client that goes away is its own affair.
            let _ = serve_connection(stream, &of_thread);
            of_thread.connections.fetch_sub(1, Ordering::Relaxed);
        };
        if std::thread::Builder::new().spawn(work).is_err() {
            shared.connections.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

fn serve_connection(mut stream: TcpStream, shared: &Shared) -> std::io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let Some(request) = Received::read(&stream)? else { return Ok(()) };
    let mood = shared.mood();
    let is_chaos = path(&request) == "/chaos";
    if mood == Mood::Slow && !is_chaos {
        std::thread::sleep(SLOWNESS);
    }
    let (status, body) = if is_chaos { shared.chaos(&request) } else { answer(&request, mood) };
    // 304 and 204 have no body.
    let body = if matches!(status, 204 | 304) || request.method == "HEAD" { Vec::new() } else { body };
    let head = format!(
        "HTTP/1.1 {status} {}\r\nContent-Type: text/html\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        if status < 400 { "OK" } else { "No" },
        body.len()
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(&body)
}

fn path(request: &Received) -> &str {
    request.target.split('?').next().unwrap_or_default()
}

/// The answer to anything but `/chaos`.
fn answer(request: &Received, mood: Mood) -> (u16, Vec<u8>) {
    if mood == Mood::Failing {
        return (503, b"told to fail\n".to_vec());
    }
    let wanted = |name| request.header(name).and_then(|text| text.parse::<usize>().ok());
    if let Some(status) = wanted(WANTED_STATUS).filter(|status| (200..600).contains(status)) {
        return (status as u16, vec![b' '; wanted(WANTED_SIZE).unwrap_or(0).min(MOST_BODY)]);
    }
    match (request.method.as_str(), path(request)) {
        (_, "/") => (200, b"<!doctype html><title>Shop</title><h1>Shop</h1>\n".to_vec()),
        (_, "/health") => (200, b"ok\n".to_vec()),
        ("POST", path) if path.contains("login") => (401, b"wrong password\n".to_vec()),
        // Slack's webhooks.
        ("POST", path) if path.starts_with("/services/") => (200, b"ok".to_vec()),
        _ => (404, b"not found\n".to_vec()),
    }
}

impl Shared {
    fn mood(&self) -> Mood {
        [Mood::Well, Mood::Slow, Mood::Failing]
            .into_iter()
            .find(|mood| *mood as u8 == self.mood.load(Ordering::Relaxed))
            .unwrap_or(Mood::Well)
    }

    /// Sets the mood (`POST /chaos?mode=slow`), and says which it is.
    fn chaos(&self, request: &Received) -> (u16, Vec<u8>) {
        let mode = request.target.split_once("mode=").map(|(_, mode)| mode);
        let mood = match mode {
            Some("slow") => Some(Mood::Slow),
            Some("error") => Some(Mood::Failing),
            Some("recover") => Some(Mood::Well),
            _ => None,
        };
        match (request.method.as_str(), mood) {
            ("POST", Some(mood)) => self.mood.store(mood as u8, Ordering::Relaxed),
            ("POST", None) => return (400, b"could not read the mode: slow, error or recover\n".to_vec()),
            _ => {}
        }
        let name = match self.mood() {
            Mood::Well => "well",
            Mood::Slow => "slow",
            Mood::Failing => "error",
        };
        (200, name.as_bytes().to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Request;

    fn start() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || serve_listener(&listener));
        address
    }

    fn ask(app: SocketAddr, method: &'static str, target: &str, headers: &[(&str, &str)]) -> (u16, String) {
        let request = Request { method, headers, ..Request::get(target) };
        let answer = request.send(app, None, PATIENCE).unwrap();
        (answer.status, String::from_utf8(answer.body).unwrap())
    }

    #[test]
    fn it_serves_its_pages_refuses_every_login_and_answers_as_the_log_did() {
        let app = start();
        assert_eq!(ask(app, "GET", "/", &[]).0, 200);
        assert_eq!(ask(app, "GET", "/health", &[]), (200, "ok\n".to_owned()));
        assert_eq!(ask(app, "POST", "/login", &[]).0, 401);
        assert_eq!(ask(app, "GET", "/.env", &[]).0, 404);
        let of_log = [(WANTED_STATUS, "301"), (WANTED_SIZE, "5")];
        assert_eq!(ask(app, "GET", "/.env", &of_log), (301, "     ".to_owned()));
        assert_eq!(ask(app, "GET", "/.env", &[(WANTED_STATUS, "99999")]).0, 404);
    }

    #[test]
    fn it_fails_when_told_so_and_recovers() {
        let app = start();
        assert_eq!(ask(app, "GET", "/chaos", &[]), (200, "well".to_owned()));
        assert_eq!(ask(app, "POST", "/chaos?mode=error", &[]), (200, "error".to_owned()));
        assert_eq!(ask(app, "GET", "/", &[]).0, 503);
        assert_eq!(ask(app, "POST", "/chaos?mode=nonsense", &[]).0, 400);
        assert_eq!(ask(app, "POST", "/chaos?mode=recover", &[]), (200, "well".to_owned()));
        assert_eq!(ask(app, "GET", "/", &[]).0, 200);
    }
}
