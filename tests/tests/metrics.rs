//! `/metrics` of the real agent against promtool, and the alerts and the Grafana dashboard against `/metrics`.

#![expect(clippy::unwrap_used, reason = "a test helper that fails is a failing test")]

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use shield_tests::agent::{Agent, Home};
use shield_tests::command;
use shield_tests::netns::Namespace;

/// Lines are read within seconds; the rest is a margin for a busy machine.
const TIMEOUT: Duration = Duration::from_secs(20);

/// Between two scrapes.
const POLL: Duration = Duration::from_millis(50);

fn packaging() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging")
}

/// The metrics of an agent in a dry run, with one ban.
fn metrics() -> String {
    let namespace = Namespace::create("metrics").unwrap();
    let home = Home::create().unwrap();
    let log = home.folder().join("access.log");
    fs::write(&log, "").unwrap();
    home.configure(&log, "", "[page]\nenabled = false\n").unwrap();
    let agent = Agent::start(&namespace, &home, &["--dry-run"]).unwrap();
    let line = r#"{"source_ip":"192.0.2.9","timestamp":1795530901,"path":"/","status":200}"#;
    fs::write(&log, format!("{line}\n{line}\nrubbish\n")).unwrap();
    let lines_read = format!("shield_source_lines_total{{source=\"{}\"}} 3\n", log.display());
    let deadline = Instant::now() + TIMEOUT;
    while !get(&home.socket(), "/metrics").contains(&lines_read) {
        assert!(Instant::now() < deadline, "the log's lines were not read: {}", home.log());
        std::thread::sleep(POLL);
    }
    home.command(&namespace, &["ban", "192.0.2.7", "--for", "10m"]).unwrap();
    // The command's answer and the counters come from different threads.
    let counted = "shield_notices_total{kind=\"would_ban\"} 1\n";
    let text = loop {
        let text = get(&home.socket(), "/metrics");
        if text.contains(counted) {
            break text;
        }
        assert!(Instant::now() < deadline, "the ban was not counted: {text}");
        std::thread::sleep(POLL);
    };
    assert!(agent.stop().unwrap().success(), "{}", home.log());
    text
}

fn get(socket: &Path, path: &str) -> String {
    let mut stream = UnixStream::connect(socket).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    assert!(head.to_ascii_lowercase().contains("content-type: text/plain; version=0.0.4"), "{head}");
    body.to_owned()
}

/// Runs `promtool check metrics`, which reports on standard output or standard error.
fn check_by_promtool(metrics: &str) -> String {
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool is installed (Debian's package prometheus; `cargo xtask setup`)");
    promtool.stdin.take().unwrap().write_all(metrics.as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    let report = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    if output.status.success() { report } else { format!("{}: {report}", output.status) }
}

#[test]
fn promtool_finds_nothing_and_alerts_and_dashboard_use_what_is_there() {
    let metrics = metrics();
    assert_eq!(check_by_promtool(&metrics), "");
    assert!(metrics.contains("shield_bans_total{rule=\"operator\"} 0"), "a dry run bans nobody: {metrics}");
    assert!(metrics.contains("shield_dry_run 1"), "{metrics}");
    for (family, value) in [("lag_bytes", 0), ("last_line_timestamp_seconds", 1_795_530_901)] {
        let is_sample = |line: &str| {
            line.starts_with(&format!("shield_source_{family}{{source=\"/"))
                && line.ends_with(&format!("/access.log\"}} {value}"))
        };
        assert!(metrics.lines().any(is_sample), "{family}: {metrics}");
    }
    assert!(!metrics.contains("192.0.2.7"), "no label a client");
    let families: BTreeSet<&str> =
        metrics.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    for file in ["prometheus/shield.rules.yml", "grafana/shield.json"] {
        let text = fs::read_to_string(packaging().join(file)).unwrap();
        let named: BTreeSet<&str> = names_in(&text).collect();
        assert!(named.len() > 5, "{file} names metrics");
        let unknown: Vec<_> = named.difference(&families).collect();
        assert!(unknown.is_empty(), "{file} uses metrics that are not there: {unknown:?}");
    }
}

/// All names of our metrics: `shield_…` and `process_…`.
fn names_in(text: &str) -> impl Iterator<Item = &str> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("shield_") || word.starts_with("process_"))
}

#[test]
fn a_broken_page_of_metrics_would_be_found() {
    let wrong = "# HELP shield_requests Requests.\n# TYPE shield_requests counter\nshield_requests 1\n";
    assert!(check_by_promtool(wrong).contains("_total"));
}

#[test]
fn the_alerts_are_valid_and_fire_when_they_should() {
    let folder = packaging().join("prometheus");
    let file = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    command::run(&["promtool", "check", "rules", &file("shield.rules.yml")]).unwrap();
    command::run(&["promtool", "test", "rules", &file("shield.rules.test.yml")]).unwrap();
}
