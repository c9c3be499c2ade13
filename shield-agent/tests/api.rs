//! The HTTP API over real listeners and a fake backend: every operation against `docs/openapi.json`, authorisation, slow
//! and many clients, the event stream.

#[expect(clippy::unwrap_used, reason = "a helper of tests: what fails here fails the test that called it")]
#[expect(dead_code, reason = "every test file compiles it anew and uses a part")]
mod support;

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use shield_agent::test_support::api::listen::Limits;
use shield_agent::test_support::api::operation::Operation;
use shield_agent::test_support::api::types::{Ban, BanPage, Status};
use shield_agent::test_support::cli::client::{AgentClient, ClientError, Endpoint, Message};
use shield_engine::backoff::Term;
use shield_engine::event::Command;
use shield_engine::verdict::Rule;
use support::schema::Document;
use support::{Running, SECRET_LINE, Setup, TOKEN, raw, request};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Every path with a request that succeeds.
fn everything() -> Vec<(&'static str, &'static str, String, Option<Value>)> {
    let get = |path: &'static str, query: &str| ("get", path, format!("{path}{query}"), None);
    let post = |path: &'static str, body: Value| ("post", path, path.to_owned(), Some(body));
    let clients = json!(["192.0.2.7", "2001:db8::/64"]);
    vec![
        get("/whoami", ""),
        get("/status", ""),
        get("/bans", ""),
        get("/bans", "?q=192.0.2.&rule=probing&sort=ends&limit=2&offset=2"),
        get("/export", "?format=cloudflare"),
        get("/allow", ""),
        get("/labels", ""),
        get("/labs", ""),
        get("/clients", "?n=5"),
        get("/clients", "?n=1000"),
        get("/explain", "?client=192.0.2.1"),
        get("/explain", "?client=2001%3Adb8%3A%3A%2F64&at=1800000000000"),
        get("/events/recent", "?limit=3&kind=banned"),
        get("/sites", ""),
        get("/bans", "?site=shop.example.org"),
        get("/history", ""),
        get("/history", "?range=24h"),
        get("/config", ""),
        get("/canary", ""),
        get("/fleet", ""),
        post("/fleet/forget", json!({"origin": "web-2"})),
        post("/fleet/trust", json!({"origin": "web-2"})),
        post("/pause", json!({"secs": 1800, "reason": "a load test"})),
        post("/resume", json!({"reason": "it is over"})),
        post("/ban", json!({"clients": clients, "term": {"secs": 60}, "reason": "scraping"})),
        post("/ban", json!({"clients": clients, "term": "permanent"})),
        post("/unban", json!({"clients": clients, "forget": true})),
        post("/import", json!({"bans": [{"client": "192.0.2.8", "term": "next", "reason": null}]})),
        post("/allow", json!({"clients": clients})),
        post("/allow", json!({"clients": clients, "secs": 604_800, "reason": "audit"})),
        post("/disallow", json!({"clients": clients, "reason": "moved"})),
    ]
}

#[tokio::test]
async fn every_endpoint_answers_as_the_document_says() {
    let running = Setup::default().start().await;
    running.publish_some_notices();
    let document = Document::load();
    let mut seen = std::collections::BTreeSet::new();
    for (method, path, target, body) in everything() {
        let answer = request(&running, method, &target, body.as_ref(), Some(TOKEN)).await;
        assert_eq!(answer.status, 200, "{method} {target}: {}", answer.body);
        document.check_request(path, method, body.as_ref());
        document.check_answer(path, method, 200, &answer.json());
        seen.insert((path, method));
    }
    seen.insert(("/events", "get"));
    let client = running.unix_client();
    let over_the_socket = [
        (Operation::CanaryStart, "/canary/start", json!({"name": "a", "text": "", "base": "00"})),
        (Operation::CanaryPromote, "/canary/promote", json!({"min_observed_secs": 60})),
        (Operation::CanaryAbort, "/canary/abort", json!({})),
        (Operation::Record, "/record", json!({"step": "upgraded", "text": "0.1.0 to 0.2.0"})),
    ];
    for (operation, path, body) in over_the_socket {
        let refused = request(&running, "post", path, Some(&body), Some(TOKEN)).await;
        assert_eq!(refused.status, 403, "{path}: {}", refused.body);
        let answer: Value = client.post(operation, &body).await.unwrap();
        document.check_answer(path, "post", 200, &answer);
        seen.insert((path, "post"));
    }
    let reloaded: Value = running.unix_client().post(Operation::Reload, &json!({})).await.unwrap();
    document.check_answer("/reload", "post", 200, &reloaded);
    seen.insert(("/reload", "post"));
    assert_eq!(seen, document.operations(), "every operation of the document is tried, and no other");
}

/// The head and the body of `GET /api/v1/export`.
async fn export(running: &Running, format: &str, tag: Option<&str>) -> (String, String) {
    let tag = tag.map(|tag| format!("if-none-match: {tag}\r\n")).unwrap_or_default();
    let head = format!("GET /api/v1/export?format={format} HTTP/1.1\r\nhost: localhost\r\n{tag}\r\n");
    let answer = raw(running, &head).await;
    let (head, body) = answer.split_once("\r\n\r\n").expect("an answer has a head");
    (head.to_owned(), body.to_owned())
}

#[tokio::test]
async fn a_list_that_did_not_change_is_not_sent_again() {
    let running = Setup::default().start().await;
    running.backend.hand_out(&["192.0.2.7", "2001:db8::/64"]);
    let (head, body) = export(&running, "plain", None).await;
    assert_eq!(body, "192.0.2.7\n2001:db8::/64\n");
    assert!(head.contains("content-type: text/plain"), "{head}");
    let tag_of = |head: &str| head.lines().find_map(|l| l.strip_prefix("etag: ")).unwrap().to_owned();
    let tag = tag_of(&head);
    for known in [tag.clone(), format!("W/{tag}"), format!("\"other\", {tag}"), "*".to_owned()] {
        let (head, body) = export(&running, "plain", Some(&known)).await;
        assert!(
            head.starts_with("HTTP/1.1 304") && tag_of(&head) == tag && body.is_empty(),
            "{known}: {head}"
        );
    }
    assert_eq!(running.backend.edge_lists(), 1, "nobody was asked for what was not sent");
    let (head, body) = export(&running, "haproxy-map", Some(&tag)).await;
    assert!(head.starts_with("HTTP/1.1 200"), "the other format has another tag: {head}");
    assert_eq!(body, "192.0.2.7 1\n2001:db8::/64 1\n");
    running.backend.hand_out(&["192.0.2.8"]);
    // A text of before may be shared for a quarter of a second.
    let deadline = Instant::now() + Duration::from_secs(10);
    while export(&running, "plain", Some(&tag)).await.1 != "192.0.2.8\n" {
        assert!(Instant::now() < deadline, "the change does not show");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let (head, body) = export(&running, "nginx", None).await;
    assert!(head.starts_with("HTTP/1.1 400") && body.contains("haproxy-map"), "{head} {body}");
}

#[tokio::test]
async fn many_who_poll_share_one_list() {
    let running = Setup::default().start().await;
    running.backend.hand_out(&["192.0.2.7"]);
    // Two formats by turns once had it made for each request.
    let formats = [("plain", "192.0.2.7\n"), ("haproxy-map", "192.0.2.7 1\n")].into_iter().cycle();
    let polls = formats.take(50).map(async |(format, text)| (export(&running, format, None).await.1, text));
    for (body, text) in futures::future::join_all(polls).await {
        assert_eq!(body, text);
    }
    assert_eq!(running.backend.edge_lists(), 2, "one for each format");
}

#[tokio::test]
async fn refusals_are_described_too() {
    let running = Setup::default().start().await;
    let document = Document::load();
    let many = json!({"clients": vec!["192.0.2.7"; 10_001]});
    let long = json!({"clients": ["192.0.2.7"], "reason": "x".repeat(1_001)});
    let cases = [
        ("get", "/bans?limit=0", None, "/bans", 400, "between 1 and 1000"),
        ("get", "/bans?limit=1001", None, "/bans", 400, "between 1 and 1000"),
        ("get", "/bans?limit=many", None, "/bans", 400, "invalid digit"),
        ("get", "/bans?sort=size", None, "/bans", 400, "unknown variant"),
        ("get", "/bans?cursor=x", None, "/bans", 400, "`cursor`"),
        ("get", "/bans?cursor=1&offset=1", None, "/bans", 400, "not both"),
        ("get", "/bans?nonsense=1", None, "/bans", 400, "nonsense"),
        ("get", "/history?range=1y", None, "/history", 400, "unknown variant"),
        ("get", "/explain", None, "/explain", 400, "client"),
        ("get", "/explain?client=example.org", None, "/explain", 400, "example.org"),
        ("post", "/ban", Some(json!({"clients": []})), "/ban", 400, "0 entries"),
        ("post", "/ban", Some(many), "/ban", 400, "10001 entries"),
        ("post", "/ban", Some(json!({"clients": ["nobody"]})), "/ban", 400, "nobody"),
        (
            "post",
            "/ban",
            Some(json!({"clients": ["192.0.2.7"], "term": {"secs": 0}})),
            "/ban",
            400,
            "permanent",
        ),
        ("post", "/ban", Some(json!({"clients": ["192.0.2.7"], "tern": "next"})), "/ban", 400, "tern"),
        ("post", "/ban", Some(long), "/ban", 400, "1000 characters"),
        ("post", "/ban", Some(json!({"clients": "x".repeat(5 * 1024 * 1024)})), "/ban", 413, "too large"),
        ("post", "/import", Some(json!({"bans": []})), "/import", 400, "0 entries"),
    ];
    for (method, target, body, path, status, words) in cases {
        let answer = request(&running, method, target, body.as_ref(), Some(TOKEN)).await;
        assert_eq!(answer.status, status, "{method} {target}: {}", answer.body);
        document.check_answer(path, method, status, &answer.json());
        let message = answer.json()["message"].as_str().unwrap().to_owned();
        assert!(message.contains(words), "{method} {target}: {message}");
    }
    let unknown = request(&running, "get", "/nothing", None, None).await;
    assert_eq!((unknown.status, unknown.json()["code"].as_str()), (404, Some("not_found")));
    let wrong_method = request(&running, "post", "/status", None, Some(TOKEN)).await;
    assert_eq!(
        (wrong_method.status, wrong_method.json()["code"].as_str()),
        (405, Some("method_not_allowed"))
    );
}

#[tokio::test]
async fn changes_reach_the_engine_as_they_were_meant() {
    let running = Setup::default().start().await;
    let client = running.unix_client();
    let post = async |operation, body: Value| client.post::<Value>(operation, &body).await.unwrap();
    post(Operation::Ban, json!({"clients": ["192.0.2.7"], "term": "permanent", "reason": "  "})).await;
    post(Operation::Import, json!({"bans": [{"client": "198.51.100.0/24", "term": {"secs": 5}}]})).await;
    post(Operation::Unban, json!({"clients": ["::ffff:192.0.2.7"]})).await;
    let commands = running.backend.commands();
    let clients = |text: &str| vec![text.parse().unwrap()];
    assert_eq!(
        commands[0],
        Command::Ban {
            clients: clients("192.0.2.7"),
            term: Some(Term::Permanent),
            reason: None,
            rule: Rule::Operator
        }
    );
    let Command::Import { bans, .. } = &commands[1] else { panic!("{commands:?}") };
    assert_eq!((bans[0].client.to_string().as_str(), bans[0].term), ("198.51.100.0/24", Some(Term::Secs(5))));
    // An unban lets the client begin afresh, unless it is told to keep the offences.
    assert_eq!(commands[2], Command::Unban { clients: clients("192.0.2.7"), forget: true, reason: None });
}

#[tokio::test]
async fn pages_follow_each_other_without_loss_or_repeat() {
    let running = Setup::default().start().await;
    let client = running.unix_client();
    let mut seen: Vec<Ban> = Vec::new();
    let mut params = vec![("limit", "2".to_owned())];
    loop {
        let page: BanPage = client.get(Operation::Bans, &params).await.unwrap();
        assert_eq!(page.total, support::BANS as u64);
        seen.extend(page.bans);
        let Some(next) = page.next else { break };
        params = vec![("limit", "2".to_owned()), ("cursor", next)];
    }
    let mut serials: Vec<u64> = seen.iter().map(|ban| ban.serial).collect();
    serials.dedup();
    assert_eq!(serials.len(), support::BANS);
}

/// Over real sockets: TCP with and without the token, and the control socket.
#[tokio::test]
async fn changes_over_tcp_need_the_token() {
    let running = Setup::default().start().await;
    let ban = json!({"clients": ["192.0.2.7"]});
    for (method, _, target, body) in everything() {
        let is_read = method == "get";
        for (token, expected) in
            [(None, if is_read { 200 } else { 401 }), (Some(TOKEN), 200), (Some("wrong"), 401)]
        {
            let answer = request(&running, method, &target, body.as_ref(), token).await;
            assert_eq!(answer.status, expected, "{method} {target} {token:?}");
        }
    }
    assert!(running.unix_client().post::<Value>(Operation::Ban, &ban).await.is_ok());
    let whoami = |answer: support::Answer| answer.json()["may_change"].as_bool().unwrap();
    assert!(!whoami(request(&running, "get", "/whoami", None, None).await));
    assert!(whoami(request(&running, "get", "/whoami", None, Some(TOKEN)).await));
}

/// Lines of the log may hold a secret in a query string: whoever may only read is shown none, and no list has them.
#[tokio::test]
async fn lines_of_the_log_are_for_those_who_may_change_something() {
    let running = Setup::default().start().await;
    let bans = request(&running, "get", "/bans", None, Some(TOKEN)).await;
    assert!(!bans.body.contains(SECRET_LINE), "{}", bans.body);
    let is_evident = |ban: &&Value| !ban["evidence"].is_null();
    let client = bans.json()["bans"].as_array().unwrap().iter().find(is_evident).unwrap()["client"].clone();
    let target = format!("/explain?client={}", client.as_str().unwrap());
    let lines = |answer: &Value| answer["ban"]["evidence"]["lines"].clone();
    assert_eq!(lines(&request(&running, "get", &target, None, None).await.json()), Value::Null);
    let with_token = request(&running, "get", &target, None, Some(TOKEN)).await.json();
    assert_eq!(lines(&with_token), json!([SECRET_LINE]));
    let params = [("client", client.as_str().unwrap().to_owned())];
    let over_the_socket: Value = running.unix_client().get(Operation::Explain, &params).await.unwrap();
    assert_eq!(lines(&over_the_socket), json!([SECRET_LINE]));
}

/// The token lets somebody ban and lift; the configuration is for whoever administers the server.
#[tokio::test]
async fn a_reload_is_asked_for_over_the_control_socket_alone() {
    let running = Setup::default().start().await;
    for (token, expected) in [(None, 401), (Some("wrong"), 401), (Some(TOKEN), 403)] {
        let answer = request(&running, "post", "/reload", None, token).await;
        assert_eq!(answer.status, expected, "{token:?}: {}", answer.body);
    }
    assert!(running.unix_client().post::<Value>(Operation::Reload, &json!({})).await.is_ok());
}

#[tokio::test]
async fn beyond_loopback_reading_needs_the_token_but_the_page_loads() {
    let running = Setup { listen: "0.0.0.0:0", ..Setup::default() }.start().await;
    let get = async |target: &str, token| request(&running, "get", target, None, token).await.status;
    assert_eq!(get("/status", None).await, 401);
    assert_eq!(get("/events", None).await, 401);
    assert_eq!(get("/status", Some(TOKEN)).await, 200);
    let path =
        async |path: &str| raw(&running, &format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n")).await;
    assert!(path("/metrics").await.starts_with("HTTP/1.1 401"));
    assert!(path("/").await.contains("the page"));
}

#[tokio::test]
async fn a_foreign_host_header_gets_nothing() {
    let running = Setup::default().start().await;
    for path in ["/", "/metrics", "/api/v1/status", "/api/v1/events"] {
        for host in ["host: evil.example\r\n", "host: 127.0.0.1.evil.example:8080\r\n", "host:\r\n", ""] {
            let answer = raw(&running, &format!("GET {path} HTTP/1.1\r\n{host}\r\n")).await;
            let refused = answer.starts_with("HTTP/1.1 421") || answer.starts_with("HTTP/1.1 400");
            assert!(refused, "{path} {host:?}: {answer}");
        }
    }
    let named = raw(&running, "GET /api/v1/whoami HTTP/1.1\r\nhost: shield.example.org:8080\r\n\r\n").await;
    assert!(named.starts_with("HTTP/1.1 200"), "{named}");
}

#[tokio::test]
async fn every_answer_carries_the_headers_and_none_invites_other_origins() {
    let running = Setup::default().start().await;
    for path in ["/", "/metrics", "/api/v1/status", "/api/v1/nothing"] {
        let origin = "origin: http://evil.example\r\n";
        let answer = raw(&running, &format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n{origin}\r\n")).await;
        let head = answer.split("\r\n\r\n").next().unwrap().to_ascii_lowercase();
        for header in [
            "x-content-type-options: nosniff",
            "referrer-policy: no-referrer",
            "x-frame-options: deny",
            "content-security-policy: ",
            "cross-origin-resource-policy: same-origin",
        ] {
            assert!(head.contains(header), "{path} lacks {header}: {head}");
        }
        assert!(!head.contains("access-control-"), "{path}: {head}");
    }
}

/// 200 clients that never finish their request's head, and as many that do not read, must not keep others waiting.
#[tokio::test]
async fn slow_clients_starve_nobody_and_are_disconnected() {
    let limits = Limits { head_timeout: Duration::from_secs(2), ..Limits::default() };
    let running = Setup { limits, ..Setup::default() }.start().await;
    let mut slow = Vec::new();
    for _ in 0..200 {
        let mut stream = TcpStream::connect(running.tcp).await.unwrap();
        stream.write_all(b"GET /api/v1/status HTTP/1.1\r\nhost: loc").await.unwrap();
        slow.push(stream);
    }
    let client = running.unix_client();
    for _ in 0..20 {
        let began = Instant::now();
        assert_eq!(request(&running, "get", "/status", None, None).await.status, 200);
        client.get::<Status>(Operation::Status, &[]).await.unwrap();
        assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    }
    // The head's time limit is 2 s; ten leave room for a busy machine.
    let all_closed = async {
        for stream in &mut slow {
            let mut rest = Vec::new();
            let _ = stream.read_to_end(&mut rest).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), all_closed).await.expect("slow clients are disconnected");
}

#[tokio::test]
async fn connections_beyond_the_limit_are_closed_at_once() {
    let limits = Limits { max_connections: 3, ..Limits::default() };
    let running = Setup { limits, ..Setup::default() }.start().await;
    let mut held = Vec::new();
    for _ in 0..3 {
        let mut stream = TcpStream::connect(running.tcp).await.unwrap();
        stream.write_all(b"GET /api/v1/whoami HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
        assert!(stream.read(&mut [0; 64]).await.unwrap() > 0, "served, and kept open");
        held.push(stream);
    }
    let mut beyond = TcpStream::connect(running.tcp).await.unwrap();
    let _ = beyond.write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
    let mut rest = Vec::new();
    let _ = beyond.read_to_end(&mut rest).await;
    assert!(rest.is_empty());
    assert!(
        running.unix_client().get::<Status>(Operation::Status, &[]).await.is_ok(),
        "the control socket has its own limit"
    );
}

#[tokio::test]
async fn an_engine_that_does_not_answer_is_a_timeout_not_a_hang() {
    let running = Setup { request_timeout: Duration::from_millis(300), ..Setup::default() }.start().await;
    running.backend.hang();
    let answer = request(&running, "get", "/bans", None, None).await;
    assert_eq!((answer.status, answer.json()["code"].as_str()), (408, Some("timeout")));
    let whoami = request(&running, "get", "/whoami", None, None).await;
    assert_eq!(whoami.status, 200, "what needs no engine is still answered");
}

#[tokio::test]
async fn internal_errors_do_not_reveal_their_causes() {
    let running = Setup::default().start().await;
    running.backend.fail("reading /var/lib/shield/shield.db: disk I/O error");
    let answer = request(&running, "get", "/bans", None, None).await;
    assert_eq!(answer.status, 500);
    assert!(!answer.body.contains("shield.db"), "{}", answer.body);
    Document::load().check_answer("/bans", "get", 500, &answer.json());
}

/// Waits at most 5 s for the next message that `pick` accepts; the agent sends a snapshot a second.
async fn next<T>(
    stream: &mut shield_agent::test_support::cli::client::EventStream,
    pick: impl Fn(Message) -> Option<T>,
) -> T {
    let search = async {
        loop {
            if let Some(found) =
                pick(stream.next().await.expect("it is not broken").expect("the stream goes on"))
            {
                return found;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(5), search).await.expect("a message in time")
}

#[tokio::test]
async fn the_stream_starts_with_a_snapshot_and_brings_notices_and_more_snapshots() {
    let running = Setup::default().start().await;
    let mut stream = running.unix_client().events(None).await.unwrap();
    let first = stream.next().await.unwrap().unwrap();
    assert!(matches!(first, Message::Snapshot(_)), "{first:?}");
    running.publish_some_notices();
    let notice = next(&mut stream, |message| match message {
        Message::Notice(event) => Some(event),
        _ => None,
    })
    .await;
    assert_eq!(notice.kind, "banned");
    for _ in 0..2 {
        next(&mut stream, |message| matches!(message, Message::Snapshot(_)).then_some(())).await;
    }
}

#[tokio::test]
async fn streams_messages_are_as_the_document_says() {
    let running = Setup::default().start().await;
    let document = Document::load();
    let mut stream = TcpStream::connect(running.tcp).await.unwrap();
    stream.write_all(b"GET /api/v1/events HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    let mut text = String::new();
    let mut buffer = vec![0; 65_536];
    let deadline = Instant::now() + Duration::from_secs(5);
    let mut published = false;
    while !(text.contains("event: snapshot") && text.contains("event: notice")) {
        assert!(Instant::now() < deadline, "{text}");
        let count = stream.read(&mut buffer).await.unwrap();
        text.push_str(&String::from_utf8_lossy(&buffer[..count]));
        if !published && text.contains("event: snapshot") {
            running.publish_some_notices();
            published = true;
        }
    }
    assert!(text.to_ascii_lowercase().contains("content-type: text/event-stream"));
    let data = |event: &str| -> Value {
        let message =
            text.split("\n\n").find(|message| message.contains(&format!("event: {event}"))).unwrap();
        let line = message.lines().find_map(|line| line.strip_prefix("data: ")).unwrap();
        serde_json::from_str(line).unwrap()
    };
    document.check("Snapshot", &data("snapshot"));
    document.check("Event", &data("notice"));
}

#[tokio::test]
async fn a_stream_resumes_where_it_was() {
    let running = Setup::default().start().await;
    running.publish_some_notices();
    let client = running.unix_client();
    let ids: Vec<u64> =
        running.feed.recent(100, None, None).events.iter().rev().map(|event| event.id).collect();
    let mut stream = client.events(Some(ids[0])).await.unwrap();
    let mut resumed = Vec::new();
    while resumed.len() < ids.len() - 1 {
        let id = next(&mut stream, |message| match message {
            Message::Notice(event) => Some(event.id),
            Message::Gap(gap) => panic!("{gap:?}"),
            Message::Snapshot(_) => None,
        });
        resumed.push(id.await);
    }
    assert_eq!(resumed, ids[1..]);
    let mut from_before = client.events(Some(1)).await.unwrap();
    next(&mut from_before, |message| matches!(message, Message::Gap(_)).then_some(())).await;
}

#[tokio::test]
async fn streams_are_bounded_and_freed() {
    let running = Setup { max_streams: 2, ..Setup::default() }.start().await;
    let client = running.unix_client();
    let first = client.events(None).await.unwrap();
    let _second = client.events(None).await.unwrap();
    let refused = client.events(None).await.unwrap_err();
    assert!(matches!(&refused, ClientError::Refused(body) if body.code == "too_many_streams"), "{refused}");
    drop(first);
    // The server notices a closed connection when it next looks: at the latest with the next snapshot.
    let deadline = Instant::now() + Duration::from_secs(5);
    while client.events(None).await.is_err() {
        assert!(Instant::now() < deadline, "the slot of a closed stream comes free");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn many_readers_cost_the_engine_few_readings() {
    let running = Setup::default().start().await;
    let client = running.unix_client();
    client.get::<Status>(Operation::Status, &[]).await.unwrap();
    let before = running.backend.views();
    let began = Instant::now();
    for _ in 0..300 {
        client.get::<Status>(Operation::Status, &[]).await.unwrap();
    }
    let readings = running.backend.views() - before;
    let allowed = began.elapsed().as_millis() as u64 / 100 + 2 + began.elapsed().as_secs();
    assert!(readings <= allowed, "{readings} readings in {:?}", began.elapsed());
}

#[tokio::test]
async fn the_history_marks_bans_and_anomalies() {
    let running = Setup::default().start().await;
    running.publish_some_notices();
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let history = request(&running, "get", "/history", None, None).await.json();
        let kinds: Vec<&str> =
            history["marks"].as_array().unwrap().iter().map(|mark| mark["kind"].as_str().unwrap()).collect();
        let has_points = history["rate"].as_array().unwrap().iter().any(|rate| !rate.is_null());
        if has_points && kinds.contains(&"bans") && kinds.contains(&"anomaly_started") {
            break;
        }
        // Sampled once a second, marked as it happens.
        assert!(Instant::now() < deadline, "{kinds:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn conditions_show_in_the_status() {
    let running = Setup::default().start().await;
    let status: Status = running.unix_client().get(Operation::Status, &[]).await.unwrap();
    assert_eq!(status.detector.blast_radius.as_deref(), Some("21 % of the clients"));
    assert_eq!(status.dropped.packets, 30);
}

#[tokio::test]
async fn the_client_passes_a_refusal_on() {
    let running = Setup::default().start().await;
    let endpoint = Endpoint::Tcp { addr: running.tcp, token: Some("wrong".into()) };
    let error = AgentClient::new(endpoint).get::<Value>(Operation::Status, &[]).await.unwrap_err();
    assert!(matches!(&error, ClientError::Denied(words) if words.contains("api-token")), "{error}");
}

#[tokio::test]
async fn it_stops_within_its_grace_though_streams_are_open() {
    let running: Running = Setup::default().start().await;
    let mut stream = running.unix_client().events(None).await.unwrap();
    stream.next().await.unwrap();
    let stopping = running.stop();
    tokio::time::timeout(Duration::from_secs(5), stopping).await.expect("streams do not hold up the end");
}

#[tokio::test]
async fn only_a_host_that_was_heard_can_be_forgotten() {
    let running = Setup::default().start().await;
    for path in ["/fleet/forget", "/fleet/trust"] {
        for (name, expected) in [("web-2", 200), ("web-9", 404), ("../x", 404)] {
            let body = json!({"origin": name});
            let answer = request(&running, "post", path, Some(&body), Some(TOKEN)).await;
            assert_eq!(answer.status, expected, "{path} {name}: {}", answer.body);
        }
    }
}
