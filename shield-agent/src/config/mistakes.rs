//! All mistakes of a configuration, not only the first: whoever corrects one should not have to come back for the next.
//!
//! The readers and checks stop at the first mistake. So each one found is taken out of the document, and the rest is read
//! again, until nothing is wrong.

use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;

use serde::Deserialize as _;
use toml::de::{DeTable, Deserializer};

use super::place::{self, Misplaced, Place};
use super::raw::RawConfig;
use super::{Config, suggest, validate};
use crate::text::counted;

/// Mistakes listed at most.
const MOST: usize = 50;

/// What is wrong with a configuration: at least one mistake, in the order of the file.
#[derive(Debug)]
pub(crate) struct Mistakes {
    found: Vec<Mistake>,
    are_all: bool,
}

#[derive(Debug)]
struct Mistake {
    at: Option<usize>,
    /// With its line and column.
    shown: String,
}

impl Mistakes {
    /// Each mistake with its line and column, and under it the line itself.
    pub(crate) fn each(&self) -> impl Iterator<Item = &str> {
        self.found.iter().map(|mistake| mistake.shown.as_str())
    }
}

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let texts: Vec<&str> = self.each().collect();
        if texts.len() > 1 {
            let or_more = if self.are_all { "" } else { " or more" };
            writeln!(f, "{}{or_more}:", counted(texts.len() as u64, "mistake"))?;
        }
        f.write_str(&texts.join("\n"))
    }
}

impl std::error::Error for Mistakes {}

/// Reads and checks the whole text.
pub(super) fn config(text: &str) -> Result<Config, Mistakes> {
    let (document, errors) = DeTable::parse_recoverable(text);
    let mut search = Search { text, found: Vec::new(), damaged: BTreeSet::new() };
    if !errors.is_empty() {
        for error in errors {
            search.note(error.span(), &suggest::with_suggestion(error.message()));
        }
        return Err(search.end(true));
    }
    let mut document = document;
    while search.found.len() < MOST {
        let wrong = match read(document.clone()) {
            Ok(config) if search.found.is_empty() => return Ok(config),
            Ok(_) => return Err(search.end(true)),
            Err(wrong) => wrong,
        };
        let (place, written, message) = match wrong {
            Wrong::Form(error) => {
                let message = suggest::with_suggestion(error.message());
                match error.span().and_then(|span| Place::of_span(document.get_ref(), &span)) {
                    Some(place) => (place, error.span(), message),
                    None => {
                        search.note(error.span(), &message);
                        return Err(search.end(false));
                    }
                }
            }
            Wrong::Meaning(error) => match error.downcast::<Misplaced>() {
                Ok(misplaced) => {
                    let (place, message) = misplaced.into_parts();
                    (place, None, message)
                }
                Err(other) => {
                    search.note(None, &format!("{other:#}"));
                    return Err(search.end(false));
                }
            },
        };
        let found = place.find(document.get_ref());
        if !search.is_consequence(&place, document.get_ref()) {
            search.note(written.or_else(|| found.as_ref().map(|found| found.span.clone())), &message);
        }
        let Some(found) = found else { return Err(search.end(false)) };
        search.damaged.extend(found.around);
        found.place.remove_from(document.get_mut());
    }
    Err(search.end(false))
}

enum Wrong {
    Form(toml::de::Error),
    Meaning(anyhow::Error),
}

fn read(document: toml::Spanned<DeTable<'_>>) -> Result<Config, Wrong> {
    let raw = RawConfig::deserialize(Deserializer::from(document)).map_err(Wrong::Form)?;
    validate::config(raw).map_err(Wrong::Meaning)
}

struct Search<'t> {
    text: &'t str,
    found: Vec<Mistake>,
    /// Where the sections begin out of which something was taken.
    damaged: BTreeSet<usize>,
}

impl Search<'_> {
    fn note(&mut self, span: Option<Range<usize>>, message: &str) {
        let at = span.as_ref().map(|span| span.start);
        let shown = place::shown(self.text, span, message);
        if self.found.iter().all(|mistake| mistake.shown != shown) {
            self.found.push(Mistake { at, shown });
        }
    }

    /// Whether something is wrong with a section as a whole only because a part was taken out of it: a source without its
    /// mistyped path has none.
    fn is_consequence(&self, place: &Place, document: &DeTable<'_>) -> bool {
        place.find(document).is_some_and(|found| self.damaged.contains(&found.value_at))
    }

    fn end(mut self, are_all: bool) -> Mistakes {
        self.found.sort_by_key(|mistake| mistake.at);
        Mistakes { found: self.found, are_all }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The beginnings of the mistakes' texts.
    fn check(text: &str, expected: &[&str]) {
        let mistakes = config(text).map(|_| ()).unwrap_err();
        let found: Vec<&str> = mistakes.each().collect();
        assert_eq!(found.len(), expected.len(), "{text}\n{found:#?}");
        for (found, expected) in found.iter().zip(expected) {
            assert!(found.starts_with(expected), "{found} does not begin with {expected}");
        }
    }

    #[test]
    fn every_mistake_is_found_in_the_order_of_the_file() {
        check(
            "[agent]\nlgo = 'info'\nlog = 'shield=nonsense'\n[xdp]\nmode = 'maybe'\nmax_networks = 0\n\
             [ban]\nmax_share = 20\nterms = ['10m', 'soon', 'later']\n[detect]\nmax_cleints = 3\n[bann]\nx = 1\n",
            &[
                "line 2, column 1: unknown key `lgo`",
                "line 3, column 7: [agent] log",
                "line 5, column 8: [xdp] mode",
                "line 6, column 16: [xdp] max_networks",
                "line 8, column 13: [ban] max_share",
                "line 9, column 17: ",
                "line 9, column 25: ",
                "line 11, column 15: [detect] has no key `max_cleints`",
                "line 12, column 2: unknown key `bann`",
            ],
        );
    }

    #[test]
    fn what_follows_from_a_mistake_is_none_of_its_own() {
        check(
            "[[source]]\npath = 5\n[[source]]\npath = '/a'\nformat = 'x'\n",
            &["line 2, column 8: invalid type", "line 5, column 10: [[source]] format"],
        );
        check(
            "[[source]]\npath = '/a'\n[[source]]\npath = '/a'\n[[source]]\npath = '/a'\n",
            &["line 4, column 8: two [[source]]", "line 6, column 8: two [[source]]"],
        );
        check(
            "[allow]\ncdn_ranges_file = '/nowhere'\n[ban]\nmax_share = 20\n",
            &["line 2, column 19: could not read [allow] cdn_ranges_file", "line 4, column 13: "],
        );
        check("[[source]]\n[[source]]\n", &["line 1, column 1: ", "line 2, column 1: "]);
        check("[slack]\nurl_file = 3\nurl_env = 4\n", &["line 2, column 12: ", "line 3, column 11: "]);
        check(
            "[slack]\nurl_file = 'a'\nurl_env = 'B'\n[page]\nlisten = 'x'\n",
            &["line 1, column 2: [slack] has several URLs", "line 5, column 10: "],
        );
    }

    #[test]
    fn broken_toml_is_shown_by_itself() {
        check("a = \nb = \n[bann]\n", &["line 1, column 5: ", "line 2, column 5: "]);
    }

    #[test]
    fn a_text_of_mistakes_alone_ends() {
        let text: String = (0..200).map(|n| format!("k{n} = 1\n")).collect();
        let mistakes = config(&text).map(|_| ()).unwrap_err();
        assert_eq!(mistakes.each().count(), MOST);
        assert!(mistakes.to_string().starts_with("50 mistakes or more:\nline 1, column 1: "), "{mistakes}");
    }
}
