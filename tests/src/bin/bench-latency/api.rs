//! The API's worst load: many connections ask for what costs the most, each as fast as it is answered.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use shield_agent::test_support::api::priority::give_way;
use shield_tests::netns::Namespace;

/// The page, in the agent's namespace.
const PAGE: &str = "127.0.0.1:8080";
/// As many as are answered at once.
const CONNECTIONS: usize = 64;
/// What `bench api --worst` found to cost a ban the most.
const ASKED: &str = "/api/v1/bans?limit=1000&q=1&offset=1000";
/// Time limit for an answer.
const TIMEOUT: Duration = Duration::from_secs(10);

/// A running load.
pub(crate) struct Flood {
    stop: Arc<AtomicBool>,
    answers: Arc<AtomicU64>,
    began: Instant,
    threads: Vec<JoinHandle<Result<()>>>,
}

impl Flood {
    pub(crate) fn start(server: &Namespace) -> Result<Flood> {
        let (stop, answers) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let addr: SocketAddr = PAGE.parse().expect("the constant is an address");
        let mut threads = Vec::new();
        for _ in 0..CONNECTIONS {
            let connect = || TcpStream::connect_timeout(&addr, TIMEOUT);
            let connection = server.enter(connect).with_context(|| format!("could not connect to {addr}"))?;
            connection.set_read_timeout(Some(TIMEOUT)).context("could not set the time limit")?;
            let (stop, answers) = (Arc::clone(&stop), Arc::clone(&answers));
            threads.push(std::thread::spawn(move || {
                give_way();
                ask(connection, &stop, &answers)
            }));
        }
        Ok(Flood { stop, answers, began: Instant::now(), threads })
    }

    /// Ends it and returns the answers a second.
    pub(crate) fn stop(self) -> Result<u64> {
        let secs = self.began.elapsed().as_secs_f64();
        let answers = self.answers.load(Ordering::Relaxed);
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().map_err(|_| anyhow::anyhow!("a thread that floods the API panicked"))??;
        }
        ensure!(answers > 0, "the API answered nobody");
        Ok((answers as f64 / secs).round() as u64)
    }
}

fn ask(connection: TcpStream, stop: &AtomicBool, answers: &AtomicU64) -> Result<()> {
    let request = format!("GET {ASKED} HTTP/1.1\r\nhost: localhost\r\n\r\n");
    let mut connection = BufReader::new(connection);
    let mut body = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        connection.get_mut().write_all(request.as_bytes()).context("could not send a request")?;
        let (mut status, mut length) = (String::new(), 0);
        loop {
            let mut line = String::new();
            connection.read_line(&mut line).context("could not read the head of an answer")?;
            let line = line.trim_end().to_ascii_lowercase();
            match line.split_once([':', ' ']) {
                Some(("http/1.1", rest)) => rest.clone_into(&mut status),
                Some(("content-length", value)) => {
                    length = value.trim().parse().context("could not parse the length of an answer")?;
                }
                Some(_) => {}
                None => break,
            }
        }
        body.resize(length, 0);
        connection.read_exact(&mut body).context("could not read the body of an answer")?;
        ensure!(status.starts_with("200"), "the API answered {status}");
        answers.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}
