//! Times as access logs write them: ISO 8601 with an offset, nginx's `$time_local`, and Unix seconds or milliseconds.
//!
//! Nothing here reads a clock. A time without an offset is refused, because it would be right only by luck.

use super::fields::decimal;
use shield_engine::time::EventSecs;

/// Unix times at or above this are milliseconds (in seconds it would be the year 5138), a thousand times more are
/// microseconds, and a thousand times more nanoseconds.
const FIRST_MILLIS: u64 = 100_000_000_000;

const SECS_PER_DAY: i64 = 86_400;

/// The longest text that [`TimeCache`] keeps; every usual form is shorter.
const MAX_CACHED_BYTES: usize = 32;

/// Parses any of the known forms to whole seconds since the Unix epoch; fractions are truncated.
///
/// Returns `None` for any other text, and for a day that the calendar does not have.
pub(crate) fn parse(text: &[u8]) -> Option<EventSecs> {
    match text {
        // Apache's `%t`.
        [b'[', inner @ .., b']'] => parse_clf(inner),
        [_, _, _, _, b'-', ..] => parse_iso(text),
        [_, _, b'/', ..] => parse_clf(text),
        _ => parse_unix(text),
    }
}

/// Converts Unix seconds, milliseconds (13 digits, as `$msec` without its dot), microseconds or nanoseconds.
#[inline]
pub(crate) fn from_unix(value: u64) -> Option<EventSecs> {
    let mut secs = value;
    while secs >= FIRST_MILLIS {
        secs /= 1000;
    }
    EventSecs::try_from(secs).ok()
}

/// Keeps the last text parsed, because a busy access log repeats the same second many times.
#[derive(Debug, Clone, Default)]
pub(crate) struct TimeCache {
    text: [u8; MAX_CACHED_BYTES],
    /// Ones for the first `len` bytes of `text`.
    mask: [u128; 2],
    len: usize,
    secs: EventSecs,
}

impl TimeCache {
    /// Gives the same result as [`parse`].
    pub(crate) fn parse(&mut self, text: &[u8]) -> Option<EventSecs> {
        if self.len != 0 && self.text.get(..self.len) == Some(text) {
            return Some(self.secs);
        }
        let secs = parse(text)?;
        if let Some(room) = self.text.get_mut(..text.len()) {
            room.copy_from_slice(text);
            self.len = text.len();
            self.mask = mask_of(self.len);
            self.secs = secs;
        }
        Some(secs)
    }

    /// Returns the seconds and the length of the cached text if `bytes` start with it. `None` also when they are fewer than
    /// [`MAX_CACHED_BYTES`].
    #[inline]
    pub(crate) fn match_start(&self, bytes: &[u8]) -> Option<(EventSecs, usize)> {
        let bytes = bytes.first_chunk::<MAX_CACHED_BYTES>()?;
        // Two words instead of a loop; the mask excludes the bytes behind the text.
        let (words, ours) = (halves(bytes), halves(&self.text));
        let differ = ((words[0] ^ ours[0]) & self.mask[0]) | ((words[1] ^ ours[1]) & self.mask[1]);
        (self.len != 0 && differ == 0).then_some((self.secs, self.len))
    }
}

fn halves(bytes: &[u8; MAX_CACHED_BYTES]) -> [u128; 2] {
    let half = |at: usize| bytes[at..].first_chunk::<16>().map_or(0, |half| u128::from_le_bytes(*half));
    [half(0), half(16)]
}

/// Returns ones in the first `len` bytes.
fn mask_of(len: usize) -> [u128; 2] {
    let mut mask = [0; MAX_CACHED_BYTES];
    mask[..len].fill(0xff);
    halves(&mask)
}

/// Parses `2026-11-24T14:35:01.123+01:00`, with `T` or a blank, any number of decimals, and `Z`, `+01:00`, `+0100` or `+01`,
/// which a blank may precede.
fn parse_iso(text: &[u8]) -> Option<EventSecs> {
    let (date_time, rest) = text.split_at_checked(19)?;
    let [y0, y1, y2, y3, b'-', o0, o1, b'-', d0, d1, b'T' | b't' | b' ', clock @ ..] = date_time else {
        return None;
    };
    let year = digits(&[*y0, *y1, *y2, *y3])?;
    let days = days_from_civil(year, digits(&[*o0, *o1])?, digits(&[*d0, *d1])?)?;
    let offset = skip_fraction(rest);
    let offset = parse_offset(offset.strip_prefix(b" ").unwrap_or(offset))?;
    Some(days * SECS_PER_DAY + parse_clock(clock)? - offset)
}

/// Parses `24/Nov/2026:14:35:01 +0100`.
fn parse_clf(text: &[u8]) -> Option<EventSecs> {
    let (date_time, rest) = text.split_at_checked(20)?;
    let [d0, d1, b'/', month @ .., b'/', y0, y1, y2, y3, b':', _, _, _, _, _, _, _, _] = date_time else {
        return None;
    };
    let year = digits(&[*y0, *y1, *y2, *y3])?;
    let days = days_from_civil(year, month_number(month)?, digits(&[*d0, *d1])?)?;
    let offset = parse_offset(skip_fraction(rest).strip_prefix(b" ")?)?;
    Some(days * SECS_PER_DAY + parse_clock(date_time.get(12..)?)? - offset)
}

fn parse_unix(text: &[u8]) -> Option<EventSecs> {
    let end = text.iter().position(|byte| matches!(byte, b'.' | b',')).unwrap_or(text.len());
    let (whole, fraction) = text.split_at(end);
    let is_fraction = fraction.get(1..).unwrap_or_default().iter().all(u8::is_ascii_digit);
    from_unix(decimal(whole).filter(|_| is_fraction)?)
}

/// Parses `14:35:01`; a leap second counts as the first of the next minute.
fn parse_clock(text: &[u8]) -> Option<i64> {
    let [h0, h1, b':', m0, m1, b':', s0, s1] = text else { return None };
    let (hour, minute, second) = (digits(&[*h0, *h1])?, digits(&[*m0, *m1])?, digits(&[*s0, *s1])?);
    (hour < 24 && minute < 60 && second <= 60).then_some(hour * 3600 + minute * 60 + second)
}

fn skip_fraction(rest: &[u8]) -> &[u8] {
    match rest {
        [b'.' | b',', decimals @ ..] => {
            let end = decimals.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(decimals.len());
            decimals.get(end..).unwrap_or_default()
        }
        _ => rest,
    }
}

/// Parses an offset to seconds east of Greenwich.
fn parse_offset(text: &[u8]) -> Option<i64> {
    let (sign, hours, minutes) = match text {
        [b'Z' | b'z'] => return Some(0),
        [sign, h0, h1, b':', m0, m1] | [sign, h0, h1, m0, m1] => {
            (sign, digits(&[*h0, *h1])?, digits(&[*m0, *m1])?)
        }
        [sign, h0, h1] => (sign, digits(&[*h0, *h1])?, 0),
        _ => return None,
    };
    let secs = (hours < 24 && minutes < 60).then_some(hours * 3600 + minutes * 60)?;
    match sign {
        b'+' => Some(secs),
        b'-' => Some(-secs),
        _ => None,
    }
}

/// Returns the days since 1970-01-01 in the proleptic Gregorian calendar (Howard Hinnant, "chrono-compatible low-level date
/// algorithms", `days_from_civil`).
fn days_from_civil(year: i64, month: i64, day: i64) -> Option<i64> {
    if !(1..=12).contains(&month) || !(1..=days_in_month(year, month)).contains(&day) {
        return None;
    }
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let month_from_march = (month + 9) % 12;
    let day_of_year = (153 * month_from_march + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    Some(era * 146_097 + day_of_era - 719_468)
}

fn days_in_month(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

fn month_number(name: &[u8]) -> Option<i64> {
    const NAMES: &[u8; 36] = b"JanFebMarAprMayJunJulAugSepOctNovDec";
    let at = NAMES.chunks_exact(3).position(|month| month == name)?;
    Some(at as i64 + 1)
}

fn digits(text: &[u8]) -> Option<i64> {
    text.iter()
        .try_fold(0_i64, |value, byte| byte.is_ascii_digit().then(|| value * 10 + i64::from(byte - b'0')))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_form_is_read() {
        let check =
            |text: &str, expected: Option<i64>| assert_eq!(parse(text.as_bytes()), expected, "{text}");
        check("1970-01-01T00:00:00Z", Some(0));
        check("2026-11-24T14:35:01+00:00", Some(1_795_530_901));
        check("2026-11-24T14:35:01.999+00:00", Some(1_795_530_901));
        check("2026-11-24 15:35:01+0100", Some(1_795_530_901));
        check("2026-11-24T09:05:01-05:30", Some(1_795_530_901));
        check("2026-11-24T16:35:01+02", Some(1_795_530_901));
        check("24/Nov/2026:15:35:01 +0100", Some(1_795_530_901));
        check("1795530901", Some(1_795_530_901));
        check("1795530901.123", Some(1_795_530_901));
        check("1795530901123", Some(1_795_530_901));
        check("1795530901123456", Some(1_795_530_901));
        check("1795530901123456789", Some(1_795_530_901));
        check("1795530901,123", Some(1_795_530_901));
        check("2026-11-24T14:35:01,999Z", Some(1_795_530_901));
        check("2026-11-24 14:35:01.5 +0000", Some(1_795_530_901));
        check("[24/Nov/2026:15:35:01 +0100]", Some(1_795_530_901));
        check("24/Nov/2026:15:35:01.123 +0100", Some(1_795_530_901));
        check("31/Dec/2016:23:59:60 +0000", Some(1_483_228_800));
        check("2024-02-29T00:00:00Z", Some(1_709_164_800));
        check("2016-12-31T23:59:60Z", Some(1_483_228_800));
    }

    #[test]
    fn other_texts_are_refused() {
        let check = |text: &str| assert_eq!(parse(text.as_bytes()), None, "{text}");
        check("");
        check("-");
        check("2026-11-24T14:35:01");
        check("2026-02-29T00:00:00Z");
        check("2026-13-01T00:00:00Z");
        check("2026-11-24T24:00:00Z");
        check("2026-11-24T14:35:01+24:00");
        check("2026-11-24T14:35:01 01:00");
        check("24/Foo/2026:15:35:01 +0100");
        check("24/Nov/2026:15:35:01");
        check("99999999999999999999");
        check("18446744073709551616");
        check("2026-11-24T14:35:01  +0000");
        check("[24/Nov/2026:15:35:01 +0100");
        check("17955309O1");
        check("1795530901.12x");
    }

    #[test]
    fn the_cache_matches_only_its_own_text() {
        let mut cache = TimeCache::default();
        assert_eq!(cache.match_start(b""), None);
        assert_eq!(cache.parse(b"1970-01-01T00:00:07Z"), Some(7));
        assert_eq!(cache.parse(b"1970-01-01T00:00:08Z"), Some(8));
        assert_eq!(cache.match_start(b"1970-01-01T00:00:08Z\",\"method\":\"GET\""), Some((8, 20)));
        assert_eq!(cache.match_start(b"1970-01-01T00:00:07Z\",\"method\":\"GET\""), None);
        assert_eq!(cache.match_start(b"1970-01-01T00:00:08Z\",\"method\""), None, "fewer than 32 bytes");
        assert_eq!(cache.parse(b"nonsense"), None);
    }

    proptest! {
        #[test]
        fn agrees_with_the_calendar(secs in -62_000_000_000_i64..250_000_000_000, offset_min in -720_i32..720) {
            let zone = jiff::tz::Offset::from_seconds(offset_min * 60).unwrap().to_time_zone();
            let time = jiff::Timestamp::from_second(secs).unwrap().to_zoned_datetime(zone);
            let iso = time.strftime("%Y-%m-%dT%H:%M:%S%:z").to_string();
            let clf = time.strftime("%d/%b/%Y:%H:%M:%S %z").to_string();
            prop_assert_eq!(parse(iso.as_bytes()), Some(secs));
            prop_assert_eq!(parse(clf.as_bytes()), Some(secs));
        }

        #[test]
        fn never_panics(text in proptest::collection::vec(any::<u8>(), 0..40)) {
            let _ = parse(&text);
        }
    }
}
