//! Durations as people write them, in the configuration and on the command line: `90s`, `10m`, `2h`, `1d 12h`, `PT2H`.
//!
//! The grammar is jiff's for spans of weeks, days, hours, minutes and seconds. A unit is required: a bare `5` on the
//! command line would be read as minutes by one person and as seconds by the next. The configuration takes a TOML
//! integer as seconds (`config/span.rs`).

use std::fmt;

use jiff::{SignedDuration, Span, SpanRelativeTo};

/// A hundred years of 365.25 days. Whatever is longer is a typing error, and would overflow milliseconds somewhere.
pub(crate) const LONGEST_SECS: u64 = 3_155_760_000;

/// A text that is not a duration of whole seconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct InvalidDuration {
    written: String,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Not of the grammar, or of months and years, whose length depends on the calendar.
    Unreadable,
    /// Negative, or with a fraction of a second.
    NotWholeSeconds,
    TooLong,
}

impl fmt::Display for InvalidDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let written = &self.written;
        match self.kind {
            Kind::Unreadable => write!(
                f,
                "{written:?} is not a span of time: write numbers with w, d, h, m or s, such as 90s, 10m, 2h, 30d or \
                 \"1d 12h\""
            ),
            Kind::NotWholeSeconds => {
                write!(f, "{written:?} is not a whole number of seconds, zero or more: write for example 90s")
            }
            Kind::TooLong => write!(f, "{written:?} is longer than 100 years"),
        }
    }
}

impl std::error::Error for InvalidDuration {}

/// Parses a duration into seconds. A day has 24 hours.
///
/// # Errors
/// When the text is not of the grammar, negative, not a whole number of seconds, or longer than [`LONGEST_SECS`].
pub(crate) fn seconds(text: &str) -> Result<u64, InvalidDuration> {
    let error = |kind| InvalidDuration { written: text.to_owned(), kind };
    let parsed: SignedDuration = text
        .trim()
        .parse::<Span>()
        .and_then(|span| span.to_duration(SpanRelativeTo::days_are_24_hours()))
        .map_err(|_| error(Kind::Unreadable))?;
    let secs = u64::try_from(parsed.as_secs()).map_err(|_| error(Kind::NotWholeSeconds))?;
    match parsed.subsec_nanos() {
        0 => within_bounds(secs).ok_or_else(|| error(Kind::TooLong)),
        _ => Err(error(Kind::NotWholeSeconds)),
    }
}

/// `secs`, unless it is longer than any duration may be.
pub(crate) fn within_bounds(secs: u64) -> Option<u64> {
    (secs <= LONGEST_SECS).then_some(secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_write() {
        let check = |text: &str, expected: Result<u64, &str>| {
            let found = seconds(text).map_err(|error| error.to_string());
            match (&found, expected) {
                (Ok(secs), Ok(expected)) => assert_eq!(*secs, expected, "{text:?}"),
                (Err(message), Err(part)) => assert!(message.contains(part), "{text:?}: {message}"),
                _ => panic!("{text:?}: {found:?}"),
            }
        };
        check("90s", Ok(90));
        check(" 10m ", Ok(600));
        check("10min", Ok(600));
        check("2 h", Ok(7_200));
        check("1.5h", Ok(5_400));
        check("30d", Ok(2_592_000));
        check("1w", Ok(604_800));
        check("2 weeks", Ok(1_209_600));
        check("1d 12h", Ok(129_600));
        check("1d12h", Ok(129_600));
        check("PT2H", Ok(7_200));
        check("0s", Ok(0));
        check("36525d", Ok(LONGEST_SECS));
        check("36526d", Err("longer than 100 years"));
        check("-5s", Err("zero or more"));
        check("1500ms", Err("not a whole number of seconds"));
        check("", Err("not a span of time"));
        check("90", Err("not a span of time"));
        check("1 month", Err("not a span of time"));
        check("10 fortnights", Err("\"1d 12h\""));
        check("permanent", Err("not a span of time"));
    }
}
