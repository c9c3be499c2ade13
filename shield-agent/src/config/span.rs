//! Durations in the configuration: a text of [`crate::duration`]'s grammar, a number of seconds, or `permanent`.

use std::str::FromStr;

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

#[derive(Deserialize)]
#[serde(untagged)]
enum Written {
    Number(u64),
    Text(String),
}

impl Written {
    fn parse<T: FromStr>(self) -> Result<T, T::Err> {
        match self {
            Written::Number(number) => number.to_string().parse(),
            Written::Text(text) => text.parse(),
        }
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Span, D::Error> {
        Written::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A ban's term as written: a span, or `permanent`.
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
        Written::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
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
