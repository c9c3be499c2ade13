//! A real agent whose configuration changes while it runs. Enforcement is off, so that no root is needed; the ledger, the
//! sources, the page and the commands are the real ones.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails there")]

use std::fs::{self, File, OpenOptions};
use std::io::{BufWriter, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// For what must come; only a failure takes that long.
const PATIENCE: Duration = Duration::from_secs(30);

/// A running agent with its files. Dropping it kills it.
struct Agent {
    folder: tempfile::TempDir,
    page: u16,
    process: Child,
}

impl Agent {
    /// Starts with a log `access.log`, the page on a free port, and `more` TOML.
    fn start(more: &str) -> Agent {
        Agent::start_with(more, &[])
    }

    fn start_with(more: &str, arguments: &[&str]) -> Agent {
        let folder = tempfile::tempdir().unwrap();
        let page = free_port();
        File::create(folder.path().join("access.log")).unwrap();
        let process = Command::new("true").spawn().unwrap();
        let mut agent = Agent { folder, page, process };
        agent.write(more);
        let log = File::create(agent.path("agent.log")).unwrap();
        let mut command = agent.command();
        let folder = agent.folder.path().to_str().unwrap();
        let arguments = arguments.iter().map(|argument| argument.replace("{folder}", folder));
        command.arg("run").args(arguments).stderr(log).stdout(Stdio::null()).stdin(Stdio::null());
        let started = command.spawn().unwrap();
        let _ = std::mem::replace(&mut agent.process, started).wait();
        agent.until("it answers", |agent| agent.run(&["status", "--json"]).status.code() != Some(3));
        // Lines written before the source has seen the empty log would be older than its first start.
        agent.until("it reads its log", |agent| {
            agent.log_status("access.log").is_some_and(|log| log["logs"] == 1)
        });
        agent
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn config(&self) -> PathBuf {
        self.path("shield.toml")
    }

    /// Writes a configuration with the usual log, page, and `more`.
    fn write(&self, more: &str) {
        let log = self.path("access.log");
        self.write_whole(&format!(
            "[page]\nlisten = '127.0.0.1:{}'\n[[source]]\npath = {log:?}\n{more}",
            self.page
        ));
    }

    fn write_whole(&self, text: &str) {
        let (state, socket, audit) =
            (self.path("state"), self.path("control.sock"), self.path("audit.jsonl"));
        let text =
            format!("{text}\n[iptables]\nmode = 'off'\n[xdp]\nmode = 'off'\n[audit]\npath = {audit:?}\n");
        let agent = format!("[agent]\nstate_dir = {state:?}\nsocket = {socket:?}\n");
        let text = if text.contains("[agent]\n") { text.replace("[agent]\n", &agent) } else { agent + &text };
        let fresh = self.path("shield.toml.new");
        fs::write(&fresh, text).unwrap();
        fs::rename(&fresh, self.config()).unwrap();
    }

    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_shield-agent"));
        command.env("SHIELD_CONFIG", self.config()).env("SHIELD_SOCKET", self.path("control.sock"));
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command().args(arguments).output().unwrap()
    }

    /// The report, and the exit code.
    fn reload(&self) -> (Value, i32) {
        let output = self.run(&["reload", "--json"]);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let report = serde_json::from_str(&text)
            .unwrap_or_else(|_| panic!("{text}{}", String::from_utf8_lossy(&output.stderr)));
        (report, output.status.code().unwrap())
    }

    fn json(&self, arguments: &[&str]) -> Value {
        let output = self.run(&[arguments, &["--json"]].concat());
        serde_json::from_slice(&output.stdout).unwrap()
    }

    fn part(&self, name: &str) -> Option<(String, String)> {
        let status = self.json(&["status"]);
        let parts = status["parts"].as_array().unwrap();
        let part = parts.iter().find(|part| part["part"] == name)?;
        Some((part["state"].as_str().unwrap().to_owned(), part["text"].as_str().unwrap().to_owned()))
    }

    fn log_status(&self, name: &str) -> Option<Value> {
        let path = self.path(name);
        let status = self.json(&["status"]);
        let sources = status["sources"].as_array().unwrap();
        sources.iter().find(|source| source["source"] == path.to_str().unwrap()).cloned()
    }

    fn lines(&self, name: &str) -> (u64, u64) {
        let log = self.log_status(name).unwrap_or_default();
        (log["lines"].as_u64().unwrap_or(0), log["rejected"].as_u64().unwrap_or(0))
    }

    fn bans(&self) -> u64 {
        self.json(&["bans"])["total"].as_u64().unwrap()
    }

    fn append(&self, name: &str, text: &str) {
        let mut log = OpenOptions::new().append(true).create(true).open(self.path(name)).unwrap();
        log.write_all(text.as_bytes()).unwrap();
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path("agent.log")).unwrap()
    }

    fn until(&self, what: &str, mut is_so: impl FnMut(&Agent) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !is_so(self) {
            assert!(
                Instant::now() < deadline,
                "waited in vain until {what}; the agent's log:\n{}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.process.id() as i32), signal).unwrap();
    }

    fn is_running(&mut self) -> bool {
        self.process.try_wait().unwrap().is_none()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn json_line(n: u64) -> String {
    let addr = format!("10.{}.{}.{}", n / 40_000 % 250, n / 200 % 200, n % 200);
    let time = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs();
    format!(
        "{{\"source_ip\":\"{addr}\",\"timestamp\":{time},\"method\":\"GET\",\"path\":\"/\",\"status\":200}}\n"
    )
}

fn combined_line() -> String {
    "192.0.2.1 - - [28/Nov/2026:17:00:00 +0000] \"GET / HTTP/1.1\" 200 5 \"-\" \"x\"\n".to_owned()
}

fn list(report: &Value, key: &str) -> Vec<String> {
    report[key].as_array().unwrap().iter().map(|item| item.as_str().unwrap().to_owned()).collect()
}

/// The page's answer at this address, if there is one.
fn page_answers(addr: &str, host: &str) -> Option<String> {
    let addr: SocketAddr = addr.parse().unwrap();
    let mut stream = TcpStream::connect_timeout(&addr, Duration::from_secs(5)).ok()?;
    let head = format!("GET /api/v1/whoami HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    answer.split(' ').nth(1).map(str::to_owned)
}

/// The longest time in which the process has read less than [`PROGRESS_BYTES`], until `stop`. Nearly all that it reads is its log.
fn longest_pause(pid: u32, stop: &AtomicBool) -> Duration {
    /// What is written in 7 ms.
    const PROGRESS_BYTES: u64 = 32 << 10;
    let bytes_read = || {
        let text = fs::read_to_string(format!("/proc/{pid}/io")).unwrap();
        text.lines().find_map(|line| line.strip_prefix("rchar: ")).unwrap().parse::<u64>().unwrap()
    };
    let (mut mark, mut since, mut longest) = (bytes_read(), Instant::now(), Duration::ZERO);
    while !stop.load(Ordering::Acquire) {
        std::thread::sleep(Duration::from_millis(1));
        let now = bytes_read();
        if now - mark >= PROGRESS_BYTES {
            longest = longest.max(since.elapsed());
            (mark, since) = (now, Instant::now());
        }
    }
    longest
}

/// 50,000 lines a second into a real file while reloads of every kind follow each other: each line is counted once, and the
/// bans are in force all the time.
#[test]
fn nothing_is_lost_or_doubled_under_load() {
    const RELOADS: usize = 18;
    /// Twenty minutes of them: the loop below ends far before.
    const MOST_LINES: u64 = 60_000_000;
    let agent = Agent::start("");
    assert!(agent.run(&["ban", "203.0.113.5", "203.0.113.6", "--for", "1h"]).status.success());
    let stop = Arc::new(AtomicBool::new(false));
    let (path, stopped) = (agent.path("access.log"), Arc::clone(&stop));
    let writer = std::thread::spawn(move || {
        let mut log = BufWriter::new(OpenOptions::new().append(true).open(path).unwrap());
        let begin = Instant::now();
        let mut written = 0;
        while written < MOST_LINES && !stopped.load(Ordering::Acquire) {
            for _ in 0..500 {
                log.write_all(json_line(written).as_bytes()).unwrap();
                written += 1;
            }
            log.flush().unwrap();
            std::thread::sleep(Duration::from_micros(written * 20).saturating_sub(begin.elapsed()));
        }
        written
    });
    let watch = |stop: &Arc<AtomicBool>| {
        let (pid, stop) = (agent.process.id(), Arc::clone(stop));
        std::thread::spawn(move || longest_pause(pid, &stop))
    };
    let before = Arc::new(AtomicBool::new(false));
    let watcher = watch(&before);
    agent.until("some lines are read", |agent| agent.lines("access.log").0 > 100_000);
    before.store(true, Ordering::Release);
    let without = watcher.join().unwrap();
    let watcher = watch(&stop);
    let other = agent.path("other.log");
    let changes = [
        "[ban]\nterms = ['1m']\n".to_owned(),
        format!("[[source]]\npath = {other:?}\n[detect]\nmax_freeze_secs = 60\n"),
        "format = 'json'\n".to_owned(),
        "max_line_bytes = 300\n[allow]\nnetworks = ['198.51.100.0/24']\n".to_owned(),
        "[allow]\ntrusted_proxies = ['198.51.100.0/24']\n[agent]\nlog = 'debug'\n".to_owned(),
        "[bann]\n".to_owned(),
    ];
    for reloads in 0..RELOADS {
        agent.write(&changes[reloads % changes.len()]);
        let (report, code) = agent.reload();
        let is_wrong = reloads % changes.len() == changes.len() - 1;
        assert_eq!(code, i32::from(is_wrong), "{report}");
        assert_eq!(report["outcome"], if is_wrong { "refused" } else { "changed" }, "{report}");
        assert_eq!(agent.bans(), 2, "after {report}");
    }
    stop.store(true, Ordering::Release);
    let written = writer.join().unwrap();
    let during = watcher.join().unwrap();
    println!("longest pause in reading: {during:?} over {RELOADS} reloads, {without:?} without any");
    // A debug build on a busy machine may be behind: it is waited for as long as it gets on.
    let (mut lines, mut since) = (0, Instant::now());
    while lines < written && since.elapsed() < PATIENCE {
        let now = agent.lines("access.log").0;
        if now > lines {
            (lines, since) = (now, Instant::now());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(agent.lines("access.log"), (written, 0), "the agent's log:\n{}", agent.log());
    assert_eq!(agent.json(&["status"])["totals"]["requests"].as_u64(), Some(written));
}

#[test]
fn sources_come_go_and_change_without_touching_the_others() {
    let agent = Agent::start("");
    let (a, b, socket) = (agent.path("a.log"), agent.path("b.log"), agent.path("nginx.sock"));
    agent.append("access.log", &json_line(1));
    agent.append("a.log", &json_line(1));
    agent.until("the log is read", |agent| agent.lines("access.log").0 == 1);
    agent.write(&format!("[[source]]\npath = {a:?}\n[[source]]\nsyslog = {socket:?}\n"));
    let (report, code) = agent.reload();
    assert_eq!(code, 0, "{report}");
    let added = |path: &Path| format!("[[source]] {}: added", path.display());
    assert_eq!(list(&report, "changed"), [added(&a), added(&socket)]);
    agent
        .until("the new log is there", |agent| agent.log_status("a.log").is_some_and(|log| log["logs"] == 1));
    agent.until("the socket is bound", |_| socket.exists());
    agent.append("a.log", &json_line(2));
    let sender = UnixDatagram::unbound().unwrap();
    sender.send_to(format!("<190>Nov 24 14:35:01 web nginx: {}", json_line(3)).as_bytes(), &socket).unwrap();
    agent.until("both are read", |agent| agent.lines("a.log").0 == 1 && agent.lines("nginx.sock").0 == 1);

    // The log of the removed source is part of a pattern now: it goes on where it stopped, and the other begins at its end.
    agent.append("b.log", &json_line(4));
    agent.append("a.log", "");
    let pattern = agent.path("[ab].log");
    agent.write(&format!("[[source]]\npath = {pattern:?}\n"));
    let (report, _) = agent.reload();
    assert_eq!(list(&report, "changed").len(), 3, "{report}");
    agent.append("a.log", &json_line(5));
    agent.until("it is read on", |agent| agent.lines("[ab].log").0 == 1);
    assert!(!socket.exists(), "the socket of the removed source is gone");
    let gone = format!("source:{}", a.display());
    agent.until("its part is gone", |agent| agent.part(&gone).is_none());
    agent.until("both logs of the pattern are followed", |agent| {
        agent.log_status("[ab].log").is_some_and(|log| log["logs"] == 2)
    });
    fs::OpenOptions::new().append(true).open(&b).unwrap().write_all(json_line(6).as_bytes()).unwrap();
    agent.until("b is read", |agent| agent.lines("[ab].log").0 == 2);

    // Lines before the reload are read in the format of before, lines after it in the new one.
    agent.append("access.log", &json_line(7));
    agent.write("format = 'combined'\n");
    let (report, _) = agent.reload();
    let access = agent.path("access.log");
    assert!(
        list(&report, "changed").contains(&format!("[[source]] {}: format changed", access.display())),
        "{report}"
    );
    agent.append("access.log", &combined_line());
    agent.append("access.log", "no line\n");
    agent.until("they are read", |agent| agent.lines("access.log") == (4, 1));

    // A removed source that comes back continues where it stopped.
    agent.append("b.log", &json_line(8));
    agent.write(&format!("[[source]]\npath = {pattern:?}\n"));
    let (report, _) = agent.reload();
    let again = format!("[[source]] {}: added, from where it was last read", pattern.display());
    assert!(list(&report, "changed").contains(&again), "{report}");
    agent.until("it continues", |agent| agent.lines("[ab].log").0 == 1);
}

#[test]
fn a_wrong_file_is_refused_with_all_its_mistakes_while_the_old_goes_on() {
    let mut agent = Agent::start("");
    let refused = |agent: &Agent, expected: &[&str]| {
        let (report, code) = agent.reload();
        assert_eq!((code, &report["outcome"]), (1, &Value::from("refused")), "{report}");
        let mistakes = list(&report, "mistakes");
        assert_eq!(mistakes.len(), expected.len(), "{mistakes:#?}");
        for (mistake, expected) in mistakes.iter().zip(expected) {
            assert!(mistake.contains(expected), "{mistake}");
        }
        agent.until("it is a state", |agent| {
            agent.part("config").is_some_and(|(state, reason)| {
                state == "degraded" && reason.contains("stays in force") && reason.contains(expected[0])
            })
        });
    };
    agent.write("format = 'jsno'\n[ban]\nmax_share = 20\n[xdpp]\n");
    refused(&agent, &["[[source]] format", "[ban] max_share", "unknown key `xdpp`"]);
    let check = agent.run(&["check"]);
    let printed = String::from_utf8_lossy(&check.stderr).into_owned();
    assert!(printed.contains("3 mistakes") && printed.contains("line 8"), "{printed}");
    agent.append("access.log", &json_line(1));
    agent.until("the old configuration reads on", |agent| agent.lines("access.log").0 == 1);
    fs::remove_file(agent.config()).unwrap();
    refused(&agent, &["could not find the configuration"]);
    fs::create_dir(agent.config()).unwrap();
    refused(&agent, &["it is a directory"]);
    fs::remove_dir(agent.config()).unwrap();
    fs::write(agent.config(), vec![b'#'; 10 << 20]).unwrap();
    refused(&agent, &["longer than 4.0 MiB"]);
    fs::write(agent.config(), "").unwrap();
    refused(&agent, &["it is empty"]);
    let text = String::from_utf8(agent.run(&["reload"]).stdout).unwrap();
    assert!(text.contains("refused; the configuration before stays in force"), "{text}");

    agent.write("");
    let (report, code) = agent.reload();
    assert_eq!((code, &report["outcome"]), (0, &Value::from("unchanged")), "{report}");
    agent.until("the state is good", |agent| agent.part("config").is_some_and(|part| part.0 == "active"));
    let audit = fs::read_to_string(agent.path("audit.jsonl")).unwrap();
    assert!(audit.contains("max_share") && audit.contains("\"recovered\""), "{audit}");
    assert!(agent.is_running());
}

#[test]
fn a_newly_allowed_client_is_free_and_terms_hold_for_new_bans() {
    let agent = Agent::start("");
    assert!(agent.run(&["ban", "203.0.113.5", "203.0.113.6"]).status.success());
    agent.write("[allow]\nnetworks = ['203.0.113.5/32']\n[ban]\nterms = ['2h']\n");
    let (report, _) = agent.reload();
    assert_eq!(report["lifted"], 1, "{report}");
    assert_eq!(
        list(&report, "changed"),
        ["[ban] terms: -10 min -30 min -permanent (for new bans)", "[allow] networks: +203.0.113.5/32"]
    );
    agent.until("it is lifted", |agent| agent.bans() == 1);
    let text = String::from_utf8(agent.run(&["ban", "203.0.113.5"]).stdout).unwrap();
    assert!(text.contains("on the allowlist"), "{text}");
    let text = String::from_utf8(agent.run(&["ban", "203.0.113.7"]).stdout).unwrap();
    assert!(text.contains("banned for 2 h"), "{text}");
    let audit = fs::read_to_string(agent.path("audit.jsonl")).unwrap();
    assert!(audit.contains("\"event\":\"reloaded\"") && audit.contains("+203.0.113.5/32"), "{audit}");
    let events = String::from_utf8(agent.run(&["events"]).stdout).unwrap();
    assert!(events.contains("configuration reloaded: changed [ban] terms"), "{events}");
}

#[test]
fn what_needs_a_restart_is_named_and_not_changed() {
    let agent = Agent::start("");
    agent.write("[detect]\nmax_clients = 5\n[ban]\nipv6_prefix = 48\nmax_bans = 9\n");
    for outcome in ["changed", "unchanged"] {
        let (report, code) = agent.reload();
        assert_eq!((code, &report["outcome"]), (0, &Value::from(outcome)), "{report}");
        let restart = ["[ban] ipv6_prefix: 64 -> 48", "[detect] max_clients: 1000000 -> 5"];
        assert_eq!(list(&report, "restart"), restart);
    }
    agent.until("it is a state", |agent| {
        agent.part("config").is_some_and(|(state, text)| {
            state == "active" && text.contains("restart needed for [ban] ipv6_prefix")
        })
    });
    let status = agent.json(&["status"]);
    assert_eq!(status["detector"]["max_clients"], 1_000_000, "{status}");
    agent.write("");
    let (report, _) = agent.reload();
    assert!(list(&report, "restart").is_empty());
}

/// Once SIGHUP killed the agent at once.
#[test]
fn sighup_reloads_and_two_at_once_are_one_after_another() {
    let mut agent = Agent::start("");
    agent.write("[ban]\nmax_bans = 9\n");
    agent.signal(Signal::SIGHUP);
    agent.until("it has reloaded", |agent| {
        agent.log().contains("[ban] max_bans: 1250000 -> 9 (for new bans)")
    });
    assert!(agent.is_running());
    agent.write("[ban]\nmax_bans = 10\n");
    let both: Vec<Value> = std::thread::scope(|scope| {
        let reloads: Vec<_> = (0..2).map(|_| scope.spawn(|| agent.reload().0)).collect();
        reloads.into_iter().map(|reload| reload.join().unwrap()).collect()
    });
    let mut outcomes: Vec<&str> = both.iter().map(|report| report["outcome"].as_str().unwrap()).collect();
    outcomes.sort_unstable();
    assert_eq!(outcomes, ["changed", "unchanged"]);
    agent.signal(Signal::SIGTERM);
    agent.signal(Signal::SIGHUP);
    let status = agent.process.wait().unwrap();
    assert_eq!(status.code(), Some(0), "a reload while it stops does not harm; {}", agent.log());
}

#[test]
fn a_dry_run_reloads_too_and_the_command_line_goes_before_the_file() {
    let agent = Agent::start_with("", &["--dry-run", "--log", "{folder}/access.log"]);
    agent.write_whole("[[source]]\npath = '/nowhere'\n[ban]\nmax_bans = 9\n[page]\nenabled = false\n");
    let (report, code) = agent.reload();
    assert_eq!(code, 0, "{report}");
    let changed = ["[ban] max_bans: 1250000 -> 9 (for new bans)", "[page] enabled: true -> false"];
    assert_eq!(list(&report, "changed"), changed);
    agent.append("access.log", &json_line(1));
    agent.until("the named log is read", |agent| agent.lines("access.log").0 == 1);
}

#[test]
fn the_page_takes_a_port_behind_a_taken_one_and_can_be_given_it_for_good() {
    let mut agent = Agent::start("");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let log = agent.path("access.log");
    let text = |port: u16, more: &str| {
        format!("[page]\nlisten = '127.0.0.1:{port}'\n{more}[[source]]\npath = {log:?}\n")
    };
    agent.write_whole(&text(port, "next_free_port = true\n"));
    let (report, code) = agent.reload();
    assert_eq!(code, 0, "{report}");
    let moved = format!("(in place of port {port}, where ");
    agent.until("it says where it is and why", |agent| agent.part("page").unwrap().1.contains(&moved));
    let (_, state) = agent.part("page").unwrap();
    assert!(state.contains(&format!("(pid {}) listens; next_free_port", std::process::id())), "{state}");
    let here = state.strip_prefix("http://").unwrap().split('/').next().unwrap().to_owned();
    let next: u16 = here.rsplit(':').next().unwrap().parse().unwrap();
    assert!((port + 1..=port + 9).contains(&next), "{state}");
    assert_eq!(page_answers(&here, "localhost").as_deref(), Some("200"));

    // Its own listener is not in its way.
    agent.page = next;
    agent.write("");
    let (report, code) = agent.reload();
    assert_eq!(code, 0, "{report}");
    agent.until("it is where it is wanted", |agent| {
        agent.part("page").unwrap().1 == format!("http://{here}/")
    });
    assert_eq!(page_answers(&here, "localhost").as_deref(), Some("200"));
}

#[test]
fn the_page_moves_and_stays_where_it_was_when_it_cannot() {
    let mut agent = Agent::start("");
    let old = format!("127.0.0.1:{}", agent.page);
    assert_eq!(page_answers(&old, "localhost").as_deref(), Some("200"));
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let first = agent.page;
    agent.page = taken.local_addr().unwrap().port();
    agent.write("");
    let (report, code) = agent.reload();
    assert_eq!(code, 1, "{report}");
    let failed = list(&report, "failed");
    assert!(
        failed[0].starts_with("[page] listen: could not move the page to")
            && failed[0].contains(&format!("stays at http://{old}/")),
        "{failed:?}"
    );
    assert!(list(&report, "changed").is_empty(), "{report}");
    assert_eq!(page_answers(&old, "localhost").as_deref(), Some("200"));
    agent.until("it is a state", |agent| agent.part("page").unwrap().0 == "degraded");
    drop(taken);
    let (report, code) = agent.reload();
    assert_eq!(code, 0, "it is tried again: {report}");
    assert_eq!(page_answers(&format!("127.0.0.1:{}", agent.page), "localhost").as_deref(), Some("200"));
    assert_eq!(page_answers(&old, "localhost"), None);
    agent.until("the state is good", |agent| agent.part("page").unwrap().0 != "degraded");

    // The same port on every address: the two exclude each other.
    let log = agent.path("access.log");
    let port = agent.page;
    let text = |listen: &str, more: &str| {
        format!("[page]\nlisten = '{listen}:{port}'\n{more}[[source]]\npath = {log:?}\n")
    };
    agent.write_whole(&text("0.0.0.0", "hosts = ['shield.example.net']\n"));
    let (report, code) = agent.reload();
    assert_eq!(code, 0, "{report}");
    let here = format!("127.0.0.1:{port}");
    assert_eq!(page_answers(&here, "shield.example.net").as_deref(), Some("401"), "beyond loopback");
    agent.write_whole(&text("0.0.0.0", ""));
    agent.reload();
    assert_eq!(page_answers(&here, "shield.example.net").as_deref(), Some("421"));
    agent.write_whole(&text("0.0.0.0", "enabled = false\n"));
    let (report, _) = agent.reload();
    assert_eq!(list(&report, "changed"), ["[page] enabled: true -> false"]);
    assert_eq!(page_answers(&here, "localhost"), None);
    assert_ne!(first, port);
}
