//! The request line (`GET /path HTTP/1.1`) where a log has it in one field.

use memchr::memrchr;

use super::template::request::{split, without_dash};

/// Splits the value of a path field that holds the whole request line; `None` when it is a path.
///
/// A path begins with `/`, and no path ends with a protocol, so the two cannot be confused.
#[inline]
pub(crate) fn split_whole(path: &[u8]) -> Option<(&[u8], &[u8])> {
    if path.first().is_none_or(|first| !first.is_ascii_alphabetic()) {
        return None;
    }
    let last_at = memrchr(b' ', path)?;
    let (method, target) = split(path);
    let is_method = method.iter().all(|byte| byte.is_ascii_alphabetic() || matches!(byte, b'-' | b'_'));
    let ends_in_protocol = path.get(last_at + 1..)?.starts_with(b"HTTP/") && method.len() < last_at;
    // HTTP/0.9 has no protocol.
    (is_method && (ends_in_protocol || target.starts_with(b"/"))).then_some((method, target))
}

/// Returns method and target of a request from the fields that a log has: each of the three may be missing.
#[inline]
pub(crate) fn of_fields<'t>(method: &'t [u8], path: &'t [u8], request: &'t [u8]) -> (&'t [u8], &'t [u8]) {
    let (method, path) = (without_dash(method), without_dash(path));
    if let Some((first, target)) = split_whole(path) {
        return (if method.is_empty() { first } else { method }, target);
    }
    if request.is_empty() {
        return (method, path);
    }
    if request.first() == Some(&b'/') {
        // Apache's `%U` under the name of `%r`.
        return (method, if path.is_empty() { request } else { path });
    }
    let (first, target) = split(request);
    (if method.is_empty() { first } else { method }, if path.is_empty() { target } else { path })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_put_together_from_the_fields_that_a_log_has() {
        let check = |[method, path, request]: [&str; 3], expected: (&str, &str)| {
            let (method, target) = of_fields(method.as_bytes(), path.as_bytes(), request.as_bytes());
            assert_eq!(
                (String::from_utf8_lossy(method), String::from_utf8_lossy(target)),
                (expected.0.into(), expected.1.into())
            );
        };
        check(["GET", "/a", ""], ("GET", "/a"));
        check(["", "", "GET /a?b HTTP/1.1"], ("GET", "/a?b"));
        check(["", "GET /a b HTTP/2.0", ""], ("GET", "/a b"));
        check(["", "GET /old", ""], ("GET", "/old"));
        check(["POST", "POST /a HTTP/3.0", ""], ("POST", "/a"));
        check(["", "", "GET /old"], ("GET", "/old"));
        check(["", "", "\u{16}\u{3}"], ("", "\u{16}\u{3}"));
        check(["", "", "-"], ("", ""));
        check(["-", "-", ""], ("", ""));
        check(["", "/a", "GET /b HTTP/1.1"], ("GET", "/a"));
        check(["", "/GET /x HTTP/1.1", ""], ("", "/GET /x HTTP/1.1"));
        check(["", "GET HTTP/1.1", ""], ("", "GET HTTP/1.1"));
        check(["", "x y", ""], ("", "x y"));
        check(["GET", "", "/a b"], ("GET", "/a b"));
        check(["CONNECT", "192.0.2.1:443", ""], ("CONNECT", "192.0.2.1:443"));
    }
}
