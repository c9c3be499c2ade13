//! fail2ban and sshguard, the real ones, hand their bans to Shield: ban, unban, restart of either side.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails there")]

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result};
use shield_tests::agent::{Agent, Home, binary};
use shield_tests::netns::Namespace;
use shield_tests::wait;

const TIMEOUT: Duration = Duration::from_secs(30);
const OFF: &str = "[iptables]\nmode = \"off\"\n[xdp]\nmode = \"off\"\n[page]\nenabled = false\n";

struct Host {
    namespace: Namespace,
    home: Home,
    agent: Option<Agent>,
}

impl Host {
    fn start(name: &str) -> Host {
        let (namespace, home) = (Namespace::create(name).unwrap(), Home::create().unwrap());
        let log = home.folder().join("access.log");
        fs::write(&log, "").unwrap();
        home.configure(&log, "", OFF).unwrap();
        let agent = Some(Agent::start(&namespace, &home, &[]).unwrap());
        Host { namespace, home, agent }
    }

    fn restart(&mut self) {
        self.stop();
        self.start_again();
    }

    fn stop(&mut self) {
        self.agent.take().unwrap().stop().unwrap();
    }

    fn start_again(&mut self) {
        self.agent = Some(Agent::start(&self.namespace, &self.home, &[]).unwrap());
    }

    /// The reason of a client's ban; `None` when it is not banned.
    fn reason(&self, client: &str) -> Result<Option<String>> {
        let page = self.home.json(&self.namespace, &["bans"])?;
        let bans = page["bans"].as_array().context("no list of bans")?;
        let ban = bans.iter().find(|ban| ban["client"] == client);
        Ok(ban.map(|ban| ban["reason"].as_str().unwrap_or_default().to_owned()))
    }

    fn await_reason(&self, client: &str, reason: Option<&str>, more: &dyn Fn() -> String) {
        let what = format!("{client} to be {reason:?}");
        let is_so = || Ok((self.reason(client)?.as_deref() == reason).then_some(()));
        wait::until(&what, TIMEOUT, is_so).with_context(more).unwrap();
    }
}

fn packaging(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging").join(file)
}

/// fail2ban's server with one jail, in the foreground.
struct Fail2ban {
    folder: PathBuf,
    process: Child,
}

impl Fail2ban {
    fn start(host: &Host) -> Fail2ban {
        let folder = host.home.folder().join("fail2ban");
        if !folder.exists() {
            let copied = Command::new("cp").args(["-r", "/etc/fail2ban"]).arg(&folder).status().unwrap();
            assert!(copied.success(), "could not copy /etc/fail2ban: cargo xtask setup installs fail2ban");
            fs::remove_dir_all(folder.join("jail.d")).unwrap();
            fs::create_dir(folder.join("jail.d")).unwrap();
            fs::copy(packaging("fail2ban/action.d/shield.conf"), folder.join("action.d/shield.conf"))
                .unwrap();
            fs::write(
                folder.join("filter.d/sneak.conf"),
                "[Definition]\nfailregex = ^\\s*sneak <HOST>\\s*$\n",
            )
            .unwrap();
            fs::write(folder.join("seen.log"), "").unwrap();
            let (log, shield) = (folder.join("seen.log"), binary().unwrap());
            let jail = format!(
                "[DEFAULT]\nbackend = polling\nignoreself = false\nbanaction = shield\n[sneak]\nenabled = true\nfilter = sneak\n\
                 logpath = {}\nmaxretry = 1\nfindtime = 600\nbantime = 600\naction = shield[shield=\"{} --socket {}\"]\n",
                log.display(),
                shield.display(),
                host.home.socket().display()
            );
            fs::write(folder.join("jail.local"), jail).unwrap();
            let of = |name: &str| folder.join(name).display().to_string();
            let own = format!(
                "[Definition]\nlogtarget = {}\nsocket = {}\npidfile = {}\ndbfile = {}\n",
                of("log"),
                of("socket"),
                of("pid"),
                of("db.sqlite3")
            );
            fs::write(folder.join("fail2ban.local"), own).unwrap();
        }
        let mut command = Command::new("fail2ban-server");
        command
            .args(["-f", "-c"])
            .arg(&folder)
            .arg("-s")
            .arg(folder.join("socket"))
            .arg("-p")
            .arg(folder.join("pid"));
        command.arg("start").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let process = host.namespace.enter(|| command.spawn());
        let process = process.expect("could not start fail2ban-server: cargo xtask setup installs it");
        let fail2ban = Fail2ban { folder, process };
        // Not `status sneak`: until the jail is there, fail2ban writes that down as an error.
        wait::until("fail2ban's jail", TIMEOUT, || Ok(fail2ban.has_jail().then_some(())))
            .with_context(|| fail2ban.log())
            .unwrap();
        fail2ban
    }

    fn ask(&self, words: &[&str]) -> Output {
        let mut command = Command::new("fail2ban-client");
        command.arg("-c").arg(&self.folder).arg("-s").arg(self.folder.join("socket")).args(words);
        command.output().expect("could not start fail2ban-client: cargo xtask setup installs it")
    }

    fn client(&self, words: &[&str]) -> bool {
        self.ask(words).status.success()
    }

    fn has_jail(&self) -> bool {
        let answer = self.ask(&["status"]);
        answer.status.success() && String::from_utf8_lossy(&answer.stdout).contains("sneak")
    }

    fn see(&self, client: &str) {
        let mut log = fs::File::options().append(true).open(self.folder.join("seen.log")).unwrap();
        let now = Command::new("date").arg("+%F %T").output().unwrap().stdout;
        writeln!(log, "{} sneak {client}", String::from_utf8(now).unwrap().trim()).unwrap();
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    fn stop(mut self) {
        assert!(self.client(&["stop"]));
        self.process.wait().unwrap();
    }
}

impl Drop for Fail2ban {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn fail2bans_bans_are_shields_over_restarts_of_both() {
    let mut host = Host::start("f2b");
    let fail2ban = Fail2ban::start(&host);
    let reason = Some("fail2ban: sneak");
    fail2ban.see("203.0.113.5");
    fail2ban.see("2001:db8:1:2:3::4");
    host.await_reason("203.0.113.5", reason, &|| fail2ban.log());
    host.await_reason("2001:db8:1:2::/64", reason, &|| fail2ban.log());
    assert!(fail2ban.client(&["set", "sneak", "unbanip", "203.0.113.5"]));
    host.await_reason("203.0.113.5", None, &|| fail2ban.log());
    fail2ban.see("203.0.113.6");
    host.await_reason("203.0.113.6", reason, &|| fail2ban.log());

    host.restart();
    host.await_reason("203.0.113.6", reason, &|| fail2ban.log());
    // What an operator lifted is no failure of fail2ban's.
    host.home.command(&host.namespace, &["unban", "203.0.113.6"]).unwrap();
    assert!(fail2ban.client(&["set", "sneak", "unbanip", "203.0.113.6"]));
    assert!(!fail2ban.log().contains("ERROR"), "{}", fail2ban.log());

    // While the agent restarts nothing is lost.
    host.stop();
    fail2ban.see("203.0.113.8");
    wait::until("fail2ban to ban while no agent runs", TIMEOUT, || {
        Ok(fail2ban.log().contains("Ban 203.0.113.8").then_some(()))
    })
    .with_context(|| fail2ban.log())
    .unwrap();
    host.start_again();
    host.await_reason("203.0.113.8", reason, &|| fail2ban.log());

    fail2ban.see("203.0.113.7");
    host.await_reason("203.0.113.7", reason, &|| fail2ban.log());
    fail2ban.stop();
    assert_eq!(host.reason("203.0.113.7").unwrap(), None, "fail2ban lifts its bans when it stops");
    let fail2ban = Fail2ban::start(&host);
    host.await_reason("203.0.113.7", reason, &|| fail2ban.log());
    fail2ban.see("127.0.0.1");
    wait::until("the refusal in fail2ban's log", TIMEOUT, || {
        let is_said = |log: &str| log.contains("ERROR") && log.contains("is on the allowlist");
        Ok(is_said(&fail2ban.log()).then_some(()))
    })
    .with_context(|| fail2ban.log())
    .unwrap();
    assert_eq!(host.reason("127.0.0.1").unwrap(), None);
}

/// sshguard's own parser and blocker, with Shield's script behind them.
struct Sshguard(Child);

impl Sshguard {
    /// With the term of its bans.
    fn start(host: &Host, secs: u32) -> Sshguard {
        let pipeline = format!(
            "/usr/libexec/sshguard/sshg-parser | /usr/libexec/sshguard/sshg-blocker -a 30 -p {secs} -s 1800 | {}",
            packaging("sshguard/sshg-fw-shield").display()
        );
        let mut command = Command::new("sh");
        command
            .args(["-c", &pipeline])
            .env("SHIELD_AGENT", binary().unwrap())
            .env("SHIELD_SOCKET", host.home.socket());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Sshguard(host.namespace.enter(|| command.spawn()).unwrap())
    }

    fn see(&mut self, client: &str) {
        let line = format!(
            "Nov 29 05:00:00 host sshd[77]: Failed password for invalid user x from {client} port 2222 ssh2\n"
        );
        self.0.stdin.as_mut().unwrap().write_all(line.repeat(6).as_bytes()).unwrap();
    }

    fn stop(mut self) {
        drop(self.0.stdin.take());
        let output = self.0.wait_with_output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }
}

fn no_sshguard() -> String {
    String::from("sshguard's pipeline; cargo xtask setup installs it")
}

#[test]
fn sshguards_bans_are_shields() {
    let host = Host::start("sshg");
    // Two seconds a ban, so that its release is seen too.
    let mut sshguard = Sshguard::start(&host, 2);
    sshguard.see("203.0.113.9");
    sshguard.see("2001:db8:7::9");
    host.await_reason("203.0.113.9", Some("sshguard"), &no_sshguard);
    host.await_reason("203.0.113.9", None, &no_sshguard);
    host.await_reason("2001:db8:7::/64", None, &no_sshguard);
    sshguard.stop();
}

#[test]
fn sshguards_bans_outlive_restarts_of_both() {
    let mut host = Host::start("sshg-restart");
    let mut sshguard = Sshguard::start(&host, 900);
    let ban = Some("sshguard");
    sshguard.see("203.0.113.9");
    host.await_reason("203.0.113.9", ban, &no_sshguard);
    // What it says while no agent runs is not lost.
    host.stop();
    sshguard.see("203.0.113.10");
    wait::sleep(Duration::from_secs(2)).unwrap();
    host.start_again();
    host.await_reason("203.0.113.10", ban, &no_sshguard);
    host.await_reason("203.0.113.9", ban, &no_sshguard);
    // Its restart opens no gap: what it banned before stays for the term.
    sshguard.stop();
    let mut sshguard = Sshguard::start(&host, 900);
    sshguard.see("203.0.113.11");
    host.await_reason("203.0.113.11", ban, &no_sshguard);
    host.await_reason("203.0.113.9", ban, &no_sshguard);
    sshguard.stop();
}
