//! Spans of time as people write them: `10s`, `30m`, `2h`, `7d`, `permanent`, or a number of seconds.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer};

use shield_engine::backoff::Term;

/// A hundred years: what is longer is a slip of the finger, and would overflow milliseconds somewhere.
const LONGEST_SECS: u64 = 100 * 366 * 86_400;

/// A whole number of seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Span(pub u64);

/// Why a text is not a span of time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NotASpan(String);

impl fmt::Display for NotASpan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?} is not a span of time: write a number with s, m, h or d, such as 90s, 10m, 2h, 30d",
            self.0
        )
    }
}

impl std::error::Error for NotASpan {}

impl FromStr for Span {
    type Err = NotASpan;

    fn from_str(written: &str) -> Result<Span, NotASpan> {
        let bad = || NotASpan(written.to_owned());
        let text = written.trim();
        let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic()).trim_end();
        let unit = match text[digits.len()..].trim() {
            "" | "s" | "sec" | "secs" => 1,
            "m" | "min" | "mins" => 60,
            "h" | "hour" | "hours" => 3600,
            "d" | "day" | "days" => 86_400,
            "w" | "week" | "weeks" => 604_800,
            _ => return Err(bad()),
        };
        let number: u64 = digits.parse().map_err(|_| bad())?;
        number.checked_mul(unit).filter(|secs| *secs <= LONGEST_SECS).map(Span).ok_or_else(bad)
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
    type Err = NotASpan;

    fn from_str(text: &str) -> Result<TermSpan, NotASpan> {
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
        check("1.5h", None);
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
