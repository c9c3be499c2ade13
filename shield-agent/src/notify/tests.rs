//! Posting to a real HTTP server on the loopback that answers slowly, with refusals, with garbage, or never.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::time::Instant;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::post::Receiver;
use super::secret::Secret;
use super::slack::SlackQueue;
use super::*;
use shield_engine::client::Client;

/// The server's behaviour for one request; after the last it accepts.
#[derive(Debug, Clone, Copy)]
enum Behaviour {
    Accept,
    Answer(&'static str),
    Slow(Duration),
    Never,
    HangUp,
}

const RATE_LIMITED: &str =
    "HTTP/1.1 429 Too Many Requests\r\nRetry-After: 0\r\nContent-Length: 12\r\n\r\nrate_limited";
const BROKEN: &str = "HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n";
const GARBAGE: &str = "\u{1}\u{2}this is no HTTP\r\n\r\n";
const MOVED: &str = "HTTP/1.1 302 Found\r\nLocation: http://192.0.2.1/\r\nContent-Length: 0\r\n\r\n";
const GONE: &str = "HTTP/1.1 404 Not Found\r\nContent-Length: 10\r\n\r\nno_service";
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// Deadline for what must come; only a failure takes that long.
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Clone, Default)]
struct Server {
    script: Arc<Mutex<VecDeque<Behaviour>>>,
    bodies: Arc<Mutex<Vec<String>>>,
}

impl Server {
    async fn start(script: &[Behaviour]) -> (Server, SocketAddr) {
        let server = Server::default();
        server.script.lock().unwrap().extend(script);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let accepting = server.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(accepting.clone().serve(stream));
            }
        });
        (server, addr)
    }

    async fn serve(self, mut stream: TcpStream) {
        while let Some(body) = read_request(&mut stream).await {
            let behaviour = self.script.lock().unwrap().pop_front().unwrap_or(Behaviour::Accept);
            self.bodies.lock().unwrap().push(body);
            match behaviour {
                Behaviour::Accept => stream.write_all(OK.as_bytes()).await.unwrap(),
                Behaviour::Answer(text) => stream.write_all(text.as_bytes()).await.unwrap(),
                Behaviour::Slow(pause) => {
                    tokio::time::sleep(pause).await;
                    let _ = stream.write_all(OK.as_bytes()).await;
                }
                Behaviour::Never => std::future::pending().await,
                Behaviour::HangUp => return,
            }
        }
    }

    fn bodies(&self) -> Vec<String> {
        self.bodies.lock().unwrap().clone()
    }

    async fn wait_for(&self, count: usize) -> Vec<String> {
        wait_until(|| self.bodies().len() >= count).await;
        self.bodies()
    }
}

/// One request's body, `None` when the other side is done.
async fn read_request(stream: &mut TcpStream) -> Option<String> {
    let mut bytes = Vec::new();
    let head_len = loop {
        if let Some(at) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break at + 4;
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8_lossy(&bytes[..head_len]).to_ascii_lowercase();
    let body_len: usize = head.split("content-length: ").nth(1)?.split("\r\n").next()?.parse().ok()?;
    while bytes.len() < head_len + body_len {
        stream.read_buf(&mut bytes).await.ok()?;
    }
    Some(String::from_utf8_lossy(&bytes[head_len..]).into_owned())
}

async fn wait_until(is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "what must come did not come in {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

struct Bench {
    notifier: Notifier,
    outbox: Outbox,
    reports: Arc<Mutex<Vec<PartReport>>>,
    dir: tempfile::TempDir,
}

impl Bench {
    /// A notifier that posts to this address, a hundred times as fast as in earnest.
    fn new(slack: Option<SocketAddr>, webhook: Option<SocketAddr>) -> Bench {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, addr: SocketAddr| {
            let path = dir.path().join(name);
            std::fs::write(&path, format!("http://{addr}/services/verysecret\n")).unwrap();
            UrlFrom::File(path)
        };
        let settings = Settings {
            audit: dir.path().join("audit.jsonl"),
            slack: slack.map(|addr| file("slack", addr)),
            webhook: webhook.map(|addr| file("webhook", addr)),
            pace: Pace {
                between_posts: Duration::from_millis(10),
                after_digest: Duration::from_millis(100),
                first_pause: Duration::from_millis(10),
                longest_pause: Duration::from_millis(50),
                ..Pace::default()
            },
            timeout: Duration::from_millis(300),
            events: Events::default(),
        };
        let reports = Arc::new(Mutex::new(Vec::new()));
        let reported = Arc::clone(&reports);
        let (notifier, outbox) = Notifier::start(
            &settings,
            AuditRecord::default(),
            Arc::new(move |report| reported.lock().unwrap().push(report)),
        );
        Bench { notifier, outbox, reports, dir }
    }

    fn notify(&mut self, notice: &Notice) {
        self.notifier.notify(notice, Now { wall_ms: samples::AT_MS, boot_ms: 1 });
    }

    fn states_of(&self, part: &str) -> Vec<PartState> {
        let reports = self.reports.lock().unwrap();
        reports.iter().filter(|report| report.part == part).map(|report| report.state.clone()).collect()
    }

    fn audit_lines(&self) -> usize {
        std::fs::read_to_string(self.dir.path().join("audit.jsonl")).unwrap().lines().count()
    }
}

fn text_of(body: &str) -> String {
    serde_json::from_str::<serde_json::Value>(body).unwrap()["text"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_ban_arrives_in_the_chat_and_at_the_webhook() {
    let (slack, slack_addr) = Server::start(&[]).await;
    let (webhook, webhook_addr) = Server::start(&[]).await;
    let mut bench = Bench::new(Some(slack_addr), Some(webhook_addr));
    bench.notify(&samples::banned());
    assert_eq!(bench.audit_lines(), 1, "on record before it is announced");
    assert!(text_of(&slack.wait_for(1).await[0]).starts_with("IP BANNED\n• IP: 192.0.2.156\n"));
    let body: serde_json::Value = serde_json::from_str(&webhook.wait_for(1).await[0]).unwrap();
    assert_eq!(body["events"][0]["event"], "banned");
    assert_eq!(bench.states_of("slack"), [PartState::Active { detail: "URL configured".into() }]);
}

/// Whatever the other side does first, the same message arrives in the end.
#[tokio::test]
async fn a_message_survives_every_failure() {
    let slow = Behaviour::Slow(Duration::from_millis(800));
    for trouble in [
        Behaviour::Answer(RATE_LIMITED),
        Behaviour::Answer(BROKEN),
        Behaviour::Answer(GARBAGE),
        slow,
        Behaviour::Never,
        Behaviour::HangUp,
    ] {
        let (server, addr) = Server::start(&[trouble]).await;
        let mut bench = Bench::new(Some(addr), None);
        bench.notify(&samples::banned());
        let bodies = server.wait_for(2).await;
        assert_eq!(bodies[0], bodies[1], "{trouble:?}");
    }
}

#[tokio::test]
async fn slack_down_is_a_state_without_the_secret_and_ends_by_itself() {
    let (server, addr) = Server::start(&[Behaviour::Answer(BROKEN); 5]).await;
    let mut bench = Bench::new(Some(addr), None);
    bench.notify(&samples::banned());
    server.wait_for(6).await;
    wait_until(|| bench.states_of("slack").len() == 3).await;
    let states = bench.states_of("slack");
    let PartState::Degraded { reason } = &states[1] else { panic!("{states:?}") };
    assert_eq!(reason, "inactive, retrying: answered 500 Internal Server Error");
    assert_eq!(states[2], PartState::Active { detail: "posting".into() });
}

#[tokio::test]
async fn nobody_listening_is_a_state_without_the_secret() {
    let addr = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let mut bench = Bench::new(Some(addr), None);
    bench.notify(&samples::banned());
    wait_until(|| bench.states_of("slack").len() == 2).await;
    let reason = format!("{:?}", bench.states_of("slack"));
    assert!(reason.contains("Connection refused"), "{reason}");
    assert!(!reason.contains("verysecret"), "{reason}");
}

#[tokio::test]
async fn a_wrong_url_is_reported_and_the_message_given_up() {
    for (answer, words) in [(GONE, "answered 404 Not Found: no_service"), (MOVED, "answered 302 Found")] {
        let (server, addr) = Server::start(&[Behaviour::Answer(answer)]).await;
        let mut bench = Bench::new(Some(addr), None);
        bench.notify(&samples::banned());
        wait_until(|| bench.states_of("slack").len() == 2).await;
        let reason = format!("{:?}", bench.states_of("slack")[1]);
        assert!(reason.contains(words) && reason.contains("check the webhook's URL"), "{reason}");
        bench.notify(&samples::lifted());
        let bodies = server.wait_for(2).await;
        assert!(text_of(&bodies[1]).contains("1 earlier event could not be posted"), "{}", bodies[1]);
    }
}

#[tokio::test]
async fn a_server_that_never_answers_holds_nobody_up_and_nothing_is_left_out_of_the_audit() {
    let (server, addr) = Server::start(&[Behaviour::Never]).await;
    let mut bench = Bench::new(Some(addr), None);
    bench.notify(&samples::lifted());
    server.wait_for(1).await;
    let started = Instant::now();
    for n in 0..500 {
        bench.notify(&samples::banned_client(Client::from(std::net::Ipv4Addr::from_bits(0xcb00_7100 + n))));
    }
    assert!(started.elapsed() < Duration::from_secs(5), "telling 500 events took {:?}", started.elapsed());
    assert_eq!(bench.audit_lines(), 501);
    let bodies = server.wait_for(3).await;
    assert_eq!(bodies[0], bodies[1], "the first message is tried again");
    assert!(text_of(&bodies[2]).contains("IP BANNED: 500 (z_score 500)"), "{}", bodies[2]);
}

#[tokio::test]
async fn what_is_not_configured_is_off_and_what_cannot_be_read_degraded() {
    let dir = tempfile::tempdir().unwrap();
    let reports = Arc::new(Mutex::new(Vec::new()));
    let reported = Arc::clone(&reports);
    let settings = Settings {
        audit: dir.path().join("audit.jsonl"),
        slack: Some(UrlFrom::File(dir.path().join("missing"))),
        ..Settings::default()
    };
    let _started = Notifier::start(
        &settings,
        AuditRecord::default(),
        Arc::new(move |report: PartReport| reported.lock().unwrap().push(report)),
    );
    let reports = reports.lock().unwrap();
    assert!(matches!(&reports[0].state, PartState::Degraded { reason } if reason.contains("missing")));
    assert_eq!(reports[1].state, PartState::Off { reason: "no URL is configured".into() });
}

#[tokio::test]
async fn a_url_file_that_comes_later_is_found_and_a_new_url_is_used_after_a_reload() {
    let (first, first_addr) = Server::start(&[]).await;
    let (second, second_addr) = Server::start(&[]).await;
    let mut bench = Bench::new(None, None);
    let hooks = bench.outbox.hooks();
    let path = bench.dir.path().join("later");
    let from = UrlFrom::File(path.clone());
    let failed = hooks.set(Some(&from), None).failed;
    assert!(
        failed[0].contains("[slack] url: inactive, retrying: could not read") && hooks.is_waiting(),
        "{failed:?}"
    );
    hooks.retry();
    let write =
        |addr: SocketAddr| std::fs::write(&path, format!("http://{addr}/services/verysecret\n")).unwrap();
    write(first_addr);
    hooks.retry();
    assert!(!hooks.is_waiting());
    bench.notify(&samples::banned());
    first.wait_for(1).await;
    write(second_addr);
    assert!(hooks.set(Some(&from), None).failed.is_empty());
    bench.notify(&samples::banned());
    second.wait_for(1).await;
    std::fs::remove_file(&path).unwrap();
    let failed = hooks.set(Some(&from), None).failed;
    assert!(failed[0].contains("the URL read before is still in use"), "{failed:?}");
    bench.notify(&samples::banned());
    second.wait_for(2).await;
    write(second_addr);
    assert!(
        hooks.set(Some(&from), None).failed.is_empty(),
        "the state is good again though the URL is the same"
    );
    assert!(hooks.set(None, None).failed.is_empty());
    bench.notify(&samples::banned());
    let states = bench.states_of("slack");
    let names: Vec<&str> = (states.iter().skip(1))
        .map(|state| match state {
            PartState::Degraded { .. } => "degraded",
            PartState::Active { .. } => "active",
            PartState::Off { .. } => "off",
            PartState::Waiting { .. } => "waiting",
        })
        .collect();
    assert_eq!(names, ["degraded", "active", "active", "degraded", "active", "off"]);
    assert_eq!((first.bodies().len(), second.bodies().len()), (1, 2));
}

#[tokio::test]
async fn an_audit_log_that_cannot_be_written_is_a_state_that_ends_by_itself() {
    let mut bench = Bench::new(None, None);
    let path = bench.dir.path().join("audit.jsonl");
    std::fs::create_dir(&path).unwrap();
    bench.notify(&samples::banned());
    bench.notify(&samples::banned());
    std::fs::remove_dir(&path).unwrap();
    bench.notify(&samples::banned());
    let states = bench.states_of("audit");
    assert!(matches!(states[..], [PartState::Degraded { .. }, PartState::Active { .. }]), "{states:?}");
}

/// Certificates are needed for `https://` alone; the roots are the system's.
#[tokio::test]
async fn a_client_for_https_can_be_made() {
    let url = Secret::parse("https://hooks.example.org/x").unwrap();
    let report: Report = Arc::new(|_| {});
    let started =
        Receiver::start("slack", SlackQueue::default(), url, Pace::default(), post::TIMEOUT, report);
    assert!(started.is_ok(), "{:#}", started.err().unwrap());
}

#[tokio::test]
async fn what_waits_at_the_end_is_still_posted() {
    let (slack, slack_addr) = Server::start(&[Behaviour::Answer(BROKEN)]).await;
    let (webhook, webhook_addr) = Server::start(&[]).await;
    let mut bench = Bench::new(Some(slack_addr), Some(webhook_addr));
    bench.notify(&samples::banned());
    bench.notify(&samples::lifted());
    bench.outbox.flush(PATIENCE).await;
    let (slack, webhook) = (slack.bodies(), webhook.bodies());
    let last = text_of(slack.last().unwrap());
    assert!(last.contains("IP BANNED") && last.contains("IP UNBANNED"), "{slack:?}");
    assert!(webhook.iter().any(|body| body.contains("lifted")), "{webhook:?}");
}

#[tokio::test]
async fn a_receiver_that_never_answers_does_not_hold_up_the_end() {
    let (server, addr) = Server::start(&[Behaviour::Never; 100]).await;
    let mut bench = Bench::new(Some(addr), None);
    bench.notify(&samples::banned());
    server.wait_for(1).await;
    let bound = Duration::from_millis(500);
    let started = Instant::now();
    bench.outbox.flush(bound).await;
    assert!((bound..PATIENCE / 2).contains(&started.elapsed()), "{:?}", started.elapsed());
}

#[tokio::test]
async fn nothing_to_post_is_no_wait() {
    let (server, addr) = Server::start(&[]).await;
    let mut bench = Bench::new(Some(addr), None);
    bench.notify(&samples::banned());
    server.wait_for(1).await;
    tokio::time::timeout(PATIENCE, bench.outbox.flush(PATIENCE * 2)).await.expect("it ends at once");
}
