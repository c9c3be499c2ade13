//! `cargo xtask bench latency`: the time from the `write()` of the offending lines to the entry in the XDP map, and to the
//! iptables rule. A real agent in a namespace, once with nothing else in the log, once with 200,000 lines per second of
//! other clients' traffic, and once while 64 connections ask its API for what costs the most.
//!
//! `watch` observes the kernel, not the agent; `load` writes the other traffic, `api` asks, `explain` says why a ban was late.

#![expect(clippy::print_stdout, reason = "the figures are this program's result")]

mod api;
mod explain;
mod load;
mod watch;

use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use serde::Serialize;
use shield_agent::test_support::clock;
use shield_tests::agent::Agent;
use shield_tests::lab::kernel;
use shield_tests::site::Site;

use api::Flood;
use explain::{Accounts, Slow};
use load::{Load, timestamp};
use watch::{RuleWatch, XdpWatch};

/// Targets that no page links to; more than enough of them, because what one second brings counts for less.
const PROBES: [&str; 15] = [
    "/.env",
    "/.git/config",
    "/.aws/credentials",
    "/.ssh/id_rsa",
    "/.svn/entries",
    "/phpmyadmin/",
    "/wp-login.php",
    "/wp-signup.php",
    "/cgi-bin/test.cgi",
    "/mysqladmin/",
    "/config.php",
    "/shell.php",
    "/backup.php",
    "/admin.php",
    "/old.php",
];

/// Time limit for one ban.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Pause between two bans; a prime, so that it does not stay in phase with a timer of the agent.
const PAUSE: Duration = Duration::from_millis(37);

/// Duration of the load before the first ban under it.
const SETTLE: Duration = Duration::from_secs(3);

/// Bans that are not counted.
const WARM_UP: u32 = 5;

/// The highest priority.
const WATCHER_NICE: i32 = -20;

#[derive(Parser)]
#[command(about = "Milliseconds from a written line to its drop in the kernel")]
struct Arguments {
    /// Print one JSON object per line instead of a table
    #[arg(long)]
    json: bool,
    /// Bans in each case; at most 250, because beyond 256 the agent uses a set, whose changes announce no rule
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=250))]
    bans: u32,
    /// Lines per second of other clients' traffic in the loaded case
    #[arg(long, default_value_t = 200_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    load: u64,
    /// Say of each ban that XDP held later than so many milliseconds what took the time
    #[arg(long, num_args = 0..=1, default_missing_value = "5", value_name = "MS")]
    explain_slow: Option<f64>,
}

/// What goes on beside the bans.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Beside {
    Nothing,
    /// So many lines a second.
    Lines(u64),
    Api,
}

/// A row of the result.
#[derive(Debug, Serialize)]
struct Row {
    enforcer: &'static str,
    /// `none`, `lines`, or `api`.
    load: &'static str,
    /// Lines, or answers of the API, a second, as measured.
    load_per_sec: u64,
    bans: usize,
    p50_ms: f64,
    p99_ms: f64,
    max_ms: f64,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    if !arguments.json {
        println!("enforcer  load     a second   bans     p50 ms     p99 ms     max ms");
    }
    for beside in [Beside::Nothing, Beside::Lines(arguments.load), Beside::Api] {
        for row in measure(&arguments, beside)? {
            print(&row, arguments.json)?;
        }
    }
    Ok(())
}

fn print(row: &Row, as_json: bool) -> Result<()> {
    if as_json {
        println!("{}", serde_json::to_string(row)?);
        return Ok(());
    }
    let Row { enforcer, load, load_per_sec, bans, p50_ms, p99_ms, max_ms } = row;
    println!(
        "{enforcer:<9} {load:<6} {load_per_sec:>10} {bans:>6} {p50_ms:>10.2} {p99_ms:>10.2} {max_ms:>10.2}"
    );
    Ok(())
}

/// Measures all bans of one case, with an agent of its own.
fn measure(arguments: &Arguments, beside: Beside) -> Result<[Row; 2]> {
    let site = Site::create("[ban]\nalways_allowed = 1000000\nmax_bans_per_minute = 1000000\n")?;
    if arguments.explain_slow.is_some() {
        explain::ask_for_stages(&site.home)?;
    }
    let agent = Agent::start(&site.server, &site.home, &[])?;
    site.wait_until_protected()?;
    let log = site.nginx.access_log();
    let mut attacker = Attacker {
        log: File::options().append(true).open(log).context("could not open the log")?,
        rules: site.server.enter(RuleWatch::open)?,
        xdp: XdpWatch::open(&site.home.pins())?,
        next: 0,
        agent: agent.pid(),
        slow_ms: arguments.explain_slow,
        slow: Vec::new(),
    };
    let load = match beside {
        Beside::Lines(per_sec) => Some(Load::start(log, per_sec)?),
        Beside::Nothing | Beside::Api => None,
    };
    let flood = (beside == Beside::Api).then(|| Flood::start(&site.server)).transpose()?;
    if beside != Beside::Nothing {
        std::thread::sleep(SETTLE);
    }
    set_priority(WATCHER_NICE)?;
    attacker.measure_bans(WARM_UP).context("could not warm up")?;
    attacker.slow.clear();
    let taken = attacker.measure_bans(arguments.bans)?;
    set_priority(0)?;
    let load_per_sec = match (load, flood) {
        (Some(load), _) => load.stop()?,
        (None, Some(flood)) => flood.stop()?,
        (None, None) => 0,
    };
    let last = attacker.address(attacker.next - 1);
    ensure!(kernel::iptables_rule(&site.server, last.into())?.is_some(), "iptables does not show the rule");
    let stopped = agent.stop()?;
    ensure!(stopped.success(), "the agent ended with an error:\n{}", site.home.log());
    site.home.command(&site.server, &["cleanup"])?;
    if !arguments.json {
        explain::print(&site.home, &attacker.slow);
    }
    let load = match beside {
        Beside::Nothing => "none",
        Beside::Lines(_) => "lines",
        Beside::Api => "api",
    };
    let row = |enforcer, of: fn(&Latency) -> f64| {
        let mut all: Vec<f64> = taken.iter().map(of).collect();
        all.sort_by(f64::total_cmp);
        let quantile = |share: f64| all[((all.len() as f64 * share).ceil() as usize).clamp(1, all.len()) - 1];
        Row {
            enforcer,
            load,
            load_per_sec,
            bans: all.len(),
            p50_ms: rounded(quantile(0.5)),
            p99_ms: rounded(quantile(0.99)),
            max_ms: rounded(quantile(1.0)),
        }
    };
    Ok([row("xdp", |taken| taken.xdp_ms), row("iptables", |taken| taken.rule_ms)])
}

/// Sets the priority of this thread and of those it starts. The watchers must run before the agent and its children:
/// otherwise a ban would seem late because its watcher was.
fn set_priority(nice: i32) -> Result<()> {
    rustix::process::setpriority_process(None, nice).context("could not set the watcher's priority")
}

fn rounded(ms: f64) -> f64 {
    (ms * 1000.0).round() / 1000.0
}

/// The time from the write to the ban in each enforcer.
struct Latency {
    xdp_ms: f64,
    rule_ms: f64,
}

struct Attacker {
    log: File,
    rules: RuleWatch,
    xdp: XdpWatch,
    next: u32,
    /// The agent's process.
    agent: u32,
    /// What is late, when it is to be explained.
    slow_ms: Option<f64>,
    slow: Vec<Slow>,
}

impl Attacker {
    fn measure_bans(&mut self, times: u32) -> Result<Vec<Latency>> {
        (0..times).map(|_| self.measure_ban()).collect()
    }

    /// Writes a new client's probes at once, and waits for its ban in both enforcers.
    fn measure_ban(&mut self) -> Result<Latency> {
        std::thread::sleep(PAUSE);
        let client = self.address(self.next);
        self.next += 1;
        let lines = probe_lines(client)?;
        let before = self.slow_ms.is_some().then(|| Accounts::read(self.agent)).transpose()?;
        let (written, written_us) = (Instant::now(), explain::now_us()?);
        self.log.write_all(lines.as_bytes()).context("could not write to the log")?;
        let Attacker { rules, xdp, .. } = self;
        let (xdp_at, rule_at) = std::thread::scope(|scope| {
            let rule = scope.spawn(|| rules.wait_for(client, TIMEOUT));
            let xdp = xdp.wait_for(client, TIMEOUT);
            let rule = rule.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            Ok::<_, anyhow::Error>((xdp?, rule?))
        })?;
        let since = |at: Instant| at.duration_since(written).as_secs_f64() * 1e3;
        let took_ms = since(xdp_at.seen);
        if let (Some(before), Some(slow_ms)) = (before, self.slow_ms)
            && took_ms > slow_ms
        {
            let meanwhile = before.until(&Accounts::read(self.agent)?);
            let longest_pause = xdp_at.longest_pause;
            self.slow.push(Slow { client, written_us, took_ms, longest_pause, meanwhile });
        }
        Ok(Latency { xdp_ms: took_ms, rule_ms: since(rule_at) })
    }

    /// An address of 198.18.0.0/15, which is reserved for benchmarks (RFC 2544). So many attackers of one network make the
    /// agent propose a ban of the network, which has no effect unless an operator accepts it.
    fn address(&self, number: u32) -> Ipv4Addr {
        Ipv4Addr::from_bits(0xC612_0000 + number)
    }
}

fn probe_lines(client: Ipv4Addr) -> Result<String> {
    let time = timestamp(clock::now().wall_secs())?;
    let mut lines = String::new();
    for path in PROBES {
        writeln!(
            lines,
            r#"{{"source_ip":"{client}","timestamp":"{time}","method":"GET","path":"{path}","status":404,"response_size":153}}"#
        )?;
    }
    Ok(lines)
}
