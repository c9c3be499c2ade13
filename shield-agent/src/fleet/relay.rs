//! A relay between a host and nats-server that loses single messages of either side, as a server does that dies with them.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// What is lost: the operation's first word, and what its whole text has to hold.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lost(pub(super) &'static [&'static str], pub(super) &'static str);

pub(super) const PUBLISH: Lost = Lost(&["PUB", "HPUB"], "shield.v1.ban.");
pub(super) const ACKNOWLEDGEMENT: Lost = Lost(&["MSG", "HMSG"], "\"stream\":\"SHIELD\",");

pub(super) struct Relay {
    pub(super) url: String,
    next: Arc<Mutex<Option<Lost>>>,
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
    pub(super) fn lose(&self, lost: Lost) {
        *self.next.lock().unwrap() = Some(lost);
    }

    /// How many were lost.
    pub(super) fn lost(&self) -> usize {
        self.lost.load(Ordering::SeqCst)
    }
}

fn pass_on(from: TcpStream, mut to: TcpStream, next: &Mutex<Option<Lost>>, lost: &AtomicUsize) {
    let mut from = BufReader::new(from);
    while let Some(text) = operation(&mut from) {
        let is_lost = next.lock().unwrap().take_if(|lost| is(&text, *lost)).is_some();
        if is_lost {
            lost.fetch_add(1, Ordering::SeqCst);
        } else if to.write_all(&text).is_err() {
            break;
        }
    }
    let _ = to.shutdown(std::net::Shutdown::Both);
}

fn is(text: &[u8], Lost(words, part): Lost) -> bool {
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
