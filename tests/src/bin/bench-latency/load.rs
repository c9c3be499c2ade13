//! Other clients' traffic, written to the log at a constant rate by a thread of its own.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use shield_agent::test_support::clock;

const WRITES_PER_SEC: u64 = 100;

/// Each client has a line in one of this many writes: two requests per second, which no rule treats as an attack.
const PIECES: u64 = 50;

/// The load ends after this time even if it is not stopped.
const MAX_DURATION: Duration = Duration::from_secs(300);

/// The measurement fails if less than this share of the requested load was written.
const MIN_SHARE: f64 = 0.9;

/// A running load.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    writer: JoinHandle<Result<(u64, Duration)>>,
    lines_per_sec: u64,
}

impl Load {
    /// Starts to append `lines_per_sec` lines per second to `log`.
    pub(crate) fn start(log: &Path, lines_per_sec: u64) -> Result<Load> {
        let log = File::options().append(true).open(log).context("could not open the log")?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let writer = std::thread::spawn(move || write(log, lines_per_sec, &stopped));
        Ok(Load { stop, writer, lines_per_sec })
    }

    /// Stops the load and returns its rate in lines per second.
    pub(crate) fn stop(self) -> Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        let (lines, took) =
            self.writer.join().map_err(|_| anyhow::anyhow!("the thread that writes the load panicked"))??;
        let rate = lines as f64 / took.as_secs_f64();
        let wanted = self.lines_per_sec;
        ensure!(
            rate >= MIN_SHARE * wanted as f64,
            "only {rate:.0} of {wanted} lines per second were written"
        );
        Ok(rate.round() as u64)
    }
}

fn write(mut log: File, lines_per_sec: u64, stop: &AtomicBool) -> Result<(u64, Duration)> {
    let lines = lines_per_sec.div_ceil(WRITES_PER_SEC);
    let mut pieces = (0..PIECES).map(|piece| Piece::of(piece * lines, lines)).collect::<Result<Vec<_>>>()?;
    let began = Instant::now();
    let mut writes = 0;
    while !stop.load(Ordering::Relaxed) && began.elapsed() < MAX_DURATION {
        let due = began + Duration::from_secs(1) * writes as u32 / WRITES_PER_SEC as u32;
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        let piece = &mut pieces[(writes % PIECES) as usize];
        piece.set_time(clock::now().wall_secs())?;
        log.write_all(&piece.text).context("could not write the load")?;
        writes += 1;
    }
    Ok((writes * lines, began.elapsed()))
}

/// The text of one write: one line for each of some clients.
struct Piece {
    text: Vec<u8>,
    /// The offsets of the timestamps, which are replaced before each write.
    times: Vec<usize>,
}

impl Piece {
    fn of(first: u64, lines: u64) -> Result<Piece> {
        let (mut text, mut times) = (Vec::new(), Vec::new());
        let time = timestamp(0)?;
        for client in first..first + lines {
            let addr = std::net::Ipv4Addr::from_bits(0x0a00_0000 + client as u32);
            write!(text, r#"{{"source_ip":"{addr}","timestamp":""#)?;
            times.push(text.len());
            let page = client * 7 % 500;
            writeln!(
                text,
                r#"{time}","method":"GET","path":"/articles/{page}","status":200,"response_size":5120}}"#
            )?;
        }
        Ok(Piece { text, times })
    }

    fn set_time(&mut self, secs: i64) -> Result<()> {
        let time = timestamp(secs)?;
        for at in &self.times {
            self.text[*at..*at + time.len()].copy_from_slice(time.as_bytes());
        }
        Ok(())
    }
}

/// A second in the format of nginx's `$time_iso8601`, always of the same length.
pub(crate) fn timestamp(secs: i64) -> Result<String> {
    let time = jiff::Timestamp::from_second(secs).context("could not format the time")?;
    Ok(time.strftime("%Y-%m-%dT%H:%M:%S+00:00").to_string())
}
