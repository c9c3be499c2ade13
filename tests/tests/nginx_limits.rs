//! What `suggest nginx` prints, in a real nginx: it takes the configuration, whatever attackers wrote into the log, finds the
//! places by it, and answers as the model that the proof is worked out with.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails there")]

use std::fs;
use std::path::Path;
use std::process::Command;

use shield_agent::test_support::suggest::bucket::{Answer, Bucket, Delay, Limit, Rate};
use shield_tests::nginx::SocketNginx;

/// Names that would be directives, blocks, variables or comments, if they were written as they are.
const HOSTILE: [&str; 7] = [
    "/a;}server{listen 81;}#/x",
    "/\\x22;include /etc/passwd;\\x22/x",
    "/$shield_place/x",
    "/{1,9}/x",
    "/(a+)+$/x",
    "/a\\x0Aevil on;/x",
    "/'/x",
];

/// Forty visitors, each with a few pages, a login and every hostile name.
fn log() -> String {
    let mut lines = String::new();
    for second in 0..600_i64 {
        let (visitor, nth) = (second % 40 + 1, second / 40);
        let (hour, minute) = (10 + second / 3600, second / 60 % 60);
        let request = match nth {
            0 => "POST /login".to_owned(),
            1..=7 => format!("GET {}", HOSTILE[usize::try_from(nth - 1).unwrap()]),
            _ => format!("GET /blog/{nth}"),
        };
        lines.push_str(&format!(
            "192.0.2.{visitor} - - [29/Nov/2026:{hour:02}:{minute:02}:{:02} +0000] \"{request} HTTP/1.1\" 200 9 \"-\" \"-\"\n",
            second % 60
        ));
    }
    lines
}

/// Writes the suggestion into `folder`; returns both parts.
fn suggest(folder: &Path, more: &[&str]) -> (String, String) {
    let file = folder.join("access.log.1");
    fs::write(&file, log()).unwrap();
    let config = folder.join("shield.toml");
    fs::write(&config, "[allow]\nnetworks = ['198.51.100.0/24', '2001:db8::/32']\n").unwrap();
    let mut command = Command::new(shield_tests::agent::binary().unwrap());
    command.args(["suggest", "nginx"]).arg(&file).arg("--config").arg(&config);
    let output = command.arg("--into").arg(folder).args(more).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let part = |name: &str| fs::read_to_string(folder.join(name)).unwrap();
    (part("shield-limits-http.conf"), part("shield-limits-server.conf"))
}

/// The `http` section with the suggestion; the client's address is the one that a header names.
fn http(folder: &Path) -> String {
    let shown = folder.display();
    format!(
        "include {shown}/shield-limits-http.conf;
         log_format limits escape=json '$msec $remote_addr $limit_req_status $uri';
         access_log {shown}/limits.log limits;
         server {{
           listen unix:{shown}/socket;
           set_real_ip_from unix:; real_ip_header X-Real-IP;
           include {shown}/shield-limits-server.conf;
           location / {{ empty_gif; }}
         }}"
    )
}

#[test]
fn nginx_takes_the_suggestion_whatever_the_log_holds() {
    for more in [&[][..], &["--nodelay"]] {
        let folder = tempfile::tempdir().unwrap();
        let (places, limits) = suggest(folder.path(), more);
        for evil in ["evil", "passwd", "listen", "a+"] {
            assert!(!places.contains(evil) && !limits.contains(evil), "{evil}: {places}\n{limits}");
        }
        assert!(limits.contains("Would have delayed 0 of 40 good clients and "), "{limits}");
        let config = folder.path().join("nginx.conf");
        let http = http(folder.path());
        fs::write(&config, format!("pid {}/pid;\nevents {{}}\nhttp {{ {http} }}\n", folder.path().display()))
            .unwrap();
        let mut nginx = Command::new("nginx");
        nginx
            .arg("-t")
            .arg("-p")
            .arg(folder.path())
            .arg("-c")
            .arg(&config)
            .arg("-e")
            .arg(folder.path().join("error.log"));
        let tested = nginx.output().unwrap();
        let said = String::from_utf8_lossy(&tested.stderr);
        assert!(tested.status.success() && !said.contains("[warn]"), "{places}\n{limits}\n{said}");
    }
}

#[test]
fn nginx_counts_and_answers_as_the_proof_does() {
    let folder = tempfile::tempdir().unwrap();
    let (_, limits) = suggest(folder.path(), &[]);
    assert!(limits.contains("limit_req zone=shield_1 burst=10 delay=5;"), "{limits}");
    let nginx = SocketNginx::start(folder.path(), &http(folder.path())).unwrap();
    let ask = |addr: &str, path: &str| {
        let head = format!("GET {path} HTTP/1.1\r\nHost: a\r\nX-Real-IP: {addr}");
        let answer = nginx.ask("socket", &head).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 "), "a dry run refuses nothing: {answer}");
    };
    // One place, however it is spelled.
    for nth in 0..20 {
        ask("203.0.113.5", ["/login", "//login", "/%6cogin?a=b", "/x/../login"][nth % 4]);
    }
    // Another one, and another client; an allowed one is counted nowhere.
    ask("203.0.113.5", "/loginx");
    ask("203.0.113.6", "/login");
    (0..20).for_each(|_| ask("198.51.100.7", "/login"));
    drop(nginx);
    let limit = Limit { rate: Rate::PerMinute(6), burst: 10, delay: Delay::Beyond(5) };
    let (mut bucket, mut seen) = (Bucket::default(), Vec::new());
    for line in fs::read_to_string(folder.path().join("limits.log")).unwrap().lines() {
        let [msec, addr, status, uri] = line.splitn(4, ' ').collect::<Vec<_>>().try_into().unwrap();
        if (addr, uri) == ("203.0.113.5", "/login") {
            let at_ms: i64 = msec.replace('.', "").parse().unwrap();
            let expected = match bucket.request(at_ms, limit) {
                Answer::Passed => "PASSED",
                Answer::Delayed => "DELAYED_DRY_RUN",
                Answer::Refused => "REJECTED_DRY_RUN",
            };
            assert_eq!(status, expected, "{line}");
            seen.push(expected);
        } else {
            // The other page is among all else, which has a zone of its own.
            let expected = if addr == "198.51.100.7" { "" } else { "PASSED" };
            assert_eq!(status.trim_matches('-'), expected, "{line}");
        }
    }
    assert_eq!(seen.len(), 20);
    for status in ["PASSED", "DELAYED_DRY_RUN", "REJECTED_DRY_RUN"] {
        assert!(seen.contains(&status), "{seen:?}");
    }
}
