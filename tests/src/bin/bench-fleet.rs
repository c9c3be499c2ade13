//! `cargo xtask bench fleet`: a hundred whole agents, each in a namespace with XDP on its own interface, and three real
//! nats-servers. From the offending line's write on one host to the entry in the XDP map of the last; what an agent and a
//! server cost while nothing happens; how long a host that joins takes to drop 100,000 clients that another bans.
//!
//! An agent without a fleet beside them shows what the fleet adds. The maps are asked by turns, so that a measured time is never
//! shorter than the true one.

#![expect(clippy::print_stdout, reason = "the figures are this program's result")]

use std::fs;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use serde::Serialize;
use shield_tests::fleet::Fleet;
use shield_tests::lab::kernel::XdpBans;
use shield_tests::process::{cpu_secs, memory_mib};
use shield_tests::wait;

/// Loading 100,000 bans takes a while in a build without optimisations.
const LONG: Duration = Duration::from_secs(600);
/// Between two bans, so that each is measured alone.
const PAUSE: Duration = Duration::from_millis(100);
/// All are to be within it.
const LATE: Duration = Duration::from_secs(1);
const POLL: Duration = Duration::from_millis(2);
/// Resident anonymous memory.
const OWN: &str = "RssAnon";
/// Before the idle minutes begin.
const SETTLE: Duration = Duration::from_secs(15);

#[derive(Parser)]
#[command(about = "A fleet: spread of a ban, idle cost, a host that joins")]
struct Arguments {
    /// Print one JSON object a line instead of text
    #[arg(long)]
    json: bool,
    /// The hosts
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u16).range(2..=150))]
    hosts: u16,
    /// Bans whose spread is measured
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    bans: u32,
    /// How long the idle cost is measured, in seconds
    #[arg(long, default_value_t = 60)]
    idle: u64,
    /// Bans that a joining host finds
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..=400_000))]
    joined: u32,
}

/// From the offending line on one host to the drop on the last of all.
#[derive(Debug, Serialize)]
struct Spread {
    hosts: usize,
    bans: usize,
    p50_ms: f64,
    p99_ms: f64,
    max_ms: f64,
    /// Bans that took more than a second, and on how many hosts.
    late: Vec<usize>,
    load_average: String,
}

/// Cost with almost nothing to do: the mean over all hosts.
#[derive(Debug, Serialize)]
struct Idle {
    seconds: u64,
    /// CPU time as a percentage of one core.
    agent_core_percent: f64,
    agent_own_mib: f64,
    /// The same agent without a fleet.
    alone_core_percent: f64,
    alone_own_mib: f64,
    /// The busiest server.
    server_core_percent: f64,
}

/// Another host's bans, dropped by a host that joins.
#[derive(Debug, Serialize)]
struct Join {
    bans: u32,
    /// From the import's end on the first host until the servers have all.
    told_secs: f64,
    /// From the start of the joining agent's process until its XDP map has all.
    joined_secs: f64,
    load_average: String,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let (spread, idle) = many(&arguments)?;
    show(arguments.json, &spread, || {
        format!(
            "{} hosts, {} bans: from the line on one to the drop on the last p50 {:.0} ms, p99 {:.0} ms, max {:.0} ms; late on \
             {:?} hosts (load {})",
            spread.hosts,
            spread.bans,
            spread.p50_ms,
            spread.p99_ms,
            spread.max_ms,
            spread.late,
            spread.load_average
        )
    })?;
    show(arguments.json, &idle, || {
        format!(
            "idle over {} s: an agent {:.3} % of a core and {:.1} MiB of its own, without a fleet {:.3} % and {:.1} MiB; the \
             busiest server {:.2} %",
            idle.seconds,
            idle.agent_core_percent,
            idle.agent_own_mib,
            idle.alone_core_percent,
            idle.alone_own_mib,
            idle.server_core_percent
        )
    })?;
    let join = join(arguments.joined)?;
    show(arguments.json, &join, || {
        format!(
            "{} bans: told in {:.1} s, dropped by a host that joins after {:.1} s (load {})",
            join.bans, join.told_secs, join.joined_secs, join.load_average
        )
    })
}

fn show(is_json: bool, row: &impl Serialize, text: impl Fn() -> String) -> Result<()> {
    println!("{}", if is_json { serde_json::to_string(row)? } else { text() });
    Ok(())
}

fn many(arguments: &Arguments) -> Result<(Spread, Idle)> {
    let count = usize::from(arguments.hosts);
    // One more than take part: the last has no fleet.
    let mut fleet = Fleet::create(count + 1)?;
    for n in 0..count {
        fleet.start_agent(n, "")?;
    }
    for host in &fleet.hosts[..count] {
        host.await_connected()?;
    }
    let mut alone = fleet.hosts.pop().context("could not find the last host")?;
    let (mut taken, mut late) = (Vec::new(), Vec::new());
    for n in 0..arguments.bans {
        wait::sleep(PAUSE)?;
        // Each in a network of its own: many attackers in one are another case.
        let client = Ipv4Addr::from_bits(0x2000_0000 + n * 0x0001_0307);
        let each = fleet.spread(n as usize % count, client)?;
        let late_here = each.iter().filter(|taken| **taken > LATE).count();
        late.extend((late_here > 0).then_some(late_here));
        taken.push(each.last().context("could not find a running agent")?.as_secs_f64() * 1e3);
    }
    taken.sort_by(f64::total_cmp);
    let at = |share: f64| taken[((taken.len() - 1) as f64 * share).round() as usize];
    let spread = Spread {
        hosts: count,
        bans: taken.len(),
        p50_ms: at(0.5),
        p99_ms: at(0.99),
        max_ms: at(1.0),
        late,
        load_average: load_average()?,
    };
    alone.start("")?;
    wait::sleep(SETTLE)?;
    let pids = fleet.hosts.iter().filter_map(|host| host.agent.as_ref()).map(|agent| agent.pid());
    let pids: Vec<u32> = pids.collect();
    let servers: Vec<u32> = fleet.servers.iter().map(|server| server.pid()).collect();
    let alone_pid = alone.agent.as_ref().context("could not find the agent without a fleet")?.pid();
    let all: Vec<u32> = pids.iter().chain(&servers).chain([&alone_pid]).copied().collect();
    let cpu = || all.iter().map(|pid| cpu_secs(*pid)).collect::<Result<Vec<f64>>>();
    let (before, began) = (cpu()?, Instant::now());
    wait::sleep(Duration::from_secs(arguments.idle))?;
    let (after, took) = (cpu()?, began.elapsed().as_secs_f64());
    let percent: Vec<f64> =
        before.iter().zip(&after).map(|(before, after)| 100.0 * (after - before) / took).collect();
    let (agents, rest) = percent.split_at(pids.len());
    let own = pids.iter().map(|pid| memory_mib(*pid, OWN)).collect::<Result<Vec<f64>>>()?;
    let mean = |of: &[f64]| of.iter().sum::<f64>() / of.len().max(1) as f64;
    let idle = Idle {
        seconds: arguments.idle,
        agent_core_percent: mean(agents),
        agent_own_mib: mean(&own),
        alone_core_percent: rest[servers.len()],
        alone_own_mib: memory_mib(alone_pid, OWN)?,
        server_core_percent: rest[..servers.len()].iter().copied().fold(0.0, f64::max),
    };
    Ok((spread, idle))
}

fn join(bans: u32) -> Result<Join> {
    let mut fleet = Fleet::create(2)?;
    // The default believes 20,000 of one host.
    let more = format!("max_live = {}\nmax_new_per_min = {}\n", bans + 1, bans + 1);
    fleet.start_agent(0, &more)?;
    let client = |n: u32| Ipv4Addr::from_bits(0x2000_0000 + n * 331);
    let list = fleet.hosts[0].home.folder().join("list.txt");
    let lines = (0..bans).map(|n| client(n).to_string()).collect::<Vec<_>>().join("\n");
    fs::write(&list, lines).context("could not write a list")?;
    fleet.hosts[0].command(&["import", &list.display().to_string(), "--for", "6h"])?;
    let imported = Instant::now();
    wait::until("all bans to be told", LONG, || {
        let view = fleet.hosts[0].json(&["fleet"])?;
        Ok((view["own_bans"] == bans && view["waiting"] == 0).then_some(()))
    })?;
    let told_secs = imported.elapsed().as_secs_f64();
    let began = Instant::now();
    fleet.start_agent(1, &more)?;
    // It answers before its interfaces are protected.
    let pins = fleet.hosts[1].home.pins();
    let map = wait::until("the map of bans", LONG, || Ok(XdpBans::open(&pins).ok()))?;
    for n in 0..bans {
        while !map.holds(client(n))? {
            ensure!(began.elapsed() < LONG, "ban {n} of {bans} is not there after {} s", LONG.as_secs());
            wait::sleep(POLL)?;
        }
    }
    let joined_secs = began.elapsed().as_secs_f64();
    Ok(Join { bans, told_secs, joined_secs, load_average: load_average()? })
}

fn load_average() -> Result<String> {
    let text = fs::read_to_string("/proc/loadavg").context("could not read the load average")?;
    Ok(text.split_whitespace().next().unwrap_or_default().to_owned())
}
