//! `shield-agent export` beside a real agent: what a follower reads while bans come and go and the agent restarts. Enforcement is
//! off, so that no root is needed.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails there")]

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// For what must come; only a failure takes that long.
const PATIENCE: Duration = Duration::from_secs(60);

struct Agent {
    folder: tempfile::TempDir,
    process: Option<Child>,
}

impl Agent {
    fn new() -> Agent {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::write(path("access.log"), "").unwrap();
        let config = format!(
            "[agent]\nstate_dir = {:?}\nsocket = {:?}\n[page]\nenabled = false\n[[source]]\npath = {:?}\nformat = 'json'\n\
             [iptables]\nmode = 'off'\n[xdp]\nmode = 'off'\n[audit]\npath = {:?}\n",
            path("state"),
            path("control.sock"),
            path("access.log"),
            path("audit.jsonl"),
        );
        fs::write(path("shield.toml"), config).unwrap();
        Agent { folder, process: None }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn start(&mut self, arguments: &[&str]) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_shield-agent"));
        command.arg("run").arg("--config").arg(self.path("shield.toml")).args(arguments);
        self.process = Some(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
        let deadline = Instant::now() + PATIENCE;
        while !client(&self.path("control.sock"), &["bans"]) {
            assert!(Instant::now() < deadline, "the agent does not answer");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn stop(&mut self) {
        let mut process = self.process.take().unwrap();
        let pid = process.id().to_string();
        assert!(Command::new("kill").arg(pid).status().unwrap().success());
        process.wait().unwrap();
    }

    fn does(&self, arguments: &[&str]) {
        assert!(client(&self.path("control.sock"), arguments), "{arguments:?}");
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

fn client(socket: &Path, arguments: &[&str]) -> bool {
    let mut command = Command::new(env!("CARGO_BIN_EXE_shield-agent"));
    command.arg("--socket").arg(socket).args(arguments).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().unwrap().success()
}

/// A program that keeps the list by the lines that it is sent.
struct Follower {
    process: Child,
    lines: mpsc::Receiver<String>,
    list: BTreeSet<String>,
}

impl Follower {
    fn start(agent: &Agent) -> Follower {
        let mut command = Command::new(env!("CARGO_BIN_EXE_shield-agent"));
        command.arg("--socket").arg(agent.path("control.sock"));
        command.args(["export", "--follow", "--format", "plain"]).stdout(Stdio::piped());
        let mut process = command.spawn().unwrap();
        let (sender, lines) = mpsc::channel();
        let out = BufReader::new(process.stdout.take().unwrap());
        std::thread::spawn(move || {
            out.lines().map_while(Result::ok).for_each(|line| sender.send(line).unwrap_or_default());
        });
        Follower { process, lines, list: BTreeSet::new() }
    }

    /// Reads until the list is this one.
    fn wait_for(&mut self, expected: &[&str]) {
        let expected: BTreeSet<String> = expected.iter().map(|text| (*text).to_owned()).collect();
        loop {
            let line = self.lines.recv_timeout(PATIENCE).unwrap();
            match line.split_once(' ').unwrap() {
                ("+", client) => assert!(self.list.insert(client.to_owned()), "doubled: {line}"),
                ("-", client) => assert!(self.list.remove(client), "never had it: {line}"),
                ("=", count) => {
                    assert_eq!(count, self.list.len().to_string());
                    if self.list == expected {
                        return;
                    }
                }
                _ => panic!("{line}"),
            }
        }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn a_follower_has_the_bans_in_force_through_a_restart() {
    let mut agent = Agent::new();
    agent.start(&[]);
    agent.does(&["ban", "203.0.113.1", "2001:db8:1::/64"]);
    let mut follower = Follower::start(&agent);
    follower.wait_for(&["203.0.113.1", "2001:db8:1::/64"]);
    agent.does(&["ban", "203.0.113.2"]);
    follower.wait_for(&["203.0.113.1", "203.0.113.2", "2001:db8:1::/64"]);
    agent.stop();
    agent.start(&[]);
    // What it had is neither sent again nor taken back.
    agent.does(&["unban", "203.0.113.1"]);
    follower.wait_for(&["203.0.113.2", "2001:db8:1::/64"]);
    agent.stop();
    assert!(follower.lines.try_recv().is_err(), "an agent that is away has lifted nobody");
}

#[test]
fn a_dry_run_hands_out_nobody() {
    let mut agent = Agent::new();
    agent.start(&["--dry-run"]);
    agent.does(&["ban", "203.0.113.1"]);
    Follower::start(&agent).wait_for(&[]);
}

#[test]
fn formats_without_changes_are_refused() {
    let agent = Agent::new();
    for arguments in [
        &["export", "--follow"][..],
        &["export", "--follow", "--format", "crowdsec"],
        &["export", "--format", "cloudflare", "--rule", "probing"],
        &["export", "--format", "haproxy-map", "192.0.2."],
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_shield-agent"));
        let output =
            command.arg("--socket").arg(agent.path("control.sock")).args(arguments).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(
            !output.status.success() && said.contains("haproxy-map and cloudflare"),
            "{arguments:?}: {said}"
        );
    }
}
