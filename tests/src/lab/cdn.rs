//! The profiles `cdn` and `container`: every client comes by one proxy, so that the kernel can drop nobody, and nginx itself refuses
//! the banned. In the second, nginx is in a container behind its host's gateway, and has the host's folder mounted read-only.

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, anyhow, ensure};
use serde::Serialize;
use shield_agent::test_support::api::types::Ban;

use super::narrator::Narrator;
use crate::agent::{Agent, Home};
use crate::netns::{End, Namespace, connect};
use crate::proxied::{Connection, ProxiedNginx};

const SERVER: &str = "192.0.2.80";
const PROXY: &str = "192.0.2.10";
/// The gateway of the container's network, and the container.
const GATEWAY: &str = "172.17.0.1";
const CONTAINER: &str = "172.17.0.2";
const VISITORS: [&str; 5] =
    ["198.51.100.2", "198.51.100.6", "203.0.113.70", "2001:db8:ca01::2", "2001:db8:da7e::2"];
/// Bans one after another, each of another address behind the proxy.
const ATTACKERS: u8 = 20;
/// The longest time from a ban to nginx's first refusal, for the slowest of a hundred.
const REFUSED_WITHIN_MS: i64 = 20;
/// nginx keeps the proxy's connection open after this one.
const REFUSED: u16 = 403;
const PATIENCE: Duration = Duration::from_secs(15);
const VISITOR_PAUSE: Duration = Duration::from_millis(20);

/// What stands between nginx and its clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Front {
    /// A proxy.
    Cdn,
    /// A proxy, and the gateway of the container that nginx is in.
    Container,
}

/// Something that was to be shown.
#[derive(Debug, Serialize)]
pub struct Check {
    /// What it is.
    pub what: &'static str,
    /// The figures.
    pub found: String,
    /// Whether they are as they should be.
    pub ok: bool,
}

/// All measurements. `None` stands for steps that were not reached.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// All steps succeeded.
    pub ok: bool,
    /// The step that failed, and its error.
    pub failed: Option<String>,
    /// From the first machine to the last check, in seconds.
    pub took_secs: f64,
    /// Attackers that were banned.
    pub bans: usize,
    /// From the start of a ban to the first request of its client that nginx refused, in milliseconds. The clock of bans has a
    /// resolution of 1 ms.
    pub refused_p50_ms: Option<i64>,
    /// The same for the slowest of a hundred.
    pub refused_p99_ms: Option<i64>,
    /// Requests of the visitors during all bans, and those that were not answered with 200.
    pub visitors: Option<Visits>,
    /// The same with the agent killed.
    pub visitors_without_agent: Option<Visits>,
    /// nginx's workers were replaced.
    pub reloaded: Option<bool>,
    /// What `shield-agent cleanup` left in nginx's folder.
    pub left: Vec<String>,
    /// What was to be shown.
    pub checks: Vec<Check>,
}

impl Report {
    fn check(&mut self) {
        let mut add = |what, found: String, ok| self.checks.push(Check { what, found, ok });
        if let Some(ms) = self.refused_p99_ms {
            add(
                "an attacker's first refused request, 99 of 100",
                format!("{ms} ms after the ban, at most {REFUSED_WITHIN_MS}"),
                ms <= REFUSED_WITHIN_MS,
            );
        }
        let visits = [
            ("everybody else is served", self.visitors),
            ("the agent is killed, the site goes on serving", self.visitors_without_agent),
        ];
        for (what, visits) in visits {
            if let Some(Visits { requests, lost }) = visits {
                add(what, format!("{lost} of {requests} requests lost"), lost == 0 && requests > 0);
            }
        }
        if let Some(reloaded) = self.reloaded {
            let left = self.left.len();
            add("cleanup leaves an empty folder", format!("{left} files left"), left == 0);
            add("nginx is not reloaded", format!("{} reloads", u8::from(reloaded)), !reloaded);
        }
    }
}

/// Requests of visitors.
#[derive(Debug, Default, Clone, Copy, Serialize)]
pub struct Visits {
    /// All of them.
    pub requests: u64,
    /// Those that were not answered with 200.
    pub lost: u64,
}

/// Runs the whole story on machines of its own, which are gone afterwards.
pub fn run(narrator: &mut Narrator, front: Front) -> Report {
    let started = Instant::now();
    let mut report = Report::default();
    let told = run_steps(narrator, front, &mut report);
    report.check();
    for Check { what, found, ok } in &report.checks {
        match ok {
            true => narrator.step(format_args!("holds: {what}: {found}")),
            false => narrator.failed(format_args!("FAILS: {what}: {found}")),
        }
    }
    report.failed = narrator.ended(told);
    report.ok = report.failed.is_none() && report.checks.iter().all(|check| check.ok);
    report.took_secs = started.elapsed().as_secs_f64();
    report
}

/// The network namespace of the container, whose published port is the server's port 80, by way of its gateway.
fn container(server: &Namespace) -> Result<Namespace> {
    let container = Namespace::create("container")?;
    connect(
        End { namespace: server, interface: "docker0", addresses: &[&format!("{GATEWAY}/16")] },
        End { namespace: &container, interface: "eth0", addresses: &[&format!("{CONTAINER}/16")] },
    )?;
    container.set_default_route(GATEWAY.parse()?)?;
    server.enable_forwarding()?;
    let to = format!("{CONTAINER}:80");
    let nat = ["iptables", "--wait", "--table", "nat", "--append"];
    server.run(
        &[&nat[..], &["PREROUTING", "-i", "eth0", "-p", "tcp", "--dport", "80", "-j", "DNAT", "--to", &to]]
            .concat(),
    )?;
    server.run(&[&nat[..], &["POSTROUTING", "-o", "docker0", "-j", "MASQUERADE"]].concat())?;
    Ok(container)
}

fn run_steps(narrator: &mut Narrator, front: Front, report: &mut Report) -> Result<()> {
    narrator.heading("The machines (network namespaces, deleted at the end)");
    let server = Namespace::create("server")?;
    let proxy = Namespace::create("proxy")?;
    connect(
        End { namespace: &server, interface: "eth0", addresses: &[&format!("{SERVER}/24")] },
        End { namespace: &proxy, interface: "eth0", addresses: &[&format!("{PROXY}/24")] },
    )?;
    let container = match front {
        Front::Cdn => None,
        Front::Container => Some(container(&server)?),
    };
    let peer = if container.is_some() { GATEWAY } else { PROXY };
    let home = Home::create()?;
    let run = tempfile::tempdir_in("/dev/shm").context("could not create a folder in /dev/shm")?;
    fs::set_permissions(run.path(), Permissions::from_mode(0o755))?;
    let (folder, denied) = (home.folder().join("nginx"), run.path().join("deny"));
    fs::create_dir(&folder)?;
    let from = peer.parse::<IpAddr>()?;
    let nginx = match &container {
        None => ProxiedNginx::start_in(&server, &folder, &denied, REFUSED, from)?,
        Some(container) => {
            // Docker makes the folder of a mount, if the agent has not.
            fs::create_dir(&denied)?;
            ProxiedNginx::start_in_container(container, &folder, &denied, REFUSED, from)?
        }
    };
    let more = format!(
        "[page]\nenabled = false\n[nginx]\nmode = \"required\"\nfolder = {denied:?}\nstatus = {REFUSED}\n"
    );
    home.configure(nginx.access_log(), "", &more)?;
    let agent = Agent::start(&server, &home, &[])?;
    let workers = nginx.workers()?;
    let place = if container.is_some() { ", nginx in a container," } else { " with nginx" };
    narrator.step(format_args!("server {SERVER}{place} and shield-agent; the proxy {PROXY} in front"));

    let mut line = open(&proxy)?;
    for visitor in VISITORS {
        line.get(visitor, "/")?;
    }
    let visits = Visitors::start(&proxy)?;
    narrator.heading("Attackers behind the proxy");
    let mut refused_at = Vec::new();
    for number in 0..ATTACKERS {
        let attacker = format!("203.0.113.{}", 100 + number);
        refused_at.push((attacker.clone(), attack(&mut line, &attacker, &home)?));
    }
    let bans: Vec<Ban> = bans(&home, &server)?;
    let mut delays = Vec::new();
    for (attacker, at_ms) in &refused_at {
        let ban = bans.iter().find(|ban| ban.client.to_string() == *attacker);
        let ban = ban.with_context(|| format!("could not find the ban of {attacker}, who was refused"))?;
        let reason = ban.reason.as_deref().unwrap_or_default();
        ensure!(reason.contains(&format!("packets come from {peer}")), "{attacker}: {reason:?}");
        delays.push(at_ms - ban.since_ms);
    }
    delays.sort_unstable();
    report.bans = delays.len();
    report.refused_p50_ms = quantile(&delays, 50);
    report.refused_p99_ms = quantile(&delays, 99);
    narrator.step(format_args!(
        "{} attackers banned; from a ban to nginx's first refusal {delays:?} ms",
        delays.len()
    ));
    let seen = visits.stop()?;
    report.visitors = Some(seen);
    ensure!(seen.lost == 0, "{} of {} requests of visitors were lost", seen.lost, seen.requests);
    narrator.step(format_args!("visitors behind the same proxy: all of {} requests answered", seen.requests));

    narrator.heading("The agent is killed");
    let visits = Visitors::start(&proxy)?;
    agent.kill()?;
    for (attacker, _) in &refused_at {
        ensure!(line.get(attacker, "/")?.0 == REFUSED, "{attacker} is served after the agent's end");
    }
    visits.wait_for(50);
    let seen = visits.stop()?;
    report.visitors_without_agent = Some(seen);
    ensure!(seen.lost == 0, "{} of {} requests of visitors were lost", seen.lost, seen.requests);
    narrator.step(format_args!(
        "the site goes on: all of {} requests answered, the banned refused",
        seen.requests
    ));

    home.command(&server, &["cleanup"])?;
    report.left = files(&denied)?;
    ensure!(report.left.is_empty(), "cleanup left {}", report.left.join(", "));
    ensure!(line.get("203.0.113.100", "/")?.0 == 200, "a client is refused after the clean-up");
    report.reloaded = Some(numbers(&nginx.workers()?) != numbers(&workers));
    ensure!(report.reloaded == Some(false), "nginx was reloaded");
    narrator.step("`shield-agent cleanup`: no file is left; nginx was not reloaded once");
    Ok(())
}

fn open(proxy: &Namespace) -> Result<Connection<TcpStream>> {
    Connection::open(proxy, SocketAddr::new(SERVER.parse()?, 80))
}

/// Probes until nginx refuses; returns the wall clock's time of the first refusal.
fn attack(line: &mut Connection<TcpStream>, attacker: &str, home: &Home) -> Result<i64> {
    let deadline = Instant::now() + PATIENCE;
    for number in 0.. {
        if line.get(attacker, &format!("/.git/config{number}"))?.0 == REFUSED {
            break;
        }
        ensure!(Instant::now() < deadline, "{attacker} was not refused; the agent's log:\n{}", home.log());
        std::thread::sleep(Duration::from_millis(1));
    }
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .context("could not read the clock: it is before 1970")?;
    Ok(i64::try_from(now.as_millis())?)
}

fn bans(home: &Home, server: &Namespace) -> Result<Vec<Ban>> {
    let shown = home.json(server, &["bans", "--limit", "1000"])?;
    let bans = shown.get("bans").cloned().unwrap_or(shown);
    serde_json::from_value(bans).context("could not read the bans")
}

/// By the nearest-rank method.
fn quantile(sorted: &[i64], percent: usize) -> Option<i64> {
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted.get(rank.checked_sub(1)?).copied()
}

fn numbers(text: &str) -> BTreeSet<&str> {
    text.split_whitespace().collect()
}

/// The files below a folder that may not be there.
fn files(folder: &std::path::Path) -> Result<Vec<String>> {
    let Ok(entries) = fs::read_dir(folder) else { return Ok(Vec::new()) };
    entries.map(|entry| Ok(entry?.path().display().to_string())).collect()
}

/// Visitors who ask all the time, by a connection of the proxy's.
struct Visitors {
    stops: Arc<AtomicBool>,
    asked: Arc<AtomicU64>,
    thread: JoinHandle<Result<Visits>>,
}

impl Visitors {
    fn start(proxy: &Namespace) -> Result<Visitors> {
        let mut line = open(proxy)?;
        let (stops, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stop, count) = (Arc::clone(&stops), Arc::clone(&asked));
        let thread = std::thread::spawn(move || {
            let mut visits = Visits::default();
            for visitor in VISITORS.iter().cycle() {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                visits.requests += 1;
                visits.lost += u64::from(line.get(visitor, "/")?.0 != 200);
                count.store(visits.requests, Ordering::Relaxed);
                std::thread::sleep(VISITOR_PAUSE);
            }
            Ok(visits)
        });
        Ok(Visitors { stops, asked, thread })
    }

    /// Waits until so many requests were sent, or the thread has ended.
    fn wait_for(&self, requests: u64) {
        let deadline = Instant::now() + PATIENCE;
        while self.asked.load(Ordering::Relaxed) < requests
            && !self.thread.is_finished()
            && Instant::now() < deadline
        {
            std::thread::sleep(VISITOR_PAUSE);
        }
    }

    fn stop(self) -> Result<Visits> {
        self.stops.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow!("the visitors' thread panicked"))?
    }
}
