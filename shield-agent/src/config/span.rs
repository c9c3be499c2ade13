//! Durations in the configuration: a text of [`crate::duration`]'s grammar, a number of seconds, or `permanent`.

use std::fmt;
use std::marker::PhantomData;
use std::str::FromStr;

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer};

use crate::duration::{self, InvalidDuration};
use shield_engine::backoff::Term;

/// A whole number of seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Span(pub u64);

impl FromStr for Span {
    type Err = InvalidDuration;

    fn from_str(text: &str) -> Result<Span, InvalidDuration> {
        let number = text.trim().parse().ok().and_then(duration::within_bounds);
        number.map_or_else(|| duration::seconds(text), Ok).map(Span)
    }
}

/// Reads a text or a number of seconds. An untagged enum would do the same, but its error for another kind of value names
/// the enum and not what is accepted.
struct TextOrSeconds<T>(PhantomData<T>);

impl<T: FromStr<Err = InvalidDuration>> Visitor<'_> for TextOrSeconds<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a span of time such as \"10m\" or \"1d 12h\", or a number of seconds")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(E::custom)
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<T, E> {
        number.to_string().parse().map_err(E::custom)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Span, D::Error> {
        deserializer.deserialize_any(TextOrSeconds(PhantomData))
    }
}

/// A ban's term: a duration, or `permanent`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TermSpan(pub Term);

impl FromStr for TermSpan {
    type Err = InvalidDuration;

    fn from_str(text: &str) -> Result<TermSpan, InvalidDuration> {
        match text.trim() {
            "permanent" | "forever" => Ok(TermSpan(Term::Permanent)),
            other => other.parse().map(|Span(secs)| TermSpan(Term::Secs(secs))),
        }
    }
}

impl<'de> Deserialize<'de> for TermSpan {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<TermSpan, D::Error> {
        deserializer.deserialize_any(TextOrSeconds(PhantomData))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans() {
        let check = |text: &str, expected: Option<u64>| {
            assert_eq!(text.parse::<Span>().ok().map(|s| s.0), expected, "{text:?}");
        };
        check("90", Some(90));
        check("90s", Some(90));
        check(" 10m ", Some(600));
        check("2 h", Some(7200));
        check("30d", Some(2_592_000));
        check("1w", Some(604_800));
        check("", None);
        check("-5s", None);
        check("1.5h", Some(5400));
        check("1d 12h", Some(129_600));
        check("10 fortnights", None);
        check("99999999999d", None);
        check("permanent", None);
    }

    #[test]
    fn terms() {
        assert_eq!("permanent".parse(), Ok(TermSpan(Term::Permanent)));
        assert_eq!("10m".parse(), Ok(TermSpan(Term::Secs(600))));
        assert!("soon".parse::<TermSpan>().is_err());
    }
}
