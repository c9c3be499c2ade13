//! The agent that is attacked: the real binary in a namespace, with a log that the attack writes, the page, and no enforcers, so
//! that many of them can be started. What concerns the kernel is attacked on a [`crate::site::Site`].

use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::{BAN_WITHIN, PATIENCE};
use crate::agent::{Agent, Home};
use crate::netns::Namespace;
use crate::wait;

/// The page, in the target's namespace.
const PAGE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8080);

/// Lines of an attack that is banned from the first minute on: a flood of requests for one page.
const FLOOD: usize = 200;

/// Somebody who has done nothing, whom attackers try to have banned.
pub(super) const VICTIM: Ipv4Addr = Ipv4Addr::new(8, 8, 8, 8);

pub(super) struct Target {
    // Fields are dropped in order: the agent must end before its namespace is deleted.
    pub agent: Agent,
    pub home: Home,
    pub namespace: Namespace,
    log: PathBuf,
    next: AtomicU32,
}

/// An answer over HTTP.
#[derive(Debug)]
pub(super) struct Answer {
    pub status: u16,
    pub body: String,
}

impl Target {
    /// Starts an agent with a log, the page, and the tables in `more`.
    pub(super) fn start(more: &str) -> Result<Target> {
        Target::start_with("", more)
    }

    /// The same with more keys of the log's `[[source]]`, or more of these.
    pub(super) fn start_with(source: &str, more: &str) -> Result<Target> {
        Target::start_in(Home::create()?, source, more)
    }

    /// The same with a home that was prepared.
    pub(super) fn start_in(home: Home, source: &str, more: &str) -> Result<Target> {
        let namespace = Namespace::create("target")?;
        let log = home.folder().join("access.log");
        File::create(&log).context("could not create the log")?;
        let tables =
            format!("[page]\nlisten = \"{PAGE}\"\n[iptables]\nmode = \"off\"\n[xdp]\nmode = \"off\"\n{more}");
        home.configure(&log, source, &tables)?;
        let agent = Agent::start_in_unit(&namespace, &home, &[])?;
        let target = Target { agent, home, namespace, log, next: AtomicU32::new(1) };
        target.wait_until_it_reads()?;
        Ok(target)
    }

    fn wait_until_it_reads(&self) -> Result<()> {
        wait::until("the agent to read its log", PATIENCE, || {
            let status = self.status()?;
            Ok((status["sources"][0]["logs"] == 1).then_some(()))
        })
    }

    /// Ends the agent as `end` does, lets `meanwhile` happen to its files, and starts it again.
    pub(super) fn start_again(
        self,
        end: impl FnOnce(Agent) -> Result<()>,
        meanwhile: impl FnOnce(&Home) -> Result<()>,
    ) -> Result<Target> {
        let Target { agent, home, namespace, log, next } = self;
        end(agent)?;
        meanwhile(&home)?;
        let agent = Agent::start_in_unit(&namespace, &home, &[])?;
        let target = Target { agent, home, namespace, log, next };
        target.wait_until_it_reads()?;
        Ok(target)
    }

    pub(super) fn status(&self) -> Result<Value> {
        self.home.json(&self.namespace, &["status"])
    }

    /// Appends to the log.
    pub(super) fn write(&self, text: &str) -> Result<()> {
        let mut log = OpenOptions::new().append(true).open(&self.log).context("could not open the log")?;
        log.write_all(text.as_bytes()).context("could not write to the log")
    }

    /// Waits until everything that was written is read.
    pub(super) fn settle(&self) -> Result<()> {
        let length = std::fs::metadata(&self.log).context("could not look at the log")?.len();
        wait::until("the agent to read everything", PATIENCE, || {
            let source = &self.status()?["sources"][0];
            let is_read =
                source["bytes"].as_u64() >= Some(length) && source["lag_bytes"].as_u64().unwrap_or(0) == 0;
            Ok(is_read.then_some(()))
        })
    }

    /// A client that was not used yet, in the network for benchmarks (RFC 2544).
    pub(super) fn fresh_client(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits(0xC612_0000 + self.next.fetch_add(1, Ordering::Relaxed))
    }

    /// Lets a new client attack the web server, and returns the time until its ban is recorded.
    pub(super) fn ban_takes(&self) -> Result<Duration> {
        let client = self.fresh_client();
        let lines = flood(&client.to_string())?;
        let began = Instant::now();
        self.write(&lines)?;
        wait::until(&format!("the ban of {client}"), PATIENCE, || {
            Ok(self.has_banned(&client.to_string())?.then_some(()))
        })
        .with_context(|| format!("could not see it in the audit log; {}", self.parts_and_log()))?;
        Ok(began.elapsed())
    }

    fn parts_and_log(&self) -> String {
        let parts = self.status().map(|status| status["parts"].to_string());
        format!("{}; the agent's log: {}", parts.unwrap_or_default(), self.home.log())
    }

    /// Whether detection works at its usual pace: a new attacker is banned at once.
    pub(super) fn still_bans(&self) -> Result<Duration> {
        let took = self.ban_takes()?;
        ensure!(took <= BAN_WITHIN, "a ban took {:.2} s", took.as_secs_f64());
        Ok(took)
    }

    /// Waits until all of these are banned, and returns the time that it took.
    pub(super) fn wait_until_banned(&self, clients: &[Ipv4Addr], within: Duration) -> Result<Duration> {
        let began = Instant::now();
        wait::until(&format!("the bans of {} clients", clients.len()), within, || {
            let left = clients.iter().filter(|client| !self.has_banned(&client.to_string()).unwrap_or(false));
            Ok((left.count() == 0).then_some(()))
        })?;
        Ok(began.elapsed())
    }

    /// Whether the audit log has a ban of this client, by itself or in a network of this text.
    pub(super) fn has_banned(&self, client: &str) -> Result<bool> {
        let text = match std::fs::read_to_string(self.home.audit()) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(error).context("could not read the audit log"),
        };
        let wanted = format!("\"{client}\"");
        Ok(text.lines().any(|line| line.contains("banned") && line.contains(&wanted)))
    }

    pub(super) fn victim_is_free(&self) -> Result<()> {
        ensure!(!self.has_banned(&VICTIM.to_string())?, "{VICTIM}, who did nothing, is banned");
        let bans = self.home.json(&self.namespace, &["bans"])?;
        ensure!(!bans.to_string().contains(&VICTIM.to_string()), "{VICTIM}, who did nothing, is banned");
        Ok(())
    }

    /// The same process answers, and nothing vital hangs.
    pub(super) fn is_well(&self) -> Result<()> {
        let answer = self.get("/healthz", &[])?;
        ensure!(answer.status == 200, "/healthz says {}: {}", answer.status, answer.body);
        Ok(())
    }

    /// A GET of the page's listener, with these headers besides a right Host.
    pub(super) fn get(&self, path: &str, headers: &[(&str, &str)]) -> Result<Answer> {
        let mut lines = String::from("Host: localhost\r\n");
        for (name, value) in headers {
            write!(lines, "{name}: {value}\r\n")?;
        }
        self.send(&format!("GET {path} HTTP/1.1\r\n{lines}Connection: close\r\n\r\n"))
    }

    /// Sends a whole request to the page's listener.
    pub(super) fn send(&self, request: &str) -> Result<Answer> {
        let mut stream = self.connect()?;
        stream.write_all(request.as_bytes()).context("could not send the request")?;
        read_answer(stream)
    }

    pub(super) fn connect(&self) -> Result<TcpStream> {
        let stream =
            self.namespace.enter(|| TcpStream::connect(PAGE)).context("could not connect to the page")?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(stream)
    }

    /// Opens an event stream over the control socket, and returns it once the first event has come.
    pub(super) fn root_stream(&self) -> Result<UnixStream> {
        let mut stream =
            UnixStream::connect(self.home.socket()).context("could not connect to the control socket")?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(b"GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n")?;
        let mut head = [0; 12];
        stream.read_exact(&mut head).context("could not read the answer on the control socket")?;
        ensure!(
            head.ends_with(b"200"),
            "root's event stream was refused: {}",
            String::from_utf8_lossy(&head)
        );
        Ok(stream)
    }

    /// The resident memory of the agent, in bytes.
    pub(super) fn memory(&self) -> Result<u64> {
        memory_of(self.agent.pid(), "VmRSS:")
    }
}

/// The most memory that a process had, in bytes.
pub(super) fn peak_memory(pid: u32) -> Result<u64> {
    memory_of(pid, "VmHWM:")
}

fn memory_of(pid: u32, key: &str) -> Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let kib =
        text.lines().find_map(|line| line.strip_prefix(key)?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    Ok(kib.with_context(|| format!("could not find {key} in /proc/PID/status"))? * 1024)
}

fn read_answer(mut stream: TcpStream) -> Result<Answer> {
    let mut text = Vec::new();
    stream.read_to_end(&mut text).context("could not read the answer")?;
    let _ = stream.shutdown(Shutdown::Both);
    let text = String::from_utf8_lossy(&text);
    let (head, body) =
        text.split_once("\r\n\r\n").with_context(|| format!("could not parse the answer {text:?}"))?;
    let status =
        head.get(9..12).and_then(|status| status.parse().ok()).context("could not parse the status")?;
    Ok(Answer { status, body: body.to_owned() })
}

/// Now, as nginx writes it.
pub(super) fn time() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S+00:00").to_string()
}

/// A line of the README's format.
pub(super) fn line(client: &str, time: &str, path: &str, status: u16) -> String {
    format!(
        "{{\"source_ip\":\"{client}\",\"timestamp\":\"{time}\",\"method\":\"GET\",\"path\":\"{path}\",\"status\":{status},\
         \"response_size\":512}}\n"
    )
}

/// The lines of somebody who floods. Their times are spread over the last seconds, as a flood's are.
pub(super) fn flood(client: &str) -> Result<String> {
    let mut lines = String::new();
    let now = jiff::Timestamp::now();
    for n in 0..FLOOD {
        let at = now - jiff::SignedDuration::from_millis(4_000 * (FLOOD - 1 - n) as i64 / FLOOD as i64);
        let time = at.strftime("%Y-%m-%dT%H:%M:%S+00:00").to_string();
        lines.push_str(&line(client, &time, "/", 200));
    }
    Ok(lines)
}
