//! `cargo xtask bench api`: the effect of 1,000 API requests per second and 100 open event streams on detection latency.
//!
//! A real agent in a namespace (a dry run: the firewall plays no part) reads attacks of one client each, in rounds that
//! alternate between idle and loaded. Detection latency is the time from the write of the offending lines to the engine's
//! ban.
//!
//! The agent reports that time in whole milliseconds, while detection takes a fraction of one. So the writes of a round are
//! spread evenly over a millisecond, and the truncation averages out. A round's result is its mean without the slowest
//! twentieth (bursts of other processes), a case's result is the median of its rounds, and the final one is their ratio.

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
use shield_agent::test_support::api::operation::Operation;
use shield_agent::test_support::api::priority::give_way;
use shield_agent::test_support::api::types::Status;
use shield_agent::test_support::cli::client::{AgentClient, Endpoint, EventStream, Message};
use shield_agent::test_support::clock;
use shield_engine::action::Notice;
use shield_engine::client::Client;
use shield_tests::agent::{Agent, Home};
use shield_tests::netns::Namespace;
use shield_tests::wait;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::sync::{Mutex, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

/// The page's address in the agent's namespace.
const PAGE: &str = "127.0.0.1:8080";

/// The load: keep-alive connections, each with its share of the requests.
const CONNECTIONS: u64 = 20;
const REQUESTS_PER_SEC: u64 = 1_000;
const STREAMS: usize = 100;

/// The percentage of requests per path, modelled on a page and a monitoring system.
const MIX: [(&str, u64); 5] = [
    ("/api/v1/status", 55),
    ("/api/v1/clients?n=10", 20),
    ("/api/v1/bans?limit=20", 10),
    ("/api/v1/history", 10),
    ("/metrics", 5),
];

/// Every endpoint at its costliest, with `--worst`: each by itself, from as many connections as are answered at once, each as fast as it
/// is answered. The worst of them counts.
const WORST: [&str; 9] = [
    "/api/v1/clients?n=1000",
    "/api/v1/explain?client=10.0.0.1",
    "/api/v1/bans?limit=1000&sort=client",
    "/api/v1/bans?limit=1000&q=1&offset=1000",
    "/api/v1/status",
    "/api/v1/history?range=24h",
    "/api/v1/events/recent?limit=1000",
    "/api/v1/allow",
    "/metrics",
];
const WORST_CONNECTIONS: u64 = 64;

/// Clients in the table, with `--worst`.
const WORST_CLIENTS: u32 = 200_000;

/// Lines of one attack: three seconds of them are more than the 120 requests for one page that the flood rule takes from one of
/// few clients on a site that serves nearly everything.
const LINES_PER_ATTACK: usize = 200;

/// Seconds over which the timestamps of an attack's lines are spread.
const SECONDS_PER_ATTACK: usize = 4;

/// Time limit for one ban; far more than it takes.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The same for the lines that fill the table.
const FILL_TIMEOUT: Duration = Duration::from_secs(60);

/// Pause between two attacks; a prime, so that it does not stay in phase with a timer of the agent.
const PAUSE: Duration = Duration::from_millis(37);

/// Duration of the load before the first attack under it.
const SETTLE: Duration = Duration::from_secs(2);

/// The highest accepted ratio of loaded to idle, and that of `--worst`.
const MAX_RATIO: f64 = 1.10;
const MAX_WORST_RATIO: f64 = 2.0;

/// A round's mean leaves out the slowest attacks: one in this many.
const OUTLIERS_IN: usize = 20;

/// A share ten times that of another session.
const SESSION_NICENESS: &str = "-10";

/// The unit of CPU time in `/proc/PID/stat`.
const TICKS_PER_SEC: f64 = 100.0;

#[derive(Parser)]
#[command(about = "The effect of load on the API on detection latency")]
struct Arguments {
    /// Print one JSON object per line instead of the table
    #[arg(long)]
    json: bool,
    /// The worst load that a local nobody can make, instead of a page's and a monitoring system's
    #[arg(long)]
    worst: bool,
    /// Attacks in a round
    #[arg(long, default_value_t = 50)]
    attacks: u32,
    /// Rounds of each kind
    #[arg(long, default_value_t = 20)]
    rounds: u32,
}

/// A row of the result.
#[derive(Debug, Serialize)]
struct RowOut {
    /// `idle`, `mix`, or the one path that was asked for.
    case: &'static str,
    rounds: usize,
    attacks: usize,
    /// The median of the rounds, with the quartiles below.
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

#[derive(Debug, Serialize)]
struct RatioOut {
    case: &'static str,
    detect: f64,
    most: f64,
    ok: bool,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    take_own_share()?;
    let namespace = Namespace::create("bench")?;
    let home = Home::create()?;
    let log = home.folder().join("access.log");
    File::create(&log).context("could not create the log")?;
    let limits = "[ban]\nalways_allowed = 1000000\nmax_bans_per_minute = 1000000\n";
    home.configure(&log, "", &format!("[page]\nlisten = {PAGE:?}\n\n{limits}"))?;
    let agent = Agent::start(&namespace, &home, &["--dry-run"])?;
    wait_until_it_reads(&namespace, &home)?;
    let bench = Bench { log, socket: home.socket(), agent: agent.pid(), arguments };
    // The load stands for other machines, so its threads have a low priority; the attacker's (this one) has not.
    let measured = namespace.enter(|| {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .on_thread_start(give_way)
            .enable_all()
            .build();
        runtime.context("could not create a runtime")?.block_on(bench.run())
    });
    let stopped = agent.stop()?;
    ensure!(stopped.success(), "the agent ended with an error:\n{}", home.log());
    print(&measured?, bench.arguments.worst, bench.arguments.json)
}

/// Moves this program and the agent that it starts into a session of their own, with so large a share of the processors as if the
/// machine did little else. The kernel shares them between sessions (or services) first, and niceness counts within one alone:
/// with an ordinary share the figures are those of the other programs.
fn take_own_share() -> Result<()> {
    // Fails for a leader of a session, whose session is its own already.
    let _ = nix::unistd::setsid();
    match std::fs::write("/proc/self/autogroup", SESSION_NICENESS) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).context("could not set the session's share of the processors")
        }
        // A kernel without such sessions.
        _ => Ok(()),
    }
}

/// An agent that never ran begins at a log's end, so what was written before it opened the log is never read.
fn wait_until_it_reads(namespace: &Namespace, home: &Home) -> Result<()> {
    wait::until("the agent to read its log", TIMEOUT, || {
        let status = home.json(namespace, &["status"])?;
        Ok((status["sources"][0]["logs"] == 1).then_some(()))
    })
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

/// What is asked of the API in a case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    Nothing,
    Mix,
    Only(&'static str),
}

impl Asked {
    fn name(self) -> &'static str {
        match self {
            Asked::Nothing => "idle",
            Asked::Mix => "mix",
            Asked::Only(path) => path,
        }
    }

    fn streams(self) -> usize {
        if self == Asked::Mix { STREAMS } else { 0 }
    }
}

/// The measurements of a case.
#[derive(Debug)]
struct Case {
    asked: Asked,
    rounds: Vec<Vec<Latency>>,
    agent_cpu_secs: f64,
    secs: f64,
    answers_ms: Vec<f64>,
    failed: u64,
    load_secs: f64,
}

impl Case {
    fn new(asked: Asked) -> Case {
        Case {
            asked,
            rounds: Vec::new(),
            agent_cpu_secs: 0.0,
            secs: 0.0,
            answers_ms: Vec::new(),
            failed: 0,
            load_secs: 0.0,
        }
    }
}

impl Bench {
    /// Alternates between idle and loaded rounds, so that other activity on the machine affects all alike.
    async fn run(&self) -> Result<Vec<Case>> {
        let client = AgentClient::new(Endpoint::Unix(self.socket.clone()));
        let mut events = client.events(None).await.context("could not open the event stream")?;
        let mut attacker = Attacker { log: File::options().append(true).open(&self.log)?, next: 0 };
        let loads = if self.arguments.worst { WORST.map(Asked::Only).to_vec() } else { vec![Asked::Mix] };
        let mut cases: Vec<Case> = [Asked::Nothing].into_iter().chain(loads).map(Case::new).collect();
        attacker.attack_times(10, &mut events).await.context("could not warm up")?;
        for _ in 0..self.arguments.rounds {
            if self.arguments.worst {
                attacker.fill_table(&client).await?;
            }
            for case in &mut cases {
                let load = (case.asked != Asked::Nothing).then(|| Load::start(case.asked));
                sleep(SETTLE).await;
                self.round(case, &mut attacker, &mut events).await?;
                if let Some(load) = load {
                    load.stop(case).await?;
                }
            }
        }
        Ok(cases)
    }

    async fn round(&self, case: &mut Case, attacker: &mut Attacker, events: &mut EventStream) -> Result<()> {
        let (began, cpu_secs) = (Instant::now(), cpu_secs(self.agent)?);
        case.rounds.push(attacker.attack_times(self.arguments.attacks, events).await?);
        case.agent_cpu_secs += self::cpu_secs(self.agent)? - cpu_secs;
        case.secs += began.elapsed().as_secs_f64();
        Ok(())
    }
}

/// The user and system CPU time of a process.
fn cpu_secs(pid: u32) -> Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .context("could not read the agent's CPU time")?;
    // proc_pid_stat(5): utime and stime are the 12th and 13th fields after the name in parentheses.
    let (_, fields) = stat.rsplit_once(") ").context("could not find the name in /proc/PID/stat")?;
    let ticks = |at| fields.split(' ').nth(at).and_then(|field| field.parse::<f64>().ok());
    let both = ticks(11).zip(ticks(12)).context("could not parse utime and stime")?;
    Ok((both.0 + both.1) / TICKS_PER_SEC)
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

    /// Writes one request of each of many clients, and waits until the agent has read them.
    async fn fill_table(&mut self, agent: &AgentClient) -> Result<()> {
        let time =
            jiff::Timestamp::from_millisecond(clock::now().wall_ms)?.strftime("%Y-%m-%dT%H:%M:%S+00:00");
        let mut lines = String::new();
        for n in 0..WORST_CLIENTS {
            let client = std::net::Ipv4Addr::from_bits(0x0A00_0000 + n);
            writeln!(
                lines,
                r#"{{"source_ip":"{client}","timestamp":"{time}","method":"GET","path":"/","status":200,"response_size":512}}"#
            )?;
        }
        self.log.write_all(lines.as_bytes()).context("could not write to the log")?;
        let length = self.log.metadata().context("could not look at the log")?.len();
        let until = Instant::now() + FILL_TIMEOUT;
        let is_read =
            |status: &Status| status.sources.iter().map(|source| source.bytes).sum::<u64>() >= length;
        while !is_read(&agent.get(Operation::Status, &[]).await.context("could not ask the agent")?) {
            ensure!(Instant::now() < until, "the agent did not read {WORST_CLIENTS} lines in time");
            sleep(PAUSE).await;
        }
        Ok(())
    }

    /// Writes a new client's flood at this fraction of a millisecond, and waits for its ban.
    async fn attack(&mut self, phase: f64, events: &mut EventStream) -> Result<Latency> {
        // 198.18.0.0/15 is reserved for benchmarks (RFC 2544).
        let client: Client = std::net::Ipv4Addr::from_bits(0xC612_0000 + self.next).into();
        self.next += 1;
        let lines = attack_lines(client)?;
        let written_ms = wait_for_phase(phase);
        self.log.write_all(lines.as_bytes()).context("could not write to the log")?;
        let wait = wait_for_ban(client, events);
        let (banned_ms, announced_ms) =
            timeout(TIMEOUT, wait).await.with_context(|| format!("could not see a ban of {client}"))??;
        // The agent truncates its times to milliseconds, so half of one is added.
        let since = |ms: i64| ms as f64 + 0.5 - written_ms;
        Ok(Latency { detect: since(banned_ms), announce: since(announced_ms) })
    }
}

/// The flood's lines. Their timestamps are spread over the last seconds, because requests within one second may belong to
/// one page.
fn attack_lines(client: Client) -> Result<String> {
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

/// The wall clock in milliseconds, with fractions.
fn wall_ms() -> f64 {
    let time =
        nix::time::clock_gettime(nix::time::ClockId::CLOCK_REALTIME).expect("every Linux has this clock");
    time.tv_sec() as f64 * 1e3 + time.tv_nsec() as f64 / 1e6
}

/// Waits for this fraction of a millisecond on the wall clock, and returns the time. Spins, because a sleep is not precise
/// enough.
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

/// Waits for the client's ban, and returns the times of the engine's verdict and of its event.
async fn wait_for_ban(client: Client, events: &mut EventStream) -> Result<(i64, i64)> {
    loop {
        match events.next().await?.context("could not read the next event: the stream has ended")? {
            Message::Notice(event) if event.client == Some(client) => match &event.data {
                Notice::WouldBan { ban, .. } => return Ok((ban.ban.since_ms, event.at_ms)),
                other => bail!("expected a ban of {client}, got {other:?}"),
            },
            _ => {}
        }
    }
}

/// A running load.
struct Load {
    stop: watch::Sender<bool>,
    tasks: JoinSet<Result<()>>,
    tally: Arc<Tally>,
    /// That should be open.
    streams: usize,
    began: Instant,
}

#[derive(Default)]
struct Tally {
    answers_ms: Mutex<Vec<f64>>,
    failed: AtomicU64,
    streams: AtomicU64,
}

impl Load {
    fn start(asked: Asked) -> Load {
        let (stop, stopped) = watch::channel(false);
        let tally = Arc::new(Tally::default());
        let mut tasks = JoinSet::new();
        let connections = if asked == Asked::Mix { CONNECTIONS } else { WORST_CONNECTIONS };
        for number in 0..connections {
            tasks.spawn(request_until_stopped(number, asked, Arc::clone(&tally), stopped.clone()));
        }
        let streams = asked.streams();
        for _ in 0..streams {
            tasks.spawn(stream_until_stopped(Arc::clone(&tally), stopped.clone()));
        }
        Load { stop, tasks, tally, streams, began: Instant::now() }
    }

    async fn stop(mut self, case: &mut Case) -> Result<()> {
        let streams = self.tally.streams.load(Ordering::Relaxed);
        let all = self.streams;
        ensure!(streams == all as u64, "{streams} of {all} event streams are open");
        self.stop.send(true).context("could not stop the load")?;
        case.load_secs += self.began.elapsed().as_secs_f64();
        while let Some(ended) = self.tasks.join_next().await {
            ended.context("could not finish the load: a task panicked")??;
        }
        case.answers_ms.append(&mut *self.tally.answers_ms.lock().await);
        case.failed += self.tally.failed.load(Ordering::Relaxed);
        Ok(())
    }
}

/// Sends one connection's share of the requests, evenly spaced, or without a pause.
async fn request_until_stopped(
    number: u64,
    asked: Asked,
    tally: Arc<Tally>,
    mut stop: watch::Receiver<bool>,
) -> Result<()> {
    let mut connection = BufReader::new(connect().await?);
    let mut ticks = interval(Duration::from_micros(1_000_000 * CONNECTIONS / REQUESTS_PER_SEC));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut answers = Vec::new();
    for request in number.. {
        tokio::select! {
            biased;
            _ = stop.changed() => break,
            _ = ticks.tick(), if asked == Asked::Mix => {}
            () = std::future::ready(()), if asked != Asked::Mix => {}
        }
        let began = Instant::now();
        // 37 and 100 have no common factor, so the steps reach every part of the mix.
        let path = match asked {
            Asked::Only(path) => path,
            Asked::Mix | Asked::Nothing => mixed_path(request * 37 % 100),
        };
        match get(&mut connection, path).await? {
            200 => answers.push(began.elapsed().as_secs_f64() * 1e3),
            _ => {
                tally.failed.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
    tally.answers_ms.lock().await.append(&mut answers);
    Ok(())
}

fn mixed_path(hundredth: u64) -> &'static str {
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
    let addr: SocketAddr = PAGE.parse().expect("the constant is an address");
    let stream = TcpStream::connect(addr).await.with_context(|| format!("could not connect to {addr}"))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Sends one request on a keep-alive connection and returns the answer's status.
async fn get(connection: &mut BufReader<TcpStream>, path: &str) -> Result<u16> {
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n");
    connection.get_mut().write_all(request.as_bytes()).await.context("could not send a request")?;
    let (mut status, mut length) = (0, 0);
    loop {
        let mut line = String::new();
        connection.read_line(&mut line).await.context("could not read the head of an answer")?;
        let line = line.trim_end().to_ascii_lowercase();
        if let Some(rest) = line.strip_prefix("http/1.1 ") {
            status = rest
                .split(' ')
                .next()
                .unwrap_or_default()
                .parse()
                .context("could not parse the status of an answer")?;
        } else if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().context("could not parse the length of an answer")?;
        } else if line.is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    connection.read_exact(&mut body).await.context("could not read the body of an answer")?;
    Ok(status)
}

/// Reads one event stream.
async fn stream_until_stopped(tally: Arc<Tally>, mut stop: watch::Receiver<bool>) -> Result<()> {
    let mut stream = connect().await?;
    stream.write_all(b"GET /api/v1/events HTTP/1.1\r\nhost: localhost\r\n\r\n").await?;
    let mut buffer = vec![0; 16 * 1024];
    let mut is_open = false;
    loop {
        let count = tokio::select! {
            _ = stop.changed() => return Ok(()),
            count = stream.read(&mut buffer) => count.context("could not read an event stream")?,
        };
        ensure!(count > 0, "an event stream ended");
        if !is_open {
            ensure!(buffer.starts_with(b"HTTP/1.1 200"), "an event stream was refused");
            is_open = true;
            tally.streams.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn print(cases: &[Case], is_worst: bool, as_json: bool) -> Result<()> {
    let most = if is_worst { MAX_WORST_RATIO } else { MAX_RATIO };
    let rows: Vec<RowOut> = cases.iter().map(row).collect();
    let (idle, loaded) = rows.split_first().context("could not find the idle case")?;
    let detect = loaded.iter().map(|row| row.detect_ms / idle.detect_ms).fold(0.0, f64::max);
    let ratio = RatioOut { case: "ratio", detect, most, ok: detect <= most };
    if as_json {
        for row in &rows {
            println!("{}", serde_json::to_string(row)?);
        }
        println!("{}", serde_json::to_string(&ratio)?);
        return Ok(());
    }
    println!(
        "case                                     attacks  detect (p25..p75 of rounds)    p99  announce  agent CPU  req/s  failed  answer p50   p99  streams"
    );
    for row in &rows {
        println!(
            "{:<40} {:>7}  {:>5.3} ms ({:.3}..{:.3})  {:>10.2}  {:>5.2} ms  {:>7.1} %  {:>5.0}  {:>6}  {:>7.2} ms {:>5.2}  {:>7}",
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
        "worst loaded / idle: {:.2} (at most {most:.2}: {})",
        ratio.detect,
        if ratio.ok { "met" } else { "missed" }
    );
    Ok(())
}

fn row(measured: &Case) -> RowOut {
    let all = || measured.rounds.iter().flatten();
    let detect: Vec<f64> = all().map(|latency| latency.detect).collect();
    let announce: Vec<f64> = all().map(|latency| latency.announce).collect();
    let rounds: Vec<f64> = measured.rounds.iter().map(|round| trimmed_mean(round)).collect();
    let answered = measured.answers_ms.len() as f64;
    RowOut {
        case: measured.asked.name(),
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
        streams: measured.asked.streams(),
    }
}

/// The mean detection latency of a round without the slowest attacks.
fn trimmed_mean(round: &[Latency]) -> f64 {
    let mut detect: Vec<f64> = round.iter().map(|latency| latency.detect).collect();
    detect.sort_by(f64::total_cmp);
    detect.truncate(detect.len() - detect.len() / OUTLIERS_IN);
    detect.iter().sum::<f64>() / detect.len() as f64
}

/// The value that this share of the values does not exceed; 0 for no values.
fn quantile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = ((sorted.len() as f64 * share).ceil() as usize).saturating_sub(1);
    sorted.get(at).copied().unwrap_or(0.0)
}
