//! `cargo xtask bench api`: what 1,000 requests a second and 100 open event streams do to detection. A real agent in a
//! namespace (a dry run: the API is asked, not the firewall) is given attacks, one client each, in rounds by turns in
//! silence and under load. Detection latency is from the write of the offending lines to the moment of the engine's ban.
//!
//! That moment is told in whole milliseconds, and detection takes a fraction of one: the writes of a round are spread
//! evenly over a millisecond, so that what is cut off averages out. A round's figure is its mean without the slowest
//! twentieth (somebody else's burst of work), a case's is the median over its rounds, the verdict is their ratio.

#![expect(clippy::print_stdout, reason = "the figures are this program's result")]

use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use clap::Parser;
use serde::Serialize;
use shield_agent::test_support::api::priority::give_way;
use shield_agent::test_support::cli::client::{AgentClient, Endpoint, EventStream, Message};
use shield_agent::test_support::clock;
use shield_engine::action::Notice;
use shield_engine::client::Client;
use shield_tests::agent::{Agent, Home};
use shield_tests::netns::Namespace;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::sync::{Mutex, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

/// Where the agent's page listens in its namespace.
const PAGE: &str = "127.0.0.1:8080";

/// The load: connections kept alive, each with its share of the requests.
const CONNECTIONS: u64 = 20;
const REQUESTS_PER_SEC: u64 = 1_000;
const STREAMS: usize = 100;

/// How many requests of a hundred go where, as a page and a monitor would ask.
const MIX: [(&str, u64); 5] = [
    ("/api/v1/status", 55),
    ("/api/v1/clients?n=10", 20),
    ("/api/v1/bans?limit=20", 10),
    ("/api/v1/history", 10),
    ("/metrics", 5),
];

/// Lines of one attack: more than the flood rule wants at once.
const LINES_PER_ATTACK: usize = 120;

/// Seconds over which its lines' times are spread.
const SECONDS_PER_ATTACK: usize = 4;

/// How long to wait for one ban; far more than it takes.
const PATIENCE: Duration = Duration::from_secs(10);

/// Between two attacks, with a prime so that no timer of the agent keeps step with it.
const PAUSE: Duration = Duration::from_millis(37);

/// How long load runs before the first attack under it.
const SETTLE: Duration = Duration::from_secs(2);

/// What the issue allows.
const MOST_RATIO: f64 = 1.10;

/// The slowest attacks of a round that are left out of its mean: one in so many.
const LEFT_OUT: usize = 20;

/// What `/proc/PID/stat` counts CPU time in, a second.
const TICKS_PER_SEC: f64 = 100.0;

#[derive(Parser)]
#[command(about = "What the API's load does to detection")]
struct Arguments {
    /// One JSON object a line instead of the table
    #[arg(long)]
    json: bool,
    /// Attacks in a round
    #[arg(long, default_value_t = 50)]
    attacks: u32,
    /// Rounds of each kind
    #[arg(long, default_value_t = 20)]
    rounds: u32,
}

/// One row of the result.
#[derive(Debug, Serialize)]
struct RowOut {
    case: &'static str,
    rounds: usize,
    attacks: usize,
    /// The median over the rounds, with the quartiles beside it.
    detect_ms: f64,
    detect_p25_ms: f64,
    detect_p75_ms: f64,
    /// Over all attacks.
    detect_p99_ms: f64,
    announce_p50_ms: f64,
    agent_cpu_percent: f64,
    requests_per_sec: f64,
    failed_requests: u64,
    answer_p50_ms: f64,
    answer_p99_ms: f64,
    streams: usize,
}

/// The comparison.
#[derive(Debug, Serialize)]
struct RatioOut {
    case: &'static str,
    detect: f64,
    most: f64,
    ok: bool,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let namespace = Namespace::create("bench")?;
    let home = Home::create()?;
    let log = home.folder().join("access.log");
    File::create(&log).context("made the log")?;
    let limits = "[ban]\nalways_allowed = 1000000\nmax_bans_per_minute = 1000000\n";
    home.configure(&log, "", &format!("[page]\nlisten = {PAGE:?}\n\n{limits}"))?;
    let agent = Agent::start(&namespace, &home, &["--dry-run"])?;
    let bench = Bench { log, socket: home.socket(), agent: agent.pid(), arguments };
    // The load stands for other machines: its threads give way, the attacker's (this one) does not.
    let measured = namespace.enter(|| {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .on_thread_start(give_way)
            .enable_all()
            .build();
        runtime.context("made a runtime")?.block_on(bench.run())
    });
    let stopped = agent.stop()?;
    ensure!(stopped.success(), "the agent ended badly:\n{}", home.log());
    print(&measured?, bench.arguments.json)
}

struct Bench {
    log: PathBuf,
    socket: PathBuf,
    agent: u32,
    arguments: Arguments,
}

/// One attack's latencies, in milliseconds.
#[derive(Debug, Clone, Copy)]
struct Latency {
    detect: f64,
    announce: f64,
}

/// What a case measured.
#[derive(Debug, Default)]
struct Case {
    rounds: Vec<Vec<Latency>>,
    agent_cpu_secs: f64,
    secs: f64,
    answers_ms: Vec<f64>,
    failed: u64,
    load_secs: f64,
}

impl Bench {
    /// Idle and loaded by turns, so that what else the machine does hits both alike.
    async fn run(&self) -> Result<[Case; 2]> {
        let client = AgentClient::new(Endpoint::Unix(self.socket.clone()));
        let mut events = client.events(None).await.context("opened the event stream")?;
        let mut attacker = Attacker { log: File::options().append(true).open(&self.log)?, next: 0 };
        let [mut idle, mut loaded] = [Case::default(), Case::default()];
        attacker.attack_times(10, &mut events).await.context("warmed up")?;
        for _ in 0..self.arguments.rounds {
            self.round(&mut idle, &mut attacker, &mut events).await?;
            let load = Load::start();
            sleep(SETTLE).await;
            self.round(&mut loaded, &mut attacker, &mut events).await?;
            load.stop(&mut loaded).await?;
        }
        Ok([idle, loaded])
    }

    async fn round(&self, case: &mut Case, attacker: &mut Attacker, events: &mut EventStream) -> Result<()> {
        let (began, cpu_secs) = (Instant::now(), cpu_secs(self.agent)?);
        case.rounds.push(attacker.attack_times(self.arguments.attacks, events).await?);
        case.agent_cpu_secs += self::cpu_secs(self.agent)? - cpu_secs;
        case.secs += began.elapsed().as_secs_f64();
        Ok(())
    }
}

/// The CPU time that a process has used, user and system.
fn cpu_secs(pid: u32) -> Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).context("read the agent's CPU time")?;
    // proc_pid_stat(5): after the name in parentheses, utime and stime are the 12th and 13th.
    let (_, fields) = stat.rsplit_once(") ").context("the name has its parentheses")?;
    let ticks = |at| fields.split(' ').nth(at).and_then(|field| field.parse::<f64>().ok());
    Ok((ticks(11).context("utime is there")? + ticks(12).context("stime is there")?) / TICKS_PER_SEC)
}

struct Attacker {
    log: File,
    next: u32,
}

impl Attacker {
    async fn attack_times(&mut self, times: u32, events: &mut EventStream) -> Result<Vec<Latency>> {
        let mut latencies = Vec::new();
        for at in 0..times {
            latencies.push(self.attack(f64::from(at) / f64::from(times), events).await?);
            sleep(PAUSE).await;
        }
        Ok(latencies)
    }

    /// One new client's flood in one write at this fraction of a millisecond, and the wait for its ban.
    async fn attack(&mut self, phase: f64, events: &mut EventStream) -> Result<Latency> {
        // 198.18.0.0/15 is set aside for benchmarks.
        let client: Client = std::net::Ipv4Addr::from_bits(0xC612_0000 + self.next).into();
        self.next += 1;
        let lines = lines_of(client)?;
        let written_ms = wait_for_phase(phase);
        self.log.write_all(lines.as_bytes()).context("wrote the log")?;
        let wait = ban_of(client, events);
        let (banned_ms, announced_ms) =
            timeout(PATIENCE, wait).await.with_context(|| format!("{client} was not banned"))??;
        // The agent's moments are whole milliseconds, cut: half of one is added.
        let since = |ms: i64| ms as f64 + 0.5 - written_ms;
        Ok(Latency { detect: since(banned_ms), announce: since(announced_ms) })
    }
}

/// The flood's lines, by their times spread over the last seconds: what comes within one second may be one page.
fn lines_of(client: Client) -> Result<String> {
    let mut lines = String::new();
    for at in 0..LINES_PER_ATTACK {
        let ago_ms = 1_000 * (SECONDS_PER_ATTACK - 1 - at * SECONDS_PER_ATTACK / LINES_PER_ATTACK) as i64;
        let time = jiff::Timestamp::from_millisecond(clock::now().wall_ms - ago_ms)?;
        let time = time.strftime("%Y-%m-%dT%H:%M:%S+00:00");
        writeln!(
            lines,
            r#"{{"source_ip":"{client}","timestamp":"{time}","method":"GET","path":"/","status":200,"response_size":512}}"#
        )?;
    }
    Ok(lines)
}

/// The wall clock in milliseconds with its fraction.
fn wall_ms() -> f64 {
    let time =
        nix::time::clock_gettime(nix::time::ClockId::CLOCK_REALTIME).expect("every Linux has this clock");
    time.tv_sec() as f64 * 1e3 + time.tv_nsec() as f64 / 1e6
}

/// Waits (busily: a sleep is not that exact) for this fraction of a millisecond on the wall clock; the moment.
fn wait_for_phase(phase: f64) -> f64 {
    let begin = wall_ms();
    let mut moment = begin.trunc() + phase;
    if moment < begin {
        moment += 1.0;
    }
    loop {
        let now = wall_ms();
        if now >= moment {
            return now;
        }
        std::hint::spin_loop();
    }
}

/// When the engine banned this client, and when that was announced.
async fn ban_of(client: Client, events: &mut EventStream) -> Result<(i64, i64)> {
    loop {
        match events.next().await?.context("the event stream goes on")? {
            Message::Notice(event) if event.client == Some(client) => match &event.data {
                Notice::WouldBan { ban, .. } => return Ok((ban.ban.since_ms, event.at_ms)),
                other => bail!("{client} was not found out: {other:?}"),
            },
            _ => {}
        }
    }
}

/// The load, until it is stopped.
struct Load {
    stop: watch::Sender<bool>,
    tasks: JoinSet<Result<()>>,
    tally: Arc<Tally>,
    began: Instant,
}

#[derive(Default)]
struct Tally {
    answers_ms: Mutex<Vec<f64>>,
    failed: AtomicU64,
    streams: AtomicU64,
}

impl Load {
    fn start() -> Load {
        let (stop, stopped) = watch::channel(false);
        let tally = Arc::new(Tally::default());
        let mut tasks = JoinSet::new();
        for number in 0..CONNECTIONS {
            tasks.spawn(ask_for_ever(number, Arc::clone(&tally), stopped.clone()));
        }
        for _ in 0..STREAMS {
            tasks.spawn(stream_for_ever(Arc::clone(&tally), stopped.clone()));
        }
        Load { stop, tasks, tally, began: Instant::now() }
    }

    async fn stop(mut self, case: &mut Case) -> Result<()> {
        let streams = self.tally.streams.load(Ordering::Relaxed);
        ensure!(streams == STREAMS as u64, "{streams} of {STREAMS} event streams are open");
        self.stop.send(true).context("told the load to stop")?;
        case.load_secs += self.began.elapsed().as_secs_f64();
        while let Some(ended) = self.tasks.join_next().await {
            ended.context("a task of the load panicked")??;
        }
        case.answers_ms.append(&mut *self.tally.answers_ms.lock().await);
        case.failed += self.tally.failed.load(Ordering::Relaxed);
        Ok(())
    }
}

/// One connection's share of the requests, evenly spaced.
async fn ask_for_ever(number: u64, tally: Arc<Tally>, mut stop: watch::Receiver<bool>) -> Result<()> {
    let mut connection = BufReader::new(connect().await?);
    let mut ticks = interval(Duration::from_micros(1_000_000 * CONNECTIONS / REQUESTS_PER_SEC));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut answers = Vec::new();
    for request in number.. {
        tokio::select! {
            _ = stop.changed() => break,
            _ = ticks.tick() => {}
        }
        let began = Instant::now();
        // Steps that share no factor with a hundred visit every part of the mix.
        match ask(&mut connection, path_of(request * 37 % 100)).await? {
            200 => answers.push(began.elapsed().as_secs_f64() * 1e3),
            _ => {
                tally.failed.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
    tally.answers_ms.lock().await.append(&mut answers);
    Ok(())
}

fn path_of(hundredth: u64) -> &'static str {
    let mut left = hundredth;
    for (path, share) in MIX {
        if left < share {
            return path;
        }
        left -= share;
    }
    MIX[0].0
}

async fn connect() -> Result<TcpStream> {
    let addr: SocketAddr = PAGE.parse().context("the constant is an address")?;
    let stream = TcpStream::connect(addr).await.with_context(|| format!("connected to {addr}"))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// One request on a connection kept alive; the answer's status.
async fn ask(connection: &mut BufReader<TcpStream>, path: &str) -> Result<u16> {
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n");
    connection.get_mut().write_all(request.as_bytes()).await.context("sent a request")?;
    let (mut status, mut length) = (0, 0);
    loop {
        let mut line = String::new();
        connection.read_line(&mut line).await.context("read an answer's head")?;
        let line = line.trim_end().to_ascii_lowercase();
        if let Some(rest) = line.strip_prefix("http/1.1 ") {
            status = rest.split(' ').next().unwrap_or_default().parse().context("an answer has a status")?;
        } else if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().context("an answer has a length")?;
        } else if line.is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    connection.read_exact(&mut body).await.context("read an answer's body")?;
    Ok(status)
}

/// One event stream, read as it comes.
async fn stream_for_ever(tally: Arc<Tally>, mut stop: watch::Receiver<bool>) -> Result<()> {
    let mut stream = connect().await?;
    stream.write_all(b"GET /api/v1/events HTTP/1.1\r\nhost: localhost\r\n\r\n").await?;
    let mut buffer = vec![0; 16 * 1024];
    let mut is_open = false;
    loop {
        let count = tokio::select! {
            _ = stop.changed() => return Ok(()),
            count = stream.read(&mut buffer) => count.context("read an event stream")?,
        };
        ensure!(count > 0, "an event stream ended");
        if !is_open {
            ensure!(buffer.starts_with(b"HTTP/1.1 200"), "an event stream was refused");
            is_open = true;
            tally.streams.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn print([idle, loaded]: &[Case; 2], as_json: bool) -> Result<()> {
    let rows = [row("idle", idle, 0), row("loaded", loaded, STREAMS)];
    let detect = rows[1].detect_ms / rows[0].detect_ms;
    let ratio = RatioOut { case: "ratio", detect, most: MOST_RATIO, ok: detect <= MOST_RATIO };
    if as_json {
        for row in &rows {
            println!("{}", serde_json::to_string(row)?);
        }
        println!("{}", serde_json::to_string(&ratio)?);
        return Ok(());
    }
    println!(
        "case     attacks  detect (p25..p75 of rounds)    p99  announce  agent CPU  req/s  failed  answer p50   p99  streams"
    );
    for row in &rows {
        println!(
            "{:<8} {:>7}  {:>5.3} ms ({:.3}..{:.3})  {:>10.2}  {:>5.2} ms  {:>7.1} %  {:>5.0}  {:>6}  {:>7.2} ms {:>5.2}  {:>7}",
            row.case,
            row.attacks,
            row.detect_ms,
            row.detect_p25_ms,
            row.detect_p75_ms,
            row.detect_p99_ms,
            row.announce_p50_ms,
            row.agent_cpu_percent,
            row.requests_per_sec,
            row.failed_requests,
            row.answer_p50_ms,
            row.answer_p99_ms,
            row.streams
        );
    }
    println!(
        "loaded / idle: {:.2} (at most {MOST_RATIO:.2}: {})",
        ratio.detect,
        if ratio.ok { "kept" } else { "missed" }
    );
    Ok(())
}

fn row(case: &'static str, measured: &Case, streams: usize) -> RowOut {
    let all = || measured.rounds.iter().flatten();
    let detect: Vec<f64> = all().map(|latency| latency.detect).collect();
    let announce: Vec<f64> = all().map(|latency| latency.announce).collect();
    let rounds: Vec<f64> = measured.rounds.iter().map(|round| mean_of(round)).collect();
    let answered = measured.answers_ms.len() as f64;
    RowOut {
        case,
        rounds: rounds.len(),
        attacks: detect.len(),
        detect_ms: quantile(&rounds, 0.5),
        detect_p25_ms: quantile(&rounds, 0.25),
        detect_p75_ms: quantile(&rounds, 0.75),
        detect_p99_ms: quantile(&detect, 0.99),
        announce_p50_ms: quantile(&announce, 0.5),
        agent_cpu_percent: 100.0 * measured.agent_cpu_secs / measured.secs,
        requests_per_sec: if measured.load_secs > 0.0 { answered / measured.load_secs } else { 0.0 },
        failed_requests: measured.failed,
        answer_p50_ms: quantile(&measured.answers_ms, 0.5),
        answer_p99_ms: quantile(&measured.answers_ms, 0.99),
        streams,
    }
}

/// The mean of a round's detection without its slowest.
fn mean_of(round: &[Latency]) -> f64 {
    let mut detect: Vec<f64> = round.iter().map(|latency| latency.detect).collect();
    detect.sort_by(f64::total_cmp);
    detect.truncate(detect.len() - detect.len() / LEFT_OUT);
    detect.iter().sum::<f64>() / detect.len() as f64
}

/// The value that this share of the values does not exceed; 0 when there are none.
fn quantile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = ((sorted.len() as f64 * share).ceil() as usize).saturating_sub(1);
    sorted.get(at).copied().unwrap_or(0.0)
}
