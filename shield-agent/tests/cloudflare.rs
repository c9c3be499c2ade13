//! A real agent that keeps a list at a local server, which speaks as Cloudflare does: what is in the list follows bans, lifts and a
//! restart. Enforcement is off, so that no root is needed.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails there")]

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

/// For what must come; only a failure takes that long.
const PATIENCE: Duration = Duration::from_secs(120);
const TOKEN: &str = "a-token-for-tests";

/// Comment and address of each item by its id.
type Items = Arc<Mutex<BTreeMap<String, (String, String)>>>;

async fn serve(State(items): State<Items>, request: Request) -> Response {
    if request.headers().get("authorization").is_none_or(|value| value != &format!("Bearer {TOKEN}")) {
        let refusal =
            json!({"success": false, "errors": [{"code": 10000, "message": "Authentication error"}]});
        return (axum::http::StatusCode::FORBIDDEN, axum::Json(refusal)).into_response();
    }
    let (method, path) = (request.method().to_string(), request.uri().path().to_owned());
    let body = axum::body::to_bytes(request.into_body(), 1 << 20).await.unwrap();
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    let mut items = items.lock().unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let result = match method.as_str() {
        "POST" => {
            for item in body.as_array().unwrap() {
                let ip = text(&item["ip"]);
                items.insert(format!("id-{ip}"), (text(&item["comment"]), ip));
            }
            json!({"operation_id": "0001"})
        }
        "DELETE" => {
            for item in body["items"].as_array().unwrap() {
                assert!(items.remove(item["id"].as_str().unwrap()).is_some());
            }
            json!({"operation_id": "0002"})
        }
        _ if path.contains("bulk_operations") => json!({"status": "completed"}),
        _ => {
            let item = |(id, (comment, ip)): (&String, &(String, String))| json!({"id": id, "ip": ip, "comment": comment});
            items.iter().map(item).collect()
        }
    };
    axum::Json(json!({"success": true, "errors": [], "result": result, "result_info": {}})).into_response()
}

struct Agent {
    folder: tempfile::TempDir,
    process: Option<Child>,
}

impl Agent {
    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn client(&self, arguments: &[&str]) -> (bool, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_shield-agent"));
        let output = command.arg("--socket").arg(self.path("control.sock")).args(arguments).output().unwrap();
        (output.status.success(), String::from_utf8(output.stdout).unwrap())
    }

    fn start(&mut self) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_shield-agent"));
        command.arg("run").arg("--config").arg(self.path("shield.toml"));
        self.process = Some(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
        wait_for("the agent", || self.client(&["bans"]).0);
    }

    fn stop(&mut self) {
        let mut process = self.process.take().unwrap();
        assert!(Command::new("kill").arg(process.id().to_string()).status().unwrap().success());
        assert!(process.wait().unwrap().success());
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

fn wait_for(what: &str, is_there: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_there() {
        assert!(Instant::now() < deadline, "{what} does not come");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_list_follows_bans_lifts_and_a_restart() {
    let items = Items::default();
    items
        .lock()
        .unwrap()
        .insert("theirs".to_owned(), ("a colleague's".to_owned(), "198.51.100.1".to_owned()));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let api = listener.local_addr().unwrap();
    let router = Router::new().fallback(serve).with_state(Arc::clone(&items));
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });

    let mut agent = Agent { folder: tempfile::tempdir().unwrap(), process: None };
    let config = format!(
        "[agent]\nstate_dir = {:?}\nsocket = {:?}\n[page]\nenabled = false\n[[source]]\npath = {:?}\nformat = 'json'\n\
         [iptables]\nmode = 'off'\n[xdp]\nmode = 'off'\n[audit]\npath = {:?}\n\
         [cloudflare]\naccount = '{}'\nlist = '{}'\ntoken_file = {:?}\nname = 'here'\napi = 'http://{api}'\n",
        agent.path("state"),
        agent.path("control.sock"),
        agent.path("access.log"),
        agent.path("audit.jsonl"),
        "a".repeat(32),
        "b".repeat(32),
        agent.path("token"),
    );
    fs::write(agent.path("access.log"), "").unwrap();
    fs::write(agent.path("token"), "wrong\n").unwrap();
    fs::write(agent.path("shield.toml"), config).unwrap();
    let ours = || -> Vec<String> {
        let items = items.lock().unwrap();
        let mut ours: Vec<String> = items
            .values()
            .filter(|(comment, _)| comment == "shield@here")
            .map(|(_, ip)| ip.clone())
            .collect();
        ours.sort();
        ours
    };
    agent.start();
    wait_for("the state of a wrong token", || {
        agent.client(&["status"]).1.contains("Cloudflare answered 403")
    });
    assert!(agent.client(&["ban", "203.0.113.1", "203.0.113.2"]).0, "a ban waits for nobody there");
    // A new token is found without a restart.
    fs::write(agent.path("token"), format!("{TOKEN}\n")).unwrap();
    wait_for("the bans", || ours() == ["203.0.113.1", "203.0.113.2"]);
    wait_for("the state", || agent.client(&["status"]).1.contains("2 clients in the list"));
    assert!(agent.client(&["unban", "203.0.113.1"]).0);
    wait_for("the lift", || ours() == ["203.0.113.2"]);
    agent.stop();
    assert_eq!(ours(), ["203.0.113.2"], "a stopped agent leaves the list as it is");
    agent.start();
    assert!(agent.client(&["ban", "203.0.113.3"]).0);
    wait_for("the ban after the restart", || ours() == ["203.0.113.2", "203.0.113.3"]);
    assert!(items.lock().unwrap().contains_key("theirs"));
}
