//! `cargo xtask bench start`: the time from the start of the process until every restored ban is in force, and the memory that
//! takes. A real agent in a namespace, by turns after a boot (the kernel holds nothing, as all of it is gone with the machine's
//! memory) and after a restart (the kernel still drops every client).
//!
//! In force means: the agent tells systemd that it is ready, which is what web servers are ordered after, and both the XDP map
//! and the set hold every ban, asked of the kernel.

#![expect(clippy::print_stdout, reason = "the figures are this program's result")]

use std::net::Ipv4Addr;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use serde::Serialize;
use shield_agent::test_support::clock;
use shield_agent::test_support::store::{BootId, Settings, Store};
use shield_engine::action::{BanRecord, Record};
use shield_engine::ban::{Ban, Place};
use shield_engine::client::Client;
use shield_engine::time::{Ends, Now};
use shield_engine::verdict::{Evidence, PathCount, Rule};
use shield_tests::agent::Agent;
use shield_tests::lab::kernel::XdpBans;
use shield_tests::process::memory_mib;
use shield_tests::site::Site;
use shield_tests::wait;

/// Ends a start that hangs.
const TIMEOUT: Duration = Duration::from_secs(120);
/// Bans written in one transaction.
const AT_ONCE: u32 = 10_000;
/// The first of the banned addresses.
const FIRST: u32 = 0x0b00_0000;
/// The term of every ban: a day.
const TERM_MS: u64 = 86_400_000;
/// One ban in this many was made by a rule and has its evidence; the others are of a list.
const BY_RULE: u32 = 10;
/// The kernel frees the maps that are taken out for a boot in the background, for up to 0.1 s with 100,000 bans and a second with
/// five million. After a real boot there is nothing to free.
const FREED: Duration = Duration::from_secs(2);
/// Bans that are looked up in the kernel's map.
const SAMPLES: u32 = 1_000;

#[derive(Parser)]
#[command(about = "From the start of the agent to all bans in force")]
struct Arguments {
    /// Print one JSON object per line instead of a table
    #[arg(long)]
    json: bool,
    /// Bans in the database
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..=16_000_000))]
    bans: u32,
    /// Starts of each kind; the median and the slowest are shown
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
}

/// What the kernel holds before a start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Before {
    /// Nothing of Shield's.
    Boot,
    /// Everything.
    Restart,
}

impl Before {
    fn name(self) -> &'static str {
        match self {
            Before::Boot => "after a boot",
            Before::Restart => "after a restart",
        }
    }
}

#[derive(Debug, Serialize)]
struct Row {
    start: &'static str,
    bans: u32,
    starts: usize,
    /// Until XDP holds every ban.
    xdp_ms: f64,
    /// Until every enforcer does, as systemd is told.
    all_ms: f64,
    slowest_ms: f64,
    /// The most that was resident until then.
    peak_mib: f64,
}

/// One start.
struct Start {
    xdp: Duration,
    all: Duration,
    peak_mib: f64,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let bans = arguments.bans;
    let room = bans.max(1_000_000);
    let site = Site::create(&format!(
        "[ban]\nmax_bans = {room}\n[iptables]\nmax_bans_ipv4 = {room}\n[xdp]\nmax_bans_ipv4 = {room}\n"
    ))?;
    seed(&site.home.folder().join("state"), bans)?;
    // Not counted: the first makes what a first start makes and fills the kernel, the second records the seed's bans in the audit log.
    for _ in 0..2 {
        start(&site, bans).context("could not warm up")?;
    }
    let mut starts = [(Before::Boot, Vec::new()), (Before::Restart, Vec::new())];
    for _ in 0..arguments.rounds {
        for (before, taken) in &mut starts {
            if *before == Before::Boot {
                site.home.command(&site.server, &["cleanup"])?;
                std::thread::sleep(FREED);
            }
            taken.push(start(&site, bans)?);
        }
    }
    site.home.command(&site.server, &["cleanup"])?;
    if !arguments.json {
        println!("start                 bans   XDP ms   all ms   slowest ms   peak MiB");
    }
    for (before, taken) in &starts {
        let row = row(*before, bans, taken);
        if arguments.json {
            println!("{}", serde_json::to_string(&row)?);
        } else {
            let Row { start, xdp_ms, all_ms, slowest_ms, peak_mib, .. } = row;
            println!(
                "{start:<15} {bans:>10} {xdp_ms:>8.0} {all_ms:>8.0} {slowest_ms:>12.0} {peak_mib:>10.1}"
            );
        }
    }
    Ok(())
}

fn row(before: Before, bans: u32, starts: &[Start]) -> Row {
    let sorted = |of: fn(&Start) -> Duration| {
        let mut all: Vec<f64> = starts.iter().map(|start| of(start).as_secs_f64() * 1e3).collect();
        all.sort_by(f64::total_cmp);
        all
    };
    let (xdp, all) = (sorted(|start| start.xdp), sorted(|start| start.all));
    Row {
        start: before.name(),
        bans,
        starts: starts.len(),
        xdp_ms: xdp[xdp.len() / 2],
        all_ms: all[all.len() / 2],
        slowest_ms: all[all.len() - 1],
        peak_mib: starts.iter().map(|start| start.peak_mib).fold(0.0, f64::max),
    }
}

/// Starts the agent, waits until it says that it is ready, asks the kernel whether that is true, and stops it.
fn start(site: &Site, bans: u32) -> Result<Start> {
    let path = site.home.folder().join("notify.sock");
    // Of the start before.
    let _ = std::fs::remove_file(&path);
    let systemd = UnixDatagram::bind(&path).context("could not make the socket that stands for systemd's")?;
    systemd.set_read_timeout(Some(TIMEOUT)).context("could not set the time limit")?;
    let began = Instant::now();
    let agent = Agent::launch(&[], &site.server, &site.home, &[], &[("NOTIFY_SOCKET", path.as_os_str())])?;
    let pins = site.home.pins();
    let (xdp, all) = std::thread::scope(|scope| {
        let xdp = scope.spawn(|| wait_for_xdp(&pins, bans));
        let all = wait_until_ready(&systemd);
        let xdp = xdp.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        Ok::<_, anyhow::Error>((xdp?, all?))
    })
    .with_context(|| format!("could not start the agent; its log:\n{}", site.home.log()))?;
    let peak_mib = memory_mib(agent.pid(), "VmHWM")?;
    ensure_held(site, bans)?;
    let stopped = agent.stop()?;
    ensure!(stopped.success(), "the agent ended with an error:\n{}", site.home.log());
    Ok(Start { xdp: xdp - began, all: all - began, peak_mib })
}

fn wait_until_ready(systemd: &UnixDatagram) -> Result<Instant> {
    let mut message = [0; 4096];
    loop {
        let length = systemd.recv(&mut message).context("could not hear from the agent that it is ready")?;
        if message[..length].split(|byte| *byte == b'\n').any(|line| line == b"READY=1") {
            return Ok(Instant::now());
        }
    }
}

/// Waits until the map holds the first ban and the last one, between which all others are put in.
fn wait_for_xdp(pins: &Path, bans: u32) -> Result<Instant> {
    let mut held = None;
    wait::until("the bans in the XDP map", TIMEOUT, || {
        // Not pinned before the agent has made it.
        if held.is_none() {
            held = XdpBans::open(pins).ok();
        }
        let Some(held) = &held else { return Ok(None) };
        let all = held.holds(address(bans - 1))? && held.holds(address(0))?;
        Ok(all.then(Instant::now))
    })
}

/// Asks the kernel for the bans: the map for some from all over the list, the set for their number.
fn ensure_held(site: &Site, bans: u32) -> Result<()> {
    let xdp = XdpBans::open(&site.home.pins())?;
    for sample in 0..SAMPLES.min(bans) {
        let client = address((u64::from(sample) * u64::from(bans) / u64::from(SAMPLES.min(bans))) as u32);
        ensure!(xdp.holds(client)?, "{client} is not in the XDP map");
    }
    let listing = site.server.run(&["ipset", "-t", "list", "shield4"])?;
    let entries = listing.lines().find_map(|line| line.strip_prefix("Number of entries: ")?.parse().ok());
    ensure!(entries == Some(bans), "the set holds {entries:?} of {bans} bans:\n{listing}");
    Ok(())
}

fn address(number: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(FIRST + number)
}

/// Writes the bans into a new database.
fn seed(dir: &Path, bans: u32) -> Result<()> {
    let now = clock::now();
    let settings = Settings { dir: dir.to_owned(), ..Settings::default() };
    let (mut store, _) = Store::open(&settings, &BootId::current()?, now)?;
    let mut number = 0;
    while number < bans {
        let until = bans.min(number + AT_ONCE);
        let records: Vec<Record> = (number..until).map(|number| banned(number, now)).collect();
        store.commit(&records, now)?;
        number = until;
    }
    store.checkpoint()?;
    Ok(())
}

fn banned(number: u32, now: Now) -> Record {
    let by_rule = number.is_multiple_of(BY_RULE);
    let ban = Ban {
        client: Client::from(address(number)),
        serial: u64::from(number) + 1,
        since_ms: now.wall_ms,
        ends: Ends::after(now, TERM_MS),
        offence: None,
        rule: if by_rule { Rule::ZScore } else { Rule::Imported },
        place: Place::Everywhere,
    };
    let evidence = by_rule.then(|| Box::new(evidence(now)));
    let reason = (!by_rule).then(|| "listed".to_owned());
    Record::Banned(Box::new(BanRecord { ban, reason, evidence }))
}

fn evidence(now: Now) -> Evidence {
    let paths = (0..10).map(|n| PathCount { path: format!("/backup-{n}/site.sql.gz"), count: 10 - n });
    Evidence {
        rule: Rule::ZScore,
        condition: "z-score=5.43 > threshold=2.0".into(),
        rate: 3.72,
        mean: 0.1,
        stddev: 0.67,
        z_score: 5.43,
        threshold: 2.0,
        tightened: false,
        baseline: "floor".into(),
        window_secs: 60,
        requests: 223,
        errors: 200,
        measures: Vec::new(),
        top_paths: paths.collect(),
        account: Vec::new(),
        lines: (0..10).map(|n| format!("203.0.113.7 GET /backup-{n}/site.sql.gz 404 153")).collect(),
        sites: Vec::new(),
        policy: None,
        observe: None,
        at_secs: now.wall_secs(),
    }
}
