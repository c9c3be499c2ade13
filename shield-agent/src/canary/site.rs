//! How the site does, by its log: the share of errors, and how long answers take. Counted on the canary's thread.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use memchr::memmem::Finder;

use super::figures;
use crate::latencies::Histogram;
use shield_engine::request::Batch;

/// Upper bounds in seconds, close together where people begin to notice.
const BOUNDS: [f64; 12] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.35, 0.5, 1.0, 2.0, 5.0, 30.0];
/// nginx's variable as a key of JSON. A client cannot write it: quotes in what it sends are escaped.
const KEY: &[u8] = b"\"request_time\"";
static FINDER: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(KEY));

#[derive(Debug)]
pub(super) struct Site {
    answers: AtomicU64,
    errors: AtomicU64,
    times: Histogram,
}

impl Default for Site {
    fn default() -> Site {
        Site { answers: AtomicU64::new(0), errors: AtomicU64::new(0), times: Histogram::new(&BOUNDS) }
    }
}

impl Site {
    pub(super) fn note(&self, batch: &Batch) {
        let errors = batch.lines.iter().filter(|line| line.status >= 500).count();
        self.answers.fetch_add(batch.lines.len() as u64, Ordering::Relaxed);
        self.errors.fetch_add(errors as u64, Ordering::Relaxed);
        for at in FINDER.find_iter(&batch.bytes) {
            let rest = batch.bytes.get(at + KEY.len()..).unwrap_or_default();
            if let Some(took) = seconds(rest) {
                self.times.note(took, 1);
            }
        }
    }

    pub(super) fn figures(&self) -> figures::Site {
        figures::Site {
            answers: self.answers.load(Ordering::Relaxed),
            errors: self.errors.load(Ordering::Relaxed),
            p99_ms: self.times.at_most(0.99).map(|took| took.as_millis() as u64),
        }
    }
}

/// The number behind the key, quoted or not.
fn seconds(rest: &[u8]) -> Option<Duration> {
    const LONGEST: usize = 24;
    let rest = rest.get(..LONGEST).unwrap_or(rest);
    let rest = rest.trim_ascii_start().strip_prefix(b":")?.trim_ascii_start();
    let rest = rest.strip_prefix(b"\"").unwrap_or(rest);
    let end = rest.iter().position(|byte| !byte.is_ascii_digit() && *byte != b'.').unwrap_or(rest.len());
    let secs = std::str::from_utf8(&rest[..end]).ok()?.parse().ok()?;
    Duration::try_from_secs_f64(secs).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_nginx_writes_them_and_not_as_clients_do() {
        let site = Site::default();
        let note = |text: &str| site.note(&Batch { bytes: text.as_bytes().to_vec(), ..Batch::default() });
        note("{\"status\":200,\"request_time\":0.004}\n");
        note("{\"request_time\" : \"0.300\"}\n{\"request_time\":");
        assert_eq!(site.times.at_most(0.5), Some(Duration::from_millis(5)));
        assert_eq!(site.figures().p99_ms, Some(350));
        note("{\"agent\":\"\\\"request_time\\\":20\"}\n{\"request_time\":-}\n{\"request_time\":\"x\"}\n");
        assert_eq!(site.figures().p99_ms, Some(350));
        assert_eq!(Site::default().figures().p99_ms, None);
    }
}
