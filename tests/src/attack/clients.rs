//! Attacks by clients of the web server, who shape what its log says.

use std::net::{Ipv4Addr, Ipv6Addr};

use anyhow::{Result, ensure};

use super::Attack;
use super::target::{Target, line, time};

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
