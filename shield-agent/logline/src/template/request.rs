//! The request line (`GET /path HTTP/1.1`).

use memchr::memrchr;

use crate::text::find;

/// Splits `METHOD PATH PROTOCOL` into method and path. A malformed request (`-`, TLS sent to the HTTP port) has no method,
/// and its text, if there is any, is the path.
pub(crate) fn split(request: &[u8]) -> (&[u8], &[u8]) {
    let Some(first) = find(request, 0, b' ') else { return (b"", without_dash(request)) };
    let (method, rest) = request.split_at(first);
    let rest = rest.get(1..).unwrap_or_default();
    // Nearly always; looking for the last blank costs more.
    if let Some((path, [b' ', b'H', b'T', b'T', b'P', b'/', major, b'.', minor])) =
        rest.split_last_chunk::<9>()
        && *major != b' '
        && *minor != b' '
    {
        return (method, path);
    }
    let end =
        memrchr(b' ', rest).filter(|at| rest.get(at + 1..).is_some_and(|proto| proto.starts_with(b"HTTP/")));
    (method, rest.get(..end.unwrap_or(rest.len())).unwrap_or_default())
}

/// Takes nginx's sign for an empty variable for an empty text.
pub(crate) fn without_dash(text: &[u8]) -> &[u8] {
    if text == b"-" { b"" } else { text }
}
