//! Against a server that does on demand what CrowdSec's own does not; that one is asked in `tests/tests/crowdsec.rs`.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use super::*;
use crate::config::UrlFrom;
use crate::test_owner::{OWN, TestOwner};
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
        let settings = Settings { url: url.parse().unwrap(), key, poll: Settings::POLL };
        Crowdsec::new(settings, self.engine.owner.clone(), report, 64)
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
