//! An HTTP server on a namespace's loopback that stands in for Cloudflare's lists of IP addresses, as documented: a change is an
//! operation that goes on after the answer, a second one meanwhile is refused with 429, and a wrong token with 403.

use std::collections::{BTreeMap, VecDeque};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::netns::Namespace;

/// The only token that is let in.
pub const TOKEN: &str = "a-token-of-a-test";
/// The account's and the list's ids.
pub const ACCOUNT: &str = "0123456789abcdef0123456789abcdef";
/// See [`ACCOUNT`].
pub const LIST: &str = "fedcba9876543210fedcba9876543210";

/// How long a change goes on after its answer.
const TAKES: Duration = Duration::from_millis(700);

/// An answer in place of the real one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// 429, with `Retry-After`.
    Busy,
    /// 500 before anything was done.
    Error,
}

#[derive(Debug, Default)]
struct State {
    /// The items' addresses and comments, by id.
    items: BTreeMap<String, (String, String)>,
    next_id: u32,
    /// The operation begun last, and when: it goes on for [`TAKES`], whoever looks.
    running: Option<(String, Instant)>,
    faults: VecDeque<Fault>,
    calls: u32,
}

/// The account.
#[derive(Debug, Clone)]
pub struct Cloud {
    state: Arc<Mutex<State>>,
    url: String,
}

impl Cloud {
    /// Starts the server, which serves as long as the process runs. The next changes meet these faults.
    ///
    /// # Errors
    /// Fails if the namespace has no loopback to listen on.
    pub fn start(namespace: &Namespace, faults: &[Fault]) -> Result<Cloud> {
        let listener = namespace
            .enter(|| TcpListener::bind("127.0.0.1:0"))
            .context("could not listen on the loopback")?;
        let url = format!("http://{}/client/v4", listener.local_addr().context("could not get the port")?);
        let state = State { faults: faults.iter().copied().collect(), ..State::default() };
        let cloud = Cloud { state: Arc::new(Mutex::new(state)), url };
        let served = cloud.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let served = served.clone();
                std::thread::spawn(move || served.serve(stream));
            }
        });
        Ok(cloud)
    }

    /// The address of its API.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Puts an item into the list.
    pub fn put(&self, ip: &str, comment: &str) {
        self.lock().put(ip, comment);
    }

    /// The items, as `ADDRESS COMMENT`, sorted.
    pub fn items(&self) -> Vec<String> {
        let mut items: Vec<String> =
            self.lock().items.values().map(|(ip, comment)| format!("{ip} {comment}")).collect();
        items.sort();
        items
    }

    /// Whether every fault was met.
    pub fn is_faultless(&self) -> bool {
        self.lock().faults.is_empty()
    }

    /// The calls so far.
    pub fn calls(&self) -> u32 {
        self.lock().calls
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(&self, mut stream: TcpStream) {
        let Ok(reader) = stream.try_clone() else { return };
        let mut reader = BufReader::new(reader);
        while let Some(request) = Request::read(&mut reader) {
            let (status, more, body) = self.lock().answer(&request);
            let body = body.to_string();
            let written = write!(
                stream,
                "HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {}\r\n{more}\r\n{body}",
                body.len()
            );
            if written.is_err() {
                return;
            }
        }
    }
}

impl State {
    fn put(&mut self, ip: &str, comment: &str) {
        self.next_id += 1;
        self.items.insert(format!("item{}", self.next_id), (ip.to_owned(), comment.to_owned()));
    }

    fn answer(&mut self, request: &Request) -> (u16, &'static str, Value) {
        self.calls += 1;
        let refused = |code: i64, message: &str| json!({"success": false, "errors": [{"code": code, "message": message}]});
        if request.token != format!("Bearer {TOKEN}") {
            return (403, "", refused(10000, "Authentication error"));
        }
        let lists = format!("/client/v4/accounts/{ACCOUNT}/rules/lists");
        let items = format!("{lists}/{LIST}/items");
        let path = request.path.split('?').next().unwrap_or_default();
        let is_change = matches!(request.method.as_str(), "POST" | "DELETE");
        if is_change && let Some(fault) = self.faults.pop_front() {
            return match fault {
                Fault::Busy => (429, "Retry-After: 1\r\n", refused(10021, "another operation is pending")),
                Fault::Error => (500, "", refused(10001, "internal error")),
            };
        }
        let is_going = self.running.as_ref().is_some_and(|(_, begun)| begun.elapsed() < TAKES);
        if is_change && is_going {
            return (429, "Retry-After: 1\r\n", refused(10021, "another operation is pending"));
        }
        let operations = format!("{lists}/bulk_operations/");
        match (request.method.as_str(), path) {
            ("GET", path) if path == items => {
                let item = |(id, (ip, comment)): (&String, &(String, String))| json!({"id": id, "ip": ip, "comment": comment});
                let result: Vec<Value> = self.items.iter().map(item).collect();
                (200, "", json!({"success": true, "result": result, "result_info": {"cursors": {}}}))
            }
            ("GET", path) if path.starts_with(&operations) => {
                let is_this = self.running.as_ref().is_some_and(|(id, _)| path.ends_with(id.as_str()));
                let status = if is_this && is_going { "running" } else { "completed" };
                (200, "", json!({"success": true, "result": {"status": status}}))
            }
            ("POST", path) if path == items => {
                for item in request.body.as_array().into_iter().flatten() {
                    let text = |key: &str| item[key].as_str().unwrap_or_default().to_owned();
                    self.put(&text("ip"), &text("comment"));
                }
                self.begin()
            }
            ("DELETE", path) if path == items => {
                for item in request.body["items"].as_array().into_iter().flatten() {
                    self.items.remove(item["id"].as_str().unwrap_or_default());
                }
                self.begin()
            }
            _ => (404, "", refused(7003, "could not route to the path")),
        }
    }

    fn begin(&mut self) -> (u16, &'static str, Value) {
        self.next_id += 1;
        let id = format!("operation{}", self.next_id);
        self.running = Some((id.clone(), Instant::now()));
        (200, "", json!({"success": true, "result": {"operation_id": id}}))
    }
}

struct Request {
    method: String,
    path: String,
    token: String,
    body: Value,
}

impl Request {
    fn read(reader: &mut BufReader<TcpStream>) -> Option<Request> {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let mut words = line.split_whitespace().map(str::to_owned);
        let (method, path) = (words.next()?, words.next()?);
        let (mut token, mut length) = (String::new(), 0);
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).ok()?;
            let Some((name, value)) = line.trim_end().split_once(':') else { break };
            match name.to_ascii_lowercase().as_str() {
                "authorization" => value.trim().clone_into(&mut token),
                "content-length" => length = value.trim().parse().ok()?,
                _ => {}
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).ok()?;
        Some(Request { method, path, token, body: serde_json::from_slice(&body).unwrap_or_default() })
    }
}
