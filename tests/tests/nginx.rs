//! The harness's nginx and visitors, without the agent: requests are answered, and the log has a line for each.

use std::time::Duration;

use shield_tests::http::Get;
use shield_tests::netns::{End, Namespace, connect};
use shield_tests::nginx::Nginx;
use shield_tests::residue;
use shield_tests::traffic::{Behaviour, Outcome, Requester, VISITED_PATHS};
use shield_tests::wait;

#[test]
fn nginx_answers_and_logs_each_request_as_json_in_both_families() {
    let server = Namespace::create("server").unwrap();
    let client = Namespace::create("client").unwrap();
    connect(
        End { namespace: &server, interface: "eth0", addresses: &["192.0.2.1/24", "2001:db8::1/64"] },
        End { namespace: &client, interface: "eth0", addresses: &["192.0.2.2/24", "2001:db8::2/64"] },
    )
    .unwrap();
    let folder = tempfile::tempdir().unwrap();
    let nginx = Nginx::start(&server, folder.path()).unwrap();

    let get = |server: &str, path: &str| {
        let server = server.parse().unwrap();
        client
            .enter(|| Get { server, from: None, path, timeout: Duration::from_secs(2) }.send())
            .unwrap()
            .status
    };
    assert_eq!(get("192.0.2.1:80", "/"), 200);
    assert_eq!(get("[2001:db8::1]:80", "/no\"such?a=b"), 404);

    // nginx writes its line after the answer is sent: a moment later than the client sees it.
    let lines = wait::until("two log lines", Duration::from_secs(2), || {
        let text = std::fs::read_to_string(nginx.access_log())?;
        Ok((text.lines().count() == 2).then_some(text))
    })
    .unwrap();
    let lines: Vec<serde_json::Value> =
        lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((lines[0]["source_ip"].as_str(), lines[0]["status"].as_u64()), (Some("192.0.2.2"), Some(200)));
    assert_eq!(
        (lines[1]["source_ip"].as_str(), lines[1]["status"].as_u64()),
        (Some("2001:db8::2"), Some(404))
    );
    assert_eq!(lines[1]["path"].as_str(), Some("/no\"such?a=b"));
    assert!(lines[0]["timestamp"].as_str().unwrap().contains('T'));
}

#[test]
fn visitors_write_down_what_came_of_each_request() {
    let server = Namespace::create("server").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let _nginx = Nginx::start(&server, folder.path()).unwrap();
    let visitor = Requester::start(
        &server,
        Behaviour {
            server: "127.0.0.1:80".parse().unwrap(),
            from: Some("127.0.0.9".parse().unwrap()),
            paths: VISITED_PATHS,
            pause: Duration::from_millis(10),
            timeout: Duration::from_millis(500),
            threads: 2,
        },
    );
    wait::until("ten answers", Duration::from_secs(5), || Ok((visitor.samples().len() >= 10).then_some(())))
        .unwrap();
    let samples = visitor.stop();
    assert!(samples.iter().all(|sample| matches!(sample.outcome, Outcome::Answered(200, _))), "{samples:?}");
}

#[test]
fn residue_names_what_is_left_in_a_kernel() {
    let namespace = Namespace::create("residue").unwrap();
    let no_pins = std::path::Path::new("/nonexistent");
    assert_eq!(residue::of_shield(&namespace, no_pins).unwrap(), Vec::<String>::new());
    for command in [
        ["iptables", "-N", "SHIELD"].as_slice(),
        &["ip6tables", "-N", "SHIELD"],
        &["ipset", "create", "shield-v4", "hash:ip"],
    ] {
        namespace.run(command).unwrap();
    }
    let found = residue::of_shield(&namespace, no_pins).unwrap().join("\n");
    for expected in [":SHIELD -", "chain SHIELD {", "shield-v4"] {
        assert!(found.contains(expected), "{expected} is not in:\n{found}");
    }
}
