//! Numbers with their units: counts, rates, sizes, durations, moments.

use std::sync::atomic::{AtomicBool, Ordering};

use shield_engine::action::BanRecord;
use shield_engine::time::{Ends, duration_words};

/// A duration in at most two units, largest first: `45 s`, `10 min`, `2 h 5 min`, `3 d`. The rest is cut, not rounded.
///
/// The engine's own messages have it too.
pub(crate) fn duration(secs: u64) -> String {
    duration_words(secs)
}

/// A wall-clock time in milliseconds since the Unix epoch as `2026-05-11T22:07:33Z`.
pub(crate) fn utc(wall_ms: i64) -> String {
    jiff::Timestamp::from_millisecond(wall_ms)
        .map(|time| time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
        // Only a damaged record holds a time outside of jiff's years; the number is worth more than an error.
        .unwrap_or_else(|_| format!("{wall_ms} ms"))
}

/// A ban's term as it was decided: `for 10 min`, `permanently`.
pub(crate) fn term(ban: &BanRecord) -> String {
    match ban.ban.ends {
        Ends::Never => "permanently".to_owned(),
        Ends::At { wall_ms, .. } => {
            // Rounded: the end and the beginning are taken from two clocks and can differ by a millisecond.
            let ms = wall_ms.saturating_sub(ban.ban.since_ms).max(0).unsigned_abs();
            format!("for {}", duration(ms.saturating_add(500) / 1000))
        }
    }
}

/// A ban's end: `until 2026-05-11T22:07:33Z`, `permanently`.
pub(crate) fn until(ends: Ends) -> String {
    match ends {
        Ends::Never => "permanently".to_owned(),
        Ends::At { wall_ms, .. } => format!("until {}", utc(wall_ms)),
    }
}

/// Whether counts are written without commas from now on.
static PLAIN: AtomicBool = AtomicBool::new(false);

/// Has counts written as programs read them, without commas: for commands whose output goes into a pipe or a file.
pub(crate) fn write_plain_counts() {
    PLAIN.store(true, Ordering::Relaxed);
}

/// Has what is written here its commas all the same: a page that a person reads, though the command's own output is in a pipe.
pub(crate) fn with_commas<T>(write: impl FnOnce() -> T) -> T {
    let is_plain = PLAIN.swap(false, Ordering::Relaxed);
    let written = write();
    PLAIN.store(is_plain, Ordering::Relaxed);
    written
}

/// A count with a comma every three digits: `1,234,567`; see [`write_plain_counts`].
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    if PLAIN.load(Ordering::Relaxed) {
        return digits;
    }
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A count with its noun, which takes a plain `s`: `1 entry` is not for this one (see [`plural`]), `2 bans` is.
pub(crate) fn counted(number: u64, noun: &str) -> String {
    plural(number, noun, &format!("{noun}s"))
}

/// A count with the noun for one or the noun for many: `1 entry`, `2 entries`.
pub(crate) fn plural(number: u64, one: &str, many: &str) -> String {
    format!("{} {}", count(number), if number == 1 { one } else { many })
}

/// Requests per second: `3.72 req/s`.
pub(crate) fn per_sec(rate: f64) -> String {
    format!("{rate:.2} req/s")
}

/// A share of 100: `2.5 %`.
pub(crate) fn percent(part: u64, whole: u64) -> String {
    let share = if whole == 0 { 0.0 } else { 100.0 * part as f64 / whole as f64 };
    format!("{share:.1} %")
}

/// Bytes in binary units: `1023 B`, `1.5 MiB`.
pub(crate) fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

/// A distance from the mean: `36.2 standard deviations above`.
pub(super) fn deviations(value: f64) -> String {
    let side = if value < 0.0 { "below" } else { "above" };
    format!("{} standard deviations {side}", number(value.abs()))
}

/// A measured value: whole numbers as they are, others with three significant figures at most, because thresholds
/// have no more.
pub(super) fn number(value: f64) -> String {
    match value.abs() {
        _ if value.fract() == 0.0 => format!("{value:.0}"),
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}").trim_end_matches('0').trim_end_matches('.').to_owned(),
    }
}

/// Text with control and direction-changing characters escaped, so that no terminal obeys what a client sent.
pub(crate) fn printable(text: &str) -> String {
    let is_safe = |c: char| !c.is_control() && !is_bidi_control(c);
    if text.chars().all(is_safe) {
        return text.to_owned();
    }
    text.chars().map(|c| if is_safe(c) { c.to_string() } else { c.escape_unicode().to_string() }).collect()
}

fn is_bidi_control(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(input: impl Into<String>, expected: &str) {
        assert_eq!(input.into(), expected);
    }

    #[test]
    fn durations_have_two_units_at_most() {
        check(duration(0), "0 s");
        check(duration(59), "59 s");
        check(duration(600), "10 min");
        check(duration(7_500), "2 h 5 min");
        check(duration(7_201), "2 h");
        check(duration(259_200), "3 d");
        check(duration(100_000), "1 d 3 h");
    }

    #[test]
    fn counts_are_grouped_and_agree_with_their_nouns() {
        check(count(0), "0");
        check(count(999), "999");
        check(count(1_000), "1,000");
        check(count(1_234_567), "1,234,567");
        check(counted(0, "ban"), "0 bans");
        check(counted(1, "ban"), "1 ban");
        check(counted(1_000, "ban"), "1,000 bans");
        check(plural(1, "entry", "entries"), "1 entry");
        check(plural(2, "entry", "entries"), "2 entries");
    }

    #[test]
    fn measured_values_have_their_units() {
        check(per_sec(3.716), "3.72 req/s");
        check(percent(25, 1_000), "2.5 %");
        check(percent(0, 0), "0.0 %");
        check(bytes(1_023), "1023 B");
        check(bytes(1_536), "1.5 KiB");
        check(bytes(u64::MAX), "16384.0 PiB");
        check(deviations(36.15), "36.1 standard deviations above");
        check(deviations(-1.5), "1.5 standard deviations below");
        check(number(12.5), "12.5");
        check(number(150.4), "150");
        check(number(0.5), "0.5");
        check(number(5.998), "6");
    }

    #[test]
    fn moments_are_in_utc() {
        check(utc(1_778_537_253_000), "2026-05-11T22:07:33Z");
        check(utc(i64::MAX), "9223372036854775807 ms");
        check(until(Ends::At { boot_ms: 0, wall_ms: 1_778_537_253_000 }), "until 2026-05-11T22:07:33Z");
        check(until(Ends::Never), "permanently");
    }

    #[test]
    fn nothing_printable_steers_a_terminal() {
        check(printable("/caf\u{e9}"), "/caf\u{e9}");
        check(printable("\u{1b}[2J\u{202e}x"), "\\u{1b}[2J\\u{202e}x");
    }
}
