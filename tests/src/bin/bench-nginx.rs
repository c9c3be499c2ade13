//! `cargo xtask bench nginx`: what refusing inside nginx costs. A real nginx without Shield's lines, with the files of 100,000 banned
//! clients, with the file of a network (`every`: all names are looked for), and with the maps of 100,000 (the backend `map`); the worker's CPU time for each request
//! that is served, by turns in one run. Then the restore of both and the files' memory.

#![expect(clippy::print_stdout, reason = "the measured figures are this program's result")]

use std::fmt::Write as _;
use std::fs::{self, Permissions};
use std::io::{Read as _, Write as _};
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use nix::sys::signal::{Signal, kill};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;
use serde::Serialize;
use shield_agent::test_support::clock;
use shield_agent::test_support::enforce::nginx::{
    Backend, Commands, MapEnforcer, NginxEnforcer, Settings, http, server,
};
use shield_agent::test_support::enforce::{Ban, Desired, Enforcer};
use shield_engine::allowlist::Allowlist;
use shield_engine::client::Client;
use shield_engine::time::Ends;
use shield_tests::wait;

/// Requests written at once, so that the worker seldom sleeps.
const PIPELINED: u32 = 100;
/// The first banned address.
const BANNED_FROM: u32 = 0x0a00_0000;
const ANSWER: &str = "welcome, guest";

#[derive(Parser)]
#[command(about = "The cost of refusing inside nginx")]
struct Arguments {
    /// Print one JSON object per line instead of the table
    #[arg(long)]
    json: bool,
    /// Banned clients
    #[arg(long, default_value_t = 100_000)]
    bans: u32,
    /// Requests in each round
    #[arg(long, default_value_t = 40_000)]
    requests: u32,
    /// Rounds, of which the medians are shown
    #[arg(long, default_value_t = 7)]
    rounds: usize,
}

#[derive(Debug, Serialize)]
struct Row {
    measure: &'static str,
    way: &'static str,
    value: f64,
    unit: &'static str,
}

/// An nginx with one worker.
struct Site {
    way: &'static str,
    master: Child,
    worker: u32,
    socket: PathBuf,
}

impl Site {
    fn start(way: &'static str, folder: &Path, http: &str, server: &str) -> Result<Site> {
        let folder = folder.join(way);
        fs::create_dir(&folder)?;
        fs::set_permissions(&folder, Permissions::from_mode(0o755))?;
        let shown = folder.display();
        let config = format!(
            "daemon off;\nuser nobody nogroup;\nworker_processes 1;\npid {shown}/nginx.pid;\nevents {{ worker_connections 64; }}\n\
             http {{\n  access_log off;\n  keepalive_requests 100000000;\n  client_body_temp_path {shown}/body;\n  \
             proxy_temp_path {shown}/proxy;\n  fastcgi_temp_path {shown}/fastcgi;\n  uwsgi_temp_path {shown}/uwsgi;\n  \
             scgi_temp_path {shown}/scgi;\n  {http}\n  server {{\n    listen unix:{shown}/s;\n    set_real_ip_from unix:;\n    \
             real_ip_header X-Real-IP;\n    {server}\n    location / {{ return 200 \"{ANSWER}\"; }}\n  }}\n}}\n"
        );
        fs::write(folder.join("nginx.conf"), config)?;
        let mut command = Command::new("nginx");
        command.arg("-c").arg(folder.join("nginx.conf")).arg("-e").arg(folder.join("error.log"));
        let master = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let master = master.context("could not start nginx (is it installed? `cargo xtask setup`)")?;
        let children = format!("/proc/{0}/task/{0}/children", master.id());
        let mut site = Site { way, master, worker: 0, socket: folder.join("s") };
        site.worker = wait::until("nginx's worker", Duration::from_secs(30), || {
            let is_there = UnixStream::connect(&site.socket).is_ok();
            let children = fs::read_to_string(&children).unwrap_or_default();
            Ok(children.split_whitespace().next().filter(|_| is_there).and_then(|pid| pid.parse().ok()))
        })?;
        Ok(site)
    }

    /// The worker's CPU time so far.
    fn cpu(&self) -> Result<Duration> {
        let text = fs::read_to_string(format!("/proc/{}/schedstat", self.worker))?;
        let ns = text.split_whitespace().next().context("could not find the CPU time")?;
        Ok(Duration::from_nanos(ns.parse()?))
    }

    /// Worker time for each request, in microseconds.
    fn round(&self, requests: u32) -> Result<f64> {
        let mut stream = UnixStream::connect(&self.socket)?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        let batches = requests / PIPELINED;
        let before = self.cpu()?;
        for batch in 0..batches {
            let mut text = String::new();
            for n in 0..PIPELINED {
                let client = Ipv4Addr::from(0xc633_6400 + (batch * PIPELINED + n) % 251);
                write!(text, "GET / HTTP/1.1\r\nHost: a\r\nX-Real-IP: {client}\r\n\r\n")?;
            }
            stream.write_all(text.as_bytes())?;
            read_answers(&mut stream, PIPELINED as usize)?;
        }
        let spent = self.cpu()?.saturating_sub(before);
        Ok(spent.as_secs_f64() * 1e6 / f64::from(batches * PIPELINED))
    }

    /// The resident memory of the worker that it shares with nobody, in bytes.
    fn memory(&self) -> Result<f64> {
        let text = fs::read_to_string(format!("/proc/{}/smaps_rollup", self.worker))?;
        let line =
            text.lines().find_map(|line| line.strip_prefix("Pss:")).context("could not find the memory")?;
        Ok(line.trim().trim_end_matches(" kB").parse::<f64>()? * 1024.0)
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        let pid = Pid::from_raw(self.master.id().try_into().expect("a process id fits in an i32"));
        let _ = kill(pid, Signal::SIGTERM);
        let _ = self.master.wait();
    }
}

fn read_answers(stream: &mut UnixStream, count: usize) -> Result<()> {
    let (mut seen, mut buffer) = (Vec::new(), [0; 65_536]);
    loop {
        let read = stream.read(&mut buffer)?;
        ensure!(read > 0, "nginx closed the connection");
        seen.extend_from_slice(&buffer[..read]);
        let text = String::from_utf8_lossy(&seen);
        if text.matches(ANSWER).count() == count {
            ensure!(text.matches("HTTP/1.1 200").count() == count, "a client that is not banned was refused");
            return Ok(());
        }
    }
}

/// The kernel's memory for file systems in memory: names, and what they hold.
fn kernel_memory() -> Result<f64> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let field = |name: &str| -> Option<f64> {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().trim_end_matches(" kB").parse::<f64>().ok()
    };
    let sum = ["Slab:", "Shmem:"].into_iter().map(field).sum::<Option<f64>>();
    Ok(sum.context("could not read /proc/meminfo")? * 1024.0)
}

fn desired(bans: u32) -> Result<Desired> {
    let mut desired = Desired::with_capacity(bans as usize);
    let everybody = Allowlist::default();
    for n in 0..bans {
        let client = Client::from(Ipv4Addr::from(BANNED_FROM + n));
        let client = everybody.admit(client, 64).map_err(|_| anyhow::anyhow!("could not ban {client}"))?;
        desired.insert(Ban { client, ends: Ends::Never }, u64::from(n) + 1);
    }
    Ok(desired)
}

/// This thread's CPU time so far, which the machine's other work does not lengthen, in seconds.
fn own_cpu() -> Result<f64> {
    let spent = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).context("could not read the CPU time")?;
    Ok(Duration::from(spent).as_secs_f64())
}

/// How long a restore takes, and its CPU time, in seconds.
fn restore(enforcer: &mut dyn Enforcer, desired: &Desired) -> Result<(f64, f64)> {
    let (began, spent) = (Instant::now(), own_cpu()?);
    enforcer.start(&[], clock::now())?;
    enforcer.reconcile(desired, &[], clock::now())?;
    Ok((began.elapsed().as_secs_f64(), own_cpu()? - spent))
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let folder = tempfile::tempdir_in("/dev/shm").context("could not make a folder in /dev/shm")?;
    fs::set_permissions(folder.path(), Permissions::from_mode(0o755))?;
    let desired = desired(arguments.bans)?;
    let mut rows = Vec::new();
    let mut add = |measure, way, value, unit| rows.push(Row { measure, way, value, unit });

    let (mut restores, mut bytes) = ((Vec::new(), Vec::new()), Vec::new());
    let settings = Settings {
        folder: folder.path().join("deny"),
        max_clients: arguments.bans as usize,
        ..Settings::default()
    };
    let mut enforcer = NginxEnforcer::new(settings.clone());
    for _ in 0..arguments.rounds {
        enforcer.cleanup()?;
        let before = kernel_memory()?;
        restores.extend([restore(&mut enforcer, &desired)?]);
        bytes.push((kernel_memory()? - before) / f64::from(arguments.bans));
    }
    add("restore", "files", median(restores.0), "s");
    add("restore, CPU time", "files", median(restores.1), "s");
    add("memory of a ban", "files", median(bytes), "bytes");

    // A banned network has every request looked at under all names.
    let every_name = Settings { folder: folder.path().join("deny-networks"), ..settings.clone() };
    let mut of_networks = NginxEnforcer::new(every_name.clone());
    of_networks.start(&[], clock::now())?;
    let network = Allowlist::default().admit("10.0.0.0/24".parse()?, 64);
    let network = network.map_err(|_| anyhow::anyhow!("could not ban a network"))?;
    let failures = of_networks.ensure_banned(&[Ban { client: network, ends: Ends::Never }], clock::now());
    ensure!(failures.is_empty(), "could not ban a network: {failures:?}");

    // Without a reload, which would be part of the restore: nginx is started on the maps.
    let reload = vec!["true".to_owned()];
    let maps = Settings {
        folder: folder.path().join("deny-maps"),
        backend: Backend::Map,
        commands: Commands { test: Vec::new(), workers: Vec::new(), reload, ..Commands::default() },
        ..settings.clone()
    };
    let mut of_maps = MapEnforcer::new(maps.clone());
    let mut written = (Vec::new(), Vec::new());
    for _ in 0..arguments.rounds {
        of_maps.cleanup()?;
        written.extend([restore(&mut of_maps, &desired)?]);
    }
    add("restore", "map", median(written.0), "s");
    add("restore, CPU time", "map", median(written.1), "s");
    let sites = [
        Site::start("plain", folder.path(), "", "")?,
        Site::start("files", folder.path(), &http(&settings), &server(&settings, &[]))?,
        Site::start("every", folder.path(), &http(&every_name), &server(&every_name, &[]))?,
        Site::start("map", folder.path(), &http(&maps), &server(&maps, &[]))?,
    ];
    let mut times = vec![Vec::new(); sites.len()];
    for _ in 0..=arguments.rounds {
        for (site, times) in sites.iter().zip(&mut times) {
            times.push(site.round(arguments.requests)?);
        }
    }
    // The first round warms up.
    let ratios =
        |at: usize| median(times[at].iter().zip(&times[0]).skip(1).map(|(own, plain)| own / plain).collect());
    for (at, site) in sites.iter().enumerate() {
        add("worker time of a served request", site.way, median(times[at][1..].to_vec()), "us");
        add("compared with plain", site.way, ratios(at), "x");
        add("memory of the worker", site.way, site.memory()? / 1e6, "MB");
    }
    enforcer.cleanup()?;
    of_networks.cleanup()?;
    of_maps.cleanup()?;
    for row in &rows {
        if arguments.json {
            println!("{}", serde_json::to_string(row)?);
        } else {
            println!("{:34} {:6} {:>10.2} {}", row.measure, row.way, row.value, row.unit);
        }
    }
    Ok(())
}
