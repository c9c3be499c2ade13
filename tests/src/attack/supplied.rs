//! Attacks by whoever supplies or damages files.

use std::io::Write as _;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use flate2::Compression;
use flate2::write::GzEncoder;

use super::clients::NO_LIMITS;
use super::target::{Target, flood};
use super::{Attack, PATIENCE};
use crate::agent::{self, Agent, Home};
use crate::mishap;
use crate::site::{Site, VISITOR};
use crate::traffic::Outcome;
use crate::wait;

pub(super) const GZ_BOMB: Attack = Attack {
    name: "gz-bomb",
    does: "`replay` gets a log of 1 MB that unpacks to 1 GiB without a line break, between two ordinary parts",
    failure: "it takes more than two minutes or 300 MiB, or the attacker behind the bomb is not found",
    run: gz_bomb,
};

fn gz_bomb() -> Result<String> {
    const UNPACKED: usize = 1 << 30;
    const PIECE: usize = 1 << 20;
    const WITHIN: Duration = Duration::from_secs(120);
    let home = Home::create()?;
    let bomb = home.folder().join("access.log.1.gz");
    // Parts that follow each other are one file, as log rotation makes of it.
    let packed = |bytes: &[u8]| -> Result<Vec<u8>> {
        let mut part = GzEncoder::new(Vec::new(), Compression::best());
        part.write_all(bytes)?;
        part.finish().context("could not pack a part of the bomb")
    };
    let piece = packed(&vec![b'a'; PIECE])?;
    let mut parts = packed(flood("198.18.0.1")?.as_bytes())?;
    parts.extend(piece.repeat(UNPACKED / PIECE));
    parts.extend(packed(format!("\n{}", flood("198.18.0.2")?).as_bytes())?);
    std::fs::write(&bomb, parts).context("could not write the bomb")?;
    let size = std::fs::metadata(&bomb)?.len();

    let (output, began) = (home.folder().join("found"), Instant::now());
    let mut replay = std::process::Command::new(agent::binary()?)
        .args(["replay", "--json"])
        .arg(&bomb)
        .stdin(Stdio::null())
        .stdout(std::fs::File::create(&output)?)
        .stderr(Stdio::null())
        .spawn()
        .context("could not start the replay")?;
    let mut memory = 0;
    let ended = wait::until("the replay to end", WITHIN, || {
        memory = memory.max(super::target::peak_memory(replay.id()).unwrap_or(0));
        replay.try_wait().context("could not wait for the replay")
    });
    if ended.is_err() {
        let _ = replay.kill();
        let _ = replay.wait();
    }
    let took = began.elapsed();
    ensure!(ended?.success(), "the replay failed");
    let found = std::fs::read_to_string(&output)?;
    for attacker in ["198.18.0.1", "198.18.0.2"] {
        ensure!(found.contains(attacker), "{attacker} is not found: {found:.300}");
    }
    ensure!(memory >> 20 < 300, "it took {} MiB", memory >> 20);
    Ok(format!("{} kB in {:.1} s with {} MiB", size >> 10, took.as_secs_f64(), memory >> 20))
}

pub(super) const AUDIT_CUT: Attack = Attack {
    name: "audit-cut",
    does: "somebody empties the audit file, and cuts its end off, while the agent is stopped; and cuts it under the running agent",
    failure: "`audit verify` calls it intact, or the agent records nothing of it or bans nobody any more",
    run: audit_cut,
};

fn audit_cut() -> Result<String> {
    let mut target = Target::start(NO_LIMITS)?;
    let stop = |agent: Agent| agent.stop().map(drop);
    let cut = |home: &Home, keep: fn(usize) -> usize| -> Result<()> {
        let text = std::fs::read_to_string(home.audit()).context("could not read the audit log")?;
        let lines = text.lines().count();
        let kept: String = text.split_inclusive('\n').take(keep(lines)).collect();
        let file = std::fs::OpenOptions::new().write(true).open(home.audit())?;
        file.set_len(kept.len() as u64).context("could not cut the audit log")
    };
    let ways: [fn(usize) -> usize; 2] = [|_| 0, |lines| lines - 2];
    let mut found = 0;
    for keep in ways {
        for _ in 0..5 {
            target.still_bans()?;
        }
        // What the database remembers is at most this old.
        wait::sleep(Duration::from_secs(6))?;
        let mut words = String::new();
        target = target.start_again(stop, |home| {
            cut(home, keep)?;
            let verified = std::process::Command::new(agent::binary()?)
                .args(["audit", "verify", "--config"])
                .arg(home.config())
                .output()
                .context("could not start `audit verify`")?;
            words = String::from_utf8_lossy(&verified.stdout).into_owned();
            ensure!(verified.status.code() == Some(1), "`audit verify` calls it intact: {words}");
            Ok(())
        })?;
        ensure!(words.contains("missing at the end"), "{words}");
        found += 1;
        recorded(&target, found)?;
    }
    for _ in 0..5 {
        target.still_bans()?;
    }
    cut(&target.home, |lines| lines / 2)?;
    let left = losses(&target)?;
    let took = target.still_bans()?;
    recorded(&target, left + 1)?;
    Ok(format!("found and recorded {} times; a ban took {} ms afterwards", found + 1, took.as_millis()))
}

/// How often the audit log says that lines were lost.
fn losses(target: &Target) -> Result<usize> {
    let text = std::fs::read_to_string(target.home.audit()).context("could not read the audit log")?;
    Ok(text.matches("\"event\":\"lines_lost\"").count())
}

fn recorded(target: &Target, times: usize) -> Result<()> {
    wait::until("the loss to be recorded", PATIENCE, || Ok((losses(target)? >= times).then_some(())))
}

pub(super) const DAMAGED_DATABASE: Attack = Attack {
    name: "damaged-database",
    does: "the database's first page is overwritten while the agent is stopped and an attacker goes on, banned in XDP, in sets, or in single rules",
    failure: "one request of the attacker is answered, or nothing is said of the damage",
    run: damaged_database,
};

fn damaged_database() -> Result<String> {
    let kinds = [
        "[iptables]\nmode = \"off\"\n",
        "[iptables]\nbackend = \"ipset\"\n[xdp]\nmode = \"off\"\n",
        "[iptables]\nbackend = \"rules\"\n[xdp]\nmode = \"off\"\n",
    ];
    let mut asked = 0;
    for kind in kinds {
        let site = Site::create(kind)?;
        let agent = site.start_agent(&[])?;
        site.ban_attacker("47m")?;
        ensure!(agent.stop()?.success(), "the agent ended with an error");
        mishap::damage(&site.home.folder().join("state/shield.db"))?;
        let attempts = site.persistent_attacker();
        let _agent = site.start_agent(&[])?;
        let part = site.status()?.parts.into_iter().find(|part| part.part == "restored state");
        let text = part.context("could not find the part for what was restored")?.text;
        ensure!(text.contains("taken over from the kernel"), "{text}");
        wait::sleep(Duration::from_secs(5))?;
        let samples = attempts.stop();
        let answered = samples.iter().filter(|sample| matches!(sample.outcome, Outcome::Answered(..)));
        let answered = answered.count();
        if answered > 0 {
            bail!("{answered} of {} requests were answered with {kind:?}", samples.len());
        }
        ensure!(site.request(VISITOR)? == Some(200), "a visitor is not answered");
        asked += samples.len();
    }
    Ok(format!("none of {asked} requests answered; the bans were taken over from the kernel"))
}
