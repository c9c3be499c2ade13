//! `[[site]]` against a real nginx: the name in the log is the one of the server section that answered, whatever host a client
//! asks for. `$host`, beside it, is the client's to choose. And the sites as the agent shows them, by such a log.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails there")]

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use shield_engine::request::Batch;
use shield_logline::{Output, Parser, Settings};
use shield_tests::agent::{Agent, Home};
use shield_tests::http::Get;
use shield_tests::netns::Namespace;
use shield_tests::nginx::SocketNginx;
use shield_tests::wait;

/// An nginx with a strict default site and lenient ones; on the socket `alone` the strict one alone.
fn start(folder: &Path) -> SocketNginx {
    let shown = folder.display();
    let http = format!(
        "log_format sites escape=json
           '{{\"source_ip\":\"192.0.2.7\",\"timestamp\":\"$time_iso8601\",\"method\":\"$request_method\",'
           '\"path\":\"$request_uri\",\"status\":$status,\"host\":\"$host\",\"server_name\":\"$server_name\"}}';
         access_log {shown}/access.log sites;
         server {{ listen unix:{shown}/both default_server; listen unix:{shown}/alone;
                   server_name strict.example other.example; location / {{ return 200 strict; }} }}
         server {{ listen unix:{shown}/both; server_name lenient.example; location / {{ return 200 lenient; }} }}
         server {{ listen unix:{shown}/both; server_name *.wild.example; location / {{ return 200 wild; }} }}"
    );
    SocketNginx::start(folder, &http).unwrap()
}

#[test]
fn the_name_is_of_the_section_that_answered() {
    // Where, the request, who answers, the name in the log.
    let cases = [
        ("both", "GET /a HTTP/1.1\r\nHost: strict.example", "strict", "strict.example"),
        ("both", "GET /a HTTP/1.1\r\nHost: other.example", "strict", "strict.example"),
        ("both", "GET /a HTTP/1.1\r\nHost: lenient.example", "lenient", "lenient.example"),
        ("both", "GET /a HTTP/1.1\r\nHost: LENIENT.example:8080", "lenient", "lenient.example"),
        ("both", "GET /a HTTP/1.1\r\nHost: x.wild.example", "wild", "*.wild.example"),
        // A name that no section has: the default one answers.
        ("both", "GET /a HTTP/1.1\r\nHost: x.lenient.example", "strict", "strict.example"),
        ("both", "GET /a HTTP/1.0", "strict", "strict.example"),
        // The lenient name where no lenient section listens.
        ("alone", "GET /a HTTP/1.1\r\nHost: lenient.example", "strict", "strict.example"),
        (
            "alone",
            "GET http://lenient.example/a HTTP/1.1\r\nHost: strict.example",
            "strict",
            "strict.example",
        ),
        // Two names: the target's is served.
        (
            "both",
            "GET http://lenient.example/a HTTP/1.1\r\nHost: strict.example",
            "lenient",
            "lenient.example",
        ),
        ("both", "GET http://strict.example/a HTTP/1.1\r\nHost: lenient.example", "strict", "strict.example"),
    ];
    let folder = tempfile::tempdir().unwrap();
    let nginx = start(folder.path());
    for (socket, head, answers, _) in &cases {
        let answer = nginx.ask(socket, head).unwrap();
        assert_eq!(answer.rsplit("\r\n").next(), Some(*answers), "{socket}: {head}");
    }
    drop(nginx);
    let mut bytes = fs::read(folder.path().join("access.log")).unwrap();
    let (end, mut out) = (bytes.len(), Output::default());
    Parser::new(&Settings::default()).parse_block(&mut bytes, 0, end, &mut out);
    let batch = Batch { bytes, lines: out.lines, ..Batch::default() };
    assert_eq!(batch.lines.len(), cases.len(), "{}", String::from_utf8_lossy(&batch.bytes));
    for (line, (socket, head, _, name)) in batch.lines.iter().zip(&cases) {
        assert_eq!(String::from_utf8_lossy(batch.server_of(line)), *name, "{socket}: {head}");
    }
    let log = String::from_utf8_lossy(&batch.bytes);
    let is_forged = |line: &&str| {
        line.contains("\"host\":\"lenient.example\"") && line.contains("\"server_name\":\"strict.example\"")
    };
    assert_ne!(
        log.lines().filter(is_forged).count(),
        0,
        "with $host, a client of the strict section would choose its site"
    );
}

/// Where the agent's page is, in the namespace.
const PAGE: &str = "127.0.0.1:8080";

#[test]
fn the_agent_counts_requests_and_bans_by_site() {
    let namespace = Namespace::create("sites").unwrap();
    let home = Home::create().unwrap();
    let shown = home.folder().display();
    let log = home.folder().join("access.log");
    fs::write(&log, "").unwrap();
    let page = format!("[page]\nlisten = \"{PAGE}\"\nhosts = [\"shop.example\"]\n");
    // On a busy machine the first lines may be there before the agent opens the log.
    home.configure(&log, "catch_up = \"10m\"\n", &page).unwrap();
    let http = format!(
        "log_format sites escape=json
           '{{\"source_ip\":\"$http_x_from\",\"timestamp\":\"$time_iso8601\",\"method\":\"$request_method\",'
           '\"path\":\"$request_uri\",\"status\":$status,\"server_name\":\"$server_name\"}}';
         access_log {shown}/access.log sites;
         server {{ listen unix:{shown}/nginx default_server; server_name shop.example; location / {{ return 200 shop; }} }}
         server {{ listen unix:{shown}/nginx; server_name blog.example; location / {{ return 404 no; }} }}"
    );
    let nginx = SocketNginx::start(home.folder(), &http).unwrap();
    let agent = Agent::start(&namespace, &home, &["--dry-run"]).unwrap();
    let ask = |path: &str, host: &str, from: &str| {
        nginx.ask("nginx", &format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nX-From: {from}")).unwrap();
    };
    for made_up in ["made-up.example", "<script>.example", "shop.example"] {
        ask("/", made_up, "198.51.100.7");
    }
    let probed = [
        "/.env",
        "/.git/config",
        "/wp-config.php.bak",
        "/phpmyadmin/index.php",
        "/.aws/credentials",
        "/backup.sql",
    ];
    let mut asked = 0;
    let banned = wait::until("the attacker of the blog to be banned", Duration::from_secs(60), || {
        for path in probed {
            ask(&format!("{path}?{asked}"), "blog.example", "203.0.113.66");
            asked += 1;
        }
        let page = home.json(&namespace, &["bans", "--site", "blog.example"])?;
        Ok(Some(page).filter(|page| page["total"] == 1))
    })
    .unwrap();
    assert_eq!(banned["bans"][0]["client"], "203.0.113.66");
    assert_eq!(banned["bans"][0]["evidence"]["sites"], serde_json::json!(["blog.example"]));
    assert_eq!(home.json(&namespace, &["bans", "--site", "shop.example"]).unwrap()["total"], 0);
    let explained = home.command(&namespace, &["explain", "203.0.113.66"]).unwrap();
    assert!(explained.contains("sites      blog.example"), "{explained}");

    let list = || {
        let get = Get {
            server: PAGE.parse().unwrap(),
            from: None,
            path: "/api/v1/sites",
            timeout: Duration::from_secs(10),
        };
        let body = namespace.enter(|| get.send())?.body;
        Ok::<Value, anyhow::Error>(serde_json::from_slice(&body)?)
    };
    // An answer is shared for a second.
    let mut last = Value::Null;
    let counted = wait::until("all lines to be counted", Duration::from_secs(30), || {
        last = list()?;
        let first = &last["sites"][0];
        Ok((first["requests"] == asked && first["bans"] == 1).then(|| last.clone()))
    });
    let list = counted.unwrap_or_else(|error| panic!("{asked} asked: {error}: {last}"));
    let [blog, shop] = list["sites"].as_array().unwrap().as_slice() else { panic!("{list}") };
    assert_eq!(
        (&blog["site"], &blog["attackers"], &blog["client_errors"]),
        (&"blog.example".into(), &1.into(), &asked.into()),
        "{list}"
    );
    assert_eq!(
        (&shop["site"], &shop["requests"], &shop["client_errors"]),
        (&"shop.example".into(), &3.into(), &0.into()),
        "{list}"
    );
    assert_eq!((&list["other"]["requests"], &list["unnamed"]["requests"]), (&0.into(), &0.into()), "{list}");
    agent.stop().unwrap();
}
