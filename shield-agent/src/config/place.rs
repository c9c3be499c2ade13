//! Places in the configuration file: an error about a key shows its line and column, also when the value was well-formed
//! TOML and only its meaning is wrong.
//!
//! The checks know a key by its path; the document knows where each key is written.

use std::fmt;
use std::ops::Range;

use toml::de::{DeArray, DeTable, DeValue};

use crate::text::printable;

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

    /// Finds this place, or the nearest enclosing one that is written in the file.
    pub(super) fn find(&self, document: &DeTable<'_>) -> Option<Found> {
        let (mut table, mut array) = (Some(document), None::<&DeArray<'_>>);
        let mut found: Option<Found> = None;
        for (at, step) in self.0.iter().enumerate() {
            let (span, value) = match step {
                Step::Key(name) => {
                    let Some((key, value)) = table.and_then(|table| table.get_key_value(name.as_str()))
                    else {
                        break;
                    };
                    (if value.get_ref().is_table() { key.span() } else { value.span() }, value)
                }
                Step::Item(index) => {
                    let Some(value) = array.and_then(|array| array.get(*index)) else { break };
                    (value.span(), value)
                }
            };
            let around = found.map(Found::with_itself).unwrap_or_default();
            found = Some(Found {
                place: Place(self.0[..=at].to_vec()),
                span,
                value_at: value.span().start,
                around,
            });
            (table, array) = match value.get_ref() {
                DeValue::Table(table) => (Some(table), None),
                DeValue::Array(array) => (None, Some(array)),
                _ => (None, None),
            };
        }
        found
    }

    /// The innermost place whose key or value is written at `span`.
    pub(super) fn of_span(document: &DeTable<'_>, span: &Range<usize>) -> Option<Place> {
        let holds = |outer: Range<usize>| outer.start <= span.start && span.end <= outer.end;
        document.iter().find_map(|(key, value)| {
            let own = Place::section(key.get_ref());
            let inside = match value.get_ref() {
                DeValue::Table(table) => Place::of_span(table, span),
                DeValue::Array(array) => array.iter().enumerate().find_map(|(at, item)| {
                    let inside = match item.get_ref() {
                        DeValue::Table(table) => Place::of_span(table, span),
                        _ => None,
                    };
                    let item = Place(vec![Step::Item(at)]);
                    inside
                        .map(|inside| item.clone().then(inside))
                        .or_else(|| holds(array[at].span()).then_some(item))
                }),
                _ => None,
            };
            match inside {
                Some(inside) => Some(own.then(inside)),
                None => (holds(key.span()) || holds(value.span())).then_some(own),
            }
        })
    }

    fn then(mut self, inside: Place) -> Place {
        self.0.extend(inside.0);
        self
    }

    /// Takes what is written here out of the document.
    pub(super) fn remove_from(&self, document: &mut DeTable<'_>) {
        let Some((last, before)) = self.0.split_last() else { return };
        let Some(Step::Key(first)) = before.first() else {
            if let Step::Key(name) = last {
                document.remove(name.as_str());
            }
            return;
        };
        let mut value = document.get_mut(first.as_str()).map(toml::Spanned::get_mut);
        for step in &before[1..] {
            value = match (value, step) {
                (Some(DeValue::Table(table)), Step::Key(name)) => {
                    table.get_mut(name.as_str()).map(toml::Spanned::get_mut)
                }
                (Some(DeValue::Array(array)), Step::Item(at)) => {
                    array.get_mut(*at).map(toml::Spanned::get_mut)
                }
                _ => None,
            };
        }
        match (value, last) {
            (Some(DeValue::Table(table)), Step::Key(name)) => drop(table.remove(name.as_str())),
            (Some(DeValue::Array(array)), Step::Item(gone)) => {
                let items = std::mem::replace(array, DeArray::new()).into_iter().enumerate();
                *array = items.filter(|(at, _)| at != gone).map(|(_, item)| item).collect();
            }
            _ => {}
        }
    }
}

/// A place that is written in the file.
#[derive(Debug, Clone)]
pub(super) struct Found {
    pub place: Place,
    /// What is shown: a table's key, every other value itself.
    pub span: Range<usize>,
    /// Where the value begins. It identifies a section while others are taken out of the document.
    pub value_at: usize,
    /// The same of everything around it.
    pub around: Vec<usize>,
}

impl Found {
    fn with_itself(mut self) -> Vec<usize> {
        self.around.push(self.value_at);
        self.around
    }
}

impl Misplaced {
    pub(super) fn into_parts(self) -> (Place, String) {
        (self.place, self.message)
    }
}

/// The message with the line and column at which `span` begins, and that line itself.
pub(super) fn shown(text: &str, span: Option<Range<usize>>, message: &str) -> String {
    let message = message.lines().map(printable).collect::<Vec<_>>().join("\n");
    let Some(before) = span.and_then(|span| text.get(..span.start)) else { return message };
    let line = before.matches('\n').count() + 1;
    let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
    let source = text.lines().nth(line - 1).unwrap_or_default();
    format!("line {line}, column {column}: {message}\n  {line} | {}", printable(source.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_found_in_the_file() {
        let text = "\n[ban]\nterms = ['1m',\n  '2m']\nmax_share = 2\n[[source]]\n[[source]]\npath = 'ä'\n[detect.z_score]\n";
        let check = |place: Place, expected: &str| {
            let document = DeTable::parse(text).unwrap();
            let span = place.find(document.get_ref()).map(|found| found.span);
            let found = shown(text, span, "wrong");
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

    #[test]
    fn nothing_in_the_file_steers_the_terminal() {
        let found = shown("a = \u{1b}[2J", Some(0..1), "no \u{7}");
        assert_eq!(found, "line 1, column 1: no \\u{7}\n  1 | a = \\u{1b}[2J");
    }
}
