//! What happens by bad luck or by force: the agent is stopped or killed in the middle of its work.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use aya::maps::{HashMap, Map, MapData};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use shield_common::map_name;

use super::target::{Target, flood};
use super::{Attack, PATIENCE};
use crate::agent::{Agent, Home};
use crate::lab::kernel::BanWords;
use crate::mishap::SmallDisk;
use crate::netns::{End, Namespace, connect};
use crate::site::{ATTACKER, Site, VISITOR};
use crate::wait;

pub(super) const STOPPED: Attack = Attack {
    name: "stopped",
    does: "SIGSTOP for 4 s while lines come, then SIGCONT",
    failure: "the agent takes itself for hanging, or the attacker of meanwhile is not banned",
    run: stopped,
};

fn stopped() -> Result<String> {
    let target = Target::start(super::clients::NO_LIMITS)?;
    let pid = Pid::from_raw(i32::try_from(target.agent.pid())?);
    kill(pid, Signal::SIGSTOP).context("could not stop the agent")?;
    let meanwhile = target.fresh_client().to_string();
    target.write(&flood(&meanwhile)?)?;
    wait::sleep(Duration::from_secs(4))?;
    kill(pid, Signal::SIGCONT).context("could not continue the agent")?;
    wait::until(&format!("the ban of {meanwhile}"), PATIENCE, || {
        Ok(target.has_banned(&meanwhile)?.then_some(()))
    })?;
    target.is_well()?;
    let took = target.still_bans()?;
    ensure!(
        !target.home.log().contains("not gone on"),
        "a part was taken for hanging:\n{}",
        target.home.log()
    );
    Ok(format!("a ban took {} ms afterwards", took.as_millis()))
}

pub(super) const KILLED: Attack = Attack {
    name: "killed",
    does: "kill -9 at 10 moments while attackers are banned, and a new start each time",
    failure: "the bans of the ledger, of XDP and of iptables are not the same",
    run: killed,
};

fn killed() -> Result<String> {
    const KILLS: u32 = 10;
    const ATTACKERS: u32 = 40;
    let server = Namespace::create("server")?;
    let street = Namespace::create("street")?;
    connect(
        End { namespace: &server, interface: "eth0", addresses: &["192.0.2.80/24"] },
        End { namespace: &street, interface: "eth0", addresses: &["192.0.2.1/24"] },
    )?;
    let home = Home::create()?;
    let log = home.folder().join("access.log");
    std::fs::write(&log, "")?;
    let kernel = format!(
        "[xdp]\npin_dir = {:?}\ninterfaces = [\"eth0\"]\n[iptables]\nbackend = \"rules\"\n{}",
        home.pins(),
        super::clients::NO_LIMITS
    );
    home.configure(&log, "", &kernel)?;
    let append = |text: &str| -> Result<()> {
        use std::io::Write as _;
        Ok(std::fs::OpenOptions::new().append(true).open(&log)?.write_all(text.as_bytes())?)
    };
    // An agent that never ran begins at the log's end. From then on it loses nothing.
    let first = Agent::start_in_unit(&server, &home, &[])?;
    wait::until("the first agent to read its log", PATIENCE, || {
        append(&super::target::line("198.51.100.7", &super::target::time(), "/", 200))?;
        let status = home.json(&server, &["status"])?;
        Ok(status["totals"]["requests"].as_u64().filter(|requests| *requests > 0))
    })?;
    first.stop()?;
    let mut seen = 0;
    for round in 0..KILLS {
        let agent = Agent::start_in_unit(&server, &home, &[])?;
        let client = |n: u32| Ipv4Addr::from_bits(0xC612_0000 + round * ATTACKERS + n);
        let mut lines = String::new();
        for n in 0..ATTACKERS {
            lines.push_str(&flood(&client(n).to_string())?);
        }
        append(&lines)?;
        // Another moment each time: before the first ban, between two of them, after the last.
        wait::sleep(Duration::from_millis(u64::from(round) * 25))?;
        agent.kill()?;
        let agent = Agent::start_in_unit(&server, &home, &[])?;
        seen = wait::until("the ledger, XDP and iptables to hold the same", PATIENCE, || {
            let listed = ledger(&server, &home)?;
            let is_one = listed == in_xdp(&home)? && listed == in_iptables(&server)?;
            // The attackers of a moment before the kill are read from the log again.
            Ok((is_one && listed.len() >= (round * ATTACKERS) as usize).then_some(listed.len()))
        })
        .with_context(|| differences(&server, &home))?;
        drop(agent);
    }
    ensure!(seen > 0, "nobody was banned: this was no load");
    home.command(&server, &["cleanup"])?;
    Ok(format!("{KILLS} kills, {seen} bans, the same in all three each time"))
}

pub(super) const DISK_FULL: Attack = Attack {
    name: "disk-full",
    does: "the disk with the agent's state is full, first while 200 attackers come, then over a kill -9 and a start",
    failure: "one of them is not banned or not listed, the agent does not start, or does not recover once there is room",
    run: disk_full,
};

fn disk_full() -> Result<String> {
    let home = Home::create()?;
    let disk = SmallDisk::mount(&home.folder().join("state"))?;
    let target = Target::start_in(home, "", super::clients::NO_LIMITS)?;
    target.still_bans()?;
    disk.fill()?;
    let attackers: Vec<Ipv4Addr> = (0..200).map(|_| target.fresh_client()).collect();
    for attacker in &attackers {
        target.write(&flood(&attacker.to_string())?)?;
    }
    target.wait_until_banned(&attackers, PATIENCE)?;
    let listed = target.home.json(&target.namespace, &["bans", "--all"])?.to_string();
    let missing = attackers.iter().filter(|attacker| !listed.contains(&format!("\"{attacker}\""))).count();
    ensure!(missing == 0, "{missing} of {} bans are not listed", attackers.len());
    // A ban is in the kernel before the disk is asked.
    wait::until("the full disk to be said", PATIENCE, || {
        Ok(target.status()?["parts"].to_string().contains("free some space").then_some(()))
    })?;
    let target = target.start_again(Agent::kill, |_| Ok(()))?;
    let took = target.still_bans()?;
    disk.clear()?;
    wait::until("everything to be saved", Duration::from_secs(60), || {
        Ok((!target.status()?["parts"].to_string().contains("free some space")).then_some(()))
    })?;
    target.still_bans()?;
    // A file that was left empty by the full disk must not keep it from starting.
    let target = target.start_again(|agent| agent.stop().map(drop), |_| Ok(()))?;
    target.still_bans()?;
    target.is_well()?;
    drop(target);
    drop(disk);
    Ok(format!(
        "{} bans made and listed on the full disk; one took {} ms after a kill on it",
        attackers.len(),
        took.as_millis()
    ))
}

pub(super) const TWO_AGENTS: Attack = Attack {
    name: "two-agents",
    does: "a second agent with folders of its own is started in the same network namespace, again and again, and `cleanup` with its config, while the first holds a ban",
    failure: "the second starts or cleans up, or one of the attacker's requests meanwhile is answered",
    run: two_agents,
};

fn two_agents() -> Result<String> {
    let site = Site::create("")?;
    let agent = site.start_agent(&[])?;
    site.ban_attacker("10m")?;
    let second = Home::create()?;
    let tables = format!("[page]\nenabled = false\n[xdp]\npin_dir = {:?}\n", second.pins());
    second.configure(site.nginx.access_log(), "", &tables)?;
    let mut tries = 0;
    for _ in 0..3 {
        let Err(refused) = Agent::start_in_unit(&site.server, &second, &[]) else {
            bail!("a second agent runs beside the first");
        };
        let refused = format!("{refused:#}");
        ensure!(refused.contains(&format!("process {}", agent.pid())), "{refused}");
        let cleanup = second.command_output(&site.server, &["cleanup"])?;
        ensure!(!cleanup.status.success(), "the second's `cleanup` took the first's bans away");
        for _ in 0..4 {
            ensure!(site.request(ATTACKER)?.is_none(), "the attacker was answered");
            tries += 1;
        }
    }
    ensure!(site.request(VISITOR)? == Some(200), "a visitor is not answered");
    Ok(format!("refused with the first's process and folder; none of {tries} requests answered"))
}

fn ledger(server: &Namespace, home: &Home) -> Result<BTreeSet<Ipv4Addr>> {
    let bans = home.json(server, &["bans", "--all"])?;
    let rows = bans["bans"].as_array().context("could not find the bans")?;
    rows.iter()
        .map(|row| Ok(row["client"].as_str().context("could not find a ban's client")?.parse()?))
        .collect()
}

fn in_xdp(home: &Home) -> Result<BTreeSet<Ipv4Addr>> {
    let pin = home.pins().join("maps").join(map_name::BANS_V4);
    let data =
        MapData::from_pin(&pin).with_context(|| format!("could not open the map {}", pin.display()))?;
    let map: HashMap<_, [u8; 4], BanWords> = HashMap::try_from(Map::HashMap(data))?;
    map.keys().map(|key| Ok(Ipv4Addr::from(key?))).collect()
}

fn in_iptables(server: &Namespace) -> Result<BTreeSet<Ipv4Addr>> {
    let output = server.output(&["iptables", "--wait", "-S", "SHIELD"])?;
    if !output.status.success() {
        bail!("`iptables -S SHIELD` failed: {}", String::from_utf8_lossy(&output.stderr));
    }
    let rules = String::from_utf8_lossy(&output.stdout);
    let drops = rules.lines().filter(|rule| rule.ends_with("-j DROP"));
    let sources = drops.filter_map(|rule| rule.split(" -s ").nth(1)?.split(['/', ' ']).next());
    sources.map(|text| Ok(text.parse()?)).collect()
}

fn differences(server: &Namespace, home: &Home) -> String {
    let count = |found: Result<BTreeSet<Ipv4Addr>>| match found {
        Ok(found) => found.len().to_string(),
        Err(error) => format!("{error:#}"),
    };
    format!(
        "ledger {}, XDP {}, iptables {}\n{}",
        count(ledger(server, home)),
        count(in_xdp(home)),
        count(in_iptables(server)),
        home.log()
    )
}
