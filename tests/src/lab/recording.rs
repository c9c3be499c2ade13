//! A recording of the lab for the README: commands typed on the server, and what the real agent prints on a terminal, as one animated
//! SVG that needs no script, no service and no font of its own. Text and colours are the terminal's; it plays at a pace to read by.

use std::fmt::Write as _;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use crate::agent;
use crate::lab::world::World;

const COLUMNS: usize = 100;
const ROWS: usize = 34;
/// In pixels. A common fixed-width letter is 0.6 of its size wide, and some are a little wider.
const LETTER: f64 = 8.0;
const LINE: f64 = 17.0;
const SIZE: f64 = 13.0;
const MARGIN: f64 = 14.0;

/// How long a comment, a command and each line of its output are looked at, and the last picture before it begins again.
const COMMENT_SECS: f64 = 1.6;
const COMMAND_SECS: f64 = 0.8;
const LINE_SECS: f64 = 0.16;
const LAST_SECS: f64 = 5.0;

/// What was typed and printed, in order.
#[derive(Debug, Default)]
pub struct Recording {
    lines: Vec<Line>,
    secs: f64,
}

#[derive(Debug)]
struct Line {
    at_secs: f64,
    spans: Vec<Span>,
}

/// A piece of a line in one colour.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Span {
    class: &'static str,
    text: String,
}

impl Recording {
    /// A line that is for the reader and does nothing.
    pub fn comment(&mut self, text: &str) {
        if !self.lines.is_empty() {
            self.push(Vec::new(), 0.0);
        }
        self.push(vec![Span { class: "d", text: format!("# {text}") }], COMMENT_SECS);
    }

    /// Types this command on the server, with a terminal for its output.
    ///
    /// # Errors
    /// Fails if it cannot be run, or ends with an error; that a part is degraded is an answer.
    pub fn run(&mut self, world: &World, command: &str) -> Result<()> {
        let output = on_a_terminal(world, command)?;
        let prompt = Span { class: "g", text: "# ".to_owned() };
        self.push(vec![prompt, Span { class: "b", text: command.to_owned() }], COMMAND_SECS);
        let at_once = self.secs;
        for line in output.lines() {
            for row in rows(spans(line.trim_end_matches('\r'))) {
                self.lines.push(Line { at_secs: at_once, spans: row });
                self.secs += LINE_SECS;
            }
        }
        self.secs += COMMAND_SECS;
        Ok(())
    }

    fn push(&mut self, spans: Vec<Span>, secs: f64) {
        self.lines.push(Line { at_secs: self.secs, spans });
        self.secs += secs;
    }

    /// The recording as a picture. Without animations (a reader who wants none) it is the last screen.
    pub fn svg(&self) -> String {
        let all_secs = self.secs + LAST_SECS;
        let (width, height) = (COLUMNS as f64 * LETTER + 2.0 * MARGIN, ROWS as f64 * LINE + 2.0 * MARGIN);
        let mut shown = String::new();
        let mut scrolled = String::new();
        for (n, line) in self.lines.iter().enumerate() {
            let percent = 100.0 * line.at_secs / all_secs;
            if self.lines.get(n + 1).is_some_and(|next| next.at_secs <= line.at_secs) {
                continue;
            }
            let _ = write!(shown, "{percent:.2}%{{transform:translateY({:.0}px)}}", (n + 1) as f64 * LINE);
            let _ = write!(scrolled, "{percent:.2}%{{transform:translateY({:.0}px)}}", -scroll(n + 1));
        }
        let (end, last) = (self.lines.len() as f64 * LINE, scroll(self.lines.len()));
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" \
             role=\"img\" aria-label=\"A terminal: the agent's commands before and during an attack\"><style>\
             text{{font:{SIZE}px ui-monospace,SFMono-Regular,Menlo,Consolas,&quot;DejaVu Sans Mono&quot;,monospace;fill:#d6dbe4;\
             white-space:pre}}\
             .b{{font-weight:600;fill:#fff}}.d{{fill:#8b95a5}}.g{{fill:#5fc98b}}.y{{fill:#e3b341}}.r{{fill:#ff7b72}}\
             .film{{transform:translateY({:.0}px);animation:film {all_secs:.1}s step-end infinite}}\
             .cover{{transform:translateY({end:.0}px);animation:cover {all_secs:.1}s step-end infinite}}\
             @keyframes film{{0%{{transform:none}}{scrolled}}}@keyframes cover{{0%{{transform:none}}{shown}}}\
             @media(prefers-reduced-motion:reduce){{.film,.cover{{animation:none}}}}</style>\
             <rect width=\"{width}\" height=\"{height}\" rx=\"8\" fill=\"#14181e\"/>\
             <svg x=\"{MARGIN}\" y=\"{MARGIN}\" width=\"{:.0}\" height=\"{:.0}\"><g class=\"film\">",
            -last,
            width - 2.0 * MARGIN,
            ROWS as f64 * LINE
        );
        for (n, line) in self.lines.iter().enumerate().filter(|(_, line)| !line.spans.is_empty()) {
            let _ = write!(svg, "<text y=\"{:.0}\" xml:space=\"preserve\">", n as f64 * LINE + SIZE);
            for span in &line.spans {
                let _ = match span.class {
                    "" => write!(svg, "{}", escape(&span.text)),
                    class => write!(svg, "<tspan class=\"{class}\">{}</tspan>", escape(&span.text)),
                };
            }
            svg.push_str("</text>\n");
        }
        let _ = writeln!(
            svg,
            "<rect class=\"cover\" width=\"{width}\" height=\"{:.0}\" fill=\"#14181e\"/></g></svg></svg>",
            end + ROWS as f64 * LINE
        );
        svg
    }
}

/// How far the text has moved up when so many lines are there.
fn scroll(lines: usize) -> f64 {
    lines.saturating_sub(ROWS) as f64 * LINE
}

/// What a command prints on a terminal of the recording's size.
fn on_a_terminal(world: &World, command: &str) -> Result<String> {
    let binary = agent::binary()?;
    let folder = binary.parent().context("could not find the agent's folder")?;
    let path = format!("{}:{}", folder.display(), std::env::var("PATH").unwrap_or_default());
    let sized = format!("stty cols {COLUMNS} rows {ROWS}; {command}");
    let mut script = Command::new("script");
    script.args(["--quiet", "--return", "--command", &sized, "/dev/null"]).stdin(Stdio::null());
    script.env("PATH", path).env("TERM", "xterm").env_remove("NO_COLOR");
    script.env("SHIELD_CONFIG", world.home.config()).env("SHIELD_SOCKET", world.home.socket());
    let output = world.server.enter(|| script.output()).context("could not run script (of util-linux)")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(matches!(output.status.code(), Some(0 | 5)), "`{command}` ended with {}: {text}", output.status);
    Ok(text)
}

/// A printed line by its colours. Shield prints no other escape sequences than these.
fn spans(line: &str) -> Vec<Span> {
    let mut spans = Vec::new();
    let mut class = "";
    for (n, piece) in line.split("\u{1b}[").enumerate() {
        let mut text = piece;
        if n > 0 {
            let Some((code, rest)) = piece.split_once('m') else { continue };
            (class, text) = (class_of(code), rest);
        }
        if !text.is_empty() {
            spans.push(Span { class, text: text.to_owned() });
        }
    }
    spans
}

fn class_of(code: &str) -> &'static str {
    match code {
        "1" => "b",
        "2" => "d",
        "32" => "g",
        "33" => "y",
        "31" => "r",
        _ => "",
    }
}

/// Breaks a line where a terminal does: behind its last column.
fn rows(spans: Vec<Span>) -> Vec<Vec<Span>> {
    let mut rows = vec![Vec::new()];
    let mut left = COLUMNS;
    for span in spans {
        let mut letters: Vec<char> = span.text.chars().collect();
        while letters.len() > left {
            let rest = letters.split_off(left);
            rows.last_mut()
                .expect("there is one from the start")
                .push(Span { class: span.class, text: letters.iter().collect() });
            rows.push(Vec::new());
            (letters, left) = (rest, COLUMNS);
        }
        left -= letters.len();
        rows.last_mut()
            .expect("there is one from the start")
            .push(Span { class: span.class, text: letters.iter().collect() });
    }
    rows
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(spans: &[Span]) -> Vec<(&str, &str)> {
        spans.iter().map(|span| (span.class, span.text.as_str())).collect()
    }

    #[test]
    fn colours_are_kept_and_long_lines_broken_as_a_terminal_does() {
        let line = spans("\u{1b}[32mQuiet\u{1b}[0m: <b> & so on");
        assert_eq!(plain(&line), [("g", "Quiet"), ("", ": <b> & so on")]);
        let long = rows(vec![Span { class: "r", text: "x".repeat(COLUMNS + 3) }]);
        assert_eq!(long.iter().map(|row| row[0].text.len()).collect::<Vec<_>>(), [COLUMNS, 3]);
        assert_eq!(rows(spans("")).len(), 1, "an empty line is a line");
    }

    #[test]
    fn lines_come_one_after_the_other_and_the_last_screen_is_what_stays() {
        let mut recording = Recording::default();
        for n in 0..ROWS + 5 {
            recording.push(vec![Span { class: "", text: format!("line {n} <") }], 1.0);
        }
        let svg = recording.svg();
        assert_eq!(svg.matches("<text ").count(), ROWS + 5);
        assert!(svg.contains("line 3 &lt;") && !svg.contains("<script"));
        let last = format!(".film{{transform:translateY({:.0}px)", -5.0 * LINE);
        assert!(svg.contains(&last), "{last} in {svg}");
    }

    /// What the README shows: small, and of the commands as they are.
    #[test]
    fn the_committed_recording_is_small_and_inert() {
        let svg = include_str!("../../../docs/lab.svg");
        assert!(svg.len() < 300_000, "{} bytes", svg.len());
        for outside in ["<script", "href", "url(", "@import", "<foreignObject"] {
            assert!(!svg.contains(outside), "{outside}");
        }
        assert!(include_str!("../../../README.md").contains("docs/lab.svg"));
    }
}
