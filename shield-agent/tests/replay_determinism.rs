//! `shield-agent replay` promises the same bytes for the same file: two processes, every switch on.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

/// Everything that keeps clients in tables between two lines: escalation to networks, and
/// limits that withhold bans.
const EVERY_SWITCH_ON: &str = r#"
[allow]
search_engines = true
networks = ["192.0.2.200/32"]
trusted_proxies = ["198.51.100.7/32"]

[ban]
terms = ["10s", "1m", "1h", "permanent"]
extend = "next"
networks = "ban"
network_clients = 2
network_within = "10m"
max_share = 0.3
always_allowed = 10
max_bans_per_minute = 25

[slack]
url_file = "/nonexistent/slack-webhook"
"#;

const PROBES: [&str; 8] = [
    "/.env",
    "/.git/config",
    "/backup.sql",
    "/phpmyadmin/",
    "/wp-config.php",
    "/.aws/credentials",
    "/db.sql.gz",
    "/.ssh/id_rsa",
];

/// Rounds of forty attackers who all probe in the same seconds, among visitors.
fn log() -> String {
    let mut log = String::new();
    let mut line = |second: usize, client: &str, path: &str, status: u16| {
        let (minute, second) = (second / 60, second % 60);
        writeln!(
            log,
            "{client} - - [05/Jan/2026:08:{minute:02}:{second:02} +0000] \"GET {path} HTTP/1.1\" {status} 12 \"-\" \"-\""
        )
        .unwrap();
    };
    for round in 0..8 {
        for (at, path) in PROBES.iter().enumerate() {
            let second = round * 60 + at;
            for attacker in 0..40 {
                line(second, &format!("203.0.{}.{}", attacker / 4, attacker % 4 + 1), path, 404);
                line(second, &format!("2001:db8:{:x}:{attacker:x}::1", attacker / 4), path, 404);
            }
        }
        for second in 10..50 {
            for visitor in 0..20 {
                let visitor = format!("198.51.100.{}", visitor + 50);
                // In the end the site breaks for everybody.
                match round {
                    0..6 => line(round * 60 + second, &visitor, "/", 200),
                    _ => line(round * 60 + second, &visitor, &format!("/gone{second}.php"), 404),
                }
            }
        }
    }
    log
}

fn replay(config: &Path, log: &Path, more: &[&str]) -> Vec<u8> {
    let output = Command::new(env!("CARGO_BIN_EXE_shield-agent"))
        .args(["replay", "--config"])
        .arg(config)
        .arg(log)
        .args(more)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    output.stdout
}

/// History: verdicts that waited for DNS were settled in the order of a map with a random seed, so that the blast
/// radius refused other clients in every run.
#[test]
fn two_processes_replay_a_file_to_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let (config, path) = (dir.path().join("shield.toml"), dir.path().join("access.log"));
    std::fs::write(&config, EVERY_SWITCH_ON).unwrap();
    std::fs::write(&path, log()).unwrap();
    for format in [&["--json"][..], &[]] {
        let first = replay(&config, &path, format);
        let text = String::from_utf8_lossy(&first);
        assert!(text.contains("203.0.113") || text.contains("203.0."), "nobody was banned: {text}");
        assert!(text.contains("network"), "no network was banned: {text}");
        assert!(
            text.contains("max_share") || text.contains("max_bans_per_minute"),
            "nothing was refused: {text}"
        );
        for run in 2..=5 {
            assert!(first == replay(&config, &path, format), "run {run} {format:?} differs from the first");
        }
    }
}
