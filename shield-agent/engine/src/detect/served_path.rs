//! The path that a web server serves for a request target, as nginx works it out: `//login`, `/x/../login`, `/logi%6e` and
//! `http://host/login` are all `/login`. Everything that looks at a path (shapes, hashes, names of logins, endings) looks
//! at this one, or a second spelling of a target would be a second target.
//!
//! Nearly every path is served as written; [`is_as_written`] says so, and costs one scan. `tests/tests/nginx_paths.rs`
//! holds [`resolve`] against a real nginx.

/// What a server makes of a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Served<'p, 't> {
    /// Decoded, without `.`, `..` and repeated slashes. Of a target that is no path (`CONNECT host:443`, garbage), the
    /// target as written.
    pub path: &'p [u8],
    /// With its question mark, as written, without a fragment.
    pub query: &'t [u8],
    pub spelling: Spelling,
}

/// What is peculiar about the way in which a target is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Spelling {
    /// nginx answers 400 whatever is asked for: the path leaves the root, or an escape or a byte is invalid.
    pub is_refused: bool,
    /// Levels by which `..` leaves the root.
    pub above_root: u32,
    /// It escapes characters that no client needs to escape in a path.
    pub is_telling: bool,
    /// It names a scheme and a host, as requests to a proxy do.
    pub has_origin: bool,
}

/// Returns whether a path (without its query) is served exactly as written.
pub fn is_as_written(path: &[u8]) -> bool {
    let is_dots_or_empty = |at| {
        matches!(
            &path[at + 1..],
            [b'/', ..] | [b'.'] | [b'.', b'/', ..] | [b'.', b'.'] | [b'.', b'.', b'/', ..]
        )
    };
    match path.first() {
        Some(b'/') => {
            memchr::memchr2(b'%', b'#', path).is_none()
                && !memchr::memchr_iter(b'/', path).any(is_dots_or_empty)
        }
        // Garbage is its own name, whatever is in it. A letter may begin a scheme.
        Some(first) => !first.is_ascii_alphabetic(),
        None => true,
    }
}

/// Works out what is served for `target`. `space` is overwritten with the path.
pub fn resolve<'p, 't>(target: &'t [u8], space: &'p mut Vec<u8>) -> Served<'p, 't> {
    let without_fragment = &target[..memchr::memchr(b'#', target).unwrap_or(target.len())];
    let origin = origin_of(without_fragment);
    let (origin_len, has_origin) = (origin.map_or(0, |origin| origin.len()), origin.is_some());
    let (path, query) = without_fragment.split_at(
        memchr::memchr(b'?', &without_fragment[origin_len..])
            .map_or(without_fragment.len(), |at| origin_len + at),
    );
    let path = &path[origin_len..];
    space.clear();
    let is_refused = origin.is_some_and(|origin| !is_nginx_origin(origin));
    let mut spelling = Spelling { has_origin, is_refused, ..Spelling::default() };
    match path.first() {
        // `http://host` and `http://host?query`.
        None if has_origin => space.push(b'/'),
        Some(b'/') => normalise(path, space, &mut spelling),
        _ => {
            space.extend_from_slice(path);
            spelling.is_refused = true;
        }
    }
    spelling.is_refused |= path.iter().any(|byte| *byte <= b' ' || *byte == 0x7f);
    spelling.is_telling = is_telling(path);
    Served { path: space, query, spelling }
}

/// The `scheme://host` at the start of a target.
fn origin_of(target: &[u8]) -> Option<&[u8]> {
    let scheme = target.iter().take_while(|byte| byte.is_ascii_alphabetic()).count();
    let host_at = scheme + 3;
    if scheme == 0 || target.get(scheme..host_at)? != b"://" {
        return None;
    }
    let rest = &target[host_at..];
    let end = rest.iter().position(|byte| matches!(byte, b'/' | b'?')).unwrap_or(rest.len());
    Some(&target[..host_at + end])
}

/// Whether nginx reads this origin; other servers read a user and a password too.
fn is_nginx_origin(origin: &[u8]) -> bool {
    let host = origin.splitn(3, |byte| *byte == b'/').nth(2).unwrap_or_default();
    let is_part =
        |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b':' | b'[' | b']');
    !host.is_empty() && host.iter().all(is_part)
}

/// Appends `path`, which begins with a slash, decoded and without `.`, `..` and repeated slashes.
fn normalise(path: &[u8], out: &mut Vec<u8>, spelling: &mut Spelling) {
    // Where the last segment begins in `out`; the byte before it is a slash.
    let mut segment_at = 1;
    out.push(b'/');
    let mut rest = &path[1..];
    while let Some((byte, is_literal)) = next_byte(&mut rest, spelling) {
        if byte == b'/' && !is_literal {
            end_segment(out, &mut segment_at, spelling);
            if out.last() != Some(&b'/') {
                out.push(b'/');
            }
            segment_at = out.len();
        } else {
            out.push(byte);
        }
    }
    end_segment(out, &mut segment_at, spelling);
}

/// Removes the last segment if it is `.`, and the one before it too if it is `..`.
fn end_segment(out: &mut Vec<u8>, segment_at: &mut usize, spelling: &mut Spelling) {
    match &out[*segment_at..] {
        b"." => out.truncate(*segment_at),
        b".." => {
            out.truncate(*segment_at);
            let parent = &out[..*segment_at - 1];
            match memchr::memrchr(b'/', parent) {
                Some(slash) => out.truncate(slash + 1),
                None => {
                    spelling.above_root += 1;
                    spelling.is_refused = true;
                }
            }
        }
        _ => {}
    }
    *segment_at = out.len();
}

/// Takes the next byte off `rest`, decoded once. `true` says that it has no meaning but itself: nginx takes an encoded
/// `%`, `#` or `?` for text, but an encoded slash or dot for a slash or dot.
fn next_byte(rest: &mut &[u8], spelling: &mut Spelling) -> Option<(u8, bool)> {
    let (first, behind) = rest.split_first()?;
    *rest = behind;
    if *first != b'%' {
        return Some((*first, false));
    }
    let digit = |at: usize| char::from(*behind.get(at)?).to_digit(16);
    let Some((high, low)) = digit(0).zip(digit(1)) else {
        // Other servers may serve it as written.
        spelling.is_refused = true;
        return Some((b'%', true));
    };
    *rest = &behind[2..];
    let byte = (high * 16 + low) as u8;
    spelling.is_refused |= byte == 0;
    Some((byte, matches!(byte, b'%' | b'#' | b'?')))
}

/// Whether a path escapes what no client needs to escape: a letter, a digit, a dot, a percent sign before an escaped dot or
/// slash, a control character, `<`, `${`, or the slash of `/etc`. On the labelled logs none of 5,001 legitimate clients did.
fn is_telling(path: &[u8]) -> bool {
    memchr::memchr_iter(b'%', path).any(|at| {
        let mut lower = [0; 5];
        let code = &path[at + 1..(at + 6).min(path.len())];
        for (to, from) in lower.iter_mut().zip(code) {
            *to = from.to_ascii_lowercase();
        }
        let code = &lower[..code.len()];
        is_alphanumeric(code)
            || [&b"2e"[..], b"252e", b"252f", b"0", b"1", b"3c", b"24%7b", b"24{", b"2fetc"]
                .iter()
                .any(|known| code.starts_with(known))
    })
}

/// Whether two hexadecimal digits (lower case) are the code of a letter or a digit.
fn is_alphanumeric(code: &[u8]) -> bool {
    let digit = |at: usize| char::from(*code.get(at)?).to_digit(16);
    digit(0).zip(digit(1)).is_some_and(|(high, low)| ((high * 16 + low) as u8).is_ascii_alphanumeric())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn served(target: &str) -> (String, String, bool) {
        let mut space = vec![b'x'; 9];
        let Served { path, query, spelling } = resolve(target.as_bytes(), &mut space);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (text(path), text(query), spelling.is_refused)
    }

    #[test]
    fn spellings_of_one_path() {
        let check = |target: &str, path: &str, query: &str| {
            assert_eq!(served(target), (path.to_owned(), query.to_owned(), false), "{target}");
        };
        check("/a/b", "/a/b", "");
        check("//////.en%76?1.css", "/.env", "?1.css");
        check("/wp-login.ph%70", "/wp-login.php", "");
        check("/x/../a//./b/", "/a/b/", "");
        check("/a/..", "/", "");
        check("/a/b/.", "/a/b/", "");
        check("/a/%2e%2E/b", "/b", "");
        check("/a%2fb%2f%2f..", "/a/", "");
        check("/a%3fb?c?d", "/a?b", "?c?d");
        check("/a%2523#x?y", "/a%23", "");
        check("/a?b#c", "/a", "?b");
        check("/...", "/...", "");
        check("/.%25", "/.%", "");
        check("http://www.example.org:80/a//b?c", "/a/b", "?c");
        check("HTTPS://[::1]?q", "/", "?q");
        check("http://example.org", "/", "");
    }

    #[test]
    fn what_nginx_refuses_is_still_read() {
        let check = |target: &str, path: &str| {
            assert_eq!(served(target), (path.to_owned(), String::new(), true), "{target}");
        };
        check("/../about.php", "/about.php");
        check("/a/../../../b", "/b");
        check("/100%", "/100%");
        check("/%zz/%4", "/%zz/%4");
        check("/a%00b", "/a\0b");
        check("/a b", "/a b");
        check("http://user:secret@example.org/a", "/a");
        check("example.org:443", "example.org:443");
        check("", "");
    }

    #[test]
    fn spellings_that_tell() {
        let spelling = |target: &str| resolve(target.as_bytes(), &mut Vec::new()).spelling;
        for target in [
            "/%2e%2e/x",
            "/x%0Ay",
            "/wp-login.ph%70",
            "/%31",
            "/a%252fb",
            "/%2fetc/x",
            "/%3Cb",
            "/%24%7Bx%7D",
        ] {
            assert!(spelling(target).is_telling, "{target}");
        }
        for target in ["/a%20b", "/%7Euser", "/caf%C3%A9", "/a%2Fb", "/100%25", "/a%2Db", "/?q=%61"] {
            assert!(!spelling(target).is_telling, "{target}");
        }
        assert_eq!(spelling("/a/../../../b").above_root, 2);
        assert!(spelling("http://host/x").has_origin && !spelling("/http://host/x").has_origin);
    }

    /// Decodes all of it first, then walks a list of segments: slow, and plain to see.
    fn model(path: &[u8]) -> Option<Vec<u8>> {
        // Decoded bytes without a meaning of their own are kept apart from those with one.
        let mut decoded: Vec<(u8, bool)> = Vec::new();
        let mut at = 0;
        while at < path.len() {
            if path[at] == b'%' {
                let code = std::str::from_utf8(path.get(at + 1..at + 3)?).ok()?;
                let is_hex = code.bytes().all(|byte| byte.is_ascii_hexdigit());
                let byte = u8::from_str_radix(code, 16).ok().filter(|byte| is_hex && *byte != 0)?;
                decoded.push((byte, matches!(byte, b'%' | b'#' | b'?')));
                at += 3;
            } else {
                decoded.push((path[at], false));
                at += 1;
            }
        }
        let mut kept: Vec<Vec<u8>> = Vec::new();
        let segments: Vec<Vec<u8>> = decoded
            .split(|(byte, _)| *byte == b'/')
            .map(|segment| segment.iter().map(|(byte, _)| *byte).collect())
            .collect();
        for segment in &segments {
            match &segment[..] {
                b"" | b"." => {}
                b".." => {
                    kept.pop()?;
                }
                _ => kept.push(segment.clone()),
            }
        }
        let mut text = Vec::new();
        for segment in &kept {
            text.push(b'/');
            text.extend_from_slice(segment);
        }
        let is_directory = matches!(&segments[segments.len() - 1][..], b"" | b"." | b"..");
        if is_directory || text.is_empty() {
            text.push(b'/');
        }
        Some(text)
    }

    proptest! {
        #[test]
        fn a_path_resolves_as_the_model_says(
            pieces in prop::collection::vec(prop::sample::select(vec![
                "/", "/", ".", "..", "a", "b.css", "%2e", "%2F", "%25", "%3f", "%23", "%61", "%0", "%zz", "%00", "\u{e9}",
            ]), 0..14),
        ) {
            let path = format!("/{}", pieces.concat());
            let mut space = Vec::new();
            let served = resolve(path.as_bytes(), &mut space);
            prop_assert_eq!((!served.spelling.is_refused).then(|| served.path.to_vec()), model(path.as_bytes()));
            if is_as_written(path.as_bytes()) {
                prop_assert_eq!(served.path, path.as_bytes());
            }
        }

        #[test]
        fn any_bytes_resolve_to_a_path_that_stays_below_the_root(target in prop::collection::vec(any::<u8>(), 0..60)) {
            let mut space = Vec::new();
            let Served { path, query, .. } = resolve(&target, &mut space);
            prop_assert!(path.len() + query.len() <= target.len() + 1, "{path:?}");
            if path.first() == Some(&b'/') {
                prop_assert!(!path.split(|byte| *byte == b'/').any(|segment| segment == b".." || segment == b"."));
            }
        }
    }
}
