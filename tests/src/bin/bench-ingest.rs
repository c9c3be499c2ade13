//! `cargo xtask bench ingest`: log lines per second on the same generated file, by five paths in one run:
//!
//! - `memchr`: finds the newlines and nothing else; the upper bound.
//! - `serde_count`: parses with serde_json into a borrowed struct and counts per client, as a careful program without
//!   Shield's parser would.
//! - `parser`: Shield's parser alone.
//! - `whole`: the agent's source and engine threads as in production: read, parse, window, baseline, detect. No kernel, no
//!   store.
//! - `replay`: what `shield-agent replay` does with the file: line by line, with a tick for each second that passes. One thread reads
//!   and another judges.
//!
//! All of these are pinned to one core, so that `whole` and `replay` pay for both their threads. `whole_2` and `replay_2` are the same
//! on two cores.

#![expect(clippy::print_stdout, reason = "a benchmark prints its results")]

use std::fmt::Write as _;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::{Parser as _, ValueEnum};
use hashbrown::HashMap;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use shield_agent::test_support::owner::Owner;
use shield_agent::test_support::pipeline::{Handle, Message};
use shield_agent::test_support::replay::Replay;
use shield_agent::test_support::replay::input::{Input, read_beside};
use shield_agent::test_support::source::{self, FirstStart, Pool};
use shield_engine::Engine;
use shield_engine::allowlist::Allowlist;
use shield_engine::policy::Policy;
use shield_engine::request::Batch;
use shield_engine::settings::Settings as EngineSettings;
use shield_logline::{Format as LineFormat, Output, Parser, Recipe, Settings as Format};

/// The block size of the agent's source.
const BLOCK_BYTES: usize = 256 * 1024;

/// Timestamps advance so that each client sends about one request per second, up to this many lines per second in total.
const MAX_LINES_PER_SEC: u64 = 50_000;

/// The best of this many rounds counts. The paths take turns in each, so that a slow phase of the machine affects all.
const ROUNDS: usize = 5;

/// 2026-01-01T00:00:00Z.
const FIRST_SECOND: i64 = 1_767_225_600;

#[derive(clap::Parser)]
#[command(about = "Log lines per second, by five paths on the same file")]
struct Arguments {
    /// Print one JSON object per line instead of a table
    #[arg(long)]
    json: bool,
    /// Lines in each generated log
    #[arg(long, default_value_t = 500_000)]
    lines: u64,
    /// Numbers of clients for every shape. By default 10,000 for each shape, and 1,000 to 1,000,000 for `ours`
    #[arg(long, value_delimiter = ',')]
    clients: Vec<u64>,
    /// Only these shapes
    #[arg(long, value_enum, value_delimiter = ',')]
    shapes: Vec<Shape>,
}

/// The format of the generated lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
enum Shape {
    /// Shield's own `log_format`.
    Ours,
    /// With user agent, referer, host and request time in addition.
    ExtraFields,
    /// `"status":"200"`.
    QuotedNumbers,
    /// Paths of 300 bytes.
    LongPaths,
    /// IPv6 clients.
    Ipv6,
    /// nginx's `combined`, with the usual agent and referer.
    Combined,
    /// The same behind the host, as nginx-proxy writes it.
    HostFirst,
    /// Nginx Proxy Manager's.
    ProxyManager,
    /// A `log_format` in the configuration, separated by tabs.
    LogFormat,
    /// The combined format in Docker's JSON.
    DockerCombined,
    /// Shield's own format in the container runtimes' of Kubernetes.
    CriJson,
    /// Names and objects as Caddy has them.
    NestedJson,
    /// Shield's own, of a site with hardly any traffic: [`SPARSE_LINES_PER_MIN`].
    Sparse,
    /// Shield's own, in visits with pauses between them, as [`Visits`] has them from the statistics of real sites.
    RealPace,
}

/// The format of [`Shape::LogFormat`].
const LOG_FORMAT: &str = "$msec\t$remote_addr\t$host\t$request_method\t$request_uri\t$status\t$body_bytes_sent\t$http_referer\t$http_user_agent";

impl Shape {
    fn is_json(self) -> bool {
        !matches!(self, Shape::Combined | Shape::HostFirst | Shape::ProxyManager | Shape::LogFormat)
    }

    /// Whether its lines are JSON with Shield's names, unwrapped.
    fn has_own_names(self) -> bool {
        self.is_json() && !matches!(self, Shape::DockerCombined | Shape::CriJson | Shape::NestedJson)
    }

    /// The settings with which the agent reads it.
    fn format(self) -> Format {
        let format = match Recipe::of(LOG_FORMAT) {
            Ok(Recipe::Text(template)) if self == Shape::LogFormat => LineFormat::Template(template),
            _ => LineFormat::Auto,
        };
        Format { format, ..Format::default() }
    }
}

#[derive(Serialize)]
struct Row {
    path: &'static str,
    shape: Shape,
    clients: u64,
    lines_per_sec: u64,
    ratio_to_serde_count: f64,
    /// Of a path on two cores.
    #[serde(skip_serializing_if = "Option::is_none")]
    ratio_to_one_core: Option<f64>,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let mut printer = Printer { json: arguments.json, has_header: false };
    for (shape, clients) in plan(&arguments) {
        measure(shape, clients, arguments.lines)?.iter().try_for_each(|row| printer.print(row))?;
    }
    Ok(())
}

fn plan(arguments: &Arguments) -> Vec<(Shape, u64)> {
    let shapes =
        if arguments.shapes.is_empty() { Shape::value_variants() } else { arguments.shapes.as_slice() };
    if !arguments.clients.is_empty() {
        let pairs =
            |shape: &Shape| arguments.clients.iter().map(|clients| (*shape, *clients)).collect::<Vec<_>>();
        return shapes.iter().flat_map(pairs).collect();
    }
    let each = shapes.iter().map(|shape| (*shape, 10_000));
    let growing = [1_000, 100_000, 1_000_000].map(|clients| (Shape::Ours, clients));
    each.chain(growing.into_iter().filter(|(shape, _)| shapes.contains(shape))).collect()
}

/// Cores that a path may use. Threads that it starts inherit them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cores {
    One,
    Two,
}

impl Cores {
    /// Runs on the first of the machine's cores that this process may use.
    fn pin(self, usable: &CpuSet) -> Result<()> {
        let wanted = if self == Cores::One { 1 } else { 2 };
        let mut cores = CpuSet::new();
        let usable = (0..CpuSet::count()).filter(|core| usable.is_set(*core).unwrap_or(false));
        let mut taken = 0;
        for core in usable.take(wanted) {
            cores.set(core)?;
            taken += 1;
        }
        ensure!(
            taken == wanted,
            "could not use {wanted} cores: this process may use {taken}; run it where it may use two"
        );
        sched_setaffinity(Pid::from_raw(0), &cores).context("could not choose the cores to run on")
    }
}

struct Printer {
    json: bool,
    has_header: bool,
}

impl Printer {
    fn print(&mut self, row: &Row) -> Result<()> {
        if self.json {
            println!("{}", serde_json::to_string(row)?);
            return Ok(());
        }
        if !std::mem::replace(&mut self.has_header, true) {
            println!(
                "{:<12} {:<15} {:>9} {:>14} {:>21} {:>18}",
                "path", "shape", "clients", "lines/s", "ratio to serde_count", "ratio to one core"
            );
        }
        let shape = row.shape.to_possible_value().expect("no shape is hidden");
        let (name, ratio) = (shape.get_name(), row.ratio_to_serde_count);
        let to_one = row.ratio_to_one_core.map_or(String::new(), |ratio| format!("{ratio:.2}x"));
        let Row { path, clients, lines_per_sec, .. } = row;
        println!("{path:<12} {name:<15} {clients:>9} {lines_per_sec:>14} {ratio:>20.2}x {to_one:>18}");
        Ok(())
    }
}

/// A path by its name, the cores that it may use, and one run, which returns the lines that it counted.
type Measured<'a> = (&'static str, Cores, &'a dyn Fn() -> Result<u64>);

/// Measures all paths on one file.
fn measure(shape: Shape, clients: u64, lines: u64) -> Result<Vec<Row>> {
    let text = generate(shape, clients, lines);
    // What is no JSON with Shield's names is compared with the same requests as such JSON.
    let json = if shape.has_own_names() { text.clone() } else { generate(Shape::Ours, clients, lines) };
    let folder = tempfile::tempdir().context("could not create a folder for the log")?;
    let log = folder.path().join("access.log");
    std::fs::write(&log, &text).context("could not write the generated log")?;
    let usable = sched_getaffinity(Pid::from_raw(0)).context("could not ask which cores may be used")?;
    let whole = || count_by_agent(&shape.format(), &log, lines);
    let replay = || count_by_replay(&shape.format(), &log);
    let paths: [Measured<'_>; 7] = [
        ("memchr", Cores::One, &|| Ok(count_newlines(&text))),
        ("serde_count", Cores::One, &|| Ok(count_by_serde(&json))),
        ("parser", Cores::One, &|| Ok(count_by_parser(&shape.format(), &text))),
        ("whole", Cores::One, &whole),
        ("replay", Cores::One, &replay),
        ("whole_2", Cores::Two, &whole),
        ("replay_2", Cores::Two, &replay),
    ];
    let mut best = paths.map(|_| 0.0_f64);
    for _ in 0..ROUNDS {
        for (best, (_, cores, run)) in best.iter_mut().zip(&paths) {
            cores.pin(&usable)?;
            *best = best.max(lines_per_sec(run, lines)?);
        }
    }
    let ratio = |one: f64, other: f64| (100.0 * one / other).round() / 100.0;
    let [_, serde_count, _, whole, replay, whole_2, replay_2] = best;
    let to_one_core =
        [None, None, None, None, None, Some(ratio(whole_2, whole)), Some(ratio(replay_2, replay))];
    let rows = paths.iter().zip(best).zip(to_one_core).map(|(((path, ..), best), to_one_core)| Row {
        path,
        shape,
        clients,
        lines_per_sec: best as u64,
        ratio_to_serde_count: ratio(best, serde_count),
        ratio_to_one_core: to_one_core,
    });
    Ok(rows.collect())
}

/// The lines per second of one run; fails if the run missed a line.
fn lines_per_sec(run: &dyn Fn() -> Result<u64>, lines: u64) -> Result<f64> {
    let started = Instant::now();
    let counted = run()?;
    let secs = started.elapsed().as_secs_f64();
    ensure!(counted == lines, "counted {counted} of {lines} lines");
    Ok(lines as f64 / secs)
}

fn count_newlines(text: &[u8]) -> u64 {
    memchr::memchr_iter(b'\n', text).count() as u64
}

/// The fields that the agent reads, all borrowed from the line.
#[derive(Deserialize)]
struct Borrowed<'a> {
    source_ip: &'a str,
    timestamp: &'a str,
    method: &'a str,
    path: &'a str,
    #[serde(borrow)]
    status: &'a serde_json::value::RawValue,
    #[serde(borrow)]
    response_size: &'a serde_json::value::RawValue,
}

fn count_by_serde(text: &[u8]) -> u64 {
    let mut counts: HashMap<&str, u64> = HashMap::new();
    let mut start = 0;
    for end in memchr::memchr_iter(b'\n', text) {
        let line = text.get(start..end).unwrap_or_default();
        if let Ok(request) = serde_json::from_slice::<Borrowed<'_>>(line) {
            std::hint::black_box((
                request.timestamp,
                request.method,
                request.path,
                request.status,
                request.response_size,
            ));
            *counts.entry(request.source_ip).or_default() += 1;
        }
        start = end + 1;
    }
    counts.values().sum()
}

fn count_by_parser(format: &Format, text: &[u8]) -> u64 {
    let mut parser = Parser::new(format);
    let mut out = Output::default();
    let mut block = Vec::new();
    let (mut at, mut lines) = (0, 0);
    while at < text.len() {
        let piece = text.get(at..text.len().min(at + BLOCK_BYTES)).unwrap_or_default();
        block.resize(BLOCK_BYTES, 0);
        block.get_mut(..piece.len()).unwrap_or_default().copy_from_slice(piece);
        at += parser.parse_block(&mut block, 0, piece.len(), &mut out);
        lines += std::hint::black_box(&out.lines).len() as u64;
        out.lines.clear();
    }
    lines
}

/// Runs the log through a replay as the command does.
fn count_by_replay(format: &Format, log: &Path) -> Result<u64> {
    let mut replay = Replay::new(EngineSettings::default(), Policy::default(), Allowlist::new([]));
    let (paths, inputs) = (replay.path_reader(), vec![(Input::of(log), format.clone())]);
    let read_bytes = Arc::new(AtomicU64::new(0));
    let feed = |batch: &mut Batch| {
        replay.feed(batch);
        Ok(())
    };
    let mut damage = None;
    read_beside(inputs, &read_bytes, paths, feed, |found| damage = Some(found))?;
    ensure!(damage.is_none(), "could not read the generated log: {damage:?}");
    Ok(replay.finish().requests)
}

/// Runs the agent's threads from the file to the engine. Jobs for the performer are received and dropped.
fn count_by_agent(format: &Format, log: &Path, lines: u64) -> Result<u64> {
    let engine = Engine::new(EngineSettings::default(), Policy::default(), Allowlist::new([]), 1, 7);
    let mut paths = engine.path_reader();
    let (handle, inbox) = Handle::new();
    let (perform, jobs) = std::sync::mpsc::channel();
    let pool = Pool::default();
    let owner = Owner::new(engine, inbox, perform, Box::new(|_, _| {}), pool.clone());
    let performer = std::thread::spawn(move || jobs.iter().for_each(drop));
    let owner = std::thread::spawn(move || owner.run());
    let settings = source::Settings {
        first_start: FirstStart::Beginning,
        format: format.clone(),
        ..source::Settings::of_files(log.to_str().context("could not use the log's path: it is not UTF-8")?)
    };
    let to_owner = handle.clone();
    let deliver = move |mut batch| {
        paths.read(&mut batch);
        if to_owner.send_lines(batch) { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    };
    let sources = source::Prepared::new(vec![settings]).start(&[], &pool, &deliver, &|_| {})?;
    let counted = wait_for(&handle, lines)?;
    sources.stop();
    handle.send(Message::Stop);
    owner.join().map_err(|_| anyhow::anyhow!("the engine's thread panicked"))?;
    performer.join().map_err(|_| anyhow::anyhow!("the performer's thread panicked"))?;
    Ok(counted)
}

/// Waits until the engine has counted all lines, for at most 30 s.
fn wait_for(handle: &Handle, lines: u64) -> Result<u64> {
    const TIMEOUT: Duration = Duration::from_secs(30);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    let deadline = Instant::now() + TIMEOUT;
    runtime.block_on(async {
        loop {
            let counted = handle.query(|engine, _| engine.totals().requests).await?;
            if counted >= lines || Instant::now() > deadline {
                return Ok(counted);
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
}

/// The percentage of requests for assets; in the real logs at hand it is between 20 and 60.
const ASSETS_IN_100: u64 = 40;

/// Distinct assets and pages. With the popularity below, two thirds of the requests go to the hundred most requested paths,
/// as in the real logs at hand (0.44 to 0.78).
const ASSETS: u64 = 200;
const PAGES: u64 = 20_000;

/// A log of `lines` lines from `clients` clients, the same for the same arguments. All clients are equally busy, which is
/// the worst case for caches. The popularity of a path falls with its rank, as on real sites (Zipf's law).
fn generate(shape: Shape, clients: u64, lines: u64) -> Vec<u8> {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let lines_per_sec = clients.clamp(100, MAX_LINES_PER_SEC);
    let mut text = String::with_capacity(lines as usize * 200);
    let mut visits = Visits::default();
    for number in 0..lines {
        let (secs, client) = match shape {
            Shape::Sparse => (number * 60 / SPARSE_LINES_PER_MIN, random.below(clients)),
            Shape::RealPace => visits.next(clients, &mut random),
            _ => (number / lines_per_sec, random.below(clients)),
        };
        write_line(&mut text, shape, client, FIRST_SECOND + secs as i64, &mut random);
    }
    text.into_bytes()
}

/// Lines a minute of log time of [`Shape::Sparse`], evenly spread.
const SPARSE_LINES_PER_MIN: u64 = 20;

/// Visits one after another. The distributions are those of four logs of real sites (22,000 to 64,000 lines over months): a minute
/// with a request has 2 or 3 at the median, 12 to 23 at the 90th percentile and 65 to 95 at the 99th; the next such minute comes
/// 1 to 6 min later at the median and 4 to 31 at the 90th; a third to a half of the clients come once; two lines share a second.
#[derive(Default)]
struct Visits {
    client: u64,
    secs: u64,
    /// Lines left of the visit.
    left: u64,
}

impl Visits {
    /// The second of the next line, since the first, and its client.
    fn next(&mut self, clients: u64, random: &mut Random) -> (u64, u64) {
        if self.left == 0 {
            self.client = random.rank(clients);
            self.left = random.heavy_tail(400);
            self.secs += 60 * random.heavy_tail(600);
        } else {
            self.secs += random.below(3) / 2;
        }
        self.left -= 1;
        (self.secs, self.client)
    }
}

fn write_line(text: &mut String, shape: Shape, client: u64, secs: i64, random: &mut Random) {
    let time = timestamp(secs);
    let size = random.below(60_000);
    let status = if random.below(50) == 0 { 404 } else { 200 };
    let path = match shape {
        Shape::LongPaths => format!("/search/{:0300}", random.rank(PAGES)),
        _ if random.below(100) < ASSETS_IN_100 => format!("/static/img/picture-{}.jpg", random.rank(ASSETS)),
        _ => {
            let page = random.rank(PAGES);
            format!("/articles/{}/page-{}.html", page % 500, page / 500)
        }
    };
    let addr = match shape {
        Shape::Ipv6 => format!("2001:db8:{:x}:{:x}::{:x}", client >> 16, client & 0xffff, client % 251 + 1),
        _ => format!("10.{}.{}.{}", client >> 16, client >> 8 & 0xff, client & 0xff),
    };
    if !shape.is_json() {
        return write_text(text, shape, &addr, secs, &path, (status, size));
    }
    let method = "GET";
    let written = match shape {
        Shape::DockerCombined => {
            let time = clf_timestamp(secs);
            writeln!(
                text,
                r#"{{"log":"{addr} - - [{time}] \"{method} {path} HTTP/1.1\" {status} {size} \"-\" \"Mozilla/5.0\"\n","stream":"stdout","time":"2026-01-01T00:00:00.123456789Z"}}"#
            )
        }
        Shape::NestedJson => writeln!(
            text,
            r#"{{"ts":{secs}.5241024,"level":"info","request":{{"remote_ip":"{addr}","method":"{method}","uri":"{path}","proto":"HTTP/2.0"}},"status":{status},"size":{size}}}"#
        ),
        _ => write_own(text, shape, &addr, &time, &path, (status, size)),
    };
    written.expect("writing to a String cannot fail");
}

/// Writes a line of Shield's own format, in a wrapper or not.
fn write_own(
    text: &mut String,
    shape: Shape,
    addr: &str,
    time: &str,
    path: &str,
    (status, size): (u64, u64),
) -> std::fmt::Result {
    if shape == Shape::CriJson {
        text.push_str("2026-01-01T00:00:00.123456789Z stdout F ");
    }
    let quote = if shape == Shape::QuotedNumbers { "\"" } else { "" };
    let extra = match shape {
        Shape::ExtraFields => {
            r#","host":"www.example.org","request_time":0.004,"referer":"https://www.example.org/","user_agent":"Mozilla/5.0 (X11; Linux x86_64; rv:145.0) Gecko/20100101 Firefox/145.0""#
        }
        _ => "",
    };
    writeln!(
        text,
        r#"{{"source_ip":"{addr}","timestamp":"{time}","method":"GET","path":"{path}","status":{quote}{status}{quote},"response_size":{quote}{size}{quote}{extra}}}"#
    )
}

fn clf_timestamp(secs: i64) -> String {
    let time = jiff::Timestamp::from_second(secs).expect("a second of this year");
    time.strftime("%d/%b/%Y:%H:%M:%S +0000").to_string()
}

/// Writes a line of a text format.
fn write_text(
    text: &mut String,
    shape: Shape,
    addr: &str,
    secs: i64,
    path: &str,
    (status, size): (u64, u64),
) {
    const HOST: &str = "www.example.org";
    const REFERER: &str = "https://www.example.org/";
    const AGENT: &str = "Mozilla/5.0 (X11; Linux x86_64; rv:145.0) Gecko/20100101 Firefox/145.0";
    let time = jiff::Timestamp::from_second(secs)
        .expect("a second of this year")
        .strftime("%d/%b/%Y:%H:%M:%S +0000");
    let combined =
        format!(r#"{addr} - - [{time}] "GET {path} HTTP/1.1" {status} {size} "{REFERER}" "{AGENT}""#);
    let written = match shape {
        Shape::HostFirst => writeln!(text, "{HOST} {combined}"),
        Shape::ProxyManager => writeln!(
            text,
            r#"[{time}] - {status} {status} - GET https {HOST} "{path}" [Client {addr}] [Length {size}] [Gzip -] [Sent-to 192.0.2.10] "{AGENT}" "{REFERER}""#
        ),
        Shape::LogFormat => {
            writeln!(text, "{secs}.250\t{addr}\t{HOST}\tGET\t{path}\t{status}\t{size}\t{REFERER}\t{AGENT}")
        }
        _ => writeln!(text, "{combined}"),
    };
    written.expect("writing to a String cannot fail");
}

fn timestamp(secs: i64) -> String {
    let time = jiff::Timestamp::from_second(secs).expect("a second of this year");
    time.strftime("%Y-%m-%dT%H:%M:%S+00:00").to_string()
}

/// An xorshift64* generator: the same numbers in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) % bound
    }

    /// A number from 1 to `most`, with a tail as heavy as that of visits: half of all are 1, a tenth are above 9.
    fn heavy_tail(&mut self, most: u64) -> u64 {
        ((1 << 24) / (self.below(1 << 24) + 1)).min(most)
    }

    /// A rank below `bound`, with a probability inversely proportional to the rank (Zipf's law with exponent 1).
    fn rank(&mut self, bound: u64) -> u64 {
        let uniform = self.below(1 << 24) as f64 / f64::from(1 << 24);
        (bound as f64).powf(uniform) as u64 - 1
    }
}
