//! Attacks through the API, the page and the webhook's other end.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::Attack;
use super::target::Target;
use crate::wait;

pub(super) const FLOOD: Attack = Attack {
    name: "api-flood",
    does: "a local nobody asks for the 1,000 busiest of 50,000 clients from 64 connections without a pause, while attackers come",
    failure: "one of 10 attackers is banned later than after a second",
    run: flood,
};

fn flood() -> Result<String> {
    const CONNECTIONS: usize = 64;
    let target = Target::start(super::clients::NO_LIMITS)?;
    let time = super::target::time();
    let client = |n: u32| std::net::Ipv4Addr::from_bits(0x0A00_0000 + n).to_string();
    let table: String = (0..50_000).map(|n| super::target::line(&client(n), &time, "/", 200)).collect();
    target.write(&table)?;
    target.settle()?;
    let idle = worst_of_ten(&target)?;
    let (stop, asked) = (AtomicBool::new(false), AtomicU64::new(0));
    let loaded = std::thread::scope(|scope| {
        for _ in 0..CONNECTIONS {
            scope.spawn(|| {
                // An end with an error is what a flood may get.
                let _ = ask_until(&stop, &target, &asked);
            });
        }
        let loaded = worst_of_ten(&target);
        stop.store(true, Ordering::Relaxed);
        loaded
    })?;
    ensure!(asked.load(Ordering::Relaxed) > 0, "no request was answered: this was no flood");
    let asked = asked.load(Ordering::Relaxed);
    Ok(format!(
        "slowest of 10 bans {} ms beside {asked} answers, {} ms without",
        loaded.as_millis(),
        idle.as_millis()
    ))
}

/// Asks on one connection, again as soon as there is an answer.
fn ask_until(stop: &AtomicBool, target: &Target, asked: &AtomicU64) -> Result<()> {
    let mut connection = BufReader::new(target.connect()?);
    while !stop.load(Ordering::Relaxed) {
        connection.get_mut().write_all(b"GET /api/v1/clients?n=1000 HTTP/1.1\r\nHost: localhost\r\n\r\n")?;
        let mut length = 0;
        loop {
            let mut line = String::new();
            connection.read_line(&mut line)?;
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse()?;
            }
            if line.trim().is_empty() {
                break;
            }
        }
        let body = std::io::copy(&mut (&mut connection).take(length), &mut std::io::sink())?;
        ensure!(length > 0 && body == length, "an answer without a body");
        asked.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

/// So that the flood is under way, and the ten meet all that it does.
const BETWEEN: Duration = Duration::from_millis(400);

fn worst_of_ten(target: &Target) -> Result<Duration> {
    let mut worst = Duration::ZERO;
    for _ in 0..10 {
        wait::sleep(BETWEEN)?;
        worst = worst.max(target.still_bans()?);
    }
    Ok(worst)
}

pub(super) const OTHER_SITES: Attack = Attack {
    name: "other-sites",
    does: "a page of another site, open in the operator's browser, asks for data and for a ban of 8.8.8.8",
    failure: "any answer with data, or the ban",
    run: other_sites,
};

fn other_sites() -> Result<String> {
    let target = Target::start("")?;
    let foreign: [&[(&str, &str)]; 6] = [
        &[("Sec-Fetch-Site", "cross-site")],
        &[("Sec-Fetch-Site", "same-site"), ("Origin", "http://localhost:9999")],
        &[("Sec-Fetch-Site", "cross-site"), ("Origin", "http://localhost:8080")],
        &[("Origin", "https://evil.example")],
        &[("Origin", "null")],
        &[("Referer", "https://evil.example/localhost:8080/")],
    ];
    let paths = ["/api/v1/status", "/api/v1/clients?n=1000", "/api/v1/events", "/metrics", "/healthz"];
    for headers in foreign {
        for path in paths {
            let answer = target.get(path, headers)?;
            ensure!(answer.status == 403, "{path} with {headers:?} was answered with {}", answer.status);
        }
    }
    let body = r#"{"clients":["8.8.8.8"],"term":"permanent"}"#;
    for kind in ["application/json", "text/plain", "application/x-www-form-urlencoded"] {
        let answer = target.send(&format!(
            "POST /api/v1/ban HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        ))?;
        ensure!(answer.status >= 400, "a ban without the token was answered with {}", answer.status);
    }
    target.victim_is_free()?;
    let own = target.get("/api/v1/status", &[("Sec-Fetch-Site", "same-origin")])?;
    ensure!(own.status == 200, "the page's own request was answered with {}", own.status);
    Ok(format!("{} requests refused", foreign.len() * paths.len() + 3))
}

pub(super) const HOSTS: Attack = Attack {
    name: "hosts",
    does: "a name that an attacker's DNS resolves to this host (rebinding), and other hostile Host headers",
    failure: "any answer with data",
    run: hosts,
};

fn hosts() -> Result<String> {
    let target = Target::start("")?;
    let lines = [
        "Host: evil.example",
        "Host: localhost.evil.example",
        "Host: evil.example:8080",
        "Host: localhost@evil.example",
        "Host: evil.example#localhost",
        "Host: 127.0.0.1.evil.example",
        "Host: 0x7f000001",
        "Host: 2130706433",
        "Host: 0",
        "Host: localhost:8080:80",
        "Host: localhost:",
        "Host: localhost:99999",
        "Host: [::1",
        "Host: ::1",
        "Host: [::1].evil.example",
        "Host: 192.0.2.1",
        "Host: ",
        "Host: localhost, evil.example",
        "Host: local host",
        "Host: LOCALHOST\u{0}",
        "Host: localhost\r\nHost: evil.example",
        "Host: evil.example\r\nHost: localhost",
        "X-Forwarded-Host: localhost",
        "Host: evil.example\r\nX-Forwarded-Host: localhost",
        "Host: localhost/evil",
        "Host: \u{2025}localhost",
        "Host: localhost..evil",
        "Host: [localhost]",
    ];
    for line in lines {
        let answer =
            target.send(&format!("GET /api/v1/status HTTP/1.1\r\n{line}\r\nConnection: close\r\n\r\n"))?;
        ensure!(answer.status >= 400, "{line:?} was answered with {}", answer.status);
    }
    let absolute = target.send(
        "GET http://evil.example/api/v1/status HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    )?;
    ensure!(
        absolute.status >= 400,
        "another host in the request's line was answered with {}",
        absolute.status
    );
    let right = target.get("/api/v1/status", &[])?;
    ensure!(right.status == 200, "the right host was answered with {}", right.status);
    Ok(format!("{} requests refused", lines.len() + 1))
}

pub(super) const STREAMS: Attack = Attack {
    name: "streams",
    does: "a local nobody opens 300 event streams over TCP and keeps them",
    failure: "root's own stream, command or ban over the control socket is refused or late",
    run: streams,
};

fn streams() -> Result<String> {
    let target = Target::start(super::clients::NO_LIMITS)?;
    let mut open = Vec::new();
    let mut refused = 0;
    for _ in 0..300 {
        let mut stream = target.connect()?;
        stream.write_all(b"GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n")?;
        let mut head = [0; 12];
        stream.read_exact(&mut head).context("could not read the head of an event stream")?;
        if head.ends_with(b"200") { open.push(stream) } else { refused += 1 }
    }
    ensure!(refused > 0, "all 300 streams were opened: there is no bound");
    drop(target.root_stream()?);
    target.home.command(&target.namespace, &["ban", "203.0.113.9"])?;
    let took = target.still_bans()?;
    Ok(format!("{} opened, {refused} refused; a ban took {} ms", open.len(), took.as_millis()))
}

pub(super) const SLOW_LORIS: Attack = Attack {
    name: "slow-loris",
    does: "900 connections send the first bytes of a request and then nothing",
    failure: "the page, root's command or a ban is late",
    run: slow_loris,
};

fn slow_loris() -> Result<String> {
    let target = Target::start(super::clients::NO_LIMITS)?;
    let mut slow = Vec::new();
    for _ in 0..900 {
        let mut stream = target.connect()?;
        stream.write_all(b"GET /api/v1/status HTTP/1.1\r\nHost: lo")?;
        slow.push(stream);
    }
    let answer = target.get("/api/v1/status", &[])?;
    ensure!(answer.status == 200, "the page was answered with {}", answer.status);
    target.status()?;
    let took = target.still_bans()?;
    Ok(format!("a ban took {} ms", took.as_millis()))
}

pub(super) const WEBHOOK_ENDS: Attack = Attack {
    name: "webhook-ends",
    does: "the webhook's other end never answers, answers without an end, with nonsense, with a redirect to the agent's own API, or with a Retry-After of years",
    failure: "a ban is late, memory grows, or the redirect is followed",
    run: webhook_ends,
};

fn webhook_ends() -> Result<String> {
    const ENDLESS: &[u8] = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    let ends: [&'static [u8]; 6] = [
        b"",
        ENDLESS,
        b"\x00\xff\xfe nonsense \r\n\r\n",
        b"HTTP/1.1 307 Temporary Redirect\r\nLocation: http://127.0.0.1:8080/api/v1/ban\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 99999999999\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 500 No\r\nContent-Length: 99999999999\r\n\r\nx",
    ];
    let mut worst = Duration::ZERO;
    for end in ends {
        let url_file = tempfile::NamedTempFile::new()?;
        std::fs::write(url_file.path(), "http://127.0.0.1:9999/hook")?;
        let hook = format!("[webhook]\nurl_file = {:?}\n{}", url_file.path(), super::clients::NO_LIMITS);
        let target = Target::start(&hook)?;
        let listener = target.namespace.enter(|| TcpListener::bind("127.0.0.1:9999"))?;
        // Ends with the process of this program; the namespace's sockets are then closed.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                std::thread::spawn(move || answer_badly(stream, end, end == ENDLESS));
            }
        });
        let before = target.memory()?;
        for _ in 0..5 {
            worst = worst.max(target.still_bans()?);
        }
        target.is_well()?;
        target.victim_is_free()?;
        let grown = target.memory()?.saturating_sub(before);
        ensure!(grown < 64 << 20, "memory grew by {} MiB", grown >> 20);
    }
    Ok(format!("slowest ban {} ms over {} kinds", worst.as_millis(), ends.len()))
}

fn answer_badly(mut stream: std::net::TcpStream, answer: &[u8], is_endless: bool) {
    let mut request = [0; 4096];
    let _ = stream.read(&mut request);
    if stream.write_all(answer).is_err() {
        return;
    }
    while is_endless && stream.write_all(b"4\r\nmore\r\n").is_ok() {}
    // Keeps the connection until the other side gives up.
    let _ = stream.read_to_end(&mut Vec::new());
}
