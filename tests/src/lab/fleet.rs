//! The story of `--fleet N`: a fleet of hosts with real agents, and what goes wrong between them.

use std::fs;
use std::net::Ipv4Addr;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use serde::Serialize;
use serde_json::Value;

use super::narrator::Narrator;
use crate::agent::Agent;
use crate::fleet::{Fleet, PATIENCE};
use crate::wait;

/// Bans of which the times are measured.
const ATTACKERS: u8 = 10;
/// How many new bans of one host each other lets count in a minute (`max_new_per_min`), and how many clients a poisoned host wants
/// banned: too many also where a minute ends between them.
const MAX_NEW_PER_MIN: u64 = 1_000;
const POISON: u32 = 2_500;
/// Written on one host, and allowed on another.
const ALLOWED: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 77);

/// All measurements. `None` stands for steps that were not reached.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// All steps succeeded.
    pub ok: bool,
    /// The step that failed, and its error.
    pub failed: Option<String>,
    /// From the first machine to the last check, in seconds.
    pub took_secs: f64,
    /// How many hosts took part.
    pub hosts: usize,
    /// From the offending line's write on one host to the entry in the XDP map of the last host, in milliseconds, sorted.
    pub spread_ms: Vec<u64>,
    /// The same with one server of three killed.
    pub spread_without_a_server_ms: Option<u64>,
    /// From the end of a partition to the ban that was missed, in milliseconds.
    pub caught_up_ms: Option<u64>,
    /// How many of the 2,500 clients that a poisoned host wanted banned each other host dropped.
    pub poisoned: Vec<u64>,
}

/// Runs the whole story on machines of its own, which are gone afterwards.
pub fn run(narrator: &mut Narrator, hosts: usize) -> Report {
    let started = Instant::now();
    let mut report = Report { hosts, ..Report::default() };
    let told = run_steps(narrator, hosts, &mut report);
    report.failed = narrator.ended(told);
    report.ok = report.failed.is_none();
    report.took_secs = started.elapsed().as_secs_f64();
    report
}

fn attacker(n: u8) -> Ipv4Addr {
    Ipv4Addr::new(203, 0, 113, n)
}

fn run_steps(narrator: &mut Narrator, many: usize, report: &mut Report) -> Result<()> {
    ensure!(many >= 3, "could not make a fleet of {many}: write 3 to 200 hosts");
    narrator.heading("The machines (network namespaces, deleted at the end)");
    let mut fleet = Fleet::create(many)?;
    narrator.step(format_args!(
        "{many} hosts, and three nats-servers with the permissions that `init fleet` writes"
    ));
    for n in 0..many {
        let allow = if n == 1 { format!("[allow]\nnetworks = [\"{ALLOWED}/32\"]\n") } else { String::new() };
        fleet.start_agent(n, &allow)?;
    }
    for host in &fleet.hosts {
        host.await_connected()?;
    }
    narrator.step("every agent has joined");

    narrator.heading("Banned on one, dropped on all");
    for n in 0..ATTACKERS {
        report.spread_ms.push(fleet.last_of_spread(usize::from(n) % many, attacker(100 + n))?);
    }
    report.spread_ms.sort_unstable();
    narrator.step(format_args!(
        "from the offending line on one to the XDP entry on the last of {many}: {:?} ms",
        report.spread_ms
    ));
    let who = fleet.hosts[2].json(&["bans"])?;
    let reason = who["bans"][0]["reason"].as_str().unwrap_or_default().to_owned();
    ensure!(who["bans"].to_string().contains("banned by web-1"), "no ban says that web-1 made it: {who}");
    narrator.note(reason);

    veto(narrator, &fleet)?;
    partition(narrator, &fleet, report)?;
    fewer_servers(narrator, &mut fleet, report)?;
    unban_and_forget(narrator, &fleet)?;
    poison(narrator, &fleet, report)
}

fn veto(narrator: &mut Narrator, fleet: &Fleet) -> Result<()> {
    narrator.heading("A veto");
    fleet.hosts[0].command(&["ban", &ALLOWED.to_string(), "--for", "10m"])?;
    fleet.hosts[2].await_drop(ALLOWED)?;
    wait::until("web-2 to hear of the ban that it vetoes", PATIENCE, || {
        Ok((fleet.hosts[1].origin("web-1")?["vetoed"].as_u64() > Some(0)).then_some(()))
    })?;
    ensure!(!fleet.hosts[1].drops(ALLOWED)?, "an allowed client is dropped on web-2");
    narrator.step(format_args!("web-2 allows {ALLOWED} and does not drop it, the others do"));
    Ok(())
}

fn partition(narrator: &mut Narrator, fleet: &Fleet, report: &mut Report) -> Result<()> {
    narrator.heading("A partition");
    let (missed, last) = (attacker(200), fleet.hosts.last().context("could not find the last host")?);
    fleet.hub.run(&["ip", "link", "set", &last.uplink, "down"])?;
    fleet.hosts[0].attack(missed)?;
    fleet.hosts[1].await_drop(missed)?;
    ensure!(!last.drops(missed)?, "a ban crossed a cut");
    fleet.hub.run(&["ip", "link", "set", &last.uplink, "up"])?;
    // The route went with the link.
    last.namespace.set_default_route(last.gateway).ok();
    let healed = Instant::now();
    let caught_up = last.await_drop(missed)?.duration_since(healed).as_millis() as u64;
    report.caught_up_ms = Some(caught_up);
    narrator.step(format_args!(
        "{} was cut off; {caught_up} ms after the cut it drops who was banned meanwhile",
        last.name
    ));
    Ok(())
}

fn fewer_servers(narrator: &mut Narrator, fleet: &mut Fleet, report: &mut Report) -> Result<()> {
    narrator.heading("One server of three is killed, one agent is started again");
    fleet.servers.pop();
    let spread = fleet.last_of_spread(0, attacker(201))?;
    report.spread_without_a_server_ms = Some(spread);
    narrator.step(format_args!("a ban is on all after {spread} ms"));
    let host = &mut fleet.hosts[1];
    host.agent.take().context("could not find an agent")?.stop()?;
    host.agent = Some(Agent::start(&host.namespace, &host.home, &[])?);
    ensure!(host.drops(attacker(201))?, "a restart lost a ban of another host");
    narrator.step("bans of other hosts outlive a restart");
    Ok(())
}

fn unban_and_forget(narrator: &mut Narrator, fleet: &Fleet) -> Result<()> {
    narrator.heading("An unban, and a host that is not believed any more");
    let (unbanned, forgotten) = (attacker(201), attacker(200));
    fleet.hosts[2].command(&["unban", &unbanned.to_string(), "--reason", "a customer"])?;
    for host in &fleet.hosts {
        host.await_lift(unbanned)?;
    }
    narrator.step("unbanned on web-3, let through on all");
    fleet.hosts[2].command(&["fleet", "forget", "web-1"])?;
    fleet.hosts[2].await_lift(forgotten)?;
    ensure!(fleet.hosts[0].drops(forgotten)?, "forgetting a host lifted its own ban");
    narrator.step("web-3 forgot web-1: what web-1 alone wanted is let through on web-3, and nowhere else");
    Ok(())
}

/// Whoever took a host over can say in its name what he likes.
fn poison(narrator: &mut Narrator, fleet: &Fleet, report: &mut Report) -> Result<()> {
    narrator.heading("A poisoned host");
    let (evil, others) = fleet.hosts.split_last().context("could not find the last host")?;
    let list = evil.home.folder().join("poison.txt");
    let clients = (0..POISON).map(|n| Ipv4Addr::from_bits(0xc612_0000 + n).to_string());
    fs::write(&list, clients.collect::<Vec<_>>().join("\n")).context("could not write a list")?;
    let counted = |origin: &Value| origin["counted"].as_u64().context("could not read what counts");
    let before =
        others.iter().map(|host| counted(&host.origin(&evil.name)?)).collect::<Result<Vec<u64>>>()?;
    evil.command(&["import", &list.display().to_string(), "--for", "permanent"])?;
    for (host, before) in others.iter().zip(before) {
        let origin = wait::until(&format!("{} to hear all of it", host.name), PATIENCE, || {
            let origin = host.origin(&evil.name)?;
            Ok((origin["bans"].as_u64() >= Some(u64::from(POISON))).then_some(origin))
        })?;
        let new = counted(&origin)?.saturating_sub(before);
        ensure!(new <= 2 * MAX_NEW_PER_MIN, "{} believes {new} new bans of one host at once", host.name);
        ensure!(origin["trust"] == "limited", "{} does not say so: {origin}", host.name);
        let status = host.json(&["status"])?;
        let part = format!("origin:{}", evil.name);
        let parts = status["parts"].as_array().context("could not find the parts")?;
        let is_said =
            parts.iter().any(|state| state["part"] == part.as_str() && state["state"] == "degraded");
        ensure!(is_said, "{} raises no alarm: {status}", host.name);
        let bans = host.json(&["bans", "--all"])?;
        let permanent =
            bans["bans"].as_array().map(|bans| bans.iter().filter(|ban| ban["ends_ms"].is_null()));
        let permanent = permanent.context("could not find the bans")?.count();
        ensure!(permanent == 0, "{} took over {permanent} permanent bans", host.name);
        report.poisoned.push(new);
    }
    narrator.step(format_args!(
        "{} wants {POISON} clients banned for ever: the others drop {:?} of them, none for ever, and say so",
        evil.name, report.poisoned
    ));
    let spread = fleet.last_of_spread(1, attacker(202))?;
    narrator.step(format_args!("a ban of web-2 is on all after {spread} ms all the same"));
    Ok(())
}
