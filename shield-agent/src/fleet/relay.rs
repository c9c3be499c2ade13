//! A relay between a host and nats-server that loses single messages of either side, as a server does that dies with them, or
//! holds them back.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Which is meant: the operation's first word, and what its whole text has to hold.
#[derive(Debug, Clone, Copy)]
pub(super) struct Which(pub(super) &'static [&'static str], pub(super) &'static str);

pub(super) const PUBLISH: Which = Which(&["PUB", "HPUB"], "shield.v1.ban.");
pub(super) const ACKNOWLEDGEMENT: Which = Which(&["MSG", "HMSG"], "\"stream\":\"SHIELD\",");
pub(super) const CONSUMER: Which = Which(&["PUB", "HPUB"], "$JS.API.CONSUMER.CREATE.");

/// What becomes of it.
#[derive(Debug, Clone, Copy)]
enum Fate {
    Lost,
    Late(Duration),
}

type Next = Mutex<Option<(Which, Fate)>>;

pub(super) struct Relay {
    pub(super) url: String,
    next: Arc<Next>,
    lost: Arc<AtomicUsize>,
}

impl Relay {
    pub(super) fn start(server: u16) -> Relay {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("nats://{}", listener.local_addr().unwrap());
        let relay = Relay { url, next: Arc::default(), lost: Arc::default() };
        let (next, lost) = (Arc::clone(&relay.next), Arc::clone(&relay.lost));
        std::thread::spawn(move || {
            for host in listener.incoming() {
                let host = host.unwrap();
                let Ok(server) = TcpStream::connect(("127.0.0.1", server)) else { continue };
                for (from, to) in
                    [(host.try_clone(), server.try_clone()), (server.try_clone(), host.try_clone())]
                {
                    let (from, to) = (from.unwrap(), to.unwrap());
                    let (next, lost) = (Arc::clone(&next), Arc::clone(&lost));
                    std::thread::spawn(move || pass_on(from, to, &next, &lost));
                }
            }
        });
        relay
    }

    /// Loses the next of these, and nothing else.
    pub(super) fn lose(&self, which: Which) {
        *self.next.lock().unwrap() = Some((which, Fate::Lost));
    }

    /// Passes the next of these on so much later, and whatever comes behind it at once.
    pub(super) fn hold(&self, which: Which, time: Duration) {
        *self.next.lock().unwrap() = Some((which, Fate::Late(time)));
    }

    /// How many were lost.
    pub(super) fn lost(&self) -> usize {
        self.lost.load(Ordering::SeqCst)
    }
}

fn pass_on(from: TcpStream, to: TcpStream, next: &Next, lost: &AtomicUsize) {
    let mut from = BufReader::new(from);
    let to = Arc::new(Mutex::new(to));
    let pass = |to: &Mutex<TcpStream>, text: &[u8]| to.lock().unwrap().write_all(text);
    while let Some(text) = operation(&mut from) {
        match next.lock().unwrap().take_if(|(which, _)| is(&text, *which)) {
            Some((_, Fate::Lost)) => {
                lost.fetch_add(1, Ordering::SeqCst);
            }
            Some((_, Fate::Late(time))) => {
                let to = Arc::clone(&to);
                std::thread::spawn(move || {
                    std::thread::sleep(time);
                    // The other side may have gone.
                    let _ = pass(&to, &text);
                });
            }
            None if pass(&to, &text).is_err() => break,
            None => {}
        }
    }
    let _ = to.lock().unwrap().shutdown(std::net::Shutdown::Both);
}

fn is(text: &[u8], Which(words, part): Which) -> bool {
    let text = String::from_utf8_lossy(text);
    words.contains(&text.split_whitespace().next().unwrap_or_default()) && text.contains(part)
}

/// One operation of the protocol, with its payload.
fn operation(from: &mut BufReader<TcpStream>) -> Option<Vec<u8>> {
    let mut text = Vec::new();
    from.read_until(b'\n', &mut text).ok().filter(|read| *read > 0)?;
    let line = String::from_utf8_lossy(&text).into_owned();
    let mut words = line.split_whitespace();
    if matches!(words.next(), Some("PUB" | "HPUB" | "MSG" | "HMSG")) {
        let bytes: u64 = words.next_back()?.parse().ok()?;
        from.take(bytes + 2).read_to_end(&mut text).ok()?;
    }
    Some(text)
}
