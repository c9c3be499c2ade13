//! An HTTP server on a namespace's loopback that stands in for Slack: it keeps the bodies that are posted to it.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};

use anyhow::{Context as _, Result};

use crate::netns::Namespace;

/// The server's reaction to every request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Behaviour {
    /// It answers 200.
    Answers,
    /// It reads the request and says nothing.
    NeverAnswers,
}

/// Starts the server, which serves as long as the process runs. Returns its URL and the bodies as they come.
///
/// # Errors
/// Fails if the namespace has no loopback to listen on.
pub fn start(namespace: &Namespace, behaviour: Behaviour) -> Result<(String, Receiver<String>)> {
    let listener =
        namespace.enter(|| TcpListener::bind("127.0.0.1:0")).context("could not listen on the loopback")?;
    let addr = listener.local_addr().context("could not get the server's address")?;
    let (received, bodies) = channel();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let received = received.clone();
            std::thread::spawn(move || serve(stream, behaviour, &received));
        }
    });
    Ok((format!("http://{addr}/services/of-a-test"), bodies))
}

/// Serves one connection until its other side closes it.
fn serve(mut stream: TcpStream, behaviour: Behaviour, received: &Sender<String>) {
    let Ok(reader) = stream.try_clone() else { return };
    let mut reader = BufReader::new(reader);
    while let Some(body) = read_body(&mut reader) {
        // Fails only after the test has dropped the receiver.
        let _ = received.send(body);
        if behaviour == Behaviour::Answers {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        }
    }
}

fn read_body(reader: &mut BufReader<TcpStream>) -> Option<String> {
    let mut length = 0;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        match line.trim_end().to_ascii_lowercase().strip_prefix("content-length: ") {
            Some(value) => length = value.parse().ok()?,
            None if line == "\r\n" => break,
            None => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    String::from_utf8(body).ok()
}
