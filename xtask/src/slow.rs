//! What took long in a run of the tests: its steps, and the test binaries, which cargo runs one after another.

use std::io::{BufRead as _, BufReader, IsTerminal as _, Read};
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

/// So many are named.
const NAMED: usize = 10;

/// Names with the time that each of them took.
#[derive(Debug, Default)]
pub(crate) struct Slow(Vec<(String, Duration)>);

impl Slow {
    /// Runs a step and notes its time.
    pub(crate) fn time<T>(&mut self, name: &str, step: impl FnOnce() -> T) -> T {
        let began = Instant::now();
        let result = step();
        self.0.push((name.to_owned(), began.elapsed()));
        result
    }

    pub(crate) fn append(&mut self, mut other: Slow) {
        self.0.append(&mut other.0);
    }

    /// The slowest, longest first, a line each.
    pub(crate) fn report(&self) -> String {
        let mut all: Vec<&(String, Duration)> = self.0.iter().collect();
        all.sort_by(|(a_name, a), (b_name, b)| b.cmp(a).then_with(|| a_name.cmp(b_name)));
        let mut report = String::from("slowest, in seconds:");
        for (name, took) in all.into_iter().take(NAMED) {
            report.push_str(&format!("\n{:>8.1}  {name}", took.as_secs_f64()));
        }
        report
    }
}

/// The test binaries that cargo said it starts, and when.
pub(crate) struct Starts(Receiver<(String, Instant)>);

impl Starts {
    /// Passes on what cargo says on standard error, by a thread of its own: a program that a failed test left behind keeps the pipe
    /// open for ever.
    pub(crate) fn watch(stderr: impl Read + Send + 'static) -> Starts {
        let (sender, starts) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).split(b'\n') {
                let Ok(line) = line else { break };
                let line = String::from_utf8_lossy(&line);
                eprintln!("{line}");
                // Nobody hears of what comes after cargo's end.
                let _ = started(&line).map(|name| sender.send((name, Instant::now())));
            }
        });
        Starts(starts)
    }

    /// How long each of them ran, until now; and `building` since `began`, until the first one was started.
    pub(crate) fn until_now(&self, building: &str, began: Instant) -> Slow {
        let mut slow = Slow::default();
        let mut running = (building.to_owned(), began);
        for next in self.0.try_iter().chain([(String::new(), Instant::now())]) {
            let (name, since) = std::mem::replace(&mut running, next);
            slow.0.push((name, running.1.duration_since(since)));
        }
        slow
    }
}

/// Cargo's colours would be lost, because its standard error is a pipe.
pub(crate) fn colour() -> &'static str {
    if std::io::stderr().is_terminal() { "--color=always" } else { "--color=auto" }
}

/// The name of the test binary that cargo says it starts.
fn started(line: &str) -> Option<String> {
    let line = without_colours(line);
    let line = line.trim_start();
    if let Some(package) = line.strip_prefix("Doc-tests ") {
        return Some(format!("doc-tests of {package}"));
    }
    let (source, binary) = line.strip_prefix("Running ")?.rsplit_once(" (")?;
    let binary = binary.strip_suffix(')')?.rsplit('/').next()?;
    let (name, _hash) = binary.rsplit_once('-')?;
    Some(format!("{name} ({source})"))
}

/// Without ANSI's sequences, each from an escape to an `m`.
fn without_colours(line: &str) -> String {
    let mut parts = line.split('\u{1b}');
    let first = parts.next().unwrap_or_default();
    let rest = parts.filter_map(|part| Some(part.split_once('m')?.1));
    std::iter::once(first).chain(rest).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_binary_is_known_by_cargos_line() {
        let plain = "     Running unittests src/lib.rs (target/debug/deps/shield_agent-0123456789abcdef)";
        let coloured =
            "\u{1b}[1m\u{1b}[32m     Running\u{1b}[0m tests/api.rs (target/debug/deps/api-0123456789abcdef)";
        assert_eq!(started(plain).as_deref(), Some("shield_agent (unittests src/lib.rs)"));
        assert_eq!(started(coloured).as_deref(), Some("api (tests/api.rs)"));
        assert_eq!(started("   Doc-tests shield_engine").as_deref(), Some("doc-tests of shield_engine"));
        assert_eq!(started("   Compiling xtask v0.1.0 (/src/xtask)"), None);
        assert_eq!(started("Running late (a test says so)"), None);
    }

    #[test]
    fn every_binary_has_its_time_and_the_build_comes_first() {
        let (sender, starts) = std::sync::mpsc::channel();
        let began = Instant::now();
        let after = |secs| began + Duration::from_secs(secs);
        sender.send(("a".to_owned(), after(5))).unwrap();
        sender.send(("b".to_owned(), after(12))).unwrap();
        let slow = Starts(starts).until_now("build", began).0;
        assert_eq!(slow[0], ("build".to_owned(), Duration::from_secs(5)));
        assert_eq!(slow[1], ("a".to_owned(), Duration::from_secs(7)));
        assert_eq!((slow[2].0.as_str(), slow.len()), ("b", 3));
    }

    #[test]
    fn the_ten_slowest_are_named() {
        let slow = Slow((1..=12).map(|secs| (format!("step {secs}"), Duration::from_secs(secs))).collect());
        let report = slow.report();
        assert!(
            report.starts_with("slowest, in seconds:\n    12.0  step 12\n    11.0  step 11\n"),
            "{report}"
        );
        assert!(report.ends_with("     3.0  step 3"), "{report}");
    }
}
