//! A real agent whose parts panic or hang, by faults that only a build for tests has. Enforcement is off, so that no root is
//! needed; the enforcers' own panics are tested where they run.
//!
//! Alone: a part that does not go on for 3 s counts as hung, whatever held it up.
//! Waits: for parts to count as hung.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails there")]

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;

/// For what must come; only a failure takes that long.
const PATIENCE: Duration = Duration::from_secs(60);

/// The time that a stall takes in these tests. Far longer than a busy machine holds a thread up, and the process ends after five
/// times as much.
const STALL_MS: u64 = 3_000;

const LINE: &str = r#"{"source_ip":"192.0.2.7","timestamp":TIME,"path":"/","status":200}"#;

struct Agent {
    folder: tempfile::TempDir,
    page: SocketAddr,
    process: Child,
    /// Bodies that the webhook got.
    posted: Arc<Mutex<String>>,
}

impl Agent {
    fn start(environment: &[(&str, &Path)]) -> Agent {
        let folder = tempfile::tempdir().unwrap();
        let page = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let (hook, posted) = slack();
        let path = |name: &str| folder.path().join(name);
        fs::create_dir(path("faults")).unwrap();
        File::create(path("access.log")).unwrap();
        let config = format!(
            "[agent]\nstate_dir = {:?}\nsocket = {:?}\n[page]\nlisten = '{page}'\n[[source]]\npath = {:?}\n\
             [slack]\nurl_file = {:?}\n[iptables]\nmode = 'off'\n[xdp]\nmode = 'off'\n[audit]\npath = {:?}\n",
            path("state"),
            path("control.sock"),
            path("access.log"),
            path("slack-url"),
            path("audit.jsonl"),
        );
        fs::write(path("slack-url"), format!("http://{hook}/x")).unwrap();
        fs::write(path("shield.toml"), config).unwrap();
        let process = Command::new("true").spawn().unwrap();
        let mut agent = Agent { folder, page, process, posted };
        let started = agent.spawn(environment);
        let _ = std::mem::replace(&mut agent.process, started).wait();
        agent.wait_until_it_reads();
        agent
    }

    fn spawn(&self, environment: &[(&str, &Path)]) -> Child {
        let log = OpenOptions::new().create(true).append(true).open(self.path("agent.log")).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_shield-agent"));
        command.env("SHIELD_CONFIG", self.path("shield.toml")).env("SHIELD_TEST_FAULTS", self.path("faults"));
        command.env("SHIELD_TEST_STALL_MS", STALL_MS.to_string()).envs(environment.iter().copied());
        // On a busy machine the backtrace of a build with debug information takes longer than a stall.
        command.env("RUST_BACKTRACE", "0");
        command.arg("run").stderr(log).stdout(Stdio::null()).stdin(Stdio::null()).spawn().unwrap()
    }

    fn start_again(&mut self) {
        self.process = self.spawn(&[]);
        self.wait_until_it_reads();
    }

    fn wait_until_it_reads(&self) {
        self.until("it reads its log", || {
            self.get("/api/v1/status").and_then(|(_, body)| {
                let status: Value = serde_json::from_str(&body).ok()?;
                (status["sources"][0]["logs"] == 1).then_some(())
            })
        });
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn fault(&self, name: &str) -> PathBuf {
        let file = self.path("faults").join(name.replace("LOG", &self.log_part().replace('/', "_")));
        File::create(&file).unwrap();
        file
    }

    fn log_part(&self) -> String {
        format!("source:{}", self.path("access.log").display())
    }

    fn until<T>(&self, what: &str, mut poll: impl FnMut() -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(found) = poll() {
                return found;
            }
            assert!(Instant::now() < deadline, "waited for: {what}\n{}", self.journal());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The status and the body, if there is an answer.
    fn get(&self, path: &str) -> Option<(u16, String)> {
        let mut stream = TcpStream::connect(self.page).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        Some((head.get(9..12)?.parse().ok()?, body.to_owned()))
    }

    /// The part's state and text, as the page has them.
    fn part(&self, name: &str) -> Option<(String, String)> {
        let status: Value = serde_json::from_str(&self.get("/api/v1/status")?.1).ok()?;
        let part = status["parts"].as_array()?.iter().find(|part| part["part"] == name)?.clone();
        Some((part["state"].as_str()?.to_owned(), part["text"].as_str()?.to_owned()))
    }

    fn until_part_is(&self, name: &str, state: &str) -> String {
        self.until(&format!("{name} is {state}"), || {
            self.part(name).filter(|(found, _)| found == state).map(|(_, text)| text)
        })
    }

    fn lines(&self) -> u64 {
        let (_, body) = self.get("/api/v1/status").unwrap();
        serde_json::from_str::<Value>(&body).unwrap()["sources"][0]["lines"].as_u64().unwrap()
    }

    fn append_line(&self) {
        let secs = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        let mut log = OpenOptions::new().append(true).open(self.path("access.log")).unwrap();
        writeln!(log, "{}", LINE.replace("TIME", &secs.to_string())).unwrap();
    }

    fn ban(&self, client: &str) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_shield-agent"));
        command.arg("--socket").arg(self.path("control.sock")).args(["ban", client]);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }

    fn end(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.process.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "it did not end\n{}", self.journal());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn journal(&self) -> String {
        fs::read_to_string(self.path("agent.log")).unwrap_or_default()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A receiver of Slack's messages, which keeps what it gets.
fn slack() -> (SocketAddr, Arc<Mutex<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (addr, posted) = (listener.local_addr().unwrap(), Arc::new(Mutex::new(String::new())));
    let kept = Arc::clone(&posted);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
            let mut bytes = Vec::new();
            let _ = stream.read_to_end(&mut bytes);
            kept.lock().unwrap().push_str(&String::from_utf8_lossy(&bytes));
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok");
        }
    });
    (addr, posted)
}

/// Everything that shows a degraded part shows this one.
fn shows_everywhere(agent: &Agent, part: &str, words: &str) {
    let text = agent.until_part_is(part, "degraded");
    assert!(text.contains(words), "{text}");
    let events = agent.get("/api/v1/events/recent").unwrap().1;
    assert!(events.contains("degraded") && events.contains(words), "{events}");
    let metrics = agent.get("/metrics").unwrap().1;
    let line = format!("shield_part_state{{part=\"{part}\",state=\"degraded\"}} 1");
    assert!(metrics.contains(&line), "{metrics}");
    assert!(agent.journal().contains(words));
    agent.until("a message in Slack", || agent.posted.lock().unwrap().contains(words).then_some(()));
}

#[test]
fn a_source_that_panics_is_said_and_reads_on_without_losing_or_doubling_a_line() {
    let agent = Agent::start(&[]);
    agent.append_line();
    agent.until("one line", || (agent.lines() == 1).then_some(()));
    agent.fault("LOG.panic");
    agent.append_line();
    shows_everywhere(&agent, &agent.log_part(), "a fault that a test asked for");
    agent.until_part_is(&agent.log_part(), "active");
    agent.append_line();
    agent.until("three lines", || (agent.lines() == 3).then_some(()));
    assert_eq!(agent.get("/healthz").unwrap().0, 200);
}

#[test]
fn a_source_that_hangs_is_said_until_it_goes_on() {
    let agent = Agent::start(&[]);
    let fault = agent.fault("LOG.stall");
    agent.append_line();
    shows_everywhere(&agent, &agent.log_part(), "it has not gone on since");
    fs::remove_file(fault).unwrap();
    assert!(agent.until_part_is(&agent.log_part(), "active").starts_with("reading"));
    agent.until("the line", || (agent.lines() == 1).then_some(()));
}

#[test]
fn the_watch_over_addresses_starts_again_and_its_stall_is_said() {
    let agent = Agent::start(&[]);
    agent.fault("host.panic");
    shows_everywhere(&agent, "host", "a fault that a test asked for");
    agent.until_part_is("host", "active");
    let fault = agent.fault("host.stall");
    agent.until("a stall", || agent.part("host").filter(|(_, text)| text.contains("not gone on")));
    fs::remove_file(fault).unwrap();
    agent.until_part_is("host", "active");
}

#[test]
fn the_api_goes_on_after_a_panic_of_its_task_and_ends_the_agent_when_it_hangs() {
    let mut agent = Agent::start(&[]);
    agent.fault("api.panic");
    shows_everywhere(&agent, "api", "a fault that a test asked for");
    agent.until_part_is("api", "active");
    agent.fault("api.stall");
    assert_eq!(agent.end().code(), Some(1));
    assert!(agent.journal().contains("api has not gone on since"), "{}", agent.journal());
}

#[test]
fn messages_go_on_after_a_panic_of_their_task() {
    let agent = Agent::start(&[]);
    agent.fault("slack.panic");
    // Something to post.
    agent.fault("host.panic");
    agent.until("it is said", || {
        let events = agent.get("/api/v1/events/recent")?.1;
        (events.contains("slack") && events.contains("a fault that a test asked for")).then_some(())
    });
    agent.until("a message", || agent.posted.lock().unwrap().contains("a fault").then_some(()));
}

#[test]
fn a_panic_of_the_engine_or_the_performer_ends_the_agent_with_an_error() {
    for part in ["engine", "performer"] {
        let mut agent = Agent::start(&[]);
        agent.fault(&format!("{part}.panic"));
        assert_eq!(agent.end().code(), Some(1), "{part}");
        let journal = agent.journal();
        assert!(
            journal.contains("a fault that a test asked for") && journal.contains("the thread of"),
            "{journal}"
        );
    }
}

#[test]
fn an_engine_that_hangs_is_told_of_without_it_and_ends_the_agent() {
    let mut agent = Agent::start(&[]);
    assert_eq!(agent.get("/healthz"), Some((200, "ok\n".to_owned())));
    agent.fault("engine.stall");
    let (status, text) =
        agent.until("it is unhealthy", || agent.get("/healthz").filter(|(status, _)| *status != 200));
    assert!(status == 503 && text.starts_with("engine: it has not gone on since"), "{status} {text}");
    let (status, text) = agent.get("/api/v1/status").unwrap();
    assert!(status == 503 && text.contains("the engine does not answer"), "{status} {text}");
    assert!(agent.get("/api/v1/events/recent").unwrap().1.contains("not gone on since"));
    agent.until("a message in Slack", || agent.posted.lock().unwrap().contains("not gone on").then_some(()));
    assert_eq!(agent.end().code(), Some(1));
    assert!(agent.journal().contains("engine has not gone on since"), "{}", agent.journal());
}

#[test]
fn a_performer_that_hangs_is_told_of_without_it_until_it_goes_on() {
    let agent = Agent::start(&[]);
    let fault = agent.fault("performer.stall");
    shows_everywhere(&agent, "performer", "it has not gone on since");
    let (status, text) = agent.get("/healthz").unwrap();
    assert!(status == 503 && text.starts_with("performer: "), "{status} {text}");
    fs::remove_file(fault).unwrap();
    agent.until("it is healthy", || agent.get("/healthz").filter(|(status, _)| *status == 200));
    assert_eq!(agent.part("performer"), None);
}

/// No commit waits for the disk, so nothing else shows that it does not answer.
#[test]
fn a_disk_that_does_not_answer_is_said_while_bans_go_on() {
    let agent = Agent::start(&[]);
    let fault = agent.fault("store-disk.stall");
    // A decision, which is synced within seconds.
    agent.ban("203.0.113.9");
    shows_everywhere(&agent, "store-disk", "has not answered since");
    agent.ban("203.0.113.10");
    assert_eq!(agent.get("/healthz").unwrap().0, 200);
    fs::remove_file(fault).unwrap();
    agent.until_part_is("store-disk", "active");
}

/// Once every start would have ended at the same line.
#[test]
fn lines_that_break_the_engine_down_do_so_once() {
    let mut agent = Agent::start(&[]);
    agent.append_line();
    agent.until("one line", || (agent.lines() == 1).then_some(()));
    agent.fault("lines.panic");
    agent.append_line();
    assert_eq!(agent.end().code(), Some(1));
    assert!(agent.journal().contains("left out at the next start"), "{}", agent.journal());
    agent.start_again();
    agent.append_line();
    agent.until("the next line", || (agent.lines() > 0).then_some(()));
    assert_eq!(agent.lines(), 1, "the line before was read again");
}

/// Another program on the page's port once kept the agent from starting, and so everything from being protected.
#[test]
fn a_page_whose_address_is_taken_is_a_state_and_opens_when_it_is_free() {
    let mut agent = Agent::start(&[]);
    agent.process.kill().unwrap();
    agent.process.wait().unwrap();
    // Another test's connection may have the port for a moment.
    let other = agent.until("the port to be free", || TcpListener::bind(agent.page).ok());
    agent.process = agent.spawn(&[]);
    let text = agent.until("the page to be degraded", || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_shield-agent"));
        let output =
            command.args(["status", "--json", "--socket"]).arg(agent.path("control.sock")).output().ok()?;
        let status: Value = serde_json::from_slice(&output.stdout).ok()?;
        let page = status["parts"].as_array()?.iter().find(|part| part["part"] == "page")?.clone();
        // The control socket answers before the page is opened.
        (page["state"] == "degraded").then(|| page["text"].as_str().unwrap_or_default().to_owned())
    });
    assert!(text.contains(&format!("could not listen on {}", agent.page)), "{text}");
    drop(other);
    agent.until_part_is("page", "active");
}

#[test]
fn systemds_watchdog_is_fed_for_as_long_as_the_engine_goes_round() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify.sock");
    let systemd = UnixDatagram::bind(&path).unwrap();
    systemd.set_read_timeout(Some(PATIENCE)).unwrap();
    let agent = Agent::start(&[("NOTIFY_SOCKET", &path), ("WATCHDOG_USEC", Path::new("1500000"))]);
    let next = || {
        let mut buffer = [0; 256];
        let length = systemd.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..length]).trim().to_owned()
    };
    // It asks for time once, at the start, and is watched meanwhile.
    let mut early = Vec::new();
    while early.last().is_none_or(|text| text != "READY=1") {
        assert!(early.len() < 50, "never ready: {early:?}");
        early.push(next());
    }
    let (asked, rest): (Vec<_>, Vec<_>) =
        early[..early.len() - 1].iter().partition(|text| text.starts_with("EXTEND_TIMEOUT_USEC="));
    assert_eq!(asked.len(), 1, "{early:?}");
    assert!(rest.iter().all(|text| *text == "WATCHDOG=1"), "{early:?}");
    for _ in 0..3 {
        assert_eq!(next(), "WATCHDOG=1");
    }
    agent.fault("engine.stall");
    agent.until("it is unhealthy", || agent.get("/healthz").filter(|(status, _)| *status == 503));
    // What was sent before the engine hung, and then nothing.
    systemd.set_nonblocking(true).unwrap();
    let mut buffer = [0; 256];
    while systemd.recv(&mut buffer).is_ok() {}
    let told =
        agent.until("the end", || agent.get("/healthz").is_none().then(|| systemd.recv(&mut buffer).is_ok()));
    assert!(!told, "systemd was told that an agent lives whose engine hangs");
}
