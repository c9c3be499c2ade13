//! `cargo xtask bench enforce`: the restore of a million bans, the delay of a new ban (alone, and while 100,000 bans end at
//! once), a full reconcile, and the memory. Measures XDP, ipset, and 10,000 single rules.
//!
//! Runs in a network namespace of its own, with the interpreter that the agent uses.

#![expect(clippy::print_stdout, reason = "the measured figures are this program's result")]

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use clap::Parser;
use serde::Serialize;
use shield_agent::test_support::clock;
use shield_agent::test_support::enforce::interpreter::{Interpreter, Report, Settings, Start};
use shield_agent::test_support::enforce::iptables::{self, Backend, IptablesEnforcer};
use shield_agent::test_support::enforce::xdp::{self, XdpEnforcer};
use shield_agent::test_support::enforce::{Ban, Desired, Enforcer};
use shield_engine::action::Order;
use shield_engine::allowlist::{Allowlist, BannableClient};

use shield_engine::client::Client;
use shield_engine::event::{Outcome, PartState};
use shield_engine::time::Ends;
use shield_tests::bpffs::Bpffs;
use shield_tests::netns::{End, Namespace, connect};
use shield_tests::wait::until;

/// Ends a run that hangs.
const TIMEOUT: Duration = Duration::from_secs(300);
/// The first serial number of the probes, the new bans whose delay is measured. Those of the other bans are lower.
const PROBES_FROM: u64 = 1 << 40;
/// Pause between two probes.
const PROBE_INTERVAL: Duration = Duration::from_millis(10);
/// Capacity of sets and maps: the restored million and the probes of a run.
const ROOM: usize = 1_100_000;
/// The number of probes without other activity.
const PROBES_ALONE: u64 = 100;
/// The first addresses of the restored bans and of the probes.
const RESTORED_FROM: u32 = 0x0a00_0000;
const PROBED_FROM: u32 = 0x6440_0000;

#[derive(Parser)]
#[command(about = "A million bans: restore, new bans, expiry, memory")]
struct Arguments {
    /// Print one JSON object per line instead of the table
    #[arg(long)]
    json: bool,
    /// Bans held by XDP and by ipset
    #[arg(long, default_value_t = 1_000_000)]
    bans: u32,
    /// Bans held as single rules
    #[arg(long, default_value_t = 10_000)]
    rules: u32,
    /// Bans that end at the same time (at most all)
    #[arg(long, default_value_t = 100_000)]
    expiring: u32,
    /// Measure only this enforcer
    #[arg(long)]
    place: Option<Place>,
}

/// One result.
#[derive(Debug, Serialize)]
struct Row {
    measure: &'static str,
    place: &'static str,
    bans: u32,
    value: f64,
    unit: &'static str,
    /// The highest accepted value.
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<f64>,
}

/// The enforcer and storage that hold the bans.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Place {
    Xdp,
    Ipset,
    Rules,
}

impl Place {
    fn name(self) -> &'static str {
        match self {
            Place::Xdp => "xdp",
            Place::Ipset => "ipset",
            Place::Rules => "rules",
        }
    }

    fn enforcer(self, pins: &Bpffs) -> Box<dyn Enforcer> {
        let rules =
            |backend| iptables::Settings { backend, max_entries_v4: ROOM, ..iptables::Settings::default() };
        match self {
            Place::Ipset => Box::new(IptablesEnforcer::new(rules(Backend::Ipset))),
            Place::Rules => Box::new(IptablesEnforcer::new(rules(Backend::Rules))),
            Place::Xdp => Box::new(XdpEnforcer::new(xdp::Settings {
                interfaces: xdp::Selection::Named(vec!["eth0".to_owned()]),
                mode: xdp::Mode::Generic,
                max_bans_v4: ROOM as u32,
                pin_folder: pins.path().join("shield"),
                ..xdp::Settings::default()
            })),
        }
    }
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let mut rows = Vec::new();
    for (place, bans) in
        [(Place::Xdp, arguments.bans), (Place::Ipset, arguments.bans), (Place::Rules, arguments.rules)]
    {
        if arguments.place.is_some_and(|wanted| wanted != place) {
            continue;
        }
        let measured = measure(place, bans, arguments.expiring.min(bans), &arguments);
        rows.extend(measured.with_context(|| format!("could not measure {}", place.name()))?);
    }
    if !arguments.json {
        print_table(&rows);
    }
    Ok(())
}

fn measure(place: Place, bans: u32, expiring: u32, arguments: &Arguments) -> Result<Vec<Row>> {
    let (namespace, pins) = (Namespace::create("bench")?, Bpffs::mount()?);
    let end = |interface| End { namespace: &namespace, interface, addresses: &[] };
    connect(end("eth0"), end("peer0"))?;
    namespace.enter(|| {
        let mut rows = Rows { place, bans, json: arguments.json, rows: Vec::new() };
        let run = Run::start(place.enforcer(&pins), bans, &mut rows)?;
        run.probe_alone(&mut rows)?;
        run.reconcile(&mut rows)?;
        run.expire(expiring, &mut rows)?;
        drop(run);
        let mut enforcer = place.enforcer(&pins);
        enforcer.cleanup().context("could not clean up")?;
        Ok(rows.rows)
    })
}

/// Collects the results; with `--json` also prints each at once.
struct Rows {
    place: Place,
    bans: u32,
    json: bool,
    rows: Vec<Row>,
}

impl Rows {
    fn add(
        &mut self,
        measure: &'static str,
        value: f64,
        unit: &'static str,
        target: Option<f64>,
    ) -> Result<()> {
        let row = Row { measure, place: self.place.name(), bans: self.bans, value, unit, target };
        if self.json {
            println!("{}", serde_json::to_string(&row).context("could not write a row as JSON")?);
        }
        self.rows.push(row);
        Ok(())
    }
}

/// An interpreter with its enforcer, and its reports so far.
struct Run {
    interpreter: Interpreter,
    reports: Arc<Reports>,
}

#[derive(Default)]
struct Reports {
    banned: AtomicUsize,
    lifted: AtomicUsize,
    failed: Mutex<Option<String>>,
    probes: Mutex<HashMap<u64, Instant>>,
}

impl Reports {
    fn record(&self, report: &Report) {
        match report {
            Report::Outcome(outcome) | Report::Restored(outcome, _) => self.record_outcome(outcome),
            Report::Part(part) => {
                if let PartState::Degraded { reason } = &part.state {
                    self.fail(reason.clone());
                }
            }
            Report::Activity { .. } => {}
        }
    }

    fn record_outcome(&self, outcome: &Outcome) {
        let now = Instant::now();
        self.banned.fetch_add(outcome.banned.len(), Ordering::Relaxed);
        self.lifted.fetch_add(outcome.lifted.len(), Ordering::Relaxed);
        let mut probes = self.probes.lock().unwrap_or_else(PoisonError::into_inner);
        probes.extend(outcome.banned.iter().filter(|(_, n)| *n >= PROBES_FROM).map(|(_, n)| (*n, now)));
        if let Some(failed) = outcome.failed.first() {
            self.fail(format!("{}: {}", failed.client, failed.error));
        }
    }

    fn fail(&self, what: String) {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(what);
    }

    fn check(&self) -> Result<()> {
        match &*self.failed.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(failed) => bail!("the enforcer failed: {failed}"),
            None => Ok(()),
        }
    }

    fn wait(&self, what: &str, mut done: impl FnMut(&Reports) -> bool) -> Result<()> {
        until(what, TIMEOUT, || {
            self.check()?;
            Ok(done(self).then_some(()))
        })
    }
}

fn bannable(bits: u32) -> Result<BannableClient> {
    let client = Client::from(Ipv4Addr::from_bits(bits));
    Allowlist::default().admit(client, 64).map_err(|by| anyhow::anyhow!("{client} is protected by {by:?}"))
}

impl Run {
    /// Starts with this many bans to restore, and measures the time and the memory that this takes.
    fn start(enforcer: Box<dyn Enforcer>, bans: u32, rows: &mut Rows) -> Result<Run> {
        let before_kib = resident_kib("VmRSS:")?;
        let ends = Ends::after(clock::now(), 3_600_000);
        let mut desired = Desired::with_capacity(bans as usize);
        for n in 0..bans {
            desired.insert(Ban { client: bannable(RESTORED_FROM + n)?, ends }, u64::from(n));
        }
        let start = Start {
            desired: desired.into(),
            exempt: Vec::new(),
            slowed: Vec::new(),
            clock: clock::now,
            settings: Settings::default(),
        };
        let reports = Arc::new(Reports::default());
        let sink = Arc::clone(&reports);
        let began = Instant::now();
        let interpreter = Interpreter::start(vec![enforcer], start, move |report| sink.record(&report))?;
        // Submitting must not wait for the restore, because the engine detects attacks at the same time.
        let asked = Instant::now();
        interpreter.submit(vec![Order::Lift {
            client: Client::from(Ipv4Addr::from_bits(PROBED_FROM - 1)),
            serial: 1,
        }]);
        let blocked = asked.elapsed();
        reports
            .wait("the restored bans", |reports| reports.banned.load(Ordering::Relaxed) >= bans as usize)?;
        rows.add("restore", began.elapsed().as_secs_f64(), "s", (bans >= 1_000_000).then_some(5.0))?;
        rows.add("submit while restoring", millis(blocked), "ms", Some(1.0))?;
        let grown_mib = |kib: u64| kib.saturating_sub(before_kib) as f64 / 1024.0;
        rows.add("memory of table and enforcer", grown_mib(resident_kib("VmRSS:")?), "MiB", None)?;
        rows.add(
            "highest memory of the process",
            resident_kib("VmHWM:")? as f64 / 1024.0,
            "MiB",
            Some(200.0),
        )?;
        Ok(Run { interpreter, reports })
    }

    fn probe(&self, serial: u64) -> Result<Instant> {
        let client = bannable(PROBED_FROM + u32::try_from(serial - PROBES_FROM)?)?;
        let asked = Instant::now();
        self.interpreter.submit(vec![Order::Ban {
            client,
            ends: Ends::Never,
            place: shield_engine::ban::Place::Everywhere,
            serial,
        }]);
        Ok(asked)
    }

    /// Waits until all these probes are in force, and returns their sorted delays.
    fn delays(&self, asked: &[(u64, Instant)]) -> Result<Vec<Duration>> {
        self.reports.wait("new bans", |reports| {
            let probes = reports.probes.lock().unwrap_or_else(PoisonError::into_inner);
            asked.iter().all(|(serial, _)| probes.contains_key(serial))
        })?;
        let probes = self.reports.probes.lock().unwrap_or_else(PoisonError::into_inner);
        let mut delays: Vec<Duration> =
            asked.iter().map(|(serial, asked)| probes[serial].saturating_duration_since(*asked)).collect();
        delays.sort_unstable();
        Ok(delays)
    }

    fn probe_alone(&self, rows: &mut Rows) -> Result<()> {
        let mut asked = Vec::new();
        for serial in PROBES_FROM..PROBES_FROM + PROBES_ALONE {
            asked.push((serial, self.probe(serial)?));
            std::thread::sleep(PROBE_INTERVAL);
        }
        let delays = self.delays(&asked)?;
        rows.add("new ban, median", millis(delays[delays.len() / 2]), "ms", None)?;
        rows.add("new ban, slowest", millis(delays[delays.len() - 1]), "ms", None)
    }

    /// Measures the full reconcile, which the agent runs every 30 s, with nothing to repair.
    fn reconcile(&self, rows: &mut Rows) -> Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("could not create a runtime")?;
        let began = Instant::now();
        for (name, result) in runtime.block_on(self.interpreter.reconcile_now()) {
            if let Some(repair) = result.with_context(|| format!("could not reconcile {}", name.name()))? {
                bail!("{} needed an unexpected repair: {}", name.name(), repair.found);
            }
        }
        rows.add("reconcile, nothing wrong", began.elapsed().as_secs_f64(), "s", None)
    }

    /// Lifts this many bans at once, and measures new bans during the lift.
    fn expire(&self, expiring: u32, rows: &mut Rows) -> Result<()> {
        let lifts = (0..expiring).map(|n| Order::Lift {
            client: Client::from(Ipv4Addr::from_bits(RESTORED_FROM + n)),
            serial: u64::from(n),
        });
        let goal = self.reports.lifted.load(Ordering::Relaxed) + expiring as usize;
        let began = Instant::now();
        self.interpreter.submit(lifts.collect());
        let mut asked = Vec::new();
        let mut serial = PROBES_FROM + PROBES_ALONE;
        loop {
            self.reports.check()?;
            asked.push((serial, self.probe(serial)?));
            serial += 1;
            std::thread::sleep(PROBE_INTERVAL);
            if self.reports.lifted.load(Ordering::Relaxed) >= goal || began.elapsed() >= TIMEOUT {
                break;
            }
        }
        let took = began.elapsed();
        let delays = self.delays(&asked)?;
        rows.add("bans ended at once", f64::from(expiring), "bans", None)?;
        rows.add("until all had ended", took.as_secs_f64(), "s", None)?;
        rows.add("new ban meanwhile, median", millis(delays[delays.len() / 2]), "ms", None)?;
        let target = (rows.place != Place::Rules).then_some(50.0);
        rows.add("new ban meanwhile, slowest", millis(delays[delays.len() - 1]), "ms", target)
    }
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

/// A memory field of `/proc/self/status`, in KiB.
fn resident_kib(field: &str) -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status").context("could not read /proc/self/status")?;
    let line = status.lines().find(|line| line.starts_with(field));
    let kib = line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok());
    kib.with_context(|| format!("could not find {field} in /proc/self/status"))
}

fn print_table(rows: &[Row]) {
    println!(
        "{:<8} {:>9}  {:<32} {:>12} {:<5} {:>9}",
        "place", "bans", "measure", "value", "unit", "at most"
    );
    for row in rows {
        let target = row.target.map_or(String::new(), |target| format!("{target}"));
        println!(
            "{:<8} {:>9}  {:<32} {:>12.3} {:<5} {:>9}",
            row.place, row.bans, row.measure, row.value, row.unit, target
        );
    }
}
