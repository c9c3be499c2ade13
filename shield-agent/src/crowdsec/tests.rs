//! Against a server that does on demand what CrowdSec's own does not; that one is asked in `tests/tests/crowdsec.rs`.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use super::*;
use crate::config::UrlFrom;
use crate::test_owner::{OWN, TestOwner};
use shield_engine::action::{BanRecord, Notice};
use shield_engine::backoff::Term;
use shield_engine::ban::{Ban, Place};
use shield_engine::event::Command;
use shield_engine::time::Ends;
use shield_engine::verdict::Rule;

/// A deadline of a real wait.
const SOON: Duration = Duration::from_secs(60);
const KEY: &str = "a-bouncers-key";

struct Host {
    engine: TestOwner,
    states: Arc<Mutex<Vec<PartState>>>,
    dir: tempfile::TempDir,
}

impl Host {
    fn start() -> Host {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("key"), KEY).unwrap();
        Host { engine: TestOwner::start(), states: Arc::default(), dir }
    }

    fn bouncer(&self, url: &str) -> Crowdsec {
        let told = Arc::clone(&self.states);
        let report: Report = Arc::new(move |report: PartReport| told.lock().unwrap().push(report.state));
        let key = UrlFrom::File(self.dir.path().join("key"));
        let settings = Settings { url: url.parse().unwrap(), key, poll: Settings::POLL, machine: None };
        Crowdsec::new(settings, Env { owner: self.engine.owner.clone(), report, ipv6_prefix: 64 })
    }

    async fn rule_of(&self, client: &str) -> Option<Rule> {
        self.engine.rule_of(client).await
    }

    async fn is_suspected(&self, client: &str) -> bool {
        let client = client.parse().unwrap();
        self.engine.owner.query(move |engine, _| engine.detector().is_suspected(client)).await.unwrap()
    }
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

fn decision(id: u32, what: &str, scope: &str, value: &str) -> String {
    format!(
        "{{\"id\":{id},\"duration\":\"4h\",\"origin\":\"cscli\",\"scenario\":\"s\",\"scope\":\"{scope}\",\"type\":\"{what}\",\
         \"value\":\"{value}\"}}"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_decided_is_banned_suspected_or_allowed_and_let_go_when_it_is_taken_back() {
    let host = Host::start();
    let all = [
        decision(1, "ban", "Ip", "203.0.113.5"),
        decision(2, "ban", "Range", "198.51.100.0/24"),
        decision(3, "captcha", "Ip", "203.0.113.6"),
        decision(4, "ban", "Ip", OWN),
    ];
    let change = format!(
        "{{\"new\":[{}],\"deleted\":[{}]}}",
        decision(5, "ban", "Ip", "203.0.113.9"),
        decision(1, "ban", "Ip", "203.0.113.5")
    );
    let refusal = "{\"message\":\"access forbidden\"}";
    let (url, _) = serve(vec![
        ok(&format!("{{\"new\":[{}],\"deleted\":null}}", all.join(","))),
        ok(&change),
        format!(
            "HTTP/1.1 403 Forbidden\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{refusal}",
            refusal.len()
        ),
    ]);
    let mut bouncer = host.bouncer(&url);
    bouncer.ask().await.unwrap();
    assert_eq!(host.rule_of("203.0.113.5").await, Some(Rule::Crowdsec));
    assert_eq!(host.rule_of("198.51.100.77").await, Some(Rule::Crowdsec));
    assert!(host.rule_of("203.0.113.6").await.is_none() && host.is_suspected("203.0.113.6").await);
    assert_eq!(host.rule_of(OWN).await, None, "allowed");
    bouncer.ask().await.unwrap();
    assert_eq!(host.rule_of("203.0.113.5").await, None);
    assert_eq!(host.rule_of("203.0.113.9").await, Some(Rule::Crowdsec));
    assert_eq!(host.rule_of("198.51.100.77").await, Some(Rule::Crowdsec), "not told again, and in force");
    let why = format!("{:#}", bouncer.ask().await.unwrap_err());
    assert!(why.contains("403") && why.contains("cscli bouncers add"), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_is_asked_anew_each_hour() {
    let host = Host::start();
    let (url, asked) = serve(vec![ok(&new(1, "203.0.113.5")); 3]);
    let mut bouncer = host.bouncer(&url);
    let before = clock::now().boot_ms;
    bouncer.ask().await.unwrap();
    let due = bouncer.whole_ms - WHOLE_EVERY_MS;
    assert!((before..=clock::now().boot_ms).contains(&due), "an hour after the first");
    bouncer.ask().await.unwrap();
    // The hour is over.
    bouncer.whole_ms = clock::now().boot_ms;
    bouncer.ask().await.unwrap();
    let asked: Vec<bool> = asked.lock().unwrap().iter().map(|line| line.contains("startup=true")).collect();
    assert_eq!(asked, [true, false, true]);
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

/// A local API with all that a machine asks for; what it was asked and told.
#[derive(Clone, Default)]
struct Api(Arc<Mutex<ApiState>>);

#[derive(Default)]
struct ApiState {
    /// `None`: a version without allowlists.
    allowlist: Option<Vec<&'static str>>,
    /// What the next question is answered with.
    fault: Option<&'static str>,
    logins: usize,
    alerts: Vec<serde_json::Value>,
    taken_back: Vec<String>,
}

const PASSWORD: &str = "a-machines-password";

impl Api {
    /// Returns its address.
    fn start(&self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let api = self.clone();
        std::thread::spawn(move || {
            for connection in listener.incoming() {
                let mut connection = connection.unwrap();
                let Some((line, head, body)) = read_request(&mut connection) else { continue };
                let (status, text) = api.answer(&line, &head, &body);
                let length = format!("Content-Length: {}\r\n", text.len());
                let answer = format!("HTTP/1.1 {status} X\r\nConnection: close\r\n{length}\r\n{text}");
                let _ = connection.write_all(answer.as_bytes());
            }
        });
        url
    }

    fn answer(&self, line: &str, head: &str, body: &str) -> (u16, String) {
        let mut state = self.0.lock().unwrap();
        let ok = |text: &str| (200, text.to_owned());
        if line.starts_with("GET /v1/decisions/stream?") {
            return ok("{\"new\":null,\"deleted\":null}");
        }
        if line.starts_with("POST /v1/watchers/login ") {
            let login: serde_json::Value = serde_json::from_str(body).unwrap();
            if login["password"] != PASSWORD {
                return (401, format!("{{\"message\":\"no {}\"}}", login["password"]));
            }
            state.logins += 1;
            return ok(&format!("{{\"code\":200,\"token\":\"token-{}\"}}", state.logins));
        }
        if !head.contains(&format!("bearer token-{}\r\n", state.logins)) {
            return (401, "{\"message\":\"token is expired\"}".to_owned());
        }
        if line.starts_with("GET /v1/allowlists ") {
            return state.allowlist.as_ref().map_or((404, String::new()), |_| ok("[]"));
        }
        if let Some(fault) = state.fault.take() {
            return (503, fault.to_owned());
        }
        if let Some(rest) = line.strip_prefix("HEAD /v1/allowlists/check/") {
            let value = rest.split(' ').next().unwrap();
            let has = state.allowlist.as_ref().unwrap().contains(&value);
            return (if has { 200 } else { 204 }, String::new());
        }
        if line.starts_with("GET /v1/alerts?") {
            assert!(line.contains("origin=shield%3Aweb-1&has_active_decision=true"), "{line}");
            return ok(
                "[{\"decisions\":[{\"duration\":\"1h\",\"origin\":\"shield:web-1\",\"value\":\"203.0.113.99\"},\
                 {\"duration\":\"1h\",\"origin\":\"cscli\",\"value\":\"203.0.113.98\"}]},{\"decisions\":null}]",
            );
        }
        if line.starts_with("POST /v1/alerts ") {
            let alerts: Vec<serde_json::Value> = serde_json::from_str(body).unwrap();
            let is_bad = |alert: &serde_json::Value| alert["source"]["value"] == "203.0.113.66";
            if alerts.iter().any(is_bad) {
                return (422, "{\"message\":\"no such source\"}".to_owned());
            }
            state.alerts.extend(alerts);
            return (201, "[\"1\"]".to_owned());
        }
        if let Some(rest) = line.strip_prefix("DELETE /v1/decisions?") {
            state.taken_back.push(rest.split(' ').next().unwrap().to_owned());
            return ok("{\"nbDeleted\":\"1\"}");
        }
        (404, String::new())
    }

    fn told(&self) -> Vec<String> {
        let state = self.0.lock().unwrap();
        let mut told: Vec<String> =
            state.alerts.iter().map(|alert| alert["source"]["value"].as_str().unwrap().to_owned()).collect();
        told.sort();
        told
    }
}

/// The request line, the head and the body.
fn read_request(connection: &mut std::net::TcpStream) -> Option<(String, String, String)> {
    let mut bytes = Vec::new();
    let mut piece = [0; 4096];
    loop {
        let read = connection.read(&mut piece).ok().filter(|read| *read > 0)?;
        bytes.extend_from_slice(&piece[..read]);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let head = format!("{}\r\n", head.to_lowercase());
        let length = head.split("content-length: ").nth(1).and_then(|rest| rest.split("\r\n").next());
        if body.len() >= length.map_or(0, |length| length.parse().unwrap()) {
            return Some((text.lines().next()?.to_owned(), head, body.to_owned()));
        }
    }
}

impl Host {
    fn link(&self) -> Link {
        self.link_telling(|_| ())
    }

    /// One that calls this before it says something.
    fn link_telling(&self, before: impl Fn(&PartState) + Send + Sync + 'static) -> Link {
        let told = Arc::clone(&self.states);
        let report: Report = Arc::new(move |report: PartReport| {
            before(&report.state);
            told.lock().unwrap().push(report.state);
        });
        Link::new(Some(Env { owner: self.engine.owner.clone(), report, ipv6_prefix: 64 }))
    }

    fn settings(&self, url: &str, password: Option<&str>) -> Settings {
        let file = self.dir.path().join("machine");
        let machine = password.map(|password| {
            std::fs::write(&file, format!("url: {url}\nlogin: web-1\npassword: {password}\n")).unwrap();
            UrlFrom::File(file)
        });
        let key = UrlFrom::File(self.dir.path().join("key"));
        Settings { url: url.parse().unwrap(), key, poll: Duration::from_millis(50), machine }
    }

    async fn ban(&self, client: &str) {
        let command = Command::Ban {
            clients: vec![client.parse().unwrap()],
            term: Some(Term::Secs(3_600)),
            reason: Some("/a?token=secret".to_owned()),
            rule: Rule::Operator,
        };
        // Nobody answers here: that is the performer's part.
        let _ = self.engine.owner.command(command).await;
    }

    async fn until(&self, what: &str, is_so: impl Fn() -> bool) {
        let begin = Instant::now();
        while !is_so() {
            assert!(begin.elapsed() < SOON, "{what}: {:?}", self.states.lock().unwrap());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn has_said(&self, part: &str) -> bool {
        let is_it = |state: &PartState| format!("{state:?}").contains(part);
        self.states.lock().unwrap().iter().any(is_it)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn own_bans_are_told_but_for_those_that_crowdsec_allows_or_does_not_take() {
    let (host, api) = (Host::start(), Api::default());
    api.0.lock().unwrap().allowlist = Some(vec!["203.0.113.7", "2001:db8::%2F64"]);
    for client in ["203.0.113.5", "203.0.113.66", "203.0.113.7", "2001:db8::/64", "2001:db8:0:1::/64"] {
        host.ban(client).await;
    }
    let mut link = host.link();
    let url = api.start();
    link.change(Some(&host.settings(&url, Some(PASSWORD)))).await;
    let detail = "2 bans of this host's told; 2 clients not told, because CrowdSec's allowlist has them; 1 ban not taken";
    host.until("told", || host.has_said(detail)).await;
    assert_eq!(api.told(), ["2001:db8:0:1::/64", "203.0.113.5"]);
    let state = api.0.lock().unwrap();
    // What an earlier run told and is over now; another's decision is not touched.
    assert_eq!(state.taken_back, ["scopes=Ip&value=203.0.113.99&origin=shield%3Aweb-1"]);
    assert!(!state.alerts.iter().any(|alert| alert.to_string().contains("secret")), "{:?}", state.alerts);
    assert!(!host.has_said("no allowlists"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_that_ended_and_a_fault_of_the_server_lose_no_ban_and_the_password_is_never_said() {
    let (host, api) = (Host::start(), Api::default());
    let url = api.start();
    let mut link = host.link();
    let mut announce = link.announce();
    link.change(Some(&host.settings(&url, Some("verysecret")))).await;
    host.until("the refusal", || host.has_said("cscli machines list")).await;
    assert!(!host.has_said("verysecret"), "{:?}", host.states.lock().unwrap());
    // The file is read again at each try.
    host.settings(&url, Some(PASSWORD));
    host.until("the login", || host.has_said("0 bans of this host's told")).await;
    assert!(host.has_said("this CrowdSec has no allowlists to ask"));
    {
        let mut state = api.0.lock().unwrap();
        // The server was started anew: the token is worth nothing, and then it fails once.
        state.logins += 1;
        state.fault = Some("database is locked");
    }
    // Without a performer, so that the notice is the test's.
    let ban = Ban {
        client: "203.0.113.5".parse().unwrap(),
        serial: 1,
        since_ms: clock::now().wall_ms,
        ends: Ends::after(clock::now(), 600_000),
        offence: None,
        rule: Rule::Probing,
        place: Place::default(),
    };
    let record = BanRecord { ban, reason: None, evidence: None };
    announce(&Notice::Banned(Box::new(record)));
    host.until("the ban to be told", || !api.told().is_empty()).await;
    assert!(host.has_said("1 ban of this host's told"));
    assert!(host.has_said("503"), "{:?}", host.states.lock().unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_changes_the_api_and_lets_go_only_when_there_is_none_any_more() {
    let host = Host::start();
    let (first, _) = serve(vec![ok(&new(1, "203.0.113.5"))]);
    let mut link = host.link();
    link.change(Some(&host.settings(&first, None))).await;
    let is_banned = async |client: &str| host.rule_of(client).await == Some(Rule::Crowdsec);
    let until = async |client: &str, is: bool| {
        let begin = Instant::now();
        while is_banned(client).await != is {
            assert!(begin.elapsed() < SOON, "{client} {is}: {:?}", host.states.lock().unwrap());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    until("203.0.113.5", true).await;
    // Nobody answers there: what is in force stays.
    link.change(Some(&host.settings("http://127.0.0.1:1/", None))).await;
    host.until("the failure", || host.has_said("could not ask CrowdSec")).await;
    assert!(is_banned("203.0.113.5").await);
    // Another one, with another list.
    let (second, _) = serve(vec![ok(&new(7, "203.0.113.6"))]);
    link.change(Some(&host.settings(&second, None))).await;
    until("203.0.113.6", true).await;
    link.change(None).await;
    until("203.0.113.6", false).await;
    until("203.0.113.5", false).await;
    assert!(host.has_said(text::crowdsec::REMOVED));
}

/// Its task may be at work on another thread.
#[tokio::test(flavor = "multi_thread")]
async fn an_api_that_is_taken_out_says_nothing_afterwards() {
    let host = Host::start();
    let (url, _) = serve(vec![ok(&new(1, "203.0.113.5"))]);
    let (begun, mut begins) = tokio::sync::mpsc::unbounded_channel();
    let (go, may_go) = std::sync::mpsc::channel();
    let may_go = Mutex::new(may_go);
    let mut link = host.link_telling(move |state| {
        if matches!(state, PartState::Active { .. }) {
            begun.send(()).unwrap();
            may_go.lock().unwrap().recv().unwrap();
        }
    });
    link.change(Some(&host.settings(&url, None))).await;
    begins.recv().await.unwrap();
    {
        let mut change = std::pin::pin!(link.change(None));
        let polled = futures::poll!(change.as_mut());
        go.send(()).unwrap();
        if polled.is_pending() {
            change.await;
        }
    }
    let has = |is: fn(&PartState) -> bool| host.states.lock().unwrap().iter().any(is);
    host.until("both", || {
        has(|state| matches!(state, PartState::Active { .. })) && host.has_said(text::crowdsec::REMOVED)
    })
    .await;
    let last = host.states.lock().unwrap().last().unwrap().clone();
    assert!(matches!(last, PartState::Off { .. }), "{:?}", host.states.lock().unwrap());
}
