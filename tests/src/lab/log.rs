//! Follows nginx's log and records the time at which each line of one client appeared. The timestamps in the log have only
//! whole seconds, which is too coarse to measure a ban.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Seek as _, SeekFrom};
use std::net::IpAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

const POLL_INTERVAL: Duration = Duration::from_millis(1);

/// One line of the watched client.
#[derive(Debug, Clone)]
pub struct Line {
    /// The time at which it was seen, at most a few milliseconds after it was written.
    pub at: Instant,
    /// The line without its newline.
    pub text: String,
}

/// A running watch. Dropping it ends it.
#[derive(Debug)]
pub struct LogWatch {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    is_stopped: AtomicBool,
    lines: Mutex<Vec<Line>>,
}

impl LogWatch {
    /// Starts at the end of the file.
    ///
    /// # Errors
    /// Fails if the file cannot be opened.
    pub fn start(log: &Path, client: IpAddr) -> Result<Self> {
        let mut file = File::open(log).with_context(|| format!("could not open {}", log.display()))?;
        file.seek(SeekFrom::End(0)).context("could not seek to the end of the log")?;
        let shared = Arc::new(Shared::default());
        let watched = Arc::clone(&shared);
        let needle = format!("\"{client}\"");
        let thread = std::thread::spawn(move || watch(BufReader::new(file), &needle, &watched));
        Ok(Self { shared, thread: Some(thread) })
    }

    /// The number of the client's lines so far.
    pub fn count(&self) -> usize {
        self.lines().len()
    }

    /// The n-th line of the client since the watch began, counted from 1.
    pub fn nth(&self, number: usize) -> Option<Line> {
        self.lines().get(number.checked_sub(1)?).cloned()
    }

    fn lines(&self) -> std::sync::MutexGuard<'_, Vec<Line>> {
        self.shared.lines.lock().expect("the watching thread does not panic while it holds the lines")
    }
}

impl Drop for LogWatch {
    fn drop(&mut self) {
        self.shared.is_stopped.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn watch(mut file: BufReader<File>, needle: &str, shared: &Shared) {
    let mut line = String::new();
    while !shared.is_stopped.load(Ordering::Relaxed) {
        match file.read_line(&mut line) {
            Ok(bytes) if bytes > 0 => {}
            _ => std::thread::sleep(POLL_INTERVAL),
        }
        // A partly written line stays in the buffer until its rest can be read.
        if !line.ends_with('\n') {
            continue;
        }
        if line.contains(needle) {
            let text = line.trim_end().to_owned();
            let found = Line { at: Instant::now(), text };
            shared.lines.lock().expect("no reader panics while it holds the lines").push(found);
        }
        line.clear();
    }
}
