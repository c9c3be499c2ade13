//! Standard output: text, tables, JSON. Every command prints through here, so that colours, broken pipes and write
//! errors are handled once.

use std::io::{self, ErrorKind, IsTerminal, Write};

use anyhow::{Context, Result};
use serde::Serialize;

/// Coloured or plain output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Colour {
    On,
    Off,
}

impl Colour {
    /// On for a terminal, unless `NO_COLOR` is set and not empty or `TERM` is `dumb`.
    pub(crate) fn of_stdout() -> Colour {
        let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let is_dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        if io::stdout().is_terminal() && !is_set("NO_COLOR") && !is_dumb { Colour::On } else { Colour::Off }
    }

    pub(crate) fn paint(self, style: Style, text: &str) -> String {
        match self {
            Colour::On => format!("\x1b[{}m{text}\x1b[0m", style.code()),
            Colour::Off => text.to_owned(),
        }
    }
}

/// The meaning of a piece of text; its colour follows from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    Bold,
    Dim,
    Good,
    Warn,
    Bad,
}

impl Style {
    fn code(self) -> &'static str {
        match self {
            Style::Bold => "1",
            Style::Dim => "2",
            Style::Good => "32",
            Style::Warn => "33",
            Style::Bad => "31",
        }
    }
}

/// The columns of the terminal that standard output is; `None` in a pipe or a file, where nothing is cut or wrapped.
pub(crate) fn columns() -> Option<usize> {
    let out = io::stdout();
    if !out.is_terminal() {
        return None;
    }
    let size = rustix::termios::tcgetwinsize(&out).ok()?;
    Some(usize::from(size.ws_col)).filter(|columns| *columns >= MIN_COLUMNS)
}

/// A terminal that says it is narrower is not believed.
const MIN_COLUMNS: usize = 40;

/// Breaks a line between words so that it fits `columns`, with `indent` blanks before what follows. Escape sequences of
/// colours take no place.
pub(crate) fn wrapped(line: &str, indent: usize, columns: Option<usize>) -> String {
    let Some(columns) = columns else { return line.to_owned() };
    let mut out = String::with_capacity(line.len());
    let mut at = 0;
    for word in line.split_inclusive(' ') {
        let width = shown_chars(word.trim_end());
        if at > indent && at + width > columns {
            out.truncate(out.trim_end().len());
            out.push('\n');
            out.extend(std::iter::repeat_n(' ', indent));
            at = indent;
        }
        out.push_str(word);
        at += shown_chars(word);
    }
    out
}

fn shown_chars(text: &str) -> usize {
    let mut shown = 0;
    let mut is_escape = false;
    for c in text.chars() {
        match c {
            '\u{1b}' => is_escape = true,
            'm' if is_escape => is_escape = false,
            _ if is_escape => {}
            _ => shown += 1,
        }
    }
    shown
}

/// The beginning of a text, with an ellipsis where it is cut to fit.
pub(crate) fn cut(text: &str, chars: usize) -> String {
    if text.chars().count() <= chars {
        return text.to_owned();
    }
    let head: String = text.chars().take(chars.saturating_sub(1)).collect();
    format!("{}…", head.trim_end())
}

/// Writes text to standard output. A closed pipe (`| head`) is not an error.
pub(crate) fn text(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written.context("could not write to standard output"),
    }
}

/// Writes text as [`text()`] does; returns false when the pipe is closed. For commands that run until interrupted.
pub(crate) fn text_to_reader(text: &str) -> Result<bool> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        written => written.map(|()| true).context("could not write to standard output"),
    }
}

/// Writes what to know of what is about to be done to standard error.
pub(crate) fn warning(text: &str) {
    // With standard error closed nobody reads it.
    let _ = writeln!(io::stderr(), "warning: {text}");
}

/// Writes an error with its causes to standard error, in one line.
pub fn error(error: &anyhow::Error) {
    let mut out = io::stderr().lock();
    // With standard error closed there is no other place to report to.
    let _ = writeln!(out, "shield-agent: {error:#}");
}

/// Writes one JSON document, indented.
pub(crate) fn json(value: &impl Serialize) -> Result<()> {
    let mut document = serde_json::to_string_pretty(value).context("could not encode the answer as JSON")?;
    document.push('\n');
    text(&document)
}

/// Blanks between two columns of a table.
const GAP: usize = 2;

/// A table with a heading and aligned columns.
#[derive(Debug, Default)]
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
    right: Vec<usize>,
}

impl Table {
    /// Creates a table with this heading; the columns in `right` are right-aligned.
    pub(crate) fn new(heading: &[&str], right: &[usize]) -> Table {
        Table { rows: vec![heading.iter().map(|&cell| cell.to_owned()).collect()], right: right.to_vec() }
    }

    pub(crate) fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    /// As [`Table::render`], with the last column cut so that a row fits `columns`.
    pub(crate) fn render_within(mut self, columns: Option<usize>, colour: Colour) -> String {
        let last = self.rows[0].len() - 1;
        if let Some(columns) = columns {
            let width =
                |column: usize| self.rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
            let before: usize = (0..last).map(|column| width(column) + GAP).sum();
            let room = columns.saturating_sub(before).max(self.rows[0][last].chars().count());
            self.rows.iter_mut().for_each(|row| row[last] = cut(&row[last], room));
        }
        self.render(colour)
    }

    pub(crate) fn render(&self, colour: Colour) -> String {
        let columns = self.rows[0].len();
        let width =
            |column: usize| self.rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let mut text = String::new();
        for (at, row) in self.rows.iter().enumerate() {
            let cells: Vec<String> = row
                .iter()
                .enumerate()
                .map(|(column, cell)| self.cell(column, cell, widths[column]))
                .collect();
            let line = cells.join(&" ".repeat(GAP));
            let line = line.trim_end();
            text.push_str(&if at == 0 { colour.paint(Style::Bold, line) } else { line.to_owned() });
            text.push('\n');
        }
        text
    }

    fn cell(&self, column: usize, cell: &str, width: usize) -> String {
        if self.right.contains(&column) { format!("{cell:>width$}") } else { format!("{cell:<width$}") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_breaks_between_words_and_colours_take_no_place() {
        let line = "bans      \u{1b}[31mtwelve\u{1b}[0m in force, one of them permanent; forty made";
        assert_eq!(
            wrapped(line, 10, Some(40)),
            "bans      \u{1b}[31mtwelve\u{1b}[0m in force, one of them\n          permanent; forty made"
        );
        assert_eq!(wrapped(line, 10, None), line);
        let path = format!("bans      {}", "x".repeat(50));
        assert_eq!(wrapped(&path, 10, Some(40)), path, "what has no blank stays whole");
    }

    #[test]
    fn a_long_text_is_cut_at_a_character() {
        let cut = cut(&"ü".repeat(200), 80);
        assert_eq!(cut.chars().count(), 80);
        assert!(cut.ends_with('…'));
    }

    #[test]
    fn the_last_column_of_a_table_is_cut_to_fit() {
        let table = || {
            let mut table = Table::new(&["client", "why"], &[]);
            table.row(vec!["192.0.2.7".into(), "many different paths that do not exist".into()]);
            table
        };
        assert_eq!(
            table().render_within(Some(30), Colour::Off),
            "client     why\n192.0.2.7  many different pat…\n"
        );
        assert!(table().render_within(None, Colour::Off).ends_with("do not exist\n"));
    }

    #[test]
    fn a_table_is_aligned_and_has_no_trailing_blanks() {
        let mut table = Table::new(&["client", "bans", "why"], &[1]);
        table.row(vec!["192.0.2.7".into(), "3".into(), String::new()]);
        table.row(vec!["2001:db8::/64".into(), "12".into(), "flood".into()]);
        assert_eq!(
            table.render(Colour::Off),
            "client         bans  why\n192.0.2.7         3\n2001:db8::/64    12  flood\n"
        );
        assert!(table.render(Colour::On).starts_with("\x1b[1mclient"));
    }
}
