//! Sources that cannot be used, with a running agent: the state in `status`, the page's API and the metrics, its exit codes, its
//! event, Slack's message, and the recovery. What shows only in hours is shown by a clock that is set ahead.
//!
//! Waits: for states that need half a minute to be sure.

#![expect(clippy::unwrap_used, reason = "a test helper that fails is a failing test")]

use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use shield_agent::test_support::api::types::{PartStateName, Status};
use shield_tests::agent::{self, Agent, Home};
use shield_tests::clock::Clock;
use shield_tests::http::Get;
use shield_tests::netns::Namespace;
use shield_tests::receiver::{self, Behaviour};
use shield_tests::wait;

/// A blind source is to be known within a minute.
const MINUTE: Duration = Duration::from_secs(60);

/// The exit code of `status` and `check` when something is wrong.
const DEGRADED: i32 = 5;

/// One line of this format in a log: no address and no time are in it, so no reader can take it for a request.
const UNKNOWN: &str = "web1 GET /index.html 200 12ms\n";

/// A state is left after a calm of this length, the first time.
const CALM: Duration = Duration::from_secs(10);

/// Fewer seconds than those after which a silence counts as not watched.
const STEP: Duration = Duration::from_secs(50);

struct Lab {
    namespace: Namespace,
    home: Home,
    log: PathBuf,
    clock: Clock,
    slack: Receiver<String>,
}

impl Lab {
    fn create(name: &str) -> Lab {
        let namespace = Namespace::create(name).unwrap();
        let home = Home::create().unwrap();
        let log = home.folder().join("access.log");
        fs::write(&log, "").unwrap();
        let (url, slack) = receiver::start(&namespace, Behaviour::Answers).unwrap();
        let secret = home.folder().join("slack");
        fs::write(&secret, url).unwrap();
        let more = format!("[page]\nhosts = ['shop.example']\n[slack]\nurl_file = {secret:?}\n");
        home.configure(&log, "", &more).unwrap();
        let clock = Clock::create(home.folder()).unwrap();
        Lab { namespace, home, log, clock, slack }
    }

    fn start(&self) -> Agent {
        let launcher = self.clock.launcher();
        let launcher = launcher.each_ref().map(String::as_str);
        let agent = Agent::start_under(&launcher, &self.namespace, &self.home, &["--dry-run"]).unwrap();
        wait::until("the log to be followed", MINUTE, || {
            Ok((self.status().sources[0].logs == Some(1)).then_some(()))
        })
        .unwrap();
        agent
    }

    fn write(&self, text: &str) {
        OpenOptions::new().append(true).open(&self.log).unwrap().write_all(text.as_bytes()).unwrap();
    }

    fn status(&self) -> Status {
        serde_json::from_value(self.home.json(&self.namespace, &["status"]).unwrap()).unwrap()
    }

    /// The state of the source by its name in metrics, and the text of its part.
    fn source(&self) -> (String, String) {
        let status = self.status();
        let part = status.parts.iter().find(|part| part.part.starts_with("source:")).unwrap();
        let is_degraded = part.state == PartStateName::Degraded;
        assert_eq!(is_degraded, status.sources[0].state != "reading", "{status:?}");
        (status.sources[0].state.clone(), part.text.clone())
    }

    fn wait_for(&self, state: &str, at_most: Duration) -> String {
        wait::until(&format!("the source to be {state}"), at_most, || {
            let (found, text) = self.source();
            Ok((found == state).then_some(text))
        })
        .unwrap_or_else(|error| panic!("{error:#}: {:?}\n{}", self.source(), self.home.log()))
    }

    fn exit_code(&self, arguments: &[&str]) -> (i32, String) {
        let output = self.home.command_output(&self.namespace, arguments).unwrap();
        (output.status.code().unwrap(), String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// The events of this kind about the source, from the audit log.
    fn events(&self, kind: &str) -> Vec<Value> {
        let audit = fs::read_to_string(self.home.audit()).unwrap_or_default();
        let events = audit.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let is_its = |event: &Value| {
            let text = event.to_string();
            text.contains(&format!("\"event\":\"{kind}\"")) && text.contains("\"part\":\"source:")
        };
        events.filter(is_its).collect()
    }

    /// The answer on the control socket.
    fn get(&self, path: &str) -> String {
        let mut stream = UnixStream::connect(self.home.socket()).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer.split_once("\r\n\r\n").unwrap().1.to_owned()
    }

    fn metric(&self, name: &str) -> String {
        let answer = self.get("/metrics");
        let is_it = |line: &&str| line.starts_with(name) && line.ends_with("} 1");
        answer.lines().filter(is_it).collect::<Vec<_>>().join("\n")
    }

    /// The state of the source by the page's API.
    fn on_page(&self) -> String {
        let server = SocketAddr::from(([127, 0, 0, 1], 8080));
        let get = Get { server, from: None, path: "/api/v1/status", timeout: MINUTE };
        let answer = self.namespace.enter(|| get.send()).unwrap();
        assert_eq!(answer.status, 200);
        let status: Status = serde_json::from_slice(&answer.body).unwrap();
        status.sources[0].state.clone()
    }

    /// Lines read so far.
    fn lines(&self) -> u64 {
        serde_json::from_str::<Status>(&self.get("/api/v1/status")).unwrap().sources[0].lines
    }

    /// Writes lines and waits until they are read, before the clock goes on.
    fn write_and_wait(&self, text: &str) {
        let wanted = self.lines() + text.lines().count() as u64;
        self.write(text);
        // Without pauses: a day is two thousand of these.
        let deadline = Instant::now() + MINUTE;
        while self.lines() < wanted {
            assert!(Instant::now() < deadline, "the lines are not read: {}", self.home.log());
        }
    }

    /// Lets time pass in which the agent looks at its log and finds nothing.
    fn pass(&mut self, time: Duration) {
        self.clock.advance(time).unwrap();
        // Any change in the folder is a hint.
        fs::write(self.home.folder().join("hint"), "").unwrap();
    }

    fn lines_from(&self, clients: &[&str], paths: usize, status: u16) -> String {
        let time = self.clock.now_secs();
        let mut text = String::new();
        for (n, addr) in clients.iter().cycle().take(clients.len() * paths).enumerate() {
            text.push_str(&line(addr, time, n as u64, status));
        }
        text
    }

    /// Waits for the state and asserts that it is everywhere, with this reason, and announced once.
    fn expect_everywhere(&self, state: &str, reason: &str) {
        let text = self.wait_for(state, MINUTE);
        assert!(text.contains(reason), "{text}");
        let (code, screen) = self.exit_code(&["status"]);
        assert_eq!(code, DEGRADED, "{screen}");
        assert!(screen.contains(reason), "{screen}");
        assert_eq!(self.on_page(), state);
        let metric = self.metric("shield_source_state");
        assert!(
            metric.ends_with(&format!("state=\"{state}\"}} 1")) && metric.lines().count() == 1,
            "{metric}"
        );
        let events = wait::until("the event", MINUTE, || {
            Ok(Some(self.events("degraded")).filter(|all| !all.is_empty()))
        });
        let events = events.unwrap();
        assert!(events.len() == 1 && events[0].to_string().contains(reason), "{events:?}");
        self.expect_on_slack(reason);
    }

    fn expect_on_slack(&self, expected: &str) {
        let mut received = Vec::new();
        while !received.last().is_some_and(|body: &String| body.contains(expected)) {
            let body = self.slack.recv_timeout(MINUTE);
            received.push(body.unwrap_or_else(|_| panic!("not on Slack: {expected}; {received:?}")));
        }
    }

    fn expect_recovery(&self) {
        self.wait_for("reading", MINUTE);
        assert_eq!(self.on_page(), "reading");
        let metric = self.metric("shield_source_state");
        assert!(metric.ends_with("state=\"reading\"} 1") && metric.lines().count() == 1, "{metric}");
        wait::until("the event", MINUTE, || Ok((self.events("recovered").len() == 1).then_some(()))).unwrap();
        let (code, screen) = self.exit_code(&["status"]);
        assert_eq!(code, 0, "{screen}\n{}", self.home.log());
        self.expect_on_slack("SHIELD RECOVERED");
    }
}

fn line(addr: &str, time: u64, path: u64, status: u16) -> String {
    let fields = format!(r#""source_ip":"{addr}","timestamp":{time},"method":"GET""#);
    format!("{{{fields},\"path\":\"/page/{path}\",\"status\":{status}}}\n")
}

fn now_secs() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
}

fn lines(clients: u64, each: u64, status: u16) -> String {
    let mut text = String::new();
    let time = now_secs();
    for n in 0..clients * each {
        let addr = n % clients;
        writeln!(
            text,
            r#"{{"source_ip":"198.51.100.{addr}","timestamp":{time},"method":"GET","path":"/{n}","status":{status}}}"#
        )
        .unwrap();
    }
    text
}

/// History: 734 lines of a scanner in an unknown format gave `active, reading`, no event and no alert.
#[test]
fn a_log_in_an_unknown_format_is_degraded_within_a_minute_and_recovers() {
    let lab = Lab::create("blind");
    let agent = lab.start();
    assert_eq!(lab.exit_code(&["status"]).0, 0);
    let started = Instant::now();
    lab.write(&UNKNOWN.repeat(100));
    lab.expect_everywhere("refused", "none of the last 100 lines is a log line; the first begins");
    assert!(started.elapsed() < 2 * MINUTE);
    let text = lab.source().1;
    assert!(
        text.contains("\"web1 GET /index.html 200 12ms\"") && text.contains("shield-agent check"),
        "{text}"
    );

    lab.write(&UNKNOWN.repeat(300));
    wait::until("the figures of now", MINUTE, || {
        Ok(lab.source().1.contains("none of the last 300 lines").then_some(()))
    })
    .unwrap();
    assert_eq!(lab.events("degraded").len(), 1, "other figures are no other event");

    let (code, screen) = lab.exit_code(&["check"]);
    assert_eq!(code, DEGRADED, "{screen}");
    assert!(screen.contains("PROBLEM     none of the last 400 lines is a log line"), "{screen}");

    lab.write(&lines(20, 10, 200));
    lab.expect_recovery();
    assert!(agent.stop().unwrap().success(), "{}", lab.home.log());
}

/// One good line in a hundred does not hide that a log is not read, and a client's broken lines do not blind a healthy log.
#[test]
fn neither_good_lines_nor_broken_ones_of_one_client_change_what_is_seen() {
    let lab = Lab::create("hide");
    let agent = lab.start();
    let good = lines(70, 1, 200);
    for _ in 0..20 {
        lab.write(&format!("{good}{}", UNKNOWN.repeat(30)));
    }
    wait::until("2,000 lines", MINUTE, || Ok((lab.status().sources[0].lines == 2_000).then_some(())))
        .unwrap();
    let (state, text) = lab.source();
    assert_eq!(state, "reading", "{text}");
    assert!(text.contains("30.0 % rejected"), "{text}");
    let one = lines(1, 1, 200);
    for _ in 0..20 {
        lab.write(&format!("{one}{}", UNKNOWN.repeat(99)));
    }
    lab.wait_for("refused", MINUTE);
    assert!(agent.stop().unwrap().success(), "{}", lab.home.log());
}

#[test]
fn a_field_with_the_wrong_values_is_a_state() {
    let mut lab = Lab::create("field");
    let agent = lab.start();
    let write_with_status = |lab: &Lab, status| {
        for _ in 0..20 {
            lab.write_and_wait(&lines(10, 1, status));
        }
    };
    write_with_status(&lab, 0);
    lab.expect_everywhere("field", "the status is always 0; name the field with $status in fields.status");
    write_with_status(&lab, 200);
    lab.pass(CALM);
    lab.expect_recovery();
    assert!(agent.stop().unwrap().success(), "{}", lab.home.log());
}

/// A second format in the same file: too few of its lines to be blind, for ten minutes.
#[test]
fn some_lines_refused_for_a_while_are_a_state() {
    let mut lab = Lab::create("some");
    let agent = lab.start();
    let visitors: Vec<String> = (1..=48).map(|n| format!("198.51.100.{n}")).collect();
    let visitors: Vec<&str> = visitors.iter().map(String::as_str).collect();
    for refused in [5, 5, 5, 0, 0] {
        let text = format!("{}{}", UNKNOWN.repeat(refused), lab.lines_from(&visitors, 3, 200));
        lab.write_and_wait(&text);
        if refused > 0 {
            assert_eq!(lab.status().sources[0].rejected % 5, 0, "all of them are read");
        }
        if lab.status().sources[0].rejected == 15 && lab.events("degraded").is_empty() {
            lab.expect_everywhere(
                "some_refused",
                "5 of the last 149 lines are not log lines; the first begins",
            );
        }
        lab.pass(Duration::from_secs(310));
    }
    lab.write_and_wait(&lab.lines_from(&visitors, 3, 200));
    lab.expect_recovery();
    assert!(agent.stop().unwrap().success(), "{}", lab.home.log());
}

/// nginx in a container behind Docker's port forwarding: every visitor has the gateway's address. Then the header is used.
#[test]
fn one_client_for_all_requests_is_a_state() {
    let mut lab = Lab::create("one");
    let agent = lab.start();
    for _ in 0..12 {
        lab.write_and_wait(&lab.lines_from(&["172.17.0.1"], 30, 200));
        lab.pass(Duration::from_secs(65));
    }
    lab.expect_everywhere(
        "one_client",
        "set `set_real_ip_from 172.17.0.1;` and `real_ip_header X-Forwarded-For;`",
    );
    let visitors: Vec<String> = (1..=100).map(|n| format!("198.51.100.{n}")).collect();
    let visitors: Vec<&str> = visitors.iter().map(String::as_str).collect();
    for _ in 0..5 {
        lab.write_and_wait(&lab.lines_from(&visitors, 3, 200));
        lab.pass(Duration::from_secs(65));
    }
    lab.expect_recovery();
    assert!(agent.stop().unwrap().success(), "{}", lab.home.log());
}

/// nginx's `buffer=` without `flush=` on a quiet site, and then with it.
#[test]
fn lines_that_come_late_are_a_state() {
    let mut lab = Lab::create("late");
    let agent = lab.start();
    lab.write_and_wait(&lab.lines_from(&["198.51.100.1"], 1, 200));
    for _ in 0..3 {
        lab.pass(Duration::from_secs(200));
        let now = lab.clock.now_secs();
        lab.write_and_wait(
            &(0..20).map(|n| line("198.51.100.1", now - 190 + n * 10, n, 200)).collect::<String>(),
        );
        lab.pass(Duration::from_secs(1));
    }
    lab.expect_everywhere("late", "in nginx's access_log add flush=1s, or leave out buffer= and gzip");
    lab.pass(Duration::from_secs(3_700));
    lab.write_and_wait(&lab.lines_from(&["198.51.100.1"], 1, 200));
    lab.expect_recovery();
    assert!(agent.stop().unwrap().success(), "{}", lab.home.log());
}

/// A day of lines, and then nginx writes to the file that was rotated away.
#[test]
fn a_log_that_stops_is_a_state() {
    let mut lab = Lab::create("silent");
    let agent = lab.start();
    for n in 0..25 * 3_600 / STEP.as_secs() {
        lab.clock.advance(STEP).unwrap();
        lab.write_and_wait(&line("198.51.100.1", lab.clock.now_secs(), n, 200));
    }
    assert_eq!(lab.source().0, "reading");
    let stopped = lab.clock.now_secs();
    wait::until("the silence to be seen", MINUTE, || {
        lab.pass(STEP);
        Ok((lab.source().0 == "silent").then_some(()))
    })
    .unwrap();
    assert!(lab.clock.now_secs() - stopped >= 900, "no shorter silence is a fault");
    lab.expect_everywhere("silent", "check that nginx runs and still writes this log");
    lab.write_and_wait(&line("198.51.100.1", lab.clock.now_secs(), 0, 200));
    lab.expect_recovery();
    assert!(agent.stop().unwrap().success(), "{}", lab.home.log());
}

/// The unit's ExecStartPre as shipped: a log that cannot be used, or a named pipe in its place, does not keep the agent from
/// starting, and a wrong configuration does.
#[test]
fn a_blind_log_does_not_keep_the_agent_from_starting() {
    let lab = Lab::create("pre");
    lab.write(&UNKNOWN.repeat(50));
    let unit = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/shield.service"))
        .unwrap();
    let pre = unit.lines().find_map(|line| line.strip_prefix("ExecStartPre=/usr/bin/shield-agent ")).unwrap();
    let run = || {
        let config = lab.home.config();
        let words = pre
            .split(' ')
            .map(|word| if word == "/etc/shield/shield.toml" { config.to_str().unwrap() } else { word });
        let output = Command::new(agent::binary().unwrap()).args(words).output().unwrap();
        (output.status.code().unwrap(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let (code, said) = run();
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("PROBLEM"), "{said}");
    assert_eq!(lab.exit_code(&["check"]).0, DEGRADED);
    fs::remove_file(&lab.log).unwrap();
    nix::unistd::mkfifo(&lab.log, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let (code, said) = run();
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("named pipe"), "{said}");
    fs::write(lab.home.config(), "[agent]\nnonsense = 1\n").unwrap();
    assert_eq!(run().0, 2);
}

/// An agent that gets a twentieth of a CPU and whose log is always 32 MiB ahead of it.
#[test]
fn a_source_held_behind_its_log_for_a_minute_is_degraded_and_recovers() {
    const AHEAD: u64 = 32 << 20;
    let lab = Lab::create("behind");
    let agent = lab.start();
    let pid = Pid::from_raw(agent.pid() as i32);
    let block = lines(200, 100, 200);
    let mut log = OpenOptions::new().append(true).open(&lab.log).unwrap();
    let deadline = Instant::now() + 3 * MINUTE;
    let mut asked = Instant::now();
    let text = loop {
        assert!(Instant::now() < deadline, "{:?}\n{}", lab.source(), lab.home.log());
        while log.metadata().unwrap().len() < bytes_read(agent.pid()) + AHEAD {
            log.write_all(block.as_bytes()).unwrap();
        }
        kill(pid, Signal::SIGSTOP).unwrap();
        std::thread::sleep(Duration::from_millis(95));
        kill(pid, Signal::SIGCONT).unwrap();
        std::thread::sleep(Duration::from_millis(5));
        if asked.elapsed() > Duration::from_secs(5) {
            asked = Instant::now();
            let (state, text) = lab.source();
            if state == "behind" {
                break text;
            }
            assert_eq!(state, "reading", "{text}");
        }
    };
    assert!(text.contains("behind its log for over a minute"), "{text}");
    lab.wait_for("reading", 5 * MINUTE);
    assert!(agent.stop().unwrap().success(), "{}", lab.home.log());
}

/// Bytes that the process has read. Nearly all of them are the log's; the others make the log a little longer.
fn bytes_read(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/io")).unwrap();
    text.lines().find_map(|line| line.strip_prefix("rchar: ")).unwrap().parse().unwrap()
}
