//! Values on command lines: terms, durations, moments; and the error for contradictory arguments.

use std::fmt;

use jiff::Timestamp;

use crate::api::types::{MAX_TERM_SECS, Term};
use crate::duration;
use shield_engine::verdict::Rule;
use shield_engine::{MAX_ALLOW_SECS, MAX_PAUSE_SECS};

/// Arguments that contradict each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UsageError(pub String);

impl fmt::Display for UsageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for UsageError {}

/// Parses a ban's term: `90s`, `10m`, `2h`, `1d 12h`, `2 weeks`, `permanent`, or `next` (the backoff ladder's step).
pub(crate) fn term(text: &str) -> Result<Term, String> {
    match text.trim() {
        "permanent" | "forever" => return Ok(Term::Permanent),
        "next" => return Ok(Term::Next),
        _ => {}
    }
    match seconds(text)? {
        secs @ 1..=MAX_TERM_SECS => Ok(Term::Secs(secs)),
        _ => Err("a term is at least 1 s and at most 100 years; use `permanent` for no end".to_owned()),
    }
}

/// Parses the length of a pause.
pub(crate) fn pause(text: &str) -> Result<u64, String> {
    match seconds(text)? {
        secs @ 1..=MAX_PAUSE_SECS => Ok(secs),
        _ => Err("a pause is at least 1 s and at most 7 d; to ban nobody for longer, set dry_run = true"
            .to_owned()),
    }
}

/// Parses for how long a network is allowed.
pub(crate) fn allowance(text: &str) -> Result<u64, String> {
    match seconds(text)? {
        secs @ 1..=MAX_ALLOW_SECS => Ok(secs),
        _ => {
            Err("a network is allowed for at least 1 s and at most 366 d; without --for it has no end"
                .to_owned())
        }
    }
}

/// Parses a rule's name.
pub(crate) fn rule(text: &str) -> Result<Rule, String> {
    Rule::ALL.into_iter().find(|rule| rule.name() == text.trim()).ok_or_else(|| {
        let names: Vec<&str> = Rule::ALL.iter().map(|rule| rule.name()).collect();
        format!("{text:?} is not a rule: use one of {}", names.join(", "))
    })
}

/// Parses a duration into seconds.
pub(crate) fn seconds(text: &str) -> Result<u64, String> {
    duration::seconds(text).map_err(|error| error.to_string())
}

/// Parses a moment into milliseconds since the Unix epoch: RFC 3339 with an offset, or a local date and time.
pub(crate) fn moment(text: &str) -> Result<i64, String> {
    let text = text.trim();
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(time.as_millisecond());
    }
    let zone = jiff::tz::TimeZone::system();
    let local = text.parse::<jiff::civil::DateTime>().and_then(|time| zone.to_timestamp(time));
    local.map(Timestamp::as_millisecond).map_err(|_| {
        format!(
            "{text:?} is not a time such as 2026-05-11T22:07:33Z or, in this host's time zone, `2026-05-11 22:07`"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terms() {
        let check = |text: &str, expected: Result<Term, ()>| {
            assert_eq!(term(text).map_err(|_| ()), expected, "{text}");
        };
        check("90s", Ok(Term::Secs(90)));
        check("10m", Ok(Term::Secs(600)));
        check("10min", Ok(Term::Secs(600)));
        check(" 2h ", Ok(Term::Secs(7_200)));
        check("1d 12h", Ok(Term::Secs(129_600)));
        check("2 weeks", Ok(Term::Secs(1_209_600)));
        check("PT2H", Ok(Term::Secs(7_200)));
        check("permanent", Ok(Term::Permanent));
        check("next", Ok(Term::Next));
        for wrong in ["", "0s", "-5m", "5", "tomorrow", "1 month", "9999 weeks 9999 weeks", "6000 weeks"] {
            check(wrong, Err(()));
        }
    }

    #[test]
    fn rules() {
        assert_eq!(rule("probing"), Ok(Rule::Probing));
        let error = rule("proing").unwrap_err();
        assert!(
            error.starts_with("\"proing\" is not a rule: use one of z_score, ")
                && error.ends_with(", crowdsec"),
            "{error}"
        );
    }

    #[test]
    fn moments() {
        assert_eq!(moment("2026-05-11T22:07:33Z"), Ok(1_778_537_253_000));
        assert_eq!(moment("2026-05-12T00:07:33+02:00"), Ok(1_778_537_253_000));
        assert!(moment("yesterday").is_err());
    }
}
