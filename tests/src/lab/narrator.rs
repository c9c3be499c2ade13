//! Prints the story for a person: one line per step, with its time; colours only on a terminal.

use std::fmt::Display;
use std::io::{self, IsTerminal as _, Write};
use std::time::{Duration, Instant};

/// Prints the steps to one output stream.
pub struct Narrator {
    out: Box<dyn Write + Send>,
    style: Style,
    started: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Style {
    Coloured,
    Plain,
}

const GREEN: &str = "\u{1b}[32m";
const RED: &str = "\u{1b}[31m";
const BOLD: &str = "\u{1b}[1m";
const DIM: &str = "\u{1b}[2m";
const RESET: &str = "\u{1b}[0m";

impl Narrator {
    /// Prints to standard output.
    pub fn to_stdout() -> Self {
        Self::new(Box::new(io::stdout()), io::stdout().is_terminal())
    }

    /// Prints to standard error, which leaves standard output to the JSON report.
    pub fn to_stderr() -> Self {
        Self::new(Box::new(io::stderr()), io::stderr().is_terminal())
    }

    fn new(out: Box<dyn Write + Send>, is_terminal: bool) -> Self {
        // https://no-color.org
        let no_colour = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let style = if is_terminal && !no_colour { Style::Coloured } else { Style::Plain };
        Self { out, style, started: Instant::now() }
    }

    /// Prints the heading of a part of the story.
    pub fn heading(&mut self, title: &str) {
        let title = self.paint(BOLD, title);
        self.line(&format!("\n{title}"));
    }

    /// Prints a successful step with the time since the start.
    pub fn step(&mut self, what: impl Display) {
        let mark = self.paint(GREEN, "✓");
        let at = self.clock();
        self.line(&format!("{mark} {at}  {what}"));
    }

    /// Prints a successful step with its time after the offending log line.
    pub fn step_after(&mut self, after: Duration, what: impl Display) {
        let mark = self.paint(GREEN, "✓");
        let after = self.paint(BOLD, &format!("{:>8}", format!("+{}", milliseconds(after))));
        self.line(&format!("{mark} {after}  {what}"));
    }

    /// Prints further information, without a mark.
    pub fn note(&mut self, what: impl Display) {
        let what = self.paint(DIM, &what.to_string());
        self.line(&format!("            {what}"));
    }

    /// Prints what failed.
    pub fn failed(&mut self, what: impl Display) {
        let mark = self.paint(RED, "✗");
        let at = self.clock();
        self.line(&format!("{mark} {at}  {what}"));
    }

    /// Ends the story: prints and returns the error of the step that failed.
    pub fn ended(&mut self, told: anyhow::Result<()>) -> Option<String> {
        let what = format!("{:#}", told.err()?);
        self.failed(&what);
        Some(what)
    }

    fn clock(&self) -> String {
        self.paint(DIM, &format!("{:>6.1} s", self.started.elapsed().as_secs_f64()))
    }

    fn paint(&self, colour: &str, text: &str) -> String {
        match self.style {
            Style::Coloured => format!("{colour}{text}{RESET}"),
            Style::Plain => text.to_owned(),
        }
    }

    fn line(&mut self, text: &str) {
        // The output may be a closed pipe. The lab must go on nevertheless, in order to clean up.
        let _ = writeln!(self.out, "{text}");
        let _ = self.out.flush();
    }
}

fn milliseconds(duration: Duration) -> String {
    let ms = duration.as_secs_f64() * 1e3;
    if ms < 10.0 { format!("{ms:.1} ms") } else { format!("{ms:.0} ms") }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn away_from_a_terminal_there_are_no_colours_and_times_line_up() {
        let heard = Shared::default();
        let mut narrator = Narrator::new(Box::new(heard.clone()), false);
        narrator.heading("The attack");
        narrator.step_after(Duration::from_micros(3_210), "verdict");
        narrator.step_after(Duration::from_millis(42), "rule");
        narrator.note("why");
        let text = String::from_utf8(heard.0.lock().unwrap().clone()).unwrap();
        assert_eq!(text, "\nThe attack\n✓  +3.2 ms  verdict\n✓   +42 ms  rule\n            why\n");
    }
}
