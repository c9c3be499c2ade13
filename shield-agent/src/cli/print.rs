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
            let line = cells.join("  ");
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
