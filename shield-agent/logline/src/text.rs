//! Tolerant unescaping of logged text: JSON's escapes, and the `\xHH` of nginx and Apache.

use std::borrow::Cow;

use memchr::memchr;

/// Replaces every valid escape; a backslash that starts none stays as it is.
pub(crate) fn unescape(text: &[u8]) -> Cow<'_, [u8]> {
    let Some(first) = memchr(b'\\', text) else { return Cow::Borrowed(text) };
    let (head, mut rest) = text.split_at(first);
    let mut plain = head.to_vec();
    while let Some((byte, after)) = rest.split_first() {
        rest = match (*byte, escape(after)) {
            (b'\\', Some((escaped, len))) => {
                escaped.push_to(&mut plain);
                after.get(len..).unwrap_or_default()
            }
            _ => {
                plain.push(*byte);
                after
            }
        };
    }
    Cow::Owned(plain)
}

/// Unescapes a text up to the quote that ends it; returns what follows the quote. `None` when none does, and what was appended is
/// then of no use.
///
/// Eight bytes at a time: in a line inside another one every few bytes are an escaped quote.
pub(crate) fn unescape_until_quote<'a>(text: &'a [u8], plain: &mut Vec<u8>) -> Option<&'a [u8]> {
    let start = plain.len();
    // Nothing is longer unescaped than escaped; a word may be written past the end.
    plain.resize(start + text.len() + 8, 0);
    let room = plain.get_mut(start..)?;
    let (mut at, mut len) = (0, 0);
    loop {
        let rest = text.get(at..)?;
        let clean = match rest.first_chunk::<8>() {
            Some(word) => {
                room.get_mut(len..len + 8)?.copy_from_slice(word);
                clean_bytes(u64::from_le_bytes(*word))
            }
            None => {
                let clean = rest.iter().position(|byte| matches!(byte, b'"' | b'\\'))?;
                room.get_mut(len..len + clean)?.copy_from_slice(rest.get(..clean)?);
                clean
            }
        };
        at += clean;
        len += clean;
        match text.get(at..)? {
            [b'"', after @ ..] => {
                plain.truncate(start + len);
                return Some(after);
            }
            [b'\\', same @ (b'"' | b'\\' | b'/'), ..] => {
                *room.get_mut(len)? = *same;
                at += 2;
                len += 1;
            }
            [b'\\', after @ ..] => {
                let (escaped, escape_len) = escape(after).unwrap_or((Escaped::Byte(b'\\'), 0));
                at += 1 + escape_len;
                len += escaped.write_to(room.get_mut(len..)?)?;
            }
            _ => {}
        }
    }
}

/// Returns the number of bytes before the first quote or backslash of a word, 8 when it has none.
#[inline]
fn clean_bytes(word: u64) -> usize {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGHS: u64 = 0x8080_8080_8080_8080;
    // Mycroft's `haszero`, exact up to the lowest byte that it finds.
    let zeros = |word: u64| word.wrapping_sub(ONES) & !word & HIGHS;
    let special = zeros(word ^ (ONES * u64::from(b'"'))) | zeros(word ^ (ONES * u64::from(b'\\')));
    special.trailing_zeros() as usize / 8
}

/// Returns the first `"` at or after `from` that no backslash escapes.
#[inline]
pub(crate) fn closing_quote(text: &[u8], from: usize) -> Option<usize> {
    let mut at = from;
    loop {
        let found = match near(text, at, |word| marks(word, b'"') | marks(word, b'\\')) {
            Ok(found) => found,
            Err(at) => at + memchr::memchr2(b'"', b'\\', text.get(at..)?)?,
        };
        if text.get(found) == Some(&b'"') {
            return Some(found);
        }
        at = found + 2;
    }
}

/// Returns the first `byte` at or after `from`. Nearly all fields of a line are short, and for those a call costs more than
/// looking at a few words.
#[inline]
pub(crate) fn find(text: &[u8], from: usize, byte: u8) -> Option<usize> {
    match near(text, from, |word| marks(word, byte)) {
        Ok(found) => Some(found),
        Err(at) => Some(at + memchr(byte, text.get(at..)?)?),
    }
}

/// Returns the first `byte` at or after `from`; `None` when a backslash comes before it.
#[inline]
pub(crate) fn plain_find(text: &[u8], from: usize, byte: u8) -> Option<usize> {
    let found = match near(text, from, |word| marks(word, byte) | marks(word, b'\\')) {
        Ok(found) => found,
        Err(at) => at + memchr::memchr2(byte, b'\\', text.get(at..)?)?,
    };
    (text.get(found) == Some(&byte)).then_some(found)
}

/// Looks at a few words; returns the place of the first byte that is marked in them, or where to look on.
#[inline]
fn near(text: &[u8], from: usize, marked: impl Fn(u64) -> u64) -> Result<usize, usize> {
    const WORDS: usize = 4;
    let mut at = from;
    for _ in 0..WORDS {
        let Some(chunk) = text.get(at..).and_then(|rest| rest.first_chunk::<8>()) else { break };
        let found = marked(u64::from_le_bytes(*chunk));
        if found != 0 {
            return Ok(at + found.trailing_zeros() as usize / 8);
        }
        at += 8;
    }
    Err(at)
}

/// Sets the high bit of each byte that equals `byte`; exact up to the lowest one (Mycroft's `haszero`).
#[inline]
fn marks(word: u64, byte: u8) -> u64 {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGHS: u64 = 0x8080_8080_8080_8080;
    let differ = word ^ (ONES * u64::from(byte));
    differ.wrapping_sub(ONES) & !differ & HIGHS
}

enum Escaped {
    Byte(u8),
    Char(char),
}

impl Escaped {
    /// Writes it to the start of `room`; returns its length.
    fn write_to(&self, room: &mut [u8]) -> Option<usize> {
        match self {
            Escaped::Byte(byte) => *room.first_mut()? = *byte,
            Escaped::Char(char) => return Some(char.encode_utf8(room.get_mut(..char.len_utf8())?).len()),
        }
        Some(1)
    }

    fn push_to(&self, plain: &mut Vec<u8>) {
        match self {
            Escaped::Byte(byte) => plain.push(*byte),
            Escaped::Char(char) => plain.extend_from_slice(char.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
}

/// Reads the escape after a backslash; returns it with its length, the backslash not counted.
fn escape(after: &[u8]) -> Option<(Escaped, usize)> {
    let byte = |byte| Some((Escaped::Byte(byte), 1));
    match after {
        [b'x', high, low, ..] => Some((Escaped::Byte((hex(*high)? << 4 | hex(*low)?) as u8), 3)),
        [b'u', digits @ ..] => unicode(digits),
        [b'n', ..] => byte(b'\n'),
        [b'r', ..] => byte(b'\r'),
        [b't', ..] => byte(b'\t'),
        [b'b', ..] => byte(8),
        [b'f', ..] => byte(12),
        [same @ (b'"' | b'\\' | b'/'), ..] => byte(*same),
        _ => None,
    }
}

/// Reads the four digits after `\u`, or a surrogate pair of two such escapes.
fn unicode(digits: &[u8]) -> Option<(Escaped, usize)> {
    let unit = four_hex(digits)?;
    if let Some(char) = char::from_u32(unit) {
        return Some((Escaped::Char(char), 5));
    }
    let low = four_hex(digits.get(4..)?.strip_prefix(b"\\u")?)?;
    let char = char::decode_utf16([unit as u16, low as u16]).next()?.ok()?;
    Some((Escaped::Char(char), 11))
}

fn four_hex(digits: &[u8]) -> Option<u32> {
    digits.first_chunk::<4>()?.iter().try_fold(0, |value, digit| Some(value << 4 | hex(*digit)?))
}

fn hex(digit: u8) -> Option<u32> {
    char::from(digit).to_digit(16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_replaced_and_everything_else_is_kept() {
        let check = |text: &[u8], expected: &[u8]| assert_eq!(unescape(text).as_ref(), expected, "{text:?}");
        check(b"/plain", b"/plain");
        check(br"\x16\x03\xff", b"\x16\x03\xff");
        check(br#"a\"b\\c\/d"#, br#"a"b\c/d"#);
        check(br"\n\r\t\b\f", b"\n\r\t\x08\x0c");
        check(br"\u00e9\ud83d\ude00", "é😀".as_bytes());
        check(br"\ud83d", br"\ud83d");
        check(br"\ud83d\u0041", br"\ud83dA");
        check(br"\q\xg1\u12", br"\q\xg1\u12");
        check(b"end\\", b"end\\");
    }

    proptest::proptest! {
        /// The fast reader of a text up to its quote does what the two slow ones do.
        #[test]
        fn unescaping_until_the_quote_is_the_same(text in "([ -~é]|\\\\[\"\\\\/nrtbfux]|\\\\u[0-9a-f]{4}|\\\\ud83d\\\\ude00){0,30}\"?[a-z]{0,9}", before in "[a-z]{0,3}") {
            let text = text.as_bytes();
            let slow = closing_quote(text, 0).map(|end| (unescape(&text[..end]).into_owned(), &text[end + 1..]));
            let mut plain = before.clone().into_bytes();
            let fast = unescape_until_quote(text, &mut plain);
            proptest::prop_assert_eq!(fast, slow.as_ref().map(|(_, rest)| *rest));
            if let Some((expected, _)) = slow {
                proptest::prop_assert_eq!(plain, [before.as_bytes(), &expected].concat());
            }
        }
    }

    #[test]
    fn a_byte_is_found_wherever_it_is() {
        for len in 0..70 {
            let mut text = vec![b'!'; len];
            assert_eq!(find(&text, 0, b'"'), None, "{len}");
            for at in 0..len {
                text[at] = b'"';
                assert_eq!(find(&text, 0, b'"'), Some(at));
                assert_eq!(closing_quote(&text, 0), Some(at));
                assert_eq!(find(&text, at + 1, b'"'), None);
                assert_eq!(find(&text, at / 2, b'"'), Some(at));
                text[at] = b'#';
            }
        }
    }

    #[test]
    fn an_escaped_quote_does_not_close() {
        assert_eq!(closing_quote(br#"a\"b\\" c"#, 0), Some(6));
        assert_eq!(closing_quote(br#"a\"b"#, 0), None);
        assert_eq!(closing_quote(b"a\\", 0), None);
    }
}
