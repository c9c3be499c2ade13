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
pub(crate) fn unescape_until_quote<'a>(text: &'a [u8], plain: &mut Vec<u8>) -> Option<&'a [u8]> {
    let mut rest = text;
    loop {
        let end = memchr::memchr2(b'"', b'\\', rest)?;
        let (head, after) = rest.split_at(end);
        plain.extend_from_slice(head);
        let (byte, after) = after.split_first()?;
        if *byte == b'"' {
            return Some(after);
        }
        let len = match escape(after) {
            Some((escaped, len)) => {
                escaped.push_to(plain);
                len
            }
            None => {
                plain.push(*byte);
                0
            }
        };
        rest = after.get(len..)?;
    }
}

/// Returns the first `"` at or after `from` that no backslash escapes.
pub(crate) fn closing_quote(text: &[u8], from: usize) -> Option<usize> {
    let mut at = from;
    loop {
        let found = at + memchr::memchr2(b'"', b'\\', text.get(at..)?)?;
        if text.get(found) == Some(&b'"') {
            return Some(found);
        }
        at = found + 2;
    }
}

enum Escaped {
    Byte(u8),
    Char(char),
}

impl Escaped {
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

    #[test]
    fn an_escaped_quote_does_not_close() {
        assert_eq!(closing_quote(br#"a\"b\\" c"#, 0), Some(6));
        assert_eq!(closing_quote(br#"a\"b"#, 0), None);
        assert_eq!(closing_quote(b"a\\", 0), None);
    }
}
