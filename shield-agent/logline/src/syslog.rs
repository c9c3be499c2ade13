//! What other programs put before a line: syslog in the datagrams that nginx sends and in files that its daemon writes, and
//! programs that run several others, the name of the one that wrote the line (`nginx.1    | `, in colour).

use memchr::memchr;

/// Strips the header `<PRI>Mon dd hh:mm:ss HOST TAG: ` from a syslog datagram. With nginx's `nohostname` HOST is missing.
///
/// The header ends at the first `: `, because nginx writes it and neither host nor tag can contain one.
pub fn message(datagram: &[u8]) -> &[u8] {
    let end = memchr::memmem::find(datagram, b": ").filter(|_| datagram.first() == Some(&b'<'));
    let text = end.and_then(|end| datagram.get(end + 2..)).unwrap_or(datagram);
    text.strip_suffix(b"\n").unwrap_or(text)
}

/// Strips the header from a line of a file: RFC 3164 or RFC 5424, with or without `<PRI>`, rsyslog's with an ISO time, or the
/// name of a process. Returns `None` when there is none.
pub(crate) fn without_header(line: &[u8]) -> Option<&[u8]> {
    let first = *line.first()?;
    if matches!(first, ESCAPE | b'a'..=b'z') {
        return after_process(line);
    }
    let text = match first {
        b'<' => after_priority(line)?,
        b'A'..=b'Z' => line,
        b'0'..=b'9' if line.get(4) == Some(&b'-') => line,
        _ => return None,
    };
    if let Some(text) = text.strip_prefix(b"1 ").filter(|_| first == b'<') {
        return after_structured(text);
    }
    let text = after_time(text)?;
    // `HOST TAG: ` or `TAG: `.
    let (one, rest) = word(text)?;
    if is_tag(one) {
        return Some(rest);
    }
    let (tag, rest) = word(rest)?;
    is_tag(tag).then_some(rest)
}

const ESCAPE: u8 = 0x1b;

/// Skips `NAME.1   | ` or `NAME-1  | ` of a Procfile's runner (nginx-proxy has one) and of `docker compose logs`, and the colours
/// around it.
///
/// The number is part of it: a host, which a client chooses, may stand before a `|` too.
fn after_process(line: &[u8]) -> Option<&[u8]> {
    let text = after_colours(line);
    let is_of_name = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let len = text.iter().position(|byte| !is_of_name(byte))?;
    let (name, rest) = text.split_at(len);
    let digits = name.iter().rev().take_while(|byte| byte.is_ascii_digit()).count();
    let (name, _) = name.split_at(len - digits);
    let is_numbered = digits > 0 && name.len() > 1 && matches!(name.last(), Some(b'.' | b'-' | b'_'));
    let rest = after_colours(after_colours(rest).trim_ascii_start());
    let rest = after_colours(rest.strip_prefix(b"|").filter(|_| is_numbered)?);
    Some(after_colours(rest.strip_prefix(b" ")?))
}

/// Skips sequences like `ESC[36m`.
fn after_colours(mut text: &[u8]) -> &[u8] {
    while let Some(rest) = text.strip_prefix(&[ESCAPE, b'[']) {
        let len = rest.iter().position(|byte| !byte.is_ascii_digit() && *byte != b';');
        match len.and_then(|len| rest.get(len..)) {
            Some([b'm', rest @ ..]) => text = rest,
            _ => break,
        }
    }
    text
}

fn after_priority(line: &[u8]) -> Option<&[u8]> {
    let end = memchr(b'>', line.get(..5)?)?;
    let digits = line.get(1..end)?;
    let is_priority = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    if is_priority { line.get(end + 1..) } else { None }
}

/// Reads the rest of RFC 5424's header: `TIME HOST APP PROCESS ID STRUCTURED `.
fn after_structured(text: &[u8]) -> Option<&[u8]> {
    let (time, mut rest) = word(text)?;
    if time != b"-" && !is_iso(time) {
        return None;
    }
    for _ in 0..4 {
        rest = word(rest)?.1;
    }
    while rest.first() == Some(&b'[') {
        rest = rest.get(element_len(rest)?..)?;
    }
    let text = rest.strip_prefix(b"- ").or_else(|| rest.strip_prefix(b" "))?;
    Some(text.strip_prefix("\u{feff}".as_bytes()).unwrap_or(text))
}

/// The length of `[id name="value" …]`, in whose values `]` has a backslash.
fn element_len(text: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        at += memchr::memchr2(b']', b'\\', text.get(at..)?)?;
        match text.get(at) {
            Some(b']') => return Some(at + 1),
            _ => at += 2,
        }
    }
}

/// Skips `Mon dd hh:mm:ss ` or an ISO time.
fn after_time(text: &[u8]) -> Option<&[u8]> {
    const MONTHS: &[u8; 36] = b"JanFebMarAprMayJunJulAugSepOctNovDec";
    if let Some((head, rest)) = text.split_at_checked(16)
        && let [month @ .., b' ', d0, d1, b' ', _, _, b':', _, _, b':', _, _, b' '] = head
    {
        let is_day = (d0.is_ascii_digit() || *d0 == b' ') && d1.is_ascii_digit();
        let is_month = MONTHS.chunks_exact(3).any(|name| name == month);
        return (is_month && is_day).then_some(rest);
    }
    let (time, rest) = word(text)?;
    is_iso(time).then_some(rest)
}

fn is_iso(word: &[u8]) -> bool {
    matches!(word, [_, _, _, _, b'-', _, _, b'-', _, _, b'T', _, _, b':', ..])
        && crate::time::parse(word).is_some()
}

/// Splits off the text before the first blank.
fn word(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let (word, rest) = text.split_at(memchr(b' ', text)?);
    Some((word, rest.get(1..)?))
}

/// `nginx:` or `nginx[123]:`. An address that ends in a colon (`2001:db8::`) is none.
fn is_tag(word: &[u8]) -> bool {
    let Some(tag) = word.strip_suffix(b":") else { return false };
    let name = match tag.strip_suffix(b"]").and_then(|tag| memchr(b'[', tag)) {
        Some(end) => tag.get(..end).unwrap_or_default(),
        None => tag,
    };
    let is_of_name = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'/');
    !name.is_empty() && name.iter().all(is_of_name)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = r#"{"source_ip":"192.0.2.7","timestamp":1795530901,"status":200}"#;

    #[test]
    fn the_syslog_header_is_cut_off() {
        let check = |datagram: &str, expected: &str| {
            assert_eq!(message(datagram.as_bytes()), expected.as_bytes(), "{datagram}");
        };
        check(&format!("<190>Nov 24 14:35:01 web nginx: {LINE}"), LINE);
        check(&format!("<190>Nov 24 14:35:01 nginx: {LINE}\n"), LINE);
        check(LINE, LINE);
    }

    #[test]
    fn headers_in_files_are_cut_off_in_every_form() {
        let check = |header: &str| {
            let line = format!("{header}{LINE}");
            let found = without_header(line.as_bytes()).map(String::from_utf8_lossy);
            assert_eq!(found.as_deref(), Some(LINE), "{header}");
        };
        check("Nov 24 14:35:01 web nginx: ");
        check("Nov  4 14:35:01 web nginx[71]: ");
        check("Nov  4 14:35:01 nginx: ");
        check("<190>Nov 24 14:35:01 web nginx: ");
        check("2026-11-24T14:35:01.123456+00:00 web nginx: ");
        check("2026-11-24T14:35:01Z web.example.org app/nginx[7]: ");
        check("<190>1 2026-11-24T14:35:01.003Z web nginx 71 - - ");
        check("<190>1 - - nginx - - - \u{feff}");
        check(r#"<13>1 2026-11-24T14:35:01Z web nginx 71 id [a@1 b="c\] d"][e@2] "#);
        check("nginx.1     | ");
        check("web-1  | ");
        check("\u{1b}[36mnginx.1    | \u{1b}[0m");
        check("\u{1b}[1;36mnginx.12 |\u{1b}[0m ");
        check("\u{1b}[36mshop_web_1   \u{1b}[0m| ");
    }

    #[test]
    fn other_lines_have_no_header() {
        let check = |line: &str| assert_eq!(without_header(line.as_bytes()), None, "{line}");
        check(LINE);
        check("");
        check("192.0.2.7 - - [24/Nov/2026:14:35:01 +0000] \"GET / HTTP/1.1\" 200 1");
        check("2026-11-24T14:35:01+00:00 2001:db8:: - - \"GET / HTTP/1.1\" 200 1");
        check("2026-11-24T14:35:01+00:00 192.0.2.7 \"GET / HTTP/1.1\" 200 1");
        check("<1>1 198.51.100.7 - - [24/Nov/2026:14:35:01 +0000] \"GET / HTTP/1.1\" 200 1");
        check("<x>Nov 24 14:35:01 web nginx: a");
        check("Foo 24 14:35:01 web nginx: a");
        check("Nov 24 14:35:01 web says nothing");
        check("www.example.org 192.0.2.7 - - [24/Nov/2026:14:35:01 +0000] \"GET / HTTP/1.1\" 200 1");
        check("www.example.org | 192.0.2.7 - -");
        check("nginx.1");
        check("nginx.1 |x");
        check("1 | x");
        check("\u{1b}[36m");
        check("\u{1b}[36");
        check("\u{1b}]0;nginx.1 | x");
    }
}
