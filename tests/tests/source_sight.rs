//! Sources that cannot be used, with a running agent: the state, its event, the exit codes, the metric, and the recovery.

#![expect(clippy::unwrap_used, reason = "a test helper that fails is a failing test")]

use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use shield_agent::test_support::api::types::{PartStateName, Status};
use shield_tests::agent::{self, Agent, Home};
use shield_tests::netns::Namespace;
use shield_tests::wait;

/// A blind source is to be known within a minute.
const MINUTE: Duration = Duration::from_secs(60);

/// The exit code of `status` and `check` when something is wrong.
const DEGRADED: i32 = 5;

/// One line of this format in a log: no address and no time are in it, so no reader can take it for a request.
const UNKNOWN: &str = "web1 GET /index.html 200 12ms\n";

struct Lab {
    namespace: Namespace,
    home: Home,
    log: PathBuf,
}

impl Lab {
    fn create(name: &str) -> Lab {
        let namespace = Namespace::create(name).unwrap();
        let home = Home::create().unwrap();
        let log = home.folder().join("access.log");
        fs::write(&log, "").unwrap();
        home.configure(&log, "", "[page]\nenabled = false\n").unwrap();
        Lab { namespace, home, log }
    }

    fn start(&self) -> Agent {
        let agent = Agent::start(&self.namespace, &self.home, &["--dry-run"]).unwrap();
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

    fn metric(&self, name: &str) -> String {
        let mut stream = UnixStream::connect(self.home.socket()).unwrap();
        write!(stream, "GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
            .lines()
            .filter(|line| line.starts_with(name) && line.ends_with("} 1"))
            .collect::<Vec<_>>()
            .join("\n")
    }
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
    let text = lab.wait_for("refused", MINUTE);
    assert!(started.elapsed() < MINUTE);
    for expected in [
        "none of the last 100 lines is a log line",
        "\"web1 GET /index.html 200 12ms\"",
        "shield-agent check",
    ] {
        assert!(text.contains(expected), "{text}");
    }
    let (code, screen) = lab.exit_code(&["status"]);
    assert_eq!(code, DEGRADED, "{screen}");
    assert!(screen.contains("none of the last 100 lines"), "{screen}");
    let state = lab.metric("shield_source_state");
    assert!(state.ends_with("state=\"refused\"} 1") && state.lines().count() == 1, "{state}");
    wait::until("the event", MINUTE, || Ok((lab.events("degraded").len() == 1).then_some(()))).unwrap();

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
    lab.wait_for("reading", MINUTE);
    wait::until("the event", MINUTE, || Ok((lab.events("recovered").len() == 1).then_some(()))).unwrap();
    assert_eq!(lab.exit_code(&["status"]).0, 0);
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
    let lab = Lab::create("field");
    let agent = lab.start();
    for _ in 0..20 {
        lab.write(&lines(10, 1, 0));
        wait::sleep(Duration::from_millis(100)).unwrap();
    }
    let text = lab.wait_for("field", MINUTE);
    assert!(text.contains("the status is always 0"), "{text}");
    assert_eq!(lab.exit_code(&["status"]).0, DEGRADED);
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
