//! `shield-agent learn` with the real binary: what past logs teach is in force from the agent's first line on. Enforcement is
//! off, so that no root is needed.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails there")]

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use shield_agent::test_support::clock;

/// For what must come; only a failure takes that long.
const PATIENCE: Duration = Duration::from_secs(30);

const HOUR: i64 = 3600;

/// Telephones that ask for files that this site does not have: elsewhere, a list of secrets.
const PHONES: [&str; 6] = ["console", "dial", "keys", "logo", "tones", "lines"];

const SECRETS: [&str; 6] =
    ["/.env", "/.git/config", "/.aws/credentials", "/wp-config.php.bak", "/.ssh/id_rsa", "/db.sql.gz"];

struct Host {
    folder: tempfile::TempDir,
}

impl Host {
    fn new() -> Host {
        let host = Host { folder: tempfile::tempdir().unwrap() };
        let config = format!(
            "[agent]\nstate_dir = {:?}\nsocket = {:?}\n[page]\nenabled = false\n[[source]]\npath = {:?}\n\
             [allow]\nsearch_engines = false\n[iptables]\nmode = 'off'\n[xdp]\nmode = 'off'\n[audit]\npath = {:?}\n",
            host.path("state"),
            host.path("control.sock"),
            host.path("access.log"),
            host.path("audit.jsonl"),
        );
        fs::write(host.path("shield.toml"), config).unwrap();
        fs::write(host.path("access.log"), "").unwrap();
        host
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn shield(&self, arguments: &[&str]) -> Output {
        let mut command = self.command();
        command.args(arguments).output().unwrap()
    }

    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_shield-agent"));
        command
            .env("SHIELD_CONFIG", self.path("shield.toml"))
            .env("SHIELD_SOCKET", self.path("control.sock"));
        command
    }

    fn learn(&self, name: &str, more: &[&str]) -> Output {
        let file = self.path(name);
        let arguments = ["learn", "--json", file.to_str().unwrap()];
        self.shield(&[&arguments[..], more].concat())
    }

    fn start(&self) -> Agent<'_> {
        let log = fs::File::create(self.path("agent.log")).unwrap();
        let process = self.command().arg("run").stderr(log).stdin(Stdio::null()).spawn().unwrap();
        let agent = Agent { host: self, process };
        agent.until("it reads its log", || {
            let status = self.shield(&["status", "--json"]);
            let status: Value = serde_json::from_slice(&status.stdout).ok()?;
            (status["sources"][0]["logs"] == 1).then_some(())
        });
        agent
    }
}

struct Agent<'a> {
    host: &'a Host,
    process: Child,
}

impl Agent<'_> {
    fn until<T>(&self, what: &str, mut poll: impl FnMut() -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(found) = poll() {
                return found;
            }
            let log = || fs::read_to_string(self.host.path("agent.log")).unwrap_or_default();
            assert!(Instant::now() < deadline, "waited for: {what}\n{}", log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Writes lines of the last half minute; the last one's client attacks. Returns the list of bans once it is banned.
    fn bans_after_live_lines(&self) -> String {
        let begin = clock::now().wall_secs() - 30;
        let mut lines = String::new();
        for (at, name) in PHONES.iter().enumerate() {
            lines += &line("203.0.113.200", begin + at as i64, &format!("/phones/{name}.cfg"), 404);
        }
        for (at, path) in SECRETS.iter().enumerate() {
            lines += &line("203.0.113.99", begin + 10 + at as i64, path, 404);
        }
        let mut log = fs::OpenOptions::new().append(true).open(self.host.path("access.log")).unwrap();
        log.write_all(lines.as_bytes()).unwrap();
        self.until("the attacker is banned", || {
            let bans = String::from_utf8(self.host.shield(&["bans", "--json"]).stdout).unwrap();
            bans.contains("203.0.113.99").then_some(bans)
        })
    }
}

impl Drop for Agent<'_> {
    fn drop(&mut self) {
        let _ = Command::new("kill").args(["-TERM", &self.process.id().to_string()]).status();
        let _ = self.process.wait();
    }
}

fn line(addr: &str, second: i64, path: &str, status: u16) -> String {
    format!(
        "{{\"source_ip\":\"{addr}\",\"timestamp\":{second},\"method\":\"GET\",\"path\":\"{path}\",\"status\":{status},\
         \"response_size\":150}}\n"
    )
}

/// Five days, until an hour ago: five offices read pages every four hours, and their telephones miss a file each time. One more
/// does as well and attacks on the third day.
fn past() -> String {
    let begin = clock::now().wall_secs() - 121 * HOUR;
    let mut lines = String::new();
    for round in 0..30 {
        for office in 1..=6_i64 {
            let (addr, second) = (format!("198.18.{office}.7"), begin + round * 4 * HOUR + office * 20);
            for (at, path) in
                ["/", "/a.css", "/b.js", "/news", "/c.css", "/d.js", "/about"].iter().enumerate()
            {
                lines += &line(&addr, second + at as i64 / 2, path, 200);
            }
            if office == 6 && round == 15 {
                let attack = (0..120).map(|at| line(&addr, second + 5 + at, SECRETS[at as usize % 6], 404));
                lines.extend(attack);
            } else if round >= 3 {
                lines +=
                    &line(&addr, second + 5, &format!("/phones/{}.cfg", PHONES[round as usize % 6]), 404);
            }
        }
        // A botnet whose every address asks for one secret, which is no lesson.
        lines += &line(&format!("198.19.{round}.9"), begin + round * 4 * HOUR + 600, "/.env", 404);
    }
    lines
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn what_past_logs_taught_is_in_force_from_the_first_line_on() {
    let cold = Host::new();
    let bans = cold.start().bans_after_live_lines();
    assert!(bans.contains("203.0.113.200"), "a site that nobody knows: {bans}");

    let warm = Host::new();
    fs::write(warm.path("past.log"), past()).unwrap();
    let learned = warm.learn("past.log", &[]);
    assert_eq!(learned.status.code(), Some(0), "{learned:?}");
    let figures: Value = serde_json::from_slice(&learned.stdout).unwrap();
    assert_eq!(figures["requests"], 1571, "{figures}");
    assert_eq!(figures["lessons"]["clients_in_standing"], 5, "the attacker lost his: {figures}");
    assert_eq!((&figures["attackers"], &figures["warm_up_left_secs"]), (&1.into(), &0.into()), "{figures}");
    let agent = warm.start();
    let bans = agent.bans_after_live_lines();
    assert!(!bans.contains("203.0.113.200"), "{bans}");
    let refused = warm.learn("past.log", &["--replace"]);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert!(text(&refused).contains("another shield-agent is running"), "{refused:?}");
    drop(agent);
    // What was learned outlives the next stop and start.
    fs::write(warm.path("access.log"), "").unwrap();
    let bans = warm.start().bans_after_live_lines();
    assert!(!bans.contains("203.0.113.200"), "{bans}");
}

fn stored(host: &Host) -> Option<Vec<u8>> {
    fs::read(host.path("state/shield.db")).ok()
}

#[test]
fn nothing_is_stored_unless_all_is_well() {
    let host = Host::new();
    let refused = |name: &str, content: &[u8], part: &str| {
        fs::write(host.path(name), content).unwrap();
        let output = host.learn(name, &[]);
        assert_eq!(output.status.code(), Some(1), "{name}: {output:?}");
        assert!(text(&output).contains(part), "{name}: {output:?}");
    };
    refused("empty.log", b"", "the logs hold no request");
    refused("photo.log", b"\x89PNG\r\n\x1a\nabcdef\n", "is an access-log line");
    let ahead = clock::now().wall_secs() + 30 * HOUR;
    refused("ahead.log", line("198.18.1.7", ahead, "/", 200).as_bytes(), "the logs hold no request");
    let missing = host.learn("none.log", &[]);
    assert!(text(&missing).contains("could not open"), "{missing:?}");

    let mut past = past();
    past += &line("198.18.1.7", ahead, "/", 200);
    fs::write(host.path("past.log"), past).unwrap();
    let learned = host.learn("past.log", &[]);
    let figures: Value = serde_json::from_slice(&learned.stdout).unwrap();
    assert_eq!((learned.status.code(), &figures["dated_ahead"]), (Some(0), &1.into()), "{learned:?}");
    let before = stored(&host);
    refused("past.log", fs::read(host.path("past.log")).unwrap().as_slice(), "say --replace");
    assert_eq!(stored(&host), before);
    assert_eq!(host.learn("past.log", &["--replace"]).status.code(), Some(0));
}

/// A damaged database is put right by the agent, which asks the kernel what is banned; until then it stays where it is.
#[test]
fn a_damaged_database_is_left_to_the_agent() {
    let host = Host::new();
    fs::create_dir(host.path("state")).unwrap();
    let database: &Path = &host.path("state/shield.db");
    fs::write(database, b"no database").unwrap();
    fs::write(host.path("past.log"), past()).unwrap();
    let output = host.learn("past.log", &[]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(text(&output).contains("put right by a start of the agent"), "{output:?}");
    assert_eq!(fs::read(database).unwrap(), b"no database");
}
