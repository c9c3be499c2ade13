//! Places in the configuration file: an error about a key shows its line and column, also when the value was well-formed
//! TOML and only its meaning is wrong.
//!
//! The checks know a key by its path; the file is parsed a second time, with spans, only when there is an error to show.

use std::fmt;
use std::ops::Range;

use toml::de::{DeTable, DeValue};

/// The path of a key or of an item of an array.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place(Vec<Step>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Key(String),
    Item(usize),
}

/// An error about one place.
#[derive(Debug)]
pub(super) struct Misplaced {
    place: Place,
    message: String,
}

impl fmt::Display for Misplaced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Misplaced {}

impl Place {
    /// A top-level section.
    pub(super) fn section(name: &str) -> Place {
        Place(vec![Step::Key(name.to_owned())])
    }

    pub(super) fn key(mut self, name: &str) -> Place {
        self.0.push(Step::Key(name.to_owned()));
        self
    }

    pub(super) fn item(mut self, index: usize) -> Place {
        self.0.push(Step::Item(index));
        self
    }

    /// An error about this place. The message names the section and key itself.
    pub(super) fn error(self, message: impl Into<String>) -> anyhow::Error {
        anyhow::Error::new(Misplaced { place: self, message: message.into() })
    }

    /// The bytes of `text` that hold this place, or the nearest enclosing one that is written in the file. A table is shown
    /// by its key, every other value by itself.
    fn span_in(&self, text: &str) -> Option<Range<usize>> {
        let document = DeTable::parse(text).ok()?;
        let mut table = Some(document.get_ref());
        let mut array = None;
        let mut span = None;
        for step in &self.0 {
            let (at, value) = match step {
                Step::Key(name) => {
                    let Some((key, value)) = table.and_then(|table| table.get_key_value(name.as_str()))
                    else {
                        break;
                    };
                    (if value.get_ref().is_table() { key.span() } else { value.span() }, value)
                }
                Step::Item(index) => {
                    let Some(value) = array.and_then(|array: &toml::de::DeArray<'_>| array.get(*index))
                    else {
                        break;
                    };
                    (value.span(), value)
                }
            };
            span = Some(at);
            (table, array) = match value.get_ref() {
                DeValue::Table(table) => (Some(table), None),
                DeValue::Array(array) => (None, Some(array)),
                _ => (None, None),
            };
        }
        span
    }
}

/// Prefixes an error of a check with the line and column of its place.
pub(super) fn locate(text: &str, error: anyhow::Error) -> anyhow::Error {
    match error.downcast::<Misplaced>() {
        Ok(Misplaced { place, message }) => anyhow::Error::msg(shown(text, place.span_in(text), &message)),
        Err(other) => other,
    }
}

/// The message with the line and column at which `span` begins, and that line itself.
pub(super) fn shown(text: &str, span: Option<Range<usize>>, message: &str) -> String {
    let Some(before) = span.and_then(|span| text.get(..span.start)) else { return message.to_owned() };
    let line = before.matches('\n').count() + 1;
    let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
    let source = text.lines().nth(line - 1).unwrap_or_default();
    format!("line {line}, column {column}: {message}\n  {line} | {}", source.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_found_in_the_file() {
        let text = "\n[ban]\nterms = ['1m',\n  '2m']\nmax_share = 2\n[[source]]\n[[source]]\npath = 'ä'\n[detect.z_score]\n";
        let check = |place: Place, expected: &str| {
            let found = format!("{:#}", locate(text, place.error("wrong")));
            assert!(found.starts_with(expected), "{found}");
        };
        check(Place::section("ban").key("max_share"), "line 5, column 13: wrong\n  5 | max_share = 2");
        check(Place::section("ban").key("terms").item(1), "line 4, column 3: wrong");
        check(Place::section("ban").key("terms").item(7), "line 3, column 9: wrong");
        check(Place::section("ban"), "line 2, column 2: wrong");
        check(Place::section("source").item(1).key("path"), "line 8, column 8: wrong");
        check(Place::section("detect").key("z_score"), "line 9, column 9: wrong");
        check(Place::section("xdp").key("mode"), "wrong");
    }
}
