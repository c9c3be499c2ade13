//! Against CrowdSec itself, and against a server that does what it does not do on demand.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command as Process, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Instant;

use super::*;
use crate::config::UrlFrom;
use crate::owner::Owner;
use crate::pipeline::Job;
use crate::source::Pool;
use shield_engine::Engine;
use shield_engine::allowlist::{AllowReason, Allowed, Allowlist};
use shield_engine::policy::{Policy, Switch};
use shield_engine::settings::{RemoteSettings, Settings as EngineSettings};
use shield_engine::verdict::Rule;

/// A deadline of a real wait.
const SOON: Duration = Duration::from_secs(60);
const KEY: &str = "a-bouncers-key";

/// An engine with its owner.
struct Host {
    owner: Handle,
    thread: Option<JoinHandle<Engine>>,
    states: Arc<Mutex<Vec<PartState>>>,
    dir: tempfile::TempDir,
}

impl Host {
    fn start() -> Host {
        let defaults = EngineSettings::default();
        let remote = RemoteSettings { switch: Switch::On, ..defaults.remote };
        let own = Allowed { network: "192.0.2.10/32".parse().unwrap(), reason: AllowReason::OwnAddress };
        let settings = EngineSettings { remote, ..defaults };
        let engine = Engine::new(settings, Policy::default(), Allowlist::new([own]), 1, 7);
        let (owner, inbox) = Handle::new();
        let (jobs, jobs_in) = std::sync::mpsc::channel::<Job>();
        // In the performer's place.
        std::thread::spawn(move || jobs_in.into_iter().for_each(drop));
        let run = Owner::new(engine, inbox, jobs, Box::new(|_, _| {}), Pool::default());
        let thread = Some(std::thread::spawn(move || run.run()));
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("key"), KEY).unwrap();
        Host { owner, thread, states: Arc::default(), dir }
    }

    fn bouncer(&self, url: &str) -> Crowdsec {
        let told = Arc::clone(&self.states);
        let report: Report = Arc::new(move |report: PartReport| told.lock().unwrap().push(report.state));
        let key = UrlFrom::File(self.dir.path().join("key"));
        let settings = Settings { url: url.parse().unwrap(), key, poll: Settings::POLL };
        Crowdsec::new(settings, self.owner.clone(), report, 64)
    }

    async fn rule_of(&self, client: &str) -> Option<Rule> {
        let client = client.parse().unwrap();
        let rule = move |engine: &Engine, _| engine.ledger().ban_over(client).map(|ban| ban.rule);
        self.owner.query(rule).await.unwrap()
    }

    async fn is_suspected(&self, client: &str) -> bool {
        let client = client.parse().unwrap();
        self.owner.query(move |engine, _| engine.detector().is_suspected(client)).await.unwrap()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.owner.send(Message::Stop);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// Debian's package, unpacked: installing it would register this machine with CrowdSec's servers.
fn programs() -> PathBuf {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/crowdsec");
    let programs = dir.join("usr/bin");
    if programs.join("cscli").exists() {
        return programs;
    }
    std::fs::create_dir_all(&dir).unwrap();
    let unpack = "apt-get download crowdsec >/dev/null 2>&1 && dpkg -x crowdsec_*.deb . && rm crowdsec_*.deb";
    let done = Process::new("sh").args(["-c", unpack]).current_dir(&dir).status();
    assert!(
        done.is_ok_and(|status| status.success()),
        "could not get Debian's package crowdsec: apt-get download crowdsec must work"
    );
    programs
}

/// A local API of its own.
struct Lapi {
    process: Child,
    dir: tempfile::TempDir,
    url: String,
}

impl Lapi {
    fn start() -> Lapi {
        let dir = tempfile::tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let at = dir.path().display();
        let config = format!(
            "common: {{daemonize: false, log_media: stdout, log_level: warning, working_dir: {at}}}\n\
             config_paths: {{config_dir: {at}, data_dir: {at}/data, hub_dir: {at}/hub, index_path: {at}/hub/.index.json, \
             simulation_path: {at}/simulation.yaml}}\n\
             crowdsec_service: {{acquisition_path: {at}/acquis.yaml}}\n\
             cscli: {{output: human}}\n\
             db_config: {{type: sqlite, log_level: warning, db_path: {at}/data/crowdsec.db}}\n\
             api:\n  client: {{credentials_path: {at}/client.yaml}}\n  server: {{enable: true, listen_uri: \
             \"127.0.0.1:{port}\", profiles_path: {at}/profiles.yaml}}\n\
             prometheus: {{enabled: false}}\n"
        );
        for folder in ["data", "hub"] {
            std::fs::create_dir(dir.path().join(folder)).unwrap();
        }
        let url = format!("http://127.0.0.1:{port}/");
        let client = format!("url: {url}\nlogin: m1\npassword: a-machines-password\n");
        let profile = "name: default\nfilters:\n - Alert.Remediation == true\ndecisions:\n - type: ban\n   duration: 4h\n";
        for (name, text) in [
            ("config.yaml", config.as_str()),
            ("client.yaml", client.as_str()),
            ("profiles.yaml", profile),
            ("simulation.yaml", "simulation: false\n"),
            ("hub/.index.json", "{}"),
            ("acquis.yaml", ""),
        ] {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        cscli(dir.path(), &["machines", "add", "m1", "--password", "a-machines-password", "-f", "/dev/null"]);
        cscli(dir.path(), &["bouncers", "add", "shield", "-k", KEY]);
        let process = Process::new(programs().join("crowdsec"))
            .arg("-c")
            .arg(dir.path().join("config.yaml"))
            .arg("-no-cs")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let begin = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(begin.elapsed() < SOON, "crowdsec does not listen");
            std::thread::sleep(Duration::from_millis(50));
        }
        Lapi { process, dir, url }
    }

    fn decisions(&self, arguments: &[&str]) {
        cscli(self.dir.path(), &[&["decisions"], arguments].concat());
    }
}

impl Drop for Lapi {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn cscli(dir: &Path, arguments: &[&str]) {
    let mut cscli = Process::new(programs().join("cscli"));
    let done = cscli.arg("-c").arg(dir.join("config.yaml")).args(arguments).output().unwrap();
    assert!(done.status.success(), "cscli {arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_crowdsec_decides_is_banned_and_what_it_takes_back_is_let_go() {
    let (lapi, host) = (Lapi::start(), Host::start());
    lapi.decisions(&["add", "--ip", "203.0.113.5", "--duration", "4h", "--reason", "scan"]);
    lapi.decisions(&["add", "--range", "198.51.100.0/24", "--duration", "24h"]);
    lapi.decisions(&["add", "--ip", "203.0.113.6", "--type", "captcha"]);
    lapi.decisions(&["add", "--ip", "192.0.2.10"]);
    let mut bouncer = host.bouncer(&lapi.url);
    bouncer.ask().await.unwrap();
    assert_eq!(host.rule_of("203.0.113.5").await, Some(Rule::Crowdsec));
    assert_eq!(host.rule_of("198.51.100.77").await, Some(Rule::Crowdsec));
    assert!(host.rule_of("203.0.113.6").await.is_none() && host.is_suspected("203.0.113.6").await);
    assert_eq!(host.rule_of("192.0.2.10").await, None, "allowed");
    lapi.decisions(&["delete", "--ip", "203.0.113.5"]);
    lapi.decisions(&["add", "--ip", "203.0.113.9"]);
    bouncer.ask().await.unwrap();
    assert_eq!(host.rule_of("203.0.113.5").await, None);
    assert_eq!(host.rule_of("203.0.113.9").await, Some(Rule::Crowdsec));
    assert_eq!(host.rule_of("198.51.100.77").await, Some(Rule::Crowdsec), "not told again, and in force");
    // Another bouncer's key.
    std::fs::write(host.dir.path().join("key"), "wrong").unwrap();
    let why = format!("{:#}", bouncer.ask().await.unwrap_err());
    assert!(why.contains("403") && why.contains("cscli bouncers add"), "{why}");
}

/// Answers each question by the next text, as far as there are any.
fn serve(answers: Vec<String>) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let asked = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&asked);
    std::thread::spawn(move || {
        let mut answers = answers.into_iter();
        for connection in listener.incoming() {
            let mut connection = connection.unwrap();
            let mut request = Vec::new();
            let mut piece = [0; 1024];
            while !request.ends_with(b"\r\n\r\n") {
                match connection.read(&mut piece) {
                    Ok(read) if read > 0 => request.extend_from_slice(&piece[..read]),
                    _ => break,
                }
            }
            let line = String::from_utf8_lossy(&request).lines().next().unwrap_or_default().to_owned();
            noted.lock().unwrap().push(line);
            let Some(answer) = answers.next() else { return };
            let _ = connection.write_all(answer.as_bytes());
        }
    });
    (url, asked)
}

fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

fn new(id: u32, value: &str) -> String {
    format!(
        "{{\"new\":[{{\"id\":{id},\"duration\":\"4h\",\"origin\":\"CAPI\",\"scenario\":\"s\",\"scope\":\"Ip\",\"type\":\"ban\",\
         \"value\":\"{value}\"}}],\"deleted\":null}}"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn after_anything_that_went_wrong_everything_is_asked_anew() {
    let host = Host::start();
    let gap = "{\"new\":null,\"deleted\":[{\"id\":99,\"duration\":\"-1s\",\"scope\":\"Ip\",\"type\":\"ban\",\"value\":\"203.0.113.7\"}]}";
    let (url, asked) = serve(vec![
        ok(&new(1, "203.0.113.5")),
        ok("{\"new\":null,\"deleted\":null}"),
        ok("{\"new\":[{\"id\":2,\"value\""),
        ok(&new(3, "203.0.113.7")),
        ok(gap),
        ok(&new(3, "203.0.113.7")),
        "HTTP/1.1 502 Bad Gateway\r\nConnection: close\r\nContent-Length: 0\r\n\r\n".to_owned(),
    ]);
    let bouncer = host.bouncer(&url);
    let mut bouncer = Crowdsec {
        settings: Settings { poll: Duration::from_millis(10), ..bouncer.settings.clone() },
        ..bouncer
    };
    bouncer.whole_ms = 0;
    let running = tokio::spawn(bouncer.run());
    let begin = Instant::now();
    while asked.lock().unwrap().len() < 8 {
        assert!(begin.elapsed() < SOON, "{:?}", asked.lock().unwrap());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    running.abort();
    let asked: Vec<bool> =
        asked.lock().unwrap().iter().take(8).map(|line| line.contains("startup=true")).collect();
    // After the start, the broken answer, the gap and the error.
    assert_eq!(asked, [true, false, false, true, false, true, false, true]);
    assert_eq!(host.rule_of("203.0.113.7").await, Some(Rule::Crowdsec), "in force while nothing is heard");
    let states = host.states.lock().unwrap().clone();
    let reasons: Vec<&String> = states
        .iter()
        .filter_map(|state| match state {
            PartState::Degraded { reason } => Some(reason),
            _ => None,
        })
        .collect();
    assert!(reasons[0].contains("no list of decisions"), "{reasons:?}");
    assert!(reasons[1].contains("502") && reasons[1].contains("1 client hold"), "{reasons:?}");
}
