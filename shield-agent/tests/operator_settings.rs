//! `ignore_paths`, `expected_misses`, `monitors`, `observe` and `[[site]]` from the file to the verdict, with the real binary.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails there")]

use std::fmt::Write as _;
use std::process::{Command, Output};

use serde_json::Value;

const BEGIN: i64 = 1_767_600_000;

/// What one client each asks for: its last number, its site, its paths.
const CLIENTS: [(u8, &str, [&str; 6]); 5] = [
    (
        1,
        "www.example.org",
        ["/.env", "/.git/config", "/backup.sql", "/wp-config.php.bak", "/.ssh/id_rsa", "/db.sql.gz"],
    ),
    (
        2,
        "www.example.org",
        ["/m/.env", "/m/.git/config", "/m/a.sql", "/m/b.php.bak", "/m/.ssh/id_rsa", "/m/db.sql.gz"],
    ),
    (
        3,
        "www.example.org",
        [
            "/m/../.env",
            "/m/%2e%2e/.git/config",
            "/m/..%2fa.sql",
            "//m//..//b.php.bak",
            "/m/./../.ssh/id_rsa",
            "/m/../db.sql.gz",
        ],
    ),
    (
        4,
        "c.example.org",
        ["/o/.env", "/o/.git/config", "/o/a.sql", "/o/b.php.bak", "/o/.ssh/id_rsa", "/o/db.sql.gz"],
    ),
    (
        5,
        "www.example.org",
        ["/o/.env", "/o/.git/config", "/o/a.sql", "/o/b.php.bak", "/o/.ssh/id_rsa", "/o/db.sql.gz"],
    ),
];

fn shield(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_shield-agent")).args(arguments).output().unwrap()
}

/// The last numbers of those banned, and of those of which a ban is only reported.
fn replayed(config: &str) -> (Vec<u8>, Vec<u8>) {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let mut lines = String::new();
    for at in 0..6 {
        for (number, site, paths) in &CLIENTS {
            let (second, asked) = (BEGIN + at as i64 * 2, paths[at]);
            writeln!(
                lines,
                "{{\"source_ip\":\"203.0.113.{number}\",\"timestamp\":{second},\"method\":\"GET\",\"path\":\"{asked}\",\
                 \"status\":404,\"response_size\":9,\"host\":\"c.example.org\",\"server_name\":\"{site}\"}}"
            )
            .unwrap();
        }
    }
    std::fs::write(path("access.log"), lines).unwrap();
    std::fs::write(path("shield.toml"), config).unwrap();
    let output = shield(&["replay", "--json", "--config", &path("shield.toml"), &path("access.log")]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let (mut banned, mut reported) = (Vec::new(), Vec::new());
    for line in String::from_utf8(output.stdout).unwrap().lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        let Some(number) = line["client"].as_str().and_then(|client| client.rsplit('.').next()?.parse().ok())
        else {
            continue;
        };
        if line["event"] == "would_ban" { reported.push(number) } else { banned.push(number) }
    }
    banned.sort_unstable();
    reported.sort_unstable();
    (banned, reported)
}

#[test]
fn what_is_normal_is_spared_and_nothing_else() {
    let nobody: Vec<u8> = Vec::new();
    assert_eq!(replayed(""), (vec![1, 2, 3, 4, 5], nobody.clone()));
    let paths = "[detect]\nignore_paths = ['/m/*']";
    assert_eq!(replayed(paths), (vec![1, 3, 4, 5], nobody.clone()), "3 leaves the path by `..`");
    let misses = "[detect]\nexpected_misses = ['/o/*']";
    assert_eq!(replayed(misses), (vec![1, 2, 3], nobody.clone()));
    let monitors = "[detect]\nmonitors = ['203.0.113.2/32']";
    assert_eq!(replayed(monitors), (vec![1, 3, 4, 5], nobody.clone()));
    let observe = "[detect]\nobserve = ['probing']";
    assert_eq!(replayed(observe), (nobody.clone(), vec![1, 2, 3, 4, 5]));
    let site = "[[site]]\nhost = 'c.example.org'\nexpected_misses = ['/o/*']";
    assert_eq!(
        replayed(site),
        (vec![1, 2, 3, 5], nobody.clone()),
        "all sent its host, one was answered by it"
    );
    let site = "[[site]]\nhost = '*.example.org'\njudged = false";
    assert_eq!(replayed(site), (nobody.clone(), nobody));
}
