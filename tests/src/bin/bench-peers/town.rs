//! Where each program is measured: a server with a log and a listener on port 80, and a street with an address for everybody. What
//! is measured is seen from the street, so that it is the same for every way to drop a packet.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, setsockopt, socket, sockopt,
};
use shield_tests::netns::{self, End, Namespace};

/// The street's end of the link, and the server's.
const GATEWAY: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const SERVER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 80);

/// A client that nobody bans.
const VISITOR: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 7);

/// An answer over the link takes some tenths of a millisecond; so late there is none.
const SILENCE: Duration = Duration::from_millis(60);

/// Between two attempts of an attacker, at the beginning; later a hundredth of what has passed, so that many who wait long are no
/// load themselves.
const PACE: Duration = Duration::from_millis(2);

/// Targets of scanners that are not there. All three programs know some of them, and they are enough for the slowest to judge.
const PROBES: [&str; 15] = [
    "/phpmyadmin/",
    "/wp-login.php",
    "/wp-admin.php",
    "/wp-signup.php",
    "/pma/",
    "/cgi-bin/test.cgi",
    "/mysqladmin/",
    "/.env",
    "/.git/config",
    "/.aws/credentials",
    "/admin.php",
    "/config.php",
    "/shell.php",
    "/backup.php",
    "/old.php",
];

/// A line of nginx's combined format.
pub(crate) fn line(text: &mut String, client: Ipv4Addr, secs: i64, path: &str, status: u16) -> Result<()> {
    const AGENT: &str = "Mozilla/5.0 (X11; Linux x86_64; rv:145.0) Gecko/20100101 Firefox/145.0";
    let time = jiff::Timestamp::from_second(secs).context("could not format the time")?;
    let time = time.strftime("%d/%b/%Y:%H:%M:%S +0000");
    writeln!(text, r#"{client} - - [{time}] "GET {path} HTTP/1.1" {status} 5120 "-" "{AGENT}""#)?;
    Ok(())
}

pub(crate) fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}

/// The other clients: of a provider's own network (RFC 6598), which no program treats as this machine's.
fn client(number: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(0x6440_0000 + number)
}

/// A log of ordinary clients, one in a thousand lines of an attacker.
pub(crate) fn write_log(path: &Path, lines: u32) -> Result<()> {
    const CLIENTS: u32 = 10_000;
    let (mut text, from) = (String::new(), now() - 500);
    for number in 0..lines {
        let secs = from + i64::from(number) * 480 / i64::from(lines);
        match number % 1000 {
            999 => line(
                &mut text,
                Ipv4Addr::from_bits(0xcb00_7100 + number / 20_000),
                secs,
                PROBES[(number / 1000) as usize % PROBES.len()],
                404,
            )?,
            _ => line(
                &mut text,
                client(number.wrapping_mul(2_654_435_761) % CLIENTS),
                secs,
                &format!("/articles/{}", number % 500),
                200,
            )?,
        }
    }
    fs::write(path, text).with_context(|| format!("could not write {}", path.display()))
}

/// The two machines, the server's log and its listener.
pub(crate) struct Town {
    pub(crate) server: Namespace,
    street: Namespace,
    pub(crate) folder: tempfile::TempDir,
    pub(crate) log: PathBuf,
    stop: Arc<AtomicBool>,
    listener: Option<JoinHandle<()>>,
}

impl Town {
    pub(crate) fn create() -> Result<Town> {
        let (server, street) = (Namespace::create("server")?, Namespace::create("street")?);
        netns::connect(
            End { namespace: &server, interface: "eth0", addresses: &[&format!("{SERVER}/24")] },
            End { namespace: &street, interface: "eth0", addresses: &[&format!("{GATEWAY}/24")] },
        )?;
        for network in ["198.18.0.0/15", "203.0.113.0/24"] {
            // No default route: who asks for a name is told at once that there is no network, instead of waiting for an answer.
            server.run(&["ip", "route", "add", network, "via", &GATEWAY.to_string()])?;
            // Every address of it is the street's own.
            street.run(&["ip", "route", "add", "local", network, "dev", "lo"])?;
        }
        let folder = tempfile::tempdir().context("could not create a temporary folder")?;
        let log = folder.path().join("access.log");
        File::create(&log).context("could not create the log")?;
        let stop = Arc::new(AtomicBool::new(false));
        let socket =
            server.enter(|| TcpListener::bind((SERVER, 80))).context("could not listen on port 80")?;
        socket.set_nonblocking(true).context("could not set up the listener")?;
        let stopped = Arc::clone(&stop);
        let listener = Some(server.spawn(move || serve(&socket, &stopped)));
        Ok(Town { server, street, folder, log, stop, listener })
    }

    /// Whether a connection from this address is answered.
    pub(crate) fn is_served(&self, from: Ipv4Addr) -> bool {
        self.street.enter(|| attempt(from).is_some())
    }

    /// Appends to the log in one write.
    pub(crate) fn append(&self, text: &str) -> Result<()> {
        let mut log = File::options().append(true).open(&self.log).context("could not open the log")?;
        log.write_all(text.as_bytes()).context("could not write to the log")
    }

    /// The lines of an attacker are written at once, then it tries to connect again and again. Milliseconds from the write to the first
    /// attempt without an answer; `None` when all are answered for `at_most`.
    pub(crate) fn attack(&self, attacker: Ipv4Addr, at_most: Duration) -> Result<Option<f64>> {
        ensure!(self.is_served(attacker), "{attacker} was dropped before it attacked");
        let mut text = String::new();
        PROBES.iter().try_for_each(|path| line(&mut text, attacker, now(), path, 404))?;
        let written = Instant::now();
        self.append(&text)?;
        let dropped = self.street.enter(|| {
            while written.elapsed() < at_most {
                let began = Instant::now();
                if attempt(attacker).is_none() {
                    return Some(began.duration_since(written).as_secs_f64() * 1e3);
                }
                std::thread::sleep(PACE.max(written.elapsed() / 100));
            }
            None
        });
        Ok(dropped)
    }

    /// Microseconds of a round trip over one connection of the visitor, the median of so many.
    pub(crate) fn round_trip_us(&self, trips: usize) -> Result<f64> {
        let took = self.street.enter(|| round_trips(trips))?;
        Ok(took)
    }

    /// Starts the other clients' lines.
    pub(crate) fn load(&self, lines_per_sec: u32) -> Result<Load> {
        Load::start(&self.log, lines_per_sec)
    }
}

impl Drop for Town {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.listener.take().map(JoinHandle::join);
    }
}

/// Answers every byte of every connection with the same byte.
fn serve(socket: &TcpListener, stop: &Arc<AtomicBool>) {
    while !stop.load(Ordering::Relaxed) {
        match socket.accept() {
            Ok((stream, _)) => {
                let stop = Arc::clone(stop);
                std::thread::spawn(move || echo(stream, &stop));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(1)),
        }
    }
}

fn echo(mut stream: TcpStream, stop: &AtomicBool) {
    let _ = stream.set_nonblocking(false);
    let _ = stream.set_nodelay(true);
    let _ = stream.set_read_timeout(Some(Duration::from_secs(1)));
    let mut byte = [0];
    while !stop.load(Ordering::Relaxed) {
        match stream.read(&mut byte) {
            Ok(1) if stream.write_all(&byte).is_ok() => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            _ => return,
        }
    }
}

/// A connection from this address to the server; `None` when it is refused, or not answered in time.
fn attempt(from: Ipv4Addr) -> Option<TcpStream> {
    let socket = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).ok()?;
    setsockopt(&socket, sockopt::ReuseAddr, &true).ok()?;
    // Bound by the address alone, or the ports in use would run out.
    setsockopt(&socket, sockopt::IpBindAddressNoPort, &true).ok()?;
    let patience = nix::sys::time::TimeVal::new(0, SILENCE.as_micros() as i64);
    setsockopt(&socket, sockopt::SendTimeout, &patience).ok()?;
    let [a, b, c, d] = from.octets();
    let fd = std::os::fd::AsRawFd::as_raw_fd(&socket);
    bind(fd, &SockaddrIn::new(a, b, c, d, 0)).ok()?;
    let [a, b, c, d] = SERVER.octets();
    connect(fd, &SockaddrIn::new(a, b, c, d, 80)).ok()?;
    Some(TcpStream::from(socket))
}

fn round_trips(trips: usize) -> Result<f64> {
    let mut stream = attempt(VISITOR).context("could not serve the visitor")?;
    stream.set_nodelay(true).context("could not set up the visitor's connection")?;
    stream
        .set_read_timeout(Some(Duration::from_secs(5)))
        .context("could not set up the visitor's connection")?;
    let mut took = Vec::with_capacity(trips);
    for _ in 0..trips {
        let (began, mut byte) = (Instant::now(), [7]);
        stream.write_all(&byte).context("could not send the visitor's byte")?;
        stream.read_exact(&mut byte).context("could not get the visitor's byte back")?;
        took.push(began.elapsed().as_secs_f64() * 1e6);
    }
    took.sort_by(f64::total_cmp);
    Ok(took[took.len() / 2])
}

/// The addresses of so many bans: of the network for benchmarks (RFC 2544).
pub(crate) fn banned(count: u32) -> impl Iterator<Item = Ipv4Addr> {
    (1..=count).map(|number| Ipv4Addr::from_bits(0xc612_0000 + number))
}

/// An attacker of its own for each measurement.
pub(crate) fn attacker(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(203, 0, 113, number)
}

/// Others' lines, written until it is dropped.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    writer: Option<JoinHandle<()>>,
}

impl Load {
    fn start(log: &Path, lines_per_sec: u32) -> Result<Load> {
        const WRITES_PER_SEC: u32 = 50;
        let mut log = File::options().append(true).open(log).context("could not open the log")?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let writer = std::thread::spawn(move || {
            let (began, mut written) = (Instant::now(), 0);
            while !stopped.load(Ordering::Relaxed) {
                let due = began + Duration::from_secs(1) * written / WRITES_PER_SEC;
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
                let (mut text, lines) = (String::new(), lines_per_sec / WRITES_PER_SEC);
                for number in 0..lines {
                    let number = (written * lines + number) % 20_000;
                    let _ =
                        line(&mut text, client(number), now(), &format!("/articles/{}", number % 500), 200);
                }
                let _ = log.write_all(text.as_bytes());
                written += 1;
            }
        });
        Ok(Load { stop, writer: Some(writer) })
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.writer.take().map(JoinHandle::join);
    }
}
