//! Attempts to have somebody else banned: by what a client sends, and by what it makes other people's browsers send.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::clients::NO_LIMITS;
use super::target::{Target, VICTIM, time};
use super::{Attack, PATIENCE};
use crate::agent::Home;
use crate::netns::Namespace;
use crate::site::{ATTACKER, SERVER, Site, VISITOR};
use crate::wait;

pub(super) const LINES: Attack = Attack {
    name: "framing",
    does: "a client names 8.8.8.8 by a second `source_ip`, by nesting, by breaking out of its text in a log with escape=none, and by a forged container's line, 200 times each",
    failure: "8.8.8.8 is banned",
    run: lines,
};

/// A log as nginx writes it for one kind of text that a client can shape, here `TEXT`.
struct Frame {
    /// A whole line of an ordinary client.
    line: &'static str,
    /// What the attacker sends in place of `TEXT`.
    texts: &'static [&'static str],
}

/// No text here has a line break: nginx takes none in a request, and a format that unescapes one is refused by `check`.
const FRAMES: &[Frame] = &[
    // escape=none, with the client's text behind what the server wrote, and before it.
    Frame {
        line: r#"{"source_ip":"CLIENT","timestamp":"TIME","method":"GET","path":"/","status":404,"agent":"TEXT"}"#,
        texts: &[
            r#"x","source_ip":"8.8.8.8"#,
            r#"x","source_ip":"8.8.8.8","y":"#,
            r#"x","junk":{"source_ip":"8.8.8.8"},"y":"#,
            r#"x"},"z":{"source_ip":"8.8.8.8"#,
            r#"x","Source_IP":"8.8.8.8"#,
            r#"x","source_ip":["8.8.8.8"],"y":"#,
            r#"x","source\u005fip":"8.8.8.8"#,
            r#"x","remote_addr":"8.8.8.8","client":"8.8.8.8","ip":"8.8.8.8"#,
        ],
    },
    Frame {
        line: r#"{"agent":"TEXT","source_ip":"CLIENT","timestamp":"TIME","method":"GET","path":"/","status":404}"#,
        texts: &[
            r#"x","source_ip":"8.8.8.8","y":"#,
            r#"x","source_ip":"8.8.8.8","timestamp":"TIME","status":404,"junk":{"a":"#,
            r#"x","source_ip":"8.8.8.8"},"junk":{"a":"#,
        ],
    },
    // As a container's log holds it.
    Frame {
        line: r#"{"log":"{\"source_ip\":\"CLIENT\",\"timestamp\":\"TIME\",\"path\":\"/\",\"status\":404,\"agent\":\"TEXT\"}\n","stream":"stdout","time":"TIME"}"#,
        texts: &[
            r#"x\",\"source_ip\":\"8.8.8.8"#,
            r#"x\"}\n","source_ip":"8.8.8.8","log":"{\"a\":\""#,
            r#"x\"}\n","stream":"stdout","time":"TIME"}{"log":"{\"source_ip\":\"8.8.8.8\",\"timestamp\":\"TIME\",\"status\":404}\n","a":"#,
        ],
    },
    Frame {
        line: r#"CLIENT - - [CLF] "GET / HTTP/1.1" 404 512 "-" "TEXT""#,
        texts: &[r#"x" 8.8.8.8 - - [CLF] "GET / HTTP/1.1" 404 1 "-" "x"#, r#"\x22 8.8.8.8"#],
    },
];

fn lines() -> Result<String> {
    let mut forms = 0;
    for frame in FRAMES {
        let target = Target::start(NO_LIMITS)?;
        let now = jiff::Timestamp::now();
        let clf = now.strftime("%d/%b/%Y:%H:%M:%S +0000").to_string();
        let written = |client: &str, text: &str| {
            let line = frame.line.replace("CLIENT", client).replace("TEXT", text);
            line.replace("TIME", &time()).replace("CLF", &clf) + "\n"
        };
        // What the log looks like before anybody attacks.
        for n in 0..50 {
            target.write(&written(&format!("10.1.0.{n}"), "Mozilla/5.0"))?;
        }
        for text in frame.texts {
            let attacker = target.fresh_client().to_string();
            target.write(&written(&attacker, text).repeat(200))?;
            forms += 1;
        }
        // A forged line that began a file of its own kind would be read: this one is ordinary, and its client is banned.
        let ordinary = target.fresh_client().to_string();
        target.write(&written(&ordinary, "scanner").repeat(200))?;
        wait::until(&format!("the ban of {ordinary}"), PATIENCE, || {
            Ok(target.has_banned(&ordinary)?.then_some(()))
        })?;
        target.settle()?;
        target
            .victim_is_free()
            .with_context(|| format!("could not hold off lines such as {}", frame.line))?;
        target.is_well()?;
    }
    Ok(format!("{forms} forms in {} formats; the clients' own addresses are judged", FRAMES.len()))
}

pub(super) const FORWARDED: Attack = Attack {
    name: "forwarded",
    does: "a scanner sends 60 probes to a real nginx with the headers of proxies, all of which say 8.8.8.8; and to one that logs X-Forwarded-For, with and without a trusted proxy in front",
    failure: "8.8.8.8 or the proxy is banned, or the scanner is not",
    run: forwarded,
};

/// What proxies add, and what they are asked to say.
const HEADERS: &str = "X-Forwarded-For: 8.8.8.8\r\nX-Real-IP: 8.8.8.8\r\nForwarded: for=8.8.8.8\r\nX-Client-IP: 8.8.8.8\r\n\
                       CF-Connecting-IP: 8.8.8.8\r\nTrue-Client-IP: 8.8.8.8\r\nVia: 1.1 8.8.8.8\r\n";

fn forwarded() -> Result<String> {
    const PROBES: u32 = 60;
    let site = Site::create("")?;
    let _agent = site.start_agent(&[])?;
    let ask = |from: IpAddr, path: &str| -> Result<()> {
        let get =
            crate::http::Get { server: SERVER, from: Some(from), path, timeout: Duration::from_secs(1) };
        let mut stream: TcpStream = site.street.enter(|| get.open())?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: shop.example\r\n{HEADERS}Connection: close\r\n\r\n")?;
        stream.read_to_end(&mut Vec::new()).context("could not read the answer").map(drop)
    };
    ask(VISITOR, "/")?;
    for n in 0..PROBES {
        // Fails from the ban on.
        if ask(ATTACKER, &format!("/admin{n}.php.bak")).is_err() {
            break;
        }
    }
    let banned = || -> Result<Vec<String>> {
        Ok(site.bans()?.into_iter().map(|ban| ban.client.to_string()).collect())
    };
    wait::until("the scanner's ban", PATIENCE, || {
        Ok(banned()?.contains(&ATTACKER.to_string()).then_some(()))
    })
    .with_context(|| site.home.log())?;
    ensure!(banned()?.len() == 1, "somebody else is banned: {:?}", banned()?);

    // The same claims in a log that has the chain: from a trusted proxy and from the scanner itself.
    let more = format!("[allow]\ntrusted_proxies = [\"192.0.2.9/32\"]\n{NO_LIMITS}");
    let source = "fields = { forwarded_for = \"xff\" }\n";
    let target = Target::start_with(source, &more)?;
    let written = |peer: &str, chain: &str, n: u32| {
        let time = time();
        format!(
            "{{\"source_ip\":\"{peer}\",\"timestamp\":\"{time}\",\"method\":\"GET\",\"path\":\"/admin{n}.php.bak\",\
             \"status\":404,\"response_size\":512,\"xff\":\"{chain}\"}}\n"
        )
    };
    let direct = target.fresh_client().to_string();
    let behind = target.fresh_client().to_string();
    for n in 0..PROBES {
        target.write(&written(&direct, &VICTIM.to_string(), n))?;
        target.write(&written("192.0.2.9", &format!("{VICTIM}, {behind}"), n))?;
    }
    // Who is behind the proxy is not to be dropped at the packet, and without nginx's lines nobody is banned for it.
    wait::until(&format!("the ban of {direct}"), PATIENCE, || Ok(target.has_banned(&direct)?.then_some(())))?;
    target.settle()?;
    target.victim_is_free()?;
    ensure!(!target.has_banned("192.0.2.9")?, "the trusted proxy is banned");
    Ok("two scanners banned by their own connections, nobody else".to_owned())
}

pub(super) const FOREIGN_PICTURES: Attack = Attack {
    name: "foreign-pictures",
    does: "a page of another site embeds 5 probes of this one as pictures, so that the browsers of its good visitors, and of somebody new, ask for them at once",
    failure: "one of these visitors is banned",
    run: foreign_pictures,
};

/// How many pictures. The more, the less a browser can be told from a scanner: see the threat model.
const PICTURES: usize = 5;

fn foreign_pictures() -> Result<String> {
    /// How long the visitors are known for; each comes once in ten minutes.
    const KNOWN_SECS: u32 = 3 * 3_600;
    const VISITORS: u32 = 24;
    let home = Home::create()?;
    let namespace = Namespace::create("target")?;
    let began = jiff::Timestamp::now() - jiff::SignedDuration::from_hours(4);
    let line = |client: &str, at: u32, path: &str, status: u16| {
        let at = (began + jiff::SignedDuration::from_secs(at.into())).strftime("%d/%b/%Y:%H:%M:%S +0000");
        let foreign = if status == 200 { "-" } else { "https://other.example/" };
        format!("{client} - - [{at}] \"GET {path} HTTP/1.1\" {status} 512 \"{foreign}\" \"Mozilla/5.0\"\n")
    };
    let client = |n: u32| format!("198.18.{n}.7");
    let mut lines: Vec<(u32, String)> = Vec::new();
    for n in 0..VISITORS {
        for at in (n * 20..KNOWN_SECS).step_by(600) {
            for path in ["/", "/style.css", "/app.js", "/logo.png"] {
                lines.push((at, line(&client(n), at, path, 200)));
            }
            let next = format!("/news/{}", at % 17);
            lines.push((at + 20, line(&client(n), at + 20, &next, 200)));
        }
    }
    let probe = |n: usize| match n {
        0 => "/.env".to_owned(),
        1 => "/.git/config".to_owned(),
        2 => "/.aws/credentials".to_owned(),
        3 => "/phpmyadmin/".to_owned(),
        4 => "/wp-config.php.bak".to_owned(),
        5 => "/backup.sql".to_owned(),
        6 => "/.ssh/id_rsa".to_owned(),
        7 => "/config.php.old".to_owned(),
        8 => "/xmlrpc.php".to_owned(),
        9 => "/wp-login.php".to_owned(),
        _ => format!("/{}.php", (b'a' + n as u8 % 26) as char).repeat(1 + n / 26),
    };
    // The last of them comes for the first time.
    for n in 0..=VISITORS {
        let at = KNOWN_SECS + 10 * n;
        lines.extend((0..PICTURES).map(|number| (at, line(&client(n), at, &probe(number), 404))));
        lines.push((at + 5, line(&client(n), at + 5, "/", 200)));
    }
    // The same from somebody whom nobody knows, over some seconds: the log is judged.
    let scanner = "203.0.113.9";
    lines.extend((0..40).map(|n| {
        let at = KNOWN_SECS + 300 + n / 10;
        (at, line(scanner, at, &probe(n as usize), 404))
    }));
    lines.sort_by_key(|(at, _)| *at);
    let log = home.folder().join("access.log");
    std::fs::write(&log, lines.into_iter().map(|(_, line)| line).collect::<String>())?;
    let found = home.command(&namespace, &["replay", "--json", &log.to_string_lossy()])?;
    let is_banned = |client: &str| {
        let wanted = format!("\"client\":\"{client}\"");
        found.lines().any(|line| line.contains("\"event\":\"ban\"") && line.contains(&wanted))
    };
    ensure!(is_banned(scanner), "the scanner is not banned: {found:.500}");
    let hit = (0..=VISITORS).filter(|n| is_banned(&client(*n))).count();
    ensure!(hit == 0, "{hit} of {} visitors are banned", VISITORS + 1);
    Ok(format!("none of {} visitors banned, but a scanner that asked for more of the same", VISITORS + 1))
}

#[cfg(test)]
mod tests {
    use super::super::target::flood;
    use super::*;

    #[test]
    fn every_frame_names_the_victim_and_holds_its_client() {
        for frame in FRAMES {
            assert!(frame.line.contains("CLIENT") && frame.line.contains("TEXT"));
            assert!(frame.texts.iter().all(|text| text.contains(&VICTIM.to_string())));
        }
        assert!(flood("192.0.2.1").is_ok_and(|lines| lines.lines().count() == 200));
    }
}
