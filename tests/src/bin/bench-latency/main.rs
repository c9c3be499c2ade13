//! `cargo xtask bench latency`: from the `write()` of the offending lines to the XDP map's entry being there, and to the
//! iptables rule being there. A real agent in a namespace, once with nothing else in the log and once under 200,000 lines
//! a second of other clients' traffic.
//!
//! `watch` asks the kernel, not the agent; `load` writes the other traffic.

#![expect(clippy::print_stdout, reason = "the figures are this program's result")]

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
use shield_tests::lab::kernel;
use shield_tests::site::Site;

use load::{Load, timestamp};
use watch::{RuleWatch, XdpWatch};

/// Targets that no page links to, each weighing three failed paths: five of them are a probing client, four are not.
const PROBES: [&str; 5] = ["/.env", "/.git/config", "/.aws/credentials", "/.ssh/id_rsa", "/.svn/entries"];

/// How long a ban may take at all.
const PATIENCE: Duration = Duration::from_secs(10);

/// Between two bans, a prime so that no timer of the agent keeps step with it.
const PAUSE: Duration = Duration::from_millis(37);

/// How long the load runs before the first ban under it.
const SETTLE: Duration = Duration::from_secs(3);

/// Bans before those that count.
const WARM_UP: u32 = 5;

#[derive(Parser)]
#[command(about = "Milliseconds from a written line to its drop in the kernel")]
struct Arguments {
    /// One JSON object a line instead of a table
    #[arg(long)]
    json: bool,
    /// Bans of each kind; at most 250, because beyond 256 bans the agent keeps them in a set, which announces no rule
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=250))]
    bans: u32,
    /// Lines a second of other clients' traffic in the loaded case
    #[arg(long, default_value_t = 200_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    load: u64,
}

/// One row of the result.
#[derive(Debug, Serialize)]
struct Row {
    enforcer: &'static str,
    /// Lines a second that were really written meanwhile.
    load_lines_per_sec: u64,
    bans: usize,
    p50_ms: f64,
    p99_ms: f64,
    max_ms: f64,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    if !arguments.json {
        println!("enforcer  load lines/s   bans     p50 ms     p99 ms     max ms");
    }
    for lines_per_sec in [0, arguments.load] {
        for row in measure(arguments.bans, lines_per_sec)? {
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
    let Row { enforcer, load_lines_per_sec, bans, p50_ms, p99_ms, max_ms } = row;
    println!("{enforcer:<8} {load_lines_per_sec:>13} {bans:>6} {p50_ms:>10.2} {p99_ms:>10.2} {max_ms:>10.2}");
    Ok(())
}

/// One agent, made and ended, with all its bans.
fn measure(bans: u32, lines_per_sec: u64) -> Result<[Row; 2]> {
    let site = Site::create("[ban]\nalways_allowed = 1000000\nmax_bans_per_minute = 1000000\n")?;
    let agent = site.start_agent(&[])?;
    let log = site.nginx.access_log();
    let mut attacker = Attacker {
        log: File::options().append(true).open(log).context("opened the log")?,
        rules: site.server.enter(RuleWatch::open)?,
        xdp: XdpWatch::open(&site.home.pins())?,
        next: 0,
    };
    let load = (lines_per_sec > 0).then(|| Load::start(log, lines_per_sec)).transpose()?;
    if load.is_some() {
        std::thread::sleep(SETTLE);
    }
    go_before_others(true)?;
    attacker.be_banned(WARM_UP).context("warmed up")?;
    let taken = attacker.be_banned(bans)?;
    go_before_others(false)?;
    let written = load.map_or(Ok(0), Load::stop)?;
    let last = attacker.address(attacker.next - 1);
    ensure!(kernel::iptables_rule(&site.server, last.into())?.is_some(), "iptables does not show the rule");
    let stopped = agent.stop()?;
    ensure!(stopped.success(), "the agent ended badly:\n{}", site.home.log());
    site.home.command(&site.server, &["cleanup"])?;
    let row = |enforcer, of: fn(&Taken) -> f64| {
        let mut all: Vec<f64> = taken.iter().map(of).collect();
        all.sort_by(f64::total_cmp);
        let quantile = |share: f64| all[((all.len() as f64 * share).ceil() as usize).clamp(1, all.len()) - 1];
        Row {
            enforcer,
            load_lines_per_sec: written,
            bans: all.len(),
            p50_ms: rounded(quantile(0.5)),
            p99_ms: rounded(quantile(0.99)),
            max_ms: rounded(quantile(1.0)),
        }
    };
    Ok([row("xdp", |taken| taken.xdp_ms), row("iptables", |taken| taken.rule_ms)])
}

/// Who watches, and threads begun meanwhile, get a processor before the agent and what it starts: else a ban counts as
/// late because its watcher was.
fn go_before_others(yes: bool) -> Result<()> {
    rustix::process::setpriority_process(None, if yes { -20 } else { 0 })
        .context("set the watcher's priority")
}

fn rounded(ms: f64) -> f64 {
    (ms * 1000.0).round() / 1000.0
}

/// How long one ban took, from the write.
struct Taken {
    xdp_ms: f64,
    rule_ms: f64,
}

struct Attacker {
    log: File,
    rules: RuleWatch,
    xdp: XdpWatch,
    next: u32,
}

impl Attacker {
    fn be_banned(&mut self, times: u32) -> Result<Vec<Taken>> {
        (0..times).map(|_| self.be_banned_once()).collect()
    }

    /// A new client's probes in one write, and the wait for its drop in both places.
    fn be_banned_once(&mut self) -> Result<Taken> {
        std::thread::sleep(PAUSE);
        let client = self.address(self.next);
        self.next += 1;
        let lines = probes_of(client)?;
        let written = Instant::now();
        self.log.write_all(lines.as_bytes()).context("wrote the log")?;
        let Attacker { rules, xdp, .. } = self;
        let (xdp_at, rule_at) = std::thread::scope(|scope| {
            let rule = scope.spawn(|| rules.wait_for(client, PATIENCE));
            let xdp = xdp.wait_for(client, PATIENCE);
            let rule = rule.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            Ok::<_, anyhow::Error>((xdp?, rule?))
        })?;
        let since = |at: Instant| at.duration_since(written).as_secs_f64() * 1e3;
        Ok(Taken { xdp_ms: since(xdp_at), rule_ms: since(rule_at) })
    }

    /// 198.18.0.0/15 is set aside for benchmarks. Many of one network: it is proposed for a ban, which nobody takes up.
    fn address(&self, number: u32) -> Ipv4Addr {
        Ipv4Addr::from_bits(0xC612_0000 + number)
    }
}

fn probes_of(client: Ipv4Addr) -> Result<String> {
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
