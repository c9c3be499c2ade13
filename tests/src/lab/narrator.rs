//! Tells the story to a person: one line a fact, with its time; colours only on a terminal.

use std::fmt::Display;
use std::io::{self, IsTerminal as _, Write};
use std::time::{Duration, Instant};

/// Where the story goes.
pub struct Narrator {
    out: Box<dyn Write + Send>,
    style: Style,
    started: Instant,
}

/// How it looks.
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
    /// Tells it on standard output.
    pub fn to_stdout() -> Self {
        Self::new(Box::new(io::stdout()), io::stdout().is_terminal())
    }

    /// Tells it on standard error: standard output is for the JSON then.
    pub fn to_stderr() -> Self {
        Self::new(Box::new(io::stderr()), io::stderr().is_terminal())
    }

    fn new(out: Box<dyn Write + Send>, is_terminal: bool) -> Self {
        // https://no-color.org
        let no_colour = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let style = if is_terminal && !no_colour { Style::Coloured } else { Style::Plain };
        Self { out, style, started: Instant::now() }
    }

    /// A heading between two parts of the story.
    pub fn chapter(&mut self, title: &str) {
        let title = self.paint(BOLD, title);
        self.line(&format!("\n{title}"));
    }

    /// A step that has happened, with the time since the beginning.
    pub fn happened(&mut self, what: impl Display) {
        let mark = self.paint(GREEN, "✓");
        let at = self.clock();
        self.line(&format!("{mark} {at}  {what}"));
    }

    /// A step that has happened so long after the last moment that matters.
    pub fn happened_after(&mut self, after: Duration, what: impl Display) {
        let mark = self.paint(GREEN, "✓");
        let after = self.paint(BOLD, &format!("{:>8}", format!("+{}", milliseconds(after))));
        self.line(&format!("{mark} {after}  {what}"));
    }

    /// Something to know, without a mark.
    pub fn note(&mut self, what: impl Display) {
        let what = self.paint(DIM, &what.to_string());
        self.line(&format!("            {what}"));
    }

    /// The step that did not happen.
    pub fn failed(&mut self, what: impl Display) {
        let mark = self.paint(RED, "✗");
        let at = self.clock();
        self.line(&format!("{mark} {at}  {what}"));
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
        // Whoever closed the pipe does not want to hear the rest; the lab goes on to clean up.
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
        narrator.chapter("The attack");
        narrator.happened_after(Duration::from_micros(3_210), "verdict");
        narrator.happened_after(Duration::from_millis(42), "rule");
        narrator.note("why");
        let text = String::from_utf8(heard.0.lock().unwrap().clone()).unwrap();
        assert_eq!(text, "\nThe attack\n✓  +3.2 ms  verdict\n✓   +42 ms  rule\n            why\n");
    }
}
