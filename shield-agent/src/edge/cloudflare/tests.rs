//! The exporter against an account that behaves as Cloudflare documents, and as it should not: one change at a time for the whole
//! account, changes that go on after the answer, half of one made, refusals of every kind, nonsense.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request as HttpRequest, State};
use axum::response::{IntoResponse as _, Response};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::api::Api;
use super::plan::Wish;
use super::settings::Settings;
use super::sync::{Answer, Failure, FailureKind, Listed, Progress, Request, Step, Sync};
use crate::config::UrlFrom;
use shield_engine::event::PartState;

const OURS: &str = "shield@here";
/// Items of a page of the model, fewer than the API's so that there are several.
const PAGE: usize = 7;

fn settings(api: &str) -> Settings {
    Settings {
        account: "a".repeat(32),
        list: "b".repeat(32),
        token: UrlFrom::File("/nonexistent".into()),
        api: api.parse().unwrap(),
        max_items: 1_000,
        share: 0.25,
        comment: OURS.to_owned(),
    }
}

fn wishes(clients: &[&str]) -> Vec<Wish> {
    clients.iter().map(|client| Wish { client: client.parse().unwrap(), offences: 1 }).collect()
}

fn numbered(count: usize) -> Vec<Wish> {
    let name = |n: usize| format!("10.0.{}.{}", n / 250, n % 250);
    (0..count).map(|n| Wish { client: name(n).parse().unwrap(), offences: 1 }).collect()
}

/// What goes wrong with a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Nothing,
    /// 429, with `Retry-After`.
    Busy,
    /// 500 before anything was done.
    Error,
    /// Done, and the answer is lost.
    Lost,
    Denied,
    /// The change is accepted and fails with half of it made.
    Half,
    /// The change takes a hundred looks.
    Slow,
    /// The change never ends.
    Stuck,
}

/// An account with one list.
#[derive(Debug, Default)]
struct Cloud {
    items: BTreeMap<String, (String, String)>,
    capacity: usize,
    next_id: u64,
    running: Option<Running>,
    faults: VecDeque<Fault>,
    /// Items that no list takes.
    poison: BTreeSet<String>,
}

#[derive(Debug)]
struct Running {
    id: String,
    looks_left: u64,
    end: Progress,
}

impl Cloud {
    fn with(items: &[(&str, &str)], capacity: usize) -> Cloud {
        let mut cloud = Cloud { capacity, ..Cloud::default() };
        for (ip, comment) in items {
            cloud.put((*ip).to_owned(), comment);
        }
        cloud
    }

    fn put(&mut self, ip: String, comment: &str) {
        self.next_id += 1;
        self.items.insert(ip, (format!("id{}", self.next_id), comment.to_owned()));
    }

    fn with_comment(&self, ours: bool) -> Vec<&str> {
        let mine = self.items.iter().filter(|(_, (_, comment))| (comment == OURS) == ours);
        mine.map(|(ip, _)| ip.as_str()).collect()
    }

    fn call(&mut self, request: &Request) -> Answer {
        let fault = self.faults.pop_front().unwrap_or(Fault::Nothing);
        let failed = |kind, secs: u64| {
            let retry_after = (secs > 0).then(|| Duration::from_secs(secs));
            Answer::Failed(Failure { kind, why: format!("{kind:?}"), retry_after })
        };
        match fault {
            Fault::Busy => return failed(FailureKind::Busy, 30),
            Fault::Error => return failed(FailureKind::Unknown, 0),
            Fault::Denied => return failed(FailureKind::Denied, 0),
            _ => {}
        }
        let answer = self.answer(request, fault);
        if fault == Fault::Lost { failed(FailureKind::Unknown, 0) } else { answer }
    }

    fn answer(&mut self, request: &Request, fault: Fault) -> Answer {
        match request {
            Request::Items { cursor } => {
                let from: usize = cursor.as_ref().map_or(0, |cursor| cursor.parse().unwrap());
                let page = self.items.iter().skip(from).take(PAGE);
                let listed = |(ip, (id, comment)): (&String, &(String, String))| Listed {
                    id: id.clone(),
                    client: ip.parse().ok(),
                    comment: comment.clone(),
                };
                let next = (from + PAGE < self.items.len()).then(|| (from + PAGE).to_string());
                Answer::Page { items: page.map(listed).collect(), next }
            }
            Request::Operation(id) => match &mut self.running {
                Some(running) if running.id == *id => {
                    if running.looks_left > 0 {
                        running.looks_left -= 1;
                        return Answer::Operation(Progress::Going);
                    }
                    let end = running.end.clone();
                    self.running = None;
                    Answer::Operation(end)
                }
                _ => Answer::Operation(Progress::Completed),
            },
            Request::Add(_) | Request::Remove(_) => self.change(request, fault),
        }
    }

    fn change(&mut self, request: &Request, fault: Fault) -> Answer {
        if let Some(running) = &mut self.running {
            // Whoever waits long enough finds it done.
            running.looks_left = running.looks_left.saturating_sub(1);
            if running.looks_left == 0 {
                self.running = None;
            }
            let why = "another operation is in progress".to_owned();
            return Answer::Failed(Failure { kind: FailureKind::Busy, why, retry_after: None });
        }
        self.next_id += 1;
        let id = format!("op{}", self.next_id);
        let mut end =
            if fault == Fault::Half { Progress::Failed("internal".into()) } else { Progress::Completed };
        let part = |all: usize| if fault == Fault::Half { all / 2 } else { all };
        match request {
            Request::Add(list) => {
                let new = list.iter().filter(|ip| !self.items.contains_key(*ip)).count();
                if self.items.len() + new > self.capacity {
                    end = Progress::Failed("maximum number of items exceeded".into());
                } else if list.iter().any(|ip| self.poison.contains(ip)) {
                    end = Progress::Failed("an item is invalid".into());
                } else {
                    for ip in list.iter().take(part(list.len())) {
                        let is_ours = self.items.get(ip).is_none_or(|(_, comment)| comment == OURS);
                        assert!(is_ours, "{ip} of others would be overwritten");
                        self.put(ip.clone(), OURS);
                    }
                }
            }
            Request::Remove(ids) => {
                let ids: Vec<&String> = ids.iter().take(part(ids.len())).collect();
                let goes = |id: &String, comment: &str| {
                    let is_named = ids.contains(&id);
                    assert!(!is_named || comment == OURS, "an item of others would be removed");
                    is_named
                };
                self.items.retain(|_, (id, comment)| !goes(id, comment));
            }
            _ => unreachable!("no change"),
        }
        let looks_left = match fault {
            Fault::Slow => 100,
            Fault::Stuck => 1_000,
            _ => 1,
        };
        self.running = Some(Running { id: id.clone(), looks_left, end });
        Answer::Begun { operation: id }
    }
}

/// Runs the calls on a clock that jumps, and keeps count of them.
struct World {
    cloud: Cloud,
    sync: Sync,
    now_ms: u64,
    calls: Vec<u64>,
    writes: Vec<u64>,
}

impl World {
    fn new(cloud: Cloud, settings: Settings) -> World {
        World { cloud, sync: Sync::new(settings), now_ms: 1, calls: Vec::new(), writes: Vec::new() }
    }

    fn once(&mut self) {
        match self.sync.step(self.now_ms) {
            Step::Call(request) => {
                self.calls.push(self.now_ms);
                if matches!(request, Request::Add(_) | Request::Remove(_)) {
                    self.writes.push(self.now_ms);
                }
                let answer = self.cloud.call(&request);
                self.now_ms += 20;
                self.sync.done(answer, self.now_ms);
            }
            Step::WaitUntil(at_ms) => {
                assert!(at_ms > self.now_ms, "it spins");
                self.now_ms = at_ms;
            }
        }
    }

    fn run_for(&mut self, ms: u64) {
        let end = self.now_ms + ms;
        while self.now_ms < end {
            self.once();
        }
    }

    fn run_until_done(&mut self) {
        let end = self.now_ms + 6 * 3_600_000;
        while !self.sync.is_done() {
            assert!(self.now_ms < end, "it does not come to an end: {:?}", self.sync.state());
            self.once();
        }
    }
}

#[test]
fn a_list_follows_the_bans_and_leaves_others_items_alone() {
    let cloud =
        Cloud::with(&[("198.51.100.1", "a colleague's"), ("192.0.2.9", OURS), ("192.0.2.7", "mine")], 100);
    let mut world = World::new(cloud, settings("https://example.org"));
    world.sync.want(wishes(&["192.0.2.7", "192.0.2.8", "2001:db8::/64", "2001:db8::1/128"]));
    world.run_until_done();
    assert_eq!(
        world.cloud.with_comment(true),
        ["192.0.2.8", "2001:db8::/64"],
        "192.0.2.9 of an earlier run is gone"
    );
    assert_eq!(world.cloud.with_comment(false), ["192.0.2.7", "198.51.100.1"]);
    let PartState::Active { detail } = world.sync.state() else { panic!("{:?}", world.sync.state()) };
    assert_eq!(detail, "2 clients in the list, 0 changes pending, 1 ban not in it");
    let calls = world.calls.len();
    world.sync.want(wishes(&["192.0.2.8"]));
    world.run_until_done();
    assert_eq!(world.cloud.with_comment(true), ["192.0.2.8"]);
    assert!(world.calls.len() - calls <= 5, "one read for the ids, one change, looks at it");
}

#[test]
fn an_idle_list_costs_a_read_in_ten_minutes() {
    let mut world = World::new(Cloud::with(&[], 100), settings("https://example.org"));
    world.sync.want(wishes(&["192.0.2.7"]));
    world.run_until_done();
    let before = world.calls.len();
    world.run_for(3_600_000);
    assert!((5..=7).contains(&(world.calls.len() - before)), "{}", world.calls.len() - before);
}

#[test]
fn what_somebody_else_removed_comes_back() {
    let mut world = World::new(Cloud::with(&[], 100), settings("https://example.org"));
    world.sync.want(wishes(&["192.0.2.7"]));
    world.run_until_done();
    world.cloud.items.clear();
    world.run_for(700_000);
    assert_eq!(world.cloud.with_comment(true), ["192.0.2.7"]);
}

/// Changes come each second; there is one write in ten.
#[test]
fn changes_are_collected() {
    let mut world = World::new(Cloud::with(&[], 10_000), settings("https://example.org"));
    for n in 1..300 {
        world.sync.want(numbered(n));
        world.run_for(1_000);
    }
    let gaps = world.writes.windows(2).map(|pair| pair[1] - pair[0]);
    assert!(gaps.clone().all(|gap| gap >= 9_000), "{:?}", gaps.collect::<Vec<_>>());
    assert!(world.cloud.items.len() > 280);
}

#[test]
fn a_full_list_is_learned_from_the_refusal_and_is_a_state() {
    let mut world =
        World::new(Cloud::with(&[("198.51.100.1", "other")], 14), settings("https://example.org"));
    let mut wanted = numbered(40);
    wanted[33].offences = 5;
    let repeat = wanted[33].client.to_string();
    world.sync.want(wanted);
    world.run_until_done();
    assert_eq!(world.cloud.items.len(), 14, "all places are used");
    assert!(world.cloud.items.contains_key(&repeat), "who came back goes first");
    let PartState::Degraded { reason } = world.sync.state() else { panic!("{:?}", world.sync.state()) };
    assert!(reason.contains("the list is full (14 items)"), "{reason}");
    assert_eq!(world.sync.counts().left_out, 27);
}

#[test]
fn one_item_that_is_refused_does_not_keep_the_others_out() {
    let mut world = World::new(Cloud::with(&[], 1_000), settings("https://example.org"));
    let wanted = numbered(50);
    world.cloud.poison.insert(wanted[17].client.to_string());
    world.sync.want(wanted);
    world.run_until_done();
    assert_eq!(world.cloud.items.len(), 49);
    let PartState::Active { detail } = world.sync.state() else {
        panic!("not full: {:?}", world.sync.state())
    };
    assert_eq!(detail, "49 clients in the list, 0 changes pending, 1 ban not in it");
}

#[test]
fn a_wrong_token_is_a_state_at_once_and_is_not_hammered() {
    let mut cloud = Cloud::with(&[], 100);
    cloud.faults = vec![Fault::Denied; 1_000].into();
    let mut world = World::new(cloud, settings("https://example.org"));
    world.sync.want(wishes(&["192.0.2.7"]));
    world.once();
    assert!(matches!(world.sync.state(), PartState::Degraded { .. }), "{:?}", world.sync.state());
    world.run_for(3_600_000);
    assert!(world.calls.len() < 30, "{}", world.calls.len());
    world.cloud.faults.clear();
    world.run_until_done();
    assert!(matches!(world.sync.state(), PartState::Active { .. }));
}

#[test]
fn retry_after_is_obeyed_within_reason() {
    let mut cloud = Cloud::with(&[], 100);
    cloud.faults = vec![Fault::Busy].into();
    let mut world = World::new(cloud, settings("https://example.org"));
    world.sync.want(wishes(&["192.0.2.7"]));
    world.once();
    assert_eq!(world.sync.step(world.now_ms), Step::WaitUntil(world.now_ms + 30_000));
    let forever = Some(Duration::from_secs(u64::MAX / 10_000));
    let answer =
        Answer::Failed(Failure { kind: FailureKind::Busy, why: String::new(), retry_after: forever });
    world.sync.done(answer, world.now_ms);
    assert_eq!(world.sync.step(world.now_ms), Step::WaitUntil(world.now_ms + 3_600_000));
}

#[test]
fn a_list_without_an_end_is_not_read_for_ever() {
    let mut sync = Sync::new(settings("https://example.org"));
    let mut now_ms = 1;
    for _ in 0..20 {
        match sync.step(now_ms) {
            Step::WaitUntil(at_ms) => now_ms = at_ms,
            Step::Call(_) => sync.done(Answer::Page { items: Vec::new(), next: Some("x".into()) }, now_ms),
        }
    }
    let PartState::Degraded { reason } = sync.state() else { panic!("{:?}", sync.state()) };
    assert!(reason.contains("does not come to an end"), "{reason}");
}

fn fault() -> impl Strategy<Value = Fault> {
    prop_oneof![
        4 => Just(Fault::Nothing),
        1 => Just(Fault::Busy),
        1 => Just(Fault::Error),
        1 => Just(Fault::Lost),
        1 => Just(Fault::Denied),
        1 => Just(Fault::Half),
        1 => Just(Fault::Slow),
        1 => Just(Fault::Stuck),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(80))]

    /// Whatever goes wrong on the way, once it works the list holds what is wanted, others' items are as they were, and no five
    /// minutes had more calls than the share.
    #[test]
    fn it_comes_right_after_any_faults(
        faults in prop::collection::vec(fault(), 0..60),
        before in prop::collection::btree_map(0u8..40, any::<bool>(), 0..30),
        wanted in prop::collection::vec(prop::collection::btree_set(0u8..40, 0..30), 1..4),
    ) {
        let name = |n: &u8| format!("192.0.2.{n}");
        let mut cloud = Cloud::with(&[], 1_000);
        for (n, ours) in &before {
            cloud.put(name(n), if *ours { OURS } else { "other" });
        }
        let others: Vec<String> = cloud.with_comment(false).iter().map(|ip| (*ip).to_owned()).collect();
        cloud.faults = faults.into();
        let mut world = World::new(cloud, settings("https://example.org"));
        for list in &wanted {
            let list: Vec<String> = list.iter().map(name).collect();
            world.sync.want(wishes(&list.iter().map(String::as_str).collect::<Vec<_>>()));
            world.run_for(60_000);
        }
        world.cloud.faults.clear();
        // The account is in order again: what hung has ended.
        world.cloud.running = None;
        // An item that failed alone is tried again after an hour.
        world.run_for(2 * 3_600_000);
        world.run_until_done();
        let last: BTreeSet<String> = wanted[wanted.len() - 1].iter().map(name).collect();
        let ours: BTreeSet<String> = world.cloud.with_comment(true).iter().map(|ip| (*ip).to_owned()).collect();
        let expected: BTreeSet<String> = last.into_iter().filter(|ip| !others.contains(ip)).collect();
        prop_assert_eq!(ours, expected);
        prop_assert_eq!(world.cloud.with_comment(false), others);
        for from in &world.calls {
            let within = world.calls.iter().filter(|at| (*from..from + 300_000).contains(at)).count();
            prop_assert!(within <= 300, "{} calls in five minutes", within);
        }
    }
}

/// A server that speaks the documented HTTP over the model.
struct Server {
    api: String,
    cloud: Arc<Mutex<Cloud>>,
}

const TOKEN: &str = "correct-horse";

impl Server {
    async fn start(cloud: Cloud) -> Server {
        let cloud = Arc::new(Mutex::new(cloud));
        let router = Router::new().fallback(serve).with_state(Arc::clone(&cloud));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let api = format!("http://{}/client/v4/", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Server { api, cloud }
    }

    /// A server with one answer for everything.
    async fn saying(answer: impl Fn() -> Response + Clone + Send + std::marker::Sync + 'static) -> Server {
        let router = Router::new().fallback(async move || answer());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let api = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Server { api, cloud: Arc::default() }
    }
}

async fn serve(State(cloud): State<Arc<Mutex<Cloud>>>, request: HttpRequest) -> Response {
    let answer = |status: u16, body: Value| {
        let status = axum::http::StatusCode::from_u16(status).unwrap();
        (status, axum::Json(body)).into_response()
    };
    let refused = |status, code: i64, message: &str| {
        let errors = json!([{"code": code, "message": message}]);
        answer(status, json!({"success": false, "errors": errors, "messages": [], "result": null}))
    };
    if request.headers().get("authorization").is_none_or(|value| value != &format!("Bearer {TOKEN}")) {
        return refused(403, 10_000, "Authentication error");
    }
    let base = format!("/client/v4/accounts/{}/rules/lists/", "a".repeat(32));
    let (method, uri) = (request.method().clone(), request.uri().clone());
    let Some(path) = uri.path().strip_prefix(&base) else { return refused(404, 10_001, "no such account") };
    let body = axum::body::to_bytes(request.into_body(), 1 << 24).await.unwrap();
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    let items = format!("{}/items", "b".repeat(32));
    let texts = |list: &Value, key: &str| -> Vec<String> {
        list.as_array().unwrap().iter().map(|item| item[key].as_str().unwrap().to_owned()).collect()
    };
    let request = match (method.as_str(), path) {
        ("GET", path) if path == items => {
            let query = uri.query().unwrap_or_default();
            let cursor = query.split('&').find_map(|pair| pair.strip_prefix("cursor="));
            Request::Items { cursor: cursor.map(str::to_owned) }
        }
        ("POST", path) if path == items => Request::Add(texts(&body, "ip")),
        ("DELETE", path) if path == items => Request::Remove(texts(&body["items"], "id")),
        ("GET", path) if path.starts_with("bulk_operations/") => {
            Request::Operation(path["bulk_operations/".len()..].to_owned())
        }
        _ => return refused(404, 10_002, "no such list"),
    };
    let said = cloud.lock().unwrap().call(&request);
    let ok = |result: Value, cursors: Value| {
        answer(
            200,
            json!({"success": true, "errors": [], "messages": [], "result": result, "result_info": {"cursors": cursors}}),
        )
    };
    match said {
        Answer::Page { items, next } => {
            let item = |item: Listed| json!({"id": item.id, "ip": item.client.map(|c| c.to_string()), "comment": item.comment});
            ok(items.into_iter().map(item).collect(), json!({"after": next}))
        }
        Answer::Begun { operation } => ok(json!({"operation_id": operation}), Value::Null),
        Answer::Operation(Progress::Going) => ok(json!({"status": "running"}), Value::Null),
        Answer::Operation(Progress::Completed) => ok(json!({"status": "completed"}), Value::Null),
        Answer::Operation(Progress::Failed(why)) => {
            ok(json!({"status": "failed", "error": why}), Value::Null)
        }
        Answer::Failed(failure) => match failure.kind {
            FailureKind::Busy => {
                let mut busy = refused(429, 10_038, &failure.why);
                busy.headers_mut().insert("retry-after", "1".parse().unwrap());
                busy
            }
            FailureKind::Unknown => refused(500, 10_013, &failure.why),
            FailureKind::Denied => refused(403, 10_000, &failure.why),
            FailureKind::Refused => refused(400, 10_005, &failure.why),
        },
    }
}

async fn call(server: &Server, token: &str, request: Request) -> Answer {
    Api::new(&settings(&server.api), Duration::from_secs(2)).unwrap().call(token, &request).await
}

fn failure(answer: Answer) -> (FailureKind, String) {
    match answer {
        Answer::Failed(failure) => (failure.kind, failure.why),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn calls_are_as_documented() {
    let server = Server::start(Cloud::with(&[("192.0.2.9", "other"), ("a name", "x")], 100)).await;
    let Answer::Begun { operation } = call(&server, TOKEN, Request::Add(vec!["192.0.2.7".into()])).await
    else {
        panic!("not begun")
    };
    let busy = call(&server, TOKEN, Request::Add(vec!["192.0.2.8".into()])).await;
    let Answer::Failed(busy) = busy else { panic!("{busy:?}") };
    assert_eq!((busy.kind, busy.retry_after), (FailureKind::Busy, Some(Duration::from_secs(1))));
    assert!(
        busy.why.contains("Cloudflare answered 429: another operation is in progress (10038)"),
        "{}",
        busy.why
    );
    assert_eq!(
        call(&server, TOKEN, Request::Operation(operation)).await,
        Answer::Operation(Progress::Completed)
    );
    let Answer::Page { items, next: None } = call(&server, TOKEN, Request::Items { cursor: None }).await
    else {
        panic!("no page")
    };
    let ours = items.iter().find(|item| item.comment == OURS).unwrap();
    assert_eq!(ours.client, "192.0.2.7".parse().ok());
    assert!(items.iter().any(|item| item.client.is_none()), "what is no address is counted");
    let gone = call(&server, TOKEN, Request::Remove(vec![ours.id.clone()])).await;
    assert!(matches!(gone, Answer::Begun { .. }), "{gone:?}");
    assert!(server.cloud.lock().unwrap().with_comment(true).is_empty());
    let (kind, why) = failure(call(&server, "wrong", Request::Items { cursor: None }).await);
    assert_eq!(kind, FailureKind::Denied);
    assert!(why.contains("403 (the token must be valid") && !why.contains("wrong"), "{why}");
}

#[tokio::test]
async fn nonsense_of_any_size_is_an_error_that_says_so() {
    let text = |text: &'static str| move || text.into_response();
    let cases: [(&str, &str); 9] = [
        ("", "could not understand"),
        ("<!DOCTYPE html><html>", "<!DOCTYPE html>"),
        ("{}", "could not understand"),
        ("[]", "could not understand"),
        ("{\"success\":true}", "could not understand"),
        ("{\"success\":true,\"result\":{\"operation_id\":\"../../zones\"}}", "could not understand"),
        ("{\"success\":true,\"result\":{\"operation_id\":7}}", "could not understand"),
        ("{\"success\":true,\"result\":[{\"id\":7}]}", "could not understand"),
        ("\u{1b}[2J\u{7}", "could not understand"),
    ];
    for (body, expected) in cases {
        let server = Server::saying(text(body)).await;
        for request in
            [Request::Items { cursor: None }, Request::Add(Vec::new()), Request::Operation("x".into())]
        {
            let (kind, why) = failure(call(&server, TOKEN, request).await);
            assert_eq!(kind, FailureKind::Unknown, "{body}");
            assert!(why.contains(expected) && !why.contains('\u{1b}'), "{body}: {why}");
        }
    }
    let endless = || {
        let piece = || Some((Ok::<_, std::io::Error>(Bytes::from(vec![b' '; 1 << 16])), ()));
        Body::from_stream(futures::stream::unfold((), move |()| async move { piece() })).into_response()
    };
    let server = Server::saying(endless).await;
    let (kind, why) = failure(call(&server, TOKEN, Request::Items { cursor: None }).await);
    assert!(kind == FailureKind::Unknown && why.contains("larger than"), "{why}");
}

#[tokio::test]
async fn a_server_that_does_not_answer_is_a_failure_in_time() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let api = format!("http://{}", silent.local_addr().unwrap());
    let server = Server { api, cloud: Arc::default() };
    let (kind, _) = failure(call(&server, TOKEN, Request::Items { cursor: None }).await);
    assert_eq!(kind, FailureKind::Unknown);
    drop(silent);
    let (kind, why) = failure(call(&server, TOKEN, Request::Items { cursor: None }).await);
    assert!(kind == FailureKind::Unknown && !why.contains("accounts"), "{why}");
}

#[tokio::test]
async fn cleanup_empties_this_hosts_items_alone() {
    let ours = (0..20).map(|n| (format!("192.0.2.{n}"), OURS));
    let mut cloud = Cloud::with(&[("198.51.100.1", "other"), ("198.51.100.2", "shield@elsewhere")], 100);
    ours.for_each(|(ip, comment)| cloud.put(ip, comment));
    cloud.faults = vec![Fault::Nothing, Fault::Error].into();
    let server = Server::start(cloud).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("token");
    std::fs::write(&path, format!("{TOKEN}\n")).unwrap();
    let settings = Settings { token: UrlFrom::File(path.clone()), ..settings(&server.api) };
    assert_eq!(super::cleanup(&settings).await.unwrap(), 20);
    assert_eq!(server.cloud.lock().unwrap().with_comment(false), ["198.51.100.1", "198.51.100.2"]);
    assert!(server.cloud.lock().unwrap().with_comment(true).is_empty());
    assert_eq!(super::cleanup(&settings).await.unwrap(), 0, "nothing is left");
    std::fs::write(&path, "wrong\n").unwrap();
    let said = format!("{:#}", super::cleanup(&settings).await.unwrap_err());
    assert!(said.starts_with("could not empty the list") && said.contains("403"), "{said}");
}
