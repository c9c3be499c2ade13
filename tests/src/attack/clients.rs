//! Attacks by clients of the web server, who shape what its log says.

use std::net::{Ipv4Addr, Ipv6Addr};

use anyhow::{Context as _, Result, ensure};

use super::target::{Target, line, time};
use super::{Attack, PATIENCE};
use crate::wait;

/// Without the limits on how many are banned a minute, so that an attack can be repeated.
pub(super) const NO_LIMITS: &str = "[ban]\nalways_allowed = 1000000\nmax_bans_per_minute = 1000000\n";

pub(super) const TIMES: Attack = Attack {
    name: "times",
    does: "lines with times of 1970, 2038, 2106, 9999, with leap seconds and without sense",
    failure: "the engine hangs or ends, or bans nobody any more",
    run: times,
};

fn times() -> Result<String> {
    let target = Target::start(NO_LIMITS)?;
    let times = [
        "2106-02-07T06:28:15Z",
        "2106-02-07T06:28:16Z",
        "2038-01-19T03:14:07Z",
        "2038-01-19T03:14:08Z",
        "1970-01-01T00:00:00Z",
        "1969-12-31T23:59:59Z",
        "0001-01-01T00:00:00Z",
        "0000-00-00T00:00:00Z",
        "9999-12-31T23:59:59Z",
        "-9999-01-01T00:00:00Z",
        "+292277026596-12-04T15:30:08Z",
        "2026-02-30T25:61:61Z",
        "2016-12-31T23:59:60Z",
        "2026-01-01T00:00:00+99:99",
        "",
        "now",
    ];
    for odd in times {
        target.write(&line(&target.fresh_client().to_string(), odd, "/", 200))?;
        target.is_well()?;
    }
    for number in ["4294967295", "4294967296", "-1", "9223372036854775807", "1e308", "NaN"] {
        let client = target.fresh_client();
        target.write(&format!("{{\"source_ip\":\"{client}\",\"timestamp\":{number},\"status\":200}}\n"))?;
    }
    target.settle()?;
    target.is_well()?;
    let took = target.still_bans()?;
    Ok(format!("a ban took {} ms afterwards", took.as_millis()))
}

pub(super) const FRAMING: Attack = Attack {
    name: "framing",
    does: "a client names 8.8.8.8 by a second `source_ip`, by nesting, by breaking out of its text in a log with escape=none, and by a forged container's line, 200 times each",
    failure: "8.8.8.8 is banned",
    run: framing,
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

fn framing() -> Result<String> {
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

pub(super) const MUTATED_LINES: Attack = Attack {
    name: "mutated-lines",
    does: "60,000 lines with bytes changed, cut, doubled, or joined at random",
    failure: "the agent ends, hangs, bans 8.8.8.8 or nobody any more",
    run: mutated_lines,
};

fn mutated_lines() -> Result<String> {
    const LINES: u32 = 60_000;
    let target = Target::start(NO_LIMITS)?;
    let mut random = Random(0x5EED);
    let mut text = Vec::new();
    for n in 0..LINES {
        let client = Ipv4Addr::from_bits(0xC633_6400 + n % 256).to_string();
        let mut bytes = line(&client, &time(), "/index.html?a=1", 200).into_bytes();
        for _ in 0..=random.below(3) {
            let at = random.below(bytes.len() as u64) as usize;
            match random.below(4) {
                0 => bytes[at] = random.below(256) as u8,
                1 => bytes.truncate(at.max(1)),
                2 => bytes.extend_from_within(at..),
                _ => bytes.insert(at, b"\"{}[]:,\\\n\0"[random.below(10) as usize]),
            }
        }
        text.append(&mut bytes);
    }
    text.push(b'\n');
    target.write(&String::from_utf8_lossy(&text))?;
    target.settle()?;
    target.is_well()?;
    target.victim_is_free()?;
    let took = target.still_bans()?;
    Ok(format!("{LINES} lines; a ban took {} ms afterwards", took.as_millis()))
}

/// The same sequence in every run (a linear congruential generator, Knuth's constants).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

pub(super) const NETWORKS: Attack = Attack {
    name: "networks",
    does: "one attacker uses 300,000 IPv6 networks (/64), one request from each",
    failure: "memory grows beyond 300 MiB, or other attackers are no longer banned",
    run: networks,
};

fn networks() -> Result<String> {
    const NETWORKS: u128 = 300_000;
    let target = Target::start(NO_LIMITS)?;
    let time = time();
    for piece in 0..30 {
        let lines: String = (0..NETWORKS / 30)
            .map(|n| {
                let network = 0x2001_0db8_u128 << 96 | (piece * NETWORKS / 30 + n) << 64 | 1;
                line(&Ipv6Addr::from_bits(network).to_string(), &time, "/", 200)
            })
            .collect();
        target.write(&lines)?;
    }
    target.settle()?;
    let memory = target.memory()? >> 20;
    ensure!(memory < 300, "the agent takes {memory} MiB");
    let took = target.still_bans()?;
    Ok(format!("{memory} MiB; a ban took {} ms afterwards", took.as_millis()))
}

#[cfg(test)]
mod tests {
    use super::super::target::{VICTIM, flood};
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
