//! Lists from a real HTTP server, that answers in every way there is.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::fetch::Limits;
use super::settings::Transport;
use super::*;
use crate::config::UrlFrom;
use crate::test_owner::TestOwner;
use shield_engine::verdict::Rule;

const LIMITS: Limits = Limits { time: Duration::from_secs(20), bytes: 100_000 };
const LIST: &str = "; drop\n203.0.113.5 ; seen\n198.51.100.0/24\n192.0.2.10\n";

/// What a server does with a request.
enum Answer {
    Whole(String),
    /// The text, and more of it until the other side has had enough.
    Endless(String),
    /// The text, and nothing more while the connection holds.
    Stuck(String),
}

fn ok(headers: &str, body: &str) -> Answer {
    let length = body.len();
    Answer::Whole(format!("HTTP/1.1 200 OK\r\n{headers}Content-Length: {length}\r\n\r\n{body}"))
}

fn status(status: &str, headers: &str) -> Answer {
    Answer::Whole(format!("HTTP/1.1 {status}\r\n{headers}Content-Length: 0\r\n\r\n"))
}

type Requests = Arc<Mutex<Vec<String>>>;

/// Serves until the process ends. Returns its address and what it was asked.
fn serve(answer: impl Fn(usize, &str) -> Answer + Send + 'static) -> (String, Requests) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let requests = Requests::default();
    let noted = Arc::clone(&requests);
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let mut connection = connection.unwrap();
            let Some(request) = request_of(&mut connection) else { continue };
            let number = {
                let mut noted = noted.lock().unwrap();
                noted.push(request.clone());
                noted.len()
            };
            let answer = answer(number, &request);
            std::thread::spawn(move || give(connection, answer));
        }
    });
    (base, requests)
}

fn request_of(connection: &mut TcpStream) -> Option<String> {
    let (mut request, mut piece) = (Vec::new(), [0; 1024]);
    while !request.ends_with(b"\r\n\r\n") {
        match connection.read(&mut piece) {
            Ok(read) if read > 0 => request.extend_from_slice(&piece[..read]),
            _ => return None,
        }
    }
    Some(String::from_utf8_lossy(&request).into_owned())
}

fn give(mut connection: TcpStream, answer: Answer) {
    // The other side may have gone.
    match answer {
        Answer::Whole(text) => drop(connection.write_all(text.as_bytes())),
        Answer::Endless(text) => while connection.write_all(text.as_bytes()).is_ok() {},
        Answer::Stuck(text) => {
            let _ = connection.write_all(text.as_bytes());
            let _ = connection.read(&mut [0; 64]);
        }
    }
}

struct Host {
    env: Env,
    states: Arc<Mutex<Vec<(String, PartState)>>>,
    engine: TestOwner,
}

impl Host {
    fn start(state_dir: &Path) -> Host {
        let engine = TestOwner::start();
        let states = Arc::new(Mutex::new(Vec::new()));
        let told = Arc::clone(&states);
        let report: Report =
            Arc::new(move |report: PartReport| told.lock().unwrap().push((report.part, report.state)));
        let owner = engine.owner.clone();
        let env =
            Env { owner, report, state_dir: state_dir.to_owned(), ipv6_prefix: 64, interpreter: Weak::new() };
        Host { env, states, engine }
    }

    fn list(&self, url: &str) -> List {
        List::new(settings(url), self.env.clone(), Shown::default())
    }

    async fn rule_of(&self, client: &str) -> Option<Rule> {
        self.engine.rule_of(client).await
    }

    fn state(&self) -> PartState {
        self.states.lock().unwrap().last().unwrap().1.clone()
    }

    fn reason(&self) -> String {
        match self.state() {
            PartState::Degraded { reason } => reason,
            other => panic!("{other:?}"),
        }
    }
}

fn settings(url: &str) -> Settings {
    Settings {
        name: "drop".to_owned(),
        url: url.parse().unwrap(),
        refresh: Settings::REFRESH,
        format: parse::Format::Plain,
        credentials: None,
        transport: Transport::Secure,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_is_in_force_and_is_read_again_only_when_it_changed() {
    let dir = tempfile::tempdir().unwrap();
    let host = Host::start(dir.path());
    let (base, requests) = serve(|number, _| match number {
        1 => ok("ETag: \"a\"\r\nLast-Modified: Sun, 29 Nov 2026 08:00:00 GMT\r\n", LIST),
        2 => status("304 Not Modified", ""),
        _ => ok("", "203.0.113.5\n203.0.113.9\n"),
    });
    let mut list = host.list(&format!("{base}/drop.txt"));
    list.begin().await.unwrap();
    let pause = list.refresh(LIMITS).await.unwrap();
    assert!((Settings::REFRESH..Settings::REFRESH * 2).contains(&pause));
    assert_eq!(host.rule_of("203.0.113.5").await, Some(Rule::Blocklist));
    assert_eq!(host.rule_of("198.51.100.77").await, Some(Rule::Blocklist));
    assert_eq!(host.rule_of("192.0.2.10").await, None, "allowed");
    assert!(
        matches!(host.state(), PartState::Active { detail } if detail.starts_with("3 clients, read at "))
    );
    list.refresh(LIMITS).await.unwrap();
    assert!(matches!(host.state(), PartState::Active { .. }));
    let second = requests.lock().unwrap()[1].to_lowercase();
    assert!(
        second.contains("if-none-match: \"a\"") && second.contains("if-modified-since: sun, 29 nov"),
        "{second}"
    );
    list.refresh(LIMITS).await.unwrap();
    assert_eq!(host.rule_of("203.0.113.9").await, Some(Rule::Blocklist));
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_else_the_server_answers_the_old_list_stays_and_the_part_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let host = Host::start(dir.path());
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    let cases: Vec<(Answer, &str)> = vec![
        (status("404 Not Found", ""), "/drop.txt?… answered 404"),
        (status("500 Internal Server Error", ""), "answered 500"),
        (status("204 No Content", ""), "answered 204"),
        (ok("", "<html><body>Please log in</body></html>\n"), "line 1"),
        (ok("", "203.0.113.77\n0.0.0.0/0\n"), "line 2"),
        (ok("", ""), "no address"),
        (ok("Content-Encoding: gzip\r\n", "203.0.113.77\n"), "gzip"),
        (Answer::Whole("HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n203.0.113.77\n".into()), "error"),
        (Answer::Whole(format!("{chunked}d\r\n203.0.113.77\n\r\n")), "error"),
        (Answer::Whole("HTTP/1.0 200 OK\r\n\r\n203.0.113.77\n203.0.113.7".into()), "cut off"),
        (Answer::Whole("HTTP/1.1 200 OK\r\nContent-Length: 999999999\r\n\r\n".into()), "larger than"),
        (Answer::Endless(format!("{chunked}d\r\n203.0.113.77\n\r\n").replace(chunked, "")), "error"),
        (
            Answer::Endless("HTTP/1.0 200 OK\r\n\r\n".to_owned() + &"203.0.113.77\n".repeat(100)),
            "larger than",
        ),
        (Answer::Stuck("HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n203.0.113.77\n".into()), "after 1 s"),
        (Answer::Stuck(String::new()), "after 1 s"),
        (status("302 Found", "Location: /drop.txt\r\n"), "redirects more than"),
        (status("302 Found", "Location: http://192.0.2.1/list\r\n"), "without TLS"),
        (status("302 Found", "Location: file:///etc/passwd\r\n"), "can be used"),
        (status("302 Found", ""), "can be used"),
        (status("304 Not Modified", "X: 1\r\n"), ""),
    ];
    let answers = Mutex::new(cases.into_iter());
    let wanted = Arc::new(Mutex::new(String::new()));
    let said = Arc::clone(&wanted);
    let redirects = Mutex::new(0);
    let (base, _) = serve(move |number, _| {
        if number == 1 {
            return ok("ETag: \"a\"\r\n", LIST);
        }
        let mut redirects = redirects.lock().unwrap();
        if *redirects > 0 {
            *redirects -= 1;
            return status("302 Found", "Location: /drop.txt\r\n");
        }
        let (answer, part) = answers.lock().unwrap().next().unwrap();
        *redirects = if part.contains("redirects more") { 5 } else { 0 };
        *said.lock().unwrap() = part.to_owned();
        answer
    });
    let mut list = host.list(&format!("{base}/drop.txt?key=secret"));
    list.begin().await.unwrap();
    list.refresh(LIMITS).await.unwrap();
    let mut seen = 0;
    loop {
        let limits = Limits { time: Duration::from_secs(1), ..LIMITS };
        let pause = list.refresh(limits).await.unwrap();
        let part = wanted.lock().unwrap().clone();
        seen += 1;
        if part.is_empty() {
            break;
        }
        let reason = host.reason();
        assert!(reason.contains(&part), "{part:?} is not in: {reason}");
        assert!(reason.contains("3 clients) stays in force until") && !reason.contains("secret"), "{reason}");
        assert!((Duration::from_secs(60)..=Settings::REFRESH).contains(&pause));
        assert_eq!(host.rule_of("203.0.113.5").await, Some(Rule::Blocklist), "after {part}");
        assert_eq!(host.rule_of("203.0.113.77").await, None, "after {part}");
    }
    assert_eq!(seen, 20);
    assert!(matches!(host.state(), PartState::Active { .. }), "unchanged: all is well again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_has_the_list_before_the_server_answers() {
    let dir = tempfile::tempdir().unwrap();
    let (base, requests) = serve(|number, _| match number {
        1 => ok("ETag: \"a\"\r\n", LIST),
        2 => status("503 Service Unavailable", "Retry-After: 600\r\n"),
        _ => status("304 Not Modified", ""),
    });
    let url = format!("{base}/drop.txt");
    {
        let host = Host::start(dir.path());
        host.list(&url).refresh(LIMITS).await.unwrap();
    }
    let host = Host::start(dir.path());
    let mut list = host.list(&url);
    list.begin().await.unwrap();
    assert_eq!(host.rule_of("203.0.113.5").await, Some(Rule::Blocklist));
    assert_eq!(list.refresh(LIMITS).await.unwrap(), Duration::from_secs(600), "as the server asks");
    assert!(host.reason().contains("answered 503"));
    list.refresh(LIMITS).await.unwrap();
    assert!(requests.lock().unwrap()[2].to_lowercase().contains("if-none-match"));
    assert!(matches!(host.state(), PartState::Active { .. }));
    // Another URL, or a text that somebody changed, is not this list.
    let mut other = host.list(&format!("{base}/other.txt"));
    other.begin().await.unwrap();
    assert!(matches!(host.state(), PartState::Waiting { .. }));
    std::fs::write(dir.path().join("blocklists/drop.list"), "203.0.113.99\n").unwrap();
    host.list(&url).begin().await.unwrap();
    assert_eq!(host.rule_of("203.0.113.99").await, None);
    assert!(matches!(host.state(), PartState::Waiting { .. }));
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_go_to_the_lists_own_server_alone() {
    let dir = tempfile::tempdir().unwrap();
    let host = Host::start(dir.path());
    let (elsewhere, asked_elsewhere) = serve(|_, _| ok("", LIST));
    let (base, asked) = serve(move |_, _| status("301 Moved", &format!("Location: {elsewhere}/x\r\n")));
    let file = dir.path().join("login");
    std::fs::write(&file, "user:pass\n").unwrap();
    let mut settings = settings(&format!("{base}/drop.txt"));
    settings.credentials = Some(UrlFrom::File(file.clone()));
    let mut list = List::new(settings.clone(), host.env.clone(), Shown::default());
    list.refresh(LIMITS).await.unwrap();
    assert!(matches!(host.state(), PartState::Active { .. }), "{:?}", host.state());
    assert!(asked.lock().unwrap()[0].to_lowercase().contains("authorization: basic dxnlcjpwyxnz"));
    assert!(!asked_elsewhere.lock().unwrap()[0].to_lowercase().contains("authorization"));
    std::fs::remove_file(&file).unwrap();
    list.refresh(LIMITS).await.unwrap();
    assert!(host.reason().contains("could not read the credentials in "), "{}", host.reason());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_is_taken_out_is_let_go() {
    let dir = tempfile::tempdir().unwrap();
    let host = Host::start(dir.path());
    let (base, _) = serve(|_, _| ok("", LIST));
    let settings = settings(&format!("{base}/drop.txt"));
    let mut lists = Lists::start(host.env.clone(), std::slice::from_ref(&settings));
    let begin = std::time::Instant::now();
    while host.rule_of("203.0.113.5").await.is_none() {
        assert!(begin.elapsed() < LIMITS.time, "{:?}", host.state());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    lists.change(&[]).await;
    assert!(matches!(host.state(), PartState::Off { .. }));
    assert!(lists.shown().lock().unwrap().is_empty());
    // The bans go after the grace in which statements may still be under way.
    let begin = std::time::Instant::now();
    while host.rule_of("203.0.113.5").await.is_some() {
        assert!(begin.elapsed() < Duration::from_secs(60), "still banned");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert!(!dir.path().join("blocklists/drop.list").exists());
}

/// Its task may be at work on another thread.
#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_is_taken_out_says_nothing_afterwards() {
    let dir = tempfile::tempdir().unwrap();
    let mut host = Host::start(dir.path());
    let (base, _) = serve(|_, _| ok("", LIST));
    let said = host.env.report.clone();
    let (begun, mut begins) = tokio::sync::mpsc::unbounded_channel();
    let (go, may_go) = std::sync::mpsc::channel();
    let may_go = Mutex::new(may_go);
    host.env.report = Arc::new(move |report: PartReport| {
        if matches!(report.state, PartState::Active { .. }) {
            begun.send(()).unwrap();
            may_go.lock().unwrap().recv().unwrap();
        }
        said(report);
    });
    let mut lists = Lists::start(host.env.clone(), &[settings(&format!("{base}/drop.txt"))]);
    begins.recv().await.unwrap();
    {
        let mut change = std::pin::pin!(lists.change(&[]));
        let polled = futures::poll!(change.as_mut());
        go.send(()).unwrap();
        if polled.is_pending() {
            change.await;
        }
    }
    let begin = std::time::Instant::now();
    while host.states.lock().unwrap().len() < 3 {
        assert!(begin.elapsed() < LIMITS.time, "{:?}", host.states.lock().unwrap());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(matches!(host.state(), PartState::Off { .. }), "{:?}", host.states.lock().unwrap());
    assert!(lists.shown().lock().unwrap().is_empty());
}
